"""The architecture as a test: who may import whom, and what `import mdn` may not do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mdn"

# A module imports only from strictly lower floors. A folder counts as its module.
FLOORS = {
    "functional": 1,
    "train": 1,
    "tables": 1,
    "standardization": 1,
    "datasets": 1,
    "io": 1,
    "distribution": 2,
    "prediction": 2,
    "nn": 3,
    "scoring": 3,
    "simulators": 3,
    "calibration": 4,
    "plot": 4,
    "estimator": 5,
    "explain": 6,
    "interop": 6,
    "tuning": 6,
    "demo": 7,
    "cli": 8,
    "__main__": 9,
}
# The face (mdn/__init__.py) hands out names of floors 1 to 6, so only floors above may use it.
FACE = "__init__"
FACE_FLOOR = 6

# Libraries that a single module keeps to itself.
ONLY_IN = {"matplotlib": "plot", "sklearn": "estimator"}

# What the face may load only when one of its names is first used.
LAZY = {
    "estimator",
    "explain",
    "plot",
    "demo",
    "interop",
    "simulators",
    "tuning",
    "cli",
    "__main__",
}

FILES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """One absolute dotted name that a file imports, and where."""

    name: str
    line: int
    at_import_time: bool  # not inside a function


def module_of(path: Path) -> str:
    """Return the module of a file, where a folder counts as its module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Yield every import that can run, with relative ones resolved against `package`.

    Imports under `if TYPE_CHECKING:` never run and cannot close a circle, so they do not count.
    """

    def walk(node: ast.AST, at_import_time: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from walk(child, at_import_time)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import_time)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{origin}.{alias.name}", node.lineno, at_import_time)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import_time and not is_function)

    yield from walk(ast.parse(source), True)


def package_of(path: Path) -> str:
    """Return the dotted package that a relative import in the file starts from."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def target_module(name: str) -> str | None:
    """Return the module of mdn that a dotted name reaches; None if it is another library's."""
    parts = name.split(".")
    if parts[0] != "mdn" or name == "mdn.__version__":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else FACE


def violations(module: str, source: str, package: str) -> list[str]:
    """Return one line for each import that breaks a rule; empty if the file keeps to its floor."""
    found = []
    for item in imports_of(source, package):
        library = item.name.split(".")[0]
        if ONLY_IN.get(library, module) != module:
            found.append(f"line {item.line}: {library} belongs in mdn.{ONLY_IN[library]} only")
        target = target_module(item.name)
        if target is None or target == module:
            continue
        floor = FACE_FLOOR if target == FACE else FLOORS[target]
        if floor >= FLOORS[module]:
            found.append(
                f"line {item.line}: mdn.{module} (floor {FLOORS[module]}) imports "
                f"{item.name} (floor {floor})"
            )
    return found


def test_every_file_has_a_floor() -> None:
    """A module without a floor escapes the rules, so a new one must be entered in the table."""
    assert FILES
    assert {module_of(path) for path in FILES} - {FACE} <= FLOORS.keys()


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path != PACKAGE / "__init__.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_come_from_strictly_lower_floors(path: Path) -> None:
    """No file knows its equals or those above it, so there are no circles."""
    source = path.read_text(encoding="utf-8")
    assert violations(module_of(path), source, package_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source", "n_violations"),
    [
        ("nn", "from mdn.distribution import GaussianMixture", 0),
        ("nn", "from mdn import functional, __version__", 0),
        ("nn", "from .functional import nll", 0),
        ("nn", "if TYPE_CHECKING:\n    from mdn.estimator import MDNRegressor", 0),
        ("nn", "import numpy, torch.nn", 0),
        ("nn", "from mdn.nn import MDN", 0),
        ("cli", "import mdn", 0),
        ("nn", "from mdn.scoring import nll", 1),
        ("nn", "from mdn import explain, plot", 2),
        ("nn", "from . import estimator", 1),
        ("nn", "import mdn", 1),
        ("nn", "from mdn import GaussianMixture", 1),
        ("nn", "def f():\n    from mdn.estimator import MDNRegressor", 1),
        ("nn", "if TYPE_CHECKING:\n    pass\nelse:\n    import mdn.cli", 1),
        ("nn", "import matplotlib.pyplot as plt", 1),
        ("plot", "import matplotlib.pyplot as plt", 0),
        ("cli", "from sklearn.base import clone", 1),
    ],
)
def test_the_layer_check_finds_what_it_looks_for(
    module: str, source: str, n_violations: int
) -> None:
    """The checker itself: it counts the forbidden imports and lets the allowed ones pass."""
    assert len(violations(module, source, "mdn")) == n_violations


def test_relative_imports_resolve_inside_a_folder() -> None:
    """`.` is the folder's own module, `..` its floor neighbours."""
    assert violations("functional", "from ._gaussian import nll", "mdn.functional") == []
    assert len(violations("functional", "from ..nn import MDN", "mdn.functional")) == 1
    assert violations("nn", "from ..functional import nll", "mdn.nn") == []


def test_the_face_imports_its_heavy_modules_lazily() -> None:
    """`import mdn` must not pay for scikit-learn, matplotlib or the command line."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    eager = {target_module(item.name) for item in imports_of(source, "mdn") if item.at_import_time}
    assert eager & LAZY == set()


def test_import_loads_no_heavy_library_and_leaves_global_state_alone() -> None:
    """`import mdn` in a fresh process: nobody else's settings or random numbers change."""
    code = """
import json, random, sys
import numpy as np
import torch

def state():
    rng = np.random.get_state()
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "validation": torch.distributions.Distribution._validate_args,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": [rng[0], rng[1].tolist(), *rng[2:]],
        "python random": str(random.getstate()),
        "numpy errors": np.geterr(),
        "numpy printing": str(np.get_printoptions()),
    }

before = state()
import mdn
after = state()
heavy = {"matplotlib", "pandas", "sklearn", "rich", "typer"}
print(json.dumps({
    "file": mdn.__file__,
    "loaded": sorted(heavy & {name.split(".")[0] for name in sys.modules}),
    "changed": [key for key in before if before[key] != after[key]],
}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["file"] == str(PACKAGE / "__init__.py")
    assert told["loaded"] == []
    assert told["changed"] == []

"""The architecture as a test: who may import whom, and what `import mdn` may not do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

import mdn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mdn"

# A module imports only from strictly lower floors. A folder counts as its module.
FLOORS = {
    "warnings": 0,
    "arguments": 0,
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
    "evaluation": 7,
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

# Private attributes of torch that files of mdn define as well.
LIBRARY_ATTRIBUTES = {"_C", "_validate_args"}

FILES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """One absolute dotted name that a file imports, and where."""

    name: str
    line: int
    at_import_time: bool  # not inside a function


def module_of(path: Path) -> str:
    """Return the module of a file, where a folder counts as its module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str, package: str, *, typing_too: bool = False) -> Iterator[Import]:
    """Yield every import that can run, with relative ones resolved against `package`.

    Imports under `if TYPE_CHECKING:` never run; they count only if `typing_too`.
    """

    def walk(node: ast.AST, at_import_time: bool) -> Iterator[Import]:
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if typing_only and not typing_too:
            assert isinstance(node, ast.If)
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


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def private_imports(module: str, source: str, package: str) -> list[str]:
    """Return one line for each private name that is imported from another folder.

    A file of a folder may have a private name; what is taken out of it may not.
    """
    return [
        f"line {item.line}: {item.name} is private to mdn.{target_module(item.name)}"
        for item in imports_of(source, package, typing_too=True)
        if target_module(item.name) not in (None, module) and is_private(item.name.split(".")[-1])
    ]


def private_definitions(source: str) -> set[str]:
    """Return the private names that a file defines: functions, classes, methods, attributes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if is_private(name)}


def private_attributes(source: str) -> list[tuple[int, str]]:
    """Return line and name of each private attribute that is asked of another object than self."""
    return [
        (node.lineno, node.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and is_private(node.attr)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Return the names along a circle of imports; empty if there is none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for other in sorted(imports.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in sorted(imports) if (found := visit(name, []))), [])


def imports_inside(folder: Path) -> dict[str, set[str]]:
    """Return for each file of a folder the files of that folder that it imports."""
    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    prefix = f"mdn.{folder.name}."
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.py"):
        items = imports_of(path.read_text(encoding="utf-8"), package_of(path), typing_too=True)
        inside = {
            i.name.removeprefix(prefix).split(".")[0] for i in items if i.name.startswith(prefix)
        }
        # a name that is no file is one of the folder's public names, which its __init__ collects
        found[path.stem] = {name if name in names else "__init__" for name in inside}
    return found


def test_every_file_has_a_floor() -> None:
    """A module without a floor escapes the rules, so a new one must be entered in the table."""
    assert FILES
    assert {module_of(path) for path in FILES} - {FACE} <= FLOORS.keys()


def test_every_floor_has_a_file() -> None:
    """A floor of a module that is gone describes a building that does not stand."""
    assert FLOORS.keys() <= {module_of(path) for path in FILES}


def test_the_picture_of_the_architecture_shows_every_module_on_its_floor() -> None:
    """docs/architecture.md shows the floors of this test; __main__ only calls the cli."""
    root = ElementTree.parse(ROOT / "docs" / "images" / "architecture.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    shown = {
        text.text: int(group.attrib["id"].removeprefix("floor-"))
        for group in root.iter(f"{svg}g")
        for text in group.iter(f"{svg}text")
        if text.get("class") == "name"
    }
    assert shown == {name: floor for name, floor in FLOORS.items() if name != "__main__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_is_imported_from_another_folder(path: Path) -> None:
    """What another folder uses has a public name, which its file lists."""
    source = path.read_text(encoding="utf-8")
    assert private_imports(module_of(path), source, package_of(path)) == []


def test_no_private_attribute_is_asked_of_an_object_of_another_folder() -> None:
    """An attribute with an underscore is asked only where a file of the same folder defines it.

    Private attributes of other libraries, which no file of mdn defines, are not looked at.
    """
    sources = {path: path.read_text(encoding="utf-8") for path in FILES}
    defined: dict[str, set[str]] = {}
    for path, source in sources.items():
        defined.setdefault(module_of(path), set()).update(private_definitions(source))
    everywhere = set().union(*defined.values())
    found = [
        f"{path.relative_to(PACKAGE)}, line {line}: {name}"
        for path, source in sources.items()
        for line, name in private_attributes(source)
        if name in everywhere - defined[module_of(path)] - LIBRARY_ATTRIBUTES
    ]
    assert found == []


@pytest.mark.parametrize(
    "folder",
    [path for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").is_file()],
    ids=lambda path: path.name,
)
def test_no_circle_inside_a_folder(folder: Path) -> None:
    """The files of a folder have an order too, in which a reader can read them."""
    assert circle(imports_inside(folder)) == []


@pytest.mark.parametrize(
    ("module", "source", "n_found"),
    [
        ("nn", "from ..distribution import GaussianMixture", 0),
        ("nn", "from ..distribution._base import Base", 0),
        ("nn", "from ._heads import _raw", 0),
        ("nn", "from mdn.nn._heads import _raw", 0),
        ("nn", "from torch.distributions import _private", 0),
        ("nn", "from ..distribution._base import __doc__", 0),
        ("nn", "from ..distribution._base import _checked", 1),
        ("nn", "from ..distribution import _base", 1),
        ("nn", "def f():\n    from mdn.functional._full import _solve", 1),
        ("nn", "if TYPE_CHECKING:\n    from ..functional._full import _solve, solve", 1),
    ],
)
def test_the_check_of_private_imports_finds_what_it_looks_for(
    module: str, source: str, n_found: int
) -> None:
    """The checker itself: it counts private names of other folders and lets all others pass."""
    assert len(private_imports(module, source, f"mdn.{module}")) == n_found


def test_the_check_of_private_attributes_finds_what_it_looks_for() -> None:
    """Attributes of self pass; those of anything else are listed with their line."""
    source = (
        "class A:\n    def f(self, other):\n        self._x = other._y\n        return g()._z.w"
    )
    assert private_attributes(source) == [(3, "_y"), (4, "_z")]
    assert private_definitions(source + "\n_k = 1\ndef _h(): pass") == {"_x", "_k", "_h"}


def test_the_check_of_circles_finds_what_it_looks_for() -> None:
    """A circle of three, one of a file with itself, and none."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b"}, "b": {"b"}}) == ["b", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


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


def loaded_by(code: str) -> set[str]:
    """The libraries that a fresh process has loaded after some lines of code."""
    code += "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_the_face_and_the_command_line_load_no_torch() -> None:
    """`import mdn` costs next to nothing, and `mdn --help` what its parser costs."""
    heavy = {"matplotlib", "numpy", "pandas", "rich", "scipy", "sklearn", "torch"}
    assert loaded_by("import mdn, mdn.__main__") & {*heavy, "typer"} == set()
    help_text = "from mdn.__main__ import main\nassert main(['--help']) == 0"
    assert loaded_by(help_text) & heavy == set()


def test_fit_loads_neither_the_compiler_nor_the_algebra_of_torch() -> None:
    """torch's own optimizers import the compiler when they are made, which takes about a second.

    Its broadcast_shapes, and gradients given to backward, import sympy, which takes half of one.
    """
    code = """
import sys
import numpy as np
import mdn
X = np.random.default_rng(0).normal(size=(60, 2))
model = mdn.MDNRegressor(preset="fast", ensemble_size=4, max_epochs=2).fit(X, X[:, 0])
model.predict_interval(X), model.predict_mode(X), model.predict_crps(X, X[:, 0])
module = mdn.MDN(2)
assert "sklearn" in sys.modules and not {"torch._dynamo", "sympy"} & sys.modules.keys()
import torch
mdn.fit(module, (torch.zeros(9, 2), torch.zeros(9, 1)), max_epochs=1)
assert "torch._dynamo" not in sys.modules
"""
    loaded_by(code)


def test_the_face_has_every_name_and_type_checkers_see_the_same() -> None:
    """Each name of ``__all__`` is what its module has under it, as the imports for types say."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    typed = {
        item.name.split(".")[-1]: item.name
        for item in imports_of(source, "mdn", typing_too=True)
        if item.name.startswith("mdn.")
    }
    assert typed.keys() == set(mdn.__all__)
    assert len(mdn.__all__) == len(set(mdn.__all__))
    assert set(mdn.__all__) <= set(dir(mdn))
    for name, origin in typed.items():
        module, _, last = origin.rpartition(".")
        known = import_module(origin) if module == "mdn" else getattr(import_module(module), last)
        assert getattr(mdn, name) is known
    names: dict[str, object] = {}
    exec("from mdn import *", names)
    assert typed.keys() <= names.keys()


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
from mdn import (
    MDN, CategoricalHead, GaussianMixture, History, Mixture, TrainingError, fit, functional, load
)
after = state()
heavy = {"matplotlib", "narwhals", "pandas", "polars", "pyarrow", "rich", "sklearn", "typer"}
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

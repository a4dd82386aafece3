"""Settings of the whole test suite, and the code blocks of README.md and docs/*.md as tests."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

# Before torch and matplotlib are imported; the environment also reaches subprocesses.
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

torch.set_num_threads(1)  # the workers share the cores; more threads would only slow them down

# The same examples in every run, and no deadline, since it would test the speed of the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

collect_ignore = ["docs/conf.py", "docs/_build"]
_OPTIONAL = {
    "skpro": "mdn/interop/skpro.py",
    "sbi": "mdn/interop/sbi.py",
    "optuna": "mdn/tuning.py",
}
collect_ignore += [path for name, path in _OPTIONAL.items() if find_spec(name) is None]


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Closes the figures that a test left open; those of a page are kept until the page ends."""
    if item.path.suffix == ".py":
        _close_figures()


@pytest.fixture(autouse=True)
def _validation_stays_on() -> Iterator[None]:
    """Restores the validation of distributions, which ``torch.compile`` switches off globally."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(scope="module", autouse=True)
def _saved_figures_have_no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks every figure that an experiment saves: cut or overlapping texts, crossed legends."""
    if not request.module.__name__.rpartition(".")[2].startswith("test_experiments"):
        yield
        return
    from matplotlib.figure import Figure  # only here: most tests draw nothing

    from tests.figures import faults

    def checked(figure: Figure, name: object, **options: object) -> None:
        found = faults(figure)
        assert not found, f"{name}: {'; '.join(found)}"
        savefig(figure, name, **options)

    savefig = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", checked)
        yield


@pytest.fixture
def ax() -> Axes:
    """Axes of a figure that pyplot knows nothing of."""
    from matplotlib.figure import Figure  # only here: most tests draw nothing

    return Figure().subplots()


def _close_figures() -> None:
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def _enter_page(namespace: dict[str, object]) -> None:
    """Runs a page in an empty folder, so that files it writes are not left in the repository."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(TemporaryDirectory())))
    stack.callback(_close_figures)
    namespace["_page"] = stack


def _leave_page(namespace: dict[str, object]) -> None:
    stack = namespace["_page"]
    if isinstance(stack, contextlib.ExitStack):
        stack.close()


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md", "docs/experiments/*.md"],
    setup=_enter_page,
    teardown=_leave_page,
).pytest()

"""Experiments that show what mixture density networks do, each with numbers, figures and a page.

An experiment is a module with ``MINUTES``, ``DATA``, ``run(seed, fast, *, out, progress, ...)``,
which returns the numbers and draws figures into ``out``, and ``report(numbers)``, which tells them
in Markdown.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import NamedTuple

__all__ = ["NAMES", "About", "about", "load"]

NAMES = (
    "mnist-nll",
    "mnist-cross-entropy",
    "softmax-losses",
    "nllr",
    "label-noise",
    "image-head",
    "inverse-sinusoid",
    "robot-arm",
    "simulators",
    "maximum-likelihood",
    "negative-nll",
    "uci",
    "real",
)
"""In the order in which one would read them."""


class About(NamedTuple):
    """What an experiment is.

    Attributes:
        name: as the command line has it.
        shows: one sentence.
        text: the rest of what is said of it, Markdown.
        minutes: of the full run on two cores.
        data: what it needs.
    """

    name: str
    shows: str
    text: str
    minutes: float
    data: str


def load(name: str) -> ModuleType:
    """The module of an experiment; ValueError for a name that is none."""
    if name not in NAMES:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"{__package__}.{name.replace('-', '_')}")


def about(name: str) -> About:
    """What the module says of itself."""
    module = load(name)
    shows, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return About(name, shows, text.strip(), module.MINUTES, module.DATA)

"""Experiments that show what mixture density networks do, each with numbers, figures and a page.

An experiment is a module with ``MINUTES``, ``DATA``, ``run(seed, fast, *, out, progress, ...)``,
which returns the numbers and draws figures into ``out``, and ``report(numbers)``, which formats
the numbers as Markdown.
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
    "optimizers",
    "softmax-losses",
    "log-likelihood",
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
"""The experiments, in the order in which to read them."""


class About(NamedTuple):
    """The description of an experiment.

    Attributes:
        name: the name on the command line.
        shows: what it shows, one sentence.
        text: the rest of the description, Markdown.
        minutes: duration of the full run on one core.
        data: the data it needs.
    """

    name: str
    shows: str
    text: str
    minutes: float
    data: str


def load(name: str) -> ModuleType:
    """Returns the module of an experiment; raises ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"{__package__}.{name.replace('-', '_')}")


def about(name: str) -> About:
    """Returns the description of an experiment, from its module."""
    module = load(name)
    shows, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return About(name, shows, text.strip(), module.MINUTES, module.DATA)

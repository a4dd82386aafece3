"""The warnings of mdn, each pointing at the caller's line: :func:`warn`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["DataWarning", "MDNWarning", "TrainingWarning", "once", "warn"]


class MDNWarning(UserWarning):
    """Whatever mdn warns of; ``warnings.simplefilter("ignore", mdn.MDNWarning)`` silences it."""


class DataWarning(MDNWarning):
    """Values of X or y for which a model or a score says less than it seems to."""


class TrainingWarning(MDNWarning):
    """Training that ended early, or a model that lacks a part for want of time."""


# Frames of these packages stand between the user's line and the place that warns.
_SKIPPED = ("mdn", "sklearn", "joblib", "torch", "contextlib")
_given: ContextVar[set[str] | None] = ContextVar("given", default=None)


@contextmanager
def once() -> Iterator[None]:
    """Inside, :func:`warn` gives each text once; an inner ``once`` belongs to the outer one."""
    if _given.get() is not None:
        yield
        return
    token = _given.set(set())
    try:
        yield
    finally:
        _given.reset(token)


def warn(text: str, category: type[MDNWarning]) -> None:
    """Warns at the line outside mdn, scikit-learn and torch that led here.

    Args:
        text: what was found, and what to do.
        category: :class:`DataWarning` or :class:`TrainingWarning`.
    """
    given = _given.get()
    if given is not None:
        if text in given:
            return
        given.add(text)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_skipped(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_skipped(module: str) -> bool:
    return module.split(".")[0] in _SKIPPED

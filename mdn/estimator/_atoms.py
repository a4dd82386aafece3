"""Fits of a target with atoms: a classifier of the atoms, and a density of all other rows.

The likelihood of y falls into two factors, P(which atom, or none | x) and, where it is none, the
density p(y | x, no atom).  They share no parameter, so each is fitted by itself, by all that a fit
has: base models, networks, held-out rows and a stack.  The classifier has base models of its own:
trees with more rows in a leaf, and no Gaussian process.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from ..tables._folds import subset
from ._base_models import Report
from ._model import FittedModel
from ._plan import Settings
from ._state import Floats
from ._target import Choice, Target
from ._training import Rows, train

__all__ = ["train_with_atoms"]

_SHARE = 0.4  # of max_time that the classifier may take


def train_with_atoms(
    rows: Rows, target: Target, settings: Settings, *, start: FittedModel | None, report: Report
) -> FittedModel:
    """Trains what :func:`train` does to the rows off the atoms, and the classifier of the atoms."""
    if not len(target.atoms):
        return train(rows, target, settings, start=start, report=report)
    begin = time.monotonic()
    index: Floats = target.atom_of(rows.y).astype(float)
    val = rows.val and (rows.val[0], target.atom_of(rows.val[1]).astype(float))
    limit = settings.max_time and _SHARE * settings.max_time
    classifier = train(
        rows._replace(y=index, val=val),
        Choice.of(target, index, rows.weight),
        replace(settings, n_components=len(target.atoms) + 1, max_time=limit, classes=True),
        start=start and start.atoms,
        report=lambda stage, done, total: report(f"atoms: {stage}", done, total),
    )
    left = settings.max_time and max(settings.max_time - (time.monotonic() - begin), 1e-3)
    settings = replace(settings, max_time=left)
    off = _off_atoms(rows, target)
    model = train(off, target, settings, start=start, report=report)
    found = replace(model, atoms=classifier)
    if classifier.held_out_nll and model.held_out_nll:
        found.held_out_nll = _sum(classifier.held_out_nll, model.held_out_nll, rows, target)
    return found


def _sum(
    choice: tuple[float, ...], density: tuple[float, ...], rows: Rows, target: Target
) -> tuple[float, float, float]:
    """The held-out NLL of both factors: the density's counts for the rows off the atoms."""
    y, weight = (rows.y, rows.weight) if rows.val is None else (rows.val[1], None)
    share = float(np.average(target.is_off_atoms(y), weights=weight))
    error = math.hypot(choice[1], share * density[1])
    return choice[0] + share * density[0], error, choice[2]


def _off_atoms(rows: Rows, target: Target) -> Rows:
    """The rows that are none of the atoms; weights of mean 1."""
    off, val = target.is_off_atoms(rows.y), rows.val
    weight = None if rows.weight is None else rows.weight[off] / rows.weight[off].mean()
    if val is not None:
        inside = target.is_off_atoms(val[1])
        if not inside.any():
            raise ValueError("eval_set must have rows whose y is none of the atoms; got none")
        val = val[0][inside], val[1][inside]
    groups = subset(rows.groups, off)
    return rows._replace(x=rows.x[off], y=rows.y[off], weight=weight, groups=groups, val=val)

"""Repeated values of y: a warning, and the floor of the scales that rounding calls for.

A density can concentrate on a value that occurs often, and its likelihood is then unbounded.
"""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from ._state import Floats
from ._target import OFF_GRID, Target

__all__ = ["rounding_floor", "warn_of_ties"]

_DISTINCT_SHARE = 0.5  # a target with fewer distinct values than this share of its rows is rounded
_STEP_SHARE = 0.05  # of the step of a rounded target: no scale is smaller
_HARMLESS_FLOOR = 0.05  # min_scale from which on a density cannot concentrate on tied values
_MAX_TIED = 0.1  # share of tied rows from which on the NLL of a density means little
_MIN_TIE, _MIN_TIE_SHARE = 10, 0.01  # rows of one value that make a tie
_COARSE = 0.005  # standard deviations; in a finer grid no density can stand on single values


def rounding_floor(y: Tensor) -> float:
    """Returns the smallest scale that the rounding of y (N, D) justifies; 0 if not rounded."""
    worst = 0.0
    for column in y.numpy().T:
        distinct = np.unique(column)
        if 1 < len(distinct) < _DISTINCT_SHARE * len(column):
            worst = max(worst, _STEP_SHARE * float(np.diff(distinct).min()))
    return worst


def warn_of_ties(target: Target, y: Floats, min_scale: float) -> None:
    """Warns where the height of a density means little: y constant, or many rows on few values."""
    if target.likelihood_is_mass:
        return
    columns = y.reshape(len(y), -1)
    constant = (columns == columns[:1]).all(0)
    if constant.any():
        names = ", ".join(str(i) for i in np.flatnonzero(constant))
        name = "y" if constant.all() else f"y in column {names}"
        warnings.warn(
            f"{name} is constant ({columns[0, constant][0]:g}): the fitted density is as narrow as "
            "its floor allows, and its height says nothing about the data",
            UserWarning,
            stacklevel=3,
        )
    for column in columns[:, ~constant].T if min_scale < _HARMLESS_FLOOR else ():
        values, counts = np.unique(column, return_counts=True)
        steps = np.diff(values)
        # few rows on each value of a coarse grid are as bad as many on some values
        coarse = np.median(steps) > _COARSE * column.std()
        least = _MIN_TIE if coarse else max(_MIN_TIE, _MIN_TIE_SHARE * len(column))
        share = counts[counts >= least].sum() / len(column)
        if share > _MAX_TIED:
            cure = ""
            if columns.shape[1] == 1:  # a step that Target.check takes, or none
                step = float(f"{steps.min():.6g}")
                off = values / step - np.round(values / step)
                if np.abs(off).max() <= OFF_GRID:
                    cure = f"; resolution={step:g} gives"
                else:
                    cure = "; round y to multiples of a step and name that with resolution=, for"
                cure += " the probability of the rounding cell instead"
            warnings.warn(
                f"{share:.0%} of y are tied values ({len(values)} distinct ones in {len(column)} "
                "rows): a density may have a spike at each of them, so its NLL is not meaningful"
                f"{cure}",
                UserWarning,
                stacklevel=3,
            )
            break

"""The resolution of y: its step, and the values that repeat."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..prediction import Floats

__all__ = ["Grid", "find_grid"]

_DECIMALS = 9  # digits of the finest decimal step that is searched for
_NOISE = 1e3  # a step must be so many times coarser than the rounding error of the floats
_OFF_GRID = 0.02  # steps by which a value may miss a grid such as sixtieths, itself rounded
_MOST_CELLS = 1e5  # cells between the least and the greatest y of such a grid
_REPEATED = 0.1  # share of repeated values from which on such a grid is searched for
_LISTED = 3  # repeated values that are listed


class Grid(NamedTuple):
    """How finely y is resolved.

    Attributes:
        rows: number of values.
        distinct: number of different values.
        repeated: share of the rows whose value occurs more than once.
        step: the greatest step whose grid holds every value; None if there is none.
        spacing: the step; without one the median distance of neighbouring values if many values
            repeat, else None.
        anchored: whether the values are multiples of the step.
        heaps: the most frequent repeated values with their counts.
    """

    rows: int
    distinct: int
    repeated: float
    step: float | None
    spacing: float | None
    anchored: bool
    heaps: list[tuple[float, int]]


def find_grid(y: NDArray[np.floating]) -> Grid:
    """Returns the resolution of (N,) values."""
    values, counts = np.unique(y, return_counts=True)
    repeated = float(counts[counts > 1].sum() / len(y))
    top = np.argsort(-counts, kind="stable")[:_LISTED]
    heaps = [(float(values[i]), int(counts[i])) for i in top if counts[i] > 1]
    if len(values) < 2:
        return Grid(len(y), len(values), repeated, None, None, False, heaps)
    step = _decimal_step(values)
    if repeated >= _REPEATED:  # sixtieths with seven digits are on a grid of 1e-7 too
        other = _other_step(values)
        if other is not None and (step is None or other > 1.5 * step):
            step = other
    off = 1.0 if step is None else np.abs(values / step - np.round(values / step)).max()
    anchored = bool(off < 1e-4)  # float32 is off by 1e-7 of the value
    spacing = step
    if step is None and repeated >= _REPEATED:
        spacing = float(np.median(np.diff(values)))
    return Grid(len(y), len(values), repeated, step, spacing, anchored, heaps)


def _decimal_step(values: Floats) -> float | None:
    """Returns the greatest common step of decimal fractions; None if they have too many digits."""
    single = bool((values == values.astype(np.float32)).all())
    noise = float(np.finfo(np.float32 if single else np.float64).eps) * float(np.abs(values).max())
    for k in range(_DECIMALS + 1):
        unit = 10.0**-k
        if unit < _NOISE * noise:
            return None
        scaled = values * 10.0**k
        whole = np.round(scaled)
        if np.abs(scaled - whole).max() <= 4 * noise / unit and np.abs(whole).max() < 2**53:
            return float(np.gcd.reduce((whole - whole[0]).astype(np.int64))) * unit
    return None


def _other_step(values: Floats) -> float | None:
    """Returns the least difference if all differences are multiples of it, such as sixtieths."""
    span = float(values[-1] - values[0])
    cells = round(span / float(np.diff(values).min()))
    if not 0 < cells <= _MOST_CELLS:
        return None
    place = (values - values[0]) * (cells / span)
    return span / cells if np.abs(place - np.round(place)).max() <= _OFF_GRID else None

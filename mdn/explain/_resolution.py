"""The resolution of y: repeated values, its step, and what a density makes of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Grid", "cell_nll", "find_grid"]

Floats = NDArray[np.float64]

_DECIMALS = 9  # finest decimal step that is looked for
_NOISE = 1e3  # steps must be so many times coarser than the rounding of the floats that hold y
_OFF = 0.02  # steps; a grid that is no decimal fraction, as sixtieths, was itself rounded
_MOST_CELLS = 1e5  # cells between the least and the greatest y of such a grid
_TIED = 0.1  # share of repeated values from which on such a grid is looked for
_HEAPS = 3  # heaps that are named


class Grid(NamedTuple):
    """How finely y is resolved.

    Attributes:
        rows: number of values.
        distinct: number of different ones.
        repeated: share of the rows whose value occurs more than once.
        step: on a grid of this step lie all values; None if they do not.
        spacing: the step, or the usual distance of neighbouring values where many repeat; None.
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


def find_grid(y: Floats) -> Grid:
    """Looks at (N,) values."""
    values, counts = np.unique(y, return_counts=True)
    repeated = float(counts[counts > 1].sum() / len(y))
    most = np.argsort(-counts, kind="stable")[:_HEAPS]
    heaps = [(float(values[i]), int(counts[i])) for i in most if counts[i] > 1]
    if len(values) < 2:
        return Grid(len(y), len(values), repeated, None, None, False, heaps)
    step = _decimal_step(values)
    if repeated >= _TIED:  # sixtieths with seven digits are on a grid of 1e-7 too
        other = _other_step(values)
        if other is not None and (step is None or other > 1.5 * step):
            step = other
    off = 1.0 if step is None else np.abs(values / step - np.round(values / step)).max()
    anchored = bool(off < 1e-4)  # float32 is off by 1e-7 of the value
    spacing = step
    if step is None and repeated >= _TIED:
        spacing = float(np.median(np.diff(values)))
    return Grid(len(y), len(values), repeated, step, spacing, anchored, heaps)


def _decimal_step(values: Floats) -> float | None:
    """Greatest step of the differences of decimal fractions; None if there are too many digits."""
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
    """The same for any step, from the least difference; the step of a grid such as sixtieths."""
    span = float(values[-1] - values[0])
    cells = round(span / float(np.diff(values).min()))
    if not 0 < cells <= _MOST_CELLS:
        return None
    place = (values - values[0]) * (cells / span)
    return span / cells if np.abs(place - np.round(place)).max() <= _OFF else None


def cell_nll(dist: Any, y: Tensor, width: float) -> Floats:
    """Minus the log of the probability within half a width of y (N, 1), (N,): 0 or more, nats."""
    low, high = y - 0.5 * width, y + 0.5 * width
    below = dist.log_cdf(low), dist.log_cdf(high)
    above = dist.log_sf(high), dist.log_sf(low)
    left = below[1] < above[1]  # the difference is taken in the tail that holds less
    least, most = (torch.where(left, b, a) for b, a in zip(below, above, strict=True))
    mass = most + torch.log(-torch.expm1((least - most).clamp(max=0.0)))
    # both ends of a cell far outside may be 0; then the density at its middle has to do
    middle = dist.log_prob(y) + math.log(width)
    mass = torch.where(mass.isfinite(), mass, middle)
    return (-mass).clamp(min=0.0).double().cpu().numpy()

"""Why a negative loss is possible: a density is not a probability.  This data's numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq

from ..distribution import GaussianMixture
from ._evaluation import Rows

__all__ = ["sign"]

Floats = NDArray[np.float64]

_CANDIDATES = 32  # rows among which the sharpest is looked for
_TAIL = 1e-13  # probability left out of the integral on each side
_LEVELS = (1e-9, 1e-6, 1e-4, 0.01, 0.05, 0.2, 0.35, 0.5)  # the integral is also split here
_SPIKES = 8  # components around which it is split as well
_POINTS = 4001  # on which the density is compared with 1
_INTERVAL = 0.1  # standard deviations of y: width of the interval around y


def sign(rows: Rows) -> dict[str, Any]:
    """Share of the rows with p > 1, and the sharpest row: its density, its integral, its width."""
    likelihood = -rows.nll
    found: dict[str, Any] = {
        "measure": rows.measure,
        "mean_nll": float(rows.nll.mean()),
        "rows": len(rows.nll),
        "share_above_one": float((likelihood > 0).mean()),
        "largest_at_y": math.exp(min(float(likelihood.max()), 700.0)),
    }
    if rows.measure != "density" or not rows.line:
        return found
    row = _sharpest(rows)
    dist = rows.dist[row : row + 1]
    modes, height = (a[0].double() for a in dist.modes())
    there = height.isfinite()
    peaks, heights = modes[there, 0].numpy(), height[there].numpy()
    levels = np.array(_LEVELS)
    levels = np.concatenate([[_TAIL], levels, 1 - levels[-2::-1], [1 - _TAIL]])
    ends = dist.icdf(torch.as_tensor(levels)[:, None])[:, 0, 0].numpy()
    ends = ends[np.isfinite(ends)]
    marks = np.concatenate([peaks, _edges(dist)])
    splits = np.unique(np.concatenate([ends, marks[(marks > ends[0]) & (marks < ends[-1])]]))
    density = _density(dist)
    parts = [  # with full output it does not warn; the error it gives says as much
        quad(density, a, b, epsabs=1e-11, epsrel=1e-9, limit=200, full_output=1)
        for a, b in itertools.pairwise(splits)
    ]
    y = rows.y
    assert y is not None
    width = _INTERVAL * float(y.std(correction=0)) or _INTERVAL * abs(float(y[0])) or _INTERVAL
    inside = _probability(rows.dist, y, width)
    found |= {
        "sharpest_row": row,
        "highest_density": math.exp(min(float(heights.max()), 700.0)),
        "at": float(peaks[heights.argmax()]),
        "width_above_one": _width_above_one(dist, splits),
        "integral": float(sum(p[0] for p in parts)),
        "integral_error": float(sum(p[1] for p in parts)) + 2 * _TAIL,
        "interval_width": width,
        "interval_probability_mean": float(inside.mean()),
        "interval_probability_largest": float(inside.max()),
        "interval_probability_sharpest": float(inside[row]),
    }
    return found


def _sharpest(rows: Rows) -> int:
    """The row of the highest mode among those that look sharpest."""
    dist = rows.dist
    if isinstance(dist, GaussianMixture):
        rough = (dist.logits - dist.scale[..., 0].log()).amax(-1).double().numpy()
    else:
        rough = -rows.nll
    rough = np.maximum(rough, -rows.nll)
    candidates = np.argsort(-rough, kind="stable")[:_CANDIDATES]
    height = dist[torch.as_tensor(candidates.copy())].modes().log_density
    return int(candidates[int(height.nan_to_num(nan=-math.inf).amax(-1).argmax())])


def _density(dist: Any) -> Callable[[float], float]:
    """The density of the one row as a function of a number."""
    if isinstance(dist, GaussianMixture):  # written out once more, as a check and for speed
        w, loc, scale = (
            a.double().numpy().reshape(-1) for a in (dist.weights, dist.loc, dist.scale)
        )
        height = w / (scale * math.sqrt(2 * math.pi))
        return lambda t: float((height * np.exp(-0.5 * ((t - loc) / scale) ** 2)).sum())
    return lambda t: math.exp(float(dist.log_prob(torch.tensor([[t]], dtype=torch.float64))))


def _edges(dist: Any) -> Floats:
    """Points on either side of the highest components, so that no spike is missed."""
    if not isinstance(dist, GaussianMixture):
        return np.empty(0)
    loc, scale = (a.double().numpy().reshape(-1) for a in (dist.loc, dist.scale))
    most = np.argsort(-(dist.weights.double().numpy().reshape(-1) / scale))[:_SPIKES]
    return (loc[most] + scale[most] * np.array([[-8.0], [0.0], [8.0]])).reshape(-1)


def _width_above_one(dist: Any, splits: Floats) -> float:
    """Length of the set of y where the density is above 1, in the unit of y."""
    even = np.interp(np.linspace(0, len(splits) - 1, _POINTS), np.arange(len(splits)), splits)
    grid = np.unique(even)

    def excess(t: Any) -> Any:
        at = torch.as_tensor(np.atleast_1d(t).reshape(-1, 1, 1))
        return dist.log_prob(at).reshape(-1).double().numpy()

    above = excess(grid) > 0
    edges = [
        brentq(lambda t: float(excess(t)[0]), grid[i], grid[i + 1])
        for i in np.flatnonzero(above[1:] != above[:-1])
    ]
    if above[0]:
        edges.insert(0, grid[0])
    if above[-1]:
        edges.append(grid[-1])
    return float(np.diff(edges)[::2].sum()) if edges else 0.0


def _probability(dist: Any, y: torch.Tensor, width: float) -> Floats:
    """P of the interval of this width around y, (N,)."""
    found = dist.cdf(y + 0.5 * width) - dist.cdf(y - 0.5 * width)
    return found.clamp(0.0, 1.0).double().numpy()

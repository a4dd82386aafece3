"""Why a loss may be negative, in the numbers of these rows: a density is not a probability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad_vec
from scipy.optimize import brentq

from ..distribution import AtomicMixture, GaussianMixture
from ..prediction import Floats
from ._evaluation import Evaluation

__all__ = ["sign"]

_CANDIDATES = 32  # rows among which the highest density is searched
_EXACT = 4  # of them whose modes are computed
_TAIL = 1e-13  # probability left out of the integral on each side
_LEVELS = (1e-9, 1e-6, 1e-4, 0.01, 0.05, 0.2, 0.35)  # of quantiles where the integral is split
_SPIKES = 8  # components around which it is split as well
_POINTS = 4001  # at which the density is compared with 1
_INTERVAL = 0.1  # standard deviations of y: width of the interval around y


def sign(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the share of rows with p > 1, and height, width and integral of the sharpest row."""
    log_p = -evaluation.nll
    found: dict[str, Any] = {
        "measure": evaluation.measure,
        "mean_nll": float(evaluation.nll.mean()),
        "rows": len(log_p),
        "share_above_one": float((log_p > 0).mean()),
        "largest_at_y": math.exp(min(float(log_p.max()), 700.0)),
    }
    if isinstance(evaluation.dist, AtomicMixture):
        found["atoms"] = evaluation.dist.atoms.unique().tolist()
        found["share_at_atoms"] = float(evaluation.at_atoms.mean())
    if evaluation.measure != "density" or not evaluation.is_univariate:
        return found
    row = _sharpest_row(evaluation)
    found |= {"sharpest_row": row} | _shape(evaluation.dist[row : row + 1])
    return found | _interval(evaluation, row)


def _sharpest_row(evaluation: Evaluation) -> int:
    """Returns the row of the highest mode, searched among the rows that look sharpest."""
    dist = evaluation.dist
    height = -evaluation.nll
    if isinstance(dist, GaussianMixture):  # the density at the mean of each component, but for pi
        peaks = (dist.logits - dist.scale[..., 0].log()).amax(-1).double().numpy()
        height = np.maximum(height, peaks)
    candidates = np.argsort(-height, kind="stable")[:_CANDIDATES]
    if isinstance(dist, GaussianMixture):  # modes are not far from the highest density at a mean
        few = dist[torch.from_numpy(candidates)]
        at_means = few.log_prob(few.loc.movedim(-2, 0)).amax(0).double().numpy()
        candidates = candidates[np.argsort(-at_means, kind="stable")[:_EXACT]]
    log_density = dist[torch.from_numpy(candidates)].modes().log_density
    return int(candidates[int(log_density.nan_to_num(nan=-math.inf).amax(-1).argmax())])


def _shape(dist: Any) -> dict[str, Any]:
    """Returns the mode of one density (1,), the length where it exceeds 1, and its integral."""
    modes, log_density = (a[0].double().numpy() for a in dist.modes())
    highest = int(np.nanargmax(log_density))
    cuts = _cuts(dist, modes[np.isfinite(log_density), 0])
    low, width = cuts[:-1], np.diff(cuts)

    def panels(t: float) -> Floats:  # (P,): every panel at the same fraction of its width
        return width * np.exp(_log_prob(dist, low + t * width))

    area, error = quad_vec(panels, 0.0, 1.0, epsabs=1e-12, epsrel=1e-10, norm="max", limit=1000)[:2]
    return {
        "highest_density": math.exp(min(float(log_density[highest]), 700.0)),
        "at": float(modes[highest, 0]),
        "width_above_one": _width_above_one(dist, cuts),
        "integral": float(area.sum()),
        "integral_error": len(width) * float(error) + 2 * _TAIL,
    }


def _cuts(dist: Any, modes: Floats) -> Floats:
    """Returns sorted points between which the density is smooth, so that no spike is missed."""
    levels = np.array([_TAIL, *_LEVELS])
    levels = np.concatenate([levels, [0.5], 1 - levels[::-1]])
    ends = dist.icdf(torch.from_numpy(levels)[:, None])[:, 0, 0].double().numpy()
    ends = ends[np.isfinite(ends)]
    marks = modes
    if isinstance(dist, GaussianMixture):
        weight, loc, scale = (
            a.double().numpy().reshape(-1) for a in (dist.weights, dist.loc, dist.scale)
        )
        top = np.argsort(-weight / scale)[:_SPIKES]
        around = loc[top] + scale[top] * np.array([[-8.0], [0.0], [8.0]])
        marks = np.concatenate([modes, around.reshape(-1)])
    return np.unique(np.concatenate([ends, marks[(marks > ends[0]) & (marks < ends[-1])]]))


def _width_above_one(dist: Any, cuts: Floats) -> float:
    """Returns the length of the set of y where the density exceeds 1, in the unit of y."""
    places = np.linspace(0, len(cuts) - 1, _POINTS)
    at = np.unique(np.interp(places, np.arange(len(cuts)), cuts))
    above = _log_prob(dist, at) > 0
    edges = [
        brentq(lambda t: float(_log_prob(dist, np.array([t]))[0]), at[i], at[i + 1])
        for i in np.flatnonzero(above[1:] != above[:-1])
    ]
    edges = [*at[:1][above[:1]], *edges, *at[-1:][above[-1:]]]
    return float(np.diff(edges)[::2].sum())


def _interval(evaluation: Evaluation, row: int) -> dict[str, float]:
    """Returns the probability of an interval around y, which is between 0 and 1."""
    y = evaluation.y
    assert y is not None
    width = _INTERVAL * (float(y.std(correction=0)) or abs(float(y[0])) or 1.0)
    inside = evaluation.dist.log_mass(y - 0.5 * width, y + 0.5 * width).exp().double().numpy()
    return {
        "interval_width": width,
        "interval_probability_mean": float(inside.mean()),
        "interval_probability_largest": float(inside.max()),
        "interval_probability_sharpest": float(inside[row]),
    }


def _log_prob(dist: Any, at: Floats) -> Floats:
    """Returns the log density of the one distribution of a batch (1,) at (M,) numbers."""
    return dist.log_prob(torch.from_numpy(at).reshape(-1, 1, 1))[:, 0].double().numpy()

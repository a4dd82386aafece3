"""The scores of a prediction, by the same code for ours and for every rival."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdn import GaussianMixture, scoring
from mdn.distribution import DiscretizedMixture

__all__ = ["COVERAGE", "SCORES", "Prediction", "Quantiles", "pit_deviation", "scores"]

Floats = NDArray[np.float64]

COVERAGE = 0.9  # of the central interval
SCORES = ("nll", "crps", "rmse", "coverage", "pit_deviation")
TAIL = 1e-9  # probability of a tail that the sum for the CRPS of integers leaves out


class Quantiles(NamedTuple):
    """A prediction that consists of quantiles, so it has no density."""

    levels: Floats  # (L,) rising, evenly spaced
    values: Floats  # (N, L)
    mean: Floats  # (N,)


Prediction = GaussianMixture | DiscretizedMixture | Quantiles


def scores(prediction: Prediction, y: Floats, *, integer: bool = False) -> dict[str, float | None]:
    """Returns mean scores over the test rows, in the unit of y.

    ``nll`` in nats, by the density; ``crps``; ``rmse`` of the mean; ``coverage`` of the central
    90 % interval, including its ends; ``pit_deviation``, see :func:`pit_deviation`.  Mixtures are
    scored in closed form; the CRPS of quantiles is twice their mean pinball loss, and they have no
    ``nll``.

    With ``integer``, y holds integers and all scores are of the distribution of the rounded
    prediction: ``nll`` is that of the rounding cell [y - 1/2, y + 1/2] and never below 0.  An
    interval of such a distribution has a coverage above its nominal one even if the distribution is
    right, so ``coverage`` is the share of the PIT between the two levels, as in
    :func:`mdn.calibration.coverage_curve`.
    """
    if isinstance(prediction, Quantiles):
        return _of_quantiles(prediction, y, integer=integer)
    dist = prediction
    if integer and isinstance(dist, GaussianMixture):
        dist = dist.discretize(1.0)
    column = y[:, None]
    upper = scoring.pit(dist, column)
    if isinstance(dist, DiscretizedMixture):
        lower = scoring.pit(dist, column - dist.width)
        crps = _rounded_crps(dist, y)
    else:
        lower = upper
        crps = scoring.crps(dist, column)
    mean = dist.mean[:, 0].detach().numpy()
    return {
        "nll": float(scoring.nll(dist, column).mean()),
        "crps": float(crps.mean()),
        "rmse": _rmse(mean, y),
        "coverage": _covered(lower, upper),
        "pit_deviation": pit_deviation(lower, upper),
    }


def pit_deviation(lower: Floats, upper: Floats) -> float:
    """Returns the mean distance of the empirical cdf G of the PIT from the uniform cdf.

        1/99 sum_j |G(u_j) - u_j|,  u_j = j/100,  G(u) = mean over rows of P(PIT <= u)

    The PIT of a row is P(Y <= y); where y has a positive probability (integers, steps between
    quantiles) it is uniform between P(Y < y) and P(Y <= y).  The deviation is 0 for perfect
    calibration and infinitely many rows; its expectation for n rows of a perfect model is about
    0.31 / sqrt(n): 0.06 for 31 rows, 0.01 for 957.

    Args:
        lower, upper: P(Y < y) and P(Y <= y) of each row, (N,).
    """
    levels = np.arange(1, 100) / 100
    return float(np.abs(_pit_below(lower, upper, levels).mean(1) - levels).mean())


def _pit_below(lower: Floats, upper: Floats, levels: Floats) -> Floats:
    """Returns P(PIT <= level) of each row, (L, N)."""
    mass = upper - lower
    has_mass = mass > 0
    share = (levels[:, None] - lower) / np.where(has_mass, mass, 1.0)
    return np.where(has_mass, share.clip(0.0, 1.0), upper <= levels[:, None])


def _covered(lower: Floats, upper: Floats) -> float:
    """Returns the share of the PIT in the central interval."""
    low, high = _pit_below(lower, upper, np.array([0.5 - COVERAGE / 2, 0.5 + COVERAGE / 2]))
    return float((high - low).mean())


def _rounded_crps(dist: DiscretizedMixture, y: Floats) -> Floats:
    """Returns the CRPS on a lattice: width times the sum over it of (F(k) - 1{y <= k})^2."""
    ends = [dist.icdf(p).detach().numpy()[:, 0] for p in (TAIL, 1 - TAIL)]
    first = min(ends[0].min(), y.min()) / dist.width
    last = max(ends[1].max(), y.max()) / dist.width
    total = np.zeros_like(y)
    for cell in np.arange(round(first), round(last)) * dist.width:
        total += (scoring.pit(dist, np.full((len(y), 1), cell)) - (y <= cell)) ** 2
    return total * dist.width


def _of_quantiles(prediction: Quantiles, y: Floats, *, integer: bool) -> dict[str, float | None]:
    levels, values, mean = prediction
    if integer:
        values = np.floor(values + 0.5)
    error = y[:, None] - values  # (N, L)
    pinball = np.maximum(levels * error, (levels - 1) * error)
    ends = [np.abs(levels - p).argmin() for p in (0.5 - COVERAGE / 2, 0.5 + COVERAGE / 2)]
    low, high = values[:, ends].T
    steps = len(levels) + 1  # y between two neighbouring quantiles: one step of probability
    lower, upper = (error > 0).sum(1) / steps, ((error >= 0).sum(1) + 1) / steps
    inside = _covered(lower, upper) if integer else float(((low <= y) & (y <= high)).mean())
    return {
        "nll": None,
        "crps": float(2 * pinball.mean()),
        "rmse": _rmse(mean, y),
        "coverage": inside,
        "pit_deviation": pit_deviation(lower, upper),
    }


def _rmse(mean: Floats, y: Floats) -> float:
    return float(np.sqrt(np.mean((mean - y) ** 2)))

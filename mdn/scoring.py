"""Scores of a predictive distribution, one number a row, lower is better.

Every function takes a distribution and targets y (*, D) as tensor or array (D = 1 where a cdf is
needed), and gives a tensor or an array of the same kind, (*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["crps", "crps_scorer", "interval_score", "nll", "nll_scorer", "pinball", "pit"]

Array = TypeVar("Array", Tensor, np.ndarray)


def nll(dist: Any, y: Array) -> Array:
    """Negative log-likelihood (log score), nats in y's unit; negative where the density exceeds 1.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 0.1))
        >>> nll(dist, np.array([[0.0], [0.3]]))
        array([-1.38364654,  3.11635332])
    """
    return _apply(lambda t: -dist.log_prob(t), dist, y)


def crps(dist: Any, y: Array) -> Array:
    """Continuous ranked probability score, in y's unit (D = 1); closed form for Gaussian mixtures.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> crps(dist, np.zeros((1, 1)))
        array([0.23369498])
    """
    return _apply(dist.crps, dist, y)


def pinball(dist: Any, y: Array, levels: Sequence[float]) -> Array:
    r"""Pinball (quantile) loss, mean over the levels, in y's unit (D = 1).

    .. math:: \max\{p\,(y - q_p),\; (p - 1)(y - q_p)\}

    Args:
        dist: a distribution with ``icdf``.
        y: targets, (*, 1).
        levels: probabilities p in (0, 1).

    Raises:
        ValueError: no level, or one outside (0, 1).

    References:
        R. Koenker, G. Bassett, Regression quantiles, Econometrica 46 (1978).
    """
    probabilities = [float(p) for p in levels]
    if not probabilities or not all(0 < p < 1 for p in probabilities):
        raise ValueError(
            f"levels must be probabilities between 0 and 1, at least one; got {probabilities}"
        )

    def score(t: Tensor) -> Tensor:
        t = _scalar(dist, t)
        total = t.new_zeros(())
        for p in probabilities:
            miss = (t - dist.icdf(p)).squeeze(-1)
            total = total + torch.maximum(p * miss, (p - 1) * miss)
        return total / len(probabilities)

    return _apply(score, dist, y)


def interval_score(dist: Any, y: Array, coverage: float) -> Array:
    r"""Interval score of the central interval, in y's unit (D = 1).

    Its width, plus :math:`2/\alpha` times the distance by which y misses it,
    :math:`\alpha = 1 - \text{coverage}`.

    References:
        T. Gneiting, A. E. Raftery, Strictly proper scoring rules, J. Am. Stat. Assoc. 102 (2007),
        eq. 43.
    """

    def score(t: Tensor) -> Tensor:
        low, high = dist.interval(coverage).unbind(-1)
        t = _scalar(dist, t).squeeze(-1)
        outside = (low - t).clamp(min=0) + (t - high).clamp(min=0)
        return (high - low) + outside * (2 / (1 - coverage))

    return _apply(score, dist, y)


def pit(dist: Any, y: Array) -> Array:
    """Probability integral transform P(Y <= y) (D = 1): uniform on [0, 1] if calibrated."""
    return _apply(dist.cdf, dist, y)


def nll_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Minus the mean NLL of an estimator, for ``GridSearchCV(scoring=nll_scorer)``."""
    return -weighted_mean(-estimator.log_prob(X, y), sample_weight)


def crps_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Minus the mean CRPS of an estimator, for ``GridSearchCV(scoring=crps_scorer)``."""
    score = crps(estimator.predict_distribution(X), np.asarray(y, dtype=float).reshape(-1, 1))
    return -weighted_mean(score, sample_weight)


def _scalar(dist: Any, y: Tensor) -> Tensor:
    """y, if it is (*, 1) of the batch of dist and not NaN: broadcasting would hide the rest."""
    if tuple(dist.event_shape) != (1,):
        raise ValueError(
            f"dist must have one target dimension; got event shape {tuple(dist.event_shape)}"
        )
    if y.ndim < 1 or y.shape[-1] != 1:
        hint = ". Did you mean y[:, None]?" if y.ndim == 1 else ""
        raise ValueError(f"y must have shape (*, 1); got {tuple(y.shape)}{hint}")
    try:
        torch.broadcast_shapes(y.shape[:-1], dist.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"y with batch shape {tuple(y.shape[:-1])} does not broadcast against the batch shape "
            f"{tuple(dist.batch_shape)} of the distribution"
        ) from None
    if bool(y.isnan().any()):
        row = tuple(y.isnan().nonzero()[0, :-1].tolist())
        raise ValueError(f"y must not be NaN; row {row[0] if len(row) == 1 else row} is")
    return y


def _apply(function: Callable[[Tensor], Tensor], dist: Any, y: Array) -> Array:
    if isinstance(y, Tensor):
        return function(y)
    array = np.asarray(y)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise TypeError(
            f"y must be a tensor or a numeric array; got {type(y).__name__} of {array.dtype}"
        )
    # torch takes no reversed, read-only or byte-swapped array
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    device = getattr(dist.mean, "device", None)
    return function(torch.as_tensor(array, device=device)).detach().cpu().numpy()


def weighted_mean(score: np.ndarray, sample_weight: Any = None) -> float:
    """Mean of scores (N,), weighted by (N,) numbers if they are given."""
    if sample_weight is None:
        return float(score.mean())
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != score.shape or not (weight >= 0).all() or not weight.sum() > 0:
        raise ValueError(
            f"sample_weight must be {len(score)} non-negative numbers, not all 0; "
            f"got shape {weight.shape}"
        )
    return float(np.average(score, weights=weight))

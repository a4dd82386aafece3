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
        array([-1.3836466,  3.1163533], dtype=float32)
    """
    return _apply(lambda t: -dist.log_prob(t), dist, y)


def crps(dist: Any, y: Array) -> Array:
    """Continuous ranked probability score, in y's unit (D = 1); closed form for Gaussian mixtures.

    Example:
        >>> from mdn import GaussianMixture
        >>> crps(GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1)), np.zeros((1, 1)))
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

    References:
        R. Koenker, G. Bassett, Regression quantiles, Econometrica 46 (1978).
    """
    if not len(levels):
        raise ValueError("levels must name at least one probability; got none")

    def score(t: Tensor) -> Tensor:
        total = t.new_zeros(())
        for p in levels:
            miss = (t - dist.icdf(float(p))).squeeze(-1)
            total = total + torch.maximum(p * miss, (p - 1) * miss)
        return total / len(levels)

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
        t = t.squeeze(-1)
        outside = (low - t).clamp(min=0) + (t - high).clamp(min=0)
        return (high - low) + outside * (2 / (1 - coverage))

    return _apply(score, dist, y)


def pit(dist: Any, y: Array) -> Array:
    """Probability integral transform P(Y <= y) (D = 1): uniform on [0, 1] if calibrated."""
    return _apply(dist.cdf, dist, y)


def nll_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Minus the mean NLL of an estimator, for ``GridSearchCV(scoring=nll_scorer)``."""
    return -float(np.average(-estimator.log_prob(X, y), weights=sample_weight))


def crps_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Minus the mean CRPS of an estimator, for ``GridSearchCV(scoring=crps_scorer)``."""
    score = crps(estimator.predict_distribution(X), np.asarray(y, dtype=float).reshape(-1, 1))
    return -float(np.average(score, weights=sample_weight))


def _apply(function: Callable[[Tensor], Tensor], dist: Any, y: Array) -> Array:
    if isinstance(y, Tensor):
        return function(y)
    array = np.asarray(y)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise TypeError(f"y must be a tensor or a numeric array; got {type(y).__name__}")
    device = getattr(dist.mean, "device", None)
    return function(torch.as_tensor(array, device=device)).detach().cpu().numpy()

"""One number a row: scores of a distribution at a target, lower is better, and the PIT."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Categorical

from ..arguments import check_generator, check_integer, check_number, check_probabilities
from ..distribution import DiscretizedMixture, GaussianMixture, TruncatedMixture
from ..functional._checks import broadcast_shapes
from ..functional._interval import log_mass_between
from ..functional._quadrature import integrate
from ..functional._sampling import fixed_generator
from ..prediction import numeric_array, numeric_tensor, predict_distribution, target_tensor
from ..train._data import check_classes

__all__ = [
    "brier",
    "cde_loss",
    "crps",
    "crps_by_level",
    "crps_by_threshold",
    "dawid_sebastiani",
    "energy_score",
    "interval_score",
    "nll",
    "pinball",
    "pit",
    "randomized_pit",
    "rounded_nll",
    "threshold_weighted_crps",
]

Array = TypeVar("Array", Tensor, np.ndarray)

# Levels of the quantiles between which the panels of an integral begin; both tails.
_LOWER_CUTS = (1e-15, 1e-10, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.25)
_CUTS = [*_LOWER_CUTS, 0.5, *(1.0 - level for level in reversed(_LOWER_CUTS))]
_OFF_GRID = 1e-6  # widths by which y may differ from a multiple, relative for large ones


def nll(dist: Any, y: Array, *, X: Any = None) -> Array:
    """Negative log-likelihood (log score), nats in y's unit; negative where the density exceeds 1.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 0.1))
        >>> nll(dist, np.array([[0.0], [0.3]]))
        array([-1.38364654,  3.11635332])
    """
    return _apply(lambda p, t: -p.log_prob(t), dist, y, X)


def crps(dist: Any, y: Array, *, X: Any = None) -> Array:
    """Continuous ranked probability score, in y's unit (D = 1); closed form for Gaussian mixtures.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> crps(dist, np.zeros((1, 1)))
        array([0.23369498])
    """
    return _apply(lambda p, t: p.crps(t), dist, y, X)


def threshold_weighted_crps(
    dist: Any, y: Array, *, low: float = -math.inf, high: float = math.inf, X: Any = None
) -> Array:
    r"""CRPS of what happens between two thresholds, in y's unit (D = 1), 0 or more.

    .. math:: \int_{low}^{high} (F(t) - 1\{y \le t\})^2 \, dt

    The CRPS of distribution and y after both were clipped to [low, high]: proper, and blind to all
    else.  Those of (-inf, t) and (t, inf) add up to the CRPS.  By quadrature to 1e-7 relative.

    Args:
        dist: a continuous distribution.
        low, high: thresholds in the unit of y; infinite where there is none.

    Raises:
        ValueError: low is not below high.
        TypeError: a distribution of whole numbers or of rounded values.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> threshold_weighted_crps(dist, np.array([[0.0], [3.0]]), low=1.0).round(4)
        array([0.0072, 1.8414])

    References:
        T. Gneiting, R. Ranjan, Comparing density forecasts using threshold- and quantile-weighted
        scoring rules, J. Bus. Econ. Stat. 29 (2011), eq. 14.
    """
    for name, end in ("low", low), ("high", high):
        if end not in (-math.inf, math.inf):
            check_number(name, end)
    if not low < high:
        raise ValueError(f"low must be less than high; got {low} and {high}")

    def score(dist: Any, t: Tensor) -> Tensor:
        if getattr(dist.support, "is_discrete", False):
            raise TypeError(
                "dist must be continuous for thresholds; got "
                f"{type(dist).__name__}, whose cdf has jumps"
            )
        dtype = torch.promote_types(t.dtype, dist.mean.dtype)
        dist, at = dist.to(torch.float64), t.double().squeeze(-1).clamp(low, high)
        at = at.expand(broadcast_shapes(at.shape, dist.batch_shape))
        levels = torch.tensor(_CUTS, dtype=torch.float64, device=at.device)
        quantiles = dist.icdf(levels.view(-1, *(1,) * (len(dist.batch_shape) + 1))[..., 0])
        more = (1,) * (at.ndim - len(dist.batch_shape))
        quantiles = quantiles.squeeze(-1).reshape(len(levels), *more, *dist.batch_shape)
        bounds: list[Tensor] = [
            torch.full_like(at, end) for end in (low, high) if math.isfinite(end)
        ]
        inner = quantiles.expand(-1, *at.shape).clamp(low, high)
        cuts = torch.cat([inner, torch.stack([at, *bounds])]).sort(dim=0).values

        def squared(x: Tensor) -> Tensor:
            place = x.unsqueeze(-1)
            tail = torch.where(x < at, dist.log_cdf(place), dist.log_sf(place))
            return tail.mul(2.0).exp()

        size = getattr(dist, "n_components", 1)
        return integrate(squared, cuts, size=size)[0].to(dtype)

    return _apply(score, dist, y, X, univariate=True)


def energy_score(
    dist: Any,
    y: Array,
    *,
    X: Any = None,
    n_samples: int = 1024,
    generator: torch.Generator | None = None,
) -> Array:
    r"""Energy score, the CRPS of several targets, in y's unit.

    .. math:: E\|Y - y\| - \tfrac12 E\|Y - Y'\|

    For D = 1 it is the CRPS, exact where that is.  For D > 1 it is an unbiased estimate from draws,
    whose error averages out over the rows; the targets must have one unit.

    Args:
        n_samples: pairs of draws, for D > 1.
        generator: source of randomness; one of a fixed seed if None.

    Raises:
        ValueError: fewer than two pairs of draws, or y of another shape.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2))
        >>> energy_score(dist, np.array([[0.0, 0.0], [3.0, 4.0]])).round(1)
        array([0.4, 4.2])

    References:
        T. Gneiting, A. E. Raftery, Strictly proper scoring rules, J. Am. Stat. Assoc. 102 (2007),
        eq. 22.
    """
    check_integer("n_samples", n_samples, 2)
    check_generator(generator)

    def score(dist: Any, t: Tensor) -> Tensor:
        if tuple(dist.event_shape) == (1,):
            return dist.crps(t)
        source = generator or fixed_generator(t)
        if isinstance(dist, GaussianMixture):
            return dist.energy_score(t, n_samples=n_samples, generator=source)
        draws = dist.sample((2, n_samples), generator=source)  # (2, S, *, D)
        more = t.ndim - 1 - len(dist.batch_shape)
        draws = draws.reshape(2, n_samples, *(1,) * more, *draws.shape[2:])
        near = torch.linalg.vector_norm(draws - t, dim=-1).mean((0, 1))
        return near - 0.5 * torch.linalg.vector_norm(draws[0] - draws[1], dim=-1).mean(0)

    return _apply(score, dist, y, X)


def dawid_sebastiani(dist: Any, y: Array, *, X: Any = None) -> Array:
    r"""Dawid-Sebastiani score: how well mean m and covariance S alone predict y.

    .. math:: \log\det S + (y - m)^\top S^{-1} (y - m)

    Twice the NLL of one Gaussian with these moments, less :math:`D \log 2\pi`; so a wrong shape
    costs nothing.  It grows by :math:`2 D \log c` if y is measured in a unit c times smaller.

    Raises:
        TypeError: D > 1, and the distribution has no ``covariance``.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> dawid_sebastiani(dist, np.array([[0.0], [2.0]]))
        array([0., 4.])

    References:
        A. P. Dawid, P. Sebastiani, Coherent dispersion criteria for optimal experimental design,
        Ann. Stat. 27 (1999), eq. 15.
    """

    def score(dist: Any, t: Tensor) -> Tensor:
        gap = t - dist.mean
        if gap.shape[-1] == 1:
            return (2 * dist.stddev.log() + (gap / dist.stddev).square()).squeeze(-1)
        if not hasattr(dist, "covariance"):
            raise TypeError(
                f"dist must have a covariance for {gap.shape[-1]} targets; "
                f"{type(dist).__name__} has none. Take one target with .marginal(dims)"
            )
        root = torch.linalg.cholesky(dist.covariance)  # (*, D, D)
        z = torch.linalg.solve_triangular(root, gap.unsqueeze(-1), upper=False).squeeze(-1)
        return 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + z.square().sum(-1)

    return _apply(score, dist, y, X)


def rounded_nll(dist: Any, y: Array, width: float, *, X: Any = None) -> Array:
    r"""Log score of a rounded y: minus the log of the probability of its rounding cell, in nats.

    .. math:: -\log P(y - w/2 < Y \le y + w/2)

    A probability is at most 1, so unlike :func:`nll` it is never negative, and a density peaked at
    repeated values gains nothing.  About ``nll - log(width)`` where the density is smooth (D = 1).

    Args:
        dist: a continuous distribution with a cdf.
        y: multiples of the width.
        width: of a cell, in the unit of y.

    Raises:
        ValueError: y is not a multiple of the width, or the width is not positive and finite.
        TypeError: the distribution is one of rounded values: its :func:`nll` is this score.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 0.01))
        >>> y = np.array([[0.0], [0.1]])
        >>> nll(dist, y).round(2), rounded_nll(dist, y, 0.1).round(2)
        (array([-3.69, 46.31]), array([ 0.  , 15.06]))
    """
    check_number("width", width, above=0)

    def score(dist: Any, t: Tensor) -> Tensor:
        if isinstance(dist, DiscretizedMixture):
            raise TypeError(
                "dist must be continuous; got a DiscretizedMixture, whose nll(dist, y) is the log "
                "score of the rounding cell"
            )
        if isinstance(dist, GaussianMixture):
            return -dist.discretize(width).log_prob(t)
        off = ((t / width) - (t / width).round()).abs() > _OFF_GRID * (1 + (t / width).abs())
        if bool(off.any()):
            raise ValueError(
                f"y must be a multiple of width {width:g}; got {t[off][0].item():g}. "
                "Round it: (y / width).round() * width"
            )
        low, high = t - 0.5 * width, t + 0.5 * width
        tails = ((log_p(low), log_p(high)) for log_p in (dist.log_cdf, dist.log_sf))
        return -log_mass_between(*tails)

    return _apply(score, dist, y, X, univariate=True)


def brier(dist: Any, y: Array, threshold: float, *, X: Any = None) -> Array:
    r"""Brier score of the event that y is at most a threshold, between 0 and 1 (D = 1).

    .. math:: (F(t) - 1\{y \le t\})^2

    Its integral over all thresholds t, finite numbers in y's unit, is the CRPS.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> brier(dist, np.array([[-1.0], [1.0]]), threshold=0.5).round(3)
        array([0.095, 0.478])

    References:
        G. W. Brier, Verification of forecasts expressed in terms of probability, Mon. Weather Rev.
        78 (1950).
    """
    check_number("threshold", threshold)

    def score(dist: Any, t: Tensor) -> Tensor:
        kind = t if t.is_floating_point() else dist.mean
        expected = dist.cdf(torch.full_like(kind[..., :1], threshold))
        return (expected - (t.squeeze(-1) <= threshold).to(expected)).square()

    return _apply(score, dist, y, X, univariate=True)


def crps_by_threshold(dist: Any, y: Array, thresholds: ArrayLike, *, X: Any = None) -> Array:
    r"""The Brier score at each threshold, (*, T): where on the line the CRPS comes from (D = 1).

    The threshold decomposition of the CRPS, which is its integral over t.  Means over the rows show
    for which values a model is better than another.

    Args:
        thresholds: (T,) finite numbers in the unit of y.

    References:
        T. Gneiting, R. Ranjan, Comparing density forecasts using threshold- and quantile-weighted
        scoring rules, J. Bus. Econ. Stat. 29 (2011), eq. 4.
    """
    at = _vector("thresholds", thresholds)

    def score(dist: Any, t: Tensor) -> Tensor:
        values = [t.new_tensor(each, dtype=torch.float64) for each in at]
        expected = torch.stack([dist.cdf(v.to(dist.mean).reshape(1)) for v in values], -1)
        happened = t <= torch.stack(values).to(t.device)  # (*, T)
        return (expected - happened.to(expected)).square()

    return _apply(score, dist, y, X, univariate=True)


def crps_by_level(dist: Any, y: Array, levels: ArrayLike, *, X: Any = None) -> Array:
    r"""Twice the pinball loss at each level, (*, L), in y's unit (D = 1).

    The quantile decomposition of the CRPS, which is its integral over the levels from 0 to 1.
    Means over the rows show in which part of the distribution a model is better than another.

    Args:
        levels: (L,) probabilities in (0, 1).

    References:
        T. Gneiting, R. Ranjan, Comparing density forecasts using threshold- and quantile-weighted
        scoring rules, J. Bus. Econ. Stat. 29 (2011), eq. 6.
    """
    probabilities = check_probabilities("levels", levels)

    def score(dist: Any, t: Tensor) -> Tensor:
        return 2 * torch.stack([_pinball(dist, t, p) for p in probabilities], -1)

    return _apply(score, dist, y, X, univariate=True)


def cde_loss(dist: Any, y: Array, *, X: Any = None) -> Array:
    r"""CDE loss, in 1 / y's unit to the power D: the squared error of the density.

    .. math:: \int p(t)^2 \, dt - 2\, p(y)

    Its mean is the integrated squared error :math:`\int (p - p_0)^2` up to a constant of the true
    density :math:`p_0`, so it is proper.  A y far from all mass costs a bounded amount, unlike in
    the NLL.

    Raises:
        TypeError: the distribution has no ``squared_norm``, the integral of p squared in closed
            form, as every ``GaussianMixture`` has.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> cde_loss(dist, np.array([[0.0], [9.0]])).round(4)
        array([-0.5158,  0.2821])

    References:
        R. Izbicki, A. B. Lee, Nonparametric conditional density estimation in a high-dimensional
        regression setting, J. Comput. Graph. Stat. 25 (2016), eq. 4.
    """

    def score(dist: Any, t: Tensor) -> Tensor:
        if not hasattr(dist, "squared_norm"):
            raise TypeError(
                "dist must have squared_norm, the integral of p squared, as a GaussianMixture; "
                f"{type(dist).__name__} has none"
            )
        return dist.squared_norm() - 2 * dist.log_prob(t).exp()

    return _apply(score, dist, y, X)


def pinball(dist: Any, y: Array, levels: Sequence[float], *, X: Any = None) -> Array:
    r"""Pinball (quantile) loss, mean over the levels, in y's unit (D = 1).

    .. math:: \max\{p\,(y - q_p),\; (p - 1)(y - q_p)\}

    Args:
        levels: probabilities p in (0, 1), at least one.

    References:
        R. Koenker, G. Bassett, Regression quantiles, Econometrica 46 (1978).
    """
    probabilities = check_probabilities("levels", levels)

    def score(dist: Any, t: Tensor) -> Tensor:
        total = t.new_zeros(())
        for p in probabilities:
            total = total + _pinball(dist, t, p)
        return total / len(probabilities)

    return _apply(score, dist, y, X, univariate=True)


def interval_score(dist: Any, y: Array, coverage: float, *, X: Any = None) -> Array:
    r"""Interval score of the central interval, in y's unit (D = 1).

    Its width, plus :math:`2/\alpha` times the distance by which y misses it,
    :math:`\alpha = 1 - \text{coverage}`.

    References:
        T. Gneiting, A. E. Raftery, Strictly proper scoring rules, J. Am. Stat. Assoc. 102 (2007),
        eq. 43.
    """

    def score(dist: Any, t: Tensor) -> Tensor:
        low, high = dist.interval(coverage).unbind(-1)
        t = t.squeeze(-1)
        outside = (low - t).clamp(min=0) + (t - high).clamp(min=0)
        return (high - low) + outside * (2 / (1 - coverage))

    return _apply(score, dist, y, X, univariate=True)


def pit(dist: Any, y: Array, *, X: Any = None) -> Array:
    """Probability integral transform P(Y <= y) (D = 1): uniform on [0, 1] if calibrated."""
    return _apply(lambda p, t: p.cdf(t), dist, y, X)


def randomized_pit(
    dist: Any, y: Array, *, X: Any = None, generator: torch.Generator | None = None
) -> Array:
    r"""PIT that is uniform under calibration also where the cdf jumps (D = 1).

    .. math:: F(y^-) + v\,(F(y) - F(y^-)), \qquad v \sim U(0, 1)

    For rounded values, whole numbers and point masses; without jumps it is :func:`pit`.  The
    generator is the source of v; if None, it is one of a fixed seed.

    References:
        C. Czado, T. Gneiting, L. Held, Predictive model assessment for count data, Biometrics 65
        (2009).
    """
    check_generator(generator)

    def score(dist: Any, t: Tensor) -> Tensor:
        if isinstance(dist, GaussianMixture | TruncatedMixture):
            return dist.cdf(t)
        t = t.double()
        upper = dist.cdf(t)
        if isinstance(dist, DiscretizedMixture):
            lower = dist.cdf(t - 0.5 * dist.width)
        else:
            lower = dist.cdf(torch.nextafter(t, torch.full_like(t, -math.inf)))
        source = generator or fixed_generator(t)
        v = torch.rand(upper.shape, generator=source, dtype=upper.dtype, device=t.device)
        return lower + v * (upper - lower)

    return _apply(score, dist, y, X, univariate=True)


def _pinball(dist: Any, t: Tensor, p: float) -> Tensor:
    miss = (t - dist.icdf(p)).squeeze(-1)
    return torch.maximum(p * miss, (p - 1) * miss)


def _vector(name: str, values: Any) -> list[float]:
    """One finite number or more as a list."""
    array = numeric_array(values, name)
    if array.ndim > 1 or not array.size:
        raise ValueError(f"{name} must hold one number or more, (T,); got shape {array.shape}")
    return [check_number(name, value) for value in array.reshape(-1)]


def _apply(
    score: Callable[[Any, Tensor], Tensor], model: Any, y: Array, X: Any, univariate: bool = False
) -> Array:
    """Predicts if there is a model, checks y, and returns the score as the same kind as y."""
    dist = predict_distribution(model, X)
    if univariate and tuple(dist.event_shape) != (1,):
        raise ValueError(
            f"dist must have one target dimension; got event shape {tuple(dist.event_shape)}"
        )
    # a distribution without an event axis, such as one of classes, checks its y itself
    t = target_tensor(dist, y, X) if dist.event_shape else numeric_tensor(y, "y", like=dist)
    if isinstance(dist, Categorical):
        check_classes(t, dist.logits.shape[-1], ": leave such values out")
    found = score(dist, t)
    return found.to(y.device) if isinstance(y, Tensor) else found.detach().cpu().numpy()

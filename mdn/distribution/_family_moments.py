"""Mean and variance of components: those of torch, or by quadrature where it has none."""

from __future__ import annotations

import math

import torch
from scipy.special import zeta
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from ..functional._quadrature import moments_by_quadrature
from ._family_functions import bounds, has_exact_tails, log_prob, quantile
from ._von_mises import von_mises_moments

__all__ = ["moments"]

_LEVELS = (*(10.0**-k for k in range(30, 0, -1)), 0.2)  # in a tail, of the cuts
_CDF_ROUNDING = 1e-14  # a level that the complement of a cdf cannot resolve
_NEAR, _TERMS = 0.01, 11  # of a series in 2 x: 1e-17
_SAME_POWER = 1e-3  # relative; tails so close to the limit have no moment


def moments(dist: Distribution, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and variance of y on its line, which those of torch's von Mises are not.

    Args:
        dist: a family that is on the device.
        device: as said.

    Raises:
        TypeError: several dependent dimensions that torch knows no moments of.
    """
    if isinstance(dist, td.Independent):
        return moments(dist.base_dist, device)
    if isinstance(dist, td.VonMises):
        return von_mises_moments(dist)
    try:
        mean, variance = dist.mean, dist.variance
    except NotImplementedError:
        if dist.event_shape:
            raise TypeError(
                f"mean and variance need components that have them; {type(dist).__name__} of event "
                f"shape {tuple(dist.event_shape)} has none in torch. Make the components of "
                "Independent(..., 1), or average draws"
            ) from None
        return _integrated(dist, device)
    if isinstance(dist, td.FisherSnedecor):  # infinite, where torch says NaN
        mean = mean.masked_fill(dist.df2 <= 2, math.inf)
        variance = variance.masked_fill(dist.df2 <= 4, math.inf)
    if isinstance(dist, td.Weibull):
        variance = mean.square() * torch.expm1(_weibull_log_ratio(dist.concentration.reciprocal()))
    if isinstance(dist, td.StudentT):  # the normal law, where torch says NaN
        variance = torch.where(dist.df.isinf(), dist.scale.square(), variance)
    return mean, variance


def _weibull_log_ratio(x: Tensor) -> Tensor:
    """``lgamma(1 + 2 x) - 2 lgamma(1 + x)``, by its series where these cancel."""
    near = x < _NEAR
    small = torch.where(near, x, 0.0)
    series = torch.zeros_like(x)
    for k in range(_TERMS, 1, -1):  # of sum_k zeta(k) (-x)^k (2^k - 2) / k
        series = (-small) * series + float(zeta(k)) * (2.0**k - 2.0) / k
    large = torch.where(near, 1.0, x)
    direct = torch.lgamma(1.0 + 2.0 * large) - 2.0 * torch.lgamma(1.0 + large)
    return torch.where(near, small.square() * series, direct)


def _integrated(dist: Distribution, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of a univariate distribution by quadrature between its outermost quantiles.

    Beyond them a tail goes on as the power of y that the last two of them lie on.  A power that is
    too heavy makes a moment infinite; two such tails make the mean undefined, NaN.
    """
    levels = [q for q in _LEVELS if q > _CDF_ROUNDING or has_exact_tails(dist)]
    with torch.no_grad():
        one = torch.ones(dist.batch_shape, dtype=torch.float64, device=device)
        q = one.new_tensor(levels).view(-1, *(1,) * one.ndim) * one
        upper = torch.zeros_like(q, dtype=torch.bool)
        tails = torch.stack([quantile(dist, q, upper), quantile(dist, q, ~upper)], 1)  # (L, 2, *)
        centre = quantile(dist, 0.5 * one, upper[0])
        ends = torch.stack([end.to(centre).expand_as(centre) for end in bounds(dist)])
        cuts = torch.cat([tails.flatten(0, 1), ends])
        cuts = torch.where(cuts.isfinite(), cuts, centre).sort(dim=0).values
        first, second = (tails[:2] - centre).abs()  # (2, *)
        power = math.log(levels[1] / levels[0]) / (first / second).log()
        power = torch.where(first.isinf(), 0.0, power.nan_to_num(nan=math.inf))
        no_mean, no_variance = (power <= k * (1.0 + _SAME_POWER) for k in (1, 2))
        away, square = (levels[0] * first**k / (1.0 - k / power) for k in (1, 2))
        away, square = away.masked_fill(no_mean, 0.0), square.masked_fill(no_variance, 0.0)
        step = away[1] - away[0]
    mean, variance = moments_by_quadrature(lambda y: log_prob(dist, y), cuts, centre)
    variance = variance + square.sum(0) - step * (step + 2.0 * (mean - centre))
    mean = (mean + step).masked_fill(no_mean[1], math.inf).masked_fill(no_mean[0], -math.inf)
    undefined = no_mean.all(0)
    variance = variance.masked_fill(no_variance.any(0), math.inf)
    return mean.masked_fill(undefined, math.nan), variance.masked_fill(undefined, math.nan)

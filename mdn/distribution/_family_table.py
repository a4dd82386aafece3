r"""What torch's families lack: tails in log space, quantiles from either tail, safe gradients.

For a univariate distribution (event shape ``()``) of any of these families the functions below give
log densities without NaN gradients, the logs of both tails, quantiles from either tail and moments,
all in float64:

================= ============================================= ===============================
family            tails                                         derivatives of the tails
================= ============================================= ===============================
Normal, LogNormal log of the normal cdf                         closed form
LogitNormal       log of the normal cdf                         closed form
Laplace, Logistic closed form in log space                      closed form
Weibull           closed form in log space                      closed form
Student-t         regularised incomplete beta (SciPy)           y, loc, scale: closed form; df: *
Gamma, Poisson    regularised incomplete gamma (SciPy)          y, rate: closed form; shape: *
Beta, negative    regularised incomplete beta (SciPy)           y, logits: closed form;
binomial                                                        shapes: *
von Mises         Gauss-Legendre quadrature, 1e-14              through the quadrature
PointMass         a step                                        none
Exponential,      closed form in log space                      closed form
Pareto, Gumbel,
Kumaraswamy,
Geometric
Cauchy,           arctangent                                    closed form
HalfCauchy
HalfNormal        error function, log of the normal cdf         closed form
Fisher-Snedecor,  regularised incomplete beta (SciPy)           y, logits: closed form;
Binomial                                                        shapes: *
Transformed-      those of its base, if all transforms are      those of its base
Distribution      monotone
others            the log of ``cdf``, and of its complement     torch's
================= ============================================= ===============================

(*) five-point central differences, good to about 1e-8 relative.  Derivatives marked so, and all
others of incomplete gamma and beta functions, are of first order only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import torch
from torch import Tensor
from torch import distributions as td
from torch.nn.functional import logsigmoid

from ..functional._numerics import LOG_2, SQRT_HALF, log1m_exp, log_ndtr
from ._families import Logistic, LogitNormal
from ._incomplete_gamma_beta import (
    BETA,
    GAMMA,
    LOGIT,
    STUDENT,
    law_tails,
    safe_log,
    student_log_slope,
    where_large,
)
from ._large_shapes import LARGE
from ._von_mises import von_mises_log_prob, von_mises_quantile, von_mises_tails

__all__ = ["FAMILY_FUNCTIONS", "FamilyFunctions", "Parameters"]

_LARGEST_EXPONENT = 700.0  # of e, in float64
_NORMAL_DF = 1e20  # of a Student-t

Parameters = dict[str, Tensor]


class FamilyFunctions(NamedTuple):
    """What is known of a family; y is inside the support."""

    tails: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    quantile: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    log_prob: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    affine: Callable[[Parameters, Tensor, Tensor], Parameters | None] | None = None


def _symmetric(log_cdf: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        z = (y - d.loc) / d.scale
        return log_cdf(z), log_cdf(-z)

    return tails


def _from_log_tail(
    log_tail: Callable[[Any, Tensor], Tensor],
    place: Callable[[Any, Tensor], Tensor],
    *,
    lower: bool = False,
) -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]]:
    """Tails and quantiles of a family from the log of its upper (lower) tail and the inverse."""

    def tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        one = log_tail(d, y)
        return (one, log1m_exp(one)) if lower else (log1m_exp(one), one)

    def solve(d: Any, q: Tensor, upper: Tensor) -> Tensor:
        return place(d, torch.where(upper != lower, q.log(), torch.log1p(-q)))

    return tails, solve


def _positive_scale(p: Parameters, shift: Tensor, scale: Tensor) -> Parameters | None:
    return _location_scale(p, shift, scale) if bool((scale > 0).all()) else None


def _location_scale(p: Parameters, shift: Tensor, scale: Tensor) -> Parameters:
    return {"loc": shift + scale * p["loc"], "scale": scale.abs() * p["scale"]}


def _scale_only(name: str, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """For a family of positive numbers, which no shift and no change of sign leaves one."""

    def moved(p: Parameters, shift: Tensor, scale: Tensor) -> Parameters | None:
        fine = bool((shift == 0).all()) and bool((scale > 0).all())
        return {name: change(p[name], scale)} if fine else None

    return moved


def _from_standard(standard: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Quantiles of a symmetric location-scale family from the standard lower ones."""

    def solve(d: Any, q: Tensor, upper: Tensor) -> Tensor:
        return d.loc + d.scale * torch.where(upper, -standard(q), standard(q))

    return solve


def _laplace_log_cdf(z: Tensor) -> Tensor:
    return torch.where(z < 0, z - LOG_2, torch.log1p(-0.5 * torch.exp(-z.abs())))


def _log_normal_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    z = (y.log() - d.loc) / d.scale
    return log_ndtr(z), log_ndtr(-z)


def _log_normal_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    z = torch.special.ndtri(q)
    return (d.loc + d.scale * torch.where(upper, -z, z)).exp()


def _logit_normal_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    z = (torch.logit(y) - d.loc) / d.scale
    return log_ndtr(z), log_ndtr(-z)


def _logit_normal_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    z = torch.special.ndtri(q)
    return torch.sigmoid(d.loc + d.scale * torch.where(upper, -z, z))


def _weibull_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    log_t = d.concentration * (y.log() - d.scale.log())
    t = log_t.exp()
    # log(1 - exp(-t)), which is log t - t / 2 for small t
    small = log_t < -18.0
    ordinary = torch.log(-torch.expm1(-torch.where(small, 1.0, t)))
    return torch.where(small, log_t - 0.5 * t, ordinary), -t


def _weibull_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def ask(y: Tensor) -> Tensor:
        z, c = y / d.scale, d.concentration
        return torch.special.xlogy(c - 1.0, z) - z.pow(c) + (c / d.scale).log()

    return ask


def _weibull_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    return d.scale * torch.where(upper, -q.log(), -torch.log1p(-q)) ** d.concentration.reciprocal()


def _by_scipy(solve: Callable[..., Any], *args: Tensor) -> Tensor:
    found = solve(*(a.detach().cpu().numpy() for a in args))
    return torch.as_tensor(np.asarray(found), dtype=torch.float64, device=args[0].device)


def _df(d: Any) -> Tensor:
    """Degrees of freedom; beyond 1e20 the law is the normal one wherever its tails are not 0."""
    df: Tensor = d.df
    return df.clamp(max=_NORMAL_DF)


def _student_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(STUDENT, (y - d.loc) / d.scale, _df(d))


def _student_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    z = _by_scipy(scipy.special.stdtrit, _df(d), q)
    return d.loc + d.scale * torch.where(upper, -z, z)


def _student_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    return lambda y: student_log_slope((y - d.loc) / d.scale, _df(d)) - d.scale.log()


def _gamma_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def ask(y: Tensor) -> Tensor:
        return GAMMA.log_slope(y * d.rate, d.concentration) + d.rate.log()

    return ask


def _gamma_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(GAMMA, y * d.rate, d.concentration)


def _gamma_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    lower_x = _by_scipy(scipy.special.gammaincinv, d.concentration, q)
    upper_x = _by_scipy(scipy.special.gammainccinv, d.concentration, q)
    return torch.where(upper, upper_x, lower_x) / d.rate


def _beta_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(BETA, y, d.concentration1, d.concentration0)


def _beta_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def ask(y: Tensor) -> Tensor:
        a, b = d.concentration1, d.concentration0
        large = (a + b > LARGE) & (y > 0) & (y < 1)
        return where_large(large, BETA.log_slope, (torch.where(large, y, 0.5), a, b), d.log_prob(y))

    return ask


def _beta_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    a, b = d.concentration1, d.concentration0
    lower_x = _by_scipy(scipy.special.betaincinv, a, b, q)
    upper_x = 1.0 - _by_scipy(scipy.special.betaincinv, b, a, q)
    return torch.where(upper, upper_x, lower_x)


def _poisson_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    return lambda y: GAMMA.log_slope(d.rate, y + 1.0)  # as a gamma density in the rate


def _poisson_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = law_tails(GAMMA, d.rate, y + 1.0)  # sf(k) = P(k + 1, rate)
    return upper, lower


def _negative_binomial_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(LOGIT, -d.logits, d.total_count, y + 1.0)  # I_(1-p)(r, k + 1)


def _negative_binomial_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def stable(y: Tensor, r: Tensor, logits: Tensor) -> Tensor:
        return LOGIT.log_slope(-logits, r, y + 1.0) - logsigmoid(logits) - (r + y).log()

    def ask(y: Tensor) -> Tensor:
        r = d.total_count
        return where_large(r + y > LARGE, stable, (y, r, d.logits), d.log_prob(y))

    return ask


def _geometric_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    upper = (y + 1.0) * torch.log1p(-d.probs)
    return log1m_exp(upper), upper


def _binomial_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(LOGIT, -d.logits, d.total_count - y, y + 1.0)  # I_(1-p)(n - k, k + 1)


def _binomial_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def stable(y: Tensor, n: Tensor, logits: Tensor) -> Tensor:
        both = logsigmoid(logits) + logsigmoid(-logits)
        return LOGIT.log_slope(logits, y + 1.0, n - y + 1.0) - both - (n + 1.0).log()

    def ask(y: Tensor) -> Tensor:
        large = (d.total_count > LARGE) & d.logits.isfinite()
        return where_large(large, stable, (y, d.total_count, d.logits), d.log_prob(y))

    return ask


def _fisher_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    def stable(y: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
        return LOGIT.log_slope((df1 * y / df2).log(), 0.5 * df1, 0.5 * df2) - y.log()

    def ask(y: Tensor) -> Tensor:
        large = (d.df1 + d.df2 > LARGE) & (y > 0)
        return where_large(large, stable, (y, d.df1, d.df2), d.log_prob(y))

    return ask


def _fisher_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(LOGIT, (d.df1 * y / d.df2).log(), 0.5 * d.df1, 0.5 * d.df2)


def _fisher_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    a, b = 0.5 * d.df1, 0.5 * d.df2
    lower_x, upper_x = (_by_scipy(scipy.special.betaincinv, *c, q) for c in ((a, b), (b, a)))
    odds = torch.where(upper, (1.0 - upper_x) / upper_x, lower_x / (1.0 - lower_x))
    return odds * d.df2 / d.df1


def _gumbel_log_cdf(d: Any, y: Tensor) -> Tensor:
    return -((d.loc - y) / d.scale).clamp(max=_LARGEST_EXPONENT).exp()


def _kumaraswamy_log_sf(d: Any, y: Tensor) -> Tensor:
    return d.concentration0 * torch.log1p(-(y**d.concentration1))


def _kumaraswamy_quantile(d: Any, log_sf: Tensor) -> Tensor:
    return (-torch.expm1(log_sf / d.concentration0)) ** d.concentration1.reciprocal()


def _kumaraswamy_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    a, b = d.concentration1, d.concentration0

    def ask(y: Tensor) -> Tensor:
        powers = torch.special.xlogy(a - 1.0, y) + torch.special.xlog1py(b - 1.0, -(y**a))
        return (a * b).log() + powers

    return ask


def _half_normal_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    z = y / d.scale
    return safe_log(torch.erf(z * SQRT_HALF)), LOG_2 + log_ndtr(-z)


def _half_normal_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    return d.scale * torch.where(upper, -torch.special.ndtri(0.5 * q), q.erfinv() / SQRT_HALF)


def _half_cauchy_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    z = y / d.scale
    angles = z.atan(), torch.atan2(torch.ones_like(z), z)
    return safe_log(angles[0] * 2 / math.pi), (angles[1] * 2 / math.pi).log()


def _half_cauchy_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    z = (0.5 * math.pi * q).tan()
    return d.scale * torch.where(upper, z.reciprocal(), z)


_SYMMETRIC: dict[type, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    td.Normal: (log_ndtr, torch.special.ndtri),
    td.Laplace: (_laplace_log_cdf, lambda q: (2.0 * q).log()),
    Logistic: (torch.nn.functional.logsigmoid, lambda q: q.log() - torch.log1p(-q)),
    td.Cauchy: (
        lambda z: (torch.atan2(torch.ones_like(z), -z) / math.pi).log(),
        lambda q: -(math.pi * q).tan().reciprocal(),
    ),
}  # log cdf and lower quantiles of the standard member
FAMILY_FUNCTIONS: dict[type, FamilyFunctions] = {
    **{
        kind: FamilyFunctions(
            _symmetric(log_cdf), _from_standard(quantiles), affine=_location_scale
        )
        for kind, (log_cdf, quantiles) in _SYMMETRIC.items()
    },
    td.LogNormal: FamilyFunctions(
        _log_normal_tails,
        _log_normal_quantile,
        affine=_scale_only("loc", lambda loc, c: loc + c.log()),
    ),
    LogitNormal: FamilyFunctions(_logit_normal_tails, _logit_normal_quantile),
    td.Weibull: FamilyFunctions(
        _weibull_tails,
        _weibull_quantile,
        _weibull_log_prob,
        affine=_scale_only("scale", torch.mul),
    ),
    td.StudentT: FamilyFunctions(
        _student_tails, _student_quantile, _student_log_prob, affine=_location_scale
    ),
    td.Gamma: FamilyFunctions(
        _gamma_tails, _gamma_quantile, _gamma_log_prob, affine=_scale_only("rate", torch.div)
    ),
    td.Beta: FamilyFunctions(_beta_tails, _beta_quantile, _beta_log_prob),
    td.VonMises: FamilyFunctions(von_mises_tails, von_mises_quantile, von_mises_log_prob),
    td.NegativeBinomial: FamilyFunctions(
        _negative_binomial_tails, log_prob=_negative_binomial_log_prob
    ),
    td.Poisson: FamilyFunctions(_poisson_tails, log_prob=_poisson_log_prob),
    td.Geometric: FamilyFunctions(_geometric_tails),
    td.Binomial: FamilyFunctions(_binomial_tails, log_prob=_binomial_log_prob),
    td.FisherSnedecor: FamilyFunctions(_fisher_tails, _fisher_quantile, _fisher_log_prob),
    td.Exponential: FamilyFunctions(
        *_from_log_tail(lambda d, y: -d.rate * y, lambda d, log_sf: -log_sf / d.rate),
        affine=_scale_only("rate", torch.div),
    ),
    td.Pareto: FamilyFunctions(
        *_from_log_tail(
            lambda d, y: -d.alpha * torch.log1p((y - d.scale) / d.scale),
            lambda d, log_sf: d.scale * (-log_sf / d.alpha).exp(),
        ),
        affine=_scale_only("scale", torch.mul),
    ),
    td.Gumbel: FamilyFunctions(
        *_from_log_tail(
            _gumbel_log_cdf, lambda d, log_cdf: d.loc - d.scale * (-log_cdf).log(), lower=True
        ),
        affine=_positive_scale,
    ),
    td.Kumaraswamy: FamilyFunctions(
        *_from_log_tail(_kumaraswamy_log_sf, _kumaraswamy_quantile), _kumaraswamy_log_prob
    ),
    td.HalfNormal: FamilyFunctions(
        _half_normal_tails, _half_normal_quantile, affine=_scale_only("scale", torch.mul)
    ),
    td.HalfCauchy: FamilyFunctions(
        _half_cauchy_tails, _half_cauchy_quantile, affine=_scale_only("scale", torch.mul)
    ),
}

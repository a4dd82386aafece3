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

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from ..functional._numerics import (
    LOG_2,
    SQRT_HALF,
    log1m_exp,
    log_diff_exp,
    log_ndtr,
    log_sum_exp,
)
from ..functional._quadrature import gauss_legendre
from ..functional._roots import find_root
from ._families import Logistic, LogitNormal, PointMass
from ._incomplete_gamma_beta import (
    BETA,
    GAMMA,
    LOGIT,
    STUDENT,
    law_tails,
    safe_log,
    student_log_slope,
)
from ._von_mises import (
    von_mises_log_prob,
    von_mises_quantile,
    von_mises_tails,
)

__all__ = [
    "affine",
    "bounds",
    "has_exact_tails",
    "is_atom",
    "is_circular",
    "is_discrete",
    "joined",
    "log_interval",
    "log_prob",
    "log_tails",
    "quantile",
    "rebuilt",
    "requires_grad",
]


_THIN = 1e-4  # part of a tail below which the difference of two has lost four digits
_THIN_NODES = 10  # of the quadrature over an interval that is so thin

Parameters = dict[str, Tensor]

# -- taking distributions apart ---------------------------------------------------------------


def parameters(dist: Distribution) -> Parameters | None:
    """What the constructor takes, under the whole batch shape; None if that is not known."""
    if isinstance(dist, td.Independent):
        return parameters(dist.base_dist)
    if type(dist) is td.TransformedDistribution:  # by transforms that are the same for all rows
        held = [v for transform in dist.transforms for v in vars(transform).values()]
        varies = any(isinstance(v, Tensor) and (v.ndim or v.requires_grad) for v in held)
        return None if varies else parameters(dist.base_dist)
    # those that the constructor stored, or properties if it stored none
    known = dist.arg_constraints
    names = [n for n in known if n in dist.__dict__] or list(known)
    if "scale_tril" in known:
        names = ["loc", "scale_tril"]
    elif "probs" in known and "logits" in known:
        names = [n for n in known if n not in ("probs", "logits")]
        probs = dist.__dict__.get("probs")
        given = getattr(dist, "_param", probs)  # which Geometric lacks
        names.append("logits" if probs is None or given is not probs else "probs")
    accepted = inspect.signature(type(dist).__init__).parameters
    needed = {n for n, p in accepted.items() if p.default is p.empty and n != "self"}
    if not names or not needed <= set(names) <= set(accepted):
        return None
    found = {n: getattr(dist, n) for n in names}
    return {
        n: p.expand(dist.batch_shape + p.shape[p.ndim - known[n].event_dim :])
        for n, p in found.items()
    }


def _remade(like: Distribution, found: Parameters) -> Distribution:
    """A distribution of the same kind with other parameters."""
    if isinstance(like, td.Independent):
        base = _remade(like.base_dist, found)
        return td.Independent(base, like.reinterpreted_batch_ndims, validate_args=False)
    if type(like) is td.TransformedDistribution:
        base = _remade(like.base_dist, found)
        return td.TransformedDistribution(base, like.transforms, validate_args=False)
    make: Callable[..., Distribution] = type(like)
    new = make(**found, validate_args=False)
    new._validate_args = like._validate_args
    return new


def rebuilt(dist: Distribution, change: Callable[[Tensor], Tensor]) -> Distribution | None:
    """The distribution with ``change`` done to each parameter, or None if they are not known.

    ``change`` gets tensors that begin with the whole batch shape and may only alter those axes,
    the dtype or the device.
    """
    found = parameters(dist)
    return None if found is None else _remade(dist, {n: change(p) for n, p in found.items()})


def joined(dists: Sequence[Distribution], axis: int) -> Distribution | None:
    """One distribution with a batch axis of each one after the other; None if of several kinds."""
    every = [parameters(dist) for dist in dists]
    first = dists[0]
    kinds = {(type(d), type(_base(d)), tuple(p or ())) for d, p in zip(dists, every, strict=True)}
    transforms = [
        base.transforms for base in map(_base, dists) if type(base) is td.TransformedDistribution
    ]
    if every[0] is None or len(kinds) > 1 or any(t != transforms[0] for t in transforms):
        return None
    columns = zip(*((p or {}).values() for p in every), strict=True)
    return _remade(first, {n: torch.cat(c, axis) for n, c in zip(every[0], columns, strict=True)})


def affine(dist: Distribution, shift: Tensor, scale: Tensor) -> Distribution | None:
    """The law of ``shift + scale * y``; None if the family has no such member.

    Args:
        dist: of univariate families.
        shift, scale: broadcast against its parameters; scale is not 0.
    """
    found = parameters(dist)
    change = _affine_point if is_atom(dist) else functions_of(_base(dist)).affine
    if found is None or change is None:
        return None
    moved = change(found, shift, scale)
    return None if moved is None else _remade(dist, {**found, **moved})


def requires_grad(dist: Distribution) -> bool:
    """Whether a parameter does; assumed of a distribution whose parameters are not known."""
    found = parameters(dist)
    return found is None or any(p.requires_grad for p in found.values())


def is_atom(dist: Distribution) -> bool:
    """Whether the distribution is a (product of) point mass(es)."""
    return isinstance(_base(dist), PointMass)


def is_discrete(dist: Distribution) -> bool:
    """Whether the distribution has a probability mass, not a density."""
    return bool(_base(dist).support.is_discrete)  # type: ignore[union-attr]


def is_circular(dist: Distribution) -> bool:
    """Whether the ends of the support are one place."""
    return isinstance(_base(dist), td.VonMises)


def _base(dist: Distribution) -> Distribution:
    while isinstance(dist, td.Independent):
        dist = dist.base_dist
    return dist


def bounds(dist: Distribution) -> tuple[Tensor, Tensor]:
    """The ends of the support, each a scalar or of the batch shape."""
    if isinstance(dist, PointMass):
        return dist.loc, dist.loc
    if isinstance(dist, td.VonMises):
        end = torch.tensor(math.pi, dtype=torch.float64)
        return -end, end
    low = getattr(dist.support, "lower_bound", -math.inf)
    high = getattr(dist.support, "upper_bound", math.inf)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (low, high))
    if functions_of(dist) is not _TRANSFORMED:
        return low, high
    # torch names no more than the range of the last transform
    first, last = (_forward(dist, end) for end in bounds(dist.base_dist))  # type: ignore[attr-defined]
    rising = torch.as_tensor(_direction(dist)) > 0
    least, most = torch.where(rising, first, last), torch.where(rising, last, first)
    return torch.where(low.isfinite(), low, least), torch.where(high.isfinite(), high, most)


def _direction(dist: Distribution) -> Tensor | None:
    """1 where y rises with the base of a transformed distribution, -1 where it falls; or None."""
    if not isinstance(dist, td.TransformedDistribution) or dist.event_shape:
        return None
    sign = torch.ones(())
    try:
        for transform in dist.transforms:
            sign = sign * transform.sign
    except NotImplementedError:  # neither
        return None
    return sign


def _forward(dist: Any, x: Tensor) -> Tensor:
    """y at a place of the base."""
    for transform in dist.transforms:
        x = transform(x)
    return x


def _inner_point(low: Tensor, high: Tensor) -> Tensor:
    """A point inside the support; a whole number if only the lower end is finite."""
    middle = torch.where(high.isfinite(), 0.5 * (low + high), low + 1.0)
    return torch.where(low.isfinite(), middle, torch.where(high.isfinite(), high - 1.0, 0.0))


def _supports(dist: Distribution, y: Tensor) -> Tensor:
    """Whether y lies in the support."""
    if isinstance(dist, td.Weibull):  # torch leaves 0 out, where it may have a mode
        return y >= 0
    inside = dist.support.check(y)  # type: ignore[union-attr]
    if isinstance(dist, td.TransformedDistribution) and type(dist) not in FAMILY_FUNCTIONS:
        for transform in reversed(dist.transforms):
            y = transform.inv(y)
        inside = inside & _supports(dist.base_dist, y)
    return inside


def log_prob(dist: Distribution, y: Tensor) -> Tensor:
    """Log density or log mass; ``-inf``, with gradient 0, outside the support; NaN at NaN.

    Any event shape; a distribution of one that is no product of univariate families is asked as is.
    """
    if isinstance(dist, td.Independent):
        value = log_prob(dist.base_dist, y)
        return value.flatten(value.ndim - dist.reinterpreted_batch_ndims).sum(-1)
    if dist.event_shape:
        return dist.log_prob(y)
    if isinstance(dist, PointMass):
        hit = torch.where(y == dist.loc, 0.0, -math.inf).to(y.dtype)
        return torch.where(y.isnan(), y, hit)
    known = functions_of(dist)
    density = dist.log_prob if known.log_prob is None else known.log_prob(dist)
    y = y.expand(torch.broadcast_shapes(y.shape, dist.batch_shape))
    low, high = bounds(dist)
    inside = _inner_point(low, high).to(y)
    if isinstance(dist, td.VonMises):
        outside = y.abs() > _PI_ROUNDED_UP
    else:
        outside = y.isinf() | ~_supports(dist, torch.where(y.isnan(), inside, y))
    bad = outside | y.isnan()
    value = density(torch.where(bad, inside, y))
    # a density of 0 inside, such as on an end, would turn the gradient into 0 * inf
    zero = value.detach() == -math.inf
    if bool(zero.any()):
        bad = bad | zero
        value = density(torch.where(bad, inside, y))
    return torch.where(y.isnan(), y, value.masked_fill(bad, -math.inf))


def log_tails(dist: Distribution, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of P(Y <= y) and P(Y > y) of a univariate distribution, in float64.

    Raises:
        TypeError: the family has no cdf here or in torch.
    """
    y = y.double().expand(torch.broadcast_shapes(y.shape, dist.batch_shape))
    if isinstance(dist, PointMass):
        zero = torch.where(y.isnan(), y, 0.0)
        return zero.masked_fill(y < dist.loc, -math.inf), zero.masked_fill(y >= dist.loc, -math.inf)
    low, high = (a.to(y.device) for a in bounds(dist))
    if is_discrete(dist):
        y = y.floor()
        below = y < low
    else:
        below = y <= low
    above = y >= high
    lower, upper = functions_of(dist).tails(
        dist, torch.where(below | above, _inner_point(low, high), y)
    )
    return (
        lower.masked_fill(below, -math.inf).masked_fill(above, 0.0),
        upper.masked_fill(below, 0.0).masked_fill(above, -math.inf),
    )


def log_interval(dist: Distribution, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of P(low <= Y <= high) and of the rest, of a univariate distribution, in float64.

    A difference in the smaller tail; where that would cancel, the integral of the density.
    """
    low, high = torch.broadcast_tensors(low.double(), high.double())
    if isinstance(dist, PointMass):
        hit = (low <= dist.loc) & (dist.loc <= high)
        inside = torch.where(hit, 0.0, -math.inf).double()
        return inside, torch.where(hit, -math.inf, 0.0).double()
    discrete = is_discrete(dist)
    below_low, above_low = log_tails(dist, low.ceil() - 1.0 if discrete else low)
    below_high, above_high = log_tails(dist, high)
    left = below_high < above_low
    larger = torch.where(left, below_high, above_low)
    smaller = torch.where(left, below_low, above_high)
    thin = (larger - smaller < _THIN) & (low < high) & (not discrete)
    empty = (low > high) if discrete else (low >= high)
    inside = log_diff_exp(larger, torch.where(thin | empty, larger - 1.0, smaller))
    if bool(thin.any()):
        x, w = (a.to(low) for a in gauss_legendre(_THIN_NODES))
        half = 0.5 * torch.where(thin, high - low, 1.0)
        at = torch.where(thin, 0.5 * low + 0.5 * high, _inner_point(*bounds(dist)).to(low))
        terms = log_prob(dist, (at.unsqueeze(0) + (half * thin).unsqueeze(0) * _column(x, half)))
        integral = log_sum_exp(terms + _column(w, half).log(), 0) + half.log()
        inside = torch.where(thin, integral, inside)
    outside = log_sum_exp(torch.stack([below_low, above_high]), 0)
    return inside.masked_fill(empty, -math.inf), outside.masked_fill(empty, 0.0)


def _column(a: Tensor, like: Tensor) -> Tensor:
    return a.view(-1, *(1,) * like.ndim)


@torch.no_grad()
def quantile(dist: Distribution, q: Tensor, upper: Tensor) -> Tensor:
    """The y with P(Y <= y) = q, or P(Y > y) = q where ``upper``; continuous families; float64.

    A place to begin a search from: rounded, and rough for the von Mises.

    Args:
        dist: univariate, continuous or a point mass.
        q: probability of the tail, in (0, 1/2].
        upper: which tail, of the shape of q.
    """
    q, upper = torch.broadcast_tensors(q, upper)
    shape = torch.broadcast_shapes(q.shape, dist.batch_shape)
    if isinstance(dist, PointMass):
        return dist.loc.double().expand(shape)
    solve = functions_of(dist).quantile
    if solve is not None:
        return solve(dist, q, upper).expand(shape)
    q, upper = q.expand(shape), upper.expand(shape)
    log_q, sign = q.log(), torch.where(upper, -1.0, 1.0).double()

    def excess(y: Tensor) -> Tensor:
        lower_tail, upper_tail = log_tails(dist, y)
        return sign * (torch.where(upper, upper_tail, lower_tail) - log_q)

    low, high = (a.to(q.device).expand(shape) for a in bounds(dist))
    try:
        centre, spread = dist.mean.double(), dist.variance.double().sqrt()
    except NotImplementedError:
        centre, spread = q.new_zeros(()), q.new_ones(())
    centre, spread = centre.nan_to_num(), torch.where(spread.isfinite(), spread, 1.0)
    left, right = (centre - spread).expand(shape), (centre + spread).expand(shape)
    for _ in range(_EXPANSIONS):
        short_left, short_right = excess(left.clamp(low, high)) > 0, excess(right) < 0
        short_left, short_right = short_left & (left > low), short_right & (right < high)
        if not bool((short_left | short_right).any()):
            break
        width = right - left
        left = torch.where(short_left, left - width, left)
        right = torch.where(short_right, right + width, right)
    return find_root(excess, left.clamp(low, high), right.clamp(low, high))


# -- the families -----------------------------------------------------------------------------

_PI_ROUNDED_UP = 3.1415927410125732  # pi in float32, which draws may be
_LARGEST_EXPONENT = 700.0  # of e, in float64
_EXPANSIONS = 1100  # doublings of a bracket, to the largest float64


class FamilyFunctions(NamedTuple):
    """What is known of a family; y is inside the support."""

    tails: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    quantile: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    log_prob: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    affine: Callable[[Parameters, Tensor, Tensor], Parameters | None] | None = None


def has_exact_tails(dist: Distribution) -> bool:
    """Whether both tails keep their digits, where a cdf loses them in the upper one."""
    return functions_of(dist) is not _OTHER


def functions_of(dist: Distribution) -> FamilyFunctions:
    for kind in type(dist).__mro__:
        if kind in FAMILY_FUNCTIONS:
            return FAMILY_FUNCTIONS[kind]
    return _OTHER if _direction(dist) is None else _TRANSFORMED


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


def _affine_point(p: Parameters, shift: Tensor, scale: Tensor) -> Parameters:
    return {"loc": shift + scale * p["loc"]}


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


def _student_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(STUDENT, (y - d.loc) / d.scale, d.df)


def _student_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    z = _by_scipy(scipy.special.stdtrit, d.df, q)
    return d.loc + d.scale * torch.where(upper, -z, z)


def _student_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    return lambda y: student_log_slope((y - d.loc) / d.scale, d.df) - d.scale.log()


def _gamma_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(GAMMA, y * d.rate, d.concentration)


def _gamma_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    lower_x = _by_scipy(scipy.special.gammaincinv, d.concentration, q)
    upper_x = _by_scipy(scipy.special.gammainccinv, d.concentration, q)
    return torch.where(upper, upper_x, lower_x) / d.rate


def _beta_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(BETA, y, d.concentration1, d.concentration0)


def _beta_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    a, b = d.concentration1, d.concentration0
    lower_x = _by_scipy(scipy.special.betaincinv, a, b, q)
    upper_x = 1.0 - _by_scipy(scipy.special.betaincinv, b, a, q)
    return torch.where(upper, upper_x, lower_x)


def _poisson_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = law_tails(GAMMA, d.rate, y + 1.0)  # sf(k) = P(k + 1, rate)
    return upper, lower


def _negative_binomial_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(LOGIT, -d.logits, d.total_count, y + 1.0)  # I_(1-p)(r, k + 1)


def _geometric_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    upper = (y + 1.0) * torch.log1p(-d.probs)
    return log1m_exp(upper), upper


def _binomial_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    return law_tails(LOGIT, -d.logits, d.total_count - y, y + 1.0)  # I_(1-p)(n - k, k + 1)


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


# -- any other family of torch ----------------------------------------------------------------


def _transformed_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    for transform in reversed(d.transforms):
        y = transform.inv(y)
    lower, upper = log_tails(d.base_dist, y)
    rising = torch.as_tensor(_direction(d)) > 0
    return torch.where(rising, lower, upper), torch.where(rising, upper, lower)


def _transformed_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    return _forward(d, quantile(d.base_dist, q, upper ^ (torch.as_tensor(_direction(d)) < 0)))


def _other_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    try:
        p = d.cdf(y)
    except NotImplementedError:
        raise TypeError(
            f"components must have a cdf for this; {type(d).__name__} has none in torch or here. "
            "log_prob and sample need none"
        ) from None
    p = p.clamp(0.0, 1.0)  # the support may be smaller than its transform says
    return safe_log(p), safe_log(1.0 - p)


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
    td.Gamma: FamilyFunctions(_gamma_tails, _gamma_quantile, affine=_scale_only("rate", torch.div)),
    td.Beta: FamilyFunctions(_beta_tails, _beta_quantile),
    td.VonMises: FamilyFunctions(von_mises_tails, von_mises_quantile, von_mises_log_prob),
    td.NegativeBinomial: FamilyFunctions(_negative_binomial_tails),
    td.Poisson: FamilyFunctions(_poisson_tails),
    td.Geometric: FamilyFunctions(_geometric_tails),
    td.Binomial: FamilyFunctions(_binomial_tails),
    td.FisherSnedecor: FamilyFunctions(_fisher_tails, _fisher_quantile),
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
_TRANSFORMED = FamilyFunctions(_transformed_tails, _transformed_quantile)
_OTHER = FamilyFunctions(_other_tails)

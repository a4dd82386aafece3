"""What mixtures ask of a torch distribution on the line: its parameters, tails and quantiles.

The closed forms of each family are in :mod:`._family_table`; the functions here take them from
there, or compute the answer from the log density and the cdf of torch.  All in float64.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from ..functional._checks import broadcast_shapes
from ..functional._numerics import is_recorded, log_diff_exp, log_sum_exp
from ..functional._quadrature import gauss_legendre
from ..functional._roots import find_root
from ._families import PointMass
from ._family_table import FAMILY_FUNCTIONS, FamilyFunctions, Parameters
from ._incomplete_gamma_beta import safe_log

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
_PI_ROUNDED_UP = 3.1415927410125732  # pi in float32, which draws may be
_EXPANSIONS = 1100  # doublings of a bracket, to the largest float64

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


def _affine_point(p: Parameters, shift: Tensor, scale: Tensor) -> Parameters:
    return {"loc": shift + scale * p["loc"]}


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
    y = y.expand(broadcast_shapes(y.shape, dist.batch_shape))
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
    if is_recorded() or bool(zero.any()):
        bad = bad | zero
        value = density(torch.where(bad, inside, y))
    return torch.where(y.isnan(), y, value.masked_fill(bad, -math.inf))


def log_tails(dist: Distribution, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of P(Y <= y) and P(Y > y) of a univariate distribution, in float64.

    Raises:
        TypeError: the family has no cdf here or in torch.
    """
    y = y.double().expand(broadcast_shapes(y.shape, dist.batch_shape))
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
    shape = broadcast_shapes(q.shape, dist.batch_shape)
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


# -- the functions of a family ----------------------------------------------------------------


def has_exact_tails(dist: Distribution) -> bool:
    """Whether both tails keep their digits, where a cdf loses them in the upper one."""
    return functions_of(dist) is not _OTHER


def functions_of(dist: Distribution) -> FamilyFunctions:
    for kind in type(dist).__mro__:
        if kind in FAMILY_FUNCTIONS:
            return FAMILY_FUNCTIONS[kind]
    return _OTHER if _direction(dist) is None else _TRANSFORMED


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


_TRANSFORMED = FamilyFunctions(_transformed_tails, _transformed_quantile)
_OTHER = FamilyFunctions(_other_tails)

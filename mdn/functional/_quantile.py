"""Quantiles of Gaussian mixtures in one dimension, and their gradients.

The event axis is gone: p (*), and logits, loc, scale (*, K).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import broadcast_shapes, check_levels
from ._diagonal import component_log_prob, log_weights, standardize
from ._numerics import HALF_LOG_2PI, SQRT_HALF, TransformableFunction, log_ndtr, result_dtype

__all__ = ["mixture_icdf"]

_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_CDF_NOISE = 4 * 2.0**-53  # relative rounding of a cdf in float64: nothing to gain below it
_ROUGH_PASSES = 2  # with the cheaper cdf
_COMPACT_BELOW = 0.7  # share of open quantiles below which the others are dropped
_MAX_CURVATURE = 4.0  # above it a step is unreliable: the density almost vanishes
_MANY_LEVELS = 16  # from here on knots pay
_KNOTS = (-1.8, -0.6, 0.6, 1.8)  # in scales around each component
_DENSE_PASSES = 2  # after which the few open ones are collected
_MAX_PASSES = 2200  # bisection alone needs 2100 halvings from 1e308 to 1e-308


def mixture_icdf(p: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Quantiles, (*): p (*) against logits, loc, scale (*, K); runs in float64."""
    dtype = result_dtype(p, logits, loc, scale)
    weights = log_weights(logits.double())
    y = _Quantile.apply(p.double(), weights, loc.double(), scale.double())
    return y.to(dtype)


class _Quantile(TransformableFunction):
    """The root of F(y) = p, with the gradient of the implicit function."""

    saves_output = True

    @staticmethod
    def forward(p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        check_levels(p)
        out, y, levels, params = _levels_by_mixtures(p, log_w, loc, scale)
        n_components = params[0].shape[-1]
        block = max(1, min(len(levels), _CHUNK // n_components))
        step = max(1, _CHUNK // (n_components * block))
        rest = []  # the few that need many passes, solved together at the end
        for i in range(0, levels.shape[1], step):
            chosen = [a[i : i + step].t().contiguous() for a in params]  # (K, n)
            for j in range(0, len(levels), block):
                part = slice(j, j + block), slice(i, i + step)
                y[part], left = _solve(levels[part], *chosen, max_passes=_DENSE_PASSES)
                width = chosen[0].shape[1]
                rest.append(torch.stack([left // width + j, left % width + i]))
        if rest:
            for at in torch.cat(rest, 1).split(_CHUNK // n_components + 1, 1):
                own = (a[at[1]].t().contiguous() for a in params)
                level = levels[tuple(at)].unsqueeze(0)
                y[tuple(at)] = _solve(level, *own, max_passes=_MAX_PASSES)[0][0]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        end, slopes = _quantile_slopes(*ctx.saved_tensors)
        grad = torch.where(end, 0.0, grad).unsqueeze(-1)
        grads = ((grad * slopes[0]).squeeze(-1), *(grad * slope for slope in slopes[1:]))
        return tuple(g.sum_to_size(a.shape) for g, a in zip(grads, ctx.saved_tensors, strict=False))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        end, slopes = _quantile_slopes(*ctx.saved_tensors)
        move = torch.zeros_like(ctx.saved_tensors[4])
        for slope, tangent in zip(slopes, tangents, strict=True):
            if tangent is not None:
                whole = tangent.unsqueeze(-1) if slope is slopes[0] else tangent
                move = move + (slope * whole).sum(-1)
        return torch.where(end, 0.0, move)


def _levels_by_mixtures(
    p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """An empty result, itself and the levels as (L, R) for R mixtures, and the parameters (R, K).

    Nothing of size (L, R, K) is made.
    """
    batch = broadcast_shapes(p.shape, log_w.shape[:-1], loc.shape[:-1], scale.shape[:-1])
    params = torch.broadcast_tensors(log_w, loc, scale)  # (*, K)
    k = params[0].shape[-1]
    rows = params[0].shape[:-1]
    while rows and rows[0] == 1:  # axes that only the levels have
        rows = rows[1:]
    if batch[len(batch) - len(rows) :] != rows:  # levels vary inside the batch of the mixtures
        rows = batch
    flat = [a.expand(*(1,) * (a.ndim - 1 - len(rows)), *rows, k).reshape(-1, k) for a in params]
    n_rows = math.prod(rows)
    levels = p.expand(batch).reshape(-1, n_rows) if n_rows else p.expand(batch).reshape(0, 0)
    out = torch.empty(batch, dtype=p.dtype, device=p.device)
    return out, out.view(levels.shape), levels, flat


def _quantile_slopes(
    p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor, y: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Where the quantile is at an end or NaN, and dy / d(p, log_w, loc, scale), (*, 1 or K)."""
    end = ~torch.isfinite(y)  # there the quantile does not move
    y = torch.where(end, 0.0, y)
    z = standardize(y.unsqueeze(-1), loc, scale)
    log_f = component_log_prob(y, log_w, loc, scale)  # (*, K)
    log_p = torch.logsumexp(log_f, -1, keepdim=True)
    r = (log_f - log_p).exp()
    # F_k or -(1 - F_k): the same on normalised weights, but the smaller tail has the digits
    upper = p.unsqueeze(-1) > 0.5
    tail = (log_w + log_ndtr(torch.where(upper, -z, z)) - log_p).exp()
    return end, ((-log_p).exp(), torch.where(upper, tail, -tail), r, r * z)


class _Mixtures(NamedTuple):
    """What the iteration needs of n mixtures."""

    loc: Tensor  # (K, 1, n)
    inv: Tensor  # (K, 1, n), 1 / scale
    height: Tensor  # (K, 1, n), weight times density at the mean
    half: Tensor  # (K, 1, n), weight / 2
    short: Tensor  # (1, n), a step after which, its error being cubic, nothing is left to correct


class _State(NamedTuple):
    """Of the search for each root, (L, n)."""

    y: Tensor
    low: Tensor  # of the bracket
    high: Tensor
    last: Tensor  # length of the last step, or half the bracket where that was bisected


def _solve(
    p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor, *, max_passes: int
) -> tuple[Tensor, Tensor]:
    """Roots of F(y) = p in float64, and the flat indices of those not found yet.

    Shapes: p (L, n), the rest (K, n).

    The lower tail is solved (the upper one mirrored), by Halley's iteration on log F inside a
    bracket that is exact and free: the quantile lies between the least and the greatest quantile of
    the components.  A step may cycle inside a bracket, so one that does not halve gives way to
    bisection.
    """
    upper = p > 0.5
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    tail = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    solvable = tail > 0  # not 0, nor NaN
    q = torch.where(solvable, tail, 0.25)
    mixtures, state = _start(q, sign, *(a.unsqueeze(1) for a in (log_w, loc, scale)))
    # erf takes half the time of erfc and is exact enough for first steps, away from the tail
    rough = _ROUGH_PASSES if bool((q > 1e-4).all()) else 0
    if rough and len(p) >= _MANY_LEVELS:
        below, above, y = (sign * a for a in _interpolated(p, *mixtures[:4]))
        low = torch.maximum(state.low, torch.minimum(below, above))
        high = torch.minimum(state.high, torch.maximum(below, above))
        state = _State(y.clamp(low, high), low, high, high - low)
        rough = 1
    found, rest = _iterate(q, sign, state, mixtures, rough, max_passes)
    ends = torch.where(tail == 0, -math.inf, tail)  # NaN stays
    y = torch.where(solvable, found.reshape(p.shape), ends) * torch.where(upper, -1.0, 1.0)
    return y, rest


def _start(
    q: Tensor, sign: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor
) -> tuple[_Mixtures, _State]:
    """Starts at the mean quantile of the components, between the least and the greatest."""
    active = log_w > -math.inf
    quantile = sign * loc + scale * torch.special.ndtri(q)  # (K, L, n)
    low = torch.where(active, quantile, math.inf).amin(0)
    high = torch.where(active, quantile, -math.inf).amax(0)
    weight = log_w.exp()
    y = quantile.mul_(weight).sum(0).clamp(low, high)
    inv = scale.reciprocal()
    short = 1e-6 * torch.where(active, scale, math.inf).amin(0)
    height = weight * inv * math.exp(-HALF_LOG_2PI)
    return _Mixtures(loc, inv, height, 0.5 * weight, short), _State(y, low, high, high - low)


def _iterate(
    q: Tensor, sign: Tensor, state: _State, mixtures: _Mixtures, rough: int, max_passes: int
) -> tuple[Tensor, Tensor]:
    """Roots, flat, and the flat indices of those not found; the first ``rough`` passes find none.

    Entries that are done are dropped once there are enough of them.
    """
    found = torch.empty_like(q).flatten()
    place: Tensor | None = None  # of the open ones among all, once the others are dropped
    open_ = torch.ones_like(q, dtype=torch.bool)
    for passes in range(rough + max_passes):
        settled, done, state = _halley_step(q, sign, state, mixtures, rough=passes < rough)
        if passes < rough:
            continue
        new = done & open_
        at = new.flatten().nonzero().squeeze(-1) if place is None else place[new.flatten()]
        found[at] = settled[new]
        open_ &= ~done
        left = int(open_.sum())
        if not left:
            return found, q.new_empty(0, dtype=torch.long)
        if left < _COMPACT_BELOW * open_.numel():  # copying costs a third of a pass
            keep = open_.flatten().nonzero().squeeze(-1)
            place = keep if place is None else place[keep]
            column = keep % mixtures.loc.shape[-1]
            mixtures = _Mixtures(*(a.index_select(-1, column) for a in mixtures))
            sign, q, open_, *kept = (
                a.flatten()[keep].unsqueeze(0) for a in (sign, q, open_, *state)
            )
            state = _State(*kept)
    rest = open_.flatten().nonzero().squeeze(-1)
    return found, rest if place is None else place[rest]


def _halley_step(
    q: Tensor, sign: Tensor, state: _State, mixtures: _Mixtures, *, rough: bool
) -> tuple[Tensor, Tensor, _State]:
    """Roots where they are found, where that is, and the next state."""
    y, low, high, last = state
    loc, inv, height, half, short = mixtures
    z = (y * sign - loc).mul_(inv).mul_(sign)
    if rough:
        cdf = torch.erf(z * SQRT_HALF).add_(1.0).mul_(half).sum(0)
    else:
        cdf = torch.erfc(z * -SQRT_HALF).mul_(half).sum(0)
    parts = torch.exp(z.square().mul_(-0.5)).mul_(height)
    pdf = parts.sum(0)
    above = cdf > q
    high = torch.where(above, y, high)
    low = torch.where(above, low, y)
    error = cdf - q
    ratio = error / q
    # log1p keeps the digits that log(cdf) - log(q) loses
    log_ratio = torch.where(ratio.abs() < 0.1, torch.log1p(ratio), torch.log(cdf / q))
    move = -log_ratio * cdf / pdf
    curvature = (parts.mul_(z).mul_(inv).sum(0) / pdf + pdf / cdf) * move * -0.5
    move = move / torch.where(curvature > -0.5, 1.0 + curvature, 1.0)
    target = y + move
    width = high - low
    size = move.abs()
    # bisect on NaN too (cdf or pdf underflowed), so the comparison is written to fail on it
    accepted = (size <= 0.5 * last) & (target >= low) & (target <= high)
    accepted &= curvature < _MAX_CURVATURE
    target = torch.where(accepted, target, 0.5 * low + 0.5 * high)
    eps = 2.0**-53 * torch.maximum(low.abs(), high.abs())
    exact = error.abs() <= _CDF_NOISE * q
    done = exact | (width <= 2 * eps) | (accepted & (size <= torch.maximum(eps, short)))
    last = torch.where(accepted, size, 0.5 * width)
    return torch.where(exact, y, target), done, _State(target, low, high, last)


def _interpolated(
    p: Tensor, loc: Tensor, inv: Tensor, height: Tensor, half: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Brackets and a first guess for many levels of one mixture, each (L, n).

    The cdf is taken at a few knots around every component, and inverted between them by the cubic
    that has its slopes.
    """
    offsets = torch.tensor(_KNOTS, dtype=p.dtype, device=p.device).reshape(-1, 1, 1)
    x = (loc.transpose(0, 1) + offsets / inv.transpose(0, 1)).flatten(0, 1).sort(0).values  # (G, n)
    z = (x - loc).mul_(inv)  # (K, G, n)
    cdf = torch.erf(z * SQRT_HALF).add_(1.0).mul_(half).sum(0).t().contiguous()  # (n, G)
    pdf = torch.exp(z.square_().mul_(-0.5)).mul_(height).sum(0).t()
    x = x.t()
    right = torch.searchsorted(cdf, p.t().contiguous()).clamp_(1, cdf.shape[1] - 1)
    left = right - 1
    f0, f1, x0, x1 = (a.gather(1, i) for a in (cdf, x) for i in (left, right))
    slopes = pdf.reciprocal()
    h = f1 - f0
    m0, m1 = (slopes.gather(1, i) * h for i in (left, right))
    t = ((p.t() - f0) / h).clamp(0.0, 1.0)
    cubic = x0 + t * (m0 + t * (3 * (x1 - x0) - 2 * m0 - m1 + t * (m0 + m1 - 2 * (x1 - x0))))
    monotone = (cubic >= x0) & (cubic <= x1)  # not so where the density almost vanishes
    guess = torch.where(monotone, cubic, x0 + t.nan_to_num(nan=0.5) * (x1 - x0))
    # a level outside the knots keeps the bracket it has
    outside = (p.t() <= cdf[:, :1]) | (p.t() >= cdf[:, -1:])
    lower = torch.where(outside, -math.inf, x0)
    upper = torch.where(outside, math.inf, x1)
    return lower.t(), upper.t(), guess.t()

"""One target dimension: cdf, quantile and CRPS of Gaussian mixtures.

Here the event axis is gone: y (*), and logits, loc, scale (*, K).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from ._diagonal import check_weights, log_weights, move_to_front, result_dtype, work_dtype

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
_LOG_HALF = -math.log(2.0)
_Z_TOP = 38.0  # the upper tail of a normal is below the smallest float64 from here on
_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_CRPS_CHUNK = 1 << 17  # numbers in one working array of the CRPS: enough for several threads
# Powers of ten that scales may reach either way before their squares leave the dtype.
_CRPS_DECADES = {torch.float32: 15.0, torch.float64: 150.0}
_CDF_NOISE = 4 * 2.0**-53  # relative rounding of a cdf in float64: nothing to gain below it
_STEERING_PASSES = 2  # with the cheaper cdf
_COMPACT_BELOW = 0.7  # share of open quantiles below which the others are dropped
_BENT = 4.0  # curvature from which on a step says little, as where the density all but vanishes
_MANY_LEVELS = 16  # from here on knots pay
_KNOTS = (-1.8, -0.6, 0.6, 1.8)  # in scales around each component
_DENSE_PASSES = 2  # after which the few that are left are put aside
_MAX_PASSES = 2200  # bisection alone needs 2100 halvings from 1e308 to 1e-308


def mixture_log_cdf(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log cdf, (*).  Runs in float64, as torch's float32 tail functions carry only 5 digits."""
    dtype = result_dtype(y, logits, loc, scale)
    y64, loc64, scale64 = y.double(), loc.double(), scale.double()
    weights = log_weights(logits.double())
    z = ((y64.unsqueeze(-1) - loc64) / scale64).clamp(-1e150, 1e150)
    lower = torch.logsumexp(weights + _log_ndtr(z), -1)
    upper = torch.logsumexp(weights + _log_ndtr(-z), -1)
    near_one = upper < _LOG_HALF  # then the complement carries the digits
    out = torch.where(near_one, torch.log1p(-torch.where(near_one, upper, -1.0).exp()), lower)
    out = torch.where(y64 == -math.inf, -math.inf, out)
    return out.to(dtype)


class _LogNdtr(Function):
    """Log of the normal cdf in float64.

    Torch's own has no rule for vmap, and NaN for a second derivative far above 0.
    """

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.special.log_ndtr(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _Hazard.apply(ctx.saved_tensors[0])

    jvp = backward

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], z: Tensor) -> tuple[Tensor, int]:
        return _LogNdtr.apply(z), in_dims[0]


class _Hazard(Function):
    """phi(z) / Phi(z) in float64, with the derivative -h (z + h)."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) / torch.special.erfcx(z * -_SQRT_HALF)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z, h = ctx.saved_tensors
        # z + h cancels far below 0; there it is 1/|z| (1 - 2/z^2 + ...)
        inverse = torch.where(z < -1e3, z, -1e3).reciprocal()
        gap = torch.where(z < -1e3, -inverse * (1 - 2 * inverse * inverse), z + h)
        return -grad * h * gap

    jvp = backward

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], z: Tensor) -> tuple[Tensor, int]:
        return _Hazard.apply(z), in_dims[0]


def _log_ndtr(z: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.special.log_ndtr(z.clamp(max=_Z_TOP))
    return _LogNdtr.apply(z.clamp(max=_Z_TOP))


def mixture_icdf(p: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Quantiles, (*): p (*) against logits, loc, scale (*, K); runs in float64."""
    dtype = result_dtype(p, logits, loc, scale)
    weights = log_weights(logits.double())
    y = _Quantile.apply(p.double(), weights, loc.double(), scale.double())
    return y.to(dtype)


class _Quantile(Function):
    """The root of F(y) = p, with the gradient of the implicit function."""

    @staticmethod
    def forward(p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        outside = (p < 0) | (p > 1)
        if bool(outside.any()):
            first = tuple(outside.nonzero()[0].tolist())
            raise ValueError(f"p must lie in [0, 1]; got {p[first].item():g} at index {first}")
        batch = torch.broadcast_shapes(p.shape, log_w.shape[:-1], loc.shape[:-1], scale.shape[:-1])
        params = torch.broadcast_tensors(log_w, loc, scale)  # (*, K)
        n_components = params[0].shape[-1]
        rows = params[0].shape[:-1]
        while rows and rows[0] == 1:  # axes that only the levels have
            rows = rows[1:]
        if batch[len(batch) - len(rows) :] != rows:  # levels vary inside the batch of the mixtures
            rows = batch
        # (L, R) levels of R mixtures; nothing of size (L, R, K) but in parts
        flat = [
            a.expand(*(1,) * (a.ndim - 1 - len(rows)), *rows, n_components).reshape(
                -1, n_components
            )
            for a in params
        ]
        n_rows = math.prod(rows)
        levels = p.expand(batch).reshape(-1, n_rows) if n_rows else p.expand(batch).reshape(0, 0)
        out = torch.empty(batch, dtype=p.dtype, device=p.device)
        y = out.view(levels.shape)
        block = max(1, min(len(levels), _CHUNK // n_components))
        step = max(1, _CHUNK // (n_components * block))
        rest = []  # the few that take many passes, solved together at the end
        for i in range(0, n_rows, step):
            chosen = [a[i : i + step].t().contiguous() for a in flat]  # (K, n)
            for j in range(0, len(levels), block):
                part = slice(j, j + block), slice(i, i + step)
                y[part], left = _solve(levels[part], *chosen, max_passes=_DENSE_PASSES)
                rest.append(
                    torch.stack([left // chosen[0].shape[1] + j, left % chosen[0].shape[1] + i])
                )
        if rest:
            level, row = torch.cat(rest, 1)
            for k in range(0, len(row), _CHUNK // n_components + 1):
                at = (
                    level[k : k + _CHUNK // n_components + 1],
                    row[k : k + _CHUNK // n_components + 1],
                )
                own = (a[at[1]].t().contiguous() for a in flat)
                y[at] = _solve(levels[at].unsqueeze(0), *own, max_passes=_MAX_PASSES)[0][0]
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

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

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Tensor) -> tuple[Tensor, int]:
        # ranks are equal on entry and grow by one each, so broadcasting is unchanged
        front = (move_to_front(a, d, info.batch_size) for a, d in zip(args, in_dims, strict=True))
        return _Quantile.apply(*front), 0


def _quantile_slopes(
    p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor, y: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Where the quantile is at an end or NaN, and dy / d(p, log_w, loc, scale), (*, 1 or K)."""
    end = ~torch.isfinite(y)  # there the quantile does not move
    z = (torch.where(end, 0.0, y).unsqueeze(-1) - loc) / scale
    log_f = log_w - scale.log() - 0.5 * z * z - _HALF_LOG_2PI  # (*, K)
    log_p = torch.logsumexp(log_f, -1, keepdim=True)
    r = (log_f - log_p).exp()
    # F_k or -(1 - F_k): the same on normalised weights, but the smaller tail has the digits
    upper = p.unsqueeze(-1) > 0.5
    tail = (log_w + _log_ndtr(torch.where(upper, -z, z)) - log_p).exp()
    return end, ((-log_p).exp(), torch.where(upper, tail, -tail), r, r * z)


def _solve(
    p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor, *, max_passes: int
) -> tuple[Tensor, Tensor]:
    """Roots of F(y) = p in float64, and the flat places of those not found yet.

    Shapes: p (L, n), the rest (K, n).

    The lower tail is solved (the upper one mirrored), by Halley's iteration on log F inside a
    bracket that is exact and free: the quantile lies between the least and the greatest quantile of
    the components.  A step may cycle inside a bracket, so one that does not halve gives way to
    bisection.
    """
    shape = p.shape
    upper = p > 0.5
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    tail = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    solvable = tail > 0  # not 0, nor NaN
    q = torch.where(solvable, tail, 0.25)
    log_w, loc, scale = (a.unsqueeze(1) for a in (log_w, loc, scale))  # (K, 1, n)
    alive = log_w > -math.inf
    quantile = sign * loc + scale * torch.special.ndtri(q)  # (K, L, n)
    low = torch.where(alive, quantile, math.inf).amin(0)
    high = torch.where(alive, quantile, -math.inf).amax(0)
    weight = log_w.exp()
    y = quantile.mul_(weight).sum(0).clamp(low, high)
    del quantile
    inv = scale.reciprocal()
    slope = weight * inv * math.exp(-_HALF_LOG_2PI)
    half = 0.5 * weight
    # Halley's error is cubic: after a step this short (in scales) nothing is left to correct
    short = 1e-6 * torch.where(alive, scale, math.inf).amin(0)
    # erf takes half the time of erfc and is exact enough to steer by, away from the tail
    steer = _STEERING_PASSES if bool((q > 1e-4).all()) else 0
    if steer and shape[0] >= _MANY_LEVELS:
        below, above_, y = (sign * a for a in _interpolated(p, loc, inv, slope, half))
        low = torch.maximum(low, torch.minimum(below, above_))
        high = torch.minimum(high, torch.maximum(below, above_))
        y = y.clamp(low, high)
        steer = 1
    last = high - low
    found = torch.empty_like(q).flatten()
    place: Tensor | None = None  # of the open ones among all, once the others are dropped
    open_ = torch.ones_like(q, dtype=torch.bool)
    rest = torch.empty(0, dtype=torch.long, device=q.device)
    for passes in range(steer + max_passes):
        z = (y * sign - loc).mul_(inv).mul_(sign)
        if passes < steer:
            cdf = torch.erf(z * _SQRT_HALF).add_(1.0).mul_(half).sum(0)
        else:
            cdf = torch.erfc(z * -_SQRT_HALF).mul_(half).sum(0)
        parts = torch.exp(z.square().mul_(-0.5)).mul_(slope)
        pdf = parts.sum(0)
        above = cdf > q
        high = torch.where(above, y, high)
        low = torch.where(above, low, y)
        error = cdf - q
        ratio = error / q
        # log1p keeps the digits that log(cdf) - log(q) loses
        log_ratio = torch.where(ratio.abs() < 0.1, torch.log1p(ratio), torch.log(cdf / q))
        move = -log_ratio * cdf / pdf
        bend = (parts.mul_(z).mul_(inv).sum(0) / pdf + pdf / cdf) * move * -0.5
        move = move / torch.where(bend > -0.5, 1.0 + bend, 1.0)
        target = y + move
        width = high - low
        size = move.abs()
        # bisect on NaN too (cdf or pdf underflowed), so the comparison is written to fail on it
        newton = (size <= 0.5 * last) & (target >= low) & (target <= high) & (bend < _BENT)
        target = torch.where(newton, target, 0.5 * low + 0.5 * high)
        eps = 2.0**-53 * torch.maximum(low.abs(), high.abs())
        exact = error.abs() <= _CDF_NOISE * q
        done = exact | (width <= 2 * eps) | (newton & (size <= torch.maximum(eps, short)))
        last = torch.where(newton, size, 0.5 * width)
        settled = torch.where(exact, y, target)
        y = target
        if passes < steer:
            continue
        new = done & open_
        at = new.flatten().nonzero().squeeze(-1) if place is None else place[new.flatten()]
        found[at] = settled[new]
        open_ &= ~done
        left = int(open_.sum())
        if not left:
            break
        if left < _COMPACT_BELOW * open_.numel():  # copying costs a third of a pass
            keep = open_.flatten().nonzero().squeeze(-1)
            place = keep if place is None else place[keep]
            column = keep % loc.shape[-1]
            short, loc, inv, slope, half = (
                a.index_select(-1, column) for a in (short, loc, inv, slope, half)
            )
            sign, q, y, low, high, last, open_ = (
                a.flatten()[keep].unsqueeze(0) for a in (sign, q, y, low, high, last, open_)
            )
            sign = sign.contiguous()
    else:
        rest = open_.flatten().nonzero().squeeze(-1)
        rest = rest if place is None else place[rest]
    ends = torch.where(tail == 0, -math.inf, tail)  # NaN stays
    y = torch.where(solvable, found.reshape(shape), ends) * torch.where(upper, -1.0, 1.0)
    return y, rest


def _interpolated(
    p: Tensor, loc: Tensor, inv: Tensor, slope: Tensor, half: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Brackets and a first guess for many levels of one mixture, each (L, n).

    The cdf is taken at a few knots around every component, and inverted between them by the cubic
    that has its slopes.
    """
    offsets = torch.tensor(_KNOTS, dtype=p.dtype, device=p.device).reshape(-1, 1, 1)
    x = (loc.transpose(0, 1) + offsets / inv.transpose(0, 1)).flatten(0, 1).sort(0).values  # (G, n)
    z = (x - loc).mul_(inv)  # (K, G, n)
    cdf = torch.erf(z * _SQRT_HALF).add_(1.0).mul_(half).sum(0).t().contiguous()  # (n, G)
    pdf = torch.exp(z.square_().mul_(-0.5)).mul_(slope).sum(0).t()
    x = x.t()
    right = torch.searchsorted(cdf, p.t().contiguous()).clamp_(1, cdf.shape[1] - 1)
    left = right - 1
    f0, f1, x0, x1 = (a.gather(1, i) for a in (cdf, x) for i in (left, right))
    slopes = pdf.reciprocal()
    h = f1 - f0
    m0, m1 = (slopes.gather(1, i) * h for i in (left, right))
    t = ((p.t() - f0) / h).clamp(0.0, 1.0)
    cubic = x0 + t * (m0 + t * (3 * (x1 - x0) - 2 * m0 - m1 + t * (m0 + m1 - 2 * (x1 - x0))))
    fine = (cubic >= x0) & (cubic <= x1)  # not so where the density all but vanishes
    guess = torch.where(fine, cubic, x0 + t.nan_to_num(nan=0.5) * (x1 - x0))
    # a level outside the knots is bracketed by what is known already
    outside = (p.t() <= cdf[:, :1]) | (p.t() >= cdf[:, -1:])
    lower = torch.where(outside, -math.inf, x0)
    upper = torch.where(outside, math.inf, x1)
    return lower.t(), upper.t(), guess.t()


def mixture_crps(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """CRPS, (*): E|Y - y| - E|Y - Y'| / 2, the pairs taken along K - 1 diagonals."""
    dtype = result_dtype(y, logits, loc, scale)
    args = tuple(a.to(work_dtype(dtype)) for a in (y, logits, loc, scale))
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    tracked = torch.is_grad_enabled() and any(a.requires_grad for a in args)
    in_place = not (traced or tracked or forward_ad._current_level >= 0)
    k = loc.shape[-1]
    batch = torch.broadcast_shapes(y.shape, *(a.shape[:-1] for a in args[1:]))
    n = math.prod(batch)
    if in_place and n:
        ends = torch.stack(torch.aminmax(args[3])).abs().log10()
        in_place = bool((ends.abs() < _CRPS_DECADES[args[3].dtype]).all())  # squares and inverses
    step = max(1, (_CRPS_CHUNK if in_place else _CHUNK) // k)
    if not in_place and (n <= step or traced):
        return _crps(*args).to(dtype)
    points = args[0].expand(batch).reshape(n)
    flat = [a.expand(*batch, k).reshape(n, k) for a in args[1:]]
    score = _crps
    if in_place:
        check_weights(flat[0])
        score = partial(_crps_in_place, work=points.new_empty(8, min(step, n) * k))
    parts = [
        score(points[i : i + step], *(a[i : i + step] for a in flat)) for i in range(0, n, step)
    ]
    out = torch.cat(parts) if parts else points
    return out.reshape(batch).to(dtype)


def _crps(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    w = log_weights(logits).exp()
    w, loc, scale = (a.movedim(-1, 0).contiguous() for a in (w, loc, scale))  # rows last: faster
    score = (w * _mean_abs(y - loc, scale)).sum(0)
    score = score - (w * w * scale).sum(0) * (1.0 / math.sqrt(math.pi))
    for k in range(1, loc.shape[0]):
        spread = torch.hypot(scale[k:], scale[:-k])
        score = score - (w[k:] * w[:-k] * _mean_abs(loc[k:] - loc[:-k], spread)).sum(0)
    return score


def _crps_in_place(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, work: Tensor) -> Tensor:
    """The same without gradients and without new arrays at every step; y (n), the rest (n, K).

    With s' = s sqrt(2) and t = m / s', ``E|m + s Z| = m erf(t) + s' exp(-t^2) / sqrt(pi)``.
    ``work`` (8, n K or more) is room for what is computed on the way.
    """
    n, k = loc.shape
    gap, size, square, w, m, inv, t, e = (a[: k * n].view(k, n) for a in work)  # rows last: faster
    torch.sub(y, gap.copy_(loc.t()), out=gap)
    size.copy_(scale.t())
    torch.sub(w.copy_(logits.t()), w.amax(0), out=w).exp_()
    w.div_(w.sum(0))
    score = torch.mul(w, w, out=t).mul_(size).sum(0).mul_(-1.0 / math.sqrt(math.pi))
    torch.mul(size, size, out=square).mul_(2.0)

    def pairs(m: Tensor, square: Tensor, inv: Tensor, t: Tensor, e: Tensor) -> Tensor:
        torch.rsqrt(square, out=inv)  # half the time of a root and a division
        torch.mul(m, inv, out=t)
        torch.erf(t, out=e).mul_(m)
        return e.add_(t.square_().neg_().exp_().mul_(square).mul_(inv), alpha=math.pi**-0.5)

    score += pairs(gap, square, inv, t, e).mul_(w).sum(0)
    for j in range(1, k):
        part = [a[: k - j] for a in (m, size, inv, t, e)]  # size is free by now
        torch.sub(gap[j:], gap[:-j], out=part[0])
        torch.add(square[j:], square[:-j], out=part[1])
        score -= pairs(*part).mul_(w[j:]).mul_(w[:-j]).sum(0)
    return score


def _mean_abs(m: Tensor, s: Tensor) -> Tensor:
    """E|m + s Z| for a standard normal Z."""
    return _MeanAbs.forward(m, s) if torch.compiler.is_compiling() else _MeanAbs.apply(m, s)


class _MeanAbs(Function):
    """The derivatives of E|m + s Z| are erf(z / sqrt 2) and 2 phi(z): no m / s^2 to overflow."""

    @staticmethod
    def forward(m: Tensor, s: Tensor) -> Tensor:
        z = _ratio(m, s)
        return s * _two_phi(z) + m * torch.erf(z * _SQRT_HALF)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        m, s = ctx.saved_tensors
        z = _ratio(m, s)
        g_m, g_s = grad * torch.erf(z * _SQRT_HALF), grad * _two_phi(z)
        return g_m.sum_to_size(m.shape), g_s.sum_to_size(s.shape)

    @staticmethod
    def jvp(ctx: Any, d_m: Tensor | None, d_s: Tensor | None) -> Tensor:
        z = _ratio(*ctx.saved_tensors)
        move = torch.zeros_like(z)
        if d_m is not None:
            move = move + d_m * torch.erf(z * _SQRT_HALF)
        return move if d_s is None else move + d_s * _two_phi(z)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], m: Tensor, s: Tensor) -> tuple[Tensor, int]:
        m, s = (move_to_front(a, d, info.batch_size) for a, d in zip((m, s), in_dims, strict=True))
        rank = max(m.ndim, s.ndim)
        m, s = (a.reshape(len(a), *(1,) * (rank - a.ndim), *a.shape[1:]) for a in (m, s))
        return _MeanAbs.apply(m, s), 0


def _ratio(m: Tensor, s: Tensor) -> Tensor:
    return (m / s).clamp(-1e15, 1e15)  # beyond, phi is 0 and the square would overflow


def _two_phi(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) * (2 * math.exp(-_HALF_LOG_2PI))

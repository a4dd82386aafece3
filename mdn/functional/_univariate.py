"""One target dimension: cdf, quantile and CRPS of Gaussian mixtures.

Here the event axis is gone: y (*), and logits, loc, scale (*, K).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._likelihood import log_weights, move_to_front, result_dtype, work_dtype

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
_LOG_HALF = -math.log(2.0)
_Z_TOP = 38.0  # the upper tail of a normal is below the smallest float64 from here on
_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_CDF_NOISE = 4 * 2.0**-53  # relative rounding of a cdf in float64: nothing to gain below it
_STEERING_PASSES = 2  # with the cheaper cdf
_COMPACT_BELOW = 0.7  # share of open quantiles below which the others are dropped
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
        # flat index of the mixture that each level belongs to; nothing of size (levels, rows, K)
        rows = params[0].shape[:-1]
        row_of = (
            torch.arange(math.prod(rows), device=p.device).reshape(rows).expand(batch).reshape(-1)
        )
        flat = [a.reshape(-1, n_components) for a in params]
        levels = p.expand(batch).reshape(-1)
        out = torch.empty(batch, dtype=p.dtype, device=p.device)
        y = out.view(-1)
        step = max(1, _CHUNK // n_components)
        for i in range(0, levels.numel(), step):
            part = slice(i, i + step)
            chosen = (a[row_of[part]].t().contiguous() for a in flat)  # (K, n)
            y[part] = _solve(levels[part], *chosen)
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


def _solve(p: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Roots of F(y) = p in float64; p (n), the rest (K, n).

    The lower tail is solved (the upper one mirrored), by Newton on log F inside a bracket that is
    exact and free: the quantile lies between the least and the greatest quantile of the components.
    Newton may cycle inside a bracket, so a step that does not halve gives way to bisection.
    """
    upper = p > 0.5
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    q = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    out = torch.where(q == 0, -math.inf, q)  # NaN stays
    todo = (q > 0).nonzero().squeeze(-1)
    q, loc, scale, log_w = q[todo], (loc * sign)[:, todo], scale[:, todo], log_w[:, todo]
    quantile = loc + scale * torch.special.ndtri(q)
    alive = log_w > -math.inf
    low = torch.where(alive, quantile, math.inf).amin(0)
    high = torch.where(alive, quantile, -math.inf).amax(0)
    weight = log_w.exp()
    y = ((weight * quantile).sum(0)).clamp(low, high)
    inv = scale.reciprocal()
    slope = weight * inv * math.exp(-_HALF_LOG_2PI)
    half = 0.5 * weight
    # Halley's error is cubic: after a step this short (in scales) nothing is left to correct
    short = 1e-6 * torch.where(alive, scale, math.inf).amin(0)
    # erf takes half the time of erfc and is exact enough to steer by, away from the tail
    central = bool((q > 1e-4).all())
    last = high - low
    found = torch.empty_like(q)
    place = torch.arange(q.numel(), device=q.device)
    open_ = torch.ones_like(q, dtype=torch.bool)
    for passes in range(_MAX_PASSES):
        z = (y - loc).mul_(inv)
        if central and passes < _STEERING_PASSES:
            cdf = (half * torch.erf(z * _SQRT_HALF).add_(1.0)).sum(0)
        else:
            cdf = (half * torch.erfc(z * -_SQRT_HALF)).sum(0)
        parts = torch.exp(z.square().mul_(-0.5)).mul_(slope)
        pdf = parts.sum(0)
        above = cdf > q
        high = torch.where(above, y, high)
        low = torch.where(above, low, y)
        error = cdf - q
        ratio = error / q
        # log1p keeps the digits that log(cdf) - log(q) loses
        log_ratio = torch.where(ratio.abs() < 0.1, torch.log1p(ratio), cdf.log() - q.log())
        move = -log_ratio * cdf / pdf
        bend = (parts.mul_(z).mul_(inv).sum(0) / pdf + pdf / cdf) * move * -0.5
        move = move / torch.where(bend > -0.5, 1.0 + bend, 1.0)
        target = y + move
        width = high - low
        size = move.abs()
        # bisect on NaN too (cdf or pdf underflowed), so the comparison is written to fail on it
        newton = (size <= 0.5 * last) & (target >= low) & (target <= high)
        target = torch.where(newton, target, 0.5 * low + 0.5 * high)
        eps = 2.0**-53 * torch.maximum(low.abs(), high.abs())
        exact = error.abs() <= _CDF_NOISE * q
        done = exact | (width <= 2 * eps) | (newton & (size <= torch.maximum(eps, short)))
        y_done = torch.where(exact, y, target)
        last = torch.where(newton, size, 0.5 * width)
        y = target
        if central and passes < _STEERING_PASSES:
            continue
        new = done & open_
        found[place[new]] = y_done[new]
        open_ &= ~done
        left = int(open_.sum())
        if not left:
            break
        if left < _COMPACT_BELOW * len(q):  # copying costs a third of a pass
            keep = open_.nonzero().squeeze(-1)
            place, q, y, low, high, last, short, open_ = (
                a[keep] for a in (place, q, y, low, high, last, short, open_)
            )
            loc, inv, slope, half = (a[:, keep] for a in (loc, inv, slope, half))
    else:
        found[place[open_]] = y[open_]
    out[todo] = found
    return out * sign


def mixture_crps(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """CRPS, (*): E|Y - y| - E|Y - Y'| / 2, the pairs taken along K - 1 diagonals."""
    dtype = result_dtype(y, logits, loc, scale)
    work = work_dtype(dtype)
    y, loc, scale = y.to(work), loc.to(work), scale.to(work)
    w = log_weights(logits.to(work)).exp().movedim(-1, 0)  # (K, *), rows last: faster
    loc, scale = loc.movedim(-1, 0).contiguous(), scale.movedim(-1, 0).contiguous()
    score = (w * _mean_abs(y - loc, scale)).sum(0)
    score = score - (w * w * scale).sum(0) * (1.0 / math.sqrt(math.pi))
    for k in range(1, loc.shape[0]):
        spread = torch.hypot(scale[k:], scale[:-k])
        score = score - (w[k:] * w[:-k] * _mean_abs(loc[k:] - loc[:-k], spread)).sum(0)
    return score.to(dtype)


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

"""The CRPS of Gaussian mixtures in one dimension, in closed form.

The event axis is gone: y (*), and logits, loc, scale (*, K).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._checks import broadcast_shapes, check_weights
from ._diagonal import log_weights
from ._numerics import (
    HALF_LOG_2PI,
    SQRT_HALF,
    TransformableFunction,
    is_recorded,
    is_traced,
    result_dtype,
    work_dtype,
)

__all__ = ["mean_abs", "mixture_crps"]

_CHUNK = 1 << 18  # numbers in one working array: 2 MiB, so that it stays in cache
_IN_PLACE_CHUNK = 1 << 17  # the same without gradients: enough for several threads
# Powers of ten that scales may reach either way before their squares leave the dtype.
_DECADES = {torch.float32: 15.0, torch.float64: 150.0}


def mixture_crps(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """CRPS, (*): E|Y - y| - E|Y - Y'| / 2, the pairs taken along K - 1 diagonals."""
    dtype = result_dtype(y, logits, loc, scale)
    args = tuple(a.to(work_dtype(dtype)) for a in (y, logits, loc, scale))
    traced = is_traced()
    tracked = torch.is_grad_enabled() and any(a.requires_grad for a in args)
    in_place = not (traced or tracked)
    k = loc.shape[-1]
    batch = broadcast_shapes(y.shape, *(a.shape[:-1] for a in args[1:]))
    n = math.prod(batch)
    if in_place and n:
        ends = torch.stack(torch.aminmax(args[3])).abs().log10()
        in_place = bool((ends.abs() < _DECADES[args[3].dtype]).all())  # squares and inverses
    step = max(1, (_IN_PLACE_CHUNK if in_place else _CHUNK) // k)
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
    score = (w * mean_abs(y - loc, scale)).sum(0)
    score = score - (w * w * scale).sum(0) * (1.0 / math.sqrt(math.pi))
    for k in range(1, loc.shape[0]):
        spread = torch.hypot(scale[k:], scale[:-k])
        score = score - (w[k:] * w[:-k] * mean_abs(loc[k:] - loc[:-k], spread)).sum(0)
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


def mean_abs(m: Tensor, s: Tensor) -> Tensor:
    """E|m + s Z| for a standard normal Z."""
    return _MeanAbs.forward(m, s) if is_recorded() else _MeanAbs.apply(m, s)


class _MeanAbs(TransformableFunction):
    """The derivatives of E|m + s Z| are erf(z / sqrt 2) and 2 phi(z): no m / s^2 to overflow."""

    @staticmethod
    def forward(m: Tensor, s: Tensor) -> Tensor:
        z = _ratio(m, s)
        return s * _two_phi(z) + m * torch.erf(z * SQRT_HALF)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        m, s = ctx.saved_tensors
        z = _ratio(m, s)
        g_m, g_s = grad * torch.erf(z * SQRT_HALF), grad * _two_phi(z)
        return g_m.sum_to_size(m.shape), g_s.sum_to_size(s.shape)

    @staticmethod
    def jvp(ctx: Any, d_m: Tensor | None, d_s: Tensor | None) -> Tensor:
        z = _ratio(*ctx.saved_tensors)
        move = torch.zeros_like(z)
        if d_m is not None:
            move = move + d_m * torch.erf(z * SQRT_HALF)
        return move if d_s is None else move + d_s * _two_phi(z)


def _ratio(m: Tensor, s: Tensor) -> Tensor:
    return (m / s).clamp(-1e15, 1e15)  # beyond, phi is 0 and the square would overflow


def _two_phi(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) * (2 * math.exp(-HALF_LOG_2PI))

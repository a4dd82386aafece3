"""The likelihood of mixtures with full and low-rank covariance."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._checks import check_weights
from ._diagonal import gradient_by_autograd, log_weights
from ._numerics import HALF_LOG_2PI, is_traced, result_dtype, work_dtype

__all__ = [
    "low_rank_terms",
    "packed_log_prob",
    "precision_log_prob",
    "unpacked",
    "whitened_log_prob",
]

_Z_MAX = {torch.float32: 1e18, torch.float64: 1e150}


def precision_log_prob(y: Tensor, logits: Tensor, loc: Tensor, precision_tril: Tensor) -> Tensor:
    """Log density, (*), of checked tensors of one batch rank; the upper triangle is not read."""
    return _evaluated(_PrecisionLogProb, y, logits, loc, precision_tril)


def _evaluated(closed_form: Any, *args: Tensor) -> Tensor:
    """The closed form, or its plain definition where functions are transformed or traced."""
    dtype = result_dtype(*args)
    args = tuple(a.to(work_dtype(dtype)) for a in args)
    return (closed_form.plain if is_traced() else closed_form.apply)(*args).to(dtype)


def _plain(y: Tensor, logits: Tensor, loc: Tensor, precision_tril: Tensor) -> Tensor:
    """The definition, for every kind of derivative."""
    factor = precision_tril.tril()
    gap = y.unsqueeze(-2) - loc
    z = (gap.unsqueeze(-2) @ factor).squeeze(-2)  # (P'd)' = d'P
    return whitened_log_prob(z, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), logits)


class _PrecisionLogProb(Function):
    """The closed form, rows last, one column of the factor at a time.

    With z = P'(y - loc) and responsibilities r, the gradient is r - pi for the logits, r P z for
    the means, and r (diag(1 / P_dd) - (y - loc) z') for the factor.
    """

    plain = staticmethod(_plain)

    @staticmethod
    def forward(ctx: Any, y: Tensor, logits: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
        check_weights(logits)
        inputs = y, logits, loc, factor
        dims = loc.shape[-1]
        last = (*range(loc.ndim - 2),)
        y = y.movedim(-1, 0).unsqueeze(1)  # (D, 1, *)
        logits = logits.movedim(-1, 0).contiguous()  # (K, *)
        gap = (y - loc.permute(loc.ndim - 1, loc.ndim - 2, *last)).contiguous()  # (D, K, *)
        # (D, D, K, *): a view where the head has made it so
        factor = factor.permute(factor.ndim - 2, factor.ndim - 1, factor.ndim - 3, *last)
        factor = factor if factor.stride(-1) == 1 else factor.contiguous()
        limit = _Z_MAX[gap.dtype]
        z = torch.stack([(factor[j:, j] * gap[j:]).sum(0) for j in range(dims)])
        z = z.clamp_(-limit, limit)
        diagonal = torch.stack([factor[j, j] for j in range(dims)])  # (D, K, *)
        weights = torch.softmax(logits, 0)
        t = torch.log_softmax(logits, 0) + diagonal.log().sum(0) - 0.5 * z.square().sum(0)
        value = torch.logsumexp(t, 0)
        ctx.save_for_backward(*inputs, gap, z, diagonal, (t - value).exp(), weights, factor)
        return value - dims * HALF_LOG_2PI

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors[:4], ctx.needs_input_grad
        if torch.is_grad_enabled():  # double backward
            return gradient_by_autograd(_plain, inputs, needed, grad)
        gap, z, diagonal, r, weights, factor = ctx.saved_tensors[4:]
        rg = r * grad  # (K, *)
        gz = -z * rg
        grads: list[Tensor | None] = [None] * 4
        back = (*range(2, gap.ndim), 1, 0)  # (D, K, *) -> (*, K, D)
        if needed[0] or needed[2]:
            g_gap = torch.zeros_like(gz)
            for j in range(len(gz)):
                g_gap[j:].addcmul_(factor[j:, j], gz[j])
            grads[0] = _reduced(g_gap.sum(1).movedim(0, -1), inputs[0])
            grads[2] = _reduced(-g_gap.permute(back), inputs[2])
        if needed[1]:
            grads[1] = _reduced((rg - weights * grad).movedim(0, -1), inputs[1])
        if needed[3]:
            g_factor = gz.new_zeros(len(gz), *gz.shape)  # (D, D, K, *)
            for j in range(len(gz)):
                torch.mul(gap[j:], gz[j], out=g_factor[j:, j])
                g_factor[j, j] += rg / diagonal[j]
            order = (*range(3, g_factor.ndim), 2, 0, 1)
            grads[3] = _reduced(g_factor.permute(order), inputs[3])
        return tuple(grads)


def packed_log_prob(
    y: Tensor, logits: Tensor, loc: Tensor, precision: Tensor, lower: Tensor
) -> Tensor:
    """As :func:`precision_log_prob`, for a factor U diag(p) whose unit lower triangle U is packed.

    Nothing of size (N, K, D, D) is made: ``precision`` p is (*, K, D), ``lower`` (*, K, T) with
    T = D (D - 1) / 2, the entries below the diagonal, column after column.
    """
    return _evaluated(_PackedLogProb, y, logits, loc, precision, lower)


def unpacked(precision: Tensor, lower: Tensor) -> Tensor:
    """The factor U diag(p), (*, K, D, D)."""
    dims = precision.shape[-1]
    column, row = torch.triu_indices(dims, dims, 1, device=precision.device)  # by columns
    batch = torch.broadcast_shapes(precision.shape[:-1], lower.shape[:-1])
    unit = torch.diag_embed(torch.ones_like(precision)).expand(*batch, dims, dims).clone()
    unit[..., row, column] = lower.expand(*batch, -1)
    return unit * precision.unsqueeze(-2)


def _packed_plain(
    y: Tensor, logits: Tensor, loc: Tensor, precision: Tensor, lower: Tensor
) -> Tensor:
    return _plain(y, logits, loc, unpacked(precision, lower))


def _rows_last(a: Tensor) -> Tensor:
    """(*, K, C) -> (K, C, *), a view where the head has made it so."""
    a = a.permute(a.ndim - 2, a.ndim - 1, *range(a.ndim - 2))
    return a if a.stride(-1) == 1 else a.contiguous()


class _PackedLogProb(Function):
    """The closed form for packed factors: z_j = p_j (d_j + sum_{i>j} U_ij d_i), d = y - loc."""

    plain = staticmethod(_packed_plain)

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        y, logits, loc, precision, lower = inputs
        check_weights(logits)
        dims = loc.shape[-1]
        gap = (y.movedim(-1, 0) - _rows_last(loc)).contiguous()  # (K, D, *)
        logits = logits.movedim(-1, 0).contiguous()
        precision, lower = _rows_last(precision), _rows_last(lower)
        limit = _Z_MAX[gap.dtype]
        columns = [
            gap[:, j] + (lower[:, start:stop] * gap[:, j + 1 :]).sum(1)
            for j, (start, stop) in enumerate(_columns(dims))
        ]
        z = (torch.stack(columns, 1) * precision).clamp_(-limit, limit)
        weights = torch.softmax(logits, 0)
        t = torch.log_softmax(logits, 0) + precision.log().sum(1) - 0.5 * z.square().sum(1)
        value = torch.logsumexp(t, 0)
        ctx.save_for_backward(*inputs, gap, z, precision, lower, (t - value).exp(), weights)
        return value - dims * HALF_LOG_2PI

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors[:5], ctx.needs_input_grad
        if torch.is_grad_enabled():  # double backward
            return gradient_by_autograd(_packed_plain, inputs, needed, grad)
        gap, z, precision, lower, r, weights = ctx.saved_tensors[5:]
        dims = gap.shape[1]
        rg = (r * grad).unsqueeze(1)  # (K, 1, *)
        gz = -z * rg  # (K, D, *)
        score = gz * precision
        grads: list[Tensor | None] = [None] * 5
        back = (*range(2, gz.ndim), 0, 1)  # (K, C, *) -> (*, K, C)
        if needed[0] or needed[2]:
            g_gap = score.clone()
            for j, (start, stop) in enumerate(_columns(dims)):
                g_gap[:, j + 1 :].addcmul_(lower[:, start:stop], score[:, j : j + 1])
            grads[0] = _reduced(g_gap.sum(0).movedim(0, -1), inputs[0])
            grads[2] = _reduced(-g_gap.permute(back), inputs[2])
        if needed[1]:
            grads[1] = _reduced((rg[:, 0] - weights * grad).movedim(0, -1), inputs[1])
        if needed[3]:
            grads[3] = _reduced(((gz * z + rg) / precision).permute(back), inputs[3])
        if needed[4]:
            g_lower = score.new_empty(len(score), lower.shape[1], *score.shape[2:])
            for j, (start, stop) in enumerate(_columns(dims)):
                torch.mul(gap[:, j + 1 :], score[:, j : j + 1], out=g_lower[:, start:stop])
            grads[4] = _reduced(g_lower.permute(back), inputs[4])
        return tuple(grads)


def _columns(dims: int) -> list[tuple[int, int]]:
    """Where each column below the diagonal begins and ends among the packed entries."""
    ends = [j * dims - j * (j + 1) // 2 for j in range(dims + 1)]
    return list(pairwise(ends))


def _reduced(grad: Tensor, like: Tensor) -> Tensor:
    return grad if grad.shape == like.shape else grad.sum_to_size(like.shape)


def low_rank_terms(
    y: Tensor, loc: Tensor, factor: Tensor, diagonal: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared Mahalanobis distance and minus half the log determinant, (*, K).

    The distance is the least of ``|(d - F w) / s|^2 + |w|^2`` over w, s the root of the diagonal: a
    least-squares problem with the matrix [F / s; I], solved by its QR factors, so that nothing is
    squared and subtracted as in the Woodbury identity.
    """
    root = diagonal.sqrt()
    scaled = factor / root.unsqueeze(-1)  # (*, K, D, R)
    dims, rank = factor.shape[-2:]
    eye = torch.eye(rank, dtype=factor.dtype, device=factor.device)
    both = torch.cat([scaled, eye.expand(*scaled.shape[:-2], rank, rank)], -2)
    q, r = torch.linalg.qr(both)
    gap = (y.unsqueeze(-2) - loc) / root
    inner = (gap.unsqueeze(-2) @ q[..., :dims, :]).squeeze(-2)  # (*, K, R)
    wide = r if inner.shape[:-1] == r.shape[:-2] else r.expand(*inner.shape[:-1], rank, rank)
    w = torch.linalg.solve_triangular(wide, inner.unsqueeze(-1), upper=True)
    rest = gap - (scaled @ w).squeeze(-1)
    square = rest.square().sum(-1) + w.squeeze(-1).square().sum(-1)
    log_det = root.log().sum(-1) + r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return square, -log_det


def whitened_log_prob(
    z: Tensor,
    half_log_det: Tensor,
    logits: Tensor,
    dims: int | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    """Log density from whitened distances (or, ``squared``, from their sums of squares), (*)."""
    dims = z.shape[-1] if dims is None else dims
    limit = _Z_MAX[z.dtype]
    square = z if squared else z.clamp(-limit, limit).square()
    t = log_weights(logits) + half_log_det - 0.5 * square.sum(-1)
    return torch.logsumexp(t, -1) - dims * HALF_LOG_2PI

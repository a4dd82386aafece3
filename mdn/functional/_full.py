"""The likelihood of mixtures with full and low-rank covariance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._checks import broadcast_shapes, check_weights
from ._diagonal import gradient_by_autograd, log_weights, sum_to_like
from ._numerics import HALF_LOG_2PI, Z_MAX, is_traced, result_dtype, work_dtype

__all__ = [
    "known_terms",
    "low_rank_log_prob",
    "packed_log_prob",
    "precision_log_prob",
    "unpacked",
    "whitened_log_prob",
]


def precision_log_prob(y: Tensor, logits: Tensor, loc: Tensor, precision_tril: Tensor) -> Tensor:
    """Log density, (*), of checked tensors of one batch rank; the upper triangle is not read."""
    return _evaluated(_PrecisionLogProb, y, logits, loc, precision_tril)


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
    batch = broadcast_shapes(precision.shape[:-1], lower.shape[:-1])
    unit = torch.diag_embed(torch.ones_like(precision)).expand(*batch, dims, dims).clone()
    unit[..., row, column] = lower.expand(*batch, -1)
    return unit * precision.unsqueeze(-2)


def _evaluated(closed_form: type[_FullLogProb], *args: Tensor) -> Tensor:
    """The closed form, or its plain definition where functions are transformed or traced."""
    dtype = result_dtype(*args)
    args = tuple(a.to(work_dtype(dtype)) for a in args)
    return (closed_form.plain if is_traced() else closed_form.apply)(*args).to(dtype)


class _FullLogProb(Function):
    """The closed form, rows last, one column of the factor P at a time.

    With d = y - loc, z = P'd and responsibilities r, the gradient is r - pi for the logits, r P z
    for the means, and r (diag(1 / P_jj) - d z') for the factor.
    """

    plain: Callable[..., Tensor]  # the definition, for every kind of derivative
    whiten: Callable[..., tuple[Tensor, Tensor]]  # z and the diagonal of P, (K, D, *)
    color: Callable[..., Tensor]  # P gz, (K, D, *)
    # gradients to the parts of P, from gz = -z rg and rg = r times the gradient of the value
    factor_slopes: Callable[..., tuple[Tensor, ...]]

    @classmethod
    def forward(cls, ctx: Any, *inputs: Tensor) -> Tensor:
        y, logits, loc, *factor = inputs
        check_weights(logits)
        gap = (y.movedim(-1, 0) - _rows_last(loc, loc.ndim - 2)).contiguous()  # (K, D, *)
        logits = logits.movedim(-1, 0).contiguous()  # (K, *)
        factor = [_rows_last(a, loc.ndim - 2) for a in factor]
        z, diagonal = cls.whiten(gap, *factor)
        z = z.clamp_(-Z_MAX[gap.dtype], Z_MAX[gap.dtype])
        weights = torch.softmax(logits, 0)
        t = torch.log_softmax(logits, 0) + diagonal.log().sum(1) - 0.5 * z.square().sum(1)
        value = torch.logsumexp(t, 0)
        ctx.save_for_backward(*inputs, gap, z, (t - value).exp(), weights, *factor)
        return value - loc.shape[-1] * HALF_LOG_2PI

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        inputs = ctx.saved_tensors[: len(needed)]
        if torch.is_grad_enabled():  # double backward
            return gradient_by_autograd(cls.plain, inputs, needed, grad)
        gap, z, r, weights, *factor = ctx.saved_tensors[len(needed) :]
        rg = r * grad  # (K, *)
        gz = -z * rg.unsqueeze(1)  # (K, D, *)
        grads: list[Tensor | None] = [None] * len(needed)
        if needed[0] or needed[2]:
            on_y = cls.color(gz, *factor)
            grads[0] = on_y.sum(0).movedim(0, -1)
            grads[2] = _rows_first(-on_y, grad.ndim)
        if needed[1]:
            grads[1] = (rg - weights * grad).movedim(0, -1)
        if any(needed[3:]):
            slopes = cls.factor_slopes(gap, z, gz, rg, *factor)
            grads[3:] = (_rows_first(slope, grad.ndim) for slope in slopes)
        return tuple(
            None if g is None else sum_to_like(g, a) for g, a in zip(grads, inputs, strict=True)
        )


class _PrecisionLogProb(_FullLogProb):
    @staticmethod
    def plain(y: Tensor, logits: Tensor, loc: Tensor, factor: Tensor) -> Tensor:
        tril = factor.tril()
        gap = y.unsqueeze(-2) - loc
        z = (gap.unsqueeze(-2) @ tril).squeeze(-2)  # (P'd)' = d'P
        return whitened_log_prob(z, tril.diagonal(dim1=-2, dim2=-1).log().sum(-1), logits)

    @staticmethod
    def whiten(gap: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        columns = range(gap.shape[1])
        z = torch.stack([(factor[:, j:, j] * gap[:, j:]).sum(1) for j in columns], 1)
        return z, torch.stack([factor[:, j, j] for j in columns], 1)

    @staticmethod
    def color(gz: Tensor, factor: Tensor) -> Tensor:
        out = torch.zeros_like(gz)
        for j in range(gz.shape[1]):
            out[:, j:].addcmul_(factor[:, j:, j], gz[:, j : j + 1])
        return out

    @staticmethod
    def factor_slopes(
        gap: Tensor, z: Tensor, gz: Tensor, rg: Tensor, factor: Tensor
    ) -> tuple[Tensor, ...]:
        out = gz.new_zeros(len(gz), gz.shape[1], *gz.shape[1:])  # (K, D, D, *)
        for j in range(gz.shape[1]):
            torch.mul(gap[:, j:], gz[:, j : j + 1], out=out[:, j:, j])
            out[:, j, j] += rg / factor[:, j, j]
        return (out,)


class _PackedLogProb(_FullLogProb):
    """For packed factors: z_j = p_j (d_j + sum_{i>j} U_ij d_i)."""

    @staticmethod
    def plain(y: Tensor, logits: Tensor, loc: Tensor, *factor: Tensor) -> Tensor:
        return _PrecisionLogProb.plain(y, logits, loc, unpacked(*factor))

    @staticmethod
    def whiten(gap: Tensor, precision: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
        columns = [
            gap[:, j] + (lower[:, part] * gap[:, j + 1 :]).sum(1)
            for j, part in enumerate(_columns(gap))
        ]
        return torch.stack(columns, 1) * precision, precision

    @staticmethod
    def color(gz: Tensor, precision: Tensor, lower: Tensor) -> Tensor:
        score = gz * precision
        out = score.clone()
        for j, part in enumerate(_columns(gz)):
            out[:, j + 1 :].addcmul_(lower[:, part], score[:, j : j + 1])
        return out

    @staticmethod
    def factor_slopes(
        gap: Tensor, z: Tensor, gz: Tensor, rg: Tensor, precision: Tensor, lower: Tensor
    ) -> tuple[Tensor, Tensor]:
        score = gz * precision
        on_lower = score.new_empty(len(score), lower.shape[1], *score.shape[2:])
        for j, part in enumerate(_columns(gz)):
            torch.mul(gap[:, j + 1 :], score[:, j : j + 1], out=on_lower[:, part])
        return (gz * z + rg.unsqueeze(1)) / precision, on_lower


def _columns(gap: Tensor) -> list[slice]:
    """Where each column below the diagonal stands among the packed entries; gap is (K, D, *)."""
    dims = gap.shape[1]
    ends = [j * dims - j * (j + 1) // 2 for j in range(dims + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _rows_last(a: Tensor, rank: int) -> Tensor:
    """(*, K, ...) -> (K, ..., *) for a batch of that rank, a view where the head has made it so."""
    a = a.permute(*range(rank, a.ndim), *range(rank))
    return a if a.stride(-1) == 1 else a.contiguous()


def _rows_first(a: Tensor, rank: int) -> Tensor:
    return a.permute(*range(a.ndim - rank, a.ndim), *range(a.ndim - rank))


def low_rank_log_prob(
    y: Tensor, logits: Tensor, loc: Tensor, factor: Tensor, diagonal: Tensor
) -> Tensor:
    """Log density, (*), for covariances F F' + diag; float64, else the residual of F cancels.

    The squared Mahalanobis distance is the least of ``|(d - F w) / s|^2 + |w|^2`` over w, s the
    root of the diagonal: a least-squares problem with the matrix [F / s; I], solved by its QR
    factors, so that nothing is squared and subtracted as in the Woodbury identity.
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
    return _from_squares(square, -log_det, logits, dims)


def known_terms(gap: Tensor, root: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened distances and half log determinant where some dimensions are not known.

    The covariance of the known dimensions is A A', A the rows of ``root`` that belong to them.  Its
    factor L comes from Gram-Schmidt orthogonalisation of those rows, each taken off the later ones
    at once (modified), and so does z in L z = gap.  No covariance is formed.

    Args:
        gap: y - loc, (*, K, D), finite.
        root: (*, K, D, R), covariance = root root'.
        known: (*, 1 or K, D).

    Returns:
        z (*, K, D), 0 where not known, and minus half the log determinant, (*, K).
    """
    rows, left = list(root.unbind(-2)), list(gap.unbind(-1))
    half_log_det = torch.zeros_like(left[0])
    z = []
    for i, here in enumerate(known.unbind(-1)):
        length = torch.where(here, torch.linalg.vector_norm(rows[i], dim=-1), 1.0)
        unit = torch.where(here.unsqueeze(-1), rows[i] / length.unsqueeze(-1), 0.0)
        z.append(torch.where(here, left[i] / length, 0.0))
        half_log_det = half_log_det - length.log()
        for j in range(i + 1, len(rows)):
            share = (rows[j] * unit).sum(-1)
            rows[j] = rows[j] - share.unsqueeze(-1) * unit
            left[j] = left[j] - share * z[i]
    return torch.stack(z, -1), half_log_det


def whitened_log_prob(z: Tensor, half_log_det: Tensor, logits: Tensor) -> Tensor:
    """Log density, (*), from whitened distances z (*, K, D) and half log determinants (*, K)."""
    square = z.clamp(-Z_MAX[z.dtype], Z_MAX[z.dtype]).square().sum(-1)
    return _from_squares(square, half_log_det, logits, z.shape[-1])


def _from_squares(square: Tensor, half_log_det: Tensor, logits: Tensor, dims: int) -> Tensor:
    t = log_weights(logits) + half_log_det - 0.5 * square
    return torch.logsumexp(t, -1) - dims * HALF_LOG_2PI

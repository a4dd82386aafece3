"""The likelihood of mixtures with full and low-rank covariance; (*, K, ...) throughout."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._likelihood import log_weights

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_Z_MAX = {torch.float32: 1e18, torch.float64: 1e150}


def precision_terms(y: Tensor, loc: Tensor, precision_tril: Tensor) -> tuple[Tensor, Tensor]:
    """z = P'(y - loc), (*, K, D), and the log of the determinant of P, (*, K)."""
    gap = y.unsqueeze(-2) - loc
    z = (gap.unsqueeze(-2) @ precision_tril).squeeze(-2)  # (P'd)' = d'P
    return z, precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def low_rank_terms(
    y: Tensor, loc: Tensor, factor: Tensor, diagonal: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared Mahalanobis distance and minus half the log determinant, (*, K).

    By the Woodbury identity and the determinant lemma with the R x R matrix I + F' diag^-1 F.
    """
    scaled = factor / diagonal.unsqueeze(-1)  # (*, K, D, R)
    rank = factor.shape[-1]
    eye = torch.eye(rank, dtype=factor.dtype, device=factor.device)
    small = torch.linalg.cholesky(eye + factor.mT @ scaled)
    gap = y.unsqueeze(-2) - loc
    inner = (gap.unsqueeze(-2) @ scaled).squeeze(-2)  # (*, K, R)
    if inner.shape[:-1] != small.shape[:-2]:
        small = small.expand(*inner.shape[:-1], rank, rank)
    part = torch.linalg.solve_triangular(small, inner.unsqueeze(-1), upper=False).squeeze(-1)
    square = (gap.square() / diagonal).sum(-1) - part.square().sum(-1)
    log_det = 0.5 * diagonal.log().sum(-1) + small.diagonal(dim1=-2, dim2=-1).log().sum(-1)
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
    return torch.logsumexp(t, -1) - dims * _HALF_LOG_2PI

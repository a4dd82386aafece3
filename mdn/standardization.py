"""Mean and standard deviation of columns: :func:`standardization`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["standardization"]


def standardization(a: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the rows, float64; exactly 0 for a constant column.

    Args:
        a: (N, ...).
        weight: (N,) non-negative weights of the rows, not all 0; None for equal ones.
    """
    a = a.detach().double()
    share = a.new_full((len(a),), 1 / max(1, len(a))) if weight is None else weight.double()
    share = (share / share.sum()).reshape(-1, *[1] * (a.ndim - 1))
    shift = a.mean(0) if weight is None else (share * a).sum(0)
    apart = a - shift
    size = apart.abs().amax(0)  # out of the squares, which would over- or underflow
    unit = apart / torch.where(size > 0, size, 1.0)
    scale = size * (share * unit.square()).sum(0).sqrt()
    # rounding leaves a constant column a spread of some ulp
    noise = 4 * torch.finfo(torch.float64).eps * a.abs().amax(0)
    constant = (a == a[:1]).all(0) | (scale <= noise)
    return torch.where(constant, a[0], shift), torch.where(constant, 0.0, scale)

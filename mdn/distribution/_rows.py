"""Questions to the law of many rows, a chunk of rows at a time, so that memory is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functional._checks import broadcast_shapes
from ..functional._numerics import is_recorded
from ._law import BUDGET, UnivariateLaw

__all__ = ["GRID", "of_places", "of_rows"]

GRID = 128  # places a component that a search for modes or an integral looks at


def of_places(
    dist: Any,
    of: Callable[..., Tensor],
    *at: Tensor,
    grid: int = 1,
) -> Tensor:
    """What ``of(law, *at)`` says at places that broadcast against the batch, in their shape.

    Args:
        dist: a mixture distribution, D = 1, batch (*).
        of: gives a tensor of the broadcast shape of the places.
        at: places or levels, (..., *).
        grid: places a component that the law needs for one of them.
    """
    batch = dist.batch_shape
    whole = broadcast_shapes(*(a.shape for a in at), batch)
    per_place = dist.n_components * grid
    if whole.numel() * per_place <= BUDGET or not _needs_chunks(dist):
        return of(dist._law(), *at)
    lead, rows = whole[: len(whole) - len(batch)], whole[len(whole) - len(batch) :]
    index = torch.arange(batch.numel()).reshape(batch).expand(rows).flatten()
    flat = [a.expand(whole).reshape(lead.numel(), -1) for a in at]
    step = max(1, BUDGET // (per_place * lead.numel()))
    wide = max(1, BUDGET // (per_place * step))
    out = []
    for i in range(0, len(index), step):
        own = _rows(dist, index[i : i + step])._law()
        cut = [a[:, i : i + step].split(wide) for a in flat]
        out.append(torch.cat([of(own, *places) for places in zip(*cut, strict=True)]))
    return torch.cat(out, 1).reshape(whole)


def of_rows(dist: Any, of: Callable[[UnivariateLaw], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What ``of(law)`` says of each row, a tuple of (*, ...), where it looks at a grid.

    Parts that differ in the axis behind the batch are padded with NaN.
    """
    batch, per_row = dist.batch_shape, dist.n_components * GRID
    if batch.numel() * per_row <= BUDGET or not _needs_chunks(dist):
        return of(dist._law())
    step = max(1, BUDGET // per_row)
    found = []
    for index in torch.arange(batch.numel()).split(step):
        found.append(of(_rows(dist, index)._law()))
    columns = [_stacked(list(column)) for column in zip(*found, strict=True)]
    return tuple(a.reshape(*batch, *a.shape[1:]) for a in columns)


def _needs_chunks(dist: Any) -> bool:
    """Whether the law looks at all rows at once, and components do not hide their parameters."""
    if is_recorded():
        return False
    try:
        return not _rows(dist, torch.zeros(1, dtype=torch.long))._law().is_chunked
    except TypeError:
        return False


def _rows(dist: Any, index: Tensor) -> Any:
    """Some rows of the flattened batch."""
    n, device = dist.batch_shape.numel(), dist._reference.device
    index = index.to(device)
    return dist._map(lambda a, e: a.reshape(n, *a.shape[a.ndim - e :])[index])


def _stacked(parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 1:
        return torch.cat(parts)
    width = max(part.shape[1] for part in parts)
    return torch.cat([
        torch.cat([a, a.new_full((len(a), width - a.shape[1], *a.shape[2:]), math.nan)], 1)
        for a in parts
    ])  # fmt: skip

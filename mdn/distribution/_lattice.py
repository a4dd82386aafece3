"""Modes, regions and CRPS of a Gaussian mixture rounded to a grid; float64.

A cell is a whole number c; it stands for the value c width, and for the interval of one width
around it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._continuous import runs

if TYPE_CHECKING:
    from ._gaussian import GaussianMixture

__all__ = ["rounded_crps", "rounded_hdr", "rounded_modes"]

_MOST_CELLS = 1000  # of a sum over cells; a grid that much finer than the law is as good as none
_TAIL = 1e-10  # probability left out on each side of the sum of the CRPS, which squares it
_TAIL_SHARE = 1e-3  # of what a region may leave out, on each side


def rounded_modes(base: GaussianMixture, width: float) -> tuple[Tensor, Tensor]:
    """Cells that are likelier than their neighbours and their probabilities, (*, K), NaN-padded.

    A cell without a mode of the density lies on a slope, and the next one uphill is the likelier,
    unless that has the mode: so each is next to a mode of the density or has one itself.
    """
    place = (base.modes().loc[..., 0] / width).round()  # (*, K)
    cell = torch.cat([place - 1, place, place + 1], -1).movedim(-1, 0)  # (3 K, *)
    cell = cell.sort(dim=0).values
    real = ~cell.isnan()
    cell = torch.where(real, cell, 0.0)
    mass, left, right = (_mass(base, cell + d, width) for d in (0, -1, 1))
    twice = torch.zeros_like(cell, dtype=torch.bool)
    twice[1:] = cell[1:] == cell[:-1]
    there = real & (mass > left) & (mass >= right) & ~twice  # of two equals the first
    mass = torch.where(there, mass, -1.0)
    order = mass.argsort(dim=0, descending=True, stable=True)[: place.shape[-1]]
    cell, mass, there = (a.gather(0, order).movedim(0, -1) for a in (cell, mass, there))
    return torch.where(there, cell, math.nan), torch.where(there, mass, math.nan)


def rounded_hdr(base: GaussianMixture, width: float, coverage: float) -> tuple[Tensor, Tensor]:
    """First and last cells of the region, (*, C, 2), NaN-padded, and its least mass, (*)."""
    first, last = _range(base, width, _TAIL_SHARE * (1 - coverage))
    count = int((last - first).max()) + 1
    if count > _MOST_CELLS:
        region = base.hdr(coverage)
        return (region.intervals / width).round(), region.threshold * width
    steps = torch.arange(count, dtype=first.dtype, device=first.device)
    cell = first + steps.view(-1, *(1,) * first.ndim)  # (C, *)
    edges = torch.cat([cell[:1] - 1, cell])
    mass = _below(base, edges, width).diff(dim=0).masked_fill(cell > last, 0.0)
    falling, order = mass.sort(dim=0, descending=True, stable=True)
    chosen = (falling.cumsum(0) - falling < coverage * (1 - 1e-12)) & (falling > 0)
    level = torch.where(chosen, falling, math.inf).amin(0)
    return runs(cell, torch.zeros_like(chosen).scatter(0, order, chosen)), level


def rounded_crps(y: Tensor, base: GaussianMixture, width: float) -> Tensor:
    """Integral of (F(x) - 1{y <= x})^2, (*), in widths; y (*) in widths.

    F is constant from one multiple to the next, so this is a sum.
    """
    with torch.no_grad():
        first, last = _range(base, width, _TAIL)
        count = int((last - first).max()) + 1
    if count > _MOST_CELLS:
        return base.crps((y * width).unsqueeze(-1)) / width
    place = y.detach().floor()
    part = y - place  # of its step, the share below y
    total = (first - y).clamp(min=0.0) + (y - last - 1).clamp(min=0.0)
    for j in range(count):
        cell = first + j
        lower = _below(base, cell, width)
        left, right = lower.square(), (1 - lower).square()
        term = torch.where(cell < place, left, right)
        term = torch.where(cell == place, part * left + (1 - part) * right, term)
        total = total + torch.where(cell <= last, term, 0.0)
    return total


def _below(base: GaussianMixture, cell: Tensor, width: float) -> Tensor:
    """P(rounded Y <= cell), as cell, or of the broadcast shape."""
    return base.cdf(((cell + 0.5) * width).unsqueeze(-1))


def _mass(base: GaussianMixture, cell: Tensor, width: float) -> Tensor:
    return _below(base, cell, width) - _below(base, cell - 1, width)


def _range(base: GaussianMixture, width: float, tail: float) -> tuple[Tensor, Tensor]:
    """First and last cell of all but so much probability on each side, (*)."""
    low, high = (base.icdf(p)[..., 0] / width for p in (tail, 1 - tail))
    return low.round(), high.round()

"""Univariate mixtures of any families as laws: on the line, or on the whole numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional._numerics import log_from_smaller_tail, log_sum_exp
from ._components import Components
from ._continuous import ContinuousLaw
from ._lattice import LatticeLaw

__all__ = ["MixtureLaw", "WholeNumberLaw"]

_MAX_CELLS = 1 << 22  # of a sum over whole numbers: 32 MiB a component and mixture


class MixtureLaw(ContinuousLaw):
    """Continuous components, point masses, or both."""

    def __init__(self, components: Components) -> None:
        self.components, self.log_w = components, components.log_w
        self.n_components = self.log_w.shape[-1]
        self.n_points = components.n_atoms
        self.has_density = self.n_points < self.n_components
        self.circular = components.is_circular

    @property
    def requires_grad(self) -> bool:
        return self.components.requires_grad

    def log_density(self, y: Tensor) -> Tensor:
        def at(y: Tensor) -> tuple[Tensor]:
            terms = self.components.gather(lambda group: group.log_prob(y.unsqueeze(-1)))
            terms = (terms + self.log_w).masked_fill(self.components.is_atom, -math.inf)
            return (log_sum_exp(terms),)

        return self.components.in_parts(at, y.double())[0]

    def log_tails(self, y: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        log_w = self.log_w.masked_fill(self.components.is_atom, -math.inf) if smooth else self.log_w
        return _log_tails(self.components, y.double(), log_w)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
        return _log_mass(self.components, low, high)

    def ends(self) -> tuple[Tensor, Tensor]:
        return _ends(self.components)

    def grid(self, levels: tuple[float, ...]) -> Tensor:
        batch = self.log_w.shape[:-1]
        q = self.log_w.new_tensor(levels * 2)
        upper = torch.arange(len(q), device=q.device) >= len(levels)
        axes = (-1, *(1,) * len(batch))
        each = self._quantiles(q.view(axes), upper.view(axes)).expand(len(q), *self.log_w.shape)
        off = ~self.components.alive
        ends = [a.masked_fill(off, math.nan)[None] for a in self.components.ends()]
        grid = torch.cat([each, *ends]).movedim(-1, 1).flatten(0, 1)  # (G, *)
        grid = torch.where(grid.isfinite(), grid, math.nan)
        first = torch.where(grid.isnan(), math.inf, grid).amin(0)
        return torch.where(grid.isnan(), first, grid).sort(dim=0).values

    def bracket(self, q: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the greatest quantile of the components."""
        each = self._quantiles(q, upper)
        low = each.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).amin(-1)
        return low, torch.where(each.isnan(), -math.inf, each).amax(-1)

    def points(self) -> tuple[Tensor, Tensor]:
        """Of several at one place, the first has all the mass."""
        atom = self.components.is_atom
        weight = self.log_w.exp()[..., atom]
        place = self.components.ends()[0][..., atom].expand(weight.shape)
        same = place.unsqueeze(-1) == place.unsqueeze(-2)  # (*, A, A)
        mass = (same * weight.unsqueeze(-2)).sum(-1)
        return place, torch.where(~torch.tril(same, -1).any(-1), mass, 0.0)

    def gaps(self) -> list[Tensor]:
        high = self.components.ends()[1].masked_fill(~self.components.alive, math.nan)
        return list(high.unbind(-1)) if bool(high.isfinite().any()) else []

    def moments(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.components.moments()
        return mean.squeeze(-1), variance.squeeze(-1)

    def _quantiles(self, q: Tensor, upper: Tensor) -> Tensor:
        """Of the components, (*, K); NaN for those of weight 0."""
        found = self.components.gather(lambda group: group.quantile(q, upper))
        return torch.where(self.components.alive, found, math.nan)


class WholeNumberLaw(LatticeLaw):
    """Families of whole numbers, and point masses at some."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self.n_components = components.log_w.shape[-1]

    def cell_log_mass(self, first: Tensor, last: Tensor | None = None) -> Tensor:
        if last is None:
            terms = self.components.log_terms
            at = self.components.in_parts(lambda y: (log_sum_exp(terms(y.unsqueeze(-1))),), first)
            return at[0]
        return _log_mass(self.components, first, last)

    def cell_log_tails(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        return _log_tails(self.components, cell, self.components.log_w)

    def ends(self) -> tuple[Tensor, Tensor]:
        return _ends(self.components)

    def cell_below(self, p: Tensor) -> Tensor:
        return (self.ends()[0] - 1.0).expand(p.shape)

    @torch.no_grad()
    def cells(self) -> tuple[Tensor, Tensor]:
        q = torch.full_like(self.components.log_w[..., 0], self.tail)
        first, last = self.quantile_cell(q), self.quantile_cell(1.0 - q)
        count = int((last - first).max()) + 1
        if count > _MAX_CELLS:
            raise ValueError(
                f"components must not spread over more than {_MAX_CELLS} whole numbers for a sum; "
                f"got {count}. Divide y by a unit and take a continuous family"
            )
        steps = torch.arange(count, dtype=q.dtype, device=q.device)
        cell = first + steps.view(-1, *(1,) * first.ndim)
        return cell, cell <= last

    def moments(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.components.moments()
        return mean.squeeze(-1), variance.squeeze(-1)


def _log_tails(components: Components, y: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    def at(y: Tensor) -> tuple[Tensor, ...]:
        pairs = [group.log_tails(y) for group in components.groups]
        return tuple(log_sum_exp(torch.cat(side, -1) + log_w) for side in zip(*pairs, strict=True))

    lower, upper = components.in_parts(at, y)
    return lower, upper


def _log_mass(components: Components, low: Tensor, high: Tensor) -> Tensor:
    def at(low: Tensor, high: Tensor) -> tuple[Tensor]:
        pairs = [group.log_interval(low, high) for group in components.groups]
        inside, outside = (
            log_sum_exp(torch.cat(side, -1) + components.log_w) for side in zip(*pairs, strict=True)
        )
        return (log_from_smaller_tail(inside, outside),)

    return components.in_parts(at, *torch.broadcast_tensors(low.double(), high.double()))[0]


def _ends(components: Components) -> tuple[Tensor, Tensor]:
    """Ends of the support, (*)."""
    low, high = components.ends()
    return (
        torch.where(components.alive, low, math.inf).amin(-1),
        torch.where(components.alive, high, -math.inf).amax(-1),
    )

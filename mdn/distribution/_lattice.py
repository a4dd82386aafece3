"""Laws on the multiples of a width: quantiles, modes, regions, scores and entropy by sums.

A cell is a whole number c and stands for the value c width; float64.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..functional._checks import broadcast_shapes
from ..functional._numerics import log_from_smaller_tail
from ..functional._roots import turning_points
from ._law import UnivariateLaw, by_falling_density, padded

__all__ = ["LatticeLaw"]

_WIDENINGS = 200  # doublings or halvings of a bracket
_CHUNK = 1 << 18  # cells and rows evaluated at a time in a score


class LatticeLaw(UnivariateLaw):
    """A law on the multiples of a width.

    Attributes:
        width: distance of two values.
        tail: probability left out on each side of a sum over all cells.
    """

    width = 1.0
    tail = 1e-15

    # -- what a subclass defines --------------------------------------------------------------

    @abstractmethod
    def cell_log_mass(self, first: Tensor, last: Tensor | None = None) -> Tensor:
        """Log of P(first <= cell <= last), last being first if it is None."""

    @abstractmethod
    def cell_log_tails(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Logs of the probabilities up to a cell and above it, each accurate where it is small."""

    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value, (*)."""

    @abstractmethod
    def cell_below(self, p: Tensor) -> Tensor:
        """A cell below that of the quantile at p, close to it where one is known."""

    @abstractmethod
    def cells(self) -> tuple[Tensor, Tensor]:
        """Rising cells (C, *), and which of them are among the ones to sum over.

        These hold all but ``tail`` on each side; a row of few has others behind them.
        """

    def cell_at_most(self, y: Tensor) -> Tensor:
        """The last cell whose value is at most y."""
        return y.double().floor()

    def mode_cells(self) -> tuple[Tensor, Tensor]:
        """Sorted cells (C, *) with all modes, each between two that are less likely, and a mask."""
        return self.cells()

    # -- probabilities ------------------------------------------------------------------------

    def log_cdf(self, y: Tensor) -> Tensor:
        return log_from_smaller_tail(*self.cell_log_tails(self.cell_at_most(y)))

    def log_sf(self, y: Tensor) -> Tensor:
        lower, upper = self.cell_log_tails(self.cell_at_most(y))
        return log_from_smaller_tail(upper, lower)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        return self.cell_log_mass(-self.cell_at_most(-low), self.cell_at_most(high))

    # -- quantiles ----------------------------------------------------------------------------

    @torch.no_grad()
    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        low, high = self.ends()
        p, low, high = torch.broadcast_tensors(p, low, high)
        inside = (p > 0) & (p < 1)
        cell = self.quantile_cell(torch.where(inside, p, 0.5), given)
        at_end = torch.where(p == 0, low, torch.where(p == 1, high, p))
        return torch.where(inside, cell * self.width, at_end)

    def reaches(self, cell: Tensor, p: Tensor, given: torch.dtype) -> Tensor:
        """Whether P(up to the cell) >= p, whatever the rounding of both."""
        slack = 4.0 * torch.finfo(given).eps
        lower, upper = (t.exp() for t in self.cell_log_tails(cell))
        return torch.where(p > 0.5, upper <= (1.0 - p) + slack, lower >= p * (1.0 - slack))

    def quantile_cell(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        """The least cell that reaches p, by bisection."""
        low = self.cell_below(p)
        step = torch.ones_like(p)
        for _ in range(_WIDENINGS):
            short = ~self.reaches(low + step, p, given)
            if not bool(short.any()):
                break
            step = torch.where(short, 2.0 * step, step)
        high = low + step
        low = torch.where(step > 1, low + 0.5 * step, low)  # not reached there
        for _ in range(_WIDENINGS):
            middle = (0.5 * (low + high)).floor()
            if not bool(((middle > low) & (middle < high)).any()):
                break
            there = self.reaches(middle, p, given)
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        return high

    # -- modes and regions --------------------------------------------------------------------

    def modes(self) -> tuple[Tensor, Tensor]:
        cell, known = self.mode_cells()
        log_p = self._log_masses(cell, known)
        index, _, there = turning_points(log_p.reshape(len(cell), -1))
        place, height, there = (
            a[::2].reshape(-1, *cell.shape[1:]).movedim(0, -1)
            for a in (
                (cell * self.width).reshape(len(cell), -1).gather(0, index),
                log_p.reshape(len(cell), -1).gather(0, index),
                there,
            )
        )
        place, height = by_falling_density(place, height, there & (height > -math.inf))
        return padded(place, self.n_components), padded(height, self.n_components)

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        """The likeliest cells until they hold the coverage."""
        cell, known = self.cells()
        p, order = self.masses(cell, known).sort(dim=0, descending=True, stable=True)
        chosen = (p.cumsum(0) - p < coverage * (1 - 1e-12)) & (p > 0)
        level = torch.where(chosen, p, math.inf).amin(0).log()
        intervals = _runs(cell, torch.zeros_like(chosen).scatter(0, order, chosen))
        return padded(intervals * self.width, self.n_components, -2), level

    def masses(self, cell: Tensor, known: Tensor) -> Tensor:
        """Probabilities of rising cells, (C, *), to an absolute error."""
        return self._log_masses(cell, known).exp()

    def _log_masses(self, cell: Tensor, known: Tensor) -> Tensor:
        return self.cell_log_mass(cell).masked_fill(~known, -math.inf)

    # -- sums ---------------------------------------------------------------------------------

    def crps(self, y: Tensor) -> Tensor:
        """In cells, F is constant from one to the next."""
        with torch.no_grad():
            cells, known = self.cells()
            first, last = cells[0], torch.where(known, cells, -math.inf).amax(0)
        y = y.double() / self.width
        y = y.expand(broadcast_shapes(y.shape, first.shape))
        at = y.detach().floor()
        share = y - at  # of its cell, what lies below y
        total = (first - y).clamp(min=0.0) + (y - last - 1.0).clamp(min=0.0)
        for cell in cells.split(max(1, _CHUNK // max(1, y.numel()))):
            # y may have axes in front of those of the batch
            cell = cell.view(len(cell), *(1,) * (y.ndim - first.ndim), *first.shape)
            lower, upper = (t.mul(2.0).exp() for t in self.cell_log_tails(cell))
            terms = torch.where(cell < at, lower, upper)
            terms = torch.where(cell == at, share * lower + (1.0 - share) * upper, terms)
            total = total + torch.where(cell <= last, terms, 0.0).sum(0)
        return total * self.width

    def entropy(self) -> Tensor:
        with torch.no_grad():
            cells = self.cells()
        log_p = self._log_masses(*cells)
        some = log_p > -math.inf
        return -torch.where(some, log_p.exp() * log_p.masked_fill(~some, 0.0), 0.0).sum(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cell, known = self.cells()
        p = self._log_masses(cell, known).exp()
        away = cell - cell[0]  # so that a common offset does not cancel
        shift = (p * away).sum(0)
        variance = (p * (away - shift).square()).sum(0)
        return self.width * (cell[0] + shift), self.width**2 * variance


def _runs(k: Tensor, inside: Tensor) -> Tensor:
    """First and last of the whole numbers k (C, *) of every run inside, (*, R, 2), NaN-padded."""
    gap = torch.zeros_like(inside[:1])
    starts = inside & ~torch.cat([gap, inside[:-1]])
    stops = inside & ~torch.cat([inside[1:], gap])
    count = int(starts.sum(0).max())
    found = []
    for ends in (starts, stops):
        index = (~ends).int().argsort(dim=0, stable=True)[:count]
        found.append(torch.where(ends.gather(0, index), k.gather(0, index), math.nan))
    return torch.stack(found, -1).movedim(0, -2)

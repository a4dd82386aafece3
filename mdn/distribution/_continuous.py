"""Mixtures of any families over the line, in float64: tails, quantiles, modes, regions, CRPS.

A :class:`Line` has the event axis off: y is (*), and what belongs to components (*, K).  It comes
in two kinds.  A continuous one may hold point masses besides, and then its density is that of the
other components; a whole-number one is a probability mass throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..functional._numerics import log_from_smaller_tail, log_sum_exp
from ..functional._quadrature import integrate
from ..functional._roots import find_root, refine_extrema, turning_points
from . import _family_functions as families
from ._components import Part

__all__ = ["Line", "runs"]

# Levels in each tail whose quantiles lie on the grid that is searched for modes.
_FAR = (1e-30, 1e-20, 1e-13, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3)
_NEAR = (0.005, *(0.0125 * i for i in range(1, 41)))
_CUTS = (1e-25, 1e-10, 1e-5, 1e-3, 0.03, 0.2, 0.5)  # of the first panels of an integral
_WHOLE_TAIL = 1e-15  # left out on each side of a sum over whole numbers
_MAX_TERMS = 1 << 22  # of such a sum: 32 MiB a component and mixture
_WIDENINGS = 200
_AT_END = math.pi - 1e-6  # radians; beyond, a mode of a circular family is on the cut


class _Turns(NamedTuple):
    """Modes and antimodes in rising order, from a grid along which the density was taken.

    Attributes:
        place: mode, antimode, ..., mode, (C, *).
        log_density: there, (C, *).
        there: whether there are so many, (C, *).
        first: of the grid's points next to it, as high as one another, (C, *).
        last: likewise.
        grid: (G, *), sorted.
        height: log density on the grid, (G, *).
    """

    place: Tensor
    log_density: Tensor
    there: Tensor
    first: Tensor
    last: Tensor
    grid: Tensor
    height: Tensor


class _AtRoot(Function):
    """y with the gradient of the implicit function: dy = -d(excess) / density."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, excess: Tensor, density: Tensor) -> Tensor:
        ctx.save_for_backward(density)
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (density,) = ctx.saved_tensors
        return None, torch.where(density > 0, -grad / density, 0.0), None


class Line:
    """A univariate mixture.

    Args:
        log_w: normalised log weights, (*, K), float64.
        parts: components, float64 throughout, K in all, of the batch of the weights.
    """

    def __init__(self, log_w: Tensor, parts: list[Part]) -> None:
        self.log_w, self.parts = log_w, parts
        self.atoms = torch.tensor(
            [families.is_atom(p.dist) for p in parts for _ in range(p.size)],
            device=log_w.device,
        )
        self.whole = any(
            families.is_discrete(p.dist) and not families.is_atom(p.dist) for p in parts
        )
        self.circular = all(families.is_circular(p.dist) for p in parts)
        self.n_atoms = int(self.atoms.sum())

    # -- density and tails --------------------------------------------------------------------

    def _gather(self, of: Callable[[Part], Tensor]) -> Tensor:
        found = [of(part) for part in self.parts]
        batch = torch.broadcast_shapes(*(a.shape[:-1] for a in found))
        return torch.cat([a.expand(*batch, a.shape[-1]) for a in found], -1)

    def log_terms(self, y: Tensor) -> Tensor:
        """Log weight + log density of each component, (*, K); y is (*, D).

        With respect to the counting measure at the point masses and Lebesgue's elsewhere: at a
        point that has mass, what has none counts as 0.
        """
        terms = self._gather(lambda part: part.log_prob(y)) + self.log_w
        if self.n_atoms and not self.whole:
            hit = ((terms > -math.inf) & self.atoms).any(-1, keepdim=True)
            terms = terms.masked_fill(hit & ~self.atoms, -math.inf)
        return terms

    def log_density(self, y: Tensor) -> Tensor:
        """Log density at y (*): without the point masses, unless all is whole numbers."""
        terms = self._gather(lambda part: part.log_prob(y.unsqueeze(-1))) + self.log_w
        if self.n_atoms and not self.whole:
            terms = terms.masked_fill(self.atoms, -math.inf)
        return log_sum_exp(terms)

    def log_tails(self, y: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        """Logs of P(Y <= y) and P(Y > y); y is (*).  ``smooth`` leaves the point masses out."""
        y = y.double()
        log_w = self.log_w.masked_fill(self.atoms, -math.inf) if smooth else self.log_w
        pairs = [part.log_tails(y) for part in self.parts]
        lower, upper = (
            log_sum_exp(torch.cat([pair[i] for pair in pairs], -1) + log_w) for i in (0, 1)
        )
        return lower, upper

    def log_cdf(self, y: Tensor) -> Tensor:
        """Log P(Y <= y), with the digits of the other tail where that is the smaller."""
        return log_from_smaller_tail(*self.log_tails(y))

    def log_sf(self, y: Tensor) -> Tensor:
        """Log P(Y > y)."""
        lower, upper = self.log_tails(y)
        return log_from_smaller_tail(upper, lower)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the support, (*)."""
        alive = self.log_w > -math.inf
        low, high = self._ends()
        return (
            torch.where(alive, low, math.inf).amin(-1),
            torch.where(alive, high, -math.inf).amax(-1),
        )

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Of the components, (*, K)."""
        device = self.log_w.device
        low = self._gather(lambda part: part.ends()[0].to(device))
        return low, self._gather(lambda part: part.ends()[1].to(device))

    def _quantiles(self, q: Tensor, upper: Tensor) -> Tensor:
        """Of the components, (*, K); NaN for those of weight 0."""
        found = self._gather(lambda part: part.quantile(q, upper))
        return torch.where(self.log_w > -math.inf, found, math.nan)

    # -- quantiles ----------------------------------------------------------------------------

    def icdf(self, p: Tensor, slack: float) -> Tensor:
        """The least y with P(Y <= y) >= p; ``slack`` is the relative rounding of p."""
        shape = torch.broadcast_shapes(p.shape, self.log_w.shape[:-1])
        p = p.expand(shape)
        upper = p > 0.5
        q = torch.where(upper, 1.0 - p, p)
        inside = (q > 0) & ~p.isnan()
        with torch.no_grad():
            low, high = (a.expand(shape) for a in self.ends())
            tail = torch.where(inside, q, 0.5)
            at, jump = self._at_jump(p)
            if self.whole:
                y = self._whole_quantile(tail, upper, slack)
            else:
                y = self._smooth_quantile(tail, upper, torch.where(jump, at, math.nan))
            y = torch.where(inside, y, torch.where(p == 0, low, torch.where(p == 1, high, p)))
        if self.whole:
            return y
        if self.n_atoms:
            y = torch.where(jump, self._at_jump(p)[0], y)  # with its gradient
        smooth = inside & ~jump
        if torch.is_grad_enabled() and (p.requires_grad or self._requires_grad()):
            at = y.detach()
            lower, upper_tail = (t.exp() for t in self.log_tails(torch.where(smooth, at, 0.0)))
            excess = torch.where(upper, (1.0 - p) - upper_tail, lower - p)
            density = self.log_density(torch.where(smooth, at, 0.0)).exp().detach()
            y = torch.where(smooth, _AtRoot.apply(at, excess, density), y)
        return y

    def _requires_grad(self) -> bool:
        return self.log_w.requires_grad or any(families.requires_grad(p.dist) for p in self.parts)

    def _smooth_quantile(self, q: Tensor, upper: Tensor, known: Tensor) -> Tensor:
        """Between the least and the greatest quantile of the components; ``known`` if not NaN."""
        each = self._quantiles(q, upper)
        low = each.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).amin(-1)
        high = torch.where(each.isnan(), -math.inf, each).amax(-1)
        least, most = (a.expand(q.shape) for a in self.ends())
        log_q, sign = q.log(), torch.where(upper, -1.0, 1.0).to(q)

        def excess(y: Tensor) -> Tensor:
            lower_tail, upper_tail = self.log_tails(y)
            return sign * (torch.where(upper, upper_tail, lower_tail) - log_q)

        # the quantiles are rounded
        width = (high - low) * 1e-3 + 1e-12 * torch.maximum(low.abs(), high.abs()) + 1e-300
        for _ in range(_WIDENINGS):
            too_high, too_low = excess(low) > 0, excess(high) < 0
            too_high, too_low = too_high & (low > least), too_low & (high < most)
            if not bool((too_high | too_low).any()):
                break
            low = torch.where(too_high, torch.maximum(low - width, least), low)
            high = torch.where(too_low, torch.minimum(high + width, most), high)
            width = 2.0 * width
        low, high = (torch.where(known.isnan(), a, known) for a in (low, high))
        if bool((least >= 0).all()):  # many powers of ten: in the log of y
            floor = math.log(5e-324)
            root = find_root(
                lambda u: excess(u.exp()), low.log().clamp(min=floor), high.log().clamp(min=floor)
            )
            return root.exp().clamp(low, high)
        return find_root(excess, low, high)

    def _atom_places(self) -> tuple[Tensor, Tensor]:
        """Place and mass of each point mass, (*, A); mass 0 for a second one at the same place."""
        place = self._gather(
            lambda part: (
                part.ends()[0] if families.is_atom(part.dist) else self.log_w.new_zeros(part.size)
            )
        )[..., self.atoms].to(self.log_w.device)
        weight = self.log_w.exp()[..., self.atoms]
        place = place.expand(weight.shape)
        same = place.unsqueeze(-1) == place.unsqueeze(-2)  # (*, A, A)
        mass = (same * weight.unsqueeze(-2)).sum(-1)
        first = ~torch.tril(same, -1).any(-1)
        return place, torch.where(first, mass, 0.0)

    def _at_jump(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The point mass whose jump holds p, and where there is one."""
        found, there = torch.zeros_like(p), torch.zeros_like(p, dtype=torch.bool)
        if not self.n_atoms or self.whole:
            return found, there
        place, mass = self._atom_places()
        for at, height in zip(place.unbind(-1), mass.unbind(-1), strict=True):
            with torch.no_grad():
                lower, upper = (t.exp() for t in self.log_tails(at))
                reached = torch.where(p > 0.5, upper <= 1.0 - p, lower >= p)
                started = torch.where(p > 0.5, upper + height > 1.0 - p, lower - height < p)
                here = reached & started & (height > 0) & (p > 0)
            found, there = torch.where(here, at, found), there | here
        return found, there

    def _whole_quantile(self, q: Tensor, upper: Tensor, slack: float) -> Tensor:
        """By bisection over the whole numbers."""
        size = torch.where(upper, 1.0, q)  # p has the rounding of a number of this size
        log_least = (q - slack * size).clamp(min=0.0).log()
        log_most = (q + slack * size).log()

        def reached(k: Tensor) -> Tensor:
            lower_tail, upper_tail = self.log_tails(k)
            return torch.where(upper, upper_tail <= log_most, lower_tail >= log_least)

        low = (self.ends()[0] - 1.0).expand(q.shape)
        step = torch.ones_like(q)
        for _ in range(_WIDENINGS):
            short = ~reached(low + step)
            if not bool(short.any()):
                break
            step = torch.where(short, 2.0 * step, step)
        high = low + step
        low = torch.where(step > 1, low + 0.5 * step, low)  # not reached there
        for _ in range(_WIDENINGS):
            middle = (0.5 * (low + high)).floor()
            if not bool(((middle > low) & (middle < high)).any()):
                break
            there = reached(middle)
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        return high

    # -- modes and regions --------------------------------------------------------------------

    def modes(self) -> tuple[Tensor, Tensor]:
        """Places and log densities of the modes, (*, M), NaN-padded."""
        if self.whole:
            x, log_p, there = self._whole_turns()
        elif self.n_atoms == len(self.atoms):
            x = log_p = self.log_w.new_zeros(0, *self.log_w.shape[:-1])
            there = x > 0
        else:
            x, log_p, there = self._turns()[:3]
        x, log_p, there = (a[::2].movedim(0, -1) for a in (x, log_p, there))
        if self.circular:  # the ends are one place, a mode if the density rises towards both
            first, last = (x < -_AT_END) & there, (x > _AT_END) & there
            there = there & ~last & ~(first & ~last.any(-1, keepdim=True))
        place, height = _by_falling(x, log_p, there)
        if self.n_atoms and not self.whole:  # infinitely dense, so they come first
            at, mass = self._atom_places()
            at, log_mass = _by_falling(at, mass.log(), mass > 0)
            place, height = torch.cat([at, place], -1), torch.cat([log_mass, height], -1)
            order = height.isnan().int().argsort(dim=-1, stable=True)
            place, height = place.gather(-1, order), height.gather(-1, order)
        return _padded(place, len(self.atoms)), _padded(height, len(self.atoms))

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        """Intervals (*, C, 2), NaN-padded, and log density on the edges (*)."""
        if self.whole:
            intervals, log_level = self._whole_region(coverage)
        elif not self.n_atoms:
            intervals, log_level = self._region(self.log_w.new_full((), coverage))
        else:
            intervals, log_level = self._mixed_region(coverage)
        # drop empty columns, sort by the left edge
        lowest = torch.where(intervals[..., 0].isnan(), math.inf, intervals[..., 0])
        order = lowest.argsort(dim=-1, stable=True).unsqueeze(-1)
        intervals = intervals.gather(-2, order.expand(intervals.shape))
        used = int((~intervals[..., 0].isnan()).sum(-1).max())
        width = max(len(self.atoms), used)
        intervals = _padded(intervals.movedim(-1, 0), width).movedim(0, -1)[..., :width, :]
        return intervals, log_level

    def _grid(self, levels: tuple[float, ...]) -> Tensor:
        """Quantiles of all components in both tails, and ends of their supports; (G, *), sorted."""
        batch = self.log_w.shape[:-1]
        q = self.log_w.new_tensor(levels * 2)
        upper = torch.arange(len(q), device=q.device) >= len(levels)
        axes = (-1, *(1,) * len(batch))
        each = self._quantiles(q.view(axes), upper.view(axes)).expand(len(q), *self.log_w.shape)
        dead = self.log_w == -math.inf
        ends = [a.expand(dead.shape).masked_fill(dead, math.nan)[None] for a in self._ends()]
        grid = torch.cat([each, *ends]).movedim(-1, 1).flatten(0, 1)  # (G, *)
        grid = torch.where(grid.isfinite(), grid, math.nan)
        first = torch.where(grid.isnan(), math.inf, grid).amin(0)
        return torch.where(grid.isnan(), first, grid).sort(dim=0).values

    def _turns(self) -> _Turns:
        grid = self._grid(_FAR + _NEAR)
        height = self.log_density(grid)
        index, first, there = (
            a.reshape(-1, *grid.shape[1:]) for a in turning_points(height.reshape(len(grid), -1))
        )
        at, left, right = (
            grid.gather(0, i.clamp(0, len(grid) - 1)) for i in (first, first - 1, index + 1)
        )
        sign = torch.ones_like(at)
        sign[1::2] = -1.0
        x = refine_extrema(lambda y: sign * self.log_density(y), left, at, right)
        return _Turns(x, self.log_density(x), there, first, index, grid, height)

    def _region(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Where the density is at least a level, such that it holds the probability ``target``."""
        x, log_p, there, first, last, grid, heights = self._turns()
        finite = heights.isfinite()
        lowest = torch.where(finite, heights, math.inf).amin(0) - 1.0
        highest = torch.cat(
            [
                torch.where((log_p < math.inf) & there, log_p, -math.inf),
                torch.where(finite, heights, -math.inf),
            ]
        ).amax(0)
        end = len(grid) - 1
        x = torch.where(there, x, grid[-1])
        log_p = torch.where(there, log_p, -math.inf)
        first, last = (torch.where(there, i, end) for i in (first, last))
        # each mode has a rising piece on its left and a falling one on its right: (2 M, *)
        nowhere, zero = torch.full_like(log_p[:1], -math.inf), torch.zeros_like(first[:1])
        outer = torch.cat([grid[:1], x[1::2], x[1::2], grid[-1:]])
        outer_height = torch.cat([nowhere, log_p[1::2], log_p[1::2], nowhere])
        outer_index = torch.cat([zero, last[1::2], first[1::2], zero + end])
        inner, height = torch.cat([x[::2]] * 2), torch.cat([log_p[::2]] * 2)
        inner_index = torch.cat([first[::2], last[::2]])
        n_modes = len(inner) // 2
        side = torch.ones_like(inner)
        side[:n_modes] = -1.0

        def edges(level: Tensor) -> tuple[Tensor, Tensor]:
            free = (height >= level) & (outer_height < level)
            low, high = outer_index, inner_index
            for _ in range(len(grid).bit_length()):  # the cell of the grid, by bisection
                middle = (low + high) // 2
                above, open_ = heights.gather(0, middle) >= level, (high - low).abs() > 1
                low = torch.where(open_ & ~above, middle, low)
                high = torch.where(open_ & above, middle, high)
            start = torch.where(low == outer_index, outer, grid.gather(0, low))
            stop = torch.where(high == inner_index, inner, grid.gather(0, high))
            start = torch.where(free, start, stop)
            return find_root(
                lambda y: self.log_density(y) - level, start, stop, noise=1e-14, share=1e-14
            ), free

        def missing(level: Tensor) -> Tensor:
            at, free = edges(level)
            below = self.log_tails(at, smooth=True)[0].exp()
            return target - (side * below * free).sum(0)

        level = find_root(missing, lowest, highest, noise=1e-14)
        at, free = edges(level)
        # a side that is not free touches the neighbour's piece: together they are one interval
        out = at.new_full((n_modes, *level.shape, 2), math.nan).movedim(0, -2)
        for which, (edge, mask) in enumerate(zip(at.chunk(2), free.chunk(2), strict=True)):
            rank = (mask.cumsum(0) - 1).clamp(min=0)
            for i in range(n_modes):
                slot = rank[i].unsqueeze(-1)
                old = out[..., which].gather(-1, slot)
                new = torch.where(mask[i].unsqueeze(-1), edge[i].unsqueeze(-1), old)
                out[..., which] = out[..., which].scatter(-1, slot, new)
        return out, level

    def _mixed_region(self, coverage: float) -> tuple[Tensor, Tensor]:
        """Point masses first, the heaviest before; the density is for what they leave."""
        place, mass = self._atom_places()
        order = mass.argsort(dim=-1, descending=True, stable=True)
        place, mass = place.gather(-1, order), mass.gather(-1, order)
        before = mass.cumsum(-1) - mass
        kept = (before < coverage - 1e-12) & (mass > 0)
        left = coverage - mass.sum(-1)
        points = torch.where(kept, place, math.nan)
        alone = left <= 1e-12
        if self.n_atoms == len(self.atoms):
            return torch.stack([points, points], -1), torch.full_like(left, math.inf)
        # some target has to be reached also where nothing is left
        intervals, log_level = self._region(torch.where(alone, 0.5 * (1 - mass.sum(-1)), left))
        intervals = intervals.masked_fill(alone[..., None, None], math.nan)
        inside = (points.unsqueeze(-1) >= intervals[..., None, :, 0]) & (
            points.unsqueeze(-1) <= intervals[..., None, :, 1]
        )
        points = points.masked_fill(inside.any(-1), math.nan)
        both = torch.cat([torch.stack([points, points], -1), intervals], -2)
        return both, torch.where(alone, math.inf, log_level)

    # -- whole numbers ------------------------------------------------------------------------

    @torch.no_grad()
    def _whole_range(self) -> tuple[Tensor, Tensor]:
        """First and last number of all but 1e-15 on each side; (W, *) and (*)."""
        q = torch.full_like(self.log_w[..., 0], _WHOLE_TAIL)
        no = torch.zeros_like(q, dtype=torch.bool)
        first, last = self._whole_quantile(q, no, 0.0), self._whole_quantile(q, ~no, 0.0)
        width = int((last - first).max()) + 1
        if width > _MAX_TERMS:
            raise ValueError(
                f"components must not spread over more than {_MAX_TERMS} whole numbers for a sum; "
                f"got {width}. Divide y by a unit and take a continuous family"
            )
        steps = torch.arange(width, dtype=q.dtype, device=q.device)
        return first + steps.view(-1, *(1,) * first.ndim), last

    def _whole_turns(self) -> tuple[Tensor, Tensor, Tensor]:
        k, last = self._whole_range()
        log_p = self.log_density(k).masked_fill(k > last, -math.inf)
        index, _, there = turning_points(log_p.reshape(len(k), -1))
        shape = (-1, *k.shape[1:])
        x, height = (a.reshape(len(k), -1).gather(0, index) for a in (k.expand_as(log_p), log_p))
        return x.reshape(shape), height.reshape(shape), there.reshape(shape)

    def _whole_region(self, coverage: float) -> tuple[Tensor, Tensor]:
        """The likeliest numbers until they hold the coverage."""
        k, last = self._whole_range()
        log_p = self.log_density(k).masked_fill(k > last, -math.inf)
        falling, order = log_p.sort(dim=0, descending=True, stable=True)
        p = falling.exp()
        chosen = (p.cumsum(0) - p < coverage * (1 - 1e-12)) & (p > 0)
        level = torch.where(chosen, falling, math.inf).amin(0)
        return runs(k, torch.zeros_like(chosen).scatter(0, order, chosen)), level

    # -- score --------------------------------------------------------------------------------

    def crps(self, y: Tensor) -> Tensor:
        """Integral of (F(x) - 1{y <= x})^2, (*)."""
        shape = torch.broadcast_shapes(y.shape, self.log_w.shape[:-1])
        y = y.expand(shape)
        return self._whole_crps(y) if self.whole else self._smooth_crps(y)

    def _smooth_crps(self, y: Tensor) -> Tensor:
        def squared(x: Tensor) -> Tensor:
            lower, upper = self.log_tails(x)
            return torch.where(x < y, lower, upper).mul(2.0).exp()

        with torch.no_grad():
            cuts = self._grid(_CUTS).movedim(0, -1)  # (*, G), and y may have axes in front
            if self.n_atoms:
                cuts = torch.cat([cuts, self._atom_places()[0]], -1)
            cuts = torch.cat([cuts.expand(*y.shape, -1), y.unsqueeze(-1)], -1)
            value, x, w = integrate(squared, cuts.sort(dim=-1).values.movedim(-1, 0))
        if not (torch.is_grad_enabled() and (y.requires_grad or self._requires_grad())):
            return value
        if self._requires_grad():
            # the same sum with the places fixed; what they would move by adds nothing
            terms = (w * squared(x)).sum(0)
            value = value + (terms - terms.detach())
        slope = (2.0 * self.log_cdf(y.detach()).exp() - 1.0).detach()
        return value + slope * (y - y.detach())

    def _whole_crps(self, y: Tensor) -> Tensor:
        k, last = self._whole_range()
        first = k[0]
        k = k.movedim(0, -1).expand(*y.shape, len(k)).movedim(-1, 0)  # y may have axes in front
        lower, upper = (t.mul(2.0).exp() for t in self.log_tails(k))
        cell = y.detach().floor()
        part = y - cell  # of its cell, the share below y
        terms = torch.where(k < cell, lower, upper)
        terms = torch.where(k == cell, part * lower + (1.0 - part) * upper, terms)
        inside = torch.where(k <= last, terms, 0.0).sum(0)
        return inside + (first - y).clamp(min=0.0) + (y - last - 1.0).clamp(min=0.0)


def runs(k: Tensor, inside: Tensor) -> Tensor:
    """First and last of the whole numbers k (W, *) of every run inside, (*, C, 2), NaN-padded."""
    gap = torch.zeros_like(inside[:1])
    starts = inside & ~torch.cat([gap, inside[:-1]])
    stops = inside & ~torch.cat([inside[1:], gap])
    count = int(starts.sum(0).max())
    found = []
    for ends in (starts, stops):
        index = (~ends).int().argsort(dim=0, stable=True)[:count]
        found.append(torch.where(ends.gather(0, index), k.gather(0, index), math.nan))
    return torch.stack(found, -1).movedim(0, -2)


def _by_falling(place: Tensor, height: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted along the last axis, NaN where there is none."""
    key = torch.where(there, height, -math.inf)
    order = key.argsort(dim=-1, descending=True, stable=True)
    there = there.gather(-1, order)
    return (
        torch.where(there, place.gather(-1, order), math.nan),
        torch.where(there, height.gather(-1, order), math.nan),
    )


def _padded(a: Tensor, width: int) -> Tensor:
    """At least ``width`` long and no longer than needed."""
    used = int((~a.isnan()).sum(-1).max()) if a.shape[-1] and a.numel() else 0
    a = a[..., : max(width, used)]
    more = a.new_full((*a.shape[:-1], max(0, width - a.shape[-1])), math.nan)
    return torch.cat([a, more], -1)

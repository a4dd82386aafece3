"""Laws on the line that have a density: quantiles, modes, regions, scores and entropy; float64.

Point masses may stand beside the density, which is that of all else.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..functional._checks import broadcast_shapes
from ..functional._numerics import is_transformed, log_from_smaller_tail
from ..functional._quadrature import integrate, moments_by_quadrature, without_poles
from ..functional._roots import find_root, refine_extrema, turning_points
from ._law import UnivariateLaw, by_falling_density, padded

__all__ = ["ContinuousLaw"]

# Levels in each tail whose quantiles lie on the grid that is searched for modes.
_FAR = (1e-30, 1e-20, 1e-13, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3)
_NEAR = (0.005, *(0.0125 * i for i in range(1, 41)))
_MIDDLE = (0.03, 0.2, 0.5)
_CUTS = (1e-25, 1e-10, 1e-5, 1e-3, *_MIDDLE)  # of the first panels of an integral
_WIDENINGS = 200  # doublings of a bracket
_AT_END = math.pi - 1e-6  # radians; beyond, a mode of a circular family is on the cut


class ContinuousLaw(UnivariateLaw):
    """A law with a density, and with point masses beside it if ``n_points`` is not 0.

    Attributes:
        n_points: columns of :meth:`points`.
        has_density: whether there is anything but point masses.
        circular: whether the ends of the support, -pi and pi, are one place.
    """

    n_points = 0
    has_density = True
    circular = False

    # -- what a subclass defines --------------------------------------------------------------

    @abstractmethod
    def log_density(self, y: Tensor) -> Tensor:
        """Log density without the point masses."""

    @abstractmethod
    def log_tails(self, y: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        """Logs of P(Y <= y) and P(Y > y), each accurate where it is small.

        ``smooth`` leaves the point masses out.
        """

    @abstractmethod
    def log_mass(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
        """Log of P(low <= Y <= high); ``width`` where their difference has lost its digits."""

    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the support, (*)."""

    @abstractmethod
    def grid(self, levels: tuple[float, ...]) -> Tensor:
        """Sorted quantiles of the parts in both tails and finite ends of their supports, (G, *)."""

    @abstractmethod
    def bracket(self, q: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """What the quantile at q, of the upper tail where ``upper``, is roughly between."""

    @property
    @abstractmethod
    def requires_grad(self) -> bool:
        """Whether one of the parameters does."""

    def points(self) -> tuple[Tensor, Tensor]:
        """Places and masses of the point masses, (*, A)."""
        none = self.ends()[0].unsqueeze(-1)[..., :0]
        return none, none

    def in_float64(self) -> ContinuousLaw:
        """The same law with all its parameters in float64."""
        return self

    def gaps(self) -> list[Tensor]:
        """Places (*) behind which the cdf may be flat for a while."""
        return []

    # -- probabilities ------------------------------------------------------------------------

    def log_cdf(self, y: Tensor) -> Tensor:
        return log_from_smaller_tail(*self.log_tails(y))

    def log_sf(self, y: Tensor) -> Tensor:
        lower, upper = self.log_tails(y)
        return log_from_smaller_tail(upper, lower)

    # -- quantiles ----------------------------------------------------------------------------

    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        low, high = self.ends()
        p, low, high = torch.broadcast_tensors(p, low, high)
        upper = p > 0.5
        q = torch.where(upper, 1.0 - p, p)
        inside = (q > 0) & ~p.isnan()
        with torch.no_grad():
            at, jumps = self._jump(p)
            y = self._root(torch.where(inside, q, 0.5), upper, torch.where(jumps, at, math.nan))
            y = self._before_gaps(y, q, upper, 4.0 * torch.finfo(given).eps)
            y = torch.where(inside, y, torch.where(p == 0, low, torch.where(p == 1, high, p)))
            jumps = jumps & (y == at)
        if self.n_points:
            y = torch.where(jumps, self._jump(p)[0], y)  # with its gradient
        if is_transformed() or (
            torch.is_grad_enabled() and (p.requires_grad or self.requires_grad)
        ):
            smooth = inside & ~jumps
            at = torch.where(smooth, y.detach(), 0.0)
            lower, upper_tail = (t.exp() for t in self.log_tails(at))
            excess = torch.where(upper, (1.0 - p) - upper_tail, lower - p)
            density = self.log_density(at).exp().detach()
            y = torch.where(smooth, _AtRoot.apply(y.detach(), excess, density), y)
        return y

    def _jump(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """The point mass whose jump holds p, and where there is one."""
        found, there = torch.zeros_like(p), torch.zeros_like(p, dtype=torch.bool)
        if not self.n_points:
            return found, there
        for at, height in zip(*(a.unbind(-1) for a in self.points()), strict=True):
            with torch.no_grad():
                lower, upper = (t.exp() for t in self.log_tails(at))
                reached = torch.where(p > 0.5, upper <= 1.0 - p, lower >= p)
                started = torch.where(p > 0.5, upper + height > 1.0 - p, lower - height < p)
                here = reached & started & (height > 0) & (p > 0)
            found, there = torch.where(here, at, found), there | here
        return found, there

    def _root(self, q: Tensor, upper: Tensor, known: Tensor) -> Tensor:
        """Where the tail is q, from a bracket that is widened until it holds that; or ``known``."""
        low, high = (a.expand(q.shape) for a in self.bracket(q, upper))
        least, most = (a.expand(q.shape) for a in self.ends())
        log_q, sign = q.log(), torch.where(upper, -1.0, 1.0).to(q)

        def excess(y: Tensor) -> Tensor:
            lower_tail, upper_tail = self.log_tails(y)
            return sign * (torch.where(upper, upper_tail, lower_tail) - log_q)

        # the bracket is rounded
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

    def _before_gaps(self, y: Tensor, q: Tensor, upper: Tensor, slack: float) -> Tensor:
        """Of a flat piece of the cdf, on which a root may lie anywhere, the least place."""
        for end in self.gaps():
            if not bool((end < y).any()):
                continue
            lower_tail, upper_tail = (t.exp() for t in self.log_tails(end.nan_to_num()))
            reached = torch.where(upper, upper_tail <= q + slack, lower_tail >= q * (1.0 - slack))
            y = torch.where(reached & (end < y), end, y)
        return y

    # -- modes --------------------------------------------------------------------------------

    def modes(self) -> tuple[Tensor, Tensor]:
        """Point masses come first, with the log of their mass: they are infinitely dense."""
        place, height = self._density_modes()
        if self.n_points:
            at, mass = self.points()
            at, log_mass = by_falling_density(at, mass.log(), mass > 0)
            place, height = torch.cat([at, place], -1), torch.cat([log_mass, height], -1)
            order = height.isnan().int().argsort(dim=-1, stable=True)
            place, height = place.gather(-1, order), height.gather(-1, order)
        return padded(place, self.n_components), padded(height, self.n_components)

    def _density_modes(self) -> tuple[Tensor, Tensor]:
        if not self.has_density:
            none = self.ends()[0].unsqueeze(-1)[..., :0]
            return none, none
        extrema = self._extrema()
        x, log_p, there = (
            a[::2].movedim(0, -1) for a in (extrema.place, extrema.log_density, extrema.there)
        )
        if self.circular:  # the ends are one place, a mode if the density rises towards both
            first, last = (x < -_AT_END) & there, (x > _AT_END) & there
            there = there & ~last & ~(first & ~last.any(-1, keepdim=True))
        return by_falling_density(x, log_p, there)

    def _extrema(self) -> _Extrema:
        grid = self.grid(_FAR + _NEAR)
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
        return _Extrema(x, self.log_density(x), there, first, index, grid, height)

    # -- regions ------------------------------------------------------------------------------

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        if self.n_points:
            intervals, log_level = self._region_with_points(coverage)
        else:
            intervals, log_level = self.region(torch.full_like(self.ends()[0], coverage))
        lowest = torch.where(intervals[..., 0].isnan(), math.inf, intervals[..., 0])
        order = lowest.argsort(dim=-1, stable=True).unsqueeze(-1)
        intervals = intervals.gather(-2, order.expand(intervals.shape))
        return padded(intervals, self.n_components, -2), log_level

    def region(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Where the density is at least a level, such that it holds a probability, (*)."""
        extrema = self._extrema()
        pieces = _Pieces.between(extrema)

        def missing(level: Tensor) -> Tensor:
            at, free = pieces.edges(self.log_density, level)
            below = self.log_tails(at, smooth=True)[0].exp()
            return target - (pieces.side * below * free).sum(0)

        level = find_root(missing, *extrema.levels(), noise=1e-14)
        return _intervals(*pieces.edges(self.log_density, level)), level

    def _region_with_points(self, coverage: float) -> tuple[Tensor, Tensor]:
        """Point masses first, the heaviest before; the density is for what they leave."""
        place, mass = self.points()
        order = mass.argsort(dim=-1, descending=True, stable=True)
        place, mass = place.gather(-1, order), mass.gather(-1, order)
        before = mass.cumsum(-1) - mass
        chosen = (before < coverage - 1e-12) & (mass > 0)
        left = coverage - mass.sum(-1)
        points = torch.where(chosen, place, math.nan)
        enough = left <= 1e-12
        if not self.has_density:
            return torch.stack([points, points], -1), torch.full_like(left, math.inf)
        # some target has to be reached also where nothing is left
        intervals, log_level = self.region(torch.where(enough, 0.5 * (1 - mass.sum(-1)), left))
        intervals = intervals.masked_fill(enough[..., None, None], math.nan)
        inside = (points.unsqueeze(-1) >= intervals[..., None, :, 0]) & (
            points.unsqueeze(-1) <= intervals[..., None, :, 1]
        )
        points = points.masked_fill(inside.any(-1), math.nan)
        both = torch.cat([torch.stack([points, points], -1), intervals], -2)
        return both, torch.where(enough, math.inf, log_level)

    # -- integrals ----------------------------------------------------------------------------

    def crps(self, y: Tensor) -> Tensor:
        """By quadrature between quantiles, point masses and y."""
        y = y.double()
        y = y.expand(broadcast_shapes(y.shape, self.ends()[0].shape))

        def squared(x: Tensor) -> Tensor:
            lower, upper = self.log_tails(x)
            return torch.where(x < y, lower, upper).mul(2.0).exp()

        with torch.no_grad():
            cuts = self.grid(_CUTS).movedim(0, -1)  # (*, G), and y may have axes in front
            cuts = torch.cat([cuts, self.points()[0]], -1)
            cuts = torch.cat([cuts.expand(*y.shape, -1), y.unsqueeze(-1)], -1)
            value, x, w = integrate(
                squared, cuts.sort(dim=-1).values.movedim(-1, 0), size=self.n_components
            )
        if not (torch.is_grad_enabled() and (y.requires_grad or self.requires_grad)):
            return value
        if self.requires_grad:
            value = _with_gradient(value, (w * squared(x)).sum(0))
        slope = (2.0 * self.log_cdf(y.detach()).exp() - 1.0).detach()
        return value + slope * (y - y.detach())

    def entropy(self) -> Tensor:
        """With respect to length and to the number of point masses, as log_prob is."""
        mass = self.points()[1]
        total = -(mass * torch.where(mass > 0, mass, 1.0).log()).sum(-1)
        if not self.has_density:
            return total
        with torch.no_grad():
            cuts = self.grid(_FAR + _MIDDLE)
            height = self.log_density(self.grid(_MIDDLE))
            top = torch.where(height.isfinite(), height, -math.inf).amax(0) + 1.0

        def excess(x: Tensor) -> Tensor:
            """p (top - log p), which has one sign but next to a pole."""
            log_p = self.log_density(x)
            some = log_p.isfinite()  # on the support, and not at a pole
            return torch.where(some, log_p.exp() * (top - log_p.masked_fill(~some, 0.0)), 0.0)

        with torch.no_grad():
            value, x, w = integrate(excess, cuts, size=self.n_components)
        if torch.is_grad_enabled() and self.requires_grad:
            x, w = without_poles(self.log_density, x, w, cuts[len(cuts) // 2])
            value = _with_gradient(value, (w * excess(x)).sum(0))
        return total + value - top * (1.0 - mass.sum(-1))

    def moments(self) -> tuple[Tensor, Tensor]:
        """By quadrature, of a law without point masses."""
        with torch.no_grad():
            cuts = self.grid(_FAR + _MIDDLE)
            centre = self.icdf(torch.full_like(cuts[0], 0.5))
        return moments_by_quadrature(self.log_density, cuts, centre)


class _AtRoot(Function):
    """y with the gradient of the implicit function: dy = -d(excess) / density."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, excess: Tensor, density: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (density,) = ctx.saved_tensors
        return None, torch.where(density > 0, -grad / density, 0.0), None

    @staticmethod
    def jvp(ctx: Any, _: Any, d_excess: Tensor, __: Any) -> Tensor:
        (density,) = ctx.saved_tensors
        return torch.where(density > 0, -d_excess / density, 0.0)


def _with_gradient(value: Tensor, terms: Tensor) -> Tensor:
    """An integral with the gradient of the same sum at fixed places: moving them adds nothing."""
    return value + (terms - terms.detach())


class _Extrema(NamedTuple):
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

    def levels(self) -> tuple[Tensor, Tensor]:
        """A log density below all of the grid, and the highest that is finite."""
        finite = self.height.isfinite()
        lowest = torch.where(finite, self.height, math.inf).amin(0) - 1.0
        peak = torch.where((self.log_density < math.inf) & self.there, self.log_density, -math.inf)
        return lowest, torch.cat([peak, torch.where(finite, self.height, -math.inf)]).amax(0)


class _Pieces(NamedTuple):
    """The pieces on which the density is monotone: of each mode the one on its left, then right.

    Attributes:
        outer, inner: places of the lower and the upper end of each piece, (2 M, *).
        outer_height, inner_height: log densities there.
        outer_index, inner_index: of the grid.
        side: -1 for a piece on the left of its mode, 1 on the right.
        grid, height: (G, *).
    """

    outer: Tensor
    inner: Tensor
    outer_height: Tensor
    inner_height: Tensor
    outer_index: Tensor
    inner_index: Tensor
    side: Tensor
    grid: Tensor
    height: Tensor

    @classmethod
    def between(cls, extrema: _Extrema) -> _Pieces:
        """Rows of fewer modes have empty pieces at the end of the grid."""
        there, grid = extrema.there, extrema.grid
        x = torch.where(there, extrema.place, grid[-1])
        log_p = torch.where(there, extrema.log_density, -math.inf)
        end = len(grid) - 1
        first, last = (torch.where(there, i, end) for i in (extrema.first, extrema.last))
        nowhere, zero = torch.full_like(log_p[:1], -math.inf), torch.zeros_like(first[:1])
        inner = torch.cat([x[::2]] * 2)
        side = torch.ones_like(inner)
        side[: len(inner) // 2] = -1.0
        return cls(
            outer=torch.cat([grid[:1], x[1::2], x[1::2], grid[-1:]]),
            inner=inner,
            outer_height=torch.cat([nowhere, log_p[1::2], log_p[1::2], nowhere]),
            inner_height=torch.cat([log_p[::2]] * 2),
            outer_index=torch.cat([zero, last[1::2], first[1::2], zero + end]),
            inner_index=torch.cat([first[::2], last[::2]]),
            side=side,
            grid=grid,
            height=extrema.height,
        )

    def edges(
        self, log_density: Callable[[Tensor], Tensor], level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where each piece crosses a level, and whether it does."""
        free = (self.inner_height >= level) & (self.outer_height < level)
        low, high = self.outer_index, self.inner_index
        for _ in range(len(self.grid).bit_length()):  # the cell of the grid, by bisection
            middle = (low + high) // 2
            above, open_ = self.height.gather(0, middle) >= level, (high - low).abs() > 1
            low = torch.where(open_ & ~above, middle, low)
            high = torch.where(open_ & above, middle, high)
        start = torch.where(low == self.outer_index, self.outer, self.grid.gather(0, low))
        stop = torch.where(high == self.inner_index, self.inner, self.grid.gather(0, high))
        start = torch.where(free, start, stop)
        return find_root(
            lambda y: log_density(y) - level, start, stop, noise=1e-14, share=1e-14
        ), free


def _intervals(edge: Tensor, free: Tensor) -> Tensor:
    """Left and right edges put together, (*, M, 2), NaN-padded.

    A side that is not free touches the neighbour's piece: together they are one interval.
    """
    n_modes = len(edge) // 2
    out = edge.new_full((n_modes, *edge.shape[1:], 2), math.nan).movedim(0, -2)
    for which, (at, mask) in enumerate(zip(edge.chunk(2), free.chunk(2), strict=True)):
        rank = (mask.cumsum(0) - 1).clamp(min=0)
        for i in range(n_modes):
            slot = rank[i].unsqueeze(-1)
            old = out[..., which].gather(-1, slot)
            new = torch.where(mask[i].unsqueeze(-1), at[i].unsqueeze(-1), old)
            out[..., which] = out[..., which].scatter(-1, slot, new)
    return out

"""Modes and highest-density regions of Gaussian mixtures, in float64 and without gradients.

``log_w`` (*, K) are normalised log weights; what is missing is NaN in a result.

In one dimension the critical points divide the line into intervals on which the density is
monotone, so that both the modes and the edges of a region are bracketed roots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._numerics import HALF_LOG_2PI
from ._quantile import mixture_icdf
from ._roots import find_root, newton_root

__all__ = ["mixture_hdr", "mixture_modes"]

_CHUNK = 1 << 20  # numbers a working array may hold: 8 MiB
# Grid around each component, in its scales: beyond 39 the density of any other, however light, is
# larger.  The steps are coarse, as extrema of the score between them are searched for.
_HALF_GRID = [*(0.5 * i for i in range(1, 13)), *(7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 27.0, 39.0)]
_GRID = torch.tensor([-t for t in reversed(_HALF_GRID)] + [0.0] + _HALF_GRID, dtype=torch.float64)
_SHARE = 1e-17  # of a bracket around a critical point: below the rounding of the score
_MEAN_SHIFTS = 2000
_SHIFTED = 1e-9  # D > 1: mean shift ends at steps this short, in units of the local width
_NEWTON_STEPS = 20
_SADDLE = 1e-6  # D > 1: a point of larger upward curvature, in local widths, is a saddle
_SAME_MODE = 1e-3  # D > 1: modes closer than this many scales are one


def mixture_modes(log_w: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """All local maxima by falling density: (*, K, D) places and (*, K) log densities.

    ``root`` (*, K, D, D) are lower triangular factors of the covariances.
    """
    batch, (n_components, dims) = loc.shape[:-2], loc.shape[-2:]
    log_w = log_w.detach().double().reshape(-1, n_components)
    loc = loc.detach().double().reshape(-1, n_components, dims)
    root = root.detach().double().reshape(-1, n_components, dims, dims)
    place = loc.new_full(loc.shape, math.nan)
    height = loc.new_full(loc.shape[:-1], -math.inf)
    per_row = n_components * (len(_GRID) if dims == 1 else n_components * dims * dims)
    for part in _chunks(len(loc), per_row):
        if dims == 1:
            flat = log_w[part], loc[part, :, 0], root[part, :, 0, 0]
            x, is_mode, log_p = _critical_points(*flat)
            log_p = torch.where(is_mode, log_p, -math.inf)[:, ::2]
            x = torch.where(is_mode, x, math.nan)[:, ::2].unsqueeze(-1)
        else:
            x, log_p = _climb(log_w[part], loc[part], root[part])
        order = log_p.argsort(dim=-1, descending=True, stable=True)[:, :n_components]
        width = order.shape[1]
        height[part, :width] = log_p.gather(1, order)
        place[part, :width] = x.gather(1, order.unsqueeze(-1).expand(-1, -1, dims))
    none = height == -math.inf
    place = place.masked_fill(none.unsqueeze(-1), math.nan)
    height = height.masked_fill(none, math.nan)
    return place.reshape(*batch, n_components, dims), height.reshape(*batch, n_components)


def mixture_hdr(
    log_w: Tensor, loc: Tensor, scale: Tensor, coverage: float
) -> tuple[Tensor, Tensor]:
    """Highest-density regions, D = 1: the smallest set of the given probability.

    (*, K, 2) disjoint sorted intervals, and (*) the log density on their edges.
    """
    batch, n_components = loc.shape[:-1], loc.shape[-1]
    flat = [a.detach().double().reshape(-1, n_components) for a in (log_w, loc, scale)]
    intervals = flat[1].new_full((*flat[1].shape, 2), math.nan)
    log_level = flat[1].new_empty(len(intervals))
    for part in _chunks(len(intervals), n_components * len(_GRID)):
        found, log_level[part] = _region(coverage, *(a[part] for a in flat))
        intervals[part, : found.shape[1]] = found
    return intervals.reshape(*batch, n_components, 2), log_level.reshape(batch)


# ---------------------------------------------------------------------------------------------
# one dimension; n rows


def _chunks(rows: int, per_row: int) -> list[slice]:
    step = max(1, _CHUNK // per_row)
    return [slice(i, i + step) for i in range(0, rows, step)]


def _density(x: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log density, its first derivative (the score) and second (the curvature) at x (n, P)."""
    log_w, loc, scale = (a.t().unsqueeze(-1) for a in (log_w, loc, scale))  # (K, n, 1)
    z = (x - loc) / scale  # (K, n, P)
    t = log_w - scale.log() - 0.5 * z * z
    best = t.amax(0)
    r = (t - best).exp_()
    total = r.sum(0)
    own = z.div_(scale)  # minus the score of each component
    score = -(r * own).sum(0) / total
    spread = (r * (own.square_() - scale.square().reciprocal())).sum(0) / total
    return best + total.log() - HALF_LOG_2PI, score, spread - score * score


def _cdf(x: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """P(Y <= x), x (n, P); parameters (n, K)."""
    log_w, loc, scale = (a.t().unsqueeze(-1) for a in (log_w, loc, scale))
    return (0.5 * log_w.exp() * torch.erfc((loc - x) / (scale * math.sqrt(2.0)))).sum(0)


def _at_points(x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same at one point of each row, (n)."""
    value, score, curvature = _density(x.unsqueeze(1), *params)
    return value[:, 0], score[:, 0], curvature[:, 0]


def _critical_points(log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mode, antimode, mode, ... in rising order, (n, P), with validity and log density."""
    row, low, high = _sign_changes(log_w, loc, scale)
    own = tuple(a[row] for a in (log_w, loc, scale))
    root = find_root(lambda x: _at_points(x, *own)[1], low, high, share=_SHARE)
    count = row.bincount(minlength=len(loc))
    width = int(count.max())
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    x = loc.new_full((len(loc), width), math.nan)
    log_p = torch.full_like(x, -math.inf)
    x[row, rank] = root
    log_p[row, rank] = _at_points(root, *own)[0]
    return x, torch.arange(width, device=x.device) < count.unsqueeze(1), log_p


def _sign_changes(log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row and a bracket, (Z) each, of every zero of the score; sorted.

    Outside the range of the means the density is monotone.  Inside, the sign of the score is taken
    on a grid.  Where it is the same at both ends of a cell but the score has an extremum towards
    zero in between, that is found: the score may have crossed zero twice.
    """
    params = (log_w, loc, scale)
    off = log_w == -math.inf
    least = torch.where(off, math.inf, loc).amin(1, keepdim=True)
    most = torch.where(off, -math.inf, loc).amax(1, keepdim=True)
    grid = loc.unsqueeze(-1) + scale.unsqueeze(-1) * _GRID.to(loc.device)  # (n, K, T)
    grid = grid.flatten(1).clamp(least, most).sort(1).values
    parts = [
        _density(grid[part], *(a[part] for a in params))[1:]
        for part in _chunks(len(loc), loc.shape[1] * grid.shape[1])
    ]
    score, curvature = (torch.cat(a) for a in zip(*parts, strict=True))
    rising = score >= 0
    # cells in which the score has a minimum above zero, or a maximum below it
    down = rising[:, :-1] & rising[:, 1:] & (curvature[:, :-1] < 0) & (curvature[:, 1:] > 0)
    up = ~rising[:, :-1] & ~rising[:, 1:] & (curvature[:, :-1] > 0) & (curvature[:, 1:] < 0)
    row_e, at = ((down | up) & (grid[:, 1:] > grid[:, :-1])).nonzero(as_tuple=True)
    own = tuple(a[row_e] for a in params)
    left, right = grid[row_e, at], grid[row_e, at + 1]
    extremum = find_root(lambda x: _at_points(x, *own)[2], left, right, share=_SHARE)
    crossed = (_at_points(extremum, *own)[1] >= 0) != down[row_e, at]
    row_e, left, extremum, right = (a[crossed] for a in (row_e, left, extremum, right))

    first, last = torch.ones_like(rising[:, :1]), torch.zeros_like(rising[:, :1])
    rising = torch.cat([first, rising, last], 1)  # it rises before the first mean, falls after
    grid = torch.cat([least, grid, most], 1)
    row, at = (rising[:, 1:] != rising[:, :-1]).nonzero(as_tuple=True)
    # every change of sign: between grid points, and two next to each extremum beyond zero
    low = torch.cat([grid[row, at], left, extremum])
    high = torch.cat([grid[row, at + 1], extremum, right])
    row = torch.cat([row, row_e, row_e])
    order = low.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    return row[order], low[order], high[order]


def _region(coverage: float, log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals (n, M, 2) for M modes, and the log level (n)."""
    params = (log_w, loc, scale)
    x, _, log_p = _critical_points(*params)
    lowest, highest = _level_bracket(coverage, x, log_p, params)
    slopes = _Slopes(x, log_p, lowest, params)

    def missing(level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage minus the mass above the level, and its derivative."""
        edges, crossing = slopes.find_edges(level, rows)
        own = tuple(a[rows] for a in params)
        left, right = _cdf(edges, *own).chunk(2, 1)
        value = coverage - (right - left).sum(1)
        score = _density(edges, *own)[1]
        derivative = torch.where(crossing, level[:, None].exp() / score.abs(), 0.0).sum(1)
        slopes.narrow(edges, crossing, value, rows)
        return value, derivative

    # the mass is a sum of differences of cdfs, each good to some ulp of 1
    level = newton_root(missing, lowest, highest, 0.5 * (lowest + highest), noise=4e-16)
    rows = torch.arange(len(level), device=level.device)
    missing(level, rows)
    # a slope without an edge is above the level down to the neighbour's: one interval together
    out = loc.new_full((*x[:, ::2].shape, 2), math.nan)
    edges, crossing = slopes.edge.chunk(2, 1), slopes.crossing(level, rows).chunk(2, 1)
    for side in (0, 1):
        row, column = crossing[side].nonzero(as_tuple=True)
        slot = crossing[side].cumsum(1)[row, column] - 1
        out[row, slot, side] = edges[side][row, column]
    return out, level


def _level_bracket(
    coverage: float, x: Tensor, log_p: Tensor, params: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The lowest log density inside the central interval, and the highest of all, (n)."""
    tails = torch.tensor([[0.5 * (1 - coverage)], [0.5 * (1 + coverage)]], dtype=torch.float64)
    ends = mixture_icdf(tails.to(x.device), *(a.unsqueeze(0) for a in params)).t()  # (n, 2)
    valley, depth = x[:, 1::2], log_p[:, 1::2]
    inside = (valley > ends[:, :1]) & (valley < ends[:, 1:])
    lowest = torch.cat([_density(ends, *params)[0], torch.where(inside, depth, math.inf)], 1)
    return lowest.amin(1), log_p[:, ::2].amax(1)


class _Slopes:
    """The two slopes of every mode of n mixtures, (n, 2 M): all left ones, then all right ones.

    Attributes:
        inner: where a slope begins: the mode, or a point that is above every level to come.
        height: log density at the mode.
        outer: where it ends: the antimode, a point far outside, or one below every level to come.
        outer_height: log density there.
        edge: where it crosses the last level.
    """

    def __init__(
        self, x: Tensor, log_p: Tensor, lowest: Tensor, params: tuple[Tensor, ...]
    ) -> None:
        log_w, loc, scale = self.params = params
        modes, peak = x[:, ::2], log_p[:, ::2]  # (n, M); missing ones have peak -inf
        valley, depth = x[:, 1::2], log_p[:, 1::2]  # (n, M - 1)
        modes = torch.where(peak == -math.inf, modes[:, :1], modes)
        # beyond these every component is below the lowest level
        reach = -scale.log() - HALF_LOG_2PI - lowest.unsqueeze(1)
        reach = scale * (2 * reach.clamp(min=0)).sqrt()
        active = log_w > -math.inf
        pad = scale.amax(1, keepdim=True)
        far_left = torch.where(active, loc - reach, math.inf).amin(1, keepdim=True) - pad
        far_right = torch.where(active, loc + reach, -math.inf).amax(1, keepdim=True) + pad
        nothing = torch.full_like(far_left, -math.inf)
        valley = torch.where(depth == -math.inf, far_right, valley)  # after the last mode
        self.outer = torch.cat([far_left, valley, valley, far_right], 1)
        self.outer_height = torch.cat([nothing, depth, depth, nothing], 1)
        self.inner, self.height = modes.repeat(1, 2), peak.repeat(1, 2)
        self.edge = 0.5 * (self.outer + self.inner)

    def crossing(self, level: Tensor, rows: Tensor) -> Tensor:
        """Whether each slope of the rows crosses their level."""
        level = level.unsqueeze(1)
        return (self.height[rows] >= level) & (self.outer_height[rows] < level)

    def find_edges(self, level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where the slopes of the rows cross their level, and whether they do.

        A slope that does not is empty if its mode is below the level, else all of it is above.
        """
        crossing = self.crossing(level, rows)
        above = self.height[rows] >= level.unsqueeze(1)
        edges = torch.where(above & ~crossing, self.outer[rows], self.inner[rows])
        row, column = crossing.nonzero(as_tuple=True)
        at = rows[row], column
        own = tuple(a[at[0]] for a in self.params)

        def excess(y: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            value, score, _ = _density(y.unsqueeze(1), *(a[which] for a in own))
            return value[:, 0] - level[row[which]], score[:, 0]

        edges[row, column] = newton_root(excess, self.outer[at], self.inner[at], self.edge[at])
        return edges, crossing

    def narrow(self, edges: Tensor, crossing: Tensor, missing: Tensor, rows: Tensor) -> None:
        """Edges are brackets for the next level, as the region shrinks where the level rises."""
        too_wide = (missing < 0).unsqueeze(1) & crossing
        self.outer[rows] = torch.where(too_wide, edges, self.outer[rows])
        self.outer_height[rows] = torch.where(too_wide, -math.inf, self.outer_height[rows])
        too_narrow = ~too_wide & crossing
        self.inner[rows] = torch.where(too_narrow, edges, self.inner[rows])
        self.edge[rows] = torch.where(crossing, edges, self.edge[rows])


# ---------------------------------------------------------------------------------------------
# several dimensions


def _climb(log_w: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Local maxima reached from every component: mean shift, then Newton, duplicates merged.

    (n, K, D) and (n, K) log density, -inf where a duplicate or a saddle was dropped.

    References:
        M. A. Carreira-Perpinan, Mode-finding for mixtures of Gaussian distributions, IEEE Trans.
        Pattern Anal. Mach. Intell. 22 (2000).
    """
    dims = loc.shape[-1]
    x = loc.clone()  # (n, P = K, D)
    eye = torch.eye(dims, dtype=x.dtype, device=x.device)
    whiten = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)  # (n, K, D, D)
    precision = whiten.mT @ whiten
    log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    start = (log_w + log_det).unsqueeze(1)  # (n, 1, K)

    def terms(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log density, responsibilities (n, P, K), scores (n, P, K, D), mean precision."""
        z = torch.einsum("nkij,npkj->npki", whiten, x.unsqueeze(2) - loc.unsqueeze(1))
        t = start - 0.5 * z.square().sum(-1)
        r = t.softmax(-1)
        scores = -torch.einsum("nkij,npki->npkj", whiten, z)
        mean_precision = torch.einsum("npk,nkij->npij", r, precision)
        return t.logsumexp(-1) - dims * HALF_LOG_2PI, r, scores, mean_precision

    for _ in range(_MEAN_SHIFTS):
        _, r, scores, mean_precision = terms(x)
        score = (r.unsqueeze(-1) * scores).sum(2)
        step = torch.linalg.solve(mean_precision, score)
        x = x + step
        if bool(((step * score).sum(-1) < _SHIFTED**2).all()):
            break
    log_p, r, scores, mean_precision = terms(x)
    for _ in range(_NEWTON_STEPS):
        score = (r.unsqueeze(-1) * scores).sum(2)  # (n, P, D)
        hessian = _hessian(r, scores, mean_precision)
        factor, info = torch.linalg.cholesky_ex(-hessian)
        concave = (info == 0)[..., None, None]
        step = torch.cholesky_solve(score.unsqueeze(-1), torch.where(concave, factor, eye))
        target = x + step.squeeze(-1)
        new = terms(target)
        better = (info == 0) & (new[0] > log_p)
        if not bool(better.any()):
            break
        x, log_p, r, scores, mean_precision = (
            torch.where(better.view(*better.shape, *(1,) * (old.ndim - 2)), moved, old)
            for moved, old in zip(
                (target, *new), (x, log_p, r, scores, mean_precision), strict=True
            )
        )
    log_p = torch.where(log_w == -math.inf, -math.inf, log_p)
    return _distinct_maxima(x, log_p, _hessian(r, scores, mean_precision), mean_precision)


def _distinct_maxima(
    x: Tensor, log_p: Tensor, hessian: Tensor, mean_precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Points by falling log density, which is -inf where they are saddles or duplicates."""
    n_points, dims = x.shape[1:]
    # mean shift also stops on saddles, where it started on one by symmetry
    width = torch.linalg.cholesky(mean_precision)  # whitens by the local precision
    whitened = torch.linalg.solve_triangular(width, hessian, upper=False)
    whitened = torch.linalg.solve_triangular(width, whitened.mT, upper=False)
    saddle = torch.linalg.eigvalsh(whitened)[..., -1] > _SADDLE
    saddle &= ~saddle.all(-1, keepdim=True)
    log_p = torch.where(saddle, -math.inf, log_p)
    # a later point within a thousandth of the local width of an earlier, higher one is the same
    order = log_p.argsort(dim=-1, descending=True, stable=True)
    log_p = log_p.gather(1, order)
    order = order.unsqueeze(-1)
    x = x.gather(1, order.expand(-1, -1, dims))
    width = width.gather(1, order.unsqueeze(-1).expand(-1, -1, dims, dims))
    apart = torch.einsum("npij,npqi->npqj", width, x.unsqueeze(2) - x.unsqueeze(1))
    earlier = torch.ones(n_points, n_points, device=x.device).tril(-1).bool()
    duplicate = ((apart.abs().amax(-1) < _SAME_MODE) & earlier).any(-1)
    return x, torch.where(duplicate, -math.inf, log_p)


def _hessian(r: Tensor, scores: Tensor, mean_precision: Tensor) -> Tensor:
    """Second derivative of the log density, (n, P, D, D)."""
    score = (r.unsqueeze(-1) * scores).sum(2)
    spread = torch.einsum("npk,npkd,npke->npde", r, scores, scores)
    return spread - score.unsqueeze(-1) * score.unsqueeze(-2) - mean_precision

"""Modes and highest-density regions of diagonal Gaussian mixtures.

All in float64 and without gradients.  One dimension: logits, loc, scale (*, K).  In one dimension
the critical points cut the line into pieces on which the density is monotone, so that both the
modes and the edges of a region are bracketed roots.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._numerics import HALF_LOG_2PI
from ._quantile import mixture_icdf

__all__ = ["mixture_hdr", "mixture_modes"]

_CHUNK = 1 << 20  # numbers a working array may hold: 8 MiB
# Grid around each component, in its scales: beyond 39 the density of any other, however light, is
# larger.  The steps are coarse, as turning points of the score between them are looked for.
_HALF_GRID = [*(0.5 * i for i in range(1, 13)), *(7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 27.0, 39.0)]
_GRID = torch.tensor([-t for t in reversed(_HALF_GRID)] + [0.0] + _HALF_GRID, dtype=torch.float64)
_BISECTIONS = 200
_TURN_STEPS = 55  # halvings of a cell: to the last digit of float64
_MEAN_SHIFTS = 2000
_SHIFTED = 1e-9  # D > 1: mean shift ends at steps this short, in units of the local width
_NEWTON_STEPS = 20
_FLAT = 1e-6  # D > 1: upward curvature, in units of the local width, that makes a saddle
_SAME_MODE = 1e-3  # D > 1: modes closer than this many scales are one


def mixture_modes(log_w: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """All local maxima of the density by falling density, NaN-padded.

    Args:
        log_w: normalised log weights, (*, K).
        loc: (*, K, D).
        root: lower triangular factors of the covariances, (*, K, D, D).

    Returns:
        (*, K, D) places and (*, K) log densities.
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

    Args:
        log_w: normalised log weights, (*, K).
        loc, scale: (*, K).
        coverage: probability in (0, 1).

    Returns:
        (*, K, 2) disjoint sorted intervals, NaN-padded, and (*) the log density on their edges.
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
    """Log density, score and derivative of the score at x (n, P); parameters (n, K)."""
    log_w, loc, scale = (a.t().unsqueeze(-1) for a in (log_w, loc, scale))  # (K, n, 1)
    z = (x - loc) / scale  # (K, n, P)
    t = log_w - scale.log() - 0.5 * z * z
    best = t.amax(0)
    r = (t - best).exp_()
    total = r.sum(0)
    pull = z.div_(scale)
    score = -(r * pull).sum(0) / total
    bend = (r * (pull.square_() - scale.square().reciprocal())).sum(0) / total - score * score
    return best + total.log() - HALF_LOG_2PI, score, bend


def _cdf(x: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """P(Y <= x), x (n, P); parameters (n, K)."""
    log_w, loc, scale = (a.t().unsqueeze(-1) for a in (log_w, loc, scale))
    return (0.5 * log_w.exp() * torch.erfc((loc - x) / (scale * math.sqrt(2.0)))).sum(0)


def _critical_points(log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mode, antimode, mode, ... in rising order, (n, P), with validity and log density.

    Outside the range of the means the density is monotone.  Inside, the sign of the score is taken
    on a grid.  Where it is the same at both ends of a cell but the score turns back towards zero in
    between, its turning point is found: it may have crossed zero twice.  Changes of sign are then
    bisected.
    """
    params = (log_w, loc, scale)
    dead = log_w == -math.inf
    least = torch.where(dead, math.inf, loc).amin(1, keepdim=True)
    most = torch.where(dead, -math.inf, loc).amax(1, keepdim=True)
    grid = loc.unsqueeze(-1) + scale.unsqueeze(-1) * _GRID.to(loc.device)  # (n, K, T)
    grid = grid.flatten(1).clamp(least, most).sort(1).values
    parts = [
        _density(grid[part], *(a[part] for a in params))[1:]
        for part in _chunks(len(loc), loc.shape[1] * grid.shape[1])
    ]
    score, bend = (torch.cat(a) for a in zip(*parts, strict=True))
    rising = score >= 0
    # cells in which the score turns towards zero: downwards to it, or upwards to it
    down = rising[:, :-1] & rising[:, 1:] & (bend[:, :-1] < 0) & (bend[:, 1:] > 0)
    up = ~rising[:, :-1] & ~rising[:, 1:] & (bend[:, :-1] > 0) & (bend[:, 1:] < 0)
    row, at = ((down | up) & (grid[:, 1:] > grid[:, :-1])).nonzero(as_tuple=True)
    own = tuple(a[row] for a in params)
    sign = torch.where(down[row, at], 1.0, -1.0).to(loc.dtype)
    left, right = grid[row, at], grid[row, at + 1]
    low, high, turn = left, right, left

    def bracket(flip: Tensor) -> Tensor:
        """Halves the brackets: ``flip`` says where the sought point lies below the middle."""
        nonlocal low, high
        middle = 0.5 * (low + high)
        low, high = torch.where(flip, low, middle), torch.where(flip, middle, high)
        return middle

    for _ in range(_TURN_STEPS):
        middle = 0.5 * (low + high)
        _, s, b = _density(middle.unsqueeze(1), *own)
        crossed = (s[:, 0] >= 0) != (sign > 0)
        turn = torch.where(crossed, middle, turn)
        bracket(b[:, 0] * sign > 0)
    crossed = turn > left
    row_t, turn, sign = row[crossed], turn[crossed], sign[crossed]
    left, right = left[crossed], right[crossed]

    first, last = torch.ones_like(rising[:, :1]), torch.zeros_like(rising[:, :1])
    rising = torch.cat([first, rising, last], 1)  # it rises before the first mean, falls after
    grid = torch.cat([least, grid, most], 1)
    row, at = (rising[:, 1:] != rising[:, :-1]).nonzero(as_tuple=True)
    # every change of sign: from the grid, and two at each turning point beyond zero
    low = torch.cat([grid[row, at], left, turn])
    high = torch.cat([grid[row, at + 1], turn, right])
    positive = torch.cat([rising[row, at], sign > 0, sign < 0])  # the score at its low end
    row = torch.cat([row, row_t, row_t])
    order = low.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    row, low, high, positive = (a[order] for a in (row, low, high, positive))
    own = tuple(a[row] for a in params)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if not bool(((middle != low) & (middle != high)).any()):
            break
        bracket((_density(middle.unsqueeze(1), *own)[1][:, 0] >= 0) != positive)
    count = row.bincount(minlength=len(loc))
    width = int(count.max())
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    x = loc.new_full((len(loc), width), math.nan)
    log_p = torch.full_like(x, -math.inf)
    x[row, rank] = low
    log_p[row, rank] = _density(low.unsqueeze(1), *own)[0][:, 0]
    return x, torch.arange(width, device=x.device) < count.unsqueeze(1), log_p


def _region(coverage: float, log_w: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals (n, C, 2) of C modes and log level (n)."""
    params = (log_w, loc, scale)
    x, _, log_p = _critical_points(*params)
    modes, peak = x[:, ::2], log_p[:, ::2]  # (n, C); missing ones have peak -inf
    valley, depth = x[:, 1::2], log_p[:, 1::2]  # (n, C - 1)
    modes = torch.where(peak == -math.inf, modes[:, :1], modes)

    # the level lies between the lowest density inside the central interval and the highest peak
    tails = torch.tensor([[0.5 * (1 - coverage)], [0.5 * (1 + coverage)]], dtype=torch.float64)
    ends = mixture_icdf(tails.to(loc.device), *(a.unsqueeze(0) for a in params)).t()  # (n, 2)
    inside = (valley > ends[:, :1]) & (valley < ends[:, 1:])
    lowest = torch.cat([_density(ends, *params)[0], torch.where(inside, depth, math.inf)], 1)
    lowest, highest = lowest.amin(1), peak.amax(1)

    # beyond these every component is below the lowest level
    reach = scale * (2 * (-scale.log() - HALF_LOG_2PI - lowest.unsqueeze(1)).clamp(min=0)).sqrt()
    alive = log_w > -math.inf
    pad = scale.amax(1, keepdim=True)
    far_left = torch.where(alive, loc - reach, math.inf).amin(1, keepdim=True) - pad
    far_right = torch.where(alive, loc + reach, -math.inf).amax(1, keepdim=True) + pad
    below = torch.full_like(far_left, -math.inf)
    # each mode has a piece on its left and one on its right: (n, 2, C), flattened to (n, P)
    fill = torch.where(depth == -math.inf, far_right, valley)  # no more modes: the outer bound
    outer = torch.stack([torch.cat([far_left, fill], 1), torch.cat([fill, far_right], 1)], 1)
    outer_height = torch.stack([torch.cat([below, depth], 1), torch.cat([depth, below], 1)], 1)
    outer, outer_height = outer.flatten(1), outer_height.flatten(1)
    inner, height = modes.repeat(1, 2), peak.repeat(1, 2)
    edge = 0.5 * (outer + inner)

    def free_sides(level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        up = height[rows] >= level.unsqueeze(1)
        return up, up & (outer_height[rows] < level.unsqueeze(1))

    def missing(level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage minus the mass above the level, and its slope; moves the edges there."""
        up, free = free_sides(level, rows)
        some = tuple(a[rows] for a in params)
        now = torch.where(up & ~free, outer[rows], inner[rows])
        row, piece = free.nonzero(as_tuple=True)
        own = tuple(a[row] for a in some)

        def gap(at: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            value, score, _ = _density(at.unsqueeze(1), *(a[which] for a in own))
            return value[:, 0] - level[row[which]], score[:, 0]

        start, stop = outer[rows][row, piece], inner[rows][row, piece]
        now[row, piece] = _roots(gap, start, stop, edge[rows][row, piece], noise=0.0)
        left, right = _cdf(now, *some).chunk(2, 1)
        value = coverage - (right - left).sum(1)
        score = _density(now, *some)[1]
        slope = torch.where(free, level[:, None].exp() / score.abs(), 0.0).sum(1)
        # the region shrinks as the level rises, so the edges are brackets for the next level
        larger = (value < 0).unsqueeze(1) & free
        outer[rows] = torch.where(larger, now, outer[rows])
        outer_height[rows] = torch.where(larger, -math.inf, outer_height[rows])
        smaller = (value >= 0).unsqueeze(1) & free
        inner[rows] = torch.where(smaller, now, inner[rows])
        edge[rows] = torch.where(free, now, edge[rows])
        return value, slope

    # the mass is a sum of differences of cdfs, each good to some ulp of 1
    level = _roots(missing, lowest, highest, 0.5 * (lowest + highest), noise=4e-16)
    rows = torch.arange(len(level), device=level.device)
    missing(level, rows)
    free = free_sides(level, rows)[1]
    # a side that is not free touches the neighbour's piece: together they are one interval
    out = loc.new_full((*modes.shape, 2), math.nan)
    for side, (mask, at) in enumerate(zip(free.chunk(2, 1), edge.chunk(2, 1), strict=True)):
        row, column = mask.nonzero(as_tuple=True)
        out[row, mask.cumsum(1)[row, column] - 1, side] = at[row, column]
    return out, level


def _roots(
    f: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    negative: Tensor,
    positive: Tensor,
    start: Tensor,
    *,
    noise: float,
) -> Tensor:
    """Roots between ``negative`` (f < 0) and ``positive`` (f >= 0) by safeguarded Newton.

    ``f(x, which)`` gives value and derivative at the points x that are still open, those numbered
    ``which``.  A Newton step that leaves the bracket or does not halve the one before gives way to
    bisection.  A value of at most ``noise`` is a root.
    """
    found = start.clone()
    which = torch.arange(len(start), device=start.device)
    x, last = start, (positive - negative).abs()
    for _ in range(_BISECTIONS):
        if not which.numel():
            break
        value, slope = f(x, which)
        above = value >= 0
        negative, positive = torch.where(above, negative, x), torch.where(above, x, positive)
        target = x - value / slope
        move, width = (target - x).abs(), (positive - negative).abs()
        newton = (
            (move <= 0.5 * last)
            & (target >= torch.minimum(negative, positive))
            & (target <= torch.maximum(negative, positive))
        )
        target = torch.where(newton, target, 0.5 * (negative + positive))
        eps = 2.0**-52 * torch.maximum(negative.abs(), positive.abs())
        here = value.abs() <= noise
        done = here | (width <= eps) | ~torch.isfinite(value)
        if noise == 0:
            done |= newton & (move <= eps)
        found[which] = torch.where(here, x, target)
        left = ~done
        last = torch.where(newton, move, 0.5 * width)[left]
        which, x, negative, positive = (a[left] for a in (which, target, negative, positive))
    return found


# ---------------------------------------------------------------------------------------------
# several dimensions


def _climb(log_w: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Local maxima reached from every component: mean shift, then Newton, duplicates merged.

    Args:
        log_w: (n, K); loc: (n, K, D); root: (n, K, D, D).

    Returns:
        (n, K, D) and (n, K) log density, -inf where a duplicate or a saddle was dropped.

    References:
        M. A. Carreira-Perpinan, Mode-finding for mixtures of Gaussian distributions, IEEE Trans.
        Pattern Anal. Mach. Intell. 22 (2000).
    """
    n_components, dims = loc.shape[1:]
    x = loc.clone()  # (n, P = K, D)
    eye = torch.eye(dims, dtype=x.dtype, device=x.device)
    whiten = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)  # (n, K, D, D)
    precision = whiten.mT @ whiten
    log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    start = (log_w + log_det).unsqueeze(1)  # (n, 1, K)

    def terms(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log density, responsibilities (n, P, K), pull of each (n, P, K, D), mean precision."""
        z = torch.einsum("nkij,npkj->npki", whiten, x.unsqueeze(2) - loc.unsqueeze(1))
        t = start - 0.5 * z.square().sum(-1)
        r = t.softmax(-1)
        pull = -torch.einsum("nkij,npki->npkj", whiten, z)
        curvature = torch.einsum("npk,nkij->npij", r, precision)
        return t.logsumexp(-1) - dims * HALF_LOG_2PI, r, pull, curvature

    for _ in range(_MEAN_SHIFTS):
        _, r, pull, curvature = terms(x)
        score = (r.unsqueeze(-1) * pull).sum(2)
        step = torch.linalg.solve(curvature, score)
        x = x + step
        if bool(((step * score).sum(-1) < _SHIFTED**2).all()):
            break
    log_p, r, pull, curvature = terms(x)
    for _ in range(_NEWTON_STEPS):
        score = (r.unsqueeze(-1) * pull).sum(2)  # (n, P, D)
        hessian = _hessian(r, pull, curvature)
        factor, info = torch.linalg.cholesky_ex(-hessian)
        fine = (info == 0)[..., None, None]
        step = torch.cholesky_solve(score.unsqueeze(-1), torch.where(fine, factor, eye))
        target = x + step.squeeze(-1)
        new, r_new, pull_new, curvature_new = terms(target)
        better = (info == 0) & (new > log_p)
        if not bool(better.any()):
            break
        x, log_p = torch.where(better.unsqueeze(-1), target, x), torch.where(better, new, log_p)
        wide = better[..., None]
        r = torch.where(wide, r_new, r)
        pull = torch.where(wide[..., None], pull_new, pull)
        curvature = torch.where(wide[..., None], curvature_new, curvature)
    # mean shift also stops on saddles, where it started on one by symmetry
    width = torch.linalg.cholesky(curvature)  # whitens by the local precision
    bent = torch.linalg.solve_triangular(width, _hessian(r, pull, curvature), upper=False)
    bent = torch.linalg.solve_triangular(width, bent.mT, upper=False)
    saddle = torch.linalg.eigvalsh(bent)[..., -1] > _FLAT
    saddle &= ~saddle.all(-1, keepdim=True)
    log_p = torch.where(saddle | (log_w == -math.inf), -math.inf, log_p)
    # a later point within a thousandth of the local width of an earlier, higher one is the same
    order = log_p.argsort(dim=-1, descending=True, stable=True)
    log_p = log_p.gather(1, order)
    order = order.unsqueeze(-1)
    x = x.gather(1, order.expand(-1, -1, dims))
    width = width.gather(1, order.unsqueeze(-1).expand(-1, -1, dims, dims))
    apart = torch.einsum("npij,npqi->npqj", width, x.unsqueeze(2) - x.unsqueeze(1))
    earlier = torch.ones(n_components, n_components, device=x.device).tril(-1).bool()
    double = ((apart.abs().amax(-1) < _SAME_MODE) & earlier).any(-1)
    return x, torch.where(double, -math.inf, log_p)


def _hessian(r: Tensor, pull: Tensor, curvature: Tensor) -> Tensor:
    """Second derivative of the log density, (n, P, D, D)."""
    score = (r.unsqueeze(-1) * pull).sum(2)
    spread = torch.einsum("npk,npkd,npke->npde", r, pull, pull)
    return spread - score.unsqueeze(-1) * score.unsqueeze(-2) - curvature

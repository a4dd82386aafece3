"""Modes and highest-density regions of Gaussian mixtures, in float64 and without gradients.

``log_w`` (*, K) are normalised log weights; what is missing is NaN in a result.

In one dimension the critical points divide the line into intervals on which the density is
monotone, so that both the modes and the edges of a region are bracketed roots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._critical_points import Mixtures, Parameters, critical_points, log_density, row_chunks
from ._linked import LOGIT, logit_slope, tilted
from ._numerics import HALF_LOG_2PI, SQRT_HALF
from ._quantile import mixture_icdf
from ._roots import newton_root

__all__ = ["mixture_hdr", "mixture_modes"]

_CHUNK = 1 << 20  # numbers an array of the parameters of some rows may hold: 8 MiB
_MEAN_SHIFTS = 2000
_SHIFTED = 1e-9  # D > 1: mean shift ends at steps this short, in units of the local width
_NEWTON_STEPS = 20
_SADDLE = 1e-6  # D > 1: a point of larger upward curvature, in local widths, is a saddle
_SAME_MODE = 1e-3  # D > 1: modes closer than this many scales are one


def mixture_modes(
    log_w: Tensor, loc: Tensor, root: Tensor, *, logit: bool = False
) -> tuple[Tensor, Tensor]:
    """All local maxima by falling density: (*, M, D) places and (*, M) log densities.

    ``root`` (*, K, D, D) are lower triangular factors of the covariances.  With ``logit``, D = 1,
    the density is that of sigmoid(u), u of the mixture; places are those of u.
    """
    batch, (n_components, dims) = loc.shape[:-2], loc.shape[-2:]
    log_w = log_w.detach().double().reshape(-1, n_components)
    loc = loc.detach().double().reshape(-1, n_components, dims)
    root = root.detach().double().reshape(-1, n_components, dims, dims)
    per_row = n_components * (1 if dims == 1 else n_components * dims * dims)
    places, heights = [loc[:0]], [log_w[:0]]
    for part in _chunks(len(loc), per_row):
        if dims == 1:
            flat = Mixtures.of(log_w[part], loc[part, :, 0], root[part, :, 0, 0], logit)
            x, is_mode, log_p = critical_points(flat)
            log_p = torch.where(is_mode, log_p, -math.inf)[:, ::2]
            x = x[:, ::2].unsqueeze(-1)
        else:
            x, log_p = _climb(log_w[part], loc[part], root[part])
        order = log_p.argsort(dim=-1, descending=True, stable=True)
        log_p = log_p.gather(1, order)
        none = log_p == -math.inf
        x = x.gather(1, order.unsqueeze(-1).expand(-1, -1, dims))
        places.append(x.masked_fill(none.unsqueeze(-1), math.nan))
        heights.append(log_p.masked_fill(none, math.nan))
    place, height = _stacked(places), _stacked(heights)
    return place.reshape(*batch, place.shape[1], dims), height.reshape(*batch, place.shape[1])


def mixture_hdr(
    density: Parameters, mass: Parameters, coverage: float, *, logit: bool = False
) -> tuple[Tensor, Tensor]:
    """Highest-density regions, D = 1: the smallest set of the given probability.

    Args:
        density: log weights, means and scales, (*, K) each, of what is high; the weights need not
            add up to 1.
        mass: (*, L) each, of the probabilities; the same but where the density is that of a
            function of y.
        coverage: probability of the region.
        logit: whether the density is that of sigmoid(u), u of the mixture; places are those of u.

    Returns:
        (*, M, 2) disjoint sorted intervals, and (*) the log density on their edges.
    """
    batch, same = mass[1].shape[:-1], density is mass
    high, whole = Mixtures.of(*density, logit), Mixtures.of(*mass, logit)
    intervals, levels = [high.loc.new_empty(0, 0, 2)], [high.loc.new_empty(0)]
    for part in _chunks(len(high.loc), high.loc.shape[1]):
        own = high.rows(part)
        found, log_level = _region(own, own if same else whole.rows(part), coverage)
        intervals.append(found)
        levels.append(log_level)
    out = _stacked(intervals)
    return out.reshape(*batch, *out.shape[1:]), torch.cat(levels).reshape(batch)


def _chunks(rows: int, per_row: int) -> list[slice]:
    step = max(1, _CHUNK // per_row)
    return [slice(i, i + step) for i in range(0, rows, step)]


def _stacked(parts: list[Tensor]) -> Tensor:
    """Parts (n, M, ...) below one another, NaN where one has fewer columns than another."""
    width = max(part.shape[1] for part in parts)
    out = parts[0].new_full((sum(map(len, parts)), width, *parts[0].shape[2:]), math.nan)
    for part, rows in zip(parts, out.split([len(part) for part in parts]), strict=True):
        rows[:, : part.shape[1]] = part
    return out


# ---------------------------------------------------------------------------------------------
# regions; n rows


def _cdf(x: Tensor, row: Tensor, mixtures: Mixtures) -> Tensor:
    """P(Y <= x), x and row (m)."""
    out = torch.empty_like(x)
    for part in row_chunks(len(x), mixtures.loc.shape[1]):
        at = row[part]
        z = mixtures.loc[at].sub_(x[part].unsqueeze(1)).mul_(mixtures.inverse[at]).mul_(SQRT_HALF)
        out[part] = z.erfc_().mul_(mixtures.log_w[at].exp_()).sum(1).mul_(0.5)
    return out


def _region(density: Mixtures, mass: Mixtures, coverage: float) -> tuple[Tensor, Tensor]:
    """Intervals (n, M, 2) for M modes, and the log level (n)."""
    x, _, log_p = critical_points(density)
    lowest, start, highest = _level_bracket(coverage, x, log_p, density, mass)
    slopes = _Slopes(x, log_p, lowest, density)

    def missing(level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage minus the mass above the level, and its derivative."""
        edges, crossing, above = slopes.find_edges(level, rows)
        row, column = above.nonzero(as_tuple=True)
        below = torch.zeros_like(edges)
        below[row, column] = _cdf(edges[row, column], rows[row], mass)
        left, right = below.chunk(2, 1)
        value = coverage - (right - left).sum(1)
        row, column = crossing.nonzero(as_tuple=True)
        at = edges[row, column], rows[row]
        height, slope, _ = log_density(*at, density)
        if mass.logit:
            height = height + logit_slope(at[0])
        elif mass is not density:
            height = log_density(*at, mass)[0]
        score, rate = torch.zeros_like(edges), torch.zeros_like(edges)
        score[row, column], rate[row, column] = slope, height.exp() / slope.abs()
        slopes.narrow(level, edges, score, crossing, value, rows)
        return value, rate.sum(1)

    # the mass is a sum of differences of cdfs, each good to some ulp of 1
    level = newton_root(missing, lowest, highest, start, noise=4e-16)
    rows = torch.arange(len(level), device=level.device)
    missing(level, rows)
    # a slope without an edge is above the level down to the neighbour's: one interval together
    out = x.new_full((*x[:, ::2].shape, 2), math.nan)
    edges, crossing = slopes.edge.chunk(2, 1), slopes.crossing(level, rows).chunk(2, 1)
    for side in (0, 1):
        row, column = crossing[side].nonzero(as_tuple=True)
        slot = crossing[side].cumsum(1)[row, column] - 1
        out[row, slot, side] = edges[side][row, column]
    return out, level


def _level_bracket(
    coverage: float, x: Tensor, log_p: Tensor, density: Mixtures, mass: Mixtures
) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest log density inside the central interval, a first guess and the highest, (n)."""
    tails = torch.tensor([[0.5 * (1 - coverage)], [0.5 * (1 + coverage)]], dtype=torch.float64)
    ends = mixture_icdf(tails.to(x.device), *(a.unsqueeze(0) for a in mass[:3]))  # (2, n)
    rows = torch.arange(len(x), device=x.device).repeat(2)
    at_ends = log_density(ends.flatten(), rows, density)[0].view(ends.shape)
    valley, depth = x[:, 1::2], log_p[:, 1::2]
    inside = (valley > ends[0].unsqueeze(1)) & (valley < ends[1].unsqueeze(1))
    lowest = torch.cat([at_ends.t(), torch.where(inside, depth, math.inf)], 1).amin(1)
    highest = log_p[:, ::2].amax(1)
    # the right level of a symmetric density with one mode
    return lowest, torch.maximum(at_ends.mean(0), lowest).clamp(max=highest), highest


class _Slopes:
    """The two slopes of every mode of n mixtures, (n, 2 M): all left ones, then all right ones.

    Attributes:
        inner: where a slope begins: the mode, or a point that is above every level to come.
        height: log density at the mode.
        outer: where it ends: the antimode, a point far outside, or one below every level to come.
        outer_height: log density there.
        width: what a parabola would have to go for the first nat below the mode.
        edge, score: where it crosses the last level, NaN if it does not, and the slope there.
        level: the last one, (n).
    """

    def __init__(self, x: Tensor, log_p: Tensor, lowest: Tensor, mixtures: Mixtures) -> None:
        self.mixtures = mixtures
        log_w, loc, scale = tilted(mixtures[:3], LOGIT) if mixtures.logit else mixtures[:3]
        modes, peak = x[:, ::2], log_p[:, ::2]  # (n, M); missing ones have peak -inf
        valley, depth = x[:, 1::2], log_p[:, 1::2]  # (n, M - 1)
        modes = torch.where(peak == -math.inf, modes[:, :1], modes)
        # beyond these every component, had it all the weight, is below the lowest level
        total = torch.logsumexp(log_w, 1, keepdim=True)
        reach = total - scale.log() - HALF_LOG_2PI - lowest.unsqueeze(1)
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
        # as if the log density were a parabola
        row, column = (peak > -math.inf).nonzero(as_tuple=True)
        curvature = torch.ones_like(peak)
        curvature[row, column] = -log_density(modes[row, column], row, mixtures)[2]
        self.width = (2.0 / curvature).sqrt().repeat(1, 2)
        self.width[:, : modes.shape[1]] *= -1.0
        self.edge = torch.full_like(self.outer, math.nan)
        self.score, self.level = torch.zeros_like(self.outer), torch.zeros_like(lowest)

    def crossing(self, level: Tensor, rows: Tensor) -> Tensor:
        """Whether each slope of the rows crosses their level."""
        level = level.unsqueeze(1)
        return (self.height[rows] >= level) & (self.outer_height[rows] < level)

    def find_edges(self, level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the slopes of the rows cross their level, whether they do, and which are above it.

        A slope that does not is empty if its mode is below the level, else all of it is above.
        """
        crossing = self.crossing(level, rows)
        above = self.height[rows] >= level.unsqueeze(1)
        edges = torch.where(above & ~crossing, self.outer[rows], self.inner[rows])
        row, column = crossing.nonzero(as_tuple=True)
        at = rows[row], column
        target = level[row]
        start = self.edge[at] + (target - self.level[at[0]]) / self.score[at]
        drop = (self.height[at] - target).sqrt()
        start = torch.where(start.isfinite(), start, self.inner[at] + self.width[at] * drop)
        ends = self.outer[at], self.inner[at]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        near = 1e-12 * (high - low).maximum(high.abs())  # a root may be outside by rounding
        good = (start >= low - near) & (start <= high + near)
        start = torch.where(good, start.clamp(low, high), 0.5 * low + 0.5 * high)

        def excess(y: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            value, score, _ = log_density(y, at[0][which], self.mixtures)
            level = target[which]
            unit = 1.0 + level.abs()  # the value is rounded to some ulp of this
            return (value - level) / unit, score / unit

        edges[row, column] = newton_root(excess, *ends, start, noise=1e-15, close=1e-6)
        return edges, crossing, above

    def narrow(
        self, level: Tensor, edges: Tensor, score: Tensor, crossing: Tensor, missing: Tensor,
        rows: Tensor,
    ) -> None:  # fmt: skip
        """Edges are brackets for the next level, as the region shrinks where the level rises."""
        too_wide = (missing < 0).unsqueeze(1) & crossing
        self.outer[rows] = torch.where(too_wide, edges, self.outer[rows])
        self.outer_height[rows] = torch.where(too_wide, -math.inf, self.outer_height[rows])
        too_narrow = ~too_wide & crossing
        self.inner[rows] = torch.where(too_narrow, edges, self.inner[rows])
        self.edge[rows] = torch.where(crossing, edges, math.nan)
        self.score[rows], self.level[rows] = score, level


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

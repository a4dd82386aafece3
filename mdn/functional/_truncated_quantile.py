"""Quantiles of truncated Gaussian mixtures; one dimension, float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._checks import broadcast_shapes
from ._diagonal import component_log_prob, standardize
from ._interval import Params, interval_log_mass
from ._numerics import is_transformed
from ._quantile import mixture_icdf

__all__ = ["LEAST_LEVEL", "truncated_icdf"]

LEAST_LEVEL = 2.0**-54  # replaces a uniform draw of 0, whose quantile may be infinite
_ROUNDING = 2.0**-53  # half the spacing of float64 above 1
_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_LEAP = 1e3  # in strides: a longer step towards an open end is rejected
_MAX_PASSES = 2200  # bisection alone needs 2100 halvings from 1e308 to 1e-308


def truncated_icdf(p: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles, (*): p (*) against bounds (*) and parameters of one batch.

    A level above 1/2 is solved for the mirrored mixture, where 1 - p keeps its digits.
    """
    upper = p > 0.5
    q = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    with torch.no_grad():
        fixed = params[0].detach(), params[1].detach(), params[2].detach()
        y = _roots(q.detach(), upper, low.detach(), high.detach(), fixed)
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    tracked = torch.is_grad_enabled() and any(a.requires_grad for a in (p, low, high, *params))
    if tracked or is_transformed():
        low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
        params = params[0], params[1] * sign.unsqueeze(-1), params[2]
        # one step of third order from the root is 0, but its derivatives are those of the root
        inner = (q > 0) & (y > low)
        place, level = torch.where(inner, y, 0.0), torch.where(inner, q, 0.5)
        target = level.log() + interval_log_mass(low, high, params)
        move = _step(place, place - low, target, low, params)[1]
        y = torch.where(inner, y + (move - move.detach()), torch.where(q.isnan(), y, low))
    return sign * y


def _roots(q: Tensor, upper: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles at q in [0, 1/2], of the mirrored mixture where upper is true, in portions."""
    batch, n_components = broadcast_shapes(q.shape, low.shape), params[1].shape[-1]
    # the mixture of each level, by its index: nothing of size (levels, rows, K) is made
    rows = torch.arange(low.numel(), device=q.device).reshape(low.shape)
    rows, levels, upper = (a.expand(batch).reshape(-1) for a in (rows, q, upper))
    low, high = low.reshape(-1), high.reshape(-1)
    log_w, loc, scale = (a.reshape(-1, n_components) for a in params)
    params = log_w, loc, scale
    whole = torch.full_like(low, math.inf)
    total = interval_log_mass(low, high, params)
    # log probabilities on either side of the end where the search starts: low, mirrored high
    tails = [
        (interval_log_mass(-whole, end, params), interval_log_mass(end, whole, params))
        for end in (low, high)
    ]
    y = levels.clone()  # NaN stays
    for part in (~levels.isnan()).nonzero().squeeze(-1).split(max(1, _CHUNK // n_components)):
        at, flip, level = rows[part], upper[part], levels[part]
        first, last = low[at], high[at]
        first, last = torch.where(flip, -last, first), torch.where(flip, -first, last)
        below = torch.where(flip, tails[1][1][at], tails[0][0][at])
        above = torch.where(flip, tails[1][0][at], tails[0][1][at])
        y[part] = first
        inner = level > 0
        target, below, above, first, last, at, flip = (
            a[inner] for a in (level.log() + total[at], below, above, first, last, at, flip)
        )
        m = torch.where(flip.unsqueeze(-1), -loc[at], loc[at])
        root = _solve(target, below, above, first, last, (log_w[at], m, scale[at]))
        y[part[inner]] = torch.minimum(root, last)
    return y.reshape(batch)


def _step(
    y: Tensor, width: Tensor, target: Tensor, low: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    r"""Error of log P(low <= Y <= y) against its target, and a step that corrects it.

    With C the probability, f the density and L the error, Newton's step for ``C^lambda``, where
    ``lambda = 1 - f' C / f^2`` makes this power linear to second order: ``(C / f) (exp(lambda L)
    - 1) / lambda``. It is exact where C grows as a power (a window near its end) or an exponential
    (a tail), and of third order elsewhere.  ``width`` is y - low.
    """
    _, loc, scale = params
    log_mass = interval_log_mass(low, y, params, width=width)
    error = target - log_mass
    z = standardize(y.unsqueeze(-1), loc, scale)
    log_f = component_log_prob(y, *params)
    log_p = torch.logsumexp(log_f, -1)
    ratio = (log_mass - log_p).exp()
    power = 1 + ratio * ((log_f - log_p.unsqueeze(-1)).exp() * z / scale).sum(-1)
    curvature = power * error  # overflow must not look like a step of 0
    curvature = torch.where(curvature.isfinite(), curvature, math.nan)
    linear = curvature.abs() < 1e-8
    safe = torch.where(linear, 1.0, curvature)
    return error, ratio * error * torch.where(linear, 1 + 0.5 * curvature, torch.expm1(safe) / safe)


def _solve(
    target: Tensor, below: Tensor, above: Tensor, low: Tensor, high: Tensor, params: Params
) -> Tensor:
    """The y with log P(low <= Y <= y) = target; all (n).

    Next to low the unknown is ``u = y - low``, which has digits that y has lost.  ``below`` and
    ``above`` are the log probabilities on either side of low.
    """
    u, near = _first_guess(target, below, above, low, high, params)
    origin = torch.where(near, low, 0.0)
    left, right = low - origin, high - origin
    log_w, _, scale = params
    active = log_w > -math.inf
    # the step is of third order: once this short (in scales), nothing is left to correct
    short = 1e-6 * torch.where(active, scale, math.inf).amin(-1)
    jump = torch.where(active, scale, 0.0).amax(-1)
    noise = 4 * _ROUNDING * (1 + target.abs())  # of the error, in nats
    last = torch.full_like(u, math.inf)
    found, place = origin + u, torch.arange(u.numel(), device=u.device)
    for _ in range(_MAX_PASSES):
        y = origin + u
        # once y has more digits than y - low, y becomes the unknown
        away = torch.where(near & (u > y.abs()), origin, 0.0)
        u, left, right = u + away, left + away, right + away
        origin, near = origin - away, near & (away == 0)
        width = torch.where(near, u, y - low)
        error, move = _step(y, width, target, low, params)
        left, right = torch.where(error > 0, u, left), torch.where(error > 0, right, u)
        # bisection; towards an open end, strides that double
        goal = torch.where(right == math.inf, left + jump, 0.5 * left + 0.5 * right)
        goal = torch.where(left == -math.inf, right - jump, goal)
        # no bracket on the left yet: as if the cdf were linear
        first = near & (left == 0) & (error < 0)
        goal = torch.where(first, u * error.exp(), goal)
        size = move.abs()
        # a step that is NaN, does not halve, or goes far towards an open end is replaced
        good = (size <= 0.5 * last) & (u + move >= left) & (u + move <= right)
        good = good & ((right - left < math.inf) | (size <= _LEAP * jump))
        jump = 2 * jump
        goal = torch.where(good, u + move, goal)
        last = torch.where(good, size, right - left)
        spacing = _ROUNDING * y.abs()
        sure = (size <= spacing) & (error.abs() < 1) | (size <= short) & (error.abs() < 1e-5)
        settled = good & sure
        exact = error.abs() <= noise
        closed = right - left <= 2 * spacing
        found[place] = origin + torch.where(exact, u, goal)
        keep = (~(settled | exact | closed)).nonzero().squeeze(-1)
        if not keep.numel():
            break
        place, u, origin, near, target, noise, low, left, right, last, jump, short = (
            a[keep]
            for a in (
                *(place, goal, origin, near, target, noise),
                *(low, left, right, last, jump, short),
            )
        )
        params = params[0][keep], params[1][keep], params[2][keep]
    return found


def _first_guess(
    target: Tensor, below: Tensor, above: Tensor, low: Tensor, high: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    """The first value of the unknown, and whether that is y - low instead of y.

    A quantile of the whole mixture where float64 resolves its level; else a point near an end.
    """
    log_w, loc, scale = params
    upper = below > above
    part, beyond = target.exp(), torch.minimum(below, above).exp()
    level = torch.where(upper, beyond - part, beyond + part).clamp(0.0, 1.0)
    sign = torch.where(upper, -1.0, 1.0).to(target)
    y = sign * mixture_icdf(level, log_w, loc * sign.unsqueeze(-1), scale)
    # a mass much smaller than the one beyond the end is lost in rounding
    resolved = (part > 1e-8 * beyond) & (y > low) & (y < high)
    # near its lower end the cdf is linear, near its upper end an exponential if that is denser
    f_low, f_high = (torch.logsumexp(component_log_prob(y, *params), -1) for y in (low, high))
    top = (low == -math.inf) | (f_high > f_low) & (high < math.inf)
    widest = torch.where(log_w > -math.inf, scale, 0.0).amax(-1)
    room = torch.where(high == math.inf, widest, 0.5 * high - 0.5 * low)
    rise = torch.minimum((target - f_low).exp(), room)
    y = torch.where(resolved, y, torch.where(top, high, low + rise))
    near = (y - low <= y.abs()) & (low > -math.inf)
    return torch.where(near, torch.where(resolved | top, y - low, rise), y), near

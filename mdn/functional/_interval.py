"""The mass of an interval under a Gaussian mixture, and what follows from it; one dimension.

In logs, exact in both tails, for intervals much narrower than the scales and for intervals that
hold nearly everything.  All of it runs in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._univariate import _log_ndtr, mixture_icdf

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_LOG_HALF = -math.log(2.0)
_Z_MAX = 1e150  # in scales; an infinite end of an interval stands here, and its square is finite
_ROUNDING = 2.0**-53  # half the spacing of float64 above 1
_REACH = 84.0  # twice the nats below its peak from where on a density adds nothing in float64
_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_LEAP = 1e3  # in strides: a longer step towards an open end is not believed
_MAX_PASSES = 2200  # bisection alone needs 2100 halvings from 1e308 to 1e-308
_LEAST_LEVEL = 2.0**-54  # stands for a uniform draw of 0, whose quantile may be infinite
_OFF_GRID = 1e-6  # in widths; y may be this far off its multiple, and the rounding of its dtype
# The two formulas for the moments of a rounded Gaussian meet at this scale (in widths).  There the
# sum over cells is exact to rounding with 5 cells on either side, the Fourier series with 2 terms.
_SMALL_SCALE, _N_CELLS, _N_TERMS = 0.5, 5, 2
_NO_CORRECTION = 10.0  # scale in widths from where on exp(-2 pi^2 scale^2) is 0

Params = tuple[Tensor, Tensor, Tensor]  # log weights, means and scales, (*, K), in float64


def _gauss_legendre(n: int) -> list[tuple[float, float]]:
    """Nodes and weights on [-1, 1].

    The weights are Christoffel's, 1 / sum_k (k + 1/2) P_k(x)^2: NumPy's own are off by 1e-12 near
    the ends.
    """
    x = np.polynomial.legendre.leggauss(n)[0]
    squares = np.polynomial.legendre.legvander(x, n - 1) ** 2
    return list(zip(x.tolist(), (1 / (squares @ (np.arange(n) + 0.5))).tolist(), strict=True))


# exact to rounding for exp(-m t - t^2 / 2) with |m t| and |t| at most 1, even in t; and for
# exp(-t^2 / 2) with |t| up to the reach above
_SHORT_RULE = [(x, 2 * w) for x, w in _gauss_legendre(10) if x > 0]
_LONG_RULE = _gauss_legendre(48)


class Moments(NamedTuple):
    """Mean, place + excess, and variance of components, (*, K); float64 holds the place exactly."""

    place: Tensor
    excess: Tensor
    variance: Tensor


# -- the mass of an interval -------------------------------------------------------------------


def _log_mass(low: Tensor, high: Tensor, width: Tensor, params: Params) -> Tensor:
    """Log of P(low <= Y <= high), (*); ends and width are (*).

    The width is given by itself, since the difference of the ends may have lost its digits.
    """
    log_w, loc, scale = params
    a, b, w = (end.unsqueeze(-1) for end in (low, high, width))
    parts = _component_log_mass(a, b, w, loc, scale)
    inside, outside = (torch.logsumexp(log_w + part, -1) for part in parts)
    empty = (width <= 0) | ((low >= high) & low.isinf())
    return torch.where(empty, -math.inf, _by_smaller(inside, outside))


def _by_smaller(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """log p, by way of log(1 - p) where that is the smaller one and so carries the digits."""
    near_one = log_rest < _LOG_HALF
    return torch.where(near_one, torch.log1p(-torch.where(near_one, log_rest, -1.0).exp()), log_p)


def _component_log_mass(
    low: Tensor, high: Tensor, width: Tensor, loc: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Log probability of every component inside and outside of the ends, (*, K).

    In scales, with ends a < b, centre m and half width h, mirrored so that m >= 0:

    - short (h and m h at most 1): ``phi(m) int_{-h}^{h} exp(-m t - t^2 / 2) dt``, a sum of positive
      terms by Gauss-Legendre, where a difference of two cdfs would cancel;
    - in the tail (a >= 0): ``Q(a) (1 - Q(b) / Q(a))``, the quotient at most exp(-2);
    - else: ``1 - Phi(a) - Q(b)``, which is more than a third.
    """
    a, b = _standardised(low, loc, scale), _standardised(high, loc, scale)
    mirrored = a + b < 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    log_q_a, log_q_b = _log_ndtr(-a), _log_ndtr(-b)
    # not logaddexp, whose second derivative overflows
    outside = torch.logsumexp(torch.stack([_log_ndtr(a), log_q_b]), 0)

    centre = 0.5 * (a + b)
    bounded = (width > 0) & (width < math.inf)
    half = 0.5 * torch.where(bounded, width, 1.0) / scale
    short = bounded & (half <= 1) & (centre * half <= 1)
    # every branch sees numbers that are harmless to it, or the gradient of the others is NaN
    m, h = torch.where(short, centre, 0.0), torch.where(short, half, 1.0)
    total = torch.zeros_like(m)
    for x, weight in _SHORT_RULE:
        t = h * x
        total = total + weight * (torch.cosh(m * t) * torch.exp(-0.5 * t * t))
    narrow = (h * total).log() - 0.5 * m * m - _HALF_LOG_2PI

    in_tail = (a >= 0) & ~short
    quotient = torch.where(in_tail, log_q_b - log_q_a, -2.0).clamp(max=-2.0)
    tail = log_q_a + torch.log1p(-quotient.exp())
    astride = torch.log1p(-torch.where(in_tail | short, -1.0, outside).exp())
    return torch.where(short, narrow, torch.where(in_tail, tail, astride)), outside


def _standardised(y: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """(y - loc) / scale; an infinite y has no part in the gradient."""
    end = y.isinf()
    z = ((torch.where(end, 0.0, y) - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    return torch.where(end, torch.sign(y) * _Z_MAX, z)


# -- moments -----------------------------------------------------------------------------------


def _truncated_moments(low: Tensor, high: Tensor, loc: Tensor, scale: Tensor) -> Moments:
    r"""Moments of every truncated component; bounds (*, 1).

    The textbook form, ``loc + scale (phi(a) - phi(b)) / (Phi(b) - Phi(a))``, cancels in a tail and
    in a narrow window. So the moments are taken of ``t = z - z_0`` from the highest point z_0 of
    the density within the bounds: integrals of ``t^j exp(-z_0 t - t^2 / 2)``, where nothing
    cancels, over the part of the window that matters, by Gauss-Legendre.
    """
    peak = torch.maximum(torch.minimum(loc, high), low)
    z = ((peak - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    reach = _REACH / ((z * z + _REACH).sqrt() + z.abs())  # the density falls by exp(-_REACH / 2)
    sides = []
    for end, away in ((low, peak - low), (high, high - peak)):
        away = torch.where(end.isinf(), 0.0, away) / scale
        sides.append(torch.where(end.isinf(), reach, torch.minimum(away, reach)))
    left, right = sides
    middle, half = 0.5 * (right - left), 0.5 * (right + left)
    s0, s1, s2 = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    for x, weight in _LONG_RULE:
        t = middle + half * x
        f = weight * torch.exp(-t * (z + 0.5 * t))
        s0, s1, s2 = s0 + f, s1 + f * t, s2 + f * t * t
    mean = s1 / s0
    return Moments(peak, scale * mean, scale.square() * (s2 / s0 - mean * mean))


def _rounded_moments(loc: Tensor, scale: Tensor, width: float) -> Moments:
    r"""Moments of every Gaussian component rounded to multiples of the width.

    In widths, with the mean ``n + x`` (n whole, ``|x| <= 1/2``) and the scale r. Small r, by sums
    over the cells, N being the rounded value minus n:

    - ``E N = sum_{d >= 0} Q((d + 1/2 - x) / r) - Q((d + 1/2 + x) / r)``,
      ``E N^2 = sum_{d >= 0} (2 d + 1) (Q(...) + Q(...))``.

    Large r, from the Fourier series of the rounding error ``e = y - round(y)``, with
    ``E_m = (-1)^m exp(-2 pi^2 m^2 r^2)`` and, by Stein's lemma, ``Cov(Y, e) = r^2 E e'``:

    - ``E e = -sum_m E_m sin(2 pi m x) / (pi m)``, ``E N = x - E e``,
    - ``Var N = r^2 - 2 Cov(Y, e) + Var e
      = r^2 + 1/12 + sum_m E_m cos(2 pi m x) (4 r^2 + 1 / (pi m)^2) - (E e)^2``.
    """
    ratio = loc / width
    whole = ratio.round().detach()
    x, r = ratio - whole, scale / width
    small = r < _SMALL_SCALE

    r_sum = torch.where(small, r, _SMALL_SCALE)
    first, second = torch.zeros_like(r), torch.zeros_like(r)
    for d in range(_N_CELLS):
        # 2 Q; torch.special.ndtr has no digits in the tail
        above = torch.special.erfc((d + 0.5 - x) * math.sqrt(0.5) / r_sum)
        below = torch.special.erfc((d + 0.5 + x) * math.sqrt(0.5) / r_sum)
        first = first + 0.5 * (above - below)
        second = second + (d + 0.5) * (above + below)

    r_series = torch.where(small, _SMALL_SCALE, r).clamp(max=_NO_CORRECTION)
    error, more = torch.zeros_like(r), torch.full_like(r, 1 / 12)
    for m in range(1, _N_TERMS + 1):
        e_m = (-1) ** m * torch.exp(-2 * (math.pi * m * r_series).square())
        error = error - e_m * torch.sin(2 * math.pi * m * x) / (math.pi * m)
        bracket = 4 * r_series.square() + 1 / (math.pi * m) ** 2
        more = more + e_m * torch.cos(2 * math.pi * m * x) * bracket

    excess = width * torch.where(small, first, x - error)
    summed = width**2 * (second - first.square())
    series = scale.square() + width**2 * (more - error.square())
    return Moments(width * whole, excess, torch.where(small, summed, series))


# -- quantiles of a truncated mixture ----------------------------------------------------------


def _truncated_icdf(p: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles, (*): p (*) against bounds (*) and parameters of one batch.

    A level above 1/2 is solved for the mirrored mixture, so that its digits are not lost.
    """
    upper = p > 0.5
    q = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    with torch.no_grad():
        y = _roots(q, upper, low, high, params)
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    if torch.is_grad_enabled() and any(a.requires_grad for a in (p, low, high, *params)):
        low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
        params = params[0], params[1] * sign.unsqueeze(-1), params[2]
        # a step of third order from the root moves by nothing, but has the root's derivatives
        inner = (q > 0) & (y > low)
        place, level = torch.where(inner, y, 0.0), torch.where(inner, q, 0.5)
        target = level.log() + _log_mass(low, high, high - low, params)
        move = _step(place, place - low, target, low, params)[1]
        y = torch.where(inner, y + (move - move.detach()), torch.where(q.isnan(), y, low))
    return sign * y


def _roots(q: Tensor, upper: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles at q in [0, 1/2], of the mirrored mixture where upper is true, in portions."""
    batch, n_components = torch.broadcast_shapes(q.shape, low.shape), params[1].shape[-1]
    # the mixture that each level belongs to: nothing of size (levels, rows, K)
    rows = torch.arange(low.numel(), device=q.device).reshape(low.shape)
    rows, levels, upper = (a.expand(batch).reshape(-1) for a in (rows, q, upper))
    low, high = low.reshape(-1), high.reshape(-1)
    log_w, loc, scale = (a.reshape(-1, n_components) for a in params)
    params = log_w, loc, scale
    whole = torch.full_like(low, math.inf)
    total = _log_mass(low, high, high - low, params)
    # what lies below and above the end that one starts from, if mirrored and if not
    tails = [
        (_log_mass(-whole, end, whole, params), _log_mass(end, whole, whole, params))
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


def _log_density(y: Tensor, params: Params) -> Tensor:
    """Log density of the whole mixture, (*)."""
    log_w, loc, scale = params
    z = _standardised(y.unsqueeze(-1), loc, scale)
    return torch.logsumexp(log_w - scale.log() - 0.5 * z * z - _HALF_LOG_2PI, -1)


def _step(
    y: Tensor, width: Tensor, target: Tensor, low: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    r"""Error of log P(low <= Y <= y) against its target, and a step that mends it; width y - low.

    With C the probability, f the density and L the error, Newton's step for ``C^lambda``, where
    ``lambda = 1 - f' C / f^2`` makes that straight to second order: ``(C / f) (exp(lambda L) - 1) /
    lambda``. It is exact where C grows as a power (a window near its end) or an exponential (a
    tail), and of third order elsewhere.
    """
    log_w, loc, scale = params
    log_mass = _log_mass(low, y, width, params)
    error = target - log_mass
    z = ((y.unsqueeze(-1) - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    log_f = log_w - scale.log() - 0.5 * z * z - _HALF_LOG_2PI
    log_p = torch.logsumexp(log_f, -1)
    ratio = (log_mass - log_p).exp()
    power = 1 + ratio * ((log_f - log_p.unsqueeze(-1)).exp() * z / scale).sum(-1)
    bend = power * error
    bend = torch.where(bend.isfinite(), bend, math.nan)  # overflow must not look like a step of 0
    straight = bend.abs() < 1e-8
    safe = torch.where(straight, 1.0, bend)
    return error, ratio * error * torch.where(straight, 1 + 0.5 * bend, torch.expm1(safe) / safe)


def _solve(
    target: Tensor, below: Tensor, above: Tensor, low: Tensor, high: Tensor, params: Params
) -> Tensor:
    """The y with log P(low <= Y <= y) = target; all (n).

    Next to low it is solved for ``u = y - low``, which has the digits that y has not. Below and
    above are the log probabilities of what lies on either side of low.
    """
    u, near = _first_guess(target, below, above, low, high, params)
    origin = torch.where(near, low, 0.0)
    left, right = low - origin, high - origin
    log_w, _, scale = params
    alive = log_w > -math.inf
    # the step is of third order: once this short (in scales), it leaves nothing to mend
    short = 1e-6 * torch.where(alive, scale, math.inf).amin(-1)
    jump = torch.where(alive, scale, 0.0).amax(-1)
    noise = 4 * _ROUNDING * (1 + target.abs())  # of the error, in nats
    last = torch.full_like(u, math.inf)
    found, place = origin + u, torch.arange(u.numel(), device=u.device)
    for _ in range(_MAX_PASSES):
        y = origin + u
        # once y has more digits than y - low, it takes over
        away = torch.where(near & (u > y.abs()), origin, 0.0)
        u, left, right = u + away, left + away, right + away
        origin, near = origin - away, near & (away == 0)
        width = torch.where(near, u, y - low)
        error, move = _step(y, width, target, low, params)
        left, right = torch.where(error > 0, u, left), torch.where(error > 0, right, u)
        # bisection; towards an open end, strides that double
        goal = torch.where(right == math.inf, left + jump, 0.5 * left + 0.5 * right)
        goal = torch.where(left == -math.inf, right - jump, goal)
        # nothing known on the left yet: as if the cdf were straight
        first = near & (left == 0) & (error < 0)
        goal = torch.where(first, u * error.exp(), goal)
        size = move.abs()
        # a step that is NaN or does not halve gives way, and one far into the open
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
    """Where to start, and whether that is y - low instead of y.

    A quantile of the whole mixture, if float64 can tell its level; else near an end.
    """
    log_w, loc, scale = params
    upper = below > above
    part, beyond = target.exp(), torch.minimum(below, above).exp()
    level = torch.where(upper, beyond - part, beyond + part).clamp(0.0, 1.0)
    sign = torch.where(upper, -1.0, 1.0).to(target)
    y = sign * mixture_icdf(level, log_w, loc * sign.unsqueeze(-1), scale)
    # next to what lies beyond the end, a small part is lost in rounding
    told = (part > 1e-8 * beyond) & (y > low) & (y < high)
    # near its lower end the cdf is straight, near its upper end an exponential if that is denser
    f_low, f_high = (_log_density(end, params) for end in (low, high))
    top = (low == -math.inf) | (f_high > f_low) & (high < math.inf)
    widest = torch.where(log_w > -math.inf, scale, 0.0).amax(-1)
    room = torch.where(high == math.inf, widest, 0.5 * high - 0.5 * low)
    rise = torch.minimum((target - f_low).exp(), room)
    y = torch.where(told, y, torch.where(top, high, low + rise))
    near = (y - low <= y.abs()) & (low > -math.inf)
    return torch.where(near, torch.where(told | top, y - low, rise), y), near

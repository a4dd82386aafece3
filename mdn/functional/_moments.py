"""Moments of truncated and of rounded Gaussian components; one dimension, float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._diagonal import standardize
from ._numerics import SQRT_HALF
from ._quadrature import gauss_legendre

__all__ = ["Moments", "rounded_moments", "truncated_moments"]

_REACH = 84.0  # twice the nats below its peak from where on a density adds nothing in float64
# exact to rounding for exp(-t^2 / 2) with |t| up to that reach
_RULE = list(zip(*(a.tolist() for a in gauss_legendre(48)), strict=True))
# The two formulas for the moments of a rounded Gaussian meet at this scale (in widths).  There the
# sum over cells is exact to rounding with 5 cells on either side, the Fourier series with 2 terms.
_SMALL_SCALE, _N_CELLS, _N_TERMS = 0.5, 5, 2
_NO_CORRECTION = 10.0  # scale in widths from where on exp(-2 pi^2 scale^2) is 0


class Moments(NamedTuple):
    """Mean, place + excess, and variance of components, (*, K); float64 holds the place exactly."""

    place: Tensor
    excess: Tensor
    variance: Tensor


def truncated_moments(low: Tensor, high: Tensor, loc: Tensor, scale: Tensor) -> Moments:
    r"""Moments of every truncated component; bounds (*, 1).

    The textbook form, ``loc + scale (phi(a) - phi(b)) / (Phi(b) - Phi(a))``, cancels in a tail and
    in a narrow window. So the moments are taken of ``t = z - z_0`` from the highest point z_0 of
    the density within the bounds: integrals of ``t^j exp(-z_0 t - t^2 / 2)``, where nothing
    cancels, over the part of the window that matters, by Gauss-Legendre.
    """
    peak = torch.maximum(torch.minimum(loc, high), low)
    z = standardize(peak, loc, scale)
    reach = _REACH / ((z * z + _REACH).sqrt() + z.abs())  # the density falls by exp(-_REACH / 2)
    sides = []
    for end, away in ((low, peak - low), (high, high - peak)):
        away = torch.where(end.isinf(), 0.0, away) / scale
        sides.append(torch.where(end.isinf(), reach, torch.minimum(away, reach)))
    left, right = sides
    middle, half = 0.5 * (right - left), 0.5 * (right + left)
    s0, s1, s2 = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    for x, weight in _RULE:
        t = middle + half * x
        f = weight * torch.exp(-t * (z + 0.5 * t))
        s0, s1, s2 = s0 + f, s1 + f * t, s2 + f * t * t
    mean = s1 / s0
    return Moments(peak, scale * mean, scale.square() * (s2 / s0 - mean * mean))


def rounded_moments(loc: Tensor, scale: Tensor, width: float) -> Moments:
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
        above = torch.special.erfc((d + 0.5 - x) * SQRT_HALF / r_sum)
        below = torch.special.erfc((d + 0.5 + x) * SQRT_HALF / r_sum)
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

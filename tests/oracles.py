"""Mixture formulas of one target written a second time in 100-digit arithmetic.

Everything here takes one row as plain Python floats, exactly the numbers the function under test
was given after rounding to its dtype, and uses mpmath only; no code is shared with the library.
The log density and its gradient are those of ``benchmarks/exact.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks.exact import Real, Row, gradient, log_prob, log_weights, mp

__all__ = ["Row", "cdf", "crps", "gradient", "icdf", "log_cdf", "log_prob", "log_sf", "mp"]


# --- one-dimensional distributions: y a float; logits, loc and scale (K,) -----------------------


def _tail(
    y: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any], sign: int
) -> Real:
    """P(sign * Y <= sign * y) by erfc, which keeps its digits in the tail."""
    return mp.fsum(
        mp.exp(lw) * mp.erfc(-sign * (mp.mpf(y) - mp.mpf(m)) / (mp.mpf(s) * mp.sqrt(2))) / 2
        for lw, m, s in zip(log_weights(logits), loc, scale, strict=True)
    )


def cdf(y: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any]) -> Real:
    """P(Y <= y)."""
    return _tail(y, logits, loc, scale, 1)


def log_cdf(y: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any]) -> Real:
    """log P(Y <= y), through the smaller tail."""
    low, high = (_tail(y, logits, loc, scale, sign) for sign in (1, -1))
    return mp.log(low) if low < high else mp.log1p(-high)


def log_sf(y: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any]) -> Real:
    """log P(Y > y), through the smaller tail."""
    low, high = (_tail(y, logits, loc, scale, sign) for sign in (1, -1))
    return mp.log(high) if high < low else mp.log1p(-low)


def icdf(p: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any]) -> Real:
    """The y with P(Y <= y) = p, by bisection to 30 digits of the widest component."""
    p = mp.mpf(p)
    sign, mass = (1, p) if p <= 0.5 else (-1, 1 - p)  # bisect on the tail that holds less
    widest = max(mp.mpf(s) for s in scale)
    low = min(mp.mpf(m) for m in loc) - widest
    high = max(mp.mpf(m) for m in loc) + widest
    while cdf(low, logits, loc, scale) > p:
        low -= high - low
    while _tail(high, logits, loc, scale, -1) > 1 - p:
        high += high - low
    while high - low > widest * mp.mpf("1e-30"):
        middle = (low + high) / 2
        if (_tail(middle, logits, loc, scale, sign) < mass) == (sign == 1):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def crps(y: Any, logits: Sequence[Any], loc: Sequence[Any], scale: Sequence[Any]) -> Real:
    """E|Y - y| - E|Y - Y'| / 2, in y's unit, from E|X| of a normal (Grimit et al., 2006)."""

    def mean_abs(mean: Real, sd: Real) -> Real:
        u = mean / sd
        return mean * mp.erf(u / mp.sqrt(2)) + sd * mp.sqrt(2 / mp.pi) * mp.exp(-(u**2) / 2)

    parts = [
        (mp.exp(lw), mp.mpf(m), mp.mpf(s))
        for lw, m, s in zip(log_weights(logits), loc, scale, strict=True)
    ]
    spread = mp.fsum(
        v * w * mean_abs(m - n, mp.sqrt(s**2 + t**2))
        for (v, m, s), (w, n, t) in itertools.product(parts, repeat=2)
    )
    return mp.fsum(w * mean_abs(mp.mpf(y) - m, s) for w, m, s in parts) - spread / 2

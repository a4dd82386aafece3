"""Roots and extrema of many functions of one number at once, in float64.

A function takes a tensor of places and gives a tensor of that shape; entries are independent of one
another, so every loop runs until the slowest of them is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["find_root", "newton_root", "refine_extrema", "turning_points"]

Function = Callable[[Tensor], Tensor]

_ROOT_STEPS = 400  # a bisection from 1e20 down to 1e-100 is this long
_NEWTON_STEPS = 200
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
_GOLDEN_STEPS = 45  # a bracket shrinks to 4e-10 of itself: below, values no longer differ
_LEVEL = 1e-13  # relative difference of log densities that may be rounding
_SHARE = 1e-14  # of a bracket


def find_root(
    f: Function, low: Tensor, high: Tensor, *, noise: float = 0.0, share: float = 0.0
) -> Tensor:
    """Roots of f between ``low`` and ``high``, where f changes sign, to the last digits.

    A value of at most ``noise`` is a root, and a bracket of ``share`` of the first one is enough:
    for roots near 0, where the numbers are much denser.

    Inverse quadratic interpolation, and bisection where that fails (T. R. Chandrupatla, Adv. Eng.
    Softw. 28 (1997)); f may jump.  Where the signs agree, the end with the smaller value.
    """
    x1, x2 = low, high
    f1, f2 = _finite(f(x1)), _finite(f(x2))
    x3, f3 = x2, f2
    t = torch.full_like(x1, 0.5)
    agree = (f1 > 0) == (f2 > 0)
    best = torch.where(f1.abs() <= f2.abs(), x1, x2)
    resolution = share * (x2 - x1).abs() + 5e-324
    closed = agree | (f1.abs() <= noise) | (f2.abs() <= noise)
    for _ in range(_ROOT_STEPS):
        width = (x2 - x1).abs()
        # two neighbouring numbers, or a step that cannot be resolved
        tolerance = 2.0**-52 * best.abs() + resolution
        done = closed | (width <= tolerance)
        if bool(done.all()):
            break
        least = (0.5 * tolerance / width).nan_to_num(nan=0.5).clamp(max=0.5)
        x = torch.where(done, best, x1 + torch.maximum(torch.minimum(t, 1 - least), least)
                        * (x2 - x1))  # fmt: skip
        fx = _finite(f(x))
        same = (fx > 0) == (f1 > 0)
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
        x1, f1 = x, fx
        best = torch.where(done, best, torch.where(f1.abs() <= f2.abs(), x1, x2))
        closed = done | (fx.abs() <= noise)
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        smooth = (phi * phi < xi) & ((1 - phi) * (1 - phi) < 1 - xi)
        step = f1 / (f2 - f1) * f3 / (f2 - f3)
        step = step + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        t = torch.where(smooth & step.isfinite(), step, 0.5)
    return best


def _finite(value: Tensor) -> Tensor:
    return value.clamp(-1e100, 1e100)  # infinite logs: only the sign matters


def newton_root(
    f: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    negative: Tensor,
    positive: Tensor,
    start: Tensor,
    *,
    noise: float = 0.0,
    close: float = 0.0,
) -> Tensor:
    """Roots between ``negative`` (f < 0) and ``positive`` (f >= 0), where f has a derivative.

    ``f(x, which)`` gives value and derivative at the points x that are still open, those numbered
    ``which``.  A Newton step that leaves the bracket or does not halve the one before gives way to
    bisection.  A value of at most ``noise`` is a root, and so is one of at most ``close`` where
    Newton's step is below rounding.
    """
    found = start.clone()
    which = torch.arange(len(start), device=start.device)
    x, last = start, (positive - negative).abs()
    for _ in range(_NEWTON_STEPS):
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
        here = (value.abs() <= noise) | ((value.abs() <= close) & (move <= eps))
        done = here | (width <= eps) | ~torch.isfinite(value)
        found[which] = torch.where(here, x, target)
        left = ~done
        last = torch.where(newton, move, 0.5 * width)[left]
        which, x, negative, positive = (a[left] for a in (which, target, negative, positive))
    return found


def turning_points(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The extrema of sequences (G, n) in order: maximum, minimum, ..., maximum.

    A plateau counts once; each sequence rises before its first and falls after its last entry.
    Returns (C, n) indices, C odd, the last ones of plateaus; (C, n) where the plateaus begin; and
    (C, n) whether there is one.
    """
    size = len(value)
    step = (value[1:] - value[:-1]).nan_to_num(nan=0.0)  # inf - inf: level
    noise = _LEVEL * value.abs().clamp(min=1.0)
    # also what rounding makes of two places that are nearly one
    step = torch.where(step.abs() > torch.minimum(noise[1:], noise[:-1]), step.sign(), 0.0)
    step = torch.cat([torch.ones_like(value[:1]), step, -torch.ones_like(value[:1])])  # (G + 1, n)
    # a level stretch goes on as the slope before it
    at = torch.arange(size + 1, device=value.device).unsqueeze(1)
    last = torch.where(step != 0, at, 0).cummax(0).values
    slope = step.gather(0, last)
    turns = slope[1:] != slope[:-1]  # (G, n)
    count = turns.sum(0)
    width = int(count.max())
    index = (~turns).int().argsort(dim=0, stable=True)[:width]
    there = torch.arange(width, device=value.device).unsqueeze(1) < count
    return index, last.gather(0, index), there


def refine_extrema(f: Function, left: Tensor, start: Tensor, right: Tensor) -> Tensor:
    """Maxima of f between ``left`` and ``right``; ``start`` if none is higher.

    The root of the derivative where that changes sign, and golden section where f jumps.
    """

    @torch.enable_grad()
    def slope(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0].nan_to_num(nan=0.0)

    low, high = left, right
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(_GOLDEN_STEPS):
        down = fa >= fb
        low, high = torch.where(down, low, a), torch.where(down, b, high)
        fresh = torch.where(down, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        f_new = f(fresh)
        a, b = torch.where(down, fresh, b), torch.where(down, a, fresh)
        fa, fb = torch.where(down, f_new, fb), torch.where(down, fa, f_new)
    found, value = torch.where(fa >= fb, a, b), torch.maximum(fa, fb)
    found = torch.where(value > f(start), found, start)
    # on a flat top the values differ by less than rounding, but the slopes do not
    root = find_root(slope, left, right, share=_SHARE)
    turns = (slope(left) > 0) & (slope(right) < 0)
    return torch.where(
        turns & (f(root) >= value - _LEVEL * value.abs().clamp(min=1.0)), root, found
    )

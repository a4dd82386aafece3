"""Roots, peaks and integrals of many functions at once, in float64.

A function takes a tensor of places and gives a tensor of that shape; entries are independent of one
another, so every loop runs until the slowest of them is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["find_root", "integrate", "legendre", "refine_extrema", "turning_points"]

Rows = Callable[[Tensor], Tensor]

_ROOT_STEPS = 400  # a bisection from 1e20 down to 1e-100 is this long
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
_GOLDEN_STEPS = 45  # a bracket shrinks to 4e-10 of itself: below, values no longer differ
_LEVEL = 1e-13  # relative difference of log densities that may be rounding
_SHARE = 1e-14  # of a bracket
_SPLITS = 12  # halvings of a panel at most
_AGREE = 1e-7  # the 7- and 15-point rules differ by this share of the total at most
_CHUNK = 1 << 19  # places evaluated at a time in an integral
# Abscissas and weights of the 15-point Kronrod rule on [-1, 1], from the end to the middle
# (QUADPACK, qk15); every second abscissa is one of Gauss's 7-point rule.
_KRONROD_X = (
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144691693013,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.0,
)
_KRONROD_W = (
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
)


def find_root(
    f: Rows, low: Tensor, high: Tensor, *, noise: float = 0.0, share: float = 0.0
) -> Tensor:
    """Roots of f between ``low`` and ``high``, where f changes sign, to the last digits.

    A value of at most ``noise`` is a root, and a bracket of ``share`` of the first one is enough:
    for roots near 0, where the numbers are much denser.

    Inverse quadratic interpolation that gives way to bisection (T. R. Chandrupatla, Adv. Eng.
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


def turning_points(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where sequences turn: maximum, minimum, ..., maximum.

    Args:
        value: (G, n) along rising places; a plateau counts once.  Each sequence rises before its
            first and falls after its last entry.

    Returns:
        (C, n) indices, C odd, the last ones of plateaus; (C, n) where the plateaus begin; and
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


def refine_extrema(f: Rows, left: Tensor, start: Tensor, right: Tensor) -> Tensor:
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


def integrate(f: Rows, cuts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integrals over the panels between ``cuts``, which are halved until two rules agree.

    The 15-point Kronrod rule against Gauss's 7-point one, whose difference is at most 1e-7 of the
    total; the error of the former is far smaller wherever f is smooth between the cuts.

    Args:
        f: from (M, *) to (M, *), of one sign.
        cuts: (P + 1, *), sorted along the first axis, finite.

    Returns:
        (*) integrals, and places and weights (M, *) of which they are the weighted sums.
    """
    outer = torch.tensor(_KRONROD_X[:-1], dtype=cuts.dtype, device=cuts.device)
    node = torch.cat([-outer, cuts.new_zeros(1), outer.flip(0)])
    w_outer = torch.tensor(_KRONROD_W[:-1], dtype=cuts.dtype, device=cuts.device)
    w15 = torch.cat([w_outer, cuts.new_tensor(_KRONROD_W[-1:]), w_outer.flip(0)])
    w7 = torch.from_numpy(np.polynomial.legendre.leggauss(7)[1]).to(cuts)
    axes = (-1, *(1,) * (cuts.ndim - 1))

    low, high = cuts[:-1], cuts[1:]
    total = cuts.new_zeros(cuts.shape[1:])
    places, weights = [], []
    for depth in range(_SPLITS + 1):
        half = 0.5 * (high - low)  # (P, *)
        x = (0.5 * low + 0.5 * high).unsqueeze(1) + half.unsqueeze(1) * node.view(axes)
        step = max(1, _CHUNK // max(1, x[0].numel()))
        value = torch.cat(
            [f(x[i : i + step].flatten(0, 1)) for i in range(0, len(x), step)]
        ).view_as(x)
        fine = half * (value * w15.view(axes)).sum(1)
        coarse = half * (value[:, 1::2] * w7.view(axes)).sum(1)
        whole = total + fine.sum(0)
        off = (fine - coarse).abs() > _AGREE * whole
        # one panel is split in all the mixtures, so that their places stay one tensor
        split = off.reshape(len(off), -1).any(1) & (depth < _SPLITS)
        total = total + fine[~split].sum(0)
        places.append(x[~split].flatten(0, 1))
        weights.append((half.unsqueeze(1) * w15.view(axes))[~split].flatten(0, 1))
        if not bool(split.any()):
            break
        middle = 0.5 * low + 0.5 * high
        low, high = (
            torch.cat([low[split], middle[split]]),
            torch.cat([middle[split], high[split]]),
        )
    return total, torch.cat(places), torch.cat(weights)


def legendre(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Abscissas and weights of Gauss's n-point rule on [0, 1], in the dtype and place of like."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (x + 1.0)).to(like), torch.from_numpy(0.5 * w).to(like)

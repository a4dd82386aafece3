"""The von Mises family as numbers in [-pi, pi]: its cdf begins at -pi; float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functional._numerics import HALF_LOG_2PI
from ..functional._quadrature import gauss_legendre
from ._incomplete_gamma_beta import safe_log

__all__ = ["von_mises_log_prob", "von_mises_moments", "von_mises_quantile", "von_mises_tails"]

_TINY = torch.finfo(torch.float64).tiny
_NATS = 40.0  # a density this far below another adds nothing to it
_NODES = 28  # of the quadrature over that range: 1e-13


def _rule(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the quadrature on [0, 1]."""
    x, w = gauss_legendre(_NODES)
    return (0.5 * (x + 1.0)).to(like), (0.5 * w).to(like)


def _reach(theta: Tensor, concentration: Tensor) -> Tensor:
    """The angle from the mean at which the density is 40 nats lower than at theta from it."""
    square = torch.sin(0.5 * theta).square()  # (1 - cos theta) / 2, with its digits near 0
    further = square + 0.5 * _NATS / concentration.clamp(min=_TINY)
    return (2.0 * torch.asin(further.clamp(max=1.0).sqrt())).detach()


def _tail(theta: Tensor, concentration: Tensor) -> Tensor:
    """P(-pi < angle from the mean <= theta) for theta in [-pi, 0]."""
    x, w = _rule(theta)
    start = -_reach(theta, concentration)
    width = (theta - start).clamp(min=0.0)
    gap = width.unsqueeze(-1) * (1.0 - x)  # from the nodes up to theta
    # cos t - cos theta as a product, which does not cancel
    fall = 2.0 * torch.sin(theta.unsqueeze(-1) - 0.5 * gap) * torch.sin(0.5 * gap)
    total = width * (w * torch.exp(concentration.unsqueeze(-1) * fall)).sum(-1)
    return total * torch.exp(_log_density(theta, concentration))


def _log_density(theta: Tensor, concentration: Tensor) -> Tensor:
    half_sine = torch.sin(0.5 * theta)  # cos theta - 1 = -2 sin^2(theta / 2)
    norm = torch.special.i0e(concentration).log()
    return -2.0 * concentration * half_sine * half_sine - 2.0 * HALF_LOG_2PI - norm


def _unwrapped_tails(y: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """Cdf over the whole line, which rises by 1 every 2 pi, and 1 minus it."""
    revolutions = torch.round(y.detach() / (2.0 * math.pi))
    theta = y - 2.0 * math.pi * revolutions
    tail = _tail(-theta.abs(), concentration)
    left = theta <= 0
    return (
        revolutions + torch.where(left, tail, 1.0 - tail),
        torch.where(left, 1.0 - tail, tail) - revolutions,
    )


def _wrapped(loc: Tensor) -> Tensor:
    """The angle in [-pi, pi)."""
    return loc - 2.0 * math.pi * torch.floor((loc.detach() + math.pi) / (2.0 * math.pi))


def von_mises_tails(d: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    loc = _wrapped(d.loc)
    here, start, end = (_unwrapped_tails(a - loc, d.concentration) for a in (y, -math.pi, math.pi))
    return safe_log((here[0] - start[0]).clamp(0.0, 1.0)), safe_log(
        (here[1] - end[1]).clamp(0.0, 1.0)
    )


def von_mises_quantile(d: Any, q: Tensor, upper: Tensor) -> Tensor:
    """Roughly: places of the normal, bent into the circle, which is enough to begin a search."""
    z = torch.special.ndtri(q) * torch.rsqrt(d.concentration + 0.5)
    return _wrapped(d.loc + 2.0 * torch.atan(torch.where(upper, -z, z)))


def von_mises_log_prob(d: Any) -> Callable[[Tensor], Tensor]:
    return lambda y: _log_density(y - d.loc, d.concentration)


def von_mises_moments(d: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of the number y in [-pi, pi], by quadrature on both sides of the cut."""
    loc, k = _wrapped(d.loc).double(), d.concentration.double()
    x, w = _rule(loc)
    reach = _reach(torch.zeros_like(k), k)
    side = torch.where(loc >= 0, 1.0, -1.0).double()
    cut = torch.minimum(torch.maximum(side * math.pi - loc, -reach), reach)
    first = second = torch.zeros_like(loc)
    # from one end of the reach over the mean to the cut, and from the cut to the other end
    for low, high in ((-reach, torch.zeros_like(cut)), (torch.zeros_like(cut), reach)):
        for a, b in ((low, cut.clamp(low, high)), (cut.clamp(low, high), high)):
            theta = a.unsqueeze(-1) + (b - a).unsqueeze(-1) * x
            middle = 0.5 * (a + b)
            beyond = torch.where((middle - cut) * side > 0, 2.0 * math.pi * side, 0.0)
            mass = (b - a).unsqueeze(-1) * w
            mass = mass * _log_density(theta, k.unsqueeze(-1)).exp()
            off = theta - beyond.unsqueeze(-1)  # y - loc
            first = first + (mass * off).sum(-1)
            second = second + (mass * off * off).sum(-1)
    return (loc + first).to(d.loc.dtype), (second - first * first).to(d.loc.dtype)

r"""Gaussian mixtures seen through a link: y = exp(u) or y = sigmoid(u), u a Gaussian mixture.

The density of y times a Gaussian mixture of u is one again, as

.. math::
    e^{c u}\, N(u; m, s^2) = e^{c m + c^2 s^2 / 2}\, N(u; m + c s^2, s^2)

and the inverse slope of the link is :math:`e^{-u}` or :math:`e^{-u} + 2 + e^{u}`.  So modes and
regions of y are those of a Gaussian mixture.  Parameters are (*, K) in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._critical_points import Parameters, row_chunks
from ._integrals import panels
from ._numerics import LOG_2, SQRT_HALF, log_ndtr
from ._quadrature import gauss_legendre

__all__ = ["LOGIT", "log_normal_crps", "logit_normal_crps", "logit_slope", "tilted"]

# powers of e^u and their factors in the inverse slope of the sigmoid
LOGIT = {-1.0: 1.0, 0.0: 2.0, 1.0: 1.0}
_NODES = 15  # of a panel
_LONGEST = 4.0  # panel, beside the poles of the sigmoid at +-i pi
_LARGEST_SCALE = 30.0  # up to which erfc does not underflow
_LARGEST_EXPONENT = 600.0


def tilted(mixture: Parameters, powers: dict[float, float]) -> Parameters:
    """The mixture times the sum of ``factor * exp(power * u)``: unnormalised, (*, P K)."""
    log_w, loc, scale = mixture
    square = scale.square()
    weights = [
        log_w + math.log(factor) + c * loc + 0.5 * c * c * square for c, factor in powers.items()
    ]
    places = [loc + c * square for c in powers]
    return torch.cat(weights, -1), torch.cat(places, -1), torch.cat([scale] * len(powers), -1)


def logit_slope(u: Tensor) -> Tensor:
    """Log of the slope of the sigmoid."""
    return -u.abs() - 2.0 * torch.log1p(torch.exp(-u.abs()))


def log_normal_crps(y: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r"""CRPS of y = exp(u), (n); y (n), parameters (n, K).

    .. math:: y (2 F(y) - 1) - 2 E[Y; Y \le y] + E \min(Y, Y')

    is E|Y - y| - E|Y - Y'| / 2 without the mean, beside which the rest may be small: a sum of terms
    of the size of the score.  With :math:`M_k` the means of the components,
    :math:`E[Y_k; Y_k \le y] = M_k \Phi(z_k - s_k)` and
    :math:`E \min(Y_j, Y_k) = M_j \Phi(-a_{jk}) + M_k \Phi(-a_{kj})`,
    :math:`a_{jk} = (m_j + s_j^2 - m_k) / \sqrt{s_j^2 + s_k^2}`.
    """
    off = log_w == -math.inf  # 0 times a mean that overflows
    loc, scale = loc.masked_fill(off, 0.0), scale.masked_fill(off, 1.0)
    large = bool((loc + scale.square()).abs().max() > _LARGEST_EXPONENT) if loc.numel() else False
    plain = not large and not bool((scale > _LARGEST_SCALE).any())
    log_mean = loc + 0.5 * scale.square()

    def times_mean(log_m: Tensor, z: Tensor) -> Tensor:
        """2 M Phi(-z)."""
        if plain:
            return log_m.exp() * torch.erfc(z * SQRT_HALF)
        return (LOG_2 + log_m + log_ndtr(-z)).exp()

    k = loc.shape[1]
    out = []
    for part in row_chunks(len(loc), k * k) or [slice(0, 0)]:
        at, w, m, s, log_m = (a[part] for a in (y, log_w.exp(), loc, scale, log_mean))
        inside = (at > 0).unsqueeze(1)
        z = (torch.where(at > 0, at, 1.0).log().unsqueeze(1) - m) / s
        sign = torch.where(inside, torch.erf(z * SQRT_HALF), -1.0)  # 2 F - 1
        below = torch.where(inside, times_mean(log_m, s - z), 0.0)
        square = s.square()
        spread = (square.unsqueeze(2) + square.unsqueeze(1)).sqrt()
        a = ((m + square).unsqueeze(2) - m.unsqueeze(1)) / spread  # (n, K, K)
        pairs = times_mean(log_m.unsqueeze(2), a)
        least = torch.einsum("nj,njk,nk->n", w, pairs, w)
        out.append((w * (at.unsqueeze(1) * sign - below)).sum(1) + least)
    return torch.cat(out)


def logit_normal_crps(y: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    r"""CRPS of y = sigmoid(u), (n); y (n), parameters (n, K).

    .. math:: \int_{-\infty}^{v} F^2 \sigma' \, du + \int_v^\infty (1 - F)^2 \sigma' \, du,
        \qquad v = \mathrm{logit}\, y

    by Gauss-Legendre quadrature on panels that are short beside every scale that counts and beside
    the distance of the poles of the sigmoid.
    """
    inside = y.detach().clamp(0.0, 1.0)
    point = torch.logit(inside)
    row, low, high = panels(log_w.detach(), loc.detach(), scale.detach(), _LONGEST)
    k = loc.shape[1]
    first = low.new_full((len(loc),), math.inf).scatter_reduce(0, row, low, "amin")
    last = low.new_full((len(loc),), -math.inf).scatter_reduce(0, row, high, "amax")
    # beyond the components F is 0 or 1
    away = torch.where(point < first, torch.sigmoid(first) - torch.sigmoid(point), 0.0)
    away = away + torch.where(point > last, torch.sigmoid(point) - torch.sigmoid(last), 0.0)
    cut = point[row]
    left = low < cut
    right = high > cut
    row = torch.cat([row[left], row[right]])
    low = torch.cat([low[left], torch.maximum(low, cut)[right]])
    high = torch.cat([torch.minimum(high, cut)[left], high[right]])
    sign = torch.ones_like(low)
    sign[int(left.sum()) :] = -1.0
    nodes, weights = (a.to(loc.device) for a in gauss_legendre(_NODES))
    half_w, inverse = 0.5 * log_w.exp(), scale.reciprocal() * SQRT_HALF
    out = away + (y.detach() - inside).abs()
    for part in row_chunks(len(row), k * _NODES):
        at = row[part]
        half = 0.5 * (high[part] - low[part]).unsqueeze(1)
        u = low[part].unsqueeze(1) + half * (1 + nodes)  # (C, nodes)
        z = (loc[at].unsqueeze(1) - u.unsqueeze(2)) * (inverse[at] * sign[part, None]).unsqueeze(1)
        tail = (torch.erfc(z) * half_w[at].unsqueeze(1)).sum(2)  # F, or 1 - F on the right
        slope = torch.sigmoid(u) * torch.sigmoid(-u)
        out = out.index_add(0, at, (half * weights * tail.square() * slope).sum(1))
    if y.requires_grad:
        z = (point.unsqueeze(1) - loc) * inverse
        rate = (half_w * 2.0 * torch.erf(z)).sum(1).detach()  # 2 F(y) - 1
        out = out + rate * (y - y.detach())
    return out

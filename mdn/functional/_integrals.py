"""Integrals of Gaussian mixtures: of p squared, of -p log p, and divergences.

log_w (*, K) are normalised log weights; root (*, K, D, D) are lower triangular factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._checks import broadcast_shapes
from ._critical_points import row_chunks
from ._numerics import HALF_LOG_2PI, LOG_2
from ._quadrature import gauss_legendre

__all__ = [
    "component_divergences",
    "divergence_bound",
    "entropy",
    "entropy_bounds",
    "log_overlaps",
    "log_squared_norm",
    "panels",
]

# A panel of the entropy integral is at most so many scales long, of the narrowest component that
# reaches it: with so many Gauss-Legendre nodes the error is below 1e-8, and largest in a valley
# between two components, where p log p has branch points beside the line.
_PANEL = 4.0
_NODES = 15
_DEPTH = 30.0  # nats
_NOTHING = -700.0  # log of a density, beside the greatest height, that adds nothing
_BOUND_STEPS = 50  # alternating updates of the variational bound
_LOG_ZERO = -1e30  # a finite log weight whose exponential is 0


def log_squared_norm(log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log of the integral of p^2, diagonal components, (*): pairs along K diagonals."""
    log_w, loc, scale = log_w.movedim(-1, 0), loc.movedim(-2, 0), scale.movedim(-2, 0)
    k, d = len(loc), loc.shape[-1]
    parts = []
    for shift in range(k):
        a, b = slice(shift, None), slice(None, k - shift)
        s = torch.hypot(scale[a], scale[b])
        z = (loc[a] - loc[b]) / s
        t = log_w[a] + log_w[b] - s.log().sum(-1) - 0.5 * z.square().sum(-1)
        parts.append(t if shift == 0 else t + LOG_2)
    return torch.logsumexp(torch.cat(parts), 0) - d * HALF_LOG_2PI


def log_overlaps(loc: Tensor, root: Tensor) -> Tensor:
    """Log of the integral of the product of components i and j, (*, K, K)."""
    # a covariance has the squared condition of its factor: in float64
    dtype, loc, root = loc.dtype, loc.double(), root.double()
    covariance = root @ root.mT
    both = torch.linalg.cholesky(covariance.unsqueeze(-3) + covariance.unsqueeze(-4))
    gap = (loc.unsqueeze(-2) - loc.unsqueeze(-3)).unsqueeze(-1)
    z = torch.linalg.solve_triangular(both, gap, upper=False).squeeze(-1)
    log_det = both.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    out = -0.5 * z.square().sum(-1) - log_det - loc.shape[-1] * HALF_LOG_2PI
    return out.to(dtype)


def entropy(
    log_w: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_slope: Callable[[Tensor], Tensor] | None = None,
    longest: float = math.inf,
) -> Tensor:
    """Entropy in one dimension, (*), by Gauss-Legendre quadrature; parameters (*, K), float64.

    That of a function of y with ``log_slope`` the log of its slope, if given; panels are then at
    most ``longest``.
    """
    batch, k = loc.shape[:-1], loc.shape[-1]
    log_w, loc, scale = (a.reshape(-1, k) for a in (log_w, loc, scale))
    heavy = log_w.detach().argmax(-1, keepdim=True)
    origin = loc.detach().gather(-1, heavy)
    loc = loc - origin  # a common offset costs digits of the nodes
    row, low, high = panels(log_w.detach(), loc.detach(), scale.detach(), longest)
    nodes, weights = (a.to(loc.device) for a in gauss_legendre(_NODES))
    powers = torch.stack([torch.ones_like(nodes), nodes, nodes.square()], 1)  # (nodes, 3)
    height, precision = log_w - scale.log(), scale.reciprocal().square()
    top = height.detach().amax(-1, keepdim=True)
    height = height - top
    values = [loc.new_zeros(0)]
    for part in row_chunks(len(row), k * _NODES):
        at = row[part]
        half = 0.5 * (high[part] - low[part]).unsqueeze(1)
        middle = low[part].unsqueeze(1) + half
        # the exponents of the components as polynomials of the node, about the middle of the
        # panel: what reaches it has a place of about 12 scales there, so that nothing cancels
        gap, curvature = loc[at] - middle, 0.5 * precision[at]
        bend = gap * curvature
        coefficients = torch.stack(
            [height[at] - gap * bend, 2.0 * half * bend, -half.square() * curvature], 1
        )  # (C, 3, K)
        # below the smallest normal number exp takes 50 times as long
        terms = torch.matmul(powers, coefficients).clamp(min=_NOTHING).exp()
        p = terms.sum(2)  # (C, nodes), by the greatest height
        log_p = p.log() + (top[at] - HALF_LOG_2PI)
        if log_slope is not None:
            log_p = log_p - log_slope(middle + half * nodes + origin[at])
        scale_p = half * (top[at] - HALF_LOG_2PI).exp()
        values.append(-(weights * p * log_p).sum(1) * scale_p.squeeze(1))
    return loc.new_zeros(len(loc)).index_add(0, row, torch.cat(values)).reshape(batch)


def panels(
    log_w: Tensor, loc: Tensor, scale: Tensor, longest: float = math.inf
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and ends, (C), of pieces of the line that are short beside every scale that counts.

    A component counts as far as its weight times its density, in units of its scale, is above
    exp(-_DEPTH): beyond, it may be missed.
    """
    reach = scale * (2.0 * (log_w + _DEPTH).clamp(min=0.0)).sqrt()
    counts = log_w > -_DEPTH
    first = torch.where(counts, loc - reach, math.inf)
    last = torch.where(counts, loc + reach, -math.inf)
    row = torch.arange(len(loc), device=loc.device)
    low, high = first.amin(1), last.amax(1)
    closed = [(row[:0], low[:0], high[:0])]
    while len(row):
        least = torch.empty_like(low)
        for part in row_chunks(len(row), loc.shape[1]):
            at = row[part]
            near = (first[at] < high[part].unsqueeze(1)) & (last[at] > low[part].unsqueeze(1))
            least[part] = torch.where(near, scale[at], math.inf).amin(1)
        width = high - low
        done = (width <= (_PANEL * least).clamp(max=longest)) | (
            width <= 1e-15 * torch.maximum(low.abs(), high.abs())
        )
        closed.append((row[done], low[done], high[done]))
        row, low, high = row[~done], low[~done], high[~done]
        middle = 0.5 * low + 0.5 * high
        row, low, high = row.repeat(2), torch.cat([low, middle]), torch.cat([middle, high])
    row, low, high = (torch.cat(a) for a in zip(*closed, strict=True))
    return row, low, high


def entropy_bounds(log_w: Tensor, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of the entropy, (*), in any dimension (Huber et al. 2008)."""
    d = loc.shape[-1]
    w = log_w.exp()
    own = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + d * (HALF_LOG_2PI + 0.5)
    active = w > 0
    upper = (w * torch.where(active, own - log_w, 0.0)).sum(-1)
    cross = torch.logsumexp(log_w.unsqueeze(-2) + log_overlaps(loc, root), -1)
    lower = -(w * torch.where(active, cross, 0.0)).sum(-1)
    return lower, upper


def component_divergences(loc_p: Tensor, root_p: Tensor, loc_q: Tensor, root_q: Tensor) -> Tensor:
    """KL divergence of each component of p from each of q, (*, K_p, K_q)."""
    d = loc_p.shape[-1]
    root_p, loc_p = root_p.unsqueeze(-3), loc_p.unsqueeze(-2)
    root_q, loc_q = root_q.unsqueeze(-4), loc_q.unsqueeze(-3)
    shape = broadcast_shapes(root_p.shape, root_q.shape)
    both = torch.cat(
        [root_p.expand(shape), (loc_p - loc_q).unsqueeze(-1).expand(*shape[:-1], 1)], -1
    )
    z = torch.linalg.solve_triangular(root_q.expand(shape), both, upper=False)
    log_det = root_q.diagonal(dim1=-2, dim2=-1).log().sum(-1) - root_p.diagonal(
        dim1=-2, dim2=-1
    ).log().sum(-1)
    return log_det + 0.5 * (z.square().sum((-1, -2)) - d)


def divergence_bound(log_p: Tensor, log_q: Tensor, pairs: Tensor) -> Tensor:
    """Upper bound of the KL divergence of two mixtures, (*), from those of their components.

    Weights of both are divided among the pairs so that the sum of the pairs' divergences is least
    (Hershey and Olsen 2007, section 7), by alternating updates that never raise it.
    """
    log_p, log_q = log_p.clamp(min=_LOG_ZERO), log_q.clamp(min=_LOG_ZERO)
    lp, lq = log_p.unsqueeze(-1), log_q.unsqueeze(-2)  # (*, K_p, 1), (*, 1, K_q)
    phi = lp + lq
    psi = phi
    for _ in range(_BOUND_STEPS):
        psi = lq + phi - torch.logsumexp(phi, -2, keepdim=True)
        phi = lp + torch.log_softmax(psi - pairs, -1)
    w = phi.exp()
    return (w * torch.where(w > 0, phi - psi + pairs, 0.0)).sum((-1, -2))

"""Integrals of Gaussian mixtures: of p squared, of -p log p, and divergences.

log_w (*, K) are normalised log weights; root (*, K, D, D) are lower triangular factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._diagonal import diagonal_log_prob
from ._numerics import HALF_LOG_2PI, LOG_2
from ._quadrature import gauss_legendre

__all__ = [
    "component_divergences",
    "divergence_bound",
    "entropy",
    "entropy_bounds",
    "log_overlaps",
    "log_squared_norm",
]

_CHUNK = 1 << 21  # numbers a working array may hold
# Panels of the entropy integral end here, in scales around each component; beyond 39 p is 0.
_ENDS = (0.0, 0.75, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 39.0)
_NODES = 10  # Gauss-Legendre nodes a panel
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


def entropy(log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Entropy in one dimension, (*), by Gauss-Legendre quadrature; parameters (*, K), float64."""
    batch, k = loc.shape[:-1], loc.shape[-1]
    flat = [a.reshape(-1, k) for a in (log_w, loc, scale)]
    ends = torch.tensor([-e for e in reversed(_ENDS[1:])] + list(_ENDS), dtype=loc.dtype)
    ends = ends.to(loc.device)
    nodes, weights = (a.to(loc.device) for a in gauss_legendre(_NODES))
    step = max(1, _CHUNK // (k * k * len(ends) * _NODES))
    out = []
    for i in range(0, max(1, len(flat[0])), step):  # an empty batch too
        lw, mu, s = (a[i : i + step] for a in flat)
        heavy = lw.argmax(-1, keepdim=True)
        mu = mu - mu.detach().gather(-1, heavy)  # a common offset costs digits of the nodes
        with torch.no_grad():
            # components of weight 0 have no place: their panels shrink to those of the heaviest
            off = lw == -math.inf
            centre, width = (torch.where(off, a.gather(1, heavy), a) for a in (mu, s))
            edge = (centre.unsqueeze(-1) + width.unsqueeze(-1) * ends).flatten(1).sort(1).values
            half = 0.5 * (edge[:, 1:] - edge[:, :-1]).unsqueeze(-1)
            x = (edge[:, :-1].unsqueeze(-1) + half * (1 + nodes)).flatten(1)  # (n, G)
            w = (half * weights).flatten(1).t()  # (G, n)
        x = x.t().unsqueeze(-1)
        log_p = diagonal_log_prob(
            x, lw.unsqueeze(0), mu[None, :, :, None], s[None, :, :, None], log=False
        )
        term = torch.where(log_p > -700.0, log_p.exp() * log_p, 0.0)
        out.append(-(w * term).sum(0))
    return torch.cat(out).reshape(batch)


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
    shape = torch.broadcast_shapes(root_p.shape, root_q.shape)
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

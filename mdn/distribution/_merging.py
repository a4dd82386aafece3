"""Fewer components with the same mean and covariance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._covariance import Covariance, Diagonal, Full

__all__ = ["merged"]

_CHUNK = 1 << 23  # numbers a working array may hold: 64 MiB


def merged(
    logits: Tensor, loc: Tensor, scale: Tensor, covariance: Tensor, n: int
) -> tuple[Tensor, Tensor, Covariance]:
    """Logits (*, n), means (*, n, D) and covariances of n groups of the K components."""
    k, d = loc.shape[-2:]
    with torch.no_grad():
        label = _labels(
            logits.reshape(-1, k).double().exp(),
            loc.reshape(-1, k, d).double(),
            covariance.reshape(-1, k, d, d).double(),
            n,
        )
        member = torch.nn.functional.one_hot(label.reshape(logits.shape), n).bool()  # (*, K, n)
    log_w = torch.where(member, logits.unsqueeze(-1), -math.inf)
    dead = log_w.amax(-2) == -math.inf  # (*, n); of nothing but -inf the gradient would be NaN
    out = torch.logsumexp(log_w.masked_fill(dead.unsqueeze(-2), 0.0), -2)
    out = out.masked_fill(dead, -math.inf)
    # share of each component in its group; a group of weight 0 takes equal ones
    equal = torch.where(dead.unsqueeze(-2), member / member.sum(-2, keepdim=True), 0.0)
    share = (log_w - out.masked_fill(dead, 0.0).unsqueeze(-2)).exp() + equal
    heaviest = share.detach().argmax(-2).unsqueeze(-1).expand(*dead.shape, d)
    origin = loc.detach().gather(-2, heaviest)  # (*, n, D), so that a common offset does not cancel
    gap = loc.unsqueeze(-2) - origin.unsqueeze(-3)  # (*, K, n, D)
    gap = gap.masked_fill(~member.unsqueeze(-1), 0.0)
    shift = (share.unsqueeze(-1) * gap).sum(-3)  # (*, n, D)
    gap = (gap - shift.unsqueeze(-3)).masked_fill(~member.unsqueeze(-1), 0.0)
    if d == 1:
        within = share.unsqueeze(-1) * (scale.square().unsqueeze(-2) + gap.square())
        return out, origin + shift, Diagonal(within.sum(-3).sqrt())
    within = torch.einsum("...kn,...kij->...nij", share, covariance)
    between = torch.einsum("...kn,...kni,...knj->...nij", share, gap, gap)
    return out, origin + shift, Full(torch.linalg.cholesky(within + between))


def _labels(weights: Tensor, loc: Tensor, covariance: Tensor, n: int) -> Tensor:
    """Which of n groups each component joins, (rows, K), by Runnalls' greedy rule.

    Repeatedly, the two groups are joined whose merging costs least: the bound
    ``(w_i + w_j) log|S_ij| - w_i log|S_i| - w_j log|S_j|`` on twice the divergence it causes.

    Args:
        weights: (rows, K); loc: (rows, K, D); covariance: (rows, K, D, D).
        n: groups to end with.

    References:
        A. R. Runnalls, Kullback-Leibler approach to Gaussian mixture reduction, IEEE Trans.
        Aerosp. Electron. Syst. 43 (2007), eq. 21.
    """
    k, d = loc.shape[1:]
    step = max(1, _CHUNK // (k * k * d * d))
    parts = [
        _groups(weights[i : i + step], loc[i : i + step], covariance[i : i + step], n)
        for i in range(0, len(loc), step)
    ]
    return torch.cat(parts) if parts else weights.new_zeros(0, k, dtype=torch.long)


def _groups(w: Tensor, loc: Tensor, cov: Tensor, n: int) -> Tensor:
    rows, k = w.shape
    row = torch.arange(rows, device=w.device)
    label = torch.arange(k, device=w.device).expand(rows, k).clone()
    w, loc, cov = w.clone(), loc.clone(), cov.clone()
    open_ = torch.ones_like(w, dtype=torch.bool)
    log_det = _log_det(cov)
    cost = _cost(
        w.unsqueeze(2),
        loc.unsqueeze(2),
        cov.unsqueeze(2),
        log_det.unsqueeze(2),
        w.unsqueeze(1),
        loc.unsqueeze(1),
        cov.unsqueeze(1),
        log_det.unsqueeze(1),
    )  # (rows, K, K)
    above = torch.ones(k, k, device=w.device).triu(1).bool()
    cost = torch.where(above, cost, math.inf)
    # of each group, the one after it with which it is joined at the least cost
    partner = cost.argmin(2)
    least = cost.gather(2, partner.unsqueeze(2)).squeeze(2)
    place = torch.arange(k, device=w.device)
    for _ in range(k - n):
        i = least.argmin(1)
        j = partner[row, i]  # i < j
        w[row, i], loc[row, i], cov[row, i] = _joined(
            w[row, i], loc[row, i], cov[row, i], w[row, j], loc[row, j], cov[row, j]
        )
        log_det[row, i] = _log_det(cov[row, i])
        label = torch.where(label == j.unsqueeze(1), i.unsqueeze(1), label)
        open_[row, j] = False
        cost[row, j, :] = math.inf
        cost[row, :, j] = math.inf
        one = _cost(
            w[row, i, None],
            loc[row, i, None],
            cov[row, i, None],
            log_det[row, i, None],
            w,
            loc,
            cov,
            log_det,
        )  # (rows, K)
        one = torch.where(open_, one, math.inf)
        own, gone = i.unsqueeze(1), j.unsqueeze(1)
        before = place < own
        cost[row, :, i] = torch.where(before, one, math.inf)
        cost[row, i, :] = torch.where(place > own, one, math.inf)
        # groups whose partner has changed look for another; to the rest, the new one may be better
        stale = open_ & ((partner == own) | (partner == gone) | (place == own))
        better = before & ((one < least) | ((one == least) & (own < partner)))
        least = torch.where(better, one, least)
        partner = torch.where(better, own, partner)
        least[row, j] = math.inf
        at = stale.nonzero(as_tuple=True)
        costs = cost[at]
        partner[at] = found = costs.argmin(1)
        least[at] = costs.gather(1, found.unsqueeze(1)).squeeze(1)
    # labels are components that survive; number them from 0
    number = (open_.cumsum(1) - 1).clamp(min=0)
    return number.gather(1, label)


def _joined(
    w: Tensor, loc: Tensor, cov: Tensor, v: Tensor, loc_v: Tensor, cov_v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and covariance of two components taken together."""
    total = w + v
    share = torch.where(total > 0, v / total, 0.5)[..., None]
    gap = loc_v - loc
    outer = gap.unsqueeze(-1) * gap.unsqueeze(-2)
    s = share.unsqueeze(-1)
    return total, loc + share * gap, cov + s * (cov_v - cov) + s * (1 - s) * outer


def _cost(
    w: Tensor, loc: Tensor, cov: Tensor, log_det: Tensor,
    v: Tensor, loc_v: Tensor, cov_v: Tensor, log_det_v: Tensor,
) -> Tensor:  # fmt: skip
    total, _, joint = _joined(w, loc, cov, v, loc_v, cov_v)
    return total * _log_det(joint) - w * log_det - v * log_det_v


def _log_det(cov: Tensor) -> Tensor:
    if cov.shape[-1] == 1:
        return cov[..., 0, 0].log()
    return 2 * torch.linalg.cholesky(cov).diagonal(dim1=-2, dim2=-1).log().sum(-1)

"""Fewer components with the same mean and covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._covariance import Covariance, Diagonal, Full

__all__ = ["merged"]

_CHUNK = 1 << 18  # numbers a working array may hold: 2 MiB
_SHRINK = 0.8  # groups that are left, as a share of the columns, when the joined ones are dropped
_LEAST = 1e-300  # weight of a component that has none, which is joined before all others
_MOST_NATS = 1e6  # of the logarithm of a determinant


def merged(
    logits: Tensor, loc: Tensor, scale: Tensor, covariance: Tensor, n: int
) -> tuple[Tensor, Tensor, Covariance]:
    """Logits (*, n), means (*, n, D) and covariances of n groups of the K components."""
    batch, (k, d) = loc.shape[:-2], loc.shape[-2:]
    with torch.no_grad():
        label = _labels(
            logits.reshape(-1, k), loc.reshape(-1, k, d), covariance.reshape(-1, k, d, d), n
        ).reshape(*batch, k)
        # of each group, the component of most weight
        top = logits.new_full((*batch, n), -math.inf).scatter_reduce(-1, label, logits, "amax")
        numbered = (logits == top.gather(-1, label)) * torch.arange(k, device=label.device)
        lead = label.new_zeros(*batch, n).scatter_reduce(-1, label, numbered, "amax")

    def total(a: Tensor) -> Tensor:
        """Sums (*, n, ...) over the groups of a (*, K, ...)."""
        more = a.ndim - label.ndim
        index = label[(..., *(None,) * more)].expand(a.shape)
        return a.new_zeros(*batch, n, *a.shape[a.ndim - more :]).scatter_add(-1 - more, index, a)

    def each(a: Tensor) -> Tensor:
        """What each component's group has, (*, K, ...), of a (*, n, ...)."""
        more = a.ndim - label.ndim
        index = label[(..., *(None,) * more)].expand(*label.shape, *a.shape[a.ndim - more :])
        return a.gather(-1 - more, index)

    dead = top == -math.inf  # (*, n); of nothing but -inf the gradient would be NaN
    top = top.masked_fill(dead, 0.0)
    sums = total((logits - each(top)).exp())
    out = (sums.masked_fill(dead, 1.0).log() + top).masked_fill(dead, -math.inf)
    # share of each component in its group; a group of weight 0 takes equal ones
    lost = each(dead)
    equal = torch.where(lost, 1.0 / each(total(torch.ones_like(logits))), 0.0)
    share = (logits - each(out.masked_fill(dead, 0.0))).exp() + equal
    share_d = share.unsqueeze(-1)
    # from the lead, so that a common offset does not cancel
    origin = loc.detach().gather(-2, lead.unsqueeze(-1).expand(*batch, n, d))  # (*, n, D)
    gap = loc - each(origin)  # (*, K, D)
    shift = total(share_d * gap)
    gap = gap - each(shift)
    if d == 1:
        within = total(share_d * (scale.square() + gap.square()))
        return out, origin + shift, Diagonal(within.sqrt())
    both = covariance + gap.unsqueeze(-1) * gap.unsqueeze(-2)
    return out, origin + shift, Full(torch.linalg.cholesky(total(share_d.unsqueeze(-1) * both)))


def _labels(logits: Tensor, loc: Tensor, covariance: Tensor, n: int) -> Tensor:
    """Which of n groups each component joins, (rows, K), by Runnalls' greedy rule.

    Repeatedly, the two groups are joined whose merging costs least: the bound
    ``(w_i + w_j) log|S_ij| - w_i log|S_i| - w_j log|S_j|`` on twice the divergence it causes.

    Args:
        logits: log weights, (rows, K); loc: (rows, K, D); covariance: (rows, K, D, D).
        n: groups to end with.

    References:
        A. R. Runnalls, Kullback-Leibler approach to Gaussian mixture reduction, IEEE Trans.
        Aerosp. Electron. Syst. 43 (2007), eq. 21.
    """
    k, d = loc.shape[1:]
    step = max(1, _CHUNK // (k * d * d))
    label = torch.empty(logits.shape, dtype=torch.long, device=logits.device)
    for i in range(0, len(loc), step):
        part = slice(i, i + step)
        rows_last = (a[part].transpose(0, 1).double() for a in (logits, loc, covariance))
        label[part] = _joined_down(_Groups.of(*rows_last), n).t()
    return label


@dataclass
class _Groups:
    """Groups of components, (K, rows) each: rows come last, so that sums over groups are fast.

    Attributes:
        w: weights, positive.
        loc: means, (K, rows, D).
        spread: weights times covariances, (K, rows, D, D).
        part: weights times the logs of the determinants of the covariances; -inf for a group that
            another one has taken, so that to join it costs inf.
    """

    w: Tensor
    loc: Tensor
    spread: Tensor
    part: Tensor

    @classmethod
    def of(cls, log_w: Tensor, loc: Tensor, cov: Tensor) -> _Groups:
        # whatever is not finite is kept apart from what ends a loop
        w = log_w.exp().nan_to_num(0.0).clamp(min=_LEAST).contiguous()
        loc, cov = loc.nan_to_num().contiguous(), cov.nan_to_num(1.0).contiguous()
        return cls(w, loc, w[..., None, None] * cov, w * _log_det(cov))

    def __getitem__(self, index: Any) -> _Groups:
        return _Groups(self.w[index], self.loc[index], self.spread[index], self.part[index])

    def __setitem__(self, index: Any, new: _Groups) -> None:
        self.w[index], self.loc[index] = new.w, new.loc
        self.spread[index], self.part[index] = new.spread, new.part

    def joined(self, other: _Groups) -> _Groups:
        """Both together."""
        w, spread = self._both(other)
        loc = self.loc + (other.w / w).unsqueeze(-1) * (other.loc - self.loc)
        return _Groups(w, loc, spread, w * _log_det(spread / w[..., None, None]))

    def cost(self, other: _Groups) -> Tensor:
        """What it costs to join them."""
        w, spread = self._both(other)
        log_det = _log_det(spread.div_(w[..., None, None]))
        return log_det.mul_(w).sub_(self.part).sub_(other.part)

    def _both(self, other: _Groups) -> tuple[Tensor, Tensor]:
        """Weight and spread of two together."""
        w = self.w + other.w
        product = (self.w * other.w).div_(w)[..., None, None]
        gap = other.loc - self.loc
        if gap.shape[-1] == 1:
            between = gap.square_().unsqueeze(-1).mul_(product)
        else:
            between = gap.unsqueeze(-1) * gap.unsqueeze(-2) * product
        return w, between.add_(other.spread).add_(self.spread)


def _joined_down(groups: _Groups, n: int) -> Tensor:
    """The number of its group for each component, (K, rows).

    ``bound`` says what joining a group to any other costs at least.  In each step a group of every
    row is looked at, the one of the least bound: if its best partner costs no more than any bound,
    no pair of the row costs less, and the two are joined; else that cost is its bound.  So no
    matrix of costs is stored, and few costs are computed twice.
    """
    k, rows = groups.w.shape
    row = torch.arange(rows, device=groups.w.device)
    bound = _least_costs(groups)
    name = torch.arange(k, device=row.device).unsqueeze(1).expand(k, rows)  # of the columns
    taken_by = name.clone()
    left = torch.full_like(row, k)
    look_at = bound.argmin(0)
    while (most := int(left.max())) > n:
        if most <= _SHRINK * len(bound):
            order = (groups.part == -math.inf).byte().argsort(dim=0, stable=True)[:most]
            look_at = (order == look_at).byte().argmax(0)
            groups, bound, name = groups[order, row], bound[order, row], name[order, row]
        cost = groups[look_at, row].cost(groups)
        cost[look_at, row] = math.inf
        least, partner = cost.min(0)
        torch.minimum(bound, cost, out=bound)  # those to a group that is new
        bound[look_at, row] = least
        lowest, best = bound.min(0)
        own = ((left > n) & ~(least > lowest)).nonzero().squeeze(1)
        pair = look_at[own], partner[own]
        first, second = (torch.minimum(*pair), own), (torch.maximum(*pair), own)
        groups[first] = groups[first].joined(groups[second])
        groups.part[second] = -math.inf
        bound[second] = math.inf
        taken_by[name[second], own] = name[first]
        left[own] -= 1
        best[own] = first[0]
        look_at = best
    # a group is taken by one of a smaller number: number those that are left from 0
    number = (taken_by == torch.arange(k, device=row.device).unsqueeze(1)).cumsum(0) - 1
    for i in range(k):
        number[i] = torch.where(taken_by[i] == i, number[i], number[taken_by[i], row])
    return number


def _least_costs(groups: _Groups) -> Tensor:
    """What joining each group to the best other one costs."""
    out = torch.full_like(groups.w, math.inf)
    for shift in range(1, len(out)):
        cost = groups[shift:].cost(groups[:-shift])
        for part in (out[shift:], out[:-shift]):
            torch.minimum(part, cost, out=part)
    return out


def _log_det(cov: Tensor) -> Tensor:
    if cov.shape[-1] == 1:
        return cov[..., 0, 0].log().clamp_(-_MOST_NATS, _MOST_NATS)
    log_det = 2 * torch.linalg.cholesky(cov).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return log_det.clamp_(-_MOST_NATS, _MOST_NATS)

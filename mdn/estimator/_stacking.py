"""Groups of networks pooled into one mixture, and what out-of-fold rows say about how.

On rows that a network has not seen, the pool of the networks that held them out is an honest copy
of what the whole ensemble will say of new rows.  There, by likelihood: a factor for the scales of
each group and one for the spread between its members, a weight for each group, and the weight of a
broad component that bounds the loss of a row unlike all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distribution import GaussianMixture
from ..distribution._covariance import Diagonal

__all__ = ["Stack"]

LogProb = Callable[[GaussianMixture, Tensor], Tensor]
Parts = Sequence[Sequence[int]]  # of each group, of each kind: how many members

_PRIOR = 3.0  # strength by which the logs of the factors are held near 0, in nats
_BROAD_WEIGHT = 1e-3  # of the broad component before the data speak
_BROAD_SCALE = 1.5  # its scale, in standard deviations of y
_PASSES = 40  # of L-BFGS


@dataclass
class Stack:
    """How G groups are pooled.

    Attributes:
        scale: (G,) factor of the scales of the components.
        spread: (G,) factor of the distances of the members' means from their common mean.
        weight: (P,) weights of the kinds of members of all groups, which add up to 1.
        broad: weight of the broad component.
        floor: of the scales in standard units, which no factor breaks.
    """

    scale: Tensor
    spread: Tensor
    weight: Tensor
    broad: float
    floor: float

    @classmethod
    def plain(cls, parts: Parts, *, floor: float, bounded_loss: bool = True) -> Stack:
        """Equal weights and no change, for want of rows to learn from."""
        one = torch.ones(len(parts), dtype=torch.float64)
        each = torch.ones(sum(map(len, parts)), dtype=torch.float64)
        return cls(one, one, each / len(each), _BROAD_WEIGHT if bounded_loss else 0.0, floor)

    @classmethod
    def fit(
        cls,
        groups: Sequence[GaussianMixture],
        target: Tensor,
        weight: Tensor | None,
        log_prob: LogProb,
        *,
        recalibrate: Sequence[bool],
        floor: float,
        bounded_loss: bool = True,
        parts: Parts | None = None,
    ) -> Stack:
        """Learns from rows that none of the mixtures has seen.

        Args:
            groups: of each group the members that held a row out, batch (R, N).
            target: (N, ...), what ``log_prob`` takes.
            weight: (N,) or None.
            log_prob: log-likelihood (R, N) of targets (R, N, ...).
            recalibrate: whether the factors of a group are learnt.  A single member says nothing of
                how wide a pool of them should be.
            floor: of the scales in standard units.
            bounded_loss: whether there is a broad component.  Where y is an exponential of what is
                modelled, its tail would rule the mean.
            parts: of each group how many members are of each kind; kinds share the factors of
                their group and have a weight each.  None for one kind a group.
        """
        n_groups, parts = len(groups), _whole(groups) if parts is None else parts
        n_parts = sum(map(len, parts))
        target = target.double()
        broad = _broad(groups[0], torch.Size(target.shape[:1]))
        log_broad = log_prob(broad, target)  # (N,)
        free = torch.tensor(
            [*recalibrate, *recalibrate, *[n_parts > 1] * n_parts, bounded_loss]
        ).double()
        first = torch.zeros(2 * n_groups + n_parts + 1, dtype=torch.float64)
        first[-1] = math.log(_BROAD_WEIGHT)
        moved = torch.zeros_like(first, requires_grad=True)
        optimizer = torch.optim.LBFGS([moved], max_iter=_PASSES, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            theta = first + moved * free
            logs = _of_members(torch.log_softmax(theta[2 * n_groups : -1], 0), parts)
            each = []
            for g, members in enumerate(groups):
                shaped = _shaped(members, theta[g].exp(), theta[n_groups + g].exp(), floor)
                found = log_prob(shaped, target.expand(members.batch_shape[0], *target.shape))
                each.append(found + logs[g].unsqueeze(1))
            rows = torch.logsumexp(torch.cat(each), 0)
            if bounded_loss:
                eps = theta[-1].clamp(max=math.log(0.5))
                rows = torch.logaddexp(rows + torch.log1p(-eps.exp()), log_broad + eps)
            total = rows.sum() if weight is None else (weight.double() * rows).sum()
            held = torch.cat([moved[: 2 * n_groups], 0.5 * moved[2 * n_groups :]])
            return _PRIOR * (held * free).square().sum() - total

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        before = float(loss().detach())
        optimizer.step(closure)
        if not (bool(moved.isfinite().all()) and float(loss().detach()) <= before):
            return cls.plain(parts, floor=floor, bounded_loss=bounded_loss)
        theta = (first + moved * free).detach()
        return cls(
            theta[:n_groups].exp(),
            theta[n_groups : 2 * n_groups].exp(),
            torch.softmax(theta[2 * n_groups : -1], 0),
            min(0.5, float(theta[-1].exp())) if bounded_loss else 0.0,
            floor,
        )

    def members(self, groups: Sequence[GaussianMixture]) -> list[GaussianMixture]:
        """The recalibrated members, batch (M, N), of each group."""
        return [
            _shaped(g, scale, spread, self.floor)
            for g, scale, spread in zip(groups, self.scale, self.spread, strict=True)
        ]

    def weights(self, parts: Parts) -> Tensor:
        """What each member of all groups weighs, (M,); they add up to 1."""
        return torch.cat(_of_members(self.weight.log(), parts)).exp()

    def pool(
        self, groups: Sequence[GaussianMixture], parts: Parts | None = None
    ) -> GaussianMixture:
        """One mixture, batch (N,), of all members of all groups, batch (M, N)."""
        weights = (1 - self.broad) * self.weights(_whole(groups) if parts is None else parts)
        mixtures = [g[m] for g in self.members(groups) for m in range(g.batch_shape[0])]
        if not self.broad:
            return GaussianMixture.pool(mixtures, weights.tolist())
        mixtures.append(_broad(groups[0], groups[0].batch_shape[1:]))
        return GaussianMixture.pool(mixtures, [*weights.tolist(), self.broad])


def _whole(groups: Sequence[GaussianMixture]) -> Parts:
    return [[group.batch_shape[0]] for group in groups]


def _of_members(log_weight: Tensor, parts: Parts) -> list[Tensor]:
    """Of each group the log weights of its members, (M,), who share that of their kind, (P,)."""
    counts = torch.tensor([count for group in parts for count in group])
    each = (log_weight - counts.double().log()).repeat_interleave(counts)
    return list(each.split([sum(group) for group in parts]))


def _shaped(
    members: GaussianMixture, scale: Tensor, spread: Tensor, floor: float
) -> GaussianMixture:
    """Members, batch (R, N), with other scales and another spread around their common mean."""
    mean = members.mean.unsqueeze(-2)  # (R, N, 1, D)
    centre = mean.mean(0, keepdim=True)
    loc = centre + spread * (mean - centre) + (members.loc - mean)
    covariance = members._covariance
    if isinstance(covariance, Diagonal):
        covariance = Diagonal((scale * covariance.tensors[0]).clamp(min=floor))
    else:  # its directions each have a floor; to widen them all breaks none
        covariance = covariance.affine(scale.clamp(min=1.0).expand(members.loc.shape))
    return members._like(members.logits, loc, covariance)


def _broad(like: GaussianMixture, batch: torch.Size) -> GaussianMixture:
    """One wide component around the mean of the training rows, in standard units."""
    shape = (*batch, 1, like.event_shape[0])
    loc = torch.zeros(shape, dtype=torch.float64)
    scale = torch.full(shape, _BROAD_SCALE, dtype=torch.float64)
    return GaussianMixture(torch.zeros(shape[:-1], dtype=torch.float64), loc, scale)

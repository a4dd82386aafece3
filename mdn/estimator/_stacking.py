"""Groups of members pooled into one mixture, by weights learnt on held-out rows.

A group is networks of one design, or a single member of another kind.  The pool of the networks
that held a row out predicts it as the whole ensemble will predict new
rows.  On these predictions the likelihood gives a factor for the scales of each group and one for
the spread between its members, the stacking weight of each subgroup, and the weight of a wide
background component that bounds the loss of a row unlike all others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..distribution import GaussianMixture
from ..train._optimizers import LBFGS
from ._state import Saved

__all__ = ["Stack", "background_scale", "with_background"]

LogProb = Callable[[GaussianMixture, Tensor], Tensor]
Sizes = Sequence[Sequence[int]]  # of each group, the number of members of each subgroup

clock = time.monotonic
_PRIOR = 3.0  # precision of the normal prior of the logs of the factors, in nats
_BACKGROUND_WEIGHT = 1e-3  # of the background component at first
_BACKGROUND_SCALE = 1.5  # its scale, in standard deviations of y, where no value is far
_REACH = 0.5  # its scale over the distance of the farthest value, where one is
_MAX_ITERATIONS = 40  # of L-BFGS
_EVALUATION = 4.0  # time of one, with its gradient and those of the line search, per loss


@dataclass
class Stack(Saved):
    """How the members of G groups, each of one or more subgroups, are pooled.

    Attributes:
        scale: (G,) factor of the scales of the components.
        spread: (G,) factor of the distances of the members' means from their common mean.
        weight: (P,) stacking weights of all subgroups, which add up to 1.
        background_weight: weight of the background component.
        min_scale: floor of the scales in standard units, below which no factor brings them.
        of_weights: whether the weights of the components are all that is asked for, as of
            classifiers; then ``scale`` is the temperature by which their logs are divided.
        background_scale: (D,) scale of the background component, in standard units.
    """

    scale: Tensor
    spread: Tensor
    weight: Tensor
    background_weight: float
    min_scale: float
    of_weights: bool = False
    background_scale: Tensor = field(
        default_factory=lambda: torch.tensor([_BACKGROUND_SCALE], dtype=torch.float64),
        metadata={"later": True},
    )

    @classmethod
    def uniform(
        cls,
        sizes: Sizes,
        *,
        min_scale: float,
        background: Tensor | None = None,
        of_weights: bool = False,
    ) -> Stack:
        """Returns equal weights and factors of 1, where there are no held-out rows."""
        one = torch.ones(len(sizes), dtype=torch.float64)
        each = torch.ones(sum(map(len, sizes)), dtype=torch.float64)
        new = cls(one, one, each / len(each), 0.0, min_scale, of_weights)
        if background is None:
            return new
        return replace(new, background_weight=_BACKGROUND_WEIGHT, background_scale=background)

    @classmethod
    def fit(
        cls,
        groups: Sequence[GaussianMixture],
        sizes: Sizes,
        target: Tensor,
        weight: Tensor | None,
        log_prob: LogProb,
        *,
        min_scale: float,
        background: Tensor | None = None,
        of_weights: bool = False,
        optimism: Sequence[float] | None = None,
        max_time: float = math.inf,
    ) -> Stack:
        """Fits weights and factors to rows that none of the mixtures was trained on.

        A group of a single member keeps its scales: one does not show how wide a pool should be.

        Args:
            groups: of each group the mixtures of the members that held a row out, batch (R, N).
            sizes: of each group the sizes of its subgroups, which share the factors of their group
                and have a weight each.
            target: (N, ...), what ``log_prob`` takes.
            weight: (N,) or None.
            log_prob: log-likelihood (R, N) of targets (R, N, ...).
            min_scale: floor of the scales in standard units.
            background: (D,) scale of the background component in standard units; None for no
                such component: where y is the exponential of the latent target, its tail would
                dominate the mean.
            of_weights: as the attribute.
            optimism: of each group, nats by which its log-likelihoods are too good on average,
                where parameters that it rests on were chosen by these rows too; None for 0.
            max_time: seconds, for which fewer iterations may be made or none.
        """
        uniform = cls.uniform(
            sizes, min_scale=min_scale, background=background, of_weights=of_weights
        )
        n_groups, n_weights = len(groups), sum(map(len, sizes))
        target = target.double()
        has_background = background is not None
        if background is not None:
            wide = _background(groups[0], torch.Size(target.shape[:1]), background, of_weights)
            log_background = log_prob(wide, target)  # (N,)
        excess = [0.0] * n_groups if optimism is None else optimism
        several = [members.batch_shape[0] > 1 for members in groups]
        free = torch.tensor(
            [*several, *several, *[n_weights > 1] * n_weights, has_background]
        ).double()
        start = torch.zeros(2 * n_groups + n_weights + 1, dtype=torch.float64)
        start[-1] = math.log(_BACKGROUND_WEIGHT)
        moved = torch.zeros_like(start, requires_grad=True)

        def of_members(g: int, theta: Tensor) -> Tensor:
            scale, spread = theta[g].exp(), theta[n_groups + g].exp()
            rescaled = _rescaled(groups[g], scale, spread, min_scale, of_weights)
            return log_prob(rescaled, target.expand(groups[g].batch_shape[0], *target.shape))

        # those of members whose scales are not fitted stay as they are
        fixed = [None if free[g] else of_members(g, start) for g in range(n_groups)]

        def loss() -> Tensor:
            theta = start + moved * free
            logs = _member_log_weights(torch.log_softmax(theta[2 * n_groups : -1], 0), sizes)
            log_probs = []
            for g, known in enumerate(fixed):
                found = of_members(g, theta) if known is None else known
                log_probs.append(found + (logs[g].unsqueeze(1) - excess[g]))
            rows = torch.logsumexp(torch.cat(log_probs), 0)
            if has_background:
                eps = theta[-1].clamp(max=math.log(0.5))
                rows = torch.logaddexp(rows + torch.log1p(-eps.exp()), log_background + eps)
            total = rows.sum() if weight is None else (weight.double() * rows).sum()
            scaled = torch.cat([moved[: 2 * n_groups], 0.5 * moved[2 * n_groups :]])
            return _PRIOR * (scaled * free).square().sum() - total

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        begin = clock()
        before = float(loss().detach())
        # a step of L-BFGS evaluates the loss and its gradient, which takes about twice as long
        step = _EVALUATION * (clock() - begin)
        iterations = int(min(_MAX_ITERATIONS, max(0.0, max_time) / max(step, 1e-9)))
        if not iterations:
            return uniform
        optimizer = LBFGS([moved], max_iter=iterations, line_search_fn="strong_wolfe")
        optimizer.step(closure)
        if not (bool(moved.isfinite().all()) and float(loss().detach()) <= before):
            return uniform
        theta = (start + moved * free).detach()
        return replace(
            uniform,
            scale=theta[:n_groups].exp(),
            spread=theta[n_groups : 2 * n_groups].exp(),
            weight=torch.softmax(theta[2 * n_groups : -1], 0),
            background_weight=min(0.5, float(theta[-1].exp())) if has_background else 0.0,
        )

    def members(self, groups: Sequence[GaussianMixture]) -> list[GaussianMixture]:
        """Returns the recalibrated members, batch (M, N), of each group."""
        return [
            _rescaled(g, scale, spread, self.min_scale, self.of_weights)
            for g, scale, spread in zip(groups, self.scale, self.spread, strict=True)
        ]

    def weights(self, sizes: Sizes) -> Tensor:
        """Returns the weight of each member of all groups, (M,); they add up to 1."""
        return torch.cat(_member_log_weights(self.weight.log(), sizes)).exp()

    def pool(self, groups: Sequence[GaussianMixture], sizes: Sizes) -> GaussianMixture:
        """Returns one mixture, batch (N,), of all members of all groups, batch (M, N)."""
        weights = (1 - self.background_weight) * self.weights(sizes)
        mixtures = [g[m] for g in self.members(groups) for m in range(g.batch_shape[0])]
        if not self.background_weight:
            return GaussianMixture.pool(mixtures, weights.tolist())
        rows = groups[0].batch_shape[1:]
        mixtures.append(_background(groups[0], rows, self.background_scale, self.of_weights))
        return GaussianMixture.pool(mixtures, [*weights.tolist(), self.background_weight])


def _member_log_weights(log_weight: Tensor, sizes: Sizes) -> list[Tensor]:
    """Of each group the log weights of its members, (M,), which share that of their subgroup."""
    counts = torch.tensor([count for group in sizes for count in group])
    each = (log_weight - counts.double().log()).repeat_interleave(counts)
    return list(each.split([sum(group) for group in sizes]))


def _rescaled(
    members: GaussianMixture, scale: Tensor, spread: Tensor, min_scale: float, of_weights: bool
) -> GaussianMixture:
    """Members, batch (R, N), with other scales and another spread around their common mean.

    Or other weights, if it is those that count.
    """
    if of_weights:
        logits = members.logits / scale
        return GaussianMixture(logits, members.loc, members.scale, validate_args=False)
    mean = members.mean  # (R, N, D)
    centre = mean.mean(0, keepdim=True)
    return members.rescale(scale, mean=centre + spread * (mean - centre), min_scale=min_scale)


def _background(
    like: GaussianMixture, batch: torch.Size, scale: Tensor, of_weights: bool
) -> GaussianMixture:
    """One wide component around the mean of the training rows, in standard units.

    Or as many of one weight as ``like`` has, if it is the weights that count.
    """
    shape = (*batch, like.n_components if of_weights else 1, like.event_shape[0])
    loc = torch.zeros(shape, dtype=torch.float64)
    logits = torch.zeros(shape[:-1], dtype=torch.float64)
    return GaussianMixture(logits, loc, scale.expand(shape))


def background_scale(latent: Tensor, body: Tensor) -> Tensor:
    """Scale of the background component, (D,), in standard units.

    Args:
        latent: (N, D) targets in standard units, NaN where not known.
        body: the same, with their few far values moved to the limit of the others.
    """
    farthest = latent.nan_to_num().abs().amax(0)
    has_far = (latent.nan_to_num() != body.nan_to_num()).any(0)
    return torch.where(has_far, _REACH * farthest, _BACKGROUND_SCALE)


def with_background(log_prob: LogProb, scale: Tensor) -> LogProb:
    """The log-likelihood of a mixture pooled with the background component, of its first weight.

    Networks that are trained by it leave far values to that component, which else would widen
    their own, or draw their means away from the other rows.
    """

    def pooled(dist: GaussianMixture, target: Tensor) -> Tensor:
        wide = _background(dist, torch.Size(()), scale, of_weights=False)
        far = log_prob(wide.to(target).expand(dist.batch_shape), target)
        return torch.logaddexp(log_prob(dist, target), far + math.log(_BACKGROUND_WEIGHT))

    return pooled

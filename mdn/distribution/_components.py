"""The components of a mixture of any families: as the user gave them, checked, and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, NegativeBinomial, Poisson

from ..functional._checks import broadcast_shapes, check_entries, check_tensor, check_weights
from . import _family_functions as families
from ._family_functions import is_atom, is_discrete
from ._family_moments import moments
from ._law import in_parts

__all__ = [
    "ComponentGroup",
    "Components",
    "check_logits",
    "check_measure",
    "checked_groups",
    "name_of",
]


class ComponentGroup(NamedTuple):
    """Some components of one family.

    Attributes:
        dist: univariate with event (), (1,) or (D,); batch (*, k) if stacked, else (*).
        stacked: whether the components are the last batch axis; else there is one.
    """

    dist: Distribution
    stacked: bool

    @property
    def size(self) -> int:
        """How many components."""
        return self.dist.batch_shape[-1] if self.stacked else 1

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density or mass of each component, (*, k); y is (*, D)."""
        if self.dist.event_shape:
            value = families.log_prob(self.dist, y.unsqueeze(-2) if self.stacked else y)
        else:
            value = families.log_prob(self.dist, y if self.stacked else y[..., 0])
        return value if self.stacked else value.unsqueeze(-1)

    def log_tails(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logs of P(Y <= y) and P(Y > y), (*, k) each; y is (*)."""
        base, y = self._without_event(y)
        lower, upper = families.log_tails(base, y)
        return self._per_component(lower), self._per_component(upper)

    def log_interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Logs of P(low <= Y <= high) and of the rest, (*, k) each; ends are (*)."""
        base, low = self._without_event(low)
        inside, outside = families.log_interval(base, low, self._without_event(high)[1])
        return self._per_component(inside), self._per_component(outside)

    def quantile(self, q: Tensor, upper: Tensor) -> Tensor:
        """Quantile of the components at q in a tail, (*, k); roughly, for the von Mises."""
        base, q = self._without_event(q)
        return self._per_component(families.quantile(base, q, self._without_event(upper)[1]))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the support of each component, (*, k) or fewer axes."""
        base = self._without_event(torch.zeros(()))[0]
        shape = base.batch_shape
        low, high = (a.double().expand(shape) for a in families.bounds(base))
        return self._per_component(low), self._per_component(high)

    def moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and variance of each component, (*, k, D), which is on the device."""
        found = moments(self.dist, device)
        if not self.dist.event_shape:
            found = found[0].unsqueeze(-1), found[1].unsqueeze(-1)
        return found if self.stacked else (found[0].unsqueeze(-2), found[1].unsqueeze(-2))

    def affine(self, shift: Tensor, scale: Tensor) -> ComponentGroup | None:
        """Of ``shift + scale * y``, arguments (*, D) or numbers; None if the family has none."""
        if not self.dist.event_shape:
            shift, scale = (a[..., 0] if a.ndim else a for a in (shift, scale))
        if self.stacked:
            axis = -2 if self.dist.event_shape else -1
            shift, scale = (a.unsqueeze(axis) if a.ndim > -2 - axis else a for a in (shift, scale))
        moved = families.affine(self.dist, shift, scale)
        return None if moved is None else ComponentGroup(moved, self.stacked)

    def with_exposure(self, exposure: Tensor) -> ComponentGroup:
        """Counts over an exposure, (*, 1) or a number, of components that count over 1."""
        if not self.dist.event_shape and exposure.ndim and not self.stacked:
            exposure = exposure[..., 0]
        elif self.dist.event_shape and exposure.ndim and self.stacked:
            exposure = exposure.unsqueeze(-2)
        return ComponentGroup(_over(self.dist, exposure), self.stacked)

    def _without_event(self, y: Tensor) -> tuple[Distribution, Tensor]:
        """The family without event axis, and y with as many axes more as there are behind (*)."""
        more = int(self.stacked)
        base = self.dist
        if isinstance(base, Independent):
            base, more = base.base_dist, more + 1
        return base, y[(..., *(None,) * more)]

    def _per_component(self, value: Tensor) -> Tensor:
        split = isinstance(self.dist, Independent)
        if self.stacked == split:
            return value.squeeze(-1) if split else value.unsqueeze(-1)
        return value


class Components:
    """Components of any families and their weights.

    Args:
        log_w: normalised log weights, (*, K), float64.
        groups: float64 throughout, K in all, of the batch of the weights.
    """

    def __init__(self, log_w: Tensor, groups: Sequence[ComponentGroup]) -> None:
        self.log_w, self.groups = log_w, groups
        self.alive = log_w > -math.inf
        atoms = [is_atom(g.dist) for g in groups for _ in range(g.size)]
        self.is_atom = torch.tensor(atoms, device=log_w.device)
        self.n_atoms = sum(atoms)
        self.is_discrete = any(is_discrete(g.dist) and not is_atom(g.dist) for g in groups)
        self.is_circular = all(families.is_circular(g.dist) for g in groups)

    @property
    def requires_grad(self) -> bool:
        """Whether a weight or a parameter does."""
        return self.log_w.requires_grad or any(families.requires_grad(g.dist) for g in self.groups)

    def gather(self, of: Callable[[ComponentGroup], Tensor]) -> Tensor:
        """What ``of`` says of each group, (*, k), under one batch: (*, K)."""
        found = [of(group) for group in self.groups]
        batch = broadcast_shapes(*(a.shape[:-1] for a in found))
        return torch.cat([a.expand(*batch, a.shape[-1]) for a in found], -1)

    def in_parts(self, of: Callable[..., tuple[Tensor, ...]], *y: Tensor) -> tuple[Tensor, ...]:
        """What ``of`` says at y (M, *), for some of the M at a time."""
        if y[0].ndim < self.log_w.ndim:
            return of(*y)
        return in_parts(of, *y, size=self.log_w.shape[-1])

    def log_terms(self, y: Tensor) -> Tensor:
        """Log weight + log density of each component, (*, K); y is (*, D).

        With respect to the counting measure at the point masses and Lebesgue's elsewhere: at a
        point that has mass, what has none counts as 0.
        """
        terms = self.gather(lambda group: group.log_prob(y)) + self.log_w
        if self.n_atoms and not self.is_discrete:
            hit = ((terms > -math.inf) & self.is_atom).any(-1, keepdim=True)
            terms = terms.masked_fill(hit & ~self.is_atom, -math.inf)
        return terms

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the support of each component, (*, K)."""
        low, high = self.gather(lambda g: g.ends()[0]), self.gather(lambda g: g.ends()[1])
        device = self.log_w.device
        return low.to(device).expand(self.log_w.shape), high.to(device).expand(self.log_w.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the mixture, (*, D); components of weight 0 do not count."""
        w = self.log_w.exp().unsqueeze(-1)  # (*, K, 1)
        pairs = [group.moments(w.device) for group in self.groups]
        loc, variance = (
            torch.cat([pair[i] for pair in pairs], -2).masked_fill(w == 0, 0.0) for i in (0, 1)
        )
        mean = (w * loc).sum(-2)
        apart = (loc - mean.unsqueeze(-2)).masked_fill(w == 0, 0.0)
        total = (w * (variance + apart.square())).sum(-2)
        return mean, total.masked_fill(mean.isinf(), math.inf)


def _over(dist: Distribution, exposure: Tensor) -> Distribution:
    if isinstance(dist, Independent):
        return Independent(_over(dist.base_dist, exposure), dist.reinterpreted_batch_ndims)
    if isinstance(dist, Poisson):
        return Poisson(dist.rate * exposure, validate_args=False)
    if isinstance(dist, NegativeBinomial):  # of Poisson counts whose rate is gamma distributed
        logits = dist.logits + exposure.log()
        return NegativeBinomial(dist.total_count, logits=logits, validate_args=False)
    if is_atom(dist) and bool((dist.mean == 0).all()):
        return dist
    raise TypeError(
        "exposure needs components that count: Poisson, NegativeBinomial, or a PointMass at 0; got "
        f"{name_of(dist)}"
    )


# -- checks -----------------------------------------------------------------------------------


def checked_groups(
    logits: Tensor, components: Distribution | Sequence[Distribution]
) -> tuple[list[ComponentGroup], torch.Size, int]:
    """Checks types and shapes; returns groups, batch shape and target dimensions."""
    check_tensor("logits", logits)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating dtype; got {logits.dtype}")
    each, stacked = _listed(components)
    events = [tuple(dist.event_shape) or (1,) for dist in each]
    if len(set(events)) > 1:
        raise ValueError(f"components must have one event shape; got {events}")
    _check_number(logits, each, stacked)
    batches = [d.batch_shape[:-1] if stacked else d.batch_shape for d in each]
    try:
        batch = broadcast_shapes(logits.shape[:-1], *batches)
    except RuntimeError:
        found = ", ".join(f"{name_of(d)} {tuple(d.batch_shape)}" for d in each)
        raise ValueError(
            f"the batch axes do not broadcast: logits {tuple(logits.shape)}, {found}"
        ) from None
    groups = [ComponentGroup(dist, stacked) for dist in each]
    check_measure(groups)
    return groups, batch, events[0][0]


def check_logits(logits: Tensor) -> None:
    """Values of the log weights; the message names the first that is none."""
    check_entries("logits", logits, logits < math.inf, "be less than inf and not NaN")
    check_weights(logits)


def _listed(
    components: Distribution | Sequence[Distribution],
) -> tuple[Sequence[Distribution], bool]:
    """The distributions that were given, and whether it is one that holds all components."""
    stacked = isinstance(components, Distribution)
    each = [components] if isinstance(components, Distribution) else components
    if not isinstance(each, (list, tuple)) or not each:
        raise TypeError(
            "components must be a torch distribution or a list of at least one; "
            f"got {type(components).__name__}"
        )
    for dist in each:
        if not isinstance(dist, Distribution):
            raise TypeError(f"components must be torch distributions; got {type(dist).__name__}")
        if len(dist.event_shape) > 1:
            raise ValueError(
                "components must have event shape () or (D,); "
                f"got {tuple(dist.event_shape)} of {name_of(dist)}"
            )
    if stacked and not each[0].batch_shape:
        raise ValueError(
            f"components must have a last batch axis of K; {name_of(each[0])} has batch shape ()"
        )
    return each, stacked


def _check_number(logits: Tensor, each: Sequence[Distribution], stacked: bool) -> None:
    """Raises unless there are as many logits as components."""
    k = each[0].batch_shape[-1] if stacked else len(each)
    if logits.ndim >= 1 and logits.shape[-1] == k:
        return
    batch = each[0].batch_shape
    shifted = stacked and len(batch) > 1 and logits.shape[-1:] == batch[-2:-1]
    hint = ". Did you mean Independent(components, 1)?" if shifted else ""
    raise ValueError(
        f"logits must have shape (*, {k}) to match the {k} components; "
        f"got {tuple(logits.shape)}{hint}"
    )


def check_measure(groups: Sequence[ComponentGroup]) -> None:
    """Densities and probability masses have no common unit."""
    others = [group.dist for group in groups if not is_atom(group.dist)]
    kinds = [is_discrete(dist) for dist in others]
    if any(kinds) and not all(kinds):
        raise ValueError(
            "components must all have a density or all a probability mass (PointMass goes with "
            f"either); got {', '.join(map(name_of, others))}"
        )
    for group in groups:
        if any(kinds) and is_atom(group.dist) and not bool((group.dist.mean % 1 == 0).all()):
            raise ValueError(
                "components: a PointMass among whole numbers must be at one; "
                f"got loc {group.dist.mean.flatten()[:4].tolist()}"
            )


def name_of(dist: Distribution) -> str:
    """The family, without the wrapper that names event axes."""
    base = getattr(dist, "base_dist", dist) if type(dist).__name__ == "Independent" else dist
    return type(base).__name__

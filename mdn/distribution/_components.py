"""The components of a mixture as given by the user, checked, in parts of one family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from . import _family_functions as families
from ._family_functions import is_atom, is_discrete

__all__ = ["Part", "check_measure", "checked_parts", "name_of"]


class Part(NamedTuple):
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
        base, y = self._against(y)
        lower, upper = families.log_tails(base, y)
        return self._per_component(lower), self._per_component(upper)

    def quantile(self, q: Tensor, upper: Tensor) -> Tensor:
        """Quantile of the components at q in a tail, (*, k); roughly, for the von Mises."""
        base, q = self._against(q)
        return self._per_component(families.quantile(base, q, self._against(upper)[1]))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Ends of the support of each component, (*, k) or fewer axes."""
        base = self._against(torch.zeros(()))[0]
        shape = base.batch_shape
        low, high = (a.double().expand(shape) for a in families.bounds(base))
        return self._per_component(low), self._per_component(high)

    def _against(self, y: Tensor) -> tuple[Distribution, Tensor]:
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


def checked_parts(
    logits: Tensor, components: Distribution | Sequence[Distribution]
) -> tuple[list[Part], torch.Size, int]:
    """Types and shapes; returns parts, batch shape and target dimensions."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a torch.Tensor; got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating dtype; got {logits.dtype}")
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
    events = [tuple(d.event_shape) or (1,) for d in each]
    if len(set(events)) > 1:
        raise ValueError(f"components must have one event shape; got {events}")
    k = each[0].batch_shape[-1] if stacked else len(each)
    if logits.ndim < 1 or logits.shape[-1] != k:
        hint = ""
        if stacked and len(each[0].batch_shape) > 1 and logits.shape[-1:] == (
            each[0].batch_shape[-2:-1]
        ):  # fmt: skip
            hint = ". Did you mean Independent(components, 1)?"
        raise ValueError(
            f"logits must have shape (*, {k}) to match the {k} components; "
            f"got {tuple(logits.shape)}{hint}"
        )
    batches = [d.batch_shape[:-1] if stacked else d.batch_shape for d in each]
    try:
        batch = torch.broadcast_shapes(logits.shape[:-1], *batches)
    except RuntimeError:
        found = ", ".join(f"{name_of(d)} {tuple(d.batch_shape)}" for d in each)
        raise ValueError(
            f"the batch axes do not broadcast: logits {tuple(logits.shape)}, {found}"
        ) from None
    parts = [Part(dist, stacked) for dist in each]
    check_measure(parts)
    return parts, batch, events[0][0]


def check_measure(parts: list[Part]) -> None:
    """Densities and probability masses have no common unit."""
    others = [part.dist for part in parts if not is_atom(part.dist)]
    kinds = [is_discrete(dist) for dist in others]
    if any(kinds) and not all(kinds):
        raise ValueError(
            "components must all have a density or all a probability mass (PointMass goes with "
            f"either); got {', '.join(map(name_of, others))}"
        )
    for part in parts:
        if any(kinds) and is_atom(part.dist) and not bool((part.dist.mean % 1 == 0).all()):
            raise ValueError(
                "components: a PointMass among whole numbers must be at one; "
                f"got loc {part.dist.mean.flatten()[:4].tolist()}"
            )


def name_of(dist: Distribution) -> str:
    """The family, without the wrapper that names event axes."""
    base = getattr(dist, "base_dist", dist) if type(dist).__name__ == "Independent" else dist
    return type(base).__name__

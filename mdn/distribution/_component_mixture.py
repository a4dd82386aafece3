"""The abstract base of mixtures that are made of components and weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..arguments import check_integer
from ..functional._checks import broadcast_shapes
from ..functional._diagonal import log_weights
from ._base import MixtureDistribution
from ._discretized import DiscretizedMixture
from ._truncated import TruncatedMixture

__all__ = ["ComponentMixture", "with_components"]


class ComponentMixture(MixtureDistribution):
    """A mixture that is given by the log weights and the parameters of its components."""

    _raw_logits: Tensor

    @property
    def logits(self) -> Tensor:
        """Normalised log weights, (*, K): their exponentials sum to 1."""
        return log_weights(self._raw_logits)

    @property
    def weights(self) -> Tensor:
        """Mixing weights, (*, K)."""
        return self.logits.exp()

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self._raw_logits.shape[-1]

    @abstractmethod
    def _log_responsibilities(self, y: Tensor) -> Tensor:
        """Log posterior of the components given checked y."""

    @abstractmethod
    def _marginal(self, dims: list[int]) -> Self:
        """The mixture of some dimensions, counted from 0."""

    def _of_dims(self, dims: list[int]) -> Self:
        return self._marginal(dims)

    @abstractmethod
    def _pool(self, mixtures: Sequence[Self], logits: Tensor) -> Self:
        """The components of mixtures of one batch, with these log weights, (*, M K)."""

    def responsibilities(self, y: Tensor | ArrayLike) -> Tensor:
        """Log posterior probability of the components given y, (*, K); NaN where p(y) = 0."""
        y, dtype = self._check_value(y)
        return self._log_responsibilities(y).to(dtype)

    def marginal(self, dims: int | Sequence[int]) -> Self:
        """The mixture of some target dimensions.

        Args:
            dims: which ones, from 0; the result has them in this order.

        Raises:
            ValueError: a dimension that is not there.
            TypeError: dimensions of a component that are not independent, and no Gaussian.
        """
        return self._marginal(self._dims(dims))

    @classmethod
    def pool(
        cls, mixtures: Sequence[Self], weights: Tensor | Sequence[float] | None = None
    ) -> Self:
        """Linear pool: the average of the densities, one mixture with all the components.

        Args:
            mixtures: M mixtures of one event shape, with batch shapes that broadcast.
            weights: M non-negative numbers, normalised here; equal if None.

        Raises:
            ValueError: no mixture, different event shapes, weights that are no weights, or
                densities with probability masses.
        """
        found = list(mixtures)
        if not found:
            raise ValueError(f"mixtures must hold at least one {cls.__name__}; got none")
        shapes = [tuple(m.event_shape) for m in found]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"mixtures must have one event shape; got {shapes}")
        w = found[0]._pool_weights(len(found), weights)
        try:
            batch = broadcast_shapes(*(m.batch_shape for m in found))
        except RuntimeError:
            text = ", ".join(str(tuple(m.batch_shape)) for m in found)
            raise ValueError(f"the batch shapes of mixtures do not broadcast: {text}") from None
        found = [m.expand(batch) for m in found]
        logits = [m.logits + log_w for m, log_w in zip(found, w.log(), strict=True)]
        return found[0]._pool(found, torch.cat(logits, -1))

    def truncate(self, low: Tensor | float, high: Tensor | float) -> TruncatedMixture:
        """The distribution of Y given low <= Y <= high; D = 1, components with a density.

        Args:
            low, high: numbers or (*, 1), in the unit of y; may be infinite.
        """
        return TruncatedMixture(self, low, high)

    def discretize(self, width: float) -> DiscretizedMixture:
        """The distribution of Y rounded to the nearest multiple of a width: probabilities.

        D = 1, components with a density.

        Args:
            width: of the rounding cell, in the unit of y.
        """
        return DiscretizedMixture(self, width)

    def _pool_weights(self, n: int, weights: Tensor | Sequence[float] | None) -> Tensor:
        own = self._raw_logits
        w = torch.as_tensor(
            [1.0] * n if weights is None else weights, dtype=own.dtype, device=own.device
        )
        fine = w.shape == (n,) and bool((w >= 0).all() & (w.sum() > 0))
        if not fine or not bool(w.isfinite().all()):
            raise ValueError(
                f"weights must be {n} finite non-negative numbers, not all 0; got {w.tolist()}"
            )
        return w / w.sum()

    def _dims(self, dims: int | Sequence[int]) -> list[int]:
        """Dimensions of the target, counted from 0."""
        found: list[int] = list(dims) if isinstance(dims, Iterable) else [dims]
        n = self.event_shape[0]
        for d in found:
            check_integer("dims", d, None)
        inside = all(-n <= d < n for d in found)
        if not found or not inside or len({d % n for d in found}) < len(found):
            raise ValueError(f"dims must be distinct and within 0..{n - 1}; got {dims}")
        return [d % n for d in found]


def with_components(a: Tensor, axis: int, n: int, fill: float | None = None) -> Tensor:
    """At least n components along an axis: ``fill`` at the end, or the first one again if None."""
    shape = list(a.shape)
    shape[axis] = n - a.shape[axis]
    if shape[axis] <= 0:
        return a
    more = a.narrow(axis, 0, 1).expand(shape) if fill is None else a.new_full(shape, fill)
    return torch.cat([a, more], axis)

"""A mixture that is cut to an interval; D = 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..functional._checks import (
    broadcast_batches,
    broadcast_shapes,
    check_event,
    check_univariate,
    first_row,
)
from ..functional._interval import component_log_mass
from ..functional._moments import truncated_moments
from ..functional._truncated_quantile import LEAST_LEVEL, truncated_icdf
from ._base import MixtureDistribution
from ._continuous import ContinuousLaw
from ._gaussian_law import GaussianLaw, mean_and_variance

__all__ = ["TruncatedMixture"]

_LEVELS = (1e-15, 1e-9, 1e-5, 1e-3, *(0.0125 * i for i in range(1, 41)))  # of the grid, in a tail


class TruncatedMixture(MixtureDistribution):
    r"""A univariate mixture given that y lies between two bounds.

    .. math::
        p(y \mid a \le Y \le b) = \frac{p(y)}{P(a \le Y \le b)}, \qquad a \le y \le b

    The batch shape is the broadcast batch of the base and the bounds, the event shape ``(1,)``.

    Args:
        base: a mixture with D = 1 and a density.
        low, high: bounds in the unit of y, numbers or (*, 1), kept in the base's dtype; ``-inf``
            and ``inf`` leave a side open.
        validate_args: check values of bounds and arguments; default as in base.

    Raises:
        ValueError: D > 1, bounds of another shape, low not below high, or bounds
            outside the support of the base, with the first row.
        TypeError: the base has probability masses.

    Example:
        >>> from mdn import GaussianMixture
        >>> two = GaussianMixture(torch.zeros(2), torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1))
        >>> positive = TruncatedMixture(two, low=0.0, high=math.inf)
        >>> positive
        TruncatedMixture(batch_shape=(), event_shape=(1,), n_components=2, low=0, high=inf)
        >>> positive.log_prob(torch.tensor([[3.0], [-3.0]]))
        tensor([-0.9189,    -inf])
        >>> positive.mean, positive.interval(0.9)
        (tensor([3.0008]), tensor([1.3552, 4.6449]))

    References:
        N. L. Johnson, S. Kotz and N. Balakrishnan, Continuous Univariate Distributions 1 (1994),
        section 13.10.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        base: MixtureDistribution,
        low: Tensor | float,
        high: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_univariate("truncate", base.event_shape[0], ". Take one with .marginal(dims)")
        least, most = base_law(base, "truncate").ends()
        ends = []
        for name, value in (("low", low), ("high", high)):
            end = torch.as_tensor(value, dtype=base._reference.dtype, device=base._reference.device)
            if end.ndim:
                check_event(end, 1, name)
            ends.append(end if end.ndim else end.unsqueeze(-1))
        batch = broadcast_batches(
            (base.batch_shape, *(end.shape[:-1] for end in ends)),
            {"base": base.batch_shape, "low": ends[0].shape, "high": ends[1].shape},
        )
        validate = base._validate_args if validate_args is None else bool(validate_args)
        self._init_checked(base, ends[0], ends[1], batch, validate)
        if validate_args is not False:  # also of a base that does not check
            low_end, high_end = self.low[..., 0], self.high[..., 0]
            self._refuse_bounds(~(low_end < high_end), "low must be less than high")
            outside = (high_end <= least) | (low_end >= most)
            self._refuse_bounds(outside, "low and high must enclose a part of the support of base")

    def _refuse_bounds(self, wrong: Tensor, must: str) -> None:
        """Raises ValueError with the first row where ``wrong``, (*)."""
        if bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            where = f" in {first_row(wrong)}" if at else ""
            raise ValueError(
                f"{must}; got low {self.low[at].item():g} and high {self.high[at].item():g}{where}"
            )

    def _init_checked(
        self,
        base: MixtureDistribution,
        low: Tensor,
        high: Tensor,
        batch: torch.Size,
        validate: bool,
    ) -> None:
        self.base = base if base.batch_shape == batch else base.expand(batch)
        self.low, self.high = (end.expand(*batch, 1) for end in (low, high))
        super().__init__(batch, base.event_shape, validate_args=False)
        self._validate_args = validate

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """The interval from low to high."""
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    @property
    def n_components(self) -> int:
        """Number of components K of the base."""
        return self.base.n_components

    @property
    def log_normalizer(self) -> Tensor:
        """Log of P(low <= Y <= high) under the base, (*), accurate in both tails."""
        return self._law().log_normalizer.to(self.low.dtype)

    @property
    def _reference(self) -> Tensor:
        return self.low

    def _law(self) -> _TruncatedLaw:
        law = base_law(self.base, "truncate").in_float64()
        ends = (end[..., 0].double() for end in (self.low, self.high))
        if isinstance(law, GaussianLaw):
            return _TruncatedGaussianLaw(law, *ends)
        return _TruncatedLaw(law, *ends)

    def _log_prob(self, y: Tensor) -> Tensor:
        return self._law().log_density(y[..., 0])

    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Quantiles of uniform levels."""
        u = torch.rand(
            (*shape, *self.batch_shape),
            generator=generator,
            dtype=torch.float64,
            device=self.low.device,
        )
        return self._law().icdf(u.clamp_(min=LEAST_LEVEL)).to(self.low.dtype).unsqueeze(-1)

    def _affine(self, shift: Tensor, scale: Tensor) -> TruncatedMixture:
        ends = shift + scale * self.low, shift + scale * self.high
        low = torch.where(scale > 0, ends[0], ends[1])
        return self._new(self.base.affine(shift, scale), low, torch.where(scale > 0, *ends[::-1]))

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> TruncatedMixture:
        return self._new(self.base._map(f), f(self.low, 1), f(self.high, 1))

    def _cat(self, mixtures: Sequence[TruncatedMixture], dim: int) -> TruncatedMixture:
        low, high = (
            torch.cat([m.low for m in mixtures], dim),
            torch.cat([m.high for m in mixtures], dim),
        )
        return self._new(self.base.cat([m.base for m in mixtures], dim), low, high)

    def _new(self, base: MixtureDistribution, low: Tensor, high: Tensor) -> TruncatedMixture:
        """One of checked parameters that validates its arguments if this one does."""
        new = TruncatedMixture.__new__(TruncatedMixture)
        batch = broadcast_shapes(base.batch_shape, low.shape[:-1])
        new._init_checked(base, low, high, batch, self._validate_args)
        return new

    def _named(self) -> dict[str, Tensor]:
        return {**self.base._named(), "low": self.low, "high": self.high}

    def _repr(self) -> dict[str, str]:
        return {**self.base._repr(), "low": _bound(self.low), "high": _bound(self.high)}


class _TruncatedLaw(ContinuousLaw):
    """A law given that y lies between two bounds, (*), float64."""

    def __init__(self, base: ContinuousLaw, low: Tensor, high: Tensor) -> None:
        self.base, self.low, self.high = base, low, high
        self.n_components = base.n_components
        self.log_normalizer = base.log_mass(low, high)

    @property
    def requires_grad(self) -> bool:
        return self.log_normalizer.requires_grad

    def log_density(self, y: Tensor) -> Tensor:
        y = y.double()
        below, above = y < self.low, y > self.high
        # outside, the gradient is taken at a harmless place and then dropped
        y = torch.where(below, self.low.detach(), torch.where(above, self.high.detach(), y))
        density = self.base.log_density(y) - self.log_normalizer
        return torch.where(below | above, -math.inf, density)

    def log_tails(self, y: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        y = torch.minimum(torch.maximum(y.double(), self.low), self.high)
        low, high = self.low.expand(y.shape), self.high.expand(y.shape)
        return (
            self.base.log_mass(low, y) - self.log_normalizer,
            self.base.log_mass(y, high) - self.log_normalizer,
        )

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
        low, high = low.double(), high.double()
        cut = (low < self.low) | (high > self.high)
        low, high = torch.maximum(low, self.low), torch.minimum(high, self.high)
        width = None if width is None else torch.where(cut, high - low, width)
        # all of it is 1 but for rounding
        return (self.base.log_mass(low, high, width) - self.log_normalizer).clamp(max=0.0)

    def ends(self) -> tuple[Tensor, Tensor]:
        least, most = self.base.ends()
        return torch.maximum(self.low, least), torch.minimum(self.high, most)

    def bracket(self, q: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.ends()
        y = self.base.icdf(torch.where(upper, 1.0 - q, q))
        y = torch.minimum(torch.maximum(y, low), high)
        return y, y

    def grid(self, levels: tuple[float, ...]) -> Tensor:
        """That of the base within the bounds, and quantiles of its own."""
        low, high = self.ends()
        q = torch.tensor([*_LEVELS, *(1.0 - level for level in _LEVELS)], dtype=torch.float64)
        own = self.icdf(q.to(low.device).view(-1, *(1,) * low.ndim)).detach()
        ends = [torch.where(end.isfinite(), end, own[0]) for end in (low, high)]
        first, last = torch.minimum(ends[0], own.amin(0)), torch.maximum(ends[1], own.amax(0))
        inside = torch.minimum(torch.maximum(self.base.grid(levels), first), last)
        return torch.cat([own, inside, first[None], last[None]]).sort(dim=0).values


class _TruncatedGaussianLaw(_TruncatedLaw):
    """Of a Gaussian mixture, quantiles and moments keep their digits however far out it is cut."""

    base: GaussianLaw

    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        return truncated_icdf(p, self.low, self.high, self.base.params())

    def moments(self) -> tuple[Tensor, Tensor]:
        low, high = self.low.unsqueeze(-1), self.high.unsqueeze(-1)
        log_w, loc, scale = self.base.params()
        log_mass = component_log_mass(low, high, high - low, loc, scale)[0]
        parts = truncated_moments(low, high, loc, scale)
        return mean_and_variance(torch.log_softmax(log_w + log_mass, -1), parts)


def base_law(base: MixtureDistribution, what: str) -> ContinuousLaw:
    """The law of a mixture that has a density and nothing else; ``what`` needs that."""
    law = base._law()
    if not isinstance(law, ContinuousLaw) or law.n_points:
        raise TypeError(f"{what} needs components with a density; got {base}")
    return law


def _bound(end: Tensor) -> str:
    """A bound in the repr: the number if the rows agree, else the shape."""
    values = end.detach().reshape(-1)
    if len(values) and bool((values == values[0]).all()):
        return f"{values[0].item():g}"
    return f"<tensor {tuple(end.shape)}>"

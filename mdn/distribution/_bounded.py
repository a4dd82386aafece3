"""A mixture cut to an interval, and a mixture whose draws were rounded to a grid; D = 1.

Both rest on one number, the mass of an interval in logs, exact in both tails, for intervals much
narrower than the scales and for intervals that hold nearly everything.  All of it runs in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..functional._checks import check_event
from ..functional._interval import Params, component_log_mass, interval_log_mass
from ..functional._moments import Moments, rounded_moments, truncated_moments
from ..functional._numerics import log_from_smaller_tail, result_dtype
from ..functional._truncated_quantile import LEAST_LEVEL, truncated_icdf
from ._lattice import rounded_crps, rounded_hdr, rounded_modes
from ._results import HDR, Modes

if TYPE_CHECKING:
    from ._gaussian import GaussianMixture

__all__ = ["DiscretizedMixture", "TruncatedMixture"]

_B = TypeVar("_B", bound="_FromMixture")
_OFF_GRID = 1e-6  # in widths; y may be this far off its multiple, and the rounding of its dtype


class _FromMixture(Distribution, ABC):
    """What the two have in common: checks, moments, the central interval, views of the batch."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False
    base: GaussianMixture

    def __init__(self, base: GaussianMixture, batch: torch.Size, validate: bool | None) -> None:
        self.base = base if base.batch_shape == batch else base.expand(batch)
        super().__init__(batch, base.event_shape, validate_args=False)
        self._validate_args = base._validate_args if validate is None else bool(validate)

    @abstractmethod
    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1)."""

    @abstractmethod
    def _component_moments(self) -> tuple[Tensor, Moments]:
        """Log weights and moments of the components, (*, K), in float64."""

    @abstractmethod
    def _rebuilt(self: _B, base: GaussianMixture, *bounds: Tensor) -> _B:
        """One of the same kind on another base and other bounds."""

    @property
    def _bounds(self) -> tuple[Tensor, ...]:
        """The parameters besides the base, (*, 1)."""
        return ()

    @property
    def mean(self) -> Tensor:
        """Mean, (*, 1), in the unit of y."""
        return self._out(self._moments()[0])

    @property
    def variance(self) -> Tensor:
        """Variance, (*, 1), squared unit of y."""
        return self._out(self._moments()[1])

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, (*, 1), in the unit of y."""
        return self._out(self._moments()[1].sqrt())

    @property
    def median(self) -> Tensor:
        """Median, (*, 1)."""
        return self.icdf(0.5)

    def interval(self, coverage: float) -> Tensor:
        """Central interval, (*, 2): the quantiles (1 - coverage)/2 and (1 + coverage)/2."""
        c = _coverage(coverage)
        return torch.cat([self.icdf(0.5 - 0.5 * c), self.icdf(0.5 + 0.5 * c)], -1)

    def expand(self: _B, batch_shape: Sequence[int], _instance: Any = None) -> _B:
        """The same distributions under a larger batch shape, as views."""
        batch = torch.Size(batch_shape)
        return self._rebuilt(self.base.expand(batch), *(a.expand(*batch, 1) for a in self._bounds))

    def __getitem__(self: _B, index: Any) -> _B:
        """Distributions of the batch, indexed as a GaussianMixture is."""
        bounds = (a[..., 0][index].unsqueeze(-1) for a in self._bounds)
        return self._rebuilt(self.base[index], *bounds)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (*); measured from the heaviest component: an offset cancels."""
        log_w, parts = self._component_moments()
        w = log_w.exp()
        off = w == 0  # 0 times a huge number may not become NaN
        heaviest = w.argmax(-1, keepdim=True)
        place, excess = (a.gather(-1, heaviest).detach() for a in parts[:2])
        apart = ((parts.place - place) + (parts.excess - excess)).masked_fill(off, 0.0)
        shift = (w * apart).sum(-1, keepdim=True)
        spread = parts.variance.masked_fill(off, 0.0) + (apart - shift).square()
        return (place + (excess + shift)).squeeze(-1), (w * spread).sum(-1)

    def _params(self) -> Params:
        base = self.base.to(torch.float64)
        return base.logits, base.loc[..., 0], base.scale[..., 0]

    def _out(self, a: Tensor) -> Tensor:
        """(*) -> (*, 1) in the base's dtype."""
        return a.to(self.base.loc.dtype).unsqueeze(-1)

    def _event(self, y: Tensor) -> tuple[Tensor, torch.dtype]:
        """y without its event axis in float64, (*), and the dtype of the answer."""
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor; got {type(y).__name__}")
        check_event(y, 1)
        self._check_batch("y", y.shape[:-1])
        if self._validate_args and y.is_floating_point() and bool(y.isnan().any()):
            raise ValueError(f"y must not be NaN; {_first(y[..., 0].isnan())} is")
        dtype = result_dtype(y, self.base.loc) if y.is_floating_point() else self.base.loc.dtype
        return y[..., 0].double(), dtype

    def _level(self, p: Tensor | float) -> tuple[Tensor, torch.dtype, torch.dtype]:
        """p in float64, (*), the dtype of the answer, and that of p."""
        kind = p.dtype if isinstance(p, Tensor) and p.is_floating_point() else torch.float64
        level = torch.as_tensor(p, dtype=torch.float64, device=self.base.loc.device)
        self._check_batch("p", level.shape)
        outside = (level < 0) | (level > 1)
        if bool(outside.any()):
            first = tuple(outside.nonzero()[0].tolist())
            raise ValueError(f"p must lie in [0, 1]; got {level[first].item():g} at index {first}")
        # a number has no dtype of its own: it is taken at full precision
        mine = self.base.loc.dtype
        return level, torch.promote_types(mine, kind) if isinstance(p, Tensor) else mine, kind

    def _check_batch(self, name: str, batch: torch.Size) -> None:
        try:
            torch.broadcast_shapes(batch, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"{name} with batch shape {tuple(batch)} does not broadcast against the "
                f"batch shape {tuple(self.batch_shape)} of the {type(self).__name__}"
            ) from None

    def _spelled(self, **bounds: str) -> str:
        """The repr."""
        parts = {
            "batch_shape": tuple(self.batch_shape),
            "event_shape": tuple(self.event_shape),
            "n_components": self.base.n_components,
            **bounds,
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in parts.items())})"


class TruncatedMixture(_FromMixture):
    r"""A univariate mixture given that y lies between two bounds.

    .. math::
        p(y \mid a \le Y \le b) = \frac{p(y)}{P(a \le Y \le b)}, \qquad a \le y \le b

    The batch shape is the broadcast batch of the base and the bounds, the event shape ``(1,)``.

    Args:
        base: a mixture with D = 1.
        low, high: bounds in the unit of y, numbers or (*, 1), kept in the base's dtype; ``-inf``
            and ``inf`` leave a side open.
        validate_args: check values of bounds and arguments; default as in base.

    Raises:
        ValueError: D > 1, bounds of another shape, or low not below high, with the first row.

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

    def __init__(
        self,
        base: GaussianMixture,
        low: Tensor | float,
        high: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        _need_scalar("truncate", base)
        ends = []
        for name, value in (("low", low), ("high", high)):
            end = torch.as_tensor(value, dtype=base.loc.dtype, device=base.loc.device)
            if end.ndim:
                check_event(end, 1, name)
            ends.append(end if end.ndim else end.unsqueeze(-1))
        try:
            batch = torch.broadcast_shapes(base.batch_shape, *(end.shape[:-1] for end in ends))
        except RuntimeError:
            raise ValueError(
                f"the batch axes do not broadcast: base {tuple(base.batch_shape)}, "
                f"low {tuple(ends[0].shape)}, high {tuple(ends[1].shape)}"
            ) from None
        self.low, self.high = (end.expand(*batch, 1) for end in ends)
        super().__init__(base, batch, validate_args)
        wrong = ~(self.low < self.high)[..., 0]
        if self._validate_args and bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            where = f" in {_first(wrong)}" if at else ""
            raise ValueError(
                f"low must be less than high; got low {self.low[at].item():g} and "
                f"high {self.high[at].item():g}{where}"
            )

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """The interval from low to high."""
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    @property
    def log_normalizer(self) -> Tensor:
        """Log of P(low <= Y <= high) under the base, (*), accurate in both tails."""
        low, high = self._ends()
        return interval_log_mass(low, high, self._params()).to(self.base.loc.dtype)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density in nats, (*), ``-inf`` outside the bounds; y is (*, 1)."""
        place, dtype = self._event(y)
        low, high = self._ends()
        below, above = place < low, place > high
        # outside, the gradient is taken at a harmless place and then dropped
        place = torch.where(below, low.detach(), torch.where(above, high.detach(), place))
        density = self.base.to(torch.float64).log_prob(place.unsqueeze(-1))
        density = density - interval_log_mass(low, high, self._params())
        return torch.where(below | above, -math.inf, density).to(dtype)

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y), (*); y is (*, 1)."""
        return self.log_cdf(y).exp()

    def log_cdf(self, y: Tensor) -> Tensor:
        """Log of P(Y <= y), (*), accurate at both ends; y is (*, 1)."""
        below, above, dtype = self._sides(y)
        return log_from_smaller_tail(below, above).to(dtype)

    def log_sf(self, y: Tensor) -> Tensor:
        """Log of P(Y > y), (*), accurate at both ends; y is (*, 1)."""
        below, above, dtype = self._sides(y)
        return log_from_smaller_tail(above, below).to(dtype)

    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1), in the unit of y; twice differentiable in p and the parameters.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1].
        """
        level, dtype, _ = self._level(p)
        y = truncated_icdf(level, *self._ends(), self._params())
        return y.to(dtype).unsqueeze(-1)

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws, sample_shape + (*, 1): quantiles of uniform levels.

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness; torch's global one if None.
        """
        shape = (*_shape(sample_shape), *self.batch_shape)
        device = self.base.loc.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        y = truncated_icdf(u.clamp_(min=LEAST_LEVEL), *self._ends(), self._params())
        return self._out(y)

    def __repr__(self) -> str:
        named = {"low": self.low, "high": self.high}
        return self._spelled(**{name: _spell(end) for name, end in named.items()})

    @property
    def _bounds(self) -> tuple[Tensor, ...]:
        return self.low, self.high

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The bounds in float64, (*)."""
        return self.low[..., 0].double(), self.high[..., 0].double()

    def _sides(self, y: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
        """Log probabilities of what lies below and above y, each accurate where it is small."""
        place, dtype = self._event(y)
        low, high = self._ends()
        params = self._params()
        place = torch.minimum(torch.maximum(place, low), high)
        total = interval_log_mass(low, high, params)
        below = interval_log_mass(low, place, params) - total
        above = interval_log_mass(place, high, params) - total
        return below, above, dtype

    def _component_moments(self) -> tuple[Tensor, Moments]:
        low, high = (end.unsqueeze(-1) for end in self._ends())
        log_w, loc, scale = self._params()
        mass = component_log_mass(low, high, high - low, loc, scale)[0]
        return torch.log_softmax(log_w + mass, -1), truncated_moments(low, high, loc, scale)

    def _rebuilt(self, base: GaussianMixture, *bounds: Tensor) -> TruncatedMixture:
        new = TruncatedMixture(base, *bounds, validate_args=False)
        new._validate_args = self._validate_args
        return new


class DiscretizedMixture(_FromMixture):
    r"""A univariate mixture rounded to the nearest multiple of a width: probability masses.

    .. math::
        P(y) = \int_{y - w/2}^{y + w/2} p(t)\, dt, \qquad y \in w \mathbb Z

    A mass is at most 1, so the log likelihood of a rounded target is never above 0; the density of
    a mixture has no such bound, since its scale can shrink onto the repeated values.

    Args:
        base: a mixture with D = 1.
        width: distance of the grid points, in the unit of y.
        validate_args: check that y lies on the grid; default as in base.

    Raises:
        TypeError: width is not a number.
        ValueError: D > 1, or a width that is not positive and finite.

    Example:
        >>> from mdn import GaussianMixture
        >>> narrow = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 0.01))
        >>> y = torch.tensor([[0.0], [1.0]])
        >>> narrow.log_prob(y)
        tensor([ 3.6862e+00, -4.9963e+03])
        >>> rounded = DiscretizedMixture(narrow, width=0.1)
        >>> rounded
        DiscretizedMixture(batch_shape=(), event_shape=(1,), n_components=1, width=0.1)
        >>> rounded.log_prob(y)
        tensor([-5.7330e-07, -4.5180e+03])

    References:
        W. F. Sheppard, Proc. London Math. Soc. 29 (1898), for the moments of rounded values.
    """

    def __init__(
        self, base: GaussianMixture, width: float, *, validate_args: bool | None = None
    ) -> None:
        _need_scalar("discretize", base)
        try:
            self.width = float(width)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"width must be a number; got {type(width).__name__}") from None
        if not 0 < self.width < math.inf:
            raise ValueError(f"width must be positive and finite; got {self.width:g}")
        super().__init__(base, base.batch_shape, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """The multiples of the width."""
        return _MultipleOf(self.width)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log probability in nats, (*), never above 0; y is (*, 1), multiples of the width.

        Raises:
            ValueError: a y off the grid by more than 1e-6 widths and the rounding of its dtype.
        """
        place, dtype = self._event(y)
        ratio = place / self.width
        cell = ratio.round()
        off = ~_near_grid(ratio, y.dtype)
        if self._validate_args and bool(off.any()):
            at = tuple(off.nonzero()[0].tolist())
            raise ValueError(
                f"y must be a multiple of width {self.width:g}; got {place[at].item():g}"
                f"{f' in {_first(off)}' if at else ''}. Round it: (y / width).round() * width"
            )
        width = torch.full_like(cell, self.width)
        low, high = (cell - 0.5) * width, (cell + 0.5) * width
        return interval_log_mass(low, high, self._params(), width=width).to(dtype)

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y), (*), the cell of y included; y is (*, 1), any number."""
        place, dtype = self._event(y)
        ratio = place / self.width
        cell = torch.where(_near_grid(ratio, y.dtype), ratio.round(), ratio.floor())
        return self._cdf(cell).to(dtype)

    @torch.no_grad()
    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1): the least multiple with cdf >= p, to the rounding of p.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1].
        """
        level, dtype, kind = self._level(p)
        y = self.base.to(torch.float64).icdf(level)[..., 0]
        cell = (y / self.width - 0.5).ceil()
        # the quantile of the base may be off by its last digit, and with it the cell by one
        wanted = level.to(kind)
        cell = torch.where(self._cdf(cell).to(kind) < wanted, cell + 1, cell)
        cell = torch.where(self._cdf(cell - 1).to(kind) >= wanted, cell - 1, cell)
        return (cell * self.width).to(dtype).unsqueeze(-1)

    @torch.no_grad()
    def modes(self) -> Modes:
        """Multiples that are likelier than their neighbours, NaN-padded.  Not differentiable.

        By falling probability, whose log stands for the density.
        """
        cell, mass = rounded_modes(self.base.to(torch.float64), self.width)
        return Modes(self._out(cell * self.width), self._out(mass.log())[..., 0])

    @property
    def mode(self) -> Tensor:
        """The most probable multiple, (*, 1)."""
        return self.modes().loc[..., 0, :]

    @torch.no_grad()
    def hdr(self, coverage: float) -> HDR:
        """The fewest multiples that hold at least the coverage.  Not differentiable.

        An interval names its first and last multiple; the threshold is the least probability.  If
        one of the rows spreads over more than 1000 cells, the ends are those of the base, rounded.

        Args:
            coverage: probability of the region, in (0, 1).
        """
        c = _coverage(coverage)
        cells, level = rounded_hdr(self.base.to(torch.float64), self.width, c)
        dtype = self.base.loc.dtype
        return HDR((cells * self.width).to(dtype), level.to(dtype), c)

    def crps(self, y: Tensor) -> Tensor:
        r"""Continuous ranked probability score, (*), in the unit of y; y is (*, 1), any number.

        .. math:: \int (F(x) - 1\{y \le x\})^2 \, dx

        by a sum over the cells.  If one of the rows spreads over more than 1000, that of the base,
        which is off by less than half a width.
        """
        place, dtype = self._event(y)
        score = rounded_crps(place / self.width, self.base.to(torch.float64), self.width)
        return (score * self.width).to(dtype)

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws, sample_shape + (*, 1): rounded draws of the base.

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness; torch's global one if None.
        """
        y = self.base.sample(_shape(sample_shape), generator=generator)
        cell = (y.double() / self.width + 0.5).floor()
        return (cell * self.width).to(y.dtype)

    def __repr__(self) -> str:
        return self._spelled(width=f"{self.width:g}")

    def _cdf(self, cell: Tensor) -> Tensor:
        """P(Y <= cell * width) in float64."""
        edge = (cell + 0.5) * self.width
        return self.base.to(torch.float64).cdf(edge.unsqueeze(-1))

    def _component_moments(self) -> tuple[Tensor, Moments]:
        log_w, loc, scale = self._params()
        return log_w, rounded_moments(loc, scale, self.width)

    def _rebuilt(self, base: GaussianMixture, *bounds: Tensor) -> DiscretizedMixture:
        new = DiscretizedMixture(base, self.width, validate_args=False)
        new._validate_args = self._validate_args
        return new


class _MultipleOf(constraints.Constraint):
    """Events (*, 1) on the multiples of a width."""

    is_discrete = True
    event_dim = 1

    def __init__(self, width: float) -> None:
        self.width = width
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return _near_grid(value.double() / self.width, value.dtype).all(-1)


# -- small things ------------------------------------------------------------------------------


def _near_grid(ratio: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether y / width is a whole number, up to the tolerance and the rounding of y."""
    rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    return (ratio - ratio.round()).abs() <= _OFF_GRID + rounding * ratio.abs()


def _need_scalar(what: str, base: GaussianMixture) -> None:
    if base.event_shape != (1,):
        raise ValueError(
            f"{what} needs one target dimension; this mixture has {base.event_shape[0]}. "
            "Take one with .marginal(dims)"
        )


def _coverage(coverage: float) -> float:
    c = float(coverage)
    if not 0 < c < 1:
        raise ValueError(f"coverage must lie between 0 and 1; got {coverage}")
    return c


def _shape(sample_shape: Sequence[int] | int) -> torch.Size:
    return torch.Size((sample_shape,) if isinstance(sample_shape, int) else sample_shape)


def _first(bad: Tensor) -> str:
    """The first True, in words."""
    row = tuple(bad.nonzero()[0].tolist())
    return f"row {row[0] if len(row) == 1 else row}" if row else "it"


def _spell(end: Tensor) -> str:
    """A bound in the repr: the number if the rows agree, else the shape."""
    values = end.detach().reshape(-1)
    if len(values) and bool((values == values[0]).all()):
        return f"{values[0].item():g}"
    return f"<tensor {tuple(end.shape)}>"

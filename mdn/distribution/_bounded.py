"""A mixture cut to an interval, and a mixture whose draws were rounded to a grid; D = 1.

Both rest on one number, the mass of an interval in logs, exact in both tails, for intervals much
narrower than the scales and for intervals that hold nearly everything.  All of it runs in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..functional._likelihood import check_event, result_dtype
from ..functional._univariate import _log_ndtr, mixture_icdf

if TYPE_CHECKING:
    from ._gaussian import GaussianMixture

__all__ = ["DiscretizedMixture", "TruncatedMixture"]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_LOG_HALF = -math.log(2.0)
_Z_MAX = 1e150  # in scales; an infinite end of an interval stands here, and its square is finite
_ROUNDING = 2.0**-53  # half the spacing of float64 above 1
_REACH = 84.0  # twice the nats below its peak from where on a density adds nothing in float64
_CHUNK = 1 << 18  # numbers in one working array of the solver: 2 MiB, so that it stays in cache
_LEAP = 1e3  # in strides: a longer step towards an open end is not believed
_MAX_PASSES = 2200  # bisection alone needs 2100 halvings from 1e308 to 1e-308
_LEAST_LEVEL = 2.0**-54  # stands for a uniform draw of 0, whose quantile may be infinite
_OFF_GRID = 1e-6  # in widths; y may be this far off its multiple, and the rounding of its dtype
# The two formulas for the moments of a rounded Gaussian meet at this scale (in widths).  There the
# sum over cells is exact to rounding with 5 cells on either side, the Fourier series with 2 terms.
_SMALL_SCALE, _N_CELLS, _N_TERMS = 0.5, 5, 2
_NO_CORRECTION = 10.0  # scale in widths from where on exp(-2 pi^2 scale^2) is 0

Params = tuple[Tensor, Tensor, Tensor]  # log weights, means and scales, (*, K), in float64


def _gauss_legendre(n: int) -> list[tuple[float, float]]:
    """Nodes and weights on [-1, 1].

    The weights are Christoffel's, 1 / sum_k (k + 1/2) P_k(x)^2: NumPy's own are off by 1e-12 near
    the ends.
    """
    x = np.polynomial.legendre.leggauss(n)[0]
    squares = np.polynomial.legendre.legvander(x, n - 1) ** 2
    return list(zip(x.tolist(), (1 / (squares @ (np.arange(n) + 0.5))).tolist(), strict=True))


# exact to rounding for exp(-m t - t^2 / 2) with |m t| and |t| at most 1, even in t; and for
# exp(-t^2 / 2) with |t| up to the reach above
_SHORT_RULE = [(x, 2 * w) for x, w in _gauss_legendre(10) if x > 0]
_LONG_RULE = _gauss_legendre(48)


class Moments(NamedTuple):
    """Mean, place + excess, and variance of components, (*, K); float64 holds the place exactly."""

    place: Tensor
    excess: Tensor
    variance: Tensor


_B = TypeVar("_B", bound="_FromMixture")


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
        c = float(coverage)
        if not 0 < c < 1:
            raise ValueError(f"coverage must lie between 0 and 1; got {coverage}")
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
        return _log_mass(low, high, high - low, self._params()).to(self.base.loc.dtype)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density in nats, (*), ``-inf`` outside the bounds; y is (*, 1)."""
        place, dtype = self._event(y)
        low, high = self._ends()
        below, above = place < low, place > high
        # outside, the gradient is taken at a harmless place and then dropped
        place = torch.where(below, low.detach(), torch.where(above, high.detach(), place))
        density = self.base.to(torch.float64).log_prob(place.unsqueeze(-1))
        density = density - _log_mass(low, high, high - low, self._params())
        return torch.where(below | above, -math.inf, density).to(dtype)

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y), (*); y is (*, 1)."""
        return self.log_cdf(y).exp()

    def log_cdf(self, y: Tensor) -> Tensor:
        """Log of P(Y <= y), (*), accurate at both ends; y is (*, 1)."""
        below, above, dtype = self._sides(y)
        return _by_smaller(below, above).to(dtype)

    def log_sf(self, y: Tensor) -> Tensor:
        """Log of P(Y > y), (*), accurate at both ends; y is (*, 1)."""
        below, above, dtype = self._sides(y)
        return _by_smaller(above, below).to(dtype)

    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1), in the unit of y; twice differentiable in p and the parameters.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1].
        """
        level, dtype, _ = self._level(p)
        y = _truncated_icdf(level, *self._ends(), self._params())
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
        y = _truncated_icdf(u.clamp_(min=_LEAST_LEVEL), *self._ends(), self._params())
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
        total = _log_mass(low, high, high - low, params)
        below = _log_mass(low, place, place - low, params) - total
        above = _log_mass(place, high, high - place, params) - total
        return below, above, dtype

    def _component_moments(self) -> tuple[Tensor, Moments]:
        low, high = (end.unsqueeze(-1) for end in self._ends())
        log_w, loc, scale = self._params()
        mass = _component_log_mass(low, high, high - low, loc, scale)[0]
        return torch.log_softmax(log_w + mass, -1), _truncated_moments(low, high, loc, scale)

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
        return _log_mass(low, high, width, self._params()).to(dtype)

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
        return log_w, _rounded_moments(loc, scale, self.width)

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


# -- the mass of an interval -------------------------------------------------------------------


def _log_mass(low: Tensor, high: Tensor, width: Tensor, params: Params) -> Tensor:
    """Log of P(low <= Y <= high), (*); ends and width are (*).

    The width is given by itself, since the difference of the ends may have lost its digits.
    """
    log_w, loc, scale = params
    a, b, w = (end.unsqueeze(-1) for end in (low, high, width))
    parts = _component_log_mass(a, b, w, loc, scale)
    inside, outside = (torch.logsumexp(log_w + part, -1) for part in parts)
    empty = (width <= 0) | ((low >= high) & low.isinf())
    return torch.where(empty, -math.inf, _by_smaller(inside, outside))


def _by_smaller(log_p: Tensor, log_rest: Tensor) -> Tensor:
    """log p, by way of log(1 - p) where that is the smaller one and so carries the digits."""
    near_one = log_rest < _LOG_HALF
    return torch.where(near_one, torch.log1p(-torch.where(near_one, log_rest, -1.0).exp()), log_p)


def _component_log_mass(
    low: Tensor, high: Tensor, width: Tensor, loc: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Log probability of every component inside and outside of the ends, (*, K).

    In scales, with ends a < b, centre m and half width h, mirrored so that m >= 0:

    - short (h and m h at most 1): ``phi(m) int_{-h}^{h} exp(-m t - t^2 / 2) dt``, a sum of positive
      terms by Gauss-Legendre, where a difference of two cdfs would cancel;
    - in the tail (a >= 0): ``Q(a) (1 - Q(b) / Q(a))``, the quotient at most exp(-2);
    - else: ``1 - Phi(a) - Q(b)``, which is more than a third.
    """
    a, b = _standardised(low, loc, scale), _standardised(high, loc, scale)
    mirrored = a + b < 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    log_q_a, log_q_b = _log_ndtr(-a), _log_ndtr(-b)
    # not logaddexp, whose second derivative overflows
    outside = torch.logsumexp(torch.stack([_log_ndtr(a), log_q_b]), 0)

    centre = 0.5 * (a + b)
    bounded = (width > 0) & (width < math.inf)
    half = 0.5 * torch.where(bounded, width, 1.0) / scale
    short = bounded & (half <= 1) & (centre * half <= 1)
    # every branch sees numbers that are harmless to it, or the gradient of the others is NaN
    m, h = torch.where(short, centre, 0.0), torch.where(short, half, 1.0)
    total = torch.zeros_like(m)
    for x, weight in _SHORT_RULE:
        t = h * x
        total = total + weight * (torch.cosh(m * t) * torch.exp(-0.5 * t * t))
    narrow = (h * total).log() - 0.5 * m * m - _HALF_LOG_2PI

    in_tail = (a >= 0) & ~short
    quotient = torch.where(in_tail, log_q_b - log_q_a, -2.0).clamp(max=-2.0)
    tail = log_q_a + torch.log1p(-quotient.exp())
    astride = torch.log1p(-torch.where(in_tail | short, -1.0, outside).exp())
    return torch.where(short, narrow, torch.where(in_tail, tail, astride)), outside


def _standardised(y: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """(y - loc) / scale; an infinite y has no part in the gradient."""
    end = y.isinf()
    z = ((torch.where(end, 0.0, y) - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    return torch.where(end, torch.sign(y) * _Z_MAX, z)


# -- moments -----------------------------------------------------------------------------------


def _truncated_moments(low: Tensor, high: Tensor, loc: Tensor, scale: Tensor) -> Moments:
    r"""Moments of every truncated component; bounds (*, 1).

    The textbook form, ``loc + scale (phi(a) - phi(b)) / (Phi(b) - Phi(a))``, cancels in a tail and
    in a narrow window. So the moments are taken of ``t = z - z_0`` from the highest point z_0 of
    the density within the bounds: integrals of ``t^j exp(-z_0 t - t^2 / 2)``, where nothing
    cancels, over the part of the window that matters, by Gauss-Legendre.
    """
    peak = torch.maximum(torch.minimum(loc, high), low)
    z = ((peak - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    reach = _REACH / ((z * z + _REACH).sqrt() + z.abs())  # the density falls by exp(-_REACH / 2)
    sides = []
    for end, away in ((low, peak - low), (high, high - peak)):
        away = torch.where(end.isinf(), 0.0, away) / scale
        sides.append(torch.where(end.isinf(), reach, torch.minimum(away, reach)))
    left, right = sides
    middle, half = 0.5 * (right - left), 0.5 * (right + left)
    s0, s1, s2 = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    for x, weight in _LONG_RULE:
        t = middle + half * x
        f = weight * torch.exp(-t * (z + 0.5 * t))
        s0, s1, s2 = s0 + f, s1 + f * t, s2 + f * t * t
    mean = s1 / s0
    return Moments(peak, scale * mean, scale.square() * (s2 / s0 - mean * mean))


def _rounded_moments(loc: Tensor, scale: Tensor, width: float) -> Moments:
    r"""Moments of every Gaussian component rounded to multiples of the width.

    In widths, with the mean ``n + x`` (n whole, ``|x| <= 1/2``) and the scale r. Small r, by sums
    over the cells, N being the rounded value minus n:

    - ``E N = sum_{d >= 0} Q((d + 1/2 - x) / r) - Q((d + 1/2 + x) / r)``,
      ``E N^2 = sum_{d >= 0} (2 d + 1) (Q(...) + Q(...))``.

    Large r, from the Fourier series of the rounding error ``e = y - round(y)``, with
    ``E_m = (-1)^m exp(-2 pi^2 m^2 r^2)`` and, by Stein's lemma, ``Cov(Y, e) = r^2 E e'``:

    - ``E e = -sum_m E_m sin(2 pi m x) / (pi m)``, ``E N = x - E e``,
    - ``Var N = r^2 - 2 Cov(Y, e) + Var e
      = r^2 + 1/12 + sum_m E_m cos(2 pi m x) (4 r^2 + 1 / (pi m)^2) - (E e)^2``.
    """
    ratio = loc / width
    whole = ratio.round().detach()
    x, r = ratio - whole, scale / width
    small = r < _SMALL_SCALE

    r_sum = torch.where(small, r, _SMALL_SCALE)
    first, second = torch.zeros_like(r), torch.zeros_like(r)
    for d in range(_N_CELLS):
        # 2 Q; torch.special.ndtr has no digits in the tail
        above = torch.special.erfc((d + 0.5 - x) * math.sqrt(0.5) / r_sum)
        below = torch.special.erfc((d + 0.5 + x) * math.sqrt(0.5) / r_sum)
        first = first + 0.5 * (above - below)
        second = second + (d + 0.5) * (above + below)

    r_series = torch.where(small, _SMALL_SCALE, r).clamp(max=_NO_CORRECTION)
    error, more = torch.zeros_like(r), torch.full_like(r, 1 / 12)
    for m in range(1, _N_TERMS + 1):
        e_m = (-1) ** m * torch.exp(-2 * (math.pi * m * r_series).square())
        error = error - e_m * torch.sin(2 * math.pi * m * x) / (math.pi * m)
        bracket = 4 * r_series.square() + 1 / (math.pi * m) ** 2
        more = more + e_m * torch.cos(2 * math.pi * m * x) * bracket

    excess = width * torch.where(small, first, x - error)
    summed = width**2 * (second - first.square())
    series = scale.square() + width**2 * (more - error.square())
    return Moments(width * whole, excess, torch.where(small, summed, series))


# -- quantiles of a truncated mixture ----------------------------------------------------------


def _truncated_icdf(p: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles, (*): p (*) against bounds (*) and parameters of one batch.

    A level above 1/2 is solved for the mirrored mixture, so that its digits are not lost.
    """
    upper = p > 0.5
    q = torch.where(upper, 1.0 - p, p)  # exact for p in [1/2, 1]
    with torch.no_grad():
        y = _roots(q, upper, low, high, params)
    sign = torch.where(upper, -1.0, 1.0).to(p.dtype)
    if torch.is_grad_enabled() and any(a.requires_grad for a in (p, low, high, *params)):
        low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
        params = params[0], params[1] * sign.unsqueeze(-1), params[2]
        # a step of third order from the root moves by nothing, but has the root's derivatives
        inner = (q > 0) & (y > low)
        place, level = torch.where(inner, y, 0.0), torch.where(inner, q, 0.5)
        target = level.log() + _log_mass(low, high, high - low, params)
        move = _step(place, place - low, target, low, params)[1]
        y = torch.where(inner, y + (move - move.detach()), torch.where(q.isnan(), y, low))
    return sign * y


def _roots(q: Tensor, upper: Tensor, low: Tensor, high: Tensor, params: Params) -> Tensor:
    """Quantiles at q in [0, 1/2], of the mirrored mixture where upper is true, in portions."""
    batch, n_components = torch.broadcast_shapes(q.shape, low.shape), params[1].shape[-1]
    # the mixture that each level belongs to: nothing of size (levels, rows, K)
    rows = torch.arange(low.numel(), device=q.device).reshape(low.shape)
    rows, levels, upper = (a.expand(batch).reshape(-1) for a in (rows, q, upper))
    low, high = low.reshape(-1), high.reshape(-1)
    log_w, loc, scale = (a.reshape(-1, n_components) for a in params)
    params = log_w, loc, scale
    whole = torch.full_like(low, math.inf)
    total = _log_mass(low, high, high - low, params)
    # what lies below and above the end that one starts from, if mirrored and if not
    tails = [
        (_log_mass(-whole, end, whole, params), _log_mass(end, whole, whole, params))
        for end in (low, high)
    ]
    y = levels.clone()  # NaN stays
    for part in (~levels.isnan()).nonzero().squeeze(-1).split(max(1, _CHUNK // n_components)):
        at, flip, level = rows[part], upper[part], levels[part]
        first, last = low[at], high[at]
        first, last = torch.where(flip, -last, first), torch.where(flip, -first, last)
        below = torch.where(flip, tails[1][1][at], tails[0][0][at])
        above = torch.where(flip, tails[1][0][at], tails[0][1][at])
        y[part] = first
        inner = level > 0
        target, below, above, first, last, at, flip = (
            a[inner] for a in (level.log() + total[at], below, above, first, last, at, flip)
        )
        m = torch.where(flip.unsqueeze(-1), -loc[at], loc[at])
        root = _solve(target, below, above, first, last, (log_w[at], m, scale[at]))
        y[part[inner]] = torch.minimum(root, last)
    return y.reshape(batch)


def _log_density(y: Tensor, params: Params) -> Tensor:
    """Log density of the whole mixture, (*)."""
    log_w, loc, scale = params
    z = _standardised(y.unsqueeze(-1), loc, scale)
    return torch.logsumexp(log_w - scale.log() - 0.5 * z * z - _HALF_LOG_2PI, -1)


def _step(
    y: Tensor, width: Tensor, target: Tensor, low: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    r"""Error of log P(low <= Y <= y) against its target, and a step that mends it; width y - low.

    With C the probability, f the density and L the error, Newton's step for ``C^lambda``, where
    ``lambda = 1 - f' C / f^2`` makes that straight to second order: ``(C / f) (exp(lambda L) - 1) /
    lambda``. It is exact where C grows as a power (a window near its end) or an exponential (a
    tail), and of third order elsewhere.
    """
    log_w, loc, scale = params
    log_mass = _log_mass(low, y, width, params)
    error = target - log_mass
    z = ((y.unsqueeze(-1) - loc) / scale).clamp(-_Z_MAX, _Z_MAX)
    log_f = log_w - scale.log() - 0.5 * z * z - _HALF_LOG_2PI
    log_p = torch.logsumexp(log_f, -1)
    ratio = (log_mass - log_p).exp()
    power = 1 + ratio * ((log_f - log_p.unsqueeze(-1)).exp() * z / scale).sum(-1)
    bend = power * error
    bend = torch.where(bend.isfinite(), bend, math.nan)  # overflow must not look like a step of 0
    straight = bend.abs() < 1e-8
    safe = torch.where(straight, 1.0, bend)
    return error, ratio * error * torch.where(straight, 1 + 0.5 * bend, torch.expm1(safe) / safe)


def _solve(
    target: Tensor, below: Tensor, above: Tensor, low: Tensor, high: Tensor, params: Params
) -> Tensor:
    """The y with log P(low <= Y <= y) = target; all (n).

    Next to low it is solved for ``u = y - low``, which has the digits that y has not. Below and
    above are the log probabilities of what lies on either side of low.
    """
    u, near = _first_guess(target, below, above, low, high, params)
    origin = torch.where(near, low, 0.0)
    left, right = low - origin, high - origin
    log_w, _, scale = params
    alive = log_w > -math.inf
    # the step is of third order: once this short (in scales), it leaves nothing to mend
    short = 1e-6 * torch.where(alive, scale, math.inf).amin(-1)
    jump = torch.where(alive, scale, 0.0).amax(-1)
    noise = 4 * _ROUNDING * (1 + target.abs())  # of the error, in nats
    last = torch.full_like(u, math.inf)
    found, place = origin + u, torch.arange(u.numel(), device=u.device)
    for _ in range(_MAX_PASSES):
        y = origin + u
        # once y has more digits than y - low, it takes over
        away = torch.where(near & (u > y.abs()), origin, 0.0)
        u, left, right = u + away, left + away, right + away
        origin, near = origin - away, near & (away == 0)
        width = torch.where(near, u, y - low)
        error, move = _step(y, width, target, low, params)
        left, right = torch.where(error > 0, u, left), torch.where(error > 0, right, u)
        # bisection; towards an open end, strides that double
        goal = torch.where(right == math.inf, left + jump, 0.5 * left + 0.5 * right)
        goal = torch.where(left == -math.inf, right - jump, goal)
        # nothing known on the left yet: as if the cdf were straight
        first = near & (left == 0) & (error < 0)
        goal = torch.where(first, u * error.exp(), goal)
        size = move.abs()
        # a step that is NaN or does not halve gives way, and one far into the open
        good = (size <= 0.5 * last) & (u + move >= left) & (u + move <= right)
        good = good & ((right - left < math.inf) | (size <= _LEAP * jump))
        jump = 2 * jump
        goal = torch.where(good, u + move, goal)
        last = torch.where(good, size, right - left)
        spacing = _ROUNDING * y.abs()
        sure = (size <= spacing) & (error.abs() < 1) | (size <= short) & (error.abs() < 1e-5)
        settled = good & sure
        exact = error.abs() <= noise
        closed = right - left <= 2 * spacing
        found[place] = origin + torch.where(exact, u, goal)
        keep = (~(settled | exact | closed)).nonzero().squeeze(-1)
        if not keep.numel():
            break
        place, u, origin, near, target, noise, low, left, right, last, jump, short = (
            a[keep]
            for a in (
                *(place, goal, origin, near, target, noise),
                *(low, left, right, last, jump, short),
            )
        )
        params = params[0][keep], params[1][keep], params[2][keep]
    return found


def _first_guess(
    target: Tensor, below: Tensor, above: Tensor, low: Tensor, high: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    """Where to start, and whether that is y - low instead of y.

    A quantile of the whole mixture, if float64 can tell its level; else near an end.
    """
    log_w, loc, scale = params
    upper = below > above
    part, beyond = target.exp(), torch.minimum(below, above).exp()
    level = torch.where(upper, beyond - part, beyond + part).clamp(0.0, 1.0)
    sign = torch.where(upper, -1.0, 1.0).to(target)
    y = sign * mixture_icdf(level, log_w, loc * sign.unsqueeze(-1), scale)
    # next to what lies beyond the end, a small part is lost in rounding
    told = (part > 1e-8 * beyond) & (y > low) & (y < high)
    # near its lower end the cdf is straight, near its upper end an exponential if that is denser
    f_low, f_high = (_log_density(end, params) for end in (low, high))
    top = (low == -math.inf) | (f_high > f_low) & (high < math.inf)
    widest = torch.where(log_w > -math.inf, scale, 0.0).amax(-1)
    room = torch.where(high == math.inf, widest, 0.5 * high - 0.5 * low)
    rise = torch.minimum((target - f_low).exp(), room)
    y = torch.where(told, y, torch.where(top, high, low + rise))
    near = (y - low <= y.abs()) & (low > -math.inf)
    return torch.where(near, torch.where(told | top, y - low, rise), y), near


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

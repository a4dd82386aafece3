"""A mixture whose draws were rounded to a grid: probability masses; D = 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import constraints

from ..functional._checks import check_univariate, first_row
from ..functional._moments import rounded_moments
from ._base import MixtureDistribution
from ._continuous import ContinuousLaw
from ._gaussian_law import GaussianLaw, mean_and_variance
from ._lattice import LatticeLaw
from ._truncated import base_law

__all__ = ["DiscretizedMixture"]

_OFF_GRID = 1e-6  # in widths; y may be this far off its multiple, and the rounding of its dtype
_MOST_CELLS = 2000  # of a sum over cells; a grid that much finer than the law is as good as none


class DiscretizedMixture(MixtureDistribution):
    r"""A univariate mixture rounded to the nearest multiple of a width: probability masses.

    .. math::
        P(y) = \int_{y - w/2}^{y + w/2} p(t)\, dt, \qquad y \in w \mathbb Z

    A mass is at most 1, so the log likelihood of a rounded target is never above 0; the density of
    a mixture has no such bound, since its scale can shrink onto the repeated values.

    ``cdf``, ``log_cdf`` and ``log_sf`` take any number.  Region, CRPS and entropy are sums over the
    cells; if one of the rows spreads over more than 2000, they are those of the base, rounded,
    which is off by less than half a width.

    Args:
        base: a mixture with D = 1 and a density.
        width: distance of the grid points, in the unit of y.
        validate_args: check that y lies on the grid; default as in base.

    Raises:
        TypeError: width is not a number, or the base has probability masses.
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
        self, base: MixtureDistribution, width: float, *, validate_args: bool | None = None
    ) -> None:
        check_univariate("discretize", base.event_shape[0], ". Take one with .marginal(dims)")
        base_law(base, "discretize")
        try:
            width = float(width)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"width must be a number; got {type(width).__name__}") from None
        if not 0 < width < math.inf:
            raise ValueError(f"width must be positive and finite; got {width:g}")
        self._init_checked(
            base, width, base._validate_args if validate_args is None else bool(validate_args)
        )

    def _init_checked(self, base: MixtureDistribution, width: float, validate: bool) -> None:
        self.base, self.width = base, width
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self._validate_args = validate

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """The multiples of the width."""
        return _MultipleOf(self.width)

    @property
    def n_components(self) -> int:
        """Number of components K of the base."""
        return self.base.n_components

    def log_prob(self, y: Tensor | ArrayLike, *, missing: str = "refuse") -> Tensor:
        """Log probability in nats, (*), never above 0; y is (*, 1), multiples of the width.

        Args:
            y: targets in the unit of the distribution.
            missing: with ``"marginal"`` a y that is NaN counts 0.

        Raises:
            ValueError: a y off the grid by more than 1e-6 widths and the rounding of its dtype.
        """
        return super().log_prob(y, missing=missing)

    @property
    def _reference(self) -> Tensor:
        return self.base._reference

    def _law(self) -> _RoundedLaw:
        law = base_law(self.base, "discretize").in_float64()
        if isinstance(law, GaussianLaw):
            return _RoundedGaussianLaw(law, self.width)
        return _RoundedLaw(law, self.width)

    def _log_prob(self, y: Tensor) -> Tensor:
        place = y[..., 0].double()
        cell = (place / self.width).round()
        off = ~_near_grid(place / self.width, y.dtype)
        if self._validate_args and bool(off.any()):
            at = tuple(off.nonzero()[0].tolist())
            where = f" in {first_row(off)}" if at else ""
            raise ValueError(
                f"y must be a multiple of width {self.width:g}; got {place[at].item():g}{where}. "
                "Round it: (y / width).round() * width"
            )
        return self._law().cell_log_mass(cell)

    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Rounded draws of the base."""
        y = self.base._sample(shape, generator)
        return ((y.double() / self.width + 0.5).floor() * self.width).to(y.dtype)

    def _affine(self, shift: Tensor, scale: Tensor) -> DiscretizedMixture:
        c = scale.reshape(-1)[:1].abs()
        width = float(c) * self.width
        whole = _near_grid((shift / width).double(), shift.dtype)
        if not bool((scale.abs() == c).all()) or not bool(whole.all()):
            raise ValueError(
                "scale must be one number and shift a multiple of scale * width, or the values are "
                f"no multiples of a width; got scale {scale.tolist()} and shift {shift.tolist()} "
                f"for width {self.width:g}. Change the base, and discretize that"
            )
        return self._new(self.base.affine(shift, scale), width)

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> DiscretizedMixture:
        return self._new(self.base._map(f), self.width)

    def _cat(self, mixtures: Sequence[DiscretizedMixture], dim: int) -> DiscretizedMixture:
        widths = [m.width for m in mixtures]
        if len(set(widths)) > 1:
            raise ValueError(f"mixtures must be rounded to one width; got {widths}")
        return self._new(self.base.cat([m.base for m in mixtures], dim), self.width)

    def _new(self, base: MixtureDistribution, width: float) -> DiscretizedMixture:
        """One of checked parameters that validates its arguments if this one does."""
        new = DiscretizedMixture.__new__(DiscretizedMixture)
        new._init_checked(base, width, self._validate_args)
        return new

    def _named(self) -> dict[str, Tensor]:
        return {**self.base._named(), "width": torch.tensor(self.width, dtype=torch.float64)}

    def _repr(self) -> dict[str, str]:
        return {**self.base._repr(), "width": f"{self.width:g}"}


class _RoundedLaw(LatticeLaw):
    """A continuous law rounded to multiples of a width."""

    tail = 1e-10

    def __init__(self, base: ContinuousLaw, width: float) -> None:
        self.base, self.width, self.n_components = base, width, base.n_components

    def cell_at_most(self, y: Tensor) -> Tensor:
        ratio = y.double() / self.width
        return torch.where(_near_grid(ratio, y.dtype), ratio.round(), ratio.floor())

    def cell_log_mass(self, first: Tensor, last: Tensor | None = None) -> Tensor:
        last = first if last is None else last
        width = (last - first + 1.0) * self.width  # the difference of the ends may lose its digits
        return self.base.log_mass((first - 0.5) * self.width, (last + 0.5) * self.width, width)

    def cell_log_tails(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.log_tails((cell + 0.5) * self.width)

    def ends(self) -> tuple[Tensor, Tensor]:
        low, high = ((end / self.width).round() * self.width for end in self.base.ends())
        return low, high

    def cell_below(self, p: Tensor) -> Tensor:
        return (self.base.icdf(p) / self.width - 0.5).ceil() - 2.0

    def reaches(self, cell: Tensor, p: Tensor, given: torch.dtype) -> Tensor:
        """In the dtype of p, so that the quantile of a cdf is the cell that it came from."""
        return self.base.log_cdf((cell + 0.5) * self.width).exp().to(given) >= p.to(given)

    @torch.no_grad()
    def cells(self) -> tuple[Tensor, Tensor]:
        first, last = self._range()
        steps = torch.arange(int((last - first).max()) + 1, dtype=first.dtype, device=first.device)
        cell = first + steps.view(-1, *(1,) * first.ndim)
        return cell, cell <= last

    def mode_cells(self) -> tuple[Tensor, Tensor]:
        """Those around each mode of the density.

        A cell without a mode of the density lies on a slope, and the next one uphill is likelier,
        unless that has the mode: so each mode is next to a mode of the density or has one itself.
        """
        place = (self.base.modes()[0] / self.width).round().movedim(-1, 0)  # (K, *)
        place = torch.where(place.isnan(), place[:1], place)
        cell = torch.cat([place - 1, place, place + 1]).sort(dim=0).values
        return cell, torch.ones_like(cell, dtype=torch.bool)

    def masses(self, cell: Tensor, known: Tensor) -> Tensor:
        """Differences of the cdf."""
        edges = torch.cat([cell[:1] - 0.5, cell + 0.5]) * self.width
        return self.base.log_cdf(edges).exp().diff(dim=0).masked_fill(~known, 0.0)

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        if not self._is_fine():
            return super().hdr(coverage)
        intervals, log_level = self.base.hdr(coverage)
        return (intervals / self.width).round() * self.width, log_level + math.log(self.width)

    def crps(self, y: Tensor) -> Tensor:
        return self.base.crps(y.double()) if self._is_fine() else super().crps(y)

    def entropy(self) -> Tensor:
        return self.base.entropy() - math.log(self.width) if self._is_fine() else super().entropy()

    def moments(self) -> tuple[Tensor, Tensor]:
        if not self._is_fine():
            return super().moments()
        mean, variance = self.base.moments()
        return mean, variance + self.width**2 / 12  # Sheppard's correction

    @torch.no_grad()
    def _range(self) -> tuple[Tensor, Tensor]:
        """First and last cell of all but ``tail`` on each side, (*)."""
        one = torch.ones_like(self.base.ends()[0])
        low, high = (self.base.icdf(p * one) for p in (self.tail, 1.0 - self.tail))
        return (low / self.width).round(), (high / self.width).round()

    def _is_fine(self) -> bool:
        """Whether one of the rows spreads over too many cells for a sum."""
        first, last = self._range()
        return int((last - first).max()) >= _MOST_CELLS


class _RoundedGaussianLaw(_RoundedLaw):
    base: GaussianLaw

    def moments(self) -> tuple[Tensor, Tensor]:
        log_w, loc, scale = self.base.params()
        return mean_and_variance(log_w, rounded_moments(loc, scale, self.width))

    def log_cdf(self, y: Tensor) -> Tensor:
        return self.base.log_cdf((self.cell_at_most(y) + 0.5) * self.width)

    def log_sf(self, y: Tensor) -> Tensor:
        return self.base.log_sf((self.cell_at_most(y) + 0.5) * self.width)


class _MultipleOf(constraints.Constraint):
    """Events (*, 1) on the multiples of a width."""

    is_discrete = True
    event_dim = 1

    def __init__(self, width: float) -> None:
        self.width = width
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return _near_grid(value.double() / self.width, value.dtype).all(-1)


def _near_grid(ratio: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether y / width is a whole number, up to the tolerance and the rounding of y."""
    rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    return (ratio - ratio.round()).abs() <= _OFF_GRID + rounding * ratio.abs()

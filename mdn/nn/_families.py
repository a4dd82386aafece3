"""Families of components by name: from the raw output of a head to a distribution, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution
from torch.nn.functional import softplus

from ..distribution import Logistic
from ..standardization import standardization

__all__ = ["FAMILIES", "FIRST_SCALE", "MIN_SCALE", "Family", "inverse_softplus"]

MIN_SCALE = 1e-3
"""Default floor of the scales, in standard deviations of the target.

Without a floor the likelihood has no maximum: a component that sits on one point and narrows gains
density without end.  With this one a component can gain at most log(1000) = 6.9 nats a dimension.
"""
FIRST_SCALE = 0.1
"""Least initial scale, in standard deviations of y: a group of equal targets has 0."""

_FIRST_DF = 10.0  # initial degrees of freedom of a Student-t
_LEAST_COUNT = 0.1  # initial mean of a group of zeros
_LEAST_EXCESS = 0.05  # initial variance / mean - 1 of a negative binomial, at least

Floats = NDArray[np.float64]


class Parameter(NamedTuple):
    """A parameter of a family.

    Attributes:
        name: as the distribution names it.
        link: ``link(raw, floor)``, the parameter.
        inverse: ``inverse(value, floor)``, the raw number; the nearest one below the floor.
        in_units: ``in_units(value, shift, scale)``, the parameter of ``shift + scale * y``.
    """

    name: str
    link: Callable[[Tensor, float], Tensor] = lambda raw, floor: raw
    inverse: Callable[[Floats, float], Floats] = lambda value, floor: value
    in_units: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda value, shift, scale: value


class Family(NamedTuple):
    """How a head makes components of a family.

    Attributes:
        distribution: the class, which takes the parameters by name.
        parameters: P of them, in the order of the raw numbers.
        from_moments: parameters (K,) of components of mean and standard deviation (K,).
        units: the changes of unit that give the family again: ``"affine"``, ``"scale"`` (by a
            factor alone) or ``"none"``.
        targets: where y may lie: ``"real"``, ``"positive"``, ``"unit"`` or ``"count"``.
    """

    distribution: Callable[..., Distribution]
    parameters: tuple[Parameter, ...]
    from_moments: Callable[[Floats, Floats], tuple[Floats, ...]]
    units: str = "affine"
    targets: str = "real"

    def build(
        self,
        *raw: Tensor,
        floor: float = MIN_SCALE,
        units: tuple[Tensor, Tensor] | None = None,
    ) -> Distribution:
        """The components of batch (*, K) of P raw tensors (*, K), in units (shift, scale) of y."""
        values = {p.name: p.link(a, floor) for p, a in zip(self.parameters, raw, strict=True)}
        if units is not None:
            values = {p.name: p.in_units(values[p.name], *units) for p in self.parameters}
        # in range unless training diverged, which the loss shows
        return self.distribution(**values, validate_args=False)

    def start(
        self, mean: Floats, std: Floats, spread: float, floor: float, size: Tensor | None = None
    ) -> list[Floats]:
        """Raw numbers, P of (K,), of components of these moments.

        Args:
            mean, std: of K groups of targets.
            spread: standard deviation of all targets.
            floor: of the scales.
            size: of counts, whose parameters are in this unit, (1,); None for 1.
        """
        if self.targets == "count":
            mean = np.maximum(mean, _LEAST_COUNT)
        relative = self.targets in ("positive", "count")
        std = np.maximum(std, np.maximum(FIRST_SCALE * (mean if relative else spread), floor))
        values = self.from_moments(mean, std)
        if size is not None:
            values = tuple(
                p.in_units(torch.as_tensor(a), torch.zeros_like(size), size.reciprocal()).numpy()
                for p, a in zip(self.parameters, values, strict=True)
            )
        return [p.inverse(a, floor) for p, a in zip(self.parameters, values, strict=True)]

    def standardization(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale of y (N, 1), in float64, by a change of unit that the family allows."""
        if self.units == "affine":
            return standardization(y)
        y = y.detach().double()
        scale = y.log().mean(0).exp() if self.units == "scale" else torch.ones_like(y[0])
        return torch.zeros_like(scale), scale

    def unit_of_parameters(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale, (1,), of the parameters for y (N, 1), in float64.

        Counts are not standardised, but their parameters are: in the unit of their mean.
        """
        shift, scale = self.standardization(y)
        if self.targets == "count":
            scale = y.detach().double().mean(0).clamp(min=_LEAST_COUNT)
        return shift, scale

    def check_targets(self, name: str, y: Tensor) -> None:
        """Raises ValueError where y, (N, 1), lies outside the range of this family."""
        need, good = {
            "real": ("y to be a number", y == y),
            "positive": ("y above 0", y > 0),
            "unit": ("y between 0 and 1, without these", (y > 0) & (y < 1)),
            "count": ("whole numbers y from 0 on", (y >= 0) & (y == y.round())),
        }[self.targets]
        if not bool(good.all()):
            row = int((~good).flatten().nonzero()[0])
            raise ValueError(
                f"family={name!r} needs {need}; row {row} is {float(y[row]):g}: transform y, or "
                "take another family, such as 'gaussian'"
            )


def inverse_softplus(value: Floats, floor: float = 0.0) -> Floats:
    """The raw number of softplus ``value - floor``; that of 1e-6 for less: it does not reach 0."""
    value = np.maximum(value - floor, 1e-6)
    raw: Floats = value + np.log(-np.expm1(-value))
    return raw


# -- parameters, by their link and their unit -------------------------------------------------


def _positive(raw: Tensor, floor: float) -> Tensor:
    return softplus(raw) + floor


_LOC = Parameter("loc", in_units=lambda m, shift, scale: shift + scale * m)
_LOG_LOC = Parameter("loc", in_units=lambda m, shift, scale: m + scale.log())
_ANGLE = Parameter("loc")
_LOGITS = Parameter("logits", in_units=lambda v, shift, scale: v + scale.log())
_SCALE = Parameter("scale", _positive, inverse_softplus, lambda s, shift, scale: scale * s)
_LOG_SCALE = Parameter("scale", _positive, inverse_softplus)
_GAMMA_RATE = Parameter("rate", _positive, inverse_softplus, lambda r, shift, scale: r / scale)
_RATE = Parameter("rate", _positive, inverse_softplus, lambda r, shift, scale: scale * r)
# above 2, so that the variance is finite
_DF = Parameter("df", lambda a, f: 2.0 + _positive(a, f), lambda v, f: inverse_softplus(v - 2.0, f))
# the floor is one of the width, in radians
_WIDTH = Parameter(
    "concentration",
    lambda a, f: _positive(a, f) ** -2.0,
    lambda v, f: inverse_softplus(v**-0.5, f),
)
_SHAPE, _SHAPE_1, _SHAPE_0, _COUNT = (
    Parameter(name, _positive, inverse_softplus)
    for name in ("concentration", "concentration1", "concentration0", "total_count")
)


# -- parameters from mean m and standard deviation s ------------------------------------------


def _log_normal(m: Floats, s: Floats) -> tuple[Floats, ...]:
    variance = np.log1p((s / m) ** 2)
    return np.log(m) - variance / 2, np.sqrt(variance)


def _beta(m: Floats, s: Floats) -> tuple[Floats, ...]:
    total = np.maximum(m * (1 - m) / s**2 - 1, 1.0)
    return m * total, (1 - m) * total


def _weibull(m: Floats, s: Floats) -> tuple[Floats, ...]:
    shape = (s / m) ** -1.086  # C. G. Justus et al., J. Appl. Meteorology 17 (1978) 350
    return m / gamma(1 + 1 / shape), shape


def _negative_binomial(m: Floats, s: Floats) -> tuple[Floats, ...]:
    odds = np.maximum(s**2 / m - 1, _LEAST_EXCESS)
    return m / odds, np.log(odds)


def _student_t(m: Floats, s: Floats) -> tuple[Floats, ...]:
    return np.full_like(m, _FIRST_DF), m, s * math.sqrt(1 - 2 / _FIRST_DF)


FAMILIES: dict[str, Family] = {
    "student_t": Family(td.StudentT, (_DF, _LOC, _SCALE), _student_t),
    "laplace": Family(td.Laplace, (_LOC, _SCALE), lambda m, s: (m, s / math.sqrt(2))),
    "logistic": Family(Logistic, (_LOC, _SCALE), lambda m, s: (m, s * math.sqrt(3) / math.pi)),
    "log_normal": Family(td.LogNormal, (_LOG_LOC, _LOG_SCALE), _log_normal, "scale", "positive"),
    "gamma": Family(
        td.Gamma, (_SHAPE, _GAMMA_RATE), lambda m, s: ((m / s) ** 2, m / s**2), "scale", "positive"
    ),
    "beta": Family(td.Beta, (_SHAPE_1, _SHAPE_0), _beta, "none", "unit"),
    "weibull": Family(td.Weibull, (_SCALE, _SHAPE), _weibull, "scale", "positive"),
    "von_mises": Family(td.VonMises, (_ANGLE, _WIDTH), lambda m, s: (m, s**-2.0), "none"),
    "negative_binomial": Family(
        td.NegativeBinomial, (_COUNT, _LOGITS), _negative_binomial, "none", "count"
    ),
    "poisson": Family(td.Poisson, (_RATE,), lambda m, s: (m,), "none", "count"),
}
"""Families by name.

Positive parameters are ``softplus(raw) + floor``; means, the log-normal's ``loc`` and the logits of
the negative binomial are the raw numbers themselves.
"""

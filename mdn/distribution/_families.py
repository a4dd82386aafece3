"""A logistic distribution and a point mass, which torch lacks, and families by name for heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

__all__ = ["FAMILIES", "Family", "Logistic", "LogitNormal", "PointMass"]

# -- families that torch does not have --------------------------------------------------------


class Logistic(Distribution):
    r"""Logistic distribution: :math:`p(y) = \frac{1}{4 s} \operatorname{sech}^2\frac{y - m}{2 s}`.

    Args:
        loc: mean m, (*), in the unit of y.
        scale: s, (*), positive, in the unit of y; the standard deviation is
            :math:`\pi s / \sqrt 3`.
        validate_args: as in torch.distributions.

    Example:
        >>> Logistic(torch.tensor(0.0), torch.tensor(1.0)).cdf(torch.tensor(1.0))
        tensor(0.7311)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.distributions.utils.broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, (*)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """Mode, (*)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance, (*), squared unit of y."""
        return (self.scale * (math.pi / math.sqrt(3.0))).square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        size = ((value - self.loc) / self.scale).abs()
        return -size - 2.0 * torch.log1p(torch.exp(-size)) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile."""
        return self.loc + self.scale * torch.logit(value)

    def entropy(self) -> Tensor:
        """Entropy in nats."""
        return self.scale.log() + 2.0

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that carry the gradient of loc and scale."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.icdf(u.clamp(min=torch.finfo(u.dtype).tiny))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Logistic:
        """The same distributions under a larger batch shape."""
        return Logistic(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False
        )


class _Only(constraints.Constraint):
    """One value, the same or one an entry."""

    is_discrete = True

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def check(self, value: Tensor) -> Tensor:
        return value == self.value


class LogitNormal(Distribution):
    r"""Law of a number between 0 and 1 whose logit is Gaussian.

    .. math:: p(y) = \frac{\phi((\mathrm{logit}(y) - m) / s)}{s\, y (1 - y)}

    Mean and variance have no closed form and are taken by quadrature.

    Args:
        loc: m, mean of the logit, (*).
        scale: s, standard deviation of the logit, (*), positive.
        validate_args: as in torch.distributions.

    Example:
        >>> LogitNormal(torch.tensor(0.0), torch.tensor(1.0)).mean
        tensor(0.5000)

    References:
        J. Aitchison, S. M. Shen, Logistic-normal distributions, Biometrika 67 (1980) 261-272.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.distributions.utils.broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def _z(self, value: Tensor) -> Tensor:
        return (torch.logit(value) - self.loc) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (*)."""
        z = self._z(value)
        inside = value.log() + torch.log1p(-value)
        return -0.5 * z * z - 0.5 * math.log(2 * math.pi) - self.scale.log() - inside

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of at most ``value``, (*)."""
        return torch.special.ndtr(self._z(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles, (*)."""
        return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(value))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws, sample_shape + (*)."""
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.sigmoid(self.loc + self.scale * noise)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogitNormal:
        """The same under a larger batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return LogitNormal(loc, scale, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean, (*)."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance, (*)."""
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        # trapezoids over the noise: the integrand is smooth and dies out, so they converge fast
        at = torch.linspace(-9, 9, 401, dtype=torch.float64, device=self.loc.device)
        weight = torch.exp(-0.5 * at * at)
        weight = weight / weight.sum()
        loc, scale = self.loc.double().unsqueeze(-1), self.scale.double().unsqueeze(-1)
        y = torch.sigmoid(loc + scale * at)
        mean = (weight * y).sum(-1)
        variance = (weight * (y - mean.unsqueeze(-1)).square()).sum(-1)
        return mean.to(self.loc.dtype), variance.to(self.loc.dtype)


class PointMass(Distribution):
    """All the probability at one point: P(Y = loc) = 1.

    Its density is with respect to the counting measure: 1 at ``loc``, compared for exact equality
    in the dtype of y, and 0 elsewhere.

    Args:
        loc: the point, (*), in the unit of y.
        validate_args: as in torch.distributions.

    Example:
        >>> PointMass(torch.tensor(0.0)).log_prob(torch.tensor([0.0, 0.1]))
        tensor([0., -inf])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real}

    def __init__(self, loc: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.loc = torch.as_tensor(loc)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The one point."""
        return _Only(self.loc)

    @property
    def mean(self) -> Tensor:
        """The point, (*)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The point, (*)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Zero, (*)."""
        return torch.zeros_like(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at the point, ``-inf`` elsewhere (also with validate_args: nothing is refused)."""
        value, loc = torch.broadcast_tensors(value, self.loc)
        return torch.where(value == loc, 0.0, -math.inf).to(loc.dtype)

    def cdf(self, value: Tensor) -> Tensor:
        """1 from the point on."""
        return (value >= self.loc).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Zero: of a probability mass."""
        return torch.zeros_like(self.loc)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The point, again and again."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """The same points under a larger batch shape."""
        return PointMass(self.loc.expand(batch_shape), validate_args=False)


# -- from the raw output of a network to a family ---------------------------------------------


class Family(NamedTuple):
    """How a head makes a family.

    Attributes:
        n_parameters: how many raw tensors ``build`` takes.
        names: what they become, in this order.
        build: ``build(*raw, floor=1e-3)``: raw tensors (*, K) to a torch distribution of batch
            (*, K).
    """

    n_parameters: int
    names: tuple[str, ...]
    build: Callable[..., Distribution]


def _family(names: str, build: Callable[..., Distribution]) -> Family:
    parts = tuple(names.split())
    return Family(len(parts), parts, build)


def _positive(raw: Tensor, floor: float) -> Tensor:
    return softplus(raw) + floor


_FLOOR = 1e-3
# y is standardised where there is a scale, so this is a thousandth of the spread of the data

# what a head makes is in range, unless training blew up, which is for the loss to tell
FAMILIES: dict[str, Family] = {
    "student_t": _family(
        "df loc scale",
        lambda a, b, c, floor=_FLOOR: td.StudentT(
            2.0 + _positive(a, floor), b, _positive(c, floor), validate_args=False
        ),
    ),
    "laplace": _family(
        "loc scale",
        lambda a, b, floor=_FLOOR: td.Laplace(a, _positive(b, floor), validate_args=False),
    ),
    "logistic": _family(
        "loc scale",
        lambda a, b, floor=_FLOOR: Logistic(a, _positive(b, floor), validate_args=False),
    ),
    "log_normal": _family(
        "loc scale",
        lambda a, b, floor=_FLOOR: td.LogNormal(a, _positive(b, floor), validate_args=False),
    ),
    "gamma": _family(
        "concentration rate",
        lambda a, b, floor=_FLOOR: td.Gamma(
            _positive(a, floor), _positive(b, floor), validate_args=False
        ),
    ),
    "beta": _family(
        "concentration1 concentration0",
        lambda a, b, floor=_FLOOR: td.Beta(
            _positive(a, floor), _positive(b, floor), validate_args=False
        ),
    ),
    "weibull": _family(
        "scale concentration",
        lambda a, b, floor=_FLOOR: td.Weibull(
            _positive(a, floor), _positive(b, floor), validate_args=False
        ),
    ),
    "von_mises": _family(
        "loc concentration",
        lambda a, b, floor=_FLOOR: td.VonMises(a, _positive(b, floor) ** -2.0, validate_args=False),
    ),
    "negative_binomial": _family(
        "total_count logits",
        lambda a, b, floor=_FLOOR: td.NegativeBinomial(
            _positive(a, floor), logits=b, validate_args=False
        ),
    ),
    "poisson": _family(
        "rate", lambda a, floor=_FLOOR: td.Poisson(_positive(a, floor), validate_args=False)
    ),
}
"""Families by name, for heads.

Positive parameters are ``softplus(raw) + floor``; means, the log-normal's ``loc`` and the logits of
the negative binomial are the raw numbers.  The degrees of freedom of the Student-t are that plus 2,
so that the variance is finite; the concentration of the von Mises is that to the power -2, so that
the floor is one of its width, in radians.  Without a floor the likelihood has no maximum.
"""

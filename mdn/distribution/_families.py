"""Logistic, logit-normal and point mass, which torch lacks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..functional._numerics import HALF_LOG_2PI

__all__ = ["Logistic", "LogitNormal", "PointMass"]

_REACH = 9.0  # in standard deviations; beyond, a Gaussian has 2e-19 of its probability
_LEAST_STEP = 0.01  # of a quadrature over a Gaussian, in standard deviations


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
        """Draws, differentiable in loc and scale."""
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

    .. math:: p(y) = \frac{\varphi(z)}{s\, y (1 - y)}, \qquad z = \frac{\mathrm{logit}(y) - m}{s}

    It vanishes at 0 and at 1.  Mean and variance have no closed form: by quadrature, to rounding
    for s up to 50.

    Args:
        loc: m, mean of the logit, (*).
        scale: s, standard deviation of the logit, (*), positive.
        validate_args: as in torch.distributions.

    Example:
        >>> LogitNormal(torch.tensor(1.0), torch.tensor(0.5)).mean
        tensor(0.7206)

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

    @property
    def mean(self) -> Tensor:
        """Mean, (*)."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance, (*)."""
        return self._moments()[1]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats; ``-inf`` at 0 and at 1."""
        if self._validate_args:
            self._validate_sample(value)
        inside = (value > 0) & (value < 1)
        y = torch.where(inside, value, 0.5)  # elsewhere the gradient would be NaN
        z = (torch.logit(y) - self.loc) / self.scale
        jacobian = y.log() + torch.log1p(-y)
        log_p = -0.5 * z * z - HALF_LOG_2PI - self.scale.log() - jacobian
        return torch.where(inside, log_p, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """P(Y <= value)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.special.ndtr((torch.logit(value) - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile."""
        return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(value))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, never 0 or 1, differentiable in loc and scale."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        y = torch.sigmoid(self.loc + self.scale * noise)
        limits = torch.finfo(y.dtype)
        return y.clamp(min=limits.tiny, max=1.0 - 0.5 * limits.eps)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogitNormal:
        """The same distributions under a larger batch shape."""
        return LogitNormal(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False
        )

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance by the trapezoidal rule over the noise t, in y = sigmoid(m + s t).

        Its error is exp(-2 pi^2 / h^2) for the Gaussian and exp(-2 pi^2 / (s h)) for the sigmoid,
        whose poles are at a distance of pi / s: h = 1/2 is enough up to s = 1, h = 1/(2 s) beyond.
        """
        loc, scale = self.loc.double(), self.scale.double()
        widest = float(scale.detach().max()) if scale.numel() else 1.0
        step = max(0.5 / max(1.0, widest), _LEAST_STEP)
        count = math.ceil(_REACH / step)
        upper = loc > 0
        near = torch.where(upper, -loc, loc)  # of 1 - y if y is near 1, where that has the digits
        pivot = torch.sigmoid(near)
        first, second = torch.zeros_like(near), torch.zeros_like(near)
        for i in range(-count, count + 1):
            t = i * step
            weight = step * math.exp(-0.5 * t * t - HALF_LOG_2PI)
            apart = torch.sigmoid(near + scale * t) - pivot
            first = first + weight * apart
            second = second + weight * apart.square()
        mean = pivot + first
        mean = torch.where(upper, 1.0 - mean, mean)
        return mean.to(self.loc.dtype), (second - first.square()).to(self.loc.dtype)


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
        """Copies of the point."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """The same points under a larger batch shape."""
        return PointMass(self.loc.expand(batch_shape), validate_args=False)

r"""Simulated data with known density p(y|x), so that the regret of an estimate can be computed.

::

    simulator = ArmaJump()
    X, y = simulator.sample(1000, random_state=0)  # (N, F) and (N,)
    simulator.log_prob(X, y)  # (N,) log p(y|x), nats in y's unit
    simulator.cdf(X, y)  # (N,) P(Y <= y | x)

The regret of an estimate q is :math:`E[\log p(y|x) - \log q(y|x)]` in nats: the mean
Kullback-Leibler divergence, 0 for the truth and for nothing else.

The processes are those of Rothfuss et al. (2019) and of the library ``cde`` that goes with it, with
its default parameters; each class states where it differs.  Rows are independent.

References:
    J. Rothfuss, F. Ferreira, S. Walther, M. Ulrich, Conditional Density Estimation with Neural
    Networks: Best Practices and Benchmarks, arXiv 1903.00954 (2019).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_ndtr, ndtr, owens_t, softmax
from torch.distributions import StudentT

from .arguments import check_integer, check_seed
from .distribution import GaussianMixture, Mixture

__all__ = [
    "ArmaJump",
    "EconDensity",
    "GaussianMixtureDensity",
    "LinearGaussian",
    "LinearStudentT",
    "Simulator",
    "SkewNormal",
]

Floats = NDArray[np.float64]
_LOG_DENSITY_AT_0 = -0.5 * np.log(2 * np.pi)  # of the standard normal


class Simulator(ABC):
    """A joint law of features x and one target y whose p(y|x) is known.

    Attributes:
        n_features: F.
    """

    n_features: ClassVar[int] = 1

    def sample(
        self, n: int, random_state: int | np.random.Generator | None = None
    ) -> tuple[Floats, Floats]:
        """Draws n independent rows: X (n, F) and y (n,).

        Args:
            n: rows.
            random_state: seed or ``numpy.random.Generator``; None for fresh entropy.

        Raises:
            TypeError, ValueError: n is not an integer of at least 1.
        """
        check_integer("n", n)
        check_seed("random_state", random_state)
        rng = np.random.default_rng(random_state)
        X = self._features(int(n), rng)
        return X, self._targets(X, rng)

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Returns the true log p(y|x) of each row, (N,), nats in y's unit.

        Args:
            X: features, (N, F).
            y: targets, (N,).

        Raises:
            ValueError: X or y of another shape.
        """
        return self._log_prob(*self._checked(X, y))

    def cdf(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Returns the true P(Y <= y | x) of each row, (N,); arguments as in :meth:`log_prob`."""
        return self._cdf(*self._checked(X, y))

    @abstractmethod
    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        """Draws of x, (n, F)."""

    @abstractmethod
    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        """A draw of y for each row, (n,)."""

    @abstractmethod
    def _log_prob(self, X: Floats, y: Floats) -> Floats: ...

    @abstractmethod
    def _cdf(self, X: Floats, y: Floats) -> Floats: ...

    def _rows(self, X: ArrayLike) -> Floats:
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"X must have shape (N, {self.n_features}); got {X.shape}")
        return X

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        X, y = self._rows(X), np.asarray(y, dtype=np.float64)
        if y.shape != (len(X),):
            raise ValueError(f"y must have shape ({len(X)},), one number a row of X; got {y.shape}")
        return X, y

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _MixtureSimulator(Simulator):
    """A simulator whose p(y|x) is a mixture."""

    def distribution(self, X: ArrayLike) -> Any:
        """Returns p(y|x) as a mixture of batch (N,) and event (1,), float64; X (N, F)."""
        return self._distribution(self._rows(X))

    @abstractmethod
    def _distribution(self, X: Floats) -> GaussianMixture | Mixture: ...

    def _log_prob(self, X: Floats, y: Floats) -> Floats:
        return self._distribution(X).log_prob(torch.from_numpy(y[:, None])).numpy()

    def _cdf(self, X: Floats, y: Floats) -> Floats:
        return self._distribution(X).cdf(torch.from_numpy(y[:, None])).numpy()


class EconDensity(_MixtureSimulator):
    r"""A parabola whose noise grows with x: one feature, positive, half normal.

    .. math::
        x = |\epsilon|, \quad \epsilon \sim \mathcal N(0, 1), \qquad
        y \,|\, x \sim \mathcal N(x^2, (1 + x)^2)

    Example:
        >>> print(f"{EconDensity().log_prob([[1.0]], [1.0])[0]:.4f} nats at the mean, width 2")
        -1.6121 nats at the mean, width 2
    """

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        return np.abs(rng.standard_normal((n, 1)))

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        x = X[:, 0]
        return x**2 + (1 + x) * rng.standard_normal(len(x))

    def _distribution(self, X: Floats) -> GaussianMixture:
        return _gaussians(np.ones((len(X), 1)), X**2, 1 + X)


class ArmaJump(_MixtureSimulator):
    r"""The next value of an autoregressive series with occasional jumps down.

    .. math::
        y = c (1 - a) + a x + (1 - z) s \epsilon + z (-3 c + 2 s \epsilon), \qquad
        z \sim \mathrm{Bernoulli}(q), \; \epsilon \sim \mathcal N(0, 1)

    with c = 0.1, a = 0.9, s = 0.05, q = 0.05; so p(y|x) is a mixture of two Gaussians, the lower
    one of weight q.  The feature x is the previous value, in its stationary law: rows come from
    independent series of 200 steps each (their start 0 has a share of 0.9^200 = 7e-10 in x), where
    the paper takes successive pairs of one series.

    Example:
        >>> ArmaJump().distribution([[0.1]]).weights
        tensor([[0.9500, 0.0500]], dtype=torch.float64)
    """

    _C, _A, _S, _Q = 0.1, 0.9, 0.05, 0.05
    _STEPS = 200

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        X = np.zeros((n, 1))
        for _ in range(self._STEPS):
            X = self._targets(X, rng)[:, None]
        return X

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        noise = self._S * rng.standard_normal(len(X))
        jumps = rng.random(len(X)) < self._Q
        return self._mean_without_jump(X)[:, 0] + np.where(jumps, -3 * self._C + 2 * noise, noise)

    def _mean_without_jump(self, X: Floats) -> Floats:
        return self._C * (1 - self._A) + self._A * X

    def _distribution(self, X: Floats) -> GaussianMixture:
        loc = self._mean_without_jump(X) + np.array([0.0, -3 * self._C])  # (N, 2)
        return _gaussians(np.array([1 - self._Q, self._Q]), loc, self._S * np.array([1.0, 2.0]))


class GaussianMixtureDensity(_MixtureSimulator):
    r"""Five Gaussians in the plane of x and y with axes along x and y.

    .. math::
        p(x, y) = \sum_k w_k \, \mathcal N(x; \mu_k, \sigma_k^2) \, \mathcal N(y; m_k, s_k^2),
        \qquad p(y|x) = \sum_k \pi_k(x) \, \mathcal N(y; m_k, s_k^2), \quad
        \pi_k(x) \propto w_k \, \mathcal N(x; \mu_k, \sigma_k^2)

    The paper draws the parameters: weights from U(0, 1), centres from N(0, 1.5^2), variances as the
    absolute value of a draw from N(1, 0.5^2).  Here they are one such draw, rounded (one weight so
    that they sum to 1) and fixed: p(y|x) has two modes for x up to 1 and one beyond.

    Example:
        >>> GaussianMixtureDensity().distribution([[-1.0]]).modes().loc[0, :2, 0]
        tensor([ 0.5700, -3.0362], dtype=torch.float64)
    """

    _W = np.array([0.27, 0.09, 0.19, 0.23, 0.22])
    _X_LOC = np.array([-0.68, 0.38, -1.29, 2.12, 3.78])
    _X_SCALE = np.array([1.07, 1.30, 1.34, 1.05, 1.47])
    _Y_LOC = np.array([0.65, -0.59, -3.05, -0.07, 1.24])
    _Y_SCALE = np.array([0.82, 0.86, 0.89, 0.49, 0.98])

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        k = rng.choice(len(self._W), size=n, p=self._W)
        return (self._X_LOC[k] + self._X_SCALE[k] * rng.standard_normal(n))[:, None]

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        # component of each row: the first whose cumulative weight exceeds a uniform number
        u = rng.random((len(X), 1))
        k = (u > self._weights(X).cumsum(axis=1)[:, :-1]).sum(axis=1)
        return self._Y_LOC[k] + self._Y_SCALE[k] * rng.standard_normal(len(X))

    def _weights(self, X: Floats) -> Floats:
        """pi_k(x), (N, K)."""
        z = (X - self._X_LOC) / self._X_SCALE
        return softmax(np.log(self._W / self._X_SCALE) - 0.5 * z**2, axis=1)

    def _distribution(self, X: Floats) -> GaussianMixture:
        return _gaussians(self._weights(X), self._Y_LOC, self._Y_SCALE)


class SkewNormal(Simulator):
    r"""A skew normal whose location, scale and skewness depend on x: one feature.

    .. math::
        x \sim \mathcal N(0, 0.5^2), \qquad
        p(y|x) = \frac{2}{\omega} \, \varphi(z) \, \Phi(\alpha z), \quad z = \frac{y - \xi}{\omega}

        \xi = 0.1 x, \qquad \omega = 0.05 + 0.1 x^2, \qquad
        \alpha = -4 + 3.9 / (1 + e^{-x})

    The cdf is :math:`\Phi(z) - 2 T(z, \alpha)` with Owen's T.  It is not a mixture, so there
    is no ``distribution``.

    Example:
        >>> print(f"{SkewNormal().cdf([[0.0]], [0.0])[0]:.4f} of the mass is below 0")
        0.8555 of the mass is below 0

    References:
        A. Azzalini, A class of distributions which includes the normal ones, Scand. J. Stat. 12
        (1985) 171-178.
    """

    def _parameters(self, X: Floats) -> tuple[Floats, Floats, Floats]:
        x = X[:, 0]
        return 0.1 * x, 0.05 + 0.1 * x**2, -4 + 3.9 * expit(x)

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        return 0.5 * rng.standard_normal((n, 1))

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        loc, scale, skew = self._parameters(X)
        # delta |u| + sqrt(1 - delta^2) v of two standard normals, delta = skew / sqrt(1 + skew^2)
        u, v = rng.standard_normal((2, len(X)))
        return loc + scale * (skew * np.abs(u) + v) / np.sqrt(1 + skew**2)

    def _log_prob(self, X: Floats, y: Floats) -> Floats:
        loc, scale, skew = self._parameters(X)
        z = (y - loc) / scale
        return np.log(2 / scale) + _LOG_DENSITY_AT_0 - 0.5 * z**2 + log_ndtr(skew * z)

    def _cdf(self, X: Floats, y: Floats) -> Floats:
        loc, scale, skew = self._parameters(X)
        z = (y - loc) / scale
        return np.clip(ndtr(z) - 2 * owens_t(z, skew), 0.0, 1.0)  # the difference may round below 0


class LinearStudentT(_MixtureSimulator):
    r"""Heavy tails: location, scale and degrees of freedom depend on the mean of ten features.

    .. math::
        x \sim \mathcal N(0, I_{10}), \qquad y \,|\, x \sim t_\nu(\mu, s), \quad
        \mu = 0.005 \, \bar x, \quad s = 0.01 + 0.002 \, \overline{|x|}, \quad
        \nu = 2 + 8 / (1 + e^{2 \bar x})

    where the bar is the mean over the features.  For most x, nu lies between 4 and 8: y is of the
    order of 0.01, with power-law tails.

    Example:
        >>> print(f"{LinearStudentT().log_prob(np.zeros((1, 10)), [0.0])[0]:.4f} nats: small unit")
        3.6448 nats: small unit
    """

    n_features: ClassVar[int] = 10

    def _parameters(self, X: Floats) -> tuple[Floats, Floats, Floats]:
        """Degrees of freedom, location and scale, (N, 1) each."""
        mean = X.mean(axis=1, keepdims=True)
        width = 0.01 + 0.002 * np.abs(X).mean(axis=1, keepdims=True)
        return 2 + 8 * expit(-2 * mean), 0.005 * mean, width

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.standard_normal((n, self.n_features))

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        dof, loc, scale = self._parameters(X)
        return (loc + scale * rng.standard_t(dof))[:, 0]

    def _distribution(self, X: Floats) -> Mixture:
        dof, loc, scale = (torch.from_numpy(a) for a in self._parameters(X))
        return Mixture(torch.zeros_like(loc), StudentT(dof, loc, scale))


class LinearGaussian(_MixtureSimulator):
    r"""A line with noise that grows with x: the easy case of one Gaussian.

    .. math::
        x \sim U(-1, 1), \qquad y \,|\, x \sim \mathcal N(0.005 x, (0.01 + 0.002 x)^2)

    Example:
        >>> X, y = LinearGaussian().sample(4, random_state=0)
        >>> X.shape, y.shape
        ((4, 1), (4,))
    """

    def _features(self, n: int, rng: np.random.Generator) -> Floats:
        return rng.uniform(-1, 1, size=(n, 1))

    def _targets(self, X: Floats, rng: np.random.Generator) -> Floats:
        x = X[:, 0]
        return 0.005 * x + (0.01 + 0.002 * x) * rng.standard_normal(len(x))

    def _distribution(self, X: Floats) -> GaussianMixture:
        return _gaussians(np.ones((len(X), 1)), 0.005 * X, 0.01 + 0.002 * X)


def _gaussians(weights: Floats, loc: Floats, scale: Floats) -> GaussianMixture:
    """A mixture from arrays that broadcast to (N, K)."""
    with np.errstate(divide="ignore"):  # a weight that underflows is switched off
        arrays = np.broadcast_arrays(np.log(weights), loc, scale)
    logits, centre, width = (torch.from_numpy(a.copy()) for a in arrays)
    return GaussianMixture(logits, centre[..., None], width[..., None])

"""The registry of mixtures that the tests of distributions walk, and that of bad ones.

An example is a distribution and, where it has one target, the same law made of SciPy's: a new
family, covariance or kind of mixture is tested by a row more in ``EXAMPLES``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Distribution,
    Exponential,
    FisherSnedecor,
    Gamma,
    Geometric,
    Gumbel,
    HalfNormal,
    Independent,
    InverseGamma,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Pareto,
    Poisson,
    StudentT,
    TransformedDistribution,
    VonMises,
    Weibull,
)
from torch.distributions.transforms import AffineTransform, ExpTransform

from mdn.distribution import (
    AtomicMixture,
    DiscretizedMixture,
    GaussianMixture,
    Logistic,
    LogitNormal,
    Mixture,
    MixtureDistribution,
    PointMass,
    TruncatedMixture,
)

__all__ = [
    "BAD_EXAMPLES",
    "EXAMPLES",
    "LogitNormalLaw",
    "MIXTURES",
    "SEVERAL",
    "UNIVARIATE",
    "Bad",
    "Example",
    "Law",
    "Parameters",
    "t",
]

INF = math.inf
S = scipy.stats
Floats = NDArray[np.float64]


def t(*values: Any) -> Tensor:
    """The numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


class Parameters(NamedTuple):
    """A mixture in float64: logits (*, K), loc and scale (*, K, D)."""

    logits: torch.Tensor
    loc: torch.Tensor
    scale: torch.Tensor


def _parameters(logits: list, loc: list, scale: list) -> Parameters:
    return Parameters(*(torch.tensor(v, dtype=torch.float64) for v in (logits, loc, scale)))


def _batch(*shape: int) -> Parameters:
    """Unlike rows with no randomness: the fractional parts of multiples of irrational numbers."""

    def spread(size: tuple[int, ...], step: float) -> torch.Tensor:
        return (step * torch.arange(1, 1 + math.prod(size), dtype=torch.float64) % 1).view(size)

    return Parameters(
        4 * spread(shape[:-1], math.sqrt(2)) - 2,
        6 * spread(shape, math.sqrt(3)) - 3,
        0.3 + 1.5 * spread(shape, math.sqrt(5)),
    )


MIXTURES: dict[str, Parameters] = {
    "one component": _parameters([0.3], [[1.5]], [[0.7]]),
    "two modes": _parameters([0.0, 0.7], [[-2.0], [2.0]], [[0.6], [0.9]]),
    "overlapping": _parameters([0.1, -0.4, 0.8], [[-0.5], [0.2], [1.0]], [[1.0], [0.4], [1.7]]),
    "identical": _parameters([0.0, 0.0, 0.0], [[0.4]] * 3, [[1.3]] * 3),
    "narrow inside wide": _parameters([-2.0, 2.0], [[0.3], [0.0]], [[1e-3], [2.0]]),
    "narrow": _parameters([0.0, 0.5], [[-1.0], [1.0]], [[1e-6], [1e-5]]),
    "far": _parameters([0.5, -0.5], [[-1e6], [1e6]], [[1.0], [3.0]]),
    "large offset": _parameters([0.0, 1.0], [[1e8], [1e8 + 3.0]], [[1.0], [0.5]]),
    "wide": _parameters([0.0, 1.0], [[-1e5], [2e5]], [[3e5], [1e5]]),
    "zero weight": _parameters([0.0, -INF, 1.0], [[-1.0], [50.0], [2.0]], [[0.5], [1.0], [0.8]]),
    "tiny weight": _parameters([0.0, -40.0], [[0.0], [12.0]], [[1.0], [1.0]]),
    "two dims": _parameters([0.2, -0.2], [[-1.0, 2.0], [1.5, 0.0]], [[0.5, 1.0], [0.7, 0.2]]),
    "many dims": _batch(3, 8),
    "batched": _batch(4, 3, 1),
    "batched, two axes, three dims": _batch(2, 3, 4, 3),
}


# --- the same laws made of SciPy's --------------------------------------------------------------


class Law:
    """A mixture of SciPy's distributions, of which some may be points, cut or rounded.

    Args:
        weights, parts: as many of the one as of the other.
        low, high: ends of the support.
        step: of the values of a discrete law; 0 for a density.
        points: places that have a probability, beside a density.
    """

    def __init__(
        self,
        weights: Sequence[float],
        parts: Sequence[Any],
        low: float = -INF,
        high: float = INF,
        *,
        step: float = 0.0,
        points: dict[float, float] | None = None,
    ) -> None:
        self.weights, self.parts = weights, parts
        self.low, self.high, self.step, self.points = low, high, step, points or {}

    def _sum(self, what: str, y: Any) -> Any:
        return sum(w * getattr(s, what)(y) for w, s in zip(self.weights, self.parts, strict=True))

    def density(self, y: Any) -> Any:
        """Probability where the law is discrete; without the points."""
        return self._sum("pmf" if self.step else "pdf", y)

    def cdf(self, y: Any) -> Any:
        return self._sum("cdf", y) + sum(m * (np.asarray(y) >= x) for x, m in self.points.items())

    def sf(self, y: Any) -> Any:
        return self._sum("sf", y) + sum(m * (np.asarray(y) < x) for x, m in self.points.items())

    def cuts(self) -> Floats:
        """Places of every size of the tails, rising: between them the density is smooth."""
        levels = np.concatenate([10.0 ** np.arange(-24, -1), [0.03, 0.1, 0.2, 0.35, 0.5]])
        y = np.concatenate([f(levels) for s in self.parts for f in (s.ppf, s.isf)])
        y = np.clip(np.concatenate([y, [self.low, self.high]]), self.low, self.high)
        return np.unique(y[np.isfinite(y)])

    @functools.cached_property
    def nodes(self) -> tuple[Floats, Floats]:
        """Values and their probabilities, without the points."""
        cuts = self.cuts()
        if self.step:
            y = self.step * np.arange(round(cuts[0] / self.step), round(cuts[-1] / self.step) + 1)
            return y, self.density(y)
        x, w = np.polynomial.legendre.leggauss(20)
        # graded towards both ends of each panel, where a density may have a pole
        grade = np.concatenate([[0.0], 0.5 ** np.arange(12, 0, -1)])
        grade = np.concatenate([grade, 1 - grade[-2::-1]])
        edges = np.concatenate([a + (b - a) * grade for a, b in itertools.pairwise(cuts)])
        half = 0.5 * np.diff(edges)[:, None]
        y = (edges[:-1, None] + half * (1 + x)).ravel()
        weight = (half * w).ravel()
        with np.errstate(divide="ignore"):
            density = self.density(y)
        some = (weight > 0) & np.isfinite(density)  # a pole may be hit
        return y[some], weight[some] * density[some]

    def mean(self) -> float:
        y, p = self.nodes
        return float(p @ y) + sum(x * m for x, m in self.points.items())

    def variance(self) -> float:
        y, p = self.nodes
        mean = self.mean()
        return float(p @ (y - mean) ** 2) + sum(m * (x - mean) ** 2 for x, m in self.points.items())

    def entropy(self) -> float:
        """Mean of -log of the density, or of the probability where that is one."""
        y, p = self.nodes
        some = p > 0
        found = -float(p[some] @ np.log(self.density(y[some])))
        return found - sum(m * math.log(m) for m in self.points.values())

    def crps(self, y: float) -> float:
        """Integral of (F - 1{y <= x})^2."""
        if self.step:
            x = self.nodes[0]
            x = self.step * np.arange(
                min(round(x[0] / self.step), math.floor(y / self.step)) - 1,
                max(round(x[-1] / self.step), math.ceil(y / self.step)) + 2,
            )
            below = np.clip((y - x) / self.step, 0.0, 1.0)
            return float(
                self.step * (below * self.cdf(x) ** 2 + (1 - below) * self.sf(x) ** 2).sum()
            )
        cuts = np.unique(np.concatenate([self.cuts(), [y], list(self.points)]))
        x, w = np.polynomial.legendre.leggauss(40)
        half = 0.5 * np.diff(cuts)[:, None]
        at = cuts[:-1, None] + half * (1 + x)
        tail = np.where(at < y, self.cdf(at), self.sf(at))
        return float((half * w * tail**2).sum())


class _Cut(Law):
    """A law between two bounds."""

    def __init__(self, base: Law, low: float, high: float) -> None:
        super().__init__(base.weights, base.parts, max(low, base.low), min(high, base.high))
        self.total = base.cdf(high) - base.cdf(low)
        self.below, self.above = base.cdf(low), base.sf(high)

    def density(self, y: Any) -> Any:
        inside = (np.asarray(y) >= self.low) & (np.asarray(y) <= self.high)
        return np.where(inside, super().density(y) / self.total, 0.0)

    def cdf(self, y: Any) -> Any:
        return (super().cdf(np.clip(y, self.low, self.high)) - self.below) / self.total

    def sf(self, y: Any) -> Any:
        return (super().sf(np.clip(y, self.low, self.high)) - self.above) / self.total


class _Scaled(Law):
    """A law times a factor, beside points."""

    def __init__(self, base: Law, factor: float, points: dict[float, float]) -> None:
        super().__init__(base.weights, base.parts, base.low, base.high, points=points)
        self.base, self.factor = base, factor

    def _sum(self, what: str, y: Any) -> Any:
        return self.factor * getattr(self.base, {"pdf": "density"}.get(what, what))(y)


class _Rounded(Law):
    """A law rounded to multiples of a step."""

    def density(self, y: Any) -> Any:
        cell = np.round(np.asarray(y) / self.step)
        edges = [(cell + side) * self.step for side in (-0.5, 0.5)]
        lower, upper = ([self._sum(what, e) for e in edges] for what in ("cdf", "sf"))
        return np.where(lower[0] < upper[1], lower[1] - lower[0], upper[0] - upper[1])

    def cdf(self, y: Any) -> Any:
        return self._sum("cdf", (np.floor(np.asarray(y) / self.step + 1e-9) + 0.5) * self.step)

    def sf(self, y: Any) -> Any:
        return self._sum("sf", (np.floor(np.asarray(y) / self.step + 1e-9) + 0.5) * self.step)


class _OnTheCircle(Law):
    """The von Mises from -pi to pi, whose cdf begins at -pi."""

    def cdf(self, y: Any) -> Any:
        return self._sum("cdf", np.clip(y, -math.pi, math.pi)) - self._sum("cdf", -math.pi)

    def sf(self, y: Any) -> Any:
        return 1.0 - self.cdf(y)

    def cuts(self) -> Floats:
        return np.linspace(-math.pi, math.pi, 33)


class _Kumaraswamy(S.rv_continuous):
    """SciPy has none."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__(a=0.0, b=1.0)
        self.powers = a, b

    def _pdf(self, y: Any) -> Any:
        a, b = self.powers
        return a * b * y ** (a - 1) * (1 - y**a) ** (b - 1)

    def _sf(self, y: Any) -> Any:
        return (1 - y ** self.powers[0]) ** self.powers[1]

    def _cdf(self, y: Any) -> Any:
        return -np.expm1(self.powers[1] * np.log1p(-(y ** self.powers[0])))

    def _isf(self, q: Any) -> Any:
        return (-np.expm1(np.log(q) / self.powers[1])) ** (1 / self.powers[0])

    def _ppf(self, q: Any) -> Any:
        return (-np.expm1(np.log1p(-q) / self.powers[1])) ** (1 / self.powers[0])


class LogitNormalLaw:
    """The law of 1 / (1 + exp(-x)), x Gaussian, from SciPy's normal."""

    def __init__(self, loc: float, scale: float) -> None:
        self.logit = S.norm(loc, scale)

    def pdf(self, y: Any) -> Any:
        inside = (y > 0) & (y < 1)
        safe = np.where(inside, y, 0.5)
        density = self.logit.pdf(scipy.special.logit(safe)) / (safe * (1 - safe))
        return np.where(inside, density, 0.0)

    def __getattr__(self, what: str) -> Callable[[Any], Any]:
        of = getattr(self.logit, what)
        if what in ("ppf", "isf"):
            return lambda q: scipy.special.expit(of(q))
        return lambda y: of(scipy.special.logit(np.clip(y, 0, 1)))


# --- the registry -------------------------------------------------------------------------------


class Example(NamedTuple):
    """A distribution of batch (), and what it is compared with.

    Attributes:
        dist: in float64.
        law: the same law of one target; None for several.
        density: log density of (N, D) by SciPy, where there is no law.
        affine: whether the law of -2 y + 6 is of the same kind.
        digits: relative error of the tails, where a family has fewer than 1e-10.
    """

    dist: MixtureDistribution
    law: Law | None = None
    density: Callable[[Floats], Floats] | None = None
    affine: bool = True
    digits: float = 1e-10


_W = (0.3, 0.7)


def _of_family(components: Distribution, *parts: Any, affine: bool = False, **ends: Any) -> Example:
    """Two components of one family."""
    kind = _OnTheCircle if isinstance(components, VonMises) else Law
    digits = 1e-8 if isinstance(components, VonMises) else 1e-10
    return Example(Mixture(t(*_W).log(), components), kind(_W, parts, **ends), None, affine, digits)


def _gaussian(name: str) -> tuple[GaussianMixture, Law]:
    p = MIXTURES[name]
    weights = torch.softmax(p.logits, -1).tolist()
    parts = [
        S.norm(m, s) for m, s in zip(p.loc[:, 0].tolist(), p.scale[:, 0].tolist(), strict=True)
    ]
    return GaussianMixture(*p), Law(weights, parts)


def _truncated(name: str, low: float, high: float) -> Example:
    base, law = _gaussian(name)
    return Example(TruncatedMixture(base, low, high), _Cut(law, low, high))


def _discretized(name: str, width: float) -> Example:
    base, law = _gaussian(name)
    rounded = _Rounded(law.weights, law.parts, step=width)
    return Example(DiscretizedMixture(base, width), rounded)


def _atomic(
    name: str, points: dict[float, float], cut: tuple[float, float] | None = None
) -> Example:
    base: MixtureDistribution
    base, law = _gaussian(name)
    rest = 1 - sum(points.values())
    if cut is not None:
        base, law = TruncatedMixture(base, *cut), _Cut(law, *cut)
        scaled: Law = _Scaled(law, rest, points)
    else:
        scaled = Law([w * rest for w in law.weights], law.parts, points=points)
    logits = t(*points.values(), rest).log()
    return Example(AtomicMixture(base, t(*points), logits), scaled)


_GAMMA = [S.gamma(2, scale=1.0), S.gamma(9, scale=0.5)]


def _gamma() -> Mixture:
    return Mixture(t(*_W).log(), Gamma(t(2, 9), t(1, 2)))


def _in_the_plane(**covariance: Tensor) -> Example:
    """Two Gaussians in two dimensions."""
    dist = GaussianMixture(t(*_W).log(), t([0.0, 1.0], [2.0, -1.0]), **covariance)
    pairs = zip(dist.loc.numpy(), dist.covariance_matrix.numpy(), strict=True)
    parts = [S.multivariate_normal(m, c) for m, c in pairs]
    return Example(dist, None, lambda y: np.log(sum(w * s.pdf(y) for w, s in zip(_W, parts))))  # noqa: B905


_FACTOR = t([[1.2, 0.0], [-0.4, 0.6]], [[0.5, 0.0], [0.3, 0.9]])
UNIVARIATE: dict[str, Example] = {
    **{
        name: Example(*_gaussian(name))
        for name in ("one component", "two modes", "overlapping", "zero weight")
    },
    "normal": _of_family(
        Normal(t(-1, 2), t(0.5, 1)), S.norm(-1, 0.5), S.norm(2, 1), affine=True
    ),
    "student_t": _of_family(
        StudentT(t(4.5, 40), t(-1, 2), t(0.5, 1)), S.t(4.5, -1, 0.5), S.t(40, 2, 1), affine=True
    ),
    "laplace": _of_family(
        Laplace(t(-1, 2), t(0.5, 1)), S.laplace(-1, 0.5), S.laplace(2, 1), affine=True
    ),
    "logistic": _of_family(
        Logistic(t(-1, 2), t(0.5, 1)), S.logistic(-1, 0.5), S.logistic(2, 1), affine=True
    ),
    "log_normal": _of_family(
        LogNormal(t(-1, 1), t(0.5, 0.3)),
        S.lognorm(0.5, scale=math.exp(-1)), S.lognorm(0.3, scale=math.e), low=0.0,
    ),
    "logit_normal": _of_family(
        LogitNormal(t(-1, 2), t(0.5, 1)), LogitNormalLaw(-1, 0.5), LogitNormalLaw(2, 1),
        low=0.0, high=1.0,
    ),
    "gamma": _of_family(
        Gamma(t(0.5, 6), t(0.5, 2)), S.gamma(0.5, scale=2), S.gamma(6, scale=0.5), low=0.0
    ),
    "beta": _of_family(
        Beta(t(0.5, 6), t(0.5, 2)), S.beta(0.5, 0.5), S.beta(6, 2), low=0.0, high=1.0
    ),
    "weibull": _of_family(
        Weibull(t(0.5, 6), t(0.8, 2)),
        S.weibull_min(0.8, scale=0.5), S.weibull_min(2, scale=6), low=0.0,
    ),
    "von_mises": _of_family(
        VonMises(t(0.0, -2), t(3, 20)), S.vonmises(3, 0), S.vonmises(20, -2),
        low=-math.pi, high=math.pi,
    ),
    "negative_binomial": _of_family(
        NegativeBinomial(t(0.5, 6), t(0.5, 0.7)), S.nbinom(0.5, 0.5), S.nbinom(6, 0.3),
        low=0.0, step=1.0,
    ),
    "poisson": _of_family(Poisson(t(0.5, 6)), S.poisson(0.5), S.poisson(6), low=0.0, step=1.0),
    "a family of torch": _of_family(
        Exponential(t(0.5, 3)), S.expon(scale=2), S.expon(scale=1 / 3), low=0.0
    ),
    "gumbel": _of_family(
        Gumbel(t(-1, 2), t(0.5, 1)), S.gumbel_r(-1, 0.5), S.gumbel_r(2, 1)
    ),
    "kumaraswamy": _of_family(
        Kumaraswamy(t(0.8, 6), t(1.5, 2)), _Kumaraswamy(0.8, 1.5), _Kumaraswamy(6, 2),
        low=0.0, high=1.0,
    ),
    "half normal": _of_family(
        HalfNormal(t(0.5, 2)), S.halfnorm(scale=0.5), S.halfnorm(scale=2), low=0.0
    ),
    "pareto": _of_family(
        Pareto(t(1, 2), t(9, 12)), S.pareto(9), S.pareto(12, scale=2), low=1.0
    ),
    "fisher_snedecor": _of_family(
        FisherSnedecor(t(4, 5), t(30, 40)), S.f(4, 30), S.f(5, 40), low=0.0
    ),
    "inverse_gamma": _of_family(
        InverseGamma(t(12, 15), t(6, 30)), S.invgamma(12, scale=6), S.invgamma(15, scale=30),
        low=0.0,
    ),
    "geometric": _of_family(Geometric(t(0.3, 0.7)), S.nbinom(1, 0.3), S.nbinom(1, 0.7),
                            low=0.0, step=1.0),
    "binomial": _of_family(Binomial(t(9, 4), t(0.3, 0.7)), S.binom(9, 0.3), S.binom(4, 0.7),
                           low=0.0, high=9.0, step=1.0),
    "transformed": _of_family(
        TransformedDistribution(
            Normal(t(0, 1), t(0.5, 0.3)), [AffineTransform(1.0, -1.0), ExpTransform()]
        ),
        S.lognorm(0.5, scale=math.e), S.lognorm(0.3), low=0.0,
    ),
    "different families": Example(
        Mixture(t(*_W).log(), [Laplace(t(-1)[0], t(0.5)[0]), StudentT(t(5)[0], t(2)[0], t(1)[0])]),
        Law(_W, [S.laplace(-1, 0.5), S.t(5, 2, 1)]),
    ),
    "point mass and gamma": Example(
        Mixture(t(*_W).log(), [PointMass(t(0)[0]), Gamma(t(2)[0], t(0.5)[0])]),
        Law([0.7], [S.gamma(2, scale=2)], 0.0, points={0.0: 0.3}), affine=False,
    ),
    "atoms beside gaussians": _atomic("two modes", {-2.5: 0.25, 0.5: 0.1, 3.0: 0.3}),
    "an atom at the end of the support": Example(
        AtomicMixture(_gamma(), t(0.0), t(0.4, 0.6).log()),
        Law([0.18, 0.42], _GAMMA, 0.0, points={0.0: 0.4}), affine=False,
    ),
    "atoms at the ends of a cut": _atomic("overlapping", {-1.0: 0.1, 2.0: 0.2}, (-1.0, 2.0)),
    "zero-inflated counts": Example(
        Mixture(t(*_W).log(), [PointMass(t(0)[0]), Poisson(t(3.5)[0])]),
        Law(_W, [S.randint(0, 1), S.poisson(3.5)], 0.0, step=1.0), affine=False,
    ),
    "cut": _truncated("overlapping", -1.0, 2.0),
    "cut below": _truncated("two modes", -2.2, INF),
    "not cut": _truncated("two modes", -INF, INF),
    "cut gamma": Example(
        TruncatedMixture(_gamma(), 0.5, 4.0), _Cut(Law(_W, _GAMMA, 0.0), 0.5, 4.0), affine=False
    ),
    "rounded": _discretized("overlapping", 0.5),
    "rounded to a coarse grid": _discretized("two modes", 3.0),
    "rounded gamma": Example(
        DiscretizedMixture(_gamma(), 0.25), _Rounded(_W, _GAMMA, 0.0, step=0.25), affine=False
    ),
}  # fmt: skip
SEVERAL: dict[str, Example] = {
    "diagonal": _in_the_plane(scale=t([0.5, 1.0], [0.7, 0.3])),
    "scale_tril": _in_the_plane(scale_tril=_FACTOR),
    "precision_tril": _in_the_plane(precision_tril=_FACTOR),
    "low rank": _in_the_plane(cov_factor=_FACTOR[..., :1], cov_diag=t([0.5, 1.0], [0.7, 0.3])),
    "independent laplace": Example(
        Mixture(t(*_W).log(), Independent(Laplace(t([0.0, 1.0], [2.0, -1.0]), t(1, 0.5)), 1)),
        None,
        lambda y: np.log(
            sum(
                w * np.prod(S.laplace(m, [1, 0.5]).pdf(y), -1)
                for w, m in zip(_W, ([0, 1], [2, -1]), strict=True)
            )
        ),
    ),
    "multivariate normal": Example(
        Mixture(t(*_W).log(), MultivariateNormal(t([0.0, 1.0], [2.0, -1.0]), scale_tril=_FACTOR)),
        None,
        _in_the_plane(scale_tril=_FACTOR).density,
        affine=False,
    ),
}
EXAMPLES = {**UNIVARIATE, **SEVERAL}


# --- the registry of bad ones -------------------------------------------------------------------


class Bad(NamedTuple):
    """What must not be made, and the error that has to come."""

    make: Callable[[], Any]
    error: type[Exception]
    match: str


def _one() -> GaussianMixture:
    return GaussianMixture(*MIXTURES["overlapping"])


def _rows() -> GaussianMixture:
    return GaussianMixture(*MIXTURES["batched"])


_LOW = torch.tensor([[0.0], [0.0], [2.0], [3.0]])
BAD_EXAMPLES: list[Bad] = [
    # Gaussian mixtures: tests/test_distribution.py and tests/test_covariance.py have more
    Bad(lambda: GaussianMixture(t(0), t([0.0])), ValueError,
        "by one of scale, scale_tril, .* got none of them"),
    Bad(lambda: GaussianMixture(t(0), t([0.0]), t([1.0]), scale_tril=t([[1.0]])), ValueError,
        "got scale and scale_tril"),
    Bad(lambda: GaussianMixture(t(0), t([0.0]), t([0.0])), ValueError,
        r"^scale must be positive and finite; got 0 at index \(0, 0\)$"),
    Bad(lambda: GaussianMixture(t(-INF), t([0.0]), t([1.0])), ValueError,
        "all 1 components of the mixture have logit -inf"),
    # mixtures of any families
    Bad(lambda: Mixture([0.0], Normal(t(0), t(1))), TypeError,
        "logits must be a torch.Tensor; got list"),
    Bad(lambda: Mixture(torch.tensor([0]), Normal(t(0), t(1))), TypeError,
        "logits must be of a floating dtype; got torch.int64"),
    Bad(lambda: Mixture(t(0), []), TypeError,
        "components must be a torch distribution or a list of at least one; got list"),
    Bad(lambda: Mixture(t(0), 3), TypeError,
        "components must be a torch distribution or a list of at least one; got int"),
    Bad(lambda: Mixture(t(0), [3]), TypeError, "components must be torch distributions; got int"),
    Bad(lambda: Mixture(t(0), Independent(Normal(torch.zeros(1, 2, 2), 1.0), 2)), ValueError,
        r"components must have event shape \(\) or \(D,\); got \(2, 2\) of Normal"),
    Bad(lambda: Mixture(t(0), Normal(0.0, 1.0)), ValueError,
        r"components must have a last batch axis of K; Normal has batch shape \(\)"),
    Bad(lambda: Mixture(t(0, 0), [Normal(0.0, 1.0), MultivariateNormal(t(0, 0), torch.eye(2)
                                                                      .double())]), ValueError,
        r"components must have one event shape; got \[\(1,\), \(2,\)\]"),
    Bad(lambda: Mixture(t(0, 0, 0), Normal(t(0, 1), t(1, 1))), ValueError,
        r"logits must have shape \(\*, 2\) to match the 2 components; got \(3,\)"),
    Bad(lambda: Mixture(t(0, 0), Normal(torch.zeros(5, 2, 1), 1.0)), ValueError,
        r"got \(2,\)\. Did you mean Independent\(components, 1\)\?"),
    Bad(lambda: Mixture(torch.zeros(3, 2), Normal(torch.zeros(4, 2), 1.0)), ValueError,
        r"the batch axes do not broadcast: logits \(3, 2\), Normal \(4, 2\)"),
    Bad(lambda: Mixture(t(0, INF), Normal(t(0, 1), t(1, 1)), validate_args=True), ValueError,
        r"logits must be less than inf and not NaN; got inf at index \(1,\)"),
    Bad(lambda: Mixture(t(-INF, -INF), Normal(t(0, 1), t(1, 1)), validate_args=True), ValueError,
        "all 2 components of the mixture have logit -inf"),
    Bad(lambda: Mixture(t(0, 0), [Normal(0.0, 1.0), Poisson(3.0)]), ValueError,
        "must all have a density or all a probability mass .* got Normal, Poisson"),
    Bad(lambda: Mixture(t(0, 0), [PointMass(0.5), Poisson(3.0)]), ValueError,
        r"a PointMass among whole numbers must be at one; got loc \[0.5\]"),
    Bad(lambda: Mixture.pool([]), ValueError, "mixtures must hold at least one Mixture; got none"),
    Bad(lambda: Mixture.pool([_gamma()], weights=[-1.0]), ValueError,
        r"weights must be 1 finite non-negative numbers, not all 0; got \[-1.0\]"),
    Bad(lambda: Mixture.pool([_gamma().expand((2,)), _gamma().expand((3,))]),
        ValueError, r"the batch shapes of mixtures do not broadcast: \(2,\), \(3,\)"),
    Bad(lambda: Mixture.pool([_gamma(), Mixture(t(0), Poisson(t(3)))]), ValueError,
        "must all have a density or all a probability mass"),
    Bad(lambda: Mixture.pool([_gamma(), Mixture(t(0), Independent(
           Normal(torch.zeros(1, 2).double(), 1.0), 1))]), ValueError,
        r"mixtures must have one event shape; got \[\(1,\), \(2,\)\]"),
    Bad(lambda: MixtureDistribution.cat([_rows(), _gamma()]), TypeError,
        "^mixtures must be mixture distributions of one class; got GaussianMixture, Mixture$"),
    Bad(lambda: MixtureDistribution.cat([Normal(0.0, 1.0)]), TypeError,
        "of one class; got Normal$"),
    Bad(lambda: Mixture.cat([_gamma().expand((2,)), _gamma().expand((2, 3))]), ValueError,
        "one event shape and one batch shape but for axis 0; got"),
    *(
        Bad(lambda other=other: Mixture.cat([_gamma().expand((2,)), other.expand((1,))]), TypeError,
            r"^mixtures must have components of the same families in one order.* got Gamma; "
            r"\[?(Laplace|Gamma).* Give all of them every family")
        for other in (Mixture(t(0.0), Laplace(t(0), t(1))),
                      Mixture(t(0.0), [Gamma(t(2)[0], t(1)[0])]),
                      Mixture(t(0, 0), [Gamma(t(2)[0], t(1)[0]), Gamma(t(2)[0], t(1)[0])]))
    ),
    # truncation and rounding
    Bad(lambda: DiscretizedMixture.cat([_rows().discretize(1.0), _rows().discretize(0.5)]),
        ValueError, r"^mixtures must be rounded to one width; got \[1\.0, 0\.5\]$"),
    Bad(lambda: _one().expand((2,)).truncate(1.0, 0.0), ValueError,
        r"^low must be less than high; got low 1 and high 0 in row 0$"),
    Bad(lambda: TruncatedMixture(_one(), 1.0, 0.0), ValueError,
        r"^low must be less than high; got low 1 and high 0$"),
    Bad(lambda: TruncatedMixture(_rows(), _LOW, 2.0), ValueError,
        r"^low must be less than high; got low 2 and high 2 in row 2$"),
    *(
        Bad(lambda a=a, b=b: TruncatedMixture(_one(), a, b), ValueError,
            r"^low must be less than high; got low")
        for a, b in ((math.nan, 1.0), (INF, INF), (-INF, -INF))
    ),
    Bad(lambda: TruncatedMixture(_rows(), _LOW[:, 0], 9.0), ValueError,
        r"^low must have shape \(\*, 1\); got \(4,\)\. Did you mean low\[:, None\]\?$"),
    Bad(lambda: TruncatedMixture(_rows(), -9.0, torch.zeros(4, 2)), ValueError,
        r"^high must have shape \(\*, 1\); got \(4, 2\)$"),
    Bad(lambda: TruncatedMixture(_rows(), -9.0, torch.zeros(3, 1)), ValueError,
        r"^the batch axes do not broadcast: base \(4,\), low \(1,\), high \(3, 1\)$"),
    Bad(lambda: GaussianMixture(*MIXTURES["two dims"]).truncate(0.0, 1.0), ValueError,
        r"^truncate needs one target dimension; .* 2\. .*marginal"),
    Bad(lambda: GaussianMixture(*MIXTURES["two dims"]).discretize(1.0), ValueError,
        r"^discretize needs one .* 2\. Take one with \.marginal"),
    *(
        Bad(lambda width=width: _one().discretize(width), ValueError,
            rf"^width must be positive and finite; got {width:g}$")
        for width in (0.0, -1.0, INF, math.nan)
    ),
    *(
        Bad(lambda wrong=wrong: _one().discretize(wrong), TypeError,
            r"^width must be a number; got (NoneType|str|Tensor)$")
        for wrong in (None, "wide", torch.ones(2))
    ),
    Bad(lambda: Mixture(t(0.0), Poisson(t(3))).truncate(0.0, 5.0), TypeError,
        r"^truncate needs components with a density; got Mixture\(.*Poisson"),
    Bad(lambda: Mixture(t(0.0), Poisson(t(3))).discretize(2.0), TypeError,
        "^discretize needs components with a density"),
    # atoms
    Bad(lambda: AtomicMixture(_one().discretize(1.0), t(0), t(0, 0)), TypeError,
        "^AtomicMixture needs components with a density"),
    Bad(lambda: AtomicMixture(GaussianMixture(*MIXTURES["two dims"]), t(0), t(0, 0)), ValueError,
        r"^AtomicMixture needs one target dimension; .* 2\. Take one with \.marginal"),
    Bad(lambda: AtomicMixture(_one(), 0.0, t(0, 0)), TypeError,
        r"^atoms must be a torch\.Tensor; got float$"),
    Bad(lambda: AtomicMixture(_one(), t(0), t(0)), ValueError,
        r"^logits must have shape \(\*, A \+ 1\) for atoms \(\*, A\), .* got \(1,\) and \(1,\)$"),
    Bad(lambda: AtomicMixture(_rows(), t(0), torch.zeros(3, 2)), ValueError,
        r"^the batch axes do not broadcast: base \(4,\), atoms \(1,\), logits \(3, 2\)$"),
    Bad(lambda: AtomicMixture(_one(), t(INF), t(0, 0)), ValueError,
        r"^atoms must be finite; got inf at index \(0,\)$"),
    Bad(lambda: AtomicMixture(_one(), t(1, 0, 1), t(0, 0, 0, 0)), ValueError,
        r"^atoms must be different; got 1 at index"),
    Bad(lambda: AtomicMixture(_one(), t(0), t(INF, 0)), ValueError,
        r"^logits must be less than inf and not NaN; got inf at index \(0,\)$"),
    Bad(lambda: AtomicMixture.cat([AtomicMixture(_rows(), t(*a), t(0, *a)) for a in ([0], [0, 1])]),
        ValueError, r"^mixtures must have equally many atoms; got \[1, 2\]$"),
    Bad(lambda: UNIVARIATE["point mass and gamma"].dist.truncate(0.0, 5.0), TypeError,
        "^truncate needs components with a density"),
]  # fmt: skip

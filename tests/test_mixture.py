"""Mixture of any families against SciPy, scoringrules, quadrature, MixtureSameFamily and the
Gaussian mixture, which has formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import scoringrules
import torch
from torch import Tensor
from torch import distributions as td
from torch.autograd import forward_ad
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
    Weibull,
)
from torch.distributions.transforms import AffineTransform, ExpTransform, SoftplusTransform

from mdn.distribution import GaussianMixture, Logistic, LogitNormal, Mixture, PointMass
from mdn.nn._families import FAMILIES
from tests.cases import LogitNormalLaw
from tests.oracles import mp

INF = math.inf
WEIGHTS = (0.3, 0.7)


def t(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Case(NamedTuple):
    """Two components in torch, in SciPy, and the edge of the support on the left."""

    torch: Distribution
    scipy: list[Any]
    low: float = -INF
    high: float = INF
    whole: bool = False


S = scipy.stats


class _LogitNormalLaw(LogitNormalLaw):
    """With moments by mpmath."""

    def mean(self) -> float:
        return self._expect(lambda y: y)

    def var(self) -> float:
        mean = self.mean()
        return self._expect(lambda y: (y - mean) ** 2)

    def _expect(self, f: Callable[[Any], Any]) -> float:
        loc, scale = self.logit.args
        integrand = lambda z: f(1 / (1 + mp.exp(-loc - scale * z))) * mp.npdf(z)  # noqa: E731
        return float(mp.quad(integrand, [-12, -4, 0, 4, 12]))


CASES = {
    "normal": Case(Normal(t(-1, 2), t(0.5, 1)), [S.norm(-1, 0.5), S.norm(2, 1)]),
    "student_t": Case(
        StudentT(t(2.5, 40), t(-1, 2), t(0.5, 1)), [S.t(2.5, -1, 0.5), S.t(40, 2, 1)]
    ),
    "laplace": Case(Laplace(t(-1, 2), t(0.5, 1)), [S.laplace(-1, 0.5), S.laplace(2, 1)]),
    "logistic": Case(Logistic(t(-1, 2), t(0.5, 1)), [S.logistic(-1, 0.5), S.logistic(2, 1)]),
    "log_normal": Case(
        LogNormal(t(-1, 1), t(0.5, 0.3)),
        [S.lognorm(0.5, scale=math.exp(-1)), S.lognorm(0.3, scale=math.e)],
        0.0,
    ),
    "logit_normal": Case(
        LogitNormal(t(-1, 2), t(0.5, 1)),
        [_LogitNormalLaw(-1, 0.5), _LogitNormalLaw(2, 1)],
        0.0,
        1.0,
    ),
    "gamma": Case(Gamma(t(0.5, 6), t(0.5, 2)), [S.gamma(0.5, scale=2), S.gamma(6, scale=0.5)], 0.0),
    "beta": Case(Beta(t(0.5, 6), t(0.5, 2)), [S.beta(0.5, 0.5), S.beta(6, 2)], 0.0, 1.0),
    "weibull": Case(
        Weibull(t(0.5, 6), t(0.8, 2)),
        [S.weibull_min(0.8, scale=0.5), S.weibull_min(2, scale=6)],
        0.0,
    ),
    "von_mises": Case(
        VonMises(t(0.0, -2), t(3, 20)), [S.vonmises(3, 0), S.vonmises(20, -2)], -math.pi, math.pi
    ),
    "negative_binomial": Case(
        NegativeBinomial(t(0.5, 6), t(0.5, 0.7)),
        [S.nbinom(0.5, 0.5), S.nbinom(6, 0.3)],
        0.0,
        whole=True,
    ),
    "poisson": Case(Poisson(t(0.5, 6)), [S.poisson(0.5), S.poisson(6)], 0.0, whole=True),
}
CONTINUOUS = [n for n, c in CASES.items() if not c.whole]
WHOLE = [n for n, c in CASES.items() if c.whole]
LINEAR = [n for n in CASES if n != "von_mises"]  # SciPy's von Mises has no ends
each = pytest.mark.parametrize("name", CASES)
each_continuous = pytest.mark.parametrize("name", CONTINUOUS)
each_whole = pytest.mark.parametrize("name", WHOLE)
each_linear = pytest.mark.parametrize("name", LINEAR)


def mixture(name: str) -> Mixture:
    return Mixture(t(*WEIGHTS).log(), CASES[name].torch)


def weighted(name: str, what: str, y: np.ndarray) -> np.ndarray:
    """Sum of w_k f_k(y) by SciPy."""
    parts = CASES[name].scipy
    if what == "p":
        what = "pmf" if CASES[name].whole else "pdf"
    return sum(w * getattr(s, what)(y) for w, s in zip(WEIGHTS, parts, strict=True))


def scipy_cdf(name: str, y: np.ndarray) -> np.ndarray:
    """Of the von Mises from -pi on."""
    start = weighted(name, "cdf", np.array(-math.pi)) if name == "von_mises" else 0.0
    return weighted(name, "cdf", y) - start


def places(name: str) -> Tensor:
    """Of the bulk and of both tails, to 1e-12 of probability."""
    if name == "von_mises":
        return torch.linspace(-math.pi, math.pi, 21, dtype=torch.float64)[1:-1]
    levels = np.array([1e-12, 1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
    parts = CASES[name].scipy
    y = np.concatenate([f(levels) for s in parts for f in (s.ppf, s.isf)])
    y = y[(y > CASES[name].low) & (y < CASES[name].high)] if not CASES[name].whole else y
    return torch.from_numpy(np.unique(y))


def rain() -> Mixture:
    """A point mass at 0 and a gamma."""
    return Mixture(t(0.6, 0.4).log(), [PointMass(t(0)[0]), Gamma(t(2)[0], t(0.5)[0])])


# --- every family --------------------------------------------------------------------------------


@each_continuous
def test_icdf_is_the_inverse_of_cdf(name: str) -> None:
    """F(icdf(p)) = p from 1e-9 to 1 - 1e-9, in the relative error of the smaller tail."""
    dist = mixture(name)
    p = t(1e-9, 1e-4, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-4, 1 - 1e-9)
    if name == "beta":
        p = p[:-1]  # that quantile is nearer to 1 than the numbers below 1 are
    y = dist.icdf(p)
    assert y.shape == (len(p), 1)
    tolerance = {"von_mises": 1e-4, "beta": 1e-8}.get(name, 1e-9)
    np.testing.assert_allclose(dist.cdf(y), p, rtol=tolerance)
    np.testing.assert_allclose(dist.log_sf(y).exp(), 1 - p, rtol=tolerance)
    np.testing.assert_allclose(
        dist.icdf(t(0, 1))[:, 0], [CASES[name].low, CASES[name].high], rtol=1e-15
    )


@each_whole
def test_icdf_of_whole_numbers_is_the_least_that_reaches_p(name: str) -> None:
    """icdf(F(k)) = k, and just above F(k) it is k + 1."""
    dist = mixture(name)
    k = torch.arange(25, dtype=torch.float64)[:, None]
    p = dist.cdf(k)
    assert torch.equal(dist.icdf(p), k)
    assert torch.equal(dist.icdf(p * (1 + 1e-12)), k + 1)
    assert dist.icdf(0.0).item() == 0.0
    assert dist.icdf(1.0).item() == INF


@each_linear
def test_mean_and_variance_match_scipy(name: str) -> None:
    """Within plus between the components."""
    dist = mixture(name)
    parts = CASES[name].scipy
    mean = sum(w * s.mean() for w, s in zip(WEIGHTS, parts, strict=True))
    var = sum(w * (s.var() + (s.mean() - mean) ** 2) for w, s in zip(WEIGHTS, parts, strict=True))
    assert dist.mean.item() == pytest.approx(mean, rel=1e-12)
    assert dist.variance.item() == pytest.approx(var, rel=1e-12)
    assert dist.stddev.item() == pytest.approx(math.sqrt(var), rel=1e-12)


@pytest.mark.parametrize("loc", [0.0, 1.3, -2.9, 3.1, 40.0])
@pytest.mark.parametrize("concentration", [0.01, 2.0, 300.0])
def test_moments_of_von_mises_are_those_of_the_number(loc: float, concentration: float) -> None:
    """Integrals of y p(y) and (y - mean)^2 p(y) over [-pi, pi], cut where the density wraps."""
    dist = Mixture(t(0.0), VonMises(t(loc), t(concentration)))

    def moment(f: Callable[[float], float]) -> float:
        def g(y: float) -> float:
            return f(y) * float(S.vonmises.pdf(y, concentration, loc))

        near = math.remainder(loc, 2 * math.pi)
        points = np.clip([near + a / math.sqrt(concentration) for a in (-6, -2, 0, 2, 6)], -3.14,
                         3.14)  # fmt: skip
        return scipy.integrate.quad(g, -math.pi, math.pi, points=points, limit=400)[0]

    mean = moment(lambda y: y)
    assert dist.mean.item() == pytest.approx(mean, abs=1e-9)
    assert dist.variance.item() == pytest.approx(moment(lambda y: (y - mean) ** 2), rel=1e-8)


@each
def test_the_probabilities_sum_to_one(name: str) -> None:
    """The sum is 1; the integral of exp(log_prob) between two quantiles is the difference of p."""
    dist = mixture(name)
    if CASES[name].whole:
        k = torch.arange(400, dtype=torch.float64)[:, None]
        assert dist.log_prob(k).exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        return
    levels = t(1e-10, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-5)
    cuts = dist.icdf(levels)[:, 0].tolist()
    total = sum(
        scipy.integrate.quad(lambda y: dist.log_prob(t(y)).exp().item(), a, b, epsabs=1e-11)[0]
        for a, b in itertools.pairwise(cuts)
    )
    assert total == pytest.approx((levels[-1] - levels[0]).item(), abs=3e-9)


@each
def test_crps_matches_the_integral_by_scipy(name: str) -> None:
    """Integral of (F(x) - 1{y <= x})^2, to 1e-7 relative."""
    dist = mixture(name)
    low, high = CASES[name].low, CASES[name].high
    for y in (0.4, 3.0) if not CASES[name].whole else (0.0, 1.0, 4.5, 30.0, -3.0):
        if CASES[name].whole:
            k = np.arange(-5, 500)
            cdf = weighted(name, "cdf", k)
            part = np.clip(y - k, 0.0, 1.0)
            want = float((part * cdf**2 + (1 - part) * (1 - cdf) ** 2)[k >= min(0, y)].sum())
        else:
            parts = CASES[name].scipy
            q = [1e-9, 1e-5, 1e-3, 0.05, 0.3, 0.7, 0.95, 1 - 1e-3, 1 - 1e-5]
            cuts = sorted({y, *(float(s.ppf(a)) for s in parts for a in q)})
            cuts = [c for c in cuts if low < c < high]
            ends = [low if low > -INF else -1e9, *cuts, high if high < INF else 1e9]

            def below(x: float) -> float:
                return scipy_cdf(name, np.array(x)) ** 2

            def above(x: float) -> float:
                return (1 - scipy_cdf(name, np.array(x))) ** 2

            want = sum(
                scipy.integrate.quad(below if b <= y else above, a, b, limit=200, epsabs=1e-12)[0]
                for a, b in itertools.pairwise(ends)
            )
            want += max(0.0, y - high)
        assert dist.crps(t(y)).item() == pytest.approx(want, rel=1e-7), y


@pytest.mark.parametrize(
    ("component", "want"),
    [
        (StudentT(t(3), t(0.5), t(2)), lambda y: scoringrules.crps_t(y, 3.0, 0.5, 2.0)),
        (Logistic(t(0.5), t(2)), lambda y: scoringrules.crps_logistic(y, 0.5, 2.0)),
        (Laplace(t(0.5), t(2)), lambda y: scoringrules.crps_laplace(y, 0.5, 2.0)),
        (LogNormal(t(0.5), t(0.7)), lambda y: scoringrules.crps_lognormal(y, 0.5, 0.7)),
        (Gamma(t(2), t(3)), lambda y: scoringrules.crps_gamma(y, 2.0, 3.0)),
        (Beta(t(2), t(3)), lambda y: scoringrules.crps_beta(y, 2.0, 3.0)),
        (Exponential(t(3)), lambda y: scoringrules.crps_exponential(y, 3.0)),
        (Uniform(t(-1), t(3)), lambda y: scoringrules.crps_uniform(y, -1.0, 3.0)),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, Distribution) else "",
)
def test_crps_of_one_component_matches_its_formula(component: Distribution, want: Any) -> None:
    """Closed forms of scoringrules."""
    dist = Mixture(t(0.0), component)
    for y in (0.01, 0.4, 0.9):
        assert dist.crps(t(y)).item() == pytest.approx(float(want(y)), rel=1e-7)


SMOOTH = [n for n in FAMILIES if n not in ("negative_binomial", "poisson")]


def raw_case(name: str) -> tuple[Tensor, list[Tensor], Tensor]:
    """Logits and raw parameters of a batch of 2 by 3 components, and draws (2, 2, 1)."""
    g = torch.Generator().manual_seed(5)
    n = len(FAMILIES[name].parameters)
    logits, *raw = (torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(n + 1))
    y = Mixture(logits, FAMILIES[name].build(*raw)).sample((2,), generator=g)
    return logits.requires_grad_(), [r.requires_grad_() for r in raw], y


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", FAMILIES)
def test_forward_mode_of_both_tails(name: str) -> None:
    """The same derivatives forwards as finite differences, incomplete functions included."""
    logits, raw, y = raw_case(name)

    def f(logits: Tensor, *raw: Tensor) -> tuple[Tensor, Tensor]:
        dist = Mixture(logits, FAMILIES[name].build(*raw))
        return dist.log_cdf(y), dist.log_sf(y)

    options = {"rtol": 1e-4, "atol": 1e-6, "check_backward_ad": False}
    assert torch.autograd.gradcheck(f, (logits, *raw), check_forward_ad=True, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_log_prob_cdf_and_crps(name: str) -> None:
    """Finite differences in y, logits and every parameter."""
    logits, raw, y = raw_case(name)
    y.requires_grad_(name in SMOOTH)
    for what in ("log_prob", "log_cdf", "log_sf", "crps"):

        def f(y: Tensor, logits: Tensor, *raw: Tensor, what: str = what) -> Tensor:
            return getattr(Mixture(logits, FAMILIES[name].build(*raw)), what)(y)

        assert torch.autograd.gradcheck(f, (y, logits, *raw), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_icdf(name: str) -> None:
    """Finite differences in p, logits and every parameter."""
    logits, raw, _ = raw_case(name)
    p = t([0.1], [0.8]).requires_grad_()

    def f(p: Tensor, logits: Tensor, *raw: Tensor) -> Tensor:
        return Mixture(logits, FAMILIES[name].build(*raw)).icdf(p)

    assert torch.autograd.gradcheck(f, (p, logits, *raw), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["student_t", "laplace", "logistic", "gamma", "von_mises"])
def test_log_prob_survives_a_second_derivative(name: str) -> None:
    """Finite differences of the gradient in logits and parameters."""
    logits, raw, y = raw_case(name)

    def f(logits: Tensor, *raw: Tensor) -> Tensor:
        return Mixture(logits, FAMILIES[name].build(*raw)).log_prob(y)

    assert torch.autograd.gradgradcheck(f, (logits, *raw), rtol=1e-3, atol=1e-5)


# --- tails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "reference"),
    [
        (Normal(t(0), t(1)), S.norm()),
        (Laplace(t(0), t(1)), S.laplace()),
        (Logistic(t(0), t(1)), S.logistic()),
        (LogNormal(t(0), t(0.1)), S.lognorm(0.1)),
        (Weibull(t(1), t(2)), S.weibull_min(2)),
    ],
    ids=lambda a: type(a).__name__ if isinstance(a, Distribution) else "",
)
def test_closed_tails_keep_their_digits_where_they_underflow(
    component: Distribution, reference: Any
) -> None:
    """Log cdf and log sf of thousands of nats."""
    dist = Mixture(t(0.0), component)
    y = np.array([-900.0, -60.0, 1e-200, 1e-30, 0.03, 60.0, 900.0])
    low = reference.logcdf(y)
    if isinstance(component, Laplace):  # SciPy takes the log of 0
        low = np.where(y < 0, y - math.log(2), low)
    if isinstance(component, Weibull):  # and of 1 - 1
        low = np.where((y > 0) & (y < 1e-9), 2 * np.log(np.abs(y)), low)
    np.testing.assert_allclose(dist.log_cdf(t(*y)[:, None]), low, rtol=1e-11, atol=1e-300)
    high = reference.logsf(y)
    if isinstance(component, Laplace):
        high = np.where(y > 0, -y - math.log(2), high)
    np.testing.assert_allclose(dist.log_sf(t(*y)[:, None]), high, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("df", [0.3, 1.0, 7.5, 1e6])
def test_student_tails_match_scipy_far_out(df: float) -> None:
    """Power-law tails, to 1e-200, at both ends of the degrees of freedom."""
    dist = Mixture(t(0.0), StudentT(t(df), t(0.0), t(1.0)))
    y = t(-1e20, -50.0, -3.0, -1e-9, 0.0, 1e-9, 4.0, 20.0)[:, None]
    np.testing.assert_allclose(dist.cdf(y), S.t(df).cdf(y[:, 0].numpy()), rtol=1e-9, atol=1e-290)
    np.testing.assert_allclose(
        dist.log_sf(y).exp(), S.t(df).sf(y[:, 0].numpy()), rtol=1e-9, atol=1e-290
    )


def test_student_is_exact_in_float32_at_many_degrees_of_freedom() -> None:
    """log p in float32 is that in float64 to 1e-6, though the log-gammas of it are 1e7."""
    y = torch.tensor([[0.3], [2.0]])
    dist = Mixture(torch.zeros(1), StudentT(torch.tensor([1e6]), 0.0, 1.0))
    assert dist.log_prob(y).dtype == torch.float32
    np.testing.assert_allclose(dist.log_prob(y), S.t(1e6).logpdf(y[:, 0].double()), rtol=1e-6)


# --- supports and point masses -------------------------------------------------------------------


def test_outside_one_support_the_other_components_count() -> None:
    """Normal + gamma + beta at y < 0, inside and above 1: values by hand, finite gradients."""
    shape = t(2.0)[0].requires_grad_()
    logits = t(0.2, 0.5, 0.3).log().requires_grad_()
    dist = Mixture(logits, [Normal(t(0.0)[0], t(1)[0]), Gamma(shape, shape), Beta(shape, shape)])
    y = t(-1.0, 0.0, 0.5, 1.0, 3.0)[:, None].requires_grad_()
    at = y.detach()[:, 0].numpy()
    want = 0.2 * S.norm.pdf(at) + 0.5 * S.gamma.pdf(at, 2, scale=0.5) + 0.3 * S.beta.pdf(at, 2, 2)
    log_p = dist.log_prob(y)
    np.testing.assert_allclose(log_p.detach(), np.log(want), rtol=1e-12)
    cdf = 0.2 * S.norm.cdf(at) + 0.5 * S.gamma.cdf(at, 2, scale=0.5) + 0.3 * S.beta.cdf(at, 2, 2)
    np.testing.assert_allclose(dist.cdf(y).detach(), cdf, rtol=1e-12)
    total = log_p.sum() + dist.log_cdf(y).sum() + dist.log_sf(y).sum()
    for gradient in torch.autograd.grad(total, (y, logits, shape)):
        assert gradient.isfinite().all()


def test_outside_all_supports_the_density_is_zero_without_nan() -> None:
    """log p = -inf, cdf 0 or 1, gradients 0; responsibilities are undefined."""
    shape = t(2.0, 3.0).requires_grad_()
    dist = Mixture(torch.zeros(2, dtype=torch.float64), Beta(shape, shape))
    y = t(-1.0, 2.0)[:, None]
    assert dist.log_prob(y).tolist() == [-INF, -INF]
    assert dist.cdf(y).tolist() == [0.0, 1.0]
    assert dist.log_sf(y).tolist() == [0.0, -INF]
    (gradient,) = torch.autograd.grad(dist.log_prob(y).clamp(min=-9).sum(), shape)
    assert gradient.tolist() == [0.0, 0.0]
    assert dist.responsibilities(y).isnan().all()
    assert mixture("poisson").log_prob(t(0.5)).item() == -INF


def test_a_point_mass_takes_its_place_and_leaves_the_density_elsewhere() -> None:
    """At the atom the log of the mass; elsewhere the log of the density; the cdf jumps."""
    dist = rain()
    y = t(-1.0, 0.0, 1e-300, 4.0)[:, None]
    want = [-INF, math.log(0.6), *(math.log(0.4) + S.gamma.logpdf([1e-300, 4.0], 2, scale=2))]
    np.testing.assert_allclose(dist.log_prob(y), want, rtol=1e-12)
    cdf = [0.0, 0.6, 0.6, 0.6 + 0.4 * S.gamma.cdf(4.0, 2, scale=2)]
    np.testing.assert_allclose(dist.cdf(y), cdf, rtol=1e-12)
    np.testing.assert_allclose(dist.log_sf(y).exp(), 1 - np.array(cdf), rtol=1e-12)
    assert dist.responsibilities(y)[1].tolist() == [0.0, -INF]
    assert dist.mean.item() == pytest.approx(1.6)
    assert dist.variance.item() == pytest.approx(0.4 * (8 + 16) - 1.6**2)


def test_a_gaussian_counts_as_zero_at_the_point_mass_only() -> None:
    """Gaussian plus atom at 0: the density of the Gaussian is not added to the mass."""
    dist = Mixture(t(0.25, 0.75).log(), [PointMass(t(0)[0]), Normal(t(0)[0], t(1)[0])])
    assert dist.log_prob(t(0.0)).item() == pytest.approx(math.log(0.25))
    assert dist.log_prob(t(1e-12)).item() == pytest.approx(math.log(0.75) + S.norm.logpdf(0))
    off = Mixture(t(-INF, 0.0), [PointMass(t(0)[0]), Normal(t(0)[0], t(1)[0])])
    assert off.log_prob(t(0.0)).item() == pytest.approx(S.norm.logpdf(0))
    p = np.array([0.1, 0.374, 0.376, 0.5, 0.6, 0.626, 0.9])
    want = np.where(p < 0.375, S.norm.ppf(p / 0.75), S.norm.ppf(np.clip((p - 0.25) / 0.75, 0, 1)))
    want = np.where((p >= 0.375) & (p <= 0.625), 0.0, want)
    np.testing.assert_allclose(dist.icdf(t(*p))[:, 0], want, atol=1e-12)


def test_quantiles_modes_and_region_with_a_point_mass() -> None:
    """icdf by scipy above the jump; the atom first among modes; the region holds it first."""
    dist = rain()
    p = t(0.0, 0.3, 0.6, 0.61, 0.9, 1.0)
    want = [0.0, 0.0, 0.0, *S.gamma.ppf([0.025, 0.75], 2, scale=2), INF]
    np.testing.assert_allclose(dist.icdf(p)[:, 0], want, rtol=1e-12)
    place, height = dist.modes()
    np.testing.assert_allclose(place[:, 0], [0.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(height, [math.log(0.6), math.log(0.4 / (2 * math.e))], rtol=1e-10)
    small = dist.hdr(0.5)
    assert small.intervals[0].tolist() == [0.0, 0.0]
    assert small.intervals[1].isnan().all()
    assert small.threshold.item() == INF
    intervals, threshold, _ = dist.hdr(0.8)
    assert intervals[0].tolist() == [0.0, 0.0]
    low, high = intervals[1].tolist()
    gamma = S.gamma(2, scale=2)
    assert 0.4 * (gamma.cdf(high) - gamma.cdf(low)) == pytest.approx(0.2, abs=1e-9)
    np.testing.assert_allclose(0.4 * gamma.pdf([low, high]), threshold, rtol=1e-6)


def test_crps_and_draws_with_a_point_mass() -> None:
    """E|Y - y| - E|Y - Y'| / 2 with the gamma's own; 0.6 of 10,000 draws are 0.

    The count lies within 5 standard deviations; fails by chance with probability 6e-7.
    """
    dist = rain()
    gamma = S.gamma(2, scale=2)
    y = 3.0
    to_y = scipy.integrate.quad(lambda x: abs(x - y) * gamma.pdf(x), 0, 80, points=[y])[0]
    pairs = 2 * scipy.integrate.quad(lambda x: gamma.cdf(x) * gamma.sf(x), 0, 120)[0]
    want = 0.6 * y + 0.4 * to_y - 0.5 * (2 * 0.24 * 4.0 + 0.16 * pairs)
    assert dist.crps(t(y)).item() == pytest.approx(want, rel=1e-8)
    draws = dist.sample((10_000,), generator=torch.Generator().manual_seed(3))
    assert abs((draws == 0).double().mean().item() - 0.6) < 5 * math.sqrt(0.24 / 10_000)


def test_point_masses_alone_are_a_discrete_distribution() -> None:
    """Three atoms, two at one place: masses add; CRPS by its kernel form."""
    dist = Mixture(t(0.2, 0.5, 0.3).log(), [PointMass(t(a)[0]) for a in (1.5, -2.0, 1.5)])
    np.testing.assert_allclose(dist.log_prob(t([1.5], [-2.0])).exp(), [0.5, 0.5])
    assert dist.icdf(t(0.3, 0.5, 0.6))[:, 0].tolist() == [-2.0, -2.0, 1.5]
    assert dist.crps(t(0.0)).item() == pytest.approx(0.5 * 1.5 + 0.5 * 2.0 - 0.5 * 0.5 * 3.5)
    assert dist.modes().loc[:2, 0].tolist() in ([1.5, -2.0], [-2.0, 1.5])
    assert dist.hdr(0.9).intervals[:2].tolist() == [[-2.0, -2.0], [1.5, 1.5]]


def test_the_quantile_at_a_point_mass_moves_with_it() -> None:
    """d icdf / d loc is 1 on the jump and 0 off it; elsewhere finite differences."""
    loc = t(0.0)[0].requires_grad_()
    m = t(1.0)[0].requires_grad_()
    p = t(0.5, 0.9)

    def f(loc: Tensor, m: Tensor) -> Tensor:
        parts = [PointMass(loc), Normal(m, t(1)[0])]
        return Mixture(t(0.6, 0.4).log(), parts).icdf(p)[:, 0]

    assert torch.autograd.grad(f(loc, m)[0], (loc, m), allow_unused=True)[0].item() == 1.0
    assert torch.autograd.gradcheck(lambda m: f(loc.detach(), m), (m,))


def test_zero_inflated_counts_add_their_masses() -> None:
    """Poisson + PointMass(0) is one probability mass: p(0) adds up."""
    dist = Mixture(t(0.3, 0.7).log(), [PointMass(t(0)[0]), Poisson(t(4)[0])])
    k = np.arange(30)
    want = 0.7 * S.poisson.pmf(k, 4) + 0.3 * (k == 0)
    np.testing.assert_allclose(dist.log_prob(t(*k)[:, None]).exp(), want, rtol=1e-12)
    np.testing.assert_allclose(dist.cdf(t(*k)[:, None]), np.cumsum(want), rtol=1e-12)
    assert dist.modes().loc[:, 0].tolist() in ([0.0, 3.0], [0.0, 4.0])
    want_crps = float(((np.cumsum(want) - (k >= 2)) ** 2).sum())
    assert dist.crps(t(2.0)).item() == pytest.approx(want_crps, rel=1e-9)


def test_gamma_with_log_normal_matches_scipy() -> None:
    """Two families on the half line."""
    dist = Mixture(t(0.3, 0.7).log(), [Gamma(t(2)[0], t(1)[0]), LogNormal(t(1)[0], t(0.2)[0])])
    y = np.array([1e-6, 0.3, 1.0, 2.5, 8.0, 40.0])
    gamma, log_normal = S.gamma(2), S.lognorm(0.2, scale=math.e)
    want = 0.3 * gamma.pdf(y) + 0.7 * log_normal.pdf(y)
    np.testing.assert_allclose(dist.log_prob(t(*y)[:, None]).exp(), want, rtol=1e-11)
    cdf = 0.3 * gamma.cdf(y) + 0.7 * log_normal.cdf(y)
    np.testing.assert_allclose(dist.cdf(t(*y)[:, None]), cdf, rtol=1e-11)
    np.testing.assert_allclose(dist.icdf(t(*cdf)[:-1])[:, 0], y[:-1], rtol=1e-10)
    assert dist.support.check(t([1.0], [-1.0])).tolist() == [True, True]


# --- agreement with what exists ------------------------------------------------------------------


def gaussians() -> tuple[GaussianMixture, Mixture]:
    """A batch of 40 mixtures of 5 Gaussians, one of them with a component switched off."""
    g = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(40, 5, generator=g, dtype=torch.float64)
    logits[1, 2] = -INF
    loc = 3 * torch.randn(40, 5, 1, generator=g, dtype=torch.float64)
    scale = torch.randn(40, 5, 1, generator=g, dtype=torch.float64).exp()
    return GaussianMixture(logits, loc, scale), Mixture(logits, Independent(Normal(loc, scale), 1))


def test_normal_components_give_the_gaussian_mixture() -> None:
    """Every member agrees with the formulas."""
    exact, dist = gaussians()
    y = torch.linspace(-9, 9, 21, dtype=torch.float64)[:, None, None].expand(21, 40, 1)
    for what in ("log_prob", "cdf", "log_cdf", "log_sf", "responsibilities"):
        np.testing.assert_allclose(
            getattr(dist, what)(y), getattr(exact, what)(y), rtol=1e-11, atol=1e-13, err_msg=what
        )
    np.testing.assert_allclose(dist.crps(y), exact.crps(y), rtol=1e-7)
    p = t(1e-8, 0.02, 0.5, 0.97, 1 - 1e-8)[:, None]
    np.testing.assert_allclose(dist.icdf(p), exact.icdf(p), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(dist.interval(0.8), exact.interval(0.8), rtol=1e-10)
    np.testing.assert_allclose(dist.median, exact.median, rtol=1e-10, atol=1e-12)
    for what in ("mean", "variance", "stddev"):
        np.testing.assert_allclose(getattr(dist, what), getattr(exact, what), rtol=1e-12)
    np.testing.assert_allclose(dist.modes().loc, exact.modes().loc, atol=1e-9)
    np.testing.assert_allclose(dist.modes().log_density, exact.modes().log_density, atol=1e-12)
    np.testing.assert_allclose(dist.mode, exact.mode, atol=1e-9)
    for coverage in (0.3, 0.9, 0.999):
        found, want = dist.hdr(coverage), exact.hdr(coverage)
        np.testing.assert_allclose(found.intervals, want.intervals, atol=1e-8)
        np.testing.assert_allclose(found.threshold, want.threshold, rtol=1e-7)


def test_a_density_that_jumps_has_its_mode_and_its_edge_on_the_jump() -> None:
    """Normal + exponential: a mode at 0 exactly; a region of two pieces, the second from 0 on."""
    parts = [Exponential(t(1)[0]), Normal(t(-1)[0], t(1)[0])]
    dist = Mixture(t(0.5, 0.5).log(), parts)
    assert dist.modes().loc[:, 0].tolist() == [0.0, -1.0]
    intervals, threshold, _ = dist.hdr(0.8)
    (a, b), (c, d) = intervals.tolist()
    assert c == pytest.approx(0.0, abs=1e-20)
    np.testing.assert_allclose(dist.log_prob(t([a], [b], [d])).exp(), threshold, rtol=1e-10)
    mass = sum(m * (dist.cdf(t(y))).item() for m, y in ((-1, a), (1, b), (-1, c), (1, d)))
    assert mass == pytest.approx(0.8, abs=1e-12)
    flat = Mixture(t(0.0), Uniform(t(1), t(3))).hdr(0.5)
    np.testing.assert_allclose(flat.intervals, [[1.0, 3.0]], rtol=1e-12)


@pytest.mark.parametrize("name", ["normal", "laplace", "gamma", "log_normal"])
def test_it_is_a_superset_of_mixture_same_family(name: str) -> None:
    """log_prob, mean, variance (and cdf where torch has one) agree; the properties are there."""
    parts = CASES[name].torch
    weights = Categorical(logits=t(*WEIGHTS).log())
    reference, dist = MixtureSameFamily(weights, parts), mixture(name)
    y = places(name)
    np.testing.assert_allclose(dist.log_prob(y[:, None]), reference.log_prob(y), rtol=1e-9,
                               atol=1e-12)  # fmt: skip
    np.testing.assert_allclose(dist.mean[0], reference.mean)
    np.testing.assert_allclose(dist.variance[0], reference.variance)
    np.testing.assert_allclose(dist.cdf(y[:, None]), reference.cdf(y), atol=1e-12)
    assert dist.component_distribution is dist.components
    np.testing.assert_allclose(dist.mixture_distribution.probs, dist.weights)


def test_a_list_of_one_family_is_that_family_stacked() -> None:
    """Components (*, K) or K components (*), with event () or (1,): one mixture."""
    case = CASES["student_t"].torch
    stacked = mixture("student_t")
    one_by_one = [StudentT(case.df[i], case.loc[i], case.scale[i]) for i in range(2)]
    wrapped = [Independent(StudentT(d.df[None], d.loc[None], d.scale[None]), 1) for d in one_by_one]
    whole = Independent(StudentT(case.df[:, None], case.loc[:, None], case.scale[:, None]), 1)
    y = places("student_t")[:, None]
    p = t(0.1, 0.7)
    for other in (one_by_one, wrapped, whole):
        dist = Mixture(t(*WEIGHTS).log(), other)
        assert dist.event_shape == (1,)
        np.testing.assert_allclose(dist.log_prob(y), stacked.log_prob(y), rtol=1e-14)
        np.testing.assert_allclose(dist.cdf(y), stacked.cdf(y), rtol=1e-14)
        np.testing.assert_allclose(dist.icdf(p), stacked.icdf(p), rtol=1e-13)
        np.testing.assert_allclose(dist.mean, stacked.mean, rtol=1e-14)
        np.testing.assert_allclose(dist.crps(t(0.3)), stacked.crps(t(0.3)), rtol=1e-12)
        np.testing.assert_allclose(dist.hdr(0.9).intervals, stacked.hdr(0.9).intervals, rtol=1e-9)
        assert dist.sample((5,), generator=torch.Generator().manual_seed(0)).shape == (5, 1)


def test_a_family_of_torch_that_is_not_listed_works_by_its_own_cdf() -> None:
    """Gumbel: cdf, icdf, region; SciPy's gumbel_r."""
    dist = Mixture(t(0.3, 0.7).log(), Gumbel(t(0, 5), t(1, 2)))
    parts = [S.gumbel_r(0, 1), S.gumbel_r(5, 2)]
    y = t(-1.0, 0.5, 4.0, 12.0)
    cdf = 0.3 * parts[0].cdf(y.numpy()) + 0.7 * parts[1].cdf(y.numpy())
    np.testing.assert_allclose(dist.cdf(y[:, None]), cdf, rtol=1e-12)
    np.testing.assert_allclose(dist.icdf(t(*cdf))[:, 0], y, rtol=1e-10)
    ends = dist.hdr(0.8).intervals
    ends = ends[~ends[:, 0].isnan()]
    assert (dist.cdf(ends[:, 1:]) - dist.cdf(ends[:, :1])).sum().item() == pytest.approx(0.8)


def test_a_family_without_known_parameters_still_has_density_cdf_and_draws() -> None:
    """An affine image of an exponential: quantiles come from its own, draws from all of K."""
    base = Exponential(torch.ones(2, dtype=torch.float64))
    parts = TransformedDistribution(base, [AffineTransform(t(0, 2), t(1, 3))])
    dist = Mixture(t(0.5, 0.5).log(), parts)
    y = np.array([0.5, 2.5, 7.0])
    cdf = 0.5 * S.expon.cdf(y) + 0.5 * S.expon.cdf(y, loc=2, scale=3)
    np.testing.assert_allclose(dist.cdf(t(*y)[:, None]), cdf, rtol=1e-12)
    assert dist.sample((7,), generator=torch.Generator().manual_seed(0)).shape == (7, 1)
    with pytest.raises(TypeError, match="made from the parameters they name"):
        dist.expand((3,))[0]


# --- several targets -----------------------------------------------------------------------------


def test_several_targets_have_density_moments_and_draws() -> None:
    """Independent Laplace in two dimensions, and a multivariate normal, against torch."""
    g = torch.Generator().manual_seed(4)
    loc = torch.randn(5, 3, 2, generator=g, dtype=torch.float64)
    logits = torch.randn(5, 3, generator=g, dtype=torch.float64)
    y = torch.randn(7, 5, 2, generator=g, dtype=torch.float64)
    tril = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    for parts in (
        Independent(Laplace(loc, torch.ones_like(loc)), 1),
        MultivariateNormal(loc, scale_tril=tril.expand(5, 3, 2, 2)),
    ):
        dist = Mixture(logits, parts)
        reference = MixtureSameFamily(Categorical(logits=logits), parts)
        np.testing.assert_allclose(dist.log_prob(y), reference.log_prob(y), rtol=1e-12)
        np.testing.assert_allclose(dist.mean, reference.mean, rtol=1e-12)
        np.testing.assert_allclose(dist.variance, reference.variance, rtol=1e-12)
        draws = dist.sample((4000,), generator=g)
        assert draws.shape == (4000, 5, 2)
        # five standard errors of 10 means: fails by chance with probability 6e-6
        assert ((draws.mean(0) - dist.mean).abs() < 5 * dist.stddev / math.sqrt(4000)).all()
        np.testing.assert_allclose(dist[2].log_prob(y[:, 2]), dist.log_prob(y)[:, 2], rtol=1e-12)
        with pytest.raises(ValueError, match="cdf needs one target dimension; this mixture has 2"):
            dist.cdf(y)


# --- shapes, randomness, new mixtures ------------------------------------------------------------


def batched() -> Mixture:
    """Two by three mixtures of a Student-t, a gamma and a point mass in one list."""
    g = torch.Generator().manual_seed(9)
    a, b, c = (torch.rand(2, 3, generator=g, dtype=torch.float64) + 0.5 for _ in range(3))
    parts = [StudentT(a + 2, b, c), Gamma(a, b), PointMass(torch.zeros(2, 3).double())]
    return Mixture(torch.randn(2, 3, 3, generator=g, dtype=torch.float64), parts)


def test_a_batch_is_a_loop_over_its_rows() -> None:
    """Every member of a row is that of the row alone."""
    dist = batched()
    y = torch.linspace(-2, 3, 6, dtype=torch.float64).reshape(2, 3, 1)
    p = torch.linspace(0.05, 0.95, 6, dtype=torch.float64).reshape(2, 3)
    regions, modes = dist.hdr(0.9).intervals, dist.modes().loc
    for i, j in ((0, 0), (1, 2)):
        one = dist[i, j]
        assert one.batch_shape == ()
        for what, arg in (("log_prob", y), ("cdf", y), ("crps", y), ("icdf", p)):
            whole = getattr(dist, what)(arg)[i, j]
            np.testing.assert_allclose(getattr(one, what)(arg[i, j]), whole, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(one.mean, dist.mean[i, j], rtol=1e-12)
        np.testing.assert_allclose(one.modes().loc, modes[i, j], atol=1e-9)
        np.testing.assert_allclose(one.hdr(0.9).intervals, regions[i, j], atol=1e-8)


@each
def test_a_batch_of_one_family_is_a_loop_over_its_rows(name: str) -> None:
    """Indexing by integer, slice and mask gives the parameters of the row."""
    parts = CASES[name].torch
    dist = Mixture(t(*WEIGHTS).log(), parts.expand((4, 2)))
    y = places(name)[4].reshape(1)
    for index in (1, slice(1, 3), torch.tensor([True, False, True, False]), torch.tensor([2, 0])):
        part = dist[index]
        want = mixture(name).log_prob(y).expand(part.batch_shape)
        np.testing.assert_allclose(part.log_prob(y), want, rtol=1e-13)


def test_one_mixture_takes_any_batch_of_targets_and_levels() -> None:
    """Axes in front of the batch broadcast in every member."""
    dist = batched()
    y = torch.randn(5, 2, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert dist.log_prob(y).shape == dist.crps(y).shape == dist.cdf(y).shape == (5, 2, 3)
    assert dist.icdf(torch.rand(4, 1, 1, dtype=torch.float64)).shape == (4, 2, 3, 1)
    assert dist.modes().loc.shape == (2, 3, 3, 1)
    assert dist.hdr(0.5).intervals.shape == (2, 3, 3, 2)
    counts = Mixture(torch.zeros(2, 3, 1).double(), Poisson(torch.rand(2, 3, 1).double() + 1))
    assert counts.crps(torch.ones(5, 2, 3, 1).double()).shape == (5, 2, 3)
    assert counts.icdf(torch.rand(4, 1, 1, dtype=torch.float64)).shape == (4, 2, 3, 1)
    assert counts.hdr(0.5).intervals.shape[:2] == (2, 3)


def test_a_component_of_weight_zero_changes_nothing() -> None:
    """Whatever its parameters: density, quantiles, moments, region, draws."""
    dist = Mixture(t(0.0, -INF), Gamma(t(2, 0.01), t(1, 1e-9)))
    alone = Mixture(t(0.0), Gamma(t(2.0), t(1.0)))
    y = t(0.5)
    for what in ("log_prob", "cdf", "crps"):
        np.testing.assert_allclose(getattr(dist, what)(y), getattr(alone, what)(y), rtol=1e-9)
    np.testing.assert_allclose(dist.icdf(0.3), alone.icdf(0.3), rtol=1e-12)
    np.testing.assert_allclose(dist.variance, alone.variance)
    np.testing.assert_allclose(dist.hdr(0.9).intervals[:1], alone.hdr(0.9).intervals, rtol=1e-8)
    draws = [m.sample((99,), generator=torch.Generator().manual_seed(0)) for m in (dist, alone)]
    assert draws[0].max() < 50
    assert draws[1].max() < 50


def test_the_pool_is_the_average_of_the_densities() -> None:
    """One family stays one family; different ones become a list; weights are normalised."""
    a, b = mixture("gamma"), mixture("weibull")
    y = t(0.3, 2.0)[:, None]
    same = Mixture.pool([a, a.expand((4,))])
    assert same.batch_shape == (4,)
    assert isinstance(same.components, Gamma)
    assert same.n_components == 4
    np.testing.assert_allclose(same.log_prob(y[0]), a.log_prob(y[0]).expand(4), rtol=1e-13)
    both = Mixture.pool([a, b], weights=[1.0, 3.0])
    assert [type(c) for c in both.components] == [Gamma, Gamma, Weibull, Weibull]
    want = 0.25 * a.log_prob(y).exp() + 0.75 * b.log_prob(y).exp()
    np.testing.assert_allclose(both.log_prob(y).exp(), want, rtol=1e-12)
    again = Mixture(both.logits, both.components)
    np.testing.assert_allclose(again.cdf(y), both.cdf(y), rtol=1e-12)


def test_conversions_keep_the_mixture() -> None:
    """to, detach, expand; dtype in, dtype out."""
    dist = mixture("student_t")
    single = dist.to(torch.float32)
    y = torch.tensor([0.3])
    for value in (single.log_prob(y), single.icdf(0.3), single.mean, single.crps(y),
                  single.sample(), single.modes().loc, single.hdr(0.5).intervals):  # fmt: skip
        assert value.dtype == torch.float32
    assert single.log_prob(y.double()).dtype == torch.float64
    np.testing.assert_allclose(single.log_prob(y), dist.log_prob(y.double()), rtol=1e-6)
    logits = t(*WEIGHTS).log().requires_grad_()
    assert not Mixture(logits, CASES["gamma"].torch).detach().log_prob(y).requires_grad
    assert dist.expand((2, 3)).log_prob(y).shape == (2, 3)
    assert dist.log_prob(torch.tensor([1])).dtype == torch.float64  # whole numbers are taken


def test_two_backward_passes_through_one_mixture() -> None:
    """Nothing of the graph is kept between calls."""
    logits, count, other = (a.requires_grad_() for a in (t(0.1, 0.4), t(2.0, 5.0), t(0.3, 1.0)))
    dist = Mixture(logits, NegativeBinomial(count, logits=other))
    y = t(3.0)
    first = torch.autograd.grad(dist.log_prob(y), (logits, count, other))
    second = torch.autograd.grad(dist.log_prob(y), (logits, count, other))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_support_and_repr_tell_what_it_is_made_of() -> None:
    """One support if the components share it."""
    assert mixture("gamma").support.check(t([1.0], [-1.0])).tolist() == [True, False]
    assert rain().support.check(t([0.0], [-1.0])).tolist() == [True, False]
    assert repr(mixture("gamma")) == (
        "Mixture(batch_shape=(), event_shape=(1,), components=Gamma, n_components=2)"
    )
    assert "components=[StudentT, Gamma, PointMass]" in repr(batched())


# --- the two families of our own, and the registry -----------------------------------------------


def test_logistic_is_scipys() -> None:
    """log_prob, cdf, icdf, moments, entropy; reparametrised draws (mean within 5 errors: 6e-7)."""
    dist = Logistic(t(1.0, -2.0), t(0.5, 3.0))
    reference = S.logistic(dist.loc.numpy(), dist.scale.numpy())
    y = t(-900.0, 0.3, 40.0)[:, None]
    np.testing.assert_allclose(dist.log_prob(y), reference.logpdf(y.numpy()), rtol=1e-13)
    np.testing.assert_allclose(dist.cdf(y), reference.cdf(y.numpy()), rtol=1e-13)
    np.testing.assert_allclose(dist.icdf(t(0.1, 0.8)), reference.ppf([0.1, 0.8]), rtol=1e-13)
    np.testing.assert_allclose(dist.variance, reference.var())
    np.testing.assert_allclose(dist.entropy(), reference.entropy())
    assert torch.equal(dist.mean, dist.mode)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = dist.expand((5, 2)).rsample((2000,))
    assert draws.shape == (2000, 5, 2)
    assert ((draws.mean((0, 1)) - dist.mean).abs() < 5 * dist.stddev / 100).all()
    with pytest.raises(ValueError, match="scale"):
        Logistic(t(0.0), t(-1.0), validate_args=True)


def test_point_mass_is_at_its_point() -> None:
    """Density, cdf, moments and draws."""
    dist = PointMass(t(1.0, 2.0))
    assert dist.log_prob(t(1.0)).tolist() == [0.0, -INF]
    assert dist.cdf(t(1.5)).tolist() == [1.0, 0.0]
    assert dist.variance.tolist() == dist.entropy().tolist() == [0.0, 0.0]
    assert torch.equal(dist.mean, dist.mode)
    assert dist.sample((3,)).shape == (3, 2)
    assert dist.expand((4, 2)).batch_shape == (4, 2)
    assert dist.support.check(t(1.0, 1.0)).tolist() == [True, False]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_built_from_raw_numbers_of_any_size(name: str) -> None:
    """Parameters of all sizes stay inside their ranges, at the floor and far above."""
    family = FAMILIES[name]
    for size in (-50.0, 0.0, 30.0):
        raw = [torch.full((4, 2), size) for _ in family.parameters]
        dist = family.build(*raw)
        assert dist.batch_shape == (4, 2)
        for parameter in (p.name for p in family.parameters):
            value = getattr(dist, parameter)
            assert value.isfinite().all()
            if parameter not in ("loc", "logits"):
                assert (value > 0).all()
        y = torch.ones(4, 1) if name != "beta" else torch.full((4, 1), 0.5)
        assert not Mixture(torch.zeros(4, 2), dist).log_prob(y).isnan().any()
    wide = family.build(*[torch.full((1,), -50.0) for _ in family.parameters], floor=0.5)
    narrow = family.build(*[torch.full((1,), -50.0) for _ in family.parameters])
    names = [p.name for p in family.parameters]
    assert any(not torch.equal(getattr(wide, p), getattr(narrow, p)) for p in names)


# --- errors --------------------------------------------------------------------------------------


def test_a_family_without_a_cdf_says_so() -> None:
    """The density is there, the cdf is not."""
    dist = Mixture(t(0), MultivariateNormal(torch.zeros(1, 1).double(), torch.eye(1).double()))
    assert dist.log_prob(t(0.0)).item() == pytest.approx(S.norm.logpdf(0))
    with pytest.raises(TypeError, match="must have a cdf for this; MultivariateNormal has none"):
        dist.cdf(t(0.0))


def test_counts_too_wide_for_a_sum_say_so() -> None:
    """A negative binomial of mean 1e9."""
    dist = Mixture(t(0), NegativeBinomial(t(0.1), logits=t(23.0)))
    assert dist.icdf(0.9).isfinite()
    with pytest.raises(ValueError, match="must not spread over more than 4194304 whole numbers"):
        dist.crps(t(0.0))


# --- the logit-normal, which torch does not have -------------------------------------------------


@pytest.mark.parametrize(
    ("loc", "scale"), [(0, 1e-3), (-2, 0.7), (3, 2), (0, 8), (-30, 1), (1, 40)]
)
def test_moments_of_the_logit_normal_match_mpmath(loc: float, scale: float) -> None:
    """Integrals of y and (y - mean)^2 over the Gaussian, relative."""
    law = LogitNormal(t(loc), t(scale))

    def expect(f: Callable[[Any], Any]) -> Any:
        cuts = sorted({-12.0, -4.0, 0.0, 4.0, 12.0, min(12.0, max(-12.0, -loc / scale))})
        if scale > 4:  # the sigmoid is a step there
            cuts = sorted({*cuts, *(-loc / scale + d / scale for d in (-40, -5, 5, 40))})
        return mp.quad(lambda z: f(1 / (1 + mp.exp(-loc - scale * z))) * mp.npdf(z), cuts)

    with mp.workdps(30):
        mean = expect(lambda y: y)
        variance = expect(lambda y: (y - mean) ** 2)
    assert law.mean.item() == pytest.approx(float(mean), rel=1e-11)
    assert law.variance.item() == pytest.approx(float(variance), rel=1e-9)


def test_the_logit_normal_mirrors() -> None:
    """If Y has loc m then 1 - Y has loc -m: density, cdf and moments, to rounding."""
    a, b = LogitNormal(t(1.3), t(0.8)), LogitNormal(t(-1.3), t(0.8))
    y = t(1e-6, 0.1, 0.5, 0.97)
    np.testing.assert_allclose(a.log_prob(y), b.log_prob(1 - y), rtol=1e-9)
    np.testing.assert_allclose(a.cdf(y), 1 - b.cdf(1 - y), atol=1e-14)
    np.testing.assert_allclose(a.mean, 1 - b.mean, rtol=1e-15)
    np.testing.assert_allclose(a.variance, b.variance, rtol=1e-15)
    np.testing.assert_allclose(a.cdf(a.icdf(y)), y, rtol=1e-10)


def test_the_logit_normal_vanishes_at_its_ends_with_finite_gradients() -> None:
    """p(0) = p(1) = 0, and nothing there makes a gradient NaN."""
    loc, scale = t(0.5).requires_grad_(), t(2.0).requires_grad_()
    y = t(0.0, 0.3, 1.0).requires_grad_()
    log_p = LogitNormal(loc, scale).log_prob(y)
    assert log_p[[0, 2]].tolist() == [-INF, -INF]
    grads = torch.autograd.grad(log_p[1] + LogitNormal(loc, scale).log_prob(y).exp().sum(),
                                [loc, scale, y])  # fmt: skip
    assert all(bool(g.isfinite().all()) for g in grads)


def test_draws_of_a_logit_normal_stay_inside() -> None:
    """Also where the sigmoid rounds to 0 or 1; and they carry the gradient of loc: y (1 - y)."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        wide = LogitNormal(torch.zeros(1000, dtype=dtype), torch.full((1000,), 200.0, dtype=dtype))
        y = wide.sample()
        assert bool(((y > 0) & (y < 1)).all())
    loc = t(0.4).requires_grad_()
    y = LogitNormal(loc, t(1.0)).rsample((5,))
    (grad,) = torch.autograd.grad(y.sum(), loc)
    np.testing.assert_allclose(grad.item(), (y * (1 - y)).sum().item(), rtol=1e-12)


def test_the_log_tails_of_a_logit_normal_keep_their_digits() -> None:
    """Log P is log_ndtr of the logit in scales, 20 scales out on either side."""
    dist = Mixture(t(0), Independent(LogitNormal(t([0.0]), t([1.0])), 1))
    y = torch.sigmoid(t([-20.0], [20.0]))
    z = scipy.special.logit(y[:, 0].numpy())
    np.testing.assert_allclose(dist.log_cdf(y)[:1], scipy.special.log_ndtr(z[:1]), rtol=1e-12)
    np.testing.assert_allclose(dist.log_sf(y)[1:], scipy.special.log_ndtr(-z[1:]), rtol=1e-12)


def test_a_wide_logit_normal_has_a_mode_at_either_end() -> None:
    """Modes solve logit(y) = m + s^2 (2 y - 1): two for s > sqrt 2; the region splits there."""
    dist = Mixture(t(0), Independent(LogitNormal(t([0.2]), t([2.5])), 1))
    places = dist.modes().loc[:, 0]
    assert len(places) == 2
    slope = scipy.special.logit(places.numpy()) - 0.2 - 6.25 * (2 * places.numpy() - 1)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    intervals = dist.hdr(0.6).intervals
    assert not bool(intervals.isnan().any())
    inside = dist.cdf(intervals[:, 1:]) - dist.cdf(intervals[:, :1])
    assert inside.sum().item() == pytest.approx(0.6, abs=1e-8)


# --- marginals -----------------------------------------------------------------------------------


def test_the_marginal_of_independent_dimensions_is_the_integral_over_the_others() -> None:
    """p(y_2, y_1) of three dimensions by quadrature over y_3; the order is the asked one."""
    loc = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dist = Mixture(torch.zeros(4, 2).double(), Independent(LogNormal(loc, loc.abs() + 0.3), 1))
    pair = dist.marginal([1, 0])
    assert (pair.batch_shape, pair.event_shape) == ((4,), (2,))
    u = torch.linspace(-25, 25, 2001, dtype=torch.float64)
    at = torch.stack([torch.full_like(u, 0.7), torch.full_like(u, 1.9), u.exp()], -1)
    inner = dist.log_prob(at.unsqueeze(1).expand(-1, 4, -1)).exp() * u.exp().unsqueeze(1)
    np.testing.assert_allclose(
        pair.log_prob(t(1.9, 0.7)).exp(), torch.trapezoid(inner, u, dim=0), rtol=1e-9
    )
    np.testing.assert_array_equal(dist.marginal(2).mean, dist.mean[:, 2:])
    assert dist.marginal(-1).icdf(0.5).shape == (4, 1)


@pytest.mark.parametrize(
    ("dims", "error", "match"),
    [
        (2, ValueError, "dims must be distinct and within 0..1; got 2"),
        ([], ValueError, r"dims must be distinct and within 0..1; got \[\]"),
        (0, TypeError, "marginal needs components of independent dimensions.* MultivariateNormal"),
    ],
)
def test_marginals_that_are_not_there_are_refused(dims: Any, error: type, match: str) -> None:
    """A dimension that is not there, or a family that ties them together."""
    tied = MultivariateNormal(torch.zeros(1, 2).double(), torch.eye(2).double())
    with pytest.raises(error, match=match):
        Mixture(t(0), tied).marginal(dims)


# --- families that torch says little of ---------------------------------------------------------


def _through(base: td.Distribution, *transforms: Any) -> Mixture:
    return Mixture(t(0.0), td.TransformedDistribution(base, list(transforms)))


@pytest.mark.parametrize(
    ("mixture", "law"),
    [
        (_through(td.Normal(t(1.0), t(0.5)), ExpTransform()), scipy.stats.lognorm(0.5, scale=np.e)),
        (_through(td.StudentT(t(3.0)), AffineTransform(1.0, -2.0)), scipy.stats.t(3, 1, 2)),
        (_through(td.StudentT(t(1.5)), AffineTransform(1.0, -2.0)), scipy.stats.t(1.5, 1, 2)),
        *(
            (_through(td.Exponential(t(a)), ExpTransform()), scipy.stats.pareto(a))
            for a in (0.5, 1.2, 2.0, 2.1, 9.0)
        ),
        (Mixture(t(0.0), td.FisherSnedecor(t(3.0), t(3.5))), scipy.stats.f(3, 3.5)),
        (Mixture(t(0.0), td.HalfCauchy(t(2.0))), scipy.stats.halfcauchy(scale=2)),
    ],
)  # fmt: skip
def test_moments_that_torch_lacks_are_integrated(mixture: Mixture, law: Any) -> None:
    """To 1e-7 relative, also where the tails are powers; infinite where these are too heavy."""
    assert mixture.mean.item() == pytest.approx(law.mean(), rel=1e-7)
    assert mixture.variance.item() == pytest.approx(law.var(), rel=1e-7)


def test_a_mean_of_two_tails_that_are_too_heavy_is_not_defined() -> None:
    """NaN, as torch says of Cauchy; the mean of dependent dimensions is refused in words."""
    for mixture in (
        _through(td.Cauchy(t(0.0), t(1.0)), AffineTransform(1.0, 2.0)),
        Mixture(t(0.0), td.Cauchy(t(0.0), t(1.0))),
    ):
        assert bool(mixture.mean.isnan() & mixture.variance.isnan())
    plane = td.TransformedDistribution(
        td.MultivariateNormal(torch.zeros(1, 2), torch.eye(2)), [ExpTransform()]
    )
    with pytest.raises(TypeError, match=r"^mean and variance need components .* average draws$"):
        _ = Mixture(torch.zeros(1), plane).mean


@pytest.mark.parametrize("name", ["independent", "plain"])
def test_moments_of_a_transformed_family_have_gradients(name: str) -> None:
    """Softplus of a normal: mean and variance of 2 targets, against differences in loc."""

    def moments(loc: Tensor) -> Tensor:
        base = td.TransformedDistribution(td.Normal(loc, 0.7), [SoftplusTransform()])
        parts = td.Independent(base, 1) if name == "independent" else base
        mixture = Mixture(torch.zeros(2).double(), parts)
        return torch.cat([mixture.mean, mixture.variance])

    loc = t([-1.0, 2.0], [0.5, 1.0]) if name == "independent" else t(-1.0, 2.0)
    step = 1e-5 * torch.linspace(1, 2, loc.numel()).double().view_as(loc)
    slope = torch.autograd.functional.jacobian(moments, loc)
    want = (moments(loc + step) - moments(loc - step)) / 2
    torch.testing.assert_close((slope * step).flatten(1).sum(1), want, rtol=1e-6, atol=1e-13)


def test_a_family_of_halves_has_both_tails() -> None:
    """HalfCauchy and Cauchy, of which the tails are long: 1e-12 relative at 1e200."""
    for family, law in ((td.HalfCauchy(t(2.0)), scipy.stats.halfcauchy(scale=2)),
                        (td.Cauchy(t(1.0), t(2.0)), scipy.stats.cauchy(1, 2))):  # fmt: skip
        mixture, y = Mixture(t(0.0), family), t([0.5], [3.0], [1e9])
        np.testing.assert_allclose(mixture.log_cdf(y), law.logcdf(y[:, 0]), rtol=1e-9)
        np.testing.assert_allclose(mixture.log_sf(y), law.logsf(y[:, 0]), rtol=1e-7)
        assert mixture.log_sf(t([1e200])).item() == pytest.approx(
            math.log(law.sf(1e9)) - 191 * math.log(10), rel=1e-7
        )
        edges = mixture.hdr(0.9).intervals[0]
        assert law.cdf(edges[1]) - law.cdf(edges[0]) == pytest.approx(0.9, abs=1e-8)


def test_a_family_whose_constructor_needs_more_is_refused_in_words() -> None:
    """Each time that one asks, not the first time only; and its log density works."""
    mixture = Mixture(torch.zeros(2), td.RelaxedBernoulli(torch.tensor(0.5), torch.rand(2)))
    assert bool(mixture.log_prob(torch.tensor([0.3])).isfinite())
    for _ in range(2):
        with pytest.raises(TypeError, match=r"must have a cdf for this; .*log_prob and sample"):
            mixture.cdf(torch.tensor([0.3]))
        with pytest.raises(TypeError, match="made from the parameters they name"):
            mixture.to(torch.float64)


# --- forward mode -------------------------------------------------------------------------------

_FAMILIES: dict[str, Callable[[Tensor], Any]] = {
    "normal": lambda a: td.Normal(a, t(0.5, 1.0)),
    "gamma": lambda a: td.Gamma(a.exp(), t(1.0, 2.0)),
    "cauchy": lambda a: td.Cauchy(a, t(0.5, 1.0)),
    "softplus": lambda a: td.TransformedDistribution(td.Normal(a, 0.5), [SoftplusTransform()]),
    "point": lambda a: [PointMass(a[0]), td.Gamma(a[1].exp(), t(1.0)[0])],
}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", _FAMILIES)
def test_quantiles_have_the_derivative_in_forward_mode(name: str, cut: bool) -> None:
    """In levels, weights and parameters: forward_ad, and torch.func where no SciPy is in."""
    if cut and name == "point":
        return

    def quantiles(w: Tensor, a: Tensor, p: Tensor) -> Tensor:
        mixture: Any = Mixture(w, _FAMILIES[name](a))
        return (mixture.truncate(0.2, 2.5) if cut else mixture).icdf(p)

    at = t(0.2, -0.3), t(-0.5, 0.7), t(0.1, 0.5, 0.9)
    step = t(0.3, -0.2), t(0.4, 0.1), t(0.02, -0.05, 0.01)
    ends = ([x + s * v for x, v in zip(at, step, strict=True)] for s in (1e-5, -1e-5))
    after, before = (quantiles(*end) for end in ends)
    want = (after - before) / 2e-5
    with forward_ad.dual_level():
        dual = quantiles(*(forward_ad.make_dual(x, v) for x, v in zip(at, step, strict=True)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, want, rtol=1e-6, atol=1e-8)
    if name not in ("gamma", "point"):
        found = torch.func.jvp(quantiles, at, step)[1]
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)


# --- targets with gaps ------------------------------------------------------------------------


def test_gaps_leave_the_product_of_the_known_dimensions() -> None:
    """Gamma components of independent dimensions against SciPy; gradients are finite."""
    rng = np.random.default_rng(0)
    shape, rate = (torch.as_tensor(rng.uniform(1, 3, (6, 2, 3))) for _ in range(2))
    shape.requires_grad_()
    logits = torch.as_tensor(rng.normal(size=(6, 2)))
    dist = Mixture(logits, td.Independent(td.Gamma(shape, rate), 1))
    y = torch.as_tensor(rng.uniform(0.5, 2, (6, 3)))
    holes = [[], [0], [1, 2], [2], [0, 1, 2], [0, 2]]
    expected = []
    for row, missing in enumerate(holes):
        y[row, missing] = math.nan
        known = [d for d in range(3) if d not in missing]
        terms = scipy.stats.gamma.logpdf(
            y[row].numpy(), shape[row].detach().numpy(), scale=1 / rate[row].numpy()
        )[:, known].sum(-1)
        weight = np.exp(logits[row].numpy()) / np.exp(logits[row].numpy()).sum()
        expected.append(np.log(weight @ np.exp(terms)) if known else 0.0)
    found = dist.log_prob(y, missing="marginal")
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    found.sum().backward()
    assert shape.grad is not None and bool(shape.grad.isfinite().all())
    assert bool((shape.grad[4] == 0).all() and (shape.grad[1, :, 0] == 0).all())


def test_a_gap_in_one_dimension_counts_nothing() -> None:
    """Also of distributions without density, which are rebuilt row by row."""
    dist = Mixture(torch.zeros(3, 2), td.Normal(torch.zeros(3, 2), torch.ones(3, 2)))
    y = torch.tensor([[0.0], [math.nan], [1.0]])
    for of in (dist, dist.truncate(-1.0, 2.0), dist.discretize(1.0)):
        found = of.log_prob(y, missing="marginal")
        assert found[1] == 0
        assert torch.equal(found[::2], of[::2].log_prob(y[::2]))


def test_gaps_of_dependent_dimensions_without_a_formula_are_refused() -> None:
    """Torch's MultivariateNormal as a component has no marginals here."""
    eye = torch.eye(2)
    dist = Mixture(torch.zeros(1), [td.MultivariateNormal(torch.zeros(2), eye)])
    with pytest.raises(TypeError, match="marginal needs components of independent dimensions"):
        dist.log_prob(torch.tensor([0.0, math.nan]), missing="marginal")


# -- parameters at their edges ------------------------------------------------------------------


def _at_an_edge() -> dict[str, tuple[Distribution, float, dict[str, float]]]:
    """Families whose shapes are huge, a y within their width, and mpmath's or SciPy's answers."""
    found: dict[str, tuple[Distribution, float, dict[str, float]]] = {}
    with mpmath.workdps(60):
        m, lg = mpmath.mpf, mpmath.loggamma
        normal = scipy.stats.norm(0.0, 2.0)
        z = 0.25
        crps = 2 * (z * (2 * normal.cdf(0.5) - 1) + 2 * scipy.stats.norm.pdf(z))
        crps -= 2 / math.sqrt(math.pi)
        for df in (1e20, math.inf):
            found[f"student df={df:g}"] = (
                td.StudentT(t(df), t(0.0), t(2.0), validate_args=False),
                0.5,
                {
                    "log_prob": normal.logpdf(0.5),
                    "cdf": normal.cdf(0.5),
                    "variance": 4,
                    "crps": crps,
                },
            )
        for df in (1e8, 1e12):
            n = m(df)
            value = lg((n + 1) / 2) - lg(n / 2) - mpmath.log(n * mpmath.pi) / 2 - mpmath.log(2)
            value -= (n + 1) / 2 * mpmath.log(1 + m(z) ** 2 / n)
            answers = {"log_prob": value, "cdf": scipy.stats.t.cdf(z, df)}
            found[f"student df={df:g}"] = td.StudentT(t(df), t(0.0), t(2.0)), 0.5, answers
        for a in (1e10, 1e15):
            y = 1 + 1 / math.sqrt(a)
            value = m(a) * mpmath.log(m(a)) + (m(a) - 1) * mpmath.log(m(y)) - m(a) * m(y) - lg(m(a))
            answers = {"log_prob": value, "cdf": scipy.stats.gamma.cdf(y, a, scale=1 / a)}
            found[f"gamma a={a:g}"] = td.Gamma(t(a), t(a)), y, {**answers, "variance": 1 / a}
            y = 0.5 + 0.5 / math.sqrt(2 * a)
            value = (m(a) - 1) * (mpmath.log(m(y)) + mpmath.log(1 - m(y)))
            value += lg(2 * m(a)) - 2 * lg(m(a))
            answers = {"log_prob": value, "cdf": scipy.stats.beta.cdf(y, a, a)}
            found[f"beta a={a:g}"] = td.Beta(t(a), t(a)), y, answers
            value = mpmath.log(m(a)) + (m(a) - 1) * mpmath.log(1 + 1 / m(a))
            value -= (1 + 1 / m(a)) ** m(a)
            ratio = mpmath.gamma(1 + 2 / m(a)) - mpmath.gamma(1 + 1 / m(a)) ** 2
            found[f"weibull k={a:g}"] = td.Weibull(t(1.0), t(a)), 1.0, {"variance": ratio}
        for r in (1e6, 1e10, 1e15, 1e20):
            logit = math.log(3 / r)
            p = 1 / (1 + mpmath.exp(-m(logit)))
            mass = [
                mpmath.exp(
                    lg(m(r) + k) - lg(m(r)) - lg(m(k) + 1) + m(r) * mpmath.log(1 - p)
                    + k * mpmath.log(p)
                )
                for k in range(3)
            ]  # fmt: skip
            found[f"negative binomial r={r:g}"] = (
                td.NegativeBinomial(t(r), logits=t(logit)),
                2.0,
                {"log_prob": mpmath.log(mass[2]), "cdf": sum(mass)},
            )
        for k in (1e10, 1e20):  # the normal one, to 1 / k
            y = 1 / math.sqrt(k)
            value = scipy.stats.norm.logpdf(y, 0.0, y)
            answers = {"log_prob": value, "cdf": scipy.stats.norm.cdf(1.0), "variance": 1 / k}
            found[f"von mises k={k:g}"] = td.VonMises(t(0.0), t(k)), y, answers
        rate, count = m(10) ** 12, 10**12 + 10**6
        value = count * mpmath.log(rate) - rate - lg(m(count) + 1)
        found["poisson 1e12"] = td.Poisson(t(1e12)), float(count), {"log_prob": value}
    return {n: (d, y, {k: float(v) for k, v in a.items()}) for n, (d, y, a) in found.items()}


EDGES = _at_an_edge()


@pytest.mark.parametrize("name", EDGES)
def test_families_keep_their_digits_at_the_edges_of_their_parameters(name: str) -> None:
    """Against mpmath and SciPy, where log-gammas of 1e10 to 1e22 cancel or the limit is normal."""
    dist, y, answers = EDGES[name]
    mixture = Mixture(torch.zeros(1, dtype=torch.float64), dist.expand((1,)), validate_args=False)
    for question, expected in answers.items():
        asked = getattr(mixture, question)
        got = asked if isinstance(asked, Tensor) else asked(t(y)[None])
        assert float(got) == pytest.approx(expected, rel=1e-7), question


def test_gradients_at_the_edges_are_those_of_the_limit() -> None:
    """Student-t of infinite df: the slopes of the normal, 0 in df; gamma of shape 1e10: finite."""
    df, scale = t(math.inf).requires_grad_(), t(2.0).requires_grad_()
    student = td.StudentT(df, t(0.0), scale, validate_args=False).expand((1,))
    y = t(0.5)[None].requires_grad_()
    value = Mixture(torch.zeros(1).double(), student).log_prob(y)
    on_y, on_df, on_scale = torch.autograd.grad(value, (y, df, scale))
    assert float(on_y) == pytest.approx(-0.125)
    assert float(on_df) == 0
    assert float(on_scale) == pytest.approx((0.25**2 - 1) / 2)
    a = t(1e10).requires_grad_()
    value = Mixture(torch.zeros(1).double(), td.Gamma(a, t(1e10)).expand((1,))).log_prob(t(1)[None])
    assert float(torch.autograd.grad(value, a)[0]) == pytest.approx(0.5e-10, rel=1e-6)


# --- many components ------------------------------------------------------------------------------


def _many(family: type, rows: int = 2, k: int = 240) -> Mixture:
    g = torch.Generator().manual_seed(0)
    logits, loc, noise = (torch.randn(rows, k, generator=g).double() for _ in range(3))
    parts = family(0.7 * loc.unsqueeze(-1), (0.4 * noise - 1.5).exp().unsqueeze(-1))
    return Mixture(2.0 * logits, td.Independent(parts, 1))


@pytest.mark.parametrize("family", [td.LogNormal, LogitNormal])
def test_answers_of_240_linked_components_match_quadrature(family: type) -> None:
    """CRPS to 1e-8, entropy to 1e-6, all modes; a region holds its coverage."""
    dist = _many(family)
    weights, base = dist.logits.softmax(-1).numpy(), dist.components.base_dist
    loc, scale = base.loc[..., 0].numpy(), base.scale[..., 0].numpy()
    logit = family is LogitNormal
    v = np.array([0.3, -0.9])
    y = scipy.special.expit(v) if logit else np.exp(v)
    crps, entropy = dist.crps(torch.tensor(y)[:, None]), dist.entropy()
    modes, region = dist.modes(), dist.hdr(0.8)
    for i in range(2):
        square, information, density = [], [], []
        for u in (np.linspace(-8, v[i], 10_001), np.linspace(v[i], 8, 10_001)):
            slope = scipy.special.expit(u) * scipy.special.expit(-u) if logit else np.exp(u)
            z = (u[:, None] - loc[i]) / scale[i]
            p = (weights[i] * scipy.stats.norm.pdf(z) / scale[i]).sum(1)
            tail = (weights[i] * scipy.special.ndtr(z if u[0] < v[i] else -z)).sum(1)
            square.append(scipy.integrate.simpson(tail**2 * slope, x=u))
            log_p = np.log(np.maximum(p, 1e-300)) - np.log(slope)
            information.append(scipy.integrate.simpson(-p * log_p, x=u))
            density.append(p / slope)
        assert crps[i].item() == pytest.approx(sum(square), rel=1e-8)
        assert entropy[i].item() == pytest.approx(sum(information), abs=1e-6)
        p = np.concatenate([density[0][:-1], density[1]])
        peaks = ((p[1:-1] > p[:-2]) & (p[1:-1] > p[2:])).sum()
        assert (~modes.loc[i, :, 0].isnan()).sum() == peaks > 1
        assert modes.log_density[i, 0].item() == pytest.approx(np.log(p.max()), abs=1e-5)
        ends = region.intervals[i][~region.intervals[i, :, 0].isnan()]
        mass = dist[i].cdf(ends[:, 1:]) - dist[i].cdf(ends[:, :1])
        assert mass.sum().item() == pytest.approx(0.8, abs=1e-10)


def test_modes_of_241_components_are_those_of_a_dense_scan() -> None:
    """As many modes as a grid of 200,000 points sees, wide and narrow components together."""
    g = torch.Generator().manual_seed(3)
    logits, loc, noise = (torch.randn(241, generator=g).double() for _ in range(3))
    dist = GaussianMixture(2 * logits, 2 * loc[:, None], (noise - 3).exp()[:, None])
    x = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    p = torch.cat([dist.log_prob(part[:, None]) for part in x.split(5000)])
    peaks = ((p[1:-1] > p[:-2]) & (p[1:-1] > p[2:])).nonzero().squeeze(1) + 1
    modes = dist.modes().loc[:, 0]
    modes = modes[~modes.isnan()].sort().values
    assert len(modes) == len(peaks) > 20
    torch.testing.assert_close(modes, x[peaks], rtol=0, atol=1e-4)


def test_modes_of_100_random_logit_normal_mixtures_are_those_of_a_dense_scan() -> None:
    """Scales from 0.05 to 4, also with modes towards both ends of the interval."""
    g = torch.Generator().manual_seed(7)
    logits, loc, spread = (torch.randn(100, 5, generator=g).double() for _ in range(3))
    loc, scale = 2.0 * loc, (1.2 * spread - 0.7).exp().clamp(0.05, 4.0)
    dist = Mixture(logits, LogitNormal(loc, scale))
    places = torch.special.logit(dist.modes().loc[..., 0])
    total = 0
    for i in range(100):
        low = float((loc[i] - scale[i].square()).min()) - 1.0
        u = np.linspace(low, float((loc[i] + scale[i].square()).max()) + 1.0, 100_001)
        parts = scipy.stats.norm.logpdf(u[:, None], loc[i], scale[i]) + dist.logits[i].numpy()
        log_p = scipy.special.logsumexp(parts, axis=1) + np.logaddexp(0, u) + np.logaddexp(0, -u)
        peaks = u[1:-1][(log_p[1:-1] > log_p[:-2]) & (log_p[1:-1] > log_p[2:])]
        found = places[i][~places[i].isnan()].sort().values
        assert len(found) == len(peaks)
        np.testing.assert_allclose(found.numpy(), peaks, atol=1e-3)
        total += len(peaks)
    assert total > 150


@pytest.mark.parametrize("family", [Logistic, td.Poisson, td.LogNormal])
def test_a_few_rows_at_a_time_give_the_answers_of_all(
    family: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for 200 numbers, rows and places are asked in parts; two axes of batch."""
    g = torch.Generator().manual_seed(2)
    logits, loc, noise = (torch.randn(2, 5, 3, generator=g).double() for _ in range(3))
    parts = [loc.exp()] if family is td.Poisson else [loc, noise.exp()]
    dist = Mixture(logits, family(*parts))
    y = torch.tensor([[[1.0]], [[2.0]]], dtype=torch.float64)
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(3, 1, 1)

    def answers() -> list[torch.Tensor]:
        found = [dist.icdf(p), dist.cdf(y), dist.crps(y[None]), dist.entropy(), *dist.modes()]
        region = dist.hdr(0.8)
        return [*found, region.intervals, region.threshold, dist.log_mass(y - 1.0, y)]

    want = answers()
    monkeypatch.setattr("mdn.distribution._rows.BUDGET", 200)
    monkeypatch.setattr("mdn.distribution._law.BUDGET", 200)
    for got, whole in zip(answers(), want, strict=True):
        torch.testing.assert_close(got, whole, rtol=1e-7, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("family", [None, td.LogNormal, LogitNormal])
def test_cdf_without_gradients_is_that_of_scipy(family: type | None) -> None:
    """Relative in the lower tail, at places in front of the batch too; 1 and 0 at the ends."""
    g = torch.Generator().manual_seed(2)
    logits, loc, noise = (torch.randn(4, 30, generator=g).double() for _ in range(3))
    scale = (0.5 * noise).exp()
    u = torch.tensor([-INF, -30.0, -2.0, 0.3, 2.0, INF], dtype=torch.float64)[:, None]
    if family is None:
        dist, y = GaussianMixture(logits, loc[..., None], scale[..., None]), u
    else:
        dist = Mixture(logits, family(loc, scale))
        y = u.exp() if family is td.LogNormal else torch.sigmoid(u)
    z = (u.numpy()[..., None] - loc.numpy()) / scale.numpy()
    want = (scipy.special.softmax(logits.numpy(), -1) * scipy.stats.norm.cdf(z)).sum(-1)
    np.testing.assert_allclose(dist.cdf(y.unsqueeze(-1)).numpy(), want, rtol=1e-11, atol=1e-300)

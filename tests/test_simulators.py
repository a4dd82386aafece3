"""Tests of mdn.simulators: density, cdf and samples of each process agree, as published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, stats

import mdn
from mdn import GaussianMixture, Mixture
from mdn.simulators import (
    ArmaJump,
    EconDensity,
    GaussianMixtureDensity,
    LinearGaussian,
    LinearStudentT,
    Simulator,
    SkewNormal,
)

SIMULATORS = [
    EconDensity(),
    ArmaJump(),
    GaussianMixtureDensity(),
    SkewNormal(),
    LinearStudentT(),
    LinearGaussian(),
]
MIXTURES = [s for s in SIMULATORS if not isinstance(s, SkewNormal)]
PLACES = 2  # x at which a law is integrated

Floats = NDArray[np.float64]
each = pytest.mark.parametrize("simulator", SIMULATORS, ids=repr)


def places(simulator: Simulator) -> Floats:
    """Some x of a process."""
    return simulator.sample(PLACES, 7)[0]


def centre_and_width(simulator: Simulator, x: Floats) -> tuple[float, float]:
    """Median and a sixth of the 99 % interval of p(y|x), by a search on the cdf."""
    y = simulator.sample(5000, 8)[1]
    grid = np.linspace(y.min() - np.ptp(y), y.max() + np.ptp(y), 20_001)
    cdf = simulator.cdf(np.repeat(x[None], len(grid), axis=0), grid)
    low, middle, high = np.interp([0.005, 0.5, 0.995], cdf, grid)
    return middle, (high - low) / 6


@each
def test_density_integrates_to_one(simulator: Simulator) -> None:
    """The integral of p(y|x) over y is 1 at every x."""
    for x in places(simulator):
        middle, width = centre_and_width(simulator, x)

        def density(z: float, x: Floats = x, m: float = middle, w: float = width) -> float:
            return w * float(np.exp(simulator.log_prob(x[None], [m + w * z]))[0])

        inner = integrate.quad(density, -6, 6, points=[-3, -1, 0, 1, 3], limit=200)[0]
        outer = integrate.quad(density, -np.inf, -6)[0] + integrate.quad(density, 6, np.inf)[0]
        assert inner + outer == pytest.approx(1, abs=1e-7)


@each
def test_cdf_is_the_integral_of_the_density(simulator: Simulator) -> None:
    """F(b) - F(a) = integral of p from a to b."""
    for x in places(simulator):
        middle, width = centre_and_width(simulator, x)
        for a, b in ((-4, -1), (-1, 0.3), (0.3, 5)):
            ends = middle + width * np.array([a, b])
            mass = integrate.quad(
                lambda y, x=x: float(np.exp(simulator.log_prob(x[None], [y]))[0]),
                *ends,
                points=np.linspace(*ends, 7)[1:-1],
                limit=200,
            )[0]
            low, high = simulator.cdf(np.stack([x, x]), ends)
            assert high - low == pytest.approx(mass, abs=1e-8)


@each
def test_draws_follow_the_cdf(simulator: Simulator) -> None:
    """F(y|x) of draws is uniform and has nothing to do with x.

    Kolmogorov-Smirnov at level 1e-4 and a rank correlation at level 1e-4 for each feature: of
    right code, a run of the six processes with fresh seeds would fail in 1 of 470.
    """
    X, y = simulator.sample(4000, 9)
    uniform = simulator.cdf(X, y)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    for column in X.T:
        assert stats.spearmanr(column, uniform).pvalue > 1e-4


@each
def test_sampler_takes_a_seed_or_a_generator_and_repeats_itself(simulator: Simulator) -> None:
    """The same seed, the same rows; the global generator is left alone."""
    before = np.random.get_state()[1].tolist()
    X, y = simulator.sample(6, 3)
    again = simulator.sample(6, np.random.default_rng(3))
    other = simulator.sample(6, 4)
    assert X.shape == (6, simulator.n_features)
    assert y.shape == (6,)
    assert X.dtype == y.dtype == np.float64
    np.testing.assert_array_equal(X, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.any(y == other[1])
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("simulator", MIXTURES, ids=repr)
def test_distribution_has_the_same_density_and_cdf(simulator: EconDensity) -> None:
    """The mixture of rows X has batch (N,), event (1,), and the log density and cdf of the rows."""
    X, y = simulator.sample(5, 11)
    dist = simulator.distribution(X)
    assert isinstance(dist, GaussianMixture | Mixture)
    assert (dist.batch_shape, dist.event_shape) == ((5,), (1,))
    target = torch.from_numpy(y)[:, None]
    np.testing.assert_array_equal(dist.log_prob(target).numpy(), simulator.log_prob(X, y))
    np.testing.assert_array_equal(dist.cdf(target).numpy(), simulator.cdf(X, y))


def grid(simulator: Simulator) -> tuple[Floats, Floats]:
    """Rows (X, y) that go far beyond the data."""
    X, y = simulator.sample(300, 12)
    return X, y.mean() + 5 * (y - y.mean())


def agrees(simulator: Simulator, law: stats.rv_continuous, X: Floats, y: Floats) -> None:
    """Log density and cdf are those of SciPy's law."""
    np.testing.assert_allclose(simulator.log_prob(X, y), law.logpdf(y), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(simulator.cdf(X, y), law.cdf(y), rtol=1e-7, atol=1e-13)


def test_econ_density_is_a_normal_around_the_square() -> None:
    """N(x^2, (1 + x)^2), and x is half normal with mean sqrt(2 / pi)."""
    X, y = grid(EconDensity())
    agrees(EconDensity(), stats.norm(X[:, 0] ** 2, 1 + X[:, 0]), X, y)
    x = EconDensity().sample(4000, 13)[0][:, 0]
    assert stats.kstest(x, stats.halfnorm.cdf).pvalue > 1e-4  # 1 in 10,000 fails


def test_linear_gaussian_is_a_normal_around_the_line() -> None:
    """N(0.005 x, (0.01 + 0.002 x)^2), and x is uniform on (-1, 1)."""
    X, y = grid(LinearGaussian())
    agrees(LinearGaussian(), stats.norm(0.005 * X[:, 0], 0.01 + 0.002 * X[:, 0]), X, y)
    x = LinearGaussian().sample(4000, 13)[0][:, 0]
    assert stats.kstest(x, stats.uniform(-1, 2).cdf).pvalue > 1e-4  # 1 in 10,000 fails


def test_skew_normal_is_that_of_scipy() -> None:
    """skewnorm(alpha(x), xi(x), omega(x)), and x has standard deviation 0.5."""
    X, y = grid(SkewNormal())
    x = X[:, 0]
    skew = -4 + 3.9 / (1 + np.exp(-x))
    law = stats.skewnorm(skew, 0.1 * x, 0.05 + 0.1 * x**2)
    np.testing.assert_allclose(SkewNormal().log_prob(X, y), law.logpdf(y), rtol=1e-9, atol=1e-9)
    # SciPy's cdf is a quadrature in the tail where the skewness is negative
    np.testing.assert_allclose(SkewNormal().cdf(X, y), law.cdf(y), atol=1e-7)
    x = SkewNormal().sample(4000, 13)[0][:, 0]
    assert stats.kstest(x, stats.norm(0, 0.5).cdf).pvalue > 1e-4  # 1 in 10,000 fails


def test_linear_student_t_is_that_of_scipy() -> None:
    """t with 2 + 8 sigmoid(-2 mean x) degrees of freedom, on ten standard normal features."""
    X, y = grid(LinearStudentT())
    mean = X.mean(axis=1)
    dof = 2 + 8 / (1 + np.exp(2 * mean))
    law = stats.t(dof, 0.005 * mean, 0.01 + 0.002 * np.abs(X).mean(axis=1))
    agrees(LinearStudentT(), law, X, y)
    x = LinearStudentT().sample(400, 13)[0].ravel()
    assert stats.kstest(x, stats.norm.cdf).pvalue > 1e-4  # 1 in 10,000 fails


def test_arma_jump_jumps_once_in_twenty() -> None:
    """The formula of the paper: 0.95 N(m, 0.05^2) + 0.05 N(m - 0.3, 0.1^2), m = 0.01 + 0.9 x."""
    X, y = grid(ArmaJump())
    m = 0.01 + 0.9 * X[:, 0]
    parts = 0.95, stats.norm(m, 0.05), 0.05, stats.norm(m - 0.3, 0.1)
    log = np.logaddexp(np.log(parts[0]) + parts[1].logpdf(y), np.log(parts[2]) + parts[3].logpdf(y))
    cdf = parts[0] * parts[1].cdf(y) + parts[2] * parts[3].cdf(y)
    np.testing.assert_allclose(ArmaJump().log_prob(X, y), log, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ArmaJump().cdf(X, y), cdf, rtol=1e-7, atol=1e-13)


def test_arma_jump_starts_in_its_stationary_law() -> None:
    """The next value y has the law of x.

    Two-sample Kolmogorov-Smirnov of x and of y of other rows, level 1e-4; and the mean of x is
    -0.05, from m = 0.01 + 0.9 m - 0.015, within 5 standard errors: right code fails 1 in 10,000.
    """
    X, y = ArmaJump().sample(8000, 14)
    assert stats.ks_2samp(X[:4000, 0], y[4000:]).pvalue > 1e-4
    assert abs(X.mean() + 0.05) < 5 * X.std() / np.sqrt(len(X))


def test_gaussian_mixture_density_is_its_joint_over_its_marginal() -> None:
    """p(y|x) = p(x, y) / p(x), by SciPy's normals in the plane; the weights sum to 1."""
    s = GaussianMixtureDensity()
    assert s._W.sum() == pytest.approx(1, abs=1e-12)
    X, y = grid(s)
    joint = sum(
        w * stats.multivariate_normal([a, c], [b**2, d**2]).pdf(np.column_stack([X, y]))
        for w, a, b, c, d in zip(s._W, s._X_LOC, s._X_SCALE, s._Y_LOC, s._Y_SCALE, strict=True)
    )
    marginal = s._W @ stats.norm(s._X_LOC[:, None], s._X_SCALE[:, None]).pdf(X[:, 0])
    np.testing.assert_allclose(s.log_prob(X, y), np.log(joint / marginal), rtol=1e-9, atol=1e-9)

    def cdf(x: Floats) -> Floats:
        return s._W @ stats.norm(s._X_LOC[:, None], s._X_SCALE[:, None]).cdf(x)

    assert stats.kstest(s.sample(4000, 13)[0][:, 0], cdf).pvalue > 1e-4  # 1 in 10,000 fails


def test_gaussian_mixture_density_has_two_modes_that_become_one() -> None:
    """As its docstring says: two for x up to 1, one beyond."""
    modes = GaussianMixtureDensity().distribution(np.arange(-3, 4.5, 0.5)[:, None]).modes()
    count = modes.loc.isfinite().sum(dim=(1, 2))
    assert count.tolist() == [2] * 9 + [1] * 6


def test_log_prob_is_finite_where_the_density_underflows() -> None:
    """Far out log p is a large negative number, the cdf is 0 or 1, and neither is NaN."""
    for simulator in SIMULATORS:
        X = places(simulator)[:2]
        y = np.array([-1e4, 1e4])
        log = simulator.log_prob(X, y)
        assert np.isfinite(log).all()
        assert (log < -20).all()
        np.testing.assert_allclose(simulator.cdf(X, y), [0, 1], atol=1e-6)


def test_module_is_reached_from_the_face() -> None:
    """mdn.simulators is there without an import of its own."""
    assert mdn.simulators.ArmaJump is ArmaJump
    assert repr(ArmaJump()) == "ArmaJump()"


def test_shapes_that_do_not_fit_are_refused() -> None:
    """The message says the name, what was expected and what was found."""
    with pytest.raises(ValueError, match=r"X must have shape \(N, 10\); got \(2, 3\)"):
        LinearStudentT().log_prob(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match=r"X must have shape \(N, 1\); got \(3,\)"):
        ArmaJump().distribution(np.zeros(3))
    with pytest.raises(ValueError, match=r"y must have shape \(2,\).*got \(2, 1\)"):
        SkewNormal().cdf(np.zeros((2, 1)), np.zeros((2, 1)))


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
def test_a_number_of_rows_that_is_none_is_refused(n: object) -> None:
    """It is an integer of at least 1."""
    with pytest.raises((TypeError, ValueError), match=r"n must be (an integer|at least 1); got"):
        ArmaJump().sample(n)  # type: ignore[arg-type]

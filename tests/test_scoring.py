"""Tests of the scores against scoringrules and SciPy, and on exact, narrow and wide models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Categorical

from mdn import GaussianMixture, Mixture, scoring
from mdn.distribution import PointMass

LEVELS = [0.05, 0.3, 0.5, 0.9]

SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "nll": scoring.nll,
    "crps": scoring.crps,
    "pinball": lambda dist, y: scoring.pinball(dist, y, LEVELS),
    "interval_score": lambda dist, y: scoring.interval_score(dist, y, 0.8),
    "energy_score": scoring.energy_score,
    "dawid_sebastiani": scoring.dawid_sebastiani,
    "brier": lambda dist, y: scoring.brier(dist, y, 0.7),
    "cde_loss": scoring.cde_loss,
    "pit": scoring.pit,
}
# how each changes when y is measured in a unit c times smaller: c times, plus, or not at all
IN_UNITS = {"crps", "pinball", "interval_score", "energy_score"}


def mixtures(n: int = 40, k: int = 3) -> tuple[GaussianMixture, np.ndarray]:
    """N mixtures in float64, and a target (N, 1) for each, near and far."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(n, k, generator=g, dtype=torch.float64)
    loc = 3 * torch.randn(n, k, 1, generator=g, dtype=torch.float64)
    scale = 0.2 + torch.rand(n, k, 1, generator=g, dtype=torch.float64)
    y = 4 * torch.randn(n, 1, generator=g, dtype=torch.float64)
    return GaussianMixture(logits, loc, scale), y.numpy()


def pieces(dist: GaussianMixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weights, loc, scale as arrays (N, K)."""
    part = dist.numpy()
    return np.exp(part["logits"]), part["loc"][..., 0], part["scale"][..., 0]


# -- against others ---------------------------------------------------------------------------


def test_nll_matches_scipy() -> None:
    """-log sum_k w_k N(y; loc_k, scale_k), SciPy's normal density."""
    dist, y = mixtures()
    w, loc, scale = pieces(dist)
    expected = -np.log((w * stats.norm.pdf(y, loc, scale)).sum(-1))
    np.testing.assert_allclose(scoring.nll(dist, y), expected, rtol=1e-12)


def test_nll_of_several_targets_matches_scipy() -> None:
    """D = 3: -log sum_k w_k prod_d N(y_d; loc_kd, scale_kd)."""
    rng = np.random.default_rng(0)
    logits, loc, scale = rng.normal(size=(9, 2)), rng.normal(size=(9, 2, 3)), rng.random((9, 2, 3))
    y = rng.normal(size=(9, 3))
    dist = GaussianMixture(*map(torch.as_tensor, (logits, loc, scale + 0.5)))
    w = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    density = (w * stats.norm.pdf(y[:, None], loc, scale + 0.5).prod(-1)).sum(-1)
    np.testing.assert_allclose(scoring.nll(dist, y), -np.log(density), rtol=1e-12)


def test_pit_matches_scipy() -> None:
    """P(Y <= y) = sum_k w_k Phi((y - loc_k) / scale_k)."""
    dist, y = mixtures()
    w, loc, scale = pieces(dist)
    expected = (w * stats.norm.cdf(y, loc, scale)).sum(-1)
    np.testing.assert_allclose(scoring.pit(dist, y), expected, rtol=1e-11, atol=1e-300)


def test_crps_matches_scoringrules() -> None:
    """Row by row the CRPS of a normal mixture; w are the weights."""
    dist, y = mixtures()
    w, loc, scale = pieces(dist)
    expected = scoringrules.crps_mixnorm(y[:, 0], loc, scale, w)
    np.testing.assert_allclose(scoring.crps(dist, y), expected, rtol=1e-10)


def test_crps_is_the_integral_of_the_squared_cdf_error() -> None:
    """CRPS = integral of (F(t) - 1{y <= t})^2 dt, by quadrature."""
    dist, y = mixtures(n=4)
    w, loc, scale = pieces(dist)
    for i, found in enumerate(scoring.crps(dist, y)):

        def error(t: float, i: int = i) -> float:
            below = float((w[i] * stats.norm.cdf(t, loc[i], scale[i])).sum())
            return (below - (y[i, 0] <= t)) ** 2

        places = np.sort([*loc[i], y[i, 0]])
        expected, _ = integrate.quad(error, -30, 30, points=places, limit=500, epsabs=1e-10)
        assert found == pytest.approx(expected, rel=1e-7)


def scipy_quantiles(dist: GaussianMixture, p: float) -> np.ndarray:
    """Quantiles by SciPy's own root search on SciPy's cdf."""
    return np.array(
        [
            stats.Mixture(
                [stats.Normal(mu=m, sigma=s) for m, s in zip(loc, scale, strict=True)], weights=w
            ).icdf(p)
            for w, loc, scale in zip(*pieces(dist), strict=True)
        ]
    )


def test_pinball_matches_scoringrules() -> None:
    """The mean over the levels of the quantile score at SciPy's quantiles."""
    dist, y = mixtures(n=10)
    parts = [scoringrules.quantile_score(y[:, 0], scipy_quantiles(dist, p), p) for p in LEVELS]
    np.testing.assert_allclose(scoring.pinball(dist, y, LEVELS), np.mean(parts, 0), rtol=1e-6)
    np.testing.assert_allclose(scoring.pinball(dist, y, LEVELS[:1]), parts[0], rtol=1e-6)


def test_twice_the_pinball_loss_over_all_levels_is_the_crps() -> None:
    """CRPS = 2 integral_0^1 pinball_p dp, by the midpoint rule on 400 levels."""
    dist, y = mixtures(n=5)
    levels = (np.arange(400) + 0.5) / 400
    twice = 2 * scoring.pinball(dist, y, levels)
    np.testing.assert_allclose(twice, scoring.crps(dist, y), rtol=5e-3)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_interval_score_matches_scoringrules(coverage: float) -> None:
    """Width plus 2/alpha times the miss, for y below, inside and above."""
    dist, y = mixtures(n=10)
    alpha = 1 - coverage
    low, high = scipy_quantiles(dist, alpha / 2), scipy_quantiles(dist, 1 - alpha / 2)
    inside = ((low < y[:, 0]) & (y[:, 0] < high)).mean()
    assert 0 < inside < 1
    expected = scoringrules.interval_score(y[:, 0], low, high, alpha)
    np.testing.assert_allclose(scoring.interval_score(dist, y, coverage), expected, rtol=1e-6)


def test_energy_score_of_one_target_is_the_crps() -> None:
    """E|Y - y| - E|Y - Y'| / 2, to the last bit."""
    dist, y = mixtures()
    np.testing.assert_array_equal(scoring.energy_score(dist, y), scoring.crps(dist, y))


def several(n: int = 6, k: int = 2, d: int = 3) -> tuple[GaussianMixture, np.ndarray]:
    """N mixtures over D targets, and a target (N, D) for each."""
    rng = np.random.default_rng(3)
    parts = rng.normal(size=(n, k)), rng.normal(size=(n, k, d)), 0.5 + rng.random((n, k, d))
    return GaussianMixture(*map(torch.as_tensor, parts)), 2 * rng.normal(size=(n, d))


@pytest.mark.parametrize("family", ["gaussian", "any"])
def test_energy_score_of_several_targets_matches_scoringrules(family: str) -> None:
    """Against scoringrules' fair estimate on 4000 draws of NumPy's.

    The tolerance is five standard errors of the difference for each of six rows: a fresh seed fails
    with probability 4e-6.
    """
    dist, y = several()
    rng = np.random.default_rng(0)
    w, part = dist.weights.numpy(), dist.numpy()
    draws = np.empty((len(y), 4000, 3))
    for i in range(len(y)):
        k = rng.choice(2, size=4000, p=w[i])
        draws[i] = rng.normal(part["loc"][i, k], part["scale"][i, k])
    near = np.linalg.norm(draws - y[:, None], axis=-1)
    apart = np.linalg.norm(draws[:, ::2] - draws[:, 1::2], axis=-1)
    expected = near.mean(1) - 0.5 * apart.mean(1)
    fair = scoringrules.es_ensemble(y, draws[:, :500], estimator="fair")
    error = np.sqrt(near.var(1) + 0.25 * apart.var(1)) / math.sqrt(2000)
    np.testing.assert_array_less(np.abs(expected - fair), 10 * error)
    model: Any = dist
    if family == "any":
        normal = torch.distributions.Normal(dist.loc, dist.scale)
        model = Mixture(dist.logits, torch.distributions.Independent(normal, 1))
    found = scoring.energy_score(model, y, n_samples=4096)
    np.testing.assert_array_less(np.abs(found - expected), 5 * error)


def test_energy_score_is_unbiased_with_two_pairs_of_draws() -> None:
    """The mean over 20000 estimates is within five standard errors of that from many draws."""
    dist, y = several(n=1)
    g = torch.Generator().manual_seed(1)
    rough = scoring.energy_score(
        dist.expand((20_000,)), np.repeat(y, 20_000, 0), n_samples=2, generator=g
    )
    fine = scoring.energy_score(dist.expand((50,)), np.repeat(y, 50, 0), n_samples=4000)
    error = math.hypot(rough.std() / math.sqrt(20_000), fine.std() / math.sqrt(50))
    assert abs(rough.mean() - fine.mean()) < 5 * error


def test_energy_score_leaves_the_global_generator_alone() -> None:
    """Two calls give the same number, and torch's generator does not move."""
    dist, y = several()
    before = torch.get_rng_state()
    first = scoring.energy_score(dist, y)
    np.testing.assert_array_equal(first, scoring.energy_score(dist, y))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("d", [1, 3])
def test_dawid_sebastiani_is_twice_the_gaussian_nll_of_the_moments(d: int) -> None:
    """-2 log N(y; mean, covariance) - D log 2 pi, SciPy's normal and moments by the parts."""
    dist, y = several(d=d)
    w, part = dist.weights.numpy(), dist.numpy()
    for i, found in enumerate(scoring.dawid_sebastiani(dist, y)):
        loc, scale = part["loc"][i], part["scale"][i]
        mean = w[i] @ loc
        covariance = sum(
            p * (np.diag(s**2) + np.outer(m - mean, m - mean))
            for p, m, s in zip(w[i], loc, scale, strict=True)
        )
        expected = -2 * stats.multivariate_normal.logpdf(y[i], mean, covariance)
        assert found == pytest.approx(expected - d * math.log(2 * math.pi), rel=1e-9)


def test_dawid_sebastiani_matches_scoringrules_on_many_draws() -> None:
    """scoringrules' score of an ensemble of 200000 draws: mean and variance to 1 %."""
    dist, y = mixtures(n=3)
    draws = dist.sample((200_000,), generator=torch.Generator().manual_seed(0))[..., 0].numpy()
    expected = scoringrules.dssuv_ensemble(y[:, 0], draws.T, bias=True)
    np.testing.assert_allclose(scoring.dawid_sebastiani(dist, y), expected, rtol=0.03)


def test_the_crps_is_the_integral_of_its_decompositions() -> None:
    """Over thresholds and over levels, of each row; with rounded values too."""
    dist, y = mixtures(5)
    y = np.round(2 * y) / 2
    for law in (dist, dist.discretize(0.5)):
        t = np.linspace(-16, 16, 1281) + 1e-4  # off the grid of the rounded values
        by_threshold = scoring.crps_by_threshold(law, y, t)
        p = (np.arange(400) + 0.5) / 400
        by_level = scoring.crps_by_level(law, y, p)
        assert by_threshold.shape == (5, 1281) and by_level.shape == (5, 400)
        want = scoring.crps(law, y)
        np.testing.assert_allclose(integrate.trapezoid(by_threshold, t), want, atol=0.03)
        np.testing.assert_allclose(by_level.mean(1), want, rtol=0.01, atol=0.01)
        one = scoring.crps_by_threshold(law, y, 0.7)
        np.testing.assert_array_equal(one[:, 0], scoring.brier(law, y, 0.7))
        two = scoring.crps_by_level(law, y, [0.2, 0.9])
        np.testing.assert_allclose(two.mean(1), 2 * scoring.pinball(law, y, [0.2, 0.9]))


def test_brier_matches_scoringrules() -> None:
    """At the probability that SciPy gives the event y <= t."""
    dist, y = mixtures()
    w, loc, scale = pieces(dist)
    p = (w * stats.norm.cdf(0.7, loc, scale)).sum(-1)
    happened = (y[:, 0] <= 0.7).astype(float)
    assert 0 < happened.mean() < 1
    expected = scoringrules.brier_score(happened, p)
    np.testing.assert_allclose(scoring.brier(dist, y, 0.7), expected, rtol=1e-9)
    on_it = scoring.brier(dist, np.full((40, 1), 0.7), 0.7)
    np.testing.assert_allclose(on_it, (p - 1) ** 2, rtol=1e-9)


def test_cde_loss_is_the_integral_of_the_squared_density_less_twice_the_density() -> None:
    """By quadrature of SciPy's density."""
    dist, y = mixtures(n=4)
    w, loc, scale = pieces(dist)
    for i, found in enumerate(scoring.cde_loss(dist, y)):

        def density(t: float, i: int = i) -> float:
            return float((w[i] * stats.norm.pdf(t, loc[i], scale[i])).sum())

        norm, _ = integrate.quad(
            lambda t, f=density: f(t) ** 2, -30, 30, points=np.sort(loc[i]), limit=500
        )
        assert found == pytest.approx(norm - 2 * density(y[i, 0]), rel=1e-7)


def test_rounded_nll_is_the_log_of_the_probability_of_the_cell() -> None:
    """By SciPy's cdf; near nll - log(width) for a narrow cell, and never below 0."""
    dist, y = mixtures()
    w, loc, scale = pieces(dist)
    cell = np.round(y / 0.5) * 0.5
    mass = (w * stats.norm.cdf(cell + 0.25, loc, scale)).sum(-1)
    mass -= (w * stats.norm.cdf(cell - 0.25, loc, scale)).sum(-1)
    found = scoring.rounded_nll(dist, cell, 0.5)
    fair = mass > 1e-9  # below, SciPy's difference has few digits
    assert fair.sum() > 30
    np.testing.assert_allclose(found[fair], -np.log(mass[fair]), rtol=1e-6)
    assert (found >= 0).all()
    fine = np.round(y / 1e-5) * 1e-5
    expected = scoring.nll(dist, fine) - math.log(1e-5)
    np.testing.assert_allclose(scoring.rounded_nll(dist, fine, 1e-5), expected, rtol=1e-5)


def test_rounded_nll_of_another_family_matches_its_cdf_in_both_tails() -> None:
    """Log-normal, SciPy's cdf below the median and survival function above."""
    loc, scale = torch.zeros(5, 1, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    dist = Mixture(torch.zeros(5, 1), torch.distributions.LogNormal(loc, scale))
    y = np.array([[0.2], [1.0], [3.0], [50.0], [400.0]])
    law = stats.lognorm(1.0)
    expected = -np.log(law.sf(y - 0.1) - law.sf(y + 0.1))[:, 0]
    np.testing.assert_allclose(scoring.rounded_nll(dist, y, 0.2), expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"y must be a multiple of width 0.2; got 0.3"):
        scoring.rounded_nll(dist, y + np.array([[0.1], [0], [0], [0], [0]]), 0.2)


def test_randomized_pit_is_uniform_where_the_cdf_jumps() -> None:
    """Rounded values, whole numbers and a point mass; 3000 rows each, Kolmogorov-Smirnov at 1e-4.

    A fresh seed fails with probability 3e-4; the plain PIT is rejected surely.
    """
    g = torch.Generator().manual_seed(2)
    rate = 1 + 3 * torch.rand(3000, 1, generator=g, dtype=torch.float64)
    zero = torch.zeros(3000, dtype=torch.float64)
    laws: list[Any] = [
        GaussianMixture(torch.zeros(3000, 1), rate.unsqueeze(-1), torch.ones(1, 1)).discretize(1.0),
        Mixture(torch.zeros(3000, 1), torch.distributions.Poisson(rate)),
        Mixture(
            torch.zeros(3000, 2),
            [PointMass(zero), torch.distributions.Exponential(rate[:, 0])],
        ),
    ]
    for law in laws:
        y = law.sample(generator=g)
        plain = np.asarray(scoring.pit(law, y).double())
        found = np.asarray(scoring.randomized_pit(law, y, generator=g).double())
        assert stats.kstest(plain, "uniform").pvalue < 1e-9
        assert stats.kstest(found, "uniform").pvalue > 1e-4
    dist, y = mixtures()
    np.testing.assert_array_equal(scoring.randomized_pit(dist, y), scoring.pit(dist, y))


# -- what goes in and comes out ---------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_tensors_and_arrays_give_their_own_kind_and_the_same_numbers(name: str) -> None:
    """Tensor in, tensor out; array in, array out; one number a row."""
    dist, y = mixtures()
    from_array, from_tensor = SCORES[name](dist, y), SCORES[name](dist, torch.as_tensor(y))
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, Tensor)
    assert from_array.shape == tuple(from_tensor.shape) == (40,)
    np.testing.assert_array_equal(from_array, from_tensor.numpy())


@pytest.mark.parametrize("name", SCORES)
def test_a_batch_is_a_loop_over_its_rows(name: str) -> None:
    """Row i depends on row i alone, in any batch shape."""
    dist, y = mixtures(n=12)
    whole = SCORES[name](dist, y)
    rows = [SCORES[name](dist[i], y[i]) for i in range(12)]
    np.testing.assert_allclose(whole, rows, rtol=1e-9)
    grid = dist[torch.arange(12).reshape(3, 4)]
    np.testing.assert_allclose(SCORES[name](grid, y.reshape(3, 4, 1)), whole.reshape(3, 4))


@pytest.mark.parametrize("name", SCORES)
def test_many_targets_against_one_distribution(name: str) -> None:
    """y (N, 1) against batch () broadcasts on purpose."""
    dist, y = mixtures(n=1)
    y = np.linspace(-3, 3, 7)[:, None]
    np.testing.assert_allclose(SCORES[name](dist[0], y), SCORES[name](dist.expand((7,)), y))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(name: str, dtype: torch.dtype) -> None:
    """A score of half-precision rows is half precision, near the float64 one."""
    dist, y = mixtures()
    found = SCORES[name](dist.to(dtype), torch.as_tensor(y).clamp(-3, 3).to(dtype))
    assert found.dtype == dtype
    tolerance = {torch.float16: 0.1, torch.float32: 1e-3, torch.float64: 1e-12}[dtype]
    expected = SCORES[name](dist, torch.as_tensor(y).clamp(-3, 3))
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    "change",
    [
        lambda y: np.repeat(y, 2, 0)[::2],
        lambda y: np.ascontiguousarray(y[::-1])[::-1],
        lambda y: np.broadcast_to(y, y.shape),
        lambda y: y.astype(">f8"),
        lambda y: np.asfortranarray(y),
    ],
    ids=["strided", "reversed", "read-only", "big-endian", "fortran"],
)
def test_any_layout_of_an_array_is_accepted(name: str, change: Any) -> None:
    """Arrays that torch itself does not take: reversed, read-only, byte-swapped."""
    dist, y = mixtures()
    np.testing.assert_array_equal(SCORES[name](dist, change(y)), SCORES[name](dist, y))


def test_integer_targets_are_accepted() -> None:
    """Counts are numbers."""
    dist, _ = mixtures(n=3)
    y = np.array([[0], [1], [-2]])
    np.testing.assert_array_equal(scoring.nll(dist, y), scoring.nll(dist, y.astype(float)))
    np.testing.assert_array_equal(scoring.crps(dist, y), scoring.crps(dist, y.astype(float)))


@pytest.mark.parametrize("name", SCORES)
def test_gradients_match_central_differences(name: str) -> None:
    """Tensors keep the graph: a score of a tensor can be trained on."""
    dist, y = mixtures(n=4)
    target = torch.as_tensor(y).requires_grad_()
    loc = dist.loc.clone().requires_grad_()

    def score(target: Tensor, loc: Tensor) -> Tensor:
        return SCORES[name](GaussianMixture(dist.logits, loc, dist.scale), target)

    assert torch.autograd.gradcheck(score, (target, loc), atol=1e-5)


@pytest.mark.parametrize("factor", [60.0, 1e-6])
def test_scores_are_in_ys_unit(factor: float) -> None:
    """Scaling y scales crps and its kin, shifts nll, leaves pit; the density scales inversely."""
    dist, y = mixtures()
    moved = dist.affine(5.0 * factor, factor)
    y_moved = factor * (y + 5.0)
    for name, score in SCORES.items():
        if name == "brier":
            continue  # its threshold is a number
        before, after = score(dist, y), score(moved, y_moved)
        if name == "nll":
            expected = before + math.log(factor)
        elif name == "dawid_sebastiani":
            expected = before + 2 * math.log(factor)
        elif name == "cde_loss":
            expected = before / factor
        else:
            expected = before * factor if name in IN_UNITS else before
        np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-9 * factor)


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((40,), r"y must have shape \(\*, 1\); got \(40,\)\. Did you mean y\[:, None\]\?"),
        ((40, 2), r"y must have shape \(\*, 1\); got \(40, 2\)"),
        ((), r"y must have shape \(\*, 1\); got \(\)"),
        ((39, 1), r"y with batch shape \(39,\) does not broadcast .* batch shape \(40,\)"),
    ],
)
def test_targets_of_another_shape_are_refused(
    name: str, kind: Any, shape: tuple[int, ...], message: str
) -> None:
    """(N,) against a batch of N never becomes (N, N); other lengths never broadcast."""
    dist, _ = mixtures()
    with pytest.raises(ValueError, match=message):
        SCORES[name](dist, kind(np.zeros(shape)))


@pytest.mark.parametrize("name", SCORES)
def test_a_missing_target_is_refused_with_its_row(name: str) -> None:
    """NaN in y is an error, not a NaN in the mean."""
    dist, y = mixtures()
    y[7] = np.nan
    with pytest.raises(ValueError, match="y must not be NaN; row 7 is"):
        SCORES[name](dist, y)


@pytest.mark.parametrize("name", ["crps", "pinball", "interval_score", "brier", "pit"])
def test_scores_for_one_dimension_refuse_more(name: str) -> None:
    """There is no cdf of two dimensions."""
    dist = GaussianMixture(torch.zeros(4, 2), torch.zeros(4, 2, 2), torch.ones(4, 2, 2))
    with pytest.raises(ValueError, match="one target dimension"):
        SCORES[name](dist, np.zeros((4, 2)))


@pytest.mark.parametrize("y", ["text", None, np.array([["a"]]), np.array([[None]])])
def test_what_is_no_number_is_refused(y: Any) -> None:
    """A TypeError names the type."""
    with pytest.raises(TypeError, match="y must be a tensor or a numeric array; got"):
        scoring.nll(mixtures(n=1)[0], y)


@pytest.mark.parametrize("levels", [[], [0.5, 1.0], [0.0], [-0.1], [1.5], [math.nan]])
def test_pinball_refuses_levels_that_have_no_finite_quantile(levels: list[float]) -> None:
    """Levels lie in (0, 1): at 0 the loss would be 0 * inf."""
    dist, y = mixtures()
    with pytest.raises(ValueError, match="levels must lie between 0 and 1"):
        scoring.pinball(dist, y, levels)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90, math.nan])
def test_interval_score_refuses_a_coverage_outside_0_and_1(coverage: float) -> None:
    """90 is no coverage."""
    dist, y = mixtures()
    with pytest.raises(ValueError, match=f"coverage must lie between 0 and 1; got {coverage}"):
        scoring.interval_score(dist, y, coverage)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_brier_refuses_a_threshold_that_is_no_number(threshold: float) -> None:
    """The event would be certain."""
    dist, y = mixtures()
    with pytest.raises(ValueError, match="threshold must be finite; got"):
        scoring.brier(dist, y, threshold)


def test_rounded_nll_refuses_what_is_not_on_the_grid_or_rounded_already() -> None:
    """A wrong width would give a wrong likelihood in silence."""
    dist, y = mixtures()
    with pytest.raises(ValueError, match=r"y must be a multiple of width 0\.1"):
        scoring.rounded_nll(dist, y, 0.1)
    with pytest.raises(ValueError, match="width must be positive and finite; got 0"):
        scoring.rounded_nll(dist, y, 0.0)
    with pytest.raises(TypeError, match="dist must be continuous; got a DiscretizedMixture"):
        scoring.rounded_nll(dist.discretize(0.1), y, 0.1)


def test_scores_refuse_what_has_no_formula() -> None:
    """A TypeError names what is missing."""
    loc = torch.zeros(3, 1, 2)
    normal = torch.distributions.Normal(loc, 1 + loc)
    other = Mixture(torch.zeros(3, 1), torch.distributions.Independent(normal, 1))
    with pytest.raises(TypeError, match=r"must have squared_norm, .* Mixture has none"):
        scoring.cde_loss(other, np.zeros((3, 2)))
    with pytest.raises(TypeError, match="must have a covariance for 2 targets; Mixture has none"):
        scoring.dawid_sebastiani(other, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="n_samples must be at least 2; got 1"):
        scoring.energy_score(several()[0], several()[1], n_samples=1)
    with pytest.raises(ValueError, match=r"y must have shape \(\*, 3\); got \(6, 2\)"):
        scoring.energy_score(several()[0], np.zeros((6, 2)))


# -- three models -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_models() -> tuple[dict[str, GaussianMixture], Tensor]:
    """4000 rows from two-component mixtures, as they are, half as wide, twice as wide."""
    g = torch.Generator().manual_seed(1)
    x = torch.rand(4000, 1, generator=g, dtype=torch.float64)
    loc = torch.stack([-1 - x, 1 + 2 * x], 1)  # (N, 2, 1)
    scale = torch.stack([0.3 + 0.5 * x, 0.5 - 0.2 * x], 1)
    logits = torch.cat([torch.zeros_like(x), x], 1)
    models = {
        name: GaussianMixture(logits, loc, scale * wide)
        for name, wide in (("exact", 1.0), ("narrow", 0.5), ("wide", 2.0))
    }
    return models, models["exact"].sample(generator=g)


@pytest.mark.parametrize("name", ["nll", "crps", "pinball", "interval_score", "cde_loss"])
def test_every_proper_score_is_lowest_for_the_exact_model(
    name: str, three_models: tuple[dict[str, GaussianMixture], Tensor]
) -> None:
    """The mean over 4000 rows is lower for the exact model than for either other.

    By the paired difference d the exact model wins by mean(d) / (sd(d) / sqrt(4000)) standard
    errors. The ten margins lie between 10 and 34, so that fresh data would fall below the 5
    asserted here with probability under 1e-6 each.
    """
    models, y = three_models
    score = {key: SCORES[name](model, y) for key, model in models.items()}
    for other in ("narrow", "wide"):
        apart = score[other] - score["exact"]
        assert apart.mean() / (apart.std() / math.sqrt(len(y))) > 5


@pytest.mark.parametrize("name", ["dawid_sebastiani", "brier", "energy_score"])
def test_scores_of_moments_and_events_are_lowest_for_the_exact_model(name: str) -> None:
    """As above, with one component a row, whose moments and probabilities are wrong when it is.

    The least margin is 7, of the Brier score; fresh data would fall below 3 with probability 3e-5.
    """
    g = torch.Generator().manual_seed(1)
    loc = 1.4 * torch.rand(4000, 1, 1, generator=g, dtype=torch.float64)
    exact = GaussianMixture(torch.zeros(1), loc, torch.ones(1, 1, dtype=torch.float64))
    y = exact.sample(generator=g)
    best = SCORES[name](exact, y)
    for wide in (0.3, 4.0):
        other = GaussianMixture(torch.zeros(1), loc, torch.full((1, 1), wide).double())
        apart = SCORES[name](other, y) - best
        assert apart.mean() / (apart.std() / math.sqrt(len(y))) > 3


def test_pit_is_uniform_for_the_exact_model_only(
    three_models: tuple[dict[str, GaussianMixture], Tensor],
) -> None:
    """Kolmogorov-Smirnov: the exact model fails with probability 1e-3, the others surely."""
    models, y = three_models
    p = {
        key: stats.kstest(scoring.pit(m, y).numpy(), "uniform").pvalue for key, m in models.items()
    }
    assert p["exact"] > 1e-3
    assert p["narrow"] < 1e-9
    assert p["wide"] < 1e-9


# -- scorers ----------------------------------------------------------------------------------


class Known:
    """What the scorers ask of an estimator, with a distribution that is given."""

    def __init__(self, dist: GaussianMixture) -> None:
        self.dist = dist

    def predict_distribution(self, X: Any) -> GaussianMixture:
        return self.dist

    def log_prob(self, X: Any, y: Any) -> np.ndarray:
        return self.dist.log_prob(torch.as_tensor(np.asarray(y).reshape(-1, 1))).numpy()


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_scorers_are_minus_the_mean_score(shape: tuple[int, ...]) -> None:
    """Greater is better for scikit-learn, so the sign turns; weights average."""
    dist, y = mixtures()
    weight = np.arange(40.0)
    for scorer, score in (
        (scoring.nll_scorer, scoring.nll),
        (scoring.crps_scorer, scoring.crps),
    ):
        rows = score(dist, y)
        found = scorer(Known(dist), np.zeros((40, 1)), y.reshape(shape))
        assert isinstance(found, float)
        assert found == pytest.approx(-rows.mean(), rel=1e-12)
        weighted = scorer(Known(dist), np.zeros((40, 1)), y.reshape(shape), sample_weight=weight)
        assert weighted == pytest.approx(-(weight * rows).sum() / weight.sum(), rel=1e-12)


# -- summary ----------------------------------------------------------------------------------


def test_summary_holds_the_means_and_their_standard_errors() -> None:
    """Means of the rows, and s / sqrt(n) by SciPy."""
    dist, y = mixtures()
    found = scoring.summary(dist, y)
    w, loc, _ = pieces(dist)
    rows = {
        "nll": scoring.nll(dist, y),
        "crps": scoring.crps(dist, y),
        "mae": np.abs(y[:, 0] - scipy_quantiles(dist, 0.5)),
    }
    for coverage in (0.5, 0.9):
        low, high = (scipy_quantiles(dist, 0.5 + s * coverage / 2) for s in (-1, 1))
        rows[f"coverage_{100 * coverage:.0f}"] = (low <= y[:, 0]) & (y[:, 0] <= high)
        rows[f"width_{100 * coverage:.0f}"] = high - low
    for name, values in rows.items():
        assert found[name].mean == pytest.approx(np.mean(values), rel=1e-6)
        assert found[name].standard_error == pytest.approx(
            stats.sem(values.astype(float)), rel=1e-6
        )
    squared = (y[:, 0] - (w * loc).sum(1)) ** 2
    assert found["rmse"].mean == pytest.approx(math.sqrt(squared.mean()))
    assert found["rmse"].standard_error == pytest.approx(
        stats.sem(squared) / (2 * math.sqrt(squared.mean()))
    )
    kolmogorov = stats.kstest(scoring.pit(dist, y), "uniform").statistic
    assert found["pit_deviation"].mean == pytest.approx(kolmogorov, rel=1e-9)
    assert set(found) == {*rows, "rmse", "pit_deviation"}
    assert found.n == 40


def test_standard_error_of_the_rmse_is_that_over_repetitions() -> None:
    """Of 200 samples of 200 rows, the spread of the rmse is the standard error, to 25 %.

    The relative error of a standard deviation of 200 is 5 %: five of them.
    """
    g = torch.Generator().manual_seed(0)
    dist = mixtures(n=1)[0].expand((200,))
    samples = [scoring.summary(dist, dist.sample(generator=g))["rmse"] for _ in range(200)]
    spread = np.std([s.mean for s in samples])
    assert spread == pytest.approx(np.mean([s.standard_error for s in samples]), rel=0.25)


def test_a_row_of_weight_two_is_two_rows() -> None:
    """Means and standard errors, to rounding; a row of weight 0 is not there."""
    dist, y = mixtures()
    weight = np.arange(40) % 3
    index = np.repeat(np.arange(40), weight)
    found = scoring.summary(dist, y, sample_weight=weight)
    expected = scoring.summary(dist[torch.as_tensor(index)], y[index])
    assert found.n == expected.n == len(index)
    for name, score in expected.items():
        np.testing.assert_allclose(found[name], score, rtol=1e-9, err_msg=name)


def test_summary_of_several_targets_has_the_energy_score() -> None:
    """No quantiles there; the mean over rows agrees with many draws to five standard errors."""
    dist, y = several()
    found = scoring.summary(dist, y)
    assert list(found) == ["nll", "energy_score", "rmse"]
    expected = scoring.energy_score(dist, y, n_samples=20_000).mean()
    assert found["energy_score"].mean == pytest.approx(expected, abs=0.1)
    squared = ((y - dist.mean.numpy()) ** 2).sum(1)
    assert found["rmse"].mean == pytest.approx(math.sqrt(squared.mean()))


def test_summary_takes_rounded_values_and_other_families() -> None:
    """The PIT is randomised at the jumps, so it deviates by chance only."""
    g = torch.Generator().manual_seed(0)
    loc = torch.rand(2000, 1, 1, generator=g, dtype=torch.float64)
    rounded = GaussianMixture(torch.zeros(1), loc, torch.ones(1, 1)).discretize(1.0)
    counts = Mixture(torch.zeros(2000, 1), torch.distributions.Poisson(3 + loc[..., 0]))
    for dist in (rounded, counts):
        found = scoring.summary(dist, dist.sample(generator=g))
        # Kolmogorov's law: exceeded with probability 1e-4
        assert found["pit_deviation"].mean < 2.2 / math.sqrt(2000)
        assert found["coverage_90"].mean >= 0.87


def test_summary_tells_three_models_apart(
    three_models: tuple[dict[str, GaussianMixture], Tensor],
) -> None:
    """Too narrow covers too little, too wide too much, by more than five standard errors."""
    models, y = three_models
    found = {name: scoring.summary(model, y) for name, model in models.items()}
    scores = {name: s["coverage_90"] for name, s in found.items()}
    z = {name: (s.mean - 0.9) / s.standard_error for name, s in scores.items()}
    assert abs(z["exact"]) < 4  # fails with probability 6e-5
    assert z["narrow"] < -5
    assert z["wide"] > 5
    for name in ("nll", "crps", "pit_deviation"):
        assert found["exact"][name].mean < min(found["narrow"][name].mean, found["wide"][name].mean)
    assert found["narrow"]["width_90"].mean < found["wide"]["width_90"].mean


def test_summary_is_a_mapping_that_prints_as_a_table() -> None:
    """Columns are aligned; to_dict gives plain numbers."""
    dist, y = mixtures()
    found = scoring.summary(dist, y)
    lines = str(found).splitlines()
    assert lines[0].split() == ["score", "mean", "standard", "error"]
    assert lines[-1] == "40 rows"
    assert [line.split()[0] for line in lines[1:-1]] == list(found)
    assert len({len(line) for line in lines[:-1]}) == 1
    assert dict(found)["nll"] == found["nll"]
    plain = found.to_dict()
    assert plain["nll"] == {"mean": found["nll"].mean, "standard_error": found["nll"][1]}
    one = scoring.summary(dist[:1], y[:1])
    assert math.isnan(one["crps"].standard_error)
    assert "nan" in str(one)


@pytest.mark.parametrize(
    ("y", "weight", "message"),
    [
        (np.zeros(40), None, r"y must have shape \(\*, 1\); got \(40,\)\. Did you mean y"),
        (np.zeros((2, 40, 1)), None, r"y must have shape \(N, D\); got \(2, 40, 1\)"),
        (np.zeros((40, 1)), np.ones(39), "sample_weight must be 40 non-negative numbers"),
        (np.zeros((40, 1)), -np.ones(40), "sample_weight must be 40 non-negative numbers"),
        (np.zeros((40, 1)), np.zeros(40), "sample_weight must be 40 non-negative .* not all 0"),
        (np.full((40, 1), np.nan), None, "y must not be NaN; row 0 is"),
    ],
)
def test_summary_refuses_what_does_not_fit(y: Any, weight: Any, message: str) -> None:
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        scoring.summary(mixtures()[0], y, sample_weight=weight)


def test_labels_outside_the_classes_are_named() -> None:
    """-100 marks a pixel without label for torch's cross_entropy; here the first one is named."""
    dist = Categorical(logits=torch.zeros(2, 3, 4))
    label = torch.tensor([[0, 1, 3], [2, -100, 0]])
    with pytest.raises(ValueError, match=r"to 3; got -100 in row \(1, 1\) \(1 such values\)"):
        scoring.nll(dist, label)
    label[1, 1] = 2
    assert scoring.nll(dist, label).shape == (2, 3)


@pytest.mark.parametrize("ends", [(-math.inf, 0.3), (0.3, math.inf), (-1.0, 2.0), (5.0, 6.0)])
@pytest.mark.parametrize("kind", ["gaussian", "positive"])
def test_threshold_weighted_crps_is_the_integral(kind: str, ends: tuple[float, float]) -> None:
    """By SciPy, to 1e-7; y below, between and above the thresholds, one distribution for all."""
    logits, loc = torch.tensor([0.3, -0.2]).double(), torch.tensor([[-0.5], [1.0]]).double()
    scale = torch.tensor([[0.4], [0.9]]).double()
    dist: Any = GaussianMixture(logits, loc, scale)
    if kind == "positive":
        parts = torch.distributions.LogNormal(loc, scale)
        dist = Mixture(logits, torch.distributions.Independent(parts, 1))
    y = np.array([[0.2], [0.9], [5.5], [9.0]])
    got = scoring.threshold_weighted_crps(dist, y, low=ends[0], high=ends[1])
    low, high = max(ends[0], -12.0), min(ends[1], 30.0 if kind == "gaussian" else 400.0)

    def gap(t: float, y: float) -> float:
        return (dist.cdf(torch.tensor([t]).double()).item() - (y <= t)) ** 2

    for value, (at,) in zip(got, y, strict=True):
        cuts = sorted({low, high, *(c for c in (0.0, 0.5, 2.0, 8.0, 40.0, at) if low < c < high)})
        want = sum(
            integrate.quad(gap, a, b, (at,), epsabs=1e-10, epsrel=1e-8, limit=200)[0]
            for a, b in itertools.pairwise(cuts)
        )
        assert value == pytest.approx(want, rel=1e-7, abs=1e-9)


def test_threshold_weighted_crps_adds_up_and_refuses() -> None:
    """Both sides of a threshold are the CRPS; wrong input is named."""
    dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1)).to(torch.float64)
    y = np.array([[-1.0], [0.2], [4.0]])
    tw = scoring.threshold_weighted_crps
    torch.testing.assert_close(
        torch.tensor(tw(dist, y, high=0.5) + tw(dist, y, low=0.5)),
        torch.tensor(scoring.crps(dist, y)),
        rtol=1e-9,
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="low must be less than high; got 1 and 1"):
        tw(dist, y, low=1, high=1)
    with pytest.raises(TypeError, match="dist must be continuous for thresholds"):
        tw(dist.discretize(0.5), np.array([[0.5]]), low=0.0)

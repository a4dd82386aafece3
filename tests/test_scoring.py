"""Tests of the scores against scoringrules and SciPy, and on three models that they tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from scipy import integrate, stats
from torch import Tensor

from mdn import GaussianMixture, scoring

LEVELS = [0.05, 0.3, 0.5, 0.9]

SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "nll": scoring.nll,
    "crps": scoring.crps,
    "pinball": lambda dist, y: scoring.pinball(dist, y, LEVELS),
    "interval_score": lambda dist, y: scoring.interval_score(dist, y, 0.8),
    "pit": scoring.pit,
}


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
    """Scaling y scales crps, pinball and interval score, shifts nll, leaves pit."""
    dist, y = mixtures()
    moved = dist.affine(5.0 * factor, factor)
    y_moved = factor * (y + 5.0)
    for name, score in SCORES.items():
        before, after = score(dist, y), score(moved, y_moved)
        if name == "nll":
            expected = before + math.log(factor)
        else:
            expected = before if name == "pit" else before * factor
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


@pytest.mark.parametrize("name", [n for n in SCORES if n != "nll"])
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
    with pytest.raises(ValueError, match="levels must be probabilities between 0 and 1"):
        scoring.pinball(dist, y, levels)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90, math.nan])
def test_interval_score_refuses_a_coverage_outside_0_and_1(coverage: float) -> None:
    """90 is no coverage."""
    dist, y = mixtures()
    with pytest.raises(ValueError, match=f"coverage must lie between 0 and 1; got {coverage}"):
        scoring.interval_score(dist, y, coverage)


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


@pytest.mark.parametrize("name", ["nll", "crps", "pinball", "interval_score"])
def test_every_proper_score_is_lowest_for_the_exact_model(
    name: str, three_models: tuple[dict[str, GaussianMixture], Tensor]
) -> None:
    """The mean over 4000 rows is lower for the exact model than for either other.

    By the paired difference d the exact model wins by mean(d) / (sd(d) / sqrt(4000)) standard
    errors. The eight margins lie between 10 and 34, so that fresh data would fall below the 5
    asserted here with probability under 1e-6 each.
    """
    models, y = three_models
    score = {key: SCORES[name](model, y) for key, model in models.items()}
    for other in ("narrow", "wide"):
        apart = score[other] - score["exact"]
        assert apart.mean() / (apart.std() / math.sqrt(len(y))) > 5


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
        found = scorer(Known(dist), None, y.reshape(shape))
        assert isinstance(found, float)
        assert found == pytest.approx(-rows.mean(), rel=1e-12)
        weighted = scorer(Known(dist), None, y.reshape(shape), sample_weight=weight)
        assert weighted == pytest.approx(-(weight * rows).sum() / weight.sum(), rel=1e-12)

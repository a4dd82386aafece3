"""Tests of the calibration diagnostics on exact, too narrow and too wide models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor
from torch import distributions as td

from mdn import GaussianMixture, Mixture, scoring
from mdn.calibration import (
    ConformalHDR,
    ConformalIntervals,
    Recalibration,
    conditional_calibration,
    coverage_curve,
    hdr_values,
    out_of_fold,
    pit_histogram,
    pit_test,
    recalibrate,
    sharpness,
)
from mdn.distribution import PointMass

N = 2000
Models = dict[str, Any]


def mixtures(n: int, generator: torch.Generator) -> tuple[GaussianMixture, Tensor]:
    """N mixtures of two components that depend on x (N, 1), and x."""
    x = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    loc = torch.stack([-0.6 - 0.4 * x, 0.6 + 0.8 * x], 1)  # (N, 2, 1)
    scale = torch.stack([0.5 + 0.5 * x, 0.8 - 0.2 * x], 1)
    return GaussianMixture(torch.cat([torch.zeros_like(x), x], 1), loc, scale), x


def stretched(dist: GaussianMixture, factor: float) -> GaussianMixture:
    """All as far from its mean as that many times before."""
    return dist.affine((1 - factor) * dist.mean, factor)


@pytest.fixture(scope="module")
def three() -> tuple[Models, Tensor, Tensor]:
    """2000 rows, the model they come from, and it at 0.7 and 1.4 times the width."""
    g = torch.Generator().manual_seed(11)
    exact, x = mixtures(N, g)
    models = {"exact": exact, "narrow": stretched(exact, 0.7), "wide": stretched(exact, 1.4)}
    return models, exact.sample(generator=g), x


# -- HDR values ---------------------------------------------------------------------------------


def test_hdr_value_is_the_mass_where_the_density_is_higher() -> None:
    """By quadrature of SciPy's density over the stretches between the crossings on a fine grid."""
    rng = np.random.default_rng(0)
    logits, loc = rng.normal(size=(12, 4)), 2 * rng.normal(size=(12, 4, 1))
    scale, y = 0.1 + rng.random((12, 4, 1)), 2.5 * rng.normal(size=(12, 1))
    dist = GaussianMixture(*map(torch.as_tensor, (logits, loc, scale)))
    for i, found in enumerate(hdr_values(dist, y)):
        w = np.exp(logits[i]) / np.exp(logits[i]).sum()
        parts = stats.norm(loc[i, :, 0], scale[i, :, 0])

        def gap(t: float, i: int = i, w: Any = w, parts: Any = parts) -> float:
            return float(w @ (parts.pdf(t) - parts.pdf(y[i, 0])))

        grid = np.linspace(-15, 15, 3001) + 1e-7
        sign = np.array([gap(t) >= 0 for t in grid])
        at = np.flatnonzero(sign[1:] != sign[:-1])
        ends = [optimize.brentq(gap, grid[j], grid[j + 1], xtol=1e-14) for j in at]
        expected = sum(
            float(w @ (parts.cdf(b) - parts.cdf(a)))
            for a, b in zip(ends[::2], ends[1::2], strict=True)
        )
        assert found == pytest.approx(expected, abs=1e-9)


def test_hdr_value_is_at_most_c_exactly_inside_the_region_of_coverage_c() -> None:
    """Against hdr(), on either side of its edges; also for families other than the Gaussian."""
    g = torch.Generator().manual_seed(0)
    dist = mixtures(6, g)[0]
    gamma = td.Gamma(torch.tensor([2.0, 30.0]).double(), torch.tensor([1.0, 3.0]).double())
    for law in (dist, Mixture(torch.zeros(2).double(), gamma)):
        for coverage in (0.3, 0.8, 0.99):
            edges = law.hdr(coverage).intervals
            edges = edges.reshape(-1, edges.shape[-2] * 2)
            for column in edges.t():
                known = ~column.isnan()
                place = torch.where(known, column, 0.0).unsqueeze(-1)
                v = hdr_values(law.expand(place.shape[:1]), place)
                np.testing.assert_allclose(v[known.numpy()], coverage, atol=1e-6)


def test_hdr_value_of_a_single_normal_is_its_central_coverage() -> None:
    """P(|Z| <= |z|), SciPy's chi, out to where it is 1; on either side alike.

    At the mode the density is flat: a rounding of it is 1e-8 in place.
    """
    z = np.array([[-6.0], [-1.0], [0.0], [0.3], [2.0], [40.0]])
    dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1)).to(torch.float64)
    v, expected = hdr_values(dist, z), stats.chi(1).cdf(abs(z[:, 0]))
    np.testing.assert_allclose(v, expected, rtol=1e-12, atol=2e-8)


def test_hdr_values_from_draws_agree_with_the_exact_ones() -> None:
    """D = 3 with one component: P(chi^2_3 <= z^2), within five binomial standard errors."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(20, 3, generator=g, dtype=torch.float64)
    dist = GaussianMixture(torch.zeros(1), torch.zeros(1, 3), torch.ones(1, 3)).to(torch.float64)
    expected = stats.chi2(3).cdf(y.square().sum(1).numpy())
    found = hdr_values(dist, y, n_samples=4000)
    error = np.sqrt(expected * (1 - expected) / 4000) + 1e-3
    np.testing.assert_array_less(np.abs(found - expected), 5 * error)


@pytest.mark.parametrize("n_samples", [3, 200])
def test_hdr_values_from_draws_are_uniform_however_few(n_samples: int) -> None:
    """Two targets, whole numbers, a point mass, a circle; Kolmogorov-Smirnov at 1e-4 each."""
    g = torch.Generator().manual_seed(5)
    rate = 1 + 3 * torch.rand(N, 1, generator=g, dtype=torch.float64)
    zero = torch.zeros(N, 1, dtype=torch.float64)
    two = GaussianMixture(zero, torch.cat([rate, zero], 1).unsqueeze(1), torch.ones(1, 2).double())
    laws: list[Any] = [
        two,
        Mixture(zero, td.Poisson(rate)),
        Mixture(torch.zeros(N, 2).double(), [PointMass(zero[:, 0]), td.Exponential(rate[:, 0])]),
        Mixture(zero, td.VonMises(rate - 2, rate)),
        two.marginal(0).discretize(0.5),
        two.marginal(0).truncate(0.0, 3.0),
    ]
    for law in laws:
        y = law.sample(generator=g)
        v = hdr_values(law, y, n_samples=n_samples, generator=g)
        assert stats.kstest(v, "uniform").pvalue > 1e-4, law


def test_hdr_values_do_not_depend_on_how_the_rows_are_grouped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batch = loop: in chunks of a few rows the same numbers to the last bit."""
    dist, _ = mixtures(50, torch.Generator().manual_seed(0))
    y = dist.sample(generator=torch.Generator().manual_seed(1))
    whole = hdr_values(dist, y)
    monkeypatch.setattr("mdn.calibration._hdr_values._CHUNK", 30)
    np.testing.assert_array_equal(hdr_values(dist, y), whole)


# -- PIT ----------------------------------------------------------------------------------------


def test_histogram_counts_are_those_of_numpy_and_the_band_is_binomial(
    three: tuple[Models, Tensor, Tensor],
) -> None:
    """The band holds a binomial count with the stated probability or a little more."""
    models, y, _ = three
    found = pit_histogram(models["exact"], y, bins=10, band=0.95)
    u = scoring.pit(models["exact"], y)
    np.testing.assert_array_equal(found.counts, np.histogram(u, 10, (0, 1))[0])
    assert found.counts.sum() == N
    assert found.expected == N / 10
    law = stats.binom(N, 0.1)
    assert 0.95 <= law.cdf(found.high) - law.cdf(found.low - 1) < 0.96
    same = pit_histogram(u.numpy(), bins=10, band=0.95)
    np.testing.assert_array_equal(same.counts, found.counts)


def test_histogram_has_a_valley_if_too_narrow_and_a_hump_if_too_wide(
    three: tuple[Models, Tensor, Tensor],
) -> None:
    """The exact model stays within a band of 1 - 1e-4 a bin: fails with probability 1e-3."""
    models, y, _ = three
    found = {k: pit_histogram(m, y, bins=10, band=1 - 1e-4) for k, m in models.items()}
    exact = found["exact"]
    assert ((exact.counts >= exact.low) & (exact.counts <= exact.high)).all()
    assert (found["narrow"].counts[[0, -1]] > exact.high).all()
    assert (found["wide"].counts[[0, -1]] < exact.low).all()


def test_statistics_match_scipy() -> None:
    """Kolmogorov and Cramer-von Mises with their p-values; Anderson-Darling by goodness_of_fit.

    Its Monte Carlo p-value, of 20000 uniform samples, agrees to 0.015, four standard errors.
    """
    rng = np.random.default_rng(1)
    for n in (5, 60):
        u = rng.random(n) ** 1.2
        found = pit_test(u)
        assert found.n == n
        assert found.kolmogorov == pytest.approx(stats.kstest(u, "uniform")[:2])
        cramer = stats.cramervonmises(u, "uniform")
        assert found.cramer_von_mises == pytest.approx((cramer.statistic, cramer.pvalue))
        anderson = stats.goodness_of_fit(
            stats.uniform,
            u,
            known_params={"loc": 0, "scale": 1},
            statistic="ad",
            n_mc_samples=20_000,
            rng=rng,
        )
        assert found.anderson_darling.statistic == pytest.approx(anderson.statistic, rel=1e-9)
        assert found.anderson_darling.p_value == pytest.approx(anderson.pvalue, abs=0.015)


@pytest.mark.parametrize(
    ("statistic", "p"), [(1.933, 0.1), (2.492, 0.05), (3.070, 0.025), (3.857, 0.01)]
)
def test_anderson_darling_matches_the_published_points(statistic: float, p: float) -> None:
    """The asymptotic points of Stephens's table for a law that is fully known."""
    from mdn.calibration._pit import _anderson_darling_tail

    assert _anderson_darling_tail(statistic) == pytest.approx(p, rel=0.03)


def test_anderson_darling_is_the_law_of_a_sum_of_squares() -> None:
    """By inverting the characteristic function of sum_j X_j^2 / (j (j + 1)) numerically (Imhof)."""
    from mdn.calibration._pit import _anderson_darling_tail

    weight = 1 / (np.arange(1, 2001) * np.arange(2, 2002))
    rest = 1 - weight.sum()  # the mean of the terms left out, which hardly vary

    def tail(z: float) -> float:
        def f(t: float) -> float:
            angle = 0.5 * np.arctan(weight * t).sum() - 0.5 * (z - rest) * t
            return math.sin(angle) / (t * math.exp(0.25 * np.log1p((weight * t) ** 2).sum()))

        return 0.5 + integrate.quad(f, 1e-12, 400, limit=2000)[0] / math.pi

    for z in (0.3, 0.8, 2.0, 5.0):
        assert _anderson_darling_tail(z) == pytest.approx(tail(z), abs=2e-6)
    low, high = _anderson_darling_tail(14 - 1e-9), _anderson_darling_tail(14 + 1e-9)
    assert high == pytest.approx(low, rel=0.03)
    assert _anderson_darling_tail(0.01) == 1
    assert 0 < _anderson_darling_tail(200) < 1e-80


def test_tests_tell_three_models_apart(three: tuple[Models, Tensor, Tensor]) -> None:
    """The exact model is rejected at 1e-3 by one of three tests with probability under 3e-3."""
    models, y, _ = three
    for name, model in models.items():
        for outcome in pit_test(model, y)[1:]:
            assert outcome.p_value > 1e-3 if name == "exact" else outcome.p_value < 1e-6


def test_a_pit_of_zero_or_one_gives_a_finite_statistic() -> None:
    """A PIT that rounds to 0 or 1 is no logarithm of 0."""
    found = pit_test(np.array([0.0, 0.3, 0.6, 1.0]))
    assert math.isfinite(found.anderson_darling.statistic)
    assert found.anderson_darling.p_value < 1e-5


def test_rounded_values_are_uniform_by_randomisation() -> None:
    """A rounded model is calibrated on rounded y: p > 1e-4, which fails with probability 3e-4."""
    g = torch.Generator().manual_seed(4)
    rounded = mixtures(N, g)[0].discretize(1.0)
    y = rounded.sample(generator=g)
    assert min(t.p_value for t in pit_test(rounded, y)[1:]) > 1e-4
    assert stats.kstest(scoring.pit(rounded, y), "uniform").pvalue < 1e-9
    observed = coverage_curve(rounded, y, levels=[0.5], kind="hdr").observed[0]
    assert observed == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / N))


# -- coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["central", "hdr"])
def test_coverage_is_the_share_inside_the_intervals(
    kind: Any, three: tuple[Models, Tensor, Tensor]
) -> None:
    """Counted by hand in interval() and hdr()."""
    models, y, _ = three
    levels = [0.2, 0.6, 0.9]
    for dist in models.values():
        found = coverage_curve(dist, y, levels=levels, kind=kind)
        for level, observed in zip(levels, found.observed, strict=True):
            if kind == "central":
                low, high = dist.interval(level).unbind(-1)
                inside = (y[:, 0] >= low) & (y[:, 0] <= high)
            else:
                ends = dist.hdr(level).intervals
                inside = ((y >= ends[..., 0]) & (y <= ends[..., 1])).any(-1)
            assert observed == inside.double().mean()
        low, high = stats.binom(N, np.array(levels)).ppf([[0.05], [0.95]]) / N
        np.testing.assert_array_equal(found.low, low)
        np.testing.assert_array_equal(found.high, high)


@pytest.mark.parametrize("kind", ["central", "hdr"])
def test_coverage_tells_three_models_apart(kind: Any, three: tuple[Models, Tensor, Tensor]) -> None:
    """At three levels the exact model leaves its band of 1 - 1e-4 with probability 3e-4."""
    models, y, _ = three
    found = {
        name: coverage_curve(m, y, levels=[0.8, 0.9, 0.95], kind=kind, band=1 - 1e-4)
        for name, m in models.items()
    }
    exact = found["exact"]
    assert ((exact.observed >= exact.low) & (exact.observed <= exact.high)).all()
    assert (found["narrow"].observed < exact.low).all()
    assert (found["wide"].observed > exact.high).all()


def test_hdr_coverage_shows_a_gap_that_central_intervals_do_not() -> None:
    """Two far peaks, predicted as the one flat stretch that has the same quartiles and tails."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(N, 1, generator=g, dtype=torch.float64)
    y = torch.where(x < 0.5, -1.0, 1.0) * (0.8 + 0.2 * (2 * x - (x > 0.5) * 1.0))
    one = GaussianMixture(torch.zeros(1), torch.zeros(N, 1, 1).double(), torch.ones(1, 1).double())
    assert coverage_curve(one, y, levels=[0.2], kind="hdr").observed[0] == 0
    two = GaussianMixture(
        torch.zeros(2).double(), torch.tensor([[-0.9], [0.9]]).double(), 0.06 * torch.ones(2, 1)
    )
    found = coverage_curve(two, y, levels=[0.5], kind="hdr", band=0.999)
    assert found.observed[0] > 0.3


def test_hdr_coverage_of_several_targets_tells_three_models_apart() -> None:
    """D = 2, full covariance; the exact one leaves its band with probability 2e-4."""
    g = torch.Generator().manual_seed(3)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.5]]).double()
    loc = torch.randn(N, 2, 2, generator=g, dtype=torch.float64)
    models = {
        name: GaussianMixture(torch.zeros(2).double(), loc, scale_tril=f * root.expand(2, 2, 2))
        for name, f in (("exact", 1.0), ("narrow", 0.7), ("wide", 1.4))
    }
    y = models["exact"].sample(generator=g)
    found = {
        name: coverage_curve(m, y, levels=[0.5, 0.9], kind="hdr", band=1 - 1e-4, n_samples=300)
        for name, m in models.items()
    }
    exact = found["exact"]
    assert ((exact.observed >= exact.low) & (exact.observed <= exact.high)).all()
    assert (found["narrow"].observed < exact.low).all()
    assert (found["wide"].observed > exact.high).all()


def test_sharpness_is_the_width_of_the_intervals(three: tuple[Models, Tensor, Tensor]) -> None:
    """Widths of interval(); a stretched model is blunter by its factor."""
    models, _, _ = three
    found = {name: sharpness(m, (0.5, 0.9)) for name, m in models.items()}
    width = models["exact"].interval(0.9).diff(dim=-1)[:, 0].numpy()
    np.testing.assert_array_equal(found["exact"].width[:, 1], width)
    assert found["exact"].mean[1] == pytest.approx(width.mean())
    assert found["exact"].median[1] == np.median(width)
    np.testing.assert_allclose(found["narrow"].mean, 0.7 * found["exact"].mean)
    np.testing.assert_allclose(found["wide"].mean, 1.4 * found["exact"].mean)


# -- where in x ---------------------------------------------------------------------------------


def test_conditional_calibration_finds_the_feature_along_which_a_model_is_wrong() -> None:
    """Too high for x < 1/2 and too low above: nothing over all rows, everything along x."""
    g = torch.Generator().manual_seed(0)
    X = torch.rand(N, 2, generator=g, dtype=torch.float64)
    exact = GaussianMixture(torch.zeros(1), X[:, :1].unsqueeze(-1), torch.ones(1, 1).double())
    y = exact.sample(generator=g)
    shift = torch.where(X[:, :1] < 0.5, 0.4, -0.4)
    found = conditional_calibration(exact.affine(shift, 1.0), y, X, n_bins=4)
    assert [r.feature for r in found[:4]] == ["x0"] * 4
    assert max(r.p_adjusted for r in found[:4]) < 1e-9
    means = {r.where: r.pit_mean for r in found if r.feature == "x0"}
    assert sorted(round(m - 0.5, 1) for m in means.values()) == [-0.1, -0.1, 0.1, 0.1]
    others = [r for r in found if r.feature != "x0"]
    assert len(others) == 5  # the predicted spread is constant
    assert min(r.p_bias for r in others) > 1e-3  # each fails with probability 1e-3
    assert [r.p_adjusted for r in found] == sorted(r.p_adjusted for r in found)


def test_an_exact_model_is_rejected_in_at_most_the_stated_share_of_samples() -> None:
    """Holm at 20 %: of 200 samples at most 20 % + 4 standard errors, and not none."""
    g = torch.Generator().manual_seed(1)
    flagged = 0
    for _ in range(200):
        dist, x = mixtures(150, g)
        found = conditional_calibration(dist, dist.sample(generator=g), x.numpy(), n_bins=3)
        flagged += bool(found.significant(0.2))
    assert 5 < flagged < 40 + 4 * math.sqrt(200 * 0.2 * 0.8)


def test_conditional_calibration_tells_three_models_apart(
    three: tuple[Models, Tensor, Tensor],
) -> None:
    """The exact one has no wrong region at 1e-3; the others have, of the right kind."""
    models, y, x = three
    found = {k: conditional_calibration(m, y, x) for k, m in models.items()}
    assert not found["exact"].significant(1e-3)
    assert found["narrow"].significant(1e-9)
    assert found["wide"].significant(1e-9)
    overall = {k: next(r for r in f if r.feature == "all rows") for k, f in found.items()}
    assert overall["narrow"].pit_variance > 1.1
    assert overall["wide"].pit_variance < 0.9
    assert overall["exact"].pit_variance == pytest.approx(1, abs=4 * math.sqrt(0.8 / N))


def test_p_values_of_a_bin_are_those_of_many_uniform_samples() -> None:
    """Mean and variance of 12 uniforms by 40000 samples of NumPy's: to five standard errors."""
    dist = GaussianMixture(torch.zeros(1), torch.zeros(12, 1, 1), torch.ones(1, 1)).to(
        torch.float64
    )
    u = np.linspace(0.12, 0.99, 12)
    y = stats.norm.ppf(u)[:, None]
    region = next(
        r for r in conditional_calibration(dist, y, np.zeros((12, 1))) if r.feature == "all rows"
    )
    assert region.pit_mean == pytest.approx(u.mean())
    assert region.pit_variance == pytest.approx(12 * ((u - 0.5) ** 2).mean())
    draws = np.random.default_rng(0).random((40_000, 12))
    bias = np.mean(abs(draws.mean(1) - 0.5) >= abs(u.mean() - 0.5))
    squares = ((draws - 0.5) ** 2).mean(1)
    tail = np.mean(squares >= ((u - 0.5) ** 2).mean())
    assert region.p_bias == pytest.approx(bias, abs=0.015)
    assert region.p_spread == pytest.approx(2 * min(tail, 1 - tail), abs=0.03)


@pytest.mark.parametrize("library", [pd, pl])
def test_data_frames_give_names_categories_and_missing_values(library: Any) -> None:
    """A wrong category is named; a missing value is a bin of its own."""
    g = torch.Generator().manual_seed(2)
    town = torch.rand(600, 1, generator=g) < 0.4
    dist = GaussianMixture(torch.zeros(1), torch.zeros(600, 1, 1), torch.ones(1, 1))
    y = dist.sample(generator=g) + 0.8 * town
    size = np.arange(600.0)
    size[::6] = np.nan
    frame = library.DataFrame({"place": np.where(town[:, 0], "town", "country"), "size": size})
    found = conditional_calibration(dist, y, frame, n_bins=3)
    assert (found[0].feature, found[0].where) == ("place", "town")
    assert found[0].n == int(town.sum())
    assert {r.where for r in found if r.feature == "place"} == {"town", "country"}
    sizes = {r.where: r.n for r in found if r.feature == "size"}
    assert sizes.pop("missing") == 100
    assert len(sizes) == 3
    assert sum(sizes.values()) == 500
    table = str(found).splitlines()
    assert table[0].split()[:2] == ["feature", "where"]
    assert table[1].split()[:3] == ["place", "town", str(int(town.sum()))]
    assert pd.DataFrame(found.to_dict()).loc[0, "feature"] == "place"
    renamed = conditional_calibration(dist, y, frame, feature_names=["a", "b"])
    assert renamed[0].feature == "a"


def test_holm_matches_the_definition() -> None:
    """The i-th smallest of m times m - i + 1, running maximum."""
    from mdn.calibration._conditional import _holm

    found = _holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])


# -- recalibration ------------------------------------------------------------------------------

NOISE: dict[str, Any] = {
    "biased": lambda rng, n: rng.normal(0.6, 1.0, n),
    "too narrow": lambda rng, n: rng.normal(0.0, 1.8, n),
    "too wide": lambda rng, n: rng.normal(0.0, 0.5, n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n),
    "skewed": lambda rng, n: rng.gumbel(-0.577, 0.78, n),
}


def normals(n: int) -> GaussianMixture:
    """Standard normal for every row."""
    return GaussianMixture(torch.zeros(1), torch.zeros(n, 1, 1), torch.ones(1, 1)).to(torch.float64)


@pytest.mark.parametrize("method", ["affine", "monotone"])
@pytest.mark.parametrize("name", NOISE)
def test_recalibration_gains_on_fresh_rows(name: str, method: Any) -> None:
    """Learnt on 1500 rows; on 6000 others the NLL falls and the PIT is nearer to uniform.

    The affine step is enough for bias and width; tails and skewness want the shape.
    """
    rng = np.random.default_rng(5)
    y, fresh = (NOISE[name](rng, n)[:, None] for n in (1500, 6000))
    found = recalibrate(normals(1500), y, method)
    before, after = normals(6000), found.apply(normals(6000))
    assert isinstance(after, GaussianMixture)
    gain = scoring.nll(before, fresh) - scoring.nll(after, fresh)
    if method == "monotone" or name in ("biased", "too narrow", "too wide"):
        assert gain.mean() > 3 * gain.std() / math.sqrt(6000)
        old, new = (pit_test(m, fresh).cramer_von_mises.statistic for m in (before, after))
        assert new < 0.2 * old
    if name in ("heavy tails", "skewed"):
        assert found._has_shape == (method == "monotone")


def test_affine_recalibration_of_one_normal_is_the_maximum_likelihood_one() -> None:
    """Mean and standard deviation of y, but for the prior of half a nat."""
    y = np.random.default_rng(0).normal(0.7, 1.6, 3000)[:, None]
    found = recalibrate(normals(3000), y)
    assert found.shift.item() == pytest.approx(y.mean(), rel=2e-3)
    assert found.scale.item() == pytest.approx(y.std(), rel=2e-3)
    expected = stats.norm.logpdf(y, y.mean(), y.std()).mean() - stats.norm.logpdf(y).mean()
    assert found.gain == pytest.approx(expected, rel=1e-4)
    assert found.spread.item() == found.temperature == 1


@pytest.mark.parametrize("sd", [1e-4, 0.01, 0.1, 100.0])
def test_recalibration_mends_an_offset_of_any_size(sd: float) -> None:
    """y ~ N(5, 1) against N(0, sd): the mean, deviation and NLL of y itself, SciPy's normal."""
    y = np.random.default_rng(0).normal(5.0, 1.0, (500, 1))
    wrong = normals(500).affine(0.0, sd)
    for method in ("affine", "monotone"):
        moved = recalibrate(wrong, y, method).apply(wrong)  # type: ignore[arg-type]
        assert moved.mean[0].item() == pytest.approx(y.mean(), abs=2e-3)
        assert moved.stddev[0].item() == pytest.approx(y.std(), rel=5e-3)
        best = -stats.norm.logpdf(y, y.mean(), y.std()).mean()
        assert float(scoring.nll(moved, y).mean()) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("ratio", [1e-3, 10.0, 1e3])
def test_recalibration_finds_the_optimum_however_far_it_is(offset: float, ratio: float) -> None:
    """SciPy's BFGS on the same objective, begun from the truth, finds nothing better."""
    from mdn.calibration._recalibration import _RIDGE

    g = torch.Generator().manual_seed(0)
    truth, _ = mixtures(200, g)
    y = truth.sample(generator=g)
    place = truth.mean - offset * truth.stddev / ratio
    wrong = truth.rescale(1 / ratio, 1 / ratio, mean=place)

    def loss(scale: Tensor, spread: Tensor, shift: Tensor, power: Tensor) -> Tensor:
        mean = wrong.mean + shift * wrong.stddev
        moved = wrong.rescale(scale, spread, mean=mean, weight_power=power)
        far = torch.cat([scale.log(), spread.log(), power.log(), shift / scale])
        return _RIDGE * far.square().log1p().sum() - moved.log_prob(y).sum()

    def objective(a: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(a, requires_grad=True)
        scale, spread, power = (ratio * t[:1].exp(), ratio * t[1:2].exp(), t[2:3].exp())
        value = loss(scale, spread, offset + ratio * t[3:], power)
        value.backward()
        return value.item(), t.grad.numpy()  # type: ignore[union-attr]

    rival = optimize.minimize(objective, np.zeros(4), jac=True, method="BFGS").fun
    found = recalibrate(wrong, y)
    power = torch.tensor([found.temperature]).double()
    assert float(loss(found.scale, found.spread, found.shift, power)) < rival + 1e-4


def test_affine_recalibration_finds_the_four_changes_of_a_mixture() -> None:
    """Undoes a wrong scale, spread, shift and temperature: on fresh rows within 0.01 nats."""
    g = torch.Generator().manual_seed(0)
    truth, _ = mixtures(8000, g)
    y = truth.sample(generator=g)
    mean, sd = truth.mean.unsqueeze(-2), truth.stddev.unsqueeze(-2)
    wrong = GaussianMixture(
        2 * truth.logits, mean + 0.3 * sd + 0.8 * (truth.loc - mean), 0.6 * truth.scale
    )
    train, test = slice(0, 4000), slice(4000, 8000)
    found = recalibrate(wrong[train], y[train])
    best, bad, good = (
        scoring.nll(m[test], y[test]).mean() for m in (truth, wrong, found.apply(wrong))
    )
    assert bad - best > 0.2
    assert good - best < 0.01
    assert found.temperature < 1 < found.scale.item()


@pytest.mark.parametrize(("method", "n"), [("monotone", 30), ("monotone", 300), ("affine", 100)])
def test_a_calibrated_model_stays_as_it_is(method: Any, n: int) -> None:
    """Of 80 calibrated samples at most 6 are changed.

    At a rate of 2 % more than 6 are changed with probability 1e-3, at the nominal 1 % with 2e-5.
    """
    g = torch.Generator().manual_seed(n)
    changed = 0
    for _ in range(80):
        dist, _ = mixtures(n, g)
        found = recalibrate(dist, dist.sample(generator=g), method)
        changed += not found.is_identity
        assert not found.is_identity or found.apply(dist) is dist
    assert changed <= 6


@pytest.mark.parametrize("method", ["affine", "monotone"])
def test_recalibration_is_never_worse_on_the_rows_of_its_fit(method: Any) -> None:
    """Any model on any y, few rows: the gain is at least 0 and is the one that is stated."""
    g = torch.Generator().manual_seed(0)
    for n in (2, 5, 40, 200):
        for wide in (0.3, 1.0, 3.0):
            dist, _ = mixtures(n, g)
            y = 0.5 + dist.sample(generator=g)
            model = stretched(dist, wide)
            found = recalibrate(model, y, method)
            gain = (scoring.nll(model, y) - scoring.nll(found.apply(model), y)).mean()
            assert gain >= 0
            assert float(gain) == pytest.approx(found.gain, abs=1e-9)


def test_weights_of_the_shape_are_the_global_optimum() -> None:
    """No slope exceeds 1, which for a concave function proves it; SciPy's SLSQP finds no more."""
    from mdn.calibration._recalibration import _weights

    rng = np.random.default_rng(0)
    ratio = np.exp(rng.normal(size=(60, 7)))
    w = _weights(torch.as_tensor(ratio)).numpy()
    assert w.sum() == pytest.approx(1)
    assert (w >= 0).all()
    assert (ratio / (ratio @ w)[:, None]).mean(0).max() < 1 + 1e-3 / 60
    rival = optimize.minimize(
        lambda v: -np.log(ratio @ v).sum(),
        np.full(7, 1 / 7),
        bounds=[(0, 1)] * 7,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert np.log(ratio @ w).sum() >= -rival.fun - 1e-3


def test_the_shaped_mixture_is_the_formula() -> None:
    """p'(y) = sum_j w_j sum_k pi_k N(y; mu_k + a_j sigma_k, (s_j sigma_k)^2), SciPy's normal."""
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    shape = torch.tensor([[0.7, 0.0, 1.0], [0.3, -1.5, 2.0]]).double()
    change = Recalibration(one, one, zero, 1.0, shape, 0.1)
    dist, _ = mixtures(5, torch.Generator().manual_seed(0))
    y = dist.sample(generator=torch.Generator().manual_seed(1))
    moved = change.apply(dist)
    assert moved.batch_shape == (5,)
    assert moved.n_components == 4
    w, part = dist.weights.numpy(), dist.numpy()
    loc, scale = part["loc"][..., 0], part["scale"][..., 0]
    expected = sum(
        v * w * stats.norm.pdf(y.numpy(), loc + a * scale, s * scale) for v, a, s in shape.numpy()
    ).sum(-1)
    np.testing.assert_allclose(moved.log_prob(y).exp(), expected, rtol=1e-12)
    assert change.apply(dist[2]).batch_shape == ()
    assert change.apply(dist.to(torch.float32)).loc.dtype == torch.float32


def test_recalibration_of_several_targets_corrects_each() -> None:
    """Full covariance, one target too narrow and one too wide: factors 2 and 1/2 are found."""
    g = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.5]]).double()
    truth = GaussianMixture(
        torch.zeros(1), torch.randn(N, 1, 2, generator=g).double(), scale_tril=root.expand(1, 2, 2)
    )
    y = truth.sample(generator=g)
    factor = torch.tensor([0.5, 2.0]).double()
    model = truth.affine((1 - factor) * truth.mean, factor)
    found = recalibrate(model, y)
    np.testing.assert_allclose(found.scale, [2.0, 0.5], rtol=0.1)
    assert "scale" in repr(found)
    assert found.apply(model).event_shape == (2,)


def test_a_component_of_weight_zero_stays_so() -> None:
    """No NaN enters from the logarithm of 0."""
    y = np.random.default_rng(0).normal(0.0, 2.0, (300, 1))
    logits = torch.tensor([0.0, -math.inf, 0.5]).double()
    dist = GaussianMixture(logits, torch.zeros(300, 3, 1).double(), torch.ones(3, 1).double())
    found = recalibrate(dist, y)
    assert not found.is_identity
    moved = found.apply(dist)
    assert (moved.weights[:, 1] == 0).all()
    assert moved.log_prob(torch.as_tensor(y)).isfinite().all()


# -- conformal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0], ids=["exact", "narrow", "wide"])
@pytest.mark.parametrize("kind", ["interval", "hdr"])
def test_conformal_sets_cover_exactly_for_any_model(kind: str, factor: float) -> None:
    """99 rows to learn, coverage 0.9: the mean coverage over repetitions is 0.9 exactly.

    80 repetitions with 60 new rows each.  By theory the coverage of one is Beta(90, 10), with
    standard deviation 0.03, so that the mean of all has that of sqrt(0.09/4800 + 0.0009/80) =
    0.0055; outside of 4.5 of these with probability 7e-6.
    """
    g = torch.Generator().manual_seed(7)
    truth, _ = mixtures(80 * 159, g)
    y = truth.sample(generator=g)
    model = stretched(truth, factor)
    shares = []
    for i in range(80):
        held, new = (slice(159 * i, 159 * i + 99), slice(159 * i + 99, 159 * i + 159))
        if kind == "interval":
            found: Any = ConformalIntervals.fit(model[held], y[held], 0.9)
            low, high = found.predict(model[new]).unbind(-1)
            inside = ((y[new, 0] >= low) & (y[new, 0] <= high)).numpy()
        else:
            found = ConformalHDR.fit(model[held], y[held], 0.9)
            inside = found.contains(model[new], y[new])
        shares.append(inside.mean())
    spread = math.sqrt(0.09 / 4800 + 0.0009 / 80)
    assert np.mean(shares) == pytest.approx(0.9, abs=4.5 * spread)


def test_conformal_correction_is_the_order_statistic_of_the_misses(
    three: tuple[Models, Tensor, Tensor],
) -> None:
    """The ceil((n + 1) c)-th smallest of max(l - y, y - h): above 0 if narrow, below if wide."""
    models, y, _ = three
    for name, model in models.items():
        found = ConformalIntervals.fit(model, y, 0.9)
        low, high = model.interval(0.9).numpy().T
        miss = np.sort(np.maximum(low - y[:, 0].numpy(), y[:, 0].numpy() - high))
        assert found.correction == pytest.approx(miss[math.ceil(0.9 * (N + 1)) - 1])
        assert found.n == N
        assert name == "exact" or (found.correction > 0.1) == (name == "narrow")
        adjusted = ConformalHDR.fit(model, y, 0.9).adjusted_coverage
        v = np.sort(hdr_values(model, y))
        assert adjusted == v[math.ceil(0.9 * (N + 1)) - 1]
        bounds = {"exact": (0.87, 0.93), "narrow": (0.95, 1.0), "wide": (0.5, 0.86)}
        assert bounds[name][0] < adjusted < bounds[name][1]


def test_conformal_regions_agree_with_contains(
    three: tuple[Models, Tensor, Tensor],
) -> None:
    """y lies in one of the intervals of predict() exactly if contains() says so."""
    models, y, _ = three
    for model in models.values():
        found = ConformalHDR.fit(model[:1000], y[:1000], 0.8)
        region = found.predict(model[1000:])
        assert region.coverage == found.adjusted_coverage
        low, high = region.intervals.unbind(-1)
        inside = ((y[1000:] >= low) & (y[1000:] <= high)).any(-1).numpy()
        np.testing.assert_array_equal(inside, found.contains(model[1000:], y[1000:]))


def test_conformal_hdr_covers_several_targets() -> None:
    """D = 2, too narrow by half: 3000 new rows after 999, within 4.5 standard deviations.

    The coverage is Beta(900, 100), sd 0.0095, and 3000 rows add 0.0055: 7e-6.
    """
    g = torch.Generator().manual_seed(0)
    loc = torch.randn(3999, 2, 2, generator=g, dtype=torch.float64)
    truth = GaussianMixture(torch.zeros(2).double(), loc, torch.ones(2, 2).double())
    y = truth.sample(generator=g)
    model = GaussianMixture(torch.zeros(2).double(), loc, torch.full((2, 2), 0.5).double())
    found = ConformalHDR.fit(model[:999], y[:999], 0.9, n_samples=400)
    inside = found.contains(model[999:], y[999:])
    assert inside.mean() == pytest.approx(0.9, abs=4.5 * math.hypot(0.0095, 0.0055))
    with pytest.raises(ValueError, match=r"dist must have one target .* \.contains\(dist, y\)"):
        found.predict(model)


def test_an_interval_whose_ends_would_cross_is_its_middle() -> None:
    """A far too wide model and a row with a narrow interval."""
    y = torch.full((99, 1), 0.0).double() + torch.linspace(-0.1, 0.1, 99).double()[:, None]
    wide = normals(99).affine(0.0, 10.0)
    found = ConformalIntervals.fit(wide, y, 0.9)
    interval = found.predict(normals(1).affine(3.0, 1.0))
    np.testing.assert_allclose(interval, [[3.0, 3.0]])


# -- refused ------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "pit_histogram": pit_histogram,
    "pit_test": pit_test,
    "hdr_values": hdr_values,
    "coverage_curve": coverage_curve,
    "conditional_calibration": lambda d, y: conditional_calibration(d, y, np.zeros((200, 1))),
    "recalibrate": recalibrate,
    "ConformalIntervals": ConformalIntervals.fit,
    "ConformalHDR": ConformalHDR.fit,
}


@pytest.mark.parametrize("name", [n for n in CALLS if n != "conditional_calibration"])
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.zeros(40), ValueError, r"y must have shape \(\*, 1\); got \(40,\)\. Did you mean y"),
        (np.zeros((39, 1)), ValueError, "y with batch shape .* does not broadcast"),
        (np.zeros((2, 40, 1)), ValueError, r"y must have shape \(N, 1\), N > 0; got \(2, 40, 1\)"),
        (np.full((40, 1), np.nan), ValueError, "y must not be NaN; row 0 is"),
        (np.array([["a"]] * 40), TypeError, "y must be a tensor or a numeric array"),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    name: str, y: Any, error: type[Exception], message: str
) -> None:
    """Everywhere by the same sentence."""
    with pytest.raises(error, match=message):
        CALLS[name](normals(40), y)


@pytest.mark.parametrize("name", CALLS)
def test_arrays_and_tensors_of_either_precision_give_nearly_the_same(name: str) -> None:
    """Inside everything is float64."""
    dist, _ = mixtures(200, torch.Generator().manual_seed(0))
    y = dist.sample(generator=torch.Generator().manual_seed(1)).float()
    one = CALLS[name](dist, y.double())
    two = CALLS[name](dist, y.double().numpy())
    assert str(one) == str(two)
    CALLS[name](dist.to(torch.float32), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, y: pit_histogram(d), "y must be given with a distribution"),
        (lambda d, y: pit_histogram(np.zeros((3, 1))), r"PIT values must have shape \(N,\)"),
        (lambda d, y: pit_test([0.5, 1.5]), r"must lie in \[0, 1\]; got 1\.5 in row 1"),
        (lambda d, y: pit_test([0.5, math.nan]), r"must lie in \[0, 1\]; got nan in row 1"),
        (lambda d, y: pit_test([0.5]), "a test needs at least 2 rows; got 1"),
        (lambda d, y: pit_histogram(d, y, bins=1), "bins must be at least 2; got 1"),
        (lambda d, y: pit_histogram(d, y, band=90), "band must lie between 0 and 1; got 90"),
        (lambda d, y: coverage_curve(d, y, levels=[90]), "levels must lie between 0 and 1"),
        (lambda d, y: coverage_curve(d, y, levels=[]), "levels .* at least one"),
        (lambda d, y: coverage_curve(d, y, kind="x"), "kind must be one of 'central', 'hdr'; got"),
        (lambda d, y: sharpness(d, [1.0]), "coverage must lie between 0 and 1"),
        (lambda d, y: sharpness(d[0]), r"dist must have batch shape \(N,\) and one target"),
        (lambda d, y: hdr_values(d, y, n_samples=0), "n_samples must be at least 1; got 0"),
        (lambda d, y: recalibrate(d, y, "isotonic"), 'method must be "affine" or "monotone"'),
        (
            lambda d, y: conditional_calibration(d, y, y[:5]),
            "X must have one row for each of the 40 distributions; got 5",
        ),
        (lambda d, y: conditional_calibration(d, y, y[:, 0]), r"X must .* Did you mean X\[:, None"),
        (lambda d, y: conditional_calibration(d, y, y, n_bins=0), "n_bins must be at least 1"),
        (
            lambda d, y: conditional_calibration(d, y, y, feature_names="ab"),
            "feature_names must be 1 names; got 'ab'",
        ),
        (lambda d, y: ConformalIntervals.fit(d, y, 0.99), "needs at least 99 rows, .* got 40"),
        (lambda d, y: ConformalHDR.fit(d, y, 0.99), "needs at least 99 rows, .* got 40"),
        (lambda d, y: ConformalHDR.fit(d.affine(9, 1e-3), y), "dist must leave room for a cov"),
    ],
)
def test_arguments_out_of_range_are_refused(call: Any, message: str) -> None:
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        call(normals(40), np.zeros((40, 1)))


def test_conformal_sets_take_as_few_rows_as_the_guarantee_allows() -> None:
    """c / (1 - c): nine rows for 0.9, where the set reaches to the largest score."""
    y = torch.linspace(-1, 3, 9).double()[:, None]
    assert ConformalIntervals.fit(normals(9), y, 0.9).correction == pytest.approx(3 - 1.644854)
    with pytest.raises(ValueError, match="needs at least 9 rows"):
        ConformalIntervals.fit(normals(8), y[:8], 0.9)


def test_several_targets_are_refused_where_there_are_no_quantiles() -> None:
    """With what to ask instead."""
    g = torch.Generator().manual_seed(0)
    dist = GaussianMixture(torch.zeros(2), torch.zeros(20, 2, 2), torch.ones(2, 2))
    y = dist.sample(generator=g)
    for call, message in (
        (lambda: coverage_curve(dist, y), 'central intervals need one target; .* kind="hdr"'),
        (lambda: pit_test(dist, y), "dist must have one target dimension; got event"),
        (lambda: recalibrate(dist, y, "monotone"), 'method "monotone" needs one target; got 2'),
        (lambda: ConformalIntervals.fit(dist, y), "dist must have one target; got event shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="dist must have 1 targets, as in the fit"):
        recalibrate(dist.marginal(0), y[:, :1]).apply(dist)


def test_only_gaussian_mixtures_are_recalibrated() -> None:
    """Others are no closed family."""
    other = Mixture(torch.zeros(5, 1), td.LogNormal(torch.zeros(5, 1), torch.ones(5, 1)))
    with pytest.raises(TypeError, match=r"dist must be a GaussianMixture, .* got Mixture"):
        recalibrate(other, np.ones((5, 1)))


def test_nothing_touches_the_global_generators() -> None:
    """Draws of the library come from generators of its own."""
    dist = GaussianMixture(torch.zeros(2), torch.zeros(30, 2, 2), torch.ones(2, 2))
    y = dist.sample(generator=torch.Generator().manual_seed(0))
    before, array = torch.get_rng_state(), np.random.get_state()[1]
    first = hdr_values(dist, y)
    np.testing.assert_array_equal(first, hdr_values(dist, y))
    ConformalHDR.fit(dist, y).contains(dist, y)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(array, np.random.get_state()[1])


# -- out of fold --------------------------------------------------------------------------------


class Recalling:
    """Predicts N(x, 1) in several equal parts, and knows the rows that it was fitted to."""

    fits = 0

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def get_params(self, deep: bool = True) -> dict[str, float]:
        return {"offset": self.offset}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Recalling:
        self.seen = set(np.asarray(X)[:, 0].tolist())
        assert sample_weight is None or np.array_equal(sample_weight, y)
        Recalling.fits += 1
        self.n_components = Recalling.fits  # another number for each fold
        return self

    def predict_distribution(self, X: Any) -> GaussianMixture:
        x = torch.as_tensor(np.array(X)[:, :1])
        assert not self.seen & set(x[:, 0].tolist())
        assert len(self.seen) + len(x) in (23, 24)
        loc = (x + self.offset).unsqueeze(1).repeat(1, self.n_components, 1)
        return GaussianMixture(loc[..., 0] * 0, loc, torch.ones_like(loc))


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, pl.DataFrame])
def test_out_of_fold_rows_are_predicted_by_models_that_have_not_seen_them(kind: Any) -> None:
    """In the order of the rows, for folds whose mixtures differ in their number of components."""
    x = np.random.default_rng(0).permutation(23) / 10.0
    Recalling.fits = 0
    model = Recalling(0.5)
    X = x[:, None] if kind is np.asarray else kind({"x": x})
    dist = out_of_fold(model, X, x, cv=4, sample_weight=x)
    np.testing.assert_allclose(dist.mean[:, 0], x + 0.5, rtol=1e-12)
    assert dist.n_components == Recalling.fits == 4
    y = torch.as_tensor(x)[:, None]
    np.testing.assert_allclose(dist.log_prob(y), stats.norm.logpdf(x, x + 0.5), rtol=1e-12)
    assert not hasattr(model, "seen")


def test_out_of_fold_refuses_wrong_arguments_and_other_families() -> None:
    """Too many folds, rows that do not match, and mixtures of another family."""

    class Other(Recalling):
        def predict_distribution(self, X: Any) -> Any:
            return td.Normal(torch.zeros(len(X), 1), torch.ones(1))

    x = np.arange(10.0)[:, None]
    for cv in (1, 11):
        with pytest.raises(ValueError, match=f"cv must lie between 2 and the 10 rows; got {cv}"):
            out_of_fold(Recalling(), x, x[:, 0], cv=cv)
    with pytest.raises(ValueError, match="one length; got 10 and 9 rows"):
        out_of_fold(Recalling(), x, x[:9, 0])
    with pytest.raises(TypeError, match=r"must predict mixture distributions, .* got Normal"):
        out_of_fold(Other(), x, x[:, 0])

"""Tests of the experiment on simulated densities: its distances, its rivals and its report."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from experiments import simulators
from mdn import GaussianMixture
from mdn.simulators import ArmaJump, GaussianMixtureDensity, LinearGaussian, LinearStudentT

SETTINGS = {"test_rows": 2000, "places": 20, "grid_points": 1001}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the figures of the small run lie."""
    return tmp_path_factory.mktemp("simulators")


@pytest.fixture(scope="module")
def steps() -> list[str]:
    """What the small run said on its way."""
    return []


@pytest.fixture(scope="module")
def numbers(folder: Path, steps: list[str]) -> dict[str, Any]:
    """The small run."""
    return simulators.run(0, True, out=folder, progress=steps.append)


def truth(make: type[Any]) -> Any:
    """What estimates of a process are scored against."""
    return simulators._Truth(make(), SETTINGS, np.random.default_rng(1))


def as_estimate(predict: Any) -> simulators.Estimate:
    """An estimate that answers by mixtures."""
    return simulators._of_mixtures(predict)


@pytest.mark.parametrize("make", [ArmaJump, LinearStudentT])
def test_truth_has_no_distance_to_itself(make: type[Any]) -> None:
    """All three distances are 0 for the truth, and the grid in y holds it."""
    it = truth(make)
    assert it.summary()["least_mass_on_grid"] > 0.999
    scores, regret = it.scores(as_estimate(make().distribution))
    np.testing.assert_allclose(regret, 0, atol=1e-12)
    assert scores["regret"] == pytest.approx(0, abs=1e-12)
    assert scores["excess_crps"] == pytest.approx(0, abs=1e-12)
    # the root of one minus a trapezoid that misses up to 1e-4 of the mass in the tails
    assert scores["hellinger"] < 0.01


def test_distances_of_a_shifted_gaussian_are_the_closed_forms() -> None:
    """N(m + s, s^2) for N(m, s^2): regret 1/2, Hellinger distance sqrt(1 - exp(-1/8)).

    The regret is a mean over 2000 rows, and within 5 of its standard errors: of right code, 1 seed
    in 1.7 million fails.
    """
    it = truth(LinearGaussian)

    def shifted(at: Any) -> GaussianMixture:
        found = LinearGaussian().distribution(at)
        return GaussianMixture(found.logits, found.loc + found.scale, found.scale)

    scores, _ = it.scores(as_estimate(shifted))
    assert abs(scores["regret"] - 0.5) < 5 * scores["regret_error"]
    assert scores["regret_error"] == pytest.approx(1 / np.sqrt(2000), rel=0.1)
    assert scores["hellinger"] == pytest.approx(np.sqrt(1 - np.exp(-1 / 8)), rel=1e-4)


def test_excess_crps_is_how_much_worse_the_expected_crps_is() -> None:
    """E CRPS(q, y) - E CRPS(p, y) over y ~ p, by the closed-form CRPS and SciPy's quadrature."""
    it = truth(LinearGaussian)

    def too_wide(at: Any) -> GaussianMixture:
        found = LinearGaussian().distribution(at)
        return GaussianMixture(found.logits, found.loc, 2 * found.scale)

    # at every x it is the same law in units of its width
    def expected(scale: float) -> float:
        law = GaussianMixture(
            torch.zeros(1).double(), torch.zeros(1, 1).double(), torch.tensor([[scale]]).double()
        )
        return integrate.quad(
            lambda y: stats.norm.pdf(y) * float(law.crps(torch.tensor([y]).double())), -9, 9
        )[0]

    excess = expected(2) / expected(1) - 1
    assert it.scores(as_estimate(too_wide))[0]["excess_crps"] == pytest.approx(excess, rel=1e-4)
    width = 0.01 + 0.002 * it.places[:, 0].mean()
    assert it.summary()["crps_of_truth"] == pytest.approx(width * expected(1), rel=1e-4)


@pytest.mark.filterwarnings("ignore:After 0.17:FutureWarning")  # of a generator that is not used
@pytest.mark.parametrize("make", [GaussianMixtureDensity, LinearStudentT])
def test_kernel_density_is_that_of_statsmodels(make: type[Any]) -> None:
    """The log-space formula is the pdf and cdf of statsmodels, at one and at ten features."""
    density = pytest.importorskip("statsmodels.nonparametric.kernel_density")
    X, y = make().sample(60, 0)
    at, value = make().sample(5, 1)
    names = {"dep_type": "c", "indep_type": "c" * X.shape[1], "bw": "normal_reference"}
    estimate = simulators.fit_kernels(X, y, 0, False)
    theirs = density.KDEMultivariateConditional(endog=y[:, None], exog=X, **names)
    pdf, cdf = theirs.pdf(value[:, None], at), theirs.cdf(value[:, None], at)
    np.testing.assert_allclose(np.exp(estimate.log_prob(at, value)), pdf, rtol=1e-10)
    found = estimate.on_grid(at, value)  # (5, 5): its diagonal pairs each x with its y
    np.testing.assert_allclose(np.diag(found[0]), pdf, rtol=1e-10)
    np.testing.assert_allclose(np.diag(found[1]), cdf, rtol=1e-10)


def test_flow_is_a_density_whose_cdf_is_its_integral() -> None:
    """Mass 1, the cdf grows by the density, and rows and grid agree."""
    pytest.importorskip("zuko")
    X, y = LinearStudentT().sample(150, 0)
    estimate = simulators.fit_flow(X, y, 0, True)
    grid = np.linspace(y.min() - 2 * np.ptp(y), y.max() + 2 * np.ptp(y), 4001)
    density, cdf = estimate.on_grid(X[:3], grid)
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, atol=1e-4)
    np.testing.assert_allclose(
        integrate.cumulative_trapezoid(density, grid, initial=0), cdf - cdf[:, :1], atol=1e-4
    )
    np.testing.assert_allclose(
        estimate.log_prob(X[:3], np.full(3, grid[2000])), np.log(density[:, 2000]), rtol=1e-9
    )


def test_ngboost_is_the_same_whatever_numpys_global_generator_has_done() -> None:
    """Its trees break ties between ten features by the seed, and nothing else."""
    pytest.importorskip("ngboost")
    X, y = LinearStudentT().sample(100, 0)
    before = np.random.get_state()[1].tolist()
    first = simulators.fit_ngboost(X, y, 0, True).log_prob(X, y)
    assert np.random.get_state()[1].tolist() == before
    np.testing.assert_array_equal(simulators.fit_ngboost(X, y, 0, True).log_prob(X, y), first)


def test_least_squares_has_the_width_of_its_residuals() -> None:
    """For a Gaussian with constant width the estimate is right: a line of width 0.1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(3000, 1))
    y = 2 * X[:, 0] + 0.1 * rng.standard_normal(3000)
    estimate = simulators.fit_least_squares(X, y, 0, False)
    at = np.linspace(0.05, 0.95, 7)[:, None]
    density, _ = estimate.on_grid(at, np.linspace(-1, 3, 2001))
    law = stats.norm(2 * at, 0.1)
    # a width from 3000 rows errs by 1.3 %; 3 standard errors and the place's own
    np.testing.assert_allclose(density.max(axis=1), law.pdf(2 * at)[:, 0], rtol=0.05)


def test_every_method_is_scored_at_every_size(numbers: dict[str, Any], steps: list[str]) -> None:
    """Finite distances in their ranges, and one word on the way for each fit."""
    assert numbers["methods"][0] == simulators.OURS
    assert set(numbers["methods"]) | set(numbers["not_installed"]) == set(simulators.METHODS)
    n_fits = 0
    for result in numbers["simulators"].values():
        assert result["least_mass_on_grid"] > 0.999
        assert list(result["methods"]) == numbers["methods"]
        for rows in result["methods"].values():
            assert [row["n"] for row in rows] == numbers["sizes"]
            n_fits += len(rows)
            for row in rows:
                assert np.isfinite(list(row.values())).all()
                assert row["regret"] > -3 * row["regret_error"]  # it is at least 0 but for luck
                assert 0 < row["hellinger"] < 1
                assert row["excess_crps"] > 0
    assert len(steps) == n_fits


def test_a_constant_width_misses_the_jumps(numbers: dict[str, Any]) -> None:
    """Of a mixture with a small second part a mixture knows more than one Gaussian does."""
    curves = numbers["simulators"]["ArmaJump"]["methods"]
    assert curves["mdn"][-1]["regret"] < curves["least squares"][-1]["regret"]
    assert curves["mdn"][-1]["hellinger"] < curves["least squares"][-1]["hellinger"]
    assert curves["least squares"][-1]["above_ours"] == pytest.approx(
        curves["least squares"][-1]["regret"] - curves["mdn"][-1]["regret"], abs=1e-12
    )


def test_same_seed_same_numbers_and_rivals_may_be_missing(
    numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run, of ArmaJump alone, repeats the first bit for bit without the method missing."""
    gone = simulators.METHODS["kernel density"]._replace(module="no_such_module")
    monkeypatch.setitem(simulators.METHODS, "kernel density", gone)
    monkeypatch.setattr(simulators, "SIMULATORS", simulators.SIMULATORS[:2])
    again = simulators.run(0, True)
    assert "kernel density" in again["not_installed"]
    assert "Left out, because not installed: kernel density" in simulators.report(again)
    first = dict(numbers["simulators"]["ArmaJump"]["methods"])
    first.pop("kernel density", None)
    assert again["simulators"]["ArmaJump"]["methods"] == first


def test_report_has_all_numbers(numbers: dict[str, Any]) -> None:
    """Every regret stands in a table, and each case is counted once."""
    text = simulators.report(numbers)
    for name, result in numbers["simulators"].items():
        assert name in text
        for rows in result["methods"].values():
            for row in rows:
                assert f"{row['regret']:.4f} ({row['regret_error']:.4f})" in text
            assert f"{rows[-1]['hellinger']:.3f} / {100 * rows[-1]['excess_crps']:.2f} %" in text
    cases = len(numbers["simulators"]) * len(numbers["sizes"])
    line = next(
        line
        for line in text.splitlines()
        if line.startswith("- number of cases with the lowest regret")
    )
    counts = [int(part.rsplit(" ", 1)[1]) for part in line.split(": ")[1].split(", ")]
    assert f"regret, of {cases}:" in line
    assert sum(counts) == cases


def test_report_names_the_cases_where_a_rival_is_better(numbers: dict[str, Any]) -> None:
    """Where a paired difference is below minus two standard errors, by name and rows."""
    result = copy.deepcopy(numbers)
    for it in result["simulators"].values():
        for rows in it["methods"].values():
            for row in rows:
                row["above_ours"] = 0.1
                row["above_ours_error"] = 0.01
    assert "by more than two standard errors on: none" in simulators.report(result)
    result["simulators"]["ArmaJump"]["methods"]["least squares"][1]["above_ours"] = -0.1
    text = simulators.report(result)
    assert f"on: ArmaJump at {numbers['sizes'][1]} rows" in text
    n_cases = 2 * len(numbers["sizes"])
    assert f"errors in {n_cases - 1} cases, lower in 1, neither in 0" in text


def test_figures_are_drawn(numbers: dict[str, Any], folder: Path) -> None:
    """One of learning curves for each distance."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert set(found) == {"regret.png", "hellinger.png", "excess_crps.png"}
    assert all(content.startswith(b"\x89PNG") for content in found.values())

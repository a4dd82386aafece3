"""`mdn.explain_nll` and `mdn explain`: numbers against SciPy and closed forms, and the verdicts."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Gamma,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.transforms import ExpTransform

import mdn
from benchmarks import verdicts
from mdn import AtomicMixture, GaussianMixture, Mixture, cli, explain_nll
from mdn.distribution import PointMass
from mdn.explain import explain_file
from mdn.prediction import predict_distribution

N = 400
VERDICTS = {"fine", "suspicious", "collapse", "overfitting", "not meaningful", "misspecified"}


def normal(scale: float = 0.3, n: int = N, *, seed: int = 0) -> tuple[GaussianMixture, Tensor]:
    """One Gaussian and one draw per row; seeds are fixed, so no test fails by chance."""
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn(n, 1, 1, generator=g, dtype=torch.float64)
    dist = GaussianMixture(torch.zeros(1).double(), loc, torch.full_like(loc, scale))
    return dist, dist.sample(generator=g)


def bimodal(scale: float) -> GaussianMixture:
    logits = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    loc = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(N, 2, 1)
    return GaussianMixture(logits, loc, torch.full((2, 1), scale, dtype=torch.float64))


@pytest.fixture(scope="module")
def frame() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"load": rng.normal(size=300), "kind": rng.choice(["a", "b"], 300)})
    y = table["load"].to_numpy() + 0.3 * rng.normal(size=300)
    return table, y


@pytest.fixture(scope="module")
def regressors(frame: Any) -> dict[str, tuple[mdn.MDNRegressor, np.ndarray]]:
    """A small ensemble for each kind of target, and its y."""
    X, y = frame
    targets = {
        "real": y,
        "positive": np.exp(y),
        "integer": np.round(3 * y),
        "interval": np.stack([y, np.where(y > 1, np.inf, y)], 1),
    }
    found = {}
    for kind, t in targets.items():
        model = mdn.MDNRegressor(
            preset="fast", ensemble_size=2, trees=False, max_epochs=20, target=kind, random_state=0
        )
        found[kind] = model.fit(X[:200], t[:200]), t
    return found


# -- the sign -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_verdict_and_gains_do_not_depend_on_the_unit(unit: float) -> None:
    """NLL(c y) = NLL(y) + log c; a gain has no unit."""
    dist, y = normal()
    one, other = explain_nll(dist, y=y), explain_nll(dist.affine(0.0, unit), y=unit * y)
    assert one.word == other.word == "fine"
    assert other.unit["nll"] - one.unit["nll"] == pytest.approx(math.log(unit), abs=1e-9)
    for key in ("gain_over_marginal", "gain_over_gaussian"):
        assert other.unit[key]["nats"] == pytest.approx(one.unit[key]["nats"], abs=1e-6)
    assert other.unit["nll_standardized"] == pytest.approx(one.unit["nll_standardized"], abs=1e-9)
    assert ("negative" in other.verdict) == (other.unit["nll"] < 0)


@pytest.mark.parametrize("scale", [1e-4, 0.1, 3.0])
def test_integral_is_one_however_high_the_density(scale: float) -> None:
    """By scipy.integrate.quad over the sharpest row, within the error that it gives."""
    dist = bimodal(scale)
    sign = explain_nll(dist, y=dist.sample(generator=torch.Generator().manual_seed(0))).sign
    assert abs(sign["integral"] - 1) <= max(1e-9, sign["integral_error"])
    assert sign["integral_error"] < 1e-6
    grid = np.linspace(0.0, 1.2, 12001)
    highest = (0.3 * stats.norm.pdf(grid, -1, scale) + 0.7 * stats.norm.pdf(grid, 1, scale)).max()
    assert sign["highest_density"] == pytest.approx(highest, rel=1e-6)


def test_the_sharpest_row_has_the_highest_density_of_all() -> None:
    """By SciPy's density on a fine grid, also where it is the sum of many equal components."""
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(40, 12)), rng.uniform(0.1, 0.5, (40, 12))
    scale[0], scale[1] = 0.02, 0.05
    loc[1] = 0.01 * rng.normal(size=12)  # 12 broader ones in one place are higher than 12 apart
    grid = np.linspace(-4, 4, 8001)
    heights = stats.norm.pdf(grid[:, None, None], loc, scale).mean(-1).max(0)
    dist = GaussianMixture(
        torch.zeros(12), torch.as_tensor(loc)[..., None], torch.as_tensor(scale)[..., None]
    )
    found = explain_nll(dist, y=loc[:, :1]).sign
    assert found["sharpest_row"] == heights.argmax() == 1
    assert found["highest_density"] == pytest.approx(heights.max(), rel=1e-4)


def test_width_above_one_is_that_of_the_normal() -> None:
    """phi(z) / s = 1 at z = sqrt(-2 log(s sqrt(2 pi))): a closed form."""
    scale = 0.2
    dist, y = normal(scale)
    sign = explain_nll(dist, y=y).sign
    half = scale * math.sqrt(-2 * math.log(scale * math.sqrt(2 * math.pi)))
    assert sign["width_above_one"] == pytest.approx(2 * half, rel=1e-9)
    above = stats.norm.pdf(y.numpy(), dist.loc[:, 0].numpy(), scale) > 1
    assert sign["share_above_one"] == pytest.approx(above.mean())


def test_probability_of_an_interval_stays_below_one() -> None:
    """The density is 400 per unit of y, the probability of an interval at most 1."""
    dist, y = normal(1e-3)
    sign = explain_nll(dist, y=y).sign
    w, loc = sign["interval_width"], dist.loc[:, 0].numpy()
    expected = stats.norm.cdf(y + w / 2, loc, 1e-3) - stats.norm.cdf(y - w / 2, loc, 1e-3)
    assert sign["interval_probability_mean"] == pytest.approx(expected.mean(), rel=1e-9)
    assert sign["highest_density"] > 300 and sign["interval_probability_largest"] <= 1


# -- the unit -------------------------------------------------------------------------------------


def test_gain_over_the_marginal_is_the_mutual_information() -> None:
    """y = x + e, normal: -1/2 log(1 - rho^2) nats, within 4 standard errors and 0.02."""
    dist, y = normal(0.3, 1000)
    gain = explain_nll(dist, y=y).unit["gain_over_marginal"]
    truth = 0.5 * math.log(1 + 1 / 0.3**2)
    assert gain["nats"] == pytest.approx(truth, abs=4 * gain["standard_error_nats"] + 0.02)
    assert gain["bits"] == pytest.approx(gain["nats"] / math.log(2))


def test_marginal_density_of_a_rounded_positive_target() -> None:
    """That of prices rounded to hundreds, by SciPy: rounding moves it by next to nothing.

    The step is in the unit of y and the kernels of a positive target in that of its logarithm.
    """
    rng = np.random.default_rng(0)
    y = np.round(np.exp(12 + 0.4 * rng.normal(size=400)), -2)
    x = rng.normal(size=(400, 1))
    small = mdn.MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=3, target="positive")
    unit = explain_nll(small.fit(x, y), x, y).unit
    truth = -stats.lognorm(0.4, scale=math.exp(12)).logpdf(y).mean()
    assert unit["nll"] + unit["gain_over_marginal"]["nats"] == pytest.approx(truth, abs=0.03)


def test_gain_over_the_gaussian_of_the_best_constant_width() -> None:
    """-log N(y; m, s) at the root mean square s of the residuals, by SciPy."""
    dist, y = normal(0.3)
    unit = explain_nll(dist, y=y).unit
    residual = (y - dist.mean)[:, 0].numpy()
    s = math.sqrt((residual**2).mean())
    assert unit["gaussian_scale"] == [pytest.approx(s)]
    expected = -stats.norm.logpdf(residual, scale=s).mean()
    assert unit["gaussian_nll"] == pytest.approx(expected, rel=1e-12)


def test_equivalent_width_of_a_uniform_is_its_width() -> None:
    """exp(NLL) of the uniform over 0.31 minutes is 0.31."""
    low = torch.zeros(N, dtype=torch.float64)
    y = 0.31 * torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = explain_nll(torch.distributions.Uniform(low, low + 0.31), y=y)
    assert report.unit["equivalent_width"] == pytest.approx(0.31)


def test_marginal_of_the_training_rows_is_used_when_given() -> None:
    """Its NLL is that of SciPy's kernel density with the same bandwidth, but for one component."""
    dist, y = normal(0.3)
    seen, y_seen = normal(0.3, seed=1)
    unit = explain_nll(dist, y=y, train=(seen, y_seen)).unit
    scipys = min(
        -np.log(
            stats.gaussian_kde(y_seen[:, 0], lambda k, f=f: f * len(y_seen) ** -0.2)(y[:, 0])
        ).mean()
        for f in (0.5, 0.7, 1.0, 1.4)
    )
    assert unit["marginal_nll"] == pytest.approx(scipys, abs=0.02)


# -- the floor and the grid -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "step", "anchored"),
    [
        ([0.0, 1.0, 2.0, 2.0, 5.0], 1.0, True),
        ([0.5, 1.5, 1.5, 3.5], 1.0, False),
        ([0.25, 0.75, 1.0, 1.0], 0.25, True),
        ([1200.0, 1500.0, 1800.0], 300.0, True),
        (list(np.round(np.arange(200) % 50 / 60, 7)), 1 / 60, None),
        (list(np.random.default_rng(0).normal(size=50)), None, None),
        (list(np.random.default_rng(0).normal(size=50).astype(np.float32)), None, None),
        (
            list(np.round(np.random.default_rng(0).normal(size=200), 2).astype(np.float32)),
            0.01,
            True,
        ),
    ],
)
def test_step_of_rounded_values(values: list[float], step: float | None, anchored: Any) -> None:
    """The step that the values were rounded to, and None for values that were not rounded."""
    y = np.array(values, dtype=float)
    grid = explain_nll(Normal(torch.zeros(len(y)), 1e4), y=y).floor["grid"]
    assert grid["step"] == (None if step is None else pytest.approx(step, rel=1e-4))
    if anchored is not None:
        assert grid["anchored"] is anchored


def test_values_that_repeat_are_listed_with_their_counts() -> None:
    """As in the eruptions: 2, 3 and 4 minutes among durations of finer resolution."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(3, 1, 100), np.full(30, 4.0), np.full(20, 2.0)])
    dist = GaussianMixture(torch.zeros(1), torch.full((150, 1, 1), 3.0), torch.ones(1, 1))
    report = explain_nll(dist, y=y)
    assert report.floor["grid"]["heaps"] == [(4.0, 30), (2.0, 20)]
    assert report.floor["grid"]["repeated"] == pytest.approx(1 / 3)
    assert any("30 of 150 rows have y = 4 exactly" in r for r in report.remarks)


def test_nll_of_the_rounding_cells_matches_scipy() -> None:
    """-log(F(y + w/2) - F(y - w/2)) of the step w, also 40 scales away."""
    dist, y = normal(0.3)
    y = (20 * y).round() / 20
    y[:4, 0] += torch.tensor([0.0, 3.0, -6.0, 12.0], dtype=torch.float64)
    z = ((y - dist.loc[:, 0]) / 0.3)[:, 0].numpy()
    far, near = np.abs(z) + 0.025 / 0.3, np.abs(z) - 0.025 / 0.3
    log_far, log_near = stats.norm.logsf(far), stats.norm.logsf(near)
    expected = -(log_near + np.log1p(-np.exp(log_far - log_near))).mean()
    report = explain_nll(dist, y=y)
    assert report.floor["grid"]["step"] == pytest.approx(0.05)
    assert report.floor["cell_nll"] == pytest.approx(expected, rel=1e-6)
    assert report.floor["cell_nll"] > 0 > report.floor["gain_by_grid"] - 0.01


def test_lowest_loss_is_that_of_all_weight_at_the_floor() -> None:
    """log(floor) + log sqrt(2 pi); no row of any model has a lower loss."""
    x, y = torch.randn(100, 1), 5 * torch.randn(100, 1)
    model = mdn.MDN(1, min_scale=0.02).standardize_(x, y)
    report = explain_nll(model, x, y)
    floor = 0.02 * float(y.double().std(correction=0))
    lowest = -stats.norm.logpdf(0, scale=floor)
    assert report.floor["lowest_nll"] == pytest.approx(lowest, rel=1e-6)
    assert report.unit["nll"] > lowest


# -- health ---------------------------------------------------------------------------------------


def test_dead_and_duplicated_components_are_counted() -> None:
    """One of weight 1e-6, and two equal ones: a remark, and the verdict is fine."""
    dist, y = normal(0.3)
    loc = torch.cat([dist.loc, dist.loc, dist.loc + 5], 1)
    logits = torch.tensor([0.5, 0.5, 1e-6], dtype=torch.float64).log()
    report = explain_nll(GaussianMixture(logits, loc, torch.full_like(loc, 0.3)), y=y)
    health = report.health
    assert (health["dead"], health["duplicated"], health["on_one_row"]) == (1, 1, 0)
    states = [component["state"] for component in health["table"]]
    assert states == ["duplicate of component 1", "duplicate of component 0", "dead"]
    assert health["effective_components"] == pytest.approx(2, abs=1e-3)
    assert health["enough_components"] == 1
    assert report.word == "fine" and any("more components" in r for r in report.remarks)


def test_the_text_lists_the_largest_components_and_the_others_as_one() -> None:
    """Of twenty, five by weight; the weights of a line and of the rest add up to 1."""
    weights = torch.arange(1.0, 21.0) / 210
    loc = torch.linspace(-3.0, 3.0, 20)[:, None].expand(60, 20, 1)
    dist = GaussianMixture(weights.log(), loc, torch.full((20, 1), 0.3))
    report = explain_nll(dist, y=dist.sample(generator=torch.Generator().manual_seed(0)))
    lines = [line.split() for line in str(report).splitlines() if line.startswith("  component ")]
    assert [int(line[1]) for line in lines] == [15, 16, 17, 18, 19]
    (rest,) = (line for line in str(report).splitlines() if "the other 15 together" in line)
    total = sum(float(line[3].rstrip(",")) for line in lines)
    assert float(rest.split("weight ")[1].split(",")[0]) == pytest.approx(1 - total, abs=0.003)
    assert "15 alive" in rest and len(report.health["table"]) == 20


def test_component_on_a_single_row_is_suspicious() -> None:
    """A spike on row 17 with no responsibility for any other row."""
    y = torch.randn(N, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loc = torch.stack([torch.zeros(1).double(), y[17]]).expand(N, 2, 1)
    scale = torch.tensor([[1.0], [1e-5]], dtype=torch.float64)
    logits = torch.tensor([1 - 1 / N, 1 / N], dtype=torch.float64).log()
    report = explain_nll(GaussianMixture(logits, loc, scale), y=y)
    assert report.word == "suspicious" and "row 17" in report.verdict
    assert report.health["captured_rows"] == [17]


def pooled(members: int, y: Tensor, spikes: int, width: float = 1e-3) -> GaussianMixture:
    """An even pool of networks of five components, N(0, 1) but for their shift.

    In the first rows two thirds of the networks have one of them on y, as narrow as given.
    """
    shift = 0.3 * torch.randn(members, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    loc = shift + torch.linspace(-0.2, 0.2, 5).double().expand(members, len(y), 5)
    scale = torch.ones_like(loc)
    several = slice(0, max(1, 2 * members // 3))
    loc[several, :spikes, 0], scale[several, :spikes, 0] = y[:spikes, 0], width
    logits = torch.zeros(5).double().expand_as(loc)
    each = zip(logits, loc.unsqueeze(-1), scale.unsqueeze(-1), strict=True)
    return GaussianMixture.pool([GaussianMixture(*parts) for parts in each])


@pytest.mark.parametrize("members", [1, 48])
def test_spikes_are_counted_however_many_components_there_are(members: int) -> None:
    """On 0 or 40 of 100 training rows, in one network or in a pool; no false alarm without."""
    y, new = torch.randn(2, 400, 1, generator=torch.Generator().manual_seed(0)).double()
    train, dist = y[:100], pooled(members, new, 0)
    healthy = explain_nll(dist, y=new, train=(pooled(members, train, 0), train))
    assert healthy.word == "fine" and healthy.health["share_on_spikes"] == 0
    # a tenth of the error of N(0, 1), less what of it lies between the components
    assert 0.005 < healthy.health["spike_scale"][0] <= 0.1
    report = explain_nll(dist, y=new, train=(pooled(members, train, 40), train))
    assert report.health["share_on_spikes"] == pytest.approx(0.4)
    assert report.verdict.startswith("collapse: 40% of the training rows lie in components far")


def test_typical_error_does_not_depend_on_how_a_mixture_is_cut() -> None:
    """Each of two components as itself, or as 60 of equal parameters and a 60th of the weight."""
    dist = bimodal(0.2)
    y = dist.sample(generator=torch.Generator().manual_seed(0))
    spread = [a.repeat_interleave(60, dim=-2) for a in (dist.loc, dist.scale)]
    cut = GaussianMixture(dist.logits.repeat_interleave(60, dim=-1), *spread)
    whole, parts = (explain_nll(d, y=y, train=(d, y)).health["spike_scale"][0] for d in (dist, cut))
    near = (y - dist.loc[..., 0]).abs().amin(1)  # the branches are ten scales apart
    assert whole == pytest.approx(0.1 * float(near.quantile(0.5)) / stats.norm.ppf(0.75), rel=1e-3)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_a_spike_cut_into_many_is_still_on_its_row() -> None:
    """The spike of the last test but one in 50 parts, as a pool of 50 networks has it."""
    y = torch.randn(N, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loc = torch.cat([torch.zeros(1, 1).double(), y[17].expand(50, 1)]).expand(N, 51, 1)
    scale = torch.tensor([1.0, *[1e-5] * 50], dtype=torch.float64).unsqueeze(-1)
    logits = torch.tensor([1 - 1 / N, *[1 / N / 50] * 50], dtype=torch.float64).log()
    report = explain_nll(GaussianMixture(logits, loc, scale), y=y)
    assert report.verdict.startswith("suspicious: 1 row has a spike")
    assert report.health["captured_rows"] == [17]
    # of a weight that hardly changes the density at the row it is no matter
    logits = torch.tensor([1.0, *[2e-8] * 50], dtype=torch.float64).log()
    assert explain_nll(GaussianMixture(logits, loc, scale), y=y).health["captured_rows"] == []


def test_a_broad_floor_rules_out_a_collapse() -> None:
    """Networks with a floor of 0.05 standard deviations, which the remedy of a collapse advises."""
    report = verdicts.overfitted(203, 1.0)
    assert report.health["floor_in_standard_deviations"] == [pytest.approx(0.05)]
    assert report.health["share_on_spikes"] > 0.25 and report.word == "overfitting"


def test_rows_at_the_floor_are_suspicious_unless_it_rules_out_spikes() -> None:
    """y is a function of x, so every scale is at its floor."""
    x = torch.linspace(-1, 1, 200)[:, None]

    def report(floor: float) -> mdn.NLLReport:
        model = mdn.MDN(1, n_components=1, hidden=(), min_scale=floor).standardize_(x, 3 * x)
        with torch.no_grad():
            model.head.linear.weight.zero_()
            model.head.linear.weight[1, 0] = 1.0
            model.head.linear.bias.copy_(torch.tensor([0.0, 0.0, -30.0]))
        return explain_nll(model, x, 3 * x)

    narrow = report(1e-3)
    assert narrow.word == "suspicious" and "100% of rows are at the scale floor" in narrow.verdict
    assert narrow.health["share_at_floor"] == 1.0
    # a broad floor makes the density too wide, which the PIT shows
    assert report(0.1).word == "misspecified"


def test_full_covariance_is_judged_by_its_narrowest_direction() -> None:
    """A Gaussian of scales 1 and 1 with correlation 0.9999 is narrow."""
    covariance = torch.tensor([[1.0, 0.9999], [0.9999, 1.0]], dtype=torch.float64)
    dist = MultivariateNormal(torch.zeros(2).double(), covariance)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = dist.sample((N,))
    report = explain_nll(dist, y=y)
    assert report.health["table"][0]["median_scale"] == pytest.approx(math.sqrt(1e-4), rel=1e-6)
    assert "integral" not in report.sign and "skipped" in str(report)


# -- fit and verdict ------------------------------------------------------------------------------


def test_overfitting_is_the_gap_between_held_out_and_training_rows() -> None:
    """Gap and standard error by their formulas; the verdict needs the training rows."""
    dist, y = normal(0.3)
    narrow = GaussianMixture(dist.logits, dist.loc, dist.scale / 3)
    seen, y_seen = normal(0.1, seed=1)
    report = explain_nll(narrow, y=y, train=(seen, y_seen))
    a, b = -narrow.log_prob(y).numpy(), -seen.log_prob(y_seen).numpy()
    assert report.word == "overfitting"
    assert report.fit["gap"] == pytest.approx(a.mean() - b.mean())
    error = math.sqrt(a.var(ddof=1) / N + b.var(ddof=1) / N)
    assert report.fit["gap_standard_error"] == pytest.approx(error)
    assert f"{report.fit['gap']:.2g} nats worse" in report.verdict
    alone = explain_nll(narrow, y=y)
    assert alone.word == "misspecified" and "too narrow" in alone.verdict


@pytest.mark.parametrize(("factor", "reason"), [(1.0, ""), (0.5, "too narrow"), (2.0, "too wide")])
def test_exact_narrow_and_wide_densities_get_different_verdicts(factor: float, reason: str) -> None:
    """Of the scale: exact, half, twice."""
    dist, y = normal(0.3)
    report = explain_nll(GaussianMixture(dist.logits, dist.loc, factor * dist.scale), y=y)
    assert report.word == ("misspecified" if reason else "fine") and reason in report.verdict


def test_a_wrong_width_is_found_where_it_cancels_over_all_rows() -> None:
    """Too wide for half of the rows, too narrow for the others: groups by a feature differ."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1000, 1, generator=g, dtype=torch.float64)
    y = (0.2 + 0.8 * (x > 0.5)) * torch.randn(1000, 1, generator=g, dtype=torch.float64)
    constant = GaussianMixture(
        torch.zeros(1).double(), torch.zeros(1000, 1, 1).double(), torch.full((1, 1), 0.7).double()
    )
    report = explain_nll(constant, x, y)
    assert report.word == "misspecified" and report.fit["where"] == "column 0 of X"
    assert report.fit["worst_cost"] > report.fit["cost"]
    named = explain_nll(constant, pd.DataFrame({"<load>": x[:, 0].numpy()}), y)
    assert named.fit["where"] == "<load>" and "&lt;load&gt;" in named._repr_html_()


def test_cost_of_miscalibration_is_the_divergence_of_the_pit() -> None:
    """P(PIT <= e) = Phi(f Phi^-1(e)) of a scale too small by f; 2000 rows leave an error of 0.01.

    The divergence of ten bins is below that of the densities, log f + (f^-2 - 1) / 2.
    """
    f = 0.7
    dist, y = normal(0.3, 2000)
    fit = explain_nll(GaussianMixture(dist.logits, dist.loc, f * dist.scale), y=y).fit
    share = np.diff(stats.norm.cdf(f * stats.norm.ppf(np.linspace(0, 1, 11))))
    binned = (share * np.log(10 * share)).sum()
    assert fit["cost"] == pytest.approx(binned, abs=0.03)
    assert binned < math.log(f) + 0.5 * (1 / f**2 - 1)
    assert fit["above_expected"] == pytest.approx(0.5 * (1 / f**2 - 1), abs=0.1)


@pytest.mark.parametrize("count", [2, 6, 10])
def test_few_values_have_no_meaningful_density(count: int) -> None:
    """The verdict counts the values, and the remedy names a likelihood of cells."""
    y = torch.arange(N, dtype=torch.float64)[:, None] % count
    dist = GaussianMixture(torch.zeros(1), torch.full((N, 1, 1), count / 2), torch.ones(1, 1))
    report = explain_nll(dist, y=y)
    assert report.verdict.startswith(f"not meaningful: y takes {count} values")
    assert "target='integer'" in report.remedy


def test_a_density_concentrated_on_the_grid_of_y_is_not_meaningful_and_a_smooth_one_is() -> None:
    """y rounded to 0.1: a comb of narrow components, or one broad Gaussian."""
    g = torch.Generator().manual_seed(0)
    y = (10 * torch.randn(N, 1, generator=g, dtype=torch.float64)).round() / 10
    places = torch.arange(-30, 31, dtype=torch.float64)[:, None] / 10
    comb = GaussianMixture(
        -0.5 * places[:, 0] ** 2, places.expand(N, 61, 1), torch.full((61, 1), 0.01).double()
    )
    spiky = explain_nll(comb, y=y.clamp(-3, 3))
    assert spiky.word == "not meaningful" and "the step 0.1" in spiky.verdict
    assert spiky.unit["nll"] < spiky.floor["cell_nll"] + math.log(0.1) - 1
    assert spiky.floor["cell_nll"] > 0
    assert "resolution=0.1" in spiky.remedy
    smooth = GaussianMixture(torch.zeros(1), torch.zeros(N, 1, 1), torch.ones(1, 1)).to(
        torch.float64
    )
    assert explain_nll(smooth, y=y).word == "fine"


def test_an_outlier_is_suspicious() -> None:
    """It contributes most of the mean loss, and the verdict names its row."""
    dist, y = normal(0.3)
    y[123] += 12.0
    report = explain_nll(dist, y=y)
    assert report.word == "suspicious" and "row 123" in report.verdict
    assert report.health["worst_rows"][0] == 123


def test_rows_outside_the_support_are_named() -> None:
    """The density is 0 there and the loss infinite, for which JSON has no number."""
    y = torch.ones(N, dtype=torch.float64)
    y[5] = -1.0
    report = explain_nll(Gamma(torch.ones(N).double(), torch.ones(N).double()), y=y)
    assert report.word == "misspecified" and "row 5" in report.verdict
    assert report.to_dict()["unit"]["nll"] is None
    assert "infinite" in str(report)


def test_a_model_worse_than_the_marginal_is_misspecified() -> None:
    """Rows in a wrong order: calibrated over all rows, but wrong in each."""
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, 4, generator=g)
    y = Categorical(logits=logits).logits.argmax(-1)
    assert explain_nll(Categorical(logits=logits), y=y).word == "fine"
    report = explain_nll(Categorical(logits=logits.roll(1, 0)), y=y)
    assert report.word == "misspecified" and "which ignore x" in report.verdict


def trained_classes(last: torch.nn.Module, seed: int) -> tuple[Any, Tensor, Tensor]:
    """A network of 3 classes trained by NLLLoss on the output of its last layer, and new rows."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (2, N), generator=g)
    x = torch.randn(2, N, 2, generator=g) + 2 * torch.eye(3)[y][..., 1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    net.append(last)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(net(x[0]), y[0]).backward()
        optimizer.step()
    return net, x[1], y[1]


@pytest.mark.parametrize("seed", range(3))
def test_softmax_output_taken_for_logits_is_recognised(seed: int) -> None:
    """NLLLoss of probabilities is -p; as logits they allow no class more than e / (e + C - 1)."""
    net, x, y = trained_classes(torch.nn.Softmax(1), seed)
    p = net(x).detach()
    assert -1 < torch.nn.functional.nll_loss(p, y) < -0.6  # the negative loss that is asked about
    for offset in (0.0, 7.0):  # logits are logits up to a constant
        report = explain_nll(Categorical(logits=p + offset), y=y)
        assert report.word == "misspecified" and "softmax was applied twice" in report.verdict
        assert f"more than {math.e / (math.e + 2):.2f}" in report.verdict
        assert "LogSoftmax" in report.remedy
    with pytest.raises(TypeError, match=r"holds probabilities, as of Softmax.*LogSoftmax"):
        explain_nll(net, x, y)
    fit = explain_nll(Categorical(probs=p), y=y).fit
    assert fit["confidence"] == pytest.approx(p.amax(1).mean().item(), abs=1e-6)
    assert not fit["logits_like_probabilities"]


@pytest.mark.parametrize("seed", range(3))
def test_log_probabilities_are_taken_for_what_they_are(seed: int) -> None:
    """The same network on LogSoftmax is fine; given as probs= its classes come in reverse."""
    net, x, y = trained_classes(torch.nn.LogSoftmax(1), seed)
    logp = net(x).detach()
    report = explain_nll(Categorical(logits=logp), y=y)
    assert report.word == "fine" and abs(report.fit["confidence_z"]) < 4
    assert "likeliest class has a probability of" in str(report)
    reversed_ = explain_nll(Categorical(probs=logp), y=y)  # torch divides by the negative sum
    assert reversed_.word == "misspecified" and "passed as probs=" in reversed_.remedy
    with pytest.raises(TypeError, match=r"holds log-probabilities of classes.*Categorical\(logits"):
        explain_nll(net, x, y)


def test_a_weak_but_honest_classifier_is_not_blamed_for_a_second_softmax() -> None:
    """Its logits differ by less than one as well, and its classes are as frequent as it says."""
    g = torch.Generator().manual_seed(0)
    for _ in range(40):
        p = torch.tensor([1.0, 0.0])[torch.randint(2, (N,), generator=g)]
        dist = Categorical(logits=torch.stack([p, 1 - p], 1))
        report = explain_nll(dist, y=torch.rand(N, generator=g) < dist.probs[:, 1])
        assert report.word == "fine" and "applied twice" not in report.verdict
    assert any("if they are the output of Softmax" in remark for remark in report.remarks)


def test_an_overconfident_classifier_is_told_so() -> None:
    """Worse than the frequencies: 0.99 on average, right in a half."""
    y = torch.arange(N) % 2
    dist = Categorical(probs=torch.tensor([0.99, 0.01]).expand(N, 2))
    report = explain_nll(dist, y=y)
    assert report.word == "misspecified" and "99% on average" in report.verdict
    assert "on the output of Softmax in place of LogSoftmax" in report.remedy
    z = (N / 2 - 0.99 * N) / math.sqrt(N * 0.99 * 0.01)
    assert report.fit["confidence_z"] == pytest.approx(z, rel=1e-5)


@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(s, id=s.name, marks=[] if s.word == "collapse" else pytest.mark.slow)
        for s in verdicts.SITUATIONS
    ],
)
def test_verdict_of_a_trained_model(situation: verdicts.Situation) -> None:
    """One seed of each situation of the benchmark; the others are counted there."""
    if situation.name == "well specified, four units":
        variants: tuple[Any, ...] = situation.variants[:1]
    else:
        variants = situation.variants
    for variant in variants:
        found = verdicts.verdict_of(situation, 1000, variant)
        assert found["right"], found["verdict"]


def test_the_table_of_the_benchmark_counts_verdicts() -> None:
    """One wrong of two is 50 %, and misses the goal."""
    names = [(s.name, s.word) for s in verdicts.SITUATIONS[:2]]
    found = [
        {"situation": names[0][0], "word": "fine", "right": True},
        {"situation": names[0][0], "word": "collapse", "right": False},
        {"situation": names[1][0], "word": names[1][1], "right": True},
    ]
    text = verdicts.table(found)
    assert "| 50.0% |" in text and "| 100.0% |" in text
    assert not verdicts.reached(found) and verdicts.reached(found[2:])


# -- kinds of models ------------------------------------------------------------------------------


def test_torch_distributions_give_the_report_of_the_equal_mixture() -> None:
    """Normal, Independent, MixtureSameFamily, MultivariateNormal, (N,) or (N, 1): one law."""
    dist, y = normal(0.3, 60)
    loc = dist.loc[:, 0, 0]
    want = explain_nll(dist, y=y).to_dict()
    same = [
        Normal(loc, 0.3),
        Normal(loc[:, None], 0.3),
        Independent(Normal(loc[:, None], 0.3), 1),
        MixtureSameFamily(Categorical(torch.ones(60, 1).double()), Normal(loc[:, None], 0.3)),
        MultivariateNormal(loc[:, None], 0.09 * torch.eye(1).double()),
        LowRankMultivariateNormal(loc[:, None], torch.zeros(60, 1, 1), torch.full((60, 1), 0.09)),
    ]
    for other in same:
        for target in (y, y[:, 0].numpy()):
            got = explain_nll(other, y=target).to_dict()
            assert got["verdict"] == want["verdict"]
            assert got["unit"]["nll"] == pytest.approx(want["unit"]["nll"], rel=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda loc: StudentT(torch.full_like(loc, 4.0), loc, 0.3),
        lambda loc: LogNormal(loc, 0.3),
        lambda loc: TransformedDistribution(Normal(loc, 0.3), [ExpTransform()]),
    ],
    ids=["student", "log-normal", "transformed"],
)
def test_other_families_of_torch(build: Any) -> None:
    """The verdict on their own draws is fine, whether or not a Mixture can hold the family."""
    loc = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dist = build(loc)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        y = dist.sample()
    report = explain_nll(dist, y=y)
    assert report.word == "fine"
    assert report.unit["nll"] == pytest.approx(-float(dist.log_prob(y).mean()), rel=1e-9)
    if "integral" in report.sign:
        assert report.sign["integral"] == pytest.approx(1, abs=1e-8)


def test_components_without_moments() -> None:
    """Dependent dimensions whose mean no formula gives are judged by their log density."""
    base = MultivariateNormal(torch.zeros(60, 2, 2).double(), torch.eye(2).double())
    mixture = Mixture(torch.zeros(60, 2).double(), TransformedDistribution(base, [ExpTransform()]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = mixture.sample()
    with pytest.raises(TypeError, match=r"^mean and variance need components that have them"):
        assert mixture.mean is None
    report = explain_nll(mixture, y=y)
    assert str(report.verdict).startswith("fine")


def test_classes_have_a_mass_and_a_loss_that_is_never_negative() -> None:
    """Perplexity, accuracy and a note on the loss of likelihood ratios."""
    head = mdn.CategoricalHead(2, 3)
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    y = head(x).logits.argmax(-1)
    report = explain_nll(head, x, y)
    assert report.sign["measure"] == "mass" and report.sign["largest_at_y"] <= 1
    assert report.unit["perplexity"] == pytest.approx(math.exp(report.unit["nll"]))
    assert report.unit["accuracy"] == 1.0
    assert "never negative" in str(report) and "likelihood-ratio" in str(report)


@pytest.mark.parametrize(
    ("kind", "measure"),
    [("real", "density"), ("positive", "density"), ("integer", "mass"), ("interval", "mixed")],
)
def test_regressor_of_every_kind_of_target(
    kind: str, measure: str, regressors: Any, frame: Any
) -> None:
    """The NLL is that of the regressor, and the components are counted by network."""
    model, y = regressors[kind]
    X = frame[0]
    report = explain_nll(model, X[200:], y[200:], train=(X[:200], y[:200]))
    assert report.word in VERDICTS and report.verdict.startswith(f"{report.word}: ")
    assert report.sign["measure"] == measure
    assert report.unit["nll"] == pytest.approx(model.nll(X[200:], y[200:]), rel=1e-12)
    assert report.fit["train_nll"] == pytest.approx(model.nll(X[:200], y[:200]), rel=1e-12)
    if kind != "interval":
        assert report.health["networks"] == 2
        assert report.health["floor_known"]
        assert report.unit["gain_over_marginal"]["nats"] > 0.3
    assert (report.unit["nll"] >= 0) or measure != "mass"
    json.dumps(report.to_dict(), allow_nan=False)


class _Twice(nn.Module):
    """Two targets and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Normal:
        return Normal(self.linear(self.drop(x)), 1.0)


def test_module_is_called_in_evaluation_mode_and_its_mode_restored() -> None:
    """Two targets: HDR values instead of the PIT; the global random state does not change."""
    model = _Twice().train()
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    y = model.eval()(x).mean.detach() + torch.randn(
        200, 2, generator=torch.Generator().manual_seed(1)
    )
    model.train()
    before = torch.get_rng_state()
    first, second = explain_nll(model, x, y), explain_nll(model, x.tolist(), y.numpy())
    assert torch.equal(before, torch.get_rng_state()) and model.training and model.drop.training
    assert first.verdict == second.verdict and first.word == "fine"
    assert first.fit["kind"] == "HDR values"
    assert first.unit["gaussian_scale"] == pytest.approx([1, 1], abs=0.2)


KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {  # of X and of y
    "array": (np.asarray, np.asarray),
    "list": (np.ndarray.tolist, np.ndarray.tolist),
    "tensor": (torch.as_tensor, torch.as_tensor),
    "pandas": (lambda X: pd.DataFrame(X, columns=["load", "speed"]), pd.Series),
    "polars": (lambda X: pl.DataFrame(X, schema=["load", "speed"]), pl.Series),
    "pyarrow": (lambda X: pa.table({"load": X[:, 0], "speed": X[:, 1]}), pa.array),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One of each kind of model of two features; regressors with and without feature names."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = X[:, 0] + (0.2 + 2 * (X[:, 1] > 0)) * rng.normal(size=120)

    def regressor() -> mdn.MDNRegressor:
        return mdn.MDNRegressor(
            1, (4,), preset="fast", ensemble_size=2, trees=False, max_epochs=3, random_state=0
        )

    found: dict[str, Any] = {"X": X, "y": y, "module": _Twice().train()}
    found["module"].linear = nn.Linear(2, 1)
    found["callable"] = lambda x: Normal(x[:, :1], 1.0)
    for kind in ("array", "pandas"):
        of_kind = KINDS[kind][0](X)
        found[f"regressor, {kind}"] = regressor().fit(of_kind, y)
        found[f"pipeline, {kind}"] = make_pipeline(StandardScaler(), regressor()).fit(of_kind, y)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["regressor", "pipeline", "module", "callable", "distribution"])
def test_every_model_takes_every_kind_of_rows(
    model: str, kind: str, models: dict[str, Any]
) -> None:
    """The report is that of the predicted distribution; a data frame names its columns."""
    named = kind in ("pandas", "polars", "pyarrow")
    if model == "pipeline" and kind == "pyarrow":
        pytest.skip("scikit-learn's StandardScaler does not take it")
    X, y = (convert(models[name]) for convert, name in zip(KINDS[kind], ("X", "y"), strict=True))
    if model == "distribution":
        asked: Any = predict_distribution(models["callable"], models["X"])
    else:
        fitted = f"{model}, {'pandas' if named else 'array'}"
        asked = models[fitted if model in ("regressor", "pipeline") else model]
    report = explain_nll(asked, X, y, train=None if model == "distribution" else (X, y))
    dist = predict_distribution(asked, X)
    nll = -dist.log_prob(torch.as_tensor(models["y"])[:, None]).double().mean()
    assert report.unit["nll"] == pytest.approx(float(nll), rel=1e-5)
    if model in ("regressor", "pipeline"):
        assert report.health["networks"] == 2 and report.health["floor_known"]
    if model in ("callable", "distribution"):  # of constant scale, which the second feature shows
        assert report.fit["where"] == ("speed" if named else "column 1 of X")


# -- the report -----------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("br", "meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed_escaped_and_self_contained() -> None:
    """Every tag closes, no script, no link, text escaped."""
    dist, y = normal(0.3, 60)
    page = explain_nll(dist, y=y)._repr_html_()
    tags = _Tags()
    tags.feed(page)
    assert not tags.open and not tags.links and "script" not in tags.seen
    assert "p(y|x) &gt; 1" in page and "p(y|x) > 1" not in page


def test_text_holds_the_verdict_and_every_part() -> None:
    """Lines of at most 96 columns."""
    dist, y = normal(0.3, 60)
    report = explain_nll(dist, y=y)
    text = str(report)
    joined = " ".join(text.split())
    assert report.verdict in joined and repr(report) == text
    for title in ("Sign", "Unit", "Floor", "Health", "Fit"):
        assert re.search(rf"^{title}: ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 96


def test_figure_has_a_panel_for_each_kind_of_number() -> None:
    """Four for a density, two for classes; every axis has a label and a title."""
    dist, y = normal(0.3, 60)
    figure = explain_nll(dist, y=y, train=normal(0.3, 60, seed=1)).plot()
    assert len(figure.axes) == 4
    assert all(ax.get_xlabel() and ax.get_title() for ax in figure.axes)
    classes = Categorical(logits=torch.zeros(60, 3))
    y = torch.arange(60) % 3
    figure = explain_nll(classes, y=y).plot()
    assert figure.axes[0].get_title().startswith("Loss")
    assert len(figure.axes) == 2


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d, y: explain_nll(d), ValueError, "y must be given"),
        (lambda d, y: explain_nll(mdn.MDN(1), y=y), ValueError, "X must be given with a model"),
        (lambda d, y: explain_nll(3, y, y), TypeError, "model must be"),
        (lambda d, y: explain_nll(mdn.MDN, y, y), TypeError, "got the class MDN"),
        (lambda d, y: explain_nll(mdn.MDN(1), y[:5], y), ValueError, "5 and 60 rows"),
        (lambda d, y: explain_nll(d, y[:5], y), ValueError, "5 and 60 rows"),
        (lambda d, y: explain_nll(d, y, 3.0), TypeError, "X and y must have rows; got float"),
        (lambda d, y: explain_nll(d, y=y[:5]), ValueError, r"batch shape \(5,\)"),
        (
            lambda d, y: explain_nll(d, y=["a"] * 60),
            TypeError,
            "y must be a tensor or a numeric array",
        ),
        (lambda d, y: explain_nll(d, y=y / 0), ValueError, "y must be finite; row 0 is not"),
        (lambda d, y: explain_nll(d, y=y, train=(y, y)), TypeError, "train must begin with"),
        (lambda d, y: explain_nll(d, y=y, train=3), TypeError, "train must be a pair"),
        (lambda d, y: explain_nll(d, y=y, train=(d, None)), ValueError, "train y must be given"),
        (
            lambda d, y: explain_nll(nn.Linear(1, 1), y.float(), y),
            TypeError,
            "Distribution; got Tensor",
        ),
        (
            lambda d, y: explain_nll(Categorical(torch.ones(60, 3)), y=y + 100),
            ValueError,
            "whole numbers from 0 to 2; row 0 is",
        ),
    ],
)
def test_errors_state_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    """One sentence with the name, the value and the remedy."""
    with pytest.raises(error, match=message):
        call(*normal(0.3, 60))


# -- the command line -----------------------------------------------------------------------------


def error_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command gives up, and nothing else is printed."""
    assert cli.main(["explain", *args]) == 1
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and not out
    return error


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, regressors: Any, frame: Any) -> Path:
    """A saved model with tables of training and test rows; the target is the first column."""
    folder = tmp_path_factory.mktemp("files")
    regressors["real"][0].save(folder / "model.mdn")
    table = frame[0].copy()
    table.insert(0, "yield", frame[1])
    table[:200].to_csv(folder / "train.csv", index=False)
    table[200:].to_csv(folder / "test.csv", index=False)
    return folder


def test_command_writes_report_figure_and_numbers(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Text, JSON and HTML hold the report of the library."""
    out = {kind: tmp_path / f"report.{kind}" for kind in ("html", "png", "json")}
    args = ["explain", str(files / "model.mdn"), str(files / "test.csv")]
    args += ["--train", str(files / "train.csv"), "--html", str(out["html"])]
    args += ["--figure", str(out["png"]), "--json", str(out["json"])]
    assert cli.main(args) == 0
    test, seen = (
        pd.read_csv(files / f"{name}.csv", float_precision="round_trip")
        for name in ("test", "train")
    )
    x, y = ["load", "kind"], "yield"
    model = mdn.load(files / "model.mdn")
    report = explain_nll(model, test[x], test[y], train=(seen[x], seen[y]))
    printed = capsys.readouterr().out
    assert str(report).splitlines()[0] in printed
    assert json.loads(out["json"].read_text()) == report.to_dict()
    assert out["png"].read_bytes().startswith(b"\x89PNG")
    page = out["html"].read_text()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    assert cli.main(args) == 1  # no file is replaced without --force
    assert "add --force to replace them" in capsys.readouterr().err
    assert cli.main([*args, "--force"]) == 0


def test_command_takes_a_module_and_a_distribution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without feature names the last column is y."""
    dist, y = normal(0.3, 60)
    x = dist.loc[:, 0].numpy()
    pd.DataFrame({"x": x[:, 0], "y": y[:, 0]}).to_csv(tmp_path / "data.csv", index=False)
    model = mdn.MDN(1).standardize_(torch.as_tensor(x), y)
    for saved in (model, dist):
        mdn.save(saved, tmp_path / "m.mdn")
        assert cli.main(["explain", str(tmp_path / "m.mdn"), str(tmp_path / "data.csv")]) == 0
        assert capsys.readouterr().out.startswith("Verdict")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope.mdn", "test.csv"], "there is no file nope.mdn"),
        (["model.mdn", "nope.csv"], "there is no file nope.csv"),
        (["model.mdn", "test.csv", "--target", "nope"], "has no column nope; its columns: yield"),
        (
            ["model.mdn", "text.csv", "--target", "note"],
            "the target note of text.csv must hold numbers; row 0 is 'a'",
        ),
        (["model.mdn", "test.csv", "--target", "load"], "load is one of its features"),
        (["model.mdn", "short.csv"], "short.csv lacks kind, which the model was fitted on"),
        (["model.mdn", "wide.csv"], "wide.csv has 2 columns besides the features"),
        (["model.mdn", "empty.csv"], "empty.csv is empty; it must be a CSV file with a header"),
        (["model.mdn", "test.csv", "--json", "no/r.json"], "the folder no does not exist"),
    ],
)
def test_command_errors_are_one_line(
    files: Path,
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 1 and the remedy, no traceback."""
    monkeypatch.chdir(files)
    table = pd.read_csv("test.csv")
    table.drop(columns="kind").to_csv("short.csv", index=False)
    table.assign(other=1.0).to_csv("wide.csv", index=False)
    table.assign(note="a").to_csv("text.csv", index=False)
    Path("empty.csv").write_text("")
    assert message in error_of(args, capsys)


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of ``price`` and a table that holds another column beside it."""
    folder = tmp_path_factory.mktemp("prices")
    rng = np.random.default_rng(0)
    size = rng.uniform(1.0, 4.0, 120)
    price = 2 * size + 0.1 * rng.normal(size=120)
    table = pd.DataFrame({"price": price, "size": size, "cost": price + 1.0})
    table.to_csv(folder / "test.csv", index=False)
    table.rename(columns={"price": "value"}).to_csv(folder / "renamed.csv", index=False)
    few: dict[str, Any] = {"preset": "fast", "ensemble_size": 1, "trees": False, "max_epochs": 2}
    model = mdn.MDNRegressor(**few, random_state=0)
    model.fit(table[["size"]], table["price"]).save(folder / "model.mdn")
    model.fit(table[["size"]], price).save(folder / "nameless.mdn")
    model.fit(table[["size"]], table[["price", "cost"]]).save(folder / "two.mdn")
    return folder


def test_the_target_that_the_model_was_fitted_on_is_the_default(
    prices: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is that of the model on that column, whichever others there are."""
    monkeypatch.chdir(prices)
    table, model = pd.read_csv("test.csv"), mdn.load("model.mdn")
    nll = model.nll(table[["size"]], table["price"])
    found = explain_file("model.mdn", "test.csv")
    assert found.unit["nll"] == pytest.approx(nll, abs=1e-12)
    assert explain_file("model.mdn", "test.csv", target=["price"]).to_dict() == found.to_dict()
    both = explain_file("two.mdn", "test.csv", target=["cost", "price"])  # in any order
    assert both.to_dict() == explain_file("two.mdn", "test.csv").to_dict()
    assert cli.main(["explain", "model.mdn", "test.csv"]) == 0
    renamed = explain_file("model.mdn", "renamed.csv", target=["value"])
    assert renamed.unit["nll"] == pytest.approx(nll, abs=1e-12)
    assert any("y is value, and the model was fitted on price" in r for r in renamed.remarks)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["model.mdn", "test.csv", "--target", "size"], "size is one of its features; the model"),
        (["nameless.mdn", "test.csv", "--target", "size"], "size is one of its features"),
        (["model.mdn", "test.csv", "--target", "cost"], "fitted to predict, price, which test.csv"),
        (["model.mdn", "renamed.csv"], "renamed.csv lacks price, which the model was fitted to"),
        (["nameless.mdn", "test.csv"], "test.csv has 2 columns besides the features"),
        (["two.mdn", "test.csv", "--target", "cost", "--target", "cost"], "has 2 targets; got"),
    ],
)
def test_the_wrong_column_is_refused(
    prices: Path,
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A feature, or another column than the model was fitted on, gets no verdict."""
    monkeypatch.chdir(prices)
    assert message in error_of(args, capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--figure", "taken"], "taken.png exists already; add --force to replace it"),
        (["--figure", "taken."], "taken.png exists already; add --force to replace it"),
        (["--figure", "taken.png"], "taken.png exists already; add --force to replace it"),
        (["--html", "taken.png"], "taken.png exists already; add --force to replace it"),
        (["--json", "taken.png"], "taken.png exists already; add --force to replace it"),
        (["--figure", "f.docx"], "--figure must end in .png"),
        (["--html", "a", "--json", "a"], "every output must have a file of its own; got a twice"),
        (["--figure", "a", "--json", "a.png"], "must have a file of its own; got a.png twice"),
        (["--json", "test.csv", "--force"], "an output must not replace what is read"),
        (["--json", "."], ". is a folder; name a file in it"),
    ],
)
def test_no_output_of_the_command_replaces_a_file_unasked(
    prices: Path,
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is checked is the file that is written: Matplotlib adds .png to a name without ending.

    The ending is refused before the work, and every file keeps its bytes.
    """
    monkeypatch.chdir(prices)
    Path("taken.png").write_text("mine")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert message in error_of(["model.mdn", "test.csv", *args], capsys)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_figure_without_an_ending_is_named_as_it_is_written(
    prices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the file that is there, as with --force it replaces it."""
    args = ["explain", str(prices / "model.mdn"), str(prices / "test.csv")]
    for _ in range(2):
        assert cli.main([*args, "--figure", str(tmp_path / "f"), "--force"]) == 0
        assert capsys.readouterr().out.endswith(f"Wrote {tmp_path / 'f.png'}\n")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]


def test_help_of_the_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` shows it."""
    assert cli.main(["explain", "--help"]) == 0
    assert "Example: mdn explain geyser.mdn" in capsys.readouterr().out


# --- values with a probability of their own ------------------------------------------------------


def _rain(n: int, factor: float = 1.0) -> tuple[AtomicMixture, torch.Tensor]:
    """0 with probability 0.3 or 0.9, else normal around 2 or 5, and draws of it."""
    odd = torch.arange(n).double() % 2
    base = GaussianMixture(
        torch.zeros(1).double(),
        (2.0 + 3.0 * odd)[:, None, None],
        torch.full((n, 1, 1), 0.5).double(),
    )
    p = 0.3 + 0.6 * odd
    truth = AtomicMixture(base, torch.zeros(1).double(), torch.stack([p, 1 - p], -1).log())
    y = truth.sample(generator=torch.Generator().manual_seed(0))
    narrow = AtomicMixture(base.rescale(factor), truth.atoms, truth.logits)
    return narrow, y


def test_atoms_are_judged_as_probabilities_and_the_rest_as_a_density() -> None:
    """The gain over ignoring x is that over frequencies of the atom and a kernel density."""
    dist, y = _rain(2000)
    report = explain_nll(dist, y=y)
    share = float((y == 0).double().mean())
    assert report.sign["measure"] == "mixed" and report.sign["atoms"] == [0.0]
    assert report.sign["share_at_atoms"] == share
    assert report.verdict.startswith(f"fine: log probabilities where y is 0 ({share:.0%} of the")
    # exact: the law of y without x, of which the kernel estimate comes short a little
    w = np.array([0.35, 0.05])
    y0 = y[:, 0].numpy()
    density = (w * stats.norm([2.0, 5.0], 0.5).pdf(y0[:, None])).sum(1)
    marginal = -np.log(np.where(y0 == 0, 0.6, density)).mean()
    gain = report.unit["gain_over_marginal"]["nats"]
    assert marginal - report.unit["nll"] == pytest.approx(gain, abs=0.02)
    assert report.floor["grid"]["rows"] == int((y != 0).sum())
    assert report.health["components"] == 1 and report.health["share_on_spikes"] == 0
    text = " ".join(repr(report).split())
    assert f"probabilities for y = 0 ({share:.0%} of the rows), densities elsewhere" in text
    assert len(report.plot().axes) == 4
    assert explain_nll(_rain(2000, 0.2)[0], y=y).word == "misspecified"
    flipped = AtomicMixture(dist.base, dist.atoms, dist.logits.flip(-1))
    assert explain_nll(flipped, y=y).word == "misspecified"


def test_a_point_mass_beside_a_density_is_no_probability_throughout() -> None:
    """A Mixture of both: mixed, where the loss can be below 0; with whole numbers a mass."""
    parts = [PointMass(torch.tensor(0.0)), torch.distributions.Normal(0.0, 0.01)]
    y = torch.tensor([[0.0], [0.01], [-0.02], [0.003]])
    found = explain_nll(Mixture(torch.zeros(2), parts).expand((4,)), y=y)
    assert found.sign["measure"] == "mixed" and found.unit["nll"] < 0
    counts = [PointMass(torch.tensor(0.0)), torch.distributions.Poisson(torch.tensor(3.0))]
    found = explain_nll(Mixture(torch.zeros(2), counts).expand((4,)), y=y.round())
    assert found.sign["measure"] == "mass"


def test_the_remedy_of_a_heap_names_atoms() -> None:
    """A spike at 0, where 60 % of the rows are and the others do not repeat."""
    _, y = _rain(500)
    one = torch.zeros(500, 2).double()
    loc = torch.stack([torch.zeros(500), torch.full((500,), 3.0)], -1).double().unsqueeze(-1)
    scale = torch.tensor([[1e-3], [1.5]]).double().expand(500, 2, 1)
    report = explain_nll(GaussianMixture(one, loc, scale), y=y)
    assert report.word == "not meaningful" and "concentrated on y = 0, not" in report.verdict
    assert report.remedy.endswith("MDNRegressor(atoms=[0.0])")


# -- an MDNRegressor beside the rows that it held out itself ------------------------------------


def curved_rows(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """y not linear in X (N, 3), with normal noise; ``shift`` moves y."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = 2 * np.sin(3 * X[:, 0]) + 2 * X[:, 1] * X[:, 2] + rng.normal(size=n)
    return X, y + shift


@pytest.fixture(scope="module")
def curved() -> mdn.MDNRegressor:
    return mdn.MDNRegressor(preset="fast", max_epochs=60, random_state=0).fit(*curved_rows(200, 0))


@pytest.mark.parametrize("with_train", [True, False])
def test_an_untuned_regressor_does_not_overfit(with_train: bool, curved: Any) -> None:
    """200 rows of a curve and normal noise: fine, though the training rows have a lower loss.

    The gap is the NLL of these rows less that of the rows held out, with the error of both.
    """
    X, y = curved_rows(400, 1)
    report = explain_nll(curved, X, y, train=curved_rows(200, 0) if with_train else None)
    assert report.word == "fine", report.verdict
    mean, error, count = curved.model_.held_out_nll
    assert report.fit["gap"] == pytest.approx(curved.nll(X, y) - mean, rel=1e-9)
    own = curved.log_prob(X, y).std(ddof=1) / 20
    assert report.fit["gap_standard_error"] == pytest.approx(math.hypot(error, own), rel=1e-9)
    assert not any("overfitting cannot be detected" in remark for remark in report.remarks)
    assert f"on {count:.0f} rows" in repr(report)
    if with_train:
        assert report.fit["train_nll"] < mean - 0.1
        assert "on the training rows" in repr(report)


def test_rows_unlike_those_held_out_are_said_with_a_cure_of_the_regressor(curved: Any) -> None:
    """y moved by 2 standard deviations of its noise; the remedy names what a regressor has."""
    report = explain_nll(curved, *curved_rows(400, 1, shift=2.0))
    assert report.word == "overfitting"
    assert "the model held out in its own training" in report.verdict
    assert "groups=" in report.remedy and "weight decay" not in report.remedy


def test_spikes_of_an_ensemble_are_counted() -> None:
    """16 networks that stop by their own training rows lie on them; untuned ones do not."""

    def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        X = rng.uniform(-2, 2, size=(n, 1))
        return X, np.sin(2 * X[:, 0]) + 0.5 * rng.normal(size=n)

    train, options = rows(20, 0), {"ensemble_size": 16, "trees": False, "random_state": 0}
    spiked = mdn.MDNRegressor(
        min_scale=1e-6, max_epochs=600, patience=600, learning_rate=1e-2, weight_decay=0, **options
    ).fit(*train, eval_set=train)
    report = explain_nll(spiked, *rows(400, 1), train=train)
    assert report.health["share_on_spikes"] > 0.5
    assert "of the training rows lie in components far narrower" in report.verdict
    assert "min_scale" in report.remedy
    healthy = mdn.MDNRegressor(max_epochs=100, **options).fit(*train)
    report = explain_nll(healthy, *rows(400, 1), train=train)
    assert report.health["share_on_spikes"] == report.health["on_one_row"] == 0


def test_training_rows_are_recognised(curved: Any) -> None:
    """Their loss is lower than that of the rows held out: a remark says what that means."""
    report = explain_nll(curved, *curved_rows(200, 0))
    assert any("if it was trained on them" in remark for remark in report.remarks)
    with_new = explain_nll(curved, *curved_rows(400, 1))
    assert not any("if it was trained on them" in remark for remark in with_new.remarks)


def test_a_regressor_that_held_out_too_few_is_compared_with_its_training_rows() -> None:
    """One network holds out an eighth only: the gap is to the training rows, as of a module."""
    train = curved_rows(60, 0)
    model = mdn.MDNRegressor(ensemble_size=1, trees=False, max_epochs=2, random_state=0).fit(*train)
    X, y = curved_rows(400, 1)
    assert model.model_.held_out_nll == ()
    gap = explain_nll(model, X, y, train=train).fit["gap"]
    assert gap == pytest.approx(model.nll(X, y) - model.nll(*train), rel=1e-9)
    assert any("cannot be detected" in remark for remark in explain_nll(model, X, y).remarks)

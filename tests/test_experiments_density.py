"""Tests of the experiments on conditional densities, against results that need no model."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import integrate, optimize, stats

import mdn
from experiments import _classic, _real_sets, inverse_sinusoid, real, robot_arm
from experiments._density import LeastSquares, most_probable, seeded, train_network


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("inverse-sinusoid")
    return inverse_sinusoid.run(fast=True, out=out), out


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("robot-arm")
    return robot_arm.run(fast=True, out=out), out


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("real")
    return real.run(fast=True, out=out), out


# -- inverse-sinusoid -----------------------------------------------------------------------------


def test_branches_are_the_x_whose_curve_passes_within_the_noise() -> None:
    """x is possible for t iff |x + 0.3 sin(2 pi x) - t| <= 0.1, 0 <= x <= 1."""
    t = np.linspace(-0.099, 1.099, 173)
    x = (np.arange(4000) + 0.5) / 4000
    possible = np.abs(x + 0.3 * np.sin(2 * math.pi * x) - t[:, None]) <= 0.1
    ends = np.nan_to_num(inverse_sinusoid.branches(t), nan=-1.0)  # (T, 3, 2)
    inside = (x >= ends[..., 0, None]) & (x <= ends[..., 1, None])  # (T, 3, X)
    assert (inside.any(1) == possible).mean() > 0.9999


def test_branches_end_where_a_root_finder_puts_the_edge() -> None:
    """curve(edge) = t +- 0.1, on the rising part at the left."""
    edge = optimize.brentq(lambda x: x + 0.3 * math.sin(2 * math.pi * x) - 0.3, 0.0, 0.3)
    assert inverse_sinusoid.branches(np.array([0.2]))[0, 0, 1] == pytest.approx(edge, abs=1e-12)


def test_truth_nll_is_the_double_integral_of_minus_p_log_p() -> None:
    """E[-log p(x|t)] = -int p(x, t) log(p(x, t) / p(t)), here with p(t) by counting."""
    x = (np.arange(2000) + 0.5) / 2000
    curve = np.sort(x + 0.3 * np.sin(2 * math.pi * x))

    def integrand(t: float) -> float:
        count = np.searchsorted(curve, t + 0.1) - np.searchsorted(curve, t - 0.1)
        density = count / 2000 / 0.2  # of t
        return -density * math.log(1 / (0.2 * density)) if density else 0.0

    t = np.linspace(-0.1, 1.1, 4001)
    expected = integrate.trapezoid([integrand(v) for v in t], t)
    assert inverse_sinusoid.truth_nll() == pytest.approx(expected, abs=2e-3)


def test_truth_nll_has_converged() -> None:
    """Twice the cells, the same integral."""
    once, twice = inverse_sinusoid.truth_nll(10_000), inverse_sinusoid.truth_nll(20_000)
    assert once == pytest.approx(twice, abs=1e-5)


def test_one_gaussian_a_flat_piece_costs_what_its_divergence_is() -> None:
    """KL(uniform, Gaussian of its mean and variance) = log(pi e / 6) / 2."""
    scale = 1 / math.sqrt(12)
    found = integrate.quad(lambda x: -stats.norm.logpdf(x, 0.5, scale), 0, 1)[0]
    assert pytest.approx(found, abs=1e-10) == inverse_sinusoid.ONE_GAUSSIAN


def test_no_model_of_the_sinusoid_beats_the_truth_and_mixtures_beat_least_squares(
    sinusoid: tuple[dict[str, Any], Path],
) -> None:
    """Regret = mean KL divergence >= 0; smaller for a family that holds the branches."""
    models = sinusoid[0]["models"]
    assert all(s["regret"] > 0 for s in models.values())
    for name in ("MDN", "MDNRegressor"):
        assert models[name]["regret"] < 0.5 * models["least squares"]["regret"]
        assert models[name]["mode_possible"] > 0.9 > models["least squares"]["mean_possible"]
        assert models[name]["mass_on_possible_x"] > 0.75


def test_the_mass_of_the_true_pieces_is_their_share_of_the_length(
    sinusoid: tuple[dict[str, Any], Path],
) -> None:
    """A flat density: mass = length / total length; the pieces by counting."""
    cut = sinusoid[0]["cut"]
    x = (np.arange(100_000) + 0.5) / 100_000
    inside = np.abs(x + 0.3 * np.sin(2 * math.pi * x) - cut["t"]) <= 0.1
    starts = np.flatnonzero(np.diff(inside.astype(int)) == 1)
    assert len(starts) == len(cut["pieces"]) == 2
    below = inside[: starts[1]].sum() / inside.sum()
    assert cut["mass"]["truth"] == pytest.approx([below, 1 - below], abs=1e-4)


# -- robot-arm ------------------------------------------------------------------------------------


def test_the_hand_is_where_two_rotations_put_it() -> None:
    """R(theta_1) (L1 e + R(theta_2) (-L2 e)): the forearm folds back from the upper arm."""
    angles = np.random.default_rng(0).uniform([0.3, 1.5], [1.2, 4.7], size=(50, 2))
    first, second = np.exp(1j * angles[:, 0]), np.exp(1j * angles[:, 1])
    expected = first * (0.8 - 0.2 * second)
    np.testing.assert_allclose(robot_arm.hand(angles), np.c_[expected.real, expected.imag])


def test_both_inverse_answers_reach_the_hand_and_one_is_where_it_came_from() -> None:
    """hand(inverse(x)) = x, and theta is among the answers of hand(theta)."""
    angles = np.random.default_rng(1).uniform([0.3, 1.58], [1.2, 4.70], size=(300, 2))
    position = robot_arm.hand(angles)
    answers = robot_arm.inverse(position)  # (N, 2, 2)
    there = np.isfinite(answers).all(-1)
    reached = robot_arm.hand(answers)
    np.testing.assert_allclose(reached[there], np.repeat(position, there.sum(1), axis=0))
    nearest = np.nanmin(np.abs(answers - angles[:, None]).max(-1), axis=1)
    assert nearest.max() < 1e-6


def test_both_solutions_agree_with_a_numerical_solver() -> None:
    """Root of the forward equations from a start on the other side of theta_2 = pi."""
    position = robot_arm.hand(np.array([0.75, 2.2]))
    found = optimize.root(
        lambda a: robot_arm.hand(a) - position, x0=[0.75, 2 * math.pi - 2.2], tol=1e-13
    )
    np.testing.assert_allclose(robot_arm.inverse(position)[1], found.x, atol=1e-9)


def test_an_answer_beyond_the_joints_is_none() -> None:
    """theta_1 = 0.31 with a bend to one side leaves the mirror image below 0.3."""
    answers = robot_arm.inverse(robot_arm.hand(np.array([[0.31, 2.0], [1.19, 4.2]])))
    assert np.isfinite(answers).all(-1).sum(1).tolist() == [1, 1]
    assert np.isnan(robot_arm.inverse(np.array([2.0, 2.0]))).all()  # out of reach


def test_the_most_probable_branch_reaches_what_the_means_miss(
    arm: tuple[dict[str, Any], Path],
) -> None:
    """The mean of two answers is none; either of them is one.

    A fast run has one network in its MDNRegressor, whose highest point may lie between two answers;
    its draws are answers.
    """
    numbers = arm[0]
    rms = {name: e["two_answers"] for name, e in numbers["rms"].items()}
    assert rms["MDN, most probable"] < 0.4 * min(rms["least squares"], rms["MDN, mean"])
    for name in ("MDN", "MDNRegressor"):
        assert abs(numbers["mass_below_pi"][name]["mean"] - 0.5) < 0.15
        assert numbers["median_of_draws"][name] < numbers["median_of_draws"]["least squares"] / 4
    off = numbers["least_squares_distance_of_theta_2_from_pi"]
    assert off < 0.5 * numbers["true_distance_of_theta_2_from_pi"]


# -- real -----------------------------------------------------------------------------------------


def test_the_mixture_is_better_than_its_rivals_on_old_faithful(
    sets: tuple[dict[str, Any], Path],
) -> None:
    """Held out, x is worth something on Old Faithful, and two modes more than one width."""
    scores = sets[0]["sets"]["old-faithful"]["scores"]
    assert scores["MDNRegressor"]["nll"] < scores["density of y alone"]["nll"]
    assert scores["MDNRegressor"]["nll"] < scores["least squares, one width"]["nll"]
    assert scores["MDNRegressor"]["crps"] < scores["density of y alone"]["crps"]
    assert 0.8 < scores["MDNRegressor"]["coverage"] < 0.97


def test_scores_of_a_row_match_scipy() -> None:
    """NLL = -log pdf, PIT = cdf, CDE loss of a normal = 1 / (2 s sqrt pi) - 2 p(y)."""
    x, y = np.linspace(-1, 1, 40)[:, None], np.linspace(0, 3, 40)
    tensors = torch.from_numpy(x), torch.from_numpy(y[:, None])
    network = seeded(0, lambda: LeastSquares(*tensors))
    dist = network(torch.from_numpy(x))
    mean, scale = dist.mean.detach().numpy()[:, 0], dist.stddev.detach().numpy()[:, 0]
    normal = stats.norm(mean, scale)
    nll, _, loss, pit = real._rows(network, x, y).T
    np.testing.assert_allclose(nll, -normal.logpdf(y), rtol=1e-6)
    np.testing.assert_allclose(pit, normal.cdf(y), rtol=1e-5)
    expected = 1 / (2 * scale * math.sqrt(math.pi)) - 2 * normal.pdf(y)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_old_faithful_has_two_modes_after_a_long_wait_and_long_eruptions_after_a_short_one(
    sets: tuple[dict[str, Any], Path],
) -> None:
    """Of the record: after less than 65 min all eruptions are long; after 80 min there are both."""
    short, _, long = sets[0]["sets"]["old-faithful"]["cuts"]
    assert np.min(short["region"]) > 3
    assert len(long["region"]) == 2
    assert min(long["modes"]) < 2.5 < 3.5 < max(long["modes"])


def test_folds_hold_every_row_once() -> None:
    """The test rows of the folds are a partition, and no row is in both parts."""
    plan = _real_sets.plans(fast=True)["old-faithful"]
    assert plan is not None
    splits = list(real._splits(plan, 0))
    rows = np.concatenate([test for _, test in splits])
    assert sorted(rows) == list(range(len(plan.data.y)))
    assert all(not set(train) & set(test) for train, test in splits)


def test_sets_without_a_file_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: tuple[dict[str, Any], Path]
) -> None:
    """An empty folder: None for each set, and the report says so."""
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    missing = [name for name, plan in _real_sets.plans(fast=False).items() if plan is None]
    assert missing == ["motorcycle", "speed-flow", "temperature", "photoz", "taxi"]
    assert "Left out, because the files do not exist: motorcycle" in real.report(
        {**sets[0], "missing": missing}
    )


def test_a_file_that_is_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its SHA-256."""
    (tmp_path / "classic").mkdir()
    (tmp_path / "classic" / "mcycle.csv.gz").write_bytes(gzip.compress(b"times,accel\n1,2\n"))
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="not the known copy: its SHA-256 must start with"):
        _classic.motorcycle()


def _put(root: Path, path: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of our own in the data folder, known by its hash."""
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_bytes(content)
    monkeypatch.setenv("MDN_DATA", str(root))
    monkeypatch.setitem(_classic._SHA256, path, hashlib.sha256(content).hexdigest())


def test_a_band_without_detection_gets_the_faintest_magnitude_of_the_training_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """99 is no magnitude: u of row 1 is read as 25, the faintest u of the rows to train on."""
    rows = np.array([[25, 22, 21, 20, 19, 18, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]] * 3)
    rows[1, [0, 6]] = 99
    rows[2, 0] = 27  # of the test part
    content = BytesIO()
    np.savez(content, X_train=rows[:2], y_train=[0.5, 0.6], X_test=rows[2:], y_test=[0.7])
    _put(tmp_path, "photoz/dc2_photoz.npz", content.getvalue(), monkeypatch)
    data = _classic.photoz()
    assert data is not None and data.n_train == 2 and len(data.features) == data.X.shape[1]
    assert data.X[:, :2].tolist() == [[20, 3], [20, 3], [20, 5]]  # i, u - g
    np.testing.assert_allclose(data.X[:, 6:], -1)


def test_a_trip_is_read_with_its_hour_and_boroughs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Tuesday at half past five, from Queens to an unknown borough, in 10 minutes."""
    head = "pickup,distance,passengers,color,pickup_borough,dropoff_borough,duration_s"
    text = f"{head}\n2019-03-05 17:30:00,2.5,1,green,Queens,,600.0\n"
    content = gzip.compress(text.encode())
    _put(tmp_path, "classic/nyc_taxis.csv.gz", content, monkeypatch)
    data = _classic.taxi()
    assert data is not None
    row = dict(zip(data.features, data.X[0].tolist(), strict=True))
    assert data.y.tolist() == [10.0]
    assert (row["distance [miles]"], row["hour of the day [h]"]) == (2.5, 17.5)
    assert (row["weekday (Monday is 0)"], row["green cab"], row["pickup in Queens"]) == (1, 1, 1)
    assert sum(value for name, value in row.items() if name.startswith("dropoff")) == 0


class _Known:
    """p(y|x): x = 0 one narrow peak at 0.5; x = 1 two, at 0.5 with weight 0.4 and at 2."""

    def predict_distribution(self, X: np.ndarray) -> mdn.GaussianMixture:
        light = torch.from_numpy(np.where(X[:, 0] == 1, 0.4, 1 - 1e-9))
        logits = torch.stack([light, 1 - light], dim=-1).log()
        loc = torch.tensor([[0.5], [2.0]], dtype=torch.float64).expand(len(X), 2, 1)
        return mdn.GaussianMixture(logits, loc, torch.full_like(loc, 0.05))


def test_ambiguous_galaxies_are_those_with_two_likely_redshifts() -> None:
    """Half of the rows have two peaks; the model expects 40 % of these to be the nearer."""
    x = np.tile([0.0, 1.0], 50)[:, None]
    y = np.where(x[:, 0] == 0, 0.5, np.where(np.arange(100) % 4 == 1, 0.5, 2.0))
    data = _classic.Classic(x, y, ("x",), "redshift", "1", "")
    found, most = real._ambiguous(_Known(), data, np.arange(100))
    assert (found["share"], found["count"], found["nearer_observed"]) == (0.5, 50, 0.5)
    assert found["nearer_expected"] == pytest.approx(0.4, abs=1e-6)
    assert most.tolist() == [[1.0]] * 3


def test_the_stack_of_densities_holds_the_mass_of_each_bin_of_true_redshift() -> None:
    """Galaxies at z = 0.5 with one peak there: the column integrates to 1."""
    data = _classic.Classic(np.zeros((20, 1)), np.full(20, 0.51), ("x",), "redshift", "1", "")
    ax = Figure().subplots()
    real._draw_stacked(ax, _Known(), data, np.arange(20))
    image = np.ma.filled(ax.collections[0].get_array(), np.nan)
    filled = np.flatnonzero(np.isfinite(image).all(0))
    assert len(filled) == 1
    assert image[:, filled[0]].sum() * 3 / image.shape[0] == pytest.approx(1, abs=1e-6)


# -- all ------------------------------------------------------------------------------------------


def test_the_least_squares_network_is_least_squares() -> None:
    """Its NLL is least at the mean of y given x, with the residual's size as width."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(400, 1))
    y = 3 * x + rng.normal(0, 0.5, size=(400, 1))
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    network = seeded(0, lambda: LeastSquares(*tensors, hidden=()))
    train_network(network, x, y, seed=0, max_epochs=60, lr=0.03)
    with torch.no_grad():
        dist = network(torch.from_numpy(x))
    slope = np.polyfit(x[:, 0], dist.mean[:, 0].numpy(), 1)[0]
    expected, residual = np.polyfit(x[:, 0], y[:, 0], 1), dist.stddev[:, 0].numpy()
    assert slope == pytest.approx(expected[0], rel=0.05)
    assert np.ptp(residual) == 0
    assert residual[0] == pytest.approx(np.std(y[:, 0] - np.polyval(expected, x[:, 0])), rel=0.1)


def test_most_probable_is_the_centre_with_the_highest_density() -> None:
    """A heavy broad component has a lower peak than a light narrow one."""
    dist = mdn.GaussianMixture(
        torch.tensor([[0.7, 0.3]]).log(),
        torch.tensor([[[0.0], [5.0]]]),
        torch.tensor([[[2.0], [0.1]]]),
    )
    assert most_probable(dist).tolist() == [[5.0]]


@pytest.mark.parametrize("name", ["sinusoid", "arm", "sets"])
def test_numbers_are_plain_and_figures_are_drawn(name: str, request: pytest.FixtureRequest) -> None:
    """JSON takes them; every set or picture has its PNG; the report quotes the numbers."""
    numbers, out = request.getfixturevalue(name)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    figures = {"sinusoid": 3, "arm": 3, "sets": 2}
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == figures[name]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)


def test_reports_quote_their_numbers(
    sinusoid: tuple[dict[str, Any], Path],
    arm: tuple[dict[str, Any], Path],
    sets: tuple[dict[str, Any], Path],
) -> None:
    """What stands in the text is what was measured, also after a change."""
    numbers = sinusoid[0]
    text = inverse_sinusoid.report(numbers)
    assert "Reproduced" in text
    assert f"{numbers['models']['MDN']['regret']:.3f}" in text
    worse = json.loads(json.dumps(numbers))
    worse["models"]["MDN"]["regret"] = 9.876
    assert "Not reproduced" in inverse_sinusoid.report(worse)

    numbers = arm[0]
    assert f"{numbers['rms']['least squares']['all']:.4f}" in robot_arm.report(numbers)
    worse = json.loads(json.dumps(numbers))
    worse["rms"]["MDN, most probable"]["all"] = 0.5
    assert "Not reproduced" in robot_arm.report(worse)

    text = real.report(sets[0])
    assert f"{sets[0]['sets']['diabetes']['scores']['MDNRegressor']['nll']:.3f}" in text


def test_the_same_seed_gives_the_same_numbers(
    arm: tuple[dict[str, Any], Path],
) -> None:
    """Bit for bit, whatever the state of the global generators."""
    torch.manual_seed(123)
    assert robot_arm.run(fast=True) == arm[0]

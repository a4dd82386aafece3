"""Tests of the base models: trees and a Gaussian process, and their out-of-fold predictions."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import multivariate_normal
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import mdn
from benchmarks.roughness import roughness
from mdn import MDNRegressor
from mdn.estimator import _gaussian_process
from mdn.estimator._gaussian_process import GaussianProcess
from mdn.estimator._trees import Forest, fit_trees

MODELS = {
    "boosted": HistGradientBoostingRegressor(max_iter=40, random_state=0),
    "one tree": HistGradientBoostingRegressor(max_iter=1, min_samples_leaf=300, random_state=0),
    "randomised": ExtraTreesRegressor(15, random_state=0),
    "stumps": ExtraTreesRegressor(3, max_depth=1, random_state=0),
}


def rows(n: int = 500, columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows rounded to float32, as the trees see them, with ties; y bends and jumps."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns))
    x[:, 1] = np.round(x[:, 1])
    x = x.astype(np.float32).astype(np.float64)
    return x, np.sin(3 * x[:, 0]) + (x[:, 1] > 0) + 0.3 * rng.normal(size=n)


# -- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_the_arrays_predict_what_scikit_learn_predicts(kind: str) -> None:
    """Sums of boosted trees and means of randomised ones, on old rows and new, to rounding."""
    x, y = rows()
    model = MODELS[kind].fit(x, y)
    forest = Forest.from_sklearn(model)
    for seed in (0, 1):
        new = rows(seed=seed)[0]
        np.testing.assert_allclose(
            forest.predict(new)[:, 0], model.predict(new), rtol=0, atol=1e-12
        )


def test_randomised_trees_also_give_their_spread() -> None:
    """The second column is the standard deviation over the trees of scikit-learn."""
    x, y = rows()
    model = ExtraTreesRegressor(15, max_depth=4, random_state=0).fit(x, y)
    each = np.stack([tree.predict(x) for tree in model.estimators_])
    found = Forest.from_sklearn(model).predict(x)
    assert found.shape == (500, 2)
    np.testing.assert_allclose(found[:, 1], each.std(0), rtol=0, atol=1e-12)
    assert Forest.from_sklearn(MODELS["boosted"].fit(x, y)).predict(x).shape == (500, 1)


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_far_outside_goes_the_way_scikit_learn_sends_it(kind: str) -> None:
    """Beyond every threshold, and on thresholds themselves."""
    x, y = rows()
    model = MODELS[kind].fit(x, y)
    far = np.array([[1e30] * 4, [-1e30] * 4, [0.0] * 4, [0.5] * 4])
    np.testing.assert_allclose(
        Forest.from_sklearn(model).predict(far)[:, 0], model.predict(far), rtol=0, atol=1e-12
    )


def test_a_batch_is_a_loop_over_its_rows() -> None:
    """However many rows walk down at once."""
    x, y = rows()
    for model in MODELS.values():
        forest = Forest.from_sklearn(model.fit(x, y))
        alone = np.concatenate([forest.predict(x[i : i + 1]) for i in range(50)])
        np.testing.assert_allclose(alone, forest.predict(x)[:50], rtol=0, atol=1e-14)
        assert forest.predict(x[:0]).shape == (0, alone.shape[1])


@pytest.mark.parametrize("kind", MODELS)
def test_a_forest_comes_back_from_its_state_bit_for_bit(kind: str) -> None:
    """state() holds all that predict() needs."""
    x, y = rows()
    forest = Forest.from_sklearn(MODELS[kind].fit(x, y))
    again = Forest.from_state(*forest.state())
    np.testing.assert_array_equal(again.predict(x), forest.predict(x))
    assert (again.base, again.boosted) == (forest.base, forest.boosted)


def loop(a: dict[str, np.ndarray], inner: int) -> None:
    a["left"][inner] = inner


def backwards(a: dict[str, np.ndarray], inner: int) -> None:
    a["right"][inner + 1 :] = 0


@pytest.mark.parametrize(
    "spoil",
    [
        loop,
        backwards,
        lambda a, inner: a["left"].__setitem__(inner, 10**9),
        lambda a, inner: a["right"].__setitem__(inner, -1),
        lambda a, inner: a["roots"].__setitem__(0, 10**9),
        lambda a, inner: a["roots"].__setitem__(0, -1),
        lambda a, inner: a.update(threshold=a["threshold"][:-1]),
        lambda a, inner: a.update(feature=a["feature"][:-1]),
    ],
)
@pytest.mark.parametrize("kind", ["boosted", "randomised"])
def test_arrays_that_are_no_tree_are_refused(kind: str, spoil: Any) -> None:
    """A loop, a child that is not there, arrays of unlike length: no walk could end well."""
    x, y = rows()
    config, tensors = Forest.from_sklearn(MODELS[kind].fit(x, y)).state()
    arrays = {k: v.numpy().copy() for k, v in tensors.items()}
    spoil(arrays, int(np.flatnonzero(arrays["feature"] >= 0)[0]))
    with pytest.raises(ValueError, match="nodes do not form a tree"):
        Forest.from_state(config, {k: torch.as_tensor(v) for k, v in arrays.items()})


# -- out of fold ------------------------------------------------------------------------------


def grow(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, fold: np.ndarray, **options: Any
) -> tuple[list[Forest], np.ndarray]:
    settings = {"fast": True, "seed": 0, "n_jobs": 1, "report": lambda *_: None, **options}
    return fit_trees(x, y, weight, fold, **settings)[:2]


def predictions(forests: list[Forest], x: np.ndarray) -> np.ndarray:
    return np.concatenate([forest.predict(x) for forest in forests], 1)


def fitted(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, folds: int = 4
) -> tuple[list[Forest], np.ndarray, np.ndarray]:
    fold = np.random.default_rng(0).permutation(len(x)) % folds
    return *grow(x, y, weight, fold), fold


def test_out_of_fold_trees_have_not_seen_the_row() -> None:
    """y is noise: out-of-fold predictions have no correlation with it.

    The correlation of 600 independent pairs has a standard deviation of 0.041; beyond 4.5 of them
    lie 7 in 10^6 a column.  Held-out means lean against the row, by about 1/N: far less.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 3)), rng.normal(size=(600, 1))
    trees, oof, _ = fitted(x, y)
    assert oof.shape == (600, 3)
    for column in (0, 1):
        assert abs(np.corrcoef(oof[:, column], y[:, 0])[0, 1]) < 4.5 / np.sqrt(600)
    # the final trees were fitted to every row, and show it
    seen = predictions(trees, x)
    assert np.corrcoef(seen[:, 0], y[:, 0])[0, 1] > 0.6
    assert np.corrcoef(seen[:, 1], y[:, 0])[0, 1] > 0.9


def test_a_changed_target_changes_no_prediction_for_its_own_fold() -> None:
    """Bit for bit: y of one fold is moved, and the predictions for that fold stay as they were."""
    x, y = rows(120)
    y = y[:, None]
    _, oof, fold = fitted(x, y)
    moved = y.copy()
    moved[fold == 2] += 5.0
    _, other, _ = fitted(x, moved)
    np.testing.assert_array_equal(other[fold == 2], oof[fold == 2])
    assert (other[fold != 2] != oof[fold != 2]).any(1).all()


def test_out_of_fold_predictions_follow_a_law_of_y() -> None:
    """R^2 of both kinds on rows they have not seen, where the noise allows 0.9."""
    x, y = rows(600)
    _, oof, _ = fitted(x, y[:, None])
    for column in (0, 1):
        assert 1 - np.mean((oof[:, column] - y) ** 2) / y.var() > 0.6


def test_each_target_has_trees_of_its_own() -> None:
    """D = 2: the columns of the first are those it has alone; forests and columns are counted."""
    x, y = rows(150)
    two = np.stack([y, -2 * x[:, 2]], 1)
    trees, oof, _ = fitted(x, two)
    alone, oof_alone, _ = fitted(x, two[:, :1])
    assert oof.shape == (150, 6)
    np.testing.assert_array_equal(oof[:, :3], oof_alone)
    np.testing.assert_array_equal(predictions(trees[:2], x), predictions(alone, x))
    assert np.corrcoef(oof[:, 3], two[:, 1])[0, 1] > 0.9


def test_progress_is_reported_for_each_forest() -> None:
    """Two kinds of trees, three folds and all rows: eight."""
    x, y = rows(60)
    reports: list[tuple[str, int, int]] = []
    grow(x, y[:, None], None, np.arange(60) % 3, report=lambda *given: reports.append(given))
    assert reports == [("trees", i, 8) for i in range(1, 9)]


def test_a_row_without_weight_teaches_nothing() -> None:
    """Rows of weight 0, of another law, leave no trace in what is oof of the others."""
    x, y = rows(200)
    odd = np.arange(200) % 2 == 1
    spoiled = np.where(odd, 50.0, y)[:, None]
    weight = np.where(odd, 0.0, 1.0)
    trees, oof, _ = fitted(x, spoiled, weight)
    assert np.abs(oof[~odd, :2]).max() < 10
    assert np.abs(predictions(trees, x)[:, :2]).max() < 10


def test_more_folds_than_rows_leave_no_gap() -> None:
    """Three rows, folds up to 4: a fold without rows is passed over."""
    x, y = rows(3)
    fold = np.array([0, 2, 4])
    _, oof = grow(x, y[:, None], None, fold)
    assert np.isfinite(oof).all() and oof.shape == (3, 3)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_the_number_of_threads_changes_nothing(n_jobs: int | None) -> None:
    """One seed, one forest."""
    x, y = rows(100)
    fold = np.arange(100) % 2
    expected = grow(x, y[:, None], None, fold)[1]
    found = grow(x, y[:, None], None, fold, n_jobs=n_jobs)[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


# -- Gaussian process -------------------------------------------------------------------------


def parameters(columns: int) -> torch.Tensor:
    """Logs of lengths, amplitudes and noise, none at a round value."""
    return 0.3 * torch.randn(2 * columns + 5, generator=torch.Generator().manual_seed(1)).double()


def covariance(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """The kernel put together from those of scikit-learn."""
    columns = x.shape[1]
    joint, single = np.exp(theta[:columns]), np.exp(theta[columns : 2 * columns])
    a = np.exp(2 * theta[-5:-1])
    each = [Matern(single[f], nu=1.5)(x[:, [f]]) for f in range(columns)]
    total = a[0] * Matern(joint, nu=1.5)(x) + a[1] * np.mean(each, axis=0) + a[3]
    if columns > 1:
        total += a[2] * np.mean([p * q for p, q in combinations(each, 2)], axis=0)
    return total


def differentiable_covariance(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """The same by the formula, for autograd."""
    columns = x.shape[1]
    apart = (x[:, None] - x).abs()  # (N, N, F)

    def matern(r: torch.Tensor) -> torch.Tensor:
        return (1 + math.sqrt(3) * r) * torch.exp(-math.sqrt(3) * r)

    joint = matern(((apart / theta[:columns].exp()).square().sum(-1) + 1e-12).sqrt())
    each = matern(apart / theta[columns : 2 * columns].exp())
    a = (2 * theta[-5:-1]).exp()
    total = a[0] * joint + a[1] * each.mean(-1) + a[3]
    if columns > 1:
        products = [each[..., f] * each[..., g] for f, g in combinations(range(columns), 2)]
        total = total + a[2] * torch.stack(products).mean(0)
    return total


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_predictions_of_the_process_are_made_chunk_by_chunk(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No matrix holds more pairs of rows than a chunk has; the numbers differ by rounding only."""
    x, y = rows(120, max(2, columns))
    process = GaussianProcess.fit(x[:60, :columns], y[:60], None, np.arange(60) % 4,
                                  fast=True, seed=0)[0]  # fmt: skip
    at_once = process.predict(x[:, :columns])
    shapes = []
    kernel = _gaussian_process._kernel

    def watched(a: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        shapes.append(len(a))
        return kernel(a, *rest)

    monkeypatch.setattr(_gaussian_process, "_PAIRS", 200)
    monkeypatch.setattr(_gaussian_process, "_PREDICTED_PAIRS", 1000)
    monkeypatch.setattr(_gaussian_process, "_kernel", watched)
    np.testing.assert_allclose(process.predict(x[:, :columns]), at_once, rtol=0, atol=1e-10)
    assert shapes == [16] * 7 + [8]


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_kernel_is_scikit_learns_materns_summed(columns: int) -> None:
    """All columns at once, one by one and two by two, each kind by its own amplitude."""
    x = rows(60, max(2, columns))[0][:, :columns]
    theta = parameters(columns)
    found = _gaussian_process._kernel(torch.as_tensor(x), torch.as_tensor(x[:20]), theta)
    np.testing.assert_allclose(found, covariance(x, theta.numpy())[:, :20], rtol=0, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_slope_is_autograds_of_torchs_normal(columns: int) -> None:
    """Of the negative log marginal likelihood, with noise that differs from row to row."""
    x, y = (torch.as_tensor(a) for a in rows(40, max(2, columns)))
    x, share = x[:, :columns], torch.linspace(0.5, 2, 40).double()
    theta = parameters(columns).requires_grad_(True)
    noise = _gaussian_process._variances(theta)[1] * share + _gaussian_process._JITTER
    kernel = differentiable_covariance(x, theta) + noise.diag()
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), kernel)
    (wanted,) = torch.autograd.grad(-normal.log_prob(y), theta)
    found = _gaussian_process._PairwiseDistances(x).gradient(theta.detach(), y, share)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("columns", [1, 3, 17])
def test_blocks_of_pairs_change_no_digit_of_the_slope(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, theta = torch.as_tensor(rows(70, 17)[0][:, :columns]), parameters(columns)
    y = torch.linspace(-1, 1, 70).double()
    at_once = _gaussian_process._PairwiseDistances(x).gradient(theta, y, torch.ones_like(y))
    monkeypatch.setattr(_gaussian_process, "_PAIRS", 1)
    pairs = _gaussian_process._PairwiseDistances(x)
    assert pairs.step < len(pairs.place) / 30
    found = pairs.gradient(theta, y, torch.ones_like(y))
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(at_once))


@pytest.mark.parametrize("columns", [1, 3])
def test_out_of_fold_predictions_of_the_process_are_posteriors_of_the_other_rows(
    columns: int,
) -> None:
    """Out of fold by one inverse for all folds; here each fold's is worked out anew by numpy."""
    x, y = rows(120, 3)
    x, y = x[:, :columns], (y - y.mean()) / y.std()
    fold = np.arange(120) % 4
    process, oof = GaussianProcess.fit(x, y, None, fold, fast=False, seed=0)
    warped, theta = process.x.numpy(), process.theta.numpy()
    noise = np.exp(2 * theta[-1]) + _gaussian_process._MIN_NOISE**2 + _gaussian_process._JITTER
    kernel = covariance(warped, theta) + noise * np.eye(120)
    for f in range(4):
        out, rest = fold == f, fold != f
        gain = np.linalg.solve(kernel[np.ix_(rest, rest)], kernel[np.ix_(rest, out)]).T
        np.testing.assert_allclose(oof[out, 0], gain @ y[rest], rtol=0, atol=1e-4)
        left = kernel[np.ix_(out, out)] - gain @ kernel[np.ix_(rest, out)]
        np.testing.assert_allclose(oof[out, 1], 0.5 * np.log(np.diag(left)), rtol=0, atol=1e-3)
    gain = np.linalg.solve(kernel, kernel - noise * np.eye(120)).T  # the same rows, as if new
    left = np.diag(kernel) - ((kernel - noise * np.eye(120)) * gain).sum(1)
    in_sample = np.stack([gain @ y, 0.5 * np.log(left)], 1)
    np.testing.assert_allclose(process.predict(x), in_sample, rtol=0, atol=1e-3)


@pytest.mark.parametrize("fast", [False, True])
def test_the_process_finds_what_two_columns_do_together(fast: bool) -> None:
    """y is a sum of products of two smooth functions: errs by less than half of what trees do."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5))
    y = np.sin(x[:, 0]) * x[:, 1] + np.cos(x[:, 2]) * x[:, 3] + 0.05 * rng.normal(size=500)
    y = (y - y.mean()) / y.std()
    process, oof = GaussianProcess.fit(
        x[:300], y[:300], None, np.arange(300) % 5, fast=fast, seed=0
    )
    error = np.sqrt(np.mean((process.predict(x[300:])[:, 0] - y[300:]) ** 2))
    assert np.sqrt(np.mean((oof[:, 0] - y[:300]) ** 2)) == pytest.approx(error, rel=0.6)
    trees = HistGradientBoostingRegressor(random_state=0).fit(x[:300], y[:300])
    assert error < 0.5 * np.sqrt(np.mean((trees.predict(x[300:]) - y[300:]) ** 2))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_process_takes_columns_in_the_units_of_greater_evidence(skewed: bool) -> None:
    """A smooth function of uniform columns takes them as they are; one of their ranks, normal.

    The evidence is the log density of scipy's normal, but for the constant.
    """
    u = np.random.default_rng(0).uniform(size=(150, 3))
    y = np.sin(6 * u[:, 0]) * np.cos(4 * u[:, 1]) + u[:, 2]
    x = np.exp(2 * ndtri(u)) if skewed else 100 + 7 * u
    y = (y - y.mean()) / y.std()
    process = GaussianProcess.fit(x, y, None, np.arange(150) % 5, fast=False, seed=0)[0]
    assert [len(v) for v in process.values] == ([150] * 3 if skewed else [2] * 3)
    if not skewed:
        np.testing.assert_allclose(process.x, (x - x.mean(0)) / x.std(0), atol=1e-12)
    some, theta = np.arange(0, 150, 3), process.theta.numpy()
    noise = np.exp(2 * theta[-1]) + _gaussian_process._MIN_NOISE**2 + _gaussian_process._JITTER
    kernel = covariance(process.x.numpy()[some], theta) + noise * np.eye(50)
    wanted = multivariate_normal(np.zeros(50), kernel).logpdf(y[some]) + 25 * math.log(2 * math.pi)
    assert process.evidence(some) == pytest.approx(wanted, abs=1e-2)


@pytest.mark.parametrize("fast", [False, True])
def test_the_process_finds_noise_much_larger_than_it_begins_with(fast: bool) -> None:
    """One column: noise and error of the mean as scikit-learn's process has them, within 20 %."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    signal = np.sin(2 * x[:, 0])
    y = signal + 0.8 * rng.normal(size=300)
    shift, scale = y.mean(), y.std()
    process, _ = GaussianProcess.fit(
        x, (y - shift) / scale, None, np.arange(300) % 8, fast=fast, seed=0
    )
    assert scale * math.exp(float(process.theta[-1])) == pytest.approx(0.8, rel=0.1)
    error = shift + scale * process.predict(x)[:, 0] - signal
    kernel = ConstantKernel() * Matern(nu=1.5) + WhiteKernel()
    other = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x, y)
    reference = other.predict(x) - signal
    assert np.sqrt((error**2).mean()) < 1.2 * np.sqrt((reference**2).mean())


# -- one column -------------------------------------------------------------------------------


def test_over_one_column_the_default_is_as_smooth_as_networks_alone(tmp_path: Path) -> None:
    """Total variation of three quantiles at most 1.5 times theirs, and the NLL no worse."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, (900, 1))
    y = np.sin(x[:, 0]) + (0.2 + 0.05 * x[:, 0]) * rng.normal(size=900)
    model = MDNRegressor(preset="fast", random_state=0).fit(x[:400], y[:400])
    networks = MDNRegressor(preset="fast", trees=False, random_state=0).fit(x[:400], y[:400])
    assert (roughness(model, x) < 1.5 * roughness(networks, x)).all()
    assert model.nll(x[400:], y[400:]) < networks.nll(x[400:], y[400:]) + 0.02
    assert not model.model_.base_models.forests and model.model_.base_models.processes
    model.save(tmp_path / "model.mdn")
    again = mdn.load(tmp_path / "model.mdn")
    np.testing.assert_array_equal(again.log_prob(x, y), model.log_prob(x, y))


def test_a_step_over_one_column_stays_sharp() -> None:
    """A hundredth of the range beside the jump the median is that of its side, within 0.3 of 2."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, (600, 1))
    y = np.where(x[:, 0] < 5, -1.0, 1.0) + 0.1 * rng.normal(size=600)
    model = MDNRegressor(preset="fast", random_state=0).fit(x, y)
    left, right = model.predict_quantiles([[4.9], [5.1]], [0.5])[:, 0]
    assert left == pytest.approx(-1, abs=0.3) and right == pytest.approx(1, abs=0.3)
    assert (roughness(model, x) < 1.5 * 2).all()  # the true median and quantiles: 2


def test_over_a_column_of_few_values_each_keeps_its_own_mean() -> None:
    """Twelve levels of 50 rows with means of their own: within 0.15 standard deviations of theirs.

    Between the values no quantile leaves the range of y by more than a quarter of it.
    """
    rng = np.random.default_rng(0)
    x = np.repeat(np.arange(12.0), 50)[:, None]
    level = rng.normal(size=12)
    y = level[x[:, 0].astype(int)] + 0.2 * rng.normal(size=600)
    model = MDNRegressor(preset="fast", random_state=0).fit(x, y)
    assert model.model_.base_models.forests
    means = np.array([y[x[:, 0] == k].mean() for k in range(12)])
    np.testing.assert_allclose(model.predict(np.arange(12.0)[:, None]), means, atol=0.15)
    found = model.predict_quantiles(np.linspace(0, 11, 300)[:, None], [0.05, 0.95])
    margin = 0.25 * np.ptp(y)
    assert found.min() > y.min() - margin and found.max() < y.max() + margin

"""Tests of MDNRegressor and of the package's face: shapes, units, randomness, every refusal."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.integrate
import scipy.sparse
import scipy.stats
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

import mdn
from mdn import GaussianMixture, MDNRegressor, scoring
from mdn.estimator import (
    _base_models,
    _budget,
    _gaussian_process,
    _model,
    _plan,
    _training,
    _trees,
    _validation,
)
from mdn.train import _ensemble, fit_ensemble
from tests.models import FAST, TREES, regressor


def rows(n: int = 120, dims: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 2) and y near 2 x0; y is (N,) for dims 0, else (N, dims)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = 2 * X[:, :1] + 0.5 * rng.normal(size=(n, max(dims, 1)))
    return X, y if dims else y[:, 0]


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["(N,)", "(N, 1)", "(N, 2)"])
def fitted(request: pytest.FixtureRequest) -> tuple[MDNRegressor, np.ndarray, np.ndarray, int]:
    """A model for each shape of y, new rows, and D (0 for none)."""
    X, y = rows(dims=request.param)
    model = regressor().fit(X, y)
    return model, *(a[:50] for a in rows(dims=request.param, seed=1)), request.param


# -- shapes and agreement ---------------------------------------------------------------------


def test_predictions_are_made_chunk_by_chunk_and_are_those_of_one_chunk(
    fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No method holds more rows at once than a chunk has; the numbers differ by rounding only."""
    model, X, y, dims = fitted
    calls: list[Any] = [
        lambda: model.predict(X),
        lambda: model.predict(X, return_std=True)[1],
        lambda: model.predict_quantiles(X, [0.01, 0.5, 0.9]),
        lambda: model.predict_interval(X),
        lambda: model.predict_mode(X),
        lambda: model.predict_cdf(X, y),
        lambda: model.predict_proba_above(X, [0.0, 1.0]),
        lambda: model.predict_crps(X, y),
        lambda: model.log_prob(X, y),
        lambda: np.stack(model.predict_uncertainty(X)),
    ]
    if dims < 2:
        calls += [lambda: model.predict_hdr(X).intervals, lambda: model.predict_hdr(X).threshold]
    at_once = [call() for call in calls]
    dist = model.predict_distribution(X)
    held: list[int] = []
    members = _model.FittedModel.members

    def watched(self: Any, x: np.ndarray) -> Any:
        held.append(len(x))
        return members(self, x)

    components = dist.n_components
    monkeypatch.setattr(_model, "_NUMBERS", 8 * components * max(dims, 1))
    monkeypatch.setattr(_model.FittedModel, "members", watched)
    for call, expected in zip(calls, at_once, strict=True):
        held.clear()
        np.testing.assert_allclose(call(), expected, rtol=1e-9, atol=1e-9)
        assert set(held) == {8, 2} and sum(held) == 50
    parts = model.predict_distribution(X)
    for name, value in dist.numpy().items():
        np.testing.assert_allclose(parts.numpy()[name], value, rtol=1e-12, atol=1e-12)
    assert (model.predict(X) == parts.mean.numpy().reshape(model.predict(X).shape)).all()
    draws = model.sample(X, 2000, random_state=0).mean(1)
    error = dist.stddev.numpy().reshape(draws.shape) / math.sqrt(2000)
    assert (abs(draws - model.predict(X)) < 5 * error).all()  # fails once in 10,000 seeds


def test_every_prediction_has_the_shape_of_y(fitted: Any) -> None:
    """(N,) where y was (N,), (N, D) where it was (N, D); quantiles drop a single target."""
    model, X, y, dims = fitted
    tail = (dims,) if dims else ()
    several = (dims,) if dims > 1 else ()
    mean, std = model.predict(X, return_std=True)
    assert model.predict(X).shape == mean.shape == std.shape == (50, *tail)
    assert model.predict_mode(X).shape == (50, *tail)
    assert model.sample(X, 7).shape == (50, 7, *tail)
    assert model.sample(X).shape == (50, 1, *tail)
    assert model.predict_quantiles(X, [0.1, 0.5, 0.8]).shape == (50, 3, *several)
    assert model.predict_interval(X).shape == (50, 2, *several)
    assert model.log_prob(X, y).shape == (50,)
    assert isinstance(model.nll(X, y), float)
    assert isinstance(model.score(X, y), float)
    dist = model.predict_distribution(X)
    assert isinstance(dist, GaussianMixture)
    assert (dist.batch_shape, dist.event_shape) == ((50,), (max(dims, 1),))
    assert dist.loc.dtype == torch.float64
    assert not dist.loc.requires_grad


def test_every_prediction_is_the_distributions_own(fitted: Any) -> None:
    """The methods are questions to predict_distribution, without its event axis."""
    model, X, y, dims = fitted
    dist = model.predict_distribution(X)
    target = y.reshape(50, -1)

    def same(found: np.ndarray, tensor: torch.Tensor) -> None:
        assert isinstance(found, np.ndarray)
        expected = tensor.numpy()
        np.testing.assert_array_equal(found, expected if dims else expected[..., 0])

    same(model.predict(X), dist.mean)
    same(model.predict(X, return_std=True)[1], dist.stddev)
    same(model.predict_mode(X), dist.mode)
    log_prob = dist.log_prob(torch.as_tensor(target)).numpy()
    np.testing.assert_array_equal(model.log_prob(X, y), log_prob)
    assert model.nll(X, y) == pytest.approx(-log_prob.mean(), rel=1e-12)
    weight = np.arange(50.0)
    weighted = -(weight * log_prob).sum() / weight.sum()
    assert model.nll(X, y, sample_weight=weight) == pytest.approx(weighted, rel=1e-12)
    assert model.score(X, y) == pytest.approx(r2_score(y, model.predict(X)), rel=1e-12)


def test_quantiles_and_intervals_invert_the_cdf_of_each_target(fitted: Any) -> None:
    """F(quantile(p)) = p, and the interval is the quantiles (1 -+ coverage) / 2."""
    model, X, _, dims = fitted
    levels = [0.02, 0.5, 0.9]
    quantiles = model.predict_quantiles(X, levels).reshape(50, 3, -1)
    interval = model.predict_interval(X, coverage=0.8).reshape(50, 2, -1)
    ends = model.predict_quantiles(X, [0.1, 0.9]).reshape(50, 2, -1)
    np.testing.assert_allclose(interval, ends, rtol=1e-9)
    for d in range(max(dims, 1)):
        one = model.predict_distribution(X).marginal(d)
        for i, p in enumerate(levels):
            found = one.cdf(torch.as_tensor(quantiles[:, i, d : d + 1]))
            np.testing.assert_allclose(found.numpy(), p, rtol=1e-9)


def test_probabilities_and_scores_match_scipy_for_each_target(fitted: Any) -> None:
    """P(Y <= y) and P(Y > t) by sums over the components; the CRPS by quadrature."""
    model, X, y, dims = fitted
    columns = y.reshape(50, -1)
    shape = (50, dims) if dims > 1 else (50,)
    below, crps = model.predict_cdf(X, y), model.predict_crps(X, y)
    same, above = model.predict_cdf(X, 0.3), model.predict_proba_above(X, [0.3, 40.0])
    assert below.shape == same.shape == crps.shape == shape
    assert above.shape == (50, 2, *shape[1:])
    np.testing.assert_array_equal(model.predict_proba_above(X, 0.3), above[:, 0])
    dist = model.predict_distribution(X)
    weights, loc, scale = dist.weights.numpy(), dist.loc.numpy(), dist.scale.numpy()
    for d in range(columns.shape[1]):
        law = scipy.stats.norm(loc[..., d], scale[..., d])

        def sums(tail: Any, at: Any) -> Any:
            return (weights * tail(np.asarray(at)[..., None])).sum(-1)

        at = columns[:, d]
        for got, want in (
            (below, sums(law.cdf, at)),
            (same, sums(law.cdf, 0.3)),
            (above[:, 0], sums(law.sf, 0.3)),
            (above[:, 1], sums(law.sf, 40.0)),
        ):
            np.testing.assert_allclose(got.reshape(50, -1)[:, d], want, rtol=1e-9, atol=1e-300)
        grid = np.linspace(-60, 60, 120_001)
        F = sum(
            w * scipy.stats.norm.cdf(grid, m, s)
            for w, m, s in zip(weights[0], law.args[0][0], law.args[1][0], strict=True)
        )
        integral = scipy.integrate.trapezoid((F - (grid >= at[0])) ** 2, grid)
        assert crps.reshape(50, -1)[0, d] == pytest.approx(integral, abs=2e-3)


def test_hdr_is_arrays_and_holds_its_coverage() -> None:
    """One target: intervals (N, I, 2), NaN-padded, whose probabilities sum to the coverage."""
    X, y = rows()
    model = regressor().fit(X, y)
    region = model.predict_hdr(X[:20], coverage=0.7)
    assert isinstance(region.intervals, np.ndarray)
    assert isinstance(region.threshold, np.ndarray)
    present = ~np.isnan(region.intervals[..., 0])
    assert region.intervals.shape == (20, present.sum(1).max(), 2)
    assert region.threshold.shape == (20,)
    assert region.coverage == 0.7
    dist = model.predict_distribution(X[:20])
    ends = torch.as_tensor(region.intervals)
    mass = torch.zeros(20, dtype=torch.float64)
    for k in range(ends.shape[1]):
        there = ends[:, k].isfinite().all(-1)
        low, high = (ends[there, k, side, None] for side in (0, 1))
        mass[there] += dist[there].cdf(high) - dist[there].cdf(low)
    np.testing.assert_allclose(mass.numpy(), 0.7, atol=1e-6)


def test_samples_follow_the_distribution() -> None:
    """Mean and spread of 4000 draws a row: 5 standard errors, failing below 1 in 10^5 for 20."""
    X, y = rows()
    model = regressor().fit(X, y)
    draws = model.sample(X[:20], 4000, random_state=0)
    mean, std = model.predict(X[:20], return_std=True)
    assert (np.abs(draws.mean(1) - mean) < 5 * std / math.sqrt(4000)).all()
    np.testing.assert_allclose(draws.std(1), std, rtol=0.15)


def test_many_levels_and_one_level_are_told_by_the_second_axis() -> None:
    """(N, L) for any L, also 1 and a bare number; levels 0 and 1 are the ends of the line."""
    X, y = rows()
    model = regressor().fit(X, y)
    assert model.predict_quantiles(X, [0.5]).shape == (120, 1)
    np.testing.assert_array_equal(
        model.predict_quantiles(X, 0.5), model.predict_quantiles(X, np.array([0.5]))
    )
    ends = model.predict_quantiles(X, [0.0, 1.0])
    assert (ends == [-np.inf, np.inf]).all()


# -- units ------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [60.0, 1 / 60, 1e-100, 1e100])
@pytest.mark.parametrize("dims", [0, 2])
def test_a_change_of_unit_changes_the_nll_by_its_logarithm(factor: float, dims: int) -> None:
    """NLL(c y) = NLL(y) + D log c to 1e-9; quantiles, mean and draws scale by c."""
    X, y = rows(dims=dims)
    plain, changed = regressor().fit(X, y), regressor().fit(X, y * factor)
    shift = max(dims, 1) * math.log(factor)
    assert changed.nll(X, y * factor) == pytest.approx(plain.nll(X, y) + shift, abs=1e-9)
    np.testing.assert_allclose(
        changed.log_prob(X, y * factor), plain.log_prob(X, y) - shift, rtol=0, atol=1e-9
    )
    for ask in (
        lambda m: m.predict(X),
        lambda m: m.predict(X, return_std=True)[1],
        lambda m: m.predict_quantiles(X, [0.05, 0.5, 0.95]),
        lambda m: m.predict_interval(X),
        lambda m: m.sample(X, 3, random_state=0),
    ):
        np.testing.assert_allclose(ask(changed) / factor, ask(plain), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        changed.history_.val_nll, np.array(plain.history_.val_nll) + shift, rtol=0, atol=1e-9
    )


@pytest.mark.filterwarnings("ignore:.* of y are tied values:UserWarning")
def test_a_rounded_target_keeps_the_law_of_units() -> None:
    """Minutes to hours: the floor of a rounded y moves with it."""
    X, y = rows()
    y = np.round(y, 1)
    found = {c: regressor().fit(X, y * c).nll(X, y * c) for c in (1.0, 60.0, 1 / 60)}
    assert found[60.0] == pytest.approx(found[1.0] + math.log(60), abs=1e-9)
    assert found[1 / 60] == pytest.approx(found[1.0] - math.log(60), abs=1e-9)


@pytest.fixture(scope="module")
def friedman() -> tuple[np.ndarray, ...]:
    """Rows for the whole model: 100 to train, 500 to score, three columns of unlike size."""
    rng = np.random.default_rng(3)
    X = rng.random((600, 3)) * [1.0, 100.0, 0.01] + [0.0, 1000.0, 0.0]
    wave = np.sin(6 * X[:, 0]) + 2 * (X[:, 1] > 1050) * X[:, 0]
    y = wave + (0.1 + 0.3 * X[:, 0]) * rng.normal(size=600)
    return X[:100], y[:100], X[100:], y[100:]


def held_out_nll(data: tuple[np.ndarray, ...], **options: Any) -> float:
    X, y, X_test, y_test = data
    settings = {"hidden": (16,), "ensemble_size": 4, "max_epochs": 25, "random_state": 0, **options}
    return MDNRegressor(preset="fast", **settings).fit(X, y).nll(X_test, y_test)


@pytest.fixture(scope="module")
def plain_nll(friedman: tuple[np.ndarray, ...]) -> float:
    return held_out_nll(friedman)


@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [
        (1e6, 0.0, 1e-6, 0.0),
        (1e-6, 0.0, 1e6, 0.0),
        (3.7, -11.0, 0.3, 17.0),
        (1e-6, 1e-4, 1e6, 1e7),
    ],
)
def test_the_whole_model_follows_any_unit_of_x_and_y(
    a: float, b: float, c: float, d: float, friedman: tuple[np.ndarray, ...], plain_nll: float
) -> None:
    """fit(a X + b, c y + d), trees and all: the NLL moves by log c, within 0.02 nats."""
    X, y, X_test, y_test = friedman
    moved = held_out_nll((a * X + b, c * y + d, a * X_test + b, c * y_test + d))
    assert moved - math.log(c) == pytest.approx(plain_nll, abs=0.02)


@pytest.fixture(scope="module")
def seed_noise(friedman: tuple[np.ndarray, ...], plain_nll: float) -> float:
    """Standard deviation of the held-out NLL over seeds, from four of them."""
    others = [held_out_nll(friedman, random_state=seed) for seed in (1, 2, 3)]
    return float(np.std([plain_nll, *others], ddof=1))


@pytest.mark.parametrize("change", ["columns", "mirrored x", "mirrored y"])
def test_what_mirrors_or_permutes_changes_no_more_than_a_seed_does(
    change: str, friedman: tuple[np.ndarray, ...], plain_nll: float, seed_noise: float
) -> None:
    """Order of the columns, X to -X, y to -y: the NLL stays within the noise of seeds.

    The difference of two draws, over a deviation from four: Student's t of 3 degrees beyond 6 has
    a probability of 1 in 100 a case; the seeds here are fixed.
    """
    X, y, X_test, y_test = friedman
    x_sign, y_sign = (-1 if change == f"mirrored {name}" else 1 for name in "xy")
    order = [2, 0, 1] if change == "columns" else [0, 1, 2]
    found = held_out_nll(
        (x_sign * X[:, order], y_sign * y, x_sign * X_test[:, order], y_sign * y_test)
    )
    assert abs(found - plain_nll) < 6 * math.sqrt(2) * seed_noise
    assert seed_noise < 0.1


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_unit_of_x_changes_nothing(factor: float) -> None:
    """p(y | c x + d) is the same density."""
    X, y = rows()
    plain, changed = regressor().fit(X, y), regressor().fit(factor * X, y)
    np.testing.assert_allclose(changed.predict(factor * X), plain.predict(X), rtol=0, atol=1e-6)


def test_a_large_offset_of_y_costs_no_precision() -> None:
    """y + 1e8: the NLL is that of y, to the rounding of y + 1e8 (1.5e-8)."""
    X, y = rows()
    plain, moved = regressor().fit(X, y), regressor().fit(X, y + 1e8)
    assert moved.nll(X, y + 1e8) == pytest.approx(plain.nll(X, y), abs=1e-4)
    np.testing.assert_allclose(moved.predict(X) - 1e8, plain.predict(X), rtol=0, atol=1e-4)
    # 1.5e-8 is the spacing there: the draws are not on a coarser grid
    assert len(np.unique(moved.sample(X, 10, random_state=0))) > 1190


def test_history_is_in_the_unit_of_y() -> None:
    """The held-out NLL of a network moves with the unit, and lies near that of the model."""
    X, y = rows()
    model = regressor(max_epochs=1).fit(X, 1000 * y)
    assert len(model.history_) == 1
    assert model.history_.best_nll == pytest.approx(model.nll(X, 1000 * y), abs=1.0)
    assert model.history_.best_nll > 5


# -- randomness -------------------------------------------------------------------------------


def test_one_random_state_gives_one_model_bit_for_bit() -> None:
    """Two fits are equal whatever was drawn between them; another seed differs."""
    X, y = rows()
    first = regressor().fit(X, y).predict_quantiles(X, [0.1, 0.9])
    torch.rand(5)
    np.random.rand(5)
    np.testing.assert_array_equal(regressor().fit(X, y).predict_quantiles(X, [0.1, 0.9]), first)
    other = regressor(random_state=1).fit(X, y).predict_quantiles(X, [0.1, 0.9])
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("options", [{}, TREES], ids=["networks", "trees"])
def test_the_order_of_the_rows_plays_no_part(options: dict[str, Any]) -> None:
    """Permuted rows give the same model bit for bit; also rows that differ in weight alone."""
    X, y = rows(60)
    X[1::2], y[1::2] = X[::2], y[::2]  # each row twice, with two weights
    weight = np.random.default_rng(1).random(60) + 0.5
    order = np.random.default_rng(2).permutation(60)
    first = regressor(**options).fit(X, y)
    again = regressor(**options).fit(X[order], y[order])
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    first = regressor(**options).fit(X, y, sample_weight=weight)
    again = regressor(**options).fit(X[order], y[order], sample_weight=weight[order])
    np.testing.assert_array_equal(again.predict(X), first.predict(X))


def test_the_trees_are_the_same_bit_for_bit() -> None:
    """The whole model twice, with trees: one seed, one model; another seed differs."""
    X, y = rows(60)
    first, again, other = (
        regressor(**TREES, random_state=s).fit(X, y).predict(X)  # type: ignore[misc]
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, first)


def test_a_row_is_predicted_alone_as_among_others() -> None:
    """Batch = loop, to the rounding of float64."""
    X, y = rows(60)
    model = regressor(**TREES).fit(X, y)
    alone = np.concatenate([model.predict(X[i : i + 1]) for i in range(60)])
    np.testing.assert_allclose(alone, model.predict(X), rtol=1e-11, atol=1e-12)


def test_fitting_twice_starts_afresh() -> None:
    """A second fit of one object knows nothing of the first."""
    X, y = rows()
    model = regressor().fit(100 * X, y[::-1])
    model.fit(X, y)
    np.testing.assert_array_equal(model.predict(X), regressor().fit(X, y).predict(X))


def test_a_random_state_object_is_drawn_from() -> None:
    """RandomState(0) gives one model; the same object a second time another."""
    X, y = rows()
    rng = np.random.RandomState(0)
    first, second = (regressor(random_state=rng).fit(X, y).predict(X) for _ in range(2))
    again = regressor(random_state=np.random.RandomState(0)).fit(X, y).predict(X)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


def test_samples_depend_on_their_random_state_alone() -> None:
    """Equal seeds, equal draws; another seed, others."""
    X, y = rows()
    model = regressor().fit(X, y)
    first = model.sample(X, 4, random_state=0)
    np.testing.assert_array_equal(model.sample(X, 4, random_state=0), first)
    assert not np.array_equal(model.sample(X, 4, random_state=1), first)


def global_state() -> list[np.ndarray]:
    state = [torch.get_rng_state().numpy(), np.random.get_state()[1].copy()]
    if torch.cuda.is_available():
        state += [a.numpy() for a in torch.cuda.get_rng_state_all()]
    return state


def test_the_global_random_generators_are_left_alone() -> None:
    """With a seed, fit, predict and sample neither draw from torch or NumPy nor seed them."""
    X, y = rows(dims=2)
    torch.manual_seed(1234)
    before = global_state()
    model = regressor().fit(X, y)
    model.predict(X)
    model.sample(X, 3, random_state=0)
    after = global_state()
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_leaves_its_input_alone() -> None:
    """X, y and the weights are not written to."""
    X, y = rows()
    weight = np.arange(120.0)
    before = X.copy(), y.copy(), weight.copy()
    regressor().fit(X, y, sample_weight=weight).predict(X)
    for a, b in zip(before, (X, y, weight), strict=True):
        np.testing.assert_array_equal(a, b)


# -- scikit-learn -----------------------------------------------------------------------------


CHECKED: dict[str, Any] = {
    "n_components": 2,
    "hidden": (8,),
    "ensemble_size": 2,
    "learning_rate": 0.03,
    "max_epochs": 15,
    "random_state": 0,
}
TOLD = ("y is constant", ".* of y are tied values", ".* rows are few")  # true of the data of checks


def passes(check: Any, estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one check skips itself
    with warnings.catch_warnings():
        for message in TOLD:
            warnings.filterwarnings("ignore", message, UserWarning)
        check(estimator)


@parametrize_with_checks([MDNRegressor(trees=False, **CHECKED)])
def test_scikit_learn_accepts_the_estimator(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scikit-learn's own conformance checks, none of them excused or skipped."""
    passes(check, estimator, monkeypatch)


@pytest.mark.slow
@parametrize_with_checks([MDNRegressor(preset="fast", **CHECKED)])
def test_scikit_learn_accepts_the_estimator_with_trees(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with all that the default has; a minute."""
    passes(check, estimator, monkeypatch)


def test_clone_and_parameters_follow_scikit_learn() -> None:
    """get_params has every argument; set_params and clone give the same model."""
    X, y = rows()
    model = regressor()
    assert set(FAST) <= set(model.get_params())
    fitted = model.fit(X, y)
    copy = clone(fitted)
    assert not hasattr(copy, "model_")
    assert copy.get_params() == fitted.get_params()
    changed = MDNRegressor().set_params(**FAST).fit(X, y)
    np.testing.assert_array_equal(changed.predict(X), fitted.predict(X))
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        model.set_params(components=3)


@pytest.mark.parametrize("scorer", [scoring.nll_scorer, scoring.crps_scorer])
def test_grid_search_takes_the_scorers(scorer: Any) -> None:
    """GridSearchCV finds the mixture for two branches, y = +-3: one Gaussian is worse."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1))
    y = rng.choice([-3.0, 3.0], 200) + 0.2 * rng.normal(size=200)
    search = GridSearchCV(
        regressor(max_epochs=40, ensemble_size=1),
        {"n_components": np.arange(1, 3)},
        scoring=scorer,
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"n_components": 2}
    assert search.best_score_ == pytest.approx(search.cv_results_["mean_test_score"].max())
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(X, y) == pytest.approx(scorer(search.best_estimator_, X, y))


def test_the_scorers_equal_the_estimators_own_numbers() -> None:
    """nll_scorer = -nll; crps_scorer = -mean crps of the predicted distributions."""
    X, y = rows()
    model = regressor().fit(X, y)
    weight = np.arange(120.0)
    assert scoring.nll_scorer(model, X, y) == pytest.approx(-model.nll(X, y), rel=1e-12)
    weighted = scoring.nll_scorer(model, X, y, sample_weight=weight)
    assert weighted == pytest.approx(-model.nll(X, y, sample_weight=weight), rel=1e-12)
    rows_crps = scoring.crps(model.predict_distribution(X), y[:, None])
    assert scoring.crps_scorer(model, X, y) == pytest.approx(-rows_crps.mean(), rel=1e-12)


def test_it_works_inside_a_pipeline_and_cross_validation() -> None:
    """Pipeline, cross_val_score with R^2 and with the NLL, cross_val_predict."""
    X, y = rows()
    chain = make_pipeline(PolynomialFeatures(2), regressor(max_epochs=40, learning_rate=0.02))
    assert chain.fit(X, y).score(X, y) > 0.8
    assert cross_val_score(chain, X, y, cv=2).shape == (2,)
    direct = regressor()
    assert np.isfinite(cross_val_score(direct, X, y, cv=2, scoring=scoring.nll_scorer)).all()
    assert cross_val_predict(direct, X, y, cv=2).shape == (120,)
    twice = TransformedTargetRegressor(direct, func=np.arcsinh, inverse_func=np.sinh).fit(X, y)
    assert twice.predict(X).shape == (120,)


def test_feature_names_are_kept_and_checked() -> None:
    """DataFrame in: names are learned; what is missing, extra or out of order is named."""
    X, y = rows()
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = regressor().fit(frame, pd.Series(y))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(model.predict(frame), regressor().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        model.predict(frame[["b", "a"]])
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- c\n(.|\n)*now missing:\n- a\n"):
        model.log_prob(frame.rename(columns={"a": "c"}), y)
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- c\n"):
        model.predict(frame.assign(c=1.0))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_target_names_are_kept_and_saved(tmp_path: Path) -> None:
    """Of a column or a table with names; None of an array, or where a name is no string."""
    X, y = rows(dims=2)
    two, one = {"a": y[:, 0], "b": y[:, 1]}, {"a": y[:, 0]}
    named: list[tuple[Any, list[str] | None]] = [
        (pd.Series(y[:, 0], name="a"), ["a"]),
        (pl.Series("a", y[:, 0]), ["a"]),
        *((frame(one), ["a"]) for frame in (pd.DataFrame, pl.DataFrame)),
        *((frame(two), ["a", "b"]) for frame in (pd.DataFrame, pl.DataFrame)),
        (y, None),
        (pd.Series(y[:, 0]), None),
        (pd.Series(y[:, 0], name=3), None),
        (pl.Series(y[:, 0]), None),
        (pd.DataFrame(y), None),
    ]
    for target, names in named:
        model = regressor(max_epochs=1).fit(X, target)
        assert model.target_names_ == names
        model.save(tmp_path / "m.mdn")
        assert mdn.load(tmp_path / "m.mdn").target_names_ == names


@pytest.fixture(scope="module")
def shop() -> tuple[pd.DataFrame, np.ndarray]:
    """Every kind of column with gaps, and a y that hangs on each of them."""
    rng = np.random.default_rng(5)
    n = 240
    size, color = rng.normal(size=n), rng.choice(["red", "green", "blue"], n)
    flag, grade = rng.random(n) < 0.5, rng.choice(["S", "M", "L"], n)
    there = rng.random(n) > 0.2
    y = size * there + 3 * (color == "red") + 2 * flag - 4 * (grade == "L") - 2 * ~there
    frame = pd.DataFrame(
        {
            "size": np.where(there, size, np.nan),
            "color": np.where(rng.random(n) < 0.1, None, color),
            "flag": flag,
            "grade": pd.Categorical(grade),
        }
    )
    return frame, y + 0.2 * rng.normal(size=n)


def test_columns_of_every_kind_teach_the_model(shop: Any) -> None:
    """Gaps, strings, booleans and categories: R^2 far above what any column says alone."""
    X, y = shop
    options = {"max_epochs": 60, "learning_rate": 0.02}
    model = regressor(**options).fit(X[:180], y[:180])
    assert model.score(X[180:], y[180:]) > 0.75
    for left_out in X.columns:
        poorer = X.drop(columns=left_out)
        other = regressor(**options).fit(poorer[:180], y[:180])
        assert other.score(poorer[180:], y[180:]) < model.score(X[180:], y[180:])


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
@pytest.mark.parametrize("weight", [None, "whole", "any"])
def test_every_library_of_frames_gives_the_same_model(
    library: str, weight: str | None, shop: Any
) -> None:
    """pandas, polars and pyarrow agree bit for bit, with and without weights."""
    X, y = shop
    frame = pl.from_pandas(X) if library == "polars" else pa.Table.from_pandas(X)
    w = None if weight is None else np.arange(len(y)) % 3 + (0.3 if weight == "any" else 0)
    expected = regressor().fit(X, y, sample_weight=w).predict(X)
    model = regressor().fit(frame, y, sample_weight=w)
    np.testing.assert_array_equal(model.predict(frame), expected)
    np.testing.assert_array_equal(model.predict(X), expected)


def test_a_list_of_mixed_rows_keeps_its_kinds_under_weights() -> None:
    """[[1, "a"], ...]: numbers stay numbers when rows are written out."""
    X = [[float(i), "ab"[i % 2]] for i in range(40)]
    y = np.arange(40.0)
    twice = regressor().fit(X, y, sample_weight=np.full(40, 2.0))
    assert twice.columns_.names == ["x0", "x1=a", "x1=b"]
    assert np.isfinite(twice.predict(X)).all()


def test_new_categories_are_predicted_with_a_count_in_the_warning(shop: Any) -> None:
    """3 rows of a color that training had not: told by column, count and first value."""
    X, y = shop
    model = regressor().fit(X, y)
    new = X.copy()
    new.loc[:2, "color"] = "mauve"
    with pytest.warns(UserWarning, match=r"categories that training had not: .*color.*3 rows.*mau"):
        predicted = model.predict(new)
    assert np.isfinite(predicted).all()
    np.testing.assert_array_equal(predicted[3:], model.predict(X)[3:])


@pytest.mark.parametrize("weight", [None, np.full(120, 2.0), np.linspace(1, 2, 120)])
def test_sparse_rows_are_refused_with_the_cure(weight: Any) -> None:
    """In fit, weighted or not, and in predict."""
    X, y = rows()
    with pytest.raises(TypeError, match=r"X must be dense.*X\.toarray\(\)"):
        regressor().fit(scipy.sparse.csr_matrix(X), y, sample_weight=weight)
    with pytest.raises(TypeError, match=r"X must be dense.*X\.toarray\(\)"):
        regressor().fit(X, y).predict(scipy.sparse.csr_array(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.tolist(),
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.broadcast_to(a, a.shape),
        lambda a: a.astype(">f8"),
        lambda a: np.asfortranarray(a),
        lambda a: pd.DataFrame(a) if a.ndim == 2 else pd.Series(a),
        lambda a: a.astype(object),
    ],
    ids=["list", "reversed", "read-only", "big-endian", "fortran", "pandas", "object"],
)
def test_any_layout_of_the_data_gives_the_same_model(change: Any) -> None:
    """Lists, reversed and read-only views, byte-swapped, column-major, pandas, objects."""
    X, y = rows()
    model = regressor().fit(change(X), change(y))
    expected = regressor().fit(X, y)
    np.testing.assert_array_equal(model.predict(change(X)), expected.predict(X))
    np.testing.assert_array_equal(model.log_prob(change(X), change(y)), expected.log_prob(X, y))


@pytest.mark.filterwarnings("ignore:.* of y are tied values:UserWarning")
def test_integers_are_cast() -> None:
    """Integer X and y are the numbers they are; float32 X too."""
    X, y = rows()
    X, y = np.round(10 * X), np.round(10 * y)
    expected = regressor().fit(X, y)
    for kind in (np.int64, np.int8, np.float32):
        model = regressor().fit(X.astype(kind), y.astype(kind))
        np.testing.assert_array_equal(model.predict(X.astype(kind)), expected.predict(X))
        np.testing.assert_array_equal(
            model.log_prob(X.astype(kind), y.astype(kind)), expected.log_prob(X, y)
        )


# -- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, TREES], ids=["networks", "trees"])
def test_whole_weights_are_repeated_rows(options: dict[str, Any]) -> None:
    """Weights 0, 1, 2, 3, and these times 0.7: bit for bit the model of so many copies."""
    X, y = rows(60)
    count = np.arange(60) % 4
    copies = regressor(**options).fit(np.repeat(X, count, 0), np.repeat(y, count))
    for factor in (1.0, 0.7):
        weighted = regressor(**options).fit(X, y, sample_weight=factor * count)
        np.testing.assert_array_equal(weighted.predict(X), copies.predict(X))
    assert weighted.nll(X, y, sample_weight=count) == pytest.approx(
        copies.nll(np.repeat(X, count, 0), np.repeat(y, count)), rel=1e-9
    )


@pytest.mark.parametrize("value", [2.0, 0.3])
def test_a_row_of_weight_zero_does_not_exist(value: float) -> None:
    """Rows of weight 0, however far out, leave the model bit for bit as it is without them."""
    X, y = rows()
    X_more = np.concatenate([X, [[1e6, -1e6]] * 10])
    y_more = np.concatenate([y, [1e9] * 10])
    kept = value + np.arange(120) / 1000
    weight = np.concatenate([kept, np.zeros(10)])
    order = np.argsort(np.r_[np.arange(120), np.arange(10) * 12.5], kind="stable")
    with_them = regressor().fit(X_more[order], y_more[order], sample_weight=weight[order])
    without = regressor().fit(X, y, sample_weight=kept)
    np.testing.assert_array_equal(with_them.predict(X), without.predict(X))
    assert with_them.history_.val_nll == without.history_.val_nll


def test_equal_weights_are_no_weights() -> None:
    """A weight of 1, or 7, or 0.3, for each row changes nothing."""
    X, y = rows()
    plain = regressor().fit(X, y).predict(X)
    for value in (1.0, 7.0, 0.3):
        weighted = regressor().fit(X, y, sample_weight=np.full(120, value)).predict(X)
        np.testing.assert_array_equal(weighted, plain)


@pytest.mark.parametrize("options", [{}, {**TREES, "ensemble_size": 8}], ids=["networks", "trees"])
def test_broken_weights_count_by_their_ratios(options: dict[str, Any]) -> None:
    """Weights w and 1000 w, of no common divisor: one model but for rounding."""
    X, y = rows()
    weight = np.random.default_rng(0).random(120) + 0.1
    first, second = (
        regressor(**options).fit(X, y, sample_weight=c * weight).nll(X, y) for c in (1, 1000)
    )
    assert second == pytest.approx(first, abs=1e-3)


def test_weights_draw_the_density_to_the_heavy_rows() -> None:
    """Two groups at -5 and 5 with weights 9 and 1: the heavy one gets near 9/10 of the mass."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    side = np.arange(400) % 2
    y = np.where(side, 5.0, -5.0) + 0.3 * rng.normal(size=400)
    model = regressor(n_components=2, max_epochs=100, learning_rate=0.005)
    model.fit(X, y, sample_weight=np.where(side, 1.0, 9.0) + 1e-3 * rng.random(400))
    below = model.predict_distribution(X).cdf(torch.zeros(400, 1, dtype=torch.float64))
    assert below.mean().item() == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(5), r"sample_weight.shape == \(5,\), expected \(120,\)"),
        (-np.ones(120), "Negative values in data passed to `sample_weight`"),
        (np.full(120, np.nan), "Input sample_weight contains NaN"),
        (np.zeros(120), "at least one non-zero number|positive for at least 2 rows"),
        (np.eye(120)[0], "sample_weight must be positive for at least 2 rows"),
    ],
)
def test_bad_weights_are_refused(weight: np.ndarray, message: str) -> None:
    """Length, sign, NaN, and too few rows left."""
    with pytest.raises(ValueError, match=message):
        regressor().fit(*rows(), sample_weight=weight)


# -- uncertainty in two parts -----------------------------------------------------------------


@pytest.mark.parametrize("dims", [0, 2])
@pytest.mark.parametrize("options", [{"ensemble_size": 8}, {**TREES, "ensemble_size": 3}])
def test_the_two_uncertainties_are_the_variance_of_the_pool(
    options: dict[str, Any], dims: int
) -> None:
    """Law of total variance, by hand: within and between networks, without the background."""
    X, y = rows(60, dims=dims)
    model = regressor(**options).fit(X, y)
    aleatoric, epistemic = model.predict_uncertainty(X)
    assert aleatoric.shape == epistemic.shape == y.shape
    dist = model.predict_distribution(X)  # the background is last
    weight, loc, scale = (a[:, :-1].numpy() for a in (dist.logits, dist.loc, dist.scale))
    weight = np.exp(weight)[..., None]
    weight = weight / weight.sum(1, keepdims=True)
    mean = (weight * loc).sum(1)
    total = (weight * (scale**2 + (loc - mean[:, None]) ** 2)).sum(1)
    np.testing.assert_allclose(aleatoric + epistemic, total.reshape(y.shape), rtol=1e-9)
    # between: the means of the networks, each of 3 components
    share = weight.reshape(60, -1, 3, 1)
    means = (share * loc.reshape(60, -1, 3, loc.shape[-1])).sum(2) / share.sum(2)
    between = (share.sum(2) * (means - mean[:, None]) ** 2).sum(1)
    np.testing.assert_allclose(epistemic, between.reshape(y.shape), rtol=1e-7, atol=1e-14)
    assert (epistemic > 0).all()


def test_networks_disagree_where_there_are_no_rows() -> None:
    """The epistemic part grows outside of the data; a network alone agrees with itself."""
    X, y = rows(200)
    model = regressor(ensemble_size=8, max_epochs=20).fit(X, y)
    near, far = (model.predict_uncertainty(c * X)[1].mean() for c in (1, 6))
    assert far > 5 * near
    assert (regressor(ensemble_size=1).fit(X, y).predict_uncertainty(X)[1] == 0).all()


def test_the_uncertainties_have_the_unit_of_y_squared() -> None:
    """y in hundredths: both parts are 10^4 times as large."""
    X, y = rows()
    small, large = (regressor().fit(X, c * y).predict_uncertainty(X) for c in (1, 100))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(b, 1e4 * a, rtol=1e-7)


# -- how training ends ------------------------------------------------------------------------


def test_eval_rows_stop_the_training() -> None:
    """Rows that say the opposite get worse from the first epochs on; the same law does not."""
    X, y = rows(300)
    X_new, y_new = rows(200, seed=1)
    options = {"max_epochs": 60, "patience": 5, "learning_rate": 0.01}
    good = regressor(**options).fit(X, y, eval_set=(X_new, y_new))
    bad = regressor(**options).fit(X, y, eval_set=(X_new, -y_new))
    assert bad.history_.stopped == "patience"
    assert len(bad.history_) == max(bad.history_.member_best_epochs) + 5 + 1 < 20
    assert good.history_.best_epoch > bad.history_.best_epoch + 5
    # one network holds the weights of its best epoch, and eval rows judge those
    alone = regressor(**options, ensemble_size=1).fit(X, y, eval_set=(X_new, y_new))
    assert alone.nll(X_new, y_new) == pytest.approx(alone.history_.best_nll, abs=0.02)


def test_eval_rows_free_the_training_rows() -> None:
    """Without held-out blocks every row trains: of two rows both matter."""
    X, y = rows(40)
    eval_set = rows(30, seed=1)
    first = regressor(ensemble_size=1).fit(X, y, eval_set=eval_set).predict(X)
    for row in range(0, 40, 7):
        moved = y.copy()
        moved[row] += 1e-3
        model = regressor(ensemble_size=1).fit(X, moved, eval_set=eval_set)
        assert not np.array_equal(model.predict(X), first)


@pytest.mark.parametrize(
    ("eval_set", "error", "message"),
    [
        ((np.ones((5, 2)),), TypeError, r"eval_set must be a pair \(X, y\)"),
        (np.ones((2, 5)), TypeError, r"eval_set must be a pair \(X, y\)"),
        (([[1.0, 2.0]], [1.0, 2.0]), ValueError, "X and eval_set's y must have one length; got 1"),
        (([[1.0]], [1.0]), ValueError, "X has 1 features"),
        (([[1.0, 2.0]], [np.nan]), ValueError, "eval_set's y must be finite, but contains NaN in"),
        (([[1.0, 2.0]], [[1.0]]), ValueError, r"as many columns as y; got shapes \(1, 1\)"),
        (([[1.0, 2.0]], ["a"]), ValueError, "eval_set's y must hold numbers"),
    ],
)
def test_eval_rows_that_do_not_fit_are_refused(
    eval_set: Any, error: type[Exception], message: str
) -> None:
    """Not a pair, lengths, columns, values."""
    with pytest.raises(error, match=message):
        regressor().fit(*rows(), eval_set=eval_set)


def test_warm_start_goes_on_from_the_last_fit() -> None:
    """The second fit begins near where the first ended, whether or not a seed was given."""
    X, y = rows(300)
    options = {"max_epochs": 20, "learning_rate": 0.01, "warm_start": True, "ensemble_size": 4}
    for seed in (0, None):
        model = regressor(**{**options, "random_state": seed}).fit(X, y)
        first = model.history_
        second = model.fit(X, y).history_
        assert first.val_nll[0] - first.best_nll > 0.3
        assert max(second.val_nll[0], second.best_nll) < first.best_nll + 0.1


def test_warm_start_without_a_fit_is_a_fit() -> None:
    """And warm_start=False begins anew."""
    X, y = rows()
    model = regressor(warm_start=True).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), regressor().fit(X, y).predict(X))
    again = model.set_params(warm_start=False).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), regressor().fit(X, y).predict(X))


def test_warm_start_goes_on_after_loading_and_with_trees(tmp_path: Any) -> None:
    """A loaded model goes on as the one that was saved."""
    X, y = rows(30)
    model = regressor(**TREES, warm_start=True).fit(X, y)
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    np.testing.assert_array_equal(loaded.fit(X, y).predict(X), model.fit(X, y).predict(X))


@pytest.mark.parametrize(
    ("options", "dims", "message"),
    [
        ({"hidden": (9,)}, 0, "warm_start needs the same columns, members and layers"),
        ({"ensemble_size": 3}, 0, "warm_start needs the same columns, members and layers"),
        ({"n_components": 2}, 0, "warm_start needs the same columns, members and layers"),
        ({"target": "positive"}, 0, "warm_start needs the same kind, atoms and number of targets"),
        ({"resolution": 1e-3}, 0, "warm_start needs the same kind, atoms and number of targets"),
        ({}, 2, "warm_start needs the same kind, atoms and number of targets"),
    ],
)
def test_warm_start_refuses_another_model_and_keeps_the_old_one(
    options: dict[str, Any], dims: int, message: str
) -> None:
    """Layers, members, kinds of target: refused, and the fitted model stays as it was."""
    X, y = rows()
    y = np.round(np.abs(y) + 1, 3)
    model = regressor(warm_start=True).fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match=message):
        model.set_params(**options).fit(X, np.stack([y, y], 1) if dims else y)
    np.testing.assert_array_equal(model.predict(X), before)
    with pytest.raises(ValueError, match="X has 3 features"):
        regressor(warm_start=True).fit(X, y).fit(np.column_stack([X, y]), y)


def test_ctrl_c_ends_the_training_with_the_networks_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first of two groups: no other is begun, and the model predicts, saves and loads."""
    fit_ensemble = _training.fit_ensemble

    def interrupted(*args: Any, report: Any, **options: Any) -> Any:
        def press(done: int, total: int) -> None:
            report(done, total)
            if done == 3:
                raise KeyboardInterrupt

        return fit_ensemble(*args, report=press, **options)

    monkeypatch.setattr(_training, "fit_ensemble", interrupted)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = X[:, 0] + rng.normal(size=80)
    with pytest.warns(UserWarning, match="Training was interrupted in epoch 3"):
        model = MDNRegressor(preset="fast", ensemble_size=4, random_state=0).fit(X, y)
    assert (model.history_.stopped, len(model.history_)) == ("interrupted", 3)
    assert len(model.model_.groups) == 1
    assert np.isfinite(model.log_prob(X, y)).all()


def test_max_time_ends_the_training_and_says_so() -> None:
    """A millisecond is over after the first epoch, and the warning says so."""
    X, y = rows()
    with pytest.warns(
        mdn.TrainingWarning, match="training ended after 1 of at most 1000000 epochs"
    ):
        model = regressor(max_epochs=10**6, patience=10**6, max_time=1e-3).fit(X, y)
    for group in model.model_.groups:
        assert (group.history.stopped, len(group.history)) == ("max_time", 1)
    assert np.isfinite(model.log_prob(X, y)).all()


@pytest.mark.parametrize(
    "options", [{}, TREES, TREES | {"preset": "default", "max_epochs": 3}, {"atoms": [0.0]}]
)
def test_a_max_time_that_is_not_reached_changes_nothing(options: dict[str, Any]) -> None:
    """The fit is that without it, bit for bit; no time is measured that would leave a part out."""
    X, y = rows(80)
    y = np.where(y > 1, 0.0, y) if "atoms" in options else y
    model = regressor(**options).fit(X, y)
    limited = regressor(**options, max_time=1e9).fit(X, y)
    assert (limited.log_prob(X, y) == model.log_prob(X, y)).all()
    assert (
        limited.predict_quantiles(X, [0.1, 0.9]) == model.predict_quantiles(X, [0.1, 0.9])
    ).all()


class Clock:
    """A clock that counts the work of a fit, as if each piece of it always took the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(_budget, "clock", lambda: self.now)
        monkeypatch.setattr("mdn.train._ensemble.clock", lambda: self.now)
        monkeypatch.setattr("mdn.estimator._stacking.clock", lambda: self.now)
        step, gradient = _ensemble._Run.gradients, _gaussian_process._PairwiseDistances.gradient
        trees = _trees._predict_features

        def timed_step(run: Any, x: Any, *rest: Any) -> Any:
            self.now += len(x) * 1e-4  # members
            return step(run, x, *rest)

        def timed_gradient(pairs: Any, *rest: Any) -> Any:
            self.now += (pairs.n / 200) ** 2.5 * 2e-3
            return gradient(pairs, *rest)

        def timed_trees(model: Any, x: Any) -> Any:
            count = getattr(model, "max_iter", None) or 5 * model.n_estimators
            self.now += 5e-4 * count
            return trees(model, x)

        monkeypatch.setattr(_ensemble._Run, "gradients", timed_step)
        monkeypatch.setattr(_gaussian_process._PairwiseDistances, "gradient", timed_gradient)
        monkeypatch.setattr(_trees, "_predict_features", timed_trees)


@pytest.mark.parametrize("preset", ["default", "fast"])
def test_max_time_is_kept_whatever_the_machine(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts the work, within 20 %; more time gives more; gaps are named."""
    X, y = rows(200)
    sizes, found = [], []
    for max_time in (0.01, 1.0, 20.0, 1000.0):
        clock = Clock(monkeypatch)
        model = MDNRegressor(preset=preset, max_epochs=30, max_time=max_time, random_state=0)
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            model.fit(X, y)
        monkeypatch.undo()
        assert clock.now <= 1.2 * max_time + 0.05
        assert np.isfinite(model.log_prob(X, y)).all()
        sizes.append(model.n_networks_)
        found.append(" ".join(str(w.message) for w in given))
        assert all(w.category is mdn.TrainingWarning for w in given)
        forests = model.model_.base_models.forests
        assert bool(forests) == ("no trees" not in found[-1])
    limited = [size for size, text in zip(sizes, found, strict=True) if text]
    assert limited == sorted(limited)
    assert sizes[0] == 2 and sizes[-1] == (32 if preset == "default" else 16)
    assert "no trees" in found[0] and "there are 2 networks instead of 8" in found[0]
    assert found[-1] == ""


@pytest.mark.parametrize("max_time", [0.5, 2.0])
def test_max_time_is_used(max_time: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too short for the whole fit is filled by networks of "fast", by the same clock."""
    X, y = rows(200)
    clock = Clock(monkeypatch)
    with pytest.warns(mdn.TrainingWarning, match="the settings are those of preset='fast'"):
        model = MDNRegressor(max_epochs=30, max_time=max_time, random_state=0).fit(X, y)
    assert 0.8 * max_time <= clock.now <= 1.2 * max_time
    assert model.n_networks_ > 16
    assert bool(model.model_.base_models.forests) == (max_time > 1)


@pytest.mark.parametrize("options", [{"preset": "fast"}, {"ensemble_size": 6}])
def test_max_time_adds_no_networks_to_those_asked_for(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time for many more is left where the process and the trees do not fit in."""
    X, y = rows(200)
    clock = Clock(monkeypatch)
    with pytest.warns(mdn.TrainingWarning, match="there are no trees"):
        model = MDNRegressor(**options, max_epochs=30, max_time=0.5, random_state=0).fit(X, y)
    assert clock.now < 0.4
    assert model.n_networks_ == options.get("ensemble_size", 8)


@pytest.mark.parametrize("factor", [0.01, 0.3, 0.99, 1.0, 1.7, 6.0])
@pytest.mark.parametrize("n", [10, 500, 5000, 50_000])
def test_a_plan_of_other_size_holds_out_each_row(factor: float, n: int) -> None:
    """Its members are as many times as many, two at least, and those of a group suffice for it."""
    settings = _validation.checked_settings(MDNRegressor(preset="fast").get_params(deep=False))
    whole = _plan.plan(n, settings)
    alone = whole.without_trees(settings, with_process=True)
    for todo in (whole, alone):
        for old, new in zip(todo.groups, todo.times(factor).groups, strict=True):
            assert new.members == max(2, int(factor * old.members))
            mask, repeats = _training._held_out_rows(60, None, new, np.random.default_rng(0))
            assert repeats >= 1 and (mask.sum(0) >= repeats * len(new.subgroup_sizes)).all()
    assert whole.times(1.0).groups == whole.groups


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
@pytest.mark.parametrize("fails", [False, True])
def test_n_jobs_holds_for_the_fit_alone(
    n_jobs: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch has so many threads inside, and as many as before afterwards, also after an error."""
    import joblib

    from mdn.estimator import _regressor

    real, inside = _regressor.train_with_atoms, []

    def train(*args: Any, **options: Any) -> Any:
        inside.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("on purpose")
        return real(*args, **options)

    monkeypatch.setattr(_regressor, "train_with_atoms", train)
    before = torch.get_num_threads()
    model = regressor(n_jobs=n_jobs, max_epochs=1)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            model.fit(*rows())
    else:
        model.fit(*rows())
    assert inside == [joblib.cpu_count() if n_jobs == -1 else n_jobs]
    assert torch.get_num_threads() == before


# -- kinds of target --------------------------------------------------------------------------


def kind_of(target: str, y: np.ndarray) -> np.ndarray:
    """A y that this kind of target takes."""
    if target == "positive":
        return np.exp(y)
    if target == "unit":
        return 1 / (1 + np.exp(-y))
    if target == "integer":
        return np.round(3 * y)
    if target == "interval":
        return np.stack([np.where(y < -1, -np.inf, y), np.where(y < -1, -1, y)], 1)
    return np.round(y, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"target": "positive"},
        {"target": "unit"},
        {"target": "integer"},
        {"target": "interval"},
        {"resolution": 0.1},
    ],
    ids=["positive", "unit", "integer", "interval", "resolution"],
)
def test_every_kind_of_target_reaches_every_method(options: dict[str, Any], tmp_path: Any) -> None:
    """Predictions stay where such a y can be; probabilities of cells are none above 1."""
    X, y = rows(80)
    kind = options.get("target", "rounded")
    y = kind_of(kind, y)
    model = regressor(**options).fit(X, y, eval_set=(X[:30], y[:30]))
    model = regressor(**options).fit(X, y)
    log_p = model.log_prob(X, y)
    assert log_p.shape == (80,) and np.isfinite(log_p).all()
    assert model.nll(X, y) == pytest.approx(-log_p.mean())
    low, high = {"positive": (0, np.inf), "unit": (0, 1)}.get(kind, (-np.inf, np.inf))
    predictions = [
        model.predict(X),
        model.predict_quantiles(X, [0.1, 0.9]),
        model.predict_interval(X),
        model.sample(X, 5, random_state=0),
    ]
    for a in predictions:
        assert np.isfinite(a).all() and (low < a).all() and (a < high).all()
    if kind in ("integer", "rounded"):
        assert (log_p <= 0).all()
        step = 1.0 if kind == "integer" else 0.1
        draws = predictions[-1] / step
        np.testing.assert_allclose(draws, np.round(draws), atol=1e-6)
    aleatoric, epistemic = model.predict_uncertainty(X)
    assert (aleatoric > 0).all() and (epistemic >= 0).all()
    model.save(tmp_path / "m.mdn")
    np.testing.assert_array_equal(mdn.load(tmp_path / "m.mdn").log_prob(X, y), log_p)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"target": "positive"}, 0.0, "y must be positive.*; row 17 is 0"),
        ({"target": "unit"}, 1.0, "y must lie between 0 and 1, both excluded;.* row 17 is 1"),
        ({"target": "integer"}, 0.5, "y must be whole numbers; row 17 is 0.5"),
        ({"resolution": 0.1}, 0.25, "y must be multiples of resolution=0.1; row 17 is 0.25"),
        ({"target": "interval"}, (2.0, 1.0), "y must have lower <= upper; row 17 is 2, 1"),
    ],
)
def test_a_y_of_another_kind_is_refused_with_its_row(
    options: dict[str, Any], y: Any, message: str
) -> None:
    """The row is that of the user, who did not sort them."""
    X, plain = rows()
    good = kind_of(options.get("target", "rounded"), plain)
    bad = good.copy()
    bad[17] = y
    with pytest.raises(ValueError, match=message):
        regressor(**options).fit(X, bad)
    with pytest.raises(ValueError, match=message):
        regressor(max_epochs=1, **options).fit(X, good).log_prob(X, bad)


# -- copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, TREES], ids=["networks", "trees"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_predict_the_same(options: dict[str, Any], copied: Any) -> None:
    """deepcopy and pickle, fitted: bit for bit; and unfitted they fit to the same."""
    X, y = rows(40)
    model = regressor(**options)
    twin = copied(model).fit(X, y)
    model.fit(X, y)
    for other in (twin, copied(model)):
        np.testing.assert_array_equal(other.predict_interval(X), model.predict_interval(X))
        np.testing.assert_array_equal(other.log_prob(X, y), model.log_prob(X, y))


# -- refused data -----------------------------------------------------------------------------


def spoiled(which: str, value: float, dims: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X, y = rows(dims=dims)
    if which == "X":
        X[[17, 90], [1, 0]] = value
    else:
        y[17] = y[90] = value
    return X, y


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_columns_are_refused_with_their_row(value: float) -> None:
    """At fit, predict and log_prob; a NaN is a gap, and allowed."""
    model = regressor().fit(*rows())
    y = rows()[1]
    bad = spoiled("X", value)[0]
    for call in (
        lambda: regressor().fit(bad, y),
        lambda: model.predict(bad),
        lambda: model.log_prob(bad, y),
    ):
        with pytest.raises(ValueError, match=r"X must be finite or missing.* row 90 of column 0"):
            call()
    gaps = spoiled("X", np.nan)[0]
    assert np.isfinite(regressor().fit(gaps, y).log_prob(gaps, y)).all()


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_targets_that_are_not_finite_are_refused_with_their_row(value: float, name: str) -> None:
    """NaN and inf in y, at fit and log_prob: the message names the first row."""
    in_y = f"y must be finite, but contains {name} in row 17; drop or impute such rows"
    model = regressor().fit(*rows())
    X, bad_y = rows()[0], spoiled("y", value)[1]
    for call in (
        lambda: regressor().fit(X, bad_y),
        lambda: regressor().fit(X, pd.Series(bad_y)),
        lambda: model.log_prob(X, bad_y),
        lambda: model.nll(X, bad_y),
    ):
        with pytest.raises(ValueError, match=re.escape(in_y)):
            call()
    nothing = "y must have a value in every row, but row 17 has NaN in every column"
    several = nothing if name == "NaN" else f"y must be finite.* {name} in row 17, column 0"
    with pytest.raises(ValueError, match=several):
        regressor().fit(*spoiled("y", value, dims=2))


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(pd.Categorical([1, 2] * 60)),
        pd.Series(["1", "2"] * 60),
        pl.Series(["1", "2"] * 60, dtype=pl.Categorical),
        pd.DataFrame({"a": np.ones(120), "b": pd.Categorical([1, 2] * 60)}),
        np.array(["1", "2"] * 60),
        np.array([1.0, "2"] * 60, dtype=object),
        np.array([b"1", b"2"] * 60),
    ],
    ids=["pandas", "strings", "polars", "one of two", "array", "objects", "bytes"],
)
def test_categories_in_y_are_refused(y: Any) -> None:
    """Also those that read as numbers: a category has no density."""
    with pytest.raises(ValueError, match=r"y must hold numbers, but .* no density"):
        regressor().fit(rows()[0], y)


def test_dates_in_y_are_refused() -> None:
    """Their unit would be nanoseconds, which nobody means."""
    y = np.arange(120).astype("datetime64[D]")
    with pytest.raises(ValueError, match="y must hold numbers; got dtype datetime64"):
        regressor().fit(rows()[0], y)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (X, y[:-1]), "X and y must have one length; got 120 and 119 rows"),
        (lambda X, y: (X[:-1], y), "X and y must have one length; got 119 and 120 rows"),
        (lambda X, y: (X, np.stack([y, y])), "X and y must have one length; got 120 and 2 rows"),
        (lambda X, y: (X[:0], y[:0]), r"0 sample\(s\).* while a minimum of 2 is required"),
        (lambda X, y: (X[:1], y[:1]), r"1 sample\(s\).* while a minimum of 2 is required"),
        (lambda X, y: (X[:, :0], y), r"0 feature\(s\).* while a minimum of 1 is required"),
        (lambda X, y: (X[:, 0], y), "Expected 2D array, got 1D array instead"),
        (lambda X, y: (X, y[:, None, None]), "Found array with dim 3"),
        (lambda X, y: (X, None), "requires y to be passed, but the target y is None"),
    ],
)
def test_data_that_do_not_fit_are_refused(spoil: Any, message: str) -> None:
    """Lengths, emptiness, one row, dimensions."""
    with pytest.raises(ValueError, match=message):
        regressor().fit(*spoil(*rows()))


@pytest.mark.parametrize("n", [2, 3, 5, 19])
@pytest.mark.parametrize("options", [{}, {"preset": "fast"}, {"trees": True}])
def test_few_rows_are_fitted_with_a_warning(n: int, options: dict[str, Any]) -> None:
    """Fewer than 20 rows: a smaller model, finite numbers, and the user is told."""
    X, y = rows(n)
    model = MDNRegressor(max_epochs=20, random_state=0, **options)
    with pytest.warns(UserWarning, match=f"^{n} rows are few.*smaller model") as caught:
        model.fit(X, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert np.isfinite(model.log_prob(X, y)).all()
    assert (
        model.predict_distribution(X).n_components
        == 4 * 2 + 1 + model.model_.densities.n_components
    )


def test_twenty_rows_give_no_warning() -> None:
    """The bound itself is enough."""
    X, y = rows(20)
    assert np.isfinite(regressor(**TREES).fit(X, y).log_prob(X, y)).all()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9])
@pytest.mark.parametrize("dims", [0, 2])
def test_constant_y_is_fitted_with_a_warning(value: float, dims: int) -> None:
    """Nine tenths of the mass lie about the value, and the user is told."""
    X, y = rows(dims=dims)
    y = np.full_like(y, value)
    with pytest.warns(UserWarning, match=r"y is constant \(.*as narrow as its floor") as caught:
        model = regressor(max_epochs=60).fit(X, y)
    assert len(caught) == 1
    assert f"({value:g})" in str(caught[0].message)
    assert caught[0].filename == __file__
    size = abs(value) or 1.0
    np.testing.assert_allclose(model.predict(X), y, rtol=0, atol=0.05 * size)
    low, high = np.moveaxis(model.predict_interval(X, 0.9), 1, 0)
    assert ((low <= y) & (y <= high)).all() and (high - low < 0.1 * size).all()
    assert np.isfinite(model.log_prob(X, y)).all()


def test_rows_that_are_all_equal_are_fitted() -> None:
    """X and y the same in every row, trees and all: finite, about the value."""
    X, y = np.ones((40, 3)), np.full(40, 7.0)
    with pytest.warns(UserWarning, match="y is constant"):
        model = regressor(**TREES).fit(X, y)
    np.testing.assert_allclose(model.predict(X), 7.0, rtol=0.05)
    with pytest.warns(mdn.DataWarning, match="far outside the range of training"):
        assert np.isfinite(model.log_prob(X + 1, y)).all()


@pytest.mark.parametrize("options", [{}, TREES], ids=["networks", "trees"])
def test_more_columns_than_rows_are_fitted(options: dict[str, Any]) -> None:
    """25 rows, 80 columns: finite numbers, also for rows far away."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(25, 80)), rng.normal(size=25)
    model = regressor(**options).fit(X, y)
    assert np.isfinite(model.log_prob(X, y)).all()
    with pytest.warns(mdn.DataWarning, match="far outside the range of training"):
        assert np.isfinite(model.log_prob(1e3 * X, y)).all()


def test_a_varying_y_gives_no_warning() -> None:
    """No other warning comes from fit or from any prediction."""
    X, y = rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = regressor().fit(X, y)
        model.predict_hdr(X)
        model.predict_mode(X)
        regressor(**TREES).fit(X, np.round(y, 2))  # rounded finely: few ties


@pytest.mark.parametrize("dims", [0, 2])
def test_a_y_with_ties_is_warned_of_once_and_the_cure_named(dims: int) -> None:
    """On a grid of 0.5: the warning names the share and the step; resolution= heeds it."""
    X, y = rows(400, dims=dims)
    y = np.round(2 * y) / 2
    cure = "" if dims else r".*resolution=0\.5 "  # a rounded target has one column
    with pytest.warns(UserWarning, match=r"% of y are tied values" + cure) as caught:
        regressor(max_epochs=1).fit(X, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    if not dims:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            regressor(max_epochs=1, resolution=0.5).fit(X, y)


def test_a_constant_column_of_x_changes_nothing_else() -> None:
    """It is fitted; a new value of that column is no reason for another number."""
    X, y = rows()
    X = np.column_stack([X, np.full(120, 1e6)])
    model = regressor().fit(X, y)
    assert np.isfinite(model.log_prob(X, y)).all()
    before = model.log_prob(X, y)
    X[:, 2] += 1.0
    with pytest.warns(mdn.DataWarning, match="the first 1000001 in row 0; training 1000000 to"):
        np.testing.assert_array_equal(model.log_prob(X, y), before)


def test_predict_refuses_another_number_of_features() -> None:
    """Both numbers are in the message."""
    X, y = rows()
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match="X has 1 features, but MDNRegressor is expecting 2"):
        model.predict(X[:, :1])


def test_log_prob_refuses_targets_that_do_not_fit() -> None:
    """Length and number of targets."""
    X, y = rows()
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match="X and y must have one length; got 120 and 119 rows"):
        model.log_prob(X, y[:-1])
    with pytest.raises(ValueError, match=r"y must have shape \(\*, 1\); got \(120, 2\)"):
        model.log_prob(X, np.stack([y, y], 1))


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, X, y: m.predict(X),
        lambda m, X, y: m.predict_distribution(X),
        lambda m, X, y: m.predict_quantiles(X, [0.5]),
        lambda m, X, y: m.predict_interval(X),
        lambda m, X, y: m.predict_hdr(X),
        lambda m, X, y: m.predict_mode(X),
        lambda m, X, y: m.sample(X),
        lambda m, X, y: m.log_prob(X, y),
        lambda m, X, y: m.nll(X, y),
        lambda m, X, y: m.score(X, y),
        lambda m, X, y: m.save("never.mdn"),
    ],
)
def test_nothing_can_be_asked_before_fit(ask: Any) -> None:
    """scikit-learn's NotFittedError, with its cure."""
    with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
        ask(regressor(), *rows())


# -- refused options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components must be at least 1; got 0"),
        ({"n_components": -3}, ValueError, "n_components must be at least 1; got -3"),
        ({"n_components": 2.5}, TypeError, "n_components must be an integer; got .*float"),
        (
            {"covariance_type": "spherical"},
            ValueError,
            "covariance_type must be one of 'auto', 'diagonal'.*got 'spherical'",
        ),
        ({"min_scale": -0.1}, ValueError, "min_scale must be positive and finite; got -0.1"),
        ({"min_scale": 0.0}, ValueError, "min_scale must be positive and finite; got 0"),
        ({"min_scale": math.nan}, ValueError, "min_scale must be positive and finite; got nan"),
        ({"hidden": (8, 0)}, ValueError, r"hidden\[1\] must be at least 1; got 0"),
        ({"hidden": 8}, TypeError, "hidden must be a sequence of widths.*got 8"),
        ({"ensemble_size": 0}, ValueError, "ensemble_size must be at least 1; got 0"),
        ({"ensemble_size": True}, TypeError, "ensemble_size must be an integer; got .*bool"),
        ({"preset": "slow"}, ValueError, "preset must be one of 'default', 'fast'; got 'slow'"),
        ({"target": "count"}, ValueError, "target must be one of 'real', .*; got 'count'"),
        ({"resolution": 0.0}, ValueError, "resolution must be positive and finite; got 0"),
        ({"resolution": 1.0, "target": "unit"}, ValueError, "resolution needs target='real'"),
        ({"hidden": "64"}, TypeError, "hidden must be a sequence of widths.*got '64'"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1; got 0"),
        ({"patience": 0}, ValueError, "patience must be at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1; got 0"),
        ({"max_time": 0.0}, ValueError, "max_time must be positive and finite; got 0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be positive and finite; got -1"),
        (
            {"weight_decay": -1.0},
            ValueError,
            "weight_decay must be finite and not negative; got -1",
        ),
        (
            {"n_jobs": 0},
            ValueError,
            "n_jobs must be a number of threads, or -1 for all cores; got 0",
        ),
        ({"n_jobs": 1.5}, TypeError, "n_jobs must be an integer; got .*float"),
        ({"random_state": "x"}, ValueError, "random_state must be None, an integer .*; got 'x'"),
    ],
)
def test_bad_options_are_refused_at_fit(
    option: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Names the option, the range and the value; the constructor itself never judges."""
    model = regressor(**option)
    with pytest.raises(error, match=message):
        model.fit(*rows())


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90, math.nan])
def test_a_coverage_outside_0_and_1_is_refused(coverage: float) -> None:
    """90 is no coverage; 1 would be the whole line."""
    X, y = rows()
    model = regressor().fit(X, y)
    for ask in (model.predict_interval, model.predict_hdr):
        with pytest.raises(ValueError, match=f"coverage must lie between 0 and 1; got {coverage}"):
            ask(X, coverage=coverage)


@pytest.mark.parametrize("levels", [[0.5, 1.5], [-0.1], [math.nan], [50]])
def test_a_level_outside_0_and_1_is_refused(levels: list[float]) -> None:
    """50 is no level."""
    X, y = rows()
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match=r"^levels must (lie in \[0, 1\]; got|not be NaN)"):
        model.predict_quantiles(X, levels)


def test_hdr_of_several_targets_is_refused() -> None:
    """An HDR of two targets is no set of intervals."""
    X, y = rows(dims=2)
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match="hdr needs one target dimension; this mixture has 2"):
        model.predict_hdr(X)


# -- the floor --------------------------------------------------------------------------------


def floor_of(model: MDNRegressor) -> float:
    """The floor of the scales, in standard deviations of y."""
    (floor,) = set((model.min_scale_ / model.target_.scale.numpy()).tolist())
    return floor


@pytest.mark.filterwarnings("ignore:.* of y are tied values:UserWarning")
@pytest.mark.parametrize("step", [0.1, 0.5])
def test_a_rounded_y_raises_the_floor_to_a_twentieth_of_its_step(step: float) -> None:
    """In standard deviations of y; the user's larger floor stands; an exact y has the default."""
    X, y = rows(400)
    grid = np.round(y / step) * step
    model = regressor(max_epochs=1).fit(X, grid)
    assert floor_of(model) == pytest.approx(0.05 * step / grid.std(), rel=1e-5)
    assert floor_of(regressor(max_epochs=1, min_scale=0.3).fit(X, grid)) == 0.3
    assert floor_of(regressor(max_epochs=1).fit(X, y)) == 1e-3


@pytest.mark.filterwarnings("ignore:.* of y are tied values:UserWarning")
def test_the_coarsest_target_sets_the_floor_of_several() -> None:
    """D = 3, two of them rounded: in standard deviations, by the step of the coarser."""
    X, y = rows(400, dims=3)
    y[:, 0] = np.round(y[:, 0] * 2) / 2
    y[:, 1] = np.round(y[:, 1] * 10) / 10
    model = regressor(max_epochs=1).fit(X, y)
    floor = (model.min_scale_ / model.target_.scale.numpy()).min()
    assert floor == pytest.approx(0.05 * 0.5 / y[:, 0].std(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.* of y are tied values:UserWarning")
def test_a_rounded_y_cannot_send_the_nll_to_minus_infinity() -> None:
    """Whole numbers, 100 epochs: no density exceeds the one of a component at the floor.

    The floor is 0.05 of the step of 1, so the log density is at most -log(0.05 sqrt(2 pi)).
    """
    X, y = rows()
    y = np.round(y)
    model = regressor(max_epochs=100, learning_rate=0.02).fit(X, y)
    assert model.log_prob(X, y).max() <= -math.log(0.05 * math.sqrt(2 * math.pi)) + 1e-6


# -- learning ---------------------------------------------------------------------------------


def test_it_learns_two_branches_and_their_noise() -> None:
    """y = +-(1 + x) with noise 0.1, x in [0, 1]: bimodal, and near the best NLL there is.

    The truth's own NLL is log 2 + log(0.1 sqrt(2 pi e)) = -0.19. The mean over 500 fresh rows has a
    standard deviation of 0.03, so a model below truth by 0.15 would be a wrong NLL.
    """
    rng = np.random.default_rng(0)
    X = rng.random((1000, 1))
    y = rng.choice([-1, 1], 1000) * (1 + X[:, 0]) + 0.1 * rng.normal(size=1000)
    model = regressor(n_components=2, hidden=(16,), max_epochs=60, learning_rate=0.01)
    model.fit(X[:500], y[:500])
    truth = math.log(2) + math.log(0.1 * math.sqrt(2 * math.pi * math.e))
    assert truth - 0.15 < model.nll(X[500:], y[500:]) < truth + 0.15
    modes = model.predict_distribution([[0.5]]).modes()
    np.testing.assert_allclose(np.sort(modes.loc[0, :2, 0].numpy()), [-1.5, 1.5], atol=0.1)
    # what else stands out is the background component, of small weight
    assert not (modes.log_density[0, 2:] > modes.log_density[0, 1] - 4).any()
    assert abs(model.predict([[0.5]])[0]) < 0.4
    assert abs(model.predict_mode([[0.5]])[0]) == pytest.approx(1.5, abs=0.1)
    intervals = model.predict_hdr([[0.5]], 0.9).intervals
    intervals = intervals[0][np.isfinite(intervals[0]).all(1)]
    np.testing.assert_allclose(np.sort(intervals.mean(1)), [-1.5, 1.5], atol=0.1)


def test_verbose_shows_progress_on_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Silent by default; with verbose, it writes to standard error."""
    regressor().fit(*rows())
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    regressor(verbose=True).fit(*rows())
    loud = capsys.readouterr()
    assert loud.out == ""
    assert "networks 1 of 1" in loud.err and "5/5" in loud.err
    regressor(verbose=True, **TREES).fit(*rows(30))
    loud = capsys.readouterr()
    assert loud.out == "" and "trees" in loud.err


# -- the package's face -----------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    """__all__ holds no name twice, each resolves, and dir() shows each."""
    assert len(set(mdn.__all__)) == len(mdn.__all__)
    for name in mdn.__all__:
        assert getattr(mdn, name) is not None
    assert set(mdn.__all__) <= set(dir(mdn))


def test_the_face_hands_out_the_modules_own_objects() -> None:
    """mdn.X is the X of its module, lazy or not."""
    from mdn import distribution, estimator, io, nn, train

    assert mdn.MDNRegressor is estimator.MDNRegressor
    assert mdn.MDN is nn.MDN
    assert mdn.MDNHead is nn.MDNHead
    assert mdn.CategoricalHead is nn.CategoricalHead
    assert mdn.GaussianMixture is distribution.GaussianMixture
    assert mdn.fit is train.fit
    assert (mdn.save, mdn.load) == (io.save, io.load)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Not an ImportError: hasattr has to work."""
    with pytest.raises(AttributeError, match="module 'mdn' has no attribute 'banana'"):
        mdn.banana  # noqa: B018
    assert not hasattr(mdn, "banana")


def test_the_version_is_three_numbers() -> None:
    """A literal that packaging tools read without importing."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", mdn.__version__)


# -- base models and the plan that follows from them --------------------------------------------


def epochs_planned(
    monkeypatch: pytest.MonkeyPatch, x: np.ndarray, y: np.ndarray, **options: Any
) -> tuple[MDNRegressor, list[int]]:
    """A short fit, and the most epochs that it would have given each group."""
    planned: list[int] = []

    def record(*args: Any, **given: Any) -> Any:
        planned.append(given["max_epochs"])
        return fit_ensemble(*args, **{**given, "max_epochs": 2})

    with monkeypatch.context() as patch:
        patch.setattr(_training, "fit_ensemble", record)
        model = MDNRegressor(preset="fast", random_state=0, **options).fit(x, y)
    return model, planned


def additive_rows(noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (200, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] + noise * rng.normal(size=200)


def has_trees(model: MDNRegressor) -> bool:
    return len(model.model_.base_models.forests) > 0


def n_processes(model: MDNRegressor) -> int:
    return len(model.model_.base_models.processes)


def test_a_target_without_noise_is_trained_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user says for how long; the out-of-fold error of the base models decides."""
    for noise, options, wanted in (
        (0.0, {}, [360]),
        (0.0, {"max_epochs": 50}, [50]),
        (0.3, {}, [120, 120]),
        (0.3, {"max_epochs": 50}, [50, 50]),
    ):
        assert epochs_planned(monkeypatch, *additive_rows(noise), **options)[1] == wanted


def test_where_the_process_leaves_no_error_no_tree_is_grown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One group of as many networks as are wanted, saved and gone on from like any other.

    Half of it, if it is large enough, does not take the predictions of the process.
    """
    X, y = additive_rows(0.0)
    for size, parts in ((None, [4, 4]), (9, [4, 5]), (8, [4, 4]), (5, [5]), (2, [2]), (1, [1])):
        options, members = {"ensemble_size": size}, sum(parts)
        model, _ = epochs_planned(monkeypatch, X, y, **options)
        assert not has_trees(model)
        assert n_processes(model) == 1
        assert model.n_networks_ == members
        assert model.model_.subgroup_sizes[0] == parts and len(model.model_.groups) == 1
        before = model.model_.members(X)[0]
        model.model_.base_models.shift += 1  # as if the process predicted something else
        after = model.model_.members(X)[0]
        moved = (after.mean != before.mean).flatten(1).any(1)
        assert moved.tolist() == [m >= members - moved.sum() for m in range(members)]
        assert int(moved.sum()) == parts[-1]
    model = MDNRegressor(preset="fast", random_state=0).fit(X[:150], y[:150])
    assert not has_trees(model)
    assert np.sqrt(np.mean((model.predict(X[150:]) - y[150:]) ** 2)) < 0.1 * y.std()
    mdn.save(model, tmp_path / "model.mdn")
    assert (mdn.load(tmp_path / "model.mdn").predict(X) == model.predict(X)).all()


@pytest.mark.filterwarnings("ignore:warm_start was given other rows:UserWarning")
def test_warm_start_survives_that_trees_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the new rows brings trees back; without it, or when not wanted, they go again."""
    model = MDNRegressor(preset="fast", random_state=0, warm_start=True, max_epochs=2)
    for noise, wanted, groups in ((0.0, True, 1), (0.3, True, 2), (0.0, True, 1), (0.3, True, 2)):
        X, y = additive_rows(noise)
        model.set_params(trees=wanted).fit(X, y)
        assert len(model.model_.groups) == groups
        assert has_trees(model) == (groups == 2)
        assert np.isfinite(model.log_prob(X, y)).all()
    model.set_params(trees=False).fit(X, y)
    assert len(model.model_.groups) == 1 and not has_trees(model) and n_processes(model) == 0
    assert np.isfinite(model.log_prob(X, y)).all()


def test_fast_fits_a_process_to_some_rows_to_see_whether_there_is_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From so many rows on its predictions are not used, but trees may be left out."""
    monkeypatch.setattr(_plan, "_MAX_FAST_PROCESS_ROWS", 100)
    for noise, groups in ((0.0, [[8]]), (0.3, [[8], [8]])):
        X, y = additive_rows(noise)
        weight = np.ones(200)
        for options in ({}, {"sample_weight": weight}):
            model = MDNRegressor(preset="fast", random_state=0, max_epochs=3).fit(X, y, **options)
            assert n_processes(model) == 0
            assert has_trees(model) == (noise > 0)
            assert [group.subgroup_sizes for group in model.model_.groups] == groups
        mdn.save(model, tmp_path / "model.mdn")
        assert (mdn.load(tmp_path / "model.mdn").predict(X) == model.predict(X)).all()


def test_low_noise_seen_by_trees_alone_keeps_both_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step function, with more columns than a process takes."""
    X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    monkeypatch.setattr(_base_models, "_MAX_PROCESS_COLUMNS", 1)
    X[:, 0] += np.sign(X[:, 0])  # nothing between the two sides
    model, planned = epochs_planned(monkeypatch, X, np.sign(X[:, 0]) + 0.01 * X[:, 1])
    assert n_processes(model) == 0
    assert has_trees(model)
    assert planned == [360, 360]


def test_fast_takes_larger_steps_where_rows_are_not_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user says how large."""
    asked = []

    def record(*args: Any, **given: Any) -> Any:
        asked.append((given["batch_size"], given["lr"]))
        return fit_ensemble(*args, **{**given, "max_epochs": 1})

    monkeypatch.setattr(_training, "fit_ensemble", record)
    rng = np.random.default_rng(0)
    for n, options, wanted in (
        (300, {}, (None, 7e-3)),
        (800, {}, (128, 1e-2)),
        (800, {"batch_size": 32, "learning_rate": 1e-3}, (32, 1e-3)),
    ):
        asked.clear()
        MDNRegressor(preset="fast", **options).fit(rng.normal(size=(n, 2)), rng.normal(size=n))
        assert asked == [wanted, wanted]


@pytest.mark.parametrize(
    ("n", "rate", "epochs", "members"),
    [(300, 7e-3, 800, 24), (900, 1e-2, 200, 24), (9000, 1e-2, 200, 16)],
)
def test_the_default_trains_slowly_where_there_is_no_noise(
    n: int, rate: float, epochs: int, members: int
) -> None:
    """And with smaller steps, unless the user says otherwise; a process may only tell the noise."""
    given = MDNRegressor().get_params(deep=False)
    settings = _validation.checked_settings(given)
    usual = _plan.plan(n, settings)
    assert (usual.learning_rate, usual.max_epochs, usual.patience) == (rate, 100, 20)
    assert usual.uses_process == (n < 9000) and usual.process_rows == min(n, 1000)
    longer = usual.with_longer_training(n, settings)
    assert (longer.learning_rate, longer.max_epochs, longer.batch_size) == (5e-3, epochs, None)
    assert longer.patience == epochs // 5
    alone = longer.without_trees(settings, with_process=usual.uses_process)
    assert [group.members for group in alone.groups] == [members]
    asked = {"learning_rate": 0.1, "batch_size": 7, "max_epochs": 3, "patience": 2}
    settings = _validation.checked_settings({**given, **asked})
    longer = _plan.plan(n, settings).with_longer_training(n, settings)
    assert asked == {name: getattr(longer, name) for name in asked}


def test_the_noise_is_judged_by_the_best_base_model_of_the_worst_target() -> None:
    """One target without noise and one with: training is no longer than usual."""
    X, y = additive_rows(0.0)
    noisy = additive_rows(0.3)[1]
    options = {"preset": "fast", "max_epochs": 2, "ensemble_size": 4, "random_state": 0}
    assert not has_trees(MDNRegressor(**options).fit(X, np.stack([y, 2 * y], 1)))
    assert has_trees(MDNRegressor(**options).fit(X, np.stack([y, noisy], 1)))
    weight = np.where(np.arange(200) < 150, 1.0, 1e-9)  # rows count by their weight
    mixed = np.where(np.arange(200) < 150, y, noisy)
    assert not has_trees(MDNRegressor(**options).fit(X, mixed, sample_weight=weight))


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_a_column_that_says_nothing_teaches_nothing(levels: int) -> None:
    """The predictions of the base models for a row must not reveal its own y.

    Pure noise: no model can beat the entropy of a Gaussian, 1.419 nats, on new rows; one that reads
    y off the out-of-fold predictions loses nats by the dozen.  Seeds are fixed; over seeds the NLL
    stays within 0.06 of the entropy.
    """
    rng = np.random.default_rng(levels)
    X = rng.integers(0, levels, (1500, 1)).astype(float)
    y = rng.normal(size=1500)
    model = MDNRegressor(preset="fast", random_state=0).fit(X[:300], y[:300])
    entropy = 0.5 * np.log(2 * np.pi * np.e)
    assert abs(model.nll(X[300:], y[300:]) - entropy) < 0.15


# -- values far outside the range of training -------------------------------------------------


@pytest.mark.parametrize("options", [{}, TREES], ids=["networks", "base models"])
def test_a_column_that_never_varied_has_no_influence(options: dict[str, Any]) -> None:
    """Constant numbers and booleans: predictions stay bit for bit, and a warning counts rows."""
    X, y = rows(80)
    frame = pd.DataFrame({"a": X[:, 0], "b": 0.1, "flag": True})
    model = regressor(**options).fit(frame, y)
    other = frame.assign(b=[0.1] * 75 + [500.0] * 5, flag=[True] * 79 + [False])
    message = (
        "column 'b' (5 rows, the first 500 in row 75; training 0.1 to 0.1), column 'flag' (1 row, "
        "the first 0 in row 79; training 1 to 1)"
    )
    with pytest.warns(mdn.DataWarning, match=re.escape(message)):
        found = model.predict_distribution(other)
    expected = model.predict_distribution(frame)
    assert torch.equal(found.loc, expected.loc)
    assert torch.equal(found.scale, expected.scale)


def test_an_unseen_category_of_a_single_one_has_no_influence() -> None:
    """A column of one category is constant too; the warning is that of unseen categories."""
    X, y = rows(60)
    frame = pd.DataFrame({"a": X[:, 0], "c": "red"})
    model = regressor().fit(frame, y)
    with pytest.warns(mdn.DataWarning, match="has categories that training had not") as caught:
        found = model.predict(frame.assign(c="blue"))
    assert len(caught) == 1
    np.testing.assert_array_equal(found, model.predict(frame))


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_a_column_of_noise_at_rounding_level_has_a_bounded_influence(centre: float) -> None:
    """Noise of 1e-9 in training, 0.001 more at predict: as at three widths beyond the range."""
    X, y = rows(100)
    X[:, 1] = centre + 1e-9 * X[:, 1]
    model = regressor(max_epochs=40).fit(X, y)
    far, limit = X.copy(), X.copy()
    far[:, 1] += 1e-3
    limit[:, 1] = X[:, 1].max() + 3 * np.ptp(X[:, 1])
    with pytest.warns(mdn.DataWarning, match=r"outside the range of training: column 1 \(100 rows"):
        found = model.predict(far)
    np.testing.assert_allclose(found, model.predict(limit), rtol=1e-5)
    assert np.abs(found - model.predict(X)).max() < 3 * y.std()  # it was above 10,000


def test_a_combination_that_hardly_varied_has_a_bounded_influence() -> None:
    """x1 = x0 + 1e-4 noise in training, whitened there; x1 = x0 + 1 is within each range."""
    X, y = rows(300)
    X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    model = regressor().fit(X, y)
    assert model.model_.inputs.whitening.shape == (2, 2)
    inside = X[np.abs(X[:, 0]) < 1][:20]
    message = r"a combination of column 0, column 1 that hardly varied in training \(20 rows"
    with pytest.warns(mdn.DataWarning, match=message):
        found = model.predict(inside + np.array([0.0, 1.0]))
    assert np.abs(found - model.predict(inside)).max() < 5 * y.std()


@pytest.mark.filterwarnings("error")
def test_ordinary_rows_are_not_far_outside() -> None:
    """10,000 normal rows after 30, float32 for float64, and a grid to three widths beyond."""
    X, y = rows(30)
    X = np.column_stack([X, np.full(30, 0.1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant column, 30 rows
        model = regressor().fit(X, y)
    fresh = np.column_stack([rows(10_000, seed=1)[0], np.full(10_000, 0.1)])
    model.predict(fresh[:2000])
    model.predict(fresh.astype(np.float32)[:2000])
    assert not model.model_.inputs.far(fresh).any()


@pytest.mark.parametrize("far", [1e3, 1e7])
def test_one_far_target_does_not_widen_the_density_of_the_others(far: float) -> None:
    X, y = rows(n=80)
    y[3] = far
    with pytest.warns(mdn.DataWarning, match="1 of 80 values of y lie far"):
        model = MDNRegressor(preset="fast", random_state=0, n_jobs=1).fit(X, y)
    fresh_X, fresh_y = rows(n=1000, seed=1)
    low, high = model.predict_interval(fresh_X, 0.9).T
    assert 0.85 < np.mean((low <= fresh_y) & (fresh_y <= high)) < 0.97
    others = np.arange(80) != 3
    without = MDNRegressor(preset="fast", random_state=0, n_jobs=1).fit(X[others], y[others])
    assert model.nll(fresh_X, fresh_y) < without.nll(fresh_X, fresh_y) + 0.1
    assert model.log_prob(X[3:4], y[3:4]) > -60  # it is not excluded


def test_a_long_tailed_target_is_learnt_near_its_entropy() -> None:
    """log y normal with deviation 1.8: the differential entropy is E mu + log(1.8 sqrt(2 pi e))."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2600, 1))
    y = np.exp(X[:, 0] + 1.8 * rng.normal(size=2600))
    with pytest.warns(mdn.DataWarning, match="take target='positive'"):
        model = MDNRegressor(preset="fast", random_state=0, n_jobs=1).fit(X[:600], y[:600])
    entropy = X[600:].mean() + math.log(1.8 * math.sqrt(2 * math.pi * math.e))
    assert model.nll(X[600:], y[600:]) < entropy + 0.4


def test_outliers_of_a_feature_do_not_hide_its_other_rows() -> None:
    """Ten counts of 1e5 to 1e7 among 300, networks alone: the NLL stays near 0.5 log(2 pi e s^2).

    Without the column it is 1.1, as it was before the tails were compressed.
    """
    rng = np.random.default_rng(0)
    count = rng.poisson(6, 1300).astype(float)
    X = np.column_stack([count, rng.normal(size=1300)])
    y = np.sin(count / 2) + 0.3 * rng.normal(size=1300)
    X[:10, 0] = 10 ** np.linspace(5, 7, 10)
    model = regressor(hidden=(32,), ensemble_size=4, max_epochs=100, n_components=1)
    model.fit(X[:300], y[:300])
    truth = 0.5 * math.log(2 * math.pi * math.e * 0.3**2)
    assert model.nll(X[300:], y[300:]) < truth + 0.2
    weighted = regressor(max_epochs=1).fit(X[:300], y[:300], sample_weight=rng.uniform(1, 2, 300))
    assert weighted.model_.inputs.tails[1].tolist() == [pytest.approx(2 / 0.6745, rel=1e-3), 0.0]
    before = {k: v for k, v in model.state()[1].items() if not re.search("tails|low|high", k)}
    older = MDNRegressor.from_state(model.state()[0], before)
    assert not older.model_.inputs.tails.any()
    assert np.isfinite(older.predict(X)).all()


def test_numbers_as_text_are_the_numbers() -> None:
    """A column of "1,5" predicts what a column of 1.5 does, with a warning at fit."""
    X, y = rows(60)
    X = X.round(2)
    numbers = pd.DataFrame(X, columns=["a", "b"])
    text = numbers.assign(a=[f"{v:.2f}".replace(".", ",") for v in X[:, 0]])
    with pytest.warns(mdn.DataWarning, match=r"numbers as text.*column 'a' \(decimal comma"):
        model = regressor().fit(text, y)
    expected = regressor().fit(numbers, y).predict(numbers)
    np.testing.assert_array_equal(model.predict(text), expected)
    np.testing.assert_array_equal(model.predict(numbers), expected)
    with pytest.raises(ValueError, match=r"row 0 is '1,5'.*y.str.replace\(',', '.'\).astype"):
        regressor().fit(X[:2], pd.Series(["1,5", "2"]))

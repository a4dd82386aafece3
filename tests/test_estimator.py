"""Tests of MDNRegressor and of the package's face: shapes, units, randomness, every refusal."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
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

FAST: dict[str, Any] = {
    "n_components": 3,
    "hidden": (8,),
    "ensemble_size": 2,
    "trees": False,
    "max_epochs": 5,
    "random_state": 0,
}
TREES: dict[str, Any] = {"trees": True, "preset": "fast"}


def regressor(**options: Any) -> MDNRegressor:
    return MDNRegressor(**{**FAST, **options})


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


def test_hdr_is_arrays_and_holds_its_coverage() -> None:
    """One target: intervals (N, K, 2), NaN-padded, whose probabilities sum to the coverage."""
    X, y = rows()
    model = regressor().fit(X, y)
    region = model.predict_hdr(X[:20], coverage=0.7)
    assert isinstance(region.intervals, np.ndarray)
    assert isinstance(region.threshold, np.ndarray)
    assert region.intervals.shape == (20, 7, 2)  # 2 networks of 3 components and the broad one
    assert region.threshold.shape == (20,)
    assert region.coverage == 0.7
    dist = model.predict_distribution(X[:20])
    ends = torch.as_tensor(region.intervals)
    mass = torch.zeros(20, dtype=torch.float64)
    for k in range(7):
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


@pytest.mark.filterwarnings("ignore:.* of y sits on heaps:UserWarning")
def test_a_rounded_target_keeps_the_law_of_units() -> None:
    """Minutes to hours: the floor of a rounded y moves with it."""
    X, y = rows()
    y = np.round(y, 1)
    found = {c: regressor().fit(X, y * c).nll(X, y * c) for c in (1.0, 60.0, 1 / 60)}
    assert found[60.0] == pytest.approx(found[1.0] + math.log(60), abs=1e-9)
    assert found[1 / 60] == pytest.approx(found[1.0] - math.log(60), abs=1e-9)


@pytest.fixture(scope="module")
def friedman() -> tuple[np.ndarray, ...]:
    """Rows for the whole model: 150 to train, 500 to score, three columns of unlike size."""
    rng = np.random.default_rng(3)
    X = rng.random((650, 3)) * [1.0, 100.0, 0.01] + [0.0, 1000.0, 0.0]
    wave = np.sin(6 * X[:, 0]) + 2 * (X[:, 1] > 1050) * X[:, 0]
    y = wave + (0.1 + 0.3 * X[:, 0]) * rng.normal(size=650)
    return X[:150], y[:150], X[150:], y[150:]


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
        (1.0, 0.0, 1e-6, 0.0),
        (1.0, 0.0, 1e6, 0.0),
        (1e-6, 0.0, 1.0, 0.0),
        (1e6, 0.0, 1.0, 0.0),
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


@parametrize_with_checks(
    [
        MDNRegressor(
            2,
            (8,),
            ensemble_size=2,
            preset="fast",
            learning_rate=0.03,
            max_epochs=15,
            random_state=0,
        )
    ]
)
@pytest.mark.filterwarnings("ignore:y is constant:UserWarning")
@pytest.mark.filterwarnings("ignore:.* of y sits on heaps:UserWarning")
@pytest.mark.filterwarnings("ignore:.* rows are few:UserWarning")
def test_scikit_learn_accepts_the_estimator(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scikit-learn's own conformance checks, none of them excused or skipped."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it one check skips itself
    check(estimator)


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
    twice = TransformedTargetRegressor(direct, func=np.sinh, inverse_func=np.arcsinh).fit(X, y)
    assert twice.predict(X).shape == (120,)


def test_feature_names_are_kept_and_checked() -> None:
    """DataFrame in: names are learned; another order or other names are refused."""
    X, y = rows()
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = regressor().fit(frame, pd.Series(y))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(model.predict(frame), regressor().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a"]])
    with pytest.raises(ValueError, match="feature names should match"):
        model.log_prob(frame.rename(columns={"a": "c"}), y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


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


def test_a_row_of_weight_zero_does_not_exist() -> None:
    """Rows of weight 0, however far out, leave the model bit for bit as it is without them."""
    X, y = rows()
    X_more = np.concatenate([X, [[1e6, -1e6]] * 10])
    y_more = np.concatenate([y, [1e9] * 10])
    weight = np.concatenate([np.full(120, 2.0), np.zeros(10)])
    order = np.argsort(np.r_[np.arange(120), np.arange(10) * 12.5], kind="stable")
    with_them = regressor().fit(X_more[order], y_more[order], sample_weight=weight[order])
    without = regressor().fit(X, y, sample_weight=np.full(120, 2.0))
    np.testing.assert_array_equal(with_them.predict(X), without.predict(X))
    assert with_them.history_.val_nll == without.history_.val_nll


def test_equal_weights_are_no_weights() -> None:
    """A weight of 1, or 7, for each row changes nothing but rounding."""
    X, y = rows()
    plain = regressor().fit(X, y).predict(X)
    for value in (1.0, 7.0):
        weighted = regressor().fit(X, y, sample_weight=np.full(120, value)).predict(X)
        np.testing.assert_allclose(weighted, plain, rtol=0, atol=1e-4)


def test_weights_draw_the_density_to_the_heavy_rows() -> None:
    """Two groups at -5 and 5 with weights 9 and 1: the heavy one gets near 9/10 of the mass."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1))
    side = np.arange(400) % 2
    y = np.where(side, 5.0, -5.0) + 0.3 * rng.normal(size=400)
    model = regressor(n_components=2, max_epochs=60, learning_rate=0.02)
    model.fit(X, y, sample_weight=np.where(side, 1.0, 9.0))
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


# -- refused data -----------------------------------------------------------------------------


def spoiled(which: str, value: float, dims: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X, y = rows(dims=dims)
    if which == "X":
        X[[17, 90], [1, 0]] = value
    else:
        y[17] = y[90] = value
    return X, y


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_values_that_are_not_finite_are_refused_with_their_row(value: float, name: str) -> None:
    """NaN and inf in X or y, at fit, predict and log_prob: the message names the first row."""
    cure = "; drop or impute such rows"
    in_x = f"X must be finite, but contains {name} in row 17, column 1{cure}"
    in_y = f"y must be finite, but contains {name} in row 17{cure}"
    model = regressor().fit(*rows())
    X, y = rows()
    bad_X, bad_y = spoiled("X", value)[0], spoiled("y", value)[1]
    for call in (
        lambda: regressor().fit(bad_X, y),
        lambda: model.predict(bad_X),
        lambda: model.log_prob(bad_X, y),
    ):
        with pytest.raises(ValueError, match=re.escape(in_x)):
            call()
    for call in (
        lambda: regressor().fit(X, bad_y),
        lambda: regressor().fit(X, pd.Series(bad_y)),
        lambda: model.log_prob(X, bad_y),
        lambda: model.nll(X, bad_y),
    ):
        with pytest.raises(ValueError, match=re.escape(in_y)):
            call()
    with pytest.raises(ValueError, match=f"y must be finite.* {name} in row 17, column 0"):
        regressor().fit(*spoiled("y", value, dims=2))


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
        (lambda X, y: (X, np.full(120, "a")), "could not convert string to float"),
    ],
)
def test_data_that_do_not_fit_are_refused(spoil: Any, message: str) -> None:
    """Lengths, emptiness, one row, dimensions, text."""
    with pytest.raises(ValueError, match=message):
        regressor().fit(*spoil(*rows()))


def test_two_rows_are_enough() -> None:
    """One to learn from, one to stop by: no error, finite numbers."""
    X, y = rows(n=2)
    model = regressor().fit(X, y)
    assert np.isfinite(model.log_prob(X, y)).all()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9])
@pytest.mark.parametrize("dims", [0, 2])
def test_constant_y_is_fitted_with_a_warning(value: float, dims: int) -> None:
    """All the mass lies on the value, at the floor, and the user is told."""
    X, y = rows(dims=dims)
    y = np.full_like(y, value)
    with pytest.warns(UserWarning, match=r"y is constant \(.*as narrow as its floor") as caught:
        model = regressor().fit(X, y)
    assert len(caught) == 1
    assert f"({value:g})" in str(caught[0].message)
    assert caught[0].filename == __file__
    size = abs(value) or 1.0
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, y, rtol=0, atol=0.05 * size)
    assert (std < 0.05 * size).all()
    assert np.isfinite(model.log_prob(X, y)).all()


def test_a_varying_y_gives_no_warning() -> None:
    """No other warning comes from fit or from any prediction."""
    X, y = rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = regressor().fit(X, y)
        model.predict_hdr(X)
        model.predict_mode(X)
        regressor().fit(X, (y > 0).astype(float))
        regressor().fit(X, np.stack([y > 0, y > 1], 1).astype(float))


def test_a_constant_column_of_x_changes_nothing_else() -> None:
    """It is fitted; a new value of that column is no reason for infinite numbers."""
    X, y = rows()
    X = np.column_stack([X, np.full(120, 1e6)])
    model = regressor().fit(X, y)
    assert np.isfinite(model.log_prob(X, y)).all()
    X[:, 2] += 1.0
    assert np.isfinite(model.log_prob(X, y)).all()


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
        ({"n_components": 2.5}, TypeError, "n_components must be an integer; got float"),
        (
            {"covariance_type": "spherical"},
            ValueError,
            "covariance_type must be one of 'diagonal', 'isotropic'.*got 'spherical'",
        ),
        ({"min_scale": -0.1}, ValueError, "min_scale must be positive and finite; got -0.1"),
        ({"min_scale": 0.0}, ValueError, "min_scale must be positive and finite; got 0"),
        ({"min_scale": math.nan}, ValueError, "min_scale must be positive and finite; got nan"),
        ({"hidden": (8, 0)}, ValueError, r"hidden\[1\] must be at least 1; got 0"),
        ({"hidden": 8}, TypeError, "hidden must be a sequence of widths.*got 8"),
        ({"validation_fraction": 0.0}, ValueError, "validation_fraction must lie between 0 and 1"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must lie between 0 and 1"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be a whole number of at least 1; got 0"),
        ({"patience": 0}, ValueError, "patience must be a whole number of at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1; got 0"),
        ({"learning_rate": -1.0}, ValueError, "lr must be positive and finite; got -1"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must not be negative; got -1"),
        ({"random_state": "x"}, ValueError, "'x' cannot be used to seed"),
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
    with pytest.raises(ValueError, match=re.escape(f"levels must lie in [0, 1]; got {levels}")):
        model.predict_quantiles(X, levels)


def test_hdr_of_several_targets_is_refused() -> None:
    """An HDR of two targets is no set of intervals."""
    X, y = rows(dims=2)
    model = regressor().fit(X, y)
    with pytest.raises(ValueError, match="hdr needs one target dimension; this mixture has 2"):
        model.predict_hdr(X)


# -- the floor --------------------------------------------------------------------------------


def floor_of(y: np.ndarray, **options: Any) -> float:
    """The floor of the scales in y's unit."""
    model = regressor(max_epochs=1, **options).fit(rows(len(y))[0], y)
    return float(model.model_.head.min_scale * model.model_.y_scale.max())


def test_a_rounded_y_raises_the_floor_to_its_rounding_error() -> None:
    """y on a grid of step h carries an error of standard deviation h / sqrt(12)."""
    y = rows(400)[1]
    for step in (0.05, 0.1, 0.5):
        grid = np.round(y / step) * step
        assert floor_of(grid) == pytest.approx(step / math.sqrt(12), rel=1e-6)
    assert floor_of(y) == pytest.approx(1e-3 * y.std(), rel=1e-6)


def test_the_users_larger_floor_stands() -> None:
    """The floor is the larger of min_scale and the rounding error."""
    y = rows(400)[1]
    assert floor_of(y, min_scale=0.3) == pytest.approx(0.3 * y.std(), rel=1e-6)
    grid = np.round(y, 1)
    assert floor_of(grid, min_scale=0.3) == pytest.approx(0.3 * grid.std(), rel=1e-6)


def test_the_coarsest_target_sets_the_floor_of_several() -> None:
    """D = 3, two of them rounded: in standard deviations, the rounding error of the coarser."""
    X, y = rows(400, dims=3)
    y[:, 0] = np.round(y[:, 0] * 2) / 2
    y[:, 1] = np.round(y[:, 1] * 10) / 10
    model = regressor(max_epochs=1).fit(X, y)
    expected = 0.5 / math.sqrt(12) / y[:, 0].std()
    assert model.model_.head.min_scale == pytest.approx(expected, rel=1e-6)


def test_a_rounded_y_cannot_send_the_nll_to_minus_infinity() -> None:
    """Ten values, 300 epochs: no density exceeds the one of a component on its value.

    The floor is h / sqrt(12) = 0.289 h, so the log density is at most
    -log(0.289 h sqrt(2 pi)) = 0.32 - log h.
    """
    X, y = rows()
    y = np.round(y)
    model = regressor(max_epochs=100, learning_rate=0.02).fit(X, y)
    assert model.log_prob(X, y).max() <= -math.log(math.sqrt(2 * math.pi / 12)) + 1e-6


# -- learning ---------------------------------------------------------------------------------


def test_it_learns_two_branches_and_their_noise() -> None:
    """y = +-(1 + x) with noise 0.1, x in [0, 1]: bimodal, and near the best NLL there is.

    The truth's own NLL is log 2 + log(0.1 sqrt(2 pi e)) = -0.19. The mean over 500 fresh rows has a
    standard deviation of 0.03, so a model below truth by 0.15 would be a wrong NLL.
    """
    rng = np.random.default_rng(0)
    X = rng.random((1000, 1))
    y = rng.choice([-1, 1], 1000) * (1 + X[:, 0]) + 0.1 * rng.normal(size=1000)
    model = MDNRegressor(2, (16,), max_epochs=100, learning_rate=0.01, random_state=0)
    model.fit(X[:500], y[:500])
    truth = math.log(2) + math.log(0.1 * math.sqrt(2 * math.pi * math.e))
    assert truth - 0.15 < model.nll(X[500:], y[500:]) < truth + 0.15
    modes = np.sort(model.predict_distribution([[0.5]]).modes().loc[0, :, 0].numpy())
    np.testing.assert_allclose(modes, [-1.5, 1.5], atol=0.1)
    assert abs(model.predict([[0.5]])[0]) < 0.4
    assert abs(model.predict_mode([[0.5]])[0]) == pytest.approx(1.5, abs=0.1)
    intervals = model.predict_hdr([[0.5]], 0.9).intervals
    np.testing.assert_allclose(np.sort(intervals[0].mean(1)), [-1.5, 1.5], atol=0.1)


def test_verbose_shows_progress_on_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Silent unless asked; asked, it is standard error that hears."""
    regressor().fit(*rows())
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    regressor(verbose=True).fit(*rows())
    loud = capsys.readouterr()
    assert loud.out == ""
    assert "epoch" in loud.err


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

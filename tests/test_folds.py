"""Tests of the rows that belong together: copies, groups, and the folds they are dealt over."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import config_context
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mdn
from mdn import MDNRegressor
from mdn.calibration import out_of_fold
from mdn.estimator import _base_models, _training
from mdn.tables._folds import deal, find_copies, fold_groups, group_codes, join_groups

SMALL: dict[str, Any] = {"preset": "fast", "max_epochs": 2, "random_state": 0, "n_jobs": 1}


def rows(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 2) and y near x0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, X[:, 0] + 0.2 * rng.normal(size=n)


def persons(n: int = 20, each: int = 10, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows of persons: X is theirs, y has an effect of the person and noise of the row."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), each)
    X = rng.normal(size=(n, 2))[who]
    return X, X[:, 0] + rng.normal(size=n)[who] + 0.2 * rng.normal(size=n * each), who


# -- copies ---------------------------------------------------------------------------------------


def test_copies_of_continuous_rows_are_found() -> None:
    """A bootstrap sample has as many numbers as rows that were drawn, and equal ones agree."""
    X, y = rows(200)
    drawn = np.random.default_rng(1).integers(0, 200, 200)
    copies = find_copies(X[drawn], y[drawn])
    assert copies is not None
    assert len(np.unique(copies)) == len(np.unique(drawn))
    assert len(set(zip(copies.tolist(), drawn.tolist(), strict=True))) == len(np.unique(drawn))
    assert find_copies(X, y) is None


@pytest.mark.parametrize("kind", ["whole y", "zeros", "levels of x", "a gap"])
def test_copies_are_found_where_only_y_or_only_x_repeats(kind: str) -> None:
    """Whole-number y under continuous x; continuous y at few x; NaN equals NaN."""
    X, y = rows(100)
    if kind == "whole y":
        y = np.round(3 * y)
    elif kind == "zeros":
        y = np.where(y < 1, 0.0, y)
    elif kind == "levels of x":
        X = np.round(X)
    else:
        y[::3] = np.nan
    assert find_copies(X, y) is None
    drawn = np.random.default_rng(1).integers(0, 100, 100)
    copies = find_copies(X[drawn], y[drawn])
    assert copies is not None and len(np.unique(copies)) == len(np.unique(drawn))


@pytest.mark.parametrize("kind", ["counts", "zeros", "doses", "cases", "constant x", "coarse"])
def test_rows_that_are_equal_by_chance_are_no_copies(kind: str) -> None:
    """Few values by nature: observations of their own, however many are equal."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(600, 3)).astype(float)
    if kind == "counts":
        y = rng.poisson(np.exp(0.5 * X[:, 0]))
    elif kind == "zeros":  # 90 % of y
        y = np.where(rng.random(600) < 0.9, 0.0, rng.normal(size=600))
    elif kind == "doses":  # far apart, y rounded to about its noise
        X = X[:, :1]
        y = np.round(X[:, 0] + 0.1 * rng.normal(size=600), 1)
    elif kind == "cases":
        X = X[:, :2]
        y = (X[:, 0] != X[:, 1]).astype(float)
    elif (
        kind == "coarse"
    ):  # measured to one digit; some rows occur again, as they will among new ones
        X = np.round(rng.normal(size=(600, 3)), 1)
        X[:100] = X[100:200]
        y = np.round(X[:, 0])
    else:
        X[:], y = 1.0, np.round(rng.normal(size=600), 2)
    assert find_copies(X, np.asarray(y, dtype=float)) is None


# -- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "b", "c"],
        [2, 1, 2, 3],
        [2.5, 1.0, 2.5, 3.0],
        np.array([["b"], ["a"], ["b"], ["c"]]),
        pd.Series(["b", "a", "b", "c"], dtype="category"),
        pl.Series(["b", "a", "b", "c"]),
        pd.to_datetime(["2020-02-01", "2020-01-01", "2020-02-01", "2020-03-01"]),
        np.array(["b", 1, "b", (1, 2)], dtype=object),
    ],
    ids=["text", "int", "float", "column", "category", "polars", "dates", "mixed"],
)
def test_labels_may_be_of_any_type(labels: Any) -> None:
    """Rows 0 and 2 are one group, rows 1 and 3 are others."""
    codes = group_codes(labels, 4)
    assert codes[0] == codes[2] and len(set(codes.tolist())) == 3


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(3), "groups must have shape (4,), one label for each row; got (3,)"),
        (np.zeros((4, 2)), "groups must have shape (4,), one label for each row; got (4, 2)"),
        ([1.0, np.nan, 2.0, 3.0], "groups must have no missing labels, but row 1 has none"),
        (["a", None, "b", "c"], "groups must have no missing labels, but row 1 has none"),
        (["a", "b", math.nan, "c"], "groups must have no missing labels, but row 2 has none"),
        (pd.array([1, 2, 3, None]), "groups must have no missing labels, but row 3 has none"),
        (["a"] * 4, "groups must name at least 2 groups, because each is held out as a whole"),
    ],
)
def test_bad_groups_are_refused(groups: Any, message: str) -> None:
    """By length, gap and number, in fit as in out_of_fold."""
    X, y = rows(4)
    with pytest.raises(ValueError, match=re.escape(message)):
        MDNRegressor(**SMALL).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match=re.escape(message)):
        out_of_fold(MDNRegressor(**SMALL), X, y, cv=2, groups=groups)


def test_groups_and_copies_are_joined() -> None:
    """0-1 by the first and 1-2 by the second are one; all in one leaves the first."""
    first, second = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 3])
    assert join_groups(first, second).tolist() == [0, 0, 0, 1, 1]
    assert join_groups(None, np.array([1, 0, 1])).tolist() == [0, 1, 0]
    assert join_groups(np.array([0, 1]), np.array([0, 0])).tolist() == [0, 1]
    assert join_groups(None, None) is None


def test_folds_have_whole_groups_and_nearly_equal_sizes() -> None:
    """Sizes differ by less than the largest group; without groups they are as they always were."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    fold = deal(200, groups, 4, rng)
    assert len(set(zip(groups.tolist(), fold.tolist(), strict=True))) == len(np.unique(groups))
    sizes = np.bincount(fold)
    assert len(sizes) == 4 and np.ptp(sizes) < np.bincount(groups).max()
    assert len(np.unique(deal(200, groups % 3, 8, rng))) == 3
    plain = deal(10, None, 4, np.random.default_rng(1))
    np.testing.assert_array_equal(plain, np.random.default_rng(1).permutation(10) % 4)


def test_rows_are_compared_in_tables_of_any_kind() -> None:
    """Frames with text and gaps, tensors, images; what cannot be read has no copies."""
    frame = pd.DataFrame({"a": [1.5, 2.5, 1.5, np.nan, np.nan], "b": list("xyxzz")})
    y = np.array([0.1, 0.2, 0.1, 0.4, 0.4])
    expected = [0, 1, 0, 2, 2]
    for X in (frame, pl.from_pandas(frame), frame.to_numpy()):
        found = fold_groups(X, y)
        assert found is not None and found.tolist() == expected
    images = torch.arange(5.0).reshape(5, 1, 1).expand(5, 2, 2).clone()
    images[2] = images[0]
    found = fold_groups(images, y)
    assert found is not None and found.tolist() == [0, 1, 0, 2, 3]
    dates = pd.DataFrame({"a": pd.to_datetime(["2020-01-01"] * 5)})
    assert fold_groups(dates, y) is None


# -- the fit --------------------------------------------------------------------------------------


class Spy:
    """What the parts of a fit held out: folds of the base models and masks of the networks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.together: list[np.ndarray] = []  # each (N, B) bool: row is in block
        self.y: list[np.ndarray] = []
        fit_ensemble, fit_trees = _training.fit_ensemble, _base_models.fit_trees
        fit_processes = _base_models._fit_processes

        def networks(module: Any, x: Any, target: Any, held_out: Any, **options: Any) -> Any:
            self.add(held_out.numpy().T, target.numpy()[:, 0])
            return fit_ensemble(module, x, target, held_out, **options)

        def trees(x: Any, y: Any, weight: Any, fold: Any, **options: Any) -> Any:
            self.add(fold[:, None] == np.arange(fold.max() + 1), y[:, 0])
            return fit_trees(x, y, weight, fold, **options)

        def processes(x: Any, y: Any, weight: Any, fold: Any, *others: Any) -> Any:
            self.add(fold[:, None] == np.arange(fold.max() + 1), y[:, 0])
            return fit_processes(x, y, weight, fold, *others)

        monkeypatch.setattr(_training, "fit_ensemble", networks)
        monkeypatch.setattr(_base_models, "fit_trees", trees)
        monkeypatch.setattr(_base_models, "_fit_processes", processes)

    def add(self, blocks: np.ndarray, y: np.ndarray) -> None:
        self.together.append(blocks)
        self.y.append(np.asarray(y, dtype=np.float64))


def test_equal_rows_are_held_out_together_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bootstrap sample: process, trees and both groups of networks hold out whole rows."""
    X, y = rows()
    drawn = np.random.default_rng(1).integers(0, 60, 60)
    spy = Spy(monkeypatch)
    MDNRegressor(**SMALL).fit(X[drawn], y[drawn])
    assert len(spy.together) == 4
    assert len(spy.y[0]) == len(np.unique(drawn))  # the process takes each row once
    for blocks, values in zip(spy.together, spy.y, strict=True):
        assert blocks.any(1).all()
        for value in np.unique(values.round(5)):
            same = blocks[values.round(5) == value]
            assert (same == same[0]).all()


@pytest.mark.parametrize("members", [None, 1, 3])
def test_rows_of_a_group_are_held_out_together_everywhere(
    members: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five persons are fewer than the members: fewer blocks, and as many networks as ever."""
    X, y, who = persons(5, 12)
    X = X + 1e-3 * np.random.default_rng(1).normal(size=X.shape)
    order = np.lexsort([*X.T[::-1], y])  # as the fit sorts them
    spy = Spy(monkeypatch)
    model = MDNRegressor(**SMALL, ensemble_size=members).fit(X, y, groups=who)
    assert model.n_networks_ == (16 if members is None else members)
    for blocks in spy.together:
        for person in range(5):
            same = blocks[who[order] == person]
            assert (same == same[0]).all()
    assert np.isfinite(model.nll(X, y))


def test_a_table_written_out_twice_is_the_table() -> None:
    """Weights that are all 2, and all rows twice: bit for bit the model of the rows once."""
    X, y = rows()
    plain = MDNRegressor(**SMALL).fit(X, y).predict(X)
    weighted = MDNRegressor(**SMALL).fit(X, y, sample_weight=np.full(60, 2.0))
    np.testing.assert_array_equal(weighted.predict(X), plain)
    twice = MDNRegressor(**SMALL).fit(np.repeat(X, 2, 0), np.repeat(y, 2))
    np.testing.assert_array_equal(twice.predict(X), plain)


def test_weights_two_to_four_are_weights_one_to_two() -> None:
    """Copies lose their common divisor, whether they come from weights or from the user."""
    X, y = rows()
    count = 1 + np.arange(60) % 2
    expected = MDNRegressor(**SMALL).fit(X, y, sample_weight=count).predict(X)
    found = MDNRegressor(**SMALL).fit(X, y, sample_weight=2 * count).predict(X)
    np.testing.assert_array_equal(found, expected)


def test_copies_of_any_number_are_one_row_of_their_weight() -> None:
    """Up to 13 copies, more than weights are written out as, give the model of the weights."""
    X, y = rows()
    count = 1 + np.arange(60) % 13
    weighted = MDNRegressor(**SMALL).fit(X, y, sample_weight=count)
    copies = MDNRegressor(**SMALL).fit(np.repeat(X, count, 0), np.repeat(y, count))
    np.testing.assert_array_equal(copies.predict(X), weighted.predict(X))
    assert copies.model_.held_out_nll[2] == 60


def test_groups_that_separate_nothing_but_copies_are_none() -> None:
    """A table written out twice, each time as one group, is the table."""
    X, y = rows()
    plain = MDNRegressor(**SMALL).fit(X, y).predict(X)
    found = MDNRegressor(**SMALL).fit(np.repeat(X, 2, 0), np.repeat(y, 2), groups=[0, 1] * 60)
    np.testing.assert_array_equal(found.predict(X), plain)


def test_neither_order_nor_names_of_the_groups_play_a_part() -> None:
    """Permuted rows, and other labels for the same groups: one model bit for bit."""
    X, y, who = persons(6, 8)
    model = MDNRegressor(**SMALL).fit(X, y, groups=who)
    order = np.random.default_rng(3).permutation(len(y))
    names = np.array(["f", "a", "q", "b", "z", "c"])[who[order]]
    again = MDNRegressor(**SMALL).fit(X[order], y[order], groups=names)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    free = MDNRegressor(**SMALL).fit(X, y, groups=np.arange(len(y)))
    assert not np.array_equal(free.predict(X), model.predict(X))


def test_groups_go_with_weights_an_eval_set_and_frames() -> None:
    """Whole and broken weights, zero ones too; polars; rows that end the training."""
    X, y, who = persons(6, 8)
    frame = pl.DataFrame(X, schema=["a", "b"])
    for weight in (np.arange(48) % 3, np.linspace(0, 1, 48)):
        model = MDNRegressor(**SMALL).fit(frame, y, weight, groups=pl.Series(who))
        assert np.isfinite(model.nll(frame, y))
    model = MDNRegressor(**SMALL).fit(X, y, groups=who, eval_set=(X[:9], y[:9]))
    assert np.isfinite(model.nll(X, y))


@pytest.mark.filterwarnings("ignore:.* of the rows have the X of another row:UserWarning")
def test_groups_show_the_spread_between_persons() -> None:
    """Person effect of sd 1, noise of 0.2: for a new person y has sd 1.02 given x, not 0.2.

    Without groups each held-out row is known from the person's other rows, and the 90 % interval
    of new persons is far too narrow.
    """
    options = {**SMALL, "max_epochs": 60}
    X, y, who = persons()
    X_new, y_new, _ = persons(400, 1, seed=1)
    grouped = MDNRegressor(**options).fit(X, y, groups=who)
    naive = MDNRegressor(**options).fit(X, y)
    assert grouped.nll(X_new, y_new) < naive.nll(X_new, y_new) - 0.05
    low, high = grouped.predict_interval(X_new).T
    assert ((y_new > low) & (y_new < high)).mean() > 0.75


def test_where_x_is_constant_equal_rows_are_no_copies() -> None:
    """The marginal density of tied values: two equal y are two observations."""
    y = np.repeat(np.random.default_rng(0).normal(size=50), 3)
    assert find_copies(np.zeros((150, 1)), y[:, None]) is None
    x = np.random.default_rng(1).normal(size=50).repeat(3)[:, None]
    assert find_copies(x, y[:, None]) is not None


def test_rows_that_share_their_x_are_said_where_no_groups_are_given() -> None:
    """Persons: a warning that names groups=; not with groups, nor for levels and categories."""
    X, y, who = persons()
    with pytest.warns(mdn.DataWarning, match=r"100% of the rows have the X of another.*groups="):
        MDNRegressor(**SMALL).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MDNRegressor(**SMALL).fit(X, y, groups=who)
        MDNRegressor(**SMALL).fit(np.round(X), y)  # a design of few levels
        hour = np.random.default_rng(0).integers(0, 24, (200, 1))
        MDNRegressor(**SMALL).fit(hour, np.sin(hour[:, 0]) + y)
        MDNRegressor(**SMALL).fit(pd.DataFrame({"who": [f"p{w}" for w in who]}), y)


def test_a_warm_start_on_other_rows_is_said(tmp_path: Any) -> None:
    """Other y, other groups, after loading too; not in another order, nor with an eval_set."""
    X, y, who = persons(6, 8)
    model = MDNRegressor(**SMALL, warm_start=True).fit(X, y, groups=who)
    model.save(tmp_path / "m.mdn")
    model = mdn.load(tmp_path / "m.mdn")
    model.fit(X[::-1], y[::-1], groups=who[::-1])
    for other in ({"y": y + 0.1, "groups": who}, {"y": y, "groups": who // 2}):
        with pytest.warns(mdn.DataWarning, match="warm_start was given other rows or groups"):
            mdn.load(tmp_path / "m.mdn").fit(X, **other)
    mdn.load(tmp_path / "m.mdn").fit(X, y + 0.1, groups=who, eval_set=(X, y))


def test_the_model_knows_the_loss_of_the_rows_it_held_out(tmp_path: Any) -> None:
    """Near that of fresh rows of the same law, in y's unit, saved; of an eval_set if there is one.

    Of y = 100 exp(x0 + 0.2 e): the unit and the link are in it.
    """
    X, y = rows(200)
    X_new, y_new = rows(2000, seed=1)
    y, y_new = 100 * np.exp(y), 100 * np.exp(y_new)
    options = {**SMALL, "max_epochs": 60, "target": "positive"}
    model = MDNRegressor(**options).fit(X, y)
    mean, error, count = model.model_.held_out_nll
    assert count == 200 and 0 < error < 0.2
    assert model.nll(X_new, y_new) == pytest.approx(mean, abs=4 * error)
    model.save(tmp_path / "m.mdn")
    assert tuple(mdn.load(tmp_path / "m.mdn").model_.held_out_nll) == (mean, error, count)
    ended = MDNRegressor(**SMALL, trees=False).fit(X, y, eval_set=(X_new[:50], y_new[:50]))
    mean, error, count = ended.model_.held_out_nll
    assert count == 50 and mean == pytest.approx(ended.nll(X_new[:50], y_new[:50]), abs=0.2)


# -- beyond the fit -------------------------------------------------------------------------------


def test_out_of_fold_predicts_whole_groups() -> None:
    """A row is predicted by a fit that saw no row of its group, nor a copy of it."""
    X, y, who = persons(6, 8)
    seen = []

    def fit(X: Any, y: Any, groups: Any = None) -> Any:
        seen.append((y, groups))
        return MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=1).fit(X, y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mdn.DataWarning)
        dist = out_of_fold(fit, X, y, cv=3, groups=who)
        assert dist.batch_shape == (48,) and len(seen) == 3
        for inside, groups in seen:
            assert len(groups) == len(inside) and len(np.unique(groups)) == 4
        seen.clear()
        out_of_fold(fit, X, y, cv=20, groups=who)
        assert len(seen) == 6
        seen.clear()
        out_of_fold(fit, np.repeat(X, 2, 0), np.repeat(y, 2), cv=5)
    for inside, _ in seen:
        assert (np.unique(inside, return_counts=True)[1] == 2).all()


def test_groups_reach_the_end_of_a_pipeline() -> None:
    """out_of_fold, and cross_val_predict by metadata routing."""
    X, y, who = persons(6, 8)
    pipeline = make_pipeline(StandardScaler(), MDNRegressor(**SMALL))
    assert out_of_fold(pipeline, X, y, cv=2, groups=who).batch_shape == (48,)
    with config_context(enable_metadata_routing=True):
        model = MDNRegressor(**SMALL).set_fit_request(groups=True)
        routed = cross_val_predict(model, X, y, cv=GroupKFold(2), params={"groups": who})
    expected = np.empty(48)
    for inside, outside in GroupKFold(2).split(X, y, who):
        fitted = MDNRegressor(**SMALL).fit(X[inside], y[inside], groups=who[inside])
        expected[outside] = fitted.predict(X[outside])
    np.testing.assert_array_equal(routed, expected)


def test_tune_holds_out_whole_groups() -> None:
    """The score is that of persons that a fit has not seen; a study knows its groups."""
    pytest.importorskip("optuna")
    X, y, who = persons(6, 8)
    estimator = MDNRegressor(**SMALL, ensemble_size=2, trees=False)
    model = mdn.tune(X, y, 1, cv=3, groups=who, estimator=estimator)
    total = 0.0
    fold = deal(48, join_groups(who, None), 3, np.random.default_rng(0))
    for k in range(3):
        inside, outside = fold != k, fold == k
        fitted = MDNRegressor(**{**SMALL, "random_state": k}, ensemble_size=2, trees=False)
        fitted.fit(X[inside], y[inside], groups=who[inside])
        total += fitted.nll(X[outside], y[outside]) / 3
    assert model.study_.best_value == pytest.approx(total, rel=1e-9)
    with pytest.raises(ValueError, match="the study was begun with another groups"):
        mdn.tune(X, y, 1, cv=3, groups=who // 2, estimator=estimator, study=model.study_)


def test_atoms_and_groups_and_copies_go_together() -> None:
    """Both factors hold out whole rows, and the held-out loss is that of fresh rows."""
    X, y = rows(200)
    X_new, y_new = rows(2000, seed=1)
    y, y_new = np.maximum(y, 0), np.maximum(y_new, 0)
    X, y = (np.concatenate([a, a[::3]]) for a in (X, y))
    model = MDNRegressor(**{**SMALL, "max_epochs": 40}, atoms=[0.0])
    model.fit(X, y, groups=np.arange(len(y)) % 50)
    mean, error, count = model.model_.held_out_nll
    assert count == 200  # copies count once
    assert model.nll(X_new, y_new) == pytest.approx(mean, abs=4 * error)

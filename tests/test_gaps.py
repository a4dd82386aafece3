"""Tests of MDNRegressor with targets of several columns, of which some values are not known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mdn
from mdn import scoring
from tests.models import TREES, regressor


def pair(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 1) and two columns around x of correlation 0.9 and sd 0.5, of which 30 % are NaN."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 1))
    noise = rng.multivariate_normal([0, 0], [[0.25, 0.225], [0.225, 0.25]], n)
    y = X + noise
    gaps = rng.random(y.shape) < 0.3
    gaps[gaps.all(1), rng.integers(2)] = False
    y[gaps] = np.nan
    return X, y


GAPS = pytest.mark.filterwarnings("ignore:y has gaps:mdn.MDNWarning")


@GAPS
@pytest.mark.parametrize(
    "options",
    [{}, {"covariance_type": "full"}, {"covariance_type": "isotropic"},
     {"covariance_type": "tied"}, {"covariance_type": "low_rank"}, {"target": "positive"}, TREES],
    ids=str,
)  # fmt: skip
def test_the_log_density_with_gaps_is_the_marginal_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Of every covariance and target; also after saving."""
    X, y = pair(80, 0)
    if options.get("target") == "positive":
        y = np.exp(y)
    model = regressor(**options).fit(X, y)
    found = model.log_prob(X, y)
    dist = model.predict_distribution(X)
    for row in range(80):
        dims = np.flatnonzero(~np.isnan(y[row])).tolist()
        alone = dist[row].marginal(dims).log_prob(torch.as_tensor(y[row, dims]))
        assert found[row] == pytest.approx(float(alone), rel=1e-9, abs=1e-9)
    assert model.nll(X, y) == pytest.approx(-found.mean(), rel=1e-12)
    assert scoring.nll_scorer(model, X, y) == pytest.approx(found.mean(), rel=1e-12)
    model.save(tmp_path / "m.mdn")
    np.testing.assert_array_equal(mdn.load(tmp_path / "m.mdn").log_prob(X, y), found)


@GAPS
def test_rows_with_gaps_teach_the_columns_that_they_have() -> None:
    """On complete rows, the mean of three samples is better than without the rows with gaps."""
    rng = np.random.default_rng(1)
    X_new = rng.normal(size=(2000, 1))
    y_new = X_new + rng.multivariate_normal([0, 0], [[0.25, 0.225], [0.225, 0.25]], 2000)
    truth = 1 + math.log(2 * math.pi) + 0.5 * math.log(0.25**2 - 0.225**2)
    model = regressor(
        n_components=1, covariance_type="full", ensemble_size=4, max_epochs=100, learning_rate=0.02
    )
    excess = []
    for seed in range(3):
        X, y = pair(120, seed)
        complete = ~np.isnan(y).any(1)
        excess.append([model.fit(X[rows], y[rows]).nll(X_new, y_new) - truth
                       for rows in (slice(None), complete)])  # fmt: skip
    with_gaps, without = np.mean(excess, 0)
    assert 0 < with_gaps < 0.7 * without


@GAPS
def test_gaps_follow_the_law_of_units() -> None:
    """Other units of the columns add the logarithms of those that a row has, in the history too."""
    X, y = pair(100, 2)
    factor = np.array([60.0, 1e-3])
    one, other = (regressor(covariance_type="full").fit(X, c * y) for c in (1.0, factor))
    known = ~np.isnan(y)
    np.testing.assert_allclose(
        other.log_prob(X, factor * y), one.log_prob(X, y) - known @ np.log(factor), atol=1e-4
    )
    added = other.history_.best_nll - one.history_.best_nll
    assert added == pytest.approx(known.mean(0) @ np.log(factor), abs=1e-3)


@GAPS
def test_whole_weights_copy_rows_with_gaps() -> None:
    """Bit for bit, with trees and process, and whatever the order of the rows."""
    X, y = pair(50, 3)
    count = np.arange(50) % 3
    copies = regressor(**TREES).fit(np.repeat(X, count, 0), np.repeat(y, count, 0))
    order = np.random.default_rng(0).permutation(50)
    weighted = regressor(**TREES).fit(X[order], y[order], sample_weight=count[order])
    np.testing.assert_array_equal(weighted.predict(X), copies.predict(X))


@GAPS
def test_an_eval_set_may_have_gaps() -> None:
    """With or without gaps in the rows that train; other weights too."""
    X, y = pair(80, 4)
    whole = ~np.isnan(y).any(1)
    a = regressor().fit(X[whole], y[whole], eval_set=(X, y), sample_weight=X[whole, 0] ** 2)
    b = regressor().fit(X, y, eval_set=(X[whole], y[whole]))
    for model in (a, b):
        assert math.isfinite(model.nll(X, y)) and np.isfinite(model.history_.val_nll).all()
    shift = b.history_.val_nll[-1] - regressor().fit(
        X, y * 1000, eval_set=(X[whole], y[whole] * 1000)
    ).history_.val_nll[-1]  # fmt: skip
    assert shift == pytest.approx(-2 * math.log(1000), abs=1e-3)


def test_gaps_are_counted_in_a_warning_and_refused_where_nothing_is_known() -> None:
    """Which columns, how many; a row or a column without values; infinity; R^2; one column."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = 2 * X[:, :1] + 0.5 * rng.normal(size=(60, 2))
    y[:3, 0], y[10:15, 1] = np.nan, np.nan
    with pytest.warns(mdn.MDNWarning, match="y has gaps, 3 in column 0, 5 in column 1 of 60 rows"):
        model = regressor().fit(X, y)
    with pytest.raises(ValueError, match=r"R\^2 needs a y without gaps; .* take -nll\(X, y\)"):
        model.score(X, y)
    dist = model.predict_distribution(X)
    for score in (scoring.energy_score, scoring.nll, scoring.summary):
        with pytest.raises(ValueError, match=r'row 0 is. .*log_prob\(y, missing="marginal"'):
            score(dist, y)
    bad = y.copy()
    bad[[7, 9]] = np.nan
    for ask in (model.fit, model.log_prob):
        with pytest.raises(ValueError, match=r"but row 7 has NaN in every column \(2 such rows\)"):
            ask(X, bad)
    bad = y.copy()
    bad[4, 1] = np.inf
    with pytest.raises(ValueError, match="y must be finite, but contains inf in row 4, column 1"):
        model.fit(X, bad)
    bad = y.copy()
    bad[:, 1] = np.nan
    with pytest.raises(ValueError, match="at least 2 known values in every column; column 1 has 0"):
        model.fit(X[3:], bad[3:])
    with pytest.raises(ValueError, match="y must be finite, but contains NaN in row 0, column 0"):
        model.fit(X, y[:, :1])

"""Scores beside two simple models, cross-validation, and rows held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from mdn import MDNRegressor
from mdn.evaluation import cross_validate, evaluate, holdout


def rows(n: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    """A linear function of a number and a category, with normal errors of 0.5."""
    rng = np.random.default_rng(0)
    size, kind = rng.normal(size=n), rng.choice(["a", "b"], n)
    y = 3 * size + 2 * (kind == "a") + 0.5 * rng.normal(size=n)
    return pd.DataFrame({"size": size, "kind": kind}), y


def small(**options: Any) -> MDNRegressor:
    chosen = {"preset": "fast", "ensemble_size": 4, "max_epochs": 15, "random_state": 0}
    return MDNRegressor(**(chosen | options))


@pytest.fixture(scope="module")
def fitted() -> tuple[MDNRegressor, Any, Any]:
    X, y = rows()
    return small().fit(X[:300], y[:300]), (X[:300], y[:300]), (X[300:], y[300:])


def test_scores_of_the_linear_model_and_of_y_alone(fitted: Any) -> None:
    """By scikit-learn's least squares and SciPy's normal density, within 0.02."""
    model, (X, y), (X_new, y_new) = fitted
    found = evaluate(model, X_new, y_new, train=(X, y), unit="EUR")
    design, design_new = (np.c_[t["size"], t["kind"] == "a"] for t in (X, X_new))
    line = LinearRegression().fit(design, y)
    sd = np.std(y - line.predict(design), ddof=3)
    mean = line.predict(design_new)
    linear = found.scores["linear Gaussian"]
    nll = -stats.norm.logpdf(y_new, mean, sd)
    assert linear["nll"].mean == pytest.approx(nll.mean(), abs=0.02)
    assert linear["nll"].standard_error == pytest.approx(nll.std(ddof=1) / 10, rel=0.1)
    crps = scoringrules.crps_normal(y_new, mean, sd).mean()
    assert linear["crps"].mean == pytest.approx(crps, abs=0.01)
    assert linear["r2"].mean == pytest.approx(r2_score(y_new, mean), abs=0.005)
    alone = found.scores["y alone"]
    assert alone["r2"].mean == pytest.approx(r2_score(y_new, np.full(100, y.mean())), abs=1e-6)
    kernel = -np.log(stats.gaussian_kde(y)(y_new)).mean()
    assert alone["nll"].mean == pytest.approx(kernel, abs=0.1)
    assert found.scores["model"]["nll"].mean == pytest.approx(model.nll(X_new, y_new), abs=1e-12)
    text = str(found)
    assert "CRPS [EUR]" in text and "Verdict: " in text and "100 rows" in text


def test_standard_error_of_r2_by_the_bootstrap(fitted: Any) -> None:
    """The share of y's variance is held fixed, so the bootstrap of the squared errors is alike."""
    model, _, (X_new, y_new) = fitted
    score = evaluate(model, X_new, y_new).scores["model"]["r2"]
    squared = (y_new - model.predict(X_new)) ** 2
    rng = np.random.default_rng(0)
    draws = [1 - rng.choice(squared, len(squared)).mean() / y_new.var() for _ in range(2000)]
    assert score.standard_error == pytest.approx(np.std(draws), rel=0.1)
    assert score.mean == pytest.approx(r2_score(y_new, model.predict(X_new)), rel=1e-9)


def test_simple_models_in_the_space_of_the_target() -> None:
    """Of a log-normal y the linear model is linear in its logarithm: SciPy's density."""
    X, y = rows()
    y = np.exp(y)
    model = small(target="positive").fit(X[:300], y[:300])
    found = evaluate(model, X[300:], y[300:], train=(X[:300], y[:300]))
    design = np.c_[X["size"], X["kind"] == "a"]
    line = LinearRegression().fit(design[:300], np.log(y[:300]))
    sd = np.std(np.log(y[:300]) - line.predict(design[:300]), ddof=3)
    law = stats.lognorm(sd, scale=np.exp(line.predict(design[300:])))
    want = -law.logpdf(y[300:]).mean()
    assert found.scores["linear Gaussian"]["nll"].mean == pytest.approx(want, abs=0.02)


def test_several_targets_have_correlated_errors() -> None:
    """SciPy's multivariate normal with the covariance of the residuals."""
    X, y = rows()
    rng = np.random.default_rng(1)
    Y = np.c_[y, y + 0.1 * rng.normal(size=len(y))]
    model = small().fit(X[:300], Y[:300])
    found = evaluate(model, X[300:], Y[300:], train=(X[:300], Y[:300]))
    design = np.c_[X["size"], X["kind"] == "a"]
    line = LinearRegression().fit(design[:300], Y[:300])
    covariance = np.cov((Y[:300] - line.predict(design[:300])).T)
    law = stats.multivariate_normal([0, 0], covariance)
    want = -law.logpdf(Y[300:] - line.predict(design[300:])).mean()
    assert found.scores["linear Gaussian"]["nll"].mean == pytest.approx(want, abs=0.03)
    assert "energy score" in str(found)


def test_atoms_leave_the_nll_of_simple_models_out() -> None:
    """A density and a probability of an atom cannot be compared; the CRPS can."""
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(200, 1))
    y = np.where(rng.uniform(size=200) < 0.4, 0.0, 1 + x[:, 0])
    model = small(atoms=[0.0]).fit(x, y)
    found = evaluate(model, x, y, train=(x, y))
    assert "nll" not in found.scores["y alone"] and "crps" in found.scores["y alone"]
    assert "nll" in found.scores["model"]


def test_intervals_have_a_likelihood_alone() -> None:
    """Of a censored y; cross-validation of it is refused."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 1))
    low = np.round(x[:, 0], 1)
    y = np.c_[low, low + 0.1]
    model = small(target="interval").fit(x, y)
    assert list(evaluate(model, x, y).scores["model"]) == ["nll"]
    with pytest.raises(ValueError, match="needs a y that is known"):
        cross_validate(model, x, y)


def test_cross_validation_is_a_mean_over_rows_and_repeats() -> None:
    """Two repeats: the mean of each alone; the model is not fitted by it."""
    X, y = rows(120)
    options: dict[str, Any] = {"cv": 3}
    model = small()
    both = cross_validate(model, X, y, repeats=2, seed=5, **options)
    each = [cross_validate(model, X, y, seed=seed, **options) for seed in (5, 6)]
    for name in ("model", "linear Gaussian", "y alone"):
        want = np.mean([one.scores[name]["crps"].mean for one in each])
        assert both.scores[name]["crps"].mean == pytest.approx(want, rel=1e-12)
    assert both.scores["model"].n == 120 and "2 times" in both.how
    assert not hasattr(model, "model_")
    assert both.to_dict()["scores"]["model"]["nll"]["mean"] == both.scores["model"]["nll"].mean


@given(
    n=st.integers(10, 80),
    share=st.floats(0.05, 0.5),
    n_groups=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_rows_held_out(n: int, share: float, n_groups: int, seed: int) -> None:
    """As many as were asked, whole groups, and never none or all."""
    groups = None
    if n_groups > 1:
        groups = np.random.default_rng(seed).integers(n_groups, size=n)
        if len(np.unique(groups)) < 2:
            groups = None
    held = holdout(n, share, groups=groups, seed=seed)
    assert held.shape == (n,) and 0 < held.sum() < n
    if groups is None:
        assert held.sum() == max(1, round(share * n))
        last = holdout(n, share, how="time")
        assert last[-held.sum() :].all() and last.sum() == held.sum()
    else:
        assert not set(groups[held]) & set(groups[~held])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: holdout(2), ValueError, "must leave 2 rows to fit to and 1 to hold out; got 2"),
        (lambda: holdout("9"), TypeError, "n must be an integer; got '9'"),
        (lambda: holdout(9, 1.5), ValueError, "share must"),
        (lambda: holdout(9, how="last"), ValueError, "how must be one of 'random', 'time'"),
        (
            lambda: holdout(9, groups=[0] * 5 + [0] * 4, how="time"),
            ValueError,
            "every group of the last rows has earlier rows|at least 2",
        ),
        (lambda: cross_validate(LinearRegression(), [[1.0]], [1.0]), TypeError, "LinearRegression"),
        (lambda: cross_validate(small(), *rows(30), repeats=0), ValueError, "repeats must be"),
        (lambda: evaluate(LinearRegression(), *rows(30)), TypeError, "must be or end in"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    """Each is refused in a sentence that names it."""
    with pytest.raises(error, match=message):
        call()

"""Tests of the correlations that are taken out of several targets before the fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

import mdn
from mdn import MDNRegressor
from mdn.estimator._correlation import fit_correlation
from tests.models import FAST, regressor

COVARIANCE = np.array([[0.09, 0.081], [0.081, 0.09]])  # of the noise: sd 0.3, correlation 0.9


def mean_of(X: np.ndarray) -> np.ndarray:
    """(N, 2) smooth functions of two columns."""
    return np.stack([np.sin(X[:, 0]) + 0.5 * X[:, 1], 0.5 * X[:, 0] * X[:, 1]], 1)


def pairs(
    n: int, seed: int = 0, covariance: np.ndarray = COVARIANCE
) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 2) and two targets with correlated noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 2))
    return X, mean_of(X) + rng.multivariate_normal([0, 0], covariance, n)


def standardized(a: np.ndarray) -> np.ndarray:
    """In standard units."""
    return (a - a.mean(0)) / a.std(0)


def test_the_sums_have_uncorrelated_noise() -> None:
    """W C W' is diagonal to 0.15, for noise of very different sizes, and the sums have sd 1.

    With 600 rows the standard error of a correlation is 0.04.
    """
    size = np.diag([1.0, 5.0])
    covariance = size @ COVARIANCE @ size
    X, y = pairs(600, 0, covariance)
    latent = standardized(y)
    found = fit_correlation(standardized(X), latent, None, None, seed=0, n_jobs=1)
    assert found.mixing is not None and not found.is_full
    w = found.mixing.numpy() / y.std(0)
    noise = w @ covariance @ w.T
    assert abs(noise[0, 1] / math.sqrt(noise[0, 0] * noise[1, 1])) < 0.15
    np.testing.assert_allclose((latent @ found.mixing.numpy().T).std(0), 1, rtol=1e-9)
    swapped = fit_correlation(standardized(X), latent[:, ::-1], None, None, seed=0, n_jobs=1)
    assert swapped.mixing is not None  # in another order the targets have the same sums, nearly
    np.testing.assert_allclose(swapped.mixing.numpy()[::-1, ::-1], found.mixing.numpy(), atol=0.05)


def test_independent_noise_has_no_sums() -> None:
    """The targets have a common signal, so y1 and y2 are correlated, but not given x."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (400, 4))
    y = np.sin(X[:, :1]) + 0.3 * rng.normal(size=(400, 2))
    assert np.corrcoef(y.T)[0, 1] > 0.7
    found = fit_correlation(standardized(X), standardized(y), None, None, seed=0, n_jobs=1)
    assert found.mixing is None and not found.is_full


@pytest.mark.parametrize("kind", ["sign", "curve"])
def test_dependence_beyond_correlation_asks_for_full_covariances(kind: str) -> None:
    """A correlation of the sign of x0, and noise of y2 that is the square of that of y1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (600, 4))
    a, b = rng.normal(size=(2, 600))
    other = 0.95 * np.sign(X[:, 0]) * a if kind == "sign" else 0.7 * (a**2 - 1)
    y = mean_of(X) + 0.3 * np.stack([a, other + 0.3 * b], 1)
    assert fit_correlation(standardized(X), standardized(y), None, None, seed=0, n_jobs=1).is_full


@pytest.mark.parametrize("kind", ["copy", "sum"])
def test_targets_that_are_a_function_of_the_others_keep_a_floor(kind: str) -> None:
    """The matrix is not nearly singular, so the density of the difference, 0, stays bounded."""
    X, y = pairs(200)
    y = np.stack([y[:, 0], -2 * y[:, 0] + 1], 1) if kind == "copy" else np.c_[y, y.sum(1)]
    found = fit_correlation(standardized(X), standardized(y), None, None, seed=0, n_jobs=1)
    assert found.mixing is not None and np.linalg.cond(found.mixing.numpy()) < 200
    assert np.isfinite(regressor().fit(X, y).log_prob(X, y)).all()


def test_more_columns_than_a_process_takes() -> None:
    """Of 60 columns one counts; trees then find the residuals."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 60))
    y = X[:, :1] + rng.multivariate_normal([0, 0], COVARIANCE, 500)
    found = fit_correlation(standardized(X), standardized(y), None, None, seed=0, n_jobs=1)
    assert found.mixing is not None
    w = found.mixing.numpy() / y.std(0)
    noise = w @ COVARIANCE @ w.T
    assert abs(noise[0, 1] / math.sqrt(noise[0, 0] * noise[1, 1])) < 0.4


@pytest.fixture(scope="module")
def correlated() -> MDNRegressor:
    """The fast default on 600 rows."""
    X, y = pairs(600)
    return MDNRegressor(preset="fast", random_state=0, n_jobs=1).fit(X, y)


def test_two_correlated_targets_are_near_the_truth(correlated: MDNRegressor) -> None:
    """Excess of the NLL of 4,000 new rows over the truth's; "diagonal" 0.40, "full" 0.21."""
    X, y = pairs(4000, 1)
    truth = -multivariate_normal([0, 0], COVARIANCE).logpdf(y - mean_of(X))
    assert float((-correlated.log_prob(X, y) - truth).mean()) < 0.17


def test_the_conditional_of_one_target_given_the_other_is_right(correlated: MDNRegressor) -> None:
    """p(y1 | y0, x) is normal, of mean m1 + 0.9 (y0 - m0) and sd 0.3 sqrt(1 - 0.81) = 0.131."""
    X, y = pairs(2000, 2)
    mean = mean_of(X)
    true_mean, true_sd = mean[:, 1] + 0.9 * (y[:, 0] - mean[:, 0]), 0.3 * math.sqrt(0.19)
    given = correlated.predict_distribution(X).condition(0, y[:, :1])
    assert given.event_shape == (1,)
    assert np.sqrt(np.mean((given.mean[:, 0].numpy() - true_mean) ** 2)) < 0.5 * true_sd
    assert float(given.stddev.median()) == pytest.approx(true_sd, rel=0.25)
    excess = -given.log_prob(y[:, 1:]).numpy() + norm(true_mean, true_sd).logpdf(y[:, 1])
    assert 0 < excess.mean() < 0.15
    cover = given.interval(0.9).numpy()
    inside = (cover[:, 0] < y[:, 1]) & (y[:, 1] < cover[:, 1])
    assert 0.86 < inside.mean() < 0.95


def test_sums_are_saved_and_keep_every_law(correlated: MDNRegressor, tmp_path: Path) -> None:
    """Bit for bit after loading; the two variances add up; NLL of training is in the unit of y."""
    X, y = pairs(300, 3)
    assert len(correlated.target_.mixing) == 2
    correlated.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    np.testing.assert_array_equal(loaded.log_prob(X, y), correlated.log_prob(X, y))
    dist = correlated.predict_distribution(X)
    within, between = correlated.predict_uncertainty(X)
    target = correlated.target_
    latent = target.latent(y)
    fitted = correlated.model_
    members = fitted.members(correlated.columns_.transform(X)), fitted.subgroup_sizes
    pool = fitted.stack.pool(*members)
    change = target.log_jacobian(latent)
    found = -pool.log_prob(latent) + change
    torch.testing.assert_close(found, -dist.log_prob(torch.as_tensor(y)), rtol=1e-9, atol=1e-9)
    bare = replace(correlated.model_.stack, background_weight=0.0).pool(*members)
    variance = target.to_y(bare).variance  # the background is in neither part
    np.testing.assert_allclose(within + between, variance.numpy(), rtol=1e-9)
    assert abs(correlated.history_.best_nll - correlated.nll(X, y)) < 0.5


def test_the_law_of_units_holds_for_sums() -> None:
    """Targets in other units: the NLL changes by the sum of the logs."""
    X, y = pairs(100)
    factor = np.array([1e3, 1e-2])
    one, other = (regressor().fit(X, c * y) for c in (1.0, factor))
    assert len(one.target_.mixing) == 2
    want = one.log_prob(X, y) - np.log(factor).sum()
    np.testing.assert_allclose(other.log_prob(X, factor * y), want, atol=1e-3)


def test_other_covariances_and_targets_have_no_sums() -> None:
    """What the user chooses stays as it is; so do gaps, links, one target and a warm start."""
    X, y = pairs(60)
    for options in ({"covariance_type": "diagonal"}, {"covariance_type": "low_rank"}):
        assert not len(regressor(**options).fit(X, y).target_.mixing)
    assert not len(regressor(target="positive").fit(X, np.exp(y)).target_.mixing)
    alone, diagonal = (
        MDNRegressor(**{**FAST, **options}).fit(X, y[:, 0]).log_prob(X, y[:, 0])
        for options in ({}, {"covariance_type": "diagonal"})
    )
    np.testing.assert_array_equal(alone, diagonal)
    model = regressor(warm_start=True).fit(X, y)
    mixing = model.target_.mixing
    torch.testing.assert_close(model.fit(X, y).target_.mixing, mixing, rtol=0, atol=0)

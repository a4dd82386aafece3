"""Tests of the members of the pool that are no networks, and of what the pool makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import mdn
from benchmarks.small import forest, subjects
from mdn import MDNRegressor
from mdn.estimator import _training
from mdn.estimator._densities import (
    Densities,
    Leaves,
    Linear,
    Location,
    Marginal,
    Residuals,
    fit_densities,
    student,
)
from mdn.estimator._trees import N_BINS, bins

F64 = torch.float64
GAUSSIAN = Residuals(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64))
SMALL: dict[str, Any] = {"preset": "fast", "max_epochs": 30, "n_jobs": 1, "random_state": 0}


def rows(n: int, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A linear function of five columns with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    return x, x @ [1.0, -0.5, 0.3, 0.0, 0.2] + noise * rng.normal(size=n)


def dense(model: Linear) -> np.ndarray:
    """The covariance of its coefficients in units of the noise variance, (P, P)."""
    v, (*along, beside) = model.directions.numpy(), model.variance.tolist()
    return (v * along) @ v.T + beside * (np.eye(len(v)) - v @ v.T)


# -- each member ------------------------------------------------------------------------------


def test_the_linear_model_is_the_ridge_of_greatest_evidence() -> None:
    """Mean, variance and evidence by dense matrices: y ~ N(0, s^2 (1 + X X' / c))."""
    x, y = rows(40)
    y = y + 3
    model = Linear.fit(x, y, np.ones(40), GAUSSIAN)
    xc, yc = x - x.mean(0), y - y.mean()
    covariance = dense(model)
    penalty = np.linalg.inv(covariance) - xc.T @ xc
    np.testing.assert_allclose(penalty, penalty[0, 0] * np.eye(5), atol=1e-8)
    ridge = Ridge(alpha=penalty[0, 0]).fit(x, y)
    new = rows(7, seed=1)[0]
    found = model.predict(new)
    np.testing.assert_allclose(found.mean, ridge.predict(new), rtol=1e-9)

    def minus_evidence(c: float) -> float:  # s^2 at its best
        k = np.eye(40) + xc @ xc.T / c
        square = yc @ np.linalg.solve(k, yc)
        return 0.5 * np.linalg.slogdet(k)[1] + 0.5 * 39 * np.log(square)

    grid = np.exp(np.linspace(np.log(1e-3), np.log(1e4), 40))
    assert penalty[0, 0] == pytest.approx(grid[np.argmin([minus_evidence(c) for c in grid])])
    centred = new - x.mean(0)
    variance = model.noise**2 * (1 + 1 / 40 + np.diag(centred @ covariance @ centred.T))
    np.testing.assert_allclose(found.scale**2, variance, rtol=1e-9)
    assert model.noise == pytest.approx(0.5, rel=0.4)  # 3.5 standard errors


def test_the_linear_model_of_more_columns_than_rows_is_that_of_dense_matrices() -> None:
    """12 rows of 40 columns: mean and variance by inverses of (40, 40) matrices."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 40)), rng.normal(size=12)
    model = Linear.fit(x, y, np.ones(12), GAUSSIAN)
    assert model.directions.shape == (40, 11)
    xc, penalty = x - x.mean(0), 1 / float(model.variance[-1])
    covariance = np.linalg.inv(xc.T @ xc + penalty * np.eye(40))
    np.testing.assert_allclose(dense(model), covariance, rtol=1e-8, atol=1e-8 / penalty)
    np.testing.assert_allclose(model.coefficients, covariance @ xc.T @ (y - y.mean()), rtol=1e-6)
    new = rng.normal(size=(5, 40)) - x.mean(0)
    variance = model.noise**2 * (1 + 1 / 12 + np.diag(new @ covariance @ new.T))
    np.testing.assert_allclose(model.predict(new + x.mean(0)).scale ** 2, variance, rtol=1e-8)


def test_whole_weights_of_the_linear_model_are_repeated_rows() -> None:
    """Weights 1 and 2: the model of so many copies."""
    x, y = rows(30)
    count = 1 + np.arange(30) % 2
    first = Linear.fit(x, y, count.astype(float), GAUSSIAN)
    index = np.repeat(np.arange(30), count)
    second = Linear.fit(x[index], y[index], np.ones(len(index)), GAUSSIAN)
    torch.testing.assert_close(first.coefficients, second.coefficients)
    assert first.noise == pytest.approx(second.noise)


@pytest.mark.parametrize("nu", [3.0, np.inf])
def test_residuals_take_the_shape_of_their_tails(nu: float) -> None:
    """4,000 draws: within 0.02 nats of the true density, and a Gaussian is one component."""
    law = stats.norm() if np.isinf(nu) else stats.t(nu)
    y = law.rvs(4000, random_state=0)
    zero = Location(np.zeros(4000), np.ones(4000))
    found = Residuals.fit(zero, y, None, heavy=True)
    assert (len(found.scale) == 1) == np.isinf(nu)
    new = law.rvs(4000, random_state=1)
    dist = found.around(zero)
    nll = -float(dist.log_prob(torch.as_tensor(new)[:, None]).mean())
    assert nll < -law.logpdf(new).mean() + 0.02
    assert len(Residuals.fit(zero, y, None, heavy=False).scale) == 1


def test_the_marginal_density_is_near_the_true_one() -> None:
    """2,000 draws of a skewed y: its mean and variance, and within 0.03 nats."""
    y = stats.gamma(2).rvs(2000, random_state=0)
    found = Marginal.fit(y, np.ones(2000)).of_rows(2000)
    assert float(found.mean[0, 0, 0]) == pytest.approx(y.mean())
    assert float(found.variance[0, 0, 0]) == pytest.approx(y.var(), rel=0.1)
    new = stats.gamma(2).rvs(2000, random_state=1)
    nll = -float(found.log_prob(torch.as_tensor(new)[:, None]).mean())
    assert nll < -stats.gamma(2).logpdf(new).mean() + 0.03


@pytest.mark.parametrize("n", [5, 8, 20, 39])
def test_densities_of_few_rows_cover_new_ones(n: int) -> None:
    """300 samples of n normal values: 90 % intervals cover 0.86 to 0.94 (standard error 0.008)."""
    rng, mass = np.random.default_rng(0), []
    weights, scales = map(torch.as_tensor, student(n - 1.0))
    residuals, x = Residuals(weights.log(), scales), np.zeros((n, 1))
    for y in rng.normal(size=(300, n)):
        linear = Linear.fit(x, y, np.ones(n), residuals)
        both = residuals.around(linear.predict(x[:1])), Marginal.fit(y, np.ones(n)).of_rows(1)
        ends = [dist.interval(0.9).flatten().numpy() for dist in both]
        mass.append(np.diff(stats.norm.cdf(ends))[:, 0])
    assert (np.abs(np.mean(mass, 0) - 0.9) < 0.04).all()


@pytest.mark.parametrize("count", [7, N_BINS, 30, 100])
def test_bins_keep_mean_and_variance_of_the_leaves(count: int) -> None:
    """Equal numbers of leaves a bin where they divide; each mean is within the range."""
    leaves = np.random.default_rng(0).normal(size=(5, count)) + 100
    mean, spread = np.moveaxis(bins(leaves), 1, 0)
    assert mean.shape == (5, N_BINS)
    assert (np.diff(mean) >= -1e-9).all()
    assert (mean >= leaves.min(1, keepdims=True) - 1e-9).all()
    if count % N_BINS == 0:
        np.testing.assert_allclose(mean.mean(1), leaves.mean(1))
        variance = (spread**2).mean(1) + mean.var(1)
        np.testing.assert_allclose(variance, leaves.var(1))


def test_widths_around_leaves_are_those_of_the_truth() -> None:
    """Leaves that all lie at m, y = m + 0.1 noise: a width of 0.1, chosen beside a wide member."""
    rng = np.random.default_rng(0)
    m = rng.normal(size=(500, 1))
    y = torch.as_tensor(m + 0.1 * rng.normal(size=(500, 1)))
    found = bins(np.repeat(m, N_BINS, 1))
    wide = torch.as_tensor(stats.norm(0, 1).logpdf(y[:, 0]))
    leaves = Leaves.fit(found, wide, None, lambda dist: dist.log_prob(y))
    assert leaves.least == 0.1
    density = leaves.around(found).log_prob(y)[0]
    np.testing.assert_allclose(density, stats.norm(m, 0.1).logpdf(y)[:, 0])


def test_out_of_fold_densities_do_not_know_their_own_rows() -> None:
    """Each y moved by 100 in turn: the densities of its own fold stay as they are."""
    x, y = rows(40)
    fold = np.arange(40) % 4
    location = Location(np.zeros(40), np.ones(40))
    at = torch.zeros(40, 1, dtype=F64)

    def parts(y: np.ndarray) -> list[np.ndarray]:
        found = fit_densities(x, y[:, None], None, fold, [location], is_log=False)[1]
        return [dist.mean[0, :, 0].numpy() for dist in found] + [found[-1].log_prob(at)[0].numpy()]

    before = parts(y)
    moved = y.copy()
    moved[fold == 2] += 100
    after = parts(moved)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a[fold == 2], b[fold == 2], rtol=1e-9)
    assert not np.allclose(before[0][fold != 2], after[0][fold != 2])


def test_members_come_in_one_order_and_are_left_out_by_name() -> None:
    """Those that are kept, and as many components as they have."""
    x, y = rows(50)
    location = Location(np.zeros(50), np.ones(50))
    whole, found = fit_densities(x, y[:, None], None, np.arange(50) % 5, [location], is_log=False)
    assert len(whole) == len(found) == 3
    assert whole.n_components == sum(d.n_components for d in whole.members(x, [location], None))
    some = whole.only([True, False, True])
    assert some.process is None and some.linear and some.marginal
    assert len(Densities()) == Densities().n_components == 0
    logarithm = fit_densities(x, y[:, None], None, np.arange(50) % 5, [location], is_log=True)[0]
    assert logarithm.linear is None and len(logarithm.process.scale) == 1


def test_members_of_several_targets_are_products_of_gaussians() -> None:
    """Log densities add up over the targets; a member is left out for all of them at once."""
    x, y = rows(60)
    both = np.stack([y, x[:, 0] - y], 1)
    locations = [Location(0.1 * x[:, d], np.full(60, 0.5 + d)) for d in range(2)]
    fold = np.arange(60) % 5
    whole, found = fit_densities(x, both, None, fold, locations, is_log=False)
    assert len(whole) == len(found) == 2 == whole.n_components  # linear and process
    assert [len(one) for one in whole.each] == [2, 2] and whole.is_process == [False, True]
    for dist, again in zip(found[1:], whole.members(x, locations, None)[1:], strict=True):
        alone = [
            stats.norm(loc.mean, loc.scale * float(one.process.scale)).logpdf(target)
            for loc, one, target in zip(locations, whole.each, both.T, strict=True)
        ]
        np.testing.assert_allclose(dist.log_prob(both)[0], sum(alone), rtol=1e-9)
        np.testing.assert_allclose(again.log_prob(both)[0], sum(alone), rtol=1e-9)
    some = whole.only([False, True])
    assert len(some) == 1 and len(some.members(x, locations, None)) == 1
    assert len(whole.only([False, False])) == 0
    config, tensors = whole.state()
    loaded = Densities.from_state(config, tensors).members(x, locations, None)
    for a, b in zip(whole.members(x, locations, None), loaded, strict=True):
        assert torch.equal(a.log_prob(both), b.log_prob(both))


# -- in the pool ------------------------------------------------------------------------------


def test_few_rows_of_two_correlated_linear_targets() -> None:
    """60 rows: the linear model of both has weight, and the NLL is near that of least squares.

    Truth: normal noise, of sd 0.5 and correlation 0.8, on linear functions of 3 columns.
    """
    rng = np.random.default_rng(0)
    slopes, noise = np.array([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]]), np.array([[1, 0.8], [0.8, 1]])
    X = rng.normal(size=(3060, 3))
    y = X @ slopes.T + rng.multivariate_normal([0, 0], 0.25 * noise, 3060)
    model = MDNRegressor(preset="fast", random_state=0).fit(X[:60], y[:60])
    assert len(model.model_.densities) and all(one.linear for one in model.model_.densities.each)
    truth = stats.multivariate_normal([0, 0], 0.25 * noise).logpdf(y[60:] - X[60:] @ slopes.T)
    assert 0 < model.nll(X[60:], y[60:]) + truth.mean() < 0.2


def test_the_pool_finds_a_linear_function_from_few_rows(tmp_path: Path) -> None:
    """50 rows: much better than the networks alone, and saved with the model."""
    x, y = rows(1050)
    model = MDNRegressor(**SMALL).fit(x[:50], y[:50])
    assert model.model_.densities.linear is not None
    assert len(model.model_.stack.weight) == 2 + len(model.model_.densities)
    assert float(model.model_.stack.weight[2:].min()) >= 0.08
    networks = MDNRegressor(**SMALL, trees=False).fit(x[:50], y[:50])
    assert len(networks.model_.densities) == 0
    assert model.nll(x[50:], y[50:]) < networks.nll(x[50:], y[50:]) - 0.1
    model.save(tmp_path / "model.mdn")
    again = mdn.load(tmp_path / "model.mdn")
    np.testing.assert_array_equal(again.log_prob(x, y), model.log_prob(x, y))
    aleatoric, epistemic = model.predict_uncertainty(x[50:])
    assert (aleatoric > 0).all() and (epistemic > 0).all()


def test_a_target_that_has_nothing_to_do_with_x_gets_its_marginal_density() -> None:
    """60 rows of noise: no worse than the Gaussian of y by more than 0.05 nats."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1060, 6)), rng.normal(size=1060)
    model = MDNRegressor(**SMALL).fit(x[:60], y[:60])
    law = stats.norm(y[:60].mean(), y[:60].std(ddof=1))
    assert model.nll(x[60:], y[60:]) < -law.logpdf(y[60:]).mean() + 0.05


def test_on_repeated_measurements_the_pool_is_as_good_as_without_any_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random rows held out, so the visit is known: better than a kernel mixture over leaves, and no
    worse by 0.02 nats than without one kind of member; without leaves it is worse by 0.1.
    """
    x, y, _ = subjects(0, n_subjects=20, visits=10)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[200:], order[:200]
    every = _training._fit_densities

    def nll(left_out: str | None = None) -> tuple[float, list[str]]:
        def some(*args: Any) -> Any:
            whole, found = every(*args)
            kept = [name != left_out for name in whole._present]
            return whole.only(kept), [d for d, keep in zip(found, kept, strict=True) if keep]

        monkeypatch.setattr(_training, "_fit_densities", some)
        model = MDNRegressor(**SMALL).fit(x[train], y[train])
        return model.nll(x[test], y[test]), model.model_.densities._present

    pool, members = nll()
    assert pool < forest(x[train], y[train], x[test], y[test])
    assert "forest" in members
    without = {name: nll(name)[0] for name in members}
    assert pool < min(without.values()) + 0.02
    assert pool < without["forest"] - 0.1


def test_intervals_cover_unseen_subjects() -> None:
    """32 subjects of 50 rows, ``groups=``: 90 % intervals cover 60 others as they say."""
    x, y, subject = subjects(0, n_subjects=92, visits=10)
    seen = subject < 32
    model = MDNRegressor(**SMALL).fit(x[seen], y[seen], groups=subject[seen])
    low, high = model.predict_interval(x[~seen]).T
    assert 0.85 < ((low <= y[~seen]) & (y[~seen] <= high)).mean() < 0.95


def test_leaves_that_gain_less_than_their_standard_error_are_left_out() -> None:
    """Diabetes, 221 rows: no stripes of single rows, and the NLL is no worse."""
    patients = load_diabetes(scaled=False)
    order = np.random.default_rng(0).permutation(442)
    train, test = order[:221], order[221:]
    fits = [
        MDNRegressor(preset="fast", trees=trees, random_state=0).fit(
            patients.data[train], patients.target[train]
        )
        for trees in (True, False)
    ]
    assert fits[0].model_.densities.forest is None
    nll = [model.nll(patients.data[test], patients.target[test]) for model in fits]
    assert nll[0] < nll[1] + 0.01


@pytest.mark.parametrize("target", ["positive", "unit", "integer", "interval"])
def test_every_kind_of_target_is_pooled(target: str) -> None:
    """Finite likelihoods; of intervals only their middles are known, so there are no members."""
    x, y = rows(80)
    known = {
        "positive": np.exp(y),
        "unit": 1 / (1 + np.exp(-y)),
        "integer": np.round(3 * y),
        "interval": np.stack([y, y + 1], 1),
    }[target]
    model = MDNRegressor(**SMALL, target=target).fit(x, known)
    assert np.isfinite(model.nll(x, known))
    assert target != "interval" or len(model.model_.densities) == 0


def test_rows_of_an_eval_set_are_weighed_by_the_densities_of_all_rows() -> None:
    """The stack is fitted to its rows."""
    x, y = rows(120)
    model = MDNRegressor(**SMALL).fit(x[:60], y[:60], eval_set=(x[60:], y[60:]))
    assert len(model.model_.densities) > 0
    assert model.model_.held_out_nll[2] == 60

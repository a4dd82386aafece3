"""Targets with atoms: fits to simulations whose truth is known, and what is asked of them.

Seeds are fixed, so that nothing fails by chance on one machine.  Bounds are about twice what was
found with three other seeds.
"""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.special import expit

import mdn
from mdn import AtomicMixture, DataWarning, MDNRegressor
from mdn.calibration import out_of_fold, pit_test

S = scipy.stats
Floats = NDArray[np.float64]
SMALL: dict[str, Any] = {
    "preset": "fast",
    "trees": False,
    "ensemble_size": 4,
    "max_epochs": 40,
    "random_state": 0,
}


class Rain(NamedTuple):
    """Amounts of which four in five are 0; where there is some, it is log-normal."""

    X: Floats  # (N, 3)
    y: Floats  # (N,)
    dry: Floats  # (N,) P(Y = 0)
    loc: Floats  # (N,) of log y where it rains
    scale: Floats

    @classmethod
    def draw(cls, n: int, seed: int) -> Rain:
        rng = np.random.default_rng(seed)
        X = rng.uniform(-1, 1, (n, 3))
        dry = expit(1.8 + 1.5 * X[:, 0] - np.sin(4 * X[:, 1]))
        loc, scale = 0.5 + X[:, 1], 0.3 + 0.2 * (X[:, 2] > 0)
        wet = rng.random(n) > dry
        return cls(X, np.where(wet, np.exp(loc + scale * rng.normal(size=n)), 0.0), dry, loc, scale)

    def nll(self) -> Floats:
        density = S.lognorm(self.scale, scale=np.exp(self.loc)).logpdf(np.where(self.y, self.y, 1))
        return -np.where(self.y == 0, np.log(self.dry), np.log1p(-self.dry) + density)


@pytest.fixture(scope="module")
def rain() -> tuple[MDNRegressor, Rain, Rain]:
    train, test = Rain.draw(1000, 0), Rain.draw(4000, 1000)
    model = MDNRegressor(
        preset="fast", target="positive", atoms=[0.0], random_state=0, n_jobs=1
    ).fit(train.X, train.y)
    return model, train, test


def test_the_probability_of_an_atom_is_learnt_with_x(rain: Any) -> None:
    """Root mean square error of P(Y = 0) 0.05 where it varies by 0.15; regret 0.03 to 0.04 nats."""
    model, _, test = rain
    dist = model.predict_distribution(test.X)
    assert isinstance(dist, AtomicMixture)
    p = dist.log_mass(0.0, 0.0).exp().numpy()
    np.testing.assert_allclose(p, dist.atom_probs[:, 0], rtol=1e-12)
    np.testing.assert_allclose(p, dist.cdf(torch.zeros(4000, 1).double()), rtol=1e-12)
    assert abs(p.mean() - test.dry.mean()) < 0.05
    assert np.sqrt(np.mean((p - test.dry) ** 2)) < 0.07 < test.dry.std() / 2
    assert abs(np.log(p / (1 - p)) - np.log(test.dry / (1 - test.dry))).mean() < 0.6
    assert model.nll(test.X, test.y) - test.nll().mean() < 0.08


def test_training_rows_are_predicted_as_new_ones_are() -> None:
    """400 rows: P(Y = 0) of training rows is no further from the truth than that of new rows.

    In nats, mean of two seeds, 0.016 for both; with a Gaussian process it was 0.059 and 0.021.
    """
    found = []
    for seed in (0, 1):
        train, test = Rain.draw(400, seed), Rain.draw(4000, 1000 + seed)
        model = MDNRegressor(
            preset="fast", target="positive", atoms=[0.0], random_state=seed, n_jobs=1
        ).fit(train.X, train.y)
        classifier = model.model_.atoms
        assert classifier is not None and not classifier.base_models.processes
        for rows in (train, test):
            p = classifier.distribution(rows.X)[:, 0].exp().numpy()
            odds = rows.dry * np.log(rows.dry / p)
            found.append((odds + (1 - rows.dry) * np.log((1 - rows.dry) / (1 - p))).mean())
    own, new = np.reshape(found, (2, 2)).mean(0)
    assert new < 0.03 and own < 1.5 * new


def test_far_values_are_those_of_no_row_at_the_atoms_either() -> None:
    """A column that varies a hundred times more where y is 0: only beyond that it is far."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = np.where(X[:, 0] > 0, np.exp(0.3 * rng.normal(size=200)), 0.0)
    X[y == 0, 1] *= 100
    model = MDNRegressor(**SMALL, target="positive", atoms=[0.0]).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X)
    with pytest.warns(DataWarning, match=r"far outside the range of training: column 1 \(1 row"):
        model.predict([[0.0, 1e5]])


def test_the_density_is_with_respect_to_length_and_the_atoms(rain: Any) -> None:
    """P(Y = 0) and the integral of exp(log_prob) elsewhere add up to 1; 0 below."""
    model, _, test = rain
    for row in test.X[:3]:
        dist = model.predict_distribution(row[None])
        at = model.log_prob(row[None], [1.5])
        np.testing.assert_allclose(dist.log_prob([[1.5]]), at, rtol=1e-12)

        def density(y: float, dist: Any = dist) -> float:
            return float(dist.log_prob([[y]]).exp())

        cuts = itertools.pairwise(np.geomspace(1e-4, 1e3, 40))
        area = sum(scipy.integrate.quad(density, a, b)[0] for a, b in cuts)
        assert area + density(0.0) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"and atoms=\[0\.0\] y must be positive"):
        model.log_prob(test.X[:1], [-1.0])


def test_moments_quantiles_intervals_and_draws_agree(rain: Any) -> None:
    """With those of draws, to 5 standard errors; quantiles reach their level and not before."""
    model, _, test = rain
    X = test.X[:20]
    draws = model.sample(X, 4000, random_state=0)
    mean, std = model.predict(X, return_std=True)
    assert (abs(draws.mean(1) - mean) < 5 * std / math.sqrt(4000)).all()
    zero = (draws == 0).mean(1)
    p = model.predict_distribution(X).atom_probs[:, 0].numpy()
    assert (abs(zero - p) < 5 * np.sqrt(p * (1 - p) / 4000)).all()
    q = model.predict_quantiles(X, [0.1, 0.5, 0.95])
    dist = model.predict_distribution(X)
    at = torch.from_numpy(q.T[..., None])
    level = torch.tensor([[0.1], [0.5], [0.95]], dtype=torch.float64)
    assert bool((dist.cdf(at) >= level - 1e-9).all())
    assert bool((dist.cdf(at - 1e-5) < level).all())
    np.testing.assert_array_equal(q[:, 1] == 0, p >= 0.5)
    np.testing.assert_array_equal(model.predict_mode(X), 0.0)
    region = model.predict_hdr(X, 0.6)
    assert (region.intervals[:, 0] == 0).all() and (region.threshold[p >= 0.6] == math.inf).all()
    assert all(part.shape == (20,) for part in model.predict_uncertainty(X))


def test_calibration_is_that_of_the_truth(rain: Any) -> None:
    """The randomised PIT is uniform (p > 1e-3), and 90 % intervals cover as the exact ones do."""
    model, _, test = rain
    dist = model.predict_distribution(test.X)
    y = test.y[:, None]
    generator = torch.Generator().manual_seed(0)
    pit = mdn.scoring.randomized_pit(dist, y, generator=generator)
    assert np.isin(pit < test.dry.min() / 2, [True, False]).all() and 0 < pit.min() < pit.max() < 1
    assert S.kstest(pit, "uniform").statistic < 0.04
    low, high = dist.interval(0.9).numpy().T
    wet = np.clip((np.array([[0.05], [0.95]]) - test.dry) / (1 - test.dry), 0, 1)
    exact = np.exp(test.loc + test.scale * S.norm.ppf(wet))
    inside, wanted = ((a <= test.y) & (test.y <= b) for a, b in ((low, high), exact))
    assert abs(inside.mean() - wanted.mean()) < 0.02
    assert mdn.calibration.hdr_values(dist[:500], y[:500]).std() == pytest.approx(0.289, abs=0.03)


def test_values_of_the_region_are_those_of_hdr_and_uniform() -> None:
    """v <= c exactly where the region of coverage c has y; uniform for draws (p > 1e-3)."""
    base = mdn.GaussianMixture(torch.zeros(2).double(), torch.tensor([[-2.0], [1.0]]).double(),
                               torch.tensor([[0.5], [1.5]]).double())  # fmt: skip
    weights = torch.tensor([0.1, 0.25, 0.1, 0.55], dtype=torch.float64)
    dist = AtomicMixture(base, torch.tensor([3.0, 0.0, -1.0]).double(), weights.log())
    y = dist.sample((3000,), generator=torch.Generator().manual_seed(0))
    v = mdn.calibration.hdr_values(dist, y)
    assert S.kstest(v, "uniform").pvalue > 1e-3
    for coverage in (0.25, 0.35, 0.45, 0.8):  # at the ends of the atoms, where no draw decides
        ends = dist.hdr(coverage - 1e-10).intervals
        inside = ((y >= ends[:, 0]) & (y <= ends[:, 1])).any(1)
        np.testing.assert_array_equal(v <= coverage + 1e-9, inside)


def test_crps_is_the_integral_of_the_squared_error_of_the_cdf() -> None:
    """Three atoms beside two Gaussians, with the jumps as ends of the quadrature."""
    weights, atoms = np.array([0.2, 0.05, 0.25, 0.5]), np.array([0.0, 2.0, -1.0])
    base = mdn.GaussianMixture(*(torch.tensor(a).double() for a in ([0.0, 1.0], [[-2.0], [1.0]],
                                                                  [[0.5], [1.5]])))  # fmt: skip
    dist = AtomicMixture(base, torch.from_numpy(atoms), torch.from_numpy(np.log(weights)))

    def cdf(x: float) -> float:
        w = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
        smooth = w @ S.norm([-2.0, 1.0], [0.5, 1.5]).cdf(x)
        return float(weights[:3] @ (atoms <= x) + weights[3] * smooth)

    for y in (-3.0, -1.0, 0.0, 0.7, 5.0):

        def squared(x: float, y: float = y) -> float:
            return (cdf(x) - (y <= x)) ** 2

        cuts = itertools.pairwise(np.unique([-12.0, *atoms, y, 12.0]))
        want = sum(scipy.integrate.quad(squared, a + 1e-13, b - 1e-13)[0] for a, b in cuts)
        assert dist.crps(torch.tensor([y]).double()).item() == pytest.approx(want, rel=1e-7)


def test_saved_and_loaded_it_predicts_the_same(rain: Any, tmp_path: Path) -> None:
    """Bit for bit, with its atoms."""
    model, _, test = rain
    model.save(tmp_path / "rain.mdn")
    again = mdn.load(tmp_path / "rain.mdn")
    assert again.atoms == [0.0] and again.target_.atoms.tolist() == [0.0]
    np.testing.assert_array_equal(
        again.log_prob(test.X[:200], test.y[:200]), model.log_prob(test.X[:200], test.y[:200])
    )


@pytest.mark.filterwarnings("error")
def test_the_limit_of_an_instrument_is_an_atom() -> None:
    """min(x + 0.5 e, 1): P(Y = 1) = Phi((x - 1) / 0.5), to 0.1; a density below."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 2, (800, 1))
    y = np.minimum(x[:, 0] + 0.5 * rng.normal(size=800), 1.0)
    model = MDNRegressor(**SMALL, atoms=[1.0]).fit(x, y)
    grid = np.linspace(-0.9, 1.9, 15)[:, None]
    p = np.exp(model.log_prob(grid, np.ones(15)))
    assert abs(p - S.norm.cdf((grid[:, 0] - 1.0) / 0.5)).max() < 0.1


def test_shares_with_exact_zeros_and_ones_have_two_atoms() -> None:
    """A logit between them; three classes whose probabilities add up to 1."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (600, 1))
    z = 1.5 * x[:, 0] + rng.normal(size=600)
    y = np.where(z < -1, 0.0, np.where(z > 1, 1.0, expit(3 * z)))
    model = MDNRegressor(**SMALL, target="unit", atoms=[0.0, 1.0]).fit(x, y)
    grid = np.linspace(-0.9, 0.9, 7)[:, None]
    dist = model.predict_distribution(grid)
    want = np.stack([S.norm.cdf(-1 - 1.5 * grid[:, 0]), S.norm.sf(1 - 1.5 * grid[:, 0])], 1)
    assert abs(dist.atom_probs.numpy() - want).max() < 0.12
    torch.testing.assert_close(dist.logits.exp().sum(-1), torch.ones(7).double())
    assert bool((dist.cdf(torch.ones(7, 1).double()) == 1.0).all())


def test_weights_rows_and_units_count_as_for_any_target() -> None:
    """128 y has the NLL plus log 128 at the rows off the atom, and the same at the atom."""
    rain = Rain.draw(260, 5)
    X, y = rain.X, rain.y
    one = MDNRegressor(**SMALL, atoms=[0.0])
    plain = one.fit(X, y).log_prob(X, y)
    scaled = MDNRegressor(**SMALL, atoms=[0.0]).fit(X, 128 * y).log_prob(X, 128 * y)
    np.testing.assert_allclose(scaled + math.log(128) * (y > 0), plain, atol=1e-4)
    rising = np.linspace(0.3, 1.7, 260)
    weighted = MDNRegressor(**SMALL, atoms=[0.0]).fit(X, y, sample_weight=rising)
    assert np.isfinite(weighted.log_prob(X, y)).all()
    held = MDNRegressor(**SMALL, atoms=[0.0]).fit(X[:200], y[:200], eval_set=(X[200:], y[200:]))
    assert np.isfinite(held.nll(X, y))
    with pytest.raises(
        ValueError, match=r"^eval_set must have rows whose y is none of the atoms; got none$"
    ):
        held.fit(X[:200], y[:200], eval_set=(X[y == 0], y[y == 0]))
    again = MDNRegressor(**SMALL, atoms=[0.0], warm_start=True).fit(X, y)
    before = again.nll(X, y)
    assert again.fit(X, y).nll(X, y) != before
    with pytest.raises(ValueError, match=r"^warm_start needs the same kind, atoms and number of"):
        again.set_params(atoms=[0.0, 1.0]).fit(X, np.append(y[:-1], 1.0))


def test_out_of_fold_predictions_have_the_atoms_of_every_fold() -> None:
    """One AtomicMixture of all rows; the PIT of its rows passes."""
    rain = Rain.draw(200, 6)
    model = MDNRegressor(**SMALL, atoms=[0.0])
    dist = out_of_fold(model, rain.X, rain.y, cv=3)
    assert isinstance(dist, AtomicMixture) and dist.batch_shape == (200,)
    found = pit_test(dist, rain.y[:, None])
    assert found.kolmogorov.p_value > 1e-4
    with pytest.raises(TypeError, match=r"must be a GaussianMixture.*; got AtomicMixture"):
        mdn.calibration.recalibrate(dist, rain.y[:, None])


def test_an_atom_stored_in_single_precision_is_found() -> None:
    """0.1 in float32 is 0.100000001; an atom that no row has is small, with a warning."""
    rng = np.random.default_rng(7)
    x = rng.uniform(size=(200, 1))
    y = np.where(rng.random(200) < 0.5, 0.1, 1 + x[:, 0] + 0.1 * rng.normal(size=200))
    y = y.astype(np.float32)
    model = MDNRegressor(**SMALL, atoms=[0.1]).fit(x, y)
    assert model.target_.atoms.tolist() == [float(np.float32(0.1))]
    assert abs(np.exp(model.log_prob(x, np.full(200, np.float32(0.1)))).mean() - 0.5) < 0.1
    with pytest.warns(DataWarning, match="^no y is 7, which atoms names: nothing is known of"):
        model = MDNRegressor(**SMALL, atoms=[0.1, 7.0]).fit(x, y)
    p = model.predict_distribution(x).atom_probs[:, 1]
    assert 0 < float(p.max()) < 0.02


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda y: y, r'target="positive", atoms=\[0\.0\] learns'),
        (lambda y: np.where(y > 2, -y, y), r"meaningful; atoms=\[0\.0\] learns the probability of"),
        (lambda y: np.where(y > 2, 2.0, y), r" or 2, and the others.*atoms=\[0\.0, 2\.0\] learns"),
    ],
)
def test_the_warning_of_heaps_names_the_cure(change: Any, cure: str) -> None:
    """A value of many rows beside others that hardly repeat."""
    rain = Rain.draw(300, 8)
    with pytest.warns(DataWarning, match=r"^\d+% of y are exactly 0.*" + cure):
        MDNRegressor(**SMALL | {"max_epochs": 1}).fit(rain.X, change(rain.y))
    with pytest.warns(DataWarning, match=r"% of y are exactly 2.*atoms=\[0\.0, 2\.0\] learns each|"
                      r"% of y are exactly 2, .*atoms=\[0\.0, 2\.0\] learns"):  # fmt: skip
        MDNRegressor(**SMALL | {"max_epochs": 1}, atoms=[0.0]).fit(rain.X, np.minimum(rain.y, 2.0))

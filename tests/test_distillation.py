"""Distillation: one small network that stands for a fitted model."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import mdn
from mdn import GaussianMixture, MDNRegressor
from mdn.estimator import _distillation as distillation
from mdn.tables import Columns
from mdn.warnings import TrainingWarning


def wave(n: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with a number, a category and a gap; noise that depends on the category."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, n)
    kind = rng.choice(["calm", "wild"], n)
    z = rng.normal(size=n)
    z[rng.random(n) < 0.1] = np.nan
    y = 100 + 10 * (np.sin(2 * x) + np.where(kind == "wild", 0.5, 0.1) * rng.normal(size=n))
    return pd.DataFrame({"x": x, "kind": kind, "z": z}), y


@pytest.fixture(scope="module")
def teacher() -> MDNRegressor:
    X, y = wave(300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MDNRegressor(preset="fast", ensemble_size=4, random_state=0)
        return model.fit(X, pd.Series(y, name="height"))


@pytest.fixture(scope="module")
def student(teacher: MDNRegressor) -> MDNRegressor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return teacher.distil(max_time=8, max_size=60, random_state=0, eval_set=wave(200, 1))


def test_the_student_predicts_like_its_teacher(teacher, student):
    X, y = wave(1000, seed=2)
    assert student.nll(X, y) < teacher.nll(X, y) + 0.15
    gap = np.abs(student.predict(X) - teacher.predict(X)).mean()
    assert gap < 1.0  # y has a standard deviation of 8
    levels = [0.05, 0.5, 0.95]
    gap = np.abs(student.predict_quantiles(X, levels) - teacher.predict_quantiles(X, levels)).mean()
    assert gap < 1.5


def test_the_divergence_is_that_of_monte_carlo(teacher, student):
    """E log p - E log q over draws of the teacher, on rows of another draw of the same kind."""
    X, _ = wave(300, seed=3)
    draws = teacher.sample(X, 50, random_state=0)
    p = teacher.predict_distribution(X)
    q = student.predict_distribution(X)
    at = torch.as_tensor(draws.T).unsqueeze(-1)
    found = float((p.log_prob(at) - q.log_prob(at)).mean())
    about = student.info_["distilled"]
    assert 0 < about["divergence"] < 0.3
    assert found < about["divergence"] + 0.1  # made rows are harder than rows of the data
    assert about["standard_error"] < 0.05


def test_the_student_keeps_columns_names_units_and_the_warning_of_far_rows(teacher, student):
    X, _ = wave(5)
    assert list(student.feature_names_in_) == ["x", "kind", "z"]
    assert student.target_names_ == ["height"]
    assert list(student.predict_frame(X, "mean,q05").columns) == ["mean", "q05"]
    with pytest.warns(mdn.DataWarning, match="far outside"):
        student.predict(X.assign(x=1e6))
    with pytest.raises(ValueError, match="feature names"):
        student.predict(X.rename(columns={"x": "other"}))


def test_a_saved_student_is_small_and_holds_no_row(teacher, student, tmp_path):
    student.save(tmp_path / "s.mdn")
    teacher.save(tmp_path / "t.mdn")
    assert (tmp_path / "s.mdn").stat().st_size < min(90_000, (tmp_path / "t.mdn").stat().st_size)
    X, _ = wave(300)
    again = mdn.load(tmp_path / "s.mdn")
    new, _ = wave(20, seed=5)
    assert np.array_equal(again.predict(new), student.predict(new))
    assert again.info_["distilled"] == student.info_["distilled"]
    _, tensors = student.state()
    inner = np.sort(X["x"].to_numpy())[1:-1]  # the ends of the range are kept, for the warning
    for name, a in tensors.items():
        values = np.concatenate([[0.0], a.double().numpy().ravel()])
        nearest = np.abs(inner[:, None] - values[None, :]).min(1)
        assert (nearest < 1e-12).sum() == 0, name


def test_max_size_bounds_the_weights(teacher):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        small = teacher.distil(max_time=1, max_size=20, n_components=3)
    assert 4 * small.info_["distilled"]["parameters"] <= 20_000
    with pytest.raises(ValueError, match="max_size must have room for a network"):
        teacher.distil(max_time=1, max_size=1)


@pytest.mark.parametrize("name", ["max_loss", "max_size", "max_time"])
def test_limits_must_be_positive(teacher, name):
    with pytest.raises(ValueError, match=name):
        teacher.distil(**{name: 0})


def test_a_loss_above_the_limit_is_a_warning(teacher):
    with pytest.warns(TrainingWarning, match="more than max_loss=1e-06"):
        teacher.distil(max_time=0.5, max_size=20, max_loss=1e-6)


def test_a_model_from_a_file_makes_rows_of_its_own(teacher, tmp_path):
    teacher.save(tmp_path / "t.mdn")
    again = mdn.load(tmp_path / "t.mdn")
    rows = distillation.held_rows(again.model_, np.random.default_rng(0))
    X, _ = wave(300)
    encoded = again.columns_.transform(X)
    assert rows.shape[1] == encoded.shape[1]
    assert rows.min(0) == pytest.approx(encoded.min(0), abs=1e-6)
    assert rows.max(0) == pytest.approx(encoded.max(0), abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        found = again.distil(max_time=3, max_size=60)
    assert found.info_["distilled"]["divergence"] < 0.5
    assert np.abs(found.predict(X) - again.predict(X)).mean() < 3


def test_a_pickle_holds_no_training_rows(teacher):
    again = pickle.loads(pickle.dumps(teacher))
    assert again._inputs_of_fit is None
    assert teacher._inputs_of_fit is not None


def test_a_student_of_a_target_with_atoms_keeps_their_probabilities():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 400)
    wet = rng.random(400) < 1 / (1 + np.exp(-3 * x))
    y = np.where(wet, np.exp(x + 0.3 * rng.normal(size=400)), 0.0)
    model = MDNRegressor(
        preset="fast", ensemble_size=4, atoms=[0.0], target="positive", random_state=0
    ).fit(x[:, None], y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        small = model.distil(max_time=6, max_size=60)
    grid = np.linspace(-0.9, 0.9, 50)[:, None]
    p, q = (np.exp(m.log_prob(grid, np.zeros(50))) for m in (model, small))
    assert np.abs(p - q).max() < 0.1
    assert np.abs(model.predict(grid) - small.predict(grid)).max() < 0.3


def test_draws_follow_the_mixture():
    """Their mean log density is minus the entropy; their cdf values are uniform."""
    g = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]]).double()
    loc = torch.tensor([[-1.0, 0.5, 3.0], [0.0, 0.1, -5.0]]).double().unsqueeze(-1)
    scale = torch.tensor([[0.2, 1.0, 0.1], [1.0, 0.01, 2.0]]).double().unsqueeze(-1)
    dist = GaussianMixture(logits, loc, scale)
    y = torch.cat([distillation._draws(dist, g) for _ in range(200)], 1)  # (2, 12800, 1)
    u = dist.cdf(y.movedim(1, 0).double()).numpy()
    for row in u.T:
        counts = np.histogram(row, 20, (0, 1))[0] / len(row)
        assert np.abs(counts - 0.05).max() < 0.005
    found = -dist.log_prob(y.movedim(1, 0).double()).mean(0)
    assert found.numpy() == pytest.approx(dist.entropy().numpy(), abs=0.02)


def test_made_rows_take_all_columns_of_a_category_from_one_row():
    X, _ = wave(200)
    columns = Columns.fit(X)
    assert columns.sources.tolist() == [0, 1, 1, 2, 2]
    x = columns.transform(X)
    inputs = mdn.estimator._model.InputTransform.fit(x, None)
    maker = distillation._Maker(
        x, columns.numeric, columns.sources, inputs, np.random.default_rng(0)
    )
    made = maker.draw(500)
    assert made.shape == (500, 5)
    assert (made[:, 1:3].sum(1) == 1).all()
    assert set(np.unique(made[:, 1:3])) == {0.0, 1.0}
    assert (made.min(0) >= x.min(0)).all() and (made.max(0) <= x.max(0)).all()

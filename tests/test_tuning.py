"""Tests of mdn.tune: its scores, the comparison with the default, resuming, refusals."""

from __future__ import annotations

import inspect
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import mdn
from mdn import History, MDNRegressor, TrainingError, tuning
from mdn.estimator import _training

optuna = pytest.importorskip("optuna", reason='needs optuna: pip install "mdn[tune]"')

# a learning rate at which nothing is learned, so that there is something to find
FAST: dict[str, Any] = {
    "n_components": 2,
    "hidden": (8,),
    "learning_rate": 1e-6,
    "weight_decay": 1e-3,
    "max_epochs": 4,
    "ensemble_size": 1,
    "trees": False,
}
N = 60


def rows(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (N, 2) whose first column numbers the rows, and y that depends on the second."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return np.stack([np.arange(n), x], 1), 2 * x + 0.5 * rng.normal(size=n)


def search(n_trials: int = 4, X: Any = None, y: Any = None, **options: Any) -> MDNRegressor:
    defaults = {"cv": 3, "estimator": MDNRegressor(**FAST), "random_state": 0}
    if X is None:
        X, y = rows()
    return mdn.tune(X, y, n_trials, **{**defaults, **options})


def table(model: MDNRegressor) -> list[tuple[Any, ...]]:
    """What the trials were, without numbers and times."""
    done = [t for t in model.study_.trials if t.state.name in ("COMPLETE", "PRUNED")]
    return [(t.state.name, t.value, t.params) for t in done]


class Spy:
    """Records each fit and each score of MDNRegressor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fits: list[tuple[dict[str, Any], Any, Any]] = []
        self.scores: list[tuple[Any, float]] = []
        fit, nll = MDNRegressor.fit, MDNRegressor.nll

        def spied_fit(
            model: MDNRegressor, X: Any, y: Any, sample_weight: Any = None
        ) -> MDNRegressor:
            self.fits.append((model.get_params(), X, sample_weight))
            return fit(model, X, y, sample_weight)

        def spied_nll(model: MDNRegressor, X: Any, y: Any, weight: Any = None) -> float:
            self.scores.append((X, nll(model, X, y, weight)))
            return self.scores[-1][1]

        monkeypatch.setattr(MDNRegressor, "fit", spied_fit)
        monkeypatch.setattr(MDNRegressor, "nll", spied_nll)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


# -- the search -------------------------------------------------------------------------------


def test_the_result_is_the_best_setting_and_never_worse_than_the_default() -> None:
    """The default is the first trial, with its own values; best_value is the lowest score."""
    model = search(8)
    study = model.study_
    first = study.trials[0]
    assert first.state.name == "COMPLETE"
    assert first.params == {
        "n_components": 2,
        "hidden": "8",
        "learning_rate": 1e-6,
        "weight_decay": 1e-3,
    }
    complete = [t.value for t in study.trials if t.state.name == "COMPLETE"]
    assert study.best_value == min(complete) < first.value
    best = study.best_params
    hidden = tuple(int(width) for width in best["hidden"].split("-"))
    found = model.get_params()
    assert found["hidden"] == hidden
    assert {k: found[k] for k in best if k != "hidden"} == {
        k: v for k, v in best.items() if k != "hidden"
    }
    assert found["max_epochs"] == 4  # what is not searched stays


def test_a_score_is_the_nll_of_rows_that_the_model_did_not_see(spy: Spy) -> None:
    """Every row is held out once; the score is the mean over rows, also where folds differ."""
    n = 61
    model = search(1, *rows(n))
    whole, *folds = spy.fits
    assert len(whole[1]) == n
    assert len(folds) == len(spy.scores) == 3
    held = [set(X[:, 0]) for X, _ in spy.scores]
    assert sorted(len(h) for h in held) == [20, 20, 21]
    assert set.union(*held) == set(range(n))
    for (_, X, _), out in zip(folds, held, strict=True):
        assert set(X[:, 0]) == set(range(n)) - out
    mean = sum(len(X) * nll for X, nll in spy.scores) / n
    assert model.study_.best_value == pytest.approx(mean, rel=1e-12)


def test_all_settings_meet_the_same_folds_and_seeds(spy: Spy) -> None:
    """Fold k holds out the same rows, and starts from the same seed, for every setting."""
    search(3, study=optuna.create_study(pruner=optuna.pruners.NopPruner()))
    held = [X[:, 0].tolist() for X, _ in spy.scores]
    assert len(held) == 9
    assert held[:3] == held[3:6] == held[6:]
    seeds = [params["random_state"] for params, _, _ in spy.fits[1:10]]
    assert seeds == [0, 1, 2] * 3


def test_the_default_is_returned_as_it_was_fitted_if_nothing_beats_it(spy: Spy) -> None:
    """One trial: the model of all rows is not fitted a second time."""
    model = search(1)
    assert len(spy.fits) == 1 + 3
    X, y = rows()
    again = MDNRegressor(**FAST, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), again.predict(X))


def test_the_best_setting_is_fitted_to_all_rows(spy: Spy) -> None:
    """The model returned is what its own parameters give on all rows."""
    model = search(8)
    params, X, _ = spy.fits[-1]
    assert len(X) == N
    assert params == model.get_params()
    X, y = rows()
    again = MDNRegressor(**model.get_params()).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), again.predict(X))


def test_a_number_as_seed_repeats_the_search_and_the_model() -> None:
    """Bit for bit, also from the estimator's own seed; and no global generator is touched."""
    X, _ = rows()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = search(6), search(6)
    seeded = MDNRegressor(**FAST, random_state=0)
    third = search(6, estimator=seeded, random_state=None)
    assert table(first) == table(second) == table(third)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    other = search(6, random_state=np.random.RandomState(1))
    assert table(other) != table(first)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_a_hopeless_setting_is_given_up_but_never_the_default(spy: Spy) -> None:
    """A pruner that rejects everything: the default is scored on all folds, the rest on one."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=-100.0))
    model = search(4, study=study)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] + 3 * ["PRUNED"]
    assert len(spy.scores) == 3 + 3
    assert model.study_ is study
    assert model.n_components == 2


def test_a_setting_drawn_again_is_not_fitted_again(
    spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two settings in all: twelve trials take the fits of two."""
    monkeypatch.setattr(tuning, "CHOICES", {"n_components": (1, 2)})
    model = search(12)
    assert len(model.study_.trials) == 12
    assert len(spy.scores) <= 2 * 3
    values = {t.params["n_components"]: t.value for t in model.study_.trials}
    assert all(t.value == values[t.params["n_components"]] for t in model.study_.trials)


def test_a_setting_whose_training_breaks_down_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its score is infinite, and the search goes on."""
    fit = MDNRegressor.fit

    def breaks(model: MDNRegressor, *data: Any) -> MDNRegressor:
        if model.hidden != (8,):
            raise TrainingError("the loss is NaN", 0, 0, math.nan, History())
        return fit(model, *data)

    monkeypatch.setattr(MDNRegressor, "fit", breaks)
    model = search(12)
    assert len(model.study_.trials) == 12
    assert model.hidden == (8,)
    broken = [t for t in model.study_.trials if t.params["hidden"] != "8"]
    assert len(broken) > 5  # also behind the trials from which on there is pruning
    assert all(t.value == math.inf for t in broken)


def test_every_parameter_searched_is_one_of_the_regressor() -> None:
    """The table names nothing that MDNRegressor does not have, and can be stored."""
    parameters = inspect.signature(MDNRegressor).parameters
    assert tuning.CHOICES.keys() <= parameters.keys()
    choices = tuning._choices(MDNRegressor().get_params())
    for name, values in choices.items():
        assert all(label is None or isinstance(label, (int, float, str)) for label in values)
        assert next(iter(values)) == tuning._label(MDNRegressor().get_params()[name])
    assert choices["hidden"]["64-64"] == (64, 64)
    with_none = tuning._choices({**MDNRegressor().get_params(), "n_components": None})
    assert with_none["n_components"][None] is None


# -- data -------------------------------------------------------------------------------------


def test_frames_lists_and_several_targets_are_taken() -> None:
    """As by fit; a frame keeps its columns, and a list is the array of its numbers."""
    X, y = rows()
    frame = pd.DataFrame(X, columns=["row", "x"], index=np.arange(N)[::-1])
    from_frame = search(2, frame, pd.Series(y, index=frame.index))
    assert list(from_frame.feature_names_in_) == ["row", "x"]
    assert table(from_frame) == table(search(2, X.tolist(), y.tolist()))
    joint = MDNRegressor(**FAST, covariance_type="full")
    several = search(2, X, np.stack([y, -y + X[:, 1]], 1), estimator=joint)
    assert several.predict(X).shape == (N, 2)
    assert several.covariance_type == "full"


def test_weights_count_in_fit_and_score(spy: Spy) -> None:
    """A row of weight 0 is as if it were not there; the score is the weighted mean."""
    X, y = rows()
    weight = np.where(np.arange(N) % 3 == 0, 0.0, 1.0)
    kept = weight > 0
    with_zeros = search(2, X, y, sample_weight=weight)
    without = search(2, X[kept], y[kept], sample_weight=weight[kept])
    assert table(with_zeros) == table(without)
    spy.fits.clear()
    spy.scores.clear()
    heavy = 1.0 + np.arange(N)
    model = search(1, X, y, sample_weight=heavy)
    assert all(weight is not None for _, _, weight in spy.fits)
    total = sum(nll * heavy[X[:, 0].astype(int)].sum() for X, nll in spy.scores)
    assert model.study_.best_value == pytest.approx(total / heavy.sum(), rel=1e-12)


@pytest.mark.parametrize("kind", ["array", "frame", "list"])
def test_a_pipeline_is_searched_as_the_regressor_at_its_end(kind: str) -> None:
    """The same settings and scores as of the regressor alone on the transformed rows."""
    X, y = rows()
    weight = np.arange(N) % 3.0
    table_of = {"array": np.asarray, "frame": pd.DataFrame, "list": np.ndarray.tolist}[kind]
    halved = FunctionTransformer(lambda a: np.asarray(a) / 2)
    pipeline = make_pipeline(halved, MDNRegressor(**FAST))
    model = search(3, table_of(X), y, sample_weight=weight, estimator=pipeline)
    alone = search(3, X / 2, y, sample_weight=weight)
    assert table(model) == table(alone)
    assert isinstance(model, Pipeline) and model is not pipeline
    np.testing.assert_array_equal(model.predict(table_of(X)), alone.predict(X / 2))
    with pytest.raises(ValueError, match="begun with another estimator"):
        search(3, X / 2, y, sample_weight=weight, estimator=pipeline, study=alone.study_)


def test_what_does_not_end_in_a_regressor_of_mdn_is_refused() -> None:
    """Its settings are not those that are searched."""
    for other in (LinearRegression(), make_pipeline(LinearRegression())):
        with pytest.raises(TypeError, match="Pipeline that ends in one; got LinearRegression"):
            search(1, estimator=other)


# -- interrupted and resumed ------------------------------------------------------------------


def test_a_search_goes_on_from_its_file_as_if_it_had_not_ended(tmp_path: Path, spy: Spy) -> None:
    """3 trials and then 7 are the 7 at once; those of the file are not run again."""
    path = tmp_path / "search.db"
    first = search(3, storage=path)
    assert len(first.study_.trials) == 3
    spy.scores.clear()
    resumed = search(7, storage=str(path))
    assert len(spy.scores) <= 4 * 3
    once = search(7)
    assert table(resumed) == table(once)
    np.testing.assert_array_equal(resumed.predict(rows()[0]), once.predict(rows()[0]))
    spy.scores.clear()
    finished = search(7, storage=f"sqlite:///{path}")
    assert spy.scores == []
    assert finished.get_params() == once.get_params()


@pytest.mark.parametrize("at", [2, 8], ids=["in the default", "in a later trial"])
def test_an_interrupt_ends_the_search_and_loses_one_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Ctrl-C alone ends one training, with the best weights; here the search, which resumes."""
    fit_ensemble = _training.fit_ensemble
    trainings = itertools.count()

    def interrupted(*args: Any, report: Any, **options: Any) -> History:
        here = next(trainings) == at

        def press(done: int, total: int) -> None:
            report(done, total)
            if here and done == 2:
                raise KeyboardInterrupt

        return fit_ensemble(*args, report=press, **options)

    path = tmp_path / "search.db"
    with monkeypatch.context() as patch:
        patch.setattr(_training, "fit_ensemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(5, storage=path)
    resumed = search(5, storage=path)
    states = [t.state.name for t in resumed.study_.trials]
    assert states.count("FAIL") == 1
    assert table(resumed) == table(search(5))


def test_without_a_seed_a_resumed_search_keeps_its_own(tmp_path: Path) -> None:
    """Else the folds would change, and the scores would not compare."""
    path = tmp_path / "search.db"
    first = search(2, storage=path, random_state=None)
    before = table(first)
    resumed = search(4, storage=path, random_state=None)
    seed = resumed.get_params()["random_state"]
    assert seed == first.get_params()["random_state"]
    assert table(resumed)[:2] == before
    assert table(resumed) == table(search(4, random_state=seed))


def test_storages_of_optuna_are_taken() -> None:
    """An object in place of a path."""
    storage = optuna.storages.InMemoryStorage()
    search(2, storage=storage)
    assert len(search(3, storage=storage).study_.trials) == 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that a fit moves on by one second."""
    now = [100.0]
    fit = MDNRegressor.fit

    def slow(model: MDNRegressor, *data: Any) -> MDNRegressor:
        now[0] += 1.0
        return fit(model, *data)

    monkeypatch.setattr(tuning.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(MDNRegressor, "fit", slow)
    return now


def test_the_time_ends_the_search_but_not_before_the_default(clock: list[float]) -> None:
    """A timeout already over: one trial, complete, and a fitted model."""
    model = search(50, timeout=0.5)
    assert [t.state.name for t in model.study_.trials] == ["COMPLETE"]
    assert model.predict(rows()[0]).shape == (N,)


def test_the_time_is_looked_at_between_folds(clock: list[float]) -> None:
    """5.5 s: all rows, 3 folds of the default, 2 folds of the next, which is given up."""
    model = search(50, timeout=5.5)
    assert [t.state.name for t in model.study_.trials] == ["COMPLETE", "FAIL"]
    assert clock[0] == 106.0
    np.testing.assert_array_equal(
        model.predict(rows()[0]), search(1).predict(rows()[0])
    )  # the trial given up has no score


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trials": 0}, "n_trials must be at least 1; got 0"),
        ({"cv": 1}, "cv must be at least 2; got 1"),
        ({"cv": 31}, "cv must be at most half the number of rows, 60 here; got 31"),
        ({"timeout": 0}, "timeout must be positive.*; got 0"),
        ({"random_state": -1}, "random_state must be at least 0; got -1"),
        ({"storage": "a.db", "study": "b"}, "give storage or study, not both"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """With the name, the range and what was found."""
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_arguments_of_the_wrong_type_are_refused() -> None:
    """With the name and the type."""
    with pytest.raises(TypeError, match=r"n_trials must be an integer; got .*float"):
        search(2.0)
    with pytest.raises(TypeError, match=r"cv must be an integer; got .*bool"):
        search(cv=True)


def test_bad_data_are_reported_with_their_own_row() -> None:
    """Not with the row of a fold; and before any trial."""
    X, y = rows()
    y[37] = np.nan
    with pytest.raises(ValueError, match=r"y must be finite, but contains NaN in row 37"):
        search(2, X, y)
    with pytest.raises(ValueError, match="60 and 59"):
        search(2, X, y[1:])


def test_a_study_of_something_else_is_refused() -> None:
    """Scores on other rows, folds or settings do not compare."""
    X, y = rows()
    storage = optuna.storages.InMemoryStorage()
    search(1, storage=storage)
    for options, what in (
        ({"X": X, "y": y + 1}, "X, y or sample_weight"),
        ({"X": X[:, ::-1], "y": y}, "X, y or sample_weight"),
        ({"sample_weight": np.ones(N)}, "X, y or sample_weight"),
        ({"cv": 4}, "cv"),
        ({"random_state": 1}, "random_state"),
        ({"estimator": MDNRegressor(**{**FAST, "max_epochs": 5})}, "estimator"),
        ({"estimator": MDNRegressor(**{**FAST, "hidden": (9,)})}, "choices"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {what}, so its scores"):
            search(1, storage=storage, **options)
    search(1, storage=storage, estimator=MDNRegressor(**FAST, verbose=False))


def test_a_study_that_cannot_hold_the_search_is_refused() -> None:
    """One that maximises, one of several values, one with trials of its own."""
    for directions in (["maximize"], ["minimize", "minimize"]):
        with pytest.raises(ValueError, match="study must minimise one value"):
            search(1, study=optuna.create_study(directions=directions))
    foreign = optuna.create_study()
    foreign.optimize(lambda trial: trial.suggest_float("a", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match=r"holds trials that are not of mdn\.tune"):
        search(1, study=foreign)


def test_a_storage_without_its_folder_is_refused(tmp_path: Path) -> None:
    """Before anything is fitted."""
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        search(1, storage=tmp_path / "missing" / "search.db")


def test_a_missing_optuna_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """None in sys.modules is Python's own way to say: cannot be imported."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'needs optuna; .*pip install "mdn\[tune\]"'):
        search(1)


def test_the_name_is_the_function_and_loads_optuna_only_when_called() -> None:
    """Also after the module behind it has been imported by its own name."""
    code = (
        "import sys, mdn; assert 'mdn.tuning' not in sys.modules; assert callable(mdn.tune)\n"
        "import mdn.tuning; assert mdn.tune is mdn.tuning.tune; assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Hyperparameter search of MDNRegressor by cross-validated NLL, with optuna (an extra)."""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import check_integer, check_number, without_mask
from .estimator import MDNRegressor
from .prediction import final_model, kind_of, n_rows, take_rows, warn_of_index
from .tables._folds import deal, fold_groups
from .train import TrainingError
from .warnings import once

if TYPE_CHECKING:
    import optuna

__all__ = ["tune"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "n_components": (1, 2, 3, 5, 8, 12, 20),
    "hidden": ((32, 32), (64, 64), (128, 128), (256, 256), (64, 64, 64), (128, 128, 128)),
    "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-6, 1e-4, 1e-3, 1e-2, 1e-1),
}
"""Values that are tried, by parameter of MDNRegressor; that of the default setting is added.

Steps of about a factor 3: a finer one changes the score by less than another seed does.
"""

# Parameters that change neither the model nor its score beyond rounding.
_IRRELEVANT = {"device", "n_jobs", "random_state", "verbose"}

_NAME = "mdn.tune"  # of the study in a storage, and of its attribute with what is scored
_DEFAULT = "default"  # attribute of the trial of the default setting


@once()
def tune(
    X: Any,
    y: ArrayLike,
    n_trials: int = 50,
    timeout: float | None = None,
    *,
    cv: int = 5,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    estimator: Any = None,
    storage: str | os.PathLike[str] | optuna.storages.BaseStorage | None = None,
    study: optuna.Study | None = None,
    random_state: Any = None,
) -> Any:
    """Searches for the best setting of MDNRegressor and fits it to all rows.

    The score of a setting is its cross-validated NLL, in nats in y's unit.  Folds and seeds are the
    same for all settings; rows that are equal and rows of a group are in one fold, as in
    :func:`mdn.calibration.out_of_fold`.  The first setting is the default one, so by this score the
    result is never worse than it.  A setting that is worse than the median of the others after some
    folds is given up (median pruning).

    Args:
        X: as in :meth:`mdn.MDNRegressor.fit`.
        y: as in :meth:`mdn.MDNRegressor.fit`.
        n_trials: settings in all; those of an earlier run with the same storage or study count.
        timeout: seconds until the search ends, looked at between folds.  The default setting and
            the fit to all rows are finished in any case.
        cv: number of folds; fewer where there are fewer groups.
        sample_weight: (N,) non-negative weights of the rows, in the fits and in the score.
        groups: (N,) labels; the rows of a group are held out together, in the fits and by the
            score.
        estimator: the default setting, if it is not ``MDNRegressor()``, or a scikit-learn
            ``Pipeline`` that ends in one; other parameters than those searched (such as
            ``covariance_type``) stay as they are in it.
        storage: where the trials are kept, so that an interrupted search resumes: a file (SQLite),
            or what ``optuna.create_study`` takes.
        study: a study of your own that minimises, with its own sampler; in place of ``storage``.
        random_state: seed or ``numpy.random.RandomState``; None for that of the estimator.  A
            number gives the same search and the same model each time, interrupted or not.

    Returns:
        The best setting, fitted to all rows, of the type of ``estimator``.  Its ``study_`` is the
        ``optuna.Study``:
        ``study_.best_value`` is the score and ``study_.best_params`` the setting.

    Raises:
        ImportError: optuna is not installed.
        TypeError: estimator is neither an MDNRegressor nor a Pipeline that ends in one.
        ValueError: as :meth:`mdn.MDNRegressor.fit`; a number out of its range; a storage or study
            that was begun with other data or another setting.

    Example:
        >>> from mdn.datasets import load_old_faithful
        >>> X, y = load_old_faithful()[:2]
        >>> small = MDNRegressor(2, preset="fast", max_epochs=5, min_scale=0.05)
        >>> model = tune(X, y, n_trials=2, cv=2, estimator=small, random_state=0)
        >>> model.study_.trials[0].params["n_components"]
        2
        >>> model.study_.best_value <= model.study_.trials[0].value
        True
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'mdn.tune needs optuna; install it with: pip install "mdn[tune]"'
        ) from error
    check_integer("n_trials", n_trials)
    check_integer("cv", cv, 2)
    if timeout is not None:
        check_number("timeout", timeout, above=0, infinite=True)
    if storage is not None and study is not None:
        raise ValueError("give storage or study, not both: a study has a storage of its own")
    end = math.inf if timeout is None else time.monotonic() + timeout
    template = _Template.of(MDNRegressor() if estimator is None else estimator)
    own = study is None
    if study is None:
        study = optuna.create_study(
            study_name=_NAME,
            storage=_storage(storage),
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
    base = dict(template.regressor.get_params(deep=False))
    seed = base["random_state"] = _seed(
        base["random_state"] if random_state is None else random_state, study
    )

    # The default setting is fitted to all rows first: an error in the data names their own row
    # numbers, and if no setting is better, this model is the result.
    warn_of_index(X, y=y, sample_weight=sample_weight)
    every_row = _Data(X, y, sample_weight, None if groups is None else np.asarray(groups))
    model = template.fit({"random_state": seed}, every_row)
    data = _Data.of(*every_row)
    if cv > len(data.y) // 2:
        raise ValueError(
            f"cv must be at most half the number of rows, {len(data.y)} here; got {cv}"
        )
    choices = _choices(base)
    _begin(study, cv, data, base | template.other_params(), choices)
    folds = data.folds(cv, seed)
    default = {name: _label(base[name]) for name in choices}
    while True:
        states = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
        tried = study.get_trials(deepcopy=False, states=states)
        if not any(t.user_attrs.get(_DEFAULT) for t in tried):
            study.enqueue_trial(default, user_attrs={_DEFAULT: True})
        elif len(tried) >= n_trials or time.monotonic() >= end:
            break
        if own:  # made anew for each trial, so that a resumed search equals one without a break
            study.sampler = optuna.samplers.TPESampler(seed=seed + len(tried))
        _run_trial(study, tried, template, seed, choices, data, folds, end)

    best = study.best_trial.params
    if best != default:
        setting = {name: choices[name][best[name]] for name in choices}
        model = template.fit({**setting, "random_state": seed}, every_row)
    model.study_ = study
    return model


# -- one trial --------------------------------------------------------------------------------


def _run_trial(
    study: optuna.Study,
    tried: list[optuna.trial.FrozenTrial],
    template: _Template,
    seed: int,
    choices: dict[str, dict[Any, Any]],
    data: _Data,
    folds: list[NDArray[np.intp]],
    end: float,
) -> None:
    """Asks the study for a setting, scores it and reports the score."""
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        for name, table in choices.items():
            trial.suggest_categorical(name, list(table))
        same = next((t for t in tried if t.params == trial.params), None)
        if same is not None:  # its score is known
            complete = same.state == TrialState.COMPLETE
            study.tell(trial, same.value if complete else None, state=same.state)
            return
        setting = {name: choices[name][trial.params[name]] for name in choices}
        must_finish = bool(trial.user_attrs.get(_DEFAULT))
        total = size = 0.0
        for k, held_out in enumerate(folds):
            if not must_finish and time.monotonic() >= end:
                study.tell(trial, state=TrialState.FAIL)
                return
            rest = np.concatenate([fold for i, fold in enumerate(folds) if i != k])
            test = data.rows(held_out)
            params = {**setting, "random_state": seed + k}
            total += test.size * template.held_out_nll(params, data.rows(rest), test)
            size += test.size
            if math.isinf(total):  # the pruner has nothing to compare
                break
            trial.report(total / size, k)
            if not must_finish and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return
        study.tell(trial, total / size)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise


class _Data(NamedTuple):
    """Rows of X and y with their weights and groups, if any."""

    X: Any
    y: Any
    weight: Any
    groups: Any

    @staticmethod
    def of(X: Any, y: ArrayLike, weight: ArrayLike | None, groups: Any) -> _Data:
        """Data that a fit has accepted, without the rows of weight 0."""
        y = np.asarray(without_mask(y))
        if weight is None:
            return _Data(X, y, None, groups)
        w = np.broadcast_to(np.asarray(weight, np.float64), n_rows(X))
        return _Data(X, y, w, groups).rows(np.flatnonzero(w > 0))  # else a fold may have no weight

    def rows(self, index: NDArray[np.intp]) -> _Data:
        weight, groups = (None if a is None else a[index] for a in (self.weight, self.groups))
        return _Data(take_rows(self.X, index), self.y[index], weight, groups)

    def folds(self, cv: int, seed: int) -> list[NDArray[np.intp]]:
        """The rows of each fold."""
        together, rng = fold_groups(self.X, self.y, self.groups), np.random.default_rng(seed)
        if together is None:
            return np.array_split(rng.permutation(len(self.y)), cv)
        fold = deal(len(self.y), together, cv, rng)
        return [np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1)]

    @property
    def size(self) -> float:
        """Number of rows, or their weight."""
        return float(len(self.y) if self.weight is None else self.weight.sum())


class _Template(NamedTuple):
    """An MDNRegressor, or a Pipeline that ends in one, of which copies are fitted."""

    estimator: Any
    regressor: MDNRegressor
    prefix: str  # of the names of its parameters in the estimator

    @staticmethod
    def of(estimator: Any) -> _Template:
        steps = getattr(estimator, "steps", None)
        name, last = steps[-1] if isinstance(steps, list) else (None, estimator)
        if not isinstance(last, MDNRegressor):
            raise TypeError(
                "estimator must be an MDNRegressor or a Pipeline that ends in one; got "
                + kind_of(last)
            )
        return _Template(estimator, last, "" if name is None else f"{name}__")

    def other_params(self) -> dict[str, Any]:
        """Those of a Pipeline before the regressor; a parameter that is an object, by its class."""
        return {
            name: kind_of(value) if hasattr(value, "get_params") else value
            for name, value in self.estimator.get_params(deep=True).items()
            if name != "steps" and not name.startswith(self.prefix) and value is not self.regressor
        }

    def fit(self, params: dict[str, Any], data: _Data) -> Any:
        """A copy with these parameters of the regressor, fitted."""
        model = self.estimator.__sklearn_clone__()
        model.set_params(**{self.prefix + name: value for name, value in params.items()})
        given = {"sample_weight": data.weight, "groups": data.groups}
        given = {f"{self.prefix}{k}": v for k, v in given.items() if v is not None}
        model.fit(data.X, data.y, **given)
        regressor = model.steps[-1][1] if self.prefix else model
        if regressor.history_.stopped == "interrupted":  # Ctrl-C ends the search, not only this fit
            raise KeyboardInterrupt
        return model

    def held_out_nll(self, params: dict[str, Any], train: _Data, test: _Data) -> float:
        """NLL of the test rows, in nats in y's unit; infinite if training diverges."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the fit to all rows has given them
            try:
                regressor, X = final_model(self.fit(params, train), test.X)
                nll = float(regressor.nll(X, test.y, test.weight))
            except TrainingError:
                return math.inf
        return math.inf if math.isnan(nll) else nll


# -- the study --------------------------------------------------------------------------------


def _seed(random_state: Any, study: optuna.Study) -> int:
    """The given seed; without one, that with which the study was begun, or a random one."""
    known = study.user_attrs.get(_NAME, {}).get("random_state")
    if random_state is None or isinstance(random_state, np.random.RandomState):
        rng = np.random.RandomState() if random_state is None else random_state
        return int(rng.randint(2**31 - 1)) if known is None else known
    check_integer("random_state", random_state, 0)
    return int(random_state)


def _begin(
    study: optuna.Study,
    cv: int,
    data: _Data,
    base: dict[str, Any],
    choices: dict[str, dict[Any, Any]],
) -> None:
    """Records in a new study what its trials are scored on, or checks that this is the same."""
    directions = [d.name.lower() for d in study.directions]
    if directions != ["minimize"]:
        raise ValueError(f"study must minimise one value, the NLL; its directions are {directions}")
    fixed = {k: repr(v) for k, v in base.items() if k not in {*_IRRELEVANT, *choices}}
    about = {
        "X, y or sample_weight": _digest(data[:3]),
        "groups": None if data.groups is None else _digest([data.groups]),
        "cv": cv,
        "random_state": base["random_state"],
        "estimator": fixed,
        "choices": {name: list(table) for name, table in choices.items()},
    }
    known = study.user_attrs.get(_NAME)
    if known is None:
        if any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            raise ValueError("study holds trials that are not of mdn.tune; give a new one")
        study.set_user_attr(_NAME, about)
        return
    other = [name for name, value in about.items() if known.get(name) != value]
    if other:
        raise ValueError(
            f"the study was begun with another {' and '.join(other)}, so its scores do not compare "
            "with new ones; give another storage or study"
        )


def _digest(parts: Iterable[Any]) -> str:
    """A hash of data."""
    total = hashlib.sha256()
    for part in parts:
        a = np.asarray(part)
        a = a.astype(np.float64 if a.dtype.kind in "biuf" else np.str_)
        total.update(f"{a.shape}{a.dtype}".encode() + a.tobytes())
    return total.hexdigest()


def _choices(base: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """The values of each parameter by their label, that of the default setting first."""
    return {
        name: {_label(value): value for value in (base[name], *values)}
        for name, values in CHOICES.items()
    }


def _label(value: Any) -> Any:
    """A value as optuna can store it: (64, 64) becomes '64-64'."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return "-".join(map(str, value))


def _storage(storage: Any) -> Any:
    if not isinstance(storage, (str, os.PathLike)) or "://" in str(storage):
        return storage
    path = Path(storage)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"storage {path}: there is no folder {path.parent}")
    return f"sqlite:///{path}"

"""Search for the setting of MDNRegressor of best cross-validated NLL, by optuna (an extra)."""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .estimator import MDNRegressor
from .train import TrainingError

if TYPE_CHECKING:
    import optuna

__all__ = ["tune"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "n_components": (1, 2, 3, 5, 8, 12, 20),
    "hidden": ((32, 32), (64, 64), (128, 128), (256, 256), (64, 64, 64), (128, 128, 128)),
    "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-6, 1e-4, 1e-3, 1e-2, 1e-1),
}
"""What is tried, by parameter of MDNRegressor; the value of the default setting is always added.

Steps of about a factor 3: a finer one changes the score by less than another seed does.
"""

# Parameters that change neither the model nor its score beyond rounding.
_NO_MATTER = {"device", "n_jobs", "random_state", "verbose"}

_NAME = "mdn.tune"  # of the study in a storage, and of its attribute that says what was scored
_DEFAULT = "default"  # attribute of the trial of the default setting


def tune(
    X: Any,
    y: ArrayLike,
    n_trials: int = 50,
    timeout: float | None = None,
    *,
    cv: int = 5,
    sample_weight: ArrayLike | None = None,
    estimator: MDNRegressor | None = None,
    storage: str | os.PathLike[str] | optuna.storages.BaseStorage | None = None,
    study: optuna.Study | None = None,
    random_state: Any = None,
) -> MDNRegressor:
    """Tries settings of MDNRegressor and fits the best one to all rows.

    A setting is scored by its NLL in nats in y's unit, each row under the model of the fold that
    did not see it.  Folds and seeds are the same for all settings.  The first setting is the
    default one, so by this score the result is never worse than it.  A setting that after some
    folds is behind the median of the others is given up.

    Args:
        X: as in :meth:`mdn.MDNRegressor.fit`.
        y: as in :meth:`mdn.MDNRegressor.fit`.
        n_trials: settings in all; those of an earlier run with the same storage or study count.
        timeout: seconds until the search ends, looked at between folds.  The default setting and
            the fit to all rows are finished in any case.
        cv: number of folds.
        sample_weight: (N,) non-negative weights of the rows, in the fits and in the score.
        estimator: the default setting, if it is not ``MDNRegressor()``; parameters that are not
            searched (``covariance_type``, for one) stay as they are in it.
        storage: where the trials are kept, so that an interrupted search goes on: a file (SQLite),
            or what ``optuna.create_study`` takes.
        study: a study of your own that minimises, with its own sampler; in place of ``storage``.
        random_state: seed or ``numpy.random.RandomState``; None for that of the estimator.  A
            number gives the same search and the same model each time, interrupted or not.

    Returns:
        The best setting, fitted to all rows.  Its ``study_`` is the ``optuna.Study``:
        ``study_.best_value`` is the score and ``study_.best_params`` the setting.

    Raises:
        ImportError: optuna is not installed.
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
    optuna = _optuna()
    _check("n_trials", n_trials, 1)
    _check("cv", cv, 2)
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds; got {timeout}")
    if storage is not None and study is not None:
        raise ValueError("give storage or study, not both: a study has a storage of its own")
    end = math.inf if timeout is None else time.monotonic() + timeout
    own = study is None
    if study is None:
        study = optuna.create_study(
            study_name=_NAME,
            storage=_storage(storage),
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
    base = (MDNRegressor() if estimator is None else estimator).get_params(deep=False)
    seed = base["random_state"] = _seed(
        base["random_state"] if random_state is None else random_state, study
    )

    # First of all on all rows: what is wrong with them is told with their own numbers, and if
    # nothing beats the default, this is the answer.
    model = _finished(MDNRegressor(**base).fit(X, y, sample_weight))
    data = _Data.of(X, y, sample_weight)
    if cv > len(data.y) // 2:
        raise ValueError(
            f"cv must be at most half the number of rows, {len(data.y)} here; got {cv}"
        )
    choices = _choices(base)
    _begin(study, cv, data, base, choices)
    folds = np.array_split(np.random.default_rng(seed).permutation(len(data.y)), cv)
    default = {name: _label(base[name]) for name in choices}
    while True:
        trials = study.get_trials(deepcopy=False)
        tried = [
            t
            for t in trials
            if t.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        ]
        if not any(t.user_attrs.get(_DEFAULT) for t in tried):
            study.enqueue_trial(default, user_attrs={_DEFAULT: True})
        elif len(tried) >= n_trials or time.monotonic() >= end:
            break
        if own:  # anew each time, so that an interrupted search goes on as if it had not been
            study.sampler = optuna.samplers.TPESampler(seed=seed + len(tried))
        _run(study, tried, base, choices, data, folds, end)

    best = study.best_trial.params
    if best != default:
        setting = {name: choices[name][best[name]] for name in choices}
        model = _finished(MDNRegressor(**{**base, **setting}).fit(X, y, sample_weight))
    model.study_ = study
    return model


# -- one trial --------------------------------------------------------------------------------


def _run(
    study: optuna.Study,
    tried: list[optuna.trial.FrozenTrial],
    base: dict[str, Any],
    choices: dict[str, dict[Any, Any]],
    data: _Data,
    folds: list[NDArray[np.intp]],
    end: float,
) -> None:
    """Asks for a setting, scores it and tells the score."""
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        for name, table in choices.items():
            trial.suggest_categorical(name, list(table))
        twin = next((t for t in tried if t.params == trial.params), None)
        if twin is not None:  # the same score again
            whole = twin.state == TrialState.COMPLETE
            study.tell(trial, twin.value if whole else None, state=twin.state)
            return
        setting = {name: choices[name][trial.params[name]] for name in choices}
        must = bool(trial.user_attrs.get(_DEFAULT))
        total = size = 0.0
        for k, held in enumerate(folds):
            if not must and time.monotonic() >= end:
                study.tell(trial, state=TrialState.FAIL)
                return
            rest = np.concatenate([fold for i, fold in enumerate(folds) if i != k])
            seed = base["random_state"] + k
            model = MDNRegressor(**{**base, **setting, "random_state": seed})
            test = data.rows(held)
            total += test.size * _held_out_nll(model, data.rows(rest), test)
            size += test.size
            if math.isinf(total):  # nothing to compare by the pruner
                break
            trial.report(total / size, k)
            if not must and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return
        study.tell(trial, total / size)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise


def _held_out_nll(model: MDNRegressor, train: _Data, test: _Data) -> float:
    """NLL of the test rows, in nats in y's unit; infinite if the training breaks down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the fit to all rows has said them
        try:
            nll = _finished(model.fit(*train)).nll(*test)
        except TrainingError:
            return math.inf
    return math.inf if math.isnan(nll) else nll


def _finished(model: MDNRegressor) -> MDNRegressor:
    """The model, if Ctrl-C did not end its training, which a fit by itself takes for an answer."""
    if model.history_.stopped == "interrupted":
        raise KeyboardInterrupt
    return model


class _Data(NamedTuple):
    """Rows in the order of ``fit(X, y, sample_weight)``."""

    X: Any
    y: NDArray[Any]
    weight: NDArray[np.float64] | None

    @staticmethod
    def of(X: Any, y: ArrayLike, weight: ArrayLike | None) -> _Data:
        """Data that a fit has accepted."""
        rows = X if hasattr(X, "shape") else np.asarray(X)
        if weight is None:
            return _Data(rows, np.asarray(y), None)
        w = np.broadcast_to(np.asarray(weight, np.float64), len(rows))
        # a row of weight 0 counts nowhere, and a fold must not consist of such rows
        return _Data(rows, np.asarray(y), w).rows(np.flatnonzero(w > 0))

    def rows(self, index: NDArray[np.intp]) -> _Data:
        X = self.X.iloc[index] if hasattr(self.X, "iloc") else self.X[index]
        return _Data(X, self.y[index], None if self.weight is None else self.weight[index])

    @property
    def size(self) -> float:
        """Rows, or their weight."""
        return float(len(self.y) if self.weight is None else self.weight.sum())

    def digest(self) -> str:
        """The same for the same data only."""
        total = hashlib.sha256()
        for part in self:
            a = np.asarray(part)
            a = a.astype(np.float64 if a.dtype.kind in "biuf" else np.str_)
            total.update(f"{a.shape}{a.dtype}".encode() + a.tobytes())
        return total.hexdigest()


# -- the study --------------------------------------------------------------------------------


def _seed(random_state: Any, study: optuna.Study) -> int:
    """The seed asked for; if none is, the one that the study was begun with, or a fresh one."""
    known = study.user_attrs.get(_NAME, {}).get("random_state")
    if random_state is None or isinstance(random_state, np.random.RandomState):
        if known is not None:
            return known
        if random_state is None:
            return int(np.random.default_rng().integers(2**31 - 1))
        return int(random_state.randint(2**31 - 1))
    _check("random_state", random_state, 0)
    return int(random_state)


def _begin(
    study: optuna.Study,
    cv: int,
    data: _Data,
    base: dict[str, Any],
    choices: dict[str, dict[Any, Any]],
) -> None:
    """Writes into a new study what its trials are scored on, or checks that it is this."""
    directions = [d.name.lower() for d in study.directions]
    if directions != ["minimize"]:
        raise ValueError(f"study must minimise one value, the NLL; its directions are {directions}")
    fixed = {k: repr(v) for k, v in base.items() if k not in {*_NO_MATTER, *choices}}
    about = {
        "X, y or sample_weight": data.digest(),
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


def _choices(base: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """For each parameter its values by their label, that of the default setting first."""
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


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            'mdn.tune needs optuna; install it with: pip install "mdn[tune]"'
        ) from error
    return optuna


def _check(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}; got {value}")

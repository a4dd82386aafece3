"""Checks of what the user gives, and warnings of what says little: parameters, y and weights."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, _num_samples
from torch import Tensor

from ..arguments import (
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_seed,
    without_mask,
)
from ..nn._heads import COVARIANCE_TYPES
from ..prediction import warn_of_index
from ..standardization import winsorized
from ..tables import Columns, count_rows, warn_of_columns
from ..tables._folds import Codes, repeats_in_x
from ..warnings import DataWarning, warn
from ._model import InputTransform
from ._plan import TINY, Settings
from ._state import Floats
from ._target import KINDS, OFF_GRID, Target

__all__ = [
    "checked_settings",
    "checked_weight",
    "checked_y",
    "collapsed",
    "drawn_seed",
    "expand_integer_weights",
    "rounding_floor",
    "target_names",
    "warn_of_far_values",
    "warn_of_repeated_x",
    "warn_of_sample",
]

_PRESETS = ("default", "fast")
_MOST_THREADS = 1 << 16  # n_jobs may be negative, as joblib counts, but not absurd
_INTEGER_TOLERANCE = 1e-9  # relative, of a ratio of weights that counts as a whole number
_MAX_COPIES = 4  # rows that whole weights may make of each row on average
_MAX_REPEATED = 0.5  # share of rows that share their X from which on groups are asked for

# Of tied values of y, on which a density can concentrate, so that its likelihood is unbounded.
_DISTINCT_SHARE = 0.5  # a target with fewer distinct values than this share of its rows is rounded
_STEP_SHARE = 0.05  # of the step of a rounded target: no scale is smaller
_HARMLESS_FLOOR = 0.05  # min_scale from which on a density cannot concentrate on tied values
_MAX_TIED = 0.1  # share of tied rows from which on the NLL of a density means little
_MIN_TIE, _MIN_TIE_SHARE = 10, 0.01  # rows of one value that make a tie
_HEAP, _MAX_HEAPS = 0.05, 3  # share of the rows with one value that makes a heap, and how many
_COARSE = 0.005  # standard deviations; in a finer grid no density can stand on single values


def checked_settings(params: Mapping[str, Any]) -> Settings:
    """Returns the choices that the parameters of the estimator make."""
    check_choice("preset", params["preset"], _PRESETS)
    check_choice("target", params["target"], KINDS)
    check_choice("covariance_type", params["covariance_type"], ("auto", *COVARIANCE_TYPES))
    for name in "n_components", "ensemble_size", "batch_size", "max_epochs", "patience":
        if params[name] is not None:
            check_integer(name, params[name])
    for name in "learning_rate", "max_time", "resolution":
        if params[name] is not None:
            check_number(name, params[name], above=0, infinite=name == "max_time")
    check_number("min_scale", params["min_scale"], above=0)
    check_number("weight_decay", params["weight_decay"], at_least=0)
    for name in "trees", "warm_start":
        check_flag(name, params[name])
    if params["verbose"] not in (0, 1):  # as scikit-learn's, also a number
        check_flag("verbose", params["verbose"])
    if params["n_jobs"] is not None:
        check_integer("n_jobs", params["n_jobs"], at_least=-_MOST_THREADS)
        if params["n_jobs"] == 0:
            raise ValueError("n_jobs must be a number of threads, or -1 for all cores; got 0")
    device = _checked_device(params["device"])
    hidden: Any = params["hidden"]
    if hidden is not None:
        if isinstance(hidden, str) or not isinstance(hidden, (Sequence, np.ndarray)):
            raise TypeError(f"hidden must be a sequence of widths, as (64, 64); got {hidden!r}")
        for i, units in enumerate(hidden):
            check_integer(f"hidden[{i}]", units)
    chosen = {name: params[name] for name in Settings.__dataclass_fields__ if name in params}
    chosen["hidden"] = None if hidden is None else tuple(int(units) for units in hidden)
    chosen["device"] = device
    return Settings(**chosen, fast=params["preset"] == "fast")


def drawn_seed(random_state: Any) -> int:
    """Returns a seed that ``random_state``, as scikit-learn takes it, gives."""
    check_seed("random_state", random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _checked_device(device: Any) -> torch.device:
    """Returns a device of torch that this machine has."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must name one that this machine has, as 'cpu' or 'cuda'; got {device!r} "
            f"({reason})"
        ) from None
    return found


def checked_y(X: Any, y: Any, kind: str, name: str = "y", at_least: int = 1) -> Floats:
    """Returns y as numbers, as many as X has rows."""
    if y is None:
        raise ValueError("MDNRegressor requires y to be passed, but the target y is None")
    if isinstance(y, numbers.Number):
        raise ValueError(f"{name} must have shape (N,) or (N, D); got one number, {y}")
    rows = _num_samples(X), _num_samples(y)
    if rows[0] != rows[1]:
        raise ValueError(f"X and {name} must have one length; got {rows[0]} and {rows[1]} rows")
    warn_of_index(X, **{name: y})
    y = without_mask(y)
    _check_numeric(name, y)
    targets = check_array(
        y,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=at_least,
        input_name="y",
    )
    if targets.ndim > 2 or targets.shape[1:] == (0,):
        raise ValueError(f"{name} must have shape (N,) or (N, D); got {targets.shape}")
    if kind != "interval":
        _check_finite(name, targets)
    return np.array(targets)  # torch takes no reversed or read-only array


def _check_finite(name: str, y: Floats) -> None:
    """Refuses infinity, and NaN but in some of several columns; names the first row."""
    columns = y.reshape(len(y), -1)
    several = columns.shape[1] > 1
    bad = np.isinf(columns) if several else ~np.isfinite(columns)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        found = "NaN" if np.isnan(columns[row, column]) else "inf"
        where = f"row {row}" + (f", column {column}" if y.ndim > 1 else "")
        raise ValueError(
            f"{name} must be finite, but contains {found} in {where}; drop or impute such rows"
        )
    empty = np.isnan(columns).all(1)
    if empty.any():
        raise ValueError(
            f"{name} must have a value in every row, but row {empty.argmax()} has NaN in every "
            f"column ({empty.sum()} such rows); drop them"
        )


def _check_numeric(name: str, y: Any) -> None:
    """Refuses strings and categories, also those that read as numbers, dates, complex numbers."""
    dtypes = getattr(y, "dtypes", getattr(y, "dtype", ""))
    labels = str(dtypes).lower()
    if any(word in labels for word in ("categor", "enum")):
        raise ValueError(f"{name} must hold numbers, but has categories: they have no density")
    values = np.asarray(y)
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} must hold real numbers")
    if values.dtype.kind in "mM":
        raise ValueError(
            f"{name} must hold numbers; got dtype {values.dtype}: convert it to a number of seconds"
        )
    if values.ndim and values.dtype.kind in "OSUT":
        text = [any(isinstance(v, (str, bytes)) for v in np.ravel(row)) for row in values]
        if any(text):
            row = text.index(True)
            cure = "convert it by astype(float)"
            if "," in str(values[row]):
                cure = "convert it, with a decimal comma by y.str.replace(',', '.').astype(float)"
            raise ValueError(
                f"{name} must hold numbers, but row {row} is {str(values[row])!r}: a category has "
                f"no density; if it is a number, {cure}"
            )


def target_names(y: Any) -> list[str] | None:
    """Returns the names of the columns of y, as scikit-learn those of X: where all are strings."""
    names = getattr(y, "column_names", getattr(y, "columns", None))  # columns of pyarrow are arrays
    names = [getattr(y, "name", None)] if names is None else list(names)
    return names if all(isinstance(name, str) and name for name in names) else None


def checked_weight(X: Any, sample_weight: Any) -> Floats | None:
    """Returns non-negative weights of the rows, two of them positive, or None for equal ones."""
    if sample_weight is None:
        return None
    warn_of_index(X, sample_weight=sample_weight)
    n, sample_weight = _num_samples(X), without_mask(sample_weight)
    weight: Floats = _check_sample_weight(
        sample_weight, np.zeros((n, 1)), dtype=np.float64, ensure_non_negative=True
    )
    if np.count_nonzero(weight) < 2:
        raise ValueError("sample_weight must be positive for at least 2 rows")
    return weight


def expand_integer_weights(weight: Floats) -> tuple[NDArray[np.intp], Floats | None]:
    """Returns the rows of positive weight, and the weights.

    Where the weights are in the ratio of small whole numbers, a row is repeated that often instead,
    and no weights are left.  Equal weights are none.
    """
    used = np.flatnonzero(weight > 0)
    weight = weight[used]
    if (weight == weight[0]).all():
        return used, None
    for candidate in (weight, weight / weight.min()):
        rounded = np.round(candidate)
        # 2.1 / 0.7 is not quite 3
        whole = (np.abs(candidate - rounded) <= _INTEGER_TOLERANCE * rounded).all()
        if whole and rounded.sum() <= _MAX_COPIES * len(used):
            return np.repeat(used, rounded.astype(np.intp)), None
    return used, weight


def collapsed(copies: Codes, weight: Floats | None) -> tuple[NDArray[np.intp], Floats | None]:
    """Returns the first row of each set of copies, (M,) in order, and the weights of these rows.

    The weight of a row is that of all its copies, of mean 1; None where all are equal: a table
    written out twice is the table.

    Args:
        copies: (N,) number of the distinct row.
        weight: (N,) or None.
    """
    kept = np.unique(copies, return_index=True)[1]
    total = np.bincount(copies, weight)
    order = kept.argsort()
    kept, total = kept[order], total[order]
    equal = bool((total == total[0]).all())
    return kept, None if equal else total * (len(total) / total.sum())


def rounding_floor(y: Tensor) -> float:
    """Returns the smallest scale that the rounding of y (N, D) justifies; 0 if not rounded."""
    worst = 0.0
    for column in y.numpy().T:
        column = column[~np.isnan(column)]
        distinct = np.unique(column)
        if 1 < len(distinct) < _DISTINCT_SHARE * len(column):
            worst = max(worst, _STEP_SHARE * float(np.diff(distinct).min()))
    return worst


def warn_of_repeated_x(x: Floats) -> None:
    """Warns where most rows share their X with others, as repeated measurements do."""
    share = repeats_in_x(x)
    if share > _MAX_REPEATED:
        warn(
            f"{share:.0%} of the rows have the X of another row and another y: if they are "
            "repeated measurements of one person or thing, and others are to be predicted, name "
            "it by fit(..., groups=), else what is held out is known from its other rows",
            DataWarning,
        )


def _warn_of_far_targets(y: Floats) -> None:
    """Warns of the few values of y, (N, D), that lie far from all others."""
    apart = np.abs(y - winsorized(torch.as_tensor(y)).numpy())
    if not (apart > 0).any():
        return
    row, column = np.unravel_index(np.nanargmax(apart), y.shape)
    low, high = np.nanquantile(y[:, column], [0.025, 0.975])
    long = "; of a positive y with a long tail take target='positive'" if (y > 0).all() else ""
    warn(
        f"{(apart > 0).sum()} of {len(y)} values of y lie far from the others, as "
        f"{y[row, column]:g} where 95 % are between {low:g} and {high:g}: they have little "
        f"influence on the density of the others; remove what is an error{long}",
        DataWarning,
    )


def warn_of_sample(target: Target, y: Floats, min_scale: float) -> None:
    """Warns where a density means little: few rows, y constant, or many rows on few values.

    Also of an atom that no row has.
    """
    absent = np.setdiff1d(target.atoms, y).tolist()
    if absent:
        warn(
            f"no y is {' or '.join(f'{place:g}' for place in absent)}, which atoms names: nothing "
            "is known of its probability but that it is small",
            DataWarning,
        )
    y = y[target.is_off_atoms(y)]
    if len(y) < TINY:
        what = " off the atoms" if len(target.atoms) else ""
        warn(
            f"{len(y)} rows{what} are few for a conditional density: a smaller model is fitted, "
            "and what it says rests on little",
            DataWarning,
        )
    if target.likelihood_is_mass:
        return
    columns = y.reshape(len(y), -1)
    gaps = np.isnan(columns).sum(0)
    if gaps.any():
        each = ", ".join(f"{n} in column {i}" for i, n in enumerate(gaps) if n)
        warn(
            f"y has gaps, {each} of {len(y)} rows: a row counts by the density of the columns that "
            "it has; drop it if NaN means anything else",
            DataWarning,
        )
    low = np.nanmin(columns, 0)
    constant = low == np.nanmax(columns, 0)
    if constant.any():
        names = ", ".join(str(i) for i in np.flatnonzero(constant))
        name = "y" if constant.all() else f"y in column {names}"
        warn(
            f"{name} is constant ({low[constant][0]:g}): the fitted density is as narrow as "
            "its floor allows, and its height says nothing about the data",
            DataWarning,
        )
    if target.kind == "real":
        _warn_of_far_targets(columns)
    for column in columns[:, ~constant].T if min_scale < _HARMLESS_FLOOR else ():
        column = column[~np.isnan(column)]
        values, counts = np.unique(column, return_counts=True)
        steps = np.diff(values)
        # few rows on each value of a coarse grid are as bad as many on some values
        coarse = np.median(steps) > _COARSE * column.std()
        least = _MIN_TIE if coarse else max(_MIN_TIE, _MIN_TIE_SHARE * len(column))
        share = counts[counts >= least].sum() / len(column)
        heaps = _heaps(values, counts) if columns.shape[1] == 1 else values[:0]
        if len(heaps):
            places = [*target.atoms.tolist(), *heaps.tolist()]
            others = values[~np.isin(values, heaps)]
            kind = 'target="positive", ' if target.kind == "real" and (others > 0).all() else ""
            times = counts[np.isin(values, heaps)].sum()
            warn(
                f"{times / len(column):.0%} of y are exactly "
                f"{' or '.join(f'{place:g}' for place in heaps)}, and the others hardly repeat: a "
                f"density would have a spike there, and its NLL is not meaningful; {kind}atoms="
                f"{[float(place) for place in places]} learns the probability of "
                f"{'each of these values' if len(heaps) > 1 else 'that value'} given x",
                DataWarning,
            )
            break
        if share > _MAX_TIED:
            cure = ""
            if columns.shape[1] == 1:  # a step that Target.check takes, or none
                step = float(f"{steps.min():.6g}")
                off = values / step - np.round(values / step)
                if np.abs(off).max() <= OFF_GRID:
                    cure = f"; resolution={step:g} gives"
                else:
                    cure = "; round y to multiples of a step and name that with resolution=, for"
                cure += " the probability of the rounding cell instead"
            warn(
                f"{share:.0%} of y are tied values ({len(values)} distinct ones in {len(column)} "
                "rows): a density may have a spike at each of them, so its NLL is not meaningful"
                f"{cure}",
                DataWarning,
            )
            break


def _heaps(values: Floats, counts: NDArray[np.intp]) -> Floats:
    """Returns the few values that many rows have while the other rows hardly repeat; or none."""
    heap = counts >= max(_MIN_TIE, _HEAP * counts.sum())
    rest = counts[~heap]
    few = 0 < heap.sum() <= _MAX_HEAPS and len(rest) >= 2
    return values[heap] if few and len(rest) >= _DISTINCT_SHARE * rest.sum() else values[:0]


def warn_of_far_values(columns: Columns, transform: InputTransform, x: Floats) -> None:
    """Warns of the values of encoded rows (N, P) that are far outside the range of training."""
    far = transform.far(x).numpy()
    if not far.any():
        return
    low, high = transform.range.numpy()
    places = columns.places
    found = []
    for i in np.flatnonzero(far.any(0)):
        rows = np.flatnonzero(far[:, i])
        if i < len(places):
            if places[i] is not None:  # else an unseen category, of which transform has warned
                found.append(
                    f"{places[i]} ({count_rows(len(rows))}, the first {x[rows[0], i]:.9g} in row "
                    f"{rows[0]}; training {low[i]:.9g} to {high[i]:.9g})"
                )
            continue
        share = transform.whitening[:, i - len(places)].abs().numpy()
        names = [places[j] or columns.names[j] for j in np.flatnonzero(share > 0.1 * share.max())]
        found.append(
            f"a combination of {', '.join(names)} that hardly varied in training "
            f"({count_rows(len(rows))}, the first in row {rows[0]})"
        )
    warn_of_columns(
        found,
        "X has values far outside the range of training: {}; the range with three times its width "
        "on either side is what counts, and its limit stands in for values beyond, so that a "
        "column which did not vary in training has no influence",
    )

"""Checks of what the user gives: parameters, y and weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, _num_samples

from ..train._options import check_integer, check_options
from ._plan import TINY, Settings
from ._state import Floats

__all__ = [
    "check_finite",
    "checked_settings",
    "checked_weight",
    "checked_y",
    "expand_integer_weights",
    "warn_if_few",
]

_PRESETS = ("default", "fast")
_INTEGER_TOLERANCE = 1e-9  # relative, of a ratio of weights that counts as a whole number
_MAX_COPIES = 4  # rows that whole weights may make of each row on average


def checked_settings(params: Mapping[str, Any]) -> Settings:
    """Returns the choices that the parameters of the estimator make."""
    if params["preset"] not in _PRESETS:
        raise ValueError(
            f"preset must be one of {', '.join(map(repr, _PRESETS))}; got {params['preset']!r}"
        )
    integers = "n_components", "ensemble_size", "batch_size", "max_epochs", "patience"
    positive = "learning_rate", "max_time", "min_scale"
    check_options({k: params[k] for k in integers}, {k: params[k] for k in positive}, {})
    if not 0 <= params["weight_decay"] < np.inf:
        raise ValueError(f"weight_decay must be at least 0; got {params['weight_decay']}")
    hidden: Any = params["hidden"]
    if hidden is not None:
        if isinstance(hidden, str) or not isinstance(hidden, (Sequence, np.ndarray)):
            raise TypeError(f"hidden must be a sequence of widths, as (64, 64); got {hidden!r}")
        for i, units in enumerate(hidden):
            check_integer(f"hidden[{i}]", units)
    chosen = {name: params[name] for name in Settings.__dataclass_fields__ if name in params}
    chosen["hidden"] = None if hidden is None else tuple(int(units) for units in hidden)
    chosen["trees"] = bool(params["trees"])
    chosen["device"] = torch.device(params["device"])
    return Settings(**chosen, fast=params["preset"] == "fast")


def checked_y(X: Any, y: Any, kind: str, name: str = "y") -> Floats:
    """Returns y as numbers, as many as X has rows."""
    if y is None:
        raise ValueError("MDNRegressor requires y to be passed, but the target y is None")
    rows = _num_samples(X), _num_samples(y)
    if rows[0] != rows[1]:
        raise ValueError(f"X and {name} must have one length; got {rows[0]} and {rows[1]} rows")
    _check_numeric(name, y)
    targets = check_array(
        y,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=2 if name == "y" else 1,
        input_name="y",
    )
    if targets.ndim > 2 or targets.shape[1:] == (0,):
        raise ValueError(f"{name} must have shape (N,) or (N, D); got {targets.shape}")
    if kind != "interval":
        check_finite(name, targets)
    return np.array(targets)  # torch takes no reversed or read-only array


def check_finite(name: str, y: Floats) -> None:
    """Refuses NaN and infinity, and names the first row."""
    columns = y.reshape(len(y), -1)
    bad = ~np.isfinite(columns)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        found = "NaN" if np.isnan(columns[row, column]) else "inf"
        where = f"row {row}" + (f", column {column}" if y.ndim > 1 else "")
        raise ValueError(
            f"{name} must be finite, but contains {found} in {where}; drop or impute such rows"
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
            raise ValueError(
                f"{name} must hold numbers, but row {row} is {str(values[row])!r}: a category has "
                "no density; if it is a number, convert it by astype(float)"
            )


def checked_weight(sample_weight: Any, n: int) -> Floats | None:
    """Returns n non-negative weights, two of them positive, or None for equal ones."""
    if sample_weight is None:
        return None
    weight: Floats = _check_sample_weight(
        sample_weight, np.zeros((n, 1)), dtype=np.float64, ensure_non_negative=True
    )
    if np.count_nonzero(weight) < 2:
        raise ValueError("sample_weight must be positive for at least 2 rows")
    return weight


def expand_integer_weights(weight: Floats) -> tuple[NDArray[np.intp], Floats | None]:
    """Returns the rows of positive weight, and the weights.

    Where the weights are in the ratio of small whole numbers, a row is repeated that often instead,
    and no weights are left.
    """
    used = np.flatnonzero(weight > 0)
    weight = weight[used]
    for candidate in (weight, weight / weight.min()):
        rounded = np.round(candidate)
        # 2.1 / 0.7 is not quite 3
        whole = (np.abs(candidate - rounded) <= _INTEGER_TOLERANCE * rounded).all()
        if whole and rounded.sum() <= _MAX_COPIES * len(used):
            return np.repeat(used, rounded.astype(np.intp)), None
    return used, weight


def warn_if_few(n: int) -> None:
    """Warns of a sample too small for the usual model."""
    if n < TINY:
        warnings.warn(
            f"{n} rows are few for a conditional density: a smaller model is fitted, and what it "
            "says rests on little",
            UserWarning,
            stacklevel=3,
        )

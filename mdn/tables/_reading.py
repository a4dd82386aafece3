"""Reading of X: arrays, lists of rows and data frames, column by column, and what is refused."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import without_mask

__all__ = ["Values", "floats", "read", "refuse_numbers_as_text", "label_of", "place_of"]

_CURE = "convert it to numbers, booleans or strings (a date to the seconds since a day)"


class Values(NamedTuple):
    """One column as it was read."""

    kind: str  # one of _KINDS
    data: Any  # number, boolean: (N,) float64 with NaN where missing; category: list; empty: None
    declared: bool = False  # whether the dtype says that it is a category


def read(X: Any) -> tuple[int, list[str] | None, list[Values]]:
    """Rows, names if they are strings, and the columns."""
    if hasattr(type(X), "toarray"):
        raise TypeError(
            f"X must be dense, but is a sparse {type(X).__name__}; pass X.toarray() if memory "
            "allows, or fewer columns"
        )
    if not isinstance(X, (np.ndarray, list, tuple)):
        import narwhals as nw  # small, but only a DataFrame needs it

        if nw.dependencies.is_into_dataframe(X):
            return _read_frame(X)
    array = _as_array(X)
    _check_size(*array.shape)
    kind = array.dtype.kind
    if kind == "c":
        raise _complex(f"X of dtype {array.dtype}")
    if kind in "biuf":
        with np.errstate(over="ignore"):  # a longdouble beyond float64 is refused as infinite
            matrix = array.astype(np.float64)
        name = "boolean" if kind == "b" else "number"
        columns = [floats(name, column, f"column {i}") for i, column in enumerate(matrix.T)]
    elif kind in "OU":
        columns = [_by_value(column.tolist(), f"column {i}") for i, column in enumerate(array.T)]
    else:
        raise TypeError(
            f"X must hold numbers, booleans or strings; got dtype {array.dtype}: {_CURE}"
        )
    return len(array), None, columns


def _as_array(X: Any) -> NDArray[Any]:
    X = without_mask(X)
    try:
        array = np.asarray(X)
        if array.dtype.kind in "US" and not hasattr(X, "dtype"):
            array = np.asarray(X, dtype=object)  # np.asarray([[1, "a"]]) makes "1" of 1
    except ValueError as error:
        raise ValueError(f"X must have rows of one length; {error}") from error
    if array.ndim == 1:
        raise ValueError(
            f"Expected 2D array, got 1D array instead: X has shape {array.shape}. Reshape your "
            "data either using array.reshape(-1, 1) if it has a single feature or "
            "array.reshape(1, -1) if it contains a single sample."
        )
    if array.ndim != 2:
        got = f"{array.ndim}D array" if array.ndim else "scalar array"
        raise ValueError(
            f"Expected 2D array, got {got} instead: X must be an array (N, F) or a DataFrame, a "
            f"lazy one collected; got {type(X).__name__} of shape {array.shape}"
        )
    return array


def _read_frame(X: Any) -> tuple[int, list[str] | None, list[Values]]:
    import narwhals as nw

    try:
        frame = nw.from_native(X, eager_only=True)
    except nw.exceptions.DuplicateError as error:
        found = " ".join(str(error).split())
        raise ValueError(f"X must have a name of its own for each column; {found}") from error
    names: list[Any] = list(frame.columns)
    types = sorted({type(name).__name__ for name in names})
    if "str" in types and len(types) > 1:
        raise TypeError(
            "Feature names are only supported if all input features have string names, but X has "
            f"names of type {' and '.join(types)}; rename them, in pandas by "
            "X.columns = X.columns.astype(str)"
        )
    _check_size(*frame.shape)
    columns = []
    for i, series in enumerate(frame.iter_columns()):
        place, dtype = place_of(i, names), series.dtype
        if dtype.is_numeric() or dtype == nw.Boolean:
            # a copy: pandas may return its own memory, and read-only
            data = np.array(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
            kind = "boolean" if dtype == nw.Boolean else "number"
            columns.append(floats(kind, data, place))
        elif dtype in (nw.String, nw.Categorical, nw.Enum):
            columns.append(_texts(series.to_list(), declared=dtype != nw.String))
        elif dtype in (nw.Object, nw.Unknown):  # Unknown: null and complex columns among others
            columns.append(_by_value(series.to_list(), place))
        else:
            raise TypeError(f"X in {place} has dtype {dtype}: {_CURE}")
    return len(frame), names if types == ["str"] else None, columns


def _by_value(values: list[Any], place: str) -> Values:
    """A column of objects, read by the types of its values."""
    types = set(map(type, values))
    null = {t for t in types if is_null(t)}
    maybe = {t for t in types if issubclass(t, (float, np.floating, Decimal))}  # may be NaN
    values = [None if type(v) in null or (type(v) in maybe and v != v) else v for v in values]
    first = _first_rows(values, place)
    if not first:
        return Values("empty", None)
    if "string" in first:
        if len(first) > 1:
            found = ", ".join(f"{values[i]!r} in row {i}" for i in sorted(first.values()))
            raise TypeError(
                f"X in {place} mixes strings and other values ({found}); make them all strings, as "
                "by astype(str), or all numbers"
            )
        return _texts(values)
    try:
        data = np.array(values, dtype=np.float64)
    except OverflowError:  # an integer beyond float64: it becomes infinite and is refused as such
        top = sys.float_info.max
        values = [math.inf if isinstance(v, int) and abs(v) > top else v for v in values]
        data = np.array(values, dtype=np.float64)
    return floats("number" if "number" in first else "boolean", data, place)


def _first_rows(values: list[Any], place: str) -> dict[str, int]:
    """Row of the first value of each class; refuses what no column may hold."""
    first: dict[str, int] = {}
    for t in set(map(type, values)) - {type(None)}:
        row = next(i for i, v in enumerate(values) if type(v) is t)
        name = _class(t)
        if name == "complex":
            raise _complex(f"row {row} of {place} of X")
        if name is None:
            raise TypeError(
                f"X in {place} holds a {t.__name__} in row {row}, but every argument must be a "
                f"string, a number, a boolean or missing; {_CURE}"
            )
        first[name] = min(row, first.get(name, row))
    return first


def floats(kind: str, data: NDArray[np.float64], place: str) -> Values:
    """A column of numbers or booleans, refused if infinite."""
    if (infinite := np.isinf(data)).any():
        raise ValueError(
            "X must be finite or missing, but is infinite (inf) or beyond the range of float64 "
            f"in row {infinite.argmax()} of {place}; drop the row, or make the value NaN to have "
            "it taken as missing"
        )
    return Values("empty", None) if np.isnan(data).all() else Values(kind, data)


def _texts(data: list[Any], declared: bool = False) -> Values:
    """A column of categories."""
    nothing = all(label_of(value) is None for value in set(data))
    return Values("empty", None) if nothing else Values("category", data, declared)


def label_of(value: Any) -> str | None:
    """The text of a category; None if it is missing."""
    if isinstance(value, str):
        return value
    return None if is_null(type(value)) or value != value else str(value)


def is_null(t: type) -> bool:
    """Whether it is the type of None or of pandas' NA, which has no truth value to test."""
    return t is type(None) or t.__name__ == "NAType"


def _class(t: type) -> str | None:
    """What an object of this type is; None for what no column may hold."""
    if issubclass(t, np.timedelta64):  # which NumPy counts among the integers
        return None
    if issubclass(t, (bool, np.bool_)):
        return "boolean"
    if issubclass(t, str):
        return "string"
    if issubclass(t, (numbers.Real, Decimal)):
        return "number"
    return "complex" if issubclass(t, numbers.Complex) else None


def _check_size(n: int, n_columns: int) -> None:
    for count, what in ((n_columns, "feature"), (n, "sample")):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape=({n}, {n_columns})) while a minimum of 1 is "
                "required."
            )


def refuse_numbers_as_text(X: NDArray[np.str_]) -> None:
    """np.array([[1.5, "a"]]) makes text of 1.5, and of each number a category."""
    for i in range(X.shape[1]):
        try:
            X[:, i].astype(np.float64)
        except ValueError:
            continue
        raise TypeError(
            f"X is an array of strings whose column {i} reads as numbers ({str(X[0, i])!r} in row "
            "0); pass a DataFrame or an array of dtype object with the numbers as numbers, or a "
            "DataFrame where that column has dtype category if they are categories"
        )


def _complex(what: str) -> ValueError:
    return ValueError(
        f"Complex data not supported: {what} is complex; pass the real and the imaginary part as "
        "two columns"
    )


def place_of(i: int, names: Sequence[Any] | None) -> str:
    return f"column {i}" if names is None else f"column {names[i]!r}"

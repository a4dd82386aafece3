"""The encoding of columns of any kind as a matrix of numbers: :class:`Columns`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..warnings import DataWarning, warn
from ._numbers import AmbiguousNumberError, notation_of, number_of, number_share, spelled
from ._reading import Values, floats, label_of, place_of, read, refuse_numbers_as_text

__all__ = ["MAX_CATEGORIES", "Columns", "count_rows", "warn_of_columns"]

MAX_CATEGORIES = 64
"""Categories of one column that get an input of their own, the most frequent first.

Each costs a row of weights, and a rarer one has too few rows to learn them from.
"""

# Where more than this share of the rows have a value of their own, and there are more than so many
# values, they name the rows: what is learned of one says nothing of another.
_FEW, _OWN = 20, 0.5
_MOSTLY = 0.5  # share of the different values that are numbers, in a column that was meant as such

_HOLDS = {"number": "numbers", "boolean": "booleans", "category": "strings or categories"}
_KINDS = (*_HOLDS, "empty")
_NAMES_SHOWN = 5  # of a long list of names in a message, as scikit-learn shows them


@dataclass(frozen=True)
class _Column:
    """What is learned in training about one column of X."""

    kind: str
    fill: float = 0.0  # replaces a missing number or boolean
    missing: bool = False  # whether a value was missing, which then has an indicator
    levels: tuple[str, ...] = ()  # categories with an input of their own, by name
    others: bool = False  # whether training had more categories than these
    notation: str = ""  # of numbers that training had as text; see _numbers

    @property
    def words(self) -> str:
        """What the column is, in words."""
        if self.kind == "empty":
            return "no value"
        found = self.kind
        if self.kind == "category":
            found = f"{len(self.levels)}{' most frequent' * self.others} categories"
        return found + ", some missing" * self.missing

    def names(self, name: str) -> list[str]:
        """Names of the encoded columns."""
        values = [f"{name}={level}" for level in self.levels]
        return (values or [name]) + [f"{name} is missing"] * self.missing

    def encode(self, values: Values, out: NDArray[np.float64]) -> tuple[int, list[str]]:
        """Fills ``out``, zeros (N, P); rows missing without an indicator, and what was unseen."""
        missing: Any = np.ones(len(out), dtype=bool)
        unseen: list[str] = []
        if self.kind == "empty":
            return 0, unseen
        if self.kind == "category":
            if values.kind == "category":
                index: dict[str | None, int] = {level: i for i, level in enumerate(self.levels)}
                index[None] = -2
                code = {value: index.get(label_of(value), -1) for value in set(values.data)}
                codes = np.fromiter(map(code.__getitem__, values.data), np.intp, len(out))
                missing = codes == -2
                rows = np.flatnonzero(codes >= 0)
                out[rows, codes[rows]] = 1.0
                if not self.others:
                    unseen = [str(values.data[i]) for i in np.flatnonzero(codes == -1)]
        else:
            out[:, 0] = self.fill
            if values.kind != "empty":
                missing = np.isnan(values.data)
                np.copyto(out[:, 0], values.data, where=~missing)
        if self.missing:
            out[:, -1] = missing
            return 0, unseen
        return int(missing.sum()), unseen


@dataclass(frozen=True)
class Columns:
    """The encoder of X, an array or a DataFrame, as the matrix of floats that a network takes.

    Each column of X is encoded by its dtype (of an object array: by its values):

    ============  ==================================  ====================  ===================
    kind          encoded as                          a missing value       seen in training
    ============  ==================================  ====================  ===================
    number        itself                              the training median   ``x is missing``
    boolean       0 or 1                              the share of True     ``x is missing``
    category      0 or 1 for each category            0 for each            ``x is missing``
    no value      0, whatever comes later             0
    ============  ==================================  ====================  ===================

    Text that is all numbers is read as numbers, with a warning: a column of ``"1.5"`` or ``"1,5"``
    (decimal comma), also ``"1,234.5"`` and ``"1 234"``, where blanks, ``"NA"``, ``"-"`` and the
    like are missing values.  Codes with leading zeros (``"01234"``) and columns of a categorical
    dtype stay categories.

    A value is missing if it is NaN, None or null.  A column with missing values in training has a
    0/1 column more, the last of the table, which marks them.  Strings, categoricals, ordered or
    not, and enums are categories, distinguished by their text; the first layer of a network
    makes an embedding of their 0/1 columns.  A column keeps its :data:`MAX_CATEGORIES` most
    frequent ones (ties by name), in the order of their names; the others, and those that training
    had not, are 0 for each.  Integers, and decimals too, are numbers.  Constant columns stay.
    Nothing depends on the order of the training rows.

    Made by :meth:`fit` or :meth:`from_state`.

    Attributes:
        feature_names: names of the columns of X; None for an array, and for a DataFrame whose
            names are not strings.

    Example:
        >>> import pandas as pd
        >>> X = pd.DataFrame({"age": [31.0, None, 40.0], "color": ["red", "blue", "red"]})
        >>> columns = Columns.fit(X)
        >>> columns.names
        ['age', 'age is missing', 'color=blue', 'color=red']
        >>> columns.transform(X)
        array([[31. ,  0. ,  0. ,  1. ],
               [35.5,  1. ,  1. ,  0. ],
               [40. ,  0. ,  0. ,  1. ]])
    """

    feature_names: list[str] | None
    _columns: tuple[_Column, ...]

    @classmethod
    def fit(cls, X: Any) -> Columns:
        """Learns the kinds, medians and categories of the training rows.

        Args:
            X: (N, F) array, list of rows, or DataFrame (pandas, polars, a pyarrow table and
                whatever else narwhals reads).

        Raises:
            TypeError: X is sparse; a column is neither number, boolean nor category (a date, a
                list, ...) or mixes them; an array of strings has a column that reads as numbers; a
                column of text is numbers that can be read in two ways (``"1,234"``).
            ValueError: X is not 2-dimensional, empty, complex or infinite somewhere (with the
                row); two columns have one name.

        Warns:
            DataWarning: a column has no value at all, and is ignored; text is read as numbers; a
                column of text is mostly numbers; most rows have a category of their own, as by an
                identifier.
        """
        _, names, columns = read(X)
        if isinstance(X, np.ndarray) and X.dtype.kind == "U":
            refuse_numbers_as_text(X)
        places = [place_of(i, names) for i in range(len(columns))]
        self = cls(names, tuple(map(_learn, columns, places)))
        _warn_of_text(self._columns, columns, places)
        empty = [places[i] for i, column in enumerate(self._columns) if column.kind == "empty"]
        warn_of_columns(empty, "X has no value at all in {}; what has no value is ignored")
        return self

    @property
    def n_features_in(self) -> int:
        """F, columns of X."""
        return len(self._columns)

    @property
    def names(self) -> list[str]:
        """(P,) names of the encoded columns; those of an array count from x0."""
        names = self.feature_names or [f"x{i}" for i in range(self.n_features_in)]
        pairs = zip(self._columns, names, strict=True)
        return [encoded for column, name in pairs for encoded in column.names(name)]

    @property
    def kinds(self) -> dict[str, str]:
        """What each column of X is, in words, by its name; those of an array count from x0."""
        names = self.feature_names or [f"x{i}" for i in range(self.n_features_in)]
        return {name: column.words for name, column in zip(names, self._columns, strict=True)}

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """(P,) True for columns of real numbers, False for the 0/1 columns made here."""
        return np.array(
            [
                i == 0 and column.kind in ("number", "empty")
                for column in self._columns
                for i in range(len(column.names("")))
            ]
        )

    @property
    def sources(self) -> NDArray[np.intp]:
        """(P,) column of X, counted from 0, of which each encoded column is."""
        widths = [len(column.names("")) for column in self._columns]
        return np.repeat(np.arange(len(widths)), widths)

    @property
    def places(self) -> list[str | None]:
        """(P,) the column of X in words; None for the 0/1 columns of a category and of gaps."""
        return [
            place_of(i, self.feature_names) if j == 0 and not column.levels else None
            for i, column in enumerate(self._columns)
            for j in range(len(column.names("")))
        ]

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Encodes rows.

        Args:
            X: (N, F) of the kinds of training.  The columns of a DataFrame must have the names of
                training in their order; an array is taken by position.

        Returns:
            (N, P) float64, finite, a new array in C order.

        Raises:
            TypeError: a column is of another kind than in training, or as for :meth:`fit`.
            ValueError: other names or another number of columns, or as for :meth:`fit`.

        Warns:
            DataWarning: categories that training had not; missing values in columns that had none
                in training.  Each gives the number of rows per column.  In a column whose rarer
                categories were left out in training, a new one is encoded like those, without a
                warning.
        """
        n, names, columns = read(X)
        self._check_names(names, len(columns))
        widths = [len(column.names("")) for column in self._columns]
        out = np.zeros((n, sum(widths)))
        parts = np.split(out, np.cumsum(widths)[:-1], axis=1)
        lost: list[str] = []
        new: list[str] = []
        for i, (column, values, part) in enumerate(zip(self._columns, columns, parts, strict=True)):
            place = place_of(i, self.feature_names)
            if column.notation and values.kind == "category":
                values = _numbers(values, column.notation, place)
            _check_kind(column.kind, values, place)
            n_lost, unseen = column.encode(values, part)
            if n_lost:
                lost.append(f"{place} ({count_rows(n_lost)})")
            if unseen:
                new.append(f"{place} ({count_rows(len(unseen))}, the first {unseen[0]!r})")
        warn_of_columns(
            lost,
            "X has missing values where training had none: {}; the training median stands in for "
            "them (the share of True for a boolean, no category for a category)",
        )
        warn_of_columns(
            new,
            "X has categories that training had not: {}; such rows are encoded as none of the "
            "categories",
        )
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns all that was learned, as JSON holds it, and no tensors."""
        columns = [{**asdict(c), "levels": list(c.levels)} for c in self._columns]
        names = None if self.feature_names is None else list(self.feature_names)
        return {"feature_names": names, "columns": columns}, {}

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Any]) -> Columns:
        """Returns the encoder of which :meth:`state` gave this state.

        Raises:
            ValueError: not such a state.
        """
        try:
            names = config["feature_names"]
            columns = tuple(
                _Column(**{**c, "levels": tuple(c["levels"])}) for c in config["columns"]
            )
            sound = all(c.kind in _KINDS and math.isfinite(c.fill) for c in columns)
            if not sound or (names is not None and len(names) != len(columns)):
                raise ValueError("its values do not fit")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"config must be one that Columns.state() made; got another ({error!r})"
            ) from error
        return cls(names, columns)

    def _check_names(self, names: list[str] | None, n_columns: int) -> None:
        """The messages are those of scikit-learn, which its own checks expect."""
        if names is not None and self.feature_names is not None and names != self.feature_names:
            message = "The feature names should match those that were passed during fit.\n"
            unseen = sorted(set(names) - set(self.feature_names))
            missing = sorted(set(self.feature_names) - set(names))
            if unseen:
                message += "Feature names unseen at fit time:\n" + _bullets(unseen)
            if missing:
                message += "Feature names seen at fit time, yet now missing:\n" + _bullets(missing)
            if not unseen and not missing:
                message += "Feature names must be in the same order as they were in fit.\n"
            raise ValueError(message)
        if n_columns != self.n_features_in:
            raise ValueError(
                f"X has {n_columns} features, but Columns is expecting {self.n_features_in} "
                "features as input."
            )


def _learn(values: Values, place: str) -> _Column:
    if values.kind == "empty":
        return _Column("empty")
    if values.kind == "category":
        notation = _notation(values, place)
        if notation is not None:
            return replace(_learn(_numbers(values, notation, place), place), notation=notation)
        counts: Counter[str | None] = Counter()
        for value, count in Counter(values.data).items():
            counts[label_of(value)] += count
        ranked = sorted((-count, level) for level, count in counts.items() if level is not None)
        levels = tuple(sorted(level for _, level in ranked[:MAX_CATEGORIES]))
        return _Column("category", 0.0, None in counts, levels, len(ranked) > MAX_CATEGORIES)
    present = values.data[~np.isnan(values.data)]
    with np.errstate(over="ignore"):
        fill = present.mean() if values.kind == "boolean" else np.median(present)
    if np.isinf(fill):  # the mean of the middle two overflowed
        fill = 2 * np.median(present / 2)
    fill += 0.0  # makes one zero of 0.0 and -0.0, whichever came first
    return _Column(values.kind, float(fill), len(present) < len(values.data))


def _notation(values: Values, place: str) -> str | None:
    """The notation of a column of text that is all numbers."""
    if values.declared:
        return None
    try:
        return notation_of(filter(None, map(label_of, set(values.data))))
    except AmbiguousNumberError as error:
        row = next(i for i, value in enumerate(values.data) if value and str(error) in value)
        whole, decimal = (str(error).replace(",", mark) for mark in ("", "."))
        raise TypeError(
            f"X in {place} holds numbers as text that can be read in two ways ({str(error)!r} in "
            f"row {row} is {whole} or {decimal}); convert it to numbers, or to a categorical dtype "
            "if they are categories"
        ) from None


def _numbers(values: Values, notation: str, place: str) -> Values:
    """A column of text as the numbers that it holds in a notation."""
    known = {value: number_of(label_of(value) or "", notation) for value in set(values.data)}
    wrong = {value for value, number in known.items() if number is None}
    if wrong:
        row = next(i for i, value in enumerate(values.data) if value in wrong)
        raise TypeError(
            f"X in {place} held numbers as text in training ({spelled(notation)}), but row {row} "
            f"is {str(values.data[row])!r}; write it as in training, or make it NaN"
        )
    return floats("number", np.array([known[v] for v in values.data], dtype=np.float64), place)


def _warn_of_text(
    columns: Sequence[_Column], read: Sequence[Values], places: Sequence[str]
) -> None:
    """Warns of columns of text that are numbers, hold some, or name their rows."""
    numbers, mixed, names = [], [], []
    for column, values, place in zip(columns, read, places, strict=True):
        if column.notation:
            row = next(i for i, v in enumerate(values.data) if _is_number(v, column.notation))
            numbers.append(
                f"{place} ({spelled(column.notation)}, {str(values.data[row])!r} in row {row})"
            )
        elif values.kind == "category" and not values.declared:
            counts = Counter(str(v) for v in values.data if label_of(v) is not None)
            if len(counts) <= _FEW:
                continue
            n_numbers, other = number_share(counts)
            own, n = sum(count == 1 for count in counts.values()), sum(counts.values())
            if other and n_numbers > _MOSTLY * len(counts):
                row = next(i for i, v in enumerate(values.data) if v == other)
                mixed.append(f"{place} ({other!r} in row {row})")
            elif own > _OWN * n:
                names.append(f"{place} ({own} of {count_rows(n)} have a value of their own)")
    warn_of_columns(
        numbers,
        "X holds numbers as text, which are read as numbers: {}; convert such a column, or give it "
        "a categorical dtype if they are categories",
    )
    warn_of_columns(
        mixed,
        "X holds numbers as text beside other text, so that each is a category: {}; make what is "
        "no number NaN and convert the column to numbers",
    )
    warn_of_columns(
        names,
        "X has a name or an identifier of its rows as categories: {}; what is learned of one row "
        "says nothing of another, so leave such a column out, or replace it by what rows share",
    )


def _is_number(value: Any, notation: str) -> bool:
    number = number_of(label_of(value) or "", notation)
    return number is not None and not math.isnan(number)


def _check_kind(kind: str, values: Values, place: str) -> None:
    """Whether the values can be read as the kind of training."""
    if "empty" in (kind, values.kind) or kind == values.kind:
        return
    if kind == "category" or values.kind == "category":
        row, value = next((i, v) for i, v in enumerate(values.data) if label_of(v) is not None)
        raise TypeError(
            f"X in {place} held {_HOLDS[kind]} in training, but now {_HOLDS[values.kind]} "
            f"({value} in row {row}); convert it to what it was"
        )
    if kind == "boolean":  # a boolean column with gaps often comes back as 0.0, 1.0 and NaN
        bad = ~(np.isnan(values.data) | (values.data == 0) | (values.data == 1))
        if bad.any():
            raise ValueError(
                f"X in {place} held booleans in training, but now {values.data[bad.argmax()]:g} in "
                f"row {bad.argmax()}; pass True and False, or 1 and 0"
            )


def count_rows(n: int) -> str:
    """Returns "1 row", "2 rows" and so on."""
    return f"{n} row" if n == 1 else f"{n} rows"


def _bullets(names: Sequence[str]) -> str:
    more = ["..."] if len(names) > _NAMES_SHOWN else []
    return "".join(f"- {name}\n" for name in [*names[:_NAMES_SHOWN], *more])


def warn_of_columns(items: Sequence[str], text: str) -> None:
    """Warns of those columns, the first of many; {} in the text stands for them."""
    if items:
        more = len(items) - _NAMES_SHOWN
        listed = ", ".join(items[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        warn(text.format(listed), DataWarning)

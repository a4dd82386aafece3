"""Which rows belong together, and the dealing of rows over the folds of a cross-validation.

Rows that are equal, in X and y, are copies of one observation: of a row that is written out several
times, or drawn several times by a bootstrap.  A model that holds one of them out and trains on
another has seen its y.  So copies are held out together, as are the rows of a group that the user
names.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._reading import is_null, read

__all__ = [
    "deal",
    "find_copies",
    "fold_groups",
    "group_codes",
    "join_groups",
    "repeats_in_x",
    "subset",
]

Codes = NDArray[np.intp]
Floats = NDArray[np.floating[Any]]

# When equal rows are a coincidence of values that are few by nature.
_CHANCE = 0.1  # of pairs equal in X (in y) that differ in y (in X), relative to what chance gives
_FEW_VALUES = 20  # of each column of X, and
_MANY_COPIES = 5  # rows on average for each distinct row: a table of a few cases, as of XOR
_MOST = 0.5  # of the rows have a copy, or of the values of a column occur in other rows too
_FILLED = 0.05  # share of the steps of a grid that have a value from which on values are rounded
_ON_GRID = 1e-4  # of a step
_MIN_LEVELS = 10  # distinct rows of X from which on they are not the levels of a design


def fold_groups(X: Any, y: Any, groups: ArrayLike | None = None) -> Codes | None:
    """Returns a number for each row, equal for rows that must be in one fold; None if all differ.

    Args:
        X: (N, ...) array, tensor or data frame.  Where it is no table of numbers and categories,
            copies are not looked for.
        y: (N,) or (N, D), of any type.
        groups: (N,) labels of the user.

    Raises:
        ValueError: groups of another length, with missing values, or all of one group.
    """
    n = len(y)
    named = None if groups is None else group_codes(groups, n)
    try:
        x = _numbers(X, n)
    except (TypeError, ValueError):  # of a kind that some pipeline knows how to read
        return named
    return join_groups(named, find_copies(x, _numbers(np.asarray(y).reshape(n, -1), n)))


def group_codes(groups: ArrayLike, n: int) -> Codes:
    """Returns the numbers (N,), from 0, of labels of any type.

    Raises:
        ValueError: another length than n, missing values, or all rows in one group.
    """
    labels = np.asarray(groups)
    if labels.dtype.kind == "U" and not hasattr(groups, "dtype"):
        labels = np.asarray(groups, dtype=object)  # np.asarray(["a", nan]) makes "nan" of a gap
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise ValueError(
            f"groups must have shape ({n},), one label for each row; got {labels.shape}"
        )
    if labels.dtype.kind == "O":
        missing = np.array([is_null(type(v)) or bool(v != v) for v in labels], dtype=bool)
        labels = np.array([str(v) for v in labels])
    else:
        missing = np.asarray(labels != labels)  # NaN, NaT
    if missing.any():
        raise ValueError(
            f"groups must have no missing labels, but row {missing.argmax()} has none; give a row "
            "that belongs to no group a label of its own"
        )
    found, codes = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise ValueError(
            f"groups must name at least 2 groups, because each is held out as a whole; all {n} "
            f"rows are in group {found[0]!s}"
        )
    return codes


def find_copies(x: Floats, y: Floats) -> Codes | None:
    """Returns the number of the distinct row that each row is a copy of, (N,).

    None if no two rows are equal.  Also None if equal rows are a coincidence of values that are few
    by nature, as of counts given categories: such rows are observations of their own.  So it is
    where rows equal in X differ in y, and rows equal in y differ in X (or y is rounded), not much
    less often than chance has it; where X has one case, or a few with many rows each; and where
    all columns are so coarse that most of their values occur in several distinct rows, unless most
    rows have a copy.

    Args:
        x: (N, P).
        y: (N,) or (N, D); NaN equals NaN.
    """
    y = y.reshape(len(y), -1)
    n, row = len(y), _runs(np.concatenate([x, y], 1))
    distinct = int(row.max()) + 1
    if distinct == n or distinct < 2:
        return None
    if n > _MANY_COPIES * distinct and all(len(np.unique(c)) <= _FEW_VALUES for c in x.T):
        return None
    first, counts = np.unique(row, return_index=True, return_counts=True)[1:]
    few = counts[counts > 1].sum() < _MOST * n
    if few and all(_is_coarse(column[first]) for column in (*x.T, *y.T)):
        return None
    both, same_x, same_y = _pairs(row), _pairs(_runs(x)), _pairs(_runs(y))
    total = 0.5 * n * (n - 1)
    if same_x == total:
        return None
    x_repeats = (same_x - both) / same_x > _CHANCE * (1 - same_y / total)
    y_repeats = (same_y - both) / same_y > _CHANCE * (1 - same_x / total)
    if x_repeats and (y_repeats or all(map(_is_rounded, y.T))):
        return None
    return row


def repeats_in_x(x: Floats) -> float:
    """Returns the share of rows, of which none is a copy, whose X another row has too.

    0 where X takes a few values, or rounded values alone: there it says nothing about the rows.
    """
    counts = np.bincount(_runs(x))
    if len(counts) < _MIN_LEVELS or len(counts) == len(x):
        return 0.0
    if all(len(np.unique(c)) < _MIN_LEVELS or _is_rounded(c) for c in x.T):
        return 0.0
    return float(counts[counts > 1].sum() / len(x))


def join_groups(first: Codes | None, second: Codes | None) -> Codes | None:
    """Returns the finest groups (N,) that separate no two rows that either of the two joins.

    They are numbered by their first rows.  If that is one group of all rows, it is the first.
    """
    if first is None or second is None:
        codes = second if first is None else first
    else:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a, b = int(first.max()) + 1, int(second.max()) + 1
        edges = coo_array((np.ones(len(first)), (first, a + second)), shape=(a + b, a + b))
        count, part = connected_components(edges, directed=False)
        codes = part[first] if count > 1 else first
    if codes is None:
        return None
    _, at, codes = np.unique(codes, return_index=True, return_inverse=True)
    return at.argsort().argsort()[codes]


def subset(codes: Codes | None, rows: NDArray[np.bool_] | Codes) -> Codes | None:
    """Returns the numbers of some rows, from 0 again; None where all or none of them differ."""
    if codes is None:
        return None
    found, codes = np.unique(codes[rows], return_inverse=True)
    return codes if 1 < len(found) < len(codes) else None


def deal(n: int, groups: Codes | None, folds: int, rng: np.random.Generator) -> Codes:
    """Returns the fold (N,) of each row, at random and of nearly equal sizes.

    Args:
        n: number of rows.
        groups: (N,) numbers of groups, whose rows are in one fold; None for rows by themselves.
        folds: number of folds; fewer where there are fewer groups.
        rng: of the order.
    """
    if groups is None:
        return rng.permutation(n) % min(folds, n)
    sizes = np.bincount(groups)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold = np.empty(len(sizes), dtype=np.intp)
    filled = [(0, f) for f in range(min(folds, len(sizes)))]  # rows of each fold
    for group in order:  # the largest first, each to the emptiest fold
        rows, f = filled[0]
        fold[group] = f
        heapq.heapreplace(filled, (rows + int(sizes[group]), f))
    return fold[groups]


def _numbers(X: Any, n: int) -> Floats:
    """Columns of any kind as numbers (N, P) that are equal where the values are."""
    shape = getattr(X, "shape", ())
    if len(shape) > 2:
        X = np.asarray(X).reshape(n, -1)
    columns: list[Any] = [np.zeros(n)]
    for values in read(X)[2]:
        if values.kind == "category":
            code: dict[Any, int] = {}
            columns.append([code.setdefault(value, len(code)) for value in values.data])
        elif values.data is not None:
            columns.append(values.data)
    return np.stack(columns, 1).astype(np.float64)


def _runs(a: Floats) -> Codes:
    """The number of the distinct row of (N, P) that each row has, (N,)."""
    order = np.lexsort(a.T[::-1]) if a.shape[1] else np.arange(len(a))
    before, after = a[order[:-1]], a[order[1:]]
    new = ~((before == after) | (np.isnan(before) & np.isnan(after))).all(1)
    codes = np.empty(len(a), dtype=np.intp)
    codes[order] = np.concatenate([[0], np.cumsum(new)])
    return codes


def _pairs(codes: Codes) -> float:
    """Number of pairs of rows that are equal."""
    counts = np.bincount(codes).astype(np.float64)
    return float((counts * (counts - 1)).sum() / 2)


def _is_coarse(column: Floats) -> bool:
    """Whether most of the values occur more than once."""
    counts = np.unique(column, return_counts=True)[1]
    return bool(counts[counts > 1].sum() > _MOST * len(column))


def _is_rounded(column: Floats) -> bool:
    """Whether the values are multiples of a step, and fill a part of its grid."""
    values = np.unique(column[np.isfinite(column)])
    gaps = np.diff(values)
    if len(gaps):
        gaps = gaps[gaps > 1e-9 * gaps.sum()]
    if len(gaps) < 2:
        return True
    steps = gaps / gaps.min()
    return len(gaps) >= _FILLED * steps.sum() and bool(
        (abs(steps - steps.round()) < _ON_GRID).all()
    )

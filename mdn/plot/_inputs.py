"""What the user gives to a plot: the model along one feature, its distribution, checked values."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from ..arguments import check_probabilities, without_mask
from ..distribution import AtomicMixture
from ..prediction import kind_of, predict_distribution, to_numpy, warn_of_index

Floats = NDArray[np.float64]

_MOST_LEVELS = 12  # categories that an axis has room for; of more the most frequent
_HALF_PIECE = 0.4  # of the level piece of a curve at a category; categories are 1 apart
_JITTER = 0.3  # by which rows of one category are spread, to either side
_GOLDEN = (np.sqrt(5) - 1) / 2
_MOST_TEXT = 28  # characters of a row of x that name a curve


# -- the model ------------------------------------------------------------------------------------


class FeatureGrid(NamedTuple):
    """The model on a grid of one feature, the other features held.

    Attributes:
        values: the feature, (G,), rising; of a feature without numbers the place of each category,
            0 to G - 1.
        dist: p(y|x) there, batch (G,).
        data: the feature in the rows of x that are drawn, (n,); around the place of its category.
        drawn: which rows of x these are, (N,); not those where the feature has no value.
        name: of the feature.
        others: how many others there are and where they are held, and how many rows are not drawn;
            empty if there is nothing to say.
        at: the feature in the row that the user gave, if any.
        levels: the categories, G names; None of a feature of numbers.
    """

    values: Floats
    dist: Any
    data: Floats
    drawn: NDArray[np.bool_]
    name: str
    others: str
    at: float | None
    levels: list[str] | None

    def line(self, y: Floats) -> tuple[Floats, Floats]:
        """Returns x and y of a curve through y (G,): of categories a level piece for each."""
        if self.levels is None:
            return self.values, y
        ends = self.values[:, None] + [-_HALF_PIECE, _HALF_PIECE, np.nan]
        return ends.reshape(-1), np.repeat(y, 3)


def feature_grid(model: Any, x: Any, feature: int | str, at: Any, n_grid: int) -> FeatureGrid:
    """Returns the model on even steps over the range of one column of x, or at its categories.

    The others are held as in ``at``, a row of x, a data frame of one, or some values by the names
    of their columns; what is not given at the median of a column of numbers and at the most
    frequent value of any other.
    """
    table = as_table(x)
    columns, names = _columns(table)
    n_features = len(columns)
    index = _feature_index(feature, n_features, names)
    column = columns[index]
    name = names[index] if names else "x" if n_features == 1 else f"x{index}"
    given = _given_values(at, n_features, names)
    row = [given[i] if i in given else _typical(c) for i, c in enumerate(columns)]
    others = [c for i, c in enumerate(columns) if i != index and i not in given]
    where = _where_typical(others, n_features - 1) if others else "as given"
    if others and given.keys() - {index}:
        where += " or as given"
    notes = [f"the other feature{'s' * (n_features > 2)} {where}"] if n_features > 1 else []
    n_empty = sum(map(is_missing, column))
    if n_empty == len(column):
        raise ValueError(f"x must hold values of feature {name}; got none in {n_empty} rows")
    if n_empty:
        notes.append(f"{name} has no value in {n_empty} of {len(column)} rows")
    levels, varied, place = None, None, None
    if _is_numeric(column):
        check_numbers(np.nan_to_num(column, nan=0.0, posinf=np.inf, neginf=-np.inf), "x")
        data = column
        values = varied = even_steps(data[~np.isnan(data)], 0.02, n_grid)
        if not is_missing(given.get(index)):
            place = float(check_numbers(given[index], "at"))
    else:
        known = _categories(column)
        shown = known[:_MOST_LEVELS]
        if len(known) > len(shown):
            notes.append(f"the {len(shown)} most frequent of {len(known)} values of {name}")
        shown = [level for level in _in_order(column, known) if level in shown]
        data = _places(column, shown)
        values, levels = np.arange(len(shown), dtype=np.float64), [*map(_as_text, shown)]
        varied = column[[list(column).index(level) for level in shown]]
        if given.get(index) in shown:
            place = float(shown.index(given[index]))
    drawn = ~np.isnan(data)
    held = [_repeat(value, c, len(values)) for value, c in zip(row, columns, strict=True)]
    held[index] = varied
    return FeatureGrid(
        values,
        distribution_at(model, _like_table(table, held)),
        data[drawn],
        drawn,
        name,
        "; ".join(notes),
        place,
        levels,
    )


def distribution_at(model: Any, x: Any, n_targets: int = 1) -> Any:
    """Returns p(y|x) of N rows, batch (N,), event (n_targets,); float64 on the CPU if possible.

    Args:
        model: as in :func:`mdn.prediction.predict_distribution`.
        x: what :func:`as_table` returns; None with a distribution, whose batch is () or (N,).
        n_targets: D.
    """
    if x is None and not isinstance(model, Distribution):
        raise TypeError(
            f"x must hold rows of features unless there is a distribution; got None with "
            f"{kind_of(model)}"
        )
    dist = predict_distribution(model, x)
    if tuple(dist.event_shape) != (n_targets,):
        words = {1: "one target", 2: "two targets"}[n_targets]
        more = dist.event_shape.numel() > n_targets
        raise ValueError(
            f"this plot needs {words}, a distribution with event shape ({n_targets},); "
            f"got {tuple(dist.event_shape)} of {kind_of(dist)}"
            + (f". Take {words} with .marginal(dims)" if more else "")
        )
    dist = dist if dist.batch_shape else dist.expand((1,))
    if len(dist.batch_shape) > 1:
        raise ValueError(
            f"the distribution must have batch shape () or (N,); got {tuple(dist.batch_shape)}"
        )
    # between two float32 there may be no room for the grid of a narrow component
    return dist.to("cpu", torch.float64) if hasattr(dist, "to") else dist


def check_methods(dist: Any, *methods: str) -> None:
    """Checks that the distribution has the methods."""
    if not all(hasattr(dist, name) for name in methods):
        wanted = " and ".join(f"{name}()" for name in methods)
        raise TypeError(
            f"this plot needs a distribution with {wanted}, as a mixture; got {kind_of(dist)}"
        )


class Parts(NamedTuple):
    """A distribution as a density and the probabilities of atoms.

    Attributes:
        smooth: what has the density, batch (N,).
        share: its probability, (N,).
        places: of the atoms, (N, A); A is 0 for distributions without.
        probs: of the atoms, (N, A).
    """

    smooth: Any
    share: Floats
    places: Floats
    probs: Floats

    @property
    def name(self) -> str:
        """The atoms as text; without numbers where they differ by row."""
        if (self.places != self.places[:1]).any():
            return "y is an atom"
        return f"y = {', '.join(f'{a:g}' for a in np.sort(self.places[0]))}"


def parts_of(dist: Any) -> Parts:
    """Returns the density and the atoms of N distributions."""
    if not isinstance(dist, AtomicMixture):
        n = dist.batch_shape[0]
        return Parts(dist, np.ones(n), np.empty((n, 0)), np.empty((n, 0)))
    share = to_numpy(dist.logits[..., -1].exp())
    return Parts(dist.base, share, to_numpy(dist.atoms), to_numpy(dist.atom_probs))


def high_modes(dist: Any, least: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Returns modes and their densities, and which have a share of the highest density, (N, K).

    Atoms are no modes here.
    """
    check_methods(dist, "modes")
    smooth, weight, *_ = parts_of(dist)
    modes, log_density = map(to_numpy, smooth.modes())  # by falling density, padded with NaN
    density = np.exp(np.where(np.isnan(log_density), -np.inf, log_density)) * weight[:, None]
    return modes[..., 0], density, density >= least * density.max(1, keepdims=True)


def lattice_width(dist: Any) -> float:
    """Returns the distance between the values that y can take; 0 if it can take any."""
    try:
        discrete = getattr(dist.support, "is_discrete", False)
    except NotImplementedError:
        discrete = False
    return float(getattr(dist, "width", 1.0)) if discrete else 0.0


def quantiles(dist: Any, levels: Floats) -> Floats:
    """Returns the quantiles at levels (L,), (L, N)."""
    try:
        with torch.no_grad():
            found = to_numpy(dist.icdf(torch.as_tensor(levels[:, None]).to(dist.mean)))[..., 0]
    except NotImplementedError:
        raise TypeError(
            f"this plot needs a distribution with icdf(), as a mixture; got {kind_of(dist)}"
        ) from None
    finite = np.isfinite(found).all(0)  # (N,)
    if not finite.all():
        row = int(finite.argmin())
        raise ValueError(
            f"the distribution must have finite quantiles; got {found[:, row]} in row {row}"
        )
    return found


def evaluate(dist: Any, function: Callable[[Tensor], Tensor], y: Floats) -> Floats:
    """Returns a function of N distributions at y, (G, N, D) or (G, 1, D), in chunks of memory."""
    with torch.no_grad():
        chunks = torch.as_tensor(y).to(dist.mean).split(32)
        return np.concatenate([to_numpy(function(chunk)) for chunk in chunks])


def even_steps(values: Floats, margin: float, n: int) -> Floats:
    """Returns n even steps over the values plus a margin, a share of their range, on both sides."""
    if n < 2:
        raise ValueError(f"n_grid must be at least 2; got {n}")
    low, high = values.min(), values.max()
    pad = margin * (high - low) or 0.1 * abs(low) or 1.0  # a single value still gets a range
    return np.linspace(low - pad, high + pad, n)


# -- tables ---------------------------------------------------------------------------------------


def as_table(x: Any) -> Any:
    """Returns a data frame as it is, anything else as an array (N, F) of numbers or objects.

    A row of a data frame of pandas, a Series with the names of the columns, becomes a data frame.
    """
    if nw.dependencies.is_into_dataframe(x):
        if not x.shape[0]:
            raise ValueError(f"x must have one row or more; got shape {tuple(x.shape)}")
        return x
    if x is None or isinstance(x, str | Mapping):
        raise TypeError(f"x must be rows of features, an array or a data frame; got {kind_of(x)}")
    if hasattr(type(x), "toarray"):
        raise TypeError(f"x must be dense, but is a sparse {kind_of(x)}; pass x.toarray()")
    if nw.dependencies.is_pandas_series(x) and all(isinstance(name, str) for name in x.index):
        return x.to_frame().T.infer_objects()
    x = without_mask(x)
    array = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
    mixed = array.dtype.kind in "USO"  # NumPy makes text of rows that hold some text
    array = np.asarray(x, dtype=object) if mixed else array.astype(np.float64)
    array = array.reshape(-1, 1) if array.ndim < 2 else array
    if array.ndim > 2 or not array.size:
        raise ValueError(f"x must have shape (N,) or (N, F), not empty; got {array.shape}")
    return array


def row_values(table: Any) -> list[str] | None:
    """Returns the values of each row of what :func:`as_table` returns, as text; None if long."""
    is_array = isinstance(table, np.ndarray)
    rows = table if is_array else nw.from_native(table, eager_only=True).iter_rows()
    texts = [", ".join(map(_as_text, row)) for row in rows]
    return texts if max(map(len, texts)) <= _MOST_TEXT else None


def is_missing(value: Any) -> bool:
    """Whether a value of a table is None, NaN or what a data frame has for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def _as_text(value: Any) -> str:
    if is_missing(value):
        return "missing"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number else str(value)


def _columns(table: Any) -> tuple[list[Any], list[str] | None]:
    """Returns numbers as float64 arrays, other columns as they are, and the names if any."""
    if isinstance(table, np.ndarray):
        return [_as_numbers(column) for column in table.T], None
    frame = nw.from_native(table, eager_only=True)
    columns = [
        np.asarray(column.cast(nw.Float64).to_numpy(), dtype=np.float64)
        if column.dtype.is_numeric()
        else column
        for column in frame.iter_columns()
    ]
    return columns, [str(name) for name in frame.columns]


def _as_numbers(column: Any) -> Any:
    """Returns a column of objects as numbers if it holds nothing else."""
    if any(isinstance(value, str | bool | np.bool_) for value in column):
        return column
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        return column


def _is_numeric(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.dtype == np.float64


def _feature_index(feature: Any, n_features: int, names: list[str] | None) -> int:
    """Returns the column of x that is meant, by its name or its number."""
    if isinstance(feature, str) and names is not None:
        if feature not in names:
            near = difflib.get_close_matches(feature, names, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"they are {', '.join(names)}"
            raise ValueError(f"feature must be a column of x; there is no {feature!r}, {hint}")
        return names.index(feature)
    is_number = isinstance(feature, int | np.integer) and not isinstance(feature, bool)
    if not is_number or not 0 <= feature < n_features:
        wanted = ", or its name" if names else ""
        raise ValueError(
            f"feature must be a column of x, 0 to {n_features - 1}{wanted}; got {feature!r}"
            + (", but x has no names of columns" if isinstance(feature, str) else "")
        )
    return int(feature)


def _given_values(at: Any, n_features: int, names: list[str] | None) -> dict[int, Any]:
    """Returns the values that the user holds, by the number of their column."""
    if at is None:
        return {}
    if isinstance(at, Mapping):
        if names is None:
            raise TypeError(
                "at must be a row of x, as x has no names of columns; got "
                f"{kind_of(at)} of {', '.join(map(repr, at))}"
            )
        return {_feature_index(name, n_features, names): value for name, value in at.items()}
    at = at.detach().cpu() if isinstance(at, Tensor) else at
    row = list(np.asarray(at, dtype=object).flat)
    if len(row) != n_features:
        raise ValueError(f"at must be one row of x, {n_features} values; got shape {np.shape(at)}")
    return dict(enumerate(row))


def _typical(column: Any) -> Any:
    """Returns the median of numbers, the most frequent value of others; gaps do not count."""
    if not _is_numeric(column):
        return next(iter(_categories(column)), None)
    present = column[~np.isnan(column)]
    return np.median(present) if present.size else np.nan


def _categories(column: Any) -> list[Any]:
    """Returns the values of a column, the most frequent first, without gaps."""
    counts = Counter(value for value in column if not is_missing(value))
    return [value for value, _ in counts.most_common()]


def _in_order(column: Any, values: list[Any]) -> list[Any]:
    """Returns values of a column in the order of its categories, else sorted as text."""
    order = None
    if isinstance(column, nw.Series):
        native: Any = column.to_native()
        own = getattr(native, "cat", None) if column.dtype == nw.Categorical else column.dtype
        order = getattr(own, "categories", None)  # of pandas, or of an enum
    return sorted(values, key=str) if order is None else [v for v in order if v in values]


def _places(column: Any, levels: list[Any]) -> Floats:
    """Returns where each row is drawn, around the place of its category; NaN if nowhere."""
    place = {level: float(i) for i, level in enumerate(levels)}
    at = [np.nan if is_missing(value) else place.get(value, np.nan) for value in column]
    spread = np.arange(len(at)) * _GOLDEN % 1.0  # even, and unrelated to the order of the rows
    return np.array(at) + _JITTER * (2 * spread - 1)


def _where_typical(others: list[Any], n: int) -> str:
    """Returns in words where columns, of n, are held at their typical values."""
    numbers, many = [*map(_is_numeric, others)], "s" * (n > 1)
    values = [f"median{many}"] * any(numbers) + [f"most frequent value{many}"] * (not all(numbers))
    return f"at {'their' if many else 'its'} {' or '.join(values)}"


def _repeat(value: Any, column: Any, n: int) -> Any:
    """Returns a column of n times the value, of the kind of the column."""
    if _is_numeric(column):
        empty = is_missing(value) and bool(np.isnan(column).any())
        return np.full(n, np.nan if empty else check_numbers(value, "at"))
    known = [None if is_missing(one) else one for one in column]
    value = None if is_missing(value) else value
    if value not in known:
        raise ValueError(f"at must hold values of x where these are no numbers; got {value!r}")
    return column[[known.index(value)] * n]


def _like_table(table: Any, columns: list[Any]) -> Any:
    """Returns columns as a table of the kind that the user gave."""
    if isinstance(table, np.ndarray):
        return np.column_stack(columns)
    frame = nw.from_native(table, eager_only=True)
    frame = frame[[0] * len(columns[0])]  # keeps what a data frame knows of its columns
    return frame.with_columns(
        *(
            nw.new_series(name, column, backend=frame.implementation)
            if isinstance(column, np.ndarray)
            else column
            for name, column in zip(frame.columns, columns, strict=True)
        )
    ).to_native()


# -- checks ---------------------------------------------------------------------------------------


def check_numbers(values: Any, name: str) -> Floats:
    """Returns finite numbers as a float64 array of any shape."""
    values = values.detach().cpu() if isinstance(values, Tensor) else values
    try:
        array = np.asarray(without_mask(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers; got {kind_of(values)} ({error})") from None
    finite = np.isfinite(array)
    if not finite.all():
        at = np.argwhere(~finite)[0]
        row = f" in row {at[0]}" if array.ndim else ""
        raise ValueError(f"{name} must be finite; got {array[tuple(at)]}{row}")
    return array


def check_vector(values: Any, name: str, n: int | None = None) -> Floats:
    """Returns finite numbers (n,), given as (n,) or (n, 1); of any length if n is None."""
    array = check_numbers(values, name)
    size = array.size if n is None else n
    if array.shape not in ((size,), (size, 1)) or not array.size:
        wanted = "(N,) or (N, 1), not empty" if n is None else f"({n},)"
        raise ValueError(f"{name} must have shape {wanted}; got {array.shape}")
    return array.reshape(-1)


def check_target(y: Any, n: int, x: Any) -> Floats:
    """Returns one target of the n rows of x, (n,)."""
    warn_of_index(x, y=y)
    array = check_numbers(y, "y")
    if array.ndim == 2 and array.shape[1] > 1:
        raise ValueError(
            f"y must have one target, shape (N,) or (N, 1); got {array.shape}. "
            "Plot one column and the marginal of its dimension"
        )
    if array.shape not in ((n,), (n, 1)):
        raise ValueError(f"y must have as many rows as x, shape ({n},); got {array.shape}")
    return array.reshape(-1)


def check_labels(labels: Sequence[str] | None, default: list[str]) -> list[str]:
    """Returns the labels, one for each of the defaults, or these."""
    if labels is None:
        return default
    n = len(default)
    if isinstance(labels, str) or not hasattr(labels, "__len__") or len(labels) != n:
        raise ValueError(f"labels must be a list of {n} names, one a row; got {labels!r}")
    return list(labels)


def check_coverages(values: Any) -> list[float]:
    """Returns one or more different probabilities, rising."""
    found = check_probabilities("coverage", values)
    if len(set(found)) < len(found):
        raise ValueError(f"coverage must be one or more different values; got {values!r}")
    return sorted(found)

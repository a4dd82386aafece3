"""Which columns of a table are features, targets, weights and groups, for all commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:  # mdn --help starts without it
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Columns",
    "Drop",
    "Groups",
    "Parts",
    "Target",
    "Weight",
    "features_of",
    "split",
    "table_of",
]

Target = Annotated[list[str], typer.Option(help="Column of y; repeat it for several.")]
Columns = Annotated[
    str | None, typer.Option(help="Features, with commas between; default: all other columns.")
]
Drop = Annotated[str | None, typer.Option(help="Columns to leave out, with commas between.")]
Weight = Annotated[str | None, typer.Option(help="Column of the weights of the rows.")]
Groups = Annotated[
    str | None, typer.Option(help="Column whose equal values are held out together.")
]


class Parts(NamedTuple):
    """The rows of a table as a model takes them."""

    X: Any  # table of the features
    y: NDArray[np.float64]  # (N,) or (N, D)
    weight: NDArray[np.float64] | None  # (N,)
    groups: list[Any] | None  # (N,)

    def take(self, rows: NDArray[np.bool_]) -> Parts:
        """The rows where a mask is True."""
        weight = None if self.weight is None else self.weight[rows]
        groups = self.groups
        if groups is not None:
            groups = [group for group, kept in zip(groups, rows, strict=True) if kept]
        return Parts(self.X.filter(rows), self.y[rows], weight, groups)


def table_of(
    sources: Sequence[str],
    reading: dict[str, Any],
    *,
    note: Callable[[str], None],
    drop: str | None = None,
    features: Sequence[str] | None = None,
) -> Any:
    """Reads files into one table, with numbers in the place of dates.

    Args:
        sources: files, folders, or ``-`` for standard input.
        reading: options of :func:`mdn.read_table`.
        note: prints a line to standard error.
        drop: columns that are not read, with commas between.
        features: of a fitted model, where it is one.
    """
    from ..tables import date_columns, read_table

    sources = list(sources)
    table = read_table(sources[0] if len(sources) == 1 else sources, drop=_listed(drop), **reading)
    table, dates = date_columns(table, features)
    for name, made in dates.items():
        if features is None:
            note(f"column {name}: dates are taken as the numbers {', '.join(made)}")
    return table


def split(
    table: Any,
    target: Sequence[str],
    *,
    columns: str | Sequence[str] | None = None,
    weight: str | None = None,
    groups: str | None = None,
    note: Callable[[str], None],
) -> Parts:
    """Splits a table into features, targets, weights and groups.

    Rows without a target are left out, and identifiers are no features unless ``columns`` names
    them; a note says so.
    """
    import numpy as np

    from ..tables import identifiers

    known = table.column_names
    for option, names in (
        ("--target", list(target)),
        ("--columns", _listed(columns)),
        ("--weight", _listed(weight)),
        ("--groups", _listed(groups)),
    ):
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"{option} must name columns of the table; it has no {missing[0]!r}, but "
                f"{', '.join(known)}"
            )
    others = {*target, *_listed(weight), *_listed(groups)}
    features = _listed(columns) or [name for name in known if name not in others]
    if columns is None:
        for name, reason in identifiers(table).items():
            if name in features:
                note(f"column {name} is left out: {reason}; --columns with its name keeps it")
                features.remove(name)
    inside = [name for name in features if name in target]
    if inside:
        raise ValueError(f"--columns must not name the target; got {inside[0]!r}")
    if not features:
        raise ValueError("the table must have a column beside the target; there is none left")
    y = np.stack([_numbers(table, name, "--target") for name in target], 1)
    w = None if weight is None else _numbers(table, weight, "--weight")
    labels = None if groups is None else table.column(groups).to_pylist()
    parts = Parts(table.select(features), y[:, 0] if len(target) == 1 else y, w, labels)
    known_y = np.atleast_1d(~np.isnan(y).all(1))
    if not known_y.all():
        note(f"{(~known_y).sum()} of {len(y)} rows have no {' and '.join(target)}: left out")
        parts = parts.take(known_y)
    return parts


def features_of(model: Any, file: str) -> list[str]:
    """Returns the names of the features of a model."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        raise ValueError(
            f"{file} does not know the names of its features: fit it to a table, as by mdn fit"
        )
    return list(names)


def _listed(names: str | Sequence[str] | None) -> list[str]:
    if names is not None and not isinstance(names, str):
        return list(names)
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _numbers(table: Any, name: str, option: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where it is missing."""
    import numpy as np
    import pyarrow as pa

    column = table.column(name)
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    values = column.to_pylist()
    row, value = next((i, v) for i, v in enumerate(values) if v is not None)
    raise ValueError(
        f"{option} must name a column of numbers; {name!r} holds {value!r} in row {row}"
    )

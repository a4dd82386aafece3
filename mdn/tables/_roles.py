"""What columns of a table are besides numbers and categories: dates, and names of the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

__all__ = ["date_columns", "identifiers"]

_START = datetime(2020, 1, 1)  # days of the trend are counted from it, in every table
_TREND = "days since 2020-01-01"
_PARTS = ("year", "month", "weekday", "hour")
# Columns that count their rows are identifiers by these names, and those of a frame's index.
_NAMES = re.compile(
    r"(.*[_\s.-])?(id|ids|idx|index|key|no|nr|num|number|row|rownames|uid|uuid)|(?-i:.*[a-z](ID|Id))"
    r"|unnamed: \d+|column \d+|__index_level_\d+__|#|",
    re.IGNORECASE,
)
_FEW, _OWN = 20, 0.5  # as in Columns


def date_columns(
    table: Any, names: Sequence[str] | None = None
) -> tuple[Any, dict[str, list[str]]]:
    r"""Returns a table of pyarrow with numbers in the place of each column of dates or times.

    Of a column ``when`` they are the parts ``when year``, ``when month`` (1 to 12),
    ``when weekday`` (1 for Monday to 7) and ``when hour`` (0 to 24, with the minutes as a
    fraction), of those that vary, and the trend ``when days since 2020-01-01``.  A time of the day
    becomes ``when in hours``, a duration ``when days``.

    Args:
        table: with columns of dates, times or durations; those of a time zone count in their own
            time.
        names: of the columns that a model was fitted on.  If given, the parts among them are
            made, also those that do not vary here.

    Returns:
        The table, and for each column of dates the names of those in its place.

    Example:
        >>> import io, mdn
        >>> table = mdn.read_table(io.BytesIO(b"when\n2020-01-02\n2020-03-01\n"))
        >>> date_columns(table)[0].to_pydict()
        {'when month': [1, 3], 'when weekday': [4, 7], 'when days since 2020-01-01': [1.0, 60.0]}
    """
    import pyarrow as pa

    _check_table(table)
    columns: dict[str, Any] = {}
    made: dict[str, list[str]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        parts = _parts(column)
        if not parts:
            columns[name] = column
            continue
        if names is None:
            kept = {p: v for p, v in parts.items() if len(v.drop_null().unique()) > 1}
            chosen = [*(p for p in _PARTS if p in kept), *(p for p in parts if p not in _PARTS)]
        else:
            chosen = [p for p in parts if f"{name} {p}" in names]
        made[name] = [f"{name} {p}" for p in chosen]
        columns.update((f"{name} {p}", parts[p]) for p in chosen)
    return pa.table(columns), made


def _parts(column: Any) -> dict[str, Any]:
    """The numbers in the place of a column; none unless it is of dates or times."""
    import pyarrow as pa
    from pyarrow import compute as pc

    def number(values: Any, unit: float) -> Any:
        return pc.divide(values.cast(pa.int64()).cast(pa.float64()), unit)

    if pa.types.is_duration(column.type):
        return {"days": number(column.cast(pa.duration("us"), safe=False), 86400e6)}
    if pa.types.is_time(column.type):
        return {"in hours": number(column.cast(pa.time64("us"), safe=False), 3600e6)}
    if not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)):
        return {}
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = pc.local_timestamp(column)
    column = column.cast(pa.timestamp("us"), safe=False)
    minutes = pc.add(pc.multiply(pc.hour(column), 60), pc.minute(column))
    return {
        "year": pc.year(column),
        "month": pc.month(column),
        "weekday": pc.day_of_week(column, count_from_zero=False),
        "hour": number(minutes, 60.0),
        _TREND: number(pc.microseconds_between(pa.scalar(_START, column.type), column), 86400e6),
    }


def identifiers(table: Any) -> dict[str, str]:
    """Returns the columns that name their rows, each with the reason.

    They are columns of text with more than 20 values of which most belong to one row, and whole
    numbers that differ in every row, under a name such as ``id``, ``index`` or none.

    Args:
        table: of pyarrow.

    Example:
        >>> import pyarrow as pa
        >>> identifiers(pa.table({"id": [1, 2, 3], "floor": [1, 2, 3]}))
        {'id': 'it counts the rows'}
    """
    import pyarrow as pa
    from pyarrow import compute as pc

    _check_table(table)
    found: dict[str, str] = {}
    for name in table.column_names:
        column = table[name]
        n = len(column) - column.null_count
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            counts = pc.value_counts(column.drop_null())
            own = sum(count == 1 for count in counts.field("counts").to_pylist())
            if len(counts) > _FEW and own > _OWN * n:
                found[name] = f"{own} of {n} rows have a value of their own"
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            if n < len(column) or n < 2 or not _NAMES.fullmatch(name):
                continue
            ends = pc.min_max(column).as_py()
            if pc.count_distinct(column).as_py() < n or float(ends["max"]) % 1:
                continue
            if ends["min"] in (0, 1) and ends["max"] - ends["min"] == n - 1:
                found[name] = "it counts the rows"
            elif pc.all(pc.equal(pc.floor(column), column)).as_py():
                found[name] = "its whole numbers differ in every row"
    return found


def _check_table(table: Any) -> None:
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        raise TypeError(f"table must be a table of pyarrow; got {type(table).__name__}")

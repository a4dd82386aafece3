"""Tables from files: :func:`read_table`, :func:`read_batches` and :class:`Reader`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..arguments import check_integer
from ..warnings import DataWarning, warn
from ._cells import CellError, Plan, agreed, blank, converted, plan_of
from ._csv import csv_batches, csv_table, line_of
from ._dialect import dialect_of
from ._files import File, Source, binary_batches, binary_table, files_of, use
from ._lines import SHOWN, Dialect

__all__ = ["ReadOptions", "Reader", "read_batches", "read_table"]

ROWS = 65_536  # of a batch, and of the part from which the kinds of the columns are guessed
_TOTALS = {"total", "totals", "sum", "grand total", "average", "mean", "subtotal"}
_TOTALS |= {"summe", "gesamt", "insgesamt", "somme", "suma", "totale", "totaal"}
# Numbers that stand for missing ones in many files, where they are far from all others.
_SENTINELS = (-999.0, -9999.0, -99.0, -99999.0, 999.0, 9999.0, 99999.0, -999.9)
_SHARE = 0.01


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read; what is None is guessed from its first part.

    On the command line each is an option of the same name: ``skip_last`` is ``--skip-last``.

    Attributes:
        separator: between the values of a CSV file, one character.
        encoding: of a CSV file, as Python names it: ``"utf-8"``, ``"cp1252"``.
        decimal: the decimal mark, ``"."`` or ``","``.
        thousands: the mark between thousands: ``","``, ``"."``, ``" "`` or ``"'"``.
        na: cells that are missing, beside the empty ones, ``NA``, ``NaN``, ``null`` and, among
            numbers, ``-``, ``?``, ``none`` and ``missing``.
        skip: lines above the header.
        skip_last: lines at the end that are no rows of the table.  None: 0, and a last row that
            looks like totals is refused; 0: it is a row.
        comment: what begins lines that are left out.
        columns: names of those that are read.  Empty: all.
        drop: names of those that are not.
        text: names of those that are kept as text, such as codes; they have a dictionary type,
            which models take as categories.
        date_format: of dates, as of :func:`datetime.datetime.strptime`: ``"%d/%m/%Y"``.
    """

    separator: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    na: Sequence[str] = ()
    skip: int = 0
    skip_last: int | None = None
    comment: str | None = None
    columns: Sequence[str] = ()
    drop: Sequence[str] = ()
    text: Sequence[str] = ()
    date_format: str | None = None

    def __post_init__(self) -> None:
        for name in ("separator", "encoding", "decimal", "thousands", "comment", "date_format"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise TypeError(f"{name} must be a text or None; got {value!r}")
        for name in ("na", "columns", "drop", "text"):
            value = getattr(self, name)
            listed = [value] if isinstance(value, (str, int, float)) else list(value or ())
            object.__setattr__(self, name, tuple(map(str, listed)))
        if self.separator is not None:
            separator = {"\\t": "\t", "tab": "\t"}.get(self.separator, self.separator)
            object.__setattr__(self, "separator", separator)
            if len(separator) != 1:
                raise ValueError(f"separator must be one character; got {self.separator!r}")
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal must be '.' or ','; got {self.decimal!r}")
        if self.thousands is not None and self.thousands == self.decimal:
            raise ValueError(f"thousands and decimal must differ; both are {self.decimal!r}")
        for name in ("skip", "skip_last"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), at_least=0)


def read_table(
    source: Source,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    na: Sequence[str] = (),
    skip: int = 0,
    skip_last: int | None = None,
    comment: str | None = None,
    columns: Sequence[str] = (),
    drop: Sequence[str] = (),
    text: Sequence[str] = (),
    date_format: str | None = None,
) -> Any:
    r"""Returns the table of a file as a table of pyarrow, which the models take as X.

    Separator, encoding, decimal mark and the kinds of the columns are guessed where they are not
    given, and what is not plain is said.  Columns of text that are numbers, also with a currency
    or a unit that all of them have, dates and yes/no become such; all others stay text.

    Args:
        source: a path, a list of paths, a folder, ``"-"`` for standard input or a binary file: CSV
            with a header, Parquet, Arrow or Feather, as it is or compressed by gzip, zstd or bzip2.
            Several files must have the same columns.
        separator, encoding, decimal, thousands, na, skip: see :class:`mdn.tables.ReadOptions`.
        skip_last, comment, columns, drop, text, date_format: as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line or a cell cannot be read; it names file, line, column, value and what to
            do.

    Warns:
        DataWarning: what was guessed and is not plain.

    Example:
        >>> import io, mdn
        >>> mdn.read_table(io.BytesIO(b"size,price\n80,250.5\n95,\n")).to_pydict()
        {'size': [80, 95], 'price': [250.5, None]}
    """
    options = ReadOptions(
        separator=separator,
        encoding=encoding,
        decimal=decimal,
        thousands=thousands,
        na=na,
        skip=skip,
        skip_last=skip_last,
        comment=comment,
        columns=columns,
        drop=drop,
        text=text,
        date_format=date_format,
    )
    reader = Reader(source, options)
    table = reader.table()
    for note in reader.notes:
        warn(note, DataWarning)
    return table


def read_batches(
    source: Source, options: ReadOptions | None = None, *, rows: int = ROWS
) -> Iterator[Any]:
    """Yields a source in tables of at most so many rows, in bounded memory.

    What is guessed is guessed from the first batch, and held for all.  Numbers of CSV files are
    float64, also whole ones.

    Args:
        source: as of :func:`read_table`.
        options: how it is read.
        rows: of a batch.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as of :func:`read_table`, when the row is reached.

    Warns:
        DataWarning: what was guessed and is not plain.
    """
    reader = Reader(source, options)
    said = 0
    for table in reader.batches(rows):
        for note in reader.notes[said:]:
            warn(note, DataWarning)
        said = len(reader.notes)
        yield table


class Reader:
    """A source of rows, with what was guessed of it.

    Args:
        source: as of :func:`read_table`.
        options: how it is read.

    Attributes:
        notes: what was guessed and is not plain, a line each; complete after :meth:`table`, and
            with the first table of :meth:`batches`.
    """

    notes: list[str]

    def __init__(self, source: Source, options: ReadOptions | None = None) -> None:
        if not isinstance(options, ReadOptions | None):
            raise TypeError(f"options must be ReadOptions or None; got {type(options).__name__}")
        self.notes = []
        self._options = options or ReadOptions()
        self._parts = [_Part(file, self._options) for file in files_of(source)]

    def table(self) -> Any:
        """Returns all rows as one table of pyarrow."""
        import pyarrow as pa

        first = self._parts[0]
        raws: list[Any] = []
        for part in self._parts:
            raws.append(_like(part, part.table(), first, raws[0].column_names if raws else None))
            _refuse_totals(raws[-1], part.place, self._options)
        starts = [0]
        for raw in raws:
            starts.append(starts[-1] + raw.num_rows)
        raw = pa.concat_tables(raws, promote_options="permissive") if len(raws) > 1 else raws[0]

        def place(row: int) -> str:
            i = max(i for i, start in enumerate(starts[:-1]) if start <= row)
            return self._parts[i].place(row - starts[i])

        self._note_files()
        convert = partial(_converted, raw, place=place, options=self._options, whole=first.is_csv)
        try:
            plans = _plans(raw.slice(0, ROWS), place, self._options, first.separator)
            table = convert(plans)
        except ValueError:
            if raw.num_rows <= ROWS:
                raise
            # all rows may settle what the first do not
            plans = _plans(raw, place, self._options, first.separator)
            table = convert(plans)
        return self._finished(table, plans)

    def batches(self, rows: int = ROWS) -> Iterator[Any]:
        """Yields tables of at most so many rows; the memory does not grow with their number."""
        plans: dict[str, Plan] | None = None
        names: list[str] | None = None
        dropped: set[str] = set()
        for part in self._parts:
            row, ahead = 0, None  # one table ahead: the last row is known to be the last
            for raw in part.batches(rows):
                if ahead is not None:
                    yield ahead
                raw = _like(part, raw, self._parts[0], names)
                place = partial(_place_from, part, row)
                said = plans is not None
                if plans is None:
                    names = raw.column_names
                    self._note_files()
                    plans = _plans(raw, place, self._options, self._parts[0].separator)
                table = _converted(raw, plans, place, self._options, whole=False)
                if not said:
                    ahead = self._finished(table, plans)
                    dropped = {*table.column_names} - {*ahead.column_names}
                else:
                    ahead = table.drop_columns([n for n in names or () if n in dropped])
                row += raw.num_rows
                last = raw, place
            if ahead is not None:
                _refuse_totals(*last, self._options)
                yield ahead

    def _note_files(self) -> None:
        """What was guessed of each file, once if it is the same for several."""
        for part in self._parts:
            for note in part.notes:
                if not any(known.endswith(note) for known in self.notes):
                    self.notes.append(f"{part.file.name}: {note}")

    def _finished(self, table: Any, plans: dict[str, Plan]) -> Any:
        """Without unnamed columns that are empty; says what was guessed of the columns."""
        for name, plan in plans.items():
            if plan.note:
                self.notes.append(f"column {name}: {plan.note}")
        for name in table.column_names:
            column = table[name]
            if column.null_count == len(column) and name in self._parts[0].unnamed:
                table = table.drop_columns([name])
                self.notes.append(f"{name}: it has neither a name nor values, and is left out")
            elif found := _sentinel(column):
                value, share = found
                self.notes.append(
                    f"column {name}: {100 * share:.2g} % of its values are {value:g}, far from all "
                    f"others; {use('na', f'{value:g}')} if that is a missing value"
                )
        return table


def _place_from(part: _Part, start: int, row: int) -> str:
    return part.place(start + row)


class _Part:
    """One file: its columns as they are, those of a CSV file as text."""

    def __init__(self, file: File, options: ReadOptions) -> None:
        self.file, self._options = file, options
        self._format = file.format()
        self.is_csv = self._format == "csv"
        self._dialect: Dialect | None = None
        if self.is_csv:
            self._dialect = dialect_of(file, options)
            self._chosen = self._choose(self._dialect.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed of the file."""
        return () if self._dialect is None else self._dialect.notes

    @property
    def separator(self) -> str | None:
        """That of a CSV file."""
        return None if self._dialect is None else self._dialect.separator

    @property
    def unnamed(self) -> set[str]:
        """The names that were made up here."""
        names = () if self._dialect is None else self._dialect.names
        return {name for i, name in enumerate(names) if name == f"column {i + 1}"}

    def place(self, row: int) -> str:
        """Returns the words for a row, from 0, in a message."""
        if self._dialect is None:
            return f"{self.file.name}, row {row}"
        return f"{self.file.name}, line {line_of(self.file, self._dialect, row)}"

    def table(self) -> Any:
        if self._dialect is not None:
            return csv_table(self.file, self._dialect, self._chosen)
        table = binary_table(self.file, self._format)
        return self._checked(table.select(self._choose(table.column_names)))

    def batches(self, rows: int) -> Iterator[Any]:
        if self._dialect is not None:
            yield from csv_batches(self.file, self._dialect, self._chosen, rows)
            return
        for table in binary_batches(self.file, self._format, rows):
            chosen = self._checked(table.select(self._choose(table.column_names)))
            if table.num_rows:
                yield chosen

    def _choose(self, names: Sequence[str]) -> list[str]:
        """Returns the names of the columns to read, in the order of the file."""
        options = self._options
        for name in (*options.columns, *options.drop, *options.text):
            if name not in names:
                raise ValueError(
                    f"{self.file.name} has no column {name}; its columns: {', '.join(names)}"
                )
        wanted = set(options.columns or names) - set(options.drop)
        if not wanted:
            raise ValueError(f"columns and drop leave no column of {self.file.name}")
        return [name for name in names if name in wanted]

    def _checked(self, table: Any) -> Any:
        """Returns a table of other formats, with types that all of Arrow's functions take."""
        import pyarrow as pa

        types = []
        for column in table.schema:
            kind = column.type
            if pa.types.is_nested(kind) or "binary" in str(kind):
                what = "more than one value in a cell" if pa.types.is_nested(kind) else "bytes"
                raise ValueError(
                    f"{self.file.name}, column {column.name}: it is of type {kind}, which holds "
                    f"{what}; use {use('drop', column.name)}, or make columns of it before"
                )
            plain = {"string_view": pa.string(), "halffloat": pa.float32(), "null": pa.float64()}
            kind = pa.float64() if pa.types.is_decimal(kind) else plain.get(str(kind), kind)
            types.append(column.with_type(kind))
        return table.cast(pa.schema(types, table.schema.metadata))


def _like(part: _Part, table: Any, first: _Part, names: Sequence[str] | None) -> Any:
    """Returns a table with the columns of the first file in their order, which it must have."""
    found = table.column_names
    if names is None or found == names:
        return table
    missing = [name for name in names if name not in found]
    more = [name for name in found if name not in names]
    if missing or more:
        raise ValueError(
            f"{part.file.name} {'lacks' if missing else 'has also'} column {(missing or more)[0]}, "
            f"unlike {first.file.name}; all files must have the same columns"
        )
    return table.select(names)


def _is_text(column: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _plans(table: Any, place: Any, options: ReadOptions, separator: str | None) -> dict[str, Plan]:
    columns = {
        name: blank(column, options.na)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if _is_text(column)
    }
    plans = {}
    for name, column in columns.items():
        try:
            plans[name] = plan_of(name, column, options)
        except CellError as error:
            raise _at(error, name, column, place) from None
    try:
        semicolons = separator == ";" and options.decimal is None and options.thousands is None
        return agreed(plans, columns, semicolons=semicolons)
    except CellError as error:
        name = error.args[1]
        raise _at(error, name, columns[name], place) from None


def _converted(
    table: Any, plans: dict[str, Plan], place: Any, options: ReadOptions, *, whole: bool
) -> Any:
    """The values of the columns of text; null where a number is missing by the option na."""
    import pyarrow as pa
    from pyarrow import compute as pc

    missing = _floats(options.na)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in plans:
            try:
                column = converted(column, plans[name], options.na, whole=whole)
            except CellError as error:
                raise _at(error, name, blank(column, options.na), place) from None
        if missing and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            hit = pc.is_in(column.cast(pa.float64()), value_set=pa.array(missing, pa.float64()))
            column = pc.if_else(hit, pa.scalar(None, column.type), column)
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _floats(texts: Sequence[str]) -> list[float]:
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            continue
    return found


def _at(error: CellError, name: str, column: Any, place: Any) -> ValueError:
    """The error with the place of the first such cell, and what to do if it does not say it."""
    from pyarrow import compute as pc

    where = f"{place(pc.index(column, error.value).as_py())}, column {name}"
    if "\n" in error.value:
        return ValueError(
            f"{where}: {error.value[:SHOWN]!r} begins a value over several lines among others; "
            f"close its quote, or use {use('text', name)} if it is right"
        )
    cure = f"; use {use('na', error.value)} if it is missing, or {use('text', name)}"
    return ValueError(
        f"{where}: {error.value[:SHOWN]!r} {error.what}{'' if ';' in error.what else cure}"
    )


def _refuse_totals(table: Any, place: Any, options: ReadOptions) -> None:
    """Refuses a last row with a word for totals that no other row has."""
    from pyarrow import compute as pc

    if options.skip_last is not None or table.num_rows < 3:
        return
    for name, column in zip(table.column_names, table.columns, strict=True):
        value = column[-1].as_py() if _is_text(column) else None
        word = (value or "").strip().strip(":").lower()
        if word in _TOTALS and pc.sum(pc.equal(column, value)).as_py() == 1:
            raise ValueError(
                f"{place(table.num_rows - 1)}, column {name}: {value!r} begins a row of totals; "
                f"use {use('skip_last', '1')} to leave it out, {use('skip_last', '0')} to keep it"
            )


def _sentinel(column: Any) -> tuple[float, float] | None:
    """A number such as -999 that many rows have and that is far from all others, and its share."""
    import pyarrow as pa
    from pyarrow import compute as pc

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    ends = pc.min_max(column).as_py()
    for value in _SENTINELS:
        if value not in ends.values():
            continue
        same = pc.equal(column, pa.scalar(value).cast(column.type, safe=False))
        share = pc.mean(same.cast(pa.float64())).as_py()
        rest = pc.min_max(column.filter(pc.invert(same))).as_py()
        if share <= _SHARE or rest["min"] is None:
            continue
        width = rest["max"] - rest["min"]
        if value < rest["min"] - width or value > rest["max"] + width:
            return value, share
    return None

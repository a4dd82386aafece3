"""CSV files as tables of pyarrow, all columns of text."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ._cells import BLANK
from ._files import File
from ._lines import Dialect, lines_of, wrong_line

__all__ = ["csv_batches", "csv_table", "line_of"]

_BLOCK = 8_000_000  # bytes that pyarrow parses at a time


def csv_table(file: File, dialect: Dialect, columns: Sequence[str]) -> Any:
    """Returns columns of a whole file, all of text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with _stream(file, dialect) as stream:
            return arrow.read_csv(stream, *_settings(dialect, columns, threads=True))
    except (pa.ArrowException, UnicodeError) as error:
        raise wrong_line(file, dialect, error) from None


def csv_batches(file: File, dialect: Dialect, columns: Sequence[str], rows: int) -> Iterator[Any]:
    """Yields tables of so many rows (the last has fewer), all columns of text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    held: list[Any] = []
    n_held = 0
    try:
        with _stream(file, dialect) as stream:
            for batch in arrow.open_csv(stream, *_settings(dialect, columns, threads=False)):
                held.append(batch)
                n_held += batch.num_rows
                if n_held < rows:
                    continue
                table = pa.Table.from_batches(held)
                for start in range(0, n_held - n_held % rows, rows):
                    yield table.slice(start, rows)
                held = table.slice(n_held - n_held % rows).to_batches()
                n_held %= rows
    except (pa.ArrowException, UnicodeError) as error:
        raise wrong_line(file, dialect, error) from None
    if n_held:
        yield pa.Table.from_batches(held)


def line_of(file: File, dialect: Dialect, row: int) -> int:
    """Returns the line, from 1, in which a row, from 0, begins."""
    with file.open() as stream:
        lines = lines_of(stream, dialect)
        for i, (number, _) in enumerate(lines.rows(dialect.separator, dialect.escape)):
            if i == row:
                return number
    raise IndexError(f"{file.name} has no row {row}")


def _settings(dialect: Dialect, columns: Sequence[str], threads: bool) -> tuple[Any, Any, Any]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    skipped = 0 if _is_filtered(dialect) else dialect.start
    return (
        arrow.ReadOptions(
            column_names=dialect.names,
            skip_rows=skipped,
            block_size=_BLOCK if threads else _BLOCK // 4,
            use_threads=threads,
        ),
        arrow.ParseOptions(
            delimiter=dialect.separator,
            escape_char=dialect.escape or False,
            newlines_in_values=True,
        ),
        arrow.ConvertOptions(
            column_types=dict.fromkeys(dialect.names, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[*BLANK, *dialect.na],
        ),
    )


def _is_filtered(dialect: Dialect) -> bool:
    utf8 = dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf-8-sig", "utf8")
    return bool(dialect.comment or dialect.skip_last) or dialect.separator == " " or not utf8


def _stream(file: File, dialect: Dialect) -> Any:
    """UTF-8 without comments and last lines."""
    stream = file.open()
    if not _is_filtered(dialect):
        return stream
    lines = lines_of(stream, dialect)
    return io.BufferedReader(_Encoded(_without_last(iter(lines), dialect.skip_last)), 1 << 20)


def _without_last(lines: Iterator[str], n: int) -> Iterator[str]:
    """All but the last n lines that are not blank."""
    held: deque[str] = deque()
    n_held = 0
    for line in lines:
        held.append(line)
        n_held += bool(line.strip())
        while n_held > n or (held and n == 0):
            n_held -= bool(held[0].strip())
            yield held.popleft()


class _Encoded(io.RawIOBase):
    """Lines of text as a file of bytes in UTF-8."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._rest = lines, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        parts, size = [self._rest], len(self._rest)
        while size < len(buffer) and (line := next(self._lines, "")):
            parts.append(line.encode("utf-8", "replace"))
            size += len(parts[-1])
        data = b"".join(parts)
        taken = min(len(buffer), len(data))
        buffer[:taken], self._rest = data[:taken], data[taken:]
        return taken

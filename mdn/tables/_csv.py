"""CSV files: the dialect is guessed from the first part, and a line that does not fit is named."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ._cells import BLANK
from ._files import File, use
from ._numbers import MISSING, number_of, number_share

__all__ = ["SEPARATORS", "Dialect", "csv_batches", "csv_table", "dialect_of", "line_of"]

SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_HEAD = 4_000_000  # bytes from which is guessed
_ROWS = 1000  # of them, for the separator
_BLOCK = 8_000_000  # bytes that pyarrow parses at a time
_SHOWN = 60  # characters of a line in a message


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    encoding: str
    separator: str
    escape: str | None  # before a quote within quotes, where it is not doubled
    comment: str | None  # at the start of lines that are left out
    start: int  # lines before the first row
    names: tuple[str, ...]  # a name for each column, no two the same
    skip_last: int
    na: tuple[str, ...]  # cells that are missing
    notes: tuple[str, ...]  # what was guessed


class _Lines:
    """Lines of text, without comments; knows the number of the last and of a row's first."""

    def __init__(self, text: io.TextIOBase, start: int, comment: str | None) -> None:
        self._text, self._start, self._comment = text, start, comment
        self.number = 0
        self.first = 0
        self._quoted = False

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            if self.number <= self._start:
                continue
            if self._comment and not self._quoted and line.startswith(self._comment):
                continue
            self._quoted ^= line.count('"') % 2 == 1
            self.first = self.first or self.number
            yield line

    def rows(self, separator: str, escape: str | None) -> Iterator[tuple[int, list[str]]]:
        """Yields the number of the first line and the values of each row; no blank lines."""
        reader = csv.reader(iter(self), delimiter=separator, escapechar=escape)
        while True:
            self.first = 0
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _Unclosed(self.first) from error
            if values:
                yield self.first, values


class _Unclosed(ValueError):
    """A quote that is opened in a line and not closed."""


def dialect_of(file: File, options: Any) -> Dialect:
    """Guesses how a file is written, where the options do not say it.

    Args:
        file: with a header.
        options: ``separator``, ``encoding``, ``comment``, ``skip``, ``skip_last``, ``text``.

    Raises:
        ValueError: it is not in the encoding; it has no rows; no separator fits its lines; the
            names of the columns are in another line.
    """
    with file.open() as stream:
        data = stream.read(_HEAD)
        whole = len(data) < _HEAD or not stream.read(1)
    notes = []
    encoding = options.encoding or _encoding(data, whole)
    if not options.encoding and encoding not in ("utf-8", "utf-8-sig"):
        named = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
        notes.append(f"it is read in {named}, not in UTF-8; {use('encoding')} for another")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, whole)
    except LookupError:
        raise ValueError(
            f"encoding must be one that Python knows, such as 'cp1252'; got {encoding!r}"
        ) from None
    except UnicodeDecodeError:
        raise _undecodable(file, encoding) or ValueError(encoding) from None
    if not text.strip():
        raise ValueError(f"{file.name} is empty; it must be a CSV file with a header and rows")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text

    comment = options.comment or _comment(text, options)
    if comment and not options.comment:
        notes.append(f"lines that begin with '#' are left out; {use('comment')} for another mark")
    separator, escape = _separator(text, options, comment)
    if escape:
        notes.append("quotes within quotes follow a backslash")
    if not options.separator and separator != ",":
        notes.append(f"the separator is {SEPARATORS[separator]}; {use('separator')} for another")
    lines = _Lines(io.StringIO(text, newline=""), options.skip, comment)
    try:
        rows = []
        for row in lines.rows(separator, escape):
            rows.append(row)
            if len(rows) > _ROWS:
                break
        else:
            rows = rows if whole else rows[:-1]
    except _Unclosed:
        raise _wrong_line(
            file, Dialect(encoding, separator, escape, comment, 0, (), 0, (), ())
        ) from None
    if any("\n" in value and separator in value for _, values in rows for value in values):
        _refuse_unclosed(file, text, options.skip, separator, escape)
    end = rows[1][0] - 1 if len(rows) > 1 else lines.number
    if not rows:
        raise ValueError(f"{file.name} has no line after the first {options.skip}")
    first, names = rows[0]
    _check_header(file, first, names, rows[1:], options, separator)
    if _is_second_header(rows, options.text):
        shown = ", ".join(filter(None, rows[1][1]))[:_SHOWN]
        notes.append(
            f"line {rows[1][0]} ({shown}) has no numbers where all others have, and is left out "
            f"as a second line of names; {use('text')} with the columns' names to keep it"
        )
        end = rows[2][0] - 1
    unique = _names(names)
    unnamed = [new for old, new in zip(names, unique, strict=True) if not old.strip()]
    if unnamed:
        notes.append(f"a column without a name is called {', '.join(map(repr, unnamed))}")
    if len(rows) < 2:
        raise ValueError(
            f"{file.name} has a header but no rows (separator "
            f"{SEPARATORS.get(separator, repr(separator))})"
        )
    return Dialect(
        encoding,
        separator,
        escape,
        comment,
        end,
        unique,
        options.skip_last or 0,
        options.na,
        tuple(notes),
    )


def csv_table(file: File, dialect: Dialect, columns: Sequence[str]) -> Any:
    """Returns columns of a whole file, all of text."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with _stream(file, dialect) as stream:
            return arrow.read_csv(stream, *_settings(dialect, columns, threads=True))
    except (pa.ArrowException, UnicodeError) as error:
        raise _wrong_line(file, dialect, error) from None


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
        raise _wrong_line(file, dialect, error) from None
    if n_held:
        yield pa.Table.from_batches(held)


def line_of(file: File, dialect: Dialect, row: int) -> int:
    """Returns the line, from 1, in which a row, from 0, begins."""
    with file.open() as stream:
        lines = _Lines(_decoded(stream, dialect.encoding), dialect.start, dialect.comment)
        for i, (number, _) in enumerate(lines.rows(dialect.separator, dialect.escape)):
            if i == row:
                return number
    raise IndexError(f"{file.name} has no row {row}")


# -- guesses ---------------------------------------------------------------------------------------


def _encoding(data: bytes, whole: bool) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = [data[i:2000:2].count(0) for i in (0, 1)]
    if max(zeros) > len(data[:2000]) // 4:  # of UTF-16, in which Latin letters have a zero byte
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    for encoding in ("utf-8", "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(data, whole)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _comment(text: str, options: Any) -> str | None:
    """``#`` if lines begin with it that have not the number of values of the others."""
    lines = text.splitlines()[options.skip :]
    marked = [line for line in lines[:_ROWS] if line.startswith("#")]
    others = [line for line in lines[:_ROWS] if line.strip() and not line.startswith("#")]
    if not marked or not others:
        return None
    separator = options.separator or max(SEPARATORS, key=others[0].count)
    count = others[0].count(separator)
    return "#" if any(line.count(separator) != count for line in marked) or not count else None


def _separator(text: str, options: Any, comment: str | None) -> tuple[str, str | None]:
    """The separator that gives most lines as many values as the header has, and the escape."""
    best = -1.0
    found: tuple[str, str | None] = ",", None
    candidates = [options.separator] if options.separator else list(SEPARATORS)
    for escape in (None, "\\") if '\\"' in text else (None,):
        for separator in candidates:
            lines = _Lines(io.StringIO(text, newline=""), options.skip, comment)
            rows = [values for _, values in islice(lines.rows(separator, escape), _ROWS)]
            if not rows:
                continue
            counts = Counter(map(len, rows[1:]))
            first, (usual, _) = len(rows[0]), (counts.most_common(1) or [(1, 0)])[0]
            share = max(counts[first] if first > 1 else 0, counts[usual] / 2 if usual > 1 else 0)
            score = share / len(rows) + 1e-3 * (first > 1) + 1e-6 * min(first, 100)
            if score > best:
                best, found = score, (separator, escape)
            if not options.separator and first == 1 and _is_one_column(rows, separator):
                return ";", None
    return found


def _is_one_column(rows: Sequence[Sequence[str]], separator: str) -> bool:
    """Whether each line below a single name is one number with a decimal comma."""
    return (
        separator == ","
        and max(map(len, rows)) == 2
        and all(
            len(values) < 3 and number_of(",".join(values), ",") is not None for values in rows[1:]
        )
    )


def _refuse_unclosed(file: File, text: str, skip: int, separator: str, escape: str | None) -> None:
    """Refuses values over several lines if a quote is in none of the places where it belongs."""
    strict = _Lines(io.StringIO(text, newline=""), skip, None)
    reader = csv.reader(iter(strict), delimiter=separator, escapechar=escape, strict=True)
    try:
        while True:
            strict.first = 0
            next(reader)
    except StopIteration:
        return
    except csv.Error:
        raise _unclosed(file, strict.first) from None


def _check_header(
    file: File,
    line: int,
    names: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    options: Any,
    separator: str,
) -> None:
    """Refuses names that are numbers, and those of a line that is a title or an upper header."""
    counts = Counter(len(values) for _, values in rows)
    usual = counts.most_common(1)[0][0] if counts else len(names)
    if usual > len(names) and counts[usual] > len(rows) / 2 and len(rows) > 1:
        first = next(number for number, values in rows if len(values) == usual)
        for other, spelled in SEPARATORS.items():
            if len(names) == 1 and names[0].count(other) == usual - 1:
                raise ValueError(
                    f"{file.name}, line {line}: it is separated by {spelled}, and most lines by "
                    f"{SEPARATORS[separator]}; write all lines alike"
                )
        skipped = use("skip", str(first - 1))
        raise ValueError(
            f"{file.name}, line {line}: it has {_values(len(names))}, and most lines have {usual} "
            f"(separator {SEPARATORS.get(separator, repr(separator))}); use {skipped} if the names "
            f"of the columns are in line {first}"
        )
    plain = [" ".join(name.split()) for name in names]
    n_numbers, _ = number_share(plain)
    if n_numbers and all(number_share([p])[0] for p in plain):
        raise ValueError(
            f"{file.name}, line {line}: it holds numbers ({plain[0]!r}) where the names of the "
            "columns belong; put a line with names before it"
        )
    twice = [name for name, count in Counter(plain).items() if name and count > 1]
    upper = len(rows) > 2 and _is_second_header([(line, list(names)), *rows], ())
    if (twice or "" in plain[1:]) and upper:
        raise ValueError(
            f"{file.name}, line {line}: it has names above those of line {rows[0][0]}; use "
            f"{use('skip', str(rows[0][0] - 1))} to take these"
        )
    chosen = {*options.columns, *options.drop}
    twice = [name for name in twice if not chosen & {name, *(f"{name}.{i}" for i in range(1, 9))}]
    if twice:
        places = [i + 1 for i, name in enumerate(plain) if name == twice[0]]
        raise ValueError(
            f"{file.name}, line {line}: columns {' and '.join(map(str, places))} have one name, "
            f"{twice[0]!r}; leave one out by {use('drop', f'{twice[0]}.1')}, which is the second"
        )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """Names in one line, no two the same: the second "a" is "a.1", and "" is "column 3"."""
    found: list[str] = []
    for i, name in enumerate(names):
        base = " ".join(name.split()) or f"column {i + 1}"
        new, count = base, 0
        while new in found:
            count += 1
            new = f"{base}.{count}"
        found.append(new)
    return tuple(found)


def _is_second_header(rows: Sequence[tuple[int, list[str]]], text: Sequence[str]) -> bool:
    """Whether the first row has text in each of two or more columns of numbers, or in all."""
    if len(rows) < 4:
        return False
    names, first, *others = [values for _, values in rows]
    if any(len(values) != len(names) for values in (first, *others)):
        return False
    numbers = []
    for i, name in enumerate(names):
        cells = [values[i] for values in others]
        count, other = number_share(cells)
        if count and not other and name not in text:
            numbers.append(first[i].strip())
    if len(numbers) < 2 and len(numbers) < len(names):
        return False
    return (
        bool(numbers)
        and not any(number_share([cell])[0] or cell.lower() in MISSING for cell in numbers)
        and (len(numbers) == 1 or len(set(numbers)) > 1)
    )


# -- bytes for pyarrow -----------------------------------------------------------------------------


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
    return bool(dialect.comment or dialect.skip_last) or not utf8


def _decoded(stream: Any, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding=encoding, newline="")


def _stream(file: File, dialect: Dialect) -> Any:
    """UTF-8 without comments and last lines."""
    stream = file.open()
    if not _is_filtered(dialect):
        return stream
    lines = _Lines(_decoded(stream, dialect.encoding), dialect.start, dialect.comment)
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


# -- what is wrong ---------------------------------------------------------------------------------


def _values(n: int) -> str:
    return f"{n} value{'s' * (n != 1)}"


def _wrong_line(file: File, dialect: Dialect, error: Exception | None = None) -> ValueError:
    """Returns what to say of the first line that does not fit."""
    bad = _undecodable(file, dialect.encoding)
    if bad is not None:
        return bad
    shown = SEPARATORS.get(dialect.separator, repr(dialect.separator))
    width = len(dialect.names)
    with file.open() as stream:
        lines = _Lines(_decoded(stream, dialect.encoding), dialect.start, dialect.comment)
        try:
            rows = lines.rows(dialect.separator, dialect.escape)
            for number, values in rows:
                if width and len(values) != width:
                    text = dialect.separator.join(values)
                    last = next(rows, None) is None
                    if last and "\n" in text:
                        return _unclosed(file, number)
                    return ValueError(
                        f"{file.name}, line {number}: it has {_values(len(values))} "
                        f"({text[:_SHOWN]!r}) and the header {width} (separator {shown}); "
                        + _cure(text, last, len(values) > width)
                    )
        except _Unclosed as unclosed:
            return _unclosed(file, int(str(unclosed)))
    return ValueError(f"{file.name} cannot be read: {' '.join(str(error).split())}")


def _unclosed(file: File, line: int) -> ValueError:
    return ValueError(
        f"{file.name}, line {line}: a quote is opened and not closed; close it, and double a quote "
        "within quotes"
    )


def _cure(text: str, last: bool, more: bool) -> str:
    if text.startswith("#"):
        return f"use {use('comment', '#')} if it is a comment"
    if last:
        return f"use {use('skip_last', '1')} if it is no row of the table"
    if more:
        return "put a value that holds the separator in double quotes"
    return "write as many values as there are names, or remove it"


def _undecodable(file: File, encoding: str) -> ValueError | None:
    """Returns what to say of the first line that is in another encoding, if there is one."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with file.open() as stream:
        while True:
            data = stream.read(1 << 20)
            pending, _ = decoder.getstate()
            try:
                line += decoder.decode(data, not data).count("\n")
            except UnicodeDecodeError as error:
                data = pending + data
                line += data[: error.start].count(b"\n")
                found = data[error.start : error.start + 1]
                start = data.rfind(b"\n", 0, error.start) + 1
                shown = data[start : start + _SHOWN].splitlines()[0].decode("cp1252", "replace")
                return ValueError(
                    f"{file.name}, line {line}: it is not in {encoding.upper()}: the byte "
                    f"0x{found.hex()} ({shown.strip()!r} in Windows-1252); use "
                    f"{use('encoding', 'cp1252')}"
                )
            if not data:
                return None

"""Lines and rows of CSV files, and what is said of one that does not fit."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ._files import File, use

__all__ = [
    "SEPARATORS",
    "SHOWN",
    "Dialect",
    "Lines",
    "UnclosedError",
    "lines_of",
    "unclosed",
    "undecodable",
    "values_of",
    "wrong_line",
]

SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'", " ": "spaces"}
SHOWN = 60  # characters of a line in a message
_FOOTER = 10  # lines below a table that are no rows


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


class Lines:
    """Lines of text, without comments; knows the number of the last and of a row's first."""

    def __init__(
        self, text: io.TextIOBase, start: int, comment: str | None, separator: str | None
    ) -> None:
        self._text, self._start, self._comment = text, start, comment
        self._spaced = separator == " "  # any number of spaces and tabs is one separator
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
            yield " ".join(line.split()) + "\n" if self._spaced else line

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
                raise UnclosedError(self.first) from error
            if values:
                yield self.first, values


class UnclosedError(ValueError):
    """A quote that is opened in a line and not closed."""


def lines_of(stream: Any, dialect: Dialect) -> Lines:
    """Returns the lines below the header."""
    text = io.TextIOWrapper(stream, encoding=dialect.encoding, newline="")
    return Lines(text, dialect.start, dialect.comment, dialect.separator)


def values_of(n: int) -> str:
    """Returns "1 value", "2 values" and so on."""
    return f"{n} value{'s' * (n != 1)}"


def wrong_line(file: File, dialect: Dialect, error: Exception | None = None) -> ValueError:
    """Returns what to say of the first line that does not fit."""
    bad = undecodable(file, dialect.encoding)
    if bad is not None:
        return bad
    shown = SEPARATORS.get(dialect.separator, repr(dialect.separator))
    width = len(dialect.names)
    with file.open() as stream:
        lines = lines_of(stream, dialect)
        try:
            rows = lines.rows(dialect.separator, dialect.escape)
            for number, values in rows:
                if width and len(values) != width:
                    text = dialect.separator.join(values)
                    rest = [len(other) != width for _, other in islice(rows, _FOOTER)]
                    if not rest and "\n" in text:
                        return unclosed(file, number)
                    last = 1 + len(rest) if len(rest) < _FOOTER and all(rest) else 0
                    return ValueError(
                        f"{file.name}, line {number}: it has {values_of(len(values))} "
                        f"({text[:SHOWN]!r}) and the header {width} (separator {shown}); "
                        + _cure(text, last, len(values) > width)
                    )
        except UnclosedError as opened:
            return unclosed(file, int(str(opened)))
    if "Empty CSV" in str(error):
        return ValueError(f"{file.name} has a header but no rows")
    return ValueError(f"{file.name} cannot be read: {' '.join(str(error).split())}")


def unclosed(file: File, line: int) -> ValueError:
    """Returns what to say of a quote that is opened in a line."""
    return ValueError(
        f"{file.name}, line {line}: a quote is opened and not closed; close it, and double a quote "
        "within quotes"
    )


def _cure(text: str, last: int, more: bool) -> str:
    if text.startswith("#"):
        return f"use {use('comment', '#')} if it is a comment"
    if last:
        what = "it is no row" if last == 1 else "the last lines are no rows"
        return f"use {use('skip_last', str(last))} if {what} of the table"
    if more:
        return "put a value that holds the separator in double quotes"
    return "write as many values as there are names, or remove it"


def undecodable(file: File, encoding: str) -> ValueError | None:
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
                shown = data[start : start + SHOWN].splitlines()[0].decode("cp1252", "replace")
                return ValueError(
                    f"{file.name}, line {line}: it is not in {encoding.upper()}: the byte "
                    f"0x{found.hex()} ({shown.strip()!r} in Windows-1252); use "
                    f"{use('encoding', 'cp1252')}"
                )
            if not data:
                return None

"""How a CSV file is written: guessed from its first part, where the options do not say it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from ._files import File, use
from ._lines import (
    SEPARATORS,
    SHOWN,
    Dialect,
    Lines,
    UnclosedError,
    unclosed,
    undecodable,
    values_of,
    wrong_line,
)
from ._numbers import MISSING, number_of, number_share

__all__ = ["dialect_of"]

_HEAD = 4_000_000  # bytes from which is guessed
_ROWS = 1000  # of them, for the separator


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
        raise undecodable(file, encoding) or ValueError(encoding) from None
    if not text.strip():
        raise ValueError(f"{file.name} is empty; it must be a CSV file with a header and rows")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text

    skip, given = options.skip, options.separator
    hint = re.match(r'\ufeff?"?sep=(.)"?\s*$', text[:12], re.MULTILINE)  # as Excel writes it
    if hint and not skip and not given:
        skip, given = 1, hint[1]
    comment = options.comment or _comment(text, skip, given)
    if comment and not options.comment:
        notes.append(f"lines that begin with '#' are left out; {use('comment')} for another mark")
    separator, escape = _separator(text, skip, given, comment)
    if escape:
        notes.append("quotes within quotes follow a backslash")
    if not given and separator != ",":
        notes.append(f"the separator is {SEPARATORS[separator]}; {use('separator')} for another")
    lines = Lines(io.StringIO(text, newline=""), skip, comment, separator)
    try:
        rows = []
        for row in lines.rows(separator, escape):
            rows.append(row)
            if len(rows) > _ROWS:
                break
        else:
            rows = rows if whole else rows[:-1]
    except UnclosedError:
        raise wrong_line(
            file, Dialect(encoding, separator, escape, comment, 0, (), 0, (), ())
        ) from None
    if any("\n" in value and separator in value for _, values in rows for value in values):
        _refuse_unclosed(file, text, skip, separator, escape)
    end = rows[1][0] - 1 if len(rows) > 1 else lines.number
    if not rows:
        raise ValueError(f"{file.name} has no line after the first {skip}")
    first, names = rows[0]
    _check_header(file, first, names, rows[1:], options, separator)
    if _is_second_header(rows, options.text):
        shown = ", ".join(filter(None, rows[1][1]))[:SHOWN]
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


def _comment(text: str, skip: int, separator: str | None) -> str | None:
    """``#`` if lines begin with it that have not the number of values of the others."""
    lines = text.splitlines()[skip:]
    marked = [line for line in lines[:_ROWS] if line.startswith("#")]
    others = [line for line in lines[:_ROWS] if line.strip() and not line.startswith("#")]
    if not marked or not others:
        return None
    separator = separator or max(SEPARATORS, key=others[0].count)
    count = others[0].count(separator)
    return "#" if any(line.count(separator) != count for line in marked) or not count else None


def _separator(
    text: str, skip: int, given: str | None, comment: str | None
) -> tuple[str, str | None]:
    """The separator that gives most lines as many values as the header has, and the escape."""
    best = -1.0
    found: tuple[str, str | None] = ",", None
    candidates = [given] if given else list(SEPARATORS)
    for escape in (None, "\\") if '\\"' in text else (None,):
        for separator in candidates:
            lines = Lines(io.StringIO(text, newline=""), skip, comment, separator)
            rows = [values for _, values in islice(lines.rows(separator, escape), _ROWS)]
            if not rows:
                continue
            counts = Counter(map(len, rows[1:]))
            first, (usual, _) = len(rows[0]), (counts.most_common(1) or [(1, 0)])[0]
            if separator == " " and (first < 2 or counts[first] < len(rows) - 1):
                continue  # spaces within text
            share = max(counts[first] if first > 1 else 0, counts[usual] / 2 if usual > 1 else 0)
            share /= 1 + (separator == " ")
            score = share / len(rows) + 1e-3 * (first > 1) + 1e-6 * min(first, 100)
            if score > best:
                best, found = score, (separator, escape)
            if not given and first == 1 and _is_one_column(rows, separator):
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
    strict = Lines(io.StringIO(text, newline=""), skip, None, separator)
    reader = csv.reader(iter(strict), delimiter=separator, escapechar=escape, strict=True)
    try:
        while True:
            strict.first = 0
            next(reader)
    except StopIteration:
        return
    except csv.Error:
        raise unclosed(file, strict.first) from None


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
            f"{file.name}, line {line}: it has {values_of(len(names))}, and most lines have "
            f"{usual} (separator {SEPARATORS.get(separator, repr(separator))}); use {skipped} if "
            f"the names of the columns are in line {first}"
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

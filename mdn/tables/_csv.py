"""Reading of CSV files by :func:`read_csv`: the separator is found, and what is wrong is named."""

from __future__ import annotations

import csv
import gzip
import io
import os
from pathlib import Path
from typing import Any

from ._numbers import AmbiguousNumberError, notation_of, number_of

__all__ = ["read_csv"]

_SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_GZIP = b"\x1f\x8b"
_SHOWN = 60  # characters of a line in a message


def read_csv(path: str | os.PathLike[str]) -> Any:
    """Returns a CSV file with a header as a data frame of pandas.

    The separator is the one of comma, semicolon, tab and ``|`` that the header has most of.
    Columns of numbers with a decimal comma, or with marks between thousands, are numbers.

    Args:
        path: the file, in UTF-8; it may be compressed by gzip.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, has no rows or is in another encoding (with the line); a line has
            more or fewer values than the header; two columns have one name; a column holds numbers
            that can be read in two ways.
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise ImportError('a CSV file is read by pandas; pip install "mdn[tables]"') from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    text = _text(path)
    lines = text.splitlines()
    if not text.strip():
        raise ValueError(f"{path} is empty; it must be a CSV file with a header and rows")
    header = next(line for line in lines if line.strip())
    separator = max(_SEPARATORS, key=header.count)
    _check_lines(text, separator, path)
    table = pandas.read_csv(io.StringIO(text), sep=separator)
    if not len(table):
        raise ValueError(f"{path} has a header but no rows (separator {_SEPARATORS[separator]})")
    table = table.rename(columns=str)
    for name in table:
        column = table[name]
        if column.dtype.kind in "biufM":
            continue
        values = column.tolist()
        texts = [value for value in values if isinstance(value, str)]
        try:
            notation = notation_of(texts)
        except AmbiguousNumberError as error:
            row = next(i for i, v in enumerate(values) if isinstance(v, str) and str(error) in v)
            raise ValueError(
                f"{path} has {str(error)!r} in row {row} of column {name!r}, which is a decimal "
                "comma or a mark between thousands; write it with a decimal point alone"
            ) from None
        if notation is not None:
            table[name] = [number_of(v, notation) if isinstance(v, str) else v for v in values]
    return table


def _text(path: str | os.PathLike[str]) -> str:
    data = Path(path).read_bytes()
    data = gzip.decompress(data) if data.startswith(_GZIP) else data
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is in UTF-16, not UTF-8; save it as CSV in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = data.splitlines()[line - 1].decode("cp1252", "replace").strip()
        raise ValueError(
            f"{path} is not in UTF-8: line {line} holds the byte 0x{data[error.start]:02x} "
            f"({found[:_SHOWN]!r} in Windows-1252 or Latin-1); save it in UTF-8"
        ) from None


def _check_lines(text: str, separator: str, path: str | os.PathLike[str]) -> None:
    """Refuses a line that has not as many values as the header, and names given twice."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    names: list[str] = []
    for values in reader:
        if not values:
            continue
        if not names:
            names = values
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{path} has more than one column named {twice[0]!r}")
        elif len(values) != len(names):
            found = separator.join(values)[:_SHOWN]
            raise ValueError(
                f"{path} has {len(values)} values in line {reader.line_num} ({found!r}) and "
                f"{len(names)} columns in its header (separator {_SEPARATORS[separator]}); put a "
                "value that holds the separator in double quotes"
            )

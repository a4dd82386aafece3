"""Numbers that are written as text: which notation a column has, and what its values are.

A notation is the decimal mark and, where there is one, the mark between thousands: ``"."``,
``".,"``, ``","`` or ``",."``.  Spaces and apostrophes between thousands belong to each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

__all__ = [
    "MISSING",
    "AmbiguousNumberError",
    "is_code",
    "notation_of",
    "notations",
    "number_of",
    "number_share",
    "spelled",
]

# What stands for a missing value beside numbers, in lower case.
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", "."}
_SPACES = re.compile(r"(?<=\d)[ '’\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_CODE = re.compile(r"[+-]?0\d+")  # 01234 is a code: as a number it would lose its zero
_NOTATIONS = (".", ".,", ",", ",.")


def _pattern(notation: str) -> re.Pattern[str]:
    decimal = re.escape(notation[0])
    whole = r"\d+"
    if len(notation) > 1:
        whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:{re.escape(notation[1])}\d{{3}})+)"
    return re.compile(rf"[+-]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?")


_PATTERNS = {notation: _pattern(notation) for notation in _NOTATIONS}


class AmbiguousNumberError(ValueError):
    """A column whose values, as "1,234", may be thousands or decimals."""


def notations(decimal: str | None = None, thousands: str | None = None) -> tuple[str, ...]:
    """Returns the notations that have these marks, where they are given."""
    return tuple(
        n
        for n in _NOTATIONS
        if decimal in (None, n[0])
        and thousands != n[0]
        and (len(n) == 1 or thousands in (None, n[1]))
    )


def is_code(text: str) -> bool:
    """Whether it is digits that would lose a leading zero as a number, such as 01234."""
    return _CODE.fullmatch(text) is not None


def notation_of(texts: Iterable[str], allowed: Sequence[str] = _NOTATIONS) -> str | None:
    """Returns the notation in which all texts are numbers or missing; None if there is none.

    Args:
        texts: of one column.
        allowed: the notations to choose among, the first that fits.

    Raises:
        AmbiguousNumberError: all are numbers in two notations; its text is an example.

    Example:
        >>> notation_of(["1,5", "2", "NA"]), notation_of(["1,234.5"]), notation_of(["a", "1"])
        (',', '.,', None)
    """
    found = [_tidy(text) for text in texts]
    found = [text for text in found if text.lower() not in MISSING]
    if not found or any(map(is_code, found)):
        return None
    fits = [n for n in allowed if all(map(_PATTERNS[n].fullmatch, found))]
    if {".,", ","} <= set(fits) and "." not in fits:
        raise AmbiguousNumberError(next(text for text in found if "," in text))
    return fits[0] if fits else None


def number_of(text: str, notation: str) -> float | None:
    """Returns the number that a text is in a notation, NaN if it is missing, None for neither."""
    text = _tidy(text)
    if text.lower() in MISSING:
        return math.nan
    if not _PATTERNS[notation].fullmatch(text):
        return None
    return float(
        text.replace(notation[1:], "").replace(notation[0], ".") if notation != "." else text
    )


def number_share(texts: Iterable[str]) -> tuple[int, str]:
    """Returns how many texts are numbers in some notation, and the first that is none."""
    count, other = 0, ""
    for text in texts:
        tidy = _tidy(text)
        if any(p.fullmatch(tidy) for p in _PATTERNS.values()) and not is_code(tidy):
            count += 1
        elif tidy.lower() not in MISSING and not other:
            other = text
    return count, other


def spelled(notation: str) -> str:
    """Returns a notation in words."""
    marks = {".": "decimal point", ",": "decimal comma"}[notation[0]]
    return marks + (f", {notation[1]!r} between thousands" if len(notation) > 1 else "")


def _tidy(text: str) -> str:
    return _SPACES.sub("", text.strip().replace("\u2212", "-"))

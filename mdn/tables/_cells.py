"""Columns of text: whether they are numbers, dates, booleans or text, and their values."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any

from ._files import use
from ._numbers import (
    MISSING,
    AmbiguousNumberError,
    is_code,
    notation_of,
    notations,
    number_of,
    number_share,
    spelled,
)

__all__ = ["BLANK", "CellError", "Plan", "agreed", "blank", "converted", "plan_of"]

# What stands for a missing value in a column of text, where "-" and "none" may be categories.
BLANK = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "\\N")
_MOSTLY = 0.5  # share of the different values from which a column was meant to hold them alone
# fmt: off
_CURRENCIES = {
    "USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR", "AUD", "CAD", "NZD", "SEK", "NOK", "DKK",
    "PLN", "CZK", "HUF", "BRL", "ZAR", "MXN", "KRW", "TRY", "RUB", "US$", "A$", "C$", "R$", "Rs",
    "Rs.", "kr", "kr.", "Fr", "Fr.",
}
_DAYS = [
    "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%Y.%m.%d", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y",
    "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y",
]
# fmt: on
_POINT = {"", "US", "A", "C", "£", "¥", "₹", "USD", "GBP", "JPY", "CNY", "INR", "AUD", "CAD"}
_PAIRS = ({"yes", "no"}, {"true", "false"}, {"y", "n"}, {"t", "f"})
_TRUE = {"yes", "true", "y", "t"}
# A number with what stands before and after it: sign, currency, digits, unit.
_AFFIXED = re.compile(
    r"(?P<sign>[+\-\u2212]?)\s*(?:(?P<prefix>[^\d\s.,+\-\u2212]{1,3}\.?)\s*)?"
    r"(?P<number>[+\-\u2212]?(?:\d|[.,]\d)(?:[\d.,'’]|[ \u00a0\u2009\u202f](?=\d))*"
    r"(?:[eE][+-]?\d+)?)"
    r"\s*(?P<suffix>[^\W\d_][^,;|]{0,14}|[^\w\s.,+\-:/#()'’][^,;|]{0,7})?"
)
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s?(?:Z|[+-]\d\d:?\d\d)?)?"
)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?")
_DATE = re.compile(r"(?=.*\d)[\w,]+[-/. ]+[\w,]+[-/. ]+\d{2,4}(?:[T ,]+\d.*)?")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S", ", %H:%M")
_FORMATS = [day + time for time in _TIMES for day in _DAYS]


class CellError(ValueError):
    """A value that is not what its column holds.

    Attributes:
        value: the text of the cell.
        what: what is wrong with it and what to do.
    """

    def __init__(self, value: str, what: str) -> None:
        super().__init__(f"{value!r} {what}")
        self.value, self.what = value, what


@dataclass(frozen=True)
class Plan:
    """What the cells of a column are."""

    kind: str  # "number", "boolean", "date", "time", "text"; "category": text that was asked for
    notation: str = "."
    affix: tuple[str, str] = ("", "")  # before and after each number: a currency, a unit, %
    format: str = ""  # of dates, as of strptime; "" is that of ISO 8601
    brackets: bool = False  # whether (5) is -5
    timed: bool = False  # whether a date has a time
    doubt: str = ""  # a number that can be read in two ways
    note: str = ""  # what to say of it

    @property
    def is_bare(self) -> bool:
        """Whether nothing stands around its numbers."""
        return self.affix == ("", "") and not self.brackets


def blank(column: Any, na: Sequence[str]) -> Any:
    """Returns a column of text without spaces around the cells, null where one is missing."""
    import pyarrow as pa
    from pyarrow import compute as pc

    column = pc.utf8_trim_whitespace(column.cast(pa.string()))
    words = pa.array([*BLANK, *na], pa.string())
    return pc.if_else(pc.is_in(column, value_set=words), pa.scalar(None, pa.string()), column)


def plan_of(name: str, column: Any, options: Any) -> Plan:
    """Returns what the cells of a column of :func:`blank` are.

    Args:
        name: of the column.
        column: chunked array of strings.
        options: ``decimal``, ``thousands``, ``text`` and ``date_format``.

    Raises:
        CellError: most cells are numbers or dates, but not all; they can be read in two ways; or
            they are lists.
    """
    if name in options.text:
        return Plan("category")
    allowed = notations(options.decimal, options.thousands)
    different = column.unique().drop_null()
    digits = options.date_format or re.search("date|datum", name, re.IGNORECASE)
    if "." in allowed and not digits and _plain(different) is not None:
        return Plan("number")
    values = different.to_pylist()
    seen = [value for value in values if value.lower() not in MISSING]
    if not seen:
        return Plan("number")
    form = options.date_format or "%Y%m%d"
    eight = digits and all(re.fullmatch(r"(19|20)\d{6}", value) for value in seen)
    if (options.date_format or eight) and all(_date(value, form) for value in seen):
        return _of_format(form, seen[0], said=not options.date_format)
    codes = [value for value in seen if is_code(value)]
    if codes and all(re.fullmatch(r"[\d+\- ]+", value) for value in seen):
        return Plan("text", note=f"kept as text, as {codes[0]!r} would lose its zero")
    try:
        notation = notation_of(seen, allowed)
    except AmbiguousNumberError as error:
        return Plan("number", doubt=next(v for v in seen if str(error) in v))
    if notation is not None:
        return _numbers(seen, notation, options)
    words = {value.lower() for value in seen}
    if any(words <= pair and (len(words) == 2 or len(min(pair)) > 1) for pair in _PAIRS):
        plain = words <= {"true", "false"}
        return Plan("boolean", note="" if plain else f"{seen[0]!r} is read as a boolean")
    if all(_time(value) for value in seen):
        return Plan("time", note=f"{seen[0]!r} is read as a time of the day")
    return (
        _with_affix(name, seen, allowed)
        or _dates(name, seen, options.date_format)
        or _text(name, seen, allowed)
    )


def agreed(plans: dict[str, Plan], columns: dict[str, Any], *, semicolons: bool) -> dict[str, Plan]:
    """Returns the plans of a table with those in doubt settled by the columns that are in none.

    Args:
        plans: of the columns of text.
        columns: of :func:`blank`.
        semicolons: whether they separate the values, as where the decimal mark is a comma, and no
            option says the marks.

    Raises:
        CellError: no column of the table settles it; its ``args[1]`` is the name.
    """
    sure = {n: p for n, p in plans.items() if p.kind == "number" and not p.doubt}
    comma = next((n for n, p in sure.items() if p.notation[0] == ","), None)
    point = next((n for n, p in sure.items() if p.notation == ".,"), None)
    found = dict(plans)
    for name, plan in plans.items():
        if plan.doubt and bool(comma) == bool(point):
            text = (_affixed(plan.doubt) or ("", plan.doubt))[1]
            whole, part = (text.replace(",", mark) for mark in ("", "."))
            error = CellError(
                plan.doubt,
                f"is {whole} or {part}; use {use('thousands', ',')} or {use('decimal', ',')}",
            )
            error.args = (*error.args, name)
            raise error
        if plan.doubt:
            notation, other = (",", comma) if comma else (".,", point)
            number = number_of((_affixed(plan.doubt) or ("", plan.doubt))[1], notation)
            note = f"{plan.doubt!r} is read as {number:.15g}, with the {spelled(notation)} of "
            note += repr(other)
            found[name] = replace(plan, notation=notation, doubt="", note=note)
    if point or not (comma or semicolons):
        return found
    grouped, marked = {}, {}
    for name in (n for n, p in sure.items() if p.notation == "."):
        values = [v for v in columns[name].unique().to_pylist() if v and "." in v]
        numbers = [(_affixed(v) or ("", v))[1] for v in values]
        if values:
            grouped[name] = all(map(_GROUPED.fullmatch, numbers)) and sure[name].is_bare
            marked[name] = values
    for name in (n for n, all_grouped in grouped.items() if all_grouped):
        text = marked[name][0]
        if comma:
            note = f"{_read(text, ',.')}, with the decimal comma of {comma!r}"
            found[name] = replace(plans[name], notation=",.", note=note)
        elif all(grouped.values()):
            note = f"{_read(text, '.')}; {use('decimal', ',')} if its points are between thousands"
            found[name] = replace(plans[name], note=note)
    return found


def converted(column: Any, plan: Plan, na: Sequence[str], *, whole: bool) -> Any:
    """Returns the values of a column.

    Args:
        column: chunked array of strings, as they are in the file.
        plan: what they are.
        na: what stands for a missing value, beside :data:`BLANK`.
        whole: whether numbers without decimals become integers.

    Raises:
        CellError: a cell is not what the plan says.
    """
    if plan == Plan("number", note=plan.note) and not na:
        numbers = _plain(column)
        if numbers is not None:
            return _whole(numbers, column) if whole else numbers
    column = blank(column, na)
    if plan.kind == "text":
        return column
    if plan.kind == "category":
        return column.dictionary_encode()
    if plan.kind == "number":
        return _to_numbers(column, plan, whole)
    import pyarrow as pa

    if plan.kind == "boolean":
        words = set().union(*_PAIRS)
        return _by_value(
            column,
            lambda v: v.lower() in _TRUE if v.lower() in words else None,
            pa.bool_(),
            "is neither true nor false",
        )
    if plan.kind == "time":
        return _by_value(column, _time, pa.time64("us"), "is not a time of the day")
    return _by_value(
        column,
        lambda v: _date(v, plan.format) if plan.timed or ":" not in v else None,
        pa.timestamp("us") if plan.timed else pa.date32(),
        "is not a date as the others are",
    )


# -- numbers ---------------------------------------------------------------------------------------


def _numbers(seen: Sequence[str], notation: str, options: Any) -> Plan:
    """The plan of numbers, with a note unless they are plain."""
    asked = notation[0] == options.decimal or options.thousands in notation[1:].split()
    if notation == "." or asked:
        spaced = next((v for v in seen if re.search(r"\d[ '’\u00a0\u2009\u202f]\d", v)), None)
        note = f"{_read(spaced, notation)}, with marks between thousands" if spaced else ""
        return Plan("number", notation, note=note)
    shown = next((v for v in seen if notation[0] in v), seen[0])
    shown = next((v for v in seen if notation[-1] in v), shown) if notation[0] == "." else shown
    return Plan("number", notation, note=f"{_read(shown, notation)}, with a {spelled(notation)}")


def _read(text: str, notation: str) -> str:
    number = number_of(text, notation)
    return f"{text!r} is read as {number:.15g}"


def _affixed(text: str) -> tuple[tuple[str, str], str] | None:
    """Currency or unit around a number, and the number; None if it is none."""
    if text[:1] + text[-1:] == "()":  # as accountants write a negative number
        inner = _affixed(text[1:-1].strip())
        return None if inner is None or inner[1][0] in "+-\u2212" else (inner[0], "-" + inner[1])
    match = _AFFIXED.fullmatch(text)
    if not match:
        return None
    prefix, suffix = match["prefix"] or "", (match["suffix"] or "").strip()
    if prefix and not (
        prefix in _CURRENCIES or any(unicodedata.category(c) == "Sc" for c in prefix)
    ):
        return None
    number = match["sign"] + match["number"]
    if is_code(number) or not number_share([number])[0]:
        return None
    return (prefix, suffix), number


def _with_affix(name: str, seen: Sequence[str], allowed: Sequence[str]) -> Plan | None:
    """The plan of numbers that all have the same unit."""
    found = [_affixed(value) for value in seen]
    numbers = [item[1] for item in found if item]
    kinds = Counter(item[0] for item in found if item and _bare(item) != "0")
    if len(numbers) < len(seen) or len(set(numbers)) < 2 or len(kinds) != 1:
        return None
    ((affix, _),) = kinds.items()
    brackets = any(value[0] == "(" for value in seen)
    shown = next(v for v, f in zip(seen, found, strict=True) if f and f[0] == affix)
    shown = next((v for v in seen if v[0] == "("), shown)
    doubt = ""
    try:
        notation = notation_of(numbers, allowed)
    except AmbiguousNumberError as error:  # $1,234 is no decimal comma
        notation = ".,"
        if affix[0].rstrip("$") not in _POINT or not affix[0]:
            doubt = next(v for v, number in zip(seen, numbers, strict=True) if str(error) in number)
    if notation is None:
        return None
    number = number_of((_affixed(shown) or ("", ""))[1], notation)
    note = f"{shown!r} is read as {number:.15g}"
    return Plan("number", notation, affix, brackets=brackets, doubt=doubt, note=note)


def _bare(item: tuple[tuple[str, str], str]) -> str:
    """The number if it has no unit; a zero needs none."""
    return item[1] if item[0] == ("", "") else ""


def _to_numbers(column: Any, plan: Plan, whole: bool) -> Any:
    import pyarrow as pa
    from pyarrow import compute as pc

    if plan.notation == "." and plan.is_bare:
        numbers = _plain(column)
        if numbers is not None:
            return _whole(numbers, column) if whole else numbers
    value = _parser(plan)
    if column.length() < 100_000 or pc.count_distinct(column).as_py() < len(column) // 4:
        numbers = _by_value(column, value, pa.float64(), "is not a number")
    else:
        numbers = _replaced(column, plan)
        if numbers is None:
            numbers = _by_value(column, value, pa.float64(), "is not a number")
    return _whole(numbers, numbers) if whole else numbers


def _plain(column: Any) -> Any:
    """Returns numbers with a decimal point and no other mark; None if there is another text."""
    import pyarrow as pa
    from pyarrow import compute as pc

    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    zeros = column.filter(pc.starts_with(column, "0"))
    return None if pc.any(pc.match_substring_regex(zeros, "^0[0-9]")).as_py() else numbers


def _parser(plan: Plan) -> Callable[[str], float | None]:
    """Returns the function of a cell that gives its number, NaN if missing, None for neither."""

    def value(text: str) -> float | None:
        if not plan.is_bare and text.lower() not in MISSING:
            item = _affixed(text)
            if item is None or (item[0] != plan.affix and _bare(item) != "0"):
                return None
            text = item[1]
        return None if is_code(text) else number_of(text, plan.notation)

    return value


def _replaced(column: Any, plan: Plan) -> Any:
    """Many different numbers with a decimal comma, by whole columns; None if that is not enough."""
    import pyarrow as pa
    from pyarrow import compute as pc

    if not plan.is_bare or len(plan.notation) > 1:
        return None
    mark = re.escape(plan.notation)
    sound = pc.match_substring_regex(column, rf"^-?(0|[1-9][0-9]*)?({mark}[0-9]+)?$")
    if not pc.all(sound).as_py():
        return None
    return pc.replace_substring(column, plan.notation, ".").cast(pa.float64())


def _whole(numbers: Any, column: Any) -> Any:
    """Returns integers if all are and there is one."""
    import pyarrow as pa

    if column.null_count == len(column):
        return numbers
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return numbers


# -- dates -----------------------------------------------------------------------------------------


def _date(text: str, form: str) -> datetime | None:
    """Returns a date, without a time zone in universal time; None if it is none."""
    try:
        if form:
            return datetime.strptime(text, form)
        if not _ISO.fullmatch(text):
            return None
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except ValueError:
        return None


def _of_format(form: str, text: str, said: bool = True) -> Plan:
    """The plan of dates in a format, with a note of how one of them is read."""
    timed = any(part in form for part in ("%H", "%I", "%c", "%X"))
    note = f"{text!r} is read as {_date(text, form):%Y-%m-%d}" if said else ""
    return Plan("date", format=form, timed=timed, note=note)


def _time(text: str) -> time | None:
    """Returns a time of the day, as 9:05 or 09:05:30; None if it is none."""
    if not _CLOCK.fullmatch(text):
        return None
    return time.fromisoformat(text.zfill(len("00:00:00") if text.count(":") > 1 else len("00:00")))


def _dates(name: str, seen: Sequence[str], form: str | None) -> Plan | None:
    if form:
        ok = sum(_date(value, form) is not None for value in seen)
        return _of_format(form, seen[0], said=False) if ok > _MOSTLY * len(seen) else None
    shapes = [bool(_DATE.fullmatch(value) or _ISO.fullmatch(value)) for value in seen]
    if sum(shapes) <= _MOSTLY * len(seen):
        return None
    if all(_date(value, "") for value in seen):
        return Plan("date", timed=any(len(value) > len("2020-01-01") for value in seen))
    few = seen[:50]
    counts = {f: sum(_date(value, f) is not None for value in few) for f in ["", *_FORMATS]}
    likely = [f for f, count in counts.items() if count == max(counts.values()) > 0]
    fits = [f for f in likely if all(_date(value, f) for value in seen)]
    if len(fits) > 1:
        value = next((v for v in seen if len({_date(v, f) for f in fits}) > 1), None)
        if value is not None:
            days = " or ".join(f"{_date(value, f):%Y-%m-%d}" for f in fits[:2])
            chosen = " or ".join(use("date_format", f) for f in fits[:2])
            raise CellError(value, f"is {days}; use {chosen}")
    if fits:
        return _of_format(fits[0], seen[0])
    if max(counts.values()) <= _MOSTLY * len(few):
        first = next(iter(likely), None)
        if first is None or sum(any(_date(v, f) for f in ["", *_FORMATS]) for v in few) < len(few):
            return None
    wrong = next(v for v in seen if not _date(v, likely[0]))
    right = next(v for v in seen if _date(v, likely[0]))
    raise CellError(
        wrong,
        f"is not a date as {right!r} is; write all dates in one way, or use "
        f"{use('text', name)} to keep it as text",
    )


# -- both ------------------------------------------------------------------------------------------


def _by_value(column: Any, value: Callable[[str], Any], dtype: Any, wrong: str) -> Any:
    """Returns the column with each different text replaced by its value."""
    import pyarrow as pa
    from pyarrow import compute as pc

    coded = column.combine_chunks()
    coded = coded.dictionary_encode() if not isinstance(coded, pa.ChunkedArray) else coded
    texts = coded.dictionary.to_pylist()
    values: list[Any] = []
    for text in texts:
        if text.lower() in MISSING:
            values.append(None)
            continue
        found = value(text)
        if found is None:
            raise CellError(text, wrong)
        values.append(found)
    out = pc.take(pa.array(values, dtype, from_pandas=True), coded.indices)
    return pa.chunked_array([out])


def _text(name: str, seen: Sequence[str], allowed: Sequence[str]) -> Plan:
    """The plan of text, which refuses lists and a column of which most is numbers."""
    lists = [v for v in seen if v[0] + v[-1] in ("[]", "{}")]
    if len(lists) > _MOSTLY * len(seen):
        raise CellError(
            lists[0], f"is a list, not one value; use {use('drop', name)}, or split it before"
        )
    found = [_affixed(value) for value in seen]
    kinds = Counter(item[0] for item in found if item)
    if not kinds:
        return Plan("text")
    affix, count = kinds.most_common(1)[0]
    numbers = sum(kinds.values())
    keep = f"{use('text', name)} if they are categories"
    if affix == ("", "") and count > max(1, _MOSTLY * len(seen)):
        notation = _notation_of_most([v for v, f in zip(seen, found, strict=True) if f], allowed)
        value = _parser(Plan("number", notation))
        others = [v for v in seen if value(v) is None]
        if others:
            missing = " ".join(use("na", v) for v in others[:1])
            raise CellError(
                others[0], f"is not a number; use {missing} if it is missing, or {keep}"
            )
        return Plan("text")
    if affix != ("", "") and numbers > max(2, 2 * len(kinds), _MOSTLY * len(seen)):
        usual = next(v for v, f in zip(seen, found, strict=True) if f and f[0] == affix)
        for text, item in zip(seen, found, strict=True):
            if item is None:
                raise CellError(
                    text,
                    f"is not a number as {usual!r} is; use {use('na', text)} if it is missing, or "
                    f"{keep}",
                )
            if item[0] != affix and _bare(item) != "0":
                raise CellError(
                    text, f"has another unit than {usual!r}; write all in one unit, or use {keep}"
                )
    return Plan("text")


def _notation_of_most(texts: Sequence[str], allowed: Sequence[str]) -> str:
    """The notation in which most texts are numbers."""
    counts = {n: sum(number_of(text, n) is not None for text in texts) for n in allowed}
    return max(counts, key=lambda n: counts[n])

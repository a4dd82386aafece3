"""Tests of read_table: messy files are read right or refused in one line; every format."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import math
import re
import sys
import warnings
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet

import mdn
from mdn.tables import Reader, ReadOptions, date_columns, identifiers, read_batches

from .messy import MESSY, Messy, table

ROOT = Path(__file__).parents[1]


def read(path: Path, **options: Any) -> tuple[pa.Table, list[str]]:
    """The table and what was said of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = mdn.read_table(path, **options)
    assert all(w.category is mdn.DataWarning and w.filename == __file__ for w in said)
    return table, [str(w.message) for w in said]


@pytest.mark.parametrize("messy", MESSY, ids=lambda messy: messy.what)
def test_a_messy_file_is_read_right_or_refused_in_one_line(messy: Messy, tmp_path: Path) -> None:
    """The line names file, line, column and value; what it says to add is enough."""
    path = tmp_path / "data.csv"
    path.write_bytes(messy.data.encode() if isinstance(messy.data, str) else messy.data)
    if messy.message is not None:
        for reading in (lambda: mdn.read_table(path), lambda: list(read_batches(path))):
            with pytest.raises(ValueError) as caught:
                reading()
            assert str(caught.value) == f"{path}, {messy.message}"
    else:
        _, notes = read(path)
        assert [note.removeprefix(f"{path}: ") for note in notes] == list(messy.notes)
    if messy.right:
        table, _ = read(path, **messy.options)
        assert table.to_pydict() == messy.right
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = [*read_batches(path, ReadOptions(**messy.options), rows=65_536)]
        assert pa.concat_tables(parts).to_pydict() == messy.right


def test_names_and_cells_over_several_lines_make_one_line(tmp_path: Path) -> None:
    """Of a name; a cell among numbers is one whose quote is not closed."""
    (tmp_path / "t.csv").write_text('"price\n(EUR)",n\n1,2\n')
    assert mdn.read_table(tmp_path / "t.csv").column_names == ["price (EUR)", "n"]
    (tmp_path / "t.csv").write_text('n,x\n1,1\n2,2\n3,"2\n4,"\n5,7\n')
    message = "line 4, column x: '2\\n4,' begins a value over several lines among others; close its"
    with pytest.raises(ValueError, match=re.escape(message)):
        mdn.read_table(tmp_path / "t.csv")


def test_the_documentation_has_the_table_of_messy_files() -> None:
    """python -m tests.messy prints it."""
    assert table() in (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")


def test_a_number_far_from_all_others_is_said(tmp_path: Path) -> None:
    """-999 in 5 % of the rows, not -99 among numbers around it, not 0.5 % of the rows."""
    y = np.where(np.arange(1000) % 20 == 0, -999, 50 + np.arange(1000) % 9)
    near = np.where(np.arange(1000) % 20 == 0, -99, 50 * (np.arange(1000) % 9 - 4))
    rare = np.where(np.arange(1000) % 200 == 0, -999, 50 + np.arange(1000) % 9)
    parquet.write_table(pa.table({"y": y, "near": near, "rare": rare}), tmp_path / "t.parquet")
    found, notes = read(tmp_path / "t.parquet")
    (note,) = notes
    assert note == (
        "column y: 5 % of its values are -999, far from all others; --na -999 (in Python "
        "na='-999') if that is a missing value"
    )
    found, notes = read(tmp_path / "t.parquet", na=-999)
    assert not notes and found["y"].null_count == 50 and found["rare"].null_count == 5


# -- formats and sources ---------------------------------------------------------------------------

TABLE = pa.table(
    {
        "x": [1.5, None, -2.0],
        "n": [1, 2, 3],
        "name": ["a", "b", None],
        "on": [True, None, False],
        "day": [date(2020, 1, 2), None, date(2021, 3, 4)],
        "at": pa.array([datetime(2020, 1, 2, 10, 30), None, None], pa.timestamp("us")),
    }
)


def written(folder: Path) -> dict[str, Path]:
    """TABLE in each format."""
    from pyarrow import csv as arrow

    paths = {
        kind: folder / f"t.{kind}"
        for kind in ("csv", "parquet", "feather", "arrow", "stream", "csv.gz", "csv.zst", "csv.bz2")
    }
    arrow.write_csv(TABLE, paths["csv"])
    data = paths["csv"].read_bytes()
    parquet.write_table(TABLE, paths["parquet"])
    feather.write_feather(TABLE, str(paths["feather"]), compression="zstd")
    with pa.ipc.new_file(str(paths["arrow"]), TABLE.schema) as file:
        file.write_table(TABLE)
    with pa.OSFile(str(paths["stream"]), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as f:
        f.write_table(TABLE)
    paths["csv.gz"].write_bytes(gzip.compress(data))
    paths["csv.bz2"].write_bytes(bz2.compress(data))
    paths["csv.zst"].write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    return paths


@pytest.mark.parametrize(
    "kind", ["csv", "parquet", "feather", "arrow", "stream", "csv.gz", "csv.zst", "csv.bz2"]
)
def test_every_format_gives_the_same_table(kind: str, tmp_path: Path) -> None:
    """By the first bytes, not by the name; whole and in batches of two rows."""
    path = written(tmp_path)[kind].rename(tmp_path / "data")
    found, notes = read(path)
    assert not notes and found.equals(TABLE)
    parts = list(read_batches(path, rows=2))
    assert [part.num_rows for part in parts] == [2, 1]
    assert pa.concat_tables(parts).to_pydict() == TABLE.to_pydict()
    few = mdn.read_table(path, columns=["name", "x"])
    assert few.column_names == ["x", "name"]
    assert mdn.read_table(path, drop="at").column_names == TABLE.column_names[:-1]


def test_lists_folders_streams_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a folder in the order of their names, hidden ones left out; columns by name."""
    (tmp_path / "b.csv").write_text("y,x\n3,4\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x,y\n1,2\n"))
    (tmp_path / ".c.csv").write_text("z\n")
    (tmp_path / "notes.md").write_text("no table")
    right = {"x": [1, 4], "y": [2, 3]}
    paths = [tmp_path / "a.csv.gz", tmp_path / "b.csv"]
    for source in (tmp_path, paths, str(tmp_path)):
        assert mdn.read_table(source).to_pydict() == right
        assert pa.concat_tables(read_batches(source)).to_pydict() == right
    with (tmp_path / "b.csv").open("rb") as file:
        assert mdn.read_table(file).to_pydict() == {"y": [3], "x": [4]}
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x\n1\n2\nno\n")))
    message = "standard input, line 4, column x: 'no' is not a number; use --na no (in Python"
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        mdn.read_table("-")


@pytest.mark.parametrize(
    ("files", "source", "error", "message"),
    [
        ({}, "no.csv", FileNotFoundError, "there is no file no.csv"),
        ({"f/x.md": b""}, "f", FileNotFoundError, "the folder f has no file that ends in .arrow"),
        ({"a.csv": b""}, "a.csv", ValueError, "a.csv is empty; it must be a CSV file with a"),
        ({"a.csv": b"\n \n"}, "a.csv", ValueError, "a.csv is empty; it must be a CSV file"),
        (
            {"a.csv": b"a;b\n"},
            "a.csv",
            ValueError,
            "a.csv has a header but no rows (separator ';')",
        ),
        ({"a.xlsx": b"PK\x03\x04.."}, "a.xlsx", ValueError, "a.xlsx is a ZIP archive or an Excel"),
        ({"a.pq": b"PAR1...."}, "a.pq", ValueError, "a.pq is damaged: "),
        (
            {"a.csv": b"x,y\n1,2\n", "b.csv": b"x\n1\n"},
            ["a.csv", "b.csv"],
            ValueError,
            "b.csv lacks column y, unlike a.csv; all files must have the same columns",
        ),
        (
            {"a.csv": b"x\n1\n2\n", "b.csv": b"x\n1\n?\nno\n"},
            ["a.csv", "b.csv"],
            ValueError,
            "b.csv, line 4, column x: 'no' is not a number; use --na no (in Python na='no')",
        ),
        (
            {"a.csv": b"s,x\nA,1\nB,2\nTotal,3\n", "b.csv": b"s,x\nA,1\n"},
            ["a.csv", "b.csv"],
            ValueError,
            "a.csv, line 4, column s: 'Total' begins a row of totals; use --skip-last 1",
        ),
        ({}, 3, TypeError, "source must be a path, a list of paths or a binary file; got int"),
        ({}, [], ValueError, "source must name at least one file; got an empty list"),
        ({}, io.StringIO("a"), TypeError, "source must be a file that is open for bytes, not for"),
    ],
)
def test_what_is_no_table_is_named(
    files: dict[str, bytes],
    source: Any,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file, what is wrong with it, and what to do."""
    monkeypatch.chdir(tmp_path)
    for name, data in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)
    with pytest.raises(error) as caught:
        mdn.read_table(source)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "z"}, "has no column z; its columns: x, y"),
        ({"text": ["z"]}, "has no column z; its columns: x, y"),
        ({"drop": ["x", "y"]}, "columns and drop leave no column of"),
        ({"separator": ";;"}, "separator must be one character; got ';;'"),
        ({"decimal": "x"}, "decimal must be '.' or ','; got 'x'"),
        ({"decimal": ",", "thousands": ","}, "thousands and decimal must differ; both are ','"),
        ({"skip": -1}, "skip must be at least 0; got -1"),
        ({"encoding": "nope"}, "encoding must be one that Python knows, such as 'cp1252'; got 'no"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """With what was expected and what was found."""
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError) as caught:
        mdn.read_table(tmp_path / "t.csv", **options)
    assert message in str(caught.value)


def test_options_take_the_place_of_guesses(tmp_path: Path) -> None:
    """Each of them, and nothing is said then."""
    path = tmp_path / "t.csv"
    path.write_bytes("; note\nname;price\n; more\ncaf\u00e9;1.234\nb;n.d.\nsum;5\n".encode("cp850"))
    options = {"separator": ";", "encoding": "cp850", "decimal": ",", "thousands": "."}
    options |= {"comment": "; ", "skip_last": 1, "na": "n.d."}
    found, notes = read(path, **options)
    assert found.to_pydict() == {"name": ["caf\u00e9", "b"], "price": [1234, None]} and not notes
    found, notes = read(path, **options | {"decimal": ".", "thousands": ","})
    assert found["price"].to_pylist() == [1.234, None] and not notes
    kept = mdn.read_table(path, **options, text="price")
    assert kept["price"].to_pylist() == ["1.234", None]
    assert pa.types.is_dictionary(kept["price"].type)  # which models take as categories


# -- long files ------------------------------------------------------------------------------------

N = 150_000  # more than two batches


def long(tmp_path: Path, cells: dict[int, str]) -> Path:
    """A file of one column and N rows, row i in line i + 2."""
    rows = [str(i % 7) for i in range(N)]
    for i, cell in cells.items():
        rows[i] = cell
    path = tmp_path / "long.csv"
    path.write_text("x\n" + "\n".join(rows) + "\n", encoding="latin-1")
    return path


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("no", "line 100002, column x: 'no' is not a number; use --na no (in Python na='no') if"),
        ("1,5", "line 100002, column x: '1,5' is not a number; use --na"),
        ("1,2", "line 100002, column x: '1,2' is not a number; use --na"),
        ("012", "line 100002, column x: '012' is not a number; use --na"),
        ("1\n2", None),
    ],
)
def test_what_comes_late_is_refused_or_changes_the_guess(
    cell: str, message: str | None, tmp_path: Path
) -> None:
    """read_batches holds what it guessed; read_table looks at all rows."""
    path = long(tmp_path, {100_000: f'"{cell}"' if "," in cell else cell})
    if message is None:
        assert sum(part.num_rows for part in read_batches(path)) == N + 1
        return
    batches = read_batches(path)
    assert next(batches).num_rows == 65_536
    with pytest.raises(ValueError) as caught:
        list(batches)
    assert str(caught.value).startswith(f"{path}, {message}")
    if cell == "012":  # a code, so that all are
        found, notes = read(path)
        assert found["x"].type == pa.string() and "'012' would lose its zero" in notes[0]
    elif cell == "no":
        with pytest.raises(ValueError, match="line 100002, column x: 'no' is not a number"):
            mdn.read_table(path)
    else:
        found, _ = read(path)
        assert found["x"][100_000].as_py() == float(cell.replace(",", "."))


def test_a_late_line_is_named_in_every_layout(tmp_path: Path) -> None:
    """Comments, blank lines and values over two lines count as lines; also of a late encoding."""
    path = tmp_path / "t.csv"
    rows = "".join(f'# note\n\n{i % 7},"two\nlines"\n' for i in range(40_000))
    path.write_text(f"# a\nx,name\n{rows}1,b\nno,c\n")
    line = 2 + 4 * 40_000 + 2
    with pytest.raises(ValueError, match=f"t.csv, line {line}, column x: 'no' is not a number"):
        list(Reader(path).batches())
    path.write_bytes(b"x,name\n" + b"1,some words\n" * 400_000 + b"1,caf\xe9\n")
    message = "line 400002: it is not in UTF-8: the byte 0xe9 .'1,caf\xe9' in Windows-1252"
    for reading in (lambda: mdn.read_table(path), lambda: list(read_batches(path))):
        with pytest.raises(ValueError, match=message):
            reading()
    assert mdn.read_table(path, encoding="latin-1")["name"][400_000].as_py() == "caf\u00e9"


def test_batches_have_one_schema_and_a_bounded_size(tmp_path: Path) -> None:
    """Whole numbers are float64 in them, as later rows may have decimals."""
    path = long(tmp_path, {N - 1: "2.5"})
    parts = list(read_batches(path, rows=40_000))
    assert [part.num_rows for part in parts] == [40_000, 40_000, 40_000, 30_000]
    assert {part.schema for part in parts} == {pa.schema({"x": pa.float64()})}
    assert parts[-1]["x"][-1].as_py() == 2.5


def test_the_reader_says_what_it_guessed_without_warnings(tmp_path: Path) -> None:
    """For the command line, which prints it."""
    (tmp_path / "t.csv").write_text("a;b\n1,5;x\n2;y\n")
    reader = Reader(tmp_path / "t.csv", ReadOptions(drop="b"))
    assert reader.table().to_pydict() == {"a": [1.5, 2.0]}
    notes = list(reader.notes)
    assert notes == [
        f"{tmp_path / 't.csv'}: the separator is ';'; --separator for another",
        "column a: '1,5' is read as 1.5, with a decimal comma",
    ]
    reader = Reader(tmp_path / "t.csv", ReadOptions(drop="b"))
    next(reader.batches())
    assert reader.notes == notes


# -- laws ------------------------------------------------------------------------------------------

WORDS = st.text("ab,;|\t\"'\n \u00e9", max_size=8).map(lambda text: f"w{text}z")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    rows=st.lists(st.tuples(WORDS, NUMBERS, st.integers(-(2**53), 2**53)), min_size=2, max_size=20),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
)
def test_what_python_writes_is_read(
    rows: list[tuple[str, float, int]], separator: str, quoting: Any, end: str, encoding: str
) -> None:
    """Every cell exactly, whatever the separator, quotes, line ends and encoding."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows([("word", "number", "count"), *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mdn.read_table(io.BytesIO(text.getvalue().encode(encoding)))
    words, numbers, counts = zip(*rows, strict=True)
    assert found["word"].to_pylist() == list(words)
    assert found["number"].to_pylist() == list(numbers)
    assert found["count"].to_pylist() == list(counts)


@given(
    values=st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=20),
    marks=st.sampled_from([".", ",", ".,", ",.", ". ", ", ", ".'"]),
    unit=st.sampled_from(["", " kg", "%", " \u20ac", "$"]),
)
def test_numbers_are_read_in_every_notation(values: list[float], marks: str, unit: str) -> None:
    """Two decimals, marks between thousands, a unit behind or a currency in front."""
    values = [1234567.25, 0.5, *(round(value, 2) + 0.0 for value in values)]
    table = str.maketrans(",.", (marks[1:] or "_") + marks[0])
    texts = [f"{value:,.2f}".translate(table).replace("_", "") for value in values]
    texts = [f"{unit}{text}" if unit == "$" else f"{text}{unit}" for text in texts]
    data = "x\ty\n" + "".join(f"{text}\t1\n" for text in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mdn.read_table(io.BytesIO(data.encode()))
    assert found["x"].to_pylist() == values


# -- dates and identifiers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        (["2020-01-02", "2021-12-31"], [date(2020, 1, 2), date(2021, 12, 31)]),
        (["31.12.2020", "1.2.2021"], [date(2020, 12, 31), date(2021, 2, 1)]),
        (["12/31/2020", "1/2/2021"], [date(2020, 12, 31), date(2021, 1, 2)]),
        (["2020/12/31"], [date(2020, 12, 31)]),
        (["3 Feb 2020", "4 Mar 2021"], [date(2020, 2, 3), date(2021, 3, 4)]),
        (
            ["2020-01-02 10:30:15", "2020-01-03"],
            [datetime(2020, 1, 2, 10, 30, 15), datetime(2020, 1, 3)],
        ),
        (["2020-01-02T10:30:00Z"], [datetime(2020, 1, 2, 10, 30)]),
        (["2020-01-02T10:30:00+02:00"], [datetime(2020, 1, 2, 8, 30)]),
        (["1/31/2020 3:05 PM"], [datetime(2020, 1, 31, 15, 5)]),
        (["12-34-56", "1.2.3"], ["12-34-56", "1.2.3"]),
        (["9:30", "23:45:10"], [time(9, 30), time(23, 45, 10)]),
        (["10:30", "24:45"], ["10:30", "24:45"]),
        (["1-2", "3-4"], ["1-2", "3-4"]),
        (["Room 1.2", "Room 1.3"], ["Room 1.2", "Room 1.3"]),
    ],
)
def test_dates_are_read(texts: list[str], right: list[Any], tmp_path: Path) -> None:
    """In the usual notations; what only resembles them stays text."""
    (tmp_path / "t.csv").write_text("when\ty\n" + "".join(f"{t}\t1\n" for t in texts))
    assert read(tmp_path / "t.csv")[0]["when"].to_pylist() == right


def test_dates_become_parts_and_a_trend() -> None:
    """Against the calendar of Python; constant parts are left out unless a model asks for them."""
    days = [datetime(2020, 1, 2, 6), datetime(2021, 6, 6, 18, 30), datetime(2019, 12, 31)]
    data = pa.table({"when": pa.array([*days, None], pa.timestamp("us")), "y": [1, 2, 3, 4]})
    found, made = date_columns(data)
    names = ["when year", "when month", "when weekday", "when hour", "when days since 2020-01-01"]
    assert made == {"when": names} and found.column_names == [*names, "y"]
    for i, name in enumerate(("year", "month")):
        assert found[names[i]].to_pylist() == [*(getattr(d, name) for d in days), None]
    assert found[names[2]].to_pylist() == [*(d.isoweekday() for d in days), None]
    assert found[names[3]].to_pylist() == [6.0, 18.5, 0.0, None]
    trend = [(d - datetime(2020, 1, 1)).total_seconds() / 86400 for d in days]
    assert found[names[4]].to_pylist() == [*trend, None]
    one = data.slice(0, 1)
    assert date_columns(one)[1] == {"when": names[4:]}
    assert date_columns(one, names=[names[0], "y"])[0].to_pydict() == {
        "when year": [2020],
        "y": [1],
    }
    zoned = data.set_column(0, "when", data["when"].cast(pa.timestamp("us", "Europe/Berlin")))
    assert date_columns(zoned)[0][names[3]].to_pylist() == [7.0, 20.5, 1.0, None]


def test_times_and_durations_become_hours_and_days() -> None:
    """Where a file has them as such."""
    data = pa.table(
        {"at": [time(6, 30), None], "for": pa.array([timedelta(1.5), None]), "y": [True, None]}
    )
    found, made = date_columns(data)
    assert made == {"at": ["at in hours"], "for": ["for days"]}
    assert found.to_pydict() == {
        "at in hours": [6.5, None],
        "for days": [1.5, None],
        "y": [True, None],
    }


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2], pa.float16()), "float"),
        (pa.array([Decimal("1.50"), None]), "double"),
        (pa.array(["a", "b"], pa.string_view()), "string"),
        (pa.nulls(2), "double"),
        (pa.array(["1,5", "2"], pa.large_string()), "double"),
        (pa.array([1, -99], pa.int8()), "int8"),
        (pa.array(["a", "b"]).dictionary_encode(), "dictionary<values=string, indices=int32"),
        (pa.array([b"a", b"b"], pa.binary(1)), "holds bytes; use --drop x (in Python drop='x')"),
        (pa.array([[1], [2]]), "more than one value in a cell; use --drop x"),
    ],
)
def test_other_types_of_arrow_are_read_or_refused(
    column: pa.Array, kind: str, tmp_path: Path
) -> None:
    """Read as what models and the functions of pyarrow take, or refused."""
    data = pa.table({"x": column, "y": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "t"), data.schema) as file:
        file.write_table(data)
    if "--drop" in kind:
        with pytest.raises(ValueError, match=re.escape(kind)):
            mdn.read_table(tmp_path / "t")
        kind = "int64"
        data = mdn.read_table(tmp_path / "t", drop="x")
    else:
        data = read(tmp_path / "t")[0]
        assert read(tmp_path / "t", na="-99")[0].schema == data.schema
    assert str(data.schema.types[0]).startswith(kind)


def test_identifiers_are_found_by_name_and_values() -> None:
    """Text that is different in most rows; whole numbers that count, under a name that says so."""
    n = 30
    columns: dict[str, list[Any]] = {
        "name": [f"house {i}" for i in range(n)],
        "kind": ["a", "b", "c"] * 10,
        "id": list(range(n)),
        "customer_no": [7 * i for i in range(n)],
        "column 1": list(range(1, n + 1)),
        "age": list(range(n)),
        "group_id": [i // 2 for i in range(n)],
        "valid": list(range(n)),
        "length_id": [i + 0.5 for i in range(n)],
    }
    found = identifiers(pa.table(columns))
    assert found == {
        "name": "30 of 30 rows have a value of their own",
        "id": "it counts the rows",
        "customer_no": "its whole numbers differ in every row",
        "column 1": "it counts the rows",
    }
    assert identifiers(pa.table({"name": pa.array(columns["name"]).dictionary_encode()}))


def test_a_table_is_what_models_take(tmp_path: Path) -> None:
    """Text that was asked for stays a category, also where it is numbers."""
    (tmp_path / "t.csv").write_text("zone,x\n" + "".join(f"{i % 3},{i}\n" for i in range(30)))
    plain = mdn.tables.Columns.fit(mdn.read_table(tmp_path / "t.csv"))
    assert plain.names == ["zone", "x"]
    kept = mdn.tables.Columns.fit(mdn.read_table(tmp_path / "t.csv", text="zone"))
    assert kept.names == ["zone=0", "zone=1", "zone=2", "x"]
    assert math.isclose(kept.transform(mdn.read_table(tmp_path / "t.csv", text="zone")).sum(), 465)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: identifiers("x"), TypeError, "must be a table of pyarrow; got str"),
        (lambda: date_columns([1]), TypeError, "must be a table of pyarrow; got list"),
        (lambda: ReadOptions(skip="a"), TypeError, "skip must be an integer; got 'a'"),
        (lambda: ReadOptions(skip_last=-1), ValueError, "skip_last must be at least 0"),
        (
            lambda: ReadOptions(separator=3),
            TypeError,
            "separator must be a text or None",
        ),
        (
            lambda: Reader("none.csv", {"na": "x"}),
            TypeError,
            "options must be ReadOptions or None; got dict",
        ),
    ],
)
def test_arguments_of_another_kind(call: Any, error: type[Exception], message: str) -> None:
    """Each is refused by its name."""
    with pytest.raises(error, match=message):
        call()

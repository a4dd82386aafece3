"""Messy files: what people meet, and what read_table makes of it.

``python -m tests.messy`` prints the table of docs/tables.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["MESSY", "Messy", "table"]

NONE: Mapping[str, Any] = MappingProxyType({})


class Messy(NamedTuple):
    """A file as it is met, and what is made of it."""

    what: str
    data: bytes | str
    message: str | None  # of the refusal, without the name of the file
    options: Mapping[str, Any] = NONE  # what the message or the notes say to add, or nothing
    right: Mapping[str, list[Any]] = NONE
    notes: tuple[str, ...] = ()  # what is said without options, in order


SENTINEL = "x,y\n" + "".join(f"{i % 7},{-999 if i % 20 == 0 else 50 + i % 9}\n" for i in range(100))

MESSY = [
    Messy(
        "mixed separators",
        "a,b,c\n1,2,3\n4;5;6\n7,8,9\n",
        "line 3: it has 1 value ('4;5;6') and the header 3 (separator ','); write as many values "
        "as there are names, or remove it",
    ),
    Messy(
        "header of another separator",
        "a,b,c\n1;2;3\n4;5;6\n",
        "line 1: it is separated by ',', and most lines by ';'; write all lines alike",
    ),
    Messy(
        "a total row at the end",
        "shop,sold\nNorth,3\nSouth,5\nWest,2\nTotal,10\n",
        "line 5, column shop: 'Total' begins a row of totals; use --skip-last 1 (in Python "
        "skip_last=1) to leave it out, --skip-last 0 (in Python skip_last=0) to keep it",
        {"skip_last": 1},
        {"shop": ["North", "South", "West"], "sold": [3, 5, 2]},
    ),
    Messy(
        "notes below the table",
        "shop,sold,lost\nNorth,3,1\nSouth,5,0\n\nSource: shops\nRounded\n",
        "line 5: it has 1 value ('Source: shops') and the header 3 (separator ','); use "
        "--skip-last 2 (in Python skip_last=2) if the last lines are no rows of the table",
        {"skip_last": 2},
        {"shop": ["North", "South"], "sold": [3, 5], "lost": [1, 0]},
    ),
    Messy(
        "a title above the header",
        "Sales of 2024\n\nshop,sold\nNorth,3\nSouth,5\n",
        "line 1: it has 1 value, and most lines have 2 (separator ','); use --skip 2 (in Python "
        "skip=2) if the names of the columns are in line 3",
        {"skip": 2},
        {"shop": ["North", "South"], "sold": [3, 5]},
    ),
    Messy(
        "two header rows, names and units",
        "price,size\nEUR,m2\n250000,80\n270000,95\n99000,31\n",
        None,
        {},
        {"price": [250000, 270000, 99000], "size": [80, 95, 31]},
        (
            "line 2 (EUR, m2) has no numbers where all others have, and is left out as a second "
            "line of names; --text with the columns' names to keep it",
        ),
    ),
    Messy(
        "two header rows, groups and names",
        "house,,place\nprice,size,city\n250000,80,Bonn\n270000,95,Mainz\n99000,31,Bonn\n",
        "line 1: it has names above those of line 2; use --skip 1 (in Python skip=1) to take these",
        {"skip": 1},
        {"price": [250000, 270000, 99000], "size": [80, 95, 31], "city": ["Bonn", "Mainz", "Bonn"]},
    ),
    Messy(
        "mixed dates",
        "when,y\n2020-01-02,1\n2020-01-03,2\n03.04.2020,3\n",
        "line 4, column when: '03.04.2020' is not a date as '2020-01-02' is; write all dates in "
        "one way, or use --text when (in Python text='when') to keep it as text",
        {"text": "when"},
        {"when": ["2020-01-02", "2020-01-03", "03.04.2020"], "y": [1, 2, 3]},
    ),
    Messy(
        "dates in one of two ways",
        "when,y\n03/01/2020,1\n01/02/2020,2\n",
        "line 2, column when: '03/01/2020' is 2020-01-03 or 2020-03-01; use --date-format %d/%m/%Y "
        "(in Python date_format='%d/%m/%Y') or --date-format %m/%d/%Y (in Python "
        "date_format='%m/%d/%Y')",
        {"date_format": "%d/%m/%Y"},
        {"when": [date(2020, 1, 3), date(2020, 2, 1)], "y": [1, 2]},
    ),
    Messy(
        "dates as numbers",
        "date,y\n20200131,1\n20201224,2\n",
        None,
        {},
        {"date": [date(2020, 1, 31), date(2020, 12, 24)], "y": [1, 2]},
        ("column date: '20200131' is read as 2020-01-31",),
    ),
    Messy(
        "percent signs",
        "share,y\n12%,1\n13.5 %,2\n",
        None,
        {},
        {"share": [12.0, 13.5], "y": [1, 2]},
        ("column share: '12%' is read as 12",),
    ),
    Messy(
        "units in cells",
        "weight,speed\n12 kg,3 km/h\n13.5 kg,40 km/h\n0,-1 km/h\n",
        None,
        {},
        {"weight": [12.0, 13.5, 0.0], "speed": [3, 40, -1]},
        ("column weight: '12 kg' is read as 12", "column speed: '3 km/h' is read as 3"),
    ),
    Messy(
        "two units in one column",
        "weight\n12 kg\n13.5 kg\n500 g\n1 kg\n2 kg\n",
        "line 4, column weight: '500 g' has another unit than '12 kg'; write all in one unit, or "
        "use --text weight (in Python text='weight') if they are categories",
    ),
    Messy(
        "currency",
        'price,cost\n"$1,200.50",€3\n-$13,€1.5\n',
        None,
        {},
        {"price": [1200.5, -13.0], "cost": [3.0, 1.5]},
        ("column price: '$1,200.50' is read as 1200.5", "column cost: '€3' is read as 3"),
    ),
    Messy(
        "negative numbers in brackets",
        'gain,y\n"$1,234",1\n"($2,500)",2\n$0,3\n',
        None,
        {},
        {"gain": [1234, -2500, 0], "y": [1, 2, 3]},
        ("column gain: '($2,500)' is read as -2500",),
    ),
    Messy(
        "decimal comma and points between thousands",
        "price;size\n1.234;80,5\n12.500;95\n",
        None,
        {},
        {"price": [1234, 12500], "size": [80.5, 95.0]},
        (
            "the separator is ';'; --separator for another",
            "column price: '1.234' is read as 1234, with the decimal comma of 'size'",
            "column size: '80,5' is read as 80.5, with a decimal comma",
        ),
    ),
    Messy(
        "points that may be between thousands",
        "price;size\n1.234;80\n12.500;95\n",
        None,
        {"decimal": ","},
        {"price": [1234, 12500], "size": [80, 95]},
        (
            "the separator is ';'; --separator for another",
            "column price: '1.234' is read as 1.234; --decimal , (in Python decimal=',') if its "
            "points are between thousands",
        ),
    ),
    Messy(
        "points that another column shows to be decimal",
        "price;size\n1.234;80.5 m2\n12.500;95 m2\n",
        None,
        {},
        {"price": [1.234, 12.5], "size": [80.5, 95.0]},
        (
            "the separator is ';'; --separator for another",
            "column size: '80.5 m2' is read as 80.5",
        ),
    ),
    Messy(
        "a comma that is one of two things",
        "price;size\n7;80\n1,234;95\n",
        "line 3, column price: '1,234' is 1234 or 1.234; use --thousands , (in Python "
        "thousands=',') or --decimal , (in Python decimal=',')",
        {"thousands": ","},
        {"price": [7, 1234], "size": [80, 95]},
    ),
    Messy(
        "values between spaces",
        "x    y   zone\n1.5  2   a\n12.5 3   b\n",
        None,
        {},
        {"x": [1.5, 12.5], "y": [2, 3], "zone": ["a", "b"]},
        ("the separator is spaces; --separator for another",),
    ),
    Messy(
        "the separator in the first line",
        "sep=;\na;b\n1;2\n3;4\n",
        None,
        {},
        {"a": [1, 3], "b": [2, 4]},
    ),
    Messy(
        "duplicated names",
        "price,size,price\n1,2,3\n4,5,6\n",
        "line 1: columns 1 and 3 have one name, 'price'; leave one out by --drop price.1 (in "
        "Python drop='price.1'), which is the second",
        {"drop": "price.1"},
        {"price": [1, 4], "size": [2, 5]},
    ),
    Messy(
        "empty columns",
        "a,b,\n1,,\n2,,\n",
        None,
        {},
        {"a": [1, 2], "b": [None, None]},
        (
            "a column without a name is called 'column 3'",
            "column 3: it has neither a name nor values, and is left out",
        ),
    ),
    Messy(
        "comment lines",
        "# exported on Monday\na,b\n1,2\n# checked, once, twice\n3,4\n",
        None,
        {},
        {"a": [1, 3], "b": [2, 4]},
        ("lines that begin with '#' are left out; --comment for another mark",),
    ),
    Messy(
        "Latin-1",
        "name,y\ncafé,1\nbar,2\n".encode("latin-1"),
        None,
        {},
        {"name": ["café", "bar"], "y": [1, 2]},
        ("it is read in Windows-1252, not in UTF-8; --encoding for another",),
    ),
    Messy(
        "UTF-16",
        "name,y\ncafé,1\nbar,2\n".encode("utf-16"),
        None,
        {},
        {"name": ["café", "bar"], "y": [1, 2]},
        ("it is read in UTF-16, not in UTF-8; --encoding for another",),
    ),
    Messy(
        "byte order mark and Windows line ends",
        "\ufeffname,y\r\ncafé,1\r\n\r\nbar,2\r\n",
        None,
        {},
        {"name": ["café", "bar"], "y": [1, 2]},
    ),
    Messy(
        "quotes in quotes",
        'name,y\n"5"" nail, long",1\n"two\nlines",2\n',
        None,
        {},
        {"name": ['5" nail, long', "two\nlines"], "y": [1, 2]},
    ),
    Messy(
        "quotes after a backslash",
        'name,y\n"5\\" nail, long",1\n"bolt",2\n',
        None,
        {},
        {"name": ['5" nail, long', "bolt"], "y": [1, 2]},
        ("quotes within quotes follow a backslash",),
    ),
    Messy(
        "a quote that is not closed",
        'x,name,y\n1,"5 nail,3\n2,bolt,4\n',
        "line 2: a quote is opened and not closed; close it, and double a quote within quotes",
    ),
    Messy(
        "a column of lists",
        'tags,y\n"[1, 2]",1\n"[3]",2\n',
        "line 2, column tags: '[1, 2]' is a list, not one value; use --drop tags (in Python "
        "drop='tags'), or split it before",
        {"drop": ["tags"]},
        {"y": [1, 2]},
    ),
    Messy(
        "booleans as yes and no",
        "sold,y\nyes,1\nNo,2\n,3\n",
        None,
        {},
        {"sold": [True, False, None], "y": [1, 2, 3]},
        ("column sold: 'yes' is read as a boolean",),
    ),
    Messy(
        "-999 as missing",
        SENTINEL,
        None,
        {"na": -999},
        {
            "x": [i % 7 for i in range(100)],
            "y": [None if i % 20 == 0 else 50 + i % 9 for i in range(100)],
        },
        (
            "column y: 5 % of its values are -999, far from all others; --na -999 (in Python "
            "na='-999') if that is a missing value",
        ),
    ),
    Messy(
        "an index column",
        ",y\n0,5\n1,6\n2,8\n",
        None,
        {},
        {"column 1": [0, 1, 2], "y": [5, 6, 8]},
        ("a column without a name is called 'column 1'",),
    ),
    Messy(
        "leading zeros in identifiers",
        "zip,y\n01234,5\n12345,6\n",
        None,
        {},
        {"zip": ["01234", "12345"], "y": [5, 6]},
        ("column zip: kept as text, as '01234' would lose its zero",),
    ),
    Messy(
        "a target with ten missing values",
        "x,y\n" + "".join(f"{i},{'' if i < 10 else i / 2}\n" for i in range(40)),
        None,
        {},
        {
            "x": list(range(40)),
            "y": [None if i < 10 else i / 2 for i in range(40)],
        },
    ),
    Messy(
        "a word among numbers",
        "x,price\n1,5\n2,tbd\n3,4.5\n4,6\n",
        "line 3, column price: 'tbd' is not a number; use --na tbd (in Python na='tbd') if it is "
        "missing, or --text price (in Python text='price') if they are categories",
        {"na": "tbd"},
        {"x": [1, 2, 3, 4], "price": [5.0, None, 4.5, 6.0]},
    ),
    Messy(
        "a line with a value too many",
        "a,b\n1,2\n1,2,3\n4,5\n",
        "line 3: it has 3 values ('1,2,3') and the header 2 (separator ','); put a value that "
        "holds the separator in double quotes",
    ),
    Messy(
        "no header",
        "5.1,3.5\n4.9,3.0\n",
        "line 1: it holds numbers ('5.1') where the names of the columns belong; put a line with "
        "names before it",
    ),
]


def table() -> str:
    """The files with what is made of them, in Markdown."""
    lines = ["| the file has | what `read_table` makes of it |", "|---|---|"]
    for messy in MESSY:
        if messy.message is not None:
            cure = messy.message.replace("|", "\\|")
            found = f"refused: `data.csv, {cure}`"
        elif messy.notes:
            found = "read; it says: " + "; ".join(f"`{note}`" for note in messy.notes)
        else:
            found = "read"
        lines.append(f"| {messy.what} | {found} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")

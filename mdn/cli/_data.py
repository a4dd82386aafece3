"""``mdn data``."""

from __future__ import annotations

import csv
import io
from datetime import date
from typing import Annotated

import typer

from ._common import Json, app, check_outputs, write_result

__all__ = ["data"]


@app.command(epilog="Example: mdn data old-faithful > geyser.csv")
def data(
    name: Annotated[str, typer.Argument(help="Of the data; without it they are listed.")] = "",
    rows: Annotated[
        str, typer.Option(help="Which rows, from 0: 0:300 are the first 300, 300: the others.")
    ] = ":",
    json: Json = None,
) -> None:
    """Print small data as CSV: real ones, and simulated ones whose truth is known."""
    check_outputs([json], [], force=False)

    from ..datasets import EXAMPLES, example

    if not name:
        width = max(map(len, EXAMPLES))
        text = "\n".join(f"{key:<{width}}  {text}" for key, text in EXAMPLES.items())
        write_result(text, EXAMPLES, json)
        return
    columns = example(name)
    ends = rows.split(":")
    if len(ends) != 2 or not all(end == "" or end.isdecimal() for end in ends):
        raise ValueError(f"--rows must be two numbers with a colon between; got {rows!r}")
    part = slice(*(int(end) if end else None for end in ends))
    values = {key: column[part].tolist() for key, column in columns.items()}
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(values)
    writer.writerows(zip(*values.values(), strict=True))
    plain = {
        key: [str(v) if isinstance(v, date) else v for v in each] for key, each in values.items()
    }
    write_result(lines.getvalue().rstrip("\n"), plain, json)

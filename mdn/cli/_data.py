"""``mdn data``."""

from __future__ import annotations

import csv
import sys
from typing import Annotated

import typer

from ._common import app

__all__ = ["data"]


@app.command(epilog="Example: mdn data old-faithful > geyser.csv")
def data(
    name: Annotated[str, typer.Argument(help="Of the data; without it they are listed.")] = "",
    rows: Annotated[
        str, typer.Option(help="Which rows, from 0: 0:300 are the first 300, 300: the others.")
    ] = ":",
) -> None:
    """Print small data as CSV: real ones, and simulated ones whose truth is known."""
    from ..datasets import EXAMPLES, example

    if not name:
        width = max(map(len, EXAMPLES))
        typer.echo("\n".join(f"{key:<{width}}  {text}" for key, text in EXAMPLES.items()))
        return
    columns = example(name)
    ends = rows.split(":")
    if len(ends) != 2 or not all(end == "" or end.isdecimal() for end in ends):
        raise ValueError(f"--rows must be two numbers with a colon between; got {rows!r}")
    part = slice(*(int(end) if end else None for end in ends))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(values[part].tolist() for values in columns.values()), strict=True))

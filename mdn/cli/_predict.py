"""``mdn predict``."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import (
    STANDARD,
    Force,
    Json,
    Quiet,
    app,
    check_outputs,
    notes_on,
    use_threads,
    with_reading,
    write_result,
)
from ._fit import Seed, Threads
from ._tables import features_of

__all__ = ["predict"]

_DEFAULT = "mean,sd,q05,q50,q95"
_TABLES = (".csv", ".parquet", ".feather", ".arrow")


@app.command(
    epilog="Example: mdn predict geyser.mdn geyser.csv --columns mean,sd,q05,p_above:3 "
    "--out scored.csv"
)
@with_reading
def predict(
    model: Annotated[Path, typer.Argument(help="A file of mdn fit or of MDNRegressor.save.")],
    data: Annotated[
        list[str], typer.Argument(help="Tables of rows, a folder of them, or - for standard input.")
    ],
    columns: Annotated[
        str,
        typer.Option(
            help="mean, sd, median, mode, q05, interval90, hdr90, p_above:3, p_below:3, density, "
            "nll, crps, sample:10, aleatoric, epistemic; with commas between."
        ),
    ] = _DEFAULT,
    keep: Annotated[
        str, typer.Option(help="Columns of the table to copy, with commas between.")
    ] = "",
    out: Annotated[
        Path,
        typer.Option(help="A .csv, .parquet or .feather file, a folder, or - ."),
    ] = STANDARD,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip tables whose output is in the folder.")
    ] = False,
    seed: Seed = 0,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = None,
    reading: dict[str, Any] = {},  # noqa: B006  # filled in by with_reading
) -> None:
    """Answer questions about p(y|x) for each row: one row in, one row out, in their order."""
    inputs = [Path(source) for source in data]
    if out.is_dir() or (out.suffix == "" and out != STANDARD):
        from ..tables import files_of

        files = [file.name for file in files_of(data)]
        jobs = [([file], out / _output_name(file)) for file in files]
        out.mkdir(parents=True, exist_ok=True)
        if resume:
            jobs = [job for job in jobs if not job[1].exists()]
    else:
        if resume:
            raise ValueError("--resume needs a folder as --out, in which each table has its output")
        jobs = [(data, out)]
    check_outputs([*(path for _, path in jobs), json], [model, *inputs], force)
    if out == STANDARD and json == STANDARD:
        raise ValueError("the rows and --json - cannot both be printed; add --out")

    from ..io import load
    from ..tables import ReadOptions, date_columns, read_batches

    fitted = load(model)
    features = features_of(fitted, str(model))
    use_threads(threads)
    kept = [name.strip() for name in keep.split(",") if name.strip()]
    begun, rows = time.perf_counter(), 0
    with notes_on(quiet) as note, _progress(quiet) as advance:
        for sources, path in jobs:
            with _sink(path) as write:
                source = sources[0] if len(sources) == 1 else sources
                for batch in read_batches(source, ReadOptions(**reading)):
                    numbers, _ = date_columns(batch, features)
                    table = fitted.predict_frame(numbers, columns, random_state=seed + rows)
                    for i, name in enumerate(kept):
                        table = table.add_column(i, name, _column(batch, name))
                    write(table)
                    rows += len(batch)
                    advance(len(batch))
        seconds = time.perf_counter() - begun
        note(f"{rows} rows in {seconds:.1f} s, {rows / max(seconds, 1e-9):.0f} a second")
    if out != STANDARD or json is not None:
        result = {"rows": rows, "files": [str(path) for _, path in jobs]}
        write_result(f"Wrote {out}" if out != STANDARD else "", result, json)


def _output_name(file: str) -> str:
    """The name of the output for an input file, in the same format without compression."""
    name = Path(file).name
    for ending in (".gz", ".zst"):
        name = name.removesuffix(ending)
    return name if Path(name).suffix in _TABLES else f"{name}.csv"


def _column(batch: Any, name: str) -> Any:
    if name not in batch.column_names:
        raise ValueError(
            f"--keep must name columns of the table; it has no {name!r}, but "
            f"{', '.join(batch.column_names)}"
        )
    return batch.column(name)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int], Any]]:
    """Yields a function that counts rows on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    parts = (SpinnerColumn(), MofNCompleteColumn(), "rows", TimeElapsedColumn())
    with Progress(*parts, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda rows: bar.advance(task, rows)


@contextmanager
def _sink(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yields a function that writes tables to a file, which appears whole or not at all."""
    if path == STANDARD:
        with _writer(sys.stdout.buffer, ".csv") as write:
            yield write
        sys.stdout.buffer.flush()
        return
    if path.suffix not in _TABLES:
        raise ValueError(f"--out must end in {', '.join(_TABLES)}, or be a folder; got {path}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file, _writer(file, path.suffix) as write:
            yield write
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writer(file: Any, ending: str) -> Iterator[Callable[[Any], None]]:
    """Yields a function that appends tables to an open file in the format of an ending."""
    opened: list[Any] = []

    def write(table: Any) -> None:
        if not opened:
            opened.append(_opened(file, ending, table.schema))
        opened[0].write_table(table)

    try:
        yield write
    finally:
        for writer in opened:
            writer.close()


def _opened(file: Any, ending: str, schema: Any) -> Any:
    import pyarrow as pa

    if ending == ".csv":
        from pyarrow import csv

        return csv.CSVWriter(file, schema, write_options=csv.WriteOptions(quoting_style="needed"))
    if ending == ".parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(file, schema)
    return pa.ipc.new_file(file, schema)

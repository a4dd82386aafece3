"""The application, and what its commands share: options, checks of files, and output."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__

__all__ = [
    "STANDARD",
    "Force",
    "Json",
    "Quiet",
    "app",
    "check_free",
    "check_outputs",
    "joined",
    "notes_on",
    "use_threads",
    "with_reading",
    "write_result",
]

app = typer.Typer(
    name="mdn",
    help="Fit, score and show the whole conditional distribution p(y|x).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No notes and no progress on standard error.")]
Json = Annotated[
    Path | None, typer.Option(help="Write the result as JSON to this file; - prints it instead.")
]
STANDARD = Path("-")  # standard input or output


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mdn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# -- options of every command that reads a table --------------------------------------------------


def _reading(
    separator: Annotated[str | None, typer.Option(help="Between the values of a CSV file.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file, as latin-1.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Decimal mark, . or a comma.")] = None,
    thousands: Annotated[str | None, typer.Option(help="Mark between thousands.")] = None,
    na: Annotated[
        list[str] | None, typer.Option(help="A text that stands for a missing value; repeat it.")
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="Lines before the header.")] = 0,
    skip_last: Annotated[
        int | None, typer.Option(min=0, help="Lines at the end that are no rows, as totals.")
    ] = None,
    comment: Annotated[str | None, typer.Option(help="Mark at the start of comments.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A column that stays text, as a code; repeat it.")
    ] = None,
    date_format: Annotated[str | None, typer.Option(help="Of dates, as %d/%m/%Y.")] = None,
) -> None:
    """The signature is added to those of the commands; see :func:`with_reading`."""


def with_reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of reading to a command, which gets them as ``reading``, a dict.

    typer takes the options of a command from its signature.
    """
    own = inspect.signature(command, eval_str=True)
    extra = inspect.signature(_reading, eval_str=True).parameters

    @wraps(command)
    def wrapped(**options: Any) -> Any:
        reading = {name: options.pop(name) for name in extra}
        reading |= {name: tuple(reading[name] or ()) for name in ("na", "text")}
        return command(**options, reading=reading)

    kept = [parameter for name, parameter in own.parameters.items() if name != "reading"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword) for p in (*kept, *extra.values())]
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    del wrapped.__wrapped__  # by which inspect would find the signature of the command itself
    return wrapped


# -- files ----------------------------------------------------------------------------------------


def check_outputs(files: Sequence[Path | None], inputs: Sequence[Path], force: bool) -> list[Path]:
    """Checks that files can be written, each once, and none over what is read; returns them."""
    named = [path for path in files if path is not None and path != STANDARD]
    for i, path in enumerate(named):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file in it")
        if path.resolve() in {other.resolve() for other in named[:i]}:
            raise ValueError(f"every output must have a file of its own; got {path} twice")
        if path.resolve() in {other.resolve() for other in inputs}:
            raise ValueError(f"an output must not replace what is read; got {path} for both")
    check_free(named, force)
    return named


def check_free(files: Sequence[Path], force: bool) -> None:
    """Refuses files that exist, unless they may be replaced."""
    existing = [path for path in files if path.exists()]
    if existing and not force:
        what = "exists already; add --force to replace it"
        if len(existing) > 1:
            what = "exist already; add --force to replace them"
        raise FileExistsError(f"{joined(existing)} {what}")


def joined(files: Sequence[Path]) -> str:
    """Returns the names with "and" between."""
    return " and ".join(map(str, files))


# -- output ---------------------------------------------------------------------------------------


def write_result(text: str, result: Any, to: Path | None, files: Sequence[Path] = ()) -> None:
    """Prints a result and the files that were written, or the result as JSON to a path.

    Args:
        text: the result as text.
        result: plain numbers, texts, lists and dicts.
        to: file for the JSON; ``-`` prints it in place of the text.
        files: that were written.
    """
    if to is not None:
        document = json.dumps(_finite(result), indent=2, allow_nan=False)
        if to == STANDARD:
            typer.echo(document)
            return
        to.write_text(document + "\n", encoding="utf-8")
    if text:
        typer.echo(text)
    if files:
        typer.echo(f"\nWrote {joined(files)}")


def use_threads(threads: int | None) -> None:
    """Has torch use so many threads for the rest of the command; -1 for all cores."""
    if threads is None:
        return
    import torch

    torch.set_num_threads(os.cpu_count() or 1 if threads < 1 else threads)


def _finite(value: Any) -> Any:
    """Plain values, with None for a number that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def notes_on(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that prints a note to standard error; warnings become notes too."""

    def note(text: str) -> None:
        if not quiet:
            print(f"note: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always" if not quiet else "ignore")
        warnings.showwarning = lambda message, *_, **__: note(" ".join(str(message).split()))
        yield note

"""``mdn ...`` on the command line.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 ended by Ctrl-C.  An error is one line, without a
traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from . import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="mdn",
    help="Fit, score and show the whole conditional distribution p(y|x).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps")

_INTERRUPTED = 130  # 128 and the number of the signal, as shells have it
_SENTENCES = ValueError, TypeError, OSError, ImportError, RuntimeError  # that speak for themselves

Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


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


@app.command(epilog="Example: mdn demo --out mdn-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = Path(
        "mdn-demo"
    ),
    force: Force = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same numbers.")] = 0,
) -> None:
    """Fit p(duration | waiting) of Old Faithful and explain why a loss may be negative."""
    files = [out / "demo.png", out / "demo.json"]
    _check_free(files, force)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder with --out")
    out.mkdir(parents=True, exist_ok=True)

    from rich.console import Console

    from . import demo as job

    with Console(stderr=True).status("starting") as status:  # shows nothing in a pipe
        numbers = job.run(out, seed=seed, progress=lambda step: status.update(step))
    typer.echo(job.describe(numbers))
    typer.echo(f"\nWrote {_joined(files)}")


@app.command(
    epilog="Example: mdn experiment inverse-sinusoid --fast",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def experiment(context: typer.Context) -> int:
    """Run experiments of the repository: --list lists them, --help explains the options."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "experiments" / "__main__.py").exists():
        raise FileNotFoundError(
            "experiments are part of the repository, not of the installed package: clone it and "
            "install it with pip install -e ."
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return int(import_module("experiments.__main__").main(context.args))


@app.command(epilog="Example: mdn explain model.mdn test.csv --train train.csv --html report.html")
def explain(
    model: Annotated[Path, typer.Argument(help="A file of model.save or mdn.save.")],
    data: Annotated[
        Path, typer.Argument(help="CSV file with a header, preferably of held-out rows.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of y; repeat it for several. Default: what the model was fitted on, else "
            "all columns that are not features, or the last ones."
        ),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="CSV file of the training rows.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the figure: .png, .pdf, .svg.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    force: Force = False,
) -> None:
    """Explain a loss on data: why it may be negative, and whether the density is right."""
    figure = None if figure is None else _figure_path(figure)
    files = [path for path in (html, figure, json) if path is not None]
    _check_outputs(files, [model, data, *([] if train is None else [train])])
    _check_free(files, force)

    from .explain import explain_file, write

    report = explain_file(model, data, target=target, train=train)
    write(report, html, figure, json)
    typer.echo(str(report))
    if files:
        typer.echo(f"\nWrote {_joined(files)}")


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    try:
        if not (sys.argv[1:] if args is None else args):
            app(["--help"], standalone_mode=False)
            return 2
        status = app(args, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Exception as error:
        wrong_usage = hasattr(error, "format_message")  # a UsageError of click
        text = error.format_message() if wrong_usage else str(error)  # type: ignore[attr-defined]
        line = " ".join(str(text).split())
        if not line or not (wrong_usage or isinstance(error, _SENTENCES)):
            line = f"{type(error).__name__}{line and f': {line}'}"
        print(f"mdn: {line}", file=sys.stderr)
        return 2 if wrong_usage else 1


def _figure_path(path: Path) -> Path:
    """Returns the file that Matplotlib writes: ``.png`` is added to a name without an ending."""
    if path.suffix in ("", "."):
        return path.with_name(path.name.rstrip(".") + ".png")
    if path.suffix.lower() not in _FIGURES:
        raise ValueError(f"--figure must end in {', '.join(_FIGURES)}; got {path}")
    return path


def _check_outputs(files: list[Path], inputs: list[Path]) -> None:
    """Checks that the files can be written, each once, and none over what is read."""
    for i, path in enumerate(files):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {path.parent} does not exist; create it first")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file in it")
        if path.resolve() in {other.resolve() for other in files[:i]}:
            raise ValueError(f"every output must have a file of its own; got {path} twice")
        if path.resolve() in {other.resolve() for other in inputs}:
            raise ValueError(f"an output must not replace what is read; got {path} for both")


def _check_free(files: list[Path], force: bool) -> None:
    existing = [path for path in files if path.exists()]
    if existing and not force:
        what = "exists already; add --force to replace it"
        if len(existing) > 1:
            what = "exist already; add --force to replace them"
        raise FileExistsError(f"{_joined(existing)} {what}")


def _joined(files: list[Path]) -> str:
    return " and ".join(map(str, files))

"""``mdn explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import Force, Json, Quiet, app, check_outputs, notes_on, with_reading, write_result

__all__ = ["FIGURES", "explain", "figure_path"]

FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps")


@app.command(epilog="Example: mdn explain geyser.mdn geyser.csv --html report.html")
@with_reading
def explain(
    model: Annotated[Path, typer.Argument(help="A file of model.save or mdn.save.")],
    data: Annotated[Path, typer.Argument(help="Table with a header, preferably of held-out rows.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of y; repeat it for several. Default: what the model was fitted on, else "
            "all columns that are not features, or the last ones."
        ),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Table of the training rows.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the figure: .png, .pdf, .svg.")] = None,
    json: Json = None,
    force: Force = False,
    quiet: Quiet = False,
    reading: dict[str, Any] = {},  # noqa: B006  # filled in by with_reading
) -> None:
    """Explain a loss on data: why it may be negative, and whether the density is right."""
    figure = None if figure is None else figure_path("--figure", figure)
    files = check_outputs(
        [html, figure, json], [model, data, *([] if train is None else [train])], force
    )

    from ..explain import explain_file, write

    with notes_on(quiet):
        report = explain_file(model, data, target=target, train=train, **reading)
        write(report, html, figure)
    write_result(str(report), report.to_dict(), json, files)


def figure_path(option: str, path: Path) -> Path:
    """Returns the file that Matplotlib writes: ``.png`` is added to a name without an ending."""
    if path.suffix in ("", "."):
        return path.with_name(path.name.rstrip(".") + ".png")
    if path.suffix.lower() not in FIGURES:
        raise ValueError(f"{option} must end in {', '.join(FIGURES)}; got {path}")
    return path

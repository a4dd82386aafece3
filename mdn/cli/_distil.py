"""``mdn distil``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import Force, Json, Quiet, app, check_outputs, notes_on, with_reading, write_result
from ._tables import features_of, table_of

__all__ = ["distil"]


@app.command(epilog="Example: mdn distil geyser.mdn geyser.csv --out small.mdn --max-time 5")
@with_reading
def distil(
    model: Annotated[Path, typer.Argument(help="A file of mdn fit or of an MDNRegressor.")],
    data: Annotated[
        Path | None, typer.Argument(help="Table of rows such as it will be asked for.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Write the small model here.")] = Path("small.mdn"),
    max_loss: Annotated[float, typer.Option(help="Nats by which it may differ.")] = 0.02,
    max_size: Annotated[float, typer.Option(help="Of its weights, kB.")] = 500.0,
    max_time: Annotated[float, typer.Option(help="Seconds.")] = 120.0,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    json: Json = None,
    force: Force = False,
    quiet: Quiet = False,
    reading: dict[str, Any] = {},  # noqa: B006  # filled in by with_reading
) -> None:
    """Make one small network that stands for a fitted model, and say what it loses."""
    files = check_outputs([out, json], [model, *([] if data is None else [data])], force)

    from ..io import load, save

    with notes_on(quiet) as note:
        teacher = load(model)
        if not hasattr(teacher, "distil"):
            raise TypeError(f"{model} must hold an MDNRegressor; got {type(teacher).__name__}")
        rows = None
        if data is not None:
            features = features_of(teacher, str(model))
            rows = table_of([str(data)], reading, note=note, features=features).select(features)
        student = teacher.distil(
            rows, max_loss=max_loss, max_size=max_size, max_time=max_time, random_state=seed
        )
    save(student, out)
    about = student.info_["distilled"]
    sizes = [path.stat().st_size / 1000 for path in (model, out)]
    text = (
        f"{sizes[0]:.0f} kB to {sizes[1]:.0f} kB, {about['parameters']} weights\n"
        f"differs by {about['divergence']:.3g} ± {about['standard_error']:.1g} nats, "
        f"mean over rows like those of the fit\n"
        f"{about['rows']} transfer rows, {about['seconds']:.0f} s"
    )
    write_result(text, about | {"bytes": out.stat().st_size}, json, files)

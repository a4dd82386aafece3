"""``mdn fit``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import Force, Json, Quiet, app, check_outputs, notes_on, with_reading, write_result
from ._tables import Columns, Drop, Groups, Parts, Target, Weight, split, table_of

__all__ = ["Device", "Kind", "Preset", "Seed", "Threads", "Time", "fit", "regressor"]

_SHARE = 0.15  # of the rows that are held out


class Kind(StrEnum):
    """What y is."""

    real = "real"
    positive = "positive"
    unit = "unit"
    integer = "integer"
    interval = "interval"


class Preset(StrEnum):
    """How much is fitted."""

    default = "default"
    fast = "fast"


class Holdout(StrEnum):
    """Which rows are held out."""

    random = "random"
    time = "time"
    none = "none"


TargetKind = Annotated[Kind, typer.Option(help="What y is; see MDNRegressor.")]
Resolution = Annotated[float | None, typer.Option(help="Step of a rounded y.")]
Atoms = Annotated[
    list[float] | None,
    typer.Option(help="Value that y takes with a probability of its own, as 0; repeat it."),
]
Fitted = Annotated[Preset, typer.Option(help="fast takes about an eighth of the time.")]
Time = Annotated[float | None, typer.Option(min=0, help="Seconds that the fit may take.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
Threads = Annotated[int | None, typer.Option(help="Threads; -1 for all cores.")]
Device = Annotated[str, typer.Option(help="Of the training: cpu or cuda.")]


@app.command(epilog="Example: mdn fit geyser.csv --target duration --unit min --out geyser.mdn")
@with_reading
def fit(
    context: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            help="Tables with the same columns, a folder of them, or - for standard input."
        ),
    ],
    target: Target,
    out: Annotated[Path, typer.Option(help="File for the model.")],
    kind: TargetKind = Kind.real,
    resolution: Resolution = None,
    atoms: Atoms = None,
    columns: Columns = None,
    drop: Drop = None,
    weight: Weight = None,
    groups: Groups = None,
    holdout: Annotated[
        Holdout,
        typer.Option(help="15 % of the rows judge the model: random ones, the last, or none."),
    ] = Holdout.random,
    unit: Annotated[str, typer.Option(help="Unit of y, as EUR.")] = "",
    preset: Fitted = Preset.default,
    max_time: Time = None,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
    quiet: Quiet = False,
    reading: dict[str, Any] = {},  # noqa: B006  # filled in by with_reading
) -> None:
    """Fit p(y|x) to a table, score it on held-out rows, and write the model to a file."""
    check_outputs([out, json], [Path(source) for source in data], force)

    from rich.console import Console

    from .. import __version__

    with notes_on(quiet) as note, Console(stderr=True, quiet=quiet).status("reading") as status:
        table = table_of(data, reading, note=note, drop=drop)
        parts = split(table, target, columns=columns, weight=weight, groups=groups, note=note)
        model = regressor(kind, resolution, atoms, preset, max_time, seed, threads, device)
        found = None
        if holdout != Holdout.none:
            status.update("fitting, without the rows held out")
            found = _judged(model, parts, holdout, seed, unit)
        status.update("fitting to all rows")
        model.fit(parts.X, parts.y, parts.weight, groups=parts.groups)
        model.target_names_ = list(target)
        model.info_ = {
            "unit": unit,
            "rows": len(parts.y),
            "columns": model.columns_.kinds,
            "held_out": None if found is None else found.to_dict(),
            "version": __version__,
            "command": shlex.join(["mdn", *context.obj]),
        }
        model.save(out)
    lines = [
        f"{len(parts.y)} rows; y is {', '.join(target)}{unit and f' [{unit}]'}; features: "
        + ", ".join(f"{name} ({what})" for name, what in model.info_["columns"].items())
    ]
    if found is not None:
        lines += ["", str(found)]
    size = out.stat().st_size / 1e6
    lines += ["", f"Wrote {out} ({size:.1f} MB), fitted to all {len(parts.y)} rows"]
    write_result("\n".join(lines), {**model.info_, "file": str(out)}, json)


def regressor(
    kind: Kind,
    resolution: float | None,
    atoms: list[float] | None,
    preset: Preset,
    max_time: float | None,
    seed: int,
    threads: int | None,
    device: str,
) -> Any:
    """Returns the model with these options."""
    from ..estimator import MDNRegressor

    return MDNRegressor(
        target=kind.value,
        resolution=resolution,
        atoms=atoms or None,
        preset=preset.value,
        max_time=max_time,
        random_state=seed,
        n_jobs=threads,
        device=device,
    )


def _judged(model: Any, parts: Parts, how: Holdout, seed: int, unit: str) -> Any:
    """The scores of a model that is fitted without 15 % of the rows, on those."""
    import numpy as np

    from .. import evaluation

    held = evaluation.holdout(len(parts.y), _SHARE, groups=parts.groups, how=how.value, seed=seed)
    inside, outside = parts.take(~held), parts.take(held)
    model.fit(inside.X, inside.y, inside.weight, groups=inside.groups)
    if model.history_.stopped == "interrupted":  # by Ctrl-C: the fit to all rows is not begun
        raise KeyboardInterrupt
    which = "the last" if how == Holdout.time else "random"
    count = int(np.sum(held))
    return evaluation.evaluate(
        model,
        outside.X,
        outside.y,
        train=(inside.X, inside.y),
        unit=unit,
        how=f"{count} rows held out ({which} {100 * count / len(held):.0f} %)",
    )

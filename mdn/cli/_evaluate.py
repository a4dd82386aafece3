"""``mdn evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import Force, Json, Quiet, app, check_outputs, notes_on, with_reading, write_result
from ._fit import (
    Atoms,
    Device,
    Fitted,
    Kind,
    Preset,
    Resolution,
    Seed,
    TargetKind,
    Threads,
    Time,
    regressor,
)
from ._tables import Columns, Drop, Groups, Parts, Weight, features_of, split, table_of

__all__ = ["evaluate"]


@app.command(epilog="Example: mdn evaluate geyser.csv --target duration --cv 5 --preset fast")
@with_reading
def evaluate(
    files: Annotated[
        list[str], typer.Argument(help="A model and a table of new rows; with --cv tables alone.")
    ],
    target: Annotated[
        list[str] | None, typer.Option(help="Column of y; default: that of the model.")
    ] = None,
    cv: Annotated[int | None, typer.Option(min=2, help="Folds: fit and score K times.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times, each with folds of its own.")] = 1,
    train: Annotated[
        str | None, typer.Option(help="Table of the fit, for two simple models beside it.")
    ] = None,
    kind: TargetKind = Kind.real,
    resolution: Resolution = None,
    atoms: Atoms = None,
    columns: Columns = None,
    drop: Drop = None,
    weight: Weight = None,
    groups: Groups = None,
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
    """Score a model on new rows, or by cross-validation, beside two simple models."""
    read = [Path(name) for name in (*files, train) if name is not None]
    written = check_outputs([json], read, force)

    from rich.console import Console

    from .. import evaluation

    of_a_fit = {
        "--kind": kind != Kind.real,
        "--preset": preset != Preset.default,
        "--repeats": repeats > 1,
        "--resolution": resolution,
        "--atoms": atoms,
        "--columns": columns,
        "--drop": drop,
        "--weight": weight,
        "--groups": groups,
        "--max-time": max_time,
    }
    useless = ["--train"] * (train is not None) if cv else [k for k, v in of_a_fit.items() if v]
    if useless:
        raise ValueError(f"{useless[0]} has no effect {'with' if cv else 'without'} --cv; leave it")
    with notes_on(quiet) as note, Console(stderr=True, quiet=quiet).status("scoring"):
        if cv is None:
            found = _of_model(files, target, train, unit, reading, note)
        else:
            if not target:
                raise ValueError("--cv fits models anew and needs --target, the column of y")
            parts = split(
                table_of(files, reading, note=note, drop=drop),
                target,
                columns=columns,
                weight=weight,
                groups=groups,
                note=note,
            )
            found = evaluation.cross_validate(
                regressor(kind, resolution, atoms, preset, max_time, seed, threads, device),
                parts.X,
                parts.y,
                cv=cv,
                repeats=repeats,
                groups=parts.groups,
                sample_weight=parts.weight,
                seed=seed,
                unit=unit,
            )
    write_result(str(found), found.to_dict(), json, written)


def _of_model(
    files: list[str],
    target: list[str] | None,
    train: str | None,
    unit: str,
    reading: dict[str, Any],
    note: Any,
) -> Any:
    """The scores of a model file on tables."""
    from .. import evaluation
    from ..io import load

    if len(files) < 2:
        raise ValueError(
            "evaluate needs a model and a table; with --cv K tables alone, which are fitted anew"
        )
    model = load(files[0])
    names = target or getattr(model, "target_names_", None)
    if not names:
        raise ValueError(f"{files[0]} does not know the name of its target: add --target")
    features = features_of(model, files[0])

    def rows_of(sources: list[str]) -> Parts:
        table = table_of(sources, reading, note=note, features=features)
        return split(table, names, columns=features, note=note)

    table, seen = rows_of(files[1:]), None
    if train is not None:
        seen = rows_of([train])[:2]
    unit = unit or getattr(model, "info_", {}).get("unit", "")
    how = f"{len(table.y)} rows of {' '.join(files[1:])}"
    return evaluation.evaluate(model, table.X, table.y, train=seen, unit=unit, how=how)

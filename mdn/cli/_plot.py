"""``mdn plot``."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import (
    Force,
    Json,
    Quiet,
    app,
    check_outputs,
    notes_on,
    with_reading,
    write_result,
)
from ._explain import figure_path
from ._tables import features_of, split, table_of

__all__ = ["plot"]


class Figure(StrEnum):
    """The plots of mdn.plot that a model and a table are enough for."""

    density = "density"
    feature = "feature"
    fan = "fan"
    modes = "modes"
    weights = "weights"
    conditional = "conditional"
    ridge = "ridge"
    contours = "contours"
    pit = "pit"
    coverage = "coverage"
    sharpness = "sharpness"
    units = "units"
    waterfall = "waterfall"
    history = "history"


_OVER_A_FEATURE = (Figure.density, Figure.feature, Figure.fan, Figure.modes, Figure.weights)
_WITH_Y = (Figure.density, Figure.fan, Figure.modes)  # of these, those that draw y
_JUDGED = (Figure.pit, Figure.coverage, Figure.sharpness, Figure.units, Figure.waterfall)
_OF_ROWS = (Figure.conditional, Figure.ridge, Figure.contours)


@app.command(
    epilog="Example: mdn plot geyser.mdn geyser.csv --kind fan --feature waiting --out fan.png"
)
@with_reading
def plot(
    model: Annotated[Path, typer.Argument(help="A file of mdn fit or of MDNRegressor.save.")],
    data: Annotated[list[str], typer.Argument(help="Tables of rows.")],
    out: Annotated[Path, typer.Option(help="The figure: .png, .pdf, .svg.")],
    kind: Annotated[Figure, typer.Option(help="Which plot, by its name in mdn.plot.")] = Figure.fan,
    feature: Annotated[
        str | None, typer.Option(help="Feature on the x axis; default: the first.")
    ] = None,
    rows: Annotated[
        str, typer.Option(help="Rows, from 0, of conditional, ridge and contours (the first).")
    ] = "0,1,2",
    target: Annotated[
        list[str] | None, typer.Option(help="Column of y; default: that of the model.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="Table of the fit, for the simple models of waterfall.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Unit of y, as EUR.")] = "",
    json: Json = None,
    force: Force = False,
    quiet: Quiet = False,
    reading: dict[str, Any] = {},  # noqa: B006  # filled in by with_reading
) -> None:
    """Draw p(y|x), its calibration or the training run, each figure of mdn.plot by its name."""
    out = figure_path("--out", out)
    read = [Path(name) for name in (*data, train) if name is not None]
    check_outputs([out, json], [model, *read], force)

    from ..io import load

    with notes_on(quiet) as note:
        fitted = load(model)
        names = features_of(fitted, str(model))
        wanted = target or fitted.target_names_ or []
        table = table_of(data, reading, note=note, features=names)
        if not set(wanted) & set(table.column_names) and kind not in (*_WITH_Y, Figure.history):
            wanted = []  # which such a plot does without
        unit = unit or fitted.info_.get("unit", "")
        if feature is not None and feature not in names:
            raise ValueError(f"--feature must be one of {', '.join(names)}; got {feature!r}")
        X, y = table.select(names), None
        if wanted:
            parts = split(table, wanted, columns=names, note=note)
            X, y = parts.X, parts.y
        seen = None
        if train is not None:
            rows_of = table_of([train], reading, note=note, features=names)
            seen = split(rows_of, wanted, columns=names, note=note)[:2]
        options: dict[str, Any] = {"y_unit": unit or None}
        if len(wanted) == 1:
            options["y_label"] = f"{wanted[0]} [{unit}]" if unit else wanted[0]
        places = _row_numbers(rows, len(X))
        axes = _draw(kind, fitted, X, y, seen, feature or names[0], places, options)
        axes.figure.savefig(out, dpi=150, bbox_inches="tight")
    write_result(f"Wrote {out}", {"files": [str(out)], "kind": kind.value}, json)


def _draw(
    kind: Figure,
    model: Any,
    X: Any,
    y: Any,
    train: Any,
    feature: str,
    rows: list[int],
    options: dict[str, Any],
) -> Any:
    """Draws one of the plots and returns its Axes."""
    from .. import calibration, evaluation
    from .. import plot as plots

    draw = getattr(plots, f"plot_{kind.value}")
    if kind in (*_WITH_Y, *_JUDGED) and y is None:
        raise ValueError(f"--kind {kind.value} needs the column of y in the table; see --target")
    if kind in _OVER_A_FEATURE:
        if kind == Figure.weights:
            options = {}
        drawn = [y] if kind in _WITH_Y else []
        return draw(model, X, *drawn, feature=feature, **options)
    if kind in _OF_ROWS:
        if kind == Figure.contours:
            return draw(model, X.take(rows[:1]))
        return draw(model, X.take(rows), labels=[f"row {row}" for row in rows], **options)
    if kind == Figure.history:
        return draw(model.history_, y_unit=options["y_unit"])
    if kind == Figure.units:
        nll, unit = model.nll(X, y), options["y_unit"] or "its unit"
        shift = math.log(1000) * model.target_.n_targets
        thousands, parts = f"thousands of {unit}", f"thousandths of {unit}"
        return draw({thousands: nll - shift, unit: nll, parts: nll + shift})
    if kind == Figure.waterfall:
        if train is None:
            raise ValueError("--kind waterfall needs --train, the table that simple models fit")
        scores = evaluation.evaluate(model, X, y, train=train).scores
        falling = {name: scores[name]["nll"].mean for name in reversed(list(scores))}
        return draw(falling, y_unit=options["y_unit"])
    dist = model.predict_distribution(X)
    if kind == Figure.pit:
        return draw(calibration.pit_histogram(dist, y.reshape(len(y), -1)))
    if kind == Figure.coverage:
        return draw(calibration.coverage_curve(dist, y.reshape(len(y), -1)))
    mean, sd = model.predict(X, return_std=True)
    return draw(sd, y - mean, y_unit=options["y_unit"])


def _row_numbers(rows: str, n: int) -> list[int]:
    try:
        found = [int(part) for part in rows.split(",")]
    except ValueError:
        raise ValueError(f"--rows must be numbers with commas between; got {rows!r}") from None
    outside = [row for row in found if not 0 <= row < n]
    if outside and rows != "0,1,2":
        raise ValueError(f"--rows must lie between 0 and {n - 1}; got {outside[0]}")
    return [row for row in found if row < n]

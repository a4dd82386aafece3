"""``mdn show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import Json, app, write_result

__all__ = ["show"]


@app.command(epilog="Example: mdn show geyser.mdn")
def show(
    model: Annotated[Path, typer.Argument(help="A file of mdn fit or mdn.save.")],
    json: Json = None,
) -> None:
    """Print what a model file holds: columns, target, scores on held-out rows, origin."""
    from ..io import describe

    about = describe(model)
    write_result("\n".join(_lines(about)), about, json)


def _lines(about: dict[str, Any]) -> list[str]:
    lines = [f"{about['file']}: {about['kind']}, {about['bytes'] / 1e6:.1f} MB"]
    info = about.get("info") or {}
    if about.get("target_names"):
        unit = f" [{info['unit']}]" if info.get("unit") else ""
        lines.append(f"y: {', '.join(about['target_names'])}{unit}, target={about['target']!r}")
    columns = info.get("columns") or dict.fromkeys(about.get("feature_names") or (), "")
    if columns:
        named = (f"{name} ({what})" if what else name for name, what in columns.items())
        lines.append(f"features: {', '.join(named)}")
    if info:
        lines.append(f"fitted to {info['rows']} rows by mdn {info['version']}: {info['command']}")
    small = info.get("distilled")
    if small:
        lines.append(
            f"distilled: one network of {small['parameters']} weights, {small['divergence']:.3g} "
            f"± {small['standard_error']:.1g} nats from the model that was fitted"
        )
    held_out = info.get("held_out")
    if held_out:
        of = ", the model that was fitted" if small else ""
        lines.append(f"held out: {held_out['how']}{of}")
        for name, scores in held_out["scores"].items():
            shown = (
                f"{score} {scores[score]['mean']:.4g} ± {scores[score]['standard_error']:.2g}"
                for score in ("nll", "crps", "energy_score", "r2", "coverage_90")
                if score in scores
            )
            lines.append(f"  {name}: {', '.join(shown)}")
        if held_out["verdict"]:
            lines.append(f"verdict: {held_out['verdict']}")
    return lines

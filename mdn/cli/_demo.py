"""``mdn demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._common import Force, Json, app, check_free, check_outputs, write_result

__all__ = ["demo"]


@app.command(epilog="Example: mdn demo --out mdn-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = Path(
        "mdn-demo"
    ),
    force: Force = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same numbers.")] = 0,
    json: Json = None,
) -> None:
    """Fit p(duration | waiting) of Old Faithful and explain why a loss may be negative."""
    files = [out / "demo.png", out / "demo.json"]
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; name a folder with --out")
    check_free(files, force)
    check_outputs([json], [], force)
    out.mkdir(parents=True, exist_ok=True)

    from rich.console import Console

    from .. import demo as job

    with Console(stderr=True).status("starting") as status:  # shows nothing in a pipe
        numbers = job.run(out, seed=seed, progress=lambda step: status.update(step))
    write_result(job.describe(numbers), numbers, json, files)

"""``mdn benchmark``."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from ._common import app
from ._experiment import repository

__all__ = ["benchmark"]


@app.command(
    epilog="Example: mdn benchmark stability --help",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def benchmark(context: typer.Context) -> int:
    """Run a benchmark of the repository by its name; without a name, list them."""
    root = repository("benchmarks")
    folder = root / "benchmarks"
    names = sorted(
        path.stem
        for path in folder.iterdir()
        if path.name[0] not in "_." and (path.suffix == ".py" or (path / "__main__.py").exists())
    )
    name, rest = (context.args or ["--list"])[0], context.args[1:]
    if name in ("--help", "--list"):
        typer.echo("mdn benchmark NAME [options]; NAME --help explains the options\n")
        typer.echo("\n".join(names))
        return 0
    if name not in names:
        raise ValueError(f"there is no benchmark {name}; there are {', '.join(names)}")
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", f"benchmarks.{name}", *rest]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False).returncode

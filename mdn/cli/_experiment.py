"""``mdn experiment``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import typer

from ._common import app

__all__ = ["experiment", "repository"]


@app.command(
    epilog="Example: mdn experiment inverse-sinusoid --fast",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def experiment(context: typer.Context) -> int:
    """Run experiments of the repository: --list lists them, --help explains the options."""
    repository("experiments")
    return int(import_module("experiments.__main__").main(context.args))


def repository(folder: str) -> Path:
    """Returns the root of the repository, made importable; refuses an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / folder / "__init__.py").exists():
        raise FileNotFoundError(
            f"{folder} are part of the repository, not of the installed package: clone it and "
            "install it with pip install -e ."
        )
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return root

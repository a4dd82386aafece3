"""``mdn completion``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ._common import app

__all__ = ["completion"]


class Shell(StrEnum):
    """Shells that typer knows."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    powershell = "powershell"


@app.command(epilog="Example: mdn completion bash >> ~/.bashrc")
def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell that is to complete commands.")],
) -> None:
    """Print what makes a shell complete the commands and options of mdn."""
    from typer import completion as scripts

    options = {"prog_name": "mdn", "complete_var": "_MDN_COMPLETE", "shell": shell.value}
    typer.echo(scripts.get_completion_script(**options))  # type: ignore[attr-defined]

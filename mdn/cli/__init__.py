"""``mdn ...`` on the command line: one file for each command, each a door to a function of mdn.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 ended by Ctrl-C.  An error is one line, without a
traceback.  Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from ._common import app

__all__ = ["app", "main"]

_INTERRUPTED = 130  # 128 and the number of the signal
_SENTENCES = ValueError, TypeError, OSError, ImportError, RuntimeError  # that speak for themselves

# Each registers its command with the app; the order is that of mdn --help.
_COMMANDS = (
    "fit",
    "evaluate",
    "predict",
    "explain",
    "plot",
    "distil",
    "show",
    "data",
    "demo",
    "experiment",
    "benchmark",
    "completion",
)
for _name in _COMMANDS:
    import_module(f"._{_name}", __name__)


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    try:
        args = sys.argv[1:] if args is None else args
        if not args:
            app(["--help"], prog_name="mdn", standalone_mode=False)
            return 2
        status = app(args, prog_name="mdn", obj=args, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Exception as error:
        wrong_usage = hasattr(error, "format_message")  # a UsageError of click
        text = error.format_message() if wrong_usage else str(error)  # type: ignore[attr-defined]
        line = " ".join(str(text).split())
        if not line or not (wrong_usage or isinstance(error, _SENTENCES)):
            line = f"{type(error).__name__}{line and f': {line}'}"
        print(f"mdn: {line}", file=sys.stderr)
        return 2 if wrong_usage else 1

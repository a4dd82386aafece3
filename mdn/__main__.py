"""``python -m mdn ...`` is ``mdn ...``.

Almost nothing is imported before Ctrl-C is waited for: it ends the command silently at any time,
with exit status 130 as of a program that the signal ended.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_INTERRUPTED = 130  # 128 and the number of the signal


def main(args: list[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` if None, and returns the exit status."""
    try:
        from .cli import main as run

        return run(args)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        # Python notes a KeyboardInterrupt that leaves code in a string, as dataclasses run it, and
        # ``python -m`` would end by the signal although it was caught; more such code clears it
        exec("")


if __name__ == "__main__":
    sys.exit(main())

"""The quality of the predictive distributions on the UCI regression benchmark, with rivals.

Run from the root of the repository::

    python -m benchmarks.uci [--sets a,b] [--splits 20] [--jobs 2] [--rivals ngboost,catboost]
                             [--preset default|fast|both] [--out FILE] [--fresh] [--report]

Every method is fitted to the training rows of each standard split and scored on its test rows, all
by the same code (``_scores.py`` defines the scores): ours with its defaults, ``MDNRegressor()``
with a seed, and rivals with their defaults (``_methods.py``).  The data are read from the folder
that ``MDN_DATA`` names, else from ``../shared/data`` next to the repository.

Each result is stored in FILE at once, and the tables are written to a Markdown file with the same
name.  A stored result is computed again only if the code of mdn, the version of the rival or the
settings changed, so an interrupted run is continued by the same command.  With one job a fit uses
all cores; with N jobs N fits of one thread each run in parallel.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.__main__ import commit
from mdn.datasets import DATA_VARIABLE, UCI_SETS, load_uci

from ._methods import RIVALS, Method, installed, ours
from ._report import report
from ._run import ROOT, Store, Task, code_version, results, tasks

__all__ = ["main"]

OUT = Path("benchmarks/results/uci.json")
SPLITS = 20
PRESETS = {"default": ("default",), "fast": ("fast",), "both": ("default", "fast")}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing, writes and prints the tables; returns 1 if that fails, else 0."""
    args = _parser().parse_args(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        store = Store(args.out)
        if not args.report and not _run(args, store, console):
            return 1
    except (OSError, ValueError, BrokenProcessPool) as error:
        console.print(f"benchmarks.uci: {error}", style="red", markup=False)
        return 1
    records = [r for r in store.records.values() if not args.report or r["set"] in args.sets]
    if not records:
        console.print(f"benchmarks.uci: {args.out} holds no result", markup=False)
        return 1
    text = report(records, store.runs)
    if not args.report:
        args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _run(args: argparse.Namespace, store: Store, console: Console) -> bool:
    """Runs the tasks that are not in the store; returns False if interrupted."""
    folder = os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data"
    sets = [load_uci(name, folder) for name in args.sets]
    requested = tasks(sets, _methods(args, console), args.splits)
    missing = [task for task in requested if args.fresh or not store.has(task)]
    run = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": _command(args),
        "jobs": args.jobs,
    }
    try:
        _run_tasks(missing, args.jobs, store, run, console)
    except KeyboardInterrupt:
        left = sum(not store.has(task) for task in requested)
        console.print(f"interrupted; {left} of {len(requested)} left, the same command continues")
        return False
    return True


def _run_tasks(todo: list[Task], jobs: int, store: Store, run: dict, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        closing(results(todo, jobs)) as found,
    ):
        row = bar.add_task("", total=len(todo))
        for record in found:
            store.add(record, run)
            name = f"{record['set']}, split {record['split']}, {record['method']}"
            bar.update(row, advance=1, description=name)
            if "error" in record:
                console.print(f"{name}: {record['error']}", markup=False)


def _methods(args: argparse.Namespace, console: Console) -> list[Method]:
    """Returns our methods, then the rivals that are installed."""
    methods = [
        ours(preset, partial(code_version, preset=preset)) for preset in PRESETS[args.preset]
    ]
    missing = []
    for name in args.rivals:
        rival = installed(name)
        if rival is None:
            missing.append(name)
        else:
            methods.append(rival)
    if missing:
        console.print(
            f"not installed and left out: {', '.join(missing)} (pip install {' '.join(missing)})"
        )
    return methods


def _command(args: argparse.Namespace) -> str:
    """Returns the command for the same results, without the output file."""
    parts = ["python -m benchmarks.uci"]
    if args.sets != list(UCI_SETS):
        parts.append(f"--sets {','.join(args.sets)}")
    parts.append(f"--splits {args.splits} --jobs {args.jobs} --preset {args.preset}")
    if args.rivals:
        parts.append(f"--rivals {','.join(args.rivals)}")
    return " ".join([*parts, *(["--fresh"] if args.fresh else [])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uci",
        description="Score predictive distributions on the UCI regression benchmark.",
        epilog="example: python -m benchmarks.uci --sets yacht,boston --splits 3 --rivals ngboost",
    )
    add = parser.add_argument
    add(
        "--sets",
        type=_names(UCI_SETS),
        default=list(UCI_SETS),
        metavar="A,B",
        help=f"some of {', '.join(UCI_SETS)}; all by default",
    )
    add("--splits", type=_positive, default=SPLITS, help="the first N of each set; all by default")
    add("--jobs", type=_positive, default=1, help="fits in parallel, of one thread each if several")
    add(
        "--rivals",
        type=_names(tuple(RIVALS)),
        default=[],
        metavar="A,B",
        help=f"some of {', '.join(RIVALS)}; none by default",
    )
    add("--preset", choices=PRESETS, default="default", help="presets of MDNRegressor")
    add("--out", type=Path, default=OUT, help="file of the results; the tables go to its .md file")
    add("--fresh", action="store_true", help="compute stored results again")
    add("--report", action="store_true", help="only print the tables of the stored results")
    return parser


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        wrong = [name for name in found if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"must be some of {', '.join(known)}; got {', '.join(map(repr, wrong))}"
            )
        return [name for name in known if name in found]

    return names


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())

"""How good the predicted distributions are, on the UCI regression benchmark, against rivals.

Run from the root of the repository::

    python -m benchmarks.uci [--sets a,b] [--splits 20] [--jobs 2] [--rivals ngboost,catboost]
                             [--preset default|fast|both] [--out FILE] [--fresh] [--report]

Every method is fitted to the training rows of each standard split and scored on its test rows, all
by the same code (``_scores.py`` says what is measured): ours as it comes, ``MDNRegressor()`` with a
seed, and rivals as their users get them without tuning (``_methods.py``).  The data are read from
the folder that ``MDN_DATA`` names, else from ``../shared/data`` beside the repository.

Each result is kept in FILE at once, and the tables beside it as Markdown.  What is there is not
done again unless the code of mdn, the version of the rival or the settings changed: an interrupted
run goes on.  With one job a fit has all cores; with N jobs N fits of one thread each run side by
side.
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
    """Run what is missing, write and print the tables; 1 if that could not be done or finished."""
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
    """Do the tasks that are not in the store; False if interrupted."""
    folder = os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data"
    sets = [load_uci(name, folder) for name in args.sets]
    asked = tasks(sets, _methods(args, console), args.splits)
    todo = [task for task in asked if args.fresh or not store.has(task)]
    run = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": _command(args),
        "jobs": args.jobs,
    }
    try:
        _do(todo, args.jobs, store, run, console)
    except KeyboardInterrupt:
        left = sum(not store.has(task) for task in asked)
        console.print(f"interrupted; {left} of {len(asked)} left, the same command goes on")
        return False
    return True


def _do(todo: list[Task], jobs: int, store: Store, run: dict, console: Console) -> None:
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
    """Ours first, then the rivals that are installed."""
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
    """What asks for the same numbers, whatever the folder."""
    words = ["python -m benchmarks.uci"]
    if args.sets != list(UCI_SETS):
        words.append(f"--sets {','.join(args.sets)}")
    words.append(f"--splits {args.splits} --jobs {args.jobs} --preset {args.preset}")
    if args.rivals:
        words.append(f"--rivals {','.join(args.rivals)}")
    return " ".join([*words, *(["--fresh"] if args.fresh else [])])


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
    add("--jobs", type=_positive, default=1, help="fits side by side, of one thread each if many")
    add(
        "--rivals",
        type=_names(tuple(RIVALS)),
        default=[],
        metavar="A,B",
        help=f"some of {', '.join(RIVALS)}; none by default",
    )
    add("--preset", choices=PRESETS, default="default", help="of ours")
    add("--out", type=Path, default=OUT, help="file of the results; the tables as .md beside it")
    add("--fresh", action="store_true", help="do again what is there")
    add("--report", action="store_true", help="only print the tables of what is there")
    return parser


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        wrong = [name for name in found if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"{', '.join(map(repr, wrong))} is none of {', '.join(known)}"
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

"""Runs experiments: ``python -m experiments NAME``, or ``mdn experiment NAME``.

::

    python -m experiments --list                  list the experiments
    python -m experiments nllr --fast             run a small version, in seconds
    python -m experiments all --fast --out DIR    run all, each into a folder of its own
    python -m experiments --pages                 write the docs pages from experiments/results
    python -m experiments --stale                 list the stored results of older code

Each writes its figures and ``results.json``.  Exit status: 0 success, 1 failure, 2 wrong usage.

A run uses one thread: sums in another order differ in the last digits, and training makes these
differences large.  So the same seed gives the same numbers with any number of cores.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from . import NAMES, about, load
from ._code import changed, digests

__all__ = ["main", "page", "run_one", "stale", "write_pages"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
PAGES = ROOT / "docs" / "experiments"
OUT = Path("mdn-experiments")
_PACKAGES = ("mdn", "torch", "numpy", "scipy", "scikit-learn")
_OPTIONS = {
    "data": (str, "mnist or digits; by default MNIST if it is available, else the digits"),
    "images": (
        Path,
        "a folder with a folder of images for each class, or with train/ and test/",
    ),
    "backbone": (str, "the network that maps images to features, for example densenet121"),
    "weights": (
        str,
        "of the backbone: default (trained), none (random) or their name",
    ),
    "epochs": (int, "passes over the training rows"),
    "batch": (int, "rows of a batch"),
    "device": (str, "where the networks are, as cpu or cuda"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        print(listing())
        return 0
    if args.pages:
        for path in write_pages():
            print(path.relative_to(ROOT))
        return 0
    if args.stale:
        old = stale()
        print("\n".join(old) or "every stored result is of the code as it is")
        return 1 if old else 0
    if not args.names:
        parser.print_usage(sys.stderr)
        return 2
    names = list(NAMES) if "all" in args.names else list(dict.fromkeys(args.names))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        return _failed(f"no experiment is called {unknown[0]!r}; see --list", 2)
    options = {key: value for key in _OPTIONS if (value := getattr(args, key)) is not None}
    folders = [args.out if args.out and len(names) == 1 else (args.out or OUT) / n for n in names]
    there = [str(path) for path in folders if (path / "results.json").exists()]
    if there and not args.force:
        return _failed(f"{', '.join(there)} has results already; add --force to replace them", 1)
    broken = []
    for name, folder in zip(names, folders, strict=True):
        try:
            own = _own_options(name, options, several=len(names) > 1)
        except ValueError as error:
            return _failed(str(error), 2)
        try:
            result = run_one(name, folder, seed=args.seed, fast=args.fast, options=own)
        except KeyboardInterrupt:
            return _failed("stopped", 1)
        except Exception as error:  # a failed experiment must not stop the others
            if args.traceback:
                raise
            broken.append(name)
            _failed(f"{name}: {' '.join(str(error).split()) or type(error).__name__}", 1)
            continue
        print(f"# {name}\n\n{load(name).report(result['numbers'])}\n")
        print(f"{result['seconds']:.0f} s; wrote {folder / 'results.json'} and {_listed(result)}\n")
    if broken:
        return _failed(f"{len(broken)} of {len(names)} failed: {', '.join(broken)}", 1)
    return 0


def run_one(
    name: str, folder: Path, *, seed: int = 0, fast: bool = False, options: dict[str, Any] | None
) -> dict[str, Any]:
    """Runs one experiment and writes ``results.json``; returns its content."""
    folder.mkdir(parents=True, exist_ok=True)
    options = options or {}
    begin = time.monotonic()
    before, code = commit(), digests(name)  # of the code that runs; it may change during the run
    versions = {p: _version(p) for p in _PACKAGES}
    with _status(name) as progress, _one_thread():
        numbers = load(name).run(seed, fast, out=folder, progress=progress, **options)
    arguments = [f"--{key} {value}" for key, value in options.items()]
    arguments += ["--fast"] if fast else []
    arguments += [f"--seed {seed}"] if seed else []
    result = {
        "experiment": name,
        "command": " ".join(["mdn experiment", name, *arguments]),
        "commit": before,
        "code": code,
        "fast": fast,
        "seed": seed,
        "seconds": round(time.monotonic() - begin, 1),
        "versions": versions,
        "figures": sorted(path.name for path in folder.glob("*.png")),
        "numbers": _finite(numbers),
    }
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def listing() -> str:
    """Returns what each experiment shows, how long it takes and what data it needs."""
    lines = []
    for name in NAMES:
        it = about(name)
        lines.append(f"{name:20} {it.minutes:5.3g} min   {it.shows}")
        lines.append(f"{'':20} {'':9}   data: {it.data}")
    lines.append("\nThe minutes are those of a full run, on one core; --fast takes seconds.")
    return "\n".join(lines)


def page(folder: Path) -> str:
    """Returns the page of an experiment, from its ``results.json``."""
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = result["experiment"]
    it = about(name)
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    parts = [
        f"# {name}",
        it.shows,
        it.text,
        "## Results",
        load(name).report(result["numbers"]),
        *(
            f"![{Path(figure).stem.replace('_', ' ')}](../../experiments/results/{name}/{figure})"
            for figure in result["figures"]
        ),
        "## How to run it",
        f"```text\n{result['command']}\n```",
        f"It needs: {it.data}. The run above took {result['seconds']:.0f} s "
        f"(commit {result['commit']}; {versions}).",
        result.get("note", ""),  # written by hand if a run needs an explanation
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_pages() -> list[Path]:
    """Writes a page for each folder of ``experiments/results``, and their index."""
    PAGES.mkdir(exist_ok=True)
    done = [name for name in NAMES if (RESULTS / name / "results.json").exists()]
    written = []
    for name in done:
        written.append(PAGES / f"{name}.md")
        written[-1].write_text(page(RESULTS / name), encoding="utf-8")
    written.append(PAGES / "index.md")
    written[-1].write_text(_index(done), encoding="utf-8")
    return written


def stale() -> list[str]:
    """Returns a line for each stored result whose code has changed since, and what has changed."""
    lines = []
    for name in NAMES:
        file = RESULTS / name / "results.json"
        if not file.exists():
            lines.append(f"{name}: no result")
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        if now := changed(name, result.get("code", {})):
            lines.append(f"{name}: since commit {result['commit']} changed: {', '.join(now)}")
    return lines


def _index(done: Sequence[str]) -> str:
    rows = [f"| [{n}]({n}.md) | {about(n).shows} | {about(n).data} |" for n in done]
    return "\n".join(
        [
            "# Experiments",
            "",
            "Each page is generated from the numbers of one run, which are stored with its figures",
            "in `experiments/results`. Run an experiment with `mdn experiment NAME` from a clone",
            "of the repository, or small versions of all with `mdn experiment all --fast`. A run",
            "uses one thread, so the same seed gives the same numbers with any number of cores.",
            "",
            "| experiment | shows | data |",
            "|---|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *done,
            "```",
            "",
        ]
    )


def commit() -> str:
    """Returns the current commit, with "-dirty" if the code has changes; "unknown" without git."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # the results that experiments and benchmarks write are not code
        changed = git("status", "--porcelain", "-uno", "--", ".", ":(exclude,glob)*/results/**")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a clone, not installed
        return importlib.import_module(package).__version__


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch, BLAS and OpenMP to one thread."""
    importlib.import_module("sklearn.ensemble")  # only libraries that are loaded can be limited
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _own_options(name: str, options: dict[str, Any], *, several: bool) -> dict[str, Any]:
    """Returns the options an experiment takes; raises ValueError for others if it runs alone."""
    takes = inspect.signature(load(name).run).parameters
    refused = [key for key in options if key not in takes]
    if refused and not several:
        raise ValueError(f"{name} takes no --{refused[0]}")
    return {key: value for key, value in options.items() if key in takes}


def _finite(value: Any) -> Any:
    """Returns the value with strings in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _listed(result: dict[str, Any]) -> str:
    return ", ".join(result["figures"]) or "no figure"


def _failed(text: str, status: int) -> int:
    print(f"experiments: {text}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _status(name: str) -> Iterator[Any]:
    with Console(stderr=True).status(name) as status:  # prints nothing into a pipe
        yield lambda text: status.update(f"{name}: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdn experiment",
        description="Run experiments; each writes figures and results.json.",
        epilog="Example: mdn experiment inverse-sinusoid --fast",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments, or all")
    parser.add_argument("--list", action="store_true", help="list the experiments and exit")
    parser.add_argument("--pages", action="store_true", help="write the pages of the docs")
    parser.add_argument(
        "--stale", action="store_true", help="list the stored results of older code"
    )
    parser.add_argument("--fast", action="store_true", help="run a small version, in seconds")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; with several experiments, the parent of their folders "
        f"(default: {OUT}/NAME)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing results")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    for name, (kind, text) in _OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())

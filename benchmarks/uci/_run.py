"""One fit a task, in processes of their own if wanted, and a file that a later run goes on from."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import mdn
from mdn.datasets import SplitDataset
from mdn.estimator import revision

from ._methods import Job, Method, ready
from ._scores import scores

__all__ = [
    "INTEGER",
    "Record",
    "Store",
    "Task",
    "code_version",
    "measure",
    "results",
    "tasks",
]

Record = dict[str, Any]

ROOT = Path(__file__).parents[2]
INTEGER = frozenset({"wine_red"})  # sets of whole numbers, scored by the rounding cell
LONGEST = 300  # characters of an error or a warning that are kept


class Task(NamedTuple):
    """One fit."""

    data: SplitDataset
    split: int
    method: Method

    @property
    def key(self) -> tuple[str, int, str]:
        """What it is a result of, whatever the code."""
        return self.data.name, self.split, self.method.name


def measure(task: Task) -> Record:
    """Fit, predict and score one task; an error becomes part of the record."""
    data, split, method = task
    train, test = data.splits[split]
    integer = data.name in INTEGER
    threads = torch.get_num_threads()
    record: Record = {
        "set": data.name,
        "split": split,
        "method": method.name,
        "version": method.version,
        "settings": method.settings,
        "n_train": len(train),
        "n_test": len(test),
        "threads": threads,
    }
    job = Job(data.X[train], data.y[train], split, threads, integer)
    rows = data.X[test]
    # some rivals draw from the global generators whatever their seed
    torch.manual_seed(split)
    np.random.seed(split)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            ready(method)
            start = time.perf_counter()
            predict = method.fit(job)
            fitted = time.perf_counter()
            prediction = predict(rows)
            done = time.perf_counter()
            found = scores(prediction, data.y[test], integer=integer)
            bad = [name for name, a in found.items() if a is not None and not math.isfinite(a)]
            if bad:
                raise ArithmeticError(f"{' and '.join(bad)} is not finite")
        except Exception as error:
            return {**record, "error": _line(f"{type(error).__name__}: {error}")}
    seconds = {"fit_seconds": fitted - start, "predict_seconds": done - fitted}
    numbers = {k: None if a is None else float(f"{a:.6g}") for k, a in (found | seconds).items()}
    texts = sorted({_line(str(w.message)) for w in warned})
    return {**record, **numbers, **({"warnings": texts} if texts else {})}


def _line(text: str) -> str:
    """The first line, not too long."""
    return text.strip().partition("\n")[0][:LONGEST]


def results(tasks: Sequence[Task], jobs: int) -> Generator[Record, None, None]:
    """Records as they come; with one job in this process, else in as many of one thread each.

    Leaving the loop early ends the processes.
    """
    if jobs == 1:
        yield from map(measure, tasks)
        return
    others = set(multiprocessing.active_children())
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # for every library that a process will load
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_start_process
    )
    try:
        for future in as_completed([pool.submit(measure, task) for task in tasks]):
            yield future.result()
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    torch.set_num_threads(1)


class Store:
    """Records in a JSON file, one for each set, split and method, and the runs they come from.

    The file is replaced at every record, so that it is whole at any time; what another run wrote
    into it in the meantime is kept.

    Raises:
        ValueError: the file is not one of results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, Record] = {}
        self.records: dict[tuple[str, int, str], Record] = {}
        self._mine: dict[tuple[str, int, str], Record] = {}
        self._read()

    def has(self, task: Task) -> bool:
        """Whether the task was done by the same code with the same settings."""
        old = self.records.get(task.key, {"error": ""})
        same = all(old.get(name) == getattr(task.method, name) for name in ("version", "settings"))
        return same and "error" not in old

    def add(self, record: Record, run: Record) -> None:
        """Keep a record; ``run`` says what all records of one run share, "started" among it."""
        started = run["started"]
        record = {**record, "run": started}
        self._mine[record["set"], record["split"], record["method"]] = record
        self._read()
        self.records.update(self._mine)
        self.runs[started] = {name: a for name, a in run.items() if name != "started"}
        self._write()

    def _read(self) -> None:
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            records = {(r["set"], r["split"], r["method"]): r for r in content["records"]}
            runs = dict(content["runs"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a file of results; move it away") from error
        self.records, self.runs = records, runs

    def _write(self) -> None:
        used = {record["run"] for record in self.records.values()}
        runs = {started: self.runs[started] for started in sorted(used)}
        lines = [json.dumps(self.records[key], ensure_ascii=False) for key in sorted(self.records)]
        text = f'{{"runs": {json.dumps(runs, indent=1)},\n"records": [\n' + ",\n".join(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            part.write_text(f"{text}\n]}}\n", encoding="utf-8")
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


def code_version(n: int, preset: str) -> str:
    """The version of mdn and the revision of its defaults for n training rows."""
    return f"mdn {mdn.__version__}, defaults {revision(n, fast=preset == 'fast')}"


def tasks(sets: Iterable[SplitDataset], methods: Sequence[Method], splits: int) -> list[Task]:
    """Set by set and split by split, all methods one after another: what is compared is paired."""
    return [
        Task(data, split, method.for_rows(len(data.splits[split][0])))
        for data in sets
        for split in range(min(splits, len(data.splits)))
        for method in methods
    ]

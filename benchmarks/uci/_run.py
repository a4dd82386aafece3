"""Tasks of one fit each, run in one or several processes, and the file of their results."""

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
INTEGER = frozenset({"wine_red"})  # sets with an integer target, scored by the rounding cell
LONGEST = 300  # characters of an error or a warning that are stored


class Task(NamedTuple):
    """One fit."""

    data: SplitDataset
    split: int
    method: Method

    @property
    def key(self) -> tuple[str, int, str]:
        """Set, split and method, which identify a result."""
        return self.data.name, self.split, self.method.name


def measure(task: Task) -> Record:
    """Fits, predicts and scores one task; an error becomes part of the record."""
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
    # some rivals use the global generators in spite of their seed
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
    """Returns the first line, truncated to a fixed length."""
    return text.strip().partition("\n")[0][:LONGEST]


def results(tasks: Sequence[Task], jobs: int) -> Generator[Record, None, None]:
    """Yields records as they are ready, from this process (one job) or from several.

    The processes have one thread each. Leaving the loop early terminates them.
    """
    if jobs == 1:
        yield from map(measure, tasks)
        return
    others = set(multiprocessing.active_children())
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # for all libraries of the processes
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates it
    torch.set_num_threads(1)


class Store:
    """Records in a JSON file, one for each set, split and method, and the runs that made them.

    The file is replaced at every record, so it is valid at any time; records that another run has
    written in the meantime are kept.

    Raises:
        ValueError: the file is not a file of results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, Record] = {}
        self.records: dict[tuple[str, int, str], Record] = {}
        self._added: dict[tuple[str, int, str], Record] = {}
        self._read()

    def has(self, task: Task) -> bool:
        """Returns whether the task was run by the same code with the same settings."""
        old = self.records.get(task.key, {"error": ""})
        same = all(old.get(name) == getattr(task.method, name) for name in ("version", "settings"))
        return same and "error" not in old

    def add(self, record: Record, run: Record) -> None:
        """Stores a record; ``run`` holds what all records of one run share, including "started"."""
        started = run["started"]
        record = {**record, "run": started}
        self._added[record["set"], record["split"], record["method"]] = record
        self._read()
        self.records.update(self._added)
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
    """Returns the version of mdn and the revision of its defaults for n training rows."""
    return f"mdn {mdn.__version__}, defaults {revision(n, fast=preset == 'fast')}"


def tasks(sets: Iterable[SplitDataset], methods: Sequence[Method], splits: int) -> list[Task]:
    """Returns the tasks, all methods of a split one after another, because they are compared."""
    return [
        Task(data, split, method.for_rows(len(data.splits[split][0])))
        for data in sets
        for split in range(min(splits, len(data.splits)))
        for method in methods
    ]

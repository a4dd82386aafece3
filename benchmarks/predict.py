"""Time and memory of what one asks a fitted MDNRegressor, by preset, target and number of rows.

Run from the root of the repository::

    python -m benchmarks.predict [--rows 1000 100000] [--limit 30] [--only mode hdr]
                                 [--models fast default default-positive] [--files FOLDER]
                                 [--write FILE] [--against FILE]

Each line is one call, such as ``model.predict_mode(X)``, in a new process with one thread: seconds
of the processor, and by how many bytes the peak of the memory grows.  A call that would take longer
than ``--limit`` seconds is made with fewer rows, and its time (not its memory) is multiplied; the
line says so.  The models are fitted on 300 rows; ``--files`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

__all__ = ["MODELS", "OPERATIONS", "main", "measure"]

ROOT = Path(__file__).parents[1]
STORED = ROOT / "benchmarks" / "results" / "predict.json"
MIB = 2**20
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage counts KiB on Linux
MEMORY = 6 * 2**30  # bytes of a process; a call that needs more has failed
PROBE = 8  # rows of the first call, which loads what is loaded once
TRAINING_ROWS = 300
COVERAGE = 0.9
MODELS = [f"{p}{t}" for p in ("fast", "default") for t in ("", "-positive", "-unit")]
OPERATIONS: dict[str, Callable[[Any, np.ndarray, np.ndarray], Any]] = {
    "predict": lambda m, x, y: m.predict(x),
    "log_prob": lambda m, x, y: m.log_prob(x, y),
    "sample": lambda m, x, y: m.sample(x, n_samples=10, random_state=0),
    "quantiles": lambda m, x, y: m.predict_quantiles(x, [0.05, 0.25, 0.5, 0.75, 0.95]),
    "interval": lambda m, x, y: m.predict_interval(x, COVERAGE),
    "crps": lambda m, x, y: _crps(m, x, y),
    "mode": lambda m, x, y: m.predict_mode(x),
    "hdr": lambda m, x, y: m.predict_hdr(x, COVERAGE),
    "entropy": lambda m, x, y: m.predict_distribution(x).entropy(),
    "merge": lambda m, x, y: m.predict_distribution(x).merge(3),
    "explain": lambda m, x, y: _explain(m, x, y),
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predict",
        description="Time and memory of what one asks a fitted MDNRegressor.",
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of a call at most")
    parser.add_argument("--only", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--files", type=Path, help="folder of the fitted models")
    parser.add_argument("--write", type=Path, nargs="?", const=STORED, help="JSON of the records")
    parser.add_argument("--against", type=Path, help="JSON of an earlier run")
    args = parser.parse_args(argv)
    before = {}
    if args.against:
        before = {_key(r): r for r in json.loads(args.against.read_text())["records"]}
    records = []
    with tempfile.TemporaryDirectory() as folder:
        files = args.files or Path(folder)
        files.mkdir(parents=True, exist_ok=True)
        head = f"{'model':18}{'operation':11}{'rows':>9}{'seconds':>10}{'MiB':>8}"
        print(head + (f"{'before':>19}{'ratio':>8}" if before else ""))
        for name in args.models:
            path = files / f"{name}.mdn"
            if not path.exists():
                _fit(name, path)
            for operation in args.only:
                if operation == "merge" and name.partition("-")[2]:
                    continue  # of Gaussian mixtures alone
                for rows in args.rows:
                    record = {"model": name, "operation": operation, "rows": rows}
                    record |= _in_new_process(path, operation, rows, args.limit)
                    records.append(record)
                    print(_line(record, before.get(_key(record))), flush=True)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(json.dumps({"records": records}, indent=1) + "\n")
    return 0


def measure(path: str, operation: str, rows: int, limit: float) -> dict[str, Any]:
    """Returns seconds, bytes and the rows of the call, made in this (new) process."""
    import mdn

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    model, call = mdn.load(path), OPERATIONS[operation]
    x, y = _data(rows, Path(path).stem)
    try:
        model.predict(x[:1])
        before = _peak()
        call(model, x[:PROBE], y[:PROBE])
        chosen = min(PROBE, rows)
        while True:  # as many rows as there is time for, from what fewer of them took
            start = time.process_time()
            call(model, x[:chosen], y[:chosen])
            seconds, growth = time.process_time() - start, _peak() - before
            more = min(rows, 8 * chosen, int(chosen * limit / max(seconds, 1e-6)))
            if more < 1.5 * chosen:
                break
            # once it is short beside the limit, at once to the end
            chosen = rows if seconds * rows / chosen < 0.5 * limit and seconds > 0.2 else more
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        return {"failed": "memory"}
    return {"seconds": seconds * rows / chosen, "bytes": growth, "measured": chosen}


def _peak() -> int:
    """The most bytes that the process ever held; a child does not count its parent's, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def _in_new_process(path: Path, operation: str, rows: int, limit: float) -> dict[str, Any]:
    code = (
        "import json; from benchmarks.predict import measure; "
        f"print(json.dumps(measure({str(path)!r}, {operation!r}, {rows}, {limit})))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
            timeout=60 + 10 * limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": "time"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _key(record: dict[str, Any]) -> tuple[str, str, int]:
    return record["model"], record["operation"], record["rows"]


def _line(record: dict[str, Any], before: dict[str, Any] | None) -> str:
    text = f"{record['model']:18}{record['operation']:11}{record['rows']:9,}"
    if "failed" in record:
        text += f"  failed: {record['failed']}"
    else:
        text += f"{record['seconds']:10.2f}{record['bytes'] / MIB:8.0f}"
    if before and "failed" in before:
        text += f"   failed: {before['failed']}"
    elif before:
        text += f"{before['seconds']:10.2f} s{before['bytes'] / MIB:5.0f} M"
        if "failed" not in record:
            text += f"{before['seconds'] / record['seconds']:7.1f}x"
    if record.get("measured", record["rows"]) != record["rows"]:
        text += f"   from {record['measured']:,} rows"
    return text


def _data(rows: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 3))
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.3 * rng.normal(size=rows)
    kind = name.partition("-")[2]
    return x, {"": y, "positive": np.exp(y), "unit": 1 / (1 + np.exp(-y))}[kind]


def _fit(name: str, path: Path) -> None:
    import mdn

    preset, _, kind = name.partition("-")
    model = mdn.MDNRegressor(preset=preset, target=kind or "real", random_state=0, n_jobs=1)
    model.fit(*_data(TRAINING_ROWS, name)).save(path)


def _crps(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    from mdn import scoring

    return scoring.crps(model, y, X=x)


def _explain(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    from mdn import explain_nll

    return explain_nll(model, x, y)


if __name__ == "__main__":
    sys.exit(main())

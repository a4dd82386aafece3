"""Hashes of the predictions of small fits, to show that a change of the code changes no number.

Run from the root of the repository, before and after the change, on the same machine::

    python -m benchmarks.fingerprints [--write FILE] [--against FILE]

Each line is a fit with a hash of its densities (mean and log density of its rows) and a hash of the
answers that follow from them (quantiles, highest-density regions, draws).  The hashes depend on
the machine and on the versions of its libraries; compare only runs of one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch

import mdn
from mdn.nn import MDNHead

ROOT = Path(__file__).parents[1]
CASES: dict[str, Callable[[], tuple[str, str]]] = {}
LEVELS = [0.01, 0.25, 0.5, 0.9, 0.999]


def _case(function: Callable[[], tuple[str, str]]) -> Callable[[], tuple[str, str]]:
    CASES[function.__name__.removeprefix("_").replace("_", "-")] = function
    return function


def _hash(*arrays: Any) -> str:
    """Returns the first 12 digits of the SHA-256 of the bytes and shapes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        a = np.ascontiguousarray(array.detach() if isinstance(array, torch.Tensor) else array)
        digest.update(f"{a.dtype}{a.shape}".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()[:12]


def _rows(n: int, n_features: int = 3, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, n_features))
    return x, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + noise * rng.normal(size=n)


def _regressor(x: Any, y: Any, *, fit: dict[str, Any] | None = None, **options: Any) -> Any:
    chosen = {"preset": "fast", "max_epochs": 6, "random_state": 0, "n_jobs": 1, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mdn.MDNRegressor(**chosen).fit(x, y, **(fit or {}))


def _of_model(model: Any, x: Any, y: Any) -> tuple[str, str]:
    densities = _hash(model.predict(x), model.log_prob(x, y))
    answers = [model.sample(x, n_samples=3, random_state=1)]
    if np.ndim(y) == 1 or model.target == "interval":
        answers += [model.predict_quantiles(x, LEVELS), model.predict_mode(x)]
        answers += [model.predict_hdr(x, coverage=0.8).intervals]
    return densities, _hash(*answers)


@_case
def _fast() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x, y), x, y)


@_case
def _default() -> tuple[str, str]:
    x, y = _rows(120)
    return _of_model(_regressor(x, y, preset="default"), x, y)


@_case
def _default_many_rows() -> tuple[str, str]:
    x, y = _rows(3200)
    model = _regressor(x, y, preset="default", max_epochs=2, ensemble_size=4)
    return _of_model(model, x[:200], y[:200])


@_case
def _tiny() -> tuple[str, str]:
    x, y = _rows(15)
    return _of_model(_regressor(x, y, preset="default"), x, y)


@_case
def _low_noise() -> tuple[str, str]:
    x, y = _rows(300, noise=0.0)
    return _of_model(_regressor(x, y, preset="default", max_epochs=None, patience=2), x, y)


@_case
def _fast_low_noise_many_rows() -> tuple[str, str]:
    x, y = _rows(1500, noise=0.0)
    return _of_model(_regressor(x, y), x[:200], y[:200])


@_case
def _weights() -> tuple[str, str]:
    x, y = _rows(150)
    weight = np.random.default_rng(1).uniform(0.1, 3.0, size=150)
    return _of_model(_regressor(x, y, fit={"sample_weight": weight}), x, y)


@_case
def _whole_weights() -> tuple[str, str]:
    x, y = _rows(150)
    weight = np.random.default_rng(1).integers(0, 3, size=150)
    return _of_model(_regressor(x, y, fit={"sample_weight": weight}), x, y)


@_case
def _categories() -> tuple[str, str]:
    x, y = _rows(150)
    frame = pd.DataFrame({"a": x[:, 0], "b": np.where(x[:, 1] > 1, np.nan, x[:, 1])})
    frame["c"] = np.array(["red", "green", "blue"])[np.arange(150) % 3]
    frame["d"] = x[:, 2] > 0
    return _of_model(_regressor(frame, y), frame, y)


@_case
def _collinear() -> tuple[str, str]:
    x, y = _rows(300)
    x = np.column_stack([x, x[:, 0] + 1e-3 * x[:, 1]])
    return _of_model(_regressor(x, y), x, y)


@_case
def _two_targets() -> tuple[str, str]:
    x, y = _rows(150)
    both = np.column_stack([y, x[:, 2] * y])
    return _of_model(_regressor(x, both, covariance_type="full"), x, both)


@_case
def _two_targets_diagonal() -> tuple[str, str]:
    x, y = _rows(150)
    both = np.column_stack([y, x[:, 2] * y])
    return _of_model(_regressor(x, both), x, both)


@_case
def _positive() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x, np.exp(y), target="positive"), x, np.exp(y))


@_case
def _unit() -> tuple[str, str]:
    x, y = _rows(150)
    z = 1 / (1 + np.exp(-y))
    return _of_model(_regressor(x, z, target="unit"), x, z)


@_case
def _integer() -> tuple[str, str]:
    x, y = _rows(150)
    counts = np.random.default_rng(2).poisson(np.exp(y)).astype(float)
    return _of_model(_regressor(x, counts, target="integer"), x, counts)


@_case
def _interval() -> tuple[str, str]:
    x, y = _rows(150)
    ends = np.column_stack([np.floor(y), np.where(y > 1, np.inf, np.ceil(y))])
    return _of_model(_regressor(x, ends, target="interval"), x, ends)


@_case
def _resolution() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x, y.round(1), resolution=0.1), x, y.round(1))


@_case
def _eval_set() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x[:100], y[:100], fit={"eval_set": (x[100:], y[100:])}), x, y)


@_case
def _warm_start() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x, y, warm_start=True).fit(x, y), x, y)


@_case
def _no_trees() -> tuple[str, str]:
    x, y = _rows(150)
    return _of_model(_regressor(x, y, trees=False, ensemble_size=3), x, y)


@_case
def _saved_and_loaded() -> tuple[str, str]:
    x, y = _rows(150)
    model = _regressor(x, y, ensemble_size=2)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fingerprint-{os.getpid()}.mdn"
    model.save(path)
    try:
        return _of_model(mdn.load(path), x, y)
    finally:
        path.unlink()


@_case
def _format_2_file() -> tuple[str, str]:
    x, y = _rows(30)
    model = mdn.load(ROOT / "tests" / "fixtures" / "regressor_format2.mdn")
    size, color = x[:, 0].copy(), np.array(["red", "green", "blue"] * 10)
    size[3] = np.nan
    frame = pd.DataFrame({"size": size, "color": color, "flag": x[:, 1] > 0.3})
    return _of_model(model, frame, y)


def _fit_case(name: str, **options: Any) -> None:
    """Adds the case of an MDN trained by ``mdn.fit``."""

    def run() -> tuple[str, str]:
        x, y = (torch.from_numpy(a).float() for a in _rows(200))
        y = torch.stack([y, x[:, 2] * y], 1) if options.get("out_features") == 2 else y[:, None]
        torch.manual_seed(0)  # of the initial weights
        module = mdn.MDN(3, hidden=(8,), **options).standardize_(x, y)
        weight = torch.linspace(0.5, 2.0, 150)
        history = mdn.fit(
            module, (x[:150], y[:150], weight), (x[150:], y[150:]), max_epochs=8, progress=False
        )
        dist = module(x)
        draws = dist.sample((2,), generator=torch.Generator().manual_seed(1))
        return _hash(dist.log_prob(y), dist.mean, np.array(history.val_nll)), _hash(draws)

    CASES[f"fit-{name}"] = run


_fit_case("diagonal")
_fit_case("full", out_features=2, covariance_type="full")
_fit_case("low-rank", out_features=2, covariance_type="low_rank")


@_case
def _fit_student() -> tuple[str, str]:
    x, y = (torch.from_numpy(a).float() for a in _rows(200))
    torch.manual_seed(0)
    module = torch.nn.Sequential(MDNHead(3, family="student_t"))
    mdn.fit(module, (x, y[:, None]), max_epochs=5, progress=False)
    return _hash(module(x).log_prob(y[:, None])), _hash(module(x).icdf(0.3))


def main() -> int:
    """Prints the hashes; returns 1 if any differs from those of ``--against``, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="file for the hashes, JSON")
    parser.add_argument("--against", type=Path, help="file that --write wrote before")
    parser.add_argument("--only", help="part of the name of the fits to run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(args.against.read_text()) if args.against else {}
    found: dict[str, list[str]] = {}
    n_changed = 0
    for name, case in CASES.items():
        if args.only and args.only not in name:
            continue
        found[name] = list(case())
        same = found[name] == before.get(name, found[name])
        n_changed += not same
        print(f"{name:28}", *found[name], "" if same else "changed", flush=True)
    if args.write:
        args.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if before:
        print(f"{n_changed} of {len(found)} changed")
    return int(n_changed > 0)


if __name__ == "__main__":
    sys.exit(main())

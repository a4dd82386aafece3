"""How smooth p(y|x) is over one column: the default beside networks alone.

Run from the root of the repository::

    MDN_DATA=../shared/data python -m benchmarks.roughness [--sets a,b] [--preset default|fast]
                                                           [--rows 1500] [--seed 0] [--jobs 1]

Both are fitted to 80 % of the rows of a set with one column.  Roughness is the total variation of
the 5 %, 50 % and 95 % quantile over 600 equally spaced points of the range of x, which plotted
densities show as stripes; the table has its ratio, default over ``trees=False``, and the NLL of
both, in nats in y's unit, on the other 20 %.

The sets are measured pairs (those of ``experiments.real`` that have one column, and more), the
simulators of one column, a smooth sine, a function with steps, and of each UCI set one column that
is drawn among those with at least 10 values.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.uci._run import ROOT
from mdn import MDNRegressor
from mdn.datasets import DATA_VARIABLE, load_old_faithful, load_uci
from mdn.simulators import ArmaJump, EconDensity, SkewNormal

__all__ = ["SETS", "Measured", "main", "measure", "roughness"]

Floats = NDArray[np.float64]
Pairs = tuple[Floats, Floats]  # X (N, 1) and y (N,)

POINTS = 600
LEVELS = 0.05, 0.5, 0.95
TEST_SHARE = 0.2
GOAL = 1.5  # of each ratio, at most
ROWS = 1500  # of a fit and of what it is scored on, at most
SIMULATED = 600  # rows of a simulation
UCI = "boston", "concrete", "energy", "kin8nm", "power", "protein", "yacht"
_LEAST_VALUES = 10  # of a column that is drawn


class Measured(NamedTuple):
    """What is found on one set.

    Attributes:
        name: of the set.
        rows: of the fit.
        ratios: of the total variation of each quantile, default over networks alone.
        nll: of the default and of networks alone, nats.
        error: standard error of the difference of the two.
    """

    name: str
    rows: int
    ratios: Floats
    nll: tuple[float, float]
    error: float


def roughness(model: MDNRegressor, X: Floats, points: int = POINTS) -> Floats:
    """Returns the total variation of each of the ``LEVELS`` over the range of X, (L,), y's unit."""
    grid = np.linspace(X.min(), X.max(), points)[:, None]
    return np.abs(np.diff(model.predict_quantiles(grid, LEVELS), axis=0)).sum(0)


def _folder() -> Path:
    return Path(os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data")


def _classic(name: str, x: str, y: str) -> Pairs:
    with gzip.open(_folder() / "classic" / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        rows = [(float(row[x]), float(row[y])) for row in csv.DictReader(file)]
    found = np.array(rows)
    return found[:, :1], found[:, 1]


def _old_faithful() -> Pairs:
    data = load_old_faithful()
    return data.X, data.y


def _uci(name: str) -> Pairs:
    data = load_uci(name, _folder())
    many = [i for i, column in enumerate(data.X.T) if len(np.unique(column)) >= _LEAST_VALUES]
    column = np.random.default_rng(0).choice(many)
    return data.X[:, [column]], data.y


def _sine() -> Pairs:
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 10, (SIMULATED, 1))
    return X, np.sin(X[:, 0]) + (0.2 + 0.05 * X[:, 0]) * rng.normal(size=SIMULATED)


def _steps() -> Pairs:
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 10, (SIMULATED, 1))
    level = np.array([0.0, 2.0, -1.0, 1.0])[np.floor(X[:, 0] / 2.5).astype(int)]
    return X, level + 0.1 * rng.normal(size=SIMULATED)


SETS: dict[str, Callable[[], Pairs]] = {
    "old-faithful": _old_faithful,
    "motorcycle": partial(_classic, "mcycle", "times", "accel"),
    "lidar": partial(_classic, "lidar", "range", "logratio"),
    "engel": partial(_classic, "engel", "income", "foodexp"),
    "speed-flow": partial(_classic, "speedflow_lane2", "flow", "speed"),
    "temperature": partial(_classic, "melbourne_maxtemp", "today", "tomorrow"),
    "bmi": partial(_classic, "dbbmi", "age", "bmi"),
    "econ": partial(EconDensity().sample, SIMULATED, 0),
    "arma-jump": partial(ArmaJump().sample, SIMULATED, 0),
    "skew-normal": partial(SkewNormal().sample, SIMULATED, 0),
    "sine": _sine,
    "steps": _steps,
    **{name: partial(_uci, name) for name in UCI},
}


def measure(name: str, preset: str = "default", rows: int = ROWS, seed: int = 0) -> Measured:
    """Fits the default and networks alone to a set, and compares them."""
    warnings.simplefilter("ignore")
    X, y = SETS[name]()
    order = np.random.default_rng(seed).permutation(len(y))
    count = int(len(y) * TEST_SHARE)
    test, train = order[:count][:rows], order[count:][:rows]
    variation, nll = [], []
    for trees in (True, False):
        model = MDNRegressor(preset=preset, trees=trees, random_state=seed)
        model.fit(X[train], y[train])
        variation.append(roughness(model, X[train]))
        nll.append(-model.log_prob(X[test], y[test]))
    difference = nll[0] - nll[1]
    error = float(difference.std(ddof=1) / np.sqrt(len(test)))
    means = float(nll[0].mean()), float(nll[1].mean())
    return Measured(name, len(train), variation[0] / variation[1], means, error)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each set; returns 1 if a ratio is above the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roughness",
        description="Compare the roughness of p(y|x) over one column with that of networks alone.",
    )
    add = parser.add_argument
    add("--sets", default=",".join(SETS), help=f"some of {', '.join(SETS)}; all by default")
    add("--preset", choices=("default", "fast"), default="default")
    add("--rows", type=int, default=ROWS, help="rows of a fit, at most")
    add("--seed", type=int, default=0, help="of the held-out rows and of the fits")
    add("--jobs", type=int, default=1, help="sets that are fitted at the same time")
    args = parser.parse_args(argv)
    names = [name for name in args.sets.split(",") if name]
    unknown = [name for name in names if name not in SETS]
    if unknown:
        parser.error(f"--sets must be some of {', '.join(SETS)}; got {unknown[0]!r}")
    task = partial(measure, preset=args.preset, rows=args.rows, seed=args.seed)
    print(f"{'':14}{'rows':>6}{'5 %':>8}{'50 %':>8}{'95 %':>8}{'NLL':>10}{'networks':>10}{'+-':>7}")
    above = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for found in map(task, names) if args.jobs == 1 else pool.map(task, names):
            ratios = "".join(f"{ratio:8.2f}" for ratio in found.ratios)
            nll = "".join(f"{each:10.3f}" for each in found.nll)
            print(f"{found.name:14}{found.rows:6}{ratios}{nll}{found.error:7.3f}", flush=True)
            above += [found.name] if found.ratios.max() > GOAL else []
    print(f"above {GOAL}: {', '.join(above) or 'none'}")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())

"""Many small tables of every nature: no fit may break, and intervals must cover what they say.

Run from the root of the repository::

    python -m benchmarks.soak [--sets 300] [--first 0] [--preset default] [--only heaps] [--jobs 2]
                              [--verbose]

A set is made from its seed: 5 to 3000 rows, 1 to 60 columns, a function of some of them, a kind of
noise, and up to three faults that real tables have (``FAULTS``).  The default model is fitted
without any choice and scored on 1000 fresh rows without faults in y.  Counted are fits that raise,
densities that are not finite, 90 % intervals that cover less than 0.8 or more than 0.98, and
warnings that name nothing a user can act on.  The exit status is 1 if a fit breaks or fewer than
95 % of the sets are covered as they should be.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

import mdn

__all__ = ["FAULTS", "NOISES", "Outcome", "Table", "main", "make", "tried"]

FRESH = 1000  # rows of the score
ROWS, COLUMNS = (5, 3000), (1, 60)
LEVEL, LOW, HIGH, GOAL = 0.9, 0.8, 0.98, 0.95

Generator = np.random.Generator


@dataclass
class Table:
    """A training table and fresh rows of the same law."""

    X: pd.DataFrame
    y: np.ndarray
    fresh_X: pd.DataFrame
    fresh_y: np.ndarray
    noise: str
    faults: tuple[str, ...]


@dataclass
class Outcome:
    """What one fit came to."""

    seed: int
    n: int
    columns: int
    noise: str
    faults: tuple[str, ...]
    nll: float = np.nan  # in nats, y in standard deviations of the training rows
    marginal: float = np.nan  # the same of a Gaussian with the mean and deviation of the training y
    coverage: float = np.nan
    seconds: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether the fit raised or a density is not finite."""
        return bool(self.error) or not np.isfinite(self.nll)

    @property
    def covers(self) -> bool:
        """Whether the coverage of the 90 % intervals is near what they say."""
        return LOW <= self.coverage <= HIGH


# -- the law --------------------------------------------------------------------------------------

# of the generator and the (N,) mean: noise of deviation about 1
NOISES: dict[str, Callable[[Generator, np.ndarray], np.ndarray]] = {
    "normal": lambda rng, m: rng.normal(size=m.shape),
    "heavy tails": lambda rng, m: rng.standard_t(2.5, size=m.shape) / 1.5,
    "skewed": lambda rng, m: rng.exponential(size=m.shape) - 1,
    "two branches": lambda rng, m: rng.normal(rng.choice([-1.0, 1.0], size=m.shape), 0.2),
    "width grows": lambda rng, m: np.exp(0.7 * np.tanh(m)) * rng.normal(size=m.shape),
    "uniform": lambda rng, m: rng.uniform(-1.7, 1.7, size=m.shape),
}


def make(seed: int) -> Table:
    """Makes the set of one seed."""
    rng = np.random.default_rng([seed, 18])
    n = round(np.exp(rng.uniform(*np.log(ROWS))))
    p = round(np.exp(rng.uniform(*np.log(COLUMNS))))
    noise = str(rng.choice(list(NOISES)))
    used = rng.permutation(p)[: rng.integers(0, min(p, 4) + 1)]
    slopes, speeds = rng.normal(size=len(used)), rng.uniform(0.5, 3, size=len(used))
    size = float(np.exp(rng.uniform(np.log(0.02), np.log(3))))  # of the noise

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        X = rng.normal(size=(count, p))
        mean = (np.sin(speeds * X[:, used]) + slopes * X[:, used]).sum(1)
        return X, mean + size * NOISES[noise](rng, mean)

    (X, y), (fresh_X, fresh_y) = rows(n), rows(FRESH)
    table = Table(_frame(X), y, _frame(fresh_X), fresh_y, noise, ())
    names = rng.permutation(list(FAULTS))[: rng.integers(0, 4)]
    table.faults = tuple(name for name in FAULTS if name in names)
    for name in table.faults:  # in their order: what is rounded has a step of its own size
        FAULTS[name](rng, table)
    return table


def _frame(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])


# -- faults of tables: each changes the table in place --------------------------------------------


def _both(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table.X, table.fresh_X


def _heap(rng: Generator, table: Table) -> None:
    """A tenth of y is rounded to one of few values."""
    for y in (table.y, table.fresh_y):
        rounded = rng.random(len(y)) < 0.1
        y[rounded] = np.round(y[rounded])


def _rounded(rng: Generator, table: Table) -> None:
    step = float(table.y.std() / rng.integers(3, 30)) or 1.0
    table.y, table.fresh_y = (step * np.round(y / step) for y in (table.y, table.fresh_y))


def _far_value(rng: Generator, table: Table) -> None:
    table.y[rng.integers(len(table.y))] = 1e4 * (table.y.std() or 1.0)


def _unit(rng: Generator, table: Table) -> None:
    """The deviation of y is 1e-8 of its size."""
    table.y, table.fresh_y = 1e8 + table.y, 1e8 + table.fresh_y


def _tiny(rng: Generator, table: Table) -> None:
    table.y, table.fresh_y = 1e-8 * table.y, 1e-8 * table.fresh_y


def _outliers(rng: Generator, table: Table) -> None:
    column = table.X.columns[rng.integers(table.X.shape[1])]
    rows = rng.random(len(table.X)) < 0.02
    table.X.loc[rows, column] = 10 ** rng.uniform(3, 7, size=rows.sum())


def _constant(rng: Generator, table: Table) -> None:
    for X in _both(table):
        X["constant"] = 3.0


def _copies(rng: Generator, table: Table) -> None:
    rows = rng.integers(len(table.y), size=2 * len(table.y))
    table.X, table.y = table.X.iloc[rows].reset_index(drop=True), table.y[rows]


def _categories(rng: Generator, table: Table) -> None:
    """A category that is nearly always the same, and one that the training rows lack."""
    for X, levels in ((table.X, 40), (table.fresh_X, 60)):
        level = np.minimum(rng.geometric(0.5, size=len(X)), levels)
        X["category"] = pd.Categorical([f"level {i}" for i in level])


def _names(rng: Generator, table: Table) -> None:
    """A text column with almost as many values as rows."""
    for X in _both(table):
        X["name"] = [f"item {i}" for i in rng.integers(2 * len(X), size=len(X))]


def _gaps(rng: Generator, table: Table) -> None:
    share = rng.uniform(0.05, 0.5)
    columns = table.X.columns[: 1 + table.X.shape[1] // 3]
    for X in _both(table):
        for column in columns:
            if X[column].dtype.kind == "f":
                X.loc[rng.random(len(X)) < share, column] = np.nan


def _empty(rng: Generator, table: Table) -> None:
    for X in _both(table):
        X["empty"] = np.nan


def _equal_columns(rng: Generator, table: Table) -> None:
    for X in _both(table):
        X["again"] = X.iloc[:, 0]


def _flags(rng: Generator, table: Table) -> None:
    for X in _both(table):
        X["flag"] = rng.random(len(X)) < 0.03


FAULTS: dict[str, Callable[[Generator, Table], None]] = {
    "heap": _heap,
    "rounded": _rounded,
    "one far y": _far_value,
    "y at 1e8": _unit,
    "y of 1e-8": _tiny,
    "outliers": _outliers,
    "constant column": _constant,
    "copies": _copies,
    "unbalanced category": _categories,
    "names": _names,
    "gaps": _gaps,
    "empty column": _empty,
    "equal columns": _equal_columns,
    "rare flag": _flags,
}


# -- the fits -------------------------------------------------------------------------------------


def tried(seed: int, preset: str) -> Outcome:
    """Fits one set and scores it."""
    table = make(seed)
    found = Outcome(seed, len(table.y), table.X.shape[1], table.noise, table.faults)
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = mdn.MDNRegressor(preset=preset, random_state=seed, n_jobs=1)
            model.fit(table.X, table.y)
            found.seconds = time.process_time() - begin
            low, high = model.predict_interval(table.fresh_X, LEVEL).T
            unit = float(table.y.std()) or 1.0
            found.nll = float(-model.log_prob(table.fresh_X, table.fresh_y).mean() - np.log(unit))
        except Exception as error:  # counted, with its text
            found.error = f"{type(error).__name__}: {error}"
            return found
    found.marginal = float(
        0.5 * np.log(2 * np.pi) + 0.5 * (((table.fresh_y - table.y.mean()) / unit) ** 2).mean()
    )
    found.coverage = float(((table.fresh_y >= low) & (table.fresh_y <= high)).mean())
    found.notes = tuple(f"{w.category.__name__}: {w.message}" for w in caught)
    return found


def main(argv: list[str] | None = None) -> int:
    """Prints what was found; returns 1 if a goal is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Fit many small tables of every nature."
    )
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="first seed (0)")
    parser.add_argument("--preset", choices=("default", "fast"), default="default")
    parser.add_argument("--only", help="sets with a fault or noise whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--verbose", action="store_true", help="a line for every set")
    args = parser.parse_args(argv)
    seeds = range(args.first, args.first + args.sets)
    if args.only:
        made = ((s, make(s)) for s in seeds)
        seeds = [s for s, t in made if any(args.only in f for f in (*t.faults, t.noise))]
    found = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for outcome in pool.map(tried, seeds, [args.preset] * len(seeds)):
            found.append(outcome)
            if args.verbose or outcome.broken or not outcome.covers:
                print(line(outcome), flush=True)
    broken = sum(o.broken for o in found)
    covered = sum(o.covers for o in found)
    better = sum(o.nll < o.marginal + 0.02 for o in found)
    foreign: dict[str, int] = {}
    for note in {(o.seed, n) for o in found for n in o.notes if not n.startswith("DataWarning")}:
        text = note[1][:120]
        foreign[text] = foreign.get(text, 0) + 1
    n = len(found)
    print(f"{n} sets, preset {args.preset!r}, {sum(o.seconds for o in found):.0f} s of fits")
    print(f"broken: {broken}; 90 % intervals cover {LOW} to {HIGH}: {covered} ({covered / n:.1%})")
    print(f"no worse than one Gaussian for all rows: {better} ({better / n:.1%})")
    print(f"mean NLL in standard deviations of y: {np.mean([o.nll for o in found]):.3f}")
    for text, count in sorted(foreign.items()):
        print(f"{count} x {text}")
    return int(broken > 0 or covered < GOAL * n)


def line(o: Outcome) -> str:
    """One set as text."""
    what = ", ".join((o.noise, *o.faults))
    scores = f"NLL {o.nll:.2f} (one Gaussian {o.marginal:.2f}), covers {o.coverage:.3f}"
    return f"seed {o.seed}: {o.n} x {o.columns}, {what}: {o.error or scores}"


if __name__ == "__main__":
    sys.exit(main())

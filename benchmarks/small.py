"""Predictive quality where rows are few, beside the baselines that are hard to beat there.

Run from the root of the repository::

    python -m benchmarks.small [--sets a,b] [--rows 50,200] [--draws 10] [--scored 0]
                               [--preset default|fast|both] [--subjects]

Each draw takes so many rows of a UCI set at random and scores all others: mean NLL in nats in y's
unit, over the draws.  The baselines are Bayesian ridge regression with a Gaussian, ridge regression
with a Student-t density of its residuals, scikit-learn's Gaussian process with the kernel RBF +
linear + noise, and the Gaussian of y alone; X is standardised for them.

``--subjects`` adds a simulation of repeated measurements (:func:`subjects`): random rows held out,
beside a kernel mixture over the leaves of 200 randomised trees, and whole subjects held out with
``groups=``.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge, RidgeCV
from sklearn.model_selection import cross_val_predict

from benchmarks.uci._run import ROOT
from mdn import MDNRegressor
from mdn.datasets import DATA_VARIABLE, load_uci

__all__ = ["BASELINES", "SETS", "main", "score", "subjects"]

Floats = NDArray[np.float64]
LogProb = Callable[[Floats, Floats], Floats]  # of X and y, in standard units

SETS = ("concrete", "power", "kin8nm", "boston", "energy", "yacht")
ROWS = (50, 200)
DRAWS = 10
TREES = 200
WIDTHS = 0.001, 0.6  # of the forest's kernels: sd of y, and sd over the leaves of a row


def ridge(x: Floats, y: Floats) -> LogProb:
    model = BayesianRidge().fit(x, y)

    def log_prob(x: Floats, y: Floats) -> Floats:
        mean, sd = model.predict(x, return_std=True)
        return stats.norm(mean, sd).logpdf(y)

    return log_prob


def ridge_t(x: Floats, y: Floats) -> LogProb:
    model = RidgeCV(np.logspace(-3, 4, 30))
    residuals = y - cross_val_predict(model, x, y, cv=10)
    law, model = stats.t(*stats.t.fit(residuals)), model.fit(x, y)
    return lambda x, y: law.logpdf(y - model.predict(x))


def process(x: Floats, y: Floats) -> LogProb:
    kernel = ConstantKernel() * RBF(np.ones(x.shape[1])) + DotProduct() + WhiteKernel()
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x, y)

    def log_prob(x: Floats, y: Floats) -> Floats:
        mean, sd = model.predict(x, return_std=True)
        return stats.norm(mean, sd.clip(1e-3)).logpdf(y)

    return log_prob


def marginal(x: Floats, y: Floats) -> LogProb:
    law = stats.norm(y.mean(), y.std(ddof=1))
    return lambda x, y: law.logpdf(y)


BASELINES = {"ridge": ridge, "ridge t": ridge_t, "process": process, "marginal": marginal}


def score(
    x: Floats, y: Floats, rows: NDArray[np.intp], scored: NDArray[np.intp], presets: Sequence[str]
) -> dict[str, float]:
    """Returns the mean NLL of each method, fitted to some rows, on others."""
    found = {}
    for preset in presets:
        model = MDNRegressor(preset=preset, random_state=0).fit(x[rows], y[rows])
        found[preset] = model.nll(x[scored], y[scored])
    centre, unit = x[rows].mean(0), x[rows].std(0)
    z = (x - centre) / np.where(unit > 0, unit, 1.0)
    shift, scale = y[rows].mean(), y[rows].std()
    u = (y - shift) / scale
    for name, fit in BASELINES.items():
        log_prob = fit(z[rows], u[rows])(z[scored], u[scored])
        found[name] = float(np.log(scale) - log_prob.mean())
    return found


def subjects(
    seed: int, n_subjects: int = 40, visits: int = 25, recordings: int = 5
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Draws repeated measurements: X, y and the subject of each row.

    y = a_s + b_s t + 0.3 sin(2 t + c_s) + 0.02 noise at a visit at time t, whose recordings share
    it.  X holds t, two constants that some subjects share, as age and sex, and 16 noisy readings
    that depend weakly on the subject and on t.
    """
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n_subjects), visits * recordings)
    t = np.repeat(rng.uniform(0, 6, n_subjects * visits), recordings)
    noise = np.repeat(0.02 * rng.normal(size=n_subjects * visits), recordings)
    a, b = rng.normal(size=n_subjects), 0.2 * rng.normal(size=n_subjects)
    c = rng.uniform(0, 2 * np.pi, n_subjects)
    constants = np.stack([rng.integers(40, 80, n_subjects), rng.integers(0, 2, n_subjects)], 1)
    loads = 0.3 * rng.normal(size=(2, 16))
    readings = np.stack([a[subject], t / 6 - 0.5], 1) @ loads + rng.normal(size=(len(t), 16))
    y = a[subject] + b[subject] * t + 0.3 * np.sin(2 * t + c[subject]) + noise
    return np.column_stack([t, constants[subject], readings]), y, subject


def forest(x: Floats, y: Floats, new: Floats, target: Floats) -> float:
    """Returns the NLL of a kernel mixture over the leaves of randomised trees."""
    model = ExtraTreesRegressor(TREES, random_state=0).fit(x, y)
    centres = np.stack([tree.predict(new) for tree in model.estimators_], 1)
    widths = WIDTHS[0] * y.std() + WIDTHS[1] * centres.std(1, keepdims=True)
    density = stats.norm(centres, widths).pdf(target[:, None]).mean(1)
    return float(-np.log(density.clip(1e-300)).mean())


def _subjects(presets: Sequence[str]) -> None:
    x, y, subject = subjects(0)
    rows = np.random.default_rng(0).permutation(len(y))
    train, test = rows[len(y) // 5 :], rows[: len(y) // 5]
    print(f"subjects, random rows: forest {forest(x[train], y[train], x[test], y[test]):.3f}")
    unseen = subject >= 32
    for preset in presets:
        for name, groups, fit, new in (
            ("random rows", None, train, test),
            ("unseen subjects, groups=", subject, ~unseen, unseen),
        ):
            given = None if groups is None else groups[fit]
            model = MDNRegressor(preset=preset, random_state=0).fit(x[fit], y[fit], groups=given)
            low, high = model.predict_interval(x[new]).T
            inside = float(((low <= y[new]) & (y[new] <= high)).mean())
            nll = model.nll(x[new], y[new])
            print(f"subjects, {name}: {preset} {nll:.3f}, 90 % intervals cover {inside:.3f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each draw and the means; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.small", description="Score fits to few rows of the UCI sets."
    )
    add = parser.add_argument
    add("--sets", default=",".join(SETS), help=f"some of {', '.join(SETS)}; all by default")
    add("--rows", default=",".join(map(str, ROWS)), help="numbers of rows of a fit")
    add("--draws", type=int, default=DRAWS, help="draws of each")
    add("--first", type=int, default=0, help="number of the first draw")
    add("--scored", type=int, default=0, help="rows that are scored at most; 0 for all others")
    add("--preset", choices=("default", "fast", "both"), default="both")
    add("--subjects", action="store_true", help="the simulation of repeated measurements too")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    presets = ("default", "fast") if args.preset == "both" else (args.preset,)
    folder = os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data"
    names = [*presets, *BASELINES]
    print(f"{'':18}" + "".join(f"{name:>10}" for name in names))
    behind = []
    for n in [int(a) for a in args.rows.split(",") if a]:
        for name in [a for a in args.sets.split(",") if a]:
            data = load_uci(name, folder)
            found = []
            for draw in range(args.first, args.first + args.draws):
                order = np.random.default_rng(draw).permutation(len(data.y))
                scored = order[n : n + args.scored] if args.scored else order[n:]
                found.append(score(data.X, data.y, order[:n], scored, presets))
            means = [float(np.mean([each[key] for each in found])) for key in names]
            print(f"{name + f', n = {n}':18}" + "".join(f"{a:>10.3f}" for a in means), flush=True)
            behind.append([a - min(means[len(presets) :]) for a in means[: len(presets)]])
    for preset, each in zip(presets, np.array(behind).T if behind else (), strict=False):
        print(f"{preset}: {each.mean():+.3f} against the best baseline, at worst {each.max():+.3f}")
    if args.subjects:
        _subjects(presets)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

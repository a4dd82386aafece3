r"""MDNRegressor with its defaults compared with boosted trees on the UCI regression sets, by rank.

The full version reads the results of `python -m benchmarks.uci` (every method is fitted to the
training rows of each standard split and scored on its test rows) from
`benchmarks/results/uci.json`, so it takes seconds; that command takes hours. The small version fits
all methods itself, to the diabetes data of scikit-learn.

The rank of a method on a set is its mean rank over the splits. The line in the figure is the
critical difference: mean ranks of k methods over N sets that differ by less than

$$
\mathrm{CD} = q_\alpha \sqrt{\frac{k (k + 1)}{6 N}}
$$

are not significantly different at the level of 5 % by the test of Nemenyi (J. Demšar, Statistical
comparisons of classifiers over multiple data sets, J. Mach. Learn. Res. 7, 2006, section 3.2.2).
The NLL of wine quality, an integer with six values, is that of the rounding cell.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from scipy import stats

from mdn import MDNRegressor, scoring

from ._density import SMALL, gaussian
from ._palette import BLUE, ORANGE, SKY_BLUE, VERMILLION

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 0.1
DATA = "none; the results of benchmarks.uci are in the repository"

STORED = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "uci.json"
NAMES = {
    "mdn": "MDNRegressor()",
    "mdn fast": 'MDNRegressor(preset="fast")',
    "ngboost": "NGBoost",
    "catboost": "CatBoost",
    "constant": "least squares, constant width",
}
SCORES = {"nll": "NLL", "crps": "CRPS"}
LEVEL = 0.05
MARKERS = {"mdn": "o", "mdn fast": "D", "ngboost": "s", "catboost": "^", "constant": "v"}
COLOURS = {
    "mdn": BLUE,
    "mdn fast": SKY_BLUE,
    "ngboost": VERMILLION,
    "catboost": ORANGE,
    "constant": "#555555",
}

Records = list[dict[str, Any]]


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Computes mean scores and ranks; draws ranks.png and sets.png."""
    if fast:
        records, source = _small(seed, progress), "small models, fitted in this run"
    else:
        if not STORED.exists():
            raise FileNotFoundError(f"{STORED} is missing; run python -m benchmarks.uci first")
        stored = json.loads(STORED.read_text(encoding="utf-8"))
        records, source = stored["records"], "benchmarks/results/uci.json"
    numbers = {"source": source, **_compared(records)}
    if out is not None:
        _draw_ranks(numbers).savefig(out / "ranks.png", dpi=110)
        _draw_sets(numbers).savefig(out / "sets.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the ranks, and the mean of each score on each set, in Markdown."""
    methods, sets = numbers["methods"], numbers["sets"]
    first = "mdn"
    lines = [
        f"Means over {min(s['splits'] for s in sets.values())} to "
        f"{max(s['splits'] for s in sets.values())} splits of {len(sets)} "
        f"set{'s' * (len(sets) > 1)} ({numbers['source']}) with results of all {len(methods)} "
        "methods. Lower is better.",
    ]
    for score, title in SCORES.items():
        lines += ["", "| " + title + " | splits | " + " | ".join(NAMES[m] for m in methods) + " |"]
        lines.append("|---" * (len(methods) + 2) + "|")
        for name, result in sets.items():
            cells = [f"{result[score][m]['mean']:.4g}" for m in methods]
            best = min(methods, key=lambda m: result[score][m]["mean"])
            cells[methods.index(best)] = f"**{cells[methods.index(best)]}**"
            lines.append(f"| {name} | {result['splits']} | " + " | ".join(cells) + " |")
        ranks = numbers["ranks"][score]
        lines.append("| mean rank | | " + " | ".join(f"{ranks[m]:.2f}" for m in methods) + " |")
    wins = [
        sum(
            all(result[s][first]["mean"] < result[s][m]["mean"] for s in SCORES)
            for result in sets.values()
        )
        for m in methods
    ]
    rivals = [m for m in methods if not m.startswith("mdn")]
    lines += [
        "",
        *(
            f"- {NAMES[first]} has a lower mean NLL and a lower mean CRPS than {NAMES[m]} on "
            f"{wins[methods.index(m)]} of {len(sets)} sets."
            for m in rivals
        ),
        f"- With {len(sets)} set{'s' * (len(sets) > 1)} mean ranks that differ by less than "
        f"{numbers['critical_difference']:.2f} are not significantly different at the level of "
        f"{LEVEL:.0%}; Friedman's test of the ranks by NLL has p = {numbers['friedman_p']}.",
    ]
    return "\n".join(lines)


def _compared(records: Records) -> dict[str, Any]:
    """Returns means, standard errors and ranks over the splits with results of every method."""
    cells: dict[str, dict[int, dict[str, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["method"] in NAMES:
            cells[record["set"]][record["split"]][record["method"]] = record
    present = {m for rows in cells.values() for row in rows.values() for m in row}
    methods = [m for m in NAMES if m in present]
    sets: dict[str, Any] = {}
    ranks: dict[str, list[list[float]]] = {score: [] for score in SCORES}
    for name in sorted(cells):
        rows = [row for row in cells[name].values() if len(row) == len(methods)]
        if not rows:
            continue
        sets[name] = {"splits": len(rows)}
        for score in SCORES:
            table = np.array([[row[m][score] for m in methods] for row in rows])  # (S, k)
            paired = table - table[:, :1]
            sets[name][score] = {
                m: {
                    "mean": float(table[:, i].mean()),
                    "worse_than_mdn": float(paired[:, i].mean()),
                    "error": float(paired[:, i].std(ddof=1) / math.sqrt(len(rows)))
                    if len(rows) > 1
                    else 0.0,
                }
                for i, m in enumerate(methods)
            }
            ranks[score].append(stats.rankdata(table, axis=1).mean(0).tolist())
    if not sets:
        raise ValueError("no set has results of every method")
    k, n = len(methods), len(sets)
    nemenyi = float(stats.studentized_range.isf(LEVEL, k, np.inf)) / math.sqrt(2)
    friedman = "not defined (fewer than 3 sets)"
    if n > 2 and k > 2:
        friedman = f"{stats.friedmanchisquare(*np.array(ranks['nll']).T).pvalue:.2g}"
    return {
        "methods": methods,
        "sets": sets,
        "ranks": {
            s: dict(zip(methods, np.mean(rows, 0).tolist(), strict=True))
            for s, rows in ranks.items()
        },
        "critical_difference": nemenyi * math.sqrt(k * (k + 1) / (6 * n)),
        "friedman_p": friedman,
    }


def _small(seed: int, progress: Callable[[str], None]) -> Records:
    """Fits small models to two splits of the diabetes data; returns their scores."""
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import LinearRegression

    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(seed)
    records: Records = []
    for split in range(2):
        progress(f"split {split + 1} of 2")
        order = rng.permutation(len(y))
        train, test = order[:350], order[350:]
        jitter = rng.uniform(-0.5, 0.5, len(y))  # y is rounded to whole numbers
        target = y + jitter
        line = LinearRegression().fit(X[train], target[train])
        residual = target[train] - line.predict(X[train])
        loc = torch.as_tensor(line.predict(X[test]))[:, None]
        constant = gaussian(loc, torch.full_like(loc, residual.std(ddof=X.shape[1] + 1)))
        predictions: dict[str, Any] = {"constant": constant}
        for name, epochs in (("mdn", 30), ("mdn fast", 10)):
            options = {**SMALL, "ensemble_size": 2, "max_epochs": epochs}
            model = MDNRegressor(2, random_state=seed, **options)
            begin = time.monotonic()
            model.fit(X[train], target[train])
            progress(f"split {split + 1}: {NAMES[name]} took {time.monotonic() - begin:.1f} s")
            predictions[name] = model.predict_distribution(X[test])
        for method, dist in predictions.items():
            summary = scoring.summary(dist, target[test, None])
            records.append(
                {
                    "set": "diabetes",
                    "split": split,
                    "method": method,
                    "nll": summary["nll"].mean,
                    "crps": summary["crps"].mean,
                }
            )
    return records


def _draw_ranks(numbers: dict[str, Any]) -> Figure:
    """Draws mean ranks on a line for each score, with the critical difference as a bar."""
    methods = numbers["methods"]
    figure = Figure(figsize=(8, 1.2 + 1.9 * len(SCORES)), layout="constrained")
    for ax, (score, title) in zip(
        np.atleast_1d(figure.subplots(len(SCORES), 1)), SCORES.items(), strict=True
    ):
        for i, m in enumerate(sorted(methods, key=lambda m: numbers["ranks"][score][m])):
            rank = numbers["ranks"][score][m]
            ax.plot(rank, 0, MARKERS[m], color=COLOURS[m], ms=9, clip_on=False)
            side = 1 if i % 2 else -1  # the names alternate between the two sides
            ax.annotate(
                f"{NAMES[m]}\n{rank:.2f}",
                (rank, 0),
                (rank, 0.6 * side),
                ha="center",
                va="bottom" if side > 0 else "top",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.8},
            )
        size = numbers["critical_difference"]
        ax.plot([1, 1 + size], [2.0, 2.0], color="k", lw=3, solid_capstyle="butt")
        ax.text(1, 2.15, f"critical difference {size:.2f}", fontsize=8, ha="left", va="bottom")
        ax.axhline(0, color="0.7", lw=1, zorder=0)
        ax.set_xlim(0.5, max(len(methods), 1 + size) + 0.5)
        ax.set_ylim(-2.0, 2.9)
        ax.set_yticks([])
        ax.set_xticks(range(1, len(methods) + 1))
        ax.spines[["left", "right", "top"]].set_visible(False)
        ax.set_xlabel(f"mean rank by {title} over {len(numbers['sets'])} sets (1 is best)")
    return figure


def _draw_sets(numbers: dict[str, Any]) -> Figure:
    """Draws the difference between each method and the default MDNRegressor, on each set."""
    methods = [m for m in numbers["methods"] if m != "mdn"]
    names = list(numbers["sets"])
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, score in zip(axes, SCORES, strict=True):
        same = float(score != "nll")  # the CRPS as a ratio: its unit differs from set to set
        for j, m in enumerate(methods):
            results = [numbers["sets"][name][score] for name in names]
            base = [abs(r["mdn"]["mean"]) if same else 1.0 for r in results]
            value = [same + r[m]["worse_than_mdn"] / b for r, b in zip(results, base, strict=True)]
            error = [2 * r[m]["error"] / b for r, b in zip(results, base, strict=True)]
            place = np.arange(len(names)) + 0.18 * (j - 0.5 * (len(methods) - 1))
            ax.errorbar(
                value,
                place,
                xerr=error,
                fmt=MARKERS[m],
                color=COLOURS[m],
                ms=5,
                lw=1,
                label=NAMES[m],
            )
        ax.axvline(same, color="k", lw=1)
        ax.set_yticks(range(len(names)), names)
        ax.grid(axis="x", color="0.9")
    axes[0].set_xlabel("NLL minus that of MDNRegressor(), nats per row")
    axes[1].set_xlabel("CRPS divided by that of MDNRegressor()")
    if axes[1].get_xlim()[1] > 5:
        axes[1].set_xscale("log")
        axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes[1].xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the first set on top; the axes share this limit
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False)
    figure.supxlabel("bars: two standard errors of the paired difference", fontsize=8)
    return figure

"""The tables, in Markdown that is also readable on a terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mdn.datasets import UCI_SETS

from ._methods import FAST, OURS, RIVALS
from ._run import INTEGER, Record

__all__ = ["GOALS", "PUBLISHED", "Moments", "moments", "paired", "report"]


class Published(NamedTuple):
    """The lowest mean test NLL found in papers and repositories, each with its method."""

    gaussian: tuple[float, str]
    flexible: tuple[float, str] | None


# Collected by hand; "submission" means the version under review.
PUBLISHED = {
    "boston": Published((2.32, "CARD, submission"), None),
    "concrete": Published((2.83, "WGBoost"), (2.21, "TabPFN v2")),
    "energy": Published((0.26, "XGBoost + Gaussian"), (0.15, "TabPFN v2")),
    "kin8nm": Published((-1.31, "CARD, submission"), (-1.29, "TabResFlow")),
    "naval": Published((-9.35, "SVGP"), (-7.33, "TabPFN v2")),
    "power": Published((2.54, "XGBoost + Gaussian"), (2.28, "TabPFN v2")),
    "protein": Published((2.47, "CARD, submission"), (1.73, "TabPFN v2, 4 of 5 splits")),
    "wine_red": Published((0.84, "XGBoost + Gaussian"), (-2.72, "TabPFN v2")),
    "yacht": Published((0.16, "WGBoost"), (-0.73, "TabPFN v2")),
}
# Upper bounds of the mean NLL; that of wine_red is of the rounding cell.
GOALS = {
    "boston": 2.15,
    "concrete": 2.21,
    "energy": 0.0,
    "kin8nm": -1.33,
    "naval": -7.4,
    "power": 2.28,
    "protein": 1.65,
    "wine_red": 0.84,
    "yacht": -0.85,
}
COVERAGE_GOAL = (0.88, 0.92)  # range of the mean coverage of 90 % intervals over the sets
SECONDS_GOAL = ((1_000, 10_000, 45_000), (30.0, 120.0, 360.0))  # rows; of a fit on two cores
FAST_GOAL = (0.15, 0.1)  # largest mean difference of the NLL, nats; ratio of the times
MOST_DIGITS = 8  # decimals: smaller values are rounding

Cells = Mapping[tuple[str, str], Mapping[int, Record]]  # (set, method) -> split -> record


class Moments(NamedTuple):
    """Mean and standard error over n splits; the error is NaN for one split."""

    mean: float
    error: float
    n: int


def moments(values: Sequence[float]) -> Moments:
    """Returns the mean, and the standard deviation (denominator n - 1) over the root of n."""
    n = len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return Moments(statistics.fmean(values), error, n)


def paired(a: Mapping[int, Record], b: Mapping[int, Record], score: str) -> list[float]:
    """Returns a - b for each split that both have."""
    both = sorted(set(_values(a, score)) & set(_values(b, score)))
    return [a[split][score] - b[split][score] for split in both]


def report(records: Iterable[Record], runs: Mapping[str, Record]) -> str:
    """Returns all tables and a summary.

    For each set and method only the records with the version and the settings of the newest run
    are used, so that no mean mixes two versions.
    """
    records = list(records)
    cells = _cells(records)
    sets = _ordered(UCI_SETS, (r["set"] for r in records))
    known = (OURS, FAST, *RIVALS)
    methods = _ordered(known, (r["method"] for r in records))
    parts = [
        "# UCI regression benchmark",
        "Mean ± standard error over the splits. The NLL is in nats per test row, by the density in "
        f"the unit of y; for {_and(sorted(INTEGER))}, whose target is an integer, it is that of "
        'the rounding cell for every method, and ours is fitted with `target="integer"`. Lower is '
        "better, except for the coverage, which should be 0.9. No choice was made on test rows.",
        *_nll(cells, sets, methods),
        *_differences(cells, sets, methods, "nll", "NLL"),
        *_plain(cells, sets, methods, "crps", "CRPS, in the unit of y"),
        *_differences(cells, sets, methods, "crps", "CRPS"),
        *_plain(cells, sets, methods, "rmse", "RMSE of the mean, in the unit of y"),
        *_coverage(cells, sets, methods),
        *_plain(cells, sets, methods, "pit_deviation", "Mean PIT deviation", digits=3),
        "0 is perfect calibration; the expectation of a perfect model on n test rows is about "
        "0.31 / sqrt(n).",
        *_seconds(cells, sets, methods),
        "## Summary",
        "\n".join(f"- {line}" for line in _summary(cells, sets, methods)),
        "## Runs",
        "\n".join(f"- {line}" for line in _provenance(cells, methods, runs)),
    ]
    failed = [r for r in records if "error" in r]
    if failed:
        lines = (f"- {r['set']}, split {r['split']}, {r['method']}: {r['error']}" for r in failed)
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


# --- tables -------------------------------------------------------------------------------------


def _nll(cells: Cells, sets: list[str], methods: list[str]) -> list[str]:
    head = ["set", "rows", "splits", *methods, "best Gaussian published", "best flexible published"]
    rows = []
    for name in sets:
        some = [r for method in methods for r in cells.get((name, method), {}).values()]
        n = max((len(cells.get((name, method), {})) for method in methods), default=0)
        published = PUBLISHED.get(name)
        rows.append(
            [
                name,
                f"{some[0]['n_train']} + {some[0]['n_test']}" if some else "",
                str(n),
                *(_cell(cells, name, method, "nll", 3, n) for method in methods),
                _quoted(published and published.gaussian),
                _quoted(published and published.flexible),
                f"< {GOALS[name]:g}" if name in GOALS else "",
                _reached(cells, name),
            ]
        )
    notes = [
        "Rows: training + test. A number in brackets is the number of splits if it is lower than "
        "in the column. Published: the lowest mean that was found; splits and protocol are not "
        "always the same. On wine_red the published values are of densities, whose NLL has no "
        "lower bound for integers, so they are not comparable."
    ]
    return ["## NLL", _table([*head, "goal", "reached by mdn"], rows), *notes]


def _differences(
    cells: Cells, sets: list[str], methods: list[str], score: str, title: str
) -> list[str]:
    pairs = [
        (mine, other)
        for mine in methods
        if mine in (OURS, FAST)
        for other in methods
        if other != mine and (mine, other) != (OURS, FAST)
        if any(paired(*_two(cells, name, mine, other), score) for name in sets)
    ]
    if not pairs:
        return []
    rows = []
    for name in sets:
        row = [name]
        for mine, other in pairs:
            differences = paired(*_two(cells, name, mine, other), score)
            wins = sum(a < 0 for a in differences)
            cell = f"{_pm(moments(differences))} ({wins}/{len(differences)})" if differences else ""
            row.append(cell)
        rows.append(row)
    head = ["set", *(f"{mine} - {other}" for mine, other in pairs)]
    return [
        f"## {title}, paired differences",
        _table(head, rows),
        "Negative: ours is better. In brackets: the number of splits on which it is better.",
    ]


def _plain(
    cells: Cells,
    sets: list[str],
    methods: list[str],
    score: str,
    title: str,
    *,
    digits: int | None = None,
    below: Sequence[Sequence[str]] = (),
) -> list[str]:
    rows = [[name, *(_cell(cells, name, m, score, digits) for m in methods)] for name in sets]
    return [f"## {title}", _table(["set", *methods], [*rows, *below])]


def _coverage(cells: Cells, sets: list[str], methods: list[str]) -> list[str]:
    below = []
    real = [name for name in sets if name not in INTEGER]
    for label, some in (("average", sets), ("average, real targets", real)):
        means = (_over_sets(cells, some, method, "coverage") for method in methods)
        below.append([label, *("" if mean is None else f"{mean:.3f}" for mean in means)])
    title = "Coverage of 90 % intervals"
    return [
        *_plain(cells, sets, methods, "coverage", title, digits=3, below=below),
        "For integer targets it is the share of the PIT between the two levels, where the PIT of a "
        "row is uniform between P(Y < y) and P(Y <= y): an interval that ends at integers has a "
        "coverage above its nominal one even if the distribution is right.",
    ]


def _seconds(cells: Cells, sets: list[str], methods: list[str]) -> list[str]:
    rows = []
    for name in sets:
        row = [name]
        n_train = 0
        for method in methods:
            found = list(cells.get((name, method), {}).values())
            if found:
                n_train = found[0]["n_train"]
                fit, predict = (
                    statistics.fmean(r[f"{what}_seconds"] for r in found)
                    for what in ("fit", "predict")
                )
                threads = "/".join(str(t) for t in sorted({r["threads"] for r in found}))
                row.append(f"{fit:.3g} + {predict:.2g} ({threads})")
            else:
                row.append("")
        rows.append([*row, f"{np.interp(n_train, *SECONDS_GOAL):.0f}" if n_train else ""])
    return [
        "## Seconds per split",
        _table(["set", *methods, "goal, 2 cores"], rows),
        "Fit + predict; in brackets the threads of the fit. Parallel jobs slow each other down.",
    ]


def _summary(cells: Cells, sets: list[str], methods: list[str]) -> list[str]:
    lines = []
    for mine in (OURS, FAST):
        if mine not in methods:
            continue
        means = {name: _mean(cells, name, mine, "nll") for name in sets if name in GOALS}
        judged = {name: mean for name, mean in means.items() if mean is not None}
        if not judged:
            continue
        missed = [
            f"{name} by {mean - GOALS[name]:.3f}"
            for name, mean in judged.items()
            if mean >= GOALS[name]
        ]
        text = f"{mine}: {len(judged) - len(missed)} of {len(judged)} NLL goals reached"
        lines.append(text + (f"; missed {_and(missed)}" if missed else ""))
        covered = _over_sets(cells, sets, mine, "coverage")
        if covered is not None:
            low, high = COVERAGE_GOAL
            verdict = "reached" if low <= covered <= high else "missed"
            lines.append(
                f"{mine}: 90 % intervals cover {covered:.3f} on average over {len(judged)} sets "
                f"(goal {low} to {high}: {verdict})"
            )
        for other in methods:
            if other in (OURS, FAST):
                continue
            verdicts = [
                text
                for score in ("nll", "crps")
                if (text := _against(cells, sets, mine, other, score))
            ]
            if verdicts:
                lines.append(f"{mine} against {other}: {_and(verdicts)}")
    lines += _fast(cells, sets)
    for method in methods:
        some = [r for (_, m), splits in cells.items() if m == method for r in splits.values()]
        if some:
            total = sum(r["fit_seconds"] + r["predict_seconds"] for r in some)
            lines.append(f"{method}: {total / 60:.1f} minutes in total for {len(some)} splits")
    return lines


def _against(cells: Cells, sets: list[str], mine: str, other: str, score: str) -> str:
    means = [moments(d).mean for n in sets if (d := paired(*_two(cells, n, mine, other), score))]
    if not means:
        return ""
    better = sum(m < 0 for m in means)
    return f"better in {score.upper()} on {better} of {len(means)} sets"


def _fast(cells: Cells, sets: list[str]) -> list[str]:
    worse, shares = [], []
    for name in sets:
        fast, full = _two(cells, name, FAST, OURS)
        if differences := paired(fast, full, "nll"):
            worse.append(moments(differences).mean)
            seconds = (statistics.fmean(r["fit_seconds"] for r in c.values()) for c in (fast, full))
            shares.append(next(seconds) / next(seconds))
    if not worse:
        return []
    nats, share = FAST_GOAL
    return [
        f"{FAST} against {OURS}: {statistics.fmean(worse):+.3f} nats on average over {len(worse)} "
        f"sets (goal at most {nats:+}), {statistics.geometric_mean(shares):.3f} of its time "
        f"(geometric mean; goal {share})"
    ]


def _provenance(cells: Cells, methods: list[str], runs: Mapping[str, Record]) -> list[str]:
    lines = []
    for method in methods:
        some = [(name, r) for (name, m), c in cells.items() if m == method for r in c.values()]
        for version in sorted({r["version"] for _, r in some}):
            of = [(name, r) for name, r in some if r["version"] == version]
            names = _ordered(UCI_SETS, (name for name, _ in of))
            lines.append(f"{method}: {version}, {of[0][1]['settings']} ({', '.join(names)})")
    used = {r["run"] for splits in cells.values() for r in splits.values()}
    for started in sorted(used):
        run = runs[started]
        note = f"; {run['note']}" if "note" in run else ""  # written by hand if one is needed
        lines.append(f"{started}, commit {run['commit']}: `{run['command']}`{note}")
    return lines


# --- inside -------------------------------------------------------------------------------------


def _cells(records: list[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    """Returns the records without error of the newest version of each set and method."""
    good = [r for r in records if "error" not in r]
    newest: dict[tuple[str, str], Record] = {}
    for r in sorted(good, key=lambda r: r["run"]):
        newest[r["set"], r["method"]] = r
    cells: dict[tuple[str, str], dict[int, Record]] = {}
    for r in good:
        last = newest[r["set"], r["method"]]
        if (r["version"], r["settings"]) == (last["version"], last["settings"]):
            cells.setdefault((r["set"], r["method"]), {})[r["split"]] = r
    return cells


def _values(splits: Mapping[int, Record], score: str) -> dict[int, float]:
    return {split: r[score] for split, r in splits.items() if r[score] is not None}


def _mean(cells: Cells, name: str, method: str, score: str) -> float | None:
    values = _values(cells.get((name, method), {}), score)
    return statistics.fmean(values.values()) if values else None


def _over_sets(cells: Cells, sets: list[str], method: str, score: str) -> float | None:
    means = [m for name in sets if (m := _mean(cells, name, method, score)) is not None]
    return statistics.fmean(means) if means else None


def _two(
    cells: Cells, name: str, a: str, b: str
) -> tuple[Mapping[int, Record], Mapping[int, Record]]:
    return cells.get((name, a), {}), cells.get((name, b), {})


def _cell(
    cells: Cells, name: str, method: str, score: str, digits: int | None = None, full: int = 0
) -> str:
    values = list(_values(cells.get((name, method), {}), score).values())
    if not values:
        return ""
    found = moments(values)
    fewer = f" [{found.n}]" if found.n < full else ""
    return _pm(found, digits) + fewer


def _pm(m: Moments, digits: int | None = None) -> str:
    """Returns mean ± error with this many decimals, or two significant digits of the error."""
    if digits is None and math.isnan(m.error):
        return f"{m.mean:.3g}"
    if digits is None:
        smaller = m.error or abs(m.mean) or 1.0
        digits = min(MOST_DIGITS, max(0, 1 - math.floor(math.log10(smaller))))
    error = "" if math.isnan(m.error) else f" ± {m.error:.{digits}f}"
    return f"{m.mean:.{digits}f}{error}"


def _reached(cells: Cells, name: str) -> str:
    mean = _mean(cells, name, OURS, "nll")
    if mean is None or name not in GOALS:
        return ""
    short = mean - GOALS[name]
    return "yes" if short < 0 else f"{short:.3f} short"


def _quoted(number: tuple[float, str] | None) -> str:
    return f"{number[0]:g} {number[1]}" if number else ""


def _ordered(known: Iterable[str], found: Iterable[str]) -> list[str]:
    there = set(found)
    first = [name for name in known if name in there]
    return [*first, *sorted(there - set(first))]


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with columns of constant width."""
    widths = [max(3, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]

    def pad(row: Sequence[str]) -> str:
        return "| " + " | ".join(a.ljust(w) for a, w in zip(row, widths, strict=True)) + " |"

    return "\n".join([pad(head), pad(["-" * w for w in widths]), *map(pad, rows)])

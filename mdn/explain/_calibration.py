"""Do the rows bear the density out: held-out against training loss, and calibration in nats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from ..calibration import hdr_values, pit_test
from ..scoring import randomized_pit
from ._components import subset
from ._evaluation import Rows

__all__ = ["calibration", "gap", "outliers"]

Floats = NDArray[np.float64]

_BINS = 10  # of the PIT
_GROUPS = 4  # of rows, by a feature or by the predicted spread
_MOST_FEATURES = 30
_MANY_DIMS_ROWS = 1000  # rows judged with several targets, where the PIT is from draws
_DRAWS = 4  # a row, for the loss that the model expects of itself
_SEED = 4_611_911_198_408_756_429
_WORST = 0.01  # share of the rows, at least one, that count as the worst
_LISTED = 5


def gap(rows: Rows, train: Rows) -> dict[str, float]:
    """Held-out minus training NLL with its standard error, and a test that rows are worse."""
    held, seen = rows.nll, train.nll
    found = {"train_nll": float(seen.mean()), "train_rows": float(len(seen))}
    with np.errstate(invalid="ignore"):
        found["gap"] = float(held.mean() - seen.mean())
        variance = sum(
            float(a.var(ddof=1)) / len(a) if len(a) > 1 else math.nan for a in (held, seen)
        )
    found["gap_standard_error"] = math.sqrt(variance) if variance >= 0 else math.nan
    # few rows that miss by far make the standard error as large as the gap; ranks do not mind them
    ranks = stats.mannwhitneyu(held, seen, alternative="greater")
    found["gap_p_value"] = float(ranks.pvalue)
    return found


def outliers(rows: Rows) -> dict[str, Any]:
    """Rows whose loss dominates."""
    nll = rows.nll
    order = np.argsort(-nll, kind="stable")
    count = max(1, math.ceil(_WORST * len(nll)))
    rest = nll[order[count:]]
    return {
        "worst_rows": [int(i) for i in order[:_LISTED]],
        "worst_nll": [float(nll[i]) for i in order[:_LISTED]],
        "median_nll": float(np.median(nll)),
        "worst_share_rows": count,
        "nll_without_worst": float(rest.mean()) if len(rest) else float(nll.mean()),
        "rows_without_density": [int(i) for i in np.flatnonzero(np.isposinf(nll))[:_LISTED]],
        "rows_without_density_count": int(np.isposinf(nll).sum()),
    }


@torch.no_grad()
def calibration(rows: Rows) -> dict[str, Any]:
    """PIT, and what miscalibration costs in nats a row, over all rows and by groups of them.

    The cost is the Kullback-Leibler divergence of the PIT's histogram from a flat one, less what
    chance makes of it: so many nats, or more, a map of the PIT would gain, the same for all x.
    Within groups of rows it also sees a wrong spread or mean that evens out over all of them.
    """
    if not rows.known:
        return {}
    index = subset(len(rows.nll))
    if not rows.line:
        index = index[np.unique(np.linspace(0, len(index) - 1, _MANY_DIMS_ROWS).astype(int))]
    at = torch.as_tensor(index)
    assert rows.y is not None
    dist, y = rows.dist[at], rows.y[at]
    u = (
        randomized_pit(dist, y).double().numpy()
        if rows.line
        else hdr_values(dist, y, n_samples=200)
    )
    u = u.clip(0.0, 1.0)
    n = len(u)
    found: dict[str, Any] = {"rows_judged": n}
    if n < 2 * _BINS:
        return found
    found["kind"] = "PIT" if rows.line else "HDR values"
    found["mean"], found["variance_times_12"] = float(u.mean()), float(12 * u.var())
    found["p_value"] = float(pit_test(u).anderson_darling.p_value)
    found["cost"], found["cost_p_value"] = _cost(u, [np.arange(n)])
    found["worst_cost"], found["worst_p_value"] = found["cost"], found["cost_p_value"]
    found["where"] = None
    features = _features(rows, dist, index)
    for name, column in features:
        groups = _groups(column)
        if len(groups) < 2 or n < 2 * _BINS * len(groups):
            continue
        cost, p = _cost(u, groups)
        p = min(1.0, p * len(features))
        if cost > found["worst_cost"] + 0.5 * (found["worst_cost"] if found["where"] else 0.0):
            found |= {"worst_cost": cost, "worst_p_value": p, "where": name}
    found |= _expected(rows, dist, index)
    return found


def _cost(u: Floats, groups: list[NDArray[np.intp]]) -> tuple[float, float]:
    """Nats a row, less what chance makes, and the p-value of the likelihood-ratio test."""
    total = 0.0
    for group in groups:
        counts = np.histogram(u[group], bins=_BINS, range=(0.0, 1.0))[0]
        filled = counts[counts > 0]
        total += float((filled * np.log(filled * _BINS / len(group))).sum())
    freedom = (_BINS - 1) * len(groups)
    return total / len(u) - freedom / (2 * len(u)), float(stats.chi2.sf(2 * total, freedom))


def _features(rows: Rows, dist: Any, index: NDArray[np.intp]) -> list[tuple[str, Floats]]:
    """Numbers to group rows by: the predicted spread, and the columns of X."""
    found = []
    if rows.line:
        spread = dist.interval(0.5).double().numpy()
        found.append(("the predicted spread", spread[:, 1] - spread[:, 0]))
    if rows.x is not None:
        columns = rows.x[index].T[:_MOST_FEATURES]
        names = rows.names or [f"column {i} of X" for i in range(len(columns))]
        found += list(zip(names, columns, strict=False))
    return [(name, a) for name, a in found if np.isfinite(a).all() and len(np.unique(a)) > 1]


def _groups(column: Floats) -> list[NDArray[np.intp]]:
    edges = np.quantile(column, np.linspace(0, 1, _GROUPS + 1)[1:-1])
    label = np.searchsorted(np.unique(edges), column, side="right")
    return [g for g in (np.flatnonzero(label == i) for i in range(_GROUPS)) if len(g)]


def _expected(rows: Rows, dist: Any, index: NDArray[np.intp]) -> dict[str, float]:
    """The NLL that the model expects, its mean entropy, from draws of its own."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = dist.sample((_DRAWS,), generator=generator)
    own = -dist.log_prob(drawn).double().numpy().mean(0)  # (n,)
    with np.errstate(invalid="ignore"):  # of rows with an infinite loss
        difference = rows.nll[index] - own
        error = float(difference.std(ddof=1) / math.sqrt(len(own)))
    return {
        "expected_nll": float(own.mean()),
        "above_expected": float(difference.mean()),
        "above_expected_standard_error": error,
    }

"""Held-out against training loss, rows that dominate the loss, and calibration in nats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from ..calibration import hdr_values, pit_test
from ..prediction import Floats
from ..scoring import randomized_pit
from ._evaluation import Evaluation, evenly_spaced

__all__ = ["calibration", "gap", "outliers"]

_MOST_ROWS = 4000  # rows that are judged
_MOST_ROWS_HDR = 1000  # rows judged with several targets, whose HDR values come from draws
_HDR_DRAWS = 200  # for each of them
_BINS = 10  # of the PIT
_GROUPS = 4  # of rows, by a feature or by the predicted spread
_MOST_FEATURES = 30
_DRAWS = 4  # per row, for the loss that the model expects
_SEED = 4_611_911_198_408_756_429
_WORST = 0.01  # share of the rows, at least one, that count as the worst
_LISTED = 5
_ROUNDING = 1e-4  # of probabilities in single precision
_NEAR_ONE = 0.98  # a network trained on them comes so close to 1


def gap(evaluation: Evaluation, train: Evaluation | None) -> dict[str, float]:
    """Returns by how much the NLL is above that of other rows, and its standard error.

    The other rows are those that the model held out in its own training, which it predicts as it
    does new ones; if it held out none, the training rows, with the p-value of a rank test.
    """
    found: dict[str, float] = {"of_regressor": evaluation.of_regressor}
    a = evaluation.nll
    with np.errstate(invalid="ignore"):  # infinite losses
        variance = float(a.var(ddof=1)) / len(a) if len(a) > 1 else math.nan
        if train is not None:
            b = train.nll
            found |= {"train_nll": float(b.mean()), "train_rows": float(len(b))}
        if evaluation.held_out_nll:
            reference, error, rows = evaluation.held_out_nll
            found |= {"held_out_nll": reference, "held_out_rows": rows}
            variance += error**2
        elif train is not None:
            reference = found["train_nll"]
            variance += float(b.var(ddof=1)) / len(b) if len(b) > 1 else math.nan
            # a few outliers make the standard error as large as the gap; ranks are robust to them
            ranks = stats.mannwhitneyu(a, b, alternative="greater")
            found["gap_p_value"] = float(ranks.pvalue)
        else:
            return found
        found["gap"] = float(a.mean() - reference)
    found["gap_standard_error"] = math.sqrt(variance) if variance >= 0 else math.nan
    return found


def outliers(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the rows whose loss dominates the mean."""
    nll = evaluation.nll
    order = np.argsort(-nll, kind="stable")
    count = max(1, math.ceil(_WORST * len(nll)))
    rest = nll[order[count:]]
    without_density = np.flatnonzero(np.isposinf(nll))
    return {
        "worst_rows": order[:_LISTED].tolist(),
        "worst_nll": nll[order[:_LISTED]].tolist(),
        "median_nll": float(np.median(nll)),
        "worst_share_rows": count,
        "nll_without_worst": float((rest if len(rest) else nll).mean()),
        "rows_without_density": without_density[:_LISTED].tolist(),
        "rows_without_density_count": len(without_density),
    }


def calibration(evaluation: Evaluation) -> dict[str, Any]:
    """Returns tests of the PIT, and the cost of miscalibration in nats per row, also by groups.

    Of classes: the mean probability of the likeliest one.

    The cost is the Kullback-Leibler divergence of the PIT's histogram from a uniform one, less its
    expectation under calibration: a lower bound of what recalibration by one map of the PIT would
    gain.  By groups of rows it also finds a wrong spread or mean that cancels over all rows.
    """
    if evaluation.is_categorical:
        return _confidence(evaluation)
    if not evaluation.is_mixture:
        return {}
    univariate = evaluation.is_univariate
    index = evenly_spaced(len(evaluation.nll), _MOST_ROWS)
    if not univariate:
        index = index[evenly_spaced(len(index), _MOST_ROWS_HDR)]
    assert evaluation.y is not None
    dist, y = evaluation.dist[torch.from_numpy(index)], evaluation.y[torch.from_numpy(index)]
    u = (
        randomized_pit(dist, y).double().numpy()
        if univariate
        else hdr_values(dist, y, n_samples=_HDR_DRAWS)
    ).clip(0.0, 1.0)
    if len(u) < 2 * _BINS:
        return {"rows_judged": len(u)}
    return {
        "rows_judged": len(u),
        "kind": "PIT" if univariate else "HDR values",
        "mean": float(u.mean()),
        "variance_times_12": float(12 * u.var()),
        "p_value": float(pit_test(u).anderson_darling.p_value),
        **_costs(u, _features(evaluation, dist, index)),
        **_expected_nll(evaluation, dist, index),
    }


def _confidence(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the mean probability of the likeliest class, beside how often it is right.

    ``logits_like_probabilities``: up to a constant for each row the logits have the range and the
    sum of probabilities, some close to 1, as those of a softmax that is applied twice.
    ``confidence_z``: by how many standard errors the likeliest class is right more often than the
    model says.
    """
    assert evaluation.y is not None
    logits = evaluation.dist.logits.double()
    n_classes = logits.shape[-1]
    likeliest = logits.softmax(-1).amax(-1)
    hits = (logits.argmax(-1) == evaluation.y).double().sum()
    error = (likeliest * (1 - likeliest)).sum().sqrt()  # of the hits of a calibrated model
    inner = logits + (1 - logits.sum(-1, keepdim=True)) / n_classes  # so that each row sums to 1
    return {
        "confidence": float(likeliest.mean()),
        "confidence_z": float((hits - likeliest.sum()) / error.clamp(min=1e-9)),
        "highest_confidence": math.e / (math.e + n_classes - 1),  # of a second softmax
        "logits_like_probabilities": n_classes > 1
        and bool(inner.min() > -_ROUNDING and inner.max() > _NEAR_ONE),
    }


def _costs(u: Floats, features: list[tuple[str, Floats]]) -> dict[str, Any]:
    """Returns the cost over all rows, and in the groups by the feature where it is largest."""
    cost, p = _cost(u, [np.arange(len(u))])
    found: dict[str, Any] = {"cost": cost, "cost_p_value": p}
    found |= {"worst_cost": cost, "worst_p_value": p, "where": None}
    for name, column in features:
        groups = _quantile_groups(column)
        if len(groups) < 2 or len(u) < 2 * _BINS * len(groups):
            continue
        cost, p = _cost(u, groups)
        # a second feature must be worse by half to be named instead of the first
        if cost > found["worst_cost"] * (1.5 if found["where"] else 1.0):
            p = min(1.0, p * len(features))  # Bonferroni
            found |= {"worst_cost": cost, "worst_p_value": p, "where": name}
    return found


def _cost(u: Floats, groups: list[NDArray[np.intp]]) -> tuple[float, float]:
    """Returns nats per row less their expectation, and the p-value of the likelihood-ratio test."""
    total = 0.0
    for group in groups:
        counts = np.histogram(u[group], bins=_BINS, range=(0.0, 1.0))[0]
        filled = counts[counts > 0]
        total += float((filled * np.log(filled * _BINS / len(group))).sum())
    freedom = (_BINS - 1) * len(groups)
    return total / len(u) - freedom / (2 * len(u)), float(stats.chi2.sf(2 * total, freedom))


def _features(
    evaluation: Evaluation, dist: Any, index: NDArray[np.intp]
) -> list[tuple[str, Floats]]:
    """Returns numbers by which rows are grouped: the predicted spread, and the columns of X."""
    found = []
    if evaluation.is_univariate:
        low, high = dist.interval(0.5).double().numpy().T
        found.append(("the predicted spread", high - low))
    if evaluation.features is not None:
        columns = evaluation.features[index].T[:_MOST_FEATURES]
        names = evaluation.feature_names or [f"column {i} of X" for i in range(len(columns))]
        found += list(zip(names, columns, strict=False))
    return [(name, a) for name, a in found if np.isfinite(a).all() and np.ptp(a) > 0]


def _quantile_groups(column: Floats) -> list[NDArray[np.intp]]:
    edges = np.quantile(column, np.linspace(0, 1, _GROUPS + 1)[1:-1])
    label = np.searchsorted(np.unique(edges), column, side="right")
    return [g for g in (np.flatnonzero(label == i) for i in range(_GROUPS)) if len(g)]


def _expected_nll(evaluation: Evaluation, dist: Any, index: NDArray[np.intp]) -> dict[str, float]:
    """Returns the NLL that the model expects, its mean entropy, estimated from its own draws."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = dist.sample((_DRAWS,), generator=generator)
    expected = -dist.log_prob(drawn).double().numpy().mean(0)  # (n,)
    with np.errstate(invalid="ignore"):  # of rows with an infinite loss
        difference = evaluation.nll[index] - expected
        error = float(difference.std(ddof=1) / math.sqrt(len(expected)))
    return {
        "expected_nll": float(expected.mean()),
        "above_expected": float(difference.mean()),
        "above_expected_standard_error": error,
    }

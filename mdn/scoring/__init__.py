"""Scores of a predictive distribution, one number a row, lower is better, and their summary.

Every score takes a distribution and targets y (*, D), tensor or array (D = 1 where a cdf is
needed), and returns (*), of the same kind as y.  With ``X=`` it takes any model that
:func:`mdn.prediction.predict_distribution` takes instead of the distribution, and y (N,) as well.
"""

from __future__ import annotations

from ._scores import (
    brier,
    cde_loss,
    crps,
    crps_by_level,
    crps_by_threshold,
    dawid_sebastiani,
    energy_score,
    interval_score,
    nll,
    pinball,
    pit,
    randomized_pit,
    rounded_nll,
    threshold_weighted_crps,
)
from ._summary import Score, Summary, crps_scorer, nll_scorer, summary, weighted_mean

__all__ = [
    "nll",
    "crps",
    "threshold_weighted_crps",
    "crps_by_threshold",
    "crps_by_level",
    "energy_score",
    "pinball",
    "interval_score",
    "dawid_sebastiani",
    "rounded_nll",
    "brier",
    "cde_loss",
    "pit",
    "randomized_pit",
    "summary",
    "Summary",
    "Score",
    "nll_scorer",
    "crps_scorer",
    "weighted_mean",
]

"""Scores of a predictive distribution, one number a row, lower is better, and their summary.

Every function of a row takes a distribution and targets y (*, D) as tensor or array (D = 1 where a
cdf is needed), and gives a tensor or an array of the same kind, (*).
"""

from __future__ import annotations

from ._scores import (
    brier,
    cde_loss,
    crps,
    dawid_sebastiani,
    energy_score,
    interval_score,
    nll,
    pinball,
    pit,
    randomized_pit,
    rounded_nll,
)
from ._summary import Score, Summary, crps_scorer, nll_scorer, summary, weighted_mean

__all__ = [
    "nll",
    "crps",
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

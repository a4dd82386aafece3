"""The small estimator that several files of tests fit."""

from __future__ import annotations

from typing import Any

from mdn import MDNRegressor

__all__ = ["FAST", "TREES", "regressor"]

FAST: dict[str, Any] = {
    "n_components": 3,
    "hidden": (8,),
    "ensemble_size": 2,
    "trees": False,
    "max_epochs": 5,
    "random_state": 0,
}
TREES: dict[str, Any] = {"trees": True, "preset": "fast"}


def regressor(**options: Any) -> MDNRegressor:
    """Two networks of five epochs, without base models."""
    return MDNRegressor(**{**FAST, **options})

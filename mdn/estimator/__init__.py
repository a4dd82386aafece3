"""The scikit-learn face: ``MDNRegressor().fit(X, y)``; only here is scikit-learn used."""

from __future__ import annotations

from ._plan import revision
from ._regressor import MDNRegressor

__all__ = ["MDNRegressor", "revision"]

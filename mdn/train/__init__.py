"""Training of any module that returns a distribution, by maximum likelihood.

The loss is always the weighted mean negative log-likelihood of a batch of N rows,

    loss = -sum_n w_n log p(y_n | x_n) / sum_n w_n,        p(. | x) = module(x),

so the same loop trains a classifier (Categorical: log p is the log of a probability, the loss is
at least 0) and a density (log p is the log of a density, the loss may be negative).
"""

from __future__ import annotations

from ._ensemble import fit_ensemble
from ._fit import fit
from ._history import History, TrainingError

__all__ = ["fit", "fit_ensemble", "History", "TrainingError"]

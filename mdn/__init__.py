"""The whole conditional distribution p(y|x), fitted, scored and shown.

``MDNRegressor().fit(X, y)`` for scikit-learn's way, ``MDN`` or ``MDNHead`` with ``fit`` for
PyTorch's, ``GaussianMixture`` for the distribution itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import datasets, functional, nn, scoring
from .distribution import (
    HDR,
    AtomicMixture,
    DiscretizedMixture,
    GaussianMixture,
    Mixture,
    Modes,
    TruncatedMixture,
)
from .io import load, save
from .nn import MDN, CategoricalHead, MDNHead
from .train import History, TrainingError, fit
from .warnings import DataWarning, MDNWarning, TrainingWarning

if TYPE_CHECKING:
    from . import calibration, plot, simulators
    from .estimator import MDNRegressor
    from .explain import NLLReport, explain_nll
    from .tuning import tune

__all__ = [
    "MDNRegressor",
    "MDN",
    "MDNHead",
    "CategoricalHead",
    "GaussianMixture",
    "Mixture",
    "TruncatedMixture",
    "DiscretizedMixture",
    "AtomicMixture",
    "HDR",
    "Modes",
    "fit",
    "tune",
    "explain_nll",
    "NLLReport",
    "History",
    "TrainingError",
    "MDNWarning",
    "DataWarning",
    "TrainingWarning",
    "save",
    "load",
    "datasets",
    "functional",
    "nn",
    "plot",
    "scoring",
    "calibration",
    "simulators",
]
__version__ = "0.1.0"

# scikit-learn, scipy.stats and matplotlib are loaded when they are asked for
_LAZY = {
    "MDNRegressor": "estimator",
    "NLLReport": "explain",
    "calibration": "calibration",
    "explain_nll": "explain",
    "plot": "plot",
    "simulators": "simulators",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mdn' has no attribute {name!r}")
    module = importlib.import_module(f".{_LAZY[name]}", __name__)
    return module if name == _LAZY[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

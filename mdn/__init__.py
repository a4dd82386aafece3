"""The whole conditional distribution p(y|x), fitted, scored and shown.

``MDNRegressor().fit(X, y)`` for scikit-learn's way, ``MDN`` or ``MDNHead`` with ``fit`` for
PyTorch's, ``GaussianMixture`` for the distribution itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import calibration, datasets, functional, nn, plot, scoring, simulators
    from .distribution import (
        HDR,
        AtomicMixture,
        DiscretizedMixture,
        GaussianMixture,
        Mixture,
        Modes,
        TruncatedMixture,
    )
    from .estimator import MDNRegressor
    from .explain import NLLReport, explain_nll
    from .io import load, save
    from .nn import MDN, CategoricalHead, MDNHead
    from .tables import read_table
    from .train import History, TrainingError, fit
    from .tuning import tune
    from .warnings import DataWarning, MDNWarning, TrainingWarning

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
    "read_table",
    "datasets",
    "functional",
    "nn",
    "plot",
    "scoring",
    "calibration",
    "simulators",
]
__version__ = "0.1.0"

# Nothing is loaded before it is asked for, not even torch: the command line starts without it.
_MODULE_OF = {
    "AtomicMixture": "distribution",
    "CategoricalHead": "nn",
    "DataWarning": "warnings",
    "DiscretizedMixture": "distribution",
    "GaussianMixture": "distribution",
    "HDR": "distribution",
    "History": "train",
    "MDN": "nn",
    "MDNHead": "nn",
    "MDNRegressor": "estimator",
    "MDNWarning": "warnings",
    "Mixture": "distribution",
    "Modes": "distribution",
    "NLLReport": "explain",
    "TrainingError": "train",
    "TrainingWarning": "warnings",
    "TruncatedMixture": "distribution",
    "explain_nll": "explain",
    "fit": "train",
    "load": "io",
    "read_table": "tables",
    "save": "io",
    "tune": "tuning",
}
_MODULES = (
    "calibration",
    "datasets",
    "distribution",
    "estimator",
    "explain",
    "functional",
    "io",
    "nn",
    "plot",
    "prediction",
    "scoring",
    "simulators",
    "tables",
    "train",
    "tuning",
    "warnings",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mdn' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value  # the next time it is found at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_MODULES})

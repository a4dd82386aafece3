"""Mixture distributions: everything one asks of p(y|x), exact where there is a formula."""

from __future__ import annotations

from ._bounded import DiscretizedMixture, TruncatedMixture
from ._divergence import divergence
from ._families import Logistic, LogitNormal, PointMass
from ._gaussian import GaussianMixture
from ._mixture import Mixture
from ._results import HDR, Bounds, Divergence, Estimate, Modes

__all__ = [
    "GaussianMixture",
    "Mixture",
    "TruncatedMixture",
    "DiscretizedMixture",
    "Logistic",
    "LogitNormal",
    "PointMass",
    "divergence",
    "HDR",
    "Modes",
    "Bounds",
    "Estimate",
    "Divergence",
]

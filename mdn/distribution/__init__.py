"""Mixture distributions with one contract, exact where there is a formula."""

from __future__ import annotations

from ._atomic import AtomicMixture
from ._base import MixtureDistribution
from ._discretized import DiscretizedMixture
from ._divergence import divergence
from ._families import Logistic, LogitNormal, PointMass
from ._gaussian import GaussianMixture
from ._mixture import Mixture
from ._results import HDR, Bounds, Divergence, Estimate, Modes
from ._truncated import TruncatedMixture

__all__ = [
    "MixtureDistribution",
    "GaussianMixture",
    "Mixture",
    "TruncatedMixture",
    "DiscretizedMixture",
    "AtomicMixture",
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

"""Mixture distributions: everything one asks of p(y|x), exact where there is a formula."""

from __future__ import annotations

from ._divergence import divergence
from ._gaussian import GaussianMixture
from ._results import HDR, Bounds, Divergence, Estimate, Modes

__all__ = ["GaussianMixture", "divergence", "HDR", "Modes", "Bounds", "Estimate", "Divergence"]

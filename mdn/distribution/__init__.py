"""Mixture distributions: everything one asks of p(y|x), exact where there is a formula."""

from __future__ import annotations

from ._gaussian import HDR, GaussianMixture, Modes

__all__ = ["HDR", "GaussianMixture", "Modes"]

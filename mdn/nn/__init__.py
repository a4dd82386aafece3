"""Networks whose output is a distribution: heads, the mixture density network MDN, ensembles."""

from __future__ import annotations

from ._ensemble import MDNEnsemble
from ._families import MIN_SCALE
from ._heads import (
    CategoricalHead,
    FamilyParameters,
    FullParameters,
    LowRankParameters,
    MDNHead,
    MixtureParameters,
)
from ._mdn import MDN

__all__ = [
    "MDN",
    "MDNHead",
    "MDNEnsemble",
    "CategoricalHead",
    "MixtureParameters",
    "FullParameters",
    "LowRankParameters",
    "FamilyParameters",
    "MIN_SCALE",
]

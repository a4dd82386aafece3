"""What the methods of a mixture return when it is more than one tensor."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["HDR", "Bounds", "Divergence", "Estimate", "Modes"]


class Modes(NamedTuple):
    """Local maxima of a density, by falling density, NaN-padded.

    Attributes:
        loc: places, (*, K, D), in the unit of y.
        log_density: log density there, (*, K).
    """

    loc: Tensor
    log_density: Tensor


class HDR(NamedTuple):
    """Highest-density region: the smallest set that has the given probability.

    Attributes:
        intervals: disjoint, sorted, (*, K, 2), NaN-padded, in the unit of y.
        threshold: density on the edges, (*); the region is where the density is at least this.
        coverage: the probability of the region.
    """

    intervals: Tensor
    threshold: Tensor
    coverage: float


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        value: (*).
        standard_error: (*), of the value.
    """

    value: Tensor
    standard_error: Tensor


class Bounds(NamedTuple):
    """What a quantity lies between.

    Attributes:
        lower: (*).
        upper: (*).
    """

    lower: Tensor
    upper: Tensor


class Divergence(NamedTuple):
    """Kullback-Leibler divergence of two mixtures.

    Attributes:
        value: (*), nats; exact for single Gaussians, else from draws.
        standard_error: (*), of the value.
        upper_bound: (*), certain.
    """

    value: Tensor
    standard_error: Tensor
    upper_bound: Tensor

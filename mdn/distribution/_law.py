"""The abstract probability law on the line, and the order of its modes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BUDGET", "UnivariateLaw", "by_falling_density", "in_parts", "padded"]

BUDGET = 1 << 19  # numbers a working array may hold: 4 MiB


class UnivariateLaw(ABC):
    """A probability law on the line, one for each row of a batch (*).

    The event axis is off: y is (*).  Answers may come in float64 whatever the dtype of y; the
    distribution that asks rounds them.  Arguments are checked and broadcast against the batch.

    Attributes:
        n_components: how many modes and intervals there are columns for, at least.
        is_chunked: whether modes, regions, scores and integrals take a few rows at a time
            themselves.
    """

    is_chunked = False
    n_components: int

    @abstractmethod
    def log_cdf(self, y: Tensor) -> Tensor:
        """Log of P(Y <= y)."""

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y)."""
        return self.log_cdf(y).exp()

    @abstractmethod
    def log_sf(self, y: Tensor) -> Tensor:
        """Log of P(Y > y)."""

    @abstractmethod
    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Log of P(low <= Y <= high)."""

    @abstractmethod
    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        """The least y with P(Y <= y) >= p, p in float64 with the rounding of the given dtype."""

    @abstractmethod
    def modes(self) -> tuple[Tensor, Tensor]:
        """Places and log densities, (*, M), by falling density, NaN-padded."""

    @abstractmethod
    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        """Intervals (*, C, 2), sorted, NaN-padded, and the log density on their edges (*)."""

    @abstractmethod
    def crps(self, y: Tensor) -> Tensor:
        """Integral of (F(x) - 1{y <= x})^2."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Mean of -log_prob, (*)."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (*)."""


def by_falling_density(place: Tensor, height: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted along the last axis, NaN where there is none."""
    order = torch.where(there, height, -math.inf).argsort(dim=-1, descending=True, stable=True)
    there = there.gather(-1, order)
    return (
        torch.where(there, place.gather(-1, order), math.nan),
        torch.where(there, height.gather(-1, order), math.nan),
    )


def padded(a: Tensor, width: int, dim: int = -1) -> Tensor:
    """At least ``width`` long along an axis and no longer than needed, NaN at the end."""
    a = a.movedim(dim, -1)
    used = int((~a.isnan()).sum(-1).max()) if a.numel() else 0
    a = a[..., : max(width, used)]
    more = a.new_full((*a.shape[:-1], max(0, width - a.shape[-1])), math.nan)
    return torch.cat([a, more], -1).movedim(-1, dim)


def in_parts(of: Callable[..., tuple[Tensor, ...]], *at: Tensor, size: int) -> tuple[Tensor, ...]:
    """What ``of`` says at places (M, ...) of one shape, for some of the M at a time.

    ``of`` needs ``size`` numbers a place.
    """
    step = max(1, BUDGET * len(at[0]) // max(1, at[0].numel() * size))
    if step >= len(at[0]):
        return of(*at)
    found = [of(*part) for part in zip(*(a.split(step) for a in at), strict=True)]
    return tuple(torch.cat(column) for column in zip(*found, strict=True))

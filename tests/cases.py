"""Named mixtures for tests of distributions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

__all__ = ["MIXTURES", "Parameters"]

INF = math.inf


class Parameters(NamedTuple):
    """A mixture in float64: logits (*, K), loc and scale (*, K, D)."""

    logits: torch.Tensor
    loc: torch.Tensor
    scale: torch.Tensor


def _parameters(logits: list, loc: list, scale: list) -> Parameters:
    return Parameters(*(torch.tensor(v, dtype=torch.float64) for v in (logits, loc, scale)))


def _batch(*shape: int) -> Parameters:
    """Unlike rows with no randomness: the fractional parts of multiples of irrational numbers."""

    def spread(size: tuple[int, ...], step: float) -> torch.Tensor:
        return (step * torch.arange(1, 1 + math.prod(size), dtype=torch.float64) % 1).view(size)

    return Parameters(
        4 * spread(shape[:-1], math.sqrt(2)) - 2,
        6 * spread(shape, math.sqrt(3)) - 3,
        0.3 + 1.5 * spread(shape, math.sqrt(5)),
    )


MIXTURES: dict[str, Parameters] = {
    "one component": _parameters([0.3], [[1.5]], [[0.7]]),
    "two modes": _parameters([0.0, 0.7], [[-2.0], [2.0]], [[0.6], [0.9]]),
    "overlapping": _parameters([0.1, -0.4, 0.8], [[-0.5], [0.2], [1.0]], [[1.0], [0.4], [1.7]]),
    "identical": _parameters([0.0, 0.0, 0.0], [[0.4]] * 3, [[1.3]] * 3),
    "narrow inside wide": _parameters([-2.0, 2.0], [[0.3], [0.0]], [[1e-3], [2.0]]),
    "narrow": _parameters([0.0, 0.5], [[-1.0], [1.0]], [[1e-6], [1e-5]]),
    "far": _parameters([0.5, -0.5], [[-1e6], [1e6]], [[1.0], [3.0]]),
    "large offset": _parameters([0.0, 1.0], [[1e8], [1e8 + 3.0]], [[1.0], [0.5]]),
    "wide": _parameters([0.0, 1.0], [[-1e5], [2e5]], [[3e5], [1e5]]),
    "zero weight": _parameters([0.0, -INF, 1.0], [[-1.0], [50.0], [2.0]], [[0.5], [1.0], [0.8]]),
    "tiny weight": _parameters([0.0, -40.0], [[0.0], [12.0]], [[1.0], [1.0]]),
    "two dims": _parameters([0.2, -0.2], [[-1.0, 2.0], [1.5, 0.0]], [[0.5, 1.0], [0.7, 0.2]]),
    "many dims": _batch(3, 8),
    "batched": _batch(4, 3, 1),
    "batched, two axes, three dims": _batch(2, 3, 4, 3),
}

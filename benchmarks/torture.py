"""Rows on which the mixture log density or its gradients are hard to compute, by name."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch

from benchmarks.exact import Row

__all__ = ["TORTURE", "Case", "is_meaningful", "rounded"]

INF = math.inf
LOG_2 = math.log(2.0)


class Case(NamedTuple):
    """One named row: y (D,), logits (K,), loc and log_scale (K, D), as nested lists of floats."""

    name: str
    y: list[float]
    logits: list[float]
    loc: list[list[float]]
    log_scale: list[list[float]]


def rounded(case: Case, dtype: torch.dtype) -> Row:
    """The numbers a tensor of this dtype holds: the oracle has to see the same ones."""

    def numbers(nested: list) -> list:
        return torch.tensor(nested, dtype=torch.float64).to(dtype).double().tolist()

    return Row(
        y=tuple(numbers(case.y)),
        logits=tuple(numbers(case.logits)),
        loc=tuple(tuple(component) for component in numbers(case.loc)),
        log_scale=tuple(tuple(component) for component in numbers(case.log_scale)),
    )


def is_meaningful(case: Case, dtype: torch.dtype) -> bool:
    """Whether every input is still finite in the dtype (-inf logits are meant)."""
    row = rounded(case, dtype)
    numbers = itertools.chain(row.y, *row.loc, *row.log_scale)
    return all(map(math.isfinite, numbers)) and INF not in row.logits and max(row.logits) > -INF


def _baseline(n_components: int, n_dims: int) -> Case:
    """Unremarkable numbers between -2 and 2, with no two alike."""

    def wave(i: float) -> float:
        return round(2.0 * math.sin(1.0 + 2.3 * i), 3)

    return Case(
        f"moderate K={n_components} D={n_dims}",
        [wave(0.7 * d) for d in range(n_dims)],
        [wave(1.1 * k) for k in range(n_components)],
        [[wave(3.0 + k + 0.3 * d) for d in range(n_dims)] for k in range(n_components)],
        [[0.5 * wave(5.0 + k - 0.4 * d) for d in range(n_dims)] for k in range(n_components)],
    )


def _alone(distance: float) -> Case:
    """One component, `distance` scales away, by a small scale where y would overflow float16."""
    y = min(distance, 1e4)
    return Case(f"{distance:g} scales, K=1", [y], [0.0], [[0.0]], [[math.log(y / distance)]])


def _coinciding(distance: float, n_components: int) -> Case:
    """Far components so close to each other that all of them are responsible.

    Their log densities are about -distance^2 / 2 and differ by 0.7 per component, which is lost
    unless the differences are formed before the squares.
    """
    step = 0.7 / distance
    return Case(
        f"{distance:g} scales, K={n_components} coinciding",
        [distance],
        [0.5 * (n_components - 1 - k) for k in range(n_components)],
        [[step * k] for k in range(n_components)],
        [[0.0]] * n_components,
    )


def _narrow(scale: float, where: str, which: str) -> Case:
    """One or both scales tiny, y on the mean of the first component or off both."""
    tiny = math.log(scale)
    return Case(
        f"scale {scale:g} in {which}, {where} the mean",
        [0.25 if where == "on" else 0.75],
        [0.3, -0.2],
        [[0.25], [-1.0]],
        [[tiny], [tiny if which == "both" else 0.5]],
    )


DISTANCES = (10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e8, 1e12, 1e16, 1e20)

TORTURE: list[Case] = [
    *(_baseline(k, d) for k, d in ((1, 1), (2, 1), (5, 1), (2, 3), (5, 3), (1, 8), (5, 8))),
    *(_alone(z) for z in DISTANCES),
    *(_coinciding(z, 2 + i % 2) for i, z in enumerate(DISTANCES)),
    *(
        _narrow(s, where, which)
        for s, where, which in itertools.product(
            (1e-4, 1e-8, 1e-20), ("on", "off"), ("one", "both")
        )
    ),
    # Scales at the ends of the range.
    Case("log scale +-40", [0.5], [0.0, 0.0], [[0.5], [-0.5]], [[-40.0], [40.0]]),
    Case("log scale +-40, off the mean", [1.5], [0.0, 0.0], [[0.5], [-0.5]], [[-40.0], [40.0]]),
    Case("log scale +-60", [0.5], [0.0, 0.0], [[0.5], [-0.5]], [[-60.0], [60.0]]),
    Case("log scale +-60, off the mean", [1.5], [0.0, 0.0], [[0.5], [-0.5]], [[-60.0], [60.0]]),
    Case("log scale -60, K=1, off the mean", [1.5], [0.0], [[0.5]], [[-60.0]]),
    Case("log scale -60, midway", [0.0], [0.0, 0.0], [[-1.0], [1.0]], [[-60.0], [-60.0]]),
    # Weights: the component that y belongs to has next to none of it.
    Case("logits +-50, the light one owns y", [2.0], [50.0, -50.0], [[-8.0], [2.5]], [[-1.0]] * 2),
    Case("logits +-1e3, the light one owns y", [2.0], [1e3, -1e3], [[-9.0], [2.5]], [[-2.5]] * 2),
    Case("logits +-1e4, the light one owns y", [2.0], [1e4, -1e4], [[-9.0], [2.5]], [[-3.5]] * 2),
    Case("logits +-1e4, the heavy one owns y", [2.0], [-1e4, 1e4], [[-9.0], [2.5]], [[-1.0]] * 2),
    Case("logits 1e4 + (0, 8)", [0.3], [1e4, 10008.0], [[0.0], [1.0]], [[0.0], [0.5]]),
    # Pruned components.
    Case("one logit -inf", [0.4], [0.2, -INF, -0.3], [[0.0], [0.5], [1.0]], [[0.0], [-1.0], [0.2]]),
    Case("one logit -inf, it owns y", [9.0], [0.2, -INF, -0.3], [[0.0], [9.0], [1.0]], [[0.0]] * 3),
    Case("all but one logit -inf", [0.4], [-INF, 3.0, -INF], [[0.4], [0.5], [1.0]], [[-9.0]] * 3),
    # Several sizes at once.
    Case("offset 1e8", [1e8 + 8.0], [0.1, -0.1], [[1e8], [1e8 + 16.0]], [[2.0], [1.8]]),
    Case("narrow inside wide", [0.001], [-3.0, 3.0], [[0.0], [0.3]], [[-7.0], [1.0]]),
    Case("identical components", [0.7], [0.4] * 3, [[-0.2]] * 3, [[0.1]] * 3),
    Case("1e6 scales between components", [5e5], [0.0, 0.5], [[0.0], [1e6]], [[0.0], [0.0]]),
    Case("unequal scales in balance", [100.0], [3750.0, 0.0], [[0.0], [0.0]], [[0.0], [LOG_2]]),
    Case("wide one takes over, 1e4 scales", [1e4], [9.0, -9.0], [[0.0], [0.0]], [[0.0], [0.5]]),
    Case("100 scales, D=8", [100.0] * 8, [0.0, 0.3], [[0.0] * 8, [0.001] * 8], [[0.0] * 8] * 2),
    Case("6 scales, D=8, coinciding", [6.0] * 8, [0.3, 0.0],
         [[0.0] * 8, [0.02] * 8], [[0.0] * 8] * 2),
    Case("1e6 scales in 1 of D=8", [0.1] * 7 + [1e6], [0.0, 0.3],
         [[0.0] * 8, [0.2] * 8], [[0.5] * 8] * 2),
    Case("scale 1e-8, D=8", [0.0] * 8, [0.0, 0.3],
         [[1e-8] * 8, [-1.1e-8] * 8], [[-18.5] * 8, [-18.4] * 8]),
    Case("log scale -20 to 20, D=3", [0.5, 0.0, 2.0], [0.0, 1.0],
         [[0.5, 1.0, 2.0]] * 2, [[-20.0, 0.5, 20.0]] * 2),
]  # fmt: skip

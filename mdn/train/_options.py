"""Checks of options, batch sizes, seeds and the warning of Ctrl-C, shared by both loops."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..warnings import TrainingWarning, warn

__all__ = [
    "check_integer",
    "check_options",
    "fit_batch_size",
    "ensemble_batch_size",
    "seeded",
    "warn_interrupted",
]

# Automatic batch size of fit, rows: about 64 steps an epoch, since fewer learn slowly. Below 32
# rows a step costs the same and carries less; above 512 small networks stop gaining speed.
_STEPS, _MIN_ROWS, _MAX_ROWS = 64, 32, 512


def check_integer(name: str, value: Any, at_least: int | None = 1) -> None:
    """Refuses what is not an integer of at least ``at_least``; None is no bound."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    if at_least is not None and int(value) < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {value}")


def check_options(
    integers: dict[str, Any], positive: dict[str, Any], not_negative: dict[str, Any]
) -> None:
    """Refuses options out of their range; None stands for a default and is always allowed."""
    for name, value in integers.items():
        if value is not None:
            check_integer(name, value)
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value!r}")
    for name, value in not_negative.items():
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative; got {value!r}")


def fit_batch_size(n: int) -> int:
    """Returns the batch size for n rows: the power of two next below n / 64, within bounds."""
    below = 1 << (max(n // _STEPS, 1).bit_length() - 1)
    return min(max(below, _MIN_ROWS), _MAX_ROWS)


def ensemble_batch_size(n: int) -> int:
    """Returns the batch size for n rows of a member: the power of two nearest to 2.7 sqrt(n).

    A step of many members costs more than one of a single network, so there are fewer of them.
    """
    size: int = 2 ** round(math.log2(2.7 * math.sqrt(n)))
    return size


@contextmanager
def seeded(seed: int, cuda_devices: Sequence[Any]) -> Iterator[None]:
    """Seeds torch's global generators, of dropout and loaders, and restores them afterwards."""
    with torch.random.fork_rng(devices=cuda_devices):
        torch.default_generator.manual_seed(seed)
        for device in cuda_devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def warn_interrupted(epoch: int, kept: str, more: str = "") -> None:
    """Warns the caller of the fit that it was interrupted, and tells which weights are kept."""
    warn(
        f"Training was interrupted in epoch {epoch}; the module holds the weights {kept}{more}",
        TrainingWarning,
    )

"""Checks of options, batch sizes, seeds and the warning of Ctrl-C, shared by both loops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..arguments import check_integer, check_number
from ..warnings import TrainingWarning, warn

__all__ = [
    "check_options",
    "fit_batch_size",
    "ensemble_batch_size",
    "seeded",
    "warn_interrupted",
]

# Automatic batch size of fit, rows: about 64 steps an epoch, since fewer learn slowly. Below 32
# rows a step costs the same and carries less; above 512 small networks stop gaining speed.
_STEPS, _MIN_ROWS, _MAX_ROWS = 64, 32, 512


def check_options(
    integers: dict[str, Any], positive: dict[str, Any], not_negative: dict[str, Any]
) -> None:
    """Refuses options out of their range; None stands for a default and is always allowed."""
    for name, value in integers.items():
        if value is not None:
            check_integer(name, value)
    for name, value in positive.items():
        if value is not None:
            check_number(name, value, above=0)
    for name, value in not_negative.items():
        if value is not None:
            check_number(name, value, at_least=0, infinite=name == "max_time")


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

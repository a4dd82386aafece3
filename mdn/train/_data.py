"""Training rows: checked once, then divided into the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch", "Data", "prepare", "batches", "checked_log_prob"]

Batch = Sequence[Tensor]  # (x, y) or (x, y, weight)
Data = tuple[Tensor, ...] | Iterable[Batch]  # all rows as one tuple, or a loader


def prepare(name: str, data: Data, device: torch.device) -> Data:
    """Checks tensors and moves them to the device once; passes a loader through."""
    if isinstance(data, tuple):
        _check_tensors(name, data)
        batch = _usable_rows(data, device)
        if len(batch[0]) == 0:
            raise ValueError(f"{name} weight must not be zero in every row")
        return batch
    if not hasattr(data, "__iter__") or isinstance(data, Tensor) or hasattr(data, "__array__"):
        raise TypeError(
            f"{name} must be a tuple of tensors (x, y) or (x, y, weight), or a DataLoader; "
            f"got {type(data).__name__}"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} must be iterable once an epoch, as a DataLoader is; "
            f"got the iterator {type(data).__name__}, which is used up after one"
        )
    return data


def _check_tensors(name: str, data: tuple[Tensor, ...]) -> None:
    if len(data) not in (2, 3):
        raise ValueError(f"{name} must be (x, y) or (x, y, weight); got {len(data)} values")
    parts = dict(zip(("x", "y", "weight"), data, strict=False))
    for part, t in parts.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name} {part} must be a torch.Tensor; got {type(t).__name__}. "
                "Use torch.as_tensor, with the dtype of the module"
            )
        if t.ndim == 0:
            raise ValueError(f"{name} {part} must have one entry a row; got a single number")
    x, y = data[:2]
    if len(x) != len(y):
        raise ValueError(
            f"{name} x and y must have as many rows as each other; got {len(x)} rows of x and "
            f"{len(y)} of y"
        )
    if len(x) == 0:
        raise ValueError(f"{name} x and y must have at least one row; got none")
    if len(data) == 3 and data[2].shape != (len(x),):
        raise ValueError(
            f"{name} weight must have shape ({len(x)},), one value a row; "
            f"got {tuple(data[2].shape)}"
        )
    for part, t in parts.items():
        # A finite sum proves every entry finite in one pass; otherwise the entries are searched.
        if (t.is_floating_point() or t.is_complex()) and not t.sum().isfinite():
            bad = ~t.isfinite().flatten(1).all(1) if t.ndim > 1 else ~t.isfinite()
            _refuse_rows(f"{name} {part} must be finite", t, bad)
    if len(data) == 3:
        _refuse_rows(f"{name} weight must not be negative", data[2], data[2] < 0)


def _refuse_rows(claim: str, t: Tensor, bad: Tensor) -> None:
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{claim}; row {row} is {t[row].flatten()[:8].tolist()} ({int(bad.sum())} such rows): "
            "correct or drop them"
        )


def _usable_rows(batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
    """Moves a batch to the device, without the rows of weight 0: 0 * inf would be NaN."""
    # Copies to a GPU may overlap with its work; copies from one must be waited for.
    moved = tuple(t.detach().to(device, non_blocking=device.type == "cuda") for t in batch)
    if len(moved) == 2:
        return moved
    x, y, weight = moved
    if not weight.is_floating_point():
        weight = weight.to(torch.get_default_dtype())
    keep = weight != 0
    return (x, y, weight) if keep.all() else (x[keep], y[keep], weight[keep])


def batches(
    data: Data,
    batch_size: int | None,
    shuffle: torch.Generator | None,
    device: torch.device,
) -> Iterator[Batch]:
    """Yields the batches of one epoch; ``shuffle`` None keeps the rows of tensors in order."""
    if isinstance(data, tuple):
        n = len(data[0])
        count = math.ceil(n / (batch_size or n))
        if shuffle is not None and count > 1:
            # One gather for the whole epoch: a batch is then a view, at no cost.
            order = torch.randperm(n, generator=shuffle).to(device)
            data = tuple(t.index_select(0, order) for t in data)
        yield from zip(*(t.tensor_split(count) for t in data), strict=True)
        return
    for batch in data:
        if not (
            isinstance(batch, (tuple, list))
            and len(batch) in (2, 3)
            and all(isinstance(t, Tensor) for t in batch)
        ):
            raise TypeError(
                "A loader must yield tuples of tensors (x, y) or (x, y, weight); "
                f"got {type(batch).__name__}"
            )
        usable = _usable_rows(batch, device)
        if len(usable[0]):
            yield usable


def checked_log_prob(dist: Any, x: Tensor, y: Tensor) -> Tensor:
    """Returns ``dist.log_prob(y)``; refuses shapes that would broadcast silently."""
    if not hasattr(dist, "log_prob"):
        raise TypeError(
            f"module(x) must return a torch Distribution; got {type(dist).__name__}, "
            "which has no log_prob"
        )
    # Checked before log_prob: Independent sums an (N, N) broadcast to a harmless-looking (N,).
    expected = (len(x), *getattr(dist, "event_shape", y.shape[1:]))
    got = tuple(y.shape)
    if got != expected:
        hint = ""
        if (*got, 1) == expected:
            hint = " Did you mean y[:, None]?"
        elif got == tuple(dist.batch_shape):
            hint = " Did you mean to return torch.distributions.Independent(dist, 1)?"
        elif got == (*expected, 1):
            hint = " Did you mean y[:, 0]?"
        raise ValueError(
            f"y must have shape {expected} to fit the distribution that module(x) returns; "
            f"got {got}.{hint}"
        )
    log_prob: Tensor = dist.log_prob(y)
    if log_prob.shape != (len(x),):
        hint = " Did you mean y[:, None]?" if y.ndim == 1 and log_prob.ndim == 2 else ""
        raise ValueError(
            f"module(x).log_prob(y) must have shape ({len(x)},), one value a row; got "
            f"{tuple(log_prob.shape)} for y of shape {got}.{hint}"
        )
    return log_prob

"""Training rows: checked once, then divided into the batches of an epoch, and their likelihood."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from ..arguments import how_to_wrap

__all__ = ["Batch", "Data", "Marks", "Rows", "batches", "check_classes", "prepare", "scored"]

Batch = Sequence[Any]  # (x, y) or (x, y, weight), x a tensor or several
Data = tuple[Any, ...] | Iterable[Batch]  # all rows as one tuple, or a loader

_KINDS = "(x, y) or (x, y, weight)"
_CURE = ": pass ignore_index={value} if that marks what has no label"


@dataclass(frozen=True)
class Marks:
    """What values of y say that it is not known.

    Attributes:
        missing: ``"refuse"`` or ``"marginal"``, for NaN.
        ignore_index: a class label, or None.
    """

    missing: str = "refuse"
    ignore_index: int | None = None


@dataclass(frozen=True)
class Rows:
    """N rows on the device of the module.

    Attributes:
        x: what the module is called with, each (N, ...).
        y: (N, ...).
        weight: (N,), or with further axes of y; 0 leaves a value out.  None for equal ones.
    """

    x: tuple[Tensor, ...]
    y: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def named(self) -> dict[str, Tensor]:
        """The tensors by the names that messages call them by."""
        several = len(self.x) > 1
        found = {f"x[{i}]" if several else "x": t for i, t in enumerate(self.x)} | {"y": self.y}
        return found if self.weight is None else found | {"weight": self.weight}

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Those of all tensors."""
        return tuple(t.shape for t in self.named.values())

    def map(self, f: Callable[[Tensor], Tensor]) -> Rows:
        """The rows with f done to every tensor."""
        weight = None if self.weight is None else f(self.weight)
        return Rows(tuple(f(t) for t in self.x), f(self.y), weight)


def prepare(name: str, data: Data, device: torch.device, marks: Marks) -> Rows | Iterable[Batch]:
    """Checks tensors and moves them to the device once; passes a loader through."""
    if isinstance(data, tuple):
        usable = _usable(_checked(name, data, marks), device, marks)
        if len(usable) == 0:
            raise ValueError(f"{name} {_all_out(marks)}")
        return usable
    if not hasattr(data, "__iter__") or isinstance(data, Tensor) or hasattr(data, "__array__"):
        raise TypeError(
            f"{name} must be a tuple of tensors {_KINDS}, or a DataLoader; "
            f"got {type(data).__name__}"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} must be iterable once an epoch, as a DataLoader is; "
            f"got the iterator {type(data).__name__}, which is used up after one"
        )
    return data


def _all_out(marks: Marks) -> str:
    if marks == Marks():
        return "weight must not be zero in every row"
    return "must hold a known y of positive weight; got none in any row"


def _checked(name: str, data: tuple[Any, ...], marks: Marks) -> Rows:
    if len(data) not in (2, 3):
        raise ValueError(f"{name} must be {_KINDS}; got {len(data)} values")
    rows = _as_rows(data)
    for part, t in rows.named.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name} {part} must be a torch.Tensor; got {type(t).__name__}. "
                "Use torch.as_tensor, with the dtype of the module"
            )
        if t.ndim == 0:
            raise ValueError(f"{name} {part} must have one entry a row; got a single number")
    n = len(rows.x[0])
    for part, t in rows.named.items():
        if len(t) != n and part != "weight":
            raise ValueError(
                f"{name} x and y must have as many rows as each other; got {n} rows of "
                f"{next(iter(rows.named))} and {len(t)} of {part}"
            )
    if n == 0:
        raise ValueError(f"{name} x and y must have at least one row; got none")
    weight = rows.weight
    if weight is not None and weight.shape != rows.y.shape[: weight.ndim]:
        raise ValueError(
            f"{name} weight must have shape ({n},), one value a row, or that of the first axes of "
            f"y {tuple(rows.y.shape)}; got {tuple(weight.shape)}"
        )
    for part, t in rows.named.items():
        # A finite sum proves every entry finite in one pass; otherwise the entries are searched.
        if (t.is_floating_point() or t.is_complex()) and not t.sum().isfinite():
            bad, cure = ~t.isfinite(), "correct or drop them"
            if part == "y" and weight is not None:
                bad = bad & (weight != 0)[(..., *(None,) * (t.ndim - weight.ndim))]
            if part == "y" and marks.missing == "marginal":
                bad = bad & ~t.isnan()
            elif part == "y" and t.isnan().any():
                cure += ", or if NaN marks what is not known pass missing='marginal'"
            bad = bad.flatten(1).any(1) if t.ndim > 1 else bad
            _refuse_rows(f"{name} {part} must be finite", t, bad, cure)
    if weight is not None:
        bad = (weight < 0).flatten(1).any(1) if weight.ndim > 1 else weight < 0
        _refuse_rows(f"{name} weight must not be negative", weight, bad, "correct or drop them")
    return rows


def _as_rows(batch: Batch) -> Rows:
    x = batch[0]
    return Rows(tuple(x) if isinstance(x, tuple | list) and len(x) else (x,), *batch[1:])


def _refuse_rows(claim: str, t: Tensor, bad: Tensor, cure: str) -> None:
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{claim}; row {row} is {t[row].flatten()[:8].tolist()} ({int(bad.sum())} such rows): "
            f"{cure}"
        )


def _usable(rows: Rows, device: torch.device, marks: Marks) -> Rows:
    """Moves rows to the device, without those that have no weight or no known y."""
    # Copies to a GPU may overlap with its work; copies from one must be waited for.
    rows = rows.map(lambda t: t.detach().to(device, non_blocking=device.type == "cuda"))
    y, weight = rows.y, rows.weight
    if weight is not None and not weight.is_floating_point():
        weight = weight.to(torch.get_default_dtype())
    if marks.ignore_index is not None:
        if y.is_floating_point():
            raise TypeError(f"ignore_index marks class labels, integers; y has dtype {y.dtype}")
        labelled = (y != marks.ignore_index).to(torch.get_default_dtype())
        if weight is not None:
            labelled = labelled * weight[(..., *(None,) * (y.ndim - weight.ndim))]
            weight = labelled
        elif not labelled.all():
            weight = labelled
    keep = torch.ones(len(y), dtype=torch.bool, device=device)
    if weight is not None:
        keep = (weight != 0).reshape(len(y), -1).any(1)  # 0 * inf would be NaN
    if marks.missing == "marginal" and y.is_floating_point():
        keep = keep & ~y.isnan().reshape(len(y), -1).all(1)
    rows = replace(rows, weight=weight)
    return rows if keep.all() else rows.map(lambda t: t[keep])


def batches(
    data: Rows | Iterable[Batch],
    batch_size: int | None,
    shuffle: torch.Generator | None,
    device: torch.device,
    marks: Marks,
) -> Iterator[Rows]:
    """Yields the batches of one epoch; ``shuffle`` None keeps the rows of tensors in order."""
    if isinstance(data, Rows):
        n = len(data)
        count = math.ceil(n / (batch_size or n))
        if shuffle is not None and count > 1:
            # One gather for the whole epoch: a batch is then a view, at no cost.
            order = torch.randperm(n, generator=shuffle).to(device)
            data = data.map(lambda t: t.index_select(0, order))
        parts = zip(*(t.tensor_split(count) for t in data.named.values()), strict=True)
        inputs = len(data.x)
        for part in parts:
            yield Rows(part[:inputs], *part[inputs:])
        return
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"A loader must yield tuples of tensors {_KINDS}; got {type(batch).__name__}"
            )
        rows = _as_rows(batch)
        if not all(isinstance(t, Tensor) for t in rows.named.values()):
            raise TypeError(
                f"A loader must yield tuples of tensors {_KINDS}; got "
                f"{', '.join(type(t).__name__ for t in rows.named.values())}"
            )
        usable = _usable(rows, device, marks)
        if len(usable):
            yield usable


def scored(dist: Any, rows: Rows, marks: Marks, *, check: bool) -> tuple[Tensor, Tensor | None]:
    """Returns ``dist.log_prob(y)`` of every value of y and their weights, None for equal ones.

    The values have the batch shape of the distribution: (N,), or (N, ...) where it has one for each
    place of a sequence or an image.  A value of weight 0 is 0 and has no gradient.

    Args:
        dist: what the module returned for these rows.
        rows: the batch.
        marks: what values of y are not known.
        check: refuse shapes that would broadcast silently, which is done once for each of them.
    """
    if not check:
        return _values(dist, rows, marks)
    batch = _checked_batch(dist, rows, marks)
    log_prob, weight = _values(dist, rows, marks)
    if log_prob.shape != batch:
        hint = " Did you mean y[:, None]?" if rows.y.ndim == 1 and log_prob.ndim == 2 else ""
        raise ValueError(
            f"module(x).log_prob(y) must have shape {batch}, one value a row; got "
            f"{tuple(log_prob.shape)} for y of shape {tuple(rows.y.shape)}.{hint}"
        )
    return log_prob, weight


def _values(dist: Any, rows: Rows, marks: Marks) -> tuple[Tensor, Tensor | None]:
    y, weight = rows.y, rows.weight
    event = len(getattr(dist, "event_shape", y.shape[1:]))
    options = {}
    if marks.missing == "marginal" and y.is_floating_point() and bool(y.isnan().any()):
        gaps = y.isnan()
        known = ~(gaps.flatten(-event).all(-1) if event else gaps)  # the batch shape
        if bool((gaps.flatten(-event).any(-1) if event else gaps)[known].any()):
            _check_marginal(dist)
            options = {"missing": "marginal"}
        share = known.to(y.dtype)
        weight = share if weight is None else _as_many_axes(weight, known.ndim) * share
    places = y.ndim - event
    used = None
    if weight is not None and (places > 1 or options):
        weight = _as_many_axes(weight, places).expand(y.shape[:places])
        if not bool((weight != 0).all()):  # a y that has a density, in place of no matter what
            used = weight != 0
            y = torch.where(used[(..., *(None,) * event)], y, y[used][0])
    if isinstance(dist, Categorical):
        check_classes(y, dist.logits.shape[-1], _CURE)
    log_prob = dist.log_prob(y, **options)
    return log_prob if used is None else torch.where(used, log_prob, 0.0), weight


def check_classes(y: Tensor, n_classes: int, cure: str) -> None:
    """Refuses class labels outside 0 to ``n_classes`` - 1, which torch only finds by an index."""
    if y.numel() == 0 or y.is_floating_point():
        return
    low, high = torch.aminmax(y)
    if int(low) < 0 or int(high) >= n_classes:
        bad = (y < 0) | (y >= n_classes)
        first = tuple(bad.nonzero()[0].tolist())
        where = "" if not first else f" in row {first[0] if len(first) == 1 else first}"
        raise ValueError(
            f"y must hold classes from 0 to {n_classes - 1}; got {int(y[first])}{where} "
            f"({int(bad.sum())} such values){cure.format(value=int(y[first]))}"
        )


# ---------------------------------------------------------------------------------------------


def _as_many_axes(weight: Tensor, axes: int) -> Tensor:
    return weight[(..., *(None,) * (axes - weight.ndim))]


def _check_marginal(dist: Any) -> None:
    if "missing" not in inspect.signature(dist.log_prob).parameters:
        raise TypeError(
            "missing='marginal' needs a distribution that knows its marginals, a GaussianMixture "
            f"or a Mixture; module(x) returns {type(dist).__name__}"
        )


def _checked_batch(dist: Any, rows: Rows, marks: Marks) -> tuple[int, ...]:
    """The shape of the log densities; refuses shapes of y that would broadcast silently."""
    if not hasattr(dist, "log_prob"):
        raise TypeError(
            f"module(x) must return a torch Distribution; got {type(dist).__name__}, "
            f"which has no log_prob. {how_to_wrap(dist)}"
        )
    # Checked before log_prob: Independent sums an (N, N) broadcast to a harmless-looking (N,).
    n, y, weight = len(rows), rows.y, rows.weight
    event = tuple(getattr(dist, "event_shape", y.shape[1:]))
    batch = tuple(getattr(dist, "batch_shape", (n,)))
    # one value for each place of a row: where an event axis, labels or weights say so, since
    # numbers (N, D) without any of them may be one value in D dimensions
    by_weight = weight is not None and weight.ndim > 1
    places = bool(event) or not y.is_floating_point() or by_weight
    if not (places and len(batch) > 1 and batch[0] == n):
        batch = (n,)
    expected, got = (*batch, *event), tuple(y.shape)
    if got != expected:
        raise ValueError(
            f"y must have shape {expected} to fit the distribution that module(x) returns; "
            f"got {got}.{_hint(dist, y, expected)}"
        )
    if weight is not None and tuple(weight.shape) != batch[: weight.ndim]:
        each = ", one value a row" if len(batch) == 1 else f" or {batch}, one value a row or place"
        raise ValueError(f"weight must have shape ({n},){each}; got {tuple(weight.shape)}")
    if marks.ignore_index is not None and event:
        raise ValueError(
            "ignore_index needs a distribution of classes, of event shape (); "
            f"module(x) returns {type(dist).__name__} of event shape {event}"
        )
    return batch


def _hint(dist: Any, y: Tensor, expected: tuple[int, ...]) -> str:
    got, batch = tuple(y.shape), tuple(getattr(dist, "batch_shape", ()))
    if (*got, 1) == expected:
        return " Did you mean y[:, None]?" if y.ndim == 1 else " Did you mean y[..., None]?"
    if got == batch and not expected[1:]:
        wrapped = f"torch.distributions.Independent(dist, {len(batch) - 1})"
        other = f"; for one value at each place give weights of shape {batch}"
        return (
            f" Did you mean to return {wrapped}?"
            if batch[1:] == (1,)
            else (f" Did you mean to return {wrapped}, one value a row{other}?")
        )
    if got == (*expected, 1):
        return " Did you mean y[:, 0]?" if len(expected) == 1 else " Did you mean y[..., 0]?"
    if isinstance(dist, Categorical):
        shape = tuple(dist.logits.shape)
        if got == (shape[0], *shape[2:]):
            return (
                f" The classes must be the last axis of the logits {shape}. Did you mean "
                "Categorical(logits=logits.movedim(1, -1))?"
            )
    return ""

"""Checks of arguments that several files share; each raises one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..arguments import check_number
from ._arrays import column_of

__all__ = [
    "broadcast_batches",
    "broadcast_shapes",
    "check_batch",
    "check_coverage",
    "check_entries",
    "check_event",
    "check_levels",
    "check_missing",
    "check_not_nan",
    "check_tensor",
    "check_univariate",
    "check_weights",
    "first_row",
]


def check_tensor(name: str, value: object) -> None:
    """Raises TypeError unless the value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")


def check_event(y: Tensor, dims: int, name: str = "y", given: object = None) -> None:
    """Raises unless y ends in the event axis: (N,) against N mixtures would broadcast to (N, N).

    ``given`` is what the user gave if that is not y itself; the message says how to reshape it.
    """
    if y.ndim == 0 or y.shape[-1] != dims:
        column = column_of(name, y if given is None else given)
        hint = f". Did you mean {column}?" if dims == 1 and y.ndim == 1 else ""
        raise ValueError(f"{name} must have shape (*, {dims}); got {tuple(y.shape)}{hint}")


def check_univariate(what: str, dims: int, hint: str = "") -> None:
    """Raises unless the mixture has one target dimension; ``what`` is the method that needs it."""
    if dims != 1:
        raise ValueError(f"{what} needs one target dimension; this mixture has {dims}{hint}")


def check_not_nan(y: Tensor, name: str = "y") -> None:
    """Raises where an event of y (*, D) holds NaN."""
    if y.is_floating_point() and bool(y.isnan().any()):
        where = f"; {first_row(y.isnan().any(-1))} is" if y.ndim > 1 else ""
        cure = ""
        if name == "y" and y.ndim and y.shape[-1] > 1 and not bool(y.isnan().all(-1).any()):
            cure = (
                '. If it marks a dimension that is not known, log_prob(y, missing="marginal") is '
                "the density of those that are"
            )
        raise ValueError(f"{name} must not be NaN{where}{cure}")


def check_missing(missing: str) -> None:
    """Refuses what no ``log_prob`` and no training knows to do with NaN in y."""
    if missing not in ("refuse", "marginal"):
        raise ValueError(f"missing must be 'refuse' or 'marginal'; got {missing!r}")


def check_levels(p: Tensor, name: str = "p") -> None:
    """Raises where a probability lies outside [0, 1]; NaN passes."""
    check_entries(name, p, ~((p < 0) | (p > 1)), "lie in [0, 1]")


def check_coverage(coverage: float) -> float:
    """The coverage as a float, strictly between 0 and 1."""
    return check_number("coverage", coverage, above=0, below=1)


def check_entries(name: str, value: Tensor, good: Tensor, want: str) -> None:
    """Raises with the first entry that is not good: ``name must want; got ... at index ...``."""
    if not bool(good.all()):
        at = tuple((~good).nonzero()[0].tolist())
        where = f" at index {at}" if at else ""
        raise ValueError(f"{name} must {want}; got {value[at].item():g}{where}")


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """What ``torch.broadcast_shapes`` returns and raises.

    That one loads torch's symbolic algebra when it is first called, which takes about a second.
    """
    return torch.broadcast_tensors(*(torch.empty(()).expand(tuple(s)) for s in shapes))[0].shape


def check_batch(
    name: str, batch: Sequence[int], own: Sequence[int], owner: str = "mixture", hint: str = ""
) -> torch.Size:
    """The common batch of an argument and of the distribution that got it."""
    try:
        return broadcast_shapes(batch, own)
    except RuntimeError:
        raise ValueError(
            f"{name} with batch shape {tuple(batch)} does not broadcast against the "
            f"batch shape {tuple(own)} of the {owner}{hint}"
        ) from None


def broadcast_batches(
    batches: Iterable[Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> torch.Size:
    """The common batch of several arguments; ``shapes`` are their whole shapes, for the message."""
    try:
        return broadcast_shapes(*batches)
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the batch axes do not broadcast: {found}") from None


def check_weights(logits: Tensor) -> None:
    """Raises where every component of a row is switched off; logits are (*, K)."""
    off = logits.amax(-1) == -math.inf
    if bool(off.any()):
        where = first_row(off) if off.ndim else "the mixture"
        raise ValueError(
            f"logits: all {logits.shape[-1]} components of {where} have logit -inf; "
            "at least one must be finite"
        )


def first_row(bad: Tensor) -> str:
    """The first True of a mask over rows, in words."""
    row = tuple(bad.nonzero()[0].tolist())
    return f"row {row[0] if len(row) == 1 else row}"

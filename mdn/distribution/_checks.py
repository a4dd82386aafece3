"""Shapes and ranges of what a user gives a mixture; one sentence each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..functional._checks import check_weights
from ._covariance import Covariance, refuse

__all__ = ["check_coverage", "check_shapes", "check_values", "pooled"]

M = TypeVar("M", bound=Any)


def check_shapes(logits: Tensor, loc: Tensor, named: dict[str, Tensor]) -> None:
    """Types and shapes of what the user gave."""
    everything = {"logits": logits, "loc": loc, **named}
    for name, value in everything.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
        if not value.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype; got {value.dtype}")
    if loc.ndim < 2 or loc.shape[-1] < 1 or loc.shape[-2] < 1:
        raise ValueError(
            f"loc must have shape (*, K, D) with K, D >= 1; got {tuple(loc.shape)}"
            + (". Did you mean loc[..., None]?" if loc.ndim == 1 else "")
        )
    k, d = loc.shape[-2:]
    events: dict[str, tuple[int | str, ...]] = {
        "scale": (k, d),
        "scale_tril": (k, d, d),
        "precision_tril": (k, d, d),
        "cov_factor": (k, d, "R"),
        "cov_diag": (k, d),
        "logits": (k,),
    }
    batches = [loc.shape[:-2]]
    for name, value in {**named, "logits": logits}.items():
        want = events[name]
        got = value.shape[-len(want) :]
        if len(got) < len(want) or any(w not in ("R", g) for w, g in zip(want, got, strict=True)):
            raise ValueError(
                f"{name} must have shape (*, {', '.join(map(str, want))}) to match loc "
                f"{tuple(loc.shape)}; got {tuple(value.shape)}"
            )
        batches.append(value.shape[: value.ndim - len(want)])
    try:
        torch.broadcast_shapes(*batches)
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(value.shape)}" for name, value in everything.items())
        raise ValueError(f"the batch axes do not broadcast: {found}") from None


def check_values(logits: Tensor, loc: Tensor, covariance: Covariance) -> None:
    """Ranges; the message names the first bad entry."""
    refuse("logits", logits, logits < math.inf, "be less than inf and not NaN")
    refuse("loc", loc, loc.isfinite(), "be finite")
    covariance.check()
    check_weights(logits)


def check_coverage(coverage: float) -> float:
    c = float(coverage)
    if not 0 < c < 1:
        raise ValueError(f"coverage must lie between 0 and 1; got {coverage}")
    return c


def pooled(
    mixtures: Sequence[M],
    weights: Tensor | Sequence[float] | None,
    kind: str,
) -> tuple[list[M], Tensor]:
    """Mixtures to pool under one batch, and the logits of all their components, (*, M K)."""
    found = list(mixtures)
    if not found:
        raise ValueError(f"mixtures must hold at least one {kind}; got none")
    shapes = [tuple(m.event_shape) for m in found]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"mixtures must have one event shape; got {shapes}")
    like = found[0].logits
    w = torch.as_tensor(
        [1.0] * len(found) if weights is None else weights, dtype=like.dtype, device=like.device
    )
    fine = w.shape == (len(found),) and bool((w >= 0).all() & (w.sum() > 0))
    if not fine or not bool(w.isfinite().all()):
        raise ValueError(
            f"weights must be {len(found)} finite non-negative numbers, not all 0; got {w.tolist()}"
        )
    try:
        batch = torch.broadcast_shapes(*(m.batch_shape for m in found))
    except RuntimeError:
        text = ", ".join(str(tuple(m.batch_shape)) for m in found)
        raise ValueError(f"the batch shapes of mixtures do not broadcast: {text}") from None
    found = [m.expand(batch) for m in found]
    logits = [m.logits + lw for m, lw in zip(found, (w / w.sum()).log(), strict=True)]
    return found, torch.cat(logits, -1)

"""Shapes and ranges of the parameters of a Gaussian mixture."""

from __future__ import annotations

import math

from torch import Tensor

from ..functional._checks import broadcast_batches, check_entries, check_tensor, check_weights
from ._covariance import Covariance

__all__ = ["check_shapes", "check_values"]


def check_shapes(logits: Tensor, loc: Tensor, named: dict[str, Tensor]) -> None:
    """Types and shapes of what the user gave."""
    everything = {"logits": logits, "loc": loc, **named}
    for name, value in everything.items():
        check_tensor(name, value)
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
    broadcast_batches(batches, {name: value.shape for name, value in everything.items()})


def check_values(logits: Tensor, loc: Tensor, covariance: Covariance) -> None:
    """Ranges; the message names the first bad entry."""
    check_entries("logits", logits, logits < math.inf, "be less than inf and not NaN")
    check_entries("loc", loc, loc.isfinite(), "be finite")
    covariance.check()
    check_weights(logits)

"""What y may be: real, positive, in the unit interval, whole numbers, rounded, or an interval.

The networks always see a real number in standard units; a target knows the way there and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal

from ..distribution import GaussianMixture, Mixture
from ..distribution._families import LogitNormal
from ..functional._interval import interval_log_likelihood
from ..standardization import standardization

__all__ = ["KINDS", "Target"]

Floats = NDArray[np.floating[Any]]

_OFF_GRID = 1e-6  # in cells; a rounded y may be this far off its multiple

KINDS = ("real", "positive", "unit", "integer", "interval")


@dataclass
class Target:
    """The way between y and the real number in standard units that the networks see.

    Attributes:
        kind: one of ``KINDS``.
        resolution: width of the rounding cell in the unit of y; 0 where y is not rounded.
        flat: y came as (N,).
        shift: (D,) mean of the training rows.
        scale: (D,) their standard deviation.
    """

    kind: str
    resolution: float
    flat: bool
    shift: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, y: Floats, weight: Floats | None, kind: str, resolution: float | None) -> Target:
        """Checks y, (N,) or (N, D), and learns shift and scale from it."""
        if kind not in KINDS:
            raise ValueError(f"target must be one of {', '.join(map(repr, KINDS))}; got {kind!r}")
        if resolution is not None and kind not in ("real", "integer"):
            raise ValueError(f"resolution needs target='real'; got target={kind!r}")
        if resolution is not None and not 0 < resolution < math.inf:
            raise ValueError(f"resolution must be positive and finite; got {resolution}")
        if kind == "integer":
            resolution = resolution or 1.0
        zero = torch.zeros(1, dtype=torch.float64)
        new = cls(kind, resolution or 0.0, y.ndim == 1 or kind == "interval", zero, zero + 1)
        new.check(y)
        share = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
        shift, scale = standardization(new._point(y), share)
        scale = torch.where(scale > 0, scale, shift.abs())
        new.shift, new.scale = shift, torch.where(scale > 0, scale, 1.0)
        return new

    @property
    def n_targets(self) -> int:
        """D."""
        return len(self.shift)

    @property
    def bounded(self) -> bool:
        """Whether the likelihood is the mass of an interval."""
        return self.kind == "interval" or self.resolution > 0

    def check(self, y: Floats) -> None:
        """Refuses values that this kind of target cannot have, by the first row."""
        columns = y.reshape(len(y), -1)
        if self.kind == "interval":
            if y.ndim != 2 or y.shape[1] != 2:
                raise ValueError(
                    "with target='interval' y must have two columns, lower and upper ends (equal "
                    f"where y is known); got shape {y.shape}"
                )
            self._refuse(np.isnan(y).any(1), "have no NaN: write -inf or inf for an open end", y)
            self._refuse(y[:, 0] > y[:, 1], "have lower <= upper", y)
            self._refuse((y[:, 0] == y[:, 1]) & np.isinf(y[:, 0]), "have a finite end", y)
            return
        if self.bounded and columns.shape[1] > 1:
            raise ValueError(f"a rounded target has one column; got shape {y.shape}")
        if self.kind == "positive":
            self._refuse((columns <= 0).any(1), "be positive; for zeros too take target='real'", y)
        elif self.kind == "unit":
            outside = (columns <= 0) | (columns >= 1)
            self._refuse(outside.any(1), "lie between 0 and 1, both excluded", y)
        elif self.resolution:
            whole = "be whole numbers" if self.kind == "integer" and self.resolution == 1 else ""
            ratio = columns / self.resolution
            # what was stored in float32 is as near to its multiple as that can tell
            single = bool((columns == columns.astype(np.float32)).all())
            rounding = np.finfo(np.float32 if single else np.float64).eps
            off = np.abs(ratio - np.round(ratio)) > _OFF_GRID + rounding * np.abs(ratio)
            must = whole or f"be multiples of resolution={self.resolution:g}"
            self._refuse(off.any(1), must, y)

    def _refuse(self, bad: Any, must: str, y: Floats) -> None:
        if np.any(bad):
            row = int(np.argmax(bad))
            found = ", ".join(f"{v:.12g}" for v in np.ravel(y[row]))
            raise ValueError(f"with target={self.kind!r} y must {must}; row {row} is {found}")

    def _point(self, y: Floats) -> Tensor:
        """(N, D) real numbers that stand for y, in y's unit or that of its logarithm."""
        if self.kind == "positive":
            y = np.log(y)
        elif self.kind == "unit":
            y = np.log(y) - np.log1p(-y)
        elif self.kind == "interval":
            known = np.isfinite(y).any(1)
            if not known.any():
                raise ValueError("y has no finite end: nothing is known of any row")
            low, high = y[known].T
            low, high = np.where(np.isinf(low), high, low), np.where(np.isinf(high), low, high)
            middle = low + 0.5 * (high - low)
            y = np.full(len(y), np.median(middle))
            y[known] = middle
        return torch.as_tensor(y.reshape(len(y), -1), dtype=torch.float64)

    def point(self, y: Floats) -> Tensor:
        """(N, D) numbers in standard units, float64: y, or the middle of what is known of it."""
        return (self._point(y) - self.shift) / self.scale

    def standard(self, y: Floats) -> Tensor:
        """What :meth:`log_prob` takes: :meth:`point`, or (N, 3) lower end, upper end, width."""
        if not self.bounded:
            return self.point(y)
        low, high, width = self._cell(y)
        return torch.stack(
            [*((end - self.shift) / self.scale for end in (low, high)), width / self.scale], 1
        )

    def _cell(self, y: Floats) -> tuple[Tensor, Tensor, Tensor]:
        """Lower end, upper end and width of what is known of each y, (N,), in y's unit."""
        known = torch.tensor(np.ascontiguousarray(y), dtype=torch.float64)
        if self.kind == "interval":
            low, high = known.unbind(1)
            return low, high, high - low
        cell = (known.reshape(-1) / self.resolution).round()
        low, high = (cell - 0.5) * self.resolution, (cell + 0.5) * self.resolution
        return low, high, torch.full_like(cell, self.resolution)

    def log_prob(self, dist: GaussianMixture, target: Tensor) -> Tensor:
        """Log-likelihood in standard units: log density, or log mass where y is an interval."""
        if not self.bounded:
            return dist.log_prob(target)
        loc, scale = dist.loc[..., 0], dist.scale[..., 0]
        low, high, width = target.unbind(-1)
        return interval_log_likelihood(low, high, width, dist.logits, loc, scale)

    def likelihood(self, dist: Any, y: Floats) -> Tensor:
        """Log-likelihood (N,) of y in its unit under what :meth:`finish` gave, in nats."""
        if self.kind == "interval":
            loc, scale = dist.loc[..., 0], dist.scale[..., 0]
            return interval_log_likelihood(*self._cell(y), dist.logits, loc, scale)
        known = torch.tensor(np.ascontiguousarray(y), dtype=torch.float64).reshape(len(y), -1)
        if self.resolution:  # the distribution takes nothing but multiples
            known = (known / self.resolution).round() * self.resolution
        return dist.log_prob(known)

    def finish(self, dist: GaussianMixture) -> Any:
        """The distribution of y, in its unit, for a mixture in standard units."""
        dist = dist.affine(self.shift, self.scale)
        if self.resolution:
            return dist.discretize(self.resolution)
        if self.kind in ("positive", "unit"):
            family = LogNormal if self.kind == "positive" else LogitNormal
            parts: Distribution = Independent(family(dist.loc, dist.scale), 1)
            return Mixture(dist.logits, parts)
        return dist

    def describe(self) -> dict[str, Any]:
        """All there is to know, in plain numbers and strings."""
        return {
            "kind": self.kind,
            "resolution": self.resolution,
            "flat": self.flat,
            "shift": self.shift.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def restored(cls, config: dict[str, Any]) -> Target:
        """What :meth:`describe` told."""
        units = (torch.tensor(config[name], dtype=torch.float64) for name in ("shift", "scale"))
        return cls(config["kind"], config["resolution"], config["flat"], *units)

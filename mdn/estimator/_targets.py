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
from ..functional._interval import _log_mass
from ..nn import standardization

__all__ = ["KINDS", "Target"]

Floats = NDArray[np.floating[Any]]

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
        """Learns shift and scale from y, (N,) or (N, D)."""
        if kind not in KINDS:
            raise ValueError(f"target must be one of {', '.join(map(repr, KINDS))}; got {kind!r}")
        if resolution is not None and kind not in ("real", "integer"):
            raise ValueError(f"resolution needs target='real'; got target={kind!r}")
        if resolution is not None and not 0 < resolution < math.inf:
            raise ValueError(f"resolution must be positive and finite; got {resolution}")
        if kind == "integer":
            resolution = resolution or 1.0
        new = cls(kind, resolution or 0.0, y.ndim == 1 or kind == "interval", *_unit(1))
        new.check(y)
        point = new._point(y)
        shift, scale = standardization(point, weight)
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
            off = np.abs(columns / self.resolution - np.round(columns / self.resolution))
            what = "be whole numbers" if self.resolution == 1 else "be multiples of the resolution"
            self._refuse((off > 1e-6).any(1), what, y)

    def _refuse(self, bad: NDArray[np.bool_], must: str, y: Floats) -> None:
        if bad.any():
            row = int(bad.argmax())
            found = ", ".join(f"{v:g}" for v in np.ravel(y[row]))
            raise ValueError(f"with target={self.kind!r} y must {must}; row {row} is {found}")

    def _point(self, y: Floats) -> Tensor:
        """(N, D) real numbers that stand for y, in y's unit or that of its logarithm."""
        if self.kind == "positive":
            y = np.log(y)
        elif self.kind == "unit":
            y = np.log(y) - np.log1p(-y)
        elif self.kind == "interval":
            low, high = y.T
            known = np.isfinite(low) | np.isfinite(high)
            middle = np.where(
                np.isinf(low), high, np.where(np.isinf(high), low, low + 0.5 * (high - low))
            )
            if not known.any():
                raise ValueError("y has no finite end: nothing is known of any row")
            y = np.where(known, middle, np.median(middle[known]))
        return torch.as_tensor(y.reshape(len(y), -1), dtype=torch.float64)

    def point(self, y: Floats) -> Tensor:
        """(N, D) numbers in standard units, float64: y, or the middle of what is known of it."""
        return (self._point(y) - self.shift) / self.scale

    def standard(self, y: Floats) -> Tensor:
        """What :meth:`log_prob` takes: :meth:`point`, or (N, 3) lower end, upper end, width."""
        if not self.bounded:
            return self.point(y)
        if self.kind == "interval":
            low, high = y.T
            width = high - low
        else:
            y = y.reshape(-1)
            low, high = y - 0.5 * self.resolution, y + 0.5 * self.resolution
            width = np.full(len(y), self.resolution)
        ends = torch.as_tensor(np.stack([low, high], 1), dtype=torch.float64)
        ends = (ends - self.shift) / self.scale
        width = torch.as_tensor(width, dtype=torch.float64) / self.scale
        return torch.cat([ends, width.unsqueeze(1)], 1)

    def log_prob(self, dist: GaussianMixture, target: Tensor) -> Tensor:
        """Log-likelihood in standard units: log density, or log mass where y is an interval."""
        if not self.bounded:
            return dist.log_prob(target)
        low, high, width = target.double().unbind(-1)
        known = width == 0
        params = (
            torch.log_softmax(dist.logits.double(), -1),
            dist.loc[..., 0].double(),
            dist.scale[..., 0].double(),
        )
        # each branch sees numbers that are harmless to it, or the gradient of the other is NaN
        safe = torch.where(known, low - 0.5, low), torch.where(known, high + 0.5, high)
        mass = _log_mass(*safe, torch.where(known, 1.0, width), params)
        if not bool(known.any()):
            return mass.to(dist.loc.dtype)
        at = torch.where(known, low, 0.0).unsqueeze(-1).to(dist.loc.dtype)
        return torch.where(known, dist.log_prob(at).double(), mass).to(dist.loc.dtype)

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


def _unit(d: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)

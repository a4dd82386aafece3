"""What y may be: real, positive, in the unit interval, whole numbers, rounded, or an interval.

The networks always model a real number in standard units, the latent target; a :class:`Target` maps
y to it, by a link function and a standardisation, and distributions of it back to y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal
from torch.nn.functional import logsigmoid

from ..distribution import GaussianMixture, Mixture
from ..distribution._families import LogitNormal
from ..functional._interval import interval_log_likelihood
from ..standardization import standardization, winsorized
from ._state import Floats, Saved

__all__ = ["CHOICE", "KINDS", "OFF_GRID", "Choice", "Target"]

OFF_GRID = 1e-6  # in cells; a rounded y may be this far off its multiple

KINDS = ("real", "positive", "unit", "integer", "interval")
CHOICE = "choice"  # the kind of Choice


@dataclass
class Target(Saved):
    """The map between y and the real number in standard units that the networks model.

    Attributes:
        kind: one of ``KINDS``.
        resolution: width of the rounding cell in the unit of y; 0 where y is not rounded.
        flat: y came as (N,).
        shift: (D,) mean of the training rows, in units of the link; a few far values count as their
            limit, :func:`mdn.standardization.winsorized`.
        scale: (D,) their standard deviation, likewise.
        atoms: (A,) values that have a probability of their own; shift and scale are those of the
            other rows, and so is all that is said of the latent target.
        mixing: (D, D), by which the standardised columns are multiplied; (0, 0) where they are not.
            Its rows are sums of columns that the columns of X leave uncorrelated
            (:func:`mdn.estimator._correlation.mixing`).
    """

    kind: str
    resolution: float
    flat: bool
    shift: Tensor
    scale: Tensor
    atoms: Tensor = field(
        default_factory=lambda: torch.zeros(0, dtype=torch.float64), metadata={"later": True}
    )
    mixing: Tensor = field(
        default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64), metadata={"later": True}
    )

    @classmethod
    def fit(
        cls,
        y: Floats,
        weight: Floats | None,
        kind: str,
        resolution: float | None,
        atoms: Sequence[float] | None = None,
    ) -> Target:
        """Checks y, (N,) or (N, D), and takes shift and scale from it."""
        if resolution is not None and kind not in ("real", "integer"):
            raise ValueError(f"resolution needs target='real'; got target={kind!r}")
        if kind == "integer":
            resolution = resolution or 1.0
        zero = torch.zeros(1, dtype=torch.float64)
        new = cls(kind, resolution or 0.0, y.ndim == 1 or kind == "interval", zero, zero + 1)
        if atoms is not None:
            new.atoms = _checked_atoms(atoms, new, y)
        new.check(y)
        off = new.is_off_atoms(y)
        if len(new.atoms) and np.count_nonzero(off) < 2:
            raise ValueError(
                "y must have at least 2 rows off the atoms, which the density is fitted to; got "
                f"{np.count_nonzero(off)} with atoms={new.atoms.tolist()}"
            )
        share = None if weight is None else torch.as_tensor(weight[off], dtype=torch.float64)
        shift, scale = _standardization(winsorized(new._link(y[off]), share), share)
        scale = torch.where(scale > 0, scale, shift.abs())
        new.shift, new.scale = shift, torch.where(scale > 0, scale, 1.0)
        return new

    @property
    def n_targets(self) -> int:
        """D, the number of target columns."""
        return len(self.shift)

    @property
    def likelihood_is_mass(self) -> bool:
        """Whether the likelihood is the probability of an interval, not a density."""
        return self.kind == "interval" or self.resolution > 0

    @property
    def has_link(self) -> bool:
        """Whether y is a function of the latent target that is not affine."""
        return self.kind in ("positive", "unit")

    @property
    def unmixing(self) -> Tensor:
        """The matrix (D, D) from latent targets to the columns of a real y, but for ``shift``."""
        if not len(self.mixing):
            return torch.diag(self.scale)
        return self.scale.unsqueeze(1) * torch.linalg.inv(self.mixing)

    @property
    def unit(self) -> Tensor:
        """(D,) standard deviations of y where those of the latent targets are 1, uncorrelated."""
        if not len(self.mixing):
            return self.scale
        return torch.linalg.vector_norm(self.unmixing, dim=1)

    def log_jacobian(self, standardized: Tensor) -> Tensor:
        """Nats that the NLL of each row in standard units gains in y's unit, (N,).

        It is the sum of -log |dz/dy| over the columns that are known, for z of :meth:`latent`; a
        probability has no unit.

        Args:
            standardized: (N, ...) what :meth:`standardized` gave.
        """
        if self.likelihood_is_mass:
            return standardized.new_zeros(len(standardized))
        if len(self.mixing):  # of real targets
            nats = self.scale.log().sum() - torch.linalg.slogdet(self.mixing).logabsdet
            return nats.expand(len(standardized))
        linked = self.shift + self.scale * standardized  # (N, D)
        nats = self.scale.log().expand_as(linked)
        if self.kind == "positive":  # z = log y
            nats = nats + linked
        elif self.kind == "unit":  # z = logit y
            nats = nats + logsigmoid(linked) + logsigmoid(-linked)
        return nats.where(~linked.isnan(), 0.0).sum(-1)

    def atom_of(self, y: Floats) -> NDArray[np.intp]:
        """Returns the index of the atom that each y is, (N,); A where it is none."""
        equal = y.reshape(len(y), -1)[:, :1] == self.atoms.numpy()  # (N, A)
        none = np.ones((len(y), 1), dtype=bool)
        return np.concatenate([equal, none], 1).argmax(1)

    def is_off_atoms(self, y: Floats) -> NDArray[np.bool_]:
        """Returns which y are none of the atoms, (N,)."""
        return self.atom_of(y) == len(self.atoms)

    def check(self, y: Floats) -> None:
        """Refuses values that this kind of target cannot have, and names the first such row."""
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
        if self.likelihood_is_mass and columns.shape[1] > 1:
            raise ValueError(f"a rounded target has one column; got shape {y.shape}")
        if self.kind == "positive":
            cure = self._atoms_instead(columns, [0.0], columns >= 0)
            real = "; for others too take target='real'"
            self._refuse((columns <= 0).any(1), f"be positive{cure or real}", y)
        elif self.kind == "unit":
            cure = self._atoms_instead(columns, [0.0, 1.0], (columns >= 0) & (columns <= 1))
            outside = (columns <= 0) | (columns >= 1)
            self._refuse(outside.any(1), f"lie between 0 and 1, both excluded{cure}", y)
        elif self.resolution:
            whole = "be whole numbers" if self.kind == "integer" and self.resolution == 1 else ""
            ratio = columns / self.resolution
            # numbers that were stored in float32 are as near to a multiple as float32 allows
            single = bool((columns == columns.astype(np.float32)).all())
            rounding = np.finfo(np.float32 if single else np.float64).eps
            off = np.abs(ratio - np.round(ratio)) > OFF_GRID + rounding * np.abs(ratio)
            must = whole or f"be multiples of resolution={self.resolution:g}"
            self._refuse(off.any(1), must, y)

    def check_covariance(self, covariance_type: str) -> None:
        """Refuses correlated components for columns of a link function, which are independent."""
        several = self.has_link and self.n_targets > 1
        if several and covariance_type not in ("auto", "diagonal", "isotropic"):
            raise ValueError(
                f"target={self.kind!r} with several columns needs covariance_type='diagonal' or "
                f"'isotropic'; got {covariance_type!r}"
            )

    def with_units_of(self, before: Target) -> Target:
        """Returns the target in the units of an earlier fit."""
        if (self.kind, self.resolution, self.atoms.tolist()) != (
            before.kind,
            before.resolution,
            before.atoms.tolist(),
        ) or self.n_targets != before.n_targets:
            raise ValueError(
                "warm_start needs the same kind, atoms and number of targets as before; "
                "set warm_start=False to begin anew"
            )
        return replace(self, shift=before.shift, scale=before.scale, mixing=before.mixing)

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Target:
        """Returns the target, or choice, that :meth:`state` described."""
        kind = Choice if config["kind"] == CHOICE else Target
        return super(Target, kind).from_state(config, tensors)

    def _atoms_instead(self, columns: Floats, ends: list[float], inside: Any) -> str:
        """What to do about values at an end of the range, where nothing lies beyond."""
        if columns.shape[1] > 1 or not (inside | ~self.is_off_atoms(columns)[:, None]).all():
            return ""
        found = [end for end in ends if end in columns]
        names = " and ".join({0.0: "zeros", 1.0: "ones"}[end] for end in found)
        places = [*self.atoms.tolist(), *(e for e in found if e not in self.atoms.tolist())]
        return f"; {names} are values with a probability of their own: add atoms={places}"

    def _refuse(self, bad: Any, must: str, y: Floats) -> None:
        bad = bad & self.is_off_atoms(y)
        if np.any(bad):
            row = int(np.argmax(bad))
            found = ", ".join(f"{v:.12g}" for v in np.ravel(y[row]))
            also = f" and atoms={self.atoms.tolist()}" if len(self.atoms) else ""
            raise ValueError(f"with target={self.kind!r}{also} y must {must}; row {row} is {found}")

    def _link(self, y: Floats) -> Tensor:
        """(N, D) real numbers that stand for y: itself, its logarithm, logit or a middle value."""
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

    def latent(self, y: Floats) -> Tensor:
        """Returns (N, D) real numbers in standard units, float64; of an interval its middle."""
        z = (self._link(y) - self.shift) / self.scale
        return z @ self.mixing.t() if len(self.mixing) else z

    def standardized(self, y: Floats) -> Tensor:
        """Returns what :meth:`log_prob` takes: :meth:`latent`, or (N, 3) ends and width."""
        if not self.likelihood_is_mass:
            return self.latent(y)
        return (self._cell(y) - self.shift * self.shift.new_tensor([1, 1, 0])) / self.scale

    def _cell(self, y: Floats) -> Tensor:
        """Lower end, upper end and width of what is known of each y, (N, 3), in y's unit."""
        known = torch.tensor(np.ascontiguousarray(y), dtype=torch.float64)
        if self.kind == "interval":
            return torch.cat([known, known.diff()], 1)
        cell = (known.reshape(-1, 1) / self.resolution).round()
        ends = (cell - 0.5) * self.resolution, (cell + 0.5) * self.resolution
        return torch.cat([*ends, torch.full_like(cell, self.resolution)], 1)

    def log_prob(self, dist: GaussianMixture, target: Tensor) -> Tensor:
        """Returns the log-likelihood in standard units: log density, or log mass of an interval.

        Where some columns of the target are NaN it is the marginal one of the others.
        """
        if not self.likelihood_is_mass:
            return dist.log_prob(target, missing="marginal")
        loc, scale = dist.loc[..., 0], dist.scale[..., 0]
        low, high, width = target.unbind(-1)
        return interval_log_likelihood(low, high, width, dist.logits, loc, scale)

    def log_likelihood(self, dist: Any, y: Floats) -> Tensor:
        """Returns the log-likelihood (N,) of y in its unit under what :meth:`to_y` gave, nats."""
        if self.kind == "interval":
            return self.log_prob(dist, self._cell(y))
        known = torch.tensor(np.ascontiguousarray(y), dtype=torch.float64).reshape(len(y), -1)
        if self.resolution:  # the distribution takes nothing but multiples
            known = (known / self.resolution).round() * self.resolution
        return dist.log_prob(known, missing="marginal" if known.shape[1] > 1 else "refuse")

    def to_y(self, dist: GaussianMixture) -> Any:
        """Returns the distribution of y, in its unit, for a mixture in standard units."""
        if len(self.mixing):
            return dist.linear(self.unmixing).affine(self.shift, 1.0)
        dist = dist.affine(self.shift, self.scale)
        if self.resolution:
            return dist.discretize(self.resolution)
        if self.has_link:
            family = LogNormal if self.kind == "positive" else LogitNormal
            parts: Distribution = Independent(family(dist.loc, dist.scale), 1)
            return Mixture(dist.logits, parts)
        return dist


class Choice(Target):
    """Which atom y is, or none of them: a class of A + 1, given by its index.

    Networks with A + 1 components and this likelihood are classifiers: the class probabilities are
    the weights, and means and scales play no part.  The latent target, which the base models fit,
    is an indicator of each atom.
    """

    @classmethod
    def of(cls, target: Target, index: Floats, weight: Floats | None) -> Choice:
        """Returns the choice between the atoms of a target, for the classes (N,) of its rows."""
        zero = torch.zeros(len(target.atoms), dtype=torch.float64)
        new = cls(CHOICE, 0.0, True, zero, zero + 1, target.atoms)
        share = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
        new.shift, scale = standardization(new._link(index), share)
        new.scale = torch.where(scale > 0, scale, 1.0)
        return new

    @property
    def likelihood_is_mass(self) -> bool:
        """True."""
        return True

    def _link(self, y: Floats) -> Tensor:
        return torch.as_tensor(y[:, None] == np.arange(len(self.atoms)), dtype=torch.float64)

    def standardized(self, y: Floats) -> Tensor:
        """Returns the class (N, 1)."""
        return torch.as_tensor(y[:, None], dtype=torch.float64)

    def log_prob(self, dist: GaussianMixture, target: Tensor) -> Tensor:
        """Returns the log of the weight of the component that has the number of the class."""
        log_w = dist.logits.expand(*target.shape[:-1], dist.n_components)
        return log_w.gather(-1, target.long()).squeeze(-1)

    def log_likelihood(self, dist: Tensor, y: Floats) -> Tensor:
        """Returns the log probability (N,) of each class under what :meth:`to_y` gave."""
        return dist.gather(-1, torch.as_tensor(y[:, None]).long()).squeeze(-1)

    def to_y(self, dist: GaussianMixture) -> Tensor:
        """Returns the log probabilities of the classes, (N, A + 1), of a pool of mixtures."""
        return dist.logits.unflatten(-1, (-1, len(self.atoms) + 1)).logsumexp(-2)


def _checked_atoms(atoms: Any, target: Target, y: Floats) -> Tensor:
    """The atoms, as y has them: a value that was stored in float32 is near its decimal only."""
    if isinstance(atoms, str | bytes):
        raise TypeError(f"atoms must be a sequence of numbers, as [0.0]; got {atoms!r}")
    places = np.asarray(atoms, dtype=np.float64)
    if places.ndim != 1 or not np.isfinite(places).all():
        raise ValueError(f"atoms must be a sequence of finite numbers, as [0.0]; got {atoms!r}")
    if len(np.unique(places)) < len(places):
        raise ValueError(f"atoms must be different; got {atoms!r}")
    if target.likelihood_is_mass:
        given = f"target={target.kind!r}" if target.kind != "real" else "resolution="
        raise ValueError(
            f"atoms need a y that has a density elsewhere; with {given} all values have a "
            "probability already: leave atoms out"
        )
    if y.ndim == 2 and y.shape[1] > 1:
        raise ValueError(f"atoms need a y of one column; got shape {y.shape}")
    single = places.astype(np.float32).astype(np.float64)
    stored = np.isin(single, y) & ~np.isin(places, y)
    return torch.as_tensor(np.where(stored, single, places))


def _standardization(columns: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (D,) each, of the values that are known."""
    known = ~columns.isnan()
    if bool(known.all()):
        return standardization(columns, weight)
    few = known.sum(0) < 2
    if bool(few.any()):
        column = int(few.nonzero()[0])
        raise ValueError(
            f"y must have at least 2 known values in every column; column {column} has "
            f"{int(known[:, column].sum())}: leave it out"
        )
    each = [
        standardization(column[here], None if weight is None else weight[here])
        for column, here in zip(columns.t(), known.t(), strict=True)
    ]
    shift, scale = (torch.stack(parts) for parts in zip(*each, strict=True))
    return shift, scale

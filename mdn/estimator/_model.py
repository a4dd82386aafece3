"""The fitted model: from encoded columns to the distribution of y."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..distribution import AtomicMixture, GaussianMixture
from ..nn import MDNEnsemble
from ..standardization import ROUNDING, column_units, compress, expand, limits
from ..train import History
from ._base_models import BaseModels, Predictions
from ._densities import Densities
from ._stacking import Stack
from ._state import Floats, Saved, State
from ._target import Target

__all__ = ["FittedGroup", "FittedModel", "InputTransform", "member_mixtures"]

_COLLINEAR = 1e-3  # least eigenvalue of the correlations below which whitened columns are added
_SINGULAR = 1e-9  # eigenvalues below are rounding
_ROWS_PER_COLUMN = 50  # rows that are needed for each column to estimate small eigenvalues
_CHUNK = 1 << 15  # rows x members of one forward pass
_NUMBERS = 1 << 20  # rows x components of the mixtures that are held at once


@dataclass
class InputTransform(Saved):
    """Standardisation of the columns, and whitened columns where they are nearly collinear.

    A value far outside the range of the training rows counts as the limit
    (:func:`mdn.standardization.limits`), so what did not vary in training has no influence.

    Attributes:
        shift, scale: (P,) mean and standard deviation of the training rows, where a column has long
            tails those of its compressed values.
        whitening: (P, Q) to uncorrelated directions of unit variance; Q is 0 where no columns are
            nearly collinear.
        tails: (3, P) centre, unit and slope of the columns with long tails, as
            :func:`mdn.standardization.compress` takes them; unit 0 for the others.
        low, high: (P + Q,) range of the training rows, in standard units.
    """

    shift: Tensor
    scale: Tensor
    whitening: Tensor
    tails: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, x: Floats, weight: Tensor | None) -> InputTransform:
        """Learns the transform from encoded columns, (N, P)."""
        shift, scale, tails, z = column_units(torch.as_tensor(x), weight)
        n, p = z.shape
        whitening = z.new_zeros(p, 0)
        if n > _ROWS_PER_COLUMN * p:
            share = torch.full((n,), 1 / n).double() if weight is None else weight / weight.sum()
            values, vectors = torch.linalg.eigh(z.t() @ (share.unsqueeze(1) * z))
            used = values > _SINGULAR
            # y may depend on a small difference of nearly collinear columns
            if bool(used.any()) and float(values[used].min()) < _COLLINEAR:
                vectors = vectors[:, used]
                largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
                whitening = vectors * largest.sign() / values[used].sqrt()
        both = torch.cat([z, z @ whitening], 1)
        return cls(shift, scale, whitening, tails, both.amin(0), both.amax(0))

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Returns the transform that :meth:`state` described, also from before there were tails."""
        p, q = tensors["whitening"].shape
        endless = tensors["shift"].new_full((p + q,), torch.inf)
        before = {"tails": torch.zeros(2, p).double(), "low": -endless, "high": endless}
        older = not before.keys() & tensors.keys()
        return super().from_state(config, before | tensors if older else tensors)

    def __call__(self, x: Floats) -> Tensor:
        """Returns (N, P + Q) columns in standard units, float64."""
        low, high = limits(self.low, self.high)
        p = len(self.shift)
        z = self._unlimited(x).clamp(low[:p], high[:p])
        return torch.cat([z, (z @ self.whitening).clamp(low[p:], high[p:])], 1)

    def far(self, x: Floats) -> Tensor:
        """Returns which values, (N, P + Q), are so far outside that a limit stands in for them.

        In a row where a column is, the whitened columns are not looked at.
        """
        low, high = limits(self.low, self.high)
        p = len(self.shift)
        raw = self._unlimited(x)
        rounding = ROUNDING * torch.as_tensor(x, dtype=torch.float64).abs() / self.scale
        far = (raw < low[:p] - rounding) | (raw > high[:p] + rounding)
        turned = raw.clamp(low[:p], high[:p]) @ self.whitening
        alone = ~far.any(1, keepdim=True)
        return torch.cat([far, ((turned < low[p:]) | (turned > high[p:])) & alone], 1)

    @property
    def range(self) -> Tensor:
        """Smallest and largest value of each column in training, (2, P), in its unit."""
        ends = torch.stack([self.low, self.high])[:, : len(self.shift)]
        return expand(self.shift + self.scale * ends, self.tails)

    def inverse(self, z: Floats) -> Floats:
        """Returns the columns (N, P), in their units, of columns (N, P) in standard units."""
        columns = self.shift + self.scale * torch.as_tensor(z, dtype=torch.float64)
        return expand(columns, self.tails).numpy()

    def _unlimited(self, x: Floats) -> Tensor:
        columns = compress(torch.as_tensor(x, dtype=torch.float64), self.tails)
        return (columns - self.shift) / self.scale


@dataclass
class FittedGroup(Saved):
    """Networks of one design, trained.

    Attributes:
        network: all of them.
        uses_trees: whether the predictions of the trees are inputs.
        subgroup_sizes: members of each subgroup, which have a stacking weight each.
        history: mean over the networks, NLL in nats in y's unit.
    """

    network: MDNEnsemble
    uses_trees: bool
    subgroup_sizes: list[int]
    history: History

    def state(self) -> State:
        """Returns the configuration and the tensors."""
        config, tensors = super().state()
        return config, {k: a.float() for k, a in tensors.items()}  # as they were trained

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Returns the group that :meth:`state` described."""
        new = super().from_state(config, tensors)
        new.network.double()
        return new


@dataclass
class FittedModel(Saved):
    """All that a prediction needs.

    Attributes:
        inputs: the transform of the encoded columns.
        base_models: whose predictions the networks take as inputs too.
        groups: the networks.
        stack: how they are pooled.
        target: the map between their units and y's.
        atoms: the classifier of the atoms of the target, if it has any; all else is then of the
            rows off the atoms.
        held_out_nll: mean over the training rows, each predicted by the networks that held it out,
            or over the rows of an ``eval_set``, its standard error, in nats in y's unit, and the
            number of rows; empty where no network predicts each held-out row.
        densities: the members of the pool that are no networks.
    """

    inputs: InputTransform
    base_models: BaseModels
    groups: list[FittedGroup]
    stack: Stack
    target: Target
    atoms: FittedModel | None = None
    held_out_nll: tuple[float, ...] = ()
    densities: Densities = field(default_factory=Densities, metadata={"later": True})

    def __post_init__(self) -> None:
        self.held_out_nll = tuple(self.held_out_nll)  # a file has lists
        width = sum(self.inputs.whitening.shape)
        if any(forest.feature.max() >= width for forest in self.base_models.forests):
            raise ValueError("the trees know more columns than there are")

    @property
    def seen(self) -> InputTransform:
        """The transform of all training rows, at the atoms or off them, which knows their range."""
        return self.inputs if self.atoms is None else self.atoms.inputs

    @property
    def subgroup_sizes(self) -> list[list[int]]:
        """Of each group, the number of members of each subgroup; the densities are alone."""
        return [*(group.subgroup_sizes for group in self.groups), *[[1]] * len(self.densities)]

    @property
    def history(self) -> History:
        """Of the group of greatest weight; "interrupted" if any group was."""
        each = self.stack.weight.split([len(sizes) for sizes in self.subgroup_sizes])
        each = each[: len(self.groups)]
        found = self.groups[int(torch.stack([part.sum() for part in each]).argmax())].history
        every = [*self.groups, *(self.atoms.groups if self.atoms else [])]
        interrupted = any(group.history.stopped == "interrupted" for group in every)
        return replace(found, stopped="interrupted") if interrupted else found

    @torch.no_grad()
    def members(self, x: Floats) -> list[GaussianMixture]:
        """Returns of each group its members' mixtures, batch (M, N), float64, standard units.

        Each of the densities is a group of its own.
        """
        z = self.inputs(x)
        found = self.base_models.predict(z, leaves=self.densities.forest is not None)
        networks = [
            member_mixtures(g.network, self.base_models.inputs(z, found.features, g.uses_trees))
            for g in self.groups
        ]
        return networks + self.density_members(z, found)

    def density_members(self, z: Tensor, found: Predictions) -> list[GaussianMixture]:
        """Returns the densities, batch (1, N), for columns (N, P + Q) and base models."""
        if not len(self.densities):
            return []
        columns = z[:, : len(self.inputs.shift)].numpy()
        processes = self.base_models.process_locations(found.features)
        return self.densities.members(columns, processes, found.leaves)

    def chunks(self, n: int) -> list[slice]:
        """Returns the chunks of n rows that are predicted one after the other.

        The mixtures of one fit into bounded memory.  All methods take the same chunks: a matrix
        product rounds the numbers of a row by how many rows are beside it, so that with others
        methods would differ in the last digit.
        """
        components = 1 + sum(g.network.n_members * g.network.n_components for g in self.groups)
        components += self.densities.n_components
        step = max(1, _NUMBERS // (components * self.target.n_targets))
        return [slice(i, i + step) for i in range(0, max(n, 1), step)]

    def distributions(self, x: Floats) -> Iterator[tuple[slice, Any]]:
        """Yields chunks of rows and the distributions of y in them: see :meth:`distribution`."""
        for rows in self.chunks(len(x)):
            yield rows, self._in_units_of_y(self.latent(x[rows]), x[rows])

    def distribution(self, x: Floats) -> Any:
        """Returns the distribution of y for every row of encoded columns, in y's unit.

        Beside what is returned, its computation takes memory for one copy of it and for a chunk.
        """
        parts = [self.latent(x[rows]) for rows in self.chunks(len(x))]
        return self._in_units_of_y(parts[0] if len(parts) == 1 else GaussianMixture.cat(parts), x)

    def latent(self, x: Floats) -> GaussianMixture:
        """Returns the pool of all members, batch (N,), of the latent target, in standard units."""
        return self.stack.pool(self.members(x), self.subgroup_sizes)

    def _in_units_of_y(self, pool: GaussianMixture, x: Floats) -> Any:
        """The distribution of y for a pool in standard units, beside the atoms if there are any."""
        dist = self.target.to_y(pool)
        if self.atoms is None:
            return dist
        log_p = [self.atoms.distribution(x[rows]) for rows in self.chunks(len(x))]
        return AtomicMixture(dist, self.target.atoms, torch.cat(log_p))

    def variances(self, x: Floats) -> tuple[Tensor, Tensor]:
        """Returns the variance within and between the members, (N, D), of the latent target."""
        parts = [self._variances(x[rows]) for rows in self.chunks(len(x))]
        within, between = zip(*parts, strict=True)
        return torch.cat(within), torch.cat(between)

    def _variances(self, x: Floats) -> tuple[Tensor, Tensor]:
        members = self.stack.members(self.members(x))
        mean = torch.cat([mixture.mean for mixture in members])  # (M, N, D)
        w = self.stack.weights(self.subgroup_sizes).reshape(-1, 1, 1)
        gap = mean - (w * mean).sum(0)
        if not len(self.target.mixing):
            variance = torch.cat([mixture.variance for mixture in members])
            square = self.target.scale.square()
            return (w * variance).sum(0) * square, (w * gap.square()).sum(0) * square
        turn = self.target.unmixing
        covariance = torch.cat([mixture.covariance for mixture in members])  # (M, N, D, D)
        within = turn @ (w.unsqueeze(-1) * covariance).sum(0) @ turn.t()
        return within.diagonal(dim1=-2, dim2=-1), (w * (gap @ turn.t()).square()).sum(0)


@torch.no_grad()
def member_mixtures(network: MDNEnsemble, x: Tensor) -> GaussianMixture:
    """Returns the mixtures (M, N) of all members for the same rows (N, F), float64."""
    weight = network.head_bias
    x = x.to(weight.dtype).to(weight.device)
    step = max(1, _CHUNK // network.n_members)
    parts = [network(x[i : i + step]).to("cpu").to(torch.float64) for i in range(0, len(x), step)]
    return parts[0] if len(parts) == 1 else GaussianMixture.cat(parts, 1)

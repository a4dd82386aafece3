"""What is fitted for a number of rows: the networks, their training and the base models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["TINY", "GroupPlan", "Plan", "Settings", "plan", "revision"]

TINY = 20  # rows below which a smaller model is fitted
_SMALL, _LARGE = 3000, 20_000  # rows at which the plan changes
_MAX_PROCESS_ROWS, _MAX_FAST_PROCESS_ROWS = 2500, 1000  # of a Gaussian process
# Where y has next to no noise, training is longer by these factors at these numbers of rows, also
# for preset="fast", which has one group instead of two from 1000 rows on.
_LONGER = ((700, 850), (8.0, 2.0)), ((250, 1000, 3000), (3.0, 1.0, 2.0))
_LOW_NOISE_RATE = 5e-3  # largest learning rate of the default, then
_LOW_NOISE_MEMBERS = 1.5  # times as many in the default's one group where a process replaces trees
_RATES, _LATE_RATE = (7e-3, 1e-2), 2e-3  # largest learning rates: for few rows and more, and large
_FEW = 700  # rows that are few
_BATCH = 128  # rows of a step from there on to _SMALL
_MIN_HALVED = 8  # members of which half may leave out the process


class GroupPlan(NamedTuple):
    """Networks of one design.

    Attributes:
        members: M.
        repeats: number of members that hold out a row, at least.
        uses_trees: whether the predictions of the trees are inputs.
        embeds: whether the columns are embedded.
        n_without_process: members that do not have the predictions of the processes as inputs.
    """

    members: int
    repeats: int
    uses_trees: bool
    embeds: bool
    n_without_process: int = 0

    @property
    def subgroup_sizes(self) -> list[int]:
        """Members without and with the process; one number where all are alike."""
        without = self.n_without_process
        return [without, self.members - without] if without else [self.members]


@dataclass(frozen=True)
class Plan:
    """What is fitted, for a number of rows.

    Attributes:
        groups: the networks.
        hidden, n_components, learning_rate, batch_size, max_epochs, patience: of all networks.
        n_folds: of the out-of-fold predictions of the base models.
        process_rows: rows that a Gaussian process is fitted to; 0 for no process.
        uses_process: whether its predictions are inputs; else they only measure the noise of y.
    """

    groups: tuple[GroupPlan, ...]
    hidden: tuple[int, ...]
    n_components: int
    learning_rate: float
    batch_size: int | None
    max_epochs: int
    patience: int
    n_folds: int
    process_rows: int
    uses_process: bool

    def with_longer_training(self, n: int, settings: Settings) -> Plan:
        """For targets with next to no noise, where the networks improve for many more epochs."""
        factor = float(np.interp(n, *_LONGER[settings.fast]))
        slower = self.learning_rate if settings.fast else min(self.learning_rate, _LOW_NOISE_RATE)
        return replace(
            self,
            learning_rate=settings.learning_rate or slower,
            batch_size=settings.batch_size if not settings.fast else self.batch_size,
            max_epochs=settings.max_epochs or round(factor * self.max_epochs),
            patience=settings.patience or round(factor * self.patience),
        )

    def without_trees(self, settings: Settings, *, with_process: bool) -> Plan:
        """One group without trees, as large as the largest or as the user wants it.

        Half of it leaves out the process too: its out-of-fold predictions have errors, which
        mislead networks that can come closer on their own.
        """
        largest = max(self.groups, key=lambda g: g.members)
        members = largest.members
        if with_process and not settings.fast:
            members = round(_LOW_NOISE_MEMBERS * members)
        size = settings.ensemble_size or members
        is_halved = with_process and size >= _MIN_HALVED
        repeats = 2 if is_halved else largest.repeats
        without = size // 2 if is_halved else 0
        return replace(self, groups=(GroupPlan(size, repeats, False, True, without),))

    def process_is_fast(self, settings: Settings) -> bool:
        """Whether a process is fitted in fewer steps: it is so if it only measures the noise."""
        return settings.fast or not self.uses_process

    def times(self, factor: float) -> Plan:
        """With ``factor`` times as many networks, at least two in each group."""
        return replace(self, groups=tuple(_times(group, factor) for group in self.groups))


@dataclass(frozen=True)
class Settings:
    """The user's choices for the networks and their training; None where the data decide."""

    n_components: int | None
    hidden: tuple[int, ...] | None
    ensemble_size: int | None
    trees: bool
    fast: bool
    covariance_type: str
    min_scale: float
    learning_rate: float | None
    weight_decay: float
    batch_size: int | None
    max_epochs: int | None
    patience: int | None
    max_time: float | None
    n_jobs: int | None
    device: torch.device
    seed: int = 0
    classes: bool = False  # y is a class; see plan


def plan(n: int, settings: Settings) -> Plan:
    """Returns the defaults for n rows, with the user's choices in their place.

    Of classes there is no process.  It comes so near to the y of its own rows that the
    probabilities of training rows would be twice to four times as far from the truth, in nats, as
    those of new rows, and new rows gain nothing.
    """
    hidden: tuple[int, ...] = (64, 64)
    components = 5
    rate = _RATES[n >= _FEW] if settings.fast or n < _LARGE else _LATE_RATE
    batch = _BATCH if _FEW <= n < _SMALL else None
    if n < TINY:
        sizes = [(4, 2)]
        hidden, components, epochs, patience, folds = (16,), 2, 200, 30, 4
    elif settings.fast:
        sizes = [(8, 2) if n < _SMALL else (6, 2) if n < _LARGE else (4, 1)] * 2
        epochs, patience, folds = (120, 20, 4) if n < _SMALL else (30, 8, 3)
    elif n < _LARGE:
        sizes = [(16, 2)] * 2
        epochs, patience, folds = 100, 20, 8 if n < _SMALL else 6
    else:
        sizes = [(4, 1), (8, 2)]
        hidden, epochs, patience, folds = (128, 128), 100, 15, 4
    if not settings.trees:
        sizes = [max(sizes, key=lambda size: size[0])]
    groups = [GroupPlan(*size, uses_trees=i > 0, embeds=i == 0) for i, size in enumerate(sizes)]
    if settings.ensemble_size is not None:
        groups = _resized(groups, settings.ensemble_size)
    most = _MAX_FAST_PROCESS_ROWS if settings.fast else _MAX_PROCESS_ROWS
    some = min(most, _MAX_FAST_PROCESS_ROWS)
    return Plan(
        tuple(groups),
        settings.hidden if settings.hidden is not None else hidden,
        settings.n_components or components,
        settings.learning_rate or rate,
        settings.batch_size or batch,
        settings.max_epochs or epochs,
        settings.patience or patience,
        folds,
        process_rows=0 if settings.classes else n if n <= most else some,
        uses_process=n <= most and not settings.classes,
    )


def revision(n: int, *, fast: bool) -> int:
    """Returns the revision of the defaults for n rows, which stored results name.

    It is raised where a change moves the predictions of the defaults by more than noise.
    """
    if n < _SMALL:
        return 8
    return 7 if fast else 5


def _resized(groups: Sequence[GroupPlan], size: int) -> list[GroupPlan]:
    """The groups with as many members in all as the user wants; the last group has the most."""
    groups = list(groups)[-size:]
    share = [size // len(groups)] * len(groups)
    share[-1] += size - sum(share)
    return [
        g._replace(members=m, repeats=min(g.repeats, max(1, m // 4)))
        for g, m in zip(groups, share, strict=True)
    ]


def _times(group: GroupPlan, factor: float) -> GroupPlan:
    """The group with ``factor`` times as many members; few of them hold out a row once."""
    members = max(2, int(factor * group.members))
    repeats = group.repeats if factor >= 1 else min(group.repeats, max(1, members // 4))
    without = members // 2 if group.n_without_process and members >= _MIN_HALVED else 0
    return group._replace(members=members, repeats=repeats, n_without_process=without)

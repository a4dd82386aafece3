"""What of a fit can be done in the time that it may take, ``max_time``.

The fit is the first of these that the time is enough for, by the time that small pieces of its
stages take: that of the user's settings; that of ``"fast"``; the same without the Gaussian process;
the same without trees.  Once its base models are fitted, the networks of ``"fast"`` become as many
as fill the time that is left.  Their learning rate falls to its end within it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..nn import MDNEnsemble
from ..train import fit_ensemble
from ..train._options import ensemble_batch_size
from ..warnings import TrainingWarning, warn
from ._gaussian_process import process_seconds
from ._plan import GroupPlan, Plan, Settings, plan
from ._trees import difference, trees_seconds

__all__ = ["Budget", "clock", "within"]

clock = time.monotonic

_USED = 0.95  # of the time that is left, which estimates of a whole fit may fill
_RESERVE = 0.1  # of the whole time, for the stack
_TREES_END = 0.3  # of the whole time, which must be left when the last tree is grown
_EPOCHS = 16, 1.1  # after which most networks stop: so many, and so many times the patience
_EMBEDDING = 1.6  # times as long as others networks take that embed their columns
# How many times the networks of preset="fast" without trees must fit in for more to be considered.
_REACH_OF_TREES, _REACH_OF_DEFAULT = 1.0, 3.0
_LEAST = 0.8  # of the networks of "fast", which must fit in beside its base models
_MOST = 6.0  # times as many networks as "fast" has without a limit
_TRIAL = 0.05  # of the time that is left; what takes longer is not measured a second time
_TRIED_STEPS = 4
_TRIED_ROWS = 10_000  # on which trees are tried, at most


@dataclass
class Budget:
    """The time of one fit.

    Attributes:
        seconds: of the whole fit; None without a limit.
        left_out: what was left out of the fit, for the warning.
        costs: of the networks, if as many are trained as the time is enough for.
        most: times as many networks as planned that there may be then.
    """

    seconds: float | None
    left_out: list[str] = field(default_factory=list)
    costs: _Costs | None = None
    most: float = 1.0
    begin: float = field(default_factory=lambda: clock())

    def left(self) -> float:
        """Returns the seconds that are left, maybe below 0."""
        return math.inf if self.seconds is None else self.seconds - (clock() - self.begin)

    def lets_trees_grow(self) -> bool:
        """Whether another forest may be begun."""
        return self.seconds is None or self.left() > _TREES_END * self.seconds

    def share(self, groups: Sequence[GroupPlan]) -> float | None:
        """Returns what the first of the groups to train may take; None without a limit."""
        if self.seconds is None:
            return None
        sizes = [(_EMBEDDING if group.embeds else 1.0) * group.members for group in groups]
        return self._for_networks() * sizes[0] / sum(sizes)

    def filled(self, todo: Plan) -> Plan:
        """Returns the plan with as many networks as there is time for, where it decides that."""
        if self.costs is None:
            return todo
        once = self.costs.networks(todo)
        factor = min(self.most, self._for_networks() / once)
        if factor > 1:  # each one takes less time the more there are
            slope = (self.costs.networks(todo.times(factor)) - once) / (factor - 1)
            factor = min(self.most, 1 + (self._for_networks() - once) / max(slope, 0.1 * once))
        found = todo.times(factor)
        before, after = (sum(group.members for group in each.groups) for each in (todo, found))
        if after < before:
            self.left_out.append(f"there are {after} networks instead of {before}")
        return found

    def _for_networks(self) -> float:
        return max(self.left() - _RESERVE * (self.seconds or 0.0), 1e-3)

    def warn(self, epochs: int | None, most: int) -> None:
        """Warns of all that was left out; ``epochs`` if it was time that ended the training."""
        found = list(self.left_out)
        if epochs is not None:
            found.append(f"training ended after {epochs} of at most {most} epochs")
        if found:
            warn(
                f"max_time={self.seconds:g} s is too short for the whole fit: {', '.join(found)}; "
                "the model is complete, but a longer max_time may give a better one",
                TrainingWarning,
            )


def within(
    budget: Budget, z: Tensor, latent: Tensor, n_columns: int, n: int, settings: Settings
) -> tuple[Settings, Plan]:
    """Returns the settings and the plan of the best fit that the time is enough for.

    Args:
        budget: the time, where what is left out is written down.
        z: (N, P + Q) columns in standard units.
        latent: (N, D) targets in standard units.
        n_columns: P.
        n: distinct rows, by which plans are made.
        settings: the user's choices.
    """
    seconds = budget.seconds
    whole = plan(n, settings)
    if seconds is None:
        return settings, whole
    costs = _Costs(z, latent, n_columns, budget, settings.covariance_type)

    def available() -> float:
        return _USED * budget.left() - _RESERVE * seconds

    fast = replace(settings, fast=True)
    small = plan(n, fast)
    no_process = replace(small, process_rows=0, uses_process=False)
    no_trees = no_process.without_trees(fast, with_process=False) if settings.trees else no_process
    # the networks of the least fit show first how much is within reach, as measuring takes time too
    reach = available() / costs.networks(no_trees)
    for least_reach, share, each, todo in (
        (_REACH_OF_TREES if settings.fast else _REACH_OF_DEFAULT, 1.0, settings, whole),
        (_REACH_OF_TREES, _LEAST, fast, small),
        (_REACH_OF_TREES, _LEAST, fast, no_process),
    ):
        enough = reach >= least_reach and available() >= costs.base_models(each, todo)
        if enough and available() >= costs.base_models(each, todo) + share * costs.networks(todo):
            break
    else:
        each, todo = fast, no_trees
    if todo is whole:
        return each, todo
    budget.costs = costs
    if not settings.fast:
        budget.left_out.append("the settings are those of preset='fast'")
        if settings.ensemble_size is None:
            budget.most = _MOST
    if settings.trees and small.process_rows and todo is not small:
        budget.left_out.append("there is no Gaussian process")
    if settings.trees and todo is no_trees:
        budget.left_out.append("there are no trees")
    return each, todo


class _Costs:
    """Estimates of the seconds that stages take, each measured once."""

    def __init__(
        self, z: Tensor, latent: Tensor, n_columns: int, budget: Budget, covariance_type: str
    ) -> None:
        self.z, self.latent, self.n_columns, self.budget = z, latent, n_columns, budget
        self.covariance_type = covariance_type
        self.known: dict[object, float] = {}

    def base_models(self, settings: Settings, todo: Plan) -> float:
        """Of the Gaussian processes and trees."""
        if not any(group.uses_trees for group in todo.groups):
            return 0.0
        return self._process(settings, todo) + self._trees(settings, todo)

    def networks(self, todo: Plan) -> float:
        """Of the epochs that most networks take."""
        epochs = min(todo.max_epochs, _EPOCHS[0] + _EPOCHS[1] * todo.patience)
        return sum(epochs * self._epoch(todo, group) for group in todo.groups)

    def _epoch(self, todo: Plan, group: GroupPlan) -> float:
        n = len(self.z)
        n = max(1, round(n * (1 - group.repeats / group.members)))  # the others are held out
        batch = min(n, todo.batch_size or ensemble_batch_size(n))
        key = (group.members, group.embeds, todo.hidden, batch)
        if key not in self.known:
            self.known[key] = self._step(todo, group, batch)
        return self.known[key] * max(1, n // batch)

    def _step(self, todo: Plan, group: GroupPlan, batch: int) -> float:
        """Of one step of the networks, on rows of noise."""
        generator = torch.Generator().manual_seed(0)
        columns, d = self.z.shape[1] + 5 * group.uses_trees, self.latent.shape[1]
        x = torch.randn((_TRIED_STEPS + 1) * batch, columns, generator=generator)
        y = torch.randn(len(x), d, generator=generator)
        held_out = torch.zeros(group.members, len(x), dtype=torch.bool)
        held_out[:, :batch] = True
        network = MDNEnsemble(
            group.members,
            columns,
            d,
            todo.n_components,
            todo.hidden,
            embedded=range(min(self.n_columns, columns)) if group.embeds else (),
            covariance_type=self.covariance_type,
            generator=generator,
        )
        seconds: list[float] = []
        # the first call of all also prepares what later ones find
        for epochs in (1, 3) if self.known else (1, 1, 3):
            begin = clock()
            fit_ensemble(network, x, y, held_out, batch_size=batch, max_epochs=epochs)
            seconds.append(clock() - begin)
            if seconds[0] > _TRIAL * self.budget.left():
                return 0.5 * seconds[0] / _TRIED_STEPS
        return difference(*seconds[-2:], factor=3) / _TRIED_STEPS

    def _process(self, settings: Settings, todo: Plan) -> float:
        if not todo.process_rows:
            return 0.0
        fast = todo.process_is_fast(settings)
        key = ("process", fast)
        if key not in self.known:
            x = self.z[: todo.process_rows, : self.n_columns].numpy()
            self.known[key] = process_seconds(x, fast=fast, seconds=clock)
        return self.known[key] * self.latent.shape[1]

    def _trees(self, settings: Settings, todo: Plan) -> float:
        key = ("trees", settings.fast)
        if key not in self.known:
            n = len(self.z)
            step = -(-n // _TRIED_ROWS)  # rows are sorted, so some of all are taken
            x, y = self.z[::step].numpy(), self.latent[::step].nan_to_num().numpy()
            one = trees_seconds(x, y[:, 0], n, fast=settings.fast, classes=settings.classes,
                                n_jobs=settings.n_jobs, seconds=clock)  # fmt: skip
            self.known[key] = one * self.latent.shape[1] * (todo.n_folds + 1)
        return self.known[key]

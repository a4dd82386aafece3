"""What of a fit can be done in the time that it may take, ``max_time``.

Each stage is measured by a small piece of it, before any is begun.  What is too long is left out in
this order: what the default preset has more than ``"fast"``, the Gaussian process, the trees, and
networks.  The learning rate then falls to its end in the time that the networks have.
"""

from __future__ import annotations

import math
import time
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

_USED = 0.8  # of the time that is left, which estimates may fill
_RESERVE = 0.1  # of the whole time, for the stack
_TREES_END = 0.3  # of the whole time, which must be left when the last tree is grown
_EPOCHS = 0.35  # of max_epochs; most networks stop there
# How many times the networks of preset="fast" must fit in for more to be considered.
_REACH_OF_TREES, _REACH_OF_DEFAULT = 1.5, 4.0
_TRIAL = 0.05  # of the time that is left; what takes longer is not measured a second time
_MIN_MEMBERS = 2
_TRIED_STEPS = 4
_TRIED_ROWS = 10_000  # on which trees are tried, at most


@dataclass
class Budget:
    """The time of one fit.

    Attributes:
        seconds: of the whole fit; None without a limit.
        left_out: what was left out of the fit, for the warning.
    """

    seconds: float | None
    left_out: list[str] = field(default_factory=list)
    begin: float = field(default_factory=lambda: clock())

    def left(self) -> float:
        """Returns the seconds that are left, maybe below 0."""
        return math.inf if self.seconds is None else self.seconds - (clock() - self.begin)

    def lets_trees_grow(self) -> bool:
        """Whether another forest may be begun."""
        return self.seconds is None or self.left() > _TREES_END * self.seconds

    def share(self, parts: int) -> float | None:
        """Returns an equal share of what is left for the networks; None without a limit."""
        if self.seconds is None:
            return None
        return max((self.left() - _RESERVE * self.seconds) / parts, 1e-3)

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
    if seconds is None:
        return settings, plan(n, settings)
    costs = _Costs(z, latent, n_columns, budget)

    def available() -> float:
        return _USED * budget.left() - _RESERVE * seconds

    # the networks of a small fit show first how much is within reach, as measuring takes time too
    fast = replace(settings, fast=True)
    small = whole = plan(n, fast)
    if any(group.uses_trees for group in whole.groups):
        small = whole.without_trees(fast, with_process=False)
        small = replace(small, process_rows=0, uses_process=False)
    reach = max(available(), 0.0) / costs.networks(small, fast)
    chosen = fast, small
    for least, each, todo in (
        (_REACH_OF_DEFAULT, settings, plan(n, settings)),
        (_REACH_OF_TREES, fast, whole),
        (_REACH_OF_TREES, fast, replace(whole, process_rows=0, uses_process=False)),
    ):
        if reach >= least and costs.whole(each, todo) <= available():
            chosen = each, todo
            break
    else:
        if reach < 1:
            chosen = fast, _with_fewer_networks(small, reach)
    budget.left_out += _left_out(*chosen, plan(n, chosen[0]), settings)
    return chosen


def _with_fewer_networks(todo: Plan, share: float) -> Plan:
    """A plan of one group with a share of its networks."""
    (group,) = todo.groups
    members = min(group.members, max(_MIN_MEMBERS, int(share * group.members)))
    repeats = min(group.repeats, max(1, members // 4))
    group = group._replace(members=members, repeats=repeats, n_without_process=0)
    return replace(todo, groups=(group,))


def _left_out(chosen: Settings, todo: Plan, whole: Plan, settings: Settings) -> list[str]:
    """What a plan lacks of the whole one of its settings, and those of the user's."""
    found = []
    if chosen.fast and not settings.fast:
        found.append("the settings are those of preset='fast'")
    trees = any(group.uses_trees for group in whole.groups)
    if trees and whole.process_rows and not todo.process_rows:
        found.append("there is no Gaussian process")
    if trees and not any(group.uses_trees for group in todo.groups):
        found.append("there are no trees")
    counts = [sum(group.members for group in p.groups) for p in (todo, whole)]
    if counts[0] < counts[1]:
        found.append(f"there are {counts[0]} networks instead of {counts[1]}")
    return found


class _Costs:
    """Estimates of the seconds that stages take, each measured once."""

    def __init__(self, z: Tensor, latent: Tensor, n_columns: int, budget: Budget) -> None:
        self.z, self.latent, self.n_columns, self.budget = z, latent, n_columns, budget
        self.known: dict[object, float] = {}

    def whole(self, settings: Settings, todo: Plan) -> float:
        """Of a plan with its base models."""
        found = self.networks(todo, settings)
        if any(group.uses_trees for group in todo.groups):
            found += self._process(settings, todo) + self._trees(settings, todo)
        return found

    def networks(self, todo: Plan, settings: Settings) -> float:
        """Of the epochs that most networks take."""
        return sum(
            _EPOCHS * todo.max_epochs * self._epoch(settings, todo, group) for group in todo.groups
        )

    def _epoch(self, settings: Settings, todo: Plan, group: GroupPlan) -> float:
        n = len(self.z)
        batch = min(n, todo.batch_size or ensemble_batch_size(n))
        key = (group.members, todo.hidden, batch)
        if key not in self.known:
            self.known[key] = self._step(settings, todo, group, batch)
        return self.known[key] * max(1, n // batch)

    def _step(self, settings: Settings, todo: Plan, group: GroupPlan, batch: int) -> float:
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
            covariance_type=settings.covariance_type,
            generator=generator,
        )
        seconds: list[float] = []
        for epochs in (1, 1, 3):  # the first call also prepares what later ones find
            begin = clock()
            fit_ensemble(network, x, y, held_out, batch_size=batch, max_epochs=epochs)
            seconds.append(clock() - begin)
            if seconds[0] > _TRIAL * self.budget.left():
                return 0.5 * seconds[0] / _TRIED_STEPS
        return difference(*seconds[1:], factor=3) / _TRIED_STEPS

    def _process(self, settings: Settings, todo: Plan) -> float:
        if not todo.process_rows:
            return 0.0
        key = ("process", settings.fast)
        if key not in self.known:
            x = self.z[: todo.process_rows, : self.n_columns].numpy()
            self.known[key] = process_seconds(x, fast=settings.fast, seconds=clock)
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

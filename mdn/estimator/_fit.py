"""The default model: networks with and without the word of trees, cross-fitted and pooled."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distribution import GaussianMixture
from ..nn import MDNEnsemble
from ..standardization import standardization
from ..train import History, fit_ensemble
from ._gaussian_process import GaussianProcess
from ._stacking import Stack
from ._target import Target
from ._trees import TreeFeatures, n_forests

__all__ = ["FittedModel", "Plan", "Settings", "plan", "revision", "train"]

Floats = NDArray[np.floating[Any]]

_TINY = 20  # rows below which a smaller model is fitted
_SMALL, _LARGE = 3000, 20_000  # rows at which the plan changes
_MOST_EMBEDDED = 64  # numbers columns that are embedded, at most
_MOST_IN_PROCESS = 2500, 50  # rows and columns of a Gaussian process, at most
_MOST_IN_FAST_PROCESS = 1000  # rows, with preset="fast"
_QUIET = 0.1  # error out of fold, in sd of y, below which training goes on for longer:
# by these factors at these numbers of rows, also for preset="fast", which has one group instead of
# two from 1000 rows on
_LONGER = ((700, 850), (4.5, 1.3)), ((250, 1000, 3000), (3.0, 1.0, 2.0))
_RATE, _FAST_RATES = 2e-3, (7e-3, 1e-2)  # largest learning rates; fast: for few rows and many
_FEW = 700  # rows that are few for preset="fast"
_FAST_STEP = 128  # rows of its steps from there on to _SMALL
_COLLINEAR = 1e-3  # least eigenvalue of the correlations from which on they are worth turning
_NOISE = 1e-9  # eigenvalues below are rounding
_ROWS_A_DIRECTION = 50  # rows a column needs before its small directions are believed
# What trees or processes say is not blown up beyond this spread, in standard deviations of y: what
# is left there is how the rows held out move the mean of the others, a picture of their own y.
_LEAST_SPREAD = 0.1
_LEAST_HALVED = 8  # members of whom half may do without the process
_CHUNK = 1 << 15  # rows x members of one forward pass


class Group(NamedTuple):
    """Members of one design.

    Attributes:
        members: M.
        repeats: how many members hold out a row, at least.
        trees: whether they see what the trees say.
        embeds: whether the columns are embedded.
        alone: how many of them do not see what the processes say either.
    """

    members: int
    repeats: int
    trees: bool
    embeds: bool
    alone: int = 0

    @property
    def parts(self) -> list[int]:
        """Members of each kind."""
        return [self.alone, self.members - self.alone] if self.alone else [self.members]


@dataclass(frozen=True)
class Plan:
    """What is fitted, for a number of rows."""

    groups: tuple[Group, ...]
    hidden: tuple[int, ...]
    n_components: int
    learning_rate: float
    batch_size: int | None
    max_epochs: int
    patience: int
    tree_folds: int
    fast_trees: bool
    process: bool

    def prolonged(self, n: int, settings: Settings) -> Plan:
        """For targets with next to no noise, which networks follow ever closer."""
        factor = float(np.interp(n, *_LONGER[settings.fast]))
        return replace(
            self,
            max_epochs=settings.max_epochs or round(factor * self.max_epochs),
            patience=settings.patience or round(factor * self.patience),
        )

    def without_trees(self, settings: Settings, *, processes: bool) -> Plan:
        """One group, as large as the largest or as the user wants it, which sees no trees.

        Half of it does without the process too: what that says of rows held out has errors, and
        networks that come closer alone are led astray by it.
        """
        largest = max(self.groups, key=lambda g: g.members)
        size = settings.ensemble_size or largest.members
        many = size >= _LEAST_HALVED
        repeats = 2 if many else largest.repeats
        alone = size // 2 if many and processes else 0
        return replace(self, groups=(Group(size, repeats, trees=False, embeds=True, alone=alone),))


@dataclass(frozen=True)
class Settings:
    """What the user said of the networks and their training; None where the data decide."""

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


def plan(n: int, settings: Settings) -> Plan:
    """The defaults for n rows, and what the user wants otherwise."""
    hidden: tuple[int, ...] = (64, 64)
    components = 5
    rate = _FAST_RATES[n >= _FEW] if settings.fast else _RATE
    step = _FAST_STEP if settings.fast and _FEW <= n < _SMALL else None
    if n < _TINY:
        groups = [Group(4, 2, trees=False, embeds=True)]
        hidden, components, epochs, patience, folds = (16,), 2, 200, 30, 4
    elif settings.fast:
        m, r = (8, 2) if n < _SMALL else (6, 2) if n < _LARGE else (4, 1)
        groups = [Group(m, r, trees=False, embeds=True), Group(m, r, trees=True, embeds=False)]
        epochs, patience, folds = (120, 20, 4) if n < _SMALL else (30, 8, 3)
    elif n < _SMALL:
        groups = [Group(24, 3, trees=False, embeds=True), Group(24, 3, trees=True, embeds=False)]
        epochs, patience, folds = 400, 50, 8
    elif n < _LARGE:
        groups = [Group(8, 2, trees=False, embeds=True), Group(12, 2, trees=True, embeds=False)]
        hidden, epochs, patience, folds = (128, 128), 200, 30, 6
    else:
        groups = [Group(4, 1, trees=False, embeds=True), Group(8, 2, trees=True, embeds=False)]
        hidden, epochs, patience, folds = (128, 128), 100, 15, 4
    if not settings.trees:
        most = max(groups, key=lambda g: g.members)
        groups = [most._replace(trees=False, embeds=True)]
    if settings.ensemble_size is not None:
        groups = _resized(groups, settings.ensemble_size)
    return Plan(
        tuple(groups),
        settings.hidden if settings.hidden is not None else hidden,
        settings.n_components or components,
        settings.learning_rate or rate,
        settings.batch_size or step,
        settings.max_epochs or epochs,
        settings.patience or patience,
        folds,
        settings.fast,
        n <= (_MOST_IN_FAST_PROCESS if settings.fast else _MOST_IN_PROCESS[0]),
    )


def revision(n: int, *, fast: bool) -> int:
    """Of the defaults for n rows: raised where a change moves what they predict by more than noise.

    Stored results name theirs.
    """
    if n < _SMALL:
        return 6
    return 5 if fast else 3


def _resized(groups: Sequence[Group], size: int) -> list[Group]:
    """The groups with as many members in all as the user wants; the last group has the most."""
    groups = list(groups)[-size:]
    share = [size // len(groups)] * len(groups)
    share[-1] += size - sum(share)
    return [
        g._replace(members=m, repeats=min(g.repeats, max(1, m // 4)))
        for g, m in zip(groups, share, strict=True)
    ]


@dataclass
class FittedModel:
    """All that a prediction needs, in standard units of y.

    Attributes:
        x_shift, x_scale: (P,) of the encoded columns.
        turn: (P, Q) to uncorrelated directions of unit variance, for collinear columns; Q may be 0.
        trees: grown on all rows; None without, or where a process said it all.
        processes: Gaussian processes, one for each target; none for large samples.
        told_shift, told_scale: of what processes and trees say.
        uses_trees: of each group.
        groups: the networks.
        parts: of each group how many members are of each kind, which the stack weighs.
        stack: how they are pooled.
        target: the way back to y's unit.
        histories: of each group, in y's unit.
    """

    x_shift: Tensor
    x_scale: Tensor
    turn: Tensor
    trees: TreeFeatures | None
    processes: list[GaussianProcess]
    told_shift: Tensor
    told_scale: Tensor
    uses_trees: list[bool]
    groups: list[MDNEnsemble]
    parts: list[list[int]]
    stack: Stack
    target: Target
    histories: list[History] = field(default_factory=list)

    @property
    def history(self) -> History:
        """Of the group of most weight."""
        whole = [part.sum() for part in self.stack.weight.split([len(p) for p in self.parts])]
        return self.histories[int(torch.stack(whole).argmax())]

    def standard(self, x: Floats) -> Tensor:
        """(N, P + Q) columns in standard units, float64."""
        z = (torch.as_tensor(x, dtype=torch.float64) - self.x_shift) / self.x_scale
        return torch.cat([z, z @ self.turn], 1)

    def told(self, z: Tensor) -> Tensor:
        """What processes and trees say of rows in standard units, in units of its own."""
        x = z.numpy()
        parts = [x[:, :0], *(p.predict(x[:, : len(self.x_shift)]) for p in self.processes)]
        if self.trees is not None:
            parts.append(self.trees.predict(x))
        return self.in_units(np.concatenate(parts, 1))

    def inputs(self, z: Tensor, told: Tensor, trees: bool) -> Tensor:
        """What a group sees: the columns, the word of the processes and, if so, of the trees."""
        return torch.cat([z, told if trees else told[:, : 2 * len(self.processes)]], 1)

    def in_units(self, said: Floats) -> Tensor:
        """Standardised by what was said of the training rows."""
        return (torch.as_tensor(said, dtype=torch.float64) - self.told_shift) / self.told_scale

    @torch.no_grad()
    def members(self, x: Floats) -> list[GaussianMixture]:
        """Of each group the mixtures of its members, batch (M, N), float64, standard units."""
        z = self.standard(x)
        told = self.told(z)
        return [
            _forward(network, self.inputs(z, told, uses))
            for network, uses in zip(self.groups, self.uses_trees, strict=True)
        ]

    def distribution(self, x: Floats) -> Any:
        """The distribution of y for every row, in y's unit."""
        return self.target.finish(self.stack.pool(self.members(x), self.parts))


@torch.no_grad()
def _forward(network: MDNEnsemble, x: Tensor) -> GaussianMixture:
    """Mixtures (M, N) of all members for the same rows (N, F), float64."""
    weight = network.head_bias
    x = x.to(weight.dtype).to(weight.device)
    step = max(1, _CHUNK // network.n_members)
    parts = [network(x[i : i + step]).to("cpu").to(torch.float64) for i in range(0, len(x), step)]
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    rows = [zip(*(p._covariance.tensors for p in parts), strict=True)]
    covariance = type(first._covariance)(*(torch.cat(a, 1) for a in rows[0]))
    return first._like(
        torch.cat([p.logits for p in parts], 1), torch.cat([p.loc for p in parts], 1), covariance
    )


def train(
    x: Floats,
    numeric: NDArray[np.bool_],
    y: Floats,
    weight: Floats | None,
    settings: Settings,
    *,
    target: Target,
    floor: float,
    seed: int,
    val: tuple[Floats, Floats] | None,
    start: FittedModel | None,
    report: Callable[[str, int, int], None],
) -> FittedModel:
    """Grows the trees, trains the networks and learns how to pool them.

    Args:
        x: (N, P) encoded columns; numeric (P,) tells which are numbers.
        y: (N,) or (N, D) as ``target`` takes it.
        weight: (N,) or None.
        settings: what the user said.
        target: fitted to y.
        floor: of the scales, in standard units.
        seed: of everything random.
        val: rows that stop the training and teach the pooling, in place of held-out blocks.
        start: a model to go on from.
        report: called with the stage, what is done of it and how much there is.
    """
    begin = time.monotonic()
    n = len(x)
    todo = plan(n, settings)
    rng = np.random.default_rng(seed)
    w = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
    if start is None:
        model = _units(torch.as_tensor(x, dtype=torch.float64), w, target)
    else:
        model = replace(start, target=target)  # the old one stays whole, should this fit fail
    z = model.standard(x)
    # rounded, as the networks see it: a change of unit alters the last digits of float64, and with
    # them the choice between splits of the trees that are equally good
    point = target.point(y).float().double().numpy()
    trees_wanted = any(g.trees for g in todo.groups)
    told = torch.zeros(n, 0, dtype=torch.float64)
    if trees_wanted:
        todo, said = _hear(model, todo, settings, z, point, weight, rng, seed, report)
        if start is None or len(model.told_shift) != said.shape[1]:
            shift, scale = standardization(torch.as_tensor(said), w)
            model.told_shift = shift
            model.told_scale = scale.clamp(min=_LEAST_SPREAD)
        told = model.in_units(said)
    target_rows = target.standard(y)
    dtype, device = torch.float32, settings.device

    def single(a: Tensor) -> Tensor:
        return a.to(dtype).to(device)

    if val is not None:
        z_val = model.standard(val[0])
        target_val = target.standard(val[1])
        told_val = model.told(z_val)
    previous = {}
    if start and len(model.groups) == len(todo.groups):  # else noise has come or gone
        previous = dict(zip(model.uses_trees, model.groups, strict=True))
    groups, histories, seen, parts = [], [], [], []
    for i, group in enumerate(todo.groups):
        inputs = model.inputs(z, told, group.trees)
        repeats = min(group.repeats, max(1, group.members // 2))
        blocks = [_held_out(n, m, repeats // len(group.parts), rng) for m in group.parts]
        held_out = torch.cat([mask for mask, _ in blocks])
        complete = [count for _, count in blocks]
        if val is not None:
            held_out = torch.zeros(group.members, n, dtype=torch.bool)
        network = MDNEnsemble(
            group.members,
            inputs.shape[1],
            target.n_targets,
            todo.n_components,
            todo.hidden,
            embedded=_embedded(x, numeric) if group.embeds else [],
            masked=(group.alone, inputs.shape[1] - z.shape[1]),
            covariance_type=settings.covariance_type,
            min_scale=floor,
            generator=torch.Generator().manual_seed(seed + 7919 * (i + 1)),
        ).initialize_from(torch.as_tensor(point))
        if group.trees in previous:
            _go_on(network, previous[group.trees])
        network.to(device)
        if val is None:
            own_val = None
        else:
            own = model.inputs(z_val, told_val, group.trees)
            own_val = single(own), single(target_val)
        left = None
        if settings.max_time is not None:
            left = (settings.max_time - (time.monotonic() - begin)) / (len(todo.groups) - i)
            left = max(left, 1e-3)
        stage = f"networks {i + 1} of {len(todo.groups)}"
        history = fit_ensemble(
            network,
            single(inputs),
            single(target_rows),
            held_out.to(device),
            val=own_val,
            weight=None if w is None else single(w),
            log_prob=target.log_prob if target.bounded else None,
            lr=todo.learning_rate,
            weight_decay=settings.weight_decay,
            batch_size=todo.batch_size,
            max_epochs=todo.max_epochs,
            patience=todo.patience,
            max_time=left,
            seed=seed + 104_729 * (i + 1),
            report=partial(report, stage),
        )
        network.to("cpu")
        groups.append(network)
        histories.append(history.shifted(_offset(target)))
        if val is None and all(complete):
            mixtures = _forward(network, inputs)
            first = np.cumsum([0, *group.parts]).tolist()
            index = [
                torch.stack([at + row.nonzero()[:count, 0] for row in mask.t()], 1)
                for (mask, count), at in zip(blocks, first, strict=False)
            ]
            seen.append(_members_of(mixtures, torch.cat(index)))  # (R, N)
            parts.append(complete)
        elif val is not None:
            seen.append(_forward(network, own))
            parts.append(group.parts)
    model.uses_trees = [g.trees for g in todo.groups]
    model.parts = [g.parts for g in todo.groups]
    # float32 would make a row's prediction depend on the rows beside it, by some 1e-7
    model.groups, model.histories = [network.double() for network in groups], histories
    honest, its_weight = (target_rows, w) if val is None else (target_val, None)
    if len(seen) == len(groups):
        many = [m.batch_shape[0] > 1 for m in seen]
        model.stack = Stack.fit(
            seen,
            honest,
            its_weight,
            target.log_prob,
            recalibrate=many,
            floor=floor,
            bounded_loss=target.kind != "positive",
            parts=parts,
        )
    else:
        model.stack = Stack.plain(model.parts, floor=floor, bounded_loss=target.kind != "positive")
    return model


def _units(x: Tensor, weight: Tensor | None, target: Target) -> FittedModel:
    """A model that knows the units of x and nothing else."""
    shift, scale = standardization(x, weight)
    scale = torch.where(scale > 0, scale, 1.0)
    z = (x - shift) / scale
    turn = x.new_zeros(x.shape[1], 0)
    if len(x) > _ROWS_A_DIRECTION * x.shape[1]:
        share = (
            torch.full((len(x),), 1 / len(x)).double() if weight is None else weight / weight.sum()
        )
        values, vectors = torch.linalg.eigh(z.t() @ (share.unsqueeze(1) * z))
        kept = values > _NOISE
        # what y hangs on may be a small difference of columns that all but move together
        if bool(kept.any()) and float(values[kept].min()) < _COLLINEAR:
            vectors = vectors[:, kept]
            largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
            turn = vectors * largest.sign() / values[kept].sqrt()
    none = x.new_zeros(0)
    return FittedModel(
        shift, scale, turn, None, [], none, none, [], [], [], Stack.plain([[1]], floor=0.0), target
    )


def _hear(
    model: FittedModel,
    todo: Plan,
    settings: Settings,
    z: Tensor,
    point: Floats,
    weight: Floats | None,
    rng: np.random.Generator,
    seed: int,
    report: Callable[[str, int, int], None],
) -> tuple[Plan, Floats]:
    """Processes and trees for the model, and what they say of its rows out of fold, (N, S).

    Also the plan as it is once they have told how much noise there is.
    """
    n = len(point)
    fold = rng.permutation(n) % min(todo.tree_folds, n)
    quiet, words = False, []
    means: Floats = np.empty((point.shape[1], n, 0))  # out of fold, of each target
    model.trees, model.processes = None, []
    if (todo.process or settings.fast) and len(model.x_shift) <= _MOST_IN_PROCESS[1]:
        some = np.arange(n)
        if not todo.process:  # that of some rows tells whether there is noise, and no more
            some = np.random.default_rng(seed).permutation(n)[:_MOST_IN_FAST_PROCESS]
        share = None if weight is None else weight[some]
        rows = z[some, : len(model.x_shift)].numpy()
        processes, heard = _processes(
            rows, point[some], share, fold[some], fast=settings.fast, seed=seed, report=report
        )
        quiet = _error(heard[:, :, :1], point[some], share) < _QUIET
        if todo.process:
            model.processes, words, means = processes, list(heard), heard[:, :, :1]
    if quiet:  # trees, whose word has steps, would add little
        todo = todo.without_trees(settings, processes=bool(model.processes))
    else:
        total = n_forests(point.shape[1], int(fold.max()) + 1)
        done = iter(range(1, total + 1))
        model.trees, said = TreeFeatures.fit(
            z.numpy(),
            point,
            weight,
            fold,
            fast=todo.fast_trees,
            seed=seed % (2**31 - 1000),
            n_jobs=settings.n_jobs,
            report=lambda: report("trees", next(done, total), total),
        )
        words.append(said)
        two = np.stack([said[:, 3 * d : 3 * d + 2] for d in range(point.shape[1])])
        means = np.concatenate([means, two], 2)
        quiet = todo.process and _error(means, point, weight) < _QUIET
    if quiet:
        todo = todo.prolonged(n, settings)
    return todo, np.concatenate([np.empty((n, 0)), *words], 1)


def _processes(
    x: Floats,
    point: Floats,
    weight: Floats | None,
    fold: NDArray[np.integer[Any]],
    *,
    fast: bool,
    seed: int,
    report: Callable[[str, int, int], None],
) -> tuple[list[GaussianProcess], Floats]:
    """One for each target, (N, D), and what they say of their rows out of fold, (D, N, 2)."""
    processes, words = [], []
    for d in range(point.shape[1]):
        report("Gaussian process", d, point.shape[1])
        process, word = GaussianProcess.fit(x, point[:, d], weight, fold, fast=fast, seed=seed + d)
        processes.append(process)
        words.append(word)
        report("Gaussian process", d + 1, point.shape[1])
    return processes, np.stack(words)


def _error(means: Floats, point: Floats, weight: Floats | None) -> float:
    """Root mean square error, at worst over the targets, of the best of the means, (D, N, S)."""
    square = (means - point.T[:, :, None]) ** 2
    return math.sqrt(float(np.average(square, axis=1, weights=weight).min(1).max()))


def _embedded(x: Floats, numeric: NDArray[np.bool_]) -> list[int]:
    """Columns of numbers with more than two values; none if there are many."""
    found = [i for i in np.flatnonzero(numeric) if len(np.unique(x[:, i])) > 2]
    return [int(i) for i in found] if len(found) <= _MOST_EMBEDDED else []


def _held_out(n: int, members: int, repeats: int, rng: np.random.Generator) -> tuple[Tensor, int]:
    """Which rows each member holds out, (M, N), and how often each row is held out at least.

    Members are dealt over repeats; within one the rows fall into as many blocks as it has members,
    so that each row is held out once.  A member alone holds out an eighth.
    """
    mask = torch.zeros(members, n, dtype=torch.bool)
    if members == 1:
        mask[0, torch.as_tensor(rng.permutation(n)[: max(1, n // 8)])] = True
        return mask, 0
    complete, at = 0, 0
    for part in np.array_split(np.arange(members), repeats):
        blocks = min(len(part), n)
        fold = rng.permutation(n) % blocks
        for j in range(len(part)):
            mask[at + j] = torch.as_tensor(fold == j % blocks)
        at += len(part)
        complete += 1
    return mask, complete


def _members_of(mixtures: GaussianMixture, index: Tensor) -> GaussianMixture:
    """Of mixtures (M, N) those of members (R, N)."""
    rows = torch.arange(index.shape[1])
    return mixtures[index, rows]


def _go_on(network: MDNEnsemble, previous: MDNEnsemble) -> None:
    if network.state()[0] != previous.state()[0]:
        raise ValueError(
            "warm_start needs the same columns, members and layers as before; "
            "set warm_start=False to begin anew"
        )
    network.load_state_dict(previous.state_dict())


def _offset(target: Target) -> float:
    """Nats from standard units to y's unit; a probability has no unit."""
    return 0.0 if target.bounded else float(target.scale.log().sum())


def check_size(n: int) -> None:
    """Warns of a sample too small for the usual model."""
    if n < _TINY:
        warnings.warn(
            f"{n} rows are few for a conditional density: a smaller model is fitted, and what it "
            "says rests on little",
            UserWarning,
            stacklevel=3,
        )

"""The training: base models, networks and densities with held-out rows, and the stack over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distribution import GaussianMixture
from ..nn import MDNEnsemble
from ..standardization import winsorized
from ..tables._folds import Codes, deal
from ..train import fit_ensemble
from ._base_models import BaseModels, Predictions, Report, fit_base_models
from ._budget import Budget, clock, within
from ._correlation import correlation_seconds, fit_correlation
from ._densities import Densities, Leaves, fit_densities
from ._model import FittedGroup, FittedModel, InputTransform, member_mixtures
from ._plan import TINY, GroupPlan, Plan, Settings, plan
from ._stacking import Stack, background_scale, with_background
from ._state import Floats
from ._target import CHOICE, Choice, Target

__all__ = ["Rows", "train"]

_MAX_FULL = 4  # targets whose components have full covariances where no model of them is fitted
_CORRELATION_SHARE = 0.1  # of max_time, which it may take to find their correlations
_MAX_EMBEDDED = 64  # columns of numbers that are embedded, at most
_MIN_ROWS = 5  # of a fit whose pool has members that are no networks
_MAX_LEAF_ROWS = 3000  # by which the widths around leaves are chosen
_MIN_WEIGHT = 0.08  # of such a member, without which the stack is fitted again
# Members of the pool are left out one by one, for the others may then get more weight; those of
# less than this together.
_NO_WEIGHT = 0.04
# Nats of log-likelihood of all rows by which the hyperparameters of a Gaussian process, which are
# fitted to the rows of all folds, make its out-of-fold predictions too good; at most so many a row.
_OPTIMISM, _MAX_OPTIMISM = 15.0, 0.3


class Rows(NamedTuple):
    """Rows to fit, and x and y of rows that take the place of held-out ones, if any."""

    x: Floats  # (N, P) encoded columns
    numeric: NDArray[np.bool_]  # (P,) columns of numbers
    y: Floats  # (N,) or (N, D) as the target takes it
    weight: Floats | None  # (N,)
    groups: Codes | None  # (N,) rows of one group are held out together
    val: tuple[Floats, Floats] | None


class _Inputs(NamedTuple):
    """Rows as the networks take them."""

    z: Tensor  # (N, P + Q) columns in standard units
    base: Predictions  # of the base models, out of fold in training
    target: Tensor  # (N, ...) what the log-likelihood takes
    weight: Tensor | None = None  # (N,)


class _HeldOut(NamedTuple):
    """Predictions for each row by R members that did not train on it."""

    mixtures: GaussianMixture  # batch (R, N)
    subgroup_sizes: list[int]  # members of each subgroup among the R


_Pool = tuple[Stack, Densities, list[_HeldOut]]  # the last: predictions that it is fitted to


@dataclass
class _Training:
    """What the training of every group needs."""

    plan: Plan
    settings: Settings
    target: Target
    base_models: BaseModels
    rows: _Inputs
    groups: Codes | None  # (N,) rows of one group are held out together
    val: _Inputs | None
    latent: Tensor  # (N, D) targets in standard units, NaN where not known
    body: Tensor  # (N, D) the same, with their few far values moved to the limit of the others
    n_columns: int  # of z, without the whitened ones
    embedded: list[int]  # columns
    rng: np.random.Generator
    budget: Budget
    report: Report

    def log_frequencies(self) -> Tensor:
        """Logs of the frequencies of the classes, where y is a class."""
        count = torch.bincount(self.rows.target[:, 0].long(), minlength=self.plan.n_components)
        return (count + 0.5).log() - (count + 0.5).sum().log()

    def background(self) -> Tensor | None:
        """Scale of the background component, (D,); None where there is none."""
        if self.target.kind == "positive":
            return None
        return background_scale(self.latent, self.body)

    def log_prob(self) -> Callable[[GaussianMixture, Tensor], Tensor] | None:
        """The log-likelihood of the training; None for the density of the network."""
        scale = self.background()
        has_far = not torch.equal(self.latent.nan_to_num(), self.body.nan_to_num())
        if has_far and scale is not None and not isinstance(self.target, Choice):
            return with_background(self.target.log_prob, scale)
        return self.target.log_prob if self.target.likelihood_is_mass or self.has_gaps else None

    @property
    def has_gaps(self) -> bool:
        """Whether some columns of some targets are not known."""
        return any(bool(rows.target.isnan().any()) for rows in (self.rows, self.val) if rows)


def train(
    rows: Rows, target: Target, settings: Settings, *, start: FittedModel | None, report: Report
) -> FittedModel:
    """Fits base models, trains the networks and fits the stack that pools them.

    Args:
        rows, target, settings: what is fitted.
        start: a fitted model whose networks are trained further.
        report: called with the stage, what is done of it and how much there is.
    """
    budget = Budget(settings.max_time)
    rng = np.random.default_rng(settings.seed)
    weight = None if rows.weight is None else torch.as_tensor(rows.weight, dtype=torch.float64)
    transform = InputTransform.fit(rows.x, weight) if start is None else start.inputs
    z = transform(rows.x)
    if settings.covariance_type == "auto":
        columns = z[:, : rows.x.shape[1]].numpy()
        target, kind = _covariance(columns, target, rows, weight, settings, start, budget)
        least = settings.min_scale * float((target.scale / target.unit).max())  # of sums of columns
        settings = replace(settings, covariance_type=kind, min_scale=least)
    # rounded, as the networks see it: a change of unit alters the last digits of float64, and with
    # them the choice between splits of the trees that are equally good
    latent = target.latent(rows.y).float().double()
    body = winsorized(latent, weight)
    if start is None:
        settings, todo = within(budget, z, latent, rows.x.shape[1], len(z), settings)
    else:  # which has the same parts
        todo = plan(len(z), settings)
    base_models, found = BaseModels(), Predictions(z[:, :0], None)
    if any(group.uses_trees for group in todo.groups):
        base_models, found, todo = fit_base_models(
            z,
            body.numpy(),  # a squared loss would follow a far value
            rows.weight,
            todo,
            settings,
            n_columns=rows.x.shape[1],
            groups=rows.groups,
            previous=start.base_models if start else None,
            rng=rng,
            report=report,
            goes_on=budget.lets_trees_grow,
        )
        if not base_models.forests and not budget.lets_trees_grow():
            budget.left_out.append("there are no trees")
    todo = budget.filled(todo)
    inputs, val = _Inputs(z, found, target.standardized(rows.y), weight), None
    if rows.val is not None:
        z_val = transform(rows.val[0])
        val = _Inputs(
            z_val, base_models.predict(z_val, leaves=True), target.standardized(rows.val[1])
        )
    embedded = _embedded(rows.x, rows.numeric)
    training = _Training(
        todo,
        settings,
        target,
        base_models,
        inputs,
        rows.groups,
        val,
        latent,
        body,
        rows.x.shape[1],
        embedded,
        rng,
        budget,
        report,
    )
    previous: dict[bool, MDNEnsemble] = {}
    if start and len(start.groups) == len(todo.groups):  # else the noise decided otherwise
        previous = {group.uses_trees: group.network for group in start.groups}
    fitted: list[tuple[FittedGroup, _HeldOut | None]] = []
    for i, group_plan in enumerate(todo.groups):
        fitted.append(_train_group(training, i, previous.get(group_plan.uses_trees)))
        if fitted[-1][0].history.stopped == "interrupted":  # by Ctrl-C: no further group is begun
            break
    groups = [group for group, _ in fitted]
    # float32 would make a row's prediction depend on the rows beside it, by some 1e-7
    for group in groups:
        group.network.double()
    held_out = [found for _, found in fitted if found]
    stack, densities, held_out = _fit_pool(training, groups, held_out)
    ended = [len(g.history) for g in groups if g.history.stopped == "max_time"]
    budget.warn(min(ended) if ended else None, todo.max_epochs)
    model = FittedModel(transform, base_models, groups, stack, target, densities=densities)
    if len(held_out) >= len(groups):
        y, w = (rows.y, rows.weight) if rows.val is None else (rows.val[1], None)
        model.held_out_nll = _held_out_nll(model, held_out, y, w)
    return model


def _covariance(
    x: Floats,
    target: Target,
    rows: Rows,
    weight: Tensor | None,
    settings: Settings,
    start: FittedModel | None,
    budget: Budget,
) -> tuple[Target, str]:
    """The target, as sums of columns where these are correlated, and the kind of covariance."""
    if start is not None:
        return target, start.groups[0].network.covariance_type
    if target.n_targets == 1 or target.kind != "real" or len(x) < TINY:
        return target, "diagonal"
    latent = winsorized(target.latent(rows.y), weight)
    if bool(latent.isnan().any()):  # sums of what is not known are not known
        return target, "full" if target.n_targets <= _MAX_FULL else "diagonal"
    if budget.seconds is not None:
        seconds = correlation_seconds(x, target.n_targets, seconds=clock)
        if seconds > _CORRELATION_SHARE * budget.seconds:
            budget.left_out.append("correlations of the targets are not taken out")
            return target, "full" if target.n_targets <= _MAX_FULL else "diagonal"
    found = fit_correlation(
        x, latent.numpy(), rows.weight, rows.groups, seed=settings.seed, n_jobs=settings.n_jobs
    )
    if found.mixing is not None:
        target = replace(target, mixing=found.mixing)
    return target, "full" if found.is_full else "diagonal"


def _train_group(
    training: _Training, i: int, previous: MDNEnsemble | None
) -> tuple[FittedGroup, _HeldOut | None]:
    """Trains the i-th group; returns it and its predictions for held-out rows, if all were."""
    todo, settings, target = training.plan, training.settings, training.target
    group, rows, val = todo.groups[i], training.rows, training.val
    x = training.base_models.inputs(rows.z, rows.base.features, group.uses_trees)
    x_val = None
    if val is not None:
        x_val = training.base_models.inputs(val.z, val.base.features, group.uses_trees)
    held_out, repeats = _held_out_rows(len(x), training.groups, group, training.rng)
    network = _new_network(training, i, x.shape[1], previous).to(settings.device)

    def single(a: Tensor) -> Tensor:
        return a.to(torch.float32).to(settings.device)

    history = fit_ensemble(
        network,
        single(x),
        single(rows.target),
        (held_out if val is None else torch.zeros_like(held_out)).to(settings.device),
        val=None if x_val is None or val is None else (single(x_val), single(val.target)),
        weight=None if rows.weight is None else single(rows.weight),
        log_prob=training.log_prob(),
        lr=todo.learning_rate,
        weight_decay=settings.weight_decay,
        batch_size=todo.batch_size,
        max_epochs=todo.max_epochs,
        patience=todo.patience,
        max_time=training.budget.share(todo.groups[i:]),
        seed=settings.seed + 104_729 * (i + 1),
        report=partial(training.report, f"networks {i + 1} of {len(todo.groups)}"),
    )
    network.to("cpu")
    sizes = group.subgroup_sizes
    history = history.shifted(
        _mean_jacobian(target, rows, None if val else ~held_out),
        _mean_jacobian(target, val) if val else _mean_jacobian(target, rows, held_out),
    )
    fitted = FittedGroup(network, group.uses_trees, sizes, history)
    if x_val is not None:
        return fitted, _HeldOut(member_mixtures(network, x_val), sizes)
    if not repeats:
        return fitted, None
    return fitted, _select_held_out(member_mixtures(network, x), held_out, sizes, repeats)


def _new_network(
    training: _Training, i: int, in_features: int, previous: MDNEnsemble | None
) -> MDNEnsemble:
    """The i-th group before training, with the weights of a previous one if there is one."""
    todo, settings = training.plan, training.settings
    group = todo.groups[i]
    network = MDNEnsemble(
        group.members,
        in_features,
        training.target.n_targets,
        todo.n_components,
        todo.hidden,
        embedded=training.embedded if group.embeds else [],
        masked=(group.n_without_process, in_features - training.rows.z.shape[1]),
        covariance_type=settings.covariance_type,
        min_scale=settings.min_scale,
        generator=torch.Generator().manual_seed(settings.seed + 7919 * (i + 1)),
    ).initialize_from(_filled(training.body, settings.seed))
    if isinstance(training.target, Choice):  # the classes begin with their frequencies
        with torch.no_grad():
            network.head_bias[:, : todo.n_components, 0] = training.log_frequencies()
    if previous is not None:
        if network.state()[0] != previous.state()[0]:
            raise ValueError(
                "warm_start needs the same columns, members and layers as before; "
                "set warm_start=False to begin anew"
            )
        network.load_state_dict(previous.state_dict())
    return network


def _filled(latent: Tensor, seed: int) -> Tensor:
    """Targets whose gaps are filled by known values of their column, drawn at random."""
    if not bool(latent.isnan().any()):
        return latent
    rng, filled = np.random.default_rng(seed), latent.numpy().copy()
    for column in filled.T:
        gap = np.isnan(column)
        column[gap] = rng.choice(column[~gap], gap.sum())
    return torch.as_tensor(filled)


def _mean_jacobian(target: Target, rows: _Inputs, of_members: Tensor | None = None) -> float:
    """Nats that a mean NLL gains by the change of unit: of all rows, or of each member's (M, N)."""
    nats = target.log_jacobian(rows.target)
    weight = torch.ones_like(nats) if rows.weight is None else rows.weight
    share = weight if of_members is None else weight * of_members
    total = share.sum(-1).clamp(min=torch.finfo(share.dtype).tiny)
    return float((share @ nats / total).mean())


def _held_out_rows(
    n: int, groups: Codes | None, plan: GroupPlan, rng: np.random.Generator
) -> tuple[Tensor, int]:
    """Which rows each member holds out, (M, N), and how often a subgroup holds out each at least.

    Members are dealt over repeats; within one the rows fall into as many blocks as it has members,
    so that each row is held out once; with fewer groups of rows there are fewer blocks, which
    several members hold out.  A member alone holds out an eighth.
    """
    if plan.members == 1:
        if groups is not None:
            return torch.as_tensor(deal(n, groups, 8, rng) == 0).unsqueeze(0), 0
        mask = torch.zeros(1, n, dtype=torch.bool)
        mask[0, torch.as_tensor(rng.permutation(n)[: max(1, n // 8)])] = True
        return mask, 0
    sizes = plan.subgroup_sizes
    repeats = min(plan.repeats, plan.members // 2) // len(sizes)
    masks = []
    for part in (part for m in sizes for part in np.array_split(np.arange(m), repeats)):
        fold = deal(n, groups, len(part), rng)
        blocks = int(fold.max()) + 1
        masks.append(fold == np.arange(len(part))[:, None] % blocks)
    return torch.as_tensor(np.concatenate(masks)), repeats


def _select_held_out(
    mixtures: GaussianMixture, mask: Tensor, sizes: list[int], repeats: int
) -> _HeldOut:
    """Selects from mixtures (M, N) of all members those of the members that held the row out."""
    members, first = [], 0
    for part in mask.split(sizes):
        holders = part.int().argsort(dim=0, descending=True, stable=True)
        members.append(first + holders[:repeats])  # (R, N)
        first += len(part)
    chosen = mixtures[torch.cat(members), torch.arange(mask.shape[1])]
    return _HeldOut(chosen, [repeats] * len(sizes))


def _fit_pool(
    training: _Training, groups: Sequence[FittedGroup], held_out: list[_HeldOut]
) -> _Pool:
    """The stack, the densities that have weight in it, and the predictions it is fitted to.

    It is fitted where every group has predictions for rows that it did not train on.
    """
    target, floor = training.target, training.settings.min_scale
    background, of_weights = training.background(), isinstance(target, Choice)
    if len(held_out) < len(groups):
        sizes = [group.subgroup_sizes for group in groups]
        stack = Stack.uniform(sizes, min_scale=floor, background=background, of_weights=of_weights)
        return stack, Densities(), held_out
    rows = training.val or training.rows
    densities, found = _fit_densities(training, held_out)
    excess = 0.0
    if training.base_models.processes and training.val is None:
        excess = min(_MAX_OPTIMISM, _OPTIMISM / len(rows.z))
    with_leaves: _Pool | None = None
    while True:
        members = held_out + [_HeldOut(mixture, [1]) for mixture in found]
        optimism = [excess * knows for knows in [True] * len(held_out) + densities.is_process]
        stack = Stack.fit(
            [each.mixtures for each in members],
            [each.subgroup_sizes for each in members],
            rows.target,
            rows.weight,
            target.log_prob,
            min_scale=floor,
            background=background,
            of_weights=of_weights,
            optimism=optimism,
            max_time=training.budget.left(),
        )
        weights = stack.weight[len(stack.weight) - len(found) :].tolist()
        was_fitted = not bool((stack.weight == stack.weight[0]).all())  # there was time for it
        if not found or (was_fitted and min(weights) >= _MIN_WEIGHT):
            pool = stack, densities, members
            if with_leaves is not None:  # which say the noise of single rows, so must be better
                is_better = _gains(training, with_leaves, pool)
                return with_leaves if is_better else pool
            if densities.forest is None:
                return pool
            with_leaves = pool
            kept = [True] * (len(found) - 1) + [False]
        else:
            least = max(_NO_WEIGHT, min(weights)) if was_fitted else math.inf
            kept = [weight > least for weight in weights]
        densities = densities.only(kept)
        found = [mixture for mixture, keep in zip(found, kept, strict=True) if keep]


def _gains(training: _Training, one: _Pool, other: _Pool) -> bool:
    """Whether one pool is likelier than another by more than the standard error of the gain."""
    rows = training.val or training.rows
    found = []
    for stack, _, members in (one, other):
        pool = stack.pool([m.mixtures for m in members], [m.subgroup_sizes for m in members])
        found.append(training.target.log_prob(pool, rows.target))
    gain = found[0] - found[1]
    weight = torch.ones_like(gain) if rows.weight is None else rows.weight
    share = weight / weight.sum()
    mean = share @ gain
    return float(mean) > float((share * (gain - mean)).square().sum().sqrt())


def _fit_densities(
    training: _Training, held_out: Sequence[_HeldOut]
) -> tuple[Densities, list[GaussianMixture]]:
    """The members that are no networks, and their densities of held-out rows, batch (1, N)."""
    target, settings, rows, val = training.target, training.settings, training.rows, training.val
    n = len(rows.z)
    known = target.kind not in ("interval", CHOICE) and not training.has_gaps
    if not (known and settings.trees and n >= _MIN_ROWS):
        return Densities(), []
    base, p = training.base_models, training.n_columns
    weight, is_near = rows.weight, (training.latent == training.body).all(1)
    if not bool(is_near.all()):  # far values are left to the background component
        weight = is_near.double() if weight is None else weight * is_near
    densities, found = fit_densities(
        rows.z[:, :p].numpy(),
        training.body.numpy(),
        None if weight is None else weight.numpy(),
        deal(n, training.groups, training.plan.n_folds, np.random.default_rng(settings.seed)),
        base.process_locations(rows.base.features),
        is_log=target.kind == "positive",
    )
    seen = val or rows
    if val is not None:
        processes = base.process_locations(val.base.features)
        found = densities.members(val.z[:, :p].numpy(), processes, None)
    if seen.base.leaves is not None and target.n_targets == 1:
        some = np.random.default_rng(settings.seed).permutation(len(seen.z))[:_MAX_LEAF_ROWS]
        at = torch.as_tensor(np.sort(some))
        networks = [each.mixtures[:, at] for each in held_out]
        sizes = [each.subgroup_sizes for each in held_out]
        stack = Stack.uniform(sizes, min_scale=settings.min_scale, background=training.background())
        rows_at, leaves = seen.target[at], seen.base.leaves
        densities.forest = Leaves.fit(
            leaves[at.numpy()],
            target.log_prob(stack.pool(networks, sizes), rows_at),
            None if seen.weight is None else seen.weight[at],
            lambda mixture: target.log_prob(mixture, rows_at),
        )
        found.append(densities.forest.around(leaves))
    return densities, found


def _held_out_nll(
    model: FittedModel,
    held_out: Sequence[_HeldOut],
    y: Floats,
    weight: Floats | None,
) -> tuple[float, float, float]:
    """Mean, standard error and number of rows of the NLL of the held-out predictions."""
    pool = model.stack.pool([h.mixtures for h in held_out], [h.subgroup_sizes for h in held_out])
    nll = -model.target.log_likelihood(model.target.to_y(pool), y).numpy()
    share = np.full(len(nll), 1 / len(nll)) if weight is None else weight / weight.sum()
    mean = float(share @ nll)
    error = math.sqrt(float((share * (nll - mean)) @ (share * (nll - mean))))
    return mean, error, float(len(nll))


def _embedded(x: Floats, numeric: NDArray[np.bool_]) -> list[int]:
    """Columns of numbers with more than two values; none if there are many."""
    found = [int(i) for i in np.flatnonzero(numeric) if len(np.unique(x[:, i])) > 2]
    return found if len(found) <= _MAX_EMBEDDED else []

"""Base models: Gaussian processes and trees, whose predictions are inputs of the networks.

For new rows the base models are those of all training rows.  For the training rows the predictions
are out of fold, as stacking requires: each by models that were fitted without that row.

References:
    D. H. Wolpert, Stacked Generalization, Neural Networks 5 (1992) 241-259.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..standardization import standardization
from ..tables._folds import Codes, deal
from ._densities import Location
from ._gaussian_process import GaussianProcess
from ._plan import Plan, Settings
from ._state import Floats, Saved
from ._trees import N_BINS, Forest, fit_trees

__all__ = ["BaseModels", "Predictions", "Report", "fit_base_models"]

Report = Callable[[str, int, int], None]  # stage, what is done of it, and how much there is

_MAX_PROCESS_COLUMNS = 50
_ROWS_PER_VALUE = 20  # of a single column, from which on trees cannot tell rows apart
_LOW_NOISE = 0.1  # out-of-fold error, in sd of y, below which y counts as having next to no noise
# Features are not magnified beyond this spread, in standard deviations of y: below it they vary
# mostly by how each held-out row moved the mean of the others, which would reveal its own y.
_MIN_SPREAD = 0.1


class Predictions(NamedTuple):
    """What the base models say of N rows, for training rows out of fold."""

    features: Tensor  # (N, S) standardised, inputs of the networks
    leaves: Floats | None  # (N, 2, K) bins of the leaves of randomised trees, of the last target


@dataclass
class BaseModels(Saved):
    """The base models of all training rows.

    Attributes:
        processes: Gaussian processes, one for each target; none for large samples.
        forests: boosted and randomised trees, for each target; none where processes predict y
            almost without error.
        shift, scale: (S,) mean and standard deviation of the out-of-fold predictions.
        process_is_input: whether networks take the predictions of the processes; else only the
            densities do.
    """

    processes: list[GaussianProcess] = field(default_factory=list)
    forests: list[Forest] = field(default_factory=list)
    shift: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    scale: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    process_is_input: bool = True

    def predict(self, z: Tensor, *, leaves: bool = False) -> Predictions:
        """Returns the predictions for new rows.

        Args:
            z: (N, P + Q) columns in standard units, of which the processes take the first ones.
            leaves: whether those of the randomised trees are asked for too.
        """
        x = z.numpy()
        found = [x[:, :0], *(p.predict(x[:, : p.x.shape[1]]) for p in self.processes)]
        bins = np.empty((len(x), 2, N_BINS)) if leaves and self.forests else None
        found += [forest.predict(x, bins) for forest in self.forests]
        return Predictions(self.standardized(np.concatenate(found, 1)), bins)

    def process_locations(self, features: Tensor) -> list[Location]:
        """Returns the predictions of each process, taken from the standardised ones, (N, S)."""
        found = []
        for d in range(len(self.processes)):
            own = slice(2 * d, 2 * d + 2)
            mean, log_scale = (features[:, own] * self.scale[own] + self.shift[own]).t().numpy()
            found.append(Location(mean, np.exp(log_scale)))
        return found

    def standardized(self, features: Floats) -> Tensor:
        """Returns predictions in units of the out-of-fold predictions."""
        return (torch.as_tensor(features, dtype=torch.float64) - self.shift) / self.scale

    def inputs(self, z: Tensor, features: Tensor, uses_trees: bool) -> Tensor:
        """Returns the inputs of a group: columns, predictions of processes and maybe of trees."""
        count = 2 * len(self.processes)
        found = features[:, 0 if self.process_is_input else count :]
        return torch.cat([z, found if uses_trees else found[:, : count * self.process_is_input]], 1)


def fit_base_models(
    z: Tensor,
    latent: Floats,
    weight: Floats | None,
    plan: Plan,
    settings: Settings,
    *,
    n_columns: int,
    groups: Codes | None,
    previous: BaseModels | None,
    rng: np.random.Generator,
    report: Report,
    goes_on: Callable[[], bool],
) -> tuple[BaseModels, Predictions, Plan]:
    """Fits processes and trees to all rows, and once for each fold.

    Args:
        z: (N, P + Q) columns in standard units, P of them ``n_columns`` for the processes.
        latent: (N, D) targets in standard units, NaN where not known.
        weight: (N,) or None.
        plan, settings: of the fit.
        n_columns: P.
        groups: (N,) numbers, or None; the rows of a group are in one fold.
        previous: of the last fit in a warm start, whose units are kept.
        rng: deals the rows over the folds.
        report: shows the progress.
        goes_on: whether there is time for more trees; where there is not, there are none.

    Returns:
        The base models of all rows, the out-of-fold predictions, and the plan for the networks,
        which depends on the noise that the base models found.
    """
    n, n_targets = latent.shape
    fold = deal(n, groups, plan.n_folds, rng)
    models, low_noise, leaves = BaseModels(), False, None
    features: list[Floats] = [np.empty((n, 0))]
    means: Floats = np.empty((n_targets, n, 0))  # out of fold
    if plan.process_rows and n_columns <= _MAX_PROCESS_COLUMNS:
        rows, share = np.arange(n), weight
        if not plan.uses_process:
            some = np.random.default_rng(settings.seed).permutation(len(rows))[: plan.process_rows]
            rows, share = rows[some], None if share is None else share[some]
        x = z[rows, :n_columns].numpy()
        quick = replace(settings, fast=plan.process_is_fast(settings))
        processes, found = _fit_processes(x, latent[rows], share, fold[rows], quick, report)
        low_noise = _oof_error(found[:, :, :1], latent[rows], share) < _LOW_NOISE
        if plan.uses_process:
            models.processes, means = processes, found[:, :, :1]
            features += list(found)
    grown = None
    # over one column base models find what networks find, and tell the noise of single rows with it
    models.process_is_input = n_columns > 1 or low_noise
    has_trees = n_columns > 1 or n >= _ROWS_PER_VALUE * len(z[:, 0].unique())
    if has_trees and not low_noise:
        grown = fit_trees(
            z.numpy(),
            latent,
            weight,
            fold,
            fast=settings.fast,
            classes=settings.classes,
            seed=settings.seed % (2**31 - 1000),
            n_jobs=settings.n_jobs,
            report=report,
            goes_on=goes_on,
        )
    if grown is None:  # as without noise, where step functions add little
        with_process = models.process_is_input and bool(models.processes)
        plan = plan.without_trees(settings, with_process=with_process)
    else:
        models.forests, found, leaves = grown
        features.append(found)
        tree_means = [found[:, 3 * d : 3 * d + 2] for d in range(n_targets)]
        means = np.concatenate([means, np.stack(tree_means)], 2)
        low_noise = plan.uses_process and _oof_error(means, latent, weight) < _LOW_NOISE
    if low_noise:
        plan = plan.with_longer_training(n, settings)
    together = np.concatenate(features, 1)
    if previous is not None and len(previous.shift) == together.shape[1]:
        models.shift, models.scale = previous.shift, previous.scale
    else:
        w = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
        models.shift, scale = standardization(torch.as_tensor(together), w)
        models.scale = scale.clamp(min=_MIN_SPREAD)
    return models, Predictions(models.standardized(together), leaves), plan


def _fit_processes(
    x: Floats,
    latent: Floats,
    weight: Floats | None,
    fold: NDArray[np.integer[Any]],
    settings: Settings,
    report: Report,
) -> tuple[list[GaussianProcess], Floats]:
    """One process for each target, and their out-of-fold predictions, (D, N, 2)."""
    processes, features = [], []
    total = latent.shape[1]
    for d in range(total):
        report("Gaussian process", d, total)
        known = ~np.isnan(latent[:, d])
        share = None if weight is None else weight[known]
        process, found = GaussianProcess.fit(
            x[known], latent[known, d], share, fold[known],
            fast=settings.fast, seed=settings.seed + d,
        )  # fmt: skip
        own = np.empty((len(x), found.shape[1]))
        own[known] = found
        if not known.all():  # rows that it was not fitted to
            own[~known] = process.predict(x[~known])
        processes.append(process)
        features.append(own)
        report("Gaussian process", d + 1, total)
    return processes, np.stack(features)


def _oof_error(means: Floats, latent: Floats, weight: Floats | None) -> float:
    """Root mean square error, of the worst target, of its best base model's means, (D, N, S)."""
    errors = []
    for found, target in zip(means, latent.T, strict=True):
        known = ~np.isnan(target)
        share = None if weight is None else weight[known]
        square = (found[known] - target[known, None]) ** 2
        errors.append(np.average(square, axis=0, weights=share).min())
    return math.sqrt(float(max(errors)))

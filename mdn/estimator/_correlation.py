"""The correlations of several targets given x, which are taken out before anything else is fitted.

Two targets whose residuals are correlated tell much of each other: y2 given x and y1 may be known
ten times better than y2 given x.  A model of each target alone does not see which sums of targets
have little noise.  So base models and networks are fitted to sums whose residuals are not
correlated; a mixture over these is one over the targets again, with full covariances.

References:
    A. Kessy, A. Lewin, K. Strimmer, Optimal Whitening and Decorrelation, The American Statistician
    72 (2018), ZCA-cor: of all uncorrelated sums, those nearest to the single targets.

    J. Schaefer, K. Strimmer, A Shrinkage Approach to Large-Scale Covariance Matrix Estimation,
    Stat. Appl. Genet. Mol. Biol. 4 (2005), table 2, target D.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ..tables._folds import Codes, deal
from ._gaussian_process import GaussianProcess, process_seconds
from ._state import Floats

__all__ = ["Correlation", "correlation_seconds", "fit_correlation"]

_MAX_ROWS = 1000  # that the residuals are found on
_MAX_COLUMNS = 50  # of a process
_TREES = 60  # where there are more columns
_FOLDS, _PASSES = 4, 3
_MAX_SHRINKAGE = 0.5  # beyond which the correlations count as none
_LEAST = 1e-3  # eigenvalue of the correlations; smaller ones may be errors of the models
_MAX_CONDITION = 100.0  # of the matrix of the sums: how far it narrows the floor of the scales
_COMPONENTS = 3  # of the densities of the residuals
_RIDGE = 1e-2  # of their variances
_MIN_GAIN = 0.02  # nats per row, from which on components have full covariances


class Correlation(NamedTuple):
    """What is correlated in several targets given x."""

    mixing: Tensor | None  # (D, D), of sums whose residuals are uncorrelated; None for the targets
    is_full: bool  # the sums depend on each other all the same, as where correlations vary with x


def fit_correlation(
    x: Floats,
    latent: Floats,
    weight: Floats | None,
    groups: Codes | None,
    *,
    seed: int,
    n_jobs: int | None,
) -> Correlation:
    """Returns sums of targets whose residuals are not correlated, and whether that is enough.

    It is enough where a mixture of diagonal components is as likely for the residuals, out of
    fold, as one of full components.  The sums have unit variance.

    Args:
        x: (N, P) columns in standard units.
        latent: (N, D) targets in standard units.
        weight: (N,) or None.
        groups: (N,) numbers, or None; the rows of a group are held out together.
        seed: chooses rows and folds.
        n_jobs: threads.
    """
    n = len(latent)
    some = np.sort(np.random.default_rng(seed).permutation(n)[:_MAX_ROWS])
    share = None if weight is None else weight[some]
    own = None if groups is None else groups[some]
    fold = deal(len(some), own, _FOLDS, np.random.default_rng(seed))
    every = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    total = None
    for i in range(_PASSES):  # models of less noise show correlations that their errors hid before
        mixed = latent if total is None else latent @ total.T
        residual = mixed[some] - _smoothed(x[some], mixed[some], share, fold, seed + i, n_jobs)
        step = _whitening(residual, share)
        if step is None:
            break
        further = step if total is None else step @ total
        sums = latent @ further.T
        further /= np.sqrt(every @ (sums - every @ sums) ** 2)[:, None]
        if total is not None and np.linalg.cond(further) > _MAX_CONDITION:
            break  # some targets are a function of the others
        residual, total = residual @ step.T, further
    mixing = None if total is None else torch.as_tensor(total)
    return Correlation(mixing, _gain_of_full(residual, fold) > _MIN_GAIN)


def correlation_seconds(x: Floats, n_targets: int, *, seconds: Callable[[], float]) -> float:
    """Returns an estimate of the time that it takes for rows (N, P), measured by a clock."""
    columns = x[:_MAX_ROWS, :_MAX_COLUMNS]
    return _PASSES * n_targets * process_seconds(columns, fast=True, seconds=seconds)


def _gain_of_full(residual: Floats, fold: Codes) -> float:
    """Log-likelihood per row, out of fold, that full components gain over diagonal ones, nats."""
    noise = residual.std(0)
    if not (noise > 0).all():
        return 0.0
    unit, gain = residual / noise, 0.0
    for half in (fold % 2 == 0, fold % 2 == 1):
        if min(np.count_nonzero(half), np.count_nonzero(~half)) < 2 * _COMPONENTS:
            return 0.0
        for kind, sign in (("full", 1), ("diag", -1)):
            density = GaussianMixture(
                _COMPONENTS, covariance_type=kind, reg_covar=_RIDGE, max_iter=50, random_state=0
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                density.fit(unit[half])
            gain += sign * float(density.score_samples(unit[~half]).sum())
    return gain / len(unit)


def _smoothed(
    x: Floats, y: Floats, weight: Floats | None, fold: Codes, seed: int, n_jobs: int | None
) -> Floats:
    """Out-of-fold predictions (N, D)."""
    if x.shape[1] > _MAX_COLUMNS:
        model = ExtraTreesRegressor(_TREES, min_samples_leaf=3, random_state=seed, n_jobs=n_jobs)
        out = np.empty_like(y)
        for f in range(int(fold.max()) + 1):
            held = fold == f
            share = None if weight is None else weight[~held]
            out[held] = model.fit(x[~held], y[~held], sample_weight=share).predict(x[held])
        return out
    columns = []
    for d, target in enumerate(y.T):
        found = GaussianProcess.fit(x, target, weight, fold, fast=True, seed=seed + d)[1]
        columns.append(found[:, 0])
    return np.stack(columns, 1)


def _whitening(residual: Floats, weight: Floats | None) -> Floats | None:
    """The matrix (D, D) of uncorrelated sums of residuals (N, D); None where they are so."""
    n = len(residual)
    w = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    noise = np.sqrt(w @ residual**2)
    if not (noise > 0).all():
        return None
    shrunk = _shrunk(residual / noise, w)
    if shrunk is None:
        return None
    values, vectors = np.linalg.eigh(shrunk)
    return (vectors / np.sqrt(np.maximum(values, _LEAST))) @ vectors.T / noise


def _shrunk(unit: Floats, weight: Floats) -> Floats | None:
    """Correlations of residuals (N, D) in units of their noise, shrunk towards none."""
    off = ~np.eye(unit.shape[1], dtype=bool)
    r = (weight * unit.T) @ unit
    n = 1 / (weight @ weight)  # as many rows of equal weight
    variance = ((1 - r**2) ** 2 / n)[off].sum()
    shrinkage = variance / max((r[off] ** 2).sum(), 1e-300)
    if shrinkage > _MAX_SHRINKAGE:
        return None
    return np.where(off, (1 - shrinkage) * r, 1.0)

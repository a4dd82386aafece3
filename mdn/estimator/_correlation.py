"""The correlations of several targets given x, which are taken out before anything else is fitted.

Two targets whose residuals are correlated tell much of each other: y2 given x and y1 may be known
ten times better than y2 given x.  A model of each target alone does not see the sums of targets that
have little noise.  So the base models and the networks are fitted to sums whose residuals are not
correlated; a mixture of these is one of the targets again, with full covariances.

References:
    A. Kessy, A. Lewin, K. Strimmer, Optimal Whitening and Decorrelation, The American Statistician
    72 (2018): ZCA-cor, whose sums remain as near to single targets as they can.

    J. Schaefer, K. Strimmer, A Shrinkage Approach to Large-Scale Covariance Matrix Estimation, Stat.
    Appl. Genet. Mol. Biol. 4 (2005), table 2, target D.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from ..tables._folds import Codes, deal
from ._gaussian_process import GaussianProcess
from ._state import Floats

__all__ = ["mixing"]

_MAX_ROWS = 1000  # that the residuals are found on
_MAX_COLUMNS = 50  # of a process
_FOLDS, _PASSES = 4, 3
_TREES = 60  # where there are more columns
_MAX_SHRINKAGE = 0.5  # beyond which the correlations count as none
_LEAST = 1e-3  # eigenvalue of the correlations; smaller ones are not told from errors of the models


def mixing(
    x: Floats,
    latent: Floats,
    weight: Floats | None,
    groups: Codes | None,
    *,
    seed: int,
    n_jobs: int | None,
) -> Tensor | None:
    """Returns the matrix, (D, D), of sums of targets whose residuals are not correlated.

    The sums have unit variance, each of the same sign as the target that it is nearest to.

    Args:
        x: (N, P) columns in standard units.
        latent: (N, D) targets in standard units.
        weight: (N,) or None.
        groups: (N,) numbers, or None; the rows of a group are held out together.
        seed: chooses rows and folds.
        n_jobs: threads.

    Returns:
        None where no correlations are told from chance.
    """
    n, d = latent.shape
    some = np.sort(np.random.default_rng(seed).permutation(n)[:_MAX_ROWS])
    share = None if weight is None else weight[some]
    own = None if groups is None else groups[some]
    fold = deal(len(some), own, _FOLDS, np.random.default_rng(seed))
    every = np.full(n, 1 / n) if weight is None else weight / weight.sum()
    total = None
    for _ in range(_PASSES):  # models of less noise show correlations that their errors hid before
        mixed = latent if total is None else latent @ total.T
        found = _smoothed(x[some], mixed[some], share, fold, seed, n_jobs)
        step = _whitening(mixed[some] - found, share)
        if step is None:
            break
        total = step if total is None else step @ total
        sums = latent @ total.T
        total /= np.sqrt(every @ (sums - every @ sums) ** 2)[:, None]
    return None if total is None else torch.as_tensor(total)


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
    """The matrix (D, D) of uncorrelated sums of residuals (N, D); None where they are as they are."""
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

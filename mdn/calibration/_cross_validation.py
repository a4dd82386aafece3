"""Out-of-fold predictions: of each row by a model that was fitted without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import check_integer, without_mask
from ..distribution import MixtureDistribution
from ..prediction import (
    final_model,
    kind_of,
    n_rows,
    predict_distribution,
    take_rows,
    warn_of_index,
)
from ..tables._folds import deal, fold_groups
from ..warnings import once

__all__ = ["out_of_fold"]


@once()
def out_of_fold(
    model: Any,
    X: Any,
    y: Any,
    *,
    cv: int = 5,
    sample_weight: Any = None,
    groups: Any = None,
    seed: int = 0,
) -> MixtureDistribution:
    """Returns the distribution of every row, predicted by a model that was fitted without it.

    For whatever needs held-out rows where there are too few to hold any out: PIT tests, coverage,
    :func:`recalibrate`, scores.  The rows are divided at random into ``cv`` folds of nearly equal
    size, and for each fold a copy of the model is fitted to the others.  Rows that are equal, in X
    and y, are in one fold (not so where X and y take few values, among which rows are equal by
    chance), as are the rows of a group.  Conformal sets need
    predictions of one model and must not be fitted to these.

    Args:
        model: a :class:`mdn.MDNRegressor`, a Pipeline that ends in one or a search over one, fitted
            or not; it stays as it is.  For any other model a function that fits one:
            ``fit(X, y)``, or ``fit(X, y, sample_weight)`` with weights, returns what
            :func:`mdn.prediction.predict_distribution` takes; with groups it has ``groups=`` too.
        X: (N, F), array, tensor or data frame.
        y: (N,) or (N, D).
        cv: number of folds; fewer where there are fewer groups.
        sample_weight: (N,), for the fits.
        groups: (N,) labels; the rows of a group are in one fold, also within each fit, as in
            :meth:`mdn.MDNRegressor.fit`.
        seed: of the folds.

    Returns:
        Mixtures of batch (N,), in the order of the rows.

    Raises:
        ValueError: cv below 2 or above N, X and y of different lengths, or fewer than 2 groups (3,
            where the fits need 2).
        KeyboardInterrupt: Ctrl-C, also where it ended the fit of a model that then only warns.
        TypeError: a model that cannot be fitted again, or that predicts no mixture distribution.

    Example:
        >>> from mdn import MDNRegressor
        >>> X = np.linspace(0, 1, 60)[:, None]
        >>> small = MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=5)
        >>> out_of_fold(small, X, X[:, 0] ** 2, cv=3)
        GaussianMixture(batch_shape=(60,), event_shape=(1,), n_components=2)
    """
    target = y if isinstance(y, torch.Tensor) else np.asarray(without_mask(y))
    weight = None if sample_weight is None else np.asarray(without_mask(sample_weight))
    n = len(target)
    if n_rows(X) != n:
        raise ValueError(f"X and y must have one length; got {n_rows(X)} and {n} rows")
    warn_of_index(X, y=y, sample_weight=sample_weight)
    check_integer("cv", cv, 0)
    check_integer("seed", seed, 0)
    if not 2 <= cv <= n:
        raise ValueError(f"cv must lie between 2 and the {n} rows; got {cv}")
    together = fold_groups(X, target, groups)
    fold = deal(n, together, cv, np.random.default_rng(seed))
    labels = None if groups is None else np.asarray(groups)
    parts = []
    for b in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != b), np.flatnonzero(fold == b)
        data = [None if a is None else take_rows(a, inside) for a in (X, target, weight, labels)]
        fitted = _fitted_copy(model, *data)
        held = take_rows(X, outside)
        history = getattr(final_model(fitted, held)[0], "history_", None)
        if getattr(history, "stopped", "") == "interrupted":  # Ctrl-C ends all, not only this fit
            raise KeyboardInterrupt
        part = predict_distribution(fitted, held)
        if not isinstance(part, MixtureDistribution):
            raise TypeError(
                "model must predict mixture distributions, which can be concatenated; "
                f"got {kind_of(part)}"
            )
        parts.append(part)
    order = np.argsort(np.argsort(fold, kind="stable"), kind="stable")
    return parts[0].cat(parts)[torch.as_tensor(order)]


def _fitted_copy(model: Any, X: Any, y: Any, weight: Any, groups: Any) -> Any:
    given = {"sample_weight": weight, "groups": groups}
    given = {name: value for name, value in given.items() if value is not None}
    if hasattr(model, "get_params") and hasattr(model, "fit") and not isinstance(model, type):
        clone = getattr(model, "__sklearn_clone__", None)
        copy = clone() if clone else type(model)(**model.get_params(deep=False))
        steps = getattr(getattr(model, "estimator", model), "steps", None)  # of a Pipeline
        prefix = "" if steps is None else f"{steps[-1][0]}__"
        return copy.fit(X, y, **{prefix + name: value for name, value in given.items()})
    if callable(model) and not isinstance(model, nn.Module | type):
        weights = () if weight is None else (given.pop("sample_weight"),)
        return model(X, y, *weights, **given)
    raise TypeError(
        "model must be one that can be fitted again, or a function fit(X, y) that returns a fitted "
        f"model; got {kind_of(model)}"
    )

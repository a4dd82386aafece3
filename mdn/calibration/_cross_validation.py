"""Predictions of rows by models that have not seen them."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray

from ..distribution import GaussianMixture

__all__ = ["out_of_fold"]


def out_of_fold(
    model: Any, X: Any, y: Any, *, cv: int = 5, sample_weight: Any = None, seed: int = 0
) -> GaussianMixture:
    """The distribution of every row, predicted by a model that was fitted without it.

    For all that wants held-out rows where none can be spared: PIT tests, coverage,
    :func:`recalibrate`, scores.  The rows are dealt at random to ``cv`` blocks of nearly one size,
    and for each block a copy of the model is fitted to the others.  A sample of conformal sets must
    not have been predicted so: their guarantee is that of one model.

    Args:
        model: a :class:`mdn.MDNRegressor`, fitted or not; it stays as it is.
        X: (N, F), array or DataFrame.
        y: (N,) or (N, D).
        cv: number of blocks.
        sample_weight: (N,), for the fits.
        seed: of the blocks.

    Returns:
        Mixtures of batch (N,), in the order of the rows.

    Raises:
        ValueError: cv below 2 or above N, or X and y of different lengths.
        TypeError: a model that does not predict Gaussian mixtures, such as one with
            ``target="positive"``.

    Example:
        >>> from mdn import MDNRegressor
        >>> X = np.linspace(0, 1, 60)[:, None]
        >>> small = MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=5)
        >>> out_of_fold(small, X, X[:, 0] ** 2, cv=3)
        GaussianMixture(batch_shape=(60,), event_shape=(1,), n_components=2)
    """
    target = np.asarray(y)
    frame = None if isinstance(X, np.ndarray) else nw.from_native(X, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        X, frame = np.asarray(X), None
    n = len(target)
    if len(X) != n:
        raise ValueError(f"X and y must have one length; got {len(X)} and {n} rows")
    if not 2 <= cv <= n:
        raise ValueError(f"cv must lie between 2 and the {n} rows; got {cv}")
    weight = None if sample_weight is None else np.asarray(sample_weight)

    def rows(index: NDArray[np.intp]) -> Any:
        return X[index] if frame is None else frame[index].to_native()

    block = np.random.default_rng(seed).permutation(n) % cv
    parts = []
    for b in range(cv):
        inside, outside = np.flatnonzero(block != b), np.flatnonzero(block == b)
        copy = type(model)(**model.get_params(deep=False))
        copy.fit(rows(inside), target[inside], None if weight is None else weight[inside])
        parts.append(copy.predict_distribution(rows(outside)))
        if not isinstance(parts[-1], GaussianMixture):
            raise TypeError(
                "model must predict Gaussian mixtures, which alone can be put together again; "
                f"got {type(parts[-1]).__name__}"
            )
    order = np.argsort(np.argsort(block, kind="stable"), kind="stable")
    return _joined(parts)[torch.as_tensor(order)]


def _joined(parts: list[GaussianMixture]) -> GaussianMixture:
    """Of batches (n,) one of (N,); what has fewer components gets more, of weight 0."""
    most = max(part.n_components for part in parts)

    def padded(a: torch.Tensor) -> torch.Tensor:
        return torch.cat([a, a[:, :1].expand(-1, most - a.shape[1], *a.shape[2:])], 1)

    logits = [
        torch.nn.functional.pad(p.logits, (0, most - p.n_components), value=-torch.inf)
        for p in parts
    ]
    tensors = zip(*(part._covariance.tensors for part in parts), strict=True)
    covariance = type(parts[0]._covariance)(*(torch.cat([padded(a) for a in t]) for t in tensors))
    return parts[0]._like(torch.cat(logits), torch.cat([padded(p.loc) for p in parts]), covariance)

"""All scores of a model together, with standard errors; and scorers for scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..arguments import without_mask
from ..functional._sampling import fixed_generator
from ..prediction import (
    Floats,
    distribution_and_target,
    final_model,
    numeric_array,
    predict_distribution,
    target_tensor,
    to_numpy,
)
from ._scores import crps, energy_score, nll, randomized_pit

__all__ = ["Score", "Summary", "crps_scorer", "nll_scorer", "summary", "weighted_mean"]

_COVERAGES = (0.5, 0.9)
_PAIRS = 256  # of draws for each row, for the energy score; the error averages out over rows
_CHUNK = 1000  # rows whose draws are held at a time


class Score(NamedTuple):
    """A mean over rows.

    Attributes:
        mean: over the rows, or a function of it (the root for ``rmse``).
        standard_error: of the mean; NaN for a single row.
    """

    mean: float
    standard_error: float


class Summary(Mapping[str, Score]):
    """Scores by name, as a read-only dict that prints as a table; made by :func:`summary`.

    Attributes:
        n: number of rows, the sum of the weights.
    """

    def __init__(self, scores: Mapping[str, Score], n: float) -> None:
        self._scores, self.n = dict(scores), n

    def __getitem__(self, name: str) -> Score:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Returns plain numbers, as for JSON: name to mean and standard error."""
        return {name: score._asdict() for name, score in self.items()}

    def __repr__(self) -> str:
        rows = [("score", "mean", "standard error")]
        rows += [(name, *_as_text(score)) for name, score in self.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows
        ]
        return "\n".join([*lines, f"{self.n:g} rows"])


def summary(dist: Any, y: Any, sample_weight: ArrayLike | None = None, *, X: Any = None) -> Summary:
    r"""Returns every score that applies, with its standard error; ``summary(...)["crps"].mean``.

    =================  ============================================================================
    ``nll``            mean negative log-likelihood, nats in y's unit
    ``crps``           mean CRPS, y's unit (D = 1)
    ``energy_score``   mean energy score from draws, y's unit (D > 1)
    ``rmse``           root of the mean squared distance of y from the predicted mean, y's unit
    ``mae``            mean absolute distance of y from the predicted median, y's unit (D = 1)
    ``coverage_50``    share of the rows inside the central 50 % interval; ``_90`` likewise (D = 1)
    ``width_50``       mean width of that interval, y's unit (D = 1)
    ``pit_deviation``  largest gap between the share of the rows whose PIT is at most u, and u:
                       Kolmogorov's distance from calibration (D = 1)
    =================  ============================================================================

    Standard errors assume independent rows: :math:`s / \sqrt n`, by the delta method for ``rmse``,
    and at the largest gap for ``pit_deviation``, which is about :math:`0.87 / \sqrt n` also for a
    calibrated model.

    Args:
        dist: a distribution of batch (N,) or (), or a model with X, N rows of features.
        y: targets, (N, D), tensor or array.
        sample_weight: (N,) non-negative numbers; a row of weight 2 is two rows.

    Raises:
        ValueError: shapes that do not fit, NaN in y, or a negative or missing weight.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(500, 1, 1), torch.ones(1, 1))
        >>> summary(dist, dist.sample(generator=torch.Generator().manual_seed(0)))
        score             mean  standard error
        nll              1.373           0.030
        crps             0.535           0.017
        rmse             0.953           0.031
        mae              0.746           0.027
        coverage_50      0.536           0.022
        width_50       1.34898               0
        coverage_90      0.904           0.013
        width_90       3.28971               0
        pit_deviation    0.053           0.015
        500 rows
    """
    dist = predict_distribution(dist, X)
    target = target_tensor(dist, y, X).detach()
    if target.ndim != 2:
        raise ValueError(f"y must have shape (N, D); got {tuple(target.shape)}")
    dist = dist.expand(target.shape[:1])
    n = len(target)
    weight = np.ones(n) if sample_weight is None else _weights(sample_weight, n)

    def mean_of(rows: torch.Tensor) -> Score:
        return _mean(to_numpy(rows), weight)

    with torch.no_grad():
        squared = mean_of((target - dist.mean).square().sum(-1))
        root = math.sqrt(squared.mean)
        error = squared.standard_error / (2 * root) if root > 0 else squared.standard_error
        found = {"nll": mean_of(nll(dist, target))}
        if target.shape[-1] > 1:
            found["energy_score"] = mean_of(_energy(dist, target))
        elif hasattr(dist, "crps"):
            found["crps"] = mean_of(crps(dist, target))
        found["rmse"] = Score(root, error)
        if target.shape[-1] == 1:
            found["mae"] = mean_of((target - dist.median).abs()[:, 0])
            for coverage in _COVERAGES:
                low, high = dist.interval(coverage).unbind(-1)
                inside = (target[:, 0] >= low) & (target[:, 0] <= high)
                found[f"coverage_{coverage * 100:.0f}"] = mean_of(inside)
                found[f"width_{coverage * 100:.0f}"] = mean_of(high - low)
            found["pit_deviation"] = _deviation(to_numpy(randomized_pit(dist, target)), weight)
    return Summary(found, float(weight.sum()))


def nll_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Returns minus the mean NLL of a model, for ``GridSearchCV(scoring=nll_scorer)``.

    Args:
        estimator: a fitted :class:`mdn.MDNRegressor`, a Pipeline that ends in one, or another model
            that :func:`mdn.prediction.predict_distribution` takes.
        X: features, N rows, as the model takes them.
        y: targets, (N,) or (N, D); intervals if the model takes those.
        sample_weight: (N,) non-negative weights.
    """
    model, X = final_model(estimator, X)
    if hasattr(model, "predict_distribution") and hasattr(model, "log_prob"):
        return -weighted_mean(-model.log_prob(X, y), sample_weight)  # of intervals as well
    dist, target = distribution_and_target(model, y, X)
    return -weighted_mean(to_numpy(nll(dist, target)), sample_weight)


def crps_scorer(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """Returns minus the mean CRPS of a model, for ``GridSearchCV(scoring=crps_scorer)``.

    Its arguments are those of :func:`nll_scorer`, but for y, (N,) or (N, 1).
    """
    model, X = final_model(estimator, X)
    values = numeric_array(y, "y")
    if values.ndim > 1 and values.shape[1] > 1:
        found = "intervals" if getattr(model, "target", None) == "interval" else "targets"
        raise ValueError(
            f"crps_scorer needs one number a row; got {found} of shape {values.shape}: "
            "take nll_scorer"
        )
    dist, target = distribution_and_target(model, values, X)
    return -weighted_mean(to_numpy(crps(dist, target)), sample_weight)


def weighted_mean(score: np.ndarray, sample_weight: Any = None) -> float:
    """Returns the mean of scores (N,), weighted by (N,) numbers if they are given."""
    if sample_weight is None:
        return float(score.mean())
    return float(np.average(score, weights=_weights(sample_weight, len(score))))


def _weights(sample_weight: Any, n: int) -> Floats:
    weight = np.asarray(without_mask(sample_weight), dtype=np.float64)
    if weight.shape != (n,) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise ValueError(
            f"sample_weight must be {n} non-negative numbers, not all 0; got shape {weight.shape}"
        )
    return weight


def _mean(rows: Floats, weight: Floats) -> Score:
    """Mean and standard error, as if each row were repeated by its weight."""
    rows, weight = rows[weight > 0], weight[weight > 0]
    total = weight.sum()
    mean = float(np.average(rows, weights=weight))
    if not math.isfinite(mean) or total <= 1:
        return Score(mean, math.nan)
    variance = float((weight * (rows - mean) ** 2).sum()) / (total - 1)
    return Score(mean, math.sqrt(variance / total))


def _deviation(u: Floats, weight: Floats) -> Score:
    """Largest distance between the empirical cdf of u, on either side of a step, and u."""
    order = np.argsort(u, kind="stable")
    u, share = u[order], weight[order].cumsum() / weight.sum()
    before = share - weight[order] / weight.sum()
    gap = np.stack([share - u, u - before])
    at = np.unravel_index(gap.argmax(), gap.shape)
    below = (share, before)[at[0]][at[1]]
    total = weight.sum()
    error = math.sqrt(max(0.0, below * (1 - below)) / (total - 1)) if total > 1 else math.nan
    return Score(float(gap[at]), error)


def _energy(dist: Any, y: torch.Tensor) -> torch.Tensor:
    source = fixed_generator(y)
    rows = (slice(i, i + _CHUNK) for i in range(0, len(y), _CHUNK))
    parts = [energy_score(dist[i], y[i], n_samples=_PAIRS, generator=source) for i in rows]
    return torch.cat(parts)


def _as_text(score: Score) -> tuple[str, str]:
    """Both as text, to two digits of the standard error."""
    mean, error = score
    if not math.isfinite(mean) or not math.isfinite(error) or error < 1e-12 * abs(mean):
        return f"{mean:.6g}", f"{error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 5
    return f"{mean:.{decimals}f}", f"{error:.{decimals}f}"

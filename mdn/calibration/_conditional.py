"""Where in x is the density wrong?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from ..arguments import check_integer
from ..prediction import Floats, distribution_and_target, to_numpy
from ._hdr_values import pit_or_values

__all__ = ["ConditionalCalibration", "Region", "conditional_calibration"]

_SPREAD = "predicted spread"
_ALL = "all rows"
_FEW = 10  # rows below which a region is not tested: its p-values are those of a mean
_SHOWN = 10  # number of regions printed
# of (u - 1/2)^2 for a uniform u
_MEAN, _VARIANCE, _SKEWNESS = 1 / 12, 1 / 180, 2 * math.sqrt(5) / 7


class Region(NamedTuple):
    """Rows with one feature in one range, and the moments of their PIT.

    Attributes:
        feature: name of the feature, "predicted spread", or "all rows".
        where: the range or the category, as text.
        n: number of rows.
        pit_mean: 1/2 if calibrated; above it y is higher than predicted.
        pit_variance: mean of (PIT - 1/2)^2 times 12: 1 if calibrated; above it the prediction is
            too narrow (or biased), below it too wide.
        p_bias: p-value of the mean, by itself.
        p_spread: p-value of the variance, by itself.
        p_adjusted: the smaller of the two, corrected for all tests together (Holm).
    """

    feature: str
    where: str
    n: int
    pit_mean: float
    pit_variance: float
    p_bias: float
    p_spread: float
    p_adjusted: float


class ConditionalCalibration(Sequence[Region]):
    """Regions by increasing p-value; prints the first ten as a table.

    Attributes:
        n_tests: number of p-values in the correction.
    """

    def __init__(self, regions: Sequence[Region], n_tests: int) -> None:
        self._regions, self.n_tests = tuple(regions), n_tests

    def __getitem__(self, index: Any) -> Any:
        return self._regions[index]

    def __len__(self) -> int:
        return len(self._regions)

    def significant(self, level: float = 0.05) -> list[Region]:
        """Returns the miscalibrated regions: with probability 1 - level none if calibrated."""
        return [region for region in self if region.p_adjusted <= level]

    def to_dict(self) -> dict[str, list[Any]]:
        """Returns columns by name, as ``pandas.DataFrame`` takes them."""
        return {name: [getattr(r, name) for r in self] for name in Region._fields}

    def __repr__(self) -> str:
        table = [("feature", "where", "rows", "PIT mean", "12 x variance", "p adjusted")]
        for r in self._regions[:_SHOWN]:
            moments = f"{r.pit_mean:.3f}", f"{r.pit_variance:.2f}"
            table.append((r.feature, r.where, str(r.n), *moments, f"{r.p_adjusted:.2g}"))
        first, second, *others = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = [
            "  ".join(
                [f"{row[0]:<{first}}", f"{row[1]:<{second}}"]
                + [f"{cell:>{w}}" for cell, w in zip(row[2:], others, strict=True)]
            )
            for row in table
        ]
        more = len(self) - _SHOWN
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])


def conditional_calibration(
    dist: Any,
    y: Any,
    X: Any,
    *,
    n_bins: int = 5,
    feature_names: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> ConditionalCalibration:
    r"""Tests the PIT along each feature and along the predicted spread.

    A model can be calibrated over all rows together and wrong in every part: too high in one, too
    low in another.  So the rows are divided into bins of equal counts along each feature and along
    the predicted standard deviation; in each bin the mean of the PIT is compared with 1/2, and the
    mean of its squared distance from 1/2 with 1/12.  The p-values approximate the first mean by a
    normal and the second by a Pearson III law of the right skewness; Holm's method corrects them
    for all bins together.

    Args:
        dist: a distribution of batch (N,), D = 1, or a model that predicts one from X.
        y: targets, (N, 1), tensor or array.
        X: features, (N, F): an array or a DataFrame (pandas, polars, pyarrow).  Values other
            than numbers are categories, each a bin; missing values are a bin of their own.
        n_bins: bins for each feature; for categories, the most frequent ones.  Bins of fewer than
            10 rows are left out.
        feature_names: F names; those of a DataFrame, or x0, x1, ..., if None.
        generator: source of randomness where the cdf jumps and the PIT is randomised.

    Returns:
        The regions, sorted by the corrected p-value.

    Raises:
        ValueError: X of another length, a wrong number of names, or n_bins below 1.

    Example:
        >>> from mdn import GaussianMixture
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.rand(1000, 1, generator=g)
        >>> truth = GaussianMixture(torch.zeros(1), x[..., None], 0.5 + x[..., None])
        >>> constant = GaussianMixture(torch.zeros(1), x[..., None], torch.ones(1, 1))
        >>> found = conditional_calibration(constant, truth.sample(generator=g), x.numpy())
        >>> found[0].feature, found[0].where, round(found[0].pit_variance, 2)
        ('x0', '7.97e-05 to 0.196', 0.58)

    References:
        S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6 (1979).
    """
    check_integer("n_bins", n_bins)
    dist, target = distribution_and_target(dist, y, X)
    u = pit_or_values(dist, target, generator=generator)
    columns = [*_columns(X, feature_names), (_SPREAD, to_numpy(dist.stddev[..., 0]))]
    found = [(_ALL, "", u)]
    for name, values in columns:
        parts = [(name, where, u[mask]) for where, mask in _bins(values, n_bins)]
        found += parts if len(parts) > 1 else []  # a constant feature has one bin, all rows
    regions = [_region(*part) for part in found if len(part[-1]) >= _FEW]
    tests = np.array([[r.p_bias, r.p_spread] for r in regions]).reshape(-1, 2)
    adjusted = _holm(tests.ravel()).reshape(-1, 2).min(1)
    regions = [r._replace(p_adjusted=float(p)) for r, p in zip(regions, adjusted, strict=True)]
    # ties (p_adjusted of 1, for one) by the smaller of the p-values themselves
    regions.sort(key=lambda r: (r.p_adjusted, min(r.p_bias, r.p_spread)))
    return ConditionalCalibration(regions, tests.size)


def _region(feature: str, where: str, u: Floats) -> Region:
    """The moments of the PIT of some rows, tested; without correction for other tests."""
    n, mean, square = len(u), u.mean(), ((u - 0.5) ** 2).mean()
    bias = 2 * stats.norm.sf(abs(mean - 0.5) * math.sqrt(n / _MEAN))
    z = (square - _MEAN) * math.sqrt(n / _VARIANCE)
    law = stats.pearson3(_SKEWNESS / math.sqrt(n))
    spread = min(1.0, 2 * min(law.sf(z), law.cdf(z)))
    numbers = float(mean), float(square / _MEAN), float(bias), float(spread)
    return Region(feature, where, n, *numbers, math.nan)


def _holm(p: Floats) -> Floats:
    """p-values in increasing order, each times the number of those not yet rejected."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return steps[np.argsort(order)]


def _columns(X: Any, names: Sequence[str] | None) -> list[tuple[str, NDArray[Any]]]:
    """Names and values (N,) of the features."""
    import narwhals as nw  # small, but only a DataFrame needs it

    if nw.dependencies.is_into_dataframe(X):
        frame = nw.from_native(X, eager_only=True)
        found, values = frame.columns, [np.asarray(s.to_numpy()) for s in frame.iter_columns()]
    else:
        array = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)
        if array.ndim != 2:
            hint = ". Did you mean X[:, None]?" if array.ndim == 1 else ""
            raise ValueError(f"X must have shape (N, F); got {array.shape}{hint}")
        values = list(array.T)
        found = [f"x{i}" for i in range(len(values))]
    if names is not None:
        if isinstance(names, str) or len(names) != len(values):
            raise ValueError(f"feature_names must be {len(values)} names; got {names!r}")
        found = list(names)
    return list(zip(map(str, found), values, strict=True))


def _bins(column: NDArray[Any], n_bins: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Ranges of about equal counts, or the most frequent categories; and the missing values."""
    numeric = np.issubdtype(column.dtype, np.number)
    if numeric:
        missing = np.isnan(column)
    else:
        missing = np.array([value is None or value != value for value in column], dtype=bool)
    if missing.any():
        yield "missing", missing
    known = column[~missing]
    if not len(known):
        return
    if not numeric:
        kinds, counts = np.unique(known.astype(str), return_counts=True)
        text = column.astype(str)
        for kind in kinds[np.argsort(-counts, kind="stable")][:n_bins]:
            yield str(kind), (text == kind) & ~missing
        return
    kinds = np.unique(known)
    if len(kinds) <= n_bins:
        for value in kinds:
            yield f"{value:.3g}", column == value
        return
    edges = np.unique(np.quantile(known, np.arange(1, n_bins) / n_bins, method="inverted_cdf"))
    index = np.searchsorted(edges, column, side="left")
    for i in range(len(edges) + 1):
        mask = (index == i) & ~missing
        if mask.any():
            yield f"{column[mask].min():.3g} to {column[mask].max():.3g}", mask

"""Is the PIT uniform: histogram with a band, and three tests."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import integrate, special, stats

from ..arguments import check_integer, check_number
from ..prediction import Floats
from ._hdr_values import pit_or_values

__all__ = ["PITHistogram", "PITTest", "Outcome", "pit_histogram", "pit_test"]

_FAR = 14.0  # A^2 from which the tail formula has a relative error below 2 %
_LEAST = 0.02  # A^2 below which the probability of less is under 1e-24
_TERMS = 12  # of the series: at A^2 = 14 the next is below 1e-90
_ROUNDING = 2.0**-53  # a PIT that rounds to 0 or 1 is taken to be this far from it


class PITHistogram(NamedTuple):
    """Counts of PIT values in equal bins, and the band in which each lies under calibration.

    Attributes:
        counts: rows in each bin, (B,).
        edges: of the bins, (B + 1,), from 0 to 1.
        low: lower end of the band, in rows.
        high: upper end of the band, in rows.
        expected: rows a bin under calibration, N / B.
        band: least probability that a count lies from low to high, for each bin by itself: of B
            bins about B (1 - band) may lie outside.
    """

    counts: NDArray[np.int64]
    edges: Floats
    low: float
    high: float
    expected: float
    band: float


class Outcome(NamedTuple):
    """Outcome of a test.

    Attributes:
        statistic: its value.
        p_value: probability of a value at least as large under calibration.
    """

    statistic: float
    p_value: float


class PITTest(NamedTuple):
    """Three tests of the same hypothesis, sensitive to different departures from it.

    Attributes:
        n: number of rows.
        kolmogorov: largest distance of the distribution function of the PIT from the diagonal.
        cramer_von_mises: its mean square, the most powerful of the three against a bias.
        anderson_darling: weighted towards both ends, the most sensitive to wrong tails.
    """

    n: int
    kolmogorov: Outcome
    cramer_von_mises: Outcome
    anderson_darling: Outcome


def pit_histogram(
    dist_or_pit: Any,
    y: Any = None,
    *,
    X: Any = None,
    bins: int = 20,
    band: float = 0.9,
    generator: torch.Generator | None = None,
) -> PITHistogram:
    r"""Histogram of the PIT: flat if calibrated.

    A hump in the middle means too wide, a valley too narrow, a slope biased: with more rows on the
    right, y is higher than predicted.  Each count is binomial, :math:`B(N, 1/B)`, and lies in the
    band with the stated probability.

    Args:
        dist_or_pit: a distribution of batch (N,), D = 1, or a model with X; or PIT values (N,), or
            those of :func:`hdr_values`.
        y: targets, (N, 1), with a distribution or model.
        X: features, N rows, with a model.
        bins: number B of bins.
        band: probability of the band, for each bin.
        generator: source of randomness where the cdf jumps and the PIT is randomised.

    Raises:
        ValueError: values outside [0, 1], y missing or of another shape, bins or band out of range.

    Example:
        >>> from mdn import GaussianMixture
        >>> wide = GaussianMixture(torch.zeros(1), torch.zeros(200, 1, 1), 2 * torch.ones(1, 1))
        >>> y = wide.sample(generator=torch.Generator().manual_seed(0)) / 2
        >>> found = pit_histogram(wide, y, bins=5)
        >>> found.counts, found.low, found.high
        (array([ 7, 52, 76, 49, 16]), 31.0, 49.0)

    References:
        A. P. Dawid, Statistical theory: the prequential approach, J. R. Stat. Soc. A 147 (1984);
        F. X. Diebold, T. A. Gunther, A. S. Tay, Evaluating density forecasts, Int. Econ. Rev. 39
        (1998).
    """
    check_integer("bins", bins, 2)
    check_number("band", band, above=0, below=1)
    values = pit_or_values(dist_or_pit, y, X, generator)
    counts, edges = np.histogram(values, bins=bins, range=(0.0, 1.0))
    n = len(values)
    low, high = stats.binom.interval(band, n, 1 / bins)
    return PITHistogram(counts, edges, float(low), float(high), n / bins, band)


def pit_test(
    dist_or_pit: Any, y: Any = None, *, X: Any = None, generator: torch.Generator | None = None
) -> PITTest:
    r"""Tests whether the PIT is uniform: Kolmogorov, Cramer-von Mises, Anderson-Darling.

    For rows held out of the fit: the p-values do not apply to training rows.  With many rows every
    model is rejected; :func:`coverage_curve` shows the size of the error.

    Kolmogorov's p-value is exact, that of Cramer-von Mises asymptotic with a correction of order
    1/N (both SciPy's).  That of Anderson-Darling is the asymptotic one, by the series of Anderson
    and Darling; at N = 5 it is off by 0.002, and less for more rows.

    The arguments are those of :func:`pit_histogram`.

    Raises:
        ValueError: values outside [0, 1], fewer than two, or y missing or of another shape.

    Example:
        >>> from mdn import GaussianMixture
        >>> exact = GaussianMixture(torch.zeros(1), torch.zeros(200, 1, 1), torch.ones(1, 1))
        >>> y = exact.sample(generator=torch.Generator().manual_seed(0))
        >>> round(pit_test(exact, y).kolmogorov.p_value, 2)
        0.36
        >>> pit_test(exact.affine(0.0, 0.5), y).kolmogorov.p_value < 1e-6
        True

    References:
        T. W. Anderson, D. A. Darling, Asymptotic theory of certain goodness of fit criteria, Ann.
        Math. Stat. 23 (1952), eq. 4.35; A test of goodness of fit, J. Am. Stat. Assoc. 49 (1954).
    """
    values = pit_or_values(dist_or_pit, y, X, generator)
    n = len(values)
    if n < 2:
        raise ValueError(f"a test needs at least 2 rows; got {n}")
    kolmogorov = stats.kstest(values, "uniform")
    cramer = stats.cramervonmises(values, "uniform")
    ordered = np.sort(values).clip(_ROUNDING, 1 - _ROUNDING)
    logs = np.log(ordered) + np.log1p(-ordered[::-1])
    anderson = -n - float((2 * np.arange(1, n + 1) - 1) @ logs) / n
    return PITTest(
        n,
        Outcome(float(kolmogorov.statistic), float(kolmogorov.pvalue)),
        Outcome(float(cramer.statistic), float(cramer.pvalue)),
        Outcome(anderson, _anderson_darling_tail(anderson)),
    )


def _anderson_darling_tail(z: float) -> float:
    r"""P(A^2 > z) as N goes to infinity, where A^2 is :math:`\sum_j X_j^2 / (j (j + 1))`.

    Up to ``_FAR`` one minus the series in :math:`t_j = (4 j + 1)^2 \pi^2 / (8 z)`,

    .. math::
        \frac{\sqrt{2 \pi}}{z} \sum_j \binom{-1/2}{j} (4 j + 1) e^{-t_j}
        \int_0^\infty e^{z / (8 (w^2 + 1)) - t_j w^2} \, dw

    Beyond, the first term of the sum decides and the others multiply by a constant:
    :math:`\sqrt 3 \, P(X_1^2 > 2 z)`.
    """
    if z < _LEAST:
        return 1.0
    if z > _FAR:
        return float(math.sqrt(3) * special.erfc(math.sqrt(z)))
    total = 0.0
    for j in range(_TERMS):
        t = (4 * j + 1) ** 2 * math.pi**2 / (8 * z)
        area = integrate.quad(
            lambda w, t=t: math.exp(z / (8 * (w * w + 1)) - t * w * w), 0, 10 / math.sqrt(t)
        )[0]
        total += special.binom(-0.5, j) * (4 * j + 1) * math.exp(-t) * area
    return min(1.0, max(0.0, 1.0 - math.sqrt(2 * math.pi) / z * total))

"""Do regions have their nominal coverage, and how wide are they?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import stats

from ..arguments import check_choice, check_number, check_probabilities
from ..prediction import Floats, distribution_and_target, predict_distribution, to_numpy
from ._hdr_values import hdr_values, pit_or_values

__all__ = ["CoverageCurve", "Sharpness", "coverage_curve", "sharpness"]

_LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class CoverageCurve(NamedTuple):
    """Observed coverage of regions against the nominal one.

    Attributes:
        nominal: stated coverage, (L,).
        observed: share of the rows inside, (L,).
        low: lower end of the band, as a share, (L,).
        high: upper end, (L,).
        n: number of rows.
        band: least probability that a share lies from low to high under calibration, for each level
            by itself.
    """

    nominal: Floats
    observed: Floats
    low: Floats
    high: Floats
    n: int
    band: float


class Sharpness(NamedTuple):
    """Widths of central intervals.

    Attributes:
        coverage: of the intervals, (C,).
        mean: over the rows, (C,), in the unit of y.
        median: over the rows, (C,), in the unit of y.
        width: of each row, (N, C).
    """

    coverage: Floats
    mean: Floats
    median: Floats
    width: Floats


def coverage_curve(
    dist: Any,
    y: Any,
    *,
    X: Any = None,
    levels: Sequence[float] = _LEVELS,
    kind: Literal["central", "hdr"] = "central",
    band: float = 0.9,
    n_samples: int = 1000,
    generator: torch.Generator | None = None,
) -> CoverageCurve:
    """Returns the share of the rows inside the regions of each coverage, with its binomial band.

    Below the diagonal the model is too narrow, above it too wide.  Central intervals do not reveal
    a bias that is positive in half of the rows and negative in the others, nor whether the gap
    between two modes is empty; highest-density regions reveal the latter.

    Args:
        dist: a distribution of batch (N,) or (), or a model with X, N rows of features.
        y: targets, (N, D), tensor or array; D = 1 for central intervals.
        levels: nominal coverages, in (0, 1).
        kind: "central" intervals or "hdr", highest-density regions, for any number of targets.
        band: probability of the band, for each level.
        n_samples: draws for each row, where :func:`hdr_values` needs them.
        generator: source of randomness where draws are needed; one of a fixed seed if None.

    Raises:
        ValueError: a level, band or kind out of range, or y of another shape.

    Example:
        >>> from mdn import GaussianMixture
        >>> exact = GaussianMixture(torch.zeros(1), torch.zeros(400, 1, 1), torch.ones(1, 1))
        >>> y = exact.sample(generator=torch.Generator().manual_seed(0))
        >>> coverage_curve(exact, y, levels=[0.5, 0.9]).observed
        array([0.5  , 0.895])
        >>> narrow = coverage_curve(exact.affine(0.0, 0.5), y, levels=[0.5, 0.9])
        >>> narrow.observed, narrow.low
        (array([0.2775, 0.6075]), array([0.46 , 0.875]))
    """
    nominal = np.array(check_probabilities("levels", levels))
    check_number("band", band, above=0, below=1)
    check_choice("kind", kind, ("central", "hdr"))
    dist, target = distribution_and_target(dist, y, X)
    if kind == "hdr":
        values = hdr_values(dist, target, n_samples=n_samples, generator=generator)
    else:
        if tuple(dist.event_shape) != (1,):
            raise ValueError(
                f"central intervals need one target; got event shape {tuple(dist.event_shape)}. "
                'Take kind="hdr", or one target with .marginal(dims)'
            )
        values = np.abs(2 * pit_or_values(dist, target, generator=generator) - 1)
    n = len(values)
    observed = (values <= nominal[:, None]).mean(1)
    low, high = (rows / n for rows in stats.binom.interval(band, n, nominal))
    return CoverageCurve(nominal, observed, low, high, n, band)


@torch.no_grad()
def sharpness(dist: Any, coverage: Sequence[float] = (0.5, 0.9), *, X: Any = None) -> Sharpness:
    """Returns widths of central intervals: of two calibrated models the sharper one is better.

    It does not measure calibration and is no score by itself: a model that is too narrow is sharp.

    Args:
        dist: a distribution of batch (N,) with D = 1, or a model with X, N rows of features.
        coverage: of the intervals, each in (0, 1).

    Raises:
        ValueError: a coverage out of range, or several targets.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(2, 1, 1), torch.tensor([[1.0]]))
        >>> sharpness(dist).mean.round(3)
        array([1.349, 3.29 ])
    """
    dist = predict_distribution(dist, X)
    if tuple(dist.event_shape) != (1,) or len(dist.batch_shape) != 1:
        raise ValueError(
            "dist must have batch shape (N,) and one target; got batch "
            f"{tuple(dist.batch_shape)}, event {tuple(dist.event_shape)}"
        )
    wanted = check_probabilities("coverage", coverage)
    ends = np.stack([to_numpy(dist.interval(c)) for c in wanted], 1)  # (N, C, 2)
    width = ends[..., 1] - ends[..., 0]
    return Sharpness(np.array(wanted), width.mean(0), np.median(width, 0), width)

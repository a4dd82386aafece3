"""Prediction sets with guaranteed coverage for any model, by split conformal prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import check_number
from ..distribution import HDR
from ..functional._sampling import fixed_generator
from ..prediction import distribution_and_target, predict_distribution
from ._hdr_values import hdr_values

__all__ = ["ConformalHDR", "ConformalIntervals"]

_ROUNDING = 1e-9  # (n + 1) c may miss a whole number by so much


@dataclass(frozen=True)
class ConformalIntervals:
    r"""Central intervals, widened or narrowed by one number to have the stated coverage.

    On n rows held out of the fit, y misses the predicted interval :math:`[l, h]` by

    .. math::
        e_i = \max(l_i - y_i,\; y_i - h_i), \qquad
        q = e_{(\lceil (n + 1)\,c \rceil)}, \qquad [l - q,\; h + q]

    For a new row exchangeable with these, and whatever the model, the interval holds y with a
    probability of at least c, and at most :math:`c + 1/(n + 1)` if y is continuous: over the draws
    of all n + 1 rows.  This is an average over x, not a statement for each x, and q is the same
    everywhere, in the unit of y.  An interval whose ends q would exchange becomes its middle.

    Made by :meth:`fit`.

    Attributes:
        coverage: c.
        correction: q, in the unit of y; negative if the model is too wide.
        n: number of rows it was fitted to.

    Example:
        >>> from mdn import GaussianMixture
        >>> truth = GaussianMixture(torch.zeros(1), torch.zeros(999, 1, 1), torch.ones(1, 1))
        >>> y = truth.sample(generator=torch.Generator().manual_seed(0))
        >>> narrow = truth.affine(0.0, 0.5)
        >>> narrow[0].interval(0.9)
        tensor([-0.8224,  0.8224])
        >>> ConformalIntervals.fit(narrow, y, 0.9).predict(narrow[0])
        tensor([-1.5372,  1.5372])

    References:
        Y. Romano, E. Patterson, E. Candes, Conformalized quantile regression, NeurIPS (2019).
    """

    coverage: float
    correction: float
    n: int

    @classmethod
    def fit(cls, dist: Any, y: Any, coverage: float = 0.9, *, X: Any = None) -> ConformalIntervals:
        """Fits the correction.

        Args:
            dist: a distribution of batch (N,), D = 1, or the model, for rows held out of the fit.
            y, X: targets of these rows, (N, 1), tensor or array, and with a model their features.
            coverage: c, in (0, 1).

        Raises:
            ValueError: fewer than c / (1 - c) rows, with which no finite interval has the
                guarantee; or y of another shape.
        """
        dist, target = distribution_and_target(dist, y, X)
        _need_one(dist)
        rank = _rank(coverage, len(target))
        with torch.no_grad():
            low, high = dist.interval(coverage).double().unbind(-1)
            miss = torch.maximum(low - target[:, 0], target[:, 0] - high)
        return cls(coverage, float(miss.sort().values[rank - 1]), len(target))

    def predict(self, dist: Any, X: Any = None) -> Tensor:
        """Returns intervals, (*, 2), in the unit of y.

        Args:
            dist: distributions of batch (*), D = 1, of the same model, or the model with X.
            X: features, N rows, with a model.
        """
        ends = predict_distribution(dist, X).interval(self.coverage)  # (*, 2)
        moved = ends + ends.new_tensor([-self.correction, self.correction])
        return torch.where(moved[..., :1] > moved[..., 1:], ends.mean(-1, keepdim=True), moved)


@dataclass(frozen=True)
class ConformalHDR:
    r"""Highest-density regions at an adjusted coverage, to have the stated one.

    With the values of :func:`hdr_values` on n rows held out of the fit,

    .. math::
        v_i = P(p(Y) \ge p(y_i)), \qquad q = v_{(\lceil (n + 1)\,c \rceil)}, \qquad
        \{y : v(y) \le q\}

    which is the model's region of coverage q: where the density is at least a threshold, in at most
    as many intervals as it has modes.  The guarantee is that of :class:`ConformalIntervals`.

    Made by :meth:`fit`.

    Attributes:
        coverage: c.
        adjusted_coverage: q; above c if the model is too narrow.
        n: number of rows it was fitted to.
        n_samples: draws for each row, where :func:`hdr_values` needs them.

    Example:
        >>> from mdn import GaussianMixture
        >>> loc = torch.tensor([[-3.0], [3.0]]).expand(999, 2, 1)
        >>> truth = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> y = truth.sample(generator=torch.Generator().manual_seed(0))
        >>> narrow = GaussianMixture(torch.zeros(2), loc, torch.full((2, 1), 0.5))
        >>> found = ConformalHDR.fit(narrow, y, 0.9)
        >>> round(found.adjusted_coverage, 4)
        0.9979
        >>> found.predict(narrow[0]).intervals
        tensor([[-4.5372, -1.4628],
                [ 1.4628,  4.5372]])

    References:
        R. Izbicki, G. Shimizu, R. B. Stern, CD-split and HPD-split: efficient conformal regions in
        high dimensions, J. Mach. Learn. Res. 23 (2022), section 3.
    """

    coverage: float
    adjusted_coverage: float
    n: int
    n_samples: int = 1000

    @classmethod
    def fit(
        cls,
        dist: Any,
        y: Any,
        coverage: float = 0.9,
        *,
        X: Any = None,
        n_samples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> ConformalHDR:
        """Fits the adjusted coverage.

        Args:
            dist: a distribution of batch (N,), or the model, for rows held out of the fit.
            y, X: targets of these rows, (N, D), tensor or array, and with a model their features.
            coverage: c, in (0, 1).
            n_samples, generator: as in :func:`hdr_values`.

        Raises:
            ValueError: fewer than c / (1 - c) rows; y of another shape; or a model so narrow that
                no coverage below 1 is large enough.
        """
        values = np.sort(hdr_values(dist, y, X=X, n_samples=n_samples, generator=generator))
        adjusted = float(values[_rank(coverage, len(values)) - 1])
        if adjusted >= 1:
            raise ValueError(
                f"dist must leave room for a coverage of {coverage:g}; within rounding it puts no "
                "probability beyond y in too many rows. Recalibrate it first"
            )
        return cls(coverage, adjusted, len(values), n_samples)

    def predict(self, dist: Any, X: Any = None) -> HDR:
        """Returns regions: intervals (*, K, 2), NaN-padded; their ``coverage`` is the adjusted one.

        Args:
            dist: distributions of batch (*), D = 1, of the same model, or the model with X.
            X: features, N rows, with a model.
        """
        dist = predict_distribution(dist, X)
        _need_one(dist, " for intervals. Ask .contains(dist, y)")
        return dist.hdr(self.adjusted_coverage)

    def contains(
        self, dist: Any, y: Any, *, X: Any = None, generator: torch.Generator | None = None
    ) -> NDArray[np.bool_]:
        """Returns whether each y lies in its region, (N,), for any number of targets.

        Args:
            dist: distributions of batch (N,) of the same model, or the model.
            y, X: (N, D), tensor or array, and with a model N rows of features.
            generator: source of randomness where draws are needed; one of a fixed seed, another
                than that of :meth:`fit`, if None.
        """
        dist, target = distribution_and_target(dist, y, X)
        if generator is None:  # draws shared with those of the fit would not be exchangeable
            generator = fixed_generator(target, offset=1)
        values = hdr_values(dist, target, n_samples=self.n_samples, generator=generator)
        return values <= self.adjusted_coverage


def _rank(coverage: float, n: int) -> int:
    """Rank, from 1, of the score up to which the region reaches."""
    check_number("coverage", coverage, above=0, below=1)
    rank = math.ceil((n + 1) * coverage - _ROUNDING)
    if rank > n:
        least = math.ceil(coverage / (1 - coverage) - _ROUNDING)
        raise ValueError(
            f"a coverage of {coverage:g} needs at least {least} rows, or the set would have to be "
            f"everything; got {n}. Hold out more rows or ask for less"
        )
    return rank


def _need_one(dist: Any, more: str = "") -> None:
    if tuple(dist.event_shape) != (1,):
        raise ValueError(
            f"dist must have one target{more}; got event shape {tuple(dist.event_shape)}"
        )

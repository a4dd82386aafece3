"""Is my density right, where is it wrong, and what can be done without fitting again?

All on rows that the model has not seen::

    pit_test(dist, y)                        # is the PIT uniform?
    coverage_curve(dist, y)                  # do intervals have their nominal coverage?
    conditional_calibration(dist, y, X)      # where in x is it wrong?
    recalibrate(dist, y).apply(new)          # a better calibrated mixture
    ConformalIntervals.fit(dist, y, 0.9).predict(new)  # intervals with a guarantee

They take a distribution with batch (N,) and targets y (N, D), tensor or array; or, with ``X=``, any
model that :func:`mdn.prediction.predict_distribution` takes, and y (N,) as well.  They return NumPy
arrays, except for distributions and regions.
"""

from __future__ import annotations

from ._conditional import ConditionalCalibration, Region, conditional_calibration
from ._conformal import ConformalHDR, ConformalIntervals
from ._coverage import CoverageCurve, Sharpness, coverage_curve, sharpness
from ._cross_validation import out_of_fold
from ._hdr_values import hdr_values
from ._pit import Outcome, PITHistogram, PITTest, pit_histogram, pit_test
from ._recalibration import Recalibration, recalibrate

__all__ = [
    "pit_histogram",
    "PITHistogram",
    "pit_test",
    "PITTest",
    "Outcome",
    "hdr_values",
    "coverage_curve",
    "CoverageCurve",
    "conditional_calibration",
    "ConditionalCalibration",
    "Region",
    "sharpness",
    "Sharpness",
    "out_of_fold",
    "recalibrate",
    "Recalibration",
    "ConformalIntervals",
    "ConformalHDR",
]

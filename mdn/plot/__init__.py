r"""Plots of p(y|x), of its calibration and of a training run: each on one Axes, which it returns.

::

    plot_density(model, X, y)                # p(y|x) as an image over one feature, with the data
    plot_feature(model, X, at=row)           # the same with the other features of one row
    plot_fan(model, X, y)                    # nested intervals over one feature
    plot_modes(model, X, y)                  # the modes over one feature
    plot_weights(model, X)                   # the weights of the components over one feature
    plot_conditional(model, x)               # p(y|x) at one x with its components, or at a few
    plot_ridge(model, x)                     # p(y|x) at many x, one above the other
    plot_contours(model, x)                  # p(y|x) of two targets
    plot_pit(calibration.pit_histogram(dist, y))
    plot_coverage(calibration.coverage_curve(dist, y))
    plot_sharpness(dist.stddev, y - dist.mean)
    plot_history(history)                    # a training run, and what zero means
    plot_units({"min": 0.54, "h": -3.56})    # one loss in several units
    plot_waterfall({"marginal": 1.4, "mixture": 0.5})  # what each better model gains

Plain Matplotlib: anything the Axes can do (titles, limits, scales) can be done afterwards.  No
setting of Matplotlib is changed and nothing is shown or saved.  These arguments mean the same in
all plots that have them:

- ``ax``: where to draw; a new figure if None.
- ``x_label``, ``y_label``: what the feature and the target are, with units: "waiting time [min]".
- ``y_unit``: unit of y, as "min".
- ``**style``: keywords of the main artist, which win over the defaults.

A colour-blind reader can tell the colours apart (M. Okabe and K. Ito, 2008), and lines also differ
in their dashes, so a print in grey stays readable.
"""

from __future__ import annotations

from ._calibration import plot_coverage, plot_pit, plot_sharpness
from ._conditional import plot_conditional, plot_ridge
from ._contours import plot_contours
from ._density import plot_density
from ._feature import plot_fan, plot_feature, plot_modes, plot_weights
from ._loss import plot_history, plot_units, plot_waterfall
from ._style import panels

__all__ = [
    "plot_density",
    "plot_feature",
    "plot_fan",
    "plot_modes",
    "plot_weights",
    "plot_conditional",
    "plot_ridge",
    "plot_contours",
    "plot_pit",
    "plot_coverage",
    "plot_sharpness",
    "plot_history",
    "plot_units",
    "plot_waterfall",
    "panels",
]

"""Calibration: what the functions of mdn.calibration return, drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from ..arguments import check_integer
from ..prediction import kind_of
from . import _inputs as inputs
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_pit", "plot_coverage", "plot_sharpness"]

_Z90 = 1.6449  # standard errors on either side for 90 %
_FEW = 5  # rows a bin below which its error says nothing
_MOST_ROWS = 0.98  # of the single errors the frame holds this share
_MARKERS = "os^Dv*"


@look.takes_style("bar", Rectangle)
def plot_pit(histogram: Any, *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draws a PIT histogram with the band in which its bars lie if the model is calibrated.

    A hump means that the predictions are too wide, a valley that they are too narrow, a slope that
    they are biased.  Bars outside the band are hatched; of B bins, chance puts about B (1 - band)
    there.

    Args:
        histogram: what ``mdn.calibration.pit_histogram`` returns.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.bar``, as ``color``.

    Returns:
        The Axes; the bars are ``ax.containers[0]``.

    Raises:
        TypeError: not a histogram.
        ValueError: counts that are not finite.

    Example:
        >>> from mdn.calibration import pit_histogram
        >>> ax = plot_pit(pit_histogram([0.1, 0.2, 0.4, 0.5, 0.7, 0.9], bins=2))
        >>> for name in ax.get_legend_handles_labels()[1]:
        ...     print(name)
        90 % band if calibrated
        expected, 3 rows
        rows in the bin
        >>> [float(bar.get_height()) for bar in ax.containers[0]]
        [3.0, 3.0]
    """
    fields = ("counts", "edges", "low", "high", "expected", "band")
    _check_fields(histogram, "histogram", fields, "pit_histogram")
    counts, edges = (inputs.check_vector(getattr(histogram, f), f) for f in ("counts", "edges"))
    if len(edges) != len(counts) + 1:
        raise ValueError(
            f"edges must be {len(counts) + 1} for {len(counts)} bins; got {len(edges)}"
        )
    outside = (counts < histogram.low) | (counts > histogram.high)

    ax = look.get_axes(ax)
    ends = edges[[0, -1]]
    band = f"{look.percent(histogram.band)} band if calibrated"
    look.draw_area(ax, ends, histogram.low, histogram.high, zorder=2, label=band)
    line: dict[str, Any] = {"color": look.BLACK, "linestyle": "--", "linewidth": 1.5, "zorder": 3}
    label = f"expected, {histogram.expected:.4g} rows"
    ax.hlines(histogram.expected, *ends, label=label, **line)
    colors = [look.ORANGE if out else look.SKY for out in outside]
    defaults = {"color": colors, "edgecolor": look.BLACK, "linewidth": 0.8, "zorder": 1}
    options = look.with_defaults(style, Patch, **defaults)
    bars = ax.bar(edges[:-1], counts, **{"width": np.diff(edges), "align": "edge", **options})
    for bar in np.array(bars.patches)[outside]:
        bar.set_hatch("//")
    handles, names = ax.get_legend_handles_labels()
    for label, chosen in (("rows in the bin", ~outside), ("rows outside the band", outside)):
        if chosen.any():
            handles.append(bars.patches[int(np.argmax(chosen))])
            names.append(label)
            handles[-1].set_label(label)
    ax.set_xlim(*ends)
    ax.set_ylim(0, 1.3 * max(counts.max(), histogram.high))  # the legend stands above the bars
    look.set_labels(ax, "PIT: predicted probability of a smaller y", "rows")
    ax.legend(handles, names, loc="upper center", ncols=2, fontsize="small", frameon=False)
    return ax


@look.takes_style("plot", Line2D)
def plot_coverage(curves: Any, *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draws the share of rows inside the predicted regions against their nominal coverage.

    On the diagonal both are equal; below it the model is too narrow, above it too wide.  The band
    holds a calibrated model with its probability, level by level.

    Args:
        curves: what ``mdn.calibration.coverage_curve`` returns, or up to six of them by the name of
            the model, all for the same rows.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.plot`` for the curves, as ``marker``.

    Returns:
        The Axes; the first of ``ax.lines`` is the diagonal, the others are the curves.

    Raises:
        TypeError: not a curve.
        ValueError: no curve, more than six, or of different numbers of rows or bands.

    Example:
        >>> from mdn.calibration import CoverageCurve
        >>> import numpy as np
        >>> nominal = np.array([0.5, 0.9])
        >>> low, high = nominal - 0.02, nominal + 0.02
        >>> curve = CoverageCurve(nominal, nominal - 0.1, low, high, n=900, band=0.9)
        >>> ax = plot_coverage({"narrow": curve})
        >>> ax.get_legend_handles_labels()[1]
        ['90 % band if calibrated', 'nominal', 'narrow']
    """
    named = curves if isinstance(curves, Mapping) else {"observed": curves}
    if not 1 <= len(named) <= len(look.CURVES):
        raise ValueError(f"curves must be 1 to {len(look.CURVES)}; got {len(named)}")
    fields = ("nominal", "observed", "low", "high", "n", "band")
    for name, curve in named.items():
        what = f"curves[{name!r}]" if named is curves else "curves"
        _check_fields(curve, what, fields, "coverage_curve")
    first = next(iter(named.values()))
    kinds = sorted({(c.n, c.band) for c in named.values()})
    if len(kinds) > 1:
        raise ValueError(f"curves must have the same rows and band; got (n, band) {kinds}")

    ax = look.get_axes(ax)
    nominal, low, high = (
        np.concatenate([[0.0], values, [1.0]]) for values in (first.nominal, first.low, first.high)
    )
    look.draw_area(ax, nominal, low, high, label=f"{look.percent(first.band)} band if calibrated")
    ax.plot([0, 1], [0, 1], color=look.BLACK, linewidth=0.8, label="nominal")
    for i, (name, curve) in enumerate(named.items()):
        options = {"marker": ".", "linewidth": 1.8}
        look.draw_curve(ax, i, curve.nominal, curve.observed, name, style, **options)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    look.set_labels(ax, "nominal coverage", f"share of the {first.n} rows inside")
    hint = "above the diagonal: too wide\nbelow: too narrow"
    ax.legend(loc="best", fontsize="small", title=hint, title_fontsize="small", alignment="left")
    return ax


@look.takes_style("errorbar", Line2D)
def plot_sharpness(
    spread: Any,
    error: ArrayLike,
    *,
    n_bins: int = 10,
    y_unit: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    r"""Draws the error of the rows against their predicted spread: is it larger where predicted?

    The rows are cut into bins of equal counts by their spread; a point is a bin, its bar an
    interval of about 90 %.  For standard deviations the root of the mean of :math:`\sigma^2` stands
    against the root-mean-square error.  For intervals of coverage c it is the mean half-width
    against the c quantile of the absolute error.  On the diagonal the predicted spread is right; a
    level row of points means that it carries no information on the error.  Of the single errors the
    largest 2 % may lie above the frame.

    Args:
        spread: predicted standard deviations, (N,) or (N, 1); or what ``mdn.calibration.sharpness``
            returns.
        error: y minus the predicted mean, or, with intervals, minus their middle; (N,) or (N, 1).
        n_bins: bins, each of five rows at least.
        y_unit, ax: as in all plots of `mdn.plot`.
        **style: keywords of ``Axes.errorbar``, as ``marker`` or ``capsize``.

    Raises:
        ValueError: different lengths, a spread that is not positive, or too few rows for the bins.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> sigma = rng.uniform(1.0, 3.0, 1000)
        >>> ax = plot_sharpness(sigma, sigma * rng.normal(size=1000), n_bins=4, y_unit="min")
        >>> ax.containers[0][0].get_xdata().round(2)
        array([1.29, 1.81, 2.3 , 2.76])
        >>> ax.containers[0][0].get_ydata().round(2)
        array([1.29, 1.97, 2.43, 2.63])
    """
    spreads = _spreads(spread)
    errors = np.abs(inputs.check_vector(error, "error", len(spreads[0].values)))
    check_integer("n_bins", n_bins, at_least=None)
    if n_bins < 1 or len(errors) < _FEW * n_bins:
        raise ValueError(
            f"n_bins must leave {_FEW} rows or more for each bin; "
            f"got {n_bins} for {len(errors)} rows"
        )
    binned = [_binned(s, errors, n_bins) for s in spreads]  # each (4, B)
    x, tops = np.concatenate([b[0] for b in binned]), [b[3].max() for b in binned]
    pad = 0.12 * np.ptp(x) or 0.1 * x.max()
    low, high = max(0.0, x.min() - pad), x.max() + pad

    ax = look.get_axes(ax)
    ax.plot([low, high], [low, high], color=look.BLACK, linewidth=0.8, label="error as predicted")
    if len(spreads) == 1:
        pale = {"s": 7, "color": look.GREY, "linewidths": 0, "alpha": 0.7, "zorder": 1}
        look.draw_points(ax, spreads[0].values, errors, "|error| of a row", **pale)
        tops.append(float(np.quantile(errors, _MOST_ROWS)))
    for i, (s, (centre, middle, lower, upper)) in enumerate(zip(spreads, binned, strict=True)):
        defaults = {"color": look.CURVES[i][0], "marker": _MARKERS[i], "linestyle": "none"}
        options = look.with_defaults(style, Line2D, label=s.name, zorder=3, **defaults)
        bars = np.stack([middle - lower, upper - middle])
        ax.errorbar(centre, middle, bars, **{"capsize": 3, **options})
    ax.set(xlim=(low, high), ylim=(0.0, 1.05 * max(high, *tops)))
    look.set_labels(ax, look.with_unit(spreads[0].what, y_unit), look.with_unit("error", y_unit))
    look.add_legend(ax, len(errors))
    return ax


# -- what is drawn, as numbers ---------------------------------------------------------------------


class _Spread(NamedTuple):
    """A width for each row, and what is to be compared with it."""

    values: Floats  # (N,), standard deviations or half-widths
    what: str
    name: str
    coverage: float | None  # None for standard deviations


def _spreads(spread: Any) -> list[_Spread]:
    """Returns the standard deviations, or the half-widths of each coverage."""
    if hasattr(spread, "coverage") and hasattr(spread, "width"):
        coverage = inputs.check_vector(spread.coverage, "coverage")
        width = inputs.check_numbers(spread.width, "width").reshape(-1, len(coverage))  # (N, C)
        if len(coverage) > len(look.CURVES):
            raise ValueError(f"spread must be of 1 to {len(look.CURVES)} coverages; got {coverage}")
        what = "predicted half-width of the interval"
        found = [
            _Spread(w / 2, what, f"{look.percent(c)} of the |errors| in a bin", float(c))
            for w, c in zip(width.T, coverage, strict=True)
        ]
    else:
        what, name = "predicted standard deviation", "root-mean-square error of a bin"
        found = [_Spread(inputs.check_vector(spread, "spread"), what, name, None)]
    for s in found:
        if not (s.values > 0).all():
            row = int(np.flatnonzero(s.values <= 0)[0])
            raise ValueError(f"spread must be positive; got {s.values[row]:g} in row {row}")
    return found


def _binned(spread: _Spread, errors: Floats, n_bins: int) -> Floats:
    """Returns mean spread and error of bins of equal counts, and the ends of its bar, (4, B)."""
    c = spread.coverage
    columns = []
    for rows in np.array_split(np.argsort(spread.values, kind="stable"), n_bins):
        width, part, n = spread.values[rows], errors[rows], len(rows)
        if c is None:
            square = part**2
            step = _Z90 * square.std(ddof=1) / math.sqrt(n)
            ends = np.sqrt((square.mean() + step * np.array([0, -1, 1])).clip(min=0.0))
            columns.append([math.sqrt((width**2).mean()), *ends])
        else:
            step = _Z90 * math.sqrt(c * (1 - c) / n)
            levels = (c + step * np.array([0, -1, 1])).clip(0.0, 1.0)
            columns.append([width.mean(), *np.quantile(part, levels)])
    return np.array(columns).T


def _check_fields(thing: Any, name: str, fields: Sequence[str], function: str) -> None:
    """Checks that the thing is what a function of mdn.calibration returns, or looks like it."""
    if not all(hasattr(thing, field) for field in fields):
        raise TypeError(
            f"{name} must be what mdn.calibration.{function} returns; got {kind_of(thing)}"
        )

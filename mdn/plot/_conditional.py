"""p(y|x) as curves: at one x with its components, at a few overlaid, at many as a ridge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from ..arguments import check_choice, check_flag, check_integer
from ..prediction import to_numpy
from . import _inputs as inputs
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_conditional", "plot_ridge"]

_TAIL = 5e-4  # probability left out on each side
_MINOR_MODE = 0.01  # share of the highest density below which a mode is not marked
_REACH = 6.0  # scales on either side of a component within which its curve is drawn densely
_PER_SCALE = 8  # points there
_MOST_COMPONENTS = 10  # that are all drawn; of more the largest, and the others as one
_LARGEST = 5
_NARROW = 3.2  # inches, of an Axes with no room for a legend of two columns, as on a phone
_LEGEND_ROW = 0.19  # inches, the height of a row of the legend with its share of the margin
_MOST_STEPS = 5000  # of a discrete y; evenly chosen if it takes more values
_MOST_BARS = 100  # of a discrete y; more values than these are drawn as steps
_BAR = 0.8  # width of a bar, in distances of two values
_MOST_RIDGES = 40  # rows that a figure of ordinary height has room for
_OVERLAP = 1.8  # height of the highest ridge, in rows


@look.takes_style("plot", Line2D)
def plot_conditional(
    model_or_dist: Any,
    x: ArrayLike | None = None,
    *,
    components: bool = True,
    coverage: float = 0.9,
    region: Literal["central", "hdr"] = "central",
    labels: Sequence[str] | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 500,
    **style: Any,
) -> Axes:
    r"""Draws the density p(y|x) at one x with its components, or at up to six x, overlaid.

    One row: the density, its weighted components :math:`\pi_k p_k(y)`, a shaded region, mean,
    median and modes.  Of more than ten components, the five largest and the sum of the others.
    Several rows: the densities and their modes.  Modes lower than 1 % of the highest are not
    marked.  The curve is drawn from the 0.05 % to the 99.95 % quantile, on points
    dense enough around every component to show the narrowest.  For a y that takes only some values,
    as a rounded one or a count, it shows their probabilities, as bars, or as steps if there are
    several rows or more than a hundred values.  Atoms, values that have a probability beside a
    density, are lines whose height is their probability, on an axis of its own on the right.

    Args:
        model_or_dist: a distribution with batch () or (N,) and event (1,), or a model as in
            `plot_density`.
        x: rows of features for the model, (N,) or (N, F); for a distribution only labels.
        components: whether to draw the components, if the distribution has any.
        coverage: probability of the shaded region, in (0, 1).
        region: "central", the interval between two quantiles; or "hdr", the region of highest
            density, in one piece or several.
        labels: names of the N curves; by default the values of x, if they are few.
        y_label, y_unit, ax: as in all plots of `mdn.plot`.
        n_grid: evenly spaced points of a curve, next to those around the components.
        **style: keywords of ``Axes.plot`` for the densities, as ``color`` or ``lw``.

    Returns:
        The Axes; the densities are the first of ``ax.lines``.

    Raises:
        ValueError: more than six rows, several targets, labels or x of another length, or a
            coverage out of range.
        TypeError: neither a model nor a distribution with quantiles and modes, or a model without
            x.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> loc, scale = torch.tensor([[2.0], [4.0]]), torch.tensor([[0.2], [0.4]])
        >>> dist = GaussianMixture(torch.zeros(2), loc, scale)
        >>> ax = plot_conditional(dist, y_unit="min")
        >>> for name in ax.get_legend_handles_labels()[1]:
        ...     print(name)
        p(y|x)
        weighted components
        90 % central interval
        mean 3 min
        median 2.667 min
        modes 2, 4 min
    """
    check_choice("region", region, ("central", "hdr"))
    check_flag("components", components)
    check_integer("n_grid", n_grid, 2)
    central = region == "central"
    table = None if x is None else inputs.as_table(x)
    dist = inputs.distribution_at(model_or_dist, table)
    inputs.check_methods(dist, "modes", "interval" if central else "hdr")
    n = dist.batch_shape[0]
    if not 1 <= n <= len(look.CURVES):
        raise ValueError(f"x must have 1 to {len(look.CURVES)} rows to be told apart; got {n}")
    names = inputs.check_labels(labels, _curve_names(table, n))

    lower, median, upper = inputs.quantiles(dist, np.array([_TAIL, 0.5, 1 - _TAIL]))  # (N,)
    modes, heights, major = inputs.high_modes(dist, _MINOR_MODE)  # (N, K)
    atoms = inputs.parts_of(dist)
    modes = np.where(major, modes, modes[:, :1])  # no NaN left
    mean, width = to_numpy(dist.mean)[:, 0], inputs.lattice_width(dist)
    pieces = to_numpy(dist.interval(coverage)[:, None] if central else dist.hdr(coverage)[0])

    low, high = min(lower.min(), modes.min()), max(upper.max(), modes.max())
    if n == 1:
        low, high = min(low, mean.min()), max(high, mean.max())
    edges = np.where(np.isnan(pieces), mean[:, None, None], pieces).reshape(n, -1)  # (N, 2 M)
    marks = np.concatenate([mean[:, None], median[:, None], edges, modes], axis=1)
    points, grid, density = _curves(atoms, low, high, marks, n_grid)  # (G, N)

    ax = look.get_axes(ax)
    for i, name in enumerate(names):
        look.draw_curve(ax, i, grid[:, i], density[:, i], name, style, zorder=3)
    if n == 1:
        if components and hasattr(atoms.smooth, "responsibilities"):
            _draw_components(ax, atoms.smooth, points, grid[:, 0], density)
        what = "central interval" if central else "highest-density region"
        start, end = pieces[0].T
        inside = ((points >= start - width / 4) & (points <= end + width / 4)).any(1)
        options = {"where": inside, "alpha": 0.5, "label": f"{look.percent(coverage)} {what}"}
        look.draw_area(ax, grid[:, 0], density[:, 0], zorder=0.5, **options)
        _draw_averages(ax, grid[:, 0], density[:, 0], mean[0], median[0], y_unit)
    for i in range(n):
        at = modes[i, major[i]]
        label = "modes" if i == n - 1 else "_modes"
        if n == 1:
            label = f"mode{'s' * (len(at) > 1)} {_format_values(at, high - low, y_unit)}"
        ax.plot(
            at,
            heights[i, major[i]],
            "o",
            color=look.BLACK,
            markeredgecolor="white",
            zorder=4,
            label=label,
        )

    what = look.probability_label() if width else look.density_label(y_unit)
    look.set_labels(ax, look.with_unit("y", y_unit), what, y_label)
    # the legend stands in two columns above the curves; a sticky 0 is the lower end of the axis
    ax.lines[-1].sticky_edges.y.append(0.0)
    if atoms.probs.size:
        _name_atoms(ax, atoms)
    frame, dpi = ax.get_window_extent(), ax.get_figure().dpi  # type: ignore[union-attr]
    width, height = frame.width / dpi, frame.height / dpi  # inches
    n_columns = 1 if width < _NARROW else 2
    n_rows = math.ceil(len(ax.get_legend_handles_labels()[1]) / n_columns)
    room = max(1.02 + 0.075 * n_rows, 1.02 / (1 - min(0.6, _LEGEND_ROW * n_rows / height)))
    ax.update_datalim([(low, 0.0), (high, density.max() * room)])
    ax.autoscale_view()
    if atoms.probs.size:
        _draw_atoms(ax, atoms, room)
    tight = {"handlelength": 1.8, "columnspacing": 1.0, "borderaxespad": 0.2}
    ax.legend(loc="upper center", ncols=n_columns, fontsize="small", frameon=False, **tight)
    return ax


@look.takes_style("plot", Line2D)
def plot_ridge(
    model_or_dist: Any,
    x: ArrayLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 500,
    **style: Any,
) -> Axes:
    r"""Draws the densities at up to 40 x one above the other: how the shape of p(y|x) changes.

    The first row is the lowest.  All have one scale, so equal areas are equal probabilities; the
    highest reaches 1.8 rows up.  White ticks are the medians.  Orange lines are the probabilities
    of atoms: one of 1 would reach the next row.

    Args:
        model_or_dist, x, n_grid, style: as in `plot_conditional`.
        labels: names of the N rows; by default the values of x, if they are few.
        x_label: what tells the rows apart, with its unit: the vertical axis.
        y_label, y_unit, ax: as in all plots of `mdn.plot`; y is the horizontal axis.

    Returns:
        The Axes; the densities are ``ax.lines``, from the last row to the first.

    Raises:
        ValueError: more than 40 rows, several targets, or labels or x of another length.
        TypeError: neither a model nor a distribution with quantiles, or a model without x.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> loc = torch.arange(3.0)[:, None, None]
        >>> dist = GaussianMixture(torch.zeros(1), loc, torch.ones(1, 1))
        >>> ax = plot_ridge(dist, [10, 20, 30], x_label="age [yr]", y_unit="m")
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['10', '20', '30']
        >>> round(float(ax.lines[-1].get_ydata().max()), 6)
        1.8
    """
    table = None if x is None else inputs.as_table(x)
    dist = inputs.distribution_at(model_or_dist, table)
    n = dist.batch_shape[0]
    if not 1 <= n <= _MOST_RIDGES:
        raise ValueError(f"x must have 1 to {_MOST_RIDGES} rows; got {n}")
    rows = None if table is None else inputs.row_values(table)
    names = inputs.check_labels(labels, rows or [str(i) for i in range(n)])

    low, median, high = inputs.quantiles(dist, np.array([_TAIL, 0.5, 1 - _TAIL]))  # (N,)
    atoms = inputs.parts_of(dist)
    _, grid, density = _curves(atoms, low.min(), high.max(), median[:, None], n_grid)  # (G, N)
    height = density * (_OVERLAP / density.max())

    ax = look.get_axes(ax)
    for i in reversed(range(n)):  # a lower row stands before those above it
        order = 2 + (n - i) / n
        y, top = grid[:, i], i + height[:, i]
        look.draw_area(ax, y, i, top, color=look.SKY, alpha=0.75, zorder=order)
        at = np.interp(median[i], y, top)
        ax.vlines(median[i], i, at, color="white", linewidth=1.5, zorder=order)
        defaults = {"color": look.BLUE, "linewidth": 1.3, "zorder": order}
        ax.plot(y, top, **look.with_defaults(style, Line2D, **defaults))
        ax.vlines(
            atoms.places[i], i, i + atoms.probs[i], color=look.ORANGE, linewidth=3, zorder=order
        )
    ax.set_yticks(np.arange(n), names)
    ax.set_ylim(-0.1, max(n - 0.5, (np.arange(n) + height.max(0)).max() + 0.1))
    ax.set_xlim(grid.min(), grid.max())
    rows_are = "row" if rows is None else "x"
    y_name = look.with_unit("y", y_unit)
    if atoms.probs.size:
        y_name += f"\n(orange: probability of {atoms.name}, up to the next row for 1)"
        ax.margins(x=0.02)
        ax.autoscale(axis="x")
    look.set_labels(ax, y_name, rows_are, y_label, x_label)
    return ax


# -- what is drawn, as numbers and text -----------------------------------------------------------


def _curves(
    atoms: inputs.Parts, low: float, high: float, marks: Floats, n_grid: int
) -> tuple[Floats, Floats, Floats]:
    """Returns points (G, N) on N rising grids, where their density is drawn, and the density.

    Points are even, dense where p is, and the marks (N, M).  Of a y that takes only some values the
    density is drawn as a bar around each of them, or a step.
    """
    dist = atoms.smooth
    n, width = len(marks), inputs.lattice_width(dist)
    corners = np.array([-0.5, 0.5])
    if width:
        first, last = round(low / width), round(high / width)
        even = np.linspace(first, last, min(last - first + 1, _MOST_STEPS)).round()
        cells = np.union1d(even, (marks.clip(low, high) / width).round())
        if n == 1 and len(cells) <= _MOST_BARS:
            corners = _BAR * np.array([-0.5, -0.5, 0.5, 0.5])
        points = np.tile(np.repeat(cells * width, len(corners))[:, None], n)
        grid = points + np.tile(corners * width, len(cells))[:, None]
    else:
        even = np.repeat(np.linspace(low, high, n_grid)[:, None], n, axis=1)
        if hasattr(dist, "loc") and hasattr(dist, "scale"):
            loc, scale = (to_numpy(a)[..., 0] for a in (dist.loc, dist.scale))  # (N, K)
            finite = np.isfinite(loc).all(1) & np.isfinite(scale).all(1)  # (N,)
            if not finite.all():
                row = int(finite.argmin())
                raise ValueError(
                    "the distribution must have finite locations and scales; "
                    f"row {row} has not: look at the output of the model"
                )
            dense = _around_components(loc, scale, low, high)
        else:
            dense = inputs.quantiles(dist, np.linspace(_TAIL, 1 - _TAIL, n_grid))
        points = grid = np.sort(np.concatenate([even, dense, marks.T]).clip(low, high), axis=0)
    density = np.exp(inputs.evaluate(dist, dist.log_prob, points[..., None])) * atoms.share
    if len(corners) == 4:  # from the axis up and down again
        density[::4] = density[3::4] = 0.0
    return points, grid, density


def _around_components(loc: Floats, scale: Floats, low: float, high: float) -> Floats:
    """Returns points (G, N) as dense as the narrowest component (N, K) needs that is near.

    Where components overlap, the narrowest one sets the distance, so that many of them, as of an
    ensemble, need hardly more points than one.
    """
    ends = np.concatenate([loc - _REACH * scale, loc + _REACH * scale], axis=1).clip(low, high)
    ends = np.sort(ends, axis=1)  # (N, 2 K)
    middle = (ends[:, :-1] + ends[:, 1:]) / 2
    count = np.zeros(ends.shape)  # of points up to each end
    for i, at in enumerate(middle):
        near = np.abs(at[:, None] - loc[i]) < _REACH * scale[i]  # (2 K - 1, K)
        rate = np.where(near, _PER_SCALE / scale[i], 0.0).max(1)
        count[i, 1:] = np.cumsum(rate * np.diff(ends[i]))
    n_points = math.ceil(count[:, -1].max()) + 1
    rows = zip(count, ends, strict=True)
    return np.stack([np.interp(np.linspace(0, c[-1], n_points), c, e) for c, e in rows], axis=1)


def _curve_names(table: Any, n: int) -> list[str]:
    """Returns names of curves: the values of x, or the numbers of the rows."""
    rows = None if table is None else inputs.row_values(table)
    if rows is None:
        return ["p(y|x)"] if n == 1 else [f"row {i}" for i in range(n)]
    one = table.shape[1] == 1
    return [f"p(y|x = {row})" if one else f"p(y|x = ({row}))" for row in rows]


def _format_values(values: ArrayLike, span: float, unit: str | None) -> str:
    """Returns rising values to a thousandth of the span; their count if above three."""
    if np.size(values) > 3:
        return f"({np.size(values)})"
    rounded = np.round(np.sort(np.ravel(values)), 3 - math.floor(math.log10(span))) + 0.0  # no -0
    return " ".join([", ".join(f"{v:.10g}" for v in rounded), *([unit] if unit else [])])


# -- drawing --------------------------------------------------------------------------------------


def _draw_components(ax: Axes, dist: Any, points: Floats, y: Floats, density: Floats) -> None:
    """Draws pi_k p_k(y) = p(y) r_k(y) with the responsibilities r, so of any family."""
    log_shares = inputs.evaluate(dist, dist.responsibilities, points[..., None])  # (G, 1, K)
    parts = (density[..., None] * np.exp(log_shares))[:, 0].T  # (K, G)
    name, rest = "weighted components", None
    if len(parts) > _MOST_COMPONENTS:
        order = np.argsort(-np.trapezoid(parts, y, axis=1), kind="stable")
        rest, parts = parts[order[_LARGEST:]], parts[np.sort(order[:_LARGEST])]
        name = f"the {_LARGEST} largest components"
    for k, part in enumerate(parts):
        look.draw_area(ax, y, part, color=look.SKY, alpha=0.25)
        ax.plot(y, part, color=look.SKY, linewidth=1, label="_component" if k else name)
    if rest is not None:
        label = f"the other {len(rest)} together"
        ax.plot(y, rest.sum(0), color=look.ORANGE, linestyle="-.", linewidth=1.3, label=label)


def _name_atoms(ax: Axes, atoms: inputs.Parts) -> None:
    """Adds the atoms to the legend, with their probabilities if there is one row."""
    order = np.argsort(atoms.places[0])
    rows = zip(atoms.places[0][order], atoms.probs[0][order], strict=True)
    names = [f"P(y = {place:g}) = {p:.3g}" for place, p in rows]
    for name in names if len(atoms.probs) == 1 else [f"probability of {atoms.name}"]:
        color = look.PURPLE if len(atoms.probs) == 1 else look.BLACK
        ax.plot([], [], "D-", color=color, linewidth=3, markersize=5, label=name)


def _draw_atoms(ax: Axes, atoms: inputs.Parts, room: float) -> None:
    """Draws the probabilities of the atoms on an axis of its own on the right."""
    right = ax.twinx()
    n = len(atoms.probs)
    for i, (places, probs) in enumerate(zip(atoms.places, atoms.probs, strict=True)):
        color = look.PURPLE if n == 1 else look.CURVES[i][0]
        inches = (i - (n - 1) / 2) * 4.0 / 72  # beside one another
        scale = ax.get_figure().dpi_scale_trans  # type: ignore[union-attr]
        beside = right.transData + ScaledTranslation(inches, 0, scale)
        right.vlines(places, 0, probs, color=color, linewidth=3, transform=beside)
        right.plot(places, probs, "D", color=color, markersize=5, transform=beside)
    right.set_ylim(0.0, atoms.probs.max() * room)
    right.set_ylabel(f"probability of {atoms.name}")


def _draw_averages(
    ax: Axes, y: Floats, density: Floats, mean: float, median: float, unit: str | None
) -> None:
    """Draws the mean and the median of one curve."""
    looks = {"mean": (mean, look.VERMILLION, "--"), "median": (median, look.GREEN, ":")}
    for name, (at, color, dashes) in looks.items():
        label = f"{name} {_format_values(at, y[-1] - y[0], unit)}"
        # as high as the peak, not as the curve: between two modes the mean may have no density
        ax.plot([at, at], [0, density.max()], dashes, color=color, linewidth=2, label=label)

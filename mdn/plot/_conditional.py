"""p(y|x) as curves: at one x taken apart, at a few overlaid, at many one above the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from . import _inputs as ask
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_conditional", "plot_ridge"]

_TAIL = 5e-4  # probability left out on each side
_MINOR_MODE = 0.01  # share of the highest density below which a mode is not marked
_OFFSETS = np.linspace(-6.0, 6.0, 97)  # points of a component's curve, in its scales
_MOST_RIDGES = 40  # rows that a figure of ordinary height has room for
_OVERLAP = 1.8  # height of the highest ridge, in rows


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
    r"""Draw the density p(y|x) at one x, taken apart, or at up to six, overlaid.

    One row: the density, its weighted components :math:`\pi_k p_k(y)`, a shaded region, mean,
    median and modes.  Several rows: the densities and their modes.  Modes lower than 1 % of the
    highest are not marked.  The curve is drawn from the 0.05 % to the 99.95 % quantile, on points
    dense enough around every component to show the narrowest.

    Args:
        model_or_dist: a distribution with batch () or (N,) and event (1,), or a model as in
            `plot_density`.
        x: rows of features for the model, (N,) or (N, F); for a distribution only labels.
        components: whether to draw the components, if the distribution has any.
        coverage: probability of the shaded region, in (0, 1).
        region: "central", the interval between two quantiles; or "hdr", the region of highest
            density, in one piece or several.
        labels: names of the N curves; by default the values of x.
        y_label: what the target is, with its unit.
        y_unit: unit of y, as "min".
        ax: where to draw; a new figure if None.
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
    if region not in ("central", "hdr"):
        raise ValueError(f'region must be "central" or "hdr"; got {region!r}')
    needs = ("modes", "interval") if region == "central" else ("modes", "hdr")
    dist, values = ask.conditional(model_or_dist, x, needs)
    n = dist.batch_shape[0]
    if n > len(look.CURVES) or n < 1:
        raise ValueError(f"x must have 1 to {len(look.CURVES)} rows to be told apart; got {n}")
    names = ask.labels(labels, n) or look.row_names(values, n)

    lower, median, upper = ask.quantiles(dist, np.array([_TAIL, 0.5, 1 - _TAIL]))  # (N,)
    modes, log_heights = map(ask.array, dist.modes())
    log_heights = np.where(np.isnan(log_heights), -math.inf, log_heights)
    major = log_heights >= log_heights.max(1, keepdims=True) + math.log(_MINOR_MODE)  # (N, K)
    modes = np.where(major, modes[..., 0], modes[:, :1, 0])  # (N, K), no NaN left
    mean = ask.array(dist.mean)[:, 0]
    central = region == "central"
    pieces = ask.array(dist.interval(coverage)[:, None] if central else dist.hdr(coverage)[0])

    low, high = min(lower.min(), modes.min()), max(upper.max(), modes.max())
    if n == 1:
        low, high = min(low, mean.min()), max(high, mean.max())
    edges = np.where(np.isnan(pieces), mean[:, None, None], pieces).reshape(n, -1)  # (N, 2 M)
    marks = np.concatenate([mean[:, None], median[:, None], edges, modes], axis=1)
    grid = _curve_grid(dist, low, high, marks, n_grid)  # (G, N)
    density = np.exp(ask.on_grid(dist, dist.log_prob, grid))

    ax = look.axes(ax)
    style = cbook.normalize_kwargs(style, Line2D)
    curves = []
    for i, ((colour, dashes), name) in enumerate(zip(look.CURVES[:n], names, strict=True)):
        default = {"color": colour, "linestyle": dashes, "linewidth": 2.0, "label": name}
        curves += ax.plot(grid[:, i], density[:, i], **{**default, "zorder": 3, **style})
    if n == 1:
        if components:
            _draw_components(ax, dist, grid, density)
        what = "central interval" if central else "highest-density region"
        _draw_region(ax, grid[:, 0], density[:, 0], pieces[0], f"{look.percent(coverage)} {what}")
        _draw_averages(ax, grid[:, 0], density[:, 0], mean[0], median[0], y_unit)
    for i in range(n):
        at = modes[i, major[i]]
        what = "modes"
        if n == 1:
            what = f"mode{'s' * (len(at) > 1)} {look.numbers(at, high - low, y_unit)}"
        ax.plot(
            *(at, np.exp(log_heights[i, major[i]])),
            "o",
            color=look.BLACK,
            markeredgecolor="white",
            zorder=4,
            label=what if i == n - 1 else "_modes",
        )

    ax.set_xlabel(y_label or ax.get_xlabel() or look.with_unit("y", y_unit))
    ax.set_ylabel(ax.get_ylabel() or look.per_unit(y_unit))
    # The legend stands in two columns above the curves; sticky, 0 is the lower end of the axis.
    curves[0].sticky_edges.y.append(0.0)
    n_rows = math.ceil(len(ax.get_legend_handles_labels()[1]) / 2)
    ax.update_datalim([(low, 0.0), (high, density.max() * (1.02 + 0.075 * n_rows))])
    ax.autoscale_view()
    tight = {"handlelength": 1.8, "columnspacing": 1.0, "borderaxespad": 0.2}
    ax.legend(loc="upper center", ncols=2, fontsize="small", frameon=False, **tight)
    return ax


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
    r"""Draw the densities at up to 40 x one above the other: how the shape of p(y|x) moves.

    The first row is the lowest.  All have one scale, so equal areas are equal probabilities; the
    highest reaches 1.8 rows up.  White ticks are the medians.

    Args:
        model_or_dist: a distribution with batch () or (N,) and event (1,), or a model as in
            `plot_density`.
        x: rows of features for the model, (N,) or (N, F); for a distribution only labels.
        labels: names of the N rows; by default the values of x.
        x_label: what tells the rows apart, with its unit: the vertical axis.
        y_label: what the target is, with its unit: the horizontal axis.
        y_unit: unit of y, as "min".
        ax: where to draw; a new figure if None.
        n_grid: evenly spaced points of a curve, next to those around the components.
        **style: keywords of ``Axes.plot`` for the densities, as ``color`` or ``lw``.

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
    dist, values = ask.conditional(model_or_dist, x, [])
    n = dist.batch_shape[0]
    if not 1 <= n <= _MOST_RIDGES:
        raise ValueError(f"x must have 1 to {_MOST_RIDGES} rows; got {n}")
    names = [str(i) for i in range(n)] if values is None else look.row_values(values)
    names = ask.labels(labels, n) or names

    low, median, high = ask.quantiles(dist, np.array([_TAIL, 0.5, 1 - _TAIL]))  # (N,)
    grid = _curve_grid(dist, low.min(), high.max(), median[:, None], n_grid)  # (G, N)
    density = np.exp(ask.on_grid(dist, dist.log_prob, grid))
    height = density * (_OVERLAP / density.max())

    ax = look.axes(ax)
    style = cbook.normalize_kwargs(style, Line2D)
    for i in reversed(range(n)):  # a lower row stands before those above it
        order = 2 + (n - i) / n
        line = {"color": look.BLUE, "linewidth": 1.3, "zorder": order, **style}
        y, top = grid[:, i], i + height[:, i]
        ax.fill_between(y, i, top, color=look.SKY, alpha=0.75, linewidth=0, zorder=order)
        at = np.interp(median[i], y, top)
        ax.vlines(median[i], i, at, color="white", linewidth=1.5, zorder=order)
        ax.plot(y, top, **line)
    ax.set_yticks(np.arange(n), names)
    ax.set_ylim(-0.1, max(n - 0.5, (np.arange(n) + height.max(0)).max() + 0.1))
    ax.set_xlim(low.min(), high.max())
    ax.set_xlabel(y_label or ax.get_xlabel() or look.with_unit("y", y_unit))
    ax.set_ylabel(x_label or ax.get_ylabel() or ("row" if values is None else "x"))
    return ax


# -- what to draw, as numbers ---------------------------------------------------------------------


def _curve_grid(dist: Any, low: float, high: float, marks: Floats, n_grid: int) -> Floats:
    """Points of N curves, (G, N), sorted: even, dense where the mass is, and the marks (N, M)."""
    n = len(marks)
    even = np.repeat(np.linspace(low, high, n_grid)[:, None], n, axis=1)
    if hasattr(dist, "loc") and hasattr(dist, "scale"):
        loc, scale = ask.array(dist.loc)[..., 0], ask.array(dist.scale)[..., 0]  # (N, K)
        dense = (loc + _OFFSETS[:, None, None] * scale).transpose(0, 2, 1).reshape(-1, n)
    else:
        levels = np.linspace(_TAIL, 1 - _TAIL, n_grid)
        dense = ask.quantiles(dist, levels)
    return np.sort(np.concatenate([even, dense, marks.T]).clip(low, high), axis=0)


# -- drawing --------------------------------------------------------------------------------------


def _draw_components(ax: Axes, dist: Any, grid: Floats, density: Floats) -> None:
    """pi_k p_k(y) = p(y) r_k(y), with the responsibilities r: so of any family."""
    if not hasattr(dist, "responsibilities"):
        return
    y = ask.like(dist, grid).unsqueeze(-1)
    parts = density[..., None] * np.exp(ask.array(dist.responsibilities(y)))  # (G, 1, K)
    for k, part in enumerate(parts[:, 0].T):
        label = "weighted components" if k == 0 else "_component"
        ax.fill_between(grid[:, 0], part, color=look.SKY, alpha=0.25, linewidth=0)
        ax.plot(grid[:, 0], part, color=look.SKY, linewidth=1, label=label)


def _draw_region(ax: Axes, y: Floats, density: Floats, pieces: Floats, label: str) -> None:
    """Intervals (M, 2), padded with NaN, shaded below the curve."""
    inside = ((y[:, None] >= pieces[:, 0]) & (y[:, None] <= pieces[:, 1])).any(1)
    ax.fill_between(
        *(y, density),
        where=inside,
        color=look.GREY,
        alpha=0.5,
        linewidth=0,
        zorder=0.5,
        label=label,
    )


def _draw_averages(
    ax: Axes, y: Floats, density: Floats, mean: float, median: float, unit: str | None
) -> None:
    """Mean and median of one curve."""
    looks = {"mean": (mean, look.VERMILLION, "--"), "median": (median, look.GREEN, ":")}
    for name, (at, colour, dashes) in looks.items():
        label = f"{name} {look.numbers(at, y[-1] - y[0], unit)}"
        # as high as the peak, not as the curve: between two modes the mean may have no density
        ax.plot([at, at], [0, density.max()], dashes, color=colour, linewidth=2, label=label)

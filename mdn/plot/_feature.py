"""What becomes of p(y|x) along one feature: intervals, branches and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from . import _inputs as ask
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_fan", "plot_modes", "plot_weights"]

_LEAST_MODE = 0.05  # share of the highest density at an x below which a mode is no branch
_PALE, _DARK = 0.2, 0.62  # of the colour map: the widest interval and the narrowest


def plot_fan(
    model: Any,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    feature: int = 0,
    at: ArrayLike | None = None,
    coverage: float | Sequence[float] = (0.5, 0.8, 0.95),
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draw nested central intervals and the median of p(y|x) over one feature: a fan chart.

    An interval of coverage c goes from the quantile :math:`(1 - c)/2` to :math:`(1 + c)/2`.  It
    hides a gap between two modes; `plot_density` and `plot_modes` show it.

    Args:
        model: as in `plot_density`; its distributions need ``icdf``.
        x: features, (N,) or (N, F), array or data frame.
        y: targets drawn as points, (N,) or (N, 1), if any.
        feature: column of x along the horizontal axis.
        at: a row of x, (F,), whose values the other features have; their medians if None.
        coverage: probabilities of the intervals, in (0, 1), one or several.
        x_label: what the feature is, with its unit.
        y_label: what the target is, with its unit.
        y_unit: unit of y, as "min".
        ax: where to draw; a new figure if None.
        n_grid: steps along the feature.
        **style: keywords of ``Axes.fill_between`` for the intervals, as ``color`` or ``alpha``.

    Returns:
        The Axes; the intervals are the first of ``ax.collections``, the widest first.

    Raises:
        ValueError: no such feature, ``at`` or y of another length, or a coverage out of range.
        TypeError: the model is of another kind, or its distribution has no quantiles.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> def model(x):
        ...     return GaussianMixture(torch.zeros(1), x[:, None], torch.ones(1, 1))
        >>> ax = plot_fan(model, [0.0, 2.0, 5.0], coverage=[0.5, 0.9])
        >>> ax.get_legend_handles_labels()[1]
        ['90 % central interval', '50 % central interval', 'median']
    """
    wanted = ask.coverages(coverage)[::-1]  # the widest first, so that the others lie on top
    walk = ask.along(model, x, feature, at, n_grid)
    target = None if y is None else ask.target(y, len(walk.rows))
    tails = [0.5 + s * 0.5 * c for s in (-1, 1) for c in wanted]
    *ends, median = ask.quantiles(walk.dist, np.array([*tails, 0.5]))

    ax = look.axes(ax)
    style = cbook.normalize_kwargs(style, PolyCollection)
    shades = np.linspace(_PALE, _DARK, len(wanted)) if len(wanted) > 1 else [_PALE]
    for i, (c, shade) in enumerate(zip(wanted, shades, strict=True)):
        default = {"facecolor": look.blues()(shade), "edgecolor": look.BLUE, "linewidth": 0.4}
        label = f"{look.percent(c)} central interval"
        ends_i = ends[i], ends[i + len(wanted)]
        ax.fill_between(walk.values, *ends_i, **{**default, "label": label, **style})
    ax.plot(
        *(walk.values, median),
        color=look.VERMILLION,
        lw=2,
        path_effects=look.halo(),
        label="median",
    )
    if target is not None:
        look.scatter_data(ax, walk.rows[:, feature], target)
    y_label = y_label or ax.get_ylabel() or look.with_unit("y", y_unit)
    look.label_axes(ax, walk, "" if target is None else "intervals and median: ", x_label, y_label)
    ax.margins(x=0.0)
    look.legend(ax, len(walk.rows))
    return ax


def plot_modes(
    model: Any,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    feature: int = 0,
    at: ArrayLike | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draw the modes of p(y|x) over one feature: the branches of the values that are likely.

    At every x the highest mode is dark, the others are light, and the size of a point is the
    height of its mode against the highest.  Those below 5 % of it are left out.  Points are not
    joined: where a branch ends, no line pretends that it goes on.

    Args:
        model: as in `plot_density`; its distributions need ``modes``.
        x: features, (N,) or (N, F), array or data frame.
        y: targets drawn as points, (N,) or (N, 1), if any.
        feature: column of x along the horizontal axis.
        at: a row of x, (F,), whose values the other features have; their medians if None.
        x_label: what the feature is, with its unit.
        y_label: what the target is, with its unit.
        y_unit: unit of y, as "min".
        ax: where to draw; a new figure if None.
        n_grid: steps along the feature.
        **style: keywords of ``Axes.scatter`` for the modes, as ``s`` or ``marker``.

    Returns:
        The Axes.

    Raises:
        ValueError: no such feature, or ``at`` or y of another length.
        TypeError: the model is of another kind, or its distribution has no modes.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> def model(x):  # y is near -x or, more often, near x
        ...     loc = torch.stack([-x, x], dim=-2)  # (N, 2, 1)
        ...     return GaussianMixture(torch.tensor([0.0, 1.0]), loc, torch.ones(2, 1))
        >>> ax = plot_modes(model, [3.0, 4.0, 5.0], n_grid=20)
        >>> [len(points.get_offsets()) for points in ax.collections]
        [20, 20]
        >>> ax.get_legend_handles_labels()[1]
        ['highest mode', 'other modes', 'mean of y given x']
    """
    walk = ask.along(model, x, feature, at, n_grid)
    target = None if y is None else ask.target(y, len(walk.rows))
    places, log_heights = map(ask.array, ask.having(walk.dist, "modes").modes())
    places = places[..., 0]  # (G, K)
    log_heights = np.where(np.isnan(log_heights), -math.inf, log_heights)
    share = np.exp(log_heights - log_heights.max(1, keepdims=True))
    kept = share >= _LEAST_MODE
    first = np.zeros_like(kept)
    first[:, 0] = True  # they come by falling density

    ax = look.axes(ax)
    if target is not None:
        look.scatter_data(ax, walk.rows[:, feature], target, look.GREY)
    style = cbook.normalize_kwargs(style, PathCollection)
    looks = (("highest mode", kept & first, look.BLUE), ("other modes", kept & ~first, look.ORANGE))
    for label, chosen, colour in looks:
        if chosen.any():
            default = {"s": 4 + 14 * share[chosen], "color": colour, "linewidths": 0, "zorder": 3}
            at_x = np.broadcast_to(walk.values[:, None], kept.shape)[chosen]
            ax.scatter(at_x, places[chosen], **{**default, "label": label, **style})
    ax.plot(
        walk.values,
        ask.array(walk.dist.mean)[:, 0],
        "--",
        color=look.VERMILLION,
        lw=1.6,
        label="mean of y given x",
    )
    y_label = y_label or ax.get_ylabel() or look.with_unit("y", y_unit)
    look.label_axes(ax, walk, "" if target is None else "modes and mean: ", x_label, y_label)
    look.legend(ax, len(walk.rows))
    return ax


def plot_weights(
    model: Any,
    x: ArrayLike,
    *,
    feature: int = 0,
    at: ArrayLike | None = None,
    x_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draw the weights :math:`\pi_k(x)` of the components over one feature.

    Of more than six components, the five of greatest mean weight and the sum of the others.  A
    component is named by its number and where it lies, its location averaged by its weight.

    Args:
        model: as in `plot_density`; its distributions need ``weights``, (N, K), as a mixture has.
        x: features, (N,) or (N, F), array or data frame, for the range of the feature.
        feature: column of x along the horizontal axis.
        at: a row of x, (F,), whose values the other features have; their medians if None.
        x_label: what the feature is, with its unit.
        y_unit: unit of y, for the names, as "min".
        ax: where to draw; a new figure if None.
        n_grid: steps along the feature.
        **style: keywords of ``Axes.plot``, as ``lw``.

    Returns:
        The Axes; the weights are ``ax.lines``.

    Raises:
        ValueError: no such feature, or ``at`` of another length.
        TypeError: the model is of another kind, or its distribution has no weights.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> def model(x):  # two Gaussians; the weight moves from one to the other
        ...     loc = torch.tensor([[2.0], [4.0]])
        ...     return GaussianMixture(torch.cat([-x, x], dim=-1), loc, torch.ones(2, 1))
        >>> ax = plot_weights(model, [-1.0, 0.0, 1.0], y_unit="min")
        >>> ax.get_legend_handles_labels()[1]
        ['component 0, near 2 min', 'component 1, near 4 min']
    """
    walk = ask.along(model, x, feature, at, n_grid)
    if not hasattr(walk.dist, "weights"):
        raise TypeError(f"this plot needs a mixture, with weights; got {ask.kind(walk.dist)}")
    weights = ask.array(walk.dist.weights)  # (G, K)
    order = np.argsort(-weights.mean(0), kind="stable")
    n_alone = len(order) if len(order) <= len(look.CURVES) else len(look.CURVES) - 1
    alone, rest = np.sort(order[:n_alone]), order[n_alone:]
    names = _component_names(walk.dist, weights, y_unit)
    curves = [(names[k], weights[:, k]) for k in alone]
    if len(rest):
        curves.append((f"the other {len(rest)} together", weights[:, rest].sum(1)))

    ax = look.axes(ax)
    style = cbook.normalize_kwargs(style, Line2D)
    for (name, weight), (colour, dashes) in zip(curves, look.CURVES, strict=False):
        default = {"color": colour, "linestyle": dashes, "linewidth": 2.0, "label": name}
        ax.plot(walk.values, weight, **{**default, **style})
    ax.set_ylim(-0.02, 1.02)
    ax.margins(x=0.0)
    look.label_axes(ax, walk, "", x_label, ax.get_ylabel() or "weight of the component")
    look.legend(ax)
    return ax


def _component_names(dist: Any, weights: Floats, unit: str | None) -> list[str]:
    """By number, and by place if there are locations, (G, K, 1)."""
    names = [f"component {k}" for k in range(weights.shape[1])]
    if not hasattr(dist, "loc"):
        return names
    total = weights.sum(0)
    loc = (weights * ask.array(dist.loc)[..., 0]).sum(0) / np.where(total > 0, total, 1.0)
    return [f"{name}, near {look.quantity(v, unit)}" for name, v in zip(names, loc, strict=True)]

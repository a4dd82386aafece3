"""p(y|x) as an image over one feature: with the data, or for one row with the others fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from . import _inputs as ask
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_density", "plot_feature"]

_EMPTY = 0.01  # share of the uniform density below which a cell counts as empty
_CLIP_QUANTILE = 0.98  # of the cells that are not empty: where the colours end if there is a spike
_CLIP_FACTOR = 1.5  # a maximum less than this times that quantile is no spike
_TAIL = 0.005  # probability left out at the top and at the bottom of plot_feature


def plot_density(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
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
    r"""Draw p(y|x) as an image over one feature and the target, with the data and the mean on top.

    A cell has the colour of its average density, :math:`(P(y_2|x) - P(y_1|x)) / (y_2 - y_1)` with
    the cdf P, so no component is so narrow that it falls between the cells; white is 0.  (Without
    a cdf, it is the density at the centre of the cell.)  The colours end at the highest value,
    unless that is a spike: then they end at the 98 % quantile of the cells that are not empty
    (those above 1 % of the uniform density), and the colour bar gets a pointed end.

    Args:
        model: anything with ``predict_distribution(X)``, or a callable (such as an ``nn.Module``,
            used in evaluation mode, its own dtype and on its own device) from a tensor (N, F) to
            a distribution with batch (N,) and event (1,).
        x: features, (N,) or (N, F), array or data frame.
        y: target, (N,) or (N, 1).
        feature: column of x that is drawn.
        at: a row of x, (F,), whose values the image holds the others at; their medians if None.
        x_label: what the feature is, with its unit: "waiting time [min]".
        y_label: what the target is, with its unit.
        y_unit: unit of y, for the colour bar, as "min".
        ax: where to draw; a new figure if None.
        n_grid: cells along either axis.
        **style: keywords of ``Axes.pcolormesh``, as ``cmap`` or ``vmax``.

    Returns:
        The Axes; the image is the first of ``ax.collections``.

    Raises:
        ValueError: x and y of different length, no finite numbers, several targets, no such
            feature, ``at`` of another length, or a density that is not finite.
        TypeError: the model is of another kind, or gives no distribution.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> def model(x):  # y is near -x or near x
        ...     loc = torch.stack([-x, x], dim=-2)  # (N, 2, 1)
        ...     return GaussianMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> ax = plot_density(model, [0.0, 2.0, 5.0], [0.5, -2.0, 4.0], y_unit="m")
        >>> ax.get_legend_handles_labels()[1]
        ['data', 'mean of y given x']
        >>> ax.collections[0].colorbar.ax.get_ylabel()
        'density p(y|x) [1/m]'
    """
    walk = ask.along(model, x, feature, at, n_grid)
    target = ask.target(y, len(walk.rows))
    ys = ask.span(target, 0.1, n_grid)
    density = _density(walk, ys)

    ax = look.axes(ax)
    _draw_image(ax, walk, ys, density, y_unit, style)
    look.scatter_data(ax, walk.rows[:, feature], target)
    ax.plot(
        walk.values,
        ask.array(walk.dist.mean)[:, 0],
        "--",
        color=look.VERMILLION,
        lw=2,
        path_effects=look.halo(),
        label="mean of y given x",
    )
    ax.set_ylim(ys[0], ys[-1])  # a mean far off must not rule the frame
    y_label = y_label or ax.get_ylabel() or look.with_unit("y", y_unit)
    look.label_axes(ax, walk, "image and mean: ", x_label, y_label)
    look.legend(ax, len(target))
    return ax


def plot_feature(
    model: Any,
    x: ArrayLike,
    *,
    feature: int = 0,
    at: ArrayLike | None = None,
    coverage: float = 0.9,
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draw how p(y|x) changes with one feature while the others stay: what the model has learnt.

    The image of `plot_density` from the 0.5 % to the 99.5 % quantile, with the median and a central
    interval.  Ticks along the bottom are the values of the feature in x: where there are none, the
    model extrapolates.  What is drawn is the model's, not an effect of the feature: in the data the
    others may vary with it.

    Args:
        model: as in `plot_density`; its distributions need ``icdf``.
        x: features, (N, F), array or data frame, for the range of the feature.
        feature: column of x that varies.
        at: a row of x, (F,), that is varied; a line marks its own value.  The medians if None.
        coverage: probability of the interval, in (0, 1).
        x_label: what the feature is, with its unit.
        y_label: what the target is, with its unit.
        y_unit: unit of y, for the colour bar, as "min".
        ax: where to draw; a new figure if None.
        n_grid: cells along either axis.
        **style: keywords of ``Axes.pcolormesh``, as ``cmap`` or ``vmax``.

    Returns:
        The Axes; the image is the first of ``ax.collections``.

    Raises:
        ValueError: no such feature, ``at`` of another length, a coverage out of range, or a density
            that is not finite.
        TypeError: the model is of another kind, or its distribution has no quantiles.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> def model(x):  # the width is the second feature
        ...     return GaussianMixture(torch.zeros(1), x[:, None, :1], x[:, None, 1:])
        >>> ax = plot_feature(model, [[0.0, 1.0], [4.0, 2.0], [2.0, 3.0]], at=[2.0, 3.0])
        >>> ax.get_legend_handles_labels()[1]
        ['median', '90 % central interval', 'the given row, at 2', 'rows of x']
        >>> ax.get_xlabel()
        'x0\n(the other feature as given)'
    """
    coverage = ask.probability(coverage, "coverage")
    walk = ask.along(model, x, feature, at, n_grid)
    ends = 0.5 + 0.5 * coverage * np.array([-1, 1])
    low, *lines, high = ask.quantiles(
        walk.dist, np.array([_TAIL, ends[0], 0.5, ends[1], 1 - _TAIL])
    )
    ys = ask.span(np.array([low.min(), high.max()]), 0.02, n_grid)
    density = _density(walk, ys)

    ax = look.axes(ax)
    _draw_image(ax, walk, ys, density, y_unit, style)
    interval = f"{look.percent(coverage)} central interval"
    names = ("_lower", "median", interval)
    for line, name in sorted(zip(lines, names, strict=True), key=lambda pair: pair[1] != "median"):
        dashes, width = ("-", 2.0) if name == "median" else ("--", 1.3)
        ax.plot(
            *(walk.values, line, dashes),
            color=look.VERMILLION,
            lw=width,
            path_effects=look.halo(),
            label=name,
        )
    if at is not None:
        own = float(ask.numeric(at, "at").reshape(-1)[feature])
        ax.axvline(own, color=look.BLACK, ls=":", lw=1.5, label=f"the given row, at {own:.4g}")
    ax.plot(
        walk.rows[:, feature],
        np.zeros(len(walk.rows)),
        "|",
        transform=ax.get_xaxis_transform(),
        color=look.BLACK,
        markersize=12,  # half of it is below the frame
        markeredgewidth=0.6,
        alpha=0.5,
        label="rows of x",
    )
    ax.set_xlim(walk.values[0], walk.values[-1])
    ax.set_ylim(ys[0], ys[-1])
    y_label = y_label or ax.get_ylabel() or look.with_unit("y", y_unit)
    look.label_axes(ax, walk, "", x_label, y_label)
    look.legend(ax, len(walk.rows))
    return ax


# -- what to draw, as numbers ---------------------------------------------------------------------


def _density(walk: ask.Walk, ys: Floats) -> Floats:
    """Of the cells around (G,) values of y, (G, N)."""
    density = _cells(walk.dist, ys)
    if not np.isfinite(density).all():
        bad = walk.values[np.flatnonzero(~np.isfinite(density).all(0))[0]]
        raise ValueError(f"model must give a finite density; it does not at x = {bad:g}")
    return density


def _cells(dist: Any, ys: Floats) -> Floats:
    """Average density of the cells around evenly spaced ys (G,), (G, N)."""
    half = (ys[1] - ys[0]) / 2
    try:
        cdf = ask.on_grid(dist, dist.cdf, np.append(ys - half, ys[-1] + half)[:, None])
    except NotImplementedError:
        return np.exp(ask.on_grid(dist, dist.log_prob, ys[:, None]))
    return np.diff(cdf, axis=0).clip(min=0.0) / (2 * half)


def _colour_limit(density: Floats, ys: Floats) -> float:
    """The density at which the colours end; see plot_density."""
    body = density[density > _EMPTY / (ys[-1] - ys[0])]
    if not body.size:
        return float(density.max()) or 1.0  # the model puts its mass elsewhere
    limit = float(np.quantile(body, _CLIP_QUANTILE))
    peak = float(density.max())
    return peak if peak <= _CLIP_FACTOR * limit else limit


# -- drawing --------------------------------------------------------------------------------------


def _draw_image(
    ax: Axes,
    walk: ask.Walk,
    ys: Floats,
    density: Floats,
    y_unit: str | None,
    style: dict[str, Any],
) -> None:
    """The cells and the colour bar."""
    limits = {} if "norm" in style else {"vmin": 0.0, "vmax": _colour_limit(density, ys)}
    defaults = {"cmap": look.blues(), "shading": "nearest", "rasterized": True, **limits}
    mesh = ax.pcolormesh(walk.values, ys, density, **{**defaults, **style})
    ax.get_figure().colorbar(  # type: ignore[union-attr]
        mesh,
        ax=ax,
        extend="max" if density.max() > mesh.norm.vmax else "neither",
        label=look.per_unit(y_unit),
    )

"""p(y|x) as an image over one feature, with the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from numpy.typing import ArrayLike

from ..prediction import to_numpy
from . import _inputs as inputs
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_density", "draw_image"]

_EMPTY = 0.01  # share of the uniform density below which a cell counts as empty
_CLIP_QUANTILE = 0.98  # of the cells that are not empty: where the colours end if there is a spike
_CLIP_FACTOR = 1.5  # a maximum less than this times that quantile is no spike


@look.takes_style("pcolormesh", QuadMesh)
def plot_density(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
    *,
    feature: int | str = 0,
    at: ArrayLike | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draws p(y|x) as an image over one feature and the target, with the data and the mean on top.

    A cell has the colour of its average density, :math:`(P(y_2|x) - P(y_1|x)) / (y_2 - y_1)` with
    the cdf P, so no component is so narrow that it falls between the cells; white is 0.  (Without
    a cdf, it is the density at the centre of the cell.)  Of a y that takes only some values, as a
    rounded one, the colour is the probability of a value, and every cell holds equally many of
    them, one if there is room.  Atoms are lines in the colour of their probability, which has a
    second colour bar.  The colours end at the highest value,
    unless that is a spike: then they end at the 98 % quantile of the cells that are not empty
    (those above 1 % of the uniform density), and the colour bar gets a pointed end.

    Args:
        model: a regressor such as `mdn.MDNRegressor`, a scikit-learn ``Pipeline`` that ends in
            one, an ``nn.Module`` or a callable from a tensor (N, F) to a distribution with batch
            (N,) and event (1,), or a distribution with batch ().
        x: features, (N,) or (N, F): an array, a tensor or a data frame of pandas, polars or
            pyarrow, as the model takes it.
        y: target, (N,) or (N, 1).
        feature: column of x that is drawn, its number, or in a data frame its name.  One that holds
            no numbers gets a strip for each of its values, the 12 most frequent at most.  Rows
            where it has no value are not drawn; the label of the axis gives their number.
        at: a row of x, (F,), at whose values the others are held, or some values by the names of
            their columns; what is not given is held at the median, or, if it holds no numbers, at
            the most frequent value.
        x_label, y_label, y_unit, ax: as in all plots of `mdn.plot`; the unit is for the colour bar.
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
    grid = inputs.feature_grid(model, x, feature, at, n_grid)
    target = inputs.check_target(y, len(grid.drawn), x)[grid.drawn]
    ys = inputs.even_steps(target, 0.1, n_grid)

    ax = look.get_axes(ax)
    draw_image(ax, grid, ys, y_unit, style)
    look.draw_points(ax, grid.data, target)
    mean = to_numpy(grid.dist.mean)[:, 0]
    look.draw_line(ax, *grid.line(mean), "mean of y given x", linestyle="--")
    ax.set_ylim(ys[0], ys[-1])  # a mean far off must not set the limits
    look.label_feature_plot(
        ax, grid, "image and mean: ", x_label, look.with_unit("y", y_unit), y_label
    )
    return ax


def draw_image(
    ax: Axes, grid: inputs.FeatureGrid, ys: Floats, y_unit: str | None, style: dict[str, Any]
) -> None:
    """Draws the density of the cells around (G,) values of y, atoms as lines, and colour bars.

    Of a y that takes only some values it is their probability, a mean of those in the cell.
    """
    width = inputs.lattice_width(grid.dist)
    ys = _lattice_cells(ys, width) if width else ys
    atoms = inputs.parts_of(grid.dist)
    density = _cell_density(atoms.smooth, ys) * atoms.share * (width or 1.0)
    if not np.isfinite(density).all():
        bad = grid.values[np.flatnonzero(~np.isfinite(density).all(0))[0]]
        raise ValueError(f"model must give a finite density; it does not at {grid.name} = {bad:g}")
    limits = {} if "norm" in style else {"vmin": 0.0, "vmax": _colour_limit(density, ys, width)}
    defaults = {"cmap": look.blues(), "shading": "nearest", "rasterized": True, **limits}
    xs = grid.values
    if grid.levels is not None:  # strips, whose edges a single one has as well
        half = (ys[1] - ys[0]) / 2
        xs, ys = np.append(xs - 0.5, len(xs) - 0.5), np.append(ys - half, ys[-1] + half)
        defaults["shading"] = "flat"
        for edge in xs[1:-1]:
            ax.axvline(edge, color="white", linewidth=3, zorder=1)
    mesh = ax.pcolormesh(xs, ys, density, **{**defaults, **style})
    ax.get_figure().colorbar(  # type: ignore[union-attr]
        mesh,
        ax=ax,
        extend="max" if density.max() > mesh.norm.vmax else "neither",
        label=look.probability_label() if width else look.density_label(y_unit),
    )
    if atoms.probs.size:
        look.draw_atoms(ax, grid, atoms)


def _lattice_cells(ys: Floats, width: float) -> Floats:
    """Returns the centres of cells about as high as before that hold as many values of y each."""
    n_values = math.ceil((ys[1] - ys[0]) / width)
    cells = np.arange(math.ceil((ys[-1] - ys[0]) / (n_values * width)) + 1)
    return (math.floor(ys[0] / width) + n_values * cells + (n_values - 1) / 2) * width


def _cell_density(dist: Any, ys: Floats) -> Floats:
    """Returns the average density of the cells around evenly spaced ys (G,), (G, N)."""
    half = (ys[1] - ys[0]) / 2
    try:
        cdf = inputs.evaluate(dist, dist.cdf, np.append(ys - half, ys[-1] + half)[:, None, None])
    except NotImplementedError:
        return np.exp(inputs.evaluate(dist, dist.log_prob, ys[:, None, None]))
    return np.diff(cdf, axis=0).clip(min=0.0) / (2 * half)


def _colour_limit(density: Floats, ys: Floats, width: float) -> float:
    """Returns the density, or probability, at which the colours end; see plot_density."""
    occupied = density[density > _EMPTY * (width or 1.0) / (ys[-1] - ys[0])]
    peak = float(density.max())
    if not occupied.size:
        return peak or 1.0  # the model has its probability elsewhere
    limit = float(np.quantile(occupied, _CLIP_QUANTILE))
    return peak if peak <= _CLIP_FACTOR * limit else limit

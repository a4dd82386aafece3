"""How p(y|x) changes along one feature: density, intervals, modes and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from ..functional._checks import check_coverage
from ..prediction import kind_of, to_numpy
from . import _inputs as inputs
from . import _style as look
from ._density import draw_image
from ._inputs import Floats

__all__ = ["plot_feature", "plot_fan", "plot_modes", "plot_weights"]

_TAIL = 0.005  # probability left out at the top and at the bottom of plot_feature
_LEAST_MODE = 0.05  # share of the highest density at an x below which a mode is no branch
_FEW_POINTS = 4  # times as large is a mode where x has a few places only
_PALE, _DARK = 0.2, 0.62  # of the colour map: the widest interval and the narrowest


@look.takes_style("pcolormesh", QuadMesh)
def plot_feature(
    model: Any,
    x: ArrayLike,
    *,
    feature: int | str = 0,
    at: ArrayLike | None = None,
    coverage: float = 0.9,
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draws how p(y|x) changes with one feature while the others stay fixed.

    The image of `plot_density` from the 0.5 % to the 99.5 % quantile, with the median and a central
    interval.  Ticks along the bottom are the values of the feature in x: where there are none, the
    model extrapolates.  The picture shows the model, not an effect of the feature: in the data the
    other features may vary with it.

    Args:
        model: as in `plot_density`; its distributions need ``icdf``.
        x: features, (N, F), array or data frame, for the range of the feature.
        at: a row of x, (F,), that is varied; a line marks its own value.  The medians if None.
        coverage: probability of the interval, in (0, 1).
        feature, x_label, y_label, y_unit, ax, n_grid, style: as in `plot_density`.

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
    coverage = check_coverage(coverage)
    grid = inputs.feature_grid(model, x, feature, at, n_grid)
    levels = [_TAIL, 0.5 - coverage / 2, 0.5, 0.5 + coverage / 2, 1 - _TAIL]
    low, lower, median, upper, high = inputs.quantiles(grid.dist, np.array(levels))
    ys = inputs.even_steps(np.array([low.min(), high.max()]), 0.02, n_grid)

    ax = look.get_axes(ax)
    draw_image(ax, grid, ys, y_unit, style)
    look.draw_line(ax, *grid.line(median), "median")
    for line, name in ((lower, "_lower"), (upper, f"{look.percent(coverage)} central interval")):
        look.draw_line(ax, *grid.line(line), name, linestyle="--", lw=1.3)
    if grid.at is not None:
        at_x = f"{grid.at:.4g}" if grid.levels is None else grid.levels[int(grid.at)]
        ax.axvline(grid.at, color=look.BLACK, ls=":", lw=1.5, label=f"the given row, at {at_x}")
    ticks: dict[str, Any] = {"color": look.BLACK, "markersize": 12, "markeredgewidth": 0.6}
    ticks |= {"alpha": 0.5, "label": "rows of x", "transform": ax.get_xaxis_transform()}
    ax.plot(grid.data, np.zeros(len(grid.data)), "|", **ticks)  # half of them below the frame
    if grid.levels is None:
        ax.set_xlim(grid.values[0], grid.values[-1])
    ax.set_ylim(ys[0], ys[-1])
    look.label_feature_plot(ax, grid, "", x_label, look.with_unit("y", y_unit), y_label)
    return ax


@look.takes_style("fill_between", PolyCollection)
def plot_fan(
    model: Any,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    feature: int | str = 0,
    at: ArrayLike | None = None,
    coverage: float | Sequence[float] = (0.5, 0.8, 0.95),
    x_label: str | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draws nested central intervals and the median of p(y|x) over one feature: a fan chart.

    An interval of coverage c goes from the quantile :math:`(1 - c)/2` to :math:`(1 + c)/2`.  It
    hides a gap between two modes; `plot_density` and `plot_modes` show it.

    Args:
        model: as in `plot_density`; its distributions need ``icdf``.
        y: targets drawn as points, (N,) or (N, 1), if any.
        coverage: probabilities of the intervals, in (0, 1), one or several.
        x, feature, at, x_label, y_label, y_unit, ax: as in `plot_density`.
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
    wanted = inputs.check_coverages(coverage)[::-1]  # the widest first: the others lie on top
    grid = inputs.feature_grid(model, x, feature, at, n_grid)
    target = None if y is None else inputs.check_target(y, len(grid.drawn), x)[grid.drawn]
    tails = [0.5 + s * 0.5 * c for s in (-1, 1) for c in wanted]
    *ends, median = inputs.quantiles(grid.dist, np.array([*tails, 0.5]))

    ax = look.get_axes(ax)
    shades = np.linspace(_PALE, _DARK, len(wanted)) if len(wanted) > 1 else [_PALE]
    for i, (c, shade) in enumerate(zip(wanted, shades, strict=True)):
        defaults = {"facecolor": look.blues()(shade), "edgecolor": look.BLUE, "linewidth": 0.4}
        defaults["label"] = f"{look.percent(c)} central interval"
        options = look.with_defaults(style, PolyCollection, **defaults)
        at_x, low = grid.line(ends[i])
        ax.fill_between(at_x, low, grid.line(ends[i + len(wanted)])[1], **options)
    look.draw_line(ax, *grid.line(median), "median")
    if target is not None:
        look.draw_points(ax, grid.data, target)
    ax.margins(x=0.0)
    drawn = "" if target is None else "intervals and median: "
    look.label_feature_plot(ax, grid, drawn, x_label, look.with_unit("y", y_unit), y_label)
    return ax


@look.takes_style("scatter", PathCollection)
def plot_modes(
    model: Any,
    x: ArrayLike,
    y: ArrayLike | None = None,
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
    r"""Draws the modes of p(y|x) over one feature: the branches of likely values.

    At every x the highest mode is dark, the others are light, and the size of a point is the
    height of its mode against the highest.  Those below 5 % of it are left out.  Points are not
    joined by lines, which would go on where a branch ends.  Atoms are lines, as in `plot_density`.

    Args:
        model: as in `plot_density`; its distributions need ``modes``.
        y: targets drawn as points, (N,) or (N, 1), if any.
        x, feature, at, x_label, y_label, y_unit, ax: as in `plot_density`.
        n_grid: steps along the feature.
        **style: keywords of ``Axes.scatter`` for the modes, as ``s`` or ``marker``.

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
    grid = inputs.feature_grid(model, x, feature, at, n_grid)
    target = None if y is None else inputs.check_target(y, len(grid.drawn), x)[grid.drawn]
    modes, heights, drawn = inputs.high_modes(grid.dist, _LEAST_MODE)  # (G, K)
    share = heights / heights.max(1, keepdims=True)
    highest = np.arange(share.shape[1]) == 0  # they come by falling density
    atoms = inputs.parts_of(grid.dist)

    ax = look.get_axes(ax)
    if atoms.probs.size:
        look.draw_atoms(ax, grid, atoms)
    if target is not None:
        look.draw_points(ax, grid.data, target, color=look.GREY)
    looks = (
        ("highest mode", drawn & highest, look.BLUE),
        ("other modes", drawn & ~highest, look.ORANGE),
    )
    for label, chosen, color in looks:
        if chosen.any():
            size = (4 + 14 * share[chosen]) * (1 if grid.levels is None else _FEW_POINTS)
            defaults = {"s": size, "color": color, "linewidths": 0, "zorder": 3}
            at_x = np.broadcast_to(grid.values[:, None], chosen.shape)[chosen]
            options = look.with_defaults(style, PathCollection, label=label, **defaults)
            if "c" in options:  # another name of color, which Matplotlib does not take beside it
                del options["color"]
            ax.scatter(at_x, modes[chosen], **options)
    mean = to_numpy(grid.dist.mean)[:, 0]
    look.draw_line(
        ax, *grid.line(mean), "mean of y given x", linestyle="--", lw=1.6, path_effects=None
    )
    note = "" if target is None else "modes and mean: "
    look.label_feature_plot(ax, grid, note, x_label, look.with_unit("y", y_unit), y_label)
    return ax


@look.takes_style("plot", Line2D)
def plot_weights(
    model: Any,
    x: ArrayLike,
    *,
    feature: int | str = 0,
    at: ArrayLike | None = None,
    x_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 300,
    **style: Any,
) -> Axes:
    r"""Draws the weights :math:`\pi_k(x)` of the components over one feature.

    Of more than six components, the five of greatest mean weight and the sum of the others.  A
    component is named by its number and where it lies, its location averaged by its weight.  Of a
    truncated or rounded mixture, or one beside atoms, the weights are those of that mixture.

    Args:
        model: as in `plot_density`; its distributions need ``weights``, (N, K), as a mixture has.
        x: features, (N,) or (N, F), array or data frame, for the range of the feature.
        feature, at, x_label, ax: as in `plot_density`.
        y_unit: unit of y, for the names, as "min".
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
    grid = inputs.feature_grid(model, x, feature, at, n_grid)
    mixture = grid.dist
    while not hasattr(mixture, "weights") and hasattr(mixture, "base"):
        mixture = mixture.base
    if not hasattr(mixture, "weights"):
        raise TypeError(f"this plot needs a mixture, with weights; got {kind_of(grid.dist)}")
    weights = to_numpy(mixture.weights)  # (G, K)
    order = np.argsort(-weights.mean(0), kind="stable")
    n_single = len(order) if len(order) <= len(look.CURVES) else len(look.CURVES) - 1
    single, rest = np.sort(order[:n_single]), order[n_single:]
    names = _component_names(mixture, weights, y_unit)
    curves = [(names[k], weights[:, k]) for k in single]
    if len(rest):
        curves.append((f"the other {len(rest)} together", weights[:, rest].sum(1)))

    ax = look.get_axes(ax)
    for i, (name, weight) in enumerate(curves):
        look.draw_curve(ax, i, *grid.line(weight), name, style)
    ax.set_ylim(-0.02, 1.02)
    ax.margins(x=0.0)
    look.label_feature_plot(ax, grid, "", x_label, "weight of the component")
    return ax


def _component_names(dist: Any, weights: Floats, unit: str | None) -> list[str]:
    """Returns names by number, and by place if there are locations, (G, K, 1)."""
    names = [f"component {k}" for k in range(weights.shape[1])]
    if not hasattr(dist, "loc"):
        return names
    total = weights.sum(0)
    loc = (weights * to_numpy(dist.loc)[..., 0]).sum(0) / np.where(total > 0, total, 1.0)
    unit = f" {unit}" if unit else ""
    return [f"{name}, near {place:.3g}{unit}" for name, place in zip(names, loc, strict=True)]

r"""Pictures of p(y|x) and of a training run: each function draws on one Axes and returns it.

Plain Matplotlib: pass ``ax=`` to draw into a figure of your own, and anything the Axes can do
(titles, limits, scales) can be done afterwards.  Extra keywords go to the main artist and win over
the defaults.  No setting of Matplotlib is changed and nothing is shown or saved.

Colours are told apart by the colour-blind (M. Okabe and K. Ito, 2008) and lines also differ in
their dashes, so a print in grey stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import cbook, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from . import _ask as ask
from ._ask import Floats

__all__ = ["plot_density", "plot_conditional", "plot_history", "plot_units", "panels"]


_BLUE, _VERMILLION, _GREEN, _SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
_BLACK, _PURPLE, _ORANGE, _GREY = "#000000", "#CC79A7", "#E69F00", "#BBBBBB"
_CURVES = (  # one a row: colour and dashes, alternating dark and light
    (_BLUE, "-"),
    (_ORANGE, "--"),
    (_BLACK, "-."),
    (_GREEN, ":"),
    (_PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (_VERMILLION, (0, (8, 3))),
)
# White to dark blue in equal steps of CIE lightness (L* = 100 to 18), so equal steps of density
# look equal, also in grey.
_WHITE_TO_BLUE = (
    *("#ffffff", "#d4e4f0", "#aac9e2", "#81aed4", "#5693c7"),
    *("#3a77b1", "#1c5d9b", "#19427b", "#112a5b"),
)

_FLOOR = 0.01  # share of the uniform density below which a cell counts as empty
_CLIP_QUANTILE = 0.98  # of the cells that are not empty: where the colours end if there is a spike
_CLIP_FACTOR = 1.5  # a maximum less than this times that quantile is no spike
_TAIL = 5e-4  # probability left out on each side of plot_conditional
_MINOR_MODE = 0.01  # share of the highest density below which a mode is not marked
_OFFSETS = np.linspace(-6.0, 6.0, 97)  # points of a component's curve, in its scales
_WORST_EPOCHS = 0.05  # share of the epochs, at least one, that may leave the frame at the top
_ZERO_IN_REACH = 3.0  # heights of the curves from which on the line at 0 would squash them
_SQUASH = 10.0  # they do if they make the range of the loss more than this times as large


def plot_density(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
    *,
    feature: int = 0,
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
        feature: column of x that is drawn; the image holds the others at their medians.
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
            feature, or a density that is not finite.
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
    features, names = ask.features(x)
    target = ask.target(y, len(features))
    n_features = features.shape[1]
    if not (isinstance(feature, int | np.integer) and 0 <= feature < n_features):
        raise ValueError(f"feature must be a column of x, 0 to {n_features - 1}; got {feature!r}")
    if n_grid < 2:
        raise ValueError(f"n_grid must be at least 2; got {n_grid}")

    xs = _span(features[:, feature], 0.02, n_grid)
    ys = _span(target, 0.1, n_grid)
    grid = np.tile(np.median(features, axis=0), (n_grid, 1))  # (n_grid, F)
    grid[:, feature] = xs
    dist = ask.predict(model, grid, x)
    density = _cells(dist, ys)  # (y, x)
    if not np.isfinite(density).all():
        bad = xs[np.flatnonzero(~np.isfinite(density).all(0))[0]]
        raise ValueError(f"model must give a finite density; it does not at x = {bad:g}")

    ax = _axes(ax)
    colours = LinearSegmentedColormap.from_list("mdn", _WHITE_TO_BLUE)
    limits = {} if "norm" in style else {"vmin": 0.0, "vmax": _colour_limit(density, ys)}
    defaults = {"cmap": colours, "shading": "nearest", "rasterized": True, **limits}
    mesh = ax.pcolormesh(xs, ys, density, **{**defaults, **style})
    ax.get_figure().colorbar(  # type: ignore[union-attr]
        mesh,
        ax=ax,
        extend="max" if density.max() > mesh.norm.vmax else "neither",
        label=f"density p(y|x) [1/{y_unit or 'unit of y'}]",
    )
    ax.scatter(
        features[:, feature],
        target,
        s=float(np.clip(6000 / len(target), 3, 16)),  # points^2: many points are drawn small
        color=_BLACK,
        edgecolors="white",
        linewidths=0.5,
        rasterized=True,
        label="data",
    )
    halo = [patheffects.withStroke(linewidth=3.5, foreground="white")]
    mean = ask.array(dist.mean)[:, 0]
    ax.plot(xs, mean, "--", color=_VERMILLION, lw=2, path_effects=halo, label="mean of y given x")
    ax.set_ylim(ys[0], ys[-1])  # a mean far off must not rule the frame

    label = x_label or ax.get_xlabel() or (names[feature] if names else "x")
    if n_features > 1:
        others = "feature at its median" if n_features == 2 else "features at their medians"
        label += f"\n(image and mean: the other {others})"
    ax.set_xlabel(label)
    ax.set_ylabel(y_label or ax.get_ylabel() or _with_unit("y", y_unit))
    # "best" looks at every point, so with many it would be slow
    ax.legend(loc="best" if len(target) <= 10_000 else "upper right", fontsize="small")
    return ax


def plot_conditional(
    model_or_dist: Any,
    x: ArrayLike | None = None,
    *,
    components: bool = True,
    coverage: float = 0.9,
    labels: Sequence[str] | None = None,
    y_label: str | None = None,
    y_unit: str | None = None,
    ax: Axes | None = None,
    n_grid: int = 500,
    **style: Any,
) -> Axes:
    r"""Draw the density p(y|x) at one x, taken apart, or at up to six, overlaid.

    One row: the density, its weighted components :math:`\pi_k p_k(y)`, the central interval, mean,
    median and modes.  Several rows: the densities and their modes.  Modes lower than 1 % of the
    highest are not marked.  The curve is drawn from the 0.05 % to the 99.95 % quantile, on points
    dense enough around every component to show the narrowest.

    Args:
        model_or_dist: a distribution with batch () or (N,) and event (1,), or a model as in
            `plot_density`.
        x: rows of features for the model, (N,) or (N, F); for a distribution only labels.
        components: whether to draw the components, if the distribution has any.
        coverage: probability of the shaded interval, in (0, 1).
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
    dist, values = ask.conditional(model_or_dist, x)
    n = dist.batch_shape[0]
    if n > len(_CURVES) or n < 1:
        raise ValueError(f"x must have 1 to {len(_CURVES)} rows to be told apart; got {n}")
    if labels is not None and (isinstance(labels, str) or len(labels) != n):
        raise ValueError(f"labels must be a list of {n} names, one a row; got {labels!r}")
    names = list(labels) if labels is not None else _row_names(values, n)

    tails = ask.array(dist.icdf(ask.like(dist, np.array([[_TAIL], [1 - _TAIL]]))))[..., 0]  # (2, N)
    modes, log_heights = map(ask.array, dist.modes())
    log_heights = np.where(np.isnan(log_heights), -math.inf, log_heights)
    major = log_heights >= log_heights.max(1, keepdims=True) + math.log(_MINOR_MODE)  # (N, K)
    modes = np.where(major, modes[..., 0], modes[:, :1, 0])  # (N, K), no NaN left
    mean, median = (
        ask.array(dist.mean)[:, 0],
        ask.array(dist.icdf(ask.like(dist, np.full(n, 0.5))))[:, 0],
    )
    interval = ask.array(dist.interval(coverage))  # (N, 2)

    low, high = min(tails[0].min(), modes.min()), max(tails[1].max(), modes.max())
    if n == 1:
        low, high = min(low, mean.min()), max(high, mean.max())
    marks = np.concatenate([mean[:, None], median[:, None], interval, modes], axis=1)
    grid = _curve_grid(dist, low, high, marks, n_grid)  # (G, N)
    density = np.exp(ask.on_grid(dist, dist.log_prob, grid))

    ax = _axes(ax)
    style = cbook.normalize_kwargs(style, Line2D)
    curves = []
    for i, ((colour, dashes), name) in enumerate(zip(_CURVES[:n], names, strict=True)):
        default = {"color": colour, "linestyle": dashes, "linewidth": 2.0, "label": name}
        curves += ax.plot(grid[:, i], density[:, i], **{**default, "zorder": 3, **style})
    if n == 1:
        if components:
            _draw_components(ax, dist, grid, density)
        _draw_summary(ax, grid[:, 0], density[:, 0], interval[0], coverage, mean, median, y_unit)
    for i in range(n):
        at = modes[i, major[i]]
        what = (
            f"mode{'s' * (len(at) > 1)} {_numbers(at, high - low, y_unit)}" if n == 1 else "modes"
        )
        ax.plot(
            *(at, np.exp(log_heights[i, major[i]])),
            "o",
            color=_BLACK,
            markeredgecolor="white",
            zorder=4,
            label=what if i == n - 1 else "_modes",
        )

    ax.set_xlabel(y_label or ax.get_xlabel() or _with_unit("y", y_unit))
    ax.set_ylabel(ax.get_ylabel() or f"density p(y|x) [1/{y_unit or 'unit of y'}]")
    # The legend stands in two columns above the curves; sticky, 0 is the lower end of the axis.
    curves[0].sticky_edges.y.append(0.0)
    n_rows = math.ceil(len(ax.get_legend_handles_labels()[1]) / 2)
    ax.update_datalim([(low, 0.0), (high, density.max() * (1.02 + 0.075 * n_rows))])
    ax.autoscale_view()
    tight = {"handlelength": 1.8, "columnspacing": 1.0, "borderaxespad": 0.2}
    ax.legend(loc="upper center", ncols=2, fontsize="small", frameon=False, **tight)
    return ax


def plot_history(
    history: Any, *, y_unit: str | None = None, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draw the NLL of every epoch, mark the best one, and say what zero means.

    The line at 0 is drawn unless it lies farther from the curves than three times their height;
    then the legend says where it is.  If the worst 5 % of the epochs (at least one) would leave
    less than a tenth of the height to the others, they leave the frame at the top, and the legend
    says so.

    Args:
        history: what a fit returned: lists ``train_nll`` and ``val_nll`` (it may be empty), in nats
            per row in the unit of y, and the index ``best_epoch`` (-1 for none).
        y_unit: unit of y, as "min"; the NLL depends on it.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.plot`` for both curves, as ``lw``.

    Returns:
        The Axes.

    Raises:
        ValueError: no epoch with a finite NLL.
        TypeError: not a history.

    Example:
        >>> from types import SimpleNamespace
        >>> run = SimpleNamespace(train_nll=[1.2, 0.1], val_nll=[1.3, -0.1], best_epoch=1)
        >>> ax = plot_history(run, y_unit="min")
        >>> for name in ax.get_legend_handles_labels()[1]:
        ...     print(name)
        training, mean over the epoch
        validation
        best: epoch 1, NLL -0.1
        0: a density may exceed 1,
        so the loss may go below
    """
    train, val, best = ask.history(history)
    ax = _axes(ax)
    style = cbook.normalize_kwargs(style, Line2D)
    short = {"marker": "."} if len(train) < 20 else {}
    looks = [
        (train, {"color": _ORANGE, "linestyle": "--", "label": "training, mean over the epoch"}),
        (val, {"color": _BLUE, "linestyle": "-", "label": "validation"}),
    ]
    for nll, look in looks:
        if len(nll):
            ax.plot(np.arange(len(nll)), nll, **{**look, "linewidth": 1.8, **short, **style})
    judged = val if len(val) else train
    if 0 <= best < len(judged):
        ax.plot(
            *(best, judged[best]),
            "o",
            color=_BLACK,
            markersize=9,
            markerfacecolor="none",
            markeredgewidth=1.8,
            zorder=4,
            label=f"best: epoch {best}, NLL {judged[best]:.4g}",
        )

    low, high, cut = _frame(train, val)
    away = max(low, -high, 0.0)
    if away <= _ZERO_IN_REACH * (high - low):
        text = "0: a density may exceed 1,\nso the loss may go below"
        ax.axhline(0.0, color=_BLACK, lw=1, ls=":", label=text, zorder=1)
        low, high = min(low, 0.0), max(high, 0.0)
    elif low > 0:
        _note(ax, f"0 is {away:.3g} nats below; it is no bound,\nas a density may exceed 1")
    else:
        _note(ax, f"0 is {away:.3g} nats above: the loss is\nbelow it, as a density may exceed 1")
    if cut:
        pad = 0.05 * (high - low)
        ax.set_ylim(low - pad, high + pad)
        _note(ax, cut)

    ax.set_xlabel(ax.get_xlabel() or "epoch (the first is 0)")
    ax.set_ylabel(ax.get_ylabel() or f"NLL [nats per row, y in {y_unit or 'its own unit'}]")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.legend(loc="best", fontsize="small")
    return ax


def plot_units(nll: Mapping[str, float], *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw the loss of one fit in several units of y, as bars from the line at zero.

    Args:
        nll: NLL in nats per row by the name of the unit.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.barh``, as ``color``.

    Returns:
        The Axes.

    Raises:
        ValueError: no unit, or an NLL that is not finite.

    Example:
        >>> ax = plot_units({"seconds": 4.63, "minutes": 0.54, "hours": -3.56})
        >>> [text.get_text() for text in ax.texts[:3]]
        ['+4.63', '+0.54', '-3.56']
    """
    if not nll:
        raise ValueError("nll must name at least one unit; got none")
    values = ask.numeric(list(nll.values()), "nll")
    ax = _axes(ax)
    rows = np.arange(len(values))[::-1]
    look = {"color": _SKY, "edgecolor": _BLACK, "height": 0.55}
    ax.barh(rows, values, **{**look, **cbook.normalize_kwargs(style, Patch)})
    ax.axvline(0.0, color=_BLACK, lw=1, ls=":")
    for row, value in zip(rows, values, strict=True):
        side = 1 if value >= 0 else -1
        ax.annotate(
            f"{value:+.2f}",
            (value, row),
            xytext=(4 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
        )
    ax.set_yticks(rows, [f"y in {unit}" for unit in nll])
    ax.set_ylim(-0.6, len(values) - 0.05)
    ax.annotate(
        "0: p(y|x) = 1 per unit of y, no bound",
        (0.0, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -4),
        textcoords="offset points",
        va="top",
        fontsize="small",
    )
    ax.margins(x=0.18)
    ax.set_xlabel("NLL [nats per row]")
    return ax


def panels(
    rows: int, columns: int, *, size: tuple[float, float] = (11.0, 8.0)
) -> tuple[Figure, list[Axes]]:
    """A figure of several Axes whose labels do not overlap, outside pyplot's list of figures.

    Args:
        rows: number of rows.
        columns: number of columns.
        size: width and height, inches.

    Returns:
        The figure and its Axes, row by row.

    Example:
        >>> figure, axes = panels(1, 2)
        >>> len(axes)
        2
    """
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


# -- what to draw, as numbers ---------------------------------------------------------------------


def _span(values: Floats, margin: float, n: int) -> Floats:
    """n even steps over the values plus a margin, a share of their range, on both sides."""
    low, high = values.min(), values.max()
    pad = margin * (high - low) or 0.1 * abs(low) or 1.0  # a single value still gets a range
    return np.linspace(low - pad, high + pad, n)


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
    body = density[density > _FLOOR / (ys[-1] - ys[0])]
    if not body.size:
        return float(density.max()) or 1.0  # the model puts its mass elsewhere
    limit = float(np.quantile(body, _CLIP_QUANTILE))
    peak = float(density.max())
    return peak if peak <= _CLIP_FACTOR * limit else limit


def _curve_grid(dist: Any, low: float, high: float, marks: Floats, n_grid: int) -> Floats:
    """Points of N curves, (G, N), sorted: even, dense where the mass is, and the marks (N, M)."""
    n = len(marks)
    even = np.repeat(np.linspace(low, high, n_grid)[:, None], n, axis=1)
    if hasattr(dist, "loc") and hasattr(dist, "scale"):
        loc, scale = ask.array(dist.loc)[..., 0], ask.array(dist.scale)[..., 0]  # (N, K)
        dense = (loc + _OFFSETS[:, None, None] * scale).transpose(0, 2, 1).reshape(-1, n)
    else:
        levels = np.linspace(_TAIL, 1 - _TAIL, n_grid)[:, None]
        dense = ask.array(dist.icdf(ask.like(dist, levels)))[..., 0]
    return np.sort(np.concatenate([even, dense, marks.T]).clip(low, high), axis=0)


def _frame(train: Floats, val: Floats) -> tuple[float, float, str | None]:
    """Lowest and highest NLL to show, and what to say of the epochs above; see plot_history."""
    n = max(len(train), len(val))
    both = np.full((2, n), -math.inf)
    both[0, : len(train)], both[1, : len(val)] = train, val
    worst = np.where(np.isnan(both), math.inf, both).max(0)  # (n,)
    low = float(both[np.isfinite(both)].min())
    n_cut = math.ceil(_WORST_EPOCHS * n)
    kept = np.sort(worst)[-1 - n_cut] if n > n_cut else low
    limit = low + _SQUASH * (kept - low) if kept > low else math.inf
    out = np.flatnonzero((worst > limit) | np.isinf(worst))
    shown = np.delete(both, out, axis=1)
    high = float(shown.max()) if shown.size else low
    if not out.size:
        return low, high, None
    first = "first " if out[-1] == len(out) - 1 else ""
    return low, high, f"not shown: {first}{len(out)} of {n} epochs,\nup to {worst.max():.3g}"


# -- drawing --------------------------------------------------------------------------------------


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        import matplotlib.pyplot as plt  # only here: a server draws without it

        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None; got {ask.kind(ax)}")
    return ax


def _draw_components(ax: Axes, dist: Any, grid: Floats, density: Floats) -> None:
    """pi_k p_k(y) = p(y) r_k(y), with the responsibilities r: so of any family."""
    if not hasattr(dist, "responsibilities"):
        return
    y = ask.like(dist, grid).unsqueeze(-1)
    parts = density[..., None] * np.exp(ask.array(dist.responsibilities(y)))  # (G, 1, K)
    for k, part in enumerate(parts[:, 0].T):
        label = "weighted components" if k == 0 else "_component"
        ax.fill_between(grid[:, 0], part, color=_SKY, alpha=0.25, linewidth=0)
        ax.plot(grid[:, 0], part, color=_SKY, linewidth=1, label=label)


def _draw_summary(
    ax: Axes,
    y: Floats,
    density: Floats,
    interval: Floats,
    coverage: float,
    mean: Floats,
    median: Floats,
    y_unit: str | None,
) -> None:
    """Interval, mean and median of one curve."""
    inside = (y >= interval[0]) & (y <= interval[1])
    ax.fill_between(
        *(y[inside], density[inside]),
        color=_GREY,
        alpha=0.5,
        linewidth=0,
        zorder=0.5,
        label=f"{100 * coverage:g} % central interval",
    )
    looks = {"mean": (mean[0], _VERMILLION, "--"), "median": (median[0], _GREEN, ":")}
    for name, (at, colour, dashes) in looks.items():
        label = f"{name} {_numbers(at, y[-1] - y[0], y_unit)}"
        # as high as the peak, not as the curve: between two modes the mean may have no density
        ax.plot([at, at], [0, density.max()], dashes, color=colour, linewidth=2, label=label)


def _note(ax: Axes, text: str) -> None:
    """A line of the legend without a sign."""
    ax.plot([], [], linestyle="none", label=text)


def _numbers(values: ArrayLike, span: float, unit: str | None) -> str:
    """Rising, to a thousandth of the span; only how many if these are too many for a legend."""
    if np.size(values) > 3:
        return f"({np.size(values)})"
    rounded = np.round(np.sort(np.ravel(values)), 3 - math.floor(math.log10(span))) + 0.0  # no -0
    return " ".join([", ".join(f"{v:.10g}" for v in rounded), *([unit] if unit else [])])


def _row_names(values: Floats | None, n: int) -> list[str]:
    if values is None:
        return ["p(y|x)"] if n == 1 else [f"row {i}" for i in range(n)]
    rows = [", ".join(f"{v:.4g}" for v in row) for row in values]
    return [f"p(y|x = {r})" if values.shape[1] == 1 else f"p(y|x = ({r}))" for r in rows]


def _with_unit(name: str, unit: str | None) -> str:
    return f"{name} [{unit}]" if unit else name

r"""Pictures of p(y|x) and of a training run: each function draws on one Axes and returns it.

Plain Matplotlib: pass ``ax=`` to draw into a figure of your own, and anything the Axes can do
(titles, limits, scales) can be done afterwards.  Extra keywords go to the main artist and win over
the defaults.  No setting of Matplotlib is changed and nothing is shown or saved.

Colours are told apart by the colour-blind (M. Okabe and K. Ito, 2008) and lines also differ in
their dashes, so a print in grey stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib import cbook, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["plot_density", "plot_conditional", "plot_history"]

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
    *("#ffffff", "#d4e4f0", "#abc9e2", "#82aed4", "#5793c7"),
    *("#3278b3", "#005e9f", "#00447f", "#002c60"),
)

_FLOOR = 0.01  # share of the uniform density below which a cell counts as empty
_CLIP_QUANTILE = 0.98  # of the cells that are not empty: where the colours end if there is a spike
_CLIP_FACTOR = 1.5  # a maximum less than this times that quantile is no spike
_TAIL = 5e-4  # probability left out on each side of plot_conditional
_MINOR_MODE = 0.01  # share of the highest density below which a mode is not marked
_OFFSETS = np.linspace(-6.0, 6.0, 97)  # points of a component's curve, in its scales
_WORST_EPOCHS = 0.05  # share of the epochs, at least one, that may leave the frame at the top
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

    A cell has the colour of the density at its centre, white for 0.  The colours end at the highest
    density, unless that is a spike: then they end at the 98 % quantile of the cells that are not
    empty (those above 1 % of the uniform density), and the colour bar gets a pointed end.

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
    features, names = _features(x)
    target = _target(y, len(features))
    n_features = features.shape[1]
    if not (isinstance(feature, int | np.integer) and 0 <= feature < n_features):
        raise ValueError(f"feature must be a column of x, 0 to {n_features - 1}; got {feature!r}")
    if n_grid < 2:
        raise ValueError(f"n_grid must be at least 2; got {n_grid}")

    xs = _span(features[:, feature], 0.02, n_grid)
    ys = _span(target, 0.1, n_grid)
    grid = np.tile(np.median(features, axis=0), (n_grid, 1))  # (n_grid, F)
    grid[:, feature] = xs
    dist = _predict(model, grid, x)
    density = _density(dist, np.repeat(ys[:, None], n_grid, axis=1))  # (y, x)
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
    mean = _array(dist.mean)[:, 0]
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
    dist, values = _conditional(model_or_dist, x)
    n = dist.batch_shape[0]
    if n > len(_CURVES) or n < 1:
        raise ValueError(f"x must have 1 to {len(_CURVES)} rows to be told apart; got {n}")
    if labels is not None and (isinstance(labels, str) or len(labels) != n):
        raise ValueError(f"labels must be a list of {n} names, one a row; got {labels!r}")
    names = list(labels) if labels is not None else _row_names(values, n)

    tails = _array(dist.icdf(_like(dist, np.array([[_TAIL], [1 - _TAIL]]))))[..., 0]  # (2, N)
    modes, log_heights = map(_array, dist.modes())
    log_heights = np.where(np.isnan(log_heights), -math.inf, log_heights)
    major = log_heights >= log_heights.max(1, keepdims=True) + math.log(_MINOR_MODE)  # (N, K)
    modes = np.where(major, modes[..., 0], modes[:, :1, 0])  # (N, K), no NaN left
    mean, median = _array(dist.mean)[:, 0], _array(dist.icdf(_like(dist, np.full(n, 0.5))))[:, 0]
    interval = _array(dist.interval(coverage))  # (N, 2)

    low, high = min(tails[0].min(), modes.min()), max(tails[1].max(), modes.max())
    if n == 1:
        low, high = min(low, mean.min()), max(high, mean.max())
    marks = np.concatenate([mean[:, None], median[:, None], interval, modes], axis=1)
    grid = _curve_grid(dist, low, high, marks, n_grid)  # (G, N)
    density = _density(dist, grid)

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
        what = f"mode{'s' * (len(at) > 1)} {_numbers(at, y_unit)}" if n == 1 else "modes"
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

    The line at 0 is drawn if it lies no farther from the curves than these are tall; otherwise the
    legend says where it is.  If the worst 5 % of the epochs (at least one) would leave less than a
    tenth of the height to the others, they leave the frame at the top, and the legend says so.

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
    train, val, best = _history(history)
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
    if away <= high - low or away == 0:
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


# -- asking the model -----------------------------------------------------------------------------


def _predict(model: Any, rows: NDArray[np.float64], like: Any) -> Distribution:
    """The model's distribution at the rows (N, F): batch (N,), event (1,)."""
    with torch.no_grad():
        if hasattr(model, "predict_distribution"):
            # a model fitted on a data frame wants its columns back
            frame = type(like)(rows, columns=like.columns) if hasattr(like, "columns") else rows
            dist = model.predict_distribution(frame)
        elif isinstance(model, nn.Module):
            own = (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
            to = next(own, torch.empty(0))
            with _evaluating(model):
                dist = model(torch.as_tensor(rows, dtype=to.dtype, device=to.device))
        elif callable(model) and not isinstance(model, type):
            dist = model(torch.as_tensor(rows, dtype=torch.get_default_dtype()))
        else:
            raise TypeError(
                "model must have predict_distribution(X) or be a callable from a tensor (N, F) to "
                f"a distribution; got {_kind(model)}"
            )
    if not isinstance(dist, Distribution):
        raise TypeError(f"model must give a torch Distribution; got {_kind(dist)}")
    dist = _checked(dist)
    if tuple(dist.batch_shape) != (len(rows),):
        raise ValueError(
            f"model must give batch shape ({len(rows)},) for {len(rows)} rows; "
            f"got {tuple(dist.batch_shape)}"
        )
    return dist


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout and the like off; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _checked(dist: Distribution) -> Any:
    """A distribution over one real target, in float64 on the CPU if it can be moved."""
    if tuple(dist.event_shape) != (1,):
        one = ". Take one target with .marginal(dims)" if dist.event_shape.numel() > 1 else ""
        raise ValueError(
            "a plot needs one target, a distribution with event shape (1,); "
            f"got {tuple(dist.event_shape)} of {_kind(dist)}{one}"
        )
    move: Callable[..., Distribution] | None = getattr(dist, "to", None)
    # between two float32 there may be no room for the grid of a narrow component
    return dist if move is None else move("cpu", torch.float64)


def _conditional(model_or_dist: Any, x: Any) -> tuple[Any, NDArray[np.float64] | None]:
    """The distribution of plot_conditional, with batch (N,), and the rows of x if given."""
    values = None if x is None else _features(x)[0]
    if isinstance(model_or_dist, Distribution):
        dist = _checked(model_or_dist)
        if len(dist.batch_shape) > 1:
            raise ValueError(
                f"model_or_dist must have batch shape () or (N,); got {tuple(dist.batch_shape)}"
            )
        dist = dist if dist.batch_shape else dist.expand((1,))
    elif values is None:
        raise TypeError(
            "model_or_dist must be a distribution, or a model with rows of x; "
            f"got {_kind(model_or_dist)} and x=None"
        )
    else:
        dist = _predict(model_or_dist, values, x)
    missing = [name for name in ("modes", "interval") if not hasattr(dist, name)]
    if missing:
        raise TypeError(
            f"model_or_dist must have {' and '.join(missing)}, as a GaussianMixture; "
            f"got {_kind(dist)}"
        )
    if values is not None and len(values) != dist.batch_shape[0]:
        raise ValueError(
            f"x must have one row for each of the {dist.batch_shape[0]} distributions; "
            f"got {len(values)}"
        )
    return dist, values


def _density(dist: Any, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(log_prob), (G, N), at y (G, N) for a batch (N,); some rows at a time to save memory."""
    parts = torch.as_tensor(y).unsqueeze(-1).split(32)
    with torch.no_grad():
        return np.concatenate([np.exp(_array(dist.log_prob(_like(dist, p)))) for p in parts])


def _like(dist: Any, values: NDArray[np.float64] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=dist.mean.dtype, device=dist.mean.device)


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()


# -- checking what the user gave ------------------------------------------------------------------


def _numeric(values: Any, name: str) -> NDArray[np.float64]:
    values = values.detach().cpu() if isinstance(values, Tensor) else values
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers; got {_kind(values)} ({error})") from None
    finite = np.isfinite(array)
    if not finite.all():
        at = np.argwhere(~finite)[0]
        row = f" in row {at[0]}" if array.ndim else ""
        raise ValueError(f"{name} must be finite; got {array[tuple(at)]}{row}")
    return array


def _features(x: Any) -> tuple[NDArray[np.float64], list[str] | None]:
    """Rows (N, F), and the names of the columns of a data frame."""
    array = _numeric(x, "x")
    array = array.reshape(-1, 1) if array.ndim < 2 else array
    if array.ndim > 2 or not array.size:
        raise ValueError(f"x must have shape (N,) or (N, F), not empty; got {array.shape}")
    return array, [str(name) for name in x.columns] if hasattr(x, "columns") else None


def _target(y: Any, n: int) -> NDArray[np.float64]:
    array = _numeric(y, "y")
    if array.ndim == 2 and array.shape[1] > 1:
        raise ValueError(
            f"y must have one target, shape (N,) or (N, 1); got {array.shape}. "
            "Plot one column and the marginal of its dimension"
        )
    if array.shape not in ((n,), (n, 1)):
        raise ValueError(f"y must have as many rows as x, shape ({n},); got {array.shape}")
    return array.reshape(-1)


def _history(history: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The two curves, (n,) and (n,) or (0,), and the index of the best epoch."""
    try:
        train = np.asarray(history.train_nll, dtype=np.float64)
        val = np.asarray(history.val_nll, dtype=np.float64)
        best = int(history.best_epoch)
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            "history must have the lists of numbers train_nll and val_nll and the index "
            f"best_epoch; got {_kind(history)}"
        ) from None
    if not np.isfinite(train).any() and not np.isfinite(val).any():
        raise ValueError(f"history must have an epoch with a finite NLL; got {len(train)} epochs")
    return train, val, best


def _kind(thing: Any) -> str:
    return type(thing).__name__ if not isinstance(thing, type) else f"the class {thing.__name__}"


# -- what to draw, as numbers ---------------------------------------------------------------------


def _span(values: NDArray[np.float64], margin: float, n: int) -> NDArray[np.float64]:
    """n even steps over the values plus a margin, a share of their range, on both sides."""
    low, high = values.min(), values.max()
    pad = margin * (high - low) or 0.1 * abs(low) or 1.0  # a single value still gets a range
    return np.linspace(low - pad, high + pad, n)


def _colour_limit(density: NDArray[np.float64], ys: NDArray[np.float64]) -> float:
    """The density at which the colours end; see plot_density."""
    body = density[density > _FLOOR / (ys[-1] - ys[0])]
    if not body.size:
        return float(density.max()) or 1.0  # the model puts its mass elsewhere
    limit = float(np.quantile(body, _CLIP_QUANTILE))
    peak = float(density.max())
    return peak if peak <= _CLIP_FACTOR * limit else limit


def _curve_grid(
    dist: Any, low: float, high: float, marks: NDArray[np.float64], n_grid: int
) -> NDArray[np.float64]:
    """Points of N curves, (G, N), sorted: even, dense where the mass is, and at the marks (N, M)."""
    n = len(marks)
    even = np.repeat(np.linspace(low, high, n_grid)[:, None], n, axis=1)
    if hasattr(dist, "loc") and hasattr(dist, "scale"):
        loc, scale = _array(dist.loc)[..., 0], _array(dist.scale)[..., 0]  # (N, K)
        dense = (loc + _OFFSETS[:, None, None] * scale).transpose(0, 2, 1).reshape(-1, n)
    else:
        levels = np.linspace(_TAIL, 1 - _TAIL, n_grid)[:, None]
        dense = _array(dist.icdf(_like(dist, levels)))[..., 0]
    return np.sort(np.concatenate([even, dense, marks.T]).clip(low, high), axis=0)


def _frame(train: NDArray[np.float64], val: NDArray[np.float64]) -> tuple[float, float, str | None]:
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
        raise TypeError(f"ax must be a matplotlib Axes or None; got {_kind(ax)}")
    return ax


def _draw_components(
    ax: Axes, dist: Any, grid: NDArray[np.float64], density: NDArray[np.float64]
) -> None:
    """pi_k p_k(y) = p(y) r_k(y), with the responsibilities r: so of any family."""
    if not hasattr(dist, "responsibilities"):
        return
    y = _like(dist, grid).unsqueeze(-1)
    parts = density[..., None] * np.exp(_array(dist.responsibilities(y)))  # (G, 1, K)
    for k, part in enumerate(parts[:, 0].T):
        label = "weighted components" if k == 0 else "_component"
        ax.fill_between(grid[:, 0], part, color=_SKY, alpha=0.25, linewidth=0)
        ax.plot(grid[:, 0], part, color=_SKY, linewidth=1, label=label)


def _draw_summary(
    ax: Axes,
    y: NDArray[np.float64],
    density: NDArray[np.float64],
    interval: NDArray[np.float64],
    coverage: float,
    mean: NDArray[np.float64],
    median: NDArray[np.float64],
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
    looks = {"mean": (mean[0], _VERMILLION, "--"), "median": (median[0], _GREEN, "-.")}
    for name, (at, colour, dashes) in looks.items():
        label = f"{name} {_numbers([at], y_unit)}"
        # as high as the peak, not as the curve: between two modes the mean may have no density
        ax.plot([at, at], [0, density.max()], dashes, color=colour, linewidth=2, label=label)


def _note(ax: Axes, text: str) -> None:
    """A line of the legend without a sign."""
    ax.plot([], [], linestyle="none", label=text)


def _numbers(values: ArrayLike, unit: str | None) -> str:
    shown = ", ".join(f"{v:.4g}" for v in np.sort(values))
    return f"{shown} {unit}" if unit else shown


def _row_names(values: NDArray[np.float64] | None, n: int) -> list[str]:
    if values is None:
        return ["p(y|x)"] if n == 1 else [f"row {i}" for i in range(n)]
    rows = [", ".join(f"{v:.4g}" for v in row) for row in values]
    return [f"p(y|x = {r})" if values.shape[1] == 1 else f"p(y|x = ({r}))" for r in rows]


def _with_unit(name: str, unit: str | None) -> str:
    return f"{name} [{unit}]" if unit else name

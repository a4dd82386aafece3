"""Colours, lines, labels and legends that the plots share."""

from __future__ import annotations

import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from matplotlib import cbook, patheffects
from matplotlib.artist import Artist, ArtistInspector
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..arguments import check_integer, check_number
from ..prediction import kind_of
from ._inputs import FeatureGrid, Floats, Parts

__all__ = ["panels"]

BLUE, VERMILLION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
BLACK, PURPLE, ORANGE, GREY = "#000000", "#CC79A7", "#E69F00", "#BBBBBB"
CURVES = (  # colour and dashes of each curve, alternating dark and light
    (BLUE, "-"),
    (ORANGE, "--"),
    (BLACK, "-."),
    (GREEN, ":"),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    (VERMILLION, (0, (8, 3))),
)
# White to dark blue in equal steps of CIE lightness (L* = 100 to 18), so equal steps of density
# look equal, also in grey.
WHITE_TO_BLUE = (
    *("#ffffff", "#d4e4f0", "#aac9e2", "#81aed4", "#5693c7"),
    *("#3a77b1", "#1c5d9b", "#19427b", "#112a5b"),
)
# What a plot computes, so that no keyword may replace it.
_DRAWN = frozenset({"figure", "x", "y", "xy", "y2", "left", "xdata", "ydata", "array", "offsets"})
_DRAWN |= {"data", "paths", "verts", "verts_and_codes", "bounds", "levels", "filled"}
_BARS = frozenset({"xerr", "yerr", "ecolor", "capsize", "error_kw", "log"})  # in no signature
_LINE = 56  # characters of a line of a label
_LONG = 20  # characters of a category that are shown
_ROOM = 50  # characters that an axis has room for
_TEXTS = "x_label", "y_label", "y_unit"
_MANY_POINTS = 10_000  # above, the search for the best place of a legend takes seconds


def panels(
    rows: int, columns: int, *, size: tuple[float, float] = (11.0, 8.0)
) -> tuple[Figure, list[Axes]]:
    """Returns a figure, unknown to pyplot, and its Axes, row by row, whose labels do not overlap.

    Args:
        rows, columns: how many Axes there are.
        size: width and height, inches.

    Example:
        >>> figure, axes = panels(1, 2)
        >>> len(axes)
        2
    """
    check_integer("rows", rows)
    check_integer("columns", columns)
    if not (isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2):
        raise TypeError(f"size must be a width and a height in inches; got {size!r}")
    for length in size:
        check_number("size", length, above=0)
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def get_axes(ax: Axes | None) -> Axes:
    """Returns the Axes that were given, or those of a new figure."""
    if ax is None:
        import matplotlib.pyplot as plt  # only here: a server draws without it

        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None; got {kind_of(ax)}")
    return ax


P = ParamSpec("P")


def takes_style(
    method: str, artist: type[Artist]
) -> Callable[[Callable[P, Axes]], Callable[P, Axes]]:
    """Decorates a plot whose ``**style`` goes to a method of Axes, which makes artists of a type.

    A keyword that neither of them has is refused by name before anything is computed or drawn.
    """

    def decorate(plot: Callable[P, Axes]) -> Callable[P, Axes]:
        own = [p.name for p in inspect.signature(plot).parameters.values() if p.name != "style"]

        @wraps(plot)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Axes:
            style = {name: value for name, value in kwargs.items() if name not in own}
            known = _keywords(method, artist) if style else set()
            for name in style.keys() - known:
                near = difflib.get_close_matches(name, [*own, *sorted(known)], n=1)
                cure = f"the nearest is {near[0]!r}" if near else f"it takes those of Axes.{method}"
                raise TypeError(f"{plot.__name__} has no keyword {name!r}; {cure}")
            cbook.normalize_kwargs(style, artist)  # refuses two names of one property
            for name in _TEXTS:
                if not isinstance(kwargs.get(name), str | None):
                    raise TypeError(f"{name} must be a text; got {kind_of(kwargs[name])}")
            if "n_grid" in kwargs:
                check_integer("n_grid", kwargs["n_grid"], at_least=2)
            before = _figures()
            try:
                return plot(*args, **kwargs)
            except Exception:
                for number in _figures() - before:  # an unfinished one is of no use
                    sys.modules["matplotlib.pyplot"].close(number)
                raise

        return checked

    return decorate


def _figures() -> set[int]:
    """Returns the numbers of the figures that pyplot knows; it may not have been imported."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    return set(pyplot.get_fignums()) if pyplot else set()


def _keywords(method: str, artist: type[Artist]) -> set[str]:
    """Returns the keywords of a method of Axes and the properties of what it draws."""
    inspector = ArtistInspector(artist)
    found = set(inspector.get_setters()).union(*inspector.aliasd.values())
    given = inspect.signature(getattr(Axes, method)).parameters
    found |= {p.name for p in given.values() if p.default is not p.empty}
    found -= _DRAWN | {p.name for p in given.values() if p.default is p.empty}
    if method == "contour":  # which hands its keywords to the artist
        found |= inspect.signature(ContourSet).parameters.keys() | {"corner_mask", "algorithm"}
        return found - _DRAWN - {"ax", "args", "kwargs", "color"}  # it is "colors"
    return found | (_BARS if method.startswith("bar") else set())


def with_defaults(style: dict[str, Any], artist: Any, **defaults: Any) -> dict[str, Any]:
    """Returns the defaults, replaced by what the user gave under any name that the artist knows."""
    return {**defaults, **cbook.normalize_kwargs(style, artist)}


def blues() -> LinearSegmentedColormap:
    """Returns the colour map of a density."""
    return LinearSegmentedColormap.from_list("mdn", WHITE_TO_BLUE)


def oranges() -> LinearSegmentedColormap:
    """Returns the colour map of a probability."""
    return LinearSegmentedColormap.from_list(
        "mdn atoms", ("#ffffff", ORANGE, VERMILLION, "#4a1f00")
    )


# -- artists --------------------------------------------------------------------------------------


def draw_curve(
    ax: Axes, i: int, x: Any, y: Any, label: str, style: dict[str, Any], **defaults: Any
) -> None:
    """Draws curve i of at most six, told apart by colour and dashes."""
    color, dashes = CURVES[i]
    defaults = {"color": color, "linestyle": dashes, "linewidth": 2.0, "label": label, **defaults}
    ax.plot(x, y, **with_defaults(style, Line2D, **defaults))


def draw_line(ax: Axes, x: Floats, y: Floats, label: str, **style: Any) -> None:
    """Draws a mean, a median or another quantile, with a white rim that sets it off an image."""
    rim = [patheffects.withStroke(linewidth=3.5, foreground="white")]
    ax.plot(x, y, **{"color": VERMILLION, "lw": 2, "path_effects": rim, "label": label, **style})


def draw_atoms(ax: Axes, grid: FeatureGrid, atoms: Parts) -> None:
    """Draws a line at each atom in the colour of its probability, and a colour bar."""
    x, half = grid.values, 0.0 if grid.levels is None else 0.5  # strips are 1 wide
    edges = np.concatenate([x[:1] - half, (x[1:] + x[:-1]) / 2, x[-1:] + half])
    for at, p in zip(atoms.places.T, atoms.probs.T, strict=True):
        pieces = list(np.stack([np.column_stack([edges[i : i + len(x)], at]) for i in (0, 1)], 1))
        options: dict[str, Any] = {"capstyle": "butt", "zorder": 1, "antialiaseds": False}
        rim = LineCollection(pieces, colors=GREY, linewidths=7.0, **options)  # points
        lines = LineCollection(pieces, array=p, cmap=oranges(), linewidths=5.0, **options)
        lines.set_norm(Normalize(0.0, 1.0))
        ax.add_collection(rim, autolim=False)
        ax.add_collection(lines, autolim=False)
    label = f"probability of {atoms.name}"
    ax.get_figure().colorbar(lines, ax=ax, label=label)  # type: ignore[union-attr]


def draw_area(ax: Axes, x: Any, low: Any, high: Any = 0.0, **style: Any) -> None:
    """Fills the area between two curves in grey, without an edge."""
    ax.fill_between(x, low, high, **{"color": GREY, "alpha": 0.6, "linewidth": 0, **style})


def draw_points(ax: Axes, x: Any, y: Any, label: str = "data", **style: Any) -> None:
    """Draws rows as points, smaller ones if they are many."""
    size = float(np.clip(6000 / len(y), 3, 16))  # points^2
    look = {"color": BLACK, "edgecolors": "white", "linewidths": 0.5, "rasterized": True}
    ax.scatter(x, y, **{"s": size, "label": label, **look, **style})


# -- labels and legends ---------------------------------------------------------------------------


def set_labels(
    ax: Axes, x: str, y: str, x_label: str | None = None, y_label: str | None = None
) -> None:
    """Labels both axes: as the user says, else as they are labelled already, else x and y."""
    ax.set_xlabel(x_label or ax.get_xlabel() or x)
    ax.set_ylabel(y_label or ax.get_ylabel() or y)


def label_feature_plot(
    ax: Axes, grid: FeatureGrid, drawn: str, x_label: str | None, y: str, y_label: str | None = None
) -> None:
    """Adds labels and a legend; a note says where the other features are held for what is drawn."""
    if grid.levels is not None:
        _name_categories(ax, grid.levels)
    label = x_label or ax.get_xlabel() or grid.name
    note = "\n" + textwrap.fill(f"({drawn}{grid.others})", _LINE) if grid.others else ""
    set_labels(ax, "", y, label if note in label else label + note, y_label)
    add_legend(ax, len(grid.data))


def _name_categories(ax: Axes, levels: list[str]) -> None:
    """Names the places 0, 1, ... of the horizontal axis, slanted where there is no room."""
    texts = [text if len(text) <= _LONG else text[: _LONG - 1] + "…" for text in levels]
    ax.set_xticks(np.arange(len(texts)), texts)
    ax.set_xlim(-0.5, len(texts) - 0.5)
    if sum(map(len, texts)) > _ROOM:
        ax.tick_params(axis="x", labelrotation=30)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")


def add_legend(ax: Axes, n_points: int) -> None:
    """Adds a legend where there is room; with many points at a fixed place."""
    ax.legend(loc="best" if n_points <= _MANY_POINTS else "upper right", fontsize="small")


def add_note(ax: Axes, text: str) -> None:
    """Adds a line of text without a symbol to the legend."""
    ax.plot([], [], linestyle="none", label=text)


def with_unit(name: str, unit: str | None) -> str:
    return f"{name} [{unit}]" if unit else name


def density_label(unit: str | None) -> str:
    return f"density p(y|x) [1/{unit or 'unit of y'}]"


def probability_label() -> str:
    return "probability p(y|x)"


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"

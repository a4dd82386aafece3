"""Looks that the plots share: colours, axes, labels."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from . import _inputs as ask
from ._inputs import Floats

__all__ = ["panels"]

BLUE, VERMILLION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
BLACK, PURPLE, ORANGE, GREY = "#000000", "#CC79A7", "#E69F00", "#BBBBBB"
CURVES = (  # one a row: colour and dashes, alternating dark and light
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


def axes(ax: Axes | None) -> Axes:
    if ax is None:
        import matplotlib.pyplot as plt  # only here: a server draws without it

        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None; got {ask.kind(ax)}")
    return ax


def note(ax: Axes, text: str) -> None:
    """A line of the legend without a sign."""
    ax.plot([], [], linestyle="none", label=text)


def numbers(values: ArrayLike, span: float, unit: str | None) -> str:
    """Rising, to a thousandth of the span; only how many if these are too many for a legend."""
    if np.size(values) > 3:
        return f"({np.size(values)})"
    rounded = np.round(np.sort(np.ravel(values)), 3 - math.floor(math.log10(span))) + 0.0  # no -0
    return " ".join([", ".join(f"{v:.10g}" for v in rounded), *([unit] if unit else [])])


def row_names(values: Floats | None, n: int) -> list[str]:
    """Names of curves: the values of x, or the numbers of the rows."""
    if values is None:
        return ["p(y|x)"] if n == 1 else [f"row {i}" for i in range(n)]
    rows = row_values(values)
    return [f"p(y|x = {r})" if values.shape[1] == 1 else f"p(y|x = ({r}))" for r in rows]


def row_values(values: Floats) -> list[str]:
    return [", ".join(f"{v:.4g}" for v in row) for row in values]


def with_unit(name: str, unit: str | None) -> str:
    return f"{name} [{unit}]" if unit else name


def per_unit(unit: str | None) -> str:
    return f"density p(y|x) [1/{unit or 'unit of y'}]"


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def label_axes(
    ax: Axes, walk: ask.Walk, what: str, x_label: str | None, y_label: str | None
) -> None:
    """Labels of a picture over one feature, with a note on where the others are, and for what."""
    label = x_label or ax.get_xlabel() or walk.name
    note = f"\n({what}{walk.others})" if walk.others else ""
    ax.set_xlabel(label if note in label else label + note)
    ax.set_ylabel(y_label or ax.get_ylabel())


def scatter_data(ax: Axes, x: Floats, y: Floats, colour: str = BLACK) -> None:
    """The data, small if they are many."""
    ax.scatter(
        x,
        y,
        s=float(np.clip(6000 / len(y), 3, 16)),  # points^2
        color=colour,
        edgecolors="white",
        linewidths=0.5,
        rasterized=True,
        label="data",
    )


def legend(ax: Axes, n_points: int = 0) -> None:
    """Where there is room; with many points at a fixed place, as "best" looks at every one."""
    ax.legend(loc="best" if n_points <= 10_000 else "upper right", fontsize="small")


def blues() -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("mdn", WHITE_TO_BLUE)


def halo() -> list[patheffects.AbstractPathEffect]:
    """A white rim, so that a line is seen on any colour."""
    return [patheffects.withStroke(linewidth=3.5, foreground="white")]


def quantity(value: float, unit: str | None) -> str:
    """Three digits and the unit."""
    return f"{value:.3g} {unit}" if unit else f"{value:.3g}"

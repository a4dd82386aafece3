"""Losses: a training run, one loss in several units, and what each step of a model gains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from ..prediction import kind_of
from . import _inputs as inputs
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_history", "plot_units", "plot_waterfall"]

_WORST_EPOCHS = 0.05  # share of the epochs, at least one, that may leave the frame at the top
_NEAR_ZERO = 3.0  # heights of the curves within which the line at 0 is drawn
_GAP = 5.0  # points between a value and its text
_CHARACTER = 0.65  # width of a character of a number, as a share of the size of its font
_SIDE = 0.05  # share of the axis that is left free on either side
_LEAST_WIDTH = 0.85  # share of the width of an Axes that a layout with long labels leaves to it
_MOST_SHARE = 0.4  # of the axis that is given to a text on one side
_CUT_RANGE = 10.0  # they do if the range of the loss would be more than this times as large


@look.takes_style("plot", Line2D)
def plot_history(
    history: Any, *, y_unit: str | None = None, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draws the NLL of every epoch, marks the best one, and says what zero means.

    Of an ensemble the curves are means over its members; the mark is at the minimum of the mean,
    and short lines at the bottom are at each member's own best epoch, whose weights it holds.

    The line at 0 is drawn unless it lies farther from the curves than three times their height;
    then the legend says where it is.  If the worst 5 % of the epochs (at least one) would leave
    less than a tenth of the height to the others, they leave the frame at the top, and the legend
    says so.

    Args:
        history: what a fit returned: lists ``train_nll`` and ``val_nll`` (it may be empty), in nats
            per row in the unit of y, and the index ``best_epoch`` (-1 for none); of an ensemble
            the list ``member_best_epochs`` too.
        y_unit: unit of y, as "min"; the NLL depends on it.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.plot`` for both curves, as ``lw``.

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
    train, val, best, members = _check_history(history)
    ax = look.get_axes(ax)
    markers = {"marker": "."} if len(train) < 20 else {}
    for nll, label, color, dashes in (
        (train, "training, mean over the epoch", look.ORANGE, "--"),
        (val, "validation", look.BLUE, "-"),
    ):
        if len(nll):
            defaults = {"color": color, "linestyle": dashes, "linewidth": 1.8, **markers}
            options = look.with_defaults(style, Line2D, label=label, **defaults)
            ax.plot(np.arange(len(nll)), nll, **options)
    judged = val if len(val) else train
    if 0 <= best < len(judged):
        what = "lowest mean" if len(members) > 1 else "best"
        label = f"{what}: epoch {best}, NLL {judged[best]:.4g}"
        ring: dict[str, Any] = {"color": look.BLACK, "markersize": 9, "markerfacecolor": "none"}
        ax.plot(best, judged[best], "o", markeredgewidth=1.8, zorder=4, label=label, **ring)
    if len(members) > 1:
        label = f"best epochs of the {len(members)} networks"
        dash: dict[str, Any] = {"color": look.BLUE, "markersize": 12, "markeredgewidth": 1.5}
        dash |= {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(members, np.zeros(len(members)), "|", label=label, **dash)

    low, high, cut = _frame(train, val)
    away = max(low, -high, 0.0)
    if away <= _NEAR_ZERO * (high - low):
        text = "0: a density may exceed 1,\nso the loss may go below"
        ax.axhline(0.0, color=look.BLACK, lw=1, ls=":", label=text, zorder=1)
        low, high = min(low, 0.0), max(high, 0.0)
    elif low > 0:
        look.add_note(ax, f"0 is {away:.3g} nats below; it is no bound,\nas a density may exceed 1")
    else:
        text = f"0 is {away:.3g} nats above: the loss is\nbelow it, as a density may exceed 1"
        look.add_note(ax, text)
    if cut:
        pad = 0.05 * (high - low)
        ax.set_ylim(low - pad, high + pad)
        look.add_note(ax, cut)

    look.set_labels(ax, "epoch (the first is 0)", _nll_label(y_unit))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.legend(loc="best", fontsize="small", framealpha=1.0)  # no line shows through
    return ax


@look.takes_style("barh", Rectangle)
def plot_units(nll: Mapping[str, float], *, ax: Axes | None = None, **style: Any) -> Axes:
    """Draws the loss of one fit in several units of y, as bars from the line at zero.

    Args:
        nll: NLL in nats per row by the name of the unit.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.barh``, as ``color``.

    Raises:
        ValueError: no unit, or an NLL that is not finite.

    Example:
        >>> ax = plot_units({"seconds": 4.63, "minutes": 0.54, "hours": -3.56})
        >>> [text.get_text() for text in ax.texts[:3]]
        ['+4.63', '+0.54', '-3.56']
    """
    if not isinstance(nll, Mapping) or not nll:
        got = "none" if isinstance(nll, Mapping) else kind_of(nll)
        raise ValueError(f"nll must map the name of at least one unit to a number; got {got}")
    values = inputs.check_numbers(list(nll.values()), "nll")
    ax = look.get_axes(ax)
    rows = np.arange(len(values))[::-1]
    options = look.with_defaults(style, Patch, color=look.SKY, edgecolor=look.BLACK)
    ax.barh(rows, values, **{"height": 0.55, **options})
    ax.axvline(0.0, color=look.BLACK, lw=1, ls=":")
    texts = [
        _write(ax, f"{value:+.2f}", value, row, 1 if value >= 0 else -1)
        for row, value in zip(rows, values, strict=True)
    ]
    ax.set_yticks(rows, [f"y in {unit}" for unit in nll])
    ax.set_ylim(-0.6, len(values) - 0.4)
    _make_room(ax, texts)
    look.set_labels(ax, "NLL [nats per row]\n(0: p(y|x) = 1 per unit of y, no bound)", "")
    return ax


@look.takes_style("barh", Rectangle)
def plot_waterfall(
    nll: Mapping[str, float], *, y_unit: str | None = None, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draws how the loss falls from one model to the next, as bars from each to the one before.

    The steps are what can be compared: they are the same in any unit of y, and 1 nat means that the
    data are e times as likely per row.  Where the loss itself lies depends on the unit, so no bar
    starts at 0.  A step that increases the loss is hatched.

    Args:
        nll: NLL in nats per row by the name of the model, from the simplest to the most flexible,
            all on the same rows, such as marginal, homoscedastic Gaussian, heteroscedastic
            Gaussian, mixture.
        y_unit: unit of y, as "min"; the NLL depends on it.
        ax: where to draw; a new figure if None.
        **style: keywords of ``Axes.barh``, as ``color``.

    Returns:
        The Axes; the bars are ``ax.patches``.

    Raises:
        ValueError: fewer than two models, or an NLL that is not finite.

    Example:
        >>> ax = plot_waterfall({"marginal": 1.41, "Gaussian": 1.06, "mixture": 0.52}, y_unit="min")
        >>> [text.get_text() for text in ax.texts]
        ['1.41', '1.06', '−0.35', '0.52', '−0.54']
    """
    if not isinstance(nll, Mapping) or len(nll) < 2:
        got = f"{len(nll)}" if isinstance(nll, Mapping) else kind_of(nll)
        raise ValueError(f"nll must map the names of at least two models to numbers; got {got}")
    values = inputs.check_numbers(list(nll.values()), "nll")
    span = float(np.ptp(values))
    digits = 2 if span == 0 else max(2, 1 - math.floor(math.log10(span)))

    ax = look.get_axes(ax)
    rows = np.arange(len(values))[::-1]
    steps = np.diff(values)
    colors = [look.SKY if step <= 0 else look.ORANGE for step in steps]
    options = look.with_defaults(style, Patch, color=colors, edgecolor=look.BLACK)
    bars = ax.barh(rows[1:], steps, left=values[:-1], **{"height": 0.5, **options})
    for bar, step in zip(bars, steps, strict=True):
        bar.set_hatch("//" if step > 0 else "")
        bar.sticky_edges.x.clear()  # they stand on no line that the frame should end at
    ax.vlines(values, rows - 0.32, rows + 0.32, color=look.BLACK, linewidth=2.5, zorder=3)
    ax.vlines(values[:-1], rows[1:], rows[:-1], color=look.BLACK, linewidth=0.8, linestyle=":")
    texts = [_write(ax, _signed(values[0], digits), values[0], rows[0], 1)]
    for row, before, value in zip(rows[1:], values, values[1:], strict=False):
        side = 1 if value > before else -1  # of the new value; the step stands on the other side
        step = _signed(value - before, digits, "+")
        texts.append(_write(ax, _signed(value, digits), value, row, side))
        texts.append(_write(ax, step, before, row, -side, style="italic"))
    ax.set_yticks(rows, list(nll))
    ax.set_ylim(-0.6, len(values) - 0.4)
    _make_room(ax, texts)
    look.set_labels(ax, _nll_label(y_unit), "")
    return ax


# -- what is drawn, as numbers ---------------------------------------------------------------------


def _check_history(history: Any) -> tuple[Floats, Floats, int, Floats]:
    """Returns the two curves, (n,) and (n,) or (0,), the best epoch, and those of members, (M,)."""
    try:
        train = np.asarray(history.train_nll, dtype=np.float64)
        val = np.asarray(history.val_nll, dtype=np.float64)
        best = int(history.best_epoch)
        members = np.asarray(getattr(history, "member_best_epochs", []), dtype=np.float64)
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            "history must have the lists of numbers train_nll and val_nll and the index "
            f"best_epoch; got {kind_of(history)}"
        ) from None
    if not np.isfinite(train).any() and not np.isfinite(val).any():
        raise ValueError(f"history must have an epoch with a finite NLL; got {len(train)} epochs")
    return train, val, best, members[members >= 0]


def _frame(train: Floats, val: Floats) -> tuple[float, float, str | None]:
    """Returns the lowest and the highest NLL in the frame, and a note on epochs above it if any."""
    n = max(len(train), len(val))
    both = np.full((2, n), -math.inf)
    both[0, : len(train)], both[1, : len(val)] = train, val
    worst = np.where(np.isnan(both), math.inf, both).max(0)  # (n,)
    low = float(both[np.isfinite(both)].min())
    n_cut = math.ceil(_WORST_EPOCHS * n)
    kept = np.sort(worst)[-1 - n_cut] if n > n_cut else low
    limit = low + _CUT_RANGE * (kept - low) if kept > low else math.inf
    out = np.flatnonzero((worst > limit) | np.isinf(worst))
    shown = np.delete(both, out, axis=1)
    high = float(shown.max()) if shown.size else low
    if not out.size:
        return low, high, None
    which = f"{len(out)} of {n} epochs"
    if out[-1] == len(out) - 1:
        which = f"first {which}" if len(out) > 1 else f"first of {n} epochs"
    return low, high, f"not shown: {which},\nup to {worst.max():.3g}"


def _nll_label(y_unit: str | None) -> str:
    return f"NLL [nats per row, y in {y_unit or 'its own unit'}]"


def _signed(value: float, digits: int, sign: str = "-") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


# -- drawing --------------------------------------------------------------------------------------


def _write(ax: Axes, text: str, at: float, row: float, side: int, **style: Any) -> Annotation:
    """Writes to the right (side 1) or to the left (side -1) of a value."""
    offset: dict[str, Any] = {"xytext": (_GAP * side, 0), "textcoords": "offset points"}
    ha = "left" if side > 0 else "right"
    return ax.annotate(text, (at, row), ha=ha, va="center", **offset, **style)


def _make_room(ax: Axes, texts: Sequence[Annotation]) -> None:
    """Widens the horizontal axis until each text that `_write` wrote is inside the frame."""
    figure: Any = ax.figure
    width = _LEAST_WIDTH * ax.get_window_extent().width / figure.dpi * 72  # points
    low, high = ax.dataLim.intervalx
    span = (high - low) or 1.0
    needs = []  # value, side, share of the axis that the text needs
    for text in texts:
        size = _CHARACTER * float(text.get_fontsize()) * len(text.get_text())  # points
        share = min((size + 2 * _GAP) / width, _MOST_SHARE)
        needs.append((text.xy[0], 1 if text.get_horizontalalignment() == "left" else -1, share))
    start = low - _SIDE * span, high + _SIDE * span
    low, high = start
    for _ in range(50):  # the wider the axis is, the more of it a text of a given size covers
        ends = [at + side * share * (high - low) for at, side, share in needs]
        low, high = min(start[0], *ends), max(start[1], *ends)
    ax.set_xlim(low, high)

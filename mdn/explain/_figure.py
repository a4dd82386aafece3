"""The figure of a report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._components import AT_FLOOR, components
from ._evaluation import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure"]

Floats = NDArray[np.float64]

# told apart by the colour-blind, and in grey (Okabe and Ito)
_BLUE, _SKY, _ORANGE, _BLACK = "#0072B2", "#56B4E9", "#E69F00", "#000000"

_BINS = 40
_SHOWN = (
    0.01,
    0.99,
)  # quantiles of the losses that the histogram shows; the rest is in its last bins
_REACH = 6.0  # half widths of the peak to either side of it
_FAR = 20.0  # times below the least scale where the floor is not drawn
_ROOM = 0.25  # of the bars, beyond either end, for the numbers
_TAIL = 1e-4  # probability on each side beyond which the density is not drawn


def figure(report: Any, rows: Rows, train: Rows | None) -> Figure:
    """Sharpest density, losses of the rows, scales, gains; panels without numbers are left out."""
    from .. import plot

    todo = [_losses]
    if "integral" in report.sign:
        todo.insert(0, _sharpest)
    if components(rows) is not None:
        todo.append(_scales)
    if "gain_over_marginal" in report.unit:
        todo.append(_gains)
    columns = min(2, len(todo))
    lines = -(-len(todo) // columns)
    made, axes = plot.panels(lines, columns, size=(5.5 * columns, 4.0 * lines))
    for draw, ax in zip(todo, axes, strict=False):
        draw(ax, report, rows, train)
    for ax in axes[len(todo) :]:
        ax.set_axis_off()
    made.suptitle(report.word, fontweight="bold")
    return made


def _sharpest(ax: Axes, report: Any, rows: Rows, train: Rows | None) -> None:
    sign = report.sign
    row, at, top = sign["sharpest_row"], sign["at"], sign["highest_density"]
    dist = rows.dist[row : row + 1]
    low, high = (float(dist.icdf(p)) for p in (_TAIL, 1 - _TAIL))
    # a spike in a broad density would be a line: the frame follows the peak
    reach = _REACH / top
    if high - low > 20 * reach:
        low, high = max(low, at - reach), min(high, at + reach)
    grid = np.unique(np.append(np.linspace(low, high, 1000), at))
    density = np.exp(dist.log_prob(torch.as_tensor(grid).reshape(-1, 1, 1)).numpy()[:, 0])
    ax.fill_between(
        grid,
        np.minimum(density, 1.0),
        density,
        where=density > 1,
        color=_SKY,
        alpha=0.5,
        linewidth=0,
        label="above 1",
    )
    ax.plot(grid, density, color=_BLUE, linewidth=1.8, label="p(y|x)")
    ax.axhline(1.0, color=_BLACK, linestyle=":", linewidth=1.2, label="p = 1")
    ax.set_ylim(0.0, 1.3 * max(top, 1.0))
    ax.set_xlabel("y [its unit]")
    ax.set_ylabel("density [1 / unit of y]")
    ax.set_title(f"Sharpest row ({row}); integral {sign['integral']:.6f}")
    ax.legend(loc="upper right", fontsize="small", frameon=False, ncols=3)


def _losses(ax: Axes, report: Any, rows: Rows, train: Rows | None) -> None:
    sets = {"these rows": (rows.nll, _BLUE, "-")}
    if train is not None:
        sets = {
            "held-out rows": (rows.nll, _BLUE, "-"),
            "training rows": (train.nll, _ORANGE, "--"),
        }
    finite = np.concatenate([nll[np.isfinite(nll)] for nll, _, _ in sets.values()])
    low, high = np.quantile(finite, _SHOWN) if len(finite) else (-1.0, 1.0)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    pad = 0.05 * (high - low) or 1.0
    mass = report.sign["measure"] == "mass"  # nothing is below 0, nor looks as if it were
    edges = np.linspace(low - (0.0 if mass else pad), high + pad, _BINS + 1)
    beyond = False
    for name, (nll, colour, dashes) in sets.items():
        inside = np.clip(nll, edges[0], edges[-1])
        beyond |= bool((inside != nll).any())
        counts = np.histogram(inside, edges)[0] / len(nll)
        ax.stairs(counts, edges, color=colour, linestyle=dashes, linewidth=1.8, label=name)
        mean = float(nll.mean())
        if edges[0] <= mean <= edges[-1]:
            ax.axvline(mean, color=colour, linestyle=dashes, linewidth=1, alpha=0.7)
    ax.axvline(0.0, color=_BLACK, linestyle=":", linewidth=1.2, label="0: no bound of a density")
    if mass:
        ax.lines[-1].set_label("0: the bound of a probability")
    ax.set_xlabel("NLL of a row [nats]" + ("; first and last bin hold the rest" if beyond else ""))
    ax.set_ylabel("share of rows")
    ax.set_title("Loss of each row (thin line: mean)")
    ax.margins(y=0.3)
    ax.set_ylim(bottom=0.0)
    ax.legend(loc="upper right", fontsize="small", frameon=False)


def _scales(ax: Axes, report: Any, rows: Rows, train: Rows | None) -> None:
    sets = [("these rows" if train is None else "held-out rows", rows, _BLUE, "-")]
    if train is not None:
        sets.append(("training rows", train, _ORANGE, "--"))
    used = {}
    for name, part, colour, dashes in sets:
        found = components(part)
        assert found is not None
        best = found.log_share.argmax(1)
        scale = found.scale[np.arange(len(best)), best].min(-1)
        used[name] = scale[np.isfinite(scale) & (scale > 0)], colour, dashes
    floor = None
    if report.health.get("floor_known"):
        floor = float(min(report.health["floor"]))
    every = np.concatenate([scale for scale, _, _ in used.values()])
    if not len(every):
        ax.set_axis_off()
        return
    low, high = every.min() / 1.3, every.max() * 1.3
    title = "Scales"
    if floor is not None and floor < low / _FAR:
        title, floor = f"Scales (all far above the floor of {floor:.2g})", None
    elif floor is not None:
        low = min(low, floor / 1.3)
    edges = np.geomspace(low, high, _BINS + 1)
    for name, (scale, colour, dashes) in used.items():
        counts = np.histogram(scale, edges)[0] / max(1, len(scale))
        ax.stairs(counts, edges, color=colour, linestyle=dashes, linewidth=1.8, label=name)
    if floor is not None:
        ax.axvspan(
            low, AT_FLOOR * floor, color=_BLACK, alpha=0.15, linewidth=0, label="at the floor"
        )
    grid = report.floor.get("grid")
    if grid and grid["spacing"] is not None and low < grid["spacing"] < high and not rows.way:
        ax.axvline(grid["spacing"], color=_BLACK, linestyle="-.", linewidth=1.2, label="step of y")
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    unit = {"log": "log of y", "logit": "logit of y"}.get(rows.way, "unit of y")
    ax.set_xlabel(f"scale of the component of each row [{unit}]")
    ax.set_ylabel("share of rows")
    ax.set_title(title)
    ax.margins(y=0.3)
    ax.set_ylim(bottom=0.0)
    ax.legend(loc="upper left", fontsize="small", frameon=False)


def _gains(ax: Axes, report: Any, rows: Rows, train: Rows | None) -> None:
    names = {
        "gain_over_marginal": "ignoring x",
        "gain_over_gaussian": "one Gaussian of\nconstant width",
    }
    if rows.classes:
        names["gain_over_marginal"] = "frequencies of\nthe classes"
    shown = {
        label: report.unit[key]
        for key, label in names.items()
        if key in report.unit and math.isfinite(report.unit[key]["bits"])
    }
    place = np.arange(len(shown))[::-1]
    bits = [gain["bits"] for gain in shown.values()]
    error = [gain["standard_error_nats"] / math.log(2) for gain in shown.values()]
    ax.barh(place, bits, xerr=error, height=0.5, color=_SKY, edgecolor=_BLACK, capsize=4)
    for where, value, size in zip(place, bits, error, strict=True):
        ax.annotate(
            f"{value:+.2f}",
            (max(value + size, 0.0), where),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    ax.axvline(0.0, color=_BLACK, linewidth=1)
    ax.set_yticks(place, list(shown))
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ends = [*(b + e for b, e in zip(bits, error, strict=True)), *bits, 0.0]
    room = _ROOM * (max(ends) - min(ends) or 1.0)
    ax.set_xlim(min(ends) - room, max(ends) + room)
    ax.set_xlabel("gain [bits per row], with its standard error")
    ax.set_title("Against simpler densities, in no unit")

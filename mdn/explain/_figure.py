"""The figure of a report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ._components import AT_FLOOR, components
from ._evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure"]

# distinct for colour-blind readers, and in grey (Okabe and Ito)
_BLUE, _SKY, _ORANGE, _BLACK = "#0072B2", "#56B4E9", "#E69F00", "#000000"

_BINS = 40
_SHOWN = 0.01, 0.99  # quantiles of the losses between which bins are; the end bins hold the rest
_REACH = 6.0  # widths of the peak that are drawn on either side of it
_FAR = 20.0  # times below the smallest scale from which on the floor is not drawn
_MARGIN = 0.25  # of the length of the bars, beyond either end, for the numbers
_HEADROOM = 0.4  # of the height of the data, above them for the legend
_TOP = 1 / (1 + _HEADROOM)  # height of the data in the frame: where vertical lines end
_TAIL = 1e-4  # probability on each side beyond which the density is not drawn


def figure(report: Any, evaluation: Evaluation, train: Evaluation | None) -> Figure:
    """Draws the sharpest density, losses, scales and gains; panels without numbers are left out."""
    from .. import plot

    panels = [_losses]
    if "integral" in report.sign:
        panels.insert(0, _sharpest)
    if evaluation.is_mixture:
        panels.append(_scales)
    if "gain_over_marginal" in report.unit:
        panels.append(_gains)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    drawn, axes = plot.panels(lines, columns, size=(5.5 * columns, 4.0 * lines))
    for panel, ax in zip(panels, axes, strict=False):
        panel(ax, report, evaluation, train)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    drawn.suptitle(report.word, fontweight="bold")
    return drawn


def _sets(evaluation: Evaluation, train: Evaluation | None) -> list[tuple[str, Evaluation, Any]]:
    """Returns label, rows and line style of what the histograms compare."""
    held_out = {"color": _BLUE, "linestyle": "-"}
    if train is None:
        return [("these rows", evaluation, held_out)]
    seen = {"color": _ORANGE, "linestyle": "--"}
    return [("held-out rows", evaluation, held_out), ("training rows", train, seen)]


def _sharpest(ax: Axes, report: Any, evaluation: Evaluation, train: Evaluation | None) -> None:
    sign = report.sign
    row, at, top = sign["sharpest_row"], sign["at"], sign["highest_density"]
    dist = evaluation.dist[row : row + 1]
    low, high = (float(dist.icdf(p)) for p in (_TAIL, 1 - _TAIL))
    # a spike in a broad density would be a line: the axis follows the peak
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


def _losses(ax: Axes, report: Any, evaluation: Evaluation, train: Evaluation | None) -> None:
    sets = _sets(evaluation, train)
    finite = np.concatenate([rows.nll[np.isfinite(rows.nll)] for _, rows, _ in sets])
    low, high = np.quantile(finite, _SHOWN) if len(finite) else (-1.0, 1.0)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    pad = 0.05 * (high - low) or 1.0
    mass = report.sign["measure"] == "mass"  # then no bin reaches below 0
    edges = np.linspace(low - (0.0 if mass else pad), high + pad, _BINS + 1)
    beyond = False
    for name, rows, style in sets:
        inside = np.clip(rows.nll, edges[0], edges[-1])
        beyond |= bool((inside != rows.nll).any())
        counts = np.histogram(inside, edges)[0] / len(inside)
        ax.stairs(counts, edges, linewidth=1.8, label=name, **style)
        mean = float(rows.nll.mean())
        if edges[0] <= mean <= edges[-1]:
            ax.axvline(mean, ymax=_TOP, linewidth=1, alpha=0.7, **style)
    zero = "0: the bound of a probability" if mass else "0: no bound of a density"
    ax.axvline(0.0, ymax=_TOP, color=_BLACK, linestyle=":", linewidth=1.2, label=zero)
    ax.set_xlabel("NLL of a row [nats]" + ("; first and last bin hold the rest" if beyond else ""))
    ax.set_ylabel("share of rows")
    ax.set_title("Loss of each row (thin line: mean)")
    ax.margins(y=_HEADROOM)
    ax.set_ylim(bottom=0.0)
    ax.legend(loc="upper right", fontsize="small", frameon=False)


def _scales(ax: Axes, report: Any, evaluation: Evaluation, train: Evaluation | None) -> None:
    scales = []
    for name, rows, style in _sets(evaluation, train):
        found = components(rows)
        if found is not None:
            scale = found.responsible_scale.min(-1)
            scales.append((name, scale[np.isfinite(scale) & (scale > 0)], style))
    floor = min(report.health["floor"]) if report.health.get("floor_known") else None
    every = np.concatenate([scale for _, scale, _ in scales])
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
    for name, scale, style in scales:
        counts = np.histogram(scale, edges)[0] / max(1, len(scale))
        ax.stairs(counts, edges, linewidth=1.8, label=name, **style)
    if floor is not None:
        look: dict[str, Any] = {
            "color": _BLACK,
            "alpha": 0.15,
            "linewidth": 0,
            "label": "at the floor",
        }
        ax.axvspan(low, AT_FLOOR * floor, ymax=_TOP, **look)
    step = report.floor.get("grid", {}).get("spacing")
    if step is not None and low < step < high and not evaluation.link:
        ax.axvline(step, ymax=_TOP, color=_BLACK, ls="-.", lw=1.2, label="step of y")
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    unit = {"log": "log of y", "logit": "logit of y"}.get(evaluation.link, "unit of y")
    ax.set_xlabel(f"scale of the component of each row [{unit}]")
    ax.set_ylabel("share of rows")
    ax.set_title(title)
    ax.margins(y=_HEADROOM)
    ax.set_ylim(bottom=0.0)
    ax.legend(loc="upper left", fontsize="small", frameon=False)


def _gains(ax: Axes, report: Any, evaluation: Evaluation, train: Evaluation | None) -> None:
    marginal = "frequencies of\nthe classes" if evaluation.is_categorical else "ignoring x"
    names = {"marginal": marginal, "gaussian": "one Gaussian of\nconstant width"}
    gains = {label: report.unit.get(f"gain_over_{key}") for key, label in names.items()}
    shown = {label: gain for label, gain in gains.items() if gain and math.isfinite(gain["bits"])}
    position = np.arange(len(shown))[::-1]
    bits = [gain["bits"] for gain in shown.values()]
    error = [gain["standard_error_nats"] / math.log(2) for gain in shown.values()]
    ax.barh(position, bits, xerr=error, height=0.5, color=_SKY, edgecolor=_BLACK, capsize=4)
    for at, value, size in zip(position, bits, error, strict=True):
        ax.annotate(
            f"{value:+.2f}",
            (max(value + size, 0.0), at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    ax.axvline(0.0, color=_BLACK, linewidth=1)
    ax.set_yticks(position, list(shown))
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ends = [*(b + e for b, e in zip(bits, error, strict=True)), *bits, 0.0]
    margin = _MARGIN * (max(ends) - min(ends) or 1.0)
    ax.set_xlim(min(ends) - margin, max(ends) + margin)
    ax.set_xlabel("gain [bits per row], with its standard error")
    ax.set_title("Gain over simpler densities, without unit")

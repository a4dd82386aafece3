r"""SGD, SGD with momentum and Adam, with and without warm-up and cosine, at an equal budget.

The small network 784-64-32-10 of `mnist-nll` is trained on MNIST by cross-entropy, the NLL of the
class, with three optimisers: stochastic gradient descent (SGD), SGD with momentum 0.9, and Adam.
The learning rate is either constant or follows a schedule over the $T$ steps of the run: a linear
warm-up over the first $W$, a twentieth of them, times a cosine that ends at zero,

$$\eta_t = \eta \min\left(1, \frac{t + 1}{W}\right) \frac{1 + \cos(\pi t / T)}{2}, \quad t = 0,
\dots, T - 1.$$

The budget is equal: the same number of steps, for each seed the same initial weights and
mini-batches, and the same number of learning rates to choose from. The rate with the lowest mean
NLL on 10,000 of the training images, kept back for this choice, is then used on all of them. The
test images choose nothing.

H. Robbins, S. Monro, A stochastic approximation method, Ann. Math. Stat. 22 (1951); I. Sutskever,
J. Martens, G. Dahl, G. Hinton, On the importance of initialization and momentum in deep learning,
ICML (2013); D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR (2015);
I. Loshchilov, F. Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR (2017);
P. Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, arXiv 1706.02677
(2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor, nn

from ._classification import (
    DATA,
    Images,
    chunks,
    evaluate,
    load_images,
    log_probs,
    mean_and_error,
    mlp,
    shuffled,
    train,
)
from ._palette import BLUE, GREEN, VERMILLION

__all__ = ["MINUTES", "DATA", "factor", "run", "report"]

MINUTES = 4.0
HIDDEN = (64, 32)
BATCH, EPOCHS, SEEDS = 100, 3, 3
FAST_BATCH, FAST_EPOCHS, FAST_SEEDS = 50, 4, 1
HELD_OUT = 10000  # training images that choose the learning rate
MOMENTUM = 0.9
WARM_UP = 0.05  # share of the steps
POINTS = 30  # of a curve
CONSTANT, SCHEDULED = SCHEDULES = ("constant", "warm-up and cosine")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters, rate: torch.optim.SGD(parameters, rate, fused=True),
    "momentum": lambda parameters, rate: torch.optim.SGD(
        parameters, rate, momentum=MOMENTUM, fused=True
    ),
    "Adam": lambda parameters, rate: torch.optim.Adam(parameters, rate, fused=True),
}
RATES = {  # steps of a factor of about three
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "momentum": (0.003, 0.01, 0.03, 0.1, 0.3),
    "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
COLOURS = {"SGD": BLUE, "momentum": VERMILLION, "Adam": GREEN}
MARKERS = {"SGD": "o", "momentum": "s", "Adam": "^"}
LINES = {CONSTANT: "--", SCHEDULED: "-"}


def factor(step: int, steps: int) -> float:
    """Returns the learning rate of a step, from 0, of the schedule, relative to its peak."""
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    return rise * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    data: str | None = None,
) -> dict[str, Any]:
    """Chooses the rates and trains with every optimiser; draws 1_curves.png and 2_rates.png."""
    progress("loading images")
    images = load_images(data, fast, normalise=True)
    batch, epochs = (FAST_BATCH, FAST_EPOCHS) if fast else (BATCH, EPOCHS)
    seeds = [seed + i for i in range(FAST_SEEDS if fast else SEEDS)]
    held_out = min(HELD_OUT, len(images.y) // 5)
    parts = images._replace(x=images.x[:-held_out], y=images.y[:-held_out],
                            x_test=images.x[-held_out:], y_test=images.y[-held_out:])  # fmt: skip
    cells = []
    for name, rates in RATES.items():
        tried = list(rates[1:-1] if fast else rates)
        for schedule in SCHEDULES:
            validation = []
            for rate in tried:
                progress(f"{name}, {schedule}: rate {rate:g}")
                runs = [_one(parts, name, schedule, rate, s, batch, epochs, False) for s in seeds]
                validation.append(float(np.mean([r["test_nll"] for r in runs])))
            rate = tried[int(np.nanargmin(validation))]  # NaN: training diverged
            progress(f"{name}, {schedule}: rate {rate:g} chosen")
            runs = [_one(images, name, schedule, rate, s, batch, epochs) for s in seeds]
            cells.append(
                {
                    "optimizer": name,
                    "schedule": schedule,
                    "rates": tried,
                    "validation": validation,
                    "rate": rate,
                    "runs": {key: [r[key] for r in runs] for key in runs[0]},
                }
            )
    steps = epochs * math.ceil(len(images.y) / batch)
    numbers = {
        "data": images.name,
        "notice": images.notice,
        "rows": len(images.y),
        "held_out": held_out,
        "test_rows": len(images.y_test),
        "batch": batch,
        "epochs": epochs,
        "steps": steps,
        "point": _point(steps),
        "seeds": seeds,
        "cells": cells,
    }
    if out is not None:
        _draw_curves(numbers).savefig(out / "1_curves.png", dpi=110)
        _draw_rates(numbers).savefig(out / "2_rates.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the scores, and what the schedule changes, in Markdown."""
    cells, seeds = numbers["cells"], len(numbers["seeds"])
    lines = [numbers["notice"] + ".\n"] if numbers["notice"] else []
    lines += [
        f"{numbers['rows']} training and {numbers['test_rows']} test images of {numbers['data']}, "
        f"{numbers['steps']} steps with mini-batches of {numbers['batch']} ({numbers['epochs']} "
        f"epochs), {seeds} seed{'s' if seeds > 1 else ''}; NLL in nats at the end, mean ± standard "
        f"error; the learning rate is chosen from {len(cells[0]['rates'])} by the NLL of "
        f"{numbers['held_out']} training images:",
        "",
        "| optimiser | learning rate | chosen | training NLL | test NLL | test accuracy (%) | "
        "lowest test NLL (step) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        test = np.mean(cell["runs"]["test"], 0)
        best = int(test.argmin())
        shown = [
            cell["optimizer"],
            cell["schedule"],
            f"{cell['rate']:g}",
            _show(cell["runs"]["training_nll"], 4),
            _show(cell["runs"]["test_nll"], 4),
            _show(cell["runs"]["accuracy"], 2),
            f"{test[best]:.4f} ({(best + 1) * numbers['point']})",
        ]
        lines.append(f"| {' | '.join(shown)} |")
    first, second = sorted(cells, key=lambda cell: float(np.mean(cell["runs"]["test_nll"])))[:2]
    lines += [
        "",
        f"The lowest test NLL is that of {_name(first)}; that of {_name(second)} is higher by "
        f"{_show(_difference(second, first, 'test_nll'), 4)} (paired by seed).",
        "",
    ]
    for name in RATES:
        constant, scheduled = (_cell(cells, name, schedule) for schedule in SCHEDULES)
        change, gain = (
            _show(_difference(scheduled, constant, key), places, "+")
            for key, places in (("test_nll", 4), ("accuracy", 2))
        )
        lines.append(
            f"- {name}: with warm-up and cosine in place of a constant rate the test NLL changes "
            f"by {change} and the accuracy by {gain} points (paired by seed)."
        )
    edges = [_name(c) for c in cells if c["rate"] in (c["rates"][0], c["rates"][-1])]
    lines += [
        "",
        f"At the edge of the rates that were tried: {', '.join(edges)}."
        if edges
        else "No chosen rate is at the edge of those that were tried.",
    ]
    return "\n".join(lines)


def _one(
    images: Images,
    name: str,
    schedule: str,
    rate: float,
    seed: int,
    batch: int,
    epochs: int,
    curves: bool = True,
) -> dict[str, Any]:
    """Trains a network; returns its losses over the steps, and its scores at the end.

    Without ``curves`` only the test images are scored, at the end.
    """
    net = mlp((images.x.shape[1], *HIDDEN, 10), seed)
    optimizer = OPTIMIZERS[name](net.parameters(), rate)
    steps = epochs * math.ceil(len(images.y) / batch)
    point = _point(steps)
    test: list[float] = []

    def before_step(step: int) -> None:
        if curves and step and step % point == 0:
            test.append(_nll(net, images.x_test, images.y_test))
        if schedule == SCHEDULED:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(step, steps)

    orders = shuffled(len(images.y), epochs, seed)
    losses = train(net, images.x, images.y, nn.CrossEntropyLoss(), optimizer, batch=batch,
                   orders=orders, before_step=before_step)  # fmt: skip
    accuracy, nll = evaluate(net, images)
    if not curves:
        return {"test_nll": nll}
    if steps % point == 0:  # the last step is also a point
        test.append(nll)
    return {
        "training": chunks(losses, point),
        "test": test,
        "training_nll": _nll(net, images.x, images.y),
        "test_nll": nll,
        "accuracy": 100 * accuracy,
    }


def _nll(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(nn.functional.nll_loss(log_probs(net, x), y))


def _point(steps: int) -> int:
    """The number of steps between two points of a curve."""
    return max(1, steps // POINTS)


def _cell(cells: list[dict[str, Any]], name: str, schedule: str) -> dict[str, Any]:
    return next(c for c in cells if (c["optimizer"], c["schedule"]) == (name, schedule))


def _difference(a: dict[str, Any], b: dict[str, Any], key: str) -> list[float]:
    """Returns the score of cell a minus that of b, one for each seed."""
    return np.subtract(a["runs"][key], b["runs"][key]).tolist()


def _name(cell: dict[str, Any]) -> str:
    return f"{cell['optimizer']} ({cell['schedule']})"


def _show(values: list[float], places: int, sign: str = "") -> str:
    value = mean_and_error(values)
    return f"{value['mean']:{sign}.{places}f} ± {value['error']:.{places}f}"


def _log_axis(ax: Axes) -> None:
    """Gives y a logarithmic scale with plain numbers at 1, 2 and 5 of each power of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_curves(numbers: dict[str, Any]) -> Figure:
    """Draws training and test NLL over the steps."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, key, title in zip(
        axes,
        ("training", "test"),
        (f"training: mean of {numbers['point']} mini-batches", "test"),
        strict=True,
    ):
        for cell in numbers["cells"]:
            y = np.mean(cell["runs"][key], 0)
            x = numbers["point"] * np.arange(1, len(y) + 1)
            ax.plot(x, y, LINES[cell["schedule"]], lw=1.6, color=COLOURS[cell["optimizer"]],
                    label=_name(cell))  # fmt: skip
        ax.set(xlabel=f"steps (mini-batches of {numbers['batch']} images)", title=title)
        _log_axis(ax)
    axes[0].set_ylabel("negative log-likelihood (nats)")
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )
    return figure


def _draw_rates(numbers: dict[str, Any]) -> Figure:
    """Draws the NLL by which the rates are chosen, and the schedule."""
    figure = Figure(figsize=(10, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for cell in numbers["cells"]:
        colour, name = COLOURS[cell["optimizer"]], cell["optimizer"]
        left.plot(cell["rates"], cell["validation"], MARKERS[name] + LINES[cell["schedule"]],
                  color=colour, ms=5, label=_name(cell))  # fmt: skip
        left.plot([cell["rate"]], [np.nanmin(cell["validation"])], "o", ms=12, mfc="none",
                  color=colour)  # fmt: skip
    left.plot([], [], "o", ms=12, mfc="none", color="0.4", label="chosen")
    left.set(xlabel="learning rate (of the schedule: its peak)", xscale="log",
             ylabel=f"NLL of {numbers['held_out']} held-out\ntraining images (nats)")  # fmt: skip
    _log_axis(left)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )
    steps = numbers["steps"]
    right.plot([factor(step, steps) for step in range(steps)], color="0.2")
    right.plot([0, steps], [1, 1], "--", color="0.5")
    right.set(xlabel="steps", ylabel="learning rate / peak", ylim=(0, 1.08), title="the schedule")
    return figure

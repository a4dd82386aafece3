r"""The negative log-likelihood of a classifier approaches zero during training but is never below.

A network 784-64-32-10 with a final `LogSoftmax` is trained on MNIST by `NLLLoss`: Adam with
learning rate 1e-4, batches of 10, five epochs, `torch.manual_seed(42)`, pixels between 0 and 1
(torchvision's `ToTensor`). The published run prints the mean loss of every 500 mini-batches: 1.987
after the first 500, 0.193 after the last of the fifth epoch.

This is that run: the same initial weights, and the images in the order in which torch's
`DataLoader(shuffle=True)` draws them, without torchvision. At the start of each epoch the loader
takes two numbers from torch's default generator, a base seed for its workers and the seed of the
permutation; who leaves out the first of them gets another order and other losses. Means are
compared in the three decimals that are printed.

The lower bound applies to every run. The output is a probability *mass*: $p_t \le 1$, so $-\log p_t
\ge 0$ for each image, and a loss below zero would be a bug. The loss of a *density*, from the same
training loop with another head, has no such bound (see `negative-nll`).

`LogSoftmax` with `NLLLoss` is `-dist.log_prob(y).mean()` of a categorical distribution, the form of
every loss in `mdn`; `mdn.CategoricalHead` with the weights of the trained layer gives the same
number.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition,
Proc. IEEE 86 (1998).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import mdn

from ._classification import (
    DATA,
    chunks,
    evaluate,
    load_images,
    loader_orders,
    log_probs,
    mlp,
    repeated,
    train,
)
from ._palette import BLACK, BLUE, VERMILLION

__all__ = ["MINUTES", "DATA", "PRINTED", "run", "report"]

MINUTES = 0.5
SEED = 42  # of the published run; the seed of this run is added
HIDDEN = (64, 32)
RATE, BATCH, EPOCHS = 1e-4, 10, 5
DIGITS_PASSES = 4  # over scikit-learn's few digits in one epoch
POINT = 500  # mini-batches whose mean loss is one point of the curve
PUBLISHED = {"first": 1.987, "last": 0.193}  # means of 500 mini-batches, three decimals
# What the published program prints, a line for each epoch; run with torch.utils.data.DataLoader.
PRINTED = (
    (1.987, 1.118, 0.699, 0.561, 0.490, 0.451, 0.420, 0.409, 0.402, 0.374, 0.368, 0.340),
    (0.315, 0.337, 0.316, 0.312, 0.290, 0.322, 0.288, 0.293, 0.294, 0.291, 0.294, 0.270),
    (0.265, 0.287, 0.255, 0.266, 0.254, 0.255, 0.262, 0.245, 0.249, 0.242, 0.242, 0.239),
    (0.232, 0.247, 0.233, 0.228, 0.205, 0.220, 0.232, 0.210, 0.217, 0.202, 0.227, 0.218),
    (0.200, 0.206, 0.210, 0.193, 0.196, 0.208, 0.205, 0.184, 0.179, 0.184, 0.190, 0.193),
)


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    data: str | None = None,
) -> dict[str, Any]:
    """Trains the network and compares it with the published run; draws loss.png."""
    progress("loading images")
    images = repeated(load_images(data, fast), DIGITS_PASSES)
    point = POINT if len(images.y) >= POINT * BATCH else len(images.y) // BATCH // 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED + seed)
        net = mlp((images.x.shape[1], *HIDDEN, 10), None, nn.LogSoftmax(-1))
        orders = list(loader_orders(len(images.y), EPOCHS))
    optimizer = torch.optim.Adam(net.parameters(), RATE)  # fused, it rounds otherwise
    accuracy, test_nll = [], []

    def after_epoch(epoch: int) -> None:
        share, nll = evaluate(net, images)
        accuracy.append(share)
        test_nll.append(nll)
        progress(f"epoch {epoch} of {EPOCHS}")

    losses = train(net, images.x, images.y, nn.NLLLoss(), optimizer, batch=BATCH, orders=orders,
                   after_epoch=after_epoch)  # fmt: skip
    epochs = np.split(losses, EPOCHS)
    log_p = log_probs(net, images.x_test)
    row_nll = -log_p[torch.arange(len(log_p)), images.y_test]
    numbers = {
        "data": images.name,
        "notice": images.notice,
        "seed": SEED + seed,
        "rows": len(images.y),
        "point": point,
        "curve": [chunks(part, point) for part in epochs],
        "last": [float(part[-point:].mean()) for part in epochs],
        "smallest_batch": float(losses.min()),
        "smallest_row": float(row_nll.min()),
        "accuracy": accuracy,
        "test_nll": test_nll,
        "test_rows": len(images.y_test),
        "head_nll": _by_head(net, images.x_test, images.y_test),
    }
    if out is not None:
        _draw(numbers).savefig(out / "loss.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the losses, and whether they agree with the published ones, in Markdown."""
    curve, point = numbers["curve"], numbers["point"]
    lines = [numbers["notice"] + ".\n"] if numbers["notice"] else []
    passes = f" ({DIGITS_PASSES} passes)" if numbers["data"] == "digits" else ""
    epochs = range(1, len(curve) + 1)
    lines += [
        f"Mean training loss (nats) of every {point} mini-batches of {BATCH} of "
        f"{numbers['rows']} images{passes}, and scores on {numbers['test_rows']} test images at "
        "the end of each epoch:",
        "",
        f"| mini-batch | {' | '.join(f'epoch {epoch}' for epoch in epochs)} |",
        "|---|" + "---:|" * len(curve),
    ]
    for j, means in enumerate(zip(*curve, strict=True)):
        lines.append(f"| {(j + 1) * point} | {' | '.join(f'{v:.3f}' for v in means)} |")
    lines += [
        f"| test NLL | {' | '.join(f'{v:.3f}' for v in numbers['test_nll'])} |",
        f"| test accuracy | {' | '.join(f'{v:.2%}' for v in numbers['accuracy'])} |",
        "",
        _verdict(numbers),
    ]
    smallest = min(numbers["smallest_batch"], numbers["smallest_row"])
    difference = abs(numbers["head_nll"] - numbers["test_nll"][-1])
    lines += [
        "",
        f"**Lower bound**: the smallest loss of a mini-batch is {numbers['smallest_batch']:.2g}, "
        f"that of a test image {numbers['smallest_row']:.2g}. "
        + ("None is negative." if smallest >= 0 else "**One is negative: this is a bug.**"),
        "",
        "With the same layers and `mdn.CategoricalHead`, `-dist.log_prob(y).mean()` is "
        f"{numbers['head_nll']:.6f}, which differs from `NLLLoss` by {difference:.1e}.",
    ]
    return "\n".join(lines)


def _verdict(numbers: dict[str, Any]) -> str:
    """Returns a sentence on the agreement with the published run."""
    if not _comparable(numbers):
        return (
            f"Not compared with the published run, which has all images of MNIST and seed {SEED}."
        )
    first, last = numbers["curve"][0][0], numbers["last"][-1]
    same = f"{first:.3f}" == f"{PUBLISHED['first']:.3f}"
    same &= f"{last:.3f}" == f"{PUBLISHED['last']:.3f}"
    means = [f"{v:.3f}" for epoch in numbers["curve"] for v in epoch]
    printed = [f"{v:.3f}" for epoch in PRINTED for v in epoch]
    equal = sum(a == b for a, b in zip(means, printed, strict=True))
    return (
        f"**{'Reproduced' if same else 'Not reproduced'}**: {first:.3f} after the first {POINT} "
        f"mini-batches and {last:.3f} after the last (published: {PUBLISHED['first']:.3f} and "
        f"{PUBLISHED['last']:.3f}). Of the {len(means)} means that the published program prints "
        f"when it is run with torch's `DataLoader`, {equal} are equal in all three decimals."
        + ("" if equal == len(means) else " Another processor or another number of threads adds "
           "in another order, which may change the last decimal.")
    )  # fmt: skip


def _comparable(numbers: dict[str, Any]) -> bool:
    """Whether the run has the images and the seed of the published one."""
    return numbers["data"] == "mnist" and numbers["rows"] == 60000 and numbers["seed"] == SEED


def _by_head(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Returns the test NLL with the last linear layer in ``mdn.CategoricalHead``."""
    layers = list(net.children())
    body, linear = nn.Sequential(*layers[:-2]), layers[-2]
    head = mdn.CategoricalHead(linear.in_features, linear.out_features)
    head.linear.load_state_dict(linear.state_dict())
    with torch.no_grad():
        return float(-head(body(x)).log_prob(y).mean())


def _draw(numbers: dict[str, Any]) -> Figure:
    """Draws the training loss over mini-batches, the test loss, and the lower bound."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    ax = figure.subplots()
    point, steps = numbers["point"], numbers["rows"] // BATCH
    x, y = [], []
    for i, points in enumerate(numbers["curve"]):
        x += [i * steps + (j + 1) * point for j in range(len(points))]
        y += points
    ax.plot(x, y, "o-", ms=3, color=BLUE, label=f"training, mean of {point} mini-batches")
    ends = [(i + 1) * steps for i in range(EPOCHS)]
    ax.plot(ends, numbers["test_nll"], "s", color=VERMILLION, label="test, after an epoch")
    if _comparable(numbers):
        ax.plot([point, EPOCHS * steps], [*PUBLISHED.values()], "x", ms=10, mew=2, color=BLACK,
                label="published", zorder=3)  # fmt: skip
    ax.axhline(0, color="0.3", lw=1.2)
    ax.annotate("a probability is at most 1: no loss below this line", (0.99, 0), (0, -5),
                xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="top", fontsize=9)  # fmt: skip
    top = max(y[0], math.log(10))
    ax.axhline(math.log(10), color="0.6", lw=0.8, ls=":")
    ax.annotate("log 10: all digits equally likely", (0.99, math.log(10)), (0, -3),
                xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="top", fontsize=9, color="0.35")  # fmt: skip
    ax.set(xlabel=f"mini-batches of {BATCH} images", ylabel="negative log-likelihood (nats)")
    ax.set_ylim(-0.12 * top, 1.05 * top)
    ax.legend(frameon=False, loc="center right")
    return figure

r"""Wrong training labels: robust losses and a model of the label noise, compared with plain NLL.

A share $\varepsilon$ of the training labels is replaced by one of the nine other classes at random.
The NLL of a row grows without bound as $p_t$ goes to 0, so these rows have the largest weight in
the loss, and a sufficiently large network memorises them. Two remedies modify the likelihood:

**A deformed logarithm.** With Tsallis' q-logarithm the loss is

$$\ell_q = -\ln_q p_t = \frac{1 - p_t^{1 - q}}{1 - q}, \qquad \ell_1 = -\log p_t .$$

Its gradient is that of the NLL times $p_t^{1 - q}$, so that a row whose label has a very low
probability under the model has a very low weight; for $q = 0$ the loss is the probability of a
wrong class. The disadvantage: a class with a low probability at the start of training is learnt
late or never, in particular for small $q$. The expected loss is minimal at $p \propto \pi^{1/q}$,
so that for $q > 0$ the true $\pi$ can be recovered.

**A model of the label noise.** If a label is wrong with probability $\varepsilon$, the *observed*
label has the probability

$$\tilde p_t = (1 - \varepsilon)\, p_t + \frac{\varepsilon}{C - 1} (1 - p_t),$$

and its NLL is minimised over the weights and $\varepsilon$ together. Only the form of the noise is
assumed; the share of wrong labels is estimated.

The form is that of Kanamori (2010), who deforms the likelihood in general and derives a model of
mislabelling and a robust loss from it, for boosting. For networks the q-family is the generalised
cross-entropy of Zhang and Sabuncu (2018; their $q$ is $1 - q$ here). This experiment does not
reproduce either paper.

A network 784-128-10 is trained on 10,000 images: Adam with rate 1e-3, batches of 128, 20 epochs,
the same for every loss; three seeds for the noise, the initial weights and the batches. The values
of $q$ were fixed in advance and all are reported; the numbers of images and epochs were chosen by
running time, after a trial with one seed. The test labels are clean, and the choice of a loss does
not use them: the "chosen" loss has the best accuracy on 5,000 held-out images with the same share
of wrong labels as in training, averaged over the seeds.

T. Kanamori, Deformation of log-likelihood loss function for multiclass boosting, Neural Networks 23
(2010); Z. Zhang, M. R. Sabuncu, Generalized cross entropy loss for training deep neural networks
with noisy labels, NeurIPS (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mdn.functional import deformed_nll_loss, nll_ratio_loss

from ._classification import (
    DATA,
    Images,
    load_images,
    log_probs,
    mean_and_error,
    mlp,
    shuffled,
    train,
)
from ._palette import BLACK, BLUE, GREEN, PURPLE, SKY_BLUE, VERMILLION

__all__ = ["MINUTES", "DATA", "Mislabelling", "flip", "report", "run"]

MINUTES = 4.0
CLASSES = 10
RATES = (0.0, 0.2, 0.4)  # shares of flipped labels
QS = (0.7, 0.5, 0.3, 0.0)
HIDDEN = (128,)
TRAINING, HELD_OUT = 10000, 5000  # images
RATE, BATCH, EPOCHS, SEEDS = 1e-3, 128, 20, 3
FAST_BATCH, FAST_EPOCHS, FAST_SEEDS = 64, 10, 1
INITIAL_SHARE = 0.1  # of wrong labels, before training
SHARE_RATE = 1e-2  # learning rate of its logit: a single parameter, so larger than RATE
NLL, MODEL = "NLL", "mislabelling"
LOSSES = (NLL, *(f"q = {q:g}" for q in QS), MODEL)
COLOURS = dict(zip(LOSSES, (BLACK, BLUE, SKY_BLUE, GREEN, VERMILLION, PURPLE), strict=True))
MARKERS = dict(zip(LOSSES, "osD^vX", strict=True))


class Mislabelling(nn.Module):
    """NLL of the observed label, where a label is wrong with a probability to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(math.log(INITIAL_SHARE / (1 - INITIAL_SHARE))))

    @property
    def share(self) -> Tensor:
        """The probability that a label is wrong."""
        return self.logit.sigmoid()

    def rows(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the NLL of each row, from log odds, which are accurate for p near 0 and 1."""
        odds = nll_ratio_loss(logits, target, reduction="none")
        right = F.logsigmoid(-self.logit) + F.logsigmoid(-odds)
        wrong = F.logsigmoid(self.logit) - math.log(logits.shape[-1] - 1) + F.logsigmoid(odds)
        return -torch.logaddexp(right, wrong)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the mean NLL."""
        return self.rows(logits, target).mean()


def flip(y: Tensor, rate: float, seed: int, classes: int = CLASSES) -> Tensor:
    """Returns labels of which this share, rounded, is replaced by a random other class."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randperm(len(y), generator=generator)[: round(rate * len(y))]
    noisy = y.clone()
    step = torch.randint(1, classes, (len(which),), generator=generator)
    noisy[which] = (y[which] + step) % classes
    return noisy


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    data: str | None = None,
) -> dict[str, Any]:
    """Trains with every loss, noise rate and seed; draws accuracy.png and losses.png."""
    progress("loading images")
    images = load_images(data, fast, normalise=True)
    held_out = min(HELD_OUT, len(images.y) // 5)
    training = min(TRAINING, len(images.y) - held_out)
    sizes = (training, held_out)
    seeds = [seed + i for i in range(FAST_SEEDS if fast else SEEDS)]
    epochs, batch = (FAST_EPOCHS, FAST_BATCH) if fast else (EPOCHS, BATCH)
    cells = []
    for rate in RATES:
        for name in LOSSES:
            progress(f"{rate:.0%} flipped: {name}")
            runs = [_one(images, sizes, rate, name, s, batch, epochs) for s in seeds]
            cell = {key: [r[key] for r in runs] for key in runs[0]}
            cells.append({"rate": rate, "loss": name, "runs": cell})
    numbers = {
        "data": images.name,
        "notice": images.notice,
        "training": training,
        "held_out": held_out,
        "test_rows": len(images.y_test),
        "seeds": seeds,
        "epochs": epochs,
        "cells": cells,
        "chosen": {f"{rate:g}": _chosen(cells, rate) for rate in RATES},
    }
    if out is not None:
        _draw(numbers).savefig(out / "accuracy.png", dpi=110)
        _draw_losses().savefig(out / "losses.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns accuracy, share of memorised wrong labels, and the estimated noise, in Markdown."""
    lines = [numbers["notice"] + ".\n"] if numbers["notice"] else []
    lines += [
        f"{numbers['training']} training and {numbers['test_rows']} test images, "
        f"{numbers['epochs']} epochs, {len(numbers['seeds'])} "
        f"seed{'s' if len(numbers['seeds']) > 1 else ''}; mean ± standard error. A star marks the "
        f"loss chosen on {numbers['held_out']} held-out images with noisy labels.",
        "",
        "**Test accuracy (%)**, clean labels",
        "",
        *_table(numbers, "accuracy", RATES, star=True),
        "",
        "**Memorised wrong labels (%)**: training images with a flipped label for which the "
        "network predicts this label",
        "",
        *_table(numbers, "by_heart", RATES[1:]),
        "",
    ]
    for rate in RATES[1:]:
        lines.append(_verdict(numbers, rate))
    shares = [
        f"{_cell(numbers['cells'], rate, MODEL)['share']['mean']:.1%} "
        f"(± {_cell(numbers['cells'], rate, MODEL)['share']['error']:.1%}) for {rate:.0%}"
        for rate in RATES
    ]
    low = any(_cell(numbers["cells"], r, MODEL)["share"]["mean"] < r for r in RATES)
    lines += [
        "",
        f"The model of mislabelling estimates the share of wrong labels: {', '.join(shares)}."
        + (
            " Where the estimate is too low, the network has memorised wrong labels, which then "
            "have a high probability."
            if low
            else ""
        ),
    ]
    return "\n".join(lines)


def _one(
    images: Images,
    sizes: tuple[int, int],
    rate: float,
    name: str,
    seed: int,
    batch: int,
    epochs: int,
) -> dict[str, float]:
    """Trains and tests one network; the noise of a seed is the same for every loss."""
    training, held_out = sizes
    order = torch.randperm(len(images.y), generator=torch.Generator().manual_seed(seed))
    rows, others = order[:training], order[training : training + held_out]
    x, clean = images.x[rows], images.y[rows]
    noisy = flip(clean, rate, seed)
    net = mlp((x.shape[1], *HIDDEN, CLASSES), seed)
    loss: Any = F.cross_entropy
    groups: list[dict[str, Any]] = [{"params": net.parameters()}]
    if name == MODEL:
        loss = Mislabelling()
        groups.append({"params": loss.parameters(), "lr": SHARE_RATE})
    elif name != NLL:
        q = QS[LOSSES.index(name) - 1]

        def loss(logits: Tensor, target: Tensor) -> Tensor:
            return deformed_nll_loss(logits, target, q)

    optimizer = torch.optim.Adam(groups, RATE, fused=True)
    train(net, x, noisy, loss, optimizer, batch=batch, orders=shuffled(len(noisy), epochs, seed))
    predicted = log_probs(net, x).argmax(-1)
    wrong = noisy != clean
    validation = flip(images.y[others], rate, seed + 1000)
    return {
        "accuracy": _percent(log_probs(net, images.x_test).argmax(-1) == images.y_test),
        "validation": _percent(log_probs(net, images.x[others]).argmax(-1) == validation),
        "by_heart": _percent((predicted == noisy)[wrong]) if rate else 0.0,
        "share": loss.share.item() if name == MODEL else 0.0,
    }


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())


def _cell(cells: list[dict[str, Any]], rate: float, name: str) -> dict[str, dict[str, float]]:
    """Returns mean and standard error of every score of a loss at a noise rate."""
    (runs,) = [c["runs"] for c in cells if c["rate"] == rate and c["loss"] == name]
    return {key: mean_and_error(values) for key, values in runs.items()}


def _chosen(cells: list[dict[str, Any]], rate: float) -> str:
    """Returns the loss with the best accuracy on the held-out noisy labels; the first of a tie."""
    return max(LOSSES, key=lambda name: _cell(cells, rate, name)["validation"]["mean"])


def _table(
    numbers: dict[str, Any], key: str, rates: tuple[float, ...], star: bool = False
) -> list[str]:
    lines = [
        "| loss | " + " | ".join(f"{rate:.0%} flipped" for rate in rates) + " |",
        "|---|" + "---:|" * len(rates),
    ]
    for name in LOSSES:
        shown = []
        for rate in rates:
            it = _cell(numbers["cells"], rate, name)[key]
            mark = " *" if star and numbers["chosen"][f"{rate:g}"] == name else ""
            shown.append(f"{it['mean']:.2f} ± {it['error']:.2f}{mark.replace('*', chr(92) + '*')}")
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def _verdict(numbers: dict[str, Any], rate: float) -> str:
    """Returns a sentence that compares the chosen and the best loss with NLL."""
    cells, chosen = numbers["cells"], numbers["chosen"][f"{rate:g}"]
    mean = {name: _cell(cells, rate, name)["accuracy"]["mean"] for name in LOSSES}
    best = max(LOSSES, key=mean.__getitem__)
    worse = [name for name in LOSSES[1:] if mean[name] < mean[NLL]]
    text = (
        f"With {rate:.0%} flipped labels {chosen} is chosen, {mean[chosen] - mean[NLL]:+.2f} "
        "points compared with NLL"
    )
    text += "; no loss has a better test accuracy." if best == chosen else (
        f"; the best test accuracy has {best}, {mean[best] - mean[NLL]:+.2f} points."
    )  # fmt: skip
    return text + (f" Worse than NLL: {', '.join(worse)}." if worse else "")


def _draw(numbers: dict[str, Any]) -> Figure:
    """Draws accuracy and share of memorised wrong labels over the share of flipped labels."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = ("test accuracy, clean labels (%)", "memorised wrong labels (%)")
    panels = zip(axes, ("accuracy", "by_heart"), (RATES, RATES[1:]), labels, strict=True)
    for ax, key, rates, label in panels:
        for i, name in enumerate(LOSSES):
            cells = [_cell(numbers["cells"], rate, name)[key] for rate in rates]
            x = 100 * np.array(rates) + 0.35 * (i - (len(LOSSES) - 1) / 2)  # side by side
            ax.errorbar(x, [c["mean"] for c in cells], [c["error"] for c in cells],
                        fmt=MARKERS[name] + "-", ms=6, lw=1.2, capsize=2, color=COLOURS[name],
                        label=name)  # fmt: skip
        ax.set(xlabel="flipped training labels (%)", ylabel=label)
        ax.set_xticks([100 * rate for rate in rates])
    axes[1].set_xlim(15, 45)
    axes[1].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6,
                  frameon=False)  # fmt: skip
    return figure


def _draw_losses() -> Figure:
    """Draws the losses and their gradients in the logit of the label over its probability."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = torch.linspace(0.002, 0.998, 400, dtype=torch.float64)
    # the nine other classes share the rest
    logits = torch.cat([p.log()[:, None], ((1 - p) / (CLASSES - 1)).log()[:, None].expand(-1, 9)],
                       1).requires_grad_()  # fmt: skip
    target = torch.zeros(len(p), dtype=torch.long)
    model = Mislabelling().double()
    model.logit.data.fill_(math.log(0.2 / 0.8))

    def row_losses(name: str) -> Tensor:
        if name == MODEL:
            return model.rows(logits, target)
        q = 1.0 if name == NLL else QS[LOSSES.index(name) - 1]
        return deformed_nll_loss(logits, target, q, reduction="none")

    for i, name in enumerate(LOSSES):
        loss = row_losses(name)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        label = f"{name}, 20 % wrong" if name == MODEL else name
        style = {"color": COLOURS[name], "ls": ("-", "--", "-.")[i % 3], "lw": 1.8}
        left.plot(p, loss.detach(), label=label, **style)
        right.plot(p, -gradient[:, 0], **style)
    left.set(xlabel="probability of the label", ylabel="loss", ylim=(0, 5), xlim=(0, 1))
    right.set(xlabel="probability of the label", ylabel="size of the gradient in its logit")
    right.set_xlim(0, 1)
    right.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=9)
    return figure

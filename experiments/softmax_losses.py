r"""CrossEntropyLoss, NLLLoss, softmax and log-sum-exp: both sides of every identity, computed.

Let $a$ be the logits of $C$ classes, $p = \mathrm{softmax}(a)$ and $t$ the index of the true class.
`CrossEntropyLoss` takes $a$ and computes what `NLLLoss` computes from `LogSoftmax`,

$$\ell(a, t) = -\log p_t = \log \sum_j e^{a_j} - a_t .$$

In tensors this is `-logp[range(N), y].mean()`: `NLLLoss` takes no logarithm, it picks one entry a
row. Likelihoods of other kinds (mixtures, logistic regression, priors, counts) are in
[log-likelihood](log-likelihood.md).

**Means.** With weights $w_c$ of the classes the mean over rows is $\sum_n w_{t_n} \ell_n / \sum_n
w_{t_n}$: the weights are in the denominator too, and rows with the target `ignore_index` (by
default -100) are in neither sum.

**The gradient.** The derivative of $\log \sum_j e^{a_j}$ with respect to $a_i$ is $e^{a_i}
/ \sum_j e^{a_j} = p_i$, and that of $a_t$ is 1 for $i = t$ and 0 otherwise. With the one-hot target
$y$, $\partial \ell / \partial a = p - y$: bounded, and 0 only where the prediction is right.

**Numerical stability.** `-(y * softmax(a).log()).sum()` is the same formula but not stable. In
float32 a class whose logit is more than 104 below the largest one (87 if subnormal numbers are
rounded to 0) has $p = 0$ and $\log p = -\infty$. If this is the true class, the loss is infinite
and its gradient NaN; if it is a wrong class, the sum contains $0 \cdot (-\infty)$, which is NaN, so
the loss is NaN where the model is *right* with high confidence. The gradient fails earlier, because
$1 / p$ overflows from a difference of 89 on. A constant inside the logarithm, `log(p + 1e-9)`,
hides the error: the loss stops growing, and the gradient vanishes where it should be largest.
`log_softmax` computes $a_t - \log \sum_j e^{a_j}$ after subtracting the largest logit, and does not
take the logarithm of a probability that has been rounded to 0.

**Unbalanced classes.** Where 5 % of the rows are of one class, the likeliest class is hardly ever
that one. Weights of the classes that are inverse to their frequencies move the border: they add the
log of the ratio of the weights to the log-odds. More of the rare class is found (recall), at the
price of false alarms and of probabilities that are too high; subtracting the log of that ratio from
the logits gives the probabilities back. Here both classes are normal, two scales apart, so that the
recall is known: $\Phi(\delta / 2 + \log(r) / \delta)$, with the distance $\delta$ and the odds
$r$ of the rare class after weighting.

**A loss that falls with an accuracy of 1.** Where the classes are separable, the loss goes on
falling after every row is right: the weights grow, and with them the log-odds of the true class,
about as the logarithm of the number of steps. The loss measures probabilities and the accuracy only
their order.

C. M. Bishop, *Pattern Recognition and Machine Learning*, sections 1.2.5 and 4.3 (2006);
J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, in
*Neurocomputing* (1990); D. Soudry, E. Hoffer, M. S. Nacson, S. Gunasekar, N. Srebro, The implicit
bias of gradient descent on separable data, J. Mach. Learn. Res. 19 (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import special
from torch import Tensor

from ._identities import (
    SHAPES,
    Row,
    by_hand,
    classes,
    entropy,
    gradient,
    indexing,
    summary,
    table,
)
from ._imbalance import at_perfect_accuracy, unbalanced
from ._palette import BLUE, GREEN, GREY, VERMILLION

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 0.2
DATA = "none (the iris data are part of scikit-learn)"

ROWS, FAST_ROWS = 4096, 256
STEPS, FAST_STEPS = 20_000, 500  # of gradient descent on separable classes
GAPS = (0.0, 20.0, 60.0, 90.0, 100.0, 110.0, 150.0)  # differences of two logits
EPSILON = 1e-9  # of the usual but wrong remedy

_SHAPES_NOTE = f" (of the target shapes {'; '.join(SHAPES)} the one that differs most)"
_PARTS = {
    "indexing": "NLLLoss is an index, and ignore_index",
    "classes": "CrossEntropyLoss and NLLLoss",
    "gradient": "The gradient is p - y",
    "entropy": "Cross-entropy = entropy + Kullback-Leibler divergence",
    "unbalanced": "Weights of unbalanced classes",
}


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Computes both sides of every identity; draws four figures."""
    generator = torch.Generator().manual_seed(seed)
    rows = FAST_ROWS if fast else ROWS
    weighted: dict[str, Any] = {}

    def of_weights() -> list[Row]:
        found, numbers = unbalanced(rows, seed)
        weighted.update(numbers)
        return found

    parts: dict[str, Callable[[], Any]] = {
        "indexing": lambda: indexing(rows, generator),
        "classes": lambda: classes(rows, generator),
        "gradient": lambda: gradient(generator),
        "entropy": lambda: entropy(generator),
        "unbalanced": of_weights,
    }
    identities: list[Row] = []
    for part, compute in parts.items():
        progress(_PARTS[part])
        identities += [{"part": part, **row} for row in compute()]
    progress("a loss that falls with an accuracy of 1")
    numbers = {
        "rows": rows,
        "identities": identities,
        "by_hand": [_breakdown(gap) for gap in GAPS],
        "unbalanced": weighted,
        "perfect": at_perfect_accuracy(FAST_STEPS if fast else STEPS),
    }
    if out is not None:
        _draw_surprise().savefig(out / "surprise.png", dpi=110)
        _draw_log_loss().savefig(out / "log_loss.png", dpi=110)
        _draw_by_hand().savefig(out / "by_hand.png", dpi=110)
        _draw_perfect(numbers["perfect"]).savefig(out / "perfect_accuracy.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the tables, with only the worst target shape of each form of CrossEntropyLoss."""
    lines = summary(numbers["identities"])
    for part, title in _PARTS.items():
        rows = _worst_of_shapes([row for row in numbers["identities"] if row["part"] == part])
        lines += table(rows, title + _SHAPES_NOTE * (part == "classes"))
    lines += [*_of_weights(numbers["unbalanced"]), *_of_accuracy(numbers["perfect"])]
    return "\n".join([*lines, *_of_stability(numbers["by_hand"])])


def _of_weights(numbers: dict[str, Any]) -> list[str]:
    return [
        "",
        f"{numbers['rare']} of {numbers['rows']} training rows are of the rare class; scores on "
        f"{numbers['new_rows']} new rows:",
        "",
        "| weights | recall of the rare class | of the true log-odds | precision | accuracy | its "
        "mean probability | its share | NLL |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {one['recall']:.3f} | {one['exact_recall']:.3f} | {one['precision']:.3f} "
            f"| {one['accuracy']:.3f} | {one['mean_probability']:.3f} | {numbers['share']:.3f} | "
            f"{one['nll']:.4f} |"
            for name, one in numbers["fits"].items()
        ),
    ]


def _of_accuracy(path: list[dict[str, float]]) -> list[str]:
    return [
        "",
        "**The loss falls on at an accuracy of 1**: gradient descent on two kinds of iris that a "
        "plane separates",
        "",
        "| step | accuracy | loss | least log-odds of the true class | length of the weights |",
        "|---:|---:|---:|---:|---:|",
        *(
            f"| {one['step']:.0f} | {one['accuracy']:.3f} | {one['loss']:.3g} | "
            f"{one['least_log_odds']:.3f} | {one['length']:.3f} |"
            for one in path
            if one["shown"]
        ),
    ]


def _of_stability(entries: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "**Numerical stability in float32**: two classes; `gap` is the logit of the wrong class "
        "minus that of the true class (negative: the model is right). The loss and its derivative "
        "with respect to the gap:",
        "",
        "| gap | exact | `log_softmax` | `-(y log p)` | derivative: exact | `log_softmax` | "
        "`-(y log p)` | `-(y log(p + 1e-9))` |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in entries:
        for side in ("right", "wrong"):
            if side == "wrong" and entry["gap"] == 0:
                continue
            values = entry[side]
            cells = [
                entry["gap"] if side == "wrong" else -entry["gap"],
                values["exact"],
                values["log_softmax"],
                values["by_hand"],
                values["slope_exact"],
                values["slope_log_softmax"],
                values["slope_by_hand"],
                values["slope_with_epsilon"],
            ]
            lines.append("| " + " | ".join(f"{float(c) + 0.0:.4g}" for c in cells) + " |")
    return lines


def _worst_of_shapes(rows: list[Row]) -> list[Row]:
    """Returns one row per identity: that of the target shape with the largest difference."""
    worst: dict[str, Row] = {}
    for row in rows:
        key = row["identity"]
        if key not in worst or row["difference"] >= worst[key]["difference"]:
            worst[key] = row
    return list(worst.values())


# -- numerical stability of the formula -------------------------------------------------------


def _loss_and_slope(gap: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the loss and its derivative in the gap, float32; the true class has logit 0."""
    gap = gap.detach().float().requires_grad_()
    logits = torch.stack([torch.zeros_like(gap), gap], -1)
    onehot = torch.tensor([1.0, 0.0]).expand_as(logits)
    value = loss(logits, onehot)
    (slope,) = torch.autograd.grad(value.sum(), gap)
    return value.detach(), slope


def _stable(logits: Tensor, onehot: Tensor) -> Tensor:
    return -(onehot * torch.log_softmax(logits, -1)).sum(-1)


def _with_epsilon(logits: Tensor, onehot: Tensor) -> Tensor:
    return by_hand(logits, onehot, epsilon=EPSILON)


def _breakdown(gap: float) -> dict[str, Any]:
    """Returns losses and derivatives where the model is right, or wrong, by a gap of the logits."""
    entry: dict[str, Any] = {"gap": gap}
    for side, signed in (("right", -gap), ("wrong", gap)):
        at = torch.tensor(signed)
        losses = (_stable, by_hand, _with_epsilon)
        stable, by_formula, clipped = (_loss_and_slope(at, loss) for loss in losses)
        entry[side] = {
            "exact": float(np.logaddexp(0.0, signed)),
            "log_softmax": float(stable[0]),
            "by_hand": float(by_formula[0]),
            "slope_exact": float(special.expit(signed)),
            "slope_log_softmax": float(stable[1]),
            "slope_by_hand": float(by_formula[1]),
            "slope_with_epsilon": float(clipped[1]),
        }
    return entry


def _draw_surprise() -> Figure:
    """Draws -log p over p: of probabilities, and of densities, which may exceed 1."""
    p = np.linspace(0.02, 3.0, 400)
    figure = Figure(figsize=(9, 4.0), layout="constrained")
    ax = figure.subplots()
    ax.axvspan(0, 1, color=GREY, alpha=0.2, lw=0, label="probabilities and densities")
    ax.axhline(0, color="0.4", lw=0.8)
    ax.plot(p, -np.log(p), color=BLUE, lw=2.5, label="-log p: the negative log-likelihood")
    one = p[p <= 1]
    wrong = "-p: NLLLoss of Softmax output, no likelihood"
    ax.plot(one, -one, "--", color=VERMILLION, lw=2, label=wrong)
    for value in (0.5, 2.0):
        ax.plot(value, -np.log(value), "o", color=BLUE, ms=7)
        text = f"p = {value:g}: {-np.log(value):.3f}"
        ax.annotate(text, (value, -np.log(value)), (8, 6), textcoords="offset points")
    ax.text(2.0, 1.0, "densities alone:\nthe loss is negative", ha="center", color="0.3")
    ax.set(
        xlabel="p, a probability or a density", ylabel="loss (nats)", xlim=(0, 3), ylim=(-1.3, 4)
    )
    ax.legend(frameon=False)
    return figure


def _draw_perfect(path: list[dict[str, float]]) -> Figure:
    """Draws accuracy, loss and log-odds over the steps of gradient descent."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    step = [one["step"] for one in path]
    panels = {
        "accuracy": ("accuracy", BLUE, "semilogx"),
        "loss": ("loss (nats)", VERMILLION, "loglog"),
        "least_log_odds": ("least log-odds of the true class", GREEN, "semilogx"),
    }
    first = next((one["step"] for one in path if one["accuracy"] == 1), None)
    for ax, (key, (label, colour, scale)) in zip(
        figure.subplots(1, 3), panels.items(), strict=True
    ):
        getattr(ax, scale)(step, [one[key] for one in path], color=colour, lw=2)
        if first is not None:
            ax.axvline(first, color="0.5", lw=0.8, ls=":")
        ax.set(xlabel="step", ylabel=label)
    figure.supxlabel("Dotted: the step from which on every row is right.", fontsize=8)
    return figure


def _draw_log_loss() -> Figure:
    """Draws the log loss and its derivative over the logit."""
    a = np.linspace(-6, 6, 241)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for t, colour, line in ((1, BLUE, "-"), (0, VERMILLION, "--")):
        left.plot(a, np.logaddexp(0, -(2 * t - 1) * a), line, color=colour, label=f"t = {t}")
        right.plot(a, special.expit(a) - t, line, color=colour, label=f"t = {t}: p - {t}")
    left.axhline(0, color="0.6", lw=0.8)
    left.set(xlabel="logit a = log-odds of class 1", ylabel="log loss (nats)")
    left.set_title("never below zero: a probability is at most 1", fontsize=10)
    right.axhline(0, color="0.6", lw=0.8)
    right.set(xlabel="logit a = log-odds of class 1", ylabel="its derivative")
    right.set_title("never beyond ±1, largest where most wrong", fontsize=10)
    for ax in (left, right):
        ax.legend(frameon=False)
    return figure


def _draw_by_hand() -> Figure:
    """Draws three implementations of the loss over the gap of two logits, in float32."""
    gap = torch.arange(-150.0, 150.5, 0.5)
    figure = Figure(figsize=(9, 4.0), layout="constrained")
    axes = figure.subplots(1, 2)
    losses = (
        ("log_softmax", _stable, BLUE, "-", 3.5),
        ("-(y log p)", by_hand, VERMILLION, "-", 1.5),
        ("-(y log(p + 1e-9))", _with_epsilon, GREEN, "--", 1.5),
    )
    for name, loss, colour, line, thick in losses:
        for ax, values in zip(axes, _loss_and_slope(gap, loss), strict=True):
            ax.plot(gap, values, line, color=colour, lw=thick, label=name)
    for ax, values in zip(axes, _loss_and_slope(gap, by_hand), strict=True):
        bad = np.flatnonzero(~np.isfinite(values.numpy()))
        runs = np.split(bad, np.flatnonzero(np.diff(bad) > 1) + 1)
        for i, one in enumerate(runs):
            ax.axvspan(
                float(gap[one[0]]),
                float(gap[one[-1]]),
                color=VERMILLION,
                alpha=0.15,
                lw=0,
                label="-(y log p) is NaN or infinite" if i == 0 else None,
            )
        ax.set_xlabel("wrong logit minus right logit")
        ax.set_xlim(-150, 150)
    axes[0].set_ylabel("loss (nats)")
    axes[1].set_ylabel("derivative of the loss")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )
    return figure

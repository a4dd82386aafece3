r"""Cross-entropy, softmax and log-likelihood: a table of identities, with both sides computed.

Let $a$ be the logits of $C$ classes, $p = \mathrm{softmax}(a)$ and $t$ the index of the true class.
`CrossEntropyLoss` takes $a$ and computes what `NLLLoss` computes from `LogSoftmax`,

$$\ell(a, t) = -\log p_t = \log \sum_j e^{a_j} - a_t .$$

**Means.** With weights $w_c$ of the classes the mean over rows is $\sum_n w_{t_n} \ell_n / \sum_n
w_{t_n}$: the weights are in the denominator too, and rows with the target `ignore_index` are in
neither sum.

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

**Maximum likelihood.** Two classes with logits $(0, a)$ give the log loss of logistic regression;
$a$ is the log-odds. The maximum likelihood estimate, by Newton's method on `log_prob` of a
Bernoulli distribution, is scikit-learn's unpenalised fit. A Gaussian prior $N(0, \tau^2)$ on the
weights adds $|w|^2 / 2 \tau^2$, which corresponds to scikit-learn's `C` $= \tau^2$ and to an
optimizer's `weight_decay` $= 1 / \tau^2$. Least squares is the likelihood of a Gaussian of fixed
scale, up to a constant.

C. M. Bishop, *Pattern Recognition and Machine Learning*, sections 1.2.5, 3.1.1 and 4.3 (2006);
J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, in
*Neurocomputing* (1990).
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
    binary,
    by_hand,
    classes,
    entropy,
    gradient,
    prior,
    squared_error,
)
from ._palette import BLUE, GREEN, VERMILLION

__all__ = ["MINUTES", "DATA", "run", "report"]

MINUTES = 0.1
DATA = "none (the breast cancer and diabetes data are part of scikit-learn)"

ROWS, FAST_ROWS = 4096, 256
GAPS = (0.0, 20.0, 60.0, 90.0, 100.0, 110.0, 150.0)  # differences of two logits
EPSILON = 1e-9  # of the usual but wrong remedy

_SHAPES_NOTE = f" (of the target shapes {'; '.join(SHAPES)} the one that differs most)"
_PARTS = {
    "classes": "CrossEntropyLoss and NLLLoss",
    "gradient": "The gradient is p - y",
    "binary": "Log loss, log-odds and logistic regression",
    "prior": "A Gaussian prior is an L2 penalty",
    "entropy": "Cross-entropy = entropy + Kullback-Leibler divergence",
    "gaussian": "Squared error and Gaussian likelihood",
}


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Computes both sides of every identity; draws log_loss.png and by_hand.png."""
    generator = torch.Generator().manual_seed(seed)
    rows = FAST_ROWS if fast else ROWS
    parts = {
        "classes": lambda: classes(rows, generator),
        "gradient": lambda: gradient(generator),
        "binary": binary,
        "prior": prior,
        "entropy": lambda: entropy(generator),
        "gaussian": lambda: squared_error(rows, generator),
    }
    identities: list[Row] = []
    for part, compute in parts.items():
        progress(_PARTS[part])
        identities += [{"part": part, **row} for row in compute()]
    numbers = {
        "rows": rows,
        "identities": identities,
        "hold": sum(row["holds"] for row in identities),
        "by_hand": [_breakdown(gap) for gap in GAPS],
    }
    if out is not None:
        _draw_log_loss().savefig(out / "log_loss.png", dpi=110)
        _draw_by_hand().savefig(out / "by_hand.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the tables, with only the worst target shape of each form of CrossEntropyLoss."""
    rows = numbers["identities"]
    failed = [row["identity"] for row in rows if not row["holds"]]
    lines = [
        f"{numbers['hold']} of {len(rows)} identities hold within their tolerance."
        + (f" **These do not**: {'; '.join(failed)}." if failed else ""),
        "",
        "Where the two sides are arrays, the numbers are those of the entry that differs most. The "
        "tolerance is relative to max(1, |value|): that of float32, of float64, of a finite "
        "difference, or of an iterative fit.",
    ]
    for part, title in _PARTS.items():
        lines += ["", f"**{title}**" + _SHAPES_NOTE * (part == "classes"), ""]
        lines += [
            "| identity | left | right | difference | tolerance |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['identity']}{'' if row['holds'] else ' **(fails)**'} | {row['left']:.8g} | "
            f"{row['right']:.8g} | {row['difference']:.1e} | {row['tolerance']:.0e} |"
            for row in _worst_of_shapes([row for row in rows if row["part"] == part])
        ]
    lines += [
        "",
        "**Numerical stability in float32**: two classes; `gap` is the logit of the wrong class "
        "minus that of the true class (negative: the model is right). The loss and its derivative "
        "with respect to the gap:",
        "",
        "| gap | exact | `log_softmax` | `-(y log p)` | derivative: exact | `log_softmax` | "
        "`-(y log p)` | `-(y log(p + 1e-9))` |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in numbers["by_hand"]:
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
    return "\n".join(lines)


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

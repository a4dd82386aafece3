r"""Cross-entropy, softmax and log-likelihood are one: a table of identities with both their sides.

Let $a$ be the logits of $C$ classes, $p = \mathrm{softmax}(a)$ and $t$ the index of the right one.
`CrossEntropyLoss` takes $a$ and computes what `NLLLoss` computes from `LogSoftmax`,

$$\ell(a, t) = -\log p_t = \log \sum_j e^{a_j} - a_t .$$

**Means.** With weights $w_c$ of the classes the mean over rows is $\sum_n w_{t_n} \ell_n / \sum_n
w_{t_n}$: weights stand in the denominator too, and rows with the target `ignore_index` in neither
sum.

**The gradient on paper.** The derivative of $\log \sum_j e^{a_j}$ with respect to $a_i$ is $e^{a_i}
/ \sum_j e^{a_j} = p_i$, and that of $a_t$ is 1 for $i = t$ and 0 otherwise. With $y$ the one-hot
target, $\partial \ell / \partial a = p - y$: bounded, and 0 only where the prediction is right.

**Written by hand.** `-(y * softmax(a).log()).sum()` is the same formula and another program. In
float32 a class more than 104 below the top (87 where tiny numbers are rounded to 0) has $p = 0$ and
$\log p = -\infty$. If that class is the right one, the loss is infinite and its gradient NaN; if it
is a wrong one, the sum holds $0 \cdot (-\infty)$, which is NaN, so that the loss is NaN where the
model is *right* and sure of it. Backwards it breaks sooner, as $1 / p$ overflows from 89 on. A
constant inside the logarithm, `log(p + 1e-9)`, hides this: the loss stops growing, and the gradient
vanishes where it is most wanted. `log_softmax` subtracts before it exponentiates, $a_t - \log
\sum_j e^{a_j}$, and never takes the logarithm of a probability that has become 0.

**Maximum likelihood.** Two classes with logits $(0, a)$ give the log loss of logistic regression;
$a$ is the log-odds. Its maximum likelihood, by Newton's steps on `log_prob` of a Bernoulli, is
scikit-learn's unpenalised fit. A Gaussian prior $N(0, \tau^2)$ on the weights adds $|w|^2 / 2
\tau^2$, which is scikit-learn's `C` $= \tau^2$ and an optimizer's `weight_decay` $= 1 / \tau^2$.
Least squares is the likelihood of a Gaussian of fixed width, up to a constant.

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

from ._identities import SHAPES, Row, binary, by_hand, classes, entropy, gaussian, gradient, prior

__all__ = ["MINUTES", "DATA", "run", "report"]

MINUTES = 0.1
DATA = "none (the breast cancer and diabetes rows that scikit-learn brings along)"

ROWS, FAST_ROWS = 4096, 256
GAPS = (0.0, 20.0, 60.0, 90.0, 100.0, 110.0, 150.0)  # of two logits
EPSILON = 1e-9  # of the usual, wrong cure
BLUE, VERMILLION, GREEN, BLACK = "#0072b2", "#d55e00", "#009e73", "#000000"

_SHAPES_TOLD = f" (of the target shapes {'; '.join(SHAPES)} the one that differs most)"
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
    """Both sides of every identity; draws log_loss.png and by_hand.png."""
    generator = torch.Generator().manual_seed(seed)
    rows = FAST_ROWS if fast else ROWS
    parts = {
        "classes": lambda: classes(rows, generator),
        "gradient": lambda: gradient(generator),
        "binary": lambda: binary(),
        "prior": lambda: prior(),
        "entropy": lambda: entropy(generator),
        "gaussian": lambda: gaussian(rows, generator),
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
    """The tables; of the many forms of CrossEntropyLoss the worst shape of each."""
    rows = numbers["identities"]
    failed = [row["identity"] for row in rows if not row["holds"]]
    lines = [
        f"{numbers['hold']} of {len(rows)} identities hold within their tolerance."
        + (f" **These do not**: {'; '.join(failed)}." if failed else ""),
        "",
        "Where the two sides are arrays, the numbers are those of the entry that differs most. The "
        "tolerance is a share of max(1, |value|): of float32, of float64, of a finite difference, "
        "or of a fit by iteration.",
    ]
    for part, title in _PARTS.items():
        lines += ["", f"**{title}**" + _SHAPES_TOLD * (part == "classes"), ""]
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
        "**Written by hand, in float32**: two classes, the logit of the wrong one `gap` above that "
        "of the right one (negative: the model is right). Loss, and its derivative with respect "
        "to the gap.",
        "",
        "| gap | exact | `log_softmax` | `-(y log p)` | derivative: exact | `log_softmax` | "
        "`-(y log p)` | `-(y log(p + 1e-9))` |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for told in numbers["by_hand"]:
        for side in ("right", "wrong"):
            if side == "wrong" and told["gap"] == 0:
                continue
            it = told[side]
            cells = [
                told["gap"] if side == "wrong" else -told["gap"],
                it["exact"],
                it["log_softmax"],
                it["by_hand"],
                it["slope_exact"],
                it["slope_log_softmax"],
                it["slope_by_hand"],
                it["slope_with_epsilon"],
            ]
            lines.append("| " + " | ".join(f"{float(c) + 0.0:.4g}" for c in cells) + " |")
    return "\n".join(lines)


# -- the identities ---------------------------------------------------------------------------


def _worst_of_shapes(rows: list[Row]) -> list[Row]:
    """One row for all target shapes, the one with the largest difference."""
    worst: dict[str, Row] = {}
    for row in rows:
        key = row["identity"]
        if key not in worst or row["difference"] >= worst[key]["difference"]:
            worst[key] = row
    return list(worst.values())


# -- where the formula by hand breaks ---------------------------------------------------------


def _slopes(gap: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and its derivative with respect to the gap, float32; the right class has logit 0."""
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
    """Losses and slopes where the model is right by this gap of the logits, and wrong by it."""
    told: dict[str, Any] = {"gap": gap}
    for side, signed in (("right", -gap), ("wrong", gap)):
        at = torch.tensor(signed)
        stable, by_formula, clipped = (_slopes(at, f) for f in (_stable, by_hand, _with_epsilon))
        told[side] = {
            "exact": float(np.logaddexp(0.0, signed)),
            "log_softmax": float(stable[0]),
            "by_hand": float(by_formula[0]),
            "slope_exact": float(special.expit(signed)),
            "slope_log_softmax": float(stable[1]),
            "slope_by_hand": float(by_formula[1]),
            "slope_with_epsilon": float(clipped[1]),
        }
    return told


def _draw_log_loss() -> Figure:
    """The log loss and its derivative over the logit."""
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
    """Three ways to write the loss, over the gap of two logits, in float32."""
    gap = torch.arange(-150.0, 150.5, 0.5)
    figure = Figure(figsize=(9, 4.0), layout="constrained")
    axes = figure.subplots(1, 2)
    ways = (
        ("log_softmax", _stable, BLUE, "-", 3.5),
        ("-(y log p)", by_hand, VERMILLION, "-", 1.5),
        ("-(y log(p + 1e-9))", _with_epsilon, GREEN, "--", 1.5),
    )
    for name, way, colour, line, thick in ways:
        for ax, values in zip(axes, _slopes(gap, way), strict=True):
            ax.plot(gap, values, line, color=colour, lw=thick, label=name)
    for ax, values in zip(axes, _slopes(gap, by_hand), strict=True):
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

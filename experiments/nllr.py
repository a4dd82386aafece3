r"""The ratio loss of Zhu et al. compared with cross-entropy: accuracy and calibration.

The negative log-likelihood *ratio* between the right class $t$ and all others is, in logits $a$,

$$\ell = -\log \frac{p_t}{1 - p_t} = \log \sum_{c \ne t} e^{a_c} - a_t .$$

Cross-entropy is its softplus, $-\log p_t = \log(1 + e^\ell)$. The ratio is negative as soon as $p_t
> 1/2$ and has no lower bound, so a negative loss is no error here, though $p_t$ is a probability.

**Probabilities.** Cross-entropy is a proper score: for a true conditional distribution $\pi$ its
expectation is minimal at $p = \pi$. The ratio is not a proper score. With two classes its
expectation is $(\pi_1 - \pi_2)(a_2 - a_1)$, linear in the logits, so the probability of the more
probable class goes to 1, however small its advantage. So the accuracy may be as good, but the
probabilities should be overconfident.

**Training.** The gradient of the ratio in the logit of the right class is -1 for every row, also
for a row that is classified correctly; that of cross-entropy is $p_t - 1$. Most rows are classified
correctly, and as their loss falls without limit they dominate the training. The third loss, the
*floored ratio*, prevents this: it is the ratio up to $p_t = 1 - 10^{-7}$, a usual clipping of
probabilities, and constant beyond, so that such rows have no gradient. It was added after the ratio
itself had diverged; it is not known whether the authors bounded their loss.

All three losses train the same network 784-128-10 from the same initial weights on the same
batches: Adam with learning rate 1e-3, batches of 128, 10 epochs, for each of five seeds. The
differences are paired by seed. ECE, the expected calibration error, is the mean distance of
accuracy and confidence in 15 bins of the confidence, the probability of the most probable class.

Two things differ from the paper: the network, and MNIST in place of CIFAR-10. Where the folder that
`MDN_DATA` names has a folder `fashion-mnist` beside `mnist`, with the four files of Fashion-MNIST
(Xiao et al. 2017), which have the same names and format, all is done on that set too.

D. Zhu, H. Yao, B. Jiang, P. Yu, Negative log likelihood ratio loss for deep neural network
classification, arXiv 1804.10690 (2018); C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On calibration
of modern neural networks, ICML (2017); H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a novel image
dataset for benchmarking machine learning algorithms, arXiv 1708.07747 (2017).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from mdn.functional import nll_ratio_loss

from ._classification import (
    DATA,
    Images,
    load_images,
    log_probs,
    mean_and_error,
    mlp,
    reliability,
    shuffled,
    train,
)
from ._palette import BLUE, GREEN, VERMILLION

__all__ = ["MINUTES", "DATA", "run", "report"]

MINUTES = 2.5
HIDDEN = (128,)
RATE, BATCH, EPOCHS, SEEDS = 1e-3, 128, 10, 5
FAST_BATCH, FAST_SEEDS = 32, 2
LEVEL = 0.05  # of the paired t-test behind "higher" and "lower"
CLIPPED = 1e-7  # probability of the wrong classes below which the floored ratio is constant
FLOOR = math.log(CLIPPED / (1 - CLIPPED))  # -16.1
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # one number per row
    "cross-entropy": lambda a, t: F.cross_entropy(a, t, reduction="none"),
    "ratio": lambda a, t: nll_ratio_loss(a, t, reduction="none"),
    "floored ratio": lambda a, t: nll_ratio_loss(a, t, reduction="none").clamp(min=FLOOR),
}
RIVALS = tuple(LOSSES)[1:]
STYLES = {
    "cross-entropy": (BLUE, "o", "-"),
    "ratio": (VERMILLION, "s", "--"),
    "floored ratio": (GREEN, "^", "-."),
}
SCORES = {  # name in the table, and whether a larger value is better or worse
    "accuracy": ("test accuracy (%)", "better"),
    "confidence": ("mean confidence (%)", ""),
    "ece": ("ECE (points)", "worse"),
    "nll": ("test NLL (nats)", "worse"),
    "training_loss": ("training loss at the end (nats)", ""),
    "negative": ("training rows with a negative loss (%)", ""),
}
SHOWN = 10  # smallest number of predictions of a point in the diagram
FASHION = "fashion-mnist"  # folder next to mnist


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    data: str | None = None,
) -> dict[str, Any]:
    """Trains with every loss on each set and seed; draws reliability.png."""
    progress("loading images")
    sets = [load_images(data, fast, normalise=True)]
    root = os.environ.get("MDN_DATA")
    if root and sets[0].name == "mnist" and (Path(root) / FASHION).is_dir():
        sets.append(load_images(None, fast, normalise=True, folder=str(Path(root) / FASHION)))
    seeds = [seed + i for i in range(FAST_SEEDS if fast else SEEDS)]
    batch = FAST_BATCH if fast else BATCH
    numbers: dict[str, Any] = {
        "seeds": seeds,
        "epochs": EPOCHS,
        "notice": sets[0].notice,
        "fashion": len(sets) > 1,
        "sets": {},
    }
    for images in sets:
        runs: dict[str, Any] = {}
        for name, loss in LOSSES.items():
            each = []
            for one in seeds:
                progress(f"{images.name}: {name}, seed {one}")
                each.append(_one(images, loss, one, batch))
            runs[name] = {key: [r[key] for r in each] for key in SCORES}
            runs[name]["bins"] = _pooled([r["bins"] for r in each])
        numbers["sets"][images.name] = {
            "rows": len(images.y),
            "test_rows": len(images.y_test),
            "runs": runs,
            "scores": {
                key: {
                    "of": {name: mean_and_error(runs[name][key]) for name in LOSSES},
                    "against": {
                        name: _paired(runs[name][key], runs["cross-entropy"][key])
                        for name in RIVALS
                    },
                }
                for key in SCORES
            },
        }
    if out is not None:
        _draw(numbers["sets"]).savefig(out / "reliability.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns a table for each set, and the results of the tests, in Markdown."""
    lines = [numbers["notice"] + ".\n"] if numbers["notice"] else []
    behind: list[str] = []
    for name, results in numbers["sets"].items():
        lines += [
            f"**{name}**: {results['rows']} training and {results['test_rows']} test images, "
            f"{numbers['epochs']} epochs, {len(numbers['seeds'])} seeds; mean ± standard error.",
            "",
            f"| | {' | '.join(LOSSES)} | "
            + " | ".join(f"{rival} - cross-entropy (p)" for rival in RIVALS)
            + " |",
            "|---|" + "---:|" * (len(LOSSES) + len(RIVALS)),
        ]
        for key, (label, _) in SCORES.items():
            score = results["scores"][key]
            cells = [_show(score["of"][loss]) for loss in LOSSES]
            for rival in RIVALS:
                paired = score["against"][rival]
                difference, p = paired["difference"], float(paired["p"])
                shown = "" if math.isnan(p) else " (<0.001)" if p < 1e-3 else f" ({p:.3f})"
                cells.append(_show(difference, "+") + shown)
            lines.append(f"| {label} | {' | '.join(cells)} |")
        if results["scores"]["accuracy"]["against"]["ratio"]["difference"]["mean"] <= 0:
            behind.append(name)
        lines += ["", *(_verdict(results["scores"], rival) for rival in RIVALS), ""]
    lines += [
        ("**Not reproduced**" if behind else "**Reproduced**")
        + ": the paper reports a higher accuracy of the ratio loss than of cross-entropy "
        "(CIFAR-10, other networks); "
        + (
            f"here that of the ratio is not higher on {' and '.join(behind)}."
            if behind
            else "here it is higher too."
        ),
        "",
    ]
    if not numbers["fashion"]:
        lines.append(
            "Fashion-MNIST was not run here: the run did not find its files (it reads them from a "
            "folder `fashion-mnist` in the folder that `MDN_DATA` names)."
        )
    return "\n".join(lines).strip()


def _one(
    images: Images, loss: Callable[[Tensor, Tensor], Tensor], seed: int, batch: int
) -> dict[str, Any]:
    """Trains a network by one loss from one seed; returns its scores on the test images."""
    net = mlp((images.x.shape[1], *HIDDEN, 10), seed)
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=True)
    losses = train(net, images.x, images.y, lambda a, t: loss(a, t).mean(), optimizer,
                   batch=batch, orders=shuffled(len(images.y), EPOCHS, seed))  # fmt: skip
    log_p = log_probs(net, images.x_test)
    log_p_true = log_p.gather(-1, images.y_test[:, None])[:, 0].double()
    row_losses = loss(log_probs(net, images.x), images.y)
    bins = reliability(log_p, images.y_test)
    return {
        "accuracy": 100 * float((log_p.argmax(-1) == images.y_test).double().mean()),
        "confidence": 100 * float(log_p.double().exp().amax(-1).mean()),
        "ece": 100 * bins["ece"],
        "nll": float(-log_p_true.mean()),
        "training_loss": float(losses[-len(losses) // EPOCHS :].mean()),
        "negative": 100 * float((row_losses < 0).double().mean()),
        "bins": bins,
    }


def _paired(a: list[float], b: list[float]) -> dict[str, Any]:
    """Returns the mean of a - b over the seeds with its error, and p of the paired t-test."""
    difference = mean_and_error(np.subtract(a, b).tolist())
    if len(a) < 2 or difference["error"] == 0:  # no test is possible
        return {"difference": difference, "p": math.nan}
    return {"difference": difference, "p": float(stats.ttest_rel(a, b).pvalue)}


def _pooled(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns the bins of all seeds together."""
    count = np.array([r["count"] for r in runs], dtype=float)  # (seeds, bins)
    total = np.maximum(count.sum(0), 1)
    return {
        "count": count.sum(0).tolist(),
        **{
            key: ((count * np.array([r[key] for r in runs])).sum(0) / total).tolist()
            for key in ("confidence", "accuracy")
        },
    }


def _show(value: dict[str, float], sign: str = "") -> str:
    places = 2 if abs(value["mean"]) >= 1 else 3
    return f"{value['mean']:{sign}.{places}f} ± {value['error']:.{places}f}"


def _verdict(scores: dict[str, Any], rival: str) -> str:
    """Returns a sentence on accuracy, calibration and likelihood, from the paired tests."""
    findings = []
    for key in ("accuracy", "ece", "nll"):
        label, larger = SCORES[key]
        label = label.partition(" (")[0]
        paired = scores[key]["against"][rival]
        mean, p = paired["difference"]["mean"], float(paired["p"])
        if math.isnan(p) or p > LEVEL:
            findings.append(f"{label} does not differ significantly")
        else:
            smaller = {"better": "worse", "worse": "better"}[larger]
            findings.append(f"{label} is {larger if mean > 0 else smaller}")
    return (
        f"- The {rival} compared with cross-entropy: {'; '.join(findings)} (paired t-test, level "
        f"{LEVEL:g})."
    )


def _draw(sets: dict[str, Any]) -> Figure:
    """Draws reliability diagrams, and the number of predictions in each bin."""
    figure = Figure(figsize=(8.5, 5.0 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), 2, squeeze=False)
    for (left, right), (name, results) in zip(grid, sets.items(), strict=True):
        left.plot([0, 1], [0, 1], color="0.5", lw=1)
        for loss, (colour, marker, line) in STYLES.items():
            bins = results["runs"][loss]["bins"]
            count = np.array(bins["count"])
            shown = count >= SHOWN
            x, y = (np.array(bins[key])[shown] for key in ("confidence", "accuracy"))
            ece = results["scores"]["ece"]["of"][loss]["mean"]
            error = np.sqrt(y * (1 - y) / count[shown])
            left.errorbar(x, y, error, fmt=marker + line, ms=4, lw=1, color=colour,
                          label=f"{loss}: ECE {ece:.2f} points")  # fmt: skip
            edges = np.linspace(0, 1, len(count) + 1)
            right.stairs(100 * count / count.sum(), edges, color=colour, lw=1.8,
                         ls=line, label=loss)  # fmt: skip
        left.set(xlabel=f"confidence\n(bins of {SHOWN} predictions or more)",
                 ylabel="share of right predictions", xlim=(0, 1.02), ylim=(0, 1.02),
                 title=f"{name}:\nreliability")  # fmt: skip
        right.set(xlabel="confidence", ylabel="predictions (%)", xlim=(0, 1), yscale="log",
                  title=f"{name}:\ndistribution of the confidence")  # fmt: skip
        for ax in (left, right):  # above the axes, where no point lies
            ax.set_title(ax.get_title(), pad=52)
            ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    return figure

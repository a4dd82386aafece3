r"""A negative loss is no sign of overfitting: one model in four units, a classifier, broken models.

A density is probability per unit of y, so it may exceed 1, and then $-\log p$ is negative. In
another unit, $c\,y$, the same model has another loss, $\text{NLL} + \log c$. Its predictions, for
example its quantiles, do not change. The loss of a classifier is that of a probability, at most 1,
so it cannot become negative; that of a likelihood *ratio* can. A classifier whose `NLLLoss` is
negative was given the output of `Softmax` in place of `LogSoftmax`: its loss is minus the mean
probability of the true class, and no likelihood.

So the sign of the loss is no evidence for or against a model, and `mdn.explain_nll` uses other
criteria. Here it is applied to one good model in four units and to three models that were broken on
purpose: one that collapsed onto its training rows, one trained for too long, one with a discrete y.
The rows are simulated: y = sin(3 x) plus Gaussian noise whose scale grows with x, in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import mdn
from mdn import plot

from ._density import Rows, gaussian, seeded, train_on

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 0.5
DATA = "none"

UNITS = {"hours": 1 / 60, "minutes": 1.0, "seconds": 60.0, "milliseconds": 60e3}
N_CLASSES = 6
NEW_ROWS = 600  # rows on which the models are judged


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compares losses in four units, of a classifier, and verdicts; draws three figures."""
    g = torch.Generator().manual_seed(seed)
    n = 500 if fast else 2000
    rows, val, new = _rows(n, g), _rows(n // 2, g), _rows(NEW_ROWS, g)
    truth = _truth(new[0])
    reports: dict[str, mdn.NLLReport] = {}

    units: dict[str, Any] = {}
    histories: dict[str, mdn.History] = {}
    for name, c in UNITS.items():
        progress(f"the model in {name}")
        model, histories[name] = _trained(
            seed, (rows[0], c * rows[1]), (val[0], c * val[1]), n_components=2
        )
        explained = reports[f"sound, in {name}"] = mdn.explain_nll(
            model, new[0], c * new[1], train=(rows[0], c * rows[1])
        )
        with torch.no_grad():
            median = model(new[0]).icdf(torch.full((1,), 0.5)) / c
        nll = explained.unit["nll"]
        units[name] = {
            "factor": c,
            "nll": nll,
            "minus_log_factor": nll - math.log(c),
            "highest_density": explained.sign["highest_density"],
            "share_above_one": explained.sign["share_above_one"],
            "median_of_medians_in_minutes": float(median.median()),
            "verdict": explained.verdict,
        }

    progress("a classifier")
    classes = _classifier(seed, rows, val, new, fast)

    broken = {}
    for name, situation in _broken(seed, g).items():
        progress(name)
        model, train, held_out = situation()
        explained = reports[name] = mdn.explain_nll(model, *held_out, train=train)
        with torch.no_grad():
            train_nll = float(-model(train[0]).log_prob(train[1]).mean())
        broken[name] = {
            "train_nll": train_nll,
            "nll": explained.unit["nll"],
            "word": explained.word,
            "verdict": explained.verdict,
            "remedy": explained.remedy,
        }
    numbers = {
        "rows": n,
        "new_rows": NEW_ROWS,
        "truth": float(-truth.log_prob(new[1]).mean()),
        "units": units,
        "classifier": classes,
        "broken": broken,
    }
    if out is not None:
        _draw_units(numbers, histories["hours"]).savefig(out / "units.png", dpi=110)
        for name, file in (("sound, in hours", "sound"), ("collapsed", "collapsed")):
            figure = reports[name].plot()
            figure.savefig(out / f"{file}.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns a table of units, the classifier, and a table of verdicts, in Markdown."""
    units = numbers["units"]
    minutes = units["minutes"]
    lines = [
        f"The same network, trained on {numbers['rows']} rows in each unit of y. Scores on "
        f"{numbers['new_rows']} held-out rows; the NLL of the true density is "
        f"{numbers['truth']:.3f} nats in minutes:",
        "",
        "| y in | NLL | NLL - log c | highest density | rows with p > 1 | median, min | verdict |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {u['nll']:.3f} | {u['minus_log_factor']:.3f} | "
            f"{u['highest_density']:.3g} | {u['share_above_one']:.0%} | "
            f"{u['median_of_medians_in_minutes']:.3f} | {u['verdict'].split(':')[0]} |"
            for name, u in units.items()
        ),
        "",
        f"In {'all' if len({u['verdict'].split(':')[0] for u in units.values()}) == 1 else 'some'} "
        f"units the verdict is the same. In minutes it is: *{minutes['verdict']}*",
        "",
    ]
    c = numbers["classifier"]
    lines += [
        f"A classifier of y in {c['classes']} bins, the same network with another head, has an NLL "
        f"of {c['nll']:.3f} nats. The lowest NLL of a row is {c['lowest']:.2g}; it is never below "
        f"0, because the highest probability is {c['highest_mass']:.4f}. The likelihood *ratio* "
        f"loss of the same predictions is {c['ratio_loss']:.3f} on average, and below 0 on "
        f"{c['share_ratio_below_zero']:.0%} of the rows: those with p > 1/2.",
        "",
        "The same network trained by `NLLLoss` on the output of its last layer:",
        "",
        "| last layer | `NLLLoss` | true NLL | accuracy | mean highest probability |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {last} | {n['loss']:.3f} | {n['nll']:.3f} | {n['accuracy']:.3f} | "
            f"{n['confidence']:.3f} |"
            for last, n in c["by_nll_loss"].items()
        ),
        "",
        "`explain_nll(network, X, y)` tells the two apart by the values that they return:",
        "",
        *(f"- {last}: *{n['said']}*" for last, n in c["by_nll_loss"].items()),
        "",
        "The verdicts on the broken models:",
        "",
        "| model | NLL on training rows | NLL on held-out rows | verdict |",
        "|---|---|---|---|",
        *(
            f"| {name} | {b['train_nll']:.2f} | {b['nll']:.2f} | {b['verdict']} |"
            for name, b in numbers["broken"].items()
        ),
        "",
        "The remedies:",
        "",
        *(f"- {name}: {b['remedy']}" for name, b in numbers["broken"].items()),
    ]
    return "\n".join(lines)


# -- data and models -------------------------------------------------------------------------------


def _scale(x: Tensor) -> Tensor:
    return 0.1 + 0.2 * x


def _rows(n: int, generator: torch.Generator) -> Rows:
    x = torch.rand(n, 1, generator=generator)
    return x, torch.sin(3 * x) + _scale(x) * torch.randn(n, 1, generator=generator)


def _truth(x: Tensor) -> mdn.GaussianMixture:
    return gaussian(torch.sin(3 * x), _scale(x))


def _trained(
    seed: int,
    rows: Rows,
    val: Rows | None,
    *,
    max_epochs: int = 150,
    lr: float = 5e-3,
    **options: Any,
) -> tuple[mdn.MDN, mdn.History]:
    """Returns a trained network and its history."""
    model = seeded(seed, lambda: mdn.MDN(1, hidden=(32, 32), **options).standardize_(*rows))
    return model, train_on(model, rows, val, seed=seed, max_epochs=max_epochs, lr=lr)


def _classifier(seed: int, rows: Rows, val: Rows, new: Rows, fast: bool) -> dict[str, Any]:
    """Returns the loss of a classifier of y, and the ratio loss of the same predictions."""
    edges = rows[1].flatten().quantile(torch.linspace(0, 1, N_CLASSES + 1)[1:-1])

    def binned(pair: Rows) -> Rows:
        return pair[0], torch.bucketize(pair[1].flatten(), edges)

    def build() -> nn.Module:
        head = mdn.CategoricalHead(32, N_CLASSES)
        return nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), head)

    model = seeded(seed, build)
    train_on(model, binned(rows), binned(val), seed=seed, max_epochs=30 if fast else 150)
    x, target = binned(new)
    with torch.no_grad():
        dist = model(x)
        loss = -dist.log_prob(target)
        ratio = mdn.functional.nll_ratio_loss(dist.logits, target, reduction="none")
    return {
        "classes": N_CLASSES,
        "nll": float(loss.mean()),
        "lowest": float(loss.min()),
        "highest_mass": float(dist.probs.max()),
        "ratio_loss": float(ratio.mean()),
        "share_ratio_below_zero": float((ratio < 0).double().mean()),
        "share_mass_above_half": float((loss < math.log(2)).double().mean()),
        "by_nll_loss": {
            last: _by_nll_loss(seed, layer, binned(rows), binned(new), fast)
            for last, layer in {"LogSoftmax": nn.LogSoftmax(1), "Softmax": nn.Softmax(1)}.items()
        },
    }


def _by_nll_loss(seed: int, last: nn.Module, rows: Rows, new: Rows, fast: bool) -> dict[str, Any]:
    """Returns scores of a network that NLLLoss trains on the output of its last layer, all rows."""

    def build() -> nn.Module:
        layers = (
            nn.Linear(1, 32),
            nn.SiLU(),
            nn.Linear(32, 32),
            nn.SiLU(),
            nn.Linear(32, N_CLASSES),
        )
        return nn.Sequential(*layers, last)

    net = seeded(seed, build)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(200 if fast else 500):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(net(rows[0]), rows[1])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        output, log_p = net(new[0]), net[:-1](new[0]).log_softmax(1)
    try:
        mdn.explain_nll(net, *new)
        said = "nothing"
    except TypeError as error:  # it is a network that returns a tensor
        said = str(error)
    return {
        "loss": float(nn.functional.nll_loss(output, new[1])),
        "nll": float(nn.functional.nll_loss(log_p, new[1])),
        "accuracy": float((log_p.argmax(1) == new[1]).double().mean()),
        "confidence": float(log_p.exp().amax(1).mean()),
        "said": said,
    }


def _broken(seed: int, g: torch.Generator) -> dict[str, Callable[[], tuple[nn.Module, Rows, Rows]]]:
    """Returns functions that train models broken on purpose.

    Each returns the model, its training rows and held-out rows.
    """

    def collapsed() -> tuple[nn.Module, Rows, Rows]:
        rows = _rows(16, g)
        model, _ = _trained(
            seed, rows, None, n_components=8, min_scale=1e-6, max_epochs=700, lr=1e-2
        )
        return model, rows, _rows(NEW_ROWS, g)

    def overfitted() -> tuple[nn.Module, Rows, Rows]:
        rows = _rows(50, g)
        model, _ = _trained(
            seed, rows, None, n_components=2, min_scale=0.05, max_epochs=600, lr=1e-2
        )
        return model, rows, _rows(NEW_ROWS, g)

    def discrete() -> tuple[nn.Module, Rows, Rows]:
        def rounded(rows: Rows) -> Rows:
            return rows[0], (4 * rows[1]).round() / 4

        rows, val, new = (rounded(_rows(n, g)) for n in (400, 200, NEW_ROWS))
        model, _ = _trained(seed, rows, val, n_components=5)
        return model, rows, new

    return {
        "collapsed": collapsed,
        "trained for too long": overfitted,
        "y in quarters of a minute": discrete,
    }


# -- figures ---------------------------------------------------------------------------------------


def _draw_units(numbers: dict[str, Any], history: mdn.History) -> Figure:
    """Draws the losses in four units, and the training curve in hours."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.plot_units({name: u["nll"] for name, u in numbers["units"].items()}, ax=left)
    left.set_title("One model in four units of y", fontsize=10)
    plot.plot_history(history, y_unit="hours", ax=right)
    right.set_title("Its training in hours: negative, and sound", fontsize=10)
    return figure

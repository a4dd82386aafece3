r"""With the same image features a class head has a positive loss; a density head may be negative.

A fixed backbone maps an image to features, which are standardised with the mean and standard
deviation of the training images. Two heads are trained on these features, in one loop, on the same
batches, with the same kind of loss, the mean of $-\log p(\text{target} | x)$:

- the **class head**: Linear 512, ReLU, Dropout 0.2, Linear, LogSoftmax, with `NLLLoss`: the
  probability of a class is at most 1, so the loss is at least 0;
- the **density head**: Linear 512, ReLU, Dropout 0.2, `mdn.MDNHead` (inside `mdn.MDN`, which
  standardises the target), with `-dist.log_prob(y).mean()`: the density of a continuous target may
  exceed 1, so the loss may be below 0. In a unit 360 times smaller the loss of an equally good head
  is $\log 360 = 5.89$ nats higher.

Training images are random crops of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3,
resized to 224 x 224; test images are resized to a shorter side of 256, and the middle 224 x 224
pixels are taken. Both are normalised by the mean and standard deviation of ImageNet's channels.

**Without `--images`** the images are synthetic: arrows (class `arrow`) and bars without a head
(class `bar`) on a noisy background. The continuous target is the direction in turns (1 turn = 360
degrees), between 20 and 160 degrees or between 200 and 340. An arrow shows the direction; a bar
shows it only up to half a turn, so the true density for a bar has **two modes of equal mass**,
which no single number can represent. The backbone consists of two layers of random filters.

**With `--images DIR`** DIR has a folder of images for each class, or two folders `train` and `test`
that have one for each class. The continuous target is read from `DIR/targets.csv` (`file,NAME`,
paths relative to DIR) if this file exists; otherwise it is the mean brightness of the image.

**With `--backbone densenet121`** or another classifier of torchvision (`pip install "mdn[vision]"`)
the features are those before its last layer. Its weights, trained on ImageNet, are downloaded once
into the folder `checkpoints` of torch's hub folder; with `--weights none` they are random, and no
network is needed. densenet121 has 1024 features, so its head begins with `Linear(1024, 512)`; a
published head for it begins with `Linear(2048, 512)`, which fails: 2048 is the number of features
of a resnet50. From Python, `run(backbone=...)` takes any module from (N, 3, 224, 224) to (N, ...).

`--epochs`, `--batch` and `--device` set the epochs, the images of a batch and torch's device.

C. Szegedy et al., Going deeper with convolutions, CVPR (2015), on the crops; G. Huang, Z. Liu, L.
van der Maaten, K. Q. Weinberger, Densely connected convolutional networks, CVPR (2017); C. M.
Bishop, *Mixture Density Networks*, Aston University NCRG/94/004 (1994).
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import gaussian_kde
from torch import Tensor, nn
from torch.nn import functional as F

import mdn

from ._backbones import Standardized, device_of, load_backbone, text_of_weights
from ._images import Folder, draw_images, middle, read_batch, read_folder
from ._palette import BLUE, VERMILLION

__all__ = [
    "MINUTES",
    "DATA",
    "classifier_head",
    "density_head",
    "report",
    "run",
]

MINUTES = 1.0
DATA = "none (synthetic images); or a folder of images for each class, with --images"

HIDDEN, DROPOUT = 512, 0.2  # units; share
COMPONENTS = 4
RATE, BATCH = 1e-3, 32  # of Adam; rows
HELD_OUT = 0.25  # share of the images
DRAWN, FAST_DRAWN = 400, 24  # synthetic images per class
EPOCHS, FAST_EPOCHS = 20, 2
DIRECTIONS = 280 / 360  # turns: the total range of the directions of synthetic images
BOTH = 0.2  # smallest mass on each half turn for a density to count as bimodal
RUNNING = 20  # batches of the moving average of the loss
SHOWN = 4  # images in the figure

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]  # numbers of images, (N,)


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    images: Path | None = None,
    backbone: str | nn.Module = "small",
    weights: str = "default",
    epochs: int | None = None,
    batch: int = BATCH,
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains and tests both heads; draws losses.png and densities.png.

    Args:
        seed, fast, out, progress: as for every experiment.
        images: a folder of images, as `read_folder` takes it; None draws some.
        backbone: as `load_backbone` takes it, or a module from (N, 3, 224, 224) to (N, ...).
        weights: of a backbone that is given by name, as `load_backbone` takes them.
        epochs: passes over the training images; None for 20, or 2 if fast.
        batch: images of a batch.
        device: where the backbone and the heads are.

    Raises:
        ValueError: a backbone, weights, a folder, a number or a device that cannot be used.
        OSError: the weights of the backbone could not be downloaded.
    """
    epochs = (FAST_EPOCHS if fast else EPOCHS) if epochs is None else epochs
    for name, number in (("epochs", epochs), ("batch", batch)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1; got {number}")
    on = device_of(device)
    named = isinstance(backbone, str)
    network = load_backbone(backbone, seed, weights=weights) if named else backbone
    network = network.to(on)
    with contextlib.ExitStack() as stack:
        if images is None:
            progress("drawing images")
            images = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            draw_images(images, FAST_DRAWN if fast else DRAWN, seed=seed)
            drawn = True
        else:
            drawn = False
        folder = read_folder(images)
        rng = np.random.default_rng(seed)
        train, test = _split(folder, rng)
        features = _features(folder, train, network, batch, on, progress)
        network = Standardized(network, features)
        with torch.random.fork_rng(devices=[]):  # initial weights and dropout
            torch.manual_seed(seed)
            heads = {
                "class": classifier_head(features.shape[1], len(folder.classes)),
                "density": density_head(network.units(features), folder.target[train, None].to(on)),
            }
            for head in heads.values():
                head.to(on)
            # on few images a feature may be constant, and far from that in a crop: not a fault of x
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "x has values far outside", mdn.DataWarning)
            losses = _train(heads, network, folder, train, epochs, batch, on, rng, progress)
        result = _predict(heads, network, folder, test, batch, on, progress)
        numbers = {
            "drawn": drawn,
            "backbone": backbone if named else type(backbone).__name__,
            "weights": text_of_weights(backbone, weights) if named else "held fixed",
            "own_test": folder.n_test > 0,
            "features": features.shape[1],
            "classes": folder.classes,
            "target": folder.target_name,
            "train_images": len(train),
            "test_images": len(test),
            "epochs": epochs,
            "batch": batch,
            "losses": losses,
            "per_epoch": {
                name: np.reshape(values, (epochs, -1)).mean(1).tolist()
                for name, values in losses.items()
            },
            **_scores(result, folder, train, test, drawn=drawn),
        }
        if out is not None:
            _draw_losses(numbers).savefig(out / "losses.png", dpi=110)
            _draw_densities(result, folder, test).savefig(out / "densities.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns the two losses during training, and the scores of the heads on test images."""
    first, last = ({k: v[i] for k, v in numbers["per_epoch"].items()} for i in (0, -1))
    lowest = {k: min(v) for k, v in numbers["losses"].items()}
    below = {k: sum(x < 0 for x in v) / len(v) for k, v in numbers["losses"].items()}
    source = "synthetic images" if numbers["drawn"] else "images"
    lines = [
        f"{numbers['train_images']} {source} for training and {numbers['test_images']} for the "
        f"test{', from a folder of their own' if numbers['own_test'] else ''}; "
        f"epochs: {numbers['epochs']}, of batches of {numbers['batch']}; backbone: "
        f"`{numbers['backbone']}`, {numbers['features']} features, {numbers['weights']}.",
        "",
        "| | class head | density head |",
        "|---|---:|---:|",
        f"| target | {' or '.join(numbers['classes'])} | {numbers['target']} |",
    ]
    rows = {
        "mean loss of the first epoch": first,
        "mean loss of the last epoch": last,
        "lowest loss of a batch": lowest,
        "test NLL": numbers["test_nll"],
        "test NLL of a prediction that ignores the image": numbers["constant_nll"],
    }
    for name, loss in rows.items():
        lines.append(f"| {name} (nats) | {loss['class']:.3f} | {loss['density']:.3f} |")
    lines.append(f"| batches with a loss below 0 | {below['class']:.0%} | {below['density']:.0%} |")
    better = {k: numbers["test_nll"][k] < numbers["constant_nll"][k] for k in ("class", "density")}
    lines += [
        "",
        f"The test accuracy of the class head is {numbers['accuracy']:.1%}; "
        f"{numbers['commonest']:.1%} of the images are of the most frequent class.",
        *(
            f"\n**The {name} head is of no use on new images**: its test NLL is not below that of "
            "a prediction that ignores the image."
            for name, good in better.items()
            if not good
        ),
        "",
        "The probability of a class is at most 1: no batch can have a loss below 0"
        f"{'' if lowest['class'] >= 0 else ' (**but one has**)'}. The density of the target "
        f"`{numbers['target']}` may exceed 1: {below['density']:.0%} of its batches have a loss "
        "below 0.",
    ]
    if numbers["drawn"]:
        mass, both = numbers["mass_on_the_true_side"], numbers["both_sides"]
        axis = numbers["axis_error_degrees"]
        lines += [
            "",
            "| test images | mass on the true half turn, mean | at least "
            f"{BOTH:.0%} of the mass on each half turn | error of the axis, median (degrees) |",
            "|---|---:|---:|---:|",
            *(f"| {k} | {mass[k]:.2f} | {both[k]:.0%} | {axis[k]:.1f} |" for k in mass),
            "",
            "The true density has half of the mass on each half turn for a bar, whose two ends are "
            "alike, and all of it on the true half turn for an arrow. The axis is the direction of "
            "the highest mode, up to half a turn.",
        ]
    return "\n".join(lines)


# -- heads and images -------------------------------------------------------------------------


def classifier_head(n_features: int, n_classes: int) -> nn.Sequential:
    """Returns a network for the log probabilities of the classes, (N, F) to (N, C)."""
    return nn.Sequential(
        nn.Linear(n_features, HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, n_classes),
        nn.LogSoftmax(-1),
    )


def density_head(features: Tensor, y: Tensor) -> mdn.MDN:
    """Returns a network for the density of y, standardised by training features and y, (N, 1)."""
    hidden = nn.Sequential(nn.Linear(features.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
    return mdn.MDN(HIDDEN, 1, COMPONENTS, backbone=hidden).standardize_(features, y)


def _split(folder: Folder, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Returns the training images in random order, and the test images."""
    order = rng.permutation(len(folder.files))
    if folder.n_test:
        own = order >= len(order) - folder.n_test
        return order[~own], np.sort(order[own])
    n_test = max(1, round(HELD_OUT * len(order)))
    return order[n_test:], np.sort(order[:n_test])


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


# -- training and testing ---------------------------------------------------------------------


@torch.no_grad()
def _features(
    folder: Folder,
    rows: Rows,
    network: nn.Module,
    size: int,
    on: torch.device,
    progress: Callable[[str], None],
) -> Tensor:
    """Returns features of the middles of images, (N, F)."""
    network.eval()
    parts = []
    for part in _batches(rows, size):
        parts.append(network(read_batch(folder, part).to(on)).flatten(1))
        progress(f"features of {sum(map(len, parts))} of {len(rows)} images")
    return torch.cat(parts)


def _loss(name: str, head: nn.Module, h: Tensor, folder: Folder, rows: Tensor) -> Tensor:
    """Returns the mean of -log p(target | image), where p is a probability or a density."""
    if name == "class":
        return F.nll_loss(head(h), folder.label[rows].to(h.device))
    return -head(h).log_prob(folder.target[rows, None].to(h.device)).mean()


def _train(
    heads: dict[str, nn.Module],
    network: nn.Module,
    folder: Folder,
    rows: Rows,
    epochs: int,
    size: int,
    on: torch.device,
    rng: np.random.Generator,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Trains the heads on the same batches; returns the loss of each batch."""
    network.eval()
    optimizers = {name: torch.optim.Adam(head.parameters(), RATE) for name, head in heads.items()}
    losses: dict[str, list[float]] = {name: [] for name in heads}
    for epoch in range(epochs):
        for part in _batches(rng.permutation(rows), size):
            with torch.no_grad():
                h = network(read_batch(folder, part, rng).to(on)).flatten(1)
            for name, head in heads.items():
                loss = _loss(name, head, h, folder, torch.from_numpy(part))
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
                losses[name].append(loss.item())
            now = ", ".join(f"{name} {values[-1]:.3f}" for name, values in losses.items())
            progress(f"epoch {epoch + 1} of {epochs}: {now}")
    return losses


class Predictions(NamedTuple):
    """The predictions of the heads for the test images.

    Attributes:
        log_p: log probabilities of the classes, (N, C).
        dist: distribution of the continuous target, batch (N,).
    """

    log_p: Tensor
    dist: mdn.GaussianMixture


@torch.no_grad()
def _predict(
    heads: dict[str, nn.Module],
    network: nn.Module,
    folder: Folder,
    rows: Rows,
    size: int,
    on: torch.device,
    progress: Callable[[str], None],
) -> Predictions:
    h = _features(folder, rows, network, size, on, progress)
    return Predictions(heads["class"].eval()(h).cpu(), heads["density"].eval()(h).to("cpu"))


def _scores(
    result: Predictions,
    folder: Folder,
    train: Rows,
    test: Rows,
    *,
    drawn: bool,
) -> dict[str, Any]:
    """Returns NLL and accuracy, and for synthetic images a comparison with the true density."""
    y, label = folder.target[test], folder.label[test]
    share = np.bincount(folder.label[train], minlength=len(folder.classes)) / len(train)
    scores: dict[str, Any] = {
        "test_nll": {
            "class": float(F.nll_loss(result.log_p, label)),
            "density": float(-result.dist.log_prob(y[:, None]).mean()),
        },
        "constant_nll": {
            "class": float(-np.log(np.maximum(share, 1 / len(train)))[label].mean()),
            "density": float(-gaussian_kde(folder.target[train]).logpdf(y).mean()),
        },
        "accuracy": float((result.log_p.argmax(-1) == label).double().mean()),
        "commonest": float(np.bincount(label).max() / len(label)),
    }
    if drawn:
        scores["constant_nll"]["density"] = math.log(DIRECTIONS)  # of the uniform density
        first_half = result.dist.cdf(torch.full((len(y), 1), 0.5))
        true_half = torch.where(y < 0.5, first_half, 1 - first_half)
        both = torch.minimum(first_half, 1 - first_half) > BOTH
        error = (result.dist.mode[:, 0] - y + 0.25) % 0.5 - 0.25  # of the axis: modulo half a turn
        of = {name: label == i for i, name in enumerate(folder.classes)}
        scores["mass_on_the_true_side"] = {k: float(true_half[v].mean()) for k, v in of.items()}
        scores["both_sides"] = {k: float(both[v].double().mean()) for k, v in of.items()}
        scores["axis_error_degrees"] = {
            k: float(360 * error[v].abs().median()) for k, v in of.items()
        }
    return scores


# -- figures ---------------------------------------------------------------------------------


def _draw_losses(numbers: dict[str, Any]) -> Figure:
    """Draws the loss of each batch, its moving average, and a line at zero."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    lines = {
        "class": (BLUE, "-", f"class head: {' or '.join(numbers['classes'][:4])}"),
        "density": (VERMILLION, "--", f"density head: {numbers['target']}"),
    }
    for name, (colour, line, label) in lines.items():
        loss = np.array(numbers["losses"][name])
        batches = np.arange(1, len(loss) + 1)
        ax.plot(batches, loss, color=colour, lw=0.7, alpha=0.4)
        ax.plot(batches, _running_mean(loss, RUNNING), line, color=colour, lw=2, label=label)
    ax.axhline(0, color="k", lw=1, label="zero: only the loss of a density can be below")
    ax.set(
        xlabel=f"batch of {numbers['batch']} images; thick: mean of the last {RUNNING} batches",
        ylabel="loss: mean of -log p(target | image), nats",
    )
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def _running_mean(values: Floats, width: int) -> Floats:
    """Returns the mean of each value and those before it, of the last `width` at most, (N,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


@torch.no_grad()
def _draw_densities(result: Predictions, folder: Folder, test: Rows) -> Figure:
    """Draws some test images and the densities of their targets."""
    label = folder.label[test]
    chosen = [int(i) for c in range(len(folder.classes)) for i in torch.where(label == c)[0][:2]]
    chosen = chosen[:SHOWN]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False, height_ratios=(1, 1.1))
    low, high = float(folder.target.min()), float(folder.target.max())
    margin = 0.1 * (high - low)
    grid = torch.linspace(low - margin, high + margin, 400)
    for k, i in enumerate(chosen):
        with Image.open(folder.root / folder.files[test[i]]) as image:
            axes[0, k].imshow(middle(image.convert("RGB")))
        axes[0, k].set_axis_off()
        p = float(result.log_p[i, label[i]].exp())
        axes[0, k].set_title(f"{folder.classes[label[i]]}: p = {p:.2f}", fontsize=9)
        density = result.dist[i].expand((len(grid),)).log_prob(grid[:, None]).exp()
        axes[1, k].fill_between(grid, density, color=VERMILLION, alpha=0.25, lw=0)
        axes[1, k].plot(grid, density, color=VERMILLION, label="p(target | image)")
        axes[1, k].axvline(float(folder.target[test[i]]), color="k", ls="--", label="true target")
        axes[1, k].axhline(1, color="0.6", lw=0.8, ls=":", label="density 1: above, -log p < 0")
        axes[1, k].set(xlabel=folder.target_name, ylim=(0, None))
    axes[1, 0].set_ylabel("density (per unit of the target)")
    figure.legend(
        *axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure

r"""On the same frozen image features a class head has a loss above zero, a density head need not.

A backbone that is not trained turns an image into features (standardised by column, as the training
images have them). On them two heads are trained in one loop, on the same batches, by the same kind
of loss, the mean of $-\log p(\text{target} | x)$:

- the **class head**: Linear 512, ReLU, Dropout 0.2, Linear, LogSoftmax, with `NLLLoss`: a
  probability of one of the classes, at most 1, so the loss is at least 0;
- the **density head**: Linear 512, ReLU, Dropout 0.2, `mdn.MDNHead` (inside `mdn.MDN`, which knows
  the target's unit), with `-dist.log_prob(y).mean()`: a density of a continuous target, which may
  exceed 1, so the loss may pass below 0. In a unit 360 times smaller it is
  $\log 360 = 5.89$ nats higher, and the head as good as before.

Training images are random crops of 8 to 100 % of the area and of an aspect ratio of 3/4 to 4/3,
resized to 224 x 224; for testing the shorter side becomes 256 and the middle is taken. Both are
normalised by the mean and standard deviation of ImageNet's channels.

**Without `--images`** the images are drawn: pointers (class `arrow`), which have a head, and bars
(class `bar`), which have none, on a noisy ground. The continuous target is the direction in turns
(1 turn = 360 degrees), between 20 and 160 degrees or between 200 and 340. An arrow shows it; a bar
shows it up to half a turn, so the right answer for a bar has **two modes of equal mass**, which no
single number can give. The backbone is two layers of random filters.

**With `--images DIR`** DIR has a folder of images for each class. The continuous target is read
from `DIR/targets.csv` (`file,NAME`, paths below DIR) where there is one, and is the mean brightness
of the image otherwise. `--backbone densenet121` or another model of torchvision with its trained
weights needs torchvision (`pip install "mdn[vision]"`); from Python, `run(backbone=...)` takes any
module from (N, 3, 224, 224) to (N, ...).

C. Szegedy et al., Going deeper with convolutions, CVPR (2015), on the crops; G. Huang, Z. Liu, L.
van der Maaten, K. Q. Weinberger, Densely connected convolutional networks, CVPR (2017); C. M.
Bishop, *Mixture Density Networks*, Aston University NCRG/94/004 (1994).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import tempfile
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

from ._images import Folder, batch, draw_images, middle, read_folder

__all__ = [
    "MINUTES",
    "DATA",
    "SmallBackbone",
    "classifier_head",
    "density_head",
    "load_backbone",
    "report",
    "run",
]

MINUTES = 1.0
DATA = "none (drawn images); or a folder of images for each class, with --images"

HIDDEN, DROPOUT = 512, 0.2  # units and share
COMPONENTS = 4
RATE, BATCH = 1e-3, 32  # of Adam; rows
HELD_OUT = 0.25  # share of the images
DRAWN, FAST_DRAWN = 400, 24  # images a class
EPOCHS, FAST_EPOCHS = 20, 2
DIRECTIONS = 280 / 360  # turns, that the drawn directions cover
BOTH = 0.2  # least mass on either half turn of a density that has both
RUNNING = 20  # batches of the smoothed loss
SHOWN = 4  # images in the figure
BLUE, VERMILLION = "#0072b2", "#d55e00"

Floats = NDArray[np.float64]


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    images: Path | None = None,
    backbone: str | nn.Module = "small",
) -> dict[str, Any]:
    """Losses a batch of both heads, and test scores; draws losses.png and densities.png."""
    network = load_backbone(backbone, seed) if isinstance(backbone, str) else backbone
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
        order = rng.permutation(len(folder.files))
        n_test = max(1, round(HELD_OUT * len(order)))
        test, train = np.sort(order[:n_test]), order[n_test:]
        features = _features(folder, train, network, progress)
        network = Standardized(network, features)
        with torch.random.fork_rng(devices=[]):  # first weights, and dropout
            torch.manual_seed(seed)
            heads = {
                "class": classifier_head(features.shape[1], len(folder.classes)),
                "density": density_head(network.units(features), folder.target[train, None]),
            }
            epochs = FAST_EPOCHS if fast else EPOCHS
            losses = _train(heads, network, folder, train, epochs, rng, progress)
        result = _tested(heads, network, folder, test, progress)
        numbers = {
            "drawn": drawn,
            "backbone": backbone if isinstance(backbone, str) else type(backbone).__name__,
            "features": features.shape[1],
            "classes": folder.classes,
            "target": folder.target_name,
            "train_images": len(train),
            "test_images": len(test),
            "epochs": epochs,
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
    """How the two losses went, and how good the heads are on images that were kept apart."""
    first, last = ({k: v[i] for k, v in numbers["per_epoch"].items()} for i in (0, -1))
    lowest = {k: min(v) for k, v in numbers["losses"].items()}
    below = {k: sum(x < 0 for x in v) / len(v) for k, v in numbers["losses"].items()}
    source = "drawn images" if numbers["drawn"] else "images"
    lines = [
        f"{numbers['train_images']} {source} to train on, {numbers['test_images']} kept apart; "
        f"{numbers['epochs']} epochs; backbone `{numbers['backbone']}` "
        f"({numbers['features']} features), not trained.",
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
        "test NLL without looking at the image": numbers["constant_nll"],
    }
    for name, told in rows.items():
        lines.append(f"| {name} (nats) | {told['class']:.3f} | {told['density']:.3f} |")
    lines.append(f"| batches with a loss below 0 | {below['class']:.0%} | {below['density']:.0%} |")
    better = {k: numbers["test_nll"][k] < numbers["constant_nll"][k] for k in ("class", "density")}
    lines += [
        "",
        f"Test accuracy of the class head {numbers['accuracy']:.1%}, where the commonest class "
        f"makes {numbers['commonest']:.1%}.",
        "",
        *(
            f"**The {name} head has learnt nothing that helps on new images**: its test NLL is not "
            "below that of a guess."
            for name, good in better.items()
            if not good
        ),
        "",
        "A class has a probability, at most 1: no batch can have a loss below 0"
        f"{'' if lowest['class'] >= 0 else ' (**but one has**)'}. The target `{numbers['target']}` "
        f"has a density, which may be larger: {below['density']:.0%} of its batches are below 0.",
    ]
    if numbers["drawn"]:
        mass, both = numbers["mass_on_the_true_side"], numbers["both_sides"]
        axis = numbers["axis_error_degrees"]
        lines += [
            "",
            "| drawn images kept apart | mass on the true half turn, mean | at least "
            f"{BOTH:.0%} of the mass on either half | error of the axis, median (degrees) |",
            "|---|---:|---:|---:|",
            *(f"| {k} | {mass[k]:.2f} | {both[k]:.0%} | {axis[k]:.1f} |" for k in mass),
            "",
            "For a bar, whose two ends are alike, half of the mass on either side is right; for an "
            "arrow all of it on the true one. The axis is that of the highest mode, whichever end.",
        ]
    return "\n".join(lines)


# -- backbones and heads ----------------------------------------------------------------------


class SmallBackbone(nn.Module):
    """Two layers of random filters with means over 4 x 4 fields: (N, 3, 224, 224) to (N, 1024).

    Filters are orthonormal, so that none repeats another; they are not trained.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        first = nn.utils.skip_init(nn.Conv2d, 3, 32, 9, stride=4)  # no draw from torch's own
        second = nn.utils.skip_init(nn.Conv2d, 32, 64, 5, stride=2)
        generator = torch.Generator().manual_seed(seed)
        for layer in (first, second):
            nn.init.orthogonal_(layer.weight.flatten(1), gain=2.0, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(
            first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of images, (N, 1024)."""
        return self.layers(x)


class Standardized(nn.Module):
    """A backbone whose features are brought to mean 0 and standard deviation 1, column by column.

    Args:
        backbone: to (N, F), or to anything that flattens to it.
        features: of training images, (N, F): they set the units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, features: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        std = features.std(0)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", torch.where(std > 0, std, 1.0))  # a filter may see nothing

    def units(self, h: Tensor) -> Tensor:
        """Features in these units."""
        return (h - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Features of images, (N, F)."""
        return self.units(self.backbone(x).flatten(1))


def load_backbone(name: str, seed: int = 0) -> nn.Module:
    """``"small"``, or a model of torchvision with its trained weights, less its last layer.

    Raises:
        ValueError: torchvision is not there, has no such model, or one with another kind of end.
    """
    if name == "small":
        return SmallBackbone(seed)
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError:
        raise ValueError(
            f"backbone={name!r} needs torchvision; install it with pip install 'mdn[vision]', or "
            "take backbone='small'"
        ) from None
    if name not in models.list_models():
        raise ValueError(
            f"backbone must be 'small' or a model of torchvision, as 'densenet121'; got {name!r}"
        )
    model = models.get_model(name, weights="DEFAULT")
    for last in ("classifier", "fc", "heads", "head"):  # what its families call it
        if isinstance(getattr(model, last, None), nn.Module):
            setattr(model, last, nn.Identity())
            return model
    raise ValueError(f"backbone={name!r} has no last layer of a known name to take off")


def classifier_head(n_features: int, n_classes: int) -> nn.Sequential:
    """Log probabilities of the classes, (N, F) to (N, C)."""
    return nn.Sequential(
        nn.Linear(n_features, HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, n_classes),
        nn.LogSoftmax(-1),
    )


def density_head(features: Tensor, y: Tensor) -> mdn.MDN:
    """A mixture in the unit of y, (N, 1); features (N, F) of the training images set the units."""
    hidden = nn.Sequential(nn.Linear(features.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
    return mdn.MDN(HIDDEN, 1, COMPONENTS, backbone=hidden).standardize_(features, y)


# -- images -----------------------------------------------------------------------------------


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


# -- training and testing ---------------------------------------------------------------------


@torch.no_grad()
def _features(
    folder: Folder,
    rows: NDArray[np.int64],
    network: nn.Module,
    progress: Callable[[str], None],
) -> Tensor:
    """Features of the middles of images, (N, F)."""
    network.eval()
    parts = []
    for part in _batches(rows):
        parts.append(network(batch(folder, part)).flatten(1))
        progress(f"features of {sum(map(len, parts))} of {len(rows)} images")
    return torch.cat(parts)


def _loss(name: str, head: nn.Module, h: Tensor, folder: Folder, rows: Tensor) -> Tensor:
    """The mean of -log p(target | image): one expression, of a probability or of a density."""
    if name == "class":
        return F.nll_loss(head(h), folder.label[rows])
    return -head(h).log_prob(folder.target[rows, None]).mean()


def _train(
    heads: dict[str, nn.Module],
    network: nn.Module,
    folder: Folder,
    rows: NDArray[np.int64],
    epochs: int,
    rng: np.random.Generator,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Trains the heads on the same batches; the loss of each batch."""
    network.eval()
    optimizers = {name: torch.optim.Adam(head.parameters(), RATE) for name, head in heads.items()}
    losses: dict[str, list[float]] = {name: [] for name in heads}
    for epoch in range(epochs):
        for part in _batches(rng.permutation(rows)):
            with torch.no_grad():
                h = network(batch(folder, part, rng)).flatten(1)
            for name, head in heads.items():
                loss = _loss(name, head, h, folder, torch.from_numpy(part))
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
                losses[name].append(loss.item())
            now = ", ".join(f"{name} {values[-1]:.3f}" for name, values in losses.items())
            progress(f"epoch {epoch + 1} of {epochs}: {now}")
    return losses


class Tested(NamedTuple):
    """What the heads say of the images that were kept apart.

    Attributes:
        log_p: of the classes, (N, C).
        dist: of the continuous target, batch (N,).
    """

    log_p: Tensor
    dist: mdn.GaussianMixture


@torch.no_grad()
def _tested(
    heads: dict[str, nn.Module],
    network: nn.Module,
    folder: Folder,
    rows: NDArray[np.int64],
    progress: Callable[[str], None],
) -> Tested:
    h = _features(folder, rows, network, progress)
    return Tested(heads["class"].eval()(h), heads["density"].eval()(h))


def _scores(
    result: Tested,
    folder: Folder,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    drawn: bool,
) -> dict[str, Any]:
    """NLL, accuracy, and for drawn images what is known of the right density."""
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
        scores["constant_nll"]["density"] = math.log(DIRECTIONS)  # it is uniform over these
        left = result.dist.cdf(torch.full((len(y), 1), 0.5))  # on the first half turn
        right_side = torch.where(y < 0.5, left, 1 - left)
        both = torch.minimum(left, 1 - left) > BOTH
        off = (result.dist.mode[:, 0] - y + 0.25) % 0.5 - 0.25  # a bar has no direction
        of = {name: label == i for i, name in enumerate(folder.classes)}
        scores["mass_on_the_true_side"] = {k: float(right_side[v].mean()) for k, v in of.items()}
        scores["both_sides"] = {k: float(both[v].double().mean()) for k, v in of.items()}
        scores["axis_error_degrees"] = {
            k: float(360 * off[v].abs().median()) for k, v in of.items()
        }
    return scores


# -- pictures ---------------------------------------------------------------------------------


def _draw_losses(numbers: dict[str, Any]) -> Figure:
    """The loss of each batch, its running mean, and zero."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    lines = {
        "class": (BLUE, "-", f"class head: {' or '.join(numbers['classes'][:4])}"),
        "density": (VERMILLION, "--", f"density head: {numbers['target']}"),
    }
    for name, (colour, line, label) in lines.items():
        loss = np.array(numbers["losses"][name])
        width = min(RUNNING, len(loss))
        mean = np.convolve(loss, np.ones(width) / width, "valid")
        ax.plot(np.arange(1, len(loss) + 1), loss, color=colour, lw=0.7, alpha=0.4)
        ax.plot(np.arange(width, len(loss) + 1), mean, line, color=colour, lw=2, label=label)
    ax.axhline(0, color="k", lw=1)
    ax.text(
        0.99,
        0.02,
        "zero: a probability cannot pass below, a density can",
        fontsize=8,
        va="bottom",
        transform=ax.get_yaxis_transform(),
        ha="right",
    )
    ax.set(xlabel=f"batch of {BATCH} images", ylabel="loss: mean of -log p(target | image), nats")
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    return figure


@torch.no_grad()
def _draw_densities(result: Tested, folder: Folder, test: NDArray[np.int64]) -> Figure:
    """Some images that were kept apart, and the densities of their target."""
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
        axes[1, k].axvline(float(folder.target[test[i]]), color="k", ls="--", label="its target")
        axes[1, k].axhline(1, color="0.6", lw=0.8, ls=":", label="density 1: above, -log p < 0")
        axes[1, k].set(xlabel=folder.target_name, ylim=(0, None))
    axes[1, 0].set_ylabel("density")
    figure.legend(
        *axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure

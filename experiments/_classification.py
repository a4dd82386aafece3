"""What the experiments on digits share: images, networks, one training loop, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import mdn

__all__ = [
    "DATA",
    "Images",
    "chunks",
    "load_images",
    "log_probs",
    "mean_and_error",
    "mlp",
    "reliability",
    "train",
]

DATA = "MNIST (MDN_DATA, else 11 MB are downloaded once); without it scikit-learn's digits"
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of all training pixels, in shares of full brightness
FAST_ROWS = 6000  # training images of MNIST in a fast run
DIGITS_TEST = 360  # of scikit-learn's 1797 digits, those to test with: a fifth
DIGITS_SEED = 0  # of that split, the same in every run
TIMEOUT = 5.0  # seconds to wait for a server when digits would do
BINS = 15  # of confidence, as is usual for ECE
BLUE, VERMILLION, GREEN, PURPLE, BLACK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000"

Loss = Callable[[Tensor, Tensor], Tensor]


class Images(NamedTuple):
    """Images as rows of floats, with their classes.

    Attributes:
        x, y: to train with, float32 (N, F) and int64 (N,).
        x_test, y_test: to test with.
        name: "mnist", "digits" or that of the folder they come from.
        notice: what to know of the choice; empty if there is nothing.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    name: str
    notice: str


def load_images(
    data: str | None = None,
    fast: bool = False,
    *,
    normalise: bool = False,
    folder: str | None = None,
) -> Images:
    """MNIST, or scikit-learn's digits where it cannot be had.

    Args:
        data: "mnist" or "digits"; None takes MNIST if it is on the disk or can be downloaded soon
            (a fast run does not try), else the digits.
        fast: only the first 6000 training images.
        normalise: subtract the mean and divide by the standard deviation of all training pixels;
            else they are between 0 and 1.
        folder: read these IDX files instead.

    Raises:
        ValueError: data is neither.
        OSError: MNIST is asked for by name and cannot be had.
    """
    if data not in (None, "mnist", "digits"):
        raise ValueError(f"data must be 'mnist' or 'digits'; got {data!r}")
    if data == "digits":
        return _digits("they were asked for", normalise)
    soon = {} if data == "mnist" else {"download": not fast, "timeout": TIMEOUT}
    try:
        parts = [mdn.datasets.load_mnist(train, folder, **soon) for train in (True, False)]
    except OSError as error:
        if data == "mnist" or folder is not None:
            raise
        return _digits(str(error).partition(";")[0], normalise)
    keep = FAST_ROWS if fast else len(parts[0].labels)
    x, x_test = (torch.from_numpy(part.images[:keep]).flatten(1).float() / 255 for part in parts)
    if normalise:
        x, x_test = ((a - MNIST_MEAN) / MNIST_STD for a in (x, x_test))
    y, y_test = (torch.from_numpy(part.labels[:keep]) for part in parts)
    notice = f"the first {keep} training and test images" if fast else ""
    name = "mnist" if folder is None else folder.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return Images(x, y, x_test, y_test, name, notice)


def _digits(why: str, normalise: bool) -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(DIGITS_SEED))
    test, rest = order[:DIGITS_TEST], order[DIGITS_TEST:]
    if normalise:
        x = (x - x[rest].mean()) / x[rest].std()
    notice = f"scikit-learn's digits (1797 of 8 x 8 pixels) in place of MNIST: {why}"
    return Images(x[rest], y[rest], x[test], y[test], "digits", notice)


def mlp(widths: Sequence[int], seed: int, *last: nn.Module) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, then `last`; torch's own weights."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inside, outside in pairwise(widths):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *last)


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    epochs: int,
    seed: int,
    after_epoch: Callable[[int], None] = lambda epoch: None,
    max_steps: int | None = None,
) -> NDArray[np.float64]:
    """Minimises loss(net(x), y) over shuffled batches; returns the loss of every batch.

    Args:
        net: from (batch, F) to what the loss takes.
        x, y: all rows, (N, F) and (N,).
        loss: a scalar from the output of the net and the classes of a batch.
        optimizer: of the net, and of the loss if that has parameters.
        batch: rows a step; the last of an epoch may have fewer.
        epochs: passes over all rows.
        seed: of the order of the rows.
        after_epoch: called with the number of epochs done.
        max_steps: stop then.
    """
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            optimizer.zero_grad(set_to_none=True)
            value = loss(net(x[rows]), y[rows])
            value.backward()
            optimizer.step()
            losses.append(value.item())
            if len(losses) == max_steps:
                return np.array(losses)
        after_epoch(epoch + 1)
    return np.array(losses)


def log_probs(net: nn.Module, x: Tensor) -> Tensor:
    """Log probabilities of the classes, (N, C); of logits and of log probabilities alike."""
    net.eval()
    with torch.no_grad():
        return torch.cat([torch.log_softmax(net(part), -1) for part in x.split(4096)])


def chunks(values: NDArray[np.float64], size: int) -> list[float]:
    """Means of successive, whole groups of this many values."""
    whole = len(values) // size
    return [float(v) for v in values[: whole * size].reshape(whole, size).mean(1)]


def reliability(log_p: Tensor, y: Tensor, bins: int = BINS) -> dict[str, Any]:
    """How often the likeliest class is right, by how sure the model is, and ECE.

    The expected calibration error is the mean over all rows of |accuracy - confidence| of the bin
    they are in (Guo et al. 2017, eq. 3); bins have equal width.
    """
    top, guess = log_p.double().exp().max(-1)
    confidence, right = top.numpy(), (guess == y).numpy().astype(float)
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(where, minlength=bins)
    share = np.maximum(count, 1)
    mean = np.bincount(where, confidence, bins) / share
    accuracy = np.bincount(where, right, bins) / share
    return {
        "count": count.tolist(),
        "confidence": mean.tolist(),
        "accuracy": accuracy.tolist(),
        "ece": float(count @ np.abs(accuracy - mean) / count.sum()),
    }


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean of independent values and its standard error (0 for a single one)."""
    a = np.asarray(values, dtype=float)
    error = float(a.std(ddof=1) / math.sqrt(len(a))) if len(a) > 1 else 0.0
    return {"mean": float(a.mean()), "error": error}

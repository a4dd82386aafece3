"""Shared parts of the experiments on digits: images, networks, one training loop, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
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
    "evaluate",
    "load_images",
    "loader_orders",
    "log_probs",
    "mean_and_error",
    "mlp",
    "reliability",
    "repeated",
    "shuffled",
    "train",
]

DATA = "MNIST (MDN_DATA, else 11 MB are downloaded once); without it scikit-learn's digits"
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # of all training pixels, brightness between 0 and 1
FAST_ROWS = 6000  # training images of MNIST in a fast run
DIGITS_TEST = 360  # test images among scikit-learn's 1797 digits: a fifth
DIGITS_SEED = 0  # of this split, the same in every run
TIMEOUT = 5.0  # seconds to wait for a server if the digits are accepted instead
BINS = 15  # of confidence, the usual number for ECE

Loss = Callable[[Tensor, Tensor], Tensor]


class Images(NamedTuple):
    """Images as rows of floats, with their classes.

    Attributes:
        x, y: training rows, float32 (N, F) and int64 (N,).
        x_test, y_test: test rows.
        name: "mnist", "digits" or the name of the folder they come from.
        notice: a remark on the choice of data; empty if there is none.
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
    """Returns MNIST, or scikit-learn's digits if MNIST is not available.

    Args:
        data: "mnist" or "digits"; None takes MNIST if it is on the disk or can be downloaded
            quickly (a fast run does not try), else the digits.
        fast: take only the first 6000 training images.
        normalise: subtract the mean and divide by the standard deviation of all training pixels;
            otherwise pixels are between 0 and 1.
        folder: read the IDX files of this folder instead.

    Raises:
        ValueError: data is neither "mnist" nor "digits".
        OSError: data is "mnist" and MNIST is not available.
    """
    if data not in (None, "mnist", "digits"):
        raise ValueError(f"data must be 'mnist' or 'digits'; got {data!r}")
    if data == "digits":
        return _digits("as requested", normalise)
    limits = {} if data == "mnist" else {"download": not fast, "timeout": TIMEOUT}
    try:
        parts = [mdn.datasets.load_mnist(train, folder, **limits) for train in (True, False)]
    except OSError as error:
        if data == "mnist" or folder is not None:
            raise
        return _digits(str(error).partition(";")[0], normalise)
    keep = FAST_ROWS if fast else len(parts[0].labels)
    x, x_test = (torch.from_numpy(part.images[:keep]).flatten(1).float() / 255 for part in parts)
    if normalise:
        mean, std = (MNIST_MEAN, MNIST_STD) if folder is None else _mean_and_std(parts[0].images)
        x, x_test = ((a - mean) / std for a in (x, x_test))
    y, y_test = (torch.from_numpy(part.labels[:keep]) for part in parts)
    notice = f"the first {keep} training and test images" if fast else ""
    name = "mnist" if folder is None else folder.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return Images(x, y, x_test, y_test, name, notice)


def _mean_and_std(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Returns those of the brightness, between 0 and 1, of all pixels."""
    return float(pixels.mean()) / 255, float(pixels.std()) / 255


def _digits(reason: str, normalise: bool) -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(DIGITS_SEED))
    test, rest = order[:DIGITS_TEST], order[DIGITS_TEST:]
    if normalise:
        x = (x - x[rest].mean()) / x[rest].std()
    notice = f"scikit-learn's digits (1797 of 8 x 8 pixels) in place of MNIST: {reason}"
    return Images(x[rest], y[rest], x[test], y[test], "digits", notice)


def repeated(images: Images, passes: int) -> Images:
    """Returns the digits with each training row several times, and MNIST as it is.

    So an epoch has enough mini-batches for the means of the report.
    """
    if images.name != "digits":
        return images
    return images._replace(x=images.x.repeat(passes, 1), y=images.y.repeat(passes))


def mlp(widths: Sequence[int], seed: int | None, *last: nn.Module) -> nn.Sequential:
    """Returns linear layers with ReLU between them, then ``last``, with torch's initial weights.

    They are drawn from a generator of this seed, or, if it is None, from torch's default generator.
    """
    layers: list[nn.Module] = []
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        for inside, outside in pairwise(widths):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *last)


def shuffled(rows: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yields a random order of the rows for each epoch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield torch.randperm(rows, generator=generator)


def loader_orders(rows: int, epochs: int) -> Iterator[Tensor]:
    """Yields the order of the rows in each epoch of ``torch.utils.data.DataLoader(shuffle=True)``.

    It draws two numbers an epoch from torch's default generator, in which it thereby advances as
    the loader does: a base seed for its workers, and then the seed of the permutation.
    """
    for _ in range(epochs):
        _, seed = (int(torch.empty((), dtype=torch.int64).random_()) for _ in range(2))
        yield torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    orders: Iterable[Tensor],
    before_step: Callable[[int], None] = lambda step: None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> NDArray[np.float64]:
    """Minimises loss(net(x), y) over shuffled batches; returns the loss of every batch.

    Args:
        net: maps (batch, F) to the first argument of the loss.
        x, y: all rows, (N, F) and (N,).
        loss: a scalar from the output of the net and the classes of a batch.
        optimizer: of the parameters of the net, and of the loss if it has any.
        batch: rows per step; the last batch of an epoch may have fewer.
        orders: for each epoch the indices of its rows, as ``shuffled`` yields them.
        before_step: called with the number of steps taken so far.
        after_epoch: called with the number of completed epochs.
    """
    losses: list[float] = []
    for epoch, order in enumerate(orders):
        net.train()
        for rows in order.split(batch):
            before_step(len(losses))
            optimizer.zero_grad(set_to_none=True)
            value = loss(net(x[rows]), y[rows])
            value.backward()
            optimizer.step()
            losses.append(value.item())
        after_epoch(epoch + 1)
    return np.array(losses)


def log_probs(net: nn.Module, x: Tensor) -> Tensor:
    """Returns log probabilities of the classes, (N, C), of a net that returns these or logits."""
    training = net.training
    net.eval()
    with torch.no_grad():
        log_p = torch.cat([torch.log_softmax(net(part), -1) for part in x.split(4096)])
    net.train(training)
    return log_p


def evaluate(net: nn.Module, images: Images) -> tuple[float, float]:
    """Returns accuracy (a share) and NLL (nats) on the test images."""
    log_p = log_probs(net, images.x_test)
    accuracy = float((log_p.argmax(-1) == images.y_test).double().mean())
    return accuracy, float(nn.functional.nll_loss(log_p, images.y_test))


def chunks(values: NDArray[np.float64], size: int) -> list[float]:
    """Returns the means of successive groups of values; an incomplete group is dropped."""
    whole = len(values) // size
    return [float(v) for v in values[: whole * size].reshape(whole, size).mean(1)]


def reliability(log_p: Tensor, y: Tensor, bins: int = BINS) -> dict[str, Any]:
    """Returns accuracy and mean confidence in bins of the confidence, and ECE.

    The confidence is the probability of the most probable class. The expected calibration error is
    the mean over all rows of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3); bins
    have equal width.
    """
    top, predicted = log_p.double().exp().max(-1)
    confidence, correct = top.numpy(), (predicted == y).numpy().astype(float)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    divisor = np.maximum(count, 1)
    mean = np.bincount(index, confidence, bins) / divisor
    accuracy = np.bincount(index, correct, bins) / divisor
    return {
        "count": count.tolist(),
        "confidence": mean.tolist(),
        "accuracy": accuracy.tolist(),
        "ece": float(count @ np.abs(accuracy - mean) / count.sum()),
    }


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean of independent values and its standard error (0 for a single one)."""
    a = np.asarray(values, dtype=float)
    error = float(a.std(ddof=1) / math.sqrt(len(a))) if len(a) > 1 else 0.0
    return {"mean": float(a.mean()), "error": error}

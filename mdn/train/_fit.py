"""``fit``: options, the loop over epochs, and why it ends."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..arguments import check_flag, check_integer
from ._checkpoint import check_checkpoint, fingerprint, write
from ._data import Data, Marks, Rows, prepare
from ._history import History
from ._optimizers import AdamW
from ._options import check_options, fit_batch_size, seeded, warn_interrupted
from ._run import Run

__all__ = ["fit"]


def fit(
    module: nn.Module,
    train: Data,
    val: Data | None = None,
    *,
    max_epochs: int = 1000,
    batch_size: int | None = None,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    patience: int = 50,
    clip_norm: float | None = 10.0,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    max_time: float | None = None,
    missing: str = "refuse",
    ignore_index: int | None = None,
) -> History:
    """Trains ``module`` in place by maximum likelihood and returns the history.

    Minimises -sum(w * module(x).log_prob(y)) / sum(w) over minibatches. With validation data the
    module ends with the weights (parameters and buffers) of the epoch of lowest validation NLL,
    without with those of the last epoch. The same seed gives the same result bit for bit on the
    same machine; torch's global random state is as before afterwards. However training ends, also
    by an exception, the module is left with the best weights so far, in its former train or eval
    mode. Ctrl-C does not raise: it warns, writes the checkpoint of the last full epoch and returns.

    One value of y may be a row, (N,), or a place of one: with a distribution of batch shape (N, T)
    for the steps of a sequence, or (N, H, W) for the pixels of an image, the loss and the history
    are means over all places, in nats a place, and a weight of 0 leaves out a place that is only
    padding.

    Args:
        module: ``module(x)`` returns a torch Distribution with batch shape (N,) or (N, ...); where
            x is several tensors it is called ``module(*x)``. Batches are moved to the device of its
            first parameter; dtypes are left alone.
        train: tensors ``(x, y)`` or ``(x, y, weight)``: x (N, ...) or a tuple of such tensors, y
            ``(*batch_shape, *event_shape)`` (class indices stay integers), weight (N,) or of the
            batch shape, at least 0, where 0 leaves the row or place out, whatever y is there. Or a
            DataLoader of such batches; its order is then its own.
        val: the same for validation; None trains for ``max_epochs`` without early stopping.
        max_epochs: most passes over the training rows.
        batch_size: most rows in a batch; an epoch is cut into equal batches, give or take a row.
            None is the power of two next below N / 64, at least 32 and at most 512.
        lr: step size of AdamW; unused with ``optimizer``.  It stays the same.  Where the noise is a
            hundredth of the range of y or less, train once more with a tenth of it: the weights end
            nearer to the optimum.
        weight_decay: decoupled weight decay of AdamW; unused with ``optimizer``.
        patience: stop after this many epochs in a row without a lower validation NLL.
        clip_norm: longest gradient (Euclidean norm over all parameters) of a step; longer ones
            are scaled down to it. None turns it off.
        optimizer: an optimizer that holds the module's parameters; None is AdamW.
        seed: of the shuffling and of random layers such as dropout.
        progress: a progress bar on standard error; None shows it on a terminal only.
        checkpoint: file to write the whole state of training to, atomically; None writes none.
        checkpoint_every: epochs between two writes; the end and Ctrl-C write one too.
        resume: go on from ``checkpoint`` if that file exists. The result is that of a run without
            a break, unless a DataLoader draws its order from a generator of its own.
            ``max_epochs``, ``patience`` and ``max_time`` may differ from before.
        max_time: seconds after which no further epoch is begun in this call; at least one is run.
        missing: ``"refuse"`` NaN in y, or ``"marginal"``: a row counts by the marginal density of
            the dimensions that it has (:meth:`mdn.GaussianMixture.log_prob`), and one without any
            is left out.
        ignore_index: class label of what has no label, as -100: it is left out.

    Returns:
        The NLL of every epoch, the epoch kept and why training ended.

    Raises:
        TrainingError: a loss or a gradient is not finite.
        ValueError: data, options or the checkpoint do not fit.
        TypeError: data are not tensors, or the module does not return a distribution.
        FileExistsError: ``checkpoint`` exists and ``resume`` is False.
        FileNotFoundError: the folder of ``checkpoint`` does not exist.

    Example:
        >>> import torch
        >>> class Coin(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.logit = torch.nn.Parameter(torch.zeros(1))
        ...     def forward(self, x):
        ...         return torch.distributions.Bernoulli(logits=self.logit.expand(len(x)))
        >>> x, y = torch.zeros(8, 1), torch.tensor([1.0, 1, 1, 0, 1, 1, 1, 0])
        >>> history = fit(Coin(), (x, y), max_epochs=200, lr=0.1, weight_decay=0.0)
        >>> round(history.best_nll, 3)  # -0.75 log 0.75 - 0.25 log 0.25
        0.562
    """
    for name, flag in ("resume", resume), ("progress", progress):
        if flag is not None or name == "resume":
            check_flag(name, flag)
    check_integer("seed", seed, 0)
    for name, value in (
        ("max_epochs", max_epochs),
        ("patience", patience),
        ("checkpoint_every", checkpoint_every),
        ("lr", lr),
        ("weight_decay", weight_decay),
    ):
        if value is None:
            raise TypeError(f"{name} must be a number; got None")
    check_options(
        integers={
            "max_epochs": max_epochs,
            "patience": patience,
            "checkpoint_every": checkpoint_every,
            "batch_size": batch_size,
        },
        positive={"lr": lr, "clip_norm": clip_norm},
        not_negative={"weight_decay": weight_decay, "max_time": max_time},
    )
    if missing not in ("refuse", "marginal"):
        raise ValueError(f"missing must be 'refuse' or 'marginal'; got {missing!r}")
    if ignore_index is not None:
        check_integer("ignore_index", ignore_index, at_least=None)
    marks = Marks(missing, ignore_index)
    path = check_checkpoint(checkpoint, resume)
    if optimizer is None:
        optimizer = _adamw(module, lr, weight_decay)
    _check_optimizer(module, optimizer)
    device = next(module.parameters()).device
    rows = prepare("train", train, device, marks)
    val_rows = None if val is None else prepare("val", val, device, marks)
    if isinstance(rows, Rows):
        batch_size = batch_size or fit_batch_size(len(rows))
    elif batch_size is not None:
        raise ValueError(
            "batch_size applies to tensors; train is a loader, so set its own batch_size instead"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "clip_norm": clip_norm, "seed": seed}
    run = Run(module, optimizer, rows, val_rows, marks=marks, **options)
    saved = None

    # a draw, so that dropout and loaders do not follow the numbers of the shuffling
    own_seed = int(torch.randint(2**62, (), generator=run.shuffle))
    with (
        seeded(own_seed, run.cuda_devices),
        run.left_tidy(),
        _progress_bar(progress, max_epochs) as report,
    ):
        last_start = math.inf if max_time is None else run.begun + max_time
        if path is not None:
            run.fingerprint = fingerprint(module, optimizer, rows, val_rows, **options)
            if path.exists():
                run.load(path)
            saved = run.capture()
        first = run.epoch
        stopped = ""
        try:
            while not stopped:
                if run.bad_epochs >= patience:
                    stopped = "patience"
                elif run.epoch >= max_epochs:
                    stopped = "max_epochs"
                elif run.epoch > first and time.perf_counter() > last_start:
                    stopped = "max_time"
                else:
                    run.one_epoch()
                    report(run.history(""))
                    if path is not None:
                        saved = run.capture()
                        if run.epoch % checkpoint_every == 0:
                            write(path, saved)
        except KeyboardInterrupt:
            stopped = "interrupted"
        if path is not None and saved is not None:
            write(path, saved)
        if stopped == "interrupted":
            written = f"; {path} holds the state after the last full epoch" if path else ""
            warn_interrupted(run.epoch, run.kept, written)
        return run.history(stopped)


def _adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    params = [p for p in module.parameters() if p.requires_grad]
    if not params:
        raise ValueError("module must have parameters that require a gradient; it has none")
    try:  # One kernel for all parameters: a third of the time of the default on small networks.
        return AdamW(params, lr=lr, weight_decay=weight_decay, fused=True)
    except RuntimeError:  # No fused kernel for this device or dtype.
        return AdamW(params, lr=lr, weight_decay=weight_decay)


def _check_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}. "
            "Build it first, as torch.optim.SGD(module.parameters(), lr=0.01)"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held.isdisjoint(id(p) for p in module.parameters()):
        raise ValueError(
            "optimizer holds none of the module's parameters: build it from module.parameters() "
            "after the module is complete"
        )


@contextmanager
def _progress_bar(show: bool | None, max_epochs: int) -> Iterator[Callable[[History], None]]:
    """Yields a function that shows the epochs on standard error; rich is loaded only if it does."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda history: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.completed}/{task.total}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[nll]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=max_epochs, nll="")

        def report(history: History) -> None:
            nll = f"train {history.train_nll[-1]:.4f}"
            if history.val_nll:
                nll += f"  val {history.val_nll[-1]:.4f}  best {history.best_nll:.4f}"
            bar.update(task, completed=len(history), nll=nll)

        yield report

"""The state of a training run and one epoch of it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._checkpoint import FORMAT, named_tensors, read, restore, snapshot
from ._data import Batch, Marks, Rows, batches, scored
from ._history import History, TrainingError

__all__ = ["Run"]

# Rows of one validation forward pass: large enough to hide the cost of a call, small enough for
# the activations of a wide network to stay in cache and memory.
_VALIDATION_ROWS = 8192

# Attributes of a run that a checkpoint holds by their names.
_PROGRESS = ("best", "best_epoch", "bad_epochs", "train_nll", "val_nll")

_CAUSES = {
    "nan": "usually the learning rate is too high or x and y are not standardised: lower lr",
    "nan in y": "y of that batch holds NaN: leave such rows out, or pass missing='marginal'",
    "inf": "a row of y lies where the distribution has no density: check its support and y's unit",
    "-inf": "the density collapsed onto a point: put a floor under its scale",
    "gradient": "usually a scale close to zero: raise its floor, or lower lr",
}


class Run:
    """The state of a training run, and one epoch of it."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Rows | Iterable[Batch],
        val: Rows | Iterable[Batch] | None,
        *,
        marks: Marks,
        batch_size: int | None,
        clip_norm: float | None,
        seed: int,
    ) -> None:
        self.module, self.optimizer, self.train, self.val = module, optimizer, train, val
        self.marks = marks
        self.batch_size, self.clip_norm = batch_size, clip_norm
        self.device = next(module.parameters()).device
        self.params: list[nn.Parameter] = [p for g in optimizer.param_groups for p in g["params"]]
        # Gradients reach parameters that the optimizer does not hold too; all are reset.
        self.all_params = list(dict.fromkeys([*self.params, *module.parameters()]))
        self.cuda_devices = sorted(
            {t.device.index for t in named_tensors(module).values() if t.device.type == "cuda"}
        )
        self.shuffle = torch.Generator().manual_seed(seed)
        self.train_nll: list[float] = []
        self.val_nll: list[float] = []
        self.best = snapshot(module)
        self.best_epoch = -1
        self.bad_epochs = 0
        self.fingerprint: dict[str, str] = {}
        self.seen: set[tuple[torch.Size, ...]] = set()  # batch shapes already checked
        self.begun = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Epochs finished, which is the index of the next one."""
        return len(self.train_nll)

    @property
    def kept(self) -> str:
        """Which weights the module will be left with, in words."""
        return f"of epoch {self.best_epoch}" if self.best_epoch >= 0 else "it began with"

    def history(self, stopped: str) -> History:
        """Returns the history of the epochs finished so far."""
        seconds = time.perf_counter() - self.begun
        return History([*self.train_nll], [*self.val_nll], self.best_epoch, stopped, seconds)

    @contextmanager
    def left_tidy(self) -> Iterator[None]:
        """Leaves the module with its best weights, its former modes and no gradients."""
        modes = [(child, child.training) for child in self.module.modules()]
        try:
            yield
        finally:
            restore(self.module, self.best)
            for child, training in modes:
                child.training = training
            self.drop_gradients()

    def drop_gradients(self) -> None:
        """Resets every gradient."""
        for p in self.all_params:
            p.grad = None

    def one_epoch(self) -> None:
        """Trains on every row once, validates, and keeps the weights if they are the best."""
        train_nll, val_nll = self.train_epoch(), self.validate()
        better = val_nll is None or not self.val_nll or val_nll < self.val_nll[self.best_epoch]
        best = snapshot(self.module) if better else self.best
        self.train_nll.append(train_nll)
        if val_nll is not None:
            self.val_nll.append(val_nll)
        if better:
            self.best, self.best_epoch, self.bad_epochs = best, self.epoch - 1, 0
        else:
            self.bad_epochs += 1

    def train_epoch(self) -> float:
        """Takes one pass of gradient steps; returns the weighted mean loss (nats a value of y)."""
        self.module.train()
        total = weights = 0.0
        epoch = batches(self.train, self.batch_size, self.shuffle, self.device, self.marks)
        for index, batch in enumerate(epoch):
            loss, weight = self.loss(batch)
            self.drop_gradients()
            loss.backward()
            grads = [p.grad for p in self.params if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.cat([g.reshape(-1) for g in grads]))
            # Read after everything is queued: one synchronisation with a GPU a step, and before
            # the step could harm the weights.
            value, length, rows = loss.item(), norm.item(), float(weight)
            if not (math.isfinite(value) and math.isfinite(length)):
                raise self.error(index, value, length, batch.y)
            if self.clip_norm is not None and length > self.clip_norm:
                for g in grads:
                    g.mul_(self.clip_norm / length)
            self.optimizer.step()
            total += value * rows
            weights += rows
        if weights == 0:
            raise ValueError("train must yield rows of positive weight; the loader yielded none")
        return total / weights

    @torch.no_grad()
    def validate(self) -> float | None:
        """Returns the NLL of the present weights on the validation rows (nats a row), if any."""
        if self.val is None:
            return None
        self.module.eval()
        total = weights = 0.0
        for batch in batches(self.val, _VALIDATION_ROWS, None, self.device, self.marks):
            loss, weight = self.loss(batch)
            rows = float(weight)
            total += loss.item() * rows
            weights += rows
        if weights == 0:
            raise ValueError("val must yield rows of positive weight; the loader yielded none")
        if not math.isfinite(total):
            raise self.error(None, total, 0.0)
        return total / weights

    def loss(self, batch: Rows) -> tuple[Tensor, Tensor | int]:
        """Returns the mean NLL of a batch (nats a value of y) and the weight it stands for."""
        dist = self.module(*batch.x)
        log_prob, weight = scored(dist, batch, self.marks, check=batch.shapes not in self.seen)
        self.seen.add(batch.shapes)
        if weight is None:
            return -log_prob.mean(), log_prob.numel()
        total = weight.sum()
        least = torch.finfo(total.dtype).tiny  # where no value of the batch is known
        return -(weight * log_prob).sum() / total.clamp(min=least), total

    def error(
        self, batch: int | None, value: float, length: float, y: Tensor | None = None
    ) -> TrainingError:
        """The error of a loss ``value`` or, if that is finite, of a gradient norm, not finite."""
        where = "the validation pass" if batch is None else f"batch {batch}"
        if math.isfinite(value):
            what, cause, value = "the gradient norm", _CAUSES["gradient"], length
        else:
            what, cause = "the loss", _CAUSES[str(value)]
        if y is not None and bool(y.isnan().any()):
            cause = _CAUSES["nan in y"]
        message = (
            f"In epoch {self.epoch}, {where}, {what} became {value}: {cause}. "
            f"The module holds the weights {self.kept}"
        )
        return TrainingError(message, self.epoch, batch, value, self.history("error"))

    def capture(self) -> dict[str, Any]:
        """Copies everything a further epoch depends on, as tensors and plain containers."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "module": snapshot(self.module),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            **{name: copy.copy(getattr(self, name)) for name in _PROGRESS},
            "seconds": time.perf_counter() - self.begun,
            "shuffle": self.shuffle.get_state(),
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(index) for index in self.cuda_devices],
        }

    def load(self, path: Path) -> None:
        """Takes the state that ``capture`` wrote, after checking that it belongs to this run."""
        saved = read(path)
        differing = [
            f"{name} was {saved['fingerprint'].get(name)} and is {value}"
            for name, value in self.fingerprint.items()
            if saved["fingerprint"].get(name) != value
        ]
        if differing:
            raise ValueError(
                f"checkpoint {path} belongs to another run ({'; '.join(differing)}): "
                "give the same arguments, or another file"
            )
        restore(self.module, saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in _PROGRESS:
            setattr(self, name, saved[name])
        self.begun -= saved["seconds"]
        self.shuffle.set_state(saved["shuffle"])
        torch.set_rng_state(saved["cpu_rng"])
        for index, rng in zip(self.cuda_devices, saved["cuda_rng"], strict=True):
            torch.cuda.set_rng_state(rng, index)

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

from ._checkpoint import FORMAT, read
from ._data import Batch, batches, checked_log_prob
from ._history import History, TrainingError

# Rows of one validation forward pass: large enough to hide the cost of a call, small enough for
# the activations of a wide network to stay in cache and memory.
_VALIDATION_ROWS = 8192

_CAUSES = {
    "nan": "usually the learning rate is too high or x and y are not standardised: lower lr",
    "inf": "a row of y lies where the distribution has no density: check its support and y's unit",
    "-inf": "the density collapsed onto a point: put a floor under its scale",
    "gradient": "usually a scale close to zero: raise its floor, or lower lr",
}


class Run:
    """The state that a further epoch depends on, and the epoch itself."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        params: list[nn.Parameter],
        device: torch.device,
        seed: int,
        clip_norm: float | None,
    ) -> None:
        self.module, self.optimizer, self.params = module, optimizer, params
        self.device, self.clip_norm, self.seed = device, clip_norm, seed
        # Gradients reach parameters that the optimizer does not hold too; all are reset.
        self.all_params = list(dict.fromkeys([*params, *module.parameters()]))
        self.shuffle = torch.Generator().manual_seed(seed)
        self.cuda_devices = sorted(
            {t.device.index for t in named_tensors(module).values() if t.device.type == "cuda"}
        )
        self.train_nll: list[float] = []
        self.val_nll: list[float] = []
        self.best = snapshot(module)
        self.best_epoch = -1
        self.bad_epochs = 0
        self.seconds = 0.0
        self.begun = time.perf_counter()
        self.fingerprint: dict[str, str] = {}
        self.seen: set[tuple[torch.Size, torch.Size]] = set()  # batch shapes already checked

    @property
    def epoch(self) -> int:
        return len(self.train_nll)

    def history(self, stopped: str) -> History:
        return History(
            list(self.train_nll),
            list(self.val_nll),
            self.best_epoch,
            stopped,
            time.perf_counter() - self.begun,
        )

    def seed_global_generators(self) -> None:
        # A seed drawn from the shuffling generator, so that both streams differ.
        seed = int(torch.randint(2**62, (), generator=self.shuffle))
        torch.default_generator.manual_seed(seed)
        for index in self.cuda_devices:
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)

    @contextmanager
    def left_tidy(self) -> Iterator[None]:
        """Leave the module with its best weights, its former modes and no gradients."""
        modes = [(child, child.training) for child in self.module.modules()]
        try:
            yield
        finally:
            restore(self.module, self.best)
            for child, training in modes:
                child.training = training
            self.drop_gradients()

    def drop_gradients(self) -> None:
        for p in self.all_params:
            p.grad = None

    def one_epoch(
        self,
        train: tuple[Tensor, ...] | Iterable[Batch],
        val: tuple[Tensor, ...] | Iterable[Batch] | None,
        batch_size: int | None,
    ) -> None:
        train_nll = self.train_epoch(batches(train, batch_size, self.shuffle, self.device))
        val_nll = None
        if val is not None:
            val_nll = self.validate(batches(val, _VALIDATION_ROWS, None, self.device))
        first = self.best_epoch < 0
        if val_nll is None or first or val_nll < self.val_nll[self.best_epoch]:
            self.best, self.best_epoch, self.bad_epochs = snapshot(self.module), self.epoch, 0
        else:
            self.bad_epochs += 1
        if val_nll is not None:
            self.val_nll.append(val_nll)
        self.train_nll.append(train_nll)

    def train_epoch(self, batches: Iterator[Batch]) -> float:
        """One pass of gradient steps; the weighted mean of the losses (nats a row)."""
        self.module.train()
        params, clip_norm = self.params, self.clip_norm
        total = weights = 0.0
        for index, batch in enumerate(batches):
            loss, weight = self.loss(batch)
            self.drop_gradients()
            loss.backward()
            flat = [p.grad.reshape(-1) for p in params if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.cat(flat))
            # Read both once everything is queued: a GPU is waited for once a step, before the
            # step could harm the weights.
            value, length = loss.item(), norm.item()
            if not (math.isfinite(value) and math.isfinite(length)):
                raise self.error(index, value, length)
            if clip_norm is not None and length > clip_norm:
                for p in params:
                    if p.grad is not None:
                        p.grad.mul_(clip_norm / length)
            self.optimizer.step()
            rows = float(weight)
            total += value * rows
            weights += rows
        if weights == 0:
            raise ValueError("train must yield rows of positive weight; the loader yielded none.")
        return total / weights

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> float:
        """NLL of the present weights on the validation rows (nats a row)."""
        self.module.eval()
        total = weights = 0.0
        for batch in batches:
            loss, weight = self.loss(batch)
            rows = float(weight)
            total += loss.item() * rows
            weights += rows
        if weights == 0:
            raise ValueError("val must yield rows of positive weight; the loader yielded none.")
        if not math.isfinite(total):
            raise self.error(None, total, 0.0)
        return total / weights

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor | int]:
        """Mean NLL of a batch (nats a row) and the weight it stands for."""
        x, y, *weight = batch
        dist = self.module(x)
        shapes = x.shape, y.shape
        if shapes in self.seen:
            log_prob = dist.log_prob(y)  # (rows,)
        else:
            log_prob = checked_log_prob(dist, x, y)
            self.seen.add(shapes)
        if not weight:
            return -log_prob.mean(), len(log_prob)
        total = weight[0].sum()
        return -(weight[0] * log_prob).sum() / total, total

    def error(self, batch: int | None, value: float, length: float) -> TrainingError:
        where = "the validation pass" if batch is None else f"batch {batch}"
        if math.isfinite(value):
            what, cause, value = "the gradient norm", _CAUSES["gradient"], length
        else:
            what, cause = "the loss", _CAUSES[str(value)]
        kept = f"of epoch {self.best_epoch}" if self.best_epoch >= 0 else "it began with"
        message = (
            f"In epoch {self.epoch}, {where}, {what} became {value}: {cause}. "
            f"The module holds the weights {kept}."
        )
        return TrainingError(message, self.epoch, batch, value, self.history("error"))

    def capture(self) -> dict[str, Any]:
        """Copy everything a further epoch depends on, as tensors and plain containers."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "module": snapshot(self.module),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
            "train_nll": list(self.train_nll),
            "val_nll": list(self.val_nll),
            "seconds": time.perf_counter() - self.begun,
            "shuffle": self.shuffle.get_state(),
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(index) for index in self.cuda_devices],
        }

    def load(self, path: Path) -> None:
        """Take the state that `capture` wrote, after checking that it belongs to this run."""
        saved = read(path)
        differing = [
            f"{name} was {saved['fingerprint'].get(name)} and is {value}"
            for name, value in self.fingerprint.items()
            if saved["fingerprint"].get(name) != value
        ]
        if differing:
            raise ValueError(
                f"checkpoint {path} belongs to another run ({'; '.join(differing)}): "
                "give the same arguments, or another file."
            )
        restore(self.module, saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("best", "best_epoch", "bad_epochs", "train_nll", "val_nll", "seconds"):
            setattr(self, name, saved[name])
        self.shuffle.set_state(saved["shuffle"])
        torch.set_rng_state(saved["cpu_rng"])
        for index, rng in zip(self.cuda_devices, saved["cuda_rng"], strict=True):
            torch.cuda.set_rng_state(rng, index)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    # Not state_dict(): that leaves out buffers that are not persistent.
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in named_tensors(module).items()}


@torch.no_grad()
def restore(module: nn.Module, snapshot: dict[str, Tensor]) -> None:
    for name, t in named_tensors(module).items():
        t.copy_(snapshot[name])

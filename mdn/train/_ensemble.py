"""Training of an ensemble that is one module: all members in step, each stopped by its own rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ._history import History, TrainingError

__all__ = ["fit_ensemble"]

_WARM_UP = 5  # epochs over which the learning rate rises
_LEAST_RATE = 1e-3  # of the learning rate, where the cosine ends
_CLIP_NORM = 5.0  # of the gradient of one member
_CAP = 50.0  # nats; a held-out row beyond says nothing more about when to stop
_ROWS_AT_ONCE = 1 << 14  # rows x members of one forward pass without gradients


def fit_ensemble(
    module: nn.Module,
    x: Tensor,
    target: Tensor,
    held_out: Tensor,
    *,
    val: tuple[Tensor, Tensor] | None = None,
    weight: Tensor | None = None,
    log_prob: Callable[[Any, Tensor], Tensor] | None = None,
    lr: float = 2e-3,
    weight_decay: float = 1e-3,
    batch_size: int | None = None,
    max_epochs: int = 400,
    patience: int = 50,
    max_time: float | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> History:
    r"""Fits every member by maximum likelihood on the rows that it does not hold out.

    The loss is the sum over the members of their weighted mean negative log-likelihoods, so the
    gradients of one do not touch another.  AdamW, with a learning rate that rises over the first
    epochs and then follows a cosine.  After each epoch a member is scored by its held-out rows; it
    ends with the weights of its own best epoch, and costs nothing more once it has stopped.

    Args:
        module: its parameters have M as first axis; ``module(x (M, B, F))`` gives a distribution
            with batch (M, B), also when the parameters are those of fewer members.
        x: (N, F).
        target: (N, ...), what ``log_prob`` takes.
        held_out: (M, N) bool, the rows that stop a member and do not train it.
        val: rows (x, target) that stop all members instead; then nothing is held out.
        weight: (N,) weights of the rows; None for equal ones.
        log_prob: log-likelihood (M, B) of targets (M, B, ...) under the module's distribution; None
            for its density, by ``module.log_prob(x, target)`` where the module has that.
        lr: largest learning rate.
        weight_decay: of AdamW, for matrices only.
        batch_size: rows of a step of one member; None for about 2.7 sqrt(N).
        max_epochs: at most; the cosine ends there.
        patience: epochs without a better score before a member stops.
        max_time: seconds after which it ends; the cosine then ends there if that is earlier.
        seed: of batches and dropout.
        report: called after each epoch with the number of epochs done and of all.

    Returns:
        The history: means over the members of their training and held-out NLL.

    Raises:
        TrainingError: a member whose held-out NLL was never finite.
    """
    members = len(held_out)
    device = x.device
    # a generator each: what a member sees does not hang on when the others stop
    shuffle = [torch.Generator().manual_seed(seed + 15_485_863 * m) for m in range(members)]
    used = [(~row).nonzero().squeeze(1) for row in held_out.cpu()]
    shortest = min(len(rows) for rows in used)
    size = _rows_a_step(shortest, batch_size)
    steps = max(1, shortest // size)
    if val is None:
        val_x, val_target, val_weight = _held_out(x, target, held_out, weight)
    else:
        val_x, val_target = (a.expand(members, *a.shape) for a in val)
        val_weight = x.new_ones(val_target.shape[:2])
    likelihood = _likelihood(module, log_prob)
    alike: dict[tuple[bool, bool, torch.dtype], list[nn.Parameter]] = {}
    for p in module.parameters():
        matrix = p.ndim > 2 and min(p.shape[1:]) > 1
        alike.setdefault((p.requires_grad, matrix, p.dtype), []).append(p)
    flats = [_Flat(params) for params in alike.values()]
    trained, groups = [], []
    for (learns, matrix, _), flat in zip(alike, flats, strict=True):
        if learns:
            trained.append(flat)
            decay = weight_decay if matrix else 0.0
            groups.append({"params": [flat.values], "weight_decay": decay})
    optimizer = torch.optim.AdamW(
        groups,
        lr=lr,
        fused=device.type in ("cpu", "cuda"),
    )
    best = x.new_full((members,), math.inf)
    best_epoch = torch.zeros(members, dtype=torch.long, device=device)
    kept = [flat.values.clone() for flat in flats]
    alive = torch.arange(members)
    last_loss, last_score = x.new_zeros(members), x.new_zeros(members)
    train_nll, val_nll = [], []
    stopped = "max_epochs"
    start = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # of the dropout
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        for epoch in range(max_epochs):
            order = torch.stack(
                [_shuffled(used[m], shuffle[m])[: steps * size] for m in alive.tolist()]
            ).to(device)
            module.train()
            losses = []
            for step in range(steps):
                done = (epoch * steps + step) / (max_epochs * steps)
                if max_time is not None:
                    done = max(done, (time.monotonic() - start) / max_time)
                rate = max(_LEAST_RATE, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
                rate *= min(1.0, (epoch * steps + step + 1) / (_WARM_UP * steps))
                for group in optimizer.param_groups:
                    group["lr"] = lr * rate
                rows = order[:, step * size : (step + 1) * size]
                w = None if weight is None else weight[rows]
                losses.append(_gradients(trained, likelihood, x[rows], target[rows], w))
                optimizer.step()
            module.eval()
            score = _score(likelihood, val_x, val_target, val_weight)
            at = alive.to(device)
            better = score < best[at]  # not where it is NaN
            best[at] = torch.where(better, score, best[at])
            best_epoch[at[better]] = epoch
            for old, flat in zip(kept, flats, strict=True):
                old[at[better]] = flat.values[better]
            last_loss[at], last_score[at] = torch.stack(losses).mean(0), score
            train_nll.append(float(last_loss.mean()))
            val_nll.append(float(last_score.mean()))
            if report is not None:
                report(epoch + 1, max_epochs)
            going = epoch - best_epoch[at] < patience
            if not bool(going.any()):
                stopped = "patience"
                break
            if not bool(going.all()):
                alive = alive[going.cpu()]
                val_x, val_target, val_weight = val_x[going], val_target[going], val_weight[going]
                for flat in flats:
                    flat.narrow(optimizer, going)
            if max_time is not None and time.monotonic() - start > max_time:
                stopped = "max_time"
                break
    for flat, values in zip(flats, kept, strict=True):
        flat.part(values)
    module.eval()
    typical = int(best_epoch.double().mean().round())
    history = History(train_nll, val_nll, typical, stopped, time.monotonic() - start)
    if not bool(best.isfinite().all()):
        member = int((~best.isfinite()).nonzero()[0])
        raise TrainingError(
            f"the held-out NLL of member {member} was never finite: lower learning_rate, or look "
            "for values of y far outside the others",
            len(train_nll) - 1,
            None,
            float(best[member]),
            history,
        )
    return history


def _rows_a_step(n: int, batch_size: int | None) -> int:
    """About 2.7 sqrt(n), a power of two: steps as noisy as they are cheap."""
    if batch_size is None:
        batch_size = 2 ** round(math.log2(2.7 * math.sqrt(n)))
    return max(1, min(batch_size, n))


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


class _Flat:
    """Parameters (M, ...) side by side in one tensor (M, P), of which each is a view.

    Optimizer and clipping then do a few operations, not a few for each parameter.
    """

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.values = torch.cat([p.detach().flatten(1) for p in params], 1)
        self._show()

    def _show(self) -> None:
        parts = self.values.split([p[0].numel() for p in self.params], 1)
        for p, part in zip(self.params, parts, strict=True):
            p.grad = None
            p.data = part.unflatten(1, p.shape[1:])

    def gather(self) -> Tensor:
        """The gradients in one tensor (M, P), where the optimizer looks for them."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        self.values.grad = torch.cat([g.flatten(1) for g in grads], 1)
        for p in self.params:
            p.grad = None
        return self.values.grad

    def narrow(self, optimizer: torch.optim.Optimizer, going: Tensor) -> None:
        """Keeps the members that go on, here and in what the optimizer knows of them."""
        for name, value in optimizer.state[self.values].items():
            if value.shape == self.values.shape:  # not the count of steps
                optimizer.state[self.values][name] = value[going]
        self.values.grad = None
        self.values.data = self.values[going]
        self._show()

    def part(self, values: Tensor) -> None:
        """Gives every parameter a tensor of its own again, with these values."""
        self.values = values
        self._show()
        for p in self.params:
            p.data = p.data.clone(memory_format=torch.contiguous_format)


def _held_out(
    x: Tensor, target: Tensor, held_out: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets and weights of each member's held-out rows, padded to one length."""
    longest = int(held_out.sum(1).max())
    index, weights = [], []
    for row in held_out:
        own = row.nonzero().squeeze(1)
        w = x.new_ones(len(own)) if weight is None else weight[own]
        index.append(torch.cat([own, own[:1].expand(longest - len(own))]))
        weights.append(torch.cat([w, w.new_zeros(longest - len(own))]))
    rows = torch.stack(index)
    return x[rows], target[rows], torch.stack(weights)


def _likelihood(
    module: nn.Module, log_prob: Callable[[Any, Tensor], Tensor] | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Log-likelihood of targets given x."""
    if log_prob is not None:
        return lambda x, target: log_prob(module(x), target)
    if hasattr(module, "log_prob"):
        return cast(Callable[[Tensor, Tensor], Tensor], module.log_prob)
    return lambda x, target: module(x).log_prob(target)


def _gradients(
    flats: list[_Flat],
    likelihood: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
) -> Tensor:
    """Sets the clipped gradients of one batch (M, B); the members' losses, (M,)."""
    log_p = likelihood(x, target)
    if weight is None:
        share = log_p.new_full((), -1 / log_p.shape[1]).expand_as(log_p)
    else:
        share = -weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    log_p.backward(share)
    _clip([flat.gather() for flat in flats])
    return (share * log_p.detach()).sum(1)


def _clip(grads: list[Tensor]) -> None:
    """Bounds the norm of each member's gradient, (M, P): one bad batch costs only a step."""
    norm = torch.stack([g.square().sum(1) for g in grads]).sum(0).sqrt()
    factor = _CLIP_NORM / norm.clamp(min=_CLIP_NORM)
    if bool((factor < 1).any()):
        for g in grads:
            g.mul_(factor.unsqueeze(1))


@torch.no_grad()
def _score(
    likelihood: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """Weighted mean NLL of each member's own rows, (M,)."""
    step = max(1, _ROWS_AT_ONCE // len(x))
    parts = [
        likelihood(x[:, i : i + step], target[:, i : i + step]) for i in range(0, x.shape[1], step)
    ]
    nll = -torch.cat(parts, 1).clamp(min=-_CAP)
    return (weight * nll).sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)

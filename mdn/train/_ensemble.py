"""Training of an ensemble in one module: all members at once, each stopped by its own rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ._history import History, TrainingError
from ._optimizers import AdamW
from ._options import check_options, ensemble_batch_size, seeded, warn_interrupted

__all__ = ["fit_ensemble"]

clock = time.monotonic
_WARM_UP = 5  # epochs over which the learning rate rises
_WARM_UP_TIME = 0.1  # of max_time, if that is shorter
_LEAST_RATE = 1e-3  # of the learning rate, where the cosine ends
_CLIP_NORM = 5.0  # largest norm of the gradient of one member
_CAP = 50.0  # nats; an outlier among the held-out rows counts at most so much in early stopping
# The weights that are scored and kept are a mean over about this share of the steps so far, in
# which the noise of single steps is averaged out; over so many steps at most.
_MEAN_SHARE, _MEAN_STEPS = 0.1, 100
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
    gradient of a member depends on that member only.  The optimizer is AdamW, with a learning rate
    that rises over the first epochs and then follows a cosine.  After each epoch a member is scored
    by its held-out rows, with a mean of its weights over the last tenth of the steps, 100 at most;
    it ends with the mean weights of its own best epoch, and is computed no more once it has
    stopped.  Ctrl-C does not raise: it warns, keeps the best weights and returns.

    Args:
        module: its parameters have M as first axis; ``module(x (M, B, F))`` gives a distribution
            with batch (M, B), also when the parameters are those of fewer members.
        x: (N, F).
        target: (N, ...), what ``log_prob`` takes.
        held_out: (M, N) bool, the rows that score a member and do not train it.
        val: rows (x, target) that score all members instead; then no row is held out.
        weight: (N,) weights of the rows; None for equal ones.
        log_prob: log-likelihood (M, B) of targets (M, B, ...) under the module's distribution; None
            for its density, by ``module.log_prob(x, target)`` where the module has that.
        lr: largest learning rate.
        weight_decay: of AdamW, for matrices only.
        batch_size: rows of a step of one member; None for about 2.7 sqrt(N).
        max_epochs: at most; the cosine ends there.
        patience: epochs without a better score before a member stops.
        max_time: seconds after which training ends, also within an epoch, after one step at least;
            the cosine ends there if that is earlier.
        seed: of batches and dropout.
        report: called after each epoch with the number of epochs done and ``max_epochs``.

    Returns:
        The history: means over the members of their training and held-out NLL, the epoch where
        the latter is lowest, and the best epoch of each member, whose weights it holds.

    Raises:
        TrainingError: a member whose held-out NLL was never finite.
        TypeError, ValueError: an option out of its range.

    References:
        O. Shamir, T. Zhang, Stochastic Gradient Descent for Non-smooth Optimization (2013), section
        4: the mean in which the weight of an iterate falls as a power of its age.
    """
    check_options(
        integers={"max_epochs": max_epochs, "patience": patience, "batch_size": batch_size},
        positive={"lr": lr},
        not_negative={"weight_decay": weight_decay, "max_time": max_time},
    )
    rows = _Rows(x, target, held_out, weight, val, batch_size, seed)
    schedule = _Schedule(lr, rows.steps, max_epochs, max_time)
    run = _Run(module, _likelihood(module, log_prob), rows, weight_decay)
    stopped = "max_epochs"
    with seeded(seed, [x.device] if x.device.type == "cuda" else []):
        try:
            while run.epoch < max_epochs:
                run.train_epoch(schedule)
                run.validate()
                if report is not None:
                    report(run.epoch, max_epochs)
                if not run.narrow(patience):
                    stopped = "patience"
                    break
                if schedule.is_over():
                    stopped = "max_time"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            run.finish()
    history = run.history(stopped, schedule.seconds())
    if stopped == "interrupted":
        kept = "of each member's best epoch" if run.epoch else "it began with"
        warn_interrupted(run.epoch, kept)
    else:
        run.check_finite(history)
    return history


class _Rows:
    """The rows that train each member, in batches, and those that score it."""

    def __init__(
        self,
        x: Tensor,
        target: Tensor,
        held_out: Tensor,
        weight: Tensor | None,
        val: tuple[Tensor, Tensor] | None,
        batch_size: int | None,
        seed: int,
    ) -> None:
        self.x, self.target, self.weight = x, target, weight
        self.members = len(held_out)
        self.used = [(~row).nonzero().squeeze(1) for row in held_out.cpu()]
        # one generator for each: the batches of a member do not depend on when the others stop
        self.shuffle = [
            torch.Generator().manual_seed(seed + 15_485_863 * m) for m in range(self.members)
        ]
        shortest = min(len(rows) for rows in self.used)
        self.size = max(1, min(batch_size or ensemble_batch_size(shortest), shortest))
        self.steps = max(1, shortest // self.size)
        if val is None:  # padded to one length by rows of weight 0
            own = [row.nonzero().squeeze(1) for row in held_out]
            index = pad_sequence(own, batch_first=True)
            weights = [x.new_ones(len(rows)) if weight is None else weight[rows] for rows in own]
            self.scoring = x[index], target[index], pad_sequence(weights, batch_first=True)
        else:
            val_x, val_target = (a.expand(self.members, *a.shape) for a in val)
            self.scoring = val_x, val_target, x.new_ones(val_target.shape[:2])

    def batches(self, active: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """The batches (A, B) of one epoch of the active members."""
        used = [(self.used[m], self.shuffle[m]) for m in active.tolist()]
        each = [rows[torch.randperm(len(rows), generator=shuffle)] for rows, shuffle in used]
        order = torch.stack([rows[: self.steps * self.size] for rows in each]).to(self.x.device)
        for rows in order.split(self.size, 1):
            weight = None if self.weight is None else self.weight[rows]
            yield self.x[rows], self.target[rows], weight


class _Schedule:
    """The learning rate: a linear rise over the first epochs, times a cosine."""

    def __init__(self, lr: float, steps: int, max_epochs: int, max_time: float | None) -> None:
        self.lr, self.steps, self.total = lr, steps, max_epochs * steps
        self.max_time = math.inf if max_time is None else max(max_time, 1e-9)  # which is divided by
        self.start = clock()

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0 over all epochs."""
        done, rise = step / self.total, (step + 1) / (_WARM_UP * self.steps)
        late = self.seconds() / self.max_time
        if late > (step + 1) / self.total:  # the time will end before the epochs do
            done, rise = late, max(rise, late / _WARM_UP_TIME)
        factor = max(_LEAST_RATE, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))
        factor *= min(1.0, rise)
        return self.lr * factor

    def is_over(self) -> bool:
        """Whether the time has ended."""
        return self.seconds() > self.max_time

    def seconds(self) -> float:
        """Time since the start, s."""
        return clock() - self.start


class _Run:
    """The members in training: parameters, optimizer, and the best weights of each so far."""

    def __init__(
        self,
        module: nn.Module,
        likelihood: Callable[[Tensor, Tensor], Tensor],
        rows: _Rows,
        weight_decay: float,
    ) -> None:
        self.module, self.likelihood, self.rows = module, likelihood, rows
        alike: dict[tuple[bool, bool, torch.dtype], list[nn.Parameter]] = {}
        for p in module.parameters():
            matrix = p.ndim > 2 and min(p.shape[1:]) > 1
            alike.setdefault((p.requires_grad, matrix, p.dtype), []).append(p)
        self.flats = [_Flat(params) for params in alike.values()]
        self.trained, groups = [], []
        for (learns, matrix, _), flat in zip(alike, self.flats, strict=True):
            if learns:
                self.trained.append(flat)
                decay = weight_decay if matrix else 0.0
                groups.append({"params": [flat.values], "weight_decay": decay})
        x = rows.x
        self.optimizer = AdamW(groups, fused=x.device.type in ("cpu", "cuda"))
        self.active = torch.arange(rows.members)
        self.best = x.new_full((rows.members,), math.inf)
        self.best_epoch = torch.full((rows.members,), -1, device=x.device)
        self.kept = [flat.values.clone() for flat in self.flats]
        self.loss, self.score = x.new_zeros(rows.members), x.new_zeros(rows.members)
        self.train_nll: list[float] = []
        self.val_nll: list[float] = []

    @property
    def epoch(self) -> int:
        """Epochs finished, which is the index of the next one."""
        return len(self.val_nll)

    def train_epoch(self, schedule: _Schedule) -> None:
        """Takes one pass of gradient steps of the active members."""
        self.module.train()
        losses: list[Tensor] = []
        first = self.epoch * self.rows.steps
        for step, batch in enumerate(self.rows.batches(self.active), first):
            if losses and schedule.is_over():
                break
            rate = schedule.rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            losses.append(self.gradients(*batch))
            self.optimizer.step()
            steps = min(1 + _MEAN_SHARE * (step + 1), _MEAN_STEPS)
            for flat in self.trained:
                flat.follow(1 / steps)
        self.loss[self.active.to(self.loss.device)] = torch.stack(losses).mean(0)

    def gradients(self, x: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Sets the clipped gradients of one batch (M, B); the members' losses, (M,)."""
        log_p = self.likelihood(x, target)
        if weight is None:
            share = log_p.new_full((), -1 / log_p.shape[1]).expand_as(log_p)
        else:
            share = -weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        weighted = share * log_p
        # the sum, as torch loads its symbolic algebra, for a second, where gradients are given
        weighted.sum().backward()
        grads = [flat.gather() for flat in self.trained]
        # the norm of each member's gradient is bounded: one bad batch costs only a step
        norm = torch.stack([g.square().sum(1) for g in grads]).sum(0).sqrt()
        factor = _CLIP_NORM / norm.clamp(min=_CLIP_NORM)
        if bool((factor < 1).any()):
            for g in grads:
                g.mul_(factor.unsqueeze(1))
        return weighted.detach().sum(1)

    @torch.no_grad()
    def validate(self) -> None:
        """Scores the active members, and keeps the weights of those that are better than before."""
        self.module.eval()
        for flat in self.trained:
            flat.swap()
        x, target, weight = self.rows.scoring
        step = max(1, _ROWS_AT_ONCE // len(x))
        parts = zip(x.split(step, 1), target.split(step, 1), strict=True)
        nll = -torch.cat([self.likelihood(*rows) for rows in parts], 1).clamp(min=-_CAP)
        score = (weight * nll).sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
        at = self.active.to(score.device)
        better = score < self.best[at]  # False where it is NaN
        self.best[at] = torch.where(better, score, self.best[at])
        self.best_epoch[at[better]] = self.epoch
        for kept, flat in zip(self.kept, self.flats, strict=True):
            kept[at[better]] = flat.values[better]
        for flat in self.trained:
            flat.swap()
        self.score[at] = score
        self.train_nll.append(float(self.loss.mean()))
        self.val_nll.append(float(self.score.mean()))

    def narrow(self, patience: int) -> bool:
        """Removes the members without a better score for too long; whether any is left."""
        best = self.best_epoch[self.active.to(self.best.device)].clamp(min=0)
        going = self.epoch - 1 - best < patience
        if not bool(going.any()):
            return False
        if not bool(going.all()):
            self.active = self.active[going.cpu()]
            x, target, weight = self.rows.scoring
            self.rows.scoring = x[going], target[going], weight[going]
            for flat in self.flats:
                flat.narrow(self.optimizer, going)
        return True

    def finish(self) -> None:
        """Leaves all members with their best weights, in eval mode."""
        for flat, values in zip(self.flats, self.kept, strict=True):
            flat.separate(values)
        self.module.eval()

    def history(self, stopped: str, seconds: float) -> History:
        """The means over the members, and the best epoch of each."""
        mean = torch.tensor(self.val_nll).nan_to_num(nan=math.inf)
        lowest = int(mean.argmin()) if self.epoch else -1
        each = self.best_epoch.tolist()
        return History(self.train_nll, self.val_nll, lowest, stopped, seconds, each)

    def check_finite(self, history: History) -> None:
        """Raises if a member never had a finite score."""
        if bool(self.best.isfinite().all()):
            return
        member = int((~self.best.isfinite()).nonzero()[0])
        raise TrainingError(
            f"the held-out NLL of member {member} was never finite: lower learning_rate, or look "
            "for values of y far outside the others",
            self.epoch - 1,
            None,
            float(self.best[member]),
            history,
        )


class _Flat:
    """Parameters (M, ...) concatenated in one tensor (M, P), of which each becomes a view.

    Optimizer and clipping then take a few operations in all instead of a few for each parameter.
    ``mean`` is the mean of the values over the last steps.
    """

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.params = params
        self.values = torch.cat([p.detach().flatten(1) for p in params], 1)
        self.mean = self.values.clone()
        self._set_views()

    def _set_views(self) -> None:
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

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Moves the mean towards the values, by this share of the way."""
        self.mean.lerp_(self.values, share)

    @torch.no_grad()
    def swap(self) -> None:
        """Puts the mean in the place of the values, and the values in that of the mean."""
        own = self.values.clone()
        self.values.copy_(self.mean)
        self.mean = own

    def narrow(self, optimizer: torch.optim.Optimizer, going: Tensor) -> None:
        """Keeps the members that go on, here and in the state of the optimizer."""
        for name, value in optimizer.state[self.values].items():
            if value.shape == self.values.shape:  # not the number of steps
                optimizer.state[self.values][name] = value[going]
        self.values.grad = None
        self.values.data, self.mean = self.values[going], self.mean[going]
        self._set_views()

    def separate(self, values: Tensor) -> None:
        """Gives every parameter a tensor of its own again, with these values."""
        self.values = values
        self._set_views()
        for p in self.params:
            p.data = p.data.clone(memory_format=torch.contiguous_format)


def _likelihood(
    module: nn.Module, log_prob: Callable[[Any, Tensor], Tensor] | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Log-likelihood of targets given x."""
    if log_prob is not None:
        return lambda x, target: log_prob(module(x), target)
    if hasattr(module, "log_prob"):
        return cast(Callable[[Tensor, Tensor], Tensor], module.log_prob)
    return lambda x, target: module(x).log_prob(target)

"""What a training run reports: its history, or the error that ended it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["History", "TrainingError"]


@dataclass(frozen=True, repr=False)
class History:
    """What one training run measured, epoch by epoch.

    NLLs are in nats per row, in the unit of y, or per place where a row has several (the steps of
    a sequence, the pixels of an image). Index 0 is the first epoch.

    Args:
        train_nll: weighted mean of the minibatch losses of each epoch, taken while the weights
            moved and with dropout on: it is not the NLL of the final weights on the training set.
        val_nll: NLL on the validation rows after each epoch; empty without validation data. Of an
            ensemble the mean over its members, a stopped one with its last NLL.
        best_epoch: index of the epoch of lowest validation NLL, or the last one without validation
            data; -1 if no epoch was finished. The module holds the weights of that epoch, an
            ensemble those of each member's own.
        stopped: why training ended: "max_epochs", "patience", "max_time", "interrupted", or, in
            the history of a ``TrainingError``, "error".
        seconds: time spent, s, including the runs that were resumed.
        member_best_epochs: of an ensemble, the epoch whose weights each member holds, the one of
            its own lowest NLL (-1 for none); empty of a single module.

    Example:
        >>> History([2.0, 1.5, 1.2], [2.1, 1.4, 1.6], 1, "patience", 0.5)
        History(3 epochs, best_nll=1.4 at epoch 1, stopped='patience', 0.5 s)
    """

    train_nll: list[float] = field(default_factory=list)
    val_nll: list[float] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = "max_epochs"
    seconds: float = 0.0
    member_best_epochs: list[int] = field(default_factory=list)

    @property
    def best_nll(self) -> float:
        """NLL of epoch ``best_epoch`` (nats): on validation data if there is any, else training."""
        if self.best_epoch < 0:
            return math.nan
        return (self.val_nll or self.train_nll)[self.best_epoch]

    def shifted(self, offset: float, val_offset: float | None = None) -> History:
        """The same history with ``offset`` nats added to every NLL.

        A change of unit y' = c y adds log|c| nats for each dimension of y.

        Args:
            offset: nats to add.
            val_offset: nats to add to those of the validation rows, if they are others.

        Returns:
            A new history.

        Example:
            >>> History([1.0], [], 0).shifted(0.5).train_nll
            [1.5]
        """
        return replace(
            self,
            train_nll=[value + offset for value in self.train_nll],
            val_nll=[
                value + (offset if val_offset is None else val_offset) for value in self.val_nll
            ],
        )

    def __len__(self) -> int:
        return len(self.train_nll)

    def __repr__(self) -> str:
        return (
            f"History({len(self)} epochs, best_nll={self.best_nll:.6g} at epoch {self.best_epoch}, "
            f"stopped={self.stopped!r}, {self.seconds:.3g} s)"
        )


class TrainingError(RuntimeError):
    """Training met a loss or a gradient that is not finite; the weights were not harmed.

    The module holds the best weights of the epochs finished before (the initial ones if there
    were none).

    Args:
        message: what happened, its usual cause and the cure.
        epoch: epoch it happened in, from 0.
        batch: batch within the epoch, from 0; None in the validation pass.
        value: the loss (nats) or the gradient norm that is not finite.
        history: the epochs finished before.
    """

    def __init__(
        self, message: str, epoch: int, batch: int | None, value: float, history: History
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.value = value
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by their message alone; a worker process has to send all five.
        return type(self), (self.args[0], self.epoch, self.batch, self.value, self.history)

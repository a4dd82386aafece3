"""Tests of the training loop, on small modules that return torch's own distributions."""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

from mdn.nn import MDNEnsemble
from mdn.train import History, TrainingError, _ensemble, fit, fit_ensemble

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


class Gaussian(nn.Module):
    """Normal with linear mean and one scale; records what it is shown, can interrupt itself."""

    def __init__(self, n_features: int = 2, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            width = hidden or n_features
            self.body = (
                nn.Sequential(nn.Linear(n_features, hidden), nn.BatchNorm1d(hidden), nn.Tanh())
                if hidden
                else nn.Identity()
            )
            self.drop = nn.Dropout(dropout)
            self.mean = nn.Linear(width, 1)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[bool, Tensor]] = []
        self.interrupt_at = -1

    def forward(self, x: Tensor) -> Independent:
        if len(self.seen) == self.interrupt_at:
            raise KeyboardInterrupt
        self.seen.append((self.training, x.detach().clone()))
        loc = self.mean(self.drop(self.body(x)))
        scale = self.log_scale.exp().expand_as(loc)
        return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def batches(self, training: bool = True) -> list[Tensor]:
        return [x for mode, x in self.seen if mode is training]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.linear = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Categorical:
        return Categorical(logits=self.linear(x))


class Given(nn.Module):
    """Returns one distribution, whatever x; `p` enters the loss with derivative 0."""

    def __init__(self, dist: Any) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(()))
        self.dist = dist

    def forward(self, x: Tensor) -> Any:
        return self.dist


class Staged:
    """A stand-in for a distribution whose log_prob is `value` from call `start` on."""

    def __init__(self, module: nn.Module, value: float, start: int) -> None:
        self.module, self.value, self.start, self.calls = module, value, start, 0

    def log_prob(self, y: Tensor) -> Tensor:
        self.calls += 1
        p = self.module.p
        if self.calls <= self.start:
            return (-((p - 3) ** 2)).expand(len(y))
        if math.isfinite(self.value):  # A finite value whose gradient is 0 * inf.
            return (self.value + (p * 0).abs().sqrt()).expand(len(y))
        return (p * 0 - self.value).expand(len(y))


def line(n: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of y = 1 + 2 x0 - x1 + 0.5 noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g)
    y = 1 + x @ torch.tensor([[2.0], [-1.0]]) + 0.5 * torch.randn(n, 1, generator=g)
    return x, y


def nll(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return -module.eval()(x).log_prob(y)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def without_time(history: History) -> tuple[Any, ...]:
    return history.train_nll, history.val_nll, history.best_epoch, history.stopped


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_classifier_follows_a_hand_written_cross_entropy_loop(weighted: bool) -> None:
    """The loss is -sum(w log p) / sum(w): torch's cross entropy, on a Categorical."""
    x, _ = line(60)
    y = (torch.arange(60) * 7) % 3
    w = torch.linspace(0.5, 2.0, 60) if weighted else torch.ones(60)
    module, twin = Classifier(), Classifier()
    data = (x, y, w) if weighted else (x, y)
    history = fit(module, data, max_epochs=20, batch_size=60, lr=0.05, weight_decay=0.01)

    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.05, weight_decay=0.01)
    losses = []
    for _ in range(20):
        each = nn.functional.cross_entropy(twin.linear(x), y, reduction="none")
        loss = (w * each).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history.train_nll == pytest.approx(losses, abs=1e-5)
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)


def test_class_indices_stay_integers() -> None:
    """y reaches log_prob in the dtype the caller gave."""
    seen = []

    class Spy(Categorical):
        def log_prob(self, value: Tensor) -> Tensor:
            seen.append(value.dtype)
            return super().log_prob(value)

    module = Classifier()
    module.forward = lambda x: Spy(logits=module.linear(x))  # type: ignore[method-assign]
    x, _ = line(20)
    y = torch.arange(20) % 3
    fit(module, (x, y, torch.ones(20)), (x, y), max_epochs=2)
    assert set(seen) == {torch.int64}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_head_reaches_the_likelihood_of_least_squares(
    device: str, dtype: torch.dtype
) -> None:
    """The maximum likelihood of a linear Gaussian is 0.5 log(2 pi e s^2), s^2 from lstsq."""
    x, y = line(300)
    design = np.column_stack([np.ones(300), x.numpy()]).astype(float)
    residual = np.linalg.lstsq(design, y.numpy().astype(float), rcond=None)[1][0] / 300
    truth = 0.5 * math.log(2 * math.pi * math.e * residual)

    module = Gaussian().to(device, dtype)
    x, y = x.to(dtype), y.to(dtype)  # Left on the CPU: fit moves them.
    fit(module, (x, y), max_epochs=600, batch_size=300, lr=0.03, weight_decay=0.0)
    assert module.log_scale.dtype == dtype
    reached = nll(module, x.to(device), y.to(device)).mean().item()
    assert reached == pytest.approx(truth, abs=1e-4)


def test_given_optimizer_is_used_and_trains_only_what_it_holds() -> None:
    """One SGD step moves the held parameters by -lr * gradient, and no others."""
    x, y = line(50)
    module = Gaussian()
    before = weights_of(module)
    (-module(x).log_prob(y).mean()).backward()
    expected = module.mean.weight.detach() - 0.1 * module.mean.weight.grad
    optimizer = torch.optim.SGD(module.mean.parameters(), lr=0.1)
    fit(module, (x, y), max_epochs=1, batch_size=50, optimizer=optimizer, clip_norm=None)
    torch.testing.assert_close(module.mean.weight.detach(), expected)
    assert torch.equal(module.log_scale, before["log_scale"])
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("clip_norm", "length"), [(0.25, 0.25), (1e6, None), (None, None)])
def test_clipping_bounds_the_length_of_a_step(clip_norm: float | None, length: float) -> None:
    """With SGD at lr = 1 the step is as long as the gradient, or as clip_norm if that is less."""
    x, y = line(50)
    module = Gaussian()
    before = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    (-module(x).log_prob(y).mean()).backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()
    sgd = torch.optim.SGD(module.parameters(), lr=1.0)
    fit(module, (x, y), max_epochs=1, batch_size=50, optimizer=sgd, clip_norm=clip_norm)
    moved = (nn.utils.parameters_to_vector(module.parameters()) - before).norm().item()
    assert moved == pytest.approx(length or gradient, rel=1e-5)


# --- weights --------------------------------------------------------------------------------------


def test_integer_weights_equal_repeated_rows() -> None:
    """Weight 3 is the row three times, weight 0 the row left out."""
    x, y = line(40)
    count = torch.arange(40) % 4
    module, twin = Gaussian(), Gaussian()
    history = fit(module, (x, y, count), max_epochs=5, batch_size=40)
    repeated = x.repeat_interleave(count, 0), y.repeat_interleave(count, 0)
    expected = fit(twin, repeated, max_epochs=5, batch_size=1000)
    assert history.train_nll == pytest.approx(expected.train_nll, rel=1e-5)
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


def test_weights_count_by_their_ratios() -> None:
    """Multiplying all weights by a constant changes nothing but rounding."""
    x, y = line(64)
    w = torch.linspace(0.1, 3.0, 64)
    module, twin = Gaussian(), Gaussian()
    fit(module, (x, y, w), max_epochs=3, batch_size=16)
    fit(twin, (x, y, w * 1024), max_epochs=3, batch_size=16)
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-6)


def test_validation_nll_is_the_weighted_mean_over_all_rows() -> None:
    """Chunks of a loader count by their weight, not alike; weight 0 silences a wild row."""
    x, y = line(50)
    y = y.clone()
    y[0] = 1e25  # Its squared distance is infinite.
    w = torch.linspace(0.0, 1.0, 50)
    module = Gaussian()
    val = DataLoader(TensorDataset(x, y, w), batch_size=33)
    history = fit(module, line(30), val, max_epochs=1)
    values = nll(module, x[1:], y[1:])
    expected = (w[1:] * values).sum() / w.sum()
    assert history.val_nll == [pytest.approx(expected.item(), rel=1e-5)]
    same = fit(Gaussian(), line(30), (x, y, w), max_epochs=1)
    assert same.val_nll == pytest.approx(history.val_nll, rel=1e-5)


def test_train_nll_is_the_mean_over_rows_of_unequal_batches() -> None:
    """A batch counts by its rows: without learning the epoch's mean is that of all rows."""
    x, y = line(45)
    loader = DataLoader(TensorDataset(x, y), batch_size=40)
    module = Gaussian()
    expected = nll(module, x, y).mean().item()
    sgd = torch.optim.SGD(module.parameters(), lr=0.0)
    history = fit(module, loader, max_epochs=1, optimizer=sgd)
    assert history.train_nll == [pytest.approx(expected, rel=1e-5)]


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch_size", "count"),
    [(100, 32, 4), (65, 32, 3), (64, 32, 2), (7, 100, 1), (1000, None, 32), (5000, None, 79)],
)
def test_an_epoch_shows_each_row_once_in_even_batches(
    n: int, batch_size: int | None, count: int
) -> None:
    """Batches partition the rows, their sizes differ by at most 1, and the order changes."""
    x = torch.arange(n, dtype=torch.float32)[:, None].expand(n, 2)
    module = Gaussian()
    sgd = torch.optim.SGD(module.parameters(), lr=1e-9)
    fit(module, (x, x[:, :1]), max_epochs=2, batch_size=batch_size, optimizer=sgd)
    shown = module.batches()
    assert len(shown) == 2 * count
    assert max(map(len, shown)) - min(map(len, shown)) <= 1
    assert max(map(len, shown)) <= (batch_size or 512)
    first, second = torch.cat(shown[:count])[:, 0], torch.cat(shown[count:])[:, 0]
    assert torch.equal(first.sort().values, x[:, 0])
    assert torch.equal(second.sort().values, x[:, 0])
    assert torch.equal(first, second) is (count == 1)


def test_a_loader_of_the_same_batches_gives_the_same_weights() -> None:
    """Tensors and loaders take the same steps."""
    x, y = line(100)
    module, twin = Gaussian(hidden=4), Gaussian(hidden=4)
    table = torch.cat([x, y], 1)
    history = fit(module, (x, y), max_epochs=1, batch_size=30)
    rows = [(b[:, None] == table[None, :, :2]).all(-1).nonzero()[:, 1] for b in module.batches()]
    loader = [(x[i], y[i]) for i in rows]
    assert len(loader) == 4
    expected = fit(twin, loader, max_epochs=1)
    assert history.train_nll == expected.train_nll
    assert_same(module.state_dict(), twin.state_dict())


def test_shuffling_loader_is_reproducible_by_the_seed() -> None:
    """A DataLoader draws its order from the global generator, which fit seeds and gives back."""
    loader = DataLoader(TensorDataset(*line(64)), batch_size=16, shuffle=True)
    modules = [Gaussian() for _ in range(3)]
    for module, seed in zip(modules, (0, 0, 1), strict=True):
        torch.rand(1)
        fit(module, loader, max_epochs=2, seed=seed)
    assert_same(modules[0].state_dict(), modules[1].state_dict())
    assert not torch.equal(modules[0].mean.weight, modules[2].mean.weight)


def test_rows_of_any_rank_are_accepted() -> None:
    """Images of shape (N, C, H, W) train like rows of features."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 4, 4, generator=g)
    y = (x.mean((1, 2, 3)) > 0).long()

    class Images(Classifier):
        def forward(self, x: Tensor) -> Categorical:
            return super().forward(x.mean((2, 3)).expand(-1, 2))

    history = fit(Images(), (x, y), max_epochs=30, lr=0.1)
    assert history.train_nll[-1] < history.train_nll[0]


# --- stopping and what is kept --------------------------------------------------------------------


def overfitting() -> tuple[Gaussian, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A network with batch norm (buffers) and dropout, too large for its 40 rows."""
    return Gaussian(hidden=32, dropout=0.1), line(40), line(60, seed=1)


def test_early_stopping_gives_back_the_best_weights_and_buffers() -> None:
    """After patience epochs without a lower validation NLL the lowest is what the module has."""
    module, train, val = overfitting()
    history = fit(module, train, val, lr=0.05, patience=7)
    assert history.stopped == "patience"
    assert len(history) == len(history.val_nll) == history.best_epoch + 8
    assert history.best_epoch == int(np.argmin(history.val_nll)) > 0
    assert history.best_nll == min(history.val_nll)
    assert nll(module, *val).mean().item() == history.best_nll


def test_without_validation_the_last_weights_are_kept() -> None:
    """No validation rows, no early stopping: all epochs run and the last one counts."""
    x, y = line(50)
    module, twin = Gaussian(), Gaussian()
    history = fit(module, (x, y), max_epochs=4, patience=1, batch_size=50)
    assert (history.stopped, history.best_epoch, history.val_nll) == ("max_epochs", 3, [])
    assert history.best_nll == history.train_nll[3]
    fit(twin, (x, y), max_epochs=5, batch_size=50)
    assert not torch.equal(module.mean.weight, twin.mean.weight)


def test_validation_does_not_change_the_training() -> None:
    """Validation draws no random numbers and takes no steps."""
    train, val = line(50), line(10, seed=1)
    a = fit(Gaussian(hidden=4, dropout=0.5), train, val, max_epochs=3)
    b = fit(Gaussian(hidden=4, dropout=0.5), train, max_epochs=3)
    assert a.train_nll == b.train_nll


@pytest.mark.parametrize("mode", [True, False])
def test_each_submodule_gets_its_mode_back(mode: bool) -> None:
    """Steps run in train mode, validation in eval mode, and the caller's modes come back."""
    module = Gaussian(hidden=4, dropout=0.5).train(mode)
    module.body.train(not mode)
    fit(module, line(40), line(20, seed=1), max_epochs=2, batch_size=20)
    assert [m for m, _ in module.seen] == [True, True, False] * 2
    assert module.training is mode
    assert module.drop.training is mode
    assert module.body[1].training is not mode


def test_max_time_ends_after_an_epoch() -> None:
    """With no time at all, one epoch is run."""
    history = fit(Gaussian(), line(50), line(20), max_time=0)
    assert (history.stopped, len(history), history.best_epoch) == ("max_time", 1, 0)


def test_history_knows_its_numbers() -> None:
    """A change of unit adds a constant to every NLL and leaves the rest."""
    history = History([1.0, 0.5], [1.5, 2.0], 0, "patience", 2.0)
    moved = history.shifted(-2.0)
    assert (moved.train_nll, moved.val_nll) == ([-1.0, -1.5], [-0.5, 0.0])
    assert (moved.best_epoch, moved.stopped, moved.seconds) == (0, "patience", 2.0)
    assert (len(moved), moved.best_nll, history.best_nll) == (2, -0.5, 1.5)
    assert math.isnan(History().best_nll)
    assert repr(history) == ("History(2 epochs, best_nll=1.5 at epoch 0, stopped='patience', 2 s)")
    with pytest.raises(AttributeError):
        history.best_epoch = 1  # type: ignore[misc]


# --- randomness -----------------------------------------------------------------------------------


def test_global_random_state_is_neither_used_nor_changed() -> None:
    """The same seed gives the same bits whatever was drawn before, and nothing is drawn."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        module, train, val = overfitting()
        history = fit(module, train, val, max_epochs=3, batch_size=16)
        assert torch.equal(torch.get_rng_state(), before)
        results.append((module.state_dict(), without_time(history)))
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_global_random_state_is_given_back_after_an_error() -> None:
    """A failing run leaves no trace in the generator either."""
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="must have shape"):
        fit(Gaussian(hidden=4, dropout=0.5), (torch.ones(8, 2), torch.ones(8)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_moves_both_the_order_and_the_dropout() -> None:
    """Another seed is another run, also in one batch where only dropout is random."""
    runs = [
        fit(Gaussian(dropout=0.5), line(32), max_epochs=3, batch_size=32, seed=seed).train_nll
        for seed in (0, 1)
    ]
    assert runs[0] != runs[1]


# --- errors in training ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (math.nan, "the loss became nan: usually the learning rate is too high"),
        (math.inf, "the loss became inf: a row of y lies where the distribution has no density"),
        (-math.inf, "the loss became -inf: the density collapsed onto a point"),
        (1.0, "the gradient norm became nan: usually a scale close to zero"),
    ],
)
@pytest.mark.parametrize("start", [0, 3, 4])
def test_training_error_names_the_batch_and_keeps_the_weights(
    value: float, cause: str, start: int
) -> None:
    """A loss or gradient that is not finite never reaches the weights."""
    x = torch.zeros(20, 1)
    module = Given(None)
    module.dist = Staged(module, value, start)
    kept = [module.p.item()]
    step = torch.optim.SGD(module.parameters(), lr=0.1)
    step.register_step_post_hook(lambda *_: kept.append(module.p.item()))
    with pytest.raises(TrainingError, match=cause) as caught:
        fit(module, (x, x), batch_size=10, optimizer=step)
    error = caught.value
    assert (error.epoch, error.batch) == divmod(start, 2)
    assert not math.isfinite(error.value)
    assert len(error.history) == start // 2
    assert error.history.stopped == "error"
    assert module.p.item() == kept[start // 2 * 2]  # As at the end of the last full epoch.
    assert len(kept) == start + 1
    assert f"batch {start % 2}" in str(error)

    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.epoch, copied.batch) == (str(error), error.epoch, error.batch)


def test_training_error_in_validation_has_no_batch() -> None:
    """A validation row without density ends the run with the weights it began with."""
    x = torch.zeros(10, 1)
    module = Given(None)
    module.dist = Staged(module, math.inf, 1)
    with pytest.raises(TrainingError, match="the validation pass, the loss became inf") as caught:
        fit(module, (x, x), (x, x))
    assert (caught.value.epoch, caught.value.batch, caught.value.value) == (0, None, math.inf)
    assert module.p.item() == 1.0


def test_divergence_gives_back_the_best_epoch() -> None:
    """A run that blows up leaves the weights whose validation NLL was lowest."""
    module, train, val = Gaussian(), line(40), line(20, seed=1)
    sgd = torch.optim.SGD(module.parameters(), lr=0.5)
    boost = itertools.count()

    def grow(*_: object) -> None:
        if next(boost) == 10:
            sgd.param_groups[0]["lr"] = 1e20

    sgd.register_step_pre_hook(grow)
    with pytest.raises(TrainingError) as caught:
        fit(module, train, val, batch_size=20, optimizer=sgd, clip_norm=1.0)
    history = caught.value.history
    assert len(history) >= 4
    assert nll(module, *val).mean().item() == min(history.val_nll) == history.best_nll


def test_any_exception_leaves_the_best_weights() -> None:
    """An error of the module itself passes through, after the module is put in order."""
    module = Gaussian(hidden=4)
    before = weights_of(module)
    forward = module.forward

    def broken(x: Tensor) -> Independent:
        if len(module.seen) == 2:
            raise ZeroDivisionError
        return forward(x)

    module.forward = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fit(module, line(90), batch_size=30)
    assert_same(module.state_dict(), before)


# --- Ctrl-C and checkpoints -----------------------------------------------------------------------


def test_ctrl_c_keeps_the_best_weights_and_returns() -> None:
    """An interrupt in epoch 3 gives the best of epochs 0 to 2 and a warning, no exception."""
    module, train, val = overfitting()
    twin = copy.deepcopy(module)
    module.interrupt_at = 10  # Two batches and one validation an epoch.
    with pytest.warns(UserWarning, match=r"interrupted in epoch 3; the module holds the weights"):
        history = fit(module, train, val, batch_size=20)
    expected = fit(twin, train, val, batch_size=20, max_epochs=3)
    assert history.stopped == "interrupted"
    assert without_time(history)[:3] == without_time(expected)[:3]
    assert_same(module.state_dict(), twin.state_dict())


def test_ctrl_c_in_the_first_epoch_leaves_the_module_as_it_was() -> None:
    """Nothing was finished, so nothing is kept."""
    module = Gaussian(hidden=4)
    before = weights_of(module)
    module.interrupt_at = 1
    with pytest.warns(UserWarning, match="holds the weights it began with"):
        history = fit(module, line(60), batch_size=20)
    assert (len(history), history.best_epoch, history.stopped) == (0, -1, "interrupted")
    assert_same(module.state_dict(), before)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("with_val", [True, False])
@pytest.mark.parametrize("cut", ["epochs", "first", "mid-epoch", "validation"])
def test_resuming_equals_a_run_without_a_break(
    tmp_path: Path, optimizer: str, with_val: bool, cut: str
) -> None:
    """Weights, buffers and history agree bit for bit, with dropout, shuffling and momentum."""
    path = tmp_path / "run.pt"

    def run(module: Gaussian, **options: Any) -> History:
        _, train, val = overfitting()
        if optimizer == "momentum":
            options["optimizer"] = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
        return fit(module, train, val if with_val else None, batch_size=15, **options)

    whole = overfitting()[0]
    expected = run(whole, max_epochs=9)

    first = overfitting()[0]
    calls = 4 if with_val else 3
    if cut == "epochs":
        run(first, max_epochs=5, checkpoint=path, checkpoint_every=2)
    else:
        # "validation" is the last call of an epoch: with validation data, the validation pass.
        first.interrupt_at = {"first": 1, "mid-epoch": 5 * calls + 1, "validation": 6 * calls - 1}[
            cut
        ]
        with pytest.warns(UserWarning, match=r"run\.pt holds the state after the last full epoch"):
            run(first, max_epochs=9, checkpoint=path, checkpoint_every=100)

    torch.manual_seed(99)
    second = overfitting()[0]
    with torch.no_grad():
        for p in second.parameters():
            p.add_(1.0)  # Whatever the module holds, the checkpoint decides.
    history = run(second, max_epochs=9, checkpoint=path, resume=True)
    assert without_time(history) == without_time(expected)
    assert_same(second.state_dict(), whole.state_dict())
    assert not first.seen[0][1].equal(second.seen[0][1]) or cut == "first"


def test_resuming_a_finished_run_gives_it_back(tmp_path: Path) -> None:
    """A run that patience ended does not go on, unless patience is raised."""
    path = tmp_path / "run.pt"
    module, train, val = overfitting()
    history = fit(module, train, val, lr=0.05, patience=4, checkpoint=path)
    again = overfitting()[0]
    result = fit(again, train, val, lr=0.05, patience=4, checkpoint=path, resume=True)
    assert without_time(result) == without_time(history)
    assert not again.seen
    assert result.seconds >= history.seconds
    assert_same(again.state_dict(), module.state_dict())
    longer = fit(again, train, val, lr=0.05, patience=6, checkpoint=path, resume=True)
    assert len(longer) >= len(history) + 2


def test_resume_without_a_file_starts_afresh(tmp_path: Path) -> None:
    """The same command line can be run again and again."""
    path = tmp_path / "run.pt"
    module, twin = Gaussian(), Gaussian()
    a = fit(module, line(50), max_epochs=2, checkpoint=path, resume=True)
    b = fit(twin, line(50), max_epochs=2)
    assert without_time(a) == without_time(b)
    assert path.exists()


def test_checkpoint_holds_no_code_and_is_written_every_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads with weights_only=True and appears at every second epoch and at the end."""
    path = tmp_path / "run.pt"
    epochs = []
    replace = os.replace

    def spy(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        epochs.append(len(torch.load(path, weights_only=True)["train_nll"]))

    monkeypatch.setattr("os.replace", spy)
    fit(Gaussian(), line(50), max_epochs=5, checkpoint=path, checkpoint_every=2)
    assert epochs == [2, 4, 5]
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in mid-write harms neither the file that is there nor the folder."""
    path = tmp_path / "run.pt"
    fit(Gaussian(), line(50), max_epochs=2, checkpoint=path)
    before = path.read_bytes()

    def full(saved: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="disk full"):
        fit(Gaussian(), line(50), max_epochs=4, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": line(51)}, r"train was x \(50, 2\) .* and is x \(51, 2\)"),
        ({"train": line(50, seed=9)}, r"train was .* crc \w+ and is .* crc \w+\)"),
        ({"val": line(20, seed=3)}, "val was None and is x"),
        ({"train": [line(50)]}, r"train was .* and is list of 1 batches"),
        ({"lr": 0.5}, r"\(lr was 0.001 and is 0.5\)"),
        ({"weight_decay": 0.5, "seed": 7}, r"\(seed was 0 and is 7; weight_decay was 0.0001"),
        ({"clip_norm": None}, "clip_norm was 10.0 and is None"),
        ({"batch_size": 25}, "batch_size was 32 and is 25"),
        ({"module": Gaussian(hidden=3)}, "module was 3 tensors of 4 numbers"),
        ({"optimizer": torch.optim.SGD}, "optimizer was AdamW and is SGD"),
    ],
)
def test_resuming_another_run_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """The error names what differs, and neither file nor module is touched."""
    path = tmp_path / "run.pt"
    fit(Gaussian(), line(50), max_epochs=1, checkpoint=path)
    written = path.read_bytes()
    module = change.pop("module", Gaussian())
    if "optimizer" in change:
        change["optimizer"] = change["optimizer"](module.parameters(), lr=0.1)
    before = weights_of(module)
    arguments = {"train": line(50), **change}
    with pytest.raises(ValueError, match=message):
        fit(module, **arguments, checkpoint=path, resume=True)
    assert_same(module.state_dict(), before)
    assert path.read_bytes() == written


def test_checkpoint_files_are_checked_before_training(tmp_path: Path) -> None:
    """Work is neither overwritten nor begun when it cannot be saved."""
    path = tmp_path / "run.pt"
    module = Gaussian()
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        fit(module, line(), resume=True)
    with pytest.raises(FileNotFoundError, match=r"create the folder .*nowhere first"):
        fit(module, line(), checkpoint=tmp_path / "nowhere" / "run.pt")
    path.write_bytes(b"something else")
    with pytest.raises(FileExistsError, match=r"run\.pt exists: pass resume=True"):
        fit(module, line(), checkpoint=path)
    with pytest.raises(ValueError, match=r"run\.pt cannot be read"):
        fit(module, line(), checkpoint=path, resume=True)
    torch.save({"format": "another"}, path)
    with pytest.raises(ValueError, match="was not written by this version of fit"):
        fit(module, line(), checkpoint=path, resume=True)
    assert not module.seen


# --- progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_printed_or_loaded_for_a_bar_in_a_pipe(
    progress: bool | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured output is no terminal: fit is silent and does without rich."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)  # An import of it would fail.
    fit(Gaussian(), line(50), line(20), max_epochs=2, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_bar_can_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    """progress=True shows epoch and NLLs on standard error, and only there."""
    history = fit(Gaussian(), line(50), line(20), max_epochs=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 3/3" in err
    assert f"train {history.train_nll[-1]:.4f}" in err
    assert f"val {history.val_nll[-1]:.4f}" in err
    assert f"best {history.best_nll:.4f}" in err


@pytest.mark.parametrize(("progress", "shown"), [(None, True), (False, False)])
def test_a_terminal_gets_a_bar_unless_refused(
    progress: bool | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """progress=None follows the terminal; without validation there is no `best`."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(Gaussian(), line(50), max_epochs=2, progress=progress)
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("epoch 2/2" in text) is shown
    assert "best" not in text


# --- arguments ------------------------------------------------------------------------------------


def with_nan(t: Tensor, row: int, value: float) -> Tensor:
    t = t.clone()
    t[row] = value
    return t


X, Y = line(20)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ((X.numpy(), Y), TypeError, "train x must be a torch.Tensor; got ndarray. Use torch.as_t"),
        ((X, Y.tolist()), TypeError, "train y must be a torch.Tensor; got list"),
        (X, TypeError, r"train must be a tuple of tensors .* or a DataLoader; got Tensor"),
        (X.numpy(), TypeError, "got ndarray"),
        (TensorDataset(X, Y), TypeError, "or a DataLoader; got TensorDataset"),
        (iter([(X, Y)]), TypeError, "must be iterable once an epoch.*got the iterator list_itera"),
        ([X, Y], TypeError, r"A loader must yield tuples of tensors .*; got Tensor"),
        ([], ValueError, "train must yield rows of positive weight"),
        ((X,), ValueError, r"train must be \(x, y\) or \(x, y, weight\); got 1 values"),
        ((X, Y[:7]), ValueError, "train x and y must have as many rows.*20 rows of x and 7 of y"),
        ((X[:0], Y[:0]), ValueError, "train x and y must have at least one row"),
        ((torch.tensor(1.0), Y), ValueError, "train x must have one entry a row"),
        ((with_nan(X, 4, math.nan), Y), ValueError, r"train x must be finite; row 4 is \[nan, na"),
        ((X, with_nan(Y, 6, -math.inf)), ValueError, r"train y must be finite; row 6 is \[-inf\]"),
        ((X, Y, with_nan(torch.ones(20), 2, math.inf)), ValueError, "train weight must be finite"),
        ((X, Y, with_nan(torch.ones(20), 3, -1)), ValueError, "weight must not be negative; row 3"),
        ((X, Y, torch.zeros(20)), ValueError, "train weight must not be zero in every row"),
        ((X, Y, torch.ones(20, 1)), ValueError, r"weight must have shape \(20,\).*got \(20, 1\)"),
        (
            (X, Y[:, 0]),
            ValueError,
            r"y must have shape \(20, 1\).*got \(20,\). Did you mean y\[:, N",
        ),
    ],
)
def test_unfit_data_are_named(train: Any, error: type[Exception], message: str) -> None:
    """Each error names the argument, what was found and the cure; validation data likewise."""
    module = Gaussian()
    before = weights_of(module)
    with pytest.raises(error, match=message):
        fit(module, train)
    with pytest.raises(error, match=message.replace("train", "val")):
        fit(module, line(30), train, max_epochs=1)
    assert_same(module.state_dict(), before)


def test_large_finite_data_are_not_taken_for_infinite() -> None:
    """A sum that overflows is no proof of a bad row."""
    x = torch.full((4, 2), 3e38)
    fit(Classifier(), (x * 0, torch.zeros(4).long()), (x * 0, torch.zeros(4).long()), max_epochs=1)
    module = Given(Normal(torch.zeros(4), torch.ones(4)))
    module.forward = lambda x: Normal(module.p.expand(len(x)), 1.0)  # type: ignore[method-assign]
    history = fit(module, (x, torch.zeros(4)), max_epochs=1)
    assert math.isfinite(history.best_nll)


@pytest.mark.parametrize(
    ("dist", "y", "message"),
    [
        (Normal(torch.zeros(20, 1), 1.0), X[:, 0], r"shape \(20,\).* got \(20, 20\).*y\[:, None\]"),
        (Normal(torch.zeros(20, 1), 1.0), Y, r"got \(20, 1\). .*Independent\(dist, 1\)\?"),
        (Normal(torch.zeros(20), 1.0), Y, r"must have shape \(20,\).*Did you mean y\[:, 0\]\?"),
        (Categorical(torch.ones(20, 3)), X[:, :1], r"got \(20, 1\). Did you mean y\[:, 0\]\?"),
        (
            Independent(Normal(torch.zeros(20, 2), 1.0), 1),
            Y,
            r"must have shape \(20, 2\).*\(20, 1\)",
        ),
    ],
)
def test_broadcasting_targets_are_refused(dist: Any, y: Tensor, message: str) -> None:
    """(N,) against (N, 1) would train on N * N pairs; the error says what was meant."""
    with pytest.raises(ValueError, match=message):
        fit(Given(dist), (X, y))


def test_a_module_must_return_a_distribution() -> None:
    """A plain tensor has no log_prob."""
    with pytest.raises(TypeError, match="must return a torch Distribution; got Tensor, which has"):
        fit(Given(torch.zeros(20)), (X, Y))
    with pytest.raises(TypeError, match=r"no log_prob. Each of its rows holds probabilities"):
        fit(Given(torch.full((20, 4), 0.25)), (X, Y))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1; got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer; got .*float"),
        ({"patience": True}, TypeError, "patience must be an integer; got .*bool"),
        ({"checkpoint_every": -1}, ValueError, "checkpoint_every must be at least 1; got -1"),
        ({"lr": 0.0}, ValueError, "lr must be positive and finite; got 0.0"),
        ({"clip_norm": math.inf}, ValueError, "clip_norm must be positive and finite; got inf"),
        (
            {"weight_decay": -1.0},
            ValueError,
            "weight_decay must be finite and not negative; got -1.0",
        ),
        ({"max_time": math.nan}, ValueError, "max_time must be .*not negative; got nan"),
        ({"optimizer": "adam"}, TypeError, r"must be a torch.optim.Optimizer; got str. Build it"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)},
            ValueError,
            "optimizer holds none of the module's parameters",
        ),
    ],
)
def test_unfit_options_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Options are checked before anything is trained."""
    module = Gaussian()
    with pytest.raises(error, match=message):
        fit(module, (X, Y), **options)
    assert not module.seen


def test_a_loader_sets_its_own_batch_size() -> None:
    """batch_size would be ignored, so it is refused."""
    with pytest.raises(ValueError, match="batch_size applies to tensors"):
        fit(Gaussian(), [(X, Y)], batch_size=5)


def test_a_module_without_parameters_is_refused() -> None:
    """There is nothing to train."""
    with pytest.raises(ValueError, match="module must have parameters that require a gradient"):
        fit(nn.Identity(), (X, Y))


# --- many members as one module -------------------------------------------------------------------


class Members(nn.Module):
    """M linear Gaussians side by side: mean x w + b and one log scale for each member."""

    def __init__(self, members: int, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(0.1 * torch.randn(members, 2, 1, generator=g))
        self.bias = nn.Parameter(torch.zeros(members, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(members, 1, 1))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Independent:
        loc = self.drop(x) @ self.weight + self.bias
        return Independent(Normal(loc, self.log_scale.exp().expand_as(loc)), 1)


def member(module: nn.Module, i: int) -> dict[str, Tensor]:
    return {name: p.detach()[i].clone() for name, p in module.named_parameters()}


def blocks(n: int, members: int) -> Tensor:
    """Each member holds out every M-th row."""
    return torch.arange(n) % members == torch.arange(members).unsqueeze(1)


def test_ensemble_members_reach_the_likelihood_of_least_squares() -> None:
    """Each on its own rows: weights, and scale of the residuals, by NumPy's lstsq."""
    x, y = line(400)
    module = Members(4)
    held_out = blocks(400, 4)
    fit_ensemble(module, x, y, held_out, val=(x, y), lr=0.05, weight_decay=0, max_epochs=150)
    for i, row in enumerate(held_out):
        design = torch.cat([x[~row], torch.ones(300, 1)], 1)
        solution = np.linalg.lstsq(design.numpy(), y[~row].numpy(), rcond=None)[0]
        rest = y[~row].numpy() - design.numpy() @ solution
        found = torch.cat([module.weight[i], module.bias[i]])
        np.testing.assert_allclose(found.detach(), solution, atol=0.05)
        assert module.log_scale[i].exp().item() == pytest.approx(rest.std(), rel=0.1)


def test_ensemble_keeps_a_mean_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The polynomial decay of Shamir and Zhang: C(i + 9, 9) / C(t + 10, 10) for step i of t."""
    x, y = line(120)
    module, taken = Members(1), []
    follow = _ensemble._Flat.follow

    def record(flat: Any, share: float) -> None:
        taken.append(flat.values.detach().clone())
        follow(flat, share)

    monkeypatch.setattr(_ensemble._Flat, "follow", record)
    nothing = torch.zeros(1, 120, dtype=torch.bool)
    begin = torch.cat([p.detach().flatten(1) for p in module.parameters()], 1)
    history = fit_ensemble(module, x, y, nothing, val=(x, y), max_epochs=9, batch_size=40)
    steps = 3 * (history.member_best_epochs[0] + 1)
    share = [math.comb(i + 9, 9) / math.comb(steps + 10, 10) for i in range(steps + 1)]
    assert sum(share) == pytest.approx(1) and len(taken) == 27
    expected = sum(s * v for s, v in zip(share, [begin, *taken], strict=False))
    kept = torch.cat([p.detach().flatten(1) for p in module.parameters()], 1)
    np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-6)


def test_ensemble_trains_each_member_as_if_it_were_alone() -> None:
    """With one batch an epoch M members end where each ends alone, to rounding."""
    x, y = line(120)
    held_out = blocks(120, 3)
    options = {"max_epochs": 20, "lr": 0.05, "batch_size": 120}
    together = Members(3)
    fit_ensemble(together, x, y, held_out, **options)
    for i in range(3):
        alone = Members(3)
        for p in alone.parameters():
            p.data = p.data[i : i + 1]
        fit_ensemble(alone, x, y, held_out[i : i + 1], **options)
        assert_same(member(alone, 0), member(together, i), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [20, 32])
def test_ensemble_trains_the_same_by_its_log_prob_and_by_its_distribution(
    batch_size: int,
) -> None:
    """The log_prob of a module is that of its distribution in fewer steps: the same to rounding."""
    x, y = line(120)
    held_out, ends = blocks(120, 3), []
    for log_prob in (None, lambda dist, target: dist.log_prob(target)):
        module = MDNEnsemble(3, 2, 1, 2, (8,), embedded=[0], generator=torch.Generator())
        options = {"max_epochs": 5, "batch_size": batch_size, "log_prob": log_prob}
        fit_ensemble(module, x, y, held_out, **options)
        ends.append(dict(module.named_parameters()))
        assert all(p.is_contiguous() and p.grad is None for p in ends[-1].values())
        assert len({p.untyped_storage().data_ptr() for p in ends[-1].values()}) == len(ends[-1])
    assert_same(*ends, rtol=1e-4, atol=1e-5)


def test_ensemble_leaves_frozen_parameters_and_their_dtypes_alone() -> None:
    """What does not learn is neither moved nor decayed; dtypes are not mixed."""
    x, y = line(120)
    module = MDNEnsemble(3, 2, 1, 2, (8,), embedded=[0], generator=torch.Generator())
    module.weights[0].requires_grad_(False)
    module.frequencies.data = module.frequencies.data.double()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        return dist.log_prob(target.to(dist.loc.dtype)).float()

    class Mixed(nn.Module):
        """Takes its frequencies in another dtype than the rest."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Any:
            own = dict(self.inner.named_parameters())
            single = {name: p.float() for name, p in own.items()}
            return torch.func.functional_call(self.inner, single, (x,))

    fit_ensemble(Mixed(), x, y, blocks(120, 3), log_prob=log_prob, max_epochs=4, weight_decay=0.5)
    after = dict(module.named_parameters())
    assert torch.equal(after["weights.0"], before["weights.0"])
    assert after["frequencies"].dtype == torch.float64
    assert {p.dtype for name, p in after.items() if name != "frequencies"} == {torch.float32}
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert moved == set(before) - {"weights.0"}


def test_ensemble_member_does_not_depend_on_what_the_others_do() -> None:
    """Another start and other rows of member 1: member 0 ends bit for bit the same."""
    x, y = line(120)
    even = torch.arange(120) % 2 == 0
    ends = []
    for other, moved in ((even, 0.0), (~even, 0.0), (even, 0.7), (even, 5.0)):
        module = Members(2)
        for p in module.parameters():
            p.data[1] += moved
        fit_ensemble(module, x, y, torch.stack([even, other]), max_epochs=10, batch_size=16)
        ends.append(member(module, 0))
    for end in ends[1:]:
        assert_same(end, ends[0])


def test_ensemble_members_stop_each_on_its_own() -> None:
    """Member 1 stops first and is computed no more; member 0 ends as if it were alone."""
    x, y = line(120)
    held_out = blocks(120, 3)[:2]
    y = torch.where(held_out[1].unsqueeze(1), -y, y)  # the rows of member 1 say the opposite
    sizes: list[int] = []

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        sizes.append(len(target))
        return dist.log_prob(target)

    options: dict[str, Any] = {"lr": 0.02, "batch_size": 16, "max_epochs": 60, "patience": 5}
    module = Members(2)
    history = fit_ensemble(module, x, y, held_out, log_prob=log_prob, **options)
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {1, 2}
    alone = Members(2)
    for p in alone.parameters():
        p.data = p.data[:1]
    own = fit_ensemble(alone, x, y, held_out[:1], **options)
    assert len(own) == len(history) > 10
    assert_same(member(alone, 0), member(module, 0), rtol=1e-4, atol=1e-5)
    assert {name: len(p) for name, p in module.named_parameters()} == {
        name: 2 for name, _ in module.named_parameters()
    }
    nlls = [
        nll(module, x[row][None].expand(2, -1, -1), y[row][None].expand(2, -1, -1)).mean(1)[i]
        for i, row in enumerate(held_out)
    ]
    assert sum(float(a) for a in nlls) / 2 < min(history.val_nll) + 1e-5


def test_ensemble_members_keep_the_weights_of_their_own_best_epochs() -> None:
    """Each member's held-out NLL at the end is the least that it had, at epochs of its own."""
    x, y = line(60)
    held_out = blocks(60, 3)
    y = torch.where(held_out[0].unsqueeze(1), -y, y)  # the rows of member 0 say the opposite
    module = Members(3)
    scores: list[Tensor] = []

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        found = dist.log_prob(target)
        if not module.training:
            scores.append(-found.detach().mean(1))
        return found

    history = fit_ensemble(
        module, x, y, held_out, log_prob=log_prob, lr=0.05, max_epochs=40, patience=40
    )
    each = torch.stack(scores)  # (epochs, M)
    assert len(each) == len(history) == 40
    rows = torch.stack([row.nonzero()[:, 0] for row in held_out])
    torch.testing.assert_close(nll(module, x[rows], y[rows]).mean(1), each.amin(0))
    best = each.argmin(0)
    assert len(set(best.tolist())) > 1
    assert history.member_best_epochs == best.tolist()
    assert history.best_epoch == int(each.mean(1).argmin()) != round(best.double().mean().item())
    assert history.best_nll == min(history.val_nll)
    assert history.val_nll == pytest.approx(each.mean(1).tolist(), rel=1e-5)


def test_ensemble_takes_whole_weights_as_repeated_rows() -> None:
    """One batch an epoch: weights 1, 2, 3 and so many copies give the same weights, to rounding."""
    x, y = line(120)
    held_out = blocks(120, 2)
    weight = (torch.arange(120) // 2 % 3 + 1).float()
    index = torch.arange(120).repeat_interleave(weight.long())
    options = {"max_epochs": 30, "lr": 0.05, "batch_size": 10**6}
    ends, histories = [], []
    for rows, w in ((torch.arange(120), weight), (index, None), (torch.arange(120), None)):
        module = Members(2)
        histories.append(
            fit_ensemble(module, x[rows], y[rows], held_out[:, rows], weight=w, **options)
        )
        ends.append(weights_of(module))
    assert_same(ends[0], ends[1], rtol=1e-4, atol=1e-5)
    assert histories[0].val_nll == pytest.approx(histories[1].val_nll, rel=1e-4)
    assert histories[0].train_nll == pytest.approx(histories[1].train_nll, rel=1e-4)
    assert histories[0].val_nll != pytest.approx(histories[2].val_nll, rel=1e-3)


def test_ensemble_validation_rows_stop_all_members() -> None:
    """With val nothing need be held out, and the history is the NLL of those rows."""
    x, y = line(100)
    module = Members(2)
    nothing = torch.zeros(2, 100, dtype=torch.bool)
    new = line(50, seed=1)
    history = fit_ensemble(module, x, y, nothing, val=(new[0], -new[1]), lr=0.05, patience=4)
    assert history.stopped == "patience"
    assert len(history) == max(history.member_best_epochs) + 4 + 1
    ends = nll(module, new[0].expand(2, -1, -1), -new[1].expand(2, -1, -1)).mean(1)
    assert ends.mean().item() == pytest.approx(min(history.val_nll), abs=0.05)


def test_ensemble_error_names_the_member_that_was_never_finite() -> None:
    """Member 1 has NaN from the first epoch on; the error carries the history."""
    x, y = line(40)

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        return dist.log_prob(target) + torch.tensor([[0.0], [math.nan]])

    with pytest.raises(TrainingError, match="the held-out NLL of member 1 was never finite") as e:
        fit_ensemble(Members(2), x, y, blocks(40, 2), log_prob=log_prob, max_epochs=3, patience=9)
    assert len(e.value.history) == 3
    assert not math.isfinite(e.value.value)


def test_ensemble_survives_a_member_that_breaks_later() -> None:
    """NaN from epoch 5 on for member 1: it keeps its best weights, and they are finite."""
    x, y = line(40)
    module = Members(2)
    calls = itertools.count()

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        spoiled = math.nan if next(calls) > 10 else 0.0
        return dist.log_prob(target) + torch.tensor([[0.0], [spoiled]])

    fit_ensemble(module, x, y, blocks(40, 2), log_prob=log_prob, max_epochs=9, batch_size=40)
    assert all(bool(p.isfinite().all()) for p in module.parameters())


def test_ensemble_leaves_the_global_random_state_alone_and_follows_its_seed() -> None:
    """Batches and dropout come from seed: one seed, one end; torch's own generator stays."""
    x, y = line(60)
    before = torch.get_rng_state()
    ends = []
    for seed in (0, 0, 1):
        module = Members(2, dropout=0.3)
        fit_ensemble(module, x, y, blocks(60, 2), max_epochs=5, seed=seed)
        ends.append(weights_of(module))
        torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    assert_same(ends[0], ends[1])
    assert not torch.equal(ends[0]["weight"], ends[2]["weight"])


def test_ensemble_reports_each_epoch_and_stops_in_time() -> None:
    """report is called with the number of epochs done and of all; no time left ends after one."""
    x, y = line(60)
    calls: list[tuple[int, int]] = []
    history = fit_ensemble(
        Members(2), x, y, blocks(60, 2), max_epochs=3, report=lambda *a: calls.append(a)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert history.stopped == "max_epochs"
    for max_time in (1e-9, 0):
        history = fit_ensemble(Members(2), x, y, blocks(60, 2), max_time=max_time)
        assert (history.stopped, len(history)) == ("max_time", 1)


@pytest.mark.parametrize("where", ["report", "mid-epoch"])
def test_ctrl_c_keeps_the_best_weights_of_each_member_and_returns(where: str) -> None:
    """As fit: a warning, the best of the finished epochs, and no exception."""
    x, y = line(60)
    options: dict[str, Any] = {"lr": 0.05, "batch_size": 10}
    calls = itertools.count(1)

    def report(done: int, _: int) -> None:
        if where == "report" and done == 3:
            raise KeyboardInterrupt

    def log_prob(dist: Any, target: Tensor) -> Tensor:
        if where == "mid-epoch" and next(calls) == 3 * 5 + 3:  # 4 steps and 1 score an epoch
            raise KeyboardInterrupt
        return dist.log_prob(target)

    module, held_out = Members(3), blocks(60, 3)
    with pytest.warns(UserWarning, match="in epoch 3; the module holds the weights of each member"):
        history = fit_ensemble(module, x, y, held_out, log_prob=log_prob, report=report, **options)
    assert (len(history), history.stopped) == (3, "interrupted")
    rows = torch.stack([row.nonzero()[:, 0] for row in held_out])
    ends = nll(module, x[rows], y[rows]).mean(1)
    assert ends.mean().item() == pytest.approx(history.val_nll[history.best_epoch], rel=1e-5)


def test_ctrl_c_in_the_first_epoch_leaves_the_ensemble_as_it_was() -> None:
    """Nothing was finished, so nothing is kept; any other exception leaves whole members too."""
    x, y = line(60)
    for error in (KeyboardInterrupt, OSError):
        module = Members(3)
        before = weights_of(module)
        steps = itertools.count()

        def log_prob(dist: Any, target: Tensor, steps: Any = steps, error: Any = error) -> Tensor:
            if next(steps) == 2:
                raise error
            return dist.log_prob(target)

        options: dict[str, Any] = {"log_prob": log_prob, "batch_size": 10}
        if error is OSError:
            with pytest.raises(OSError):
                fit_ensemble(module, x, y, blocks(60, 3), **options)
        else:
            with pytest.warns(UserWarning, match="in epoch 0; .* holds the weights it began with"):
                history = fit_ensemble(module, x, y, blocks(60, 3), **options)
            found = len(history), history.best_epoch, history.stopped
            assert found == (0, -1, "interrupted")
        assert_same(weights_of(module), before)
        assert len({p.untyped_storage().data_ptr() for p in module.parameters()}) == 3


@pytest.mark.parametrize("option", ["max_epochs", "patience", "batch_size", "lr"])
def test_unfit_options_of_an_ensemble_are_named(option: str) -> None:
    """By the checks of fit."""
    x, y = line(60)
    with pytest.raises(ValueError, match=f"{option} must be .*; got 0"):
        fit_ensemble(Members(2), x, y, blocks(60, 2), **{option: 0})


# --- several values a row: sequences, images, labels to leave out -----------------------------


class Recurrent(nn.Module):
    """One normal a step: x (N, T, 2) gives batch (N, T), event (1,)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.lstm = nn.LSTM(2, 4, batch_first=True)
            self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Independent:
        loc, raw = self.linear(self.lstm(x)[0]).split(1, -1)
        return Independent(Normal(loc, 0.1 + nn.functional.softplus(raw)), 1)


def sequences(n: int = 12, steps: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, T, 2), y (N, T, 1) and a mask (N, T) of sequences of lengths 1 to T."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(n, steps, 2, generator=g)
    y = x.cumsum(1).sum(-1, keepdim=True) + 0.3 * torch.randn(n, steps, 1, generator=g)
    mask = (torch.arange(steps) < (1 + torch.arange(n) % steps)[:, None]).float()
    return x, y, mask


def packed_nll(module: Recurrent, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean NLL of the valid steps, each sequence alone in its own length."""
    parts = []
    for row, length in enumerate(mask.sum(1).long().tolist()):
        out = module.linear(module.lstm(x[row, :length])[0])
        loc, scale = out[:, 0], 0.1 + nn.functional.softplus(out[:, 1])
        z = (y[row, :length, 0] - loc) / scale
        parts.append(0.5 * z.square() + scale.log() + 0.5 * math.log(2 * math.pi))
    return torch.cat(parts).mean()


@pytest.mark.parametrize("padding", [0.0, math.nan, math.inf])
def test_sequences_train_on_the_mean_over_their_valid_steps(padding: float) -> None:
    """As a loop over sequences of their own lengths, whatever y holds in the padding."""
    x, y, mask = sequences()
    padded = torch.where(mask[..., None] > 0, y, padding)
    module, twin = Recurrent(), Recurrent()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    history = fit(
        module, (x, padded, mask), (x, padded, mask), max_epochs=3, batch_size=12, optimizer=sgd,
        clip_norm=None,
    )  # fmt: skip
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in range(3):
        loss = packed_nll(twin, x, y, mask)
        assert history.train_nll[epoch] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after = packed_nll(twin, x, y, mask).item()
        assert history.val_nll[epoch] == pytest.approx(after, rel=1e-5)
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


def test_steps_count_alike_in_every_batch_and_loader() -> None:
    """The epoch's NLL is the mean over steps, not over sequences or batches."""
    x, y, mask = sequences()
    module = Recurrent()
    expected = packed_nll(module, x, y, mask).item()
    frozen = torch.optim.SGD(module.parameters(), lr=0.0)
    loader = DataLoader(TensorDataset(x, y, mask), batch_size=5)
    for train in ((x, y, mask), loader):
        history = fit(module, train, loader, max_epochs=1, optimizer=frozen)
        assert history.train_nll + history.val_nll == pytest.approx([expected] * 2, rel=1e-5)
    whole = fit(module, (x, y), max_epochs=1, optimizer=frozen)
    assert whole.train_nll == [pytest.approx(-module(x).log_prob(y).mean().item(), rel=1e-5)]
    rows = torch.arange(12.0)  # (N,) weights of whole sequences
    weighted = fit(module, (x, y, rows), max_epochs=1, optimizer=frozen, batch_size=12)
    mean = (rows @ -module(x).log_prob(y).mean(1)) / rows.sum()
    assert weighted.train_nll == [pytest.approx(mean.item(), rel=1e-5)]


def test_steps_of_nothing_but_nan_are_left_out_where_gaps_are_named() -> None:
    """missing="marginal" takes NaN for padding, with no weights, also where y has one dimension."""
    x, y, mask = sequences()
    padded = torch.where(mask[..., None] > 0, y, math.nan)
    module = Recurrent()
    frozen = torch.optim.SGD(module.parameters(), lr=0.0)
    history = fit(module, (x, padded), max_epochs=1, optimizer=frozen, missing="marginal")
    assert history.train_nll == [pytest.approx(packed_nll(module, x, y, mask).item(), rel=1e-5)]
    with pytest.raises(ValueError, match=r"y must be finite; row 0 is .*pass missing='marginal'"):
        fit(module, (x, padded))


class Pixels(nn.Module):
    """Classes of pixels: x (N, 2, H, W) gives logits (N, H, W, 3)."""

    def __init__(self, last: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.conv = nn.Conv2d(2, 3, 1)
        self.last = last

    def forward(self, x: Tensor) -> Categorical:
        logits = self.conv(x)
        return Categorical(logits=logits.movedim(1, -1) if self.last else logits)


def labelled_images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(6)
    x = torch.randn(6, 2, 4, 5, generator=g)
    label = torch.randint(0, 3, (6, 4, 5), generator=g)
    label[torch.rand(6, 4, 5, generator=g) < 0.3] = -100
    label[2] = -100
    return x, label


@pytest.mark.parametrize("weighted", [False, True])
def test_dense_labels_train_as_torchs_cross_entropy_with_ignore_index(weighted: bool) -> None:
    """Pixels without a label are left out of the mean; an image without any of the batch."""
    x, label = labelled_images()
    w = torch.linspace(0.5, 1.5, 6) if weighted else torch.ones(6)
    data = (x, label, w) if weighted else (x, label)
    module, twin = Pixels(), Pixels()
    history = fit(
        module, data, max_epochs=4, batch_size=6, weight_decay=0.0, clip_norm=None,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.5), ignore_index=-100,
    )  # fmt: skip
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    for epoch in range(4):
        each = nn.functional.cross_entropy(twin.conv(x), label, ignore_index=-100, reduction="none")
        share = w[:, None, None] * (label != -100)
        loss = (share * each).sum() / share.sum()
        if not weighted:
            torch.testing.assert_close(loss, nn.functional.cross_entropy(twin.conv(x), label))
        assert history.train_nll[epoch] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-7)


def test_labels_of_rows_may_be_left_out_too() -> None:
    """The same as without those rows, from tensors and from a loader."""
    x, _ = line(40)
    label = torch.arange(40) % 3
    label[::4] = 7
    module, twin, third = Classifier(), Classifier(), Classifier()
    kept = label != 7
    options: dict[str, Any] = {"max_epochs": 3, "lr": 0.1}
    expected = fit(twin, (x[kept], label[kept]), batch_size=30, **options)
    found = fit(module, (x, label), batch_size=30, ignore_index=7, **options)
    assert found.train_nll == pytest.approx(expected.train_nll, rel=1e-6)
    assert_same(module.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-7)
    fit(third, DataLoader(TensorDataset(x, label), batch_size=40), ignore_index=7, **options)
    assert_same(third.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("module", "data", "options", "error", "message"),
    [
        (Classifier(), (X, torch.full((20,), -100)), {}, ValueError,
         r"y must hold classes from 0 to 2; got -100 in row 0 \(20 such .*ignore_index=-100"),
        (Classifier(), (X, torch.arange(20)), {}, ValueError, "got 3 in row 3"),
        (Pixels(), labelled_images(), {}, ValueError, r"got -100 in row \(0, "),
        (Pixels(last=False), labelled_images(), {"ignore_index": -100}, ValueError,
         r"\(5, 3, 4\) to fit .*got \(5, 4, 5\)\. The classes .*movedim\(1, -1\)"),
        (Gaussian(), (X, Y), {"ignore_index": -100}, TypeError, "labels, integers; y has dtype t"),
        (Gaussian(), (X, Y.long()), {"ignore_index": -100}, ValueError, "a distribution of classe"),
        (Classifier(), (X, torch.full((20,), 5)), {"ignore_index": 5}, ValueError,
         "train must hold a known y of positive weight; got none in any row"),
        (Classifier(), (X, torch.zeros(20).long()), {"ignore_index": 1.5}, TypeError,
         "ignore_index must be an integer; got .*float"),
        (Gaussian(), (X, Y), {"missing": "drop"}, ValueError, "missing must be 'refuse' or"),
        (Given(Normal(torch.zeros(20, 4, 5), 1.0)), (X, torch.zeros(20, 4, 5)), {}, ValueError,
         r"Independent\(dist, 2\), one value a row; .* weights of shape \(20, 4, 5\)\?"),
        (Recurrent(), (*sequences()[:2], torch.ones(12, 6)), {}, ValueError,
         r"weight must have shape \(12,\), .*y \(12, 7, 1\); got \(12, 6\)"),
        (Recurrent(), (*sequences()[:2], torch.ones(12, 7, 1)), {}, ValueError,
         r"weight must have shape \(12,\) or \(12, 7\), one value a row or place; got \(12, 7, 1"),
        (Recurrent(), (sequences()[0], sequences()[1][..., 0]), {}, ValueError,
         r"y must have shape \(12, 7, 1\).* Did you mean y\[\.\.\., None\]\?"),
    ],
)  # fmt: skip
def test_shapes_and_labels_that_do_not_fit_are_named(
    module: nn.Module, data: Any, options: Any, error: type[Exception], message: str
) -> None:
    """One sentence with the cure, before anything is trained."""
    with pytest.raises(error, match=message):
        fit(module, data, **options)


def test_numbers_with_weights_for_each_place_need_no_event_axis() -> None:
    """A normal of batch (N, T) and y (N, T): the weights say that a row has T values."""
    y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    w = torch.rand(20, 4, generator=torch.Generator().manual_seed(1))
    module = Given(Normal(torch.zeros(20, 4), 1.0))
    module.forward = lambda x: Normal(module.p.expand(len(x), 4), 1.0)  # type: ignore[method-assign]
    history = fit(module, (X, y, w), max_epochs=1, batch_size=20)
    expected = (w * (0.5 * (y - 1) ** 2 + 0.5 * math.log(2 * math.pi))).sum() / w.sum()
    assert history.train_nll == [pytest.approx(expected.item(), rel=1e-6)]


# --- several inputs ---------------------------------------------------------------------------


class Scaled(Gaussian):
    """Takes two inputs."""

    def forward(self, x: Tensor, factor: Tensor) -> Independent:  # type: ignore[override]
        return super().forward(x * factor)


def test_a_module_of_several_inputs_takes_a_tuple() -> None:
    """The same as one input made of them, from tensors, from a loader, and resumed."""
    x, y = line(60)
    factor = 0.5 + torch.rand(60, 1, generator=torch.Generator().manual_seed(2))
    modules = [Scaled(), Gaussian(), Scaled()]
    options: dict[str, Any] = {"max_epochs": 3, "lr": 0.05}
    first = fit(modules[0], ((x, factor), y), ((x, factor), y), batch_size=20, **options)
    second = fit(modules[1], (x * factor, y), (x * factor, y), batch_size=20, **options)
    assert first.train_nll == pytest.approx(second.train_nll, rel=1e-6)
    assert_same(modules[0].state_dict(), modules[1].state_dict(), rtol=1e-5, atol=1e-7)
    pairs = [((x[i : i + 20], factor[i : i + 20]), y[i : i + 20]) for i in (0, 20, 40)]
    dataset: Any = [((a, b), c) for a, b, c in zip(x, factor, y, strict=True)]
    for loader in (pairs, DataLoader(dataset, batch_size=20)):
        assert fit(Scaled(), loader, **options).train_nll[0] == pytest.approx(
            fit(Gaussian(), [(a * b, c) for (a, b), c in pairs], **options).train_nll[0], rel=1e-6
        )
    with pytest.raises(ValueError, match=r"60 rows of x\[0\] and 59 of x\[1\]"):
        fit(modules[2], ((x, factor[:59]), y))
    with pytest.raises(TypeError, match=r"train x\[1\] must be a torch.Tensor; got list"):
        fit(modules[2], ((x, factor.tolist()), y))
    with pytest.raises(ValueError, match=r"train x\[1\] must be finite; row 5 is \[nan\]"):
        fit(modules[2], ((x, with_nan(factor, 5, math.nan)), y))


def test_a_loader_with_nan_is_told_so() -> None:
    """The error of a loss that is NaN names y, not the learning rate."""
    loader = [(X, with_nan(Y, 3, math.nan))]
    with pytest.raises(TrainingError, match="loss became nan: y of that batch holds NaN: leave"):
        fit(Gaussian(), loader)

"""One network in place of a whole model: trained on draws from it, at rows made for that.

The teacher is any conditional density of the latent target.  At the transfer rows it is asked once;
the student is then trained by the cross-entropy to it, the mean of -log q(y|x) over draws y of the
teacher, which is the Kullback-Leibler divergence but for the entropy of the teacher.

References:
    G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network (2015).
    C. Bucila, R. Caruana, A. Niculescu-Mizil, Model Compression (2006), section 2: transfer rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import check_integer, check_number
from ..distribution import GaussianMixture
from ..nn import MIN_SCALE, MDNEnsemble
from ..train import History, fit_ensemble
from ..warnings import TrainingWarning, warn
from ._base_models import BaseModels, Report
from ._model import FittedGroup, FittedModel, InputTransform
from ._stacking import Stack
from ._state import Floats
from ._target import Choice, Target

__all__ = [
    "Distilled",
    "Limits",
    "checked_limits",
    "distil_model",
    "held_rows",
    "warn_of_loss",
]

_DRAWS, _DRAWS_A_STEP = 64, 8  # of the teacher at each transfer row, and of those in one step
_DRAWS_TO_VALIDATE = 32
_MOST_ROWS, _LEAST_ROWS = 40_000, 1_000  # transfer rows, beside those that are given
_TEACHER_SHARE = 0.3  # of the time, for the answers of the teacher at the transfer rows
_TRIED_ROWS = 256  # by which the time of a row is found
_FRESH_SHARE = 0.08  # of the transfer rows, on which the divergence is measured; they do not train
_HELD_OUT = 0.1  # of the other ones, by which the best epoch is chosen
_WIDTHS = (16, 32, 64, 128, 256)  # of both hidden layers
_FIRST_SHARE = 0.3  # of the time of training, for the narrower network
_BATCH = 256
_STEPS = 16_000  # at most, of one network
_RATE = 3e-3
_SHARES = 0.1, 0.6, 0.3  # of transfer rows that are given rows, mixed with a neighbour, resampled
_NEIGHBOURS = 5
_MOST_NEIGHBOURS = 5_000  # rows among which neighbours are looked for
_MAX_FULL = 4  # targets whose components have full covariances
_RESAMPLED = 0.3  # of the columns of a resampled row
_FEW_VALUES = 20  # of a column of numbers whose values are taken over instead of mixed
_CLASSIFIER_WIDTH = 64  # at most
_CHUNK = 2048  # rows whose densities are held at once

Answer = Callable[[Floats], tuple[Tensor, Tensor]]  # draws (N, S, D), their log densities (N, S)


class Limits(NamedTuple):
    """What the student may cost.

    Attributes:
        loss: nats of divergence, beyond which the network grows and at last a warning is given.
        kilobytes: of its weights.
        seconds: of the whole, the answers of the teacher included.
        n_components: of the student.
    """

    loss: float
    kilobytes: float
    seconds: float
    n_components: int


@dataclass
class Distilled:
    """The student and what it lost.

    Attributes:
        model: the student.
        divergence, standard_error: Kullback-Leibler divergence from the teacher, in nats, mean over
            fresh transfer rows.
        rows: number of transfer rows.
        teacher_seconds, seconds: of the answers of the teacher, and of the whole.
    """

    model: FittedModel
    divergence: float
    standard_error: float
    rows: int
    teacher_seconds: float
    seconds: float

    def numbers(self) -> dict[str, float]:
        """Returns all but the model, and the number of its weights, as plain numbers."""
        models = [self.model, *([self.model.atoms] if self.model.atoms else [])]
        weights = sum(p.numel() for one in models for p in one.groups[0].network.parameters())
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return found | {"parameters": weights}


def checked_limits(max_loss: float, max_size: float, max_time: float, n_components: int) -> Limits:
    """Returns the limits, checked under the names of the arguments of ``distil``."""
    check_number("max_loss", max_loss, above=0)
    check_number("max_size", max_size, above=0)
    check_number("max_time", max_time, above=0)
    check_integer("n_components", n_components)
    return Limits(float(max_loss), float(max_size), float(max_time), int(n_components))


def distil_model(
    teacher: FittedModel,
    x: Floats,
    numeric: NDArray[np.bool_],
    sources: NDArray[np.intp],
    limits: Limits,
    seed: int,
    report: Report,
) -> Distilled:
    """Distils a fitted model into one network, and its classifier of atoms into another.

    Args:
        teacher: the model.
        x: (N, P) encoded rows such as it will be asked for.
        numeric: (P,) columns of numbers.
        sources: (P,) column of X of which each encoded column is.
        limits: of the student.
        seed: of the rows, the draws and the network.
        report: shows the progress.
    """
    share = 0.75 if teacher.atoms is None else 0.5
    own = limits if teacher.atoms is None else _split(limits, share)
    rows = _Maker(x, numeric, sources, teacher.inputs, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)

    def ask(made: Floats) -> tuple[Tensor, Tensor]:
        parts = []
        for chunk in teacher.chunks(len(made)):
            pool = teacher.latent(made[chunk])
            y = _draws(pool, generator)
            parts.append((y, pool.log_prob(y.movedim(1, 0).double()).t().float()))
        each = list(zip(*parts, strict=True))
        return torch.cat(each[0]), torch.cat(each[1])

    found = _distil(
        rows,
        ask,
        teacher.target,
        limits=own,
        min_scale=teacher.stack.min_scale,
        seed=seed,
        report=report,
    )
    if teacher.atoms is None:
        return found
    return _with_classifier(found, teacher.atoms, rows, _split(limits, 1 - share), seed, report)


def held_rows(model: FittedModel, rng: np.random.Generator, n: int = 2000) -> Floats | None:
    """Returns encoded rows (N, P) that a saved model allows to be made; None where it has none.

    A Gaussian process holds its training rows.  Else each column is drawn on its own from the
    thresholds of the trees, which are denser where the values are.
    """
    processes, forests = model.base_models.processes, model.base_models.forests
    p = len(model.inputs.shift)
    if processes and processes[0].x.shape[1] == p:
        process = processes[0]
        columns = [
            np.interp(process.x[:, f].numpy(), score.numpy(), value.numpy())
            for f, (value, score) in enumerate(zip(process.values, process.scores, strict=True))
        ]
        return model.inputs.inverse(np.stack(columns, 1))
    if not forests:
        return None
    low, high = model.inputs.low[:p].numpy(), model.inputs.high[:p].numpy()
    made = np.empty((n, p))
    for f in range(p):
        splits = np.concatenate([one.threshold[one.feature == f] for one in forests])
        ends = np.clip(np.sort(splits), low[f], high[f]) if len(splits) else np.zeros(0)
        knots = np.concatenate([low[f : f + 1], ends, high[f : f + 1]])
        at = rng.uniform(0, len(knots) - 1, n)
        made[:, f] = np.interp(at, np.arange(len(knots)), knots)
    return model.inputs.inverse(made)


# -- the rows -------------------------------------------------------------------------------------


class _Maker:
    """Makes rows like those that are given.

    A row is one of them; or between one and a neighbour of it; or one with some columns from
    another row.  All encoded columns of one column of X are taken from one row.
    """

    def __init__(
        self,
        x: Floats,
        numeric: NDArray[np.bool_],
        sources: NDArray[np.intp],
        inputs: InputTransform,
        rng: np.random.Generator,
    ) -> None:
        self.x, self.sources, self.inputs, self.rng = x, sources, inputs, rng
        self.numeric = numeric
        counts = [len(np.unique(column)) for column in x.T]
        self.mixed = numeric & (np.array(counts) > _FEW_VALUES)
        self.embedded = [int(f) for f in np.flatnonzero(numeric) if counts[f] > 2]
        some = rng.permutation(len(x))[:_MOST_NEIGHBOURS]
        z = inputs(x[some]).numpy()
        self.some, self.near = some, _neighbours(z, min(_NEIGHBOURS, len(some) - 1))

    def draw(self, n: int) -> Floats:
        """Returns (n, P) rows."""
        counts = self.rng.multinomial(n, _SHARES)
        given = self.x[self.rng.integers(len(self.x), size=counts[0])]
        made = [given, self._between(counts[1]), self._resampled(counts[2])]
        return self.rng.permutation(np.concatenate(made))

    def _between(self, n: int) -> Floats:
        first = self.rng.integers(len(self.some), size=n)
        if not self.near.shape[1]:
            return self.x[self.some[first]]
        other = self.near[first, self.rng.integers(self.near.shape[1], size=n)]
        a, b = self.x[self.some[first]], self.x[self.some[other]]
        share = self.rng.uniform(size=(n, 1))
        from_b = self._columns(n, 0.5)
        return np.where(self.mixed, a + share * (b - a), np.where(from_b, b, a))

    def _resampled(self, n: int) -> Floats:
        a, b = (self.x[self.rng.integers(len(self.x), size=n)] for _ in range(2))
        return np.where(self._columns(n, _RESAMPLED), b, a)

    def _columns(self, n: int, share: float) -> NDArray[np.bool_]:
        """Which encoded columns, (n, P), come from the other row."""
        chosen = self.rng.uniform(size=(n, int(self.sources.max()) + 1)) < share
        return chosen[:, self.sources]


def _neighbours(z: Floats, count: int) -> NDArray[np.intp]:
    """The nearest rows, (N, count), of each row of (N, P)."""
    from sklearn.neighbors import NearestNeighbors

    if count < 1:
        return np.empty((len(z), 0), dtype=np.intp)
    search = NearestNeighbors(n_neighbors=count + 1).fit(z)
    found: NDArray[np.intp] = search.kneighbors(return_distance=False, n_neighbors=count)
    return found


# -- the draws ------------------------------------------------------------------------------------


def _draws(pool: GaussianMixture, generator: torch.Generator) -> Tensor:
    """Draws (N, S, D) of mixtures (N,): for one target stratified by probability, and sorted.

    The quantile of each stratum is not looked for: of components in the order of their means it
    takes the one in which the stratum falls, and the quantile within that one.
    """
    n, dims = len(pool.logits), pool.event_shape[0]
    if dims > 1:
        return pool.sample(torch.Size([_DRAWS]), generator=generator).movedim(0, 1).float()
    loc, order = pool.loc[..., 0].sort(dim=1)
    scale = pool.scale[..., 0].gather(1, order)
    weight = pool.logits.gather(1, order).softmax(1)
    cumulated = weight.cumsum(1)
    shift = torch.rand(n, _DRAWS, generator=generator, dtype=torch.float64)
    p = (torch.arange(_DRAWS) + shift) / _DRAWS * cumulated[:, -1:]
    component = torch.searchsorted(cumulated, p).clamp(max=loc.shape[1] - 1)
    own = weight.gather(1, component)
    inside = (p - (cumulated.gather(1, component) - own)) / own.clamp(min=1e-300)
    u = inside.clamp(1e-9, 1 - 1e-9)
    y = loc.gather(1, component) + scale.gather(1, component) * torch.special.ndtri(u)
    return y.sort(1).values.unsqueeze(-1).float()


def _split(limits: Limits, share: float) -> Limits:
    return limits._replace(kilobytes=share * limits.kilobytes, seconds=share * limits.seconds)


# -- the training ---------------------------------------------------------------------------------


def _distil(
    rows: _Maker,
    ask: Answer,
    target: Target,
    *,
    limits: Limits,
    min_scale: float,
    seed: int,
    report: Report,
) -> Distilled:
    full = 1 < target.n_targets <= _MAX_FULL and not target.has_link
    covariance_type = "full" if full else "diagonal"
    begin = time.monotonic()
    report("teacher", 0, 1)
    tried = rows.draw(_TRIED_ROWS)
    ask(tried[:2])  # what a first call costs is not that of a row
    start = time.monotonic()
    ask(tried)
    a_row = (time.monotonic() - start) / _TRIED_ROWS
    n = int(np.clip(_TEACHER_SHARE * limits.seconds / a_row, _LEAST_ROWS, _MOST_ROWS))
    made = rows.draw(n)
    answer = ask(made)
    report("teacher", 1, 1)
    teacher_seconds = time.monotonic() - begin
    every = _Part(rows.inputs(made).float(), *answer)
    fresh, val, train = every.split(int(_FRESH_SHARE * n), int(_HELD_OUT * n))
    best: tuple[float, float, MDNEnsemble, History] | None = None
    widths = _widths(rows, target.n_targets, limits, covariance_type)
    for width in widths:
        left = limits.seconds - (time.monotonic() - begin)
        last = width == widths[-1]
        network = _network(rows, width, target.n_targets, limits, covariance_type, min_scale, seed)
        network.initialize_from(train.y[:, :: _DRAWS // 4].flatten(0, 1))
        history = _train(network, train, val, left if last else _FIRST_SHARE * left, seed, report)
        nats = fresh.divergence(network)
        mean, error = float(nats.mean()), float(nats.std()) / math.sqrt(len(nats))
        if best is None or mean < best[0]:
            best = mean, error, network, history
        if last or mean <= limits.loss:
            break
        # rows where the student differs most count twice for the next one
        most = train.divergence(network).argsort(descending=True)[: len(train.x) // 2]
        train = train.take(torch.cat([torch.arange(len(train.x)), most]))
    assert best is not None
    mean, error, network, history = best
    model = _student(network, rows.inputs, target, history, min_scale)
    return Distilled(model, mean, error, n, teacher_seconds, time.monotonic() - begin)


def _network(
    rows: _Maker,
    width: int,
    n_targets: int,
    limits: Limits,
    covariance_type: str,
    min_scale: float,
    seed: int,
) -> MDNEnsemble:
    return MDNEnsemble(
        1,
        sum(rows.inputs.whitening.shape),
        n_targets,
        limits.n_components,
        (width, width),
        embedded=rows.embedded,
        covariance_type=covariance_type,
        min_scale=min_scale,
        generator=torch.Generator().manual_seed(seed),
    )


def _student(
    network: MDNEnsemble,
    inputs: InputTransform,
    target: Target,
    history: History,
    min_scale: float,
    of_weights: bool = False,
) -> FittedModel:
    """The model of one network, with nothing beside it."""
    stack = Stack.uniform([[1]], min_scale=min_scale, of_weights=of_weights)
    group = FittedGroup(network.double(), False, [1], history)
    return FittedModel(inputs, BaseModels(), [group], stack, target)


class _Part(NamedTuple):
    """Rows in standard units with the draws of the teacher and their log densities."""

    x: Tensor  # (N, P + Q)
    y: Tensor  # (N, S, D)
    known: Tensor  # (N, S)

    def take(self, index: Tensor) -> _Part:
        return _Part(*(a[index] for a in self))

    def split(self, first: int, second: int) -> list[_Part]:
        """The first rows, those after them, and all others."""
        sizes = [first, second, len(self.x) - first - second]
        return [_Part(*parts) for parts in zip(*(a.split(sizes) for a in self), strict=True)]

    @torch.no_grad()
    def divergence(self, network: MDNEnsemble) -> Tensor:
        """Kullback-Leibler divergence from the teacher of each row, (N,), by its draws."""
        parts = []
        for x, y, known in zip(*(a.split(_CHUNK) for a in self), strict=True):
            own = network(x)[0].log_prob(y.movedim(1, 0))  # (S, n)
            parts.append((known.t() - own).mean(0))
        return torch.cat(parts)


def _widths(rows: _Maker, n_targets: int, limits: Limits, covariance_type: str) -> tuple[int, ...]:
    """The widths to try: the widest that the size allows, and before it the next narrower one."""
    fit = []
    for width in _WIDTHS:
        network = _network(rows, width, n_targets, limits, covariance_type, MIN_SCALE, 0)
        if 4 * sum(p.numel() for p in network.parameters()) <= 1000 * limits.kilobytes:
            fit.append(width)
    if not fit:
        raise ValueError(
            f"max_size must have room for a network of width {_WIDTHS[0]}; got "
            f"{limits.kilobytes:g} kB"
        )
    return tuple(fit[-2:])


def _train(
    network: MDNEnsemble, train: _Part, val: _Part, seconds: float, seed: int, report: Report
) -> History:
    """Trains by the mean log density at draws, of which a step takes one of each stratum anew."""
    draws = train.y.shape[1]

    def log_prob(dist: GaussianMixture, y: Tensor) -> Tensor:
        count = _DRAWS_A_STEP if network.training else _DRAWS_TO_VALIDATE
        width = draws // count
        at = torch.arange(count) * width
        if network.training:
            at = at + torch.randint(width, (count,))  # of the generator that the training seeds
        return dist.log_prob(y[:, :, at].movedim(2, 0)).mean(0)  # (1, B)

    return _fit(network, train.x, train.y, (val.x, val.y), log_prob, seconds, seed, report)


def _fit(
    network: MDNEnsemble,
    x: Tensor,
    target: Tensor,
    val: tuple[Tensor, Tensor],
    log_prob: Callable[[GaussianMixture, Tensor], Tensor],
    seconds: float,
    seed: int,
    report: Report,
) -> History:
    epochs = max(1, _STEPS // max(1, len(x) // _BATCH))
    return fit_ensemble(
        network,
        x,
        target,
        torch.zeros(1, len(x), dtype=torch.bool),
        val=val,
        log_prob=log_prob,
        lr=_RATE,
        weight_decay=0.0,
        batch_size=_BATCH,
        max_epochs=epochs,
        patience=epochs,  # the learning rate falls to the end of the time
        max_time=max(seconds, 0.1),
        seed=seed,
        report=lambda done, total: report("student", done, total),
    )


def _with_classifier(
    found: Distilled,
    classifier: FittedModel,
    rows: _Maker,
    limits: Limits,
    seed: int,
    report: Report,
) -> Distilled:
    """Adds a network with the class probabilities of the classifier of the atoms."""
    begin = time.monotonic()
    target = classifier.target
    assert isinstance(target, Choice)
    maker = _Maker(rows.x, rows.numeric, rows.sources, classifier.inputs, rows.rng)
    made = maker.draw(found.rows)
    parts = [classifier.distribution(made[chunk]) for chunk in classifier.chunks(len(made))]
    p = torch.cat(parts).exp().float()  # (N, A + 1)
    z, of_val = maker.inputs(made).float(), int(_HELD_OUT * len(made))
    own = limits._replace(n_components=p.shape[1])
    width = min(_widths(maker, target.n_targets, own, "diagonal")[-1], _CLASSIFIER_WIDTH)
    network = _network(maker, width, target.n_targets, own, "diagonal", MIN_SCALE, seed)
    with torch.no_grad():
        network.head_bias[:, : p.shape[1], 0] = p.mean(0).clamp(min=1e-6).log()

    def log_prob(dist: GaussianMixture, given: Tensor) -> Tensor:
        return (given * dist.logits).sum(-1)

    seconds = limits.seconds - (time.monotonic() - begin)
    val = z[:of_val], p[:of_val]
    history = _fit(network, z[of_val:], p[of_val:], val, log_prob, seconds, seed, report)
    with torch.no_grad():
        q = network(val[0])[0].logits
    nats = (val[1] * (val[1].clamp(min=1e-30).log() - q)).sum(1)
    error, off = float(nats.std()) / math.sqrt(len(nats)), float(p[:, -1].mean())
    least = classifier.stack.min_scale
    model = _student(network, classifier.inputs, target, history, least, of_weights=True)
    return replace(
        found,
        model=replace(found.model, atoms=model),
        divergence=float(nats.mean()) + off * found.divergence,
        standard_error=math.hypot(error, off * found.standard_error),
        seconds=found.seconds + time.monotonic() - begin,
    )


def warn_of_loss(found: Distilled, limits: Limits) -> None:
    """Warns of a student that differs from its teacher by more than was allowed."""
    if found.divergence > limits.loss:
        warn(
            f"the student differs from the model by {found.divergence:.3g} +- "
            f"{found.standard_error:.1g} nats, more than max_loss={limits.loss:g}: give more "
            "max_time or max_size, or rows such as it will be asked for as X_unlabelled",
            TrainingWarning,
        )

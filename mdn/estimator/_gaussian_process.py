"""A Gaussian process, whose predictions the networks of small samples take as inputs.

Where rows are few it interpolates better than trees, and its standard deviation grows with the
distance to the nearest rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..train._optimizers import Adam
from ._state import Floats, Saved

__all__ = ["GaussianProcess", "process_seconds"]

# (rows, steps) of the stages in which the hyperparameters are fitted, the first on fewer rows.
_FIRST, _LAST, _FAST = (400, 50), (1000, 30), (300, 40)
_MAX_DISTANCES = 4e6  # pairs of rows times columns
_LEARNING_RATE = 0.2  # of Adam, on logs
# Log of the noise at the beginning, in units of the spread of y, and others for y so noisy that the
# likelihood is better there by so many nats a row: from a noise far too small the length scales
# shrink first, and do not find back.
_NOISE, _LARGER_NOISES, _BETTER = -2.5, (-1.5, -0.5), 1.0
_PRIOR = 0.2  # precision of the normal prior of the logs of the length scales
_JITTER = 1e-6  # of the variance of y, for the factorisation
_MIN_NOISE = 1e-3  # of the spread of y
_TRIED_ROWS = 200  # on which a step is measured
_CHOICE = 200, 30  # rows and steps of the fits that choose the units of the columns
_CHOICE_MARGIN = 1.0  # nats by which linear ones must be better
_MIN_CHOICE_ROWS = 100  # below which the evidence says little of them
Scores = Callable[[Floats], tuple[Tensor, Tensor]]
Stages = Sequence[tuple[int, int]]  # rows and steps
_ROOT_3 = math.sqrt(3.0)
# Pairs of rows whose covariances are computed at once: their matrices fit into the cache of a core.
_PAIRS = 1 << 17
_PREDICTED_PAIRS = 1 << 20  # pairs of new and known rows whose equations are solved at once


@dataclass
class GaussianProcess(Saved):
    r"""Posterior of a Gaussian process for one target.

    Its kernel is

    .. math::
        k(x, x') = a_1^2\, m\Big(\sqrt{\sum_f (d_f / l_f)^2}\Big)
            + a_2^2\, \frac1F \sum_f m_f + a_3^2\, \binom F2^{-1} \sum_{f<g} m_f m_g + a_4^2, \\
        m(r) = (1 + \sqrt3 r) e^{-\sqrt3 r}, \qquad m_f = m(d_f / r_f)

    over all columns jointly, each column, and each pair of columns; d is the difference of the
    inputs, each transformed to a normal distribution by its ranks, or linear within its range where
    the evidence is greater so.

    Attributes:
        values, scores: of each column its distinct values and their normal scores; of linear ones
            the two ends.
        x: (N, F) transformed rows.
        y: (N,) their targets, standardised.
        noise_share: (N,) noise variance of each row, relative to the common one.
        theta: (2 F + 5,) logs of l, r, a and the noise.

    References:
        C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning (2006), chapters
        2 and 5; equations 5.10 to 5.12 leave one row out, their block form leaves out many.

        D. Duvenaud, H. Nickisch, C. E. Rasmussen, Additive Gaussian Processes (2011), section 3:
        sums of products of the columns' kernels.
    """

    values: list[Tensor]
    scores: list[Tensor]
    x: Tensor
    y: Tensor
    noise_share: Tensor
    theta: Tensor

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.scores) == self.x.shape[1]:
            raise ValueError("the process has values and scores of another number of columns")

    @classmethod
    def fit(
        cls,
        x: Floats,
        y: Floats,
        weight: Floats | None,
        fold: NDArray[np.integer[Any]],
        *,
        fast: bool,
        seed: int,
    ) -> tuple[GaussianProcess, Floats]:
        """Returns the process of rows (N, F) and targets (N,), and its out-of-fold predictions.

        These are (N, 2), as :meth:`predict` gives them.  Whole folds are left out: the mean without
        a single row would reveal its y.
        """
        targets = torch.as_tensor(y, dtype=torch.float64)
        share = np.ones(len(y)) if weight is None else weight.mean() / weight
        noise = torch.as_tensor(share, dtype=torch.float64)
        order = np.random.default_rng(seed).permutation(len(y))

        def learnt(scored: Scores, rows: NDArray[np.intp], stages: Stages) -> GaussianProcess:
            values, scores = map(list, zip(*map(scored, x.T), strict=True))
            inputs = _gaussianize(x, values, scores)
            theta = _fit_hyperparameters(inputs[rows], targets[rows], noise[rows], stages)
            return cls(values, scores, inputs, targets, noise, theta)

        kind: Scores = _normal_scores
        if not fast and len(y) >= _MIN_CHOICE_ROWS:
            some = order[: _CHOICE[0]]
            tried = learnt(kind, some, (_CHOICE,)), learnt(_linear_scores, some, (_CHOICE,))
            normal, linear = (process.evidence(some) for process in tried)
            kind = _linear_scores if linear > normal + _CHOICE_MARGIN else kind
        new = learnt(kind, order, (_FAST,) if fast else (_FIRST, _LAST))
        root, alpha = new._solved
        inverse = torch.cholesky_inverse(root)
        mean, variance = torch.empty_like(targets), torch.empty_like(targets)
        for f in range(int(fold.max()) + 1):
            block = torch.as_tensor(np.flatnonzero(fold == f))
            covariance = torch.linalg.inv(inverse[block][:, block])
            mean[block] = targets[block] - covariance @ alpha[block]
            variance[block] = covariance.diagonal()
        return new, _mean_log_std(mean, variance)

    def evidence(self, rows: NDArray[np.intp]) -> float:
        """Returns the log marginal likelihood of some rows, but for a constant."""
        return _evidence(self.x[rows], self.y[rows], self.noise_share[rows], self.theta)

    @torch.no_grad()
    def predict(self, x: Floats) -> Floats:
        """Returns mean and log standard deviation of new rows, (n, 2), chunk by chunk."""
        root, alpha = self._solved
        amplitude, noise = _variances(self.theta)
        out = np.empty((len(x), 2))
        step = max(1, _PREDICTED_PAIRS // len(self.x))
        for i in range(0, len(x), step):
            inputs = _gaussianize(x[i : i + step], self.values, self.scores)
            cross = _kernel(inputs, self.x, self.theta)  # (n, N)
            explained = torch.linalg.solve_triangular(root, cross.t(), upper=False).square().sum(0)
            variance = amplitude.sum() + noise - explained
            out[i : i + step] = _mean_log_std(cross @ alpha, variance.clamp(min=noise))
        return out

    @cached_property
    def _solved(self) -> tuple[Tensor, Tensor]:
        """Cholesky factor of the covariance of the targets, and its inverse times y."""
        with torch.no_grad():
            noise = _variances(self.theta)[1]
            kernel = _kernel(self.x, self.x, self.theta)
            jitter = _JITTER
            while True:  # ends, as a large enough jitter makes the matrix positive definite
                kernel.diagonal().add_(noise * self.noise_share + jitter)
                root, info = torch.linalg.cholesky_ex(kernel)
                if not int(info):
                    break
                jitter *= 10
            return root, torch.cholesky_solve(self.y.unsqueeze(1), root).squeeze(1)


def _mean_log_std(mean: Tensor, variance: Tensor) -> Floats:
    return torch.stack([mean, 0.5 * variance.log()], 1).numpy()


def _normal_scores(column: Floats) -> tuple[Tensor, Tensor]:
    """The distinct values of a column and the normal quantiles of their mid-ranks."""
    values, counts = np.unique(column, return_counts=True)
    share = (np.cumsum(counts) - 0.5 * counts) / len(column)
    scores = torch.special.ndtri(torch.as_tensor(share))
    spread = float(np.sqrt(np.average(scores.numpy() ** 2, weights=counts)))
    return torch.as_tensor(values), scores / (spread if spread > 0 else 1.0)


def _linear_scores(column: Floats) -> tuple[Tensor, Tensor]:
    """The ends of a column, and their distances from its mean in standard deviations."""
    ends, spread = np.unique(column)[[0, -1]], float(column.std())
    return torch.as_tensor(ends), torch.as_tensor((ends - column.mean()) / (spread or 1.0))


def _gaussianize(x: Floats, values: list[Tensor], scores: list[Tensor]) -> Tensor:
    """The columns as normal scores, interpolated between the known values."""
    columns = [np.interp(*column) for column in zip(x.T, values, scores, strict=True)]
    return torch.as_tensor(np.stack(columns, 1))


def _variances(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the four amplitudes, and the variance of the noise."""
    squares = (2 * theta[-5:-1]).exp()
    if len(theta) == 7:  # one column, which has no pair
        squares = squares * squares.new_tensor([1.0, 1.0, 0.0, 1.0])
    return squares, (2 * theta[-1]).exp() + _MIN_NOISE**2


def _shares(columns: int) -> tuple[float, float]:
    """Weights of a column and of a pair of columns, each in its mean."""
    return 1 / columns, 2 / max(1, columns * (columns - 1))


def _matern_(r: Tensor) -> Tensor:
    """The kernel m of distances, in their own memory."""
    r.mul_(_ROOT_3)
    decay = r.neg().exp_()
    return r.add_(1).mul_(decay)


def _kernel(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    """Covariances (n, m) of rows (n, F) and (m, F), without gradients."""
    columns = a.shape[1]
    joint, single = theta[:columns].exp(), theta[columns : 2 * columns].exp()
    (c_joint, c_one, c_pair, c_all), _ = _variances(theta)
    one, pair = _shares(columns)
    out = a.new_empty(len(a), len(b))
    step = max(1, _PAIRS // max(1, len(b)))
    for rows, total in zip(a.split(step), out.split(step), strict=True):
        total.fill_(1e-12)
        ones, pairs = torch.zeros_like(total), torch.zeros_like(total)
        for f in range(columns):
            distance = (rows[:, f, None] - b[:, f]).abs_()
            total.add_((distance / joint[f]).square_())
            m = _matern_(distance.div_(single[f]))
            pairs.add_(ones * m)
            ones.add_(m)
        _matern_(total.sqrt_()).mul_(c_joint)
        total.add_(ones.mul_(c_one * one)).add_(pairs.mul_(c_pair * pair)).add_(c_all)
    return out


def process_seconds(x: Floats, *, fast: bool, seconds: Callable[[], float]) -> float:
    """Returns an estimate of the time that the fit of a process takes, from two steps.

    The time of a step grows between the square and the cube of the rows.

    Args:
        x: (N, F) rows of the process.
        fast: as for :meth:`GaussianProcess.fit`.
        seconds: the clock.
    """
    n, columns = x.shape
    rows = min(n, _TRIED_ROWS)
    some = torch.as_tensor(x[:: max(1, n // rows)][:rows], dtype=torch.float64)
    target = torch.linspace(-1, 1, len(some), dtype=torch.float64)
    for _ in range(2):  # the first one also prepares what later ones find
        begin = seconds()
        pairs = _PairwiseDistances(some)
        pairs.gradient(_first_hyperparameters(columns), target, torch.ones_like(target))
        step = seconds() - begin
    stages = (_FAST,) if fast else (_CHOICE, _CHOICE, _FIRST, _LAST)
    steps = sum(count * (min(size, n) / len(some)) ** 2.5 for size, count in stages)
    return step * (steps + 2 * (n / len(some)) ** 2.5)


def _first_hyperparameters(columns: int) -> Tensor:
    """Where their fit begins."""
    first = torch.cat([torch.full((columns,), math.log(2.0)), torch.zeros(columns)]).double()
    return torch.cat([first, first.new_tensor([0.0, -1.0, -1.0, -2.0, _NOISE])])


def _fit_hyperparameters(
    x: Tensor, y: Tensor, noise_share: Tensor, stages: Sequence[tuple[int, int]]
) -> Tensor:
    """Logs of the hyperparameters that maximise the marginal likelihood, with a weak prior."""
    columns = x.shape[1]
    first = _first_hyperparameters(columns)
    theta = first.clone()
    some = slice(min(stages[0][0], len(x)))
    best = _evidence(x[some], y[some], noise_share[some], theta) + _BETTER * len(x[some])
    for noise in _LARGER_NOISES:
        other = first.clone()
        other[-1] = noise
        found = _evidence(x[some], y[some], noise_share[some], other)
        if found > best:
            theta, best = other, found
    optimizer = Adam([theta], lr=_LEARNING_RATE)
    done, total = 0, sum(steps for _, steps in stages)
    for rows, steps in stages:
        rows = min(rows, int(math.sqrt(2 * _MAX_DISTANCES / columns)))
        pairs = _PairwiseDistances(x[:rows])
        for _ in range(steps):
            rate = _LEARNING_RATE * (0.55 + 0.45 * math.cos(math.pi * done / total))
            optimizer.param_groups[0]["lr"] = rate
            gradient = pairs.gradient(theta, y[:rows], noise_share[:rows])
            if gradient is None or not bool(gradient.isfinite().all()):
                return theta
            gradient[: 2 * columns] += _PRIOR * (theta - first)[: 2 * columns]
            theta.grad = gradient
            optimizer.step()
            done += 1
    return theta


def _evidence(x: Tensor, y: Tensor, noise_share: Tensor, theta: Tensor) -> float:
    """Log marginal likelihood but for a constant; -inf where K is not positive definite."""
    kernel = _kernel(x, x, theta)
    kernel.diagonal().add_(_variances(theta)[1] * noise_share + _JITTER)
    root, info = torch.linalg.cholesky_ex(kernel)
    if int(info):
        return -math.inf
    alpha = torch.cholesky_solve(y.unsqueeze(1), root).squeeze(1)
    return -float(root.diagonal().log().sum() + 0.5 * y @ alpha)


class _PairwiseDistances:
    """Distances of all pairs of n rows, (n, F), which many kernels of the same rows share."""

    def __init__(self, x: Tensor) -> None:
        self.n = len(x)
        first, second = torch.triu_indices(self.n, self.n, 1)
        self.place = first * self.n + second  # (P,) of the pairs in a matrix
        self.distance = (x[first] - x[second]).abs().t().contiguous()  # (F, P)
        self.square = self.distance.square()
        self.m, self.derivative = (x.new_empty(self.distance.shape) for _ in range(2))
        # a multiple of the pairs that are summed at once, so that blocks change no digit
        self.step = 64 * max(1, _PAIRS // (256 * len(self.distance)))

    def gradient(self, theta: Tensor, y: Tensor, noise_share: Tensor) -> Tensor | None:
        r"""Gradient of the negative log marginal likelihood; None if K is not positive definite.

        It is the sum of :math:`G_{ij} \, \partial K_{ij} / \partial \theta` with
        :math:`G = (K^{-1} - \alpha \alpha^T) / 2` (Rasmussen and Williams, equation 5.9).
        """
        columns = len(self.distance)
        (c_joint, c_one, c_pair, c_all), noise = _variances(theta)
        one, pair = _shares(columns)
        inverse = (-2 * theta[:columns]).exp()
        r = (inverse @ self.square).add_(1e-12).sqrt_().mul_(_ROOT_3)
        decay = r.neg().exp_()
        joint = r.add_(1).mul_(decay)  # its derivative in log l_f: 3 exp(-r) (d_f / l_f)^2
        total, pairs = self._sums(theta[columns : 2 * columns])
        ones, pairs = one * total, pairs.mul_(0.5 * pair)
        values = (c_joint * joint).add_(c_one * ones).add_(c_pair * pairs).add_(c_all)
        kernel = y.new_zeros(self.n, self.n)
        kernel.view(-1)[self.place] = values
        kernel += kernel.t().clone()
        prior = c_joint + c_one + c_pair + c_all
        kernel.diagonal().add_(prior + noise * noise_share + _JITTER)
        root, info = torch.linalg.cholesky_ex(kernel)
        if int(info):
            return None
        precision = torch.cholesky_inverse(root)
        alpha = precision @ y
        precision.sub_(torch.outer(alpha, alpha)).mul_(0.5)  # G, which is symmetric
        diagonal, g = precision.diagonal(), precision.t().reshape(-1)[self.place].mul_(2)
        trace = diagonal.sum()
        in_one = c_one * one * (self.derivative @ g)
        blocks = (a.split(self.step, -1) for a in (self.derivative, self.m, total))
        for derivative, m, sum_of_columns in zip(*blocks, strict=True):
            derivative.mul_(m.neg_().add_(sum_of_columns))
        in_pair = c_pair * pair * (self.derivative @ g)
        return torch.cat(
            [
                3 * c_joint * inverse * (self.square @ decay.mul_(g)),
                in_one + in_pair,
                torch.stack(
                    [
                        2 * c_joint * (g @ joint + trace),
                        2 * c_one * (g @ ones + trace),
                        2 * c_pair * (g @ pairs + trace),
                        2 * c_all * (g.sum() + trace),
                        2 * (noise - _MIN_NOISE**2) * (diagonal @ noise_share),
                    ]
                ),
            ]
        )

    def _sums(self, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of m_f over the columns, and of 2 m_f m_g over pairs of columns, (P,) each.

        It leaves each m_f and its derivative in log r_f, (F, P).  Pairs of rows are taken block by
        block, so that what comes between fits into the cache.
        """
        rate = (_ROOT_3 * (-log_scale).exp())[:, None]
        total, pairs = (self.m.new_empty(self.m.shape[1]) for _ in range(2))
        blocks = (
            a.split(self.step, -1) for a in (self.distance, self.m, self.derivative, total, pairs)
        )
        for distance, m, derivative, sums, products in zip(*blocks, strict=True):
            u = distance * rate
            torch.neg(u, out=m).exp_()
            torch.square(u, out=derivative).mul_(m)
            m.add_(u.mul_(m))
            torch.sum(m, 0, out=sums)
            torch.square(sums, out=products).sub_(torch.square(m, out=u).sum(0))
        return total, pairs

"""A Gaussian process, whose out-of-fold word the networks of small samples take as input.

Where rows are few it interpolates better than trees and says how far the next rows are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GaussianProcess"]

Floats = NDArray[np.floating[Any]]

# Passes over how many rows choose the kernel: the first ones are for the rough outline.
_FIRST, _LAST, _FAST = (400, 50), (1000, 30), (300, 40)
_MOST_DISTANCES = 4e6  # pairs of rows times columns
_RATE = 0.2  # of Adam, on logs
_HELD = 0.2  # pull of the logs of the lengths back to where they start
_JITTER = 1e-6  # of the variance of y, for the factorisation
_LEAST_NOISE = 1e-3  # of the spread of y
_ROOT_3 = math.sqrt(3.0)


@dataclass
class GaussianProcess:
    r"""Posterior of a Gaussian process for one target.

    Its kernel is

    .. math::
        k(x, x') = a_1^2\, m\Big(\sqrt{\sum_f (d_f / l_f)^2}\Big)
            + a_2^2\, \frac1F \sum_f m_f + a_3^2\, \binom F2^{-1} \sum_{f<g} m_f m_g + a_4^2, \\
        m(r) = (1 + \sqrt3 r) e^{-\sqrt3 r}, \qquad m_f = m(d_f / r_f)

    all columns at once, one by one, and two by two; d is the difference of the inputs, each warped
    to a normal shape by its ranks.

    Attributes:
        knots: of each column its distinct values and what they become.
        x: (N, F) warped rows.
        y: (N,) their targets, standardised.
        noise_share: (N,) variance of the noise of each row, in units of the common one.
        theta: (2 F + 5,) logs of l, r, a and the noise.

    References:
        C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning (2006), chapters
        2 and 5; equations 5.10 to 5.12 leave one row out, their block form leaves out many.

        D. Duvenaud, H. Nickisch, C. E. Rasmussen, Additive Gaussian Processes (2011), section 3:
        sums of products of the columns' kernels.
    """

    knots: list[tuple[Tensor, Tensor]]
    x: Tensor
    y: Tensor
    noise_share: Tensor
    theta: Tensor

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
        """The process of the rows (N, F) and targets (N,), and its out-of-fold word, (N, 2).

        Whole blocks are left out: the mean without a single row would be a picture of its y.
        """
        knots = [_ranked(column) for column in x.T]
        warped = _warped(x, knots)
        targets = torch.as_tensor(y, dtype=torch.float64)
        share = np.ones(len(y)) if weight is None else weight.mean() / weight
        noise = torch.as_tensor(share, dtype=torch.float64)
        order = np.random.default_rng(seed).permutation(len(y))
        stages = (_FAST,) if fast else (_FIRST, _LAST)
        theta = _chosen(warped[order], targets[order], noise[order], stages)
        new = cls(knots, warped, targets, noise, theta)
        root, alpha = new._solved
        inverse = torch.cholesky_inverse(root)
        mean, variance = torch.empty_like(targets), torch.empty_like(targets)
        for f in range(int(fold.max()) + 1):
            block = torch.as_tensor(np.flatnonzero(fold == f))
            covariance = torch.linalg.inv(inverse[block][:, block])
            mean[block] = targets[block] - covariance @ alpha[block]
            variance[block] = covariance.diagonal()
        return new, _word(mean, variance)

    @torch.no_grad()
    def predict(self, x: Floats) -> Floats:
        """Mean and log standard deviation of new rows, (N, 2)."""
        root, alpha = self._solved
        cross = _kernel(_warped(x, self.knots), self.x, self.theta)  # (n, N)
        amplitude, noise = _variances(self.theta)
        known = torch.linalg.solve_triangular(root, cross.t(), upper=False).square().sum(0)
        variance = amplitude.sum() + noise - known
        return _word(cross @ alpha, variance.clamp(min=noise))

    @cached_property
    def _solved(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            noise = _variances(self.theta)[1]
            kernel = _kernel(self.x, self.x, self.theta)
            jitter = _JITTER
            while True:  # ends: a large enough jitter makes the matrix positive definite
                kernel.diagonal().add_(noise * self.noise_share + jitter)
                root, info = torch.linalg.cholesky_ex(kernel)
                if not int(info):
                    break
                jitter *= 10
            return root, torch.cholesky_solve(self.y.unsqueeze(1), root).squeeze(1)

    def tensors(self) -> dict[str, Tensor]:
        """All there is to know of it, by name."""
        told = {name: getattr(self, name) for name in ("x", "y", "noise_share", "theta")}
        for i, (values, become) in enumerate(self.knots):
            told[f"values.{i}"], told[f"become.{i}"] = values, become
        return told

    @classmethod
    def restored(cls, tensors: dict[str, Tensor]) -> GaussianProcess:
        """What :meth:`tensors` told."""
        columns = range(tensors["x"].shape[1])
        knots = [(tensors[f"values.{i}"], tensors[f"become.{i}"]) for i in columns]
        x, y, noise_share, theta = (tensors[name] for name in ("x", "y", "noise_share", "theta"))
        if len(theta) == 2 * x.shape[1] + 4:  # of a file without pairs of columns
            theta = torch.cat([theta[:-2], theta.new_tensor([-math.inf]), theta[-2:]])
        return cls(knots, x, y, noise_share, theta)


def _word(mean: Tensor, variance: Tensor) -> Floats:
    return torch.stack([mean, 0.5 * variance.log()], 1).numpy()


def _ranked(column: Floats) -> tuple[Tensor, Tensor]:
    """The distinct values of a column and the normal quantiles of their mid-ranks."""
    values, counts = np.unique(column, return_counts=True)
    share = (np.cumsum(counts) - 0.5 * counts) / len(column)
    become = torch.special.ndtri(torch.as_tensor(share))
    spread = float(np.sqrt(np.average(become.numpy() ** 2, weights=counts)))
    return torch.as_tensor(values), become / (spread if spread > 0 else 1.0)


def _warped(x: Floats, knots: list[tuple[Tensor, Tensor]]) -> Tensor:
    columns = [
        np.interp(column, values.numpy(), become.numpy())
        for column, (values, become) in zip(x.T, knots, strict=True)
    ]
    return torch.as_tensor(np.stack(columns, 1))


def _variances(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the four amplitudes, and the variance of the noise."""
    squares = (2 * theta[-5:-1]).exp()
    if len(theta) == 7:  # one column, which has no pair
        squares = squares * squares.new_tensor([1.0, 1.0, 0.0, 1.0])
    return squares, (2 * theta[-1]).exp() + _LEAST_NOISE**2


def _shares(columns: int) -> tuple[float, float]:
    """What one column and what a pair of columns weighs in its sum."""
    return 1 / columns, 2 / max(1, columns * (columns - 1))


def _matern(r: Tensor) -> Tensor:
    return (1 + _ROOT_3 * r) * torch.exp(-_ROOT_3 * r)


def _kernel(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    """Covariances of rows (n, F) and (m, F), column by column: nothing of size n m F is kept."""
    columns = a.shape[1]
    joint, single = theta[:columns].exp(), theta[columns : 2 * columns].exp()
    square = a.new_full((len(a), len(b)), 1e-12)  # the root has no slope at 0
    ones, pairs = torch.zeros_like(square), torch.zeros_like(square)
    for f in range(columns):
        apart = (a[:, f, None] - b[:, f]).abs()
        square = square + (apart / joint[f]).square()
        m = _matern(apart / single[f])
        pairs = pairs + ones * m
        ones = ones + m
    (c_joint, c_one, c_pair, c_all), _ = _variances(theta)
    one, pair = _shares(columns)
    return c_joint * _matern(square.sqrt()) + c_one * one * ones + c_pair * pair * pairs + c_all


def _chosen(x: Tensor, y: Tensor, noise_share: Tensor, stages: Sequence[tuple[int, int]]) -> Tensor:
    """Kernel parameters of greatest marginal likelihood, held gently near where they start."""
    columns = x.shape[1]
    first = torch.cat([torch.full((columns,), math.log(2.0)), torch.zeros(columns)]).double()
    first = torch.cat([first, first.new_tensor([0.0, -1.0, -1.0, -2.0, -2.5])])
    theta = first.clone()
    optimizer = torch.optim.Adam([theta], lr=_RATE)
    done, passes = 0, sum(count for _, count in stages)
    for rows, count in stages:
        rows = min(rows, int(math.sqrt(2 * _MOST_DISTANCES / columns)))
        pairs = _Pairs(x[:rows])
        for _ in range(count):
            rate = _RATE * (0.55 + 0.45 * math.cos(math.pi * done / passes))
            optimizer.param_groups[0]["lr"] = rate
            slope = pairs.slope(theta, y[:rows], noise_share[:rows])
            if slope is None or not bool(slope.isfinite().all()):
                return theta
            slope[: 2 * columns] += _HELD * (theta - first)[: 2 * columns]
            theta.grad = slope
            optimizer.step()
            done += 1
    return theta


class _Pairs:
    """All pairs of n rows, (n, F): what the slopes of many kernels of the same rows share."""

    def __init__(self, x: Tensor) -> None:
        self.n = len(x)
        self.upper = torch.triu_indices(self.n, self.n, 1)
        self.apart = (x[self.upper[0]] - x[self.upper[1]]).abs().t().contiguous()  # (F, P)
        self.square = self.apart.square()

    def slope(self, theta: Tensor, y: Tensor, noise_share: Tensor) -> Tensor | None:
        r"""Gradient of the negative log marginal likelihood; None where the kernel has no root.

        It is the sum of :math:`G_{ij} \, \partial K_{ij} / \partial \theta` with
        :math:`G = (K^{-1} - \alpha \alpha^T) / 2` (Rasmussen and Williams, equation 5.9).
        """
        columns = len(self.apart)
        (c_joint, c_one, c_pair, c_all), noise = _variances(theta)
        one, pair = _shares(columns)
        inverse = (-2 * theta[:columns]).exp()
        r = _ROOT_3 * (inverse @ self.square + 1e-12).sqrt()
        far = (-r).exp()
        joint = (1 + r) * far  # its slope on log l_f: 3 exp(-r) (d_f / l_f)^2
        u = self.apart * (_ROOT_3 * (-theta[columns : 2 * columns]).exp())[:, None]
        m = (-u).exp()
        bend = u.square().mul_(m)  # slope of m_f on log r_f
        m += u.mul_(m)
        total = m.sum(0)
        ones = one * total
        pairs = 0.5 * pair * (total.square() - m.square().sum(0))
        kernel = y.new_zeros(self.n, self.n)
        kernel[self.upper[0], self.upper[1]] = (
            c_joint * joint + c_one * ones + c_pair * pairs + c_all
        )
        kernel += kernel.t().clone()
        alone = c_joint + c_one + c_pair + c_all
        kernel.diagonal().add_(alone + noise * noise_share + _JITTER)
        root, info = torch.linalg.cholesky_ex(kernel)
        if int(info):
            return None
        solved = torch.cholesky_inverse(root)
        alpha = solved @ y
        g = 0.5 * (solved - torch.outer(alpha, alpha))
        own, g = g.diagonal(), 2 * g[self.upper[0], self.upper[1]]
        trace = own.sum()
        on_one = c_one * one * (bend @ g)
        on_pair = c_pair * pair * (bend.mul_(m.neg_().add_(total)) @ g)
        return torch.cat(
            [
                3 * c_joint * inverse * (self.square @ (g * far)),
                on_one + on_pair,
                torch.stack(
                    [
                        2 * c_joint * (g @ joint + trace),
                        2 * c_one * (g @ ones + trace),
                        2 * c_pair * (g @ pairs + trace),
                        2 * c_all * (g.sum() + trace),
                        2 * (noise - _LEAST_NOISE**2) * (own @ noise_share),
                    ]
                ),
            ]
        )

"""A Gaussian process, whose out-of-fold word the networks of small samples take as input.

Where rows are few it interpolates better than trees and says how far the next rows are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GaussianProcess"]

Floats = NDArray[np.floating[Any]]

_ROWS_TO_FIT = 400  # rows by which the kernel is chosen; the cost is their cube
_PASSES = 60
_RATE = 0.1  # of Adam, on logs
_JITTER = 1e-6  # of the variance of y, for the factorisation
_LEAST_NOISE = 1e-3  # of the spread of y
_ROOT_3 = math.sqrt(3.0)


@dataclass
class GaussianProcess:
    r"""Posterior of a Gaussian process for one target.

    Its kernel is

    .. math::
        k(x, x') = a_1^2\, m\Big(\sqrt{\sum_f (d_f / l_f)^2}\Big)
            + a_2^2\, \frac1F \sum_f m(d_f / r_f) + a_3^2, \\
        m(r) = (1 + \sqrt3 r) e^{-\sqrt3 r}

    where d is the difference of the inputs, each warped to a normal shape by its ranks.

    Attributes:
        knots: of each column its distinct values and what they become.
        x: (N, F) warped rows.
        y: (N,) their targets, standardised.
        noise_share: (N,) variance of the noise of each row, in units of the common one.
        theta: (2 F + 4,) logs of l, r, a and the noise.

    References:
        C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning (2006), chapters
        2 and 5; equations 5.10 to 5.12 leave one row out, their block form leaves out many.
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
        some = np.random.default_rng(seed).permutation(len(y))[:_ROWS_TO_FIT]
        theta = _chosen(warped[some], targets[some], noise[some])
        new = cls(knots, warped, targets, noise, theta)
        inverse, alpha = new._solved
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
        inverse, alpha = self._solved
        cross = _kernel(_warped(x, self.knots), self.x, self.theta)  # (n, N)
        amplitude, noise = _variances(self.theta)
        variance = amplitude.sum() + noise - ((cross @ inverse) * cross).sum(1)
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
            inverse = torch.cholesky_inverse(root)
            return inverse, inverse @ self.y

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
        return cls(knots, *(tensors[name] for name in ("x", "y", "noise_share", "theta")))


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
    """Squares of the three amplitudes, and the variance of the noise."""
    return (2 * theta[-4:-1]).exp(), (2 * theta[-1]).exp() + _LEAST_NOISE**2


def _matern(r: Tensor) -> Tensor:
    return (1 + _ROOT_3 * r) * torch.exp(-_ROOT_3 * r)


def _kernel(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    """Covariances of rows (n, F) and (m, F), column by column: nothing of size n m F is kept."""
    columns = a.shape[1]
    joint, single = theta[:columns].exp(), theta[columns : 2 * columns].exp()
    square = a.new_full((len(a), len(b)), 1e-12)  # the root has no slope at 0
    added = torch.zeros_like(square)
    for f in range(columns):
        apart = (a[:, f, None] - b[:, f]).abs()
        square = square + (apart / joint[f]).square()
        added = added + _matern(apart / single[f])
    amplitude = _variances(theta)[0]
    return amplitude[0] * _matern(square.sqrt()) + amplitude[1] / columns * added + amplitude[2]


def _chosen(x: Tensor, y: Tensor, noise_share: Tensor) -> Tensor:
    """Kernel parameters of greatest marginal likelihood, held gently near where they start."""
    columns = x.shape[1]
    first = torch.cat([torch.full((columns,), math.log(2.0)), torch.zeros(columns)]).double()
    first = torch.cat([first, first.new_tensor([0.0, -1.0, -2.0, -2.5])])
    theta = first.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=_RATE)
    for step in range(_PASSES):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (0.55 + 0.45 * math.cos(math.pi * step / _PASSES))
        optimizer.zero_grad()
        noise = _variances(theta)[1]
        kernel = _kernel(x, x, theta) + torch.diag(noise * noise_share + _JITTER)
        root, info = torch.linalg.cholesky_ex(kernel)
        if int(info):
            break
        alpha = torch.cholesky_solve(y.unsqueeze(1), root).squeeze(1)
        held = (theta - first)[: 2 * columns].square().sum()
        loss = 0.5 * (y @ alpha) + root.diagonal().log().sum() + 0.1 * held
        loss.backward()
        if theta.grad is None or not bool(theta.grad.isfinite().all()):
            break
        optimizer.step()
    return theta.detach()

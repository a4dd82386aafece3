"""Classifiers of two classes: weights of unbalanced classes, and the loss at an accuracy of 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor
from torch.nn import functional as F

from ._identities import FITTED, Row, maximum_likelihood, one_double, row

__all__ = ["at_perfect_accuracy", "unbalanced"]

SHARE = 0.05  # of the rare class
DISTANCE = 2.0  # of the means of the two classes, in their standard deviations
NEW_ROWS = 100_000
RATE = 1.0  # of gradient descent
MOMENTS = (1, 10, 100, 1000, 10_000, 20_000)  # steps that the table shows


def unbalanced(rows: int, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Returns identities of weighted fits, and their recall on new rows beside the exact one."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    x, t = _two_normals(rows, rng)
    new_x, new_t = _two_normals(NEW_ROWS, rng)
    share = float(t.double().mean())
    balanced = one_double([0.5 / (1 - share), 0.5 / share])
    identities, fits = [], {}
    for name, weight in {"none": one_double([1.0, 1.0]), "inverse to frequency": balanced}.items():

        def loss(w: Tensor, weight: Tensor = weight) -> Tensor:
            logits = torch.stack([torch.zeros_like(x), w[0] + w[1] * x], -1)
            return F.cross_entropy(logits, t, weight=weight)

        w = maximum_likelihood(loss, torch.zeros(2).double())
        reference = LogisticRegression(
            C=np.inf,
            tol=1e-12,
            solver="newton-cholesky",
            class_weight=None if name == "none" else "balanced",
        ).fit(x[:, None].numpy(), t.numpy())
        side = "" if name == "none" else ", class_weight='balanced'"
        identities.append(
            row(
                f"weights {name}: minimum of CrossEntropyLoss = LogisticRegression(C=inf{side})",
                w,
                [reference.intercept_[0], reference.coef_[0, 0]],
                FITTED,
            )
        )
        odds = SHARE / (1 - SHARE) * float(weight[1] / weight[0])
        fits[name] = _scores(w[0] + w[1] * new_x, new_t, odds)
        if name != "none":
            lifted = math.log(float(weight[1] / weight[0]))
            fits["the same, log of their ratio subtracted"] = _scores(
                w[0] - lifted + w[1] * new_x, new_t, SHARE / (1 - SHARE)
            )
    numbers = {
        "rows": rows,
        "rare": int(t.sum()),
        "new_rows": NEW_ROWS,
        "share": float(new_t.double().mean()),
        "fits": fits,
    }
    return identities, numbers


def _two_normals(rows: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Returns a feature (N,) that is normal in each class, and the class (N,), 1 if rare."""
    t = rng.random(rows) < SHARE
    return torch.from_numpy(rng.standard_normal(rows) + DISTANCE * t), torch.from_numpy(t).long()


def _scores(a: Tensor, t: Tensor, odds: float) -> dict[str, float]:
    """Returns scores of log-odds a (N,); odds of the rare class for which they were fitted."""
    found, rare = a > 0, t == 1
    return {
        "recall": float(found[rare].double().mean()),
        "exact_recall": float(stats.norm.cdf(DISTANCE / 2 + math.log(odds) / DISTANCE)),
        "precision": float(rare[found].double().mean()),
        "accuracy": float((found == rare).double().mean()),
        "mean_probability": float(special.expit(a.numpy()).mean()),
        "nll": float(F.binary_cross_entropy_with_logits(a, t.double())),
    }


def at_perfect_accuracy(steps: int) -> list[dict[str, float]]:
    """Returns loss, accuracy and log-odds along gradient descent on separable classes."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x, y = x[y < 2][:, :2], y[y < 2]  # setosa and versicolor by their sepals
    x = torch.from_numpy(np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)]))
    sign = torch.from_numpy(2.0 * y - 1)
    target = torch.from_numpy(y)
    moments = {*np.unique(np.logspace(0, math.log10(steps), 60).astype(int)).tolist(), *MOMENTS}
    w, path = torch.zeros(x.shape[1], 2).double().requires_grad_(), []
    optimizer = torch.optim.SGD([w], lr=RATE)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        logits = x @ w
        loss = F.cross_entropy(logits, target)
        loss.backward()
        if step in moments:
            log_odds = sign * (logits[:, 1] - logits[:, 0]).detach()
            path.append(
                {
                    "step": step,
                    "accuracy": float((log_odds.sign().mean() + 1) / 2),  # a tie counts half
                    "loss": loss.item(),
                    "least_log_odds": float(log_odds.min()),
                    "length": float(w.detach().norm()),
                    "shown": step in MOMENTS,
                }
            )
        optimizer.step()
    return path

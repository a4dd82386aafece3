"""Identities of regressions: log loss, priors, curvature, squared error and Gaussian likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.nn import functional as F

from ._density import gaussian
from ._identities import (
    FITTED,
    FLOAT64,
    HALF_LOG_2PI,
    Row,
    maximum_likelihood,
    one_double,
    row,
)

__all__ = [
    "binary",
    "breast_cancer",
    "curvature",
    "hessian_of",
    "nll_of",
    "prior",
    "softmax_prior",
    "squared_error",
]

PRIOR_WIDTHS = (0.1, 1.0, 10.0)
SMALL_RESULT = 1e-9  # tolerance of a sum of many terms, or of a difference of large numbers


def binary() -> Iterable[Row]:
    """Yields identities for two classes: log loss, log-odds, logistic regression."""
    from sklearn.metrics import log_loss

    x, t = breast_cancer()
    w = maximum_likelihood(lambda w: nll_of(w, x, t), torch.zeros(x.shape[1]).double())
    a = x @ w
    p = torch.sigmoid(a)
    reference = _logistic_regression(x, t, C=np.inf)
    loss = F.binary_cross_entropy_with_logits(a, t)
    two = F.cross_entropy(torch.stack([torch.zeros_like(a), a], -1), t.long())
    yield row("BCEWithLogitsLoss(a) = CrossEntropyLoss of logits (0, a)", loss, two, FLOAT64)
    yield row(
        "BCEWithLogitsLoss = log(1 + exp(-s a)), s = 2t - 1",
        loss,
        np.logaddexp(0.0, -((2 * t - 1) * a).numpy()).mean(),
        FLOAT64,
    )
    yield row(
        "BCEWithLogitsLoss = scikit-learn's log_loss", loss, log_loss(t.numpy(), p.numpy()), FLOAT64
    )
    yield row(
        "the logit is the log-odds: log p - log(1 - p) = a", special.logit(p.numpy()), a, 1e-9
    )
    share = float(t.mean())
    intercept = maximum_likelihood(lambda w: nll_of(w, x[:, :1], t), torch.zeros(1).double())
    yield row(
        "intercept alone, fitted = log-odds of the share of ones",
        intercept,
        special.logit(share),
        FITTED,
    )
    weights = _weights(reference)
    yield row("weights, Newton on -log_prob = LogisticRegression(C=inf)", w, weights, FITTED)
    yield row(
        "their mean NLL",
        nll_of(w, x, t) / len(t),
        log_loss(t.numpy(), reference.predict_proba(x[:, 1:].numpy())),
        FITTED,
    )
    up = x.clone()
    up[:, 1] += 1.0
    yield row(
        "a weight is the change of the log-odds for one unit of its feature",
        special.logit(torch.sigmoid(up @ w).numpy()) - special.logit(p.numpy()),
        w[1],
        1e-9,
    )
    yield row("at the maximum the mean of (p - t) x is 0", (p - t) @ x / len(t), 0.0, 1e-9)


def prior() -> Iterable[Row]:
    """Yields identities of Gaussian priors on the weights of a logistic regression."""
    x, t = breast_cancer()
    start = torch.zeros(x.shape[1]).double()
    for width in PRIOR_WIDTHS:
        prior = Normal(torch.tensor(0.0).double(), width)  # of the weights; the intercept has none

        def posterior(w: Tensor, prior: Normal = prior) -> Tensor:
            return nll_of(w, x, t) - prior.log_prob(w[1:]).sum()

        def penalised(w: Tensor, width: float = width) -> Tensor:
            return nll_of(w, x, t) + w[1:].square().sum() / (2 * width**2)

        w = maximum_likelihood(posterior, start)
        reference = _weights(_logistic_regression(x, t, C=width**2))
        case = f"prior of width {width:g}"
        yield row(
            f"{case}: posterior's maximum = LogisticRegression(C={width**2:g})",
            w,
            reference,
            FITTED,
        )
        constant = (x.shape[1] - 1) * (HALF_LOG_2PI + math.log(width))
        yield row(
            f"{case}: -log posterior = penalised loss + constant",
            posterior(w),
            float(penalised(w)) + constant,
            FLOAT64,
        )
    weights = nn.Parameter(torch.linspace(-1.0, 1.0, x.shape[1]).double())
    rate, width = 1e-3, PRIOR_WIDTHS[1]
    slope = torch.func.grad(lambda w: nll_of(w, x, t) - Normal(0.0, width).log_prob(w).sum())(
        weights.detach()
    )
    by_prior = weights.detach() - rate * slope
    optimizer = torch.optim.SGD([weights], lr=rate, weight_decay=1 / width**2)
    nll_of(weights, x, t).backward()
    optimizer.step()
    yield row(
        f"one step of SGD(weight_decay={1 / width**2:g}) = one on -log posterior",
        weights,
        by_prior,
        FLOAT64,
    )


def softmax_prior() -> Iterable[Row]:
    """Yields identities of a Gaussian prior on the weights of a softmax regression."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)])
    features, target = torch.from_numpy(x), torch.from_numpy(y)
    width, shape = 1.0, (x.shape[1], 3)

    def weights(w: Tensor) -> Tensor:  # the intercepts count up to a constant: the last is 0
        return torch.cat([w[:2], torch.zeros(1).double(), w[2:]]).reshape(shape)

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(features @ weights(w), target, reduction="sum")

    def posterior(w: Tensor) -> Tensor:
        return loss(w) - Normal(0.0, width).log_prob(weights(w)[1:]).sum()

    found = maximum_likelihood(posterior, torch.zeros(math.prod(shape) - 1).double())
    w = weights(found)
    p = (features @ w).softmax(-1)
    reference = _logistic_regression(features, target, C=width**2, solver="newton-cg")
    by_sklearn = np.concatenate([reference.intercept_[None], reference.coef_.T])
    yield row(
        "3 classes: posterior's maximum = LogisticRegression(C=1), weights",
        w[1:],
        by_sklearn[1:],
        FITTED,
    )
    yield row(
        "3 classes: their probabilities",
        p,
        reference.predict_proba(features[:, 1:].numpy()),
        FITTED,
    )
    yield row(
        "3 classes: -log posterior = CrossEntropyLoss + sum of W² / 2τ² + constant",
        posterior(found),
        float(loss(found) + w[1:].square().sum() / (2 * width**2))
        + w[1:].numel() * (HALF_LOG_2PI + math.log(width)),
        FLOAT64,
    )
    yield row(
        "3 classes: at the maximum X'(p - y) = -W / τ²",
        (features.T @ (p - F.one_hot(target, 3)))[1:],
        -w[1:] / width**2,
        SMALL_RESULT,
    )


def curvature(generator: torch.Generator) -> tuple[list[Row], dict[str, Any]]:
    """Returns identities of the convex NLL of a logistic regression, and its curvature."""
    x, t = breast_cancer()
    features = x.shape[1]

    def loss(w: Tensor) -> Tensor:
        return nll_of(w, x, t)

    def squares(w: Tensor) -> Tensor:  # of the same probabilities
        return (torch.sigmoid(x @ w) - t).square().sum()

    places = torch.randn(100, features, generator=generator, dtype=torch.float64)
    some = places[:10]
    by_formula = torch.stack([hessian_of(w, x) for w in places])
    roots = [torch.sigmoid(x @ w) * torch.sigmoid(-(x @ w)) for w in places]
    singular = [np.linalg.svd(root.sqrt()[:, None] * x, compute_uv=False)[-1] for root in roots]
    starts = torch.zeros(features).double(), 2 * places[0]
    ends = [maximum_likelihood(loss, start) for start in starts]
    one, other = places[:50], places[50:]
    values, between = torch.func.vmap(loss)(places), torch.func.vmap(loss)((one + other) / 2)
    identities = [
        row(
            "Hessian by autograd = X' diag(p (1 - p)) X",
            torch.stack([torch.autograd.functional.hessian(loss, w) for w in some]),
            by_formula[: len(some)],
            SMALL_RESULT,
        ),
        row(
            "least eigenvalue at 100 places, > 0 = least squared singular value of √(p (1 - p)) X",
            torch.linalg.eigvalsh(by_formula)[:, 0],
            np.square(singular),
            SMALL_RESULT,
        ),
        row("Newton from 0 = Newton from a random start: one end", ends[0], ends[1], FITTED),
    ]
    numbers = {
        "least_eigenvalue": _least(by_formula),
        "least_eigenvalue_at_minimum": _least(hessian_of(ends[0], x)),
        "least_eigenvalue_of_squares": min(
            _least(torch.autograd.functional.hessian(squares, w)) for w in some
        ),
        "least_chord": float(((values[:50] + values[50:]) / 2 - between).min()),
        "starts": [float(loss(w)) for w in starts],
        "ends": [float(loss(w)) for w in ends],
    }
    return identities, numbers


def squared_error(rows: int, generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of squared error, GaussianNLLLoss and a mixture of one component."""
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import LinearRegression

    # squared error, on the diabetes rows with its first four features
    x, y = load_diabetes(return_X_y=True)
    design = torch.from_numpy(np.column_stack([np.ones(len(x)), x[:, :4] / x[:, :4].std(0)]))
    t, width = torch.from_numpy(y), 50.0

    def likelihood(w: Tensor) -> Tensor:
        return -Normal(design @ w, width).log_prob(t).mean()

    def squares(w: Tensor) -> Tensor:
        return F.mse_loss(design @ w, t)

    w = maximum_likelihood(likelihood, torch.zeros(design.shape[1]).double())
    line = LinearRegression(fit_intercept=False).fit(design.numpy(), y)
    yield row(
        "Gaussian NLL of fixed width = MSE / 2s² + log s + log(2π) / 2",
        likelihood(w),
        float(squares(w)) / (2 * width**2) + math.log(width) + HALF_LOG_2PI,
        FLOAT64,
    )
    at = torch.ones_like(w)
    yield row(
        "its gradient = that of MSE / 2s²",
        torch.func.grad(likelihood)(at),
        torch.func.grad(squares)(at) / (2 * width**2),
        FLOAT64,
    )
    yield row("its minimum = LinearRegression", w, line.coef_, FITTED)
    rms = math.sqrt(float(squares(w)))
    log_width = maximum_likelihood(
        lambda v: -Normal(design @ w, v.exp()).log_prob(t).mean(), torch.full((1,), 4.0).double()
    )
    yield row(
        "the most likely width = root mean square of the residuals", log_width.exp(), rms, FITTED
    )

    # torch's GaussianNLLLoss takes the variance, a mixture takes the scale
    loc, raw, value = torch.randn(3, rows, 2, generator=generator, dtype=torch.float64)
    scale = F.softplus(raw) + 0.05
    nll = -gaussian(loc, scale).log_prob(value)  # (N,), summed over the two dimensions
    reduced = {"none": nll, "sum": nll.sum(), "mean": nll.mean() / 2}
    for reduction, right in reduced.items():
        left = nn.GaussianNLLLoss(full=True, reduction=reduction)(loc, value, scale.square())
        left = left.sum(-1) if reduction == "none" else left
        yield row(
            f"GaussianNLLLoss(full=True, {reduction}) = one-component mixture", left, right, FLOAT64
        )
    without_constant = nn.GaussianNLLLoss()(loc, value, scale.square())
    yield row(
        "without full=True it lacks log(2π) / 2: a density only up to a constant",
        without_constant + HALF_LOG_2PI,
        reduced["mean"],
        FLOAT64,
    )
    narrow = torch.full((1, 1), 1e-4, dtype=torch.float64)  # variance 1e-8
    clamped = nn.GaussianNLLLoss(full=True)(narrow * 0, narrow, narrow.square())
    wider = gaussian(one_double([0.0]), one_double([math.sqrt(1e-6)]))
    yield row(
        "below eps = 1e-6 it takes eps for the variance, so that of the wider mixture",
        clamped,
        -wider.log_prob(narrow[0]),
        FLOAT64,
    )


def breast_cancer() -> tuple[Tensor, Tensor]:
    """Returns a column of ones and five standardised features, (N, 6), and the class, (N,)."""
    from sklearn.datasets import load_breast_cancer

    # with all 30 features the classes are linearly separable, and the likelihood has no maximum
    x, t = load_breast_cancer(return_X_y=True)
    x = x[:, [1, 4, 5, 8, 9]]
    x = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)])
    return torch.from_numpy(x), torch.from_numpy(t).double()


def nll_of(w: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Returns the summed NLL of a logistic regression, nats."""
    return -Bernoulli(logits=x @ w, validate_args=False).log_prob(t).sum()


def hessian_of(w: Tensor, x: Tensor) -> Tensor:
    """Returns the Hessian of the summed NLL of a logistic regression, X' diag(p (1 - p)) X."""
    p = torch.sigmoid(x @ w)
    return x.T @ ((p * (1 - p))[:, None] * x)


def _least(hessians: Tensor) -> float:
    return float(torch.linalg.eigvalsh(hessians).min())


def _logistic_regression(x: Tensor, t: Tensor, **options: Any) -> Any:
    """Returns scikit-learn's fit; its intercept takes the place of the column of ones."""
    from sklearn.linear_model import LogisticRegression

    options = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000, **options}
    model = LogisticRegression(**options)
    return model.fit(x[:, 1:].numpy(), t.numpy())


def _weights(model: Any) -> np.ndarray:
    """Returns intercept and weights of a logistic regression, (F,)."""
    return np.concatenate([model.intercept_, model.coef_[0]])

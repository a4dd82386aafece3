"""Both sides of identities between losses and likelihoods, computed independently."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import integrate, special, stats
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

import mdn

from ._density import gaussian

__all__ = [
    "SHAPES",
    "Row",
    "row",
    "by_hand",
    "maximum_likelihood",
    "nll_of",
    "breast_cancer",
    "classes",
    "gradient",
    "binary",
    "prior",
    "entropy",
    "squared_error",
]

IGNORED = 2  # the class used as ignore_index
CLASSES = 5
FLOAT32, FLOAT64 = 2e-6, 1e-12  # largest difference allowed, as a share of max(1, |value|)
FITTED = 1e-6  # the same for the result of an iteration
DIFFERENCES = 1e-8  # the same for a central difference: the square of its step, and rounding
STEP = 1e-5
PRIOR_WIDTHS = (0.1, 1.0, 10.0)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
SHAPES: dict[str, tuple[int, ...]] = {  # of targets; 0 stands for the number of rows
    "()": (),
    "(N,)": (0,),
    "(N, 6)": (0, 6),
    "(N, 3, 4)": (0, 3, 4),
    "(N, 2, 3, 2)": (0, 2, 3, 2),
}


Row = dict[str, Any]


def by_hand(logits: Tensor, onehot: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Returns the cross-entropy by its formula, which is unstable; (N, C), (N, C) -> (N,)."""
    return -(onehot * (torch.softmax(logits, -1) + epsilon).log()).sum(-1)


def maximum_likelihood(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Returns the minimum of a smooth convex function of a vector, by damped Newton steps.

    Raises:
        ValueError: no minimum is found in 100 steps, for example for linearly separable classes.
    """
    for _ in range(100):
        slope = torch.func.grad(loss)(weights)
        step, failed = torch.linalg.solve_ex(
            torch.autograd.functional.hessian(loss, weights), slope
        )
        if failed:  # flat in some direction
            break
        if float(slope @ step) < 1e-24 * max(1.0, float(loss(weights).abs())):
            return weights
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        if size <= 1e-6:  # the rest is rounding
            return weights
        weights = weights - size * step
    raise ValueError("the likelihood must have a maximum; none was found in 100 steps")


def row(identity: str, left: ArrayLike, right: ArrayLike, tolerance: float, **more: Any) -> Row:
    """Returns both sides of an identity at the entry that differs most."""
    a, b = np.broadcast_arrays(_array(left), _array(right))
    difference = np.abs(a - b)
    share = difference / np.maximum(1.0, np.abs(b))
    at = np.unravel_index(int(np.argmax(np.nan_to_num(share, nan=math.inf))), share.shape)
    return {
        "identity": identity,
        "left": float(a[at]),
        "right": float(b[at]),
        "difference": float(difference[at]),
        "tolerance": tolerance,
        "holds": bool(share[at] <= tolerance),  # False for a NaN
        **more,
    }


def _array(value: ArrayLike | Tensor) -> np.ndarray:
    value = value.detach().numpy() if isinstance(value, Tensor) else value
    return np.asarray(value, dtype=np.float64)


def classes(rows: int, generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of CrossEntropyLoss and NLLLoss with all their options."""
    weight = torch.rand(CLASSES, generator=generator) + 0.5
    choices: dict[str, dict[str, Any]] = {
        "plain": {},
        "class weights": {"weight": weight},
        "ignore_index": {"ignore_index": IGNORED},
        "both": {"weight": weight, "ignore_index": IGNORED},
    }
    for shape_name, sizes in SHAPES.items():
        shape = tuple(rows if size == 0 else size for size in sizes)
        logits = 3 * torch.randn(*shape, CLASSES, generator=generator)
        target = torch.randint(CLASSES, shape, generator=generator)
        if not shape:
            target = torch.tensor(IGNORED + 1)  # the only row must not be ignored
        # torch has the axis of the classes after that of the rows: (N, C, ...), or (C,) for one row
        a = logits.movedim(-1, min(1, len(shape)))
        exact = -special.log_softmax(_array(logits), -1)  # float64, an independent implementation
        exact = np.take_along_axis(exact, target.numpy()[..., None], -1)[..., 0]
        for choice, options in choices.items():
            counted = np.ones(shape)
            if "weight" in options:
                counted = weight.double().numpy()[target.numpy()]
            if "ignore_index" in options:
                counted = np.where(target.numpy() == IGNORED, 0.0, counted)
            truth = {
                "none": exact * counted,
                "sum": (exact * counted).sum(),
                "mean": (exact * counted).sum() / counted.sum(),
            }
            for reduction, right in truth.items():
                one = nn.CrossEntropyLoss(reduction=reduction, **options)(a, target)
                two = nn.NLLLoss(reduction=reduction, **options)(
                    nn.LogSoftmax(min(1, len(shape)))(a), target
                )
                case = f"{choice}, {reduction}"
                more = {"target_shape": shape_name}
                yield row(
                    f"CrossEntropyLoss = LogSoftmax + NLLLoss: {case}", one, two, FLOAT32, **more
                )
                yield row(
                    f"LogSoftmax + NLLLoss = SciPy in float64: {case}", two, right, FLOAT32, **more
                )
    h = torch.randn(rows, 8, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        head = mdn.CategoricalHead(8, CLASSES)
    target = torch.randint(CLASSES, (rows,), generator=generator)
    loss = F.cross_entropy(head.linear(h), target)
    yield row(
        "-CategoricalHead(h).log_prob = CrossEntropyLoss",
        -head(h).log_prob(target).mean(),
        loss,
        FLOAT32,
    )
    onehot = F.one_hot(target, CLASSES).float()
    yield row(
        "class probabilities as target, one-hot = class index",
        F.cross_entropy(head.linear(h), onehot),
        loss,
        FLOAT32,
    )
    yield row(
        "-sum(y log p) by hand = CrossEntropyLoss, where p > 0",
        by_hand(head.linear(h), onehot).mean(),
        loss,
        FLOAT32,
    )


def gradient(generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of the gradient in the logits, computed by three methods."""
    n = 16
    logits = 3 * torch.randn(n, CLASSES, generator=generator, dtype=torch.float64)
    target = torch.randint(CLASSES, (n,), generator=generator)
    onehot = F.one_hot(target, CLASSES).double()
    formula = special.softmax(logits.numpy(), -1) - onehot.numpy()

    def loss(a: Tensor, **options: Any) -> Tensor:
        return F.nll_loss(F.log_softmax(a, -1), target, **options)

    def autograd(**options: Any) -> Tensor:
        return torch.func.grad(lambda a: loss(a, **options))(logits)

    differences = np.empty_like(formula)
    for index in np.ndindex(*formula.shape):
        step = torch.zeros_like(logits)
        step[index] = STEP
        up, down = loss(logits + step, reduction="sum"), loss(logits - step, reduction="sum")
        differences[index] = (up - down) / (2 * STEP)
    yield row("autograd = p - y", autograd(reduction="sum"), formula, FLOAT64)
    yield row("finite differences = p - y", differences, formula, DIFFERENCES)
    yield row("autograd of the mean = (p - y) / N", autograd(), formula / n, FLOAT64)
    weight = torch.rand(CLASSES, generator=generator, dtype=torch.float64) + 0.5
    counted = torch.where(target == IGNORED, 0.0, weight[target]).numpy()
    yield row(
        "with class weights and ignore_index: w (p - y) / sum w",
        autograd(weight=weight, ignore_index=IGNORED),
        formula * (counted / counted.sum())[:, None],
        FLOAT64,
    )


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


def entropy(generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of the entropy of classes and of densities."""
    logits = torch.randn(2, 8, CLASSES, generator=generator, dtype=torch.float64)
    p, a = logits[0].softmax(-1), 3 * logits[1]
    q = a.softmax(-1).numpy()
    yield row(
        "classes: CrossEntropyLoss(a, p) = H(p) + KL(p ‖ softmax(a)) (SciPy)",
        F.cross_entropy(a, p, reduction="none"),
        stats.entropy(p.numpy(), axis=-1) + stats.entropy(p.numpy(), q, axis=-1),
        FLOAT64,
    )
    yield row(
        "one-hot p has H(p) = 0: KL(p ‖ q) = -log q_t",
        stats.entropy(np.eye(CLASSES), q[:CLASSES], axis=-1),
        -np.log(np.diag(q)),
        FLOAT64,
    )
    p, q = stats.norm(0.3, 0.2), stats.norm(0.1, 0.5)
    cross_entropy, _ = integrate.quad(lambda y: -p.pdf(y) * q.logpdf(y), -3, 3, epsabs=1e-13)
    entropy = gaussian(_double([0.3]), _double([0.2])).entropy()
    kl = kl_divergence(Normal(_double(0.3), _double(0.2)), Normal(_double(0.1), _double(0.5)))
    yield row(
        "densities: -∫ p log q (quadrature) = GaussianMixture.entropy + KL(p ‖ q)",
        cross_entropy,
        entropy + kl,
        FITTED,
    )
    yield row(
        "an entropy of a density may be negative: log(s) + (1 + log 2π) / 2",
        entropy,
        math.log(0.2) + 0.5 + HALF_LOG_2PI,
        FITTED,
    )


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
    wider = gaussian(_double([0.0]), _double([math.sqrt(1e-6)]))
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


def _logistic_regression(x: Tensor, t: Tensor, **options: Any) -> Any:
    """Returns scikit-learn's fit; its intercept takes the place of the column of ones."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000, **options)
    return model.fit(x[:, 1:].numpy(), t.numpy())


def _weights(model: Any) -> np.ndarray:
    """Returns intercept and weights of a logistic regression, (F,)."""
    return np.concatenate([model.intercept_, model.coef_[0]])


def _double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)

"""Both sides of identities, computed independently, their table, and those of class losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import integrate, special, stats
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import mdn

from ._density import gaussian

__all__ = [
    "FITTED",
    "FLOAT64",
    "HALF_LOG_2PI",
    "SHAPES",
    "Row",
    "by_hand",
    "classes",
    "entropy",
    "gradient",
    "indexing",
    "maximum_likelihood",
    "one_double",
    "row",
    "summary",
    "table",
]

IGNORED = 2  # the class used as ignore_index
CLASSES = 5
FLOAT32, FLOAT64 = 2e-6, 1e-12  # largest difference allowed, as a share of max(1, |value|)
FITTED = 1e-6  # the same for the result of an iteration
DIFFERENCES = 1e-8  # the same for a central difference: the square of its step, and rounding
STEP = 1e-5
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
        decrease, value = float(slope @ step), float(loss(weights).abs())
        if decrease < 1e-24 * max(1.0, value) and decrease < 1e-6 * value:
            return weights
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        if size <= 1e-6:  # the rest is rounding
            if decrease < 1e-6 * value:
                return weights
            break  # a loss that falls towards 0 without end promises as much as it is at each step
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


def summary(rows: Sequence[Row]) -> list[str]:
    """Returns how many identities hold, which do not, and what the columns of the tables are."""
    failed = [row["identity"] for row in rows if not row["holds"]]
    return [
        f"{len(rows) - len(failed)} of {len(rows)} identities hold within their tolerance."
        + (f" **These do not**: {'; '.join(failed)}." if failed else ""),
        "",
        "Where the two sides are arrays, the numbers are those of the entry that differs most. The "
        "tolerance is relative to max(1, |value|): that of float32, of float64, of a finite "
        "difference, or of an iterative fit.",
    ]


def table(rows: Sequence[Row], title: str) -> list[str]:
    """Returns the lines of a table of identities, both sides in view, under its title."""
    return [
        "",
        f"**{title}**",
        "",
        "| identity | left | right | difference | tolerance |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['identity']}{'' if row['holds'] else ' **(fails)**'} | {row['left']:.8g} | "
            f"{row['right']:.8g} | {row['difference']:.1e} | {row['tolerance']:.0e} |"
            for row in rows
        ),
    ]


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


def indexing(rows: int, generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of NLLLoss, indexing of log-probabilities, and ``ignore_index = -100``."""
    logits = 3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    logp, loss = logits.log_softmax(-1), F.cross_entropy(logits, y, reduction="none")
    exact = -special.log_softmax(logits.numpy(), -1)[range(rows), y.numpy()]
    for code, picked in {
        "-logp[range(N), y]": -logp[range(rows), y],
        "-logp.gather(1, y[:, None])[:, 0]": -logp.gather(1, y[:, None])[:, 0],
        "-(logp * one_hot(y)).sum(1)": -(logp * F.one_hot(y, CLASSES)).sum(1),
        "logits.logsumexp(1) - logits[range(N), y]": logits.logsumexp(1) - logits[range(rows), y],
    }.items():
        yield row(
            f"{code} = NLLLoss(logp, y)", picked, F.nll_loss(logp, y, reduction="none"), FLOAT64
        )
    yield row("NLLLoss(logp, y) = SciPy's log_softmax, indexed", loss, exact, FLOAT64)
    yield row(
        "logp[:, y] is another thing: (N, N), of which the loss is the diagonal",
        -logp[:, y].diagonal(),
        exact,
        FLOAT64,
    )
    yield row(
        "NLLLoss(softmax(a), y) = -mean p_t: a loss between -1 and 0, and no likelihood",
        F.nll_loss(logits.softmax(-1), y),
        -np.exp(-exact).mean(),
        FLOAT64,
    )
    missing = torch.arange(rows) % 4 == 0  # rows without a label
    marked = torch.where(missing, -100, y)
    known = ~missing.numpy()
    a = logits.clone().requires_grad_()
    F.cross_entropy(a, marked).backward()
    yield row(
        "target -100 (the default ignore_index): mean over the other rows",
        F.cross_entropy(logits, marked),
        exact[known].mean(),
        FLOAT64,
    )
    yield row(
        "its loss with reduction='none' is 0",
        F.cross_entropy(logits, marked, reduction="none"),
        np.where(known, exact, 0.0),
        FLOAT64,
    )
    yield row("its gradient is 0", a.grad[missing], 0.0, FLOAT64)  # type: ignore[index]
    yield row(
        "all targets -100: the sum is 0 (and the mean NaN, 0 / 0)",
        F.cross_entropy(logits, torch.full_like(y, -100), reduction="sum"),
        0.0,
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
    entropy = gaussian(one_double([0.3]), one_double([0.2])).entropy()
    kl = kl_divergence(
        Normal(one_double(0.3), one_double(0.2)), Normal(one_double(0.1), one_double(0.5))
    )
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


def one_double(value: Any) -> Tensor:
    """Returns a number or a list as a tensor in float64."""
    return torch.tensor(value, dtype=torch.float64)

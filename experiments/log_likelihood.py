r"""Log-likelihood: mixtures as in SciPy, logistic regression, priors, counts, GaussianNLLLoss.

The likelihood of independent rows is a product, $\prod_n p(y_n; \theta)$, and its maximum is that
of the sum of logarithms. Here both sides of the identities that rest on it are computed; those of
the losses of classes are in [softmax-losses](softmax-losses.md), fits of densities in
[maximum-likelihood](maximum-likelihood.md).

**A mixture, three times.** The log density of a Gaussian mixture is a log-sum-exp,
$\log \sum_k e^{\log w_k + \log N(y; m_k, s_k)}$. `scipy.stats` gives the same numbers:

```python
import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp
import mdn

w, m, s = np.array([0.3, 0.5, 0.2]), np.array([-3.0, 0.5, 5.0]), np.array([0.6, 1.2, 0.8])
y = np.array([-60.0, 0.0, 3.0, 80.0])

logits, loc, scale = torch.tensor(w).log(), torch.tensor(m)[:, None], torch.tensor(s)[:, None]
ours = mdn.GaussianMixture(logits, loc, scale).log_prob(torch.tensor(y)[:, None])
norm = logsumexp(np.log(w) + stats.norm(m, s).logpdf(y[:, None]), axis=1)
mixture = stats.Mixture([stats.Normal(mu=a, sigma=b) for a, b in zip(m, s)], weights=w)

np.testing.assert_allclose(ours, norm, rtol=1e-13)
np.testing.assert_allclose(ours, mixture.logpdf(y), rtol=1e-13)
print(ours)
```

**A sum of logs, not the log of a product.** A thousand densities below 1 have a product below the
smallest number, and its logarithm is $-\infty$; a thousand above 1 overflow. The unit of $y$
decides which.

**Logistic regression.** Two classes with logits $(0, a)$ give the log loss; $a$ is the log-odds.
The maximum likelihood estimate, by Newton's method on `log_prob` of a Bernoulli distribution, is
scikit-learn's unpenalised fit. Its NLL is *convex*: the Hessian $X^T \mathrm{diag}(p (1 - p)) X$
has no negative eigenvalue, so every descent ends in the same minimum. Squared errors of the same
probabilities are not convex. Where a plane separates the classes there is no minimum: the NLL falls
towards 0 along a ray of ever larger weights.

**Maximum a posteriori.** A Gaussian prior $N(0, \tau^2)$ on the weights adds $|w|^2 / 2 \tau^2$,
which corresponds to scikit-learn's `C` $= \tau^2$ and to an optimizer's `weight_decay`
$= 1 / \tau^2$; with softmax in place of the sigmoid it holds for several classes. With a prior,
separable classes have an estimate, too.

**Squared error and `GaussianNLLLoss`.** Least squares is the likelihood of a Gaussian of fixed
scale, up to a constant. `GaussianNLLLoss` takes the variance and leaves $\log(2 \pi) / 2$ out
unless `full=True`; with it, it is the NLL of a mixture of one component.

**Counts.** Bernoulli, binomial and Poisson likelihoods are greatest where their mean is that of the
rows. Binomials of $n$ trials with probability $\lambda / n$ approach the Poisson distribution: half
the sum of the absolute differences is at most $(1 - e^{-\lambda}) \lambda / n$.

**One likelihood, differentiated as frameworks do it.** The NLL of a mixture, written once in plain
operations, by a tape, as a function of a function, in forward mode, by a formula, with complex
numbers, by differences and symbolically. In JAX the second is

```text
def nll(theta):  # the same function with jax.numpy
    a, m1, m2, s1, s2 = theta
    w = 1 / (1 + jnp.exp(-a))
    one = w * jnp.exp(-(((y - m1) / jnp.exp(s1)) ** 2) / 2 - s1)
    two = (1 - w) * jnp.exp(-(((y - m2) / jnp.exp(s2)) ** 2) / 2 - s2)
    return (0.5 * jnp.log(2 * jnp.pi) - jnp.log(one + two)).mean()


jax.grad(nll)(theta)  # torch.func.grad(nll)(theta)
```

C. M. Bishop, *Pattern Recognition and Machine Learning*, sections 1.2.5, 2.1, 3.1.1 and 4.3 (2006);
A. D. Barbour and P. Hall, On the rate of Poisson convergence, Math. Proc. Camb. Phil. Soc. 95
(1984); A. Albert and J. A. Anderson, On the existence of maximum likelihood estimates in logistic
regression models, Biometrika 71 (1984).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from ._identities import Row, maximum_likelihood, one_double, summary, table
from ._likelihoods import RATE, counts, derivatives, mixture, products
from ._palette import BLUE, GREEN, GREY, VERMILLION
from ._regressions import (
    binary,
    curvature,
    hessian_of,
    nll_of,
    prior,
    softmax_prior,
    squared_error,
)

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 0.3
DATA = "none (the breast cancer, iris and diabetes data are part of scikit-learn)"

ROWS, FAST_ROWS = 4096, 256
STEPS = 60  # of a descent in the figure
FACTORS = (1.0, 3.0, 10.0, 30.0)  # of the weights, along the ray of separable classes
POINTS = 60  # of two separable classes, or two that overlap
SEPARABLE, OVERLAPPING = 4.0, 1.5  # distance of their means

_PARTS = {
    "mixture": "A Gaussian mixture and scipy.stats",
    "product": "The log of a product and a sum of logs",
    "binary": "Log loss, log-odds and logistic regression",
    "curvature": "The NLL of logistic regression is convex",
    "prior": "A Gaussian prior is an L2 penalty",
    "gaussian": "Squared error, GaussianNLLLoss and Gaussian likelihood",
    "counts": "Bernoulli, binomial and Poisson",
    "derivatives": "One likelihood, differentiated in seven ways",
}


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Computes both sides of every identity; draws convexity.png and counts.png."""
    generator = torch.Generator().manual_seed(seed)
    rows = FAST_ROWS if fast else ROWS
    more: dict[str, Any] = {}

    def with_numbers(name: str, results: tuple[list[Row], Any]) -> list[Row]:
        found, more[name] = results
        return found

    parts: dict[str, Callable[[], Any]] = {
        "mixture": lambda: mixture(generator),
        "product": lambda: with_numbers("product", products(seed)),
        "binary": binary,
        "curvature": lambda: with_numbers("curvature", curvature(generator)),
        "prior": lambda: [*prior(), *softmax_prior()],
        "gaussian": lambda: squared_error(rows, generator),
        "counts": lambda: with_numbers("counts", counts(seed)),
        "derivatives": lambda: derivatives(generator),
    }
    identities: list[Row] = []
    for part, compute in parts.items():
        progress(_PARTS[part])
        identities += [{"part": part, **row} for row in compute()]
    more["separable"] = _separable(seed)
    if out is not None:
        progress("figures")
        _draw_convexity(seed).savefig(out / "convexity.png", dpi=110)
        _draw_counts().savefig(out / "counts.png", dpi=110)
    return {"rows": rows, "identities": identities, **more}


def report(numbers: dict[str, Any]) -> str:
    """Returns the tables of both sides, with what the identities alone do not tell."""
    lines = summary(numbers["identities"])
    notes = {"product": _of_products, "curvature": _of_curvature, "counts": _of_counts}
    for part, title in _PARTS.items():
        lines += table([row for row in numbers["identities"] if row["part"] == part], title)
        lines += notes[part](numbers) if part in notes else []
    return "\n".join(lines)


def _of_products(numbers: dict[str, Any]) -> list[str]:
    return [
        "",
        "The product of the same 1,000 densities in float64, with y in three units:",
        "",
        "| scale of y | product | its log | sum of logs |",
        "|---:|---:|---:|---:|",
        *(
            f"| {one['scale']:g} | {float(one['product']):.4g} | "
            f"{float(one['log_of_product']):.6g} | {one['sum_of_logs']:.6g} |"
            for one in numbers["product"]
        ),
    ]


def _of_curvature(numbers: dict[str, Any]) -> list[str]:
    c, ray = numbers["curvature"], numbers["separable"]
    return [
        "",
        f"The least eigenvalue of the Hessian is {c['least_eigenvalue']:.3g} at 100 random places "
        f"and {c['least_eigenvalue_at_minimum']:.3g} at the minimum; the chord between two places "
        f"is at least {c['least_chord']:.3g} nats above the curve in its middle. Newton's method "
        f"goes from {c['starts'][0]:.2f} and from {c['starts'][1]:.2f} to the same "
        f"{c['ends'][0]:.6f} nats. The Hessian of the squared errors of the same probabilities has "
        f"an eigenvalue of {c['least_eigenvalue_of_squares']:.3g}: not convex.",
        "",
        f"{POINTS} rows of two classes that a plane separates, along a ray of weights: the NLL and "
        "its curvature fall towards 0, and Newton's method ends with the error "
        f"*{ray['error']}*. With a Gaussian prior of width 1 the estimate is a weight of "
        f"{ray['with_prior']:.3f}.",
        "",
        "| weights times | summed NLL | least eigenvalue of the Hessian |",
        "|---:|---:|---:|",
        *(
            f"| {one['factor']:g} | {one['nll']:.3g} | {one['least_eigenvalue']:.1e} |"
            for one in ray["ray"]
        ),
    ]


def _of_counts(numbers: dict[str, Any]) -> list[str]:
    return [
        "",
        f"Binomial(n, {RATE:g} / n) and Poisson({RATE:g}): half the sum of the absolute "
        "differences of their probabilities, its bound, and the difference of the log-likelihoods "
        f"of one count y = {RATE:g}:",
        "",
        "| n | distance | bound | difference of log-likelihoods |",
        "|---:|---:|---:|---:|",
        *(
            f"| {one['trials']} | {one['distance']:.3g} | {one['bound']:.3g} | "
            f"{one['log_prob_at_rate']:.3g} |"
            for one in numbers["counts"]
        ),
    ]


# -- classes that a plane separates, and two that overlap -------------------------------------


def _two_classes(seed: int, distance: float) -> tuple[Tensor, Tensor]:
    """Returns a column of ones and one feature, (N, 2), and the class, (N,)."""
    t = np.arange(POINTS) % 2
    z = np.random.default_rng(seed).uniform(-1, 1, POINTS)
    x = np.column_stack([np.ones(POINTS), z + distance * (t - 0.5)])
    return torch.from_numpy(x), one_double(t)


def _separable(seed: int) -> dict[str, Any]:
    """Returns the NLL along a ray, the error of Newton's method, and the weight with a prior."""
    x, t = _two_classes(seed, SEPARABLE)
    direction = one_double([0.0, 1.0])
    ray = [
        {
            "factor": factor,
            "nll": float(nll_of(factor * direction, x, t)),
            "least_eigenvalue": float(
                torch.linalg.eigvalsh(hessian_of(factor * direction, x)).min()
            ),
        }
        for factor in FACTORS
    ]
    error = "none"
    try:
        maximum_likelihood(lambda w: nll_of(w, x, t), torch.zeros(2).double())
    except ValueError as raised:
        error = str(raised)
    with_prior = maximum_likelihood(
        lambda w: nll_of(w, x, t) + w[1:].square().sum() / 2, torch.zeros(2).double()
    )
    return {"ray": ray, "error": error, "with_prior": float(with_prior[1])}


# -- figures ----------------------------------------------------------------------------------


def _descent(x: Tensor, t: Tensor, start: Tensor) -> NDArray[np.float64]:
    """Returns the path of Newton's method with at most half a unit a step, (S + 1, 2)."""
    path = [start]
    for _ in range(STEPS):
        slope = x.T @ (torch.sigmoid(x @ path[-1]) - t)
        step = torch.linalg.solve(hessian_of(path[-1], x) + 1e-12 * torch.eye(2), slope)
        path.append(path[-1] - step * min(1.0, 0.5 / max(float(step.norm()), 1e-12)))
    return torch.stack(path).numpy()


def _draw_convexity(seed: int) -> Figure:
    """Draws the NLL over two weights, with two paths: one minimum, and none."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    kinds = {"classes that overlap: one minimum": OVERLAPPING, "separable classes: none": SEPARABLE}
    starts = (one_double([-4.0, 0.5]), one_double([4.0, 1.0]))
    for ax, (title, distance) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        x, t = _two_classes(seed, distance)
        paths = [_descent(x, t, start) for start in starts]
        end = torch.from_numpy(paths[0][-1])
        _draw_nll(ax, x, t, float(nll_of(end, x, t)) / len(t) if distance == OVERLAPPING else 0.0)
        for path, colour in zip(paths, (BLUE, VERMILLION), strict=True):
            ax.plot(*path.T, "-", color=colour, lw=2, marker="o", ms=3)
            ax.plot(*path[0], "s", color=colour, ms=8)
        if distance == OVERLAPPING:
            ax.plot(*end, "*", color="k", mfc="w", ms=15)
        ax.set(xlabel="intercept", ylabel="weight", xlim=(-5, 5), ylim=(0, 12))
        ax.set_title(title, fontsize=10)
    figure.supxlabel(
        "Contours: mean NLL above its minimum (left) or above 0 (right), each twice the next one. "
        "Squares: two starts of Newton's method.",
        fontsize=8,
    )
    return figure


def _draw_nll(ax: Axes, x: Tensor, t: Tensor, lowest: float) -> None:
    """Draws contours of the mean NLL over intercept and weight, above its greatest lower bound."""
    intercept, weight = np.linspace(-5, 5, 101), np.linspace(0, 12, 121)
    grid = torch.from_numpy(np.stack(np.meshgrid(intercept, weight), -1))
    nll = torch.func.vmap(lambda w: nll_of(w, x, t))(grid.reshape(-1, 2)) / len(t)
    above = (nll - lowest).clamp(min=1e-12).reshape(grid.shape[:2])
    levels = 2.0 ** np.arange(-14, 4)
    ax.contourf(
        intercept,
        weight,
        above,
        levels,
        norm="log",
        cmap="Greys",
        extend="both",
        alpha=0.55,
        zorder=0,
    )
    ax.contour(
        intercept,
        weight,
        above,
        levels,
        colors="0.35",
        linewidths=0.5,
        zorder=1,
    )


def _draw_counts() -> Figure:
    """Draws binomials of the same mean, and the Poisson distribution that they approach."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    y = np.arange(11)
    laws = {
        f"binomial, 5 trials, p = {RATE / 5:g}": (stats.binom(5, RATE / 5), GREEN, "o"),
        f"binomial, 50 trials, p = {RATE / 50:g}": (stats.binom(50, RATE / 50), BLUE, "s"),
        f"Poisson, rate {RATE:g}": (stats.poisson(RATE), VERMILLION, "D"),
    }
    for shift, (name, (law, colour, mark)) in zip((-0.2, 0.0, 0.2), laws.items(), strict=True):
        left.vlines(y + shift, 0, law.pmf(y), color=colour, lw=2)
        left.plot(y + shift, law.pmf(y), mark, color=colour, ms=5, label=name)
    left.set(xlabel="y", ylabel="probability", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    left.set_title("one mean, three distributions", fontsize=10)
    n = np.unique(np.logspace(np.log10(4), 4, 25).astype(int))
    cells = np.arange(201)
    apart = [
        0.5 * np.abs(stats.binom(k, RATE / k).pmf(cells) - stats.poisson(RATE).pmf(cells)).sum()
        for k in n
    ]
    right.loglog(n, (1 - np.exp(-RATE)) * RATE / n, "--", color=GREY, label="bound")
    right.loglog(n, apart, "o-", color=BLUE, ms=4, label="distance of binomial and Poisson")
    right.set(xlabel="trials n, of probability 3 / n", ylabel="half the sum of the differences")
    right.legend(frameon=False, fontsize=8)
    right.set_title("the limit", fontsize=10)
    return figure

"""Identities of likelihoods: mixtures, products of densities, counts, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Normal, Poisson
from torch.nn import functional as F

import mdn

from ._identities import (
    FITTED,
    FLOAT64,
    HALF_LOG_2PI,
    Row,
    maximum_likelihood,
    one_double,
    row,
)

__all__ = ["RATE", "counts", "derivatives", "mixture", "product", "products"]

MIXTURE = ([0.3, 0.5, 0.2], [-3.0, 0.5, 5.0], [0.6, 1.2, 0.8])  # weights, means, scales
FACTORS = 1000  # densities that are multiplied
UNITS = (1.0, 0.2, 1e-3)  # standard deviations of their y
RATE = 3.0  # of the counts
TRIALS = (5, 50, 500, 5000)  # of the binomials that approach a Poisson distribution


def mixture(generator: torch.Generator) -> Iterable[Row]:
    """Yields identities of a Gaussian mixture and SciPy's, also 50 scales from every mean."""
    weights, means, scales = (np.array(values) for values in MIXTURE)
    ours = mdn.GaussianMixture(
        one_double(MIXTURE[0]).log(),
        one_double(MIXTURE[1])[:, None],
        one_double(MIXTURE[2])[:, None],
    )
    by_scipy = stats.Mixture(
        [stats.Normal(mu=m, sigma=s) for m, s in zip(means, scales, strict=True)], weights=weights
    )
    y = torch.linspace(-60.0, 60.0, 1201, dtype=torch.float64)
    log_p = ours.log_prob(y[:, None])
    yield row(
        "log_prob = logsumexp(log w + scipy.stats.norm.logpdf)",
        log_p,
        special.logsumexp(
            np.log(weights) + stats.norm(means, scales).logpdf(y.numpy()[:, None]), axis=1
        ),
        FLOAT64,
    )
    yield row("log_prob = scipy.stats.Mixture.logpdf", log_p, by_scipy.logpdf(y.numpy()), FLOAT64)
    yield row(
        "exp(log_prob) = the sum of w times scipy.stats.norm.pdf",
        log_p.exp(),
        stats.norm(means, scales).pdf(y.numpy()[:, None]) @ weights,
        FLOAT64,
    )
    far = log_p[:1]
    yield row(
        "log_prob at y = -60, where that sum is 0 = the widest component alone",
        far,
        math.log(weights[1]) + stats.norm(means[1], scales[1]).logpdf(-60.0),
        FLOAT64,
    )
    yield row(
        "torch's MixtureSameFamily = scipy.stats.Mixture.logpdf",
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(one_double(MIXTURE[0])),
            Normal(one_double(MIXTURE[1]), one_double(MIXTURE[2])),
        ).log_prob(y),
        by_scipy.logpdf(y.numpy()),
        FLOAT64,
    )
    yield row(
        "cdf = scipy.stats.Mixture.cdf", ours.cdf(y[:, None]), by_scipy.cdf(y.numpy()), FLOAT64
    )
    yield row("mean = scipy.stats.Mixture.mean", ours.mean, by_scipy.mean(), FLOAT64)
    yield row(
        "variance = scipy.stats.Mixture.variance", ours.variance, by_scipy.variance(), FLOAT64
    )
    draws = ours.sample((FACTORS,), generator=generator)
    yield row(
        f"sum over {FACTORS} draws = scipy.stats.Mixture's",
        ours.log_prob(draws).sum(),
        by_scipy.logpdf(draws[:, 0].numpy()).sum(),
        FLOAT64,
    )


def product(densities: np.ndarray) -> tuple[float, float]:
    """Returns the product of positive numbers, and its log by a product that cannot overflow.

    The latter keeps the exponent apart, as an integer; a logarithm is taken once, at the end.
    """
    mantissa, exponent = 1.0, 0
    for density in densities:
        mantissa, more = math.frexp(mantissa * float(density))
        exponent += more
    with np.errstate(over="ignore", under="ignore"):
        return float(np.prod(densities)), math.log(mantissa) + exponent * math.log(2.0)


def products(seed: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """Returns identities of the log of a product of densities, and the product in three units."""
    z = np.random.default_rng(seed).standard_normal(FACTORS)
    identities, table = [], []
    for scale in UNITS:
        law = Normal(0.0, one_double(scale))
        logs = law.log_prob(torch.from_numpy(scale * z))
        plain, exact = product(logs.exp().numpy())
        with np.errstate(divide="ignore"):
            log_of_product = float(np.log(plain))
        identities.append(
            row(
                f"y of scale {scale:g}: sum of {FACTORS} logs = log of the product, its exponent "
                "kept apart",
                logs.sum(),
                exact,
                FLOAT64,
            )
        )
        table.append(
            {
                "scale": scale,
                "product": plain,
                "log_of_product": log_of_product,
                "sum_of_logs": float(logs.sum()),
            }
        )
    return identities, table


def counts(seed: int) -> tuple[list[Row], list[dict[str, float]]]:
    """Returns identities of Bernoulli, binomial and Poisson likelihoods, and the limit of them."""
    rng = np.random.default_rng(seed)
    yes = one_double(rng.random(500) < 0.3)
    tries = 12
    some = one_double(rng.binomial(tries, 0.3, 500))
    events = one_double(rng.poisson(RATE, 500))
    laws: dict[str, tuple[Callable[[Tensor], Any], Tensor, Callable[[Tensor], Tensor], float]] = {
        "Bernoulli: p = mean of y": (
            lambda w: Bernoulli(logits=w),
            yes,
            torch.sigmoid,
            float(yes.mean()),
        ),
        "binomial: p = mean of y / n": (
            lambda w: Binomial(tries, logits=w),
            some,
            torch.sigmoid,
            float(some.mean()) / tries,
        ),
        "Poisson: rate = mean of y": (
            lambda w: Poisson(w.exp()),
            events,
            torch.exp,
            float(events.mean()),
        ),
    }
    identities = []
    for name, (law, y, natural, mean) in laws.items():
        found = maximum_likelihood(
            lambda w, law=law, y=y: -law(w).log_prob(y).sum(), torch.full((1,), 0.1).double()
        )
        identities.append(row(f"{name}, the maximum by Newton", natural(found), mean, FITTED))
    by_search = stats.fit(
        stats.poisson, events.numpy().astype(int), [(0.1, 20.0)], optimizer=_search(seed)
    )
    p, k = float(yes.mean()), torch.arange(tries + 1).double()
    identities += [
        row("Poisson: rate = scipy.stats.fit", float(events.mean()), by_search.params.mu, FITTED),
        row(
            "Bernoulli NLL = BCELoss = entropy of (p, 1 - p) at the maximum",
            F.binary_cross_entropy(torch.full_like(yes, p), yes),
            stats.entropy([p, 1 - p]),
            FLOAT64,
        ),
        row(
            "binomial = Bernoulli of its trials + log of the number of their orders",
            Binomial(tries, one_double(0.3)).log_prob(k),
            k * math.log(0.3)
            + (tries - k) * math.log(0.7)
            + torch.from_numpy(np.log(special.comb(tries, k.numpy()))),
            FLOAT64,
        ),
        row(
            "binomial log_prob = scipy.stats.binom.logpmf",
            Binomial(tries, one_double(0.3)).log_prob(k),
            stats.binom(tries, 0.3).logpmf(k.numpy()),
            FLOAT64,
        ),
        row(
            "PoissonNLLLoss(full=False) + log y! = -scipy.stats.poisson.logpmf",
            F.poisson_nll_loss(one_double(RATE), k, log_input=False, eps=0, reduction="none")
            + torch.lgamma(k + 1),
            -stats.poisson(RATE).logpmf(k.numpy()),
            FLOAT64,
        ),
    ]
    table = []
    for n in TRIALS:
        q = RATE / n
        y = np.arange(n + 1)
        apart = np.abs(stats.binom(n, q).pmf(y) - stats.poisson(RATE).pmf(y)).sum()
        apart += stats.poisson(RATE).sf(n)  # more events than trials
        at = torch.arange(min(n, 10) + 1).double()
        change = Binomial(n, one_double(q)).log_prob(at) - Poisson(one_double(RATE)).log_prob(at)
        table.append(
            {
                "trials": n,
                "distance": 0.5 * float(apart),
                "bound": (1 - math.exp(-RATE))
                * q,  # Barbour and Hall 1984: min(1, 1/rate) and n q^2
                "log_prob_at_rate": float(change[int(RATE)]),
            }
        )
    return identities, table


def _search(seed: int) -> Callable[..., Any]:
    """Returns the optimizer of scipy.stats.fit, without a polish that needs gradients."""

    def optimizer(fun: Any, bounds: Any, **options: Any) -> Any:
        return optimize.differential_evolution(fun, bounds, tol=1e-12, rng=seed, **options)

    return optimizer


def derivatives(generator: torch.Generator) -> Iterable[Row]:
    """Yields the gradient of one likelihood, written once, as several frameworks compute it.

    The reference is symbolic, in 30 digits.
    """
    import sympy

    y = 3 * torch.randn(8, generator=generator, dtype=torch.float64)
    theta = one_double([0.4, -1.0, 2.0, -0.3, 0.5])
    names = sympy.symbols("a m1 m2 s1 s2")
    terms = [_custom(names, sympy.Float(v, 30), sympy.log, sympy.exp) for v in y.tolist()]
    mean = sum(terms) / len(terms)
    at = {name: sympy.Float(v, 30) for name, v in zip(names, theta.tolist(), strict=True)}
    exact = [float(sympy.diff(mean, name).evalf(30, subs=at)) for name in names]

    def nll(values: Tensor) -> Tensor:
        return _custom(values, y, torch.log, torch.exp).mean()

    def by_numpy(values: Any) -> Any:
        return _custom(values, y.numpy(), np.log, np.exp).mean()

    leaf = theta.clone().requires_grad_()
    nll(leaf).backward()

    step = 1e-30
    eye = np.eye(len(theta))
    by_complex = [by_numpy(theta.numpy() + 1j * step * unit).imag / step for unit in eye]
    a, m, s = (leaf[:1], leaf[1:3], leaf[3:])
    ours = mdn.GaussianMixture(torch.cat([a, 0 * a]), m[:, None], s.exp()[:, None])
    (closed_form,) = torch.autograd.grad(-ours.log_prob(y[:, None]).mean(), leaf)
    ways = {
        "tape, backward(): PyTorch, tf.GradientTape": (leaf.grad, FLOAT64),
        "function to function, torch.func.grad: jax.grad": (torch.func.grad(nll)(theta), FLOAT64),
        "forward mode, torch.func.jacfwd: jax.jacfwd, ForwardDiff.jl": (
            torch.func.jacfwd(nll)(theta),
            FLOAT64,
        ),
        "gradient by hand in log_prob of GaussianMixture: jax.custom_vjp, tf.custom_gradient": (
            closed_form,
            FLOAT64,
        ),
        "complex step, NumPy alone": (by_complex, FLOAT64),
        "central differences, SciPy": (
            optimize.approx_fprime(theta.numpy(), by_numpy, 1e-6),
            1e-5,
        ),
    }
    for name, (found, tolerance) in ways.items():
        yield row(f"{name} = symbolic, SymPy", found, exact, tolerance)


def _custom(theta: Any, y: Any, log: Callable[[Any], Any], exp: Callable[[Any], Any]) -> Any:
    """Returns -log p(y) of a mixture of two Gaussians, in any library's numbers."""
    a, m1, m2, s1, s2 = theta
    w = 1 / (1 + exp(-a))
    one = w * exp(-(((y - m1) / exp(s1)) ** 2) / 2 - s1)
    two = (1 - w) * exp(-(((y - m2) / exp(s2)) ** 2) / 2 - s2)
    return HALF_LOG_2PI - log(one + two)

r"""The distance of estimates of p(y|x) from a known true density, by the number of training rows.

Six processes with a known density (`mdn.simulators`; J. Rothfuss, F. Ferreira, S. Walther and
M. Ulrich, *Conditional Density Estimation with Neural Networks: Best Practices and Benchmarks*,
arXiv 1903.00954, 2019, and its library) are estimated from 400 to 6,400 rows by

- **mdn**: `MDNRegressor()`, all defaults;
- **kernel density**: the conditional kernel density $\hat p(x, y) / \hat p(x)$ with Gaussian
  product kernels and the normal-reference bandwidth of statsmodels'
  `KDEMultivariateConditional` (P. Hall, J. Racine and Q. Li, 2004); the formula is evaluated here
  in log space, because statsmodels evaluates one point at a time;
- **NGBoost**: `NGBRegressor()`, a Gaussian by default (T. Duan and others, 2020);
- **flow**: a neural spline flow, zuko's `NSF` with its default size (C. Durkan and others, 2019) on
  standardised data, trained by `mdn.fit` with early stopping: 15 % of the rows are held out, with a
  patience of 50 epochs;
- **least squares**: an additive cubic spline in each feature by least squares, with a Gaussian
  whose scale is that of the residuals, which is the assumption of squared error.

No method is tuned to a process. The methods differ in their cost: mdn is an ensemble of up to 48
networks, the flow is a single network, and NGBoost makes 500 steps for any number of rows.

Three distances from the true density are computed, each of which is 0 only for the truth:

- the **regret**, $E[\log p(y|x) - \log \hat p(y|x)]$ in nats, on new rows that are the same for
  every method. It is an average over rows, so it has a standard error, and a small regret may be
  estimated as negative;
- the **Hellinger distance**, $\sqrt{1 - \int \sqrt{p \, \hat p} \, dy}$, between 0 and 1, mean over
  x;
- the **excess CRPS**, $\int (\hat F - F)^2 dy$, mean over x: the difference between the expected
  CRPS and that of the truth, $\int F (1 - F) \, dy$. It is given in per cent of the latter.

The two integrals are computed by the trapezoidal rule on a grid in y. Each process is sampled once:
the smaller samples are the first rows of the larger ones, so a learning curve has less noise than
one of independent samples, but another sample would move the whole curve.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

import mdn
from mdn import GaussianMixture, MDNRegressor
from mdn.simulators import (
    ArmaJump,
    EconDensity,
    GaussianMixtureDensity,
    LinearGaussian,
    LinearStudentT,
    Simulator,
    SkewNormal,
)

from ._density import SMALL, gaussian, table
from ._palette import BLUE, GREEN, PURPLE, VERMILLION

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 16.0
DATA = "none; rivals from the extra `experiments`, left out if they are not installed"

SIMULATORS: tuple[type[Simulator], ...] = (
    EconDensity,
    ArmaJump,
    GaussianMixtureDensity,
    SkewNormal,
    LinearStudentT,
    LinearGaussian,
)
OURS = "mdn"
SIZES, FAST_SIZES = (400, 800, 1600, 3200, 6400), (100, 200)
TEST, FAST_TEST = 2000, 200  # new rows of the regret
PLACES, FAST_PLACES = 100, 20  # number of x at which the integrals over y are computed
GRID, FAST_GRID = 1001, 301  # points in y
HELD_OUT = 0.15  # share of the rows for the early stopping of the flow

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A fitted p(y|x).

    Attributes:
        log_prob: maps X (N, F) and y (N,) to the log density (N,), nats.
        on_grid: maps X (N, F) and y (G,) to density and cdf, (N, G) each.
    """

    log_prob: Callable[[Floats, Floats], Floats]
    on_grid: Callable[[Floats, Floats], tuple[Floats, Floats]]


class Method(NamedTuple):
    """A method that estimates p(y|x).

    Attributes:
        fit: maps X (N, F), y (N,), a seed, and whether the run is fast, to an estimate.
        module: the module that must be installed.
        style: of its line in the figures.
    """

    fit: Callable[[Floats, Floats, int, bool], Estimate]
    module: str
    style: dict[str, Any]


# --- the methods ----------------------------------------------------------------------------------


def fit_mdn(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    options: dict[str, Any] = SMALL if fast else {}
    return _of_mixtures(MDNRegressor(random_state=seed, **options).fit(X, y).predict_distribution)


def fit_kernels(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    from statsmodels.nonparametric.kernel_density import KDEMultivariateConditional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its generator, which is not used
        kernels = KDEMultivariateConditional(
            endog=y[:, None],
            exog=X,
            dep_type="c",
            indep_type="c" * X.shape[1],
            bw="normal_reference",
        )
    h, h_x = kernels.bw[0], kernels.bw[1:]

    def log_weights(at: Floats) -> Floats:
        """Returns the log weights of the n training rows, (N, n)."""
        logits = sum(-0.5 * ((at[:, None, j] - X[:, j]) / h_x[j]) ** 2 for j in range(X.shape[1]))
        return logits - logsumexp(logits, axis=1, keepdims=True)

    def log_prob(at: Floats, value: Floats) -> Floats:
        z = (value[:, None] - y) / h
        return logsumexp(log_weights(at) - 0.5 * z**2, axis=1) - np.log(h * np.sqrt(2 * np.pi))

    def on_grid(at: Floats, value: Floats) -> tuple[Floats, Floats]:
        weights, z = np.exp(log_weights(at)), (value - y[:, None]) / h  # (N, n), (n, G)
        return weights @ (np.exp(-0.5 * z**2) / (h * np.sqrt(2 * np.pi))), weights @ ndtr(z)

    return Estimate(log_prob, on_grid)


def fit_ngboost(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    from ngboost import NGBRegressor
    from ngboost.learners import default_tree_learner

    # the default tree with a seed: it would break ties between features with numpy's global one
    tree = clone(default_tree_learner).set_params(random_state=seed)
    options = {"n_estimators": 50} if fast else {}
    model = NGBRegressor(Base=tree, random_state=seed, verbose=False, **options).fit(X, y)

    def predict(at: Floats) -> GaussianMixture:
        params = model.pred_dist(at).params
        return _gaussian(params["loc"], params["scale"])

    return _of_mixtures(predict)


def fit_flow(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    from zuko.flows import NSF

    x_loc, x_scale, loc, scale = X.mean(axis=0), X.std(axis=0), y.mean(), y.std()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    rows = torch.from_numpy((X - x_loc) / x_scale), torch.from_numpy((y - loc) / scale)[:, None]
    n_val = round(HELD_OUT * len(y))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = NSF(features=1, context=X.shape[1]).double()
    mdn.fit(
        flow,
        tuple(part[order[n_val:]] for part in rows),
        tuple(part[order[:n_val]] for part in rows),
        batch_size=256,
        max_epochs=20 if fast else 500,
        patience=50,
        seed=seed,
        progress=False,
    )

    @torch.no_grad()
    def of_rows(at: Floats, value: Floats) -> tuple[Floats, Floats]:
        """Returns log density and cdf, (N,) each."""
        dist = flow(torch.from_numpy((at - x_loc) / x_scale))
        z = torch.from_numpy((value - loc) / scale)[:, None]
        # the transform is increasing in y and maps to a standard normal
        normal = dist.transform(z)[:, 0].numpy()
        return dist.log_prob(z).numpy() - np.log(scale), ndtr(normal)

    def on_grid(at: Floats, value: Floats) -> tuple[Floats, Floats]:
        log_density, cdf = _rows_on_grid(of_rows, at, value)
        return np.exp(log_density), cdf

    return Estimate(lambda at, value: of_rows(at, value)[0], on_grid)


def fit_least_squares(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    splines = SplineTransformer(n_knots=5, knots="quantile", include_bias=False)
    model = make_pipeline(splines, LinearRegression()).fit(X, y)
    fitted = 1 + model[0].n_features_out_
    width = np.sqrt(np.sum((y - model.predict(X)) ** 2) / (len(y) - fitted))

    def predict(at: Floats) -> GaussianMixture:
        loc = model.predict(at)
        return _gaussian(loc, np.full_like(loc, width))

    return _of_mixtures(predict)


METHODS = {
    OURS: Method(fit_mdn, "mdn", {"color": BLUE, "ls": "-", "marker": "o", "lw": 2.2}),
    "kernel density": Method(
        fit_kernels, "statsmodels", {"color": VERMILLION, "ls": "--", "marker": "s"}
    ),
    "NGBoost": Method(fit_ngboost, "ngboost", {"color": GREEN, "ls": "-.", "marker": "^"}),
    "flow": Method(fit_flow, "zuko", {"color": PURPLE, "ls": (0, (5, 1)), "marker": "D"}),
    "least squares": Method(
        fit_least_squares, "sklearn", {"color": "#555555", "ls": ":", "marker": "v"}
    ),
}


# --- the experiment -------------------------------------------------------------------------------


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Fits every method to every process at every size; draws the three distances to the truth."""
    sizes = FAST_SIZES if fast else SIZES
    chosen = SIMULATORS[1:3] if fast else SIMULATORS
    methods = {key: m for key, m in METHODS.items() if importlib.util.find_spec(m.module)}
    numbers: dict[str, Any] = {
        "sizes": list(sizes),
        "test_rows": FAST_TEST if fast else TEST,
        "places": FAST_PLACES if fast else PLACES,
        "grid_points": FAST_GRID if fast else GRID,
        "methods": list(methods),
        "not_installed": [key for key in METHODS if key not in methods],
        "simulators": {},
    }
    for make in chosen:
        simulator = make()
        rng = np.random.default_rng([seed, SIMULATORS.index(make)])
        X, y = simulator.sample(max(sizes), rng)
        truth = _Truth(simulator, numbers, rng)
        result: dict[str, Any] = {
            "features": simulator.n_features,
            **truth.summary(),
            "methods": {},
        }
        for n in sizes:
            ours: Floats | None = None
            for key, method in methods.items():
                progress(f"{make.__name__}, {n} rows, {key}")
                estimate = method.fit(X[:n], y[:n], seed, fast)
                scores, regret = truth.scores(estimate)
                ours = regret if key == OURS else ours
                difference = regret - ours  # paired by row, which reduces the variance
                scores |= {"above_ours": _mean(difference), "above_ours_error": _error(difference)}
                result["methods"].setdefault(key, []).append({"n": n, **scores})
        numbers["simulators"][make.__name__] = result
    if out is not None:
        _draw(numbers, "regret", "regret (nats)", out)
        _draw(numbers, "hellinger", "Hellinger distance", out)
        _draw(numbers, "excess_crps", "excess CRPS (share of the truth's)", out)
    return numbers


class _Truth:
    """New rows and the true density at these rows, with which estimates are compared."""

    def __init__(
        self, simulator: Simulator, settings: dict[str, Any], rng: np.random.Generator
    ) -> None:
        self.X, self.y = simulator.sample(settings["test_rows"], rng)
        self.log_prob = simulator.log_prob(self.X, self.y)
        self.places = self.X[: settings["places"]]
        sample = simulator.sample(20_000, rng)[1]
        margin = 0.25 * np.ptp(sample)  # for the tails of an estimate
        self.grid = np.linspace(
            sample.min() - margin, sample.max() + margin, settings["grid_points"]
        )

        def of_rows(at: Floats, value: Floats) -> tuple[Floats, Floats]:
            return simulator.log_prob(at, value), simulator.cdf(at, value)

        log_density, self.cdf = _rows_on_grid(of_rows, self.places, self.grid)
        self.density = np.exp(log_density)
        self.crps = float(np.trapezoid(self.cdf * (1 - self.cdf), self.grid).mean())

    def summary(self) -> dict[str, float]:
        """Returns NLL and CRPS of the truth, and its least mass on the grid."""
        mass = np.trapezoid(self.density, self.grid)
        return {
            "nll_of_truth": -_mean(self.log_prob),
            "crps_of_truth": self.crps,
            "least_mass_on_grid": float(mass.min()),
        }

    def scores(self, estimate: Estimate) -> tuple[dict[str, float], Floats]:
        """Returns the three distances, and the regret of each row (N,)."""
        regret = self.log_prob - estimate.log_prob(self.X, self.y)
        density, cdf = estimate.on_grid(self.places, self.grid)
        overlap = np.trapezoid(np.sqrt(self.density * density), self.grid)
        excess = np.trapezoid((cdf - self.cdf) ** 2, self.grid)
        return {
            "regret": _mean(regret),
            "regret_error": _error(regret),
            "hellinger": _mean(np.sqrt(np.clip(1 - overlap, 0.0, None))),
            "excess_crps": _mean(excess) / self.crps,
        }, regret


def report(numbers: dict[str, Any]) -> str:
    """Returns regrets, distances and the number of cases each method is best in, in Markdown."""
    methods, sizes = numbers["methods"], numbers["sizes"]
    parts = []
    if numbers["not_installed"]:
        parts.append(f"Left out, because not installed: {', '.join(numbers['not_installed'])}.")
    parts.append(_verdict(numbers))
    parts.append(
        f"**Regret in nats** on {numbers['test_rows']:,} new rows (standard error), by the number "
        "of training rows:"
    )
    rows = [
        [name, f"{n:,}", *(_with_error(result["methods"][m][i]) for m in methods)]
        for name, result in numbers["simulators"].items()
        for i, n in enumerate(sizes)
    ]
    parts.append(table(["process", "rows", *methods], rows))
    parts.append(
        "**Hellinger distance / excess CRPS in per cent** of the truth's, from "
        f"{sizes[-1]:,} rows, mean over {numbers['places']} values of x:"
    )
    rows = [
        [name, *(_both(result["methods"][m][-1]) for m in methods)]
        for name, result in numbers["simulators"].items()
    ]
    parts.append(table(["process", *methods], rows))
    return "\n\n".join(parts)


def _verdict(numbers: dict[str, Any]) -> str:
    methods = numbers["methods"]
    rivals = [m for m in methods if m != OURS]
    results = list(numbers["simulators"].values())
    n_cases = len(results) * len(numbers["sizes"])
    lines = []
    for score, name in (
        ("regret", "regret"),
        ("hellinger", "Hellinger distance"),
        ("excess_crps", "excess CRPS"),
    ):
        cells = [
            {m: t["methods"][m][i][score] for m in methods}
            for t in results
            for i in range(len(numbers["sizes"]))
        ]
        best = [min(cell, key=lambda m: cell[m]) for cell in cells]
        counts = ", ".join(f"{m} {best.count(m)}" for m in methods)
        lines.append(f"- number of cases with the lowest {name}, of {n_cases}: {counts}")
    for rival in rivals:
        z = [
            s["above_ours"] / max(s["above_ours_error"], 1e-300)
            for t in results
            for s in t["methods"][rival]
        ]
        lines.append(
            f"- regret of {rival} compared with {OURS} on the same rows: higher by more than two "
            f"standard errors in {sum(v > 2 for v in z)} cases, lower in "
            f"{sum(v < -2 for v in z)}, neither in {sum(abs(v) <= 2 for v in z)}"
        )
    worse = [
        f"{name} at {cells[0]['n']:,} rows"
        if len(cells) == 1
        else f"{name} at {', '.join(format(c['n'], ',') for c in cells)} rows"
        for name, t in numbers["simulators"].items()
        if (
            cells := [
                row
                for i, row in enumerate(t["methods"][OURS])
                if any(
                    t["methods"][m][i]["above_ours"] < -2 * t["methods"][m][i]["above_ours_error"]
                    for m in rivals
                )
            ]
        )
    ]
    lines.append(
        f"- a rival has a regret lower than {OURS} by more than two standard errors on: "
        f"{'; '.join(worse) or 'none'}"
    )
    return "\n".join(lines)


def _draw(numbers: dict[str, Any], score: str, label: str, out: Path) -> None:
    """Draws learning curves, a panel per process; values below the axis are drawn on its edge."""
    names = list(numbers["simulators"])
    columns = min(3, len(names))
    figure = Figure(
        figsize=(9, 0.6 + 2.7 * -(-len(names) // columns)), dpi=110, layout="constrained"
    )
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=True):
        curves = numbers["simulators"][name]["methods"]
        for key, rows in curves.items():
            value = [max(row[score], FLOORS[score]) for row in rows]
            ax.plot(numbers["sizes"], value, label=key, ms=5, **METHODS[key].style)
        ax.set(xscale="log", yscale="log", title=name)
        ax.set_xticks(numbers["sizes"], [f"{n:,}" for n in numbers["sizes"]])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("training rows")
    for ax in axes[:, 0]:
        ax.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(out / f"{score}.png")


FLOORS = {"regret": 1e-4, "hellinger": 1e-4, "excess_crps": 1e-6}  # of the figures


# --- helpers --------------------------------------------------------------------------------------


def _of_mixtures(predict: Callable[[Floats], GaussianMixture]) -> Estimate:
    def log_prob(at: Floats, value: Floats) -> Floats:
        return predict(at).log_prob(torch.from_numpy(value[:, None])).numpy()

    def on_grid(at: Floats, value: Floats) -> tuple[Floats, Floats]:
        dist, y = predict(at), torch.from_numpy(value)[:, None]
        rows = [dist[i] for i in range(len(at))]  # one by one: all N x G x K would need much memory
        density = [row.log_prob(y).exp().numpy() for row in rows]
        return np.stack(density), np.stack([row.cdf(y).numpy() for row in rows])

    return Estimate(log_prob, on_grid)


def _gaussian(loc: Floats, scale: Floats) -> GaussianMixture:
    """Returns Gaussians from loc and scale, (N,) each."""
    loc, scale = (torch.as_tensor(np.asarray(a, dtype=np.float64)) for a in (loc, scale))
    return gaussian(loc[:, None], scale[:, None])


def _rows_on_grid(
    of_rows: Callable[[Floats, Floats], tuple[Floats, Floats]], at: Floats, value: Floats
) -> tuple[Floats, Floats]:
    """Returns the two results of a function of rows at all pairs of x (N, F) and y (G,), (N, G)."""
    n, g = len(at), len(value)
    first, second = of_rows(np.repeat(at, g, axis=0), np.tile(value, n))
    return first.reshape(n, g), second.reshape(n, g)


def _mean(a: Floats) -> float:
    return float(np.mean(a))


def _error(a: Floats) -> float:
    """Returns the standard error of the mean."""
    return float(np.std(a, ddof=1) / np.sqrt(len(a)))


def _with_error(score: dict[str, float]) -> str:
    return f"{score['regret']:.4f} ({score['regret_error']:.4f})"


def _both(score: dict[str, float]) -> str:
    return f"{score['hellinger']:.3f} / {100 * score['excess_crps']:.2f} %"

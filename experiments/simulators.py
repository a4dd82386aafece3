r"""How far estimates of p(y|x) are from a truth that is known, by the number of training rows.

Six processes with a known density (`mdn.simulators`; J. Rothfuss, F. Ferreira, S. Walther and
M. Ulrich, *Conditional Density Estimation with Neural Networks: Best Practices and Benchmarks*,
arXiv 1903.00954, 2019, and the library that goes with it) are estimated from 400 to 6,400 rows by

- **mdn**: `MDNRegressor()`, all defaults;
- **kernel density**: the conditional kernel density $\hat p(x, y) / \hat p(x)$ with Gaussian
  product kernels and the normal-reference bandwidth, as statsmodels'
  `KDEMultivariateConditional` finds it (P. Hall, J. Racine and Q. Li, 2004); the formula is
  evaluated here in log space, since statsmodels goes through the points one by one;
- **NGBoost**: `NGBRegressor()`, a Gaussian by default (T. Duan and others, 2020);
- **flow**: a neural spline flow, zuko's `NSF` with its default size (C. Durkan and others, 2019) on
  standardised data, trained by `mdn.fit` until 15 % of the rows, held out, have not improved for 50
  epochs;
- **least squares**: an additive cubic spline in each feature by least squares, with a Gaussian of
  the width of its residuals: what squared error assumes.

Nothing is tuned to a process. The methods differ in what they spend: mdn is an ensemble of up to 48
networks, the flow a single one, and NGBoost takes its 500 steps whatever the number of rows.

Three distances to the truth, each 0 for the truth alone:

- the **regret**, $E[\log p(y|x) - \log \hat p(y|x)]$ in nats, on fresh rows that are the same for
  every method. It is an average, so it comes with a standard error and a small one may come out
  negative;
- the **Hellinger distance**, $\sqrt{1 - \int \sqrt{p \, \hat p} \, dy}$, between 0 and 1, mean over
  x;
- the **excess CRPS**, $\int (\hat F - F)^2 dy$, mean over x: by so much the expected CRPS is above
  $\int F (1 - F) \, dy$, that of the truth. It is told in per cent of the latter.

The two integrals are trapezoids on a grid in y. There is one draw of the data for a process: the
smaller samples are the first rows of the larger ones, so a curve falls with less noise than two
independent samples would have, but a second draw would move all of it.
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

__all__ = ["DATA", "MINUTES", "report", "run"]

MINUTES = 16.0
DATA = "none; rivals from the extra `experiments`, each left out where it is not installed"

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
TEST, FAST_TEST = 2000, 200  # fresh rows of the regret
PLACES, FAST_PLACES = 100, 20  # x at which the integrals over y are taken
GRID, FAST_GRID = 1001, 301  # points in y
HELD_OUT = 0.15  # share of the rows that end the training of the flow

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A fitted p(y|x).

    Attributes:
        log_prob: of X (N, F) and y (N,): (N,), nats.
        on_grid: of X (N, F) and y (G,): density and cdf, (N, G) each.
    """

    log_prob: Callable[[Floats, Floats], Floats]
    on_grid: Callable[[Floats, Floats], tuple[Floats, Floats]]


class Method(NamedTuple):
    """A way to estimate p(y|x).

    Attributes:
        fit: of X (N, F), y (N,), seed and whether in the small version.
        module: that must be installed.
        style: of its line.
    """

    fit: Callable[[Floats, Floats, int, bool], Estimate]
    module: str
    style: dict[str, Any]


# --- the methods ----------------------------------------------------------------------------------


def fit_mdn(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    options: dict[str, Any] = {}
    if fast:
        options = {"preset": "fast", "ensemble_size": 1, "trees": False}
    return _of_mixtures(MDNRegressor(random_state=seed, **options).fit(X, y).predict_distribution)


def fit_kernels(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    from statsmodels.nonparametric.kernel_density import KDEMultivariateConditional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its generator, which plays no part here
        kernels = KDEMultivariateConditional(
            endog=y[:, None],
            exog=X,
            dep_type="c",
            indep_type="c" * X.shape[1],
            bw="normal_reference",
        )
    h, h_x = kernels.bw[0], kernels.bw[1:]

    def log_weights(at: Floats) -> Floats:
        """Of the training rows, (N, n)."""
        near = sum(-0.5 * ((at[:, None, j] - X[:, j]) / h_x[j]) ** 2 for j in range(X.shape[1]))
        return near - logsumexp(near, axis=1, keepdims=True)

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

    # its default tree, which would break ties between features by numpy's global generator
    tree = clone(default_tree_learner).set_params(random_state=seed)
    options = {"n_estimators": 50} if fast else {}
    model = NGBRegressor(Base=tree, random_state=seed, verbose=False, **options).fit(X, y)

    def predict(at: Floats) -> GaussianMixture:
        found = model.pred_dist(at).params
        return _gaussian(found["loc"], found["scale"])

    return _of_mixtures(predict)


def fit_flow(X: Floats, y: Floats, seed: int, fast: bool) -> Estimate:
    from zuko.flows import NSF

    x_loc, x_scale, loc, scale = X.mean(axis=0), X.std(axis=0), y.mean(), y.std()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    rows = torch.from_numpy((X - x_loc) / x_scale), torch.from_numpy((y - loc) / scale)[:, None]
    held = round(HELD_OUT * len(y))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = NSF(features=1, context=X.shape[1]).double()
    mdn.fit(
        flow,
        tuple(part[order[held:]] for part in rows),
        tuple(part[order[:held]] for part in rows),
        batch_size=256,
        max_epochs=20 if fast else 500,
        patience=50,
        seed=seed,
        progress=False,
    )

    @torch.no_grad()
    def of_rows(at: Floats, value: Floats) -> tuple[Floats, Floats]:
        """Log density and cdf, (N,) each."""
        dist = flow(torch.from_numpy((at - x_loc) / x_scale))
        z = torch.from_numpy((value - loc) / scale)[:, None]
        # its transform rises with y and ends in a standard normal
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
    OURS: Method(fit_mdn, "mdn", {"color": "#0072b2", "ls": "-", "marker": "o", "lw": 2.2}),
    "kernel density": Method(
        fit_kernels, "statsmodels", {"color": "#d55e00", "ls": "--", "marker": "s"}
    ),
    "NGBoost": Method(fit_ngboost, "ngboost", {"color": "#009e73", "ls": "-.", "marker": "^"}),
    "flow": Method(fit_flow, "zuko", {"color": "#cc79a7", "ls": (0, (5, 1)), "marker": "D"}),
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
    """Every method on every process at every size, with its three distances to the truth."""
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
        told: dict[str, Any] = {"features": simulator.n_features, **truth.told(), "methods": {}}
        for n in sizes:
            ours: Floats | None = None
            for key, method in methods.items():
                progress(f"{make.__name__}, {n} rows, {key}")
                estimate = method.fit(X[:n], y[:n], seed, fast)
                scores, regret = truth.scores(estimate)
                ours = regret if key == OURS else ours
                difference = regret - ours  # each row, so that the rows' own luck cancels
                scores |= {"above_ours": _mean(difference), "above_ours_error": _error(difference)}
                told["methods"].setdefault(key, []).append({"n": n, **scores})
        numbers["simulators"][make.__name__] = told
    if out is not None:
        _draw(numbers, "regret", "regret (nats)", out)
        _draw(numbers, "hellinger", "Hellinger distance", out)
        _draw(numbers, "excess_crps", "excess CRPS (share of the truth's)", out)
    return numbers


class _Truth:
    """Fresh rows and the true density at them, against which estimates are scored."""

    def __init__(
        self, simulator: Simulator, settings: dict[str, Any], rng: np.random.Generator
    ) -> None:
        self.X, self.y = simulator.sample(settings["test_rows"], rng)
        self.log_prob = simulator.log_prob(self.X, self.y)
        self.places = self.X[: settings["places"]]
        seen = simulator.sample(20_000, rng)[1]
        spare = 0.25 * np.ptp(seen)  # of the range, for the tails of an estimate
        self.grid = np.linspace(seen.min() - spare, seen.max() + spare, settings["grid_points"])

        def of_rows(at: Floats, value: Floats) -> tuple[Floats, Floats]:
            return simulator.log_prob(at, value), simulator.cdf(at, value)

        log_density, self.cdf = _rows_on_grid(of_rows, self.places, self.grid)
        self.density = np.exp(log_density)
        self.crps = float(np.trapezoid(self.cdf * (1 - self.cdf), self.grid).mean())

    def told(self) -> dict[str, float]:
        mass = np.trapezoid(self.density, self.grid)
        return {
            "nll_of_truth": -_mean(self.log_prob),
            "crps_of_truth": self.crps,
            "least_mass_on_grid": float(mass.min()),
        }

    def scores(self, estimate: Estimate) -> tuple[dict[str, float], Floats]:
        """The three distances, and the regret of each row (N,)."""
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
    """The regrets at every size, all distances at the largest, and who came closest how often."""
    methods, sizes = numbers["methods"], numbers["sizes"]
    parts = []
    if numbers["not_installed"]:
        parts.append(f"Left out, as not installed: {', '.join(numbers['not_installed'])}.")
    parts.append(_verdict(numbers))
    parts.append(
        f"**Regret in nats** on {numbers['test_rows']:,} fresh rows (standard error), by the "
        "number of training rows:"
    )
    rows = [
        [name, f"{n:,}", *(_with_error(told["methods"][m][i]) for m in methods)]
        for name, told in numbers["simulators"].items()
        for i, n in enumerate(sizes)
    ]
    parts.append(_table(["process", "rows", *methods], rows))
    parts.append(
        "**Hellinger distance / excess CRPS in per cent** of the truth's, from "
        f"{sizes[-1]:,} rows, mean over {numbers['places']} places x:"
    )
    rows = [
        [name, *(_both(told["methods"][m][-1]) for m in methods)]
        for name, told in numbers["simulators"].items()
    ]
    parts.append(_table(["process", *methods], rows))
    return "\n\n".join(parts)


def _verdict(numbers: dict[str, Any]) -> str:
    methods = numbers["methods"]
    rivals = [m for m in methods if m != OURS]
    told = list(numbers["simulators"].values())
    n_cases = len(told) * len(numbers["sizes"])
    lines = []
    for score, name in (
        ("regret", "regret"),
        ("hellinger", "Hellinger distance"),
        ("excess_crps", "excess CRPS"),
    ):
        cells = [
            {m: t["methods"][m][i][score] for m in methods}
            for t in told
            for i in range(len(numbers["sizes"]))
        ]
        best = [min(cell, key=lambda m: cell[m]) for cell in cells]
        counts = ", ".join(f"{m} {best.count(m)}" for m in methods)
        lines.append(f"- least {name} in how many of {n_cases} cases: {counts}")
    for rival in rivals:
        z = [
            s["above_ours"] / max(s["above_ours_error"], 1e-300)
            for t in told
            for s in t["methods"][rival]
        ]
        lines.append(
            f"- regret of {rival} against {OURS}, same rows: higher by more than two standard "
            f"errors in {sum(v > 2 for v in z)}, lower in {sum(v < -2 for v in z)}, neither in "
            f"{sum(abs(v) <= 2 for v in z)}"
        )
    lost = [
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
    lines.append(f"- a rival is ahead of {OURS} by more than that on: {'; '.join(lost) or 'none'}")
    return "\n".join(lines)


def _draw(numbers: dict[str, Any], score: str, label: str, out: Path) -> None:
    """Learning curves, a panel for each process; values below the axis are drawn on its edge."""
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
        rows = [dist[i] for i in range(len(at))]  # one by one: N times G times K is much
        density = [row.log_prob(y).exp().numpy() for row in rows]
        return np.stack(density), np.stack([row.cdf(y).numpy() for row in rows])

    return Estimate(log_prob, on_grid)


def _gaussian(loc: Floats, scale: Floats) -> GaussianMixture:
    loc, scale = (torch.as_tensor(np.asarray(a, dtype=np.float64)) for a in (loc, scale))
    return GaussianMixture(torch.zeros_like(loc)[:, None], loc[:, None, None], scale[:, None, None])


def _rows_on_grid(
    of_rows: Callable[[Floats, Floats], tuple[Floats, Floats]], at: Floats, value: Floats
) -> tuple[Floats, Floats]:
    """What a function of rows says at every x (N, F) for every y (G,): (N, G) each."""
    n, g = len(at), len(value)
    first, second = of_rows(np.repeat(at, g, axis=0), np.tile(value, n))
    return first.reshape(n, g), second.reshape(n, g)


def _mean(a: Floats) -> float:
    return float(np.mean(a))


def _error(a: Floats) -> float:
    """Standard error of the mean."""
    return float(np.std(a, ddof=1) / np.sqrt(len(a)))


def _with_error(score: dict[str, float]) -> str:
    return f"{score['regret']:.4f} ({score['regret_error']:.4f})"


def _both(score: dict[str, float]) -> str:
    return f"{score['hellinger']:.3f} / {100 * score['excess_crps']:.2f} %"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

r"""Gradient descent on the NLL of a density finds the parameters that scipy.stats.fit and EM find.

For a density $p(y; \theta)$ and $N$ independent draws the maximum likelihood estimate is the
minimum of the mean negative log-likelihood

$$\mathrm{NLL}(\theta) = -\frac{1}{N} \sum_n \log p(y_n; \theta),$$

here over unconstrained values: a positive parameter is the exponential of one, weights are the
softmax of logits. A mixture density network minimises the same function, but here $\theta$ does not
depend on any $x$. Each density is fitted three times; the gradient methods and EM have the same
starting values:

- by `mdn.fit`: Adam on the gradient of `-dist.log_prob(y).mean()`, with all rows in every step;
- by L-BFGS (SciPy) on the same gradient, to rounding precision;
- by a reference method: `scipy.stats.fit`, which searches a bounded region without gradients, or
  for the mixture the EM algorithm of scikit-learn's `GaussianMixture`.

Differences are also given in standard errors, the square roots of the diagonal of the inverse
observed information, which is the Hessian of $N \cdot \mathrm{NLL}$ at the minimum (in the unit of
the parameter). A difference of a tenth of a standard error is not relevant.

**A warning about mixtures.** Their likelihood is unbounded: a component that is centred on one draw
gains likelihood without limit as its scale goes to 0. EM and gradient methods find a local maximum,
which is the useful one. This is the reason for the scale floor of a network.

R. A. Fisher, On the mathematical foundations of theoretical statistics, Phil. Trans. R. Soc. A 222
(1922); A. P. Dempster, N. M. Laird, D. B. Rubin, Maximum likelihood from incomplete data via the EM
algorithm, J. R. Stat. Soc. B 39 (1977); N. E. Day, Estimating the components of a mixture of normal
distributions, Biometrika 56 (1969), on the unbounded likelihood.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize
from torch import Tensor, nn

import mdn

from ._families import FAMILIES, Family, Floats, double, em, em_parameters
from ._palette import BLUE, GREEN, VERMILLION

__all__ = ["MINUTES", "DATA", "run", "report"]

MINUTES = 0.5
DATA = "none"

ROWS, FAST_ROWS = 1000, 300
STEPS, FAST_STEPS = 1500, 500  # of Adam
RATE = 0.05  # learning rate of Adam, in the unconstrained values
GRID, FAST_GRID = 61, 15  # points of a surface along each axis
STEP = 1e-5  # of the finite differences of the information
CONVERGED = 1e-10  # EM stops at smaller steps, L-BFGS at a smaller gradient
CLOSE = 1e-6  # nats per row above the minimum at which an optimizer counts as converged
AGREE_NLL = 1e-8  # nats per row, L-BFGS and the reference method
AGREE = 1e-2  # standard errors, L-BFGS and the reference method
AGREE_ADAM = 0.1  # standard errors, Adam and L-BFGS
COLLAPSED = 1e-300  # scale of a component that is centred on one draw
STYLES = {
    "Adam": (BLUE, "-", ""),
    "L-BFGS": (VERMILLION, "-", "o"),
    "EM": (GREEN, "--", ""),
}


class Density(nn.Module):
    """A distribution that is the same for every row; it records its parameters at every step."""

    def __init__(self, family: Family, start: Tensor) -> None:
        super().__init__()
        self.family, self.path = family, list[Tensor]()
        self.raw = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Any:
        """Returns the distribution with batch shape (N,), the length of x."""
        if self.training:
            self.path.append(self.raw.detach().clone())
        return self.family.density(self.raw).expand((len(x),))


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Fits each density by each method; draws surface.png, densities.png and steps.png."""
    rows, steps = (FAST_ROWS, FAST_STEPS) if fast else (ROWS, STEPS)
    families, fits = {}, {}
    for i, (name, family) in enumerate(FAMILIES.items()):
        progress(family.title)
        y = family.draw(np.random.default_rng((seed, i)), rows)
        families[name], fits[name] = _fit(family, y, steps, seed)
    numbers = {
        "rows": rows,
        "steps": steps,
        "families": families,
        "collapse": _collapse(fits["mixture"]),
    }
    if out is not None:
        progress("surfaces")
        _draw_surfaces(fits, FAST_GRID if fast else GRID).savefig(out / "surface.png", dpi=110)
        _draw_densities(fits).savefig(out / "densities.png", dpi=110)
        _draw_steps(families).savefig(out / "steps.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Returns a table for each density, the steps of each method, and the collapse, in Markdown."""
    families = list(numbers["families"].values())
    lines = [
        f"{numbers['rows']} draws from each density; {numbers['steps']} steps of Adam. "
        "Errors are standard errors of the estimate."
    ]
    for family in families:
        lines += _family_lines(family)
    lines += [
        "",
        f"Number of steps until the NLL is within {CLOSE:.0e} nats of its minimum (each step uses "
        "all rows):",
        "",
        "| | " + " | ".join(family["title"] for family in families) + " |",
        "|---" * (len(families) + 1) + "|",
    ]
    for method in ("Adam", "L-BFGS", "EM"):
        if any(method in family["arrived"] for family in families):
            cells = [str(family["arrived"].get(method, "")) for family in families]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    collapse = numbers["collapse"]
    higher = collapse["nll"] < collapse["fitted"]
    lines += [
        "",
        f"The fitted mixture has an NLL of {collapse['fitted']:.4f}. A mixture of two Gaussians "
        f"(EM) and a third that is centred on one of the {numbers['rows']} draws, with a scale of "
        f"{collapse['scale']:.0e} and a weight of {collapse['weight']:.1e}, has "
        f"{collapse['nll']:.4f}: "
        + (
            "a higher likelihood from a useless density. The fitted mixture is a local maximum."
            if higher
            else "no higher likelihood yet."
        )
        + " The NLL falls without limit, by another "
        f"{math.log(10) / numbers['rows']:.4f} for each factor of ten in this scale.",
    ]
    return "\n".join(lines)


def _family_lines(family: dict[str, Any]) -> list[str]:
    """Returns the lines of the report on one density."""
    other, nll = family["other"], family["nll"]
    methods = ("Adam", "L-BFGS", other)
    lines = [
        "",
        f"**{family['title']}.** L-BFGS and {other} "
        + ("agree" if family["agree"] else "**do not agree**")
        + f": they differ by at most {family['apart'][other]:.1e} standard errors, and "
        f"in NLL by {abs(nll['L-BFGS'] - nll[other]):.1e} nats per row. "
        f"Adam ends {family['apart']['Adam']:.1e} standard errors from L-BFGS"
        + ("." if family["apart"]["Adam"] < AGREE_ADAM else ": **it has not converged**."),
        "",
        f"| parameter | truth | start | Adam (`mdn.fit`) | L-BFGS | {other} | standard error |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for j, name in enumerate(family["names"]):
        cells = [f"{family['truth'][j]:.4g}", f"{family['start'][j]:.4g}"]
        cells += [f"{family['parameters'][method][j]:.6f}" for method in methods]
        cells.append(f"{family['standard_errors'][j]:.3g}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = [f"{nll['truth']:.4f}", f"{nll['start']:.4f}"]
    cells += [f"{nll[method]:.9f}" for method in methods]
    return [*lines, "| NLL (nats per row) | " + " | ".join(cells) + " | |"]


# -- the fits ---------------------------------------------------------------------------------


class Fit(NamedTuple):
    """The results of a family that its figures need.

    Attributes:
        family: the family.
        y: the draws, (N,).
        other: the parameters found by the reference method, (P,).
        paths: unconstrained parameters of every step, (S + 1, P), by method.
    """

    family: Family
    y: Floats
    other: Floats
    paths: dict[str, Tensor]

    @property
    def best(self) -> Tensor:
        """The maximum likelihood estimate, unconstrained, (P,)."""
        return self.paths["L-BFGS"][-1]

    def nll(self, raw: Tensor) -> Tensor:
        """Returns the mean NLL of the draws, nats; raw (..., P) to (...)."""
        dist = self.family.density(raw)
        y = torch.from_numpy(self.y).reshape(-1, *[1] * (raw.ndim - 1), 1)
        return -dist.log_prob(y.expand(len(y), *raw.shape[:-1], 1)).mean(0)


def _fit(family: Family, y: Floats, steps: int, seed: int) -> tuple[dict[str, Any], Fit]:
    """Fits a family by all methods; returns the numbers, and the results its figures need."""
    start = family.start(y)
    other, by_other = family.other
    adam, adam_nll = _by_adam(family, y, start, steps, seed)
    fit = Fit(family, y, by_other(y, seed), {"Adam": adam})
    fit.paths["L-BFGS"] = _by_lbfgs(fit.nll, start)
    estimates = {name: family.natural(path[-1]).numpy() for name, path in fit.paths.items()}
    estimates[other] = fit.other
    if other == "EM":
        fit.paths["EM"] = family.unconstrained(torch.from_numpy(_em_path(y, family.natural(start))))

    def nll_of(parameters: Any) -> float:
        return float(fit.nll(family.unconstrained(double(*parameters))))

    nll = {name: nll_of(parameters) for name, parameters in estimates.items()}
    least = min(nll["L-BFGS"], nll[other])
    above = {"Adam": np.array([*adam_nll, nll["Adam"]]) - least}
    for name, path in fit.paths.items():
        if name not in above:
            above[name] = np.array([float(fit.nll(raw)) for raw in path]) - least
    errors = _standard_errors(fit)
    best = estimates["L-BFGS"]
    apart = {name: float((abs(best - p) / errors).max()) for name, p in estimates.items()}
    result = {
        "title": family.title,
        "names": list(family.names),
        "other": other,
        "truth": list(family.truth),
        "start": family.natural(start).tolist(),
        "parameters": {name: p.tolist() for name, p in estimates.items()},
        "standard_errors": errors.tolist(),
        "nll": {"truth": nll_of(family.truth), "start": float(fit.nll(start)), **nll},
        "apart": apart,  # from L-BFGS, in standard errors
        "agree": apart[other] < AGREE and abs(nll["L-BFGS"] - nll[other]) < AGREE_NLL,
        "arrived": {
            m: int(np.argmax(v < CLOSE)) if v[-1] < CLOSE else "not" for m, v in above.items()
        },
        "above": {name: _thinned(v) for name, v in above.items()},
    }
    return result, fit


def _by_adam(
    family: Family, y: Floats, start: Tensor, steps: int, seed: int
) -> tuple[Tensor, list[float]]:
    """Returns the path of mdn.fit, (S + 1, P), from the start, and the NLL before each step."""
    t, module = torch.from_numpy(y)[:, None], Density(family, start)
    history = mdn.fit(
        module,
        (t, t),  # only the length of x is used
        max_epochs=steps,
        batch_size=len(t),
        lr=RATE,
        weight_decay=0.0,
        seed=seed,
        progress=False,
    )
    return torch.stack([*module.path, module.raw.detach()]), history.train_nll


def _by_lbfgs(nll: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Returns the path of SciPy's L-BFGS with torch's gradient."""

    def value_and_gradient(at: Floats) -> tuple[float, Floats]:
        raw = torch.from_numpy(at).requires_grad_()
        value = nll(raw)
        return value.item(), torch.autograd.grad(value, raw)[0].numpy()

    path = [start.clone()]
    optimize.minimize(
        value_and_gradient,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=lambda at: path.append(torch.from_numpy(at.copy())),
        options={"ftol": 0.0, "gtol": CONVERGED, "maxiter": 1000, "maxcor": 20},
    )
    return torch.stack(path)


def _em_path(y: Floats, start: Tensor) -> Floats:
    """Returns the start and the parameters after each step of EM, (S + 1, P)."""
    from sklearn.exceptions import ConvergenceWarning

    model = em(y).set_params(max_iter=1, warm_start=True)
    path = [start.numpy()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one step at a time is intended
        for _ in range(2000):
            path.append(em_parameters(model.fit(y[:, None])))
            if abs(path[-1] - path[-2]).max() < CONVERGED:
                break
    return np.stack(path)


def _standard_errors(fit: Fit) -> Floats:
    """Returns standard errors of the parameters by the inverse observed information, (P,)."""

    def gradient(raw: Tensor) -> Tensor:
        raw = raw.detach().requires_grad_()
        return torch.autograd.grad(fit.nll(raw), raw)[0]

    steps = STEP * torch.eye(len(fit.best)).double()
    differences = [gradient(fit.best + e) - gradient(fit.best - e) for e in steps]
    hessian = torch.stack(differences) / (2 * STEP)
    # adding a constant to all logits changes nothing: in this direction the information is 0
    covariance = torch.linalg.pinv(len(fit.y) * hessian, rtol=1e-7)
    jacobian = torch.func.jacrev(fit.family.natural)(fit.best)
    return (jacobian @ covariance @ jacobian.T).diagonal().sqrt().numpy()


def _collapse(fit: Fit) -> dict[str, float]:
    """Returns the NLL of a mixture with a third, extremely narrow component at one of the draws."""
    from sklearn.mixture import GaussianMixture

    two = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(fit.y[:, None])
    weight = 1 / len(fit.y)
    parameters = [
        *(1 - weight) * two.weights_,
        weight,
        *two.means_[:, 0],
        fit.y[0],
        *np.sqrt(two.covariances_),
        COLLAPSED,
    ]
    return {
        "fitted": float(fit.nll(fit.best)),
        "nll": float(fit.nll(fit.family.unconstrained(double(*parameters)))),
        "scale": COLLAPSED,
        "weight": weight,
    }


def _thinned(values: Floats, most: int = 200) -> dict[str, list[float]]:
    """Returns at most this many of the steps and values, evenly spaced in the log of the step."""
    at = np.unique(np.geomspace(1, len(values), most).round().astype(int)) - 1
    return {"step": at.tolist(), "nats": values[at].tolist()}


# -- figures ----------------------------------------------------------------------------------


def _panels(fits: dict[str, Fit], height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, fit in zip(axes.flat, fits.values(), strict=True):
        ax.set_title(fit.family.title, fontsize=10)
    return figure, axes


def _legend(figure: Figure, ax: Axes) -> None:
    """Adds a legend with the lines of the last panel, which has all kinds."""
    lines = ax.get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=5, frameon=False)


@torch.no_grad()
def _draw_surfaces(fits: dict[str, Fit], n_grid: int) -> Figure:
    """Draws the NLL over two parameters, the others at their optimum, and the optimizers' paths."""
    figure, axes = _panels(fits, 7.8)
    levels = 2.0 ** np.arange(-9, 7)
    for ax, fit in zip(axes.flat, fits.values(), strict=True):
        (i, *x_range), (j, *y_range) = fit.family.shown
        xs, ys = (torch.from_numpy(np.linspace(*ends, n_grid)) for ends in (x_range, y_range))
        rows = []
        for value in ys:  # one line of the grid at a time, to limit the memory
            raw = fit.best.repeat(n_grid, 1)
            raw[:, i], raw[:, j] = xs, value
            rows.append(fit.nll(raw) - fit.nll(fit.best))
        above = torch.stack(rows).clamp(min=1e-12).numpy()
        ax.contourf(
            xs, ys, above, levels, norm="log", cmap="Greys", extend="both", alpha=0.55, zorder=0
        )
        ax.contour(xs, ys, above, levels, colors="0.35", linewidths=0.5, zorder=1)
        for method, (colour, line, mark) in STYLES.items():
            if method in fit.paths:
                path = fit.paths[method][:, [i, j]].T
                ax.plot(*path, line, marker=mark, ms=3.5, color=colour, lw=1.6, label=method)
        ax.plot(*fit.best[[i, j]], "*", color="k", mfc="w", ms=14, label="maximum likelihood")
        ax.plot(*fit.paths["Adam"][0, [i, j]], "s", color="k", ms=6, label="start")
        names = [fit.family.names[k] for k in (i, j)]
        log = ["" if n.startswith(("mean", "location")) else "log of the " for n in names]
        ax.set(xlabel=log[0] + names[0], ylabel=log[1] + names[1], xlim=x_range, ylim=y_range)
    _legend(figure, ax)
    figure.supxlabel(
        "Contours: mean NLL above its minimum, each twice the one inside it, from "
        f"{levels[0]:.4f} nats per row.\nParameters that are not shown are at their optimum for "
        "the surface and vary along the paths.",
        fontsize=8,
    )
    return figure


@torch.no_grad()
def _draw_densities(fits: dict[str, Fit]) -> Figure:
    """Draws the samples, the true and the fitted densities."""
    figure, axes = _panels(fits, 6.4)
    for ax, fit in zip(axes.flat, fits.values(), strict=True):
        family = fit.family
        low, high = np.quantile(fit.y, [0.002, 0.998])
        low = max(low, 1e-3) if family.title == "gamma" else low
        inside = fit.y[(fit.y >= low) & (fit.y <= high)]
        heights, edges = np.histogram(inside, 40)
        heights = heights / (len(fit.y) * (edges[1] - edges[0]))  # of all the draws
        ax.stairs(heights, edges, fill=True, color="0.85", label="draws")
        grid = torch.linspace(float(low), float(high), 400).double()
        lines = {
            "truth": (double(*family.truth), "k", ":", 2.0),
            "gradient": (family.natural(fit.best), STYLES["L-BFGS"][0], "-", 3.5),
            "scipy.stats.fit or EM": (double(*fit.other), STYLES["Adam"][0], "--", 1.3),
        }
        for label, (parameters, colour, line, thick) in lines.items():
            dist = family.density(family.unconstrained(parameters)).expand((len(grid),))
            ax.plot(
                grid, dist.log_prob(grid[:, None]).exp(), line, color=colour, lw=thick, label=label
            )
        ax.set(xlabel="y", ylabel="density", ylim=(0, None))
    _legend(figure, ax)
    return figure


def _draw_steps(families: dict[str, Any]) -> Figure:
    """Draws the NLL above its minimum over the steps."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, family in zip(axes.flat, families.values(), strict=True):
        for method, path in family["above"].items():
            colour, line, mark = STYLES[method]
            above = np.maximum(path["nats"], 1e-16)  # rounding leaves 0 or less
            step = np.add(path["step"], 1)
            ax.loglog(step, above, line, marker=mark, ms=3, color=colour, label=method)
        ax.axhline(CLOSE, color="0.6", lw=0.8, ls=":", label=f"converged: {CLOSE:.0e} nats")
        ax.set(ylabel="nats above the minimum", ylim=(1e-16, None), xlabel="step, from 1")
        ax.set_title(family["title"], fontsize=10)
    _legend(figure, ax)
    return figure

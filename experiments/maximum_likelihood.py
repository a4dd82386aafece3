r"""The parameters of a density by gradient on its NLL are those that scipy.stats.fit and EM find.

A density $p(y; \theta)$ and $N$ independent draws: the estimate of greatest likelihood is the
minimum of the mean negative log-likelihood

$$\mathrm{NLL}(\theta) = -\frac{1}{N} \sum_n \log p(y_n; \theta),$$

here over unconstrained numbers: a positive parameter is the exponential of one, weights are the
softmax of logits. It is what a mixture density network minimises; here $\theta$ does not depend on
any $x$. Each density is fitted three times, by gradients and by EM from one start:

- by `mdn.fit`, Adam on the gradient of `-dist.log_prob(y).mean()`, all rows a step, as a network;
- by L-BFGS (SciPy) on the same gradient, to rounding;
- by others: `scipy.stats.fit`, which searches a box without a gradient, and for the mixture the EM
  algorithm of scikit-learn's `GaussianMixture`.

Differences are also given in standard errors, which are the roots of the diagonal of the inverse
observed information, the Hessian of $N \cdot \mathrm{NLL}$ at the minimum (in the unit of the
parameter): a tenth of one is nothing that data could tell.

**A warning about mixtures.** Their likelihood has no greatest value: a component that sits on one
point and narrows gains density without end. What EM and gradients find is a local maximum, and the
good one. A network's floor under its scales is there for this.

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

__all__ = ["MINUTES", "DATA", "run", "report"]

MINUTES = 0.5
DATA = "none"

ROWS, FAST_ROWS = 1000, 300
STEPS, FAST_STEPS = 1500, 500  # of Adam
RATE = 0.05  # its step, in the unconstrained numbers
GRID, FAST_GRID = 61, 15  # points of a surface along each axis
STEP = 1e-5  # of the differences that give the information
STILL = 1e-10  # EM that moves less, or L-BFGS at a smaller gradient, has ended
CLOSE = 1e-6  # nats a row: an optimizer has arrived
AGREE_NLL = 1e-8  # nats a row, L-BFGS against the others
AGREE = 1e-2  # standard errors, L-BFGS against the others
AGREE_ADAM = 0.1  # standard errors, Adam against L-BFGS
COLLAPSED = 1e-300  # scale of a component that sits on one draw
STYLES = {
    "Adam": ("#0072b2", "-", ""),
    "L-BFGS": ("#d55e00", "-", "o"),
    "EM": ("#009e73", "--", ""),
}


class Density(nn.Module):
    """A distribution that is the same for every row, and remembers where it has been."""

    def __init__(self, family: Family, start: Tensor) -> None:
        super().__init__()
        self.family, self.path = family, list[Tensor]()
        self.raw = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Any:
        """The distribution with batch shape (N,); x tells N."""
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
    """Parameters and NLL by each way; draws surface.png, densities.png and steps.png."""
    rows, steps = (FAST_ROWS, FAST_STEPS) if fast else (ROWS, STEPS)
    told, fits = {}, {}
    for i, (name, family) in enumerate(FAMILIES.items()):
        progress(family.title)
        y = family.draw(np.random.default_rng((seed, i)), rows)
        told[name], fits[name] = _fitted(family, y, steps, seed)
    numbers = {
        "rows": rows,
        "steps": steps,
        "families": told,
        "collapse": _collapse(fits["mixture"]),
    }
    if out is not None:
        progress("surfaces")
        _draw_surfaces(fits, FAST_GRID if fast else GRID).savefig(out / "surface.png", dpi=110)
        _draw_densities(fits).savefig(out / "densities.png", dpi=110)
        _draw_steps(told).savefig(out / "steps.png", dpi=110)
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """A table for each density, how fast each way was, and the collapse."""
    lines = [
        f"{numbers['rows']} draws from each density; {numbers['steps']} steps of Adam. "
        "Errors are standard errors of the estimate."
    ]
    for told in numbers["families"].values():
        lines += [
            "",
            f"**{told['title']}.** L-BFGS and {told['other']} "
            + ("agree" if told["agree"] else "**do not agree**")
            + f": they differ by at most {told['apart'][told['other']]:.1e} standard errors, and "
            f"in NLL by {abs(told['nll']['L-BFGS'] - told['nll'][told['other']]):.1e} nats a row. "
            f"Adam ends {told['apart']['Adam']:.1e} standard errors from L-BFGS"
            + ("." if told["apart"]["Adam"] < AGREE_ADAM else ": **it is not there**."),
            "",
            f"| parameter | truth | start | Adam (`mdn.fit`) | L-BFGS | {told['other']} | "
            "standard error |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        ways = ("Adam", "L-BFGS", told["other"])
        for j, name in enumerate(told["names"]):
            cells = [f"{told['truth'][j]:.4g}", f"{told['start'][j]:.4g}"]
            cells += [f"{told['parameters'][way][j]:.6f}" for way in ways]
            cells.append(f"{told['standard_errors'][j]:.3g}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        cells = [f"{told['nll'][way]:.9f}" for way in ways]
        lines.append(
            f"| NLL (nats a row) | {told['nll']['truth']:.4f} | {told['nll']['start']:.4f} | "
            + " | ".join(cells)
            + " | |"
        )
    lines += [
        "",
        f"Steps (all rows each) until the NLL is first within {CLOSE:.0e} nats of its minimum:",
        "",
        "| | " + " | ".join(told["title"] for told in numbers["families"].values()) + " |",
        "|---" * (len(numbers["families"]) + 1) + "|",
    ]
    for way in ("Adam", "L-BFGS", "EM"):
        if any(way in told["arrived"] for told in numbers["families"].values()):
            cells = [str(told["arrived"].get(way, "")) for told in numbers["families"].values()]
            lines.append(f"| {way} | " + " | ".join(cells) + " |")
    collapse = numbers["collapse"]
    higher = collapse["nll"] < collapse["fitted"]
    lines += [
        "",
        f"The mixture found has an NLL of {collapse['fitted']:.4f}. One of two Gaussians (EM), "
        f"and a third that sits on one of the {numbers['rows']} draws with a scale of "
        f"{collapse['scale']:.0e} and a weight of {collapse['weight']:.1e} has "
        f"{collapse['nll']:.4f}: "
        + (
            "a higher likelihood from a useless density. What was found is a local maximum."
            if higher
            else "not yet a higher likelihood."
        )
        + f" Each factor of ten in that scale takes another "
        f"{math.log(10) / numbers['rows']:.4f} from the mean, without end.",
    ]
    return "\n".join(lines)


# -- the families -----------------------------------------------------------------------------


# -- the fits ---------------------------------------------------------------------------------


class Fit(NamedTuple):
    """What the pictures of a family need.

    Attributes:
        family: which.
        y: the draws, (N,).
        other: the parameters that scipy.stats.fit or EM found, (P,).
        paths: unconstrained, (S + 1, P), by way.
    """

    family: Family
    y: Floats
    other: Floats
    paths: dict[str, Tensor]

    @property
    def best(self) -> Tensor:
        """The unconstrained numbers of greatest likelihood, (P,)."""
        return self.paths["L-BFGS"][-1]

    def nll(self, raw: Tensor) -> Tensor:
        """The mean NLL of the draws, nats; raw (..., P) to (...)."""
        dist = self.family.density(raw)
        y = torch.from_numpy(self.y).reshape(-1, *[1] * (raw.ndim - 1), 1)
        return -dist.log_prob(y.expand(len(y), *raw.shape[:-1], 1)).mean(0)


def _fitted(family: Family, y: Floats, steps: int, seed: int) -> tuple[dict[str, Any], Fit]:
    """The numbers of a family, and what its pictures need."""
    start = family.start(y)
    other, by_other = family.other
    adam, adam_nll = _by_adam(family, y, start, steps, seed)
    fit = Fit(family, y, by_other(y, seed), {"Adam": adam})
    fit.paths["L-BFGS"] = _by_lbfgs(fit.nll, start)
    found = {way: family.natural(path[-1]).numpy() for way, path in fit.paths.items()}
    found[other] = fit.other
    if other == "EM":
        fit.paths["EM"] = family.unconstrained(torch.from_numpy(_em_path(y, family.natural(start))))

    def nll_of(parameters: Any) -> float:
        return float(fit.nll(family.unconstrained(double(*parameters))))

    nll = {way: nll_of(parameters) for way, parameters in found.items()}
    least = min(nll["L-BFGS"], nll[other])
    above = {"Adam": np.array([*adam_nll, nll["Adam"]]) - least}
    for way, path in fit.paths.items():
        if way not in above:
            above[way] = np.array([float(fit.nll(raw)) for raw in path]) - least
    errors = _standard_errors(fit)
    apart = {way: float((abs(found["L-BFGS"] - p) / errors).max()) for way, p in found.items()}
    told = {
        "title": family.title,
        "names": list(family.names),
        "other": other,
        "truth": list(family.truth),
        "start": family.natural(start).tolist(),
        "parameters": {way: p.tolist() for way, p in found.items()},
        "standard_errors": errors.tolist(),
        "nll": {"truth": nll_of(family.truth), "start": float(fit.nll(start)), **nll},
        "apart": apart,  # from L-BFGS, in standard errors
        "agree": apart[other] < AGREE and abs(nll["L-BFGS"] - nll[other]) < AGREE_NLL,
        "arrived": {
            w: int(np.argmax(v < CLOSE)) if v[-1] < CLOSE else "not" for w, v in above.items()
        },
        "above": {way: _thinned(v) for way, v in above.items()},
    }
    return told, fit


def _by_adam(
    family: Family, y: Floats, start: Tensor, steps: int, seed: int
) -> tuple[Tensor, list[float]]:
    """The path of mdn.fit, (S + 1, P): the start and every step; the NLL before each step."""
    t, module = torch.from_numpy(y)[:, None], Density(family, start)
    history = mdn.fit(
        module,
        (t, t),  # x tells no more than how many rows there are
        max_epochs=steps,
        batch_size=len(t),
        lr=RATE,
        weight_decay=0.0,
        seed=seed,
        progress=False,
    )
    return torch.stack([*module.path, module.raw.detach()]), history.train_nll


def _by_lbfgs(nll: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The path of SciPy's L-BFGS on torch's gradient."""

    def value_and_slope(at: Floats) -> tuple[float, Floats]:
        raw = torch.from_numpy(at).requires_grad_()
        value = nll(raw)
        return value.item(), torch.autograd.grad(value, raw)[0].numpy()

    path = [start.clone()]
    optimize.minimize(
        value_and_slope,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=lambda at: path.append(torch.from_numpy(at.copy())),
        options={"ftol": 0.0, "gtol": STILL, "maxiter": 1000, "maxcor": 20},
    )
    return torch.stack(path)


def _em_path(y: Floats, start: Tensor) -> Floats:
    """The start and the parameters after each step of EM, (S + 1, P)."""
    from sklearn.exceptions import ConvergenceWarning

    model = em(y).set_params(max_iter=1, warm_start=True)
    path = [start.numpy()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one step at a time is meant
        for _ in range(2000):
            path.append(em_parameters(model.fit(y[:, None])))
            if abs(path[-1] - path[-2]).max() < STILL:
                break
    return np.stack(path)


def _standard_errors(fit: Fit) -> Floats:
    """Of the parameters, by the inverse of the observed information, (P,)."""

    def slope(raw: Tensor) -> Tensor:
        raw = raw.detach().requires_grad_()
        return torch.autograd.grad(fit.nll(raw), raw)[0]

    steps = STEP * torch.eye(len(fit.best)).double()
    hessian = torch.stack([slope(fit.best + e) - slope(fit.best - e) for e in steps]) / (2 * STEP)
    # logits that grow together change nothing: there the information is 0, to rounding
    covariance = torch.linalg.pinv(len(fit.y) * hessian, rtol=1e-7)
    jacobian = torch.func.jacrev(fit.family.natural)(fit.best)
    return (jacobian @ covariance @ jacobian.T).diagonal().sqrt().numpy()


def _collapse(fit: Fit) -> dict[str, float]:
    """A mixture of two, and a third component on one draw, as narrow as float64 allows."""
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
    """Steps and values, at most some hundred, even in the logarithm of the step."""
    at = np.unique(np.geomspace(1, len(values), most).round().astype(int)) - 1
    return {"step": at.tolist(), "nats": values[at].tolist()}


# -- pictures ---------------------------------------------------------------------------------


def _panels(fits: dict[str, Fit], height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, fit in zip(axes.flat, fits.values(), strict=True):
        ax.set_title(fit.family.title, fontsize=10)
    return figure, axes


def _legend(figure: Figure, ax: Axes) -> None:
    """The last panel has every kind of line."""
    lines = ax.get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=5, frameon=False)


@torch.no_grad()
def _draw_surfaces(fits: dict[str, Fit], n_grid: int) -> Figure:
    """The NLL over two parameters, the others at their best, with the ways of the optimizers."""
    figure, axes = _panels(fits, 7.8)
    levels = 2.0 ** np.arange(-9, 7)
    for ax, fit in zip(axes.flat, fits.values(), strict=True):
        (i, *x_range), (j, *y_range) = fit.family.shown
        xs, ys = (torch.from_numpy(np.linspace(*ends, n_grid)) for ends in (x_range, y_range))
        rows = []
        for value in ys:  # a line of the grid at a time, for the memory's sake
            raw = fit.best.repeat(n_grid, 1)
            raw[:, i], raw[:, j] = xs, value
            rows.append(fit.nll(raw) - fit.nll(fit.best))
        above = torch.stack(rows).clamp(min=1e-12).numpy()
        ax.contourf(
            xs, ys, above, levels, norm="log", cmap="Greys", extend="both", alpha=0.55, zorder=0
        )
        ax.contour(xs, ys, above, levels, colors="0.35", linewidths=0.5, zorder=1)
        for way, (colour, line, mark) in STYLES.items():
            if way in fit.paths:
                path = fit.paths[way][:, [i, j]].T
                ax.plot(*path, line, marker=mark, ms=3.5, color=colour, lw=1.6, label=way)
        ax.plot(*fit.best[[i, j]], "*", color="k", mfc="w", ms=14, label="greatest likelihood")
        ax.plot(*fit.paths["Adam"][0, [i, j]], "s", color="k", ms=6, label="start")
        names = [fit.family.names[k] for k in (i, j)]
        log = ["" if n.startswith(("mean", "location")) else "log of the " for n in names]
        ax.set(xlabel=log[0] + names[0], ylabel=log[1] + names[1], xlim=x_range, ylim=y_range)
    _legend(figure, ax)
    figure.supxlabel(
        "Contours: mean NLL above its minimum, each twice the one inside it, from "
        f"{levels[0]:.4f} nats a row.\nParameters that are not shown are at their best for the "
        "surface and move along the paths.",
        fontsize=8,
    )
    return figure


@torch.no_grad()
def _draw_densities(fits: dict[str, Fit]) -> Figure:
    """The draws, the truth and the densities of greatest likelihood."""
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


def _draw_steps(told: dict[str, Any]) -> Figure:
    """How far above its minimum the NLL is, step by step."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, one in zip(axes.flat, told.values(), strict=True):
        for way, path in one["above"].items():
            colour, line, mark = STYLES[way]
            above = np.maximum(path["nats"], 1e-16)  # rounding leaves 0 or less
            step = np.add(path["step"], 1)
            ax.loglog(step, above, line, marker=mark, ms=3, color=colour, label=way)
        ax.axhline(CLOSE, color="0.6", lw=0.8, ls=":")
        ax.set(ylabel="nats above the minimum", ylim=(1e-16, None), xlabel="step, from 1")
        ax.set_title(one["title"], fontsize=10)
    _legend(figure, ax)
    return figure

r"""The inverse of a curve can have several values; least squares predicts a value between them.

Bishop's toy problem (1994, section 4).  In the forward problem x is uniform on (0, 1) and

$$t = x + 0.3 \sin(2 \pi x) + \epsilon, \qquad \epsilon \sim \mathrm{uniform}(-0.1, 0.1),$$

which any network learns by least squares.  In the inverse problem x is predicted from t, and the
curve takes the same value t at up to three x.  Least squares fits the conditional mean, which for
many t is not on the curve, where there are no data; a mixture density network fits the density
p(x|t).

The true density is known.  The noise is uniform, so p(x|t) is constant, 1 / L(t), on the set of the
x at which the curve is within 0.1 of t.  This set consists of one or two intervals of total length
L(t) (at t = 0.5 the three branches are so close that the noise joins them), and the density of t is
L(t) / 0.2.  So the expected NLL of the true density is the entropy of uniform densities,

$$E[-\log p(x|t)] = \int \frac{L(t)}{0.2} \log L(t)\, dt ,$$

an integral over t that involves no model.  The regret of a model is its expected NLL, a quadrature
over x and the noise, minus this number: the mean Kullback-Leibler divergence of the model from the
truth, in nats, which is never negative.  A Gaussian has no edges: the best single Gaussian for a
uniform density has a divergence of $\frac{1}{2} \log(\pi e / 6)$ = 0.176 nats.

C. M. Bishop, *Mixture Density Networks*, Neural Computing Research Group Report NCRG/94/004,
Aston University (1994); C. M. Bishop, *Pattern Recognition and Machine Learning*, section 5.6
(2006).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mdn

from ._density import (
    REGRESSOR,
    Floats,
    LeastSquares,
    chunks,
    distribution_of,
    figure,
    fit_models,
    most_probable,
    save,
    seeded,
    table,
    train_network,
)
from ._palette import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION

__all__ = ["branches", "curve", "report", "run", "truth_nll"]

MINUTES = 1.0
DATA = "none"

NOISE = 0.1  # half width of the uniform noise, unit of t
ROWS, FAST_ROWS = 1000, 300
CUT = 0.4  # a t with two separate intervals of possible x
COMPONENTS = 3  # of the plain network: one per branch, as in Bishop's figures
ONE_GAUSSIAN = 0.5 * math.log(math.pi * math.e / 6)  # nats; KL of a Gaussian from a uniform density
_LOW, _HIGH = -NOISE, 1 + NOISE  # range of t
_BISECTIONS = 60  # halvings of (0, 1): below the rounding of float64
_T_GRID = 20_000  # cells of the integral over t
_MODE = 0.02  # share of the highest density below which a mode is not drawn
_LS, _MDN = "least squares", "MDN"


def curve(x: Floats) -> Floats:
    """Returns the t of x on the curve without noise."""
    return x + 0.3 * np.sin(2 * np.pi * x)


def branches(t: Floats) -> Floats:
    """Returns the ends of the interval of possible x on each monotone part of the curve.

    Args:
        t: (T,).

    Returns:
        Lower and upper ends, (T, 3, 2); NaN if a part has no x for this t.
    """
    extremum = math.acos(-1 / (0.6 * math.pi)) / (2 * math.pi)  # the other one is 1 - extremum
    ends = np.array([0.0, extremum, 1 - extremum, 1.0])
    intervals = np.full((len(t), 3, 2), np.nan)
    for part, (left, right) in enumerate(itertools.pairwise(ends)):
        sign = -1.0 if part == 1 else 1.0  # the curve falls on the middle part
        low, high = sign * curve(left), sign * curve(right)
        # t - noise <= curve <= t + noise
        edges = np.stack([sign * t - NOISE, sign * t + NOISE], axis=-1)  # (T, 2)
        possible = (edges[:, 1] >= low) & (edges[:, 0] <= high)
        x = _inverse(edges.clip(low, high), left, right, sign)
        intervals[possible, part] = x[possible]
    return intervals


def _inverse(t: Floats, left: float, right: float, sign: float) -> Floats:
    """Returns the x in [left, right] with sign * curve(x) = t, by bisection; sign * curve rises."""
    low, high = np.full_like(t, left), np.full_like(t, right)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        below = sign * curve(middle) < t
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def truth_nll(cells: int = _T_GRID) -> float:
    """Returns the expected NLL of the true p(x|t), nats: the mean log length of the possible x."""
    t, width = _middles(_LOW, _HIGH, cells)
    length = _length(t)
    return float(np.sum(length / (2 * NOISE) * np.log(length)) * width)


def _length(t: Floats) -> Floats:
    """Returns the total length of the possible x, (T,)."""
    ends = branches(t)
    return np.nansum(ends[..., 1] - ends[..., 0], axis=1)


def _middles(low: float, high: float, cells: int) -> tuple[Floats, float]:
    """Returns the midpoints of equal cells, and their width."""
    width = (high - low) / cells
    return low + width * (np.arange(cells) + 0.5), width


def _joint(fast: bool) -> tuple[Floats, Floats]:
    """Returns a grid over x and the noise with equal weights, as columns x and t."""
    x, noise = np.meshgrid(
        _middles(0.0, 1.0, 100 if fast else 400)[0],
        _middles(-NOISE, NOISE, 20 if fast else 100)[0],
        indexing="ij",
    )
    return x.reshape(-1, 1), (curve(x) + noise).reshape(-1, 1)


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Fits three models, computes their regret by quadrature and draws Bishop's figures."""
    rng = np.random.default_rng(seed)
    n = FAST_ROWS if fast else ROWS
    x = rng.uniform(size=(n, 1))
    t = curve(x) + rng.uniform(-NOISE, NOISE, size=(n, 1))
    features, targets = torch.from_numpy(t), torch.from_numpy(x)
    networks = {
        _LS: lambda: LeastSquares(features, targets),
        _MDN: lambda: mdn.MDN(1, 1, COMPONENTS).standardize_(features, targets),
    }
    models, epochs = fit_models(
        networks, t, x, seed=seed, fast=fast, max_epochs=60 if fast else 1000, progress=progress
    )
    forward = seeded(seed, lambda: LeastSquares(*map(torch.from_numpy, (x, t))))
    train_network(forward, x, t, seed=seed, max_epochs=60 if fast else 500)

    progress("quadrature")
    truth, cells = truth_nll(), 200 if fast else 1200  # cells over t
    grid_x, grid_t = _joint(fast)
    scores = {name: _scores(model, grid_x, grid_t, truth, cells) for name, model in models.items()}
    numbers = {
        "rows": n,
        "noise_half_width": NOISE,
        "components": COMPONENTS,
        "epochs": epochs,
        "quadrature_points": len(grid_x),
        "truth_nll": truth,
        "marginal_nll": 0.0,  # x is uniform on (0, 1)
        "one_gaussian_a_piece": ONE_GAUSSIAN,
        "models": scores,
        "cut": _cut(models),
    }
    if out is not None:
        progress("figures")
        _draw_data(out, x, t, forward, models[_LS])
        _draw_densities(out, x, t, models)
        _draw_parts(out, x, t, models[_MDN])
    return numbers


def _scores(model: Any, x: Floats, t: Floats, truth: float, cells: int) -> dict[str, float]:
    """Returns expected NLL and regret, and how often mean and most probable value are possible."""

    def row_nll(dist: Any, rows: slice) -> Floats:
        return -dist.log_prob(torch.from_numpy(x[rows]).to(dist.mean.dtype)).numpy()

    nll = float(chunks(model, t, row_nll).mean())
    # the other scores depend on t only
    ts, _ = _middles(_LOW, _HIGH, cells)
    weight = _length(ts) / _length(ts).sum()  # (T,) the density of t
    dist = distribution_of(model, ts[:, None])
    ends = np.nan_to_num(branches(ts)).reshape(-1, 6)  # an empty interval has length 0
    cdf = dist.cdf(torch.from_numpy(ends.T[..., None]).to(dist.mean.dtype)).numpy()  # (6, T)
    scores = {
        "nll": nll,
        "regret": nll - truth,
        "mass_on_possible_x": float(weight @ (cdf[1::2] - cdf[0::2]).sum(0)),
    }
    for name, prediction in (("mean", dist.mean.numpy()), ("mode", most_probable(dist))):
        x_hat = prediction[:, 0]
        error = np.abs(curve(x_hat) - ts)
        possible = (x_hat >= 0) & (x_hat <= 1) & (error <= NOISE)
        scores[f"{name}_possible"] = float(weight @ possible)
        scores[f"{name}_rms_in_t"] = math.sqrt(float(weight @ error**2))
    return scores


def _cut(models: dict[str, Any]) -> dict[str, Any]:
    """Returns the mass below and above the gap of p(x|t) at a t with two possible intervals."""
    parts = branches(np.array([CUT]))[0]  # (3, 2)
    parts = parts[np.isfinite(parts[:, 0])]
    upper = np.array([parts[1:].min(), parts[1:].max()])  # these two touch at the extremum
    pieces = np.stack([parts[0], upper])
    gap = 0.5 * (pieces[0, 1] + pieces[1, 0])
    length = pieces[:, 1] - pieces[:, 0]
    mass = {"truth": (length / length.sum()).tolist()}
    for name, model in models.items():
        dist = distribution_of(model, np.array([[CUT]]))
        below = float(dist.cdf(torch.full_like(dist.mean, gap)))
        mass[name] = [below, 1 - below]
    return {"t": CUT, "pieces": pieces.tolist(), "mass": mass}


def report(numbers: dict[str, Any]) -> str:
    """Returns the numbers in Markdown."""
    models, truth = numbers["models"], numbers["truth_nll"]
    head = [
        "model of p(x given t)",
        "expected NLL [nats]",
        "regret [nats]",
        "mass on the possible x",
        "mean is possible",
        "most probable x is possible",
    ]
    rows = [["truth, by quadrature", f"{truth:.3f}", "0", "100 %", "", ""]]
    for name, s in models.items():
        label = f"{name}, {numbers['components']} components" if name == _MDN else name
        rows.append(
            [
                label,
                f"{s['nll']:.3f}",
                f"{s['regret']:.3f}",
                f"{s['mass_on_possible_x']:.0%}",
                f"{s['mean_possible']:.0%}",
                f"{s['mode_possible']:.0%}",
            ]
        )
    marginal = numbers["marginal_nll"]
    rows.append(["density of x without t", f"{marginal:.3f}", f"{marginal - truth:.3f}", *[""] * 3])
    ls, plain, best = (models[name] for name in (_LS, _MDN, REGRESSOR))
    better = ls["regret"] > plain["regret"] and ls["regret"] > best["regret"]
    gap = plain["mode_possible"] - ls["mean_possible"]
    verdict = (
        "Reproduced: the mixture has a lower regret than least squares, and its most probable x is "
        "possible for t more often than the least-squares prediction."
        if better and gap > 0
        else "Not reproduced: in this run the mixture is not better than least squares in both the "
        "regret and the share of possible predictions."
    )
    cut = numbers["cut"]
    masses = [[name, *(f"{m:.2f}" for m in mass)] for name, mass in cut["mass"].items()]
    pieces = [f"{low:.2f} to {high:.2f}" for low, high in cut["pieces"]]
    return "\n\n".join(
        [
            f"{numbers['rows']} rows; expectations over {numbers['quadrature_points']} points of "
            "x and the noise. A value x is possible for t if the curve at x is within "
            f"{numbers['noise_half_width']} of t.",
            table(head, rows),
            f"{verdict} The most probable x of the mixture is possible for "
            f"{plain['mode_possible']:.0%} of the t, the least-squares prediction for "
            f"{ls['mean_possible']:.0%}; the curve at these x differs from t by "
            f"{plain['mode_rms_in_t']:.3f} and {ls['mean_rms_in_t']:.3f} (root mean square). "
            "The mean of a mixture is no better a prediction than that of least squares; the "
            "advantage of the mixture is in predictions other than the mean.",
            f"The true density has edges and a Gaussian has none: a Gaussian for each uniform part "
            f"has a regret of {numbers['one_gaussian_a_piece']:.3f} nats even if fitted exactly. "
            f"The plain network, with one component per branch, has a regret of "
            f"{plain['regret']:.3f}, the pool of many networks {best['regret']:.3f}. The mutual "
            f"information of x and t is {marginal - truth:.3f} nats.",
            f"At t = {cut['t']} the possible x form two intervals, {pieces[0]} and {pieces[1]}. "
            f"The mass below and above the gap between them:",
            table(["model", "lower", "upper"], masses),
        ]
    )


def _draw_data(out: Path, x: Floats, t: Floats, forward: Any, backward: Any) -> None:
    """Draws the forward and the inverse problem, each with its least-squares fit."""
    drawn, axes = figure(1, 2, 4.2)
    grid = np.linspace(0, 1, 400)
    ts = np.linspace(_LOW, _HIGH, 401)[1:-1]
    halves = ((axes[0, 0], x, t, grid, forward), (axes[0, 1], t, x, ts, backward))
    for ax, a, b, at, model in halves:
        ax.plot(a, b, ".", color=GREY, ms=4, label="data")
        mean = distribution_of(model, at[:, None]).mean[:, 0]
        ax.plot(at, mean, color=VERMILLION, lw=2.2, label="least squares")
    axes[0, 0].plot(grid, curve(grid), "--", color=BLACK, lw=1.3, label="true mean")
    ends = branches(ts)
    true = np.nansum(ends[..., 1] ** 2 - ends[..., 0] ** 2, axis=1) / (2 * _length(ts))
    axes[0, 1].plot(ts, true, "--", color=BLACK, lw=1.3, label="true mean")
    axes[0, 0].set(title="forwards: t given x", xlabel="x", ylabel="t")
    axes[0, 1].set(title="backwards: x given t", xlabel="t", ylabel="x")
    for ax in axes[0]:
        ax.legend(loc="upper left", fontsize="small")
    save(drawn, out, "1_data")


def _draw_densities(out: Path, x: Floats, t: Floats, models: dict[str, Any]) -> None:
    """Draws p(x|t) as images: truth, least squares, mixture, pool."""
    drawn, axes = figure(2, 2, 7.4, sharex=True, sharey=True)
    ts, ys = np.linspace(_LOW + 1e-3, _HIGH - 1e-3, 240), np.linspace(-0.15, 1.15, 261)
    truth = (np.abs(curve(ys)[:, None] - ts) <= NOISE) & ((ys >= 0) & (ys <= 1))[:, None]
    images = {"truth": truth / _length(ts)}
    for name, model in models.items():
        half = (ys[1] - ys[0]) / 2
        dist = distribution_of(model, ts[:, None])
        edges = torch.from_numpy(np.append(ys - half, ys[-1] + half)).to(dist.mean.dtype)
        images[name] = np.diff(dist.cdf(edges[:, None, None]).numpy(), axis=0) / (2 * half)
    top = float(np.quantile(images["truth"][truth], 0.95))  # near the ends p grows without limit
    for ax, (name, image) in zip(axes.flat, images.items(), strict=True):
        mesh = ax.pcolormesh(
            ts, ys, image, cmap="Blues", vmin=0, vmax=top, shading="nearest", rasterized=True
        )
        ax.set_title(name)
    axes[0, 1].plot(t, x, ".", color=BLACK, ms=2, alpha=0.5, label="data")
    axes[0, 1].legend(loc="upper left", fontsize="small")
    for ax in axes[1]:
        ax.set_xlabel("t")
    for ax in axes[:, 0]:
        ax.set_ylabel("x")
    drawn.colorbar(mesh, ax=axes, label="density p(x|t) [1 / unit of x]", extend="max", shrink=0.7)
    save(drawn, out, "2_density")


def _draw_parts(out: Path, x: Floats, t: Floats, model: Any) -> None:
    """Draws weights, locations and modes of the plain network, and its density at one t."""
    drawn, axes = figure(2, 2, 7.4)
    (weights, centres), (modes, cut) = axes
    ts = np.linspace(_LOW + 1e-3, _HIGH - 1e-3, 500)
    dist = distribution_of(model, ts[:, None])
    pi, loc, scale = (a.numpy() for a in (dist.weights, dist.loc[..., 0], dist.scale[..., 0]))
    looks = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."))
    for k, (colour, dashes) in enumerate(looks):
        weights.plot(ts, pi[:, k], dashes, color=colour, lw=2, label=f"component {k + 1}")
        here = np.where(pi[:, k] > 0.02, loc[:, k], np.nan)  # only components with weight
        centres.plot(ts, here, dashes, color=colour, lw=2, label=f"component {k + 1}")
        centres.fill_between(
            ts, here - scale[:, k], here + scale[:, k], color=colour, alpha=0.2, lw=0
        )
    weights.set(title="weights", xlabel="t", ylabel="weight", ylim=(-0.02, 1.15))
    centres.set(title="centres, one scale to each side", xlabel="t", ylabel="x", ylim=(-0.15, 1.25))
    for ax in (weights, centres):
        ax.legend(loc="upper center", ncols=3, fontsize="x-small")

    modes.plot(t, x, ".", color=GREY, ms=3, alpha=0.6, label="data")
    at, height = (a.numpy() for a in dist.modes())  # (T, K, 1), (T, K), by falling density
    at = np.where(height >= height[:, :1] + math.log(_MODE), at[..., 0], np.nan)
    modes.plot(ts, at[:, 1:], ".", color=BLUE, ms=2.5)
    modes.plot([], [], ".", color=BLUE, label="other modes")
    first = at[:, 0].copy()
    first[1:][np.abs(np.diff(first)) > 0.1] = np.nan  # it jumps between branches
    modes.plot(ts, first, color=VERMILLION, lw=2.4, label="most probable x")
    modes.set(title="branches", xlabel="t", ylabel="x")
    modes.legend(loc="upper left", fontsize="x-small")

    ys = np.linspace(-0.05, 1.05, 800)
    one = distribution_of(model, np.array([[CUT]]))
    cut.plot(
        ys,
        one.log_prob(torch.from_numpy(ys[:, None, None]).to(one.loc))[:, 0].exp(),
        color=BLUE,
        lw=2,
        label="MDN",
    )
    possible = (np.abs(curve(ys) - CUT) <= NOISE) & (ys >= 0) & (ys <= 1)
    cut.plot(ys, possible / _length(np.array([CUT])), "--", color=BLACK, lw=1.3, label="truth")
    top = cut.get_ylim()[1]
    cut.vlines(float(one.mean), 0, top, color=VERMILLION, ls=":", lw=2, label="mean")
    cut.set(title=f"p(x | t = {CUT})", xlabel="x", ylabel="density [1 / unit of x]")
    cut.legend(loc="upper center", ncols=3, fontsize="x-small")
    cut.set_ylim(0, 1.2 * top)  # the legend is above the curves
    save(drawn, out, "3_parts")

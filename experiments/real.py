"""MDNRegressor on six real data sets, compared with least squares and with the density of y alone.

The data are of a geyser, a helmet, a motorway, a city's weather, galaxies and taxis.  On held-out
rows `MDNRegressor` is compared with a network fitted by least squares (a Gaussian of constant
scale, the same training loop) and with the density of the target alone (a Gaussian mixture that
ignores x; the number of components is chosen by BIC).

- **NLL**: mean negative log-likelihood, nats in the unit of y.  It may be negative, because a
  density may exceed 1.
- **CRPS**: continuous ranked probability score, in the unit of y; for a point forecast it is the
  absolute error.
- **CDE loss**: the integrated squared error of the density up to a constant of the data (Izbicki
  and Lee 2016), in 1 / unit of y.
- **coverage**: the share of the rows within the central 90 % interval.
- **PIT p**: p-value of Kolmogorov's test that the probability integral transform of the held-out
  rows is uniform.  Rows of a time series depend on each other, so it can look too small.

Lower is better for the first three.  Old Faithful and the motorcycle data are scored by
cross-validation with five folds, the other sets on a single set of held-out rows (for the galaxies
the test rows of the source).  The rows of the motorway and the weather data are a time series and
are split at random, so the scores are valid for new rows in the observed period, not for another
year.  The scale floor is raised where values are rounded (0.1 standard deviations for Old
Faithful, 0.05 for the motorcycle, the motorway and the weather), because a density could gain
likelihood with spikes at tied values.

Each figure shows p(y|x) as an image with held-out rows (the colour is proportional to the square
root of the density, so that small branches are visible), p(y|x) at a few x, and for all held-out
rows the histogram of the PIT and the coverage of central intervals.

Sources: A. Azzalini and A. W. Bowman (1990); B. W. Silverman (1985); J. Einbeck and G. Tutz (2006);
R. J. Hyndman, D. M. Bashtannyk and G. K. Grunwald (1996); LSST Dark Energy Science Collaboration,
DC2; NYC Taxi and Limousine Commission.  R. Izbicki and A. B. Lee, *Nonparametric conditional
density estimation in a high-dimensional regression setting*, J. Comput. Graph. Stat. 25 (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from sklearn.mixture import GaussianMixture as FixedMixture

import mdn
from mdn import calibration, scoring

from . import _real_sets
from ._classic import Classic
from ._density import (
    REGRESSOR,
    Floats,
    LeastSquares,
    distribution_of,
    figure,
    save,
    seeded,
    table,
    train_network,
)
from ._palette import BLACK, BLUE, GREY, ORANGE, VERMILLION
from ._real_sets import Plan

__all__ = ["report", "run"]

MINUTES = 3.0
DATA = (
    "Old Faithful is part of the package; the others are read from the folder that MDN_DATA names "
    "and left out if they are not there"
)

COVERAGE = 0.9
MOST_TRAIN, MOST_TEST = 6000, 3000  # rows of a large set that are used
_TEST_SHARE = 0.25
_CHUNK = 500  # rows at a time: the closed forms use all pairs of components
_MOST_COMPONENTS = 6  # of the density of y alone
_MODE = 0.02  # a mode counts from this share of the highest density
_AMBIGUOUS = 0.2  # least probability of the smaller part of an ambiguous galaxy's region
_UNEVEN = 0.01  # p-value below which the report says that the PIT is not uniform
# the text before the modes and the region at the last cut of a set
_SENTENCES = {
    "old-faithful": "A long wait is followed by a short or by a long eruption, rarely by one of "
    "medium duration: after 80 minutes",
    "diabetes": "At a body mass index of 35",
    "motorcycle": "The width of p(y|x) changes with x, which a constant width cannot represent: "
    "almost nothing before the impact, tens of g after it. At 33 ms",
    "speed-flow": "The same flow occurs in fast free traffic and in a slow queue: at 1600 vehicles "
    "per hour",
    "temperature": "After a hot day the heat continues or a cold front ends it: after 38 °C",
    "taxi": "The spread grows with the distance and with the traffic of the hour: for 8 miles at "
    "17 h",
}
_LS, _MARGINAL = "least squares, one width", "density of y alone"
_LOOKS = {REGRESSOR: (BLUE, "-"), _LS: (VERMILLION, "--"), _MARGINAL: (GREY, ":")}


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Fits and scores every set that is available, and draws a figure of each."""
    plans = _real_sets.plans(fast)
    numbers: dict[str, Any] = {
        "coverage": COVERAGE,
        "missing": [name for name, plan in plans.items() if plan is None],
        "sets": {},
    }
    for number, (name, plan) in enumerate(plans.items(), 1):
        if plan is None:
            continue
        found, parts = _scored(name, plan, seed, fast, progress)
        model, test, values = parts
        if name == "photoz":
            found["ambiguous"], cuts = _ambiguous(model, plan.data, test)
            plan = plan._replace(cuts=cuts, cut_names=tuple(f"galaxy {i}" for i in "ABC"))
        found["cuts"] = _cuts(model, plan)
        numbers["sets"][name] = found
        if out is not None:
            progress(f"{name}: figure")
            _draw(out, f"{number}_{name.replace('-', '_')}", plan, model, test, values)
    return numbers


def _splits(plan: Plan, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Yields training and test rows: folds, the split of the source, or one random split."""
    data, rng = plan.data, np.random.default_rng(seed)
    n = len(data.y)
    order = rng.permutation(n)
    if plan.folds > 1:
        for fold in range(plan.folds):
            yield np.delete(order, np.s_[fold :: plan.folds]), order[fold :: plan.folds]
        return
    if data.n_train is None:
        n_test = round(_TEST_SHARE * n)
        train, test = order[n_test:], order[:n_test]
    else:
        train, test = order[order < data.n_train], order[order >= data.n_train]
    yield train[:MOST_TRAIN], test[:MOST_TEST]


def _scored(
    name: str, plan: Plan, seed: int, fast: bool, progress: Callable[[str], None]
) -> tuple[dict[str, Any], tuple[Any, Floats, dict[str, Floats]]]:
    """Returns the scores of three models, the first fold's model, its test rows, and all PIT."""
    X, y = plan.data.X, plan.data.y
    rows: dict[str, list[Floats]] = {key: [] for key in _LOOKS}
    first: Any = None
    for fold, (train, test) in enumerate(_splits(plan, seed)):
        progress(f"{name}: fold {fold + 1} of {plan.folds}")
        model = mdn.MDNRegressor(random_state=seed, **plan.options).fit(X[train], y[train])
        network = _least_squares(X[train], y[train], seed, fast)
        marginal = _marginal(y[train], seed, plan.options.get("min_scale", 1e-3))
        models = {REGRESSOR: model, _LS: network, _MARGINAL: lambda x, m=marginal: m}
        for key, fitted in models.items():
            rows[key].append(_rows(fitted, X[test], y[test]))
        if first is None:
            first = model, test
            sizes = {"train": len(train), "test": len(test)}
    scores, values = {}, {}
    for key, parts in rows.items():
        nll, crps, loss, pit = np.concatenate(parts).T
        values[key] = pit
        scores[key] = {
            "nll": float(nll.mean()),
            "nll_standard_error": float(nll.std(ddof=1) / np.sqrt(len(nll))),
            "crps": float(crps.mean()),
            "cde_loss": float(loss.mean()),
            "coverage": float(np.mean(np.abs(2 * pit - 1) <= COVERAGE)),
            "pit_p": calibration.pit_test(pit).kolmogorov.p_value,
        }
    gain = [
        np.concatenate(rows[other])[:, 0] - np.concatenate(rows[REGRESSOR])[:, 0]
        for other in (_LS, _MARGINAL)
    ]
    found = {
        "title": plan.title,
        "source": plan.data.source,
        "target": plan.data.target,
        "unit": plan.data.unit,
        "features": len(plan.data.features),
        "folds": plan.folds,
        **sizes,
        "scored_rows": len(values[REGRESSOR]),
        "scores": scores,
        "nats_gained_on_least_squares": float(gain[0].mean()),
        "nats_gained_standard_error": float(gain[0].std(ddof=1) / np.sqrt(len(gain[0]))),
    }
    return found, (*first, values)


def _least_squares(X: Floats, y: Floats, seed: int, fast: bool) -> LeastSquares:
    tensors = torch.from_numpy(X), torch.from_numpy(y[:, None])
    network = seeded(seed, lambda: LeastSquares(*tensors))
    epochs = 40 if fast else 1000
    train_network(network, X, y[:, None], seed=seed, max_epochs=epochs, patience=40)
    return network


def _marginal(y: Floats, seed: int, floor: float) -> mdn.GaussianMixture:
    """Returns p(y) without x: a Gaussian mixture by EM, its number of components chosen by BIC."""
    column = y[:, None]
    fits = [
        FixedMixture(k, reg_covar=(floor * y.std()) ** 2, random_state=seed, n_init=2).fit(column)
        for k in range(1, _MOST_COMPONENTS + 1)
    ]
    best = min(fits, key=lambda fit: fit.bic(column))
    return mdn.GaussianMixture(
        torch.from_numpy(np.log(best.weights_)),
        torch.from_numpy(best.means_),
        torch.from_numpy(np.sqrt(best.covariances_[:, :, 0])),
    )


def _rows(model: Any, X: Floats, y: Floats) -> Floats:
    """Returns NLL, CRPS, CDE loss and PIT of each row, (N, 4)."""
    parts = []
    for start in range(0, len(y), _CHUNK):
        at, target = X[start : start + _CHUNK], y[start : start + _CHUNK, None]
        dist = distribution_of(model, at).expand((len(target),))
        scores = (scoring.nll, scoring.crps, scoring.cde_loss, scoring.pit)
        parts.append(np.column_stack([score(dist, target) for score in scores]))
    return np.concatenate(parts)


def _cuts(model: Any, plan: Plan) -> list[dict[str, Any]]:
    """Returns modes, mean and the intervals of the 90 % region of p(y|x) at each cut."""
    dist = model.predict_distribution(plan.cuts)
    modes, heights = (a.numpy() for a in dist.modes())
    regions = dist.hdr(COVERAGE).intervals.numpy()
    found = []
    for i, name in enumerate(plan.cut_names):
        high = np.nan_to_num(heights[i], nan=-np.inf)
        kept = modes[i, high >= high.max() + np.log(_MODE), 0]
        found.append(
            {
                "name": name,
                "modes": sorted(kept.tolist()),
                "region": regions[i][np.isfinite(regions[i, :, 0])].tolist(),
                "mean": float(dist.mean[i, 0]),
            }
        )
    return found


def _ambiguous(model: Any, data: Classic, test: Floats) -> tuple[dict[str, float], Floats]:
    """Finds galaxies whose 90 % region has two parts with a large probability.

    Returns:
        Their number, and how often the nearer part is right and is expected to be;
        the features of the three galaxies whose parts have the most similar probabilities, (3, F).
    """
    X, y = data.X[test], data.y[test]
    lower, upper, border = (np.full(len(y), np.nan) for _ in range(3))
    for start in range(0, len(y), _CHUNK):
        dist = model.predict_distribution(X[start : start + _CHUNK])
        region = dist.hdr(COVERAGE).intervals
        edges = dist.cdf(region.nan_to_num().flatten(1).T.unsqueeze(-1)).numpy()  # (2 K, n)
        mass = (edges[1::2] - edges[0::2]).T * np.isfinite(region[..., 0].numpy())  # (n, K)
        ends = region.numpy()
        for i in range(len(mass)):
            if np.sort(mass[i])[-2:].min() < _AMBIGUOUS:
                continue
            left, right = np.sort(np.argsort(mass[i])[-2:])
            row = start + i
            border[row] = 0.5 * (ends[i, left, 1] + ends[i, right, 0])
            cut = torch.as_tensor(border[row]).reshape(1, 1)
            lower[row] = float(dist[i : i + 1].cdf(cut)[0])
            upper[row] = 1 - lower[row]
    two = np.isfinite(lower)
    nearer = y[two] < border[two]
    found = {
        "share": float(two.mean()),
        "count": int(two.sum()),
        "nearer_expected": float(lower[two].mean()) if two.any() else float("nan"),
        "nearer_observed": float(nearer.mean()) if two.any() else float("nan"),
        "smallest_part": _AMBIGUOUS,
    }
    most = np.argsort(np.where(two, np.abs(lower - upper), np.inf))[:3]
    return found, X[most]


def report(numbers: dict[str, Any]) -> str:
    """Returns the numbers in Markdown."""
    parts = []
    missing = numbers["missing"]
    if missing:
        parts.append(
            f"Left out, because the files do not exist: {', '.join(missing)}. Set MDN_DATA to the "
            "folder that has them."
        )
    sets = numbers["sets"]
    won = [name for name, s in sets.items() if _best(s) == REGRESSOR]
    parts.append(
        f"The mixture has the lowest NLL of the three on {len(won)} of {len(sets)} sets"
        + ("." if len(won) == len(sets) else f"; not on {', '.join(sorted({*sets} - {*won}))}.")
    )
    for name, found in sets.items():
        parts += [f"### {found['title']}", _about(found), _table(found, numbers["coverage"])]
        parts.append(_reading(name, found))
    return "\n\n".join(parts)


def _best(found: dict[str, Any]) -> str:
    return min(found["scores"], key=lambda name: found["scores"][name]["nll"])


def _about(found: dict[str, Any]) -> str:
    how = (
        f"{found['folds']} folds, {found['scored_rows']} rows in all"
        if found["folds"] > 1
        else f"{found['train']} training and {found['test']} held-out rows"
    )
    features = f"{found['features']} feature" + ("s" if found["features"] > 1 else "")
    return f"{how}, {features}. {found['source']}."


def _table(found: dict[str, Any], coverage: float) -> str:
    unit = found["unit"]
    y_unit, density = ("", "") if unit == "1" else (f" [{unit}]", f" [1/{unit}]")
    head = [
        "model",
        "NLL [nats]",
        f"CRPS{y_unit}",
        f"CDE loss{density}",
        f"{100 * coverage:g} % interval covers",
        "PIT p",
    ]
    rows = [
        [
            name,
            f"{s['nll']:.3f} ± {s['nll_standard_error']:.3f}",
            f"{s['crps']:.3g}",
            f"{s['cde_loss']:.3g}",
            f"{s['coverage']:.1%}",
            f"{s['pit_p']:.2g}",
        ]
        for name, s in found["scores"].items()
    ]
    return table(head, rows)


def _reading(name: str, found: dict[str, Any]) -> str:
    gain, error = found["nats_gained_on_least_squares"], found["nats_gained_standard_error"]
    parts = [
        f"The NLL of the mixture is {gain:.3f} ± {error:.3f} nats per row lower than that of least "
        "squares with one width."
    ]
    p = found["scores"][REGRESSOR]["pit_p"]
    if p < _UNEVEN:
        parts.append(f"Its PIT is not uniform (p = {p:.2g}): the density has measurable errors.")
    if name in _SENTENCES:
        unit = "" if found["unit"] == "1" else f" {found['unit']}"
        cut = found["cuts"][-1]
        inside = [m for m in cut["modes"] if any(low <= m <= high for low, high in cut["region"])]
        modes = [f"{m:.3g}" for m in inside]
        modes_text = (
            f"a mode at {modes[0]}"
            if len(modes) == 1
            else f"modes at {', '.join(modes[:-1])} and {modes[-1]}"
        )
        region = " or ".join(f"{low:.3g} to {high:.3g}" for low, high in cut["region"])
        parts.append(
            f"{_SENTENCES[name]} p(y|x) has {modes_text}{unit}, the mean {cut['mean']:.3g}{unit}, "
            f"and the 90 % highest-density region {region}{unit}."
        )
    if "ambiguous" in found:
        a = found["ambiguous"]
        share = a["nearer_observed"]
        error = (share * (1 - share) / a["count"]) ** 0.5 if a["count"] else float("nan")
        parts.append(
            f"{a['count']} galaxies ({a['share']:.1%}) are ambiguous: their highest-density region "
            f"has two parts with a probability of at least {a['smallest_part']:.0%} each, one for "
            f"a near and one for a far galaxy. The model expects {a['nearer_expected']:.0%} of "
            f"these galaxies in the nearer part; {share:.0%} ± {error:.0%} are."
        )
    return " ".join(parts)


def _draw(
    out: Path, name: str, plan: Plan, model: Any, test: Floats, values: dict[str, Floats]
) -> None:
    """Draws the density with the data, p(y|x) at the cuts, PIT and coverage on held-out rows."""
    data = plan.data
    drawn, axes = figure(2, 2, 7.2, height_ratios=(1.35, 1))
    label = data.target if data.unit == "1" else f"{data.target} [{data.unit}]"
    unit = None if data.unit == "1" else data.unit
    if name.endswith("photoz"):
        _draw_stacked(axes[0, 0], model, data, test)
    else:
        mdn.plot.plot_density(
            model, data.X[test], data.y[test], x_label=data.features[0], y_label=label,
            y_unit=unit, ax=axes[0, 0], norm=PowerNorm(0.5, vmin=0),
        )  # fmt: skip
        axes[0, 0].set_title("p(y|x) and held-out rows", fontsize="medium")
    mdn.plot.plot_conditional(
        model, plan.cuts, labels=plan.cut_names, y_label=label, y_unit=unit, ax=axes[0, 1]
    )
    _draw_pit(axes[1, 0], values)
    _draw_coverage(axes[1, 1], values)
    drawn.suptitle(plan.title)
    save(drawn, out, name)


def _draw_pit(ax: Axes, values: dict[str, Floats]) -> None:
    """Draws histograms of the PIT, with a band for a calibrated model."""
    bins = int(np.clip(len(values[REGRESSOR]) // 15, 8, 20))
    flat = calibration.pit_histogram(values[REGRESSOR], bins=bins)
    scale = flat.expected
    ax.axhspan(
        flat.low / scale,
        flat.high / scale,
        color=ORANGE,
        alpha=0.3,
        lw=0,
        label=f"{100 * flat.band:g} % band if calibrated",
    )
    for key in (REGRESSOR, _LS):
        counts, edges = np.histogram(values[key], bins=bins, range=(0, 1))
        colour, dashes = _LOOKS[key]
        ax.stairs(counts / scale, edges, color=colour, ls=dashes, lw=1.8, label=key, baseline=None)
    ax.set(xlabel="PIT of held-out rows", ylabel="share / expected share", xlim=(0, 1))
    ax.set_ylim(0, 1.45 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize="x-small", loc="upper center")


def _draw_coverage(ax: Axes, values: dict[str, Floats]) -> None:
    """Draws the share of the rows in central intervals minus their nominal coverage."""
    nominal = np.linspace(0, 1, 101)
    n = len(values[REGRESSOR])
    band = 1.645 * np.sqrt(nominal * (1 - nominal) / n)  # 90 % of a normal
    ax.fill_between(
        nominal, -band, band, color=ORANGE, alpha=0.3, lw=0, label="90 % band if calibrated"
    )
    for key, pit in values.items():
        inside = np.mean(np.abs(2 * pit[:, None] - 1) <= nominal, axis=0)
        colour, dashes = _LOOKS[key]
        ax.plot(nominal, inside - nominal, dashes, color=colour, lw=1.8, label=key)
    ax.axhline(0, color=BLACK, lw=0.8)
    ax.set(xlabel="nominal coverage", ylabel="held-out share minus nominal", xlim=(0, 1))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.55 * (high - low))
    ax.legend(fontsize="x-small", loc="upper center", ncols=2, columnspacing=0.8, handlelength=1.6)


def _draw_stacked(ax: Axes, model: Any, data: Classic, test: Floats) -> None:
    """Draws the mean p(z) of the galaxies in each bin of their true redshift."""
    y = data.y[test]
    edges = np.linspace(0, 3, 41)
    grid = np.linspace(0, 3, 121)
    mass = np.concatenate(
        [
            np.diff(
                model.predict_distribution(data.X[test[i : i + _CHUNK]])
                .cdf(torch.from_numpy(grid)[:, None, None]).numpy(),
                axis=0,
            ).T
            for i in range(0, len(y), _CHUNK)
        ]
    )  # fmt: skip
    bins = np.digitize(y, edges) - 1
    image = np.full((len(grid) - 1, len(edges) - 1), np.nan)
    for b in range(len(edges) - 1):
        if np.any(bins == b):
            image[:, b] = mass[bins == b].mean(0) / (grid[1] - grid[0])
    mesh = ax.pcolormesh(
        edges, grid, image, cmap="Blues", vmin=0, vmax=float(np.nanquantile(image, 0.99)),
        rasterized=True,
    )  # fmt: skip
    ax.plot([0, 3], [0, 3], "--", color=VERMILLION, lw=1.2, label="right")
    ax.legend(loc="upper left", fontsize="small")
    ax.get_figure().colorbar(mesh, ax=ax, label="mean density p(z)", extend="max")
    ax.set(xlabel="true redshift", ylabel="redshift z")
    ax.set_title("mean p(z) of held-out galaxies", fontsize="medium")

"""The demo: p(duration | waiting) of Old Faithful, and why its loss may be negative.

Used by ``mdn demo``; see :func:`run` for the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import calibration, plot, scoring
from .datasets import load_old_faithful
from .estimator import MDNRegressor
from .explain._evaluation import evaluate
from .explain._sign import sign

__all__ = ["describe", "draw", "run"]

_FOLDS = 5
_COVERAGE = 0.9
# Eruptions at night were recorded as short, medium or long and entered as 2, 3 or 4 minutes. The
# scale floor (in standard deviations, here 7 seconds) keeps the density from having spikes there.
_MIN_SCALE = 0.1
_UNITS = (("seconds", 60.0), ("minutes", 1.0), ("hours", 1 / 60))  # per minute
_LEVELS = 0.05, 0.5, 0.95  # of the quantiles that are compared between units
_SECOND_INTERVAL = 0.1  # probability from which on the region counts as two intervals


def run(
    out: Path, *, seed: int = 0, progress: Callable[[str], None] = lambda step: None
) -> dict[str, Any]:
    """Fits, scores and explains; writes ``demo.png`` and ``demo.json`` into ``out``.

    Args:
        out: an existing folder.
        seed: of folds and networks; the same seed gives the same numbers.
        progress: called with the name of each step.

    Returns:
        The content of ``demo.json``: data, held-out scores, bimodality, the loss in three units.
    """
    data = load_old_faithful()
    X, y = data.X, data.y
    progress("held-out scores")
    scores = {
        "mixture density network": _held_out(_model(seed), X, y, seed),
        # without the other members of the pool, among them the density of y alone, a mixture
        "single Gaussian": _held_out(_model(seed, n_components=1, trees=False), X, y, seed),
        "marginal density": _held_out(_model(seed), np.zeros_like(X), y, seed),
    }
    progress("fit in three units")
    fits = {unit: _model(seed).fit(X, c * y) for unit, c in _UNITS}
    units = {unit: _loss_in_unit(fits[unit], X, c * y) for unit, c in _UNITS}
    reference = fits["minutes"].predict_quantiles(X, _LEVELS)
    numbers = {
        "data": {
            "name": "Old Faithful",
            "rows": len(y),
            "source": data.source,
            "x": f"waiting time before the eruption [{data.x_units[0]}]",
            "y": f"duration of the eruption [{data.y_unit}]",
        },
        "seed": seed,
        "folds": _FOLDS,
        "coverage": _COVERAGE,
        "held_out": scores,
        "bimodal": _bimodal(fits["minutes"], X),
        "units": units,
        "differences": {
            "seconds - minutes": units["seconds"]["nll"] - units["minutes"]["nll"],
            "minutes - hours": units["minutes"]["nll"] - units["hours"]["nll"],
            "log 60": math.log(60),
        },
        "largest_relative_difference_of_quantiles": max(
            float(np.abs(fits[unit].predict_quantiles(X, _LEVELS) / (c * reference) - 1).max())
            for unit, c in _UNITS
        ),
    }
    progress("figure")
    (out / "demo.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    draw(fits["minutes"], X, y, numbers).savefig(out / "demo.png", dpi=150)
    return numbers


def describe(numbers: dict[str, Any]) -> str:
    """Returns the numbers of :func:`run` as text for a terminal."""
    lines = [
        f"Old Faithful, {numbers['data']['rows']} eruptions: how long does one last, "
        "given the wait before it?",
        "",
        f"Held out, {numbers['folds']} folds, per eruption    NLL [nats]   CRPS [min]   "
        f"{numbers['coverage']:.0%} interval covers",
    ]
    for name, s in numbers["held_out"].items():
        lines.append(f"  {name:<32}{s['nll']:9.3f}{s['crps']:13.3f}{s['coverage']:15.1%}")
    b = numbers["bimodal"]
    intervals = " or ".join(
        f"{low:.2f} to {high:.2f} min ({p:.0%})"
        for (low, high), p in zip(b["example_intervals"], b["example_probabilities"], strict=True)
    )
    lines += [
        "  (nats in minutes, lower is better; the marginal density ignores the wait)",
        "",
        f"Bimodal: after waits of {b['waiting_from']:.0f} to {b['waiting_to']:.0f} min the "
        f"{numbers['coverage']:.0%} region is two intervals.",
        f"  After {b['example_waiting']:.0f} min: {intervals}.",
        f"  The mean, {b['example_mean']:.2f} min, lies in neither: the density there is "
        f"{b['example_density_at_mean']:.2f} per min, at the mode "
        f"{b['example_density_at_mode']:.2f}.",
        "",
        "Why is my loss negative? One model of all the rows, the duration in three units:",
        "  unit        NLL [nats]   rows with p(y|x) > 1   highest density   integral of p",
    ]
    for unit, u in numbers["units"].items():
        lines.append(
            f"  {unit:<10}{u['nll']:12.4f}{u['share_above_one']:18.0%}"
            f"{u['highest_density']:20.3f}{u['integral']:18.9f}"
        )
    d = numbers["differences"]
    lines += [
        f"  differences {d['seconds - minutes']:.10f} and {d['minutes - hours']:.10f}; "
        f"log 60 = {d['log 60']:.10f}",
        "  It is the same fit: converted to one unit, quantiles agree to one part in "
        f"{1 / max(numbers['largest_relative_difference_of_quantiles'], 2e-16):.0e}.",
        "  A density is per unit of y: in large units it exceeds 1, and minus its log is negative.",
        "  Its integral is 1 in each unit. Compare losses in one unit; the sign says nothing.",
    ]
    return "\n".join(lines)


def draw(model: MDNRegressor, X: np.ndarray, y: np.ndarray, numbers: dict[str, Any]) -> Any:
    """Draws the figure: density over x, one conditional, the training curve, the loss by unit."""
    figure, axes = plot.panels(2, 2, size=(11.0, 8.0))
    x_label, y_label = numbers["data"]["x"], numbers["data"]["y"]
    plot.plot_density(
        model, X, y, ax=axes[0], x_label=x_label, y_label=y_label, y_unit="min"
    ).set_title("Conditional density and the data")
    at = numbers["bimodal"]["example_waiting"]
    plot.plot_conditional(
        model, np.array([[at]]), ax=axes[1], y_label=y_label, y_unit="min"
    ).set_title(f"After a wait of {at:.0f} min")
    plot.plot_history(model.history_, y_unit="min", ax=axes[2]).set_title("Training")
    losses = {unit: u["nll"] for unit, u in numbers["units"].items()}
    plot.plot_units(losses, ax=axes[3]).set_title("One fit, three units of the duration")
    return figure


# ---------------------------------------------------------------------------------------------


def _model(seed: int, **options: Any) -> MDNRegressor:
    """Returns an untuned regressor, but for the scale floor and options."""
    return MDNRegressor(preset="fast", min_scale=_MIN_SCALE, random_state=seed, **options)


def _held_out(model: MDNRegressor, X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Returns means over all rows, each scored by the model that was fitted without it."""
    dist, target = calibration.out_of_fold(model, X, y, cv=_FOLDS, seed=seed), y[:, None]
    low, high = dist.interval(_COVERAGE).numpy().T
    return {
        "nll": scoring.nll(dist, target).mean(),
        "crps": scoring.crps(dist, target).mean(),
        "coverage": ((low <= y) & (y <= high)).mean(),
    }


def _loss_in_unit(model: MDNRegressor, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Returns the loss, and the numbers that show that its sign depends on the unit."""
    found = sign(evaluate(model, X, y))
    shown = "share_above_one", "highest_density", "integral", "integral_error"
    return {"nll": found["mean_nll"], **{name: found[name] for name in shown}}


def _bimodal(model: MDNRegressor, X: np.ndarray) -> dict[str, Any]:
    """Returns the waits after which the region is two intervals, and the most even example."""
    grid = np.arange(math.ceil(X.min()), math.floor(X.max()) + 1, dtype=float)
    dist = model.predict_distribution(grid[:, None])
    intervals = dist.hdr(_COVERAGE).intervals  # (G, K, 2)
    ends = intervals.nan_to_num(nan=0.0).movedim(0, 1).unsqueeze(-2)  # (K, G, 1, 2)
    mass = dist.log_mass(ends[..., 0], ends[..., 1]).exp().t().numpy()  # (G, K)
    second = np.sort(mass, axis=1)[:, -2]
    best = int(second.argmax())
    unimodal = np.flatnonzero(second < _SECOND_INTERVAL)
    first = int(max(unimodal[unimodal < best], default=-1)) + 1
    last = int(min(unimodal[unimodal > best], default=len(grid))) - 1
    row = dist[best]
    modes, height = row.modes()
    largest = np.sort(np.argsort(mass[best])[-2:])
    example_modes = []
    for low, high in intervals[best, largest].tolist():
        inside = (modes[:, 0] >= low) & (modes[:, 0] <= high)
        example_modes.append(float(modes[inside][0, 0]))  # modes are sorted by falling density
    return {
        "waiting_from": grid[first],
        "waiting_to": grid[last],
        "second_interval_at_least": _SECOND_INTERVAL,
        "example_waiting": grid[best],
        "example_intervals": intervals[best, largest].tolist(),
        "example_probabilities": mass[best, largest].tolist(),
        "example_modes": example_modes,
        "example_mean": row.mean.item(),
        "example_density_at_mean": math.exp(row.log_prob(row.mean)),
        "example_density_at_mode": math.exp(height[0]),
    }

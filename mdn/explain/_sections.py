"""The numbers of a report as labelled sentences, for text and HTML alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["number", "sections"]

_MOST_SHOWN = 10  # components that are all listed; of more the largest, and the others as one
_LARGEST = 5

Entries = Iterator[tuple[str, str]]

_RATIO = (
    "the loss of likelihood-ratio estimators, -log p/q, is the difference of two such losses and "
    "can be below 0"
)


def sections(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns titles with (label, text) pairs for the dict of :meth:`NLLReport.to_dict`."""
    mass = report["sign"]["measure"] == "mass"
    found = {
        "Sign: these are probabilities" if mass else "Sign: a density is not a probability": _sign,
        "Unit: what the number depends on": _unit,
        "Floor: the lowest possible loss": _floor,
        "Health: components and rows": _health,
        "Fit: held-out loss and calibration": _fit,
    }
    listed = [(title, list(entries(report))) for title, entries in found.items()]
    return [(title, entries) for title, entries in listed if entries]


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number with so many significant digits; None stands for what is infinite."""
    return "infinite" if value is None or math.isinf(value) else f"{value:.{digits}g}"


def _numbers(values: Iterable[float], digits: int = 4) -> str:
    return ", ".join(number(value, digits) for value in values)


def _sign(report: dict[str, Any]) -> Entries:
    sign = report["sign"]
    if sign["measure"] == "mass":
        yield "kind", "probabilities, at most 1: their NLL is never negative"
        yield "largest at a y", number(sign["largest_at_y"])
        yield "what can be negative", _RATIO
        return
    yield (
        "rows with p(y|x) > 1",
        f"{sign['share_above_one']:.1%} of {sign['rows']}; highest at a y "
        f"{number(sign['largest_at_y'])} per unit of y",
    )
    if sign["measure"] == "mixed":
        some = "intervals, densities for exact values of y"
        if "atoms" in sign:
            places = ", ".join(number(a, 6) for a in sign["atoms"])
            some = f"y = {places} ({sign['share_at_atoms']:.0%} of the rows), densities elsewhere"
        yield "kind", f"probabilities for {some}: only the latter can exceed 1"
    if "integral" in sign:
        yield (
            "sharpest row",
            f"row {sign['sharpest_row']}: density {number(sign['highest_density'])} at "
            f"y = {number(sign['at'], 6)}, above 1 over a width of "
            f"{number(sign['width_above_one'])}",
        )
        yield (
            "its integral",
            f"{sign['integral']:.10f}, error below {sign['integral_error']:.0e} "
            "(scipy.integrate.quad_vec, split at the modes)",
        )
        yield (
            "probability around y",
            f"within an interval of {number(sign['interval_width'])} around y: "
            f"{sign['interval_probability_mean']:.3f} on average, "
            f"{sign['interval_probability_largest']:.3f} at most; "
            f"{sign['interval_probability_sharpest']:.3f} in the sharpest row",
        )
    elif sign["measure"] == "density":
        yield "sharpest row", "skipped: mode and integral need one target and a known family"


def _unit(report: dict[str, Any]) -> Entries:
    unit = report["unit"]
    error = unit["nll_standard_error"]
    yield (
        "NLL" if report["sign"]["measure"] == "mass" else "NLL in y's unit",
        f"{number(unit['nll'], 5)} nats per row"
        + (f", standard error {number(error, 2)}" if error is not None else ""),
    )
    if "other_units" in unit:
        other = unit["other_units"]
        yield (
            "in another unit",
            f"{number(other['thousands'], 5)} with y in thousands, "
            f"{number(other['thousandths'], 5)} in thousandths: NLL(c y) = NLL(y) + D log c",
        )
    if "nll_standardized" in unit:
        yield (
            "of the standardised y",
            f"{number(unit['nll_standardized'], 5)} (shift "
            f"{number(unit['shift_to_standard_deviations'], 5)}; a normal y that is independent of "
            "x has 1.419 per target)",
        )
    if "equivalent_width" in unit:
        yield (
            "equivalent width",
            f"on average as sharp as a uniform over {number(unit['equivalent_width'])} of y's unit",
        )
    if "perplexity" in unit:
        yield "perplexity", f"as uncertain as {number(unit['perplexity'])} equally likely values"
    if "accuracy" in unit:
        yield "accuracy", f"the likeliest class is right in {unit['accuracy']:.1%} of rows"
    for key, label in (
        ("gain_over_marginal", "gain over ignoring x"),
        ("gain_over_gaussian", "gain over one Gaussian"),
    ):
        if key not in unit:
            continue
        gain = unit[key]
        text = f"{number(gain['nats'])} nats = {number(gain['bits'])} bits per row"
        if gain["standard_error_nats"] is not None:
            text += f", standard error {number(gain['standard_error_nats'], 2)} nats"
        if key == "gain_over_gaussian":
            scale = _numbers(unit["gaussian_scale"])
            text += f"; of constant width {scale} around the model's mean"
        yield label, text


def _floor(report: dict[str, Any]) -> Entries:
    floor, health, grid = report["floor"], report["health"], report["floor"].get("grid")
    if "lowest_nll" in floor and report["sign"]["measure"] == "mass":
        yield "lowest NLL", "0, as of every probability"
    elif "lowest_nll" in floor and health.get("floor_known"):
        yield (
            "lowest NLL",
            f"{number(floor['lowest_nll'], 5)} nats, if every row has all its weight at the scale "
            f"floor ({number(min(health['floor_in_standard_deviations']), 2)} standard deviations "
            "of y)",
        )
    elif report["sign"]["measure"] == "density" and "components" in health:
        yield "lowest NLL", "no scale floor is known: without one the loss is unbounded below"
    if grid:
        text = f"{grid['distinct']} distinct values in {grid['rows']} rows"
        if grid["step"] is not None:
            text += f", all on a grid of step {number(grid['step'])}"
        if "atoms" in report["sign"]:
            text += " off the atoms"
        if grid["heaps"]:
            heaps = ", ".join(f"{number(v, 6)} ({count} times)" for v, count in grid["heaps"])
            text += f"; {grid['repeated']:.0%} repeated, most often {heaps}"
        yield "resolution of y", text
    if "cell_nll" in floor:
        yield (
            "as probabilities",
            f"the cell of {number(grid['spacing'])} around y has an NLL of "
            f"{number(floor['cell_nll'])} nats, which cannot be below 0; density concentrated on "
            f"the grid gains {number(floor['gain_by_grid'], 2)} nats",
        )


def _health(report: dict[str, Any]) -> Entries:
    health = report["health"]
    if "components" in health:
        count, networks = health["components"], health["networks"]
        enough = health.get("enough_components", count)
        ensemble = networks > 1
        yield (
            "components",
            f"{count}{f' of {networks} networks' if ensemble else ''}; effectively "
            f"{number(health['effective_components'], 3)} per row"
            f"{' and network' if ensemble else ''}; {health['dead']} dead (weight under 1e-4 "
            f"everywhere), {health['duplicated']} duplicated"
            + (f"; merged to {enough} per row they lose under 0.05 nats" if enough < count else ""),
        )
        if "share_at_floor" in health:
            yield (
                "scales",
                f"{health['share_at_floor']:.1%} of rows at the floor of "
                f"{_numbers(health['floor'])}; median scale {_numbers(health['median_scale'])}",
            )
        yield (
            "spikes",
            f"{health['share_on_spikes']:.1%} of rows belong to components narrower than "
            f"{_numbers(health['spike_scale'], 3)}; rows with a spike of their own: "
            f"{health['on_one_row']}",
        )
    table = health.get("table", [])
    order = sorted(table, key=lambda entry: -entry["mean_weight"])
    for entry in table:
        if len(table) > _MOST_SHOWN and entry not in order[:_LARGEST]:
            continue
        floor = f", at the floor {entry['share_at_floor']:.0%}" if "share_at_floor" in entry else ""
        yield (
            f"component {entry['component']}",
            f"weight {entry['mean_weight']:.3f}, rows {entry['share_of_rows']:.1%}, scale "
            f"{number(entry['median_scale'], 3)}{floor}, {entry['state']}",
        )
    if len(table) > _MOST_SHOWN:
        yield f"the other {len(table) - _LARGEST} together", _together(order[_LARGEST:])
    worst = zip(health["worst_rows"], health["worst_nll"], strict=True)
    yield (
        "rows of the highest loss",
        f"{', '.join(f'row {i} ({number(nll, 3)})' for i, nll in worst)}; the median is "
        f"{number(health['median_nll'], 3)}, the mean without the worst "
        f"{health['worst_share_rows']} is {number(health['nll_without_worst'])}",
    )


def _together(entries: list[dict[str, Any]]) -> str:
    """Returns the weight and the rows of several components, and how many are in which state."""
    weight, rows = (sum(e[key] for e in entries) for key in ("mean_weight", "share_of_rows"))
    states = Counter(
        "on a single row" if e["state"].startswith("on row") else e["state"].split()[0]
        for e in entries
    )
    counted = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return f"weight {weight:.3f}, rows {rows:.1%}; {counted}"


def _fit(report: dict[str, Any]) -> Entries:
    fit = report["fit"]
    if "gap" in fit:
        error = (
            f"{number(fit['gap'], 3)} nats, standard error {number(fit['gap_standard_error'], 2)}"
        )
        if "held_out_nll" in fit:
            yield (
                "these rows minus held-out ones",
                f"{error} (rows that the model held out in its training: "
                f"{number(fit['held_out_nll'])} on {fit['held_out_rows']:.0f} rows)",
            )
        else:
            yield (
                "held-out minus training",
                f"{error} (training {number(fit['train_nll'])} on {fit['train_rows']:.0f} rows; "
                f"rank test: p = {number(fit['gap_p_value'], 2)})",
            )
    if "held_out_nll" in fit and "train_nll" in fit:
        yield (
            "on the training rows",
            f"{number(fit['train_nll'])} nats on {fit['train_rows']:.0f} rows that the networks "
            "were trained on",
        )
    if "confidence" in fit:
        yield (
            "confidence",
            f"the likeliest class has a probability of {fit['confidence']:.1%} on average, and is "
            f"right in {report['unit']['accuracy']:.1%} of rows",
        )
    if "p_value" not in fit:
        return
    yield (
        fit["kind"],
        f"mean {fit['mean']:.3f}, 12 x variance {fit['variance_times_12']:.2f} (1/2 and 1 if "
        f"calibrated), Anderson-Darling p = {number(fit['p_value'], 2)}",
    )
    groups = f", {max(0.0, fit['worst_cost']):.3f} in groups by {fit['where']}"
    yield (
        "cost of miscalibration",
        f"at least {max(0.0, fit['cost']):.3f} nats per row over all rows"
        + (groups if fit["where"] else ""),
    )
    yield (
        "NLL that the model expects",
        f"{number(fit['expected_nll'])}; the rows are {number(fit['above_expected'], 3)} above, "
        f"standard error {number(fit['above_expected_standard_error'], 2)}",
    )

"""The numbers of a report as labelled sentences, for text and HTML alike."""

from __future__ import annotations

from typing import Any

__all__ = ["sections"]

Entries = list[tuple[str, str]]

_RATIO = (
    "the loss of likelihood-ratio estimators, -log p/q, is the difference of two such losses and "
    "may well be below 0"
)


def sections(report: dict[str, Any]) -> list[tuple[str, Entries]]:
    """Titles with (label, text) pairs, for what :meth:`NLLReport.to_dict` gave."""
    found = [
        (
            "Sign: these are probabilities"
            if report["sign"]["measure"] == "mass"
            else "Sign: a density is not a probability",
            _sign(report),
        ),
        ("Unit: what the number depends on", _unit(report)),
        ("Floor: how low can it go?", _floor(report)),
        ("Health: components and rows", _health(report)),
        ("Fit: do rows bear it out?", _fit(report)),
    ]
    return [(title, entries) for title, entries in found if entries]


def _n(value: float | None, digits: int = 4) -> str:
    return "infinite" if value is None else f"{value:.{digits}g}"


def _sign(report: dict[str, Any]) -> Entries:
    sign = report["sign"]
    if sign["measure"] == "mass":
        return [
            ("kind", "probabilities, at most 1: their NLL is never negative"),
            ("largest at a y", _n(sign["largest_at_y"])),
            ("what can be negative", _RATIO),
        ]
    found = [
        (
            "rows with p(y|x) > 1",
            f"{sign['share_above_one']:.1%} of {sign['rows']}; highest at a y "
            f"{_n(sign['largest_at_y'])} per unit of y",
        )
    ]
    if sign["measure"] == "mixed":
        found.append(
            (
                "kind",
                "probabilities for intervals, densities for a y that is known: only the "
                "latter can exceed 1",
            )
        )
    if "integral" in sign:
        found += [
            (
                "sharpest row",
                f"row {sign['sharpest_row']}: density {_n(sign['highest_density'])} at "
                f"y = {_n(sign['at'], 6)}, above 1 over a width of {_n(sign['width_above_one'])}",
            ),
            (
                "its integral",
                f"{sign['integral']:.10f}, error below {sign['integral_error']:.0e} "
                "(scipy.integrate.quad, split at the modes)",
            ),
            (
                "probability around y",
                f"within an interval of {_n(sign['interval_width'])} around y: "
                f"{sign['interval_probability_mean']:.3f} on average, "
                f"{sign['interval_probability_largest']:.3f} at most; "
                f"{sign['interval_probability_sharpest']:.3f} in the sharpest row",
            ),
        ]
    elif sign["measure"] == "density":
        found.append(
            ("sharpest row", "skipped: mode and integral need one target and a known family")
        )
    return found


def _unit(report: dict[str, Any]) -> Entries:
    unit = report["unit"]
    error = unit["nll_standard_error"]
    found = [
        (
            "NLL in y's unit" if report["sign"]["measure"] != "mass" else "NLL",
            f"{_n(unit['nll'], 5)} nats per row"
            + (f", standard error {_n(error, 2)}" if error is not None else ""),
        )
    ]
    other = unit.get("other_units")
    if other:
        found.append(
            (
                "in another unit",
                f"{_n(other['thousands'], 5)} with y in thousands, {_n(other['thousandths'], 5)} "
                "in thousandths: NLL(c y) = NLL(y) + D log c",
            )
        )
    if "nll_standardized" in unit:
        found.append(
            (
                "of the standardised y",
                f"{_n(unit['nll_standardized'], 5)} (shift "
                f"{_n(unit['shift_to_standard_deviations'], 5)}; a normal y that x says nothing "
                "of has 1.419 per target)",
            )
        )
    if "equivalent_width" in unit:
        found.append(
            (
                "equivalent width",
                f"on average as sharp as a uniform over {_n(unit['equivalent_width'])} of y's unit",
            )
        )
    if "perplexity" in unit:
        found.append(
            ("perplexity", f"as uncertain as {_n(unit['perplexity'])} equally likely values")
        )
    if "accuracy" in unit:
        found.append(("accuracy", f"{unit['accuracy']:.1%} of rows have the likeliest class"))
    names = {
        "gain_over_marginal": "gain over ignoring x",
        "gain_over_gaussian": "gain over one Gaussian",
    }
    for key, label in names.items():
        gain = unit.get(key)
        if gain:
            text = f"{_n(gain['nats'])} nats = {_n(gain['bits'])} bits per row"
            if gain["standard_error_nats"] is not None:
                text += f", standard error {_n(gain['standard_error_nats'], 2)} nats"
            if key == "gain_over_gaussian":
                scale = ", ".join(_n(s) for s in unit["gaussian_scale"])
                text += f"; of constant width {scale} around the model's mean"
            found.append((label, text))
    return found


def _floor(report: dict[str, Any]) -> Entries:
    floor, health = report["floor"], report["health"]
    found = []
    if "lowest_nll" in floor and report["sign"]["measure"] == "mass":
        found.append(("lowest NLL", "0, as of every probability"))
    elif "lowest_nll" in floor and health.get("floor_known"):
        share = min(health["floor_in_standard_deviations"])
        found.append(
            (
                "lowest NLL",
                f"{_n(floor['lowest_nll'], 5)} nats, where every row has all its weight at the "
                f"scale floor ({_n(share, 2)} standard deviations of y)",
            )
        )
    elif report["sign"]["measure"] == "density" and "components" in health:
        found.append(
            ("lowest NLL", "no scale floor is known: without one the loss has no lower end")
        )
    grid = floor.get("grid")
    if grid:
        text = f"{grid['distinct']} distinct values in {grid['rows']} rows"
        if grid["step"] is not None:
            text += f", all on a grid of step {_n(grid['step'])}"
        if grid["heaps"]:
            heaps = ", ".join(f"{_n(v, 6)} ({c} times)" for v, c in grid["heaps"])
            text += f"; repeated {grid['repeated']:.0%}, most often {heaps}"
        found.append(("resolution of y", text))
    if "cell_nll" in floor:
        found.append(
            (
                "as probabilities",
                f"the cell of {_n(grid['spacing'])} around y has an NLL of "
                f"{_n(floor['cell_nll'])} nats, which can not go below 0; standing on the grid "
                f"gains {_n(floor['gain_by_grid'], 2)} nats",
            )
        )
    return found


def _health(report: dict[str, Any]) -> Entries:
    health = report["health"]
    found = []
    if "components" in health:
        each = f" of {health['networks']} networks" if health["networks"] > 1 else ""
        found.append(
            (
                "components",
                f"{health['components']}{each}; effectively {_n(health['effective_components'], 3)}"
                f" a row{' and network' if each else ''}; {health['dead']} dead (weight under 1e-4 "
                f"everywhere), {health['duplicated']} as another one"
                + (
                    f"; merged to {health['enough_components']} a row they lose under 0.05 nats"
                    if health.get("enough_components", health["components"]) < health["components"]
                    else ""
                ),
            )
        )
        if "share_at_floor" in health:
            floor = ", ".join(_n(f) for f in health["floor"])
            median = ", ".join(_n(s) for s in health["median_scale"])
            found.append(
                (
                    "scales",
                    f"{health['share_at_floor']:.1%} of rows at the floor of {floor}; "
                    f"median scale {median}",
                )
            )
        spike = ", ".join(_n(s, 3) for s in health["spike_scale"])
        found.append(
            (
                "spikes",
                f"{health['share_on_spikes']:.1%} of rows belong to components narrower than "
                f"{spike}; {health['on_one_row']} components answer for one row alone",
            )
        )
    for entry in health.get("table", []):
        floor = f", at the floor {entry['share_at_floor']:.0%}" if "share_at_floor" in entry else ""
        found.append(
            (
                f"component {entry['component']}",
                f"weight {entry['mean_weight']:.3f}, rows {entry['share_of_rows']:.1%}, scale "
                f"{_n(entry['median_scale'], 3)}{floor}, {entry['state']}",
            )
        )
    worst = ", ".join(
        f"row {i} ({_n(v, 3)})"
        for i, v in zip(health["worst_rows"], health["worst_nll"], strict=True)
    )
    found.append(
        (
            "rows whose loss dominates",
            f"{worst}; the median is {_n(health['median_nll'], 3)}, the mean without the worst "
            f"{health['worst_share_rows']} {_n(health['nll_without_worst'])}",
        )
    )
    return found


def _fit(report: dict[str, Any]) -> Entries:
    fit = report["fit"]
    found = []
    if "gap" in fit:
        found.append(
            (
                "held-out minus training",
                f"{_n(fit['gap'], 3)} nats, standard error {_n(fit['gap_standard_error'], 2)} "
                f"(training {_n(fit['train_nll'])} on {fit['train_rows']:.0f} rows; ranks: "
                f"p = {_n(fit['gap_p_value'], 2)})",
            )
        )
    if "p_value" in fit:
        found += [
            (
                fit["kind"],
                f"mean {fit['mean']:.3f}, 12 x variance {fit['variance_times_12']:.2f} (1/2 and 1 "
                f"if calibrated), Anderson-Darling p = {_n(fit['p_value'], 2)}",
            ),
            (
                "miscalibration costs",
                f"at least {max(0.0, fit['cost']):.3f} nats per row over all rows"
                + (
                    f", {max(0.0, fit['worst_cost']):.3f} in groups by {fit['where']}"
                    if fit["where"]
                    else ""
                ),
            ),
            (
                "the model's own forecast",
                f"expects an NLL of {_n(fit['expected_nll'])}; the rows are "
                f"{_n(fit['above_expected'], 3)} above, standard error "
                f"{_n(fit['above_expected_standard_error'], 2)}",
            ),
        ]
    return found

"""One line that says whether the density can be trusted, and what to do if not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = ["Judgement", "judge"]

# Limits were set on simulations of seeds from 1000; `python -m benchmarks.verdicts` counts the
# verdicts on others.
FEW_VALUES = 10  # of y, from which down its density says nothing: each may be had as a spike
ROWS_A_VALUE = 3  # on average, that make it a matter of few values and not of few rows
GRID_GAIN = 0.1  # nats a row gained by standing on the grid of y rather than on its cells
GAP = 0.3  # nats by which held-out rows are worse before it matters
GAP_ERRORS = 3.0  # standard errors of the gap that chance does not reach
GAP_P = 1e-3  # or the p-value of ranks
SPIKES = 0.25  # share of the training rows on spikes that makes a collapse of a gap
AT_FLOOR = 0.05  # share of rows at the floor that is suspicious
HARMLESS_FLOOR = 0.05  # standard deviations; a floor this broad bars spikes
COST = 0.1  # nats a row that miscalibration may cost
COST_P = 1e-3  # and the p-value of its test
WORSE = 0.05  # nats a row by which the marginal density may be better
FEW_ROWS = 50  # from which down the tests see little
HEAP = 0.05  # share of the rows with one value that is worth a remark
WORST_ROWS = 1.0  # nats of the mean that the worst hundredth of the rows may make


class Judgement(NamedTuple):
    """The verdict, its remedy and what else is worth a word.

    Attributes:
        verdict: begins with the word, a colon and why.
        remedy: what to do.
        remarks: further sentences.
    """

    verdict: str
    remedy: str
    remarks: list[str]


def judge(parts: dict[str, dict[str, Any]], step_hint: str) -> Judgement:
    """The first of the checks that fails; parts are those of an NLLReport."""
    found = (
        _no_density(parts)
        or _few_values(parts, step_hint)
        or _unseen(parts)
        or _on_points(parts)
        or _misspecified(parts)
        or _dominated(parts)
    )
    verdict, remedy = found or _fine(parts)
    return Judgement(verdict, remedy, _remarks(parts))


Found = tuple[str, str] | None


def _no_density(parts: dict[str, Any]) -> Found:
    worst = parts["health"]
    count = worst["rows_without_density_count"]
    if not count:
        return None
    return (
        f"misspecified: the density is 0 at {count} of {parts['sign']['rows']} rows, the first of "
        f"them row {worst['rows_without_density'][0]}, so the mean loss is infinite",
        "take a family whose support holds every y, or correct these rows",
    )


def _few_values(parts: dict[str, Any], step_hint: str) -> Found:
    grid = parts["floor"].get("grid")
    if grid is None or parts["sign"]["measure"] != "density":
        return None
    remedy = (
        f"score probabilities, which can not go below a loss of 0: MDNRegressor({step_hint}), "
        "dist.discretize(step), or a CategoricalHead where the values are classes"
    )
    distinct = grid["distinct"]
    if distinct <= FEW_VALUES and grid["rows"] >= ROWS_A_VALUE * distinct:
        values = "one value" if distinct == 1 else f"{distinct} values"
        return (
            f"not meaningful: y takes {values} in {grid['rows']} rows, and a density may stand on "
            "each of them, as high as its floor allows",
            remedy,
        )
    gain = parts["floor"].get("gain_by_grid", 0.0)
    if gain > GRID_GAIN:
        where = (
            f"the step {grid['step']:.4g} to which y is rounded"
            if grid["step"] is not None
            else f"values that repeat ({grid['repeated']:.0%} of the rows)"
        )
        return (
            f"not meaningful: {gain:.2g} nats per row come from standing on {where}, not from "
            "knowing y better",
            remedy,
        )
    return None


def _unseen(parts: dict[str, Any]) -> Found:
    """Held-out rows that are worse than those of the training."""
    fit = parts["fit"]
    if "gap" not in fit:
        return None
    gap, error = fit["gap"], fit["gap_standard_error"]
    sure = gap > GAP_ERRORS * error or fit["gap_p_value"] < GAP_P
    if not (gap > GAP and sure):
        return None
    spikes = parts["health"].get("share_on_spikes", 0.0)
    if spikes >= SPIKES and parts["sign"]["measure"] == "density":
        return (
            f"collapse: {spikes:.0%} of the training rows have a component of their own or all but "
            f"so, far narrower than unseen rows allow; held-out {_much(gap)} nats worse "
            "than training",
            "raise min_scale (0.05 standard deviations of y bars spikes), take fewer components or "
            "more rows, and stop training by held-out rows (fit(..., val=...))",
        )
    return (
        f"overfitting: held-out {_much(gap)} nats worse than training "
        f"({_number(parts['unit']['nll'])} against {_number(fit['train_nll'])}, "
        f"standard error {_number(error)})",
        "stop training at the lowest held-out loss (fit(..., val=...)), take a smaller network, "
        "more weight decay or an ensemble, or more rows",
    )


def _on_points(parts: dict[str, Any]) -> Found:
    health = parts["health"]
    if parts["sign"]["measure"] != "density" or not health.get("components"):
        return None
    held_out = "gap" in parts["fit"]
    broad = health.get("floor_known") and min(health["floor_in_standard_deviations"]) > (
        HARMLESS_FLOOR
    )
    at = health.get("share_at_floor", 0.0)
    if at >= AT_FLOOR and not broad:
        return (
            f"suspicious: {at:.0%} of rows sit at the scale floor, so the floor decides the loss",
            "if y is no exact function of x, raise min_scale and compare the held-out loss; "
            + ("" if held_out else "give train=(X_train, y_train) and rows not trained on; ")
            + "if it is one, report an error in y's unit instead of the NLL",
        )
    if health["on_one_row"] and health["share_on_spikes"] > 0 and not broad:
        rows = ", ".join(map(str, health["captured_rows"][:5]))
        some = "component stands" if health["on_one_row"] == 1 else "components stand"
        return (
            f"suspicious: {health['on_one_row']} {some} on a single row each (row {rows})",
            "raise min_scale or take fewer components; look at these rows",
        )
    if health["share_on_spikes"] >= SPIKES and not held_out:
        return (
            f"suspicious: {health['share_on_spikes']:.0%} of rows lie in components narrower than "
            "a hundredth of y's spread; either x tells y that well, or the density has collapsed "
            "onto the rows it was trained on",
            "call it with rows not trained on, and train=(X_train, y_train)",
        )
    return None


def _misspecified(parts: dict[str, Any]) -> Found:
    fit, unit = parts["fit"], parts["unit"]
    cost = fit.get("worst_cost", 0.0)
    if cost > COST and fit["worst_p_value"] < COST_P:
        kind = "PIT is" if fit["kind"] == "PIT" else "HDR values are"
        where = f" in groups by {fit['where']}" if fit["where"] else ""
        spread = fit["variance_times_12"]
        narrow = fit["above_expected"] > GAP_ERRORS * fit["above_expected_standard_error"]
        shape = (
            "it is too narrow"
            if spread > 1.2 and narrow
            else "it is too wide"
            if spread < 0.8
            else "its shape, or its width at some x, is wrong"
        )
        return (
            f"misspecified: the {kind} not uniform{where} (p = {fit['worst_p_value']:.1g}), "
            f"which costs {cost:.2g} nats per row; {shape}",
            "more components or another family, scales that depend on x, the features that are "
            "missing; without a new fit calibration.recalibrate on held-out rows mends a part",
        )
    gain = unit.get("gain_over_marginal")
    if gain and gain["nats"] < -WORSE and gain["nats"] < -GAP_ERRORS * gain["standard_error_nats"]:
        return (
            f"misspecified: {-gain['nats']:.2g} nats per row worse than the density of y that "
            "ignores x",
            "look for an error of units or of the order of rows; train longer, or scale X and y",
        )
    return None


def _dominated(parts: dict[str, Any]) -> Found:
    health, mean = parts["health"], parts["unit"]["nll"]
    rise = mean - health["nll_without_worst"]
    if rise <= WORST_ROWS:
        return None
    rows = ", ".join(map(str, health["worst_rows"][:3]))
    return (
        f"suspicious: {health['worst_share_rows']} of {parts['sign']['rows']} rows make "
        f"{rise:.2g} nats of the mean loss (first of all row {rows})",
        "look at these rows for errors; if they are right, take heavier tails (student_t, or one "
        "broad component)",
    )


def _fine(parts: dict[str, Any]) -> tuple[str, str]:
    sign, unit = parts["sign"], parts["unit"]
    nll = unit["nll"]
    gain = unit.get("gain_over_marginal")
    gains = f"; {gain['nats']:+.2f} nats per row over the density that ignores x" if gain else ""
    if sign["measure"] == "mass":
        what = "classes" if "accuracy" in unit else "probabilities"
        return (
            f"fine: these are {what}, whose loss is never negative; {nll:.3g} nats{gains}",
            "nothing to do",
        )
    if sign["measure"] == "mixed":
        return (
            f"fine: probabilities where y is an interval, densities where it is known; "
            f"{nll:.3g} nats",
            "nothing to do",
        )
    width = unit.get("equivalent_width")
    size = f" (as sharp as a uniform over {width:.3g} of it)" if width else ""
    if nll < 0:
        why = f"negative because y's unit is large for its noise{size}"
    else:
        why = f"positive because y's unit is small for its noise{size}"
    return f"fine: {why}{gains}", "nothing to do; compare losses in one unit of y only"


def _remarks(parts: dict[str, Any]) -> list[str]:
    health, fit, floor = parts["health"], parts["fit"], parts["floor"]
    found = []
    if "gap" not in fit:
        found.append(
            "without train=(X_train, y_train) nothing is said of overfitting, and of rows that "
            "the model was trained on every flexible model looks fine"
        )
    count, networks = health.get("components", 0), max(1, health.get("networks", 1))
    enough = health.get("enough_components", count)
    if (
        "dead" in health
        and networks == 1
        and (health.get("dead") or health.get("duplicated") or 2 * enough <= count)
    ):
        found.append(
            f"more components than are used: of {count}, {health['dead']} are dead and "
            f"{health['duplicated']} as another one; merged to {enough} a row they would lose "
            "under 0.05 nats. That does no harm to the density"
        )
    grid = floor.get("grid")
    if grid and grid["step"] is not None and grid["repeated"] > 0 and grid["distinct"] > FEW_VALUES:
        found.append(
            f"y is rounded to steps of {grid['step']:.4g} ({grid['repeated']:.0%} of the rows "
            "share their value); a density much narrower than that would stand on them"
        )
    if parts["sign"]["rows"] < FEW_ROWS:
        found.append(
            f"{parts['sign']['rows']} rows are few to tell a right density from a wrong one"
        )
    value, times = grid["heaps"][0] if grid and grid["heaps"] else (0.0, 0)
    if grid and grid["distinct"] > FEW_VALUES and times >= max(FEW_VALUES, HEAP * grid["rows"]):
        found.append(
            f"{times} of {grid['rows']} rows have y = {value:.6g} exactly: if they were noted more "
            "coarsely than the others, a narrow component there has learnt that, not y"
        )
    if health.get("share_at_floor", 0.0) >= AT_FLOOR:
        found.append(
            f"{health['share_at_floor']:.0%} of rows sit at the scale floor of "
            f"{min(health['floor_in_standard_deviations']):.2g} standard deviations of y"
        )
    if health.get("floor_known") is False:
        found.append("the scale floor is not known: the head's output is transformed afterwards")
    p = fit.get("p_value", 1.0)
    if p < 1e-3 and fit.get("worst_cost", 0.0) <= COST:
        found.append(
            f"calibrated all but perfectly: the {fit['kind']} deviates (p = {p:.1g}), which costs "
            f"{max(0.0, fit['worst_cost']):.2g} nats per row: little"
        )
    return found


def _much(gap: float) -> str:
    return "infinitely many" if math.isinf(gap) else f"{gap:.2g}"


def _number(a: float) -> str:
    return f"{a:.2f}" if abs(a) < 1e4 else f"{a:.2g}"

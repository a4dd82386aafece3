"""The verdict: whether the density can be trusted, and what to do if not."""

from __future__ import annotations

from typing import Any

from ._sections import number

__all__ = ["judge"]

# The limits were set on simulations with seeds from 1000; `python -m benchmarks.verdicts` counts
# the verdicts on other seeds.
_FEW_VALUES = 10  # of y: up to this number a density can have a spike on each value
_ROWS_PER_VALUE = 3  # on average, from which on it is the values that are few and not the rows
_GRID_GAIN = 0.1  # nats per row gained by density concentrated on the grid of y
_GAP = 0.3  # nats by which the held-out loss may be higher than the training loss
_GAP_ERRORS = 3.0  # standard errors of the gap from which on it is significant
_GAP_P = 1e-3  # or the p-value of the rank test
_SPIKES = 0.25  # share of the training rows on spikes from which on a gap is a collapse
_AT_FLOOR = 0.05  # share of rows at the floor that is suspicious
_HARMLESS_FLOOR = 0.05  # standard deviations of y; a floor of this or more rules out spikes
_ROUNDING = 1e-6  # of the floor, which comes from float32
_COST = 0.1  # nats per row that miscalibration may cost
_COST_P = 1e-3  # and the p-value of its test
_WORSE = 0.05  # nats per row by which the marginal density may be better
_FEW_ROWS = 50  # below which the tests have little power
_HEAP = 0.05  # share of the rows with one value that is worth a remark
_WORST_ROWS = 1.0  # nats of the mean that the worst hundredth of the rows may contribute
_DEVIATES_P = 1e-3  # p-value of the test of the PIT that is worth a remark


def judge(parts: dict[str, dict[str, Any]]) -> tuple[str, str, list[str]]:
    """Returns the verdict of the first check that fails, its remedy, and remarks."""
    checks = (
        _no_density,
        _softmax_twice,
        _few_values,
        _worse_on_held_out_rows,
        _spikes,
        _misspecified,
        _dominated,
    )
    found = (check(parts) for check in checks)
    verdict, remedy = next(filter(None, found), _fine(parts))
    return verdict, remedy, _remarks(parts)


Found = tuple[str, str] | None


def _no_density(parts: dict[str, Any]) -> Found:
    health = parts["health"]
    count = health["rows_without_density_count"]
    if not count:
        return None
    return (
        f"misspecified: the density is 0 at {count} of {parts['sign']['rows']} rows, the first of "
        f"them row {health['rows_without_density'][0]}, so the mean loss is infinite",
        "choose a family whose support contains every y, or correct these rows",
    )


def _softmax_twice(parts: dict[str, Any]) -> Found:
    fit = parts["fit"]
    if not (fit.get("logits_like_probabilities") and fit["confidence_z"] > _GAP_ERRORS):
        return None
    return (
        "misspecified: the logits are probabilities, from 0 to 1 with the sum 1 in each row up to "
        "a constant, so softmax was applied twice: no class can have more than "
        f"{fit['highest_confidence']:.2f}, and the likeliest is right in "
        f"{parts['unit']['accuracy']:.0%} of rows",
        "pass Categorical(logits=...) what the network has before its softmax; if it was trained "
        "by NLLLoss on the output of Softmax, whose loss is between -1 and 0, train it again on "
        "that of LogSoftmax",
    )


def _few_values(parts: dict[str, Any]) -> Found:
    grid = parts["floor"].get("grid")
    if grid is None or parts["sign"]["measure"] == "mass":
        return None
    option = "resolution=step"
    if grid["step"] is not None and grid["anchored"]:
        option = "target='integer'" if grid["step"] == 1 else f"resolution={grid['step']:.6g}"
    remedy = (
        f"score probabilities, whose loss cannot be below 0: MDNRegressor({option}), "
        "dist.discretize(step), or a CategoricalHead where the values are classes"
    )
    distinct = grid["distinct"]
    if distinct <= _FEW_VALUES and grid["rows"] >= _ROWS_PER_VALUE * distinct:
        values = "one value" if distinct == 1 else f"{distinct} values"
        return (
            f"not meaningful: y takes {values} in {grid['rows']} rows, and a density can have a "
            "spike on each of them, as high as the scale floor allows",
            remedy,
        )
    gain = parts["floor"].get("gain_by_grid", 0.0)
    heaps = _heaps(grid)
    if gain > _GRID_GAIN and heaps:
        return (
            f"not meaningful: {gain:.2g} nats per row come from density concentrated on y = "
            f"{', '.join(f'{a:.6g}' for a in heaps)}, not from a better prediction of y",
            f"learn the probability of each with x: MDNRegressor(atoms={heaps})",
        )
    if gain > _GRID_GAIN:
        where = (
            f"the step {grid['step']:.4g} to which y is rounded"
            if grid["step"] is not None
            else f"values that repeat ({grid['repeated']:.0%} of the rows)"
        )
        return (
            f"not meaningful: {gain:.2g} nats per row come from density concentrated on {where}, "
            "not from a better prediction of y",
            remedy,
        )
    return None


def _heaps(grid: dict[str, Any]) -> list[float]:
    """Values that many rows have while hardly any other repeats; none if others do."""
    least = max(_FEW_VALUES, _HEAP * grid["rows"])
    found = [(value, times) for value, times in grid["heaps"] if times >= least]
    others = grid["repeated"] - sum(times for _, times in found) / grid["rows"]
    return sorted(value for value, _ in found) if others < _HEAP else []


def _worse_on_held_out_rows(parts: dict[str, Any]) -> Found:
    fit = parts["fit"]
    if "gap" not in fit:
        return None
    gap, error = fit["gap"], fit["gap_standard_error"]
    significant = gap > _GAP_ERRORS * error or fit.get("gap_p_value", 1.0) < _GAP_P
    if not (gap > _GAP and significant):
        return None
    nll, worse = number(parts["unit"]["nll"], 3), number(gap, 2)
    spikes = parts["health"].get("share_on_spikes", 0.0)
    no_density = parts["sign"]["measure"] == "mass" or "train_nll" not in fit
    collapsed = spikes >= _SPIKES and not no_density and not _floor_is_broad(parts["health"])
    narrow = (
        f"{spikes:.0%} of the training rows lie in components far narrower than the errors on "
        "held-out rows"
    )
    if "held_out_nll" in fit:
        return (
            f"overfitting: loss {worse} nats worse than that of the rows which the model held out "
            f"in its own training ({nll} against {number(fit['held_out_nll'], 3)}, standard error "
            f"{number(error, 2)})" + (f"; {narrow}" if collapsed else ""),
            "these rows are less like the training rows than those are like each other: if some "
            "belong together, as repeated measurements of a person, name them by "
            "fit(..., groups=); else fit rows like these too, or use calibration.recalibrate with "
            "some of them" + (", or raise min_scale" if collapsed else ""),
        )
    if collapsed:
        return (
            f"collapse: {narrow}; held-out loss {worse} nats worse than training",
            "raise min_scale (0.05 standard deviations of y rules out spikes), use fewer "
            "components or more rows, and stop training by the held-out loss (fit(..., val=...))",
        )
    return (
        f"overfitting: held-out loss {worse} nats worse than training "
        f"({nll} against {number(fit['train_nll'], 3)}, standard error {number(error, 2)})",
        "use more networks (ensemble_size), each of which holds other rows out, fewer components "
        "or hidden units, or more rows"
        if fit["of_regressor"]
        else "stop training at the lowest held-out loss (fit(..., val=...)), use a smaller "
        "network, more weight decay or an ensemble, or more rows",
    )


def _floor_is_broad(health: dict[str, Any]) -> bool:
    """Whether the scale floor is known to rule out spikes."""
    floors = health["floor_in_standard_deviations"] if health.get("floor_known") else [0.0]
    return min(floors) >= (1 - _ROUNDING) * _HARMLESS_FLOOR


def _spikes(parts: dict[str, Any]) -> Found:
    health = parts["health"]
    if parts["sign"]["measure"] == "mass" or not health.get("components"):
        return None
    held_out = "gap" in parts["fit"]
    broad = _floor_is_broad(health)
    at = health.get("share_at_floor", 0.0)
    if at >= _AT_FLOOR and not broad:
        return (
            f"suspicious: {at:.0%} of rows are at the scale floor, which determines the loss",
            "if y is not an exact function of x, raise min_scale and compare the held-out loss; "
            + ("" if held_out else "pass held-out rows and train=(X_train, y_train); ")
            + "if it is, report an error in y's unit instead of the NLL",
        )
    if health["on_one_row"] and not broad:
        rows = ", ".join(map(str, health["captured_rows"][:5]))
        some = "row has a spike" if health["on_one_row"] == 1 else "rows have a spike each"
        return (
            f"suspicious: {health['on_one_row']} {some}, a narrow component on no other row (row "
            f"{rows})",
            "raise min_scale or use fewer components; look at these rows",
        )
    if health["share_on_spikes"] >= _SPIKES and not held_out:
        return (
            f"suspicious: {health['share_on_spikes']:.0%} of rows lie in components narrower than "
            "a hundredth of y's spread; either x determines y that well, or the density has "
            "collapsed onto its training rows",
            "pass held-out rows and train=(X_train, y_train)",
        )
    return None


def _misspecified(parts: dict[str, Any]) -> Found:
    fit, unit = parts["fit"], parts["unit"]
    cost = fit.get("worst_cost", 0.0)
    if cost > _COST and fit["worst_p_value"] < _COST_P:
        kind = "PIT is" if fit["kind"] == "PIT" else "HDR values are"
        where = f" in groups by {fit['where']}" if fit["where"] else ""
        spread = fit["variance_times_12"]
        narrow = fit["above_expected"] > _GAP_ERRORS * fit["above_expected_standard_error"]
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
            "use more components or another family, scales that depend on x, features that are "
            "missing; without a new fit calibration.recalibrate on held-out rows corrects a part",
        )
    gain = unit.get("gain_over_marginal")
    if (
        gain
        and gain["nats"] < -_WORSE
        and gain["nats"] < -_GAP_ERRORS * gain["standard_error_nats"]
    ):
        worse = f"misspecified: {-gain['nats']:.2g} nats per row worse than the "
        if "confidence" in fit:
            return (
                f"{worse}frequencies of the classes, which ignore x: the likeliest class has a "
                f"probability of {fit['confidence']:.0%} on average and is right in "
                f"{unit['accuracy']:.0%} of rows",
                _remedy_for_classes(fit),
            )
        return (
            f"{worse}density of y that ignores x",
            "look for an error in the units or in the order of the rows; train longer, or scale X "
            "and y",
        )
    return None


def _remedy_for_classes(fit: dict[str, Any]) -> str:
    look = "look for an error in the order of the rows or of the classes, "
    if fit["confidence_z"] < -_GAP_ERRORS:
        return (
            f"{look}for log-probabilities passed as probs=, and for a network trained by NLLLoss "
            "on the output of Softmax in place of LogSoftmax, which learns no probabilities; else "
            "stop training at the lowest held-out loss (fit(..., val=...))"
        )
    return f"{look}and for log-probabilities passed as probs=; train longer, or scale X"


def _dominated(parts: dict[str, Any]) -> Found:
    health, mean = parts["health"], parts["unit"]["nll"]
    rise = mean - health["nll_without_worst"]
    if rise <= _WORST_ROWS:
        return None
    rows = ", ".join(map(str, health["worst_rows"][:3]))
    return (
        f"suspicious: {health['worst_share_rows']} of {parts['sign']['rows']} rows contribute "
        f"{rise:.2g} nats to the mean loss (the highest: row {rows})",
        "look at these rows for errors; if they are right, use heavier tails (student_t, or one "
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
    if "atoms" in sign:
        places = ", ".join(f"{a:.6g}" for a in sign["atoms"])
        return (
            f"fine: log probabilities where y is {places} ({sign['share_at_atoms']:.0%} of the "
            f"rows), log densities elsewhere; {nll:.3g} nats{gains}",
            "nothing to do; compare losses only in the same unit of y",
        )
    if sign["measure"] == "mixed":
        return (
            "fine: probabilities where y is an interval, densities where it is exact; "
            f"{nll:.3g} nats",
            "nothing to do",
        )
    width = unit.get("equivalent_width")
    size = f" (as sharp as a uniform over {width:.3g} of it)" if width else ""
    if nll < 0:
        why = f"negative because y's unit is large for its noise{size}"
    else:
        why = f"positive because y's unit is small for its noise{size}"
    return f"fine: {why}{gains}", "nothing to do; compare losses only in the same unit of y"


def _remarks(parts: dict[str, Any]) -> list[str]:
    health, fit, grid = parts["health"], parts["fit"], parts["floor"].get("grid")
    found = []
    if "gap" not in fit:
        found.append(
            "without train=(X_train, y_train) overfitting cannot be detected, and on its training "
            "rows every flexible model looks fine"
        )
    elif "held_out_nll" in fit and fit["gap"] < -max(
        _COST, _GAP_ERRORS * fit["gap_standard_error"]
    ):
        found.append(
            f"these rows are predicted {number(-fit['gap'], 2)} nats better than those that the "
            "model held out in its training: if it was trained on them, their loss is not that of "
            "new rows"
        )
    count, networks = health.get("components", 0), max(1, health.get("networks", 1))
    enough = health.get("enough_components", count)
    if count and networks == 1 and (health["dead"] or health["duplicated"] or 2 * enough <= count):
        found.append(
            f"more components than are used: of {count}, {health['dead']} are dead and "
            f"{health['duplicated']} duplicated; merged to {enough} per row they would lose under "
            "0.05 nats. This does not harm the density"
        )
    many_values = grid is not None and grid["distinct"] > _FEW_VALUES
    if many_values and grid["step"] is not None and grid["repeated"] > 0:
        found.append(
            f"y is rounded to steps of {grid['step']:.4g} ({grid['repeated']:.0%} of the rows "
            "share their value); a density much narrower than that has spikes on them"
        )
    if parts["sign"]["rows"] < _FEW_ROWS:
        found.append(f"{parts['sign']['rows']} rows are few: the tests have little power")
    value, times = grid["heaps"][0] if many_values and grid["heaps"] else (0.0, 0)
    if many_values and times >= max(_FEW_VALUES, _HEAP * grid["rows"]):
        found.append(
            f"{times} of {grid['rows']} rows have y = {value:.6g} exactly: if they were recorded "
            "more coarsely than the others, a narrow component there has learnt the rounding, not "
            "y; if that value has a probability of its own, name it: MDNRegressor(atoms=...)"
        )
    if health.get("share_at_floor", 0.0) >= _AT_FLOOR:
        found.append(
            f"{health['share_at_floor']:.0%} of rows are at the scale floor of "
            f"{min(health['floor_in_standard_deviations']):.2g} standard deviations of y"
        )
    if fit.get("logits_like_probabilities"):
        found.append(
            "the logits of each row look like probabilities, from 0 to 1 with the sum 1: if they "
            "are the output of Softmax, it was applied twice; then pass Categorical(probs=...), "
            "and train by NLLLoss on LogSoftmax"
        )
    if health.get("floor_known") is False:
        found.append("the scale floor is not known: the head's output is transformed afterwards")
    p = fit.get("p_value", 1.0)
    if p < _DEVIATES_P and fit["worst_cost"] <= _COST:
        verb = "deviates" if fit["kind"] == "PIT" else "deviate"
        found.append(
            f"nearly calibrated: the {fit['kind']} {verb} from uniform (p = {p:.1g}), at a small "
            f"cost of {max(0.0, fit['worst_cost']):.2g} nats per row"
        )
    return found

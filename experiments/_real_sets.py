"""How each data set of the experiment ``real`` is split, fitted and plotted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_diabetes

from mdn.datasets import load_old_faithful

from . import _classic
from ._classic import Classic
from ._density import SMALL, Floats

__all__ = ["Plan", "plans"]


class Plan(NamedTuple):
    """How a data set is used.

    Attributes:
        title: title of its section on the page.
        data: the data set.
        folds: number of folds of the cross-validation; 1 for a single split.
        options: of ``MDNRegressor``.
        cuts: features at which p(y|x) is plotted, (C, F); none for the galaxies, where ambiguous
            ones are chosen after the fit.
        cut_names: names of the C cuts.
    """

    title: str
    data: Classic
    folds: int
    options: dict[str, Any]
    cuts: Floats
    cut_names: tuple[str, ...]


def plans(fast: bool) -> dict[str, Plan | None]:
    """Returns the plan of each set by name; None if its file does not exist."""
    faithful = load_old_faithful()
    geyser = Classic(faithful.X, faithful.y, ("wait [min]",), "duration", "min", faithful.source)
    small = {**SMALL, "max_epochs": 40}
    found: dict[str, Plan | None] = {
        "old-faithful": Plan(
            "Old Faithful: how long an eruption lasts, given the wait before it",
            geyser,
            2 if fast else 5,
            {"min_scale": 0.1, **(small if fast else {})},
            np.array([[55.0], [70.0], [80.0]]),
            ("wait 55 min", "wait 70 min", "wait 80 min"),
        )
    }
    if fast:
        X, y = load_diabetes(return_X_y=True, scaled=False)
        names = load_diabetes().feature_names
        order = [2, *(i for i in range(X.shape[1]) if i != 2)]  # the body mass index first
        middle = np.median(X[:, order], axis=0)
        cuts = np.array([[bmi, *middle[1:]] for bmi in (20.0, 35.0)])
        found["diabetes"] = Plan(
            "Diabetes: progression after a year",
            Classic(
                X[:, order],
                y,
                ("body mass index [kg/m²]", *(names[i] for i in order[1:])),
                "progression",
                "1",
                "B. Efron, T. Hastie, I. Johnstone and R. Tibshirani (2004), Ann. Statist. 32",
            ),
            1,
            {"min_scale": 0.05, **small},
            cuts,
            ("body mass index 20", "body mass index 35"),
        )
        return found
    found["motorcycle"] = _one_feature(
        _classic.motorcycle(),
        "Motorcycle: acceleration of the head in an impact",
        5,
        {"min_scale": 0.05},
        {"10 ms": 10.0, "20 ms": 20.0, "33 ms": 33.0},
    )
    found["speed-flow"] = _one_feature(
        _classic.speed_flow(),
        "Motorway: speed at a given flow",
        1,
        {"min_scale": 0.05},
        {"600 per hour": 600.0, "1200 per hour": 1200.0, "1600 per hour": 1600.0},
    )
    found["temperature"] = _one_feature(
        _classic.temperature(),
        "Melbourne: tomorrow's maximum temperature",
        1,
        {"min_scale": 0.05, "preset": "fast"},
        {"today 15 °C": 15.0, "today 25 °C": 25.0, "today 38 °C": 38.0},
    )
    galaxies = _classic.photoz()
    found["photoz"] = galaxies and Plan(
        "Photometric redshift: how far a galaxy is, from its light in six bands",
        galaxies,
        1,
        {"preset": "fast"},
        np.empty((0, galaxies.X.shape[1])),
        (),
    )
    taxi = _classic.taxi()
    found["taxi"] = taxi and _taxi_plan(taxi)
    return found


def _one_feature(
    data: Classic | None,
    title: str,
    folds: int,
    options: dict[str, Any],
    cuts: dict[str, float],
) -> Plan | None:
    if data is None:
        return None
    return Plan(title, data, folds, options, np.array([list(cuts.values())]).T, tuple(cuts))


def _taxi_plan(data: Classic) -> Plan:
    row = np.median(data.X, axis=0)
    at = {name: i for i, name in enumerate(data.features)}
    cuts = np.tile(row, (3, 1))
    for cut, (distance, hour) in zip(cuts, ((2.0, 4.0), (2.0, 17.0), (8.0, 17.0)), strict=True):
        cut[at["distance [miles]"]], cut[at["hour of the day [h]"]] = distance, hour
    return Plan(
        "New York: how long a taxi trip takes",
        data,
        1,
        {"preset": "fast"},
        cuts,
        ("2 miles at 4 h", "2 miles at 17 h", "8 miles at 17 h"),
    )

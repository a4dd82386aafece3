"""Small real data sets that ship with the package, as plain arrays with their units.

::

    data = load_old_faithful()
    data.X  # (N, F) features, one row an observation
    data.y  # (N,) target

NumPy only: nothing here knows a model.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "load_old_faithful"]


class Dataset(NamedTuple):
    """Features and a target, with the names and units that a plot or a report needs.

    Attributes:
        X: Features, shape (N, F), float64, each column in its unit of `x_units`.
        y: Target, shape (N,), float64, in `y_unit`.
        feature_names: F names, in the order of the columns of `X`.
        target_name: Name of the target.
        x_units: F units, in the order of the columns of `X`.
        y_unit: Unit of the target.
        description: What was observed, where and when.
        source: The publication the data come from.
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    feature_names: tuple[str, ...]
    target_name: str
    x_units: tuple[str, ...]
    y_unit: str
    description: str
    source: str


def load_old_faithful() -> Dataset:
    """Load 299 eruptions of Old Faithful: how long one lasts, given the wait before it.

    The feature is the waiting time from the previous eruption to this one, the target the
    duration of this eruption, both in minutes. All 92 eruptions after a wait of less than 65 min
    are long ones (over 3 min). After a wait of 70 min or more, 85 of 191 are long (about 4 min)
    and the others short (about 2 min), and only 11 last between 2.5 and 3.5 min: the conditional
    mean is a duration that hardly ever happens. So this is a small real case for a mixture, with
    one mode at the left of the plot and two at the right.

    Two things to know before reading a likelihood off these data:

    - Durations were timed to the second, so `y` lies on a grid of 1/60 min.
    - Some durations at night were noted only as "short", "medium" or "long", and the source codes
      them as 2, 3 and 4 minutes. So 4 occurs 53 times and 2 occurs 23 times (3 occurs twice); the
      record does not say which of these were timed. A density model that may be as narrow as it
      likes puts a spike on such ties and gains log likelihood without learning anything.

    Rows are in order of time and successive eruptions are dependent (a wait follows from the
    duration before it), so the rows are not independent draws.

    Returns:
        A `Dataset` with `X` (299, 1), waiting time in min, and `y` (299,), duration in min.

    Example:
        >>> from mdn.datasets import load_old_faithful
        >>> data = load_old_faithful()
        >>> data.X.shape, data.y.shape, data.feature_names, data.x_units, data.y_unit
        ((299, 1), (299,), ('waiting',), ('min',), 'min')
        >>> print(f"{data.X.mean():.2f} min of waiting, {data.y.mean():.2f} min of eruption")
        72.31 min of waiting, 3.46 min of eruption

    References:
        A. Azzalini and A. W. Bowman (1990). A look at some data on the Old Faithful geyser.
        Applied Statistics 39, 357-365.
    """
    table = _read_csv("old_faithful.csv")  # (299, 2): waiting, duration
    return Dataset(
        X=table[:, :1].copy(),
        y=table[:, 1].copy(),
        feature_names=("waiting",),
        target_name="duration",
        x_units=("min",),
        y_unit="min",
        description=(
            "Successive eruptions of the Old Faithful geyser, Yellowstone National Park, Wyoming, "
            "1 to 15 August 1985: the wait before an eruption and how long it lasted. Some "
            "durations at night were noted only as short, medium or long, coded 2, 3 and 4 min."
        ),
        source=(
            "A. Azzalini and A. W. Bowman (1990), A look at some data on the Old Faithful geyser, "
            "Applied Statistics 39, 357-365; values as in the data set geyser of the R package MASS"
        ),
    )


def _read_csv(name: str) -> NDArray[np.float64]:
    """Return the numbers below the header of a file in mdn/data; lines with # are comments."""
    text = (files("mdn") / "data" / name).read_text(encoding="utf-8")
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    return np.array(rows[1:], dtype=np.float64)  # rows[0] is the header

"""Real data sets that are read from a local folder, with their units and sources."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import os
from collections.abc import Callable
from datetime import datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdn.datasets import DATA_VARIABLE

__all__ = ["Classic", "folder", "motorcycle", "photoz", "speed_flow", "taxi", "temperature"]

Floats = NDArray[np.floating[Any]]

_SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_SHA256 = {
    "classic/mcycle.csv.gz": "dc6b5f0e9e7406fbac7ee5895b035d15d661084cfc76eb818cb0a6de747314f9",
    "classic/speedflow_lane2.csv.gz": (
        "0b7c6a8a688843e86d3aa2139f1be8197c799740196a8fcbd9e68d2e7d504550"
    ),
    "classic/melbourne_maxtemp.csv.gz": (
        "d36b6d6d0cea6dc6d3e91a24d4616df9b49ac52720e7a9ae122bd9db730917a5"
    ),
    "classic/nyc_taxis.csv.gz": "63c99974cbbcca40daf96c830e5b8220b1d6d2b2132866ccffc8286c1c3c9a39",
    "photoz/dc2_photoz.npz": "949ea23d21b53c9e4d148bd1a5b3a1b8f847dbebe63ed8afb75cf4dccdb4dc38",
}
_NOT_DETECTED = 99.0  # code of a magnitude and its error if the galaxy is not detected in the band


class Classic(NamedTuple):
    """Features and a target with their units.

    Attributes:
        X: features, (N, F).
        y: target, (N,).
        features: names of the columns, with units.
        target: name of the target.
        unit: unit of the target.
        source: where the data come from.
        n_train: number of training rows if the source has a split (they come first), else None.
    """

    X: Floats
    y: Floats
    features: tuple[str, ...]
    target: str
    unit: str
    source: str
    n_train: int | None = None


def folder() -> Path | None:
    """Returns the folder named by MDN_DATA, else shared/data next to the repository, else None."""
    named = os.environ.get(DATA_VARIABLE)
    path = Path(named) if named else _SHARED_DATA
    return path if path.is_dir() else None


def motorcycle() -> Classic | None:
    """Reads 133 measurements of a helmet's acceleration after an impact."""
    return _pairs(
        "classic/mcycle.csv.gz",
        ("times", "accel"),
        ("time after impact [ms]", "acceleration", "g"),
        "B. W. Silverman (1985), J. R. Stat. Soc. B 47, 1-52; as in the R package MASS",
    )


def speed_flow() -> Classic | None:
    """Reads 1318 measurements of speed and flow on a lane of a Californian motorway."""
    return _pairs(
        "classic/speedflow_lane2.csv.gz",
        ("flow", "speed"),
        ("flow [vehicles per hour]", "speed", "mph"),
        "K. F. Petty et al. (1996); J. Einbeck and G. Tutz (2006), Applied Statistics 55, 461-475; "
        "lane 2, as in the R package hdrcde",
    )


def temperature() -> Classic | None:
    """Reads the daily maximum temperature in Melbourne, 1981 to 1990: each day and the next."""
    return _pairs(
        "classic/melbourne_maxtemp.csv.gz",
        ("today", "tomorrow"),
        ("maximum temperature today [°C]", "maximum temperature tomorrow", "°C"),
        "R. J. Hyndman, D. M. Bashtannyk and G. K. Grunwald (1996), J. Comput. Graph. Stat. 5, "
        "315-336; as in the R package hdrcde",
    )


def photoz() -> Classic | None:
    """Reads simulated galaxies with magnitudes in six bands and their redshift.

    A band without a detection gets the faintest magnitude and the largest error of the training
    rows.  The features are the magnitude in i, the five colours and the logarithms of the errors.
    """
    content = _read("photoz/dc2_photoz.npz")
    if content is None:
        return None
    with np.load(BytesIO(content)) as arrays:
        raw = np.concatenate([arrays["X_train"], arrays["X_test"]]).astype(np.float64)
        y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.float64)
        n_train = len(arrays["y_train"])
    detected = np.isfinite(raw) & (raw != _NOT_DETECTED)
    faintest = np.where(detected, raw, -np.inf)[:n_train].max(0)
    raw = np.where(detected, raw, faintest)
    magnitude, error = raw[:, :6], raw[:, 6:]
    X = np.column_stack([magnitude[:, 3], -np.diff(magnitude, axis=1), np.log10(error)])
    bands = "ugrizy"
    names = ["i [mag]", *(f"{a} - {b} [mag]" for a, b in itertools.pairwise(bands))]
    names += [f"log10 error of {band}" for band in bands]
    return Classic(
        X, y, tuple(names), "redshift", "1", "LSST DESC DC2 simulation, as in rail_base", n_train
    )


def taxi() -> Classic | None:
    """Reads 6433 taxi trips in New York, March 2019; the target is the duration of a trip."""
    content = _read("classic/nyc_taxis.csv.gz")
    if content is None:
        return None
    rows = list(csv.DictReader(StringIO(gzip.decompress(content).decode())))
    boroughs = ("Manhattan", "Queens", "Brooklyn", "Bronx")
    columns: dict[str, Callable[[dict[str, str], datetime], float]] = {
        "distance [miles]": lambda row, at: float(row["distance"]),
        "hour of the day [h]": lambda row, at: at.hour + at.minute / 60,
        "weekday (Monday is 0)": lambda row, at: at.weekday(),
        "passengers": lambda row, at: float(row["passengers"]),
        "green cab": lambda row, at: float(row["color"] == "green"),
    }
    for end in ("pickup", "dropoff"):
        for borough in boroughs:
            columns[f"{end} in {borough}"] = lambda row, at, end=end, borough=borough: float(
                row[f"{end}_borough"] == borough
            )
    times = [datetime.fromisoformat(row["pickup"]) for row in rows]
    X = np.array(
        [[make(row, at) for make in columns.values()] for row, at in zip(rows, times, strict=True)]
    )
    y = np.array([float(row["duration_s"]) / 60 for row in rows])
    return Classic(
        X,
        y,
        tuple(columns),
        "duration of the trip",
        "min",
        "NYC Taxi and Limousine Commission, as in the example data of seaborn",
    )


def _pairs(
    path: str, columns: tuple[str, str], names: tuple[str, str, str], source: str
) -> Classic | None:
    """Reads a set of one feature and one target."""
    content = _read(path)
    if content is None:
        return None
    rows = list(csv.DictReader(StringIO(gzip.decompress(content).decode())))
    x, y = (np.array([float(row[column]) for row in rows]) for column in columns)
    return Classic(x[:, None], y, (names[0],), names[1], names[2], source)


def _read(path: str) -> bytes | None:
    """Returns the content of a file, or None if it does not exist; checks its SHA-256."""
    root = folder()
    if root is None or not (root / path).is_file():
        return None
    content = (root / path).read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), _SHA256[path]
    if found != expected:
        raise ValueError(
            f"{root / path} is not the known copy: its SHA-256 must start with {expected[:12]}; "
            f"got {found[:12]}"
        )
    return content

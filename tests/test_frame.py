"""``predict_frame``: the language of columns, and the tables that come back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import integrate, optimize, stats

from mdn import MDNRegressor

EVERY = (
    "mean,sd,median,mode,q05,q97.5,interval90,hdr80,p_above:.5,p_below:0.5,density,nll,crps,"
    "sample:2,aleatoric,epistemic"
)


def table(n: int = 90) -> pd.DataFrame:
    """Features, the target and an identifier; neither in the order of the fit."""
    rng = np.random.default_rng(0)
    area, kind = rng.uniform(size=n), rng.choice(["flat", "house"], n)
    price = area + 0.1 * rng.normal(size=n)
    return pd.DataFrame({"id": np.arange(n), "price": price, "kind": kind, "area": area})


def small(**options: Any) -> MDNRegressor:
    return MDNRegressor(preset="fast", ensemble_size=4, max_epochs=20, random_state=0, **options)


@pytest.fixture(scope="module")
def model() -> MDNRegressor:
    data = table()
    return small().fit(data[["area", "kind"]], data["price"])


def test_every_column_is_right(model: MDNRegressor) -> None:
    """Of the density rebuilt in SciPy from the components of each row."""
    data = table()[:3].set_index(pd.Index(["a", "b", "c"]))
    found = model.predict_frame(data, EVERY, random_state=1)
    assert list(found.index) == ["a", "b", "c"]
    mixture = model.predict_distribution(data[["area", "kind"]])
    for row in range(3):
        weight, loc, scale = (
            a[row].numpy() for a in (mixture.weights, mixture.loc[..., 0], mixture.scale[..., 0])
        )

        def pdf(y: Any, w: Any = weight, m: Any = loc, s: Any = scale) -> Any:
            return float(w @ stats.norm.pdf(y, m, s))

        def cdf(y: Any, w: Any = weight, m: Any = loc, s: Any = scale) -> Any:
            return float(w @ stats.norm.cdf(y, m, s))

        def quantile(p: float, cdf: Any = cdf) -> float:
            return float(optimize.brentq(lambda at: cdf(at) - p, -50, 50, xtol=1e-13))

        mean = weight @ loc
        y = float(data["price"].iloc[row])
        wide = [float(loc.min() - 12 * scale.max()), float(loc.max() + 12 * scale.max())]
        crps = integrate.quad(lambda t, y=y, cdf=cdf: (cdf(t) - (t >= y)) ** 2, *wide, points=[y])
        want = {
            "mean": mean,
            "sd": np.sqrt(weight @ (scale**2 + (loc - mean) ** 2)),
            "median": quantile(0.5),
            "q05": quantile(0.05),
            "q97.5": quantile(0.975),
            "interval90_low": quantile(0.05),
            "interval90_high": quantile(0.95),
            "p_above:.5": 1 - cdf(0.5),
            "p_below:0.5": cdf(0.5),
            "density": pdf(y),
            "nll": -np.log(pdf(y)),
            "crps": crps[0],
        }
        got = found.iloc[row]
        for name, value in want.items():
            assert got[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        places = np.linspace(*wide, 20_001)
        heights = np.exp(stats.norm.logpdf(places[:, None], loc, scale)) @ weight
        assert pdf(got["mode"]) >= heights.max() * (1 - 1e-9)
        region = json.loads(got["hdr80"])
        assert sum(cdf(b) - cdf(a) for a, b in region) == pytest.approx(0.8, abs=1e-6)
        ends = [pdf(end) for pair in region for end in pair]
        assert ends == pytest.approx([ends[0]] * len(ends), rel=1e-4)
    parts = model.predict_uncertainty(data[["area", "kind"]])
    np.testing.assert_array_equal(found["aleatoric"], parts[0])
    np.testing.assert_array_equal(found["epistemic"], parts[1])


def test_draws_follow_the_density_and_the_seed(model: MDNRegressor) -> None:
    """Kolmogorov's distance to the cdf of the row; the same seed gives the same draws."""
    row = table()[:1]
    drawn = model.predict_frame(row, "sample:2000", random_state=0).to_numpy()[0]
    again = model.predict_frame(row, ["sample:2000"], random_state=0).to_numpy()[0]
    np.testing.assert_array_equal(drawn, again)
    features = row[["area", "kind"]]
    at = pd.concat([features] * len(drawn))
    assert stats.kstest(model.predict_cdf(at, drawn), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_the_table_is_of_the_kind_that_was_given(model: MDNRegressor, kind: str) -> None:
    """One row for each row, in their order, with the columns in the order they were asked in."""
    data = table()
    given = {"pandas": data, "polars": pl.from_pandas(data), "pyarrow": pa.table(data)}[kind]
    found = model.predict_frame(given, "q50, nll, interval90, hdr50")
    assert type(found) is type(given)
    names = ["q50", "nll", "interval90_low", "interval90_high", "hdr50"]
    as_pandas = found if kind == "pandas" else found.to_pandas()
    assert list(as_pandas.columns) == names
    want = model.predict_quantiles(data[["area", "kind"]], [0.5])[:, 0]
    np.testing.assert_allclose(as_pandas["q50"], want, rtol=1e-12)


def test_arrays_and_the_default_columns() -> None:
    """Of a model without names: an array gives an array, of numbers alone."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 2))
    model = small().fit(X, X[:, 0])
    found = model.predict_frame(X)
    assert found.shape == (60, 5)
    np.testing.assert_array_equal(found[:, 0], model.predict(X))
    with pytest.raises(ValueError, match=r"'hdr90', which is a text .* data frame"):
        model.predict_frame(X, "hdr90")
    with pytest.raises(ValueError, match=r"'nll', which needs the observed y: give a data frame"):
        model.predict_frame(X, "nll")
    frame = pd.DataFrame(X, columns=["a", "b"])
    with pytest.raises(ValueError, match="does not know the name of its column"):
        model.predict_frame(frame, "crps")


def test_several_targets_have_a_column_each() -> None:
    """The density is of all together; the rest is of each."""
    data = table(60)
    data["rent"] = 2 * data["price"] + 1
    model = small().fit(data[["area"]], data[["price", "rent"]])
    found = model.predict_frame(data, "mean,interval80,nll,sample:1")
    assert list(found.columns) == [
        *("mean_price", "mean_rent", "interval80_low_price", "interval80_low_rent"),
        *("interval80_high_price", "interval80_high_rent", "nll", "sample_1_price"),
        "sample_1_rent",
    ]
    np.testing.assert_array_equal(found[["mean_price", "mean_rent"]], model.predict(data[["area"]]))
    want = -model.log_prob(data[["area"]], data[["price", "rent"]])
    np.testing.assert_array_equal(found["nll"], want)
    with pytest.raises(ValueError, match="hdr, which is for one target; the model has 2"):
        model.predict_frame(data, "hdr90")


def test_probabilities_at_an_atom() -> None:
    """P(Y > 0) leaves the atom out and P(Y <= 0) has it."""
    rng = np.random.default_rng(2)
    x = rng.uniform(size=300)
    y = np.where(rng.uniform(size=300) < 0.5, 0.0, 1 + x)
    data = pd.DataFrame({"x": x, "rain": y})
    model = small(atoms=[0.0]).fit(data[["x"]], data["rain"])
    found = model.predict_frame(data, "p_above:0,p_below:0,nll")
    np.testing.assert_allclose(found["p_above:0"] + found["p_below:0"], 1, rtol=1e-12)
    zero = data["rain"] == 0
    np.testing.assert_allclose(np.exp(-found["nll"][zero]), found["p_below:0"][zero], rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("mena", ValueError, "columns must be of mean, sd, .*; got 'mena'"),
        ("q100", ValueError, r"percentages between 0 and 100, both excluded; got 'q100'"),
        ("mean,mean", ValueError, "got 'mean' twice"),
        ("sample:2,sample:1", ValueError, "got 'sample_1' twice"),
        ("sample:0", ValueError, "at least one draw; got 'sample:0'"),
        ([], ValueError, "at least one of .*; got none"),
        ([0.5], TypeError, "texts such as 'mean'; got 0.5"),
        ("p_above:x", ValueError, "got 'p_above:x'"),
    ],
)
def test_bad_columns(
    model: MDNRegressor, columns: Any, error: type[Exception], message: str
) -> None:
    """Each in one sentence that says what may stand there."""
    with pytest.raises(error, match=message):
        model.predict_frame(table(), columns)


def test_bad_tables(model: MDNRegressor) -> None:
    """What is missing is named; so is a y that is not finite."""
    data = table()
    with pytest.raises(ValueError, match="table must have the columns of the fit; it lacks 'kind'"):
        model.predict_frame(data[["area"]])
    with pytest.raises(ValueError, match="'nll', which needs the observed y; table lacks 'price'"):
        model.predict_frame(data[["area", "kind"]], "nll")
    data.loc[3, "price"] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        model.predict_frame(data, "crps")

"""Every plot takes every kind of model, table and distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from mdn import (
    AtomicMixture,
    DiscretizedMixture,
    GaussianMixture,
    MDNRegressor,
    Mixture,
    TruncatedMixture,
    explain_nll,
    plot,
)
from mdn.distribution import PointMass
from mdn.prediction import predict_distribution
from tests.test_plot import SCALES, WEIGHTS, fork, fork_cdf, fork_pdf, image

X = np.linspace(1.0, 4.0, 30)[:, None]
Y = np.where(np.arange(30) % 3 == 0, -X[:, 0], X[:, 0])


def plane(x: torch.Tensor) -> GaussianMixture:
    """Two independent targets, standard normal around (x, -x)."""
    return GaussianMixture(torch.zeros(1), torch.cat([x, -x], -1)[:, None], torch.ones(1, 2))


OVER_A_FEATURE: dict[str, Callable[..., Axes]] = {
    "density": lambda model, x, **k: plot.plot_density(model, x, Y, n_grid=30, **k),
    "feature": lambda model, x, **k: plot.plot_feature(model, x, n_grid=30, **k),
    "fan": lambda model, x, **k: plot.plot_fan(model, x, Y, n_grid=30, **k),
    "modes": lambda model, x, **k: plot.plot_modes(model, x, Y, n_grid=30, **k),
    "weights": lambda model, x, **k: plot.plot_weights(model, x, n_grid=30, **k),
}
AT_ROWS: dict[str, Callable[..., Axes]] = {
    "conditional": lambda model, x, **k: plot.plot_conditional(model, x[:1], **k),
    "conditionals": lambda model, x, **k: plot.plot_conditional(model, x[:3], **k),
    "ridge": lambda model, x, **k: plot.plot_ridge(model, x[:10], **k),
}
TWO_TARGETS: dict[str, Callable[..., Axes]] = {
    "contours": lambda model, x, **k: plot.plot_contours(model, x[:1], n_grid=30, **k)
}
DRAW = OVER_A_FEATURE | AT_ROWS | TWO_TARGETS


def test_every_plot_of_a_model_is_here() -> None:
    """A new function that takes a model must be added here."""
    given = {"coverage", "history", "pit", "sharpness", "units", "waterfall"}
    assert {f"plot_{name}" for name in (DRAW.keys() - {"conditionals"}) | given} == {
        *plot.__all__
    } - {"panels"}


class Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor whose p(y|X) is a function of the numbers in X."""

    def __init__(self, law: Any = fork) -> None:
        self.law = law

    def fit(self, X: Any, y: Any) -> Regressor:
        self.fitted_ = True
        return self

    def predict_distribution(self, X: Any) -> Any:
        return self.law(torch.as_tensor(np.array(X, dtype=np.float64)))


class Module(torch.nn.Module):
    def __init__(self, law: Any) -> None:
        super().__init__()
        self.law, self.one = law, torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> Any:
        return self.law(x * self.one)


KINDS: dict[str, Callable[[Any], Any]] = {
    "regressor": Regressor,
    "pipeline": lambda law: make_pipeline(
        FunctionTransformer(np.negative), Regressor(lambda x: law(-x))
    ).fit(X, Y),
    "module": Module,
}


def picture(draw: Callable[..., Axes], model: Any, x: Any) -> np.ndarray:
    """The colours of a small picture, 0 to 255."""
    figure = Figure(figsize=(4.0, 3.0), dpi=50)
    canvas = FigureCanvasAgg(figure)
    draw(model, x, ax=figure.subplots())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


@cache
def picture_of_the_callable(name: str) -> np.ndarray:
    return picture(DRAW[name], plane if name in TWO_TARGETS else fork, X)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_gives_the_picture_of_the_callable(kind: str, name: str) -> None:
    """The same p(y|x) gives the same picture, up to the float32 that a callable gets."""
    law = plane if name in TWO_TARGETS else fork
    wanted = picture_of_the_callable(name)
    assert np.abs(picture(DRAW[name], KINDS[kind](law), X) - wanted).mean() < 0.5


@pytest.mark.parametrize("name", DRAW)
def test_a_distribution_stands_for_every_x(name: str) -> None:
    """One of batch () gives the picture of the model that returns it at every x."""
    dist = (plane if name in TWO_TARGETS else fork)(torch.tensor([[2.0]]))[0]
    assert dist.batch_shape == ()
    wanted = picture(DRAW[name], lambda x: dist.expand((len(x),)), X)
    np.testing.assert_array_equal(picture(DRAW[name], dist, X), wanted)


# -- tables ---------------------------------------------------------------------------------------

COLUMNS = {"wait": X[:, 0], "site": np.array(["north", "south", "north"] * 10), "dry": X[:, 0] > 3}
FRAMES: dict[str, Any] = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


@pytest.mark.parametrize("name", ["density", "ridge"])
@pytest.mark.parametrize("kind", [*FRAMES, "list", "tensor", "vector"])
def test_every_kind_of_table_gives_the_picture_of_the_array(kind: str, name: str) -> None:
    """A column of numbers is the same in a data frame, a list or a tensor."""
    table = FRAMES[kind]({"x": X[:, 0]}) if kind in FRAMES else X[:, 0]
    table = {"list": X.tolist(), "tensor": torch.tensor(X)}.get(kind, table)
    named = kind in FRAMES and name in OVER_A_FEATURE  # the name is the label of the axis
    wanted = picture(DRAW[name], Regressor(), FRAMES["pandas"]({"x": X[:, 0]}) if named else X)
    np.testing.assert_array_equal(picture(DRAW[name], Regressor(), table), wanted)


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_without_numbers_are_held_at_their_most_frequent_value(kind: str) -> None:
    """The model gets a data frame of its kind, whose other columns hold what is most common."""
    seen: list[Any] = []

    class Watching(Regressor):
        def predict_distribution(self, X: Any) -> Any:
            seen.append(X)
            return fork(torch.tensor(np.array(X["wait"]))[:, None])

    table = FRAMES[kind](COLUMNS)
    ax = plot.plot_density(Watching(), table, Y, n_grid=9)
    plot.plot_fan(Watching(), table, at=[2.0, "south", True], n_grid=9)
    assert [type(x) for x in seen] == [type(table)] * 2
    for x, site, dry in zip(seen, ("north", "south"), (False, True), strict=True):
        assert np.array(x["site"]).tolist() == [site] * 9
        assert np.array(x["dry"]).tolist() == [dry] * 9
        np.testing.assert_allclose(np.array(x["wait"]), image(ax)[0])
    assert ax.get_xlabel() == (
        "wait\n(image and mean: the other features at their most\nfrequent values)"
    )


@pytest.mark.parametrize("kind", FRAMES)
def test_a_regressor_fitted_on_mixed_columns_is_drawn(kind: str) -> None:
    """Its categories and missing values go through every plot, as predict_distribution takes them.

    In the row that is drawn the other columns are those of the row.
    """
    columns = {**COLUMNS, "depth": np.where(np.arange(30) % 7 == 0, np.nan, X[:, 0])}
    table = FRAMES[kind](columns)
    model = MDNRegressor(preset="fast", ensemble_size=1, trees=False, max_epochs=2, random_state=0)
    model.fit(table, Y)
    for draw in (OVER_A_FEATURE | AT_ROWS).values():
        draw(model, table, ax=Figure().subplots())
    found = plot.plot_fan(model, table, n_grid=5).get_xlabel()
    assert found == "wait\n(the other features at their medians or most frequent\nvalues)"
    row = [3.0, "south", False, 2.0]
    ax = plot.plot_fan(model, table, at=row, coverage=0.5, n_grid=5)
    held = FRAMES[kind]({k: [v] for k, v in zip(columns, row, strict=True)})
    line = next(line for line in ax.lines if line.get_label() == "median")
    at_row = np.interp(3.0, *line.get_data())
    assert at_row == pytest.approx(float(model.predict_distribution(held).median), abs=0.05)
    names = [
        text.get_text() for text in plot.plot_conditional(model, held).get_legend().get_texts()
    ]
    assert names[0] == "p(y|x = (3, south, False, 2))"


def test_rows_of_objects_are_taken_by_value() -> None:
    """A list of rows with numbers and text is drawn although it is no data frame."""
    rows = [[float(x), site] for x, site in zip(X[:, 0], COLUMNS["site"], strict=True)]
    model = Regressor()
    model.predict_distribution = lambda X: fork(torch.as_tensor(X[:, :1].astype(float)))
    ax = plot.plot_fan(model, rows, coverage=0.5, n_grid=30)
    wanted = plot.plot_fan(fork, X, coverage=0.5, n_grid=30)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), wanted.lines[0].get_ydata(), rtol=1e-5)
    assert ax.get_xlabel() == "x0\n(the other feature at its most frequent value)"
    with pytest.raises(ValueError, match=r"at must hold values of x.*got 'east'"):
        plot.plot_weights(model, rows, at=[1.0, "east"])


# -- features by name, categories and gaps --------------------------------------------------------

SITES = {"north": 3.0, "south": 0.0, "east": -2.0}  # the mean of y at each
HOUSES = {
    "site": [*["south"] * 4, *["north"] * 3, None, "east", "south"],
    "area": [1.0, 2.0, np.nan, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, np.nan],
    "new": [True, False] * 5,
}
PRICES = np.arange(10.0)


class BySite(Regressor):
    """y is normal around the mean of its site plus its area, with scale 0.5, or 1 if new."""

    def predict_distribution(self, X: Any) -> Any:
        loc = np.array([SITES[site] for site in np.array(X["site"]).tolist()])
        loc += np.nan_to_num(np.array(X["area"], dtype=float), nan=50.0)
        scale = torch.as_tensor(np.where(np.array(X["new"]), 1.0, 0.5))
        loc = torch.as_tensor(loc)
        zero = torch.zeros(1, dtype=torch.float64)
        return GaussianMixture(zero, loc[:, None, None], scale[:, None, None])


def houses(kind: str) -> Any:
    """The table as a data frame of each kind; a gap is what that library has for it."""
    if kind == "pyarrow":
        return pa.table({k: pa.array(v, from_pandas=True) for k, v in HOUSES.items()})
    return FRAMES[kind](HOUSES, strict=False) if kind == "polars" else FRAMES[kind](HOUSES)


@pytest.mark.parametrize("kind", FRAMES)
def test_a_category_gets_a_strip_for_each_value(kind: str, ax: Axes) -> None:
    """In the order of their names; each cell is its mean density by SciPy's cdf.

    The others are held at the median of what is there, 5.5, and the value seen first of the most
    frequent ones.  The row without a site is not drawn.
    """
    plot.plot_density(BySite(), houses(kind), PRICES, feature="site", ax=ax, n_grid=40)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["east", "north", "south"]
    mesh = ax.collections[0]
    edges = mesh.get_coordinates()[..., 1][:, 0]  # type: ignore[attr-defined]
    cells = mesh.get_array()
    for strip, mean in zip(cells.T, (-2.0, 3.0, 0.0), strict=True):
        wanted = np.diff(stats.norm.cdf(edges, mean + 5.5, 1.0)) / np.diff(edges)
        np.testing.assert_allclose(strip, wanted, atol=1e-9)
    (points,) = (c for c in ax.collections if c.get_label() == "data")
    at, y = np.asarray(points.get_offsets()).T
    assert np.round(at).tolist() == [2, 2, 2, 2, 1, 1, 1, 0, 2]
    assert y.tolist() == np.delete(PRICES, 7).tolist()
    assert "site has no value in 1 of 10 rows" in ax.get_xlabel().replace("\n", " ")


@pytest.mark.parametrize("kind", FRAMES)
def test_rows_without_the_feature_are_left_out(kind: str, ax: Axes) -> None:
    """The grid goes over the values that there are; the label counts the rows without."""
    plot.plot_fan(BySite(), houses(kind), PRICES, feature="area", ax=ax, coverage=0.5, n_grid=9)
    (points,) = (c for c in ax.collections if c.get_label() == "data")
    wanted = np.delete(np.c_[HOUSES["area"], PRICES], [2, 9], axis=0)
    np.testing.assert_array_equal(points.get_offsets(), wanted)
    x, median = next(line for line in ax.lines if line.get_label() == "median").get_data()
    np.testing.assert_allclose(x, np.linspace(0.84, 9.16, 9))
    np.testing.assert_allclose(median, x)  # in the south, the most frequent site
    assert "area has no value in 2 of 10 rows" in ax.get_xlabel().replace("\n", " ")


@pytest.mark.parametrize("name", ["feature", "fan", "modes", "weights"])
@pytest.mark.parametrize("feature", ["site", "new", 2])
def test_every_plot_over_a_feature_draws_categories(name: str, feature: Any, ax: Axes) -> None:
    """Level pieces, one for each, which no line joins."""
    options: dict[str, Any] = {"coverage": 0.5} if name == "fan" else {}
    getattr(plot, f"plot_{name}")(BySite(), houses("pandas"), feature=feature, ax=ax, **options)
    places = [0, 1, 2] if feature == "site" else [0, 1]
    assert ax.get_xticks().tolist() == places
    label = {"modes": "mean of y given x", "weights": "component 0"}.get(name, "median")
    line = next(line for line in ax.lines if str(line.get_label()).startswith(label))
    x, y = (np.asarray(a).reshape(-1, 3) for a in line.get_data())
    assert np.isnan(x[:, 2]).all() and np.allclose(x[:, :2].mean(1), places)
    np.testing.assert_array_equal(y[:, 0], y[:, 1])
    if feature == "site" and name != "weights":
        assert y[:, 0] == pytest.approx([3.5, 8.5, 5.5])


def test_some_values_are_held_by_name(ax: Axes) -> None:
    """Those that are not given are typical; a whole row may be a Series."""
    table = houses("pandas")
    plot.plot_fan(BySite(), table, feature="area", at={"site": "north"}, coverage=0.5, ax=ax)
    x, median = next(line for line in ax.lines if line.get_label() == "median").get_data()
    np.testing.assert_allclose(median, x + 3.0)
    found = plot.plot_feature(BySite(), table, feature="site", at=table.iloc[4]).get_xlabel()
    assert found == "site\n(the other features as given; site has no value in 1 of\n10 rows)"
    row = plot.plot_feature(BySite(), table, feature="site", at=table.iloc[4])
    assert "the given row, at north" in row.get_legend_handles_labels()[1]
    gap = plot.plot_fan(BySite(), table, feature="site", at=table.iloc[2], coverage=0.5)
    assert np.nanmin(gap.lines[0].get_ydata()) == 48.0  # as the model takes the gap
    one = plot.plot_conditional(BySite(), table.iloc[0])  # a row is no column
    assert one.get_legend_handles_labels()[1][0] == "p(y|x = (south, 1, True))"


def test_categories_come_in_their_order_and_the_rare_ones_are_counted() -> None:
    """Of a categorical its own order; of 20 values the 12 most frequent."""
    sizes = pd.Categorical(["S", "L", "M"] * 2, categories=["S", "M", "L", "XL"], ordered=True)
    law = Regressor()
    law.predict_distribution = lambda X: fork(torch.zeros(len(X), 1) + 1.0)
    enum = pl.Series(list(sizes), dtype=pl.Enum(["S", "M", "L", "XL"]))
    for table in (
        pd.DataFrame({"size": sizes}),
        pd.DataFrame({"size": sizes.as_unordered()}),
        pl.DataFrame({"size": enum}),
    ):
        ax = plot.plot_fan(law, table, coverage=0.5)
        assert [text.get_text() for text in ax.get_xticklabels()] == ["S", "M", "L"]
    many = pd.DataFrame({"id": [f"id{i:02}" for i in range(20)] + ["id19"] * 2})
    ax = plot.plot_fan(law, many, np.arange(22.0), coverage=0.5)
    texts = [text.get_text() for text in ax.get_xticklabels()]
    assert len(texts) == 12 and texts[-1] == "id19"
    assert ax.get_xlabel() == "id\n(intervals and median: the 12 most frequent of 20 values\nof id)"


def test_a_feature_that_is_not_there_is_named() -> None:
    """With the nearest name."""
    table = houses("pandas")
    with pytest.raises(ValueError, match=r"there is no 'are', the nearest is 'area'"):
        plot.plot_density(BySite(), table, PRICES, feature="are")
    with pytest.raises(ValueError, match=r"0 to 2, or its name; got 3"):
        plot.plot_density(BySite(), table, PRICES, feature=3)
    with pytest.raises(ValueError, match=r"0 to 0; got 'area', but x has no names of columns"):
        plot.plot_density(fork, [1.0, 2.0], [1.0, 2.0], feature="area")
    with pytest.raises(TypeError, match=r"at must be a row of x, as x has no names.*'area'"):
        plot.plot_fan(fork, [1.0, 2.0], at={"area": 1.0})
    with pytest.raises(ValueError, match=r"there is no 'are', the nearest is 'area'"):
        plot.plot_fan(BySite(), table, at={"are": 1.0})


def test_a_pipeline_over_a_table_is_drawn_and_explained() -> None:
    """Its own steps encode the strings and fill the gaps; names are those of the table."""
    table = pd.concat([houses("pandas")] * 6, ignore_index=True)
    y = np.arange(60.0) + table["new"]
    onehot, fill = ("onehot", OneHotEncoder(), ["site", "new"]), ("fill", SimpleImputer(), ["area"])
    law = MDNRegressor(preset="fast", ensemble_size=1, trees=False, max_epochs=2, random_state=0)
    pipeline = make_pipeline(ColumnTransformer([onehot, fill]), law).fit(table, y)
    search = GridSearchCV(pipeline, {"mdnregressor__max_epochs": [1, 2]}, cv=2)
    search.fit(table, y)
    for model in (pipeline, search):
        for draw in (plot.plot_density, plot.plot_fan, plot.plot_modes):
            for feature in table.columns:
                draw(model, table, y, feature=feature, n_grid=20, ax=Figure().subplots())
        plot.plot_conditional(model, table[:3], ax=Figure().subplots())
        plot.plot_ridge(model, table[:10], ax=Figure().subplots())
        log_p = predict_distribution(model, table).log_prob(torch.as_tensor(y)[:, None])
        assert explain_nll(model, table, y).unit["nll"] == pytest.approx(-log_p.mean().item())


# -- distributions --------------------------------------------------------------------------------


def student(x: torch.Tensor) -> Mixture:
    loc = torch.stack([x, -x], -2)
    parts = torch.distributions.StudentT(6.0, loc, torch.as_tensor(SCALES)[:, None])
    return Mixture(torch.as_tensor(WEIGHTS).log(), torch.distributions.Independent(parts, 1))


def counts(x: torch.Tensor) -> Mixture:
    rate = torch.stack([3 * x, 8 * x], -2)
    parts = torch.distributions.Independent(torch.distributions.Poisson(rate), 1)
    return Mixture(torch.zeros(2, dtype=torch.float64), parts)


def rain(x: torch.Tensor) -> AtomicMixture:
    """0 with the probability expit(1 - x), 2 with half of the rest, else the fork."""
    log_odds = torch.cat([1.0 - x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    log_odds[..., 0] += math.log(2.0)
    return AtomicMixture(fork(x), torch.tensor([0.0, 2.0], dtype=x.dtype), log_odds)


LAWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "truncated": lambda x: TruncatedMixture(fork(x), -2.5, 2.0),
    "discretized": lambda x: DiscretizedMixture(fork(x), 0.25),
    "mixture": student,
    "counts": counts,
    "atoms": rain,
}


@pytest.mark.parametrize("name", OVER_A_FEATURE | AT_ROWS)
@pytest.mark.parametrize("law", LAWS)
def test_every_distribution_is_drawn(law: str, name: str) -> None:
    """All that have the contract of GaussianMixture: what is drawn are finite numbers."""
    ax = DRAW[name](Regressor(LAWS[law]), X, ax=Figure().subplots())
    drawn = [line.get_ydata() for line in ax.lines]
    assert len(drawn) >= 1
    assert np.isfinite(np.concatenate(drawn)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_a_discrete_curve_is_a_bar_or_a_step_at_each_value(n: int, ax: Axes) -> None:
    """Its height is the probability of the value by SciPy's cdf, and all of them add up to 1.

    One row has bars, which do not touch; several have steps.
    """
    plot.plot_conditional(LAWS["discretized"](torch.full((n, 1), 2.0)), ax=ax)
    y, p = ax.lines[0].get_data()
    if n == 1:
        np.testing.assert_array_equal(p[::4] + p[3::4], 0.0)
        np.testing.assert_allclose(y[2::4] - y[1::4], 0.8 * 0.25)
        y, p = (np.stack([a[1::4], a[2::4]], 1).ravel() for a in (y, p))
    else:
        np.testing.assert_allclose(y[1::2] - y[::2], 0.25)
    centre = (y[::2] + y[1::2]) / 2
    mass = [fork_cdf(c + 0.125, 2.0) - fork_cdf(c - 0.125, 2.0) for c in centre]
    np.testing.assert_allclose(p[::2], mass, rtol=1e-4)
    np.testing.assert_array_equal(p[::2], p[1::2])
    assert p[::2].sum() == pytest.approx(0.999, abs=1e-3)
    assert ax.get_ylabel() == "probability p(y|x)"


def test_zero_inflated_counts_are_whole_numbers(ax: Axes) -> None:
    """Bars of SciPy's probabilities, where a PointMass is among the components."""
    parts = [PointMass(torch.tensor(0.0)), torch.distributions.Poisson(torch.tensor(3.0))]
    plot.plot_conditional(Mixture(torch.tensor([0.4, 0.6]).log(), parts), ax=ax)
    y, p = ax.lines[0].get_data()
    centre = (y[1::4] + y[2::4]) / 2
    np.testing.assert_allclose(centre, centre.round(), atol=1e-6)
    want = 0.6 * stats.poisson.pmf(centre.round(), 3.0) + 0.4 * (centre.round() == 0)
    np.testing.assert_allclose(p[1::4], want, rtol=1e-5)


def test_atoms_are_drawn_by_their_probability(ax: Axes) -> None:
    """At one x on an axis on the right; in an image by a colour from 0 to 1; densities less 1."""
    plot.plot_conditional(rain(torch.tensor([[2.0]])), ax=ax)
    weights = np.array([2 / math.e, 1.0, 1.0]) / (2 / math.e + 2)
    names = ax.get_legend_handles_labels()[1]
    assert [f"P(y = 0) = {weights[0]:.3g}", f"P(y = 2) = {weights[1]:.3g}"] == names[-2:]
    y, p = ax.lines[0].get_data()
    np.testing.assert_allclose(p, weights[2] * fork_pdf(y, np.full_like(y, 2.0)), rtol=1e-4)
    right = ax.figure.axes[-1]
    assert right.get_ylabel() == "probability of y = 0, 2"
    stems = np.array([line.get_data() for line in right.lines])[0]
    np.testing.assert_allclose(stems, [[0.0, 2.0], weights[:2]], rtol=1e-5)
    image_ax = Figure().subplots()
    plot.plot_density(lambda x: rain(x), X, Y, ax=image_ax)
    x, y, density = image(image_ax)
    area = density.sum(0) * np.diff(y).mean()
    share = 1 / (2 * np.exp(1 - x) + 2)
    np.testing.assert_allclose(area[x < 3.0], share[x < 3.0], atol=5e-3)  # else cut by the frame
    lines = [c for c in image_ax.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(lines[1].get_array(), 2 * np.exp(1 - x) * share, rtol=1e-4)
    bars = [a.get_ylabel() for a in image_ax.figure.axes[1:]]
    assert bars == ["density p(y|x) [1/unit of y]", "probability of y = 0, 2"]


def test_the_region_of_a_count_covers_whole_steps(ax: Axes) -> None:
    """The shaded probability is at least the coverage, and less without its least likely value."""
    dist = counts(torch.tensor([[1.0]], dtype=torch.float64))
    plot.plot_conditional(dist, region="hdr", coverage=0.8, ax=ax)
    (shade,) = (c for c in ax.collections if c.get_label().startswith("80 %"))
    ends = [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in shade.get_paths()]
    y = np.arange(30)
    p = (stats.poisson.pmf(y, 3.0) + stats.poisson.pmf(y, 8.0)) / 2
    inside = np.any([(y > low) & (y < high) for low, high in ends], axis=0)
    assert p[inside].sum() >= 0.8 > p[inside].sum() - p[inside].min()


@pytest.mark.parametrize("n_grid", [30, 200])
def test_cells_of_a_discrete_image_hold_equally_many_values(n_grid: int, ax: Axes) -> None:
    """The grid causes no stripes: the colour is the mean probability of a value by SciPy's cdf."""
    plot.plot_density(LAWS["discretized"], X, Y, ax=ax, n_grid=n_grid)
    x, y, density = image(ax)
    step = np.diff(y).mean()
    n_values = step / 0.25
    assert n_values == pytest.approx(round(n_values)) and round(n_values) >= 1
    for i in (0, len(x) // 2):
        mass = [fork_cdf(c + step / 2, x[i]) - fork_cdf(c - step / 2, x[i]) for c in y]
        np.testing.assert_allclose(density[:, i] * n_values, mass, atol=1e-5)
    assert ax.figure.axes[-1].get_ylabel() == "probability p(y|x)"


def test_a_truncated_curve_ends_at_its_bounds(ax: Axes) -> None:
    """It is the density of the mixture over the probability between the bounds, by SciPy."""
    plot.plot_conditional(LAWS["truncated"](torch.tensor([[2.0]])), ax=ax)
    y, p = ax.lines[0].get_data()
    assert y.min() >= -2.5 and y.max() <= 2.0
    inside = fork_cdf(2.0, 2.0) - fork_cdf(-2.5, 2.0)
    np.testing.assert_allclose(p, fork_pdf(y, np.full_like(y, 2.0)) / inside, rtol=1e-4)
    assert np.trapezoid(p, y) == pytest.approx(0.999, abs=1e-3)

"""Calibration and losses: the plots show what was computed, and distinguish models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from mdn import GaussianMixture
from mdn.calibration import CoverageCurve, coverage_curve, pit_histogram, sharpness
from mdn.plot import (
    plot_coverage,
    plot_pit,
    plot_sharpness,
    plot_units,
    plot_waterfall,
)
from tests.figures import faults
from tests.test_plot import labelled, names

N = 2000
FACTORS = {"exact": 1.0, "narrow": 0.6, "wide": 1.6}


@pytest.fixture(scope="module")
def case() -> SimpleNamespace:
    """y normal with a scale from 1 to 3, and three models: exact, too narrow, too wide."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(1.0, 3.0, N)
    y = scale * rng.normal(size=N)
    at = torch.as_tensor(scale)[:, None, None]
    models = {
        name: GaussianMixture(torch.zeros(1), 0 * at, factor * at)
        for name, factor in FACTORS.items()
    }
    return SimpleNamespace(scale=scale, y=y, models=models)


# -- PIT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACTORS)
def test_bars_are_the_counts_and_the_band_is_the_binomial_one(
    name: str, case: Any, ax: Axes
) -> None:
    """Heights add up to N; the band holds 90 % of B(N, 1/B) by SciPy."""
    found = pit_histogram(case.models[name], case.y[:, None], bins=10)
    plot_pit(found, ax=ax)
    bars = ax.containers[0]
    assert [bar.get_height() for bar in bars] == list(found.counts) and found.counts.sum() == N
    assert [bar.get_x() for bar in bars] == pytest.approx(np.arange(10) / 10)
    band = labelled(ax, "90 % band").get_paths()[0].vertices[:, 1]
    ends = stats.binom.ppf([0.05, 0.95], N, 0.1)
    assert [band.min(), band.max()] == pytest.approx(list(ends))


@pytest.mark.parametrize(("name", "most"), [("exact", 3), ("narrow", 10), ("wide", 10)])
def test_bars_outside_the_band_are_hatched(name: str, most: int, case: Any, ax: Axes) -> None:
    """Few for an exact model (this seed: at most 3 of 10), most for the others, both ends included.

    The draws are fixed, so the test fails always or never.
    """
    found = pit_histogram(case.models[name], case.y[:, None], bins=10)
    plot_pit(found, ax=ax)
    hatched = [bool(bar.get_hatch()) for bar in ax.containers[0]]
    assert hatched == [not found.low <= c <= found.high for c in found.counts]
    if name == "exact":
        assert sum(hatched) <= most
    else:
        assert sum(hatched) >= 6 and hatched[0] and hatched[-1]
        assert "rows outside the band" in names(ax)


def test_legend_stands_above_the_bars(ax: Axes) -> None:
    """Also above a band that is higher than the bars."""
    plot_pit(pit_histogram(np.linspace(0, 1, 40), bins=8), ax=ax)
    ax.get_figure().canvas.draw()
    top = ax.transData.transform((0.0, 10.0))[1]
    assert ax.get_legend().get_window_extent().y0 > top


# -- coverage -------------------------------------------------------------------------------------


def test_curves_are_what_was_computed(case: Any, ax: Axes) -> None:
    """Nominal against observed, the diagonal, and one band from (0, 0) to (1, 1)."""
    curves = {name: coverage_curve(model, case.y[:, None]) for name, model in case.models.items()}
    plot_coverage(curves, ax=ax)
    for name, curve in curves.items():
        x, y = labelled(ax, name).get_data()
        np.testing.assert_array_equal(x, curve.nominal)
        np.testing.assert_array_equal(y, curve.observed)
    assert (labelled(ax, "narrow").get_ydata() < curves["narrow"].low).all()
    assert (labelled(ax, "wide").get_ydata() > curves["wide"].high).all()
    vertices = labelled(ax, "90 % band").get_paths()[0].vertices
    assert vertices.min(0) == pytest.approx([0, 0]) and vertices.max(0) == pytest.approx([1, 1])
    assert list(labelled(ax, "nominal").get_ydata()) == [0, 1]
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines[1:]}
    assert len(looks) == 3
    assert ax.get_ylabel() == "share of the 2000 rows inside"


def test_one_curve_needs_no_name(case: Any, ax: Axes) -> None:
    """Its name is then observed."""
    plot_coverage(coverage_curve(case.models["exact"], case.y[:, None]), ax=ax)
    assert names(ax) == ["90 % band if calibrated", "nominal", "observed"]


# -- sharpness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACTORS)
def test_error_against_spread_distinguishes_exact_narrow_and_wide(
    name: str, case: Any, ax: Axes
) -> None:
    """The error of each bin over its predicted deviation is 1 / factor.

    Of 200 rows a bin it is off by 5 % (one standard error); 15 % is exceeded by one of the 8 bins
    of a seed in 2 % of the seeds, and this one is fixed.
    """
    dist = case.models[name]
    plot_sharpness(dist.stddev, case.y, n_bins=8, ax=ax)
    points = ax.containers[0][0]
    ratio = points.get_ydata() / points.get_xdata()
    np.testing.assert_allclose(ratio * FACTORS[name], 1.0, atol=0.15)
    order = np.argsort(case.scale)[: N // 8]
    first = [
        np.sqrt((dist.stddev[order, 0].numpy() ** 2).mean()),
        np.sqrt((case.y[order] ** 2).mean()),
    ]
    assert [points.get_xdata()[0], points.get_ydata()[0]] == pytest.approx(first)


@pytest.mark.parametrize("name", FACTORS)
def test_half_widths_are_compared_with_quantiles_of_the_error(
    name: str, case: Any, ax: Axes
) -> None:
    """For intervals of 50 % and 90 %: each its own marker, the ratio again 1 / factor."""
    plot_sharpness(sharpness(case.models[name]), case.y, n_bins=4, ax=ax)
    for container, c in zip(ax.containers, (0.5, 0.9), strict=True):
        x, y = container[0].get_data()
        np.testing.assert_allclose(y / x * FACTORS[name], 1.0, atol=0.15)
        half = stats.norm.ppf(0.5 + c / 2) * FACTORS[name]
        assert half < x.min() < x.max() < 3 * half
    assert len({c[0].get_marker() for c in ax.containers}) == 2
    assert ax.get_xlabel() == "predicted half-width of the interval"


def test_uninformative_widths_give_a_level_row(case: Any, ax: Axes) -> None:
    """With the spreads of other rows the error is the same in every bin."""
    plot_sharpness(np.roll(case.scale, 1), case.y, n_bins=5, ax=ax)
    error = ax.containers[0][0].get_ydata()
    assert error.max() / error.min() < 1.2 < case.scale.max() / case.scale.min()


def test_bars_of_the_error_cover_the_truth(case: Any, ax: Axes) -> None:
    """About 90 % of the bars of an exact model meet the diagonal: of 40 bins here 32 or more.

    B(40, 0.9) is below 32 with a probability of 1.5 %; the seed is fixed.
    """
    plot_sharpness(case.scale, case.y, n_bins=40, ax=ax)
    points, _, (bars,) = ax.containers[0]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    x = points.get_xdata()
    assert ((ends[:, 0] <= x) & (x <= ends[:, 1])).sum() >= 32


# -- losses ---------------------------------------------------------------------------------------


def test_waterfall_bars_go_from_each_model_to_the_next(ax: Axes) -> None:
    """Bar i covers the step from value i - 1 to value i; the texts say both."""
    plot_waterfall({"a": 1.5, "b": 1.25, "c": 1.75, "d": -0.5}, y_unit="min", ax=ax)
    spans = [sorted((b.get_x(), b.get_x() + b.get_width())) for b in ax.patches]
    assert spans == [[1.25, 1.5], [1.25, 1.75], [-0.5, 1.75]]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, True, False]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["1.50", "1.25", "−0.25", "1.75", "+0.50", "−0.50", "−2.25"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c", "d"]
    assert ax.get_xlabel() == "NLL [nats per row, y in min]"


def test_steps_of_the_waterfall_do_not_depend_on_the_unit() -> None:
    """A unit shifts every NLL by one constant: the widths of the bars stay the same."""
    nll = {"a": 1.5, "b": 1.25, "c": -0.25}
    widths = [
        [bar.get_width() for bar in plot_waterfall({k: v + c for k, v in nll.items()}).patches]
        for c in (0.0, 4.0, -4.0)
    ]
    assert widths[0] == widths[1] == widths[2]


@pytest.mark.parametrize("plot", [plot_waterfall, plot_units])
@pytest.mark.parametrize("width", [4.0, 6.0, 9.0])
def test_everything_beside_the_bars_is_inside_the_frame(plot: Any, width: float) -> None:
    """Bars, marks and numbers, however small or large they are, in Axes of any width."""
    for values in ((3.0, 2.0, 2.5, 1.0), (-4.32, -0.23, 3.87, 10.77), (-5.0, -6.0, -7.0, -1.0)):
        for scale in (1e-3, 1.0, 1e3):
            figure = Figure(figsize=(width, 3.6), layout="constrained")
            nll = dict(zip(("hours", "minutes", "seconds", "ms"), values, strict=True))
            plot({name: scale * v for name, v in nll.items()}, ax=figure.subplots())
            assert not [fault for fault in faults(figure) if "overlaps" not in fault]


def test_equal_losses_make_a_waterfall_of_no_height(ax: Axes) -> None:
    """A model that gains nothing has a bar of no width and says 0."""
    plot_waterfall({"a": 1.0, "b": 1.0}, ax=ax)
    assert [bar.get_width() for bar in ax.patches] == [0.0]
    assert ax.texts[-1].get_text() == "+0.00"


LEVELS = np.array([0.5, 0.9])


def curve(n: int = 9, band: float = 0.9) -> CoverageCurve:
    return CoverageCurve(LEVELS, LEVELS, LEVELS, LEVELS, n, band)


@pytest.mark.parametrize(
    ("draw", "error", "match"),
    [
        (lambda: plot_pit([1, 2, 3]), TypeError, "histogram must be what mdn.calibration.pit_"),
        (
            lambda: plot_pit(pit_histogram([0.1, 0.9], bins=2)._replace(edges=np.zeros(2))),
            ValueError,
            "edges must be 3 for 2 bins; got 2",
        ),
        (lambda: plot_coverage({}), ValueError, "curves must be 1 to 6; got 0"),
        (lambda: plot_coverage({"a": 1.0}), TypeError, r"curves\['a'\] must be what .*got float"),
        (lambda: plot_coverage(LEVELS), TypeError, "curves must be what .*got ndarray"),
        (
            lambda: plot_coverage({"a": curve(9), "b": curve(8)}),
            ValueError,
            r"the same rows and band; got \(n, band\) \[\(8, 0.9\), \(9, 0.9\)\]",
        ),
        (
            lambda: plot_sharpness(np.ones(20), np.ones(19), n_bins=2),
            ValueError,
            r"error .*\(20,\)",
        ),
        (lambda: plot_sharpness(np.ones((5, 2)), np.ones(5)), ValueError, r"spread .*got \(5, 2\)"),
        (lambda: plot_sharpness(np.arange(50), np.ones(50)), ValueError, "got 0 in row 0"),
        (lambda: plot_sharpness(np.ones(20), np.ones(20)), ValueError, "got 10 for 20 rows"),
        (lambda: plot_sharpness(np.ones(9), np.ones(9), n_bins=0), ValueError, "n_bins must leave"),
        (lambda: plot_waterfall({"a": 1.0}), ValueError, "at least two models.*got 1"),
        (lambda: plot_waterfall([1.0, 2.0]), ValueError, "must map the names.*got list"),
        (lambda: plot_waterfall({"a": 1.0, "b": np.inf}), ValueError, "finite; got inf in row 1"),
        (lambda: plot_units({}), ValueError, "at least one unit to a number; got none"),
        (lambda: plot_units([1.0]), ValueError, "at least one unit to a number; got list"),
    ],
)
def test_bad_input_is_named(draw: Any, error: Any, match: str) -> None:
    """One sentence: what was expected and what was found; and no figure is left behind."""
    with pytest.raises(error, match=match):
        draw()
    assert plt.get_fignums() == []

"""Plots over a feature, ridges and contours: the arrays that are drawn, against SciPy."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy import optimize, stats

from mdn import GaussianMixture
from mdn.plot import (
    plot_contours,
    plot_fan,
    plot_feature,
    plot_modes,
    plot_ridge,
    plot_weights,
)
from tests.test_plot import StudentT, fork, fork_cdf, fork_pdf, image, labelled, mixture, names


def quantile(p: float, x: float) -> float:
    return float(optimize.brentq(lambda y: fork_cdf(y, x) - p, -20, 20))


def second(x: torch.Tensor) -> GaussianMixture:
    """The fork of the second feature, shifted by the first."""
    return fork(x[:, 1:]).affine(x[:, :1], 1.0)


# -- one feature, the others fixed ----------------------------------------------------------------


def test_feature_shows_the_density_of_the_given_row(ax: Axes) -> None:
    """The image is p(y|x) by SciPy at x = (10, value); the lines are its quantiles."""
    rows = np.c_[np.linspace(0, 1, 9), np.linspace(1, 4, 9)]
    plot_feature(second, rows, feature=1, at=[10.0, 2.0], coverage=0.8, ax=ax)
    x, y, density = image(ax)
    np.testing.assert_allclose(density, fork_pdf(y[:, None] - 10, x[None, :]), atol=4e-3)
    median = labelled(ax, "median").get_ydata()
    lines = {0.5: median, 0.9: labelled(ax, "80 % central").get_ydata()}
    for p, line in lines.items():
        for i in (0, 150, 299):
            assert line[i] == pytest.approx(10 + quantile(p, x[i]), abs=1e-4)
    assert labelled(ax, "the given row, at 2").get_xdata() == [2.0, 2.0]
    np.testing.assert_array_equal(labelled(ax, "rows of x").get_xdata(), rows[:, 1])


def test_feature_without_a_row_holds_the_others_at_their_medians(ax: Axes) -> None:
    """The median of the first column is 0.5; no line then marks a row."""
    rows = np.c_[np.linspace(0, 1, 9), np.linspace(1, 4, 9)]
    plot_feature(second, rows, feature=1, ax=ax)
    x, y, density = image(ax)
    np.testing.assert_allclose(density, fork_pdf(y[:, None] - 0.5, x[None, :]), atol=4e-3)
    assert names(ax) == ["median", "90 % central interval", "rows of x"]
    assert ax.get_xlabel() == "x1\n(the other feature at its median)"


def test_feature_frames_the_middle_of_every_density(ax: Axes) -> None:
    """Nearly all of the probability is in the picture, wherever x is."""
    plot_feature(fork, [1.0, 4.0], ax=ax)
    low, high = ax.get_ylim()
    for x in (1.0, 2.5, 4.0):
        assert fork_cdf(high, x) - fork_cdf(low, x) > 0.985


# -- the fan --------------------------------------------------------------------------------------


def test_fan_goes_from_quantile_to_quantile(ax: Axes) -> None:
    """Every interval of coverage c ends at (1 - c) / 2 and (1 + c) / 2 of SciPy's cdf."""
    plot_fan(fork, [1.0, 4.0], coverage=[0.5, 0.95], ax=ax, n_grid=7)
    for band, c in zip(ax.collections, (0.95, 0.5), strict=True):
        vertices = band.get_paths()[0].vertices
        for x in np.linspace(0.94, 4.06, 7):
            y = vertices[np.isclose(vertices[:, 0], x), 1]
            ends = [quantile(0.5 - c / 2, x), quantile(0.5 + c / 2, x)]
            assert [y.min(), y.max()] == pytest.approx(ends, abs=1e-5)
    middle = labelled(ax, "median").get_ydata()[3]
    assert middle == pytest.approx(quantile(0.5, 2.5), abs=1e-5)
    assert names(ax) == ["95 % central interval", "50 % central interval", "median"]


def test_narrower_intervals_are_darker_and_on_top(ax: Axes) -> None:
    """The lightness falls from the widest to the narrowest, so this holds in grey too."""
    plot_fan(fork, [1.0, 4.0], coverage=(0.3, 0.9, 0.6), ax=ax)
    light = [band.get_facecolor()[0, :3].mean() for band in ax.collections]
    assert light == sorted(light, reverse=True)
    assert [band.get_label()[:4] for band in ax.collections] == ["90 %", "60 %", "30 %"]


def test_fan_shows_data_if_given(ax: Axes) -> None:
    """The points are (x, y), and the note says what is not data."""
    plot_fan(second, [[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0], coverage=0.5, ax=ax)
    np.testing.assert_array_equal(labelled(ax, "data").get_offsets(), [[1, 5], [3, 6]])
    assert ax.get_xlabel() == "x0\n(intervals and median: the other feature at its median)"


# -- modes ----------------------------------------------------------------------------------------


def test_modes_are_the_maxima_of_scipys_density(ax: Axes) -> None:
    """At each x both maxima; of 0.7 N(x, 0.5) and 0.3 N(-x, 0.2) the second is the higher."""
    plot_modes(fork, [2.0, 4.0], ax=ax, n_grid=5)
    for label, side in (("highest mode", -1), ("other modes", 1)):
        points = np.asarray(labelled(ax, label).get_offsets())
        np.testing.assert_allclose(points[:, 0], np.linspace(1.96, 4.04, 5))
        for x, y in points:
            top = optimize.minimize_scalar(
                lambda v, x=x: -fork_pdf(v, np.float64(x)),
                bounds=(side * x - 0.4, side * x + 0.4),
                options={"xatol": 1e-8},
            )
            assert y == pytest.approx(top.x, abs=1e-4)
    mean = labelled(ax, "mean of y")
    np.testing.assert_allclose(mean.get_ydata(), 0.4 * mean.get_xdata(), rtol=1e-5)


def test_low_modes_are_left_out(ax: Axes) -> None:
    """A mode of 1 % of the highest density is not drawn, and then there are no "other modes"."""
    dist = mixture([0.99, 0.01], [0.0, 9.0], [1.0, 1.0])
    plot_modes(lambda x: dist.expand((len(x),)), [1.0, 2.0], ax=ax, n_grid=20)
    assert names(ax) == ["highest mode", "mean of y given x"]
    assert len(labelled(ax, "highest mode").get_offsets()) == 20


# -- weights --------------------------------------------------------------------------------------


def many(x: torch.Tensor) -> GaussianMixture:
    """Nine components at 0 to 8, whose log weights are -k x."""
    loc = torch.arange(9.0)[:, None]
    return GaussianMixture(-x * torch.arange(9.0), loc, torch.ones(9, 1))


def test_weights_are_a_softmax(ax: Axes) -> None:
    """exp(logits) / sum, and every component is named by where it lies."""

    def model(x: torch.Tensor) -> GaussianMixture:
        loc = torch.tensor([[2.0], [4.0]])
        return GaussianMixture(torch.cat([-x, x], dim=-1), loc, torch.ones(2, 1))

    plot_weights(model, [-1.0, 1.0], y_unit="min", ax=ax)
    x = ax.lines[0].get_xdata()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 1 / (1 + np.exp(2 * x)), rtol=1e-5)
    np.testing.assert_allclose(ax.lines[0].get_ydata() + ax.lines[1].get_ydata(), 1.0)
    assert names(ax) == ["component 0, near 2 min", "component 1, near 4 min"]


def test_of_many_components_the_small_ones_are_added_up(ax: Axes) -> None:
    """Five by themselves, the other four as one line; together they are 1."""
    plot_weights(many, [0.1, 1.0], ax=ax)
    assert len(ax.lines) == 6
    assert names(ax)[-1] == "the other 4 together"
    assert [name.split(",")[0] for name in names(ax)[:5]] == [f"component {k}" for k in range(5)]
    np.testing.assert_allclose(np.sum([line.get_ydata() for line in ax.lines], axis=0), 1.0)


# -- ridges ---------------------------------------------------------------------------------------


def test_ridges_stand_on_their_rows_and_share_a_scale(ax: Axes) -> None:
    """Row i is i + c p(y|x_i) by SciPy with one c, and the highest reaches 1.8."""
    rows = [1.0, 2.0, 3.0]
    plot_ridge(fork, rows, ax=ax)
    scale = []
    for i, (line, x) in enumerate(zip(ax.lines[::-1], rows, strict=True)):
        y, top = line.get_data()
        p = fork_pdf(y, np.full_like(y, x))
        np.testing.assert_allclose((top - i) / p.max(), 1.8 * p / p.max() / 0.5988, atol=0.01)
        scale.append(((top - i) / p)[p > 0.1].mean())
    np.testing.assert_allclose(scale, scale[0], rtol=1e-3)
    highest = max((line.get_ydata() - i).max() for i, line in enumerate(ax.lines[::-1]))
    assert highest == pytest.approx(1.8)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "2", "3"]


def test_ridges_in_front_hide_those_behind(ax: Axes) -> None:
    """A lower row is drawn over the lower part of the row behind it, curve and area."""
    plot_ridge(fork, [1.0, 2.0, 3.0], ax=ax)
    orders = [line.get_zorder() for line in ax.lines]
    assert orders == sorted(orders) and len(set(orders)) == 3


def test_ridge_labels_come_from_the_user_then_from_x_then_from_the_row() -> None:
    """What distinguishes the rows, in this order."""
    dist = fork(torch.tensor([[1.0], [2.0]], dtype=torch.float64))

    def ticks(ax: Axes) -> list[str]:
        return [text.get_text() for text in ax.get_yticklabels()]

    assert ticks(plot_ridge(dist, [5.0, 6.0], labels=["a", "b"])) == ["a", "b"]
    assert ticks(plot_ridge(dist, [[5.0, 1.0], [6.0, 2.0]])) == ["5, 1", "6, 2"]
    bare = plot_ridge(dist)
    assert (ticks(bare), bare.get_ylabel()) == (["0", "1"], "row")


# -- two targets ----------------------------------------------------------------------------------

TRIL = torch.tensor([[[2.0, 0.0], [0.9, 0.5]]])
OVAL = GaussianMixture(torch.zeros(1), torch.tensor([[1.0, -2.0]]), scale_tril=TRIL)


def test_contours_of_a_gaussian_are_ellipses_of_the_right_coverage(ax: Axes) -> None:
    """On them the squared Mahalanobis distance is the chi-square quantile with 2 degrees.

    The quantile comes from 20,000 draws of a fixed seed, so its coverage is off by less than 0.01
    (three standard errors), always by the same.
    """
    wanted = (0.5, 0.8, 0.95)
    plot_contours(OVAL, coverage=wanted, ax=ax)
    lines = ax.collections[-1]
    assert len(lines.get_paths()) == 3
    whiten = np.linalg.inv(TRIL[0].numpy())
    for path, c in zip(lines.get_paths(), wanted[::-1], strict=True):
        z = (path.vertices - [1.0, -2.0]) @ whiten.T
        inside = stats.chi2.cdf((z**2).sum(1), 2)
        np.testing.assert_allclose(inside, c, atol=0.012)


def test_draws_are_as_many_as_wanted_and_the_same_each_time(ax: Axes) -> None:
    """They have a fixed seed; with n_samples=0 none are shown."""
    first = labelled(plot_contours(OVAL, n_samples=50), "50 draws").get_offsets()
    again = labelled(plot_contours(OVAL, n_samples=50, ax=ax), "50 draws").get_offsets()
    np.testing.assert_array_equal(first, again)
    assert len(first) == 50
    none = plot_contours(OVAL, n_samples=0, coverage=0.5)
    assert names(none) == ["50 % region"]


def test_a_component_narrower_than_the_grid_still_has_its_contour(ax: Axes) -> None:
    """Grid lines follow the draws, so a spike of width 1e-4 is found where it is.

    The true edge is at 6.3e-4, where exp(-r^2 / 2e-8) / 1e-8 = 0.2; even grid lines are 0.04 apart.
    """
    loc, scale = torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[1.0, 1.0], [1e-4, 1e-4]])
    plot_contours(GaussianMixture(torch.zeros(2), loc, scale), coverage=0.9, ax=ax)
    vertices = ax.collections[-1].get_paths()[0].vertices
    near = vertices[np.abs(vertices - 5).max(1) < 0.01]
    assert len(near) > 8
    radius = np.hypot(*(near - 5).T)
    assert radius.min() > 3e-4 and radius.max() < 2e-3


def test_contours_of_a_model_are_those_of_its_row(ax: Axes) -> None:
    """A model of two targets takes one row, as (F,) or (1, F), and labels are kept."""

    def model(x: torch.Tensor) -> GaussianMixture:
        return GaussianMixture(torch.zeros(1), x[:, None, :2], torch.ones(1, 2))

    plot_contours(model, [3.0, 7.0, 0.0], labels=["width [m]", "height [m]"], ax=ax)
    middle = ax.collections[-1].get_paths()[0].vertices.mean(0)
    assert middle == pytest.approx([3.0, 7.0], abs=0.1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width [m]", "height [m]")
    other = plot_contours(model, [[3.0, 7.0, 0.0]])
    np.testing.assert_array_equal(
        other.collections[-1].get_paths()[0].vertices, ax.collections[-1].get_paths()[0].vertices
    )


# -- bad input ------------------------------------------------------------------------------------

NO_QUANTILES = torch.distributions.MultivariateNormal(torch.zeros(2, 1), torch.eye(1))


def plain(x: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.MultivariateNormal(x, torch.eye(1))


@pytest.mark.parametrize(
    ("draw", "error", "match"),
    [
        (lambda: plot_feature(fork, [1.0], feature=1), ValueError, "feature must be a column"),
        (lambda: plot_feature(fork, [1.0], coverage=1.0), ValueError, "coverage must lie.*got 1"),
        (lambda: plot_feature(fork, [1.0], n_grid=1), ValueError, "n_grid must be at least 2"),
        (lambda: plot_feature(fork, [1.0], at=[1, 2]), ValueError, r"at must be one row of x"),
        (lambda: plot_feature(fork, [1.0], at=[np.nan]), ValueError, "at must be finite; got nan"),
        (lambda: plot_feature(plain, [1.0]), TypeError, r"icdf\(\), as a mixture; got Multi"),
        (lambda: plot_fan(fork, [1.0], coverage=[]), ValueError, "at least one; got none"),
        (lambda: plot_fan(fork, [1.0], coverage=[0.5, 0.5]), ValueError, "different values; got"),
        (lambda: plot_fan(fork, [1.0], coverage=95), ValueError, "between 0 and 1; got 95"),
        (lambda: plot_fan(fork, [1.0], [1.0, 2.0]), ValueError, "y must have as many rows as x"),
        (lambda: plot_fan(plain, [1.0]), TypeError, r"icdf\(\), as a mixture; got Multi"),
        (lambda: plot_modes(fork, [1.0], [1.0, 2.0]), ValueError, "as many rows as x"),
        (lambda: plot_modes(plain, [1.0]), TypeError, r"modes\(\), as a mixture; got Multi"),
        (lambda: plot_modes("fork", [1.0]), TypeError, "model must be a regressor"),
        (lambda: plot_weights(plain, [1.0]), TypeError, "mixture, with weights; got Multivar"),
        (lambda: plot_weights(fork, [1.0], feature=-1), ValueError, "feature must be a column"),
        (lambda: plot_ridge(fork), TypeError, "x must hold rows of features unless"),
        (lambda: plot_ridge(fork, np.ones(41)), ValueError, "x must have 1 to 40 rows; got 41"),
        (lambda: plot_ridge(fork, [1.0], labels="a"), ValueError, "labels must be a list of 1"),
        (lambda: plot_ridge(NO_QUANTILES), TypeError, r"icdf\(\), as a mixture; got Multi"),
        (lambda: plot_contours(StudentT()), ValueError, r"two targets.*\(2,\); got \(1,\)"),
        (lambda: plot_contours(OVAL.expand((3,))), ValueError, "one x; got 3 rows"),
        (lambda: plot_contours(OVAL, coverage=np.arange(1, 6) / 9), ValueError, "at most 4.*got 5"),
        (lambda: plot_contours(OVAL, n_samples=-1), ValueError, "between 0 and 20000; got -1"),
        (lambda: plot_contours(OVAL, n_grid=1), ValueError, "n_grid must be at least 2; got 1"),
        (lambda: plot_contours(OVAL, labels=["a"]), ValueError, "labels must be a list of 2"),
        (
            lambda: plot_contours(
                GaussianMixture(torch.zeros(1), torch.zeros(1, 3), torch.ones(1, 3))
            ),
            ValueError,
            r"got \(3,\) of GaussianMixture. Take two targets with .marginal",
        ),
        (
            lambda: plot_contours(
                torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
            ),
            TypeError,
            r"sample\(shape, generator=\), as of a mixture; got MultivariateNormal",
        ),
    ],
)
def test_bad_input_is_named(draw: Any, error: Any, match: str) -> None:
    """One sentence: what was expected and what was found; and no figure is left behind."""
    with pytest.raises(error, match=match):
        draw()
    assert plt.get_fignums() == []

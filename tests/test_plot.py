"""Densities and training runs: the arrays that are drawn, against SciPy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from scipy import optimize, stats

from mdn import GaussianMixture, History
from mdn.plot import plot_conditional, plot_density, plot_history

WEIGHTS, SCALES = np.array([0.7, 0.3]), np.array([0.5, 0.2])


def fork(x: torch.Tensor) -> GaussianMixture:
    """0.7 N(x, 0.5^2) + 0.3 N(-x, 0.2^2), x the first feature."""
    loc = torch.stack([x[:, :1], -x[:, :1]], dim=-2)  # (N, 2, 1)
    return GaussianMixture(torch.as_tensor(WEIGHTS).log(), loc, torch.as_tensor(SCALES)[:, None])


def fork_pdf(y: Any, x: Any) -> np.ndarray:
    parts = stats.norm.pdf(np.asarray(y)[..., None], np.stack([x, -x], -1), SCALES)
    return (WEIGHTS * parts).sum(-1)


def fork_cdf(y: float, x: float) -> float:
    return float(WEIGHTS @ stats.norm.cdf(y, [x, -x], SCALES))


def mixture(weights: Any, loc: Any, scale: Any) -> GaussianMixture:
    w, m, s = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, loc, scale))
    return GaussianMixture(w.log(), m[:, None], s[:, None])


NAN = GaussianMixture(
    torch.zeros(1), torch.full((1, 1), math.nan), torch.ones(1, 1), validate_args=False
)


class StudentT(torch.distributions.Distribution):
    """Student's t, 5 degrees of freedom at 1, batch (1,): what a plot needs, no components."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__(torch.Size([1]), torch.Size([1]))

    mean = torch.ones(1, 1, dtype=torch.float64)

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        return torch.distributions.StudentT(5.0, 1.0).log_prob(y[..., 0])

    def icdf(self, p: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(stats.t.ppf(p, 5, 1))[..., None]

    def modes(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean[:, None], self.log_prob(self.mean)[:, None]

    def interval(self, coverage: float) -> torch.Tensor:
        return torch.tensor([stats.t.interval(coverage, 5, 1)], dtype=torch.float64)


@pytest.fixture
def xy() -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(1.0, 4.0, 40)
    return x, np.where(np.arange(40) % 3 == 0, -x, x)


def image(ax: Axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (n,), y (m,) of the centres and the density (m, n) of the cells."""
    mesh = ax.collections[0]
    edges = mesh.get_coordinates()
    x, y = edges[0, :, 0], edges[:, 0, 1]
    return (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, np.asarray(mesh.get_array())


def labelled(ax: Axes, start: str) -> Any:
    """The only artist whose label starts with the text."""
    found = [
        h
        for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
        if label.startswith(start)
    ]
    assert len(found) == 1, ax.get_legend_handles_labels()[1]
    return found[0]


def names(ax: Axes) -> list[str]:
    """The entries of the legend, as one reads them."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- the density as an image ----------------------------------------------------------------------


def test_image_is_the_density_at_the_centres_of_its_cells(ax: Axes, xy: Any) -> None:
    """Colour(x, y) = p(y|x) by SciPy, up to the curvature in a cell, over the data and a margin."""
    plot_density(fork, *xy, ax=ax, n_grid=300)
    x, y, density = image(ax)
    np.testing.assert_allclose(density, fork_pdf(y[:, None], x[None, :]), atol=2e-3, rtol=0)
    assert density.shape == (300, 300) and density.max() > 0.59
    for centres, data in ((x, xy[0]), (y, xy[1])):
        assert centres[0] < data.min() < data.max() < centres[-1]


def test_cell_has_the_probability_that_it_covers(ax: Axes, xy: Any) -> None:
    """Density times height is a difference of SciPy's cdf, and each column sums to 1."""
    plot_density(fork, *xy, ax=ax, n_grid=40)
    x, _, density = image(ax)
    edges = ax.collections[0].get_coordinates()[:, 0, 1]
    cdf = np.array([[fork_cdf(y, mean) for mean in x] for y in edges])
    np.testing.assert_allclose(density * np.diff(edges)[:, None], np.diff(cdf, axis=0), atol=1e-6)
    assert (density.sum(0) * np.diff(edges)[0])[:20] == pytest.approx(1.0, abs=1e-6)


def test_distribution_without_a_cdf_is_shown_by_its_density(ax: Axes, xy: Any) -> None:
    """Then a cell is p(y|x) at its centre."""
    one = torch.eye(1)
    plot_density(lambda x: torch.distributions.MultivariateNormal(x, one), *xy, ax=ax, n_grid=30)
    x, y, density = image(ax)
    np.testing.assert_allclose(density, stats.norm.pdf(y[:, None], x[None, :]), rtol=1e-4)


def test_data_and_conditional_mean_lie_on_the_image(ax: Axes, xy: Any) -> None:
    """The points are (x, y); the dashed line is 0.7 x - 0.3 x."""
    plot_density(fork, *xy, ax=ax)
    np.testing.assert_allclose(labelled(ax, "data").get_offsets(), np.c_[xy])
    line = labelled(ax, "mean of y")
    np.testing.assert_allclose(line.get_ydata(), 0.4 * line.get_xdata(), rtol=1e-5)
    assert line.get_linestyle() == "--"
    assert names(ax) == ["data", "mean of y given x"]


def test_module_is_used_in_evaluation_mode_and_left_as_it_was(ax: Axes, xy: Any) -> None:
    """Dropout is off in the picture, and a submodule in evaluation mode stays in it."""

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.frozen = torch.nn.Dropout(0.9), torch.nn.Dropout(0.9).eval()

        def forward(self, x: torch.Tensor) -> GaussianMixture:
            return fork(self.drop(x))

    model = Noisy()
    density = image(plot_density(model, *xy, ax=ax, n_grid=50))[2]
    assert density == pytest.approx(image(plot_density(fork, *xy, n_grid=50))[2])
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)


def test_other_features_are_held_at_their_medians(ax: Axes, xy: Any) -> None:
    """Of three columns the chosen one varies, and the label says where the others are held."""
    seen = []

    def model(x: torch.Tensor) -> GaussianMixture:
        seen.append(x)
        return fork(x[:, 1:])

    columns = np.c_[xy[0] ** 2, xy[0], -xy[0]]
    plot_density(model, columns, xy[1], feature=1, x_label="wait [min]", ax=ax, n_grid=30)
    np.testing.assert_allclose(seen[0][:, [0, 2]], np.tile(np.median(columns, 0)[[0, 2]], (30, 1)))
    np.testing.assert_allclose(seen[0][:, 1], image(ax)[0], rtol=1e-6)
    np.testing.assert_allclose(labelled(ax, "data").get_offsets()[:, 0], xy[0])
    assert ax.get_xlabel() == "wait [min]\n(image and mean: the other features at their medians)"


def test_other_features_are_held_where_the_user_says(ax: Axes, xy: Any) -> None:
    """With at=, the image is that of this row, whatever the medians are."""
    columns = np.c_[xy[0], xy[0]]
    plot_density(lambda x: fork(x[:, 1:]), columns, xy[1], at=[9.0, 2.5], ax=ax, n_grid=300)
    _, y, density = image(ax)
    np.testing.assert_allclose(
        density, np.tile(fork_pdf(y, np.full(300, 2.5)), (300, 1)).T, atol=2e-3
    )
    assert ax.get_xlabel() == "x0\n(image and mean: the other feature as given)"


def test_smooth_density_is_shown_to_its_maximum(ax: Axes, xy: Any) -> None:
    """Without a spike no colour is clipped."""
    plot_density(fork, *xy, ax=ax)
    mesh = ax.collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.0, np.max(mesh.get_array()))
    assert mesh.colorbar.extend == "neither"


def test_spike_does_not_set_the_colour_scale_and_the_colour_bar_shows_it(ax: Axes, xy: Any) -> None:
    """A component narrower than a cell is clipped, and the colour bar ends in a point."""

    def spiky(x: torch.Tensor) -> GaussianMixture:
        m = fork(x)
        spike = GaussianMixture(
            torch.zeros(1), torch.full((len(x), 1, 1), 2.0), torch.tensor([[1e-4]])
        )
        return GaussianMixture.pool([m, spike], weights=[0.8, 0.2])

    plot_density(spiky, *xy, ax=ax, n_grid=300)
    mesh = ax.collections[0]
    body = 0.8 * fork_pdf(np.array([-3.0]), np.array([3.0]))[0]  # the higher branch
    assert (np.max(mesh.get_array(), axis=0) > 5 * body).all()
    assert 0.5 * body < mesh.norm.vmax < 2 * body
    assert mesh.colorbar.extend == "max"


def test_colours_fall_from_white_in_equal_steps_of_lightness(ax: Axes, xy: Any) -> None:
    """CIE L* = 116 Y^(1/3) - 16 is linear in the density, so a print in grey shows it too."""
    cmap = plot_density(fork, *xy, ax=ax).collections[0].get_cmap()
    assert to_rgb(cmap(0.0)) == (1.0, 1.0, 1.0)
    c = cmap(np.arange(0, 256, 15))[:, :3]  # even steps through its 256 colours
    luminance = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]
    steps = np.diff(116 * np.cbrt(luminance) - 16)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.03)
    assert steps.sum() < -75


@pytest.mark.parametrize(
    ("style", "limits"),
    [({"vmax": 0.25}, (0.0, 0.25)), ({"norm": LogNorm(0.01, 2.0)}, (0.01, 2.0))],
)
def test_density_style_of_the_user_wins(style: Any, limits: Any, ax: Axes, xy: Any) -> None:
    """Keywords of pcolormesh replace the defaults."""
    mesh = plot_density(fork, *xy, ax=ax, cmap="cividis", alpha=0.5, **style).collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == limits
    assert (mesh.get_cmap().name, mesh.get_alpha()) == ("cividis", 0.5)


def test_density_labels_carry_the_units(ax: Axes, xy: Any) -> None:
    """Density has the inverse unit of y; without a unit the label still has one."""
    plot_density(fork, *xy, ax=ax, x_label="wait [min]", y_unit="min")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wait [min]", "y [min]")
    assert ax.collections[0].colorbar.ax.get_ylabel() == "density p(y|x) [1/min]"
    bare = plot_density(fork, *xy)
    assert bare.collections[0].colorbar.ax.get_ylabel() == "density p(y|x) [1/unit of y]"


def test_single_observation_still_makes_an_image(ax: Axes) -> None:
    """Data without a range get one."""
    plot_density(fork, [0.0], torch.tensor([[2.0]], requires_grad=True), ax=ax)
    x, y, density = image(ax)
    assert np.isfinite(density).all() and x[0] < 0 < x[-1] and y[0] < 2 < y[-1]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (
            (fork, [1.0, 2.0], [1.0]),
            ValueError,
            r"y must have as many rows as x, shape \(2,\); got \(1,\)",
        ),
        ((fork, [1.0, 2.0], [[1.0, 2.0]] * 2), ValueError, r"y must have one target.*got \(2, 2\)"),
        ((fork, [[[1.0]]], [1.0]), ValueError, r"x must have shape .*got \(1, 1, 1\)"),
        ((fork, [], []), ValueError, r"x must have shape .*got \(0, 1\)"),
        ((fork, [1.0, np.inf], [1.0, 2.0]), ValueError, "x must be finite; got inf in row 1"),
        ((fork, [np.nan] * 2, [1.0, 2.0]), ValueError, "x must hold values of feature x; got none"),
        ((fork, [1.0, 2.0], [np.inf, 2.0]), ValueError, "y must be finite; got inf in row 0"),
        ((fork, ["a", "b"], [1.0, 2.0]), TypeError, "X must be a tensor or a numeric array"),
        (("fork", [1.0], [1.0]), TypeError, "model must be a regressor.*got str"),
        ((fork, None, [1.0]), TypeError, "x must be rows of features.*got NoneType"),
        ((fork, "area", [1.0]), TypeError, "x must be rows of features.*got str"),
        ((fork, {"area": 1.0}, [1.0]), TypeError, "x must be rows of features.*got dict"),
        ((fork, scipy.sparse.eye(2), [1.0]), TypeError, r"x must be dense.*pass x.toarray\(\)"),
        (
            (fork, pd.DataFrame({"x": []}), []),
            ValueError,
            r"x must have one row.*got shape \(0, 1\)",
        ),
        ((torch.nn.Linear, [1.0], [1.0]), TypeError, "got the class Linear"),
        ((torch.nn.Linear(1, 1), [1.0], [1.0]), TypeError, "torch Distribution; got Tensor"),
        (
            (lambda x: torch.distributions.Categorical(torch.ones(len(x), 3)), [1.0], [1.0]),
            ValueError,
            r"event shape \(1,\); got \(\) of Categorical",
        ),
        (
            (
                lambda x: GaussianMixture(
                    torch.zeros(1), x[:, None].repeat(1, 1, 2), torch.ones(1, 2)
                ),
                [1.0],
                [1.0],
            ),
            ValueError,
            r"one target.*got \(2,\).*marginal",
        ),
        (
            (lambda x: fork(x[:3]), [1.0], [1.0]),
            ValueError,
            r"batch shape \(300,\) for the 300 rows of X; got \(3,\)",
        ),
    ],
)
def test_bad_input_of_plot_density_is_named(arguments: Any, error: Any, match: str) -> None:
    """One sentence: what was expected and what was found; and no figure is left behind."""
    with pytest.raises(error, match=match):
        plot_density(*arguments)
    assert plt.get_fignums() == []


def test_bad_options_of_plot_density_are_named() -> None:
    """A column that is not there, a grid without cells, a density that is not a number."""
    with pytest.raises(ValueError, match="feature must be a column of x, 0 to 0; got 1"):
        plot_density(fork, [1.0], [1.0], feature=1)
    with pytest.raises(ValueError, match=r"at must be one row of x, 1 values; got shape \(2,\)"):
        plot_density(fork, [1.0], [1.0], at=[1.0, 2.0])
    with pytest.raises(ValueError, match="n_grid must be at least 2; got 1"):
        plot_density(fork, [1.0], [1.0], n_grid=1)
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes or None; got Figure"):
        plot_density(fork, [1.0], [1.0], ax=Figure())

    def broken(x: torch.Tensor) -> GaussianMixture:
        loc = torch.where(x > 1.0, math.nan, x)[:, None]
        return GaussianMixture(torch.zeros(1), loc, torch.ones(1, 1), validate_args=False)

    with pytest.raises(ValueError, match=r"finite density; it does not at x = 1\.0"):
        plot_density(broken, [1.0], [1.0])


# -- the density at one x -------------------------------------------------------------------------


def test_curve_is_the_density(ax: Axes) -> None:
    """p(y|x) by SciPy, from the 0.05 % to the 99.95 % quantile."""
    plot_conditional(fork, [2.0], ax=ax)
    y, p = ax.lines[0].get_data()
    np.testing.assert_allclose(p, fork_pdf(y, np.full_like(y, 2.0)), rtol=1e-5)
    assert [fork_cdf(y[0], 2.0), fork_cdf(y[-1], 2.0)] == pytest.approx([5e-4, 1 - 5e-4], abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-7])
def test_area_under_the_curve_is_one_however_sharp_a_component(scale: float, ax: Axes) -> None:
    """The trapezoid rule on the drawn points gives the 99.9 % between the ends."""
    plot_conditional(mixture([0.6, 0.4], [0.0, 3.0], [1.0, scale]), ax=ax)
    y, p = ax.lines[0].get_data()
    assert np.trapezoid(p, y) == pytest.approx(0.999, abs=5e-4)
    assert p.max() == pytest.approx(0.4 / scale / math.sqrt(2 * math.pi), rel=0.05 + (scale == 1))


def test_components_are_weighted_and_add_up_to_the_density(ax: Axes) -> None:
    """Each thin line is pi_k N(y; mu_k, sigma_k^2) by SciPy."""
    plot_conditional(fork, [2.0], ax=ax)
    y, p = ax.lines[0].get_data()
    parts = [line.get_ydata() for line in ax.lines if "component" in line.get_label()]
    truth = WEIGHTS[:, None] * stats.norm.pdf(y, [[2.0], [-2.0]], SCALES[:, None])
    np.testing.assert_allclose(parts, truth, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(np.sum(parts, axis=0), p, rtol=1e-9)
    assert "weighted components" not in names(plot_conditional(fork, [2.0], components=False))


def test_of_many_components_the_largest_are_drawn_and_the_others_as_one(ax: Axes) -> None:
    """Five curves pi_k N(y; mu_k, sigma_k^2) by SciPy, and the sum of the other 236."""
    rng = np.random.default_rng(0)
    weights, loc, scale = (rng.uniform(a, b, 241) for a, b in ((0.1, 1), (-1, 1), (0.1, 0.5)))
    weights /= weights.sum()
    plot_conditional(mixture(weights, loc, scale), ax=ax)
    assert names(ax)[1:3] == ["the 5 largest components", "the other 236 together"]
    y, p = ax.lines[0].get_data()
    parts = weights[:, None] * stats.norm.pdf(y, loc[:, None], scale[:, None])
    largest = np.sort(np.argsort(-np.trapezoid(parts, y))[:5])
    np.testing.assert_allclose([line.get_ydata() for line in ax.lines[1:6]], parts[largest])
    rest = labelled(ax, "the other").get_ydata()
    np.testing.assert_allclose(rest, np.delete(parts, largest, 0).sum(0), atol=1e-12)
    np.testing.assert_allclose(p, parts.sum(0))
    assert len(y) < 1500  # not 97 for each component


def test_interval_mean_median_and_modes_are_where_scipy_has_them(ax: Axes) -> None:
    """Quantiles by root finding on SciPy's cdf, modes by minimising its density."""
    plot_conditional(fork, [1.0], coverage=0.8, ax=ax)

    def quantile(p: float) -> float:
        return optimize.brentq(lambda y: fork_cdf(y, 1.0) - p, -10, 10)

    shade = labelled(ax, "80 % central interval").get_paths()[0].vertices[:, 0]
    assert [shade.min(), shade.max()] == pytest.approx([quantile(0.1), quantile(0.9)], abs=1e-5)
    assert labelled(ax, "median").get_xdata() == pytest.approx([quantile(0.5)] * 2, abs=1e-5)
    assert labelled(ax, "mean 0.4").get_xdata() == pytest.approx([0.4] * 2, abs=1e-6)

    at, height = labelled(ax, "modes -1, 1").get_data()
    for y, p in zip(at, height, strict=True):
        top = optimize.minimize_scalar(
            lambda v: -fork_pdf(v, np.float64(1.0)), bounds=(y - 0.3, y + 0.3)
        )
        assert (y, p) == (pytest.approx(top.x, abs=1e-4), pytest.approx(-top.fun, rel=1e-5))


def test_every_interval_of_the_highest_density_region_is_shaded(ax: Axes) -> None:
    """Nothing is shaded between them; SciPy's density is the same at every end."""
    plot_conditional(fork, [2.0], region="hdr", coverage=0.8, ax=ax)
    shade = labelled(ax, "80 % highest-density region").get_paths()
    assert len(shade) == 2
    ends = sorted(
        end for path in shade for end in (path.vertices[:, 0].min(), path.vertices[:, 0].max())
    )
    inside = sum(fork_cdf(ends[i + 1], 2.0) - fork_cdf(ends[i], 2.0) for i in (0, 2))
    assert inside == pytest.approx(0.8, abs=1e-4)
    heights = fork_pdf(np.array(ends), np.full(4, 2.0))
    np.testing.assert_allclose(heights, heights[0], rtol=1e-3)


def test_modes_too_low_to_see_are_not_marked(ax: Axes) -> None:
    """A mode of less than 1 % of the highest density has no marker; many are only counted."""
    plot_conditional(mixture([0.995, 0.005], [0.0, 9.0], [1.0, 1.0]), ax=ax)
    assert len(labelled(ax, "mode 0").get_xdata()) == 1
    comb = plot_conditional(mixture([0.2] * 5, [0.0, 10.0, 20.0, 30.0, 40.0], [1.0] * 5))
    assert names(comb)[-1] == "modes (5)"


def test_several_rows_differ_in_colour_and_in_dashes(ax: Axes) -> None:
    """Up to six curves, each with its own style, label and modes; nothing else."""
    rows = np.linspace(1.0, 3.0, 6)
    plot_conditional(fork, rows, ax=ax)
    curves = ax.lines[:6]
    assert len({c.get_color() for c in curves}) == 6
    assert len({str(c._dash_pattern) for c in curves}) == 6
    assert names(ax) == [*(f"p(y|x = {x:.4g})" for x in rows), "modes"]
    for curve, x in zip(curves, rows, strict=True):
        y, p = curve.get_data()
        np.testing.assert_allclose(p, fork_pdf(y, np.full_like(y, x)), rtol=1e-4, atol=1e-12)
    assert len(ax.collections) == 0


def test_labels_come_from_the_user_then_from_x_then_from_the_row() -> None:
    """What distinguishes the curves, in this order."""
    dist = fork(torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    assert names(plot_conditional(dist, labels=["a", "b"]))[:2] == ["a", "b"]
    assert names(plot_conditional(dist, [1.0, 2.0]))[:2] == ["p(y|x = 1)", "p(y|x = 2)"]
    assert names(plot_conditional(fork, [[1.0, 5.0]]))[0] == "p(y|x = (1, 5))"
    assert names(plot_conditional(dist))[:2] == ["row 0", "row 1"]
    assert names(plot_conditional(mixture([1.0], [0.0], [1.0])))[0] == "p(y|x)"


def test_distribution_without_components_is_drawn_without_them(ax: Axes) -> None:
    """Any torch distribution over one target with quantiles, modes and intervals is enough."""
    plot_conditional(StudentT(), ax=ax)
    y, p = ax.lines[0].get_data()
    np.testing.assert_allclose(p, stats.t.pdf(y, 5, 1), rtol=1e-5)
    assert np.trapezoid(p, y) == pytest.approx(0.999, abs=1e-4)
    assert "weighted components" not in names(ax)


def test_parameters_that_require_gradients_are_drawn(ax: Axes) -> None:
    """The output of a network needs no detach, and gets no gradient."""
    loc = torch.zeros(1, 1, 1, requires_grad=True)
    plot_conditional(GaussianMixture(torch.zeros(1), loc, torch.ones(1, 1)), ax=ax)
    assert loc.grad is None and ax.lines[0].get_ydata().max() == pytest.approx(0.39894, abs=1e-5)


def test_legend_stands_above_the_curves(ax: Axes) -> None:
    """At the size of a default figure, with the most entries, text and curve do not overlap."""
    for x in ([2.0], np.linspace(1.0, 3.0, 6)):
        drawn = plot_conditional(fork, x)
        drawn.get_figure().canvas.draw()
        top = max(line.get_ydata().max() for line in drawn.lines)
        legend = drawn.get_legend().get_window_extent()
        assert legend.y0 > drawn.transData.transform((0.0, top))[1]
        assert drawn.get_ylim()[0] == 0.0


def test_legend_at_the_width_of_a_phone_stays_in_the_frame() -> None:
    """In one column, above the curve, beside no label of an axis."""
    figure = Figure(figsize=(3.6, 3.0), dpi=100, layout="constrained")
    drawn = plot_conditional(fork, [[2.0, -0.1321]], ax=figure.subplots(), y_unit="min")
    figure.canvas.draw()
    legend, frame = drawn.get_legend().get_window_extent(), drawn.get_window_extent()
    assert frame.x0 < legend.x0 and legend.x1 < frame.x1 and legend.y1 < frame.y1
    top = max(line.get_ydata().max() for line in drawn.lines)
    assert legend.y0 > drawn.transData.transform((0.0, top))[1]


def test_second_call_on_the_same_axes_keeps_the_first_curve_in_the_frame(ax: Axes) -> None:
    """The frame grows; it never shrinks to the last curve."""
    plot_conditional(mixture([1.0], [0.0], [0.1]), ax=ax)
    before = ax.get_ylim()[1]
    plot_conditional(mixture([1.0], [50.0], [3.0]), components=False, ax=ax)
    assert ax.get_ylim()[1] >= before and ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > 50


def test_conditional_style_and_labels_of_the_user_win(ax: Axes) -> None:
    """Aliases of Line2D count as the keyword they stand for."""
    ax.set_ylabel("kept")
    plot_conditional(
        fork, [2.0], ax=ax, c="red", lw=5, ls=":", label="mine", y_label="duration [min]"
    )
    curve = ax.lines[0]
    looks = (curve.get_color(), curve.get_linewidth(), curve.get_linestyle(), curve.get_label())
    assert looks == ("red", 5, ":", "mine")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("duration [min]", "kept")
    assert plot_conditional(fork, [2.0], y_unit="min").get_ylabel() == "density p(y|x) [1/min]"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((fork,), {}, TypeError, "x must hold rows of features unless there is a distribution"),
        ((3.0, [1.0]), {}, TypeError, "model must be a regressor.*got float"),
        ((fork, np.ones(7)), {}, ValueError, "x must have 1 to 6 rows to be told apart; got 7"),
        ((fork, [1.0]), {"labels": ["a", "b"]}, ValueError, r"labels must be a list of 1 names"),
        ((fork, [1.0]), {"labels": "a"}, ValueError, r"labels must be a list of 1 names.*got 'a'"),
        (
            (fork, [1.0]),
            {"region": "HDR"},
            ValueError,
            "region must be one of 'central', 'hdr'.*'HDR'",
        ),
        ((StudentT(),), {"region": "hdr"}, TypeError, r"modes\(\) and hdr\(\).*got StudentT"),
        ((fork, [1.0]), {"coverage": 1.5}, ValueError, "coverage must lie between 0 and 1"),
        ((fork(torch.ones(2, 1)), [1.0]), {}, ValueError, "one row for each of the 2 dist.*got 1"),
        ((fork(torch.ones(2, 1)).expand((3, 2)),), {}, ValueError, r"\(\) or \(N,\); got \(3, 2\)"),
        ((NAN,), {}, ValueError, "finite locations and scales; row 0 has not"),
        (
            (torch.distributions.MultivariateNormal(torch.zeros(1), torch.eye(1)),),
            {},
            TypeError,
            r"modes\(\) and interval\(\), as a mixture; got MultivariateNormal",
        ),
        (
            (GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2)),),
            {},
            ValueError,
            r"one target.*got \(2,\).*marginal",
        ),
    ],
)
def test_bad_input_of_plot_conditional_is_named(
    arguments: Any, options: Any, error: Any, match: str
) -> None:
    """One sentence: what was expected and what was found; and no figure is left behind."""
    with pytest.raises(error, match=match):
        plot_conditional(*arguments, **options)
    assert plt.get_fignums() == []


# -- the training run -----------------------------------------------------------------------------


def decay(start: float, end: float, n: int = 100) -> list[float]:
    return list(end + (start - end) * np.exp(-np.arange(n) / 20))


def zero_line(ax: Axes) -> Any:
    """The horizontal line at 0, or None."""
    found = [line for line in ax.lines if list(line.get_ydata()) == [0.0, 0.0]]
    return found[0] if found else None


def test_history_shows_both_curves_and_the_best_epoch(ax: Axes) -> None:
    """Curve i at epoch i, counted from 0; the ring is at the epoch whose weights were kept."""
    run = History([3.0, 2.0, 1.5, 1.0], [3.1, 2.2, 2.0, 2.4], best_epoch=2)
    plot_history(run, y_unit="min", ax=ax)
    for label, nll in (("training", run.train_nll), ("validation", run.val_nll)):
        line = labelled(ax, label)
        assert list(line.get_xdata()) == [0, 1, 2, 3] and list(line.get_ydata()) == nll
    ring = labelled(ax, "best: epoch 2, NLL 2")
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [2.0])
    assert ax.get_ylabel() == "NLL [nats per row, y in min]"
    assert labelled(ax, "training").get_linestyle() != labelled(ax, "validation").get_linestyle()


def test_history_of_an_ensemble_marks_the_minimum_of_the_mean_and_each_members_own(
    ax: Axes,
) -> None:
    """The ring is on the curve's minimum; a dash at the best epoch of each network that has one."""
    run = History([3.0, 2.0, 1.5, 1.0], [3.1, 2.0, 2.2, 2.4], 1, member_best_epochs=[3, 1, 2, -1])
    plot_history(run, ax=ax)
    assert list(labelled(ax, "lowest mean: epoch 1, NLL 2").get_ydata()) == [2.0]
    dashes = labelled(ax, "best epochs of the 3 networks")
    assert list(dashes.get_xdata()) == [3, 1, 2]
    assert dashes.get_transform() == ax.get_xaxis_transform()
    assert ax.get_ylim()[0] < 0.1  # 0 is near, and the dashes move no limit of y


def test_best_epoch_without_validation_is_on_the_training_curve(ax: Axes) -> None:
    """Without validation rows the last epoch is kept; without any epoch kept there is no ring."""
    plot_history(History([1.0, 0.5], [], 1), ax=ax)
    assert list(labelled(ax, "best: epoch 1, NLL 0.5").get_ydata()) == [0.5]
    assert not any(n.startswith(("valid", "best")) for n in names(plot_history(History([1.0]))))


@pytest.mark.parametrize(("start", "end"), [(2.0, -1.0), (2.0, 0.5), (-0.5, -2.0), (0.0, 0.0)])
def test_zero_is_drawn_in_the_frame_and_explained_if_it_is_near(
    start: float, end: float, ax: Axes
) -> None:
    """A run through 0 or near it shows the line and says that it is no bound."""
    plot_history(History(decay(start, end), [], 99), ax=ax)
    assert "0: a density may exceed 1,\nso the loss may go below" in names(ax)
    low, high = ax.get_ylim()
    assert zero_line(ax) is not None and low < 0 < high


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (-310.0, -312.0, "0 is 310 nats above: the loss is\nbelow it, as a density may exceed 1"),
        (8.0, 7.0, "0 is 7.01 nats below; it is no bound,\nas a density may exceed 1"),
    ],
)
def test_a_far_zero_is_named_in_the_legend_and_leaves_the_curve_its_height(
    start: float, end: float, text: str, ax: Axes
) -> None:
    """The curve keeps most of the height; the legend says where 0 is."""
    plot_history(History(decay(start, end), [], 99), ax=ax)
    low, high = ax.get_ylim()
    assert zero_line(ax) is None and text in names(ax)
    assert high - low < 1.3 * (start - end)


def test_huge_first_losses_leave_the_frame_and_are_counted(ax: Axes) -> None:
    """Two epochs of huge losses are outside the frame and counted; the others fill it."""
    train, val = decay(2.0, 0.5), decay(2.1, 0.6)
    train[0], val[1] = 5e5, 300.0
    plot_history(History(train, val, 99), ax=ax)
    assert "not shown: first 2 of 100 epochs,\nup to 5e+05" in names(ax)
    low, high = ax.get_ylim()
    assert low < 0 and max(train[2:] + val[2:]) < high < 2.5
    assert list(labelled(ax, "training").get_ydata()) == train  # the data themselves stay


def test_ordinary_first_losses_stay_in_the_frame(ax: Axes) -> None:
    """A steep start is not cut off."""
    plot_history(History(decay(4.0, 0.5), decay(4.1, 0.6), 99), ax=ax)
    assert ax.get_ylim()[1] > 4.1 and not any("not shown" in name for name in names(ax))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_losses_that_are_not_finite_are_counted(bad: float, ax: Axes) -> None:
    """The legend counts the epochs without a finite loss, wherever they are."""
    train = decay(2.0, 0.5)
    train[50] = bad
    plot_history(History(train, [], 99), ax=ax)
    assert "not shown: 1 of 100 epochs,\nup to inf" in names(ax)
    assert 2.0 < ax.get_ylim()[1] < 2.5


def test_history_style_of_the_user_wins(ax: Axes) -> None:
    """Keywords of plot reach both curves."""
    plot_history(History([2.0, 1.0], [2.0, 1.1], 1), ax=ax, lw=4, color="black")
    for label in ("training", "validation"):
        line = labelled(ax, label)
        assert (line.get_linewidth(), line.get_color()) == (4, "black")


@pytest.mark.parametrize(
    ("history", "error", "match"),
    [
        (History(), ValueError, "an epoch with a finite NLL; got 0 epochs"),
        (History([math.nan]), ValueError, "an epoch with a finite NLL; got 1 epochs"),
        ([1.0, 2.0], TypeError, "train_nll and val_nll.*got list"),
        (SimpleNamespace(train_nll=["a"], val_nll=[], best_epoch=0), TypeError, "lists of numbers"),
    ],
)
def test_bad_history_is_named(history: Any, error: Any, match: str) -> None:
    """One sentence: what was expected and what was found; and no figure is left behind."""
    with pytest.raises(error, match=match):
        plot_history(history)
    assert plt.get_fignums() == []

"""What all plots have in common: Axes, settings, labels and style."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from mdn import GaussianMixture, History, plot
from mdn.calibration import CoverageCurve, PITHistogram
from tests.test_plot import fork

LEVELS = np.array([0.5, 0.9])
CURVE = CoverageCurve(LEVELS, LEVELS - 0.1, LEVELS - 0.02, LEVELS + 0.02, 900, 0.9)
HISTOGRAM = PITHistogram(np.array([9, 20]), np.array([0.0, 0.5, 1.0]), 10.0, 18.0, 14.5, 0.9)
PLANE = GaussianMixture(torch.zeros(2), torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.ones(2, 2))

DRAW: dict[str, Callable[..., Axes]] = {
    "density": lambda **k: plot.plot_density(fork, [1.0, 2.0], [1.0, -2.0], **k),
    "feature": lambda **k: plot.plot_feature(fork, [1.0, 2.0], at=[1.5], **k),
    "fan": lambda **k: plot.plot_fan(fork, [1.0, 2.0], [1.0, -2.0], **k),
    "modes": lambda **k: plot.plot_modes(fork, [1.0, 2.0], [1.0, -2.0], **k),
    "weights": lambda **k: plot.plot_weights(fork, [1.0, 2.0], **k),
    "conditional": lambda **k: plot.plot_conditional(fork, [2.0], **k),
    "ridge": lambda **k: plot.plot_ridge(fork, [1.0, 2.0, 3.0], **k),
    "contours": lambda **k: plot.plot_contours(PLANE, n_grid=30, **k),
    "pit": lambda **k: plot.plot_pit(HISTOGRAM, **k),
    "coverage": lambda **k: plot.plot_coverage(CURVE, **k),
    "sharpness": lambda **k: plot.plot_sharpness(np.arange(1.0, 61), np.arange(60), **k),
    "history": lambda **k: plot.plot_history(History([1.0, -1.0], [1.0, -0.5], 1), **k),
    "units": lambda **k: plot.plot_units({"s": 4.0, "h": -4.0}, **k),
    "waterfall": lambda **k: plot.plot_waterfall({"marginal": 1.0, "mixture": 0.5}, **k),
}
# a keyword of the main artist, and what of the Axes shows that it has arrived
STYLE: dict[str, tuple[dict[str, object], Callable[[Axes], object], object]] = {
    "feature": ({"cmap": "cividis"}, lambda ax: ax.collections[0].get_cmap().name, "cividis"),
    "fan": ({"alpha": 0.25}, lambda ax: ax.collections[0].get_alpha(), 0.25),
    "modes": ({"marker": "x", "s": 9}, lambda ax: ax.collections[1].get_sizes()[0], 9),
    "weights": ({"lw": 7}, lambda ax: ax.lines[0].get_linewidth(), 7),
    "ridge": ({"c": "red"}, lambda ax: ax.lines[0].get_color(), "red"),
    "contours": ({"linewidths": 5}, lambda ax: ax.collections[-1].get_linewidth()[0], 5),
    "pit": ({"color": "red"}, lambda ax: ax.containers[0][0].get_facecolor(), (1, 0, 0, 1)),
    "coverage": ({"marker": "s"}, lambda ax: ax.lines[1].get_marker(), "s"),
    "sharpness": ({"marker": "*"}, lambda ax: ax.containers[0][0].get_marker(), "*"),
    "units": ({"color": "red"}, lambda ax: ax.patches[0].get_facecolor(), (1, 0, 0, 1)),
    "waterfall": ({"fc": "red"}, lambda ax: ax.patches[0].get_facecolor(), (1, 0, 0, 1)),
}
every = pytest.mark.parametrize("name", DRAW)


def test_every_plot_is_here() -> None:
    """A new function of the module must be added here."""
    assert {f"plot_{name}" for name in DRAW} == set(plot.__all__) - {"panels"}


@every
def test_given_axes_are_drawn_on_and_returned(name: str, ax: Axes) -> None:
    """With ax= no figure is made, and pyplot is not needed; without, exactly one is made."""
    assert DRAW[name](ax=ax) is ax
    assert plt.get_fignums() == []
    made = DRAW[name]()
    assert plt.get_fignums() == [made.get_figure().number]


@every
def test_global_state_is_left_alone(name: str) -> None:
    """No setting and no random number is touched, and a drawn figure warns of nothing."""
    before = mpl.rcParams.copy(), torch.get_rng_state(), np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DRAW[name]().get_figure().canvas.draw()
    assert mpl.rcParams == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


@every
def test_labels_the_user_has_set_are_kept(name: str, ax: Axes) -> None:
    """An axis that has a label already keeps it."""
    ax.set_xlabel("mine")
    ax.set_ylabel("mine too")
    DRAW[name](ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mine", "mine too")


@every
def test_numbers_have_their_unit_or_say_what_they_are(name: str, ax: Axes) -> None:
    """No axis of numbers is without a label."""
    DRAW[name](ax=ax)
    assert ax.get_xlabel()
    assert ax.get_ylabel() or len(ax.get_yticklabels()) > 1


@pytest.mark.parametrize("name", STYLE)
def test_style_of_the_user_wins(name: str, ax: Axes) -> None:
    """Further keywords reach the main artist, under any of their names."""
    style, read, wanted = STYLE[name]
    assert read(DRAW[name](ax=ax, **style)) == wanted


@every
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("colr", "color"), ("lnewidth", "linewidth"), ("alhpa", "alpha"), ("axx", "ax")],
)
def test_a_misspelt_keyword_is_refused_by_name(name: str, wrong: str, right: str) -> None:
    """With the nearest right one, in one sentence, before anything is drawn."""
    right += "s" * (name == "contours" and right == "color")  # as Axes.contour has it
    with pytest.raises(TypeError) as caught:
        DRAW[name](**{wrong: 1})
    assert str(caught.value) == f"plot_{name} has no keyword {wrong!r}; the nearest is {right!r}"
    with pytest.raises(
        TypeError, match=rf"plot_{name} has no keyword 'qqq'; it takes those of Axes"
    ):
        DRAW[name](qqq=1)
    assert plt.get_fignums() == []


def test_keywords_of_the_plot_itself_are_among_the_nearest() -> None:
    """A plot of a feature has x_label, and an image has cmap."""
    with pytest.raises(TypeError, match=r"plot_density has no keyword 'xlabel'.*'x_label'"):
        DRAW["density"](xlabel="wait [min]")
    with pytest.raises(TypeError, match=r"plot_density has no keyword 'cmpa'.*'cmap'"):
        DRAW["density"](cmpa="cividis")


@every
def test_two_names_of_one_property_are_refused(name: str) -> None:
    """Nothing is drawn."""
    with pytest.raises(TypeError, match=r"'lw' and 'linewidth'|'linewidth' and 'lw'"):
        DRAW[name](lw=1, linewidth=2)
    assert plt.get_fignums() == []


@every
@pytest.mark.parametrize("style", [{"alpha": 0.5}, {"zorder": 2.5}, {"antialiased": True}])
def test_what_every_artist_has_is_taken(name: str, style: dict[str, object], ax: Axes) -> None:
    """It is drawn without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DRAW[name](ax=ax, **style).get_figure().canvas.draw()


def test_colours_of_the_user_replace_those_of_the_plot(ax: Axes) -> None:
    """Under a name that Matplotlib does not take beside the default's."""
    assert DRAW["modes"](ax=ax, c="red").collections[1].get_facecolor()[0].tolist() == [1, 0, 0, 1]
    assert DRAW["contours"](cmap="cividis").collections[-1].get_cmap().name == "cividis"


WITH = {
    option: [
        name
        for name in DRAW
        if option in inspect.signature(getattr(plot, f"plot_{name}")).parameters
    ]
    for option in ("n_grid", "y_unit", "x_label", "y_label")
}


@pytest.mark.parametrize("name", WITH["n_grid"])
def test_the_number_of_points_is_checked_first(name: str) -> None:
    """It is an integer of at least 2, in every plot that has it."""
    draw = getattr(plot, f"plot_{name}")
    with pytest.raises(TypeError, match="n_grid must be an integer; got 'many'"):
        draw(None, None, n_grid="many")
    with pytest.raises(ValueError, match="n_grid must be at least 2; got 1"):
        draw(None, None, n_grid=1)


@pytest.mark.parametrize(
    ("option", "name"), [(o, n) for o in WITH if o != "n_grid" for n in WITH[o]]
)
def test_labels_and_units_are_texts(option: str, name: str) -> None:
    """A number is refused by the name of the option, and no figure is left."""
    with pytest.raises(TypeError, match=f"{option} must be a text; got int"):
        DRAW[name](**{option: 3})
    assert plt.get_fignums() == []


@every
def test_no_figure_is_left_where_matplotlib_refuses_a_value(name: str) -> None:
    """The user's own figures stay."""
    own = plt.figure()
    with pytest.raises(TypeError, match="alpha must be numeric or None"):
        DRAW[name](alpha="no number")
    assert plt.get_fignums() == [own.number]

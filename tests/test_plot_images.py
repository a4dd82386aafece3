"""Whole pictures against small ones that were checked by eye; ``python -m tests.test_plot_images``
makes new ones, to be checked again.

The pictures are compared as thumbnails of 40 by 30 pixels, by the root-mean-square difference of
their colours.  Other fonts and another smoothing of edges change it little, a curve, an area or a
legend in another place changes it much; both are tested here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mdn import GaussianMixture, History, plot
from mdn.calibration import coverage_curve, pit_histogram

BASELINE = Path(__file__).with_name("baseline")
SIZE, DPI = (8.0, 6.0), 50  # inches, pixels an inch: 400 by 300 pixels
STORED, COMPARED = 2, 10  # pixels of the picture along one of the baseline, and of the thumbnail
TOLERANCE = 3.0  # of 255; other fonts and rasters differ by 1.2 to 2.6, other data by 5 or more

X = np.linspace(1.0, 4.0, 60)
SIGN = np.where(np.arange(60) % 3 == 0, -1.0, 1.0)
Y = SIGN * X + 0.4 * np.sin(40.0 * X)
SPREAD = np.linspace(0.5, 2.0, 200)


def fork(x: torch.Tensor) -> GaussianMixture:
    """0.7 N(x, 0.5^2) + 0.3 N(-x, 0.3^2) + 0 to 0.2 at 0, x the first feature."""
    loc = torch.stack([x[:, :1], -x[:, :1], 0.0 * x[:, :1]], dim=-2)  # (N, 3, 1)
    rare = (x[:, :1] / 20).log()
    logits = torch.cat([torch.tensor([0.7, 0.3]).log().expand(len(x), 2), rare], dim=-1)
    return GaussianMixture(logits, loc, torch.tensor([[0.5], [0.3], [0.2]]))


def plane(x: torch.Tensor) -> GaussianMixture:
    loc = torch.tensor([[0.0, 0.0], [3.0, 2.0]]).expand(len(x), 2, 2)
    tril = torch.tensor([[[1.0, 0.0], [0.6, 0.5]], [[0.5, 0.0], [-0.3, 0.6]]])
    return GaussianMixture(torch.zeros(2), loc, scale_tril=tril)


def outcome(scale: float) -> tuple[GaussianMixture, np.ndarray]:
    """A standard normal, or one too wide or too narrow, and evenly spread targets."""
    levels = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    y = torch.special.ndtri(levels)[:, None]
    return GaussianMixture(torch.zeros(1), 0 * y[:, None], torch.full((1, 1), scale)), y.numpy()


def decay(end: float) -> list[float]:
    return list(end + 2.0 * np.exp(-np.arange(60) / 12))


PICTURES: dict[str, Callable[..., Any]] = {
    "density": lambda ax, shift=0.0: plot.plot_density(fork, X, Y + shift, ax=ax, n_grid=99),
    "feature": lambda ax, shift=0.0: plot.plot_feature(fork, X + shift, ax=ax, n_grid=99),
    "fan": lambda ax, shift=0.0: plot.plot_fan(fork, X + shift, Y, ax=ax),
    "modes": lambda ax, shift=0.0: plot.plot_modes(fork, X, Y + shift, ax=ax),
    "weights": lambda ax, shift=0.0: plot.plot_weights(fork, X + 4 * shift, ax=ax),
    "conditional": lambda ax, shift=0.0: plot.plot_conditional(
        fork, [3.0 - 2 * shift], region="hdr", ax=ax
    ),
    "conditionals": lambda ax, shift=0.0: plot.plot_conditional(fork, [1.0, 2.0, 3 + shift], ax=ax),
    "ridge": lambda ax, shift=0.0: plot.plot_ridge(fork, X[::6] ** (1 + shift), ax=ax),
    "contours": lambda ax, shift=0.0: plot.plot_contours(
        plane, [1.0], coverage=[0.5, 0.8, 0.95 - 0.3 * shift], ax=ax
    ),
    "pit": lambda ax, shift=0.0: plot.plot_pit(pit_histogram(*outcome(1.5 - shift), bins=8), ax=ax),
    "coverage": lambda ax, shift=0.0: plot.plot_coverage(
        {name: coverage_curve(*outcome(s - shift)) for name, s in (("a", 1.0), ("b", 1.5))}, ax=ax
    ),
    "sharpness": lambda ax, shift=0.0: plot.plot_sharpness(
        SPREAD, SPREAD ** (1 - 4 * shift) * np.sin(37.0 * SPREAD) * 1.4, ax=ax
    ),
    "history": lambda ax, shift=0.0: plot.plot_history(
        History(decay(-0.5), decay(-0.3 + shift), 40), ax=ax
    ),
    "units": lambda ax, shift=0.0: plot.plot_units(
        {"s": 4.6, "min": 0.5 + shift, "h": -3.6}, ax=ax
    ),
    "waterfall": lambda ax, shift=0.0: plot.plot_waterfall(
        {"marginal": 1.4, "wide": 1.2, "worse": 1.3 + shift, "mixture": 0.5}, ax=ax
    ),
}


def drawn(name: str, finer: int = 1, **changed: Any) -> np.ndarray:
    """The picture, (300, 400, 3), 0 to 255; the frame does not depend on the size of text."""
    figure = Figure(figsize=SIZE, dpi=finer * DPI)
    canvas = FigureCanvasAgg(figure)
    ax: Axes = figure.add_axes((0.18, 0.18, 0.78, 0.78))
    PICTURES[name](ax, **changed)
    canvas.draw()
    return smaller(np.asarray(canvas.buffer_rgba())[..., :3].astype(float), finer)


def smaller(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of pixels."""
    height, width = (n // factor for n in picture.shape[:2])
    return picture.reshape(height, factor, width, factor, 3).mean((1, 3))


def baseline(name: str) -> np.ndarray:
    """The thumbnail of the stored picture."""
    stored = image.imread(BASELINE / f"{name}.png")[..., :3] * 255.0
    return smaller(stored, COMPARED // STORED)


def distance(picture: np.ndarray, name: str) -> float:
    """Root of the mean square over pixels and colours, of 255."""
    return float(np.sqrt(((smaller(picture, COMPARED) - baseline(name)) ** 2).mean()))


@pytest.mark.parametrize("name", PICTURES)
def test_picture_matches_its_baseline(name: str) -> None:
    """Nothing has moved, up to what another version of Matplotlib may change."""
    assert distance(drawn(name), name) < TOLERANCE


@pytest.mark.parametrize("name", PICTURES)
def test_other_fonts_and_another_resolution_are_tolerated(name: str) -> None:
    """Letters have other shapes and widths, and edges are smoothed differently."""
    with mpl.rc_context({"font.family": "serif", "text.antialiased": False}):
        assert distance(drawn(name, finer=2), name) < TOLERANCE


@pytest.mark.parametrize("name", PICTURES)
def test_picture_of_other_data_does_not_match(name: str) -> None:
    """The comparison can fail: it does for the same plot of slightly different numbers."""
    assert distance(drawn(name, shift=0.5), name) > TOLERANCE


if __name__ == "__main__":
    BASELINE.mkdir(exist_ok=True)
    for name in PICTURES:
        small = smaller(drawn(name), STORED).round().astype(np.uint8)
        image.imsave(BASELINE / f"{name}.png", small, metadata={"Software": ""})

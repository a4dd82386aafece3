"""Tests of the search for faults of figures, on figures with one fault each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import faults


def drawn(add: Callable[[Axes], object]) -> list[str]:
    """The faults of a labelled curve to which something was added."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(np.linspace(0, 1, 50), np.linspace(0, 1, 50), label="curve")
    ax.set(xlabel="x", ylabel="y")
    add(ax)
    return faults(figure)


def test_a_figure_without_faults_has_none() -> None:
    """A legend and a note away from the curve, inside the frame and outside it."""
    assert not drawn(lambda ax: None)
    assert not drawn(lambda ax: ax.legend(loc="upper left", frameon=False))
    assert not drawn(lambda ax: ax.text(0.6, 0.1, "a note"))
    assert not drawn(lambda ax: ax.figure.legend(loc="outside upper center"))
    assert not drawn(lambda ax: ax.set_axis_off())


@pytest.mark.parametrize(
    ("add", "fault"),
    [
        (lambda ax: ax.legend(loc="upper right", frameon=False), "a curve crosses the legend"),
        (lambda ax: (ax.legend(loc="upper left"), ax.axvline(0.2)), "a curve crosses the legend"),
        (lambda ax: ax.text(0.4, 0.47, "a note"), "a curve crosses 'a note'"),
        (lambda ax: ax.text(0.9, 0.1, "a long note"), "'a long note' crosses the frame"),
        (lambda ax: ax.text(0.6, 0.1, "a") and ax.text(0.6, 0.1, "b"), "'a' overlaps 'b'"),
        (lambda ax: ax.figure.text(0.95, 0.0, "too long"), "'too long' is cut by the edge"),
    ],
)
def test_each_fault_is_found(add: Callable[[Axes], object], fault: str) -> None:
    """And named with the text that has it."""
    assert any(found.startswith(fault) for found in drawn(add)), drawn(add)

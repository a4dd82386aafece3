"""Modes, regions and CRPS of a rounded mixture against sums over SciPy's masses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from mdn import GaussianMixture
from mdn.distribution import DiscretizedMixture

S = scipy.stats

# logits, means, scales: (name, width); the grid from much coarser than the law to finer
LAWS = {
    "two": ((0.2, -0.1), (-1.3, 2.2), (0.4, 1.1)),
    "one cell": ((0.0,), (0.1,), (0.01,)),
    "on an edge": ((0.0,), (0.5,), (0.05,)),
    "narrow on wide": ((-1.0, 1.0), (0.6, 0.0), (0.02, 6.0)),
    "three": ((0.0, 0.3, 0.1), (-4.0, 0.2, 5.1), (0.3, 0.6, 0.2)),
}
WIDTHS = [0.1, 1.0, 2.5]
each = pytest.mark.parametrize("name", LAWS)
each_width = pytest.mark.parametrize("width", WIDTHS)


def law(name: str, width: float) -> DiscretizedMixture:
    logits, loc, scale = (torch.tensor(a, dtype=torch.float64) for a in LAWS[name])
    return GaussianMixture(logits, loc[:, None], scale[:, None]).discretize(width)


def scipy_cdf(name: str, y: np.ndarray) -> np.ndarray:
    logits, loc, scale = (np.array(a) for a in LAWS[name])
    w = np.exp(logits) / np.exp(logits).sum()
    return sum(a * S.norm(m, s).cdf(y) for a, m, s in zip(w, loc, scale, strict=True))


def masses(name: str, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells and their probabilities, all but 1e-15."""
    cells = np.arange(-math.ceil(60 / width), math.ceil(60 / width) + 1)
    return cells, np.diff(scipy_cdf(name, (np.append(cells, cells[-1] + 1) - 0.5) * width))


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


@each_width
@each
def test_modes_are_the_cells_above_their_neighbours(name: str, width: float) -> None:
    """By falling probability, the rest NaN; of two equal cells one."""
    cells, p = masses(name, width)
    top = np.flatnonzero((p[1:-1] > p[:-2]) & (p[1:-1] > p[2:]) & (p[1:-1] > 1e-12)) + 1
    found = law(name, width).modes()
    place, height = found.loc[:, 0].numpy() / width, found.log_density.numpy()
    there = ~np.isnan(place) & (height > math.log(1e-12))
    if name == "on an edge" and width == 1.0:  # 0 and 1 are as likely
        assert round(place[0]) in (0, 1)
        assert height[0] == pytest.approx(math.log(0.5))
        return
    order = np.argsort(-p[top], kind="stable")
    np.testing.assert_array_equal(np.round(place[there]), cells[top][order])
    np.testing.assert_allclose(height[there], np.log(p[top][order]), rtol=1e-8, atol=1e-12)
    mode = law(name, width).mode
    assert mode.shape == (1,)
    assert mode.item() == pytest.approx(cells[p.argmax()] * width)


@pytest.mark.parametrize("coverage", [0.3, 0.8, 0.99])
@each_width
@each
def test_a_region_is_the_fewest_multiples_that_hold_the_coverage(
    name: str, width: float, coverage: float
) -> None:
    """As many as the likeliest cells need, no less likely than the threshold, sorted, disjoint."""
    cells, p = masses(name, width)
    falling = np.sort(p)[::-1]
    fewest = int((falling.cumsum() - falling < coverage * (1 - 1e-12)).sum())
    region = law(name, width).hdr(coverage)
    assert region.coverage == coverage
    intervals = region.intervals[~region.intervals[:, 0].isnan()].numpy()
    first, last = np.round(intervals / width).T
    assert int((last - first + 1).sum()) == fewest
    assert (first[1:] > last[:-1] + 1).all()
    inside = ((first <= cells[:, None]) & (cells[:, None] <= last)).any(1)
    assert p[inside].sum() >= coverage - 1e-12
    assert p[inside].min() == pytest.approx(region.threshold.item(), rel=1e-8)


@each_width
@each
def test_the_crps_is_the_integral_of_the_squared_distance(name: str, width: float) -> None:
    """Of the step function F to the step at y, on the grid and off it, far away too."""
    cells, p = masses(name, width)
    cdf = p.cumsum()
    for y in (0.0, width, 0.37, -7.2 * width, 40.0):
        below = (np.clip(y - cells * width, 0, width) * cdf**2).sum()
        above = (np.clip((cells + 1) * width - y, 0, width) * (1 - cdf) ** 2).sum()
        got = law(name, width).crps(column(y)).item()
        assert got == pytest.approx(below + above, rel=1e-8), y


def test_the_crps_of_a_fine_grid_is_that_of_the_base() -> None:
    """Within half a width; and there is no jump where the sum over cells ends."""
    base = GaussianMixture(*(torch.tensor(a, dtype=torch.float64) for a in (
        [0.0], [[0.0]], [[1.0]])))  # fmt: skip
    y = column(-0.5, 0.3, 2.0)
    for width in (0.02, 0.01, 1e-3, 1e-7):
        gap = (base.discretize(width).crps((y / width).round() * width) - base.crps(y)).abs()
        assert bool((gap < 0.5 * width + 1e-12).all())


def test_a_region_of_a_fine_grid_has_the_rounded_ends_of_the_base() -> None:
    """(-1.6449, 1.6449) for 90 % of the standard normal, and the threshold is a probability."""
    zero = torch.zeros(1, dtype=torch.float64)
    rounded = GaussianMixture(zero, zero[:, None], zero[:, None] + 1).discretize(1e-4)
    region = rounded.hdr(0.9)
    np.testing.assert_allclose(region.intervals[0], [-1.6449, 1.6449], atol=1e-12)
    assert region.threshold.item() == pytest.approx(1e-4 * S.norm.pdf(1.6449), rel=1e-4)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    """Batch = loop, with laws of different width in one batch; dtype in, dtype out."""
    generator = torch.Generator().manual_seed(0)
    logits, loc, raw = (torch.randn(6, 3, generator=generator) for _ in range(3))
    batch = GaussianMixture(logits, 4 * loc[..., None], raw.exp()[..., None]).discretize(1.0)
    y = torch.arange(-2.0, 4.0)[:, None]
    region, modes, score = batch.hdr(0.7), batch.modes(), batch.crps(y)
    assert {a.dtype for a in (*region[:2], *modes, score)} == {torch.float32}
    for i in range(6):
        alone = batch[i].hdr(0.7)
        count = len(alone.intervals)
        torch.testing.assert_close(region.intervals[i, :count], alone.intervals, equal_nan=True)
        assert bool(region.intervals[i, count:].isnan().all())
        torch.testing.assert_close(region.threshold[i], alone.threshold)
        torch.testing.assert_close(modes.loc[i], batch[i].modes().loc, equal_nan=True)
        torch.testing.assert_close(score[i], batch[i].crps(y[i]))


def test_the_gradient_of_the_crps_reaches_the_parameters() -> None:
    """That of finite differences."""
    logits, loc, scale = (torch.tensor(a, dtype=torch.float64) for a in LAWS["two"])
    params = [a.requires_grad_() for a in (logits, loc[:, None], scale[:, None])]
    assert torch.autograd.gradcheck(
        lambda *p: GaussianMixture(*p).discretize(1.0).crps(column(1.0)), params, atol=1e-6
    )

"""p(y|x) of two targets: contours of the regions of highest density, with draws."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from numpy.typing import ArrayLike

from ..prediction import kind_of, to_numpy
from . import _inputs as inputs
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_contours"]

_N_DRAWS = 20_000  # the coverage of a contour is then off by 0.0035 (one standard error) at most
_MARGIN = 0.05  # around the draws, as a share of their range
_TAIL = 1e-3  # share of the draws on either side that the frame does not need to hold
_HEAD = 0.12  # of the height, for the legend
_DASHES = ("solid", "dashed", "dashdot", "dotted")


@look.takes_style("contour", ContourSet)
def plot_contours(
    model_or_dist: Any,
    x: ArrayLike | None = None,
    *,
    coverage: float | Sequence[float] = (0.5, 0.8, 0.95),
    n_samples: int = 300,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
    n_grid: int = 200,
    **style: Any,
) -> Axes:
    r"""Draws the density of two targets at one x as contours, with draws from it.

    The contour of coverage c is the edge of the smallest region with probability c, the set
    :math:`\{y : p(y|x) \ge t\}`; t is the :math:`1 - c` quantile of p at 20,000 draws.  The draws
    have a seed of their own, so the picture is the same each time.

    Args:
        model_or_dist: a distribution with batch () or (1,) and event (2,), or a model as in
            `plot_density` of two targets.
        x: one row of features for the model, (F,) or (1, F).
        coverage: probabilities of the regions, in (0, 1), at most four.
        n_samples: draws that are shown, 0 to 20,000.
        labels: what the two targets are, with their units.
        ax: where to draw; a new figure if None.
        n_grid: evenly spaced grid lines along either axis, next to as many that are denser where
            the density is high.
        **style: keywords of ``Axes.contour``, as ``colors`` or ``linewidths``.

    Raises:
        ValueError: more than one row, not two targets, or a coverage or a number out of range.
        TypeError: neither a model nor a distribution that can be sampled, or a model without x.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> loc = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
        >>> dist = GaussianMixture(torch.zeros(2), loc, torch.ones(2, 2))
        >>> ax = plot_contours(dist, coverage=[0.5, 0.9], labels=["width [m]", "height [m]"])
        >>> ax.get_legend_handles_labels()[1]
        ['300 draws']
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['50 % region', '90 % region', '300 draws']
    """
    wanted = inputs.check_coverages(coverage)
    if len(wanted) > len(_DASHES):
        raise ValueError(f"coverage must be at most {len(_DASHES)} values; got {len(wanted)}")
    if not 0 <= n_samples <= _N_DRAWS:
        raise ValueError(f"n_samples must lie between 0 and {_N_DRAWS}; got {n_samples}")
    names = inputs.check_labels(labels, ["", ""])
    row: Any = None if x is None else inputs.as_table(x)
    if x is not None and np.ndim(x) == 1:
        row = row.T  # numbers alone became a column
    dist = inputs.distribution_at(model_or_dist, row, n_targets=2)
    if tuple(dist.batch_shape) != (1,):
        raise ValueError(f"this plot shows one x; got {dist.batch_shape[0]} rows")

    points = _draws(dist)  # (S, 2)
    at_draws = inputs.evaluate(dist, dist.log_prob, points[:, None])[:, 0]  # (S,)
    levels = np.quantile(at_draws, 1 - np.array(wanted))[::-1]  # rising
    axes = [_grid_lines(points[:, i], n_grid) for i in (0, 1)]
    plane = np.stack(np.meshgrid(*axes), axis=-1)[:, :, None]  # (G2, G1, 1, 2)
    log_density = inputs.evaluate(dist, dist.log_prob, plane)[..., 0]
    log_density = log_density.clip(levels[0] - 50)  # to minus infinity no line is drawn

    ax = look.get_axes(ax)
    shades = look.blues()(np.linspace(0.12, 0.5, len(wanted)))
    ax.contourf(*axes, log_density, [*levels, np.inf], colors=shades, zorder=1)
    if n_samples:
        label, (first, second) = f"{n_samples} draws", points[:n_samples].T
        look.draw_points(ax, first, second, label, s=9, linewidths=0.4, zorder=2)
    dashes = _DASHES[: len(wanted)][::-1]
    defaults = {"linestyles": dashes, "linewidths": 1.6, "zorder": 3}
    defaults |= {} if "cmap" in style else {"colors": look.BLUE}
    drawn = ax.contour(*axes, log_density, levels, **{**defaults, **style})
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1] + _HEAD * np.ptp(axes[1]))

    look.set_labels(ax, "y[0]", "y[1]", *names)
    signs = drawn.legend_elements()[0][::-1]
    for sign, dash in zip(signs, dashes[::-1] if "linestyles" not in style else [], strict=False):
        sign.set(linestyle=dash)  # Matplotlib has stretched the dashes twice
    regions = [f"{look.percent(c)} region" for c in wanted]
    handles, texts = ax.get_legend_handles_labels()
    flat: dict[str, Any] = {"ncols": len(wanted) + 1, "frameon": False, "columnspacing": 1.2}
    ax.legend([*signs, *handles], [*regions, *texts], loc="upper center", fontsize="small", **flat)
    return ax


def _draws(dist: Any) -> Floats:
    """Returns draws with a seed of their own, (S, 2); the global random state stays as it was."""
    if "generator" not in inspect.signature(dist.sample).parameters:
        raise TypeError(
            f"this plot needs sample(shape, generator=), as of a mixture; got {kind_of(dist)}"
        )
    draws = dist.sample((_N_DRAWS,), generator=torch.Generator().manual_seed(0))
    return to_numpy(draws)[:, 0]


def _grid_lines(draws: Floats, n: int) -> Floats:
    """Returns grid lines along one axis: n even ones, and n that follow the draws."""
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    even = inputs.even_steps(np.array([low, high]), _MARGIN, n)
    dense = np.quantile(draws, np.linspace(_TAIL, 1 - _TAIL, n))
    return np.unique(np.concatenate([even, dense]))

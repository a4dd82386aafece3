"""p(y|x) of two targets: contours of the regions of highest density, with draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from . import _inputs as ask
from . import _style as look
from ._inputs import Floats

__all__ = ["plot_contours"]

_N_DRAWS = 20_000  # the coverage of a contour is then off by 0.0035 (one standard error) at most
_MARGIN = 0.05  # around the draws, as a share of their range
_TAIL = 1e-3  # share of the draws on either side that the frame does not need to hold
_HEAD = 0.12  # of the height, for the legend
_DASHES = ("solid", "dashed", "dashdot", "dotted")


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
    r"""Draw the density of two targets at one x as contours, with draws from it.

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

    Returns:
        The Axes.

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
    wanted = ask.coverages(coverage)
    if len(wanted) > len(_DASHES):
        raise ValueError(f"coverage must be at most {len(_DASHES)} values; got {len(wanted)}")
    if not 0 <= n_samples <= _N_DRAWS:
        raise ValueError(f"n_samples must lie between 0 and {_N_DRAWS}; got {n_samples}")
    if n_grid < 2:
        raise ValueError(f"n_grid must be at least 2; got {n_grid}")
    names = ask.labels(labels, 2)
    row = None if x is None else np.atleast_2d(ask.numeric(x, "x"))
    dist, _ = ask.conditional(model_or_dist, row, ["log_prob"], n_targets=2)
    if tuple(dist.batch_shape) != (1,):
        raise ValueError(f"this plot shows one x; got {dist.batch_shape[0]} rows")

    points = ask.draws(dist, _N_DRAWS)[:, 0]  # (S, 2)
    with torch.no_grad():
        at_draws = ask.array(dist.log_prob(ask.like(dist, points[:, None])))[:, 0]  # (S,)
    levels = np.quantile(at_draws, 1 - np.array(wanted))[::-1]  # rising
    axes = [_lines(points[:, i], n_grid) for i in (0, 1)]
    log_density = _on_plane(dist, *axes).clip(levels[0] - 50)  # to minus infinity no line is drawn

    ax = look.axes(ax)
    shades = look.blues()(np.linspace(0.12, 0.5, len(wanted)))
    ax.contourf(*axes, log_density, [*levels, np.inf], colors=shades, zorder=1)
    shown = points[:n_samples]
    if n_samples:
        ax.scatter(
            *(shown[:, 0], shown[:, 1]),
            s=9,
            color=look.BLACK,
            edgecolors="white",
            linewidths=0.4,
            zorder=2,
            rasterized=True,
            label=f"{n_samples} draws",
        )
    dashes = _DASHES[: len(wanted)][::-1]
    default = {"colors": look.BLUE, "linestyles": dashes, "linewidths": 1.6, "zorder": 3}
    drawn = ax.contour(*axes, log_density, levels, **{**default, **style})
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1] + _HEAD * np.ptp(axes[1]))

    ax.set_xlabel((names or [""])[0] or ax.get_xlabel() or "y[0]")
    ax.set_ylabel((names or ["", ""])[1] or ax.get_ylabel() or "y[1]")
    signs = drawn.legend_elements()[0][::-1]
    for sign, dash in zip(signs, dashes[::-1] if "linestyles" not in style else [], strict=False):
        sign.set(linestyle=dash)  # Matplotlib has stretched the dashes twice
    regions = [f"{look.percent(c)} region" for c in wanted]
    handles, texts = ax.get_legend_handles_labels()
    ax.legend(
        *([*signs, *handles], [*regions, *texts]),
        loc="upper center",
        ncols=len(wanted) + 1,
        fontsize="small",
        frameon=False,
        columnspacing=1.2,
    )
    return ax


def _lines(draws: Floats, n: int) -> Floats:
    """Grid lines along one axis: n even ones, and n that follow the draws."""
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    even = ask.span(np.array([low, high]), _MARGIN, n)
    dense = np.quantile(draws, np.linspace(_TAIL, 1 - _TAIL, n))
    return np.unique(np.concatenate([even, dense]))


def _on_plane(dist: Any, first: Floats, second: Floats) -> Floats:
    """Log density, (second, first)."""
    plane = np.stack(np.meshgrid(first, second), axis=-1)  # (G2, G1, 2)
    with torch.no_grad():
        parts = torch.as_tensor(plane).unsqueeze(-2).split(32)  # (32, G1, 1, 2), to save memory
        return np.concatenate([ask.array(dist.log_prob(ask.like(dist, p)))[..., 0] for p in parts])

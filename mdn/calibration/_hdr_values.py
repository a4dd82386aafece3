"""Position of y in its predictive distribution: values uniform on [0, 1] under calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import VonMises

from ..arguments import check_generator, check_integer
from ..distribution import AtomicMixture, GaussianMixture, Mixture, PointMass
from ..functional._roots import find_root, refine_extrema
from ..functional._sampling import fixed_generator
from ..prediction import Floats, distribution_and_target, to_numpy
from ..scoring import randomized_pit

__all__ = ["hdr_values", "pit_or_values"]

_CHUNK = 1 << 21  # numbers a working array may hold: 16 MiB
_DOUBLINGS = 200  # of a step away from the outermost modes


def pit_or_values(
    dist_or_pit: Any, y: Any, X: Any = None, generator: torch.Generator | None = None
) -> Floats:
    """Returns the PIT (N,) of a distribution, randomised at jumps, or given values, checked."""
    if y is not None:
        dist, target = distribution_and_target(dist_or_pit, y, X)
        with torch.no_grad():
            return to_numpy(randomized_pit(dist, target, generator=generator))
    if X is not None or hasattr(dist_or_pit, "log_prob"):
        raise ValueError("y must be given with a distribution; got None")
    values = np.asarray(dist_or_pit, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"PIT values must have shape (N,), N > 0; got {values.shape}")
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"PIT values must lie in [0, 1]; got {values[row]:g} in row {row}")
    return values


@torch.no_grad()
def hdr_values(
    dist: Any,
    y: ArrayLike,
    *,
    X: Any = None,
    n_samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Floats:
    r"""Returns the probability of the highest-density region that reaches y.

    .. math:: v = P\left(p(Y) \ge p(y)\right), \qquad Y \sim p

    Uniform under calibration.  y lies in the region of coverage c exactly if :math:`v \le c`: v is
    near 0 at the highest mode and near 1 far from all of them.  Unlike the PIT it exists for any
    number of targets and shows whether the gap between two modes is as empty as predicted.

    For D = 1, Gaussian mixtures and continuous mixtures of other families: exact, from the edges of
    the region on either side of every mode; beside atoms too, which come first, and at an atom v is
    drawn from what it adds.  For D > 1, families with jumps and those on a circle:
    from draws, by the rank r of p(y) among them, :math:`v = (r + u) / (S + 1)` with a uniform u,
    which is exactly uniform too.

    Args:
        dist: a distribution of batch (N,) or (), or a model with X, N rows of features.
        y: targets, (N, D), tensor or array.
        n_samples: draws S for each row, where it is not exact.
        generator: source of randomness; one of a fixed seed if None.

    Returns:
        (N,).

    Raises:
        ValueError: y of another shape or with NaN, or no draws.

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(2), torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1))
        >>> hdr_values(dist, [[3.0], [4.0], [0.0]]).round(3)
        array([0.   , 0.683, 0.997])

    References:
        N. Dalmasso et al., Conditional density estimation tools in Python and R, Astron. Comput. 30
        (2020), eq. 5; R. J. Hyndman, Computing and graphing highest density regions, Am. Stat. 50
        (1996).
    """
    check_integer("n_samples", n_samples)
    check_generator(generator)
    dist, target = distribution_and_target(dist, y, X)
    source = generator or fixed_generator(target)
    if isinstance(dist, AtomicMixture):
        return _beside_atoms(dist, target, n_samples, source)
    exact = _has_edges(dist)
    per_row = (4 if exact else n_samples) * getattr(dist, "n_components", 1)
    step = max(1, _CHUNK // per_row)
    found = []
    for i in range(0, len(target), step):
        part = dist[i : i + step], target[i : i + step]
        found.append(_exact(*part) if exact else _ranked(*part, n_samples, source))
    return to_numpy(torch.cat(found))


def _beside_atoms(
    dist: AtomicMixture, y: Tensor, n_samples: int, source: torch.Generator
) -> Floats:
    """Atoms by falling probability, at one a uniform share of it; then the values of the base."""
    places, mass = dist.atoms, dist.atom_probs  # (n, A)
    hit = y == places
    own, at = (torch.where(hit, a, 0.0).sum(-1, keepdim=True) for a in (mass, places))
    first = (mass > own) | ((mass == own) & (places < at))
    u = torch.rand(len(y), generator=source, dtype=torch.float64, device=y.device)
    found = (mass * first).sum(-1) + u * own[:, 0]
    off = (~hit.any(-1)).nonzero()[:, 0]
    if len(off):
        inner = hdr_values(dist.base[off], y[off], n_samples=n_samples, generator=source)
        rest = mass[off].sum(-1)
        found[off] = rest + (1.0 - rest) * torch.as_tensor(inner, device=y.device)
    return to_numpy(found)


def _has_edges(dist: Any) -> bool:
    """Whether the density is continuous on a line and its modes are known."""
    if isinstance(dist, GaussianMixture):
        return tuple(dist.event_shape) == (1,)
    if not isinstance(dist, Mixture) or tuple(dist.event_shape) != (1,):
        return False
    kinds: Any = dist.components if isinstance(dist.components, list) else [dist.components]
    return not any(
        isinstance(getattr(c, "base_dist", c), PointMass | VonMises) or c.support.is_discrete
        for c in kinds
    )


def _exact(dist: Any, y: Tensor) -> Tensor:
    """Probability between the two edges of every mode where the density exceeds p(y); (n,)."""
    level = dist.log_prob(y)  # (n,)
    modes = dist.modes().loc[..., 0].t()  # (M, n), NaN-padded
    modes = modes[~modes.isnan().all(-1)]
    last = modes.nan_to_num(nan=-math.inf).amax(0)
    modes = torch.where(modes.isnan(), last, modes).sort(0).values  # repeated ones enclose nothing

    def height(x: Tensor) -> Tensor:
        return dist.log_prob(x.unsqueeze(-1))

    valley = modes[:0]
    if len(modes) > 1:  # (M - 1, n)
        low, high = modes[:-1], modes[1:]
        valley = refine_extrema(lambda x: -height(x), low, 0.5 * (low + high), high)
    spread = dist.stddev[..., 0]
    spread = torch.where(spread.isfinite() & (spread > 0), spread, 1.0)
    first = _beyond(height, modes[0], -spread, level).unsqueeze(0)
    end = _beyond(height, modes[-1], spread, level).unsqueeze(0)
    outside = torch.stack([torch.cat([first, valley]), torch.cat([valley, end])])  # (2, M, n)
    inside = modes.expand_as(outside)
    # where the density is above the level at both ends, the lower end is nearer to it: outside
    edges = find_root(lambda x: height(x) - level, outside, inside)
    left, right = dist.cdf(edges.unsqueeze(-1))
    return torch.where(height(modes) >= level, right - left, 0.0).sum(0).clamp(0.0, 1.0)


def _beyond(height: Any, start: Tensor, step: Tensor, level: Tensor) -> Tensor:
    """A point outside the modes where the density is below the level."""
    at = start + step
    for _ in range(_DOUBLINGS):
        short = height(at) >= level
        if not bool(short.any()):
            break
        step = torch.where(short, 2.0 * step, step)
        at = torch.where(short, start + step, at)
    return at


def _ranked(dist: Any, y: Tensor, n_samples: int, source: torch.Generator) -> Tensor:
    """(r + u) / (S + 1), ties of p(y) with a draw broken at random; (n,)."""
    level = dist.log_prob(y)
    draws = dist.log_prob(dist.sample((n_samples,), generator=source))  # (S, n)
    more, same = (draws > level).sum(0), (draws == level).sum(0)
    u = torch.rand(len(y), generator=source, dtype=torch.float64, device=y.device)
    return (more + u * (same + 1)) / (n_samples + 1)

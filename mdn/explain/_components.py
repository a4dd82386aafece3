"""Health of the components: scales at the floor, spikes, dead and duplicated components."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.distributions import Distribution, Independent

from ..distribution import DiscretizedMixture, GaussianMixture, TruncatedMixture
from ..distribution._family_moments import moments
from ..prediction import Floats
from ._evaluation import Evaluation, evenly_spaced, to_latent

__all__ = ["AT_FLOOR", "Components", "components", "health"]

_MOST_ROWS = 4000  # rows that are examined, so that the components of an ensemble fit in memory
AT_FLOOR = 1.5  # floors; up to this scale a component counts as at the floor
_DEAD = 1e-4  # a component whose weight in its network is below this in every row is dead
_ALIKE = 0.1  # scales; closer than this in location and log scale, two components are duplicates
_ALIKE_ROWS = 0.95  # share of the rows where they must be
_BELONGS = 0.5  # responsibility from which on a row belongs to a component
_CAPTURED = 0.9  # responsibility of a spike for its row; without it the density there is a tenth
_SPIKE = 0.1  # of the typical error on held-out rows: a narrower component is a spike
_SPIKE_ALONE = 0.01  # standard deviations of y: the same where there are no held-out rows
_HAS_WEIGHT = 0.02  # weight in its network from which on a component near a held-out y counts
_GAUSSIAN_MAD = 0.6745  # median absolute deviation of a standard normal
_MOST_MERGED = 64  # components up to which it is tried how many would be enough
_SIZES = (50, 40, 30, 25, 20, 16, 12, 10, 8, 6, 5, 4, 3, 2, 1)  # to which they are merged
_MERGED_ROWS = 200  # rows on which this is tried
_LOSS_BY_MERGING = 0.05  # nats per row that merging may cost
_MOST_LISTED = 30  # components a table may have

Pairs = list[tuple[int, int]]


@dataclass
class Components:
    """Arrays of the components of N rows, in latent units, in which they are Gaussian.

    Attributes:
        rows: (N,) indices of the rows.
        log_weight: (N, K), normalised over all components.
        loc: (N, K, D).
        scale: (N, K, D); for a full covariance the scale of its narrowest direction.
        log_responsibility: (N, K) log posterior probability of the components given y.
        network: (K,) the network of each component; -1 for one that belongs to none.
    """

    rows: NDArray[np.intp]
    log_weight: Floats
    loc: Floats
    scale: Floats
    log_responsibility: Floats
    network: NDArray[np.intp]

    @property
    def networks(self) -> list[NDArray[np.intp]]:
        """Indices of the components of each network."""
        return [np.flatnonzero(self.network == m) for m in range(self.network.max() + 1)]

    @property
    def responsible_scale(self) -> Floats:
        """Scale of the component to which each row belongs most, (N, D)."""
        best = self.log_responsibility.argmax(1)
        return self.scale[np.arange(len(best)), best]


@torch.no_grad()
def components(evaluation: Evaluation) -> Components | None:
    """Returns the components in some of the rows; None of a distribution without components."""
    if not evaluation.is_mixture:
        return None
    smooth, index = evaluation.off_atoms()
    if not len(index):
        return None
    some = evenly_spaced(len(index), _MOST_ROWS)
    assert smooth.y is not None
    dist, y = smooth.dist[torch.from_numpy(some)], smooth.y[torch.from_numpy(some)]
    rows = index[some]
    if isinstance(dist, DiscretizedMixture | TruncatedMixture):
        dist = dist.base
    try:
        loc, scale = _loc_and_scale(dist)
    except TypeError:  # components of dependent dimensions that have no moments
        return None
    network = np.arange(loc.shape[1]) // max(1, loc.shape[1] // evaluation.n_networks)
    network[network >= evaluation.n_networks] = -1
    log_responsibility = np.nan_to_num(dist.responsibilities(y).double().numpy(), nan=-40.0)
    log_weight = dist.logits.double().numpy()
    return Components(rows, log_weight, loc, scale, log_responsibility, network)


def _loc_and_scale(dist: Any) -> tuple[Floats, Floats]:
    """Returns locations and scales, (N, K, D)."""
    if isinstance(dist, GaussianMixture):
        scale = dist.scale
        if dist.covariance_type != "diagonal":
            narrowest = torch.linalg.eigvalsh(dist.covariance_matrix.double())[..., :1]
            scale = narrowest.clamp(min=0).sqrt().expand(dist.loc.shape)
        return dist.loc.double().numpy(), scale.double().numpy()
    listed = isinstance(dist.components, list)  # of distributions that have no axis K yet
    axis, shape = len(dist.batch_shape), (*dist.batch_shape, -1, *dist.event_shape)
    found: list[list[Tensor]] = [[], []]
    for component in dist.components if listed else [dist.components]:
        for column, a in zip(found, _component_parameters(component), strict=True):
            column.append((a.unsqueeze(axis) if listed else a).expand(shape))
    locs, scales = (torch.cat(column, axis).double().numpy() for column in found)
    return locs, np.nan_to_num(scales, nan=math.inf)


def _component_parameters(component: Distribution) -> list[Tensor]:
    """Returns location and scale of a family that has them, else mean and standard deviation."""
    base = component.base_dist if isinstance(component, Independent) else component
    pair: list[Any] = [getattr(base, "loc", None), getattr(base, "scale", None)]
    if not all(isinstance(a, Tensor) for a in pair):
        mean, variance = moments(base, torch.device("cpu"))
        pair = [mean, variance.sqrt()]
    return [a if component.event_shape else a.unsqueeze(-1) for a in pair]


# -- health ---------------------------------------------------------------------------------------


def health(evaluation: Evaluation, train: Evaluation | None) -> dict[str, Any]:
    """Returns what the components do in these rows, and in the training rows if there are any."""
    held = components(evaluation)
    if held is None:
        return {}
    fitted = None if train is None else components(train)
    judged, source = (held, evaluation) if fitted is None or train is None else (fitted, train)
    assert source.y is not None
    spread = to_latent(source.y.numpy()[judged.rows], source.link)[0].std(0)
    spread = np.where(spread > 0, spread, 1.0)
    spike = _SPIKE_ALONE * spread if fitted is None else _SPIKE * _typical_error(evaluation, held)
    narrow: NDArray[np.bool_] = np.any(judged.scale <= spike, axis=-1)  # (N, K)
    dead, duplicates = _redundant(judged)
    single = _on_one_row(judged, narrow)
    captured = sorted({int(judged.rows[row]) for row in single.values()})
    found = {
        "components": int(judged.loc.shape[1]),
        "networks": len(judged.networks),
        "rows_judged": len(judged.rows),
        "effective_components": _effective(held),
        "spike_scale": spike.tolist(),
        "share_on_spikes": _share_of_rows(judged, narrow),
        "dead": int(dead.sum()),
        "duplicated": len(duplicates),
        "on_one_row": len(captured),
        "captured_rows": captured,
    }
    if evaluation.scale_floor is not None:
        found |= _at_floor(held, evaluation.scale_floor, spread)
    if isinstance(evaluation.dist, GaussianMixture) and 1 < judged.loc.shape[1] <= _MOST_MERGED:
        found["enough_components"] = _enough(evaluation)
    if len(judged.networks) == 1 and judged.loc.shape[1] <= _MOST_LISTED:
        found["table"] = _table(judged, evaluation.scale_floor, dead, duplicates, single)
    return found


def _at_floor(found: Components, scale_floor: Floats, spread: Floats) -> dict[str, Any]:
    """Returns how many rows belong to components at the scale floor."""
    # scales below the floor mean that the output of the head is transformed afterwards
    if (found.scale < 0.999 * scale_floor).any():
        return {"floor_known": False}
    at_floor = (found.scale <= AT_FLOOR * scale_floor).any(-1)  # (N, K)
    return {
        "floor_known": True,
        "floor": scale_floor.tolist(),
        "floor_in_standard_deviations": (scale_floor / spread).tolist(),
        "share_at_floor": _share_of_rows(found, at_floor),
        "median_scale": np.median(found.responsible_scale, 0).tolist(),
    }


def _typical_error(evaluation: Evaluation, found: Components) -> Floats:
    """Returns the scale of the distance of y from the nearest components with weight, (D,).

    Of each network those components that are nearest to y count up to a share of its weight, so it
    does not matter into how many components or networks the mixture is cut.
    """
    assert evaluation.y is not None
    z = to_latent(evaluation.y.numpy()[found.rows], evaluation.link)[0]
    distances = []
    for own in found.networks:
        distance = np.abs(z[:, None] - found.loc[:, own])  # (N, k, D)
        order = distance.argsort(1)
        weight = softmax(found.log_weight[:, own], axis=1)[..., None].repeat(z.shape[1], -1)
        total = np.take_along_axis(weight, order, 1).cumsum(1)
        last = (total >= _HAS_WEIGHT).argmax(1)[:, None]  # (N, 1, D), an index into order
        last = np.take_along_axis(order, last, 1)
        distances.append(np.take_along_axis(distance, last, 1)[:, 0])
    return np.median(np.concatenate(distances), 0) / _GAUSSIAN_MAD


def _share_of_rows(found: Components, which: Any) -> float:
    """Returns the share of the rows that belong to components of a kind; which is (N, K)."""
    return float(((np.exp(found.log_responsibility) * which).sum(1) > _BELONGS).mean())


def _effective(found: Components) -> float:
    """Returns exp(entropy) of the weights within a network, mean over rows and networks."""
    total = []
    for own in found.networks:
        log_weight = log_softmax(found.log_weight[:, own], axis=1)
        weight = np.exp(log_weight)
        total.append(np.exp(-(weight * np.where(weight > 0, log_weight, 0.0)).sum(1)))
    return float(np.mean(total))


def _enough(evaluation: Evaluation) -> int:
    """Returns the smallest number to which the components can be merged at hardly any loss."""
    rows = torch.from_numpy(evenly_spaced(len(evaluation.nll), _MERGED_ROWS))
    assert evaluation.y is not None
    dist, y = evaluation.dist[rows], evaluation.y[rows]
    before, enough = dist.log_prob(y), int(dist.n_components)
    for size in (size for size in _SIZES if size < enough):
        dist = dist.merge(size)  # it merges pairs, so each size continues from the last
        if float((before - dist.log_prob(y)).mean()) > _LOSS_BY_MERGING:
            break
        enough = size
    return enough


def _redundant(found: Components) -> tuple[NDArray[np.bool_], Pairs]:
    """Returns dead components, (K,), and pairs of duplicates."""
    dead = np.zeros(found.loc.shape[1], dtype=bool)
    duplicates: Pairs = []
    for own in found.networks:
        log_weight = log_softmax(found.log_weight[:, own], axis=1)
        dead[own] = log_weight.max(0) < math.log(_DEAD)
        alive = own[~dead[own]]
        pairs = combinations(alive.tolist(), 2)
        duplicates += [(a, b) for a, b in pairs if _are_alike(found, a, b)]
    return dead, duplicates


def _on_one_row(found: Components, narrow: NDArray[np.bool_]) -> dict[int, int]:
    """Returns the narrow components that are on one row each, and their row.

    Such a component has hardly any responsibility for the other rows, and those of a row have
    nearly all of it for that row together, whether they are one or the parts of one in a pool.
    """
    responsibility = np.exp(found.log_responsibility)
    row, each = responsibility.argmax(0), np.arange(responsibility.shape[1])
    top = responsibility[row, each]
    rest = responsibility.sum(0) - top
    alone = (rest < _BELONGS * top) & narrow[row, each]
    share = np.bincount(row, np.where(alone, top, 0.0), len(responsibility))
    return {int(k): int(row[k]) for k in np.flatnonzero(alone & (share[row] > _CAPTURED))}


def _are_alike(found: Components, a: int, b: int) -> bool:
    first, second = found.scale[:, a], found.scale[:, b]
    near = np.abs(found.loc[:, a] - found.loc[:, b]) < _ALIKE * np.minimum(first, second)
    with np.errstate(invalid="ignore", divide="ignore"):
        same_scale = np.abs(np.log(first / second)) < _ALIKE
    return bool((near & same_scale).all(1).mean() >= _ALIKE_ROWS)


def _table(
    found: Components,
    scale_floor: Floats | None,
    dead: NDArray[np.bool_],
    duplicates: Pairs,
    single: dict[int, int],
) -> list[dict[str, Any]]:
    """Returns one entry for each component."""
    weight, share = np.exp(found.log_weight), np.exp(found.log_responsibility)
    table = []
    for k in range(weight.shape[1]):
        entry: dict[str, Any] = {
            "component": k,
            "mean_weight": float(weight[:, k].mean()),
            "share_of_rows": float(share[:, k].mean()),
            "median_scale": float(np.median(found.scale[:, k].min(-1))),
        }
        if scale_floor is not None:
            at_floor = (found.scale[:, k] <= AT_FLOOR * scale_floor).any(-1)
            entry["share_at_floor"] = float(at_floor.mean())
        twins = [a if b == k else b for a, b in duplicates if k in (a, b)]
        if dead[k]:
            entry["state"] = "dead"
        elif k in single:
            entry["state"] = f"on row {found.rows[single[k]]} alone"
        else:
            entry["state"] = f"duplicate of component {twins[0]}" if twins else "alive"
        table.append(entry)
    return table

"""Health of the components: at the floor, dead, alike, or standing on single rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import Distribution, Independent

from ..distribution import DiscretizedMixture, GaussianMixture, Mixture, TruncatedMixture
from ..distribution._covariance import Diagonal
from ._evaluation import Rows

__all__ = ["Components", "components", "health", "subset"]

Floats = NDArray[np.float64]

MOST_ROWS = 4000  # evenly spaced ones that are looked at, so that a pool of networks fits in memory
AT_FLOOR = 1.5  # floors; up to this scale a component counts as at the floor
DEAD = 1e-4  # a component whose weight in its network is below this in every row is dead
_ALIKE = 0.1  # scales; nearer in location and log scale than this, two components are one
_ALIKE_ROWS = 0.95  # share of the rows where they must be
_MINE = 0.5  # posterior probability from which on a row belongs to a component
_NARROW = 0.1  # of the typical miss of unseen rows: a narrower component is a spike
_NARROW_ALONE = 0.01  # standard deviations of y: the same where there are no unseen rows
_MOST_MERGED = 64  # components that are merged to see how many would do
_SIZES = (50, 40, 30, 25, 20, 16, 12, 10, 8, 6, 5, 4, 3, 2, 1)  # to which they are merged
_MERGED_ROWS = 200  # evenly spaced ones on which this is tried
_LOST = 0.05  # nats a row that merging may cost
_MOST_LISTED = 30  # components a table may have


@dataclass
class Components:
    """Arrays of the components of N rows, in the unit in which they are Gaussian.

    Attributes:
        rows: (N,) which rows they are.
        log_weight: (N, K), normalised over all components.
        loc: (N, K, D).
        scale: (N, K, D); for a full covariance the scale of its narrowest direction.
        log_share: (N, K) log posterior probability of the components given y.
        member: (K,) the network of each component; -1 for one that all share.
    """

    rows: NDArray[np.intp]
    log_weight: Floats
    loc: Floats
    scale: Floats
    log_share: Floats
    member: NDArray[np.intp]


def subset(n: int) -> NDArray[np.intp]:
    """Evenly spaced rows, at most ``MOST_ROWS``."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).astype(np.intp))


@torch.no_grad()
def components(rows: Rows) -> Components | None:
    """The components of some of the rows; None where there are none to speak of."""
    if rows.classes or not rows.known:
        return None
    index = subset(len(rows.nll))
    assert rows.y is not None
    dist, y = rows.dist[torch.as_tensor(index)], rows.y[torch.as_tensor(index)]
    if isinstance(dist, DiscretizedMixture | TruncatedMixture):
        dist = dist.base
    found = _arrays(dist)
    if found is None:
        return None
    loc, scale = found
    k = loc.shape[1]
    each = max(1, k // rows.members)
    member = np.arange(k) // each
    member[member >= rows.members] = -1
    if rows.members == 1:
        member[:] = 0
    log_share = dist.responsibilities(y).double().numpy()
    log_weight = dist.logits.double().numpy()
    return Components(index, log_weight, loc, scale, np.nan_to_num(log_share, nan=-40.0), member)


def _arrays(dist: Any) -> tuple[Floats, Floats] | None:
    """Locations and scales, (N, K, D)."""
    if isinstance(dist, GaussianMixture):
        if isinstance(dist._covariance, Diagonal):
            return _floats(dist.loc), _floats(dist.scale)
        narrow = torch.linalg.eigvalsh(dist.covariance_matrix.double())[..., :1]
        return _floats(dist.loc), _floats(narrow.clamp(min=0).sqrt().expand(dist.loc.shape))
    if not isinstance(dist, Mixture):
        return None
    parts = dist.components
    axis = len(dist.batch_shape)
    listed = parts if isinstance(parts, list) else [parts]
    pairs = [_place(part) for part in listed]
    dims = dist.event_shape[0]
    shaped = [[a.unsqueeze(axis) if isinstance(parts, list) else a for a in pair] for pair in pairs]
    batch = dist.batch_shape
    loc, scale = (torch.cat([_wide(pair[i], batch, dims) for pair in shaped], axis) for i in (0, 1))
    return _floats(loc), np.nan_to_num(_floats(scale), nan=math.inf)


def _place(part: Distribution) -> tuple[Tensor, Tensor]:
    """Location and scale where a family has them, else mean and standard deviation."""
    inner = part.base_dist if isinstance(part, Independent) else part
    loc, scale = getattr(inner, "loc", None), getattr(inner, "scale", None)
    if not (isinstance(loc, Tensor) and isinstance(scale, Tensor)):
        loc, scale = inner.mean, inner.stddev
    return (a if part.event_shape else a.unsqueeze(-1) for a in (loc, scale))  # type: ignore[return-value]


def _wide(a: Tensor, batch: torch.Size, dims: int) -> Tensor:
    return a.expand(*batch, a.shape[len(batch)], dims)


def _floats(a: Tensor) -> Floats:
    return a.detach().double().cpu().numpy()


def health(rows: Rows, train: Rows | None) -> dict[str, Any]:
    """What the components do in these rows, and in the training rows if they are given."""
    found = components(rows)
    if found is None:
        return {}
    seen = components(train) if train is not None else None
    fitted, of = (found, rows) if seen is None or train is None else (seen, train)
    z = _in_way(of, fitted.rows)  # targets of the rows that are judged, (N, D)
    spread = z.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    miss = _NARROW_ALONE * spread
    if seen is not None:
        miss = _NARROW * _typical_miss(rows, found)
    share = np.exp(fitted.log_share)
    per_network = [m for m in np.unique(fitted.member) if m >= 0]
    out: dict[str, Any] = {
        "components": int(fitted.loc.shape[1]),
        "networks": len(per_network),
        "rows_judged": len(fitted.rows),
        "effective_components": _effective(found),
        "spike_scale": miss.tolist(),
        "share_on_spikes": _rows_of(share, (fitted.scale <= miss).any(-1)),
    }
    if rows.floor is not None:
        # a floor that no scale keeps to is that of another unit: something is done to the output
        if (found.scale < 0.999 * rows.floor).any():
            out["floor_known"] = False
        else:
            there = (found.scale <= AT_FLOOR * rows.floor).any(-1)  # (N, K)
            out |= {
                "floor_known": True,
                "floor": rows.floor.tolist(),
                "floor_in_standard_deviations": (rows.floor / spread).tolist(),
                "share_at_floor": _rows_of(np.exp(found.log_share), there),
                "median_scale": np.median(_used(found), 0).tolist(),
            }
    dead, twins, single = _networks(fitted, per_network)
    out |= {
        "dead": int(dead.sum()),
        "duplicated": len(twins),
        "on_one_row": len(single),
        "captured_rows": [int(fitted.rows[row]) for _, row in single],
    }
    if isinstance(rows.dist, GaussianMixture) and 1 < fitted.loc.shape[1] <= _MOST_MERGED:
        out["enough_components"] = _enough(rows)
    if len(per_network) == 1 and fitted.loc.shape[1] <= _MOST_LISTED:
        out["table"] = _table(fitted, rows, dead, twins, single)
    return out


def _in_way(rows: Rows, index: NDArray[np.intp]) -> Floats:
    assert rows.y is not None
    y = rows.y.numpy()[index]
    if rows.way == "log":
        return np.log(y)
    return np.log(y) - np.log1p(-y) if rows.way == "logit" else y


def _typical_miss(rows: Rows, found: Components) -> Floats:
    """Median distance of unseen targets from the nearest component that has weight, (D,)."""
    z = _in_way(rows, found.rows)[:, None]  # (N, 1, D)
    gap = np.abs(z - found.loc)  # (N, K, D)
    alive = found.log_weight > math.log(0.02)
    gap = np.where(alive[..., None], gap, math.inf).min(1)
    return np.median(np.where(np.isfinite(gap), gap, 0.0), 0) / 0.6745  # sd of a Gaussian


def _rows_of(share: Floats, which: Any) -> float:
    """Share of the rows that belong to such components; which is (N, K)."""
    return float(((share * which).sum(1) > _MINE).mean())


def _used(found: Components) -> Floats:
    """Scale of the component to which each row belongs most, (N, D)."""
    best = found.log_share.argmax(1)
    return found.scale[np.arange(len(best)), best]


def _effective(found: Components) -> float:
    """exp(entropy) of the weights within a network, mean over rows and networks."""
    total = []
    for m in np.unique(found.member[found.member >= 0]):
        log_w = found.log_weight[:, found.member == m]
        log_w = log_w - logsumexp(log_w, axis=1, keepdims=True)
        w = np.exp(log_w)
        total.append(np.exp(-(w * np.where(w > 0, log_w, 0.0)).sum(1)))
    return float(np.mean(total))


def _enough(rows: Rows) -> int:
    """Least number to which the components of each row can be merged for next to nothing."""
    index = torch.as_tensor(
        np.linspace(0, len(rows.nll) - 1, _MERGED_ROWS).astype(np.intp)
    ).unique()
    assert rows.y is not None
    dist, y = rows.dist[index], rows.y[index]
    count = dist.n_components
    before = dist.log_prob(y)
    enough = int(count)
    for n in (n for n in _SIZES if n < count):
        dist = dist.merge(n)  # it joins two by two, so each goes on from the last
        if float((before - dist.log_prob(y)).mean()) > _LOST:
            break
        enough = n
    return enough


Pairs = list[tuple[int, int]]


def _networks(found: Components, members: list[int]) -> tuple[NDArray[np.bool_], Pairs, Pairs]:
    """Dead components (K,), pairs that are one, and (component, row) of those on one row."""
    dead = np.zeros(found.loc.shape[1], dtype=bool)
    twins, single = [], []
    for m in members:
        own = np.flatnonzero(found.member == m)
        log_w = found.log_weight[:, own]
        log_w = log_w - logsumexp(log_w, axis=1, keepdims=True)
        dead[own] = log_w.max(0) < math.log(DEAD)
        alive = own[~dead[own]]
        for i, a in enumerate(alive):
            for b in alive[i + 1 :]:
                least = np.minimum(found.scale[:, a], found.scale[:, b])
                near = np.abs(found.loc[:, a] - found.loc[:, b]) < _ALIKE * least
                with np.errstate(invalid="ignore", divide="ignore"):
                    ratio = np.abs(np.log(found.scale[:, a] / found.scale[:, b])) < _ALIKE
                if (near & ratio).all(1).mean() >= _ALIKE_ROWS:
                    twins.append((int(a), int(b)))
        # of all rows but its best one, how much does the component answer for?
        log_r = found.log_share[:, own]
        share = np.exp(log_r - logsumexp(log_r, axis=1, keepdims=True))
        best = share.argmax(0)
        top = share[best, np.arange(len(own))]
        left = share.sum(0) - top
        for j in np.flatnonzero((top > _MINE) & (left < _MINE)):
            single.append((int(own[j]), int(best[j])))
    return dead, twins, single


def _table(
    found: Components, rows: Rows, dead: NDArray[np.bool_], twins: Pairs, single: Pairs
) -> list[dict[str, Any]]:
    """One entry a component."""
    weight, share = np.exp(found.log_weight), np.exp(found.log_share)
    alone = {k: int(found.rows[row]) for k, row in single}
    table = []
    for k in range(weight.shape[1]):
        with_scale = found.scale[:, k].min(-1)
        entry: dict[str, Any] = {
            "component": k,
            "mean_weight": float(weight[:, k].mean()),
            "share_of_rows": float(share[:, k].mean()),
            "median_scale": float(np.median(with_scale)),
        }
        if rows.floor is not None:
            at = (found.scale[:, k] <= AT_FLOOR * rows.floor).any(-1)
            entry["share_at_floor"] = float(at.mean())
        twin = [a if b == k else b for a, b in twins if k in (a, b)]
        if dead[k]:
            entry["state"] = "dead"
        elif k in alone:
            entry["state"] = f"on row {alone[k]} alone"
        elif twin:
            entry["state"] = f"as component {twin[0]}"
        else:
            entry["state"] = "alive"
        table.append(entry)
    return table

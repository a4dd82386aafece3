r"""All places where the density of a Gaussian mixture on the line has slope 0; in float64.

The line between the least and the greatest mean is divided until each cell is known to hold no
critical point or at most one.  With responsibilities r_k at the centre c of a cell,
:math:`l_k = (\mu_k - c) / \sigma_k^2`, the score :math:`a = \sum r_k l_k`, precisions
:math:`q_k = \sigma_k^{-2}` and their mean :math:`\bar q`, the slope of the density at c + u has the
sign of

.. math::
    N(u) = \sum_k r_k (l_k - q_k u) \exp\left((l_k - a) u - \tfrac12 (q_k - \bar q) u^2\right)

since what multiplies it is positive.  :math:`N(0) = a`,
:math:`N'(0) = \sum r_k (l_k - a)^2 - \bar q`, and with
:math:`D_k = |l_k - a| + |q_k - \bar q| h`, :math:`P_k = |l_k| + q_k h` and the greatest value
:math:`E_k` of the exponential on :math:`|u| \le h`

.. math:: |N''(u)| \le B = \sum_k r_k E_k \left(P_k (D_k^2 + |q_k - \bar q|) + 2 q_k D_k\right)

Taylor's theorem then says that N has no zero on the cell if
:math:`|a| > |N'(0)| h + B h^2 / 2`, and is monotone if :math:`|N'(0)| > B h`.  A component that is
far from the cell or light has a small :math:`r_k E_k`: it does not divide the cell any further.

The density of y = sigmoid(u) is that of u times :math:`g = 2 + e^u + e^{-u}`, and
:math:`(\log g)' = t = \tanh(u / 2)`.  With M the sum N without its first factors, the sign is that
of :math:`G = N + t M`, for which :math:`G(0) = a + t`, :math:`G'(0) = N'(0) + t'`, and

.. math:: |G''(u)| \le B + \sum_k r_k E_k \left(D_k^2 + |q_k - \bar q| + D_k + 1/5\right)

since :math:`M'(0) = 0`, :math:`|t| \le 1`, :math:`|t'| \le 1/2` and :math:`|t''| < 1/5`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._numerics import HALF_LOG_2PI
from ._roots import find_root

__all__ = ["BUDGET", "Mixtures", "Parameters", "critical_points", "log_density", "row_chunks"]

BUDGET = 1 << 15  # numbers of a working array: 256 KiB, so that all of them stay in cache
_CELLS = 16  # at the beginning, in a row
_OWN = 1e-17  # share of the density from which on a component counts
# A cell as narrow as this, in half widths by scales of the narrowest component that counts, is not
# divided: the remainder of a Taylor polynomial of degree 8 is below rounding there.
_NARROW = 1 / 32
_RESOLUTION = 2.0**-50  # half width by place
_SHARE = 1e-17  # of a bracket around a critical point: below the rounding of the score
_EMPTY, _MONOTONE, _NARROWEST = 1, 2, 3  # kinds of cells that are closed


Parameters = tuple[Tensor, Tensor, Tensor]  # log weights, means and scales, (*, K)


class Mixtures(NamedTuple):
    """n mixtures, (n, K) each; weights need not add up to 1.

    With ``logit`` they are of u, and the density that is looked at is that of y = sigmoid(u).
    """

    log_w: Tensor
    loc: Tensor
    scale: Tensor
    inverse: Tensor  # of the scale
    height: Tensor  # log_w - log(scale)
    logit: bool = False

    @classmethod
    def of(cls, log_w: Tensor, loc: Tensor, scale: Tensor, logit: bool = False) -> Mixtures:
        """Of parameters (*, K), in float64 and without gradients."""
        log_w, loc, scale = (
            a.detach().double().reshape(-1, a.shape[-1]) for a in (log_w, loc, scale)
        )
        return cls(log_w, loc, scale, scale.reciprocal(), log_w - scale.log(), logit)

    def rows(self, part: slice | Tensor) -> Mixtures:
        """Some of them."""
        log_w, loc, scale, inverse, height = (a[part] for a in self[:5])
        return Mixtures(log_w, loc, scale, inverse, height, self.logit)


def row_chunks(rows: int, per_row: int) -> list[slice]:
    """Slices of as many rows as have few enough numbers, at least one."""
    step = max(1, BUDGET // max(1, per_row))
    return [slice(i, i + step) for i in range(0, rows, step)]


def log_density(x: Tensor, row: Tensor, mixtures: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
    """Log density, its first derivative (the score) and second (the curvature).

    x (m) are places and row (m) says in which mixture.
    """
    out = x.new_empty(3, len(x))
    for part in row_chunks(len(x), mixtures.loc.shape[1]):
        at = row[part]
        own = mixtures.height[at], mixtures.loc[at], mixtures.inverse[at]
        out[:, part] = _log_density(x[part], *own)
    if mixtures.logit:
        t = torch.tanh(0.5 * x)
        out[0] += x.abs() + 2.0 * torch.log1p(torch.exp(-x.abs()))
        out[1] += t
        out[2] += 0.5 * (1.0 - t * t)
    return out[0], out[1], out[2]


def _log_density(x: Tensor, height: Tensor, loc: Tensor, inverse: Tensor) -> Tensor:
    """All three, (3, m), of parameters (m, K) that are overwritten."""
    z = torch.sub(x.unsqueeze(1), loc, out=loc).mul_(inverse)
    t = height.addcmul_(z, z, value=-0.5)
    best = t.amax(1, keepdim=True)
    r = t.sub_(best).exp_()
    total = r.sum(1)
    own = z.mul_(inverse)  # minus the score of each component
    score = -(r * own).sum(1) / total
    spread = own.square_().sub_(inverse.square_()).mul_(r).sum(1) / total
    return torch.stack([best[:, 0] + total.log() - HALF_LOG_2PI, score, spread - score * score])


def critical_points(mixtures: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
    """Mode, antimode, mode, ... in rising order, (n, P), whether there are so many, log density."""
    row, low, high = _sign_changes(mixtures)
    root = find_root(lambda x: log_density(x, row, mixtures)[1], low, high, share=_SHARE)
    rows = len(mixtures.loc)
    count = row.bincount(minlength=rows)
    width = int(count.max())
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    x = root.new_full((rows, width), torch.nan)
    log_p = torch.full_like(x, -torch.inf)
    x[row, rank] = root
    log_p[row, rank] = log_density(root, row, mixtures)[0]
    return x, torch.arange(width, device=x.device) < count.unsqueeze(1), log_p


def _sign_changes(mixtures: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
    """The row and a bracket, (Z) each, of every zero of the score; sorted.

    The score has one sign on an empty cell, which its centre shows; elsewhere it is taken where two
    other cells meet.  Outside the range of the means the density is monotone; with ``logit``,
    outside that of the means less and plus the variances, where the score of u is larger than 1.
    """
    off = mixtures.log_w == -torch.inf
    beyond = mixtures.scale.square() if mixtures.logit else 0.0
    least = torch.where(off, torch.inf, mixtures.loc - beyond).amin(1)
    most = torch.where(off, -torch.inf, mixtures.loc + beyond).amax(1)
    row, low, high, kind, rising = _cells(least, most, mixtures)
    empty = kind == _EMPTY
    meet = ~empty[1:] & ~empty[:-1] & (row[1:] == row[:-1])
    narrow = kind == _NARROWEST
    ends_row, ends = row[1:][meet], low[1:][meet]
    turn_row, turn = _beyond_zero(row[narrow], low[narrow], high[narrow], mixtures)
    every = torch.arange(len(least), device=least.device)
    row = torch.cat([every, row[empty], ends_row, turn_row, every])
    x = torch.cat([least, 0.5 * (low + high)[empty], ends, turn, most])
    rising = torch.cat([
        torch.ones_like(every, dtype=torch.bool),
        rising[empty],
        *(log_density(*at, mixtures)[1] >= 0 for at in ((ends, ends_row), (turn, turn_row))),
        torch.zeros_like(every, dtype=torch.bool),
    ])  # fmt: skip
    order = _by_place(row, x)
    row, x, rising = row[order], x[order], rising[order]
    at = ((rising[1:] != rising[:-1]) & (row[1:] == row[:-1])).nonzero().squeeze(1)
    return row[at], x[at], x[at + 1]


def _by_place(row: Tensor, x: Tensor) -> Tensor:
    order = x.argsort(stable=True)
    return order[row[order].argsort(stable=True)]


def _beyond_zero(
    row: Tensor, low: Tensor, high: Tensor, mixtures: Mixtures
) -> tuple[Tensor, Tensor]:
    """Rows and places inside the narrowest cells where the score has crossed zero and turns back.

    Its sign is the same at both ends then, but it has an extremum towards zero in between.
    """
    _, score_l, curve_l = log_density(low, row, mixtures)
    _, score_r, curve_r = log_density(high, row, mixtures)
    down = (score_l >= 0) & (score_r >= 0) & (curve_l < 0) & (curve_r > 0)
    up = (score_l < 0) & (score_r < 0) & (curve_l > 0) & (curve_r < 0)
    turns = down | up
    row, low, high, down = row[turns], low[turns], high[turns], down[turns]
    x = find_root(lambda x: log_density(x, row, mixtures)[2], low, high, share=_SHARE)
    crossed = (log_density(x, row, mixtures)[1] >= 0) != down
    return row[crossed], x[crossed]


def _cells(least: Tensor, most: Tensor, mixtures: Mixtures) -> tuple[Tensor, ...]:
    """Cells in rising order: row, both ends, kind, and whether the density rises at the centre."""
    rows, k = mixtures.loc.shape
    share = torch.arange(_CELLS + 1, device=least.device).double() / _CELLS
    # the ends exactly: (1 - t) least + t most may miss them
    grid = (1 - share) * least.unsqueeze(1) + share * most.unsqueeze(1)
    grid[:, 0], grid[:, -1] = least, most
    row = torch.arange(rows, device=least.device).repeat_interleave(_CELLS)
    low, high = grid[:, :-1].flatten(), grid[:, 1:].flatten()
    work = least.new_empty(7, max(BUDGET, k))
    parameters = mixtures.height, mixtures.loc, mixtures.inverse.square()
    closed = []
    while len(row):
        found = [
            _judge(low[i], high[i], row[i], *parameters, work, mixtures.logit)
            for i in row_chunks(len(row), k)
        ]
        kind, rising = (torch.cat(a) for a in zip(*found, strict=True))
        middle = 0.5 * low + 0.5 * high
        # a cell of one number cannot be divided, and NaN has no bounds
        whole = ~((low < middle) & (middle < high)) & (kind == 0)
        kind = torch.where(whole, _NARROWEST, kind)
        done = kind > 0
        closed.append((row[done], low[done], high[done], kind[done], rising[done]))
        row, low, middle, high = (a[~done] for a in (row, low, middle, high))
        row, low, high = row.repeat(2), torch.cat([low, middle]), torch.cat([middle, high])
    row, low, high, kind, rising = (torch.cat(a) for a in zip(*closed, strict=True))
    order = _by_place(row, low)
    return row[order], low[order], high[order], kind[order], rising[order]


def _judge(
    low: Tensor, high: Tensor, row: Tensor,
    height: Tensor, loc: Tensor, precision: Tensor, work: Tensor, logit: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Kind of each cell, 0 if it has to be divided, and whether the density rises at its centre.

    ``work`` (7, m K or more) is room for all that is computed on the way.
    """
    m, k = len(row), loc.shape[1]
    gap, q, t, d, p, e, x = (a[: m * k].view(m, k) for a in work)
    centre = (0.5 * low + 0.5 * high).unsqueeze(1)
    h = (0.5 * high - 0.5 * low).unsqueeze(1)
    torch.index_select(loc, 0, row, out=gap).sub_(centre)
    torch.index_select(precision, 0, row, out=q)
    torch.index_select(height, 0, row, out=t)
    torch.mul(gap, q, out=d)  # l
    t.addcmul_(gap, d, value=-0.5)
    t.sub_(t.amax(1, keepdim=True))
    r = torch.exp(t, out=gap)
    total = r.sum(1, keepdim=True)
    a = torch.mul(r, d, out=x).sum(1, keepdim=True).div_(total)
    mean_q = torch.mul(r, q, out=x).sum(1, keepdim=True).div_(total)
    torch.mul(q, h, out=p).add_(torch.abs(d, out=e))  # P
    d.sub_(a).abs_()  # |l - a|
    slope = torch.mul(r, d, out=x).mul_(d).sum(1, keepdim=True).div_(total).sub_(mean_q)
    if logit:
        t_c = torch.tanh(0.5 * centre)
        a, slope = a + t_c, slope.add_(0.5 * (1.0 - t_c * t_c))
        p.add_(1.0)
    slope.abs_()
    torch.sub(q, mean_q, out=e)
    # the exponent is greatest at |l - a| / (q - mean q), or at the end
    torch.clamp(e, min=1e-300, out=x)
    torch.minimum(torch.div(d.clamp_(min=1e-200), x, out=x), h, out=x)
    torch.mul(e, x, out=r).mul_(-0.5).add_(d).mul_(x).add_(t).exp_()  # r E
    narrowest = torch.where(r > _OWN * total, q, 0.0).amax(1, keepdim=True)
    e.abs_()
    torch.mul(e, h, out=t).add_(d)  # D
    if logit:
        q.add_(0.5).mul_(t).mul_(2.0).add_(0.2)
        narrowest = narrowest.clamp(min=1.0)  # poles at +-i pi
    else:
        q.mul_(t).mul_(2.0)
    bound = t.square_().add_(e).mul_(p).add_(q).mul_(r).sum(1, keepdim=True).div_(total)
    empty = a.abs() > slope * h + 0.5 * bound * h * h
    narrow = (h * h * narrowest < _NARROW**2) | (h <= _RESOLUTION * centre.abs())
    kind = torch.where(
        empty, _EMPTY, torch.where(slope > bound * h, _MONOTONE, torch.where(narrow, _NARROWEST, 0))
    )
    return kind.squeeze(1), (a >= 0).squeeze(1)

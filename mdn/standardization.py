"""Standard units of columns: mean, standard deviation, long tails and the range of training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ROUNDING",
    "Units",
    "column_units",
    "compress",
    "expand",
    "limits",
    "standardization",
    "winsorized",
]

# Standard deviation over the robust one, from which on a column has long tails: the greater part
# of its rows is then within a tenth of a standard unit, where a network can hardly tell them apart.
# The ratio is 1 for a normal column, 1.4 for an exponential, 2.4 for a log-normal of sigma 1.
_LONG_TAILS = 10.0
_NORMAL_QUARTILE = 0.6744897501960817  # half of a standard normal sample is within this of 0
_FAR = 3.0  # widths of the training range by which a value may lie beyond it and still count
_NEWTON_STEPS = 60  # of the inverse of the compression; half as many are enough for 1e300
_MOST = 0.95  # of the rows, which are the body of a column
_BEYOND = 5.0  # A value so many times as far from the median as these lie is far from them all.
ROUNDING = 2.0**-23  # relative, of what was float32 once


def standardization(a: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the rows, float64; exactly 0 for a constant column.

    Args:
        a: (N, ...).
        weight: (N,) non-negative weights of the rows, not all 0; None for equal ones.
    """
    a = a.detach().double()
    share = a.new_full((len(a),), 1 / max(1, len(a))) if weight is None else weight.double()
    share = (share / share.sum()).reshape(-1, *[1] * (a.ndim - 1))
    shift = a.mean(0) if weight is None else (share * a).sum(0)
    apart = a - shift
    size = apart.abs().amax(0)  # out of the squares, which would over- or underflow
    unit = apart / torch.where(size > 0, size, 1.0)
    scale = size * (share * unit.square()).sum(0).sqrt()
    # rounding leaves a constant column a spread of some ulp
    noise = 4 * torch.finfo(torch.float64).eps * a.abs().amax(0)
    constant = (a == a[:1]).all(0) | (scale <= noise)
    return torch.where(constant, a[0], shift), torch.where(constant, 0.0, scale)


class Units(NamedTuple):
    """The units of F columns, and the columns in them.

    Attributes:
        shift, scale: (F,) of the columns, after :func:`compress`; scale 1 for a constant one.
        tails: (3, F) centre, unit and slope of the columns with long tails, as :func:`compress`
            takes them; unit 0 for the others.
        z: (N, F) the columns in these units, exactly 0 for a constant one.
    """

    shift: Tensor
    scale: Tensor
    tails: Tensor
    z: Tensor


def column_units(x: Tensor, weight: Tensor | None = None) -> Units:
    """Returns the units in which columns (N, F) have mean 0 and standard deviation 1.

    A column with long tails is compressed first.
    """
    x = x.detach().double()
    tails = _long_tails(x, weight)
    columns = compress(x, tails)
    shift, scale = standardization(columns, weight)
    constant = scale == 0
    scale = torch.where(constant, 1.0, scale)
    return Units(shift, scale, tails, torch.where(constant, 0.0, (columns - shift) / scale))


def _long_tails(x: Tensor, weight: Tensor | None) -> Tensor:
    """Centre, unit and slope of the columns that have long tails, (3, F); unit 0 for the others.

    The centre is the median, and the unit the median distance from it, among the rows that are not
    at it, as a standard deviation: it is not 0 for a column that is mostly 0.  The slope gives the
    linear part the standard deviation of the logarithmic one: y may follow either.
    """
    tails = x.new_zeros(3, x.shape[1])
    spread = standardization(x, weight)[1]
    for f, column in enumerate(x.t()):
        centre = _median(column, weight)
        distance = (column - centre).abs()
        apart = distance > 0
        if not bool(apart.any()):
            continue
        unit = _median(distance[apart], None if weight is None else weight[apart])
        unit = unit / _NORMAL_QUARTILE
        if bool(spread[f] > _LONG_TAILS * unit):
            log_spread = standardization(torch.asinh((column - centre) / unit), weight)[1]
            tails[:, f] = torch.stack([centre, unit, log_spread * unit / spread[f]])
    return tails


def _median(column: Tensor, weight: Tensor | None) -> Tensor:
    """The smallest value up to which lies half of the weight."""
    return _quantile(column, 0.5, weight)


def _quantile(column: Tensor, level: float, weight: Tensor | None) -> Tensor:
    """The smallest value up to which lies this share of the weight; of few rows a lower one."""
    values, order = column.sort()
    if weight is None:
        return values[int(level * (len(values) - 1))]
    share = weight.double()[order].cumsum(0)
    return values[int((share < level * share[-1]).sum())]


def winsorized(a: Tensor, weight: Tensor | None = None) -> Tensor:
    """Columns (N, D) whose few far values are moved to the limit of the others; NaN stays.

    The limit is five times the distance from the median within which 95 % of the rows lie: 9.8
    standard deviations of a normal column, 11 of an exponential.

    References:
        W. J. Dixon, Simplified Estimation from Censored Normal Samples, Ann. Math. Statist. 31
        (1960) 385-391, section 6.
    """
    moved = a.clone()
    for column in moved.t():
        known = ~column.isnan()
        values, share = column[known], None if weight is None else weight[known]
        if not len(values):
            continue
        centre = _median(values, share)
        limit = _BEYOND * _quantile((values - centre).abs(), _MOST, share)
        if bool(limit > 0):
            column[known] = values.clamp(centre - limit, centre + limit)
    return moved


def compress(x: Tensor, tails: Tensor) -> Tensor:
    r"""Columns (*, F), with a logarithmic part added to those of long tails.

    It is :math:`\mathrm{arsinh}(t) + s t` of :math:`t = (x - c) / u`, with the centre c, the unit u
    and the slope s of :class:`Units`.  The first part, logarithmic from a unit off the centre on,
    tells apart the rows between the tails; by the second a network can follow an effect that is
    linear in x out to the ends.  Without a slope, as in older files, there is the first part alone.

    References:
        J. B. Burbidge, L. Magee, A. L. Robb, Alternative Transformations to Handle Extreme Values
        of the Dependent Variable (1988), section 3.
    """
    centre, unit, slope = _parts(tails)
    long = unit > 0
    t = (x - centre) / torch.where(long, unit, 1.0)
    return torch.where(long, torch.asinh(t) + slope * t, x)


def expand(h: Tensor, tails: Tensor) -> Tensor:
    """The inverse of :func:`compress`."""
    centre, unit, slope = _parts(tails)
    size, t = h.abs(), torch.zeros_like(h)
    for _ in range(_NEWTON_STEPS):  # concave: each step stays below the root
        root = (1 + t.square()).sqrt()
        t = t + (size - torch.asinh(t) - slope * t) / (1 / root + slope)
    return torch.where(unit > 0, centre + unit * h.sign() * t, h)


def _parts(tails: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, unit and slope."""
    return tails[0], tails[1], tails[2] if len(tails) > 2 else torch.zeros_like(tails[0])


def limits(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest and the largest value that counts, for the range of training.

    These are three widths of the range beyond it: where a column did not vary, its value.
    """
    margin = _FAR * (high - low)
    return low - margin, high + margin

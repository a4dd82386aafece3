"""The mixture log density in 100-digit arithmetic, and a judge of float results.

Everything here takes one row as plain Python floats, exactly the numbers the function under test
was given after rounding to its dtype, and uses mpmath only; no code is shared with the library.

With w_k the normalised weights, z_kd = (y_d - loc_kd) / s_kd and s = exp(log_scale):

    a_k     = log w_k - sum_d (z_kd^2 / 2 + log s_kd + log(2 pi) / 2)
    log p   = log sum_k exp(a_k),      r_k = exp(a_k - log p)
    d/d y_d          = -sum_k r_k z_kd / s_kd
    d/d logit_k      = r_k - w_k
    d/d loc_kd       = r_k z_kd / s_kd
    d/d log_scale_kd = r_k (z_kd^2 - 1)

The judge asks that the result be the exact one for intermediate quantities that are each a few
ulp off (:func:`bounds`): a bound per number, derived from the row, instead of one loose tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath
import torch

__all__ = [
    "DIGITS",
    "Bounds",
    "Fault",
    "Row",
    "bounds",
    "gradient",
    "judge",
    "log_prob",
    "log_weights",
    "mp",
]

# |z| reaches 1e27 in the torture grid, so z^2 has 54 digits before the point; 46 remain after it.
DIGITS = 100
mp = mpmath.MPContext()  # a context of our own: mpmath's global precision stays as it was
mp.dps = DIGITS
Real = Any  # mpmath has no types; always an mpf of the context above


class Row(NamedTuple):
    """One row: y (D,), logits (K,), loc and log_scale (K, D), as tuples of floats."""

    y: tuple[float, ...]
    logits: tuple[float, ...]
    loc: tuple[tuple[float, ...], ...]
    log_scale: tuple[tuple[float, ...], ...]


class _Terms(NamedTuple):
    log_w: list[Real]  # (K,), -inf where pruned
    z: list[list[Real]]  # (K, D)
    scale: list[list[Real]]  # (K, D)
    resp: list[Real]  # (K,) responsibilities
    log_prob: Real


def log_weights(logits: Sequence[Any]) -> list[Real]:
    """Normalised log weights of one mixture."""
    logits = [mp.mpf(v) for v in logits]
    top = max(logits)
    total = mp.log(mp.fsum(mp.exp(v - top) for v in logits))
    return [v - top - total for v in logits]


def _terms(row: Any) -> _Terms:
    log_w = log_weights(row.logits)
    scale = [[mp.exp(mp.mpf(v)) for v in component] for component in row.log_scale]
    z = [
        [(mp.mpf(y) - mp.mpf(m)) / s for y, m, s in zip(row.y, ms, ss, strict=True)]
        for ms, ss in zip(row.loc, scale, strict=True)
    ]
    half_log_2pi = mp.log(2 * mp.pi) / 2
    joint = [
        lw - mp.fsum(v**2 / 2 + mp.mpf(ls) + half_log_2pi for v, ls in zip(vs, lss, strict=True))
        for lw, vs, lss in zip(log_w, z, row.log_scale, strict=True)
    ]
    top = max(joint)
    log_p = top + mp.log(mp.fsum(mp.exp(a - top) for a in joint))
    return _Terms(log_w, z, scale, [mp.exp(a - log_p) for a in joint], log_p)


def log_prob(row: Row) -> Real:
    """Log density of one row, in nats."""
    return _terms(row).log_prob


def gradient(row: Row) -> dict[str, Any]:
    """Exact gradient of the log density for every input, nested as the inputs are."""
    t = _terms(row)
    on_loc = [
        [r * z / s for z, s in zip(zs, ss, strict=True)]
        for r, zs, ss in zip(t.resp, t.z, t.scale, strict=True)
    ]
    return {
        "y": [-mp.fsum(column) for column in zip(*on_loc, strict=True)],
        "logits": [r - mp.exp(lw) for r, lw in zip(t.resp, t.log_w, strict=True)],
        "loc": on_loc,
        "log_scale": [[r * (z**2 - 1) for z in zs] for r, zs in zip(t.resp, t.z, strict=True)],
    }


# --- how wrong a float result may be ------------------------------------------------------------

# Rounding of the result itself, in ulp of its dtype: half an ulp for the last rounding, half for
# the wider type's own error in front of it.
OUTPUT_ULPS = 1.0
# Rounding of each intermediate (difference, product, exp, sum over K and D), in ulp of the type
# the sums are done in: about ten operations lie on the longest path, half an ulp each.
WORK_ULPS = 6.0
# Rows with log p below minus this, in nats, have to be done in float64 and exact differences; the
# others may be summed in the dtype itself (float32 for half types).
MODERATE_NATS = 64.0
MODERATE_NATS_PER_DIM = 8.0
# What "visibly wrong" means for the benchmark: relative to the natural scale of the tensor.
GROSS = {torch.float64: 1e-2, torch.float32: 1e-2, torch.bfloat16: 5e-2, torch.float16: 5e-2}

# A finite stand-in for a gradient that overflows is taken if it has the right sign and at least
# this share of the largest number: no representable answer is right there.
OVERFLOW_SHARE = 0.01


class Bounds(NamedTuple):
    """Truth, allowed error and natural scale of every output; keys value, y, logits, loc, ..."""

    truth: dict[str, list[Real]]
    error: dict[str, list[Real]]
    scale: dict[str, Real]


class Fault(NamedTuple):
    """One number that is wrong: which, how (nan, inf, error), what it is and should have been."""

    where: str
    kind: str
    got: float
    truth: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.kind}, got {self.got:.9g}, truth {self.truth:.9g}"
            f" +- {self.allowed:.2g}"
        )


def _flat(nested: Any) -> list[Any]:
    if isinstance(nested, (list, tuple)):
        return [leaf for branch in nested for leaf in _flat(branch)]
    return [nested]


@lru_cache(maxsize=1024)
def bounds(row: Row, dtype: torch.dtype) -> Bounds:
    """Truth and first-order error bound of every output of the log density and its gradient.

    Two models of what cannot be avoided:

    * arithmetic: log w_k, y - loc, 1/s and z^2 each carry a few ulp of the working type, so a_k
      is off by A_k = |log w_k| + sum_d (z^2 + |log s| + 1) ulp, and r_k by the share of that which
      the components do not have in common;
    * inputs: every input is a few ulp off, which moves r_k by its condition number. It is much
      smaller where far components nearly coincide: their z^2 cancel exactly in exact arithmetic.

    A moderate row is allowed the first in its own dtype (half types: in float32), plus the rounding
    of log p, by which r_k is normalised; a far row the smaller of the two, the first in float64.
    """
    t = _terms(row)
    n_dims = len(row.y)
    grad = gradient(row)
    alive = [k for k, lw in enumerate(t.log_w) if lw > -mp.inf]  # the rest is exactly zero
    moderate = t.log_prob >= -(MODERATE_NATS + MODERATE_NATS_PER_DIM * n_dims)
    plain = torch.float64 if dtype == torch.float64 else torch.float32
    work = plain if moderate else torch.float64
    ulp = mp.mpf(torch.finfo(work).eps) * WORK_ULPS
    plain_ulp = mp.mpf(torch.finfo(plain).eps) * WORK_ULPS  # of the gradient's last products
    out = mp.mpf(torch.finfo(dtype).eps)
    smallest = mp.mpf(torch.finfo(dtype).smallest_normal) * out  # the spacing of subnormals
    flush = mp.mpf(torch.finfo(work).smallest_normal)  # an exp below it may come out as zero

    off = {
        k: abs(t.log_w[k])
        + mp.fsum(z**2 + abs(ls) + 1 for z, ls in zip(t.z[k], row.log_scale[k], strict=True))
        for k in alive
    }
    # Relative error of r_k, then its absolute error, which never needs to exceed 1.
    resp_error = [mp.mpf(0)] * len(t.resp)
    for k in alive:
        relative = mp.fsum(off[j] * ((1 - t.resp[k]) if j == k else t.resp[j]) for j in alive) * ulp
        if moderate:
            relative += ulp * (1 + abs(t.log_prob))
        else:
            relative = min(relative, _input_condition(row, t, alive, k) * plain_ulp)
        resp_error[k] = min(t.resp[k] * mp.expm1(relative), 1) + min(t.resp[k], flush)
    weight = [mp.exp(lw) for lw in t.log_w]
    slope = [
        [z / s for z, s in zip(zs, ss, strict=True)] for zs, ss in zip(t.z, t.scale, strict=True)
    ]

    def sum_of(exact: Real, natural: Real, amplified: Real) -> Real:
        return OUTPUT_ULPS * out * abs(exact) + natural + amplified + smallest

    def entry(k: int, exact: Real, natural: Real, amplified: Real) -> Real:
        return sum_of(exact, plain_ulp * natural, amplified) if k in alive else mp.mpf(0)

    components = range(len(t.resp))
    error = {
        "value": [sum_of(t.log_prob, ulp * mp.fsum(t.resp[k] * off[k] for k in alive), 0)],
        "logits": [
            entry(
                k,
                grad["logits"][k],
                t.resp[k] + weight[k] * (1 + abs(t.log_w[k])) if k in alive else 0,
                resp_error[k] + min(weight[k], flush),
            )
            for k in components
        ],
        "loc": [
            entry(k, grad["loc"][k][d], abs(grad["loc"][k][d]), abs(g) * resp_error[k])
            for k in components
            for d, g in enumerate(slope[k])
        ],
        "log_scale": [
            entry(k, exact, t.resp[k] * (z**2 + 1), abs(z**2 - 1) * resp_error[k])
            for k in components
            for exact, z in zip(grad["log_scale"][k], t.z[k], strict=True)
        ],
        # Errors of the responsibilities sum to zero, up to the common rounding of a moderate row.
        "y": [
            sum_of(
                exact,
                plain_ulp
                * mp.fsum(abs(grad["loc"][k][d]) for k in alive)
                * (1 + (abs(t.log_prob) if moderate else 0)),
                mp.fsum(abs(slope[k][d] + exact) * resp_error[k] for k in alive),
            )
            for d, exact in enumerate(grad["y"])
        ],
    }
    steepest = max(
        t.resp[k] * (abs(z) + 1) / s for k in alive for z, s in zip(t.z[k], t.scale[k], strict=True)
    )
    scale = {
        "value": max(abs(t.log_prob), 1),
        "logits": mp.mpf(1),
        "loc": steepest,
        "log_scale": max(t.resp[k] * (z**2 + 1) for k in alive for z in t.z[k]),
        "y": steepest,
    }
    truth = {"value": [t.log_prob]} | {name: _flat(nested) for name, nested in grad.items()}
    return Bounds(truth, error, scale)


def _input_condition(row: Row, t: _Terms, alive: list[int], k: int) -> Real:
    """Relative change of r_k when every input moves by its own relative unit."""
    top = max(row.logits)
    total = mp.mpf(0)
    for j in alive:
        share = abs((j == k) - t.resp[j])
        total += share * (mp.mpf(top) - mp.mpf(row.logits[j]))
        for m, ls, z, s in zip(row.loc[j], row.log_scale[j], t.z[j], t.scale[j], strict=True):
            total += share * (abs(mp.mpf(m) * z / s) + abs(mp.mpf(ls) * (z**2 - 1)))
    for d, y in enumerate(row.y):
        slope = {j: t.z[j][d] / t.scale[j][d] for j in alive}
        mean = mp.fsum(t.resp[j] * slope[j] for j in alive)
        total += abs(mp.mpf(y) * (slope[k] - mean))
    return total + 1


def judge(
    row: Row, dtype: torch.dtype, got: dict[str, torch.Tensor], *, strict: bool = True
) -> list[Fault]:
    """Everything wrong with a value and its gradients, none if all is well.

    A value whose truth overflows the dtype has to be infinite and a gradient finite, of the right
    sign and huge. With ``strict=False`` (to compare implementations) an error counts from the share
    ``GROSS`` of the natural scale on, and a gradient whose truth overflows may be infinite.

    Args:
        row: The inputs, already rounded to ``dtype``.
        dtype: Of the result.
        got: ``value`` and the gradients ``y``, ``logits``, ``loc``, ``log_scale``, in any shape.
        strict: Judge to rounding error instead of for visible damage.

    Returns:
        One Fault for every wrong number.
    """
    return list(_faults(row, dtype, got, strict))


def _faults(
    row: Row, dtype: torch.dtype, got: dict[str, torch.Tensor], strict: bool
) -> Iterator[Fault]:
    b = bounds(row, dtype)
    info = torch.finfo(dtype)
    largest = mp.mpf(info.max)
    edge = largest * (1 + mp.mpf(info.eps) / 4)  # from here on rounding to nearest overflows
    for name, truths in b.truth.items():
        values = got[name].detach().double().flatten().tolist()
        for index, (value, truth, error) in enumerate(
            zip(values, truths, b.error[name], strict=True)
        ):
            allowed = error if strict else max(error, GROSS[dtype] * b.scale[name])
            low, high = truth - allowed, truth + allowed
            may_overflow = name == "value" or not strict
            if math.isnan(value):
                kind = "nan"
            elif math.isinf(value):
                if may_overflow and (low < -edge if value < 0 else high > edge):
                    continue
                kind = "inf"
            else:
                beyond = low > edge or high < -edge
                huge = value * mp.sign(truth) >= OVERFLOW_SHARE * largest
                if beyond and huge and name != "value":
                    continue
                # A finite number cannot exceed the largest one: move the interval inside,
                # except for a value, which has to be infinite when all of its interval is.
                if name != "value" or not beyond:
                    low, high = (min(max(v, -largest), largest) for v in (low, high))
                if low <= value <= high:
                    continue
                kind = "error"
            yield Fault(f"{name}[{index}]", kind, value, float(truth), float(allowed))

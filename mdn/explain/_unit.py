"""The loss in other units, and without one: what is gained over densities that know less."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

from ._evaluation import Rows

__all__ = ["unit"]

Floats = NDArray[np.float64]

_MOST = 2000  # rows that make the marginal density; a density of more would not be another
_FACTORS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)  # of Scott's bandwidth, chosen by likelihood
_WIDE = 0.01, 3.0  # weight and scale [standard deviations] of a broad part, for values far off
_BLOCK = 512  # rows at a time


def unit(rows: Rows, train: Rows | None, step: float | None) -> dict[str, Any]:
    """NLL in y's unit and others, and the gains over simpler densities, per row."""
    mean = float(rows.nll.mean())
    found: dict[str, Any] = {"nll": mean, "nll_standard_error": _error(rows.nll)}
    dims = rows.dims
    if rows.classes:
        assert rows.y is not None
        counts = np.bincount(
            (train or rows).y.numpy(),  # type: ignore[union-attr]
            minlength=rows.dist.logits.shape[-1],
        )
        share = (counts + 0.5) / (counts + 0.5).sum()
        found |= {
            "perplexity": math.exp(mean) if mean < 700 else math.inf,
            "accuracy": float((rows.dist.logits.argmax(-1) == rows.y).double().mean()),
            "gain_over_marginal": _gain(-np.log(share[rows.y.numpy()]), rows.nll),
        }
        return found
    if rows.y is None:
        return found
    y = rows.y.numpy()
    if rows.measure == "density":
        shift = dims * math.log(1000)
        found["other_units"] = {"thousands": mean - shift, "thousandths": mean + shift}
        spread = y.std(0)
        if (spread > 0).all():
            found["shift_to_standard_deviations"] = -float(np.log(spread).sum())
            found["nll_standardized"] = mean - float(np.log(spread).sum())
        # of a uniform density this wide the NLL would be the same; geometric mean over targets
        found["equivalent_width"] = math.exp(mean / dims) if abs(mean / dims) < 700 else math.inf
    else:
        found["perplexity"] = math.exp(mean) if mean < 700 else math.inf
    reference = y if train is None or train.y is None else train.y.numpy()
    if len(np.unique(reference, axis=0)) < 2 or (reference.std(0) == 0).any():
        return found
    if rows.measure == "density" or rows.width:
        marginal = _marginal(y, None if train is None else reference, rows, step)
        found["marginal_nll"] = float(marginal.mean())
        found["gain_over_marginal"] = _gain(marginal, rows.nll)
        constant = _constant(rows, y)
        if constant is not None:
            gaussian, width = constant
            found["gaussian_nll"] = float(gaussian.mean())
            found["gaussian_scale"] = width
            found["gain_over_gaussian"] = _gain(gaussian, rows.nll)
    return found


def _gain(other: Floats, own: Floats) -> dict[str, float]:
    """Mean gain of a row in nats and bits with its standard error."""
    with np.errstate(invalid="ignore"):  # both infinite
        gain = other - own
    mean, error = float(gain.mean()), _error(gain)
    return {"nats": mean, "bits": mean / math.log(2), "standard_error_nats": error}


def _error(a: Floats) -> float:
    if len(a) < 2 or not np.isfinite(a).all():
        return math.nan
    return float(a.std(ddof=1) / math.sqrt(len(a)))


def _marginal(y: Floats, train: Floats | None, rows: Rows, step: float | None) -> Floats:
    """NLL (N,) under a kernel density of y that ignores x; a row does not count for itself."""
    z, jacobian = _way(y, rows.way)
    if train is None:
        reference, own = z, np.arange(len(z))
        if len(z) > _MOST:
            keep = np.linspace(0, len(z) - 1, _MOST).astype(int)
            own = np.full(len(z), -1)
            own[keep] = np.arange(_MOST)
            reference = z[keep]
    else:
        reference, own = _way(train, rows.way)[0], np.full(len(z), -1)
        reference = reference[:: -(-len(reference) // _MOST)]
    n, d = reference.shape
    spread = reference.std(0)
    scott = spread * n ** (-1.0 / (d + 4))
    # a bandwidth below the step would stand on the values, as it is chosen by likelihood
    least = 0.0 if step is None or d > 1 or rows.width else step
    inner = reference[:: -(-n // 1000)]
    bands = [np.maximum(f * scott, least) for f in _FACTORS]
    args = inner, inner, np.arange(len(inner)), spread, rows.width
    best = max(bands, key=lambda b: float(_kernel(*args, b).mean()))
    return -(_kernel(z, reference, own, spread, rows.width, best) + jacobian)


def _kernel(
    z: Floats, reference: Floats, own: Any, spread: Floats, width: float, band: Floats
) -> Floats:
    """Log density (N,) of the kernel estimate, or log mass of the cells of a width."""
    out = np.empty(len(z))
    weight, scale = _WIDE
    for i in range(0, len(z), _BLOCK):
        part, mine = z[i : i + _BLOCK], own[i : i + _BLOCK]
        gap = part[:, None, :] - reference[None]  # (n, R, D)
        each = _log_kernel(gap, band, width).sum(-1)
        there = np.flatnonzero(mine >= 0)
        each[there, mine[there]] = -math.inf
        count = len(reference) - (mine >= 0)
        centre = part - reference.mean(0)
        broad = _log_kernel(centre, scale * spread, width).sum(-1)
        out[i : i + _BLOCK] = np.logaddexp(
            math.log1p(-weight) + logsumexp(each, axis=1) - np.log(count),
            math.log(weight) + broad,
        )
    return out


def _log_kernel(gap: Floats, band: Floats, width: float) -> Floats:
    u = np.abs(gap) / band
    if not width:
        return -0.5 * u**2 - np.log(band) - 0.5 * math.log(2 * math.pi)
    half = 0.5 * width / band
    high, low = log_ndtr(half - u), log_ndtr(-half - u)
    return high + np.log(-np.expm1(np.minimum(low - high, -1e-300)))


def _constant(rows: Rows, y: Floats) -> tuple[Floats, list[float]] | None:
    """NLL (N,) of a Gaussian around the model's own mean whose width suits these rows best."""
    try:
        mean = rows.dist.mean
    except NotImplementedError:
        return None
    centre = mean.double().numpy().reshape(y.shape)
    jacobian: Floats | float = 0.0
    if rows.way and rows.line:  # in the unit in which the model is Gaussian
        centre = _way(rows.dist.median.double().numpy(), rows.way)[0]
        y, jacobian = _way(y, rows.way)
    elif rows.way:
        return None
    gap = y - centre
    if not np.isfinite(gap).all():
        return None
    covariance = gap.T @ gap / len(gap)
    if rows.width:
        scale = np.sqrt(np.diag(covariance))
        if not (scale > 0).all():
            return None
        return -_log_kernel(gap, scale, rows.width)[:, 0], scale.tolist()
    values = np.linalg.eigvalsh(covariance)
    if values[0] <= 1e-14 * values[-1] or values[0] <= 0:
        return None
    root = np.linalg.cholesky(covariance)
    z = np.linalg.solve(root, gap.T)
    log_p = -0.5 * (z**2).sum(0) - np.log(np.diag(root)).sum()
    log_p -= 0.5 * gap.shape[1] * math.log(2 * math.pi)
    return -(log_p + jacobian), np.sqrt(np.diag(covariance)).tolist()


def _way(y: Floats, way: str) -> tuple[Floats, Floats | float]:
    """y in the unit of the components, and the log of the derivative, (N,)."""
    if way == "log":
        return np.log(y), -np.log(y).sum(1)
    if way == "logit":
        return np.log(y) - np.log1p(-y), -(np.log(y) + np.log1p(-y)).sum(1)
    return y, 0.0

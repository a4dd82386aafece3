"""The loss in other units of y, and the gains over simpler densities, which have no unit."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..distribution import GaussianMixture
from ..prediction import Floats
from ._evaluation import Evaluation, evenly_spaced, to_latent

__all__ = ["unit"]

_MOST_ROWS = 2000  # rows that make the marginal density; more would hardly change it
_MOST_TUNING_ROWS = 500  # rows on which its bandwidth is chosen
_FACTORS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)  # of Scott's bandwidth, chosen by likelihood
_BROAD_WEIGHT = 0.01  # of one broad component for outliers
_BROAD_SCALE = 3.0  # its scale [standard deviations]
_CHUNK = 512  # rows at a time


def unit(evaluation: Evaluation, train: Evaluation | None, step: float | None) -> dict[str, Any]:
    """Returns the NLL in y's unit and in others, and the gains over simpler densities, per row."""
    nll = evaluation.nll
    found: dict[str, Any] = {"nll": float(nll.mean()), "nll_standard_error": _standard_error(nll)}
    if evaluation.is_categorical:
        return found | _classes(evaluation, train)
    if evaluation.y is None:
        return found
    y = evaluation.y.numpy()
    if evaluation.measure == "density":
        found |= _other_units(y, found["nll"])
    elif evaluation.measure == "mass":
        found["perplexity"] = _exp(found["nll"])
    if evaluation.at_atoms.any():
        return found | _with_atoms(evaluation, train, step)
    y_train = None if train is None or train.y is None else train.y.numpy()
    reference = y if y_train is None else y_train
    if (np.ptp(reference, axis=0) == 0).any() or not (
        evaluation.measure == "density" or evaluation.width
    ):
        return found
    marginal = _marginal_nll(evaluation, y_train, step)
    found["marginal_nll"] = float(marginal.mean())
    found["gain_over_marginal"] = _gain(marginal, nll)
    gaussian = _single_gaussian(evaluation)
    if gaussian is not None:
        gaussian_nll, scale = gaussian
        found["gaussian_nll"] = float(gaussian_nll.mean())
        found["gaussian_scale"] = scale
        found["gain_over_gaussian"] = _gain(gaussian_nll, nll)
    return found


def _with_atoms(
    evaluation: Evaluation, train: Evaluation | None, step: float | None
) -> dict[str, Any]:
    """Returns the gain over the frequencies of the atoms and a density of the rows off them."""
    reference = evaluation if train is None else train
    smooth, rows = evaluation.off_atoms()
    known = None if train is None else train.off_atoms()[0].y
    kept = smooth.y if known is None else known
    if kept is None or smooth.y is None or len(kept) < 2 or float(kept.max() - kept.min()) == 0:
        return {}
    atoms = evaluation.dist.atoms.unique()
    counts = (reference.y == atoms).sum(0).double().numpy() + 0.5
    total = len(reference.nll) + 0.5 * (len(atoms) + 1)
    marginal = np.full(len(evaluation.nll), -math.log1p(-counts.sum() / total))
    for atom, count in zip(atoms, counts, strict=True):
        marginal[(evaluation.y == atom)[:, 0].numpy()] = -math.log(count / total)
    if len(rows):
        marginal[rows] += _marginal_nll(smooth, None if known is None else known.numpy(), step)
    return {
        "marginal_nll": float(marginal.mean()),
        "gain_over_marginal": _gain(marginal, evaluation.nll),
    }


def _classes(evaluation: Evaluation, train: Evaluation | None) -> dict[str, Any]:
    """Returns perplexity, accuracy and the gain over the frequencies of the classes."""
    y, logits = evaluation.y, evaluation.dist.logits
    reference = evaluation.y if train is None else train.y
    assert y is not None and reference is not None
    counts = np.bincount(reference.numpy(), minlength=logits.shape[-1]) + 0.5
    return {
        "perplexity": _exp(float(evaluation.nll.mean())),
        "accuracy": float((logits.argmax(-1) == y).double().mean()),
        "gain_over_marginal": _gain(-np.log(counts / counts.sum())[y.numpy()], evaluation.nll),
    }


def _other_units(y: Floats, nll: float) -> dict[str, Any]:
    """Returns NLL(c y) = NLL(y) + D log c for some c, and the width of a uniform of this NLL."""
    n_targets = y.shape[1]
    shift = n_targets * math.log(1000)
    found: dict[str, Any] = {"other_units": {"thousands": nll - shift, "thousandths": nll + shift}}
    if (np.ptp(y, axis=0) > 0).all():
        log_spread = float(np.log(y.std(0)).sum())
        found["shift_to_standard_deviations"] = -log_spread
        found["nll_standardized"] = nll - log_spread
    # with several targets the geometric mean of their widths
    return found | {"equivalent_width": _exp(nll / n_targets)}


def _gain(other: Floats, own: Floats) -> dict[str, float]:
    """Returns the mean gain of a row in nats and bits with its standard error."""
    with np.errstate(invalid="ignore"):  # both infinite
        gain = other - own
    nats = float(gain.mean())
    return {"nats": nats, "bits": nats / math.log(2), "standard_error_nats": _standard_error(gain)}


def _standard_error(a: Floats) -> float:
    if len(a) < 2 or not np.isfinite(a).all():
        return math.nan
    return float(a.std(ddof=1) / math.sqrt(len(a)))


def _exp(a: float) -> float:
    return math.exp(a) if a < 700 else math.inf


# -- the marginal density -------------------------------------------------------------------------


def _marginal_nll(evaluation: Evaluation, y_train: Floats | None, step: float | None) -> Floats:
    """Returns the NLL (N,) under a kernel density of y that ignores x.

    Without training rows it is leave-one-out: a row has no kernel in the density that judges it.
    """
    assert evaluation.y is not None
    z, log_jacobian = to_latent(evaluation.y.numpy(), evaluation.link)
    own = np.full(len(z), -1)  # index of the kernel of each row; -1 where it has none
    if y_train is None:
        kept = evenly_spaced(len(z), _MOST_ROWS)
        own[kept] = np.arange(len(kept))
        reference = z[kept]
    else:
        reference = to_latent(y_train, evaluation.link)[0]
        reference = reference[:: -(-len(reference) // _MOST_ROWS)]
    n, d = reference.shape
    spread = reference.std(0)
    scott = spread * n ** (-1.0 / (d + 4))
    # chosen by likelihood, a bandwidth below the step of y would put spikes on its values
    least = 0.0
    if step is not None and d == 1 and not evaluation.width:
        least = step * float(np.exp(np.median(log_jacobian)))  # of y, in the unit of z
    tuning = reference[:: -(-n // _MOST_TUNING_ROWS)]
    bandwidths = [np.maximum(factor * scott, least) for factor in _FACTORS]
    log_prob = partial(_kernel_log_prob, width=evaluation.width, spread=spread)
    each = np.arange(len(tuning))
    best = max(bandwidths, key=lambda bandwidth: log_prob(tuning, tuning, each, bandwidth).mean())
    return -(log_prob(z, reference, own, best) + log_jacobian)


def _kernel_log_prob(
    z: Floats,
    reference: Floats,
    own: NDArray[np.intp],
    bandwidth: Floats,
    width: float,
    spread: Floats,
) -> Floats:
    """Returns the log density (N,) of the kernel estimate, or the log mass of cells of a width."""
    n, d = reference.shape
    loc = np.concatenate([reference, reference.mean(0, keepdims=True)])  # (R + 1, D)
    scale = np.concatenate([np.broadcast_to(bandwidth, (n, d)), _BROAD_SCALE * spread[None]])
    found = []
    for i in range(0, len(z), _CHUNK):
        part = own[i : i + _CHUNK]
        rows = np.flatnonzero(part >= 0)
        log_weight = np.full((len(part), n + 1), math.log1p(-_BROAD_WEIGHT))
        log_weight -= np.log(n - (part >= 0))[:, None]
        log_weight[:, -1] = math.log(_BROAD_WEIGHT)
        log_weight[rows, part[rows]] = -math.inf
        kernels = GaussianMixture(*(torch.from_numpy(a) for a in (log_weight, loc, scale)))
        found.append(_log_prob(kernels, z[i : i + _CHUNK], width))
    return np.concatenate(found)


def _log_prob(dist: GaussianMixture, z: Floats, width: float) -> Floats:
    """Returns the log density at z (N, D), or the log mass of the cells around it; (N,)."""
    at = torch.from_numpy(z)
    log_p = dist.log_mass(at - 0.5 * width, at + 0.5 * width) if width else dist.log_prob(at)
    return log_p.numpy()


# -- the single Gaussian --------------------------------------------------------------------------


def _single_gaussian(evaluation: Evaluation) -> tuple[Floats, list[float]] | None:
    """Returns NLL (N,) and scale of the best Gaussian of constant covariance around the mean.

    With a link function it stands around the median, in the latent unit, where the components of
    the model are Gaussian.  None where it does not exist.
    """
    assert evaluation.y is not None
    dist, y = evaluation.dist, evaluation.y.numpy()
    if evaluation.link and not evaluation.is_univariate:
        return None
    try:
        centre = dist.median if evaluation.link else dist.mean
    except (NotImplementedError, TypeError):  # no mean, or no cdf to solve for the median
        return None
    centre = to_latent(centre.double().numpy().reshape(y.shape), evaluation.link)[0]
    z, log_jacobian = to_latent(y, evaluation.link)
    residual = z - centre
    if not np.isfinite(residual).all():
        return None
    covariance = residual.T @ residual / len(residual)
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] <= max(0.0, 1e-14 * eigenvalues[-1]):
        return None
    zeros = torch.zeros(1, dtype=torch.float64)
    root = torch.from_numpy(np.linalg.cholesky(covariance)[None])
    gaussian = GaussianMixture(zeros, zeros.expand(1, z.shape[1]), scale_tril=root)
    nll = -(_log_prob(gaussian, residual, evaluation.width) + log_jacobian)
    return nll, np.sqrt(np.diag(covariance)).tolist()

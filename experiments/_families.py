"""Densities without an x: their parameters, draws, starting values, and reference fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor
from torch.distributions import Gamma, StudentT

import mdn

from ._density import gaussian

__all__ = [
    "Family",
    "Floats",
    "FAMILIES",
    "double",
    "em",
    "em_parameters",
]

Floats = NDArray[np.float64]
SEARCH_TOLERANCE = 1e-14  # relative spread of the population at which scipy.stats.fit stops


class Family(NamedTuple):
    """A density with P parameters.

    Attributes:
        title: its name in tables and figures.
        names: names of the parameters, P.
        truth: true parameters of the draws, P.
        draw: draws (N,) samples with NumPy.
        start: starting values of a fit to (N,) draws, unconstrained, P.
        natural: maps unconstrained values (..., P) to parameters (..., P).
        unconstrained: the inverse of ``natural``.
        density: maps unconstrained values (..., P) to the distribution, batch (...).
        other: name of the reference method, and a function from (N,) draws to its parameters.
        shown: index and range of the two unconstrained values of the NLL surface.
    """

    title: str
    names: tuple[str, ...]
    truth: tuple[float, ...]
    draw: Callable[[np.random.Generator, int], Floats]
    start: Callable[[Floats], Tensor]
    natural: Callable[[Tensor], Tensor]
    unconstrained: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Any]
    other: tuple[str, Callable[[Floats, int], Floats]]
    shown: tuple[tuple[int, float, float], tuple[int, float, float]]


def _rows(*columns: Tensor) -> Tensor:
    return torch.stack(columns, -1)


def _normal(raw: Tensor) -> mdn.GaussianMixture:
    return gaussian(raw[..., :1], raw[..., 1:].exp())


def _gamma(raw: Tensor) -> mdn.Mixture:
    shape, scale = raw.exp().unbind(-1)
    return mdn.Mixture(
        torch.zeros_like(shape)[..., None], Gamma(shape[..., None], 1 / scale[..., None])
    )


def _student(raw: Tensor) -> mdn.Mixture:
    loc, log_scale, log_df = raw[..., None].unbind(-2)
    return mdn.Mixture(torch.zeros_like(loc), StudentT(log_df.exp(), loc, log_scale.exp()))


def _three(raw: Tensor) -> mdn.GaussianMixture:
    logits, loc, log_scale = raw.unflatten(-1, (3, 3)).unbind(-2)
    return mdn.GaussianMixture(logits, loc[..., None], log_scale.exp()[..., None])


def _three_natural(raw: Tensor) -> Tensor:
    """Returns weights, locations and scales, (..., 9), in the order of the locations."""
    logits, loc, log_scale = raw.unflatten(-1, (3, 3)).unbind(-2)
    order = loc.argsort(-1)
    parts = (logits.softmax(-1), loc, log_scale.exp())
    return torch.cat([part.gather(-1, order) for part in parts], -1)


def _three_start(y: Floats) -> Tensor:
    """Returns equal weights, close locations, and half the standard deviation as scales."""
    loc = np.quantile(y, [0.35, 0.5, 0.65])
    return torch.from_numpy(np.concatenate([np.zeros(3), loc, np.full(3, math.log(y.std() / 2))]))


def _draw_three(rng: np.random.Generator, n: int) -> Floats:
    weights, loc, scale = np.reshape(FAMILIES["mixture"].truth, (3, 3))
    k = rng.choice(3, n, p=weights)
    return rng.normal(loc[k], scale[k])


def _by_scipy(law: Any, bounds: Sequence[tuple[float, float]], order: Sequence[int]) -> Any:
    """Returns a fit by scipy.stats.fit within bounds; ``order`` maps its parameters to ours."""

    def fit(y: Floats, seed: int) -> Floats:
        search = partial(
            optimize.differential_evolution,
            rng=np.random.default_rng(seed),
            tol=SEARCH_TOLERANCE,
            atol=0.0,
            polish=False,  # a local search would move the location, which the bounds fix at 0
        )
        return np.array(stats.fit(law, y, bounds, optimizer=search).params)[list(order)]

    return fit


def _by_em(y: Floats, seed: int) -> Floats:
    return em_parameters(em(y).set_params(max_iter=100_000, tol=1e-14).fit(y[:, None]))


def em(y: Floats) -> Any:
    """Returns scikit-learn's mixture with the starting values of the other methods."""
    from sklearn.mixture import GaussianMixture

    logits, loc, log_scale = _three_start(y).reshape(3, 3).numpy()
    return GaussianMixture(
        3,
        covariance_type="spherical",
        reg_covar=0.0,
        weights_init=np.exp(logits) / np.exp(logits).sum(),
        means_init=loc[:, None],
        precisions_init=np.exp(-2 * log_scale),
        random_state=0,
    )


def em_parameters(model: Any) -> Floats:
    """Returns weights, locations and scales, (9,), in the order of the locations."""
    order = np.argsort(model.means_[:, 0])
    parts = (model.weights_, model.means_[:, 0], np.sqrt(model.covariances_))
    return np.concatenate([part[order] for part in parts])


FAMILIES = {
    "gaussian": Family(
        "Gaussian",
        ("mean", "standard deviation"),
        (3.0, 2.0),
        lambda rng, n: rng.normal(3.0, 2.0, n),
        lambda y: double(0.0, 0.0),
        lambda raw: _rows(raw[..., 0], raw[..., 1].exp()),
        lambda p: _rows(p[..., 0], p[..., 1].log()),
        _normal,
        ("scipy.stats.fit", _by_scipy(stats.norm, ((-20, 20), (0.01, 20)), (0, 1))),
        ((0, -0.5, 5.5), (1, -0.3, 1.7)),
    ),
    "gamma": Family(
        "gamma",
        ("shape", "scale"),
        (2.5, 1.5),
        lambda rng, n: rng.gamma(2.5, 1.5, n),
        lambda y: double(0.0, 0.0),
        lambda raw: raw.exp(),
        lambda p: p.log(),
        _gamma,
        ("scipy.stats.fit", _by_scipy(stats.gamma, ((0.1, 50), (0, 0), (0.01, 50)), (0, 2))),
        ((0, -0.3, 1.7), (1, -0.5, 1.3)),
    ),
    "student_t": Family(
        "Student-t",
        ("location", "scale", "degrees of freedom"),
        (1.0, 2.0, 4.0),
        lambda rng, n: 1.0 + 2.0 * rng.standard_t(4.0, n),
        lambda y: double(float(np.median(y)), 0.0, 0.0),
        lambda raw: _rows(raw[..., 0], raw[..., 1].exp(), raw[..., 2].exp()),
        lambda p: _rows(p[..., 0], p[..., 1].log(), p[..., 2].log()),
        _student,
        ("scipy.stats.fit", _by_scipy(stats.t, ((0.2, 200), (-20, 20), (0.01, 20)), (1, 2, 0))),
        ((1, -0.2, 1.3), (2, -0.3, 3.5)),
    ),
    "mixture": Family(
        "mixture of three Gaussians",
        tuple(f"{what} {k}" for what in ("weight", "mean", "scale") for k in (1, 2, 3)),
        (0.3, 0.5, 0.2, -3.0, 0.5, 5.0, 0.6, 1.2, 0.8),
        _draw_three,
        _three_start,
        _three_natural,
        lambda p: torch.cat([p[..., :3].log(), p[..., 3:6], p[..., 6:].log()], -1),
        _three,
        ("EM", _by_em),
        ((4, -4.0, 7.5), (5, -4.0, 7.5)),
    ),
}


def double(*values: float) -> Tensor:
    """Returns a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)

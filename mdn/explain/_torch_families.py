"""Distributions of ``torch.distributions`` as the mixtures of this package, where they can be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from ..distribution import GaussianMixture, Mixture, MixtureDistribution

__all__ = ["as_mixture"]


def as_mixture(dist: Any) -> Any:
    """Returns the same law as a distribution of this package; ``dist`` itself if there is none."""
    if isinstance(dist, MixtureDistribution | Categorical):
        return dist
    if isinstance(dist, MixtureSameFamily):
        logits, components = dist.mixture_distribution.logits, dist.component_distribution
        gaussian = _gaussian_parameters(components)
        if gaussian is not None:
            return GaussianMixture(logits, **gaussian)
        return _mixture(logits, components) or dist
    base = dist.base_dist if isinstance(dist, Independent) else dist
    if len(dist.event_shape) > 1 or len(dist.batch_shape) + len(dist.event_shape) > 2:
        return dist
    if len(dist.batch_shape) == 2:  # (N, D) independent targets
        dist = Independent(base, 1)
    logits = torch.zeros(*dist.batch_shape, 1, dtype=torch.float64)
    gaussian = _gaussian_parameters(dist)
    if gaussian is None:
        return _mixture(logits, [dist]) or dist
    gaussian = {name: a.unsqueeze(len(dist.batch_shape)) for name, a in gaussian.items()}
    return GaussianMixture(logits.to(gaussian["loc"]), **gaussian)


def _gaussian_parameters(dist: Distribution) -> dict[str, Any] | None:
    """Returns loc (*, D) of Gaussians and their scale (*, D) or covariance, else None."""
    if isinstance(dist, MultivariateNormal):
        return {"loc": dist.loc, "scale_tril": dist.scale_tril}
    if isinstance(dist, LowRankMultivariateNormal):
        return {"loc": dist.loc, "cov_factor": dist.cov_factor, "cov_diag": dist.cov_diag}
    base = dist.base_dist if isinstance(dist, Independent) else dist
    if not isinstance(base, Normal) or len(dist.event_shape) > 1:
        return None
    loc, scale = (a if dist.event_shape else a.unsqueeze(-1) for a in (base.loc, base.scale))
    return {"loc": loc, "scale": scale}


def _mixture(logits: Tensor, components: Any) -> Mixture | None:
    """Returns the mixture if this package knows enough of the family: cdf, mean and modes."""
    try:
        mixture = Mixture(logits.double(), components)
        found = mixture[:1] if mixture.batch_shape else mixture
        found.cdf(found.mean)
        found.modes()
    except (TypeError, ValueError, RuntimeError):  # torch says in many ways that it has none
        return None
    return mixture

"""Kullback-Leibler divergence of Gaussian mixtures, also for ``torch.distributions``."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import register_kl

from ..arguments import check_generator, check_integer
from ..functional._integrals import component_divergences, divergence_bound
from ._base import DRAWS
from ._gaussian import GaussianMixture
from ._results import Divergence

__all__ = ["divergence"]


def divergence(
    p: GaussianMixture,
    q: GaussianMixture,
    *,
    n_samples: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Divergence:
    r"""Kullback-Leibler divergence :math:`\int p \log(p / q)` in nats, with its error.

    ``torch.distributions.kl_divergence(p, q)`` gives the value alone.

    Args:
        p: the mixture that is integrated over.
        q: the mixture it is compared with.
        n_samples: draws from p.
        generator: source of randomness; one of a fixed seed if None.

    Raises:
        ValueError: different event shapes, or fewer than 2 draws.

    References:
        J. R. Hershey, P. A. Olsen, Approximating the Kullback Leibler divergence between Gaussian
        mixture models, ICASSP (2007), section 7 (the bound).
    """
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"p and q must have one event shape; got {tuple(p.event_shape)} and "
            f"{tuple(q.event_shape)}"
        )
    check_integer("n_samples", n_samples, 2)
    check_generator(generator)
    pairs = component_divergences(p.loc, p.scale_tril, q.loc, q.scale_tril)
    bound = divergence_bound(p.logits, q.logits, pairs)
    if p.n_components == q.n_components == 1:
        return Divergence(pairs[..., 0, 0], torch.zeros_like(bound), bound)
    y = p.expand(bound.shape).rsample((n_samples,), generator=generator or p._fixed_generator())
    ratio = p.log_prob(y) - q.log_prob(y)
    return Divergence(ratio.mean(0), ratio.detach().std(0) / math.sqrt(n_samples), bound)


@register_kl(GaussianMixture, GaussianMixture)
def _kl(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    return divergence(p, q).value

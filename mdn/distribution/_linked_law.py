"""Mixtures of log-normal or of logit-normal components, by the Gaussian mixture of log or logit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from ..functional._checks import broadcast_shapes
from ..functional._critical_points import Parameters
from ..functional._integrals import entropy
from ..functional._interval import mixture_cdf
from ..functional._linked import log_normal_crps, logit_normal_crps, logit_slope, tilted
from ..functional._modes import mixture_hdr, mixture_modes
from ..functional._numerics import is_traced
from ..functional._quantile import mixture_icdf
from ._components import Components
from ._families import LogitNormal
from ._law import padded
from ._mixture_law import MixtureLaw

__all__ = ["LinkedLaw"]

_LONGEST = 4.0  # panel of an integral over the logit, beside the poles of its logarithm


class LinkedLaw(MixtureLaw):
    """The law of exp(u) or sigmoid(u), u a mixture of K Gaussians.

    Densities and probabilities are those of :class:`MixtureLaw`.
    """

    is_chunked = True

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        base, behind = _base(components), len(components.groups[0].dist.event_shape)
        self.is_logit = isinstance(base, LogitNormal)
        shape = self.log_w.shape
        loc, scale = (
            a.reshape(*a.shape[:-1] if behind else a.shape).expand(shape)
            for a in (base.loc, base.scale)
        )
        self.latent: Parameters = self.log_w, loc, scale

    @staticmethod
    def takes(components: Components) -> bool:
        """Whether all components are of one of the two families."""
        if len(components.groups) != 1 or not components.groups[0].stacked:
            return False
        base = _base(components)
        return type(base) in (td.LogNormal, LogitNormal)

    def _to_y(self, u: Tensor) -> Tensor:
        return torch.sigmoid(u) if self.is_logit else u.exp()

    def _density(self) -> Parameters:
        """What the density of y is computed from, as that of a mixture of u."""
        return self.latent if self.is_logit else tilted(self.latent, {-1.0: 1.0})

    def cdf(self, y: Tensor) -> Tensor:
        if is_traced() or (torch.is_grad_enabled() and (y.requires_grad or self.requires_grad)):
            return super().cdf(y)
        y = y.double()
        u = torch.logit(y.clamp(0.0, 1.0)) if self.is_logit else y.clamp(min=0.0).log()
        return mixture_cdf(u, *self.latent)

    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        more = (None,) * (p.ndim + 1 - self.log_w.ndim)
        log_w, loc, scale = (a[more] for a in self.latent)
        return self._to_y(mixture_icdf(p, log_w, loc, scale))

    def modes(self) -> tuple[Tensor, Tensor]:
        log_w, loc, scale = self._density()
        place, height = mixture_modes(
            log_w, loc.unsqueeze(-1), scale[..., None, None], logit=self.is_logit
        )
        place = self._to_y(place.squeeze(-1))
        return padded(place, self.n_components), padded(height, self.n_components)

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        intervals, log_level = mixture_hdr(
            self._density(), self.latent, coverage, logit=self.is_logit
        )
        return padded(self._to_y(intervals), self.n_components, -2), log_level

    def crps(self, y: Tensor) -> Tensor:
        y = y.double()
        batch = broadcast_shapes(y.shape, self.log_w.shape[:-1])
        flat = (a.expand(*batch, a.shape[-1]).reshape(-1, a.shape[-1]) for a in self.latent)
        score = logit_normal_crps if self.is_logit else log_normal_crps
        return score(y.expand(batch).reshape(-1), *flat).reshape(batch)

    def entropy(self) -> Tensor:
        if self.is_logit:
            return entropy(*self.latent, logit_slope, _LONGEST)
        log_w, loc, scale = self.latent
        mean = (log_w.exp() * loc.masked_fill(~self.components.alive, 0.0)).sum(-1)
        return entropy(log_w, loc, scale) + mean


def _base(components: Components) -> Any:
    dist = components.groups[0].dist
    return dist.base_dist if isinstance(dist, td.Independent) else dist

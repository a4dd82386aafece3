"""A univariate Gaussian mixture as a law on the line, in closed form where there is one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional._crps import mixture_crps
from ..functional._diagonal import diagonal_log_prob, log_weights
from ..functional._integrals import entropy
from ..functional._interval import Params, interval_log_mass, mixture_cdf, mixture_log_cdf
from ..functional._modes import mixture_hdr, mixture_modes
from ..functional._moments import Moments
from ..functional._numerics import is_traced
from ..functional._quantile import mixture_icdf
from ._continuous import ContinuousLaw
from ._law import in_parts, padded

__all__ = ["GaussianLaw", "mean_and_variance"]


class GaussianLaw(ContinuousLaw):
    """A mixture of K Gaussians on the line.

    Args:
        logits: log weights up to a constant, (*, K), as all others in the dtype of the mixture.
        loc, scale: (*, K).
    """

    is_chunked = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.given = logits, loc, scale
        self.n_components = loc.shape[-1]

    def aligned(self, y: Tensor) -> Params:
        """The parameters with as many batch axes as y has."""
        logits, loc, scale = self.given
        more = (None,) * (y.ndim + 1 - loc.ndim)
        return logits[more], loc[more], scale[more]

    def params(self) -> Params:
        """Normalised log weights, means and scales in float64."""
        logits, loc, scale = (a.double() for a in self.given)
        return log_weights(logits), loc, scale

    def in_float64(self) -> GaussianLaw:
        return GaussianLaw(*(a.double() for a in self.given))

    @property
    def requires_grad(self) -> bool:
        return any(a.requires_grad for a in self.given)

    def log_density(self, y: Tensor) -> Tensor:
        logits, loc, scale = (a.double() for a in self.aligned(y))
        loc, scale = loc.unsqueeze(-1), scale.unsqueeze(-1)

        def at(y: Tensor) -> tuple[Tensor]:
            return (diagonal_log_prob(y.unsqueeze(-1), logits, loc, scale, log=False),)

        if y.ndim < self.given[0].ndim:
            return at(y.double())[0]
        return in_parts(at, y.double(), size=self.n_components)[0]

    def log_tails(self, y: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        y = y.double()
        return self.log_cdf(y), self.log_sf(y)

    def log_cdf(self, y: Tensor) -> Tensor:
        return mixture_log_cdf(y, *self.aligned(y))

    def cdf(self, y: Tensor) -> Tensor:
        if is_traced() or (torch.is_grad_enabled() and (y.requires_grad or self.requires_grad)):
            return super().cdf(y)
        return mixture_cdf(y, *self.params())

    def log_sf(self, y: Tensor) -> Tensor:
        logits, loc, scale = self.aligned(y)
        return mixture_log_cdf(-y, logits, -loc, scale)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor | None = None) -> Tensor:
        return interval_log_mass(low.double(), high.double(), self.params(), width=width)

    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        return mixture_icdf(p, *self.aligned(p))

    def modes(self) -> tuple[Tensor, Tensor]:
        logits, loc, scale = self.given
        log_w = log_weights(logits)
        place, height = mixture_modes(log_w, loc.unsqueeze(-1), scale[..., None, None])
        return padded(place.squeeze(-1), self.n_components), padded(height, self.n_components)

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        logits, loc, scale = self.given
        mixtures = log_weights(logits), loc, scale
        intervals, log_level = mixture_hdr(mixtures, mixtures, coverage)
        return padded(intervals, self.n_components, -2), log_level

    def crps(self, y: Tensor) -> Tensor:
        return mixture_crps(y, *self.aligned(y))

    def entropy(self) -> Tensor:
        logits, loc, scale = (a.double() for a in self.given)
        return entropy(log_weights(logits), loc, scale)

    def ends(self) -> tuple[Tensor, Tensor]:
        whole = torch.full_like(self.given[1][..., 0], math.inf, dtype=torch.float64)
        return -whole, whole

    def grid(self, levels: tuple[float, ...]) -> Tensor:
        log_w, loc, scale = self.params()
        z = torch.special.ndtri(log_w.new_tensor(levels)).view(-1, *(1,) * loc.ndim)
        each = torch.cat([loc + scale * z, loc - scale * z]).movedim(-1, 1)  # (2 L, K, *)
        heaviest = log_w.argmax(-1, keepdim=True).movedim(-1, 0).unsqueeze(0).expand_as(each[:, :1])
        off = (log_w == -math.inf).movedim(-1, 0)
        return torch.where(off, each.gather(1, heaviest), each).flatten(0, 1).sort(dim=0).values

    def bracket(self, q: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        y = self.icdf(torch.where(upper, 1.0 - q, q))
        return y, y

    def moments(self) -> tuple[Tensor, Tensor]:
        log_w, loc, scale = self.params()
        return mean_and_variance(log_w, Moments(loc, torch.zeros_like(loc), scale.square()))


def mean_and_variance(log_w: Tensor, parts: Moments) -> tuple[Tensor, Tensor]:
    """Of a mixture, (*), from those of its components, (*, K).

    They are measured from the heaviest component, so that a large common offset does not cancel.
    """
    w = log_w.exp()
    off = w == 0  # 0 times a huge number may not become NaN
    heaviest = w.argmax(-1, keepdim=True)
    place, excess = (a.gather(-1, heaviest).detach() for a in parts[:2])
    apart = ((parts.place - place) + (parts.excess - excess)).masked_fill(off, 0.0)
    shift = (w * apart).sum(-1, keepdim=True)
    spread = parts.variance.masked_fill(off, 0.0) + (apart - shift).square()
    return (place + (excess + shift)).squeeze(-1), (w * spread).sum(-1)

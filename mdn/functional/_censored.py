"""Log-likelihood of numbers known exactly or to an interval, for training: first order, and fast.

What ``_interval`` computes by automatic differentiation of masked branches has its derivatives in
closed form here, and each formula is worked out for those entries only that need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ._interval import _HALF_LOG_2PI, _SHORT_RULE, _Z_MAX

__all__ = ["interval_log_likelihood"]

_SQRT_HALF = math.sqrt(0.5)
_HAZARD = math.sqrt(2.0 / math.pi)
_LOG_TWO = math.log(2.0)


class _Slopes(NamedTuple):
    """Of the log-likelihood of one component, in scales.

    Attributes:
        value: log mass, or log density times the scale.
        loc: scale times the derivative by loc.
        scale: scale times the derivative by scale.
    """

    value: Tensor
    loc: Tensor
    scale: Tensor


def interval_log_likelihood(
    low: Tensor, high: Tensor, width: Tensor, logits: Tensor, loc: Tensor, scale: Tensor
) -> Tensor:
    r"""Log probability of an interval under a Gaussian mixture; log density where its width is 0.

    .. math:: \log \sum_k \pi_k \left[ \Phi(b_k) - \Phi(a_k) \right],
        \quad a_k = (\text{low} - \mu_k) / \sigma_k, \; b_k = (\text{high} - \mu_k) / \sigma_k

    Computed in float64 and given back in the dtype of loc; right however far the interval is in a
    tail and however narrow it is.  A log probability is never above 0.

    Args:
        low, high: ends, (*); ``-inf`` and ``inf`` leave a side open.
        width: high - low, (*), by itself since the ends may have lost its digits.
        logits, loc, scale: (*, K); gradients reach these three only, of first order.
    """
    return _Likelihood.apply(low, high, width, logits, loc, scale)


class _Likelihood(Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, width: Tensor, *params: Tensor) -> Tensor:
        logits, loc, scale = (p.double().contiguous() for p in params)
        low, high, width = (end.double().unsqueeze(-1) for end in (low, high, width))
        a = ((low - loc) / scale).clamp_(-_Z_MAX, _Z_MAX)
        b = ((high - loc) / scale).clamp_(-_Z_MAX, _Z_MAX)
        value, by_loc, by_scale = _components(a, b, 0.5 * width / scale)
        exact = width == 0
        value = value - torch.where(exact, scale.log(), 0.0)
        log_w = torch.log_softmax(logits, -1)
        terms = log_w + value
        total = torch.logsumexp(terms, -1, keepdim=True)
        share = (terms - total).exp_()
        if any(ctx.needs_input_grad):
            slopes = (share - log_w.exp(), share * by_loc / scale, share * by_scale / scale)
            ctx.save_for_backward(*(s.to(p.dtype) for s, p in zip(slopes, params, strict=True)))
        # the weights add up to 1 but for rounding
        return torch.where(exact, total, total.clamp(max=0.0)).squeeze(-1).to(params[1].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.unsqueeze(-1)
        return (None, None, None, *(grad * slope for slope in ctx.saved_tensors))


def _components(a: Tensor, b: Tensor, half: Tensor) -> _Slopes:
    """Each entry by the formula it needs: ends a <= b and half the width, in scales."""
    centre = 0.5 * (a + b)
    flipped = centre < 0
    short = (half <= 1) & (centre.abs() * half <= 1)
    near = torch.where(flipped, -b, a)  # of the mirrored interval, whose centre is above 0
    far = torch.where(flipped, -a, b)
    rules: tuple[tuple[Callable[[Tensor, Tensor], _Slopes], Tensor, Tensor, Tensor], ...] = (
        (_short, short & (half > 0), centre, half),
        (_in_tail, ~short & (near >= 0), near, far),
        (_astride, ~short & (near < 0), near, far),
    )
    out = _at_point(centre)  # what no rule takes up is exact
    for rule, chosen, first, second in rules:
        index = chosen.reshape(-1).nonzero().squeeze(-1)
        if not len(index):
            continue
        everywhere = len(index) == centre.numel()
        ends = (e.expand_as(centre).reshape(-1) for e in (first, second))
        found = rule(*(e if everywhere else e[index] for e in ends))
        if rule is not _short:
            turned = flipped.reshape(-1) if everywhere else flipped.reshape(-1)[index]
            found = found._replace(loc=torch.where(turned, -found.loc, found.loc))
        if everywhere:
            return _Slopes(*(part.reshape(centre.shape) for part in found))
        for whole, part in zip(out, found, strict=True):
            whole.view(-1)[index] = part
    return out


def _at_point(z: Tensor) -> _Slopes:
    square = z * z
    return _Slopes(-0.5 * square - _HALF_LOG_2PI, z.clone(), square - 1)


def _short(m: Tensor, h: Tensor) -> _Slopes:
    r"""``phi(m) int_{-h}^{h} exp(-m t - t^2 / 2) dt``, a sum of positive terms.

    With S the integral over h, ``phi(a) - phi(b) = phi(m) exp(-h^2 / 2) 2 sinh(m h)`` and
    ``a phi(a) - b phi(b) = phi(m) exp(-h^2 / 2) (2 m sinh(m h) - 2 h cosh(m h))``: neither cancels
    when divided by ``phi(m) h S``.
    """
    total = torch.zeros_like(m)
    for x, weight in _SHORT_RULE:
        t = h * x
        total += weight * (torch.cosh(m * t) * torch.exp(-0.5 * t * t))
    mh = m * h
    factor = 2 * torch.exp(-0.5 * h * h) / total
    slope = torch.sinh(mh) / h
    value = (h * total).log() - 0.5 * m * m - _HALF_LOG_2PI
    return _Slopes(value, factor * slope, factor * (m * slope - torch.cosh(mh)))


def _in_tail(a: Tensor, b: Tensor) -> _Slopes:
    """``Q(a) (1 - q)``, q = Q(b) / Q(a) at most exp(-2); phi / Q from erfcx at any distance."""
    scaled_a, scaled_b = (torch.special.erfcx(z * _SQRT_HALF) for z in (a, b))
    log_a, log_b = (e.log() - 0.5 * z * z - _LOG_TWO for e, z in ((scaled_a, a), (scaled_b, b)))
    q = (log_b - log_a).exp()
    at_a = _HAZARD / (scaled_a * (1 - q))
    at_b = _HAZARD * q / (scaled_b * (1 - q))
    return _Slopes(log_a + torch.log1p(-q), at_a - at_b, a * at_a - b * at_b)


def _astride(a: Tensor, b: Tensor) -> _Slopes:
    """``1 - Phi(a) - Q(b)`` with a < 0 < b, which is more than a third."""
    outside = 0.5 * (torch.erfc(-a * _SQRT_HALF) + torch.erfc(b * _SQRT_HALF))
    norm = 0.5 * _HAZARD / (1 - outside)
    at_a, at_b = (norm * torch.exp(-0.5 * z * z) for z in (a, b))
    return _Slopes(torch.log1p(-outside), at_a - at_b, a * at_a - b * at_b)

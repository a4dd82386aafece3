"""The cdf of a Gaussian mixture and the mass of an interval, in logs; one dimension, float64.

Exact in both tails, for intervals much narrower than the scales and for intervals that hold nearly
everything.  :func:`interval_log_mass` has derivatives of every order, by automatic differentiation
of masked branches; :func:`interval_log_likelihood` is the same for training, with the gradient in
closed form and each formula worked out for those entries only that need it.

Points, ends and the width (high - low, which may have digits that their difference has lost) are
(*), ``-inf`` and ``inf`` leave a side open; parameters are (*, K).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ._checks import broadcast_shapes
from ._critical_points import row_chunks
from ._diagonal import component_log_prob, gradient_by_autograd, log_weights, standardize
from ._numerics import (
    HALF_LOG_2PI,
    LOG_2,
    SQRT_HALF,
    Z_MAX,
    is_traced,
    log_diff_exp,
    log_from_smaller_tail,
    log_ndtr,
    result_dtype,
)
from ._quadrature import gauss_legendre

__all__ = [
    "Params",
    "component_log_mass",
    "interval_log_likelihood",
    "interval_log_mass",
    "log_mass_between",
    "mixture_cdf",
    "mixture_log_cdf",
]

_END = Z_MAX[torch.float64]  # in scales; replaces an infinite end
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
# exact to rounding for exp(-m t - t^2 / 2) with |m t| and |t| at most 1, even in t
_SHORT_RULE = [
    (x, 2 * w) for x, w in zip(*(a.tolist() for a in gauss_legendre(10)), strict=True) if x > 0
]

Params = tuple[Tensor, Tensor, Tensor]  # log weights, means and scales, (*, K), in float64


def mixture_log_cdf(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log cdf, (*).  Runs in float64, as torch's float32 tail functions carry only 5 digits."""
    dtype = result_dtype(y, logits, loc, scale)
    weights = log_weights(logits.double())
    z = standardize(y.double().unsqueeze(-1), loc.double(), scale.double())
    lower, upper = (torch.logsumexp(weights + log_ndtr(end), -1) for end in (z, -z))
    out = torch.where(y == -math.inf, -math.inf, log_from_smaller_tail(lower, upper))
    return out.to(dtype)


@torch.no_grad()
def mixture_cdf(y: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Cdf at y (..., *) in float64, without gradients: the exponential of the log cdf.

    Parameters (*, K) in float64; log weights are normalised.
    """
    batch, k = loc.shape[:-1], loc.shape[-1]
    whole = broadcast_shapes(y.shape, batch)
    rows = whole[len(whole) - len(batch) :]
    w, loc, rate = (
        a.expand(*rows, k).reshape(-1, k) for a in (0.5 * log_w.exp(), loc, -SQRT_HALF / scale)
    )
    y = y.double().expand(whole).reshape(-1, len(w))  # (L, n)
    out = torch.empty_like(y)
    for part in row_chunks(len(w), 8 * k):
        own = w[part], loc[part], rate[part]
        for places in row_chunks(len(y), own[0].numel()):
            z = torch.sub(y[places, part].unsqueeze(-1), own[1]).mul_(own[2])
            out[places, part] = z.erfc_().mul_(own[0]).sum(-1)
    return out.clamp_(max=1.0).reshape(whole)


def interval_log_mass(
    low: Tensor, high: Tensor, params: Params, *, width: Tensor | None = None
) -> Tensor:
    """Log of P(low <= Y <= high), (*); ``-inf`` for an empty interval.

    Differentiable any number of times, in the ends too.
    """
    log_w, loc, scale = params
    width = high - low if width is None else width
    a, b, w = (end.unsqueeze(-1) for end in (low, high, width))
    parts = component_log_mass(a, b, w, loc, scale)
    inside, outside = (torch.logsumexp(log_w + part, -1) for part in parts)
    empty = (width <= 0) | ((low >= high) & low.isinf())
    return torch.where(empty, -math.inf, log_from_smaller_tail(inside, outside))


def log_mass_between(log_cdf: tuple[Tensor, Tensor], log_sf: tuple[Tensor, Tensor]) -> Tensor:
    """Log of P(low < Y <= high) of any distribution, from both tails at low and at high.

    The difference is taken in the tail that holds less, which has more digits.
    """
    left = log_cdf[1] < log_sf[0]
    return log_diff_exp(
        torch.where(left, log_cdf[1], log_sf[0]), torch.where(left, log_cdf[0], log_sf[1])
    )


def component_log_mass(
    low: Tensor, high: Tensor, width: Tensor, loc: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Log probability of every component inside and outside of the ends, (*, K).

    In scales, with ends a < b, centre m and half width h, mirrored so that m >= 0:

    - short (h and m h at most 1): ``phi(m) int_{-h}^{h} exp(-m t - t^2 / 2) dt``, a sum of positive
      terms by Gauss-Legendre, where a difference of two cdfs would cancel;
    - in the tail (a >= 0): ``Q(a) (1 - Q(b) / Q(a))``, the quotient at most exp(-2);
    - else: ``1 - Phi(a) - Q(b)``, which is more than a third.
    """
    a, b = standardize(low, loc, scale), standardize(high, loc, scale)
    mirrored = a + b < 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    log_q_a, log_q_b = log_ndtr(-a), log_ndtr(-b)
    # not logaddexp, whose second derivative overflows
    outside = torch.logsumexp(torch.stack([log_ndtr(a), log_q_b]), 0)

    centre = 0.5 * (a + b)
    bounded = (width > 0) & (width < math.inf)
    half = 0.5 * torch.where(bounded, width, 1.0) / scale
    short = bounded & (half <= 1) & (centre * half <= 1)
    # every branch sees numbers that are harmless to it, or the gradient of the others is NaN
    m, h = torch.where(short, centre, 0.0), torch.where(short, half, 1.0)
    narrow = (h * _short_sum(m, h)).log() - 0.5 * m * m - HALF_LOG_2PI

    in_tail = (a >= 0) & ~short
    quotient = torch.where(in_tail, log_q_b - log_q_a, -2.0).clamp(max=-2.0)
    tail = log_q_a + torch.log1p(-quotient.exp())
    across = torch.log1p(-torch.where(in_tail | short, -1.0, outside).exp())
    return torch.where(short, narrow, torch.where(in_tail, tail, across)), outside


def _short_sum(m: Tensor, h: Tensor) -> Tensor:
    """``int_{-1}^{1} exp(-m h x - (h x)^2 / 2) dx`` by Gauss-Legendre: a sum of positive terms."""
    total = torch.zeros_like(m)
    for x, weight in _SHORT_RULE:
        t = h * x
        total = total + weight * (torch.cosh(m * t) * torch.exp(-0.5 * t * t))
    return total


# -- with the gradient in closed form -------------------------------------------------------


def interval_log_likelihood(
    low: Tensor, high: Tensor, width: Tensor, logits: Tensor, loc: Tensor, scale: Tensor
) -> Tensor:
    r"""Log probability of an interval under a Gaussian mixture; log density where its width is 0.

    .. math:: \log \sum_k \pi_k \left[ \Phi(b_k) - \Phi(a_k) \right],
        \quad a_k = (\text{low} - \mu_k) / \sigma_k, \; b_k = (\text{high} - \mu_k) / \sigma_k

    Computed in float64 and returned in the dtype of loc, never above 0; gradients reach logits, loc
    and scale only.
    """
    args = low.detach(), high.detach(), width.detach(), logits, loc, scale
    return _plain_likelihood(*args) if is_traced() else _Likelihood.apply(*args)


def _plain_likelihood(
    low: Tensor, high: Tensor, width: Tensor, logits: Tensor, loc: Tensor, scale: Tensor
) -> Tensor:
    """The definition, for every kind of derivative."""
    dtype = loc.dtype
    low, high, width, logits, loc, scale = (
        a.double() for a in (low, high, width, logits, loc, scale)
    )
    params = torch.log_softmax(logits, -1), loc, scale
    exact = width == 0
    density = torch.logsumexp(component_log_prob(torch.where(exact, low, 0.0), *params), -1)
    ends = torch.where(exact, -math.inf, low), torch.where(exact, math.inf, high)
    mass = interval_log_mass(*ends, params, width=torch.where(exact, math.inf, width))
    return torch.where(exact, density, mass.clamp(max=0.0)).to(dtype)


class _Likelihood(Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, width: Tensor, *params: Tensor) -> Tensor:
        inputs = low, high, width, *params
        logits, loc, scale = (p.double().contiguous() for p in params)
        low, high, width = (end.double().unsqueeze(-1) for end in (low, high, width))
        a = ((low - loc) / scale).clamp_(-_END, _END)
        b = ((high - loc) / scale).clamp_(-_END, _END)
        value, by_loc, by_scale = _components(a, b, 0.5 * width / scale)
        exact = width == 0
        value = value - torch.where(exact, scale.log(), 0.0)
        log_w = torch.log_softmax(logits, -1)
        terms = log_w + value
        total = torch.logsumexp(terms, -1, keepdim=True)
        share = (terms - total).exp_()
        if any(ctx.needs_input_grad):
            slopes = (share - log_w.exp(), share * by_loc / scale, share * by_scale / scale)
            narrow = (s.to(p.dtype) for s, p in zip(slopes, params, strict=True))
            ctx.save_for_backward(*inputs, *narrow)
        # the weights add up to 1 but for rounding
        return torch.where(exact, total, total.clamp(max=0.0)).squeeze(-1).to(params[1].dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, slopes = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        if torch.is_grad_enabled():  # double backward
            return gradient_by_autograd(_plain_likelihood, inputs, ctx.needs_input_grad, grad)
        grad = grad.unsqueeze(-1)
        return (None, None, None, *(grad * slope for slope in slopes))


class _Slopes(NamedTuple):
    """The log-likelihood of one component and its derivatives, times the scale."""

    value: Tensor  # log mass, or log density times the scale
    loc: Tensor
    scale: Tensor


def _components(a: Tensor, b: Tensor, half: Tensor) -> _Slopes:
    """Each entry by the formula it needs, from the ends a <= b and half the width, in scales."""
    centre = 0.5 * (a + b)
    flipped = centre < 0
    short = (half <= 1) & (centre.abs() * half <= 1)
    near = torch.where(flipped, -b, a)  # of the mirrored interval, whose centre is above 0
    far = torch.where(flipped, -a, b)
    rules: tuple[tuple[Callable[[Tensor, Tensor], _Slopes], Tensor, Tensor, Tensor], ...] = (
        (_short, short & (half > 0), centre, half),
        (_in_tail, ~short & (near >= 0), near, far),
        (_across, ~short & (near < 0), near, far),
    )
    out = _at_point(centre)  # entries that no rule takes are exact values
    for rule, chosen, first, second in rules:
        index = chosen.reshape(-1).nonzero().squeeze(-1)
        if not len(index):
            continue
        everywhere = len(index) == centre.numel()
        ends = (e.expand_as(centre).reshape(-1) for e in (first, second))
        found = rule(*(e if everywhere else e[index] for e in ends))
        if rule is not _short:
            mirrored = flipped.reshape(-1) if everywhere else flipped.reshape(-1)[index]
            found = found._replace(loc=torch.where(mirrored, -found.loc, found.loc))
        if everywhere:
            return _Slopes(*(part.reshape(centre.shape) for part in found))
        for whole, part in zip(out, found, strict=True):
            whole.view(-1)[index] = part
    return out


def _at_point(z: Tensor) -> _Slopes:
    square = z * z
    return _Slopes(-0.5 * square - HALF_LOG_2PI, z.clone(), square - 1)


def _short(m: Tensor, h: Tensor) -> _Slopes:
    r"""``phi(m) int_{-h}^{h} exp(-m t - t^2 / 2) dt``, a sum of positive terms.

    With S the integral over h, ``phi(a) - phi(b) = phi(m) exp(-h^2 / 2) 2 sinh(m h)`` and
    ``a phi(a) - b phi(b) = phi(m) exp(-h^2 / 2) (2 m sinh(m h) - 2 h cosh(m h))``: neither cancels
    when divided by ``phi(m) h S``.
    """
    total = _short_sum(m, h)
    mh = m * h
    factor = 2 * torch.exp(-0.5 * h * h) / total
    slope = torch.sinh(mh) / h
    value = (h * total).log() - 0.5 * m * m - HALF_LOG_2PI
    return _Slopes(value, factor * slope, factor * (m * slope - torch.cosh(mh)))


def _in_tail(a: Tensor, b: Tensor) -> _Slopes:
    """``Q(a) (1 - q)``, q = Q(b) / Q(a) at most exp(-2); phi / Q from erfcx at any distance."""
    scaled_a, scaled_b = (torch.special.erfcx(z * SQRT_HALF) for z in (a, b))
    log_a, log_b = (e.log() - 0.5 * z * z - LOG_2 for e, z in ((scaled_a, a), (scaled_b, b)))
    q = (log_b - log_a).exp()
    at_a = _SQRT_2_OVER_PI / (scaled_a * (1 - q))
    at_b = _SQRT_2_OVER_PI * q / (scaled_b * (1 - q))
    return _Slopes(log_a + torch.log1p(-q), at_a - at_b, a * at_a - b * at_b)


def _across(a: Tensor, b: Tensor) -> _Slopes:
    """``1 - Phi(a) - Q(b)`` with a < 0 < b, which is more than a third."""
    outside = 0.5 * (torch.erfc(-a * SQRT_HALF) + torch.erfc(b * SQRT_HALF))
    norm = 0.5 * _SQRT_2_OVER_PI / (1 - outside)
    at_a, at_b = (norm * torch.exp(-0.5 * z * z) for z in (a, b))
    return _Slopes(torch.log1p(-outside), at_a - at_b, a * at_a - b * at_b)

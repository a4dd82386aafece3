"""Tails made of incomplete gamma and beta functions: SciPy's values, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from ..functional._numerics import HALF_LOG_2PI, is_recorded
from ._large_shapes import LARGE, beta_log_kernel, gamma_log_density, stirling_rest

__all__ = [
    "BETA",
    "GAMMA",
    "LOGIT",
    "STUDENT",
    "law_tails",
    "safe_log",
    "student_log_slope",
    "where_large",
]

_CLOSE = 1e-4  # to the ends of the unit interval


def safe_log(p: Tensor) -> Tensor:
    """Log of a probability, with gradient 0 where it is 0."""
    return torch.where(p > 0, p.clamp(min=5e-324).log(), -math.inf)


class _Law(NamedTuple):
    """Both tails as functions of x and shapes (arrays), and the log of the slope in x (tensors)."""

    tails: Callable[..., tuple[np.ndarray, np.ndarray]]
    log_slope: Callable[..., Tensor]


def _gamma_law(x: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return scipy.special.gammainc(a, x), scipy.special.gammaincc(a, x)


def _gamma_log_slope(x: Tensor, a: Tensor) -> Tensor:
    direct = torch.special.xlogy(a - 1, x) - x - torch.lgamma(a)
    return where_large((a > LARGE) & (x > 0), gamma_log_density, (x, a), direct)


def where_large(
    large: Tensor, stable: Callable[..., Tensor], args: Sequence[Tensor], direct: Tensor
) -> Tensor:
    """``stable(*args)`` where large, else ``direct``."""
    if not is_recorded() and not bool(large.any()):
        return direct
    value = stable(*(torch.where(large, a, 1.0) for a in args))
    return torch.where(large, value, direct)


def beta_log_kernel_of_logit(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """:func:`beta_log_kernel` at p = sigmoid(x)."""
    return beta_log_kernel(torch.sigmoid(x), torch.sigmoid(-x), a, b)


def _betainc(
    x: np.ndarray, one_minus_x: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """I_x(a, b) and its complement, of which only that on x's side of the mean is computed."""
    swap = x * b > one_minus_x * a
    first, second = np.where(swap, b, a), np.where(swap, a, b)
    at, rest = np.where(swap, one_minus_x, x), np.where(swap, x, one_minus_x)
    part = scipy.special.betainc(first, second, at)
    close = rest < _CLOSE  # so close to 1 has x fewer digits than its complement
    if close.any():
        part = np.where(close, scipy.special.betaincc(second, first, rest), part)
    return np.where(swap, 1.0 - part, part), np.where(swap, part, 1.0 - part)


def _beta_law(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _betainc(x, 1.0 - x, a, b)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _beta_log_slope(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    direct = (a - 1) * x.log() + (b - 1) * torch.log1p(-x) - _log_beta(a, b)
    large = (a + b > LARGE) & (x > 0) & (x < 1)
    return where_large(large, _beta_log_density, (x, a, b), direct)


def _beta_log_density(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    x = torch.where(x < 1, x, 0.5)  # where it is not asked for
    return beta_log_kernel(x, 1.0 - x, a, b) - x.log() - torch.log1p(-x)


def _logit_law(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In the logit of the argument, so that both ends keep their digits."""
    return _betainc(scipy.special.expit(x), scipy.special.expit(-x), a, b)


def _logit_log_slope(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    direct = -a * softplus(-x) - b * softplus(x) - _log_beta(a, b)
    return where_large(a + b > LARGE, beta_log_kernel_of_logit, (x, a, b), direct)


def _student_law(x: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    far = x * x / (df + x * x)  # exact near 0, its complement far out
    inner, outer = _betainc(far, df / (df + x * x), np.full_like(df, 0.5), 0.5 * df)
    tail, body = 0.5 * outer, 0.5 + 0.5 * inner
    return np.where(x < 0, tail, body), np.where(x < 0, body, tail)


def student_log_slope(x: Tensor, df: Tensor) -> Tensor:
    half = 0.5 * df
    # lgamma(half + 1/2) - lgamma(half) - log(half) / 2, whose large terms cancel
    ratio = half * torch.log1p(0.5 / half) - 0.5 + stirling_rest(half + 0.5) - stirling_rest(half)
    return ratio - HALF_LOG_2PI - (half + 0.5) * torch.log1p(x * x / df)


GAMMA = _Law(_gamma_law, _gamma_log_slope)
BETA = _Law(_beta_law, _beta_log_slope)
LOGIT = _Law(_logit_law, _logit_log_slope)
STUDENT = _Law(_student_law, student_log_slope)
_STEP = 2e-3  # of the differences, in units on which a tail varies with the shape
_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


class _LawTails(Function):
    """Both tails; first derivatives only."""

    @staticmethod
    def forward(law: _Law, x: Tensor, *shapes: Tensor) -> tuple[Tensor, ...]:
        arrays = [a.detach().cpu().numpy() for a in (x, *shapes)]
        return tuple(torch.as_tensor(np.asarray(t), device=x.device) for t in law.tails(*arrays))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.law = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
        x, *shapes = ctx.saved_tensors
        of_x, *of_shapes = ctx.needs_input_grad[1:]
        found: list[Tensor | None] = [None] * (2 + len(shapes))
        if of_x:
            found[1] = (lower - upper) * ctx.law.log_slope(x, *shapes).exp()
        for i, (below, above) in _shape_slopes(ctx.law, x, *shapes, needed=of_shapes).items():
            found[2 + i] = lower * below + upper * above
        return tuple(found)

    @staticmethod
    def jvp(ctx: Any, _: None, d_x: Tensor | None, *d_shapes: Tensor | None) -> tuple[Tensor, ...]:
        x, *shapes = ctx.saved_tensors
        lower = torch.zeros_like(x)
        if d_x is not None:
            lower = ctx.law.log_slope(x, *shapes).exp() * d_x
        upper = -lower
        moves = {i: d for i, d in enumerate(d_shapes) if d is not None}
        needed = [i in moves for i in range(len(shapes))]
        for i, (below, above) in _shape_slopes(ctx.law, x, *shapes, needed=needed).items():
            lower, upper = lower + below * moves[i], upper + above * moves[i]
        return lower, upper


def _shape_slopes(
    law: _Law, x: Tensor, *shapes: Tensor, needed: Sequence[bool]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Derivatives of both tails by the shapes that need them, by central differences."""
    arrays = [a.detach().cpu().numpy() for a in (x, *shapes)]
    found = {}
    for i in (i for i, need in enumerate(needed) if need):
        shape = arrays[i + 1]
        step = _STEP * np.minimum(shape, np.sqrt(shape))
        slopes = [np.zeros_like(step), np.zeros_like(step)]
        for times, factor in _STENCIL:
            moved = [*arrays[: i + 1], shape + times * step, *arrays[i + 2 :]]
            for slope, tail in zip(slopes, law.tails(*moved), strict=True):
                slope += factor * tail / step
        below, above = (torch.as_tensor(s, device=x.device) for s in slopes)
        found[i] = below, above
    return found


def law_tails(law: _Law, x: Tensor, *shapes: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of both tails."""
    lower, upper = _LawTails.apply(law, *torch.broadcast_tensors(x, *shapes))
    return safe_log(lower), safe_log(upper)

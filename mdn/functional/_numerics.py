"""Constants, logarithms of probabilities, and what torch is doing with a call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

__all__ = [
    "HALF_LOG_2PI",
    "LOG_2",
    "SQRT_HALF",
    "Z_MAX",
    "TransformableFunction",
    "is_recorded",
    "is_traced",
    "is_transformed",
    "log1m_exp",
    "log_diff_exp",
    "log_from_smaller_tail",
    "log_ndtr",
    "log_sum_exp",
    "move_to_front",
    "result_dtype",
    "work_dtype",
]

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
LOG_2 = math.log(2.0)
SQRT_HALF = math.sqrt(0.5)
# |z| is held below this so that z * z stays finite.
Z_MAX = {torch.float32: 1e18, torch.float64: 1e150}
_HALVES = (torch.float16, torch.bfloat16)
_Z_TOP = 38.0  # the upper tail of a normal is below the smallest float64 from here on


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype the maths runs in: float32 at least."""
    return torch.float32 if dtype in _HALVES else dtype


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The common floating dtype of the tensors."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation acts on the operations of this call.

    A custom ``Function`` then needs rules for both; tensors may not be changed in place.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_recorded() -> bool:
    """Whether ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` records this call.

    No custom ``Function`` may be recorded, nor a branch that depends on the values.
    """
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_traced() -> bool:
    """Whether this call is transformed or recorded.

    A function that has a closed form beside its plain definition takes the latter then.
    """
    return is_recorded() or is_transformed()


def log_sum_exp(terms: Tensor, dim: int = -1) -> Tensor:
    """Log of the sum of exponentials; nothing but ``-inf`` gives ``-inf`` with gradient 0."""
    off = (terms == -math.inf).all(dim, keepdim=True)
    value = torch.logsumexp(terms.masked_fill(off, 0.0), dim)
    return value.masked_fill(off.squeeze(dim), -math.inf)


def log1m_exp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x <= 0, accurate both near 0 and far below (Maechler 2012)."""
    near = x > -LOG_2
    by_expm1 = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    return torch.where(near, by_expm1, torch.log1p(-torch.where(near, -1.0, x).exp()))


def log_diff_exp(larger: Tensor, smaller: Tensor) -> Tensor:
    """``log(exp(larger) - exp(smaller))``; ``-inf`` where both are ``-inf``."""
    none = larger == -math.inf
    gap = (smaller.masked_fill(none, -1.0) - larger.masked_fill(none, 0.0)).clamp(max=0.0)
    return larger + log1m_exp(gap)


def log_from_smaller_tail(log_p: Tensor, log_complement: Tensor) -> Tensor:
    """``log_p``, computed from the complement 1 - p where that is below 1/2.

    Near p = 1 the logarithm of p has no digits left, that of the complement has them all.
    """
    near_one = log_complement < -LOG_2
    safe = torch.where(near_one, log_complement, -1.0)
    return torch.where(near_one, torch.log1p(-safe.exp()), log_p)


def log_ndtr(z: Tensor) -> Tensor:
    """Log of the standard normal cdf; float64 only, with any number of derivatives."""
    if is_recorded():
        return torch.special.log_ndtr(z.clamp(max=_Z_TOP))
    return _LogNdtr.apply(z.clamp(max=_Z_TOP))


class TransformableFunction(Function):
    """Saves its inputs, with ``saves_output`` its output too, for both modes of differentiation.

    The rule for vmap moves the new axis of every argument to the front; ranks must agree before.
    """

    saves_output = False

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        saved = (*inputs, output) if cls.saves_output else inputs
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *args: Tensor) -> tuple[Tensor, int]:
        return cls.apply(*move_to_front(args, in_dims, info.batch_size)), 0


def move_to_front(args: tuple[Tensor, ...], dims: tuple[Any, ...], size: int) -> list[Tensor]:
    """The vmapped axis first; an argument that has none is expanded (a view)."""
    return [
        a.expand(size, *a.shape) if dim is None else a.movedim(dim, 0)
        for a, dim in zip(args, dims, strict=True)
    ]


class _LogNdtr(TransformableFunction):
    """Log of the normal cdf in float64.

    Torch's own has no rule for vmap, and NaN for a second derivative far above 0.
    """

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.special.log_ndtr(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _InverseMills.apply(ctx.saved_tensors[0])

    jvp = backward


class _InverseMills(TransformableFunction):
    """h = phi(z) / Phi(z) in float64, the inverse Mills ratio, with the derivative -h (z + h)."""

    saves_output = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return math.sqrt(2 / math.pi) / torch.special.erfcx(z * -SQRT_HALF)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z, h = ctx.saved_tensors
        # z + h cancels far below 0; there it is 1/|z| (1 - 2/z^2 + ...)
        inverse = torch.where(z < -1e3, z, -1e3).reciprocal()
        gap = torch.where(z < -1e3, -inverse * (1 - 2 * inverse * inverse), z + h)
        return -grad * h * gap

    jvp = backward

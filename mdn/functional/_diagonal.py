"""The log-sum-exp of a diagonal Gaussian mixture and its closed-form gradient.

Inside, rows come last: y (D, *), logits (K, *), loc and scale (K, D, *).  Reductions over a short
last axis are scalar code in torch; over the first axis they run vectorised along the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._checks import broadcast_shapes, check_weights
from ._numerics import (
    HALF_LOG_2PI,
    Z_MAX,
    TransformableFunction,
    is_recorded,
    is_transformed,
    move_to_front,
    result_dtype,
    work_dtype,
)

__all__ = [
    "component_log_prob",
    "diagonal_log_prob",
    "gradient_by_autograd",
    "log_responsibilities",
    "log_weights",
    "rows_log_prob",
    "rows_slopes",
    "standardize",
    "sum_to_like",
]

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
_EVENTS = (1, 1, 2, 2)  # axes before the batch: D, K, (K, D), (K, D)
# 1/scale is held below this so that z / scale stays finite wherever the weight is not zero.
_INVERSE_MAX = {torch.float32: 3e34, torch.float64: 1e304}
# A row whose best component lies below -(64 + 8 D) nats is computed by _exact_rows: rounding in
# z^2 / 2 enters the responsibilities as a factor exp(error).
_EXACT_BELOW, _EXACT_BELOW_PER_DIM = -64.0, -8.0


def diagonal_log_prob(
    y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, *, log: bool
) -> Tensor:
    """Log density of checked tensors of one batch rank; ``scale`` in logs where ``log`` is true."""
    if is_recorded():  # one traced graph beats a custom Function
        dtype = result_dtype(y, logits, loc, scale)
        rows = _rows_last(work_dtype(dtype), y, logits, loc, scale)
        t = _terms(*rows, log)[0]
        log_norm = torch.logsumexp(rows[1], 0) + y.shape[-1] * HALF_LOG_2PI
        return (torch.logsumexp(t, 0) - log_norm).to(dtype)
    if is_transformed():
        return _TransformedLogProb.apply(y, logits, loc, scale, log)[0]
    if not torch.is_grad_enabled():
        return _forward(y, logits, loc, scale, log)[0]
    return _LogProb.apply(y, logits, loc, scale, log)


def log_responsibilities(
    y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, *, log: bool = False
) -> Tensor:
    """Log posterior of the components given y, (*, K); ``scale`` in logs where ``log`` is true."""
    dtype = result_dtype(y, logits, loc, scale)
    rows = _rows_last(work_dtype(dtype), y, logits, loc, scale)
    exact = _exact_terms(*_whole(rows), log)[1].to(rows[0].dtype)
    off = exact == -math.inf
    plain = torch.log_softmax(_terms(*rows, log)[0], 0).masked_fill(off, 0.0)
    log_r = _with_value(plain, exact.masked_fill(off, 0.0)).masked_fill(off, -math.inf)
    return log_r.movedim(0, -1).to(dtype)


def component_log_prob(y: Tensor, log_w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log of weight times density of each component at y (*), (*, K): one dimension, no event axis.

    The log density of the mixture is its log-sum-exp; an infinite y has a very small density.
    """
    z = standardize(y.unsqueeze(-1), loc, scale)
    return log_w - scale.log() - 0.5 * z * z - HALF_LOG_2PI


def standardize(y: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """(y - loc) / scale in float64, its square finite; an infinite y has no gradient."""
    z_max = Z_MAX[torch.float64]
    end = y.isinf()
    z = ((torch.where(end, 0.0, y) - loc) / scale).clamp(-z_max, z_max)
    return torch.where(end, torch.sign(y) * z_max, z)


class _LogWeights(TransformableFunction):
    saves_output = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        check_weights(logits)
        # dim 0 is vectorised; the last axis is too short to be
        return torch.log_softmax(logits.movedim(-1, 0).contiguous(), 0).movedim(0, -1).contiguous()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent - (ctx.saved_tensors[1].exp() * tangent).sum(-1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad - ctx.saved_tensors[1].exp() * grad.sum(-1, keepdim=True)


def log_weights(logits: Tensor) -> Tensor:
    """Normalised log weights, (*, K).

    Raises:
        ValueError: all logits of a row are ``-inf`` (not checked inside ``torch.compile``).
    """
    if is_recorded():
        return torch.log_softmax(logits, -1)
    return _LogWeights.apply(logits)


def gradient_by_autograd(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradient of a plain definition, differentiable itself: for double backward."""
    wanted = [a for a, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(plain(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


# ---------------------------------------------------------------------------------------------


def _rows_last(dtype: torch.dtype, y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Rows:
    """(*, D), (*, K), (*, K, D) x 2 -> contiguous (D, *), (K, *), (K, D, *) x 2 of one dtype."""
    if y.ndim == 2 and loc.ndim == 3 and logits.ndim == 2:  # the usual batch, with less overhead
        y, logits = y.t(), logits.t()
        loc, scale = loc.permute(1, 2, 0), scale.permute(1, 2, 0)
    else:
        order = (loc.ndim - 2, loc.ndim - 1, *range(loc.ndim - 2))
        y, logits = y.movedim(-1, 0), logits.movedim(-1, 0)
        loc, scale = loc.permute(order), scale.permute(order)
    y, logits, loc, scale = (a.to(dtype).contiguous() for a in (y, logits, loc, scale))
    return y, logits, loc, scale


def _whole(rows: Rows) -> Rows:
    """Float64 and detached, under the broadcast batch (views)."""
    batch = broadcast_shapes(*(a.shape[e:] for a, e in zip(rows, _EVENTS, strict=True)))
    y, logits, loc, scale = (
        a.detach().double().expand(*a.shape[:e], *batch) for a, e in zip(rows, _EVENTS, strict=True)
    )
    return y, logits, loc, scale


def _sum_event(a: Tensor) -> Tensor:
    """(K, D, *) -> (K, *)."""
    return a.select(1, 0) if a.shape[1] == 1 else a.sum(1)


def _terms(
    y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, log: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """t (K, *) = logits - sum log scale - sum z^2 / 2, z (K, D, *), 1/scale; rows last."""
    z_max = Z_MAX[loc.dtype]  # a component that far out has weight 0, unless all do: _exact_rows
    log_scale = scale if log else scale.log()
    inv = (torch.exp(-scale) if log else scale.reciprocal()).clamp(max=_INVERSE_MAX[loc.dtype])
    z = ((y - loc) * inv).clamp(-z_max, z_max)  # subtract first, then divide, then square
    t = torch.sub(logits - _sum_event(log_scale), _sum_event(z * z), alpha=0.5)
    return t, z, inv


def _forward(
    y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, log: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`rows_log_prob`, of tensors whose rows come first."""
    dtype = result_dtype(y, logits, loc, scale)
    rows = _rows_last(work_dtype(dtype), y, logits, loc, scale)
    out, r, z, inv, weights = rows_log_prob(rows, log)
    return out.to(dtype), r, z, inv, weights


def rows_log_prob(rows: Rows, log: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log density (*); responsibilities (K, *), z and 1/scale (K, D, *), weights (K, *)."""
    y, logits, loc, scale = rows
    shifted = logits - logits.amax(0)
    weights = shifted.exp()
    total = weights.sum(0)
    weights /= total
    # _terms, in place
    log_scale = scale if log else scale.log()
    inv = (torch.exp(-scale) if log else scale.reciprocal()).clamp_(max=_INVERSE_MAX[loc.dtype])
    z = ((y - loc) * inv).clamp_(-Z_MAX[loc.dtype], Z_MAX[loc.dtype])
    t = torch.sub(shifted - _sum_event(log_scale), _sum_event(z * z), alpha=0.5)
    best = t.amax(0)
    r = t.sub_(best).exp_()
    r_total = r.sum(0)
    r /= r_total
    out = (best + r_total.log()) - total.log() - y.shape[0] * HALF_LOG_2PI
    far = ~(best > _EXACT_BELOW + _EXACT_BELOW_PER_DIM * y.shape[0])  # a NaN counts as far
    if bool(far.any()):
        check_weights(logits.movedim(0, -1))
        whole = (*z.shape[:2], *far.shape)
        z, inv = (a if a.shape == whole else a.expand(whole).clone() for a in (z, inv))
        _exact_rows(far, rows, log, out, r, z, inv)
    return out, r, z, inv, weights


def rows_slopes(
    r: Tensor, z: Tensor, inv: Tensor, weights: Tensor, log: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of :func:`rows_log_prob` to logits (K, *), loc and scale (K, D, *)."""
    rz = r.unsqueeze(1) * z  # r first: 0 * (z * z) could be 0 * inf
    on_scale = (rz * z).sub_(r.unsqueeze(1))
    return r - weights, rz.mul_(inv), on_scale if log else on_scale.mul_(inv)


class _LogProb(Function):
    """Log density with gradient r - pi, r z / scale, r (z^2 - 1) (Bishop 1994, eq. 35-39).

    The gradient of a row is made together with its value, so that backward only has to scale it.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, log: bool
    ) -> Tensor:
        out, r, z, inv, weights = _forward(y, logits, loc, scale, log)
        slopes = rows_slopes(r, z, inv, weights, log)
        on_y = -slopes[1].sum(0) if ctx.needs_input_grad[0] else None
        needed = zip((on_y, *slopes), ctx.needs_input_grad, strict=False)
        parts = [slope if need else None for slope, need in needed]
        ctx.log = log
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, logits, loc, scale, *parts)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        inputs, parts = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        if torch.is_grad_enabled():  # double backward

            def plain(*inputs: Tensor) -> Tensor:
                return _TransformedLogProb.apply(*inputs, ctx.log)[0]

            return *gradient_by_autograd(plain, inputs, ctx.needs_input_grad[:4], grad), None
        grads: list[Tensor | None] = [None] * 5
        for i, part in enumerate(parts):
            if part is not None:
                g = part * grad.to(part.dtype)
                front = (0, 1) if i > 1 else (0,)  # axes before the rows: back to behind them
                grads[i] = sum_to_like(g.permute(*range(len(front), g.ndim), *front), inputs[i])
        return tuple(grads)


class _TransformedLogProb(Function):
    """The same for torch.func and forward mode, in a form that costs more per call.

    Also returns responsibilities r, z, 1/scale and weights, without gradient.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return _forward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.log = inputs[4]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.save_for_forward(*inputs[:4], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        inputs = ctx.saved_tensors[:4]
        r, z, inv, weights = _differentiable(ctx.saved_tensors, ctx.log)
        grad = grad.to(r.dtype)
        rg = r * grad
        rz = rg.unsqueeze(1) * z
        g_loc = rz * inv
        g_scale = rz * z - rg.unsqueeze(1)
        back = (*range(2, g_loc.ndim), 0, 1)  # (K, D, *) -> (*, K, D)
        return (
            sum_to_like(-g_loc.sum(0).movedim(0, -1), inputs[0]),
            sum_to_like((rg - weights * grad).movedim(0, -1), inputs[1]),
            sum_to_like(g_loc.permute(back), inputs[2]),
            sum_to_like((g_scale if ctx.log else g_scale * inv).permute(back), inputs[3]),
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[:4]
        r, z, inv, weights = _differentiable(ctx.saved_tensors, ctx.log)
        filled = [
            torch.zeros_like(a) if t is None else t
            for a, t in zip(inputs, tangents[:4], strict=True)
        ]
        d_y, d_logits, d_loc, d_scale = _rows_last(r.dtype, *filled)
        d_scale = d_scale if ctx.log else d_scale * inv
        d_t = d_logits - _sum_event(z * ((d_y - d_loc) * inv) - (z * z - 1) * d_scale)
        out = (r * d_t).sum(0) - (weights * d_logits).sum(0)
        return out.to(result_dtype(*inputs)), None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        front = move_to_front(args[:4], in_dims[:4], info.batch_size)
        return _TransformedLogProb.apply(*front, args[4]), (0, 1, 2, 2, 1)


def _differentiable(saved: tuple[Tensor, ...], log: bool) -> Rows:
    """r, z, 1/scale and weights as functions of the inputs, for derivatives of derivatives."""
    y, logits, loc, scale, r, z, inv, weights = saved
    rows = _rows_last(r.dtype, y, logits, loc, scale)
    t, z_d, inv_d = _terms(*rows, log)
    return (
        _with_value(torch.softmax(t, 0), r),
        _with_value(z_d, z),
        _with_value(inv_d, inv),
        _with_value(torch.softmax(rows[1], 0), weights),
    )


def _with_value(differentiable: Tensor, exact: Tensor) -> Tensor:
    """The exact value with the derivative of the differentiable recipe."""
    return exact + (differentiable - differentiable.detach())


def sum_to_like(grad: Tensor, arg: Tensor) -> Tensor:
    """Sums over broadcast axes; a narrower dtype gets its largest number instead of inf."""
    if grad.shape != arg.shape:
        grad = grad.sum_to_size(arg.shape)
    if grad.dtype == arg.dtype:
        return grad
    limit = torch.finfo(arg.dtype).max
    return grad.clamp(-limit, limit).to(arg.dtype)


def _exact_rows(
    far: Tensor,
    rows: Rows,
    log: bool,
    out: Tensor,
    r: Tensor,
    z: Tensor,
    inv: Tensor,
) -> None:
    """Recomputes the far rows in float64, in place."""
    if far.ndim == 0:  # no batch: views of one row
        far, out, r, z, inv = (a.unsqueeze(-1) for a in (far, out, r, z, inv))
        rows = tuple(a.unsqueeze(-1) for a in rows)  # type: ignore[assignment]
    index: tuple[Any, ...] = far.nonzero(as_tuple=True)
    batch = far.shape
    y, logits, loc, scale = (
        a.expand(*a.shape[: a.ndim - len(batch)], *batch)[(..., *index)].double() for a in rows
    )
    value, log_r, z64, inv64 = _exact_terms(y, logits, loc, scale, log)
    big = torch.finfo(out.dtype).max
    # backward multiplies z * z and z / scale: keep both in the dtype, their product as it is
    z_out = z64.clamp(-((0.7 * big) ** 0.5), (0.7 * big) ** 0.5)
    inv_out = torch.minimum(inv64 * (z64 / z_out).nan_to_num(nan=1.0), 0.5 * big / z_out.abs())
    out[index] = value.to(out.dtype)
    r[(slice(None), *index)] = log_r.exp().to(r.dtype)
    z[(slice(None), slice(None), *index)] = z_out.to(z.dtype)
    inv[(slice(None), slice(None), *index)] = inv_out.clamp(max=0.5 * big).to(inv.dtype)


def _exact_terms(
    y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor, log: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Log density, log responsibilities, z and 1/scale in float64; rows last.

    With the nearest component m, ``log r_k - log r_m`` is written with factored differences
    ``-(z_k - z_m)(z_k + z_m) / 2``, so that what is common to the components (1e40 nats, say) never
    has to cancel.
    """
    log_scale = scale if log else scale.log()
    inv64 = (torch.exp(-scale) if log else scale.reciprocal()).clamp(max=1e304)
    d, d_low = _two_difference(y, loc)  # (K, D, n)
    z64 = (d * inv64).clamp(-1e150, 1e150)
    t = logits - logits.amax(0) - log_scale.sum(1) - 0.5 * (z64 * z64).sum(1)
    m = t.argmax(0)  # (n)

    def of_m(a: Tensor) -> Tensor:
        return a.gather(0, m.expand(1, *a.shape[1:]))

    if log:
        step = of_m(inv64) * torch.expm1(of_m(log_scale) - log_scale)  # 1/scale_k - 1/scale_m
    else:
        step = ((of_m(scale) - scale) * inv64) * of_m(inv64)
    step = torch.nan_to_num(step, nan=0.0)
    z_m, d_m = of_m(z64), of_m(d)
    minus = _nearer(z64 - z_m, z64.abs() + z_m.abs(), (of_m(loc) - loc) * inv64, d_m * step)
    total_d = (d + d_m) + (d_low + of_m(d_low))
    plus = _nearer(z64 + z_m, z64.abs() + z_m.abs(), total_d * inv64, -d_m * step)
    u = logits - of_m(logits) - (log_scale - of_m(log_scale)).sum(1) - 0.5 * (minus * plus).sum(1)
    u = torch.where(logits == -math.inf, -math.inf, u)
    r_log = u - torch.logsumexp(u, 0)
    value = (
        (of_m(logits) - torch.logsumexp(logits, 0))
        - of_m(log_scale).sum(1)
        - 0.5 * (z_m * z_m).sum(1)
        + torch.logsumexp(u, 0)
        - y.shape[0] * HALF_LOG_2PI
    )[0]
    beyond = ((d * inv64).abs().gather(0, m.expand(1, *d.shape[1:])) > 1e150).any(1)[0]
    value = torch.where(beyond, -math.inf, value)  # z^2 / 2 > 5e299
    return value, r_log, z64, inv64


def _two_difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a - b as a rounded difference and its rounding error (Knuth)."""
    d = a - b
    v = d - a
    return d, ((a - (d - v)) - (b + v)).nan_to_num(nan=0.0)


def _nearer(direct: Tensor, direct_size: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Of two expressions of one number, the one whose parts are smaller, so rounding is too."""
    return torch.where(first.abs() + second.abs() < direct_size, first + second, direct)

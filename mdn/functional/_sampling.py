"""Draws from Gaussian mixtures, and their gradients by implicit reparametrisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.linalg import solve_triangular

from ._diagonal import log_weights

__all__ = ["fixed_generator", "implicit_sample", "mixture_sample"]

_CHUNK = 1 << 17  # numbers drawn at a time, so that they stay in cache
# Of generators that nobody gave.  Not a seed that y may have been drawn with: the draws of a model
# would then be those of y over again.
_SEED = 7_169_134_902_317
_COUNTED = 40  # components up to which comparing with every edge beats searching


def fixed_generator(like: Tensor, *, offset: int = 0) -> torch.Generator:
    """Always the same generator, on the device of a tensor; another one for each offset."""
    return torch.Generator(like.device).manual_seed(_SEED + offset)


def mixture_sample(
    draws: int, log_w: Tensor, loc: Tensor, factor: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draws (draws, n, D): a component by its weight, then only that component.

    ``factor`` are scales (n, K, D, 1) or lower triangular factors (n, K, D, D).
    """
    # a draw has no derivative of its own, in forward mode either
    log_w, loc, factor = (a.detach() for a in (log_w, loc, factor))
    n, k, d = loc.shape
    diagonal = factor.shape[-1] == 1
    out = loc.new_empty(draws, n, d)
    edges = log_w.double().exp().cumsum(-1)
    last = k - 1 - (log_w.flip(-1) > -math.inf).int().argmax(-1)
    # no component after the last one of positive weight may be chosen, whatever the rounding
    edges[torch.arange(k, device=loc.device) >= last.unsqueeze(-1)] = math.inf
    size = factor.shape[-1] * d
    step = max(1, min(n, _CHUNK // (8 * size)))
    block = max(1, _CHUNK // (size * step))
    for i in range(0, n, step):
        rows = slice(i, i + step)
        edge = edges[rows]
        columns = edge[:, :-1].t().contiguous()  # (K - 1, rows)
        base = k * torch.arange(len(edge), device=loc.device)
        here, spread = loc[rows].reshape(-1, d), factor[rows].reshape(-1, d, factor.shape[-1])
        for j in range(0, draws, block):
            u = edges.new_empty(min(block, draws - j), len(edge)).uniform_(generator=generator)
            if k <= _COUNTED:
                count = torch.zeros(u.shape, dtype=torch.uint8, device=u.device)
                for column in columns:  # comparing along the rows is faster than searching
                    count += u >= column
                which = (count + base).flatten()
            else:
                found = torch.searchsorted(edge, u.t().contiguous(), right=True)
                which = (found.t() + base).flatten()
            noise = loc.new_empty(len(which), d).normal_(generator=generator)
            chosen = spread[which]
            moved = chosen[..., 0] * noise if diagonal else (chosen @ noise[..., None])[..., 0]
            moved += here[which]
            out[j : j + block, rows] = moved.reshape(*u.shape, d)
    return out


def implicit_sample(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Draws y, S + (*, D), made differentiable in logits (*, K), loc (*, K, D) and the factor."""
    return _Implicit.apply(y, logits, loc, scale_tril)


class _Implicit(Function):
    """y as a function of the parameters, with the conditional cdfs u at y held fixed.

    From ``u(y, parameters) = const``: ``dy = -J^-1 (du/d parameters) d parameters``, J = du/dy.
    The derivative of the draw itself is ignored.
    """

    @staticmethod
    def forward(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, jacobian, params = _linearized(*ctx.saved_tensors)
        on_u = solve_triangular(jacobian.mT, grad.double().unsqueeze(-1), upper=True)
        found = torch.autograd.grad(u, params, -on_u.squeeze(-1))
        saved = ctx.saved_tensors[1:]
        return None, *(g.to(a.dtype) for g, a in zip(found, saved, strict=True))

    @staticmethod
    @torch.enable_grad()
    def jvp(ctx: Any, _: Tensor | None, *tangents: Tensor | None) -> Tensor:
        u, jacobian, params = _linearized(*ctx.saved_tensors)
        # the tangent of u is the derivative by w of the gradient of w'u
        w = torch.zeros_like(u, requires_grad=True)
        grads = torch.autograd.grad(u, params, w, create_graph=True)
        moved = [(g, t.double()) for g, t in zip(grads, tangents, strict=True) if t is not None]
        d_u = torch.autograd.grad([g for g, _ in moved], w, [t for _, t in moved])[0]
        out = solve_triangular(jacobian, -d_u.unsqueeze(-1), upper=False)
        return out.squeeze(-1).to(ctx.saved_tensors[0].dtype)


@torch.enable_grad()
def _linearized(*inputs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """u at y (S, *, D), du_i / dy_j (lower triangular), and the parameters that u depends on."""
    y, *params = (a.detach().double().requires_grad_() for a in inputs)
    u = _conditional_cdfs(y, *params)
    rows = [
        torch.autograd.grad(u[..., d].sum(), y, retain_graph=True)[0] for d in range(u.shape[-1])
    ]
    return u, torch.stack(rows, -2), params


def _conditional_cdfs(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """u_d = P(Y_d <= y_d | y_1, ..., y_{d-1}), S + (*, D): a mixture of normal cdfs in each d."""
    # the inverse factor is small and shared by the draws
    eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device).expand_as(scale_tril)
    whiten = solve_triangular(scale_tril, eye, upper=False)
    z = torch.einsum("...kij,...kj->...ki", whiten, y.unsqueeze(-2) - loc)  # (S, *, K, D)
    log_r = log_weights(logits)  # of the components given the dimensions before d
    out = []
    for d in range(z.shape[-1]):
        r = torch.softmax(log_r, -1)
        out.append((r * torch.special.ndtr(z[..., d])).sum(-1))
        log_r = log_r - 0.5 * z[..., d].square() + whiten[..., d, d].log()
    return torch.stack(out, -1)

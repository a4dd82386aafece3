"""Draws from Gaussian mixtures, and their gradients by implicit reparametrisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ._diagonal import log_weights

__all__ = ["implicit_sample", "mixture_sample"]

_CHUNK = 1 << 17  # numbers drawn at a time, so that they stay in cache
_COUNTED = 40  # components up to which comparing with every edge beats searching


def mixture_sample(
    draws: int, log_w: Tensor, loc: Tensor, factor: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draws (draws, n, D): a component by its weight, then only that component.

    Args:
        draws: number of draws of each mixture.
        log_w: (n, K); loc: (n, K, D).
        factor: scales (n, K, D, 1) or lower triangular factors (n, K, D, D).
        generator: source of randomness.
    """
    n, k, d = loc.shape
    diagonal = factor.shape[-1] == 1
    out = loc.new_empty(draws, n, d)
    edges = log_w.double().exp().cumsum(-1)
    last = k - 1 - (log_w.flip(-1) > -math.inf).int().argmax(-1)
    # beyond the last component that is alive nothing may be chosen, whatever the rounding
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
    """y as a function of the parameters, its place u under the cdfs held fixed."""

    @staticmethod
    def forward(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, *params = (a.detach().double().requires_grad_() for a in ctx.saved_tensors)
        with torch.enable_grad():
            u = _places(y, *params)  # (S, *, D)
            rows = [
                torch.autograd.grad(u[..., d].sum(), y, retain_graph=True)[0]
                for d in range(u.shape[-1])
            ]
            jacobian = torch.stack(rows, -2)  # du_i / dy_j, lower triangular
            pull = torch.linalg.solve_triangular(
                jacobian.mT, grad.double().unsqueeze(-1), upper=True
            ).squeeze(-1)
            found = torch.autograd.grad(u, params, -pull)
        saved = ctx.saved_tensors[1:]
        return None, *(g.to(a.dtype) for g, a in zip(found, saved, strict=True))


def _places(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """u_d = P(Y_d <= y_d | y_1, ..., y_{d-1}), S + (*, D): a mixture of normal cdfs in each d."""
    # the inverse factor is small and shared by the draws
    eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device).expand_as(scale_tril)
    whiten = torch.linalg.solve_triangular(scale_tril, eye, upper=False)
    z = torch.einsum("...kij,...kj->...ki", whiten, y.unsqueeze(-2) - loc)  # (S, *, K, D)
    log_r = log_weights(logits)  # of the components given the dimensions before d
    out = []
    for d in range(z.shape[-1]):
        r = torch.softmax(log_r, -1)
        out.append((r * torch.special.ndtr(z[..., d])).sum(-1))
        log_r = log_r - 0.5 * z[..., d].square() + whiten[..., d, d].log()
    return torch.stack(out, -1)

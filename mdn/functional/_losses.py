r"""Losses of a classifier beside its log-likelihood, and the weighted likelihood of a mixture.

Both classification losses are functions of one number a row, the log odds against the right class

.. math::
    r = \log \frac{1 - p_t}{p_t} = \log \sum_{c \ne t} e^{a_c} - a_t,
    \qquad \log p_t = -\log(1 + e^r),

taken from the logits without forming a probability, so that nothing is lost where p is near 0 or 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..arguments import check_number
from ._checks import check_tensor
from ._diagonal import log_responsibilities, log_weights
from ._numerics import HALF_LOG_2PI, work_dtype

__all__ = ["Reduction", "deformed_nll_loss", "nll_ratio_loss", "reduce", "variance_weighted_nll"]

Reduction = Literal["mean", "sum", "none"]


def nll_ratio_loss(logits: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Negative log-likelihood ratio between the right class and all others (Zhu et al. 2018).

    .. math::
        \ell = -\log \frac{p_t}{\sum_{c \ne t} p_c} = \log \sum_{c \ne t} e^{a_c} - a_t

    It is negative as soon as p of the right class exceeds 1/2 and has no lower bound: no density is
    involved, a ratio of probabilities may exceed 1.  Its derivative with respect to the right logit
    is -1 however sure the model is, where that of the cross-entropy is p - 1.  The cross-entropy is
    its softplus.

    Args:
        logits: log probabilities up to a constant, (*, C); the classes are the last axis.
        target: index of the right class, integers from 0 to C - 1, (*).
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (*) for ``"none"``; nats.

    Raises:
        ValueError: fewer than two classes, shapes that do not fit, an index out of range, or an
            unknown reduction.
        TypeError: logits that are not floating point or a target that is not integer.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 0])
        >>> nll_ratio_loss(logits, target, reduction="none")
        tensor([-1.3069,  0.6931])

    References:
        D. Zhu, H. Yao, B. Jiang, P. Yu, Negative log likelihood ratio loss for deep neural network
        classification, arXiv 1804.10690 (2018).
    """
    return reduce(_log_odds_against(logits, target), reduction).to(logits.dtype)


def deformed_nll_loss(
    logits: Tensor, target: Tensor, q: float, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Negative log-likelihood with Tsallis' q-logarithm in place of the logarithm.

    .. math::
        \ell_q = -\ln_q p_t = \frac{1 - p_t^{1-q}}{1 - q}, \qquad \ell_1 = -\log p_t

    The gradient is that of the NLL times :math:`p_t^{1-q}`: for q < 1 a row that the model holds
    for impossible, perhaps since its label is wrong, has little influence, and the loss is at most
    1 / (1 - q).  q = 0 is the probability of a wrong class, 1 - p.  Where the true conditional
    probabilities are :math:`\pi_c`, the expected loss is least at :math:`p_c \propto \pi_c^{1/q}`,
    so it is :math:`p^q`, normalised, that estimates probabilities (Kanamori 2010 deforms the
    likelihood so that such a correspondence remains).

    Args:
        logits: log probabilities up to a constant, (*, C); the classes are the last axis.
        target: index of the right class, integers from 0 to C - 1, (*).
        q: 0 or greater; 1 is the cross-entropy, and above 1 wrong rows have more influence.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (*) for ``"none"``, never negative; nats for q = 1.

    Raises:
        ValueError: q below 0 or not finite, and as in :func:`nll_ratio_loss`.
        TypeError: logits that are not floating point or a target that is not integer.

    Example:
        >>> logits, target = torch.tensor([[0.0, 9.0]]), torch.tensor([0])
        >>> for q in (1.0, 0.5, 0.0):
        ...     print(f"{float(deformed_nll_loss(logits, target, q)):.4f}")
        9.0001
        1.9778
        0.9999

    References:
        T. Kanamori, Deformation of log-likelihood loss function for multiclass boosting, Neural
        Networks 23 (2010).

        Z. Zhang, M. R. Sabuncu, Generalized cross entropy loss for training deep neural networks
        with noisy labels, NeurIPS (2018), eq. 6 (their q is 1 - q here).
    """
    check_number("q", q, at_least=0)
    log_p = F.logsigmoid(-_log_odds_against(logits, target))
    loss = -log_p if q == 1 else -torch.expm1((1.0 - q) * log_p) / (1.0 - q)
    return reduce(loss, reduction).to(logits.dtype)


def variance_weighted_nll(
    y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, beta: float
) -> Tensor:
    """The rows of :func:`mdn.functional.beta_nll`, (*), from clean tensors of one batch rank."""
    log_pi = log_weights(logits)  # (*, K)
    log_r = log_responsibilities(y, logits, loc, log_scale, log=True).detach()
    r = log_r.exp()
    off = r == 0  # 0 * inf of a component that is switched off or out of reach
    z = (y.unsqueeze(-2) - loc) * torch.exp(-log_scale)  # (*, K, D)
    z = z.masked_fill(off.unsqueeze(-1), 0.0)
    weight = r.unsqueeze(-1) * torch.exp(2.0 * beta * log_scale.detach())  # (*, K, D)
    fit = (weight * (0.5 * z.square() + log_scale + HALF_LOG_2PI)).sum((-2, -1))
    choice = (r * (log_r - log_pi).masked_fill(off, 0.0)).sum(-1)  # KL(r || pi)
    return fit + weight.sum(-2).mean(-1) * choice


def reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    """The mean or the sum over all rows, or the rows."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none'; got {reduction!r}")
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


# ---------------------------------------------------------------------------------------------


def _log_odds_against(logits: Tensor, target: Tensor) -> Tensor:
    """Checks both; log((1 - p) / p) of the right class, (*), halves in float32."""
    for name, value in (("logits", logits), ("target", target)):
        check_tensor(name, value)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point; got dtype {logits.dtype}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must hold integer class indices; got dtype {target.dtype}")
    if logits.ndim < 1 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits must have shape (*, C) with at least 2 classes; got {tuple(logits.shape)}"
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"target must have shape {tuple(logits.shape[:-1])} to match logits "
            f"{tuple(logits.shape)}; got {tuple(target.shape)}"
        )
    index = target.long().unsqueeze(-1)  # (*, 1)
    a = logits.to(work_dtype(logits.dtype))
    try:
        right = a.gather(-1, index).squeeze(-1)
    except (IndexError, RuntimeError) as error:  # the values cannot be read first inside vmap
        raise ValueError(
            f"target must hold class indices from 0 to {a.shape[-1] - 1}: {error}"
        ) from None
    own = index == torch.arange(a.shape[-1], device=a.device)  # (*, C)
    # not -inf: where all competing classes are masked out, logsumexp would have no gradient
    return a.masked_fill(own, torch.finfo(a.dtype).min).logsumexp(-1) - right

"""The cdf of Gaussian mixtures in one dimension, in logs.

The event axis is gone: y (*), and logits, loc, scale (*, K).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._diagonal import log_weights
from ._numerics import log_from_smaller_tail, log_ndtr, result_dtype

__all__ = ["mixture_log_cdf"]


def mixture_log_cdf(y: Tensor, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log cdf, (*).  Runs in float64, as torch's float32 tail functions carry only 5 digits."""
    dtype = result_dtype(y, logits, loc, scale)
    y64, loc64, scale64 = y.double(), loc.double(), scale.double()
    weights = log_weights(logits.double())
    z = ((y64.unsqueeze(-1) - loc64) / scale64).clamp(-1e150, 1e150)
    lower = torch.logsumexp(weights + log_ndtr(z), -1)
    upper = torch.logsumexp(weights + log_ndtr(-z), -1)
    out = torch.where(y64 == -math.inf, -math.inf, log_from_smaller_tail(lower, upper))
    return out.to(dtype)

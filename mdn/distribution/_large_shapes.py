r"""Log densities of the gamma and beta kinds whose shapes are so large that log-gammas cancel.

With Stirling's formula the large terms cancel on paper: what is left is a distance from the mean,
:math:`x \log(x / m) + m - x`, and corrections of order 1 / shape (C. Loader, Fast and accurate
computation of binomial probabilities, 2000).  Float64 only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional._numerics import HALF_LOG_2PI

__all__ = ["LARGE", "beta_log_kernel", "gamma_log_density", "stirling_rest"]

LARGE = 1e3  # a shape from which on these forms are used; below, log-gammas lose three digits
_FAR = 10.0  # from here on Stirling's series is exact to rounding
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_NEAR = 0.1  # |x - m| / (x + m), below which the series of the distance is used
_ODD = tuple(1 / k for k in range(3, 21, 2))


def stirling_rest(x: Tensor) -> Tensor:
    """``lgamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2)`` for x > 0."""
    far = x > _FAR
    inverse = torch.where(far, x, _FAR).reciprocal()
    small = torch.where(far, 1.0, x)
    direct = torch.lgamma(small) - (small - 0.5) * small.log() + small - HALF_LOG_2PI
    return torch.where(far, inverse * _polynomial(_STIRLING, inverse.square()), direct)


def _distance(x: Tensor, m: Tensor) -> Tensor:
    """``x log(x / m) + m - x``, for positive numbers."""
    v = (x - m) / (x + m)
    near = v.abs() < _NEAR
    w = torch.where(near, v, 0.0)
    series = (x - m) * w + 2.0 * x * w.pow(3) * _polynomial(_ODD, w.square())
    return torch.where(near, series, x * (x / m).log() + m - x)


def gamma_log_density(x: Tensor, a: Tensor) -> Tensor:
    """``(a - 1) log x - x - lgamma(a)``, for positive numbers."""
    return 0.5 * a.log() - _distance(a, x) - x.log() - HALF_LOG_2PI - stirling_rest(a)


def beta_log_kernel(p: Tensor, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a log p + b log q - log B(a, b)``, for positive numbers, p + q = 1."""
    n = a + b
    apart = _distance(a, n * p) + _distance(b, n * q)
    rest = stirling_rest(n) - stirling_rest(a) - stirling_rest(b)
    return 0.5 * (a.log() + (b / n).log()) - HALF_LOG_2PI - apart + rest


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value

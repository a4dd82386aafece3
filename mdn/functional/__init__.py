r"""Gaussian mixtures on plain tensors: likelihood, cdf, quantile and CRPS.

Everything else in the package calls these functions; the log-sum-exp of a mixture is written here
and nowhere else.  With weights :math:`\pi_k = \mathrm{softmax}(\text{logits})_k` and diagonal
components,

.. math::
    \log p(y) = \log \sum_k \pi_k \prod_d \frac{1}{\sigma_{kd}}\,
        \varphi\!\left(\frac{y_d-\mu_{kd}}{\sigma_{kd}}\right).

Shapes, for any (broadcastable) batch ``*``, K components and D target dimensions: ``y`` is
``(*, D)``, ``logits`` ``(*, K)``, ``loc`` and ``log_scale`` ``(*, K, D)``.  The event axis D is
there also when it is 1.  Dtype in, dtype out; half precision is computed in float32.

The functions survive double backward, ``torch.func`` (vmap, grad, jacrev) and ``torch.compile``.
A row that needs care (all components far away) is recomputed in float64 without slowing the
others; inside ``torch.compile``, where values cannot be inspected, it is not.

:func:`nll_ratio_loss` and :func:`deformed_nll_loss` are losses of classifiers, for logits
``(*, C)`` and class indices ``(*)``.

References:
    C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994), eq. 22-27, 35-39.

    E. P. Grimit, T. Gneiting, V. J. Berrocal, N. A. Johnson, The continuous ranked probability
    score for circular variables and its application to mesoscale forecast ensemble verification,
    Q. J. R. Meteorol. Soc. 132 (2006), eq. 5 (CRPS of a normal mixture).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import check_number
from ._checks import broadcast_batches, check_event, check_tensor
from ._crps import mixture_crps
from ._diagonal import diagonal_log_prob
from ._full import precision_log_prob
from ._interval import mixture_log_cdf
from ._losses import Reduction, deformed_nll_loss, nll_ratio_loss, reduce, variance_weighted_nll
from ._numerics import result_dtype, work_dtype
from ._quantile import mixture_icdf

__all__ = [
    "beta_nll",
    "deformed_nll_loss",
    "full_gaussian_mixture_log_prob",
    "gaussian_mixture_crps",
    "gaussian_mixture_icdf",
    "gaussian_mixture_log_cdf",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_nll",
    "nll_ratio_loss",
]


def gaussian_mixture_log_prob(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of diagonal Gaussian mixtures, in nats.

    The gradient is the closed form through the responsibilities r (Bishop 1994, eq. 35-39):
    ``r - pi`` for the logits, ``r z / scale`` for the means, ``r (z^2 - 1)`` for the log scales.

    Args:
        y: targets, (*, D).
        logits: log weights up to a constant, (*, K); ``-inf`` switches a component off.
        loc: means, (*, K, D), in the unit of y.
        log_scale: log standard deviations, (*, K, D).

    Returns:
        (*), one log density a row.  It is positive wherever the density exceeds 1.

    Raises:
        ValueError: the shapes do not fit, or all logits of a row are ``-inf``.
        TypeError: an argument is not a tensor of real numbers.

    Example:
        >>> y, logits = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)
        >>> loc, log_scale = torch.zeros(2, 1, 1), torch.full((2, 1, 1), -3.0)
        >>> gaussian_mixture_log_prob(y, logits, loc, log_scale)
        tensor([   2.0811, -199.6333])
    """
    return diagonal_log_prob(*_checked("y", y, logits, loc, log_scale), log=True)


def gaussian_mixture_nll(
    y: Tensor,
    logits: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood: minus :func:`gaussian_mixture_log_prob`, reduced over the rows.

    Args:
        y, logits, loc, log_scale: as in :func:`gaussian_mixture_log_prob`.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (*) for ``"none"``; nats in the unit of y.  Negative values are no error: a
        density may exceed 1.

    Raises:
        ValueError: an unknown reduction, and as in :func:`gaussian_mixture_log_prob`.

    Example:
        >>> one = torch.ones(1, 1)
        >>> gaussian_mixture_nll(one, one, one[None], -3 * one[None])
        tensor(-2.0811)
    """
    return reduce(-gaussian_mixture_log_prob(y, logits, loc, log_scale), reduction)


def beta_nll(
    y: Tensor,
    logits: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    *,
    beta: float = 0.5,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood weighted by the variance, without gradient through the weight.

    The NLL divides the gradient of a mean by the variance, so rows that the model holds for noisy
    stop being fitted.  Seitzer et al. multiply it by :math:`\sigma^{2\beta}`: 0 is the NLL, 1 gives
    the means the gradient of least squares.  With :math:`\lfloor\cdot\rfloor` for values that pass
    no gradient, for one Gaussian

    .. math::
        \ell = \sum_d \left\lfloor \sigma_d^{2\beta} \right\rfloor
            \left(-\log \varphi(y_d; \mu_d, \sigma_d)\right),

    and for a mixture the same in each term of the NLL written with the responsibilities r (with
    :math:`\beta = 0` the sum is the NLL, and its gradient that of the NLL):

    .. math::
        \ell = \sum_{kd} \left\lfloor r_k \sigma_{kd}^{2\beta} \right\rfloor
            \left(-\log \varphi(y_d; \mu_{kd}, \sigma_{kd})\right)
            + \left\lfloor \overline{\sigma^{2\beta}} \right\rfloor
            \sum_k \lfloor r_k \rfloor \log \frac{\lfloor r_k \rfloor}{\pi_k},

    where the bar is the mean over d, weighted by r over k.  Second derivatives take weights and
    responsibilities for constants, as the first do.

    Args:
        y, logits, loc, log_scale: as in :func:`gaussian_mixture_log_prob`; one Gaussian is K = 1.
        beta: share of the variance that is taken back, 0 to 1; Seitzer et al. advise 0.5.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (*) for ``"none"``.  Its unit is that of y to the power 2 beta: a loss to train
        with, no score to compare models by.

    Raises:
        ValueError: beta outside [0, 1], and as in :func:`gaussian_mixture_nll`.
        TypeError: an argument is not a tensor of real numbers.

    Example:
        >>> y, logits, loc = torch.tensor([[1.0]]), torch.zeros(1, 1), torch.zeros(1, 1, 1)
        >>> log_scale = torch.full((1, 1, 1), 2.0).log()
        >>> for beta in (0.0, 0.5, 1.0):
        ...     print(f"{float(beta_nll(y, logits, loc, log_scale, beta=beta)):.4f}")
        1.7371
        3.4742
        6.9483

    References:
        M. Seitzer, A. Tavakoli, D. Antic, G. Martius, On the pitfalls of heteroscedastic
        uncertainty estimation with probabilistic neural networks, ICLR (2022), eq. 4 (there the
        constant log(2 pi) / 2 is not weighted; the gradient is the same).
    """
    if check_number("beta", beta, at_least=0) > 1:
        raise ValueError(f"beta must lie between 0 and 1; got {beta!r}")
    y, logits, loc, log_scale = _checked("y", y, logits, loc, log_scale)
    dtype = result_dtype(y, logits, loc, log_scale)
    work = work_dtype(dtype)
    rows = variance_weighted_nll(
        y.to(work), logits.to(work), loc.to(work), log_scale.to(work), beta
    )
    return reduce(rows, reduction).to(dtype)


def full_gaussian_mixture_log_prob(
    y: Tensor, logits: Tensor, loc: Tensor, precision_tril: Tensor
) -> Tensor:
    r"""Log density of Gaussian mixtures with full covariance, in nats.

    With the lower triangular factor P of each precision :math:`\Lambda = P P^\top`,

    .. math::
        \log p(y) = \log \sum_k \pi_k \prod_d P_{k,dd}\,
            \varphi\!\left(\left[P_k^\top (y - \mu_k)\right]_d\right),

    so one factor gives both the distance and the determinant, and no triangular system is solved.

    Args:
        y: targets, (*, D).
        logits: log weights up to a constant, (*, K).
        loc: means, (*, K, D).
        precision_tril: lower triangular with a positive diagonal, (*, K, D, D), in 1 / unit of y;
            what stands above the diagonal is not read.

    Returns:
        (*), one log density a row.

    Raises:
        ValueError: the shapes do not fit, or all logits of a row are ``-inf``.
        TypeError: an argument is not a tensor of real numbers.

    Example:
        >>> eye = torch.eye(2)[None]
        >>> full_gaussian_mixture_log_prob(torch.zeros(2), torch.zeros(1), torch.zeros(1, 2), eye)
        tensor(-1.8379)
    """
    check_tensor("precision_tril", precision_tril)
    dims = precision_tril.shape[-1] if precision_tril.ndim > 2 else 0
    if precision_tril.ndim < 3 or precision_tril.shape[-2] != dims:
        raise ValueError(
            f"precision_tril must have shape (*, K, D, D); got {tuple(precision_tril.shape)}"
        )
    diagonal = precision_tril.diagonal(dim1=-2, dim2=-1)
    y, logits, loc, _ = _checked("y", y, logits, loc, diagonal, last="precision_tril")
    factor = precision_tril[(None,) * (loc.ndim - 2 - (precision_tril.ndim - 3))]
    return precision_log_prob(y, logits, loc, factor)


def gaussian_mixture_log_cdf(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the cumulative distribution function, D = 1.

    Accurate in both tails: the lower one from the log of the normal cdf of each component, the
    upper one as ``log1p(-exp(log_sf))``.  The log survival function is
    ``gaussian_mixture_log_cdf(-y, logits, -loc, log_scale)``.

    Args:
        y, logits, loc, log_scale: as in :func:`gaussian_mixture_log_prob`, with D = 1.

    Returns:
        (*), log P(Y <= y).

    Raises:
        ValueError: the shapes do not fit, D > 1, or all logits of a row are ``-inf``.

    Example:
        >>> standard = torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1)
        >>> gaussian_mixture_log_cdf(torch.tensor([[-10.0], [0.0]]), *standard)
        tensor([-53.2313,  -0.6931])
    """
    return _one_dimension(
        "gaussian_mixture_log_cdf", mixture_log_cdf, "y", y, logits, loc, log_scale
    )


def gaussian_mixture_icdf(p: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""Quantiles, D = 1: the y with P(Y <= y) = p.

    A safeguarded Newton iteration on log F, in float64, from a bracket that is exact and free: the
    quantile lies between the smallest and the largest quantile of the components.  Gradients come
    by implicit differentiation: ``dy/dp = 1 / p(y)``, ``dy/dloc_k = r_k`` and
    ``dy/dscale_k = r_k z_k`` with the responsibilities r at y.

    Args:
        p: levels in [0, 1], (*), broadcast against the batch of the mixtures.  NaN gives NaN.
        logits, loc, log_scale: as in :func:`gaussian_mixture_log_prob`, with D = 1.

    Returns:
        (*, 1), in the unit of y; ``-inf`` for 0 and ``inf`` for 1.

    Raises:
        ValueError: a level outside [0, 1], shapes that do not fit, D > 1, or all logits ``-inf``.

    Example:
        >>> standard = torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1)
        >>> gaussian_mixture_icdf(torch.tensor([0.5, 0.975]), *standard)
        tensor([[0.0000],
                [1.9600]])
    """
    y = p.unsqueeze(-1) if isinstance(p, Tensor) else p
    out = _one_dimension("gaussian_mixture_icdf", mixture_icdf, "p", y, logits, loc, log_scale)
    return out.unsqueeze(-1)


def gaussian_mixture_crps(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""Continuous ranked probability score, D = 1, in closed form (Grimit et al. 2006, eq. 5).

    .. math::
        \mathrm{CRPS} = \sum_k \pi_k A(y-\mu_k, \sigma_k)
            - \tfrac12 \sum_{ij} \pi_i \pi_j
              A\!\left(\mu_i-\mu_j, \sqrt{\sigma_i^2+\sigma_j^2}\right)

    with :math:`A(m, s) = E|m + s Z| = 2 s \varphi(m/s) + m\,(2\Phi(m/s) - 1)`.

    Args:
        y, logits, loc, log_scale: as in :func:`gaussian_mixture_log_prob`, with D = 1.

    Returns:
        (*), in the unit of y, lower is better, never negative beyond rounding.

    Raises:
        ValueError: the shapes do not fit, D > 1, or all logits of a row are ``-inf``.

    Example:
        >>> standard = torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1)
        >>> gaussian_mixture_crps(torch.zeros(1, 1), *standard)
        tensor([0.2337])
    """
    return _one_dimension("gaussian_mixture_crps", mixture_crps, "y", y, logits, loc, log_scale)


def _checked(
    name: str, y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor, last: str = "log_scale"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checks types and shapes; gives all one batch rank, and integers a floating dtype."""
    named = ((name, y), ("logits", logits), ("loc", loc), (last, log_scale))
    for arg, value in named:
        check_tensor(arg, value)
        if value.is_complex():
            raise TypeError(f"{arg} must be real; got dtype {value.dtype}")
    if loc.ndim < 2:
        raise ValueError(f"loc must have shape (*, K, D); got {tuple(loc.shape)}")
    n_components, dims = loc.shape[-2:]
    if logits.ndim < 1 or logits.shape[-1] != n_components:
        raise ValueError(
            f"logits must have shape (*, {n_components}) to match loc {tuple(loc.shape)}; "
            f"got {tuple(logits.shape)}"
        )
    if log_scale.shape[-2:] != loc.shape[-2:]:
        shape = dims if last == "log_scale" else f"{dims}, {dims}"
        raise ValueError(
            f"{last} must have shape (*, {n_components}, {shape}) to match loc "
            f"{tuple(loc.shape)}; got {tuple(log_scale.shape)}"
        )
    check_event(y, dims, name)
    events = (1, 1, 2, 2)
    batches = (v.shape[: v.ndim - e] for (_, v), e in zip(named, events, strict=True))
    rank = len(broadcast_batches(batches, {arg: v.shape for arg, v in named}))
    floats = [v for _, v in named if v.is_floating_point()] or [torch.empty(0)]  # default dtype
    dtype = result_dtype(*floats)
    out = []
    for (_, value), event in zip(named, events, strict=True):
        missing = rank - (value.ndim - event)
        value = value if value.is_floating_point() else value.to(dtype)
        out.append(value[(None,) * missing] if missing else value)
    return tuple(out)  # type: ignore[return-value]


def _one_dimension(
    what: str,
    function: Callable[..., Tensor],
    name: str,
    y: Tensor,
    logits: Tensor,
    loc: Tensor,
    log_scale: Tensor,
) -> Tensor:
    """A function of scales without event axis, for log scales with one."""
    if isinstance(loc, Tensor) and loc.ndim >= 2 and loc.shape[-1] != 1:
        raise ValueError(f"{what} needs one target dimension; got loc {tuple(loc.shape)}")
    y, logits, loc, log_scale = _checked(name, y, logits, loc, log_scale)
    dtype = result_dtype(y, logits, loc, log_scale)
    scale = log_scale[..., 0].to(work_dtype(dtype)).exp()  # a half's exp would carry 2 digits
    return function(y[..., 0], logits, loc[..., 0], scale).to(dtype)

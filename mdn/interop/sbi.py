"""sbi: :class:`mdn.MDN` as the density estimator of neural posterior estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distribution import GaussianMixture
from ..nn import MDN, MIN_SCALE

try:
    from sbi.neural_nets.estimators.base import ConditionalDensityEstimator
except ImportError as error:
    raise ImportError(
        'mdn.interop.sbi needs sbi; install it with: pip install "mdn[sbi]"'
    ) from error

__all__ = ["MixtureEstimator", "build"]


def build(
    n_components: int = 10,
    hidden: Sequence[int] = (64, 64),
    *,
    covariance_type: str = "full",
    min_scale: float = MIN_SCALE,
) -> Callable[[Tensor, Tensor], MixtureEstimator]:
    """What ``sbi.inference.NPE(prior, density_estimator=...)`` takes: a builder of the estimator.

    sbi calls it with its training rows, theta (N, D) and x (N, ...), to which the standardisation
    is fitted; an x of several axes is flattened.

    Args:
        n_components: K, Gaussians in the mixture.
        hidden: widths of the hidden layers.
        covariance_type: as in :class:`mdn.MDNHead`.
        min_scale: floor of the scales in standard deviations of theta, as in :class:`mdn.MDNHead`.

    Returns:
        A function ``(theta, x) -> MixtureEstimator``, which pickles.

    Example:
        ``NPE(prior, density_estimator=build())`` trains it; the builder alone fits the units:

        >>> import torch
        >>> from mdn.interop.sbi import build
        >>> theta = torch.randn(50, 2)
        >>> estimator = build(n_components=5)(theta, theta + torch.randn(50, 2))
        >>> estimator.mixture(torch.zeros(3, 2))
        GaussianMixture(batch_shape=(3,), event_shape=(2,), n_components=5)
    """
    return partial(
        _build,
        n_components=n_components,
        hidden=tuple(hidden),
        covariance_type=covariance_type,
        min_scale=min_scale,
    )


def _build(theta: Tensor, x: Tensor, **options: Any) -> MixtureEstimator:
    shapes = theta.shape[1:], x.shape[1:]
    net = MDN(shapes[1].numel(), shapes[0].numel(), **options)
    return MixtureEstimator(net.standardize_(x.flatten(1), theta.flatten(1)), *shapes)


class MixtureEstimator(ConditionalDensityEstimator):
    """p(theta | x) by an :class:`mdn.MDN`, in the units of theta.

    Args:
        net: maps x, flattened to (*, F), to a mixture over theta, flattened to (*, D).
        input_shape: of one theta.
        condition_shape: of one x.
    """

    def mixture(self, condition: Tensor) -> GaussianMixture:
        """The distribution of theta for each x: batch (*), event (D,)."""
        self._check_condition_shape(condition)
        return self.net(_flat(condition, self.condition_shape))

    def log_prob(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """Log density, (S, B), in nats.

        Args:
            input: theta, (S, B, ...) or (B, ...), which is S = 1.
            condition: x, (B, ...) or (S, B, ...); the network sees each of them once.
            kwargs: of sbi's interface; there are none for this estimator.
        """
        self._check_input_shape(input)
        theta = _flat(input, self.input_shape)
        return self.mixture(condition).log_prob(theta.unsqueeze(0) if theta.ndim == 2 else theta)

    def loss(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """Negative log density, (B,); input (B, ...), condition (B, ...)."""
        return -self.log_prob(input, condition)[0]

    def sample(self, sample_shape: Sequence[int], condition: Tensor, **kwargs: Any) -> Tensor:
        """Draws, sample_shape + (B, ...), from torch's global generator, as sbi's own.

        Args:
            sample_shape: shape of the draws per x.
            condition: x, (B, ...).
            kwargs: of sbi's interface; there are none for this estimator.
        """
        draws = self.mixture(condition).sample(sample_shape)
        return draws.reshape(*draws.shape[:-1], *self.input_shape)


def _flat(a: Tensor, event_shape: torch.Size) -> Tensor:
    """The event axes as one."""
    return a.reshape(*a.shape[: a.ndim - len(event_shape)], event_shape.numel())

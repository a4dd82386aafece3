"""Many networks side by side, computed as one by batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..distribution import GaussianMixture
from ._heads import MIN_SCALE, Layout, _check_features, _check_rows, _check_sizes

__all__ = ["MDNEnsemble"]

_FREQUENCY = 0.3  # standard deviation of the first frequencies, in waves per unit of x


class MDNEnsemble(nn.Module):
    r"""M mixture density networks in standardised units: ``forward(x) -> GaussianMixture``.

    Every parameter has a leading axis of M, so that a step of all members is a few batched matrix
    products.  The chosen columns are also embedded, each by waves of its own:

    .. math::
        e_f(x_f) = \mathrm{relu}(W_f [\cos 2 \pi c_f x_f, \sin 2 \pi c_f x_f, x_f] + b_f)

    which lets a small network follow a function that bends often.

    Args:
        n_members: M.
        in_features: F, features of x.
        out_features: D, dimensions of y.
        n_components: K.
        hidden: widths of the hidden layers (SiLU between them).
        embedded: columns of x that are embedded.
        embedding: numbers a column is embedded in; with 0 none is.
        waves: frequencies of an embedded column.
        dropout: share of the hidden units dropped in training.
        covariance_type: as in :class:`MDNHead`.
        min_scale: floor of the scales, as in :class:`MDNHead`.
        generator: of the first weights; None for torch's own.

    Raises:
        ValueError: a size below 1 or what :class:`MDNHead` refuses.

    Example:
        >>> MDNEnsemble(4, 3, hidden=(16,))(torch.zeros(64, 3))
        GaussianMixture(batch_shape=(4, 64), event_shape=(1,), n_components=5)

    References:
        Y. Gorishniy, I. Rubachev, A. Babenko, On Embeddings for Numerical Features in Tabular Deep
        Learning (2022), section 3.3.
    """

    def __init__(
        self,
        n_members: int,
        in_features: int,
        out_features: int = 1,
        n_components: int = 5,
        hidden: Sequence[int] = (64, 64),
        *,
        embedded: Sequence[int] = (),
        embedding: int = 8,
        waves: int = 8,
        dropout: float = 0.0,
        covariance_type: str = "diagonal",
        min_scale: float = MIN_SCALE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(n_members=n_members, in_features=in_features, waves=waves)
        self.layout = Layout(
            out_features, n_components, covariance_type=covariance_type, min_scale=min_scale
        )
        self.n_members, self.in_features = n_members, in_features
        self.hidden, self.dropout = tuple(hidden), float(dropout)
        self.covariance_type = covariance_type
        self.embedded = list(embedded) if embedding else []
        self.embedding = embedding if self.embedded else 0
        self.waves = waves

        def uniform(*shape: int, fan: int) -> nn.Parameter:
            a = torch.rand(n_members, *shape, generator=generator)
            return nn.Parameter((2 * a - 1) / math.sqrt(fan))

        width = in_features + len(self.embedded) * self.embedding
        if self.embedded:
            count, inputs = len(self.embedded), 2 * waves + 1
            frequencies = torch.randn(n_members, 1, count, waves, generator=generator)
            self.frequencies = nn.Parameter(_FREQUENCY * frequencies)
            self.wave_weight = uniform(count, inputs, self.embedding, fan=inputs)
            self.wave_bias = nn.Parameter(torch.zeros(n_members, count, 1, self.embedding))
        weights, biases = [], []
        for units in self.hidden:
            weights.append(uniform(width, units, fan=width))
            biases.append(uniform(1, units, fan=width))
            width = units
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.head_weight = uniform(self.layout.n_outputs, width, fan=100 * width)
        self.head_bias = nn.Parameter(torch.zeros(n_members, self.layout.n_outputs, 1))

    @torch.no_grad()
    def initialize_from(self, y: Tensor) -> MDNEnsemble:
        """Spreads the components of each member over the targets, (N, D); returns self."""
        _check_rows("y", y, self.layout.out_features)
        self.head_bias.copy_(self.layout.bias_from(y).unsqueeze(-1))
        return self

    def forward(self, x: Tensor) -> GaussianMixture:
        """The mixtures of all members, batch (M, B).

        Args:
            x: (B, F), the same rows for all, or (M, B, F), rows for each.
        """
        _check_features(x, self.in_features, "x")
        members = len(self.head_bias)  # fewer than at first while some have stopped training
        x = x.expand(members, *x.shape[-2:])
        h = x
        if self.embedded:
            chosen = x[:, :, self.embedded]
            angle = 2 * math.pi * chosen.unsqueeze(-1) * self.frequencies
            waves = torch.cat([angle.cos(), angle.sin(), chosen.unsqueeze(-1)], -1)
            waves = torch.relu(waves.transpose(1, 2) @ self.wave_weight + self.wave_bias)
            h = torch.cat([x, waves.transpose(1, 2).flatten(2)], -1)  # (M, B, width)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = nn.functional.silu(torch.baddbmm(bias, h, weight))
            if self.dropout and self.training:
                h = nn.functional.dropout(h, self.dropout)
        out = torch.baddbmm(self.head_bias, self.head_weight, h.transpose(1, 2))  # (M, P, B)
        batch = torch.Size((members, x.shape[1]))
        params = self.layout.parameters(out.transpose(0, 1).flatten(1), batch)
        return cast(GaussianMixture, self.layout.distribution(params))

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments, as plain numbers and strings."""
        return {
            "n_members": self.n_members,
            "in_features": self.in_features,
            "out_features": self.layout.out_features,
            "n_components": self.layout.n_components,
            "hidden": list(self.hidden),
            "embedded": self.embedded,
            "embedding": self.embedding,
            "waves": self.waves,
            "dropout": self.dropout,
            "covariance_type": self.covariance_type,
            "min_scale": self.layout.min_scale,
        }

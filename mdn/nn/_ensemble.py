"""Many networks side by side, computed as one by batched matrix products."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

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
        unseen: (m, f): the first m members do not see the last f columns of x.
        covariance_type: as in :class:`MDNHead`.
        min_scale: floor of the scales, as in :class:`MDNHead`.
        generator: of the first weights; None for torch's own.

    Raises:
        TypeError: unseen that is not two whole numbers.
        ValueError: a size below 1, unseen beyond what there is, or what :class:`MDNHead` refuses.

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
        unseen: tuple[int, int] = (0, 0),
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
        side_by_side = self.embedded == list(range(len(self.embedded)))
        self._chosen = slice(len(self.embedded)) if side_by_side else self.embedded
        self.waves = waves
        try:
            members, columns = (operator.index(count) for count in unseen)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"unseen must be two whole numbers, of members and of columns; got {unseen!r}"
            ) from error
        self.unseen = members, columns
        if not (0 <= self.unseen[0] <= n_members and 0 <= self.unseen[1] <= in_features):
            raise ValueError(
                f"unseen must count at most {n_members} members and {in_features} columns; "
                f"got {tuple(unseen)}"
            )

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
        self.seen: nn.Parameter | None
        self.register_parameter("seen", None)
        if all(self.unseen):  # has the members as first axis like all that is trained, but is not
            seen = torch.ones(n_members, in_features, 1)
            seen[: self.unseen[0], in_features - self.unseen[1] :] = 0
            self.seen = nn.Parameter(seen, requires_grad=False)

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

        Raises:
            ValueError: x of another shape.
        """
        return self._mixture(self._flat(x))

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Log density (M, B) of y (M, B, D): ``self(x).log_prob(y)``, in fewer steps.

        Raises:
            ValueError: x or y of another shape.
        """
        out = self._flat(x)
        own_rows = y.shape == (len(out), out.shape[2], self.layout.out_features)
        plain = own_rows and not y.requires_grad and not _transformed()
        if plain and self.layout.has_log_prob(out):
            return self.layout.log_prob(out.transpose(0, 1).contiguous(), y)
        return self._mixture(out).log_prob(y)

    def _mixture(self, out: Tensor) -> GaussianMixture:
        """Of the head's outputs (M, P, B)."""
        batch = torch.Size((len(out), out.shape[2]))
        params = self.layout.parameters(out.transpose(0, 1).flatten(1), batch)
        return cast(GaussianMixture, self.layout.distribution(params))

    def _flat(self, x: Tensor) -> Tensor:
        """The head's outputs (M, P, B)."""
        _check_features(x, self.in_features, "x")
        members = len(self.head_bias)  # fewer than at first while some have stopped training
        if x.ndim not in (2, 3) or (x.ndim == 3 and len(x) not in (1, members)):
            raise ValueError(
                f"x must have shape (B, F), or (M, B, F) for {members} members; "
                f"got {tuple(x.shape)}"
            )
        x = x.expand(members, *x.shape[-2:])
        own: dict[str, Tensor] = {k: p for k, p in self.named_parameters() if k != "seen"}
        alone = all(p.requires_grad for p in own.values()) and not x.requires_grad
        plain = torch.is_grad_enabled() and not _transformed()
        if self.training and not self.dropout and alone and plain:
            return cast(Tensor, _Outputs.apply(self, list(own), x, *own.values()))
        return _outputs(self, own, x)[0]

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
            "unseen": list(self.unseen),
            "covariance_type": self.covariance_type,
            "min_scale": self.layout.min_scale,
        }


def _transformed() -> bool:
    """Whether torch.func, forward mode or torch.compile wants to see every operation."""
    functional: bool = torch._C._are_functorch_transforms_active()
    return functional or forward_ad._current_level >= 0 or torch.compiler.is_compiling()


def _outputs(
    module: MDNEnsemble, p: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor]]:
    """The head's outputs (M, P, B) of rows (M, B, F), by parameters of those names.

    Also what the gradient needs: the waves, what each layer takes, and it before its nonlinearity.
    """
    h, waves = x.transpose(1, 2), None  # rows last: features are then stacked without copies
    if module.seen is not None:
        h = h * module.seen
    if module.embedded:
        waves = _waves(module, p, h)
        embedded = torch.relu(torch.baddbmm(*_embedding(p), waves))
        h = torch.cat([h, embedded.view(len(h), -1, h.shape[2])], 1)  # (M, width, B)
    layers, before = [h], []
    for i in range(len(module.hidden)):
        weight, bias = p[f"weights.{i}"], p[f"biases.{i}"]
        before.append(torch.baddbmm(bias.transpose(1, 2), weight.transpose(1, 2), h))
        h = nn.functional.silu(before[-1])
        if module.dropout and module.training:
            h = nn.functional.dropout(h, module.dropout)
        layers.append(h)
    return torch.baddbmm(p["head_bias"], p["head_weight"], h), waves, layers, before


def _waves(module: MDNEnsemble, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Cosines, sines and the columns themselves (M F, 2 C + 1, B) of rows (M, F, B)."""
    chosen = x[:, module._chosen].unsqueeze(2)  # a slice copies nothing
    angle = chosen * (2 * math.pi * p["frequencies"].squeeze(1).unsqueeze(-1))
    return torch.cat([angle.cos(), angle.sin(), chosen], 2).flatten(0, 1)


def _embedding(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Biases (M F, E, 1) and weights (M F, E, 2 C + 1) of the embedding."""
    return (
        p["wave_bias"].flatten(0, 1).transpose(1, 2),
        p["wave_weight"].flatten(0, 1).transpose(1, 2),
    )


class _Outputs(Function):
    """:func:`_outputs` without dropout, and its gradient to the parameters in one go.

    A step of a small network costs less in arithmetic than in the bookkeeping of its operations.
    """

    @staticmethod
    def forward(
        ctx: Any, module: MDNEnsemble, names: list[str], x: Tensor, *params: Tensor
    ) -> Tensor:
        p = dict(zip(names, params, strict=True))
        ctx.module, ctx.names, ctx.x = module, names, x
        out, ctx.waves, ctx.layers, ctx.before = _outputs(module, p, x)
        ctx.save_for_backward(*params)  # also tells whether they change before backward
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        module: MDNEnsemble = ctx.module
        params = ctx.saved_tensors
        p = dict(zip(ctx.names, params, strict=True))
        if torch.is_grad_enabled():  # double backward
            out = _outputs(module, p, ctx.x)[0]
            return None, None, None, *torch.autograd.grad(out, params, g, create_graph=True)
        layers = ctx.layers
        grads = {"head_weight": g @ layers[-1].transpose(1, 2), "head_bias": g.sum(2, keepdim=True)}
        g = p["head_weight"].transpose(1, 2) @ g
        for i in reversed(range(len(module.hidden))):
            g = torch.ops.aten.silu_backward(g, ctx.before[i])
            grads[f"weights.{i}"] = layers[i] @ g.transpose(1, 2)
            grads[f"biases.{i}"] = g.sum(2).unsqueeze(1)
            if i:
                g = p[f"weights.{i}"] @ g
            elif module.embedded:  # the columns themselves are data
                g = p["weights.0"][:, module.in_features :] @ g
        if module.embedded:
            told = layers[0][:, module.in_features :]
            g = (g[:, -told.shape[1] :] * (told > 0)).view(-1, module.embedding, g.shape[2])
            waves, count = ctx.waves, module.waves
            grads["wave_weight"] = waves @ g.transpose(1, 2)  # (M F, 2 C + 1, E)
            grads["wave_bias"] = g.sum(2)
            g = _embedding(p)[1].transpose(1, 2)[:, : 2 * count] @ g  # (M F, 2 C, B)
            turned = g[:, count:] * waves[:, :count] - g[:, :count] * waves[:, count:-1]
            grads["frequencies"] = 2 * math.pi * (turned @ waves[:, -1].unsqueeze(2))
        return None, None, None, *(grads[name].view_as(a) for name, a in p.items())

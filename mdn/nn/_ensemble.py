"""An ensemble of networks in one module, computed by batched matrix products."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..arguments import check_integer
from ..distribution import GaussianMixture
from ..functional._checks import check_event
from ..functional._numerics import is_traced
from ._families import MIN_SCALE
from ._heads import Layout, check_rows

__all__ = ["MDNEnsemble"]

_FREQUENCY = 0.3  # standard deviation of the first frequencies, per unit of x


class MDNEnsemble(nn.Module):
    r"""M mixture density networks in standardised units: ``forward(x) -> GaussianMixture``.

    Every parameter has a leading axis of M, so that a step of all members is a few batched matrix
    products.  The embedded columns pass through periodic features with learned frequencies, which
    let a small network represent a function that oscillates:

    .. math::
        e_f(x_f) = \mathrm{relu}(W_f [\cos 2 \pi c_f x_f, \sin 2 \pi c_f x_f, x_f] + b_f)

    Args:
        n_members: M.
        in_features: F, features of x.
        out_features: D, dimensions of y.
        n_components: K.
        hidden: widths of the hidden layers (SiLU between them).
        embedded: columns of x that are embedded.
        embedding: width of the embedding of a column; with 0 no column is embedded.
        n_frequencies: frequencies of an embedded column.
        dropout: probability with which a hidden unit is dropped in training.
        masked: (m, f): for the first m members the last f columns of x are set to 0.
        covariance_type: as in :class:`MDNHead`.
        min_scale: floor of the scales, as in :class:`MDNHead`.
        generator: of the initial weights; None for torch's global one.

    Raises:
        TypeError: masked that is not two whole numbers.
        ValueError: a size below 1, masked beyond what there is, or what :class:`MDNHead` refuses.

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
        n_frequencies: int = 8,
        dropout: float = 0.0,
        masked: tuple[int, int] = (0, 0),
        covariance_type: str = "diagonal",
        min_scale: float = MIN_SCALE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_integer("n_members", n_members)
        check_integer("in_features", in_features)
        check_integer("n_frequencies", n_frequencies)
        self.layout = Layout(
            out_features, n_components, covariance_type=covariance_type, min_scale=min_scale
        )
        self.n_members, self.in_features = n_members, in_features
        self.out_features, self.n_components = out_features, n_components
        self.hidden, self.dropout = tuple(hidden), float(dropout)
        self.covariance_type, self.min_scale = covariance_type, float(min_scale)
        self.embedded = list(embedded) if embedding else []
        self.embedding = embedding if self.embedded else 0
        leading = self.embedded == list(range(len(self.embedded)))
        self._embedded_columns = slice(len(self.embedded)) if leading else self.embedded
        self.n_frequencies = n_frequencies
        try:
            members, columns = (operator.index(count) for count in masked)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"masked must be two whole numbers, of members and of columns; got {masked!r}"
            ) from error
        self.masked = members, columns
        if not (0 <= members <= n_members and 0 <= columns <= in_features):
            raise ValueError(
                f"masked must count at most {n_members} members and {in_features} columns; "
                f"got {tuple(masked)}"
            )

        def uniform(*shape: int, fan: int) -> nn.Parameter:
            a = torch.rand(n_members, *shape, generator=generator)
            return nn.Parameter((2 * a - 1) / math.sqrt(fan))

        width = in_features + len(self.embedded) * self.embedding
        if self.embedded:
            count, inputs = len(self.embedded), 2 * n_frequencies + 1
            frequencies = torch.randn(n_members, 1, count, n_frequencies, generator=generator)
            self.frequencies = nn.Parameter(_FREQUENCY * frequencies)
            self.embedding_weight = uniform(count, inputs, self.embedding, fan=inputs)
            self.embedding_bias = nn.Parameter(torch.zeros(n_members, count, 1, self.embedding))
        weights, biases = [], []
        for units in self.hidden:
            weights.append(uniform(width, units, fan=width))
            biases.append(uniform(1, units, fan=width))
            width = units
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.head_weight = uniform(self.layout.n_outputs, width, fan=100 * width)
        self.head_bias = nn.Parameter(torch.zeros(n_members, self.layout.n_outputs, 1))
        self.input_mask: nn.Parameter | None
        self.register_parameter("input_mask", None)
        if all(self.masked):  # a parameter, so that it has the axis of members; it is not trained
            mask = torch.ones(n_members, in_features, 1)
            mask[:members, in_features - columns :] = 0
            self.input_mask = nn.Parameter(mask, requires_grad=False)

    @torch.no_grad()
    def initialize_from(self, y: Tensor) -> MDNEnsemble:
        """Spreads the components of each member over the targets, (N, D); returns self."""
        check_rows("y", y, self.out_features)
        self.head_bias.copy_(self.layout.bias_from(y).unsqueeze(-1))
        return self

    def forward(self, x: Tensor) -> GaussianMixture:
        """Returns the mixtures of all members, batch (M, B).

        Args:
            x: (B, F), the same rows for all, or (M, B, F), rows for each.

        Raises:
            ValueError: x of another shape.
        """
        out = self._head_outputs(x).transpose(0, 1)  # (P, M, B)
        params = self.layout.parameters(out.flatten(1), out.shape[1:])
        return cast(GaussianMixture, self.layout.distribution(params))

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the log density (M, B) of y (M, B, D): ``self(x).log_prob(y)``, in fewer steps.

        Raises:
            ValueError: x or y of another shape.
        """
        return self.layout.log_prob(self._head_outputs(x).transpose(0, 1), y)

    def _head_outputs(self, x: Tensor) -> Tensor:
        """The head's outputs (M, P, B)."""
        check_event(x, self.in_features, "x")
        members = len(self.head_bias)  # fewer than n_members once some have stopped training
        if x.ndim not in (2, 3) or (x.ndim == 3 and len(x) not in (1, members)):
            raise ValueError(
                f"x must have shape (B, F), or (M, B, F) for {members} members; "
                f"got {tuple(x.shape)}"
            )
        x = x.expand(members, *x.shape[-2:])
        own: dict[str, Tensor] = {k: p for k, p in self.named_parameters() if k != "input_mask"}
        only_parameters = all(p.requires_grad for p in own.values()) and not x.requires_grad
        plain = torch.is_grad_enabled() and not is_traced()
        if self.training and not self.dropout and only_parameters and plain:
            return cast(Tensor, _Outputs.apply(self, list(own), x, *own.values()))
        return _outputs(self, own, x)[0]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the constructor's arguments, in plain numbers and strings, and the tensors."""
        names = [name for name in signature(MDNEnsemble).parameters if name != "generator"]
        return {name: getattr(self, name) for name in names}, dict(self.state_dict())

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MDNEnsemble:
        """Returns the ensemble of which :meth:`state` gave this state."""
        module = cls(**config, generator=torch.Generator())
        module.load_state_dict(tensors)
        return module.eval()


def _outputs(
    module: MDNEnsemble, p: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor]]:
    """The head's outputs (M, P, B) of rows (M, B, F), by parameters of those names.

    Also what the gradient needs: the periodic features, the input of each layer, and the values
    before each nonlinearity.
    """
    h, periodic = x.transpose(1, 2), None  # rows last: features are then stacked without copies
    if module.input_mask is not None:
        h = h * module.input_mask
    if module.embedded:
        periodic = _periodic_features(module, p, h)
        embedded = torch.relu(torch.baddbmm(*_embedding(p), periodic))
        h = torch.cat([h, embedded.view(len(h), -1, h.shape[2])], 1)  # (M, width, B)
    layers, before = [h], []
    for i in range(len(module.hidden)):
        weight, bias = p[f"weights.{i}"], p[f"biases.{i}"]
        before.append(torch.baddbmm(bias.transpose(1, 2), weight.transpose(1, 2), h))
        h = nn.functional.silu(before[-1])
        if module.dropout and module.training:
            h = nn.functional.dropout(h, module.dropout)
        layers.append(h)
    return torch.baddbmm(p["head_bias"], p["head_weight"], h), periodic, layers, before


def _periodic_features(module: MDNEnsemble, p: dict[str, Tensor], x: Tensor) -> Tensor:
    """Cosines, sines and the columns themselves (M F, 2 C + 1, B) of rows (M, F, B)."""
    chosen = x[:, module._embedded_columns].unsqueeze(2)  # a slice copies nothing
    angle = chosen * (2 * math.pi * p["frequencies"].squeeze(1).unsqueeze(-1))
    return torch.cat([angle.cos(), angle.sin(), chosen], 2).flatten(0, 1)


def _embedding(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Biases (M F, E, 1) and weights (M F, E, 2 C + 1) of the embedding."""
    return (
        p["embedding_bias"].flatten(0, 1).transpose(1, 2),
        p["embedding_weight"].flatten(0, 1).transpose(1, 2),
    )


class _Outputs(Function):
    """:func:`_outputs` without dropout, with its gradient to the parameters in closed form.

    A step of a small network spends less time on arithmetic than on the overhead of autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, module: MDNEnsemble, names: list[str], x: Tensor, *params: Tensor
    ) -> Tensor:
        p = dict(zip(names, params, strict=True))
        ctx.module, ctx.names, ctx.x = module, names, x
        out, ctx.periodic, ctx.layers, ctx.before = _outputs(module, p, x)
        ctx.save_for_backward(*params)  # autograd then checks that they stay as they are
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
            embedded = layers[0][:, module.in_features :]
            g = (g[:, -embedded.shape[1] :] * (embedded > 0)).view(-1, module.embedding, g.shape[2])
            periodic, count = ctx.periodic, module.n_frequencies
            cosine, sine, columns = periodic[:, :count], periodic[:, count:-1], periodic[:, -1]
            grads["embedding_weight"] = periodic @ g.transpose(1, 2)  # (M F, 2 C + 1, E)
            grads["embedding_bias"] = g.sum(2)
            g = _embedding(p)[1].transpose(1, 2)[:, : 2 * count] @ g  # (M F, 2 C, B)
            on_angle = g[:, count:] * cosine - g[:, :count] * sine
            grads["frequencies"] = 2 * math.pi * (on_angle @ columns.unsqueeze(2))
        return None, None, None, *(grads[name].view_as(a) for name, a in p.items())

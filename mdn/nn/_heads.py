"""Last layers whose output is a distribution."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributions import Categorical

from ..arguments import check_choice, check_integer, check_number
from ..distribution import GaussianMixture, Mixture
from ..functional._checks import check_event, check_tensor
from ..functional._diagonal import rows_log_prob, rows_slopes
from ..functional._full import unpacked
from ..functional._numerics import is_traced
from ..standardization import standardization
from ._families import FAMILIES, FIRST_SCALE, MIN_SCALE, Family, inverse_softplus

__all__ = [
    "COVARIANCE_TYPES",
    "MDNHead",
    "CategoricalHead",
    "MixtureParameters",
    "FullParameters",
    "LowRankParameters",
    "FamilyParameters",
    "Layout",
    "check_rows",
    "exact",
    "refuse_trace",
]

COVARIANCE_TYPES = ("diagonal", "isotropic", "tied", "full", "low_rank")
_UNITS = "y_shift", "y_scale"
_RANK = 2  # of the factor of a low-rank covariance, less in fewer dimensions


class MixtureParameters(NamedTuple):
    """Tensors of a Gaussian mixture, for vmap, export and data-parallel wrappers.

    The names are those of ``GaussianMixture``'s arguments: ``GaussianMixture(**p._asdict())``.

    Attributes:
        logits: (*, K), not normalised.
        loc: (*, K, D).
        scale: (*, K, D).
    """

    logits: Tensor
    loc: Tensor
    scale: Tensor


class FullParameters(NamedTuple):
    """The same for full and tied covariances; precision_tril (*, K, D, D) is lower triangular."""

    logits: Tensor
    loc: Tensor
    precision_tril: Tensor


class _Packed(NamedTuple):
    """FullParameters with the factor as U diag(precision), U unit lower triangular, by columns."""

    logits: Tensor
    loc: Tensor
    precision: Tensor  # (*, K, D)
    lower: Tensor  # (*, K, D (D - 1) / 2)


class FamilyParameters(NamedTuple):
    """The same for other families; raw (*, P, K) are their P parameters before their softplus."""

    logits: Tensor
    raw: Tensor


class LowRankParameters(NamedTuple):
    """The same for low-rank covariances; cov_factor is (*, K, D, R), cov_diag (*, K, D)."""

    logits: Tensor
    loc: Tensor
    cov_factor: Tensor
    cov_diag: Tensor


_Parameters = MixtureParameters | _Packed | LowRankParameters | FamilyParameters


class Layout:
    """The map from a flat output of P numbers a row to a mixture; arguments as of MDNHead.

    The last layer of a network, of one member or of many at once, has ``n_outputs`` outputs;
    :meth:`parameters` splits them, and :meth:`distribution` makes the mixture.
    """

    def __init__(
        self,
        out_features: int,
        n_components: int,
        *,
        covariance_type: str = "diagonal",
        family: str = "gaussian",
        min_scale: float = MIN_SCALE,
    ) -> None:
        check_integer("out_features", out_features)
        check_integer("n_components", n_components)
        check_number("min_scale", min_scale, above=0)
        check_choice("covariance_type", covariance_type, COVARIANCE_TYPES)
        check_choice("family", family, ("gaussian", *FAMILIES))
        if family != "gaussian" and (out_features > 1 or covariance_type != "diagonal"):
            raise ValueError(
                f"family={family!r} needs one target and covariance_type='diagonal'; "
                f"got {out_features} and {covariance_type!r}"
            )
        self.out_features, self.n_components = out_features, n_components
        self.family, self.min_scale = family, float(min_scale)
        self.components: Family | None = FAMILIES.get(family)  # None for Gaussian ones
        k, d = n_components, out_features
        self._kind = "diagonal" if d == 1 and covariance_type != "tied" else covariance_type
        shared = 1 if self._kind == "tied" else k
        scales = k if self._kind == "isotropic" else shared * d
        pairs = shared * d * (d - 1) // 2
        off = {"full": pairs, "tied": pairs, "low_rank": k * d * min(_RANK, d)}
        self._sizes = [k, k * d, scales, off.get(self._kind, 0)]
        if self.components is not None:
            self._sizes = [k, k * len(self.components.parameters)]
        self.n_outputs = sum(self._sizes)

    def parameters(self, out: Tensor, batch: torch.Size) -> _Parameters:
        """Returns the parameters in the flat output, (P, N), N the size of the batch."""
        k, d = self.n_components, self.out_features
        order = (*range(2, 2 + len(batch)), 0, 1)
        logits, *others = out.split(self._sizes)
        logits = logits.reshape(k, *batch).movedim(0, -1)
        if self.components is not None:
            raw = others[0].reshape(self._sizes[1] // k, k, *batch)
            return FamilyParameters(logits, raw.permute(order))
        loc, raw, off = others
        shared = 1 if self._kind == "tied" else k

        def wide(a: Tensor, columns: int) -> Tensor:  # (shared * C, N) -> (*, K, C)
            return a.reshape(shared, columns, *batch).permute(order).expand(*batch, k, columns)

        loc = loc.reshape(k, d, *batch).permute(order)
        scales = nn.functional.softplus(raw) + self.min_scale
        if self._kind == "low_rank":
            rank = min(_RANK, d)
            factor = wide(off, d * rank).reshape(*batch, k, d, rank)
            return LowRankParameters(logits, loc, factor, wide(scales.square(), d))
        if d > 1 and self._kind in ("full", "tied"):
            # a column of the factor, in units of its diagonal, holds the regression of its
            # dimension on the later ones: numbers near 1 whatever the scale
            lower = wide(off, d * (d - 1) // 2)
            return _Packed(logits, loc, wide(scales.reciprocal(), d), lower)
        scale = wide(scales, self._sizes[2] // shared).expand(*batch, k, d)
        return MixtureParameters(logits, loc, scale)

    def distribution(
        self, params: _Parameters | FullParameters, units: tuple[Tensor, Tensor] | None = None
    ) -> GaussianMixture | Mixture:
        """Returns the mixture of these parameters; of a family in units (shift, scale) of y."""
        if isinstance(params, _Packed):
            return GaussianMixture.from_packed_precision(*params)
        if self.components is not None and isinstance(params, FamilyParameters):
            raw = params.raw.unbind(-2)
            components = self.components.build(*raw, floor=self.min_scale, units=units)
            return Mixture(params.logits, components, validate_args=False)
        return GaussianMixture(**params._asdict(), validate_args=False)

    def log_prob(self, out: Tensor, y: Tensor) -> Tensor:
        """Returns the log density (*) of y (*, D) under the mixtures of a flat output (P, *).

        In fewer steps than by :meth:`distribution` where the covariance is diagonal.
        """
        batch = out.shape[1:]
        simple = self.family == "gaussian" and self._kind == "diagonal"
        simple = simple and y.shape == (*batch, self.out_features) and not y.requires_grad
        if simple and out.dtype in (torch.float32, torch.float64) and not is_traced():
            return cast(Tensor, _HeadLogProb.apply(out.contiguous(), y, self))
        return self.distribution(self.parameters(out.flatten(1), batch)).log_prob(y)

    def in_units(
        self, params: _Parameters | FullParameters, units: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> GaussianMixture | Mixture:
        """Returns the mixture of these parameters in units (shift, scale) of y, by float64."""
        if isinstance(params, FamilyParameters):
            wide = FamilyParameters(*(a.double() for a in params))
            return self.distribution(wide, units).to(dtype)
        return self.distribution(params).to(torch.float64).affine(*units).to(dtype)

    def units_of(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns shift and scale, (D,), float64, of the parameters for targets y; scale not 0."""
        of = standardization if self.components is None else self.components.unit_of_parameters
        shift, scale = of(y)
        return shift, torch.where(scale > 0, scale, 1.0)

    def bias_from(self, y: Tensor, units: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns biases, (P,), that spread the components over the targets, in units of y."""
        size = None
        if units is not None:
            shift, scale = (a.to(y.device) for a in units)
            if self.components is not None and self.components.targets == "count":
                size = scale.cpu()
            else:
                y = (y.double() - shift) / scale
        rows = y.detach().double().cpu().numpy()
        groups = _groups(rows, self.n_components)
        loc, std = (np.stack([f(g, 0) for g in groups]) for f in (np.mean, np.std))  # (K, D)
        share = np.log([len(g) for g in groups])
        share -= share.mean()
        if self.components is not None:
            self.components.check_targets(self.family, y)
            moments = loc[:, 0], std[:, 0], float(rows.std())
            raw = self.components.start(*moments, self.min_scale, size)
        else:
            scale = np.maximum(std, np.maximum(FIRST_SCALE * rows.std(0), self.min_scale))
            scale -= self.min_scale
            if self._kind in ("isotropic", "tied"):
                scale = scale.mean(1 if self._kind == "isotropic" else 0)
            raw = [loc, inverse_softplus(scale), np.zeros(self._sizes[3])]
        return torch.as_tensor(np.concatenate([share, *map(np.ravel, raw)]))


class _HeadLogProb(Function):
    """Log density of y under diagonal mixtures, with its gradient to the outputs of the head.

    For few rows the overhead of each operation exceeds its arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, y: Tensor, layout: Layout) -> Tensor:
        k, d = layout.n_components, layout.out_features
        logits, loc, raw, _ = out.split(layout._sizes)
        loc, raw = loc.unflatten(0, (k, d)), raw.unflatten(0, (k, d))
        scale = nn.functional.softplus(raw) + layout.min_scale
        rows = y.to(out.dtype).movedim(-1, 0), logits, loc, scale
        log_p, r, z, inv, weights = rows_log_prob(rows, False)
        if ctx.needs_input_grad[0]:
            on_logits, on_loc, on_scale = rows_slopes(r, z, inv, weights, False)
            on_raw = torch.ops.aten.softplus_backward(on_scale, raw, 1, 20)
            ctx.layout = layout
            slope = torch.cat([on_logits, on_loc.flatten(0, 1), on_raw.flatten(0, 1)])
            ctx.save_for_backward(out, y, slope)
        return log_p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, y, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # double backward
            params = ctx.layout.parameters(out.flatten(1), y.shape[:-1])
            log_p = ctx.layout.distribution(params).log_prob(y)
            (slope,) = torch.autograd.grad(log_p, out, grad, create_graph=True)
            return slope, None, None
        return slope * grad, None, None


class MDNHead(nn.Module):
    r"""Linear layer whose output is a Gaussian mixture: ``forward(h (*, F)) -> GaussianMixture``.

    .. math::
        \text{scale} = \mathrm{softplus}(a) + \text{min\_scale}

    Put it on any network; the loss is ``-head(h).log_prob(y).mean()``.

    Args:
        in_features: F, features of h.
        out_features: D, dimensions of y.
        n_components: K.
        covariance_type: ``"diagonal"``; ``"isotropic"``, one scale for all dimensions of a
            component; ``"full"``; ``"tied"``, one full covariance for all components;
            ``"low_rank"``, a factor of rank 2 plus a diagonal.  With one dimension all are alike.
        family: of the components: ``"gaussian"``, or for one target ``"student_t"``,
            ``"laplace"``, ``"logistic"``, ``"log_normal"``, ``"gamma"``, ``"beta"``, ``"weibull"``,
            ``"von_mises"``, ``"negative_binomial"``, ``"poisson"``; these give a
            :class:`mdn.Mixture`.
        min_scale: floor of the scales, in the unit of y, or in standard deviations of y from
            :meth:`initialize_from` on; by default a thousandth.  It bounds the likelihood (see
            ``MIN_SCALE``).
            With full covariance it is that of each dimension given the later ones.

    Raises:
        ValueError: a size below 1, an unknown covariance type, a floor that is not positive.

    Example:
        >>> head = MDNHead(8, n_components=3)
        >>> head(torch.zeros(64, 8))
        GaussianMixture(batch_shape=(64,), event_shape=(1,), n_components=3)

    References:
        C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994), section 3.
    """

    y_shift: Tensor | None
    y_scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        n_components: int = 5,
        *,
        covariance_type: str = "diagonal",
        family: str = "gaussian",
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features)
        self.layout = Layout(
            out_features,
            n_components,
            covariance_type=covariance_type,
            family=family,
            min_scale=min_scale,
        )
        self.in_features, self.out_features = in_features, out_features
        self.n_components, self.covariance_type = n_components, covariance_type
        self.family, self.min_scale = family, float(min_scale)
        self.linear = nn.Linear(in_features, self.layout.n_outputs)
        for name in _UNITS:  # (D,), float64, from initialize_from on
            self.register_buffer(name, None)

    @property
    def units(self) -> tuple[Tensor, Tensor] | None:
        """Shift and scale of y, (D,) each, in which the linear layer works; None for 0 and 1."""
        if self.y_shift is None or self.y_scale is None:
            return None
        return self.y_shift, self.y_scale

    def params(
        self, h: Tensor
    ) -> MixtureParameters | FullParameters | LowRankParameters | FamilyParameters:
        """Returns the parameters as plain tensors, named by the kind of covariance; h is (*, F).

        In the unit of y, but for the raw numbers of other families, which are in :attr:`units`.
        """
        raw = self._parameters_of(h)
        if isinstance(raw, FamilyParameters):
            return raw
        found: MixtureParameters | FullParameters | LowRankParameters
        if isinstance(raw, _Packed):
            found = FullParameters(raw.logits, raw.loc, unpacked(raw.precision, raw.lower))
        else:
            found = raw
        if self.units is None:
            return found
        shift, c = self.units
        factors = {
            "scale": c,
            "precision_tril": c.reciprocal().unsqueeze(-1),
            "cov_factor": c.unsqueeze(-1),
            "cov_diag": c.square(),
        }
        moved = {n: a * factors[n] for n, a in found._asdict().items() if n in factors}
        moved["loc"] = shift + c * found.loc
        return found._replace(**{n: a.to(found.loc.dtype) for n, a in moved.items()})

    def _parameters_of(self, h: Tensor) -> _Parameters:
        check_event(h, self.in_features, "h")
        batch = h.shape[:-1]
        # components first in memory: the reductions of the likelihood then run over rows
        bias, weight = self.linear.bias.unsqueeze(-1), self.linear.weight
        out = torch.addmm(bias, weight, h.reshape(-1, self.in_features).t())  # (P, N)
        return self.layout.parameters(out, batch)

    def forward(self, h: Tensor) -> GaussianMixture | Mixture:
        """Returns the mixture for features h, (*, F)."""
        refuse_trace(self)
        params = self._parameters_of(h)
        if self.units is None:
            return self.layout.distribution(params)
        return self.layout.in_units(params, self.units, params.logits.dtype)

    def initialize_from(self, y: Tensor) -> None:
        """Takes the unit of the targets, and spreads the components over them.

        From then on the linear layer works in standardised y, and the head gives its mixtures in
        the unit of y: training goes as well whatever that is.  Families are standardised by a
        change of unit that they allow, as in :class:`MDN`; counts are not, but their parameters
        are in the unit of the mean.

        No two components start in the same place.  One dimension: K groups of equal size between
        quantiles.  Several: k-means.  The biases become the groups' means, scales and shares, in
        other families than the Gaussian by the method of moments; the weights are shrunk, so that
        the biases dominate at first.

        Args:
            y: targets, (N, D).

        Raises:
            ValueError: y has another shape, no rows, is not finite or outside the range of the
                family.
        """
        y = torch.as_tensor(y).detach()
        check_rows("y", y, self.out_features)
        if self.layout.components is not None:
            self.layout.components.check_targets(self.family, y)
        self.spread_over(y, self.layout.units_of(y))

    @torch.no_grad()
    def spread_over(self, y: Tensor, units: tuple[Tensor, Tensor] | None) -> None:
        """As :meth:`initialize_from`, in given units (shift, scale) of checked targets."""
        self.linear.bias.copy_(self.layout.bias_from(y, units))
        self.linear.weight.mul_(0.1)
        for i, name in enumerate(_UNITS):
            setattr(self, name, None if units is None else units[i].to(self.linear.weight.device))

    def _apply(self, fn: Any, recurse: bool = True) -> MDNHead:
        with exact(self, _UNITS):
            super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in _UNITS:  # absent where initialize_from was not called
            saved = state_dict.get(prefix + name)
            device = self.linear.weight.device
            setattr(self, name, None if saved is None else torch.empty_like(saved, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return (
            f"{self.in_features}, {self.out_features}, n_components={self.n_components}, "
            f"covariance_type={self.covariance_type!r}, min_scale={self.min_scale:g}"
            + ("" if self.family == "gaussian" else f", family={self.family!r}")
        )


class CategoricalHead(nn.Module):
    """Linear layer whose output is a Categorical: ``forward(h (*, F)) -> Categorical``.

    Its loss ``-head(h).log_prob(target).mean()`` is the cross-entropy.  A probability mass does not
    exceed 1, so this loss is never negative; that of a density may be.

    Args:
        in_features: F, features of h.
        n_classes: C; targets are integers from 0 to C - 1, shape (*).

    Raises:
        ValueError: a size below 1.

    Example:
        >>> CategoricalHead(8, 10)(torch.zeros(64, 8)).probs.shape
        torch.Size([64, 10])
    """

    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__()
        check_integer("in_features", in_features)
        check_integer("n_classes", n_classes)
        self.in_features, self.n_classes = in_features, n_classes
        self.linear = nn.Linear(in_features, n_classes)

    def forward(self, h: Tensor) -> Categorical:
        """Returns the class distribution for features h, (*, F)."""
        refuse_trace(self)
        check_event(h, self.in_features, "h")
        return Categorical(logits=self.linear(h), validate_args=False)


# ---------------------------------------------------------------------------------------------


def _groups(y: np.ndarray, k: int) -> list[np.ndarray]:
    """K non-empty groups of neighbouring rows of y (N, D)."""
    if k == 1:
        return [y]
    if y.shape[1] > 1 and len(y) >= k:
        # with fewer distinct rows than k the distances are all 0, and a group stays empty
        with contextlib.suppress(ClusterError), np.errstate(invalid="ignore"):
            label = kmeans2(y, k, minit="++", seed=0, missing="raise")[1]
            return [y[label == i] for i in range(k)]
    # one dimension, or k-means left a group empty: along the direction of greatest spread
    centred = y - y.mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0] if y.shape[1] > 1 else [1.0]
    y = y[np.argsort(centred @ direction, kind="stable")]
    if len(y) < k:  # fewer rows than components: repeat
        y = np.repeat(y, -(-k // len(y)), axis=0)
    return np.array_split(y, k)


@contextlib.contextmanager
def exact(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Keeps the digits of some buffers: a cast would round 1e9 + x to no digits of x in float32."""
    before = {name: a for name in names if (a := getattr(module, name)) is not None}
    yield
    for name, a in before.items():
        moved = getattr(module, name)
        if moved.dtype != a.dtype:
            setattr(module, name, a.to(moved.device))


def refuse_trace(module: nn.Module) -> None:
    """Raises TypeError where torch.jit.trace records this module itself, not one around it."""
    if torch._C._get_tracing_state() is not None:
        root = (getattr(torch.jit._trace, "_trace_module_map", None) or {}).get("__module")
        while isinstance(root, nn.Sequential) and len(root):
            root = root[-1]
        if root is module:
            raise TypeError(
                "torch.jit.trace needs a module that returns tensors, and this "
                f"{type(module).__name__} returns a distribution; trace a module around it whose "
                "forward returns for example self.model(x).log_prob(y) or self.model(x).mean"
            )


def check_rows(name: str, a: Tensor, columns: int | None) -> None:
    """Raises unless a has at least one row, the right number of columns and finite values."""
    check_tensor(name, a)
    if columns is not None and (a.ndim != 2 or a.shape[1] != columns):
        hint = f". Did you mean {name}[:, None]?" if columns == 1 and a.ndim == 1 else ""
        raise ValueError(f"{name} must have shape (N, {columns}); got {tuple(a.shape)}{hint}")
    if not len(a):
        raise ValueError(f"{name} must have at least one row; got shape {tuple(a.shape)}")
    bad = ~torch.isfinite(a.reshape(len(a), -1)).all(1)
    if bool(bad.any()):
        raise ValueError(f"{name} must be finite; row {int(bad.nonzero()[0])} is not")

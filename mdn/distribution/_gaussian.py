"""Mixture distributions: everything one asks of p(y|x), exact where there is a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..functional._likelihood import (
    check_event,
    check_weights,
    diagonal_log_prob,
    log_responsibilities,
    log_weights,
    result_dtype,
)
from ..functional._modes import mixture_hdr, mixture_modes
from ..functional._univariate import mixture_crps, mixture_icdf, mixture_log_cdf

__all__ = ["HDR", "GaussianMixture", "Modes"]

_SAMPLE_CHUNK = 1 << 20  # draws made at a time, so that the working memory stays small


class Modes(NamedTuple):
    """Local maxima of a density, by falling density, NaN-padded.

    Attributes:
        loc: places, (*, K, D), in the unit of y.
        log_density: log density there, (*, K).
    """

    loc: Tensor
    log_density: Tensor


class HDR(NamedTuple):
    """Highest-density region: the smallest set that has the given probability.

    Attributes:
        intervals: disjoint, sorted, (*, K, 2), NaN-padded, in the unit of y.
        threshold: density on the edges, (*); the region is where the density is at least this.
        coverage: the probability of the region.
    """

    intervals: Tensor
    threshold: Tensor
    coverage: float


class GaussianMixture(Distribution):
    r"""Mixture of K diagonal Gaussians over y in D dimensions.

    .. math::
        p(y) = \sum_k \pi_k \prod_d \mathcal N(y_d; \mu_{kd}, \sigma_{kd}^2), \qquad
        \pi = \mathrm{softmax}(\text{logits})

    The batch shape is the broadcast batch of the parameters, the event shape is ``(D,)``, also when
    D is 1: a target of shape (N,) against a batch of N is refused, never broadcast to (N, N).

    Args:
        logits: log weights up to a constant, (*, K); ``-inf`` switches a component off.
        loc: means, (*, K, D), in the unit of y.
        scale: standard deviations, (*, K, D), positive, in the unit of y.
        validate_args: check values of parameters and arguments; default as in torch.distributions.
            Shapes are always checked.

    Raises:
        ValueError: shapes that do not fit, or a value out of its range, with its first row.
        TypeError: a parameter is not a floating tensor.

    Example:
        >>> logits, loc = torch.tensor([0.4, 0.6]).log(), torch.tensor([[-3.0], [3.0]])
        >>> two = GaussianMixture(logits, loc, torch.ones(2, 1))
        >>> two
        GaussianMixture(batch_shape=(), event_shape=(1,), n_components=2)
        >>> two.log_prob(torch.tensor([3.0]))
        tensor(-1.4298)
        >>> two.modes().loc[:, 0]
        tensor([ 3.0000, -3.0000])
        >>> two.hdr(0.9).intervals
        tensor([[-4.5080, -1.4918],
                [ 1.2433,  4.7565]])

    References:
        C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.independent(constraints.real, 1)
    has_rsample = False

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        batch = _check_parameters(logits, loc, scale)
        self._raw_logits = logits.expand(*batch, *logits.shape[-1:])
        self._log_weights: Tensor | None = None
        self.loc = loc.expand(*batch, *loc.shape[-2:])
        self.scale = scale.expand(*batch, *loc.shape[-2:])
        super().__init__(batch, loc.shape[-1:], validate_args=False)
        self._validate_args = (
            Distribution._validate_args if validate_args is None else bool(validate_args)
        )
        if self._validate_args:
            _check_values(logits, loc, scale)

    # -- parameters ---------------------------------------------------------------------------

    @property
    def logits(self) -> Tensor:
        """Normalised log weights, (*, K): their exponentials sum to 1."""
        if self._log_weights is None:
            self._log_weights = log_weights(self._raw_logits)
        return self._log_weights

    @property
    def weights(self) -> Tensor:
        """Mixing weights, (*, K)."""
        return self.logits.exp()

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.loc.shape[-2]

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of each component, (*, K, D, D)."""
        return torch.diag_embed(self.scale.square())

    # -- density ------------------------------------------------------------------------------

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density in nats, (*); y is (*, D)."""
        return diagonal_log_prob(*self._with(y), log=False)

    def responsibilities(self, y: Tensor) -> Tensor:
        """Log posterior probability of the components given y, (*, K)."""
        return log_responsibilities(*self._with(y))

    # -- moments ------------------------------------------------------------------------------

    def _centred(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean (*, D); means minus the mean and scales, (*, K, D); weights (*, K, 1).

        Measured from the heaviest component, so that a large common offset does not cancel;
        components of weight 0 are 0, so that they do not overflow.
        """
        w = self.weights.unsqueeze(-1)
        heaviest = w.argmax(-2, keepdim=True).expand(*self.loc.shape[:-2], 1, self.loc.shape[-1])
        origin = self.loc.gather(-2, heaviest).detach()
        off = w == 0
        apart = (self.loc - origin).masked_fill(off, 0.0)
        shift = (w * apart).sum(-2, keepdim=True)
        apart = (apart - shift).masked_fill(off, 0.0)
        return (origin + shift).squeeze(-2), apart, self.scale.masked_fill(off, 0.0), w

    @property
    def mean(self) -> Tensor:
        """Mean, (*, D)."""
        return self._centred()[0]

    @property
    def variance(self) -> Tensor:
        """Variance, (*, D), squared unit of y; within plus between the components."""
        return self.stddev.square()

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, (*, D); does not over- or underflow where its square would."""
        _, apart, scale, w = self._centred()
        size = torch.maximum(scale, apart.abs()).amax(-2, keepdim=True).detach()
        parts = (scale / size).square() + (apart / size).square()
        return size.squeeze(-2) * (w * parts).sum(-2).sqrt()

    @property
    def covariance(self) -> Tensor:
        """Covariance, (*, D, D), squared unit of y."""
        _, apart, scale, w = self._centred()
        between = torch.einsum("...kd,...ke->...de", w * apart, apart)
        return torch.diag_embed((w * scale.square()).sum(-2)) + between

    @property
    def skewness(self) -> Tensor:
        """Third standardised central moment, (*, D)."""
        _, apart, scale, w = self._centred()
        unit = self.stddev.unsqueeze(-2)
        a, s = apart / unit, scale / unit  # w a^2 <= 1, so multiply in this order
        return (w * a * a * a + 3 * (w * s * s) * a).sum(-2)

    @property
    def kurtosis(self) -> Tensor:
        """Excess kurtosis, (*, D): 0 for a Gaussian."""
        _, apart, scale, w = self._centred()
        unit = self.stddev.unsqueeze(-2)
        a, s = apart / unit, scale / unit
        terms = (w * a * a) * (a * a) + 6 * (w * a * a) * (s * s) + 3 * (w * s * s) * (s * s)
        return terms.sum(-2) - 3

    # -- one dimension ------------------------------------------------------------------------

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y), (*); D = 1, y is (*, 1)."""
        return self.log_cdf(y).exp()

    def log_cdf(self, y: Tensor) -> Tensor:
        """Log of P(Y <= y), (*), accurate in both tails; D = 1, y is (*, 1)."""
        return mixture_log_cdf(*self._scalar("log_cdf", y))

    def log_sf(self, y: Tensor) -> Tensor:
        """Log of P(Y > y), (*), accurate in both tails; D = 1, y is (*, 1)."""
        y, logits, loc, scale = self._scalar("log_sf", y)
        return mixture_log_cdf(-y, logits, -loc, scale)

    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1), in the unit of y; D = 1.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1], or D > 1.
        """
        self._need_scalar("icdf")
        # a number has no dtype of its own: it is taken at full precision
        dtype = result_dtype(p, self.loc) if isinstance(p, Tensor) else self.loc.dtype
        level = torch.as_tensor(p, device=self.loc.device)
        if not isinstance(p, Tensor):
            level = torch.as_tensor(p, dtype=torch.float64, device=self.loc.device)
        level, logits, loc, scale = self._aligned(level.unsqueeze(-1), "p")
        y = mixture_icdf(level[..., 0], logits, loc[..., 0], scale[..., 0])
        return y.to(dtype).unsqueeze(-1)

    @property
    def median(self) -> Tensor:
        """Median, (*, 1); D = 1."""
        return self.icdf(0.5)

    def interval(self, coverage: float) -> Tensor:
        """Central interval, (*, 2): the quantiles (1 - coverage)/2 and (1 + coverage)/2; D = 1."""
        c = _check_coverage(coverage)
        return torch.cat([self.icdf(0.5 - 0.5 * c), self.icdf(0.5 + 0.5 * c)], -1)

    def hdr(self, coverage: float) -> HDR:
        """Highest-density region; D = 1.  Not differentiable.

        Args:
            coverage: probability of the region, in (0, 1).
        """
        c = _check_coverage(coverage)
        self._need_scalar("hdr")
        intervals, log_level = mixture_hdr(self.logits, self.loc[..., 0], self.scale[..., 0], c)
        dtype = self.loc.dtype
        return HDR(intervals.to(dtype), log_level.exp().to(dtype), c)

    def crps(self, y: Tensor) -> Tensor:
        """Continuous ranked probability score, (*), in the unit of y, closed form; D = 1.

        References:
            E. P. Grimit et al., Q. J. R. Meteorol. Soc. 132 (2006), eq. 5.
        """
        return mixture_crps(*self._scalar("crps", y))

    # -- modes --------------------------------------------------------------------------------

    def modes(self) -> Modes:
        """All modes for D = 1; for D > 1 those that mean shift reaches from the components."""
        loc, log_density = mixture_modes(self.logits, self.loc, self.scale)
        return Modes(loc.to(self.loc.dtype), log_density.to(self.loc.dtype))

    @property
    def mode(self) -> Tensor:
        """The highest mode, (*, D)."""
        return self.modes().loc[..., 0, :]

    # -- sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws, sample_shape + (*, D).

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness; torch's global one if None.
        """
        if isinstance(sample_shape, int):
            sample_shape = (sample_shape,)
        shape = torch.Size(sample_shape)
        n, (k, d), draws = self.batch_shape.numel(), self.loc.shape[-2:], shape.numel()
        loc, scale = self.loc.reshape(n, k, d), self.scale.reshape(n, k, d)
        out = self.loc.new_empty(draws, n, d)
        edges = self.weights.reshape(n, k).double().cumsum(-1)
        last = k - 1 - (self.logits.reshape(n, k).flip(-1) > -math.inf).int().argmax(-1)
        # beyond the last component that is alive nothing may be chosen, whatever the rounding
        edges[torch.arange(k, device=loc.device) >= last.unsqueeze(-1)] = math.inf
        step = max(1, _SAMPLE_CHUNK // max(1, draws))
        for i in range(0, n, step):
            rows = slice(i, i + step)
            m = len(loc[rows])
            u = torch.rand(m, draws, generator=generator, dtype=torch.float64, device=loc.device)
            which = torch.searchsorted(edges[rows], u, right=True).unsqueeze(-1).expand(-1, -1, d)
            noise = out.new_empty(m, draws, d).normal_(generator=generator)
            y = torch.addcmul(loc[rows].gather(1, which), scale[rows].gather(1, which), noise)
            out[:, rows] = y.movedim(1, 0)
        return out.reshape(*shape, *self.batch_shape, d)

    # -- new mixtures from old ----------------------------------------------------------------

    def affine(self, shift: Tensor | float, scale: Tensor | float) -> GaussianMixture:
        """The mixture of ``shift + scale * y``: a change of unit, or of sign.

        Args:
            shift, scale: broadcast against (*, D); scale must not be 0.

        Raises:
            ValueError: a scale of 0, or one that is not finite.
        """
        moved = []
        for name, want, value in (
            ("shift", "finite", shift),
            ("scale", "finite and not 0", scale),
        ):
            a = torch.as_tensor(value, dtype=self.loc.dtype, device=self.loc.device)
            d = self.loc.shape[-1]
            if a.ndim and a.shape[-1] not in (1, d):
                raise ValueError(f"{name} must be a number or (*, {d}); got shape {tuple(a.shape)}")
            bad = ~torch.isfinite(a) | (a == 0 if name == "scale" else False)
            if self._validate_args and bool(bad.any()):
                raise ValueError(f"{name} must be {want}; got {a.tolist()}")
            moved.append(a.unsqueeze(-2) if a.ndim else a)
        b, c = moved
        return self._like(self._raw_logits, b + c * self.loc, c.abs() * self.scale)

    def marginal(self, dims: int | Sequence[int]) -> GaussianMixture:
        """The mixture of some target dimensions.

        Args:
            dims: which ones, from 0; the result has them in this order.
        """
        index = self._dims(dims)
        return self._like(self._raw_logits, self.loc[..., index], self.scale[..., index])

    def condition(self, dims: int | Sequence[int], value: Tensor) -> GaussianMixture:
        """The mixture of the other dimensions, given the values of some.

        Args:
            dims: the known dimensions.
            value: what they are, (*, len(dims)).

        Raises:
            ValueError: no dimension would be left, or value has another shape.
        """
        known = self._dims(dims)
        rest = [d for d in range(self.loc.shape[-1]) if d not in known]
        if not rest:
            raise ValueError(f"dims must leave at least one dimension free; got {known}")
        log_joint = log_responsibilities(*self.marginal(known)._with(value, "value"))
        return self._like(log_joint, self.loc[..., rest], self.scale[..., rest])

    @staticmethod
    def pool(
        mixtures: Sequence[GaussianMixture], weights: Tensor | Sequence[float] | None = None
    ) -> GaussianMixture:
        """Linear pool: the average of the densities, one mixture with all the components.

        Args:
            mixtures: M mixtures of one event shape, with batch shapes that broadcast.
            weights: M non-negative numbers, normalised here; equal if None.

        Raises:
            ValueError: no mixture, different event shapes, or weights that are no weights.
        """
        mixtures = list(mixtures)
        if not mixtures:
            raise ValueError("mixtures must hold at least one GaussianMixture; got none")
        first = mixtures[0]
        if any(m.event_shape != first.event_shape for m in mixtures):
            shapes = [tuple(m.event_shape) for m in mixtures]
            raise ValueError(f"mixtures must have one event shape; got {shapes}")
        w = torch.ones(len(mixtures)) if weights is None else torch.as_tensor(weights)
        w = w.to(dtype=first.loc.dtype, device=first.loc.device)
        fine = w.shape == (len(mixtures),) and bool((w >= 0).all() & (w.sum() > 0))
        if not fine or not bool(w.isfinite().all()):
            raise ValueError(
                f"weights must be {len(mixtures)} finite non-negative numbers, not all 0; "
                f"got {w.tolist()}"
            )
        try:
            batch = torch.broadcast_shapes(*(m.batch_shape for m in mixtures))
        except RuntimeError:
            found = ", ".join(str(tuple(m.batch_shape)) for m in mixtures)
            raise ValueError(f"the batch shapes of mixtures do not broadcast: {found}") from None
        mixtures = [m.expand(batch) for m in mixtures]
        logits = [m.logits + lw for m, lw in zip(mixtures, (w / w.sum()).log(), strict=True)]
        return first._like(
            torch.cat(logits, -1),
            torch.cat([m.loc for m in mixtures], -2),
            torch.cat([m.scale for m in mixtures], -2),
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> GaussianMixture:
        """The same mixtures under a larger batch shape, as views."""
        batch = torch.Size(batch_shape)
        return self._like(
            self._raw_logits.expand(*batch, -1),
            self.loc.expand(*batch, -1, -1),
            self.scale.expand(*batch, -1, -1),
        )

    def __getitem__(self, index: Any) -> GaussianMixture:
        """Mixtures of the batch, by integer, slice, mask, index tensor or a tuple of them."""
        n = self.batch_shape.numel()
        where = torch.arange(n, device=self.loc.device).reshape(self.batch_shape)[index]
        flat = (a.reshape(n, *a.shape[len(self.batch_shape) :])[where] for a in self._parameters())
        return self._like(*flat)

    def to(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        """The same mixture in another dtype or on another device, as ``Tensor.to``."""
        return self._like(*(a.to(*args, **kwargs) for a in self._parameters()))

    def detach(self) -> GaussianMixture:
        """The same mixture, cut from the autograd graph."""
        return self._like(*(a.detach() for a in self._parameters()))

    def numpy(self) -> dict[str, np.ndarray]:
        """The parameters as arrays: logits (normalised), loc, scale."""
        named = {"logits": self.logits, "loc": self.loc, "scale": self.scale}
        # NumPy has no bfloat16
        return {
            name: (a.float() if a.dtype == torch.bfloat16 else a).detach().cpu().numpy()
            for name, a in named.items()
        }

    def __repr__(self) -> str:
        return (
            f"GaussianMixture(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, n_components={self.n_components})"
        )

    # -- inside -------------------------------------------------------------------------------

    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        named = {"logits": self._raw_logits, "loc": self.loc, "scale": self.scale}
        return {}, {name: a.detach().cpu().contiguous() for name, a in named.items()}

    @classmethod
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> GaussianMixture:
        return cls(tensors["logits"], tensors["loc"], tensors["scale"])

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._raw_logits, self.loc, self.scale

    def _like(self, logits: Tensor, loc: Tensor, scale: Tensor) -> GaussianMixture:
        """A mixture of checked parameters that validates its arguments if this one does."""
        new = GaussianMixture(logits, loc, scale, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _dims(self, dims: int | Sequence[int]) -> list[int]:
        found = [dims] if isinstance(dims, int) else list(dims)
        n = self.loc.shape[-1]
        if (
            not found
            or any(not -n <= d < n for d in found)
            or len({d % n for d in found}) < len(found)
        ):
            raise ValueError(f"dims must be distinct and within 0..{n - 1}; got {dims}")
        return [d % n for d in found]

    def _validate_sample(self, value: Tensor) -> None:
        self._with(value)

    def _with(self, y: Tensor, name: str = "y") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y and the parameters, checked, of one batch rank."""
        if not isinstance(y, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(y).__name__}")
        check_event(y, self.loc.shape[-1], name)
        if self._validate_args and y.is_floating_point() and bool(y.isnan().any()):
            row = tuple(y.isnan().any(-1).nonzero()[0].tolist())
            where = f"; row {row[0] if len(row) == 1 else row} is" if y.ndim > 1 else ""
            raise ValueError(f"{name} must not be NaN{where}")
        return self._aligned(y if y.is_floating_point() else y.to(self.loc.dtype), name)

    def _aligned(self, y: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, loc, scale = self._parameters()
        batch = y.shape[:-1]
        try:
            rank = len(torch.broadcast_shapes(batch, self.batch_shape))
        except RuntimeError:
            raise ValueError(
                f"{name} with batch shape {tuple(batch)} does not broadcast against the "
                f"batch shape {tuple(self.batch_shape)} of the mixture"
            ) from None
        y = y[(None,) * (rank - len(batch))]
        more = (None,) * (rank - len(self.batch_shape))
        return (y, logits[more], loc[more], scale[more]) if more else (y, logits, loc, scale)

    def _scalar(self, what: str, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As _with, without the event axis, for D = 1."""
        self._need_scalar(what)
        y, logits, loc, scale = self._with(y)
        return y[..., 0], logits, loc[..., 0], scale[..., 0]

    def _need_scalar(self, what: str) -> None:
        if self.loc.shape[-1] != 1:
            raise ValueError(
                f"{what} needs one target dimension; this mixture has {self.loc.shape[-1]}. "
                "Take one with .marginal(dims)"
            )


def _check_parameters(logits: Tensor, loc: Tensor, scale: Tensor) -> torch.Size:
    """Types and shapes; returns the batch shape."""
    for name, value in (("logits", logits), ("loc", loc), ("scale", scale)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
        if not value.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype; got {value.dtype}")
    if loc.ndim < 2 or loc.shape[-1] < 1 or loc.shape[-2] < 1:
        raise ValueError(
            f"loc must have shape (*, K, D) with K, D >= 1; got {tuple(loc.shape)}"
            + (". Did you mean loc[..., None]?" if loc.ndim == 1 else "")
        )
    k, d = loc.shape[-2:]
    if scale.shape[-2:] != (k, d):
        raise ValueError(
            f"scale must have shape (*, {k}, {d}) to match loc {tuple(loc.shape)}; "
            f"got {tuple(scale.shape)}"
        )
    if logits.ndim < 1 or logits.shape[-1] != k:
        raise ValueError(
            f"logits must have shape (*, {k}) to match loc {tuple(loc.shape)}; "
            f"got {tuple(logits.shape)}"
        )
    try:
        return torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"the batch axes do not broadcast: logits {tuple(logits.shape)}, "
            f"loc {tuple(loc.shape)}, scale {tuple(scale.shape)}"
        ) from None


def _check_values(logits: Tensor, loc: Tensor, scale: Tensor) -> None:
    """Ranges; the message names the first bad entry."""
    for name, value, good, want in (
        ("logits", logits, logits < math.inf, "less than inf and not NaN"),
        ("loc", loc, loc.isfinite(), "finite"),
        ("scale", scale, (scale > 0) & (scale < math.inf), "positive and finite"),
    ):
        if not bool(good.all()):
            at = tuple((~good).nonzero()[0].tolist())
            raise ValueError(f"{name} must be {want}; got {value[at].item():g} at index {at}")
    check_weights(logits)


def _check_coverage(coverage: float) -> float:
    c = float(coverage)
    if not 0 < c < 1:
        raise ValueError(f"coverage must lie between 0 and 1; got {coverage}")
    return c

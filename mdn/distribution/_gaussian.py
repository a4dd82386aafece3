"""Mixture distributions: everything one asks of p(y|x), exact where there is a formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..functional._cdf import mixture_log_cdf
from ..functional._checks import check_event
from ..functional._crps import mixture_crps
from ..functional._diagonal import log_weights
from ..functional._integrals import entropy as quadrature_entropy
from ..functional._integrals import (
    entropy_bounds,
    log_overlaps,
    log_squared_norm,
)
from ..functional._modes import mixture_hdr, mixture_modes
from ..functional._numerics import result_dtype
from ..functional._quantile import mixture_icdf
from ..functional._sampling import implicit_sample, mixture_sample
from ._bounded import DiscretizedMixture, TruncatedMixture
from ._checks import check_coverage, check_shapes, check_values, pooled
from ._covariance import Covariance, Diagonal, Full, LowRank, Packed, Precision, joined, refuse
from ._merging import merged
from ._results import HDR, Bounds, Estimate, Modes

__all__ = ["GaussianMixture"]

_SEED = 6_364_136_223  # of draws that nobody gave a generator for; one that nobody else takes
DRAWS = 4096  # of Monte Carlo estimates that have no other setting

_KINDS: dict[tuple[str, ...], type[Covariance]] = {
    kind.names: kind for kind in (Diagonal, Full, Precision, LowRank)
}


class GaussianMixture(Distribution):
    r"""Mixture of K Gaussians over y in D dimensions.

    .. math::
        p(y) = \sum_k \pi_k \, \mathcal N(y; \mu_k, \Sigma_k), \qquad
        \pi = \mathrm{softmax}(\text{logits})

    The covariances are diagonal by ``scale``, full by ``scale_tril`` (:math:`\Sigma = S S^\top`) or
    ``precision_tril`` (:math:`\Sigma^{-1} = P P^\top`, the fastest), or low rank plus diagonal by
    ``cov_factor`` and ``cov_diag`` (:math:`\Sigma = F F^\top + \mathrm{diag}(c)`): name one.

    The batch shape is the broadcast batch of the parameters, the event shape is ``(D,)``, also when
    D is 1: a target of shape (N,) against a batch of N is refused, never broadcast to (N, N).

    Args:
        logits: log weights up to a constant, (*, K); ``-inf`` switches a component off.
        loc: means, (*, K, D), in the unit of y.
        scale: standard deviations, (*, K, D), positive, in the unit of y.
        scale_tril: lower triangular with a positive diagonal, (*, K, D, D), in the unit of y.
        precision_tril: lower triangular with a positive diagonal, (*, K, D, D), in 1 / unit of y.
        cov_factor: (*, K, D, R), in the unit of y; goes with ``cov_diag``.
        cov_diag: variances, (*, K, D), positive.
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
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.independent(constraints.real, 1)
    has_rsample = True

    loc: Tensor

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor | None = None,
        *,
        scale_tril: Tensor | None = None,
        precision_tril: Tensor | None = None,
        cov_factor: Tensor | None = None,
        cov_diag: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = {
            "scale": scale,
            "scale_tril": scale_tril,
            "precision_tril": precision_tril,
            "cov_factor": cov_factor,
            "cov_diag": cov_diag,
        }
        named = {name: value for name, value in given.items() if value is not None}
        kind = _KINDS.get(tuple(named))
        if kind is None:
            raise ValueError(
                "the covariance must be given by one of scale, scale_tril, precision_tril, or "
                f"cov_factor with cov_diag; got {' and '.join(named) or 'none of them'}"
            )
        check_shapes(logits, loc, named)
        covariance = kind(*named.values())
        validate = Distribution._validate_args if validate_args is None else bool(validate_args)
        if validate:
            check_values(logits, loc, covariance)
        # a head fills the lower triangle only; a copy would cost it the order of its memory
        self._set(logits, loc, covariance.lower() if validate else covariance, validate)

    def _set(self, logits: Tensor, loc: Tensor, covariance: Covariance, validate: bool) -> None:
        k, d = loc.shape[-2:]
        if d == 1 and not isinstance(covariance, Diagonal):
            covariance = Diagonal(covariance.scale())
        batch = torch.broadcast_shapes(
            logits.shape[:-1],
            loc.shape[:-2],
            *(
                a.shape[: -1 - e]
                for a, e in zip(covariance.tensors, covariance.events, strict=True)
            ),
        )
        self._raw_logits = logits.expand(*batch, k)
        self.loc = loc.expand(*batch, k, d)
        self._covariance = covariance.map(lambda a, e: a.expand(*batch, *a.shape[a.ndim - e :]))
        super().__init__(batch, loc.shape[-1:], validate_args=False)
        self._validate_args = validate

    # -- other ways to make one ---------------------------------------------------------------

    @classmethod
    def from_packed_precision(
        cls, logits: Tensor, loc: Tensor, precision: Tensor, lower: Tensor
    ) -> Self:
        """Full covariances by the entries of their precision factors, as a network emits them.

        The factor is ``U diag(precision)`` with U unit lower triangular.  Nothing is validated,
        neither here nor by the methods of the mixture.

        Args:
            logits: (*, K).
            loc: (*, K, D), in the unit of y.
            precision: (*, K, D), positive, in 1 / unit of y.
            lower: the entries of U below its diagonal, column by column, (*, K, D (D - 1) / 2).
        """
        new = cls.__new__(cls)
        new._set(logits, loc, Packed(precision, lower), False)
        return new

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What :func:`mdn.save` writes: a description and the parameters."""
        return {}, {"logits": self._raw_logits, **self._named()}

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> GaussianMixture:
        """The mixture of which :meth:`state` was taken."""
        return cls(**tensors)  # type: ignore[arg-type]

    # -- parameters ---------------------------------------------------------------------------

    @property
    def logits(self) -> Tensor:
        """Normalised log weights, (*, K): their exponentials sum to 1."""
        return log_weights(self._raw_logits)

    @property
    def weights(self) -> Tensor:
        """Mixing weights, (*, K)."""
        return self.logits.exp()

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self.loc.shape[-2]

    @property
    def covariance_type(self) -> str:
        """The form of the covariances: ``"diagonal"``, ``"full"`` or ``"low_rank"``."""
        return self._covariance.kind

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of each component, (*, K, D, D)."""
        return self._covariance.matrix()

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each component in each dimension, (*, K, D)."""
        return self._covariance.scale()

    @property
    def scale_tril(self) -> Tensor:
        """Lower triangular factor of the covariance of each component, (*, K, D, D)."""
        return self._covariance.root()

    # -- density ------------------------------------------------------------------------------

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density in nats, (*); y is (*, D)."""
        return self._covariance.log_prob(*self._with(y))

    def responsibilities(self, y: Tensor) -> Tensor:
        """Log posterior probability of the components given y, (*, K)."""
        return self._covariance.log_responsibilities(*self._with(y))

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
        _, apart, _, w = self._centred()
        between = torch.einsum("...kd,...ke->...de", w * apart, apart)
        within = self.covariance_matrix.masked_fill((w == 0).unsqueeze(-1), 0.0)
        return (w.unsqueeze(-1) * within).sum(-3) + between

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
        self._need_scalar("cdf")
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
        level, logits, loc = self._aligned(level.unsqueeze(-1), "p")
        y = mixture_icdf(level[..., 0], logits, loc[..., 0], self._scale_like(loc)[..., 0])
        return y.to(dtype).unsqueeze(-1)

    @property
    def median(self) -> Tensor:
        """Median, (*, 1); D = 1."""
        return self.icdf(0.5)

    def interval(self, coverage: float) -> Tensor:
        """Central interval, (*, 2): the quantiles (1 - coverage)/2 and (1 + coverage)/2; D = 1."""
        c = check_coverage(coverage)
        return torch.cat([self.icdf(0.5 - 0.5 * c), self.icdf(0.5 + 0.5 * c)], -1)

    def hdr(self, coverage: float) -> HDR:
        """Highest-density region; D = 1.  Not differentiable.

        Args:
            coverage: probability of the region, in (0, 1).
        """
        c = check_coverage(coverage)
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

    # -- integrals ----------------------------------------------------------------------------

    def squared_norm(self) -> Tensor:
        """Integral of p squared, (*), in 1 / unit of y to the power D; closed form."""
        if isinstance(self._covariance, Diagonal):
            return log_squared_norm(self.logits, self.loc, self.scale).exp()
        pairs = log_overlaps(self.loc, self.scale_tril)
        t = self.logits.unsqueeze(-1) + self.logits.unsqueeze(-2) + pairs
        return torch.logsumexp(t.flatten(-2), -1).exp()

    def entropy(self) -> Tensor:
        """Differential entropy in nats, (*), differentiable.

        D = 1: by quadrature, to 1e-6.  D > 1: the mean of ``-log_prob`` over 4096 draws of a fixed
        seed (use :meth:`entropy_bounds` for what is certain); the global generator is untouched.
        """
        if self.event_shape[0] == 1:
            flat = (a.double() for a in (self.logits, self.loc[..., 0], self.scale[..., 0]))
            return quadrature_entropy(*flat).to(self.loc.dtype)
        return -self.log_prob(self.rsample((DRAWS,), generator=self._fixed())).mean(0)

    def entropy_bounds(self) -> Bounds:
        """What the entropy lies between, in any dimension, (*), in closed form.

        References:
            M. F. Huber, T. Bailey, H. Durrant-Whyte, U. D. Hanebeck, On entropy approximation for
            Gaussian mixture random vectors, IEEE MFI (2008), theorems 2 and 3.
        """
        return Bounds(*entropy_bounds(self.logits, self.loc, self.scale_tril))

    def energy_score(
        self, y: Tensor, *, n_samples: int = 1024, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Energy score :math:`E|Y - y| - \tfrac12 E|Y - Y'|`, (*), in the unit of y.

        D = 1: the CRPS, exact.  D > 1: an estimate from draws, differentiable;
        :meth:`energy_score_estimate` gives its standard error too.

        References:
            T. Gneiting, A. E. Raftery, Strictly proper scoring rules, J. Am. Stat. Assoc. 102
            (2007), eq. 22.
        """
        if self.event_shape[0] == 1:
            return self.crps(y)
        return self.energy_score_estimate(y, n_samples=n_samples, generator=generator).value

    def energy_score_estimate(
        self, y: Tensor, *, n_samples: int = 1024, generator: torch.Generator | None = None
    ) -> Estimate:
        """The energy score from draws, with its standard error.

        Args:
            y: targets, (*, D).
            n_samples: pairs of draws.
            generator: source of randomness; one of a fixed seed if None.
        """
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2; got {n_samples}")
        y, *_ = self._with(y)
        draws = self.rsample((2, n_samples), generator=generator or self._fixed())
        draws = draws.reshape(2, n_samples, *(1,) * (y.ndim - self.loc.ndim + 1), *draws.shape[2:])
        near = torch.linalg.vector_norm(draws - y, dim=-1).mean(0)
        term = near - 0.5 * torch.linalg.vector_norm(draws[0] - draws[1], dim=-1)
        return Estimate(term.mean(0), term.detach().std(0) / math.sqrt(n_samples))

    # -- modes --------------------------------------------------------------------------------

    def modes(self) -> Modes:
        """All modes for D = 1; for D > 1 those that mean shift reaches from the components."""
        loc, log_density = mixture_modes(self.logits, self.loc, self.scale_tril)
        return Modes(loc.to(self.loc.dtype), log_density.to(self.loc.dtype))

    @property
    def mode(self) -> Tensor:
        """The first of :meth:`modes`, (*, D): for D = 1 the highest there is."""
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
        shape = torch.Size((sample_shape,) if isinstance(sample_shape, int) else sample_shape)
        n, (k, d) = self.batch_shape.numel(), self.loc.shape[-2:]
        diagonal = isinstance(self._covariance, Diagonal)
        factor = self.scale if diagonal else self.scale_tril
        y = mixture_sample(
            shape.numel(),
            self.logits.reshape(n, k),
            self.loc.reshape(n, k, d),
            factor.reshape(n, k, d, 1 if diagonal else d),
            generator,
        )
        return y.reshape(*shape, *self.batch_shape, d)

    def rsample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws that are differentiable in all parameters, the logits too.

        Implicit reparametrisation: a draw keeps its place :math:`u = F(y; \theta)`, so
        :math:`dy = -(\partial F/\partial y)^{-1}\, \partial F/\partial\theta\, d\theta`, with F the
        cdfs of each dimension given the ones before it.  First derivatives only.

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness; torch's global one if None.

        References:
            A. Graves, Stochastic backpropagation through mixture density distributions,
            arXiv 1607.05690 (2016).

            M. Figurnov, S. Mohamed, A. Mnih, Implicit reparameterization gradients, NeurIPS (2018).
        """
        y = self.sample(sample_shape, generator=generator)
        return implicit_sample(y, self._raw_logits, self.loc, self.scale_tril)

    # -- new mixtures from old ----------------------------------------------------------------

    def affine(self, shift: Tensor | float, scale: Tensor | float) -> GaussianMixture:
        """The mixture of ``shift + scale * y``: a change of unit, or of sign.

        Args:
            shift, scale: broadcast against (*, D); scale must not be 0.

        Raises:
            ValueError: a scale of 0, or one that is not finite.
        """
        b, c = self._per_dimension("shift", shift), self._per_dimension("scale", scale)
        if self._validate_args:
            refuse("shift", b, b.isfinite(), "be finite")
            refuse("scale", c, c.isfinite() & (c != 0), "be finite and not 0")
        whole = c.expand(*torch.broadcast_shapes(c.shape, self.loc.shape))
        return self._like(self._raw_logits, b + c * self.loc, self._covariance.affine(whole))

    def marginal(self, dims: int | Sequence[int]) -> GaussianMixture:
        """The mixture of some target dimensions.

        Args:
            dims: which ones, from 0; the result has them in this order.
        """
        index = self._dims(dims)
        return self._like(self._raw_logits, self.loc[..., index], self._covariance.marginal(index))

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
        value, logits, loc = self.marginal(known)._with(value, "value")
        posterior = self._covariance.marginal(known).log_responsibilities(value, logits, loc)
        gap = value.unsqueeze(-2) - self.loc[..., known]
        shift, covariance = self._covariance.condition(known, rest, gap)
        return self._like(posterior, self.loc[..., rest] + shift, covariance)

    def merge(self, n: int) -> GaussianMixture:
        """At most n components with the same mean and covariance.

        Components are joined two by two, each time where it changes the density least; the result
        has full covariances where D > 1, and is differentiable in this mixture's parameters.

        Args:
            n: components to keep, from 1 to K.

        Raises:
            ValueError: n below 1 or above K.

        References:
            A. R. Runnalls, Kullback-Leibler approach to Gaussian mixture reduction, IEEE Trans.
            Aerosp. Electron. Syst. 43 (2007).
        """
        k = self.n_components
        if not 1 <= n <= k:
            raise ValueError(f"n must be between 1 and the {k} components there are; got {n}")
        if n == k:
            return self
        # a covariance has the squared condition of its factor: in float64
        wide = self.to(torch.float64)
        logits, loc, covariance = merged(
            wide.logits, wide.loc, wide.scale, wide.covariance_matrix, n
        )
        return self._like(logits, loc, covariance).to(self.loc.dtype)

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
        mixtures, logits = pooled(mixtures, weights, "GaussianMixture")
        loc = torch.cat([m.loc for m in mixtures], -2)
        return mixtures[0]._like(logits, loc, joined([m._covariance for m in mixtures], 0))

    @staticmethod
    def cat(mixtures: Sequence[GaussianMixture], dim: int = 0) -> GaussianMixture:
        """Batches of mixtures one after the other, as ``torch.cat`` does with tensors.

        Mixtures of fewer components than others get more, of weight 0; different forms of
        covariance become full ones.

        Args:
            mixtures: of one event shape, with batch shapes that differ along ``dim`` only.
            dim: axis of the batch.

        Raises:
            ValueError: no mixture, or shapes that do not fit.
        """
        mixtures = list(mixtures)
        shapes = [(*m.batch_shape, *m.event_shape) for m in mixtures]
        rank = len(shapes[0]) - 1 if shapes else 0
        if not -rank <= dim < rank:
            raise ValueError(
                f"mixtures must hold at least one with a batch axis {dim}; got shapes {shapes}"
            )
        dim %= rank
        if len({(len(s), *s[:dim], *s[dim + 1 :]) for s in shapes}) > 1:
            raise ValueError(
                f"mixtures must have one event shape and one batch shape but for axis {dim}; "
                f"got {shapes}"
            )
        k = max(m.n_components for m in mixtures)
        logits = [torch.nn.functional.pad(m.logits, (0, k - m.n_components), value=-math.inf)
                  for m in mixtures]  # fmt: skip
        padded = [m._map(lambda a, e: _with_components(a, -e, k)) for m in mixtures]
        covariance = joined([m._covariance for m in padded], rank - dim)
        loc = torch.cat([m.loc for m in padded], dim)
        return mixtures[0]._like(torch.cat(logits, dim), loc, covariance)

    def rescale(
        self,
        scale: Tensor | float = 1.0,
        spread: Tensor | float = 1.0,
        *,
        mean: Tensor | None = None,
        weight_power: Tensor | float = 1.0,
        min_scale: float = 0.0,
    ) -> GaussianMixture:
        r"""Components of other scales, at other distances from the mean, with other weights.

        .. math::
            \mu_k \to m' + \text{spread} \, (\mu_k - m), \qquad
            \Sigma_k \to \text{scale}^2 \, \Sigma_k, \qquad
            \pi_k \to \pi_k^\text{weight\_power} / \textstyle\sum_j \pi_j^\text{weight\_power}

        with m the mean of this mixture.  Differentiable in every argument.

        Args:
            scale: positive factor of the standard deviations of the components, a number or (*, D).
            spread: factor of the distances of the component means from m, a number or (*, D).
            mean: the place m' of the mean, (*, D), in the unit of y; m if None.
            weight_power: of the weights; they become more equal below 1.
            min_scale: no diagonal component gets a smaller standard deviation.  Where it is not 0,
                other covariances are widened only, as their narrowest direction is not known.
        """
        scale, spread = (
            self._per_dimension(n, a) for n, a in (("scale", scale), ("spread", spread))
        )
        old = self.mean.unsqueeze(-2)  # (*, 1, D)
        loc = (old if mean is None else mean.unsqueeze(-2)) + spread * (self.loc - old)
        diagonal = isinstance(self._covariance, Diagonal)
        if min_scale and not diagonal:
            scale = scale.clamp(min=1.0)
        covariance = self._covariance.affine(scale.expand(loc.shape))
        if min_scale and diagonal:
            covariance = Diagonal(covariance.scale().clamp(min=min_scale))
        logits = self.logits
        if not isinstance(weight_power, float) or weight_power != 1.0:
            # 0 times -inf is NaN
            scaled = weight_power * logits.clamp(min=-1e30)
            logits = torch.where(logits == -math.inf, logits, scaled)
        return self._like(logits, loc, covariance)

    def truncate(self, low: Tensor | float, high: Tensor | float) -> TruncatedMixture:
        """The law of Y given low <= Y <= high; D = 1.

        Args:
            low, high: numbers or (*, 1), in the unit of y; may be infinite.
        """
        return TruncatedMixture(self, low, high)

    def discretize(self, width: float) -> DiscretizedMixture:
        """The law of Y rounded to the nearest multiple of a width: probabilities; D = 1.

        Args:
            width: of the rounding cell, in the unit of y.
        """
        return DiscretizedMixture(self, width)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> GaussianMixture:
        """The same mixtures under a larger batch shape, as views."""
        batch = torch.Size(batch_shape)
        return self._map(lambda a, e: a.expand(*batch, *a.shape[a.ndim - e :]))

    def __getitem__(self, index: Any) -> GaussianMixture:
        """Mixtures of the batch, by integer, slice, mask, index tensor or a tuple of them."""
        n = self.batch_shape.numel()
        where = torch.arange(n, device=self.loc.device).reshape(self.batch_shape)[index]
        return self._map(lambda a, e: a.reshape(n, *a.shape[a.ndim - e :])[where])

    def to(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        """The same mixture in another dtype or on another device, as ``Tensor.to``."""
        return self._map(lambda a, e: a.to(*args, **kwargs))

    def detach(self) -> GaussianMixture:
        """The same mixture, cut from the autograd graph."""
        return self._map(lambda a, e: a.detach())

    def numpy(self) -> dict[str, np.ndarray]:
        """The parameters as arrays: logits (normalised), loc, the covariance as it was given."""
        named = {"logits": self.logits, **self._named()}
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

    def _fixed(self) -> torch.Generator:
        """A generator of its own, always the same, and not that of a user's manual_seed(0)."""
        return torch.Generator(self.loc.device).manual_seed(_SEED)

    def _named(self) -> dict[str, Tensor]:
        cov = self._covariance.public()
        return {"loc": self.loc, **dict(zip(cov.names, cov.tensors, strict=True))}

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> GaussianMixture:
        """f(tensor, axes behind the batch) applied to every parameter."""
        return self._like(f(self._raw_logits, 1), f(self.loc, 2), self._covariance.map(f))

    def _like(self, logits: Tensor, loc: Tensor, covariance: Covariance) -> GaussianMixture:
        """A mixture of checked parameters that validates its arguments if this one does."""
        new = GaussianMixture.__new__(GaussianMixture)
        new._set(logits, loc, covariance, self._validate_args)
        return new

    def _scale_like(self, loc: Tensor) -> Tensor:
        """Scales with the leading axes that _aligned gave to loc."""
        return self.scale[(None,) * (loc.ndim - self.loc.ndim)]

    def _per_dimension(self, name: str, value: Tensor | float) -> Tensor:
        """A number or (*, D) against loc, (*, K, D)."""
        a = torch.as_tensor(value, dtype=self.loc.dtype, device=self.loc.device)
        d = self.loc.shape[-1]
        if a.ndim and a.shape[-1] not in (1, d):
            raise ValueError(f"{name} must be a number or (*, {d}); got shape {tuple(a.shape)}")
        return a.unsqueeze(-2) if a.ndim else a

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

    def _with(self, y: Tensor, name: str = "y") -> tuple[Tensor, Tensor, Tensor]:
        """y, logits and loc, checked, of one batch rank."""
        if not isinstance(y, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(y).__name__}")
        check_event(y, self.loc.shape[-1], name)
        if self._validate_args and y.is_floating_point() and bool(y.isnan().any()):
            row = tuple(y.isnan().any(-1).nonzero()[0].tolist())
            where = f"; row {row[0] if len(row) == 1 else row} is" if y.ndim > 1 else ""
            raise ValueError(f"{name} must not be NaN{where}")
        return self._aligned(y if y.is_floating_point() else y.to(self.loc.dtype), name)

    def _aligned(self, y: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
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
        return y, self._raw_logits[more], self.loc[more]

    def _scalar(self, what: str, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, logits, loc and scale without the event axis, for D = 1."""
        self._need_scalar(what)
        y, logits, loc = self._with(y)
        return y[..., 0], logits, loc[..., 0], self._scale_like(loc)[..., 0]

    def _need_scalar(self, what: str) -> None:
        if self.loc.shape[-1] != 1:
            raise ValueError(
                f"{what} needs one target dimension; this mixture has {self.loc.shape[-1]}. "
                "Take one with .marginal(dims)"
            )


def _with_components(a: Tensor, axis: int, n: int) -> Tensor:
    """At least n components along an axis: the first one again at the end."""
    shape = list(a.shape)
    shape[axis] = n - a.shape[axis]
    return torch.cat([a, a.narrow(axis, 0, 1).expand(shape)], axis) if shape[axis] > 0 else a

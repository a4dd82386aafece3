"""Mixtures of Gaussians, with diagonal, full or low-rank covariances."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, ParamSpec, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..arguments import check_generator, check_integer
from ..functional._arrays import numeric_tensor
from ..functional._checks import broadcast_shapes
from ..functional._integrals import entropy_bounds, log_overlaps, log_squared_norm
from ..functional._modes import mixture_modes
from ..functional._numerics import work_dtype
from ..functional._sampling import implicit_sample, mixture_sample
from ._base import DRAWS
from ._checks import check_shapes, check_values
from ._component_mixture import ComponentMixture, with_components
from ._covariance import Covariance, Diagonal, Full, LowRank, Packed, Precision, joined
from ._gaussian_law import GaussianLaw
from ._merging import merged
from ._results import Bounds, Estimate

__all__ = ["GaussianMixture"]

_P = ParamSpec("_P")
_KINDS: dict[tuple[str, ...], type[Covariance]] = {
    kind.names: kind for kind in (Diagonal, Full, Precision, LowRank)
}


def _in_float32(method: Callable[_P, Any]) -> Callable[_P, Any]:
    """The method of a mixture, done by its float32 twin where it is of half precision."""

    @functools.wraps(method)
    def ask(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        mixture: Any = args[0]
        dtype = mixture.loc.dtype
        if work_dtype(dtype) == dtype:
            return method(*args, **kwargs)
        return method(mixture.to(work_dtype(dtype)), *args[1:], **kwargs).to(dtype)  # type: ignore[arg-type]

    return ask


class GaussianMixture(ComponentMixture):
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
        self._init_checked(logits, loc, covariance.lower() if validate else covariance, validate)

    def _init_checked(
        self, logits: Tensor, loc: Tensor, covariance: Covariance, validate: bool
    ) -> None:
        k, d = loc.shape[-2:]
        if d == 1 and not isinstance(covariance, Diagonal):
            covariance = Diagonal(covariance.scale())
        batch = broadcast_shapes(
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
        new._init_checked(logits, loc, Packed(precision, lower), False)
        return new

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What :func:`mdn.save` writes: a description and the parameters."""
        return {}, {"logits": self._raw_logits, **self._located()}

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> GaussianMixture:
        """The mixture of which :meth:`state` was taken."""
        return cls(**tensors)  # type: ignore[arg-type]

    # -- parameters ---------------------------------------------------------------------------

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

    # -- moments ------------------------------------------------------------------------------

    @property
    @_in_float32
    def covariance(self) -> Tensor:
        """Covariance, (*, D, D), squared unit of y."""
        _, apart, _, w = self._centred()
        between = torch.einsum("...kd,...ke->...de", w * apart, apart)
        within = self.covariance_matrix.masked_fill((w == 0).unsqueeze(-1), 0.0)
        return (w.unsqueeze(-1) * within).sum(-3) + between

    @property
    @_in_float32
    def skewness(self) -> Tensor:
        """Third standardised central moment, (*, D)."""
        _, apart, scale, w = self._centred()
        unit = self.stddev.unsqueeze(-2)
        a, s = apart / unit, scale / unit  # w a^2 <= 1, so multiply in this order
        return (w * a * a * a + 3 * (w * s * s) * a).sum(-2)

    @property
    @_in_float32
    def kurtosis(self) -> Tensor:
        """Excess kurtosis, (*, D): 0 for a Gaussian."""
        _, apart, scale, w = self._centred()
        unit = self.stddev.unsqueeze(-2)
        a, s = apart / unit, scale / unit
        terms = (w * a * a) * (a * a) + 6 * (w * a * a) * (s * s) + 3 * (w * s * s) * (s * s)
        return terms.sum(-2) - 3

    # -- integrals ----------------------------------------------------------------------------

    @_in_float32
    def squared_norm(self) -> Tensor:
        """Integral of p squared, (*), in 1 / unit of y to the power D; closed form."""
        if isinstance(self._covariance, Diagonal):
            return log_squared_norm(self.logits, self.loc, self.scale).exp()
        pairs = log_overlaps(self.loc, self.scale_tril)
        t = self.logits.unsqueeze(-1) + self.logits.unsqueeze(-2) + pairs
        return torch.logsumexp(t.flatten(-2), -1).exp()

    def entropy_bounds(self) -> Bounds:
        """What the entropy lies between, in any dimension, (*), in closed form.

        References:
            M. F. Huber, T. Bailey, H. Durrant-Whyte, U. D. Hanebeck, On entropy approximation for
            Gaussian mixture random vectors, IEEE MFI (2008), theorems 2 and 3.
        """
        return Bounds(*entropy_bounds(self.logits, self.loc, self.scale_tril))

    def energy_score(
        self,
        y: Tensor | ArrayLike,
        *,
        n_samples: int = 1024,
        generator: torch.Generator | None = None,
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
        self,
        y: Tensor | ArrayLike,
        *,
        n_samples: int = 1024,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """The energy score from draws, with its standard error.

        Args:
            y: targets, (*, D).
            n_samples: pairs of draws.
            generator: source of randomness; one of a fixed seed if None.
        """
        check_integer("n_samples", n_samples, 2)
        check_generator(generator)
        y, _ = self._check_value(y)
        draws = self.rsample((2, n_samples), generator=generator or self._fixed_generator())
        draws = draws.reshape(2, n_samples, *(1,) * (y.ndim - self.loc.ndim + 1), *draws.shape[2:])
        near = torch.linalg.vector_norm(draws - y, dim=-1).mean(0)
        term = near - 0.5 * torch.linalg.vector_norm(draws[0] - draws[1], dim=-1)
        return Estimate(term.mean(0), term.detach().std(0) / math.sqrt(n_samples))

    # -- sampling -----------------------------------------------------------------------------

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

    @_in_float32
    def condition(self, dims: int | Sequence[int], value: Tensor | ArrayLike) -> GaussianMixture:
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
        given = self._marginal(known)
        value, dtype = given._check_value(value, "value")
        posterior = given._log_responsibilities(value).to(dtype)
        gap = value.unsqueeze(-2) - self.loc[..., known]
        shift, covariance = self._covariance.condition(known, rest, gap)
        return self._new(posterior, self.loc[..., rest] + shift, covariance)

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
        check_integer("n", n, None)
        if not 1 <= n <= k:
            raise ValueError(f"n must be between 1 and the {k} components there are; got {n}")
        if n == k:
            return self
        # a covariance has the squared condition of its factor: in float64
        wide = self.to(torch.float64)
        logits, loc, covariance = merged(
            wide.logits, wide.loc, wide.scale, wide.covariance_matrix, n
        )
        return self._new(logits, loc, covariance).to(self.loc.dtype)

    @_in_float32
    def linear(self, matrix: Tensor | ArrayLike) -> GaussianMixture:
        """The mixture of A y: of other dimensions, each a weighted sum of these.

        Args:
            matrix: A, (D, D), not singular; its unit is that of the new dimensions per y.

        Raises:
            ValueError: another shape, or a matrix that is singular or not finite.
        """
        a = numeric_tensor(matrix, "matrix").to(self.loc)
        d = self.event_shape[0]
        if a.shape != (d, d):
            raise ValueError(f"matrix must have shape ({d}, {d}); got {tuple(a.shape)}")
        if not bool(a.isfinite().all()) or int(torch.linalg.matrix_rank(a)) < d:
            raise ValueError("matrix must be finite and not singular, so that A y has a density")
        return self._new(self._raw_logits, self.loc @ a.mT, self._covariance.linear(a))

    @_in_float32
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
            min_scale: no diagonal component gets a smaller standard deviation; of other covariances
                no dimension gets a smaller one, given the others that come before or after it in
                their factor.  What is narrower already keeps its scale.
        """
        scale, spread = (
            a.unsqueeze(-2) if a.ndim else a
            for a in (self._per_dimension("scale", scale), self._per_dimension("spread", spread))
        )
        old = self.mean.unsqueeze(-2)  # (*, 1, D)
        loc = (old if mean is None else mean.unsqueeze(-2)) + spread * (self.loc - old)
        diagonal = isinstance(self._covariance, Diagonal)
        if min_scale and not diagonal:
            floor = min_scale / self._covariance.least_scale()  # (*, K, 1)
            scale = torch.maximum(scale, floor.clamp(max=1.0))
        # one factor of all scales is not expanded: the gradient's sum would round otherwise
        covariance = self._covariance.affine(scale if diagonal else scale.expand(loc.shape))
        if min_scale and diagonal:
            covariance = Diagonal(covariance.scale().clamp(min=min_scale))
        logits = self.logits
        if not isinstance(weight_power, float) or weight_power != 1.0:
            # 0 times -inf is NaN
            scaled = weight_power * logits.clamp(min=-1e30)
            logits = torch.where(logits == -math.inf, logits, scaled)
        return self._new(logits, loc, covariance)

    # -- hooks of the base class --------------------------------------------------------------

    @property
    def _reference(self) -> Tensor:
        return self.loc

    def _law(self) -> GaussianLaw:
        return GaussianLaw(self._raw_logits, self.loc[..., 0], self.scale[..., 0])

    def _log_prob(self, y: Tensor) -> Tensor:
        return self._covariance.log_prob(y, *self._aligned(y))

    def _log_prob_of_known(self, y: Tensor, known: Tensor) -> Tensor:
        """All patterns of gaps at once."""
        value = self._covariance.log_prob_of_known(y, known, *self._aligned(y))
        return torch.where(known.any(-1), value, 0.0)

    def _log_responsibilities(self, y: Tensor) -> Tensor:
        return self._covariance.log_responsibilities(y, *self._aligned(y))

    def _aligned(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights and means with as many batch axes as y."""
        more = (None,) * (y.ndim - self.loc.ndim + 1)
        return self._raw_logits[more], self.loc[more]

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

    @_in_float32
    def _mean(self) -> Tensor:
        return self._centred()[0]

    def _variance(self) -> Tensor:
        return self._stddev().square()

    @_in_float32
    def _stddev(self) -> Tensor:
        """Does not over- or underflow where its square would."""
        _, apart, scale, w = self._centred()
        size = torch.maximum(scale, apart.abs()).amax(-2, keepdim=True).detach()
        parts = (scale / size).square() + (apart / size).square()
        return size.squeeze(-2) * (w * parts).sum(-2).sqrt()

    def _modes(self) -> tuple[Tensor, Tensor]:
        wide = self.to(work_dtype(self.loc.dtype))
        return mixture_modes(wide.logits, wide.loc, wide.scale_tril)

    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
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

    def _sampled_entropy(self) -> Tensor:
        return -self.log_prob(self.rsample((DRAWS,), generator=self._fixed_generator())).mean(0)

    def _affine(self, shift: Tensor, scale: Tensor) -> GaussianMixture:
        b, c = (a.unsqueeze(-2) if a.ndim else a for a in (shift, scale))
        whole = c.expand(*broadcast_shapes(c.shape, self.loc.shape))
        return self._new(self._raw_logits, b + c * self.loc, self._covariance.affine(whole))

    def _marginal(self, dims: list[int]) -> GaussianMixture:
        return self._new(self._raw_logits, self.loc[..., dims], self._covariance.marginal(dims))

    def _pool(self, mixtures: Sequence[GaussianMixture], logits: Tensor) -> GaussianMixture:
        loc = torch.cat([m.loc for m in mixtures], -2)
        return self._new(logits, loc, joined([m._covariance for m in mixtures], 0))

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> GaussianMixture:
        return self._new(f(self._raw_logits, 1), f(self.loc, 2), self._covariance.map(f))

    def _cat(self, mixtures: Sequence[GaussianMixture], dim: int) -> GaussianMixture:
        k = max(m.n_components for m in mixtures)
        logits = [with_components(m._raw_logits, -1, k, -math.inf) for m in mixtures]
        padded = [m._map(lambda a, e: with_components(a, -e, k)) for m in mixtures]
        covariance = joined([m._covariance for m in padded], len(self.batch_shape) - dim)
        loc = torch.cat([m.loc for m in padded], dim)
        return self._new(torch.cat(logits, dim), loc, covariance)

    def _named(self) -> dict[str, Tensor]:
        """The covariance as it was given."""
        return {"logits": self.logits, **self._located()}

    def _located(self) -> dict[str, Tensor]:
        """All but the log weights."""
        cov = self._covariance.public()
        return {"loc": self.loc, **dict(zip(cov.names, cov.tensors, strict=True))}

    def _new(self, logits: Tensor, loc: Tensor, covariance: Covariance) -> GaussianMixture:
        """A mixture of checked parameters that validates its arguments if this one does."""
        new = GaussianMixture.__new__(GaussianMixture)
        new._init_checked(logits, loc, covariance, self._validate_args)
        return new

"""The contract of all mixture distributions: what one may ask, checked and documented once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from ..arguments import check_generator, check_integer
from ..functional._arrays import column_of, numeric_tensor
from ..functional._checks import (
    broadcast_shapes,
    check_batch,
    check_coverage,
    check_entries,
    check_event,
    check_levels,
    check_missing,
    check_not_nan,
    check_univariate,
)
from ._law import UnivariateLaw
from ._results import HDR, Modes
from ._rows import GRID, of_places, of_rows

__all__ = ["DRAWS", "MixtureDistribution"]

DRAWS = 4096  # of Monte Carlo estimates that have no other setting
_SEED = 6_364_136_223  # of draws without a generator; an unusual number, unlike those of users


class MixtureDistribution(Distribution, ABC):
    """A batch of mixture distributions over y in D dimensions.

    The event shape is always ``(D,)``, also when D is 1, and y is (*, D): a target of shape (N,)
    against a batch of N is refused, never broadcast to (N, N).  Methods marked D = 1 need one
    target dimension.  A target may be a tensor, an array, a data frame or nested lists, and for
    D = 1 also one number.  Where results are exact and where they are computed by quadrature
    depends on the class; either way they are tensors of the dtype of the parameters, or of that of
    y if it is wider.

    A subclass says what its parameters are (:meth:`_map`, :meth:`_named`), its log density and
    moments, and for D = 1 the :class:`UnivariateLaw` that answers everything else.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    # -- what a subclass defines --------------------------------------------------------------

    @property
    @abstractmethod
    def n_components(self) -> int:
        """Number of components K."""

    @property
    @abstractmethod
    def _reference(self) -> Tensor:
        """A parameter, of which dtype and device are those of the distribution."""

    @abstractmethod
    def _law(self) -> UnivariateLaw:
        """The distribution as a law on the line; D = 1."""

    @abstractmethod
    def _log_prob(self, y: Tensor) -> Tensor:
        """Log density at checked y, (*, D), of at least as many axes as the batch."""

    def _log_prob_of_known(self, y: Tensor, known: Tensor) -> Tensor:
        """Marginal log density of the dimensions of y (*, D) that are known; others are 0 in y."""
        dims = y.shape[-1]
        batch = broadcast_shapes(y.shape[:-1], self.batch_shape)
        y, known = (a.expand(*batch, dims).reshape(-1, dims) for a in (y, known))
        patterns, which = torch.unique(known, dim=0, return_inverse=True)  # at most 2^D
        out = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        for i, pattern in enumerate(patterns):
            columns = pattern.nonzero().squeeze(1).tolist()
            if columns:
                at = which == i
                part = self.expand(batch)[at.reshape(batch)]._of_dims(columns)
                out = out.index_put((at,), part._log_prob(y[at][:, columns]).double())
        return out.reshape(batch)

    def _of_dims(self, dims: list[int]) -> Self:
        """The distribution of some dimensions, counted from 0; all of them where D = 1."""
        return self

    def _mean(self) -> Tensor:
        """Mean, (*, D)."""
        return of_rows(self, lambda law: law.moments())[0].unsqueeze(-1)

    def _variance(self) -> Tensor:
        """Variance, (*, D)."""
        return of_rows(self, lambda law: law.moments())[1].unsqueeze(-1)

    def _stddev(self) -> Tensor:
        """Standard deviation, (*, D)."""
        return self._variance().sqrt()

    def _modes(self) -> tuple[Tensor, Tensor]:
        """Places (*, M, D) and log densities (*, M) of the modes."""
        self._need_one_dimension("modes")
        place, height = of_rows(self, lambda law: law.modes())
        return place.unsqueeze(-1), height

    @abstractmethod
    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Draws, shape + (*, D)."""

    @torch.no_grad()
    def _sampled_entropy(self) -> Tensor:
        """Mean of -log_prob over draws of a fixed seed; D > 1."""
        return -self._log_prob(self._sample(torch.Size([DRAWS]), self._fixed_generator())).mean(0)

    @abstractmethod
    def _affine(self, shift: Tensor, scale: Tensor) -> Self:
        """The law of ``shift + scale * y``, of checked numbers or (*, D)."""

    @abstractmethod
    def _map(self, f: Callable[[Tensor, int], Tensor]) -> Self:
        """The same kind with f(tensor, axes behind the batch) applied to every parameter."""

    @abstractmethod
    def _cat(self, mixtures: Sequence[Self], dim: int) -> Self:
        """Checked mixtures of this class, with this one first, along a batch axis."""

    @abstractmethod
    def _named(self) -> dict[str, Tensor]:
        """The parameters by name."""

    def _repr(self) -> dict[str, str]:
        """Fields of the repr besides the shapes."""
        return {"n_components": str(self.n_components)}

    # -- density ------------------------------------------------------------------------------

    def log_prob(self, y: Tensor | ArrayLike, *, missing: str = "refuse") -> Tensor:
        """Log density in nats, or log probability where y is discrete, (*); y is (*, D).

        Args:
            y: targets in the unit of the distribution.
            missing: what NaN in y means: ``"refuse"``, an error; ``"marginal"``, a dimension that
                is not known, so that a row counts by the marginal density of the dimensions that
                it has (exact; 0 for a row that has none).

        Raises:
            ValueError: y of another shape, or NaN where that is refused.
            TypeError: gaps among dimensions of components that are not independent, and no
                Gaussian.
        """
        check_missing(missing)
        gaps = missing == "marginal"
        at, dtype = self._check_value(y, gaps=gaps)
        if not gaps or not bool(at.isnan().any()):
            return self._log_prob(at).to(dtype)
        known = ~at.isnan()
        return self._log_prob_of_known(torch.where(known, at, 0.0), known).to(dtype)

    # -- probabilities, D = 1 -----------------------------------------------------------------

    def cdf(self, y: Tensor | ArrayLike) -> Tensor:
        """P(Y <= y), (*); D = 1, y is (*, 1)."""
        return self._answer("cdf", y, lambda law, at: law.cdf(at))

    def log_cdf(self, y: Tensor | ArrayLike) -> Tensor:
        """Log of P(Y <= y), (*), accurate in both tails; D = 1, y is (*, 1)."""
        return self._answer("log_cdf", y, lambda law, at: law.log_cdf(at))

    def log_sf(self, y: Tensor | ArrayLike) -> Tensor:
        """Log of P(Y > y), (*), accurate in both tails; D = 1, y is (*, 1)."""
        return self._answer("log_sf", y, lambda law, at: law.log_sf(at))

    def log_mass(self, low: Tensor | ArrayLike, high: Tensor | ArrayLike) -> Tensor:
        """Log of P(low <= Y <= high), (*), both ends included; D = 1.

        Accurate in both tails, for intervals much narrower than the scales and for those that hold
        nearly everything; ``-inf`` where low is above high.

        Args:
            low, high: numbers or (*, 1), in the unit of y; may be infinite.
        """
        self._need_one_dimension("log_mass")
        (low, one), (high, other) = self._check_value(low, "low"), self._check_value(high, "high")
        dtype = torch.promote_types(one, other)
        ends = low[..., 0], high[..., 0]
        shape = broadcast_shapes(ends[0].shape, ends[1].shape, self.batch_shape)
        at = (end.expand(shape) for end in ends)
        return of_places(self, lambda law, *at: law.log_mass(*at), *at).to(dtype)

    def icdf(self, p: Tensor | ArrayLike) -> Tensor:
        """Quantiles: the least y with P(Y <= y) >= p, (*, 1), in the unit of y; D = 1.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1], or D > 1.
        """
        self._need_one_dimension("icdf")
        own = self._reference
        # a number has no dtype of its own: it is taken at full precision
        dtype, given = own.dtype, torch.float64
        if isinstance(p, Tensor) and p.is_floating_point():
            dtype, given = torch.promote_types(p.dtype, dtype), p.dtype
        level = numeric_tensor(p, "p").to(own.device, torch.float64)
        check_levels(level)
        hint = f". For these levels of every mixture give {column_of('p', p)}"
        rank = len(
            check_batch("p", level.shape, self.batch_shape, hint=hint if level.ndim == 1 else "")
        )
        level = level[(None,) * (rank - level.ndim)]
        y = of_places(self, lambda law, p: law.icdf(p, given), level)
        return y.to(dtype).unsqueeze(-1)

    @property
    def median(self) -> Tensor:
        """Median, (*, 1); D = 1."""
        return self.icdf(0.5)

    def interval(self, coverage: float) -> Tensor:
        """Central interval, (*, 2): the quantiles (1 - coverage)/2 and (1 + coverage)/2; D = 1."""
        c = check_coverage(coverage)
        return torch.cat([self.icdf(0.5 - 0.5 * c), self.icdf(0.5 + 0.5 * c)], -1)

    @torch.no_grad()
    def hdr(self, coverage: float) -> HDR:
        """Highest-density region, D = 1: the smallest set of that probability.

        Not differentiable.  Point masses among continuous components come first, as intervals of
        length 0, and the threshold is ``inf`` where they suffice.  The region of a discrete
        distribution is the fewest values that hold at least the coverage; an interval then names
        its first and last.  Where the density is flat at the threshold, all of the flat is in.

        Args:
            coverage: probability of the region, in (0, 1).
        """
        c = check_coverage(coverage)
        self._need_one_dimension("hdr")
        intervals, log_level = of_rows(self, lambda law: law.hdr(c))
        dtype = self._reference.dtype
        return HDR(intervals.to(dtype), log_level.exp().to(dtype), c)

    @torch.no_grad()
    def modes(self) -> Modes:
        """Modes by falling density, NaN-padded.  Not differentiable.

        All of them for D = 1; for D > 1 those that mean shift reaches from the components.  There
        are K columns, or more if one of the mixtures has more modes: a beta density may have two.
        Point masses among continuous components come first, with the log of their mass.
        """
        place, height = self._modes()
        dtype = self._reference.dtype
        return Modes(place.to(dtype), height.to(dtype))

    @property
    def mode(self) -> Tensor:
        """The first of :meth:`modes`, (*, D): for D = 1 the highest there is."""
        return self.modes().loc[..., 0, :]

    def crps(self, y: Tensor | ArrayLike) -> Tensor:
        r"""Continuous ranked probability score, (*), in the unit of y; D = 1, y is (*, 1).

        .. math:: \int (F(x) - 1\{y \le x\})^2 \, dx

        In closed form (E. P. Grimit et al., Q. J. R. Meteorol. Soc. 132 (2006), eq. 5), by
        quadrature to 1e-7 relative, or by a sum over the values of a discrete distribution.
        Infinite where the mean is not defined for tails as heavy as Student's with df <= 1/2; then
        meaningless here.
        """
        return self._answer("crps", y, lambda law, at: law.crps(at), grid=GRID)

    # -- integrals ----------------------------------------------------------------------------

    def entropy(self) -> Tensor:
        """Entropy in nats, (*): the mean of ``-log_prob``, differentiable.

        D = 1: by quadrature to 1e-6, or by a sum over the values of a discrete distribution.
        D > 1: from 4096 draws of a fixed seed, the global generator untouched; without a gradient
        where draws have none.
        """
        dtype = self._reference.dtype
        if self.event_shape[0] == 1:
            return of_rows(self, lambda law: (law.entropy(),))[0].to(dtype)
        return self._sampled_entropy().to(dtype)

    @property
    def mean(self) -> Tensor:
        """Mean, (*, D); ``inf`` or ``-inf`` where it is infinite, NaN where it is not defined."""
        return self._mean().to(self._reference.dtype)

    @property
    def variance(self) -> Tensor:
        """Variance, (*, D), squared unit of y, within plus between the components; as the mean."""
        return self._variance().to(self._reference.dtype)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, (*, D), in the unit of y."""
        return self._stddev().to(self._reference.dtype)

    # -- sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws, sample_shape + (*, D).

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness; torch's global one if None.  Torch's families know the
                global one only, so for them it seeds that for the while, and its state is put back.
        """
        check_generator(generator)
        return self._sample(self._shape(sample_shape), generator)

    # -- others of the same kind --------------------------------------------------------------

    def affine(self, shift: Tensor | float, scale: Tensor | float) -> Self:
        """The distribution of ``shift + scale * y``: a change of unit, or of sign.

        Args:
            shift, scale: broadcast against (*, D); scale must not be 0.

        Raises:
            ValueError: a scale of 0, one that is not finite, or one that leads out of the kind.
            TypeError: components that are of no family closed under such a change.
        """
        b, c = self._per_dimension("shift", shift), self._per_dimension("scale", scale)
        if self._validate_args:
            check_entries("shift", b, b.isfinite(), "be finite")
            check_entries("scale", c, c.isfinite() & (c != 0), "be finite and not 0")
        return self._affine(b, c)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same distributions under a larger batch shape, as views."""
        batch = torch.Size(batch_shape)
        return self._map(lambda a, e: a.expand(*batch, *a.shape[a.ndim - e :]))

    def __getitem__(self, index: Any) -> Self:
        """Distributions of the batch, by integer, slice, mask, index tensor or a tuple of them."""
        n = self.batch_shape.numel()
        where = torch.arange(n, device=self._reference.device).reshape(self.batch_shape)[index]
        return self._map(lambda a, e: a.reshape(n, *a.shape[a.ndim - e :])[where])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same distribution in another dtype or on another device, as ``Tensor.to``."""
        return self._map(lambda a, e: a.to(*args, **kwargs))

    def detach(self) -> Self:
        """The same distribution, cut from the autograd graph."""
        return self._map(lambda a, e: a.detach())

    @classmethod
    def cat(cls, mixtures: Sequence[Self], dim: int = 0) -> Self:
        """Batches of mixtures one after the other, as ``torch.cat`` does with tensors.

        Mixtures of fewer components than others get more, of weight 0; Gaussian ones with different
        forms of covariance get full ones.

        Args:
            mixtures: of one class and one event shape, with batch shapes that differ along ``dim``
                only; components of the same families, and roundings of the same width.
            dim: axis of the batch.

        Raises:
            ValueError: no mixture, shapes that do not fit, or different widths.
            TypeError: different classes, or components of different families.
        """
        mixtures = list(mixtures)
        if not all(isinstance(m, MixtureDistribution) and type(m) is type(mixtures[0])
                   for m in mixtures):  # fmt: skip
            names = ", ".join(dict.fromkeys(type(m).__name__ for m in mixtures))
            raise TypeError(f"mixtures must be mixture distributions of one class; got {names}")
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
        return mixtures[0]._cat(mixtures, dim)

    def numpy(self) -> dict[str, np.ndarray]:
        """The parameters as arrays by name, log weights normalised."""
        # NumPy has no bfloat16
        return {
            name: (a.float() if a.dtype == torch.bfloat16 else a).detach().cpu().numpy()
            for name, a in self._named().items()
        }

    def __repr__(self) -> str:
        shapes = {"batch_shape": tuple(self.batch_shape), "event_shape": tuple(self.event_shape)}
        fields = ", ".join(f"{name}={value}" for name, value in {**shapes, **self._repr()}.items())
        return f"{type(self).__name__}({fields})"

    # -- checks -------------------------------------------------------------------------------

    def _check_value(
        self, y: Tensor | ArrayLike, name: str = "y", *, gaps: bool = False
    ) -> tuple[Tensor, torch.dtype]:
        """y (*, D), checked, floating, of as many axes as the common batch; dtype of the answer."""
        own, given = self._reference.dtype, y
        has_dtype = isinstance(y, Tensor) or hasattr(y, "dtype") or hasattr(y, "columns")
        y = numeric_tensor(y, name)
        if not isinstance(given, Tensor):
            y = y.to(self._reference.device)
        if not y.ndim and self.event_shape[0] == 1:
            y, has_dtype = y.reshape(1), False
        if not has_dtype:  # numbers have no dtype of their own: they are taken at full precision
            y = y.double()
        check_event(y, self.event_shape[0], name, given)
        if self._validate_args and not gaps:
            check_not_nan(y, name)
        batch = y.shape[:-1]
        if batch != self.batch_shape:
            missing = len(check_batch(name, batch, self.batch_shape)) - len(batch)
            y = y[(None,) * missing] if missing else y
        if y.dtype == own:
            return y, own
        if not y.is_floating_point():
            return y.double(), own
        return y, torch.promote_types(y.dtype, own) if has_dtype else own

    def _validate_sample(self, value: Tensor) -> None:
        self._check_value(value)

    def _need_one_dimension(self, what: str) -> None:
        check_univariate(what, self.event_shape[0], ". Take one with .marginal(dims)")

    def _answer(
        self,
        what: str,
        y: Tensor | ArrayLike,
        of: Callable[[UnivariateLaw, Tensor], Tensor],
        grid: int = 1,
    ) -> Tensor:
        """An answer of the law at y, (*); ``what`` is the method that was called."""
        self._need_one_dimension(what)
        y, dtype = self._check_value(y)
        return of_places(self, of, y[..., 0], grid=grid).to(dtype)

    def _per_dimension(self, name: str, value: Tensor | float) -> Tensor:
        """A number or (*, D), in the dtype of the distribution."""
        a = numeric_tensor(value, name).to(self._reference)
        d = self.event_shape[0]
        if a.ndim and a.shape[-1] not in (1, d):
            raise ValueError(f"{name} must be a number or (*, {d}); got shape {tuple(a.shape)}")
        return a

    @staticmethod
    def _shape(sample_shape: Iterable[int] | int) -> torch.Size:
        sizes = sample_shape if isinstance(sample_shape, Iterable) else (sample_shape,)
        for size in sizes:
            check_integer("sample_shape", size, 0)
        return torch.Size(sizes)

    def _fixed_generator(self) -> torch.Generator:
        """A new generator of a fixed seed, which is not that of a user's manual_seed(0)."""
        return torch.Generator(self._reference.device).manual_seed(_SEED)

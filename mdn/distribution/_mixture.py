"""Mixtures of any families: the contract of GaussianMixture, by numerics where no formula is."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, constraints

from ..functional._checks import check_event, check_weights
from ..functional._diagonal import log_weights
from ..functional._numerics import log_sum_exp, result_dtype
from ._checks import check_coverage, pooled
from ._components import Part, check_measure, checked_parts, name_of
from ._continuous import Line
from ._family_functions import is_atom, joined, moments, rebuilt
from ._results import HDR, Modes

__all__ = ["Mixture"]

_SAMPLE_CHUNK = 1 << 20  # draws made at a time, so that the working memory stays small
Change = Callable[[Tensor], Tensor]


class Mixture(Distribution):
    r"""Mixture of K components of any family, or of different families.

    .. math::
        p(y) = \sum_k \pi_k \, p_k(y), \qquad \pi = \mathrm{softmax}(\text{logits})

    ``components`` is one torch distribution whose last batch axis is K, with event shape (D,) or
    (): a univariate family of batch (*, K) is taken as D = 1, so that the event shape of the
    mixture is (1,) and y is (*, 1).  Or it is a list of K distributions of batch (*) with event (),
    (1,) or (D,).  It does all that torch's MixtureSameFamily does, and more.

    **Measure.** The families are all continuous, or all of whole numbers, and either may be joined
    by :class:`PointMass`.  Among continuous ones the density is with respect to Lebesgue's measure
    plus the counting measure at the point masses: at a y that equals the place of one (exactly, in
    float64), ``log_prob`` is the log of the mass there and the continuous components count as 0;
    elsewhere it is the log of the density.  The cdf jumps.  A region of highest density holds the
    point masses first, and ``modes`` lists them first, with the log of their mass.

    **Support.** Outside its support a component counts as ``-inf``, and so does a y outside all of
    them: no error, no NaN gradient.  A von Mises component lives on [-pi, pi]: its cdf begins at
    -pi, and mean and variance are those of the number y, not circular ones.

    **Accuracy** (all in float64 inside).  ``log_cdf`` and ``log_sf`` keep their digits in both
    tails for Normal, LogNormal, LogitNormal, Laplace, Logistic and Weibull; for the others to where
    a tail underflows (1e-308), and for the von Mises to 1e-14 absolute.  ``icdf`` solves to
    rounding.  ``modes`` solves for a zero of the slope; two modes closer than a tenth of a
    component's width may be taken for one.  ``hdr`` to 1e-8 in probability.  ``crps`` to 1e-7
    relative by quadrature, and for whole numbers by a sum that leaves out 1e-15 of either tail.

    **Gradients** reach y, logits and parameters through ``log_prob``, ``cdf``, ``log_cdf``,
    ``log_sf``, ``crps``, and through ``icdf`` (also p) for continuous families.  Those through an
    incomplete gamma or beta function (Student-t, gamma, beta, whole numbers) and through ``icdf``
    are of first order; those in its shapes are differences, good to 1e-8.  The place of a
    point mass has one only through ``icdf`` and ``mean``.

    A family that is not among Normal, LogNormal, LogitNormal, Laplace, Logistic, Weibull, StudentT,
    Gamma, Beta, VonMises, NegativeBinomial, Poisson and PointMass gets what its own ``cdf`` allows.

    Args:
        logits: log weights up to a constant, (*, K); ``-inf`` switches a component off.
        components: as above.
        validate_args: check values of logits and arguments; default as in torch.distributions.
            Shapes are always checked.

    Raises:
        ValueError: shapes that do not fit, a value out of its range, or densities together with
            probability masses other than PointMass.
        TypeError: logits is not a floating tensor, or components no distribution.

    Example:
        >>> from torch.distributions import Gamma
        >>> from mdn.distribution import PointMass
        >>> rain = Mixture(
        ...     torch.tensor([0.6, 0.4]).log(),
        ...     [PointMass(torch.tensor(0.0)), Gamma(torch.tensor(2.0), torch.tensor(0.5))],
        ... )
        >>> rain
        Mixture(batch_shape=(), event_shape=(1,), components=[PointMass, Gamma])
        >>> rain.cdf(torch.tensor([[-1.0], [0.0], [4.0]]))
        tensor([0.0000, 0.6000, 0.8376])
        >>> rain.icdf(torch.tensor([0.5, 0.9]))
        tensor([[0.0000],
                [5.3853]])

    References:
        C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        components: Distribution | Sequence[Distribution],
        *,
        validate_args: bool | None = None,
    ) -> None:
        parts, batch, dims = checked_parts(logits, components)
        self._set(logits, parts, batch, dims, validate_args)
        if self._validate_args:
            fine = logits < math.inf
            if not bool(fine.all()):
                at = tuple((~fine).nonzero()[0].tolist())
                raise ValueError(
                    f"logits must be less than inf and not NaN; got {logits[at].item():g} "
                    f"at index {at}"
                )
            check_weights(logits)

    def _set(
        self,
        logits: Tensor,
        parts: list[Part],
        batch: torch.Size,
        dims: int,
        validate_args: bool | None,
    ) -> None:
        self._raw_logits = logits.expand(*batch, logits.shape[-1])
        self._parts = [
            Part(_expanded(p.dist, (*batch, p.size) if p.stacked else batch), p.stacked)
            for p in parts
        ]
        self._float64: list[Part] | None = None
        super().__init__(batch, torch.Size([dims]), validate_args=False)
        self._validate_args = (
            Distribution._validate_args if validate_args is None else bool(validate_args)
        )

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
        return self._raw_logits.shape[-1]

    @property
    def components(self) -> Distribution | list[Distribution]:
        """What the mixture was made of, under its batch shape."""
        first, axis = self._parts[0], len(self.batch_shape)
        if len(self._parts) == 1 and first.stacked:
            return first.dist
        found: list[Distribution] = []
        for part in self._parts:
            if part.stacked:
                found += [
                    self._rebuilt(part.dist, partial(torch.select, dim=axis, index=k))
                    for k in range(part.size)
                ]
            else:
                found.append(part.dist)
        return found

    @property
    def mixture_distribution(self) -> Categorical:
        """The weights as a distribution, as MixtureSameFamily has it."""
        return Categorical(logits=self.logits)

    @property
    def component_distribution(self) -> Distribution | list[Distribution]:
        """The components, as MixtureSameFamily calls them."""
        return self.components

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The common support of the components, or the line if they have different ones."""
        found: list[Any] = [
            part.dist.support if part.dist.event_shape else _vector(part.dist.support)
            for part in self._parts
            if not is_atom(part.dist)
        ]
        first: constraints.Constraint = found[0] if found else constraints.real_vector
        alike = all(repr(other) == repr(first) for other in found)
        return first if alike and len(found) == len(self._parts) else constraints.real_vector

    # -- density ------------------------------------------------------------------------------

    def log_prob(self, y: Tensor) -> Tensor:
        """Log density in nats, (*); y is (*, D).  For the measure, see the class."""
        y, dtype = self._with(y)
        return log_sum_exp(self._line().log_terms(y)).to(dtype)

    def responsibilities(self, y: Tensor) -> Tensor:
        """Log posterior probability of the components given y, (*, K); NaN where p(y) = 0."""
        y, dtype = self._with(y)
        return torch.log_softmax(self._line().log_terms(y), -1).to(dtype)

    # -- moments ------------------------------------------------------------------------------

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (*, D), in float64; components of weight 0 do not count."""
        w = log_weights(self._raw_logits.double()).exp().unsqueeze(-1)  # (*, K, 1)
        off = w == 0
        pairs = []
        for part in self._work():
            for value in moments(part.dist):
                value = value if part.stacked else value.unsqueeze(len(self.batch_shape))
                pairs.append(value if part.dist.event_shape else value.unsqueeze(-1))
        loc, variance = (torch.cat(pairs[i::2], -2).masked_fill(off, 0.0) for i in (0, 1))
        mean = (w * loc).sum(-2)
        apart = (loc - mean.unsqueeze(-2)).masked_fill(off, 0.0)
        return mean, (w * (variance + apart.square())).sum(-2)

    @property
    def mean(self) -> Tensor:
        """Mean, (*, D)."""
        return self._moments()[0].to(self._dtype)

    @property
    def variance(self) -> Tensor:
        """Variance, (*, D), squared unit of y; within plus between the components."""
        return self._moments()[1].to(self._dtype)

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, (*, D)."""
        return self._moments()[1].sqrt().to(self._dtype)

    # -- one dimension ------------------------------------------------------------------------

    def cdf(self, y: Tensor) -> Tensor:
        """P(Y <= y), (*); D = 1, y is (*, 1)."""
        y, dtype = self._scalar("cdf", y)
        return self._line().log_cdf(y).exp().to(dtype)

    def log_cdf(self, y: Tensor) -> Tensor:
        """Log of P(Y <= y), (*); D = 1, y is (*, 1)."""
        y, dtype = self._scalar("log_cdf", y)
        return self._line().log_cdf(y).to(dtype)

    def log_sf(self, y: Tensor) -> Tensor:
        """Log of P(Y > y), (*); D = 1, y is (*, 1)."""
        y, dtype = self._scalar("log_sf", y)
        return self._line().log_sf(y).to(dtype)

    def icdf(self, p: Tensor | float) -> Tensor:
        """Quantiles, (*, 1), the least y with P(Y <= y) >= p, in the unit of y; D = 1.

        Args:
            p: levels in [0, 1], broadcast against the batch: for L levels of N mixtures give
                (L, 1) and get (L, N, 1).

        Raises:
            ValueError: a level outside [0, 1], or D > 1.
        """
        self._need_scalar("icdf")
        # a number has no dtype of its own: it is taken at full precision
        given = isinstance(p, Tensor) and p.is_floating_point()
        level = torch.as_tensor(p, device=self._raw_logits.device)
        slack = 4.0 * torch.finfo(level.dtype if given else torch.float64).eps
        dtype = result_dtype(level, self._raw_logits) if given else self._dtype
        if not isinstance(p, Tensor):
            level = torch.as_tensor(p, dtype=torch.float64, device=self._raw_logits.device)
        outside = (level < 0) | (level > 1)
        if bool(outside.any()):
            first = tuple(outside.nonzero()[0].tolist())
            where = f" at index {first}" if first else ""
            raise ValueError(f"p must lie in [0, 1]; got {level[first].item():g}{where}")
        self._check_batch(level.shape, "p")
        return self._line().icdf(level.double(), slack).to(dtype).unsqueeze(-1)

    @property
    def median(self) -> Tensor:
        """Median, (*, 1); D = 1."""
        return self.icdf(0.5)

    def interval(self, coverage: float) -> Tensor:
        """Central interval, (*, 2): the quantiles (1 - coverage)/2 and (1 + coverage)/2; D = 1."""
        c = check_coverage(coverage)
        return torch.cat([self.icdf(0.5 - 0.5 * c), self.icdf(0.5 + 0.5 * c)], -1)

    @torch.no_grad()
    def modes(self) -> Modes:
        """Modes by falling density, NaN-padded; D = 1.  Not differentiable.

        Point masses among continuous components come first, with the log of their mass.  There are
        K columns, or more if one of the mixtures has more modes: a beta density may have two.
        """
        self._need_scalar("modes")
        place, height = self._line().modes()
        return Modes(place.to(self._dtype).unsqueeze(-1), height.to(self._dtype))

    @property
    def mode(self) -> Tensor:
        """The highest mode, (*, 1); D = 1."""
        return self.modes().loc[..., 0, :]

    @torch.no_grad()
    def hdr(self, coverage: float) -> HDR:
        """Highest-density region; D = 1.  Not differentiable.

        Point masses among continuous components come first, as intervals of length 0, and the
        threshold is ``inf`` where they suffice.  The region of whole numbers is the fewest that
        hold at least the coverage; an interval then names its first and last number.  Where the
        density is flat at the threshold, as of a uniform, all of the flat is in.

        Args:
            coverage: probability of the region, in (0, 1).
        """
        c = check_coverage(coverage)
        self._need_scalar("hdr")
        intervals, log_level = self._line().hdr(c)
        return HDR(intervals.to(self._dtype), log_level.exp().to(self._dtype), c)

    def crps(self, y: Tensor) -> Tensor:
        r"""Continuous ranked probability score, (*), in the unit of y; D = 1.

        .. math:: \int (F(x) - 1\{y \le x\})^2 \, dx

        by quadrature to 1e-7 relative, or by a sum over whole numbers.  Infinite where the mean is
        not defined for tails as heavy as Student's with df <= 1/2; then meaningless here.
        """
        y, dtype = self._scalar("crps", y)
        return self._line().crps(y).to(dtype)

    # -- sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws, sample_shape + (*, D); only the chosen components are drawn.

        Args:
            sample_shape: shape of the draws per mixture.
            generator: source of randomness.  Torch's families know the global one only, so it
                seeds that for the while, and the global state is put back.  The global one itself
                if None.
        """
        shape = torch.Size((sample_shape,) if isinstance(sample_shape, int) else sample_shape)
        n, k, draws = self.batch_shape.numel(), self.n_components, shape.numel()
        device = self._raw_logits.device
        out = torch.empty(draws, n, self.event_shape[0], dtype=self._dtype, device=device)
        edges = log_weights(self._raw_logits.double()).exp().reshape(n, k).cumsum(-1)
        last = k - 1 - (self._raw_logits.reshape(n, k).flip(-1) > -math.inf).int().argmax(-1)
        # beyond the last component that is alive nothing may be chosen, whatever the rounding
        edges[torch.arange(k, device=device) >= last.unsqueeze(-1)] = math.inf
        step = max(1, _SAMPLE_CHUNK // max(1, n))
        with _seeded(generator, device):
            for i in range(0, draws, step):
                part = out[i : i + step]
                u = torch.rand(n, len(part), dtype=torch.float64, device=device)
                self._fill(part, torch.searchsorted(edges, u, right=True).t())
        return out.reshape(*shape, *self.batch_shape, *self.event_shape)

    def _fill(self, out: Tensor, which: Tensor) -> None:
        """Draws of the components ``which`` (S, n) into out (S, n, D)."""
        first = 0
        for part in self._parts:
            mine = (which >= first) & (which < first + part.size)
            draw, row = mine.nonzero(as_tuple=True)
            index = row * part.size + (which[draw, row] - first)
            lead = len(part.dist.batch_shape)
            first += part.size
            if not len(row):
                continue
            chosen = rebuilt(part.dist, partial(_picked, index=index, lead=lead))
            if chosen is not None:
                value = chosen.sample()
            else:  # its parameters are unknown: draw of all
                every = part.dist.sample((len(out),))
                value = every.reshape(len(out), -1, *part.dist.event_shape)[draw, index]
            out[draw, row] = value.reshape(len(row), -1).to(out.dtype)

    # -- new mixtures from old ----------------------------------------------------------------

    @staticmethod
    def pool(
        mixtures: Sequence[Mixture], weights: Tensor | Sequence[float] | None = None
    ) -> Mixture:
        """Linear pool: the average of the densities, one mixture with all the components.

        Args:
            mixtures: M mixtures of one event shape, with batch shapes that broadcast.
            weights: M non-negative numbers, normalised here; equal if None.

        Raises:
            ValueError: no mixture, different event shapes, weights that are no weights, or
                densities with probability masses.
        """
        mixtures, logits = pooled(mixtures, weights, "Mixture")
        parts = [part for m in mixtures for part in m._parts]
        check_measure(parts)
        if all(part.stacked for part in parts):  # one family again, if they are of one
            whole = joined([part.dist for part in parts])
            parts = parts if whole is None else [Part(whole, True)]
        return mixtures[0]._like(logits, parts, mixtures[0].batch_shape)

    def marginal(self, dims: int | Sequence[int]) -> Mixture:
        """The mixture of some target dimensions.

        Args:
            dims: which ones, from 0; the result has them in this order.

        Raises:
            ValueError: a dimension that is not there.
            TypeError: the dimensions of a component are not independent of each other.
        """
        index = [dims] if isinstance(dims, int) else list(dims)
        n = self.event_shape[0]
        if not index or not all(-n <= d < n for d in index):
            raise ValueError(f"dims must be among the {n} target dimensions; got {dims}")
        if n == 1:
            return self
        for part in self._parts:
            if not isinstance(part.dist, Independent):
                raise TypeError(
                    "marginal needs components of independent dimensions, as Independent(..., 1); "
                    f"got {name_of(part.dist)}"
                )
        parts = [
            Part(self._rebuilt(p.dist, lambda a: a[..., index]), p.stacked) for p in self._parts
        ]
        new = Mixture.__new__(Mixture)
        new._set(self._raw_logits, parts, self.batch_shape, len(index), self._validate_args)
        return new

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Mixture:
        """The same mixtures under a larger batch shape, as views."""
        batch = torch.Size(batch_shape)
        return self._like(self._raw_logits.expand(*batch, -1), self._parts, batch)

    def __getitem__(self, index: Any) -> Mixture:
        """Mixtures of the batch, by integer, slice, mask, index tensor or a tuple of them.

        Raises:
            TypeError: a component does not name its parameters.
        """
        n, axes = self.batch_shape.numel(), len(self.batch_shape)
        device = self._raw_logits.device
        where = torch.arange(n, device=device).reshape(self.batch_shape)[index]
        return self._changed(lambda p: p.reshape(n, *p.shape[axes:])[where], where.shape)

    def to(self, *args: Any, **kwargs: Any) -> Mixture:
        """The same mixture in another dtype or on another device, as ``Tensor.to``."""
        return self._changed(lambda p: p.to(*args, **kwargs), self.batch_shape)

    def detach(self) -> Mixture:
        """The same mixture, cut from the autograd graph."""
        return self._changed(lambda p: p.detach(), self.batch_shape)

    def __repr__(self) -> str:
        names = [name_of(part.dist) for part in self._parts]
        one = len(self._parts) == 1 and self._parts[0].stacked
        components = (
            f"components={names[0]}, n_components={self.n_components}"
            if one
            else f"components=[{', '.join(names)}]"
        )
        return (
            f"Mixture(batch_shape={tuple(self.batch_shape)}, "
            f"event_shape={tuple(self.event_shape)}, {components})"
        )

    # -- inside -------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return self._raw_logits.dtype

    def _work(self) -> list[Part]:
        """The components in float64, where their parameters are known, which refuse no y."""
        if self._float64 is None:
            self._float64 = []
            for part in self._parts:
                dist = rebuilt(part.dist, lambda p: p.double()) or part.dist
                self._float64.append(Part(_lenient(dist), part.stacked))
        return self._float64

    def _line(self) -> Line:
        return Line(log_weights(self._raw_logits.double()), self._work())

    def _like(self, logits: Tensor, parts: list[Part], batch: torch.Size) -> Mixture:
        """A mixture of checked parts that validates its arguments if this one does."""
        new = Mixture.__new__(Mixture)
        new._set(logits, parts, batch, self.event_shape[0], self._validate_args)
        return new

    def _changed(self, change: Change, batch: torch.Size) -> Mixture:
        """``change`` done to every parameter; it may alter the batch axes."""
        parts = [Part(self._rebuilt(part.dist, change), part.stacked) for part in self._parts]
        return self._like(change(self._raw_logits), parts, batch)

    @staticmethod
    def _rebuilt(dist: Distribution, change: Change) -> Distribution:
        new = rebuilt(dist, change)
        if new is None:
            raise TypeError(
                f"components must be made from the parameters they name; {name_of(dist)} is not. "
                "Index or convert its parameters, and make the mixture from those"
            )
        return new

    def _validate_sample(self, value: Tensor) -> None:
        self._with(value)

    def _with(self, y: Tensor) -> tuple[Tensor, torch.dtype]:
        """y, checked, in float64, and the dtype of the answer."""
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a torch.Tensor; got {type(y).__name__}")
        check_event(y, self.event_shape[0])
        if self._validate_args and y.is_floating_point() and bool(y.isnan().any()):
            row = tuple(y.isnan().any(-1).nonzero()[0].tolist())
            where = f"; row {row[0] if len(row) == 1 else row} is" if y.ndim > 1 else ""
            raise ValueError(f"y must not be NaN{where}")
        self._check_batch(y.shape[:-1], "y")
        floating = y.is_floating_point()
        return y.double(), result_dtype(y, self._raw_logits) if floating else self._dtype

    def _check_batch(self, batch: torch.Size, name: str) -> None:
        try:
            torch.broadcast_shapes(batch, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"{name} with batch shape {tuple(batch)} does not broadcast against the "
                f"batch shape {tuple(self.batch_shape)} of the mixture"
            ) from None

    def _scalar(self, what: str, y: Tensor) -> tuple[Tensor, torch.dtype]:
        """As _with, without the event axis, for D = 1."""
        self._need_scalar(what)
        y, dtype = self._with(y)
        return y[..., 0], dtype

    def _need_scalar(self, what: str) -> None:
        if self.event_shape[0] != 1:
            raise ValueError(
                f"{what} needs one target dimension; this mixture has {self.event_shape[0]}"
            )


def _picked(parameter: Tensor, index: Tensor, lead: int) -> Tensor:
    """Rows of a parameter whose first ``lead`` axes are one."""
    if not lead:
        return parameter.expand(len(index), *parameter.shape)
    return parameter.flatten(0, lead - 1)[index]


def _expanded(dist: Distribution, batch: Sequence[int]) -> Distribution:
    batch = torch.Size(batch)
    return dist if dist.batch_shape == batch else dist.expand(batch)


def _lenient(dist: Distribution) -> Distribution:
    """The same distribution, not validating its arguments."""
    new = copy.copy(dist)
    new._validate_args = False
    if hasattr(new, "base_dist"):
        new.base_dist = _lenient(new.base_dist)
    return new


def _vector(support: Any) -> constraints.Constraint:
    return constraints.independent(support, 1)


@contextlib.contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Torch's global generator seeded from another one for a while."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    cuda = device.type == "cuda"
    index = device.index if device.index is not None else 0
    with torch.random.fork_rng(devices=[index] if cuda else []):
        (torch.cuda.default_generators[index] if cuda else torch.default_generator).manual_seed(
            seed
        )
        yield

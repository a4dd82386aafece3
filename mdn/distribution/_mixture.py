"""Mixtures of any families, by numerics where there is no formula."""

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

from ..functional._checks import broadcast_shapes, check_entries
from ..functional._diagonal import log_weights
from ..functional._numerics import log_sum_exp
from ._component_mixture import ComponentMixture, with_components
from ._components import (
    ComponentGroup,
    Components,
    check_logits,
    check_measure,
    checked_groups,
    name_of,
)
from ._family_functions import is_atom, joined, parameters, rebuilt
from ._linked_law import LinkedLaw
from ._mixture_law import MixtureLaw, WholeNumberLaw

__all__ = ["Mixture"]

_SAMPLE_CHUNK = 1 << 20  # draws made at a time, so that the working memory stays small


class Mixture(ComponentMixture):
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
    tails for the families of closed form; for incomplete gamma and beta functions to where a tail
    underflows (1e-308), and for the von Mises to 1e-14 absolute.  ``icdf`` solves to
    rounding.  ``modes`` solves for a zero of the slope; two modes closer than a tenth of a
    component's width may be taken for one.  ``hdr`` to 1e-8 in probability.  ``crps`` to 1e-7
    relative by quadrature, and for whole numbers by a sum that leaves out 1e-15 of either tail.

    **Gradients** reach y, logits and parameters through ``log_prob``, ``cdf``, ``log_cdf``,
    ``log_sf``, ``crps``, and through ``icdf`` (also p) for continuous families.  Those through an
    incomplete gamma or beta function (Student-t, gamma, beta, whole numbers) and through ``icdf``
    are of first order, in forward mode too, and the former not by ``torch.func``; those in its
    shapes are differences, good to 1e-8.  The place of a
    point mass has one only through ``icdf`` and ``mean``.

    **Families.** In closed form: Normal, LogNormal, LogitNormal, HalfNormal, Laplace, Logistic,
    Cauchy, HalfCauchy, Weibull, Exponential, Gumbel, Kumaraswamy, Pareto, Geometric and PointMass.
    By incomplete gamma and beta functions: Gamma, Beta, StudentT, FisherSnedecor, Poisson,
    NegativeBinomial, Binomial.  By quadrature: VonMises.  A TransformedDistribution has the tails
    of its base if its transforms are monotone; any other family gets what its own ``cdf`` allows.
    Moments that torch lacks are integrated to 1e-7 relative.

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

    def __init__(
        self,
        logits: Tensor,
        components: Distribution | Sequence[Distribution],
        *,
        validate_args: bool | None = None,
    ) -> None:
        groups, batch, dims = checked_groups(logits, components)
        validate = Distribution._validate_args if validate_args is None else bool(validate_args)
        self._init_checked(logits, groups, batch, dims, validate)
        if validate:
            check_logits(logits)

    def _init_checked(
        self,
        logits: Tensor,
        groups: Sequence[ComponentGroup],
        batch: torch.Size,
        dims: int,
        validate: bool,
    ) -> None:
        self._raw_logits = logits.expand(*batch, logits.shape[-1])
        self._groups = [
            ComponentGroup(_expanded(g.dist, (*batch, g.size) if g.stacked else batch), g.stacked)
            for g in groups
        ]
        self._float64: list[ComponentGroup] | None = None
        super().__init__(batch, torch.Size([dims]), validate_args=False)
        self._validate_args = validate

    # -- components ---------------------------------------------------------------------------

    @property
    def components(self) -> Distribution | list[Distribution]:
        """What the mixture was made of, under its batch shape."""
        first, axis = self._groups[0], len(self.batch_shape)
        if len(self._groups) == 1 and first.stacked:
            return first.dist
        found: list[Distribution] = []
        for group in self._groups:
            if group.stacked:
                found += [
                    _rebuilt(group.dist, partial(torch.select, dim=axis, index=k))
                    for k in range(group.size)
                ]
            else:
                found.append(group.dist)
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
            group.dist.support if group.dist.event_shape else _vector(group.dist.support)
            for group in self._groups
            if not is_atom(group.dist)
        ]
        if any(_is_of_the_row(other) for other in found):
            whole = self._in_float64().is_discrete
            return _vector(constraints.nonnegative_integer) if whole else constraints.real_vector
        first: constraints.Constraint = found[0] if found else constraints.real_vector
        alike = all(repr(other) == repr(first) for other in found)
        atoms = [group.dist.mean.reshape(-1, 1) for group in self._groups if is_atom(group.dist)]
        inside = all(bool(first.check(place).all()) for place in atoms)
        return first if alike and inside else constraints.real_vector

    # -- counts -------------------------------------------------------------------------------

    def with_exposure(self, exposure: Tensor | float) -> Mixture:
        r"""The distribution of the count over an exposure e, where this one counts over 1.

        A Poisson rate :math:`\lambda` becomes :math:`e \lambda`.  A negative binomial is Poisson
        with a gamma distributed rate, which is multiplied by e too: its ``total_count`` stays and
        log e is added to its logits.  A point mass at 0 stays.

        Args:
            exposure: a number or (*, 1), positive: the time, area, distance or number of units over
                which is counted.

        Raises:
            ValueError: an exposure that is not positive and finite, or of another shape.
            TypeError: components that do not count.

        Example:
            >>> from torch.distributions import Poisson
            >>> Mixture(torch.zeros(1), Poisson(torch.tensor([0.5]))).with_exposure(8.0).mean
            tensor([4.])
        """
        e = self._per_dimension("exposure", exposure)
        check_entries("exposure", e, (e > 0) & (e < math.inf), "be positive and finite")
        batch = broadcast_shapes(self.batch_shape, e.shape[:-1])
        counts = [group.with_exposure(e) for group in self._groups]
        return self._new(self._raw_logits, counts, batch)

    # -- hooks of the base class --------------------------------------------------------------

    @property
    def _reference(self) -> Tensor:
        return self._raw_logits

    def _in_float64(self) -> Components:
        """Components that refuse no y, in float64 where their parameters are known."""
        if self._float64 is None:
            wide = []
            for group in self._groups:
                dist = rebuilt(group.dist, lambda p: p.double()) or group.dist
                wide.append(ComponentGroup(_unvalidated(dist), group.stacked))
            self._float64 = wide
        return Components(log_weights(self._raw_logits.double()), self._float64)

    def _law(self) -> MixtureLaw | WholeNumberLaw:
        components = self._in_float64()
        if components.is_discrete:
            return WholeNumberLaw(components)
        return (LinkedLaw if LinkedLaw.takes(components) else MixtureLaw)(components)

    def _log_prob(self, y: Tensor) -> Tensor:
        return log_sum_exp(self._in_float64().log_terms(y.double()))

    def _log_responsibilities(self, y: Tensor) -> Tensor:
        return torch.log_softmax(self._in_float64().log_terms(y.double()), -1)

    def _mean(self) -> Tensor:
        return self._in_float64().moments()[0]

    def _variance(self) -> Tensor:
        return self._in_float64().moments()[1]

    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Only the chosen components are drawn."""
        n, k, draws = self.batch_shape.numel(), self.n_components, shape.numel()
        device = self._raw_logits.device
        out = torch.empty(draws, n, self.event_shape[0], dtype=self._reference.dtype, device=device)
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
        for group in self._groups:
            mine = (which >= first) & (which < first + group.size)
            draw, row = mine.nonzero(as_tuple=True)
            index = row * group.size + (which[draw, row] - first)
            lead = len(group.dist.batch_shape)
            first += group.size
            if not len(row):
                continue
            chosen = rebuilt(group.dist, partial(_select_rows, index=index, lead=lead))
            if chosen is not None:
                value = chosen.sample()
            else:  # its parameters are unknown: draw of all
                every = group.dist.sample((len(out),))
                value = every.reshape(len(out), -1, *group.dist.event_shape)[draw, index]
            out[draw, row] = value.reshape(len(row), -1).to(out.dtype)

    def _affine(self, shift: Tensor, scale: Tensor) -> Mixture:
        moved = []
        for group in self._groups:
            new = group.affine(shift, scale)
            if new is None:
                raise TypeError(
                    "affine needs components that stay in their family, and "
                    f"{name_of(group.dist)} does not. Normal, Laplace, Logistic, StudentT, "
                    "Cauchy and PointMass take any change of unit; Gumbel a positive scale; "
                    "Exponential, Gamma, HalfCauchy, HalfNormal, LogNormal, Pareto and Weibull a "
                    "positive scale without shift"
                )
            moved.append(new)
        batch = broadcast_shapes(
            self.batch_shape, *(a.shape[:-1] for a in (shift, scale) if a.ndim)
        )
        return self._new(self._raw_logits, moved, batch)

    def _marginal(self, dims: list[int]) -> Mixture:
        if self.event_shape[0] == 1:
            return self
        for group in self._groups:
            if not isinstance(group.dist, Independent):
                raise TypeError(
                    "marginal needs components of independent dimensions, as Independent(..., 1); "
                    f"got {name_of(group.dist)}"
                )
        groups = [
            ComponentGroup(_rebuilt(g.dist, lambda a: a[..., dims]), g.stacked)
            for g in self._groups
        ]
        return self._new(self._raw_logits, groups, self.batch_shape, len(dims))

    def _pool(self, mixtures: Sequence[Mixture], logits: Tensor) -> Mixture:
        groups = [group for m in mixtures for group in m._groups]
        check_measure(groups)
        if all(group.stacked for group in groups):  # one family again, if they are of one
            whole = joined([group.dist for group in groups], len(self.batch_shape))
            groups = groups if whole is None else [ComponentGroup(whole, True)]
        return self._new(logits, groups, self.batch_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Mixture:
        batch = torch.Size(batch_shape)
        return self._new(self._raw_logits.expand(*batch, -1), self._groups, batch)

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> Mixture:
        axes = len(self.batch_shape)
        groups = [
            ComponentGroup(_rebuilt(g.dist, lambda p: f(p, p.ndim - axes)), g.stacked)
            for g in self._groups
        ]
        logits = f(self._raw_logits, 1)
        return self._new(logits, groups, logits.shape[:-1])

    def _cat(self, mixtures: Sequence[Mixture], dim: int) -> Mixture:
        columns = list(zip(*(m._groups for m in mixtures), strict=False))
        groups = [group for group in (_concatenated(c, dim) for c in columns) if group is not None]
        if any(len(m._groups) != len(groups) for m in mixtures):
            kinds = "; ".join(dict.fromkeys(m._repr()["components"] for m in mixtures))
            raise TypeError(
                "mixtures must have components of the same families in one order, given by the "
                f"same parameters; got {kinds}. Give all of them every family, with logit -inf "
                "where one has none"
            )
        logits = []
        for m in mixtures:
            parts = zip(m.logits.split([g.size for g in m._groups], -1), groups, strict=True)
            wide = [with_components(log_w, -1, g.size, -math.inf) for log_w, g in parts]
            logits.append(torch.cat(wide, -1))
        whole = torch.cat(logits, dim)
        return self._new(whole, groups, whole.shape[:-1])

    def _named(self) -> dict[str, Tensor]:
        """By name if the components are of one group, else by number and name."""
        found = {"logits": self.logits}
        for i, group in enumerate(self._groups):
            prefix = f"{i}." if len(self._groups) > 1 else ""
            for name, value in (parameters(group.dist) or {}).items():
                found[prefix + name] = value
        return found

    def _repr(self) -> dict[str, str]:
        names = [name_of(group.dist) for group in self._groups]
        if len(names) == 1 and self._groups[0].stacked:
            return {"components": names[0], **super()._repr()}
        return {"components": f"[{', '.join(names)}]"}

    def _new(
        self,
        logits: Tensor,
        groups: Sequence[ComponentGroup],
        batch: torch.Size,
        dims: int | None = None,
    ) -> Mixture:
        """A mixture of checked parameters that validates its arguments if this one does."""
        new = Mixture.__new__(Mixture)
        dims = self.event_shape[0] if dims is None else dims
        new._init_checked(logits, groups, batch, dims, self._validate_args)
        return new


def _rebuilt(dist: Distribution, change: Callable[[Tensor], Tensor]) -> Distribution:
    new = rebuilt(dist, change)
    if new is None:
        raise TypeError(
            f"components must be made from the parameters they name; {name_of(dist)} is not. "
            "Index or convert its parameters, and make the mixture from those"
        )
    return new


def _concatenated(groups: Sequence[ComponentGroup], dim: int) -> ComponentGroup | None:
    """One after the other along a batch axis; None if of several kinds."""
    stacked = groups[0].stacked
    if any(group.stacked != stacked for group in groups):
        return None
    size = max(group.size for group in groups) if stacked else 0  # which leaves the batch as it is
    dists = [
        _rebuilt(g.dist, partial(with_components, axis=len(g.dist.batch_shape) - 1, n=size))
        for g in groups
    ]
    whole = joined(dists, dim)
    return None if whole is None else ComponentGroup(whole, stacked)


def _select_rows(parameter: Tensor, index: Tensor, lead: int) -> Tensor:
    """Rows of a parameter whose first ``lead`` axes are one."""
    if not lead:
        return parameter.expand(len(index), *parameter.shape)
    return parameter.flatten(0, lead - 1)[index]


def _expanded(dist: Distribution, batch: Sequence[int]) -> Distribution:
    batch = torch.Size(batch)
    return dist if dist.batch_shape == batch else dist.expand(batch)


def _unvalidated(dist: Distribution) -> Distribution:
    """The same distribution, not validating its arguments."""
    new = copy.copy(dist)
    new._validate_args = False
    if hasattr(new, "base_dist"):
        new.base_dist = _unvalidated(new.base_dist)
    return new


def _is_of_the_row(support: Any) -> bool:
    """Whether the support depends on the parameters of a component."""
    ends = vars(getattr(support, "base_constraint", support)).values()
    return any(isinstance(end, Tensor) and end.ndim > 0 for end in ends)


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

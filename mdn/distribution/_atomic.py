"""A mixture with a density beside values that have a probability of their own; D = 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from ..functional._checks import (
    broadcast_batches,
    broadcast_shapes,
    check_entries,
    check_tensor,
    check_univariate,
    check_weights,
)
from ..functional._diagonal import log_weights
from ..functional._numerics import log1m_exp, log_from_smaller_tail, log_sum_exp
from ._base import MixtureDistribution
from ._continuous import ContinuousLaw
from ._law import UnivariateLaw, by_falling_density, padded
from ._truncated import base_law

__all__ = ["AtomicMixture"]


class AtomicMixture(MixtureDistribution):
    r"""A univariate mixture beside atoms: values that have a probability, as the 0 of rain.

    .. math::
        P(Y = a_i) = \pi_i, \qquad p(y) = \pi_0 \, p_{\text{base}}(y) \ \text{elsewhere}, \qquad
        \pi_0 + \sum_i \pi_i = 1

    **Measure.** ``log_prob`` is the log of the density with respect to Lebesgue's measure plus the
    counting measure on the atoms: at an atom (exactly, in float64) the log of its probability,
    where the base counts as 0; elsewhere the log density, per unit of y.  So are entropy, modes
    and region: the atoms come first, the likeliest before the others.  The cdf jumps at an atom,
    and so does the PIT, which :func:`mdn.scoring.randomized_pit` draws from the jump.
    ``log_mass(a, a)`` is the log of P(Y = a).

    Everything is in closed form where it is for the base.  With the base's CRPS :math:`S` it is

    .. math::
        \pi_0 \Bigl[S(y) - \sum_i \pi_i S(a_i)\Bigr] + \sum_i \pi_i |a_i - y|
        - \tfrac12 \sum_{ij} \pi_i \pi_j |a_i - a_j|

    A mixture of other parts, as zero-inflated counts, is a :class:`mdn.Mixture` that has
    :class:`mdn.distribution.PointMass` among its components.

    Args:
        base: a mixture with D = 1 and a density.
        atoms: places a of the A atoms, in the unit of y, (*, A), finite and different.
        logits: log weights up to a constant, (*, A + 1): of the atoms in their order, then of the
            base; ``-inf`` for a weight of 0.
        validate_args: check values of atoms, logits and arguments; default as in base.

    Raises:
        ValueError: D > 1, shapes that do not fit, or values out of their range.
        TypeError: the base has probability masses, or atoms or logits are no tensors.

    Example:
        >>> from mdn import GaussianMixture
        >>> base = GaussianMixture(torch.zeros(1), torch.full((1, 1), 2.0), torch.ones(1, 1))
        >>> rain = AtomicMixture(base, torch.tensor([0.0]), torch.tensor([0.6, 0.4]).log())
        >>> rain
        AtomicMixture(batch_shape=(), event_shape=(1,), n_components=2, atoms=[0])
        >>> rain.log_mass(0.0, 0.0).exp()
        tensor(0.6000)
        >>> rain.icdf(torch.tensor([0.005, 0.5, 0.9]))
        tensor([[-0.2414],
                [ 0.0000],
                [ 2.6745]])
    """

    support = constraints.real_vector

    def __init__(
        self,
        base: MixtureDistribution,
        atoms: Tensor,
        logits: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        check_univariate("AtomicMixture", base.event_shape[0], ". Take one with .marginal(dims)")
        base_law(base, "AtomicMixture")
        for name, value in (("atoms", atoms), ("logits", logits)):
            check_tensor(name, value)
        if not atoms.ndim or not logits.ndim or logits.shape[-1] != atoms.shape[-1] + 1:
            raise ValueError(
                "logits must have shape (*, A + 1) for atoms (*, A), the last one of the base; "
                f"got {tuple(logits.shape)} and {tuple(atoms.shape)}"
            )
        batch = broadcast_batches(
            (base.batch_shape, atoms.shape[:-1], logits.shape[:-1]),
            {"base": base.batch_shape, "atoms": atoms.shape, "logits": logits.shape},
        )
        validate = base._validate_args if validate_args is None else bool(validate_args)
        atoms, logits = (a.to(base._reference) for a in (atoms, logits))
        self._init_checked(base, atoms, logits, batch, validate)
        if validate:
            check_entries("atoms", atoms, atoms.isfinite(), "be finite")
            check_entries("logits", logits, logits < math.inf, "be less than inf and not NaN")
            check_weights(logits)
            ordered = atoms.sort(-1).values
            check_entries("atoms", ordered[..., 1:], ordered.diff() > 0, "be different")

    def _init_checked(
        self,
        base: MixtureDistribution,
        atoms: Tensor,
        logits: Tensor,
        batch: torch.Size,
        validate: bool,
    ) -> None:
        self.base = base if base.batch_shape == batch else base.expand(batch)
        self.atoms = atoms.expand(*batch, atoms.shape[-1])
        self._raw_logits = logits.expand(*batch, logits.shape[-1])
        super().__init__(batch, base.event_shape, validate_args=False)
        self._validate_args = validate

    @property
    def n_components(self) -> int:
        """Number of components of the base, and atoms."""
        return self.base.n_components + self.atoms.shape[-1]

    @property
    def logits(self) -> Tensor:
        """Normalised log weights of the atoms, then of the base, (*, A + 1)."""
        return log_weights(self._raw_logits)

    @property
    def atom_probs(self) -> Tensor:
        """Probabilities of the atoms, (*, A)."""
        return self.logits[..., :-1].exp()

    @property
    def _reference(self) -> Tensor:
        return self._raw_logits

    def _law(self) -> _AtomicLaw:
        law = base_law(self.base, "AtomicMixture").in_float64()
        return _AtomicLaw(law, self.atoms.double(), log_weights(self._raw_logits.double()))

    def _log_prob(self, y: Tensor) -> Tensor:
        log_w, y = log_weights(self._raw_logits.double()), y.double()
        hit = y == self.atoms.double()  # (*, A)
        at_atom = log_w[..., :-1].masked_fill(~hit, -math.inf).amax(-1)
        elsewhere = log_w[..., -1] + self.base._log_prob(y)
        return torch.where(hit.any(-1), at_atom, elsewhere)

    def _sample(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        y = self.base._sample(shape, generator)
        edges = self.logits.double().exp().cumsum(-1)[..., :-1].contiguous()  # (*, A)
        u = torch.rand(
            (*shape, *self.batch_shape, 1), generator=generator, dtype=edges.dtype, device=y.device
        )
        edges = edges.expand(*u.shape[:-1], edges.shape[-1])
        which = (u >= edges).sum(-1, keepdim=True)  # A where it is none of the atoms
        places = torch.cat([self.atoms.expand(edges.shape), y], -1)
        return places.gather(-1, which)

    def _affine(self, shift: Tensor, scale: Tensor) -> AtomicMixture:
        atoms = shift + scale * self.atoms
        base = self.base.affine(shift, scale)
        batch = broadcast_shapes(base.batch_shape, atoms.shape[:-1])
        return self._new(base, atoms, self._raw_logits, batch)

    def _map(self, f: Callable[[Tensor, int], Tensor]) -> AtomicMixture:
        atoms = f(self.atoms, 1)
        return self._new(self.base._map(f), atoms, f(self._raw_logits, 1), atoms.shape[:-1])

    def _cat(self, mixtures: Sequence[AtomicMixture], dim: int) -> AtomicMixture:
        counts = [m.atoms.shape[-1] for m in mixtures]
        if len(set(counts)) > 1:
            raise ValueError(f"mixtures must have equally many atoms; got {counts}")
        atoms, logits = (
            torch.cat([getattr(m, name) for m in mixtures], dim) for name in ("atoms", "logits")
        )
        base = self.base.cat([m.base for m in mixtures], dim)
        return self._new(base, atoms, logits, atoms.shape[:-1])

    def _new(
        self, base: MixtureDistribution, atoms: Tensor, logits: Tensor, batch: torch.Size
    ) -> AtomicMixture:
        """One of checked parameters that validates its arguments if this one does."""
        new = AtomicMixture.__new__(AtomicMixture)
        new._init_checked(base, atoms, logits, batch, self._validate_args)
        return new

    def _named(self) -> dict[str, Tensor]:
        return {**self.base._named(), "atoms": self.atoms, "atom_probs": self.atom_probs}

    def _repr(self) -> dict[str, str]:
        places = self.atoms.detach().reshape(-1, self.atoms.shape[-1])
        same = len(places) and bool((places == places[0]).all())
        text = ", ".join(f"{a:g}" for a in places[0].tolist()) if same else ""
        atoms = f"[{text}]" if same else f"<tensor {tuple(self.atoms.shape)}>"
        return {**super()._repr(), "atoms": atoms}


class _AtomicLaw(UnivariateLaw):
    """A law beside atoms.

    Args:
        base: of weight ``log_w[..., -1]``, float64.
        atoms: (*, A).
        log_w: normalised, (*, A + 1).
    """

    def __init__(self, base: ContinuousLaw, atoms: Tensor, log_w: Tensor) -> None:
        self.base, self.log_c = base, log_w[..., -1]
        self.atoms, order = atoms.sort(dim=-1)
        self.log_w = log_w[..., :-1].gather(-1, order)
        self.n_components = base.n_components + atoms.shape[-1]

    # -- probabilities ------------------------------------------------------------------------

    def _log_tails(self, y: Tensor) -> tuple[Tensor, Tensor]:
        y = y.double()
        below = self.atoms <= y.unsqueeze(-1)
        lower, upper = self.base.log_tails(y)
        return self._with_atoms(lower, below), self._with_atoms(upper, ~below)

    def _with_atoms(self, log_p: Tensor, chosen: Tensor) -> Tensor:
        """Log of the probability of a set that has this one under the base; atoms in it, (*, A)."""
        own = (self.log_c + log_p).unsqueeze(-1)
        atoms = self.log_w.expand(chosen.shape).masked_fill(~chosen, -math.inf)
        return log_sum_exp(torch.cat([atoms, own], -1))

    def log_cdf(self, y: Tensor) -> Tensor:
        return log_from_smaller_tail(*self._log_tails(y))

    def log_sf(self, y: Tensor) -> Tensor:
        lower, upper = self._log_tails(y)
        return log_from_smaller_tail(upper, lower)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        low, high = low.double(), high.double()
        inside = self.base.log_mass(low, high)
        chosen = (self.atoms >= low.unsqueeze(-1)) & (self.atoms <= high.unsqueeze(-1))
        outside = self._with_atoms(log1m_exp(inside.clamp(max=0.0)), ~chosen)
        return log_from_smaller_tail(self._with_atoms(inside, chosen), outside)

    # -- quantiles ----------------------------------------------------------------------------

    def icdf(self, p: Tensor, given: torch.dtype = torch.float64) -> Tensor:
        """An atom if p is in its jump, else the quantile of the base at what p leaves for it."""
        p = p.expand(broadcast_shapes(p.shape, self.log_c.shape))
        w = self.log_w.exp()
        # the level of the base is counted from the nearer end, where it has its digits
        from_below, from_above = p, 1.0 - p
        low, high = (torch.full_like(p, end) for end in (-math.inf, math.inf))
        at, jumps = torch.zeros_like(p), torch.zeros_like(p, dtype=torch.bool)
        for place, weight in zip(self.atoms.unbind(-1), w.unbind(-1), strict=True):
            with torch.no_grad():
                lower, upper = (tail.exp() for tail in self._log_tails(place))
                # in the dtype of p, so that the quantile of a cdf is the atom that it came from
                level = p.to(given)
                reached = (lower.to(given) >= level) | ((1.0 - upper).to(given) >= level)
                started = ((lower - weight).to(given) < level) & (weight > 0)
            here = reached & started & (p > 0)
            at, jumps = torch.where(here, place, at), jumps | here
            from_below = torch.where(reached, from_below, from_below - weight)
            from_above = torch.where(reached, from_above - weight, from_above)
            low = torch.where(reached, low, torch.maximum(low, place))
            high = torch.where(reached, torch.minimum(high, place), high)
        share = self.log_c.exp()
        one = torch.ones_like(share)
        share = torch.where(share > 0, share, one)
        u = torch.where(p > 0.5, 1.0 - from_above / share, from_below / share).clamp(0.0, 1.0)
        least, most = (self._end(upper) for upper in (False, True))
        inside = (p > 0) & (p < 1) & ~jumps
        y = self.base.icdf(torch.where(inside, u, 0.5), given)
        y = torch.minimum(torch.maximum(y, low), high)  # u is rounded
        y = torch.where(p == 0, least, torch.where(p == 1, most, torch.where(inside, y, p)))
        return torch.where(jumps & (p < 1), at, y)

    def _end(self, upper: bool) -> Tensor:
        """End of the support, (*)."""
        own = self.base.ends()[upper].detach()
        away = -math.inf if upper else math.inf
        own = torch.where(self.log_c > -math.inf, own, away).unsqueeze(-1)
        atoms = self.atoms.masked_fill(self.log_w == -math.inf, away)
        every = torch.cat([atoms, own.expand(*atoms.shape[:-1], 1)], -1)
        return every.amax(-1) if upper else every.amin(-1)

    # -- modes and regions --------------------------------------------------------------------

    def _by_falling_mass(self) -> tuple[Tensor, Tensor]:
        """Atoms with a probability, and its log."""
        return by_falling_density(self.atoms, self.log_w, self.log_w > -math.inf)

    def modes(self) -> tuple[Tensor, Tensor]:
        """Atoms come first, with the log of their mass: they are infinitely dense."""
        place, height = self.base.modes()
        height = height.double() + self.log_c.unsqueeze(-1)
        gone = height == -math.inf
        place, height = (a.double().masked_fill(gone, math.nan) for a in (place, height))
        at, log_mass = self._by_falling_mass()
        place, height = torch.cat([at, place], -1), torch.cat([log_mass, height], -1)
        order = height.isnan().int().argsort(dim=-1, stable=True)
        place, height = place.gather(-1, order), height.gather(-1, order)
        return padded(place, self.n_components), padded(height, self.n_components)

    def hdr(self, coverage: float) -> tuple[Tensor, Tensor]:
        """The atoms first, the likeliest before; the density is for what they leave."""
        place, log_mass = self._by_falling_mass()
        mass = log_mass.exp().nan_to_num()
        before = mass.cumsum(-1) - mass
        points = torch.where((before < coverage - 1e-12) & (mass > 0), place, math.nan)
        share = self.log_c.exp()
        left = coverage - mass.sum(-1)
        enough = (left <= 1e-12) | (share == 0)
        # some target has to be reached also where nothing is left
        wanted = torch.where(enough, 0.5, left / torch.where(enough, 1.0, share))
        intervals, log_level = self.base.region(wanted)
        intervals = intervals.masked_fill(enough[..., None, None], math.nan)
        at = points.unsqueeze(-1)
        inside = (at >= intervals[..., None, :, 0]) & (at <= intervals[..., None, :, 1])
        points = points.masked_fill(inside.any(-1), math.nan)
        both = torch.cat([torch.stack([points, points], -1), intervals], -2)
        lowest = both[..., 0].nan_to_num(nan=math.inf)
        order = lowest.argsort(dim=-1, stable=True).unsqueeze(-1)
        both = padded(both.gather(-2, order.expand(both.shape)), self.n_components, -2)
        return both, torch.where(enough, math.inf, log_level + self.log_c)

    # -- integrals ----------------------------------------------------------------------------

    def crps(self, y: Tensor) -> Tensor:
        y = y.double()
        w, share = self.log_w.exp(), self.log_c.exp()
        at_y = self.base.crps(y)
        at_atoms = torch.stack([self.base.crps(a) for a in self.atoms.unbind(-1)], -1)  # (*, A)
        own = share * (at_y - (w * at_atoms).sum(-1))
        near = (w * (self.atoms - y.unsqueeze(-1)).abs()).sum(-1)
        apart = (self.atoms.unsqueeze(-1) - self.atoms.unsqueeze(-2)).abs()  # (*, A, A)
        pairs = (w.unsqueeze(-1) * w.unsqueeze(-2) * apart).sum((-2, -1))
        return torch.where(share > 0, own, 0.0) + near - 0.5 * pairs

    def entropy(self) -> Tensor:
        """With respect to length and to the number of atoms, as log_prob is."""
        log_w = torch.cat([self.log_w, self.log_c.unsqueeze(-1)], -1)
        own = -(log_w.exp() * log_w.masked_fill(log_w == -math.inf, 0.0)).sum(-1)
        return own + self.log_c.exp() * self.base.entropy()

    def moments(self) -> tuple[Tensor, Tensor]:
        w = torch.cat([self.log_w, self.log_c.unsqueeze(-1)], -1).exp()  # (*, A + 1)
        mean, variance = (a.masked_fill(w[..., -1] == 0, 0.0) for a in self.base.moments())
        every = torch.cat([self.atoms, mean.unsqueeze(-1)], -1)
        whole = (w * every).sum(-1)
        spread = (w * (every - whole.unsqueeze(-1)).square()).sum(-1)
        total = spread + w[..., -1] * variance
        return whole, total.masked_fill(whole.isinf(), math.inf)

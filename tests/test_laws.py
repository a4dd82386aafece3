"""Laws every GaussianMixture obeys, on random ones, and the contract of torch.distributions.

Units are powers of two: a change of unit is then exact, so that a law may be held to the last
digits at scales from 1e-6 to 1e6.
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    constraints,
)

import mdn
from mdn.distribution import GaussianMixture
from mdn.functional import gaussian_mixture_log_prob

F64 = torch.float64
EPS = 2.0**-52
KINDS = ["scale", "scale_tril", "precision_tril", "low_rank"]
each_kind = pytest.mark.parametrize("kind", KINDS)
few = settings(max_examples=30)
some = settings(max_examples=60)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moderate(kind: str, *batch: int, k: int = 3, d: int = 2, seed: int = 0) -> GaussianMixture:
    """Scales from 0.5 to 1.5, means within a few of them, correlations of any sign."""
    gen = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, k, *shape, generator=gen, dtype=F64)

    def positive(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*batch, k, *shape, generator=gen, dtype=F64)

    logits, loc = 2 * normal(), 2 * normal(d)
    if kind == "scale":
        return GaussianMixture(logits, loc, positive(d))
    if kind == "low_rank":
        return GaussianMixture(logits, loc, cov_factor=normal(d, 2), cov_diag=positive(d))
    factor = 0.6 * normal(d, d).tril(-1) + torch.diag_embed(positive(d))
    return GaussianMixture(logits, loc, **{kind: factor})


def parameters(dist: GaussianMixture) -> dict[str, Tensor]:
    return {name: torch.from_numpy(a) for name, a in dist.numpy().items()}


class Drawn(NamedTuple):
    """A random mixture, its unit in each dimension, its offset in units, a source of targets."""

    dist: GaussianMixture
    unit: Tensor
    offset: float
    seed: int

    @property
    def digits(self) -> float:
        """What a number of the size of the offset resolves, in units, with room for some steps."""
        return 1e-9 + 100 * EPS * self.offset

    def targets(self, *lead: int, spread: float = 2.0) -> Tensor:
        shape = (*lead, *self.dist.batch_shape, len(self.unit))
        noise = spread * torch.randn(shape, generator=seeded(self.seed + 1), dtype=F64)
        return (self.offset + noise) * self.unit


@st.composite
def mixtures(
    draw: st.DrawFn,
    d: tuple[int, int] = (1, 3),
    k: tuple[int, int] = (1, 4),
    batches: tuple = ((), (2,), (2, 3)),
) -> Drawn:
    """Any kind, K, D and batch, in units from 1e-6 to 1e6, up to 1e8 units from 0."""
    dims, seed = draw(st.integers(*d)), draw(st.integers(0, 10_000))
    dist = moderate(
        draw(st.sampled_from(KINDS)), *draw(st.sampled_from(batches)),
        k=draw(st.integers(*k)), d=dims, seed=seed,
    )  # fmt: skip
    exponents = draw(st.lists(st.integers(-20, 20), min_size=dims, max_size=dims))
    unit = torch.tensor([2.0**e for e in exponents], dtype=F64)
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, 1e3, 1e8]))
    return Drawn(dist.affine(offset, 1.0).affine(0.0, unit), unit, offset, seed)


@st.composite
def uneven(draw: st.DrawFn) -> GaussianMixture:
    """One univariate mixture: each scale from 1e-6 to 1e6, means up to 1e8 from 0."""
    k = draw(st.integers(1, 5))

    def floats(low: float, high: float) -> Tensor:
        return torch.tensor(draw(st.lists(st.floats(low, high), min_size=k, max_size=k))).double()

    logits, scale = floats(-10, 10), 10 ** floats(-6, 6)
    offset = draw(st.sampled_from([0.0, 1.0, -1e4, 1e8]))
    apart = draw(st.sampled_from([0.0, 1.0, 100.0]))
    loc = offset + apart * floats(-1, 1) * scale.max()
    return GaussianMixture(logits, loc[:, None], scale[:, None])


def same(got: Tensor, want: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


# --- laws: one dimension, all scales at once ----------------------------------------------------


@some
@given(dist=uneven())
def test_the_density_integrates_to_one(dist: GaussianMixture) -> None:
    """40 nodes on every panel, to 1e-9 and what rounding of y does to the narrowest component."""
    loc, scale = dist.loc[:, 0], dist.scale[:, 0]
    ends = torch.tensor([0, 0.5, 1, 2, 3, 4, 6, 8, 12, 20, 38], dtype=F64)
    cuts = (loc[:, None] + scale[:, None] * torch.cat([-ends, ends])).flatten().unique()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    half = 0.5 * cuts.diff()[:, None]
    y = cuts[:-1, None] + half * (1 + nodes)
    total = (dist.log_prob(y.unsqueeze(-1)).exp() * half * weights).sum()
    rounding = float((dist.weights * (loc.abs() + scale) / scale).sum()) * EPS
    assert total.item() == pytest.approx(1.0, abs=1e-9 + 10 * rounding)


@some
@given(dist=uneven(), z=st.floats(-3, 3), log_tail=st.floats(-200, 0))
def test_quantiles_and_cdf_are_inverse(dist: GaussianMixture, z: float, log_tail: float) -> None:
    """icdf(cdf(y)) = y and cdf(icdf(p)) = p, each to what rounding of y and of p allows."""
    heavy = int(dist.logits.argmax())
    y = dist.loc[heavy] + z * dist.scale[heavy]
    p, density = dist.cdf(y), dist.log_prob(y).exp()
    allowed = 64 * EPS * (p.item() / density.item() + abs(y.item()))
    assert dist.icdf(p).item() == pytest.approx(y.item(), rel=0, abs=allowed)
    level = torch.tensor(math.exp(log_tail), dtype=F64)
    quantile = dist.icdf(level)
    if bool(quantile.isfinite()):
        slope = dist.log_prob(quantile).exp().item() * abs(quantile.item())
        allowed = 64 * EPS * (slope + level.item() * (1 - log_tail))
        assert dist.cdf(quantile).item() == pytest.approx(level.item(), rel=0, abs=allowed)


@some
@given(dist=uneven(), a=st.floats(-40, 40), b=st.floats(-40, 40))
def test_cdf_rises_and_its_two_tails_sum_to_one(dist: GaussianMixture, a: float, b: float) -> None:
    """F(a) <= F(b) for a <= b, F + (1 - F) = 1, and -Y has the mirrored cdf."""
    heavy = int(dist.logits.argmax())
    low, high = (dist.loc[heavy] + z * dist.scale[heavy] for z in sorted((a, b)))
    assert dist.log_cdf(low) <= dist.log_cdf(high) + 1e-14
    same(dist.log_cdf(low).exp() + dist.log_sf(low).exp(), torch.ones((), dtype=F64), 1e-12)
    mirrored = dist.affine(0.0, -1.0)
    assert torch.equal(mirrored.log_cdf(-low), dist.log_sf(low))


@few
@given(dist=uneven(), e=st.integers(-20, 20), sign=st.sampled_from([-1.0, 1.0]))
def test_univariate_results_move_with_the_unit(dist: GaussianMixture, e: int, sign: float) -> None:
    """y -> c y: CRPS, quantiles and stddev times |c|, entropy plus log|c|, norm over |c|."""
    c = sign * 2.0**e
    moved = dist.affine(0.0, c)
    y = dist.loc[0] + 0.7 * dist.scale[0]
    same(moved.crps(c * y), abs(c) * dist.crps(y), 1e-9 * max(1.0, abs(c)))
    same(moved.stddev / abs(c), dist.stddev, 1e-12)
    same(moved.mean / c, dist.mean, 1e-12)
    same(moved.entropy(), dist.entropy() + math.log(abs(c)), 1e-8)
    same(moved.squared_norm() * abs(c), dist.squared_norm(), 1e-12)
    same(moved.skewness, sign * dist.skewness)
    same(moved.kurtosis, dist.kurtosis)
    here, there = dist.modes(), moved.modes()
    same(there.log_density + math.log(abs(c)), here.log_density)


# --- laws: any kind, any dimension --------------------------------------------------------------


@some
@given(drawn=mixtures(), data=st.data())
def test_permuting_components_changes_nothing(drawn: Drawn, data: st.DataObject) -> None:
    """A mixture is a set: density, moments, posterior (permuted), integrals, marginals."""
    dist = drawn.dist
    order = data.draw(st.permutations(range(dist.n_components)))
    turned = GaussianMixture(**{
        name: a[..., order] if name == "logits" else
        a[(..., order, slice(None)) + (slice(None),) * (a.ndim - dist.loc.ndim)]
        for name, a in parameters(dist).items()
    })  # fmt: skip
    y = drawn.targets(4)
    same(turned.log_prob(y), dist.log_prob(y))
    same(turned.responsibilities(y), dist.responsibilities(y)[..., order])
    same(turned.mean / drawn.unit, dist.mean / drawn.unit)
    same(turned.stddev / drawn.unit, dist.stddev / drawn.unit)
    same(turned.squared_norm().log(), dist.squared_norm().log())
    same(turned.marginal(0).log_prob(y[..., :1]), dist.marginal(0).log_prob(y[..., :1]))


@some
@given(drawn=mixtures(), data=st.data())
def test_the_nll_of_c_y_is_larger_by_d_log_c(drawn: Drawn, data: st.DataObject) -> None:
    """NLL(c y) = NLL(y) + sum log|c|, to 12 digits, as powers of two are exact."""
    dims = len(drawn.unit)
    exponents = data.draw(st.lists(st.integers(-20, 20), min_size=dims, max_size=dims))
    signs = data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=dims, max_size=dims))
    c = torch.tensor([s * 2.0**e for s, e in zip(signs, exponents, strict=True)], dtype=F64)
    moved = drawn.dist.affine(0.0, c)
    for spread in (2.0, 1e3):
        y = drawn.targets(3, spread=spread)
        same(-moved.log_prob(c * y), -drawn.dist.log_prob(y) + c.abs().log().sum(), 1e-11)
    same(moved.mean, c * drawn.dist.mean, 1e-12)
    same(moved.stddev, c.abs() * drawn.dist.stddev, 1e-12)


@few
@given(drawn=mixtures(), c=st.floats(-7, 7).filter(lambda v: abs(v) > 0.1), b=st.floats(-9, 9))
def test_affine_maps_undo_and_compose(drawn: Drawn, c: float, b: float) -> None:
    """There and back is the mixture; two maps are one."""
    dist, shift = drawn.dist, b * drawn.unit
    y = drawn.targets(3)
    moved = dist.affine(shift, c)
    back = moved.affine(-shift / c, 1 / c)
    tolerance = 1e3 * drawn.digits
    same(back.log_prob(y), dist.log_prob(y), tolerance)
    twice = moved.affine(drawn.unit, -0.5)
    once = dist.affine(drawn.unit - 0.5 * shift, -0.5 * c)
    at = drawn.unit - 0.5 * (shift + c * y)
    same(twice.log_prob(at), once.log_prob(at), tolerance)


@some
@given(drawn=mixtures(batches=((2,),)), data=st.data())
def test_pool_is_logaddexp(drawn: Drawn, data: st.DataObject) -> None:
    """Of two or three mixtures of any kinds and weights; moments pool as moments do."""
    d = len(drawn.unit)
    others = [
        moderate(kind, 2, k=k, d=d, seed=i).affine(drawn.offset, 1.0).affine(0.0, drawn.unit)
        for i, (kind, k) in enumerate(
            data.draw(
                st.lists(
                    st.tuples(st.sampled_from(KINDS), st.integers(1, 3)), min_size=1, max_size=2
                )
            )
        )
    ]
    members = [drawn.dist, *others]
    weights = data.draw(st.lists(st.floats(1e-3, 10), min_size=len(members), max_size=len(members)))
    pool = GaussianMixture.pool(members, weights=weights)
    w = torch.tensor(weights, dtype=F64) / sum(weights)
    y = drawn.targets(3)
    parts = torch.stack([a.log() + m.log_prob(y) for a, m in zip(w, members, strict=True)])
    same(pool.log_prob(y), torch.logsumexp(parts, 0))
    means = torch.stack([m.mean / drawn.unit for m in members])
    same(pool.mean / drawn.unit, (w[:, None, None] * means).sum(0), drawn.digits)
    assert pool.n_components == sum(m.n_components for m in members)


@some
@given(drawn=mixtures(d=(2, 3)), data=st.data())
def test_marginal_of_affine_is_affine_of_marginal(drawn: Drawn, data: st.DataObject) -> None:
    """In any order of the dimensions; and a marginal of a marginal is one."""
    d = len(drawn.unit)
    dims = data.draw(st.permutations(range(d)))[: data.draw(st.integers(1, d))]
    c = torch.tensor([-2.0, 0.25, 3.0], dtype=F64)[:d]
    shift = drawn.unit * torch.tensor([1.0, -5.0, 0.5], dtype=F64)[:d]
    y = drawn.targets(3)[..., dims]
    one = drawn.dist.affine(shift, c).marginal(dims)
    two = drawn.dist.marginal(dims).affine(shift[dims], c[dims])
    at = shift[dims] + c[dims] * y
    same(one.log_prob(at), two.log_prob(at), 1e-8)
    same(one.stddev / two.stddev, torch.ones_like(two.stddev))
    first = drawn.dist.marginal(dims).marginal(0)
    same(first.log_prob(y[..., :1]), drawn.dist.marginal(dims[0]).log_prob(y[..., :1]), 1e-8)


@some
@given(drawn=mixtures(d=(2, 3)), data=st.data())
def test_condition_is_the_ratio_of_densities(drawn: Drawn, data: st.DataObject) -> None:
    """log p(a | b) + log p(b) = log p(a, b); conditioning in two steps is conditioning at once."""
    d = len(drawn.unit)
    known = data.draw(st.permutations(range(d)))[: data.draw(st.integers(1, d - 1))]
    rest = [i for i in range(d) if i not in known]
    y = drawn.targets(2)
    left = drawn.dist.condition(known, y[..., known])
    got = left.log_prob(y[..., rest]) + drawn.dist.marginal(known).log_prob(y[..., known])
    same(got, drawn.dist.log_prob(y), 1e3 * drawn.digits)
    if len(known) == 2:
        # after known[0] is gone the places of the others shift down
        place = [i for i in range(d) if i != known[0]].index(known[1])
        first = drawn.dist.condition(known[0], y[..., [known[0]]])
        twice = first.condition(place, y[..., [known[1]]])
        same(twice.log_prob(y[..., rest]), left.log_prob(y[..., rest]), 1e3 * drawn.digits)


@few
@given(drawn=mixtures(k=(2, 4)), n=st.integers(1, 3))
def test_merge_keeps_mean_and_covariance_in_any_unit(drawn: Drawn, n: int) -> None:
    """To 1e-10 of the unit and what the offset leaves."""
    less = drawn.dist.merge(min(n, drawn.dist.n_components))
    same(less.mean / drawn.unit, drawn.dist.mean / drawn.unit, drawn.digits)
    units = drawn.unit[:, None] * drawn.unit
    same(less.covariance / units, drawn.dist.covariance / units, drawn.digits)


@few
@given(drawn=mixtures(batches=((3,), (2, 2))))
def test_a_batch_is_a_loop(drawn: Drawn) -> None:
    """Row i of every result is the result of mixture i alone."""
    dist, y = drawn.dist, drawn.targets()
    d = len(drawn.unit)
    functions = [
        lambda m, t: m.log_prob(t),
        lambda m, t: m.responsibilities(t),
        lambda m, t: m.mean / drawn.unit,
        lambda m, t: m.covariance / drawn.unit / drawn.unit[:, None],
        lambda m, t: m.scale_tril / drawn.unit[:, None],
        lambda m, t: m.squared_norm().log(),
        lambda m, t: torch.stack(m.entropy_bounds(), -1),
        lambda m, t: m.marginal([d - 1]).log_prob(t[..., [d - 1]]),
        lambda m, t: m.merge(1).scale / drawn.unit,
        lambda m, t: m.modes().log_density,
    ]
    if d > 1:
        functions += [lambda m, t: m.condition(0, t[..., :1]).log_prob(t[..., 1:])]
    else:
        functions += [lambda m, t: m.entropy(), lambda m, t: m.crps(t) / drawn.unit[0]]
    places = list(itertools.product(*map(range, dist.batch_shape)))
    for f in functions:
        got = f(dist, y)
        for at in places:
            same(got[at], f(dist[at], y[at]), 1e-8 + drawn.digits)


@few
@given(drawn=mixtures(batches=((), (3,), (2, 3))), lead=st.sampled_from([(), (2,), (1, 4)]))
def test_expanding_then_indexing_is_the_mixture(drawn: Drawn, lead: tuple) -> None:
    """Bit for bit, whatever the axes in front."""
    dist = drawn.dist
    wide = dist.expand((*lead, *dist.batch_shape))
    assert wide.batch_shape == torch.Size((*lead, *dist.batch_shape))
    assert wide.event_shape == dist.event_shape
    again = wide[(0,) * len(lead)]
    for name, a in dist.numpy().items():
        assert np.array_equal(again.numpy()[name], a)
    y = drawn.targets()
    same(wide.log_prob(y), dist.log_prob(y).expand(wide.batch_shape), 1e-12)
    same(wide.mean, dist.mean.expand(*wide.batch_shape, len(drawn.unit)), 1e-12)


@few
@given(drawn=mixtures(), narrow=st.booleans())
def test_load_of_save_is_the_mixture(drawn: Drawn, narrow: bool) -> None:
    """Bit for bit: parameters, density, draws."""
    dist = drawn.dist.to(torch.float32) if narrow else drawn.dist
    with tempfile.TemporaryDirectory() as folder:
        mdn.save(dist, Path(folder) / "m.mdn")
        again = mdn.load(Path(folder) / "m.mdn")
    assert (again.batch_shape, again.event_shape) == (dist.batch_shape, dist.event_shape)
    for name, a in dist.numpy().items():
        assert again.numpy()[name].dtype == a.dtype and np.array_equal(again.numpy()[name], a)
    y = drawn.targets(2).to(dist.loc.dtype)
    assert torch.equal(again.log_prob(y), dist.log_prob(y))
    draws = (m.sample((3,), generator=seeded(0)) for m in (dist, again))
    assert torch.equal(*draws)


@some
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    e=st.sampled_from([-20, 0, 20]),
    z=st.sampled_from([0.0, 1.0, -40.0, 1e3, -1e6, 1e6]),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_gradients_are_finite_at_the_floor_and_at_a_million_scales(
    kind: str, seed: int, e: int, z: float, dtype: torch.dtype
) -> None:
    """Scales of 1e-6, 1 and 1e6, targets up to 1e6 scales off, both precisions."""
    unit = 2.0**e
    dist = moderate(kind, k=3, d=2, seed=seed).affine(0.0, unit)
    leaves = {n: a.to(dtype).requires_grad_() for n, a in parameters(dist).items()}
    y = torch.tensor([[z, -z], [z, 0.0]], dtype=dtype) * unit
    value = GaussianMixture(**leaves).log_prob(y)
    assert bool(value.isfinite().all())
    for g in torch.autograd.grad(value.sum(), list(leaves.values())):
        assert bool(g.isfinite().all())


@some
@given(
    seed=st.integers(0, 10_000),
    e=st.sampled_from([-20, 0, 20]),
    z=st.sampled_from([0.0, 1.0, -40.0, 1e3, -1e6, 1e6]),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_univariate_gradients_are_finite_at_a_million_scales(
    seed: int, e: int, z: float, dtype: torch.dtype
) -> None:
    """log p, both tails, CRPS and quantiles."""
    unit = 2.0**e
    dist = moderate("scale", k=3, d=1, seed=seed).affine(0.0, unit)
    leaves = {n: a.to(dtype).requires_grad_() for n, a in parameters(dist).items()}
    dist = GaussianMixture(**leaves)
    y = torch.tensor([z * unit], dtype=dtype)
    for value in (
        dist.log_prob(y),
        dist.log_cdf(y),
        dist.log_sf(y),
        dist.crps(y),
        dist.icdf(1e-12).sum(),
    ):
        if bool(value.isfinite()):
            for g in torch.autograd.grad(value, list(leaves.values())):
                assert bool(g.isfinite().all())
    assert bool(dist.log_prob(y).isfinite()) and bool(dist.crps(y).isfinite())


@few
@given(drawn=mixtures())
def test_entropy_lies_within_its_bounds_and_bounds_move_with_the_unit(drawn: Drawn) -> None:
    """Lower <= H <= upper; in other units both move by the sum of log|c|."""
    bounds, entropy = drawn.dist.entropy_bounds(), drawn.dist.entropy()
    # D > 1: 6 standard errors of the mean of 4096 draws, of which each has a variance below 2 D
    slack = 1e-6 if len(drawn.unit) == 1 else 6 * (2 * len(drawn.unit)) ** 0.5 / 64
    assert bool((bounds.lower < entropy + slack).all())
    assert bool((entropy - slack < bounds.upper).all())
    c = 2.0**-7
    moved = drawn.dist.affine(0.0, c).entropy_bounds()
    step = len(drawn.unit) * math.log(c)
    same(moved.lower, bounds.lower + step)
    same(moved.upper, bounds.upper + step)


@few
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    dim=st.sampled_from([0, 1, -1, -2]),
    seed=st.integers(0, 10_000),
)
def test_cat_puts_batches_one_after_the_other(
    kinds: list[str], sizes: list[int], dim: int, seed: int
) -> None:
    """Every slice has the density of the mixture it came from, whatever its K and covariance."""
    batch = [[2, n] if dim in (1, -1) else [n, 2] for n in sizes]
    parts = [
        moderate(kind, *batch[i], k=sizes[-i], d=2, seed=seed + i) for i, kind in enumerate(kinds)
    ]
    whole = GaussianMixture.cat(parts, dim)
    y = torch.randn(2, generator=seeded(seed), dtype=F64)
    same(whole.log_prob(y), torch.cat([p.log_prob(y) for p in parts], dim))
    assert whole.n_components == max(p.n_components for p in parts)
    if len(set(kinds)) == 1:
        assert whole.covariance_type == parts[0].covariance_type


def test_cat_refuses_shapes_that_do_not_fit() -> None:
    """As torch.cat does, in words."""
    one = moderate("scale", 2, 3)
    with pytest.raises(ValueError, match="at least one with a batch axis 0; got shapes"):
        GaussianMixture.cat([])
    with pytest.raises(ValueError, match="at least one with a batch axis 2; got shapes"):
        GaussianMixture.cat([one], 2)
    for other in (moderate("scale", 2), moderate("scale", 2, 4), moderate("scale", 2, 3, d=1)):
        with pytest.raises(ValueError, match="one event shape and one batch shape but for axis 0"):
            GaussianMixture.cat([one, other])


@few
@given(drawn=mixtures(), scale=st.floats(0.1, 10), spread=st.floats(0, 3), power=st.floats(0, 3))
def test_rescale_moves_what_it_says(
    drawn: Drawn, scale: float, spread: float, power: float
) -> None:
    """Within by scale^2, between by spread^2, the mean to where it is told, weights to a power."""
    dist, unit = drawn.dist, drawn.unit
    target = dist.mean + 3 * unit
    new = dist.rescale(scale, spread, mean=target)
    same(new.mean / unit, target / unit, drawn.digits)
    same(new.scale / unit, scale * dist.scale / unit)
    gap = (dist.loc - dist.mean.unsqueeze(-2)) / unit
    same((new.loc - target.unsqueeze(-2)) / unit, spread * gap, drawn.digits)
    same(new.logits, dist.logits)
    powered = dist.rescale(weight_power=power)
    same(powered.logits, torch.log_softmax(power * dist.logits, -1))
    same(powered.loc / unit, dist.loc / unit, drawn.digits)


def test_rescale_keeps_to_the_least_scale() -> None:
    """Diagonal: by entry.  Full: by the diagonal of the factor.  A weight of 0 stays one."""
    diagonal, full = moderate("scale", 2), moderate("scale_tril", 2)
    same(diagonal.rescale(0.1, min_scale=0.1).scale, (0.1 * diagonal.scale).clamp(min=0.1))
    least = full.scale_tril.diagonal(dim1=-2, dim2=-1).amin(-1)  # (*, K)
    factor = (0.1 / least).clamp(min=0.1, max=1.0)[..., None, None]
    narrow = full.rescale(0.1, min_scale=0.1)
    same(narrow.covariance_matrix, factor.square() * full.covariance_matrix)
    same(full.rescale(2.0, min_scale=0.1).covariance_matrix, 4 * full.covariance_matrix)
    off = GaussianMixture(torch.tensor([0.0, -math.inf]), torch.zeros(2, 1), torch.ones(2, 1))
    assert off.rescale(weight_power=0.0).weights.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"scale must be a number or \(\*, 2\)"):
        full.rescale(torch.ones(3))


# --- the contract of torch.distributions --------------------------------------------------------


class Example(NamedTuple):
    """A mixture as torch's generic tests walk them."""

    name: str
    dist: GaussianMixture


EXAMPLES = [
    Example(f"{kind} {batch} K={k} D={d}", moderate(kind, *batch, k=k, d=d, seed=11))
    for kind in KINDS
    for batch, k, d in (((), 1, 1), ((), 3, 2), ((4,), 2, 3), ((2, 3), 4, 1), ((1,), 2, 2))
]
each_example = pytest.mark.parametrize("dist", [e.dist for e in EXAMPLES],
                                       ids=[e.name for e in EXAMPLES])  # fmt: skip


@each_example
def test_repr_is_one_line_with_the_shapes(dist: GaussianMixture) -> None:
    """No tensor is printed."""
    assert repr(dist) == (
        f"GaussianMixture(batch_shape={tuple(dist.batch_shape)}, "
        f"event_shape={tuple(dist.event_shape)}, n_components={dist.n_components})"
    )


@each_example
def test_shapes_are_sizes_and_results_have_them(dist: GaussianMixture) -> None:
    """Everything of the base class: batch + event, or batch."""
    batch, event = dist.batch_shape, dist.event_shape
    assert isinstance(batch, torch.Size) and isinstance(event, torch.Size) and len(event) == 1
    for value in (dist.mean, dist.variance, dist.stddev, dist.mode):
        assert value.shape == batch + event
    assert bool((dist.variance > 0).all())
    torch.testing.assert_close(dist.stddev.square(), dist.variance)
    assert dist.entropy().shape == dist.perplexity().shape == batch
    torch.testing.assert_close(dist.perplexity(), dist.entropy().exp())
    assert dist.has_rsample and not dist.has_enumerate_support
    with pytest.raises(NotImplementedError):
        dist.enumerate_support()


@each_example
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), torch.Size([2]), [2, 1]], ids=str)
def test_sample_and_rsample_shapes(dist: GaussianMixture, shape: tuple) -> None:
    """sample_shape + batch + event, also what log_prob takes back."""
    want = torch.Size(shape) + dist.batch_shape + dist.event_shape
    for draw in (dist.sample, dist.rsample):
        y = draw(shape, generator=seeded(0))
        assert y.shape == want and y.dtype == dist.loc.dtype
        assert dist.log_prob(y).shape == torch.Size(shape) + dist.batch_shape
        assert bool(dist.support.check(y).all())


def test_the_global_generator_is_the_default() -> None:
    """torch.manual_seed reproduces draws, as of any distribution of torch."""
    dist = moderate("scale_tril", 2)
    with torch.random.fork_rng(devices=[]):
        for draw in (dist.sample, dist.rsample):
            torch.manual_seed(3)
            first = draw((4,))
            second = draw((4,))
            torch.manual_seed(3)
            assert torch.equal(draw((4,)), first) and not torch.equal(first, second)


@each_example
def test_expand_to_a_larger_batch_and_no_other(dist: GaussianMixture) -> None:
    """As torch's own: views, the same density and moments; an impossible shape raises."""
    for lead in ((), (2,), (3, 1)):
        wide = dist.expand(torch.Size(lead) + dist.batch_shape)
        assert isinstance(wide, GaussianMixture)
        y = wide.sample(generator=seeded(0))
        assert torch.equal(wide.log_prob(y), wide.expand(wide.batch_shape).log_prob(y))
        torch.testing.assert_close(wide.log_prob(y), dist.log_prob(y))
        torch.testing.assert_close(wide.variance, dist.variance.expand_as(wide.variance))
    if dist.batch_shape and dist.batch_shape != (1,):
        with pytest.raises(RuntimeError):
            dist.expand((7,) * len(dist.batch_shape))


def test_parameters_broadcast_to_one_batch() -> None:
    """logits (5, 1, K), loc (4, K, D), one covariance: batch (5, 4)."""
    logits, loc = torch.zeros(5, 1, 3), torch.zeros(4, 3, 2)
    for given_by in (
        {"scale": torch.ones(3, 2)},
        {"scale_tril": torch.eye(2).repeat(3, 1, 1)},
        {"precision_tril": torch.eye(2).repeat(3, 1, 1)},
        {"cov_factor": torch.ones(3, 2, 1), "cov_diag": torch.ones(1, 4, 3, 2)},
    ):
        dist = GaussianMixture(logits, loc, **given_by)
        assert dist.batch_shape == (5, 4) and dist.logits.shape == (5, 4, 3)
        assert dist.log_prob(torch.zeros(2)).shape == (5, 4)
        assert dist.log_prob(torch.zeros(6, 1, 1, 2)).shape == (6, 5, 4)


@each_example
def test_properties_satisfy_the_stated_constraints(dist: GaussianMixture) -> None:
    """Every name in arg_constraints is a property, and within its constraint."""
    assert set(dist.arg_constraints) >= {"logits", "loc", "scale"}
    for name, constraint in dist.arg_constraints.items():
        value = getattr(dist, name)
        assert value.shape[: len(dist.batch_shape)] == dist.batch_shape
        assert bool(constraint.check(value).all()), name
        assert constraint.check(value).shape[: len(dist.batch_shape)] == dist.batch_shape
    torch.testing.assert_close(dist.logits.exp().sum(-1), torch.ones_like(dist.logits[..., 0]))


def test_support_is_the_space_of_real_vectors() -> None:
    """An event constraint of one axis: finite is inside, NaN is not."""
    support = GaussianMixture.support
    assert isinstance(support, constraints.Constraint) and support.event_dim == 1
    y = torch.tensor([[0.0, 1e30], [math.nan, 0.0]])
    assert support.check(y).tolist() == [True, False]


@each_example
def test_log_prob_passes_gradcheck(dist: GaussianMixture) -> None:
    """In y and every parameter."""
    leaves = [a.requires_grad_() for a in parameters(dist).values()]
    names = list(parameters(dist))
    y = dist.sample(generator=seeded(1)).requires_grad_()

    def f(y: Tensor, *tensors: Tensor) -> Tensor:
        named = dict(zip(names, tensors, strict=True))
        return GaussianMixture(**named, validate_args=False).log_prob(y)

    assert gradcheck(f, [y, *leaves])


@each_kind
@pytest.mark.parametrize("how", ["sample", "rsample"])
def test_the_sampler_follows_the_cdf_of_every_marginal(kind: str, how: str) -> None:
    """Kolmogorov-Smirnov on 10 000 draws of 3 x 2 marginals; fails for one seed in 1e6 / 6."""
    dist = moderate(kind, 3, seed=5)
    y = getattr(dist, how)((10_000,), generator=seeded(2))
    for d in range(2):
        u = dist.marginal(d).cdf(y[..., [d]])
        for row in range(3):
            assert scipy.stats.kstest(u[:, row].numpy(), "uniform").pvalue > 1e-6


@each_kind
def test_the_sampler_follows_the_density_given_another_dimension(kind: str) -> None:
    """F(y_2 | y_1) is uniform and unrelated to F(y_1): chance refuses one seed in 1e6 / 2."""
    dist = moderate(kind, seed=5)
    y = dist.sample((10_000,), generator=seeded(3))
    first = dist.marginal(0).cdf(y[:, :1]).numpy()
    second = dist.condition(0, y[:, :1]).cdf(y[:, 1:]).numpy()
    assert scipy.stats.kstest(second, "uniform").pvalue > 1e-6
    assert scipy.stats.spearmanr(first, second).pvalue > 1e-6


@each_kind
def test_validation_is_inherited_by_every_derived_mixture(kind: str) -> None:
    """A mixture made with validate_args=False accepts NaN everywhere after; one with, nowhere."""
    for validate in (True, False):
        source = moderate(kind, 2)
        dist = GaussianMixture(**parameters(source), validate_args=validate)
        known = torch.zeros(2, 1, dtype=F64)
        derived = [
            dist.expand((3, 2)),
            dist[0],
            dist.to(torch.float32),
            dist.detach(),
            dist.affine(1.0, -2.0),
            dist.marginal(0),
            dist.marginal([1, 0]),
            dist.condition(0, known),
            dist.merge(1),
            dist.merge(3),
            GaussianMixture.pool([dist, dist]),
            copy.copy(dist),
        ]
        for new in derived:
            bad = torch.full(new.event_shape, math.nan, dtype=new.loc.dtype)
            if validate:
                with pytest.raises(ValueError, match="y must not be NaN"):
                    new.log_prob(bad)
            else:
                assert bool(new.log_prob(bad).isnan().all())


def test_validation_follows_torchs_switch() -> None:
    """Distribution.set_default_validate_args decides where nothing is said."""
    before = Distribution._validate_args
    args = torch.zeros(1), torch.zeros(1, 2)
    singular = torch.zeros(1, 2, 2)
    try:
        Distribution.set_default_validate_args(False)
        GaussianMixture(*args, scale_tril=singular)
        Distribution.set_default_validate_args(True)
        with pytest.raises(ValueError, match="singular factor"):
            GaussianMixture(*args, scale_tril=singular)
    finally:
        Distribution.set_default_validate_args(before)


def same_family(kind: str, dist: GaussianMixture) -> MixtureSameFamily:
    given_by = parameters(dist)
    weights = Categorical(logits=given_by["logits"])
    loc = given_by["loc"]
    if kind == "scale":
        return MixtureSameFamily(weights, Independent(Normal(loc, given_by["scale"]), 1))
    if kind == "low_rank":
        parts = LowRankMultivariateNormal(loc, given_by["cov_factor"], given_by["cov_diag"])
        return MixtureSameFamily(weights, parts)
    root = given_by[kind]
    how = {"scale_tril": root} if kind == "scale_tril" else {"precision_matrix": root @ root.mT}
    return MixtureSameFamily(weights, MultivariateNormal(loc, **how))


@each_kind
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_takes_the_place_of_a_mixture_same_family(kind: str, batch: tuple) -> None:
    """Shapes, density, moments, draws that either scores: what code that holds one asks."""
    ours = moderate(kind, *batch, seed=8)
    torchs = same_family(kind, ours)
    assert isinstance(ours, Distribution)
    assert ours.batch_shape == torchs.batch_shape and ours.event_shape == torchs.event_shape
    assert ours.expand((4, *batch)).batch_shape == torchs.expand((4, *batch)).batch_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for shape in ((), (5,), (2, 3)):
            y = torchs.sample(shape)
            assert ours.sample(shape).shape == y.shape
            torch.testing.assert_close(ours.log_prob(y), torchs.log_prob(y))
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)
    torch.testing.assert_close(ours.stddev, torchs.stddev)
    assert ours.support.event_dim == torchs.support.event_dim


@each_kind
def test_works_inside_torchs_wrappers(kind: str) -> None:
    """Independent sums the batch; TransformedDistribution is affine."""
    dist = moderate(kind, 3)
    y = dist.sample((4,), generator=seeded(0))
    rows = Independent(dist, 1)
    assert rows.batch_shape == () and rows.event_shape == (3, 2)
    torch.testing.assert_close(rows.log_prob(y), dist.log_prob(y).sum(-1))
    shift, scale = torch.tensor([1.0, -3.0]).double(), torch.tensor([-2.0, 0.5]).double()
    moved = TransformedDistribution(dist, AffineTransform(shift, scale, event_dim=1))
    at = shift + scale * y
    torch.testing.assert_close(dist.affine(shift, scale).log_prob(at), moved.log_prob(at))


@each_kind
def test_can_be_made_and_scored_under_vmap(kind: str) -> None:
    """A mixture a row, made inside torch.vmap, is the batch."""
    dist = moderate(kind, 5)
    given_by = parameters(dist)
    y = dist.sample(generator=seeded(0))

    def f(y: Tensor, named: dict[str, Tensor]) -> Tensor:
        return GaussianMixture(**named, validate_args=False).log_prob(y)

    torch.testing.assert_close(torch.vmap(f)(y, given_by), dist.log_prob(y))
    grads = torch.vmap(torch.func.grad(f))(y, given_by)
    leaf = y.clone().requires_grad_()
    torch.testing.assert_close(grads, torch.autograd.grad(dist.log_prob(leaf).sum(), leaf)[0])


def test_the_class_and_the_function_are_one() -> None:
    """GaussianMixture(logits, loc, scale).log_prob is gaussian_mixture_log_prob of log scales."""
    dist = moderate("scale", 5)
    y = dist.sample((3,), generator=seeded(0))
    want = gaussian_mixture_log_prob(y, dist.logits, dist.loc, dist.scale.log())
    torch.testing.assert_close(dist.log_prob(y), want)

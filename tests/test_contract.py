"""The contract of all mixture distributions, on every example of the registry, against SciPy."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal, Uniform

import mdn
from mdn.distribution import (
    HDR,
    AtomicMixture,
    DiscretizedMixture,
    GaussianMixture,
    Mixture,
    MixtureDistribution,
    Modes,
    TruncatedMixture,
)
from tests.cases import BAD_EXAMPLES, EXAMPLES, INF, SEVERAL, UNIVARIATE, Bad, Example, t

CONTINUOUS = {n: e for n, e in UNIVARIATE.items() if e.law and not e.law.step and not e.law.points}
DISCRETE = {n: e for n, e in UNIVARIATE.items() if e.law and e.law.step}


def over(examples: dict[str, Example]) -> Any:
    return pytest.mark.parametrize("example", examples.values(), ids=examples)


each, each_univariate, each_several = over(EXAMPLES), over(UNIVARIATE), over(SEVERAL)
each_continuous, each_discrete = over(CONTINUOUS), over(DISCRETE)


def places(example: Example) -> Tensor:
    """Of the bulk and of both tails, (N, 1)."""
    law = example.law
    assert law is not None
    if law.step:
        y, p = law.nodes
        y = y[(p > 1e-12)]
        return torch.from_numpy(y[:: max(1, len(y) // 30)]).unsqueeze(-1)
    y = law.cuts()
    y = y[(y > law.low) & (y < law.high) & (law.cdf(y) > 1e-13) & (law.sf(y) > 1e-13)]
    return torch.from_numpy(y[:: max(1, len(y) // 30)]).unsqueeze(-1)


def batch_of(dist: MixtureDistribution) -> MixtureDistribution:
    return dist.expand((2, 3))


# --- values, one target --------------------------------------------------------------------------


@each_univariate
def test_log_prob_is_that_of_scipy(example: Example) -> None:
    """Log of the density, or of the probability; at a point mass, of that."""
    y = places(example)
    want = np.log(example.law.density(y[:, 0].numpy()))
    np.testing.assert_allclose(example.dist.log_prob(y), want, rtol=1e-9, atol=1e-10)
    for x, m in example.law.points.items():
        assert example.dist.log_prob(t(x)).item() == pytest.approx(math.log(m))


@each_univariate
def test_cdf_and_both_log_tails_are_those_of_scipy(example: Example) -> None:
    """In the relative error of each tail."""
    y, law, dist = places(example), example.law, example.dist
    at = y[:, 0].numpy()
    close = {"rtol": 10 * example.digits, "atol": 1e-13}
    np.testing.assert_allclose(dist.cdf(y), law.cdf(at), **close)
    np.testing.assert_allclose(dist.log_cdf(y).exp(), law.cdf(at), **close)
    np.testing.assert_allclose(dist.log_sf(y).exp(), law.sf(at), **close)
    far = t([-1e9], [1e9])
    np.testing.assert_allclose(dist.cdf(far), [0.0, 1.0], atol=1e-8)


@each_univariate
def test_log_mass_is_the_probability_of_the_closed_interval(example: Example) -> None:
    """F(b) - F(a), with P(Y = a) where there is one; half lines; nothing where a > b."""
    law, dist = example.law, example.dist
    y = places(example)[::3]
    low, high = y[:-1], y[1:]
    a, b = low[:, 0].numpy(), high[:, 0].numpy()
    at_a = law.density(a) if law.step else sum(m * (a == x) for x, m in law.points.items())
    want = np.where(law.cdf(b) < law.sf(a), law.cdf(b) - law.cdf(a), law.sf(a) - law.sf(b)) + at_a
    np.testing.assert_allclose(dist.log_mass(low, high).exp(), want, rtol=1e-6, atol=1e-13)
    assert bool((dist.log_mass(high, low) == -INF).all())
    np.testing.assert_allclose(dist.log_mass(-INF, high), dist.log_cdf(high), rtol=1e-9, atol=1e-14)
    assert dist.log_mass(-INF, INF).item() == pytest.approx(0.0, abs=1e-14)
    one_sided = dist.log_mass(low, INF).exp() - (torch.as_tensor(at_a) if law.step else 0.0)
    if not law.points:
        np.testing.assert_allclose(one_sided, law.sf(a), rtol=1e-6, atol=1e-13)


@each_continuous
def test_log_mass_of_a_tiny_interval_is_density_times_width(example: Example) -> None:
    """To 1e-8 at a width of 1e-10 of the place, where a difference of cdfs keeps no digit."""
    y = places(example)[5:-5:4]
    ends = t(example.law.low, example.law.high)
    y = y[((y - ends).abs().amin(1) > 1e-3) & (y.abs()[:, 0] > 1e-3)]
    width = 2.0 ** (y.abs().log2().floor() - 30)
    got = example.dist.log_mass(y, y + width) - width[:, 0].log()
    np.testing.assert_allclose(got, example.dist.log_prob(y + 0.5 * width), atol=2e-8)


@each_univariate
def test_icdf_is_the_least_place_that_reaches_the_level(example: Example) -> None:
    """F(icdf(p)) >= p, and just below it F < p; median and interval are quantiles."""
    law, dist = example.law, example.dist
    p = t(1e-9, 1e-4, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-4)
    y = dist.icdf(p)
    assert y.shape == (len(p), 1)
    tolerance = 1e-4 if example.digits > 1e-10 else 1e-8
    size = torch.minimum(p, 1 - p).numpy()
    at = y[:, 0].numpy()
    assert (law.cdf(at) >= p.numpy() - tolerance * size - 1e-15).all()
    step = law.step or 1e-6 * (law.variance() ** 0.5)
    before = law.cdf(np.where(at == 0.0, -step, at - step))
    assert (before < p.numpy() + tolerance * size).all()
    np.testing.assert_array_equal(dist.median, dist.icdf(0.5))
    np.testing.assert_array_equal(dist.interval(0.6), dist.icdf(t(0.2, 0.8))[:, 0])
    ends = dist.icdf(t(0, 1))[:, 0]
    if example.dist.__class__ is not DiscretizedMixture:
        np.testing.assert_allclose(ends, [law.low, law.high], rtol=1e-15)


@each_univariate
def test_moments_are_those_of_scipy(example: Example) -> None:
    """Mean, variance, standard deviation."""
    law, dist = example.law, example.dist
    assert dist.mean.item() == pytest.approx(law.mean(), rel=1e-7, abs=1e-9)
    assert dist.variance.item() == pytest.approx(law.variance(), rel=1e-6)
    torch.testing.assert_close(dist.stddev.square(), dist.variance)
    assert dist.mean.shape == dist.variance.shape == dist.stddev.shape == (1,)


@each_univariate
def test_entropy_is_the_mean_of_minus_log_prob(example: Example) -> None:
    """By quadrature over SciPy's density, or the sum over its masses."""
    assert example.dist.entropy().item() == pytest.approx(example.law.entropy(), rel=2e-6, abs=2e-6)


@each_univariate
def test_crps_is_the_integral_that_defines_it(example: Example) -> None:
    """Integral of (F(x) - 1{y <= x})^2 at places inside and outside of the support."""
    middle, spread = example.law.mean(), example.law.variance() ** 0.5
    for y in (middle, middle - 0.7 * spread, middle + 5 * spread, middle - 9 * spread):
        got = example.dist.crps(t(y)).item()
        assert got == pytest.approx(example.law.crps(y), rel=2e-6), y


@each_univariate
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_hdr_is_the_smallest_set_of_its_coverage(example: Example, coverage: float) -> None:
    """Its probability by SciPy's cdf; everywhere outside is less likely than everywhere inside."""
    law, region = example.law, example.dist.hdr(coverage)
    assert isinstance(region, HDR) and region.coverage == coverage
    ends = region.intervals[~region.intervals[:, 0].isnan()].numpy()
    assert len(ends) and (ends[:, 0] <= ends[:, 1]).all() and (ends[1:, 0] > ends[:-1, 1]).all()
    y, _ = law.nodes
    slack = 1e-9 * law.step
    inside = ((y[:, None] >= ends[:, 0] - slack) & (y[:, None] <= ends[:, 1] + slack)).any(1)
    held = sum(m for x, m in law.points.items() if ((ends[:, 0] <= x) & (x <= ends[:, 1])).any())
    if law.step:
        p = np.sort(law.density(y))[::-1]
        assert inside.sum() == np.searchsorted(p.cumsum(), coverage * (1 - 1e-12)) + 1
    elif held < coverage:
        own = [held] + [law.sf(a) - law.sf(b) for a, b in ends if a < b]
        twice = [m for x, m in law.points.items() if ((ends[:, 0] < x) & (x <= ends[:, 1])).any()]
        mass = sum(own) - sum(twice)
        assert mass == pytest.approx(coverage, abs=1e-7)
    p, level = law.density(y), region.threshold.item()
    assert held >= coverage or (p[inside] >= level * (1 - 1e-5)).all()
    assert (p[~inside] <= level * (1 + 1e-5)).all()


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # SciPy's, at a pole
@each_univariate
def test_modes_have_no_higher_neighbour(example: Example) -> None:
    """All maxima of SciPy's density along a fine grid, by falling height; the first is the mode."""
    law, modes = example.law, example.dist.modes()
    assert isinstance(modes, Modes)
    torch.testing.assert_close(example.dist.mode, modes.loc[0], equal_nan=True)
    height = modes.log_density[~modes.log_density.isnan()]
    assert bool((height[1:] <= height[:-1]).all()) or law.points
    if law.step:
        grid = law.nodes[0]
    else:
        low, high = (example.dist.icdf(p).item() for p in (1e-7, 1 - 1e-7))
        grid = np.linspace(low, high, 20001)
    p = law.density(grid)
    outside = INF if example.digits > 1e-10 else 0.0  # the ends of a circle are one place
    padded = np.concatenate([[outside], p, [outside]])
    want = grid[(p > padded[:-2] * (1 + 1e-9)) & (p >= padded[2:]) & (p > 1e-9)]
    points = [x for x, _ in sorted(law.points.items(), key=lambda pair: -pair[1])]
    found = modes.loc[:, 0][~modes.loc[:, 0].isnan()].tolist()
    assert found[: len(points)] == points
    found = sorted(x for x in found[len(points) :] if law.density(np.array(x)) > 1e-9)
    step = 0.0 if law.step else grid[-1] - grid[-2]
    np.testing.assert_allclose(found, want, atol=2 * step + 1e-9)


@each_univariate
def test_draws_follow_the_cdf(example: Example) -> None:
    """Kolmogorov-Smirnov distance below 2.5 / sqrt(n): by chance one in 1.4e5 fails."""
    n = 2000
    y = example.dist.sample((n,), generator=torch.Generator().manual_seed(1))
    assert y.shape == (n, 1)
    values, counts = np.unique(y.numpy(), return_counts=True)
    gap = np.abs(np.cumsum(counts) / n - example.law.cdf(values)).max()
    assert gap < 2.5 / math.sqrt(n)


@each_several
def test_several_targets_are_scipys(example: Example) -> None:
    """Joint log density; moments of 10 000 draws to 6 standard errors; D = 1 is asked for."""
    dist = example.dist
    y = dist.sample((10_000,), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(dist.log_prob(y[:50]), example.density(y[:50].numpy()), rtol=1e-9)
    error = dist.stddev / 100
    assert bool(((y.mean(0) - dist.mean).abs() < 6 * error).all())
    torch.testing.assert_close(y.var(0), dist.variance, rtol=0.2, atol=0)
    loss = -dist.log_prob(y)
    assert abs(dist.entropy() - loss.mean()) < 6 * loss.std() / 64
    for ask in (dist.cdf, dist.log_cdf, dist.log_sf, dist.crps):
        with pytest.raises(ValueError, match=r"needs one target dimension; this mixture has 2\. T"):
            ask(y)
    for ask in (dist.icdf, dist.interval, dist.hdr, lambda p: dist.log_mass(0.0, p)):
        with pytest.raises(ValueError, match="needs one target dimension"):
            ask(0.5)


# --- laws of the contract ------------------------------------------------------------------------


@each
def test_a_batch_is_a_loop_and_views_keep_everything(example: Example) -> None:
    """expand, index, detach, to and copy: the same answers, row by row; dtype in, dtype out."""
    dist = example.dist
    y = dist.sample((2, 3), generator=torch.Generator().manual_seed(0))
    one = dist.log_prob(y)
    wide = batch_of(dist)
    assert type(wide) is type(dist) and wide.batch_shape == (2, 3)
    for view in (wide, wide.detach(), wide[:], copy.copy(wide), wide.to(torch.float64)):
        torch.testing.assert_close(view.log_prob(y), one)
    torch.testing.assert_close(wide[1, [0, 2]].log_prob(y[1, [0, 2]]), one[1, [0, 2]])
    assert wide[0].batch_shape == (3,) and wide[0, 1].batch_shape == ()
    narrow = dist.to(torch.float32)
    for value in (narrow.log_prob(y.float()), narrow.mean, narrow.sample(), narrow.entropy()):
        assert value.dtype == torch.float32
    assert narrow.log_prob(y).dtype == torch.float64
    with pytest.raises(IndexError):
        wide[2]


@each_univariate
def test_answers_have_the_shape_of_the_batch_and_agree_with_the_row(example: Example) -> None:
    """(S, *) for y with an axis in front, (*, K or more) for modes and region."""
    dist, wide = example.dist, batch_of(example.dist)
    y = dist.sample((4, 2, 3), generator=torch.Generator().manual_seed(2))
    for name in ("log_prob", "cdf", "log_cdf", "log_sf", "crps"):
        got = getattr(wide, name)(y)
        assert got.shape == (4, 2, 3), name
        torch.testing.assert_close(got, getattr(dist, name)(y), rtol=1e-6, atol=1e-9)
    assert wide.log_mass(y, y + 1.0).shape == (4, 2, 3)
    assert wide.icdf(torch.rand(4, 1, 1)).shape == (4, 2, 3, 1)
    assert wide.interval(0.5).shape == (2, 3, 2) and wide.entropy().shape == (2, 3)
    for got, want in ((wide.modes().loc, dist.modes().loc), (wide.hdr(0.8)[0], dist.hdr(0.8)[0])):
        torch.testing.assert_close(got, want.expand_as(got), equal_nan=True, rtol=1e-6, atol=1e-8)


@each_univariate
def test_numbers_arrays_and_frames_give_the_answers_of_tensors(example: Example) -> None:
    """A number stands for every row; numbers and lists leave the dtype of the distribution."""
    wide = batch_of(example.dist)
    y = example.dist.sample((3,), generator=torch.Generator().manual_seed(3))
    single = example.dist.to(torch.float32)
    for name in ("log_prob", "cdf", "log_cdf", "log_sf", "crps"):
        ask, want = getattr(wide, name), getattr(example.dist, name)(y)
        number, column = ask(y[0].item()), y.numpy()
        torch.testing.assert_close(number, want[0].expand_as(number), rtol=1e-6, atol=1e-9)
        for values in (column, column.tolist(), pd.DataFrame(column)):
            torch.testing.assert_close(ask(values), ask(y), rtol=0, atol=0)
        assert getattr(single, name)(column.tolist()).dtype == torch.float32
        assert getattr(single, name)(column).dtype == torch.float64
    levels = torch.tensor([[0.1], [0.5]], dtype=torch.float64)
    flat = wide[0]
    for p in (levels.numpy(), levels.tolist(), pd.DataFrame(levels.numpy())):
        torch.testing.assert_close(flat.icdf(p), flat.icdf(levels), rtol=0, atol=0)
    assert flat[0].icdf([0.1, 0.5]).shape == (2, 1)


@each
def test_cat_puts_batches_one_after_the_other(example: Example) -> None:
    """Along any axis of the batch, of the same class."""
    dist = example.dist
    y = dist.sample(generator=torch.Generator().manual_seed(4))
    for dim, batch, shape in ((0, (1, 3), (3, 3)), (-1, (2, 5), (2, 8)), (-2, (0, 3), (2, 3))):
        whole = dist.cat([batch_of(dist), dist.expand(batch)], dim)
        assert type(whole) is type(dist) and whole.batch_shape == shape
        torch.testing.assert_close(whole.log_prob(y), dist.log_prob(y).expand(shape))


def test_cat_keeps_the_parameters_of_every_row() -> None:
    """Also of mixtures of fewer components, bounds and list of families; the rest is refused."""
    y = t([0.5], [1.5], [2.0])
    one = Mixture(t([0.0]), Independent(Gamma(t([[2.0]]), t([[1.0]])), 1))
    two = Mixture(
        t([0.0, 1.0]).expand(2, 2),
        Independent(Gamma(t([[2.0], [9.0]], [[1.0], [3.0]]), t([[1.0]])), 1),
    )
    for parts in (
        [one, two],
        [one.truncate(0.1, 3.0), two.truncate(t([0.2], [0.3]), 4.0)],
        [one.discretize(0.5), two.discretize(0.5)],
        [
            UNIVARIATE["point mass and gamma"].dist.expand((n,)).affine(0.0, c)
            for n, c in ((1, 1.0), (2, 2.0))
        ],
    ):
        whole = parts[0].cat(parts)
        want = torch.cat(
            [part.log_prob(y[i]) for part, i in zip(parts, (slice(1), slice(1, 3)), strict=True)]
        )
        torch.testing.assert_close(whole.log_prob(y), want)
    assert Mixture.cat([one, two]).n_components == 2
    assert isinstance(Mixture.cat([one, two]).components, Independent)


@each
def test_draws_depend_on_their_generator_alone(example: Example) -> None:
    """sample_shape + batch + event; torch's global state is neither read nor changed."""
    dist = batch_of(example.dist)
    before = torch.get_rng_state()
    first, second = (
        dist.sample((5,), generator=torch.Generator().manual_seed(8)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(first, second)
    assert first.shape == (5, 2, 3, *dist.event_shape) and not first.requires_grad
    assert dist.sample((0,)).shape == (0, 2, 3, *dist.event_shape)
    assert bool(dist.support.check(first).all())


@each
def test_numpy_names_the_parameters_and_repr_the_shapes(example: Example) -> None:
    """Arrays by name, log weights normalised; one line without a tensor."""
    dist = batch_of(example.dist)
    found = dist.numpy()
    assert all(isinstance(a, np.ndarray) for a in found.values())
    np.testing.assert_allclose(np.exp(found["logits"]).sum(-1), 1.0)
    text = repr(dist)
    assert text.startswith(f"{type(dist).__name__}(batch_shape=(2, 3), event_shape=(")
    assert "\n" not in text and "tensor" not in text


@each
def test_affine_changes_the_unit_or_says_why_not(example: Example) -> None:
    """log p_{b + c Y}(b + c y) = log p_Y(y) - D log|c| for a density; a mass stays what it is."""
    dist = example.dist
    shift, scale = 6.0, -2.0
    if not example.affine:
        with pytest.raises((TypeError, ValueError), match=r"affine needs|Change the base"):
            dist.affine(shift, scale)
        return
    moved = dist.affine(shift, scale)
    y = dist.sample((20,), generator=torch.Generator().manual_seed(3))
    steps = torch.full_like(y[:, 0], dist.event_shape[0] * math.log(2))
    masses = list(example.law.points) if example.law else []
    steps[torch.isin(y[:, 0], t(*masses)) | isinstance(dist, DiscretizedMixture)] = 0.0
    torch.testing.assert_close(moved.log_prob(shift + scale * y), dist.log_prob(y) - steps)
    torch.testing.assert_close(moved.mean, shift + scale * dist.mean)
    for c in (0.0, math.nan):
        with pytest.raises(ValueError, match=r"^scale must be finite and not 0; got"):
            dist.affine(0.0, c)


@each_univariate
def test_gradients_of_the_weights_are_those_of_differences(example: Example) -> None:
    """log_prob, log_cdf, log_mass, crps and entropy in the logits."""
    base = getattr(example.dist, "base", example.dist)
    base = getattr(base, "base", base)
    y = example.dist.sample((3,), generator=torch.Generator().manual_seed(4))

    def of(logits: Tensor) -> MixtureDistribution:
        if isinstance(base, GaussianMixture):
            new: Any = GaussianMixture(logits, base.loc, base.scale)
        else:
            new = Mixture(logits, base.components)
        if isinstance(example.dist, AtomicMixture):
            if isinstance(example.dist.base, TruncatedMixture):
                new = new.truncate(example.dist.base.low, example.dist.base.high)
            own = example.dist.logits
            weights = torch.cat([own[:1] + logits[0], own[1:]])  # those of the atoms move too
            return AtomicMixture(new, example.dist.atoms, weights)
        if isinstance(example.dist, TruncatedMixture):
            return new.truncate(example.dist.low, example.dist.high)
        if isinstance(example.dist, DiscretizedMixture):
            return new.discretize(example.dist.width)
        return new

    logits = base.logits.clone()
    alive = (logits > -INF).double()
    step = 1e-5 * torch.linspace(1, 2, len(logits)).double() * alive
    for ask in (
        lambda d: d.log_prob(y),
        lambda d: d.log_cdf(y),
        lambda d: d.log_mass(y - 1.0, y + 0.5),
        lambda d: d.crps(y),
        lambda d: d.entropy(),
    ):
        leaf = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(ask(of(leaf)).sum(), leaf)
        want = (ask(of(logits + step)) - ask(of(logits - step))).sum() / 2
        got = (slope.nan_to_num() * step).sum()
        assert got.item() == pytest.approx(want.item(), rel=1e-4, abs=1e-10)
        assert bool(slope[alive.bool()].isfinite().all())


# --- values of the issue -------------------------------------------------------------------------


def test_crps_of_a_truncated_gaussian_is_the_integral() -> None:
    """N(0.3, 0.5) between 0 and 1 at 0.2: 0.13325."""
    dist = GaussianMixture(t(0), t([0.3]), t([0.5])).truncate(0.0, 1.0)
    law = scipy.stats.truncnorm(-0.6, 1.4, 0.3, 0.5)
    want = sum(
        scipy.integrate.quad(f, a, b)[0]
        for f, a, b in ((lambda x: law.cdf(x) ** 2, 0, 0.2), (lambda x: law.sf(x) ** 2, 0.2, 1))
    )
    assert dist.crps(t(0.2)).item() == pytest.approx(want, rel=1e-7)
    assert want == pytest.approx(0.13325, abs=5e-6)


@pytest.mark.parametrize(
    ("first", "second", "median"), [((0, 1), (2, 3), 1.0), ((-3, -2), (2, 3), -2.0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_piece_of_the_cdf_gives_its_least_place(
    first: tuple, second: tuple, median: float, dtype: torch.dtype
) -> None:
    """The median of an even mixture of two uniforms, and the quantiles beside it."""
    ends = torch.tensor([first, second], dtype=dtype).T
    dist = Mixture(torch.zeros(2, dtype=dtype), Uniform(*ends))
    assert dist.median.item() == median
    assert dist.icdf(0.25).item() == pytest.approx(first[0] + 0.5)
    assert dist.icdf(0.75).item() == pytest.approx(second[0] + 0.5)


def test_far_out_a_truncated_law_is_an_exponential() -> None:
    """60 scales out: region, mode, entropy and CRPS of the exponential of rate 60, but for 1e-3."""
    for sign in (1.0, -1.0):
        base = GaussianMixture(t(0), t([0.0]), t([1.0]))
        ends = (60.0, INF) if sign > 0 else (-INF, -60.0)
        dist, law = base.truncate(*ends), scipy.stats.expon(scale=1 / 60)
        edges = (dist.hdr(0.9).intervals[0] * sign - 60.0).sort().values
        np.testing.assert_allclose(edges, [0.0, law.ppf(0.9)], rtol=1e-3, atol=1e-9)
        assert dist.mode.item() == sign * 60.0
        assert dist.entropy().item() == pytest.approx(law.entropy(), abs=1e-3)
        want = 0.01 + 2 / 60 * (math.exp(-0.6) - 1) + 0.5 / 60
        assert dist.crps(t(sign * 60.01)).item() == pytest.approx(want, rel=5e-3)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_EXAMPLES)
def test_bad_examples_are_refused(bad: Bad) -> None:
    """One sentence each, when they are made."""
    with pytest.raises(bad.error, match=bad.match):
        bad.make()


@each_univariate
@pytest.mark.parametrize(
    ("ask", "error", "match"),
    [
        (lambda d: d.log_prob("a"), TypeError, r"^y must be a tensor or a numeric array; got str"),
        (lambda d: d.cdf([[1.0], [2.0, 3.0]]), ValueError, "^y must have rows of one length"),
        (lambda d: d.cdf(pd.Series(np.zeros(64))), ValueError,
         r"got \(64,\)\. Did you mean y\.to_numpy\(\)\[:, None\]\?$"),
        (lambda d: d.cdf([0.0] * 64), ValueError, r"Did you mean numpy\.asarray\(y\)\[:, None\]"),
        (lambda d: d.icdf([0.1, 0.2, 0.5]), ValueError,
         r"^p with .* For these levels of every mixture give numpy\.asarray\(p\)\[:, None\]$"),
        *(
            (lambda d, name=name: getattr(d, name)(torch.zeros(64)), ValueError,
             r"^y must have shape \(\*, 1\); got \(64,\)\. Did you mean y\[:, None\]\?$")
            for name in ("log_prob", "cdf", "log_cdf", "log_sf", "crps")
        ),
        (lambda d: d.log_prob(t([0.0], [math.nan])), ValueError, "^y must not be NaN; row 1 is$"),
        (lambda d: d.cdf(torch.zeros(3, 1)), ValueError,
         r"^y with batch shape \(3,\) does not broadcast against the batch shape \(2,\) of the"),
        (lambda d: d.log_mass(torch.zeros(2), 1.0), ValueError, r"^low must have shape \(\*, 1\)"),
        (lambda d: d.log_mass(0.0, math.nan), ValueError, "^high must not be NaN"),
        (lambda d: d.icdf(torch.full((3,), 0.5)), ValueError, r"^p with batch shape \(3,\) does"),
        (lambda d: d.icdf(1.5), ValueError, r"^p must lie in \[0, 1\]; got 1\.5$"),
        (lambda d: d.icdf(t(0.1, -0.5)), ValueError, r"^p must lie .* got -0\.5 at index \(1,\)$"),
        (lambda d: d.hdr(1.0), ValueError, r"^coverage must lie between 0 and 1; got 1\.0$"),
        (lambda d: d.interval(0.0), ValueError, r"^coverage must lie between 0 and 1; got 0\.0$"),
        (lambda d: d.affine(torch.zeros(2), 1.0), ValueError, r"^shift must be a number or"),
    ],
)  # fmt: skip
def test_bad_questions_are_refused(example: Example, ask: Any, error: type, match: str) -> None:
    """One sentence each, the same of every distribution."""
    with pytest.raises(error, match=match):
        ask(example.dist.expand((2,)))


@each
def test_validation_follows_torchs_switch_and_is_inherited(example: Example) -> None:
    """NaN is refused by views of a distribution that validates; others answer NaN."""
    bad = torch.full(example.dist.event_shape, math.nan).double()
    for view in (example.dist, batch_of(example.dist), example.dist.detach(), example.dist[...]):
        with pytest.raises(ValueError, match=r"^y must not be NaN"):
            view.log_prob(bad)
    before = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        loose = Mixture(t(0.0, 0.0), Normal(t(0, 1), t(1, 1)))
        assert bool(loose.truncate(0.0, 1.0).log_prob(t(math.nan)).isnan())
    finally:
        Distribution.set_default_validate_args(before)


def test_all_are_public_and_share_one_base() -> None:
    """And every public member is documented."""
    for kind in (mdn.GaussianMixture, mdn.Mixture, mdn.TruncatedMixture, mdn.DiscretizedMixture,
                 mdn.AtomicMixture):  # fmt: skip
        assert issubclass(kind, MixtureDistribution)
    members = [n for n in vars(MixtureDistribution) if not n.startswith("_")]
    for name in itertools.chain(members, ["__getitem__"]):
        member = getattr(MixtureDistribution, name)
        assert name in ("arg_constraints", "has_rsample") or member.__doc__, name

"""TruncatedMixture and DiscretizedMixture against SciPy, mpmath, quadrature and plain sums."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Gamma

from mdn.distribution import DiscretizedMixture, GaussianMixture, Mixture, TruncatedMixture
from tests import oracles
from tests.cases import MIXTURES
from tests.oracles import mp

F32, F64 = torch.float32, torch.float64
INF = math.inf
EPS = torch.finfo(F64).eps

# Around the mixture "overlapping": components at -0.5, 0.2 and 1 with scales 1, 0.4 and 1.7.
WINDOWS = {
    "middle": (-1.0, 2.0),
    "lower bound": (0.0, INF),
    "upper bound": (-INF, 0.5),
    "no bound": (-INF, INF),
    "nearly all": (-15.0, 18.0),
    "narrow": (0.3, 0.3 + 1e-9),
    "tail": (52.0, 54.0),  # 30 scales of the widest component away, 130 of the narrowest
    "open tail": (52.0, INF),
    "lower tail": (-54.0, -52.0),
    "open lower tail": (-INF, -52.0),
    "narrow, in the tail": (52.0, 52.0 + 1e-7),
}
each_window = pytest.mark.parametrize("window", WINDOWS)
# in units of the scale
WIDTHS = [1e-8, 1e-4, 0.03, 0.4, 1.0, 3.0, 40.0]
each_width = pytest.mark.parametrize("width", WIDTHS)
LEVELS = [1e-300, 1e-30, 1e-9, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-9]


def mixture(name: str = "overlapping", dtype: torch.dtype = F64) -> GaussianMixture:
    return GaussianMixture(*(a.to(dtype) for a in MIXTURES[name]))


def truncated(window: str, name: str = "overlapping") -> TruncatedMixture:
    return TruncatedMixture(mixture(name), *WINDOWS[window])


def normal(loc: float, scale: float) -> GaussianMixture:
    zero = torch.zeros(1, dtype=F64)
    return GaussianMixture(zero, zero[:, None] + loc, zero[:, None] + scale)


def numbers(dist: GaussianMixture) -> tuple[list[float], list[float], list[float]]:
    """Logits, means and scales of one mixture, as floats."""
    return dist.logits.tolist(), dist.loc[:, 0].tolist(), dist.scale[:, 0].tolist()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(-1)


def places(window: str, n: int = 7) -> Tensor:
    """Places (n, 1) strictly inside, near the end that the probability is at if one is open."""
    low, high = WINDOWS[window]
    low, high = max(low, -54.0 if high < 0 else -4.0), min(high, 54.0 if low > 10 else 5.0)
    at = (np.arange(n) + 0.5) / n
    return column(*(low + at * (high - low)))


# -- truth in mpmath --------------------------------------------------------------------------


def mass(low: Any, high: Any, loc: Any, scale: Any) -> Any:
    """P(low <= Y <= high) of one Gaussian, by the erfc of the nearer tail."""
    a, b = ((mp.mpf(y) - mp.mpf(loc)) / mp.mpf(scale) / mp.sqrt(2) for y in (low, high))
    if a + b < 0:
        a, b = -b, -a
    return (mp.erfc(a) - mp.erfc(b)) / 2


def weighted(dist: GaussianMixture) -> list[tuple[Any, float, float]]:
    """(weight, mean, scale) of the components that are on."""
    logits, loc, scale = numbers(dist)
    total = mp.fsum(mp.exp(v) for v in logits)
    parts = zip(logits, loc, scale, strict=True)
    return [(mp.exp(v) / total, m, s) for v, m, s in parts if v > -INF]


def log_mass(dist: GaussianMixture, low: float, high: float) -> Any:
    """Log P(low <= Y <= high), through the complement if that is smaller."""
    parts = weighted(dist)
    inside = mp.fsum(w * mass(low, high, m, s) for w, m, s in parts)
    if inside < 0.5:
        return mp.log(inside)
    ends = ((-mp.inf, low), (high, mp.inf))
    return mp.log1p(-mp.fsum(w * mass(*e, m, s) for w, m, s in parts for e in ends))


def truncated_moments(dist: GaussianMixture, low: float, high: float) -> tuple[Any, Any]:
    """Mean and variance by the textbook formula, with 100 digits to cancel."""
    masses, means, squares = [], [], []
    for w, loc, scale in weighted(dist):
        m, s = mp.mpf(loc), mp.mpf(scale)
        a, b = (mp.mpf(low) - m) / s, (mp.mpf(high) - m) / s
        total = mass(low, high, loc, scale)
        d_a, d_b = (mp.npdf(z) / total for z in (a, b))
        edge = (a * d_a if a > -mp.inf else 0) - (b * d_b if b < mp.inf else 0)
        mean = m + s * (d_a - d_b)
        masses.append(w * total)
        means.append(mean)
        squares.append(s**2 * (1 + edge - (d_a - d_b) ** 2) + mean**2)
    total = mp.fsum(masses)
    mean = mp.fsum(w * v for w, v in zip(masses, means, strict=True)) / total
    return mean, mp.fsum(w * v for w, v in zip(masses, squares, strict=True)) / total - mean**2


def rounded_moments(dist: GaussianMixture, width: float) -> tuple[Any, Any]:
    """Mean and variance of the rounded values by the sum over all cells within 12 scales."""
    w = mp.mpf(width)
    first, second = mp.mpf(0), mp.mpf(0)
    for weight, loc, scale in weighted(dist):
        start, stop = (math.floor((loc + z * scale) / width + 0.5) for z in (-12, 12))
        for k in range(start - 2, stop + 3):
            p = weight * mass((k - mp.mpf("0.5")) * w, (k + mp.mpf("0.5")) * w, loc, scale)
            first += p * k * w
            second += p * (k * w) ** 2
    return first, second - first**2


def close(got: Tensor | float, truth: Any, rel: float, floor: float = 0.0) -> None:
    """|got - truth| <= rel * max(|truth|, floor), for one number."""
    value = float(got)
    assert math.isfinite(value)
    error = abs(mp.mpf(value) - truth)
    assert error <= rel * max(abs(truth), mp.mpf(floor)), (value, float(truth))


# -- truncation -------------------------------------------------------------------------------


@each_window
@pytest.mark.parametrize("name", ["overlapping", "two modes", "zero weight", "narrow inside wide"])
def test_log_normalizer_is_exact_in_the_middle_and_30_scales_out(name: str, window: str) -> None:
    """log(F(high) - F(low)) in 100 digits."""
    low, high = WINDOWS[window]
    got = truncated(window, name).log_normalizer
    if window == "no bound":
        assert got == 0
        return
    truth = log_mass(mixture(name), low, high)
    # where nearly all is inside, -log P is the mass outside: its own log has the rounding
    near_one = truth > -1e-3
    size = abs(mp.log(-truth)) if near_one else 1
    close(got, truth, 4 * EPS * float(size), floor=0 if near_one else 1)


def test_log_normalizer_keeps_its_digits_for_every_place_and_width() -> None:
    """The three formulas (short, tail, astride) meet without a seam."""
    for z, width in itertools.product(
        (0.0, 0.4, 0.9, 1.7, 6.0, 30.0, 200.0), (1e-12, 1e-5, 0.03, 0.4, 1.1, 1.9, 2.1, 9.0)
    ):
        for low in (z, -z - width):
            high = low + width
            got = TruncatedMixture(normal(0.0, 1.0), low, high).log_normalizer
            # the width has no more digits than its ends
            error = 8 * EPS * (1 + abs(z) / width)
            close(got, mp.log(mass(low, high, 0, 1)), 4 * EPS + error, floor=1)


@each_window
def test_log_prob_is_the_density_over_the_mass(window: str) -> None:
    """log p(y) - log P(low <= Y <= high), in 100 digits."""
    base, (low, high) = mixture(), WINDOWS[window]
    y = places(window)
    got = truncated(window).log_prob(y)
    total = log_mass(base, low, high)
    for value, place in zip(got, y[:, 0].tolist(), strict=True):
        parts = (
            w / mp.mpf(s) * mp.npdf((mp.mpf(place) - mp.mpf(m)) / mp.mpf(s))
            for w, m, s in weighted(base)
        )
        log_p = mp.log(mp.fsum(parts))
        close(value, log_p - total, 4 * EPS, floor=abs(log_p) + abs(total) + 1)


@pytest.mark.parametrize(("a", "b"), [(-1.0, 2.0), (0.5, INF), (-INF, -1.0), (3.0, 3.5)])
def test_one_component_is_scipys_truncnorm(a: float, b: float) -> None:
    """scipy.stats.truncnorm, its bounds in scales from the mean."""
    loc, scale = 1.5, 0.7
    ours = TruncatedMixture(normal(loc, scale), loc + a * scale, loc + b * scale)
    theirs = scipy.stats.truncnorm(a, b, loc, scale)
    p = torch.linspace(0.01, 0.99, 9, dtype=F64)
    y = torch.from_numpy(theirs.ppf(p.numpy())).unsqueeze(-1)
    for got, want in (
        (ours.icdf(p), y),
        (ours.log_prob(y), theirs.logpdf(y[:, 0].numpy())),
        (ours.cdf(y), p),
        (ours.log_sf(y), theirs.logsf(y[:, 0].numpy())),
        (ours.mean, [theirs.mean()]),
        (ours.stddev, [theirs.std()]),
        (ours.median, [theirs.median()]),
        (ours.interval(0.8), theirs.interval(0.8)),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-9)


@pytest.mark.parametrize("window", ["middle", "lower bound", "upper bound"])
def test_several_components_are_scipys_mixture(window: str) -> None:
    """pdf and cdf of scipy.stats.Mixture, cut and rescaled by hand."""
    low, high = WINDOWS[window]
    logits, loc, scale = numbers(mixture())
    parts = [scipy.stats.Normal(mu=m, sigma=s) for m, s in zip(loc, scale, strict=True)]
    theirs = scipy.stats.Mixture(parts, weights=np.exp(logits) / np.exp(logits).sum())
    y = places(window)
    at, dist = y[:, 0].numpy(), truncated(window)
    total = theirs.cdf(high) - theirs.cdf(low)
    np.testing.assert_allclose(dist.log_prob(y).exp(), theirs.pdf(at) / total, rtol=1e-12)
    np.testing.assert_allclose(dist.cdf(y), (theirs.cdf(at) - theirs.cdf(low)) / total, rtol=1e-11)


@each_window
def test_density_integrates_to_one_and_outside_it_is_zero(window: str) -> None:
    """The integral over the window is 1; beyond it log p = -inf."""
    low, high = WINDOWS[window]
    dist = truncated(window)
    width = min(high - low, 1e-3 if abs(low + high) == INF else 1.0)
    for end, sign in ((low, -1), (high, 1)):
        if math.isfinite(end):
            assert dist.log_prob(column(end)) > -INF
            assert dist.log_prob(column(end + sign * width)) == -INF
    low, high = max(low, -60.0), min(high, 60.0)
    cuts = [
        low,
        *(c for c in (-54, -53, -52, -8, 0, 0.7, 2, 8, 52, 53, 54) if low < c < high),
        high,
    ]
    parts = [
        scipy.integrate.quad(lambda y: dist.log_prob(column(y)).exp().item(), a, b, epsabs=0)[0]
        for a, b in itertools.pairwise(cuts)
    ]
    assert math.fsum(parts) == pytest.approx(1, abs=1e-8)


@each_window
def test_log_cdf_and_log_sf_keep_their_digits_at_both_ends(window: str) -> None:
    """Logs of the masses on either side of y, in 100 digits; they sum to 1."""
    base, (low, high) = mixture(), WINDOWS[window]
    total = mp.exp(log_mass(base, low, high))
    dist, y = truncated(window), places(window)
    for place in y:
        for got, ends in (
            (dist.log_cdf(place), (low, place.item())),
            (dist.log_sf(place), (place.item(), high)),
        ):
            part = mp.exp(log_mass(base, *ends)) / total
            truth = mp.log(part)
            size = max(1, -float(mp.log(total)), -float(mp.log(part * total)))
            error = 8 * EPS * size + 60 * EPS / (1e-7 if "narrow" in window else 1)
            close(got, truth, error, floor=1)
    np.testing.assert_allclose(dist.cdf(y) + dist.log_sf(y).exp(), 1, rtol=1e-12)


def test_cdf_ends_at_zero_and_one() -> None:
    """-inf and 0 in logs at the bounds and beyond, also at infinity."""
    dist = TruncatedMixture(mixture(), -1.0, 2.0)
    y = column(-INF, -5.0, -1.0, 2.0, 7.0, INF)
    assert dist.log_cdf(y).tolist() == [-INF, -INF, -INF, 0, 0, 0]
    assert dist.log_sf(y).tolist() == [0, 0, 0, -INF, -INF, -INF]
    whole = TruncatedMixture(mixture(), -INF, INF)
    assert whole.cdf(column(-INF, INF)).tolist() == [0, 1]
    assert whole.log_prob(column(-INF, INF)).tolist() == [-INF, -INF]


@each_window
@pytest.mark.parametrize("name", ["overlapping", "two modes", "narrow", "tiny weight"])
def test_icdf_inverts_the_cdf_in_logs(name: str, window: str) -> None:
    """log F(y) = log p below the median, the upper tail alike above it, to the digits of y."""
    dist, (low, high) = truncated(window, name), WINDOWS[window]
    p = torch.tensor(LEVELS, dtype=F64)
    y = dist.icdf(p)
    assert ((low <= y) & (y <= high)).all()
    assert (y.diff(dim=0) >= 0).all()
    # a y that is next to its neighbour in float64 may be off by that much and no more
    up, down = (
        torch.nextafter(y, torch.tensor(e, dtype=F64)).clamp(low, high) for e in (INF, -INF)
    )
    for got, want, first, last in (
        (dist.log_cdf, p.log(), down, up),
        (dist.log_sf, torch.log1p(-p), up, down),
    ):
        half = (p <= 0.5) if got == dist.log_cdf else (p > 0.5)
        noise = 1e-13 * (1 + want.abs() + dist.log_normalizer.abs())
        assert (got(first) - noise <= want)[half].all()
        assert (want <= got(last) + noise)[half].all()


@pytest.mark.parametrize("window", ["middle", "tail", "open tail", "open lower tail"])
@pytest.mark.parametrize("p", [1e-12, 0.2, 0.9])
def test_icdf_matches_bisection_in_mpmath(window: str, p: float) -> None:
    """The root of F(y) = p in 100 digits, also where F itself is below 1e-200."""
    base, (low, high) = mixture(), WINDOWS[window]
    goal = mp.mpf(p) * mp.exp(log_mass(base, low, high))
    parts = weighted(base)
    a, b = mp.mpf(max(low, -80.0)), mp.mpf(min(high, 80.0))
    for _ in range(90):
        middle = (a + b) / 2
        below = mp.fsum(w * mass(low, middle, m, s) for w, m, s in parts) < goal
        a, b = (middle, b) if below else (a, middle)
    close(truncated(window).icdf(p), a, 4 * EPS, floor=1)


def test_icdf_finds_components_a_million_scales_away() -> None:
    """The bracket grows until it holds the root; in between the density underflows."""
    base = mixture("far")  # at -1e6 and 1e6
    right = TruncatedMixture(base, 30.0, INF)
    left = TruncatedMixture(base, -INF, -70.0)
    p = torch.tensor([1e-12, 0.1, 0.5, 0.9, 1 - 1e-9], dtype=F64)
    z = torch.special.ndtri(p)
    torch.testing.assert_close(right.icdf(p)[:, 0], 1e6 + 3 * z, rtol=1e-15, atol=1e-8)
    torch.testing.assert_close(left.icdf(p)[:, 0], -1e6 + z, rtol=1e-15, atol=1e-8)
    gap = TruncatedMixture(base, -1e5, 1e5)  # nothing but a tail, 3e5 scales out
    assert ((gap.icdf(p) >= -1e5) & (gap.icdf(p) <= 1e5)).all()


@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_icdf_inverts_the_cdf_of_wild_mixtures(n_components: int) -> None:
    """Scales over 8 decades, bounds open, near or huge: to within 2 spacings of y."""
    generator = torch.Generator().manual_seed(n_components)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=F64)

    n = 1500
    scale = 10 ** (8 * uniform(n, n_components, 1) - 4)
    loc = (uniform(n, n_components, 1) - 0.5) * 10 ** (6 * uniform(n, 1, 1) - 2)
    base = GaussianMixture(10 * uniform(n, n_components), loc, scale)
    kind, last = uniform(n, 1), scale[:, -1]
    low = loc[:, -1] + last * (uniform(n, 1) - 0.5) * 10 ** (4 * uniform(n, 1) - 1)
    high = low + last * 10 ** (8 * uniform(n, 1) - 4)
    low = torch.where(kind < 0.25, -INF, torch.where(kind > 0.97, -1e25, low))
    high = torch.where((kind > 0.2) & (kind < 0.5), INF, high)
    there = (low < high)[:, 0]  # a window narrower than the spacing of its ends is none
    dist = TruncatedMixture(base[there], low[there], high[there])
    p = torch.cat([10 ** (-250 * uniform(3)), uniform(6), 1 - 10 ** (-15 * uniform(3))])[:, None]
    y = dist.icdf(p)
    first, final = y, y
    for _ in range(2):
        first = torch.maximum(torch.nextafter(first, first.new_tensor(-INF)), dist.low)
        final = torch.minimum(torch.nextafter(final, final.new_tensor(INF)), dist.high)
    lower, want = p <= 0.5, torch.where(p <= 0.5, p.log(), torch.log1p(-p))
    at_least = torch.where(lower, dist.log_cdf(first), dist.log_sf(final))
    at_most = torch.where(lower, dist.log_cdf(final), dist.log_sf(first))
    noise = 2e-13 * (1 + want.abs() + dist.log_normalizer.abs())
    assert ((at_least - noise <= want) & (want <= at_most + noise)).all()


def test_icdf_ends_at_the_bounds() -> None:
    """p = 0 and p = 1 give the bounds, finite or not; a NaN stays."""
    ends = torch.tensor([0.0, 1.0, math.nan], dtype=F64)
    for low, high in ((-1.0, 2.0), (-INF, 2.0), (-1.0, INF), (-INF, INF)):
        y = TruncatedMixture(mixture(), low, high).icdf(ends)
        assert y[:2, 0].tolist() == [low, high]
        assert y[2].isnan()


@each_window
@pytest.mark.parametrize("name", ["overlapping", "two modes", "zero weight"])
def test_moments_are_exact_in_the_middle_and_30_scales_out(name: str, window: str) -> None:
    """The textbook formula in 100 digits; the variance is not lost in a tail or a narrow window."""
    dist, (low, high) = truncated(window, name), WINDOWS[window]
    mean, variance = truncated_moments(mixture(name), low, high)
    close(dist.mean, mean, 4 * EPS, floor=1)
    # the width of a narrow window is known to the digits of its ends
    rel = 1e-13 + (8 * EPS * abs(low) / (high - low) if math.isfinite(low + high) else 0)
    close(dist.variance, variance, rel)
    close(dist.stddev, mp.sqrt(variance), rel)


def test_moments_approach_those_of_an_exponential_far_out() -> None:
    """z scales out the excess over the bound has mean 1/z and deviation 1/z, to order 1/z^2."""
    for z in (1e3, 1e5, 1e6):
        dist = TruncatedMixture(normal(-z, 1.0), 0.0, INF)
        np.testing.assert_allclose([dist.mean * z, dist.stddev * z], 1, rtol=6 / z**2 + 1e-12)


@pytest.mark.parametrize("window", ["middle", "lower bound", "narrow", "tail", "open lower tail"])
def test_truncated_gradients_match_finite_differences(window: str) -> None:
    """gradcheck in y, p and the parameters; in the window's own unit, to be well conditioned."""
    low, high = WINDOWS[window]
    y = places(window, 3)
    size = 1e-9 if window == "narrow" else 1.0
    params = [a.clone().requires_grad_() for a in MIXTURES["overlapping"]]

    def dist(*raw: Tensor) -> TruncatedMixture:
        return TruncatedMixture(GaussianMixture(*raw), low, high)

    check: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}
    offset = torch.zeros_like(y, requires_grad=True)
    p = torch.tensor([0.05, 0.5, 0.8], dtype=F64, requires_grad=True)
    assert gradcheck(lambda *a: dist(*a).log_normalizer, params, **check)
    assert gradcheck(lambda u, *a: dist(*a).log_prob(y + size * u), (offset, *params), **check)
    if size == 1:
        assert gradcheck(lambda u, *a: dist(*a).log_cdf(y + u), (offset, *params), **check)
        assert gradcheck(lambda q, *a: dist(*a).icdf(q), (p, *params), **check)
        assert gradcheck(lambda *a: (dist(*a).mean, dist(*a).variance), params, **check)


def test_truncated_second_derivatives_match_finite_differences() -> None:
    """gradgradcheck, of the quantile too; and the bounds have gradients of their own."""
    params = [a.clone().requires_grad_() for a in MIXTURES["overlapping"]]
    y, p = places("middle", 3), torch.tensor([0.05, 0.5, 0.8], dtype=F64, requires_grad=True)
    ends = [column(v).requires_grad_() for v in (-1.0, 2.0)]

    def dist(*raw: Tensor) -> TruncatedMixture:
        return TruncatedMixture(GaussianMixture(*raw[:3]), *raw[3:])

    inputs = (*params, *ends)
    assert gradcheck(lambda *a: dist(*a).log_prob(y), inputs)
    assert gradgradcheck(lambda *a: dist(*a).log_prob(y), inputs)
    assert gradcheck(lambda q, *a: dist(*a).icdf(q), (p, *inputs))
    assert gradgradcheck(lambda q, *a: dist(*a).icdf(q), (p, *inputs), atol=1e-4)


def test_icdf_at_the_ends_moves_with_the_bounds_alone() -> None:
    """d icdf(0) / d low = 1, and nothing else moves it."""
    low = column(-1.0).requires_grad_()
    params = [a.clone().requires_grad_() for a in MIXTURES["overlapping"]]
    y = TruncatedMixture(GaussianMixture(*params), low, 2.0).icdf(0.0)
    grads = torch.autograd.grad(y.sum(), [low, *params])
    assert grads[0] == 1
    assert all((g == 0).all() for g in grads[1:])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("low", "high"), [(1e6, INF), (-INF, -1e6), (1e6, 1e6 + 8), (0.5, 0.5000001), (-INF, INF)]
)
def test_truncated_values_and_gradients_are_finite(
    low: float, high: float, dtype: torch.dtype
) -> None:
    """A million scales out, in a window of one float32 spacing, with no bound, a component off."""
    logits = torch.tensor([0.3, -INF, -1.0], dtype=dtype, requires_grad=True)
    loc = torch.tensor([[0.0], [9.0], [1.0]], dtype=dtype, requires_grad=True)
    scale = torch.tensor([[1.0], [0.5], [2.0]], dtype=dtype, requires_grad=True)
    dist = TruncatedMixture(GaussianMixture(logits, loc, scale), low, high)
    inside = low if low > -INF else high if high < INF else 0.0
    y = torch.tensor([[inside], [inside - 1], [inside + 1]], dtype=dtype, requires_grad=True)
    log_p = dist.log_prob(y)
    total = log_p[log_p > -INF].sum() + dist.log_cdf(y).exp().sum() + dist.log_normalizer
    total = total + dist.mean.sum() + dist.variance.sum() + dist.icdf(0.3).sum()
    total.backward()
    assert total.isfinite()
    for a in (y, logits, loc, scale):
        assert a.grad is not None and a.grad.isfinite().all()


@each_window
def test_truncated_samples_follow_the_cdf(window: str) -> None:
    """Kolmogorov-Smirnov on 5 000 draws; a right sampler fails for one seed in 1e6."""
    dist, (low, high) = truncated(window), WINDOWS[window]
    y = dist.sample((5000,), generator=torch.Generator().manual_seed(3))
    assert y.shape == (5000, 1) and ((low <= y) & (y <= high)).all()
    if math.isfinite(low + high) and "tail" not in window:
        # SciPy's cdf, away from the tails where it has no digits
        _, loc, scale = numbers(dist.base)
        weights, at = dist.base.weights.numpy(), [y.numpy(), low, high]
        f, f_low, f_high = ((weights * scipy.stats.norm.cdf(v, loc, scale)).sum(-1) for v in at)
        assert f_high - f_low > 0
        u = (f - f_low) / (f_high - f_low)
    else:
        u = dist.cdf(y).numpy()
    # of a narrow window SciPy's differences keep 7 digits: ties, which the test bears
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-6


def test_rejected_draws_of_the_base_follow_the_same_law() -> None:
    """Draws of the base that fall inside; two-sample KS fails for one seed in 1e6."""
    dist = truncated("middle")
    generator = torch.Generator().manual_seed(8)
    y = mixture().sample((12_000,), generator=generator)[:, 0]
    y = y[(y >= -1) & (y <= 2)]
    got = dist.sample((len(y),), generator=generator)[:, 0]
    assert scipy.stats.ks_2samp(y, got).pvalue > 1e-6


@pytest.mark.parametrize("window", ["middle", "lower bound", "tail", "open lower tail"])
def test_float32_is_the_rounded_float64(window: str) -> None:
    """One rounding at the end: the numbers inside are float64."""
    single = TruncatedMixture(mixture(dtype=F32), *WINDOWS[window])
    double = TruncatedMixture(single.base.to(F64), single.low.double(), single.high.double())
    y = places(window).float()
    p = torch.tensor([0.1, 0.6, 0.999])
    for got, want in (
        (single.log_prob(y), double.log_prob(y.double())),
        (single.log_cdf(y), double.log_cdf(y.double())),
        (single.log_sf(y), double.log_sf(y.double())),
        (single.icdf(p), double.icdf(p.double())),
        (single.icdf(0.1), double.icdf(0.1)),
        (single.mean, double.mean),
        (single.variance, double.variance),
        (single.log_normalizer, double.log_normalizer),
    ):
        assert got.dtype == F32
        torch.testing.assert_close(got, want.float(), rtol=2e-7, atol=0)
    assert single.sample((2,)).dtype == F32
    assert single.log_prob(y.double()).dtype == single.icdf(p.double()).dtype == F64


@pytest.mark.parametrize("bound", [INF, 1e30])
def test_without_bounds_it_is_the_base(bound: float) -> None:
    """The mass of the line is 1, whether its ends are infinite or huge numbers."""
    base = mixture("batched")
    dist = TruncatedMixture(base, -bound, bound)
    y = torch.linspace(-5, 5, 9, dtype=F64).reshape(9, 1, 1)
    p = torch.tensor([[1e-9], [0.3], [0.9]], dtype=F64)
    for got, want in (
        (dist.log_prob(y), base.log_prob(y)),
        (dist.log_cdf(y), base.log_cdf(y)),
        (dist.log_sf(y), base.log_sf(y)),
        (dist.icdf(p), base.icdf(p)),
        (dist.mean, base.mean),
        (dist.variance, base.variance),
    ):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


def test_mirror_image_and_change_of_unit() -> None:
    """y -> b + c y, bounds with it: log p falls by log |c|, quantiles move along."""
    base, c, b = mixture(), -2.5, 4.0
    dist, moved = TruncatedMixture(base, -1.0, 2.0), TruncatedMixture(base.affine(b, c), -1.0, 6.5)
    y, p = places("middle"), torch.tensor(LEVELS[2:], dtype=F64)
    got = moved.log_prob(b + c * y) + math.log(-c)
    torch.testing.assert_close(got, dist.log_prob(y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.log_sf(b + c * y), dist.log_cdf(y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        moved.icdf(1 - p[1:-1]), b + c * dist.icdf(p[1:-1]), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(moved.mean, b + c * dist.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(moved.stddev, -c * dist.stddev, rtol=1e-13, atol=0)


def test_the_base_may_have_any_covariance_and_dtype() -> None:
    """One dimension of a full covariance; a bfloat16 base computes in float64 as well."""
    tril = torch.tensor([[[1.0, 0.0], [0.3, 0.5]], [[2.0, 0.0], [-1.0, 0.7]]], dtype=F64)
    full = GaussianMixture(torch.zeros(2), torch.zeros(2, 2, dtype=F64), scale_tril=tril)
    one = full.marginal(1)
    flat = GaussianMixture(torch.zeros(2), torch.zeros(2, 1, dtype=F64), one.scale)
    y = column(0.0, 0.5)
    for got, want in (
        (TruncatedMixture(one, -0.5, 1.0), TruncatedMixture(flat, -0.5, 1.0)),
        (DiscretizedMixture(one, 0.5), DiscretizedMixture(flat, 0.5)),
    ):
        torch.testing.assert_close(got.log_prob(y), want.log_prob(y))
        torch.testing.assert_close(got.mean, want.mean)
        torch.testing.assert_close(got.icdf(0.3), want.icdf(0.3))
    half = mixture(dtype=torch.bfloat16)
    for dist in (TruncatedMixture(half, -0.5, 1.0), DiscretizedMixture(half, 0.5)):
        double = type(dist)(
            half.to(F64), *((-0.5, 1.0) if type(dist) is TruncatedMixture else (0.5,))
        )
        assert dist.log_prob(y.bfloat16()).dtype == dist.sample().dtype == torch.bfloat16
        assert torch.equal(dist.log_prob(y.bfloat16()), double.log_prob(y).bfloat16())
        assert torch.equal(dist.mean, double.mean.bfloat16())


def test_bounds_and_batches_broadcast() -> None:
    """Row by row the same as one by one; levels (L, 1) against N rows give (L, N, 1)."""
    base = mixture("batched")
    low = torch.tensor([[-2.0], [-INF], [0.0], [-1.0]], dtype=F64)
    dist = TruncatedMixture(base, low, 1.5)
    assert dist.batch_shape == (4,) and dist.event_shape == (1,)
    p = torch.tensor([[0.1], [0.5], [0.9]], dtype=F64)
    y = dist.icdf(p)
    assert y.shape == (3, 4, 1) and dist.log_prob(y).shape == (3, 4)
    assert dist.interval(0.8).shape == (4, 2)
    torch.testing.assert_close(dist.interval(0.8), y[[0, 2], :, 0].T)
    for i in range(4):
        one = TruncatedMixture(base[i], low[i], 1.5)
        assert one.batch_shape == ()
        for got, want in (
            (dist.log_prob(y)[:, i], one.log_prob(y[:, i])),
            (y[:, i], one.icdf(p[:, 0])),
            (dist.mean[i], one.mean),
            (dist.variance[i], one.variance),
            (dist[i].log_normalizer, one.log_normalizer),
        ):
            torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    wide = TruncatedMixture(mixture(), low, low.new_tensor(7.0))
    assert wide.batch_shape == wide.base.batch_shape == (4,)
    assert wide.mean.shape == (4, 1) and wide.log_normalizer.shape == (4,)


def test_views_of_the_batch_keep_the_bounds() -> None:
    """expand, slices, masks and index tuples."""
    base = mixture("batched")
    low = torch.tensor([[-2.0], [-INF], [0.0], [-1.0]], dtype=F64)
    dist = TruncatedMixture(base, low, 3.0)
    larger = dist.expand((2, 4))
    assert larger.batch_shape == (2, 4) and torch.equal(larger.mean[1], dist.mean)
    mask = torch.tensor([True, False, True, False])
    assert torch.equal(dist[mask].low, low[mask])
    assert torch.equal(dist[1:3].mean, dist.mean[1:3])
    assert torch.equal(larger[1, 2].mean, dist.mean[2])
    assert torch.equal(larger[..., 0].low, low[0].expand(2, 1))
    rounded = DiscretizedMixture(base, 0.5)
    assert torch.equal(rounded[mask].mean, rounded.mean[mask])
    assert torch.equal(rounded.expand((2, 4)).mean[1], rounded.mean)
    assert rounded[0].width == 0.5
    empty = dist[:0]
    assert empty.mean.shape == (0, 1) and empty.sample((3,)).shape == (3, 0, 1)
    assert empty.log_prob(torch.zeros(0, 1, dtype=F64)).shape == (0,)


def test_support_holds_what_the_laws_can_give() -> None:
    """Between the bounds; on the grid."""
    inside = TruncatedMixture(mixture(), -1.0, INF).support.check(column(-1.1, -1.0, 9.0))
    assert inside.tolist() == [False, True, True]
    rounded = DiscretizedMixture(mixture(), 0.1)
    assert rounded.support.check(column(0.3, 0.35, -7.0)).tolist() == [True, False, True]
    assert rounded.support.check(torch.tensor([[12345.6], [0.07]])).tolist() == [True, False]
    assert rounded.support.is_discrete and rounded.support.event_dim == 1


def test_repr_names_shapes_and_bounds() -> None:
    """One line; bounds that differ from row to row by their shape."""
    assert repr(TruncatedMixture(mixture(), -INF, 2.5)) == (
        "TruncatedMixture(batch_shape=(), event_shape=(1,), n_components=3, low=-inf, high=2.5)"
    )
    assert "low=<tensor (4, 1)>, high=8" in repr(
        TruncatedMixture(mixture("batched"), torch.arange(4.0)[:, None], 8)
    )
    assert repr(DiscretizedMixture(mixture("batched"), 0.5)) == (
        "DiscretizedMixture(batch_shape=(4,), event_shape=(1,), n_components=3, width=0.5)"
    )


# -- rounding ---------------------------------------------------------------------------------


@each_width
@pytest.mark.parametrize("z", [0.0, 0.7, -2.3, 8.0, -30.0, 300.0])
def test_cell_masses_keep_their_digits(z: float, width: float) -> None:
    """The integral of the density over the cell in 100 digits, however narrow, wide or far."""
    base = mixture()
    dist = DiscretizedMixture(base, width)
    k = round(z * 1.7 / width)
    w = mp.mpf(width)
    ends = (k - mp.mpf("0.5")) * w, (k + mp.mpf("0.5")) * w
    truth = log_mass(base, *ends)
    y = column(k * width)
    # relative also where the mass is nearly 1; y itself is a float64
    slope = max(abs(k * width) / s * (abs(k * width - m) / s + 1) for _, m, s in weighted(base))
    floor = 0 if -0.5 < truth < -1e-280 else 1
    close(dist.log_prob(y), truth, 4e-13 if floor == 0 else EPS * (8 + slope), floor=floor)


@given(
    z=st.floats(-50, 50),
    scale=st.floats(-12, 6).map(lambda e: 10**e),
    width=st.floats(-6, 6).map(lambda e: 10**e),
    dtype=st.sampled_from([F32, F64]),
)
@settings(max_examples=200, deadline=None)
def test_a_mass_is_never_above_one(
    z: float, scale: float, width: float, dtype: torch.dtype
) -> None:
    """log P <= 0 whatever the scale: the likelihood of rounded data is bounded."""
    base = GaussianMixture(
        torch.tensor([0.3, 1.0, -2.0], dtype=dtype),
        torch.tensor([[0.0], [1.0], [-1.0]], dtype=dtype) * scale,
        torch.tensor([[1.0], [2.0], [0.01]], dtype=dtype) * scale,
    )
    y = torch.tensor([[round(z * scale / width) * width]], dtype=dtype)
    log_p = DiscretizedMixture(base, width).log_prob(y)
    assert log_p <= 0 and not log_p.isnan()


def test_shrinking_the_scale_gains_nothing_from_rounded_data() -> None:
    """The density of a repeated value grows without bound, its mass only up to 1."""
    y = column(*[0.3] * 5)
    scales = [1.0, 1e-2, 1e-4, 1e-8]
    densities = [normal(0.3, s).log_prob(y).mean().item() for s in scales]
    masses = [DiscretizedMixture(normal(0.3, s), 0.1).log_prob(y).mean().item() for s in scales]
    assert densities == sorted(densities) and densities[-1] > 17
    assert masses == sorted(masses) and -1e-6 < masses[1] < 0 and masses[-1] == 0


@each_width
@pytest.mark.parametrize("name", ["overlapping", "two modes", "zero weight"])
def test_masses_sum_to_one_and_cdf_is_their_running_sum(name: str, width: float) -> None:
    """P(Y <= y) adds up the cells up to and including that of y."""
    base = mixture(name)
    dist = DiscretizedMixture(base, width)
    if width < 0.03:  # too many cells to sum them all: some near the middle
        k = torch.arange(-200, 200, dtype=F64)
        start = dist.cdf(width * (k[:1] - 1).unsqueeze(-1))
        tolerance = 1e-13
    else:
        reach = math.ceil(80 / width)
        k = torch.arange(-reach, reach + 1, dtype=F64)
        start, tolerance = 0.0, 1e-13
    y = width * k.unsqueeze(-1)
    running = start + dist.log_prob(y).exp().cumsum(0)
    torch.testing.assert_close(dist.cdf(y), running, rtol=tolerance, atol=tolerance)
    if width >= 0.03:
        assert running[-1] == pytest.approx(1, abs=1e-13)


def test_cdf_is_constant_between_the_grid_points() -> None:
    """A step function of any y, right-continuous, 0 and 1 at infinity."""
    dist = DiscretizedMixture(mixture(), 0.1)
    y = column(0.2, 0.2000001, 0.25, 0.29999, 0.3)
    f = dist.cdf(y)
    assert f[0] == f[1] == f[2] == f[3] < f[4]
    assert dist.cdf(column(-INF, INF)).tolist() == [0, 1]


@each_width
@pytest.mark.parametrize("name", ["overlapping", "narrow inside wide", "tiny weight"])
def test_discrete_icdf_is_the_least_grid_point_that_reaches_p(name: str, width: float) -> None:
    """cdf(y) >= p > cdf(y - width), and icdf(cdf(y)) = y on the grid, in the dtype."""
    dist = DiscretizedMixture(mixture(name), width)
    p = torch.cat(
        [torch.logspace(-200, -1, 40, dtype=F64), torch.linspace(0.1, 0.999, 40).double()]
    )
    y = dist.icdf(p)
    k = (y / width).round()
    assert (dist.cdf(y) >= p).all()
    assert (dist.cdf((k - 1) * width) < p).all()
    grid = width * torch.arange(-30, 5, dtype=F64).unsqueeze(-1)
    f = dist.cdf(grid)
    there = (f > 0) & (f < 1)  # else the tail is not a float64
    torch.testing.assert_close(dist.icdf(f[there]), grid[there], rtol=1e-15, atol=0)
    more = torch.nextafter(f[there], f.new_tensor(1.0))
    more = more[more < dist.cdf(grid + width)[there]]
    assert (dist.cdf(dist.icdf(more)) >= more).all()
    assert dist.icdf(torch.tensor([0.0, 1.0])).flatten().tolist() == [-INF, INF]


def test_discrete_round_trip_survives_float32() -> None:
    """A level rounded to float32 gives the cell back as long as cells differ in float32."""
    dist = DiscretizedMixture(mixture(dtype=F32), 0.25)
    y = 0.25 * torch.arange(-16, 17).unsqueeze(-1)
    p = dist.cdf(y)
    assert p.dtype == F32
    assert torch.equal(dist.icdf(p), y)
    assert torch.equal(dist.median, dist.icdf(0.5)) and dist.interval(0.9).shape == (2,)


RATIOS = [1e-3, 0.05, 0.2, 0.49999, 0.5, 0.50001, 0.7, 1.3, 4.0]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("offset", [0.0, 0.1, 0.37, 0.5, -0.45, 12.3])
def test_rounded_gaussian_moments_match_the_sum_over_cells(ratio: float, offset: float) -> None:
    """Both formulas, on either side of their seam, in 100 digits; offset and ratio in widths."""
    width = 0.3
    base = normal(offset * width, ratio * width)
    dist = DiscretizedMixture(base, width)
    mean, variance = rounded_moments(base, width)
    close(dist.mean, mean, 4 * EPS, floor=width)
    close(dist.variance, variance, 1e-12, floor=1e-290)


@pytest.mark.parametrize("width", [0.03, 0.4, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("name", ["overlapping", "two modes", "zero weight"])
def test_rounded_mixture_moments_match_the_sum_over_cells(name: str, width: float) -> None:
    """Components on both sides of the seam at once."""
    dist = DiscretizedMixture(mixture(name), width)
    mean, variance = rounded_moments(mixture(name), width)
    close(dist.mean, mean, 1e-14, floor=1)
    close(dist.variance, variance, 1e-12)
    close(dist.stddev, mp.sqrt(variance), 1e-12)


def test_sheppards_correction_is_the_limit_of_narrow_cells() -> None:
    """Rounding adds w^2 / 12 to the variance and nothing to the mean."""
    base, width = mixture("batched"), 0.05
    dist = DiscretizedMixture(base, width)
    torch.testing.assert_close(dist.mean, base.mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(dist.variance, base.variance + width**2 / 12, rtol=1e-12, atol=0)


def test_a_large_offset_costs_no_digits_of_the_spread() -> None:
    """Moments about the heaviest component: a common offset of 1e8 does not cancel."""
    base = mixture("large offset")
    spread = DiscretizedMixture(base, 0.5).variance
    shifted = GaussianMixture(base.logits, base.loc - 1e8, base.scale)
    torch.testing.assert_close(
        spread, DiscretizedMixture(shifted, 0.5).variance, rtol=1e-12, atol=0
    )
    cut = TruncatedMixture(base, 1e8 - 1.0, 1e8 + 2.0)
    near = TruncatedMixture(shifted, -1.0, 2.0)
    torch.testing.assert_close(cut.variance, near.variance, rtol=1e-12, atol=0)
    torch.testing.assert_close(cut.mean - 1e8, near.mean, rtol=0, atol=3e-8)


def test_narrow_cells_hold_the_density_times_their_width() -> None:
    """log P = log p + log w up to the order (w / scale)^2."""
    base, width = mixture(), 2.0**-40
    y = places("middle").div(width).round().mul(width)
    got = DiscretizedMixture(base, width).log_prob(y)
    torch.testing.assert_close(got, base.log_prob(y) + math.log(width), rtol=0, atol=2e-14)


@pytest.mark.parametrize("width", [1e-6, 0.1, 1.0, 5.0])
def test_discrete_gradients_match_finite_differences(width: float) -> None:
    """gradcheck of log masses, cdf and moments in the parameters."""
    params = [a.clone().requires_grad_() for a in MIXTURES["overlapping"]]
    y = width * torch.tensor([[-1.0], [0.0], [3.0], [40.0]], dtype=F64)

    def dist(*raw: Tensor) -> DiscretizedMixture:
        return DiscretizedMixture(GaussianMixture(*raw), width)

    assert gradcheck(lambda *a: dist(*a).log_prob(y), params, atol=1e-6, rtol=1e-4)
    assert gradgradcheck(lambda *a: dist(*a).log_prob(y), params, atol=1e-5, rtol=1e-3)
    assert gradcheck(lambda *a: (dist(*a).mean, dist(*a).variance), params, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_discrete_values_and_gradients_are_finite(dtype: torch.dtype) -> None:
    """A million scales out, in the middle of a sure cell, with a component switched off."""
    for scale, width in itertools.product((1e-6, 1.0, 1e4), (1e-3, 1.0, 1e3)):
        logits = torch.tensor([0.3, -INF, -1.0], dtype=dtype, requires_grad=True)
        loc = torch.zeros(3, 1, dtype=dtype, requires_grad=True)
        spread = torch.full((3, 1), scale, dtype=dtype, requires_grad=True)
        dist = DiscretizedMixture(GaussianMixture(logits, loc, spread), width)
        y = width * torch.tensor([[0.0], [1.0], [1000.0]], dtype=dtype)
        total = dist.log_prob(y).sum() + dist.mean.sum() + dist.variance.sum()
        total.backward()
        assert total.isfinite()
        for a in (logits, loc, spread):
            assert a.grad is not None and a.grad.isfinite().all()


def test_discrete_samples_are_rounded_draws() -> None:
    """The base's own draws from the same seed, on the nearest grid point."""
    base, width = mixture("batched"), 0.25
    y = base.sample((500,), generator=torch.Generator().manual_seed(2))
    got = DiscretizedMixture(base, width).sample((500,), generator=torch.Generator().manual_seed(2))
    assert ((got - y).abs() <= width / 2).all()
    assert torch.equal(got, (got / width).round() * width)


def test_discrete_samples_have_the_masses() -> None:
    """Chi-square over 25 cells and the rest, 20 000 draws; fails for one seed in 1e6."""
    dist = DiscretizedMixture(mixture(), 0.3)
    y = dist.sample((20_000,), generator=torch.Generator().manual_seed(5))
    k = torch.arange(-10, 15)
    p = dist.log_prob(0.3 * k.double().unsqueeze(-1)).exp().numpy()
    found = ((y / 0.3).round().long() == k).sum(0).numpy()
    found, p = np.append(found, 20_000 - found.sum()), np.append(p, 1 - p.sum())
    assert scipy.stats.chisquare(found, 20_000 * p).pvalue > 1e-6


def test_discrete_float32_is_the_rounded_float64() -> None:
    """One rounding at the end; a target such as 0.3 in float32 is on the grid of 0.1."""
    single = DiscretizedMixture(mixture(dtype=F32), 0.1)
    double = DiscretizedMixture(single.base.to(F64), 0.1)
    y = torch.tensor([[0.3], [-1.7], [1234.5], [0.0]])
    cells = torch.tensor([[3.0], [-17.0], [12345.0], [0.0]], dtype=F64) * 0.1
    for got, want in (
        (single.log_prob(y), double.log_prob(cells)),
        (single.cdf(y), double.cdf(cells)),
        (single.mean, double.mean),
        (single.variance, double.variance),
        (single.icdf(0.8), double.icdf(0.8)),
    ):
        assert got.dtype == F32
        torch.testing.assert_close(got, want.float(), rtol=2e-7, atol=0)
    assert single.log_prob(single.sample((100,))).isfinite().all()
    whole = DiscretizedMixture(mixture(), 1.0)
    assert torch.equal(whole.log_prob(torch.tensor([[2]])), whole.log_prob(column(2.0)))


# -- errors -----------------------------------------------------------------------------------


def test_a_target_off_the_grid_is_refused_with_its_row() -> None:
    """More than 1e-6 widths off; without validation it counts for the nearest cell."""
    base = mixture()
    dist = DiscretizedMixture(base, 0.1)
    dist.log_prob(column(0.3 + 0.9e-7))
    text = (
        r"^y must be a multiple of width 0\.1; got 0\.34 in row 1\. Round it: \(y / width\)\.round"
    )
    with pytest.raises(ValueError, match=text):
        dist.log_prob(column(0.3, 0.34))
    with pytest.raises(ValueError, match=r"^y must be a multiple of width 0\.1; got inf\. Round"):
        dist.log_prob(torch.tensor([INF]))
    loose = DiscretizedMixture(base, 0.1, validate_args=False)
    assert loose.log_prob(column(0.34, INF)).tolist() == [dist.log_prob(column(0.3)).item(), -INF]


def test_validation_follows_the_base_unless_chosen() -> None:
    """A base that does not check makes no checking child; its bounds are checked even so."""
    silent = GaussianMixture(*MIXTURES["overlapping"], validate_args=False)
    nan = column(math.nan)
    assert TruncatedMixture(silent, 0.0, 1.0).log_prob(nan).isnan().all()
    assert TruncatedMixture(silent, 1.0, 0.0, validate_args=False).base is silent
    with pytest.raises(ValueError, match=r"^low must be less than high"):
        silent.truncate(1.0, 0.0)
    for child in (TruncatedMixture(mixture(), 0.0, 1.0), DiscretizedMixture(mixture(), 1.0)):
        with pytest.raises(ValueError, match=r"^y must not be NaN"):
            child.expand((3,))[1].log_prob(nan)
    with pytest.raises(ValueError, match=r"^y must not be NaN"):
        TruncatedMixture(silent, 0.0, 1.0, validate_args=True).log_prob(nan)


def test_bounds_outside_the_support_of_the_base_are_refused() -> None:
    """Nothing of the probability is there, and the moments would be NaN."""
    positive = Mixture(torch.zeros(1), Gamma(torch.tensor([2.0]), torch.tensor([1.0])))
    for low, high in ((-2.0, -1.0), (-1.0, 0.0)):
        with pytest.raises(ValueError, match=r"^low and high must enclose a part of the support"):
            positive.truncate(low, high)
    assert positive.truncate(-1.0, 1.0).mean.isfinite().all()


def test_oracles_agree_with_each_other() -> None:
    """The mass of a half line in this file is the cdf of the shared oracles."""
    for y in (-3.0, 0.4, 5.0):
        want = oracles.log_cdf(y, *numbers(mixture()))
        assert abs(log_mass(mixture(), -mp.inf, y) - want) < mp.mpf("1e-60")

"""GaussianMixture against SciPy, mpmath, quadrature and torch's MixtureSameFamily."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from mdn.distribution import HDR, GaussianMixture, Modes
from tests import oracles
from tests.cases import MIXTURES
from tests.oracles import mp

F64 = torch.float64
INF = math.inf

UNIVARIATE = [n for n, m in MIXTURES.items() if m.loc.shape[-1] == 1 and m.loc.ndim == 2]
# SciPy's mixtures solve and integrate numerically, and so need numbers of order one.
MODERATE = ["one component", "two modes", "overlapping", "identical", "zero weight"]
each_univariate = pytest.mark.parametrize("name", UNIVARIATE)
each_moderate = pytest.mark.parametrize("name", MODERATE)
each_mixture = pytest.mark.parametrize("name", MIXTURES)


def mixture(name: str, dtype: torch.dtype = F64) -> GaussianMixture:
    return GaussianMixture(*(a.to(dtype) for a in MIXTURES[name]))


def make(logits: list, loc: list, scale: list, dtype: torch.dtype = F64) -> GaussianMixture:
    """One univariate mixture from flat lists."""
    logits, loc, scale = (torch.tensor(a, dtype=dtype) for a in (logits, loc, scale))
    return GaussianMixture(logits, loc[:, None], scale[:, None])


def numbers(dist: GaussianMixture) -> tuple[list[float], list[float], list[float]]:
    """Logits, means and scales of one univariate mixture, as floats."""
    return dist.logits.tolist(), dist.loc[:, 0].tolist(), dist.scale[:, 0].tolist()


def in_scipy(dist: GaussianMixture) -> scipy.stats.Mixture:
    alive = dist.weights > 0  # SciPy takes the log of a weight of 0
    weights, loc, scale = (a[alive] for a in (dist.weights, dist.loc[:, 0], dist.scale[:, 0]))
    normals = [scipy.stats.Normal(mu=m, sigma=s) for m, s in zip(loc, scale, strict=True)]
    return scipy.stats.Mixture(normals, weights=(weights / weights.sum()).tolist())


def in_torch(dist: GaussianMixture) -> MixtureSameFamily:
    parts = Independent(Normal(dist.loc, dist.scale), 1)
    return MixtureSameFamily(Categorical(logits=dist.logits), parts)


def rows(dist: GaussianMixture, n: int = 7) -> Tensor:
    """Places (n, *, D) around and between the components of each mixture."""
    at = torch.linspace(-0.4, 1.4, n, dtype=F64).reshape(n, *(1,) * (dist.loc.ndim - 1))
    low, high = (dist.loc - dist.scale).amin(-2), (dist.loc + dist.scale).amax(-2)
    return low + at * (high - low)


def integral(f: Callable[[float], float], dist: GaussianMixture) -> float:
    """Integral over the line, cut at 0, 1, 4, 12 and 40 scales around every component."""
    steps = [s * z for z in (0, 1, 4, 12, 40) for s in (-1, 1)]
    _, loc, scale = numbers(dist)
    cuts = sorted({m + z * s for m, s in zip(loc, scale, strict=True) for z in steps})
    parts = [scipy.integrate.quad(f, a, b, epsabs=0, limit=200)[0] for a, b in
             itertools.pairwise(cuts)]  # fmt: skip
    return math.fsum(parts)


def density(dist: GaussianMixture) -> Callable[[float], float]:
    weights, (_, loc, scale) = dist.weights.numpy(), numbers(dist)
    return lambda y: float(weights @ scipy.stats.norm.pdf(y, loc, scale))


def exact_moments(logits: list, loc: list, scale: list) -> tuple[float, float, float, float]:
    """Mean, variance, skewness and excess kurtosis from raw moments in 100 digits."""
    top = max(logits)
    w = [mp.exp(mp.mpf(v) - top) for v in logits]
    total = mp.fsum(w)
    m, s = [mp.mpf(v) for v in loc], [mp.mpf(v) for v in scale]
    raw = [
        mp.fsum(v / total * f(a, b) for v, a, b in zip(w, m, s, strict=True))
        for f in (
            lambda a, b: a,
            lambda a, b: a**2 + b**2,
            lambda a, b: a**3 + 3 * a * b**2,
            lambda a, b: a**4 + 6 * a**2 * b**2 + 3 * b**4,
        )
    ]
    mean, second, third, fourth = raw
    var = second - mean**2
    skew = (third - 3 * mean * second + 2 * mean**3) / var**1.5
    kurt = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / var**2 - 3
    return float(mean), float(var), float(skew), float(kurt)


# --- density and cdf ----------------------------------------------------------------------------


@each_moderate
def test_density_and_cdf_match_scipy(name: str) -> None:
    """log p, F, log F, log (1 - F) and quantiles of scipy.stats.Mixture."""
    dist = mixture(name)
    y = rows(dist)
    reference = in_scipy(dist)
    at = y[:, 0].numpy()
    np.testing.assert_allclose(dist.log_prob(y), reference.logpdf(at), rtol=1e-12)
    np.testing.assert_allclose(dist.cdf(y), reference.cdf(at), rtol=1e-12)
    np.testing.assert_allclose(dist.log_cdf(y), reference.logcdf(at), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(dist.log_sf(y), reference.logccdf(at), rtol=1e-11, atol=1e-15)
    p = torch.tensor([0.01, 0.3, 0.5, 0.9], dtype=F64)
    np.testing.assert_allclose(dist.icdf(p)[:, 0], reference.icdf(p.numpy()), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(dist.median[0], reference.median(), rtol=1e-7, atol=1e-7)


@each_univariate
def test_the_density_integrates_to_one(name: str) -> None:
    """The integral of exp(log_prob) is 1, at any scale and offset."""
    dist = mixture(name)
    got = integral(lambda y: dist.log_prob(torch.tensor([y], dtype=F64)).exp().item(), dist)
    # y itself is rounded: an offset of 1e8 has 1e-8 of a unit between neighbours
    assert got == pytest.approx(1.0, abs=1e-7 if name in ("large offset", "far") else 1e-10)


@each_univariate
def test_log_cdf_and_log_sf_match_mpmath_at_40_scales(name: str) -> None:
    """Both tails keep their digits where F or 1 - F underflows."""
    dist = mixture(name)
    params = numbers(dist)
    for m, s in zip(*params[1:], strict=True):
        for z in (-40.0, -3.0, 0.1, 40.0):
            y = torch.tensor([m + z * s], dtype=F64)
            truth = float(oracles.log_cdf(y.item(), *params))
            assert dist.log_cdf(y).item() == pytest.approx(truth, rel=1e-12, abs=1e-307)
            truth = float(oracles.log_sf(y.item(), *params))
            assert dist.log_sf(y).item() == pytest.approx(truth, rel=1e-12, abs=1e-307)


def test_infinite_targets_have_no_density_and_a_known_cdf() -> None:
    """p = 0, F = 0 or 1 at the ends of the line."""
    dist = mixture("two modes")
    y = torch.tensor([[-INF], [INF]], dtype=F64)
    assert dist.log_prob(y).tolist() == [-INF, -INF]
    assert dist.log_cdf(y).tolist() == [-INF, 0.0]
    assert dist.log_sf(y).tolist() == [0.0, -INF]
    assert dist.cdf(y).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["two dims", "many dims", "batched, two axes, three dims"])
def test_many_dimensions_match_scipy_multivariate_normal(name: str) -> None:
    """p(y) = sum_k pi_k N(y; mu_k, diag(sigma_k^2)), row by row."""
    dist = mixture(name)
    y = rows(dist)
    got = dist.log_prob(y)
    assert got.shape == y.shape[:-1]
    for index in itertools.product(*map(range, dist.batch_shape)):
        parts = [
            w * scipy.stats.multivariate_normal(m, np.diag(s**2)).pdf(y[(slice(None), *index)])
            for w, m, s in zip(
                *(a[index].numpy() for a in (dist.weights, dist.loc, dist.scale)), strict=True
            )
        ]
        np.testing.assert_allclose(got[(slice(None), *index)].exp(), sum(parts), rtol=1e-10)


@each_mixture
def test_agrees_with_torch_mixture_same_family(name: str) -> None:
    """A superset of torch's class: the same log_prob, mean, variance and shapes."""
    dist, reference = mixture(name), in_torch(mixture(name))
    y = rows(dist)
    assert (dist.batch_shape, dist.event_shape) == (reference.batch_shape, reference.event_shape)
    torch.testing.assert_close(dist.log_prob(y), reference.log_prob(y), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dist.mean, reference.mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(dist.variance, reference.variance, rtol=1e-6, atol=1e-13)


@each_mixture
def test_log_prob_broadcasts_in_both_directions(name: str) -> None:
    """One y for all mixtures, many y for each, and one far y among them."""
    dist = mixture(name)
    y = rows(dist, 5)
    y[3] += 1e7
    each = torch.stack([dist.log_prob(at) for at in y])
    torch.testing.assert_close(dist.log_prob(y), each, rtol=0, atol=0)
    one = y.reshape(-1, *dist.event_shape)[0]
    assert dist.log_prob(one).shape == dist.batch_shape
    torch.testing.assert_close(
        dist.log_prob(one), dist.log_prob(one.expand(*dist.batch_shape, -1)), rtol=0, atol=0
    )


@pytest.mark.parametrize("distance", [0.0, 30.0, 1e4, 1e8])
def test_responsibilities_are_the_posterior(distance: float) -> None:
    """log pi_k p_k(y) / p(y), wherever y lies; truth from mpmath."""
    step = 0.7 / max(distance, 1.0)
    dist = make([0.3, 0.0, -0.5], [0.0, step, 2 * step], [1.0] * 3)
    y = torch.tensor([distance], dtype=F64)
    row = oracles.Row((distance,), tuple(dist._raw_logits.tolist()), ((0.0,), (step,), (2 * step,)),
                      ((0.0,),) * 3)  # fmt: skip
    truth = oracles.gradient(row)["logits"]  # r - pi
    got = dist.responsibilities(y)
    expected = [float(g) + w for g, w in zip(truth, dist.weights.tolist(), strict=True)]
    assert got.exp().tolist() == pytest.approx(expected, rel=1e-7)


# --- moments ------------------------------------------------------------------------------------


@each_univariate
def test_moments_match_100_digit_arithmetic(name: str) -> None:
    """Mean, variance, skewness and excess kurtosis, without cancellation at an offset of 1e8."""
    dist = mixture(name)
    mean, variance, skewness, kurtosis = exact_moments(*numbers(dist))
    assert dist.mean.item() == pytest.approx(mean, rel=1e-14, abs=1e-14)
    assert dist.variance.item() == pytest.approx(variance, rel=1e-12)
    assert dist.stddev.item() == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert dist.covariance.item() == pytest.approx(variance, rel=1e-12)
    assert dist.skewness.item() == pytest.approx(skewness, rel=1e-10, abs=1e-12)
    assert dist.kurtosis.item() == pytest.approx(kurtosis, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["two modes", "overlapping", "narrow inside wide", "wide"])
def test_moments_match_quadrature(name: str) -> None:
    """Central moments as integrals of the density."""
    dist = mixture(name)
    p = density(dist)
    mean = integral(lambda y: y * p(y), dist)
    central = [integral(lambda y, n=n: (y - mean) ** n * p(y), dist) for n in (2, 3, 4)]
    assert dist.mean.item() == pytest.approx(mean, rel=1e-8)
    assert dist.variance.item() == pytest.approx(central[0], rel=1e-8)
    assert dist.skewness.item() == pytest.approx(central[1] / central[0] ** 1.5, rel=1e-7)
    assert dist.kurtosis.item() == pytest.approx(central[2] / central[0] ** 2 - 3, rel=1e-7)


@pytest.mark.parametrize("name", ["two dims", "many dims", "batched, two axes, three dims"])
def test_covariance_is_within_plus_between(name: str) -> None:
    """E[y y'] - E[y] E[y]'; its diagonal is the variance."""
    dist = mixture(name)
    w, m, s = (a.numpy() for a in (dist.weights, dist.loc, dist.scale))
    second = np.einsum("...k,...kd,...ke->...de", w, m, m)
    second += np.einsum("...k,...kd,de->...de", w, s**2, np.eye(s.shape[-1]))
    mean = np.einsum("...k,...kd->...d", w, m)
    expected = second - mean[..., :, None] * mean[..., None, :]
    np.testing.assert_allclose(dist.covariance, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dist.covariance.diagonal(dim1=-2, dim2=-1), dist.variance)
    each = dist.covariance_matrix
    assert each.shape == (*s.shape, s.shape[-1])
    np.testing.assert_allclose(each.diagonal(dim1=-2, dim2=-1), s**2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_stddev_survives_where_its_square_does_not(dtype: torch.dtype, size: float) -> None:
    """sqrt(variance) in float32 at a scale of 1e-25 or 1e25, spread within or between."""
    for loc, scale in (([0.0, 0.0], [1.0, 1.0]), ([-1.0, 1.0], [1e-9, 1e-9]), ([0.0], [2.0])):
        dist = make([0.0] * len(loc), [m * size for m in loc], [s * size for s in scale], dtype)
        _, variance, _, _ = exact_moments([0.0] * len(loc), loc, scale)
        assert dist.stddev.item() == pytest.approx(math.sqrt(variance) * size, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("where", [1e4, -1e9, 1e20])
def test_a_pruned_component_does_not_move_the_moments(
    dtype: torch.dtype, place: int, where: float
) -> None:
    """pi_k = 0: however far and wide, the component leaves every moment as it was."""
    logits, loc, scale = [0.0, 0.4], [0.125, 1.125], [1.0, 0.5]
    without = make(logits, loc, scale, dtype)
    for extra, value in ((logits, -INF), (loc, where), (scale, abs(where))):
        extra.insert(place, value)
    dist = make(logits, loc, scale, dtype)
    for moment in ("mean", "variance", "stddev", "skewness", "kurtosis"):
        torch.testing.assert_close(getattr(dist, moment), getattr(without, moment))


def test_moments_are_differentiable() -> None:
    """Gradients of the moments by finite differences."""
    leaves = [a.clone().requires_grad_() for a in MIXTURES["overlapping"]]
    for moment in ("mean", "variance", "stddev", "covariance", "skewness", "kurtosis"):
        assert torch.autograd.gradcheck(
            lambda *a, moment=moment: getattr(GaussianMixture(*a), moment), leaves
        )


# --- the event axis and arguments ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "responsibilities", "cdf", "log_cdf", "log_sf",
                                    "crps"])  # fmt: skip
def test_a_flat_target_is_refused_not_broadcast(method: str) -> None:
    """(N,) against N mixtures never becomes (N, N)."""
    dist = make([0.0], [0.0], [1.0]).expand((64,))
    text = r"^y must have shape \(\*, 1\); got \(64,\)\. Did you mean y\[:, None\]\?$"
    for validate in (True, False):
        checked = GaussianMixture(dist.logits, dist.loc, dist.scale, validate_args=validate)
        with pytest.raises(ValueError, match=text):
            getattr(checked, method)(torch.zeros(64, dtype=F64))
        with pytest.raises(ValueError, match=r"^y must have shape \(\*, 1\); got \(64, 2\)$"):
            getattr(checked, method)(torch.zeros(64, 2, dtype=F64))
        number = getattr(checked, method)(torch.zeros((), dtype=F64))  # one for every row
        assert torch.equal(number, getattr(checked, method)(torch.zeros(64, 1, dtype=F64)))
        with pytest.raises(TypeError, match=r"^y must be a tensor or a numeric array; got str"):
            getattr(checked, method)("0.5")
        with pytest.raises(ValueError, match=r"y with batch shape \(3,\) does not broadcast .*"
                           r"batch shape \(64,\) of the mixture"):  # fmt: skip
            getattr(checked, method)(torch.zeros(3, 1, dtype=F64))
    assert getattr(dist, method)(torch.zeros(64, 1, dtype=torch.int64)).dtype == F64


def bad_parameters() -> Iterator[tuple[str, tuple, type[Exception], str]]:
    logits, loc = torch.zeros(4, 2), torch.zeros(4, 2, 3)
    one = torch.ones(4, 2, 3)
    for i, name in enumerate(("logits", "loc", "scale")):
        args: list = [logits, loc, one]
        args[i] = [[0.0, 1.0]]
        yield (
            f"{name} a list",
            tuple(args),
            TypeError,
            (rf"^{name} must be a torch\.Tensor; got list$"),
        )
        args[i] = [logits, loc, one][i].long()
        yield (
            f"{name} integer",
            tuple(args),
            TypeError,
            (rf"^{name} must be of a floating dtype; got torch\.int64$"),
        )
    yield (
        "flat loc",
        (logits, loc[0, :, 0], one),
        ValueError,
        (
            r"^loc must have shape \(\*, K, D\) with K, D >= 1; got \(2,\)\. Did you mean "
            r"loc\[\.\.\., None\]\?$"
        ),
    )
    yield (
        "no dimension",
        (logits, loc[..., :0], one[..., :0]),
        ValueError,
        (r"^loc must have shape \(\*, K, D\) with K, D >= 1; got \(4, 2, 0\)$"),
    )
    yield (
        "no component",
        (logits[:, :0], loc[:, :0], one[:, :0]),
        ValueError,
        (r"^loc must have shape \(\*, K, D\) with K, D >= 1; got \(4, 0, 3\)$"),
    )
    yield (
        "scale of another shape",
        (logits, loc, one[..., :1]),
        ValueError,
        (r"^scale must have shape \(\*, 2, 3\) to match loc \(4, 2, 3\); got \(4, 2, 1\)$"),
    )
    yield (
        "logits of another shape",
        (torch.zeros(4, 3), loc, one),
        ValueError,
        (r"^logits must have shape \(\*, 2\) to match loc \(4, 2, 3\); got \(4, 3\)$"),
    )
    yield (
        "scalar logits",
        (torch.zeros(()), loc, one),
        ValueError,
        (r"^logits must have shape \(\*, 2\) to match loc \(4, 2, 3\); got \(\)$"),
    )
    yield (
        "batches",
        (torch.zeros(5, 2), loc, one),
        ValueError,
        (r"^the batch axes do not broadcast: logits \(5, 2\), loc \(4, 2, 3\), scale \(4, 2, 3\)$"),
    )


def bad_values() -> Iterator[tuple[str, tuple, type[Exception], str]]:
    logits, loc, scale = torch.zeros(4, 2), torch.zeros(4, 2, 3), torch.ones(4, 2, 3)
    for name, values, want, shown in (
        ("logits", (INF, math.nan), "less than inf and not NaN", r"at index \(2, 1\)"),
        ("loc", (INF, -INF, math.nan), "finite", r"at index \(2, 1, 0\)"),
        ("scale", (0.0, -1.5, INF, math.nan), "positive and finite", r"at index \(2, 1, 0\)"),
    ):
        for value in values:
            args = {"logits": logits.clone(), "loc": loc.clone(), "scale": scale.clone()}
            args[name][2, 1] = value
            args[name][3, 1] = value
            yield (
                f"{name} {value}",
                tuple(args.values()),
                ValueError,
                (rf"^{name} must be {want}; got {value:g} {shown}$"),
            )
    dead = logits.clone()
    dead[3] = -INF
    yield (
        "all pruned",
        (dead, loc, scale),
        ValueError,
        (r"^logits: all 2 components of row 3 have logit -inf; at least one must be finite$"),
    )


@pytest.mark.parametrize(
    ("args", "error", "match"), [pytest.param(*r, id=n) for n, *r in bad_parameters()]
)
def test_bad_shapes_and_types_are_always_refused(
    args: tuple, error: type[Exception], match: str
) -> None:
    """Shapes and types are checked with validation on and off."""
    for validate in (True, False, None):
        with pytest.raises(error, match=match):
            GaussianMixture(*args, validate_args=validate)


@pytest.mark.parametrize(
    ("args", "error", "match"), [pytest.param(*r, id=n) for n, *r in bad_values()]
)
def test_bad_values_are_refused_unless_validation_is_off(
    args: tuple, error: type[Exception], match: str
) -> None:
    """Values are checked by default, as in torch.distributions; the first bad entry is named."""
    with pytest.raises(error, match=match):
        GaussianMixture(*args)
    with pytest.raises(error, match=match):
        GaussianMixture(*args, validate_args=True)
    assert GaussianMixture(*args, validate_args=False).batch_shape == (4,)


def test_validation_follows_torch_and_is_inherited() -> None:
    """The default is torch's own switch, which stays as it was; derived mixtures keep theirs."""
    before = Distribution._validate_args
    checked = mixture("batched")
    free = GaussianMixture(checked.logits, checked.loc, checked.scale, validate_args=False)
    bad = torch.tensor([[0.0], [0.0], [math.nan], [0.0]], dtype=F64)
    derived: list[Callable[[GaussianMixture], GaussianMixture]] = [
        lambda d: d, lambda d: d[:], lambda d: d.expand((2, 4)), lambda d: d.detach(),
        lambda d: d.to(F64), lambda d: d.affine(1.0, 2.0), lambda d: d.marginal(0),
        lambda d: GaussianMixture.pool([d, d]),
    ]  # fmt: skip
    for derive in derived:
        with pytest.raises(ValueError, match=r"^y must not be NaN; row 2 is$"):
            derive(checked).log_prob(bad)
        assert derive(free).log_prob(bad).isnan().any()
    assert before == Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        assert mixture("batched").log_prob(bad).isnan().any()
    finally:
        Distribution.set_default_validate_args(before)


def test_a_nan_target_without_batch_axis_is_named_in_words() -> None:
    """There is no row to point at, so the message must not print an empty one."""
    with pytest.raises(ValueError, match=r"^y must not be NaN") as caught:
        mixture("two modes").log_prob(torch.tensor([math.nan], dtype=F64))
    assert "()" not in str(caught.value)


@pytest.mark.parametrize("method", ["cdf", "log_cdf", "log_sf", "crps", "icdf", "interval", "hdr",
                                    "median"])  # fmt: skip
def test_scalar_methods_refuse_several_dimensions(method: str) -> None:
    """No order in the plane: the message says how to get one dimension."""
    dist = mixture("two dims")
    text = r"needs one target dimension; this mixture has 2\. Take one with \.marginal\(dims\)$"
    with pytest.raises(ValueError, match=text):
        if method == "median":
            _ = dist.median
        else:
            argument = 0.5 if method in ("icdf", "interval", "hdr") else torch.zeros(2, dtype=F64)
            getattr(dist, method)(argument)


# --- quantiles, intervals, regions --------------------------------------------------------------


@each_univariate
def test_quantiles_and_intervals_match_mpmath(name: str) -> None:
    """icdf, median and interval hold the probability they claim, to the spacing of y."""
    dist = mixture(name)
    params = numbers(dist)
    low, high = dist.interval(0.9).tolist()
    assert dist.median.shape == (1,)
    for p, y in (
        (0.5, dist.median.item()),
        (0.05, low),
        (0.95, high),
        (0.2, dist.icdf(0.2).item()),
    ):
        ulp = 2 * math.ulp(y)
        assert oracles.cdf(y - ulp, *params) <= p + 1e-12
        assert oracles.cdf(y + ulp, *params) >= p - 1e-12


def test_icdf_broadcasts_and_keeps_gradients() -> None:
    """(L, 1) levels of N mixtures give (L, N, 1); dy/dp = 1 / p(y)."""
    dist = mixture("batched")
    p = torch.tensor([[0.1], [0.5], [0.8]], dtype=F64, requires_grad=True)
    y = dist.icdf(p)
    assert y.shape == (3, 4, 1)
    torch.testing.assert_close(dist.cdf(y), p.expand(3, 4), rtol=1e-12, atol=0)
    (grad,) = torch.autograd.grad(y.sum(), p)
    torch.testing.assert_close(grad, (-dist.log_prob(y)).exp().sum(1, keepdim=True))
    assert dist.icdf(0.5).shape == dist.median.shape == (4, 1)
    assert dist.interval(0.9).shape == (4, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("p", [1e-50, 1e-9, 1 - 1e-4, 1 - 1e-9])
def test_a_python_level_is_not_rounded_to_the_dtype_of_the_mixture(
    dtype: torch.dtype, p: float
) -> None:
    """icdf(0.9999) of a half precision mixture is about 3.7 scales, not infinity."""
    dist = make([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], dtype)
    got = dist.icdf(p)
    assert got.dtype == dtype
    expected = scipy.stats.norm.ppf(p)
    assert got.item() == pytest.approx(expected, rel=torch.finfo(dtype).eps)


REGIONS = [*UNIVARIATE, "batched"]


def check_region(dist: GaussianMixture, region: HDR, coverage: float) -> None:
    """Disjoint, sorted, of the right mass, with the threshold density on every edge."""
    params = numbers(dist)
    edges = region.intervals[~region.intervals.isnan().any(-1)]
    assert region.intervals[len(edges) :].isnan().all()  # the padding comes last
    flat = edges.flatten()
    assert len(edges) >= 1 and (flat[1:] > flat[:-1]).all()
    # moving an edge by an ulp may change the mass: only what y can express is asked for
    peak = dist.log_prob(dist.loc).max().exp()
    slack = 1e-10 + float(sum(2 * math.ulp(e) for e in flat.tolist()) * peak)
    mass = sum(oracles.cdf(b, *params) - oracles.cdf(a, *params) for a, b in edges.tolist())
    assert float(mass) == pytest.approx(coverage, abs=slack)
    f = density(dist)
    threshold = region.threshold.item()
    for edge in flat.tolist():
        near = sorted(f(edge + n * math.ulp(edge)) for n in (-2, 0, 2))
        assert near[0] * (1 - 1e-7) <= threshold <= near[2] * (1 + 1e-7)
    # inside the density is above the threshold, outside below
    grid = (dist.loc + dist.scale * torch.linspace(-6, 6, 241, dtype=F64)).flatten().numpy()
    inside = ((grid[:, None] > edges[:, 0].numpy()) & (grid[:, None] < edges[:, 1].numpy())).any(1)
    heights = np.array([f(g) for g in grid])
    assert (heights[inside] >= threshold * (1 - 1e-7)).all()
    clear = np.abs(grid[:, None] - flat.numpy()).min(1) > 4 * np.spacing(np.abs(grid))
    assert (heights[~inside & clear] <= threshold * (1 + 1e-7)).all()


@pytest.mark.parametrize("coverage", [1e-3, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", REGIONS)
def test_hdr_is_the_smallest_region_of_its_coverage(name: str, coverage: float) -> None:
    """{y: p(y) >= threshold} has the coverage, by cdf differences in 100 digits."""
    dist = mixture(name)
    region = dist.hdr(coverage)
    assert isinstance(region, HDR) and region.coverage == coverage
    assert region.intervals.shape == (*dist.batch_shape, dist.n_components, 2)
    assert region.threshold.shape == dist.batch_shape
    if not dist.batch_shape:
        check_region(dist, region, coverage)
    for i in range(math.prod(dist.batch_shape) if dist.batch_shape else 0):
        check_region(dist[i], HDR(region.intervals[i], region.threshold[i], coverage), coverage)


@pytest.mark.parametrize("coverage", [0.2, 0.25, 0.3, 0.35, 0.4])
def test_hdr_sees_the_dip_beside_a_narrow_component(coverage: float) -> None:
    """A narrow component on the shoulder of a wide one is cut off by a valley of its own."""
    dist = make([-2.17, 1.47], [0.04, 1.69], [4.94, 0.09])
    check_region(dist, dist.hdr(coverage), coverage)
    dist = make([0.0, -1.0], [0.0, 0.2], [1.0, 0.01])
    check_region(dist, dist.hdr(coverage), coverage)


@pytest.mark.parametrize("coverage", [0.05, 0.5, 0.95, 1 - 1e-6])
@pytest.mark.parametrize("name", ["one component", "identical"])
def test_hdr_of_a_symmetric_unimodal_density_is_the_central_interval(
    name: str, coverage: float
) -> None:
    """One interval, equal tails."""
    dist = mixture(name)
    region = dist.hdr(coverage)
    torch.testing.assert_close(region.intervals[0], dist.interval(coverage), rtol=1e-8, atol=1e-8)
    assert region.intervals[1:].isnan().all()


# --- modes --------------------------------------------------------------------------------------


def scanned_modes(dist: GaussianMixture, n: int = 20_001) -> list[tuple[float, float]]:
    """Brackets of the local maxima of one univariate mixture, from a scan of the exact slope."""
    weights, (_, loc, scale) = dist.weights.numpy(), map(np.array, numbers(dist))
    y = np.concatenate(
        [np.linspace(loc.min(), loc.max(), n)]
        + [m + s * np.linspace(-5, 5, 2001) for m, s in zip(loc, scale, strict=True)]
    )
    y = np.unique(y[(y >= loc.min()) & (y <= loc.max())])
    z = (y[:, None] - loc) / scale
    rising = -(weights * np.exp(-z * z / 2) * z / scale**2).sum(1) > 0
    rising = np.concatenate([[True], rising, [False]])
    y = np.concatenate([[y[0]], y, [y[-1]]])
    turns = np.flatnonzero(rising[:-1] & ~rising[1:])
    return [(y[i], y[i + 1]) for i in turns]


def check_modes(dist: GaussianMixture) -> None:
    modes = dist.modes()
    n = int((~modes.loc[:, 0].isnan()).sum())
    found = modes.loc[:n, 0]
    assert modes.loc[n:].isnan().all() and modes.log_density[n:].isnan().all()
    torch.testing.assert_close(modes.log_density[:n], dist.log_prob(modes.loc[:n]))
    assert (modes.log_density[1:n] <= modes.log_density[: n - 1]).all()
    torch.testing.assert_close(dist.mode, modes.loc[0], rtol=0, atol=0)
    brackets = scanned_modes(dist)
    assert n == len(brackets), (numbers(dist), found, brackets)
    for at, (low, high) in zip(found.sort().values.tolist(), brackets, strict=True):
        slack = 4 * math.ulp(max(abs(low), abs(high)))
        assert low - slack <= at <= high + slack


@each_univariate
def test_modes_match_a_dense_scan(name: str) -> None:
    """All local maxima of the named mixtures, by falling density."""
    check_modes(mixture(name))


def test_modes_of_200_random_mixtures_are_complete() -> None:
    """K = 1 to 8 components of any width: exactly the maxima that a scan of the slope finds."""
    generator = torch.Generator().manual_seed(0)
    for i in range(200):
        shape = (1 + i % 8, 1)
        logits, loc, scale = (torch.randn(shape, generator=generator, dtype=F64) for _ in range(3))
        check_modes(GaussianMixture(2 * logits[:, 0], 3 * loc, (0.8 * scale).exp()))


@pytest.mark.parametrize(
    ("logits", "loc", "scale"),
    [
        ([-2.17, 1.47], [0.04, 1.69], [4.94, 0.09]),  # a narrow one on the shoulder of a wide one
        ([0.0, -1.0], [0.0, 0.2], [1.0, 0.01]),
        ([0.0, 0.0], [0.0, 2.1], [1.0, 1.0]),  # equal ones, just far enough apart
        ([0.08, -3.67], [-4.18, 0.12], [0.66, 12.42]),
    ],
)
def test_modes_close_to_merging_are_both_found(logits: list, loc: list, scale: list) -> None:
    """Two maxima with a valley of a hundredth of a nat between them are two."""
    check_modes(make(logits, loc, scale))


def test_modes_in_the_plane() -> None:
    """Two far components: two modes, at their means, the heavier first."""
    dist = GaussianMixture(
        torch.tensor([0.0, 1.0], dtype=F64),
        torch.tensor([[-9.0, 5.0], [8.0, -6.0]], dtype=F64),
        torch.tensor([[1.0, 0.5], [0.7, 0.9]], dtype=F64),
    )
    modes = dist.modes()
    assert isinstance(modes, Modes)
    torch.testing.assert_close(modes.loc, dist.loc.flip(0))
    torch.testing.assert_close(modes.log_density, dist.log_prob(dist.loc.flip(0)))
    torch.testing.assert_close(dist.mode, dist.loc[1])


@pytest.mark.parametrize("apart", [2.0, 3.0])
def test_modes_in_the_plane_are_local_maxima(apart: float) -> None:
    """Every place returned beats its neighbours, also where a component sits on a saddle."""
    dist = GaussianMixture(
        torch.tensor([0.0, 0.0, -8.0], dtype=F64),
        torch.tensor([[-apart, 0.0], [apart, 0.0], [0.0, 0.0]], dtype=F64),
        torch.ones(3, 2, dtype=F64),
    )
    modes = dist.modes()
    found = modes.loc[~modes.loc[:, 0].isnan()]
    angle = torch.linspace(0, 2 * math.pi, 65, dtype=F64)
    ring = 0.01 * torch.stack([angle.cos(), angle.sin()], -1)
    around = dist.log_prob(found + ring[:, None])  # (65, modes)
    assert (around < dist.log_prob(found)).all()
    assert len(found) == 2


# --- new mixtures from old ----------------------------------------------------------------------


@each_mixture
@pytest.mark.parametrize("c", [2.5, -0.3])
def test_affine_shifts_the_nll_by_d_log_c(name: str, c: float) -> None:
    """NLL(c y + d) = NLL(y) + D log|c|; a negative scale flips the cdf."""
    dist = mixture(name)
    moved = dist.affine(7.0, c)
    y = rows(dist)
    expected = dist.log_prob(y) - dist.event_shape[0] * math.log(abs(c))
    tolerance = 1e-3 if name in ("far", "large offset") else 1e-9
    torch.testing.assert_close(moved.log_prob(7 + c * y), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(moved.mean, 7 + c * dist.mean)
    torch.testing.assert_close(moved.stddev, abs(c) * dist.stddev)
    if dist.event_shape == (1,):
        other = dist.log_cdf(y) if c > 0 else dist.log_sf(y)
        torch.testing.assert_close(
            moved.log_cdf(7 + c * y), other, rtol=10 * tolerance, atol=tolerance
        )


def test_affine_takes_one_number_a_dimension_and_rows_of_them() -> None:
    """shift and scale broadcast against (*, D), never against the components."""
    dist = mixture("batched, two axes, three dims")  # (2, 3), K = 4, D = 3
    generator = torch.Generator().manual_seed(1)
    y = rows(dist)
    for shape in ((), (3,), (3, 3), (2, 3, 3), (2, 1, 3)):
        shift = torch.randn(shape, generator=generator, dtype=F64)
        scale = torch.randn(shape, generator=generator, dtype=F64)
        moved = dist.affine(shift, scale)
        assert moved.batch_shape == dist.batch_shape and moved.event_shape == (3,)
        jacobian = scale.abs().log().expand(2, 3, 3).sum(-1)
        torch.testing.assert_close(
            moved.log_prob(shift + scale * y), dist.log_prob(y) - jacobian, rtol=1e-9, atol=1e-9
        )
    one = mixture("two modes").affine(torch.zeros(5, 1), torch.ones(5, 1))
    assert (one.batch_shape, one.event_shape) == ((5,), (1,))


@pytest.mark.parametrize("flat", ["shift", "scale", "both"])
def test_affine_refuses_to_widen_the_event(flat: str) -> None:
    """(N,) numbers for N univariate mixtures would make N dimensions of one."""
    shift = torch.zeros(4) if flat in ("shift", "both") else 0.0
    scale = torch.ones(4) if flat in ("scale", "both") else 1.0
    with pytest.raises(ValueError, match=r"^(shift|scale) must .*\(\*, 1\)"):
        mixture("batched").affine(shift, scale)


@pytest.mark.parametrize("c", [0.0, INF, math.nan])
def test_affine_refuses_a_scale_that_is_none(c: float) -> None:
    """A scale of 0 would give a point mass."""
    with pytest.raises(ValueError, match=r"^scale must be finite and not 0; got"):
        mixture("two modes").affine(0.0, c)


@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.0], torch.tensor([1, 0, 3])], ids=str)
@pytest.mark.parametrize("name", ["overlapping", "many dims", "batched, two axes, three dims"])
def test_pool_is_logaddexp(name: str, weights: list | None) -> None:
    """log sum_m w_m p_m(y), with members of different K and broadcast batches."""
    first = mixture(name)
    members = [first, first.affine(1.0, 0.5), GaussianMixture.pool([first, first.affine(-2.0, 2)])]
    pooled = GaussianMixture.pool(members, weights)
    y = rows(first)
    w = torch.ones(3) if weights is None else torch.as_tensor(weights)
    log_w = (w.to(F64) / w.sum()).log()
    expected = torch.logsumexp(
        torch.stack([m.log_prob(y) + lw for m, lw in zip(members, log_w, strict=True)]), 0
    )
    torch.testing.assert_close(pooled.log_prob(y), expected)
    assert pooled.n_components == 4 * first.n_components
    assert pooled.logits.logsumexp(-1).abs().max() < 1e-12


def test_pool_broadcasts_the_batches() -> None:
    """A prior of no batch beside a batch of predictions."""
    rows_of, single = mixture("batched"), mixture("two modes")
    pooled = GaussianMixture.pool([rows_of, single])
    assert pooled.batch_shape == (4,)
    y = torch.linspace(-3, 3, 4, dtype=F64)[:, None]
    expected = torch.logaddexp(rows_of.log_prob(y), single.log_prob(y)) - math.log(2)
    torch.testing.assert_close(pooled.log_prob(y), expected)


def test_pool_refuses_what_cannot_be_pooled() -> None:
    """One sentence that names the argument, for each way to be wrong."""
    one = mixture("two modes")
    with pytest.raises(ValueError, match=r"^mixtures must hold at least one GaussianMixture"):
        GaussianMixture.pool([])
    with pytest.raises(ValueError, match=r"one event shape; got \[\(1,\), \(2,\)\]$"):
        GaussianMixture.pool([one, mixture("two dims")])
    with pytest.raises(ValueError, match=r"batch.*\(4,\).*\(3,\)"):
        GaussianMixture.pool([mixture("batched"), mixture("batched")[:3]])


@pytest.mark.parametrize(
    "weights",
    [[1.0], [1.0, 2.0, 3.0], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, INF]],
    ids=str,
)
def test_pool_refuses_weights_that_are_none(weights: list[float]) -> None:
    """One non-negative finite number a member, not all 0."""
    one = mixture("two modes")
    with pytest.raises(ValueError, match=r"^weights must be 2 .*non-negative numbers"):
        GaussianMixture.pool([one, one], weights)


@pytest.mark.parametrize("dims", [0, 2, -1, [0], [2, 0], (1,), [0, 1, 2]], ids=str)
def test_marginal_integrates_the_rest_out(dims: int | list[int]) -> None:
    """The mixture of these columns, in this order; condition times marginal is the joint."""
    dist = mixture("batched, two axes, three dims")
    got = dist.marginal(dims)
    index = [dims] if isinstance(dims, int) else list(dims)
    y = rows(dist)[..., index]
    expected = MixtureSameFamily(
        Categorical(logits=dist.logits),
        Independent(Normal(dist.loc[..., index], dist.scale[..., index]), 1),
    )
    torch.testing.assert_close(got.log_prob(y), expected.log_prob(y), rtol=1e-9, atol=1e-9)


def test_marginal_of_two_dimensions_matches_quadrature() -> None:
    """p(a) is the integral of p(a, b) over b."""
    dist = mixture("two dims")
    b = torch.linspace(-12, 12, 20_001, dtype=F64)
    for a in (-1.3, 0.2, 1.4):
        joint = dist.log_prob(torch.stack([torch.full_like(b, a), b], -1)).exp()
        got = dist.marginal(0).log_prob(torch.tensor([a], dtype=F64)).exp()
        assert got.item() == pytest.approx(torch.trapezoid(joint, b).item(), rel=1e-9)


@pytest.mark.parametrize("dims", [0, -1, [1], [2, 0], [0, 1]], ids=str)
def test_condition_is_joint_over_marginal(dims: int | list[int]) -> None:
    """log p(rest | known) = log p(all) - log p(known)."""
    dist = mixture("batched, two axes, three dims")
    known = [d % 3 for d in ([dims] if isinstance(dims, int) else dims)]
    rest = [d for d in range(3) if d not in known]
    y = rows(dist)
    conditional = dist.condition(dims, y[..., known])
    assert conditional.event_shape == (len(rest),)
    torch.testing.assert_close(
        conditional.log_prob(y[..., rest]),
        dist.log_prob(y) - dist.marginal(known).log_prob(y[..., known]),
        rtol=1e-9,
        atol=1e-9,
    )


def test_condition_on_a_batch_of_values() -> None:
    """One mixture and N values give N mixtures."""
    dist = mixture("two dims")
    value = torch.linspace(-3, 3, 6, dtype=F64)[:, None]
    got = dist.condition(0, value)
    assert (got.batch_shape, got.event_shape) == ((6,), (1,))
    for i in range(6):
        one = dist.condition(0, value[i])
        torch.testing.assert_close(got[i].weights, one.weights)


def test_dims_and_values_are_checked() -> None:
    """Each message names the argument that is wrong."""
    dist = mixture("batched, two axes, three dims")
    for dims in (3, -4, [], [0, 0], [0, -3], [1, 3]):
        with pytest.raises(ValueError, match=r"^dims must be distinct and within 0\.\.2; got"):
            dist.marginal(dims)
        with pytest.raises(ValueError, match=r"^dims must be distinct and within 0\.\.2; got"):
            dist.condition(dims, torch.zeros(2, 3, 1, dtype=F64))
    with pytest.raises(ValueError, match=r"^dims must leave at least one dimension free; got"):
        dist.condition([0, 1, 2], torch.zeros(2, 3, 3, dtype=F64))


def test_a_conditioning_value_is_checked_by_its_own_name() -> None:
    """The argument is called value, so the message says value."""
    dist = mixture("batched, two axes, three dims")
    with pytest.raises(ValueError, match=r"^value must have shape \(\*, 2\); got \(\)$"):
        dist.condition([0, 1], 0.5)
    with pytest.raises(ValueError, match=r"^value must have shape \(\*, 2\); got \(2, 3, 1\)"):
        dist.condition([0, 1], torch.zeros(2, 3, 1, dtype=F64))


def test_expand_gives_views_with_the_same_density() -> None:
    """A larger batch without a copy."""
    dist = mixture("batched")
    big = dist.expand((5, 4))
    assert (big.batch_shape, big.event_shape) == ((5, 4), (1,))
    assert big.loc.data_ptr() == dist.loc.data_ptr()
    assert big.scale.data_ptr() == dist.scale.data_ptr()
    y = rows(dist, 5)
    torch.testing.assert_close(big.log_prob(y), dist.log_prob(y), rtol=0, atol=0)
    assert mixture("two modes").expand((3,)).sample((2,)).shape == (2, 3, 1)


INDICES: list = [
    0, -1, slice(1, None), slice(None, None, 2), ..., (0, 1), (slice(None), 2), (..., 1),
    (1, slice(0, 2)), None, torch.tensor([1, 0, 1]), [0, 1],
    torch.tensor([[True, False, True], [False, False, True]]), torch.tensor([False, True]),
    (torch.tensor([0, 1]), torch.tensor([2, 0])), slice(0, 0),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_the_batch_is_indexing_the_results(index: object) -> None:
    """dist[i].log_prob(y[i]) = dist.log_prob(y)[i], for all that tensors take."""
    dist = mixture("batched, two axes, three dims")  # batch (2, 3)
    y = rows(dist)[2]
    part = dist[index]
    expected = dist.log_prob(y)[index]
    assert part.batch_shape == expected.shape and part.event_shape == (3,)
    where = torch.arange(6).reshape(2, 3)[index]
    torch.testing.assert_close(part.log_prob(y.reshape(6, 3)[where]), expected)


def test_indexing_out_of_range_raises_and_ends_a_loop() -> None:
    """IndexError, as for a list, so that `for d in dist` stops."""
    dist = mixture("batched")
    for index in (4, -5, (0, 0), torch.tensor([9])):
        with pytest.raises(IndexError):
            dist[index]
    with pytest.raises(IndexError):
        mixture("two modes")[0]
    assert [d.loc.tolist() for d in dist] == dist.loc.tolist()


def test_to_detach_numpy_and_copy() -> None:
    """Dtype, graph and array conversions leave the numbers alone."""
    leaves = [a.clone().requires_grad_() for a in MIXTURES["batched"]]
    dist = GaussianMixture(*leaves)
    y = rows(dist)[2].detach()
    assert dist.log_prob(y).requires_grad and not dist.detach().log_prob(y).requires_grad
    narrow = dist.to(torch.float32)
    assert {a.dtype for a in (narrow.logits, narrow.loc, narrow.scale)} == {torch.float32}
    torch.testing.assert_close(narrow.log_prob(y.float()).double(), dist.log_prob(y), rtol=1e-5,
                               atol=1e-5)  # fmt: skip
    arrays = dist.numpy()
    assert list(arrays) == ["logits", "loc", "scale"]
    again = GaussianMixture(*(torch.from_numpy(a) for a in arrays.values()))
    torch.testing.assert_close(again.log_prob(y), dist.detach().log_prob(y))
    np.testing.assert_allclose(np.exp(arrays["logits"]).sum(-1), 1.0)
    copied = copy.deepcopy(dist.detach())
    torch.testing.assert_close(copied.log_prob(y), dist.detach().log_prob(y), rtol=0, atol=0)
    text = "GaussianMixture(batch_shape=(4,), event_shape=(1,), n_components=3)"
    assert repr(dist) == text


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_result_has_the_dtype_of_the_mixture(dtype: torch.dtype) -> None:
    """dtype in, dtype out, and to its precision the float64 number."""
    dist = mixture("overlapping", dtype)
    exact = dist.to(F64)
    y = torch.tensor([[0.5], [-1.0]], dtype=dtype)
    results: list[Callable[[GaussianMixture, Tensor], Tensor]] = [
        *(lambda d, y, n=n: getattr(d, n)(y) for n in ("log_prob", "responsibilities", "cdf",
                                                       "log_cdf", "log_sf", "crps")),
        *(lambda d, y, n=n: getattr(d, n) for n in ("logits", "weights", "mean", "variance",
          "stddev", "covariance", "skewness", "kurtosis", "median", "mode")),
        lambda d, y: d.interval(0.9), lambda d, y: d.icdf(0.25), lambda d, y: d.hdr(0.5).intervals,
        lambda d, y: d.hdr(0.5).threshold, lambda d, y: d.modes().log_density,
    ]  # fmt: skip
    for f in results:
        got = f(dist, y)
        assert got.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(got.double(), f(exact, y.double()), rtol=8 * eps, atol=8 * eps,
                                   equal_nan=True)  # fmt: skip
    assert dist.sample((3,)).dtype == dtype
    if dtype != torch.bfloat16:  # NumPy has none
        names = {a.dtype.name for a in dist.numpy().values()}
        assert names == {str(dtype).removeprefix("torch.")}


# --- sampling -----------------------------------------------------------------------------------


@each_mixture
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)], ids=str)
def test_samples_have_sample_then_batch_then_event_shape(name: str, shape: tuple) -> None:
    """sample_shape + batch_shape + event_shape, and no gradient."""
    dist = mixture(name)
    y = dist.sample(shape)
    assert y.shape == (*shape, *dist.batch_shape, *dist.event_shape)
    assert dist.sample(torch.Size(shape)).shape == y.shape
    assert y.dtype == F64 and not y.requires_grad


def test_each_row_draws_from_its_own_mixture() -> None:
    """Contexts with means 0 and 100 are not mixed up."""
    loc = torch.tensor([0.0, 100.0, -100.0, 1e4]).reshape(2, 2, 1, 1).expand(2, 2, 3, 1)
    dist = GaussianMixture(torch.zeros(2, 2, 3), loc, torch.ones(2, 2, 3, 1))
    y = dist.sample((500,), generator=torch.Generator().manual_seed(0))
    assert ((y - loc[..., 0, :]).abs() < 10).all()


def test_each_dimension_draws_from_its_own_parameters() -> None:
    """Means (0, 100, 200) and (1, 101, 201): dimensions stay apart, components together."""
    loc = torch.tensor([[0.0, 100.0, 200.0], [50.0, 150.0, 250.0]])
    scale = torch.tensor([[0.1, 1.0, 2.0], [0.2, 0.5, 3.0]])
    dist = GaussianMixture(torch.zeros(2), loc, scale)
    y = dist.sample((20_000,), generator=torch.Generator().manual_seed(0))
    which = (y[:, 0] > 25).long()
    assert (((y - loc[which]) / scale[which]).abs() < 6).all()
    # each mean of 10 000 draws is off by more than 6 standard errors once in 5e8
    for k in (0, 1):
        z = (y[which == k] - loc[k]) / scale[k]
        assert (z.mean(0).abs() * math.sqrt(len(z)) < 6).all()
        assert (z.std(0) - 1).abs().max() < 6 / math.sqrt(2 * len(z))
    assert abs(which.double().mean() - 0.5) < 6 * 0.5 / math.sqrt(len(y))


@pytest.mark.parametrize("dead", [[0], [1], [2], [0, 2], [1, 2]], ids=str)
def test_a_component_of_zero_weight_is_never_drawn(dead: list[int]) -> None:
    """No rounding of the cumulative weights hands a draw to it, wherever it stands."""
    logits = torch.tensor([0.1, -0.7, 0.4])
    logits[dead] = -INF
    loc = torch.tensor([[0.0], [100.0], [200.0]])
    dist = GaussianMixture(logits, loc, torch.ones(3, 1))
    y = dist.sample((200_000,), generator=torch.Generator().manual_seed(0))
    drawn = set((y / 100).round().flatten().long().unique().tolist())
    assert drawn == {0, 1, 2} - set(dead)


@pytest.mark.parametrize("name", [*MODERATE, "narrow inside wide", "far", "large offset", "narrow"])
def test_samples_follow_the_cdf(name: str) -> None:
    """Kolmogorov-Smirnov on 20 000 draws; a right sampler fails for one seed in 1e6."""
    dist = mixture(name)
    y = dist.sample((20_000,), generator=torch.Generator().manual_seed(4))
    _, loc, scale = numbers(dist)
    weights = dist.weights.numpy()
    u = (weights * scipy.stats.norm.cdf(y.numpy(), loc, scale)).sum(1)
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-6


# --- laws ---------------------------------------------------------------------------------------


@each_mixture
def test_permuting_components_changes_nothing(name: str) -> None:
    """A mixture is a set of components."""
    dist = mixture(name)
    flipped = GaussianMixture(*(a.flip(-1 if i == 0 else -2) for i, a in
                                enumerate(MIXTURES[name])))  # fmt: skip
    y = rows(dist)
    torch.testing.assert_close(flipped.log_prob(y), dist.log_prob(y), rtol=1e-9, atol=1e-9)
    for moment in ("mean", "stddev", "covariance"):
        torch.testing.assert_close(getattr(flipped, moment), getattr(dist, moment))
    if dist.event_shape == (1,):
        for f in (lambda d: d.log_cdf(y), lambda d: d.crps(y), lambda d: d.icdf(0.3),
                  lambda d: d.modes().log_density, lambda d: d.hdr(0.7).intervals):  # fmt: skip
            torch.testing.assert_close(f(flipped), f(dist), rtol=1e-9, atol=1e-9, equal_nan=True)


@st.composite
def mixtures(draw: st.DrawFn, batch: int | None = None) -> GaussianMixture:
    k = draw(st.integers(1, 5))
    n = k * (batch or 1)

    def floats(low: float, high: float) -> Tensor:
        values = draw(st.lists(st.floats(low, high), min_size=n, max_size=n))
        return torch.tensor(values, dtype=F64).reshape(*([batch] if batch else []), k)

    logits, loc, log_scale = floats(-20, 20), floats(-1e3, 1e3), floats(-5, 5)
    return GaussianMixture(logits, loc[..., None], log_scale.exp()[..., None])


@settings(max_examples=40)
@given(dist=mixtures(), p=st.floats(1e-12, 1 - 1e-12))
def test_cdf_of_icdf_is_the_level(dist: GaussianMixture, p: float) -> None:
    """F(F^-1(p)) = p, to 1e-9: y is rounded, and up to 1e5 of the narrowest scales from 0."""
    assert dist.cdf(dist.icdf(p)).item() == pytest.approx(p, rel=1e-9)


@settings(max_examples=40)
@given(dist=mixtures(), c=st.sampled_from([1e-6, 0.3, -1.0, -2e4]), d=st.floats(-10, 10))
def test_a_change_of_unit_changes_the_unit_only(dist: GaussianMixture, c: float, d: float) -> None:
    """Quantiles, mean, stddev, CRPS and modes move with y; the shape numbers stay."""
    moved = dist.affine(d, c)
    size = float(dist.loc.abs().max() + dist.scale.max()) * abs(c) + abs(d)
    close = {"rtol": 1e-7, "atol": 1e-9 * size}
    torch.testing.assert_close(moved.mean, d + c * dist.mean, **close)
    torch.testing.assert_close(moved.stddev, abs(c) * dist.stddev, **close)
    p = 0.3 if c > 0 else 0.7
    torch.testing.assert_close(
        torch.exp(moved.log_cdf(d + c * dist.icdf(0.3))), torch.tensor(p, dtype=F64), rtol=1e-5,
        atol=1e-5,
    )  # fmt: skip
    y = torch.tensor([1.5], dtype=F64)
    torch.testing.assert_close(moved.crps(d + c * y), abs(c) * dist.crps(y), **close)


@settings(max_examples=25)
@given(dist=mixtures(batch=3), p=st.floats(0.01, 0.99), y=st.floats(-1e3, 1e3))
def test_a_batch_is_a_loop(dist: GaussianMixture, p: float, y: float) -> None:
    """Row i of every result is the result of mixture i alone."""
    at = torch.tensor([y], dtype=F64)
    for f in (
        lambda d: d.log_prob(at),
        lambda d: d.log_cdf(at),
        lambda d: d.crps(at),
        lambda d: d.icdf(p),
        lambda d: d.mean,
        lambda d: d.stddev,
        lambda d: d.interval(0.8),
        lambda d: d.modes().loc,
        lambda d: d.hdr(0.8).intervals,
    ):
        expected = torch.stack([f(row) for row in dist])
        torch.testing.assert_close(f(dist), expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_an_empty_batch_works() -> None:
    """No rows in, no rows out."""
    dist = mixture("batched")[:0]
    y = torch.zeros(0, 1, dtype=F64)
    for got in (dist.log_prob(y), dist.log_cdf(y), dist.crps(y), dist.hdr(0.5).threshold):
        assert got.shape == (0,)
    for got in (dist.mean, dist.stddev, dist.icdf(0.5), dist.mode, dist.sample()):
        assert got.shape == (0, 1)
    assert dist.interval(0.5).shape == (0, 2) and dist.modes().loc.shape == (0, 3, 1)


def test_a_draw_does_not_cut_later_results_from_the_graph() -> None:
    """d mean / d logits = w (loc - mean), also after calls that run without gradients."""
    logits = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    dist = GaussianMixture(
        logits, torch.tensor([[0.0], [1.0]], dtype=F64), torch.ones(2, 1).double()
    )
    dist.sample()
    with torch.no_grad():
        assert not dist.logits.requires_grad
    (slope,) = torch.autograd.grad(dist.mean.sum(), logits)
    w = torch.softmax(logits.detach(), 0)
    torch.testing.assert_close(slope, w * (torch.tensor([0.0, 1.0], dtype=F64) - w[1]))

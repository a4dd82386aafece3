"""Squared norm, entropy, divergence and merging against quadrature, mpmath and torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from mdn.distribution import GaussianMixture, divergence
from tests.cases import MIXTURES
from tests.oracles import mp

F64 = torch.float64
INF = math.inf
Flat = tuple[list[float], list[float], list[float]]  # logits, means, scales of one mixture, D = 1

UNIVARIATE: dict[str, Flat] = {
    "one": ([0.0], [1.5], [0.7]),
    "two modes": ([0.0, 0.7], [-2.0, 2.0], [0.6, 0.9]),
    "overlapping": ([0.1, -0.4, 0.8], [-0.5, 0.2, 1.0], [1.0, 0.4, 1.7]),
    "identical": ([0.0, 1.0], [0.4, 0.4], [1.3, 1.3]),
    "1e-6 beside 1e6": ([0.0, 0.5], [0.0, 3.0], [1e-6, 1e6]),
    "1e-6 in 1e6, light": ([-12.0, 0.0], [0.0, -2e5], [1e-6, 1e6]),
    "five sizes": ([0.0, 0.3, -0.2, 0.1, 0.5], [0.0, 1e-3, 0.1, 5.0, -2e3],
                   [1e-6, 1e-3, 1.0, 1e3, 1e6]),
    "far": ([0.5, -0.5], [-1e6, 1e6], [1.0, 3.0]),
    "tiny weight": ([0.0, -40.0], [0.0, 12.0], [1.0, 1.0]),
    "zero weight": ([0.0, -INF, 1.0], [-1.0, 50.0, 2.0], [0.5, 1.0, 0.8]),
}  # fmt: skip
each_univariate = pytest.mark.parametrize("name", UNIVARIATE)
KINDS = ["scale", "scale_tril", "precision_tril", "low_rank"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def univariate(flat: Flat, dtype: torch.dtype = F64) -> GaussianMixture:
    logits, loc, scale = (torch.tensor(a, dtype=dtype) for a in flat)
    return GaussianMixture(logits, loc[:, None], scale[:, None])


def make(kind: str, *batch: int, k: int = 3, d: int = 2, seed: int = 0) -> GaussianMixture:
    """Random moderate ones: scales from 0.5 to 1.5, correlations of any sign."""
    gen = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, k, *shape, generator=gen, dtype=F64)

    def positive(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*batch, k, *shape, generator=gen, dtype=F64)

    logits, loc = normal(), 1.5 * normal(d)
    if kind == "scale":
        return GaussianMixture(logits, loc, positive(d))
    if kind == "low_rank":
        return GaussianMixture(logits, loc, cov_factor=normal(d, 1), cov_diag=positive(d))
    factor = 0.6 * normal(d, d).tril(-1) + torch.diag_embed(positive(d))
    return GaussianMixture(logits, loc, **{kind: factor})


def integral(f: Callable[[np.ndarray], np.ndarray], flat: Flat) -> float:
    """Integral over the line: 40 Gauss-Legendre nodes on each of many panels a component."""
    logits, loc, scale = flat
    steps = [s * z for z in (0, 0.5, 1, 2, 3, 4, 6, 8, 12, 20, 38) for s in (-1, 1)]
    cuts = np.array(
        sorted({loc[k] + z * scale[k] for k, v in enumerate(logits) if v > -INF for z in steps})
    )
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = 0.5 * np.diff(cuts)[:, None]
    return math.fsum((f(cuts[:-1, None] + half * (1 + nodes)) * half * weights).ravel())


def log_density(flat: Flat) -> Callable[[np.ndarray], np.ndarray]:
    logits, loc, scale = (np.array(a) for a in flat)
    log_w = scipy.special.log_softmax(logits)

    def f(y: np.ndarray) -> np.ndarray:
        t = log_w - np.log(scale) - 0.5 * ((y[..., None] - loc) / scale) ** 2
        return scipy.special.logsumexp(t, axis=-1) - 0.5 * math.log(2 * math.pi)

    return f


def divergence_of(p: Flat, q: Flat) -> float:
    log_p, log_q = log_density(p), log_density(q)
    return integral(lambda y: np.exp(log_p(y)) * (log_p(y) - log_q(y)), p)


def entropy_of(flat: Flat) -> float:
    log_p = log_density(flat)
    return integral(lambda y: -np.exp(log_p(y)) * log_p(y), flat)


# --- squared norm -------------------------------------------------------------------------------


@each_univariate
def test_squared_norm_matches_quadrature(name: str) -> None:
    """Integral of p squared over the line."""
    flat = UNIVARIATE[name]
    log_p = log_density(flat)
    assert integral(lambda y: np.exp(log_p(y)), flat) == pytest.approx(1.0, rel=1e-10)
    expected = integral(lambda y: np.exp(2 * log_p(y)), flat)
    assert univariate(flat).squared_norm().item() == pytest.approx(expected, rel=1e-9)


@each_kind
def test_squared_norm_in_the_plane_matches_a_grid(kind: str) -> None:
    """The trapezoidal rule, exact for what is smooth and vanishes at the border."""
    dist = make(kind, seed=1)
    axis = torch.linspace(-14, 14, 701, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    p = dist.log_prob(grid).exp()
    cell = float(axis[1] - axis[0]) ** 2
    assert float(p.sum()) * cell == pytest.approx(1.0, rel=1e-9)
    assert dist.squared_norm().item() == pytest.approx(float(p.square().sum()) * cell, rel=1e-9)


@each_kind
@pytest.mark.parametrize("d", [1, 3])
def test_squared_norm_and_bounds_pass_gradcheck(kind: str, d: int) -> None:
    """In all parameters, with a batch."""
    dist = make(kind, 2, k=2, d=d)
    given = {n: torch.from_numpy(a).requires_grad_() for n, a in dist.numpy().items()}

    def f(*tensors: Tensor) -> tuple[Tensor, ...]:
        new = GaussianMixture(**dict(zip(given, tensors, strict=True)), validate_args=False)
        return new.squared_norm(), *new.entropy_bounds()

    assert gradcheck(f, list(given.values()))


@pytest.mark.parametrize("apart", [1e-4, 1e-6])
def test_nearly_singular_components_keep_their_digits_in_float32(apart: float) -> None:
    """Two dimensions alike to 1e-4: norms and bounds of float32 are those of float64."""
    root = torch.tensor([[1.0, 0.0], [1.0, apart]]).repeat(3, 1, 1)
    loc = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-0.5, -0.5]])
    narrow = GaussianMixture(torch.zeros(3), loc, scale_tril=root)
    wide = narrow.to(F64)
    got, want = narrow.squared_norm().double(), wide.squared_norm()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
    for a, b in zip(narrow.entropy_bounds(), wide.entropy_bounds(), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    lower, upper = narrow.entropy_bounds()
    assert float(lower) < float(upper)


# --- entropy ------------------------------------------------------------------------------------


@each_univariate
def test_entropy_matches_quadrature_to_1e6(name: str) -> None:
    """- integral of p log p, absolute error 1e-6 nats, however unlike the scales."""
    flat = UNIVARIATE[name]
    assert univariate(flat).entropy().item() == pytest.approx(entropy_of(flat), abs=1e-6)


def test_entropy_of_one_gaussian_is_its_formula() -> None:
    """log(scale sqrt(2 pi e)), at any scale and offset, in float32 to its digits."""
    scale = torch.logspace(-12, 12, 13, dtype=F64)
    loc = torch.linspace(-1e8, 1e8, 13, dtype=F64)
    dist = GaussianMixture(torch.zeros(13, 1, dtype=F64), loc[:, None, None], scale[:, None, None])
    want = Normal(loc, scale).entropy()
    torch.testing.assert_close(dist.entropy(), want, rtol=0, atol=1e-9)
    narrow = dist.to(torch.float32)
    assert narrow.entropy().dtype == torch.float32
    torch.testing.assert_close(narrow.entropy().double(), want, rtol=1e-6, atol=1e-6)


def test_entropy_keeps_its_digits_1e14_scales_from_zero() -> None:
    """What is common to the means goes first: places near 1e8 are 1 % of a scale of 1e-6 apart."""
    logits, scale = torch.tensor([0.0, 0.5]).double(), torch.tensor([[1e-6], [2e-6]]).double()
    gap = torch.tensor([[0.0], [64 * 2.0**-26]], dtype=F64)  # 1e-6, representable beside 1e8
    far = GaussianMixture(logits, 1e8 + gap, scale)
    assert torch.equal(far.loc - 1e8, gap)
    near = GaussianMixture(logits, gap, scale)
    assert far.entropy().item() == pytest.approx(near.entropy().item(), abs=1e-12)
    exact = entropy_of((logits.tolist(), gap[:, 0].tolist(), scale[:, 0].tolist()))
    assert far.entropy().item() == pytest.approx(exact, abs=1e-9)


def test_an_offset_of_1e8_changes_no_integral() -> None:
    """Entropy, its bounds, the norm and a divergence of y and of y + 1e8."""
    for name in ("two modes", "overlapping"):
        dist = univariate(UNIVARIATE[name])
        for p in (dist, make("scale_tril")):
            far = p.affine(1e8, 1.0)
            # the means are rounded to 1.5e-8 of a scale
            for f in (
                lambda d: d.entropy(),
                lambda d: d.squared_norm(),
                lambda d: d.entropy_bounds().lower,
                lambda d: divergence(d, d.affine(1.0, 1.0)).value,
                lambda d: divergence(d, d.affine(1.0, 1.0)).upper_bound,
            ):
                torch.testing.assert_close(f(far), f(p), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["one", "two modes", "overlapping", "zero weight", "five sizes"])
def test_entropy_gradient_matches_differences_of_quadrature(name: str) -> None:
    """d H / d logits, means and scales, relative to the unit of each parameter."""
    flat = UNIVARIATE[name]
    leaves = [torch.tensor(a, dtype=F64).requires_grad_() for a in flat]
    dist = GaussianMixture(leaves[0], leaves[1][:, None], leaves[2][:, None])
    grads = torch.autograd.grad(dist.entropy(), leaves)
    for at, g in enumerate(grads):
        for k, value in enumerate(flat[at]):
            if flat[0][k] == -INF:
                assert g[k].item() == 0.0
                continue
            unit = 1.0 if at == 0 else flat[2][k]
            step, ends = 1e-3 * unit, []
            for sign in (1, -1):
                moved = [list(a) for a in flat]
                moved[at][k] = value + sign * step
                ends.append(entropy_of((moved[0], moved[1], moved[2])))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert g[k].item() * unit == pytest.approx(slope * unit, abs=5e-6)


def test_entropy_of_a_batch_is_a_loop() -> None:
    """Two batch axes, one dimension; also an empty batch."""
    dist = GaussianMixture(*MIXTURES["batched"])[:, None].expand((4, 2))
    loop = torch.stack([dist[i, j].entropy() for i, j in itertools.product(range(4), range(2))])
    torch.testing.assert_close(dist.entropy().flatten(), loop, rtol=1e-12, atol=1e-12)
    assert dist[:0].entropy().shape == (0, 2)


@each_kind
def test_entropy_in_the_plane_matches_a_grid_and_lies_within_its_bounds(kind: str) -> None:
    """Within 6 standard errors of 4096 draws: off by chance once in 5e8, times 5 mixtures."""
    dist = make(kind, 5, seed=2)
    axis = torch.linspace(-14, 14, 281, dtype=F64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
    log_p = dist.log_prob(grid)
    exact = -(log_p.exp() * log_p).sum(0) * float(axis[1] - axis[0]) ** 2
    spread = dist.log_prob(dist.sample((4096,), generator=seeded(0))).std(0) / 64
    entropy, bounds = dist.entropy(), dist.entropy_bounds()
    assert bool(((entropy - exact).abs() < 6 * spread).all())
    assert bool((bounds.lower < exact).all() and (exact < bounds.upper).all())
    assert bool((bounds.lower < entropy).all() and (entropy < bounds.upper).all())


@each_kind
@pytest.mark.parametrize("d", [1, 4])
def test_entropy_bounds_enclose_a_large_monte_carlo_mean(kind: str, d: int) -> None:
    """100 000 draws give the entropy to 0.01; the bounds allow 6 standard errors."""
    dist = make(kind, 3, d=d, seed=3)
    nll = -dist.log_prob(dist.sample((100_000,), generator=seeded(1)))
    value, error = nll.mean(0), nll.std(0) / 100_000**0.5
    bounds = dist.entropy_bounds()
    assert bool((bounds.lower < value + 6 * error).all())
    assert bool((bounds.upper > value - 6 * error).all())


def test_entropy_bounds_are_exact_where_they_can_be() -> None:
    """Upper: components far apart, H = sum w (H_k - log w_k).  Lower: never above, tight to D/2."""
    apart = univariate(UNIVARIATE["far"])
    exact = entropy_of(UNIVARIATE["far"])
    assert apart.entropy_bounds().upper.item() == pytest.approx(exact, abs=1e-6)
    one = univariate(UNIVARIATE["one"])
    want = Normal(1.5, 0.7).entropy().item()
    assert one.entropy_bounds().upper.item() == pytest.approx(want, rel=1e-6)
    # Jensen's gap of one Gaussian is (1 - log 2) / 2 a dimension
    assert one.entropy_bounds().lower.item() == pytest.approx(want - 0.5 * (1 - math.log(2)), 1e-6)


@each_kind
def test_entropy_gradient_in_the_plane_is_that_of_a_grid(kind: str) -> None:
    """Of 4096 draws: within 0.15, some 6 of its standard errors, of the exact gradient."""
    dist = make(kind, k=2, seed=4)
    given = {n: torch.from_numpy(a).requires_grad_() for n, a in dist.numpy().items()}
    dist = GaussianMixture(**given)
    axis = torch.linspace(-14, 14, 281, dtype=F64)
    log_p = dist.log_prob(torch.cartesian_prod(axis, axis))
    exact = -(log_p.exp() * log_p).sum() * float(axis[1] - axis[0]) ** 2
    got = torch.autograd.grad(dist.entropy(), list(given.values()))
    for a, b in zip(got, torch.autograd.grad(exact, list(given.values())), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.15)


# --- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, second",
    [("two modes", "overlapping"), ("overlapping", "two modes"), ("one", "overlapping"),
     ("overlapping", "one"), ("zero weight", "overlapping"), ("overlapping", "zero weight")],
)  # fmt: skip
def test_divergence_matches_quadrature(first: str, second: str) -> None:
    """Within 5 standard errors (off by chance once in 2e6), and below its bound for certain."""
    p, q = UNIVARIATE[first], UNIVARIATE[second]
    exact = divergence_of(p, q)
    got = divergence(univariate(p), univariate(q))
    assert abs(got.value.item() - exact) < 5 * got.standard_error.item()
    assert exact <= got.upper_bound.item() < 100 * exact
    more = divergence(univariate(p), univariate(q), n_samples=100_000, generator=seeded(1))
    assert more.standard_error.item() < 0.35 * got.standard_error.item()
    assert abs(more.value.item() - exact) < 5 * more.standard_error.item()


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_divergence_of_single_gaussians_is_torchs(first: str, second: str) -> None:
    """Exact, with standard error 0, of any two kinds and a broadcast batch."""
    p, q = make(first, 4, k=1, d=3), make(second, 2, 1, k=1, d=3, seed=5)
    got = divergence(p, q)
    parts = [MultivariateNormal(m.loc[..., 0, :], m.covariance_matrix[..., 0, :, :])
             for m in (p.expand((2, 4)), q.expand((2, 4)))]  # fmt: skip
    want = kl_divergence(*parts)
    torch.testing.assert_close(got.value, want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got.upper_bound, want, rtol=1e-9, atol=1e-10)
    assert got.value.shape == (2, 4) and not bool(got.standard_error.any())


@each_kind
def test_divergence_in_the_plane_matches_a_grid(kind: str) -> None:
    """Value within 5 standard errors, the bound above, from a batch of q; also by torch's face."""
    p, q = make(kind, seed=6), make("scale_tril", 3, k=2, seed=7)
    axis = torch.linspace(-14, 14, 281, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    log_p, log_q = p.log_prob(grid), q.log_prob(grid.unsqueeze(1))
    cell = float(axis[1] - axis[0]) ** 2
    exact = (log_p.exp().unsqueeze(1) * (log_p.unsqueeze(1) - log_q)).sum(0) * cell
    got = divergence(p, q)
    assert got.value.shape == got.standard_error.shape == got.upper_bound.shape == (3,)
    assert bool(((got.value - exact).abs() < 5 * got.standard_error).all())
    assert bool((exact <= got.upper_bound).all())
    assert torch.equal(kl_divergence(p, q), got.value)


def test_divergence_is_zero_from_itself_and_large_from_afar() -> None:
    """Exact, too near, too far: 0, small, the squared distance over two."""
    p = univariate(UNIVARIATE["two modes"])
    same = divergence(p, p)
    assert abs(same.value.item()) < 1e-12 and abs(same.upper_bound.item()) < 1e-12
    near = divergence(p, p.affine(0.1, 1.0)).value.item()
    far = divergence(p, p.affine(1e4, 1.0)).value.item()
    assert 0 < near < 0.1 and far > 1e6


def test_divergence_does_not_depend_on_units() -> None:
    """Change of variable: KL(p, q) is that of b + c y, and so is its bound."""
    p, q = make("scale_tril", seed=1), make("low_rank", seed=2)
    got = divergence(p, q, generator=seeded(3))
    shift = torch.tensor([1e3, -5.0], dtype=F64)
    scale = torch.tensor([1e4, 1e-3], dtype=F64)
    moved = divergence(p.affine(shift, scale), q.affine(shift, scale), generator=seeded(3))
    for a, b in zip(moved, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_divergence_has_gradients_in_both_also_beside_a_weight_of_zero() -> None:
    """Value and bound; single Gaussians by gradcheck."""
    for second in ("scale", "scale_tril", "low_rank"):
        mixtures = []
        for kind, seed in (("scale_tril", 1), (second, 2)):
            arrays = make(kind, k=3, seed=seed).numpy()
            given = {n: torch.from_numpy(a) for n, a in arrays.items()}
            given["logits"][seed] = -INF
            mixtures.append({n: a.requires_grad_() for n, a in given.items()})
        leaves = [a for given in mixtures for a in given.values()]
        got = divergence(*(GaussianMixture(**given) for given in mixtures))
        assert 0 < got.value.item() < got.upper_bound.item() < INF
        for value in (got.value, got.upper_bound):
            for g in torch.autograd.grad(value, leaves, retain_graph=True):
                assert bool(g.isfinite().all())

    def f(loc: Tensor, factor: Tensor, other: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros(1, dtype=F64)
        p = GaussianMixture(zero, loc, scale_tril=factor, validate_args=False)
        q = GaussianMixture(zero, other, precision_tril=precision, validate_args=False)
        return divergence(p, q).value, divergence(p, q).upper_bound

    p, q = make("scale_tril", k=1, seed=1), make("precision_tril", k=1, seed=2)
    arrays = [p.numpy()["loc"], p.numpy()["scale_tril"], q.numpy()["loc"],
              q.numpy()["precision_tril"]]  # fmt: skip
    assert gradcheck(f, [torch.from_numpy(a).requires_grad_() for a in arrays])


def test_divergence_gradient_matches_differences_of_quadrature() -> None:
    """Mean over 64 blocks within 6 standard errors: 12 numbers, off by chance once in 1e6."""
    p, q = UNIVARIATE["two modes"], UNIVARIATE["overlapping"]

    leaves = [torch.tensor(a, dtype=F64).expand(64, 2).clone().requires_grad_() for a in p]
    many = GaussianMixture(leaves[0], leaves[1][..., None], leaves[2][..., None])
    value = divergence(many, univariate(q), n_samples=1000, generator=seeded(2)).value
    for at, g in enumerate(torch.autograd.grad(value.sum(), leaves)):
        mean, error = g.mean(0), g.std(0) / 8
        for k in range(2):
            ends = []
            for step in (1e-3, -1e-3):
                moved = [list(a) for a in p]
                moved[at][k] += step
                ends.append(divergence_of((moved[0], moved[1], moved[2]), q))
            assert abs(mean[k].item() - (ends[0] - ends[1]) / 2e-3) < 6 * error[k].item() + 1e-5


def test_divergence_refuses_what_it_cannot_compare() -> None:
    """Different dimensions, or too few draws."""
    p = make("scale_tril")
    with pytest.raises(ValueError, match=r"p and q must have one event shape; got \(2,\) and \(1"):
        divergence(p, p.marginal(0))
    with pytest.raises(ValueError, match="n_samples must be at least 2; got 1"):
        divergence(p, p, n_samples=1)


def test_estimates_leave_the_global_generator_alone_and_repeat() -> None:
    """Entropy, energy score and divergence draw from a generator of their own."""
    p, q = make("scale_tril", seed=1), make("low_rank", seed=2)
    y = torch.zeros(2, dtype=F64)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for f in (
        lambda: p.entropy(),
        lambda: p.energy_score(y),
        lambda: p.energy_score_estimate(y).standard_error,
        lambda: divergence(p, q).value,
        lambda: kl_divergence(p, q),
        lambda: p.entropy_bounds().lower,
        lambda: p.merge(2).loc,
    ):
        first = f()
        torch.rand(3)
        assert torch.equal(first, f())
        torch.set_rng_state(torch_before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


# --- merge --------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_merge_keeps_mean_and_covariance(kind: str, d: int, n: int) -> None:
    """To 1e-12, for every row of a batch, weights adding to 1."""
    dist = make(kind, 6, k=5, d=d, seed=d)
    less = dist.merge(n)
    assert less.n_components == n and less.batch_shape == (6,) and less.event_shape == (d,)
    torch.testing.assert_close(less.mean, dist.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(less.covariance, dist.covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(less.weights.sum(-1), torch.ones(6, dtype=F64))


def test_merge_to_all_is_the_mixture_itself() -> None:
    """Nothing to do."""
    dist = make("low_rank", 2)
    y = torch.zeros(2, dtype=F64)
    assert torch.equal(dist.merge(3).log_prob(y), dist.log_prob(y))


def test_merge_keeps_the_digits_of_an_offset() -> None:
    """Mean and spread at 1e8, in units of the scale."""
    near = univariate(UNIVARIATE["five sizes"])
    for dist in (univariate(UNIVARIATE["two modes"]), near, make("scale_tril", k=4)):
        far = dist.affine(1e8, 1.0)
        less = far.merge(1)
        torch.testing.assert_close(less.stddev, far.stddev, rtol=1e-9, atol=0)
        assert bool(((less.mean - far.mean).abs() <= 3e-8).all())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_merge_joins_the_two_nearest_of_three_first(order: tuple[int, ...]) -> None:
    """In any order of the components; the third is kept as it is."""
    at = list(order)
    loc = torch.tensor([[-4.0, 0.0], [3.0, 1.0], [3.5, 1.2]], dtype=F64)[at]
    scale = torch.tensor([[1.0, 0.5], [0.6, 0.8], [0.7, 0.8]], dtype=F64)[at]
    logits = torch.tensor([0.2, 0.0, -0.3], dtype=F64)[at]
    dist = GaussianMixture(logits, loc, scale)
    less = dist.merge(2)
    alone = order.index(0)
    kept = int((less.loc[:, 0] + 4.0).abs().argmin())
    torch.testing.assert_close(less.loc[kept], loc[alone])
    torch.testing.assert_close(less.weights[kept], dist.weights[alone])
    torch.testing.assert_close(less.covariance_matrix[kept], torch.diag(scale[alone].square()))
    pair = [i for i in range(3) if i != alone]
    both = GaussianMixture(dist.logits[pair], loc[pair], scale[pair])
    torch.testing.assert_close(less.loc[1 - kept], both.mean)
    torch.testing.assert_close(less.covariance_matrix[1 - kept], both.covariance)


def test_merge_chooses_rows_one_by_one_by_runnalls_bound() -> None:
    """Against a plain search over all pairs, step by step, for 40 random univariate mixtures."""
    gen = seeded(0)
    logits, loc = (torch.randn(40, 5, generator=gen, dtype=F64) for _ in range(2))
    scale = 0.1 + torch.rand(40, 5, generator=gen, dtype=F64)
    less = GaussianMixture(logits, 3 * loc[..., None], scale[..., None]).merge(2)
    for row in range(40):
        w = scipy.special.softmax(logits[row].numpy())
        parts = list(zip(w, 3 * loc[row].numpy(), scale[row].numpy() ** 2, strict=True))

        def joined(a: tuple, b: tuple) -> tuple:
            total = a[0] + b[0]
            mean = (a[0] * a[1] + b[0] * b[1]) / total
            second = (a[0] * (a[2] + a[1] ** 2) + b[0] * (b[2] + b[1] ** 2)) / total
            return total, mean, second - mean**2

        def cost(pair: tuple[int, int], parts: list = parts) -> float:
            a, b = (parts[i] for i in pair)
            total, _, variance = joined(a, b)
            return total * math.log(variance) - a[0] * math.log(a[2]) - b[0] * math.log(b[2])

        while len(parts) > 2:
            i, j = min(itertools.combinations(range(len(parts)), 2), key=cost)
            new = joined(parts[i], parts[j])
            parts[:] = [p for n, p in enumerate(parts) if n not in (i, j)] + [new]
        want = sorted((m, w, v**0.5) for w, m, v in parts)
        got = sorted(
            zip(less.loc[row, :, 0].tolist(), less.weights[row].tolist(),
                less.scale[row, :, 0].tolist(), strict=True)
        )  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


def test_merge_of_a_large_mixture_joins_what_a_search_of_all_pairs_does() -> None:
    """120 components, two rows at once, in D = 1 and in D = 2."""
    gen = seeded(5)
    for d in (1, 2):
        logits = 2 * torch.randn(2, 120, generator=gen, dtype=F64)
        loc = torch.randn(2, 120, d, generator=gen, dtype=F64)
        scale = (0.5 * torch.randn(2, 120, d, generator=gen, dtype=F64)).exp()
        dist = GaussianMixture(logits, loc, scale)
        less = dist.merge(7)
        for row in range(2):
            w, means = dist.weights[row].numpy(), loc[row].numpy()
            covs = np.stack([np.diag(s**2) for s in scale[row].numpy()])
            part = w * np.linalg.slogdet(covs)[1]
            for _ in range(120 - 7):
                total = w[:, None] + w
                gap = means[:, None] - means
                both = w[:, None, None] * covs
                both = both[:, None] + both
                between = (w[:, None] * w / total)[..., None, None] * (
                    gap[..., :, None] * gap[..., None, :]
                )
                joint = (both + between) / total[..., None, None]
                cost = total * np.linalg.slogdet(joint)[1] - part[:, None] - part
                cost[np.tril_indices(len(w))] = INF
                i, j = np.unravel_index(cost.argmin(), cost.shape)
                w[i], means[i], covs[i], part[i] = (
                    total[i, j], means[i] + w[j] / total[i, j] * (means[j] - means[i]), joint[i, j],
                    total[i, j] * np.linalg.slogdet(joint[i, j])[1],
                )  # fmt: skip
                w, means, covs, part = (np.delete(a, j, 0) for a in (w, means, covs, part))
            for got, want in ((less.weights, w), (less.loc, means), (less.covariance_matrix, covs)):
                np.testing.assert_allclose(got[row].numpy(), want, rtol=1e-9, atol=1e-12)


def test_merge_of_parameters_that_are_not_finite_ends() -> None:
    """A row of a diverged network is NaN, the row beside it is what it was."""
    dist = make("scale", 2, k=6, d=1)
    loc = dist.loc.clone()
    loc[0, 2] = float("nan")
    less = GaussianMixture(dist.logits, loc, dist.scale, validate_args=False).merge(3)
    assert bool(less.loc[0].isnan().any())
    torch.testing.assert_close(less.loc[1], dist[1].merge(3).loc)


@each_kind
def test_merge_of_identical_components_changes_nothing(kind: str) -> None:
    """Three times the same Gaussian is that Gaussian."""
    one = make(kind, k=1)
    three = GaussianMixture.pool([one] * 3, weights=[1.0, 2.0, 3.0])
    y = torch.randn(7, 2, generator=seeded(0), dtype=F64)
    for n in (1, 2):
        torch.testing.assert_close(three.merge(n).log_prob(y), one.log_prob(y))


@pytest.mark.parametrize("dead", [[0], [2], [1, 2], [0, 3]], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_merge_with_components_of_weight_zero(dead: list[int], n: int) -> None:
    """They carry nothing over, wherever they lie; gradients stay finite."""
    given = {name: torch.from_numpy(a) for name, a in make("scale_tril", k=4).numpy().items()}
    alive = [k for k in range(4) if k not in dead]
    want = GaussianMixture(**{name: a[alive] for name, a in given.items()})
    given["logits"][dead] = -INF
    given["loc"][dead] = 1e5
    leaves = {name: a.requires_grad_() for name, a in given.items()}
    less = GaussianMixture(**leaves).merge(n)
    torch.testing.assert_close(less.mean.detach(), want.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(less.covariance.detach(), want.covariance, rtol=1e-12, atol=1e-12)
    y = torch.randn(6, 2, generator=seeded(0), dtype=F64)
    if n >= len(alive):
        torch.testing.assert_close(less.log_prob(y).detach(), want.log_prob(y))
    for g in torch.autograd.grad(less.log_prob(y).sum(), list(leaves.values())):
        assert bool(g.isfinite().all())


@each_kind
@pytest.mark.parametrize("d", [1, 2])
def test_merge_is_differentiable(kind: str, d: int) -> None:
    """gradcheck of the density of the merged mixture in all parameters."""
    given = {n: torch.from_numpy(a) for n, a in make(kind, k=3, d=d, seed=3).numpy().items()}
    y = torch.randn(3, d, generator=seeded(0), dtype=F64)

    def f(*tensors: Tensor) -> Tensor:
        dist = GaussianMixture(**dict(zip(given, tensors, strict=True)), validate_args=False)
        return dist.merge(2).log_prob(y)

    assert gradcheck(f, [a.requires_grad_() for a in given.values()])


def test_merge_survives_float32_where_a_covariance_does_not() -> None:
    """Correlation 1 - 5e-9, and scales of 1e-30: the factor is representable, its square is not."""
    root = torch.tensor([[1.0, 0.0], [1.0, 1e-4]]).repeat(3, 1, 1)
    dist = GaussianMixture(torch.zeros(3), torch.zeros(3, 2), scale_tril=root)
    torch.testing.assert_close(dist.merge(1).scale_tril[0], root[0], rtol=1e-3, atol=1e-9)
    tiny = GaussianMixture(torch.zeros(3), torch.zeros(3, 1), torch.full((3, 1), 1e-30))
    torch.testing.assert_close(tiny.merge(1).scale, torch.tensor([[1e-30]]), rtol=1e-6, atol=0)


def test_merged_moments_match_100_digits() -> None:
    """Scales from 1e-6 to 1e6: mean and variance against exact sums."""
    logits, loc, scale = UNIVARIATE["five sizes"]
    less = univariate(UNIVARIATE["five sizes"]).merge(1)
    w = [mp.exp(mp.mpf(v)) for v in logits]
    w = [v / mp.fsum(w) for v in w]
    mean = mp.fsum(a * mp.mpf(m) for a, m in zip(w, loc, strict=True))
    variance = mp.fsum(
        a * (mp.mpf(s) ** 2 + (mp.mpf(m) - mean) ** 2)
        for a, m, s in zip(w, loc, scale, strict=True)
    )
    assert less.loc.item() == pytest.approx(float(mean), rel=1e-13)
    assert less.scale.item() == pytest.approx(float(mp.sqrt(variance)), rel=1e-13)

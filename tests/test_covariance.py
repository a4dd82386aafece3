"""Full and low-rank covariances of GaussianMixture against SciPy, NumPy, mpmath and torch."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import scoringrules
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import (
    Categorical,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import mdn
from mdn.distribution import GaussianMixture
from mdn.functional import full_gaussian_mixture_log_prob

F64 = torch.float64
INF = math.inf
KINDS = ["scale", "scale_tril", "precision_tril", "low_rank"]
CORRELATED = KINDS[1:]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_correlated = pytest.mark.parametrize("kind", CORRELATED)
Parameters = dict[str, Tensor]

mp = mpmath.mp.clone()
mp.dps = 60


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(kind: str, *batch: int, k: int = 3, d: int = 3, seed: int = 0) -> Parameters:
    """Random moderate ones: scales from 0.5 to 1.5, correlations of any sign."""
    gen = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, k, *shape, generator=gen, dtype=F64)

    def positive(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*batch, k, *shape, generator=gen, dtype=F64)

    given: Parameters = {"logits": normal(), "loc": 1.5 * normal(d)}
    if kind == "scale":
        return given | {"scale": positive(d)}
    if kind == "low_rank":
        return given | {"cov_factor": normal(d, 2), "cov_diag": positive(d)}
    return given | {kind: 0.6 * normal(d, d).tril(-1) + torch.diag_embed(positive(d))}


def make(kind: str, *batch: int, k: int = 3, d: int = 3, seed: int = 0) -> GaussianMixture:
    return GaussianMixture(**parameters(kind, *batch, k=k, d=d, seed=seed))


def matrices(given: Parameters) -> np.ndarray:
    """Covariances from the definitions of the parameters, (*, K, D, D)."""
    a = {name: value.double().numpy() for name, value in given.items()}
    if "scale" in a:
        return np.eye(a["scale"].shape[-1]) * a["scale"][..., None] ** 2
    if "scale_tril" in a:
        return a["scale_tril"] @ a["scale_tril"].swapaxes(-1, -2)
    if "precision_tril" in a:
        return np.linalg.inv(a["precision_tril"] @ a["precision_tril"].swapaxes(-1, -2))
    return a["cov_factor"] @ a["cov_factor"].swapaxes(-1, -2) + (
        np.eye(a["cov_diag"].shape[-1]) * a["cov_diag"][..., None]
    )


def in_torch(given: Parameters) -> MixtureSameFamily:
    loc = given["loc"]
    parts: Independent | MultivariateNormal | LowRankMultivariateNormal
    if "scale" in given:
        parts = Independent(Normal(loc, given["scale"]), 1)
    elif "scale_tril" in given:
        parts = MultivariateNormal(loc, scale_tril=given["scale_tril"])
    elif "precision_tril" in given:
        factor = given["precision_tril"]
        parts = MultivariateNormal(loc, precision_matrix=factor @ factor.mT)
    else:
        parts = LowRankMultivariateNormal(loc, given["cov_factor"], given["cov_diag"])
    return MixtureSameFamily(Categorical(logits=given["logits"]), parts)


def exact_log_prob(y: Tensor, given: Parameters) -> float:
    """Of one mixture at one y, in 60 digits, from the numbers the tensors hold."""

    def matrix(name: str, k: int) -> mpmath.matrix:
        return mp.matrix(given[name][k].double().tolist())

    def numbers(value: Tensor) -> list:
        return [mp.mpf(v) for v in value.double().tolist()]

    terms = []
    at = numbers(y)
    for k, logit in enumerate(numbers(given["logits"])):
        if "scale" in given:
            cov = mp.diag([s**2 for s in numbers(given["scale"][k])])
        elif "scale_tril" in given:
            cov = matrix("scale_tril", k) * matrix("scale_tril", k).T
        elif "precision_tril" in given:
            cov = (matrix("precision_tril", k) * matrix("precision_tril", k).T) ** -1
        else:
            factor = matrix("cov_factor", k)
            cov = factor * factor.T + mp.diag(numbers(given["cov_diag"][k]))
        gap = mp.matrix([a - b for a, b in zip(at, numbers(given["loc"][k]), strict=True)])
        square = (gap.T * mp.lu_solve(cov, gap))[0]
        log_det = mp.log(mp.det(cov)) + len(at) * mp.log(2 * mp.pi)
        terms.append(logit - (square + log_det) / 2)
    total = mp.log(mp.fsum(mp.exp(v) for v in numbers(given["logits"])))
    best = max(terms)
    return float(best + mp.log(mp.fsum(mp.exp(t - best) for t in terms)) - total)


def names_of(given: Parameters) -> list[str]:
    return [name for name in given if name not in ("logits", "loc")]


# --- density ------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("k, d", [(1, 1), (1, 4), (3, 2), (5, 3)])
def test_log_prob_matches_scipy_multivariate_normal(kind: str, k: int, d: int) -> None:
    """log sum_k pi_k N(y; mu_k, Sigma_k), each density from SciPy."""
    given = parameters(kind, k=k, d=d)
    dist = GaussianMixture(**given)
    y = torch.randn(20, d, generator=seeded(1), dtype=F64) * 2
    logpdf = [
        scipy.stats.multivariate_normal(m, c).logpdf(y.numpy())
        for m, c in zip(given["loc"].numpy(), matrices(given), strict=True)
    ]
    log_w = scipy.special.log_softmax(given["logits"].numpy())
    expected = scipy.special.logsumexp(log_w[:, None] + np.array(logpdf), axis=0)
    np.testing.assert_allclose(dist.log_prob(y), expected, rtol=1e-11, atol=1e-12)
    joint = log_w[:, None] + np.array(logpdf) - expected
    np.testing.assert_allclose(dist.responsibilities(y), joint.T, rtol=1e-9, atol=1e-10)


@each_kind
@pytest.mark.parametrize("lead", [(), (7,), (6, 1, 1), (5, 2, 4)])
def test_log_prob_of_a_batch_matches_torch_multivariate_normal(kind: str, lead: tuple) -> None:
    """Any batch of mixtures, any batch of targets that broadcasts against it."""
    batch = (2, 4) if len(lead) != 1 else (7,)
    given = parameters(kind, *batch)
    y = torch.randn(*lead, 3, generator=seeded(2), dtype=F64)
    got, expected = GaussianMixture(**given).log_prob(y), in_torch(given).log_prob(y)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@each_kind
def test_parameters_broadcast_against_each_other(kind: str) -> None:
    """One covariance for all rows, one loc for all rows, one set of logits for all rows."""
    whole = parameters(kind, 4, seed=5)
    y = torch.randn(4, 3, generator=seeded(2), dtype=F64)
    for shared in itertools.chain.from_iterable(
        itertools.combinations(whole, n) for n in range(1, len(whole))
    ):
        given = {n: a[0] if n in shared else a for n, a in whole.items()}
        dist = GaussianMixture(**given)
        full = {n: a[0].expand_as(a) if n in shared else a for n, a in whole.items()}
        assert dist.batch_shape == (4,)
        torch.testing.assert_close(dist.log_prob(y), in_torch(full).log_prob(y))


@each_kind
@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("distance", [0.0, 1.0, 30.0, 100.0, 1000.0, 1e6])
def test_log_prob_is_exact_far_out_and_at_an_offset(
    kind: str, distance: float, offset: float
) -> None:
    """Relative error 1e-13 of 60-digit arithmetic on the same rounded numbers."""
    given = parameters(kind)
    given["loc"] = given["loc"] + offset
    y = torch.tensor([1.0, -0.7, 0.4], dtype=F64) * distance + offset
    expected = exact_log_prob(y, given)
    assert GaussianMixture(**given).log_prob(y).item() == pytest.approx(expected, rel=1e-13)


@each_kind
@pytest.mark.parametrize("distance", [0.0, 1.0, 30.0, 1000.0])
def test_float32_keeps_six_digits(kind: str, distance: float) -> None:
    """Against 60-digit arithmetic on the numbers float32 holds; the dtype stays."""
    given = {name: a.float() for name, a in parameters(kind).items()}
    y = torch.tensor([1.0, -0.7, 0.4]) * distance
    got = GaussianMixture(**given).log_prob(y)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(exact_log_prob(y, given), rel=1e-6, abs=1e-6)


@each_kind
@pytest.mark.parametrize("distance", [30.0, 1000.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_gradients_stay_finite_far_out(kind: str, distance: float, dtype: torch.dtype) -> None:
    """The value is finite, so every gradient is."""
    given = {name: a.to(dtype).requires_grad_() for name, a in parameters(kind).items()}
    y = (torch.tensor([[1.0], [-1.0]], dtype=dtype) * distance).expand(2, 3).clone()
    y.requires_grad_()
    value = GaussianMixture(**given).log_prob(y).sum()
    assert math.isfinite(value.item())
    for g in torch.autograd.grad(value, [y, *given.values()]):
        assert bool(g.isfinite().all())


@each_correlated
def test_a_diagonal_factor_is_a_diagonal_mixture(kind: str) -> None:
    """With nothing off the diagonal every kind is the mixture of `scale`."""
    diagonal = parameters("scale")
    s = diagonal.pop("scale")
    factor = {
        "scale_tril": {"scale_tril": torch.diag_embed(s)},
        "precision_tril": {"precision_tril": torch.diag_embed(1 / s)},
        "low_rank": {"cov_factor": torch.zeros(3, 3, 1, dtype=F64), "cov_diag": s.square()},
    }[kind]
    got, want = GaussianMixture(**diagonal, **factor), GaussianMixture(**diagonal, scale=s)
    y = torch.randn(9, 3, generator=seeded(0), dtype=F64)
    torch.testing.assert_close(got.log_prob(y), want.log_prob(y))
    torch.testing.assert_close(got.scale, s)
    torch.testing.assert_close(got.covariance, want.covariance)
    torch.testing.assert_close(got.scale_tril, want.scale_tril)
    torch.testing.assert_close(got.squared_norm(), want.squared_norm())


@each_kind
def test_a_switched_off_component_changes_nothing(kind: str) -> None:
    """A logit of -inf is the mixture without that component, gradients too."""
    given = parameters(kind)
    off = {n: a.clone() for n, a in given.items()}
    off["logits"][1] = -INF
    off["loc"][1] = 1e3
    off = {n: a.requires_grad_() for n, a in off.items()}
    less = {n: a[[0, 2]] for n, a in given.items()}
    y = torch.randn(5, 3, generator=seeded(0), dtype=F64)
    value = GaussianMixture(**off).log_prob(y)
    torch.testing.assert_close(value.detach(), GaussianMixture(**less).log_prob(y))
    for g in torch.autograd.grad(value.sum(), list(off.values())):
        assert bool(g.isfinite().all()) and not bool(g[1].any())
    for got, want in (
        (GaussianMixture(**off).mean, GaussianMixture(**less).mean),
        (GaussianMixture(**off).covariance, GaussianMixture(**less).covariance),
    ):
        torch.testing.assert_close(got.detach(), want)


@each_kind
def test_log_prob_passes_gradcheck_in_all_parameters(kind: str) -> None:
    """y, logits, loc and the factors, with a batch; also second derivatives."""
    given = parameters(kind, 2, k=2, d=2)
    y = torch.randn(2, 2, generator=seeded(0), dtype=F64)

    def f(y: Tensor, *tensors: Tensor) -> Tensor:
        named = dict(zip(given, tensors, strict=True))
        return GaussianMixture(**named, validate_args=False).log_prob(y)

    inputs = [a.clone().requires_grad_() for a in (y, *given.values())]
    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


@pytest.mark.parametrize("kind", ["scale_tril", "precision_tril"])
def test_nothing_above_the_diagonal_gets_a_gradient(kind: str) -> None:
    """The upper triangle is no parameter."""
    given = parameters(kind)
    factor = given[kind].requires_grad_()
    dist = GaussianMixture(**given)
    y = torch.randn(5, 3, generator=seeded(0), dtype=F64)
    for value in (dist.log_prob(y), dist.stddev, dist.marginal([2, 0]).log_prob(y[:, :2])):
        (g,) = torch.autograd.grad(value.sum(), factor, retain_graph=True)
        assert bool(g.tril().any()) and not bool(g.triu(1).any())


def test_precision_likelihood_solves_no_triangular_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """y -> P'(y - loc) is one product, forward and backward; every solver is made to fail."""
    given = {n: a.requires_grad_() for n, a in parameters("precision_tril", 4).items()}
    y = torch.randn(4, 3, generator=seeded(0), dtype=F64, requires_grad=True)
    expected = in_torch(given).log_prob(y.detach()).detach()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a solver was called")

    for name in ("solve_triangular", "solve", "cholesky", "cholesky_ex", "inv", "qr"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    for name in ("triangular_solve", "cholesky_solve", "cholesky_inverse", "inverse"):
        monkeypatch.setattr(torch, name, refuse)
    monkeypatch.setattr(mdn.distribution._covariance, "solve_triangular", refuse)
    dist = GaussianMixture(**given)
    by_function = full_gaussian_mixture_log_prob(y, *given.values())
    for value in (dist.log_prob(y), by_function):
        torch.testing.assert_close(value.detach(), expected)
        torch.autograd.grad(value.sum(), [y, *given.values()], retain_graph=True)
    assert dist.responsibilities(y).shape == (4, 3)
    with pytest.raises(AssertionError, match="a solver was called"):  # the patch is in place
        dist.sample()


# --- the function -------------------------------------------------------------------------------


def function_inputs(*batch: int, k: int = 2, d: int = 2) -> list[Tensor]:
    given = parameters("precision_tril", *batch, k=k, d=d)
    y = torch.randn(*batch, d, generator=seeded(3), dtype=F64)
    return [y, given["logits"], given["loc"], given["precision_tril"]]


def test_function_matches_the_distribution_and_ignores_the_upper_triangle() -> None:
    """The same number as GaussianMixture(precision_tril=...).log_prob."""
    y, logits, loc, factor = function_inputs(6, k=3, d=3)
    want = GaussianMixture(logits, loc, precision_tril=factor).log_prob(y)
    full = factor + torch.full_like(factor, 9.0).triu(1)
    for p in (factor, full):
        torch.testing.assert_close(full_gaussian_mixture_log_prob(y, logits, loc, p), want)
    shared = full_gaussian_mixture_log_prob(y, logits[0], loc[0], factor[0])
    want = GaussianMixture(logits[0], loc[0], precision_tril=factor[0]).log_prob(y)
    torch.testing.assert_close(shared, want)


def test_function_passes_gradcheck_and_gradgradcheck() -> None:
    """First and second derivatives in all four arguments."""
    inputs = [a.requires_grad_() for a in function_inputs(2)]
    assert gradcheck(full_gaussian_mixture_log_prob, inputs)
    assert gradgradcheck(full_gaussian_mixture_log_prob, inputs)


def test_function_under_vmap_is_a_loop() -> None:
    """vmap over rows, over some arguments only, and of the gradient."""
    y, logits, loc, factor = inputs = function_inputs(5, k=3, d=3)
    f = full_gaussian_mixture_log_prob
    loop = torch.stack([f(*row) for row in zip(*inputs, strict=True)])
    torch.testing.assert_close(torch.vmap(f)(*inputs), loop)
    shared = torch.vmap(f, in_dims=(0, None, None, None))(y, logits[0], loc[0], factor[0])
    torch.testing.assert_close(shared, f(y, logits[0], loc[0], factor[0]))
    by_logits = torch.vmap(f, in_dims=(None, 0, None, None))(y[0], logits, loc[0], factor[0])
    torch.testing.assert_close(by_logits, torch.stack([f(y[0], a, loc[0], factor[0])
                                                       for a in logits]))  # fmt: skip
    grads = torch.vmap(torch.func.grad(f, argnums=(0, 1, 2, 3)))(*inputs)
    leaves = [a.clone().requires_grad_() for a in inputs]
    for got, want in zip(grads, torch.autograd.grad(f(*leaves).sum(), leaves), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_function_under_torch_func_jacobians() -> None:
    """jacrev and jacfwd agree with each other, and the Hessian with autograd's."""
    y, logits, loc, factor = function_inputs(k=2, d=2)
    f = full_gaussian_mixture_log_prob
    args = (0, 1, 2, 3)
    reverse = torch.func.jacrev(f, argnums=args)(y, logits, loc, factor)
    forward = torch.func.jacfwd(f, argnums=args)(y, logits, loc, factor)
    for a, b in zip(reverse, forward, strict=True):
        torch.testing.assert_close(a, b)
    hessian = torch.func.hessian(f)(y, logits, loc, factor)
    want = torch.autograd.functional.hessian(lambda v: f(v, logits, loc, factor), y)
    torch.testing.assert_close(hessian, want)


def test_function_compiles_as_one_graph() -> None:
    """torch.compile without a graph break gives the same value and gradients."""
    inputs = [a.requires_grad_() for a in function_inputs(4, k=3, d=3)]
    compiled = torch.compile(full_gaussian_mixture_log_prob, backend="aot_eager", fullgraph=True)
    got, want = compiled(*inputs), full_gaussian_mixture_log_prob(*inputs)
    torch.testing.assert_close(got, want)
    pairs = (torch.autograd.grad(v.sum(), inputs) for v in (got, want))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({3: [1.0]}, TypeError, r"precision_tril must be a torch.Tensor; got list"),
        ({3: torch.ones(2, 2)}, ValueError, r"precision_tril must have shape \(\*, K, D, D\); got"),
        ({3: torch.ones(2, 2, 3)}, ValueError, r"precision_tril must have shape \(\*, K, D, D\)"),
        ({3: torch.ones(3, 2, 2)}, ValueError, r"precision_tril must have shape \(\*, 2, 2, 2\)"),
        ({3: torch.ones(2, 3, 3)}, ValueError, r"precision_tril must have shape \(\*, 2, 2, 2\)"),
        ({1: torch.ones(3)}, ValueError, r"logits must have shape \(\*, 2\)"),
        ({2: torch.ones(2)}, ValueError, r"loc must have shape \(\*, K, D\)"),
        ({0: torch.ones(5, 3)}, ValueError, r"y must have shape \(\*, 2\); got \(5, 3\)"),
        ({0: torch.ones(4, 2), 1: torch.ones(3, 2)}, ValueError, "batch axes do not broadcast"),
        ({1: torch.full((2,), -INF)}, ValueError, "all 2 components of the mixture have logit"),
    ],
)
def test_function_names_the_argument_that_does_not_fit(
    change: dict, error: type[Exception], match: str
) -> None:
    """One sentence: which argument, what was expected, what was found."""
    args: list = [torch.zeros(2), torch.zeros(2), torch.zeros(2, 2), torch.eye(2).repeat(2, 1, 1)]
    for at, value in change.items():
        args[at] = value
    with pytest.raises(error, match=match):
        full_gaussian_mixture_log_prob(*args)


# --- moments ------------------------------------------------------------------------------------


@each_kind
def test_moments_are_those_of_the_definitions(kind: str) -> None:
    """Mean, covariance within plus between, covariance_matrix, scale and stddev in NumPy."""
    given = parameters(kind, 4)
    dist = GaussianMixture(**given)
    cov, loc = matrices(given), given["loc"].numpy()
    w = scipy.special.softmax(given["logits"].numpy(), axis=-1)
    mean = np.einsum("nk,nkd->nd", w, loc)
    gap = loc - mean[:, None]
    total = np.einsum("nk,nkij->nij", w, cov) + np.einsum("nk,nki,nkj->nij", w, gap, gap)
    np.testing.assert_allclose(dist.covariance_matrix, cov, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(dist.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(dist.covariance, total, rtol=1e-11, atol=1e-12)
    diagonal = np.diagonal(total, axis1=-2, axis2=-1)
    np.testing.assert_allclose(dist.variance, diagonal, rtol=1e-11)
    np.testing.assert_allclose(dist.stddev, diagonal**0.5, rtol=1e-11)
    scale = np.diagonal(cov, axis1=-2, axis2=-1) ** 0.5
    np.testing.assert_allclose(dist.scale, scale, rtol=1e-11)
    root = dist.scale_tril
    np.testing.assert_allclose(root, np.linalg.cholesky(cov), rtol=1e-9, atol=1e-11)


@each_kind
def test_skewness_and_kurtosis_are_those_of_the_marginals(kind: str) -> None:
    """Each dimension has the shape of its own univariate mixture."""
    dist = make(kind, 4)
    for d in range(3):
        alone = GaussianMixture(dist.logits, dist.loc[..., [d]], dist.scale[..., [d]])
        torch.testing.assert_close(dist.skewness[..., [d]], alone.skewness)
        torch.testing.assert_close(dist.kurtosis[..., [d]], alone.kurtosis)


@each_kind
def test_moments_are_differentiable_in_every_kind(kind: str) -> None:
    """gradcheck of mean, stddev, covariance and the factor."""
    given = parameters(kind, k=2, d=2)

    def f(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(given, tensors, strict=True))
        dist = GaussianMixture(**named, validate_args=False)
        return dist.mean, dist.stddev, dist.covariance, dist.scale_tril

    assert gradcheck(f, [a.clone().requires_grad_() for a in given.values()])


@pytest.mark.parametrize("size", [1e-4, 1e-6])
def test_a_nearly_singular_low_rank_covariance_has_a_factor_in_float32(size: float) -> None:
    """Scales 1e4 and 1e6 times apart: the factor squared would not be positive definite."""
    factor = torch.tensor([[[1.0], [2.0], [0.5]]])
    dist = GaussianMixture(
        torch.zeros(1), torch.zeros(1, 3), cov_factor=factor, cov_diag=torch.full((1, 3), size**2)
    )
    root = [mp.mpf(v) for v in factor.flatten().tolist()]
    exact = mp.matrix(3, 3)
    for i, j in itertools.product(range(3), range(3)):
        exact[i, j] = root[i] * root[j] + (mp.mpf(size) ** 2 if i == j else 0)
    exact = np.array(mp.cholesky(exact).tolist(), dtype=float)
    np.testing.assert_allclose(dist.scale_tril[0], exact, rtol=2e-3, atol=1e-7)
    assert bool(dist.sample((100,), generator=seeded(0)).isfinite().all())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["half", "bfloat16"])
def test_half_precision_does_everything_in_its_dtype(kind: str, dtype: torch.dtype) -> None:
    """Computed wider inside; to the digits of the half on the numbers it holds."""
    given = {n: a.to(dtype) for n, a in parameters(kind, 2, d=2).items()}
    narrow = GaussianMixture(**given)
    wide = GaussianMixture(**{n: a.double() for n, a in given.items()})
    y = torch.tensor([[0.5, -0.25], [1.0, 2.0]], dtype=dtype)
    digits = 8 * torch.finfo(dtype).eps
    for f in (
        lambda d, y: d.log_prob(y),
        lambda d, y: d.responsibilities(y),
        lambda d, y: d.stddev,
        lambda d, y: d.scale_tril,
        lambda d, y: d.marginal([1, 0]).scale,
        lambda d, y: d.condition(1, y[:, 1:]).loc,
        lambda d, y: d.affine(1.0, -2.0).scale,
        lambda d, y: d.merge(1).scale,
        lambda d, y: d.squared_norm(),
        lambda d, y: d.entropy_bounds().lower,
        lambda d, y: GaussianMixture.pool([d, d]).stddev,
    ):
        got = f(narrow, y)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), f(wide, y.double()), rtol=digits, atol=digits)
    for value in (narrow.sample((3,), generator=seeded(0)), narrow.entropy(),
                  narrow.rsample((3,), generator=seeded(0)), narrow.energy_score(y),
                  *narrow.modes()):  # fmt: skip
        assert value.dtype == dtype


@each_kind
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["half", "bfloat16"])
def test_half_precision_has_the_gradients_and_moments_of_float64(
    kind: str, size: float, dtype: torch.dtype
) -> None:
    """On the numbers it holds: gradients finite where they are below 100, moments to its digits."""
    unit = {"precision_tril": 1 / size, "cov_diag": size**2, "logits": 1.0}
    given = {n: (unit.get(n, size) * a).to(dtype) for n, a in parameters(kind, 5, d=3).items()}
    y = (2 * size * torch.randn(5, 3, generator=seeded(1))).to(dtype)

    def results(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        leaves = {n: a.to(dtype).requires_grad_() for n, a in given.items()}
        dist = GaussianMixture(**leaves)
        grads = torch.autograd.grad(dist.log_prob(y.to(dtype)).sum(), list(leaves.values()))
        mean = dist.mean - 0.5 * dist.stddev
        moved = dist.rescale(1.5, 0.5, mean=mean, weight_power=0.5).mean
        values = [dist.mean, dist.stddev, dist.skewness, dist.kurtosis, dist.covariance, moved]
        return list(grads), values

    eps = torch.finfo(dtype).eps
    (grads, values), (exact, expected) = results(dtype), results(F64)
    for got, true in zip(grads, exact, strict=True):
        assert got.dtype == dtype
        small = true.abs() < 100
        torch.testing.assert_close(got.double()[small], true[small], rtol=8 * eps, atol=8 * eps)
    for got, true in zip(values, expected, strict=True):
        assert got.dtype == dtype
        # where the half can hold it
        held = true.abs() < torch.finfo(dtype).max
        scale = true.abs().max().item() if true.ndim == 3 else size
        tol = 4 * eps * scale
        torch.testing.assert_close(got.double()[held], true[held], rtol=4 * eps, atol=tol)


@each_kind
def test_a_target_or_value_of_another_dtype_is_taken(kind: str) -> None:
    """Results of log_prob have the wider dtype; a conditioned mixture keeps its own."""
    given = parameters(kind)
    for own, other in itertools.permutations((torch.float32, F64)):
        dist = GaussianMixture(**given).to(own)
        assert dist.log_prob(torch.zeros(3, dtype=other)).dtype == F64
        for value in (torch.zeros(1, dtype=other), torch.zeros(9, 1, dtype=other)):
            left = dist.condition(1, value)
            assert left.loc.dtype == left.scale.dtype == own
            assert left.sample(generator=seeded(0)).dtype == own


# --- marginal, condition, affine, pool ----------------------------------------------------------


def subsets(d: int) -> list[tuple[int, ...]]:
    """Ordered choices that leave something: every subset, and some in falling order."""
    chosen = [c for n in range(1, d) for c in itertools.combinations(range(d), n)]
    return chosen + [c[::-1] for c in chosen if len(c) > 1]


@each_kind
@pytest.mark.parametrize("known", subsets(4), ids=str)
def test_condition_and_marginal_are_the_closed_forms_of_a_joint_normal(
    kind: str, known: tuple[int, ...]
) -> None:
    """mu_a + S_ab S_bb^-1 (v - mu_b) and S_aa - S_ab S_bb^-1 S_ba, for every split of 4."""
    given = parameters(kind, k=1, d=4, seed=7)
    dist = GaussianMixture(**given)
    mu, cov = given["loc"][0].numpy(), matrices(given)[0]
    b, a = list(known), [i for i in range(4) if i not in known]
    value = torch.randn(len(b), generator=seeded(1), dtype=F64)
    gain = cov[np.ix_(a, b)] @ np.linalg.inv(cov[np.ix_(b, b)])
    left = dist.condition(b, value)
    np.testing.assert_allclose(left.mean, mu[a] + gain @ (value.numpy() - mu[b]), rtol=1e-10)
    schur = cov[np.ix_(a, a)] - gain @ cov[np.ix_(b, a)]
    np.testing.assert_allclose(left.covariance, schur, rtol=1e-9, atol=1e-11)
    part = dist.marginal(b)
    np.testing.assert_allclose(part.mean, mu[b], rtol=1e-12)
    np.testing.assert_allclose(part.covariance, cov[np.ix_(b, b)], rtol=1e-10, atol=1e-11)


@each_kind
@pytest.mark.parametrize("known", subsets(3), ids=str)
def test_condition_is_joint_over_marginal_in_a_mixture(kind: str, known: tuple[int, ...]) -> None:
    """log p(a | b) = log p(a, b) - log p(b), rows of values against one mixture."""
    given = parameters(kind)
    dist = GaussianMixture(**given)
    rest = [i for i in range(3) if i not in known]
    y = torch.randn(8, 3, generator=seeded(4), dtype=F64) * 2
    left = dist.condition(known, y[:, list(known)])
    assert left.batch_shape == (8,) and left.event_shape == (len(rest),)
    part = dist.marginal(known)
    ratio = in_torch(given).log_prob(y) - part.log_prob(y[:, list(known)])
    torch.testing.assert_close(left.log_prob(y[:, rest]), ratio, rtol=1e-9, atol=1e-9)
    cov = torch.from_numpy(matrices(given))[:, known][..., known]
    want = {"logits": given["logits"], "loc": given["loc"][:, known]}
    want["scale_tril"] = torch.linalg.cholesky(cov)
    torch.testing.assert_close(part.log_prob(y[:, known]), in_torch(want).log_prob(y[:, known]))


@each_kind
def test_condition_pairs_a_batch_of_values_with_a_batch_of_mixtures(kind: str) -> None:
    """Row i of the values meets row i of the mixtures; further leading axes broadcast."""
    dist = make(kind, 4)
    value = torch.randn(5, 4, 2, generator=seeded(0), dtype=F64)
    left = dist.condition([2, 0], value)
    assert left.batch_shape == (5, 4)
    for i, j in itertools.product(range(5), range(4)):
        alone = dist[j].condition([2, 0], value[i, j])
        torch.testing.assert_close(left[i, j].logits, alone.logits)
        torch.testing.assert_close(left[i, j].loc, alone.loc)
        torch.testing.assert_close(left[i, j].scale, alone.scale)


@each_kind
@pytest.mark.parametrize("what", ["marginal", "condition"])
def test_marginal_and_condition_pass_gradcheck(kind: str, what: str) -> None:
    """In all parameters, and in the value that is known."""
    given = parameters(kind, k=2)
    value = torch.tensor([0.3], dtype=F64)
    y = torch.tensor([-0.4, 0.8], dtype=F64)

    def f(value: Tensor, *tensors: Tensor) -> Tensor:
        dist = GaussianMixture(**dict(zip(given, tensors, strict=True)), validate_args=False)
        new = dist.marginal([2, 0]) if what == "marginal" else dist.condition([1], value)
        return new.log_prob(y)

    inputs = [a.clone().requires_grad_() for a in (value, *given.values())]
    assert gradcheck(f, inputs)


def test_condition_keeps_its_digits_where_a_difference_of_covariances_would_not() -> None:
    """Two dimensions alike to 1e-7: the rest has the scale of the second diagonal entry."""
    root = torch.tensor([[[1.0, 0.0], [1.0, 1e-7]]], dtype=F64)
    dist = GaussianMixture(torch.zeros(1, dtype=F64), torch.zeros(1, 2, dtype=F64), scale_tril=root)
    left = dist.condition([0], torch.tensor([0.5], dtype=F64))
    assert left.scale.item() == pytest.approx(1e-7, rel=1e-8)
    assert left.mean.item() == pytest.approx(0.5, abs=1e-15)


@each_kind
@pytest.mark.parametrize(
    "c", [-2.0, 1e6, [1.0, -3.0, 1e-5], [[0.5, -0.5, 2.0]] * 4], ids=["one", "big", "dims", "rows"]
)
def test_affine_is_a_change_of_variable(kind: str, c: float | list) -> None:
    """log p'(b + c y) = log p(y) - sum log|c|; the kind of covariance stays."""
    given = parameters(kind, 4)
    dist = GaussianMixture(**given)
    b = torch.tensor([0.4, -2.0, 30.0], dtype=F64)
    c = torch.tensor(c, dtype=F64)
    moved = dist.affine(b, c)
    y = torch.randn(6, 4, 3, generator=seeded(1), dtype=F64)
    jacobian = c.abs().log().expand(4, 3).sum(-1)
    want = dist.log_prob(y) - jacobian
    torch.testing.assert_close(moved.log_prob(b + c * y), want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.mean, b + c * dist.mean)
    stretch = c.expand(4, 3)
    expected = stretch[:, :, None] * dist.covariance * stretch[:, None, :]
    torch.testing.assert_close(moved.covariance, expected)
    assert set(moved.numpy()) == set(given)
    for name in set(given) & {"scale_tril", "precision_tril"}:
        factor = torch.from_numpy(moved.numpy()[name])
        assert not bool(factor.triu(1).any()) and bool((factor.diagonal(0, -2, -1) > 0).all())


@each_kind
def test_affine_keeps_gradients(kind: str) -> None:
    """In shift and scale, negative ones too, and in the parameters."""
    given = parameters(kind, k=2, d=2)
    y = torch.tensor([0.3, 0.1], dtype=F64)

    def f(b: Tensor, c: Tensor, *tensors: Tensor) -> Tensor:
        dist = GaussianMixture(**dict(zip(given, tensors, strict=True)), validate_args=False)
        return dist.affine(b, c).log_prob(y)

    change = torch.tensor([0.2, 1.0], dtype=F64), torch.tensor([1.3, -0.7], dtype=F64)
    assert gradcheck(f, [a.clone().requires_grad_() for a in (*change, *given.values())])


@each_kind
def test_linear_is_a_change_of_variable(kind: str) -> None:
    """log p'(A y) = log p(y) - log|det A|; mean A m, covariance A C A'; gradients flow."""
    given = parameters(kind, 4)
    dist = GaussianMixture(**given)
    a = torch.tensor([[0.3, -2.0, 0.0], [1.0, 0.5, 3.0], [0.0, 0.0, -1e-3]], dtype=F64)
    moved = dist.linear(a)
    y = torch.randn(6, 4, 3, generator=seeded(1), dtype=F64)
    want = dist.log_prob(y) - torch.linalg.slogdet(a).logabsdet
    torch.testing.assert_close(moved.log_prob(y @ a.T), want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.mean, dist.mean @ a.T)
    torch.testing.assert_close(moved.covariance, a @ dist.covariance @ a.T)
    one = dist.marginal([0, 1]).linear([[1.0, 1.0], [1.0, -1.0]]).marginal(0)  # y0 + y1
    variance = dist.covariance[:, :2, :2].sum((-2, -1))
    torch.testing.assert_close(one.variance[:, 0], variance)

    def f(*tensors: Tensor) -> Tensor:
        named = dict(zip(given, tensors, strict=True))
        return GaussianMixture(**named, validate_args=False).linear(a).log_prob(y[0])

    assert gradcheck(f, [value.clone().requires_grad_() for value in given.values()])


@pytest.mark.parametrize(
    "matrix, message",
    [
        (torch.eye(2), r"matrix must have shape \(3, 3\); got \(2, 2\)"),
        (torch.ones(3, 3), "matrix must be finite and not singular"),
        (torch.full((3, 3), math.nan), "matrix must be finite and not singular"),
    ],
)
def test_linear_refuses_what_has_no_density(matrix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("scale_tril").linear(matrix)


@each_kind
def test_rescale_narrows_down_to_the_floor(kind: str) -> None:
    """Components far above the floor by the factor, those below it not at all."""
    dist = make(kind, 4)
    torch.testing.assert_close(
        dist.rescale(0.5, min_scale=1e-9).covariance_matrix, 0.25 * dist.covariance_matrix
    )
    if kind != "scale":
        kept = dist.rescale(0.5, min_scale=1e9)
        torch.testing.assert_close(kept.covariance_matrix, dist.covariance_matrix)
        tril = torch.tensor([[[1.0, 0.0], [0.7, 0.1]]], dtype=F64)  # y1 given y0: 0.1
        one = GaussianMixture(
            torch.zeros(1, dtype=F64), torch.zeros(1, 2, dtype=F64), scale_tril=tril
        )
        found = one.rescale(0.1, min_scale=0.05).covariance_matrix
        torch.testing.assert_close(found, 0.25 * one.covariance_matrix)


@pytest.mark.parametrize("first, second", list(itertools.combinations_with_replacement(KINDS, 2)))
def test_pool_of_any_two_kinds_is_logaddexp(first: str, second: str) -> None:
    """log(w p + (1 - w) q); a pool of one kind keeps it, one of two is given by scale_tril."""
    p, q = make(first, 4, k=2, seed=1), make(second, 4, k=3, seed=2)
    both = GaussianMixture.pool([p, q], weights=[1.0, 3.0])
    y = torch.randn(4, 3, generator=seeded(0), dtype=F64) * 2
    want = torch.logaddexp(p.log_prob(y) + math.log(0.25), q.log_prob(y) + math.log(0.75))
    torch.testing.assert_close(both.log_prob(y), want, rtol=1e-10, atol=1e-10)
    assert both.n_components == 5
    own = set(p.numpy()) if first == second else {"logits", "loc", "scale_tril"}
    assert set(both.numpy()) == own
    turned = GaussianMixture.pool([q, p], weights=[3.0, 1.0])
    torch.testing.assert_close(turned.log_prob(y), want, rtol=1e-10, atol=1e-10)


def test_pool_of_different_ranks_and_of_a_broadcast_batch() -> None:
    """Low-rank mixtures of ranks 1 and 2, one of them without a batch."""
    p = make("low_rank", 4)
    one = GaussianMixture(
        torch.zeros(1, dtype=F64),
        torch.ones(1, 3, dtype=F64),
        cov_factor=torch.tensor([[[1.0], [-2.0], [0.5]]], dtype=F64),
        cov_diag=torch.full((1, 3), 0.3, dtype=F64),
    )
    y = torch.randn(4, 3, generator=seeded(0), dtype=F64)
    both = GaussianMixture.pool([p, one])
    want = torch.logaddexp(p.log_prob(y), one.log_prob(y)) - math.log(2)
    torch.testing.assert_close(both.log_prob(y), want)


# --- samples ------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_every_projection_of_the_samples_follows_its_cdf(kind: str, dtype: torch.dtype) -> None:
    """a'Y is a univariate normal mixture; a right sampler fails for one seed in 1e6 / 48."""
    given = parameters(kind, seed=2)
    dist = GaussianMixture(**{n: v.to(dtype) for n, v in given.items()})
    y = dist.sample((20_000,), generator=seeded(8)).double().numpy()
    w = scipy.special.softmax(given["logits"].numpy())
    for a in np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 2], [0, 2, -1.0]]):
        loc = given["loc"].numpy() @ a
        scale = np.sqrt(np.einsum("i,kij,j->k", a, matrices(given), a))
        u = scipy.stats.norm.cdf((y @ a)[:, None], loc, scale) @ w
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-6


@each_kind
def test_sample_moments_are_the_moments(kind: str) -> None:
    """Within 6 standard errors, 9 + 3 numbers: a right sampler fails for one seed in 4e7."""
    dist = make(kind, 2, seed=4)
    n = 40_000
    y = dist.sample((n,), generator=seeded(1))
    assert y.shape == (n, 2, 3)
    gap = (y.mean(0) - dist.mean).abs() / (dist.stddev / n**0.5)
    assert float(gap.max()) < 6
    off = y - dist.mean
    products = off.unsqueeze(-1) * off.unsqueeze(-2)
    gap = (products.mean(0) - dist.covariance).abs() / (products.std(0) / n**0.5)
    assert float(gap.max()) < 6


@each_kind
def test_sample_shapes_generator_and_no_gradient(kind: str) -> None:
    """sample_shape + batch + event; reproducible; the global generator is left alone."""
    given = {n: a.requires_grad_() for n, a in parameters(kind, 2, 4).items()}
    dist = GaussianMixture(**given)
    before = torch.get_rng_state()
    for draw in (dist.sample, dist.rsample):
        for shape in ((), (5,), (2, 0), (3, 2)):
            assert draw(shape, generator=seeded(0)).shape == (*shape, 2, 4, 3)
        one, two = (draw((3,), generator=seeded(6)) for _ in range(2))
        assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
    assert not dist.sample(generator=seeded(0)).requires_grad
    assert dist.rsample(generator=seeded(0)).requires_grad
    same = dist.rsample((3,), generator=seeded(6)).detach()
    assert torch.equal(same, dist.sample((3,), generator=seeded(6)))


def rosenblatt_inverse(dist: GaussianMixture, u: Tensor) -> Tensor:
    """y with u_1 = F(y_1) and u_2 = F(y_2 | y_1), of one mixture in the plane; u is (2,)."""
    first = dist.marginal(0).icdf(u[0])
    second = dist.condition(0, first).icdf(u[1])
    return torch.cat([first, second])


@each_kind
def test_rsample_moves_as_the_quantiles_do(kind: str) -> None:
    """dy/dtheta at a fixed place u, in D = 1 and 2, against differences of quantiles, to 1e-6."""
    for d in (1, 2):
        given = parameters(kind, k=3, d=d, seed=6)
        leaves = {n: a.clone().requires_grad_() for n, a in given.items()}
        draws = GaussianMixture(**leaves).rsample((4,), generator=seeded(2))

        def inverse(tensors: Parameters, u: Tensor, d: int = d) -> Tensor:
            dist = GaussianMixture(**tensors, validate_args=False)
            return dist.icdf(u[0]) if d == 1 else rosenblatt_inverse(dist, u)

        exact = GaussianMixture(**given)
        for y in draws:
            at = y.detach()
            u = [exact.marginal(0).cdf(at[:1])]
            if d == 2:
                u.append(exact.condition(0, at[:1]).cdf(at[1:]))
            u = torch.stack(u)
            torch.testing.assert_close(inverse(given, u), at, rtol=1e-9, atol=1e-9)
            for i in range(d):
                grads = torch.autograd.grad(y[i], list(leaves.values()), retain_graph=True)
                for name, g in zip(leaves, grads, strict=True):
                    for index in itertools.product(*map(range, g.shape)):
                        if name.endswith("tril") and index[-1] > index[-2]:
                            continue
                        step, ends = 1e-5, []
                        for sign in (1, -1):
                            moved = {n: a.clone() for n, a in given.items()}
                            moved[name][index] += sign * step
                            ends.append(inverse(moved, u)[i].item())
                        slope = (ends[0] - ends[1]) / (2 * step)
                        assert g[index].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@each_kind
@pytest.mark.parametrize("d", [1, 2])
def test_rsample_gradients_of_an_expectation_match_quadrature(kind: str, d: int) -> None:
    """d E[f] / d theta for every parameter, against differences of Gauss-Hermite quadrature.

    Within 7 standard errors from 64 blocks: some 20 numbers, each off by chance once in 4e8.
    """
    given = parameters(kind, k=2, d=d, seed=9)

    def f(y: Tensor) -> Tensor:
        return torch.tanh(y[..., 0] + 0.5 * y[..., -1]) + 0.1 * y[..., 0] * y[..., -1]

    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    grid = np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), -1).reshape(-1, d)
    mass = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * d), -1).reshape(-1, d), -1)

    def expectation(tensors: Parameters) -> float:
        w = scipy.special.softmax(tensors["logits"].numpy())
        roots = np.linalg.cholesky(matrices(tensors))
        points = tensors["loc"].numpy()[:, None] + np.einsum("kij,gj->kgi", roots, grid)
        return float(w @ (f(torch.from_numpy(points)).numpy() @ mass))

    blocks, n = 64, 1000
    leaves = {
        name: a.expand(blocks, *a.shape).clone().requires_grad_() for name, a in given.items()
    }
    y = GaussianMixture(**leaves).rsample((n,), generator=seeded(5))
    grads = torch.autograd.grad(f(y).mean(0).sum(), list(leaves.values()))
    for name, g in zip(leaves, grads, strict=True):
        value, error = g.mean(0), g.std(0) / blocks**0.5
        for index in itertools.product(*map(range, value.shape)):
            if name.endswith("tril") and index[-1] > index[-2]:
                assert not bool(g[(slice(None), *index)].any())
                continue
            ends, step = [], 1e-4
            for sign in (1, -1):
                moved = {m: a.clone() for m, a in given.items()}
                moved[name][index] += sign * step
                ends.append(expectation(moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert abs(value[index].item() - slope) < 7 * error[index].item() + 1e-6


@each_kind
def test_rsample_of_one_gaussian_is_the_reparametrised_draw(kind: str) -> None:
    """K = 1: y = loc + root @ noise, so dy/dloc = 1 and dy/droot = noise, and logits do nothing."""
    given = {n: a.requires_grad_() for n, a in parameters(kind, k=1, d=2).items()}
    dist = GaussianMixture(**given)
    y = dist.rsample((6,), generator=seeded(0))
    root = dist.scale_tril[0]
    noise = torch.linalg.solve(root.detach(), (y - dist.loc[0]).detach().mT).mT
    direct = dist.loc[0] + noise @ root.mT
    weight = torch.randn(6, 2, generator=seeded(1), dtype=F64)
    got = torch.autograd.grad((weight * y).sum(), list(given.values()), retain_graph=True)
    want = torch.autograd.grad((weight * direct).sum(), list(given.values())[1:])
    assert float(got[0].abs().max()) < 1e-12
    for a, b in zip(got[1:], want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


# --- views and files ----------------------------------------------------------------------------


@each_kind
def test_expand_index_detach_and_copy_keep_the_kind(kind: str) -> None:
    """The parameters of the part are the part of the parameters, bit for bit."""
    given = {n: a.requires_grad_() for n, a in parameters(kind, 2, 4).items()}
    dist = GaussianMixture(**given)
    y = torch.randn(2, 4, 3, generator=seeded(0), dtype=F64)
    wide = dist.expand((5, 2, 4))
    assert wide.batch_shape == (5, 2, 4) and wide.loc.data_ptr() == dist.loc.data_ptr()
    torch.testing.assert_close(wide.log_prob(y), dist.log_prob(y).expand(5, 2, 4))
    indices: list = [0, -1, (1, 2), slice(1, None), (slice(None), [0, 3]), (slice(None), -1)]
    for index in indices:
        part = dist[index]
        torch.testing.assert_close(part.log_prob(y[index]), dist.log_prob(y)[index])
        for name in names_of(given):
            assert np.array_equal(part.numpy()[name], dist.numpy()[name][index])
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    torch.testing.assert_close(dist[mask].log_prob(y[mask]), dist.log_prob(y)[mask])
    assert not dist.detach().log_prob(y).requires_grad
    twin = copy.deepcopy(dist.detach())
    assert torch.equal(twin.log_prob(y), dist.log_prob(y))
    for new in (wide, dist[0], dist.detach(), twin):
        assert set(new.numpy()) == set(given)


@each_kind
def test_to_and_numpy(kind: str) -> None:
    """Every parameter in the dtype asked for, as arrays under the names they were given by."""
    given = parameters(kind, 4)
    dist = GaussianMixture(**given)
    arrays = dist.numpy()
    assert list(arrays) == list(given)
    for name in ("loc", *names_of(given)):
        np.testing.assert_array_equal(arrays[name], given[name])
    np.testing.assert_allclose(np.exp(arrays["logits"]).sum(-1), 1.0)
    narrow = dist.to(torch.float32)
    assert all(a.dtype == np.float32 for a in narrow.numpy().values())
    y = torch.zeros(4, 3)
    for value in (
        narrow.log_prob(y),
        narrow.responsibilities(y),
        narrow.mean,
        narrow.stddev,
        narrow.covariance,
        narrow.covariance_matrix,
        narrow.scale_tril,
        narrow.sample(generator=seeded(0)),
        narrow.rsample(generator=seeded(0)),
        narrow.squared_norm(),
        narrow.entropy(),
        *narrow.entropy_bounds(),
        narrow.energy_score(y),
        *narrow.modes(),
        narrow.marginal([2, 0]).scale,
        narrow.condition(1, y[:, :1]).loc,
        narrow.merge(2).scale_tril,
        narrow.affine(1.0, -2.0).scale,
        mdn.distribution.divergence(narrow, narrow).upper_bound,
    ):
        assert value.dtype == torch.float32
    torch.testing.assert_close(narrow.log_prob(y).double(), dist.log_prob(y.double()), rtol=1e-5,
                               atol=1e-5)  # fmt: skip


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (2, 4)], ids=["one", "batch"])
def test_load_of_save_is_the_same_mixture(
    kind: str, dtype: torch.dtype, batch: tuple, tmp_path: Path
) -> None:
    """Bit for bit, and of the same kind."""
    dist = make(kind, *batch).to(dtype)
    mdn.save(dist, tmp_path / "m.mdn")
    same = mdn.load(tmp_path / "m.mdn")
    assert isinstance(same, GaussianMixture) and same.batch_shape == batch
    for name, a in dist.numpy().items():
        assert same.numpy()[name].dtype == a.dtype
        assert np.array_equal(same.numpy()[name], a)
    y = torch.randn(*batch, 3, generator=seeded(0), dtype=dtype)
    assert torch.equal(same.log_prob(y), dist.log_prob(y))


# --- modes and energy score ---------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("d", [2, 3])
def test_modes_are_stationary_and_their_neighbours_are_lower(kind: str, d: int) -> None:
    """Gradient 0 in units of the scale; 200 directions at 1e-3 scales give a lower density."""
    dist = make(kind, 6, k=4, d=d, seed=d)
    modes = dist.modes()
    real = ~modes.log_density.isnan()
    assert bool(real[:, 0].all()) and torch.equal(modes.loc.isnan().any(-1), ~real)
    around = torch.randn(200, d, generator=seeded(0), dtype=F64)
    around = 1e-3 * around / around.norm(dim=-1, keepdim=True)
    for i in range(6):
        heights = modes.log_density[i][real[i]]
        assert torch.equal(heights, heights.sort(descending=True).values)
        for at, height in zip(modes.loc[i][real[i]], heights, strict=True):
            at.requires_grad_()
            value = dist[i].log_prob(at)
            (slope,) = torch.autograd.grad(value, at)
            assert value.item() == pytest.approx(height.item(), abs=1e-10)
            assert float(slope.abs().max()) < 1e-6
            neighbours = dist[i].log_prob(at.detach() + around)
            assert bool((neighbours < value).all())
    torch.testing.assert_close(dist.mode, modes.loc[:, 0])


@each_correlated
def test_two_separated_components_have_two_modes(kind: str) -> None:
    """Each close to its mean, the higher one first."""
    given = parameters(kind, k=2)
    given["loc"] = torch.tensor([[-9.0, 4.0, 0.0], [9.0, -4.0, 3.0]], dtype=F64)
    given["logits"] = torch.tensor([0.0, 2.0], dtype=F64)
    dist = GaussianMixture(**given)
    modes = dist.modes()
    assert not bool(modes.loc.isnan().any())
    order = dist.log_prob(dist.loc).argsort(descending=True)
    torch.testing.assert_close(modes.loc, dist.loc[order], rtol=0, atol=1e-3)


@each_correlated
def test_a_saddle_is_no_mode(kind: str) -> None:
    """A light component midway between two heavy ones has its mean on the saddle."""
    given = {n: a[:1].expand(3, *a.shape[1:]) for n, a in parameters(kind, k=3, d=2).items()}
    given["logits"] = torch.tensor([0.0, -500.0, 0.0], dtype=F64)
    given["loc"] = torch.tensor([[-6.0, 2.0], [0.0, 0.0], [6.0, -2.0]], dtype=F64)
    modes = GaussianMixture(**given).modes()
    assert modes.log_density.isnan().tolist() == [False, False, True]
    torch.testing.assert_close(modes.loc[:2, 0].sort().values, given["loc"][[0, 2], 0])


@each_kind
def test_energy_score_matches_an_ensemble(kind: str) -> None:
    """Against scoringrules' ensemble score of 1500 NumPy draws.

    Within 6 standard errors of both: a right score fails for one seed in 5e8, times 3 targets.
    """
    given = parameters(kind, k=2, seed=3)
    dist = GaussianMixture(**given)
    rng = np.random.default_rng(0)
    m = 1500
    which = rng.choice(2, m, p=scipy.special.softmax(given["logits"].numpy()))
    roots = np.linalg.cholesky(matrices(given))[which]
    draws = given["loc"].numpy()[which] + np.einsum("mij,mj->mi", roots, rng.normal(size=(m, 3)))
    for target in ([0.0, 0.0, 0.0], [3.0, -1.0, 2.0], [1e3, 0.0, 0.0]):
        y = torch.tensor(target, dtype=F64)
        got = dist.energy_score_estimate(y, n_samples=4000, generator=seeded(1))
        expected = scoringrules.es_ensemble(np.array(target), draws, estimator="fair")
        near = np.linalg.norm(draws - np.array(target), axis=1)
        # projection of the U-statistic on single draws
        apart = np.linalg.norm(draws[:, None] - draws[None, :500], axis=-1).mean(1)
        error = math.hypot((near - apart).std() / m**0.5, got.standard_error.item())
        assert abs(got.value.item() - expected) < 6 * error


def test_energy_score_states_its_own_error() -> None:
    """Over 100 generators the spread is the standard error, within 35 %: 5 sigma, 1 in 2e6."""
    dist = make("scale_tril", k=2)
    y = torch.zeros(2, 3, dtype=F64)
    found = [dist.energy_score_estimate(y, n_samples=64, generator=seeded(i)) for i in range(100)]
    spread = torch.stack([e.value for e in found]).std(0)
    stated = torch.stack([e.standard_error for e in found]).mean(0)
    torch.testing.assert_close(spread, stated, rtol=0.35, atol=0)


@each_kind
def test_energy_score_is_differentiable_and_pairs_rows(kind: str) -> None:
    """Row i scores target i with the same draws alone or in a batch of targets."""
    given = {n: a.requires_grad_() for n, a in parameters(kind, 4).items()}
    dist = GaussianMixture(**given)
    y = torch.randn(5, 4, 3, generator=seeded(0), dtype=F64)
    score = dist.energy_score(y)
    assert score.shape == (5, 4)
    for i in range(5):
        torch.testing.assert_close(score[i], dist.energy_score(y[i]))
    for g in torch.autograd.grad(score.sum(), list(given.values())):
        assert bool(g.isfinite().all()) and bool(g.any())
    far = torch.full((4, 3), 1e6, dtype=F64)
    near = dist.energy_score(dist.mean.detach())
    assert bool((dist.energy_score(far) > near).all())


# --- one dimension ------------------------------------------------------------------------------


@each_correlated
def test_one_dimension_by_any_covariance_is_the_mixture_of_its_scale(kind: str) -> None:
    """All the univariate methods are there, with the same numbers and gradients."""
    given = parameters(kind, 4, d=1)
    dist = GaussianMixture(**given)
    scale = torch.from_numpy(matrices(given))[..., 0].sqrt()
    want = GaussianMixture(given["logits"], given["loc"], scale)
    y = torch.randn(4, 1, generator=seeded(0), dtype=F64)
    for f in (
        lambda d: d.scale,
        lambda d: d.log_prob(y),
        lambda d: d.cdf(y),
        lambda d: d.icdf(0.3),
        lambda d: d.crps(y),
        lambda d: d.energy_score(y),
        lambda d: d.median,
        lambda d: d.interval(0.8),
        lambda d: d.hdr(0.8).intervals,
        lambda d: d.modes().loc,
        lambda d: d.entropy(),
        lambda d: d.squared_norm(),
        lambda d: d.covariance,
        lambda d: d.merge(2).scale,
        lambda d: d.sample((5,), generator=seeded(3)),
    ):
        torch.testing.assert_close(f(dist), f(want), equal_nan=True)
    assert set(dist.numpy()) == {"logits", "loc", "scale"}
    marginal = make(kind, 4).marginal(1)
    assert marginal.icdf(0.5).shape == (4, 1)

    def f(*tensors: Tensor) -> Tensor:
        new = GaussianMixture(**dict(zip(given, tensors, strict=True)), validate_args=False)
        return new.crps(y) + new.log_prob(y)

    assert gradcheck(f, [a.clone().requires_grad_() for a in given.values()])


# --- errors -------------------------------------------------------------------------------------

EYE = torch.eye(2).repeat(3, 1, 1)
LOGITS, LOC, ONES = torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2)
FACTOR = torch.ones(3, 2, 1)


def changed(*entries: tuple[tuple[int, ...], float], to: Tensor = EYE) -> Tensor:
    new = to.clone()
    for index, value in entries:
        new[index] = value
    return new


@pytest.mark.parametrize(
    "given, match",
    [
        ({}, r"one of scale, scale_tril, precision_tril, or cov_factor with cov_diag; got none"),
        ({"scale": ONES, "scale_tril": EYE}, "got scale and scale_tril$"),
        ({"scale_tril": EYE, "precision_tril": EYE}, "got scale_tril and precision_tril$"),
        ({"cov_factor": FACTOR}, "cov_factor with cov_diag; got cov_factor$"),
        ({"cov_diag": ONES}, "cov_factor with cov_diag; got cov_diag$"),
        ({"scale": ONES, "cov_factor": FACTOR, "cov_diag": ONES}, "got scale and cov_factor and"),
        ({"scale_tril": ONES}, r"scale_tril must have shape \(\*, 3, 2, 2\) .*; got \(3, 2\)"),
        ({"scale_tril": EYE[:2]}, r"scale_tril must have shape \(\*, 3, 2, 2\) .*\(2, 2, 2\)"),
        ({"precision_tril": torch.ones(3, 2, 3)}, r"precision_tril must have shape .*\(3, 2, 3\)"),
        ({"cov_factor": ONES, "cov_diag": ONES}, r"cov_factor must have shape \(\*, 3, 2, R\)"),
        ({"cov_factor": FACTOR, "cov_diag": torch.ones(3, 1)}, r"cov_diag must have shape .*3, 2"),
        ({"cov_factor": FACTOR.mT, "cov_diag": ONES}, r"cov_factor must have shape \(\*, 3, 2, R"),
        ({"scale_tril": changed(((1, 0, 1), 0.5))}, r"scale_tril must be lower triangular .*got 0"),
        ({"precision_tril": changed(((1, 0, 1), 0.5))}, "precision_tril must be lower triangular"),
        ({"scale_tril": changed(((2, 1, 1), 0.0))}, r"scale_tril must have a positive and finite "
         r"diagonal \(a singular factor has no density\); got 0 at index \(2, 1\)"),
        ({"scale_tril": changed(((0, 1, 1), -2.0))}, r"positive and finite diagonal .*got -2"),
        ({"scale_tril": changed(((0, 1, 0), math.nan))}, "scale_tril must be finite; got nan"),
        ({"scale_tril": changed(((0, 1, 0), INF))}, "scale_tril must be finite; got inf"),
        ({"precision_tril": changed(((0, 0, 0), 0.0))}, "precision_tril must have a positive and"),
        ({"precision_tril": changed(((0, 0, 0), INF))}, "precision_tril must have a positive and"),
        ({"cov_factor": FACTOR, "cov_diag": changed(((1, 0), -1.0), to=ONES)},
         r"cov_diag must be positive and finite; got -1 at index \(1, 0\)"),
        ({"cov_factor": FACTOR, "cov_diag": changed(((1, 0), 0.0), to=ONES)}, "cov_diag must be"),
        ({"cov_factor": changed(((2, 1, 0), math.nan), to=FACTOR), "cov_diag": ONES},
         r"cov_factor must be finite; got nan at index \(2, 1, 0\)"),
    ],
)  # fmt: skip
def test_a_covariance_that_is_none_is_refused_by_name(given: Parameters, match: str) -> None:
    """Which argument, what it must be, the first bad entry."""
    with pytest.raises(ValueError, match=match):
        GaussianMixture(LOGITS, LOC, **given, validate_args=True)


@pytest.mark.parametrize("name", ["scale_tril", "precision_tril"])
def test_a_factor_of_another_type_is_refused(name: str) -> None:
    """Lists and integers are no factors."""
    with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor; got list"):
        GaussianMixture(LOGITS, LOC, **{name: EYE.tolist()})
    with pytest.raises(TypeError, match=f"{name} must be of a floating dtype; got torch.int64"):
        GaussianMixture(LOGITS, LOC, **{name: EYE.long()})


def test_batches_that_do_not_broadcast_are_refused() -> None:
    """Every shape is in the message."""
    with pytest.raises(ValueError, match=r"do not broadcast: .*scale_tril \(4, 3, 2, 2\)"):
        GaussianMixture(LOGITS, LOC.repeat(5, 1, 1), scale_tril=EYE.repeat(4, 1, 1, 1))


@each_kind
def test_conditioning_on_everything_or_nothing_is_refused(kind: str) -> None:
    """At least one dimension stays free, at least one is known."""
    dist = make(kind)
    with pytest.raises(ValueError, match=r"dims must leave at least one dimension free; got \[0"):
        dist.condition([0, 1, 2], torch.zeros(3, dtype=F64))
    for dims in ([], [3], [0, 0], [1, -2]):
        with pytest.raises(ValueError, match=r"dims must be distinct and within 0..2; got"):
            dist.condition(dims, torch.zeros(len(dims), dtype=F64))
        with pytest.raises(ValueError, match=r"dims must be distinct and within 0..2; got"):
            dist.marginal(dims)
    with pytest.raises(ValueError, match=r"value must have shape \(\*, 2\); got \(3,\)"):
        dist.condition([0, 1], torch.zeros(3, dtype=F64))


@each_correlated
@pytest.mark.parametrize(
    "method", ["cdf", "log_cdf", "log_sf", "icdf", "median", "interval", "hdr", "crps"]
)
def test_univariate_methods_point_to_marginal(kind: str, method: str) -> None:
    """They need D = 1, and say how to get there."""
    dist = make(kind)
    arg = {"icdf": 0.5, "interval": 0.5, "hdr": 0.5}.get(method, torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match=r"one target dimension; .* has 3. Take .*\.marginal\("):
        dist.median if method == "median" else getattr(dist, method)(arg)


@each_kind
@pytest.mark.parametrize("n", [0, 4, -1])
def test_merge_to_an_impossible_number_is_refused(kind: str, n: int) -> None:
    """From 1 to K."""
    with pytest.raises(ValueError, match=f"n must be between 1 and the 3 components .* got {n}"):
        make(kind).merge(n)


def test_an_energy_score_needs_two_draws() -> None:
    """One draw has no spread."""
    with pytest.raises(ValueError, match="n_samples must be at least 2; got 1"):
        make("scale_tril").energy_score(torch.zeros(3, dtype=F64), n_samples=1)


def test_validate_args_off_lets_a_non_lower_factor_through_as_its_lower_part() -> None:
    """What stands above the diagonal is not read."""
    upper = changed(((1, 0, 1), 0.5))
    dist = GaussianMixture(LOGITS, LOC, scale_tril=upper, validate_args=False)
    want = GaussianMixture(LOGITS, LOC, scale_tril=EYE)
    y = torch.ones(2)
    assert torch.equal(dist.log_prob(y), want.log_prob(y))


def test_callables_of_the_kinds_agree_on_their_names() -> None:
    """The constructor takes what numpy() gives, whatever the kind."""
    for kind in KINDS:
        dist = make(kind, 2)
        again = GaussianMixture(**{n: torch.from_numpy(a) for n, a in dist.numpy().items()})
        y = torch.zeros(2, 3, dtype=F64)
        torch.testing.assert_close(again.log_prob(y), dist.log_prob(y))


# --- targets with gaps ------------------------------------------------------------------------


def with_gaps(y: Tensor) -> Tensor:
    """Rows (N, 3) with each of the eight patterns of known dimensions in turn."""
    y = y.clone()
    for row in range(len(y)):
        for d in range(3):
            if row >> d & 1:
                y[row, d] = math.nan
    return y


def scipy_marginal(given: Parameters, row: int, y: Tensor) -> float:
    """Log of the sum of SciPy's densities of the known dimensions; 0 where there is none."""
    known = (~y.isnan()).numpy()
    if not known.any():
        return 0.0
    terms = [
        scipy.stats.multivariate_normal.logpdf(
            y.numpy()[known], loc.numpy()[known], matrix[np.ix_(known, known)]
        )
        for loc, matrix in zip(given["loc"][row], matrices(given)[row], strict=True)
    ]
    weights = scipy.special.softmax(given["logits"][row].numpy())
    return float(scipy.special.logsumexp(terms, b=weights))


def test_the_known_dimension_of_a_correlated_pair_has_its_marginal_density() -> None:
    """(0.5, NaN) under N(0, [[1, 0.9], [0.9, 1]]) has the density of 0.5 under N(0, 1)."""
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64))
    dist = GaussianMixture(torch.zeros(1, dtype=F64), torch.zeros(1, 2, dtype=F64),
                           scale_tril=root[None])  # fmt: skip
    y = torch.tensor([[0.5, math.nan], [math.nan, 0.5], [math.nan, math.nan]], dtype=F64)
    found = dist.log_prob(y, missing="marginal")
    exact = scipy.stats.norm.logpdf(0.5)
    assert found.tolist() == pytest.approx([exact, exact, 0.0], rel=1e-14)
    assert exact == pytest.approx(-1.04394, abs=5e-6)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gaps_give_scipys_marginal_of_every_pattern(kind: str, dtype: torch.dtype) -> None:
    """All patterns of three dimensions in one batch, under a mixture for each row."""
    given = parameters(kind, 16)
    y = with_gaps(2 * torch.randn(16, 3, generator=seeded(1), dtype=F64))
    expected = [scipy_marginal(given, row, y[row]) for row in range(16)]
    dist = GaussianMixture(**given).to(dtype)
    found = dist.log_prob(y.to(dtype), missing="marginal")
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == F64 else 2e-5
    assert found.double().numpy() == pytest.approx(np.array(expected), rel=tolerance, abs=tolerance)
    assert found[7] == found[15] == 0  # nothing is known


@each_kind
def test_gradients_with_gaps_are_those_of_the_marginal(kind: str) -> None:
    """Also where a place holds NaN: finite, and what autograd finds for the marginal mixture."""
    given = {k: v.clone().requires_grad_() for k, v in parameters(kind, 8).items()}
    y = with_gaps(torch.randn(8, 3, generator=seeded(2), dtype=F64))
    dist = GaussianMixture(**given)
    together = torch.autograd.grad(
        dist.log_prob(y, missing="marginal").sum(), [*given.values()], retain_graph=True
    )
    each = [
        dist[row].marginal(dims).log_prob(y[row, dims])
        for row in range(7)
        if (dims := [d for d in range(3) if not row >> d & 1])
    ]
    apart = torch.autograd.grad(torch.stack(each).sum(), [*given.values()])
    for name, a, b in zip(given, together, apart, strict=True):
        a, b = (g.tril() if name.endswith("tril") else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


@each_kind
def test_gaps_keep_their_digits_where_covariances_are_near_singular(kind: str) -> None:
    """Scales over ten decades, correlations near 1: against mpmath's marginals."""
    lower = torch.tensor([[1e5, 0, 0], [1.0, 1e-6, 0], [1e-5, 1e-11, 1e-11]], dtype=F64)
    inverse = torch.tensor([[1e-5, 0, 0], [1.0, 1e6, 0], [-1e5, 1e9, 1e11]], dtype=F64)
    factor = torch.tensor([[1e5], [1.0], [1e-5]], dtype=F64)
    variances = torch.tensor([1e-2, 1e-12, 1e-22], dtype=F64)

    def exact(a: Tensor) -> mpmath.matrix:
        return mp.matrix(a.tolist()) * mp.matrix(a.tolist()).T

    given, matrix = {
        "scale": ({"scale": lower.diagonal()[None]}, exact(lower.diagonal().diag())),
        "scale_tril": ({"scale_tril": lower[None]}, exact(lower)),
        "precision_tril": ({"precision_tril": inverse[None]}, exact(inverse) ** -1),
        "low_rank": (
            {"cov_factor": factor[None], "cov_diag": variances[None]},
            exact(factor) + mp.diag(variances.tolist()),
        ),
    }[kind]
    dist = GaussianMixture(torch.zeros(1, dtype=F64), torch.zeros(1, 3, dtype=F64), **given)
    for dims in ([0, 1], [1, 2], [0, 2], [1]):
        y = torch.full((3,), math.nan, dtype=F64)
        y[dims] = dist.scale[0, dims] * 2
        part = mp.matrix([[matrix[i, j] for j in dims] for i in dims])
        v = mp.matrix([mp.mpf(float(y[d])) for d in dims])
        square = (v.T * part**-1 * v)[0]
        reference = -(square + mp.log(mp.det(part)) + len(dims) * mp.log(2 * mp.pi)) / 2
        found = float(dist.log_prob(y, missing="marginal"))
        assert found == pytest.approx(float(reference), rel=1e-7), dims


def test_gaps_broadcast_as_y_does() -> None:
    """(2, 1, 3) against a batch of 4 gives (2, 4), as the loop over both."""
    dist = GaussianMixture(**parameters("scale_tril", 4))
    y = with_gaps(torch.randn(8, 3, generator=seeded(3), dtype=F64))[[1, 6], None]
    found = dist.log_prob(y, missing="marginal")
    assert found.shape == (2, 4)
    for i, j in itertools.product(range(2), range(4)):
        alone = dist[j].log_prob(y[i, 0], missing="marginal")
        torch.testing.assert_close(found[i, j], alone)


@each_kind
def test_without_gaps_the_log_density_is_the_same_bit_for_bit(kind: str) -> None:
    """missing="marginal" costs nothing where all is known."""
    dist = GaussianMixture(**parameters(kind, 5))
    y = torch.randn(5, 3, generator=seeded(4), dtype=F64)
    assert torch.equal(dist.log_prob(y, missing="marginal"), dist.log_prob(y))


def test_gaps_are_refused_unless_they_are_named() -> None:
    """The message names the cure where a row is known in part, and only there."""
    dist = GaussianMixture(**parameters("scale", 2))
    y = torch.zeros(2, 3, dtype=F64)
    y[1, 2] = math.nan
    with pytest.raises(ValueError, match=r'^y must not be NaN; row 1 is. .*missing="marginal"'):
        dist.log_prob(y)
    with pytest.raises(ValueError, match=r"^y must not be NaN; row 0 is$"):
        dist.log_prob(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="missing must be 'refuse' or 'marginal'; got 'ignore'"):
        dist.log_prob(y, missing="ignore")

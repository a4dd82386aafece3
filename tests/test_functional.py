"""Mixture maths on tensors: derivatives, torch.func, compilation, dtypes, tails and errors."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import scoringrules
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from mdn.functional import (
    gaussian_mixture_crps,
    gaussian_mixture_icdf,
    gaussian_mixture_log_cdf,
    gaussian_mixture_log_prob,
    gaussian_mixture_nll,
)
from mdn.functional._checks import broadcast_shapes
from mdn.functional._full import (
    low_rank_log_prob,
    packed_log_prob,
    precision_log_prob,
)
from mdn.functional._interval import interval_log_likelihood
from mdn.functional._sampling import implicit_sample
from mdn.functional._truncated_quantile import truncated_icdf
from tests import oracles
from tests.cases import MIXTURES, Parameters
from tests.oracles import mp

# The first forward derivative makes torch import its own deprecated torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

F64 = torch.float64
INF = math.inf
SCALAR = {  # one batch axis or none, one target dimension
    name: m for name, m in MIXTURES.items() if m.loc.shape[-1] == 1 and m.loc.ndim == 2
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "log_prob": gaussian_mixture_log_prob,
    "log_cdf": gaussian_mixture_log_cdf,
    "icdf": lambda *args: gaussian_mixture_icdf(*args)[..., 0],
    "crps": gaussian_mixture_crps,
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)

# --- the same functions in NumPy and SciPy ------------------------------------------------------
# One row each: y (D,) or the level p (), logits (K,), loc and log_scale (K, D).

Array = NDArray[np.float64]


def numpy_log_prob(y: Array, logits: Array, loc: Array, log_scale: Array) -> float:
    parts = scipy.stats.norm.logpdf(y, loc, np.exp(log_scale)).sum(-1)
    return float(scipy.special.logsumexp(scipy.special.log_softmax(logits) + parts))


def numpy_log_cdf(y: Array, logits: Array, loc: Array, log_scale: Array) -> float:
    parts = scipy.stats.norm.logcdf(y, loc, np.exp(log_scale))[:, 0]
    return float(scipy.special.logsumexp(scipy.special.log_softmax(logits) + parts))


def numpy_icdf(p: Array, logits: Array, loc: Array, log_scale: Array) -> float:
    def miss(y: float) -> float:
        return math.exp(numpy_log_cdf(np.array([y]), logits, loc, log_scale)) - float(p)

    return float(scipy.optimize.brentq(miss, -60.0, 60.0, xtol=1e-14, rtol=1e-14))


def numpy_crps(y: Array, logits: Array, loc: Array, log_scale: Array) -> float:
    weights, scale = scipy.special.softmax(logits), np.exp(log_scale)
    return float(scoringrules.crps_mixnorm(y[0], loc[:, 0], scale[:, 0], weights, backend="numpy"))


REFERENCES = {
    "log_prob": numpy_log_prob,
    "log_cdf": numpy_log_cdf,
    "icdf": numpy_icdf,
    "crps": numpy_crps,
}


def differences(f: Callable[..., float], args: list[Array], step: float = 1e-5) -> list[Array]:
    """Gradient of f for each argument by central differences."""
    out = []
    for i, a in enumerate(args):
        grad = np.zeros(a.size)
        for j in range(a.size):
            ends = []
            for sign in (1, -1):
                moved = a.copy().reshape(-1)
                moved[j] += sign * step
                ends.append(f(*args[:i], moved.reshape(a.shape), *args[i + 1 :]))
            grad[j] = (ends[0] - ends[1]) / (2 * step)
        out.append(grad.reshape(a.shape))
    return out


# --- inputs -------------------------------------------------------------------------------------


def arguments(name: str, batch: tuple[int, ...] = (), k: int = 3, d: int = 1) -> list[Tensor]:
    """Unremarkable float64 arguments of a function, the same in every run."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn((*batch, *shape), generator=generator, dtype=F64)

    y = torch.special.ndtr(normal()) if name == "icdf" else normal(d)
    return [y, normal(k), 1.5 * normal(k, d), 0.4 * normal(k, d)]


def normals(seed: int) -> Callable[..., Tensor]:
    """A source of float64 draws of a given shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=F64)


def single(a: Tensor) -> Tensor:
    return a.clone().requires_grad_()


BATCHES = {  # the batch axes of y, logits, loc and log_scale
    "none": ((), (), (), ()),
    "all": ((2,), (2,), (2,), (2,)),
    "y alone": ((3,), (), (), ()),
    "logits alone": ((), (3,), (), ()),
    "loc alone": ((), (), (3,), ()),
    "log_scale alone": ((), (), (), (3,)),
    "ones": ((3,), (1,), (1,), (1,)),
    "crossed": ((2, 1), (3,), (2, 1), (1, 1)),
}
each_batch = pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)


def broadcast_arguments(
    name: str, batches: tuple[tuple[int, ...], ...], k: int = 2, d: int = 1
) -> list[Tensor]:
    full = arguments(name, (24,), k, d)
    return [
        a[: math.prod(b)].reshape((*b, *a.shape[1:])) for a, b in zip(full, batches, strict=True)
    ]


# --- value --------------------------------------------------------------------------------------


@each_function
@each_batch
def test_batches_broadcast_as_in_numpy(name: str, batches: tuple[tuple[int, ...], ...]) -> None:
    """Batch = loop: each row of a broadcast batch is SciPy's number for that row."""
    args = broadcast_arguments(name, batches, d=3 if name == "log_prob" else 1)
    shape = torch.broadcast_shapes(*batches)
    got = FUNCTIONS[name](*args)
    assert got.shape == shape
    whole = [a.expand((*shape, *a.shape[len(b) :])) for a, b in zip(args, batches, strict=True)]
    for index in itertools.product(*map(range, shape)):
        expected = REFERENCES[name](*(a[index].numpy() for a in whole))
        assert got[index].item() == pytest.approx(expected, rel=1e-11)


@each_batch
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_far_rows_broadcast_like_the_others(
    batches: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> None:
    """The exact path for far rows gives the values and gradients of the expanded batch."""
    args = [a.to(dtype) for a in broadcast_arguments("log_prob", batches)]
    args[0] = args[0] + 1e6
    leaves = [single(a) for a in args]
    got = gaussian_mixture_log_prob(*leaves)
    shape = torch.broadcast_shapes(*batches)
    whole = [
        single(a.expand((*shape, *a.shape[len(b) :])).reshape(-1, *a.shape[len(b) :]))
        for a, b in zip(args, batches, strict=True)
    ]
    expected = gaussian_mixture_log_prob(*whole)
    torch.testing.assert_close(got.reshape(-1), expected, rtol=0, atol=0)
    grads = torch.autograd.grad(got.sum(), leaves)
    for g, a, e in zip(grads, leaves, torch.autograd.grad(expected.sum(), whole), strict=True):
        e = e.reshape(*shape, *e.shape[1:]).sum_to_size(a.shape)
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (4, 1), (1, 3), (4, 3)])
def test_log_prob_matches_scipy(k: int, d: int) -> None:
    """log sum_k pi_k prod_d N(y_d; mu_kd, sigma_kd)."""
    args = arguments("log_prob", (7,), k, d)
    got = gaussian_mixture_log_prob(*args)
    expected = [numpy_log_prob(*row) for row in zip(*(a.numpy() for a in args), strict=True)]
    assert got.tolist() == pytest.approx(expected, rel=1e-13)


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    """logits are log weights up to a constant."""
    for name, f in FUNCTIONS.items():
        y, logits, loc, log_scale = arguments(name, (5,))
        torch.testing.assert_close(
            f(y, logits + 700.0, loc, log_scale), f(y, logits, loc, log_scale)
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_is_minus_log_prob_reduced(reduction: str) -> None:
    """NLL = -log p, averaged by default; a narrow density makes it negative."""
    args = arguments("log_prob", (4, 3), d=2)
    rows = [a.flatten(0, 1).numpy() for a in args]
    expected = torch.tensor([-numpy_log_prob(*row) for row in zip(*rows, strict=True)], dtype=F64)
    expected = {
        "mean": expected.mean(),
        "sum": expected.sum(),
        "none": expected.reshape(4, 3),
    }[reduction]
    torch.testing.assert_close(gaussian_mixture_nll(*args, reduction=reduction), expected)
    torch.testing.assert_close(
        gaussian_mixture_nll(*args), gaussian_mixture_nll(*args, reduction="mean")
    )
    narrow = gaussian_mixture_nll(args[2][..., 0, :], *args[1:3], args[3] - 9, reduction=reduction)
    assert (narrow < 0).all()


# --- derivatives --------------------------------------------------------------------------------


def check_derivatives(f: Callable[..., Tensor], args: list[Tensor]) -> None:
    """First and second derivatives against finite differences."""
    leaves = [single(a) for a in args]
    assert gradcheck(f, leaves)
    assert gradgradcheck(f, leaves)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (4, 1), (1, 3), (4, 3)])
def test_log_prob_gradcheck(k: int, d: int) -> None:
    """The closed-form first and second derivatives are those of the value."""
    check_derivatives(gaussian_mixture_log_prob, arguments("log_prob", (2,), k, d))


@each_function
@each_batch
def test_gradcheck_of_broadcast_batches(name: str, batches: tuple[tuple[int, ...], ...]) -> None:
    """The gradient of an expanded argument is the sum over the rows it serves."""
    check_derivatives(FUNCTIONS[name], broadcast_arguments(name, batches))


@each_function
@each_batch
def test_forward_mode_gradcheck(name: str, batches: tuple[tuple[int, ...], ...]) -> None:
    """torch.autograd.forward_ad gives the same derivatives as the backward pass."""
    leaves = [single(a) for a in broadcast_arguments(name, batches)]
    assert gradcheck(FUNCTIONS[name], leaves, check_forward_ad=True, check_backward_ad=False)


def _covariance_case(kind: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Log density at y of three mixtures with full or low-rank covariance, and its arguments."""
    draw = normals(3)
    y, loc = draw(3, 3), draw(3, 2, 3)
    logits, lower = draw(3, 2), 0.3 * draw(3, 2, 3)
    positive = draw(3, 2, 3).exp()
    if kind == "precision":
        factor = (0.3 * draw(3, 2, 3, 3)).tril(-1) + torch.diag_embed(positive)
        return precision_log_prob, [y, logits, loc, factor]
    if kind == "packed":
        return packed_log_prob, [y, logits, loc, positive, lower]
    return low_rank_log_prob, [y, logits, loc, lower[..., None], positive]


@pytest.mark.parametrize("kind", ["precision", "packed", "low-rank"])
def test_forward_mode_of_other_covariances(kind: str) -> None:
    """Full and low-rank covariance: the same derivatives forwards as finite differences."""
    f, arguments = _covariance_case(kind)
    leaves = [a.requires_grad_() for a in arguments]
    assert gradcheck(f, leaves, check_forward_ad=True, check_batched_forward_grad=True)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.4, 0.6), (-9.0, 0.51), (-math.inf, 0.1), (1.0, math.inf), (9.0, 9.5), (0.7, 0.7)],
)
def test_every_derivative_of_the_interval_likelihood(low: float, high: float) -> None:
    """Forwards, backwards, twice and under vmap, on every branch of the formula."""
    params = [torch.tensor([a], dtype=F64, requires_grad=True)
              for a in ([0.3, -0.5], [-1.0, 0.5], [0.5, 0.2])]  # fmt: skip
    ends = torch.tensor([low, high, high - low], dtype=F64)[:, None]

    def f(*params: Tensor) -> Tensor:
        return interval_log_likelihood(*ends, *params)

    assert gradcheck(f, params, check_forward_ad=True)
    assert gradgradcheck(f, params)
    rows = [torch.cat([a, a + 0.1]).detach() for a in params]
    each = torch.vmap(lambda *row: interval_log_likelihood(*ends[:, 0], *row))(*rows)
    torch.testing.assert_close(each, interval_log_likelihood(*ends, *rows))


def test_forward_mode_of_truncated_quantiles() -> None:
    """The tangent of a quantile is the one that the backward pass implies, in both tails."""
    draw = normals(5)
    p = torch.tensor([1e-12, 0.01, 0.3, 0.7, 1 - 1e-9], dtype=F64)
    low, high = torch.tensor([-1.0, 2.5], dtype=F64)
    leaves = [p, low, high, torch.log_softmax(draw(3), -1), draw(3), draw(3).exp()]
    tangents = [draw(*a.shape) * (1e-3 if a is p else 1.0) for a in leaves]

    def f(p: Tensor, low: Tensor, high: Tensor, *params: Tensor) -> Tensor:
        return truncated_icdf(p, low, high, params)

    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, t) for a, t in zip(leaves, tangents, strict=True)]
        moved = forward_ad.unpack_dual(f(*duals)).tangent
    jacobians = torch.autograd.functional.jacobian(f, tuple(leaves))
    want = sum(
        j.reshape(len(p), -1) @ t.flatten() for j, t in zip(jacobians, tangents, strict=True)
    )
    torch.testing.assert_close(moved, want)


@pytest.mark.parametrize("dims", [1, 3])
def test_forward_mode_of_implicit_samples(dims: int) -> None:
    """The tangent of a draw is the one that the backward pass implies."""
    draw = normals(4)
    logits, loc = draw(2, 3), draw(2, 3, dims)
    factor = (0.3 * draw(2, 3, dims, dims)).tril(-1)
    factor = factor + torch.diag_embed(draw(2, 3, dims).exp())
    y = draw(5, 2, dims)
    params = logits, loc, factor
    tangents = [draw(*a.shape).tril() if a is factor else draw(*a.shape) for a in params]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, t) for a, t in zip(params, tangents, strict=True)]
        moved = forward_ad.unpack_dual(implicit_sample(y, *duals)).tangent
    cotangent = draw(*y.shape)
    leaves = [a.clone().requires_grad_() for a in params]
    grads = torch.autograd.grad(implicit_sample(y, *leaves), leaves, cotangent)
    want = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
    torch.testing.assert_close((cotangent * moved).sum(), want)


@each_function
def test_gradcheck_beside_a_pruned_component(name: str) -> None:
    """A logit of -inf, itself held constant, leaves all other derivatives exact."""
    y, logits, loc, log_scale = arguments(name, (2,))
    pruned = torch.full((2, 1), -INF, dtype=F64)

    def f(y: Tensor, free: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        return FUNCTIONS[name](y, torch.cat([free[:, :1], pruned, free[:, 1:]], 1), loc, log_scale)

    check_derivatives(f, [y, logits[:, :2], loc, log_scale])


@pytest.mark.parametrize("y", [30.0, -30.0])
def test_log_prob_gradcheck_where_the_exact_path_takes_over(y: float) -> None:
    """Far from every component the derivatives are still those of the value."""
    _, logits, loc, log_scale = arguments("log_prob", (2,), 3, 2)
    far = torch.tensor([[y, 0.0], [0.0, -y]], dtype=F64)
    check_derivatives(gaussian_mixture_log_prob, [far, logits, loc, log_scale])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_gradcheck(reduction: str) -> None:
    """Every reduction passes its own derivatives on."""
    check_derivatives(
        lambda *args: gaussian_mixture_nll(*args, reduction=reduction),
        arguments("log_prob", (3,), 2, 2),
    )


@each_function
@pytest.mark.parametrize(("k", "d"), [(1, 1), (4, 1), (4, 3)])
def test_gradients_match_finite_differences_of_scipy(name: str, k: int, d: int) -> None:
    """d f / d every input equals central differences of an independent implementation."""
    d = d if name == "log_prob" else 1
    args = arguments(name, (), k, d)
    leaves = [single(a) for a in args]
    grads = torch.autograd.grad(FUNCTIONS[name](*leaves), leaves)
    expected = differences(REFERENCES[name], [a.numpy() for a in args])
    for got, e in zip(grads, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), e, rtol=1e-6, atol=1e-8)


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e-4])
def test_gradients_are_finite_whenever_the_value_is(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    """A component far too narrow to matter at y puts no NaN into any gradient."""
    for y in (-1.0, 1.0, 4.0):
        first = torch.tensor(0.3 if name == "icdf" else [y], dtype=dtype)
        rest = ([0.0, 0.5], [[0.0], [3.0]], [[math.log(scale)], [0.0]])
        leaves = [single(a) for a in (first, *(torch.tensor(a, dtype=dtype) for a in rest))]
        value = FUNCTIONS[name](*leaves)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, leaves)), y


# --- torch.func ---------------------------------------------------------------------------------

IN_DIMS = [(0, 0, 0, 0), (0, None, None, None), (None, 0, 0, 0), (None, None, None, 0)]


@each_function
@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("batch", [(), (4,)], ids=str)
def test_vmap_equals_a_loop(
    name: str, in_dims: tuple[int | None, ...], batch: tuple[int, ...]
) -> None:
    """vmap(f) stacks f of the slices, whichever arguments are mapped."""
    whole = arguments(name, (5, *batch))
    args = [a if d == 0 else a[0] for a, d in zip(whole, in_dims, strict=True)]
    rows = [[a[i] if d == 0 else a for a, d in zip(args, in_dims, strict=True)] for i in range(5)]
    expected = torch.stack([FUNCTIONS[name](*row) for row in rows])
    torch.testing.assert_close(torch.vmap(FUNCTIONS[name], in_dims=in_dims)(*args), expected)


@each_function
def test_vmap_over_other_axes_and_nested(name: str) -> None:
    """in_dims other than 0, and vmap of vmap, equal the flat batch."""
    f = FUNCTIONS[name]
    args = arguments(name, (3, 4))
    expected = f(*args)
    last = (-1, -1, -1, -1)
    moved = [a.movedim(1, -1) for a in args]
    torch.testing.assert_close(torch.vmap(f, in_dims=last, out_dims=1)(*moved), expected)
    inner = [a.movedim(0, d) for a, d in zip(args, (0, 1, 2, 1), strict=True)]
    torch.testing.assert_close(torch.vmap(f, in_dims=(0, 1, 2, 1))(*inner), expected)
    torch.testing.assert_close(torch.vmap(torch.vmap(f))(*args), expected)
    mixed = [args[0], args[1][0], args[2][:, 0], args[3]]  # (3, 4), (4), (3), (3, 4)
    nested = torch.vmap(torch.vmap(f, in_dims=(0, 0, None, 0)), in_dims=(0, None, 0, 0))(*mixed)
    loop = [[f(mixed[0][i, j], mixed[1][j], mixed[2][i], mixed[3][i, j]) for j in range(4)]
            for i in range(3)]  # fmt: skip
    torch.testing.assert_close(nested, torch.stack([torch.stack(row) for row in loop]))


def test_vmap_takes_far_rows() -> None:
    """A far row is recomputed under vmap too, with or without a mapped y."""
    y, logits, loc, log_scale = arguments("log_prob", (5,))
    y[2] = 1e6
    got = torch.vmap(gaussian_mixture_log_prob)(y, logits, loc, log_scale)
    torch.testing.assert_close(got, gaussian_mixture_log_prob(y, logits, loc, log_scale))
    got = torch.vmap(gaussian_mixture_log_prob, (None, 0, None, None))(
        y[2], logits, loc[0], log_scale[0]
    )
    expected = [
        numpy_log_prob(y[2].numpy(), row, loc[0].numpy(), log_scale[0].numpy())
        for row in logits.numpy()
    ]
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


@each_function
def test_vmap_of_grad_equals_autograd(name: str) -> None:
    """Per-row gradients from torch.func are those of the sum over the rows."""
    leaves = [single(a) for a in arguments(name, (6,))]
    got = torch.vmap(torch.func.grad(FUNCTIONS[name], argnums=(0, 1, 2, 3)))(*leaves)
    expected = torch.autograd.grad(FUNCTIONS[name](*leaves).sum(), leaves)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


@each_function
@pytest.mark.parametrize("jacobian", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobians_match_finite_differences(name: str, jacobian: Callable) -> None:
    """jacrev and jacfwd of a batch are block diagonal, with SciPy's differences as blocks."""
    args = arguments(name, (3,), 2)
    got = jacobian(FUNCTIONS[name], argnums=(0, 1, 2, 3))(*args)
    blocks = [differences(REFERENCES[name], [np.asarray(a[i]) for a in args]) for i in range(3)]
    for g, a, *rows in zip(got, args, *blocks, strict=True):
        assert g.shape == (3, *a.shape)
        for i, j in itertools.product(range(3), repeat=2):
            expected = rows[i] if i == j else np.zeros_like(rows[i])
            np.testing.assert_allclose(g[i, j].numpy(), expected, rtol=1e-6, atol=1e-8)


@each_function
def test_hessian_matches_finite_differences(name: str) -> None:
    """torch.func.hessian equals differences of differences of SciPy's values."""
    args = arguments(name, (), 2)
    got = torch.func.hessian(FUNCTIONS[name], argnums=(0, 1, 2, 3))(*args)
    numbers = [a.numpy() for a in args]
    for i, j in itertools.product(range(4), repeat=2):

        def slope(*moved: Array, i: int = i) -> Array:
            return differences(REFERENCES[name], list(moved), step=1e-3)[i]

        for entry in np.ndindex(numbers[i].shape):
            second = differences(lambda *m, e=entry: slope(*m)[e], numbers, step=1e-3)[j]
            np.testing.assert_allclose(got[i][j][entry].numpy(), second, rtol=2e-4, atol=2e-5)


@each_function
def test_jvp_matches_a_directional_difference(name: str) -> None:
    """d f(x + t v) / dt at t = 0, with all inputs moving at once."""
    args = arguments(name, (4,))
    tangents = [0.1 * a.flip(0) - 0.05 for a in arguments("log_prob", (4,))]
    tangents[0] = tangents[0].reshape(args[0].shape)
    _, got = torch.func.jvp(FUNCTIONS[name], tuple(args), tuple(tangents))
    for i in range(4):

        def along(t: Array, i: int = i) -> float:
            return REFERENCES[name](
                *((a[i] + float(t) * v[i]).numpy() for a, v in zip(args, tangents, strict=True))
            )

        expected = differences(along, [np.zeros(())])[0]
        assert got[i].item() == pytest.approx(float(expected), rel=1e-6, abs=1e-8)


# --- torch.compile ------------------------------------------------------------------------------


# A graph break makes torch read a .grad that it warns not to read.
of_torch_about_torch = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


def value_and_grads(f: Callable[..., Tensor], args: list[Tensor]) -> list[Tensor]:
    leaves = [single(a) for a in args]
    value = f(*leaves)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def check_compiled(name: str, *, fullgraph: bool, backend: str) -> None:
    torch.compiler.reset()
    args = arguments(name, (4,), 3, 2 if name == "log_prob" else 1)
    compiled = torch.compile(FUNCTIONS[name], fullgraph=fullgraph, backend=backend)
    got = value_and_grads(compiled, args)
    for g, e in zip(got, value_and_grads(FUNCTIONS[name], args), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)
    torch.compiler.reset()


@of_torch_about_torch
@pytest.mark.parametrize(
    ("name", "fullgraph"),
    [("log_prob", True), ("log_cdf", True), ("crps", True), ("icdf", False)],
)
def test_traced_functions_equal_eager(name: str, fullgraph: bool) -> None:
    """torch.compile traces all but the quantile's loop into one graph; no compiler is needed."""
    check_compiled(name, fullgraph=fullgraph, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
@of_torch_about_torch
def test_compiled_log_prob_equals_eager() -> None:
    """The generated code of the forward and the backward pass gives the eager numbers."""
    check_compiled("log_prob", fullgraph=True, backend="inductor")


# --- dtypes -------------------------------------------------------------------------------------

DTYPES = (F64, torch.float32, torch.bfloat16, torch.float16)


@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_in_dtype_out_and_half_precision_is_computed_wider(
    name: str, dtype: torch.dtype
) -> None:
    """The result is the float64 one of the rounded inputs, rounded once."""
    args = [a.to(dtype) for a in arguments(name, (50,))]
    leaves = [single(a) for a in args]
    got = FUNCTIONS[name](*leaves)
    assert got.dtype == dtype
    exact = FUNCTIONS[name](*(a.double() for a in args))
    # half an ulp for the one rounding; float32 also rounds inside, next to terms of order one
    rtol = (32.0 if dtype == torch.float32 else 0.51) * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), exact, rtol=rtol, atol=1e-14 if dtype == F64 else 2e-6)
    grads = torch.autograd.grad(got.sum(), leaves)
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@each_function
def test_mixed_dtypes_are_promoted(name: str) -> None:
    """The result has the widest floating dtype; each gradient that of its input."""
    dtypes = (F64, torch.float32, torch.bfloat16, torch.float16)
    leaves = [single(a.to(t)) for a, t in zip(arguments(name, (3,)), dtypes, strict=True)]
    got = FUNCTIONS[name](*leaves)
    assert got.dtype == F64
    torch.testing.assert_close(got, FUNCTIONS[name](*(a.double() for a in leaves)), rtol=1e-6,
                               atol=1e-6)  # fmt: skip
    assert [g.dtype for g in torch.autograd.grad(got.sum(), leaves)] == list(dtypes)
    halves = [a.to(t) for a, t in zip(leaves, [torch.float16, torch.bfloat16] * 2, strict=True)]
    assert FUNCTIONS[name](*halves).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_targets_are_accepted(dtype: torch.dtype) -> None:
    """Counts are targets too: they take the dtype of the parameters."""
    y = torch.tensor([[0], [1], [1]])
    _, *params = (a.float() for a in arguments("log_prob", (3,)))
    for name in ("log_prob", "log_cdf", "crps"):
        got = FUNCTIONS[name](y.to(dtype), *params)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, FUNCTIONS[name](y.float(), *params), rtol=0, atol=0)


# --- cdf and quantile ---------------------------------------------------------------------------


def numbers(m: Parameters) -> tuple[list[float], list[float], list[float]]:
    """Logits, means and the scales that exp(log_scale) gives back, as floats."""
    return m.logits.tolist(), m.loc[:, 0].tolist(), m.scale.log().exp()[:, 0].tolist()


@pytest.mark.parametrize("name", SCALAR)
def test_log_cdf_and_log_sf_match_mpmath_at_40_scales(name: str) -> None:
    """log F and log (1 - F), by reflection, in both tails and between the components."""
    m = SCALAR[name]
    logits, loc, scale = numbers(m)
    alive = [i for i, v in enumerate(logits) if v > -INF]
    for i, z in itertools.product(alive, (-40.0, -20.0, -5.0, -1.0, 0.0, 0.5, 5.0, 20.0, 40.0)):
        y = loc[i] + z * scale[i]
        at = torch.tensor([y], dtype=F64)
        got = gaussian_mixture_log_cdf(at, m.logits, m.loc, m.scale.log()).item()
        truth = float(oracles.log_cdf(y, logits, loc, scale))
        assert got == pytest.approx(truth, rel=1e-12, abs=1e-307), z
        got = gaussian_mixture_log_cdf(-at, m.logits, -m.loc, m.scale.log()).item()
        truth = float(oracles.log_sf(y, logits, loc, scale))
        assert got == pytest.approx(truth, rel=1e-12, abs=1e-307), z


@pytest.mark.parametrize("y", [-40.0, -1e3, -1e5, -1e7, -1e9, 5.0])
def test_log_cdf_gradient_matches_mpmath_far_below(y: float) -> None:
    """d log F / dy = p / F, which grows like the distance in scales."""
    m = SCALAR["two modes"]
    logits, loc, _ = numbers(m)
    log_scale = m.scale.log()[:, 0].tolist()
    scale = [mp.exp(mp.mpf(v)) for v in log_scale]  # p and F of one and the same mixture
    row = oracles.Row((y,), tuple(logits), tuple((v,) for v in loc), tuple((v,) for v in log_scale))
    truth = mp.exp(oracles.log_prob(row) - oracles.log_cdf(y, logits, loc, scale))
    at = torch.tensor([y], dtype=F64, requires_grad=True)
    (got,) = torch.autograd.grad(gaussian_mixture_log_cdf(at, m.logits, m.loc, m.scale.log()), at)
    assert got.item() == pytest.approx(float(truth), rel=1e-9)


LEVELS = (1e-300, 1e-100, 1e-16, 1e-6, 0.03, 0.25, 0.5, 0.75, 0.97, 1 - 1e-6, 1 - 1e-12, 1 - 1e-16)


@pytest.mark.parametrize("name", SCALAR)
def test_icdf_is_the_nearest_numbers_to_the_quantile(name: str) -> None:
    """F(y - 2 ulp) <= p <= F(y + 2 ulp) in 100 digits, up to 1e-12 of the smaller tail."""
    m = SCALAR[name]
    params = numbers(m)
    y = gaussian_mixture_icdf(torch.tensor(LEVELS, dtype=F64), m.logits, m.loc, m.scale.log())
    assert y.shape == (len(LEVELS), 1)
    for p, (at,) in zip(LEVELS, y.tolist(), strict=True):
        slack = mp.mpf(1e-12) * min(mp.mpf(p), 1 - mp.mpf(p))
        assert oracles.cdf(at - 2 * math.ulp(at), *params) <= p + slack, p
        assert oracles.cdf(at + 2 * math.ulp(at), *params) >= p - slack, p


@pytest.mark.parametrize("name", ["one component", "two modes", "overlapping", "zero weight"])
def test_cdf_of_icdf_is_the_level(name: str) -> None:
    """exp(log_cdf(icdf(p))) = p to 1e-12 of the smaller tail."""
    m = SCALAR[name]
    p = torch.tensor(LEVELS, dtype=F64)
    params = (m.logits, m.loc, m.scale.log())
    y = gaussian_mixture_icdf(p, *params)
    low = gaussian_mixture_log_cdf(y, *params).exp()
    high = gaussian_mixture_log_cdf(-y, m.logits, -m.loc, m.scale.log()).exp()
    torch.testing.assert_close(low, p, rtol=1e-12, atol=0)
    torch.testing.assert_close(high, 1 - p, rtol=1e-12, atol=0)


def test_icdf_of_the_level_between_two_far_modes() -> None:
    """Where F is flat for 1e6 scales the quantile lies in the gap, and F there is the level."""
    logits, scale = [0.0, 0.0], [1.0, 1.0]
    for loc in ([-1e6, 1e6], [0.0, 1e6], [-3.0, 1e12]):
        args = (torch.tensor(logits, dtype=F64), torch.tensor(loc, dtype=F64)[:, None])
        y = gaussian_mixture_icdf(torch.tensor(0.5, dtype=F64), *args, torch.zeros(2, 1, dtype=F64))
        assert loc[0] + 7 < y.item() < loc[1] - 7
        assert abs(oracles.cdf(y.item(), logits, loc, scale) - 0.5) < 1e-12


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_icdf_reaches_a_component_of_weight_1e_300(share: float) -> None:
    """A level below the weight of the component lies in that component alone."""
    light = math.log(1e-300)
    logits = torch.tensor([0.0, light], dtype=F64)
    loc, log_scale = torch.tensor([[0.0], [-100.0]], dtype=F64), torch.zeros(2, 1, dtype=F64)
    p = torch.tensor(share * 1e-300, dtype=F64)
    y = gaussian_mixture_icdf(p, logits, loc, log_scale).item()
    assert y == pytest.approx(-100 + scipy.stats.norm.ppf(share), rel=1e-12)


def test_icdf_at_the_ends_and_at_nan() -> None:
    """0 gives -inf, 1 gives inf, NaN gives NaN; none of them moves with the parameters."""
    p = torch.tensor([0.0, 1.0, math.nan], dtype=F64, requires_grad=True)
    params = [single(a) for a in arguments("icdf", ())[1:]]
    y = gaussian_mixture_icdf(p, *params)
    assert y[:, 0].tolist() == pytest.approx([-INF, INF, math.nan], nan_ok=True)
    for g in torch.autograd.grad(y, [p, *params], torch.ones_like(y)):
        assert (g == 0).all()


def test_icdf_broadcasts_levels_against_the_batch() -> None:
    """(L, 1) levels of N mixtures give (L, N, 1)."""
    _, *params = arguments("icdf", (4,))
    p = torch.tensor([[0.1], [0.5], [0.9]], dtype=F64)
    y = gaussian_mixture_icdf(p, *params)
    assert y.shape == (3, 4, 1)
    for i, j in itertools.product(range(3), range(4)):
        expected = numpy_icdf(p[i, 0].numpy(), *(a[j].numpy() for a in params))
        assert y[i, j].item() == pytest.approx(expected, rel=1e-11)


# --- CRPS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALAR)
def test_crps_matches_mpmath_and_scoringrules(name: str) -> None:
    """E|Y - y| - E|Y - Y'| / 2, on the means, between them and far outside."""
    m = SCALAR[name]
    logits, loc, scale = numbers(m)
    weights = scipy.special.softmax(logits)
    spread = max(loc) - min(loc) + max(scale)
    for y in (*loc, sum(loc) / len(loc), min(loc) - 2 * spread, max(loc) + 1e3 * spread):
        got = gaussian_mixture_crps(torch.tensor([y], dtype=F64), m.logits, m.loc, m.scale.log())
        # E|Y - y| and E|Y - Y'| / 2 may each be much larger than their difference
        slack = 1e-14 * (abs(y - loc[0]) + spread)
        assert got.item() == pytest.approx(float(oracles.crps(y, logits, loc, scale)), abs=slack)
        rival = scoringrules.crps_mixnorm(y, loc, scale, weights, backend="numpy")
        assert got.item() == pytest.approx(rival, abs=slack)


@pytest.mark.parametrize("name", ["one component", "two modes", "overlapping", "zero weight"])
def test_crps_matches_quadrature(name: str) -> None:
    """The integral of (F(x) - 1{x >= y})^2."""
    m = SCALAR[name]
    args = (m.logits.numpy(), m.loc.numpy(), m.scale.log().numpy())

    def miss(x: float, sign: int) -> float:
        reflected = (sign * np.array([x]), args[0], sign * args[1], args[2])
        return math.exp(2 * numpy_log_cdf(*reflected))

    for y in (-1.0, 0.4, 5.0):
        low = scipy.integrate.quad(miss, -60, y, (1,), points=[-2.0, 0.0, 2.0][: int(y > 2) * 3])
        high = scipy.integrate.quad(miss, y, 100, (-1,), points=[2.5] if y < 2 else None)
        got = gaussian_mixture_crps(
            torch.tensor([y], dtype=F64), m.logits, m.loc, m.scale.log()
        ).item()
        assert got == pytest.approx(low[0] + high[0], rel=1e-7)


# --- errors -------------------------------------------------------------------------------------


def bad_calls() -> Iterator[tuple[str, Callable, tuple, type[Exception], str]]:
    y, logits, loc = torch.zeros(5, 1), torch.zeros(5, 2), torch.zeros(5, 2, 1)
    wide = torch.zeros(5, 2, 3)
    dead = logits.clone()
    dead[3] = -INF
    for name in ("log_prob", "log_cdf", "crps"):
        f = FUNCTIONS[name]
        yield (
            f"{name}: no event axis",
            f,
            (torch.zeros(64), logits, loc, loc),
            ValueError,
            (r"^y must have shape \(\*, 1\); got \(64,\)\. Did you mean y\[:, None\]\?$"),
        )
        yield (
            f"{name}: scalar y",
            f,
            (torch.zeros(()), logits, loc, loc),
            ValueError,
            (r"^y must have shape \(\*, 1\); got \(\)$"),
        )
        yield (
            f"{name}: y too wide",
            f,
            (torch.zeros(5, 2), logits, loc, loc),
            ValueError,
            (r"^y must have shape \(\*, 1\); got \(5, 2\)$"),
        )
        yield (
            f"{name}: batches",
            f,
            (torch.zeros(4, 1), logits, loc, loc),
            ValueError,
            (
                r"batch axes do not broadcast: y \(4, 1\), logits \(5, 2\), loc \(5, 2, 1\), "
                r"log_scale \(5, 2, 1\)"
            ),
        )
        yield (
            f"{name}: float y",
            f,
            (0.0, logits, loc, loc),
            TypeError,
            (r"^y must be a torch\.Tensor; got float$"),
        )
        yield (
            f"{name}: complex y",
            f,
            (y + 0j, logits, loc, loc),
            TypeError,
            (r"^y must be real; got dtype torch\.complex64$"),
        )
    yield (
        "y narrow",
        FUNCTIONS["log_prob"],
        (torch.zeros(5), logits, wide, wide),
        ValueError,
        (r"^y must have shape \(\*, 3\); got \(5,\)$"),
    )
    for name, first in (("log_prob", y), ("log_cdf", y), ("crps", y), ("icdf", y[:, 0] + 0.5)):
        f = FUNCTIONS[name]
        yield (
            f"{name}: flat loc",
            f,
            (first, logits, loc[0, :, 0], loc),
            ValueError,
            (r"^loc must have shape \(\*, K, D\); got \(2,\)$"),
        )
        yield (
            f"{name}: logits",
            f,
            (first, torch.zeros(5, 3), loc, loc),
            ValueError,
            (r"^logits must have shape \(\*, 2\) to match loc \(5, 2, 1\); got \(5, 3\)$"),
        )
        yield (
            f"{name}: scalar logits",
            f,
            (first, torch.zeros(()), loc, loc),
            ValueError,
            (r"^logits must have shape \(\*, 2\) to match loc \(5, 2, 1\); got \(\)$"),
        )
        yield (
            f"{name}: log_scale",
            f,
            (first, logits, loc, loc[..., 0]),
            ValueError,
            (r"^log_scale must have shape \(\*, 2, 1\) to match loc \(5, 2, 1\); got \(5, 2\)$"),
        )
        yield (
            f"{name}: list",
            f,
            (first, [0.0, 0.0], loc, loc),
            TypeError,
            (r"^logits must be a torch\.Tensor; got list$"),
        )
        yield (
            f"{name}: complex",
            f,
            (first, logits, loc + 0j, loc),
            TypeError,
            (r"^loc must be real; got dtype torch\.complex64$"),
        )
        yield (
            f"{name}: all pruned",
            f,
            (first, dead, loc, loc),
            ValueError,
            (r"^logits: all 2 components of row 3 have logit -inf; at least one must be finite$"),
        )
        yield (
            f"{name}: the one mixture pruned",
            f,
            (first, dead[3], loc, loc),
            ValueError,
            (r"all 2 components of .* have logit -inf"),
        )
    for name, first in (("log_cdf", wide[:, 0]), ("crps", wide[:, 0])):
        f = FUNCTIONS[name]
        yield (
            f"{name}: D = 3",
            f,
            (first, logits, wide, wide),
            ValueError,
            (rf"^gaussian_mixture_{name} needs one target dimension; got loc \(5, 2, 3\)$"),
        )
    icdf = FUNCTIONS["icdf"]
    yield (
        "icdf: D = 3",
        icdf,
        (y[:, 0], logits, wide, wide),
        ValueError,
        (r"^gaussian_mixture_icdf needs one target dimension; got loc \(5, 2, 3\)$"),
    )
    yield (
        "icdf: float p",
        icdf,
        (0.5, logits, loc, loc),
        TypeError,
        (r"^p must be a torch\.Tensor; got float$"),
    )
    for level in (-0.25, 1.5, INF):
        p = torch.tensor([0.5, 0.5, level, 0.5, 0.5])
        yield (
            f"icdf: p = {level}",
            icdf,
            (p, logits, loc, loc),
            ValueError,
            (rf"^p must lie in \[0, 1\]; got {level:g} at index \(2,\)$"),
        )
    yield "nll: reduction", lambda *a: gaussian_mixture_nll(*a, reduction="max"), (
        y, logits, loc, loc,
    ), ValueError, r"^reduction must be 'mean', 'sum' or 'none'; got 'max'$"  # fmt: skip


@pytest.mark.parametrize(
    ("f", "args", "error", "match"), [pytest.param(*rest, id=name) for name, *rest in bad_calls()]
)
def test_bad_arguments_are_refused_by_name(
    f: Callable, args: tuple, error: type[Exception], match: str
) -> None:
    """The message names the argument, what was expected and what was found."""
    with pytest.raises(error, match=match):
        f(*args)


@each_function
def test_an_empty_batch_gives_an_empty_result(name: str) -> None:
    """No rows in, no rows out, and a gradient of no rows."""
    leaves = [single(a) for a in arguments(name, (0,))]
    got = FUNCTIONS[name](*leaves)
    assert got.shape == (0,)
    assert all(g.numel() == 0 for g in torch.autograd.grad(got.sum(), leaves))


def test_arguments_are_not_modified() -> None:
    """In-place work stays inside."""
    for name, f in FUNCTIONS.items():
        args = arguments(name, (4,))
        if name != "icdf":
            args[0][1] = 1e7
        copies = [a.clone() for a in args]
        f(*args)
        assert all(torch.equal(a, c) for a, c in zip(args, copies, strict=True))


@pytest.mark.parametrize(
    "shapes", [[(3, 1, 4), (5, 4), (1,)], [()], [(2, 0), (1, 1)], [(2, 3), ()], [(2, 3), (2,)]]
)
def test_shapes_broadcast_as_those_of_numpy(shapes: list[tuple[int, ...]]) -> None:
    """The same shape, or an error where NumPy has one."""
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(RuntimeError):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == torch.Size(expected)

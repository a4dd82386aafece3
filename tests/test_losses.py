"""Tests of the classification losses and of beta-NLL in mdn.functional."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdn.functional import (
    beta_nll,
    deformed_nll_loss,
    gaussian_mixture_nll,
    nll_ratio_loss,
)

CLASSES = {
    "ratio": nll_ratio_loss,
    "q = 0": lambda a, t, **k: deformed_nll_loss(a, t, 0.0, **k),
    "q = 0.5": lambda a, t, **k: deformed_nll_loss(a, t, 0.5, **k),
    "q = 1": lambda a, t, **k: deformed_nll_loss(a, t, 1.0, **k),
    "q = 1.5": lambda a, t, **k: deformed_nll_loss(a, t, 1.5, **k),
}
Loss = Callable[..., Tensor]


def classes(*batch: int, n: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (*, n) and targets (*)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*batch, n, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(n, batch, generator=generator)


def mixture(n: int = 5, k: int = 3, d: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (n, d) and the parameters of n mixtures."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((n, d), (n, k), (n, k, d), (n, k, d))
    y, logits, loc, raw = (torch.randn(*s, generator=generator).double() for s in shapes)
    return y, logits, loc, 0.5 * raw


def exact_odds(logits: Tensor, target: int) -> mpmath.mpf:
    """(1 - p) / p of the right class with 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(a))) for a in logits]
        return mpmath.fsum(e[:target] + e[target + 1 :]) / e[target]


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [-700.0, -90.0, -20.0, -1e-3, 0.0, 5.0, 90.0, 700.0])
def test_ratio_and_deformed_losses_match_mpmath_however_sure_the_model_is(gap: float) -> None:
    """Relative precision also where p is 1 or 0 to float64."""
    logits, target = torch.tensor([[0.0, gap, gap - 1.0]]).double(), torch.tensor([0])
    with mpmath.workdps(700):  # 1 + e^-700 has 305 digits
        odds = exact_odds(logits[0], 0)
        p = 1 / (1 + odds)
        want = {"ratio": mpmath.log(odds), "q = 1": -mpmath.log(p)}
        for q in (0.0, 0.5, 1.5):
            want[f"q = {q:g}"] = (1 - p ** mpmath.mpf(1 - q)) / (1 - q)
        for name, value in want.items():
            got = float(CLASSES[name](logits, target))
            assert got == pytest.approx(float(value), rel=1e-13), name


def test_a_ratio_is_negative_exactly_where_p_exceeds_one_half() -> None:
    """So a negative value is no error, though p is a probability."""
    logits, target = classes(500)
    p = logits.softmax(-1).gather(-1, target[:, None])[:, 0]
    ratio = nll_ratio_loss(logits, target, reduction="none")
    assert torch.equal(ratio < 0, p > 0.5)
    assert 0 < int((ratio < 0).sum()) < 500
    torch.testing.assert_close(F.softplus(ratio, threshold=700.0), -p.log())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_q_one_is_the_cross_entropy_of_torch(reduction: str) -> None:
    """For every reduction and for the gradient."""
    logits, target = classes(50)
    both = []
    for loss in (CLASSES["q = 1"], F.cross_entropy):
        a = logits.clone().requires_grad_()
        value = loss(a, target, reduction=reduction)
        both.append((value, *torch.autograd.grad(value.sum(), a)))
    torch.testing.assert_close(both[0], both[1])


def test_the_deformed_loss_goes_to_the_nll_as_q_goes_to_one() -> None:
    """The difference is (1 - q) log(p)^2 / 2, to first order, from either side."""
    logits, target = classes(50)
    nll = F.cross_entropy(logits, target, reduction="none")
    for step in (1e-4, 1e-9, -1e-4, -1e-9):
        near = deformed_nll_loss(logits, target, 1.0 - step, reduction="none")
        second = nll**3 * step**2  # bound of the next term, with rounding
        assert bool(((nll - near - step * nll**2 / 2).abs() <= second + 1e-12).all())


def test_powers_of_p_are_fitted_by_the_deformed_loss() -> None:
    """Its expectation is least at p proportional to pi ** (1 / q)."""
    pi, q = torch.tensor([0.5, 0.3, 0.2]).double(), 0.5
    a = (pi.log() / q).requires_grad_()
    rows = deformed_nll_loss(a.expand(3, 3), torch.arange(3), q, reduction="none")
    (slope,) = torch.autograd.grad((pi * rows).sum(), a)
    assert float(slope.abs().max()) < 1e-15
    torch.testing.assert_close((a.softmax(0) ** q) / (a.softmax(0) ** q).sum(), pi)


def test_the_slope_is_that_of_the_nll_times_a_power_of_p() -> None:
    """p - y for the NLL; p ** (1 - q) of it for the deformed one; -1 on paper for the ratio."""
    logits, target = classes(20)
    p = logits.softmax(-1)
    onehot = F.one_hot(target, 4).double()
    of_target = (p * onehot).sum(-1, keepdim=True)
    competing = p * (1 - onehot) / (1 - of_target)
    want = {"ratio": competing - onehot}
    for q in (0.0, 0.5, 1.0, 1.5):
        want[f"q = {q:g}"] = of_target ** (1 - q) * (p - onehot)
    for name, slope in want.items():
        a = logits.clone().requires_grad_()
        (got,) = torch.autograd.grad(CLASSES[name](a, target, reduction="sum"), a)
        torch.testing.assert_close(got, slope)


# -- what every one of them survives -------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_first_and_second_derivatives_are_those_of_differences(name: str) -> None:
    """Also with a class that is masked out."""
    logits, target = classes(3)
    masked = logits.clone()
    masked[:, 0] = -math.inf

    def whole(a: Tensor) -> Tensor:
        return CLASSES[name](a, target)

    def without_first(a: Tensor) -> Tensor:
        return CLASSES[name](torch.cat([masked[:, :1], a[:, 1:]], -1), target.clamp(min=1))

    for f in (whole, without_first):
        a = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(f, a)
        assert torch.autograd.gradgradcheck(f, a)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_the_last_axis_and_rows_come_back_in_their_shape(name: str) -> None:
    """Batch = loop; no axis at all is one row; vmap and jacrev agree."""
    loss = CLASSES[name]
    logits, target = classes(2, 3)
    rows = loss(logits, target, reduction="none")
    assert rows.shape == (2, 3)
    each = [[float(loss(logits[i, j], target[i, j])) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(rows, torch.tensor(each).double())
    torch.testing.assert_close(loss(logits, target), rows.mean())
    torch.testing.assert_close(loss(logits, target, reduction="sum"), rows.sum())
    a, t = logits[0], target[0]
    torch.testing.assert_close(torch.func.vmap(loss)(a, t), rows[0])
    slopes = torch.func.vmap(torch.func.grad(loss))(a, t)
    jacobian = torch.func.jacrev(lambda x: loss(x, t, reduction="none"))(a)
    torch.testing.assert_close(slopes, jacobian.diagonal(dim1=0, dim2=1).T)


@pytest.mark.parametrize("name", CLASSES)
def test_dtype_in_is_dtype_out_and_halves_are_computed_in_float32(name: str) -> None:
    """Rounding of the result is all that a half may lose."""
    logits, target = classes(40, dtype=torch.float16)
    for dtype, bits in ((torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 23)):
        a = logits.to(dtype)
        got = CLASSES[name](a, target, reduction="none")
        assert got.dtype == dtype
        want = CLASSES[name](a.double(), target, reduction="none")
        torch.testing.assert_close(got.double(), want, rtol=2.0**-bits * 8, atol=1e-6)


@pytest.mark.parametrize("name", [*CLASSES, "beta"])
def test_compiled_losses_equal_eager(name: str) -> None:
    """One graph; no compiler is needed."""
    loss: Loss = beta_nll if name == "beta" else CLASSES[name]
    args = mixture() if name == "beta" else classes(6)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), loss(*args))
    torch.compiler.reset()


def test_a_sure_and_right_row_gives_finite_gradients_in_float32() -> None:
    """And so does a row in which all competing classes are masked out."""
    sure = torch.tensor([[400.0, 0.0], [-400.0, 0.0]], requires_grad=True)
    masked = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    for name, loss in CLASSES.items():
        if name == "q = 1.5":  # 1 / sqrt(p) of the wrong row is e^200
            continue
        for a, t in ((sure, torch.tensor([0, 0])), (masked, torch.tensor([0]))):
            (slope,) = torch.autograd.grad(loss(a, t, reduction="sum"), a)
            assert bool(slope.isfinite().all()), name


# -- beta-NLL ----------------------------------------------------------------------------------


def test_beta_nll_of_one_gaussian_is_the_formula_of_seitzer() -> None:
    """Each dimension times its own variance to the power beta; gradient only outside the weight."""
    y, logits, loc, log_scale = mixture(k=1)
    variance = (2 * log_scale[:, 0]).exp()
    mean, error = loc[:, 0], y - loc[:, 0]
    for beta in (0.0, 0.25, 0.5, 1.0):
        each = F.gaussian_nll_loss(mean, y, variance, full=True, reduction="none")
        got = beta_nll(y, logits, loc, log_scale, beta=beta, reduction="none")
        torch.testing.assert_close(got, (variance**beta * each).sum(-1))
        slopes = torch.func.grad(
            lambda m, s, beta=beta: beta_nll(y, logits, m, s, beta=beta, reduction="sum"), (0, 1)
        )(loc, log_scale)
        torch.testing.assert_close(slopes[0][:, 0], -error * variance ** (beta - 1))
        want = variance**beta * (1 - error**2 / variance)
        torch.testing.assert_close(slopes[1][:, 0], want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_beta_zero_is_the_nll_of_a_mixture_with_its_gradient(reduction: str) -> None:
    """Also far from all components in float32, and with one switched off."""
    y, logits, loc, log_scale = mixture()
    logits[0, 0] = -math.inf
    y[1] = 1e6
    for dtype in (torch.float64, torch.float32):
        args = [a.to(dtype).requires_grad_() for a in (y, logits, loc, log_scale)]
        both = []
        for loss in (lambda *a, **k: beta_nll(*a, beta=0.0, **k), gaussian_mixture_nll):
            value = loss(*args, reduction=reduction)
            both.append((value, *torch.autograd.grad(value.sum(), args)))
        torch.testing.assert_close(both[0], both[1], rtol=1e-4 if dtype.itemsize == 4 else 1e-9,
                                   atol=1e-6)  # fmt: skip


def test_beta_one_gives_the_means_of_a_mixture_the_gradient_of_least_squares() -> None:
    """Shared among components by responsibility, whatever their scales."""
    y, logits, loc, log_scale = mixture(d=1)
    terms = logits - log_scale[..., 0] - 0.5 * ((y - loc[..., 0]) / log_scale[..., 0].exp()) ** 2
    slope = torch.func.grad(lambda m: beta_nll(y, logits, m, log_scale, beta=1.0, reduction="sum"))(
        loc
    )
    torch.testing.assert_close(slope[..., 0], terms.softmax(-1) * (loc[..., 0] - y))


def test_beta_nll_scales_with_the_unit_of_y() -> None:
    """In c y the loss without its logarithms is |c| ** (2 beta) times as large; so are slopes."""
    y, logits, loc, log_scale = mixture()
    c, beta = 1000.0, 0.5

    def slope(shift: float, factor: float) -> Tensor:
        return torch.func.grad(
            lambda s: beta_nll(factor * y, logits, factor * loc, s, beta=beta, reduction="sum")
        )(log_scale + shift)

    torch.testing.assert_close(slope(math.log(c), c), c ** (2 * beta) * slope(0.0, 1.0))


def test_beta_nll_survives_double_backward_and_vmap() -> None:
    """The second derivative is that of the first, weights held; rows one by one are the batch."""
    args = mixture(n=2)
    y, logits, loc, log_scale = (a.requires_grad_() for a in args)
    value = beta_nll(y, logits, loc, log_scale)
    slopes = torch.autograd.grad(value, (logits, loc, log_scale), create_graph=True)
    second = torch.autograd.grad(sum(s.square().sum() for s in slopes), (logits, loc, log_scale))
    assert all(bool(s.isfinite().all()) and float(s.abs().sum()) > 0 for s in second)
    rows = beta_nll(*args, reduction="none")
    torch.testing.assert_close(torch.func.vmap(beta_nll)(*args), rows)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "target", "error", "text"),
    [
        ([[0.0, 1.0]], torch.tensor([0]), TypeError, "logits must be a torch.Tensor; got list"),
        (torch.zeros(1, 2), [0], TypeError, "target must be a torch.Tensor; got list"),
        (torch.zeros(1, 2).long(), torch.tensor([0]), TypeError, "floating point; got .*int64"),
        (torch.zeros(1, 2), torch.zeros(1), TypeError, "integer class indices; got .*float32"),
        (torch.zeros(3, 1), torch.zeros(3).long(), ValueError, r"at least 2 classes; got \(3, 1\)"),
        (torch.zeros(3, 2), torch.zeros(3, 1).long(), ValueError, r"target must have shape \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "from 0 to 2: index 3 is out of"),
        (torch.zeros(2, 3), torch.tensor([0, -100]), ValueError, "from 0 to 2: index -100 is out"),
    ],
)
def test_wrong_arguments_are_refused(
    logits: Tensor, target: Tensor, error: type[Exception], text: str
) -> None:
    """By both losses of a classifier."""
    with pytest.raises(error, match=text):
        nll_ratio_loss(logits, target)
    with pytest.raises(error, match=text):
        deformed_nll_loss(logits, target, 0.5)


def test_options_out_of_range_are_refused() -> None:
    """Which, and what was found."""
    logits, target = classes(3)
    with pytest.raises(ValueError, match=r"q must be finite and not negative; got -0\.1"):
        deformed_nll_loss(logits, target, -0.1)
    with pytest.raises(ValueError, match=r"beta must lie between 0 and 1; got 1\.5"):
        beta_nll(*mixture(), beta=1.5)
    for loss, args in ((nll_ratio_loss, (logits, target)), (beta_nll, mixture())):
        with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none'; got 'me'"):
            loss(*args, reduction="me")
    y, *rest = mixture(d=1)
    with pytest.raises(ValueError, match=r"Did you mean y\[:, None\]"):
        beta_nll(y[:, 0], *rest)

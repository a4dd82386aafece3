"""The log density and its gradients to rounding error on hard inputs, against mpmath."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable

import pytest
import scipy.stats
import torch

from benchmarks import exact
from benchmarks.exact import Row, mp
from benchmarks.torture import TORTURE, Case, is_meaningful, rounded
from mdn.functional import gaussian_mixture_log_cdf, gaussian_mixture_log_prob
from tests import oracles
from tests.cases import MIXTURES

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# log_cdf in ulp of its dtype: z, log_ndtr and logsumexp round a few times each; 1e-12 is the
# promise in float64, where torch's log_ndtr itself is good to some 1e-14.
LOG_CDF_TOLERANCE = {torch.float64: 1e-12, torch.float32: 8 * torch.finfo(torch.float32).eps}
# One ulp in a log scale of -60 moves the two log densities here by 1e36 nats and more: which
# component owns y is decided by rounding, and any answer between the two has to be accepted.
ILL_POSED = "log scale -60, midway"
# Six percent of a number below this is less than the spacing of the dtype's subnormals.
TINY = {d: 40 * torch.finfo(d).smallest_normal * torch.finfo(d).eps for d in DTYPES}

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def evaluate(rows: Iterable[Row], dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    """Value and gradients of a batch of rows of equal K and D, row by row."""
    inputs = [
        torch.tensor(column, dtype=dtype, requires_grad=True) for column in zip(*rows, strict=True)
    ]
    value = gaussian_mixture_log_prob(*inputs)
    assert value.dtype == dtype and value.shape == inputs[0].shape[:-1]
    grads = torch.autograd.grad(value.sum(), inputs)
    parts = {"value": value} | dict(zip(Row._fields, grads, strict=True))
    return [{name: part[i] for name, part in parts.items()} for i in range(len(value))]


def report(name: str, faults: list[exact.Fault]) -> list[str]:
    return [f"{name}: {fault}" for fault in faults]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{str(dtype).removeprefix('torch.')}: {case.name}")
        for dtype in DTYPES
        for case in TORTURE
        if is_meaningful(case, dtype)
    ],
)
def test_value_and_gradients_match_mpmath(case: Case, dtype: torch.dtype) -> None:
    """|got - truth| <= a few ulp of every intermediate; no NaN; inf only where truth overflows."""
    row = rounded(case, dtype)
    assert not report(case.name, exact.judge(row, dtype, evaluate([row], dtype)[0]))


@each_dtype
def test_hard_and_easy_rows_of_one_batch_do_not_disturb_each_other(dtype: torch.dtype) -> None:
    """Batch = loop: each row of a mixed batch meets the bounds it meets alone."""
    groups: dict[tuple[int, int], list[Case]] = defaultdict(list)
    for case in TORTURE:
        if is_meaningful(case, dtype):
            groups[len(case.logits), len(case.y)].append(case)
    wrong = []
    for group in groups.values():
        rows = [rounded(case, dtype) for case in group]
        for case, row, got in zip(group, rows, evaluate(rows, dtype), strict=True):
            wrong += report(case.name, exact.judge(row, dtype, got))
    assert not wrong


@each_dtype
def test_a_row_needs_no_batch_axis(dtype: torch.dtype) -> None:
    """y (D,), logits (K,), loc and log_scale (K, D) give a scalar, as in a batch of one."""
    for case in (c for c in TORTURE if is_meaningful(c, dtype)):
        row = rounded(case, dtype)
        inputs = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in row]
        value = gaussian_mixture_log_prob(*inputs)
        grads = torch.autograd.grad(value, inputs)
        expected = evaluate([row], dtype)[0]
        for name, got in zip(expected, (value, *grads), strict=True):
            torch.testing.assert_close(got, expected[name], rtol=0.0, atol=0.0)


@each_dtype
@pytest.mark.parametrize("y", [0.4, 1e4], ids=["near", "far"])
def test_a_pruned_component_has_exactly_zero_gradient(dtype: torch.dtype, y: float) -> None:
    """pi_k = 0 gives r_k = 0: nothing flows to its logit, mean and scale, wherever it lies."""
    for mean, log_scale in itertools.product((0.4, -1e4, 1e4), (-20.0, 0.0, 20.0)):
        row = Row(
            (y,), (0.2, -math.inf, -0.3), ((0.0,), (mean,), (1.0,)), ((0.0,), (log_scale,), (0.2,))
        )
        row = rounded(Case("", *row), dtype)
        got = evaluate([row], dtype)[0]
        for name in ("logits", "loc", "log_scale"):
            assert got[name][1].abs().sum() == 0.0, (name, mean, log_scale)
        assert not exact.judge(row, dtype, got)


@each_dtype
def test_all_components_pruned_raises(dtype: torch.dtype) -> None:
    """No weight anywhere is no distribution."""
    y, logits, zeros = torch.zeros(2, 1), torch.zeros(2, 3), torch.zeros(2, 3, 1)
    logits[1] = -math.inf
    with pytest.raises(ValueError, match=r"logits.*-inf"):
        gaussian_mixture_log_prob(*(a.to(dtype) for a in (y, logits, zeros, zeros)))


@pytest.mark.parametrize("dtype", LOG_CDF_TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("y", [-1e6, -1e3, -40.0, -5.0, 0.5, 7.0])
def test_log_cdf_matches_mpmath_40_scales_below_and_further(y: float, dtype: torch.dtype) -> None:
    """log F stays accurate where F underflows, and where 1 - F is all that is left."""
    row = rounded(Case("", [y], [0.5, -1.0], [[0.0], [0.75]], [[0.0], [-0.5]]), dtype)
    inputs = [torch.tensor(a, dtype=dtype) for a in row]
    scale = [mp.exp(mp.mpf(ls)) for (ls,) in row.log_scale]
    truth = float(oracles.log_cdf(row.y[0], row.logits, [m for (m,) in row.loc], scale))
    got = gaussian_mixture_log_cdf(*inputs)
    assert got.dtype == dtype
    assert got.item() == pytest.approx(truth, rel=LOG_CDF_TOLERANCE[dtype], abs=0.0)


# --- the oracle and the judge, themselves -------------------------------------------------------


def test_only_float16_is_spared_cases_and_few() -> None:
    """The grid is meaningful wherever its inputs do not overflow: beyond 65504 in float16."""
    spared = {d: sum(not is_meaningful(case, d) for case in TORTURE) for d in DTYPES}
    assert spared.pop(torch.float16) < len(TORTURE) / 5
    assert not any(spared.values())


def test_oracle_gradient_is_the_derivative_of_the_oracle_value() -> None:
    """The closed form equals mpmath's numerical differentiation, entry by entry."""
    row = rounded(next(c for c in TORTURE if c.name == "moderate K=2 D=3"), torch.float64)
    shapes = [(3,), (2,), (2, 3), (2, 3)]
    flat = [mp.mpf(v) for a in row for v in torch.tensor(a, dtype=torch.float64).flatten().tolist()]

    def value(i: int, v: object) -> object:
        numbers = iter([*flat[:i], v, *flat[i + 1 :]])
        parts = [
            [next(numbers) for _ in range(s[0])]
            if len(s) == 1
            else [[next(numbers) for _ in range(s[1])] for _ in range(s[0])]
            for s in shapes
        ]
        return exact.log_prob(Row(*parts))

    grad = exact.gradient(row)
    derivatives = [*grad["y"], *grad["logits"], *itertools.chain(*grad["loc"], *grad["log_scale"])]
    for i, g in enumerate(derivatives):
        numeric = mp.diff(lambda v, i=i: value(i, v), flat[i])
        assert abs(numeric - g) < mp.mpf(10) ** -(exact.DIGITS // 3)


def test_oracle_value_matches_scipy() -> None:
    """One component: the product of normal densities."""
    row = rounded(next(c for c in TORTURE if c.name == "moderate K=1 D=8"), torch.float64)
    expected = scipy.stats.norm.logpdf(row.y, row.loc[0], [math.exp(s) for s in row.log_scale[0]])
    assert float(exact.log_prob(row)) == pytest.approx(expected.sum(), rel=1e-14)


@pytest.mark.parametrize("name", ["one component", "overlapping", "zero weight"])
def test_oracle_cdf_icdf_and_crps_agree_with_quadrature(name: str) -> None:
    """F' = p; icdf inverts F; log F and log(1 - F) add up; CRPS is the integral of (F - 1)^2."""
    logits, loc, scale = (a.flatten().tolist() for a in MIXTURES[name])
    y, step = 0.8, mp.mpf("1e-30")
    row = Row(
        (y,),
        tuple(logits),
        tuple((m,) for m in loc),
        tuple((mp.log(mp.mpf(s)),) for s in scale),
    )

    def f(x: object) -> object:
        return oracles.cdf(x, logits, loc, scale)

    slope = (f(y + step) - f(y - step)) / (2 * step)
    assert abs(slope - mp.exp(exact.log_prob(row))) < mp.mpf("1e-50")
    both = mp.exp(oracles.log_cdf(y, logits, loc, scale)) + mp.exp(
        oracles.log_sf(y, logits, loc, scale)
    )
    assert abs(both - 1) < mp.mpf("1e-90")
    for p in (1e-12, 0.3, 0.9):
        assert abs(f(oracles.icdf(p, logits, loc, scale)) / mp.mpf(p) - 1) < mp.mpf("1e-25")
    # Fifteen scales beyond the means hold all but 1e-50 of the mass; one cut at each kink or mean.
    ends = [min(loc) - 15 * max(scale), max(loc) + 15 * max(scale)]
    with mp.workdps(20):
        below = mp.quad(lambda x: f(x) ** 2, [*sorted({ends[0], *(m for m in loc if m < y)}), y])
        above = mp.quad(
            lambda x: (1 - f(x)) ** 2, [y, *sorted({ends[1], *(m for m in loc if m > y)})]
        )
        assert abs(oracles.crps(y, logits, loc, scale) - below - above) < 1e-14


@each_dtype
def test_judge_accepts_the_rounded_truth_and_nothing_visibly_off(dtype: torch.dtype) -> None:
    """The truth rounded to the dtype passes; NaN, inf and 6 % of the natural scale do not."""
    for case in (c for c in TORTURE if is_meaningful(c, dtype)):
        row = rounded(case, dtype)
        b = exact.bounds(row, dtype)
        limit = torch.finfo(dtype).max
        good = {}
        for name, truths in b.truth.items():
            nearest = torch.tensor([float(v) for v in truths], dtype=torch.float64)
            good[name] = (nearest if name == "value" else nearest.clamp(-limit, limit)).to(dtype)
        assert not exact.judge(row, dtype, good), case.name
        for name, right in good.items():
            wrong = [right * math.nan, torch.full_like(right, math.inf)]
            off = right.double() + 0.06 * float(b.scale[name])
            fits = off.abs().max() < limit and TINY[dtype] < b.scale[name] < limit
            if fits and case.name != ILL_POSED:
                wrong.append(off.to(dtype))
            for tensor, strict in itertools.product(wrong, (True, False)):
                faults = exact.judge(row, dtype, good | {name: tensor}, strict=strict)
                assert faults or (not strict and b.scale[name] > limit), (case.name, name)

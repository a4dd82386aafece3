"""Tests of the stack: it finds errors of the members, helps on new rows, and changes no more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from mdn import GaussianMixture
from mdn.estimator._stacking import Stack, background_scale, with_background

F64 = torch.float64
WIDE = torch.tensor([1.5], dtype=F64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_prob(dist: GaussianMixture, target: Tensor) -> Tensor:
    return dist.log_prob(target)


def truth(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Means (N, 1) and targets (N, 1) of y = mean + 0.5 noise."""
    mean = torch.randn(n, 1, generator=generator(seed), dtype=F64)
    return mean, mean + 0.5 * torch.randn(n, 1, generator=generator(seed + 1), dtype=F64)


def group(loc: Tensor, scale: float) -> GaussianMixture:
    """One Gaussian a member and row: loc (R, N, 1)."""
    return GaussianMixture(
        torch.zeros(*loc.shape[:2], 1, dtype=F64),
        loc.unsqueeze(-2),
        torch.full((*loc.shape[:2], 1, 1), scale, dtype=F64),
    )


def whole(groups: list[GaussianMixture]) -> list[list[int]]:
    """Each group as one subgroup."""
    return [[members.batch_shape[0]] for members in groups]


def fit(groups: list[GaussianMixture], y: Tensor, **options: Any) -> Stack:
    """Each group is one subgroup unless `sizes` are given."""
    given = {"sizes": whole(groups), "weight": None, "log_prob": log_prob, "min_scale": 1e-3}
    given["background"] = WIDE
    return Stack.fit(groups, target=y, **{**given, **options})


def nll(stack: Stack, groups: list[GaussianMixture], y: Tensor) -> float:
    return float(-stack.pool(groups, whole(groups)).log_prob(y).mean())


def test_what_is_not_fitted_of_a_single_member_is_computed_once() -> None:
    """Its scale is not; only its weight is, so its log-likelihoods stay as they are."""
    mean, y = truth(50)
    several, single = group(torch.stack([mean, mean + 0.3]), 0.5), group(mean[None], 0.7)
    calls = {1: 0, 2: 0}

    def counted(dist: GaussianMixture, target: Tensor) -> Tensor:
        if dist.batch_shape != (50,):  # the background
            calls[dist.batch_shape[0]] += 1
        return dist.log_prob(target)

    found = fit([several, single], y, log_prob=counted)
    assert calls[1] == 1 and calls[2] > 5
    assert not torch.equal(found.weight, torch.full_like(found.weight, 0.5))


def test_optimism_is_taken_off_the_log_likelihood() -> None:
    """One member has 0.7 nats more on every row: with that optimism the weights are equal."""
    zero = torch.zeros(1, 200, 1, dtype=F64)
    groups = [group(zero, 1.0), group(zero, math.exp(-0.7))]
    y = zero[0]
    honest = fit(groups, y, optimism=[0.0, 0.7])
    torch.testing.assert_close(honest.weight, torch.full((2,), 0.5, dtype=F64))
    assert float(fit(groups, y).weight[1]) > 0.9


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_it_finds_by_how_much_scales_are_wrong(factor: float) -> None:
    """Scales of half or twice the truth: factor 2 or 1/2, to 5 %; the NLL of new rows is near best.

    The factor of 4000 rows has a relative standard error of 1 / sqrt(8000), 1.1 %: beyond 4.5 of
    them lie 7 in 10^6.
    """
    mean, y = truth(4000)
    members = group(mean.expand(2, -1, -1), 0.5 * factor)
    stack = fit([members], y)
    assert float(stack.scale) == pytest.approx(1 / factor, rel=0.05)
    mean, y = truth(4000, seed=7)
    members = [group(mean.expand(2, -1, -1), 0.5 * factor)]
    best = float(-norm(mean, 0.5).logpdf(y).mean())
    assert nll(stack, members, y) < best + 0.005
    assert nll(Stack.uniform([[1]], min_scale=1e-3, background=WIDE), members, y) > best + 0.1


def test_it_finds_the_weights_of_groups_that_are_each_right_for_a_share() -> None:
    """y comes from the first group with probability 0.8: so its weight, to 0.03.

    A share of 4000 rows has a standard error of 0.0063: beyond 4.5 of them lie 7 in 10^6.
    """
    n = 4000
    mean, y = truth(n)
    second = torch.rand(n, 1, generator=generator(9)) < 0.2
    y = torch.where(second, y - 6, y)  # six off, 12 scales: the row shows which
    groups = [group(m.expand(2, -1, -1), 0.5) for m in (mean, mean - 6)]
    stack = fit(groups, y)
    assert stack.weight.tolist() == pytest.approx([0.8, 0.2], abs=0.03)
    assert float(stack.weight.sum()) == pytest.approx(1)
    assert stack.scale.tolist() == pytest.approx([1, 1], abs=0.06)


def test_the_better_group_gets_the_weight() -> None:
    """A group of the truth beside one of the marginal distribution."""
    mean, y = truth(2000)
    groups = [group(m.expand(2, -1, -1), s) for m, s in ((0 * mean, 1.1), (mean, 0.5))]
    stack = fit(groups, y)
    assert stack.weight[1] > 0.9


def test_subgroups_have_weights_of_their_own_and_share_the_factors_of_their_group() -> None:
    """One member of the truth beside one far off, both too narrow by half."""
    mean, y = truth(4000)
    members = group(torch.stack([0 * mean - 9, mean]), 0.25)
    stack = fit([members], y, sizes=[[1, 1]])
    assert len(stack.scale) == len(stack.spread) == 1
    assert stack.weight.tolist() == pytest.approx([0, 1], abs=0.02)
    without = fit([members], y)
    assert without.weight.tolist() == [1]
    pools = [s.pool([members], parts) for s, parts in ((stack, [[1, 1]]), (without, [[2]]))]
    assert float(pools[0].log_prob(y).mean() - pools[1].log_prob(y).mean()) > 0.5


def test_members_share_the_weight_of_their_subgroup() -> None:
    """Subgroups of two and three members and another group of one; equal without rows."""
    stack = Stack.uniform([[2, 3], [1]], min_scale=1e-3, background=WIDE)
    assert stack.weights([[2, 3], [1]]).tolist() == pytest.approx(
        [1 / 6] * 2 + [1 / 9] * 3 + [1 / 3]
    )
    stack.weight = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    mean, y = truth(50)
    groups = [group(mean + torch.arange(m).view(-1, 1, 1), 0.5) for m in (5, 1)]
    pooled = stack.pool(groups, [[2, 3], [1]])
    share = [0.25, 0.25, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0.3]
    loc = [0, 1, 2, 3, 4, 0]
    density = sum(w * norm.pdf(y, mean + m, 0.5) for w, m in zip(share, loc, strict=True))
    density = 0.999 * density + 0.001 * norm.pdf(y, 0, 1.5)
    np.testing.assert_allclose(pooled.log_prob(y), np.log(density[:, 0]), rtol=1e-12)


def test_it_finds_that_members_should_stand_closer() -> None:
    """Two members at the mean plus and minus 1, each of the true scale: spread near 0."""
    mean, y = truth(4000)
    members = group(torch.stack([mean - 1, mean + 1]), 0.5)
    stack = fit([members], y)
    assert float(stack.spread) < 0.3
    assert (
        nll(stack, [members], y)
        < nll(Stack.uniform([[1]], min_scale=1e-3, background=WIDE), [members], y) - 0.3
    )


def test_an_outlier_among_the_rows_raises_the_background_component() -> None:
    """2 % of the rows lie anywhere: the background component takes about their share."""
    mean, y = truth(4000)
    far = torch.rand(4000, 1, generator=generator(11)) < 0.02
    y = torch.where(far, 1.5 * torch.randn(4000, 1, generator=generator(12), dtype=F64), y)
    members = group(mean.expand(2, -1, -1), 0.5)
    stack = fit([members], y)
    assert 0.008 < stack.background_weight < 0.04
    mean, y = truth(4000)
    assert fit([members], y).background_weight < 0.002


def test_where_nothing_is_wrong_it_changes_little() -> None:
    """Members of the truth: factors near 1, and new rows lose less than 0.002 nats."""
    mean, y = truth(4000)
    members = group(mean.expand(3, -1, -1), 0.5)
    stack = fit([members], y)
    assert float(stack.scale) == pytest.approx(1, abs=0.05)
    mean, y = truth(4000, seed=7)
    members = group(mean.expand(3, -1, -1), 0.5)
    assert (
        nll(stack, [members], y)
        < nll(Stack.uniform([[1]], min_scale=1e-3, background=WIDE), [members], y) + 0.002
    )


def test_a_few_rows_say_little() -> None:
    """Four rows, all on their mean: the factor is held back, where likelihood alone wants 0."""
    mean, _ = truth(4)
    members = group(mean.expand(2, -1, -1), 0.5)
    stack = fit([members], mean)
    assert 0.4 < float(stack.scale) < 1


def test_what_is_not_recalibrated_keeps_its_scales() -> None:
    """A single member does not show how wide a pool should be; weights are still learnt."""
    mean, y = truth(1000)
    groups = [group(mean.expand(1, -1, -1), 0.1), group(mean.expand(2, -1, -1), 0.1)]
    stack = fit(groups, y)
    assert float(stack.scale[0]) == float(stack.spread[0]) == 1
    assert float(stack.scale[1]) == pytest.approx(5, rel=0.15)
    assert stack.weight[1] > 0.9


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0]])
def test_the_order_of_the_members_plays_no_part(order: list[int]) -> None:
    """Permuted members, the same stack and the same density, to rounding."""
    mean, y = truth(300)
    loc = mean + 0.3 * torch.randn(3, 300, 1, generator=generator(5), dtype=F64)
    first, second = group(loc, 0.3), group(loc[order], 0.3)
    stacks = [fit([m], y) for m in (first, second)]
    for name in ("scale", "spread", "weight"):
        a, b = (getattr(stack, name) for stack in stacks)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    densities = [
        s.pool([m], [[3]]).log_prob(y) for s, m in zip(stacks, (first, second), strict=True)
    ]
    assert densities[0] == pytest.approx(densities[1], abs=1e-6)


def test_whole_weights_are_repeated_rows() -> None:
    """Weights 0, 1, 2: the stack of so many copies."""
    mean, y = truth(300)
    loc = mean + 0.3 * torch.randn(2, 300, 1, generator=generator(5), dtype=F64)
    count = torch.arange(300) % 3
    weighted = fit([group(loc, 0.2)], y, weight=count.double())
    index = torch.arange(300).repeat_interleave(count)
    copies = fit([group(loc[:, index], 0.2)], y[index])
    torch.testing.assert_close(weighted.scale, copies.scale, rtol=1e-5, atol=0)
    assert weighted.background_weight == pytest.approx(copies.background_weight, rel=1e-4)


def test_a_likelihood_that_is_not_finite_leaves_the_plain_pool() -> None:
    """NaN on a row: no change is better than a wrong one."""
    mean, y = truth(50)

    def broken(dist: GaussianMixture, target: Tensor) -> Tensor:
        found = dist.log_prob(target)
        return torch.where(torch.arange(50) == 3, math.nan, found)

    members = group(mean.expand(2, -1, -1), 0.5)
    stack = fit([members], y, log_prob=broken)
    plain = Stack.uniform([[1]], min_scale=1e-3, background=WIDE)
    assert (stack.scale, stack.spread, stack.background_weight) == (
        plain.scale,
        plain.spread,
        plain.background_weight,
    )


def test_the_pool_is_the_mixture_written_out() -> None:
    """sum_g w_g / M_g sum_m N(y; centre + spread (mean - centre), scale sigma) + background."""
    g = generator(3)
    loc = [torch.randn(m, 6, 1, generator=g, dtype=F64) for m in (2, 3)]
    groups = [group(a, s) for a, s in zip(loc, (0.4, 0.7), strict=True)]
    stack = Stack(
        torch.tensor([1.5, 0.5], dtype=F64),
        torch.tensor([0.3, 2.0], dtype=F64),
        torch.tensor([0.6, 0.4], dtype=F64),
        0.05,
        1e-3,
    )
    y = torch.randn(6, 1, generator=g, dtype=F64)
    density = np.zeros(6)
    for a, s, scale, spread, w in zip(
        loc, (0.4, 0.7), (1.5, 0.5), (0.3, 2.0), (0.6, 0.4), strict=True
    ):
        mean = a[..., 0].numpy()
        centre = mean.mean(0)
        parts = norm.pdf(y[:, 0], centre + spread * (mean - centre), s * scale)
        density += 0.95 * w * parts.mean(0)
    density += 0.05 * norm.pdf(y[:, 0], 0, 1.5)
    pooled = stack.pool(groups, whole(groups))
    assert pooled.batch_shape == (6,) and pooled.n_components == 2 + 3 + 1
    np.testing.assert_allclose(pooled.log_prob(y).numpy(), np.log(density), rtol=1e-12)


def test_a_member_of_several_components_is_moved_and_widened_as_a_whole() -> None:
    """Spread moves the mean of a member, not its components from each other."""
    g = generator(4)
    logits = torch.randn(2, 5, 3, generator=g, dtype=F64)
    loc = torch.randn(2, 5, 3, 1, generator=g, dtype=F64)
    scale = torch.rand(2, 5, 3, 1, generator=g, dtype=F64) + 0.1
    members = GaussianMixture(logits, loc, scale)
    stack = Stack(*(torch.tensor([v], dtype=F64) for v in (2.0, 0.5, 1.0)), 0.0, 1e-3)
    (moved,) = stack.members([members])
    torch.testing.assert_close(moved.scale, 2 * scale)
    centre = members.mean.mean(0)
    torch.testing.assert_close(moved.mean, centre + 0.5 * (members.mean - centre))
    apart = loc - loc[:, :, :1]
    torch.testing.assert_close(moved.loc - moved.loc[:, :, :1], apart)


def test_several_targets_with_full_covariance_are_scaled_as_one() -> None:
    """D = 2: a factor c multiplies the covariance of every component by its square."""
    g = generator(6)
    tril = torch.randn(2, 4, 3, 2, 2, generator=g, dtype=F64).tril()
    diagonal = tril.diagonal(dim1=-2, dim2=-1).abs() + 0.2
    tril = tril.tril(-1) + torch.diag_embed(diagonal)
    loc = torch.randn(2, 4, 3, 2, generator=g, dtype=F64)
    members = GaussianMixture(torch.zeros(2, 4, 3, dtype=F64), loc, scale_tril=tril)
    stack = Stack(*(torch.tensor([v], dtype=F64) for v in (3.0, 1.0, 1.0)), 0.01, 1e-3)
    (moved,) = stack.members([members])
    torch.testing.assert_close(moved.covariance_matrix, 9 * members.covariance_matrix)
    pooled = stack.pool([members], [[2]])
    assert pooled.n_components == 7 and pooled.event_shape == (2,)
    assert bool(pooled.log_prob(torch.zeros(4, 2, dtype=F64)).isfinite().all())


def test_no_factor_breaks_the_floor() -> None:
    """Members far too wide are narrowed, but no scale falls below the floor."""
    mean, _ = truth(2000)
    stack = fit([group(mean.expand(2, -1, -1), 0.5)], mean, min_scale=0.2)
    (members,) = stack.members([group(mean.expand(2, -1, -1), 0.5)])
    assert float(members.scale.min()) == 0.2


def test_the_background_reaches_half_way_to_the_farthest_value() -> None:
    latent = torch.tensor([[0.0, 1.0], [0.5, math.nan], [400.0, -1.0]], dtype=F64)
    body = latent.clamp(max=9.0)
    assert background_scale(latent, body).tolist() == [200.0, 1.5]


def test_the_likelihood_with_a_background_is_the_mixture_of_both() -> None:
    members = group(torch.tensor([[[0.0], [1.0]]], dtype=F64), 0.2)  # (1, 2)
    y = torch.tensor([[[0.3], [90.0]]], dtype=F64)
    found = with_background(log_prob, torch.tensor([50.0], dtype=F64))(members, y)
    with np.errstate(under="ignore"):
        near = norm.logpdf(y[..., 0].numpy(), [[0.0, 1.0]], 0.2)
    far = np.log(1e-3) + norm.logpdf(y[..., 0].numpy(), 0, 50)
    np.testing.assert_allclose(found, np.logaddexp(near, far), rtol=1e-12)

"""Tests of the heads and of MDN: shapes, scale floors, initial components, units."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mdn import MDN, CategoricalHead, GaussianMixture, MDNHead, fit, load, save
from mdn.nn import MIN_SCALE, MDNEnsemble
from mdn.nn._families import FAMILIES
from mdn.nn._heads import Layout
from mdn.standardization import compress, expand, standardization, winsorized
from mdn.train import fit_ensemble
from mdn.warnings import DataWarning


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_noise(module: nn.Module, seed: int = 0, size: float = 0.5) -> nn.Module:
    """All that learns is random: a head fresh from the constructor has nearly equal outputs."""
    g = seeded(seed)
    with torch.no_grad():
        for p in filter(lambda p: p.requires_grad, module.parameters()):
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return module


def head(*args: object, **options: object) -> MDNHead:
    return with_noise(MDNHead(*args, **options))


def network(*args: object, **options: object) -> MDN:
    return with_noise(MDN(*args, **options))


def torch_log_prob(dist: GaussianMixture, y: Tensor) -> Tensor:
    """The log density by torch's own mixture."""
    parts = Independent(Normal(dist.loc, dist.scale), 1)
    return MixtureSameFamily(Categorical(logits=dist.logits), parts).log_prob(y)


# -- CategoricalHead --------------------------------------------------------------------------


def test_categorical_nll_is_minus_log_softmax_and_torchs_cross_entropy() -> None:
    """-log_prob(c) = -log softmax(W h + b)_c, the cross-entropy."""
    module = with_noise(CategoricalHead(4, 7)).double()
    h = torch.randn(50, 4, generator=seeded(1), dtype=torch.float64)
    target = torch.randint(0, 7, (50,), generator=seeded(2))
    nll = -module(h).log_prob(target)
    weight, bias = (p.detach().numpy() for p in (module.linear.weight, module.linear.bias))
    by_hand = -log_softmax(h.numpy() @ weight.T + bias, axis=1)[np.arange(50), target.numpy()]
    np.testing.assert_allclose(nll.detach().numpy(), by_hand, rtol=1e-13)
    torch.testing.assert_close(nll.mean(), nn.CrossEntropyLoss()(module.linear(h), target))
    assert nll.min() >= 0


def test_categorical_gradient_is_that_of_cross_entropy() -> None:
    """The loss and torch's CrossEntropyLoss train a classifier alike."""
    module = with_noise(CategoricalHead(3, 4)).double()
    h = torch.randn(20, 3, generator=seeded(1), dtype=torch.float64)
    target = torch.randint(0, 4, (20,), generator=seeded(2))
    parameters = list(module.parameters())
    ours = torch.autograd.grad(-module(h).log_prob(target).mean(), parameters)
    theirs = torch.autograd.grad(nn.CrossEntropyLoss()(module.linear(h), target), parameters)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_categorical_keeps_the_batch_shape(batch: tuple[int, ...]) -> None:
    """h (*, F) gives batch (*)."""
    dist = CategoricalHead(4, 3)(torch.zeros(*batch, 4))
    assert dist.batch_shape == batch
    assert dist.event_shape == ()
    torch.testing.assert_close(dist.probs.sum(-1), torch.ones(batch))


def test_categorical_head_learns_to_separate_classes_in_fit() -> None:
    """Three blobs far apart: the NLL falls from log 3 to nearly 0 and every row is right."""
    target = torch.arange(150) % 3
    centres = torch.tensor([[0.0, 4.0], [4.0, -2.0], [-4.0, -2.0]])
    x = centres[target] + 0.5 * torch.randn(150, 2, generator=seeded())
    module = with_noise(CategoricalHead(2, 3), size=0.0)
    assert -module(x).log_prob(target).mean().item() == pytest.approx(math.log(3), rel=1e-6)
    history = fit(module, (x, target), max_epochs=30, lr=0.1)
    assert history.train_nll[-1] < 0.05
    assert (module(x).probs.argmax(1) == target).all()


# -- MDNHead ----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
def test_head_keeps_any_batch_shape(batch: tuple[int, ...], covariance_type: str) -> None:
    """h (*, F) gives logits (*, K), loc and scale (*, K, D), and a mixture of batch (*)."""
    module = head(4, 3, 5, covariance_type=covariance_type)
    h = torch.randn(*batch, 4, generator=seeded(1))
    params = module.params(h)
    assert params._fields == ("logits", "loc", "scale")
    assert [tuple(p.shape) for p in params] == [(*batch, 5), (*batch, 5, 3), (*batch, 5, 3)]
    dist = module(h)
    assert isinstance(dist, GaussianMixture)
    assert dist.batch_shape == batch
    assert dist.event_shape == (3,)
    assert dist.log_prob(torch.zeros(*batch, 3)).shape == batch


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
def test_a_batch_is_a_loop_over_its_rows(covariance_type: str) -> None:
    """Row i of params(h) is params(h[i]): no axis is mixed up with another."""
    module = head(4, 3, 5, covariance_type=covariance_type).double()
    h = torch.randn(2, 3, 4, generator=seeded(1), dtype=torch.float64)
    whole = module.params(h)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(tuple(a[i, j] for a in whole), tuple(module.params(h[i, j])))


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
def test_params_equal_the_mixture_that_forward_returns(covariance_type: str) -> None:
    """forward(h) = GaussianMixture(*params(h)), with scale = softplus(raw) + min_scale."""
    module = head(4, 2, 3, covariance_type=covariance_type, min_scale=0.25).double()
    h = torch.randn(7, 4, generator=seeded(1), dtype=torch.float64)
    logits, loc, scale = module.params(h)
    dist = module(h)
    torch.testing.assert_close(dist.logits, torch.log_softmax(logits, -1))
    torch.testing.assert_close(dist.loc, loc, rtol=0, atol=0)
    torch.testing.assert_close(dist.scale, scale, rtol=0, atol=0)
    # the layer's own numbers, cut by hand
    out = module.linear(h)
    raw = out[:, 3 + 6 :].reshape(7, 3, -1)
    torch.testing.assert_close(logits, out[:, :3])
    torch.testing.assert_close(loc, out[:, 3:9].reshape(7, 3, 2))
    torch.testing.assert_close(scale, (raw.exp().log1p() + 0.25).expand(7, 3, 2))


def test_isotropic_has_one_scale_for_all_dimensions_of_a_component() -> None:
    """Isotropic: scale (*, K, D) is constant along D, and has fewer outputs for it."""
    module = head(4, 3, 5, covariance_type="isotropic")
    scale = module.params(torch.randn(6, 4, generator=seeded(1))).scale
    assert (scale == scale[..., :1]).all()
    assert len(scale[0].unique()) == 5
    assert module.linear.out_features == 5 + 15 + 5
    assert MDNHead(4, 3, 5).linear.out_features == 5 + 15 + 15


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
def test_head_works_under_vmap_of_functional_call(covariance_type: str) -> None:
    """An ensemble by vmap over stacked weights gives each member's own parameters."""
    members = [
        with_noise(MDNHead(4, 2, 3, covariance_type=covariance_type), seed=i) for i in range(3)
    ]
    stacked, buffers = torch.func.stack_module_state(members)
    h = torch.randn(6, 4, generator=seeded(1))

    def call(p: dict[str, Tensor], b: dict[str, Tensor], h: Tensor) -> tuple[Tensor, ...]:
        # as the method: functional_call calls forward, which returns a distribution
        return tuple(torch.func.functional_call(Parameters(members[0]), (prefixed(p), b), (h,)))

    class Parameters(nn.Module):
        def __init__(self, inner: MDNHead) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, h: Tensor) -> tuple[Tensor, ...]:
            return self.inner.params(h)

    def prefixed(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"inner.{name}": value for name, value in p.items()}

    together = torch.func.vmap(call, in_dims=(0, 0, None))(stacked, buffers, h)
    for i, member in enumerate(members):
        torch.testing.assert_close(tuple(a[i] for a in together), tuple(member.params(h)))


def test_head_under_vmap_over_rows_and_grad_matches_the_batch() -> None:
    """Per-row gradients by vmap(grad) sum to the gradient of the sum."""
    module = head(4, 2, 3).double()
    h = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def nll(p: dict[str, Tensor], h: Tensor, y: Tensor) -> Tensor:
        return -torch.func.functional_call(module, p, (h,)).log_prob(y)

    rows = torch.func.vmap(torch.func.grad(nll), in_dims=(None, 0, 0))(weights, h, y)
    whole = torch.autograd.grad(-module(h).log_prob(y).sum(), list(module.parameters()))
    torch.testing.assert_close([g.sum(0) for g in rows.values()], list(whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
def test_scale_never_falls_below_the_floor(covariance_type: str, dtype: torch.dtype) -> None:
    """scale >= min_scale, also where softplus(raw) underflows to 0."""
    module = head(2, 2, 4, covariance_type=covariance_type, min_scale=0.01).to(dtype)
    n_scales = 8 if covariance_type == "diagonal" else 4
    with torch.no_grad():
        module.linear.bias[-n_scales:] = -1e4
    scale = module.params(torch.randn(20, 2, generator=seeded(1)).to(dtype)).scale
    assert scale.dtype == dtype
    assert (scale >= torch.tensor(0.01, dtype=dtype)).all()
    assert (scale <= 0.0101).all()


def test_gradient_is_finite_at_the_floor() -> None:
    """At raw = -1e4 with y a million floors away, value and gradients stay finite."""
    module = head(2, 1, 3)
    with torch.no_grad():
        module.linear.bias[-3:] = -1e4
    h = torch.randn(5, 2, generator=seeded(1), requires_grad=True)
    for offset in (0.0, 1e3):
        y = module(h).loc.detach()[:, 0] + offset
        loss = -module(h).log_prob(y).mean()
        assert torch.isfinite(loss)
        grads = torch.autograd.grad(loss, [h, *module.parameters()])
        assert all(torch.isfinite(g).all() for g in grads)


def test_floor_bounds_the_density_on_one_point() -> None:
    """A component on its target gains at most log(1 / min_scale) over a standard normal."""
    module = head(2, 1, 1)
    with torch.no_grad():
        module.linear.bias[-1:] = -1e4
        module.linear.weight.zero_()
    log_prob = module(torch.zeros(1, 2)).log_prob(module.linear.bias[1:2].detach()[None])
    expected = -math.log(MIN_SCALE) - 0.5 * math.log(2 * math.pi)
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features must be at least 1; got 0"),
        ({"out_features": 0}, ValueError, "out_features must be at least 1; got 0"),
        ({"n_components": 0}, ValueError, "n_components must be at least 1; got 0"),
        ({"n_components": 2.0}, TypeError, "n_components must be an integer; got .*float"),
        ({"n_components": True}, TypeError, "n_components must be an integer; got .*bool"),
        (
            {"covariance_type": "banana"},
            ValueError,
            "covariance_type must be one of 'diagonal', 'isotropic'.*got 'banana'",
        ),
        ({"min_scale": 0.0}, ValueError, "min_scale must be positive and finite; got 0"),
        ({"min_scale": -1.0}, ValueError, "min_scale must be positive and finite; got -1"),
        ({"min_scale": math.nan}, ValueError, "min_scale must be positive and finite; got nan"),
        ({"min_scale": math.inf}, ValueError, "min_scale must be positive and finite; got inf"),
    ],
)
@pytest.mark.parametrize("kind", [MDNHead, MDN])
def test_bad_options_are_refused(
    kind: type[nn.Module], change: dict[str, object], error: type[Exception], message: str
) -> None:
    """Names the argument, what was expected and what was found."""
    with pytest.raises(error, match=message):
        kind(**{"in_features": 4, **change})


def test_categorical_head_refuses_sizes_below_one() -> None:
    """Names the argument."""
    with pytest.raises(ValueError, match="n_classes must be at least 1; got 0"):
        CategoricalHead(4, 0)


@pytest.mark.parametrize("module", [MDNHead(4), CategoricalHead(4, 3)])
@pytest.mark.parametrize("shape", [(6, 3), (), (4, 1)])
def test_heads_refuse_features_of_another_width(module: nn.Module, shape: tuple[int, ...]) -> None:
    """The message has both shapes."""
    with pytest.raises(
        ValueError, match=rf"h must have shape \(\*, 4\); got {re.escape(f'{shape}')}"
    ):
        module(torch.zeros(shape))


def test_repr_of_the_head_shows_its_options() -> None:
    """The options that the shapes do not show stand in the repr."""
    text = repr(MDNHead(4, 2, 3, covariance_type="isotropic", min_scale=0.5))
    assert "4, 2, n_components=3, covariance_type='isotropic', min_scale=0.5" in text


# -- initialize_from --------------------------------------------------------------------------


def first_mixture(module: MDNHead) -> GaussianMixture:
    """What the head says where the features say nothing."""
    return module(torch.zeros(module.in_features))


def test_initial_components_lie_apart_and_cover_the_quantiles() -> None:
    """One dimension: sorted means lie one in each K-th of the data, with equal shares."""
    y = torch.distributions.Exponential(1.0).icdf((torch.arange(1000) + 0.5) / 1000)[:, None]
    for k in (1, 2, 5, 20):
        module = MDNHead(3, 1, k)
        module.initialize_from(y)
        dist = first_mixture(module)
        loc = dist.loc.detach()[:, 0].sort().values
        edges = torch.quantile(y[:, 0], torch.linspace(0, 1, k + 1))
        assert (edges[:-1] < loc).all()
        assert (loc < edges[1:]).all()
        torch.testing.assert_close(dist.weights.detach(), torch.full((k,), 1 / k))


def test_initial_mixture_has_the_mean_and_about_the_spread_of_the_data() -> None:
    """Shares times group means give back the mean; the spread is within 10 percent."""
    y = 3 + 2 * torch.randn(2000, 1, generator=seeded())
    module = MDNHead(3, 1, 5)
    module.initialize_from(y)
    dist = first_mixture(module)
    torch.testing.assert_close(dist.mean.detach(), y.mean(0), rtol=1e-3, atol=1e-3)
    assert dist.stddev.item() == pytest.approx(y.std().item(), rel=0.1)


def test_initialisation_makes_the_biases_dominate() -> None:
    """For features of unit size the components keep their order, and rows differ little."""
    module = MDNHead(8, 1, 5)
    before = module.linear.weight.detach().clone()
    module.initialize_from(torch.randn(500, 1, generator=seeded()))
    torch.testing.assert_close(module.linear.weight.detach(), 0.1 * before)
    loc = module(torch.randn(50, 8, generator=seeded(1)).clamp(-1, 1)).loc.detach()[..., 0]
    assert (loc.diff(dim=-1) > 0).all()


def test_more_components_than_distinct_values_still_start_with_positive_scale() -> None:
    """K = 7 on two distinct values: each is met, nothing is infinite, no warning is raised."""
    for columns in (1, 2):
        y = (torch.arange(40) % 2).float()[:, None].expand(-1, columns)
        module = MDNHead(3, columns, 7)
        module.initialize_from(y)
        dist = first_mixture(module).detach()
        assert torch.isfinite(dist.log_prob(torch.tensor([0.0] * columns)))
        assert (dist.scale >= 0.1 * 0.4).all()
        assert dist.loc.min() == pytest.approx(0.0, abs=1e-6)
        assert dist.loc.max() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic"])
def test_components_find_clear_clusters_in_two_dimensions(covariance_type: str) -> None:
    """Four blobs far apart, of unequal size: one component each, its mean, scale and share."""
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    sizes = [50, 100, 150, 200]
    member = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    y = centres[member] + 0.5 * torch.randn(500, 2, generator=seeded())
    module = MDNHead(3, 2, 4, covariance_type=covariance_type)
    module.initialize_from(y)
    dist = first_mixture(module)
    nearest = torch.cdist(centres, dist.loc.detach()).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]
    for i, k in enumerate(nearest):
        rows = y[member == i]
        torch.testing.assert_close(dist.loc[k].detach(), rows.mean(0), rtol=1e-5, atol=1e-5)
        assert dist.weights[k].item() == pytest.approx(sizes[i] / 500, rel=1e-5)
    # 0.5 lies under the first floor of a tenth of the whole spread: about 0.5
    assert ((dist.scale > 0.4) & (dist.scale < 0.7)).all()


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("k", [1, 3])
def test_one_row_is_enough_to_initialise(columns: int, k: int) -> None:
    """One target: all components sit on it, at the floor, and the density there is finite."""
    y = torch.full((1, columns), 2.5)
    module = MDNHead(3, columns, k)
    module.initialize_from(y)
    dist = first_mixture(module)
    torch.testing.assert_close(dist.loc.detach(), y.expand(k, -1))
    assert ((dist.scale >= MIN_SCALE) & (dist.scale < 1.1 * MIN_SCALE)).all()
    assert torch.isfinite(dist.log_prob(y[0]))


def test_initialise_keeps_every_component_above_a_large_floor() -> None:
    """A floor of 10 standard deviations of y: scales start on it, with a finite raw value."""
    module = MDNHead(3, 1, 5, min_scale=10.0)
    y = torch.randn(100, 1, generator=seeded())
    module.initialize_from(y)
    assert torch.isfinite(module.linear.bias).all()
    floor = 10 * y.std(correction=0)
    scale = first_mixture(module).scale
    assert ((scale >= floor * (1 - 1e-6)) & (scale < 1.01 * floor)).all()


UNITED = ["gaussian", *(name for name, family in FAMILIES.items() if family.units != "none")]


@pytest.mark.parametrize("make", ["head", "mdn"])
@pytest.mark.parametrize("family", UNITED)
def test_training_is_the_same_in_every_unit_of_y(family: str, make: str) -> None:
    """NLL(c y) = NLL(y) + log c after the same training, c from 2e-5 to 1e4."""
    g = seeded()
    x = torch.rand(200, 1, generator=g)
    y = (x + 0.5 * torch.randn(200, 1, generator=g)).exp().double()

    def nll(c: float) -> float:
        torch.manual_seed(0)
        if make == "mdn":
            model: nn.Module = MDN(1, 1, 2, (8,), family=family).standardize_(x, c * y)
        else:
            last = MDNHead(8, 1, 2, family=family)
            last.initialize_from(c * y)
            model = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), last)
        return fit(model, (x, c * y), max_epochs=5, lr=1e-2).train_nll[-1] - math.log(c)

    for c in (2.0**-16, 1e4):
        assert nll(c) == pytest.approx(nll(1.0), abs=1e-4)


@pytest.mark.parametrize("make", ["head", "mdn"])
@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_large_counts_are_learnt(family: str, make: str) -> None:
    """Counts about 1e4: the start has their mean, the end is near the truth (before: 37 nats)."""
    g = seeded()
    x = torch.rand(500, 1, generator=g) * 2 - 1
    rate = 1e4 * (0.5 * x).exp()
    y = torch.poisson(rate, generator=g)
    torch.manual_seed(0)
    if make == "mdn":
        model: nn.Module = MDN(1, 1, 1, (16,), family=family).standardize_(x, y)
    else:
        last = MDNHead(16, 1, 1, family=family)
        last.initialize_from(y)
        model = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), last)
    assert (model(x).mean.mean() / y.mean()).item() == pytest.approx(1.0, abs=0.1)
    fit(model, (x, y), max_epochs=60, lr=1e-2)
    truth = torch.distributions.Poisson(rate.double()).log_prob(y.double()).mean()
    assert (truth - model(x).log_prob(y).mean()).item() < 3.0


def test_units_of_a_head_survive_what_a_module_goes_through(tmp_path: Path) -> None:
    """Casts keep their digits; the state dict holds them; params are in the unit of y."""
    y = 1e9 + torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
    for kind in ("diagonal", "full", "low_rank"):
        first = MDNHead(3, 2, 2, covariance_type=kind).double()
        first.initialize_from(y)
        h = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
        before = first(h).log_prob(y[:5])
        params = first.params(h)
        again = GaussianMixture(**params._asdict())
        torch.testing.assert_close(again.log_prob(y[:5]), before, rtol=1e-6, atol=1e-6)
        assert first.float().double().units[0].equal(y.mean(0))
        second = MDNHead(3, 2, 2, covariance_type=kind).double()
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(second(h).log_prob(y[:5]), first(h).log_prob(y[:5]))
        second.load_state_dict(MDNHead(3, 2, 2, covariance_type=kind).state_dict())
        assert second.units is None


def test_initialise_leaves_the_global_random_state_alone() -> None:
    """k-means draws from its own generator, and gives the same start each time."""
    y = torch.randn(200, 2, generator=seeded())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = MDNHead(3, 2, 4), MDNHead(3, 2, 4)
    torch.set_rng_state(before[0])
    first.initialize_from(y)
    second.initialize_from(y)
    torch.testing.assert_close(first.linear.bias, second.linear.bias, rtol=0, atol=0)
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(5), r"y must have shape \(N, 1\); got \(5,\). Did you mean y\[:, None\]\?"),
        (torch.zeros(5, 2), r"y must have shape \(N, 1\); got \(5, 2\)$"),
        (torch.zeros(0, 1), "y must have at least one row"),
        (torch.tensor([[0.0], [math.nan]]), "y must be finite; row 1 is not"),
        (torch.tensor([[0.0], [1.0], [-math.inf]]), "y must be finite; row 2 is not"),
    ],
)
def test_initialise_refuses_what_is_no_target(y: Tensor, message: str) -> None:
    """Shape, emptiness and values have their own messages, with the first bad row."""
    with pytest.raises(ValueError, match=message):
        MDNHead(3).initialize_from(y)


# -- standardization --------------------------------------------------------------------------


def test_standardization_matches_numpy_and_is_zero_for_a_constant_column() -> None:
    """Mean and population standard deviation; 0.1 repeated has spread exactly 0."""
    a = torch.randn(1000, 3, generator=seeded(), dtype=torch.float64) * 5 + 2
    a[:, 1] = 0.1
    assert a[:, 1].mean() != 0.1  # rounding of the sum
    shift, scale = standardization(a)
    np.testing.assert_allclose(shift.numpy(), a.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(scale.numpy()[[0, 2]], a.numpy().std(0)[[0, 2]], rtol=1e-13)
    assert shift[1] == 0.1
    assert scale[1] == 0.0


@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_standardization_follows_any_unit(unit: float) -> None:
    """std(c a) = c std(a), where the squares would over- or underflow."""
    a = torch.randn(100, 1, generator=seeded(), dtype=torch.float64)
    shift, scale = standardization(a * unit)
    assert scale.item() == pytest.approx(unit * a.std(correction=0).item(), rel=1e-12)
    assert shift.item() == pytest.approx(unit * a.mean().item(), rel=1e-12)


# -- MDN --------------------------------------------------------------------------------------


def toy(n: int = 200, dims: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Rows with y near 3 x0 - x1, in float64."""
    x = torch.randn(n, 2, generator=seeded(10), dtype=torch.float64)
    noise = torch.randn(n, dims, generator=seeded(11), dtype=torch.float64)
    return x.to(dtype), (3 * x[:, :1] - x[:, 1:] + 0.5 * noise).to(dtype)


@pytest.mark.parametrize("dims", [1, 3])
def test_mdn_returns_a_mixture_in_the_users_units(dims: int) -> None:
    """standardize_ on y around 1000 +- 50: the first mixture is already there."""
    x, y = toy(dims=dims)
    y = 1000 + 50 * (y - y.mean(0)) / y.std(0)
    dist = MDN(2, dims).standardize_(x, y)(x)
    assert isinstance(dist, GaussianMixture)
    assert (dist.batch_shape, dist.event_shape, dist.n_components) == ((200,), (dims,), 5)
    assert ((dist.mean - 1000).abs() < 30).all()
    assert ((dist.stddev > 25) & (dist.stddev < 100)).all()


def test_standardisation_is_in_the_state_dict() -> None:
    """The four buffers are saved and have the data's mean and standard deviation."""
    x, y = toy()
    state = MDN(2).standardize_(x, y).state_dict()
    torch.testing.assert_close(state["x_shift"], x.mean(0))
    torch.testing.assert_close(state["x_scale"], x.std(0, correction=0))
    torch.testing.assert_close(state["y_shift"], y.mean(0))
    torch.testing.assert_close(state["y_scale"], y.std(0, correction=0))


@pytest.mark.parametrize("dims", [1, 2])
def test_load_state_dict_into_a_fresh_mdn_reproduces_it_bit_for_bit(dims: int) -> None:
    """The state dict is the whole model."""
    x, y = toy(dims=dims)
    first = MDN(2, dims, 3, (8,)).standardize_(x, 100 * y)
    second = MDN(2, dims, 3, (8,))
    assert not torch.equal(first(x).loc, second(x).loc)
    assert second.load_state_dict(first.state_dict()).missing_keys == []
    for a, b in zip(first(x).numpy().values(), second(x).numpy().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_dict_survives_torch_save_and_a_parent_module(tmp_path: Path) -> None:
    """The buffers find their shape also below another module, with weights_only=True."""
    x, y = toy()
    first = nn.ModuleDict({"inner": MDN(2).standardize_(x, y)})
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = nn.ModuleDict({"inner": MDN(2)})
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(first["inner"](x).loc, second["inner"](x).loc)


def test_load_state_dict_refuses_a_model_of_another_shape() -> None:
    """Torch's own message, naming the tensors."""
    with pytest.raises(RuntimeError, match="size mismatch for y_shift"):
        MDN(2, 1).load_state_dict(MDN(2, 3).state_dict())


@pytest.mark.parametrize("factor", [60.0, 1 / 60, 1e-12, 1e12])
def test_a_change_of_unit_shifts_the_nll_by_its_logarithm(factor: float) -> None:
    """NLL(c y + d) = NLL(y) + log c, from the first forward on."""
    x, y = toy()
    torch.manual_seed(0)
    model = MDN(2)
    state = {name: p.clone() for name, p in model.named_parameters()}

    def log_prob(target: Tensor) -> Tensor:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(state[name])
        return model.standardize_(x, target)(x).log_prob(target)

    plain, changed = log_prob(y), log_prob(factor * y + 7 * factor)
    torch.testing.assert_close(changed, plain - math.log(factor), rtol=0, atol=1e-9)


def test_several_targets_each_have_their_own_unit() -> None:
    """NLL(C y) = NLL(y) + log|det C| for diagonal C."""
    x, y = toy(dims=2)
    factors = torch.tensor([1e3, 1e-2], dtype=torch.float64)
    model = MDN(2, 2)
    state = {name: p.clone() for name, p in model.named_parameters()}
    plain = model.standardize_(x, y)(x).log_prob(y)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(state[name])
    changed = model.standardize_(x, factors * y)(x).log_prob(factors * y)
    torch.testing.assert_close(changed, plain - factors.log().sum(), rtol=0, atol=1e-8)


def test_affine_of_the_network_is_the_density_of_the_units() -> None:
    """log p(y) = log p_standard((y - shift) / scale) - log scale, by torch's mixture."""
    x, y = toy(dims=2)
    y = 40 * y + torch.tensor([5.0, -300.0])
    model = network(2, 2).double().standardize_(x, y)
    inner = model.network((x - x.mean(0)) / x.std(0, correction=0))
    standard = torch_log_prob(inner, (y - y.mean(0)) / y.std(0, correction=0))
    expected = standard - y.std(0, correction=0).log().sum()
    torch.testing.assert_close(model(x).log_prob(y), expected)


def test_standard_units_are_those_of_the_network() -> None:
    """Training on them gives the NLL in y's unit, less log y_scale."""
    x, y = toy()
    model = network(2).standardize_(x, 30 * y)
    x_std, y_std = model.standard_units(x, 30 * y)
    assert x_std.dtype == y_std.dtype == torch.float32
    torch.testing.assert_close(y_std.double().std(correction=0).item(), 1.0, rtol=1e-6, atol=0)
    inside = model.network(x_std).log_prob(y_std).double()
    outside = model(x).log_prob(30 * y)
    torch.testing.assert_close(inside - model.y_scale.log(), outside, rtol=1e-4, atol=1e-4)


def test_a_constant_column_of_x_has_no_effect() -> None:
    """A column without spread gets scale 1: it enters as 0, and nothing is infinite."""
    x, y = toy()
    x = torch.cat([x, torch.full((200, 1), 1e9, dtype=torch.float64)], 1)
    model = network(3).standardize_(x, y)
    assert model.x_scale[2] == 1.0
    assert model.x_shift[2] == 1e9
    assert (model.standard_units(x, y)[0][:, 2] == 0).all()
    assert torch.isfinite(model(x).log_prob(y)).all()


def test_what_never_varied_has_no_influence_and_what_hardly_did_a_bounded_one() -> None:
    """Constant in training: bit for bit. Noise of 1e-9: as at three widths beyond the range."""
    x, y = toy()
    x = torch.cat([x, torch.full((200, 1), 0.3, dtype=x.dtype), 1e-9 * x[:, :1].roll(1, 0)], 1)
    model = network(4).standardize_(x, y)
    changed = x.clone()
    changed[7:, 2] = 500.0
    with pytest.warns(DataWarning, match=r"in column 2: 193 of 200 rows, the first 500 in row 7;"):
        found = model(changed)
    assert torch.equal(found.loc, model(x).loc)
    low, high = x[:, 3].min(), x[:, 3].max()
    at_limit = x.clone()
    at_limit[:, 3] = high + 3 * (high - low)
    changed = x.clone()
    changed[:, 3] = 1e-3
    with pytest.warns(DataWarning, match="in column 3: 200 of 200 rows, the first 0.001 in row 0"):
        found = model(changed)
    torch.testing.assert_close(found.loc, model(at_limit).loc, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_values_within_three_widths_and_rounding_are_no_reason_to_warn() -> None:
    """Fresh rows of the same kind, and a constant 0.1 that comes back as float32."""
    x, y = toy()
    x = torch.cat([x, torch.full((200, 1), 0.1, dtype=x.dtype)], 1)
    model = network(3).standardize_(x, y)
    model(x.float())
    model.eval()(x[0])
    assert model(x.reshape(2, 100, 3)).batch_shape == (2, 100)


def with_outliers(n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Counts with ten values of 1e5 to 1e7 in x0, an ordinary x1, and y near sin(count / 2)."""
    x = torch.stack(
        [torch.poisson(torch.full((n,), 6.0), generator=g), torch.randn(n, generator=g)]
    )
    y = torch.sin(x[0] / 2)[:, None] + 0.3 * torch.randn(n, 1, generator=g)
    spoilt = x.t().clone()
    spoilt[:10, 0] = 10 ** torch.linspace(5, 7, 10)
    return spoilt, x.t().clone(), y


def test_only_a_column_with_long_tails_is_compressed() -> None:
    """arsinh(t) + s t of t = (x - median) / u, u the median distance from it, then standardised.

    Both parts have one standard deviation.
    """
    x, clean, y = with_outliers(400, seeded())
    model = MDN(2).standardize_(x, y)
    column = x[:, 0].double().numpy()
    centre = np.sort(column)[199]
    distance = np.sort(np.abs(column - centre))
    distance = distance[distance > 0]
    unit = distance[(len(distance) - 1) // 2] / norm.ppf(0.75)
    t = (column - centre) / unit
    h = np.arcsinh(t) + t * np.arcsinh(t).std() / t.std()
    found = model.double().standard_units(x, y)[0].numpy()
    np.testing.assert_allclose(found[:, 0], (h - h.mean()) / h.std(), rtol=1e-12)
    plain = MDN(2).standardize_(clean, y)
    assert plain.x_tails is None
    np.testing.assert_array_equal(found[:, 1], plain.double().standard_units(clean, y)[0][:, 1])
    g = torch.Generator().manual_seed(1)
    ordinary = torch.stack(
        [
            torch.randn(300, generator=g),
            torch.rand(300, generator=g),
            torch.empty(300).exponential_(generator=g),
            torch.randn(300, generator=g).exp(),
            (torch.rand(300, generator=g) < 0.02).float(),
            torch.zeros(300),
        ],
        1,
    )
    assert MDN(6).standardize_(ordinary, torch.randn(300, 1, generator=g)).x_tails is None


def test_ten_outliers_do_not_hide_the_other_rows_of_a_column() -> None:
    """The NLL of fresh rows, 0.5 log(2 pi e 0.09) in truth, is 1.1 without the column."""
    x, _, y = with_outliers(400, seeded())
    _, fresh, y_fresh = with_outliers(1000, seeded(1))
    torch.manual_seed(0)
    model = MDN(2, n_components=1, hidden=(32,)).standardize_(x, y)
    fit(model, (x, y), max_epochs=60, lr=0.01, progress=False)
    truth = 0.5 * math.log(2 * math.pi * math.e * 0.3**2)
    assert -model(fresh).log_prob(y_fresh).mean().item() < truth + 0.4


@pytest.mark.parametrize("effect", ["linear", "logarithm"])
def test_a_log_normal_column_may_act_by_its_value_or_by_its_logarithm(effect: str) -> None:
    """A column of sigma 2: excess of fresh rows over the truth, mean of two seeds, in nats.

    0.07 where y is linear in it, 0.23 where it is so in its logarithm.  With the value alone it was
    0.04 and 0.46, with the logarithm alone 0.09 and 0.22.
    """

    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        g = seeded(seed)
        z = torch.randn(n, 2, generator=g, dtype=torch.float64)
        x = torch.stack([(2 * z[:, 0]).exp(), z[:, 1]], 1)
        size = math.sqrt((math.exp(4) - 1) * math.exp(4))
        first = x[:, 0] / size if effect == "linear" else z[:, 0]
        noise = 0.2 * torch.randn(n, generator=g, dtype=torch.float64)
        return x, (first + 0.5 * x[:, 1] + noise).unsqueeze(1)

    truth, found = 0.5 * math.log(2 * math.pi * math.e * 0.2**2), []
    for seed in (0, 1):
        (x, y), (fresh, y_fresh) = draw(600, seed), draw(3000, 100 + seed)
        torch.manual_seed(seed)
        model = MDN(2, 1, 1, (32, 32)).standardize_(x, y)
        fit(model, (x, y), max_epochs=60, lr=5e-3, batch_size=64, progress=False)
        found.append(-model(fresh).log_prob(y_fresh).clamp(min=-20).mean().item() - truth)
    assert sum(found) / 2 < {"linear": 0.085, "logarithm": 0.35}[effect]


def test_expand_is_the_inverse_of_compress() -> None:
    """From 1e-3 to 1e12 units off the centre, on both sides; in the form of older files too."""
    t = torch.logspace(-3, 12, 40, dtype=torch.float64)
    x = torch.cat([-t, torch.zeros(1), t]).unsqueeze(1).expand(-1, 3) * 2 + 5
    tails = torch.tensor([[5.0, 5, 0], [2, 2, 0], [1e-6, 0.3, 0]], dtype=torch.float64)
    for rows in (tails, tails[:2]):
        back = expand(compress(x, rows), rows)
        torch.testing.assert_close(back - 5, x - 5, rtol=1e-9, atol=1e-9)


def test_long_tails_and_range_are_saved_and_older_files_load(tmp_path: Path) -> None:
    """By mdn.save and by the state dict, whose older form has neither, into any MDN."""
    x, clean, y = with_outliers(100, seeded())
    model = network(2).standardize_(x, y)
    save(model, tmp_path / "m.mdn")
    assert torch.equal(load(tmp_path / "m.mdn")(x).loc, model(x).loc)
    other = MDN(2).standardize_(clean, y)
    older = {k: v for k, v in network(2).state_dict().items() if k != "x_range"}
    older |= {"x_shift": clean.double().mean(0), "x_scale": clean.double().std(0)}
    for before in (MDN(2), model, other):
        before.load_state_dict(older)
        assert before.x_tails is None
        assert before.x_range.tolist() == [-math.inf, math.inf]
        assert before.standard_units(clean, y)[0].abs().max() < 20


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9, 0.1])
def test_constant_y_gives_a_finite_density_at_the_floor(value: float) -> None:
    """A y without spread gets its own size as scale (1 for 0); the density sits on it."""
    x, _ = toy()
    y = torch.full((200, 1), value, dtype=torch.float64)
    model = MDN(2).standardize_(x, y)
    size = abs(value) or 1.0
    assert model.y_scale.item() == size
    dist = model(x)
    assert torch.isfinite(dist.log_prob(y)).all()
    assert (dist.scale >= MIN_SCALE * size * (1 - 1e-6)).all()
    assert (dist.scale < 2 * MIN_SCALE * size).all()
    assert ((dist.mean - value).abs() <= 0.5 * size).all()


def test_custom_backbone_reads_images() -> None:
    """A CNN from (N, C, H, W) to (N, F): one mean and one scale for all pixels; it trains."""
    g = seeded()
    x = 200 + 30 * torch.randn(64, 1, 6, 6, generator=g)
    y = x.mean((1, 2, 3))[:, None] * 10
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 8), nn.SiLU())
    model = MDN(8, 1, 2, backbone=cnn).standardize_(x, y)
    assert model.x_shift.shape == ()
    assert model.x_scale.item() == pytest.approx(x.double().std().item(), rel=1e-3)
    dist = model(x)
    assert (dist.batch_shape, dist.event_shape) == ((64,), (1,))
    before = -dist.log_prob(y).mean().item()
    history = fit(model, (x, y), max_epochs=20, lr=0.01)
    assert history.train_nll[-1] < before - 0.3
    fresh_cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 8), nn.SiLU()
    )
    fresh = MDN(8, 1, 2, backbone=fresh_cnn)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x).loc, model(x).loc)


def test_custom_backbone_of_tabular_rows_is_standardised_by_column() -> None:
    """x (N, F) keeps one mean a column whatever the backbone makes of it."""
    x, y = toy()
    model = MDN(7, backbone=nn.Linear(2, 7)).standardize_(x * torch.tensor([1.0, 1e6]), y)
    assert model.x_scale.shape == (2,)
    assert model.x_scale[1] > 1e5


def test_mdn_with_a_backbone_has_no_state() -> None:
    """Its code is not in the numbers."""
    with pytest.raises(TypeError, match=r"backbone of its own has no state without its code"):
        MDN(7, backbone=nn.Linear(2, 7)).state()


def test_float64_rows_with_a_large_offset_keep_their_precision() -> None:
    """x + 1e9 in float64 predicts what x does, although float32 would see one value only."""
    x, y = toy()
    offset = 1e9
    assert len((x[:, 0] + offset).float().unique()) < 5
    models = []
    for moved in (x, x + offset):
        torch.manual_seed(0)
        models.append(MDN(2).standardize_(moved, y)(moved))
    # x + 1e9 itself is rounded to 1e-7
    torch.testing.assert_close(models[1].loc, models[0].loc, rtol=0, atol=1e-5)
    assert models[1].loc.std(0).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_cast_of_the_weights_does_not_round_the_units(dtype: torch.dtype) -> None:
    """model.to(dtype) casts what is learned; the standardisation stays float64."""
    x, y = toy()
    model = network(2).standardize_(x + 1e9, 1e6 * y + 1e8)
    before = {name: a.clone() for name, a in model.named_buffers()}
    exact = model(x + 1e9)
    assert model.to(dtype) is model
    assert {p.dtype for p in model.parameters()} == {dtype}
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.1}.get(dtype, 1e-4)
    found = model(x + 1e9)
    assert ((found.mean - exact.mean).abs() / exact.stddev < tolerance).all()


def test_y_with_a_large_offset_keeps_its_precision() -> None:
    """NLL(y + 1e8) = NLL(y), to the rounding of y + 1e8 itself."""
    x, y = toy()
    found = []
    for target in (y, y + 1e8):
        torch.manual_seed(0)
        found.append(MDN(2).standardize_(x, target)(x).log_prob(target))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    """The mixture has x's dtype, whatever the weights' (float32 and float64)."""
    x, y = toy()
    for weights in (torch.float32, torch.float64):
        model = MDN(2).to(weights).standardize_(x, y)
        dist = model(x.to(dtype))
        assert {a.dtype for a in (dist.logits, dist.loc, dist.scale)} == {dtype}
        assert dist.log_prob(y.to(dtype)).dtype == dtype
        assert torch.isfinite(dist.log_prob(y.to(dtype))).all()


def test_integer_x_gives_the_dtype_of_the_weights() -> None:
    """Integers are no dtype for a density."""
    x, y = toy()
    model = MDN(2).standardize_(x, y)
    whole = (3 * x).long()
    assert model(whole).loc.dtype == torch.float32
    torch.testing.assert_close(model(whole).loc, model(whole.float()).loc)


def test_target_without_its_last_axis_is_refused_everywhere() -> None:
    """(N,) against a batch of N never broadcasts to (N, N)."""
    x, y = toy(n=64, dtype=torch.float32)
    model = MDN(2).standardize_(x, y)
    message = r"got \(64,\)\. Did you mean y\[:, None\]\?"
    with pytest.raises(ValueError, match=r"y must have shape \(\*, 1\); " + message):
        model(x).log_prob(y[:, 0])
    with pytest.raises(ValueError, match=r"y must have shape \(N, 1\); " + message):
        model.standardize_(x, y[:, 0])
    with pytest.raises(ValueError, match=r"y must have shape \(64, 1\).*" + message):
        fit(model, (x, y[:, 0]), max_epochs=1, batch_size=64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:-1], y), r"x and y must have one length; got 199 and 200 rows"),
        (lambda x, y: (x[:, :1], y), r"x must have shape \(N, 2\); got \(200, 1\)"),
        (lambda x, y: (x, y.expand(-1, 2)), r"y must have shape \(N, 1\); got \(200, 2\)"),
        (lambda x, y: (x[:0], y[:0]), r"x must have at least one row; got shape \(0, 2\)"),
        (lambda x, y: (x.index_fill(0, torch.tensor(7), math.nan), y), "x must be finite; row 7"),
        (lambda x, y: (x, y.index_fill(0, torch.tensor(9), math.inf)), "y must be finite; row 9"),
        (lambda x, y: (x, y.index_fill(0, torch.tensor(3), math.nan)), "y must be finite; row 3"),
    ],
)
def test_standardize_refuses_what_does_not_fit(spoil: object, message: str) -> None:
    """Length, shape, emptiness, NaN and inf, with the first bad row."""
    with pytest.raises(ValueError, match=message):
        MDN(2).standardize_(*spoil(*toy()))


def test_a_refused_standardize_leaves_the_model_as_it_was() -> None:
    """No half of it is done."""
    x, y = toy()
    model = MDN(2).standardize_(x, y)
    before = {name: a.clone() for name, a in model.state_dict().items()}
    with pytest.raises(ValueError, match="row 3"):
        model.standardize_(x + 1, y.index_fill(0, torch.tensor(3), math.nan))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_arrays_are_refused_with_their_type() -> None:
    """MDN takes tensors; MDNRegressor takes arrays."""
    x, y = toy()
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor; got ndarray"):
        MDN(2).standardize_(x.numpy(), y)


def test_forward_refuses_rows_of_another_width() -> None:
    """A (N, 1) input would broadcast against two columns of the standardisation."""
    x, y = toy()
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 2\); got \(200, 1\)"):
        MDN(2).standardize_(x, y)(x[:, :1])


@pytest.mark.parametrize(
    ("hidden", "error", "message"),
    [
        ((8, 0), ValueError, r"hidden\[1\] must be at least 1; got 0"),
        ((8.5,), TypeError, r"hidden\[0\] must be an integer; got .*float"),
        (8, TypeError, "hidden must be a sequence of widths.*got 8"),
    ],
)
def test_bad_hidden_widths_are_refused(
    hidden: object, error: type[Exception], message: str
) -> None:
    """Names the layer."""
    with pytest.raises(error, match=message):
        MDN(2, hidden=hidden)


def test_no_hidden_layer_is_a_linear_model() -> None:
    """hidden=() leaves only the head: loc is affine in x."""
    model = network(2, hidden=()).double()
    a, b = (torch.randn(3, 2, generator=seeded(i), dtype=torch.float64) for i in (1, 2))
    middle = (model(a).loc + model(b).loc) / 2
    torch.testing.assert_close(model((a + b) / 2).loc, middle)


def test_mdn_keeps_the_batch_shape_of_x() -> None:
    """x (*, F) gives batch (*)."""
    x, y = toy()
    model = MDN(2).standardize_(x, y)
    assert model(x.reshape(4, 50, 2)).batch_shape == (4, 50)
    assert model(x[0]).batch_shape == ()
    torch.testing.assert_close(model(x[0]).loc, model(x).loc[0], rtol=1e-5, atol=1e-5)


def test_mdn_trains_in_the_users_units() -> None:
    """Linear Gaussian data of noise 25: the NLL reaches its entropy, log(25 sqrt(2 pi e)).

    The mean NLL of 500 fresh rows has standard deviation 0.032; 0.15 above the entropy is met
    with the seeds here, and no model can stay 0.13 (4 sd) below it but with probability 3e-5.
    """
    g = seeded()
    x = torch.randn(1500, 2, generator=g)
    y = 1000 + 100 * x[:, :1] + 25 * torch.randn(1500, 1, generator=g)
    torch.manual_seed(0)
    model = MDN(2, 1, 2, (16,)).standardize_(x[:1000], y[:1000])
    history = fit(model, (x[:1000], y[:1000]), max_epochs=30, lr=0.01)
    entropy = math.log(25 * math.sqrt(2 * math.pi * math.e))
    with torch.no_grad():
        dist = model(x[1000:])
    found = -dist.log_prob(y[1000:]).mean().item()
    assert entropy - 0.13 < found < entropy + 0.15
    assert entropy - 0.13 < history.train_nll[-1] < entropy + 0.15
    assert (dist.stddev[:, 0].mean() / 25 - 1).abs() < 0.15


def test_gradients_flow_to_x() -> None:
    """d log p / d x by autograd equals central differences."""
    x, y = toy(n=5)
    model = network(2).double().standardize_(x, y)
    assert torch.autograd.gradcheck(lambda a: model(a).log_prob(y), (x.requires_grad_(),))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_head_of_every_family_is_fitted_by_the_same_loop(family: str) -> None:
    """The mixture has the head's shapes, and training lowers the NLL of draws of that family."""
    torch.manual_seed(0)
    x = torch.rand(300, 2)
    head = MDNHead(2, n_components=2, family=family)
    with torch.no_grad():
        raw = 2 * torch.randn(head.linear.bias.shape)
        head.linear.bias.copy_(raw)
        y = head(x).sample()
    assert y.shape == (300, 1)
    assert head(x[:0]).batch_shape == (0,) and head(x[0]).batch_shape == ()
    assert head(x.reshape(3, 100, 2)).log_prob(y.reshape(3, 100, 1)).shape == (3, 100)
    start = MDNHead(2, n_components=2, family=family)
    before = -start(x).log_prob(y).mean().item()
    history = fit(start, (x, y), max_epochs=60, lr=3e-2)
    assert -start(x).log_prob(y).mean().item() < before
    assert all(math.isfinite(v) for v in history.train_nll)


def test_head_refuses_a_family_it_cannot_make() -> None:
    """The message lists the families, or says what the family needs."""
    with pytest.raises(ValueError, match=r"family must be one of 'gaussian', .*; got 'no'"):
        MDNHead(2, family="no")
    with pytest.raises(ValueError, match=r"family='gamma' needs one target"):
        MDNHead(2, 2, family="gamma")


def draws_of(family: str, n: int = 4000) -> Tensor:
    """(n, 1), float64, of one component of moderate shape."""
    raw = [torch.tensor([0.5], dtype=torch.float64) for _ in FAMILIES[family].parameters]
    components = FAMILIES[family].build(*raw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return components.sample((n,))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_heads_of_every_family_begin_with_the_moments_of_the_targets(family: str) -> None:
    """Method of moments by groups: mean and spread of the first mixture are about those of y."""
    y = draws_of(family)
    for k in (1, 3):
        head = MDNHead(4, n_components=k, family=family).double()
        head.initialize_from(y)
        first = head(torch.zeros(4, dtype=torch.float64))
        assert (first.mean - y.mean()).abs() < 0.15 * y.std()
        # groups of Poisson components overlap: none is narrower than its mean allows
        assert 0.8 < first.stddev / y.std() < 1.35
        entropy_bound = 0.5 * math.log(2 * math.pi * math.e * y.var().item())  # of a Gaussian
        assert -first.log_prob(y).mean() < entropy_bound + 0.3
    for few in (y[:1], y[:1].expand(5, 1)):
        head.initialize_from(few)
        assert head(torch.zeros(4, dtype=torch.float64)).log_prob(few).isfinite().all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_mdn_of_every_family_works_in_the_unit_of_y(family: str, tmp_path: Path) -> None:
    """NLL(c y + b) = NLL(y) + log c where the family allows the change of unit; files keep it."""
    y, units = draws_of(family, 300), FAMILIES[family].units
    x = torch.randn(300, 2, generator=seeded(1), dtype=torch.float64)
    shift = 7.0 if units == "affine" else 0.0
    scale = 1000.0 if units != "none" else 1.0
    found = []
    for target in (y, scale * y + shift):
        torch.manual_seed(0)
        model = MDN(2, n_components=2, hidden=(8,), family=family).standardize_(x, target)
        assert model(x).batch_shape == (300,)
        found.append(model(x).log_prob(target) + (math.log(scale) if target is not y else 0.0))
        history = fit(model.network, model.standard_units(x, target), max_epochs=3)
        assert len(history) == 3
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    save(model.eval(), tmp_path / "m.mdn")
    again = load(tmp_path / "m.mdn")
    assert again.head.family == family
    assert torch.equal(again(x).log_prob(target), model(x).log_prob(target))


@pytest.mark.parametrize(
    ("family", "value", "message"),
    [
        ("gamma", 0.0, r"family='gamma' needs y above 0; row 1 is 0: transform y"),
        ("beta", 1.0, r"family='beta' needs y between 0 and 1, without these; row 1 is 1"),
        ("poisson", 0.5, r"family='poisson' needs whole numbers y from 0 on; row 1 is 0.5"),
    ],
)
def test_targets_outside_the_range_of_a_family_are_refused(
    family: str, value: float, message: str
) -> None:
    """Their likelihood is 0: it would be found in training as a loss that is not finite."""
    y = torch.tensor([[draws_of(family)[0].item()], [value]])
    model = MDN(1, family=family)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.standardize_(torch.ones(2, 1), y)
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())
    with pytest.raises(ValueError, match=message):
        MDNHead(1, family=family).initialize_from(y)


@pytest.mark.parametrize("kind", ["tied", "full", "low_rank"])
def test_correlated_heads_find_the_correlation(kind: str) -> None:
    """Their NLL beats the diagonal's on correlated targets; the units are the user's."""
    torch.manual_seed(0)
    x = torch.rand(600, 1)
    both = x + 0.3 * torch.randn(600, 1)
    y = torch.cat([both, -both], 1) + 0.03 * torch.randn(600, 2)
    y = y * torch.tensor([1.0, 100.0])
    nll = {}
    for covariance_type in ("diagonal", kind):
        torch.manual_seed(1)
        model = MDN(1, 2, 2, (16,), covariance_type=covariance_type).standardize_(x, y)
        fit(model.network, model.standard_units(x, y), max_epochs=60, lr=1e-2)
        nll[covariance_type] = -model(x).log_prob(y).mean().item()
    assert nll[kind] < nll["diagonal"] - 0.5
    covariance = model(x).covariance.mean(0)
    assert covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt() < -0.9
    assert model.head.params(torch.zeros(3, 4, 16)).loc.shape == (3, 4, 2, 2)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("dims", [2, 5])
def test_head_with_full_covariance_is_the_mixture_of_its_factor(kind: str, dims: int) -> None:
    """Log density, its gradients, second derivatives and units equal those of precision_tril."""
    torch.manual_seed(0)
    head = MDNHead(3, dims, 2, covariance_type=kind).double()
    h, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(7, 4, dims, dtype=torch.float64)
    weights = [*head.parameters()]
    packed, whole = head(h), GaussianMixture(**head.params(h)._asdict())
    torch.testing.assert_close(packed.log_prob(y), whole.log_prob(y))
    found = torch.autograd.grad(packed.log_prob(y).sin().sum(), weights, create_graph=True)
    truth = torch.autograd.grad(whole.log_prob(y).sin().sum(), weights, create_graph=True)
    torch.testing.assert_close(found, truth)
    second = [torch.autograd.grad(g[0].square().sum(), weights[0]) for g in (found, truth)]
    torch.testing.assert_close(*second)
    shift, scale = torch.randn(4, dims, dtype=torch.float64), torch.linspace(-2, 3, dims).double()
    moved = packed.affine(shift, scale)
    jacobian = scale.abs().log().sum()
    torch.testing.assert_close(moved.log_prob(shift + scale * y) + jacobian, whole.log_prob(y))
    torch.testing.assert_close(moved.covariance, whole.affine(shift, scale).covariance)
    torch.testing.assert_close(packed.mean, whole.mean)
    torch.testing.assert_close(packed[1].log_prob(y[0, 1]), whole.log_prob(y)[0, 1])
    assert set(packed.numpy()) == {"logits", "loc", "precision_tril"}
    one = GaussianMixture.pool([packed, whole])
    torch.testing.assert_close(one.log_prob(y), whole.log_prob(y))
    rows = torch.func.vmap(lambda a, b: head(a).log_prob(b))(h, y[0])
    torch.testing.assert_close(rows, whole.log_prob(y)[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_only_far_values_are_winsorized(weighted: bool) -> None:
    """Five times the distance from the median within which 95 % of the rows lie."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(401, 2))
    weight = torch.as_tensor(rng.integers(1, 4, size=401)) if weighted else None
    a = torch.as_tensor(y)
    assert torch.equal(winsorized(a, weight), a)
    y[7, 0], y[9, 1], y[11, 1] = 1e6, -50.0, math.nan
    rows = y if weight is None else np.repeat(y, weight.numpy(), 0)
    found = winsorized(torch.as_tensor(y), weight).numpy()
    expected = y.copy()
    for column, known in zip(expected.T, rows.T, strict=True):
        known = known[~np.isnan(known)]
        centre = np.quantile(known, 0.5, method="inverted_cdf")
        limit = 5 * np.quantile(np.abs(known - centre), 0.95, method="inverted_cdf")
        np.clip(column, centre - limit, centre + limit, out=column)
    assert np.isnan(found[11, 1]) and expected[7, 0] < 15 and expected[9, 1] > -15
    np.testing.assert_allclose(found, expected, rtol=0.02)
    others = np.setdiff1d(np.arange(401), [7, 9, 11])
    np.testing.assert_array_equal(found[others], y[others])


# -- weighted standardization -----------------------------------------------------------------


@pytest.mark.parametrize("unit", [1.0, 1e-150, 1e150])
def test_weighted_standardization_matches_numpy_at_any_size(unit: float) -> None:
    """Weighted mean and standard deviation; a constant column has exactly 0."""
    g = seeded(4)
    a = unit * torch.randn(40, 3, generator=g, dtype=torch.float64)
    a[:, 2] = 7 * unit
    weight = torch.rand(40, generator=g, dtype=torch.float64)
    shift, scale = standardization(a, weight)
    mean = np.average(a / unit, weights=weight, axis=0)
    spread = np.average((a.numpy() / unit - mean) ** 2, weights=weight, axis=0) ** 0.5
    np.testing.assert_allclose(shift.numpy() / unit, mean, rtol=1e-12)
    np.testing.assert_allclose(scale.numpy()[:2] / unit, spread[:2], rtol=1e-12)
    assert scale[2] == 0 and shift[2] == 7 * unit


def test_whole_weights_standardize_as_repeated_rows() -> None:
    """Weights 0, 1, 2 are so many copies, and a factor on all of them changes nothing."""
    a = torch.randn(30, 2, generator=seeded(5), dtype=torch.float64)
    count = torch.arange(30) % 3
    copies = standardization(a.repeat_interleave(count, 0))
    for factor in (1.0, 0.3):
        torch.testing.assert_close(standardization(a, factor * count), copies)


# -- Layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["diagonal", "isotropic", "tied", "full", "low_rank"])
@pytest.mark.parametrize("dims", [1, 3])
def test_layout_is_what_the_head_computes(covariance_type: str, dims: int) -> None:
    """A head's flat output, cut by the layout, is the head's mixture; P is its width."""
    module = head(5, dims, 4, covariance_type=covariance_type)
    h = torch.randn(6, 5, generator=seeded(1))
    layout = Layout(dims, 4, covariance_type=covariance_type)
    assert layout.n_outputs == module.linear.out_features
    out = module.linear(h).t()
    found = layout.distribution(layout.parameters(out, torch.Size([2, 3])))
    y = torch.randn(6, dims, generator=seeded(2))
    assert found.batch_shape == (2, 3)
    torch.testing.assert_close(
        found.log_prob(y.reshape(2, 3, dims)).flatten(), module(h).log_prob(y)
    )


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((0, 2), {}, "out_features must be"),
        ((1, 0), {}, "n_components must be"),
        ((1, 2), {"covariance_type": "round"}, "covariance_type must be one of"),
        ((1, 2), {"min_scale": 0.0}, "min_scale must be positive and finite; got 0"),
        ((1, 2), {"family": "cauchy"}, "family must be one of"),
        ((2, 2), {"family": "laplace"}, "needs one target"),
    ],
)
def test_layout_refuses_what_no_head_has(
    args: tuple[int, int], options: dict[str, object], message: str
) -> None:
    """Sizes, covariance, floor, family."""
    with pytest.raises(ValueError, match=message):
        Layout(*args, **options)


def test_biases_of_the_layout_spread_the_components_over_the_targets() -> None:
    """With these biases alone the mixture has the mean and about the spread of the data."""
    y = torch.randn(500, 2, generator=seeded(3), dtype=torch.float64) * 2 + 5
    layout = Layout(2, 4)
    out = layout.bias_from(y).unsqueeze(1)
    dist = layout.distribution(layout.parameters(out, torch.Size([1])))
    torch.testing.assert_close(dist.mean[0], y.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(dist.stddev[0], y.std(0), rtol=0.1, atol=0)


# -- MDNEnsemble ------------------------------------------------------------------------------


def ensemble(*args: int, **options: object) -> MDNEnsemble:
    return with_noise(MDNEnsemble(*args, generator=seeded(), **options))


def by_hand(module: MDNEnsemble, m: int, x: Tensor) -> GaussianMixture:
    """Member m written out with plain matrices."""
    h = x
    if module.embedded:
        parts = []
        for j, f in enumerate(module.embedded):
            column = x[:, f : f + 1]
            angle = 2 * math.pi * column * module.frequencies[m, 0, j]
            waves = torch.cat([angle.cos(), angle.sin(), column], 1)
            parts.append(
                torch.relu(waves @ module.embedding_weight[m, j] + module.embedding_bias[m, j])
            )
        h = torch.cat([x, *parts], 1)
    for weight, bias in zip(module.weights, module.biases, strict=True):
        h = nn.functional.silu(h @ weight[m] + bias[m])
    out = module.head_weight[m] @ h.t() + module.head_bias[m]
    layout = module.layout
    return layout.distribution(layout.parameters(out, torch.Size([len(x)])))


@pytest.mark.parametrize("options", [{}, {"embedded": [0, 2]}, {"hidden": ()}])
@pytest.mark.parametrize("covariance_type", ["diagonal", "full"])
def test_ensemble_equals_a_loop_over_its_members(
    options: dict[str, object], covariance_type: str
) -> None:
    """Batch (M, B): row b of member m is member m's own network, alone, for b."""
    module = ensemble(3, 4, 2, 3, **{"hidden": (6, 5), **options}, covariance_type=covariance_type)
    module = module.double()
    g = seeded(1)
    x = torch.randn(3, 7, 4, generator=g, dtype=torch.float64)
    y = torch.randn(3, 7, 2, generator=g, dtype=torch.float64)
    dist = module(x)
    assert (dist.batch_shape, dist.event_shape, dist.n_components) == ((3, 7), (2,), 3)
    for m in range(3):
        torch.testing.assert_close(dist.log_prob(y)[m], by_hand(module, m, x[m]).log_prob(y[m]))


def loss(dist: GaussianMixture, y: Tensor) -> Tensor:
    """Depends on every row of every member in a way of its own."""
    return (dist.log_prob(y) * torch.linspace(0.5, 2, y[..., 0].numel()).view(y.shape[:2])).sum()


@pytest.mark.parametrize(
    "options", [{}, {"embedded": [0, 2]}, {"hidden": ()}, {"embedded": [3], "hidden": ()}]
)
def test_ensemble_trains_by_the_gradient_of_a_loop_over_its_members(
    options: dict[str, object],
) -> None:
    """In training the gradient is made by hand: it is autograd's of plain matrices, and twice."""
    module = ensemble(3, 4, 1, 3, **{"hidden": (6, 5), **options}).double().train()
    params = list(module.parameters())
    x = torch.randn(3, 7, 4, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(3, 7, 1, generator=seeded(2), dtype=torch.float64)
    plain = sum(
        (by_hand(module, m, x[m]).log_prob(y[m]) * torch.linspace(0.5, 2, 21).view(3, 7)[m]).sum()
        for m in range(3)
    )
    found = torch.autograd.grad(loss(module(x), y), params, create_graph=True)
    wanted = torch.autograd.grad(plain, params, create_graph=True)
    torch.testing.assert_close(found, wanted)
    twice = [
        torch.autograd.grad(sum(g.square().sum() for g in grads), params)
        for grads in (found, wanted)
    ]
    torch.testing.assert_close(*twice)
    again = loss(module(x), y)
    first = torch.autograd.grad(again, params, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(again, params), rtol=0, atol=0)


def test_ensemble_in_training_has_a_gradient_to_rows_and_one_under_torch_func() -> None:
    """Neither is lost where the parameters' gradient takes its own way."""
    module = ensemble(3, 4, 1, 3, hidden=(6,), embedded=[1]).double().train()
    x = torch.randn(3, 7, 4, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(3, 7, 1, generator=seeded(2), dtype=torch.float64)
    rows = x.clone().requires_grad_(True)
    (trained,) = torch.autograd.grad(loss(module(rows), y), rows)
    (evaluated,) = torch.autograd.grad(loss(module.eval()(rows), y), rows)
    torch.testing.assert_close(trained, evaluated)
    module.train()
    params = dict(module.named_parameters())
    functional = torch.func.grad(lambda p: loss(torch.func.functional_call(module, p, (x,)), y))(
        params
    )
    plain = torch.autograd.grad(loss(module(x), y), list(params.values()))
    torch.testing.assert_close(list(functional.values()), list(plain))
    swapped = {name: p.detach().mul(1.5).requires_grad_(True) for name, p in params.items()}
    out = torch.func.functional_call(module, swapped, (x,))
    found = torch.autograd.grad(loss(out, y), list(swapped.values()))
    other = MDNEnsemble(**module.state()[0]).double()
    other.load_state_dict(swapped)
    wanted = torch.autograd.grad(loss(other.eval()(x), y), list(other.parameters()))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late = loss(module(x), y)
        with torch.no_grad():
            module.head_weight.mul_(2)
        late.backward()


@pytest.mark.parametrize("covariance_type", ["diagonal", "full", "isotropic", "tied"])
@pytest.mark.parametrize("out_features", [1, 2])
def test_ensemble_log_prob_equals_a_loop_over_its_members(
    covariance_type: str, out_features: int
) -> None:
    """Value, gradient to all parameters and its own gradient, in training and after it."""
    options = {"hidden": (6,), "embedded": [1], "covariance_type": covariance_type}
    module = ensemble(3, 4, out_features, 3, **options).double().train()
    x = torch.randn(3, 7, 4, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(3, 7, out_features, generator=seeded(2), dtype=torch.float64)
    y[0, 0] = 1e9  # far beyond where exp(-z^2 / 2) is 0
    weight = torch.rand(3, 7, generator=seeded(3), dtype=torch.float64)
    weight[0, 0] = 1e-12
    params = list(module.parameters())
    wanted = torch.stack([by_hand(module, m, x[m]).log_prob(y[m]) for m in range(3)])
    slopes = torch.autograd.grad((weight * wanted).sum(), params, retain_graph=True)
    for training in (True, False):
        found = module.train(training).log_prob(x, y)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad((weight * found).sum(), params), slopes)
    with torch.no_grad():
        torch.testing.assert_close(module.log_prob(x, y), wanted, rtol=1e-12, atol=1e-12)
    twice = []
    for log_p in (module.train().log_prob(x, y), wanted):
        first = torch.autograd.grad((weight * log_p).sum(), params, create_graph=True)
        twice.append(torch.autograd.grad(sum(g.square().sum() for g in first), params))
    torch.testing.assert_close(*twice, rtol=1e-9, atol=1e-9)
    known = y.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(module.log_prob(x, known).sum(), known)
    (by_rows,) = torch.autograd.grad(module(x).log_prob(known).sum(), known)
    torch.testing.assert_close(slope, by_rows)


@pytest.mark.parametrize("covariance_type", ["diagonal", "full"])
def test_ensemble_log_prob_runs_the_network_once(
    covariance_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the density needs the distribution."""
    module = ensemble(3, 4, 2, 3, hidden=(6,), covariance_type=covariance_type)
    runs, original = [], MDNEnsemble._head_outputs
    monkeypatch.setattr(
        MDNEnsemble, "_head_outputs", lambda self, x: runs.append(1) or original(self, x)
    )
    module.log_prob(torch.zeros(3, 7, 4), torch.zeros(3, 7, 2))
    assert len(runs) == 1


def test_ensemble_log_prob_in_other_dtypes_and_of_wrong_shapes() -> None:
    """float32 to its rounding, bfloat16 as the distribution has it; shapes are named."""
    module = ensemble(3, 4, 1, 3, hidden=(6,), embedded=[1])
    x, y = torch.randn(3, 7, 4, generator=seeded(1)), torch.randn(3, 7, 1, generator=seeded(2))
    exact = copy.deepcopy(module).double().log_prob(x.double(), y.double())
    torch.testing.assert_close(module.log_prob(x, y).double(), exact, rtol=1e-5, atol=1e-5)
    halved = copy.deepcopy(module).bfloat16()
    assert halved.log_prob(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(module.log_prob(x[0], y), module(x[0]).log_prob(y))
    for wrong, named in ((y[:, :, 0], (3, 7)), (y[:, :5], (3, 5)), (y.expand(3, 7, 2), (3, 7, 2))):
        with pytest.raises(ValueError, match=re.escape(str(named))):
            module.log_prob(x, wrong)
    with pytest.raises(ValueError, match="for 3 members"):
        module.log_prob(x[:2], y[:2])


def test_ensemble_takes_the_same_rows_for_all_or_rows_for_each() -> None:
    """(B, F) is (M, B, F) with M equal parts."""
    module = ensemble(3, 4, embedded=[1])
    x = torch.randn(7, 4, generator=seeded(1))
    y = torch.randn(7, 1, generator=seeded(2))
    same, each = module(x), module(x.repeat(3, 1, 1))
    torch.testing.assert_close(same.log_prob(y), each.log_prob(y))
    with pytest.raises(ValueError, match="must have"):
        module(x[:, :3])
    for shape in ((2, 7, 4), (1, 3, 7, 4), (4,)):
        with pytest.raises(ValueError, match=rf"for 3 members; got {re.escape(str(shape))}"):
            module(torch.zeros(shape))


def test_ensemble_gradient_of_a_member_is_its_own() -> None:
    """The loss of member 1 alone: no other member's parameter has a gradient."""
    module = ensemble(3, 4, embedded=[0, 1])
    x, y = torch.randn(7, 4, generator=seeded(1)), torch.randn(7, 1, generator=seeded(2))
    (-module(x).log_prob(y)[1].mean()).backward()
    for p in module.parameters():
        assert p.shape[0] == 3
        assert not p.grad[[0, 2]].any()
    assert module.head_weight.grad[1].any() and module.frequencies.grad[1].any()


def test_ensemble_starts_from_its_generator_and_members_differ() -> None:
    """One generator state, one ensemble; no two members alike; torch's own stays as it was."""
    before = torch.get_rng_state()
    first, again, other = (MDNEnsemble(3, 4, embedded=[0], generator=seeded(s)) for s in (0, 0, 1))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    for (name, a), b, c in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        if a.any():
            assert not torch.equal(a, c), name
            assert not torch.equal(a[0], a[1]), name


def test_ensemble_starts_with_components_over_the_targets() -> None:
    """After initialize_from every member has about the mean and spread of y, whatever x."""
    y = 3 * torch.randn(400, 1, generator=seeded(2)) - 2
    module = MDNEnsemble(4, 2, generator=seeded()).initialize_from(y)
    dist = module(torch.randn(50, 2, generator=seeded(3)))
    torch.testing.assert_close(dist.mean, torch.full((4, 50, 1), -2.0), rtol=0, atol=0.6)
    torch.testing.assert_close(dist.stddev, torch.full((4, 50, 1), 3.0), rtol=0, atol=0.6)


def _with_masked(columns: list[int]) -> tuple[MDNEnsemble, MDNEnsemble, Tensor]:
    """Two of three members do without the last two columns; a twin that sees all, and its rows."""
    options = {"hidden": (6, 5), "embedded": columns}
    module = ensemble(3, 4, 1, 3, masked=(2, 2), **options).double()
    twin = ensemble(3, 4, 1, 3, **options).double()
    twin.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(3, 7, 4, generator=seeded(1), dtype=torch.float64)
    return module, twin, x


@pytest.mark.parametrize("columns", [[], [0, 1], [1, 3]])
def test_masked_columns_are_zero_for_the_first_members(columns: list[int]) -> None:
    """Density, its gradient and the next are those of an ensemble that is given zeros there."""
    module, twin, x = _with_masked(columns)
    y = torch.randn(3, 7, 1, generator=seeded(2), dtype=torch.float64)
    zeros = x.clone()
    zeros[:2, :, 2:] = 0
    for mode in (True, False):
        found = []
        for net, rows in ((module.train(mode), x), (twin.train(mode), zeros)):
            params = [p for p in net.parameters() if p.requires_grad]
            value = loss(net(rows), y)
            first = torch.autograd.grad(value, params, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), params)
            found.append([value, net.log_prob(rows, y), *first, *second])
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("masked", [3, (1,), (1, 2, 3), (1.5, 1), "ab", None])
def test_ensemble_refuses_masked_that_is_not_two_counts(masked: object) -> None:
    """Named, with what was found."""
    with pytest.raises(TypeError, match=r"masked must be two whole numbers.*got"):
        MDNEnsemble(2, 3, masked=masked)


def test_the_mask_stays_when_other_members_have_stopped() -> None:
    """Members stop one by one in training, and those left keep what they see."""
    module = ensemble(4, 3, masked=(2, 1))
    x = torch.randn(120, 3, generator=seeded(1))
    y = x[:, 2:] + 0.1 * torch.randn(120, 1, generator=seeded(2))
    held_out = torch.arange(120) % 4 == torch.arange(4).unsqueeze(1)
    history = fit_ensemble(module, x, y, held_out, max_epochs=60, patience=3)
    assert len(history.val_nll) > history.best_epoch + 1
    other = x.clone()
    other[:, 2] = 0.5
    a, b = module(x).mean.detach(), module(other).mean.detach()
    assert torch.equal(a[:2], b[:2])
    assert float((a[2:] - b[2:]).abs().amax((1, 2)).min()) > 0.5
    again = MDNEnsemble(**json.loads(json.dumps(module.state()[0]))).eval()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x).mean, a)


def test_ensemble_dropout_is_for_training_alone() -> None:
    """In eval two passes agree; in training they differ."""
    module = ensemble(2, 3, dropout=0.5)
    x = torch.randn(20, 3, generator=seeded(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(module.eval()(x).loc, module(x).loc)
        assert not torch.equal(module.train()(x).loc, module(x).loc)


def test_ensemble_is_rebuilt_from_its_state() -> None:
    """from_state(*state()) gives it back, bit for bit; the configuration is JSON."""
    module = ensemble(2, 3, 2, 4, (5,), embedded=[1], dropout=0.1, covariance_type="full")
    config, tensors = module.state()
    again = MDNEnsemble.from_state(json.loads(json.dumps(config)), tensors)
    x = torch.randn(6, 3, generator=seeded(1))
    a, b = (m.eval()(x).numpy() for m in (module, again))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((0, 3), {}, "n_members must be"),
        ((2, 0), {}, "in_features must be"),
        ((2, 3, 0), {}, "out_features must be"),
        ((2, 3), {"min_scale": -1.0}, "min_scale must be positive"),
        ((2, 3), {"masked": (3, 1)}, "masked must count at most 2 members and 3 columns; got"),
        ((2, 3), {"masked": (1, 4)}, "masked must count"),
        ((2, 3), {"masked": (-1, 1)}, "masked must count"),
    ],
)
def test_ensemble_refuses_bad_sizes(
    args: tuple[int, ...], options: dict[str, object], message: str
) -> None:
    """Each is named."""
    with pytest.raises(ValueError, match=message):
        MDNEnsemble(*args, **options)


# -- torch.jit.trace and torch.export ---------------------------------------------------------


class Ask(nn.Module):
    """A module around a model that returns tensors."""

    def __init__(self, model: nn.Module, question: Any) -> None:
        super().__init__()
        self.model, self.question = model, question

    def forward(self, *args: Tensor) -> Any:
        return self.question(self.model, *args)


TRACED: dict[str, Any] = {
    "log_prob": lambda m, x, y: m(x).log_prob(y),
    "mean": lambda m, x, y: m(x).mean,
    "stddev": lambda m, x, y: m(x).stddev,
    "params": lambda m, x, y: tuple(m.head.params(m.network[0](x))),
}


@pytest.mark.parametrize("question", TRACED)
@pytest.mark.parametrize(
    ("kind", "family", "dims"),
    [(kind, "gaussian", 2) for kind in ("diagonal", "isotropic", "tied", "full", "low_rank")]
    + [("diagonal", family, 1) for family in ("gaussian", "student_t", "gamma", "poisson")],
)
def test_a_module_around_an_mdn_is_traced(
    kind: str, family: str, dims: int, question: str, tmp_path: Path
) -> None:
    """Traced with 20 rows, saved and loaded: the same numbers on 7 others, far ones among them."""
    g = seeded()
    x, y = torch.randn(20, 3, generator=g), 1 + torch.poisson(torch.ones(20, dims), generator=g)
    model = MDN(3, dims, 3, (8,), covariance_type=kind, family=family).standardize_(x, y)
    module = Ask(model, TRACED[question])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch names every size it reads
        traced = torch.jit.trace(module, (x, y), check_trace=False)
        torch.jit.save(traced, str(tmp_path / "traced.pt"))
        loaded = torch.jit.load(str(tmp_path / "traced.pt"))
    others = 5 * torch.randn(7, 3, generator=g), torch.tensor([1.0, 2, 3, 50, 400, 9e3, 1])[:, None]
    for rows in ((x, y), (others[0], others[1].expand(7, dims).contiguous())):
        torch.testing.assert_close(loaded(*rows), module(*rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("question", TRACED)
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_module_around_an_mdn_is_exported(kind: str, question: str) -> None:
    """torch.export with any number of rows gives the same numbers on 7 others."""
    g = seeded()
    x, y = torch.randn(20, 3, generator=g), torch.randn(20, 2, generator=g)
    module = Ask(MDN(3, 2, 3, (8,), covariance_type=kind).standardize_(x, y), TRACED[question])
    rows = torch.export.Dim("rows", min=2)
    shapes = {"args": ({0: rows}, {0: rows})}
    exported = torch.export.export(module, (x, y), dynamic_shapes=shapes).module()
    others = torch.randn(7, 3, generator=g), torch.randn(7, 2, generator=g)
    torch.testing.assert_close(exported(*others), module(*others), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [MDN(3), MDNHead(3), CategoricalHead(3, 2), nn.Sequential(nn.Linear(3, 4), MDNHead(4))],
    ids=lambda m: type(m).__name__,
)
def test_tracing_what_returns_a_distribution_says_how(module: nn.Module) -> None:
    """A trace returns tensors only."""
    with (
        warnings.catch_warnings(),
        pytest.raises(TypeError, match=r"needs a module that returns tensors.* trace a module"),
    ):
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.zeros(5, 3))

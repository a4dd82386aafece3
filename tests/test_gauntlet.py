"""Mistakes found in other implementations of mixture densities are not made here.

D1 to D15, "lesser" and "style" name the entries of a survey of that code. Each docstring describes
a mistake; each test checks our objects in the same situation by an independent reference.
Monte Carlo bounds are six standard errors: one check fails in 5e8 streams of random numbers.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.exceptions import NotFittedError

import mdn
from mdn import MDN, GaussianMixture, MDNHead, MDNRegressor
from tests.oracles import mp

F32, F64 = torch.float32, torch.float64
SIGMAS = 6.0  # half width of a Monte Carlo bound, in standard errors
DRAWS = 20_000

# A joint normal of which the second given the first = 1 is N(-0.4, 0.2); its precision has
# different triangular factors by rows and by columns, so that a mix-up of blocks shows.
PRECISION = np.array([[1.0, 2.0], [2.0, 5.0]])


def make(
    weights: list, loc: list, scale: list, dtype: torch.dtype = F64, batch: int | None = None
) -> GaussianMixture:
    """One univariate mixture from flat lists, or `batch` copies of it, each with its own memory."""
    w, m, s = (torch.tensor(a, dtype=dtype) for a in (weights, loc, scale))
    if batch is not None:
        w, m, s = (a.repeat(batch, 1) for a in (w, m, s))
    return GaussianMixture(w.log(), m[..., None], s[..., None])


def column(*y: float, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.tensor(y, dtype=dtype)[:, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full(weights: list, loc: np.ndarray, cov: np.ndarray, form: str) -> GaussianMixture:
    """A mixture of joint normals (K, D), (K, D, D), by the factor that `form` names."""
    factor = np.linalg.cholesky(cov if form == "scale_tril" else np.linalg.inv(cov))
    return GaussianMixture(
        torch.tensor(weights, dtype=F64).log(),
        torch.as_tensor(loc),
        **{form: torch.as_tensor(factor)},
    )


def joint_log_prob(
    y: np.ndarray, weights: list, loc: np.ndarray, cov: np.ndarray, dims: list[int]
) -> float:
    """Log density by SciPy of the dimensions `dims` of y (D,)."""
    terms = [
        math.log(w) + multivariate_normal(m[dims], c[np.ix_(dims, dims)]).logpdf(y[dims])
        for w, m, c in zip(weights, loc, cov, strict=True)
    ]
    return float(scipy.special.logsumexp(terms))


def skewed_data(seed: int = 0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A conditional density whose mean, median and mode are three numbers."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    y = np.where(rng.uniform(size=n) < 0.7, x + 0.3 * rng.normal(size=n), 5 + rng.normal(size=n))
    return x[:, None], y


@pytest.fixture(scope="module")
def fitted() -> MDNRegressor:
    return MDNRegressor(3, (16,), max_epochs=30, random_state=0).fit(*skewed_data())


@pytest.fixture(scope="module")
def predicted(fitted: MDNRegressor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and scales at x = 0, for formulas outside the library."""
    p = fitted.predict_distribution([[0.0]])[0].numpy()
    return np.exp(p["logits"]), p["loc"][:, 0], p["scale"][:, 0]


def test_every_output_dimension_is_drawn_with_its_own_mean_and_scale() -> None:
    """D1: true means (0, 100, 200), sample means all 0: an index without the event axis."""
    loc, scale = np.array([0.0, 100.0, 200.0]), np.array([1.0, 2.0, 4.0])
    locs, scales = (torch.as_tensor(a).expand(5, 2, 3) for a in (loc, scale))
    y = GaussianMixture(torch.zeros(5, 2, dtype=F64), locs, scales).sample(
        (DRAWS,), generator=seeded()
    )
    for row in y.movedim(1, 0).numpy():
        assert (abs(row.mean(0) - loc) < SIGMAS * scale / math.sqrt(DRAWS)).all()
        assert (abs(row.std(0) / scale - 1) < SIGMAS / math.sqrt(2 * DRAWS)).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_loss_and_gradient_are_exact_fifty_standard_deviations_away(dtype: torch.dtype) -> None:
    """D2: exp, product, log: the loss is inf 50 sd away."""
    y = column(50.0, dtype=dtype).requires_grad_()
    loss = -make([0.5, 0.5], [0.0, -1.0], [1.0, 1.0], dtype).log_prob(y).mean()
    loss.backward()

    def truth(t: float) -> float:
        return -mp.log((mp.npdf(t, 0, 1) + mp.npdf(t, -1, 1)) / 2)

    tol = 8 * torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(float(truth(50)), rel=tol)
    assert y.grad.item() == pytest.approx(float(mp.diff(truth, 50)), rel=tol)


def test_scale_has_a_floor_that_bounds_the_loss_from_below() -> None:
    """D3: same loss, and no floor: a component that narrows on one point gains without end."""
    head = MDNHead(2, min_scale=1e-3)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.fill_(-1e4)  # every mean on y, every scale as narrow as it can get
    loss = -head(torch.zeros(4, 2)).log_prob(torch.full((4, 1), -1e4)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(-norm.logpdf(0, scale=1e-3), rel=1e-6)
    assert head.linear.bias.grad.isfinite().all()


def test_isotropic_components_have_one_scale_for_all_dimensions_each() -> None:
    """D4: sigma rows (1.28, .78), (1.04, 1.28), (.78, 1.04): repeat and reshape interleave."""
    torch.manual_seed(0)
    scale = MDNHead(4, 2, 3, covariance_type="isotropic")(torch.randn(5, 4)).scale
    assert (scale == scale[..., :1]).all()
    assert len(scale.unique()) == 5 * 3


def test_log_prob_holds_the_constant_of_the_normal_density() -> None:
    """D4: NLL of N(0, 1) at its mean 0.0 (truth .9189): half d log(2 pi) left out."""
    for d in (1, 2, 3):
        dist = GaussianMixture(torch.zeros(1), torch.zeros(1, d), torch.ones(1, d))
        truth = multivariate_normal(np.zeros(d), np.eye(d)).logpdf(np.zeros(d))
        assert dist.log_prob(torch.zeros(d)).item() == pytest.approx(truth, rel=1e-6)


def test_sampling_finds_a_living_component_though_rounded_weights_sum_below_one() -> None:
    """D4: the searched index can be K, one past the last component."""
    loc = torch.arange(8, dtype=torch.bfloat16)[:, None]
    logits = torch.zeros(8, dtype=torch.bfloat16)
    logits[-1] = -math.inf
    dist = GaussianMixture(logits, loc, torch.full_like(loc, 1e-3))
    assert dist.weights.double().sum() < 0.999  # a draw in a thousand lies beyond the last edge
    count = np.bincount(dist.sample((DRAWS,), generator=seeded())[:, 0].double().round().int())
    # an edge is off by less than the rounding of a weight, 2^-8 of it
    slack = SIGMAS * math.sqrt(6 / 49 / DRAWS) + 2**-8
    assert len(count) == 7
    assert (abs(count / DRAWS - 1 / 7) < slack).all()


def test_prediction_is_the_mean_and_spread_of_the_mixture_and_the_same_at_every_call(
    fitted: MDNRegressor, predicted: tuple
) -> None:
    """D5: -3, -3, +3, -3 for one x: mean and sd of one component drawn at random."""
    w, m, s = predicted
    x = np.zeros((3, 1))
    mean, std = fitted.predict(x, return_std=True)
    again = fitted.predict(x, return_std=True)
    assert (mean == again[0]).all()
    assert (std == again[1]).all()

    def moment(k: int, about: float) -> float:
        return scipy.integrate.quad(
            lambda t: (t - about) ** k * (w @ norm.pdf(t, m, s)), -20, 30, points=m, limit=500
        )[0]

    truth = moment(1, 0.0)
    assert mean == pytest.approx(truth, rel=1e-7)
    assert std == pytest.approx(math.sqrt(moment(2, truth)), rel=1e-7)


def test_density_of_several_outputs_is_joint_and_agrees_with_the_sampler() -> None:
    """D6: log p per dimension at an impossible corner sums to +1.4; the joint is -1247."""
    loc = torch.tensor([[0.0, 0.0], [5.0, 5.0]], dtype=F64)
    dist = GaussianMixture(torch.zeros(2, dtype=F64), loc, torch.full_like(loc, 0.1))
    corner = np.array([0.0, 5.0])
    truth = joint_log_prob(corner, [0.5] * 2, loc.numpy(), np.stack([0.01 * np.eye(2)] * 2), [0, 1])
    assert truth == pytest.approx(-1247, abs=1)
    assert dist.log_prob(torch.as_tensor(corner)).item() == pytest.approx(truth, rel=1e-12)
    y = dist.sample((DRAWS,), generator=seeded())
    # 4e4 normals all within 8 sd of their own centre fail once in 1e10 streams
    assert ((y[:, None] - loc).abs().amax(-1).amin(-1) < 0.8).all()


def test_predict_is_the_mean_also_of_a_skewed_density(
    fitted: MDNRegressor, predicted: tuple
) -> None:
    """D7: "mean" .739 (truth 1.01): it is the median on a grid."""
    w, m, _ = predicted
    mean = fitted.predict([[0.0]])[0]
    assert mean == pytest.approx(w @ m, rel=1e-12)
    assert mean - fitted.predict_quantiles([[0.0]], [0.5])[0, 0] > 0.5


def test_cdf_and_quantiles_do_not_end_with_the_range_of_the_training_targets(
    fitted: MDNRegressor, predicted: tuple
) -> None:
    """D7: density on a grid cut at the training range: cdf(max) = 1, no quantile beyond."""
    w, m, s = predicted
    top = skewed_data()[1].max()
    above = fitted.predict_distribution([[0.0]]).log_sf(column(top)).exp().item()
    assert above == pytest.approx(w @ norm.sf(top, m, s), rel=1e-9)
    assert above > 0
    (q,) = fitted.predict_quantiles([[0.0]], [1 - 1e-9])[0]
    assert q > top
    assert w @ norm.sf(q, m, s) == pytest.approx(1e-9, rel=1e-6)


def test_targets_of_one_and_of_two_axes_are_taken_and_a_call_before_fit_is_explained() -> None:
    """D7: y of one axis raises IndexError, an early call AttributeError."""
    x, y = skewed_data(n=40)
    model = MDNRegressor(2, (4,), max_epochs=2, random_state=0)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.predict(x)
    flat = model.fit(x, y).predict(x)
    assert flat.shape == (40,)
    np.testing.assert_array_equal(model.fit(x, y[:, None]).predict(x), flat[:, None])


def test_scale_is_a_standard_deviation_in_the_cdf() -> None:
    """D8: cdf at +1 sd of N(0, 5^2) = .987 (truth .841): the sd passed as a variance."""
    cdf = make([1.0], [0.0], [5.0]).cdf(column(5.0)).item()
    assert cdf == pytest.approx(norm.cdf(5, scale=5), rel=1e-12)


def test_repeated_inputs_are_sampled_with_the_spread_of_distinct_ones(fitted: MDNRegressor) -> None:
    """D8: sample sd 2.24 (truth 5) for repeated x, 4.99 for distinct x."""
    dist = make([1.0], [0.0], [5.0])
    distinct = make([1.0], [0.0], [5.0], batch=4)
    for rows in (dist.expand((4,)), distinct):
        sd = rows.sample((DRAWS,), generator=seeded()).std(0)
        assert ((sd / 5 - 1).abs() < SIGMAS / math.sqrt(2 * DRAWS)).all()

    x = np.array([[0.0], [0.0], [0.5]])
    draws, std = fitted.sample(x, DRAWS, random_state=0), fitted.predict(x, return_std=True)[1]
    kurtosis = fitted.predict_distribution(x).kurtosis[:, 0].numpy()
    assert (
        abs(draws.std(1) / std - 1) < SIGMAS * np.sqrt((kurtosis + 2) / (4 * DRAWS)) + 1e-4
    ).all()


def test_validation_rows_choose_the_epoch_that_is_kept() -> None:
    """D9: the validation set is accepted and ignored."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = rng.uniform(-1, 1, (n, 1))
        return tuple(
            torch.as_tensor(a, dtype=F32)
            for a in (x, np.sin(3 * x) + 0.3 * rng.normal(size=x.shape))
        )

    train, val = rows(24), rows(200)
    first = MDN(1, n_components=2, hidden=(32,)).standardize_(*train)
    start, kept = {k: v.clone() for k, v in first.state_dict().items()}, []
    for chosen_by in (val, train):
        model = MDN(1, n_components=2, hidden=(32,))
        model.load_state_dict(start)
        history = mdn.fit(
            model, train, chosen_by, max_epochs=150, patience=150, lr=0.02, progress=False
        )
        p = model(chosen_by[0]).detach().numpy()
        log_joint = p["logits"] + norm.logpdf(
            chosen_by[1].numpy(), p["loc"][..., 0], p["scale"][..., 0]
        )
        nll = -scipy.special.logsumexp(log_joint, 1).mean()
        assert history.best_epoch == int(np.argmin(history.val_nll))
        assert history.best_nll == pytest.approx(nll, abs=1e-5)
        kept.append(history.best_epoch)
    assert kept[0] < kept[1]  # new rows tell of overfitting, those trained on do not


def test_fit_leaves_the_data_alone_and_follows_a_change_of_unit() -> None:
    """D9: noise is added to the data once, in raw units."""
    x, y = skewed_data(n=100)
    before = x.copy(), y.copy()
    models = [
        MDNRegressor(2, (8,), max_epochs=5, random_state=0).fit(a * x, c * y)
        for a, c in ((1, 1), (1e-3, 1e4))
    ]
    np.testing.assert_array_equal((x, y[:, None]), (before[0], before[1][:, None]))
    small, large = (np.array(m.history_.val_nll) for m in models)
    np.testing.assert_allclose(large - small, math.log(1e4), rtol=1e-5)


def test_log_prob_is_the_exact_one_and_the_same_at_every_call() -> None:
    """D10: log p on one input -1.60 +- .52 (truth -1.485): random weights inside the likelihood."""
    torch.manual_seed(0)
    model, x, y = MDN(3).train(), torch.randn(8, 3), torch.randn(8, 1)
    once, again = model(x).log_prob(y), model(x).log_prob(y)
    assert torch.equal(once, again)
    p = model(x).detach().numpy()
    truth = scipy.special.logsumexp(
        p["logits"] + norm.logpdf(y.numpy(), p["loc"][..., 0], p["scale"][..., 0]), 1
    )
    np.testing.assert_allclose(once.detach(), truth, rtol=1e-5)


def test_every_draw_chooses_its_component_anew() -> None:
    """D10: share of samples in the right of two equal modes .16, then .22: one choice for all."""
    y = make([0.5, 0.5], [-3.0, 3.0], [0.1, 0.1]).expand((50,)).sample((1000,), generator=seeded())
    right = (y[..., 0] > 0).double()
    assert ((right.mean(0) - 0.5).abs() < SIGMAS * 0.5 / math.sqrt(1000)).all()
    assert abs(right.mean().item() - 0.5) < SIGMAS * 0.5 / math.sqrt(50_000)


def test_a_row_gets_the_same_mixture_wherever_it_stands_in_whatever_batch() -> None:
    """D11: three identical rows (truth .5/.5) get .03/.97, .10/.90, .54/.46."""
    torch.manual_seed(0)
    model, x = MDN(3).double(), torch.randn(37, 3, dtype=F64)
    x[[5, 36]] = x[0].clone()
    whole = model(x)
    for one, i in ((whole[5], 0), (whole[36], 0), (model(x[7:9])[1], 8), (model(x[20]), 20)):
        for name in ("logits", "loc", "scale"):
            a, b = getattr(one, name), getattr(whole[i], name)
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_global_random_states_are_neither_reset_nor_consumed() -> None:
    """D11: the user's generator is reset to 123 at each call."""
    x, y = skewed_data(n=60)
    torch.manual_seed(11)
    torch.rand(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    model = MDNRegressor(2, (4,), max_epochs=3, random_state=0).fit(x, y)
    dist = model.predict_distribution(x)
    for asked in (dist.log_prob(column(*y)), dist.icdf(0.3), dist.crps(column(*y)), dist.mode):
        assert asked.isfinite().all()
    dist.sample((2,), generator=seeded())
    model.sample(x, 2, random_state=0)
    assert torch.equal(torch.get_rng_state(), before)
    after = np.random.get_state()
    assert (after[1] == numpy_before[1]).all()
    assert after[2:] == numpy_before[2:]


@pytest.mark.parametrize(
    ("weights", "loc", "scale", "y"),
    [
        ([1.0], [0.0], [1.0], 0.0),
        ([0.5, 0.5], [-3.0, 3.0], [0.25, 0.25], 3.0),
        ([0.2, 0.8], [-1.0, 2.0], [0.5, 2.0], -4.0),
    ],
)
def test_crps_is_the_integral_that_defines_it(
    weights: list, loc: list, scale: list, y: float
) -> None:
    """D12: N(0, 1) at 0: 0.0 (truth .2337), modes +-3: 2.96 (truth 1.53); "exact", sqrt 2 off."""

    def cdf(t: float) -> float:
        return float(np.dot(weights, norm.cdf(t, loc, scale)))

    below = scipy.integrate.quad(lambda t: cdf(t) ** 2, -20, y, limit=200)[0]
    above = scipy.integrate.quad(lambda t: (1 - cdf(t)) ** 2, y, 20, limit=200)[0]
    dist = make(weights, loc, scale)
    assert dist.crps(column(y)).item() == pytest.approx(below + above, rel=1e-7)


@pytest.mark.parametrize("dims", [1, 2])
def test_components_start_with_the_standard_deviation_of_their_group(dims: int) -> None:
    """D13: sd (3, .2) start at (8.8, .04): the log variance stored as a log scale."""
    z = np.random.default_rng(0).normal(size=(2, 500, dims)).clip(-3, 3)
    groups = [3 * z[0] - 15, 1.5 * z[1] + 5]
    head = MDNHead(2, dims, n_components=2)
    head.initialize_from(torch.as_tensor(np.concatenate(groups)))
    start = head(torch.zeros(2))
    order = start.loc[:, 0].argsort()
    for found, f in ((start.loc[order], np.mean), (start.scale[order], np.std)):
        np.testing.assert_allclose(found.detach(), [f(g, axis=0) for g in groups], rtol=1e-5)


@pytest.mark.parametrize("form", ["scale_tril", "precision_tril"])
def test_conditional_of_a_joint_normal_is_right_whichever_dimension_is_free(form: str) -> None:
    """D14: free dim 1: mean -2.0 (truth -0.4), var 1.0 (truth .2): blocks of the wrong factor."""
    cov = np.linalg.inv(PRECISION)
    dist = full([1.0], np.zeros((1, 2)), cov[None], form)
    free_last = dist.condition(0, torch.ones(1, dtype=F64))
    assert free_last.mean.item() == pytest.approx(-0.4, rel=1e-12)
    assert free_last.variance.item() == pytest.approx(0.2, rel=1e-12)
    free_first = dist.condition(1, torch.ones(1, dtype=F64))
    assert free_first.mean.item() == pytest.approx(cov[0, 1] / cov[1, 1], rel=1e-12)
    assert free_first.variance.item() == pytest.approx(1 / PRECISION[0, 0], rel=1e-12)


@pytest.mark.parametrize("form", ["scale_tril", "precision_tril"])
@pytest.mark.parametrize("known", [[0], [1], [2], [0, 2], [2, 0], [1, 2]])
def test_conditional_of_full_components_is_joint_over_marginal(form: str, known: list[int]) -> None:
    """D14: as above, for a mixture; an epsilon in the precisions alone puts log p 1e-4 off."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 3, 3))
    w, loc, cov = [0.3, 0.7], rng.normal(size=(2, 3)), a @ a.transpose(0, 2, 1) + 0.1 * np.eye(3)
    y = rng.normal(size=3)
    free = [d for d in range(3) if d not in known]
    every = joint_log_prob(y, w, loc, cov, [0, 1, 2])
    dist = full(w, loc, cov, form)
    assert dist.log_prob(torch.as_tensor(y)).item() == pytest.approx(every, rel=1e-10)
    given = dist.condition(known, torch.as_tensor(y[known]))
    truth = every - joint_log_prob(y, w, loc, cov, known)
    assert given.log_prob(torch.as_tensor(y[free])).item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("known", [0, 1])
def test_conditional_of_diagonal_components_is_joint_over_marginal(known: int) -> None:
    """D14: as above, where the known dimension moves the weights alone."""
    w, y = [0.3, 0.7], np.array([0.4, -0.2])
    loc, scale = np.array([[0.0, 1.0], [1.0, -2.0]]), np.array([[0.5, 2.0], [1.5, 0.3]])
    cov = np.stack([np.diag(s**2) for s in scale])
    dist = GaussianMixture(*map(torch.as_tensor, (np.log(w), loc, scale)))
    given = dist.condition(known, torch.as_tensor(y[[known]]))
    truth = joint_log_prob(y, w, loc, cov, [0, 1]) - joint_log_prob(y, w, loc, cov, [known])
    found = given.log_prob(torch.as_tensor(y[[1 - known]])).item()
    assert found == pytest.approx(truth, rel=1e-12)


def test_samples_of_a_context_come_from_that_context(fitted: MDNRegressor) -> None:
    """D15: contexts with means 0 and 100 both give about 0: rows repeated, the index not."""
    loc = torch.tensor([0.0, 100.0], dtype=F64).reshape(2, 1, 1).expand(2, 3, 1)
    dist = GaussianMixture(torch.zeros(2, 3, dtype=F64), loc, torch.ones_like(loc))
    mean = dist.sample((DRAWS,), generator=seeded()).mean((0, 2))
    assert ((mean - loc[:, 0, 0]).abs() < SIGMAS / math.sqrt(DRAWS)).all()

    x = np.array([[-0.9], [0.9]])
    mean, std = fitted.predict(x, return_std=True)
    drawn = fitted.sample(x, DRAWS, random_state=0).mean(1)
    assert (abs(drawn - mean) < SIGMAS * std / math.sqrt(DRAWS)).all()
    assert mean[1] - mean[0] > 10 * std.max() / math.sqrt(DRAWS)


def test_standard_deviation_does_not_cancel_far_from_the_origin() -> None:
    """Lesser: stddev as the root of E x^2 - (E x)^2."""
    m, s = [1e8, 1e8 + 1], [0.1, 0.2]
    mean = (mp.mpf(m[0]) + mp.mpf(m[1])) / 2
    truth = mp.sqrt(
        mp.fsum(mp.mpf(b) ** 2 + (a - mean) ** 2 for a, b in zip(m, s, strict=True)) / 2
    )
    assert make([0.5, 0.5], m, s).stddev.item() == pytest.approx(float(truth), rel=1e-12)


def test_scale_of_the_head_is_a_standard_deviation_in_the_likelihood() -> None:
    """Lesser: an output named var is used as a scale, and the likelihood leaves log space."""
    torch.manual_seed(0)
    head, h = MDNHead(3, n_components=1), torch.randn(6, 3)
    y = torch.linspace(-300, 300, 6)[:, None]
    p = head.params(h)
    truth = norm.logpdf(y.numpy(), *(a.detach().double()[:, 0].numpy() for a in (p.loc, p.scale)))
    np.testing.assert_allclose(head(h).log_prob(y).detach(), truth[:, 0], rtol=1e-6)
    torch.testing.assert_close(head(h).variance, p.scale[:, 0].square())


def test_import_leaves_argument_validation_of_torch_distributions_on() -> None:
    """Style: Normal(0, -1) raises before an import and is accepted after it."""
    code = (
        "import torch, mdn; mdn.MDNRegressor, mdn.plot\n"
        "try: torch.distributions.Normal(0.0, -1.0)\n"
        "except ValueError: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "refused"


def test_log_score_of_a_far_target_is_finite_and_exact() -> None:
    """Style: y = 50 under an even mixture of N(0, 1), N(1, 1): inf, truth 1202.11."""
    truth = -mp.log((mp.npdf(50, 0, 1) + mp.npdf(50, 1, 1)) / 2)
    score = mdn.scoring.nll(make([0.5, 0.5], [0.0, 1.0], [1.0, 1.0]), np.array([[50.0]]))
    assert score.item() == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_density_integrates_to_one(scale: float) -> None:
    """Style: a density whose precision has factor 0.01 integrates to 0.707: an epsilon."""
    dist = make([0.3, 0.7], [0.0, scale], [scale, 0.5 * scale])
    total = scipy.integrate.quad(
        lambda t: dist.log_prob(column(t)).exp().item(), -12 * scale, 12 * scale, limit=200
    )[0]
    assert total == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize("form", ["scale_tril", "precision_tril"])
@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_density_of_full_components_integrates_to_one(form: str, factor: float) -> None:
    """Style: as above, over the plane; `factor` multiplies the factor of the precision."""
    dist = full([1.0], np.zeros((1, 2)), np.linalg.inv(PRECISION)[None] / factor**2, form)
    # the trapezoidal rule is exact to rounding for a normal density on steps below its width
    t = torch.linspace(-24, 24, 481, dtype=F64) / factor
    grid = torch.cartesian_prod(t, t)
    total = dist.log_prob(grid).exp().sum().item() * (0.1 / factor) ** 2
    assert total == pytest.approx(1, rel=1e-9)


def test_log_prob_keeps_its_digits_far_from_the_origin() -> None:
    """Style: expanding (x - mu)^2 gives -0.919 at 1e8, truth -1.044."""
    found = make([1.0], [1e8], [1.0]).log_prob(column(1e8 + 0.5)).item()
    assert found == pytest.approx(norm.logpdf(0.5), rel=1e-12)


def test_log_prob_survives_a_scale_whose_square_underflows() -> None:
    """Style: float32 scale 1e-25 at loc: NaN (truth 56.65), as scale is squared."""
    found = make([1.0], [0.0], [1e-25], F32).log_prob(column(0.0, dtype=F32)).item()
    assert found == pytest.approx(norm.logpdf(0, scale=1e-25), rel=1e-6)
    assert found == pytest.approx(56.65, abs=0.005)


def test_targets_are_never_broadcast_to_a_square() -> None:
    """Style: y (N, 1) against batch (N,) returns (N, N) in silence."""
    dist, y = make([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0]).expand((7,)), torch.zeros(7, dtype=F64)
    assert dist.log_prob(y[:, None]).shape == (7,)
    with pytest.raises(ValueError, match=r"y must have shape \(\*, 1\).*y\[:, None\]"):
        dist.log_prob(y)


@pytest.mark.parametrize("y", [-8.0, -20.0, -40.0])
def test_log_cdf_is_exact_where_the_cdf_underflows_in_float32(y: float) -> None:
    """Style: the normal cdf in float32 underflows at -8, its log is -inf; at -40 it is -805."""
    found = make([1.0], [0.0], [1.0], F32).log_cdf(column(y, dtype=F32)).item()
    assert found == pytest.approx(float(mp.log(mp.ncdf(y))), rel=1e-6)

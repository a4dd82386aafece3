"""Small versions of softmax-losses, log-likelihood and maximum-likelihood."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from experiments import (
    _families,
    _identities,
    _imbalance,
    _likelihoods,
    _regressions,
    log_likelihood,
    maximum_likelihood,
    softmax_losses,
)

# of the forward mode of torch
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

MODULES = {
    "softmax_losses": softmax_losses,
    "log_likelihood": log_likelihood,
    "maximum_likelihood": maximum_likelihood,
}
Ran = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """The numbers of a small run, as JSON gives them back, and the folder of its figures."""
    done: dict[str, Ran] = {}

    def numbers_of(name: str) -> Ran:
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            before = torch.random.get_rng_state()
            result = MODULES[name].run(0, fast=True, out=out)
            assert torch.equal(before, torch.random.get_rng_state())
            done[name] = json.loads(json.dumps(result)), out
        return done[name]

    return numbers_of


@pytest.mark.parametrize("name", MODULES)
def test_every_figure_is_drawn_and_the_report_is_markdown(name: str, ran: Any) -> None:
    """Figures are not blank; every table of the report has rows of one width."""
    numbers, out = ran(name)
    figures = list(out.glob("*.png"))
    assert len(figures) >= 2
    for path in figures:
        assert matplotlib.image.imread(path)[..., :3].std() > 0.05
    text = MODULES[name].report(numbers)
    widths: list[int] = []
    for line in text.splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
            assert widths[-1] == widths[0], line
        else:
            widths = []


# -- softmax-losses and log-likelihood --------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax_losses", "log_likelihood"])
def test_every_identity_holds(name: str, ran: Any) -> None:
    """Both sides of each agree within its tolerance; the difference is that of the two numbers."""
    numbers, _ = ran(name)
    rows = numbers["identities"]
    assert [row["identity"] for row in rows if not row["holds"]] == []
    assert f"{len(rows)} of {len(rows)} identities hold" in MODULES[name].report(numbers)
    assert len({(row["part"], row["identity"], row.get("target_shape")) for row in rows}) == len(
        rows
    )
    for row in rows:
        assert abs(row["left"] - row["right"]) == pytest.approx(row["difference"], abs=1e-15)
        assert row["difference"] <= row["tolerance"] * max(1, abs(row["right"]))


def test_cross_entropy_is_compared_in_all_its_forms(ran: Any) -> None:
    """Five shapes of targets, three reductions, with and without weights and ignore_index."""
    rows = [r for r in ran("softmax_losses")[0]["identities"] if "target_shape" in r]
    kinds = {(r["identity"], r["target_shape"]) for r in rows}
    assert len(kinds) == len(rows) == 2 * 5 * 4 * 3


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1.001])
def test_an_identity_that_fails_is_reported(wrong: float, ran: Any) -> None:
    """NaN, infinity and a small difference: none of them passes for equal."""
    row = _identities.row("one thing", [1.0, wrong], 1.0, 1e-6)
    assert not row["holds"]
    numbers = ran("softmax_losses")[0]
    text = softmax_losses.report({**numbers, "identities": [{"part": "gradient", **row}]})
    assert "0 of 1 identities hold within their tolerance. **These do not**: one thing" in text
    assert "one thing **(fails)**" in text


def test_logistic_regression_is_the_maximum_of_the_likelihood() -> None:
    """Newton's weights are those that SciPy finds from the formula, without torch."""
    x, t = _regressions.breast_cancer()
    w = _identities.maximum_likelihood(
        lambda w: _regressions.nll_of(w, x, t), torch.zeros(x.shape[1]).double()
    )
    a, sign = x.numpy(), 2 * t.numpy() - 1
    found = optimize.minimize(
        lambda w: np.logaddexp(0, -sign * (a @ w)).sum(),
        np.zeros(a.shape[1]),
        jac=lambda w: -(sign * special.expit(-sign * (a @ w))) @ a,
        method="BFGS",
        options={"gtol": 1e-7},
    )
    assert np.allclose(w, found.x, atol=1e-6)


@pytest.mark.parametrize("places", [[-1.0, -2.0, 1.0, 2.0], [-1.3, -2.0, 0.4, 5.0], [0.0, 1, 2, 3]])
def test_classes_that_a_plane_separates_have_no_maximum_likelihood(places: list[float]) -> None:
    """The weights would grow for ever; that is an error, not an answer."""
    x = torch.tensor([[1.0, place] for place in places]).double()
    t = torch.tensor([0.0, 0.0, 1.0, 1.0]).double()
    with pytest.raises(ValueError, match="must have a maximum"):
        _identities.maximum_likelihood(
            lambda w: _regressions.nll_of(w, x, t), torch.zeros(2).double()
        )


def test_the_formula_by_hand_is_nan_where_the_model_is_right(ran: Any) -> None:
    """0 times log 0; log_softmax keeps the loss and its slope at every gap."""
    for result in ran("softmax_losses")[0]["by_hand"]:
        for side in (result["right"], result["wrong"]):
            assert side["log_softmax"] == pytest.approx(side["exact"], rel=1e-6, abs=1e-7)
            assert side["slope_log_softmax"] == pytest.approx(side["slope_exact"], abs=1e-6)
        if result["gap"] > 104:  # exp(-104) is 0 in float32, denormal numbers and all
            assert math.isnan(result["right"]["by_hand"])
            assert result["wrong"]["by_hand"] == math.inf
            assert math.isnan(result["wrong"]["slope_by_hand"])
        if result["gap"] >= 60:  # the cure that is none: most wrong, and no gradient
            assert result["wrong"]["slope_with_epsilon"] < 1e-12


def test_weights_of_classes_raise_recall_at_the_price_of_the_probabilities() -> None:
    """Recall by the normal cdf; the log of their ratio gives the probabilities back."""
    _, numbers = _imbalance.unbalanced(40_000, 0)
    plain, weighted, corrected = numbers["fits"].values()
    for one in (plain, weighted, corrected):
        assert one["recall"] == pytest.approx(one["exact_recall"], abs=0.03)
    # the border is where both densities, by their odds, are equal
    border = optimize.brentq(
        lambda x: 0.05 * stats.norm(2).pdf(x) - 0.95 * stats.norm(0).pdf(x), 0, 5, xtol=1e-12
    )
    assert plain["exact_recall"] == pytest.approx(stats.norm(2).sf(border), abs=1e-9)
    assert weighted["exact_recall"] == pytest.approx(stats.norm.cdf(1), abs=0.005)  # near to 1:1
    assert weighted["recall"] > plain["recall"] + 0.4
    assert weighted["precision"] < plain["precision"] - 0.3
    assert weighted["mean_probability"] > 3 * numbers["share"]
    assert corrected["mean_probability"] == pytest.approx(numbers["share"], abs=0.005)
    assert corrected["nll"] == pytest.approx(plain["nll"], abs=0.001)


def test_the_loss_falls_on_when_every_row_is_right() -> None:
    """The same steps in NumPy; loss and log-odds, at an accuracy of 1."""
    path = _imbalance.at_perfect_accuracy(300)
    right = [one for one in path if one["accuracy"] == 1]
    assert len(right) > 5
    for key, sign in (("loss", -1), ("least_log_odds", 1), ("length", 1)):
        assert (sign * np.diff([one[key] for one in right]) > 0).all(), key
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x, y = x[:100, :2], y[:100]
    x = np.column_stack([np.ones(100), (x - x.mean(0)) / x.std(0)])
    w = np.zeros(3)  # of the log-odds: the difference of two columns, whose gradients are opposite
    for _ in range(299):
        w -= 2 * (special.expit(x @ w) - y) @ x / 100
    assert path[-1]["step"] == 300
    assert path[-1]["loss"] == pytest.approx(
        np.logaddexp(0, (1 - 2 * y) * (x @ w)).mean(), rel=1e-9
    )
    assert path[-1]["least_log_odds"] == pytest.approx(((2 * y - 1) * (x @ w)).min(), rel=1e-9)


def test_a_product_of_densities_leaves_the_numbers_and_a_sum_of_logs_does_not(ran: Any) -> None:
    """0 and infinity; the log of the product by 50 digits is the sum."""
    tall, fair, wide = ran("log_likelihood")[0]["product"]
    assert (tall["product"], tall["log_of_product"]) == (0.0, -math.inf)
    assert (wide["product"], wide["log_of_product"]) == (math.inf, math.inf)
    assert fair["log_of_product"] == pytest.approx(fair["sum_of_logs"], abs=1e-9)
    z = np.random.default_rng(0).standard_normal(1000)
    with mpmath.workdps(50):
        exact = mpmath.mpf(1)
        for density in stats.norm(0, 1e-3).pdf(1e-3 * z):
            exact *= mpmath.mpf(float(density))
        assert wide["sum_of_logs"] == pytest.approx(float(mpmath.log(exact)), rel=1e-13)
        densities = stats.norm(0, 1e-3).pdf(1e-3 * z)
        assert _likelihoods.product(densities)[1] == pytest.approx(float(mpmath.log(exact)))


def test_the_likelihood_of_a_logistic_regression_is_convex_and_has_one_end(ran: Any) -> None:
    """Positive eigenvalues, two starts; separable classes have a falling loss and no end."""
    numbers, _ = ran("log_likelihood")
    found, separable = numbers["curvature"], numbers["separable"]
    assert (
        min(found["least_eigenvalue"], found["least_chord"])
        > 0
        > found["least_eigenvalue_of_squares"]
    )
    assert found["ends"][0] == pytest.approx(found["ends"][1], abs=1e-10)
    assert min(found["starts"]) > found["ends"][0] + 100
    nll = [one["nll"] for one in separable["ray"]]
    assert nll == sorted(nll, reverse=True) and 0 < nll[-1] < 1e-9
    assert "must have a maximum" in separable["error"]
    x, t = (a.numpy() for a in log_likelihood._two_classes(0, log_likelihood.SEPARABLE))
    with_prior = optimize.minimize(
        lambda w: np.logaddexp(0, (1 - 2 * t) * (x @ w)).sum() + w[1] ** 2 / 2,
        [0.0, 0.0],
        tol=1e-10,
    )
    assert separable["with_prior"] == pytest.approx(with_prior.x[1], abs=1e-4)


def test_binomials_approach_the_poisson_distribution_as_their_bound_says(ran: Any) -> None:
    """Ten times the trials, a tenth of the distance; of one count the difference in closed form."""
    table = ran("log_likelihood")[0]["counts"]
    rate = _likelihoods.RATE
    for one in table:
        n, y = one["trials"], int(rate)
        assert 0 < one["distance"] < one["bound"]
        with mpmath.workdps(40):
            p = mpmath.mpf(rate) / n
            binomial = mpmath.binomial(n, y) * p**y * (1 - p) ** (n - y)
            poisson = mpmath.exp(-rate) * mpmath.mpf(rate) ** y / mpmath.factorial(y)
            exact = float(mpmath.log(binomial / poisson))
        assert one["log_prob_at_rate"] == pytest.approx(exact, abs=1e-9)
    distances = np.array([one["distance"] for one in table[1:]])
    assert distances[:-1] / distances[1:] == pytest.approx(10, rel=0.05)


def test_the_likelihood_that_is_differentiated_is_that_of_a_mixture() -> None:
    """SciPy's mixture gives its value; mpmath its derivative."""
    theta, y = [0.4, -1.0, 2.0, -0.3, 0.5], np.array([-2.0, 0.3, 4.0])
    w = special.expit(theta[0])
    laws = [
        stats.Normal(mu=m, sigma=math.exp(s)) for m, s in zip(theta[1:3], theta[3:], strict=True)
    ]
    mixture = stats.Mixture(laws, weights=[w, 1 - w])
    found = _likelihoods._custom(theta, y, np.log, np.exp)
    assert np.allclose(found, -mixture.logpdf(y), atol=1e-13)
    with mpmath.workdps(30):
        exact = mpmath.diff(
            lambda a: sum(
                _likelihoods._custom([a, *theta[1:]], v, mpmath.log, mpmath.exp) for v in y.tolist()
            ),
            theta[0],
        )
    slope = torch.func.grad(
        lambda t: _likelihoods._custom(t, torch.from_numpy(y), torch.log, torch.exp).sum()
    )(torch.tensor(theta, dtype=torch.float64))
    assert slope[0].item() == pytest.approx(float(exact), abs=1e-10)


# -- maximum-likelihood -----------------------------------------------------------------------


def test_gradients_find_what_others_find(ran: Any) -> None:
    """Adam, L-BFGS and scipy.stats.fit or EM: the same parameters and the same NLL."""
    numbers, _ = ran("maximum_likelihood")
    for result in numbers["families"].values():
        assert result["agree"], result["title"]
        assert result["apart"]["Adam"] < 0.01
        assert result["apart"][result["other"]] < 1e-4
        assert result["nll"]["L-BFGS"] <= min(result["nll"].values()) + 1e-12
        assert result["arrived"]["L-BFGS"] < result["arrived"]["Adam"] <= numbers["steps"]


def test_the_gaussian_of_greatest_likelihood_has_the_moments_of_the_draws(ran: Any) -> None:
    """Mean, standard deviation (of N, not N - 1) and standard errors in closed form."""
    numbers, _ = ran("maximum_likelihood")
    result, n = numbers["families"]["gaussian"], numbers["rows"]
    y = _families.FAMILIES["gaussian"].draw(np.random.default_rng((0, 0)), n)
    assert result["parameters"]["L-BFGS"] == pytest.approx([y.mean(), y.std()], abs=1e-8)
    errors = [y.std() / math.sqrt(n), y.std() / math.sqrt(2 * n)]
    assert result["standard_errors"] == pytest.approx(errors, rel=1e-6)


def test_the_gamma_of_greatest_likelihood_solves_its_equations(ran: Any) -> None:
    """log k - digamma(k) = log mean y - mean log y, and scale = mean / k."""
    numbers, _ = ran("maximum_likelihood")
    y = _families.FAMILIES["gamma"].draw(np.random.default_rng((0, 1)), numbers["rows"])
    gap = math.log(y.mean()) - np.log(y).mean()
    k = optimize.brentq(lambda k: math.log(k) - special.digamma(k) - gap, 0.1, 100, xtol=1e-12)
    found = numbers["families"]["gamma"]["parameters"]["L-BFGS"]
    assert found == pytest.approx([k, y.mean() / k], rel=1e-6)


@pytest.mark.parametrize("name", _families.FAMILIES)
def test_densities_are_those_of_scipy(name: str) -> None:
    """At the true parameters, by log density; constraining undoes unconstraining."""
    family = _families.FAMILIES[name]
    p = torch.tensor(family.truth, dtype=torch.float64)
    y = np.linspace(0.1, 8, 30)
    laws = {
        "gaussian": lambda: stats.norm(*p).logpdf(y),
        "gamma": lambda: stats.gamma(p[0], scale=p[1]).logpdf(y),
        "student_t": lambda: stats.t(p[2], p[0], p[1]).logpdf(y),
        "mixture": lambda: special.logsumexp(
            stats.norm(p[3:6], p[6:]).logpdf(y[:, None]) + np.log(p[:3].numpy()), axis=1
        ),
    }
    raw = family.unconstrained(p)
    found = family.density(raw).expand((30,)).log_prob(torch.from_numpy(y)[:, None])
    assert np.allclose(found, laws[name](), atol=1e-12)
    assert torch.allclose(family.natural(raw), p, atol=1e-12)


def test_disagreement_is_reported(ran: Any) -> None:
    """The verdict comes from the numbers."""
    numbers, _ = ran("maximum_likelihood")
    assert "do not agree" not in maximum_likelihood.report(numbers)
    assert "has not converged" not in maximum_likelihood.report(numbers)
    families = {
        k: {**v, "agree": False, "apart": {**v["apart"], "Adam": 1.0}}
        for k, v in numbers["families"].items()
    }
    text = maximum_likelihood.report({**numbers, "families": families})
    assert text.count("**do not agree**") == text.count("**it has not converged**") == len(families)


def test_a_component_on_one_draw_has_a_greater_likelihood_than_the_best_mixture(ran: Any) -> None:
    """The likelihood of a mixture has no greatest value."""
    collapse = ran("maximum_likelihood")[0]["collapse"]
    assert collapse["nll"] < collapse["fitted"]

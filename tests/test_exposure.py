"""Tests of counts over an exposure: of Mixture.with_exposure and of networks that learn rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from sklearn.linear_model import PoissonRegressor
from torch import distributions as td

import mdn
from mdn.distribution import Mixture, PointMass


def test_an_exposure_multiplies_the_rate_of_counts() -> None:
    """Poisson and negative binomial against SciPy; the latter against the integral over rates."""
    e = torch.tensor([[0.1], [1.0], [30.0]], dtype=torch.float64)
    rate = torch.tensor([[0.5, 4.0]], dtype=torch.float64).expand(3, 2)
    y = torch.tensor([[0.0], [3.0], [40.0]], dtype=torch.float64)
    log_w = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    poisson = Mixture(log_w, td.Poisson(rate)).with_exposure(e)
    terms = scipy.stats.poisson.pmf(y.numpy(), (e * rate).numpy())
    np.testing.assert_allclose(poisson.log_prob(y), np.log(terms @ [0.3, 0.7]), rtol=1e-12)
    shape, logits = 2.5, 0.4  # rates are gamma of shape r and rate exp(-logits)
    negative = td.NegativeBinomial(torch.tensor([shape]).double(), logits=torch.tensor([logits]))
    found = Mixture(torch.zeros(1).double(), negative).with_exposure(e).log_prob(y)
    for row in range(3):
        over = scipy.integrate.quad(
            lambda u, row=row: scipy.stats.poisson.pmf(float(y[row]), float(e[row]) * u)
            * scipy.stats.gamma.pdf(u, shape, scale=math.exp(logits)),
            0, 60, epsabs=0, epsrel=1e-9, limit=400,
        )[0]  # fmt: skip
        assert float(found[row]) == pytest.approx(math.log(over), rel=1e-6)


@pytest.mark.parametrize("event", [False, True])
def test_an_exposure_reaches_every_form_of_components(event: bool) -> None:
    """Lists, one family with or without event axis; a point mass at 0 stays."""
    rate = torch.tensor([[0.5, 2.0]] * 3)
    base = td.Independent(td.Poisson(rate[..., None]), 1) if event else td.Poisson(rate)
    e = torch.tensor([[1.0], [2.0], [5.0]])
    found = Mixture(torch.zeros(2), base).with_exposure(e)
    assert found.batch_shape == (3,)
    torch.testing.assert_close(found.mean, 1.25 * e)
    first = td.Poisson(rate[:, :1]) if event else td.Poisson(rate[:, 0])
    zero = PointMass(torch.zeros(3, 1) if event else torch.zeros(3))
    parts = [td.Independent(p, 1) if event else p for p in (zero, first)]
    listed = Mixture(torch.zeros(2), parts).with_exposure(e)
    torch.testing.assert_close(listed.mean, 0.25 * e)
    torch.testing.assert_close(found.expand((4, 3)).with_exposure(2.0).mean[0], 2.5 * e)


def test_exposures_that_make_no_sense_are_refused() -> None:
    """Not positive, of another shape, or with components that do not count."""
    counts = Mixture(torch.zeros(1), td.Poisson(torch.ones(3, 1)))
    with pytest.raises(ValueError, match=r"exposure must be positive and finite; got 0 at index"):
        counts.with_exposure(torch.tensor([[1.0], [0.0], [1.0]]))
    with pytest.raises(ValueError, match=r"must be a number or \(\*, 1\); got shape \(3,\)"):
        counts.with_exposure(torch.ones(3))
    with pytest.raises(TypeError, match=r"exposure needs components that count: .*got Normal"):
        Mixture(torch.zeros(1), td.Normal(torch.zeros(1), 1.0)).with_exposure(1.0)


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_rates_are_learnt_where_exposures_vary_a_hundredfold(family: str) -> None:
    """Two groups: the maximum of the likelihood is counts over exposure; and as a Poisson GLM."""
    rng = np.random.default_rng(0)
    group = np.repeat([0.0, 1.0], 150)
    exposure = 10 ** rng.uniform(-1, 1, 300)
    y = rng.poisson(np.where(group == 1, 3.0, 0.6) * exposure).astype(float)
    x, e, target = (torch.as_tensor(a).float()[:, None] for a in (group, exposure, y))
    model = mdn.MDN(1, n_components=1, hidden=(), family=family).standardize_(x, target)
    history = mdn.fit(
        model, ((x, e), target), max_epochs=400, lr=0.05, weight_decay=0.0, batch_size=300
    )
    with torch.no_grad():
        rate = model(torch.tensor([[0.0], [1.0]])).mean[:, 0]
    exact = [y[group == g].sum() / exposure[group == g].sum() for g in (0, 1)]
    assert rate.tolist() == pytest.approx(exact, rel=0.01 if family == "poisson" else 0.06)
    glm = PoissonRegressor(alpha=0, tol=1e-8).fit(group[:, None], y / exposure, exposure)
    assert rate.tolist() == pytest.approx(glm.predict([[0.0], [1.0]]), rel=0.06)
    mean = np.where(group == 1, exact[1], exact[0]) * exposure
    best = -scipy.stats.poisson.logpmf(y, mean).mean()
    assert history.train_nll[-1] == pytest.approx(best, abs=0.01 if family == "poisson" else 0.05)


def test_an_exposure_without_counts_is_refused() -> None:
    """By the Gaussian and by families of numbers."""
    x = torch.zeros(4, 2)
    for family in ("gaussian", "gamma"):
        with pytest.raises(TypeError, match="exposure needs "):
            mdn.MDN(2, family=family)(x, torch.ones(4, 1))

"""Every public parameter that is not data: another type or range is refused in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import mdn
from mdn import calibration, functional, plot, scoring
from mdn.arguments import check_number
from mdn.distribution import divergence
from mdn.simulators import EconDensity

NAN, INF = math.nan, math.inf
NOT_NUMBERS = "fast", [0.5, 0.9], object()


class Kind(NamedTuple):
    """A right value of a parameter, and wrong ones."""

    right: Any
    wrong: tuple[Any, ...]


COVERAGE = Kind(0.5, (0, 1, -0.1, NAN, None, True, *NOT_NUMBERS))
COUNT = Kind(3, (0, -1, 1.5, NAN, None, True, *NOT_NUMBERS))
SEVERAL = Kind(3, (0, 1, -1, 1.5, NAN, None, *NOT_NUMBERS))  # at least 2
POSITIVE = Kind(0.5, (0, -1, NAN, INF, None, *NOT_NUMBERS))
NOT_NEGATIVE = Kind(0.5, (-1, NAN, INF, None, *NOT_NUMBERS))
LEVELS = Kind([0.1, 0.5], ([0.1, 1.2], -0.5, NAN, "half", None, object()))
FLAG = Kind(True, ("no", None, 2, object()))
GENERATOR = Kind(torch.Generator(), (0, "seed", np.random.default_rng(0)))


def optional(kind: Kind) -> Kind:
    """The same where None stands for a default."""
    return Kind(kind.right, tuple(v for v in kind.wrong if v is not None))


def choice(right: str) -> Kind:
    """One of several words."""
    return Kind(right, ("nonsense", 3, None, [right]))


X = np.random.default_rng(0).normal(size=(24, 2))
Y = X[:, 0] + 0.3 * np.random.default_rng(1).normal(size=24)
ZERO = torch.zeros(24, 2)
DIST = mdn.GaussianMixture(
    ZERO, torch.randn(24, 2, 1, generator=torch.Generator()), ZERO[..., None] + 1
)
COLUMN = torch.as_tensor(Y)[:, None]
PLANE = mdn.GaussianMixture(ZERO[:3], torch.zeros(3, 2, 2), torch.ones(3, 2, 2))  # D = 2
SMALL: dict[str, Any] = {
    "n_components": 1,
    "hidden": (2,),
    "ensemble_size": 1,
    "trees": False,
    "max_epochs": 1,
}


@pytest.fixture(scope="module")
def model() -> mdn.MDNRegressor:
    return mdn.MDNRegressor(**SMALL).fit(X, Y)


def _fit_regressor(_: Any, **options: Any) -> Any:
    return mdn.MDNRegressor(**{**SMALL, **options}).fit(X, Y)


def _fit_module(_: Any, **options: Any) -> Any:
    x = torch.as_tensor(X).float()
    return mdn.fit(mdn.MDN(2, hidden=(2,)), (x, COLUMN.float()), **{"max_epochs": 1, **options})


def _mdn(_: Any, **options: Any) -> Any:
    return mdn.MDN(**{"in_features": 2, "hidden": (2,), **options})


def _head(_: Any, **options: Any) -> Any:
    return mdn.MDNHead(**{"in_features": 2, **options})


# name: how it is called (with a fitted regressor first), and its parameters
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Kind]]] = {
    "MDNRegressor": (
        _fit_regressor,
        {
            "n_components": optional(COUNT),
            "hidden": Kind((4,), (3, "64", [0], [1.5], [[2]], object())),
            "ensemble_size": optional(COUNT),
            "preset": choice("fast"),
            "target": choice("real"),
            "resolution": Kind(None, (0, -1, NAN, INF, *NOT_NUMBERS)),
            "trees": Kind(False, FLAG.wrong),
            "covariance_type": choice("diagonal"),
            "min_scale": POSITIVE,
            "learning_rate": optional(POSITIVE),
            "weight_decay": NOT_NEGATIVE,
            "batch_size": optional(COUNT),
            "max_epochs": Kind(1, optional(COUNT).wrong),
            "patience": optional(COUNT),
            "max_time": Kind(60.0, (0, -1, NAN, "1m", [1.0], object())),
            "warm_start": Kind(False, FLAG.wrong),
            "n_jobs": Kind(-2, (0, 1.5, "all", [1])),
            "device": Kind("cpu", ("gpu", "cuda:99", 3.5, [1])),
            "random_state": Kind(0, (-1, 1.5, "seed", [1.5])),
            "verbose": Kind(0, ("no", None, 2)),
        },
    ),
    "MDNRegressor.predict": (lambda m, **o: m.predict(X, **o), {"return_std": FLAG}),
    "MDNRegressor.predict_interval": (
        lambda m, **o: m.predict_interval(X, **o),
        {"coverage": COVERAGE},
    ),
    "MDNRegressor.predict_hdr": (lambda m, **o: m.predict_hdr(X, **o), {"coverage": COVERAGE}),
    "MDNRegressor.predict_quantiles": (
        lambda m, **o: m.predict_quantiles(X, **o),
        {"levels": LEVELS},
    ),
    "MDNRegressor.predict_cdf": (
        lambda m, **o: m.predict_cdf(X, **o),
        {"y": Kind(0.5, (NAN, "a", None, [1.0, 2.0]))},
    ),
    "MDNRegressor.predict_proba_above": (
        lambda m, **o: m.predict_proba_above(X, **o),
        {"threshold": Kind([0.5], (NAN, "a", None, [[1.0]]))},
    ),
    "MDNRegressor.predict_crps": (
        lambda m, **o: m.predict_crps(X, **o),
        {"y": Kind(Y, (NAN, 0.5, None, Y[:3]))},
    ),
    "MDNRegressor.sample": (
        lambda m, **o: m.sample(X, **o),
        {"n_samples": COUNT, "random_state": Kind(0, (-1, 1.5, "seed"))},
    ),
    "fit": (
        _fit_module,
        {
            "max_epochs": COUNT,
            "batch_size": optional(COUNT),
            "lr": POSITIVE,
            "weight_decay": NOT_NEGATIVE,
            "patience": COUNT,
            "clip_norm": optional(POSITIVE),
            "seed": Kind(0, (-1, 1.5, "seed", None, [1])),
            "progress": Kind(False, ("no", 2)),
            "checkpoint_every": COUNT,
            "resume": Kind(False, ("no", None, 2)),
            "max_time": Kind(60.0, (-1, NAN, "1m", [1.0])),
            "optimizer": Kind(None, ("adam", 3)),
            "checkpoint": Kind(None, (3, [1])),
        },
    ),
    "MDN": (
        _mdn,
        {
            "in_features": COUNT,
            "out_features": COUNT,
            "n_components": COUNT,
            "hidden": Kind((4,), (3, "64", [0], [1.5], None)),
            "backbone": Kind(None, ("net", 3)),
            "covariance_type": choice("full"),
            "family": choice("gaussian"),
            "min_scale": POSITIVE,
        },
    ),
    "MDNHead": (
        _head,
        {
            "in_features": COUNT,
            "out_features": COUNT,
            "n_components": COUNT,
            "covariance_type": choice("full"),
            "family": choice("laplace"),
            "min_scale": POSITIVE,
        },
    ),
    "CategoricalHead": (
        lambda _, **o: mdn.CategoricalHead(**{"in_features": 2, "n_classes": 3, **o}),
        {"in_features": COUNT, "n_classes": COUNT},
    ),
    "interval": (lambda _, **o: DIST.interval(**o), {"coverage": COVERAGE}),
    "hdr": (lambda _, **o: DIST.hdr(**o), {"coverage": COVERAGE}),
    "icdf": (lambda _, **o: DIST[0].icdf(**o), {"p": Kind([0.1], ([1.2], "half", None, object()))}),
    "affine": (
        lambda _, **o: DIST.affine(**{"shift": 0.0, "scale": 1.0, **o}),
        {
            "shift": Kind(1.0, (NAN, INF, "a", None)),
            "scale": Kind(2.0, (0.0, NAN, INF, "a", None)),
        },
    ),
    "sample of a mixture": (
        lambda _, **o: DIST.sample(**o),
        {"sample_shape": Kind((2,), (-1, (2, -1), 1.5, "a", None)), "generator": GENERATOR},
    ),
    "merge": (lambda _, **o: DIST.merge(**o), {"n": Kind(1, COUNT.wrong)}),
    "marginal": (
        lambda _, **o: DIST.marginal(**o),
        {"dims": Kind(0, (1, -2, 0.5, "y", None, [0, 0]))},
    ),
    "discretize": (lambda _, **o: DIST.discretize(**o), {"width": POSITIVE}),
    "energy_score of a mixture": (
        lambda _, **o: mdn.GaussianMixture(
            ZERO[0], torch.zeros(2, 2), torch.ones(2, 2)
        ).energy_score(torch.zeros(2), **o),
        {"n_samples": SEVERAL, "generator": GENERATOR},
    ),
    "divergence": (
        lambda _, **o: divergence(DIST, DIST, **o),
        {"n_samples": SEVERAL, "generator": GENERATOR},
    ),
    "gaussian_mixture_nll": (
        lambda _, **o: functional.gaussian_mixture_nll(
            COLUMN.float(), DIST.logits, DIST.loc, DIST.scale.log(), **o
        ),
        {"reduction": choice("sum")},
    ),
    "beta_nll": (
        lambda _, **o: functional.beta_nll(
            COLUMN.float(), DIST.logits, DIST.loc, DIST.scale.log(), **o
        ),
        {"beta": Kind(0.5, (-1, NAN, 2.0, None, *NOT_NUMBERS)), "reduction": choice("sum")},
    ),
    "deformed_nll_loss": (
        lambda _, **o: functional.deformed_nll_loss(
            torch.zeros(2, 3), torch.zeros(2).long(), **{"q": 0.5, **o}
        ),
        {"q": Kind(0.5, (NAN, INF, None, *NOT_NUMBERS)), "reduction": choice("sum")},
    ),
    "pinball": (lambda _, **o: scoring.pinball(DIST, COLUMN, **o), {"levels": LEVELS}),
    "threshold_weighted_crps": (
        lambda _, **o: scoring.threshold_weighted_crps(DIST, COLUMN, **o),
        {
            "low": Kind(-INF, (INF, NAN, "a", None, [1.0])),
            "high": Kind(1.0, (-INF, NAN, "a", None, [1.0])),
        },
    ),
    "crps_by_level": (lambda _, **o: scoring.crps_by_level(DIST, COLUMN, **o), {"levels": LEVELS}),
    "crps_by_threshold": (
        lambda _, **o: scoring.crps_by_threshold(DIST, COLUMN, **o),
        {"thresholds": Kind([0.5, 1.0], (NAN, "a", None, [[1.0]], []))},
    ),
    "interval_score": (
        lambda _, **o: scoring.interval_score(DIST, COLUMN, **o),
        {"coverage": COVERAGE},
    ),
    "brier": (
        lambda _, **o: scoring.brier(DIST, COLUMN, **o),
        {"threshold": Kind(0.5, (NAN, "a", None, object()))},
    ),
    "rounded_nll": (
        lambda _, **o: scoring.rounded_nll(DIST, torch.zeros(24, 1), **o),
        {"width": POSITIVE},
    ),
    "energy_score": (
        lambda _, **o: scoring.energy_score(PLANE, torch.zeros(3, 2), **o),
        {"n_samples": SEVERAL, "generator": GENERATOR},
    ),
    "randomized_pit": (
        lambda _, **o: scoring.randomized_pit(DIST.discretize(0.5), torch.zeros(24, 1), **o),
        {"generator": GENERATOR},
    ),
    "pit_histogram": (
        lambda _, **o: calibration.pit_histogram(DIST, COLUMN, **o),
        {"bins": COUNT, "band": COVERAGE},
    ),
    "coverage_curve": (
        lambda _, **o: calibration.coverage_curve(DIST, COLUMN, **o),
        {
            "levels": Kind([0.5], ([0.0], [1.2], "a", None, NAN)),
            "kind": choice("hdr"),
            "band": COVERAGE,
        },
    ),
    "hdr_values": (
        lambda _, **o: calibration.hdr_values(PLANE, torch.zeros(3, 2), **o),
        {"n_samples": COUNT, "generator": GENERATOR},
    ),
    "conditional_calibration": (
        lambda _, **o: calibration.conditional_calibration(DIST, COLUMN, X, **o),
        {"n_bins": COUNT},
    ),
    "sharpness": (
        lambda _, **o: calibration.sharpness(DIST, **o),
        {"coverage": Kind([0.5], ([0.0], [1.2], "a", None, NAN))},
    ),
    "out_of_fold": (
        lambda m, **o: calibration.out_of_fold(m, X, Y, **{"cv": 2, **o}),
        {"cv": Kind(2, (0, 1, 25, 1.5, "a", None)), "seed": Kind(0, (-1, 1.5, "seed"))},
    ),
    "recalibrate": (
        lambda _, **o: calibration.recalibrate(DIST, COLUMN, **o),
        {"method": choice("affine")},
    ),
    "ConformalIntervals": (
        lambda _, **o: calibration.ConformalIntervals.fit(DIST, COLUMN, **o),
        {"coverage": COVERAGE},
    ),
    "ConformalHDR": (
        lambda _, **o: calibration.ConformalHDR.fit(DIST, COLUMN, **o),
        {"coverage": COVERAGE},
    ),
    "Simulator.sample": (
        lambda _, **o: EconDensity().sample(**{"n": 3, **o}),
        {"n": COUNT, "random_state": Kind(0, (-1, 1.5, "seed"))},
    ),
    "load_uci": (
        lambda _, **o: mdn.datasets.load_uci(**o),
        {"name": Kind("yacht", ("nonsense", 3, None))},
    ),
    "plot_feature": (
        lambda m, **o: plot.plot_feature(m, X, **o),
        {
            "feature": Kind(1, (2, -3, 0.5, None, [0])),
            "coverage": COVERAGE,
            "n_grid": SEVERAL,
        },
    ),
    "plot_fan": (
        lambda m, **o: plot.plot_fan(m, X, **o),
        {"coverage": Kind([0.5], ([0.0], [1.2], "a", None, NAN)), "n_grid": SEVERAL},
    ),
    "plot_conditional": (
        lambda m, **o: plot.plot_conditional(m, X[:2], **o),
        {
            "components": FLAG,
            "coverage": COVERAGE,
            "region": choice("hdr"),
            "n_grid": SEVERAL,
            "labels": Kind(["a", "b"], (["a"], 3)),
        },
    ),
    "panels": (
        lambda _, **o: plot.panels(**{"rows": 1, "columns": 2, **o}),
        {"rows": COUNT, "columns": COUNT, "size": Kind((4, 3), (3, (0, 1), "a", None))},
    ),
    "tune": (
        lambda _, **o: mdn.tune(
            X, Y, **{"estimator": mdn.MDNRegressor(**SMALL), "n_trials": 1, "cv": 2, **o}
        ),
        {
            "n_trials": Kind(1, COUNT.wrong),
            "timeout": optional(POSITIVE)._replace(wrong=(0, -1, NAN, "1m", [1.0])),
            "cv": Kind(2, (0, 1, 1.5, "a", None)),
            "random_state": Kind(0, (-1, 1.5, "seed")),
        },
    ),
    "save": (lambda m, **o: mdn.save(m, **o), {"path": Kind(None, (3, [1]))}),
    "load": (lambda _, **o: mdn.load(**o), {"path": Kind(None, (3, [1]))}),
}
PARAMETERS = [(name, parameter) for name, (_, kinds) in CALLS.items() for parameter in kinds]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_the_parameter(
    name: str, parameter: str, model: mdn.MDNRegressor
) -> None:
    """ValueError or TypeError with the name of the parameter; nothing of what lies inside."""
    call, kinds = CALLS[name]
    for wrong in kinds[parameter].wrong:
        with pytest.raises((ValueError, TypeError)) as caught:
            call(model, **{parameter: wrong})
        text = str(caught.value)
        assert re.search(rf"\b{parameter}\b", text), (wrong, text)
        assert "\n" not in text and len(text) < 400 and not text.endswith("."), (wrong, text)


@pytest.mark.filterwarnings("ignore:.* rows are few:mdn.DataWarning")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("save", "load")])
def test_the_right_values_are_taken(name: str, model: mdn.MDNRegressor) -> None:
    """Otherwise the test of wrong values would prove nothing."""
    call, kinds = CALLS[name]
    for parameter, kind in kinds.items():
        if (name, parameter) != ("load_uci", "name"):  # needs the data
            call(model, **{parameter: kind.right})


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    """Also those of no axis."""
    for value in (np.float32(0.5), np.array(0.5), torch.tensor(0.5), np.int64(1)):
        assert check_number("x", value, above=0) == float(value)

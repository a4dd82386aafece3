"""Tests of the one way to ask a model for its predictive distribution."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

import mdn
from mdn import MDN, GaussianMixture, MDNRegressor, calibration, scoring
from mdn.calibration import ConformalHDR, ConformalIntervals, out_of_fold
from mdn.prediction import (
    distribution_and_target,
    evaluating,
    final_model,
    numeric_array,
    predict_distribution,
    take_rows,
)
from mdn.scoring import nll_scorer
from mdn.tables import Columns

N = 40

FRAMES: dict[str, Callable[[Any], Any]] = {
    "array": np.asarray,
    "list": lambda X: np.asarray(X).tolist(),
    "tensor": torch.as_tensor,
    "pandas": lambda X: pd.DataFrame(np.asarray(X), columns=["a", "b"]),
    "nullable pandas": lambda X: pd.DataFrame(np.asarray(X), columns=["a", "b"]).convert_dtypes(),
    "polars": lambda X: pl.DataFrame(np.asarray(X), schema=["a", "b"]),
    "pyarrow": lambda X: pa.table({"a": np.asarray(X)[:, 0], "b": np.asarray(X)[:, 1]}),
}
NAMED = ["pandas", "nullable pandas", "polars", "pyarrow"]


def small() -> MDNRegressor:
    return MDNRegressor(
        1, (4,), ensemble_size=1, trees=False, max_epochs=3, random_state=0, preset="fast"
    )


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(3.0, 2.0, (N, 2))
    return X, X[:, 0] + rng.normal(size=N)


def line(x: Tensor) -> GaussianMixture:
    """A callable from X (N, F) to N normals around the first feature."""
    loc = x[:, :1, None].double()
    return GaussianMixture(torch.zeros(len(x), 1), loc, torch.ones_like(loc))


class Line(nn.Module):
    """The same as a module in float32 that remembers what it was asked and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(2, 1), nn.Dropout(0.5)
        self.asked: list[Any] = []

    def forward(self, x: Tensor) -> GaussianMixture:
        self.asked.append((x.dtype, self.training, torch.is_grad_enabled()))
        return line(self.dropout(self.layer(x)))


# -- every model, every kind of X ---------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAMES)
def test_modules_and_callables_take_every_kind_of_rows(kind: str, data: Any) -> None:
    """As an array of the same numbers."""
    X = FRAMES[kind](data[0])
    torch.manual_seed(0)
    for model in (Line(), MDN(2, 1), line):
        expected = predict_distribution(model, data[0])
        found = predict_distribution(model, X)
        assert found.batch_shape == (N,)
        torch.testing.assert_close(found.mean, expected.mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", FRAMES)
def test_regressors_and_pipelines_take_what_they_were_fitted_on(kind: str, data: Any) -> None:
    """A Pipeline is the regressor on what the steps before it make of X."""
    X, y = FRAMES[kind](data[0]), data[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small().fit(X, y)
        assert torch.equal(predict_distribution(model, X).loc, model.predict_distribution(X).loc)
        if kind in ("list", "tensor", "pyarrow"):  # which scikit-learn's scaler does not all take
            return
        pipeline = make_pipeline(StandardScaler(), "passthrough", small()).fit(X, y)
        scaled = small().fit(pipeline[:-1].transform(X), y)
        expected = scaled.predict_distribution(pipeline[:-1].transform(X))
        assert torch.equal(predict_distribution(pipeline, X).loc, expected.loc)


def test_a_pipeline_may_end_in_a_module_or_a_callable(data: Any) -> None:
    """What stands before it is applied first."""
    scaler = StandardScaler().fit(data[0])
    pipeline = Pipeline([("scale", scaler), ("line", line)])
    assert torch.equal(
        predict_distribution(pipeline, data[0]).mean,
        line(torch.tensor(scaler.transform(data[0]), dtype=torch.float32)).mean,
    )


@pytest.mark.parametrize("target", ["real", "interval", "positive"])
def test_scorers_take_pipelines_of_every_target_and_mixed_columns(target: Any) -> None:
    """The score is that of the regressor on the transformed columns."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=N), "b": rng.choice(["u", "v"], N)})
    y = np.exp(rng.normal(size=N))
    y = np.stack([y - 0.1, y + 0.1], 1) if target == "interval" else y
    encoder = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(sparse_output=False), ["b"])
    )
    pipeline = make_pipeline(encoder, small().set_params(target=target)).fit(frame, y)
    expected = -pipeline[-1].nll(pipeline[:-1].transform(frame), y)
    for model in (pipeline, FrozenEstimator(pipeline)):
        assert nll_scorer(model, frame, y) == pytest.approx(expected, rel=1e-12)
    if target == "interval":
        with pytest.raises(ValueError, match="needs one number a row; got intervals"):
            scoring.crps_scorer(pipeline, frame, y)
    else:
        score = scoring.crps(pipeline, y, X=frame).mean()
        assert scoring.crps_scorer(pipeline, frame, y) == pytest.approx(-score, rel=1e-12)


def test_a_search_is_its_best_estimator(data: Any) -> None:
    """Of regressors or of Pipelines, also inside one another."""
    X, y = data
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small()),
        {"mdnregressor__n_components": [1, 2]},
        scoring=nll_scorer,
        cv=2,
    )
    with pytest.raises(ValueError, match="GridSearchCV has no best_estimator_: fit it first"):
        predict_distribution(search, X)
    search.fit(X, y)
    folds = [  # by hand
        make_pipeline(StandardScaler(), small()).fit(X[fold], y[fold])
        for fold, _ in KFold(2).split(X)
    ]
    held_out = [
        -scoring.nll(m, y[i], X=X[i]).mean()
        for m, (_, i) in zip(folds, KFold(2).split(X), strict=True)
    ]
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(held_out))
    best = search.best_estimator_
    expected = best[-1].predict_distribution(best[:-1].transform(X))
    assert torch.equal(predict_distribution(search, X).loc, expected.loc)
    model, reached = final_model(search, X)
    assert model is best[-1]
    np.testing.assert_array_equal(reached, best[:-1].transform(X))


def test_an_affine_transform_of_the_target_is_undone(data: Any) -> None:
    """p_y(y) = p_z((y - m) / s) / s, so the NLL is in y's unit."""
    X, y = data
    y = 100 + 7 * y
    model = TransformedTargetRegressor(small(), transformer=StandardScaler())
    with pytest.raises(ValueError, match="TransformedTargetRegressor must be fitted"):
        predict_distribution(model, X)
    model.fit(X, y)
    dist = predict_distribution(model, X)
    scaler = model.transformer_
    z = scaler.transform(y[:, None])[:, 0]
    expected = model.regressor_.log_prob(X, z) - np.log(scaler.scale_)
    np.testing.assert_allclose(dist.log_prob(torch.tensor(y)[:, None]), expected, rtol=1e-10)
    np.testing.assert_allclose(dist.mean[:, 0], model.predict(X), rtol=1e-10)
    logarithm = TransformedTargetRegressor(small(), func=np.log, inverse_func=np.exp).fit(X, y)
    with pytest.raises(ValueError, match=r"transformer of TransformedTargetRegressor must be aff"):
        predict_distribution(logarithm, X)


def test_the_transform_of_several_targets_must_be_affine_in_each(data: Any) -> None:
    """Neither a rotation nor a curve passes for a scale per target."""
    X, y = data
    Y = np.stack([y, 3 - 2 * y], 1)
    scaled = TransformedTargetRegressor(small(), transformer=StandardScaler()).fit(X, Y)
    np.testing.assert_allclose(predict_distribution(scaled, X).mean, scaled.predict(X), rtol=1e-9)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    rotation = FunctionTransformer(lambda Z: Z @ turn, lambda Z: Z @ turn.T)
    rotated = TransformedTargetRegressor(small(), transformer=rotation).fit(X, Y)
    with pytest.raises(ValueError, match="must be affine"):
        predict_distribution(rotated, X)


def test_a_distribution_is_its_own_answer(data: Any) -> None:
    """With X its rows are counted; one of batch () stands for each of them."""
    dist = line(torch.zeros(N, 2))
    assert predict_distribution(dist) is dist
    assert predict_distribution(dist, data[0]) is dist
    assert predict_distribution(dist[0], data[0]).batch_shape == (N,)
    with pytest.raises(
        ValueError, match="X must have one row for each of the 3 distributions; got 40"
    ):
        predict_distribution(dist[:3], data[0])


# -- every function of scoring and calibration ---------------------------------------------------

SCORES: dict[str, Callable[..., Any]] = {
    "nll": scoring.nll,
    "crps": scoring.crps,
    "energy_score": scoring.energy_score,
    "pinball": lambda d, y, **k: scoring.pinball(d, y, [0.1, 0.5], **k),
    "interval_score": lambda d, y, **k: scoring.interval_score(d, y, 0.9, **k),
    "threshold_weighted_crps": lambda d, y, **k: scoring.threshold_weighted_crps(
        d, y, low=0.5, **k
    ),
    "dawid_sebastiani": scoring.dawid_sebastiani,
    "rounded_nll": lambda d, y, **k: scoring.rounded_nll(d, np.round(y), 1.0, **k),
    "brier": lambda d, y, **k: scoring.brier(d, y, 2.0, **k),
    "cde_loss": scoring.cde_loss,
    "pit": scoring.pit,
    "randomized_pit": scoring.randomized_pit,
    "summary": lambda d, y, **k: [*scoring.summary(d, y, **k).values()],
    "nll_scorer": lambda d, y, X=None: scoring.nll_scorer(d, X, y),
    "crps_scorer": lambda d, y, X=None: scoring.crps_scorer(d, X, y),
}


def shape(found: Any) -> Any:
    """The numbers of a recalibration."""
    return torch.cat([found.scale, found.spread, found.shift, found.shape.flatten()])


def conformal(kind: Any) -> Callable[..., Any]:
    """What is predicted by conformal sets that were fitted to the same rows."""

    def call(d: Any, y: Any, X: Any = None) -> Any:
        found = kind.fit(d, y, 0.9, X=X)
        sets = found.predict(d, X)
        if kind is ConformalIntervals:
            return sets
        return [*sets.intervals.flatten(), *found.contains(d, y, X=X)]

    return call


CALIBRATION: dict[str, Callable[..., Any]] = {
    "pit_histogram": lambda d, y, **k: calibration.pit_histogram(d, y, **k).counts,
    "pit_test": lambda d, y, **k: calibration.pit_test(d, y, **k).kolmogorov,
    "hdr_values": calibration.hdr_values,
    "coverage_curve": lambda d, y, **k: calibration.coverage_curve(d, y, **k).observed,
    "hdr coverage": lambda d, y, **k: calibration.coverage_curve(d, y, kind="hdr", **k).observed,
    "conditional_calibration": lambda d, y, X=None: calibration.conditional_calibration(
        d, y, np.zeros((N, 1)) if X is None else X
    ).to_dict()["pit_mean"][:1],
    "sharpness": lambda d, y, **k: calibration.sharpness(d, **k).mean,
    "recalibrate": lambda d, y, **k: shape(calibration.recalibrate(d, y, **k)),
    "apply": lambda d, y, X=None: calibration.recalibrate(d, y, X=X).apply(d, X).mean,
    "conformal intervals": conformal(ConformalIntervals),
    "conformal regions": conformal(ConformalHDR),
}


@pytest.fixture(scope="module")
def fitted(data: Any) -> dict[str, Any]:
    """Regressors and Pipelines by the kind of X that they were fitted on."""
    found: dict[str, Any] = {}
    for kind in ("array", "pandas", "polars", "pyarrow"):
        X = FRAMES[kind](data[0])
        found[f"regressor, {kind}"] = small().fit(X, data[1])
        if kind != "pyarrow":  # which StandardScaler does not take
            found[f"Pipeline, {kind}"] = make_pipeline(StandardScaler(), small()).fit(X, data[1])
    torch.manual_seed(0)
    module = Line()
    found |= {f"module, {kind}": module for kind in ("array", "pandas", "pyarrow")}
    return found | {f"callable, {kind}": line for kind in ("tensor", "polars")}


@pytest.mark.parametrize("name", [*SCORES, *CALIBRATION])
def test_a_model_with_x_is_its_distribution(name: str, fitted: dict[str, Any], data: Any) -> None:
    """In every function of scoring and calibration, of every model and every kind of X."""
    call = (SCORES | CALIBRATION)[name]
    for key, model in fitted.items():
        X, y = FRAMES[key.split(", ")[1]](data[0]), data[1]
        dist = predict_distribution(model, X)
        beside = {"X": X} if name.endswith("_scorer") else {}
        expected = np.asarray(call(dist, y[:, None], **beside), dtype=float)
        found = np.asarray(call(model, y, X=X), dtype=float)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", [*SCORES, *CALIBRATION])
def test_a_model_without_x_is_refused(name: str, data: Any) -> None:
    """By what is missing; not by an attribute that it lacks."""
    call = (SCORES | CALIBRATION)[name]
    if name == "conditional_calibration":  # X is among its own arguments
        return
    with pytest.raises(ValueError, match="X must be given with a model"):
        call(line, data[1][:, None])


@pytest.mark.parametrize("kind", ["array", "pandas", "polars"])
def test_out_of_fold_fits_pipelines_and_searches_anew(kind: str, data: Any) -> None:
    """Each row is predicted by the Pipeline fitted to the other folds, weights included."""
    X, y = FRAMES[kind](data[0]), data[1]
    weight = np.arange(1.0, N + 1)
    pipeline = make_pipeline(StandardScaler(), small())
    dist = out_of_fold(pipeline, X, y, cv=2, sample_weight=weight)
    assert not hasattr(pipeline[-1], "model_")
    fold = np.random.default_rng(0).permutation(N) % 2
    rows, rest = np.flatnonzero(fold == 1), np.flatnonzero(fold == 0)
    other = make_pipeline(StandardScaler(), small()).fit(
        take_rows(X, rest), y[rest], mdnregressor__sample_weight=weight[rest]
    )
    expected = predict_distribution(other, take_rows(X, rows))
    assert torch.equal(dist[torch.as_tensor(rows)].loc, expected.loc)


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize(
    ("settings", "link"),
    [
        ({"target": "positive"}, np.exp),
        ({"target": "unit"}, lambda y: 1 / (1 + np.exp(-y))),
        ({"target": "integer"}, np.round),
        ({"resolution": 0.5}, lambda y: np.round(2 * y) / 2),
        ({"target": "interval"}, lambda y: np.column_stack([y - 0.5, y])),
        ({"target": "positive"}, lambda y: np.column_stack([y, -y]) ** 2),
    ],
)
def test_out_of_fold_predicts_every_kind_of_target(
    settings: dict[str, Any], link: Callable[[Any], Any], pipeline: bool, data: Any
) -> None:
    """Each row has the distribution that the model of its fold gives it."""
    X, y = data[0], link(0.1 * data[1])
    model: Any = small().set_params(**settings)
    model = make_pipeline(StandardScaler(), model) if pipeline else model
    dist = out_of_fold(model, X, y, cv=3)
    assert dist.batch_shape == (N,)
    fold = np.random.default_rng(0).permutation(N) % 3
    for b in range(3):
        inside, outside = np.flatnonzero(fold != b), np.flatnonzero(fold == b)
        one = predict_distribution(clone(model).fit(X[inside], y[inside]), X[outside])
        at = torch.as_tensor(y[outside]).reshape(len(outside), -1)[:, : one.event_shape[0]]
        found = dist[torch.as_tensor(outside)]
        assert type(found) is type(one)
        assert torch.equal(found.log_prob(at), one.log_prob(at))
        assert torch.equal(found.mean, one.mean)


def test_out_of_fold_fits_any_model_by_a_function(data: Any) -> None:
    """It is given the rows of the other folds, with their weights if there are any."""
    X, y = data
    seen = []

    def fit(*rows: Any) -> Any:
        seen.append([len(a) for a in rows])
        mean = float(rows[1].mean())
        return lambda x: line(torch.full_like(x, mean))

    dist = out_of_fold(fit, torch.as_tensor(X), torch.as_tensor(y), cv=4)
    assert seen == [[30, 30]] * 4
    assert len({round(v, 9) for v in dist.mean[:, 0].tolist()}) == 4
    out_of_fold(fit, X, y, cv=4, sample_weight=np.ones(N))
    assert seen[4:] == [[30, 30, 30]] * 4
    for model in (Line(), line(torch.zeros(N, 2)), MDNRegressor, 3):
        with pytest.raises(TypeError, match=r"can be fitted again, or a function fit\(X, y\)"):
            out_of_fold(model, X, y)


def test_a_regressor_that_is_fitted_further_starts_anew_in_out_of_fold(data: Any) -> None:
    """warm_start would let the copies see what the model was fitted on."""
    X, y = data
    model = small().set_params(warm_start=True)
    fresh = out_of_fold(model, X, y, cv=2)
    model.fit(X, y)
    assert torch.equal(out_of_fold(model, X, y, cv=2).loc, fresh.loc)


# -- modules ------------------------------------------------------------------------------------


def test_a_module_is_asked_in_eval_mode_without_gradients_and_left_as_it_was() -> None:
    """Every submodule gets its own mode back, also after an error."""
    module = Line()
    module.layer.eval()
    predict_distribution(module, np.zeros((3, 2)))
    assert module.asked == [(torch.float32, False, False)]
    assert [module.training, module.layer.training, module.dropout.training] == [True, False, True]
    with pytest.raises(RuntimeError), evaluating(module):
        module(torch.zeros(3, 5))
    assert module.dropout.training and torch.is_grad_enabled()


def test_a_tensor_of_integers_stays_one() -> None:
    """As an embedding needs it; other tensors get the dtype of the parameters."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Embedding(5, 1)

        def forward(self, x: Tensor) -> GaussianMixture:
            return line(self.loc(x))

    table = Table()
    assert predict_distribution(table, torch.tensor([1, 4])).batch_shape == (2,)
    module = Line()
    predict_distribution(module, torch.zeros(3, 2, dtype=torch.float64))
    assert module.asked[0][0] == torch.float32


def test_a_callable_is_given_a_tensor() -> None:
    """Its own dtype if it is one, else the default one."""
    seen = []

    def model(x: Tensor) -> GaussianMixture:
        seen.append(x.dtype)
        return line(x)

    for X in (np.zeros((2, 1)), torch.zeros(2, 1, dtype=torch.float64), [[1], [2]]):
        predict_distribution(model, X)
    assert seen == [torch.float32, torch.float64, torch.float32]


# -- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FRAMES)
def test_take_rows_keeps_the_kind(kind: str, data: Any) -> None:
    """The rows asked for, in their order, repeated ones too, in what X is."""
    X = FRAMES[kind](data[0])
    found = take_rows(X, np.array([3, 0, 3]))
    assert type(found) is type(X)
    np.testing.assert_array_equal(numeric_array(found, "X"), data[0][[3, 0, 3]])
    if kind in NAMED:
        assert list(getattr(found, "column_names", None) or found.columns) == ["a", "b"]


def test_take_rows_keeps_dtypes_and_the_index_of_pandas() -> None:
    """And the columns of other libraries."""
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]}, index=[7, 8, 9])
    pd.testing.assert_frame_equal(take_rows(frame, [2, 0]), frame.loc[[9, 7]])
    assert take_rows(pl.Series([1, 2, 3]), [2, 0]).to_list() == [3, 1]
    assert take_rows(pa.chunked_array([[1, 2, 3]]), [2, 0]).to_pylist() == [3, 1]


@pytest.mark.parametrize("y", [pd.Series, pl.Series, np.asarray, torch.tensor, list, pa.array])
def test_a_target_of_one_number_a_row_is_taken_beside_x(y: Any, data: Any) -> None:
    """(N,) is (N, 1) where X says how many rows there are."""
    dist, target = distribution_and_target(line, y([*data[1]]), data[0])
    assert (dist.batch_shape, target.shape) == ((N,), (N, 1))
    assert dist.loc.dtype == target.dtype == torch.float64
    np.testing.assert_allclose(target[:, 0], data[1], rtol=1e-6)


# -- errors -------------------------------------------------------------------------------------

X3 = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("model", "X", "error", "message"),
    [
        (MDNRegressor(), X3, ValueError, "This MDNRegressor instance is not fitted yet"),
        (MDNRegressor, X3, TypeError, "got the class MDNRegressor, not an instance"),
        (LinearRegression(), X3, TypeError, "LinearRegression, which predicts numbers without a"),
        (make_pipeline(LinearRegression()), X3, TypeError, "got LinearRegression, which predicts"),
        ("model", X3, TypeError, "or a Distribution; got str"),
        (line, None, ValueError, "X must be given with a model, whose distribution depends on it"),
        (nn.Linear(2, 1), X3, TypeError, "Linear must return a torch Distribution; got Tensor"),
        (nn.Linear(2, 1), X3, TypeError, "a prediction without a distribution: end the network in"),
        (lambda x: x, X3, TypeError, "function must return a torch Distribution; got Tensor"),
        (
            lambda x: x,
            X3,
            TypeError,
            r"Categorical\(logits=...\) if .* mdn.GaussianMixture",
        ),
        (
            lambda x: (x, x, x),
            X3,
            TypeError,
            r"got tuple. Wrap it: mdn.GaussianMixture\(logits",
        ),
        (nn.Softmax(1), X3, TypeError, r"probabilities, as of Softmax.*Categorical\(probs=...\)"),
        (nn.Softmax(1).half(), X3, TypeError, "probabilities, as of Softmax"),
        (
            nn.LogSoftmax(1),
            X3,
            TypeError,
            r"log-probabilities of classes.*Categorical\(logits",
        ),
        (
            np.full((3, 2), 0.5),
            None,
            TypeError,
            r"a plain ndarray. Each of its rows holds prob",
        ),
        (
            torch.full((3, 4), 0.25).log(),
            X3,
            TypeError,
            r"a plain Tensor. Each of its rows holds log-p",
        ),
        (
            torch.full((3, 4, 5), 0.25),
            X3,
            TypeError,
            r"a plain Tensor. Each of its rows holds prob",
        ),
        (torch.full((3, 2), torch.nan), X3, TypeError, "Wrap it: torch.distributions.Categorical"),
        (torch.ones(3, 2, dtype=torch.long), X3, TypeError, "Wrap it: torch.distributions.Categor"),
        (lambda x: line(x[:2]), X3, ValueError, r"batch shape \(3,\) for the 3 rows of X; got \(2"),
        (line, np.array([["a"]]), TypeError, "X must be a tensor or a numeric array; got ndarray"),
        (
            line,
            pd.DataFrame({"a": [1.0], "b": ["x"]}),
            TypeError,
            "column 'b' holds String: encode it",
        ),
    ],
)
def test_what_has_no_distribution_is_refused_in_one_sentence(
    model: Any, X: Any, error: type[Exception], message: str
) -> None:
    """What was found and what to do."""
    with pytest.raises(error, match=message):
        predict_distribution(model, X)


@pytest.mark.parametrize(
    ("dist", "y", "X", "message"),
    [
        (line, np.zeros(4), X3, "X and y must have one length; got 3 and 4 rows"),
        (line, np.zeros((3, 2)), X3, "y must have shape (*, 1); got (3, 2)"),
        (line(torch.zeros(3, 2)), np.zeros(3), None, "got (3,). Did you mean y[:, None]?"),
        (line(torch.zeros(3, 2)), np.zeros((4, 1)), None, "does not broadcast against the batch"),
        (line, np.array([0.0, np.nan, 0.0]), X3, "y must not be NaN; row 1 is"),
        (Normal(torch.zeros(3), 1.0), np.zeros((3, 1)), None, "Wrap it: torch.distributions.Indep"),
        (Categorical(torch.ones(3, 2)), np.zeros((3, 1)), None, "must have event shape (D,)"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(dist: Any, y: Any, X: Any, message: str) -> None:
    """Lengths, shapes, NaN and distributions without an event axis."""
    with pytest.raises(ValueError, match=re.escape(message)):
        distribution_and_target(dist, y, X)


def test_distributions_of_torch_are_checked_too() -> None:
    """y (N,) against them would give N by N numbers."""
    dist = Independent(Normal(torch.zeros(3, 1), torch.ones(3, 1)), 1)
    with pytest.raises(ValueError, match=r"Did you mean y\[:, None\]"):
        distribution_and_target(dist, np.zeros(3))


# -- gaps under a mask, and indices that do not match --------------------------------------------


def masked_rows(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (N, 2) with NaN in row 3, y (N,), and a mask of what is NaN."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    X[3, 1] = np.nan
    return X, X[:, 0] + rng.normal(size=n), np.isnan(X)


def test_what_is_masked_in_x_is_a_gap() -> None:
    """The value under the mask plays no part: the fit and the predictions are those of NaN."""
    X, y, mask = masked_rows()
    masked = np.ma.MaskedArray(np.where(mask, 999.0, X), mask)
    model = small().fit(masked, y)
    expected = small().fit(X, y).predict(X)
    np.testing.assert_array_equal(model.predict(masked), expected)
    whole = np.ma.MaskedArray(
        [[1, 0], [2, 7], [3, 0]], [[False, True], [False, False], [True, False]]
    )
    found = Columns.fit(whole).transform(whole)
    right = Columns.fit(np.array([[1, np.nan], [2, 7], [np.nan, 0]]))
    np.testing.assert_array_equal(found, right.transform([[1, np.nan], [2, 7], [np.nan, 0]]))
    flags = np.ma.MaskedArray([[True], [False], [True]], [[False], [False], [True]])
    assert Columns.fit(flags).names == ["x0", "x0 is missing"]


def test_what_is_masked_in_y_or_a_weight_is_refused_with_its_row() -> None:
    """As NaN is, in fit, log_prob, score, the scores with X= and out_of_fold."""
    X, y, mask = masked_rows()
    X = np.nan_to_num(X)
    masked = np.ma.MaskedArray(y, np.arange(len(y)) == 7)
    model = small().fit(X, y)
    calls: list[Any] = [
        lambda: small().fit(X, masked),
        lambda: model.log_prob(X, masked),
        lambda: model.score(X, masked),
        lambda: mdn.explain_nll(model, X, masked),
        lambda: mdn.calibration.out_of_fold(small(), X, masked, cv=2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"NaN|nan|finite"):
            call()
    with pytest.raises(ValueError, match="y must be finite, but contains NaN in row 7"):
        small().fit(X, masked)
    with pytest.raises(ValueError, match=r"NaN|nan"):
        mdn.scoring.nll(model, masked, X=X)
    with pytest.raises(ValueError, match="sample_weight"):
        small().fit(X, y, sample_weight=np.ma.MaskedArray(np.ones(len(y)), mask[:, 1]))
    with pytest.raises(ValueError, match="sample_weight"):
        model.nll(X, y, sample_weight=np.ma.MaskedArray(np.ones(len(y)), mask[:, 1]))
    unmasked = np.ma.MaskedArray(y, np.zeros(len(y), dtype=bool))
    np.testing.assert_array_equal(model.log_prob(X, unmasked), model.log_prob(X, y))


def test_an_index_that_is_not_that_of_x_is_warned_of() -> None:
    """Everywhere that X and y meet; rows go by position all the same, as the values show."""
    X, y, _ = masked_rows()
    frame = pd.DataFrame(np.nan_to_num(X), columns=["a", "b"], index=np.arange(len(y)) + 100)
    right = pd.Series(y, index=frame.index)
    turned = right.iloc[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small().fit(frame, right)
        model.log_prob(frame, right)
        model.log_prob(frame, y)
        mdn.scoring.nll(model, right, X=frame)
    message = (
        "the index of y is not that of X: the same labels in another order, in row 0 139 for 100; "
        "rows are paired by position, so align them first by y.loc[X.index], or pass y.to_numpy()"
    )
    calls: list[Any] = [
        lambda: small().fit(frame, turned),
        lambda: model.log_prob(frame, turned),
        lambda: model.nll(frame, turned),
        lambda: model.score(frame, turned),
        lambda: mdn.scoring.crps(model, turned, X=frame),
        lambda: mdn.scoring.nll_scorer(model, frame, turned),
        lambda: mdn.calibration.coverage_curve(model, turned, X=frame),
        lambda: mdn.calibration.out_of_fold(small(), frame, turned, cv=2),
        lambda: mdn.explain_nll(model, frame, turned),
        lambda: mdn.plot.plot_density(model, frame, turned, feature=0),
    ]
    for call in calls:
        with pytest.warns(mdn.DataWarning, match=re.escape(message)):
            call()
    with pytest.warns(mdn.DataWarning, match="other labels, in row 0 0 for 100"):
        found = model.log_prob(frame, pd.Series(turned.to_numpy()))
    np.testing.assert_array_equal(found, model.log_prob(frame, turned.to_numpy()))
    with pytest.warns(mdn.DataWarning, match="the index of sample_weight is not that of X"):
        small().fit(frame, right, sample_weight=pd.Series(1.0, index=turned.index))

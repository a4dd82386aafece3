"""How good a model is on rows that it has not seen, beside two simple models.

::

    evaluate(model, X_test, y_test, train=(X_train, y_train))    # of a fitted model
    cross_validate(MDNRegressor(), X, y, cv=5)                    # of a model to be fitted
    holdout(n, share=0.15, groups=..., how="random")              # which rows to leave out
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .arguments import check_choice, check_integer, check_number, without_mask
from .calibration import out_of_fold
from .distribution import GaussianMixture
from .estimator import MDNRegressor
from .estimator._densities import Linear, Marginal, Residuals
from .estimator._target import Target
from .explain import explain_nll
from .prediction import final_model, predict_distribution
from .scoring import Score, Summary, summary
from .tables import Columns
from .tables._folds import deal, group_codes

__all__ = ["Evaluation", "cross_validate", "evaluate", "holdout"]

MODEL, LINEAR, ALONE = "model", "linear Gaussian", "y alone"
_JITTER = 1e-9  # of the variance of y, so that equal targets have a density
_SHOWN = ("nll", "crps", "energy_score", "r2", "coverage_90")
_TITLES = {
    "nll": "NLL [nats]",
    "crps": "CRPS",
    "energy_score": "energy score",
    "r2": "R2",
    "coverage_90": "90 % intervals cover",
}


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of two simple ones on the same rows; prints as a table.

    Attributes:
        scores: by the name of the model, ``"model"``, ``"linear Gaussian"`` and ``"y alone"``:
            those of :func:`mdn.scoring.summary` and ``"r2"``, each with its standard error.
        how: which rows these are, in words.
        verdict: of :func:`mdn.explain_nll`, one line; empty if it was not asked.
        unit: of y.
    """

    scores: Mapping[str, Summary]
    how: str
    verdict: str = ""
    unit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, as for JSON."""
        return {
            "scores": {name: found.to_dict() for name, found in self.scores.items()},
            "n": self.scores[MODEL].n,
            "how": self.how,
            "verdict": self.verdict,
            "unit": self.unit,
        }

    def __repr__(self) -> str:
        shown = [name for name in _SHOWN if name in self.scores[MODEL]]
        unit = f" [{self.unit}]" if self.unit else ""
        titles = [_TITLES[name] + unit * (name in ("crps", "energy_score")) for name in shown]
        rows = [["", *titles]]
        for model, found in self.scores.items():
            rows.append([model, *(_text(found.get(name), name) for name in shown)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        lines.append(f"mean and standard error over {self.how}; lower is better, but for R2")
        return "\n".join([*lines, *([f"Verdict: {self.verdict}"] if self.verdict else [])])


def evaluate(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    train: tuple[Any, ArrayLike] | None = None,
    unit: str = "",
    how: str = "",
) -> Evaluation:
    """Scores a fitted model on rows that it has not seen.

    Args:
        model: a fitted :class:`mdn.MDNRegressor`, or a Pipeline or search with one at its end.
        X: (N, F) features of these rows.
        y: (N,) or (N, D) their targets.
        train: the rows (X, y) of the fit; then two simple models are fitted to them and scored
            beside it: Bayesian linear regression with normal errors, and the density of y alone,
            each in the space of the model's target (of the logarithm for ``target="positive"``).
        unit: of y, for the table.
        how: which rows these are, in words.

    Raises:
        ValueError: rows that the model refuses, or intervals of y together with ``train``.
        TypeError: another kind of model.
    """
    regressor, _ = final_model(model, X)
    if not isinstance(regressor, MDNRegressor):
        raise TypeError(f"model must be or end in an MDNRegressor; got {type(model).__name__}")
    y = np.asarray(without_mask(y), dtype=np.float64)
    how = how or f"{len(y)} rows"
    if regressor.target == "interval":
        found = {MODEL: Summary({"nll": _mean(-regressor.log_prob(X, y))}, len(y))}
        return Evaluation(found, how, "", unit)
    scores = {MODEL: _scores(predict_distribution(model, X), y)}
    if train is not None:
        for name in (LINEAR, ALONE):
            simple = _Simple.fit(*train, regressor, uses_x=name == LINEAR)
            scores[name] = _comparable(_scores(simple.predict_distribution(X), y), regressor)
    verdict = explain_nll(model, X, y, train=train).verdict
    return Evaluation(scores, how, verdict, unit)


def cross_validate(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    cv: int = 5,
    repeats: int = 1,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    seed: int = 0,
    unit: str = "",
) -> Evaluation:
    """Scores a model and two simple ones by cross-validation.

    Args:
        model: an :class:`mdn.MDNRegressor` with its options, fitted or not; it stays as it is.
        X: (N, F) features.
        y: (N,) or (N, D) targets.
        cv: number of folds.
        repeats: how often, each with folds of its own; scores are means over them.  Repeats make
            the mean less dependent on the folds; the standard error is that of the rows.
        groups: (N,) labels, whose rows are held out together.
        sample_weight: (N,) of the fits.
        seed: of the folds.
        unit: of y, for the table.

    Raises:
        ValueError: intervals of y, as for :func:`mdn.calibration.out_of_fold`, or repeats below 1.
        TypeError: another kind of model.
    """
    if not isinstance(model, MDNRegressor):
        raise TypeError(f"model must be an MDNRegressor; got {type(model).__name__}")
    if model.target == "interval":
        raise ValueError("cross_validate needs a y that is known; got target='interval'")
    check_integer("repeats", repeats)
    y = np.asarray(without_mask(y), dtype=np.float64)
    found: dict[str, list[Summary]] = {MODEL: [], LINEAR: [], ALONE: []}
    options: dict[str, Any] = {"cv": cv, "groups": groups}
    for i in range(repeats):
        options["seed"] = seed + i
        dist = out_of_fold(model, X, y, sample_weight=sample_weight, **options)
        found[MODEL].append(_scores(dist, y))
        for name in (LINEAR, ALONE):

            def fit(X: Any, y: Any, groups: Any = None, uses_x: bool = name == LINEAR) -> Any:
                return _Simple.fit(X, y, model, uses_x=uses_x)

            simple = out_of_fold(fit, X, y, **options)
            found[name].append(_comparable(_scores(simple, y), model))
    times = f", {repeats} times" if repeats > 1 else ""
    how = f"{len(y)} rows, each held out in {cv}-fold cross-validation{times}"
    return Evaluation({name: _averaged(each) for name, each in found.items()}, how, "", unit)


def holdout(
    n: int,
    share: float = 0.15,
    *,
    groups: ArrayLike | None = None,
    how: str = "random",
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Returns which of n rows to hold out, (N,).

    Args:
        n: number of rows.
        share: of the rows that is held out, between 0 and 1.
        groups: (N,) labels; the rows of a group are held out together or not at all.
        how: ``"random"`` rows, or the last ones, ``"time"``, in the order of the table; with groups
            the last rows without those groups that have earlier rows too.
        seed: of the draw.

    Raises:
        ValueError: too few rows or groups to hold any out.
    """
    check_integer("n", n)
    check_number("share", share, above=0, below=1)
    check_choice("how", how, ("random", "time"))
    codes = None if groups is None else group_codes(groups, n)
    count = max(1, round(share * n))
    if n - count < 2:
        raise ValueError(f"n must leave 2 rows to fit to and 1 to hold out; got {n}")
    if how == "time":
        held = np.arange(n) >= n - count
        if codes is not None:
            held &= ~np.isin(codes, codes[: n - count])
            if not held.any():
                raise ValueError(
                    "groups must leave a group whose rows are all among the last: every group of "
                    "the last rows has earlier rows too; take how='random'"
                )
        return held
    rng = np.random.default_rng(seed)
    if codes is not None:
        return deal(n, codes, max(2, round(1 / share)), rng) == 0
    return rng.permutation(n) < count


@dataclass(frozen=True)
class _Simple:
    """A Gaussian linear in the columns, or the density of y alone, in the space of the target."""

    columns: Columns
    target: Target
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    models: list[Any]  # one a target
    correlation: NDArray[np.float64]  # (D, D) of the errors

    @classmethod
    def fit(cls, X: Any, y: Any, like: MDNRegressor, *, uses_x: bool) -> _Simple:
        """Fits it to rows, with the kind of target of a model."""
        columns = Columns.fit(X)
        x = columns.transform(X)
        shift, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1.0
        y = np.asarray(y, dtype=np.float64)
        kept = np.isfinite(y.reshape(len(y), -1)).all(1)
        x, y = x[kept], y[kept]
        kind = "real" if like.atoms else like.target  # atoms lie outside the other kinds
        target = Target.fit(y, None, kind, like.resolution, None)
        ones, normal = np.ones(len(x)), Residuals(torch.zeros(1).double(), torch.ones(1).double())
        models: list[Any] = [
            Linear.fit((x - shift) / scale, column, ones, normal)
            if uses_x
            else Marginal.fit(column, ones)
            for column in target.latent(y).numpy().T
        ]
        self = cls(columns, target, shift, scale, models, np.eye(len(models)))
        if len(models) == 1:
            return self
        means = torch.cat([part[0].mean for part in self._parts((x - shift) / scale)], -1)
        errors = np.cov((target.latent(y) - means).numpy().T) + _JITTER * np.eye(len(models))
        sd = np.sqrt(np.diag(errors))
        return replace(self, correlation=errors / np.outer(sd, sd))

    def predict_distribution(self, X: Any) -> Any:
        """The distribution of each row, batch (N,), event (D,)."""
        z = (self.columns.transform(X) - self.shift) / self.scale
        parts = self._parts(z)
        return self.target.to_y(parts[0][0] if len(parts) == 1 else self._joint(parts))

    def _parts(self, z: NDArray[np.float64]) -> list[GaussianMixture]:
        """The density of each target, batch (1, N), standard units."""
        return [
            m.residuals.around(m.predict(z)) if isinstance(m, Linear) else m.of_rows(len(z))
            for m in self.models
        ]

    def _joint(self, parts: list[GaussianMixture]) -> GaussianMixture:
        """A Gaussian with the mean and variance of each target and their correlations."""
        loc = torch.cat([part[0].mean for part in parts], -1).unsqueeze(-2)  # (N, 1, D)
        sd = torch.cat([part[0].stddev for part in parts], -1)
        factor = torch.as_tensor(np.linalg.cholesky(self.correlation))
        tril = sd.unsqueeze(-1) * factor
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, scale_tril=tril.unsqueeze(-3))


def _scores(dist: Any, y: NDArray[np.float64]) -> Summary:
    """The scores of a distribution, and R2."""
    y = y.reshape(len(y), -1)
    found = summary(dist, y)
    squared = np.square(y - dist.mean.numpy()).sum(1)
    total = np.square(y - y.mean(0)).sum(1).mean()
    r2 = {}
    if total > 0:
        error = _mean(squared)
        r2["r2"] = Score(1 - error.mean / total, error.standard_error / total)
    return Summary({**found, **r2}, found.n)


def _comparable(scores: Summary, model: MDNRegressor) -> Summary:
    """Without the NLL where that of the model is with respect to atoms as well."""
    kept = {name: score for name, score in scores.items() if name != "nll" or not model.atoms}
    return Summary(kept, scores.n)


def _mean(rows: NDArray[Any]) -> Score:
    n = len(rows)
    return Score(float(rows.mean()), float(rows.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan)


def _averaged(each: list[Summary]) -> Summary:
    names = each[0].keys()
    return Summary(
        {name: Score(*np.mean([found[name] for found in each], 0).tolist()) for name in names},
        each[0].n,
    )


def _text(score: Score | None, name: str) -> str:
    if score is None:
        return "-"
    if name == "coverage_90":
        return f"{100 * score.mean:.1f} ± {100 * score.standard_error:.1f} %"
    error = score.standard_error
    if not (math.isfinite(error) and error > 0):
        return f"{score.mean:.4g}"
    digits = max(0, min(8, 1 - math.floor(math.log10(error))))
    return f"{score.mean:.{digits}f} ± {error:.{digits}f}"

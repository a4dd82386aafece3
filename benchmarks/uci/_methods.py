"""Our methods and the rivals, each with its defaults.

A rival is imported only when it is used, and left out if it is not installed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch

import mdn
from mdn import GaussianMixture

from ._scores import Floats, Prediction, Quantiles

__all__ = ["Job", "Method", "OURS", "RIVALS", "FAST", "installed", "ours"]

OURS, FAST = "mdn", "mdn fast"
VALIDATION = 0.15  # share of the training rows that a rival with early stopping holds out
LEVELS = np.arange(1, 100) / 100  # of quantile methods

Predict = Callable[[Floats], Prediction]


class Job(NamedTuple):
    """The training rows of a split, and the settings of a fit."""

    X: Floats
    y: Floats
    seed: int
    threads: int
    integer: bool  # y holds whole numbers


class Method(NamedTuple):
    """A method that returns predictive distributions."""

    name: str
    settings: str  # description for the table
    module: str  # imported before the time is measured
    fit: Callable[[Job], Predict]
    version: str | Callable[[int], str] = ""  # of the code; ours depends on the number of rows

    def for_rows(self, n: int) -> Method:
        """Returns the method with its version for n training rows."""
        return self if isinstance(self.version, str) else self._replace(version=self.version(n))


# --- ours ---------------------------------------------------------------------------------------


def ours(preset: str, version: str | Callable[[int], str]) -> Method:
    """Returns the public estimator with no argument except its seed, and its preset if not default.

    The version identifies the state of the code, as a function of the number of training rows.
    """
    fast = preset != "default"
    arguments = [f"preset={preset!r}"] if fast else []
    return Method(
        f"mdn {preset}" if fast else OURS,
        f"MDNRegressor({', '.join([*arguments, 'random_state=split'])})",
        "mdn.estimator",
        partial(fit_ours, preset=preset if fast else None),
        version,
    )


def fit_ours(job: Job, *, preset: str | None) -> Predict:
    """Fits with the defaults; only ``target="integer"`` is set for whole numbers."""
    options: dict[str, Any] = {} if preset is None else {"preset": preset}
    if job.integer:
        options["target"] = "integer"
    model = mdn.MDNRegressor(random_state=job.seed, **options).fit(job.X, job.y)
    return model.predict_distribution


# --- rivals -------------------------------------------------------------------------------------


def fit_ngboost(job: Job) -> Predict:
    from ngboost import NGBRegressor

    model = NGBRegressor(random_state=job.seed, verbose=False).fit(job.X, job.y)

    def predict(X: Floats) -> GaussianMixture:
        params = model.pred_dist(X).params
        return _gaussian(params["loc"], params["scale"])

    return predict


def fit_catboost(job: Job) -> Predict:
    from catboost import CatBoostRegressor

    train, val = _parts(job)
    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty",
        random_seed=job.seed,
        thread_count=job.threads,
        verbose=False,
        allow_writing_files=False,
    ).fit(job.X[train], job.y[train], eval_set=(job.X[val], job.y[val]))

    def predict(X: Floats) -> GaussianMixture:
        mean, variance = model.predict(X).T
        return _gaussian(mean, np.sqrt(variance))

    return predict


def fit_xgboost(job: Job) -> Predict:
    from xgboost import XGBRegressor

    train, val = _parts(job)
    model = XGBRegressor(random_state=job.seed, n_jobs=job.threads)
    model.fit(job.X[train], job.y[train])
    residual = job.y[val] - model.predict(job.X[val])
    scale = np.sqrt(np.mean(residual**2))

    def predict(X: Floats) -> GaussianMixture:
        mean = model.predict(X)
        return _gaussian(mean, np.full(len(mean), scale))

    return predict


def fit_quantile_forest(job: Job) -> Predict:
    from quantile_forest import RandomForestQuantileRegressor

    model = RandomForestQuantileRegressor(random_state=job.seed, n_jobs=job.threads)
    model.fit(job.X, job.y)

    def predict(X: Floats) -> Quantiles:
        values = model.predict(X, quantiles=LEVELS.tolist())
        return Quantiles(LEVELS, values, model.predict(X, quantiles="mean"))

    return predict


def fit_skpro(job: Job) -> Predict:
    import pandas as pd
    from skpro.regression.mdn import MDNRegressor

    X, y, standard, in_units = _standardised(job)
    model = MDNRegressor(random_state=job.seed, device="cpu")
    model.fit(pd.DataFrame(X), pd.DataFrame({"y": y}))

    def predict(X: Floats) -> GaussianMixture:
        mixture = model.predict_proba(pd.DataFrame(standard(X)))
        weight, loc, scale = (
            torch.as_tensor(a).double() for a in (mixture.pi, mixture.mu, mixture.sigma)
        )
        return in_units(GaussianMixture(weight.log(), loc, scale))

    return predict


def fit_sbi(job: Job) -> Predict:
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn

    X, y, standard, in_units = _standardised(job)
    trainer = NPE(
        density_estimator=posterior_nn("mdn"), tracker=_NoTracker(), show_progress_bars=False
    )
    trainer.append_simulations(_float32(y[:, None]), _float32(X))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints when it is done
        estimator = trainer.train()

    def predict(X: Floats) -> GaussianMixture:
        with torch.no_grad():
            mixture = estimator.get_uncorrected_mog(_float32(standard(X)))
        loc, scale = mixture.means.double(), mixture.precisions[..., 0].double().rsqrt()
        if estimator.has_input_transform:  # sbi standardises y once more
            shift, unit = estimator._transform_shift.double(), estimator._transform_scale.double()
            loc, scale = shift + unit * loc, unit * scale
        return in_units(GaussianMixture(mixture.logits.double(), loc, scale))

    return predict


class _NoTracker:
    """A tracker for sbi that records nothing; the default one writes a folder of logs."""

    log_dir = None

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        """Does nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Does nothing."""

    def log_params(self, params: dict[str, Any]) -> None:
        """Does nothing."""

    def add_figure(self, name: str, figure: Any, step: int | None = None) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""


RIVALS = {
    method.name: method
    for method in (
        Method(
            "ngboost",
            "NGBRegressor(): Normal, 500 trees of depth 3, learning rate 0.01, all rows",
            "ngboost",
            fit_ngboost,
        ),
        Method(
            "catboost",
            'CatBoostRegressor(loss_function="RMSEWithUncertainty"): at most 1000 trees, as many '
            f"as are best on {VALIDATION:.0%} of the rows; Gaussian of its mean and variance",
            "catboost",
            fit_catboost,
        ),
        Method(
            "skpro",
            "skpro.regression.mdn.MDNRegressor() on standardised X and y",
            "skpro.regression.mdn",
            fit_skpro,
        ),
        Method(
            "sbi",
            'NPE(density_estimator=posterior_nn("mdn")) on standardised X and y',
            "sbi.inference",
            fit_sbi,
        ),
        Method(
            "quantile-forest",
            "RandomForestQuantileRegressor(): 99 quantiles, so no density and no NLL; CRPS as "
            "twice their mean pinball loss",
            "quantile_forest",
            fit_quantile_forest,
        ),
        Method(
            "xgboost",
            f"XGBRegressor() on {1 - VALIDATION:.0%} of the rows; Gaussian of one scale, the root "
            "mean square residual of the others",
            "xgboost",
            fit_xgboost,
        ),
    )
}


def installed(name: str) -> Method | None:
    """Returns the rival with its version, or None if it is not installed."""
    try:
        return RIVALS[name]._replace(version=f"{name} {version(name)}")
    except PackageNotFoundError:
        return None


# --- inside -------------------------------------------------------------------------------------


def ready(method: Method) -> None:
    """Imports what the method needs, so that the time of the import is not part of a fit."""
    importlib.import_module(method.module)


def _gaussian(mean: Floats, scale: Floats) -> GaussianMixture:
    loc, spread = (torch.as_tensor(np.asarray(a, np.float64)) for a in (mean, scale))
    logits = torch.zeros(len(loc), 1, dtype=torch.float64)
    return GaussianMixture(logits, loc[:, None, None], spread[:, None, None])


def _parts(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and validation rows for a rival with early stopping."""
    order = np.random.RandomState(job.seed).permutation(len(job.y))
    n_val = max(1, round(VALIDATION * len(order)))
    return order[n_val:], order[:n_val]


def _standardised(
    job: Job,
) -> tuple[
    Floats, Floats, Callable[[Floats], Floats], Callable[[GaussianMixture], GaussianMixture]
]:
    """Returns standardised X and y, the same map for other X, and the inverse for mixtures of y."""
    mean, deviation = job.X.mean(0), job.X.std(0)
    constant = np.ptp(job.X, 0) == 0  # the deviation of a constant column may be rounding
    deviation = np.where(constant, 1.0, deviation)
    shift, unit = float(job.y.mean()), float(job.y.std())

    def standard(X: Floats) -> Floats:
        return np.where(constant, 0.0, (X - mean) / deviation)

    return standard(job.X), (job.y - shift) / unit, standard, lambda d: d.affine(shift, unit)


def _float32(a: Floats) -> torch.Tensor:
    return torch.as_tensor(a, dtype=torch.float32)

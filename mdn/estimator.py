"""The scikit-learn face: ``MDNRegressor().fit(X, y)`` and the whole of p(y|x) comes back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_is_fitted,
    validate_data,
)

from . import io
from .distribution import HDR, GaussianMixture
from .nn import MDN, MIN_SCALE, standardization
from .scoring import weighted_mean
from .train import History, fit

__all__ = ["MDNRegressor"]

Floats = NDArray[np.floating[Any]]

_TIES = 0.5  # a target with fewer distinct values than this share of its rows counts as rounded


class MDNRegressor(RegressorMixin, BaseEstimator):
    """Conditional density of y given X by a mixture density network.

    X and y are standardised inside and everything comes back in y's own unit, so a change of unit
    changes the NLL by its logarithm and nothing else.  A part of the rows is held out to stop the
    training; the weights of the best epoch are kept.

    Args:
        n_components: K, Gaussians in the mixture.
        hidden: widths of the hidden layers.
        covariance_type: for several targets, as in :class:`mdn.MDNHead`.
        min_scale: floor of the scales in standard deviations of y.  It bounds the likelihood and is
            raised to the rounding error of a y that holds few distinct values.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: rows a step; None for a size that grows with the data.
        max_epochs: passes over the data at most.
        patience: epochs without a better held-out NLL before training ends.
        validation_fraction: share of the rows held out, in (0, 1).
        random_state: seed or ``numpy.random.RandomState``; a number gives the same model each time.
        verbose: show a progress bar.

    Attributes:
        model_: the fitted :class:`mdn.MDN`.
        history_: :class:`mdn.History`, NLL per epoch in nats in y's unit.
        n_features_in_: F.
        feature_names_in_: names of the columns, if X had any.

    Example:
        >>> from mdn.datasets import load_old_faithful
        >>> X, y = load_old_faithful()[:2]
        >>> model = MDNRegressor(max_epochs=20, random_state=0).fit(X, y)
        >>> model.predict_distribution(X[:3])
        GaussianMixture(batch_shape=(3,), event_shape=(1,), n_components=5)
        >>> model.predict_interval(X[:3], coverage=0.9).shape
        (3, 2)
    """

    def __init__(
        self,
        n_components: int = 5,
        hidden: Sequence[int] = (64, 64),
        *,
        covariance_type: str = "diagonal",
        min_scale: float = MIN_SCALE,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-3,
        batch_size: int | None = None,
        max_epochs: int = 1000,
        patience: int = 50,
        validation_fraction: float = 0.15,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.covariance_type = covariance_type
        self.min_scale = min_scale
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    # -- fit ----------------------------------------------------------------------------------

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> MDNRegressor:
        """Fits p(y|x).

        Args:
            X: (N, F) numbers, array or DataFrame.
            y: (N,) or (N, D) numbers; integers are cast.
            sample_weight: (N,) non-negative weights; None for equal ones.

        Raises:
            ValueError: lengths differ, a value is not finite (with its row), fewer than 2 rows, or
                a parameter out of its range.

        Warns:
            UserWarning: y is constant, so the density is as narrow as its floor allows.
        """
        inputs, targets = self._validated(X, y)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, inputs, dtype=np.float64, ensure_non_negative=True
            )
            if np.count_nonzero(weight) < 2:
                raise ValueError("sample_weight must be positive for at least 2 rows")
            inputs, targets, weight = (a[weight > 0] for a in (inputs, targets, weight))
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie between 0 and 1; got {self.validation_fraction}"
            )
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        n = len(inputs)
        order = torch.as_tensor(rng.permutation(n))
        n_val = min(max(1, round(self.validation_fraction * n)), n - 1)

        x_all, y_all = _tensor(inputs), _tensor(targets.reshape(n, -1))
        floor = self.min_scale
        if floor > 0:  # a floor that is not is refused by the head
            floor = max(floor, _resolution(y_all))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds the GPUs too
            model = MDN(
                x_all.shape[1],
                y_all.shape[1],
                self.n_components,
                self.hidden,
                covariance_type=self.covariance_type,
                min_scale=floor,
            ).standardize_(x_all, y_all)
        constant = (y_all == y_all[:1]).all(0)
        if bool(constant.any()):
            columns = ", ".join(str(i) for i in constant.nonzero().flatten().tolist())
            name = "y" if bool(constant.all()) else f"y in column {columns}"
            warnings.warn(
                f"{name} is constant ({y_all[0, constant][0]:g}): the fitted density is as narrow "
                "as its floor allows, and its height says nothing about the data",
                UserWarning,
                stacklevel=2,
            )
        data: tuple[torch.Tensor, ...] = model.standard_units(x_all, y_all)
        if weight is not None:
            data = (*data, torch.as_tensor(weight, dtype=data[1].dtype))
        history = fit(
            model.network,
            tuple(a[order[n_val:]] for a in data),
            tuple(a[order[:n_val]] for a in data),
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
            seed=seed,
            progress=bool(self.verbose),
        )
        self.model_ = model.eval()
        # training ran in standard units: a density in y's unit is lower by the scale
        self.history_ = history.shifted(float(model.y_scale.log().sum()))
        self._flat = targets.ndim == 1
        return self

    def _validated(self, X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        rows = _num_samples(X), _num_samples(y)
        if rows[0] != rows[1]:
            raise ValueError(f"X and y must have one length; got {rows[0]} and {rows[1]} rows")
        # values are checked below, where the message can name the row
        check = {"dtype": np.float64, "ensure_min_samples": 2, "ensure_all_finite": False}
        both = validate_data(self, X, y, validate_separately=(check, {**check, "ensure_2d": False}))
        self._check_finite("X", both[0])
        self._check_finite("y", both[1])
        return both

    def _check_finite(self, name: str, a: Floats) -> None:
        bad = ~np.isfinite(a.reshape(len(a), -1))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            found = "NaN" if np.isnan(a.reshape(len(a), -1)[row, column]) else "inf"
            where = f"row {row}" + (f", column {column}" if a.ndim > 1 else "")
            raise ValueError(
                f"{name} must be finite, but contains {found} in {where}; drop or impute such rows"
            )

    # -- predict ------------------------------------------------------------------------------

    def predict_distribution(self, X: ArrayLike) -> GaussianMixture:
        """The conditional distribution of each row, batch (N,), event (D,), float64, y's unit."""
        check_is_fitted(self, "model_")
        inputs = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False)
        self._check_finite("X", inputs)
        with torch.no_grad():
            return self.model_(_tensor(inputs))

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Conditional mean, (N,) or (N, D); with ``return_std`` also the standard deviation."""
        dist = self.predict_distribution(X)
        mean = self._targets(dist.mean)
        return (mean, self._targets(dist.stddev)) if return_std else mean

    def predict_quantiles(self, X: ArrayLike, levels: Sequence[float]) -> Floats:
        """Quantiles in y's unit: (N, L) for L levels, (N, L, D) for several targets (marginal)."""
        column = np.asarray(levels, dtype=np.float64).reshape(-1, 1)
        if not ((column >= 0) & (column <= 1)).all():
            raise ValueError(f"levels must lie in [0, 1]; got {levels}")
        p = _tensor(column)
        return self._marginals(X, lambda m: m.icdf(p).squeeze(-1).t())

    def predict_interval(self, X: ArrayLike, coverage: float = 0.9) -> Floats:
        """Central intervals in y's unit: (N, 2), or (N, 2, D) for several targets (marginal)."""
        return self._marginals(X, lambda m: m.interval(coverage))

    def predict_hdr(self, X: ArrayLike, coverage: float = 0.9) -> HDR:
        """Highest-density regions as arrays: intervals (N, K, 2), NaN-padded; one target."""
        hdr = self.predict_distribution(X).hdr(coverage)
        return HDR(hdr.intervals.numpy(), hdr.threshold.numpy(), hdr.coverage)  # type: ignore[arg-type]

    def predict_mode(self, X: ArrayLike) -> Floats:
        """The most probable y, (N,) or (N, D)."""
        return self._targets(self.predict_distribution(X).mode)

    def sample(self, X: ArrayLike, n_samples: int = 1, random_state: Any = None) -> Floats:
        """Draws from p(y|x): (N, S), or (N, S, D) for several targets."""
        generator = torch.Generator()
        generator.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
        draws = self.predict_distribution(X).sample((n_samples,), generator=generator)
        return self._targets(draws.movedim(0, 1))

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Log density of each y under its own x, (N,), nats in y's unit."""
        dist = self.predict_distribution(X)
        y = np.asarray(y, dtype=np.float64)
        if len(y) != dist.batch_shape[0]:
            raise ValueError(
                f"X and y must have one length; got {dist.batch_shape[0]} and {len(y)} rows"
            )
        self._check_finite("y", y)
        return dist.log_prob(_tensor(y.reshape(len(y), -1))).numpy()

    def nll(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean negative log-likelihood, nats in y's unit; negative where densities exceed 1."""
        return weighted_mean(-self.log_prob(X, y), sample_weight)

    def _targets(self, a: torch.Tensor) -> Floats:
        """(..., D) as an array, without the last axis if y had none."""
        return (a[..., 0] if self._flat else a).numpy()

    def _marginals(self, X: ArrayLike, f: Any) -> Floats:
        dist = self.predict_distribution(X)
        dims = dist.event_shape[0]
        parts = [f(dist.marginal(d)).numpy() for d in range(dims)]
        return parts[0] if dims == 1 else np.stack(parts, -1)

    # -- save ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted model to one file without pickle; ``mdn.load(path)`` reads it."""
        check_is_fitted(self, "model_")
        io.save(self, path)

    def _saved(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        check_is_fitted(self, "model_")
        params = self.get_params()
        if not isinstance(params["random_state"], (int, np.integer, type(None))):
            params["random_state"] = None  # a generator has no lasting state to save
        params["hidden"] = list(params["hidden"])
        names = getattr(self, "feature_names_in_", None)
        config = {
            "params": params,
            "model": self.model_.describe(),
            "history": asdict(self.history_),
            "feature_names": None if names is None else list(names),
            "flat": self._flat,
        }
        return config, dict(self.model_.state_dict())

    @classmethod
    def _restored(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> MDNRegressor:
        params = config["params"]
        self = cls(**{**params, "hidden": tuple(params["hidden"])})
        self.model_ = MDN._restored(config["model"], tensors)
        self.history_ = History(**config["history"])
        self.n_features_in_ = config["model"]["in_features"]
        if config["feature_names"] is not None:
            self.feature_names_in_ = np.array(config["feature_names"], dtype=object)
        self._flat = config["flat"]
        return self


def _tensor(a: Floats) -> torch.Tensor:
    """Shares the memory if torch can; it takes no reversed or read-only array."""
    return torch.as_tensor(np.require(a, np.float64, ["C", "W"]))


def _resolution(y: torch.Tensor) -> float:
    """Standard deviation of the rounding of y, in standard deviations of y; 0 if not rounded."""
    worst = 0.0
    for column, spread in zip(y.numpy().T, standardization(y)[1].tolist(), strict=True):
        distinct = np.unique(column)
        if spread > 0 and len(distinct) < _TIES * len(column):
            worst = max(worst, np.diff(distinct).min() / np.sqrt(12) / spread)
    return float(worst)

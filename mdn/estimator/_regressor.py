"""The scikit-learn face: ``MDNRegressor().fit(X, y)`` and the whole of p(y|x) comes back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import (
    _check_feature_names,
    _check_sample_weight,
    _num_samples,
    check_is_fitted,
)

from .. import io
from ..distribution import HDR
from ..nn import MIN_SCALE, MDNEnsemble
from ..scoring import weighted_mean
from ..tables import Columns
from ..train import History
from ._fit import FittedModel, Settings, check_size, train
from ._gaussian_process import GaussianProcess
from ._stacking import Stack
from ._target import _OFF_GRID, KINDS, Target
from ._trees import Forest, TreeFeatures

__all__ = ["MDNRegressor"]

Floats = NDArray[np.floating[Any]]

_PRESETS = ("default", "fast")
_TIES = 0.5  # a target with fewer distinct values than this share of its rows counts as rounded
_STEP_SHARE = 0.05  # of the step of a rounded target: no scale is smaller
_NO_SPIKE = 0.05  # floor from which on a density cannot stand on a heap of equal values
_HEAPED = 0.1  # share of rows on heaps from which on the NLL of a density means little
_HEAP = 10  # equal values that make a heap
_COARSE = 0.005  # standard deviations; in a finer grid no density can stand on single values
_WHOLE = 1e-9  # relative; a ratio of weights so near to a whole number is one
_MOST_COPIES = 4  # rows that integer weights may make of each on average, to be written out


class MDNRegressor(RegressorMixin, BaseEstimator):
    """Conditional density of y given X by an ensemble of mixture density networks.

    Boosted and randomised trees are grown first, and what they say of rows that they have not seen
    is handed to one group of networks; the other sees embedded columns.  For up to 2500 rows both
    also hear a Gaussian process; where it predicts y all but exactly, trees and their group are
    left out, and half of the other hears no process either.  Every network holds out a block of
    rows, which ends its training; on these rows the pool is recalibrated.  The result is one
    Gaussian mixture in y's own unit: a change of unit changes the NLL by its logarithm and nothing
    else.

    Args:
        n_components: K, Gaussians in the mixture of one network; None for 5.
        hidden: widths of the hidden layers; None for (64, 64), or (128, 128) from 3000 rows.
        ensemble_size: M, networks in all; None for 48 below 3000 rows (24 without trees), 20 below
            20,000, else 12.
        preset: ``"default"``, or ``"fast"`` for about an eighth of the time: 16 networks (12 from
            3000 rows on, 8 from 20,000), fewer epochs and trees.
        target: ``"real"``; ``"positive"``, by the logarithm; ``"unit"``, between 0 and 1, by the
            logit; ``"integer"``, whole numbers, by the probability of the rounding cell;
            ``"interval"``, y of two columns, the lower and upper end of what is known, equal where
            y is known and infinite where it is censored.
        resolution: step of a rounded y; its likelihood is the probability of the cell around it.
        trees: whether trees take part.
        covariance_type: for several targets, as in :class:`mdn.MDNHead`.
        min_scale: floor of the scales in standard deviations of y.  It bounds the likelihood and is
            raised to a twentieth of the step of a y that holds few distinct values.
        learning_rate: largest one of AdamW; None for 2e-3, or with ``preset="fast"`` for 7e-3 (1e-2
            from 700 rows on).
        weight_decay: of AdamW.
        batch_size: rows a step; None for a size that grows with the data.
        max_epochs: passes over the data at most; None for 400, 200 or 100, by the rows (``"fast"``
            120 or 30), and up to 4.5 times as many where y has next to no noise.
        patience: epochs without a better held-out NLL after which a network stops; None
            for 50, 30 or 15 (``"fast"`` 20 or 8), longer in proportion.
        max_time: seconds after which training ends with what it has.
        warm_start: go on from the networks of the last fit, on the same rows: of others it could
            not be told which the networks have seen.
        n_jobs: threads; None for as many as torch has, -1 for all cores.
        device: of the training, as ``"cuda"``; predictions are made on the CPU.
        random_state: seed or ``numpy.random.RandomState``; a number gives the same model each time.
        verbose: show a progress bar.

    Attributes:
        model_: the fitted networks, trees and how they are pooled.
        history_: :class:`mdn.History` of the group with the greatest weight, mean over its
            networks, NLL per epoch in nats in y's unit.
        n_features_in_: F.
        feature_names_in_: names of the columns, if X had any.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(size=(100, 2))
        >>> y = X[:, 0] + 0.1 * rng.normal(size=100)
        >>> model = MDNRegressor(preset="fast", ensemble_size=4, random_state=0).fit(X, y)
        >>> model.predict_distribution(X[:3])
        GaussianMixture(batch_shape=(3,), event_shape=(1,), n_components=21)
        >>> model.predict_interval(X[:3], coverage=0.9).shape
        (3, 2)

    References:
        C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994).
        B. Lakshminarayanan, A. Pritzel, C. Blundell, Simple and Scalable Predictive Uncertainty
        Estimation using Deep Ensembles (2017).
        D. H. Wolpert, Stacked Generalization, Neural Networks 5 (1992) 241-259.
    """

    columns_: Columns
    model_: FittedModel
    history_: History
    _seed: int

    def __init__(
        self,
        n_components: int | None = None,
        hidden: Sequence[int] | None = None,
        *,
        ensemble_size: int | None = None,
        preset: str = "default",
        target: str = "real",
        resolution: float | None = None,
        trees: bool = True,
        covariance_type: str = "diagonal",
        min_scale: float = MIN_SCALE,
        learning_rate: float | None = None,
        weight_decay: float = 1e-3,
        batch_size: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        max_time: float | None = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.ensemble_size = ensemble_size
        self.preset = preset
        self.target = target
        self.resolution = resolution
        self.trees = trees
        self.covariance_type = covariance_type
        self.min_scale = min_scale
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.max_time = max_time
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = True
        return tags

    # -- fit ----------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
    ) -> MDNRegressor:
        """Fits p(y|x).

        The order of the rows plays no part, and a row of weight 2 counts as two rows.

        Args:
            X: (N, F) array or DataFrame (pandas, polars, pyarrow).  Numbers, booleans and
                categories, told apart by dtype; gaps are allowed.
            y: (N,) or (N, D) numbers; integers are cast.
            sample_weight: (N,) non-negative weights; None for equal ones.
            eval_set: rows (X, y) that end the training and recalibrate, in place of held-out
                blocks of the training rows.

        Raises:
            ValueError: lengths differ, a value is not finite (with its row), fewer than 2 rows, or
                a parameter out of its range.

        Warns:
            UserWarning: y is constant or sits on few values, so that the height of its density says
                little; fewer than 20 rows.
        """
        settings = self._settings()
        targets = self._checked_y(X, y)
        # once in the order of the user, so that a message names the user's row
        Target.fit(targets, None, self.target, self.resolution)
        weight = None
        if sample_weight is not None:
            rows = np.zeros((len(targets), 1))
            weight = _check_sample_weight(
                sample_weight, rows, dtype=np.float64, ensure_non_negative=True
            )
            if np.count_nonzero(weight) < 2:
                raise ValueError("sample_weight must be positive for at least 2 rows")
        _check_feature_names(self, X, reset=True)
        index, weight = _written_out(len(targets), weight)
        if index is not None:
            X, targets = _rows(X, index), targets[index]
        start: FittedModel | None = None
        if self.warm_start and hasattr(self, "model_"):
            columns, start = self.columns_, self.model_
        else:
            columns = Columns.fit(X)
        self.n_features_in_ = columns.n_features_in
        inputs = columns.transform(X)
        keys = [*inputs.T[::-1], *targets.reshape(len(targets), -1).T[::-1]]
        order = np.lexsort(keys if weight is None else [weight, *keys])
        inputs, targets = inputs[order], targets[order]
        if weight is not None:
            weight = weight[order]
            weight = weight * (len(weight) / weight.sum())  # a sum rounds by its order
        way = Target.fit(targets, weight, self.target, self.resolution)
        several = way.kind in ("positive", "unit") and way.n_targets > 1
        if several and self.covariance_type not in ("diagonal", "isotropic"):
            raise ValueError(
                f"target={way.kind!r} with several columns needs covariance_type='diagonal' or "
                f"'isotropic'; got {self.covariance_type!r}"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if start is not None:
            seed = self._seed  # the same rows are held out again
            way = _same_units(way, start.target)
        val = None
        if eval_set is not None:
            if not isinstance(eval_set, (tuple, list)) or len(eval_set) != 2:
                raise TypeError("eval_set must be a pair (X, y)")
            val = columns.transform(eval_set[0]), self._checked_y(*eval_set, "eval_set's y")
            way.check(val[1])
            if val[1].ndim != targets.ndim or val[1].shape[1:] != targets.shape[1:]:
                raise ValueError(
                    f"eval_set's y must have as many columns as y; got shapes {val[1].shape} "
                    f"and {targets.shape}"
                )
        check_size(len(inputs))
        _warn_of_values(way, targets, heaps=self.min_scale < _NO_SPIKE)
        floor = self.min_scale
        if floor > 0 and not way.bounded:  # a floor that is not positive is refused by the layers
            floor = max(floor, _resolution(way.point(targets)))
        with _threads(self.n_jobs), _progress(bool(self.verbose)) as report:
            model = train(
                inputs,
                columns.numeric,
                targets,
                weight,
                settings,
                target=way,
                floor=floor,
                seed=seed,
                val=val,
                start=start,
                report=report,
            )
        self.columns_, self.model_, self._seed = columns, model, seed
        self.history_ = model.history
        return self

    def _settings(self) -> Settings:
        """The parameters, checked."""
        if self.preset not in _PRESETS:
            raise ValueError(
                f"preset must be one of {', '.join(map(repr, _PRESETS))}; got {self.preset!r}"
            )
        if self.target not in KINDS:
            raise ValueError(
                f"target must be one of {', '.join(map(repr, KINDS))}; got {self.target!r}"
            )
        for name in ("n_components", "ensemble_size", "batch_size", "max_epochs", "patience"):
            _check_count(name, getattr(self, name))
        for name in ("learning_rate", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive and finite; got {value}")
        if not 0 <= self.weight_decay < np.inf:
            raise ValueError(f"weight_decay must be at least 0; got {self.weight_decay}")
        if not 0 < self.min_scale < np.inf:
            raise ValueError(f"min_scale must be positive and finite; got {self.min_scale}")
        hidden: Any = self.hidden
        if hidden is not None:
            if isinstance(hidden, str) or not isinstance(hidden, (Sequence, np.ndarray)):
                raise TypeError(f"hidden must be a sequence of widths, as (64, 64); got {hidden!r}")
            for i, units in enumerate(hidden):
                _check_count(f"hidden[{i}]", units)
        return Settings(
            n_components=self.n_components,
            hidden=None if hidden is None else tuple(int(units) for units in hidden),
            ensemble_size=self.ensemble_size,
            trees=bool(self.trees),
            fast=self.preset == "fast",
            covariance_type=self.covariance_type,
            min_scale=self.min_scale,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            patience=self.patience,
            max_time=self.max_time,
            n_jobs=self.n_jobs,
            device=torch.device(self.device),
        )

    def _checked_y(self, X: Any, y: Any, name: str = "y") -> Floats:
        """Targets as numbers of the length of X."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        rows = _num_samples(X), _num_samples(y)
        if rows[0] != rows[1]:
            raise ValueError(f"X and {name} must have one length; got {rows[0]} and {rows[1]} rows")
        _refuse_what_is_no_number(name, y)
        targets = check_array(
            y,
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite=False,
            ensure_min_samples=2 if name == "y" else 1,
            input_name="y",
        )
        if targets.ndim > 2 or targets.shape[1:] == (0,):
            raise ValueError(f"{name} must have shape (N,) or (N, D); got {targets.shape}")
        if self.target != "interval":
            self._check_finite(name, targets)
        return np.array(targets)  # torch takes no reversed or read-only array

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

    def predict_distribution(self, X: Any) -> Any:
        """The conditional distribution of each row, batch (N,), event (D,), float64, y's unit.

        A :class:`mdn.GaussianMixture` for ``target="real"`` and ``"interval"``, a
        :class:`mdn.Mixture` for ``"positive"`` and ``"unit"``, a :class:`mdn.DiscretizedMixture`,
        which holds probabilities, where y is rounded.
        """
        inputs = self._inputs(X)  # first, as it refuses a model that was not fitted
        return self.model_.distribution(inputs)

    def _inputs(self, X: Any) -> Floats:
        check_is_fitted(self, "model_")
        _check_feature_names(self, X, reset=False)
        shape: tuple[int, ...] = getattr(X, "shape", ())
        if len(shape) == 2 and shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return self.columns_.transform(X)

    def predict_uncertainty(self, X: Any) -> tuple[Floats, Floats]:
        """The variance of y in two parts: of the noise, and of what the networks disagree on.

        Args:
            X: (N, F).

        Returns:
            aleatoric and epistemic variance, each (N,) or (N, D), in the squared unit of y (of its
            logarithm for ``target="positive"``, of its logit for ``"unit"``); their sum is the
            variance of the pooled networks, but for the broad component of small weight.
        """
        inputs = self._inputs(X)
        model = self.model_
        members = model.stack.members(model.members(inputs))
        mean = torch.cat([mixture.mean for mixture in members])  # (M, N, D)
        variance = torch.cat([mixture.variance for mixture in members])
        w = model.stack.weights(model.parts).reshape(-1, 1, 1)
        centre = (w * mean).sum(0)
        square = model.target.scale.square()
        aleatoric = (w * variance).sum(0) * square
        epistemic = (w * (mean - centre).square()).sum(0) * square
        return self._targets(aleatoric), self._targets(epistemic)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Conditional mean, (N,) or (N, D); with ``return_std`` also the standard deviation."""
        dist = self.predict_distribution(X)
        mean = self._targets(dist.mean)
        return (mean, self._targets(dist.stddev)) if return_std else mean

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> Floats:
        """Quantiles in y's unit: (N, L) for L levels, (N, L, D) for several targets (marginal)."""
        column = np.asarray(levels, dtype=np.float64).reshape(-1, 1)
        if not ((column >= 0) & (column <= 1)).all():
            raise ValueError(f"levels must lie in [0, 1]; got {levels}")
        p = _tensor(column)
        return self._marginals(X, lambda m: m.icdf(p).squeeze(-1).t())

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Floats:
        """Central intervals in y's unit: (N, 2), or (N, 2, D) for several targets (marginal)."""
        return self._marginals(X, lambda m: m.interval(coverage))

    def predict_hdr(self, X: Any, coverage: float = 0.9) -> HDR:
        """Highest-density regions as arrays; one target.

        Intervals are (N, I, 2), I the most that a row has, and NaN where a row has fewer.
        """
        hdr = self.predict_distribution(X).hdr(coverage)
        intervals = hdr.intervals.numpy()
        most = max(1, int((~np.isnan(intervals[..., 0])).sum(1).max()))
        return HDR(intervals[:, :most], hdr.threshold.numpy(), hdr.coverage)

    def predict_mode(self, X: Any) -> Floats:
        """The most probable y, (N,) or (N, D)."""
        return self._targets(self.predict_distribution(X).mode)

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None) -> Floats:
        """Draws from p(y|x): (N, S), or (N, S, D) for several targets."""
        generator = torch.Generator()
        generator.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
        draws = self.predict_distribution(X).sample((n_samples,), generator=generator)
        return self._targets(draws.movedim(0, 1))

    def log_prob(self, X: Any, y: ArrayLike) -> Floats:
        """Log density of each y under its own x, (N,), nats in y's unit."""
        dist = self.predict_distribution(X)
        y = np.asarray(y, dtype=np.float64)
        if len(y) != dist.batch_shape[0]:
            raise ValueError(
                f"X and y must have one length; got {dist.batch_shape[0]} and {len(y)} rows"
            )
        target = self.model_.target
        if target.kind != "interval":
            self._check_finite("y", y)
        target.check(y)
        return target.likelihood(dist, y).numpy()

    def nll(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean negative log-likelihood, nats in y's unit; negative where densities exceed 1."""
        return weighted_mean(-self.log_prob(X, y), sample_weight)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """R^2 of :meth:`predict`, as of every regressor of scikit-learn.

        Raises:
            ValueError: y is known to intervals only.
        """
        if self.target == "interval":
            raise ValueError(
                "R^2 needs a y that is known; with target='interval' take -nll(X, y), or "
                "scoring=mdn.scoring.nll_scorer"
            )
        return float(super().score(X, y, sample_weight))

    def _targets(self, a: torch.Tensor) -> Floats:
        """(..., D) as an array, without the last axis if y had none."""
        return (a[..., 0] if self.model_.target.flat else a).numpy()

    def _marginals(self, X: Any, f: Any) -> Floats:
        dist = self.predict_distribution(X)
        dims = dist.event_shape[0]
        if dims == 1:
            return f(dist).numpy()
        return np.stack([f(dist.marginal(d)).numpy() for d in range(dims)], -1)

    # -- save ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted model to one file without pickle; ``mdn.load(path)`` reads it."""
        check_is_fitted(self, "model_")
        io.save(self, path)

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Returns the configuration, in plain numbers and strings, and the tensors."""
        check_is_fitted(self, "model_")
        params = self.get_params()
        if not isinstance(params["random_state"], (int, np.integer, type(None))):
            params["random_state"] = None  # a generator has no lasting state to save
        if params["hidden"] is not None:
            params["hidden"] = [int(units) for units in params["hidden"]]
        names = getattr(self, "feature_names_in_", None)
        model = self.model_
        config = {
            "params": params,
            "columns": self.columns_.state()[0],
            "target": model.target.describe(),
            "feature_names": None if names is None else list(names),
            "uses_trees": model.uses_trees,
            "parts": model.parts,
            "networks": [network.state()[0] for network in model.groups],
            "histories": [asdict(history) for history in model.histories],
            "seed": self._seed,
            "n_forests": len(model.trees.forests) if model.trees is not None else 0,
            "n_processes": len(model.processes),
            "broad": model.stack.broad,
            "floor": model.stack.floor,
        }
        tensors = {
            name: getattr(model, name)
            for name in ("x_shift", "x_scale", "turn", "told_shift", "told_scale")
        }
        for name in ("scale", "spread", "weight"):
            tensors[f"stack.{name}"] = getattr(model.stack, name)
        for i, network in enumerate(model.groups):
            # trained in float32, so nothing is lost
            tensors |= {f"networks.{i}.{k}": a.float() for k, a in network.state_dict().items()}
        for i, forest in enumerate(model.trees.forests if model.trees is not None else []):
            tensors |= {f"trees.{i}.{k}": torch.as_tensor(a) for k, a in forest.arrays().items()}
        for i, process in enumerate(model.processes):
            tensors |= {f"processes.{i}.{k}": a for k, a in process.tensors().items()}
        return config, tensors

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> MDNRegressor:
        """Returns the model that :meth:`state` described."""
        params = dict(config["params"])
        if params["hidden"] is not None:
            params["hidden"] = tuple(params["hidden"])
        self = cls(**params)

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: a for k, a in tensors.items() if k.startswith(prefix)}

        networks = []
        for i, described in enumerate(config["networks"]):
            networks.append(MDNEnsemble.from_state(described, part(f"networks.{i}.")).double())
        forests = [
            Forest.restored({k: a.numpy() for k, a in part(f"trees.{i}.").items()})
            for i in range(config["n_forests"])
        ]
        width = len(tensors["x_shift"]) + tensors["turn"].shape[1]
        if any(forest.feature.max() >= width for forest in forests):
            raise ValueError("the trees know more columns than there are")
        self.columns_ = Columns.from_state(config["columns"], {})
        self.model_ = FittedModel(
            **{name: tensors[name] for name in ("x_shift", "x_scale", "turn")},
            trees=TreeFeatures(forests) if forests else None,
            processes=[
                GaussianProcess.restored(part(f"processes.{i}."))
                for i in range(config["n_processes"])
            ],
            **{name: tensors[name] for name in ("told_shift", "told_scale")},
            uses_trees=config["uses_trees"],
            groups=networks,
            parts=config.get("parts", [[network.n_members] for network in networks]),
            stack=Stack(**part("stack."), broad=config["broad"], floor=config["floor"]),
            target=Target.restored(config["target"]),
            histories=[History(**history) for history in config["histories"]],
        )
        self.history_ = self.model_.history
        self._seed = int(config["seed"])
        self.n_features_in_ = self.columns_.n_features_in
        if config["feature_names"] is not None:
            self.feature_names_in_ = np.array(config["feature_names"], dtype=object)
        return self


def _refuse_what_is_no_number(name: str, y: Any) -> None:
    """Strings and categories, also those that read as numbers, dates, complex numbers."""
    dtypes = getattr(y, "dtypes", getattr(y, "dtype", ""))
    labels = str(dtypes).lower()
    if any(word in labels for word in ("categor", "enum")):
        raise ValueError(f"{name} must hold numbers, but has categories: they have no density")
    values = np.asarray(y)
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} must hold real numbers")
    if values.dtype.kind in "mM":
        raise ValueError(
            f"{name} must hold numbers; got dtype {values.dtype}: convert it to a number of seconds"
        )
    if values.ndim and values.dtype.kind in "OSUT":
        text = [any(isinstance(v, (str, bytes)) for v in np.ravel(row)) for row in values]
        if any(text):
            row = text.index(True)
            raise ValueError(
                f"{name} must hold numbers, but row {row} is {str(values[row])!r}: a category has "
                "no density; if it is a number, convert it by astype(float)"
            )


def _same_units(target: Target, before: Target) -> Target:
    """The target in the units that the networks of before learned."""
    if (target.kind, target.resolution) != (before.kind, before.resolution) or (
        target.n_targets != before.n_targets
    ):
        raise ValueError(
            "warm_start needs the same kind and number of targets as before; "
            "set warm_start=False to begin anew"
        )
    return replace(target, shift=before.shift, scale=before.scale)


def _tensor(a: Floats) -> torch.Tensor:
    """Shares the memory if torch can; it takes no reversed or read-only array."""
    return torch.as_tensor(np.require(a, np.float64, ["C", "W"]))


def _resolution(y: torch.Tensor) -> float:
    """Least scale that the rounding of y (N, D) leaves a meaning, in its unit; 0 if not rounded."""
    worst = 0.0
    for column in y.numpy().T:
        distinct = np.unique(column)
        if 1 < len(distinct) < _TIES * len(column):
            worst = max(worst, _STEP_SHARE * float(np.diff(distinct).min()))
    return worst


def _warn_of_values(target: Target, y: Floats, *, heaps: bool) -> None:
    """Of a y whose density says little: constant, or, if wanted, heaped on few values."""
    if target.bounded:
        return
    columns = y.reshape(len(y), -1)
    constant = (columns == columns[:1]).all(0)
    if constant.any():
        names = ", ".join(str(i) for i in np.flatnonzero(constant))
        name = "y" if constant.all() else f"y in column {names}"
        warnings.warn(
            f"{name} is constant ({columns[0, constant][0]:g}): the fitted density is as narrow as "
            "its floor allows, and its height says nothing about the data",
            UserWarning,
            stacklevel=3,
        )
    for column in columns[:, ~constant].T if heaps else ():
        values, counts = np.unique(column, return_counts=True)
        steps = np.diff(values)
        # few rows on each value of a coarse grid are as bad as many on some values
        coarse = np.median(steps) > _COARSE * column.std()
        least = _HEAP if coarse else max(_HEAP, 0.01 * len(column))
        share = counts[counts >= least].sum() / len(column)
        if share > _HEAPED:
            cure = ""
            if columns.shape[1] == 1:  # a step that Target.check takes, or none
                step = float(f"{steps.min():.6g}")
                off = values / step - np.round(values / step)
                if np.abs(off).max() <= _OFF_GRID:
                    cure = f"; resolution={step:g} gives"
                else:
                    cure = "; round y to multiples of a step and name that with resolution=, for"
                cure += " the probability of the rounding cell instead"
            warnings.warn(
                f"{share:.0%} of y sits on heaps of equal values ({len(values)} distinct ones in "
                f"{len(column)} rows): a density may stand on them, so its NLL is not meaningful"
                f"{cure}",
                UserWarning,
                stacklevel=3,
            )
            break


def _written_out(n: int, weight: Floats | None) -> tuple[NDArray[np.intp] | None, Floats | None]:
    """Rows to take, and weights that are left: whole weights are written out as repeated rows."""
    if weight is None:
        return None, None
    used = np.flatnonzero(weight > 0)
    weight = weight[used]
    for candidate in (weight, weight / weight.min()):
        rounded = np.round(candidate)
        whole = (np.abs(candidate - rounded) <= _WHOLE * rounded).all()  # 2.1 / 0.7 is not quite 3
        if whole and rounded.sum() <= _MOST_COPIES * len(used):
            return np.repeat(used, rounded.astype(np.intp)), None
    return used, weight


def _rows(X: Any, index: NDArray[np.intp]) -> Any:
    """Rows of an array, a list or a DataFrame of any kind."""
    if hasattr(X, "iloc"):  # pandas
        return X.iloc[index]
    if hasattr(X, "column_names"):  # a pyarrow table
        return X.take(index)
    if isinstance(X, (list, tuple)):  # an array of it would make strings of mixed rows
        return [X[i] for i in index]
    if hasattr(X, "columns") or hasattr(type(X), "toarray"):  # polars; sparse, refused later
        return X[index]
    return np.asarray(X)[index]


def _check_count(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")


@contextmanager
def _threads(n_jobs: int | None) -> Iterator[None]:
    """Torch and the trees on so many threads, and as before afterwards."""
    if n_jobs is None:
        yield
        return
    if n_jobs != -1:
        _check_count("n_jobs", n_jobs)
    from joblib import cpu_count
    from threadpoolctl import threadpool_limits

    count = cpu_count() if n_jobs == -1 else n_jobs
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[str, int, int], None]]:
    """What shows the stages on standard error, or nothing; rich is loaded only to show."""
    if not wanted:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    shown = Progress(
        TextColumn("{task.description:16}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total)
        shown.update(tasks[stage], completed=done)

    with shown:
        yield report

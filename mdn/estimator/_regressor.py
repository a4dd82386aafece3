"""The scikit-learn face: ``MDNRegressor().fit(X, y)`` and the whole of p(y|x) comes back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from .. import io
from ..arguments import check_flag, check_integer, without_mask
from ..distribution import HDR
from ..functional._checks import check_levels, check_not_nan
from ..nn import MIN_SCALE
from ..prediction import n_rows, numeric_tensor, take_rows, warn_of_index
from ..scoring import weighted_mean
from ..tables import Columns
from ..tables._folds import Codes, find_copies, group_codes, join_groups, subset
from ..train import History
from ..warnings import DataWarning, once, warn
from ._atoms import train_with_atoms
from ._distillation import checked_limits, distil_model, held_rows, warn_of_loss
from ._frame import answers, features_and_target, parse_columns, table_like
from ._model import FittedModel
from ._progress import progress, threads
from ._state import Floats, State, from_format_2, join, read
from ._target import Target
from ._training import Rows
from ._validation import (
    checked_settings,
    checked_weight,
    checked_y,
    collapsed,
    drawn_seed,
    expand_integer_weights,
    rounding_floor,
    target_names,
    warn_of_far_values,
    warn_of_repeated_x,
    warn_of_sample,
)

__all__ = ["MDNRegressor"]

_KEPT_ROWS = 20_000  # training rows that a fit keeps in memory for distil, at most

# of the distribution of a target in a chunk of rows, its column, and the rows
Marginal = Callable[[Any, int, slice], torch.Tensor]


class MDNRegressor(RegressorMixin, BaseEstimator):
    """Conditional density of y given X by an ensemble of mixture density networks.

    The networks are stacked on base models: boosted trees, randomised trees and, for up to 2500
    rows, a Gaussian process, whose predictions (out of fold in training) are inputs of the
    networks.  There are two groups of networks.  The first takes the columns, embedded by periodic
    functions, and the predictions of the process; the second takes the columns and the predictions
    of all base models.  Where the process predicts y almost without error, trees and the second
    group are left out, and half of the first takes the columns alone.  Every network holds out a
    block of rows, by which its training is stopped early.  On these held-out rows the stacking
    weights of the groups are fitted and the pool is recalibrated.  The result is one Gaussian
    mixture in y's own unit: a change of unit changes the NLL by its logarithm and nothing else.

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
        atoms: values that y takes with a probability of their own, which depends on x, beside a
            density elsewhere, as ``[0.0]`` for rain, claims or sales (with ``target="positive"``
            where all others are positive) or the limit of what an instrument shows.  The density is
            then with respect to length and to the number of atoms: ``log_prob`` at an atom is the
            log of its probability.
        trees: whether there are base models.
        covariance_type: for several targets, as in :class:`mdn.MDNHead`, or ``"auto"``: the
            correlations that a first model of each target leaves are taken out, so that all models
            are fitted to sums of targets that are not correlated, with full covariances up to 4
            targets, else diagonal ones; the result has full covariances of the targets.  Diagonal
            where a target has a link function; where y has gaps, no correlations are taken out.
        min_scale: floor of the scales in standard deviations of y.  It bounds the likelihood and is
            raised to a twentieth of the step of a y that holds few distinct values.
        learning_rate: largest one of AdamW; None for 7e-3 (1e-2 from 700 rows on), without
            ``preset="fast"`` 5e-3 where y has next to no noise and 2e-3 from 20,000 rows on.
        weight_decay: of AdamW.
        batch_size: rows a step; None for a size that grows with the data.
        max_epochs: passes over the data at most; None for 100 (``"fast"`` 120 or 30, by the rows),
            and up to 8 times as many where y has next to no noise.
        patience: epochs without a better held-out NLL after which a network stops; None
            for 20 or 15 (``"fast"`` 20 or 8), longer where there are more epochs.
        max_time: seconds that a fit may take.  Where the whole fit would take longer, there are
            those base models of ``"fast"`` for which there is time and, unless ``ensemble_size`` is
            given, as many of its networks as the rest is enough for, at most 6 times as many; a
            warning names what is left out.  A limit that is not reached changes nothing.
        warm_start: train the networks of the last fit further, on the same rows and groups: with
            others, a network could hold out rows that it was trained on before.
        n_jobs: threads; None for as many as torch uses, -1 for all cores.
        device: of the training, as ``"cuda"``; predictions are made on the CPU.
        random_state: seed or ``numpy.random.RandomState``; a number gives the same model each time.
        verbose: show a progress bar.

    Attributes:
        model_: the fitted base models, networks and stack.
        target_: the map between y and what the networks model: ``kind``, ``resolution``,
            ``log_likelihood(dist, y)``.
        columns_: :class:`mdn.tables.Columns`, the encoding of X.
        history_: :class:`mdn.History` of the group with the greatest weight: NLL per epoch, mean
            over its networks, in nats in y's unit; with ``atoms``, of the rows off them.
        n_networks_: M, networks in all; with ``atoms``, without those that classify them.
        min_scale_: (D,) floor of the scales, in the unit of y (of its logarithm for
            ``target="positive"``, of its logit for ``"unit"``).
        n_features_in_: F.
        feature_names_in_: names of the columns, if X had any.
        target_names_: names of the columns of y, a list, if y was a column or a table with names;
            else None.
        info_: what is saved beside the model and read by ``mdn show``: a dict of plain numbers and
            texts, empty unless ``mdn fit`` or the user fills it.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(size=(100, 2))
        >>> y = X[:, 0] + 0.1 * rng.normal(size=100)
        >>> model = MDNRegressor(preset="fast", ensemble_size=4, random_state=0).fit(X, y)
        >>> model.predict_distribution(X[:3]).batch_shape
        torch.Size([3])
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
    target_: Target
    history_: History
    n_networks_: int
    min_scale_: Floats
    target_names_: list[str] | None
    info_: dict[str, Any]
    _seed: int
    _rows: str | None  # digest of the training rows; None in a file from before it was kept
    _inputs_of_fit: Floats | None = None  # encoded training rows, in memory only: not in a file

    def __init__(
        self,
        n_components: int | None = None,
        hidden: Sequence[int] | None = None,
        *,
        ensemble_size: int | None = None,
        preset: str = "default",
        target: str = "real",
        resolution: float | None = None,
        atoms: Sequence[float] | None = None,
        trees: bool = True,
        covariance_type: str = "auto",
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
        self.atoms = atoms
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

    @once()
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        eval_set: tuple[Any, ArrayLike] | None = None,
    ) -> MDNRegressor:
        """Fits p(y|x).

        The order of the rows plays no part, and a row of weight 2 counts as two rows.  Rows that
        are equal, in X and y, count as copies of one and are held out together; not so where X and
        y take few values, among which rows are equal by chance.  Ctrl-C while
        the networks train does not raise: it warns, and the model has the networks trained so far,
        with their best weights; ``history_.stopped`` is then ``"interrupted"``.

        Args:
            X: (N, F) array or DataFrame (pandas, polars, pyarrow).  Numbers, booleans and
                categories, told apart by dtype; gaps are allowed.
            y: (N,) or (N, D) numbers; integers are cast.  With several columns, NaN is a value that
                is not known: the row counts by the marginal density of the columns it has.
            sample_weight: (N,) non-negative weights; None for equal ones.
            groups: (N,) labels of any type; rows of one group are held out together, as the
                repeated measurements of a person whose future is not what is to be predicted, but
                that of other persons.  At least 2 groups.
            eval_set: rows (X, y) that end the training and recalibrate, in place of held-out
                blocks of the training rows.

        Raises:
            ValueError: lengths differ, a value is not finite (with its row), fewer than 2 rows, or
                a parameter out of its range.

        Warns:
            DataWarning: y has gaps, which are counted; y is constant or sits on few values, so that
                the height of its density says little; fewer than 20 rows; more than half of the
                rows share their X with other rows and there are no groups; rows other than before
                with ``warm_start``.
            TrainingWarning: ``max_time`` was too short for the whole fit: what was left out.
        """
        settings = checked_settings(self.get_params(deep=False))
        targets = checked_y(X, y, self.target, at_least=2)
        # once in the order of the user, so that a message names the user's row
        Target.fit(targets, None, self.target, self.resolution, self.atoms)
        weight = checked_weight(X, sample_weight)
        group = None if groups is None else group_codes(groups, len(targets))
        _check_feature_names(self, X, reset=True)
        if weight is not None:
            index, weight = expand_integer_weights(weight)
            X, targets = take_rows(X, index), targets[index]
            group = None if group is None else group[index]
        start = self.model_ if self.warm_start and hasattr(self, "model_") else None
        columns = Columns.fit(X) if start is None else self.columns_
        inputs, targets, weight, group = _sorted(columns.transform(X), targets, weight, group)
        copies = find_copies(inputs, targets)
        group = None if group is None else join_groups(group, copies)
        if copies is not None:  # each becomes one row, of their weight
            kept, weight = collapsed(copies, weight)
            inputs, targets, group = inputs[kept], targets[kept], subset(group, kept)
        if group is None:
            warn_of_repeated_x(inputs)
        target = Target.fit(targets, weight, self.target, self.resolution, self.atoms)
        target.check_covariance(self.covariance_type)
        seed = drawn_seed(self.random_state)
        digest = _digest(inputs, targets, group)
        if start is not None:
            seed = self._seed  # the same rows are held out again
            target = target.with_units_of(start.target)
            if self._rows not in (digest, None) and eval_set is None:
                warn(
                    "warm_start was given other rows or groups than the last fit: networks may "
                    "hold out rows that they were trained on before, and end too narrow; give an "
                    "eval_set that neither fit has seen, or set warm_start=False to begin anew",
                    DataWarning,
                )
        val = None
        if eval_set is not None:
            val = self._checked_eval_set(eval_set, columns, target, targets.shape)
        warn_of_sample(target, targets, self.min_scale)
        floor = self.min_scale
        if not target.likelihood_is_mass:
            smooth = targets[target.is_off_atoms(targets)]
            floor = max(floor, rounding_floor(target.latent(smooth)))
        rows = Rows(inputs, columns.numeric, targets, weight, group, val)
        settings = replace(settings, min_scale=floor, seed=seed)
        with threads(self.n_jobs), progress(bool(self.verbose)) as report:
            model = train_with_atoms(rows, target, settings, start=start, report=report)
        if val is not None:
            warn_of_far_values(columns, model.seen, val[0])
        self._set_fitted(columns, model, seed, digest)
        self.target_names_, self.info_ = target_names(y), {}
        some = np.random.default_rng(seed).permutation(len(inputs))[:_KEPT_ROWS]
        self._inputs_of_fit = inputs[some]
        return self

    def _set_fitted(
        self, columns: Columns, model: FittedModel, seed: int, digest: str | None
    ) -> None:
        self.columns_, self.model_, self._seed, self._rows = columns, model, seed, digest
        self.n_features_in_ = columns.n_features_in
        self.target_, self.history_ = model.target, model.history
        self.n_networks_ = sum(group.network.n_members for group in model.groups)
        self.min_scale_ = (model.stack.min_scale * model.target.unit).numpy()

    def _checked_eval_set(
        self, eval_set: Any, columns: Columns, target: Target, shape: tuple[int, ...]
    ) -> tuple[Floats, Floats]:
        """Encoded X and y of ``eval_set``, for training targets of some shape."""
        if not isinstance(eval_set, (tuple, list)) or len(eval_set) != 2:
            raise TypeError("eval_set must be a pair (X, y)")
        inputs = columns.transform(eval_set[0])
        y = checked_y(eval_set[0], eval_set[1], self.target, "eval_set's y")
        target.check(y)
        if y.ndim != len(shape) or y.shape[1:] != shape[1:]:
            raise ValueError(
                f"eval_set's y must have as many columns as y; got shapes {y.shape} and {shape}"
            )
        return inputs, y

    # -- predict ------------------------------------------------------------------------------

    def predict_distribution(self, X: Any) -> Any:
        """The conditional distribution of each row, batch (N,), event (D,), float64, y's unit.

        A :class:`mdn.GaussianMixture` for ``target="real"`` and ``"interval"``, a
        :class:`mdn.Mixture` for ``"positive"`` and ``"unit"``, a :class:`mdn.DiscretizedMixture`,
        which holds probabilities, where y is rounded.  With ``atoms`` it is a
        :class:`mdn.AtomicMixture` of those and such a density.
        """
        inputs = self._inputs(X)  # refuses a model that was not fitted
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
        inputs = self.columns_.transform(X)
        warn_of_far_values(self.columns_, self.model_.seen, inputs)
        return inputs

    def predict_uncertainty(self, X: Any) -> tuple[Floats, Floats]:
        """The variance of y in two parts: of the noise, and between the members of the pool.

        Args:
            X: (N, F).

        Returns:
            aleatoric and epistemic variance, each (N,) or (N, D), in the squared unit of y (of its
            logarithm for ``target="positive"``, of its logit for ``"unit"``); their sum is the
            variance of the pooled members, without the background component of small weight.
            With ``atoms`` both are of y given that it is none of them.
        """
        inputs = self._inputs(X)  # refuses a model that was not fitted
        aleatoric, epistemic = self.model_.variances(inputs)
        return self._targets(aleatoric), self._targets(epistemic)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Conditional mean, (N,) or (N, D); with ``return_std`` also the standard deviation."""
        check_flag("return_std", return_std)
        if not return_std:
            return self._targets(self._by_row(X, lambda dist, rows: dist.mean))
        both = self._by_row(X, lambda dist, rows: torch.stack([dist.mean, dist.stddev], 1))
        return self._targets(both[:, 0]), self._targets(both[:, 1])

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> Floats:
        """Quantiles in y's unit: (N, L) for L levels, (N, L, D) for several targets (marginal)."""
        p = numeric_tensor(levels, "levels").double().reshape(-1, 1)  # (L, 1)
        check_not_nan(p, "levels")
        check_levels(p, "levels")
        return self._marginals(X, lambda m, *_: m.icdf(p).squeeze(-1).t())

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Floats:
        """Central intervals in y's unit: (N, 2), or (N, 2, D) for several targets (marginal)."""
        return self._marginals(X, lambda m, *_: m.interval(coverage))

    def predict_cdf(self, X: Any, y: ArrayLike) -> Floats:
        """P(Y <= y) under each row's own x: (N,), or (N, D) for several targets (marginal).

        Args:
            X: (N, F).
            y: (N,) or (N, D) in the unit of y, or one number for all rows; may be infinite.

        Raises:
            ValueError: NaN, or another shape.
        """
        check_is_fitted(self, "model_")
        n, dims = n_rows(X), self.target_.n_targets
        at = numeric_tensor(y, "y").double()
        check_not_nan(at)
        if at.ndim and at.shape != (n, dims) and (dims > 1 or at.shape != (n,)):
            want = f"({n},)" if dims == 1 else f"({n}, {dims})"
            raise ValueError(f"y must be a number or of shape {want}; got {tuple(at.shape)}")
        at = at.reshape(-1, dims) if at.ndim else at.expand(n, dims)
        return self._marginals(X, lambda m, d, rows: m.cdf(at[rows, d : d + 1]))

    def predict_proba_above(self, X: Any, threshold: ArrayLike) -> Floats:
        """P(Y > threshold): (N,), or (N, T) for T thresholds, each with an axis D if y had several.

        Accurate in the tail, where one minus the cdf would round to 0.

        Args:
            X: (N, F).
            threshold: a number, or (T,), in the unit of y; the same for all rows.

        Raises:
            ValueError: NaN, or more than one axis.
        """
        t = numeric_tensor(threshold, "threshold").double()
        if t.ndim > 1:
            raise ValueError(
                f"threshold must be a number or of shape (T,); got {tuple(t.shape)}. For one of "
                "each row take 1 - predict_cdf(X, y)"
            )
        check_not_nan(t, "threshold")
        column = t.reshape(-1, 1, 1)  # (T, 1, 1)

        def above(m: Any, *_: Any) -> torch.Tensor:
            found: torch.Tensor = m.log_sf(column).exp().t()  # (N, T)
            return found if t.ndim else found[:, 0]

        return self._marginals(X, above)

    def predict_crps(self, X: Any, y: ArrayLike) -> Floats:
        """Continuous ranked probability score of each y, in its unit; lower is better.

        (N,), or (N, D) for several targets (marginal); in closed form where there is one.

        Raises:
            ValueError: y is not finite, or known to intervals only.
        """
        if self.target == "interval":
            raise ValueError("the CRPS needs a y that is known; with target='interval' take nll")
        check_is_fitted(self, "model_")
        at = torch.as_tensor(checked_y(X, y, self.target_.kind))
        at = at.reshape(-1, self.target_.n_targets)
        return self._marginals(X, lambda m, d, rows: m.crps(at[rows, d : d + 1]))

    def predict_hdr(self, X: Any, coverage: float = 0.9) -> HDR:
        """Highest-density regions as arrays; one target.

        Intervals are (N, I, 2), I the most that a row has, and NaN where a row has fewer.
        """
        parts = self._by_chunk(X, lambda dist, rows: _trimmed(dist.hdr(coverage)))
        most = max(part.intervals.shape[1] for part in parts)
        intervals = np.full((sum(len(part.threshold) for part in parts), most, 2), np.nan)
        first = 0
        for part in parts:
            n, count, _ = part.intervals.shape
            intervals[first : first + n, :count] = part.intervals
            first += n
        threshold = torch.cat([part.threshold for part in parts]).numpy()
        return parts[0]._replace(intervals=intervals, threshold=threshold)

    def predict_mode(self, X: Any) -> Floats:
        """The most probable y, (N,) or (N, D); with ``atoms`` the likeliest of those."""
        return self._targets(self._by_row(X, lambda dist, rows: dist.mode))

    def sample(self, X: Any, n_samples: int = 1, random_state: Any = None) -> Floats:
        """Draws from p(y|x): (N, S), or (N, S, D) for several targets."""
        check_integer("n_samples", n_samples)
        generator = torch.Generator()
        generator.manual_seed(drawn_seed(random_state))
        return self._targets(
            self._by_row(
                X,
                lambda dist, rows: dist.sample((n_samples,), generator=generator).movedim(0, 1),
            )
        )

    def log_prob(self, X: Any, y: ArrayLike) -> Floats:
        """Log density of each y under its own x, (N,), nats in y's unit; at an atom, log P.

        With several columns, NaN is a value that is not known: the density is the marginal one of
        the columns that the row has.
        """
        check_is_fitted(self, "model_")
        targets = checked_y(X, y, self.target_.kind)
        self.target_.check(targets)
        return self._by_row(
            X, lambda dist, rows: self.target_.log_likelihood(dist, targets[rows])
        ).numpy()

    def nll(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean negative log-likelihood, nats in y's unit; negative where densities exceed 1."""
        warn_of_index(X, sample_weight=sample_weight)
        return weighted_mean(-self.log_prob(X, y), sample_weight)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """R^2 of :meth:`predict`, as of every regressor of scikit-learn.

        Raises:
            ValueError: y is known to intervals only, or has gaps.
        """
        if self.target == "interval":
            raise ValueError(
                "R^2 needs a y that is known; with target='interval' take -nll(X, y), or "
                "scoring=mdn.scoring.nll_scorer"
            )
        warn_of_index(X, sample_weight=sample_weight)
        y = checked_y(X, y, self.target)
        if np.isnan(y).any():
            raise ValueError(
                "R^2 needs a y without gaps; with some of its columns NaN take -nll(X, y), or "
                "scoring=mdn.scoring.nll_scorer"
            )
        return float(super().score(X, y, without_mask(sample_weight)))

    def predict_frame(
        self,
        table: Any,
        columns: str | Sequence[str] = ("mean", "sd", "q05", "q50", "q95"),
        random_state: Any = None,
    ) -> Any:
        """Answers about p(y|x) as a table of the same kind, one row for each row, in their order.

        ================================  =========================================================
        name                              answer, in the unit of y unless said
        ================================  =========================================================
        ``mean``, ``sd``, ``median``      of p(y|x)
        ``mode``                          the most probable y
        ``q05``, ``q97.5``                quantile at that percentage
        ``interval90``                    ends of the central interval, two columns: ``..._low`` and
                                          ``..._high``
        ``hdr90``                         highest-density region, a text ``[[low, high], ...]``; one
                                          target
        ``p_above:3``, ``p_below:3``      P(Y > 3) and P(Y <= 3)
        ``density``, ``nll``              of the observed y: per unit of y, and nats
        ``crps``                          of the observed y
        ``sample:10``                     draws, ten columns ``sample_1`` to ``sample_10``
        ``aleatoric``, ``epistemic``      variance in two parts, as by :meth:`predict_uncertainty`
        ================================  =========================================================

        With several targets the name of each is added, as in ``mean_price``, but for ``density``
        and ``nll``, which are of all together.

        Args:
            table: a data frame (pandas, polars, pyarrow) with the columns of the fit, in any order
                and with others beside them, among which y where an answer needs it; or an array
                (N, F).
            columns: the names, or one text with commas between.
            random_state: seed of the draws.

        Returns:
            A data frame of the same kind, of pandas with the same index; of an array an array
            (N, C).

        Raises:
            TypeError: a name is no text.
            ValueError: a name is not of this language or stands twice; columns of the fit are
                missing, or y where an answer needs it.

        Example:
            >>> import pandas as pd
            >>> rng = np.random.default_rng(0)
            >>> X = pd.DataFrame({"area": rng.uniform(size=100)})
            >>> y = (X["area"] + 0.1 * rng.normal(size=100)).rename("price")
            >>> model = MDNRegressor(preset="fast", ensemble_size=4, random_state=0).fit(X, y)
            >>> list(model.predict_frame(X, "mean,interval90,p_above:0.5").columns)
            ['mean', 'interval90_low', 'interval90_high', 'p_above:0.5']
        """
        check_is_fitted(self, "model_")
        asked = parse_columns(columns)
        of_y = next((answer.name for answer in asked if answer.needs_y), "")
        names = getattr(self, "feature_names_in_", None)
        X, y = features_and_target(
            table, None if names is None else list(names), self.target_names_, of_y
        )
        observed = None if y is None else checked_y(X, y, self.target_.kind)
        if observed is not None:
            self.target_.check(observed)
        return table_like(table, answers(self, self._inputs(X), observed, asked, random_state))

    def _targets(self, a: torch.Tensor) -> Floats:
        """(..., D) as an array, without the last axis if y had none."""
        return (a[..., 0] if self.target_.flat else a).numpy()

    def _marginals(self, X: Any, f: Marginal) -> Floats:
        """What f gives for the distribution of each target, stacked on a last axis if several."""

        def of_chunk(dist: Any, rows: slice) -> torch.Tensor:
            dims = dist.event_shape[0]
            if dims == 1:
                return f(dist, 0, rows)
            return torch.stack([f(dist.marginal(d), d, rows) for d in range(dims)], -1)

        return self._by_row(X, of_chunk).numpy()

    def _by_chunk(self, X: Any, f: Callable[[Any, slice], Any]) -> list[Any]:
        """For each chunk of rows f of its distributions and of the slice of rows that it is.

        The distributions of many rows would not fit into memory.
        """
        inputs = self._inputs(X)  # refuses a model that was not fitted
        return [f(dist, rows) for rows, dist in self.model_.distributions(inputs)]

    def _by_row(self, X: Any, f: Callable[[Any, slice], torch.Tensor]) -> torch.Tensor:
        """The same in one tensor, (N, ...): f gives (n, ...) for n rows."""
        return torch.cat(self._by_chunk(X, f))

    # -- distil -------------------------------------------------------------------------------

    @once()
    def distil(
        self,
        X_unlabelled: Any = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
        max_loss: float = 0.02,
        max_size: float = 500.0,
        max_time: float = 120.0,
        n_components: int = 8,
        random_state: Any = None,
    ) -> MDNRegressor:
        """Returns a model of one small network that stands for this one: the student.

        It is trained on draws from this model's densities at training rows, at rows between
        neighbours, and at rows with some columns of another row, never on the training labels.  It
        encodes the same columns and has the same names, target and units, and it holds no training
        row.  A narrow network is trained first, then a wider one, on more of the rows where the
        first one differed; the second only where the first one's loss is above ``max_loss``.

        Args:
            X_unlabelled: (N, F) rows such as the student will be asked for, in addition to the
                rows of the fit, which are in memory after :meth:`fit`; a model from a file has
                those that its Gaussian process holds, or else it draws each column from the
                thresholds of its trees, so that rows are worth giving.
            eval_set: rows (X, y) on which NLL and CRPS of both models are found.
            max_loss: nats by which the student may differ, above which a wider network is trained
                and at last a warning is given.
            max_size: of the weights of the student, kB.
            max_time: seconds, the answers of this model at the transfer rows included.
            n_components: K of the student.
            random_state: seed or ``numpy.random.RandomState``; None for that of the model.

        Returns:
            An MDNRegressor.  Its ``info_["distilled"]`` is a dict: ``divergence`` and
            ``standard_error``, the Kullback-Leibler divergence from this model to the student in
            nats, mean over rows made like the others that did not train it; ``rows``,
            ``seconds``, ``teacher_seconds``, ``parameters``; with an eval_set ``nll``,
            ``teacher_nll``, and where y is known ``crps`` and ``teacher_crps``.

        Raises:
            ValueError: a number out of its range; a model from a file that has neither process nor
                trees, and no rows.

        Warns:
            TrainingWarning: the loss is above ``max_loss``.

        References:
            G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network (2015).
        """
        check_is_fitted(self, "model_")
        limits = checked_limits(max_loss, max_size, max_time, n_components)
        seed = self._seed if random_state is None else drawn_seed(random_state)
        known = self._inputs_of_fit
        if known is None:
            known = held_rows(self.model_, np.random.default_rng(seed))
        given = [] if X_unlabelled is None else [self._inputs(X_unlabelled)]
        rows = np.concatenate([*given, *([] if known is None else [known])] or [np.empty((0, 0))])
        if len(rows) < 2:
            raise ValueError(
                "X_unlabelled must give rows to a model that was read from a file and has neither "
                "a process nor trees; got None"
            )
        with threads(self.n_jobs), progress(bool(self.verbose)) as report:
            found = distil_model(
                self.model_,
                rows,
                self.columns_.numeric,
                self.columns_.sources,
                limits,
                seed,
                report,
            )
        student = type(self)(**self.get_params(deep=False))
        student._set_fitted(self.columns_, found.model, self._seed, None)
        student.target_names_ = getattr(self, "target_names_", None)
        if hasattr(self, "feature_names_in_"):
            student.feature_names_in_ = self.feature_names_in_
        about: dict[str, Any] = found.numbers()
        if eval_set is not None:
            about |= _scores_of_both(student, self, *eval_set)
        student.info_ = {**getattr(self, "info_", {}), "distilled": about}
        warn_of_loss(found, limits)
        return student

    # -- save ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_inputs_of_fit"}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the fitted model to one file without pickle; ``mdn.load(path)`` reads it."""
        io.save(self, path)

    def state(self) -> State:
        """Returns the configuration, in plain numbers and strings, and the tensors."""
        check_is_fitted(self, "model_")
        params = self.get_params()
        if not isinstance(params["random_state"], (int, np.integer, type(None))):
            params["random_state"] = None  # a generator has no lasting state to save
        if params["hidden"] is not None:
            params["hidden"] = [int(units) for units in params["hidden"]]
        if params["atoms"] is not None:
            params["atoms"] = [float(place) for place in params["atoms"]]
        names = getattr(self, "feature_names_in_", None)
        config, tensors = join(columns=self.columns_, model=self.model_)
        own = {
            "params": params,
            "feature_names": None if names is None else list(names),
            "target_names": getattr(self, "target_names_", None),  # a pickle may lack it
            "info": getattr(self, "info_", {}),
            "seed": self._seed,
            "rows": self._rows,
        }
        return config | own, tensors

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> MDNRegressor:
        """Returns the model that :meth:`state` described, also where format 2 did."""
        if "networks" in config:
            config, tensors = from_format_2(config, tensors)
        params = dict(config["params"])
        if params["hidden"] is not None:
            params["hidden"] = tuple(params["hidden"])
        self = cls(**params)
        columns = read(Columns, "columns", config, tensors)
        model = read(FittedModel, "model", config, tensors)
        self._set_fitted(columns, model, int(config["seed"]), config.get("rows"))
        self.info_ = config.get("info", {})
        self.target_names_ = config.get("target_names")  # None in a file from before it was saved
        if config["feature_names"] is not None:
            self.feature_names_in_ = np.array(config["feature_names"], dtype=object)
        return self


def _scores_of_both(
    student: MDNRegressor, teacher: MDNRegressor, X: Any, y: ArrayLike
) -> dict[str, float]:
    """NLL and, where y is known and the target is one, CRPS of both on rows with y."""
    scores = {"nll": student.nll(X, y), "teacher_nll": teacher.nll(X, y)}
    if teacher.target != "interval" and teacher.target_.n_targets == 1:
        scores["crps"] = float(student.predict_crps(X, y).mean())
        scores["teacher_crps"] = float(teacher.predict_crps(X, y).mean())
    return scores


def _trimmed(hdr: HDR) -> HDR:
    """Without the places for intervals that no row of the batch has, but for the first."""
    count = (~hdr.intervals[..., 0].isnan()).sum(1)
    return hdr._replace(intervals=hdr.intervals[:, : max([1, *count.tolist()])])


def _sorted(
    x: Floats, y: Floats, weight: Floats | None, group: Codes | None
) -> tuple[Floats, Floats, Floats | None, Codes | None]:
    """The rows in an order of their own, so that the user's plays no part; weights of mean 1."""
    keys = [*x.T[::-1], *y.reshape(len(y), -1).T[::-1]]
    order = np.lexsort([a for a in (group, weight) if a is not None] + keys)
    if weight is not None:
        weight = weight[order]
        weight = weight * (len(weight) / weight.sum())  # a sum rounds by its order
    return x[order], y[order], weight, None if group is None else group[order]


def _digest(x: Floats, y: Floats, group: Codes | None) -> str:
    """A hash of sorted rows, by which a warm start knows them again."""
    total = hashlib.blake2b(digest_size=16)
    for a in (x, y) if group is None else (x, y, group):
        total.update(f"{a.shape}{a.dtype}".encode() + np.ascontiguousarray(a).tobytes())
    return total.hexdigest()

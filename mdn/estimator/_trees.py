"""Boosted and randomised trees, whose out-of-fold predictions the networks take as inputs.

Trees follow jumps and interactions that a small network smooths away; the network turns their
predictions into a density.  The trees are grown by scikit-learn and kept here as plain arrays, so
that a fitted model can be saved without pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from ._state import Floats, Saved

__all__ = ["N_BINS", "Forest", "bins", "difference", "fit_trees", "trees_seconds"]

N_BINS = 20  # K, bins of the leaves of a row that stand for their distribution

_CHUNK = 1 << 20  # rows x trees that are evaluated at once
_LARGE = 5000  # rows from which on the boosting takes larger leaves
_FEW, _CLASS_LEAF = 1000, 10  # trees of classes: rows that are few, rows of a leaf of boosted ones
_MAX_SPLIT_FEATURES = 16  # columns that a split of a randomised tree considers, at most
_CHECKED_ROWS = 50  # rows on which the arrays are compared with scikit-learn's trees
_TRIED = 4, 2  # boosted and randomised trees whose time is measured
_TRIED_FACTOR = 4  # and so many times as many, as the first ones take more
_CHECK_TOLERANCE = 1e-4  # of the standard deviation of y; they may differ by rounding only


@dataclass
class Forest(Saved):
    """Binary trees as arrays: node i sends x to left[i] if x[feature[i]] <= threshold[i].

    Attributes:
        roots: (T,) root node of each tree.
        feature: (V,) column that a node splits, -1 at a leaf.
        threshold: (V,) of the split; at a leaf its value.
        left: (V,) child for smaller values; at a leaf itself.
        right: (V,) child for larger values; at a leaf itself.
        base: constant that the leaves of boosted trees are added to.
        boosted: leaves are added; else they are averaged, and their spread is a feature too.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    base: float
    boosted: bool

    def __post_init__(self) -> None:
        count = len(self.threshold)
        sound = all(len(a) == count for a in (self.feature, self.left, self.right))
        if sound:
            inner = np.flatnonzero(self.feature >= 0)
            children = np.stack([self.left[inner], self.right[inner]])
            # a child comes after its parent, so there is no cycle
            sound = bool((children > inner).all() and (children < count).all())
            sound &= bool(((self.roots >= 0) & (self.roots < count)).all())
        if not sound:
            raise ValueError("a tree's nodes do not form a tree")

    @classmethod
    def from_sklearn(cls, model: Any) -> Forest:
        """Returns the trees of a fitted HistGradientBoostingRegressor or ExtraTreesRegressor."""
        boosted = hasattr(model, "_predictors")
        if boosted:
            names = ["feature_idx", "num_threshold", "left", "right", "is_leaf", "value"]
            parts = [[tree.nodes[name] for name in names] for (tree,) in model._predictors]
        else:
            names = ["feature", "threshold", "children_left", "children_right"]
            trees = [estimator.tree_ for estimator in model.estimators_]
            parts = [
                [*(getattr(t, name) for name in names), t.children_left < 0, t.value[:, 0, 0]]
                for t in trees
            ]
        sizes = [len(part[0]) for part in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        shift = np.repeat(starts, sizes)
        feature, threshold, left, right, leaf, value = map(np.concatenate, zip(*parts, strict=True))
        own = np.arange(len(leaf))
        return cls(
            roots=starts.astype(np.int32),
            feature=np.where(leaf, -1, feature).astype(np.int32),
            threshold=np.where(leaf, value, threshold).astype(np.float64),
            left=np.where(leaf, own, left.astype(np.int64) + shift).astype(np.int32),
            right=np.where(leaf, own, right.astype(np.int64) + shift).astype(np.int32),
            base=float(np.ravel(model._baseline_prediction)[0]) if boosted else 0.0,
            boosted=boosted,
        )

    def predict(self, x: Floats, centres: Floats | None = None) -> Floats:
        """Returns (N, 1) sums of boosted trees, or (N, 2) means and deviations over trees.

        Args:
            x: (N, F).
            centres: (N, 2, K) that is filled with what :func:`bins` gives, of randomised trees.
        """
        x = _to_float32(x)
        out = np.empty((len(x), 1 if self.boosted else 2))
        step = max(1, _CHUNK // len(self.roots))
        for i in range(0, len(x), step):
            part = x[i : i + step]
            leaves = self.threshold[self._leaves(part)]  # (n, T)
            if self.boosted:
                out[i : i + step, 0] = self.base + leaves.sum(1)
                continue
            out[i : i + step] = np.stack([leaves.mean(1), leaves.std(1)], 1)
            if centres is not None:
                centres[i : i + step] = bins(leaves)
        return out

    def _leaves(self, x: Floats) -> NDArray[np.int32]:
        """Leaf of each row in each tree, (N, T)."""
        flat = x.ravel()
        n, columns = x.shape
        node: NDArray[Any] = np.tile(self.roots, n)
        row: NDArray[Any] = np.repeat(np.arange(n) * columns, len(self.roots))
        out = node.copy()
        place: NDArray[Any] = np.arange(len(node))
        while len(place):
            feature = self.feature[node]
            inner = feature >= 0
            if not inner.all():
                out[place[~inner]] = node[~inner]
                place, node, row, feature = (a[inner] for a in (place, node, row, feature))
            goes_left = flat[row + feature] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return out.reshape(n, -1)


def bins(values: Floats) -> Floats:
    """Returns means and standard deviations, (N, 2, K), of K bins of sorted values, (N, T)."""
    values = np.sort(values, 1)
    count = values.shape[1]
    edges = np.linspace(0, count, N_BINS + 1).round().astype(int)
    edges = edges[:-1].clip(max=count - 1)  # with fewer values than bins some occur twice
    sizes = np.maximum(np.diff([*edges, count]), 1)
    centred = values - values.mean(1, keepdims=True)
    mean = np.add.reduceat(centred, edges, axis=1) / sizes
    square = np.add.reduceat(centred**2, edges, axis=1) / sizes
    spread = np.sqrt((square - mean**2).clip(0))
    return np.stack([mean + values.mean(1, keepdims=True), spread], 1)


def fit_trees(
    x: Floats,
    y: Floats,
    weight: Floats | None,
    fold: NDArray[np.integer[Any]],
    *,
    fast: bool,
    seed: int,
    n_jobs: int | None,
    classes: bool = False,
    report: Callable[[str, int, int], None],
    goes_on: Callable[[], bool] = lambda: True,
) -> tuple[list[Forest], Floats, Floats] | None:
    """Grows boosted and randomised trees for each target, on all rows and without each fold.

    Args:
        x: (N, F).
        y: (N, D), standardised; NaN where not known, which such rows do not train.
        weight: (N,) or None.
        fold: (N,) fold that a row is held out with.
        fast, seed, n_jobs: of the trees.
        classes: the targets are indicators of classes.
        report: called after each forest with the stage, the forests done and their number.
        goes_on: whether there is time for another forest.

    Returns:
        The forests of all rows, the out-of-fold predictions, (N, 3 D), and out of fold what
        :func:`bins` gives for the randomised trees of the last target, (N, 2, K); None if there
        was no time for all of them.
    """
    x = _to_float32(x)
    folds = range(int(fold.max()) + 1)
    total = 2 * y.shape[1] * (len(folds) + 1)
    done = iter(range(1, total + 1))
    forests: list[Forest] = []
    columns: list[Floats] = []
    centres = np.zeros((len(x), 2, N_BINS), dtype=np.float32)
    for target in y.T:
        known = ~np.isnan(target)
        for model in _models(
            int(known.sum()), x.shape[1], fast=fast, n_jobs=n_jobs, classes=classes
        ):
            out = np.zeros((len(x), 1 if isinstance(model, HistGradientBoostingRegressor) else 2))
            for f in folds:
                inside = fold != f
                if inside.all():  # fewer rows than folds
                    continue
                if not goes_on():
                    return None
                used = inside & known
                if used.any():  # else the mean, 0
                    share = None if weight is None else weight[used]
                    model.set_params(random_state=seed + f)
                    model.fit(x[used], target[used], sample_weight=share)
                    out[~inside], each = _predict_features(model, x[~inside])
                    if each is not None:
                        centres[~inside] = bins(each)
                report("trees", next(done), total)
            columns.append(out)
            share = None if weight is None else weight[known]
            model.set_params(random_state=seed).fit(x[known], target[known], sample_weight=share)
            forests.append(_to_arrays(model, x))
            report("trees", next(done), total)
    return forests, np.concatenate(columns, 1), centres.astype(np.float64)


def trees_seconds(
    x: Floats,
    y: Floats,
    n: int,
    *,
    fast: bool,
    n_jobs: int | None,
    classes: bool = False,
    seconds: Callable[[], float],
) -> float:
    """Returns an estimate of the time that both forests of ``n`` rows take, from a few trees.

    Args:
        x, y: (m, F) and (m,), all rows or some of them.
        n: rows of the fit.
        fast, n_jobs, classes: of the trees.
        seconds: the clock.
    """
    x = _to_float32(x)
    total = 0.0
    names = "max_iter", "n_estimators"
    models = _models(n, x.shape[1], fast=fast, n_jobs=n_jobs, classes=classes)
    for model, name, few in zip(models, names, _TRIED, strict=True):
        count, found = model.get_params()[name], []
        for trees in (few, _TRIED_FACTOR * few):
            model.set_params(**{name: trees, "random_state": 0})
            begin = seconds()
            _predict_features(model.fit(x, y), x[: len(x) // 4 + 1])
            found.append(seconds() - begin)
        total += found[0] + (count / few - 1) * difference(*found, factor=_TRIED_FACTOR)
    return total * n / len(x)


def difference(once: float, several: float, *, factor: int) -> float:
    """Returns the time of a piece of work, from its time with what surrounds it, for two amounts.

    Args:
        once: seconds for one piece.
        several: seconds for ``factor`` pieces.
        factor: of the amount.
    """
    return max((several - once) / (factor - 1), 0.1 * once)


def _models(
    n: int, n_columns: int, *, fast: bool, n_jobs: int | None, classes: bool = False
) -> Sequence[Any]:
    """Unfitted boosted trees, for trends, and randomised ones, which average neighbours.

    Of indicators of a class, whose noise is large, with fewer trees and more rows in a leaf.
    """
    small = n < _LARGE
    if classes:
        leaf = max(1, min(_CLASS_LEAF, n // 20))
        return HistGradientBoostingRegressor(
            max_iter=60 if n < _FEW else 120,
            learning_rate=0.06,
            max_leaf_nodes=6 if small else 12,
            min_samples_leaf=leaf,
            l2_regularization=5.0,
            max_features=0.6,
            early_stopping=False,
        ), ExtraTreesRegressor(
            60 if fast else 100,
            min_samples_leaf=max(1, leaf // 2),
            max_features=max(1, min(_MAX_SPLIT_FEATURES, round(0.7 * n_columns))),
            n_jobs=n_jobs,
        )
    boosted = HistGradientBoostingRegressor(
        max_iter=(120 if fast else 600) if small else (150 if fast else 400),
        learning_rate=0.2 if fast else 0.06 if small else 0.08,
        max_leaf_nodes=12 if small else 31,
        min_samples_leaf=min(5 if small else 10, max(1, n // 10)),
        l2_regularization=1.0,
        max_features=0.6,
        early_stopping=False,
    )
    randomised = ExtraTreesRegressor(
        30 if fast else 100,
        max_features=max(1, min(_MAX_SPLIT_FEATURES, round(0.5 * n_columns))),
        n_jobs=n_jobs,
    )
    return boosted, randomised


def _predict_features(model: Any, x: Floats) -> tuple[Floats, Floats | None]:
    """What :meth:`Forest.predict` gives, and the leaves (N, T) of randomised trees."""
    if isinstance(model, HistGradientBoostingRegressor):
        return model.predict(x)[:, None], None
    each = np.stack([tree.predict(x) for tree in model.estimators_])
    return np.stack([each.mean(0), each.std(0)], 1), each.T


def _to_arrays(model: Any, x: Floats) -> Forest:
    """The trees as arrays, checked to predict what scikit-learn predicts."""
    forest = Forest.from_sklearn(model)
    some = x[:_CHECKED_ROWS]
    if np.abs(forest.predict(some)[:, 0] - model.predict(some)).max() > _CHECK_TOLERANCE:
        raise RuntimeError(
            "the trees of this version of scikit-learn are laid out in a way not known here; "
            "use scikit-learn 1.6 to 1.9, or MDNRegressor(trees=False)"
        )
    return forest


def _to_float32(x: Floats) -> Floats:
    """Rounded to float32, as scikit-learn's randomised trees do by themselves."""
    return np.ascontiguousarray(x, dtype=np.float32)

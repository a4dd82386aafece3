"""Boosted and randomised trees, whose out-of-fold predictions the networks take as inputs.

Trees follow jumps and interactions that a small network smooths away; the network turns what they
say into a density.  The trees are grown by scikit-learn and kept here as plain arrays, so that a
fitted model can be saved without pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

__all__ = ["Forest", "TreeFeatures", "n_forests"]

Floats = NDArray[np.floating[Any]]

_CHUNK = 1 << 20  # rows x trees that walk down at once
_LARGE = 5000  # rows from which on the boosting takes larger leaves
_MOST_SPLIT = 16  # columns a randomised tree looks at in a split, at most
_LOOKED_AT = 50  # rows by which the kept trees are compared with the grown ones
_ODD = 1e-4  # of the spread of y; kept trees may differ from scikit-learn's by rounding only


@dataclass
class Forest:
    """Binary trees as arrays: node i sends x to left[i] if x[feature[i]] <= threshold[i].

    Attributes:
        roots: (T,) node of each tree where the walk begins.
        feature: (V,) column that a node splits, -1 at a leaf.
        threshold: (V,) of the split; at a leaf its value.
        left: (V,) child for smaller values; at a leaf itself.
        right: (V,) child for larger values; at a leaf itself.
        base: what the leaves of boosted trees are added to.
        boosted: leaves are added; else they are averaged, and their spread is told as well.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    base: float
    boosted: bool

    @classmethod
    def of(cls, model: Any) -> Forest:
        """The trees of a fitted HistGradientBoostingRegressor or ExtraTreesRegressor."""
        boosted = hasattr(model, "_predictors")
        parts: list[tuple[NDArray[Any], ...]] = []
        if boosted:
            for (predictor,) in model._predictors:
                nodes = predictor.nodes
                leaf = nodes["is_leaf"].astype(bool)
                split = nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"]
                parts.append((leaf, *split, nodes["value"]))
        else:
            for estimator in model.estimators_:
                tree = estimator.tree_
                leaf = tree.children_left < 0
                split = tree.feature, tree.threshold, tree.children_left, tree.children_right
                parts.append((leaf, *split, tree.value[:, 0, 0]))
        sizes = [len(part[0]) for part in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        shift = np.repeat(starts, sizes)
        leaf, feature, threshold, left, right, value = (
            np.concatenate([part[i] for part in parts]) for i in range(6)
        )
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

    def predict(self, x: Floats) -> Floats:
        """(N, 1) sums of boosted trees, or (N, 2) means and standard deviations over trees."""
        out = np.empty((len(x), 1 if self.boosted else 2))
        step = max(1, _CHUNK // len(self.roots))
        for i in range(0, len(x), step):
            part = x[i : i + step]
            leaves = self.threshold[self._leaves(part)]  # (n, T)
            if self.boosted:
                out[i : i + step, 0] = self.base + leaves.sum(1)
            else:
                out[i : i + step, 0] = leaves.mean(1)
                out[i : i + step, 1] = leaves.std(1)
        return out

    def _leaves(self, x: Floats) -> NDArray[np.int32]:
        flat = np.ascontiguousarray(x).ravel()
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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to know of the trees, by name."""
        return {
            "roots": self.roots,
            "feature": self.feature,
            "threshold": self.threshold,
            "left": self.left,
            "right": self.right,
            "about": np.array([self.base, float(self.boosted)]),
        }

    @classmethod
    def restored(cls, arrays: dict[str, NDArray[Any]]) -> Forest:
        """What :meth:`arrays` described."""
        arrays = dict(arrays)
        base, boosted = arrays.pop("about")
        new = cls(**arrays, base=float(base), boosted=bool(boosted))
        count = len(new.threshold)
        own = np.arange(count)
        sound = all(len(a) == count for a in (new.feature, new.left, new.right))
        if sound:
            inner = new.feature >= 0
            children = np.concatenate([new.left[inner], new.right[inner]])
            # a child lies behind its parent, so every walk ends
            sound = bool(
                ((new.roots >= 0) & (new.roots < count)).all()
                and (children > np.tile(own[inner], 2)).all()
                and (children < count).all()
            )
        if not sound:
            raise ValueError("a tree's nodes do not form a tree")
        return new


@dataclass
class TreeFeatures:
    """Boosted and randomised trees for each target."""

    forests: list[Forest]

    def predict(self, x: Floats) -> Floats:
        """What the trees say of each row, (N, 3 D)."""
        x = _single(x)
        return np.concatenate([forest.predict(x) for forest in self.forests], 1)

    @classmethod
    def fit(
        cls,
        x: Floats,
        y: Floats,
        weight: Floats | None,
        fold: NDArray[np.integer[Any]],
        *,
        fast: bool,
        seed: int,
        n_jobs: int | None,
        report: Callable[[], None] = lambda: None,
    ) -> tuple[TreeFeatures, Floats]:
        """Trees grown on all rows, and for each row what trees say that have not seen it.

        Args:
            x: (N, F).
            y: (N, D), standardised.
            weight: (N,) or None.
            fold: (N,) block that a row is held out with.
            fast: fewer trees.
            seed: of the trees.
            n_jobs: threads.
            report: called after each forest.

        Returns:
            The trees and the out-of-fold predictions, (N, 3 D).
        """
        x = _single(x)
        forests: list[Forest] = []
        columns: list[Floats] = []
        for target in y.T:
            for model in _models(*x.shape, fast=fast, n_jobs=n_jobs):
                out = np.zeros((len(x), 0))
                for f in range(int(fold.max()) + 1):
                    inside = fold != f
                    if inside.all():  # fewer rows than folds
                        continue
                    _grow(model, x[inside], target[inside], _part(weight, inside), seed + f)
                    told = _told(model, x[~inside])
                    if not out.shape[1]:
                        out = np.zeros((len(x), told.shape[1]))
                    out[~inside] = told
                    report()
                columns.append(out)
                _grow(model, x, target, weight, seed)
                forests.append(_kept(model, x))
                report()
        return cls(forests), np.concatenate(columns, 1)


def n_forests(n_targets: int, n_folds: int) -> int:
    """How often ``report`` is called by :meth:`TreeFeatures.fit`."""
    return 2 * n_targets * (n_folds + 1)


def _models(n: int, n_columns: int, *, fast: bool, n_jobs: int | None) -> Sequence[Any]:
    """Unfitted: boosted trees, which follow trends, and randomised ones, which know neighbours."""
    small = n < _LARGE
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
        max_features=max(1, min(_MOST_SPLIT, round(0.5 * n_columns))),
        n_jobs=n_jobs,
    )
    return boosted, randomised


def _grow(model: Any, x: Floats, y: Floats, weight: Floats | None, seed: int) -> None:
    model.set_params(random_state=seed).fit(x, y, sample_weight=weight)


def _told(model: Any, x: Floats) -> Floats:
    if isinstance(model, HistGradientBoostingRegressor):
        return model.predict(x)[:, None]
    each = np.stack([tree.predict(x) for tree in model.estimators_])
    return np.stack([each.mean(0), each.std(0)], 1)


def _kept(model: Any, x: Floats) -> Forest:
    """The trees as arrays, after a look at whether they still say the same."""
    forest = Forest.of(model)
    some = x[:_LOOKED_AT]
    if np.abs(forest.predict(some)[:, 0] - model.predict(some)).max() > _ODD:
        raise RuntimeError(
            "the trees of this version of scikit-learn are laid out in a way not known here; "
            "use scikit-learn 1.6 to 1.9, or MDNRegressor(trees=False)"
        )
    return forest


def _part(weight: Floats | None, rows: NDArray[np.bool_]) -> Floats | None:
    return None if weight is None else weight[rows]


def _single(x: Floats) -> Floats:
    """Rounded to float32, as scikit-learn's randomised trees do by themselves."""
    return np.ascontiguousarray(x, dtype=np.float32)

"""One way to ask any model for its predictive distribution.

::

    predict_distribution(model, X)              # p(y|x) of each row of X
    distribution_and_target(model, y, X)        # the same beside y, in float64, checked row by row
    final_model(model, X)                       # the end of a Pipeline, and the X that reaches it
    evaluating(module)                          # eval mode without gradients, for a with statement
    take_rows(X, index)                         # rows of an array, tensor, list or data frame

A model is whatever has a predictive distribution: see :func:`predict_distribution`.  Neither
scikit-learn nor a data frame library is imported here: what a model is shows in its attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from .arguments import how_to_wrap
from .functional._arrays import numeric_array, numeric_tensor
from .functional._checks import check_batch, check_event, check_not_nan
from .warnings import DataWarning, warn

__all__ = [
    "Floats",
    "distribution_and_target",
    "evaluating",
    "final_model",
    "kind_of",
    "n_rows",
    "numeric_array",
    "numeric_tensor",
    "predict_distribution",
    "take_rows",
    "target_tensor",
    "to_numpy",
    "warn_of_index",
]

Floats = NDArray[np.float64]

_PROBES = 5  # points at which the transformer of a target must be affine
_AFFINE_TOLERANCE = 1e-6  # relative; a transformer in float32 is affine to its own rounding


# -- ask the model --------------------------------------------------------------------------------


def predict_distribution(model: Any, X: Any = None) -> Any:
    """Returns the predictive distribution of each row of X.

    Args:
        model: one of

            - a fitted regressor with ``predict_distribution(X)``, such as
              :class:`mdn.MDNRegressor`;
            - a fitted scikit-learn ``Pipeline`` that ends in a model, a ``GridSearchCV`` or another
              search over one, or a ``TransformedTargetRegressor`` around one whose transformer is
              affine (``StandardScaler``): the distribution is in the unit of y;
            - a ``torch.nn.Module`` that returns a ``Distribution``: it is called in eval mode
              without gradients, its modes are restored, and X becomes a tensor of its dtype on its
              device (a tensor of integers stays one);
            - a callable from X to a ``Distribution``: it is given a tensor, of the default dtype
              unless X is one already;
            - a ``Distribution`` itself; one of batch () stands for every row.
        X: features, N rows: an array, a tensor or a data frame (pandas, polars, pyarrow) as the
            model takes it; None only with a distribution.

    Returns:
        A ``torch.distributions.Distribution`` whose first batch axis is N.

    Raises:
        TypeError: the model has no predictive distribution, or X holds no numbers where a tensor
            is made of it.
        ValueError: no X, a search that is not fitted, or another number of rows.

    Example:
        >>> from mdn import MDN
        >>> predict_distribution(MDN(3, 1, n_components=2), np.zeros((5, 3)))
        GaussianMixture(batch_shape=(5,), event_shape=(1,), n_components=2)
    """
    known = isinstance(model, Distribution)
    if isinstance(model, Tensor | np.ndarray):
        raise TypeError(
            "model must be a model or a torch Distribution; got a plain "
            f"{kind_of(model)}. {how_to_wrap(model)}"
        )
    if X is None:
        if known:
            return model
        raise ValueError(
            f"X must be given with a model, whose distribution depends on it; got {kind_of(model)} "
            "alone"
        )
    dist = model if known else _ask(*final_model(model, X))  # which knows best what X may be
    n = n_rows(X)
    if known and not dist.batch_shape:
        return dist.expand(torch.Size([n]))
    if known and dist.batch_shape[0] != n:
        raise ValueError(
            f"X must have one row for each of the {dist.batch_shape[0]} distributions; got {n}"
        )
    if dist.batch_shape[:1] != (n,):
        raise ValueError(
            f"the model must give one distribution a row, batch shape ({n},) for the {n} rows of "
            f"X; got {tuple(dist.batch_shape)}"
        )
    return dist


def final_model(model: Any, X: Any) -> tuple[Any, Any]:
    """Returns the model at the end of a Pipeline or in a search, and X as it reaches that model.

    Another model and its X are returned as they are.

    Raises:
        ValueError: a search (``GridSearchCV``) without ``best_estimator_``.
    """
    while not hasattr(model, "predict_distribution") and not isinstance(model, nn.Module):
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif isinstance(getattr(model, "steps", None), list):
            for _, step in model.steps[:-1]:
                X = X if step is None or step == "passthrough" else step.transform(X)
            model = model.steps[-1][1]
        elif hasattr(model, "refit") and hasattr(model, "fit"):
            raise ValueError(
                f"{kind_of(model)} has no best_estimator_: fit it first, with refit=True"
            )
        else:
            break
    return model, X


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode without gradients; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _ask(model: Any, X: Any) -> Any:
    if isinstance(model, type):
        raise TypeError(f"model must be a fitted model; got {kind_of(model)}, not an instance")
    if hasattr(model, "predict_distribution"):
        with torch.no_grad():
            dist = model.predict_distribution(X)
    elif isinstance(model, nn.Module):
        with evaluating(model):
            dist = model(_module_input(model, X))
    elif hasattr(model, "regressor") and hasattr(model, "transformer"):
        return _in_unit_of_y(model, X)
    elif callable(model):
        with torch.no_grad():
            dtype = torch.get_default_dtype()
            dist = model(X if isinstance(X, Tensor) else numeric_tensor(X, "X").to(dtype))
    else:
        found = kind_of(model)
        if hasattr(model, "predict"):
            found += ", which predicts numbers without a distribution"
        raise TypeError(
            "model must be a regressor with predict_distribution(X), a Pipeline that ends in one, "
            "a torch module or a callable that returns a Distribution, or a Distribution; "
            f"got {found}"
        )
    if not isinstance(dist, Distribution):
        raise TypeError(
            f"{kind_of(model)} must return a torch Distribution; got {kind_of(dist)}. "
            f"{how_to_wrap(dist)}"
        )
    return dist


def _module_input(module: nn.Module, X: Any) -> Tensor:
    floats = (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    like = next(floats, None)
    x = X if isinstance(X, Tensor) else numeric_tensor(X, "X")
    if like is None:
        return x if isinstance(X, Tensor) else x.to(torch.get_default_dtype())
    keep = isinstance(X, Tensor) and not X.is_floating_point()  # indices of an embedding
    return x.to(like.device, x.dtype if keep else like.dtype)


def _in_unit_of_y(model: Any, X: Any) -> Any:
    """Undoes the transform of the target of a TransformedTargetRegressor, if it is affine."""
    name = kind_of(model)
    if not hasattr(model, "regressor_"):
        raise ValueError(f"{name} must be fitted; call its fit(X, y) first")
    dist = predict_distribution(model.regressor_, X)
    if len(dist.event_shape) != 1 or not hasattr(dist, "affine"):
        raise TypeError(
            f"{name} must hold a model whose distribution has affine(shift, scale), as a "
            f"GaussianMixture; got {kind_of(dist)}"
        )
    d = dist.event_shape[0]
    probes = np.random.default_rng(0).normal(0, 3, (_PROBES, d))
    points = np.concatenate([np.zeros((1, d)), np.eye(d), probes])
    values = np.asarray(model.transformer_.inverse_transform(points), dtype=np.float64)
    shift, scale = values[0], values[1 : 1 + d].diagonal() - values[0]
    off = np.abs(values - (shift + scale * points))
    if not (off <= _AFFINE_TOLERANCE * np.abs(values).max()).all():
        raise ValueError(
            f"the transformer of {name} must be affine, as StandardScaler, for the density to be "
            f"known in the unit of y; got {kind_of(model.transformer_)}. For a positive y take "
            'MDNRegressor(target="positive") without it'
        )
    return dist.affine(*(torch.as_tensor(a).to(dist.mean) for a in (shift, scale)))


# -- beside the target ----------------------------------------------------------------------------


def distribution_and_target(model: Any, y: Any, X: Any = None) -> tuple[Any, Tensor]:
    """Returns the distribution of each row, batch (N,), and y as a tensor (N, D), row by row.

    Both are in float64 where they can be.

    Args:
        model: as :func:`predict_distribution` takes it.
        y: targets, (N, D), tensor, array or data frame; (N,) as well if X is given and D is 1.
        X: features, N rows; None with a distribution.

    Raises:
        ValueError: y is not (N, D), holds NaN, or does not fit the distribution or X.
        TypeError: y holds no numbers, or as :func:`predict_distribution`.
    """
    dist = predict_distribution(model, X)
    target = target_tensor(dist, y, X).detach()
    if target.ndim != 2 or not len(target):
        raise ValueError(
            f"y must have shape (N, {dist.event_shape[0]}), N > 0; got {tuple(target.shape)}"
        )
    if len(dist.batch_shape) > 1 or dist.batch_shape.numel() not in (1, len(target)):
        raise ValueError(
            f"dist must have batch shape ({len(target)},), one distribution a row of y; "
            f"got {tuple(dist.batch_shape)}"
        )
    dist = dist.expand(target.shape[:1])
    return (dist.to(torch.float64) if hasattr(dist, "to") else dist), target.double()


def target_tensor(dist: Any, y: Any, X: Any = None) -> Tensor:
    """Returns y as a tensor (*, D) that fits the batch of the distribution and holds no NaN.

    Distributions of torch itself do not check this: y (N,) against N of them gives (N, N).

    Args:
        dist: a distribution of event shape (D,).
        y: targets, (*, D), tensor, array or data frame; (N,) as well if X is given and D is 1.
        X: the features that dist was predicted from, N rows, if it was.
    """
    if len(dist.event_shape) != 1:
        axis = "" if len(dist.batch_shape) > 1 else ", of parameters (N, 1)"
        raise ValueError(
            f"the distribution must have event shape (D,); got {tuple(dist.event_shape)} of "
            f"{kind_of(dist)}. Wrap it: torch.distributions.Independent(dist, 1){axis}"
        )
    target = numeric_tensor(y, "y", like=dist)
    if X is not None:
        warn_of_index(X, y=y)
        target = target.to(dist.mean.device)
        if target.ndim == 1 and dist.event_shape[0] == 1:
            target = target.unsqueeze(-1)
        if target.ndim and len(target) != n_rows(X):
            raise ValueError(
                f"X and y must have one length; got {n_rows(X)} and {len(target)} rows"
            )
    check_event(target, dist.event_shape[0], given=y)
    check_batch("y", target.shape[:-1], dist.batch_shape, "distribution")
    check_not_nan(target)
    return target


# -- arrays, tensors and data frames --------------------------------------------------------------


def take_rows(X: Any, index: ArrayLike) -> Any:
    """Returns rows of X, of the kind that X is.

    Args:
        X: an array, a tensor, a list, or a data frame or column of pandas, polars or pyarrow.
        index: whole numbers from 0 to N - 1, (n,).

    Example:
        >>> take_rows(["a", "b", "c"], [2, 0])
        ['c', 'a']
    """
    rows = np.asarray(index)
    if isinstance(X, Tensor):
        return X[torch.as_tensor(rows, device=X.device)]
    if isinstance(X, list | tuple):  # an array of it would make text of the numbers in mixed rows
        return [X[i] for i in rows]
    if hasattr(X, "iloc"):  # pandas
        return X.iloc[rows]
    if type(X).__module__.startswith("pyarrow"):
        return X.take(rows)
    return (X if hasattr(X, "shape") else np.asarray(X))[rows]  # polars and sparse among them


def warn_of_index(X: Any, **others: Any) -> None:
    """Warns where the pandas index of another table, by its name, is not that of X.

    Rows are paired by their position everywhere in mdn; the labels are only looked at here.
    """
    index = _pandas_index(X)
    for name, values in others.items():
        own = _pandas_index(values)
        if index is None or own is None or len(own) != len(index) or own.equals(index):
            continue
        row = next((i for i, (a, b) in enumerate(zip(own, index, strict=True)) if a != b), 0)
        found = "the same labels in another order" if set(own) == set(index) else "other labels"
        warn(
            f"the index of {name} is not that of X: {found}, in row {row} {own[row]} for "
            f"{index[row]}; rows are paired by position, so align them first by {name}.loc"
            f"[X.index], or pass {name}.to_numpy() if the positions are right",
            DataWarning,
        )


def _pandas_index(table: Any) -> Any:
    index = getattr(table, "index", None)  # of a list it is a method
    return index if hasattr(index, "equals") else None


def n_rows(X: Any) -> int:
    """Returns the number of rows of an array, a tensor, a list or a data frame."""
    shape = getattr(X, "shape", None)
    if shape is not None and not len(shape):
        raise ValueError(f"X and y must have one row or more; got a single number, {X}")
    if shape is None and not hasattr(X, "__len__"):
        raise TypeError(f"X and y must have rows; got {kind_of(X)}")
    return int(shape[0]) if shape is not None else len(X)


def to_numpy(values: Tensor) -> Floats:
    """Returns a tensor as an array in float64, without its gradients."""
    return values.detach().cpu().double().numpy()


def kind_of(thing: Any) -> str:
    """Returns what a thing is, for a message: the name of its class, or that it is a class."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__

"""What the plots ask of a model, and checks of what the user gave; no drawing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

Floats = NDArray[np.float64]


# -- asking the model -----------------------------------------------------------------------------


class Walk(NamedTuple):
    """The model along one feature, the others held.

    Attributes:
        values: the feature, (G,), rising.
        dist: p(y|x) there, batch (G,).
        rows: x as given, (N, F).
        name: of the feature.
        others: how many others there are and where they are held; empty if there are none.
    """

    values: Floats
    dist: Any
    rows: Floats
    name: str
    others: str


def along(model: Any, x: Any, feature: int, at: Any, n_grid: int) -> Walk:
    """Steps over the range of one column of x; the others at their medians, or as in ``at``."""
    rows, names = features(x)
    n_features = rows.shape[1]
    if not (isinstance(feature, int | np.integer) and 0 <= feature < n_features):
        raise ValueError(f"feature must be a column of x, 0 to {n_features - 1}; got {feature!r}")
    if n_grid < 2:
        raise ValueError(f"n_grid must be at least 2; got {n_grid}")
    held, where = np.median(rows, axis=0), "at its median"
    if at is not None:
        held, where = numeric(at, "at").reshape(-1), "as given"
        if len(held) != n_features:
            raise ValueError(
                f"at must be one row of x, {n_features} values; got shape {np.shape(at)}"
            )
    values = span(rows[:, feature], 0.02, n_grid)
    grid = np.tile(held, (n_grid, 1))  # (G, F)
    grid[:, feature] = values
    others = {1: "", 2: f"the other feature {where}"}.get(
        n_features, f"the other features {where.replace('its median', 'their medians')}"
    )
    name = names[feature] if names else "x" if n_features == 1 else f"x{feature}"
    return Walk(values, predict(model, grid, x), rows, name, others)


def predict(model: Any, rows: Floats, like: Any, n_targets: int = 1) -> Any:
    """The model's distribution at the rows (N, F): batch (N,), event (n_targets,)."""
    with torch.no_grad():
        if hasattr(model, "predict_distribution"):
            # a model fitted on a data frame wants its columns back
            frame = type(like)(rows, columns=like.columns) if hasattr(like, "columns") else rows
            dist = model.predict_distribution(frame)
        elif isinstance(model, nn.Module):
            own = (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
            to = next(own, torch.empty(0))
            with evaluating(model):
                dist = model(torch.as_tensor(rows, dtype=to.dtype, device=to.device))
        elif callable(model) and not isinstance(model, type):
            dist = model(torch.as_tensor(rows, dtype=torch.get_default_dtype()))
        else:
            raise TypeError(
                "model must have predict_distribution(X) or be a callable from a tensor (N, F) to "
                f"a distribution; got {kind(model)}"
            )
    if not isinstance(dist, Distribution):
        raise TypeError(f"model must give a torch Distribution; got {kind(dist)}")
    dist = checked(dist, n_targets)
    if tuple(dist.batch_shape) != (len(rows),):
        raise ValueError(
            f"model must give batch shape ({len(rows)},) for {len(rows)} rows; "
            f"got {tuple(dist.batch_shape)}"
        )
    return dist


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout and the like off; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def checked(dist: Distribution, n_targets: int = 1) -> Any:
    """A distribution over so many real targets, in float64 on the CPU if it can be moved."""
    if tuple(dist.event_shape) != (n_targets,):
        words = {1: "one target", 2: "two targets"}[n_targets]
        more = dist.event_shape.numel() > n_targets
        raise ValueError(
            f"this plot needs {words}, a distribution with event shape ({n_targets},); "
            f"got {tuple(dist.event_shape)} of {kind(dist)}"
            + (f". Take {words} with .marginal(dims)" if more else "")
        )
    # between two float32 there may be no room for the grid of a narrow component
    return dist.to("cpu", torch.float64) if hasattr(dist, "to") else dist


def conditional(
    model_or_dist: Any, x: Any, needs: Sequence[str], n_targets: int = 1
) -> tuple[Any, Floats | None]:
    """A distribution with batch (N,) that has the methods, and the rows of x if given."""
    values = None if x is None else features(x)[0]
    if isinstance(model_or_dist, Distribution):
        dist = checked(model_or_dist, n_targets)
        dist = dist if dist.batch_shape else dist.expand((1,))
        if len(dist.batch_shape) > 1:
            raise ValueError(
                f"model_or_dist must have batch shape () or (N,); got {tuple(dist.batch_shape)}"
            )
    elif values is None:
        raise TypeError(
            f"x must hold rows of features unless there is a distribution; got {kind(x)} "
            f"with {kind(model_or_dist)}"
        )
    else:
        dist = predict(model_or_dist, values, x, n_targets)
    having(dist, *needs)
    if values is not None and len(values) != dist.batch_shape[0]:
        raise ValueError(
            f"x must have one row for each of the {dist.batch_shape[0]} distributions; "
            f"got {len(values)}"
        )
    return dist, values


def having(dist: Any, *methods: str) -> Any:
    """The distribution, if it has the methods."""
    if not all(hasattr(dist, name) for name in methods):
        wanted = " and ".join(f"{name}()" for name in methods)
        raise TypeError(
            f"this plot needs a distribution with {wanted}, as a mixture; got {kind(dist)}"
        )
    return dist


def draws(dist: Any, n: int) -> Floats:
    """n draws, (n, N, D); the global random state is neither used nor changed."""
    if "generator" not in inspect.signature(dist.sample).parameters:
        raise TypeError(
            f"this plot needs sample(shape, generator=), as of a mixture; got {kind(dist)}"
        )
    return array(dist.sample((n,), generator=torch.Generator().manual_seed(0)))


def quantiles(dist: Any, levels: Floats) -> Floats:
    """At levels (L,), (L, N)."""
    try:
        with torch.no_grad():
            return array(dist.icdf(like(dist, levels[:, None])))[..., 0]
    except NotImplementedError:
        raise TypeError(
            f"this plot needs a distribution with icdf(), as a mixture; got {kind(dist)}"
        ) from None


def on_grid(dist: Any, function: Callable[[Tensor], Tensor], y: Floats) -> Floats:
    """A function of the distributions (N,) at y (G, N) or (G, 1); part by part to save memory."""
    parts = torch.as_tensor(y).unsqueeze(-1).split(32)
    with torch.no_grad():
        return np.concatenate([array(function(like(dist, part))) for part in parts])


def like(dist: Any, values: Floats | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=dist.mean.dtype, device=dist.mean.device)


def array(values: Tensor) -> Floats:
    return values.detach().cpu().double().numpy()


def span(values: Floats, margin: float, n: int) -> Floats:
    """n even steps over the values plus a margin, a share of their range, on both sides."""
    low, high = values.min(), values.max()
    pad = margin * (high - low) or 0.1 * abs(low) or 1.0  # a single value still gets a range
    return np.linspace(low - pad, high + pad, n)


# -- checking what the user gave ------------------------------------------------------------------


def numeric(values: Any, name: str) -> Floats:
    values = values.detach().cpu() if isinstance(values, Tensor) else values
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers; got {kind(values)} ({error})") from None
    finite = np.isfinite(array)
    if not finite.all():
        at = np.argwhere(~finite)[0]
        row = f" in row {at[0]}" if array.ndim else ""
        raise ValueError(f"{name} must be finite; got {array[tuple(at)]}{row}")
    return array


def features(x: Any) -> tuple[Floats, list[str] | None]:
    """Rows (N, F), and the names of the columns of a data frame."""
    array = numeric(x, "x")
    array = array.reshape(-1, 1) if array.ndim < 2 else array
    if array.ndim > 2 or not array.size:
        raise ValueError(f"x must have shape (N,) or (N, F), not empty; got {array.shape}")
    return array, [str(name) for name in x.columns] if hasattr(x, "columns") else None


def vector(values: Any, name: str, n: int | None = None) -> Floats:
    """Finite numbers (n,), given as (n,) or (n, 1); of any length if n is None."""
    array = numeric(values, name)
    size = array.size if n is None else n
    if array.shape not in ((size,), (size, 1)) or not array.size:
        wanted = "(N,) or (N, 1), not empty" if n is None else f"({n},)"
        raise ValueError(f"{name} must have shape {wanted}; got {array.shape}")
    return array.reshape(-1)


def labels(labels: Sequence[str] | None, n: int) -> list[str] | None:
    """n names, one a row."""
    if labels is not None and (isinstance(labels, str) or len(labels) != n):
        raise ValueError(f"labels must be a list of {n} names, one a row; got {labels!r}")
    return None if labels is None else list(labels)


def probability(value: Any, name: str) -> float:
    if not (isinstance(value, int | float | np.number) and 0 < value < 1):
        raise ValueError(f"{name} must lie between 0 and 1; got {value!r}")
    return float(value)


def coverages(values: Any) -> list[float]:
    """One or more, rising."""
    found = [values] if isinstance(values, int | float | np.number) else list(values)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"coverage must be one or more different values; got {values!r}")
    return sorted(probability(c, "coverage") for c in found)


def fields(thing: Any, name: str, wanted: Sequence[str], maker: str) -> None:
    """Whether it is what a function of mdn.calibration returns, or looks like it."""
    if not all(hasattr(thing, field) for field in wanted):
        raise TypeError(f"{name} must be what {maker} returns; got {kind(thing)}")


def target(y: Any, n: int) -> Floats:
    array = numeric(y, "y")
    if array.ndim == 2 and array.shape[1] > 1:
        raise ValueError(
            f"y must have one target, shape (N,) or (N, 1); got {array.shape}. "
            "Plot one column and the marginal of its dimension"
        )
    if array.shape not in ((n,), (n, 1)):
        raise ValueError(f"y must have as many rows as x, shape ({n},); got {array.shape}")
    return array.reshape(-1)


def history(history: Any) -> tuple[Floats, Floats, int]:
    """The two curves, (n,) and (n,) or (0,), and the index of the best epoch."""
    try:
        train = np.asarray(history.train_nll, dtype=np.float64)
        val = np.asarray(history.val_nll, dtype=np.float64)
        best = int(history.best_epoch)
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            "history must have the lists of numbers train_nll and val_nll and the index "
            f"best_epoch; got {kind(history)}"
        ) from None
    if not np.isfinite(train).any() and not np.isfinite(val).any():
        raise ValueError(f"history must have an epoch with a finite NLL; got {len(train)} epochs")
    return train, val, best


def kind(thing: Any) -> str:
    return type(thing).__name__ if not isinstance(thing, type) else f"the class {thing.__name__}"

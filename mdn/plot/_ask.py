"""What the plots ask of a model, and checks of what the user gave; no drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

Floats = NDArray[np.float64]


# -- asking the model -----------------------------------------------------------------------------


def predict(model: Any, rows: Floats, like: Any) -> Distribution:
    """The model's distribution at the rows (N, F): batch (N,), event (1,)."""
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
    dist = checked(dist)
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


def checked(dist: Distribution) -> Any:
    """A distribution over one real target, in float64 on the CPU if it can be moved."""
    if tuple(dist.event_shape) != (1,):
        one = ". Take one target with .marginal(dims)" if dist.event_shape.numel() > 1 else ""
        raise ValueError(
            "a plot needs one target, a distribution with event shape (1,); "
            f"got {tuple(dist.event_shape)} of {kind(dist)}{one}"
        )
    # between two float32 there may be no room for the grid of a narrow component
    return dist.to("cpu", torch.float64) if hasattr(dist, "to") else dist


def conditional(model_or_dist: Any, x: Any) -> tuple[Any, Floats | None]:
    """The distribution of plot_conditional, with batch (N,), and the rows of x if given."""
    values = None if x is None else features(x)[0]
    if isinstance(model_or_dist, Distribution):
        dist = checked(model_or_dist)
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
        dist = predict(model_or_dist, values, x)
    if not (hasattr(dist, "modes") and hasattr(dist, "interval")):
        raise TypeError(
            f"model_or_dist must have modes() and interval(), as a mixture; got {kind(dist)}"
        )
    if values is not None and len(values) != dist.batch_shape[0]:
        raise ValueError(
            f"x must have one row for each of the {dist.batch_shape[0]} distributions; "
            f"got {len(values)}"
        )
    return dist, values


def on_grid(dist: Any, function: Callable[[Tensor], Tensor], y: Floats) -> Floats:
    """A function of the distributions (N,) at y (G, N) or (G, 1); part by part to save memory."""
    parts = torch.as_tensor(y).unsqueeze(-1).split(32)
    with torch.no_grad():
        return np.concatenate([array(function(like(dist, part))) for part in parts])


def like(dist: Any, values: Floats | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=dist.mean.dtype, device=dist.mean.device)


def array(values: Tensor) -> Floats:
    return values.detach().cpu().double().numpy()


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

"""What a model says of rows of data: one form for every kind of model and distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from ..distribution import DiscretizedMixture, GaussianMixture, Mixture, TruncatedMixture
from ..nn import MDN, MDNHead
from ..prediction import distribution_and_target as checked_rows

__all__ = ["Rows", "ask"]

Floats = NDArray[np.float64]

_OURS = (GaussianMixture, Mixture, DiscretizedMixture, TruncatedMixture)


@dataclass
class Rows:
    """N rows, their targets, and the distribution that a model gives each.

    Attributes:
        dist: batch (N,), float64 where it can be.
        y: (N, D) numbers; (N,) class indices; None where y is known to intervals.
        nll: (N,), nats in y's unit.
        measure: ``"density"``, ``"mass"``, or ``"mixed"`` where only some rows are known exactly.
        width: of the rounding cell of a mass; 0 else.
        x: (N, F) numbers to look for where the model is wrong; None without.
        names: of the columns of x, if they have any.
        floor: (D,) least scale that the model can give, in the unit of the components; None if not
            known.
        way: from y to the unit of the components: ``""``, ``"log"`` or ``"logit"``.
        members: networks that were pooled, each with as many components; a rest is shared.
    """

    dist: Any
    y: Tensor | None
    nll: Floats
    measure: str
    width: float = 0.0
    x: Floats | None = None
    names: list[str] | None = None
    floor: Floats | None = None
    way: str = ""
    members: int = 1

    @property
    def classes(self) -> bool:
        """Whether y is a class."""
        return isinstance(self.dist, Categorical)

    @property
    def known(self) -> bool:
        """Whether y is a vector of numbers under a distribution of this package."""
        return self.y is not None and isinstance(self.dist, _OURS)

    @property
    def line(self) -> bool:
        """Whether there is one target with a cdf."""
        return self.known and tuple(self.dist.event_shape) == (1,)

    @property
    def dims(self) -> int:
        """D; 1 for classes and intervals."""
        return 1 if self.y is None or self.y.ndim == 1 else self.y.shape[1]


@torch.no_grad()
def ask(model: Any, X: Any, y: Any, name: str = "") -> Rows:
    """Asks the model for the distribution of each row, and for the loss of its y.

    Args:
        model: as :func:`mdn.explain_nll` takes it.
        X: features; of a distribution, to tell where it is wrong, or None.
        y: targets.
        name: put before "X" and "y" in messages.
    """
    if y is None:
        raise ValueError(
            f"{name}y must be given, the targets whose loss is to be explained; got None. With a "
            "distribution call explain_nll(dist, y=y), with a model explain_nll(model, X, y)"
        )
    if isinstance(model, Distribution):
        found = _of_distribution(model, _numbers(X), _target(y, f"{name}y"), f"{name}y")
        found.names = _names(X)
        return found
    if isinstance(model, type) or not (
        hasattr(model, "predict_distribution") or isinstance(model, nn.Module)
    ):
        raise TypeError(
            "model_or_distribution must be a fitted MDNRegressor, an nn.Module that returns a "
            f"Distribution, or a Distribution; got {_kind(model)}"
        )
    if X is None:
        raise ValueError(
            f"{name}X must be given with a model: what it says depends on X; got None. Without "
            "data give a distribution and y"
        )
    count = _length(X), _length(y)
    if count[0] != count[1]:
        raise ValueError(
            f"{name}X and {name}y must have one length; got {count[0]} and {count[1]} rows"
        )
    if not isinstance(model, nn.Module):
        if hasattr(model, "target_"):  # a fitted MDNRegressor
            return _of_regressor(model, X, y, name)
        dist = model.predict_distribution(X)
    else:
        own: Tensor = next(iter((*model.parameters(), *model.buffers())), torch.empty(0))
        x = X if isinstance(X, Tensor) else torch.as_tensor(_array(X, f"{name}X"))
        if not isinstance(X, Tensor) and own.is_floating_point():
            x = x.to(own.dtype)
        with _evaluating(model):
            dist = model(x.to(own.device))
    if not isinstance(dist, Distribution):
        raise TypeError(
            f"the model must return a torch Distribution; got {_kind(dist)}. Wrap it: "
            "mdn.GaussianMixture(logits, loc, scale)"
        )
    found = _of_distribution(dist, _numbers(X), _target(y, f"{name}y"), f"{name}y")
    found.names = _names(X)
    found.floor = _module_floor(model, found.dims) if isinstance(model, nn.Module) else None
    return found


# -- kinds of models ------------------------------------------------------------------------------


def _of_regressor(model: Any, X: Any, y: Any, name: str) -> Rows:
    dist = model.predict_distribution(X)
    target = model.target_
    values = _array(y, f"{name}y").astype(np.float64)
    interval = target.kind == "interval"
    if not interval:
        _check_finite(torch.as_tensor(values.reshape(len(values), -1)), f"{name}y")
    target.check(values)
    nll = -target.log_likelihood(dist, values).numpy()
    point: Tensor | None = torch.as_tensor(values.reshape(len(values), -1))
    measure = "mass" if target.likelihood_is_mass else "density"
    if interval:
        exact = values[:, 0] == values[:, 1]
        measure = "density" if exact.all() else "mixed" if exact.any() else "mass"
        point = torch.as_tensor(values[:, :1]) if exact.all() else None
    elif target.resolution:  # the distribution takes nothing but multiples
        point = torch.as_tensor((values.reshape(-1, 1) / target.resolution).round())
        point = point * target.resolution
    return Rows(
        dist,
        point,
        nll,
        measure,
        width=float(target.resolution),
        x=model.columns_.transform(X),
        names=model.columns_.names if hasattr(model, "feature_names_in_") else None,
        floor=model.min_scale_,
        way={"positive": "log", "unit": "logit"}.get(target.kind, ""),
        members=model.n_networks_,
    )


def _module_floor(module: nn.Module, dims: int) -> Floats | None:
    """Least scale that an MDN or the one MDNHead in a module can give, in its output's unit."""
    if isinstance(module, MDN):
        return (module.head.min_scale * module.y_scale).double().cpu().numpy()
    heads = [m for m in module.modules() if isinstance(m, MDNHead)]
    if len(heads) != 1 or heads[0].family != "gaussian":
        return None
    if any(isinstance(m, MDN) for m in module.modules()):  # what is done to its output is unknown
        return None
    return np.full(dims, heads[0].min_scale)


def _of_distribution(dist: Distribution, x: Floats | None, y: Tensor, name: str) -> Rows:
    if isinstance(dist, Categorical):
        return _of_classes(dist, x, y, name)
    dist = _ours(dist)
    if isinstance(dist, _OURS):
        dims = dist.event_shape[0]
        y = y.unsqueeze(-1) if y.ndim == 1 and dims == 1 else y
        _check_finite(y, name)
        dist, target = checked_rows(dist, y)
        measure = "mass" if _is_mass(dist) else "density"
        width = float(getattr(dist, "width", 0.0))
        nll = _floats(-dist.log_prob(target))
        return _matched(Rows(dist, target, nll, measure, width=width, x=x), x)
    # a family whose form is unknown: what needs no more than its log_prob is still said
    n = len(y)
    if y.ndim == 1 and tuple(dist.batch_shape) == (n, 1):
        y = y.unsqueeze(-1)
    if y.ndim == 2 and y.shape[1] == 1 and tuple(dist.batch_shape) == (n,) and not dist.event_shape:
        y = y[:, 0]
    _check_finite(y.reshape(n, -1), name)
    log_p = dist.log_prob(y)
    if not log_p.ndim or len(log_p) != n or (log_p.ndim > 1 and log_p.shape != y.shape):
        raise ValueError(
            f"{name} of shape {tuple(y.shape)} must have one row for each of the distribution's "
            f"batch {tuple(dist.batch_shape)} and event {tuple(dist.event_shape)}"
        )
    nll = _floats(-log_p.reshape(n, -1).sum(1))
    measure = "mass" if _support(dist).is_discrete else "density"
    return _matched(Rows(dist, y.double().reshape(n, -1), nll, measure, x=x), x)


def _of_classes(dist: Categorical, x: Floats | None, y: Tensor, name: str) -> Rows:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    count = dist.logits.shape[-1]
    if y.ndim != 1 or tuple(dist.batch_shape) not in ((len(y),), ()):
        raise ValueError(
            f"{name} must have one class a row, as the distribution's batch "
            f"{tuple(dist.batch_shape)}; got shape {tuple(y.shape)}"
        )
    off = ~((y >= 0) & (y < count) & (y == y.round()))
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise ValueError(
            f"{name} must hold classes, whole numbers from 0 to {count - 1}; row {row} is "
            f"{y[row].item():g}"
        )
    dist = Categorical(logits=dist.logits.double()).expand(torch.Size([len(y)]))
    return _matched(Rows(dist, y.long(), _floats(-dist.log_prob(y.long())), "mass", x=x), x)


def _ours(dist: Any) -> Any:
    """The same law as a distribution of this package, if it can be one."""
    if isinstance(dist, _OURS):
        return dist
    if isinstance(dist, MixtureSameFamily):
        logits, parts = dist.mixture_distribution.logits, dist.component_distribution
        scale = parts.base_dist if isinstance(parts, Independent) else parts
        if isinstance(scale, Normal) and len(parts.event_shape) <= 1:
            loc, scale = (
                a if parts.event_shape else a[..., None] for a in (scale.loc, scale.scale)
            )
            return GaussianMixture(logits, loc, scale)
        if isinstance(parts, MultivariateNormal):
            return GaussianMixture(logits, parts.loc, scale_tril=parts.scale_tril)
        return _tried(logits, parts, dist)
    if isinstance(dist, MultivariateNormal):
        loc, tril = dist.loc.unsqueeze(-2), dist.scale_tril.unsqueeze(-3)
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, scale_tril=tril)
    base = dist.base_dist if isinstance(dist, Independent) else dist
    if len(dist.event_shape) > 1 or len(base.batch_shape) > 2 or base.event_shape:
        return dist
    if len(base.batch_shape) == 2 and not isinstance(dist, Independent):
        dist = Independent(base, 1)
    if isinstance(base, Normal):
        loc, scale = (a if dist.event_shape else a[..., None] for a in (base.loc, base.scale))
        loc, scale = loc.unsqueeze(-2), scale.unsqueeze(-2)
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, scale)
    return _tried(torch.zeros(*dist.batch_shape, 1), [dist], dist)


def _tried(logits: Tensor, parts: Any, dist: Any) -> Any:
    """A Mixture, if that knows the family well enough to use it."""
    try:
        mixture = Mixture(logits.double(), parts)
        found = mixture[:1] if mixture.batch_shape else mixture
        found.cdf(found.mean)
        found.modes()
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return dist
    return mixture


def _support(dist: Distribution) -> Any:
    """Any, as torch's stub has it None as well, which no distribution here gives."""
    return dist.support


def _is_mass(dist: Any) -> bool:
    if isinstance(dist, DiscretizedMixture):
        return True
    if not isinstance(dist, Mixture):
        return False
    parts = dist.components if isinstance(dist.components, list) else [dist.components]
    return any(_support(part).is_discrete for part in parts)


# -- what the user gave ---------------------------------------------------------------------------


def _target(y: Any, name: str) -> Tensor:
    found = y.detach().cpu() if isinstance(y, Tensor) else torch.as_tensor(_array(y, name))
    if found.is_complex() or found.ndim not in (1, 2) or not len(found):
        raise ValueError(
            f"{name} must have shape (N,) or (N, D), N > 0, and hold real numbers; got shape "
            f"{tuple(found.shape)}"
        )
    return found.double()


def _array(a: Any, name: str) -> NDArray[Any]:
    """A numeric array that torch takes."""
    array = a.detach().cpu().numpy() if isinstance(a, Tensor) else np.asarray(a)
    if array.dtype == object or not (
        np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_
    ):
        raise TypeError(f"{name} must be a tensor or hold numbers; got dtype {array.dtype}")
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"]).copy()


def _numbers(X: Any) -> Floats | None:
    """X as (N, F) numbers to group rows by, or None if it is none."""
    if X is None:
        return None
    array = X.detach().cpu().numpy() if isinstance(X, Tensor) else np.asarray(X)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number) or not array.ndim:
        return None
    array = array[:, None] if array.ndim == 1 else array
    return array.astype(np.float64) if array.ndim == 2 else None


def _names(X: Any) -> list[str] | None:
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def _matched(found: Rows, x: Floats | None) -> Rows:
    if x is not None and len(x) != len(found.nll):
        raise ValueError(f"X and y must have one length; got {len(x)} and {len(found.nll)} rows")
    return found


def _length(a: Any) -> int:
    shape = getattr(a, "shape", None)
    if shape is not None and not shape:
        raise ValueError("X and y must have one row or more; got a single number")
    return int(shape[0]) if shape is not None else len(a)


def _check_finite(y: Tensor, name: str) -> None:
    bad = ~torch.isfinite(y.reshape(len(y), -1)).all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} must be finite; row {row} is not ({int(bad.sum())} such rows): drop them"
        )


def _floats(a: Tensor) -> Floats:
    found = a.detach().double().cpu().numpy()
    if np.isnan(found).any():
        row = int(np.isnan(found).argmax())
        raise ValueError(f"the distribution gives NaN as log density in row {row}")
    return np.where(found == math.inf, math.inf, found)


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout and the like off; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

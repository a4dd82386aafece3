"""The predicted distribution of each row and the loss of its target, for every kind of model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from ..distribution import AtomicMixture, Mixture, MixtureDistribution, PointMass
from ..nn import MDN, MDNHead
from ..prediction import (
    Floats,
    distribution_and_target,
    final_model,
    n_rows,
    numeric_array,
    numeric_tensor,
    predict_distribution,
    warn_of_index,
)
from ._torch_families import as_mixture

__all__ = ["Evaluation", "evaluate", "evenly_spaced", "to_latent"]


@dataclass
class Evaluation:
    """N rows, their targets, and the distribution that a model predicts for each.

    Attributes:
        dist: batch (N,), float64 where it can be.
        y: (N, D) numbers; (N,) class indices; None where y is known to intervals.
        nll: (N,), nats in y's unit.
        measure: ``"density"``, ``"mass"``, or ``"mixed"`` where only some rows are known exactly,
            or some have y at an atom.
        width: of the rounding cell of a mass; 0 else.
        features: (N, F) numbers by which rows are grouped; None without.
        feature_names: of the columns, if they have any.
        scale_floor: (D,) smallest scale that the model can give, in latent units; None if unknown.
        link: from y to the latent unit, in which the components are Gaussian: ``""``, ``"log"`` or
            ``"logit"``.
        n_networks: networks in the ensemble; each has an equal number of components, and what is
            left over belongs to none.
        of_regressor: the model is an MDNRegressor.
        held_out_nll: mean, standard error and number of rows of the NLL of the rows that the model
            held out in its own training; empty if it did not.
    """

    dist: Any
    y: Tensor | None
    nll: Floats
    measure: str
    width: float = 0.0
    features: Floats | None = None
    feature_names: list[str] | None = None
    scale_floor: Floats | None = None
    link: str = ""
    n_networks: int = 1
    of_regressor: bool = False
    held_out_nll: tuple[float, ...] = ()

    @property
    def is_categorical(self) -> bool:
        """Whether y is a class."""
        return isinstance(self.dist, Categorical)

    @property
    def is_mixture(self) -> bool:
        """Whether y is a vector of numbers under a distribution of this package."""
        return self.y is not None and isinstance(self.dist, MixtureDistribution)

    @property
    def is_univariate(self) -> bool:
        """Whether y is one number under a distribution of this package, which has a cdf."""
        return self.is_mixture and tuple(self.dist.event_shape) == (1,)

    @property
    def at_atoms(self) -> NDArray[np.bool_]:
        """Which rows have y at an atom, and so a probability and no density; (N,)."""
        if not isinstance(self.dist, AtomicMixture) or self.y is None:
            return np.zeros(len(self.nll), dtype=bool)
        return (self.y == self.dist.atoms).any(-1).numpy()

    def off_atoms(self) -> tuple[Evaluation, NDArray[np.intp]]:
        """Returns the rows off the atoms, under their density given that they are, and indices.

        Without atoms it is all of this.
        """
        index = np.flatnonzero(~self.at_atoms)
        if not isinstance(self.dist, AtomicMixture) or self.y is None:
            return self, index
        rows = torch.from_numpy(index)
        dist, y = self.dist.base[rows], self.y[rows]
        features = None if self.features is None else self.features[index]
        nll = (-dist.log_prob(y)).double().numpy()
        return replace(self, dist=dist, y=y, nll=nll, measure="density", features=features), index

    @property
    def n_targets(self) -> int:
        """D; 1 for classes and intervals."""
        return 1 if self.y is None or self.y.ndim == 1 else self.y.shape[1]


def to_latent(y: Floats, link: str) -> tuple[Floats, Floats]:
    """Returns y (N, D) in the latent unit, and the log of the derivative of the link, (N,)."""
    if link == "log":
        return np.log(y), -np.log(y).sum(1)
    if link == "logit":
        return np.log(y) - np.log1p(-y), -(np.log(y) + np.log1p(-y)).sum(1)
    return y, np.zeros(len(y))


def evenly_spaced(n: int, most: int) -> NDArray[np.intp]:
    """Returns the indices of at most so many of n rows."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.intp))


def evaluate(model: Any, X: Any, y: Any, name: str = "") -> Evaluation:
    """Returns the predicted distribution of each row and the loss of its y.

    With a distribution X is only a means to group the rows.  Messages put ``name`` before X and y.
    """
    if y is None:
        raise ValueError(
            f"{name}y must be given, the targets whose loss is to be explained; got None. With a "
            "distribution call explain_nll(dist, y=y), with a model explain_nll(model, X, y)"
        )
    if X is not None and n_rows(X) != n_rows(y):
        raise ValueError(
            f"{name}X and {name}y must have one length; got {n_rows(X)} and {n_rows(y)} rows"
        )
    warn_of_index(X, **{f"{name}y": y})
    final, inputs = (model, None) if X is None else final_model(model, X)
    if hasattr(final, "target_") and X is not None:
        return _of_regressor(final, inputs, y, name)
    dist = as_mixture(predict_distribution(final, inputs))
    found = _of_distribution(dist, _target(y, f"{name}y"), f"{name}y")
    found.features, found.feature_names = _numeric_features(X)
    if isinstance(final, nn.Module):
        found.scale_floor = _module_scale_floor(final, found.n_targets)
    return found


# -- kinds of models ------------------------------------------------------------------------------


def _of_regressor(model: Any, X: Any, y: Any, name: str) -> Evaluation:
    """Returns the evaluation of an MDNRegressor, which knows its target and its scale floor."""
    dist = model.predict_distribution(X)
    target = model.target_
    values = numeric_array(y, f"{name}y").astype(np.float64)
    columns: Any = values.reshape(len(values), -1)  # (N, D), or the ends of an interval
    if target.kind != "interval":
        _check_finite(torch.from_numpy(columns), f"{name}y")
    target.check(values)
    nll = -target.log_likelihood(dist, values).numpy()
    measure = "mass" if target.likelihood_is_mass else "density"
    measure = "mixed" if isinstance(dist, AtomicMixture) else measure
    if target.kind == "interval":
        exact = columns[:, 0] == columns[:, 1]
        measure = "density" if exact.all() else "mixed" if exact.any() else "mass"
        columns = columns[:, :1] if exact.all() else None
    elif target.resolution:  # the distribution takes nothing but multiples
        columns = (columns / target.resolution).round() * target.resolution
    return Evaluation(
        dist,
        None if columns is None else torch.from_numpy(columns),
        nll,
        measure,
        width=float(target.resolution),
        features=model.columns_.transform(X),
        feature_names=model.columns_.names if hasattr(model, "feature_names_in_") else None,
        scale_floor=model.min_scale_,
        link={"positive": "log", "unit": "logit"}.get(target.kind, ""),
        n_networks=model.n_networks_,
        of_regressor=True,
        held_out_nll=tuple(model.model_.held_out_nll),
    )


def _module_scale_floor(module: nn.Module, n_targets: int) -> Floats | None:
    """Returns the smallest scale of an MDN, or of the one MDNHead of a module, in its y's unit."""
    if isinstance(module, MDN):
        return (module.head.min_scale * module.y_scale).double().cpu().numpy()
    heads = [m for m in module.modules() if isinstance(m, MDNHead)]
    if len(heads) != 1 or heads[0].family != "gaussian":
        return None
    if any(isinstance(m, MDN) for m in module.modules()):  # what is done to its output is unknown
        return None
    return np.full(n_targets, heads[0].min_scale)


def _of_distribution(dist: Any, y: Tensor, name: str) -> Evaluation:
    if isinstance(dist, Categorical):
        return _of_classes(dist, y, name)
    if not isinstance(dist, MixtureDistribution):
        return _of_unknown_family(dist, y, name)
    y = y.unsqueeze(-1) if y.ndim == 1 and dist.event_shape[0] == 1 else y
    _check_finite(y, name)
    dist, target = distribution_and_target(dist, y)
    nll = _checked_nll(dist.log_prob(target))
    measure = _measure(dist)
    return Evaluation(dist, target, nll, measure, width=float(getattr(dist, "width", 0.0)))


def _of_unknown_family(dist: Distribution, y: Tensor, name: str) -> Evaluation:
    """Returns the evaluation of a family that no mixture here can hold, by its log_prob alone."""
    n = len(y)
    if y.ndim == 1 and tuple(dist.batch_shape) == (n, 1):
        y = y.unsqueeze(-1)
    if y.ndim == 2 and y.shape[1] == 1 and tuple(dist.batch_shape) == (n,) and not dist.event_shape:
        y = y[:, 0]
    _check_finite(y, name)
    log_p = dist.log_prob(y)
    if not log_p.ndim or len(log_p) != n or (log_p.ndim > 1 and log_p.shape != y.shape):
        raise ValueError(
            f"{name} of shape {tuple(y.shape)} must have one row for each of the distribution's "
            f"batch {tuple(dist.batch_shape)} and event {tuple(dist.event_shape)}"
        )
    nll = _checked_nll(log_p.reshape(n, -1).sum(1))
    return Evaluation(dist, y.reshape(n, -1), nll, _measure(dist))


def _of_classes(dist: Categorical, y: Tensor, name: str) -> Evaluation:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    n_classes = dist.logits.shape[-1]
    if y.ndim != 1 or tuple(dist.batch_shape) not in ((len(y),), ()):
        raise ValueError(
            f"{name} must have one class a row, as the distribution's batch "
            f"{tuple(dist.batch_shape)}; got shape {tuple(y.shape)}"
        )
    off = ~((y >= 0) & (y < n_classes) & (y == y.round()))
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise ValueError(
            f"{name} must hold classes, whole numbers from 0 to {n_classes - 1}; row {row} is "
            f"{y[row].item():g}"
        )
    dist = Categorical(logits=dist.logits.double()).expand(torch.Size([len(y)]))
    return Evaluation(dist, y.long(), _checked_nll(dist.log_prob(y.long())), "mass")


def _measure(dist: Any) -> str:
    """Whether values have a density, a probability, or some the one and some the other."""
    if isinstance(dist, AtomicMixture):
        return "mixed"
    if not isinstance(dist, Mixture):
        return "mass" if dist.support.is_discrete else "density"
    components: Any = dist.components
    components = components if isinstance(components, list) else [components]
    others = [component for component in components if not isinstance(component, PointMass)]
    if any(component.support.is_discrete for component in others) or not others:
        return "mass"
    return "mixed" if len(others) < len(components) else "density"


# -- what the user gave ---------------------------------------------------------------------------


def _target(y: Any, name: str) -> Tensor:
    found = numeric_tensor(y, name).detach().cpu()
    if found.is_complex() or found.ndim not in (1, 2) or not len(found):
        raise ValueError(
            f"{name} must have shape (N,) or (N, D), N > 0, and hold real numbers; got shape "
            f"{tuple(found.shape)}"
        )
    return found.double()


def _numeric_features(X: Any) -> tuple[Floats | None, list[str] | None]:
    """Returns X as (N, F) numbers and the names of its columns; None each where it has none."""
    if X is None:
        return None, None
    try:
        array = numeric_array(X, "X").astype(np.float64)
    except TypeError:  # text, which an MDNRegressor would encode
        return None, None
    # the columns of pyarrow are arrays
    names = getattr(X, "column_names", getattr(X, "columns", None))
    array = array[:, None] if array.ndim == 1 else array
    return (array if array.ndim == 2 else None), None if names is None else [*map(str, names)]


def _check_finite(y: Tensor, name: str) -> None:
    bad = ~torch.isfinite(y.reshape(len(y), -1)).all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} must be finite; row {row} is not ({int(bad.sum())} such rows): drop them"
        )


def _checked_nll(log_p: Tensor) -> Floats:
    nll = (-log_p).double().cpu().numpy()
    if np.isnan(nll).any():
        row = int(np.isnan(nll).argmax())
        raise ValueError(f"the distribution gives NaN as log density in row {row}")
    return nll

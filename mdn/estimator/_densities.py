"""Members of the pool that are no networks: densities of base models, each a Gaussian mixture.

Where rows are few, a linear model or a Gaussian process is often closer to the truth than networks
are.  Each member predicts every training row without the rows of its fold, and by these predictions
the stack finds its weight; one of little weight is left out.

References:
    D. H. Wolpert, Stacked Generalization, Neural Networks 5 (1992) 241-259.
    P. Smyth, D. Wolpert, Linearly Combining Density Estimators via Stacking (1999).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..distribution import GaussianMixture
from ..tables._folds import Codes
from ._state import Floats, Saved
from ._trees import N_BINS

__all__ = ["Densities", "Location", "fit_densities"]

# Student-t densities as mixtures of Gaussians: bins of probability of the precision, by whose
# middle quantiles it is replaced.
_EDGES = np.array([0.0, 0.01, 0.05, 0.2, 0.5, 1.0])
_DEGREES = (3.0, 4.0, 6.0, 10.0, 20.0)  # of freedom, beside those of a Gaussian model
_FEW = 40  # rows from which on the predictive density of a Gaussian model is a Gaussian
_FACTORS = np.exp(np.linspace(-0.5, 0.5, 21))  # of all scales
_PRIOR = 3.0  # precision of the normal prior of the log of the factor
_SHAPE_ROWS = 10_000  # by which it is chosen, at most
_PENALTIES = np.exp(np.linspace(math.log(1e-3), math.log(1e4), 40))  # of the linear model
_LEAST_ERROR = 1e-9  # of the variance of y, which the linear model leaves
_SINGULAR = 1e-10  # of the largest eigenvalue, below which one is 0
_ROWS_PER_BIN, _MAX_BINS = 8, 12  # of the marginal density
_LEAST = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the widths around leaves
_SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
_NEIGHBOURS = 2  # bins on each side that are near
_EM_STEPS = 30
_BANDWIDTH = 0.5  # of its components, in standard deviations of y times n^(-1/5)

RowLogProb = Callable[[GaussianMixture], Tensor]


class Location(NamedTuple):
    """Predictive means and scales, (N,) each, in standard units."""

    mean: Floats
    scale: Floats


def student(nu: float) -> tuple[Floats, Floats]:
    """Weights and scales, (K,), of Gaussians around 0, nearly a Student-t density together."""
    from scipy.stats import gamma

    if math.isinf(nu):
        return np.ones(1), np.ones(1)
    middle = 0.5 * (_EDGES[1:] + _EDGES[:-1])
    return np.diff(_EDGES), np.sqrt(0.5 * nu / gamma.ppf(middle, 0.5 * nu))


def _degrees(n: int) -> float:
    """Degrees of freedom of a Gaussian model of n rows whose variance is integrated out."""
    return n - 1.0 if n < _FEW else math.inf


@dataclass
class Residuals(Saved):
    """Distribution of residuals in units of the predicted scale: Gaussians around 0.

    Attributes:
        log_weight, scale: (K,) of the components.
    """

    log_weight: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, found: Location, y: Floats, weight: Floats | None, *, heavy: bool) -> Residuals:
        """Returns the likeliest Student-t or Gaussian density for out-of-fold predictions.

        Args:
            found: predictions for each row, made without it.
            y: (N,) targets.
            weight: (N,) or None.
            heavy: whether tails may be heavier than those of a Gaussian.
        """
        z = torch.as_tensor((y - found.mean) / found.scale)
        share = torch.ones_like(z) if weight is None else torch.as_tensor(weight)
        some = np.random.default_rng(0).permutation(len(z))[:_SHAPE_ROWS]
        z, share = z[some], share[some]
        kinds = [student(_degrees(len(y)) if heavy else math.inf)]
        kinds += [student(nu) for nu in _DEGREES if heavy and nu < len(y)]
        best, chosen = -math.inf, cls(torch.zeros(1).double(), torch.ones(1).double())
        for w, scale in kinds:
            log_w, scales = torch.as_tensor(np.log(w)), torch.as_tensor(_FACTORS[:, None] * scale)
            u = z[:, None, None] / scales  # (N, 21, K)
            rows = torch.logsumexp(log_w - scales.log() - 0.5 * u.square(), -1)
            total = share @ rows - _PRIOR * torch.as_tensor(np.log(_FACTORS) ** 2)
            at = int(total.argmax())
            if float(total[at]) > best:
                best, chosen = float(total[at]), cls(log_w, scales[at])
        return chosen

    def around(self, found: Location) -> GaussianMixture:
        """Returns the densities around predictions, batch (1, N)."""
        mean, scale = (torch.as_tensor(a).reshape(1, -1, 1, 1) for a in found)
        scales = scale * self.scale.reshape(-1, 1)  # (1, N, K, 1)
        logits = self.log_weight.expand(scales.shape[:-1])
        return GaussianMixture(logits, mean.expand_as(scales), scales, validate_args=False)


@dataclass
class Linear(Saved):
    """Bayesian linear regression with a normal prior of the coefficients.

    The ratio of the two variances maximises the marginal likelihood, in which the noise variance
    is integrated out (Bishop 2006, sections 3.3 and 3.5).

    Attributes:
        shift: (P,) means of the columns.
        intercept: mean of y.
        coefficients: (P,).
        directions: (P, R) orthonormal, those in which the columns vary.
        variance: (R + 1,) of the coefficients along these and along all others, in units of the
            noise variance.
        noise: standard deviation of the noise.
        share: 1 / N, the variance of the intercept in units of the noise variance.
        residuals: their distribution.
    """

    shift: Tensor
    intercept: float
    coefficients: Tensor
    directions: Tensor
    variance: Tensor
    noise: float
    share: float
    residuals: Residuals

    @classmethod
    def fit(cls, x: Floats, y: Floats, weight: Floats, residuals: Residuals) -> Linear:
        """Returns the model of rows (N, P) and targets (N,)."""
        n = float(weight.sum())
        shift, intercept = weight @ x / n, float(weight @ y / n)
        x, y = x - shift, y - intercept
        values, vectors = _principal(np.sqrt(weight)[:, None] * x)
        projected = vectors.T @ (x.T @ (weight * y))
        total = max(float(weight @ y**2), 1e-300)
        error = total - (projected**2 / (values + _PENALTIES[:, None])).sum(1)
        error = error.clip(_LEAST_ERROR * total)
        evidence = -0.5 * np.log1p(values / _PENALTIES[:, None]).sum(1)
        best = int((evidence - 0.5 * max(n - 1, 1) * np.log(error)).argmax())
        variance = 1 / (np.append(values, 0.0) + _PENALTIES[best])
        return cls(
            torch.as_tensor(shift),
            intercept,
            torch.as_tensor(vectors @ (variance[:-1] * projected)),
            torch.as_tensor(vectors),
            torch.as_tensor(variance),
            math.sqrt(float(error[best]) / max(n - 1, 1)),
            1 / n,
            residuals,
        )

    def predict(self, x: Floats) -> Location:
        """Returns means and scales for rows (N, P)."""
        centred, variance = x - self.shift.numpy(), self.variance.numpy()
        square = (centred @ self.directions.numpy()) ** 2
        beside = ((centred**2).sum(1) - square.sum(1)).clip(0)
        spread = square @ variance[:-1] + beside * variance[-1]
        scale = self.noise * np.sqrt(1 + self.share + spread)
        return Location(self.intercept + centred @ self.coefficients.numpy(), scale)


def _principal(x: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of X' X, (R,), and its eigenvectors, (P, R), of rows (N, P).

    With fewer rows than columns, those that are not 0 alone.
    """
    if x.shape[1] <= len(x):
        values, vectors = np.linalg.eigh(x.T @ x)
        return values.clip(0), vectors
    values, own = np.linalg.eigh(x @ x.T)
    used = values > _SINGULAR * max(values[-1], 1e-300)
    return values[used], x.T @ (own[:, used] / np.sqrt(values[used]))


@dataclass
class Marginal(Saved):
    """The density of y alone: a Gaussian for each of K bins of equal probability.

    Attributes:
        log_weight, loc, scale: (K,) of the components.
    """

    log_weight: Tensor
    loc: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, y: Floats, weight: Floats) -> Marginal:
        """Returns the density of targets (N,)."""
        order = np.argsort(y)
        y, share = y[order], weight[order] / weight.sum()
        bins = min(_MAX_BINS, max(1, len(y) // _ROWS_PER_BIN))
        place = np.minimum((bins * (np.cumsum(share) - 0.5 * share)).astype(int), bins - 1)
        place = np.unique(place, return_inverse=True)[1]  # a heavy row may fill several
        w = np.bincount(place, share)
        loc = np.bincount(place, share * y) / w
        variance = np.bincount(place, share * (y - loc[place]) ** 2) / w
        total = share @ (y - share @ y) ** 2
        variance = variance + _BANDWIDTH**2 * total * len(y) ** -0.4
        log_w, scale = np.log(w), np.sqrt(np.maximum(variance, 1e-300))
        if len(y) < _FEW:
            n = len(y)
            tails, factors = student(n - 1.0)
            factors = factors * math.sqrt((n + 1) / (n - 1))
            log_w = np.add.outer(log_w, np.log(tails)).ravel()
            loc, scale = np.repeat(loc, len(tails)), np.outer(scale, factors).ravel()
        parts = log_w, loc, scale
        return cls(*(torch.as_tensor(a) for a in parts))

    def of_rows(self, n: int) -> GaussianMixture:
        """Returns the density for each of n rows, batch (1, n)."""
        logits = self.log_weight.expand(1, n, -1)
        loc, scale = (a.reshape(-1, 1).expand(1, n, -1, 1) for a in (self.loc, self.scale))
        return GaussianMixture(logits, loc, scale, validate_args=False)


@dataclass
class Leaves(Saved):
    """The density around the leaves that a row falls into, each the y of a training row or few.

    The leaves are given as K bins of their sorted values.  The scale of a bin's Gaussian is its own
    spread, and that of a kernel: a constant plus a multiple of the distance to the bins nearby.

    Attributes:
        least: the constant, in standard deviations of y.
        share: the multiple.
    """

    least: float
    share: float

    def around(self, bins: Floats) -> GaussianMixture:
        """Returns the density of each row, batch (1, N), for bins (N, 2, K)."""
        mean, spread = torch.as_tensor(bins, dtype=torch.float64).unbind(1)
        k = mean.shape[1]
        place = torch.arange(k)
        low, high = (place - _NEIGHBOURS).clamp(min=0), (place + _NEIGHBOURS).clamp(max=k - 1)
        nearby = 0.5 * (mean[:, high] - mean[:, low])  # (N, K)
        scale = (spread.square() + (self.least + self.share * nearby).square()).sqrt()
        loc, scale = mean.reshape(1, -1, k, 1), scale.reshape(1, -1, k, 1)
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, scale, validate_args=False)

    @classmethod
    def fit(
        cls, bins: Floats, reference: Tensor, weight: Tensor | None, log_prob: RowLogProb
    ) -> Leaves:
        """Returns the widths that are likeliest where the density is pooled with another.

        Alone it would be made wide by a few rows that are far from all leaves.

        Args:
            bins: (N, 2, K), out of fold.
            reference: (N,) log-likelihood of the rows by the other members of the pool.
            weight: (N,) or None.
            log_prob: log-likelihood of the rows under mixtures of batch (1, N).
        """
        share = torch.ones_like(reference) if weight is None else weight
        share = share / share.sum()
        best, chosen = -math.inf, cls(_LEAST[-1], _SHARES[-1])
        for least in _LEAST:
            for part in _SHARES:
                one = cls(least, part)
                gain = log_prob(one.around(bins)).reshape(-1) - reference
                w = torch.tensor(0.3).double()
                for _ in range(_EM_STEPS):  # of the weight of the leaves
                    w = share @ torch.sigmoid(gain + torch.logit(w, eps=1e-6))
                w = w.clamp(1e-6, 1 - 1e-6)
                total = float(share @ torch.logaddexp(torch.log1p(-w), w.log() + gain))
                if total > best:
                    best, chosen = total, one
        return chosen


@dataclass
class Densities(Saved):
    """The members that are no networks; None where it has no weight in the pool.

    Attributes:
        linear: a linear model of the columns.
        process: distribution of the residuals of the Gaussian process of the base models.
        marginal: the density of y alone.
        forest: widths around the leaves of the randomised trees of the base models.
        each: of several targets those of each one, all of the same kinds with a Gaussian each, and
            nothing else; a member is then the product over the targets.
    """

    linear: Linear | None = None
    process: Residuals | None = None
    marginal: Marginal | None = None
    forest: Leaves | None = None
    each: list[Densities] = field(default_factory=list, metadata={"later": True})

    def __len__(self) -> int:
        return len(self._present)

    @property
    def _present(self) -> list[str]:
        if self.each:
            return self.each[0]._present
        return [f.name for f in fields(self) if getattr(self, f.name)]

    @property
    def is_process(self) -> list[bool]:
        """Of each member, whether its density is that of the Gaussian process."""
        return [name == "process" for name in self._present]

    @property
    def n_components(self) -> int:
        """Number of components of all of them."""
        if self.each:
            return self.each[0].n_components
        parts = (self.linear and self.linear.residuals, self.process, self.marginal)
        return sum(len(part.log_weight) for part in parts if part) + N_BINS * bool(self.forest)

    def only(self, kept: list[bool]) -> Densities:
        """Returns those of the members that are kept."""
        if self.each:
            return replace(self, each=[one.only(kept) for one in self.each])
        dropped = [name for name, keep in zip(self._present, kept, strict=True) if not keep]
        nothing: dict[str, Any] = dict.fromkeys(dropped)
        return replace(self, **nothing)

    def members(
        self, x: Floats, processes: Sequence[Location], leaves: Floats | None
    ) -> list[GaussianMixture]:
        """Returns the density of each member, batch (1, N).

        Args:
            x: (N, P) columns in standard units.
            processes: predictions of the Gaussian process of each target, if there are any.
            leaves: (N, 2, K) bins of the leaves of the randomised trees of the base models.
        """
        if self.each:
            return _products(
                [one.members(x, processes[d : d + 1], None) for d, one in enumerate(self.each)]
            )
        process = processes[0] if processes else None
        found = []
        if self.linear:
            found.append(self.linear.residuals.around(self.linear.predict(x)))
        if self.process and process:
            found.append(self.process.around(process))
        if self.marginal:
            found.append(self.marginal.of_rows(len(x)))
        if self.forest and leaves is not None:
            found.append(self.forest.around(leaves))
        return found


def _products(parts: Sequence[Sequence[GaussianMixture]]) -> list[GaussianMixture]:
    """The members of several targets: products of Gaussians, batch (1, N), one of each target."""
    return [
        GaussianMixture(
            each[0].logits,
            torch.cat([one.loc for one in each], -1),
            torch.cat([one.scale for one in each], -1),
            validate_args=False,
        )
        for each in zip(*parts, strict=True)
    ]


def fit_densities(
    x: Floats,
    y: Floats,
    weight: Floats | None,
    fold: Codes,
    processes: Sequence[Location],
    *,
    is_log: bool,
) -> tuple[Densities, list[GaussianMixture]]:
    """Fits the members to all rows, and once without each fold.

    Args:
        x: (N, P) columns in standard units.
        y: (N, D) targets in standard units.
        weight: (N,) or None.
        fold: (N,) fold that a row is held out with.
        processes: out-of-fold predictions of the Gaussian process of each target, if there are any.
        is_log: y is the logarithm of the target, whose mean a heavy tail would dominate: no tails
            are then heavier than those of a Gaussian, and there is no linear model, which
            extrapolates.

    Returns:
        The members but for the forest, and of each its out-of-fold densities, batch (1, N).
    """
    own = [processes[d] if processes else None for d in range(y.shape[1])]
    if len(own) == 1:
        return _fit_one(x, y[:, 0], weight, fold, own[0], is_log=is_log, is_alone=True)
    each, found = zip(
        *(
            _fit_one(x, target, weight, fold, process, is_log=is_log, is_alone=False)
            for target, process in zip(y.T, own, strict=True)
        ),
        strict=True,
    )
    return Densities(each=list(each)), _products(found)


def _fit_one(
    x: Floats,
    y: Floats,
    weight: Floats | None,
    fold: Codes,
    process: Location | None,
    *,
    is_log: bool,
    is_alone: bool,
) -> tuple[Densities, list[GaussianMixture]]:
    """The members of one target (N,), by Gaussians each where there are others beside it."""
    share = np.ones(len(y)) if weight is None else weight
    gaussian = Residuals(torch.zeros(1).double(), torch.ones(1).double())
    new = Densities()
    found: list[GaussianMixture] = []
    folds = [fold == f for f in range(int(fold.max()) + 1)]
    if not is_log:
        mean, scale = np.empty_like(y), np.empty_like(y)
        for held in folds:
            part = Linear.fit(x[~held], y[~held], share[~held], gaussian)
            mean[held], scale[held] = part.predict(x[held])
        oof = Location(mean, scale)
        residuals = Residuals.fit(oof, y, weight, heavy=is_alone)
        new.linear = Linear.fit(x, y, share, residuals)
        found.append(residuals.around(oof))
    if process is not None:
        new.process = Residuals.fit(process, y, weight, heavy=is_alone and not is_log)
        found.append(new.process.around(process))
    if not is_alone:
        return new, found
    new.marginal = Marginal.fit(y, share)
    parts = [Marginal.fit(y[~held], share[~held]) for held in folds]
    found.append(_by_fold(parts, fold))
    return new, found


def _by_fold(parts: list[Marginal], fold: Codes) -> GaussianMixture:
    """The marginal density without the fold of each row, batch (1, N)."""
    size = max(len(part.log_weight) for part in parts)

    def padded(name: str, value: float) -> Tensor:
        rows = [getattr(part, name) for part in parts]
        filled = [torch.cat([a, a.new_full((size - len(a),), value)]) for a in rows]
        return torch.stack(filled)[torch.as_tensor(fold)].unsqueeze(0)  # (1, N, K)

    logits, loc, scale = padded("log_weight", -100.0), padded("loc", 0.0), padded("scale", 1.0)
    return GaussianMixture(logits, loc.unsqueeze(-1), scale.unsqueeze(-1), validate_args=False)

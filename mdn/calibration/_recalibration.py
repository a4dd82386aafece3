"""Recalibration of Gaussian mixtures whose result is a Gaussian mixture again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from ..distribution import GaussianMixture
from ..prediction import distribution_and_target, predict_distribution
from ..train._optimizers import LBFGS

__all__ = ["Recalibration", "recalibrate"]

Method = Literal["affine", "monotone"]

_LEVEL = 0.01  # chance of changing a calibrated model by the affine step, asymptotically
# What the shape must gain, in nats, is this plus log N.  On calibrated models the 99 % quantile of
# the gain was measured as 8.5, 8.2, 9.4 and 12.5 for N = 50, 200, 1000 and 5000.
_SHAPE_COST = 6.0
# Nats: parameters that the rows do not determine stay at no change.  Its slope falls with the
# distance, so that a change that they do determine is not held back, however large it is.
_RIDGE = 0.5
_QUARTILES_APART = 1.349  # standard deviations between the quartiles of a normal
_TIMES = tuple(4.0**i for i in range(-5, 6))  # factors of the scales to begin from
_PASSES = 60  # of L-BFGS, at most
_FAR = 30.0  # largest log of a factor
# Shifts and scales of the copies that replace a normal, in standard deviations of the component.
_SHIFTS = tuple(0.5 * i for i in range(-5, 6))
_SCALES = tuple(2.0 ** (0.5 * i) for i in range(-2, 5))  # 1/2 to 4
_LEAST_WEIGHT = 1e-3  # of a copy that is kept
_GAP = 1e-3  # nats, over all rows, by which the weights may miss the optimum
_NEWTON_STEPS = 100
_LEAST_STEP = 1e-6
_CHUNK = 1 << 22  # numbers a working array may hold: 32 MiB


@dataclass(frozen=True)
class Recalibration:
    r"""A change of every mixture that a model predicts, fitted to held-out rows.

    In two steps.  **Affine** moves and stretches the components of each mixture, by the same
    numbers for all mixtures; m and s are the mean and standard deviation of the mixture:

    .. math::
        \mu_k' = m + \delta s + \beta\,(\mu_k - m), \qquad \sigma_k' = \alpha\,\sigma_k, \qquad
        \pi_k' \propto \pi_k^\tau

    **Monotone** then replaces each normal component by J copies of it, shifted and stretched, with
    weights that are the same for all components:

    .. math::
        p'(y \mid x) = \sum_j w_j \sum_k \pi_k \,
        \mathcal N\left(y;\; \mu_k + a_j \sigma_k,\; (s_j \sigma_k)^2\right)

    which is a mixture again, of J K components.  The :math:`(a_j, s_j)` lie on a fixed grid
    (shifts to 2.5 and scales from 1/2 to 4 standard deviations), so the log-likelihood of the
    weights is concave and its one maximum is found.  It corrects bias, too small and too large
    spread, skewness and heavy tails.  It is not a map of the PIT alone, :math:`p\,g(F)`, whose
    result would be no mixture.

    Made by :func:`recalibrate` or :meth:`fit`.

    Attributes:
        scale: :math:`\alpha`, (D,), factor of the components' scales.
        spread: :math:`\beta`, (D,), factor of their distances from the mean.
        shift: :math:`\delta`, (D,), in standard deviations of the mixture.
        temperature: :math:`\tau`, power of the weights.
        shape: (J, 3) weight, shift and scale of the copies; (1, 0, 1) alone for no change.
        gain: log-likelihood gained on the rows it was fitted to, nats per row; 0 if unchanged.
    """

    scale: Tensor
    spread: Tensor
    shift: Tensor
    temperature: float
    shape: Tensor
    gain: float

    @classmethod
    def fit(cls, dist: Any, y: Any, method: Method = "affine", *, X: Any = None) -> Recalibration:
        """See :func:`recalibrate`."""
        if method not in ("affine", "monotone"):
            raise ValueError(f'method must be "affine" or "monotone"; got {method!r}')
        dist, target = distribution_and_target(dist, y, X)
        _need_mixture(dist)
        if method == "monotone" and target.shape[1] > 1:
            raise ValueError(
                f'method "monotone" needs one target; got {target.shape[1]}. Take "affine"'
            )
        dist = dist.detach()
        found = _fit_affine(dist, target)
        if method == "monotone":
            # a few far rows may have stretched it so much that the unchanged model is the better
            # start
            starts = [found] if found.is_identity else [found, cls._none(target)]
            shaped = [_fit_shape(start, start._affine(dist), target) for start in starts]
            found = max(shaped, key=lambda candidate: candidate.gain)
        return replace(found, gain=found.gain / len(target))

    @classmethod
    def _none(cls, like: Tensor) -> Recalibration:
        one, zero = torch.ones_like(like[0]), torch.zeros_like(like[0])
        return cls(one, one, zero, 1.0, like.new_tensor([[1.0, 0.0, 1.0]]), 0.0)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.gain == 0

    def apply(self, dist: Any, X: Any = None) -> GaussianMixture:
        """Returns the recalibrated mixtures, of the same batch; differentiable in their parameters.

        Args:
            dist: mixtures of the model it was fitted for, or the model with X.
            X: features, N rows, with a model.

        Raises:
            TypeError: the distribution is not a Gaussian mixture.
            ValueError: another number of targets.
        """
        dist = predict_distribution(dist, X)
        _need_mixture(dist)
        if dist.event_shape[0] != len(self.scale):
            raise ValueError(
                f"dist must have {len(self.scale)} targets, as in the fit; "
                f"got {dist.event_shape[0]}"
            )
        if self.is_identity:
            return dist
        moved = self._affine(dist)
        if not self._has_shape:
            return moved
        shape = self.shape.to(moved.loc)
        copies = _copies(moved, shape[:, 1:])
        logits = shape[:, :1].log() + copies.logits  # (*, J, K)
        loc, scale = (a.flatten(-3, -2) for a in (copies.loc, copies.scale))
        return GaussianMixture(logits.flatten(-2), loc, scale)

    @property
    def _has_shape(self) -> bool:
        return self.shape.tolist() != [[1.0, 0.0, 1.0]]

    def _affine(self, dist: GaussianMixture) -> GaussianMixture:
        scale, spread, shift = (a.to(dist.loc) for a in (self.scale, self.spread, self.shift))
        return _moved(dist, scale, spread, shift, self.temperature)

    def __repr__(self) -> str:
        if self.is_identity:
            return "Recalibration(no change)"

        def text(a: Tensor) -> str:
            return ", ".join(f"{v:.3g}" for v in a.tolist())

        parts = [
            f"{name} {text(value)}"
            for name, value, none in (
                ("scale", self.scale, 1.0),
                ("spread", self.spread, 1.0),
                ("shift", self.shift, 0.0),
                ("temperature", self.scale.new_tensor([self.temperature]), 1.0),
            )
            if bool((value != none).any())
        ]
        parts += [f"shape of {len(self.shape)} normals"] * self._has_shape
        return f"Recalibration({', '.join(parts)}; gains {self.gain:.3f} nats per row)"


def _need_mixture(dist: Any) -> None:
    if not isinstance(dist, GaussianMixture):
        raise TypeError(
            "dist must be a GaussianMixture, whose family is closed under recalibration; "
            f"got {type(dist).__name__}"
        )


def recalibrate(dist: Any, y: Any, method: Method = "affine", *, X: Any = None) -> Recalibration:
    """Fits a recalibration by maximum likelihood; ``.apply(dist)`` returns mixtures again.

    A change is made only if it is significant: the affine step by the likelihood ratio test at 1 %,
    the shape if it gains 6 + log N nats.  So a calibrated model is unchanged with a probability of
    about 99 %, and on the rows of the fit the result is never worse.

    Args:
        dist: Gaussian mixtures of batch (N,), or a model that predicts them, for rows held out of
            the fit.
        y, X: targets of these rows, (N, D), tensor or array, and with a model their features.
        method: "affine", for any number of targets, or "monotone" (D = 1), which adds the shape
            and needs a few hundred rows.

    Raises:
        TypeError: the distribution is not a Gaussian mixture.
        ValueError: another method, several targets for "monotone", or y of another shape.

    Example:
        >>> truth = GaussianMixture(torch.zeros(1), torch.zeros(500, 1, 1), torch.ones(1, 1))
        >>> y = truth.sample(generator=torch.Generator().manual_seed(0))
        >>> recalibrate(truth, y)
        Recalibration(no change)
        >>> narrow = truth.affine(0.0, 0.5)
        >>> found = recalibrate(narrow, y)
        >>> found
        Recalibration(scale 1.9, shift 0.0999; gains 0.672 nats per row)
        >>> found.apply(narrow[0]).stddev
        tensor([0.9510])

    References:
        V. Kuleshov, N. Fenner, S. Ermon, Accurate uncertainties for deep learning using calibrated
        regression, ICML (2018), for the aim; Y. Wang, On fast computation of the non-parametric
        maximum likelihood estimate of a mixing distribution, J. R. Stat. Soc. B 69 (2007), for the
        weights.
    """
    return Recalibration.fit(dist, y, method, X=X)


# -- the affine step ---------------------------------------------------------------------------


def _moved(
    dist: GaussianMixture, scale: Tensor, spread: Tensor, shift: Tensor, temperature: Any
) -> GaussianMixture:
    mean = dist.mean + shift * dist.stddev
    return dist.rescale(scale, spread, mean=mean, weight_power=temperature)


class _Change(NamedTuple):
    """Scale, spread and shift, (D,) each, and temperature."""

    scale: Tensor
    spread: Tensor
    shift: Tensor
    temperature: Tensor

    def moved(self, theta: Tensor) -> _Change:
        """Changed by theta (3 D + 1): logs of three factors, and the shift in unit of the scale."""
        d = len(self.scale)
        factor = theta.clamp(-_FAR, _FAR).exp()  # a line search may try anything
        return _Change(
            self.scale * factor[:d],
            self.spread * factor[d : 2 * d],
            self.shift + self.scale * theta[2 * d : -1],
            self.temperature * factor[-1],
        )

    def loss(self, dist: GaussianMixture, y: Tensor) -> Tensor:
        """Minus the log-likelihood of all rows, plus the ridge."""
        logs = torch.stack([self.scale, self.spread]).log(), self.temperature.log()
        ridge = sum(a.square().log1p().sum() for a in (*logs, self.shift / self.scale))
        scale, spread, shift, temperature = self
        return _RIDGE * ridge - _moved(dist, scale, spread, shift, temperature).log_prob(y).sum()


def _fit_affine(dist: GaussianMixture, y: Tensor) -> Recalibration:
    """The affine step, with its gain over all rows."""
    d, none = y.shape[1], Recalibration._none(y)
    dist, y = dist.to(torch.float64), y.double()
    before = dist.log_prob(y).sum()
    with torch.no_grad():
        start = min(_starts(dist, y), key=lambda change: float(change.loss(dist, y)))
    # the second time in the units of where the first one ended
    found = _improved(_improved(start, dist, y), dist, y)
    with torch.no_grad():
        gain = float(_moved(dist, *found).log_prob(y).sum() - before)
    free = 2 * d if dist.n_components == 1 else 3 * d + 1
    finite = all(bool(a.isfinite().all()) for a in found)
    if not finite or not gain > 0.5 * stats.chi2.isf(_LEVEL, free):
        return none
    scale, spread, shift = (a.to(none.scale) for a in found[:3])
    return Recalibration(scale, spread, shift, float(found.temperature), none.shape, gain)


def _improved(change: _Change, dist: GaussianMixture, y: Tensor) -> _Change:
    """The change at the minimum of the loss, by L-BFGS in directions of about equal curvature."""
    theta = y.new_zeros(3 * y.shape[1] + 1, requires_grad=True)
    with torch.enable_grad():
        loss = change.moved(theta).loss(dist, y)
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        rows = [torch.autograd.grad(a, theta, retain_graph=True)[0] for a in slope]
    curvature, directions = torch.linalg.eigh(torch.stack(rows).nan_to_num(0.0, 0.0, 0.0))
    directions = directions * curvature.abs().clamp(min=1.0).rsqrt()
    u = torch.zeros_like(theta, requires_grad=True)
    optimizer = LBFGS([u], max_iter=_PASSES, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = change.moved(directions @ u).loss(dist, y)
            loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return change.moved(directions @ u)


def _starts(dist: GaussianMixture, y: Tensor) -> Iterator[_Change]:
    """Changes to begin from: none, and those of the moments and of the quartiles of (y - m) / s.

    Of one component in one dimension the moments are the maximum itself, however far it is.  Of
    several the scales are changed as that of the whole mixture, or by another factor from a grid.
    """
    one = torch.ones_like(y[0])
    temperature = torch.ones_like(y[0, 0])
    z = (y - dist.mean) / dist.stddev  # (N, D)
    quartiles = np.quantile(z.cpu().numpy(), [0.25, 0.5, 0.75], axis=0)
    low, middle, high = torch.as_tensor(quartiles, device=y.device)
    wide = z.std(0, correction=0)
    for centre, width in (
        (torch.zeros_like(one), one),
        (z.mean(0), wide),
        (middle, (high - low) / _QUARTILES_APART),
    ):
        width = torch.where(width > 0, width, one)
        if dist.n_components == 1:
            yield _Change(width, one, centre, temperature)
            continue
        for times in _TIMES:
            yield _Change(times * width, width, centre, temperature)


# -- the shape ---------------------------------------------------------------------------------


@torch.no_grad()
def _fit_shape(start: Recalibration, dist: GaussianMixture, y: Tensor) -> Recalibration:
    """The affine step and the shape of what it made of the mixtures, with the gain of both."""
    grid = torch.cartesian_prod(y.new_tensor(_SHIFTS), y.new_tensor(_SCALES))  # (J, 2)
    step = max(1, _CHUNK // (len(grid) * dist.n_components))
    rows = (slice(i, i + step) for i in range(0, len(y), step))
    terms = torch.cat([_copies(dist[i], grid).log_prob(y[i].unsqueeze(1)) for i in rows])  # (N, J)
    ratio = (terms - dist.log_prob(y).unsqueeze(1)).clamp(max=600).exp()  # p_j / p
    w = _weights(ratio)
    kept = w > _LEAST_WEIGHT
    grid, ratio, w = grid[kept], ratio[:, kept], w[kept] / w[kept].sum()
    gain = float((ratio @ w).log().sum())
    if not gain > _SHAPE_COST + math.log(len(y)):
        return start
    return replace(start, shape=torch.cat([w.unsqueeze(1), grid], 1), gain=start.gain + gain)


def _copies(dist: GaussianMixture, grid: Tensor) -> GaussianMixture:
    """The mixtures with every component shifted and stretched as in the grid (J, 2); (*, J)."""
    a, s = grid[:, :, None, None].unbind(1)  # (J, 1, 1)
    size = dist.scale.unsqueeze(-3)  # (*, 1, K, 1)
    return GaussianMixture(dist.logits.unsqueeze(-2), dist.loc.unsqueeze(-3) + a * size, s * size)


def _weights(ratio: Tensor) -> Tensor:
    r"""Maximum of :math:`f(w) = \sum_n \log (R w)_n` over weights w (J,), most of them 0.

    Newton steps: with :math:`S_{nj} = R_{nj} / (R w)_n` the next w minimises
    :math:`\|S w - 2\|^2` among weights, which is a problem of non-negative least squares for
    :math:`S - 2`, whose columns are taken to their triangular factor first.  As f is concave, N
    times the largest excess of the slopes over 1 bounds the distance from the maximum.
    """
    r = ratio.cpu().numpy()
    n, j = r.shape
    w = np.full(j, 1 / j)
    value = np.log(r @ w).sum()
    for _ in range(_NEWTON_STEPS):
        s = r / (r @ w)[:, None]  # (N, J)
        if n * (s.mean(0).max() - 1) < _GAP:
            break
        factor = np.linalg.qr(s - 2.0, mode="r")
        target = optimize.nnls(
            np.vstack([factor, np.ones((1, j))]), np.append(np.zeros(len(factor)), 1.0)
        )[0]
        step = target / target.sum() - w
        size = 1.0
        while size > _LEAST_STEP:
            new = w + size * step
            better = np.log(r @ new).sum() if (r @ new > 0).all() else -np.inf
            if better > value:
                break
            size *= 0.5
        else:
            break
        w, value = new, better
    return torch.from_numpy(w).to(ratio)

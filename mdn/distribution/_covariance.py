"""Covariances of the components: diagonal, full by either factor, low rank plus diagonal.

Each kind has the same methods, so that GaussianMixture does not depend on which it is.
Shapes: (*, K, ...) with * the batch, K components and D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from ..functional._checks import check_entries
from ..functional._diagonal import (
    diagonal_log_prob,
    log_responsibilities,
    log_weights,
)
from ..functional._full import (
    known_terms,
    low_rank_log_prob,
    packed_log_prob,
    precision_log_prob,
    unpacked,
    whitened_log_prob,
)
from ..functional._numerics import HALF_LOG_2PI, result_dtype, work_dtype

__all__ = ["Covariance", "Diagonal", "Full", "LowRank", "Packed", "Precision"]


class Covariance:
    """The covariances of the components of a mixture.

    Attributes:
        kind: what the user knows it as.
        tensors: the parameters, each (*, K, ...), in the order of the constructor.
    """

    kind = "full"
    names: tuple[str, ...] = ()
    events: tuple[int, ...] = ()  # axes behind K of each parameter

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def map(self, f: Callable[[Tensor, int], Tensor]) -> Covariance:
        """The same kind with f(tensor, axes behind the batch) applied to each parameter."""
        return type(self)(*(f(a, e + 1) for a, e in zip(self.tensors, self.events, strict=True)))

    def public(self) -> Covariance:
        """The same as an argument of the constructor has it."""
        return self

    def aligned(self, loc: Tensor) -> Covariance:
        """With as many leading axes as loc."""
        return self.map(lambda a, e: a[(None,) * (loc.ndim - 2 - (a.ndim - e))])

    def matrix(self) -> Tensor:
        """Covariance of each component, (*, K, D, D)."""
        root = self.root()
        return root @ root.mT

    def scale(self) -> Tensor:
        """Standard deviation of each component in each dimension, (*, K, D)."""
        return torch.linalg.vector_norm(self.root(), dim=-1)

    def root(self) -> Tensor:
        """Lower triangular factor, (*, K, D, D)."""
        raise TypeError(f"{type(self).__name__} has no factor")  # every kind below has one

    def affine(self, c: Tensor) -> Covariance:
        """The covariance of c * y, c broadcast to (*, K, D)."""
        return Full(_signed(c.unsqueeze(-1) * self.root()))

    def linear(self, matrix: Tensor) -> Covariance:
        """The covariance of A y, A (D, D)."""
        return Full(_triangular(matrix @ self.any_root()))

    def least_scale(self) -> Tensor:
        """Smallest standard deviation of a dimension, given others by a factor, (*, K, 1)."""
        return self.root().diagonal(dim1=-2, dim2=-1).amin(-1, keepdim=True)

    def marginal(self, dims: Sequence[int]) -> Covariance:
        """The covariance of some dimensions."""
        return Full(_triangular(self.root()[..., list(dims), :]))

    def condition(
        self, known: Sequence[int], rest: Sequence[int], gap: Tensor
    ) -> tuple[Tensor, Covariance]:
        """Mean shift (*, K, len(rest)) and covariance of the rest, known lying ``gap`` off.

        With the known dimensions first, the lower right block of the triangular factor is the
        factor of the conditional covariance: nothing is subtracted.
        """
        n = len(known)
        root = _triangular(self.root()[..., [*known, *rest], :])
        z = _solve(root[..., :n, :n], gap)
        return _apply(root[..., n:, :n], z.to(root.dtype)), Full(root[..., n:, n:])

    def terms(self, y: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened y - loc, (*, K, D), and minus half the log determinant, (*, K)."""
        root = self.root()
        return _solve(root, y.unsqueeze(-2) - loc), -_log_diagonal(root)

    def log_prob(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        """Log density of the mixture, (*)."""
        dtype = result_dtype(y, logits, loc, *self.tensors)
        work = work_dtype(dtype)
        like = self.aligned(loc).map(lambda a, e: a.to(work))
        z, half_log_det = like.terms(y.to(work), loc.to(work))
        return whitened_log_prob(z, half_log_det, logits.to(work)).to(dtype)

    def log_prob_of_known(self, y: Tensor, known: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        """Log density of the known dimensions, (*), of y and known (*, D); in float64."""
        like = self.aligned(loc).map(lambda a, e: a.double())
        gap = torch.where(known.unsqueeze(-2), y.double().unsqueeze(-2) - loc.double(), 0.0)
        z, half_log_det = known_terms(gap, like.any_root(), known.unsqueeze(-2))
        value = whitened_log_prob(z, half_log_det, logits.double())
        return value + (~known).sum(-1).to(value.dtype) * HALF_LOG_2PI

    def any_root(self) -> Tensor:
        """A factor A (*, K, D, R), R >= D, of any form: covariance = A A'."""
        return self.root()

    def log_responsibilities(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        """Log posterior of the components, (*, K)."""
        dtype = result_dtype(y, logits, loc, *self.tensors)
        like = self.aligned(loc).map(lambda a, e: a.double())
        z, half_log_det = like.terms(y.double(), loc.double())
        t = log_weights(logits.double()) + half_log_det - 0.5 * z.square().sum(-1)
        return torch.log_softmax(t, -1).to(dtype)

    def lower(self) -> Covariance:
        """Triangular factors without what stands above their diagonal, so it gets no gradient."""
        return self

    def check(self) -> None:
        """Raises ValueError where a value is out of its range, naming the first."""
        for name, a, e in zip(self.names, self.tensors, self.events, strict=True):
            if e == 2 and name != "cov_factor":
                diagonal = a.diagonal(dim1=-2, dim2=-1)
                check_entries(
                    name,
                    diagonal,
                    (diagonal > 0) & (diagonal < math.inf),
                    "have a positive and finite diagonal (a singular factor has no density)",
                )
                upper = a.triu(1)
                check_entries(name, upper, upper == 0, "be lower triangular (0 above the diagonal)")
                check_entries(name, a, a.isfinite(), "be finite")
            elif name == "cov_factor":
                check_entries(name, a, a.isfinite(), "be finite")
            else:
                check_entries(name, a, (a > 0) & (a < math.inf), "be positive and finite")


class Diagonal(Covariance):
    """Independent dimensions: ``scale`` (*, K, D)."""

    kind = "diagonal"
    names = ("scale",)
    events = (1,)

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.tensors[0].square())

    def scale(self) -> Tensor:
        return self.tensors[0]

    def root(self) -> Tensor:
        return torch.diag_embed(self.tensors[0])

    def affine(self, c: Tensor) -> Covariance:
        return Diagonal(c.abs() * self.tensors[0])

    def marginal(self, dims: Sequence[int]) -> Covariance:
        return Diagonal(self.tensors[0][..., list(dims)])

    def condition(
        self, known: Sequence[int], rest: Sequence[int], gap: Tensor
    ) -> tuple[Tensor, Covariance]:
        return gap.new_zeros(()), self.marginal(rest)

    def terms(self, y: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        return (y.unsqueeze(-2) - loc) / self.tensors[0], -self.tensors[0].log().sum(-1)

    def log_prob(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        return diagonal_log_prob(y, logits, loc, self.aligned(loc).tensors[0], log=False)

    def log_prob_of_known(self, y: Tensor, known: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        # a standard normal dimension at its mean, whose constant is taken off again
        loc, scale = (
            torch.where(known.unsqueeze(-2), a, neutral)
            for a, neutral in ((loc, 0.0), (self.aligned(loc).tensors[0], 1.0))
        )
        value = diagonal_log_prob(y, logits, loc, scale, log=False)
        return value + (~known).sum(-1).to(value.dtype) * HALF_LOG_2PI

    def log_responsibilities(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        return log_responsibilities(y, logits, loc, self.aligned(loc).tensors[0])


class Full(Covariance):
    """Full by ``scale_tril`` (*, K, D, D), lower triangular: covariance = S S'."""

    names = ("scale_tril",)
    events = (2,)

    def root(self) -> Tensor:
        return self.tensors[0]

    def lower(self) -> Covariance:
        return Full(self.tensors[0].tril())


class Precision(Covariance):
    """Full by ``precision_tril`` (*, K, D, D), lower triangular: precision = P P'.

    The likelihood needs one product, y -> P'(y - loc), and no triangular system.
    """

    names = ("precision_tril",)
    events = (2,)

    def root(self) -> Tensor:
        return _triangular(self.any_root()).to(self.tensors[0].dtype)

    def any_root(self) -> Tensor:
        p = self.tensors[0].to(work_dtype(self.tensors[0].dtype))
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device).expand_as(p)
        return solve_triangular(p.mT, eye, upper=True)  # upper triangular

    def lower(self) -> Covariance:
        return Precision(self.tensors[0].tril())

    def affine(self, c: Tensor) -> Covariance:
        return Precision(_signed(self.tensors[0] / c.unsqueeze(-1)))

    def least_scale(self) -> Tensor:
        return self.tensors[0].diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True).reciprocal()

    def terms(self, y: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        gap = y.unsqueeze(-2) - loc
        z = (gap.unsqueeze(-2) @ self.tensors[0]).squeeze(-2)  # (P'd)' = d'P
        return z, _log_diagonal(self.tensors[0])

    def log_prob(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        return precision_log_prob(y, logits, loc, self.aligned(loc).tensors[0])


class Packed(Covariance):
    """A precision factor as a head makes it: U diag(p), U unit lower triangular.

    ``precision`` p (*, K, D) and ``lower`` (*, K, T), the entries below the diagonal by columns.
    The likelihood and a change of unit work on these; all else on the factor itself.
    """

    names = ("precision", "lower")
    events = (1, 1)

    def public(self) -> Covariance:
        return Precision(unpacked(*self.tensors))

    def root(self) -> Tensor:
        return self.public().root()

    def any_root(self) -> Tensor:
        return self.public().any_root()

    def least_scale(self) -> Tensor:
        return self.tensors[0].amax(-1, keepdim=True).reciprocal()

    def terms(self, y: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        return self.public().terms(y, loc)

    def affine(self, c: Tensor) -> Covariance:
        precision, lower = self.tensors
        dims = precision.shape[-1]
        column, row = torch.triu_indices(dims, dims, 1, device=c.device)
        return Packed(precision / c.abs(), lower * (c[..., column] / c[..., row]))

    def log_prob(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        return packed_log_prob(y, logits, loc, *self.aligned(loc).tensors)


class LowRank(Covariance):
    """``cov_factor`` (*, K, D, R) and ``cov_diag`` (*, K, D): covariance = F F' + diag."""

    kind = "low_rank"
    names = ("cov_factor", "cov_diag")
    events = (2, 1)

    def matrix(self) -> Tensor:
        factor, diagonal = self.tensors
        return factor @ factor.mT + torch.diag_embed(diagonal)

    def scale(self) -> Tensor:
        dtype = result_dtype(*self.tensors)
        factor, diagonal = (a.to(work_dtype(dtype)) for a in self.tensors)
        return (factor.square().sum(-1) + diagonal).sqrt().to(dtype)

    def root(self) -> Tensor:
        return _triangular(self.any_root())

    def any_root(self) -> Tensor:
        factor, diagonal = self.tensors  # F F' + diag = [F, diag^1/2] [F, diag^1/2]'
        return torch.cat([factor, torch.diag_embed(diagonal.sqrt())], -1)

    def least_scale(self) -> Tensor:
        return self.tensors[1].amin(-1, keepdim=True).sqrt()

    def affine(self, c: Tensor) -> Covariance:
        factor, diagonal = self.tensors
        return LowRank(c.unsqueeze(-1) * factor, c.square() * diagonal)

    def marginal(self, dims: Sequence[int]) -> Covariance:
        factor, diagonal = self.tensors
        return LowRank(factor[..., list(dims), :], diagonal[..., list(dims)])

    def log_prob(self, y: Tensor, logits: Tensor, loc: Tensor) -> Tensor:
        args = (y, logits, loc, *self.aligned(loc).tensors)
        return low_rank_log_prob(*(a.double() for a in args)).to(result_dtype(*args))


def joined(parts: Sequence[Covariance], axis: int) -> Covariance:
    """The covariances of several mixtures, concatenated.

    Args:
        parts: alike in every axis but that one.
        axis: 0 for that of the components, 1 for the last one of the batch, 2 for that before it.
    """
    kinds = {
        (type(p), *(a.shape[a.ndim - e :] for a, e in zip(p.tensors, p.events, strict=True)))
        for p in parts
    }
    if len(kinds) == 1:
        columns = zip(*(p.tensors for p in parts), strict=True)
        tensors = [
            torch.cat(c, -1 - e - axis) for c, e in zip(columns, parts[0].events, strict=True)
        ]
        return type(parts[0])(*tensors)
    return Full(torch.cat([p.root() for p in parts], -3 - axis))


# ---------------------------------------------------------------------------------------------


def _solve(root: Tensor, gap: Tensor) -> Tensor:
    """root^-1 gap; where gaps outnumber factors, by the inverse, so that nothing is copied."""
    dtype = gap.dtype
    root, gap = (a.to(work_dtype(dtype)) for a in (root, gap))
    if gap.shape[:-1].numel() > root.shape[:-2].numel():
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device).expand_as(root)
        return _apply(solve_triangular(root, eye, upper=False), gap).to(dtype)
    return solve_triangular(root, gap.unsqueeze(-1), upper=False).squeeze(-1).to(dtype)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _log_diagonal(root: Tensor) -> Tensor:
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _triangular(root: Tensor) -> Tensor:
    """Lower triangular L with L L' = root root', by QR: the condition is not squared."""
    wide = root.to(work_dtype(root.dtype))
    return _signed(torch.linalg.qr(wide.mT).R.mT).to(root.dtype)  # mode "r" has no derivative


def _signed(root: Tensor) -> Tensor:
    """The same factor with a positive diagonal."""
    return root * root.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)

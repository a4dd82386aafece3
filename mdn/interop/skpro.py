"""skpro: :class:`mdn.MDNRegressor` as one of its probabilistic regressors, with an exact CRPS."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distribution import GaussianMixture
from ..estimator import MDNRegressor
from ..functional._crps import mean_abs

try:
    from skpro.distributions.base import BaseDistribution
    from skpro.regression.base import BaseProbaRegressor
except ImportError as error:
    raise ImportError(
        'mdn.interop.skpro needs skpro; install it with: pip install "mdn[skpro]"'
    ) from error

__all__ = ["MDNProbaRegressor", "MixtureDistribution"]


class MDNProbaRegressor(BaseProbaRegressor):
    """Probabilistic regressor of skpro around an :class:`mdn.MDNRegressor`.

    All that skpro asks for (``predict``, ``predict_interval``, ``predict_quantiles``,
    ``predict_var``) comes from the distribution of ``predict_proba``, by closed forms.

    Args:
        regressor: its parameters count, it is not fitted itself; None for ``MDNRegressor()``.
            skpro's tuners reach a parameter of it as ``regressor__n_components``.

    Attributes:
        regressor_: the fitted :class:`mdn.MDNRegressor`; its ``predict_distribution`` gives the
            joint density of several targets.

    Example:
        >>> from mdn import MDNRegressor
        >>> from mdn.datasets import load_old_faithful
        >>> from mdn.interop.skpro import MDNProbaRegressor
        >>> X, y = load_old_faithful()[:2]
        >>> regressor = MDNRegressor(preset="fast", min_scale=0.05, random_state=0)
        >>> model = MDNProbaRegressor(regressor).fit(X, y)
        >>> dist = model.predict_proba(X[:3])
        >>> dist.shape, dist.mixture.batch_shape
        ((3, 1), torch.Size([3]))
        >>> model.predict_interval(X[:3], coverage=0.9).shape
        (3, 2)
    """

    _tags = {  # noqa: RUF012 (skpro reads a plain dict)
        "capability:multioutput": True,
        "X_inner_mtype": "pd_DataFrame_Table",
        "y_inner_mtype": "pd_DataFrame_Table",
    }

    def __init__(self, regressor: MDNRegressor | None = None) -> None:
        self.regressor = regressor
        super().__init__()

    def _fit(self, X: pd.DataFrame, y: pd.DataFrame, C: Any = None) -> MDNProbaRegressor:
        template = MDNRegressor() if self.regressor is None else self.regressor
        fresh = type(template)(**template.get_params(deep=False))
        targets = y.to_numpy()
        self.regressor_ = fresh.fit(_named(X), targets[:, 0] if targets.shape[1] == 1 else targets)
        self._columns = y.columns
        return self

    def _predict_proba(self, X: pd.DataFrame) -> MixtureDistribution:
        mixture = self.regressor_.predict_distribution(_named(X))
        return MixtureDistribution(mixture, index=X.index, columns=self._columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Settings with which skpro's checks take seconds."""
        small: dict[str, Any] = {
            "n_components": 2,
            "hidden": (8,),
            "max_epochs": 3,
            "ensemble_size": 1,
            "trees": False,
            "random_state": 0,
        }
        return [
            {"regressor": MDNRegressor(**small)},
            {"regressor": MDNRegressor(**{**small, "covariance_type": "full"})},
        ]


class MixtureDistribution(BaseDistribution):
    r"""A batch of Gaussian mixtures as a distribution of skpro, N rows by D columns.

    As everywhere in skpro, ``pdf``, ``cdf``, ``ppf``, ``mean`` and ``var`` are of each entry's own
    marginal.  ``sample`` draws the D columns of a row together, from the joint mixture, which
    ``mixture`` keeps whole.  The energies are exact, hence the CRPS of ``skpro.metrics.CRPS``:

    .. math::
        E|Y - x| = \sum_k \pi_k\, \sigma_k \left[ z_k\,(2\Phi(z_k) - 1) + 2\varphi(z_k) \right],
        \quad z_k = (x - \mu_k) / \sigma_k

    .. math::
        E|Y - Y'| = 2\,\big( E|Y - m| - \mathrm{CRPS}(m) \big) \quad\text{for any } m

    Args:
        mixture: batch (N,), event (D,); batch () and D = 1 for a single number's distribution.
        index: of the N rows; 0 to N - 1 if None.
        columns: names of the D columns; 0 to D - 1 if None.

    Raises:
        TypeError: mixture is not a :class:`mdn.GaussianMixture`.
        ValueError: it has another shape, or index or columns another length.

    Example:
        >>> import torch
        >>> from mdn import GaussianMixture
        >>> from mdn.interop.skpro import MixtureDistribution
        >>> logits, loc = torch.zeros(1, 2), torch.tensor([[[-1.0], [1.0]]])
        >>> mixture = GaussianMixture(logits, loc, torch.full_like(loc, 0.5))
        >>> dist = MixtureDistribution(mixture, columns=["y"])
        >>> dist.mean()
             y
        0  0.0
        >>> crps = dist.energy([[0.0]]) - dist.energy() / 2  # what skpro.metrics.CRPS computes
        >>> print(crps.round(4).iloc[0, 0], mixture.crps(torch.zeros(1, 1)))
        0.3672 tensor([0.3672])
    """

    _tags = {  # noqa: RUF012
        "capabilities:exact": ["mean", "var", "energy", "pdf", "log_pdf", "cdf", "ppf"],
        "capabilities:approx": ["pdfnorm"],
        "distr:measuretype": "continuous",
        "distr:paramtype": "composite",
    }

    def __init__(
        self,
        mixture: GaussianMixture,
        index: Sequence[Hashable] | None = None,
        columns: Sequence[Hashable] | None = None,
    ) -> None:
        if not isinstance(mixture, GaussianMixture):
            raise TypeError(f"mixture must be a GaussianMixture; got {type(mixture).__name__}")
        shape = (*mixture.batch_shape, *mixture.event_shape)
        scalar = shape == (1,) and index is None and columns is None
        if not scalar:
            if len(shape) != 2:
                raise ValueError(
                    "mixture must have batch shape (N,), or () with one target and neither index "
                    f"nor columns; got {tuple(mixture.batch_shape)} and event shape "
                    f"{tuple(mixture.event_shape)}"
                )
            index = pd.RangeIndex(shape[0]) if index is None else index
            columns = pd.RangeIndex(shape[1]) if columns is None else columns
            for name, labels, n in (("index", index, shape[0]), ("columns", columns, shape[1])):
                if len(labels) != n:
                    raise ValueError(f"{name} must have {n} labels; got {len(labels)}")
        self.mixture = mixture
        super().__init__(index=index, columns=columns)

    # -- by entry -----------------------------------------------------------------------------

    def _each(
        self,
        what: Callable[[GaussianMixture, Tensor], Tensor],
        at: NDArray[np.floating[Any]] | float = 0.0,
    ) -> NDArray[np.float64]:
        """what(marginal, values (*, 1)) -> (*) for each column, in the shape of the whole."""
        values = torch.tensor(
            np.broadcast_to(np.asarray(at, np.float64), self.shape or (1,)),
            device=self.mixture.loc.device,
        )
        columns = [
            what(self.mixture.marginal(d), values[..., d : d + 1])
            for d in range(self.mixture.event_shape[0])
        ]
        return torch.stack(columns, -1).double().detach().cpu().numpy().reshape(self.shape)

    def _mean(self) -> NDArray[np.float64]:
        return self._each(lambda m, _: m.mean[..., 0])

    def _var(self) -> NDArray[np.float64]:
        return self._each(lambda m, _: m.variance[..., 0])

    def _pdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(self._log_pdf(x))

    def _log_pdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._each(lambda m, v: m.log_prob(v), x)

    def _cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._each(lambda m, v: m.cdf(v), x)

    def _surv(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        # not 1 - cdf, which has no digit left in the upper tail
        return self._each(lambda m, v: m.log_sf(v).exp(), x)

    def _ppf(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._each(lambda m, v: m.icdf(v[..., 0])[..., 0], p)

    def pdfnorm(self, a: float = 2) -> Any:
        """Integral of the pdf to the power a, by entry; a closed form for a = 2."""
        if a != 2:
            return super().pdfnorm(a)
        return self._boilerplate("_squared_norm")

    def _squared_norm(self) -> NDArray[np.float64]:
        return self._each(lambda m, _: m.squared_norm())

    # -- by row -------------------------------------------------------------------------------

    def _energy_x(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        # skpro's distance between rows is the sum over columns, so the marginals are enough
        return self._row_sum(self._each(_mean_distance, x))

    def _energy_self(self) -> NDArray[np.float64]:
        def spread(m: GaussianMixture, _: Tensor) -> Tensor:
            return 2.0 * (_mean_distance(m, m.mean) - m.crps(m.mean))

        return self._row_sum(self._each(spread))

    def _row_sum(self, a: NDArray[np.float64]) -> NDArray[np.float64]:
        return a.sum(-1, keepdims=True) if a.ndim else a

    def _sample(self, n_samples: int | None = None) -> Any:
        # skpro's distributions draw from NumPy's global generator, so np.random.seed repeats them
        generator = torch.Generator(self.mixture.loc.device)
        generator.manual_seed(int(np.random.randint(2**31 - 1)))
        n = 1 if n_samples is None else n_samples
        draws = self.mixture.sample((n,), generator=generator).double().cpu().numpy()
        if not self.shape:
            return draws[0, 0] if n_samples is None else pd.DataFrame(draws)
        if n_samples is None:
            return pd.DataFrame(draws[0], index=self.index, columns=self.columns)
        draw, row = np.indices((n, len(self))).reshape(2, -1)
        levels = [self.index.get_level_values(i) for i in range(self.index.nlevels)]
        index = pd.MultiIndex.from_arrays(
            [draw, *(level.take(row) for level in levels)], names=[None, *self.index.names]
        )
        return pd.DataFrame(draws.reshape(len(row), -1), index=index, columns=self.columns)

    # -- rows and columns ---------------------------------------------------------------------

    def _iloc(self, rowidx: Any = None, colidx: Any = None) -> MixtureDistribution:
        if np.isscalar(rowidx) and np.isscalar(colidx):
            return self._iat(rowidx, colidx)
        rows, columns = (
            np.atleast_1d(np.arange(n)[slice(None) if where is None else where])
            for n, where in zip(self.shape, (rowidx, colidx), strict=True)
        )
        part = self.mixture[torch.as_tensor(rows)]
        if colidx is not None:
            part = part.marginal(columns.tolist())
        return MixtureDistribution(part, self.index[rows], self.columns[columns])

    def _iat(self, rowidx: Any = None, colidx: Any = None) -> MixtureDistribution:
        return MixtureDistribution(self.mixture[int(rowidx)].marginal(int(colidx)))

    def _get_indexer_like_pandas(self, index: pd.Index, keys: Any) -> NDArray[np.intp]:
        found = super()._get_indexer_like_pandas(index, keys)
        if (found < 0).any():  # pandas' sign of a missing label, which would take the last row
            raise KeyError(f"{int((found < 0).sum())} of the labels asked for are not in {index}")
        return found

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Examples for skpro's checks: three rows by two columns, and a single number's."""
        g = torch.Generator().manual_seed(0)
        logits, loc, root = (
            torch.randn(3, 2, *s, generator=g).double() for s in ((), (2,), (2, 2))
        )
        several = GaussianMixture(logits, loc, scale_tril=root.tril(-1) + 0.5 * torch.eye(2))
        return [
            {"mixture": several, "index": pd.Index([1, 2, 5]), "columns": pd.Index(["a", "b"])},
            {"mixture": several},
            {"mixture": several[0].marginal(1)},
        ]


def _named(X: pd.DataFrame) -> pd.DataFrame:
    """X without names that scikit-learn refuses, strings among others; skpro has checked them."""
    mixed = len({isinstance(name, str) for name in X.columns}) > 1
    return X.set_axis(range(X.shape[1]), axis=1) if mixed else X


def _mean_distance(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """E|Y - x|, (*); D = 1, x is (*, 1)."""
    each = mean_abs(x.unsqueeze(-2) - mixture.loc, mixture.scale).squeeze(-1)  # (*, K)
    return (mixture.weights * each).sum(-1)

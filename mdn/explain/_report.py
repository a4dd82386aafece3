"""``explain_nll`` and the report that it returns: text, dict, HTML, figure."""

from __future__ import annotations

import html
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributions import Distribution

from ._calibration import calibration, gap, outliers
from ._components import health
from ._evaluation import Evaluation, evaluate, to_latent
from ._resolution import find_grid
from ._sections import sections
from ._sign import sign
from ._unit import unit
from ._verdict import judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NLLReport", "explain_nll"]

_WIDTH = 96  # columns of the text
_LABEL_WIDTH = 30  # columns of the labels


class NLLReport:
    """The result of :func:`explain_nll`; prints as text, and as HTML in a notebook.

    Attributes:
        verdict: one line that begins with ``fine``, ``suspicious``, ``collapse``, ``overfitting``,
            ``not meaningful`` or ``misspecified``, a colon and the reason.
        remedy: what to do about it.
        remarks: further sentences.
        sign: dict; in numbers of these rows, that a density is not a probability.
        unit: dict; the loss in other units, and gains in nats and bits, which have no unit.
        floor: dict; the lowest possible loss, and the resolution of y.
        health: dict; of the components, and the rows whose loss dominates.
        fit: dict; held-out against training loss, and calibration.
    """

    def __init__(
        self, parts: dict[str, Any], evaluation: Evaluation, train: Evaluation | None
    ) -> None:
        self.sign, self.unit, self.floor = parts["sign"], parts["unit"], parts["floor"]
        self.health, self.fit = parts["health"], parts["fit"]
        self.verdict, self.remedy, self.remarks = judge(parts)
        self._evaluation, self._train = evaluation, train

    @property
    def word(self) -> str:
        """The verdict without its reason, such as ``"fine"``."""
        return self.verdict.split(":")[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes and ``word`` as for JSON, which has None for what is infinite."""
        names = ("verdict", "word", "remedy", "remarks", "sign", "unit", "floor", "health", "fit")
        return {name: _json_value(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        lines = [_wrapped("Verdict", self.verdict), _wrapped("Remedy", self.remedy)]
        lines += [_wrapped("Remark", remark) for remark in self.remarks]
        for title, entries in sections(self.to_dict()):
            lines += ["", title, *(_wrapped(f"  {label}", value) for label, value in entries)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Returns the same as HTML tables: no script, nothing external, all text escaped."""
        cell = "padding:2px 12px 2px 0;text-align:left;vertical-align:top"
        out = [
            '<div style="font-family:sans-serif;max-width:60em">',
            f"<p><b>{html.escape(self.verdict)}</b><br>{html.escape(self.remedy)}</p>",
        ]
        if self.remarks:
            items = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks)
            out.append(f"<ul>{items}</ul>")
        for title, entries in sections(self.to_dict()):
            out.append(f"<h4>{html.escape(title)}</h4><table>")
            out += [
                f'<tr><th style="{cell};font-weight:normal;color:#555;white-space:nowrap">'
                f'{html.escape(label)}</th><td style="{cell}">{html.escape(value)}</td></tr>'
                for label, value in entries
            ]
            out.append("</table>")
        return "\n".join([*out, "</div>"])

    def plot(self) -> Figure:
        """Draws a figure of up to four panels: the sharpest density, losses, scales, gains."""
        from ._figure import figure

        return figure(self, self._evaluation, self._train)


def explain_nll(
    model_or_distribution: Any, X: Any = None, y: Any = None, *, train: Any = None
) -> NLLReport:
    r"""Explains a loss: why it may be negative, and whether the density can be trusted.

    A density is probability per unit of y.  Where y varies by less than a unit it exceeds 1, and
    :math:`-\log p` is negative; :math:`\text{NLL}(c\,y) = \text{NLL}(y) + D \log|c|`.  So the sign
    says nothing, and the report turns to what does: gains over simpler densities, the scale floor
    and the resolution of y, the components, held-out against training loss, calibration, a verdict.

    The verdict is the first that applies of ``misspecified`` (the density is 0 at a row, or the
    logits of a classifier are probabilities), ``not meaningful`` (y is discrete, or the density is
    concentrated on its grid), ``collapse`` and ``overfitting`` (need ``train``; an
    :class:`mdn.MDNRegressor` is compared with the rows that it held out itself), ``suspicious``
    (scales at the floor, components on single rows), ``misspecified`` (miscalibrated, or worse than
    ignoring x), ``suspicious`` (a few rows dominate the loss) and ``fine``.  More components than
    are used do not change the verdict; a remark counts them.

    Gains are over two densities.  The *marginal* ignores x: a Gaussian kernel estimate whose
    bandwidth has the best leave-one-out likelihood, from the training y if there are any, else
    leave-one-out from y itself.  The *single Gaussian* has the model's own mean and the one
    covariance that fits these very rows best.

    Args:
        model_or_distribution: a fitted :class:`mdn.MDNRegressor`, a scikit-learn ``Pipeline`` that
            ends in one, an ``nn.Module`` that returns a Distribution of batch (N,), called in
            evaluation mode, a callable that does; or such a Distribution, of this package or of
            torch, ``Categorical`` included.
        X: (N, F) features: tensor, array or data frame; optional with a distribution.
        y: (N,) or (N, D) targets in their own unit, preferably of held-out rows.
        train: ``(X_train, y_train)``, the training rows; with a distribution
            ``(their distribution, y_train)``.  Without it overfitting is detected only of a
            :class:`mdn.MDNRegressor`, which knows the loss of the rows that it held out.

    Returns:
        A report that prints itself.

    Raises:
        ValueError: y is missing or has another shape, a value is not finite, lengths differ.
        TypeError: neither a model nor a distribution; a network that returns a tensor, whose
            values tell whether it holds probabilities (NLLLoss takes their logarithms).

    Example:
        >>> from mdn import GaussianMixture
        >>> dist = GaussianMixture(torch.zeros(1), torch.zeros(500, 1, 1), torch.full((1, 1), 0.05))
        >>> y = dist.sample(generator=torch.Generator().manual_seed(0))
        >>> report = explain_nll(dist, y=y)
        >>> report.word, round(report.unit["nll"], 2), round(report.sign["integral"], 9)
        ('fine', -1.62, 1.0)

    References:
        C. M. Bishop, Mixture Density Networks, Aston University NCRG/94/004 (1994).
    """
    with torch.no_grad():
        evaluation = evaluate(model_or_distribution, X, y)
        seen = None if train is None else _evaluate_training_rows(model_or_distribution, train)
        floor = _floor(evaluation)
        parts: dict[str, Any] = {
            "sign": sign(evaluation),
            "unit": unit(evaluation, seen, floor.get("grid", {}).get("spacing")),
            "floor": floor,
            "health": health(evaluation, seen) | outliers(evaluation),
            "fit": gap(evaluation, seen) | calibration(evaluation),
        }
    return NLLReport(parts, evaluation, seen)


def _evaluate_training_rows(model: Any, train: Any) -> Evaluation:
    if not isinstance(train, tuple | list) or len(train) != 2:
        raise TypeError(
            "train must be a pair (X_train, y_train), with a distribution that of the training "
            f"rows and their y; got {type(train).__name__}"
        )
    if not isinstance(model, Distribution):
        return evaluate(model, train[0], train[1], "train ")
    if not isinstance(train[0], Distribution):
        raise TypeError(
            "train must begin with the distribution of the training rows where a distribution is "
            f"explained; got {type(train[0]).__name__}"
        )
    return evaluate(train[0], None, train[1], "train ")


def _floor(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the lowest NLL that the scale floor permits, and the effect of the grid of y.

    With atoms, of the rows off them.
    """
    if evaluation.at_atoms.any():
        smooth, rows = evaluation.off_atoms()
        found = _floor(smooth) if len(rows) else {}
        return {key: value for key, value in found.items() if key != "lowest_nll"}
    found = {}
    if evaluation.measure == "mass":
        found["lowest_nll"] = 0.0
    if evaluation.is_categorical or evaluation.y is None:
        return found
    y = evaluation.y.numpy()
    if evaluation.measure == "density" and evaluation.scale_floor is not None:
        # every component at y, as narrow as it can be
        lowest = np.log(evaluation.scale_floor).sum() + y.shape[1] * 0.5 * math.log(2 * math.pi)
        found["lowest_nll"] = float(lowest - to_latent(y, evaluation.link)[1].mean())
    if y.shape[1] > 1:
        return found
    grid = find_grid(y[:, 0])
    found["grid"] = grid._asdict()
    if evaluation.measure == "density" and evaluation.is_univariate and grid.spacing is not None:
        half = 0.5 * grid.spacing
        log_p = evaluation.dist.log_mass(evaluation.y - half, evaluation.y + half)
        cell_nll = -log_p.double().numpy()
        found["cell_nll"] = float(cell_nll.mean())
        finite = np.isfinite(evaluation.nll) & np.isfinite(cell_nll)
        # log of the density at y over its mean in the cell
        gain = cell_nll[finite] + math.log(grid.spacing) - evaluation.nll[finite]
        found["gain_by_grid"] = float(gain.mean()) if finite.any() else 0.0
    return found


def _wrapped(label: str, text: str) -> str:
    first, later = label.ljust(_LABEL_WIDTH), " " * _LABEL_WIDTH
    return textwrap.TextWrapper(_WIDTH, first, later, break_long_words=False).fill(text)


def _json_value(value: Any) -> Any:
    """Returns the value as JSON can hold it, which has no infinity."""
    if isinstance(value, dict):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

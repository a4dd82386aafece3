"""`explain_nll` and the report that it gives: text, dict, HTML, figure."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ._calibration import calibration, gap, outliers
from ._components import health
from ._evaluation import Rows, ask
from ._resolution import cell_nll, find_grid
from ._sections import sections
from ._sign import sign
from ._unit import unit
from ._verdict import judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NLLReport", "explain_nll"]

_WRAP = 96  # columns of the text
_LABEL = 30  # of which the names take


class NLLReport:
    """What :func:`explain_nll` found; prints as text, and as HTML in a notebook.

    Attributes:
        verdict: one line that begins with ``fine``, ``suspicious``, ``collapse``, ``overfitting``,
            ``not meaningful`` or ``misspecified``, a colon and why.
        remedy: what to do about it.
        remarks: further sentences, each a string.
        sign: that a density is not a probability, in numbers of these rows.
        unit: the loss in other units, and gains in nats and bits, which have none.
        floor: how low the loss can go, and the resolution of y.
        health: of the components, and the rows whose loss dominates.
        fit: held-out against training loss, and calibration.
    """

    def __init__(self, parts: dict[str, Any], rows: Rows, train: Rows | None, hint: str) -> None:
        self.sign, self.unit, self.floor = parts["sign"], parts["unit"], parts["floor"]
        self.health, self.fit = parts["health"], parts["fit"]
        self.verdict, self.remedy, self.remarks = judge(parts, hint)
        self._rows, self._train = rows, train

    @property
    def word(self) -> str:
        """The verdict without its reason, as ``"fine"``."""
        return self.verdict.split(":")[0]

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain numbers, strings and lists, as for JSON; None for what is infinite.

        The keys are ``verdict``, ``word``, ``remedy``, ``remarks``, ``sign``, ``unit``, ``floor``,
        ``health`` and ``fit``.
        """
        names = ("verdict", "word", "remedy", "remarks", "sign", "unit", "floor", "health", "fit")
        found: dict[str, Any] = {name: _plain(getattr(self, name)) for name in names}
        return found

    def __str__(self) -> str:
        lines = [*_wrapped("Verdict", self.verdict), *_wrapped("Remedy", self.remedy)]
        for remark in self.remarks:
            lines += _wrapped("Remark", remark)
        for title, entries in sections(self.to_dict()):
            lines += ["", title]
            for label, value in entries:
                lines += _wrapped(f"  {label}", value)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """The same as tables without scripts or anything from elsewhere; all text is escaped."""
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
        """A figure of up to four panels: the sharpest density, losses, scales, gains."""
        from ._figure import figure

        return figure(self, self._rows, self._train)


def explain_nll(
    model_or_distribution: Any, X: Any = None, y: Any = None, *, train: Any = None
) -> NLLReport:
    r"""Explains a loss: why it may be negative, and whether the density can be trusted.

    A density is probability per unit of y.  Where y keeps to less than a unit it exceeds 1, and
    :math:`-\log p` is negative; :math:`\text{NLL}(c\,y) = \text{NLL}(y) + D \log|c|`.  So the sign
    says nothing, and the report goes on to what does: gains over simpler densities, the floor and
    the resolution of y, the components, held-out against training loss, calibration, a verdict.

    The verdict is the first that applies of ``not meaningful`` (y is discrete, or the density
    stands on its grid), ``collapse`` and ``overfitting`` (need ``train``), ``suspicious`` (scales
    at the floor, components on single rows), ``misspecified`` (miscalibrated, or worse than
    ignoring x), ``suspicious`` (few rows make the loss) and ``fine``.  More components than are
    used are no fault: the verdict is what it would be, and a remark counts them.

    Gains are over two densities.  The *marginal* ignores x: a Gaussian kernel estimate whose
    bandwidth has the best leave-one-out likelihood, of the training y if they are given, else of y
    with each row left out of its own.  The *single Gaussian* stands around the model's own mean, in
    the one width that suits these very rows best.

    Args:
        model_or_distribution: a fitted :class:`mdn.MDNRegressor`; an ``nn.Module`` that returns a
            Distribution of batch (N,), called in evaluation mode; or such a Distribution, of this
            package or of torch, classes among them.
        X: (N, F) features, tensor, array or DataFrame; they are not needed with a distribution.
        y: (N,) or (N, D) targets in their own unit.  Best rows that the model has not seen.
        train: ``(X_train, y_train)``, the rows of the training; with a distribution
            ``(their distribution, y_train)``.  Without it nothing is said of overfitting.

    Returns:
        A report that prints itself.

    Raises:
        ValueError: y is missing or has another shape, a value is not finite, lengths differ.
        TypeError: neither a model nor a distribution.

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
    rows = ask(model_or_distribution, X, y)
    seen = None
    if train is not None:
        if not isinstance(train, (tuple, list)) or len(train) != 2:
            raise TypeError(
                "train must be a pair (X_train, y_train), with a distribution that of the training "
                f"rows and their y; got {type(train).__name__}"
            )
        if isinstance(model_or_distribution, torch.distributions.Distribution):
            if not isinstance(train[0], torch.distributions.Distribution):
                raise TypeError(
                    "train must begin with the distribution of the training rows where a "
                    f"distribution is explained; got {type(train[0]).__name__}"
                )
            seen = ask(train[0], None, train[1], "train ")
        else:
            seen = ask(model_or_distribution, train[0], train[1], "train ")
    with torch.no_grad():
        return _report(rows, seen)


def _report(rows: Rows, train: Rows | None) -> NLLReport:
    floor = _floor(rows)
    grid = floor.get("grid")
    parts: dict[str, Any] = {
        "sign": sign(rows),
        "unit": unit(rows, train, grid["spacing"] if grid else None),
        "floor": floor,
        "health": {**health(rows, train), **outliers(rows)},
        "fit": {**(gap(rows, train) if train is not None else {}), **calibration(rows)},
    }
    hint = "resolution=step"
    if grid and grid["step"] is not None and grid["anchored"]:
        hint = "target='integer'" if grid["step"] == 1 else f"resolution={grid['step']:.6g}"
    return NLLReport(parts, rows, train, hint)


def _floor(rows: Rows) -> dict[str, Any]:
    """The least NLL that the scale floor permits, and what the resolution of y does to it."""
    found: dict[str, Any] = {}
    if rows.measure == "mass":
        found["lowest_nll"] = 0.0
    elif rows.measure == "density" and rows.floor is not None:
        # every component on y, as narrow as it can be
        lowest = float(np.log(rows.floor).sum()) + 0.5 * rows.dims * math.log(2 * math.pi)
        assert rows.y is not None
        y = rows.y.numpy()
        if rows.way:
            lowest += float(np.log(y if rows.way == "log" else y * (1 - y)).sum(1).mean())
        found["lowest_nll"] = lowest
    if rows.classes or rows.y is None or rows.dims > 1:
        return found
    grid = find_grid(rows.y.numpy()[:, 0])
    found["grid"] = grid._asdict()
    if rows.measure == "density" and rows.line and grid.spacing is not None:
        cell = cell_nll(rows.dist, rows.y, grid.spacing)
        found["cell_nll"] = float(cell.mean())
        finite = np.isfinite(rows.nll) & np.isfinite(cell)
        # density at y over its mean in the cell, in logs
        gain = cell[finite] + math.log(grid.spacing) - rows.nll[finite]
        found["gain_by_grid"] = float(gain.mean()) if finite.any() else 0.0
    return found


def _wrapped(label: str, text: str) -> list[str]:
    import textwrap

    lines = textwrap.wrap(text, _WRAP - _LABEL, break_long_words=False) or [""]
    first = f"{label:<{_LABEL}}" if len(label) < _LABEL else f"{label}  "
    return [f"{first}{lines[0]}", *(" " * _LABEL + line for line in lines[1:])]


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""``predict_frame``: what is asked of p(y|x) by the names of columns, and the table of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distribution import HDR
from ._validation import drawn_seed

__all__ = ["Answer", "answers", "features_and_target", "parse_columns", "table_like"]

_PERCENT = r"(\d+(?:\.\d+)?)"
_NUMBER = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
# What may be asked, as patterns whose group is the number; in the order in which help lists them.
_FORMS = {
    "mean": r"mean",
    "sd": r"sd",
    "median": r"median",
    "mode": r"mode",
    "quantile": f"q{_PERCENT}",
    "interval": f"interval{_PERCENT}",
    "hdr": f"hdr{_PERCENT}",
    "p_above": f"p_above:{_NUMBER}",
    "p_below": f"p_below:{_NUMBER}",
    "density": r"density",
    "nll": r"nll",
    "crps": r"crps",
    "sample": r"sample:(\d+)",
    "aleatoric": r"aleatoric",
    "epistemic": r"epistemic",
}
_PATTERNS = {kind: re.compile(form) for kind, form in _FORMS.items()}
_LANGUAGE = (
    "mean, sd, median, mode, q05 (a quantile, in percent), interval90, hdr90, p_above:3, "
    "p_below:3, density, nll, crps, sample:10, aleatoric, epistemic"
)
_OF_Y = ("density", "nll", "crps")  # that need the observed y
_JOINT = ("density", "nll")  # one number a row, however many targets there are
_PARTS = ("aleatoric", "epistemic")  # of the variance


class Answer(NamedTuple):
    """One of the columns that are asked for.

    Attributes:
        name: as it was asked, such as ``"q05"``.
        kind: what it is, a key of the language.
        value: its number: a level or coverage between 0 and 1, a threshold in the unit of y or a
            number of draws; 0 where it has none.
    """

    name: str
    kind: str
    value: float

    @property
    def needs_y(self) -> bool:
        """Whether the observed y is needed."""
        return self.kind in _OF_Y

    @property
    def outputs(self) -> list[str]:
        """Names of the columns of the answer, without those of the targets."""
        if self.kind == "interval":
            return [f"{self.name}_low", f"{self.name}_high"]
        if self.kind == "sample":
            return [f"sample_{i + 1}" for i in range(int(self.value))]
        return [self.name]


def parse_columns(columns: str | Iterable[str]) -> list[Answer]:
    """Reads names such as ``"q05"``, or one text of them with commas between.

    Raises:
        TypeError: they are no text.
        ValueError: a name is not of the language (with the nearest hint), stands twice, or its
            number is out of range; there is none.
    """
    if isinstance(columns, str):
        columns = columns.split(",")
    found: list[Answer] = []
    for name in columns:
        if not isinstance(name, str):
            raise TypeError(f"columns must be texts such as 'mean'; got {name!r}")
        found.append(_parse(name.strip()))
    names = [output for answer in found for output in answer.outputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns must differ from one another; got {twice[0]!r} twice")
    if not found:
        raise ValueError(f"columns must name at least one of {_LANGUAGE}; got none")
    return found


def _parse(name: str) -> Answer:
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        value = float(match[1]) if pattern.groups else 0.0
        if kind in ("quantile", "interval", "hdr"):
            if not 0 < value < 100:
                raise ValueError(
                    f"columns must hold percentages between 0 and 100, both excluded; got {name!r}"
                )
            value /= 100
        if kind == "sample" and value < 1:
            raise ValueError(f"columns must ask for at least one draw; got {name!r}")
        return Answer(name, kind, value)
    raise ValueError(f"columns must be of {_LANGUAGE}; got {name!r}")


def features_and_target(
    table: Any, names: Sequence[str] | None, targets: Sequence[str] | None, needs_y: str
) -> tuple[Any, NDArray[np.float64] | None]:
    """Returns the features of a table as the model was fitted on them, and y if it is needed.

    Args:
        table: a data frame, or an array (N, F) of features alone.
        names: columns of the fit; None if they had no names.
        targets: columns of y in the fit; None if they had no names.
        needs_y: the answer that needs y; empty if none does.

    Raises:
        ValueError: columns are missing, or y is needed and has no name.
    """
    frame = _frame(table)
    if frame is None:
        if needs_y:
            raise ValueError(
                f"columns holds {needs_y!r}, which needs the observed y: give a data frame that "
                "holds it beside the features"
            )
        return table, None
    known = list(frame.columns)
    if names is None:
        names = [name for name in known if name not in (targets or ())]
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"table must have the columns of the fit; it lacks {', '.join(map(repr, missing))}"
        )
    features = frame.select(list(names)).to_native()
    if not needs_y:
        return features, None
    if not targets:
        raise ValueError(
            f"columns holds {needs_y!r}, which needs the observed y, but the model does not know "
            "the name of its column: fit it to a column or table that has one"
        )
    missing = [name for name in targets if name not in known]
    if missing:
        raise ValueError(
            f"columns holds {needs_y!r}, which needs the observed y; table lacks "
            f"{', '.join(map(repr, missing))}"
        )
    y = frame.select(list(targets)).to_numpy()
    return features, np.asarray(y[:, 0] if len(targets) == 1 else y, dtype=np.float64)


def answers(
    model: Any, inputs: Any, y: Any, asked: Sequence[Answer], random_state: Any
) -> dict[str, Any]:
    """Returns the columns of the answers, (N,) each: numbers, or texts of regions (JSON).

    Args:
        model: a fitted regressor.
        inputs: (N, P) encoded columns.
        y: (N,) or (N, D), where an answer needs it.
        asked: what is asked.
        random_state: of the draws.
    """
    fitted, target = model.model_, model.target_
    dims = target.n_targets
    if dims > 1 and any(answer.kind == "hdr" for answer in asked):
        raise ValueError(f"columns holds an hdr, which is for one target; the model has {dims}")
    labels = [""] if target.flat else [f"_{name}" for name in _target_labels(model)]
    generator = torch.Generator().manual_seed(drawn_seed(random_state))
    parts: dict[str, list[Any]] = {}
    asked_of_chunks = [answer for answer in asked if answer.kind not in _PARTS]
    for rows, dist in fitted.distributions(inputs) if asked_of_chunks else ():
        at = None if y is None else y[rows]
        for answer in asked_of_chunks:
            found = _ANSWERS[answer.kind](_Chunk(dist, target, at, generator), answer.value)
            for name, column in _named(answer, found, labels):
                parts.setdefault(name, []).append(column)
    if len(asked_of_chunks) < len(asked):
        both = dict(zip(_PARTS, fitted.variances(inputs), strict=True))
        for answer in asked:
            if answer.kind in _PARTS:
                found = both[answer.kind].unsqueeze(1)
                parts |= {name: [column] for name, column in _named(answer, found, labels)}
    order = [name for a in asked for name, _ in _named(a, None, labels)]
    return {name: _joined(parts[name]) for name in order}


class _Chunk(NamedTuple):
    """Some rows: their distribution, the map to y's unit, and y where it is known."""

    dist: Any
    target: Any
    y: Any
    generator: torch.Generator

    def marginals(self, f: Callable[[Any], Tensor]) -> Tensor:
        """What f gives, (n,) or (n, C), for the distribution of each target: (n, C, D)."""
        dims = self.dist.event_shape[0]
        each = [f(self.dist if dims == 1 else self.dist.marginal(d)) for d in range(dims)]
        return torch.stack([a if a.ndim == 2 else a.unsqueeze(1) for a in each], -1)

    def quantile(self, level: float) -> Tensor:
        return self.marginals(lambda m: m.icdf(level).reshape(-1))

    def crps(self) -> Tensor:
        if self.target.kind == "interval":
            raise ValueError(
                "columns holds 'crps', which needs a y that is known; with target='interval' ask "
                "for nll"
            )
        y = torch.as_tensor(self.y).reshape(len(self.y), -1)
        dims = y.shape[1]
        each = [
            (self.dist if dims == 1 else self.dist.marginal(d)).crps(y[:, d : d + 1])
            for d in range(dims)
        ]
        return torch.stack(each, -1).unsqueeze(1)

    def log_prob(self) -> Tensor:
        found: Tensor = self.target.log_likelihood(self.dist, self.y)
        return found.reshape(-1, 1, 1)

    def draws(self, n: float) -> Tensor:
        drawn: Tensor = self.dist.sample((int(n),), generator=self.generator)
        return drawn.movedim(0, 1)


# What each kind of answer is: (n, C, D), or a list of n texts.
_ANSWERS: dict[str, Callable[[_Chunk, float], Any]] = {
    "mean": lambda chunk, _: chunk.dist.mean.unsqueeze(1),
    "sd": lambda chunk, _: chunk.dist.stddev.unsqueeze(1),
    "median": lambda chunk, _: chunk.quantile(0.5),
    "mode": lambda chunk, _: chunk.dist.mode.unsqueeze(1),
    "quantile": lambda chunk, level: chunk.quantile(level),
    "interval": lambda chunk, coverage: chunk.marginals(lambda m: m.interval(coverage)),
    "hdr": lambda chunk, coverage: _regions(chunk.dist.hdr(coverage)),
    "p_above": lambda chunk, at: chunk.marginals(lambda m: m.log_sf(m.mean.new_tensor([at])).exp()),
    "p_below": lambda chunk, at: chunk.marginals(
        lambda m: m.log_cdf(m.mean.new_tensor([at])).exp()
    ),
    "density": lambda chunk, _: chunk.log_prob().exp(),
    "nll": lambda chunk, _: -chunk.log_prob(),
    "crps": lambda chunk, _: chunk.crps(),
    "sample": lambda chunk, n: chunk.draws(n),
}


def _regions(hdr: HDR) -> list[str]:
    """Highest-density regions as texts, ``[[low, high], ...]``."""
    rows = hdr.intervals.tolist()
    return [json.dumps([pair for pair in row if pair[0] == pair[0]]) for row in rows]


def _named(answer: Answer, found: Any, labels: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Names of the columns of one answer and their values; one a target unless it is joint."""
    ends = [""] if answer.kind in _JOINT else labels
    for c, output in enumerate(answer.outputs):
        for d, end in enumerate(ends):
            yield output + end, found[:, c, d] if isinstance(found, Tensor) else found


def _target_labels(model: Any) -> list[str]:
    names = model.target_names_
    return list(names) if names else [f"y{d}" for d in range(model.target_.n_targets)]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts).numpy()
    return [text for part in parts for text in part]


def table_like(table: Any, columns: dict[str, Any]) -> Any:
    """Returns columns as a table of the kind of ``table``; an array (N, C) for an array."""
    frame = _frame(table)
    if frame is None:
        texts = [name for name, column in columns.items() if isinstance(column, list)]
        if texts:
            raise ValueError(
                f"columns holds {texts[0]!r}, which is a text and has no place in an array: give a "
                "data frame"
            )
        return np.stack(list(columns.values()), 1)
    import narwhals as nw

    native = nw.from_dict(columns, backend=frame.implementation).to_native()
    if hasattr(table, "index") and hasattr(native, "index"):  # of pandas
        native.index = table.index
    return native


def _frame(table: Any) -> Any:
    """The table as narwhals has it; None if it is no data frame."""
    if isinstance(table, np.ndarray | list | tuple):
        return None
    import narwhals as nw

    if not nw.dependencies.is_into_dataframe(table):
        return None
    return nw.from_native(table, eager_only=True)

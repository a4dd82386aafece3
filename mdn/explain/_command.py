"""``mdn explain``: reads a saved model and tables, writes a report and its files."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.distributions import Distribution

from ..io import load
from ..nn import MDN
from ..tables import date_columns, read_table
from ._report import NLLReport, explain_nll

__all__ = ["explain_file", "write"]


def explain_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    target: list[str] | None = None,
    train: str | os.PathLike[str] | None = None,
    **reading: Any,
) -> NLLReport:
    """Explains a model saved by :func:`mdn.save` on the rows of a file.

    Args:
        model: the file.
        data: a file of :func:`mdn.read_table` with features and targets.
        target: names of the columns of y.  If None: those that the model was fitted on, else the
            columns that are not features of the model, or the last ones if it does not know the
            names of its features.
        train: a file with the same columns, the training rows.
        **reading: options of :func:`mdn.read_table`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: columns are missing, it is ambiguous which are the targets, or a target is a
            feature of the model or not what it was fitted on; a file cannot be read.
    """
    fitted = load(model)
    X, y, names = _split(read_table(data, **reading), fitted, target, data)
    if isinstance(fitted, Distribution):
        if train is not None:
            raise ValueError(
                "--train needs a model; the file holds a distribution, which is that of its own "
                "rows only"
            )
        return explain_nll(fitted, y=y)
    pair = None
    if train is not None:
        pair = _split(read_table(train, **reading), fitted, names, train)[:2]
    report = explain_nll(fitted, X, y, train=pair)
    known = getattr(fitted, "target_names_", None)
    if known and sorted(names) != sorted(known):
        report.remarks.append(
            f"y is {_listed(names)}, and the model was fitted on {_listed(known)}: the report is "
            "right only if that is the same quantity in the same unit"
        )
    return report


def write(report: NLLReport, page: Path | None, figure: Path | None) -> None:
    """Writes the report to each path that is given: HTML page, figure."""
    if figure is None and page is None:
        return
    plotted = report.plot()
    if figure is not None:
        plotted.savefig(figure, dpi=150)
    if page is not None:
        buffer = io.BytesIO()
        plotted.savefig(buffer, format="png", dpi=100)
        code = base64.b64encode(buffer.getvalue()).decode()
        page.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(report.word)}: NLL</title></head><body>\n"
            f"{report._repr_html_()}\n"
            f'<img alt="figure of the report" style="max-width:100%" '
            f'src="data:image/png;base64,{code}">\n</body></html>\n',
            encoding="utf-8",
        )


def _split(
    table: Any, fitted: Any, target: list[str] | None, path: str | os.PathLike[str]
) -> tuple[Any, Any, list[str]]:
    """Returns features and targets of a table as the model takes them, and the targets' names."""
    named = [str(name) for name in getattr(fitted, "feature_names_in_", ())]
    table = date_columns(table, named or None)[0]
    missing = [name for name in named if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which the model was fitted on")
    known = getattr(fitted, "target_names_", None) or []
    target = _target_columns(table, named, known, _n_target_columns(fitted), target, path)
    y = np.column_stack([_floats(table[name]) for name in target])
    y = y[:, 0] if len(target) == 1 else y
    X = table.select(named or [name for name in table.column_names if name not in target])
    if isinstance(fitted, MDN) and X.num_columns != fitted.in_features:
        raise ValueError(
            f"{path} has {X.num_columns} columns besides the target, the model "
            f"{fitted.in_features} features; name the targets with --target and remove the other "
            "columns"
        )
    if not named and not isinstance(fitted, MDN):
        X = np.column_stack([column.to_numpy() for column in X.columns])
    return X, y, target


def _floats(column: Any) -> NDArray[np.float64]:
    """A column of numbers or booleans, NaN where a value is missing."""
    return np.asarray(column.cast("float64").to_numpy())


def _target_columns(
    table: Any,
    features: list[str],
    known: list[str],
    count: int,
    target: list[str] | None,
    path: Any,
) -> list[str]:
    """Returns the names of the columns of y, checked; ``known`` are those of the fit, if any."""
    wanted = f"{count} target{'s' * (count > 1)}"
    if target is None:
        target = _default_target(table, features, known, count, path)
    unknown = [name for name in target if name not in table.column_names]
    if unknown:
        listed = ", ".join(table.column_names)
        raise ValueError(f"{path} has no column {unknown[0]}; its columns: {listed}")
    inputs = [name for name in target if name in features]
    if inputs:
        hint = f"; the model was fitted to predict {_listed(known)}" if known else ""
        raise ValueError(
            f"--target must name what the model predicts; {inputs[0]} is one of its features{hint}"
        )
    if len(target) != count or len(set(target)) != count:
        raise ValueError(f"the model has {wanted}; got {len(target)} by --target")
    if sorted(target) == sorted(known):
        target = known  # in the order of the fit
    elif known and all(name in table.column_names for name in known):
        raise ValueError(
            f"--target must name what the model was fitted to predict, {_listed(known)}, which "
            f"{path} has; got {_listed(target)}"
        )
    text = [name for name in target if not _is_numeric(table[name])]
    if text:
        values = table[text[0]].to_pylist()
        row = next((i for i, value in enumerate(values) if _is_no_number(value)), 0)
        raise ValueError(
            f"the target {text[0]} of {path} must hold numbers; row {row} is {values[row]!r}"
        )
    return target


def _is_numeric(column: Any) -> bool:
    import pyarrow as pa

    kind = pa.types
    return bool(
        kind.is_boolean(column.type)
        or kind.is_integer(column.type)
        or kind.is_floating(column.type)
    )


def _is_no_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return True
    return False


def _default_target(
    table: Any, features: list[str], known: list[str], count: int, path: Any
) -> list[str]:
    """Returns the columns of y where --target does not name them."""
    wanted = f"{count} target{'s' * (count > 1)}"
    if known and not set(known) & set(features):
        missing = [name for name in known if name not in table.column_names]
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)}, which the model was fitted to predict; name "
                "the column that holds the same quantity with --target"
            )
        return known
    if not features:
        return list(table.column_names)[-count:]
    target = [name for name in table.column_names if name not in features]
    if len(target) != count:
        raise ValueError(
            f"{path} has {len(target)} columns besides the features ({', '.join(target)}), the "
            f"model {wanted}: name each with --target"
        )
    return target


def _listed(names: list[str]) -> str:
    return " and ".join(names)


def _n_target_columns(fitted: Any) -> int:
    if isinstance(fitted, Distribution):
        return int(np.prod(fitted.event_shape))
    if isinstance(fitted, MDN):
        return fitted.head.out_features
    target = fitted.target_
    return 2 if target.kind == "interval" else target.n_targets

"""``mdn explain``: reads a saved model and tables, writes a report and its files."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch.distributions import Distribution

from ..io import load
from ..nn import MDN
from ._report import NLLReport, explain_nll

__all__ = ["explain_file", "write"]


def explain_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    target: list[str] | None = None,
    train: str | os.PathLike[str] | None = None,
) -> NLLReport:
    """Explains a model saved by :func:`mdn.save` on the rows of a CSV file.

    Args:
        model: the file.
        data: a table with a header, features and targets.
        target: names of the columns of y; if None, the columns that are not features of the model,
            or the last ones if it does not know the names of its features.
        train: a table with the same columns, the training rows.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: columns are missing, or it is ambiguous which are the targets.
        ImportError: pandas is not installed.
    """
    fitted = load(model)
    X, y = _split(_read_csv(data), fitted, target, data)
    if isinstance(fitted, Distribution):
        if train is not None:
            raise ValueError(
                "--train needs a model; the file holds a distribution, which is that of its own "
                "rows only"
            )
        return explain_nll(fitted, y=y)
    pair = None if train is None else _split(_read_csv(train), fitted, target, train)
    return explain_nll(fitted, X, y, train=pair)


def write(report: NLLReport, page: Path | None, figure: Path | None, data: Path | None) -> None:
    """Writes the report to each path that is given: HTML page, figure, JSON file."""
    if data is not None:
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        data.write_text(text + "\n", encoding="utf-8")
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


def _read_csv(path: str | os.PathLike[str]) -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError('a CSV file is read by pandas; pip install "mdn[tables]"') from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        table = pandas.read_csv(path)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file with a header ({error})") from error
    if not len(table):
        raise ValueError(f"{path} has a header but no rows")
    return table.rename(columns=str)


def _split(
    table: Any, fitted: Any, target: list[str] | None, path: str | os.PathLike[str]
) -> tuple[Any, Any]:
    """Returns features and targets of a table as the model takes them."""
    named = [str(name) for name in getattr(fitted, "feature_names_in_", ())]
    missing = [name for name in named if name not in table]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which the model was fitted on")
    target = _target_columns(table, named, _n_target_columns(fitted), target, path)
    y = table[target[0] if len(target) == 1 else target].to_numpy()
    X = table[named or [name for name in table if name not in target]]
    if isinstance(fitted, MDN) and X.shape[1] != fitted.in_features:
        raise ValueError(
            f"{path} has {X.shape[1]} columns besides the target, the model {fitted.in_features} "
            "features; name the targets with --target and remove the other columns"
        )
    return (X if named or isinstance(fitted, MDN) else X.to_numpy()), y


def _target_columns(
    table: Any, features: list[str], count: int, target: list[str] | None, path: Any
) -> list[str]:
    """Returns the names of the columns of y, checked."""
    wanted = f"{count} target{'s' * (count > 1)}"
    if target is None:
        target = [name for name in table if name not in features]
        target = target if features else target[-count:]
        if len(target) != count:
            raise ValueError(
                f"{path} has {len(target)} columns besides the features ({', '.join(target)}), the "
                f"model {wanted}: name each with --target"
            )
    unknown = [name for name in target if name not in table]
    if unknown:
        raise ValueError(f"{path} has no column {unknown[0]}; its columns: {', '.join(table)}")
    if len(target) != count:
        raise ValueError(f"the model has {wanted}; got {len(target)} by --target")
    text = [name for name in target if table[name].dtype.kind not in "biuf"]
    if text:
        raise ValueError(f"the target {text[0]} of {path} must hold numbers; got text")
    return target


def _n_target_columns(fitted: Any) -> int:
    if isinstance(fitted, Distribution):
        return int(np.prod(fitted.event_shape))
    if isinstance(fitted, MDN):
        return fitted.head.out_features
    target = fitted.target_
    return 2 if target.kind == "interval" else target.n_targets

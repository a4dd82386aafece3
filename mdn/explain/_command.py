"""`mdn explain`: a saved model and tables on the disk in, a report and its files out."""

from __future__ import annotations

import base64
import html
import io as streams
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import io
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
    """Explains a file of :func:`mdn.save` on the rows of a CSV file.

    Args:
        model: the file.
        data: a table with a header, features and targets.
        target: names of the columns of y; if None, the columns that are no features of the model,
            or the last ones where it does not know the names of its features.
        train: a table of the same columns, the rows of the training.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: columns that are missing or can not be told apart.
        ImportError: pandas is not installed.
    """
    fitted = io.load(model)
    X, y = _split(_table(data), fitted, target, data)
    if isinstance(fitted, torch.distributions.Distribution):
        if train is not None:
            raise ValueError(
                "--train needs a model; the file holds a distribution, whose training rows have "
                "distributions of their own"
            )
        return explain_nll(fitted, y=y)
    pair = None if train is None else _split(_table(train), fitted, target, train)
    return explain_nll(fitted, X, y, train=pair)


def write(report: NLLReport, page: Path | None, figure: Path | None, data: Path | None) -> None:
    """Writes the HTML page, the figure and the JSON file that are wanted."""
    if data is not None:
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        data.write_text(text + "\n", encoding="utf-8")
    if figure is None and page is None:
        return
    drawn = report.plot()
    if figure is not None:
        drawn.savefig(figure, dpi=150)
    if page is not None:
        picture = streams.BytesIO()
        drawn.savefig(picture, format="png", dpi=100)
        code = base64.b64encode(picture.getvalue()).decode()
        page.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(report.word)}: NLL</title></head><body>\n"
            f"{report._repr_html_()}\n"
            f'<img alt="figure of the report" style="max-width:100%" '
            f'src="data:image/png;base64,{code}">\n</body></html>\n',
            encoding="utf-8",
        )


def _table(path: str | os.PathLike[str]) -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError('a CSV file is read by pandas; pip install "mdn[tables]"') from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        table = pandas.read_csv(path)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file with a header ({error})") from error
    if not len(table):
        raise ValueError(f"{path} has a header but no rows")
    return table


def _split(
    table: Any, fitted: Any, target: list[str] | None, path: str | os.PathLike[str]
) -> tuple[Any, Any]:
    """Features and targets of a table."""
    columns = [str(name) for name in table.columns]
    names = getattr(fitted, "feature_names_in_", None)
    count = _targets(fitted)
    if names is not None:
        features = [str(name) for name in names]
        missing = [name for name in features if name not in columns]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}, which the model was fitted on")
    else:
        features = []
    if target is None:
        rest = [name for name in columns if name not in features]
        target = rest if features else rest[-count:]
        if len(target) != count:
            raise ValueError(
                f"{path} has {len(target)} columns besides the features ({', '.join(target)}), the "
                f"model {count} target{'s' * (count > 1)}: name each with --target"
            )
    unknown = [name for name in target if name not in columns]
    if unknown:
        raise ValueError(f"{path} has no column {unknown[0]}; its columns: {', '.join(columns)}")
    if len(target) != count:
        raise ValueError(
            f"the model has {count} target{'s' * (count > 1)}; got {len(target)} by --target"
        )
    text = [name for name in target if not _is_number(table[name])]
    if text:
        raise ValueError(f"the target {text[0]} of {path} must hold numbers, but has text")
    y = table[target[0]] if count == 1 else table[target]
    if names is not None:
        return table[features], y.to_numpy()
    X = table[[name for name in columns if name not in target]]
    if isinstance(fitted, MDN) and X.shape[1] != fitted.in_features:
        raise ValueError(
            f"{path} has {X.shape[1]} columns besides the target, the model {fitted.in_features} "
            "features; name the targets with --target and leave out the rest"
        )
    return (X if isinstance(fitted, MDN) else X.to_numpy()), y.to_numpy()


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "biuf"


def _targets(fitted: Any) -> int:
    """Number of columns of y."""
    if isinstance(fitted, torch.distributions.Distribution):
        return int(np.prod(fitted.event_shape))
    if isinstance(fitted, MDN):
        return fitted.head.out_features
    target = fitted.target_
    return 2 if target.kind == "interval" else target.n_targets

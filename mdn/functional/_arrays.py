"""Numbers of any kind as tensors and arrays: lists, arrays, tensors, data frames and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import without_mask

__all__ = ["column_of", "numeric_array", "numeric_tensor"]


def numeric_tensor(values: Any, name: str, like: Any = None) -> Tensor:
    """Returns numbers as a tensor: a tensor as it is, others as :func:`numeric_array`.

    An array goes to the device of the distribution ``like``; messages call the values ``name``.
    """
    if isinstance(values, Tensor):
        return values
    device = None if like is None else getattr(like.mean, "device", None)
    return torch.as_tensor(numeric_array(values, name), device=device)


def numeric_array(values: Any, name: str) -> NDArray[Any]:
    """Returns numbers as an array that torch can share: writable, contiguous, of native bytes.

    Args:
        values: an array, a list, a tensor, or a data frame or column of any kind.
        name: of the values in messages.

    Raises:
        TypeError: they are not all numbers or booleans.
        ValueError: rows of several lengths.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(without_mask(values))
    except ValueError:
        raise ValueError(f"{name} must have rows of one length; got a ragged list") from None
    if array.dtype == object and hasattr(values, "columns"):  # columns of several dtypes, or NA
        array = _columns_as_floats(values, name)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} must be a tensor or a numeric array; got {type(values).__name__} of "
            f"{array.dtype}"
        )
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def _columns_as_floats(frame: Any, name: str) -> NDArray[np.float64]:
    import narwhals as nw  # small, but only a data frame needs it

    columns = []
    for column in nw.from_native(frame, eager_only=True).iter_columns():
        if not (column.dtype.is_numeric() or column.dtype == nw.Boolean):
            raise TypeError(
                f"{name} must hold numbers to become a tensor; column {column.name!r} holds "
                f"{column.dtype}: encode it, or take a model that does"
            )
        columns.append(np.asarray(column.cast(nw.Float64).to_numpy(), dtype=np.float64))
    return np.stack(columns, 1)


def column_of(name: str, values: object) -> str:
    """Returns how to write values of shape (N,) as a column (N, 1), for a message."""
    if isinstance(values, Tensor | np.ndarray):
        return f"{name}[:, None]"
    array = f"{name}.to_numpy()" if hasattr(values, "to_numpy") else f"numpy.asarray({name})"
    return f"{array}[:, None]"

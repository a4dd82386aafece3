"""Checks of single arguments: integers, numbers, flags and choices; each raises one sentence."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

__all__ = [
    "check_choice",
    "check_flag",
    "check_generator",
    "check_integer",
    "check_number",
    "check_path",
    "check_probabilities",
    "check_seed",
    "how_to_wrap",
    "without_mask",
]

_ROUNDING = 1e-3  # of the sum of probabilities in half precision


def check_integer(name: str, value: Any, at_least: int | None = 1) -> None:
    """Raises unless the value is an integer (of Python or NumPy) of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {_found(value)}")
    if at_least is not None and int(value) < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {value}")


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """Returns the value as a float; raises unless it is one real number within the bounds.

    ``above`` and ``below`` are excluded; infinity is refused unless ``infinite``.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {_found(value)}")
    number = float(value)
    inside = above < number < below or (infinite and number == math.inf)
    if not (inside and number >= at_least):
        raise ValueError(f"{name} must {_range(above, at_least, below)}; got {value}")
    return number


def check_flag(name: str, value: Any) -> None:
    """Raises unless the value is True or False; a word such as "no" would count as True."""
    if not (isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")):
        raise TypeError(f"{name} must be True or False; got {_found(value)}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises unless the value is one of the choices."""
    known = tuple(choices)
    if not (isinstance(value, str) and value in known):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}")


def check_probabilities(name: str, values: Any) -> list[float]:
    """Returns one number or more as a list; raises unless all lie strictly between 0 and 1."""
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    if not several or getattr(values, "ndim", 1) == 0:
        values = [values]
    found = [check_number(name, value, above=0, below=1) for value in values]
    if not found:
        raise ValueError(f"{name} must lie between 0 and 1, at least one; got none")
    return found


def check_seed(name: str, value: Any) -> None:
    """Raises unless the value is None, an integer of at least 0 or a generator of NumPy."""
    if value is None or type(value).__module__.startswith("numpy.random"):
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(
            f"{name} must be None, an integer of at least 0 or a generator of NumPy; "
            f"got {_found(value)}"
        )


def check_generator(value: Any) -> None:
    """Raises unless ``generator`` is None or a ``torch.Generator``."""
    if not (value is None or (type(value).__name__ == "Generator" and _is_of_torch(value))):
        raise TypeError(f"generator must be a torch.Generator or None; got {_found(value)}")


def check_path(name: str, value: Any) -> None:
    """Raises unless the value is a string or an ``os.PathLike``."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, str or os.PathLike; got {_found(value)}")


def how_to_wrap(output: Any) -> str:
    """Returns what to do with the output of a network that is no distribution, one sentence.

    Probabilities and log-probabilities of classes are recognised by their values: they sum to one.

    Args:
        output: what the network returned: a tensor or an array (N, C), a tuple of them, or another.
    """
    import numpy as np

    mixture = "mdn.GaussianMixture(logits, loc, scale)"
    array = output.detach().cpu() if _is_of_torch(output) else output
    if not (hasattr(array, "ndim") and hasattr(array, "dtype") and hasattr(array, "shape")):
        return f"Wrap it: {mixture}"
    if array.ndim < 2 or array.shape[-1] < 2:
        return (
            "A number a row is a prediction without a distribution: end the network in an "
            "mdn.MDNHead, or in an mdn.CategoricalHead for classes"
        )
    values = np.asarray(array.double() if _is_of_torch(array) else array)
    if values.dtype.kind == "f" and np.isfinite(values).any():
        for axis in {1, values.ndim - 1}:  # torch's losses have the classes in axis 1
            if _sums_to_one(values, axis):
                return (
                    "Each of its rows holds probabilities, as of Softmax: wrap them in torch."
                    "distributions.Categorical(probs=...); NLLLoss takes their logarithms, as of "
                    "LogSoftmax, and of the probabilities themselves it is between -1 and 0 and no "
                    "likelihood"
                )
            with np.errstate(over="ignore"):
                exp = np.exp(values)
            if (values <= _ROUNDING).all() and _sums_to_one(exp, axis):
                return (
                    "Each of its rows holds log-probabilities of classes, as of LogSoftmax: wrap "
                    "them in torch.distributions.Categorical(logits=...)"
                )
    return (
        "Wrap it: torch.distributions.Categorical(logits=...) if it holds a score for each class, "
        f"{mixture} if it holds the parameters of a density"
    )


def _sums_to_one(values: Any, axis: int) -> bool:
    """Whether all values are probabilities, and those along an axis have the sum 1."""
    inside = (values >= -_ROUNDING) & (values <= 1 + _ROUNDING)
    return bool(inside.all() and (abs(values.sum(axis) - 1) <= _ROUNDING).all())


def _is_of_torch(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch"


def _range(above: float, at_least: float, below: float) -> str:
    if at_least > -math.inf:
        return "be finite and not negative" if at_least == 0 else f"be at least {at_least:g}"
    if above == 0 and below == math.inf:
        return "be positive and finite"
    if above == -math.inf and below == math.inf:
        return "be finite"
    return f"lie between {above:g} and {below:g}"


def _found(value: Any) -> str:
    """The type of a value, with the value itself where it is short."""
    shown = repr(value)
    kind = type(value).__name__
    return kind if value is None or len(shown) > 40 else f"{shown} of type {kind}"


def without_mask(values: Any) -> Any:
    """Returns a masked array of NumPy with its gaps as NaN (None among objects); others as is.

    ``np.asarray`` would read the values under the mask.
    """
    if type(values).__name__ != "MaskedArray":
        return values
    if not values.mask.any():
        return values.data
    filled = values.data.astype(values.dtype if values.dtype.kind in "fc" else object)
    filled[values.mask] = math.nan if values.dtype.kind in "fc" else None
    return filled.astype(float) if values.dtype.kind in "iu" else filled  # booleans stay themselves

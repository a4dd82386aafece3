"""One file per model: tensors in safetensors, the rest in JSON, no pickle.

A file cannot run code when it is read: it names one of the kinds below and holds its numbers.  A
checksum over all of it tells a file that was altered, by accident or by hand.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arguments import check_path

__all__ = ["load", "save"]

_FORMAT = 3  # raised when a reader of the old format would misread a file
_CHECKED = 2  # first format with a checksum
_OLDEST = {"GaussianMixture": 1, "MDN": 1, "MDNRegressor": 2}  # formats that are still read


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes a fitted model; ``mdn.load`` gives it back bit for bit.

    The file appears whole or not at all: it is written under another name and then moved.

    Args:
        model: a ``GaussianMixture``, an ``MDN`` without a backbone of its own, or a fitted
            ``MDNRegressor``.
        path: file to write; by custom ``*.mdn``.  An existing file is replaced.

    Raises:
        TypeError: a model of another kind.
        FileNotFoundError: the folder is not there.
    """
    from safetensors.torch import save as to_bytes

    kind = type(model).__name__
    if kind not in _OLDEST or not hasattr(model, "state"):
        raise TypeError(f"model must be one of {', '.join(_OLDEST)}; got {kind}")
    check_path("path", path)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} is not there; create it first")
    config, tensors = model.state()
    about = {"format": _FORMAT, "kind": kind, "config": config}
    # copies, as two names may stand for one tensor
    one_by_one = torch.contiguous_format
    tensors = {k: a.detach().cpu().clone(memory_format=one_by_one) for k, a in tensors.items()}
    about = json.loads(json.dumps(about, default=_plain))  # as a reader will see it
    about_json = json.dumps({**about, "sha256": _checksum(about, tensors)})
    # not by save_file or mkstemp: their files can be read by their owner only
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(to_bytes(tensors, metadata={"mdn": about_json}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Any:
    """Reads what :func:`save` wrote.

    Args:
        path: the file.

    Returns:
        The model, on the CPU, ready to predict.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of ``mdn.save``, damaged, or of a version too new or too old.
    """
    from safetensors import SafetensorError, safe_open

    check_path("path", path)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("mdn", "null"))
            tensors: dict[str, torch.Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:  # JSONDecodeError among others
        raise ValueError(f"{path} is damaged or was not written by mdn.save ({error})") from error
    if not isinstance(about, dict) or about.get("kind") not in _OLDEST:
        raise ValueError(f"{path} was not written by mdn.save")
    number = about.get("format")
    if not isinstance(number, int) or number < 1 or "config" not in about:
        raise ValueError(f"{path} is damaged: its description is incomplete")
    if number > _FORMAT:
        raise ValueError(
            f"{path} has format {number}, this version reads up to {_FORMAT}; update mdn"
        )
    if number < _OLDEST[about["kind"]]:
        raise ValueError(
            f"{path} holds an {about['kind']} of format {number}, which this version does not read "
            "any more; fit it anew, or load it with the version that wrote it"
        )
    if number >= _CHECKED and about.pop("sha256", None) != _checksum(about, tensors):
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    # by name through the package: the kinds live above this layer
    kind = getattr(importlib.import_module(__package__), about["kind"])
    try:
        return kind.from_state(about["config"], tensors)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError) as error:
        raise ValueError(f"{path} is damaged: its numbers do not fit ({error})") from error


def _checksum(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the description and of every tensor with its name, dtype and shape."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        a = tensors[name]
        digest.update(f"\0{name}\0{a.dtype}\0{tuple(a.shape)}\0".encode())
        digest.update(a.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """NumPy's numbers as JSON: a grid search over ``np.arange`` leaves them in the parameters."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved; got {value!r}")

"""One file per model: tensors in safetensors, the rest in JSON, no pickle.

A file cannot run code when it is read: it names one of the kinds below and holds its numbers.  Of
a torch module, whose structure is code, it holds the weights alone.  A checksum over all of it
tells a file that was altered, by accident or by hand.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import check_path

if TYPE_CHECKING:  # else loaded where it is used: a description does without
    import torch
    from torch import nn

__all__ = ["describe", "load", "save"]

_FORMAT = 3  # raised when a reader of the old format would misread a file
_CHECKED = 2  # first format with a checksum
_WEIGHTS = "weights"  # of a torch module
# formats that are still read
_OLDEST = {"GaussianMixture": 1, "MDN": 1, "MDNRegressor": 2, _WEIGHTS: 3}


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Writes a fitted model; ``mdn.load`` gives it back bit for bit.

    The file appears whole or not at all: it is written under another name and then moved.

    Args:
        model: a ``GaussianMixture``, an ``MDN`` without a backbone of its own, a fitted
            ``MDNRegressor``, or any other torch module, of which the weights are written:
            ``mdn.load(path, module=...)`` puts them into a module of the same structure.
        path: file to write; by custom ``*.mdn``.  An existing file is replaced.

    Raises:
        TypeError: a model of another kind.
        FileNotFoundError: the folder is not there.
    """
    import torch
    from safetensors.torch import save as to_bytes
    from torch import nn

    kind = type(model).__name__
    whole = kind in _OLDEST and hasattr(model, "state") and getattr(model, "hidden", 0) is not None
    whole = whole or kind == "MDNRegressor"
    if not (whole or isinstance(model, nn.Module)):
        known = ", ".join(name for name in _OLDEST if name != _WEIGHTS)
        raise TypeError(f"model must be one of {known} or a torch module; got {kind}")
    check_path("path", path)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} is not there; create it first")
    config, tensors = model.state() if whole else _weights(model)
    kind = kind if whole else _WEIGHTS
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


def load(path: str | os.PathLike[str], *, module: nn.Module | None = None) -> Any:
    """Reads what :func:`save` wrote.

    Args:
        path: the file.
        module: for a file with the weights of a module (a ``Sequential`` that ends in an
            ``MDNHead``, an ``MDN`` with a backbone of its own): one of the same structure and
            dtype, made by the same code, which receives the weights.  It stays as it is if they
            do not fit.

    Returns:
        The model, on the CPU, ready to predict; or the module, on its own device, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of ``mdn.save``, damaged, or of a version too new or too old; a file
            of weights without a module, or of a whole model with one; a module with other layers,
            dtypes or options of its head.
        TypeError: module is not a torch module.
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
    if about["kind"] == _WEIGHTS:
        return _with_weights(module, about["config"], tensors, path)
    if module is not None:
        raise ValueError(f"{path} holds a whole {about['kind']}: load it without module=")
    # by name through the package: the kinds live above this layer
    kind = getattr(importlib.import_module(__package__), about["kind"])
    try:
        return kind.from_state(about["config"], tensors)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError) as error:
        raise ValueError(f"{path} is damaged: its numbers do not fit ({error})") from error


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a file of :func:`save` says of itself, without loading its tensors or torch.

    Returns:
        ``file``, ``bytes``, ``kind``, ``format``; of an ``MDNRegressor`` also its parameters, the
        kind of target, the names of features and targets, and the ``info_`` that ``mdn fit`` adds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of :func:`save`.
    """
    check_path("path", path)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:  # eight bytes of length, then the header as JSON
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        about = json.loads(header.get("__metadata__", {}).get("mdn", "null"))
        config = about["config"]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or was not written by mdn.save ({error})") from error
    found = {
        "file": str(path),
        "bytes": size,
        "kind": about.get("kind"),
        "format": about.get("format"),
    }
    if about.get("kind") == "MDNRegressor":
        found["params"] = config["params"]
        found["target"] = config["params"].get("target")
        found |= {name: config.get(name) for name in ("feature_names", "target_names")}
        found["info"] = config.get("info") or {}
    return found


def _weights(module: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns what tells modules apart beside their tensors, and the tensors."""
    import torch

    tensors = module.state_dict()
    other = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise TypeError(f"model must hold tensors alone to be saved; {other[0]!r} is no tensor")
    return {"module": type(module).__name__, "heads": _heads(module)}, tensors


def _heads(module: nn.Module) -> dict[str, str]:
    """The options of the heads of mdn in a module, which its tensors do not show, by name."""
    return {
        name: part.extra_repr()
        for name, part in module.named_modules()
        if any(kind.__name__ == "MDNHead" for kind in type(part).__mro__)  # it lives above
    }


def _with_weights(
    module: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path
) -> nn.Module:
    """Returns the module with the weights of a file; it is unchanged if they do not fit."""
    from torch import nn

    if module is None:
        raise ValueError(
            f"{path} holds the weights of a {config['module']}, whose structure is code: make it "
            "anew and give it as mdn.load(path, module=...)"
        )
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch module; got {type(module).__name__}")
    heads = _heads(module)
    for name, options in config["heads"].items():
        if name in heads and heads[name] != options:
            raise ValueError(
                f"module must have the head of {path}, {name or 'the module'}: MDNHead({options}); "
                f"got MDNHead({heads[name]})"
            )
    for name, value in module.state_dict().items():
        if name in tensors and tensors[name].dtype != value.dtype:
            raise ValueError(
                f"module must have the dtypes of {path}: {name} is {tensors[name].dtype} there and "
                f"{value.dtype} here; convert it by module.to(dtype)"
            )
    try:
        copy.deepcopy(module).load_state_dict(tensors)  # which may fail halfway
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"module does not have the layers of {path}: {reason}") from None
    module.load_state_dict(tensors)
    return module.eval()


def _checksum(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the description and of every tensor with its name, dtype and shape."""
    import torch

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

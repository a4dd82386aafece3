"""Copies of a run: of the weights in memory, of everything in a checkpoint file."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_path
from ._data import Batch, Rows

__all__ = [
    "FORMAT",
    "named_tensors",
    "snapshot",
    "restore",
    "check_checkpoint",
    "fingerprint",
    "write",
    "read",
]

# Stands in every checkpoint; a change of its contents changes the number.
FORMAT = "mdn.fit/1"


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers; state_dict() leaves out those that are not persistent."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies the parameters and buffers."""
    return {name: t.detach().clone() for name, t in named_tensors(module).items()}


@torch.no_grad()
def restore(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Writes a snapshot back in place, so that an optimizer still holds the parameters."""
    for name, t in named_tensors(module).items():
        t.copy_(saved[name])


def check_checkpoint(checkpoint: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    """Refuses a checkpoint that would be overwritten or cannot be written, before any training."""
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True needs checkpoint, the file to go on from; got None")
        return None
    check_path("checkpoint", checkpoint)
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(
            f"checkpoint {path} exists: pass resume=True to go on from it, or delete it"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"checkpoint {path} cannot be written: create the folder {path.parent} first"
        )
    return path


def fingerprint(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Rows | Iterable[Batch],
    val: Rows | Iterable[Batch] | None,
    **options: object,
) -> dict[str, str]:
    """Describes what must be the same for a resumed run to equal one without a break."""
    shapes = {name: tuple(t.shape) for name, t in named_tensors(module).items()}
    size = sum(math.prod(shape) for shape in shapes.values())
    crc = zlib.crc32(repr(shapes).encode())
    found = {
        "train": _describe(train),
        "val": _describe(val),
        "module": f"{len(shapes)} tensors of {size} numbers, crc {crc:08x}",
        "optimizer": type(optimizer).__name__,
        **{name: repr(value) for name, value in options.items()},
    }
    for index, group in enumerate(optimizer.param_groups):
        prefix = f"param_groups[{index}]." if index else ""
        found |= {prefix + key: repr(value) for key, value in group.items() if key != "params"}
    return found


def _describe(data: Rows | Iterable[Batch] | None) -> str:
    if data is None:
        return "None"
    if not isinstance(data, Rows):
        length = f"{len(data)}" if isinstance(data, Sized) else "unknown many"
        return f"{type(data).__name__} of {length} batches"
    crc = 0
    for t in data.named.values():
        # As bytes, since NumPy has no bfloat16.
        crc = zlib.crc32(t.cpu().contiguous().view(torch.uint8).numpy().data, crc)
    shapes = ", ".join(f"{part} {tuple(t.shape)} {t.dtype}" for part, t in data.named.items())
    return f"{shapes}, crc {crc:08x}"


def write(path: Path, saved: dict[str, Any]) -> None:
    """Writes a checkpoint atomically: the file is the old one or the new one, never a part."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save(saved, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without executing code."""
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # A damaged file makes the unpickler raise anything.
        raise ValueError(
            f"checkpoint {path} cannot be read (damaged, or another kind of file): delete it or "
            "name another"
        ) from error
    if not (isinstance(saved, dict) and saved.get("format") == FORMAT):
        raise ValueError(
            f"checkpoint {path} was not written by this version of fit: delete it or name another"
        )
    return saved

"""The checkpoint file of a run, and the fingerprint that ties it to its run."""

from __future__ import annotations

import math
import os
import pickle
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._data import Batch

FORMAT = "mdn.fit/1"


def check_checkpoint(checkpoint: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True needs checkpoint, the file to go on from; got None.")
        return None
    path = Path(checkpoint)
    if path.exists() and not resume:
        raise FileExistsError(
            f"checkpoint {path} exists: pass resume=True to go on from it, or delete it."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"checkpoint {path} cannot be written: there is no {path.parent}.")
    return path


def fingerprint(
    run: Run,
    train: tuple[Tensor, ...] | Iterable[Batch],
    val: tuple[Tensor, ...] | Iterable[Batch] | None,
    batch_size: int | None,
) -> dict[str, str]:
    """What must be the same for a resumed run to give the result of one without a break."""
    shapes = {name: tuple(t.shape) for name, t in named_tensors(run.module).items()}
    size = sum(math.prod(shape) for shape in shapes.values())
    found = {
        "train": _describe(train),
        "val": _describe(val),
        "module": f"{len(shapes)} tensors of {size} numbers, "
        f"crc {zlib.crc32(repr(shapes).encode()):08x}",
        "batch_size": repr(batch_size),
        "clip_norm": repr(run.clip_norm),
        "seed": repr(run.seed),
        "optimizer": type(run.optimizer).__name__,
    }
    for index, group in enumerate(run.optimizer.param_groups):
        prefix = f"param_groups[{index}]." if index else ""
        found |= {prefix + key: repr(value) for key, value in group.items() if key != "params"}
    return found


def _describe(data: tuple[Tensor, ...] | Iterable[Batch] | None) -> str:
    if data is None:
        return "None"
    if not isinstance(data, tuple):
        length = len(data) if hasattr(data, "__len__") else "?"
        return f"{type(data).__name__} of {length} batches"
    crc = 0
    for t in data:
        crc = zlib.crc32(t.cpu().contiguous().view(torch.uint8).numpy(), crc)
    shapes = ", ".join(
        f"{part} {tuple(t.shape)} {t.dtype}"
        for part, t in zip(("x", "y", "weight"), data, strict=False)
    )
    return f"{shapes}, crc {crc:08x}"


def write(path: Path, saved: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        torch.save(saved, part)
        os.replace(part, path)  # Atomic: a reader sees the old file or the new one.
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    saved: Any = None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    if not (isinstance(saved, dict) and saved.get("format") == FORMAT):
        raise ValueError(f"checkpoint {path} was not written by this version of fit.")
    return saved

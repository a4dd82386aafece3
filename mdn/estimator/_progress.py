"""What surrounds a fit: the number of threads and the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ._base_models import Report

__all__ = ["progress", "threads"]


@contextmanager
def threads(n_jobs: int | None) -> Iterator[None]:
    """Sets the number of threads of torch and the trees, and restores it afterwards."""
    if n_jobs is None:
        yield
        return
    from joblib import cpu_count
    from threadpoolctl import threadpool_limits

    count = n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def progress(wanted: bool) -> Iterator[Report]:
    """Yields a function that shows the stages on standard error; rich is loaded only for that."""
    if not wanted:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    shown = Progress(
        TextColumn("{task.description:16}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total)
        shown.update(tasks[stage], completed=done)

    with shown:
        yield report

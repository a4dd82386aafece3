"""Optimizers of torch that do not load torch's compiler, whose import takes about a second.

torch marks the methods of its optimizers for the compiler, by decorators that import it when one is
first called.  Here the same methods are called without the decorators.  A version of torch with
other decorators would import the compiler again; the numbers are the same in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["LBFGS", "Adam", "AdamW"]


class _WithoutCompiler(Optimizer):
    """The methods that all optimizers share."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        unwrap(Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return unwrap(Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        unwrap(Optimizer.load_state_dict)(self, state_dict)


class Adam(_WithoutCompiler, torch.optim.Adam):
    """``torch.optim.Adam``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; returns the loss that ``closure`` gave."""
        return unwrap(torch.optim.Adam.step)(self, closure)


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """``torch.optim.AdamW``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; returns the loss that ``closure`` gave."""
        return unwrap(torch.optim.AdamW.step)(self, closure)


class LBFGS(_WithoutCompiler, torch.optim.LBFGS):
    """``torch.optim.LBFGS``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step of several evaluations of ``closure``; returns the loss before it."""
        return unwrap(torch.optim.LBFGS.step)(self, closure)

"""On how many hard inputs each implementation of the mixture log-likelihood is wrong.

Run from the root of the repository::

    python -m benchmarks.stability [--verbose]

Every implementation is given the hard rows of ``benchmarks/torture.py`` in four dtypes; value and
all gradients are compared with 100-digit arithmetic at the same rounded inputs. A case fails on a
NaN, on an infinity where the truth is representable, or on an error above 1 % (half types: 5 %) of
the natural scale of the tensor. The exit status is 1 if ours fails anything in float32 or float64.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarks.exact import Fault, judge
from benchmarks.torture import TORTURE, Case, is_meaningful, rounded
from mdn.functional import gaussian_mixture_log_prob

__all__ = ["IMPLEMENTATIONS", "failures", "main"]

LogProb = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OURS = "mdn.functional"
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def same_family(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Returns log densities by torch.distributions, without its checks, which raise on NaN."""
    components = Independent(Normal(loc, log_scale.exp(), validate_args=False), 1)
    mixture = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(mixture, components, validate_args=False).log_prob(y)


def exp_then_log(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Returns the logarithm of the sum of products of densities."""
    scale = log_scale.exp()
    z = (y.unsqueeze(-2) - loc) / scale
    density = torch.exp(-0.5 * z**2) / (scale * math.sqrt(2.0 * math.pi))  # (K, D)
    return torch.log((torch.softmax(logits, -1) * density.prod(-1)).sum(-1))


def log_sum_exp(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Returns the logsumexp of log_softmax plus log densities, with the scale as a parameter."""
    scale = log_scale.exp()
    z = (y.unsqueeze(-2) - loc) / scale
    log_density = (-0.5 * z**2 - scale.log() - LOG_SQRT_2PI).sum(-1)  # (K,)
    return torch.logsumexp(torch.log_softmax(logits, -1) + log_density, -1)


IMPLEMENTATIONS: dict[str, LogProb] = {
    OURS: gaussian_mixture_log_prob,
    "MixtureSameFamily": same_family,
    "log_softmax + logsumexp": log_sum_exp,
    "exp, then log": exp_then_log,
}


def failures(log_prob: LogProb, case: Case, dtype: torch.dtype) -> list[Fault]:
    """Returns the faults of value and gradients in one case."""
    row = rounded(case, dtype)
    inputs = [torch.tensor([a], dtype=dtype, requires_grad=True) for a in row]  # a batch of one
    value = log_prob(*inputs)
    grads = torch.autograd.grad(value.sum(), inputs)
    got = {"value": value} | dict(zip(row._fields, grads, strict=True))
    return judge(row, dtype, got, strict=False)


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns 1 if ours fails in float32 or float64, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stability",
        description="Count the hard inputs on which each mixture log-likelihood is wrong.",
    )
    parser.add_argument("--verbose", action="store_true", help="list the cases that fail, and how")
    verbose = parser.parse_args(argv).verbose

    cases = {dtype: [c for c in TORTURE if is_meaningful(c, dtype)] for dtype in DTYPES}
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
    details, ours_failed = [], False
    print("cases that fail (of these with a NaN); value and all gradients\n")
    heads = (f"{names[dtype]} of {len(cases[dtype])}" for dtype in DTYPES)
    print(f"{'':24}" + "".join(f"{head:>16}" for head in heads))
    for label, log_prob in IMPLEMENTATIONS.items():
        entries = []
        for dtype in DTYPES:
            found = {c.name: failures(log_prob, c, dtype) for c in cases[dtype]}
            found = {name: faults for name, faults in found.items() if faults}
            with_nan = sum(any(f.kind == "nan" for f in faults) for faults in found.values())
            entries.append(f"{len(found)} ({with_nan})")
            ours_failed |= label == OURS and bool(found) and dtype.itemsize >= 4
            details += [
                f"{label}, {names[dtype]}: {name}: {faults[0]}"
                + (f" and {len(faults) - 1} more" if len(faults) > 1 else "")
                for name, faults in found.items()
            ]
        print(f"{label:24}" + "".join(f"{entry:>16}" for entry in entries))
    if verbose and details:
        print("\n" + "\n".join(details))
    return int(ours_failed)


if __name__ == "__main__":
    sys.exit(main())

"""Speed, accuracy and memory of the methods of a mixture, compared with named rivals.

Run from the root of the repository::

    python -m benchmarks.distribution [--quick]

Each line is a method at one size.  Ours and the rival are called alternately, in bursts, in one
process with one thread unless the line says otherwise, and the medians of their times are compared:
other load on the machine slows both, so the ratios are reliable and the milliseconds are not.  Both
get the same inputs; the difference of their results, or the error of ours, is printed in the same
line.  The CRPS and the memory are measured in new processes.  The memory of a method is the growth
of the peak minus the size of its result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scoringrules
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from mdn import GaussianMixture
from mdn.functional import full_gaussian_mixture_log_prob, gaussian_mixture_log_prob
from mdn.nn import MDNHead

__all__ = ["FULL", "QUICK", "Line", "Sizes", "main", "measure", "peak_growth"]

ROOT = Path(__file__).parents[1]
MSF = "MixtureSameFamily"
GIB = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; getrusage counts KiB on Linux


class Sizes(NamedTuple):
    """The sizes of the benchmark; tuples are rows, components, dimensions."""

    diagonal: tuple[tuple[int, int, int], ...]
    full: tuple[tuple[int, int, int], ...]
    rows: int  # of quantiles, samples, CRPS, modes and regions
    brentq_points: int  # quantiles by brentq; its time is extrapolated to all
    draws: int
    crps_components: tuple[int, ...]
    memory_rows: int
    seconds: float  # duration of the repetitions of a pair
    rounds: int  # least number of repetitions
    has_goals: bool  # whether the goals apply


FULL = Sizes(
    diagonal=((256, 5, 1), (8192, 5, 1), (8192, 20, 1), (100_000, 10, 1), (8192, 10, 8)),
    full=((8192, 5, 2), (8192, 5, 8), (8192, 5, 32)),
    rows=10_000,
    brentq_points=300,
    draws=1000,
    crps_components=(5, 10, 30),
    memory_rows=1_000_000,
    seconds=3.0,
    rounds=5,
    has_goals=True,
)
QUICK = Sizes(
    diagonal=((256, 5, 1), (2048, 5, 1), (2048, 20, 1), (16_384, 10, 1), (2048, 10, 8)),
    full=((1024, 5, 2), (1024, 5, 8), (512, 5, 32)),
    rows=500,
    brentq_points=50,
    draws=500,
    crps_components=(5, 10, 30),
    memory_rows=20_000,
    seconds=0.1,
    rounds=3,
    has_goals=False,
)

# Goals for the ratio of the rival's time to ours at the full sizes, by (rows, K, D) or by method.
DIAGONAL_GOALS = {(8192, 5, 1): 3.0, (100_000, 10, 1): 4.0}
FULL_GOALS = {8: 5.0, 32: 5.0}  # by D, from the output of a network to its gradients
CRPS_GOALS = {5: 7.0, 30: 9.0}  # by K
ICDF_GOAL, SAMPLE_GOAL = 90.0, 5.0
ICDF_ERROR_GOAL = 1e-12  # of the cdf at the quantile
MEMORY_GOAL = 2 * GIB

N_COMPONENTS = 10  # of quantiles, samples, modes and regions
MEMORY_COMPONENTS = 40
HEAD_FEATURES = 16
LEVELS = 99
COVERAGE = 0.9
BURST = 0.05  # seconds that one side runs before the other
MODE_GRID, MODE_GRID_ROWS = 2001, 1000  # grid on which a density above the mode is searched


class Line(NamedTuple):
    """One line of the table."""

    method: str
    rival: str  # "" if there is none
    ours: float  # median seconds; bytes for memory
    ratio: float | None  # seconds of the rival divided by ours
    goal: str  # "" if there is none
    reached: bool | None
    note: str


def measure(sizes: Sizes) -> Iterator[Line]:
    """Yields the lines of the table, each as soon as it is measured."""
    # First, while this process is small: a child process starts with its parent's peak.
    for method in ("icdf", "crps", "sample"):
        yield _memory(method, sizes)
    for dtype in (torch.float32, torch.float64):
        for n, k, d in sizes.diagonal:
            yield _diagonal(n, k, d, dtype, sizes)
        yield _one_tensor(*sizes.diagonal[1], dtype, sizes)
    for n, k, d in sizes.full:
        yield _full(n, k, d, sizes)
        yield _full_head(n, k, d, sizes)
    yield from _icdf(sizes)
    yield _sample(sizes)
    for k in sizes.crps_components:
        for threads in sorted({1, os.cpu_count() or 1}):
            yield _crps(k, threads, sizes)
    yield _modes(sizes)
    yield _hdr(sizes)


# --- the rivals ---------------------------------------------------------------------------------


def same_family(y: Tensor, logits: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Returns log densities by torch.distributions, as in its documentation."""
    components = Independent(Normal(loc, log_scale.exp()), 1)
    return MixtureSameFamily(Categorical(logits=logits), components).log_prob(y)


def same_family_full(y: Tensor, logits: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Returns log densities by torch.distributions, with full covariance."""
    components = MultivariateNormal(loc, scale_tril=scale_tril)
    return MixtureSameFamily(Categorical(logits=logits), components).log_prob(y)


def brentq_icdf(p: float, weights: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> float:
    """Returns one quantile of one mixture."""
    low, high = loc.min() - 10 * scale.max(), loc.max() + 10 * scale.max()
    return brentq(lambda y: weights @ ndtr((y - loc) / scale) - p, low, high, xtol=1e-12)


# --- the lines ----------------------------------------------------------------------------------


def _diagonal(n: int, k: int, d: int, dtype: torch.dtype, sizes: Sizes) -> Line:
    y, *leaves = _mixture(n, k, d, dtype)
    leaves = [a.requires_grad_() for a in leaves]
    ours = _with_gradients(gaussian_mixture_log_prob, y, leaves)
    rival = _with_gradients(same_family, y, leaves)
    times = _race(ours, rival, sizes)
    judged = sizes.has_goals and dtype == torch.float32  # the goals are for float32
    goal = DIAGONAL_GOALS.get((n, k, d)) if judged else None
    name = f"log_prob + gradients {n}x{k}x{d} {_short(dtype)}"
    return _line(name, MSF, times, goal, _difference(ours(), rival()))


def _one_tensor(n: int, k: int, d: int, dtype: torch.dtype, sizes: Sizes) -> Line:
    """Measures parameters split from one tensor: ours as MDNHead, (P, N), the rival (N, P)."""
    y, logits, loc, log_scale = _mixture(n, k, d, dtype)
    wide = torch.cat([logits, loc.flatten(1), log_scale.flatten(1)], 1)
    tall = wide.t().contiguous().requires_grad_()
    wide.requires_grad_()
    parts = [k, k * d, k * d]

    def from_tall(y: Tensor, out: Tensor) -> Tensor:
        logits, loc, log_scale = out.split(parts)
        loc, log_scale = (a.reshape(k, d, n).permute(2, 0, 1) for a in (loc, log_scale))
        return gaussian_mixture_log_prob(y, logits.t(), loc, log_scale)

    def from_wide(y: Tensor, out: Tensor) -> Tensor:
        logits, loc, log_scale = out.split(parts, 1)
        return same_family(y, logits, loc.reshape(n, k, d), log_scale.reshape(n, k, d))

    ours, rival = _with_gradients(from_tall, y, [tall]), _with_gradients(from_wide, y, [wide])
    times = _race(ours, rival, sizes)
    values, other = ours(), rival()
    note = _difference((values[0], values[1].t()), other)
    name = f"log_prob, leaves of a head {n}x{k}x{d} {_short(dtype)}"
    return _line(name, MSF, times, None, note)


def _full(n: int, k: int, d: int, sizes: Sizes) -> Line:
    g = _generator()
    y, logits, loc = (torch.randn(*s, generator=g) for s in ((n, d), (n, k), (n, k, d)))
    lower = torch.randn(n, k, d, d, generator=g).mul_(0.3 / math.sqrt(d)).tril_(-1)
    lower.diagonal(dim1=-2, dim2=-1).copy_(torch.rand(n, k, d, generator=g).add_(0.5))
    leaves = [a.requires_grad_() for a in (logits, loc, lower)]
    ours = _with_gradients(full_gaussian_mixture_log_prob, y, leaves)
    rival = _with_gradients(same_family_full, y, leaves)
    times = _race(ours, rival, sizes)
    # our leaf is a factor of the precision: the rival gets its inverse for the same density
    part = slice(0, 64)
    tril = torch.linalg.inv(lower[part].detach().double().mT)  # (P P')^-1 = (P'^-1)(P'^-1)'
    scale_tril = torch.linalg.cholesky(tril @ tril.mT).float()
    some = [a.detach()[part] for a in (y, logits, loc)]
    values = full_gaussian_mixture_log_prob(*some, lower.detach()[part])
    note = _difference((values,), (same_family_full(*some, scale_tril),))
    name = f"full covariance, dense factor {n}x{k}x{d} f32"
    return _line(name, MSF, times, None, note)


def _full_head(n: int, k: int, d: int, sizes: Sizes) -> Line:
    """Measures log density and gradients including the linear layer that makes the parameters."""
    g = _generator()
    h, y = torch.randn(n, HEAD_FEATURES, generator=g), torch.randn(n, d, generator=g)
    head = MDNHead(HEAD_FEATURES, d, k, covariance_type="full")
    other = torch.nn.Linear(HEAD_FEATURES, head.linear.out_features)
    row, column = torch.tril_indices(d, d, -1)
    parts = [k, k * d, k * d, k * len(row)]

    def scale_tril_head(y: Tensor, *_: Tensor) -> Tensor:
        logits, loc, raw, off = other(h).split(parts, 1)
        scale = torch.nn.functional.softplus(raw.reshape(n, k, d)) + head.min_scale
        lower = torch.diag_embed(scale)
        lower[..., row, column] = off.reshape(n, k, -1)
        return same_family_full(y, logits, loc.reshape(n, k, d), lower)

    ours = _with_gradients(lambda y, *_: head(h).log_prob(y), y, [*head.parameters()])
    rival = _with_gradients(scale_tril_head, y, [*other.parameters()])
    times = _race(ours, rival, sizes)
    note = "linear layer included; other parameters, so other values"
    goal = FULL_GOALS.get(d) if sizes.has_goals else None
    return _line(f"full covariance, MDNHead {n}x{k}x{d} f32", f"Linear + {MSF}", times, goal, note)


def _icdf(sizes: Sizes) -> Iterator[Line]:
    n, points = sizes.rows, sizes.brentq_points
    _, logits, loc, log_scale = _mixture(n, N_COMPONENTS, 1, torch.float64)
    dist = GaussianMixture(logits, loc, log_scale.exp())
    p = torch.arange(1, LEVELS + 1, dtype=torch.float64).unsqueeze(-1) / (LEVELS + 1)  # (L, 1)
    w, m, s = (a.numpy() for a in (dist.weights, loc[..., 0], dist.scale[..., 0]))
    pick = np.random.default_rng(0).integers((LEVELS, n), size=(points, 2))
    found = np.empty(points)

    def rival() -> None:
        for i, (level, row) in enumerate(pick):
            found[i] = brentq_icdf(float(p[level, 0]), w[row], m[row], s[row])

    times = _race(lambda: dist.icdf(p), rival, sizes)
    times = (times[0], times[1] * n * LEVELS / points)
    y = dist.icdf(p)[..., 0].numpy()  # (L, N)
    apart = np.abs(y[pick[:, 0], pick[:, 1]] - found).max()
    name = f"icdf, {n} mixtures x {LEVELS} levels, K={N_COMPONENTS} f64"
    goal = ICDF_GOAL if sizes.has_goals else None
    yield _line(name, f"brentq, {points} scaled up", times, goal, f"differ by {apart:.0e}")
    cdf = sum(w[:, k] * ndtr((y - m[:, k]) / s[:, k]) for k in range(N_COMPONENTS))
    worst = float(np.abs(cdf - p.numpy()).max())
    goal_text = f"< {ICDF_ERROR_GOAL:.0e}"
    note = f"worst |F(icdf(p)) - p| {worst:.1e}"
    yield Line("", "scipy's ndtr", times[0], None, goal_text, worst < ICDF_ERROR_GOAL, note)


def _sample(sizes: Sizes) -> Line:
    n, draws = sizes.rows, sizes.draws
    _, logits, loc, log_scale = _mixture(n, N_COMPONENTS, 1, torch.float32)
    dist, g = GaussianMixture(logits, loc, log_scale.exp()), _generator()
    components = Independent(Normal(loc, log_scale.exp()), 1)
    other = MixtureSameFamily(Categorical(logits=logits), components)
    times = _race(lambda: dist.sample((draws,), generator=g), lambda: other.sample((draws,)), sizes)
    error = dist.sample((draws,), generator=g).mean(0) - dist.mean
    worst = float((error / dist.stddev).abs().max() * math.sqrt(draws))
    goal = SAMPLE_GOAL if sizes.has_goals else None
    name = f"sample, {n} mixtures x {draws} draws, K={N_COMPONENTS} f32"
    return _line(name, MSF, times, goal, f"means within {worst:.1f} standard errors")


def _crps(k: int, threads: int, sizes: Sizes) -> Line:
    quick = sizes is QUICK
    # in a new process, like a script: earlier allocations decide whether the rival's large arrays
    # come from the system, page by page, or from memory that malloc has kept
    ours, rival, apart = _in_new_process(f"crps_race({k}, {threads}, quick={quick})")
    # the goals are for all cores; numpy uses one thread in any case
    judged = sizes.has_goals and threads == (os.cpu_count() or 1)
    name = f"crps, {sizes.rows} rows, K={k} f64, {threads} thread{'s' * (threads > 1)}"
    goal = CRPS_GOALS.get(k) if judged else None
    return _line(name, "scoringrules, numpy", (ours, rival), goal, f"differ by {apart:.0e}")


def crps_race(k: int, threads: int, *, quick: bool) -> list[float]:
    """Returns median seconds of ours and of the rival, and the largest difference of the scores."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(threads)
    y, logits, loc, log_scale = _mixture(sizes.rows, k, 1, torch.float64)
    dist = GaussianMixture(logits, loc, log_scale.exp())
    arrays = y[:, 0], loc[..., 0], dist.scale[..., 0], dist.weights
    arrays = tuple(a.numpy() for a in arrays)

    def rival() -> np.ndarray:
        return scoringrules.crps_mixnorm(*arrays, backend="numpy")

    times = _race(lambda: dist.crps(y), rival, sizes)
    return [*times, float(np.abs(dist.crps(y).numpy() - rival()).max())]


def _modes(sizes: Sizes) -> Line:
    _, logits, loc, log_scale = _mixture(sizes.rows, N_COMPONENTS, 1, torch.float64)
    dist = GaussianMixture(logits, loc, log_scale.exp())
    seconds = _time(dist.modes, sizes)
    some = dist[:MODE_GRID_ROWS]
    # from the lowest loc to the highest: all modes are between them
    share = torch.linspace(0, 1, MODE_GRID, dtype=torch.float64).reshape(-1, 1, 1)
    grid = torch.lerp(some.loc.amin(-2), some.loc.amax(-2), share)  # (G, n, 1)
    excess = some.log_prob(grid).amax(0) - some.modes().log_density[:, 0]
    note = f"grid exceeds the highest mode by {max(0.0, float(excess.max())):.0e} nats"
    return Line(_method_name("modes", sizes), "", seconds, None, "", None, note)


def _hdr(sizes: Sizes) -> Line:
    _, logits, loc, log_scale = _mixture(sizes.rows, N_COMPONENTS, 1, torch.float64)
    dist = GaussianMixture(logits, loc, log_scale.exp())
    seconds = _time(lambda: dist.hdr(COVERAGE), sizes)
    ends = dist.hdr(COVERAGE).intervals.movedim((1, 2), (0, 1)).numpy()  # (C, 2, N)
    w, m, s = (a.numpy() for a in (dist.weights, loc[..., 0], dist.scale[..., 0]))
    cdf = sum(w[:, k] * ndtr((ends - m[:, k]) / s[:, k]) for k in range(N_COMPONENTS))
    worst = np.abs(np.nansum(cdf[:, 1] - cdf[:, 0], 0) - COVERAGE).max()
    note = f"worst |probability - {COVERAGE}| {worst:.0e}"
    return Line(_method_name("hdr", sizes), "", seconds, None, "", None, note)


def _memory(method: str, sizes: Sizes) -> Line:
    size = _in_new_process(f"peak_growth({method!r}, {sizes.memory_rows})")
    name = f"{method}, {sizes.memory_rows} mixtures, K={MEMORY_COMPONENTS} f32"
    if not sizes.has_goals:
        return Line(name, "", size, None, "", None, "peak memory beyond inputs and output")
    goal = f"< {MEMORY_GOAL / GIB:.0f} GiB"
    note = "peak memory beyond inputs and output"
    return Line(name, "", size, None, goal, size < MEMORY_GOAL, note)


def peak_growth(method: str, rows: int) -> int:
    """Returns the bytes by which the peak of this (new) process grows, without the result."""
    torch.set_num_threads(1)
    g = _generator()
    logits, loc, scale, y = (
        torch.randn(*shape, generator=g)
        for shape in (
            (rows, MEMORY_COMPONENTS),
            (rows, MEMORY_COMPONENTS, 1),
            (rows, MEMORY_COMPONENTS, 1),
            (rows, 1),
        )
    )
    # In place and without checks: memory that a freed temporary leaves would hide growth.
    scale.mul_(0.3).exp_()
    dist = GaussianMixture(logits, loc, scale, validate_args=False)
    methods: dict[str, Callable[[GaussianMixture, Tensor], Tensor]] = {
        "icdf": lambda dist, y: dist.icdf(0.9),
        "crps": lambda dist, y: dist.crps(y),
        "sample": lambda dist, y: dist.sample(generator=g),
    }
    small = GaussianMixture(logits[:8], loc[:8], scale[:8])
    methods[method](small, y[:8])  # loads everything that is loaded only once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = methods[method](dist, y)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(0, (after - before) * RSS_UNIT - out.numel() * out.element_size())


# --- inside -------------------------------------------------------------------------------------


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _mixture(n: int, k: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns samples y (n, d) of mixtures, logits (n, k), loc and log scale (n, k, d)."""
    g = _generator()
    logits = torch.randn(n, k, generator=g)
    loc = 3 * torch.randn(n, k, d, generator=g)
    log_scale = 0.3 * torch.randn(n, k, d, generator=g)
    y = GaussianMixture(logits, loc, log_scale.exp()).sample(generator=g)
    return y.to(dtype), logits.to(dtype), loc.to(dtype), log_scale.to(dtype)


def _with_gradients(
    log_prob: Callable[..., Tensor], y: Tensor, leaves: list[Tensor]
) -> Callable[[], tuple[Tensor, ...]]:
    """Returns a function that computes log density and gradients, as in a step of training."""

    def step() -> tuple[Tensor, ...]:
        value = log_prob(y, *leaves)
        return value.detach(), *torch.autograd.grad(value.sum(), leaves)

    return step


def _race(
    ours: Callable[[], object], rival: Callable[[], object], sizes: Sizes
) -> tuple[float, float]:
    """Returns the median seconds of both, called alternately after one call each.

    They alternate in bursts of calls, so that neither starts from the other's memory and caches.
    """
    ours(), rival()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + sizes.seconds
    while len(times[0]) < sizes.rounds or time.perf_counter() < end:
        for call, seconds in zip((ours, rival), times, strict=True):
            begin = start = time.perf_counter()
            while start - begin < BURST or start == begin:
                call()
                now = time.perf_counter()
                seconds.append(now - start)
                start = now
    return statistics.median(times[0]), statistics.median(times[1])


def _time(call: Callable[[], object], sizes: Sizes) -> float:
    """Returns the median seconds of a method without a rival."""
    seconds = []
    for _ in range(min(3, sizes.rounds)):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _difference(ours: tuple[Tensor, ...], rival: tuple[Tensor, ...]) -> str:
    """Returns the largest difference, relative to the largest value of its tensor."""
    differences = (
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, rival, strict=True)
    )
    return f"differ by {max(differences):.0e}"


def _line(
    method: str, rival: str, times: tuple[float, float], goal: float | None, note: str
) -> Line:
    ratio = times[1] / times[0]
    reached = None if goal is None else ratio >= goal
    text = "" if goal is None else f"> {goal:.0f}x"
    return Line(method, rival, times[0], ratio, text, reached, note)


def _method_name(method: str, sizes: Sizes) -> str:
    return f"{method}, {sizes.rows} mixtures, K={N_COMPONENTS} f64"


def _in_new_process(call: str) -> Any:
    """Returns the result of a function of this module, called in a new process."""
    code = f"import json; from benchmarks import distribution as d; print(json.dumps(d.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _short(dtype: torch.dtype) -> str:
    return f"f{8 * dtype.itemsize}"


def _row(line: Line) -> str:
    in_bytes = line.note.startswith("peak memory")
    ours = f"{line.ours / GIB:.2f} GiB" if in_bytes else f"{1e3 * line.ours:.3g} ms"
    ratio = "" if line.ratio is None else f"{line.ratio:.1f}x"
    reached = "" if line.reached is None else "reached" if line.reached else "MISSED"
    return (
        f"{line.method:49} {line.rival:26} {ours if line.method else '':>9} {ratio:>7} "
        f"{line.goal:>8} {reached:8} {line.note}"
    ).rstrip()


def main(argv: list[str] | None = None) -> int:
    """Prints the table; missed goals are no failure, because a busy machine misses some."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distribution",
        description="Compare the methods of a mixture with named rivals, in one run.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, without the goals")
    sizes = QUICK if parser.parse_args(argv).quick else FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    missed = judged = 0
    try:
        print("sizes are rows x components x dimensions; ratio: time of the rival / ours\n")
        print(f"{'method':49} {'rival':26} {'ours':>9} {'ratio':>7} {'goal':>8}")
        with torch.random.fork_rng(devices=[]):  # MixtureSameFamily draws from the global one
            torch.manual_seed(0)
            for line in measure(sizes):
                print(_row(line), flush=True)
                missed += line.reached is False
                judged += line.reached is not None
    finally:
        torch.set_num_threads(threads)
    print(f"\n{judged - missed} of {judged} goals reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())

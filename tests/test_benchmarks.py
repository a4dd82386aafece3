"""Tests of the benchmarks: what they compare, print and store; not how fast anything is."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats

import mdn
from benchmarks import distribution, roughness, stability
from benchmarks.uci import __main__ as uci
from benchmarks.uci import _methods, _report, _run
from benchmarks.uci._scores import Quantiles, pit_deviation, scores
from experiments import __main__ as experiments_main
from mdn import GaussianMixture, datasets
from mdn.datasets import SplitDataset

TINY = distribution.Sizes(
    diagonal=((8, 2, 1), (16, 3, 2)),
    full=((8, 2, 2),),
    rows=20,
    brentq_points=5,
    draws=50,
    crps_components=(1, 3),
    memory_rows=100,
    seconds=0.0,
    rounds=1,
    has_goals=False,
)


@pytest.fixture(scope="module")
def lines() -> list[distribution.Line]:
    """Every line at tiny sizes, as if they had goals."""
    with torch.random.fork_rng(devices=[]):
        return list(distribution.measure(TINY._replace(has_goals=True)))


def test_distribution_prints_one_row_a_line_and_restores_threads_and_random_state(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table; the global thread count and generator are what they were."""
    one = distribution.Line("icdf", "brentq", 2e-3, 95.5, "> 90x", True, "differ by 3e-13")
    missed = one._replace(method="crps", ratio=3.0, reached=False)
    seen = []

    def measure(sizes: distribution.Sizes) -> list[distribution.Line]:
        seen.append((sizes, torch.get_num_threads()))
        torch.rand(1)  # as MixtureSameFamily does
        return [one, missed]

    monkeypatch.setattr(distribution, "measure", measure)
    before = torch.get_num_threads(), torch.get_rng_state()
    assert distribution.main(["--quick"]) == 0
    assert distribution.main([]) == 0
    assert seen == [(distribution.QUICK, 1), (distribution.FULL, 1)]
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    out = capsys.readouterr().out
    assert re.search(r"^icdf +brentq +2 ms +95\.5x +> 90x reached +differ by 3e-13$", out, re.M)
    assert re.search(r"^crps .* 3\.0x .* MISSED", out, re.M)
    assert out.count("1 of 2 goals reached") == 2


def test_every_method_has_its_line(lines: list[distribution.Line]) -> None:
    """Each method of the list is measured, and times and sizes are positive."""
    measured = " ".join(line.method for line in lines)
    for method in ("log_prob", "head", "full", "icdf", "sample", "crps", "modes", "hdr"):
        assert method in measured, method
    assert all(line.ours > 0 for line in lines if not line.note.startswith("peak memory"))
    assert all(line.ratio is None or 0 < line.ratio < math.inf for line in lines)
    assert all(distribution._row(line) for line in lines)


def test_answers_agree_with_the_rival_or_are_exact(lines: list[distribution.Line]) -> None:
    """What is printed as a difference or an error is rounding: 1e-4 in float32, 1e-9 in float64."""
    found = []
    for line in lines:
        number = re.search(r"(?:differ by|\| |by )(\d\S*e[+-]\d+)", line.note)
        if number:
            found.append(line)
            limit = 1e-4 if "f32" in line.method else 1e-9
            assert float(number[1]) < limit, line
    assert len(found) >= len(lines) - 6  # the others: memory, draws, heads
    (error,) = (line for line in lines if line.note.startswith("worst |F"))
    assert error.reached and error.goal == "< 1e-12"


def test_memory_is_measured_only_against_a_goal_of_the_full_size(
    lines: list[distribution.Line],
) -> None:
    """Memory in a new process for icdf, crps and sample; far below the goal at tiny sizes."""
    memory = [line for line in lines if line.note.startswith("peak memory")]
    assert [line.method.split(",")[0] for line in memory] == ["icdf", "crps", "sample"]
    assert all(line.reached and line.goal == "< 2 GiB" for line in memory)
    assert all("GiB" in distribution._row(line) for line in memory)


def test_goals_name_sizes_that_are_measured() -> None:
    """A goal whose size is not in the list would never be judged."""
    assert set(distribution.DIAGONAL_GOALS) <= set(distribution.FULL.diagonal)
    assert set(distribution.FULL_GOALS) <= {d for _, _, d in distribution.FULL.full}
    assert set(distribution.CRPS_GOALS) <= set(distribution.FULL.crps_components)


def test_stability_lists_what_fails_and_ours_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On two hard cases the naive way is caught, ours passes and the status says so."""
    names = ("1000 scales, K=1", "scale 1e-08 in one, on the mean")
    few = [case for case in stability.TORTURE if case.name in names]
    assert len(few) == len(names)
    monkeypatch.setattr(stability, "TORTURE", few)
    assert stability.main(["--verbose"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mdn\.functional +0 \(0\) +0 \(0\)", out, re.M)
    assert "exp, then log, float64: 1000 scales, K=1: " in out


def test_stability_fails_where_ours_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1 if the implementation under our name goes wrong."""
    few = [case for case in stability.TORTURE if case.name == "1000 scales, K=1"]
    monkeypatch.setattr(stability, "TORTURE", few)
    monkeypatch.setattr(stability, "IMPLEMENTATIONS", {stability.OURS: stability.exp_then_log})
    assert stability.main([]) == 1
    assert "mdn.functional" in capsys.readouterr().out


# --- quality on the UCI sets --------------------------------------------------------------------

N_ROWS, N_TRAIN, N_SPLITS = 60, 54, 3


def _normal(loc: np.ndarray, scale: np.ndarray) -> GaussianMixture:
    loc, scale = (torch.as_tensor(a)[:, None, None] for a in (loc, scale))
    return GaussianMixture(torch.zeros(len(loc), 1, dtype=torch.float64), loc, scale)


def _some_normals(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(3.0, 2.0, n), rng.uniform(0.3, 2.0, n)
    return loc, scale, rng.normal(loc, scale)


def test_scores_of_a_normal_are_those_of_scipy_and_scoringrules() -> None:
    """NLL, CRPS, RMSE and coverage agree with references written another way."""
    loc, scale, y = _some_normals(200)
    found = scores(_normal(loc, scale), y)
    low, high = stats.norm.interval(0.9, loc, scale)
    assert found["nll"] == pytest.approx(-stats.norm.logpdf(y, loc, scale).mean(), rel=1e-12)
    assert found["crps"] == pytest.approx(scoringrules.crps_normal(y, loc, scale).mean(), rel=1e-12)
    assert found["rmse"] == pytest.approx(np.sqrt(((loc - y) ** 2).mean()), rel=1e-12)
    assert found["coverage"] == ((low <= y) & (y <= high)).mean()
    levels = np.arange(1, 100) / 100
    empirical = stats.ecdf(stats.norm.cdf(y, loc, scale)).cdf.evaluate(levels)
    assert found["pit_deviation"] == pytest.approx(np.abs(empirical - levels).mean(), rel=1e-12)


def test_scores_of_whole_numbers_are_those_of_the_rounded_law() -> None:
    """NLL is the log probability of the cell, CRPS the sum over whole numbers; of any mixture."""
    loc, scale, y = _some_normals(50)
    y = np.round(y)
    dist = _normal(loc, scale)
    found = scores(dist, y, integer=True)
    mass = stats.norm.cdf(y + 0.5, loc, scale) - stats.norm.cdf(y - 0.5, loc, scale)
    assert found["nll"] == pytest.approx(-np.log(mass).mean(), rel=1e-9)
    k = np.arange(-40, 60)[:, None]
    steps = (stats.norm.cdf(k + 0.5, loc, scale) - (y <= k)) ** 2
    assert found["crps"] == pytest.approx(steps.sum(0).mean(), abs=1e-7)
    assert scores(dist.discretize(1.0), y, integer=True) == found


def test_the_right_distribution_of_integers_has_its_nominal_coverage() -> None:
    """The coverage is 0.9 for the law that y was drawn from, whose interval covers far more."""
    rng = np.random.default_rng(0)
    loc, scale = rng.uniform(4.0, 6.0, 4000), np.full(4000, 0.6)
    y = np.round(rng.normal(loc, scale))
    found = scores(_normal(loc, scale), y, integer=True)["coverage"]
    low, high = (np.round(stats.norm.ppf(p, loc, scale)) for p in (0.05, 0.95))
    assert ((low <= y) & (y <= high)).mean() > 0.95
    assert found == pytest.approx(0.9, abs=0.015)
    # drawn between P(Y < y) and P(Y <= y) instead of spread over it
    edges = stats.norm.cdf((y - 0.5, y + 0.5), loc, scale)
    drawn = rng.uniform(*edges, (2000, 4000))
    assert found == pytest.approx(((drawn > 0.05) & (drawn < 0.95)).mean(), abs=1e-3)


def test_a_narrow_density_gains_nothing_on_whole_numbers() -> None:
    """A spike on the right number has a density without bound, but a probability of 1."""
    y = np.arange(5.0)
    spikes = _normal(y, np.full(5, 1e-9))
    assert scores(spikes, y)["nll"] < -19
    assert scores(spikes, y, integer=True)["nll"] == pytest.approx(0.0, abs=1e-12)


def test_quantiles_have_a_crps_but_no_nll() -> None:
    """99 quantiles of a normal give its CRPS to 2 %, its coverage exactly and its PIT to 1/99."""
    loc, scale, y = _some_normals(400)
    levels = np.arange(1, 100) / 100
    values = stats.norm.ppf(levels, loc[:, None], scale[:, None])
    found, exact = scores(Quantiles(levels, values, loc), y), scores(_normal(loc, scale), y)
    assert found["nll"] is None
    assert found["crps"] == pytest.approx(exact["crps"], rel=0.02)
    assert found["coverage"] == exact["coverage"]
    assert found["pit_deviation"] == pytest.approx(exact["pit_deviation"], abs=1 / 99)
    rounded = scores(Quantiles(levels, values, loc), np.round(y), integer=True)
    whole = scores(_normal(loc, scale), np.round(y), integer=True)
    assert rounded["crps"] == pytest.approx(whole["crps"], rel=0.03)
    assert rounded["coverage"] == pytest.approx(whole["coverage"], abs=0.01)


def test_pit_deviation_distinguishes_exact_from_narrow_and_wide() -> None:
    """Evenly spread PITs give 0 to the spacing; those of other scales give what the normal says."""
    n = 4000
    z = stats.norm.ppf((np.arange(n) + 0.5) / n)
    levels = np.arange(1, 100) / 100
    for factor in (1.0, 0.5, 2.0):  # the predicted scale
        pit = stats.norm.cdf(z / factor)
        truth = np.abs(stats.norm.cdf(factor * stats.norm.ppf(levels)) - levels).mean()
        assert pit_deviation(pit, pit) == pytest.approx(truth, abs=1 / n)
    assert pit_deviation(pit, pit) > 0.1


def test_pit_deviation_of_a_calibrated_discrete_law_is_zero() -> None:
    """Rows that occur as often as the law says, each spread over its step of the cdf."""
    mass = np.array([0.1, 0.25, 0.4, 0.2, 0.05])
    y = np.repeat(np.arange(5), (mass * 20).round().astype(int))
    cdf = mass.cumsum()
    assert pit_deviation((cdf - mass)[y], cdf[y]) == pytest.approx(0.0, abs=1e-12)
    assert pit_deviation(cdf[y], cdf[y]) > 0.1


def test_moments_and_paired_differences() -> None:
    """Mean and standard error as SciPy has it; a pair needs both, and a score that is there."""
    values = [1.0, 2.0, 4.0]
    found = _report.moments(values)
    assert found == pytest.approx((np.mean(values), stats.sem(values), 3))
    assert math.isnan(_report.moments([1.0]).error)
    ours = {0: {"nll": 1.0}, 1: {"nll": 2.0}, 2: {"nll": 3.0}}
    rival = {1: {"nll": 2.5}, 2: {"nll": None}, 3: {"nll": 0.0}}
    assert _report.paired(ours, rival, "nll") == [-0.5]


class StandIn:
    """A fast stand-in for ours: one normal around a plane; it records its options."""

    options_used: ClassVar[list[dict[str, Any]]] = []
    fails_at: int | None = None
    interrupted_at: int | None = None

    def __init__(self, **options: Any) -> None:
        self.options = options

    def fit(self, X: np.ndarray, y: np.ndarray) -> StandIn:
        StandIn.options_used.append(self.options)
        if self.options["random_state"] == StandIn.interrupted_at:
            raise KeyboardInterrupt
        if self.options["random_state"] == StandIn.fails_at:
            raise RuntimeError("the loss is NaN\nwith details")
        self.coef = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
        self.scale = np.std(y - np.c_[X, np.ones(len(X))] @ self.coef)
        return self

    def predict_distribution(self, X: np.ndarray) -> GaussianMixture:
        return _normal(np.c_[X, np.ones(len(X))] @ self.coef, np.full(len(X), self.scale))


def fit_plane(job: _methods.Job) -> _methods.Predict:
    """A rival that a new process can import."""
    return StandIn(random_state=-1).fit(job.X, job.y).predict_distribution


PLANE = _methods.Method("plane", "least squares", "numpy", fit_plane, "plane 1")


def _small(name: str) -> SplitDataset:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N_ROWS, 2))
    y = 100.0 + 5.0 * X[:, 0] + rng.normal(size=N_ROWS)
    orders = [rng.permutation(N_ROWS) for _ in range(N_SPLITS)]
    splits = tuple((order[:N_TRAIN], order[N_TRAIN:]) for order in orders)
    y = y.round() if name in _run.INTEGER else y
    return SplitDataset(name, X, y, splits, "target", "unit", "synthetic", "here")


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    """A fit seeds the global generators."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(state)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a benchmark of the stand-in on small sets of the same file format."""
    folder = tmp_path / "data" / "uci"
    folder.mkdir(parents=True)
    facts = {}
    for name in datasets.UCI_SETS:
        data = _small(name)
        train, test = (np.array(rows, dtype=np.uint16) for rows in zip(*data.splits, strict=True))
        path = folder / f"{name}.npz"
        np.savez(path, X=data.X, y=data.y, train=train, test=test)
        digest = datasets.hashlib.sha256(path.read_bytes()).hexdigest()
        facts[name] = datasets._UCI[name] | {"sha256": digest}
    monkeypatch.setattr(datasets, "_UCI", facts)
    monkeypatch.setenv("MDN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(mdn, "MDNRegressor", StandIn)
    monkeypatch.setattr(uci, "commit", lambda: "abc123")
    monkeypatch.setattr(uci, "code_version", lambda n, preset: "mdn 0 (1)")
    monkeypatch.setattr(StandIn, "options_used", [])
    monkeypatch.setattr(uci, "installed", {"ngboost": PLANE}.get)
    return tmp_path / "results" / "uci.json"


def _main(out: Path, *words: str) -> int:
    return uci.main([*words, "--out", str(out)])


def _records(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text(encoding="utf-8"))["records"]


def test_uci_measures_every_split_and_writes_what_it_prints(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record a set, split and method, with all scores; the same tables in the file and out."""
    assert _main(out, "--sets", "yacht,boston", "--splits", "2", "--rivals", "ngboost") == 0
    records = _records(out)
    keys = {(r["set"], r["split"], r["method"]) for r in records}
    assert keys == {
        (s, i, m) for s in ("yacht", "boston") for i in (0, 1) for m in ("mdn", "plane")
    }
    for r in records:
        assert (r["n_train"], r["n_test"], r["threads"]) == (N_TRAIN, N_ROWS - N_TRAIN, 1)
        assert all(math.isfinite(r[k]) for k in ("nll", "crps", "rmse", "fit_seconds"))
    data = _small("boston")
    train, test = data.splits[1]
    model = StandIn(random_state=1).fit(data.X[train], data.y[train])
    expected = scores(model.predict_distribution(data.X[test]), data.y[test])
    (found,) = (r for r in records if (r["set"], r["split"], r["method"]) == ("boston", 1, "mdn"))
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-5)
    printed = capsys.readouterr().out
    assert printed.strip() == out.with_suffix(".md").read_text(encoding="utf-8").strip()
    assert _main(out, "--report") == 0
    assert capsys.readouterr().out == printed


def test_uci_tables_say_mean_and_standard_error_goal_and_published(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of the NLL table can be worked out from the records by hand."""
    assert _main(out, "--sets", "yacht", "--rivals", "ngboost") == 0
    printed = capsys.readouterr().out
    ours = [r["nll"] for r in _records(out) if r["method"] == "mdn"]
    assert len(ours) == N_SPLITS
    mean, error = np.mean(ours), stats.sem(ours)
    row = next(line for line in printed.splitlines() if line.startswith("| yacht"))
    words = [word.strip() for word in row.strip("| ").split("|")]
    assert words[:3] == ["yacht", f"{N_TRAIN} + {N_ROWS - N_TRAIN}", "3"]
    assert words[3] == f"{mean:.3f} ± {error:.3f}"
    assert words[5:] == [
        "0.16 WGBoost",
        "-0.73 TabPFN v2",
        "< -0.85",
        f"{mean + 0.85:.3f} short",
    ]
    assert "mdn against plane: better in NLL on 0 of 1 sets and better in CRPS on 0" in printed
    assert "plane: plane 1, least squares (yacht)" in printed
    assert "--sets yacht --splits 20 --jobs 1 --preset default --rivals ngboost`" in printed
    assert str(out.parent) not in printed + out.read_text(encoding="utf-8")
    widths = {len(line) for line in printed.split("## NLL\n\n")[1].splitlines()[:3]}
    assert len(widths) == 1


def test_uci_goes_on_where_it_was_and_does_nothing_twice(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is missing is done; other code, other settings or --fresh do it again."""
    one = ("--sets", "yacht", "--splits", "1")
    _main(out, *one)
    first = _records(out)
    _main(out, "--sets", "yacht", "--splits", "3")
    assert [o["random_state"] for o in StandIn.options_used] == [0, 1, 2]
    assert _records(out)[0] == first[0]
    _main(out, *one, "--fresh")
    assert len(StandIn.options_used) == 4
    monkeypatch.setattr(uci, "code_version", lambda n, preset: "mdn 0 (2)")
    _main(out, *one)
    assert len(StandIn.options_used) == 5
    assert [r["version"] for r in _records(out)] == ["mdn 0 (2)", "mdn 0 (1)", "mdn 0 (1)"]


def test_uci_never_averages_two_versions(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a change of the code the old splits of a set do not count."""
    monkeypatch.setattr(_report, "GOALS", {})
    _main(out, "--sets", "yacht")
    (run,) = json.loads(out.read_text(encoding="utf-8"))["runs"]
    records = [r | {"nll": 1.0} for r in _records(out)]
    records[0] |= {"version": "mdn 0 (2)", "nll": 7.0, "run": "later"}
    text = _report.report(
        records, {run: {"commit": "a", "command": "b"}, "later": {"commit": "c", "command": "d"}}
    )
    assert re.search(r"^\| yacht .* \| 1 +\| 7\.000 ", text, re.M)
    assert "mdn 0 (1)" not in text


def test_uci_names_the_integer_target_and_the_preset(out: Path) -> None:
    """Its arguments are a seed, ``target="integer"`` for the wine, and the preset, no others."""
    _main(out, "--sets", "wine_red,yacht", "--splits", "1", "--preset", "both")
    assert StandIn.options_used == [
        {"random_state": 0, "target": "integer"},
        {"preset": "fast", "random_state": 0, "target": "integer"},
        {"random_state": 0},
        {"preset": "fast", "random_state": 0},
    ]
    wine = [r for r in _records(out) if r["set"] == "wine_red"]
    assert all(r["nll"] > 0 for r in wine)
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| mdn fast - mdn " in text
    assert "mdn fast against mdn: +0.000 nats on average over 2 sets" in text


def test_a_split_that_fails_is_named_and_tried_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are done; the error is kept in one line, and gone once the split succeeds."""
    monkeypatch.setattr(StandIn, "fails_at", 1)
    assert _main(out, "--sets", "yacht", "--rivals", "ngboost") == 0
    captured = capsys.readouterr()
    assert "yacht, split 1, mdn: RuntimeError: the loss is NaN\n" in captured.err
    assert "- yacht, split 1, mdn: RuntimeError: the loss is NaN\n" in captured.out
    assert re.search(r"^\| yacht .* \| 3 +\| \S+ ± \S+ \[2\] \|", captured.out, re.M)
    assert "(0/2)" in captured.out
    monkeypatch.setattr(StandIn, "fails_at", None)
    assert _main(out, "--sets", "yacht", "--rivals", "ngboost") == 0
    assert "Failed" not in capsys.readouterr().out
    assert [o["random_state"] for o in StandIn.options_used if o["random_state"] == 1] == [1, 1]


def test_a_score_that_is_not_finite_is_a_failure() -> None:
    """An infinite NLL would spoil a mean without a word."""

    def fit(job: _methods.Job) -> _methods.Predict:
        return lambda X: Quantiles(np.array([0.05, 0.95]), np.full((len(X), 2), np.inf), X[:, 0])

    task = _run.Task(_small("yacht"), 0, PLANE._replace(fit=fit))
    assert _run.measure(task)["error"] == "ArithmeticError: crps is not finite"


def test_uci_interrupted_keeps_what_is_finished(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, one line, the finished splits kept; the same command does the others."""
    monkeypatch.setattr(StandIn, "interrupted_at", 1)
    assert _main(out, "--sets", "yacht") == 1
    assert "interrupted; 2 of 3 left" in capsys.readouterr().err
    assert [r["split"] for r in _records(out)] == [0]
    assert [path.name for path in out.parent.iterdir()] == ["uci.json"]
    monkeypatch.setattr(StandIn, "interrupted_at", None)
    assert _main(out, "--sets", "yacht") == 0
    assert [r["split"] for r in _records(out)] == [0, 1, 2]


def test_parallel_jobs_give_the_same_numbers() -> None:
    """Two processes of one thread each; only the seconds and the order differ."""
    asked = _run.tasks([_small("yacht"), _small("wine_red")], [PLANE], 1)

    def numbers(jobs: int) -> list[dict[str, Any]]:
        records = sorted(_run.results(asked, jobs), key=lambda r: r["set"])
        assert [r["threads"] for r in records] == [1, 1]
        return [{k: a for k, a in r.items() if not k.endswith("_seconds")} for r in records]

    assert numbers(2) == numbers(1)


def test_two_runs_share_one_file(tmp_path: Path) -> None:
    """A record that another run wrote in the meantime is not lost."""
    a, b = (_run.Store(tmp_path / "uci.json") for _ in range(2))
    for store, name in ((a, "first"), (b, "second"), (a, "third")):
        record = {"set": name, "split": 0, "method": "m", "version": "", "settings": ""}
        store.add(record, {"started": name, "commit": "c"})
    assert {r["set"] for r in _records(tmp_path / "uci.json")} == {"first", "second", "third"}
    runs = json.loads((tmp_path / "uci.json").read_text(encoding="utf-8"))["runs"]
    assert set(runs) == {"first", "second", "third"}


def test_a_rival_that_is_not_installed_is_named_and_left_out(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says which and what to install."""
    assert _main(out, "--sets", "yacht", "--splits", "1", "--rivals", "xgboost,catboost") == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "not installed and left out: catboost, xgboost (pip install catboost xgboost)\n"
    )
    assert {r["method"] for r in _records(out)} == {"mdn"}


def test_uci_refuses_what_it_does_not_know(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for a wrong word, 1 for missing data, another file or nothing to report."""
    for words in (["--sets", "iris"], ["--rivals", "gpt"], ["--splits", "0"]):
        with pytest.raises(SystemExit) as stopped:
            uci.main(words)
        assert stopped.value.code == 2
    assert "must be some of boston, concrete" in capsys.readouterr().err
    assert _main(out, "--report") == 1
    assert "holds no result" in capsys.readouterr().err
    out.parent.mkdir()
    out.write_text("[1, 2]", encoding="utf-8")
    assert _main(out) == 1
    assert "is not a file of results" in capsys.readouterr().err
    out.unlink()
    monkeypatch.setenv("MDN_DATA", str(out.parent))
    assert _main(out) == 1
    assert "'boston' is read from a local copy" in capsys.readouterr().err


def test_code_version_changes_with_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of other defaults are not those of these; outside of git no commit is known."""
    monkeypatch.setattr(experiments_main, "ROOT", tmp_path)
    before = _run.code_version(500, "default")
    assert before == _run.code_version(900, "default")
    monkeypatch.setattr(_run, "revision", lambda n, fast: 10**6 + n + fast)
    found = {_run.code_version(n, preset) for n in (500, 9000) for preset in ("default", "fast")}
    assert len(found | {before}) == 5
    assert experiments_main.commit() == "unknown"


@pytest.mark.parametrize("folder", ["benchmarks", "experiments"])
def test_a_commit_is_dirty_by_code_not_by_results(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that writes its results into the tree does not call the next one's code changed."""
    monkeypatch.setattr(experiments_main, "ROOT", tmp_path)
    table = tmp_path / folder / "results" / "table.json"
    code = tmp_path / folder / "code.py"
    table.parent.mkdir(parents=True)

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    for path in (table, code):
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    first = experiments_main.commit()
    assert len(first) == 12
    table.write_text("2")
    assert experiments_main.commit() == first
    code.write_text("2")
    assert experiments_main.commit() == f"{first}-dirty"


@pytest.mark.parametrize("name", _methods.RIVALS)
def test_a_rival_predicts_in_the_unit_of_y(name: str) -> None:
    """On y = 1000 + 50 (x + noise / 5) it is worse than the truth, far better than no features."""
    rival = _methods.installed(name)
    if rival is None:
        pytest.skip(f"{name} is not installed (extra benchmark)")
    rng = np.random.default_rng(2)
    X = np.c_[rng.normal(size=300), np.full(300, 0.998)]  # the other column is constant
    y = 1000.0 + 50.0 * (X[:, 0] + 0.2 * rng.normal(size=300))
    data = SplitDataset("made", X, y, ((np.arange(200), np.arange(200, 300)),), "", "", "", "")
    record = _run.measure(_run.Task(data, 0, rival))
    assert "error" not in record
    truth = scoringrules.crps_normal(y[200:], 1000.0 + 50.0 * X[200:, 0], 10.0).mean()
    marginal = scoringrules.crps_normal(y[200:], y[:200].mean(), y[:200].std()).mean()
    assert truth < record["crps"] < 0.5 * marginal
    assert record["rmse"] < 0.5 * y.std()
    if record["nll"] is not None:
        entropy = 0.5 * math.log(2 * math.pi * math.e * 10.0**2)
        assert record["nll"] > entropy - 0.1


def test_the_readme_quotes_the_stored_results() -> None:
    """Its table is the mean NLL over all splits, of all sets and methods."""
    root = Path(__file__).parents[1]
    stored = json.loads((root / "benchmarks" / "results" / "uci.json").read_text())["records"]
    text = (root / "README.md").read_text()
    sets = [line for line in text.splitlines() if line.startswith("| | boston ")]
    names = [cell.strip() for cell in sets[0].strip("|").split("|")[1:]]
    rows = {
        "`MDNRegressor()`": "mdn",
        '`preset="fast"`': "mdn fast",
        "NGBoost": "ngboost",
        "CatBoost": "catboost",
    }
    for label, method in rows.items():
        line = next(a for a in text.splitlines() if a.startswith(f"| {label} |"))
        quoted = [float(cell) for cell in line.strip("|").split("|")[1:]]
        assert len(quoted) == len(names) == 9
        for name, value in zip(names, quoted, strict=True):
            known = [
                r["nll"] for r in stored if r["method"] == method and r["set"].startswith(name)
            ]
            assert len(known) == (5 if name == "protein" else 20)
            assert value == pytest.approx(np.mean(known), abs=0.00501)


def test_roughness_is_the_total_variation_of_the_quantiles() -> None:
    """A sine over two periods rises and falls by 8 in all, a line over its range by 2 pi."""

    class Known:
        def predict_quantiles(self, X: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
            assert X.shape == (4001, 1) and X[0, 0] == 0 and len(levels) == 3
            return np.column_stack([np.sin(2 * X[:, 0]), X[:, 0], 0 * X[:, 0]])

    found = roughness.roughness(Known(), np.array([[2 * np.pi], [0.0], [1.0]]), points=4001)
    np.testing.assert_allclose(found, [8, 2 * np.pi, 0], atol=1e-5)


def test_roughness_prints_one_row_a_set_and_says_which_are_above_the_goal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 where a ratio is above 1.5; an unknown set is refused."""

    def measure(name: str, preset: str, rows: int, seed: int) -> roughness.Measured:
        ratios = np.array([1.0, 1.2, 1.6 if name == "steps" else 1.4])
        return roughness.Measured(name, rows, ratios, (0.5, 0.6), 0.01)

    monkeypatch.setattr(roughness, "measure", measure)
    assert roughness.main(["--sets", "sine", "--rows", "90"]) == 0
    assert re.search(r"sine +90 +1.00 +1.20 +1.40 +0.500 +0.600", capsys.readouterr().out)
    assert roughness.main(["--sets", "sine,steps"]) == 1
    assert capsys.readouterr().out.endswith("above 1.5: steps\n")
    with pytest.raises(SystemExit):
        roughness.main(["--sets", "tides"])
    assert "--sets must be some of" in capsys.readouterr().err


def test_sets_of_roughness_have_one_column() -> None:
    """Those that need no folder; as many y as x, and none constant."""
    for name in ("old-faithful", "econ", "arma-jump", "skew-normal", "sine", "steps"):
        X, y = roughness.SETS[name]()
        assert X.shape == (len(y), 1) and np.ptp(X) > 0 and np.ptp(y) > 0

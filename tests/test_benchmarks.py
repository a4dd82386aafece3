"""The benchmarks run, say what they compare, and leave no trace; how fast anything is, is not."""

from __future__ import annotations

import math
import re

import pytest
import torch

from benchmarks import distribution, stability

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
    missed = one._replace(question="crps", ratio=3.0, reached=False)
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


def test_every_question_has_its_line(lines: list[distribution.Line]) -> None:
    """Each question of the list is asked, and only a positive time or size comes out."""
    asked = " ".join(line.question for line in lines)
    for question in ("log_prob", "head", "full", "icdf", "sample", "crps", "modes", "hdr"):
        assert question in asked, question
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
            limit = 1e-4 if "f32" in line.question else 1e-9
            assert float(number[1]) < limit, line
    assert len(found) >= len(lines) - 6  # the others: memory, draws, heads
    (error,) = (line for line in lines if line.note.startswith("worst |F"))
    assert error.reached and error.goal == "< 1e-12"


def test_memory_is_measured_only_against_a_goal_of_the_full_size(
    lines: list[distribution.Line],
) -> None:
    """Sizes of a fresh process come out for icdf, crps and sample; far below the goal when tiny."""
    memory = [line for line in lines if line.note.startswith("peak memory")]
    assert [line.question.split(",")[0] for line in memory] == ["icdf", "crps", "sample"]
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

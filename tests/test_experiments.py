"""Tests of how experiments are found, run, stored and shown, and of the one on the UCI sets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from threadpoolctl import threadpool_info

import mdn
from experiments import NAMES, __main__, _code, about, load, negative_nll, uci


def small(**more: Any) -> SimpleNamespace:
    """An experiment that draws dots from its seed."""

    def run(
        seed: int = 0, fast: bool = False, *, out: Any, progress: Any, data: str | None = None
    ) -> dict[str, Any]:
        progress("drawing")
        (out / "dot.png").write_bytes(b"dot")
        odd = [math.nan, math.inf]
        threads = [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]
        return {"seed": seed, "fast": fast, "data": data, "odd": odd, 3: (1, 2), "threads": threads}

    result = {
        "__doc__": "Dots.\n\nMore of them.",
        "MINUTES": 2.0,
        "DATA": "none",
        "run": run,
        "report": lambda numbers: f"seed {numbers['seed']}, odd {numbers['odd']}",
    }
    return SimpleNamespace(**{**result, **more})


@pytest.fixture
def dots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Two small experiments in place of those that there are; the folder is the current one."""

    def broken(*args: Any, **options: Any) -> Any:
        raise ValueError("no dots\nat all")

    modules = {"dots": small(), "broken": small(run=broken)}
    monkeypatch.setattr(__main__, "NAMES", tuple(modules))
    monkeypatch.setattr(__main__, "load", modules.__getitem__)
    monkeypatch.setattr(__main__, "digests", lambda name: {name: "1"})
    monkeypatch.chdir(tmp_path)
    return modules


def test_every_module_has_a_name_and_every_name_a_module() -> None:
    """And says what it shows, in one sentence, how long it takes and what it needs."""
    folder = Path(__main__.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
    assert {name.replace("-", "_") for name in NAMES} == files
    for name in NAMES:
        it = about(name)
        assert it.shows.endswith(".")
        assert it.minutes > 0
        assert it.data
        assert callable(load(name).report)
    with pytest.raises(ValueError, match="no experiment is called 'nothing'; there are mnist-nll"):
        load("nothing")


def test_a_run_leaves_numbers_and_figures_in_its_folder(
    dots: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON without NaN, with the command that made it; the terminal shows the report.

    The run has one thread whatever torch was given before, and gives the others back.
    """
    threads = torch.get_num_threads()
    assert __main__.main(["dots", "--fast", "--seed", "7", "--data", "digits"]) == 0
    result = json.loads(Path("mdn-experiments/dots/results.json").read_text())
    assert set(result["numbers"].pop("threads")) == {1}
    assert result["numbers"] == {
        "seed": 7,
        "fast": True,
        "data": "digits",
        "odd": ["nan", "inf"],
        "3": [1, 2],
    }
    assert result["command"] == "mdn experiment dots --data digits --fast --seed 7"
    assert result["figures"] == ["dot.png"]
    assert result["seconds"] >= 0
    assert {"commit", "code", "versions", "fast"} <= set(result)
    assert result["code"] == {"dots": "1"}
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr().out
    assert "seed 7, odd ['nan', 'inf']" in shown
    assert "results.json and dot.png" in shown


def test_results_that_are_there_are_kept_unless_forced(
    dots: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost by running a command twice."""
    assert __main__.main(["dots", "--out", "here"]) == 0
    before = Path("here/results.json").read_text()
    assert __main__.main(["dots", "--out", "here", "--seed", "1"]) == 1
    assert "here has results already; add --force" in capsys.readouterr().err
    assert Path("here/results.json").read_text() == before
    assert __main__.main(["dots", "--out", "here", "--seed", "1", "--force"]) == 0
    assert json.loads(Path("here/results.json").read_text())["seed"] == 1


def test_one_that_fails_does_not_keep_the_others_from_running(
    dots: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its error is one line, and the exit status says so."""
    assert __main__.main(["broken", "dots", "--out", "here"]) == 1
    assert Path("here/dots/results.json").exists()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["experiments: broken: no dots at all", "experiments: 1 of 2 failed: broken"]
    with pytest.raises(ValueError, match="no dots"):
        __main__.main(["broken", "--out", "there", "--traceback"])


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        ([], 2, "usage:"),
        (["many"], 2, "no experiment is called 'many'; see --list"),
        (["dots", "--backbone", "x"], 2, "dots takes no --backbone"),
    ],
)
def test_wrong_usage_prints_one_line(
    dots: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    status: int,
    text: str,
) -> None:
    """Exit status 2."""
    assert __main__.main(args) == status
    assert text in capsys.readouterr().err


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """What it shows, how long it takes, what data it needs."""
    assert __main__.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        it = about(name)
        assert it.shows in shown
        assert f"data: {it.data}" in shown


def test_the_pages_of_the_docs_are_those_of_the_stored_results() -> None:
    """Each page is what --pages would write today."""
    done = [p.parent for p in sorted(__main__.RESULTS.glob("*/results.json"))]
    assert done
    for folder in done:
        result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        assert not result["fast"], f"{folder.name} holds the small version"
        assert all((folder / figure).exists() for figure in result["figures"])
        page = __main__.PAGES / f"{result['experiment']}.md"
        assert page.read_text(encoding="utf-8") == __main__.page(folder)
    assert {p.name for p in done} == {p.stem for p in __main__.PAGES.glob("*.md")} - {"index"}


def test_stored_results_are_of_the_code_as_it_is() -> None:
    """Of the experiment and the modules of the folder it imports, and of this version of mdn.

    Code of mdn may change without a new run, until its next version; ``--stale`` tells of it.
    """
    old = []
    for file in sorted(__main__.RESULTS.glob("*/results.json")):
        name, result = file.parent.name, json.loads(file.read_text(encoding="utf-8"))
        assert result["experiment"] == name
        changed = set(_code.changed(name, result.get("code", {}))) - {"mdn"}
        if result["versions"]["mdn"] != mdn.__version__:
            changed.add(f"version {result['versions']['mdn']} of mdn")
        if changed:
            old.append(f"{name} ({', '.join(sorted(changed))})")
    assert not old, (
        f"results of older code: {'; '.join(old)}; for each: mdn experiment NAME --force --out "
        "experiments/results/NAME, then mdn experiment --pages"
    )


SOURCE = '''"""What it shows."""

from ._density import gaussian  # of one component

DATA = "none"


def run(seed: int) -> int:
    """Draws."""
    if seed:
        return len("#" * seed)
    return 0


def report(numbers: int) -> str:
    return f"{numbers}"
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # of one component", "", True),
        ("What it shows.", "What\nit shows.", True),
        ("Draws.", "Draws\n\n    twice.", True),
        ('DATA = "none"', "DATA = (\n    1\n)", True),
        ('f"{numbers}"', '"none"', True),
        ("return 0", "return 1", False),
        ('"#"', '"##"', False),  # no comment
        ("    return 0", "        return 0", False),
        ("gaussian", "table", False),
    ],
)
def test_the_digest_of_code_heeds_what_it_does_alone(
    tmp_path: Path, old: str, new: str, same: bool
) -> None:
    """Not comments, docstrings and the texts of the page."""
    assert old in SOURCE
    for name, text in (("before", SOURCE), ("after", SOURCE.replace(old, new))):
        (tmp_path / f"{name}.py").write_text(text)
    before, after = (_code.digest(tmp_path / f"{name}.py") for name in ("before", "after"))
    assert (before == after) is same


def test_a_result_has_a_digest_of_each_module_that_it_needs() -> None:
    """real imports _real_sets, which imports _classic; and the whole package is one."""
    now = _code.digests("real")
    assert list(now) == ["_classic", "_density", "_palette", "_real_sets", "real", "mdn"]
    assert _code.changed("real", now) == []
    assert _code.changed("real", {**now, "_classic": "0", "gone": "1"}) == ["_classic", "gone"]


def test_old_results_are_listed(
    dots: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what has changed since; exit status 1 if there are any."""
    monkeypatch.setattr(__main__, "NAMES", ("dots",))
    monkeypatch.setattr(__main__, "RESULTS", Path("here"))
    assert __main__.main(["--stale"]) == 1
    assert capsys.readouterr().out == "dots: no result\n"
    assert __main__.main(["dots", "--out", "here/dots"]) == 0
    monkeypatch.setattr(__main__, "changed", lambda name, code: [])
    capsys.readouterr()
    assert __main__.main(["--stale"]) == 0
    assert capsys.readouterr().out == "every stored result is of the code as it is\n"
    monkeypatch.setattr(__main__, "changed", lambda name, code: ["_density", *code])
    assert __main__.main(["--stale"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("dots: since commit ")
    assert shown.endswith(" changed: _density, dots\n")


def test_a_run_gives_the_same_numbers_with_one_thread_and_with_two(tmp_path: Path) -> None:
    """Of training that amplifies the last digit of a sum; threads of torch, given from outside."""
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            result = __main__.run_one("negative-nll", tmp_path, fast=True, options=None)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        found.append(result["numbers"])
    assert found[0] == found[1]


# -- negative-nll -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("negative")
    return negative_nll.run(0, True, out=out), out


def test_the_loss_moves_with_the_unit_and_nothing_else_does(
    signs: tuple[dict[str, Any], Path],
) -> None:
    """NLL(c y) = NLL(y) + log c for networks trained anew in each unit; the median stays."""
    numbers, out = signs
    units = numbers["units"]
    minutes = units["minutes"]
    for result in units.values():
        assert result["nll"] == pytest.approx(minutes["nll"] + math.log(result["factor"]), abs=0.02)
        assert result["median_of_medians_in_minutes"] == pytest.approx(
            minutes["median_of_medians_in_minutes"], abs=0.02
        )
        assert result["verdict"].startswith("fine")
    assert units["hours"]["nll"] < 0 < units["seconds"]["nll"]
    # 0.5 log(2 pi e s^2) averaged over x, s = 0.1 + 0.2 x, within three standard errors
    exact = (
        0.5 * math.log(2 * math.pi * math.e)
        + integrate.quad(lambda x: math.log(0.1 + 0.2 * x), 0, 1)[0]
    )
    assert numbers["truth"] == pytest.approx(exact, abs=3 * math.sqrt(0.5 / numbers["new_rows"]))
    assert numbers["truth"] < minutes["nll"] < numbers["truth"] + 0.15
    assert {p.name for p in out.iterdir()} == {"units.png", "sound.png", "collapsed.png"}


def test_a_mass_has_no_negative_loss_and_its_ratio_has(
    signs: tuple[dict[str, Any], Path],
) -> None:
    """The ratio loss is below 0 exactly where p > 1/2."""
    classes = signs[0]["classifier"]
    assert 0 <= classes["lowest"] < classes["nll"] < math.log(classes["classes"])
    assert classes["share_ratio_below_zero"] == classes["share_mass_above_half"] > 0


def test_nll_loss_of_softmax_is_negative_and_no_likelihood(
    signs: tuple[dict[str, Any], Path],
) -> None:
    """Minus a mean probability; the network is sure of itself, and the true NLL suffers."""
    numbers = signs[0]
    right, wrong = numbers["classifier"]["by_nll_loss"].values()
    assert right["loss"] == pytest.approx(right["nll"], abs=1e-5)
    assert -1 < wrong["loss"] < 0 < right["nll"] < wrong["nll"]
    assert wrong["confidence"] > 0.9 > wrong["accuracy"] + 0.3
    assert abs(right["confidence"] - right["accuracy"]) < 0.12
    # of a network that is sure nearly everywhere the mean probability is nearly the accuracy
    assert wrong["loss"] == pytest.approx(-wrong["accuracy"], abs=0.03)
    assert "Categorical(logits=" in right["said"] and "LogSoftmax" in wrong["said"]
    assert wrong["said"] in negative_nll.report(numbers)


def test_models_broken_on_purpose_get_the_right_verdicts(
    signs: tuple[dict[str, Any], Path],
) -> None:
    """Collapse, overfitting and a discrete y, whatever the sign of the loss."""
    numbers = signs[0]
    words = [result["word"] for result in numbers["broken"].values()]
    assert words == ["collapse", "overfitting", "not meaningful"]
    for result in numbers["broken"].values():
        assert result["verdict"] in negative_nll.report(numbers)


# -- uci ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("uci")
    return uci.run(0, True, out=out), out


def test_uci_small_version_beats_a_constant_width(fits: tuple[dict[str, Any], Path]) -> None:
    """On the diabetes rows, as their noise grows with y; in bits that are few."""
    numbers, out = fits
    result = numbers["sets"]["diabetes"]
    assert result["nll"]["mdn"]["mean"] < result["nll"]["constant"]["mean"]
    assert f"{result['nll']['mdn']['mean']:.4g}" in uci.report(numbers)
    assert {p.name for p in out.iterdir()} == {"ranks.png", "sets.png"}


def test_uci_ranks_and_critical_difference_agree_with_the_literature() -> None:
    """Demsar's table 5a has q = 2.569 for four methods; ranks of means are SciPy's."""
    rng = np.random.default_rng(0)
    records = [
        {"set": f"s{i}", "split": j, "method": m, "nll": rng.normal() + k, "crps": rng.random()}
        for i in range(6)
        for j in range(2)
        for k, m in enumerate(("mdn", "mdn fast", "ngboost", "catboost"))
    ]
    numbers = uci._compared(records)
    want = 2.569 * math.sqrt(4 * 5 / (6 * 6))
    assert numbers["critical_difference"] == pytest.approx(want, rel=1e-3)
    table = np.array([r["nll"] for r in records]).reshape(6, 2, 4)
    ranks = stats.rankdata(table, axis=2).mean((0, 1))
    assert list(numbers["ranks"]["nll"].values()) == pytest.approx(list(ranks))
    # a split that one method lacks is left out
    assert uci._compared(records[:-1])["sets"]["s5"]["splits"] == 1


def test_uci_full_version_reads_the_stored_results() -> None:
    """Those that benchmarks.uci wrote."""
    numbers = uci.run(0)
    assert numbers["source"] == "benchmarks/results/uci.json"

    def rounded(text: str) -> Any:
        return json.loads(text, parse_float=lambda digits: round(float(digits), 9))

    stored = (__main__.RESULTS / "uci" / "results.json").read_text(encoding="utf-8")
    assert rounded(json.dumps(__main__._finite(numbers))) == rounded(stored)["numbers"]
    assert set(numbers["methods"]) >= {"mdn", "mdn fast", "ngboost", "catboost"}

"""Tests of mdn demo: its numbers, files and errors, and the texts the docs quote from it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from mdn import __version__, cli

ROOT = Path(__file__).parents[1]
# Float32 training is not the same to the last bit on every machine, and early stopping may then
# end elsewhere; what the pages quote is held to this, in nats or minutes or as a share.
QUOTE_TOLERANCE = 0.15


def mdn(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mdn", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """One run: its folder, what it printed, what it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    done = mdn("demo", "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a pipe is no terminal: no progress
    numbers = json.loads((folder / "out" / "demo.json").read_text())
    return folder, done.stdout, numbers


def test_losses_in_three_units_differ_by_exactly_log_60(demo: Any) -> None:
    """NLL(c y) = NLL(y) + log c, for the same fit."""
    nll = {unit: u["nll"] for unit, u in demo[2]["units"].items()}
    assert nll["seconds"] - nll["minutes"] == pytest.approx(math.log(60), abs=1e-12)
    assert nll["minutes"] - nll["hours"] == pytest.approx(math.log(60), abs=1e-12)
    assert nll["hours"] < 0 < nll["seconds"]
    assert demo[2]["largest_relative_difference_of_quantiles"] < 1e-12


def test_density_integrates_to_one_in_every_unit(demo: Any) -> None:
    """By scipy.integrate.quad_vec over the row with the highest density."""
    for u in demo[2]["units"].values():
        assert u["integral"] == pytest.approx(1, abs=1e-9)
    assert demo[2]["units"]["hours"]["share_above_one"] > 0.9
    assert demo[2]["units"]["seconds"]["share_above_one"] == 0


def test_mixture_beats_what_it_is_compared_with_on_held_out_rows(demo: Any) -> None:
    """Better than one Gaussian and than ignoring x, in NLL and CRPS; intervals cover 90 %."""
    held_out = demo[2]["held_out"]
    best = held_out.pop("mixture density network")
    for other in held_out.values():
        assert best["nll"] < other["nll"] - 0.1 and best["crps"] < other["crps"]
    # 299 rows: a share of 0.9 has a standard error of 0.017
    assert abs(best["coverage"] - 0.9) < 0.06


def test_long_waits_are_bimodal(demo: Any) -> None:
    """About two minutes or about four, and hardly anything at the mean."""
    b = demo[2]["bimodal"]
    assert 60 < b["waiting_from"] < b["example_waiting"] < b["waiting_to"] < 108
    assert b["example_modes"] == pytest.approx([2.0, 4.1], abs=0.4)
    assert b["example_density_at_mean"] < 0.3 * b["example_density_at_mode"]


def test_the_printed_text_agrees_with_the_file(demo: Any) -> None:
    """The numbers printed are those of demo.json."""
    _, text, numbers = demo
    for u in numbers["units"].values():
        assert f"{u['nll']:.4f}" in text
    assert "log 60 = 4.0943445622" in text
    assert "Why is my loss negative?" in text


def test_figure_is_a_picture(demo: Any) -> None:
    """Four panels at 150 dpi, not empty."""
    picture = matplotlib.image.imread(demo[0] / "out" / "demo.png")
    assert picture.shape[:2] == (1200, 1650)
    assert picture[..., :3].std() > 0.1


def test_same_seed_gives_the_same_numbers(demo: Any) -> None:
    """Byte for byte, with --force over the files of the first run."""
    folder = demo[0]
    before = (folder / "out" / "demo.json").read_bytes()
    assert mdn("demo", "--out", "out", "--force", cwd=folder).returncode == 0
    assert (folder / "out" / "demo.json").read_bytes() == before


def test_existing_files_are_not_replaced_without_force(demo: Any) -> None:
    """Exit 1, one line, the file as it was."""
    folder = demo[0]
    done = mdn("demo", "--out", "out", cwd=folder)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(
        r"mdn: .*demo\.json exist already; add --force to replace them\n", done.stderr
    )


def test_out_may_not_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 with the cure."""
    (tmp_path / "taken").write_text("")
    assert cli.main(["demo", "--out", str(tmp_path / "taken")]) == 1
    assert "is a file; name a folder with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["demo", "--nope"], "No such option"),
        (["nope"], "No such command"),
        (["demo", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_usage_exits_2_in_one_line(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback."""
    assert cli.main(args) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("mdn: ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("y must be\n finite"), "mdn: y must be finite"),
        (KeyError("size"), "mdn: KeyError: 'size'"),  # 'size' alone would say nothing
        (MemoryError(), "mdn: MemoryError"),
    ],
)
def test_an_error_is_one_line_that_says_what_it_is(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of error is named where its text is no sentence."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` exits 0; no argument at all shows the help and exits 2."""
    assert cli.main(["demo", "--help"]) == 0
    assert "Example: mdn demo" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert "demo" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mdn {__version__}\n"


# -- what the pages quote -------------------------------------------------------------------------


def numbers_in(text: str) -> list[float]:
    return [float(n.rstrip("%")) for n in re.findall(r"-?\d+\.\d+%?", text)]


def test_readme_shows_the_real_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ``python`` block that a ``text`` block follows prints that text."""
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL)
    assert len(pairs) == 2
    for code, text in pairs:
        exec(compile(code, "README.md", "exec"), {})
        out = capsys.readouterr().out
        assert re.sub(r"[\d.\s]+", "#", out) == re.sub(r"[\d.\s]+", "#", text)
        np.testing.assert_allclose(numbers_in(out), numbers_in(text), atol=QUOTE_TOLERANCE)


def test_why_negative_quotes_the_demo(demo: Any) -> None:
    """The two tables hold the numbers of demo.json."""
    page = (ROOT / "docs" / "why-negative.md").read_text()
    for unit, u in demo[2]["units"].items():
        (row,) = re.findall(rf"^\| {unit} \|(.*)$", page, re.MULTILINE)
        nll, share, highest, area = (cell.strip() for cell in row.strip("| ").split("|"))
        assert float(nll) == pytest.approx(u["nll"], abs=QUOTE_TOLERANCE)
        assert float(share.rstrip("%")) / 100 == pytest.approx(u["share_above_one"], abs=0.1)
        assert float(highest) == pytest.approx(u["highest_density"], rel=0.3)
        assert float(area) == pytest.approx(u["integral"], abs=1e-9)
    for name, s in demo[2]["held_out"].items():
        (row,) = re.findall(rf"^\| {name} \|(.*)$", page, re.MULTILINE)
        nll, crps, coverage = (float(c.strip(" %")) for c in row.strip("| ").split("|"))
        assert nll == pytest.approx(s["nll"], abs=QUOTE_TOLERANCE)
        assert crps == pytest.approx(s["crps"], abs=0.05)
        assert coverage / 100 == pytest.approx(s["coverage"], abs=0.05)


@pytest.mark.parametrize("module", ["mdn.cli", "torch"])
@pytest.mark.parametrize("entry", ["-m mdn", "script"])
@pytest.mark.parametrize("where", ["{}", "exec({!r})"], ids=["plain", "exec"])
def test_ctrl_c_during_an_import_ends_the_command_silently(
    module: str, entry: str, where: str, tmp_path: Path
) -> None:
    """Exit status 130, nothing printed, as ``python -m mdn`` and as the script of the package.

    Also where the interrupt meets code in a string, as dataclasses run it: Python keeps a note of
    that, and ``python -m`` would end by the signal (-2) although it was caught.
    """
    interrupt = "os.kill(os.getpid(), signal.SIGINT); [0 for _ in range(1000)]"
    code = f"""
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {where.format(interrupt)}

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests ignore it
"""
    (tmp_path / "sitecustomize.py").write_text(code)
    script = "import sys; from mdn.__main__ import main; sys.exit(main())"
    options = ["-m", "mdn"] if entry == "-m mdn" else ["-c", script]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *options, "demo", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

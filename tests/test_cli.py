"""The command line as a user types it: what is printed, written, refused, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mdn
from mdn import MDNRegressor, cli
from mdn.datasets import EXAMPLES, example

ROOT = Path(__file__).parents[1]
FAST = ["--preset", "fast", "--max-time", "8"]


def run(args: str, capfd: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    """What a command prints on standard output and standard error."""
    capfd.readouterr()
    found = cli.main(args.split())
    out, error = capfd.readouterr()
    assert found == status, (out, error)
    assert "Traceback" not in error
    return out, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the package, and a model of houses."""
    folder = tmp_path_factory.mktemp("cli")
    for name in EXAMPLES:
        pd.DataFrame(example(name)).to_csv(folder / f"{name}.csv", index=False)
    before = os.getcwd()
    os.chdir(folder)
    try:
        args = "fit houses.csv --target price --unit EUR --kind positive --out houses.mdn"
        assert cli.main([*args.split(), *FAST, "--json", "houses.json"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_fit_writes_a_model_with_its_origin(capfd: pytest.CaptureFixture[str]) -> None:
    """The file holds the columns, the unit, the scores on rows held out; show prints them."""
    model = mdn.load("houses.mdn")
    assert model.target_names_ == ["price"] and model.target == "positive"
    assert list(model.feature_names_in_) == ["area", "rooms", "year", "district"]
    result = json.loads(Path("houses.json").read_text())
    assert result["unit"] == "EUR" and result["rows"] == 600
    assert result["columns"]["year"] == "number, some missing"
    assert result["columns"]["district"] == "4 categories"
    held = result["held_out"]["scores"]
    assert result["held_out"]["n"] == 90
    assert held["model"]["nll"]["mean"] < held["y alone"]["nll"]["mean"] - 0.5
    assert {key: result[key] for key in model.info_} == model.info_
    out, _ = run("show houses.mdn", capfd)
    assert "y: price [EUR], target='positive'" in out and "district (4 categories)" in out
    assert "verdict: fine" in out and model.info_["command"] in out
    about = json.loads(run("show houses.mdn --json -", capfd)[0])
    assert about["info"] == model.info_ and about["bytes"] == Path("houses.mdn").stat().st_size


def test_fit_by_groups_weights_and_the_last_rows(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Identifiers and rows without y are left out, which is said; roles are no features."""
    table = pd.DataFrame(example("old-faithful"))
    table.insert(0, "id", np.arange(len(table)))
    table["weight"], table["day"] = 1.0, np.arange(len(table)) // 30
    table.loc[:4, "duration"] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    args = f"fit {tmp_path / 't.csv'} --target duration --weight weight --groups day"
    out, error = run(f"{args} --holdout time --out {tmp_path / 'm.mdn'} {' '.join(FAST)}", capfd)
    assert "note: 5 of 299 rows have no duration: left out" in error
    assert re.search(r"note: .*\bid\b.* left out", error)
    assert "features: waiting (number)\n" in out and "the last" in out
    held = mdn.load(tmp_path / "m.mdn").info_["held_out"]
    assert held["n"] % 30 in (0, 29)  # whole groups of the last day


def test_predict_is_predict_frame(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One row in, one row out, in CSV, Parquet and Feather, in a folder and on standard output."""
    model = mdn.load("houses.mdn")
    table = pd.read_csv("houses.csv")
    columns = "mean,q05,interval90,p_above:300000,nll,hdr80"
    want = model.predict_frame(table, columns)
    for ending, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        path = tmp_path / f"scored.{ending}"
        out, error = run(
            f"predict houses.mdn houses.csv --columns {columns} --keep area,price --out {path}",
            capfd,
        )
        assert f"Wrote {path}" in out and "600 rows in" in error
        found = read(path)
        assert list(found.columns) == ["area", "price", *want.columns]
        pd.testing.assert_frame_equal(found[want.columns], want, rtol=1e-12)
        np.testing.assert_array_equal(found["area"], table["area"])
    path = tmp_path / "scored.feather"
    run(f"predict houses.mdn houses.csv --columns mean --out {path} --quiet", capfd)
    np.testing.assert_allclose(pa.ipc.open_file(path).read_all()["mean"], want["mean"], rtol=1e-12)
    out, error = run("predict houses.mdn houses.csv --columns mean --quiet", capfd)
    assert len(out.splitlines()) == 601 and not error


def test_predict_a_folder_and_go_on(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each table has its output; with --resume those that are there are left alone."""
    table = pd.read_csv("houses.csv")
    (tmp_path / "in").mkdir()
    for i in range(3):
        part = table[200 * i : 200 * (i + 1)]
        pq.write_table(pa.Table.from_pandas(part), tmp_path / "in" / f"{i}.parquet")
    args = f"predict houses.mdn {tmp_path / 'in'} --columns mean --out {tmp_path / 'out'}"
    run(args, capfd)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["0.parquet", "1.parquet", "2.parquet"]
    want = mdn.load("houses.mdn").predict(table[list(table.columns[:4])])
    found = np.concatenate([pq.read_table(file)["mean"].to_numpy() for file in files])
    np.testing.assert_allclose(found, want, rtol=1e-9)
    assert "add --force" in run(args, capfd, status=1)[1]
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    assert "200 rows in" in run(f"{args} --resume", capfd)[1]
    assert files[1].exists() and files[0].stat().st_mtime_ns == before


def test_evaluate_a_model_and_by_cross_validation(capfd: pytest.CaptureFixture[str]) -> None:
    """The numbers are those of mdn.evaluation."""
    model = mdn.load("houses.mdn")
    table = pd.read_csv("houses.csv")
    out, _ = run("evaluate houses.mdn houses.csv --train houses.csv --json -", capfd)
    result = json.loads(out)
    want = model.nll(table[list(model.feature_names_in_)], table["price"])
    assert result["scores"]["model"]["nll"]["mean"] == pytest.approx(want, rel=1e-12)
    assert set(result["scores"]) == {"model", "linear Gaussian", "y alone"}
    args = "evaluate old-faithful.csv --target duration --cv 2 --preset fast --max-time 3"
    out, _ = run(args, capfd)
    assert "2-fold cross-validation" in out and out.count("±") == 12


@pytest.mark.parametrize(
    "kind",
    [
        *("density", "feature", "fan", "modes", "weights", "conditional", "ridge"),
        *("pit", "coverage", "sharpness", "units", "waterfall --train houses.csv", "history"),
    ],
)
def test_every_plot(kind: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A picture that is not blank, by the name of the plot."""
    path = tmp_path / "figure.png"
    out, _ = run(f"plot houses.mdn houses.csv --kind {kind} --feature area --out {path}", capfd)
    assert out == f"Wrote {path}\n"
    assert matplotlib.image.imread(path)[..., :3].std() > 0.02


@pytest.mark.parametrize("name", EXAMPLES)
def test_data_are_printed_as_csv(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What pandas reads back is the table; without a name they are listed."""
    out, _ = run(f"data {name}", capfd)
    lines = [line.split(",") for line in out.splitlines()]
    columns = example(name)
    assert lines[0] == list(columns)
    assert [row[0] for row in lines[1:]] == [
        str(value) for value in next(iter(columns.values())).tolist()
    ]
    assert name in run("data", capfd)[0]
    listed = json.loads(run(f"data {name} --json -", capfd)[0])
    assert {key: len(values) for key, values in listed.items()} == {
        key: len(values) for key, values in columns.items()
    }
    part = run(f"data {name} --rows 7:9", capfd)[0]
    assert part.splitlines() == [out.splitlines()[i] for i in (0, 8, 9)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("fit houses.csv --target cost --out x.mdn", "it has no 'cost', but area, rooms, year"),
        (
            "fit houses.csv --target price --out houses.mdn",
            "exists already; add --force",
        ),
        ("fit houses.csv --target district --out x.mdn", "column of numbers; 'district' holds"),
        ("fit houses.csv --target price --columns area,price --out x.mdn", "not name the target"),
        ("fit houses.csv --target price --out no/x.mdn", "the folder no does not exist"),
        ("fit none.csv --target y --out x.mdn", "none.csv"),
        ("fit rain.csv --target rain --kind positive --out x.mdn", "add atoms=[0.0]"),
        ("fit houses.csv --target price --out houses.csv --force", "must not replace what is read"),
        ("predict houses.mdn houses.csv --columns mena", "got 'mena'"),
        ("predict houses.mdn rain.csv", "lacks 'area', 'rooms', 'year', 'district'"),
        ("predict houses.mdn houses.csv --keep id", "it has no 'id'"),
        ("predict houses.mdn houses.csv --out scored.xlsx", "--out must end in .csv"),
        ("predict houses.mdn houses.csv --resume", "--resume needs a folder"),
        ("predict houses.csv houses.csv", "was not written by mdn.save"),
        ("predict houses.mdn houses.csv --json -", "cannot both be printed"),
        ("evaluate houses.mdn", "needs a model and a table"),
        ("evaluate houses.csv --cv 5", "needs --target"),
        ("evaluate houses.mdn houses.csv --groups area", "--groups has no effect without --cv"),
        ("evaluate houses.csv --cv 5 --train houses.csv", "--train has no effect with --cv"),
        ("plot houses.mdn houses.csv --feature garden --out x.png", "--feature must be one of"),
        ("plot houses.mdn houses.csv --kind ridge --rows 700 --out x.png", "between 0 and 599"),
        ("plot houses.mdn houses.csv --kind contours --out x.png", "two targets"),
        ("plot houses.mdn houses.csv --kind waterfall --out x.png", "needs --train"),
        (
            "evaluate houses.mdn houses.csv --train rain.csv --json rain.csv --force",
            "must not replace what is read",
        ),
        ("plot houses.mdn houses.csv --out x.doc", "--out must end in .png"),
        ("show houses.csv", "houses.csv is damaged or was not written by mdn.save"),
        ("data rain --rows 5", "two numbers with a colon between; got '5'"),
        ("data cars", "name must be one of old-faithful"),
        ("benchmark cars", "there is no benchmark cars; there are"),
    ],
)
def test_errors_are_one_line(
    args: str, message: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """Exit status 1, nothing on standard output, no file left behind."""
    before = sorted(folder.iterdir())
    out, error = run(args, capfd, status=1)
    lines = [line for line in error.splitlines() if not line.startswith("note:")]
    assert not out and len(lines) == 1 and lines[0].startswith("mdn: ")
    assert message in lines[0]
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "args", ["fit", "fit houses.csv", "plot a b --kind nonsense --out x.png", "nonsense", "show"]
)
def test_wrong_usage(args: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line."""
    error = run(args, capfd, status=2)[1]
    assert error.startswith("mdn: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        *("fit", "evaluate", "predict", "explain", "plot", "distil", "show"),
        *("data", "demo", "completion"),
    ],
)
def test_help_has_an_example(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Each command shows one that begins with its name."""
    out, _ = run(f"{command} --help", capfd)
    assert f"Example: mdn {command}" in " ".join(out.split())


def test_examples_of_help_work_as_typed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for command in ("data", "fit", "evaluate", "predict", "explain", "plot", "distil", "show"):
        out, _ = run(f"{command} --help", capfd)
        example = " ".join(" ".join(out.split()).split("Example: mdn ")[1].split())
        args, _, to = example.partition(" > ")
        if command in ("fit", "evaluate"):
            args += " --max-time 5 --force" if command == "fit" else " --max-time 5"
        printed, _ = run(args, capfd)
        if to:
            Path(to).write_text(printed)
    made = {"geyser.csv", "geyser.mdn", "scored.csv", "report.html", "fan.png", "small.mdn"}
    assert made <= set(os.listdir(tmp_path))


def test_completion_and_lists_of_the_repository(capfd: pytest.CaptureFixture[str]) -> None:
    """The script of a shell; the names of benchmarks and experiments."""
    assert "_MDN_COMPLETE" in run("completion bash", capfd)[0]
    assert "stability" in run("benchmark", capfd)[0]
    assert "usage" in run("benchmark stability --help", capfd)[0].lower()


def mdn_process(*args: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdn", *args], cwd=cwd, capture_output=True, text=True, **options
    )


def test_a_pipe_from_end_to_end(folder: Path) -> None:
    """Standard input and output: only rows on the one, only notes on the other."""
    done = mdn_process(
        *("predict", "houses.mdn", "-", "--columns", "mean"),
        cwd=folder,
        input=(folder / "houses.csv").read_text(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == '"mean"' and len(done.stdout.splitlines()) == 601
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())


def test_ctrl_c_in_the_first_fit_begins_no_second(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A fit ends by Ctrl-C with a warning; the command then ends too, and writes nothing."""
    fits: list[int] = []
    fit = MDNRegressor.fit

    def interrupted(self: MDNRegressor, X: Any, y: Any, *args: Any, **options: Any) -> Any:
        fits.append(len(y))
        fit(self.set_params(max_epochs=1), X, y, *args, **options)
        self.history_ = replace(self.history_, stopped="interrupted")
        return self

    monkeypatch.setattr(MDNRegressor, "fit", interrupted)
    args = f"old-faithful.csv --target duration --preset fast --out {tmp_path / 'm.mdn'}"
    run(f"fit {args}", capfd, status=130)
    assert len(fits) == 1 and not list(tmp_path.iterdir())
    run("evaluate old-faithful.csv --target duration --cv 3 --preset fast", capfd, status=130)
    assert len(fits) == 2


def test_ctrl_c_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    """The command ends with 130 within seconds and without a traceback."""
    import signal

    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mdn.__main__ import main; raise SystemExit(main())"
    )
    args = f"fit {folder / 'houses.csv'} --target price --out {tmp_path / 'm.mdn'}".split()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    if process.returncode == 130:
        assert not list(tmp_path.iterdir())
    else:  # the interrupt met the networks, whose training ends with a note
        assert process.returncode == 0 and "interrupted" in error


def test_show_and_help_load_neither_torch_nor_pandas(folder: Path) -> None:
    """What makes them start at once."""
    for args in (["--help"], ["show", "houses.mdn"], ["data", "old-faithful"]):
        code = (
            "import sys; from mdn.cli import main; status = main(sys.argv[1:])\n"
            "print(sorted({'torch', 'pandas', 'scipy', 'pyarrow', 'sklearn'} & set(sys.modules)),"
            " file=sys.stderr); sys.exit(status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *args], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr == "[]\n", done.stderr


def test_names_and_kinds_of_columns(folder: Path) -> None:
    """A model without info_, as of a file from before, is shown too."""
    X = np.random.default_rng(0).normal(size=(40, 2))
    model = MDNRegressor(preset="fast", ensemble_size=1, max_epochs=2, trees=False).fit(X, X[:, 0])
    model.save("plain.mdn")
    about = mdn.io.describe("plain.mdn")
    assert about["info"] == {} and about["feature_names"] is None
    assert mdn.load("plain.mdn").info_ == {}
    Path("plain.mdn").unlink()


def numbers_of(text: str) -> tuple[str, list[float]]:
    """A text with marks in the place of its numbers, and these; spaces count as one."""
    pattern = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    words = re.sub(pattern, "0", text)
    return " ".join(words.split()), [float(number) for number in re.findall(pattern, text)]


def test_the_session_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command of docs/command-line.md, in order, prints what the page shows.

    The report of explain is compared by its first lines, the scores to a share: training ends
    elsewhere on another processor.
    """
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    seen = 0
    for block in re.findall(r"```console\n(.*?)\n```", page, re.DOTALL):
        for part in re.split(r"^\$ mdn ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            args, _, to = line.partition(" > ")
            out, _ = run(args, capfd)
            seen += 1
            if to:
                Path(to).write_text(out)
                continue
            shown, out = shown.strip(), out.strip()
            if args.startswith("explain"):
                shown, out = (text.split("Remedy")[0] for text in (shown, out))
            (words, want), (own_words, got) = numbers_of(shown), numbers_of(out)
            assert own_words == words, args
            for a, b in zip(got, want, strict=True):
                assert a == pytest.approx(b, rel=0.3, abs=0.15), (args, a, b)
    assert seen == 8
    assert {"scored.csv", "report.png", "fan.png"} <= set(os.listdir(tmp_path))


def test_distil_says_what_the_small_model_loses(
    folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The numbers printed, in the JSON and of ``mdn show`` are those of the file."""
    out, about = tmp_path / "small.mdn", tmp_path / "about.json"
    args = f"houses.mdn houses.csv --out {out} --json {about} --max-time 1 --max-size 30"
    printed, _ = run(f"distil {args}", capfd)
    found = json.loads(about.read_text())
    stored = mdn.load(out).info_["distilled"]
    assert stored == {name: found[name] for name in stored}
    assert found["bytes"] == out.stat().st_size < 60_000
    assert f"{found['parameters']} weights" in printed
    shown, _ = run(f"show {out}", capfd)
    assert f"distilled: one network of {found['parameters']} weights" in shown
    assert "--force" in run(f"distil {args}", capfd, status=1)[1]

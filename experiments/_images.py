"""Folders of images: reading, drawing, cropping and normalising them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

__all__ = [
    "Folder",
    "read_folder",
    "draw_images",
    "read_batch",
    "random_resized_crop",
    "middle",
    "pointer",
]

SIDE, SHORTER_SIDE = 224, 256  # pixels: of the backbone's input; of a test image before the crop
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # shares of the area; width over height
CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
DRAWN_SIDE = 160  # pixels
TESTS = ("test", "valid", "val")  # names of the folder of test images, by preference
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
Pixels = NDArray[np.uint8]


class Folder(NamedTuple):
    """The content of a folder of images.

    Attributes:
        root: the folder.
        files: the N image files, relative to the root.
        classes: names of the C classes.
        label: class of each image, (N,).
        target: continuous target of each image, (N,).
        target_name: name of the continuous target.
        n_test: how many of the images, the last ones, are from a folder of test images; 0 if the
            folder has none.
    """

    root: Path
    files: list[str]
    classes: list[str]
    label: Tensor
    target: Tensor
    target_name: str
    n_test: int = 0


def read_folder(root: Path) -> Folder:
    """Reads a folder of images with their classes and a continuous target.

    The folder has a folder of images for each class, or two folders ``train`` and ``test`` (or
    ``valid``, or ``val``) of this kind.

    Raises:
        ValueError: there are fewer than two classes, those of the test are others, a class has no
            images, or targets.csv has no number for an image.
    """
    root = Path(root)
    parts = [root]
    if len(_folders(root / "train")) > 1:
        tests = [root / name for name in TESTS if _folders(root / name)]
        parts = [root / "train", *tests[:1]]
    classes = _folders(parts[0])
    if len(classes) < 2:
        raise ValueError(
            "images must have a folder for each of two or more classes, or folders train and test "
            f"that have these; got {root}"
        )
    if _folders(parts[-1]) != classes:
        raise ValueError(
            f"images must have the same classes in {parts[0]} and {parts[-1]}; got "
            f"{', '.join(classes)} and {', '.join(_folders(parts[-1]))}"
        )
    files: list[str] = []
    label: list[int] = []
    for part in parts:
        n_before = len(files)
        for i, name in enumerate(classes):
            found = sorted(p for p in (part / name).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"images must have some in each class; {part / name} has none")
            files += [p.relative_to(root).as_posix() for p in found]
            label += [i] * len(found)
    n_test = len(files) - n_before if len(parts) > 1 else 0
    name, target = _targets(root, files)
    return Folder(root, files, classes, torch.tensor(label), torch.tensor(target), name, n_test)


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def _targets(root: Path, files: list[str]) -> tuple[str, list[float]]:
    """Returns the name and the values of the continuous target."""
    if not (root / "targets.csv").exists():
        return "brightness (0 to 1)", [float(_pixels(root / f).mean()) / 255 for f in files]
    with (root / "targets.csv").open(newline="", encoding="utf-8-sig") as lines:
        header, *rows = csv.reader(lines)
    known = {}
    for row in filter(None, rows):
        try:
            known[row[0]] = float(row[1])
            wrong = not math.isfinite(known[row[0]])
        except (IndexError, ValueError):
            wrong = True
        if wrong:
            raise ValueError(f"targets.csv must have a file and a number in each row; got {row}")
    missing = [file for file in files if file not in known]
    if missing:
        raise ValueError(f"targets.csv must have a row for each image; {missing[0]} has none")
    return header[-1], [known[file] for file in files]


def draw_images(root: Path, n: int, *, seed: int = 0) -> None:
    """Draws n arrows and n bars, with their directions in targets.csv."""
    rng = np.random.default_rng(seed)
    rows = []
    for kind in ("arrow", "bar"):
        (root / kind).mkdir(parents=True)
        for i in range(n):
            degrees = rng.uniform(20, 160) + 180 * rng.integers(2)
            file = f"{kind}/{i:04d}.png"
            pointer(kind, math.radians(degrees), rng).save(root / file)
            rows.append((file, degrees / 360))
    with (root / "targets.csv").open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([("file", "direction (turns)"), *rows])


def pointer(kind: str, angle: float, rng: np.random.Generator) -> Image.Image:
    """Draws a bar or an arrow through the middle; the angle is anticlockwise from the right."""
    dark = rng.integers(20, 100, 3)
    light = rng.integers(140, 210, 3)
    ground = light + rng.normal(0, 12, (DRAWN_SIDE, DRAWN_SIDE, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    along = np.array([math.cos(angle), -math.sin(angle)])  # rows of an image count downwards
    across = np.array([-along[1], along[0]])
    middle = DRAWN_SIDE / 2 + rng.uniform(-6, 6, 2)
    length, width = DRAWN_SIDE * rng.uniform(0.34, 0.42), DRAWN_SIDE * rng.uniform(0.05, 0.08)
    corners: list[tuple[float, float]] = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if kind == "arrow":
        corners = [(-1, -1), (0.3, -1), (0.3, -3.2), (1.1, 0), (0.3, 3.2), (0.3, 1), (-1, 1)]
    points = [tuple(middle + a * length * along + b * width * across) for a, b in corners]
    ImageDraw.Draw(image).polygon(points, fill=tuple(int(v) for v in dark))
    return image


def random_resized_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns a random crop of the image, 224 x 224, within CROP_AREA and CROP_RATIO."""
    width, height = image.size
    low, high = map(math.log, CROP_RATIO)
    for _ in range(10):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            break
    else:  # a very long image: the largest crop of an allowed ratio, from the middle
        w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
        left, top = (width - w) // 2, (height - h) // 2
    box = (left, top, left + w, top + h)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)


def middle(image: Image.Image) -> Image.Image:
    """Returns the middle 224 x 224 pixels of the image, resized to a shorter side of 256."""
    part = min(image.size) * SIDE / SHORTER_SIDE
    left, top = ((size - part) / 2 for size in image.size)
    box = (left, top, left + part, top + part)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)


def _pixels(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_batch(
    folder: Folder, rows: NDArray[np.int64], rng: np.random.Generator | None = None
) -> Tensor:
    """Returns normalised images, (B, 3, 224, 224): random crops with a generator, else middles."""
    images = (Image.fromarray(_pixels(folder.root / folder.files[i])) for i in rows)
    crops = [middle(im) if rng is None else random_resized_crop(im, rng) for im in images]
    x = torch.from_numpy(np.stack([np.asarray(im) for im in crops])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (CHANNEL_MEAN, CHANNEL_STD))
    return (x - mean) / std

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
    "batch",
    "random_resized_crop",
    "middle",
    "pointer",
]

SIDE, SHORTER_SIDE = 224, 256  # pixels: of the backbone's input; of a test image before the crop
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # shares of the area; width over height
CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
DRAWN_SIDE = 160  # pixels
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
    """

    root: Path
    files: list[str]
    classes: list[str]
    label: Tensor
    target: Tensor
    target_name: str


def read_folder(root: Path) -> Folder:
    """Reads a folder that has a folder of images for each class, with a continuous target.

    Raises:
        ValueError: there are fewer than two classes, a class has no images, or targets.csv does not
            list an image.
    """
    root = Path(root)
    classes = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if len(classes) < 2:
        raise ValueError(f"images must have a folder for each of two or more classes; got {root}")
    files, label = [], []
    for i, name in enumerate(classes):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"images must have some in each class; {root / name} has none")
        files += [p.relative_to(root).as_posix() for p in found]
        label += [i] * len(found)
    name, target = "brightness (0 to 1)", []
    if (root / "targets.csv").exists():
        with (root / "targets.csv").open(newline="", encoding="utf-8") as lines:
            (_, name), *rows = csv.reader(lines)
        known = {row[0]: float(row[1]) for row in rows}
        missing = [file for file in files if file not in known]
        if missing:
            raise ValueError(f"targets.csv must have a row for each image; {missing[0]} has none")
        target = [known[file] for file in files]
    else:
        target = [float(_pixels(root / file).mean()) / 255 for file in files]
    return Folder(root, files, classes, torch.tensor(label), torch.tensor(target), name)


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


def batch(
    folder: Folder, rows: NDArray[np.int64], rng: np.random.Generator | None = None
) -> Tensor:
    """Returns normalised images, (B, 3, 224, 224): random crops with a generator, else middles."""
    images = (Image.fromarray(_pixels(folder.root / folder.files[i])) for i in rows)
    crops = [middle(im) if rng is None else random_resized_crop(im, rng) for im in images]
    x = torch.from_numpy(np.stack([np.asarray(im) for im in crops])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (CHANNEL_MEAN, CHANNEL_STD))
    return (x - mean) / std

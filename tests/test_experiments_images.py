"""The experiment image-head, in its small version, with a stand-in for torchvision."""

from __future__ import annotations

import enum
import json
import math
import shutil
import sys
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from experiments import _images, image_head

Ran = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("image-head")
    before = torch.random.get_rng_state()
    numbers = image_head.run(0, fast=True, out=out)
    assert torch.equal(before, torch.random.get_rng_state())
    return numbers, out


def test_both_figures_are_drawn_and_the_report_is_markdown(ran: Ran) -> None:
    """Figures are not blank; the rows of a table have one width; no two blank lines."""
    numbers, out = ran
    assert sorted(path.name for path in out.iterdir()) == ["densities.png", "losses.png"]
    for path in out.iterdir():
        assert np.asarray(Image.open(path)).std() > 10
    text = image_head.report(numbers)
    assert "\n\n\n" not in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_a_class_head_stays_above_zero_and_a_density_head_passes_below(ran: Ran) -> None:
    """A probability is at most 1; a density of a target in turns is not."""
    losses = ran[0]["losses"]
    assert len(losses["class"]) == len(losses["density"]) > 2
    assert min(losses["class"]) >= 0
    assert min(losses["density"]) < 0


def test_the_same_seed_gives_the_same_losses(ran: Ran) -> None:
    """Bit for bit."""
    numbers, _ = ran
    assert json.loads(json.dumps(image_head.run(0, fast=True))) == numbers


def test_heads_have_the_documented_layers() -> None:
    """Linear 512, ReLU, Dropout 0.2, Linear, LogSoftmax; and its output are probabilities."""
    head = image_head.classifier_head(7, 3)
    kinds = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.LogSoftmax]
    assert [type(layer) for layer in head] == kinds
    assert (head[0].out_features, head[2].p, head[3].out_features) == (512, 0.2, 3)
    assert torch.allclose(head(torch.zeros(2, 7)).exp().sum(-1), torch.ones(2))


def test_crops_have_the_documented_areas_and_ratios() -> None:
    """An image whose colours are its coordinates tells which part was taken."""
    width, height = 300, 200
    red, green = np.meshgrid(np.arange(width) * 255 / width, np.arange(height) * 255 / height)
    image = Image.fromarray(np.stack([red, green, 0 * red], -1).astype(np.uint8))
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(200):
        crop = np.asarray(_images.random_resized_crop(image, rng)).astype(float)
        assert crop.shape == (224, 224, 3)
        w, h = (np.ptp(crop[..., c]) * s / 255 for c, s in ((0, width), (1, height)))
        areas.append(w * h / (width * height))
        ratios.append(w / h)
    rounding = 0.06  # of the colours, and of the halves of pixels at the edges
    assert 0.08 - rounding < min(areas) < 0.2
    assert 0.6 < max(areas) <= 1 + rounding
    assert 3 / 4 - 2 * rounding < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 4 / 3 + 2 * rounding


def test_a_long_image_is_cropped_to_an_allowed_ratio() -> None:
    """No part of 8 % of the area and an allowed ratio fits into a strip: the middle is taken."""
    strip = np.zeros((10, 2000, 3), np.uint8)
    strip[:, 990:1010] = 255
    crop = _images.random_resized_crop(Image.fromarray(strip), np.random.default_rng(0))
    assert np.asarray(crop).min() == 255


def test_drawn_arrows_show_their_direction_and_bars_do_not() -> None:
    """Dark pixels of an arrow lean to where it points; those of a bar are alike on both sides."""
    rng = np.random.default_rng(0)
    for kind in ("arrow", "bar"):
        for degrees in (30, 100, 215, 330):
            angle = math.radians(degrees)
            pixels = np.asarray(_images.pointer(kind, angle, rng)).mean(-1)
            rows, columns = np.nonzero(pixels < 105)  # darker than any ground
            x, y = columns - columns.mean(), rows.mean() - rows
            axis = 0.5 * math.atan2(2 * (x * y).mean(), (x**2 - y**2).mean())
            assert math.cos(2 * (axis - angle)) > 0.99
            along = x * math.cos(angle) + y * math.sin(angle)
            lean = (along.max() + along.min()) / np.ptp(along)  # the centre lies near the head
            assert lean < -0.05 if kind == "arrow" else abs(lean) < 0.03


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of plain images, the brighter the higher their number; one is grey."""
    for i, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / name).mkdir()
        for j in range(4):
            value = 20 * (4 * i + j)
            pixels = np.full((40, 60 + j, 3), value, np.uint8)
            image = Image.fromarray(pixels[..., 0] if i == 0 else pixels)
            image.save(tmp_path / name / f"{j}.{'JPG' if i == 2 else 'png'}")
    return tmp_path


def test_a_folder_of_images_without_targets_has_brightness(folder: Path) -> None:
    """Classes by name, and the mean of the pixels."""
    (folder / "ant" / "notes.txt").write_text("no image")
    read = _images.read_folder(folder)
    assert read.classes == ["ant", "bee", "cat"]
    assert read.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert read.target.tolist() == pytest.approx([20 * i / 255 for i in range(12)], abs=0.01)


class Means(nn.Module):
    """A backbone of somebody's own, with a shape of its own: means of the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True)


def test_a_folder_of_ones_own_and_any_module(folder: Path, tmp_path: Path) -> None:
    """Everything runs on them, with targets from a table, and the report tells their names."""
    files = _images.read_folder(folder).files
    lines = ["file,height (m)", *(f"{file},{3.0 + i}" for i, file in enumerate(files))]
    (folder / "targets.csv").write_text("\n".join(lines) + "\n")
    numbers = image_head.run(0, fast=True, out=tmp_path, images=folder, backbone=Means())
    assert (numbers["features"], numbers["backbone"]) == (3, "Means")
    assert (numbers["train_images"], numbers["test_images"]) == (9, 3)
    text = image_head.report(numbers)
    assert "ant or bee or cat" in text
    assert "height (m)" in text
    assert (tmp_path / "densities.png").exists()


def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Each of the ways in which a folder cannot be used."""
    with pytest.raises(ValueError, match="two or more classes"):
        image_head.run(0, fast=True, images=folder / "ant")
    with pytest.raises(ValueError, match="two or more classes"):
        image_head.run(0, fast=True, images=tmp_path / "nowhere")
    (folder / "targets.csv").write_text("file,height\nant/0.png,1\n")
    with pytest.raises(ValueError, match=r"a row for each image; ant/1\.png has none"):
        _images.read_folder(folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has none"):
        _images.read_folder(folder)


def test_a_folder_with_train_and_test_is_recognised(folder: Path, tmp_path: Path) -> None:
    """The test images are those of test/, and the report says so."""
    root = tmp_path / "both"
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,)), ("val", (0,))):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for j in numbers:
                shutil.copy(folder / name / f"{j}.png", root / part / name)
    read = _images.read_folder(root)
    assert read.classes == ["ant", "bee"]
    assert read.files[:2] == ["train/ant/0.png", "train/ant/1.png"]
    assert read.files[-read.n_test :] == ["test/ant/3.png", "test/bee/3.png"]
    assert read.label.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    train, test = image_head._split(read, np.random.default_rng(0))
    assert (sorted(train), test.tolist()) == (list(range(6)), [6, 7])
    numbers = image_head.run(0, fast=True, images=root, backbone=Means(), epochs=3, batch=2)
    assert (numbers["train_images"], numbers["test_images"]) == (6, 2)
    assert len(numbers["losses"]["class"]) == 3 * 3
    text = image_head.report(numbers)
    assert "2 for the test, from a folder of their own; epochs: 3, of batches of 2;" in text
    shutil.rmtree(root / "test")
    assert _images.read_folder(root).files[-1] == "val/bee/0.png"
    (root / "val" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"the same classes in .*train and .*val"):
        _images.read_folder(root)
    # classes that are called train and test are no such folders
    for name in ("train", "test"):
        shutil.copytree(folder / "ant", tmp_path / "railway" / name)
    assert _images.read_folder(tmp_path / "railway").classes == ["test", "train"]


@pytest.mark.parametrize("row", ["ant/0.png", "ant/0.png,high", "ant/0.png,nan"])
def test_a_target_that_is_no_number_is_refused(folder: Path, row: str) -> None:
    """With the row, which may be long to find."""
    (folder / "targets.csv").write_text(f"file,height\n{row}\n")
    with pytest.raises(ValueError, match=r"a file and a number in each row; got \['ant/0"):
        _images.read_folder(folder)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"device": "toaster"}, "device must be one of this computer, as 'cpu'; got 'toaster'"),
        ({"weights": "IMAGENET1K_V1"}, "weights of backbone='small' are always random"),
    ],
)
def test_options_of_the_image_heads_are_checked(options: dict[str, Any], text: str) -> None:
    """Before any image is drawn."""
    with pytest.raises(ValueError, match=text):
        image_head.run(0, fast=True, **options)


def test_a_backbone_without_torchvision_is_an_error_with_its_cure(monkeypatch: Any) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match=r"pip install 'mdn\[vision\]'"):
        image_head.run(0, fast=True, backbone="densenet121")


class Classifier(nn.Module):
    """A stand-in for a model of torchvision, with random weights."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        setattr(self, last, nn.Linear(4, 1000))
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.last)(self.stem(x.mean((2, 3))))


@pytest.fixture
def torchvision(monkeypatch: Any) -> SimpleNamespace:
    """A stand-in for torchvision: densenet calls its last layer classifier, resnet fc."""
    ends = {"densenet121": "classifier", "resnet18": "fc", "odd": "end"}
    place = SimpleNamespace(url="https://models.example/a1b2.pth")
    weights = enum.Enum("weights", {"IMAGENET1K_V1": place, "DEFAULT": place})
    for member in weights:
        member.url = place.url
    models = SimpleNamespace(asked=[], error=None, weights=weights)

    def get_model(name: str, *, weights: Any) -> Classifier:
        models.asked.append((name, weights))
        if weights is not None and models.error is not None:
            raise models.error
        return Classifier(ends[name])

    def list_models(module: Any) -> list[str]:
        return list(ends) if module is models else [*ends, "a_detector"]

    models.list_models, models.get_model = list_models, get_model
    models.get_model_weights = lambda name: weights
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return models


def test_the_last_layer_of_a_torchvision_model_is_taken_off(torchvision: SimpleNamespace) -> None:
    """So its features come out; only classifiers have one."""
    for name in ("densenet121", "resnet18"):
        assert image_head.load_backbone(name)(torch.ones(2, 3, 8, 8)).shape == (2, 4)
    best = torchvision.weights["DEFAULT"]
    assert torchvision.asked == [("densenet121", best), ("resnet18", best)]
    with pytest.raises(ValueError, match="no last layer of a known name"):
        image_head.load_backbone("odd")
    for name in ("nonsense", "a_detector"):
        with pytest.raises(ValueError, match=f"a classifier of torchvision.*got '{name}'"):
            image_head.load_backbone(name)
    with pytest.raises(ValueError, match=r"'none' or one of 'IMAGENET1K_V1', .*; got 'V9'"):
        image_head.load_backbone("densenet121", weights="V9")


@pytest.mark.parametrize(
    "error", [URLError("no route"), RuntimeError("invalid hash value"), UnpicklingError("bad")]
)
def test_trained_weights_that_cannot_be_had_are_an_error_with_its_cures(
    torchvision: SimpleNamespace, error: Exception, monkeypatch: Any, tmp_path: Path
) -> None:
    """What was wanted, from where, into which folder; and how to go on without."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torchvision.error = error
    with pytest.raises(OSError, match="weights of backbone='densenet121' could not be") as caught:
        image_head.load_backbone("densenet121")
    for part in (str(error), "https://models.example/a1b2.pth", "--weights none"):
        assert part in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)
    model = image_head.load_backbone("densenet121", weights="none")
    assert torchvision.asked[-1] == ("densenet121", None)
    assert model(torch.ones(2, 3, 8, 8)).shape == (2, 4)


def test_random_weights_come_from_the_seed_alone(torchvision: SimpleNamespace) -> None:
    """And torch's random state is what it was."""
    state = torch.get_rng_state()
    models = [image_head.load_backbone("resnet18", s, weights="none") for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (model.stem.weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_only_backbones_that_are_not_trained_are_called_so(
    torchvision: SimpleNamespace, folder: Path, ran: Ran
) -> None:
    """Random filters and random weights; not the trained ones, nor a module of unknown history."""
    assert "`small`, 1024 features, random filters, not trained" in image_head.report(ran[0])
    for options, text in (
        ({"backbone": "resnet18", "weights": "none"}, "random weights, not trained"),
        ({"backbone": "resnet18"}, "held fixed at the trained weights DEFAULT of torchvision"),
        ({"backbone": Means()}, "held fixed"),
    ):
        report = image_head.report(image_head.run(0, True, images=folder, epochs=1, **options))
        assert f" features, {text}." in report


def test_densenet_of_torchvision_has_1024_features() -> None:
    """The real one, where torchvision is installed."""
    pytest.importorskip("torchvision")
    model = image_head.load_backbone("densenet121", weights="none").eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1024)


def test_the_mean_of_the_last_batches_begins_with_the_first() -> None:
    """Against the mean of each slice; also with fewer batches than it covers."""
    values = np.random.default_rng(0).normal(size=30)
    for n in (1, 5, 30):
        expected = [values[max(0, i - 7) : i + 1].mean() for i in range(n)]
        assert image_head._running_mean(values[:n], 8).tolist() == pytest.approx(expected)


def test_nothing_is_written_over_the_curves_of_the_losses(ran: Ran) -> None:
    """What zero means is in the legend, which is outside the frame; each curve has every batch."""
    numbers, _ = ran
    figure = image_head._draw_losses(numbers)
    (ax,) = figure.axes
    assert not ax.texts
    assert "zero" in figure.legends[0].get_texts()[-1].get_text()
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    n = len(numbers["losses"]["class"])
    assert [line.get_xdata().tolist() for line in lines] == [list(range(1, n + 1))] * 4
    figure.draw_without_rendering()
    box, frame = figure.legends[0].get_window_extent(), ax.get_window_extent()
    assert box.y0 >= frame.y1


def test_a_backbone_is_not_trained() -> None:
    """Its weights after a run are those before, and it is left in evaluation mode."""
    backbone = nn.Sequential(nn.Conv2d(3, 2, 32, 32), nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    image_head.run(0, fast=True, backbone=backbone)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_useless_heads_are_reported(ran: Ran) -> None:
    """The verdict comes from the numbers: worse than a guess, and better."""
    numbers, _ = ran
    guess = numbers["constant_nll"]
    worse = {k: v + 0.1 for k, v in guess.items()}
    better = {k: v - 0.1 for k, v in guess.items()}
    assert image_head.report({**numbers, "test_nll": worse}).count("is of no use") == 2
    assert "is of no use" not in image_head.report({**numbers, "test_nll": better})

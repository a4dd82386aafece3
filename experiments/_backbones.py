"""Backbones: networks that map images to features, and the devices that they run on."""

from __future__ import annotations

import importlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SmallBackbone", "Standardized", "device_of", "load_backbone", "text_of_weights"]


class SmallBackbone(nn.Module):
    """Two layers of random filters and average pooling to 4 x 4: (N, 3, 224, 224) to (N, 1024).

    The filters are orthogonal, so that they differ from each other; they are not trained.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        first = nn.utils.skip_init(nn.Conv2d, 3, 32, 9, stride=4)  # does not draw random numbers
        second = nn.utils.skip_init(nn.Conv2d, 32, 64, 5, stride=2)
        generator = torch.Generator().manual_seed(seed)
        for layer in (first, second):
            nn.init.orthogonal_(layer.weight.flatten(1), gain=2.0, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(
            first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns features of images, (N, 1024)."""
        return self.layers(x)


class Standardized(nn.Module):
    """A backbone whose features are standardised column by column.

    Args:
        backbone: maps images to (N, F), or to a shape that flattens to it.
        features: features of the training images, (N, F), which define mean and scale.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, features: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        std = features.std(0)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", torch.where(std > 0, std, 1.0))  # a feature may be constant

    def units(self, h: Tensor) -> Tensor:
        """Returns standardised features."""
        return (h - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Returns standardised features of images, (N, F)."""
        return self.units(self.backbone(x).flatten(1))


def load_backbone(name: str, seed: int = 0, *, weights: str = "default") -> nn.Module:
    """Returns the small backbone, or a classifier of torchvision without its last layer.

    Args:
        name: "small", or the name of a classifier of torchvision, as "densenet121".
        seed: of random weights.
        weights: of a classifier of torchvision: "default" for the best that torchvision has, the
            name of others, as "IMAGENET1K_V1", or "none" for random ones.  The weights of the small
            backbone are always random.

    Raises:
        ValueError: torchvision is not installed or has no such classifier or no such weights, or
            the name of the classifier's last layer is not known.
        OSError: the weights are not in torch's hub folder and could not be downloaded.
    """
    if name == "small":
        if weights not in ("default", "none"):
            raise ValueError(f"weights of backbone='small' are always random; got {weights!r}")
        return SmallBackbone(seed)
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError:
        raise ValueError(
            f"backbone={name!r} needs torchvision; install it with pip install 'mdn[vision]', or "
            "use backbone='small'"
        ) from None
    if name not in models.list_models(module=models):  # classifiers alone
        raise ValueError(
            f"backbone must be 'small' or a classifier of torchvision, as 'densenet121'; "
            f"got {name!r}"
        )
    known = models.get_model_weights(name)
    if weights != "none" and weights.upper() not in known.__members__:
        raise ValueError(
            f"weights of backbone={name!r} must be 'none' or one of "
            f"{', '.join(map(repr, known.__members__))}; got {weights!r}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _torchvision_model(models, name, known, weights)
    for last in ("classifier", "fc", "heads", "head"):  # names in the families of models
        if isinstance(getattr(model, last, None), nn.Module):
            setattr(model, last, nn.Identity())
            return model
    raise ValueError(f"backbone={name!r} has no last layer of a known name to remove")


def _torchvision_model(models: Any, name: str, known: Any, weights: str) -> nn.Module:
    """Returns a model of torchvision; its weights may have to be downloaded."""
    if weights == "none":
        return models.get_model(name, weights=None)
    chosen = known[weights.upper()]
    try:
        return models.get_model(name, weights=chosen)
    except (OSError, RuntimeError, UnpicklingError) as error:  # no network, a broken file, ...
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"weights of backbone={name!r} could not be read or downloaded ({error}); download "
            f"{chosen.url} with a browser and put it into {folder}, or take random weights with "
            "--weights none, in Python weights='none'"
        ) from error


def text_of_weights(name: str, weights: str) -> str:
    """Returns what the weights of a named backbone are, in words."""
    if name == "small":
        return "random filters, not trained"
    if weights == "none":
        return "random weights, not trained"
    return f"held fixed at the trained weights {weights.upper()} of torchvision"


def device_of(name: str) -> torch.device:
    """Returns a device of torch; raises ValueError if this computer has no such device."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # of a name, or of a device that is not there
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one of this computer, as 'cpu'; got {name!r} ({reason})"
        ) from None

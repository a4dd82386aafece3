"""What the experiments on conditional densities share: a least-squares network, and drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

import mdn

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "VERMILLION",
    "LeastSquares",
    "chunks",
    "distribution_of",
    "figure",
    "most_probable",
    "save",
    "seeded",
    "table",
    "train_network",
]

Floats = NDArray[np.floating[Any]]

# Okabe and Ito (2008): told apart by the colour-blind
BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, GREY = "#E69F00", "#CC79A7", "#999999"
_HELD_OUT = 0.2  # share of the training rows that ends a network's training
_CHUNK = 4096  # rows at a time where a pool of many components would fill the memory


class LeastSquares(nn.Module):
    """A network fitted by least squares, as the Gaussian whose mean it is.

    Its width is one number for all x, so its NLL is the squared error up to a constant and a
    factor: maximum likelihood is least squares, and the width is the root-mean-square residual.

    Args:
        x: (N, F), training features: they set the units in which the network works.
        y: (N, D), training targets, likewise.
        hidden: widths of the hidden layers.
    """

    x_shift: Tensor
    x_scale: Tensor
    y_shift: Tensor
    y_scale: Tensor

    def __init__(self, x: Tensor, y: Tensor, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        for name, a in (("x", x), ("y", y)):
            a = a.double()
            scale = a.std(0)
            self.register_buffer(f"{name}_shift", a.mean(0))
            self.register_buffer(f"{name}_scale", torch.where(scale > 0, scale, 1.0))
        layers: list[nn.Module] = []
        width = x.shape[1]
        for units in hidden:
            layers += [nn.Linear(width, units), nn.SiLU()]
            width = units
        self.network = nn.Sequential(*layers, nn.Linear(width, y.shape[1]))
        self.log_scale = nn.Parameter(torch.zeros(y.shape[1]))

    def forward(self, x: Tensor) -> mdn.GaussianMixture:
        """The Gaussian for x, (*, F), in y's unit, float64."""
        loc = self.network(((x - self.x_shift) / self.x_scale).float()).double()  # (*, D)
        scale = self.log_scale.exp().double().expand(loc.shape)
        standard = mdn.GaussianMixture(
            loc.new_zeros(*loc.shape[:-1], 1), loc.unsqueeze(-2), scale.unsqueeze(-2)
        )
        return standard.affine(self.y_shift, self.y_scale)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """A module whose first weights are those of the seed; torch's own random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train_network(
    module: nn.Module,
    x: Floats,
    y: Floats,
    *,
    seed: int,
    max_epochs: int,
    patience: int = 60,
    lr: float = 5e-3,
    batch_size: int = 100,
) -> int:
    """Trains by maximum likelihood; a fifth of the rows ends it.  Returns the epochs."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    features, targets = torch.from_numpy(x)[order], torch.from_numpy(y)[order]
    n = round(_HELD_OUT * len(x))
    history = mdn.fit(
        module,
        (features[n:], targets[n:]),
        (features[:n], targets[:n]),
        max_epochs=max_epochs,
        patience=patience,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        progress=False,
    )
    module.eval()
    return len(history)


def distribution_of(model: Any, x: Floats) -> Any:
    """The distribution that a network or an estimator gives for x, (N, F); without gradients."""
    if hasattr(model, "predict_distribution"):
        return model.predict_distribution(x)
    with torch.no_grad():
        return model(torch.from_numpy(x))


def chunks(model: Any, x: Floats, function: Callable[[Any, slice], Any]) -> Floats:
    """function(distribution, rows) on some thousand rows of x at a time, joined to (N, ...)."""
    parts = []
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        parts.append(np.asarray(function(distribution_of(model, x[rows]), rows)))
    return np.concatenate(parts)


def most_probable(dist: Any) -> Floats:
    """The centre of a component where the density is highest, (N, D): one value of the top branch.

    The highest mode lies within a component's width of it; to follow the modes of a pool of
    hundreds of components exactly takes a tenth of a second a row.
    """
    centres = dist.loc.movedim(-2, 0)  # (K, N, D)
    best = dist.log_prob(centres).argmax(0)  # (N,)
    return centres[best, torch.arange(len(best))].numpy()


def figure(
    rows: int, columns: int, height: float, *, width: float = 9.0, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A figure outside pyplot and its Axes, (rows, columns); inches."""
    drawn = Figure(figsize=(width, height), layout="constrained", dpi=110)
    return drawn, drawn.subplots(rows, columns, squeeze=False, **options)


def save(drawn: Figure, out: Path, name: str) -> None:
    """Writes ``<name>.png`` into the folder."""
    drawn.savefig(out / f"{name}.png")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table: text at the left, numbers at the right."""
    if not rows:
        return ""
    lines = [head, ["---" if i == 0 else "---:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

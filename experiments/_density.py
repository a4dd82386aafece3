"""Shared parts of the experiments on densities: networks, their training, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

import mdn

__all__ = [
    "REGRESSOR",
    "SMALL",
    "LeastSquares",
    "chunks",
    "distribution_of",
    "figure",
    "fit_models",
    "gaussian",
    "most_probable",
    "save",
    "seeded",
    "table",
    "train_network",
    "train_on",
]

Floats = NDArray[np.floating[Any]]
Rows = tuple[Tensor, Tensor]  # features and targets

REGRESSOR = "MDNRegressor"
SMALL = {"preset": "fast", "ensemble_size": 1, "trees": False}  # MDNRegressor of a fast run
_HELD_OUT = 0.2  # share of the training rows used for early stopping
_CHUNK = 4096  # rows at a time: all rows of a pool of many components would not fit into memory


class LeastSquares(nn.Module):
    """A network fitted by least squares, as a Gaussian whose mean is the network's output.

    Its scale is one number for all x, so its NLL is an affine function of the squared error:
    maximum likelihood is least squares, and the scale is the root-mean-square residual.

    Args:
        x: training features, (N, F); their mean and scale define the units of the network.
        y: training targets, (N, D), likewise.
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
        """Returns the Gaussian for x, (*, F), in y's unit, float64."""
        loc = self.network(((x - self.x_shift) / self.x_scale).float()).double()  # (*, D)
        standard = gaussian(loc, self.log_scale.exp().double().expand(loc.shape))
        return standard.affine(self.y_shift, self.y_scale)


def gaussian(loc: Tensor, scale: Tensor) -> mdn.GaussianMixture:
    """Returns mixtures of one component, from loc and scale, (*, D) each."""
    return mdn.GaussianMixture(
        loc.new_zeros(*loc.shape[:-1], 1), loc.unsqueeze(-2), scale.unsqueeze(-2)
    )


def seeded(seed: int, build: Callable[[], nn.Module]) -> Any:
    """Returns a module with the initial weights of the seed; torch's random state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def train_on(
    module: nn.Module,
    rows: Rows,
    val: Rows | None,
    *,
    seed: int,
    max_epochs: int,
    lr: float = 5e-3,
) -> mdn.History:
    """Trains with early stopping on validation rows; without these, all epochs on full batches."""
    return mdn.fit(
        module,
        rows,
        val,
        max_epochs=max_epochs,
        lr=lr,
        patience=15,
        batch_size=128 if val is not None else len(rows[0]),
        progress=False,
        seed=seed,
    )


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
    """Trains with early stopping on a fifth of the rows; returns the number of epochs."""
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


def fit_models(
    networks: Mapping[str, Callable[[], nn.Module]],
    x: Floats,
    y: Floats,
    *,
    seed: int,
    fast: bool,
    max_epochs: int,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, int]]:
    """Fits networks and an MDNRegressor to the same rows.

    Args:
        networks: functions that build the networks, by name.
        x, y: training rows, (N, F) and (N, D).
        seed: of the initial weights and of the order of the rows.
        fast: whether the MDNRegressor is a small one; otherwise it has its defaults.
        max_epochs: of the networks.
        progress: called with the name of each model before it is fitted.

    Returns:
        The models by name, and the number of epochs of each network.
    """
    models: dict[str, Any] = {}
    epochs = {}
    for name, build in networks.items():
        progress(name)
        models[name] = seeded(seed, build)
        epochs[name] = train_network(models[name], x, y, seed=seed, max_epochs=max_epochs)
    progress(REGRESSOR)
    options = {**SMALL, "max_epochs": 60} if fast else {}
    target = y[:, 0] if y.shape[1] == 1 else y
    models[REGRESSOR] = mdn.MDNRegressor(random_state=seed, **options).fit(x, target)
    return models, epochs


def distribution_of(model: Any, x: Floats) -> Any:
    """Returns the distribution that a network or an estimator predicts for x, (N, F)."""
    if hasattr(model, "predict_distribution"):
        return model.predict_distribution(x)
    with torch.no_grad():
        return model(torch.from_numpy(x))


def chunks(model: Any, x: Floats, function: Callable[[Any, slice], Any]) -> Floats:
    """Returns function(distribution, rows), computed in chunks of rows of x, joined to (N, ...)."""
    parts = []
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        parts.append(np.asarray(function(distribution_of(model, x[rows]), rows)))
    return np.concatenate(parts)


def most_probable(dist: Any) -> Floats:
    """Returns the loc of the component at which the density is highest, (N, D).

    The highest mode is at most about a component's scale away. Finding the exact modes of a pool of
    hundreds of components would take a tenth of a second per row.
    """
    centres = dist.loc.movedim(-2, 0)  # (K, N, D)
    best = dist.log_prob(centres).argmax(0)  # (N,)
    return centres[best, torch.arange(len(best))].numpy()


def figure(
    rows: int, columns: int, height: float, *, width: float = 9.0, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """Returns a figure that pyplot does not manage, and its Axes, (rows, columns); inches."""
    drawn = Figure(figsize=(width, height), layout="constrained", dpi=110)
    return drawn, drawn.subplots(rows, columns, squeeze=False, **options)


def save(drawn: Figure, out: Path, name: str) -> None:
    """Writes ``<name>.png`` into the folder."""
    drawn.savefig(out / f"{name}.png")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a Markdown table; the first column is aligned left, the others right."""
    if not rows:
        return ""
    lines = [head, ["---" if i == 0 else "---:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

r"""A robot arm reaches most points with two postures; the mean of the two does not reach them.

Bishop's second problem (1994): an arm of two links, 0.8 and 0.2 long, with the end effector at

$$x_1 = L_1 \cos \theta_1 - L_2 \cos(\theta_1 + \theta_2), \qquad
  x_2 = L_1 \sin \theta_1 - L_2 \sin(\theta_1 + \theta_2),$$

the angles uniform on (0.3, 1.2) and (pi/2, 3 pi/2).  The forward problem, from the angles to the
position, is a function.  In the inverse problem, from a position to the angles, most points in the
middle of the workspace have two solutions, mirror images about the line from the shoulder to the
hand: the second angle is pi - a or pi + a.  Least squares predicts their mean, near pi, a stretched
arm that reaches past the point.  A mixture density network represents both solutions, and the more
probable one reaches the point.

The true solutions are known.  The angles follow from the position by the law of cosines.  The
Jacobian of the arm, L1 L2 |sin theta_2|, is the same for both solutions, so they are equally
probable wherever both are within the range of the joints: there the probability of theta_2 < pi is
one half.

There is no noise, so the true p(angles | position) consists of two points and its NLL has no lower
bound.  The models are compared by the positioning error: the root-mean-square distance between the
target point and the point that the arm reaches with the predicted angles.

C. M. Bishop, *Mixture Density Networks*, Neural Computing Research Group Report NCRG/94/004,
Aston University (1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

import mdn

from ._density import (
    REGRESSOR,
    Floats,
    LeastSquares,
    distribution_of,
    figure,
    fit_models,
    most_probable,
    save,
    table,
)
from ._palette import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION

__all__ = ["hand", "inverse", "joints", "report", "run"]

MINUTES = 1.5
DATA = "none"

UPPER, FORE = 0.8, 0.2  # lengths of the links, in units of the stretched arm
SHOULDER = (0.3, 1.2)  # range of theta_1, rad
ELBOW = (math.pi / 2, 3 * math.pi / 2)  # range of theta_2, rad; pi is the stretched arm
ROWS, FAST_ROWS, TEST_ROWS = 1000, 400, 1000
COMPONENTS = 5  # of the plain network
DRAWS = 20  # per test row
_LS, _MDN = "least squares", "MDN"


def hand(angles: Floats) -> Floats:
    """Returns the position of the hand, (*, 2), for the two angles in rad, (*, 2)."""
    first, second = angles[..., 0], angles[..., 0] + angles[..., 1]
    return np.stack(
        [
            UPPER * np.cos(first) - FORE * np.cos(second),
            UPPER * np.sin(first) - FORE * np.sin(second),
        ],
        axis=-1,
    )


def joints(angles: Floats) -> Floats:
    """Returns the positions of shoulder, elbow and hand, (*, 3, 2)."""
    first = angles[..., 0]
    elbow = np.stack([UPPER * np.cos(first), UPPER * np.sin(first)], axis=-1)
    return np.stack([np.zeros_like(elbow), elbow, hand(angles)], axis=-2)


def inverse(position: Floats) -> Floats:
    """Returns both pairs of angles that reach a position, by the law of cosines.

    Args:
        position: (*, 2).

    Returns:
        (*, 2, 2): the solution with theta_2 below pi, then that above; NaN for a solution outside
        the range of the joints.
    """
    square = np.sum(position**2, axis=-1)
    cosine = (UPPER**2 + FORE**2 - square) / (2 * UPPER * FORE)
    elbow = np.arccos(np.where(np.abs(cosine) <= 1 + 1e-12, cosine.clip(-1, 1), np.nan))
    second = np.stack([elbow, 2 * math.pi - elbow], axis=-1)  # (*, 2)
    # the hand is R(theta_1) (L1 - L2 cos theta_2, -L2 sin theta_2)
    direction = np.arctan2(-FORE * np.sin(second), UPPER - FORE * np.cos(second))
    first = np.arctan2(position[..., 1], position[..., 0])[..., None] - direction
    inside = (first >= SHOULDER[0]) & (first <= SHOULDER[1])
    inside &= (second >= ELBOW[0]) & (second <= ELBOW[1])
    return np.where(inside[..., None], np.stack([first, second], axis=-1), np.nan)


def _draw_rows(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Returns positions and the angles they were computed from, (n, 2) each."""
    angles = rng.uniform(*zip(SHOULDER, ELBOW, strict=True), size=(n, 2))
    return hand(angles), angles


def run(
    seed: int = 0,
    fast: bool = False,
    *,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Fits least squares and the mixtures, computes positioning errors, and draws arms."""
    rng = np.random.default_rng(seed)
    n = FAST_ROWS if fast else ROWS
    position, angles = _draw_rows(n, rng)
    wanted, _ = _draw_rows(TEST_ROWS // 5 if fast else TEST_ROWS, rng)
    x, y = torch.from_numpy(position), torch.from_numpy(angles)
    networks = {
        _LS: lambda: LeastSquares(x, y),
        _MDN: lambda: mdn.MDN(2, 2, COMPONENTS, covariance_type="full").standardize_(x, y),
    }
    epochs = 80 if fast else 2000
    models, _ = fit_models(
        networks, position, angles, seed=seed, fast=fast, max_epochs=epochs, progress=progress
    )

    progress("positioning errors")
    two = np.isfinite(inverse(wanted)).all(axis=(1, 2))  # (N,) both solutions within the range
    dists = {name: distribution_of(model, wanted) for name, model in models.items()}
    predictions = _predict(dists)
    error = {name: _distance(hand(pair), wanted) for name, pair in predictions.items()}
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: hand(dists[name].sample((DRAWS,), generator=generator).numpy()) for name in dists
    }
    below = {name: _mass_below_pi(dists[name]) for name in (_MDN, REGRESSOR)}
    numbers = {
        "rows": n,
        "test_rows": len(wanted),
        "components": COMPONENTS,
        "share_with_two_answers": float(two.mean()),
        "rms": {
            name: {
                "all": _rms(e),
                "two_answers": _rms(e[two]),
                "one_answer": _rms(e[~two]),
                "median": float(np.median(e)),
            }
            for name, e in error.items()
        },
        "rms_of_draws": {name: _rms(_distance(d, wanted)) for name, d in drawn.items()},
        "median_of_draws": {
            name: float(np.median(_distance(d, wanted))) for name, d in drawn.items()
        },
        "least_squares_distance_of_theta_2_from_pi": float(
            np.mean(np.abs(predictions[_LS][two, 1] - math.pi))
        ),
        "true_distance_of_theta_2_from_pi": float(
            np.mean(np.abs(inverse(wanted[two])[:, 0, 1] - math.pi))
        ),
        "mass_below_pi": {
            name: {
                "mean": float(mass[two].mean()),
                "mean_absolute_deviation_from_half": float(np.abs(mass[two] - 0.5).mean()),
            }
            for name, mass in below.items()
        },
    }
    if out is not None:
        progress("figures")
        _draw_arms(out, models)
        _draw_errors(out, wanted, predictions, error)
        _draw_angles(out, models)
    return numbers


def _predict(dists: dict[str, Any]) -> dict[str, Floats]:
    """Returns predicted angles, (N, 2), by model and kind of prediction."""
    predictions = {_LS: dists[_LS].mean.numpy()}
    for name in (_MDN, REGRESSOR):
        predictions[f"{name}, mean"] = dists[name].mean.numpy()
        predictions[f"{name}, most probable"] = most_probable(dists[name])
    return predictions


def _mass_below_pi(dist: Any) -> Floats:
    """Returns the probability of theta_2 < pi, (N,)."""
    second = dist.marginal([1])
    return second.cdf(torch.full_like(second.mean, math.pi)).numpy()


def _distance(a: Floats, b: Floats) -> Floats:
    return np.sqrt(np.sum((a - b) ** 2, axis=-1))


def _rms(distance: Floats) -> float:
    return float(np.sqrt(np.mean(distance**2))) if distance.size else math.nan


def report(numbers: dict[str, Any]) -> str:
    """Returns the numbers in Markdown."""
    rms, draws = numbers["rms"], numbers["rms_of_draws"]
    head = ["prediction", "RMS error", "two solutions", "one solution", "median error"]
    rows = [
        [name, *(f"{e[key]:.4f}" for key in ("all", "two_answers", "one_answer", "median"))]
        for name, e in rms.items()
    ]
    ls, mode = rms[_LS]["all"], rms[f"{_MDN}, most probable"]["all"]
    mean = rms[f"{_MDN}, mean"]["all"]
    mass = numbers["mass_below_pi"]
    verdict = (
        "Reproduced: the most probable branch of the mixture reaches the point, least squares and "
        "the mean of the mixture do not."
        if mode < 0.5 * min(ls, mean)
        else "Not reproduced: the error of the most probable branch is not at most half of that of "
        "least squares and of the mean of the mixture."
    )
    predicted = numbers["least_squares_distance_of_theta_2_from_pi"]
    true = numbers["true_distance_of_theta_2_from_pi"]
    return "\n\n".join(
        [
            f"{numbers['rows']} training and {numbers['test_rows']} test rows; "
            f"{numbers['share_with_two_answers']:.0%} of the test points have two solutions. "
            "Positioning errors in units of the length of the stretched arm:",
            table(head, rows),
            f"{verdict} The error of the MDN's most probable branch is {mode / ls:.0%} of that of "
            f"least squares. At points with two solutions the second angle of least squares is "
            f"{predicted:.2f} rad from pi on average, nearly a stretched arm; that of the "
            f"solutions is {true:.2f} rad from pi.",
            "A sample from the mixture is another prediction: its RMS error is "
            f"{draws[_MDN]:.4f} for the MDN and {draws[REGRESSOR]:.4f} for MDNRegressor (median "
            f"{numbers['median_of_draws'][_MDN]:.4f} and "
            f"{numbers['median_of_draws'][REGRESSOR]:.4f}), and {draws[_LS]:.4f} for the Gaussian "
            "of least squares.",
            "At points with two solutions each has probability one half. The predicted probability "
            f"of theta_2 < pi is {mass[_MDN]['mean']:.2f} on average for the MDN (mean absolute "
            "deviation from one half "
            f"{mass[_MDN]['mean_absolute_deviation_from_half']:.2f}) and "
            f"{mass[REGRESSOR]['mean']:.2f} for MDNRegressor "
            f"({mass[REGRESSOR]['mean_absolute_deviation_from_half']:.2f}).",
        ]
    )


def _arm(ax: Axes, angles: Floats, colour: str, dashes: str, label: str) -> None:
    at = joints(angles)
    ax.plot(at[:, 0], at[:, 1], dashes, color=colour, lw=2.2, marker="o", ms=5, label=label)


def _example() -> Floats:
    """Returns a position in the middle of the workspace with two solutions."""
    return hand(np.array([0.75, math.pi - 0.9]))


def _draw_arms(out: Path, models: dict[str, Any]) -> None:
    """Draws both solutions for one point, and the arms that the models predict."""
    drawn, axes = figure(1, 2, 4.3, sharex=True, sharey=True)
    wanted = _example()
    for ax in axes[0]:
        ax.plot(*wanted, "X", color=BLACK, ms=11, label="point wanted", zorder=1)
        ax.set(aspect="equal", xlabel="x1 [length of the arm]")
    up, down = inverse(wanted)
    _arm(axes[0, 0], up, BLUE, "-", "one answer")
    _arm(axes[0, 0], down, GREEN, "--", "the other")
    _arm(
        axes[0, 1],
        distribution_of(models[_LS], wanted[None]).mean[0].numpy(),
        VERMILLION,
        "-",
        "least squares",
    )
    dist = distribution_of(models[_MDN], wanted[None])
    modes, height = dist.modes().loc[0].numpy(), dist.modes().log_density[0].numpy()
    modes = modes[np.isfinite(height)]
    looks = ((BLUE, "-", "MDN, most probable"), (GREEN, "--", "MDN, the other branch"))
    _arm(axes[0, 1], modes[0], *looks[0])
    other = modes[(modes[:, 1] < math.pi) != (modes[0, 1] < math.pi)]
    if len(other):
        _arm(axes[0, 1], other[0], *looks[1])
    axes[0, 0].set(title="two true answers", ylabel="x2 [length of the arm]")
    axes[0, 1].set(title="what the models answer")
    for ax in axes[0]:
        ax.legend(loc="upper left", fontsize="small")
        ax.set(xlim=(-0.08, 1.0), ylim=(-0.08, 0.95))
    save(drawn, out, "1_arms")


def _draw_errors(
    out: Path, wanted: Floats, predictions: dict[str, Floats], error: dict[str, Floats]
) -> None:
    """Draws lines from the target points to the points reached, over the workspace."""
    names = (_LS, f"{_MDN}, mean", f"{_MDN}, most probable")
    drawn, axes = figure(1, 3, 3.9, sharex=True, sharey=True)
    shown = slice(0, 300)  # more lines would hide each other
    for ax, name in zip(axes[0], names, strict=True):
        a, b = wanted[shown], hand(predictions[name])[shown]
        ax.plot(
            *np.stack([a, b, np.full_like(a, np.nan)], axis=1).reshape(-1, 2).T,
            color=ORANGE,
            lw=1.3,
            label="to the point reached",
        )
        ax.plot(*a.T, ".", color=BLUE, ms=3, label="point wanted")
        ax.set(title=name, aspect="equal", xlabel="x1 [length of the arm]")
        ax.text(0.04, 0.3, f"RMS error {_rms(error[name]):.4f}", transform=ax.transAxes)
    axes[0, 0].set_ylabel("x2 [length of the arm]")
    axes[0, 0].legend(loc="lower left", fontsize="x-small")
    save(drawn, out, "2_errors")


def _draw_angles(out: Path, models: dict[str, Any]) -> None:
    """Draws the second angle along a ray from the shoulder: samples, least squares and truth."""
    drawn, axes = figure(1, 2, 4.1, sharey=True)
    first = float(np.mean(SHOULDER))
    reach = np.linspace(0.84, 0.995, 120)
    ray = reach[:, None] * np.array([math.cos(first), math.sin(first)])
    generator = torch.Generator().manual_seed(0)
    true = inverse(ray)[..., 1]  # (R, 2)
    for ax, name in zip(axes[0], (_MDN, REGRESSOR), strict=True):
        sample = distribution_of(models[name], ray).sample((25,), generator=generator)
        ax.plot(
            np.tile(reach, 25), sample[..., 1].numpy().ravel(), ".", color=BLUE, ms=2, alpha=0.35
        )
        ax.plot([], [], ".", color=BLUE, label="draws")
        mean = distribution_of(models[_LS], ray).mean[:, 1]
        ax.plot(reach, mean, color=VERMILLION, lw=2.2, label="least squares")
        ax.plot(reach, true[:, 0], "--", color=BLACK, lw=1.4, label="true answers")
        ax.plot(reach, true[:, 1], "--", color=BLACK, lw=1.4)
        ax.axhline(math.pi, color=GREY, lw=0.8, zorder=0)
        ax.set(title=name, xlabel="distance from the shoulder [length of the arm]")
        ax.set_ylim(ELBOW[0] - 0.4, ELBOW[1] + 0.4)
        ax.legend(loc="upper right", fontsize="small")
    axes[0, 0].set_ylabel("second angle [rad]")
    save(drawn, out, "3_angles")

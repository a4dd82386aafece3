"""Tests of the experiments on digits."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import mdn.datasets
from experiments import label_noise, mnist_cross_entropy, mnist_nll, nllr, optimizers
from experiments._classification import (
    DIGITS_TEST,
    chunks,
    load_images,
    loader_orders,
    log_probs,
    mean_and_error,
    mlp,
    reliability,
    shuffled,
    train,
)

FIGURES = {
    mnist_nll: {"loss.png"},
    mnist_cross_entropy: {"accuracy.png"},
    optimizers: {"1_curves.png", "2_rates.png"},
    nllr: {"reliability.png"},
    label_noise: {"accuracy.png", "losses.png"},
}
Results = dict[Any, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The small version of each on scikit-learn's digits, through JSON and back."""
    result = {}
    for module, figures in FIGURES.items():
        out = tmp_path_factory.mktemp("out")
        numbers = module.run(0, True, out=out, data="digits")
        assert {p.name for p in out.iterdir()} == figures
        result[module] = json.loads(json.dumps(numbers))
    return result


# -- what they share -----------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_digits_are_all_used_once_and_scaled_by_those_of_training() -> None:
    """A fifth is kept for the test, in every run the same."""
    from sklearn.datasets import load_digits

    images, same = (load_images("digits", normalise=True) for _ in range(2))
    assert images.x.shape == (1797 - DIGITS_TEST, 64)
    assert torch.equal(images.y_test, same.y_test)
    assert float(images.x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.x.std()) == pytest.approx(1, abs=1e-5)
    every = torch.cat([load_images("digits").x, load_images("digits").x_test]) * 16
    pixels = load_digits().data
    order, want = np.lexsort(every.numpy().T), np.lexsort(pixels.T)
    np.testing.assert_array_equal(every.numpy()[order], pixels[want])


def test_images_of_a_folder_are_shares_of_brightness_or_normalised(tmp_path: Path) -> None:
    """Normalised by their own mean and standard deviation, which are not those of MNIST."""
    pixels = np.arange(24).reshape(6, 2, 2) * 10
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(6)))
    images = load_images(folder=str(tmp_path))
    assert images.name == tmp_path.name
    np.testing.assert_allclose(images.x.numpy(), pixels.reshape(6, 4) / 255, rtol=1e-6)
    images = load_images(folder=str(tmp_path), normalise=True)
    want = (pixels.reshape(6, 4) - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(images.x_test.numpy(), want, rtol=1e-5)


def test_without_mnist_the_digits_are_used_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast run does not even try the network; MNIST by name is an error."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(mdn.datasets, "_MIRRORS", ("http://127.0.0.1:9/",))  # nobody listens
    images = load_images()
    assert images.name == "digits"
    assert "could not be downloaded" in images.notice
    with pytest.raises(OSError, match="could not be downloaded"):
        load_images("mnist")
    monkeypatch.setitem(sys.modules, "pooch", None)  # an import would fail with other words
    images = load_images(fast=True)
    assert images.name == "digits"
    assert "does not exist" in images.notice
    assert "pooch" not in images.notice
    with pytest.raises(ValueError, match="data must be 'mnist' or 'digits'; got 'cifar'"):
        load_images("cifar")


def test_training_meets_every_row_once_an_epoch_and_repeats_itself_bit_for_bit() -> None:
    """In another order each time; torch's own generator is left as it was."""
    images = load_images("digits")
    before = torch.random.get_rng_state()

    def once() -> tuple[np.ndarray, torch.Tensor, list[torch.Tensor]]:
        net, seen = mlp((64, 8, 10), 3), []

        def loss(a: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen.append(t)
            return F.cross_entropy(a, t)

        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        orders = shuffled(len(images.y), 2, seed=1)
        losses = train(net, images.x, images.y, loss, optimizer, batch=100, orders=orders)
        return losses, log_probs(net, images.x_test), seen

    (losses, log_p, seen), (again, same, _) = once(), once()
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(losses, again)
    assert torch.equal(log_p, same)
    half = len(seen) // 2
    first, second = torch.cat(seen[:half]), torch.cat(seen[half:])
    for part in (first, second):
        assert torch.equal(part.bincount(), images.y.bincount())
    assert not torch.equal(first, second)
    assert losses[-5:].mean() < losses[:5].mean()
    assert chunks(np.arange(7.0), 3) == [1.0, 4.0]


@pytest.mark.parametrize(
    ("power", "low", "high"), [(1.0, 0.0, 0.01), (3.0, 0.1, 0.3), (0.3, 0.1, 0.4)]
)
def test_ece_distinguishes_calibrated_from_over_and_underconfident(
    power: float, low: float, high: float
) -> None:
    """Labels are drawn from known probabilities, of which the model gives powers.

    20,000 rows: an exact model has an ECE of about 0.004 by chance and of 0.01 in less than one
    of 10,000 draws.
    """
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 20000)
    y = torch.from_numpy((p.cumsum(1) < rng.random((20000, 1))).sum(1))
    result = reliability(torch.log_softmax(power * torch.from_numpy(p).log(), -1), y)
    assert low <= result["ece"] < high
    sure = np.array(result["confidence"])[-3:] - np.array(result["accuracy"])[-3:]
    assert (sure.mean() > 0.05) == (power > 1)


def test_ece_is_the_weighted_distance_of_bins_counted_one_by_one() -> None:
    """By loops, from the definition."""
    rng = np.random.default_rng(1)
    log_p = torch.log_softmax(torch.from_numpy(2 * rng.normal(size=(300, 3))), -1)
    y = torch.from_numpy(rng.integers(3, size=300))
    p = special.softmax(log_p.numpy(), 1)
    total = 0.0
    for i in range(15):
        rows = [r for r in range(300) if i / 15 <= p[r].max() < (i + 1) / 15]
        if rows:
            right = np.mean([p[r].argmax() == int(y[r]) for r in rows])
            total += len(rows) / 300 * abs(right - np.mean([p[r].max() for r in rows]))
    assert reliability(log_p, y)["ece"] == pytest.approx(total, rel=1e-12)


def test_a_mean_comes_with_its_standard_error() -> None:
    """SciPy's; a single value has none."""
    values = [1.0, 4.0, 2.0]
    assert mean_and_error(values) == {"mean": 7 / 3, "error": pytest.approx(stats.sem(values))}
    assert mean_and_error([2.0]) == {"mean": 2.0, "error": 0.0}


# -- mnist-nll and mnist-cross-entropy -------------------------------------------------------------


def test_mnist_nll_falls_from_log_ten_and_stays_above_zero(results: Results) -> None:
    """A probability mass; the head of the package gives the loss of LogSoftmax and NLLLoss."""
    it = results[mnist_nll]
    assert it["curve"][0][0] == pytest.approx(math.log(10), abs=0.15)
    assert it["last"][-1] < 1.0
    assert it["smallest_batch"] > 0
    assert it["smallest_row"] >= 0
    assert it["head_nll"] == pytest.approx(it["test_nll"][-1], abs=1e-6)
    assert it["accuracy"][-1] > 0.75
    text = mnist_nll.report(it)
    assert "None is negative." in text
    assert "Not compared with the published run" in text
    assert f"{it['curve'][-1][-1]:.3f}" in text


def test_the_order_of_the_images_is_that_of_torch_dataloader() -> None:
    """Epoch after epoch, from the same state of the default generator, which ends the same."""
    rows = torch.arange(37)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        loader = DataLoader(TensorDataset(rows), batch_size=10, shuffle=True)
        want = [torch.cat([batch for (batch,) in loader]) for _ in range(3)]
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        orders = list(loader_orders(len(rows), 3))
        assert torch.equal(torch.random.get_rng_state(), state)
    for order, expected in zip(orders, want, strict=True):
        assert torch.equal(order, expected)
    assert not torch.equal(orders[0], orders[1])


def test_mnist_nll_is_compared_with_the_published_values(results: Results) -> None:
    """In the three decimals that were printed."""
    it = copy.deepcopy(results[mnist_nll])
    printed = [list(means) for means in mnist_nll.PRINTED]
    it.update(data="mnist", rows=60000, point=500, curve=printed, last=[m[-1] for m in printed])
    text = mnist_nll.report(it)
    assert "**Reproduced**: 1.987 after the first 500 mini-batches and 0.193 after the last" in text
    assert "Of the 60 means" in text
    assert "60 are equal" in text
    assert "another number of threads" not in text
    printed[2][5] += 0.0006
    text = mnist_nll.report(it)
    assert "**Reproduced**" in text
    assert "59 are equal in all three decimals. Another processor or another number" in text
    it["last"][-1] = 0.1936
    assert "**Not reproduced**" in mnist_nll.report(it)
    assert "Not compared" in mnist_nll.report({**it, "seed": 43})
    it["smallest_batch"] = -0.1
    assert "**One is negative: this is a bug.**" in mnist_nll.report(it)


def test_mnist_nll_is_the_published_run_where_mnist_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.987, and the next mean, after the first 1,000 mini-batches of the experiment itself."""
    _need_mnist()
    monkeypatch.setattr(mnist_nll, "EPOCHS", 1)
    orders = mnist_nll.loader_orders
    monkeypatch.setattr(mnist_nll, "loader_orders", lambda n, k: [next(orders(n, k))[:10000]])
    curve = mnist_nll.run(0, data="mnist")["curve"]
    assert [f"{mean:.3f}" for mean in curve[0]] == ["1.987", "1.118"]


@pytest.mark.slow
def test_mnist_nll_is_the_published_run_to_its_end() -> None:
    """The first, a middle and the last of the means; the others within two units of the last digit.

    Another processor may add in another order.
    """
    _need_mnist()
    curve = mnist_nll.run(0, data="mnist")["curve"]
    assert f"{curve[0][0]:.3f}" == "1.987"
    assert f"{curve[2][5]:.3f}" == "0.255"
    assert f"{curve[4][11]:.3f}" == "0.193"
    np.testing.assert_allclose(curve, mnist_nll.PRINTED, rtol=0, atol=2e-3)


def test_the_stored_run_of_mnist_nll_is_the_published_one() -> None:
    """All 60 means: both ends, which were published, and those between."""
    path = Path(mnist_nll.__file__).parent / "results" / "mnist-nll" / "results.json"
    curve = json.loads(path.read_text(encoding="utf-8"))["numbers"]["curve"]
    assert [[round(mean, 3) for mean in means] for means in curve] == [
        *map(list, mnist_nll.PRINTED)
    ]
    assert (mnist_nll.PRINTED[0][0], mnist_nll.PRINTED[-1][-1]) == (1.987, 0.193)


def _need_mnist() -> None:
    try:
        mdn.datasets.load_mnist(False, download=False)
    except OSError as error:
        pytest.skip(str(error))


def test_cross_entropy_learns_and_is_judged_by_whole_per_cents(results: Results) -> None:
    """Within one point from the second epoch on, rounded down as the published ones are."""
    it = results[mnist_cross_entropy]
    assert it["accuracy"][-1] > 85
    assert it["curve"][0][0] == pytest.approx(math.log(10), abs=0.05)
    assert f"{it['accuracy'][-1]:.2f}" in mnist_cross_entropy.report(it)
    assert "Too little data" in mnist_cross_entropy.report(it)
    accuracy = [80.0, 94.9, 95.1, 95.0, 97.9, 97.0, 97.0, 97.5, 98.2, 98.9]
    full = {"data": "mnist", "rows": 60000, "accuracy": accuracy}
    full |= {"test_nll": [0.1] * 10, "curve": [it["curve"][0]] * 10}
    text = mnist_cross_entropy.report({**it, **full})
    assert "**Reproduced**" in text
    assert "by at most 1 (tolerance 1)" in text
    assert "equal in 5 of 9 epochs; in the first epoch the difference is -9" in text
    accuracy[4] = 93.99
    assert "**Not reproduced**" in mnist_cross_entropy.report({**it, **full})
    curve = [[1.05 * loss for loss in losses] for losses in mnist_cross_entropy.PUBLISHED_LOSS]
    curve[8][0] = 0.036 * 0.8
    text = mnist_cross_entropy.report({**it, **full, "curve": curve})
    assert text.count(" | 0.080, 0.076, 0.077 |") == 1  # the last column of the sixth epoch
    assert "Of the 30 losses 29 differ from the published ones by at most 10%" in text
    assert "the mean difference is +4.2% and the largest -20.0% (epoch 9, 0.029 instead" in text


# -- optimizers -----------------------------------------------------------------------------------


def test_the_schedule_rises_linearly_and_then_is_the_cosine_of_torch() -> None:
    """Of 40 steps the first two rise; from there it is ``CosineAnnealingLR``."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    want = []
    for _ in range(40):
        want.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    got = [optimizers.factor(step, 40) for step in range(40)]
    assert got[0] == 0.5
    assert got[1:] == pytest.approx(want[1:], rel=1e-6)
    assert [optimizers.factor(i, 1000) for i in (0, 24)] == pytest.approx([1 / 50, 0.5], rel=0.01)


def test_every_optimizer_starts_from_the_same_weights_and_sees_the_same_batches() -> None:
    """The loss of the first step, and, where nothing is learned, of all steps."""
    images = load_images("digits", normalise=True)
    first, still = set(), set()
    for name in optimizers.RATES:
        for schedule in optimizers.SCHEDULES:
            one = optimizers._one(images, name, schedule, 0.05, 1, 100, 1)
            assert len(one["training"]) == len(one["test"]) == 15
            first.add(one["training"][0])
            still.add(tuple(optimizers._one(images, name, schedule, 0.0, 1, 100, 1)["training"]))
    assert len(first) == len(still) == 1


def test_the_rate_is_chosen_without_the_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lowest NLL of training images that are held out; one that diverges is not chosen."""
    monkeypatch.setattr(optimizers, "RATES", {"SGD": (0.0, 1e30, 0.1, 0.01, 0.0)})
    it = optimizers.run(0, True, data="digits")
    images = load_images("digits", normalise=True)
    other = images._replace(y_test=images.y_test.flip(0))
    monkeypatch.setattr(optimizers, "load_images", lambda *args, **options: other)
    for cell, same in zip(it["cells"], optimizers.run(0, True)["cells"], strict=True):
        assert cell["rates"] == [1e30, 0.1, 0.01]
        assert cell["rate"] == 0.1
        assert not cell["validation"][0] < cell["validation"][1] < cell["validation"][2]
        assert cell["validation"][1:] == same["validation"][1:]
        assert cell["runs"]["test_nll"] != same["runs"]["test_nll"]


def test_optimizers_report_every_run_and_what_the_schedule_changes(results: Results) -> None:
    """Differences are paired by seed."""
    it = copy.deepcopy(results[optimizers])
    assert len(it["cells"]) == 6
    for cell in it["cells"]:
        assert cell["runs"]["training"][0][0] > cell["runs"]["training_nll"][0]
        assert f"| {cell['optimizer']} | {cell['schedule']} |" in optimizers.report(it)
        cell["runs"]["test_nll"] = [0.3, 0.5]
        cell["rate"] = cell["rates"][1]
    assert optimizers._cell(it["cells"], "Adam", "constant")["runs"]["accuracy"][0] > 90
    assert "No chosen rate is at the edge" in optimizers.report(it)
    optimizers._cell(it["cells"], "SGD", optimizers.SCHEDULED)["runs"]["test_nll"] = [0.1, 0.2]
    it["cells"][0]["rate"] = it["cells"][0]["rates"][0]
    text = optimizers.report(it)
    assert "lowest test NLL is that of SGD (warm-up and cosine); that of SGD (constant)" in text
    assert "is higher by 0.2500 ± 0.0500 (paired by seed)" in text
    assert "the test NLL changes by -0.2500 ± 0.0500" in text
    assert "At the edge of the rates that were tried: SGD (constant)." in text


# -- nllr ------------------------------------------------------------------------------------------


def test_the_ratio_loss_is_no_proper_score() -> None:
    """Its expectation for two classes is linear in the logits: no minimum, as its page says."""
    pi = torch.tensor([0.6, 0.4]).double()
    classes = torch.arange(2)
    a = torch.linspace(-30, 30, 7).double()
    logits = torch.stack([a, -a], -1)
    ratio, cross = (
        sum(pi[c] * nllr.LOSSES[name](logits, classes[c].expand(7)) for c in range(2))
        for name in ("ratio", "cross-entropy")
    )
    torch.testing.assert_close(ratio, -2 * (pi[0] - pi[1]) * a)
    assert int(cross.argmin()) == 3  # near log(0.6 / 0.4) / 2 = 0.2


def test_beyond_the_floor_the_ratio_has_no_gradient() -> None:
    """Above p = 1 - 1e-7 the floored ratio is constant, below it is the ratio."""
    logits = torch.tensor([[20.0, 0.0], [10.0, 0.0]]).double().requires_grad_()
    rows = nllr.LOSSES["floored ratio"](logits, torch.tensor([0, 0]))
    assert rows.tolist() == pytest.approx([special.logit(1e-7), -10.0])
    (slope,) = torch.autograd.grad(rows.sum(), logits)
    assert slope.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_the_ratio_has_higher_confidence_than_cross_entropy_and_negative_losses(
    results: Results,
) -> None:
    """Both ratios give negative losses and more confidence; cross-entropy is never negative."""
    scores = results[nllr]["sets"]["digits"]["scores"]
    assert scores["negative"]["of"]["cross-entropy"]["mean"] == 0
    assert scores["accuracy"]["of"]["cross-entropy"]["mean"] > 90
    for rival in nllr.RIVALS:
        assert scores["training_loss"]["of"][rival]["mean"] < 0
        assert scores["negative"]["of"][rival]["mean"] > 50
        assert scores["confidence"]["against"][rival]["difference"]["mean"] > 0
    assert scores["training_loss"]["of"]["floored ratio"]["mean"] > nllr.FLOOR


def test_nllr_reports_paired_tests_over_the_seeds(results: Results) -> None:
    """SciPy's one-sample t-test of the differences; the words follow from sign and p."""
    it = copy.deepcopy(results[nllr])
    a, b = [3.0, 4.0, 6.0], [1.0, 1.5, 5.0]
    paired = nllr._paired(a, b)
    assert paired["p"] == pytest.approx(stats.ttest_1samp(np.subtract(a, b), 0).pvalue)
    assert math.isnan(nllr._paired([1.0], [2.0])["p"])
    scores = it["sets"]["digits"]["scores"]
    judged = {"difference": {"mean": 1.0, "error": 0.1}}
    scores["accuracy"]["against"]["ratio"] = {**judged, "p": 0.01}
    scores["ece"]["against"]["ratio"] = {**judged, "p": 0.02}
    scores["nll"]["against"]["ratio"] = {**judged, "p": 0.2}
    text = nllr.report(it)
    assert "accuracy is better; ECE is worse; test NLL does not differ significantly" in text
    assert "**Reproduced**" in text
    assert f"{scores['ece']['of']['cross-entropy']['mean']:.2f} ±" in text
    assert "not higher on digits" in nllr.report(results[nllr])
    assert "Fashion-MNIST was not run here: the run did not find its files" in text


def test_fashion_mnist_is_used_if_it_is_next_to_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name, and in a diagram of its own."""
    rng = np.random.default_rng(0)
    checks = {}
    for name in ("mnist", nllr.FASHION):
        (tmp_path / name).mkdir()
        for part in ("train", "t10k"):
            files = {"images-idx3": rng.integers(256, size=(40, 4, 4)), "labels-idx1": np.ones(40)}
            for kind, array in files.items():
                path = tmp_path / name / f"{part}-{kind}-ubyte.gz"
                path.write_bytes(idx(array))
                checks.setdefault(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(mdn.datasets, "_MNIST", checks)
    monkeypatch.setenv("MDN_DATA", str(tmp_path))
    (out := tmp_path / "out").mkdir()
    numbers = nllr.run(0, True, out=out, data="mnist")
    assert list(numbers["sets"]) == ["mnist", "fashion-mnist"]
    assert {path.name for path in out.iterdir()} == {"reliability.png"}
    assert {result["rows"] for result in numbers["sets"].values()} == {40}
    assert "was not run here" not in nllr.report(numbers)
    assert "**fashion-mnist**" in nllr.report(numbers)


# -- label-noise -----------------------------------------------------------------------------------


def test_flipped_labels_are_the_stated_share_and_never_the_true_class() -> None:
    """Each other class as often.

    4,000 flips of one class: a chi-squared test at level 0.001 with a fixed seed.
    """
    y = torch.full((10000,), 3)
    noisy = label_noise.flip(y, 0.4, 0)
    counts = noisy.bincount(minlength=10)
    assert int(counts[3]) == 6000
    others = np.delete(counts.numpy(), 3)
    assert stats.chisquare(others).pvalue > 1e-3
    assert torch.equal(label_noise.flip(y, 0.0, 0), y)


def test_the_mislabelling_model_is_a_probability_and_matches_its_formula() -> None:
    """Sums to 1 over the classes that may be seen; also where p is 1 to float64."""
    model = label_noise.Mislabelling().double()
    logits = torch.tensor([[1.0, -2.0, 0.5], [60.0, 0.0, -60.0]]).double()
    rows = torch.stack([model.rows(logits, torch.full((2,), c)) for c in range(3)], -1)
    p, share = special.softmax(logits.numpy(), 1), model.share.item()
    assert share == pytest.approx(label_noise.INITIAL_SHARE)
    want = (1 - share) * p + share / 2 * (1 - p)
    np.testing.assert_allclose(rows.exp().reciprocal().detach().numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(want.sum(1), 1)
    assert model(logits, torch.tensor([0, 1])).item() == pytest.approx(
        -np.log(want[[0, 1], [0, 1]]).mean()
    )


def test_the_mislabelling_model_finds_the_share_where_the_classes_are_known() -> None:
    """With p = 1 of the true class, maximum likelihood is the share of flipped labels."""
    y = torch.arange(1000) % 10
    noisy = label_noise.flip(y, 0.3, 1)
    logits = 100 * F.one_hot(y, 10).double()
    model = label_noise.Mislabelling().double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(logits, noisy)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert model.share.item() == pytest.approx(0.3, abs=1e-4)


def test_label_noise_costs_accuracy_and_the_choice_looks_at_noisy_labels_only(
    results: Results,
) -> None:
    """On the digits NLL loses by 40 % of wrong labels; changing the test changes no choice."""
    it = copy.deepcopy(results[label_noise])
    cells = it["cells"]
    assert len(cells) == len(label_noise.RATES) * len(label_noise.LOSSES)
    accuracy = [
        label_noise._cell(cells, rate, "NLL")["accuracy"]["mean"] for rate in label_noise.RATES
    ]
    assert accuracy[0] > 90
    assert accuracy[2] < accuracy[0]
    for cell in cells:  # labels that are wrong by chance cannot be foretold
        assert cell["runs"]["validation"][0] < 100 * (1 - cell["rate"]) + 10
        cell["runs"]["accuracy"] = [0.0]
    for rate in label_noise.RATES:
        assert label_noise._chosen(cells, rate) == it["chosen"][f"{rate:g}"]


def test_label_noise_reports_every_loss_and_marks_the_chosen_one(results: Results) -> None:
    """A row for each; the estimate of the share of wrong labels."""
    it = results[label_noise]
    text = label_noise.report(it)
    for name in label_noise.LOSSES:
        assert f"| {name} |" in text
        assert label_noise.COLOURS[name]
    assert text.count(r"\*") == len(label_noise.RATES)
    share = label_noise._cell(it["cells"], 0.4, label_noise.MODEL)["share"]["mean"]
    assert f"{share:.1%} (± 0.0%) for 40%" in text


def test_the_noise_of_a_seed_is_the_same_for_every_loss_and_run() -> None:
    """The same seed gives the same numbers, bit for bit."""
    images = load_images("digits", normalise=True)
    one, same = (label_noise._one(images, (400, 100), 0.2, "q = 0.5", 5, 64, 1) for _ in range(2))
    assert one == same

"""Tests of save and load: bit for bit, without pickle, atomic, and every refusal."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from sklearn.exceptions import NotFittedError
from torch import nn

import mdn
from mdn import MDN, GaussianMixture, MDNHead, MDNRegressor, io
from tests.fixtures import write


def rows(dims: int = 1, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    y = 30 * X[:, :1] + rng.normal(size=(n, dims)) + 100
    return X, y[:, 0] if dims == 1 else y


SMALL: dict[str, Any] = {
    "n_components": 3,
    "hidden": (6,),
    "ensemble_size": 2,
    "trees": False,
    "max_epochs": 4,
    "random_state": 0,
}


def regressor(dims: int = 1, **options: Any) -> MDNRegressor:
    return MDNRegressor(**{**SMALL, **options}).fit(*rows(dims))


@functools.cache
def plain(dims: int = 1) -> MDNRegressor:
    return regressor(dims)


@functools.cache
def fast(dims: int = 1) -> MDNRegressor:
    """With trees and, as few rows as there are, a Gaussian process."""
    return regressor(dims, preset="fast", trees=True, ensemble_size=8)


@functools.cache
def correlated(dims: int = 2) -> MDNRegressor:
    return regressor(2, covariance_type="full", ensemble_size=8)


@functools.cache
def two_groups() -> MDNRegressor:
    """As the default: networks without and with the predictions of trees."""
    return regressor(trees=True, ensemble_size=3, max_epochs=1)


def network(dims: int = 1, **options: Any) -> MDN:
    X, y = rows(dims)
    torch.manual_seed(0)
    return MDN(2, dims, 3, (6, 5), **options).standardize_(
        torch.as_tensor(X), torch.as_tensor(y.reshape(60, -1))
    )


def mixture(dims: int = 1, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    return GaussianMixture(
        torch.randn(4, 3, generator=g, dtype=dtype),
        torch.randn(4, 3, dims, generator=g, dtype=dtype),
        torch.rand(4, 3, dims, generator=g, dtype=dtype) + 0.1,
    )


MODELS: dict[str, Callable[..., Any]] = {
    "GaussianMixture": mixture,
    "MDN": network,
    "MDNRegressor": plain,
    "fast": fast,
    "correlated": correlated,
    "two groups": lambda dims=1: two_groups(),
}
REGRESSORS = ("MDNRegressor", "fast", "correlated", "two groups")


def numbers(model: Any) -> dict[str, np.ndarray]:
    """The predictions of the model, as arrays."""
    X, _ = rows()
    if isinstance(model, MDNRegressor):
        return model.predict_distribution(X).numpy()
    if isinstance(model, MDN):
        with torch.no_grad():
            return model(torch.as_tensor(X)).numpy()
    return model.numpy()


def assert_bit_equal(a: Any, b: Any) -> None:
    first, second = numbers(a), numbers(b)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


# -- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_load_gives_back_what_was_saved_bit_for_bit(kind: str, dims: int, tmp_path: Path) -> None:
    """load(save(m)) = m: every logit, mean and scale."""
    model = MODELS[kind](dims)
    assert mdn.save(model, tmp_path / "m.mdn") is None
    loaded = mdn.load(tmp_path / "m.mdn")
    assert type(loaded) is type(model)
    assert_bit_equal(model, loaded)


@pytest.mark.parametrize("kind", MODELS)
def test_saving_what_was_loaded_writes_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """save(load(f)) = f."""
    mdn.save(MODELS[kind](), tmp_path / "a.mdn")
    mdn.save(mdn.load(tmp_path / "a.mdn"), tmp_path / "b.mdn")
    assert (tmp_path / "a.mdn").read_bytes() == (tmp_path / "b.mdn").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_mixture_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    """Dtype in, dtype out, through the file."""
    dist = mixture(dtype=torch.float32).to(dtype)
    mdn.save(dist, tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    for name in ("logits", "loc", "scale"):
        assert getattr(loaded, name).dtype == dtype
        assert torch.equal(getattr(loaded, name), getattr(dist, name))


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_mixture_of_a_head_is_saved_whatever_its_batch(
    batch: tuple[int, ...], dims: int, tmp_path: Path
) -> None:
    """Views of one tensor, with a graph, are saved as the numbers they are."""
    torch.manual_seed(0)
    dist = MDNHead(4, dims, 3, covariance_type="isotropic")(torch.randn(*batch, 4))
    mdn.save(dist, tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    assert loaded.batch_shape == batch
    assert not loaded.loc.requires_grad
    assert_bit_equal(dist, loaded)


def test_a_mixture_whose_parameters_are_one_tensor_is_saved(tmp_path: Path) -> None:
    """loc and scale may share their memory, and be expanded."""
    one = torch.ones(1, 1)
    dist = GaussianMixture(torch.zeros(1), one, one).expand((3,))
    mdn.save(dist, tmp_path / "m.mdn")
    assert_bit_equal(dist, mdn.load(tmp_path / "m.mdn"))


def test_a_switched_off_component_stays_off(tmp_path: Path) -> None:
    """Logits of -inf survive."""
    dist = GaussianMixture(torch.tensor([0.0, -torch.inf]), torch.zeros(2, 1), torch.ones(2, 1))
    mdn.save(dist, tmp_path / "m.mdn")
    assert mdn.load(tmp_path / "m.mdn").weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mdn_keeps_its_options_and_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    """The constructor's arguments, the dtype of the weights and the whole state dict."""
    model = network(2, covariance_type="isotropic", min_scale=0.01).to(dtype)
    mdn.save(model, tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    assert loaded.state()[0] == model.state()[0]
    assert repr(loaded) == repr(model)
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name])


def test_a_loaded_mdn_can_be_trained_on(tmp_path: Path) -> None:
    """Parameters come back as leaves that require a gradient, and the file is let go."""
    model = network()
    mdn.save(model, tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    (tmp_path / "m.mdn").write_bytes(b"")
    X, y = rows()
    data = torch.as_tensor(X), torch.as_tensor(y[:, None])
    for m in (model, loaded):
        mdn.fit(m, data, max_epochs=2)
    assert_bit_equal(model, loaded)


def test_an_mdn_that_was_never_standardised_is_saved(tmp_path: Path) -> None:
    """Its buffers are still scalars."""
    torch.manual_seed(0)
    model = MDN(2)
    mdn.save(model, tmp_path / "m.mdn")
    assert_bit_equal(model, mdn.load(tmp_path / "m.mdn"))


@pytest.mark.parametrize("kind", REGRESSORS)
def test_regressor_keeps_everything_that_fit_learned(kind: str, tmp_path: Path) -> None:
    """Parameters, history, number of features, and each kind of prediction."""
    model = MODELS[kind]()
    dims = model.model_.target.n_targets
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    assert loaded.get_params() == model.get_params()
    assert loaded.history_ == model.history_
    assert loaded.n_features_in_ == 2
    assert not hasattr(loaded, "feature_names_in_")
    X, y = rows(dims)
    for ask in (
        lambda m: m.predict(X),
        lambda m: m.predict(X, return_std=True)[1],
        lambda m: m.predict_interval(X),
        lambda m: m.predict_quantiles(X, [0.1, 0.9]),
        lambda m: m.predict_mode(X),
        lambda m: m.sample(X, 3, random_state=1),
        lambda m: m.predict_uncertainty(X)[1],
        lambda m: m.log_prob(X, y),
    ):
        np.testing.assert_array_equal(ask(model), ask(loaded))


def test_a_target_with_an_axis_of_its_own_comes_back_with_it(tmp_path: Path) -> None:
    """y (N, 1) at fit gives (N, 1) at predict, also after loading."""
    X, y = rows()
    model = MDNRegressor(**SMALL).fit(X, y[:, None])
    model.save(tmp_path / "m.mdn")
    assert mdn.load(tmp_path / "m.mdn").predict(X).shape == (60, 1)


def test_regressor_keeps_the_names_of_the_features(tmp_path: Path) -> None:
    """Feature names are checked after loading as before."""
    X, y = rows()
    frame = pd.DataFrame(X, columns=["größe", "b"])
    model = MDNRegressor(**SMALL).fit(frame, y)
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    assert loaded.feature_names_in_.tolist() == ["größe", "b"]
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="in the same order as they were in fit"):
        loaded.predict(frame[["b", "größe"]])


def test_regressor_keeps_its_categories_and_gaps(tmp_path: Path) -> None:
    """Strings, booleans and a gap are read by a loaded model as by the one that was saved."""
    X, y = write.rows()
    model = MDNRegressor(**SMALL).fit(X, y)
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    with pytest.warns(UserWarning, match="categories that training had not"):
        loaded.predict(X.assign(color="mauve"))


def test_parameters_that_a_grid_search_chose_can_be_saved(tmp_path: Path) -> None:
    """np.arange and np.logspace leave NumPy's numbers; they come back as Python's."""
    chosen = {
        "n_components": np.int64(2),
        "hidden": np.array([4, 3]),
        "learning_rate": np.float32(0.5) / 64,
        "max_epochs": np.int32(2),
        "random_state": np.int64(5),
        "verbose": np.bool_(False),
    }
    model = regressor(**chosen)
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    params = loaded.get_params()
    assert (params["n_components"], params["hidden"], params["random_state"]) == (2, (4, 3), 5)
    assert params["learning_rate"] == float(chosen["learning_rate"])
    assert_bit_equal(model, loaded)
    assert_bit_equal(model, loaded.fit(*rows()))


def test_a_random_generator_is_not_saved(tmp_path: Path) -> None:
    """It has no lasting state: the loaded model has random_state None and the same numbers."""
    model = regressor(random_state=np.random.RandomState(3))
    model.save(tmp_path / "m.mdn")
    loaded = mdn.load(tmp_path / "m.mdn")
    assert loaded.random_state is None
    assert_bit_equal(model, loaded)


# -- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_is_safetensors_with_json_and_no_pickle(kind: str, tmp_path: Path) -> None:
    """Any safetensors reader gets the tensors; the description is JSON; pickle finds nothing."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS[kind](), path)
    with safetensors.safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["mdn"])
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
    assert about["kind"] == ("MDNRegressor" if kind in REGRESSORS else kind)
    assert about["format"] == 3
    assert shapes
    with pytest.raises((pickle.UnpicklingError, ValueError)):  # by what the first byte means
        pickle.loads(path.read_bytes())


def test_reading_a_file_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load works where pickle and torch.load are forbidden."""
    mdn.save(fast(), tmp_path / "m.mdn")

    def forbidden(*args: Any, **options: Any) -> None:
        raise AssertionError("pickle was used")

    for target in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(target, forbidden)
    mdn.load(tmp_path / "m.mdn")


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_path_may_be_text(as_type: type, tmp_path: Path) -> None:
    """str and PathLike, with any ending."""
    path = as_type(tmp_path / "model without ending")
    mdn.save(mixture(), path)
    assert_bit_equal(mdn.load(path), mixture())


def test_a_file_name_alone_means_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save(m, "m.mdn")."""
    monkeypatch.chdir(tmp_path)
    mdn.save(mixture(), "m.mdn")
    assert [p.name for p in tmp_path.iterdir()] == ["m.mdn"]
    assert_bit_equal(mdn.load("m.mdn"), mixture())


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """Others may read a model as they may read a text file written beside it."""
    mdn.save(mixture(), tmp_path / "m.mdn")
    (tmp_path / "plain").write_text("")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m.mdn", "plain")]
    assert mode[0] == mode[1]


def test_saving_replaces_an_older_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """The second model is what is read; there is one file."""
    path = tmp_path / "m.mdn"
    mdn.save(network(), path)
    mdn.save(mixture(), path)
    assert isinstance(mdn.load(path), GaussianMixture)
    assert [p.name for p in tmp_path.iterdir()] == ["m.mdn"]


@pytest.mark.parametrize("broken", ["write", "replace", "interrupt"])
def test_a_failed_write_leaves_the_old_file_untouched(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk full half way, a failed move, Ctrl-C: the old bytes stay, no litter beside them."""
    path = tmp_path / "m.mdn"
    mdn.save(mixture(), path)
    before = path.read_bytes()

    def half(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt if broken == "interrupt" else OSError("no space left on device")

    def refuse(*args: Any) -> None:
        raise OSError("no space left on device")

    if broken == "replace":
        monkeypatch.setattr(os, "replace", refuse)
    else:
        monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt if broken == "interrupt" else OSError):
        mdn.save(network(), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.mdn"]


# -- refused ----------------------------------------------------------------------------------


def test_load_refuses_a_missing_file(tmp_path: Path) -> None:
    """Named in the message; a folder is no file."""
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.mdn"):
        mdn.load(tmp_path / "absent.mdn")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        mdn.load(tmp_path)


def test_save_refuses_a_missing_folder(tmp_path: Path) -> None:
    """It creates none, and says so."""
    with pytest.raises(FileNotFoundError, match=r"the folder .*absent is not there; create it"):
        mdn.save(mixture(), tmp_path / "absent" / "m.mdn")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_a_folder_as_the_file(tmp_path: Path) -> None:
    """The folder and what is in it stay, nothing is left beside it."""
    (tmp_path / "m.mdn").mkdir()
    (tmp_path / "m.mdn" / "inside").write_text("kept")
    with pytest.raises(OSError, match=r"m\.mdn"):
        mdn.save(mixture(), tmp_path / "m.mdn")
    assert (tmp_path / "m.mdn" / "inside").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["m.mdn"]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.99])
def test_load_refuses_a_file_that_was_cut_off(kind: str, keep: float, tmp_path: Path) -> None:
    """Empty, a broken header, missing numbers."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS[kind](), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"m\.mdn is damaged or was not written by mdn\.save"):
        mdn.load(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is a text file", b"PK\x03\x04" + b"\0" * 100, pickle.dumps([1, 2])]
)
def test_load_refuses_a_file_of_another_kind(content: bytes, tmp_path: Path) -> None:
    """Text, a zip, a pickle."""
    path = tmp_path / "m.mdn"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or was not written by mdn\.save"):
        mdn.load(path)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"mdn": "[1, 2]"}, {"mdn": '{"kind": "Unknown", "format": 1}'}],
)
def test_load_refuses_foreign_safetensors(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    """Good safetensors, but not of mdn.save."""
    path = tmp_path / "m.mdn"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"m\.mdn was not written by mdn\.save"):
        mdn.load(path)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> None:
    """The file with another description or other tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["mdn"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    if about.pop("sha256", None):  # as by someone who knows the format
        about["sha256"] = io._checksum(about, tensors)
    save_file(tensors, path, metadata={"mdn": json.dumps(about)})


def test_load_refuses_a_newer_format(tmp_path: Path) -> None:
    """The cure is an update."""
    path = tmp_path / "m.mdn"
    mdn.save(mixture(), path)
    rewritten(path, lambda about, tensors: about.update(format=4))
    with pytest.raises(ValueError, match="has format 4, this version reads up to 3; update mdn"):
        mdn.load(path)


@pytest.mark.parametrize("kind", ["GaussianMixture", "MDN"])
def test_load_reads_the_first_format_of_what_has_not_changed(kind: str, tmp_path: Path) -> None:
    """It had no checksum."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS[kind](), path)
    rewritten(path, lambda about, tensors: (about.update(format=1), about.pop("sha256")))
    assert_bit_equal(mdn.load(path), MODELS[kind]())


def test_load_refuses_a_regressor_of_the_first_format(tmp_path: Path) -> None:
    """Another model was in it: the cure is a new fit, or the version that wrote it."""
    path = tmp_path / "m.mdn"
    mdn.save(plain(), path)
    rewritten(path, lambda about, tensors: (about.update(format=1), about.pop("sha256")))
    with pytest.raises(ValueError, match=r"holds an MDNRegressor of format 1.*fit it anew"):
        mdn.load(path)


@pytest.mark.parametrize("number", [2, 3])
def test_a_file_of_each_format_predicts_what_it_did_when_it_was_written(number: int) -> None:
    """tests/fixtures: a fast model with trees and categories, its predictions beside it.

    Sums may round otherwise elsewhere: 1e-6 of the unit of y.
    """
    X, y = write.rows()
    path = write.FOLDER / f"regressor_format{number}.mdn"
    model = mdn.load(path)
    expected = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 200_000
    assert model.target_names_ is None  # not saved at that time
    np.testing.assert_allclose(model.predict(X), expected["predict"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.log_prob(X, y), expected["log_prob"], rtol=0, atol=1e-5)
    quantiles = model.predict_quantiles(X, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(quantiles, expected["quantiles"], rtol=0, atol=1e-5)


def test_a_file_of_the_second_format_is_saved_as_the_third(tmp_path: Path) -> None:
    """load(save(load(f))) = load(f), bit for bit."""
    old = mdn.load(write.FOLDER / "regressor_format2.mdn")
    mdn.save(old, tmp_path / "m.mdn")
    new = mdn.load(tmp_path / "m.mdn")
    X, y = write.rows()
    np.testing.assert_array_equal(new.log_prob(X, y), old.log_prob(X, y))


@pytest.mark.parametrize("number", [-2, 0, "2", None])
def test_load_refuses_a_format_that_never_was(number: Any, tmp_path: Path) -> None:
    """No version wrote it: the file is damaged, not old."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS["MDN"](), path)
    rewritten(path, lambda about, tensors: about.update(format=number))
    with pytest.raises(ValueError, match="is damaged: its description is incomplete"):
        mdn.load(path)


@pytest.mark.parametrize("kind", MODELS)
def test_load_refuses_a_file_with_any_byte_changed(kind: str, tmp_path: Path) -> None:
    """100 places over the whole file, and each of the first 8: a ValueError, nothing else."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS[kind](), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.integers(8, len(whole), 100)]:
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"m\.mdn (is damaged|was not written)"):
            mdn.load(path)


def model_of(about: dict[str, Any]) -> dict[str, Any]:
    return about["config"]["model"]


def network_of(about: dict[str, Any]) -> dict[str, Any]:
    return model_of(about)["groups"]["0"]["network"]


@pytest.mark.parametrize(
    "change",
    [
        lambda about, tensors: about["config"]["params"].update(unknown=1),
        lambda about, tensors: about["config"].update(params=[]),
        lambda about, tensors: about["config"].pop("columns"),
        lambda about, tensors: about["config"]["columns"].update(columns=[{"kind": "odd"}]),
        lambda about, tensors: network_of(about).update(hidden=[7]),
        lambda about, tensors: network_of(about).update(n_members=-1),
        lambda about, tensors: model_of(about)["base_models"]["forests"].update({"2": {}}),
        lambda about, tensors: model_of(about)["groups"].clear(),
        lambda about, tensors: model_of(about)["groups"]["0"].update(history={"odd": 1}),
        lambda about, tensors: tensors["model.base_models.forests.0.left"].fill_(0),
        lambda about, tensors: tensors["model.base_models.forests.0.feature"].fill_(99),
        lambda about, tensors: tensors["model.base_models.forests.1.roots"].fill_(-7),
        lambda about, tensors: tensors.update(
            {"model.base_models.forests.1.odd": torch.zeros(2, dtype=torch.int32)}
        ),
    ],
)
def test_load_refuses_a_forged_description(change: Any, tmp_path: Path) -> None:
    """Though its checksum is right: names, sizes, and trees in which a walk would not end."""
    path = tmp_path / "m.mdn"
    mdn.save(fast(), path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=r"m\.mdn is damaged: its numbers do not fit"):
        mdn.load(path)


@pytest.mark.parametrize("kind", MODELS)
def test_load_refuses_a_file_without_one_of_its_tensors(kind: str, tmp_path: Path) -> None:
    """Each tensor is needed but those that the files of earlier versions lack."""
    path = tmp_path / "m.mdn"
    mdn.save(MODELS[kind](), path)
    with safetensors.safe_open(path, framework="pt") as file:
        later = {"x_range", "model.target.atoms", "model.target.mixing"}
        later |= {"model.stack.background_scale"}
        names = set(file.keys()) - later
    whole = path.read_bytes()
    for name in names:
        path.write_bytes(whole)
        rewritten(path, lambda about, tensors, name=name: tensors.pop(name))
        with pytest.raises(ValueError, match=r"m\.mdn is damaged: its numbers do not fit"):
            mdn.load(path)


def test_load_refuses_a_tensor_of_another_shape(tmp_path: Path) -> None:
    """The shapes are the description's."""
    path = tmp_path / "m.mdn"
    mdn.save(network(), path)
    rewritten(path, lambda about, tensors: about["config"].update(hidden=[7]))
    with pytest.raises(ValueError, match=r"m\.mdn is damaged: its numbers do not fit"):
        mdn.load(path)


@pytest.mark.parametrize("key", ["format", "config"])
def test_load_refuses_an_incomplete_description(key: str, tmp_path: Path) -> None:
    """A ValueError with the path, not a KeyError."""
    path = tmp_path / "m.mdn"
    mdn.save(mixture(), path)
    rewritten(path, lambda about, tensors: about.pop(key))
    with pytest.raises(ValueError, match=r"m\.mdn is damaged: its description is incomplete"):
        mdn.load(path)


@pytest.mark.parametrize(("thing", "name"), [({"a": 1}, "dict"), (None, "NoneType")])
def test_save_refuses_what_it_does_not_know(thing: Any, name: str, tmp_path: Path) -> None:
    """The message lists what can be saved; nothing is written."""
    known = "GaussianMixture, MDN, MDNRegressor or a torch module"
    with pytest.raises(TypeError, match=f"model must be one of {known}; got {name}"):
        mdn.save(thing, tmp_path / "m.mdn")
    assert list(tmp_path.iterdir()) == []


# -- the weights of modules -----------------------------------------------------------------------


def sequential(k: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), MDNHead(8, 1, k, **options))


CUSTOM: dict[str, Callable[[], nn.Module]] = {
    "sequential": sequential,
    "backbone": lambda: MDN(4, backbone=nn.Linear(2, 4)),
    "head": lambda: MDNHead(2, family="laplace"),
    "classifier": lambda: nn.Sequential(nn.Linear(2, 4), mdn.CategoricalHead(4, 3)),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_weights_of_a_module_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Into a module that the same code made, with buffers and the units of a head."""
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.normal(size=(60, 2))).float()
    y = torch.as_tensor(rng.normal(size=(60, 1))).float()
    trained = CUSTOM[name]()
    with torch.no_grad():
        trained(x)  # running means of the batch norm
    if isinstance(trained, MDN):
        trained.standardize_(x, y)
    else:
        for part in trained.modules():
            if isinstance(part, MDNHead):
                part.initialize_from(100.0 * y)
    mdn.save(trained, tmp_path / "net.mdn")
    fresh = CUSTOM[name]()
    loaded = mdn.load(tmp_path / "net.mdn", module=fresh)
    assert loaded is fresh and not loaded.training
    for key, value in trained.eval().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    target = torch.zeros(60) if name == "classifier" else y
    assert torch.equal(loaded(x).log_prob(target), trained(x).log_prob(target))


@pytest.mark.parametrize(
    ("module", "error", "match"),
    [
        (lambda: None, ValueError, r"weights of a Sequential, .* mdn\.load\(path, module=\.{3}\)$"),
        (lambda: "net", TypeError, "module must be a torch module; got str"),
        (lambda: sequential(4), ValueError, r"the head of .*net\.mdn, 3: MDNHead.*n_components=3"),
        (lambda: sequential(min_scale=0.1), ValueError, r"min_scale=0\.001.*got.*min_scale=0\.1"),
        (lambda: sequential().double(), ValueError, r"dtypes of .*0\.weight is torch\.float32"),
        (lambda: nn.Linear(2, 1), ValueError, "module does not have the layers of"),
        (lambda: nn.Sequential(*sequential(), nn.Linear(1, 1)), ValueError, "Missing key"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    module: Any, error: type, match: str, tmp_path: Path
) -> None:
    """One sentence; the module keeps what it had."""
    mdn.save(sequential(), tmp_path / "net.mdn")
    given = module()
    before = copy.deepcopy(given.state_dict()) if isinstance(given, nn.Module) else {}
    with pytest.raises(error, match=match) as caught:
        mdn.load(tmp_path / "net.mdn", module=given)
    assert "\n" not in str(caught.value)
    for key, value in before.items():
        assert torch.equal(given.state_dict()[key], value)


def test_a_whole_model_needs_no_module(tmp_path: Path) -> None:
    """It would be ignored."""
    mdn.save(mixture(), tmp_path / "m.mdn")
    with pytest.raises(ValueError, match="holds a whole GaussianMixture: load it without module="):
        mdn.load(tmp_path / "m.mdn", module=nn.Linear(1, 1))


def test_save_refuses_a_regressor_before_fit(tmp_path: Path) -> None:
    """There is nothing to save yet."""
    for save in (lambda m, p: m.save(p), mdn.save):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            save(MDNRegressor(), tmp_path / "m.mdn")
    assert list(tmp_path.iterdir()) == []

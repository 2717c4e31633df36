"""Checkpoint folders and pickled parameters of Brax and MuJoCo Playground, in the layouts that these write."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgerl
from edgerl.errors import ConfigError, EdgerlError, FileFormatError, UnsupportedModelError

from .files import brax_arrays, mutated, perceptron_arrays, saved_brax_folder, saved_brax_parameters, statistics_of

OBSERVATIONS = np.random.default_rng(2).normal(0, 2, (100, 9)).astype(np.float32)


def _expected(*, squash: bool = True, activation: Any = torch.nn.functional.silu, normalise: bool = True) -> Any:
    """Brax's policy on PyTorch: MLP, half of what it gives is the location, tanh."""
    mean, deviation = statistics_of()
    x = torch.from_numpy(((OBSERVATIONS - mean) / deviation) if normalise else OBSERVATIONS)
    *hidden, last = perceptron_arrays()
    for weight, bias in hidden:
        x = activation(torch.nn.functional.linear(x, torch.from_numpy(weight), torch.from_numpy(bias)))
    x = torch.nn.functional.linear(x, *(torch.from_numpy(values) for values in last))
    return torch.tanh(x[:, :4]).numpy() if squash else x.numpy()


@pytest.mark.parametrize("name", ["ppo_network_config.json", "sac_network_config.json"])
@pytest.mark.parametrize("keys", [("",), (".state", ".privileged_state")])
def test_the_folder_of_a_checkpoint(name: str, keys: tuple[str, ...], tmp_path: Path) -> None:
    folder = saved_brax_folder(tmp_path / "000000001000", brax_arrays(keys), name)
    report = edgerl.import_policy(folder, tmp_path / "policy.safetensors")
    np.testing.assert_allclose(edgerl.load(tmp_path / "policy.safetensors")(OBSERVATIONS), _expected(), atol=5e-6)
    assert (report.kind, report.policy.head) == (f"Brax {name[:3].upper()}", "tanh")
    assert report.policy.action_low.tolist() == [-1] * 4
    again = edgerl.import_policy(folder, tmp_path / "again.safetensors").policy
    assert again.metadata["source_sha256"] == report.policy.metadata["source_sha256"]


def test_a_normal_distribution_has_no_tanh(tmp_path: Path) -> None:
    old = brax_arrays()
    arrays = {name: values for name, values in old.items() if name.startswith("0.")}
    for index in range(2):
        for part in ("kernel", "bias"):
            arrays[f"1.params.MLP_0.hidden_{index}.{part}"] = old[f"1.params.hidden_{index}.{part}"]
    for part in ("kernel", "bias"):
        arrays[f"1.params.Dense_0.{part}"] = old[f"1.params.hidden_2.{part}"]
    arrays["1.params.std_param.value"] = np.ones(8, np.float32)
    folder = saved_brax_folder(tmp_path / "ck", arrays, action_size=8, keywords={"activation": "elu"})
    policy = edgerl.import_policy(folder, tmp_path / "policy.safetensors").policy
    np.testing.assert_allclose(
        policy(OBSERVATIONS), _expected(squash=False, activation=torch.nn.functional.elu), atol=5e-6
    )
    assert not policy.is_bounded


def test_without_a_normaliser(tmp_path: Path) -> None:
    folder = saved_brax_folder(tmp_path / "ck", normalize_observations=False)
    policy = edgerl.import_policy(folder, tmp_path / "policy.safetensors").policy
    np.testing.assert_allclose(policy(OBSERVATIONS), _expected(normalise=False), atol=5e-6)


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("ppo_network_config.json", torch.nn.functional.silu),
        ("sac_network_config.json", torch.nn.functional.relu),
    ],
)
def test_before_version_0_14_the_activation_is_brax_own_default(name: str, activation: Any, tmp_path: Path) -> None:
    """It is not in the file, and Brax refused to write one of another activation."""
    folder = saved_brax_folder(tmp_path / "ck", name=name, keywords={"activation": "left out"})
    policy = edgerl.import_policy(folder, tmp_path / "policy.safetensors").policy
    np.testing.assert_allclose(policy(OBSERVATIONS), _expected(activation=activation), atol=5e-6)


Change = dict[str, Any]


@pytest.mark.parametrize(
    ("arrays", "changes", "problem"),
    [
        ({}, {"keywords": {"activation": "gelu"}}, "has the activation 'gelu'; expected silu, swish, relu"),
        ({}, {"keywords": {"activation": None}}, "has the activation None; expected silu"),
        ({}, {"keywords": {"mean_clip_scale": 2.0}}, "was trained with mean_clip_scale"),
        ({}, {"action_size": 3}, "it has 4 actions, and says 3"),
        ({}, {"network_factory_kwargs": []}, "has no network configuration that can be read"),
        ({"1.params.LayerNorm_0.scale": np.ones(16, np.float32)}, {}, "has 'LayerNorm_0.scale'; expected layers"),
        ({"1.params.hidden_1.kernel": np.ones((9, 12), np.float32)}, {}, r"hidden_1.weight has the shape .12, 9."),
        ({"0.std": np.zeros(9, np.float32)}, {}, "0.std holds a number that is not positive"),
        ({"0.mean": np.zeros(8, np.float32)}, {}, r"0.mean has the shape .8.; expected .9."),
        ({"1.params.hidden_0.kernel": np.full((9, 16), np.nan, np.float32)}, {}, "holds a number that is not finite"),
        ({"1.params.hidden_0.kernel": np.ones((9, 16), np.int32)}, {}, "is int32 of the shape .9, 16."),
        ({"1.params.hidden_1.bias": np.ones(5, np.float32)}, {}, r"hidden_1.bias has the shape .5."),
    ],
)
def test_folders_that_are_refused_in_one_line(arrays: Change, changes: Change, problem: str, tmp_path: Path) -> None:
    folder = saved_brax_folder(tmp_path / "ck", {**brax_arrays(), **arrays}, **changes)
    with pytest.raises(EdgerlError, match=problem) as refused:
        edgerl.import_policy(folder, tmp_path / "policy.safetensors")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "policy.safetensors").exists()


def test_other_folders_and_parts_of_one(tmp_path: Path) -> None:
    folder, goal = saved_brax_folder(tmp_path / "checkpoints/000000001000"), tmp_path / "policy.safetensors"
    with pytest.raises(UnsupportedModelError, match=r"is a folder; .*its newest checkpoint is .*/000000001000$"):
        edgerl.import_policy(tmp_path / "checkpoints", goal)
    with pytest.raises(ConfigError, match="has its own `normalizer`, or none; leave that out"):
        edgerl.import_policy(folder, goal, normalizer="none")
    with pytest.raises(ConfigError, match=r"`activation` is relu, and .* says silu"):
        edgerl.import_policy(folder, goal, activation="relu")
    (folder / "manifest.ocdbt").rename(folder / "manifest")
    with pytest.raises(UnsupportedModelError, match=r"\(no manifest\.ocdbt\); where it was trained, .*save_params"):
        edgerl.import_policy(folder, goal)


def test_arrays_of_another_version_of_zarr(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    folder = saved_brax_folder(tmp_path / "ck", {"0.std": np.ones(9, np.float32)})
    (folder / "manifest.ocdbt").unlink()
    place = {"driver": "ocdbt", "base": f"file://{folder}/", "path": "0.mean/"}
    metadata = {"shape": [9], "data_type": "float32"}
    tensorstore.open({"driver": "zarr3", "kvstore": place, "metadata": metadata}, create=True).result()
    with pytest.raises(UnsupportedModelError, match="in the third version of zarr; expected the second; where it was"):
        edgerl.import_policy(folder, tmp_path / "policy.safetensors")


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    """Not where a link leads out of it."""
    folder = saved_brax_folder(tmp_path / "ck")
    shutil.move(folder / "d", tmp_path / "outside")
    (folder / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(FileFormatError, match="is no checkpoint of Orbax, or is damaged"):
        edgerl.import_policy(folder, tmp_path / "policy.safetensors")


def test_a_missing_tensorstore_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/tensorstore.py").write_text("raise ModuleNotFoundError(name='tensorstore')")
    folder = saved_brax_folder(tmp_path / "ck")
    monkeypatch.syspath_prepend(tmp_path / "absent")
    with pytest.raises(edgerl.errors.MissingExtraError, match=r"run: pip install 'edgerl\[import\]'"):
        edgerl.import_policy(folder, tmp_path / "policy.safetensors")


# ---------------------------------------------------------------------------------------------------------- pickles


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    saved_brax_parameters(tmp_path / "params")
    return tmp_path / "params"


def test_pickled_parameters(parameters: Path, tmp_path: Path) -> None:
    goal = tmp_path / "policy.safetensors"
    with pytest.raises(ConfigError, match="does not say its activation; name it: `activation` silu"):
        edgerl.import_policy(parameters, goal)
    with pytest.raises(
        ConfigError, match=r"name it: `normalizer` .*params for its own statistics, or `normalizer` none"
    ):
        edgerl.import_policy(parameters, goal, activation="silu")
    report = edgerl.import_policy(parameters, goal, activation="silu", normalizer=parameters)
    np.testing.assert_allclose(report.policy(OBSERVATIONS), _expected(), atol=5e-6)
    assert report.kind == "Brax parameters"
    plain = edgerl.import_policy(parameters, goal, activation="silu", normalizer="none", force=True).policy
    np.testing.assert_allclose(plain(OBSERVATIONS), _expected(normalise=False), atol=5e-6)
    with pytest.raises(UnsupportedModelError, match="Flax's gelu is an approximation"):
        edgerl.import_policy(parameters, goal, activation="gelu", normalizer="none", force=True)


def test_a_pickle_that_names_anything_else_is_not_opened(parameters: Path, tmp_path: Path) -> None:
    data = (
        parameters.read_bytes().replace(b"jax._src.array", b"os.path.joinxx").replace(b"_reconstruct_array", b"_x" * 9)
    )
    parameters.write_bytes(data)
    with pytest.raises(
        FileFormatError, match=r"is not what brax.io.model.save_params writes .*it names 'os.path.joinxx"
    ):
        edgerl.import_policy(parameters, tmp_path / "policy.safetensors", activation="silu", normalizer="none")


def test_dictionaries_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    """2^40 parts, of 40 dictionaries."""
    part: dict[str, Any] = {"brax.training": 1}
    for _ in range(40):
        part = {"a": part, "b": part}
    (tmp_path / "params").write_bytes(pickle.dumps((part, part)))
    with pytest.raises(FileFormatError, match="more parts than a policy has"):
        edgerl.import_policy(tmp_path / "params", tmp_path / "p.safetensors", activation="silu", normalizer="none")


def test_mutated_parameters_are_read_or_refused(parameters: Path, tmp_path: Path) -> None:
    whole, rng, path = parameters.read_bytes(), np.random.default_rng(0), tmp_path / "mutated"
    for _ in range(400):
        path.write_bytes(mutated(whole, rng))
        try:
            edgerl.import_policy(path, tmp_path / "p.safetensors", activation="silu", normalizer=path, force=True)
        except EdgerlError:
            continue

"""Checkpoints of RLtools, in the layout that its persist.h files write, through h5py."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import edgerl
from edgerl.errors import CheckFailed, ConfigError, EdgerlError, FileFormatError, UnsupportedModelError

from .files import perceptron_arrays, saved_rl_tools, statistics_of

OBSERVATIONS = np.random.default_rng(2).normal(0, 2, (100, 9)).astype(np.float32)


def _dense(group: Any, layer: Any, name: str, arrays: Any, activation: str = "RELU") -> None:
    weight, bias = arrays
    layer(group, name, "dense", activation, weights=weight, biases=bias[None])


def _sequential(actor: Any) -> Any:
    actor.attrs["type"] = "sequential"
    return actor.create_group("layers")


def _sac(actor: Any, layer: Any) -> None:
    """standardize, a perceptron as an mlp, sample_and_squash."""
    layers, (mean, deviation) = _sequential(actor), statistics_of()
    layer(layers, "0", "standardize", mean=mean[None], precision=1 / deviation[None])
    first, second, last = perceptron_arrays()
    mlp = layer(layers, "1", "mlp")
    _dense(mlp, layer, "input_layer", first)
    _dense(mlp.create_group("hidden_layers"), layer, "0", second)
    _dense(mlp, layer, "output_layer", last, "IDENTITY")
    layer(layers, "2", "sample_and_squash")


def _acted(x: Any) -> Any:
    """What RLtools computes then, when it evaluates."""
    mean, deviation = statistics_of()
    *hidden, last = [tuple(torch.from_numpy(part) for part in each) for each in perceptron_arrays()]
    x = (torch.from_numpy(x) - torch.from_numpy(mean)) * torch.from_numpy(1 / deviation)
    for each in hidden:
        x = torch.relu(nn.functional.linear(x, *each))
    return torch.tanh(nn.functional.linear(x, *last)[..., :4]).numpy()


def test_a_sac_with_its_example(tmp_path: Path) -> None:
    path = saved_rl_tools(tmp_path / "checkpoint.h5", _sac, (OBSERVATIONS[None], _acted(OBSERVATIONS)[None]))
    report = edgerl.import_policy(path, tmp_path / "policy.safetensors")
    np.testing.assert_allclose(report.policy(OBSERVATIONS), _acted(OBSERVATIONS), atol=5e-6)
    assert (report.kind, report.policy.architecture, report.policy.head) == ("RLtools", "9-16-12-4", "tanh")


def test_an_example_that_the_policy_does_not_act_as(tmp_path: Path) -> None:
    wrong = _acted(OBSERVATIONS) + np.float32(0.01)
    path = saved_rl_tools(tmp_path / "checkpoint.h5", _sac, (OBSERVATIONS, wrong))
    with pytest.raises(CheckFailed, match=r"differ from its own example's by 0\.01; nothing was written"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert not (tmp_path / "policy.safetensors").exists()


def test_a_gru_over_an_episode(tmp_path: Path) -> None:
    """As RAPTOR's: dense, GRU, dense; the example is two episodes."""
    torch.manual_seed(0)
    gru = nn.GRU(16, 10).requires_grad_(False)
    first, last = perceptron_arrays()[0], perceptron_arrays(10, (), 4)[0]
    parts = {"weights_input": gru.weight_ih_l0, "weights_hidden": gru.weight_hh_l0}
    parts |= {"biases_input": gru.bias_ih_l0, "biases_hidden": gru.bias_hh_l0, "initial_hidden_state": torch.zeros(10)}

    def fill(actor: Any, layer: Any) -> None:
        layers = _sequential(actor)
        _dense(layers, layer, "0", first)
        layer(layers, "1", "gru", **parts)
        _dense(layers, layer, "2", last, "IDENTITY")
        layer(layers, "3", "")  # td3_sampling, which saves nothing

    episodes = OBSERVATIONS.reshape(50, 2, 9)
    x = torch.relu(nn.functional.linear(torch.from_numpy(episodes), *(torch.from_numpy(part) for part in first)))
    expected = nn.functional.linear(gru(x)[0], *(torch.from_numpy(part) for part in last)).numpy()
    path = saved_rl_tools(tmp_path / "checkpoint.h5", fill, (episodes, expected))
    report = edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert report.policy.architecture == "9-16-gru10-4"
    np.testing.assert_allclose(report.policy(episodes[:, 1]), expected[:, 1], atol=5e-6)


def test_a_ppo_must_say_what_its_file_does_not(tmp_path: Path) -> None:
    def fill(actor: Any, layer: Any) -> None:
        actor.attrs["type"] = "mlp"
        _dense(actor, layer, "input_layer", perceptron_arrays()[0], "TANH")
        _dense(actor, layer, "output_layer", perceptron_arrays(16, (), 4)[0], "IDENTITY")
        layer(actor, "log_std", "", parameters=np.zeros((1, 4)))

    path, goal = saved_rl_tools(tmp_path / "checkpoint.h5", fill), tmp_path / "policy.safetensors"
    with pytest.raises(ConfigError, match=r"is a PPO of RLtools, .* name the statistics: `normalizer` statistics\.npz"):
        edgerl.import_policy(path, goal)
    with pytest.raises(ConfigError, match="says its own `activation`; leave that out"):
        edgerl.import_policy(path, goal, activation="tanh", normalizer="none")
    policy = edgerl.import_policy(path, goal, normalizer="none").policy
    first, last = perceptron_arrays()[0], perceptron_arrays(16, (), 4)[0]
    expected = np.tanh(OBSERVATIONS @ first[0].T + first[1]) @ last[0].T + last[1]
    np.testing.assert_allclose(policy(OBSERVATIONS), expected, atol=5e-6)


def _elsewhere(actor: Any, layer: Any) -> None:
    _dense(actor, layer, "0", perceptron_arrays()[0])
    weights = actor["0/weights"]
    del weights["parameters"]
    weights.create_dataset("parameters", shape=(16, 9), dtype="f4", external=[("/etc/hostname", 0, 576)])


def _linked(actor: Any, layer: Any) -> None:
    _dense(_sequential(actor), layer, "0", perceptron_arrays()[0])
    del actor["layers/0/weights"]
    actor["layers/0/weights"] = h5py.ExternalLink("other.h5", "/actor")


@pytest.mark.parametrize(
    ("fill", "problem"),
    [
        (lambda *_: None, "its actor holds no layer"),
        (_elsewhere, "in another file; expected the numbers of a policy"),
        (_linked, "its actor holds no layer"),
        (
            lambda actor, add: _dense(_sequential(actor), add, "0", perceptron_arrays()[0], "FAST_TANH"),
            "activation 'FAST_TANH'",
        ),
        (
            lambda actor, add: add(_sequential(actor), "0", "embedding", weights=np.ones((3, 2))),
            "is 'embedding'; expected dense",
        ),
        (
            lambda actor, add: add(_sequential(actor), "0", "dense", "RELU", weights=np.full((3, 2), np.nan)),
            "is not finite",
        ),
        (lambda actor, add: add(_sequential(actor), "0", "dense", "RELU", weights=np.ones((3, 2, 2))), "has the shape"),
        (
            lambda actor, add: add(_sequential(actor), "0", "dense", "RELU", weights=np.ones((3, 2))),
            "biases/parameters is missing",
        ),
        (lambda actor, add: add(_sequential(actor), "0", "gru", weights_input=np.ones((9, 2))), "initial_hidden_state"),
        (
            lambda actor, _: actor.create_group("layers/0/weights").create_dataset(
                "parameters", (1 << 20, 1 << 20), "f4"
            ),
            r"is float32 of the shape .1048576, 1048576.",
        ),
    ],
)
def test_files_that_are_refused_in_one_line(fill: Any, problem: str, tmp_path: Path) -> None:
    path = saved_rl_tools(tmp_path / "checkpoint.h5", fill)
    with pytest.raises(EdgerlError, match=problem) as refused:
        edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert "\n" not in str(refused.value)


def test_an_archive_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Zeros, in a file of a megabyte."""

    def fill(actor: Any, _: Any) -> None:
        layers = _sequential(actor)
        for index in range(9):
            group = layers.create_group(f"{index}/weights")
            group.create_dataset("parameters", (2048, 2048), "f4", chunks=(2048, 2048), compression="gzip")[:] = 0

    path = saved_rl_tools(tmp_path / "checkpoint.h5", fill)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UnsupportedModelError, match=r"unpacks to .* bytes; expected at most 268435456"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")


def test_other_files_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file.create_group("model_weights")
    with pytest.raises(UnsupportedModelError, match="an HDF5 file without an actor; expected a checkpoint of RLtools"):
        edgerl.import_policy(tmp_path / "keras.h5", tmp_path / "policy.safetensors")
    data = saved_rl_tools(tmp_path / "checkpoint.h5", _sac).read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgerlError, match="is not an HDF5 file, or is damaged"):
        edgerl.import_policy(tmp_path / "cut.h5", tmp_path / "policy.safetensors")


def test_its_archive_is_told_from_its_checkpoint(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "checkpoint.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("layers"))
    with pytest.raises(FileFormatError, match=r"is a tar archive; .*RLtools writes a checkpoint\.h5, too"):
        edgerl.import_policy(tmp_path / "checkpoint.tar", tmp_path / "policy.safetensors")

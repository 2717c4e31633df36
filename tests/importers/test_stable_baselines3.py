"""Models that stable-baselines3 saves: actions are what its own `predict` gives; and no pickle is opened."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from edgerl import import_policy, load
from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.importers import normalizers

from .files import Task, mutated, saved_model

Run = Callable[..., tuple[int, str, str]]

OBSERVATIONS = np.random.default_rng(0).normal(1, 4, (100, 5)).astype(np.float32)


MODELS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {"n_steps": 16, "batch_size": 16}),
    "PPO with ELU": (PPO, {"policy_kwargs": {"activation_fn": nn.ELU, "net_arch": [16, 8]}}),
    "PPO without hidden layers": (PPO, {"policy_kwargs": {"net_arch": []}}),
    "A2C": (A2C, {}),
    "SAC": (SAC, {"policy_kwargs": {"net_arch": [16, 16]}}),
    "TD3": (TD3, {"policy_kwargs": {"net_arch": [16, 16], "activation_fn": nn.SiLU}}),
    "DDPG": (DDPG, {"policy_kwargs": {"net_arch": [16]}}),
}


def _saved(name: str, folder: Path) -> tuple[Any, VecNormalize]:
    algorithm, options = MODELS[name]
    return saved_model(algorithm, folder, **options)


@pytest.mark.parametrize("name", MODELS)
def test_actions_are_those_of_predict(name: str, tmp_path: Path) -> None:
    model, environment = _saved(name, tmp_path)
    plain = import_policy(tmp_path / "model.zip", tmp_path / "plain.safetensors")
    np.testing.assert_allclose(
        plain.policy(OBSERVATIONS), model.predict(OBSERVATIONS, deterministic=True)[0], atol=1e-5
    )
    assert "--normalizer" in plain.notes[0]
    normalised = import_policy(
        tmp_path / "model.zip", tmp_path / "policy.safetensors", normalizer=tmp_path / "vecnormalize.pkl"
    )
    expected = model.predict(environment.normalize_obs(OBSERVATIONS), deterministic=True)[0]
    np.testing.assert_allclose(normalised.policy(OBSERVATIONS), expected, atol=1e-5)
    assert (normalised.policy.observation_clip, normalised.notes) == (2.0, ())
    assert normalised.policy.action_low.tolist() == [-2, -0.5]
    assert load(tmp_path / "policy.safetensors").metadata["imported_from"] == normalised.kind


def test_a_normaliser_that_leaves_observations(tmp_path: Path) -> None:
    _, environment = _saved("PPO", tmp_path)
    environment.norm_obs = False
    environment.save(str(tmp_path / "off.pkl"))
    report = import_policy(tmp_path / "model.zip", tmp_path / "p.safetensors", normalizer=tmp_path / "off.pkl")
    assert report.policy.observation_mean is None


def test_statistics_in_an_npz_are_taken_too(tmp_path: Path) -> None:
    _, environment = _saved("SAC", tmp_path)
    running = environment.obs_rms
    np.savez(tmp_path / "statistics.npz", mean=running.mean, var=running.var, epsilon=1e-8, clip=2.0)
    files = [tmp_path / "statistics.npz", tmp_path / "vecnormalize.pkl"]
    both = [
        import_policy(tmp_path / "model.zip", tmp_path / "p.safetensors", normalizer=file, force=True).policy
        for file in files
    ]
    assert np.array_equal(both[0](OBSERVATIONS), both[1](OBSERVATIONS))


def test_the_command(edgerl: Run, tmp_path: Path) -> None:
    _saved("TD3", tmp_path)
    arguments = ["import", str(tmp_path / "model.zip"), "-o", str(tmp_path / "policy.safetensors")]
    code, out, err = edgerl(*arguments, "--env", "tests.importers.files:Task")
    assert (code, "if the policy was trained with VecNormalize" in err) == (0, True)
    assert "stable-baselines3 TD3 or DDPG, 5-16-16-2, silu, actions from -2 to 2 by tanh" in out
    assert "largest difference to the original over 1001 sampled observations" in out
    code, out, err = edgerl(*arguments, "--normalizer", "none", "--json", "--force")
    assert (code, err) == (0, "")
    assert json.loads(out)["activations"] == ["silu", "silu"]
    code, out, err = edgerl(*arguments)
    assert (code, out) == (2, "")
    assert "policy.safetensors exists" in err
    code, _, err = edgerl("import", str(tmp_path / "policy.safetensors"), "-o", str(tmp_path / "again"))
    assert (code, err.count("\n")) == (2, 1)
    assert "is a policy of edgerl already" in err


def _changed(folder: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """The model with other members."""
    with zipfile.ZipFile(folder / "model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(folder / "changed.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return folder / "changed.zip"


def _about(members: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads(members["data"])
    change(about)
    members["data"] = json.dumps(about).encode()


def _weights(members: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    change(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    members["policy.pth"] = buffer.getvalue()


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def _executable(members: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    torch.save({"actor.mu.0.weight": _Bomb()}, buffer)
    members["policy.pth"] = buffer.getvalue()


LAST = "action_net.weight"
HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no weights": (lambda m: m.pop("policy.pth"), "has no member 'policy.pth'"),
    "no data": (lambda m: m.pop("data"), "has no member 'data'"),
    "data not JSON": (lambda m: m.update(data=b"{"), "its data is not JSON"),
    "data a list": (lambda m: m.update(data=b"[]"), "its data is not a JSON object"),
    "weights executed": (_executable, "holds more than tensors"),
    "weights torn": (lambda m: m.update({"policy.pth": m["policy.pth"][:999]}), "is not a PyTorch file, or is trunc"),
    "discrete": (
        lambda m: _about(m, lambda a: a["action_space"].update({":type:": "<class 'gymnasium.spaces.Discrete'>"})),
        "expected continuous actions, of a Box",
    ),
    "bounds as text": (lambda m: _about(m, lambda a: a["action_space"].update(low="[a b]")), "actions' low as numbers"),
    "bounds infinite": (
        lambda m: _about(m, lambda a: a["action_space"].update(high="[inf inf]")),
        "expected finite bounds",
    ),
    "bounds of three": (
        lambda m: _about(m, lambda a: a["action_space"].update(low="[-1 -1 -1]", high="[1 1 1]")),
        "gives 2 actions and has 3 bounds",
    ),
    "an unknown activation": (
        lambda m: _about(m, lambda a: a.update(policy_kwargs={"activation_fn": "<class 'torch.nn.Mish'>"})),
        "has the activation .*Mish.*; expected Tanh, ReLU",
    ),
    "not finite": (lambda m: _weights(m, lambda s: s[LAST].fill_(float("nan"))), "holds a number that is not finite"),
    "another shape": (lambda m: _weights(m, lambda s: s.update({LAST: torch.zeros(2, 63)})), r"expected \[any, 64\]"),
    "a vector": (lambda m: _weights(m, lambda s: s.update({LAST: torch.zeros(2)})), r"expected \[any, 64\]"),
    "1e9 units": (
        lambda m: _weights(m, lambda s: s.update({LAST: torch.zeros(1).expand(10**9, 64)})),
        "has 640000.* numbers in policy.pth",
    ),
    "a feature extractor": (
        lambda m: _weights(m, lambda s: s.update({"features_extractor.cnn.0.weight": torch.zeros(2, 2)})),
        "has a features extractor; expected",
    ),
    "no policy": (
        lambda m: _weights(m, lambda s: [s.pop(name) for name in list(s)]),
        "of an algorithm that is not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused_in_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _saved("PPO", tmp_path)
    change, problem = HOSTILE[case]
    with pytest.raises(EdgerlError, match=problem) as refused:
        import_policy(_changed(tmp_path, change), "policy.safetensors")
    assert "\n" not in str(refused.value)
    assert not Path("executed").exists()
    assert not Path("policy.safetensors").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    _saved("PPO", tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_stable_baselines3_version", "2.9.2")
        archive.writestr("data", b" " * (1 << 29))
    with pytest.raises(UnsupportedModelError, match="data has more than 16777216 bytes"):
        import_policy(tmp_path / "bomb.zip", tmp_path / "p.safetensors")


def test_use_sde_is_refused_with_its_reason(tmp_path: Path) -> None:
    SAC("MlpPolicy", Task(), use_sde=True, device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(UnsupportedModelError, match="whose means are clipped before tanh"):
        import_policy(tmp_path / "model.zip", tmp_path / "p.safetensors")


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "named", [Path("executed").touch, __import__("os").system, eval, __import__("builtins").getattr, np.load]
)
def test_a_pickle_that_names_anything_else_is_refused_unread(
    named: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Bomb:
        def __reduce__(self) -> Any:
            return (named, ("touch executed",))

    Path("bomb.pkl").write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(FileFormatError, match=r"is not a VecNormalize of stable-baselines3, .* \(it names "):
        normalizers.read(Path("bomb.pkl"))
    assert not Path("executed").exists()


def test_mutated_statistics_are_read_or_refused(tmp_path: Path) -> None:
    _saved("PPO", tmp_path)
    whole = (tmp_path / "vecnormalize.pkl").read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "mutated.pkl", 0
    for _ in range(3000):
        path.write_bytes(mutated(whole, rng, 6))
        try:
            normalizers.read(path)
        except (FileFormatError, UnsupportedModelError):
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"mean": np.zeros(5)}, "mean` and `var"),
        ({"mean": np.zeros(5), "var": np.zeros(4)}, "statistics of the shapes"),
        ({"mean": np.zeros(5), "var": -np.ones(5)}, "negative variance"),
        ({"mean": np.full(5, np.nan), "var": np.ones(5)}, "not finite"),
        ({"mean": np.zeros(5), "var": np.ones(5), "clip": 0.0}, "the clip 0.0"),
        ({"mean": np.array([None] * 5), "var": np.ones(5)}, "allow_pickle=False"),
    ],
)
def test_statistics_that_are_none(arrays: dict[str, Any], problem: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "statistics.npz", **arrays)
    with pytest.raises(FileFormatError, match=problem):
        normalizers.read(tmp_path / "statistics.npz")


def test_statistics_of_another_size(tmp_path: Path) -> None:
    _saved("PPO", tmp_path)
    np.savez(tmp_path / "statistics.npz", mean=np.zeros(4), var=np.ones(4))
    with pytest.raises(UnsupportedModelError, match="has statistics of 4 numbers; the policy takes 5 observations"):
        import_policy(tmp_path / "model.zip", tmp_path / "p.safetensors", normalizer=tmp_path / "statistics.npz")


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_ppo_of_sb3_contrib(layers: int, tmp_path: Path) -> None:
    """In the layout of its MlpLstmPolicy: the actor's LSTM takes the observation, and gives it to the perceptron."""
    _saved("PPO", tmp_path)
    lstm, policy_net, action_net = nn.LSTM(5, 12, layers), nn.Linear(12, 64), nn.Linear(64, 2)

    def change(state: dict[str, Any]) -> None:
        state |= {
            f"lstm_{which}.{name}": value for which in ("actor", "critic") for name, value in lstm.state_dict().items()
        }
        state |= {f"mlp_extractor.policy_net.0.{name}": value for name, value in policy_net.state_dict().items()}
        state |= {f"action_net.{name}": value for name, value in action_net.state_dict().items()}
        for name in ("weight", "bias"):
            del state[f"mlp_extractor.policy_net.2.{name}"]

    model = _changed(tmp_path, lambda members: _weights(members, change))
    report = import_policy(model, tmp_path / "policy.safetensors")
    with torch.no_grad():
        expected = action_net(torch.tanh(policy_net(lstm(torch.from_numpy(OBSERVATIONS))[0]))).numpy()
    low, high = report.policy.action_low, report.policy.action_high
    np.testing.assert_allclose(report.policy(OBSERVATIONS), np.clip(expected, low, high), atol=1e-5)
    assert report.kind == "sb3-contrib RecurrentPPO"

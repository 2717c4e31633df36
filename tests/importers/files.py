"""Files of other programs, small ones, in the layouts that these programs write."""

from __future__ import annotations

import json
import pickle
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn


class Actor(nn.Module):
    """A perceptron as robots' policies are: a normaliser in front, perhaps a clip, a norm, half of its outputs unused,
    tanh."""

    def __init__(
        self,
        activation: type[nn.Module],
        widths: Sequence[int] = (9, 16, 12, 4),
        *,
        norm: bool = False,
        clip: float | None = None,
        is_distribution: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n, m in pairwise(widths[:-1]):
            layers += [nn.Linear(n, m), *([nn.LayerNorm(m)] if norm else []), activation()]
        layers.append(nn.Linear(widths[-2], widths[-1] * (2 if is_distribution else 1)))
        self.actor = nn.Sequential(*layers)
        self.clip, self.is_distribution, self.tanh = clip, is_distribution, tanh
        self.register_buffer("mean", torch.randn(1, widths[0]))
        self.register_buffer("std", torch.rand(1, widths[0]) + 0.1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        x = (obs - self.mean) / (self.std + 1e-2)
        x = x if self.clip is None else x.clamp(-self.clip, self.clip)
        x = self.actor(x)
        if self.is_distribution:
            x, _ = torch.chunk(x, 2, dim=-1)
        return torch.tanh(x) * 2 + 0.5 if self.tanh else x


def exported(module: nn.Module, path: Path, opset: int = 17, n: int = 9) -> Path:
    """As torch.onnx writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, n),),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["obs"],
            output_names=["actions"],
        )
    return path


def scripted(module: nn.Module, path: Path) -> None:
    """As TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))


def actions(module: nn.Module, observations: Any) -> Any:
    """What PyTorch computes."""
    with torch.no_grad():
        return module(torch.from_numpy(np.asarray(observations, np.float32))).numpy()


class RecurrentActor(nn.Module):
    """As rsl_rl's exporter builds it: a normaliser, a GRU or an LSTM, a perceptron; the state is passed in and out."""

    def __init__(self, kind: str, layers: int, widths: Sequence[int] = (9, 20, 12, 4)) -> None:
        super().__init__()
        torch.manual_seed(0)
        n, units, hidden, m = widths
        self.rnn = getattr(nn, kind.upper())(n, units, layers)
        for parameter in self.rnn.parameters():
            parameter.data *= 2
        self.actor = nn.Sequential(nn.Linear(units, hidden), nn.ELU(), nn.Linear(hidden, m))
        self.register_buffer("mean", torch.randn(1, n))
        self.register_buffer("std", torch.rand(1, n) + 0.1)
        self.names = ["h", "c"] if kind == "lstm" else ["h"]

    def forward(self, obs: torch.Tensor, *state: torch.Tensor) -> Any:
        x = ((obs - self.mean) / (self.std + 1e-2)).unsqueeze(0)
        if len(state) == 2:
            x, (h, c) = self.rnn(x, state)
            return self.actor(x.squeeze(0)), h, c
        x, h = self.rnn(x, *state)
        return self.actor(x.squeeze(0)), h

    def episode(self, observations: Any) -> Any:
        """Actions [steps, m] for observations [steps, n]."""
        with torch.no_grad():
            x = (torch.from_numpy(observations) - self.mean) / (self.std + 1e-2)
            return self.actor(self.rnn(x)[0]).numpy()


class StatefulActor(RecurrentActor):
    """As the exporters of rsl_rl, legged_gym and Isaac Lab script it: the state is in buffers, which a call changes."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__(kind, layers)
        for name in ("hidden_state", "cell_state")[: len(self.names)]:
            self.register_buffer(name, torch.zeros(layers, 1, self.rnn.hidden_size))
        self.forward = getattr(self, f"forward_{kind}")

    def forward_lstm(self, obs: torch.Tensor) -> torch.Tensor:
        x = ((obs - self.mean) / (self.std + 1e-2)).unsqueeze(0)
        x, (h, c) = self.rnn(x, (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(x.squeeze(0))

    def forward_gru(self, obs: torch.Tensor) -> torch.Tensor:
        x = ((obs - self.mean) / (self.std + 1e-2)).unsqueeze(0)
        x, h = self.rnn(x, self.hidden_state)
        self.hidden_state[:] = h
        return self.actor(x.squeeze(0))


def exported_cells(module: RecurrentActor, path: Path, opset: int = 17) -> Path:
    """As torch.onnx writes it for rsl_rl."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = [torch.zeros(module.rnn.num_layers, 1, module.rnn.hidden_size) for _ in module.names]
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, module.rnn.input_size), *state),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["obs", *(f"{name}_in" for name in module.names)],
            output_names=["actions", *(f"{name}_out" for name in module.names)],
        )
    return path


class Task(gymnasium.Env[Any, Any]):
    """Random observations; actions within `bounds`."""

    def __init__(self, n_observations: int = 5, bounds: tuple[Any, Any] = ([-2, -0.5], [2, 1.5])) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,), np.float32)
        self.action_space = spaces.Box(*(np.array(bound, np.float32) for bound in bounds))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed, options=options)
        return self._observed(), {}

    def step(self, _action: Any) -> Any:
        return self._observed(), 0.0, False, False, {}

    def _observed(self) -> Any:
        return self.np_random.normal(1, 4, self.observation_space.shape).astype(np.float32)


def saved_model(
    algorithm: Any, folder: Path, task: Task | None = None, **options: Any
) -> tuple[BaseAlgorithm, VecNormalize]:
    """model.zip with random weights and vecnormalize.pkl after some steps, as stable-baselines3 saves them."""
    environment = VecNormalize(DummyVecEnv([lambda: task or Task()]), clip_obs=2.0)
    environment.seed(0)
    environment.reset()
    model = algorithm("MlpPolicy", environment, seed=0, device="cpu", **options)
    for _ in range(20):
        environment.step(np.array([environment.action_space.sample()]))
    model.save(folder / "model.zip")
    environment.save(str(folder / "vecnormalize.pkl"))
    return model, environment


def saved_checkpoint(path: Path) -> None:
    """As rsl_rl 5 writes it: 48 observations, 12 actions."""
    actor, _ = nn.Sequential(nn.Linear(48, 32), nn.ELU(), nn.Linear(32, 12)), torch.manual_seed(0)
    state = {f"mlp.{name}": value for name, value in actor.state_dict().items()}
    torch.save({"actor_state_dict": state | {"distribution.std_param": torch.ones(12)}, "iter": 1500}, path)


def perceptron_arrays(n: int = 9, widths: Sequence[int] = (16, 12), outputs: int = 8) -> list[tuple[Any, Any]]:
    """(weight [outputs, inputs], bias) of each layer, float32."""
    rng, sizes = np.random.default_rng(0), (n, *widths, outputs)
    return [
        (rng.normal(0, 1 / n**0.5, (b, a)).astype(np.float32), rng.normal(0, 0.3, b).astype(np.float32))
        for a, b in pairwise(sizes)
    ]


def statistics_of(n: int = 9) -> tuple[Any, Any]:
    """(mean, deviation) of observations, float32."""
    rng = np.random.default_rng(1)
    return rng.normal(size=n).astype(np.float32), (rng.random(n) + 0.1).astype(np.float32)


def brax_arrays(
    keys: Sequence[str] = ("",), n: int = 9, widths: Sequence[int] = (16, 12), outputs: int = 8
) -> dict[str, Any]:
    """Of a checkpoint, by the names that Orbax gives them; half of the outputs are actions."""
    mean, deviation = statistics_of(n)
    found = {f"0.{part}{key}": values for key in keys for part, values in (("mean", mean), ("std", deviation))}
    for index, (weight, bias) in enumerate(perceptron_arrays(n, widths, outputs)):
        found[f"1.params.hidden_{index}.kernel"], found[f"1.params.hidden_{index}.bias"] = weight.T, bias
    found["2.params.hidden_0.kernel"] = np.zeros((9, 4), np.float32)
    return found


def saved_brax_folder(
    folder: Path, arrays: dict[str, Any] | None = None, name: str = "ppo_network_config.json", **changes: Any
) -> Path:
    """As brax.training.checkpoint writes it: arrays of zarr in OCDBT, and a configuration of the network, in which a
    keyword may be "left out"."""
    import tensorstore

    database = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}
    for key, values in (brax_arrays() if arrays is None else arrays).items():
        what = {"driver": "zarr", "kvstore": {**database, "path": f"{key}/"}}
        metadata = {"compressor": {"id": "zstd", "level": 1}, "shape": values.shape, "dtype": values.dtype.str}
        array = tensorstore.open({**what, "metadata": metadata}, create=True, open=True).result()
        array.write(np.ascontiguousarray(values)).result()
    config = {
        "action_size": 4,
        "network_factory_kwargs": {"activation": "silu", "policy_obs_key": "state", "mean_clip_scale": None},
        "normalize_observations": True,
        "observation_size": 9,
    }
    keywords = {**config["network_factory_kwargs"], **changes.pop("keywords", {})}  # type: ignore[dict-item]
    stated = {key: value for key, value in keywords.items() if value != "left out"}
    (folder / name).write_text(json.dumps({**config, "network_factory_kwargs": stated, **changes}))
    return folder


BRAX_MODULES = (
    *("brax", "brax.training", "brax.training.acme", "brax.training.acme.running_statistics"),
    *("jax", "jax._src", "jax._src.array"),
)


class _JaxArray:
    """An array of JAX, as it pickles itself."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        maker, arguments, state = self.values.__reduce__()
        return _named("jax._src.array", "_reconstruct_array"), (maker, arguments, state, {"weak_type": False})


def _named(module: str, name: str) -> Any:
    """A class under the name that it has in a library."""
    if not hasattr(sys.modules[module], name):
        setattr(sys.modules[module], name, type(name, (), {"__module__": module}))
    return getattr(sys.modules[module], name)


def saved_brax_parameters(path: Path) -> None:
    """What brax.io.model.save_params writes: statistics and layers of the policy, in arrays of JAX."""
    with mock.patch.dict(sys.modules, {name: types.ModuleType(name) for name in BRAX_MODULES}):
        state = _named("brax.training.acme.running_statistics", "RunningStatisticsState")()
        mean, deviation = (_JaxArray(values) for values in statistics_of())
        state.__dict__ = {"mean": {"state": mean}, "std": {"state": deviation}, "std_eps": 0.0}
        layers = {
            f"hidden_{index}": {"kernel": _JaxArray(weight.T), "bias": _JaxArray(bias)}
            for index, (weight, bias) in enumerate(perceptron_arrays())
        }
        path.write_bytes(pickle.dumps((state, {"params": layers}, {"params": {}})))


def saved_skrl(path: Path, **changes: Any) -> None:
    """A PPO of skrl, as Isaac Lab configures it: 9 observations, 4 actions."""
    layers = perceptron_arrays(outputs=4)
    policy = {
        f"net_container.{2 * index}.{part}": torch.from_numpy(values)
        for index, layer in enumerate(layers)
        for part, values in zip(("weight", "bias"), layer, strict=True)
    }
    mean, deviation = (torch.from_numpy(values).double() for values in statistics_of())
    scaler = {"running_mean": mean, "running_variance": deviation**2, "current_count": torch.tensor(99.0)}
    content = {
        "policy": {**policy, "log_std_parameter": torch.zeros(4)},
        "value": {"net_container.0.weight": torch.zeros(3, 9)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "state_preprocessor": scaler,
        "value_preprocessor": {"running_mean": torch.zeros(1).double()},
    }
    torch.save({**content, **changes}, path)


def saved_rl_tools(path: Path, fill: Any, example: tuple[Any, Any] | None = None) -> Path:
    """A checkpoint of RLtools whose actor `fill(group, layer)` writes: layer(group, name, type, …) is one layer."""
    import h5py

    def layer(group: Any, name: str, kind: str, activation: str | None = None, **parameters: Any) -> Any:
        made = group.create_group(name)
        if kind:
            made.attrs["type"] = kind
        if activation:
            made.attrs["activation_function"] = activation
        for part, values in parameters.items():
            made.create_group(part).create_dataset("parameters", data=np.asarray(values, np.float32))
        return made

    with h5py.File(path, "w") as file:
        actor = file.create_group("actor")
        actor.attrs["checkpoint_name"] = "steps/000000000010000"
        fill(actor, layer)
        if example is not None:
            group = file.create_group("example")
            for name, values in zip(("input", "output"), example, strict=True):
                group.create_dataset(name, data=np.asarray(values, np.float32))
    return path


def mutated(whole: bytes, rng: np.random.Generator, most: int = 8) -> bytes:
    """With fewer than `most` other bytes; one in five is cut off."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, most))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.2 else data)


class AllJoints:
    """What unitree_rl_lab's exporter leaves in its YAML where an action is of all joints."""


def deploy(sizes: Mapping[str, int], joints: int, history: int = 1) -> dict[str, Any]:
    """What unitree_rl_lab's exporter writes of a robot with these terms; its last joint has the first motor."""
    numbers = [0.1 * (index + 1) for index in range(joints)]
    return {
        "joint_ids_map": [*range(1, joints), 0],
        "step_dt": 0.02,
        "stiffness": [10.0 * (motor + 1) for motor in range(joints)],
        "damping": [1.0 * (motor + 1) for motor in range(joints)],
        "default_joint_pos": numbers,
        "commands": {"base_velocity": {"ranges": {"lin_vel_x": [-0.5, 1.0], "heading": None}}},
        "actions": {
            "JointPositionAction": {
                "clip": None,
                "joint_names": [".*"],
                "scale": [0.25] * joints,
                "offset": numbers,
                "joint_ids": AllJoints(),
            }
        },
        "observations": {
            name: {"params": {}, "clip": None, "scale": [0.5] * size, "history_length": history}
            for name, size in sizes.items()
        },
    }


def write_deploy(path: Path, stated: Any) -> Path:
    """As that exporter does, with its tag of a slice."""

    class Dumper(yaml.SafeDumper):
        ignore_aliases = lambda *_: True  # noqa: E731 — its numbers are copies, which have none

    tag = "tag:yaml.org,2002:python/object/apply:builtins.slice"
    Dumper.add_representer(AllJoints, lambda dumper, _: dumper.represent_sequence(tag, [None] * 3))
    path.write_text(yaml.dump(stated, Dumper=Dumper, default_flow_style=None, sort_keys=False))
    return path

"""Policies of Brax and MuJoCo Playground: folders of checkpoints, and parameters that `brax.io.model` pickled.

A folder has `ppo_network_config.json` or `sac_network_config.json` beside its arrays; a pickle has the arrays alone.
Either way they are named as Orbax names them: 0.mean and 0.std of the observations, or of a dictionary of them
(0.mean.state), and 1.params.hidden_0.kernel and so on of the layers.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError, quoted, reason
from edgerl.files.atomic import MAXIMUM_JSON_BYTES
from edgerl.files.kind import what_is
from edgerl.files.strict_json import parse_json
from edgerl.importers import normalizers, orbax, pickled, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.pickled import PickledArray, Record
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network, StateDict
from edgerl.policy.activation import ACTIVATIONS as KNOWN
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array

CONFIGS = {"ppo_network_config.json": ("Brax PPO", "swish"), "sac_network_config.json": ("Brax SAC", "relu")}
"""The file that says how the network is built → what it is, and its activation where that is not named: Brax before
0.14 left it out, and wrote no checkpoint of a network with any other."""

ACTIVATIONS: Mapping[str, ActivationName] = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "elu": "elu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "leaky_relu": "leaky_relu",
    "linear": "identity",
}
"""By Brax's names. Flax's gelu is none of them: it is an approximation by tanh."""

DEFAULT_OBSERVATION = "state"
"""What the policy sees of a dictionary of observations, unless its configuration says otherwise."""

POLICY = "1.params."
"""Before the names of the policy's layers."""

NOISE = re.compile(r"(?:Dense_1\.(?:kernel|bias)|std_param\.value|std_logparam\.log_value)")
"""What is beside the layers of a policy without tanh."""

MAXIMUM_PICKLE_BYTES = 1 << 26

MAXIMUM_PARTS = 1 << 16
"""Of a pickle: dictionaries, records, arrays and numbers."""


@dataclass(frozen=True)
class _Config:
    """What a folder says of its network."""

    kind: str
    action_size: int
    normalizes: bool
    activation: Any
    observation: Any  # the key of a dictionary
    clips_means: bool


def archived(folder: Path) -> bytes:
    """A checkpoint's folder as bytes. Raises UnsupportedModelError where it is none, FileFormatError."""
    if any((folder / name).is_file() for name in CONFIGS):
        return orbax.archived(folder)
    inside = sorted(path.parent for name in CONFIGS for path in folder.glob(f"*/{name}"))
    hint = f"; its newest checkpoint is {inside[-1]}" if inside else ""
    raise UnsupportedModelError(
        f"{folder} is {what_is(folder)}; expected a policy's file, or the folder of a checkpoint of Brax, with "
        f"{' or '.join(CONFIGS)}{hint}"
    )


def read(data: bytes, path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of a folder, as `archived` gives it.

    Raises FileFormatError, UnsupportedModelError, ConfigError, MissingExtraError.
    """
    config = _config(data, path)
    if stated.normalizer is not None:
        raise ConfigError(f"{path}, a checkpoint of Brax, has its own `normalizer`, or none; leave that out")
    if config.clips_means:
        raise UnsupportedModelError(f"{path} was trained with mean_clip_scale, which no policy of edgerl does")
    activation = _activation(config, path, stated)
    arrays = orbax.read(data, path, ("0.mean", "0.std", POLICY))
    network = _begun(arrays, path)
    if config.normalizes:
        _normalise(network, arrays, str(config.observation), path)
    _finish(network, arrays, activation, path)
    if network.signal.size != config.action_size:
        raise FileFormatError(
            f"{path} is not valid: it has {network.signal.size} actions, and says {quoted(config.action_size)}"
        )
    return network, config.kind


def read_pickle(data: bytes, path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of parameters that `brax.io.model.save_params` wrote.

    Raises ConfigError where what they do not say was not stated; FileFormatError, UnsupportedModelError.
    """
    arrays = _unpickled(data, path)
    if stated.activation is None:
        raise ConfigError(
            f"{path}, parameters of Brax, does not say its activation; name it: `activation` silu, the default of its "
            f"PPO, or {', '.join(name for name in KNOWN if name != 'silu')}"
        )
    if stated.normalizer is None:
        raise ConfigError(
            f"{path}, parameters of Brax, does not say whether observations were normalised (normalize_observations); "
            f"name it: `normalizer` {path} for its own statistics, or `normalizer` none"
        )
    network = _begun(arrays, path)
    if Path(stated.normalizer).absolute() == path.absolute():
        _normalise(network, arrays, DEFAULT_OBSERVATION, path)
    else:
        normalizers.apply(stated.normalizer, network)
    if not _is_squashed(arrays):
        raise UnsupportedModelError(
            f"{path} has a normal distribution without tanh, and does not say whether its means are clipped; import "
            "the folder of its checkpoint"
        )
    _finish(network, arrays, stated.activation, path)
    return network, "Brax parameters"


def _config(data: bytes, path: Path) -> _Config:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        name = next(name for name in CONFIGS if name in archive.namelist())
        with archive.open(name) as member:
            about = parse_json(member.read(MAXIMUM_JSON_BYTES))
        keywords, (kind, default) = about["network_factory_kwargs"], CONFIGS[name]
        return _Config(
            kind,
            about["action_size"],
            bool(about["normalize_observations"]),
            keywords.get("activation", default),
            keywords.get("policy_obs_key", DEFAULT_OBSERVATION),
            keywords.get("mean_clip_scale") is not None,
        )
    except Exception as error:  # zipfile's, zlib's, the parser's, of a text that is another
        raise FileFormatError(f"{path} has no network configuration that can be read ({reason(error)})") from error


def _activation(config: _Config, path: Path, stated: Stated) -> ActivationName:
    """Raises UnsupportedModelError, ConfigError."""
    if not isinstance(config.activation, str) or config.activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{path} has the activation {quoted(config.activation)}; expected {', '.join(ACTIVATIONS)}"
        )
    said = ACTIVATIONS[config.activation]
    if stated.activation not in (None, said):
        raise ConfigError(f"`activation` is {stated.activation}, and {path} says {said}")
    return said


def _is_squashed(arrays: StateDict) -> bool:
    """Whether the actions are tanh of a perceptron whose second half are deviations."""
    return f"{POLICY}hidden_0.kernel" in arrays


def _begun(arrays: StateDict, path: Path) -> Network:
    """A network that has no layer yet. Raises FileFormatError."""
    first = f"{POLICY}hidden_0.kernel" if _is_squashed(arrays) else f"{POLICY}MLP_0.hidden_0.kernel"
    return Network(state_dict.tensor(arrays, first, (None, None), path).shape[0])


def _normalise(network: Network, arrays: StateDict, observation: str, path: Path) -> None:
    """(x − mean) / std. Raises FileFormatError."""
    suffix = "" if "0.mean" in arrays else f".{observation}"
    mean, deviation = (
        state_dict.tensor(arrays, f"0.{name}{suffix}", (network.signal.size,), path) for name in ("mean", "std")
    )
    if np.any(deviation <= 0):
        raise FileFormatError(f"{path} is not valid: 0.std{suffix} holds a number that is not positive")
    network.normalised(mean, deviation)


def _finish(network: Network, arrays: StateDict, activation: ActivationName, path: Path) -> None:
    """Layers and actions. Raises FileFormatError, UnsupportedModelError."""
    if activation not in ACTIVATIONS.values():
        raise UnsupportedModelError(f"{path}: Flax's {activation} is an approximation, which no policy of edgerl holds")
    is_squashed = _is_squashed(arrays)
    prefix = POLICY if is_squashed else f"{POLICY}MLP_0."
    count = len([name for name in arrays if name.startswith(f"{prefix}hidden_") and name.endswith(".kernel")])
    layers = [f"{prefix}hidden_{index}" for index in range(count)]
    layers += [] if is_squashed else [f"{POLICY}Dense_0"]
    known = {f"{layer}.{part}" for layer in layers for part in ("kernel", "bias")}
    for name in arrays:
        own = name.removeprefix(POLICY)
        if name.startswith(POLICY) and name not in known and (is_squashed or not NOISE.fullmatch(own)):
            raise UnsupportedModelError(f"{path} has {quoted(own, 60)}; expected layers hidden_0, hidden_1, … alone")
    state = {f"{layer}.weight": arrays[f"{layer}.kernel"].T for layer in layers if f"{layer}.kernel" in arrays}
    state |= {name: values for name, values in arrays.items() if name.endswith(".bias")}
    *hidden, last = layers
    try:
        state_dict.perceptron(network, state, hidden, activation, path)
        network.linear(state, last, path)
        if is_squashed:
            network.chosen(np.arange(network.signal.size // 2))
            network.activated("tanh")
    except Unfit as error:
        raise UnsupportedModelError(f"{path} cannot become a policy: it {error}") from error


# ---------------------------------------------------------------------------------------------------------- pickles


class _JaxArray(Record):
    """An array of JAX: how numpy would make it again."""

    def made(self) -> Array:
        maker, arguments, state = self.arguments[:3]
        if maker is not PickledArray or not isinstance(arguments, tuple):
            raise ValueError("an array of JAX that numpy does not make")
        array = PickledArray(*arguments)
        array.__setstate__(state)
        return array.made()


class _Frozen(Record):
    """A dictionary of older versions of Flax."""


_STAND_INS: Mapping[str, type[Record]] = {
    "brax.training.acme.running_statistics.RunningStatisticsState": Record,
    "brax.training.acme.running_statistics.NormalizationMode": Record,
    "brax.training.types.UInt64": Record,
    "flax.core.frozen_dict.FrozenDict": _Frozen,
    "jax._src.array._reconstruct_array": _JaxArray,
}


def _unpickled(data: bytes, path: Path) -> StateDict:
    """The arrays of a pickle. Raises FileFormatError, UnsupportedModelError."""
    if len(data) > MAXIMUM_PICKLE_BYTES:
        raise UnsupportedModelError(f"{path} has {len(data)} bytes; expected at most {MAXIMUM_PICKLE_BYTES}")
    try:
        content = pickled.load(data, _STAND_INS)
        return dict(_arrays(content))
    except Exception as error:  # a hostile pickle can make it raise anything
        raise FileFormatError(
            f"{path} is not what brax.io.model.save_params writes of the parameters ({reason(error)})"
        ) from error


def _arrays(content: Any) -> Iterator[tuple[str, Array]]:
    """Statistics and layers of the policy, in whatever holds them. Raises ValueError, TypeError, AttributeError."""
    waiting, room = [(str(index), part) for index, part in enumerate(content[:2])], MAXIMUM_PICKLE_BYTES
    for _ in range(MAXIMUM_PARTS):
        if not waiting:
            return
        name, part = waiting.pop()
        if isinstance(part, PickledArray | _JaxArray):
            if name.startswith(("0.mean", "0.std", POLICY)):
                values = part.made()
                room -= values.size  # pickles can name the same bytes again and again
                if room < 0:
                    raise ValueError("more numbers than a policy has")
                yield name, values
        elif isinstance(part, Mapping | Record):
            items = (
                part if isinstance(part, Mapping) else part.arguments[0] if isinstance(part, _Frozen) else part.fields
            )
            waiting += [(f"{name}.{key}", value) for key, value in items.items()]
    raise ValueError("more parts than a policy has")

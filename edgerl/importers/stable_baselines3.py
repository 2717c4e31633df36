"""Models of stable-baselines3: the zip that `model.save` writes, read without opening a pickle.

Its `data` is JSON, in which what matters stands as text beside serialised objects; `policy.pth` has the weights.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError, quoted, reason
from edgerl.files.atomic import MAXIMUM_JSON_BYTES
from edgerl.files.strict_json import parse_json
from edgerl.importers import normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array

ACTIVATIONS: Mapping[str, ActivationName] = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "SiLU": "silu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "Identity": "identity",
}
"""By the name of PyTorch's class."""

ON_POLICY_DEFAULT: ActivationName = "tanh"
OFF_POLICY_DEFAULT: ActivationName = "relu"
"""Where policy_kwargs have none: the libraries' own defaults."""

WITHOUT_STATISTICS = (
    "observations are taken as they are; if the policy was trained with VecNormalize, give its statistics: "
    "--normalizer vecnormalize.pkl"
)

LSTM = "lstm_actor."
"""Of the actor's cells, of sb3-contrib's RecurrentPPO."""


def read(data: bytes, path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of a model.

    Raises FileFormatError, UnsupportedModelError, MissingExtraError.
    """
    return open_model(data, path, stated).policy()


def open_model(data: bytes, path: Path, stated: Stated) -> Model:
    """The parts of a model. Raises FileFormatError, UnsupportedModelError, MissingExtraError."""
    archive = _archive(data, path)
    about = _json(_member(archive, "data", path, MAXIMUM_JSON_BYTES), path)
    state = state_dict.tensors(loaded(archive, "policy.pth", path), path, "policy.pth")
    if any(name.startswith(("features_extractor.", "actor.features_extractor.")) for name in state):
        raise UnsupportedModelError(f"{path} has a features extractor; expected an MlpPolicy or an MlpLstmPolicy")
    _check_observations(about, path)
    return Model(archive, state, about, _bounds(about.get("action_space"), path), path, stated)


def notes(data: bytes, path: Path, stated: Stated) -> tuple[str, ...]:
    """What a person should know of a model that `read` took."""
    about = _json(_member(_archive(data, path), "data", path, MAXIMUM_JSON_BYTES), path)
    said = about.get("policy_class")
    module = said.get("__module__") if isinstance(said, dict) else None
    is_custom = isinstance(module, str) and not module.startswith(("stable_baselines3.", "sb3_contrib."))
    custom = f"its policy class is of {quoted(module, 60)}: what that does besides its layers is not in the file"
    return (custom,) * is_custom + (WITHOUT_STATISTICS,) * (stated.normalizer is None)


def _archive(data: bytes, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FileFormatError(f"{path} is not a zip archive, or is truncated ({reason(error)})") from error


def _member(archive: zipfile.ZipFile, name: str, path: Path, at_most: int) -> bytes:
    """The bytes of a member, of bounded size however it is packed."""
    try:
        with archive.open(name) as member:
            data = member.read(at_most + 1)
    except KeyError as error:
        raise FileFormatError(
            f"{path} has no member {name!r}; expected a model that stable-baselines3 saved"
        ) from error
    except Exception as error:  # zlib's, zipfile's and the operating system's
        raise FileFormatError(f"{path} is not valid: its member {name!r} cannot be read ({reason(error)})") from error
    if len(data) > at_most:
        raise UnsupportedModelError(f"{path}: {name} has more than {at_most} bytes")
    return data


def loaded(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    """What torch.save wrote as a member. Raises FileFormatError, UnsupportedModelError, MissingExtraError."""
    return state_dict.load(_member(archive, name, path, state_dict.MAXIMUM_BYTES), path)


def _json(data: bytes, path: Path) -> Mapping[str, Any]:
    try:
        about = parse_json(data)
    except ValueError as error:
        raise FileFormatError(f"{path} is not valid: its data is not JSON ({reason(error)})") from error
    if not isinstance(about, dict):
        raise FileFormatError(f"{path} is not valid: its data is not a JSON object")
    return about


def _check_observations(about: Mapping[str, Any], path: Path) -> None:
    """Raises UnsupportedModelError where something without weights, which the file shows by name only, comes first."""
    space, keywords = about.get("observation_space"), about.get("policy_kwargs")
    kind = space.get(":type:") if isinstance(space, dict) else space
    if not str(kind).endswith("Box'>"):
        raise UnsupportedModelError(f"{path} observes {quoted(kind, 60)}; expected one vector, a Box")
    extractor = keywords.get("features_extractor_class") if isinstance(keywords, dict) else None
    if extractor is not None and "FlattenExtractor" not in str(extractor):
        raise UnsupportedModelError(f"{path} has the features extractor {quoted(extractor, 80)}; expected an MlpPolicy")


def _bounds(space: Any, path: Path) -> tuple[Array, Array]:
    """Low and high of each action, from numbers that numpy printed."""
    if not isinstance(space, dict) or not str(space.get(":type:", "")).endswith("Box'>"):
        kind = space.get(":type:") if isinstance(space, dict) else space
        raise UnsupportedModelError(f"{path} acts in {quoted(kind, 60)}; expected continuous actions, of a Box")
    low, high = (_printed(space.get(name), name, path) for name in ("low", "high"))
    if low.shape != high.shape or not np.all(low < high) or not np.isfinite([low, high]).all():
        raise UnsupportedModelError(
            f"{path} has actions from {str(low)[:40]} to {str(high)[:40]}; expected finite bounds"
        )
    return low, high


def _printed(text: Any, name: str, path: Path) -> Array:
    try:
        if not isinstance(text, str) or not re.fullmatch(r"\[[-+.\deinf\s]*\]", text):
            raise ValueError(quoted(text, 60))
        return np.array([float(word) for word in text.strip("[]").split()], np.float32).astype(np.float64)
    except ValueError as error:
        raise FileFormatError(f"{path} does not say its actions' {name} as numbers ({reason(error)})") from error


@dataclass(frozen=True)
class Model:
    """The parts of a model, and how each algorithm makes actions of them."""

    archive: zipfile.ZipFile
    state: state_dict.StateDict
    about: Mapping[str, Any]
    bounds: tuple[Array, Array]
    path: Path
    stated: Stated

    def policy(self) -> tuple[Network, str]:
        """(the network, what kind of policy it is). Raises FileFormatError, UnsupportedModelError."""
        try:
            if self.is_on_policy:
                is_recurrent = f"{LSTM}weight_ih_l0" in self.state
                return self.on_policy(), "sb3-contrib RecurrentPPO" if is_recurrent else "stable-baselines3 PPO or A2C"
            if "actor.latent_pi.0.weight" in self.state:
                return self.soft(), "stable-baselines3 SAC or TQC"
            if "actor.mu.0.weight" in self.state:
                return self.deterministic(), "stable-baselines3 TD3 or DDPG"
        except Unfit as error:
            raise UnsupportedModelError(f"{self.path} cannot become a policy: it {error}") from error
        raise UnsupportedModelError(
            f"{self.path} is of an algorithm that is not known; expected PPO, A2C, SAC, TQC, TD3 or DDPG"
        )

    @property
    def is_on_policy(self) -> bool:
        """Whether it is of PPO or A2C, whose critic values states alone."""
        return "action_net.weight" in self.state

    def on_policy(self) -> Network:
        """PPO and A2C: the mean, clipped to the bounds, unless the policy squashes it."""
        parts = ("shared_net", "policy_net")  # shared with the critic: until version 1.7
        names = [
            name
            for part in parts
            for name in state_dict.linear_names(self.state, f"mlp_extractor.{part}.", self.path, may_be_none=True)
        ]
        network = self._perceptron(names, "action_net", ON_POLICY_DEFAULT)
        if self.keyword("squash_output") is True:
            return self._squashed(network)
        self._check_actions(network)
        network.clipped(*self.bounds)
        return network

    def soft(self) -> Network:
        """SAC and TQC: tanh of the mean, scaled to the bounds."""
        if "actor.mu.weight" not in self.state:
            raise UnsupportedModelError(
                f"{self.path} was trained with use_sde, whose means are clipped before tanh, which no policy of edgerl "
                "holds; train it with clip_mean=0.0"
            )
        names = state_dict.linear_names(self.state, "actor.latent_pi.", self.path)
        return self._squashed(self._perceptron(names, "actor.mu", OFF_POLICY_DEFAULT))

    def deterministic(self) -> Network:
        """TD3 and DDPG: tanh of the last layer, scaled to the bounds."""
        *names, last = state_dict.linear_names(self.state, "actor.mu.", self.path)
        return self._squashed(self._perceptron(names, last, OFF_POLICY_DEFAULT))

    def _perceptron(self, names: list[str], last: str, default: ActivationName) -> Network:
        """Normaliser, hidden layers and last layer."""
        is_recurrent = f"{LSTM}weight_ih_l0" in self.state
        first = f"{LSTM}weight_ih_l0" if is_recurrent else f"{[*names, last][0]}.weight"
        network = Network(state_dict.tensor(self.state, first, (None, None), self.path).shape[1])
        normalizers.apply(self.stated.normalizer, network)
        if is_recurrent:
            network.recurrent(self.state, LSTM, self.path)
        state_dict.perceptron(network, self.state, names, self.activation(default), self.path)
        network.linear(self.state, last, self.path)
        return network

    def _squashed(self, network: Network) -> Network:
        self._check_actions(network)
        network.activated("tanh")
        low, high = self.bounds
        network.scaled((high - low) / 2, (high + low) / 2)
        return network

    def _check_actions(self, network: Network) -> None:
        has, bounds = network.signal.size, len(self.bounds[0])
        if has != bounds:
            raise FileFormatError(f"{self.path} is not valid: it gives {has} actions and has {bounds} bounds")

    def activation(self, default: ActivationName) -> ActivationName:
        """Of the hidden layers. Raises UnsupportedModelError, ConfigError."""
        said = self.keyword("activation_fn")
        if said is None:
            return self.stated.activation or default
        name = str(said).rstrip("'>").rpartition(".")[2]
        if name not in ACTIVATIONS:
            raise UnsupportedModelError(
                f"{self.path} has the activation {quoted(said, 60)}; expected {', '.join(ACTIVATIONS)}"
            )
        if self.stated.activation not in (None, ACTIVATIONS[name]):
            raise ConfigError(f"`activation` is {self.stated.activation}, and {self.path} says {ACTIVATIONS[name]}")
        return ACTIVATIONS[name]

    def keyword(self, name: str) -> Any:
        """One of policy_kwargs."""
        keywords = self.about.get("policy_kwargs")
        return keywords.get(name) if isinstance(keywords, dict) else None

"""Models of CleanRL: `<experiment>.cleanrl_model`, the state dicts of an actor and what learnt with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgerl.errors import ConfigError, UnsupportedModelError
from edgerl.importers import normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network, StateDict

LAST_LAYERS = {"fc_mu": "CleanRL TD3 or DDPG", "fc_mean": "CleanRL SAC"}
"""Of the actors whose actions are tanh, scaled: by the name of the last layer."""


def actor_in(content: Any) -> Mapping[Any, Any] | None:
    """The actor's state dict in what torch.load gave; None where it is not CleanRL's."""
    if isinstance(content, tuple | list) and content:
        content = content[0]
    if not isinstance(content, Mapping):
        return None
    is_known = "fc1.weight" in content and any(f"{name}.weight" in content for name in LAST_LAYERS)
    return content if is_known or "actor_mean.0.weight" in content else None


def read(actor: Mapping[Any, Any], path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of an actor.

    Raises ConfigError where `normalizer` was not stated, of which the file of a PPO says nothing; FileFormatError,
    UnsupportedModelError.
    """
    state = state_dict.tensors(actor, path)
    try:
        if "actor_mean.0.weight" in state:
            return _on_policy(state, path, stated), "CleanRL PPO"
        last = next(name for name in LAST_LAYERS if f"{name}.weight" in state)
        return _squashed(state, last, path, stated), LAST_LAYERS[last]
    except Unfit as error:
        raise UnsupportedModelError(f"{path} cannot become a policy: it {error}") from error


def _on_policy(state: StateDict, path: Path, stated: Stated) -> Network:
    """PPO: the mean, without bounds."""
    if stated.normalizer is None:
        raise ConfigError(
            f"{path} is a PPO of CleanRL, which normalises observations and does not save the statistics; name them: "
            "`normalizer` statistics.npz (with `mean` and `var`), or `normalizer` none"
        )
    *names, last = state_dict.linear_names(state, "actor_mean.", path)
    network = _begun(state, [*names, last][0], path, stated)
    state_dict.perceptron(network, state, names, stated.activation or "tanh", path)
    network.linear(state, last, path)
    return network


def _squashed(state: StateDict, last: str, path: Path, stated: Stated) -> Network:
    """TD3, DDPG and SAC: tanh, times action_scale, plus action_bias."""
    network = _begun(state, "fc1", path, stated)
    if any(re.match(r"fc([03-9]|\d\d)", name) for name in state):
        raise UnsupportedModelError(f"{path} has other hidden layers than CleanRL's fc1 and fc2")
    state_dict.perceptron(network, state, ["fc1", "fc2"], stated.activation or "relu", path)
    network.linear(state, last, path)
    network.activated("tanh")
    scale, bias = (state_dict.row(state, name, network.signal.size, path) for name in ("action_scale", "action_bias"))
    network.scaled(scale, bias)
    return network


def _begun(state: StateDict, first: str, path: Path, stated: Stated) -> Network:
    network = Network(state_dict.tensor(state, f"{first}.weight", (None, None), path).shape[1])
    normalizers.apply(stated.normalizer, network)
    return network

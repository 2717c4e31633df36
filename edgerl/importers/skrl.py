"""Agents of skrl, as Isaac Lab trains them: `agent_<step>.pt` or `best_agent.pt`, the state dicts of its modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError, quoted
from edgerl.importers import normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network, StateDict
from edgerl.policy.activation import ACTIVATIONS

EPSILON = 1e-8
"""Added to the deviation, not under a root: RunningStandardScaler's."""

CLIP = 5.0
"""RunningStandardScaler's own, where no other was chosen: the file does not say it."""

PREPROCESSORS = ("observation_preprocessor", "state_preprocessor")
"""The first that is there is the policy's: versions before 2 have the second alone."""

LAYER = re.compile(r"((?:\w+\.)*?)([0-9]{1,4})\.(?:weight|bias)")
"""Of the container: net_container.0.weight, as skrl names it from a configuration, or net.0.weight."""

LAST_LAYERS = ("policy_layer", "mean_layer")
"""Behind a container that the critic shares."""

OTHERS = re.compile(r"log_std_parameter|value_layer\.(?:weight|bias)")
"""What a policy holds besides."""

NOTES = (
    "actions are taken as the last layer gives them, and normalised observations are clipped to ±5: skrl's defaults, "
    "of which its file says nothing; --normalizer none leaves out a state_preprocessor that was for the critic alone",
)


def is_agent(content: Any) -> bool:
    """Whether torch.load gave an agent of skrl."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("policy"), Mapping)
        and ("optimizer" in content or "policy_optimizer" in content)
    )


def read(content: Mapping[Any, Any], path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of an agent.

    Raises ConfigError where `activation` was not stated, which the file does not say; FileFormatError,
    UnsupportedModelError.
    """
    state = state_dict.tensors(content["policy"], path, "policy")
    if "value" not in content:
        raise UnsupportedModelError(
            f"{path} is an agent of skrl with critics of actions, and does not say what bounds its actions; expected "
            "PPO or A2C, or the policy as ONNX or TorchScript"
        )
    if stated.activation is None:
        raise ConfigError(
            f"{path}, an agent of skrl, does not say its activation; name it: `activation` elu, Isaac Lab's (see "
            f"params/agent.yaml beside it), or {', '.join(name for name in ACTIVATIONS if name != 'elu')}"
        )
    hidden, last = _layers(state, path)
    network = Network(state_dict.tensor(state, f"{[*hidden, last][0]}.weight", (None, None), path).shape[1])
    try:
        _normalise(network, content, path, stated)
        state_dict.perceptron(network, state, hidden, stated.activation, path)
        network.linear(state, last, path)
    except Unfit as error:
        raise UnsupportedModelError(f"{path} cannot become a policy: it {error}") from error
    return network, "skrl PPO or A2C"


def _layers(state: StateDict, path: Path) -> tuple[list[str], str]:
    """(hidden layers, last one). Raises UnsupportedModelError where other tensors are there, of unknown meaning."""
    own = [last for last in LAST_LAYERS if f"{last}.weight" in state]
    containers = {found[1] for name in state if (found := LAYER.fullmatch(name))}
    for name in state:
        if not LAYER.fullmatch(name) and not OTHERS.fullmatch(name) and name.rpartition(".")[0] not in own:
            raise UnsupportedModelError(
                f"{path} has the tensor {quoted(name, 60)}; expected layers net_container.0, net_container.2, …"
            )
    if len(containers) != 1 or len(own) > 1:
        raise UnsupportedModelError(f"{path} has {len(containers)} containers of layers; expected one, net_container")
    layers = {name: values for name, values in state.items() if LAYER.fullmatch(name)}
    names = state_dict.linear_names(layers, containers.pop(), path)
    return (names, own[0]) if own else (names[:-1], names[-1])


def _normalise(network: Network, content: Mapping[Any, Any], path: Path, stated: Stated) -> None:
    """clip((x − mean) / (√variance + epsilon)). Raises ConfigError, FileFormatError."""
    name = next((name for name in PREPROCESSORS if isinstance(content.get(name), Mapping)), None)
    if name is None or stated.normalizer == normalizers.NONE:
        normalizers.apply(stated.normalizer, network)
        return
    if stated.normalizer is not None:
        raise ConfigError(f"{path}, an agent of skrl, has its own `normalizer`; leave that out, or name none")
    statistics = state_dict.tensors(content[name], path, name)
    mean, variance = (
        state_dict.tensor(statistics, part, (network.signal.size,), path)
        for part in ("running_mean", "running_variance")
    )
    if np.any(variance < 0):
        raise FileFormatError(f"{path} is not valid: the running_variance of its {name} holds a negative number")
    network.normalised(mean, np.sqrt(variance) + EPSILON)
    network.clipped(-CLIP, CLIP)

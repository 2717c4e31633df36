"""Checkpoints of rsl_rl (legged_gym, Isaac Lab, mjlab): `model_<iteration>.pt` in the layouts of versions 1 to 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError
from edgerl.importers import normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network, StateDict
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import Array

EPSILON = 1e-2
"""Added to the deviation, not under a root: EmpiricalNormalization's."""


@dataclass(frozen=True)
class Layout:
    """Where a version keeps the actor: the part of the file, the prefix of its layers, and its normaliser's."""

    versions: str
    part: str
    layers: str
    normaliser: tuple[str, str]  # (part, prefix of _mean and _std)
    recurrent: str
    deviations: tuple[str, ...]  # of the noise, by which the number of actions is known


LAYOUTS = (
    Layout(
        "4 and 5",
        "actor_state_dict",
        "mlp.",
        ("actor_state_dict", "obs_normalizer."),
        "rnn.",
        ("distribution.std_param", "distribution.log_std_param"),
    ),
    Layout(
        "4 and 5, distilled",
        "student_state_dict",
        "mlp.",
        ("student_state_dict", "obs_normalizer."),
        "rnn.",
        ("distribution.std_param", "distribution.log_std_param"),
    ),
    Layout(
        "3",
        "model_state_dict",
        "actor.",
        ("model_state_dict", "actor_obs_normalizer."),
        "memory_a.",
        ("std", "log_std"),
    ),
    Layout(
        "3, distilled",
        "model_state_dict",
        "student.",
        ("model_state_dict", "student_obs_normalizer."),
        "memory_s.",
        ("std", "log_std"),
    ),
    Layout("1 and 2", "model_state_dict", "actor.", ("obs_norm_state_dict", ""), "memory_a.", ("std", "log_std")),
    Layout(
        "2, distilled", "model_state_dict", "student.", ("obs_norm_state_dict", ""), "memory_s.", ("std", "log_std")
    ),
)
"""The first whose layers and normaliser are there, else the first whose layers are: without a normaliser, versions 1
to 3 are alike."""


def is_checkpoint(content: Any) -> bool:
    """Whether torch.load gave a checkpoint of rsl_rl."""
    return isinstance(content, Mapping) and any(_has_layers(content, layout) for layout in LAYOUTS)


def _has_layers(content: Mapping[Any, Any], layout: Layout) -> bool:
    part = content.get(layout.part)
    return isinstance(part, Mapping) and f"{layout.layers}0.weight" in part


def _has_normaliser(content: Mapping[Any, Any], layout: Layout) -> bool:
    part, prefix = layout.normaliser
    return isinstance(content.get(part), Mapping) and f"{prefix}_mean" in content[part]


def read(content: Mapping[Any, Any], path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of a checkpoint.

    Raises ConfigError where `activation` was not stated, which the file does not say; FileFormatError,
    UnsupportedModelError.
    """
    possible = [each for each in LAYOUTS if _has_layers(content, each)]
    layout = next((each for each in possible if _has_normaliser(content, each)), possible[0])
    state = state_dict.tensors(content[layout.part], path, layout.part)
    if stated.activation is None:
        raise ConfigError(
            f"{path}, a checkpoint of rsl_rl, does not say its activation; name it: `activation` elu, rsl_rl's default "
            f"(see params/agent.yaml beside it), or {', '.join(name for name in ACTIVATIONS if name != 'elu')}"
        )
    if stated.normalizer not in (None, normalizers.NONE):
        raise ConfigError(f"{path}, a checkpoint of rsl_rl, has its own `normalizer`, or none; leave that out")
    *names, last = state_dict.linear_names(state, layout.layers, path)
    cells = f"{layout.recurrent}rnn."
    is_recurrent = any(name.startswith(cells) for name in state)
    first = f"{cells}weight_ih_l0" if is_recurrent else f"{[*names, last][0]}.weight"
    network = _normalised(content, layout, state_dict.tensor(state, first, (None, None), path), path)
    try:
        if is_recurrent:
            network.recurrent(state, cells, path)
        state_dict.perceptron(network, state, names, stated.activation, path)
        network.linear(state, last, path)
    except Unfit as error:
        raise UnsupportedModelError(f"{path} cannot become a policy: it {error}") from error
    _keep_means(network, state, layout)
    return network, f"rsl_rl {layout.versions}{', recurrent' if is_recurrent else ''}"


def _normalised(content: Mapping[Any, Any], layout: Layout, first: Array, path: Path) -> Network:
    """The network up to its first layer, whose weight is `first`."""
    network = Network(first.shape[1])
    if _has_normaliser(content, layout):
        part, prefix = layout.normaliser
        statistics = state_dict.tensors(content[part], path, part)
        shape = (1, network.signal.size)
        mean, deviation = (state_dict.tensor(statistics, prefix + name, shape, path)[0] for name in ("_mean", "_std"))
        if np.any(deviation + EPSILON <= 0):
            raise FileFormatError(f"{path} is not valid: {prefix}_std holds a negative number")
        network.normalised(mean, deviation + EPSILON)
    return network


def _keep_means(network: Network, state: StateDict, layout: Layout) -> None:
    """Drop the half that are deviations, where the network makes them too: no tensor holds them then."""
    if not any(name in state for name in layout.deviations) and network.signal.size % 2 == 0:
        network.chosen(np.arange(network.signal.size // 2))

"""Checkpoints of RLtools: `checkpoint.h5`, a tree of layers with their types and parameters, and an example beside it.

HDF5 is read by h5py in a process of its own. The example are observations and the actions that RLtools made of them:
the policy must give the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import CheckFailed, ConfigError, FileFormatError, UnsupportedModelError, quoted, reason, require
from edgerl.importers import bounded, normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.signal import Unfit
from edgerl.importers.state_dict import Network, StateDict
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import MAXIMUM_POSITIONS, Array

ACTIVATIONS: Mapping[str, ActivationName] = {
    "IDENTITY": "identity",
    "RELU": "relu",
    "TANH": "tanh",
    "SIGMOID": "sigmoid",
}
"""By RLtools's names. Its FAST_TANH is a rational approximation, and its GELU one by tanh."""

PARTS_OF_CELLS = {
    "weights_input": "weight_ih_l0",
    "weights_hidden": "weight_hh_l0",
    "biases_input": "bias_ih_l0",
    "biases_hidden": "bias_hh_l0",
}
"""The parameters of a GRU → PyTorch's names, of the same shapes, in the same order."""

TOLERANCE = 1e-4
"""Largest difference to the actions of the example, for which RLtools may have rounded otherwise."""

EXAMPLES = 1000
"""Steps of the example that are compared, and episodes."""

MAXIMUM_MEMBERS = 4096

MAXIMUM_NAME = 200


def read(data: bytes, path: Path, stated: Stated) -> tuple[Network, str]:
    """(the network, what kind of policy it is) of a checkpoint.

    Raises FileFormatError, UnsupportedModelError, ConfigError, MissingExtraError; CheckFailed where the policy does not
    act as the example does.
    """
    found = bounded.call("rl_tools:stored", path, data=data)
    groups = {str(name): (str(kind), str(activation)) for name, kind, activation in found.pop("groups")}
    tree = _Tree({name: values.astype(np.float64) for name, values in found.items()}, groups, path)
    if stated.activation is not None:
        raise ConfigError(f"{path}, a checkpoint of RLtools, says its own `activation`; leave that out")
    if tree.has("log_std") and not tree.has_kind("standardize") and stated.normalizer is None:
        raise ConfigError(
            f"{path} is a PPO of RLtools, which may normalise observations outside of what it saves; name the "
            "statistics: `normalizer` statistics.npz (with `mean` and `var`), or `normalizer` none"
        )
    _check_example(tree.network(None), tree)
    return tree.network(stated.normalizer), "RLtools"


@dataclass(frozen=True)
class _Tree:
    """What a file holds: arrays by their paths, and (type, activation) of each group."""

    arrays: StateDict
    groups: Mapping[str, tuple[str, str]]
    path: Path

    def has(self, name: str) -> bool:
        """Whether any group has this name."""
        return any(group.rpartition("/")[2] == name for group in self.groups)

    def has_kind(self, kind: str) -> bool:
        """Whether any group is of this type."""
        return any(each == kind for each, _ in self.groups.values())

    def network(self, normalizer: str | Path | None) -> Network:
        """The actor, with statistics from elsewhere. Raises FileFormatError, UnsupportedModelError."""
        layers = list(self._layers("actor"))
        first = next((name for each in layers for name in _first_parameters(each) if name in self.arrays), None)
        if first is None:
            raise FileFormatError(
                f"{self.path} is not valid: its actor holds no layer; expected a checkpoint of RLtools"
            )
        network = Network(self.arrays[first].shape[-1])
        normalizers.apply(normalizer, network)
        try:
            for layer in layers:
                self._add(network, layer)
        except Unfit as error:
            raise UnsupportedModelError(f"{self.path} cannot become a policy: it {error}") from error
        return network

    def _layers(self, group: str) -> Iterator[str]:
        """The groups of a chain's layers, in their order; the group itself where it is a layer."""
        kind = self.groups.get(group, ("", ""))[0]
        parts = "layers" if kind == "sequential" else "hidden_layers"
        if kind == "mlp":
            yield f"{group}/input_layer"
        index = 0
        while kind in ("sequential", "mlp") and f"{group}/{parts}/{index}" in self.groups:
            yield from self._layers(f"{group}/{parts}/{index}")
            index += 1
        if kind == "mlp":
            yield f"{group}/output_layer"
        elif kind != "sequential":
            yield group

    def _add(self, network: Network, layer: str) -> None:
        kind, activation = self.groups.get(layer, ("", ""))
        if kind == "dense":
            self._dense(network, layer, activation)
        elif kind == "gru":
            self._gru(network, layer)
        elif kind == "standardize":
            mean, precision = (self._row(f"{layer}/{part}", network.signal.size) for part in ("mean", "precision"))
            network.normalised(mean, 1 / np.where(precision == 0, 1, precision))
        elif kind == "sample_and_squash":
            network.chosen(np.arange(network.signal.size // 2))
            network.activated("tanh")
        elif kind or layer == "actor":  # what has no type is td3_sampling: noise, where it explores
            raise UnsupportedModelError(
                f"{self.path}: {layer} is {quoted(kind)}; expected dense, gru, standardize, sample_and_squash"
            )

    def _dense(self, network: Network, layer: str, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise UnsupportedModelError(
                f"{self.path}: {layer} has the activation {quoted(activation)}; expected {', '.join(ACTIVATIONS)}"
            )
        weight = state_dict.tensor(self.arrays, f"{layer}/weights/parameters", (None, None), self.path)
        bias = self._row(f"{layer}/biases", len(weight))
        network.linear({f"{layer}.weight": weight, f"{layer}.bias": bias}, layer, self.path)
        if activation != "IDENTITY":
            network.activated(ACTIVATIONS[activation])

    def _gru(self, network: Network, layer: str) -> None:
        state = {
            f"{layer}.{name}": self.arrays[key]
            for part, name in PARTS_OF_CELLS.items()
            if (key := f"{layer}/{part}/parameters") in self.arrays
        }
        if self._row(f"{layer}/initial_hidden_state", len(state.get(f"{layer}.bias_ih_l0", ())) // 3).any():
            raise UnsupportedModelError(f"{self.path}: {layer} begins with another state than zero")
        network.recurrent(state, f"{layer}.", self.path)

    def _row(self, group: str, size: int) -> Array:
        return state_dict.row(self.arrays, f"{group}/parameters", size, self.path)


def _first_parameters(layer: str) -> tuple[str, ...]:
    """Whose last dimension is the layer's inputs."""
    return tuple(f"{layer}/{part}/parameters" for part in ("weights", "weights_input", "mean"))


def _check_example(network: Network, tree: _Tree) -> None:
    """Raises CheckFailed; nothing where the file holds no example, which older ones do not."""
    given, expected = tree.arrays.get("example/input"), tree.arrays.get("example/output")
    if given is None or expected is None:
        return
    shapes = (*given.shape[:-1], network.signal.n_observations), (*given.shape[:-1], network.signal.size)
    if given.ndim not in (2, 3) or (given.shape, expected.shape) != shapes:
        raise FileFormatError(
            f"{tree.path} is not valid: its example has the shapes {list(given.shape)} and {list(expected.shape)}"
        )
    given, expected = given[:EXAMPLES], expected[:EXAMPLES]
    episodes = range(min(given.shape[1], EXAMPLES)) if given.ndim == 3 else [slice(None)]
    differences = [np.abs(network(given[:, each]) - expected[:, each]).max(initial=0) for each in episodes]
    if not max(differences, default=0) <= TOLERANCE:
        raise CheckFailed(
            f"{tree.path} was read wrongly, or is not what it seems: actions differ from its own example's by "
            f"{max(differences):.2g}; nothing was written"
        )


def stored(path: Path, data: bytes) -> dict[str, Array]:
    """In a process of its own: the arrays of the actor and of the example by path, and `groups` [count, 3] of the
    actor: path, type, activation."""
    h5py = require("h5py", "import")
    arrays: dict[str, Array] = {}
    groups: list[tuple[str, str, str]] = []

    def visit(name: str, found: Any) -> None:
        if len(arrays) + len(groups) >= MAXIMUM_MEMBERS or len(name) > MAXIMUM_NAME:
            raise UnsupportedModelError(f"{path} holds more than a checkpoint of RLtools")
        if isinstance(found, h5py.Dataset) and name.startswith(("actor/", "example/")):
            arrays[name] = _values(found, name, path)
        elif isinstance(found, h5py.Group) and name.partition("/")[0] == "actor":
            kind, activation = (str(found.attrs.get(key, ""))[:40] for key in ("type", "activation_function"))
            groups.append((name, kind, activation))

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)  # follows no link to another file
    except UnsupportedModelError:
        raise
    except Exception as error:  # HDF5's
        raise FileFormatError(f"{path} is not an HDF5 file, or is damaged ({reason(error)})") from error
    if not groups:
        raise UnsupportedModelError(f"{path} is an HDF5 file without an actor; expected a checkpoint of RLtools")
    return {**arrays, "groups": np.array(groups)}


def _values(dataset: Any, name: str, path: Path) -> Array:
    """Raises UnsupportedModelError."""
    is_elsewhere = dataset.external is not None or dataset.is_virtual
    if is_elsewhere or dataset.dtype.kind != "f" or math.prod(dataset.shape or ()) > MAXIMUM_POSITIONS:
        raise UnsupportedModelError(
            f"{path}: {quoted(name, 60)} is {dataset.dtype} of the shape {list(dataset.shape or ())}"
            f"{', in another file' if is_elsewhere else ''}; expected the numbers of a policy"
        )
    values: Array = dataset[()].astype(np.float64)
    return values

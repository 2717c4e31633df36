"""PyTorch files: tensors by name, read without any pickle being trusted, and the perceptrons among them."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import FileFormatError, UnsupportedModelError, quoted, reason, require
from edgerl.importers.signal import Signal
from edgerl.policy.activation import ActivationName
from edgerl.policy.cell import CellName, joined_weights
from edgerl.policy.compact import MAXIMUM_UNITS, Array
from edgerl.policy.format import MAXIMUM_NETWORK_POSITIONS

StateDict = Mapping[str, Array]

CELL_OF_ROWS: Mapping[float, CellName] = {3: "gru", 4: "lstm"}
"""By the rows that PyTorch's matrices have for a unit."""

MAXIMUM_BYTES = 1 << 28
"""Of a file with weights, optimisers included."""


def load(data: bytes, path: Path) -> Any:
    """What torch.save wrote, plain data and tensors only.

    Raises FileFormatError where it is broken, UnsupportedModelError where it holds anything that would have to be
    executed, and MissingExtraError without torch.
    """
    torch = require("torch", "train")
    _check_unpacked(data, path)
    try:
        with warnings.catch_warnings():  # of what it then refuses
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, torch's and zip's errors have no common base
        if "weights_only" in str(error) or "Unsupported" in str(error):
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({found[1]})" if found else ""
            raise UnsupportedModelError(
                f"{path} holds more than tensors{what}, which loading would execute; save a state_dict()"
            ) from error
        raise FileFormatError(f"{path} is not a PyTorch file, or is truncated ({reason(error)})") from error


def _check_unpacked(data: bytes, path: Path) -> None:
    """Raise UnsupportedModelError where an archive becomes too large: PyTorch would unpack whatever it holds."""
    try:
        n_bytes = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # PyTorch says what it is
        return
    if n_bytes > MAXIMUM_BYTES:
        raise UnsupportedModelError(f"{path} unpacks to {n_bytes} bytes; expected at most {MAXIMUM_BYTES}")


def tensors(state: Any, path: Path, name: str = "its state_dict") -> StateDict:
    """The tensors of a state dict as float64 arrays. Raises FileFormatError, UnsupportedModelError."""
    if not isinstance(state, Mapping):
        raise FileFormatError(f"{path} is not valid: {name} is {type(state).__name__}; expected tensors by name")
    real = {key: value for key, value in state.items() if hasattr(value, "detach") and value.is_floating_point()}
    count = sum(value.numel() for value in real.values())  # which no storage must have: a stride can be 0
    if count > MAXIMUM_NETWORK_POSITIONS:
        raise UnsupportedModelError(f"{path} has {count} numbers in {name}; expected a policy's")
    try:
        return {str(key): value.detach().to_dense().double().numpy() for key, value in real.items()}
    except Exception as error:  # of tensors that are quantised, on no device, …
        raise UnsupportedModelError(f"{path} has tensors in {name} that hold no numbers ({reason(error)})") from error


def tensor(state: StateDict, name: str, shape: tuple[int | None, ...], path: Path) -> Array:
    """One of them, finite and of `shape` (None: any size). Raises FileFormatError."""
    if name not in state:
        raise FileFormatError(f"{path} is not valid: the tensor {name!r} is missing")
    found = state[name]
    if found.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise FileFormatError(f"{path} is not valid: {name} has the shape {list(found.shape)}; expected [{expected}]")
    if max(found.shape, default=1) > MAXIMUM_UNITS:
        raise UnsupportedModelError(
            f"{path}: {name} has the shape {list(found.shape)}; expected at most {MAXIMUM_UNITS}"
        )
    if not np.isfinite(found).all():
        raise FileFormatError(f"{path} is not valid: {name} holds a number that is not finite")
    return found


def row(state: StateDict, name: str, size: int, path: Path) -> Array:
    """A tensor of `size` numbers, or of one for all of them, in any shape. Raises FileFormatError."""
    if name not in state or state[name].size not in (1, size) or not np.isfinite(state[name]).all():
        raise FileFormatError(f"{path} is not valid: {name} is missing, or not {size} finite numbers")
    return np.broadcast_to(state[name].reshape(-1), size)


def linear_names(state: StateDict, prefix: str, path: Path, *, may_be_none: bool = False) -> list[str]:
    """The affine layers named `prefix` and a number, in their order: those of a Sequential.

    Raises FileFormatError; UnsupportedModelError where the numbers show that between two of them there is not one
    module, the activation, or that there are other tensors: what these mean is unknown, and would be passed over.
    """
    own = [name for name in state if name.startswith(prefix)]
    matches = [re.fullmatch(r"([0-9]{1,4})\.(?:weight|bias)", name.removeprefix(prefix)) for name in own]
    odd = next((name for name, found in zip(own, matches, strict=True) if not found), None)
    numbers = sorted({int(found[1]) for found in matches if found})
    if odd is not None or numbers != list(range(0, 2 * len(numbers), 2)):
        what = f"the tensor {quoted(odd, 60)}" if odd is not None else f"layers {prefix}{{{str(numbers)[1:-1][:40]}}}"
        raise UnsupportedModelError(
            f"{path} has {what}; expected affine layers {prefix}0, {prefix}2, … with an activation between them"
        )
    if not numbers and not may_be_none:
        raise FileFormatError(f"{path} is not valid: the tensor '{prefix}0.weight' is missing")
    return [f"{prefix}{number}" for number in numbers]


class Network:
    """A network under construction: as a signal, and as the steps that PyTorch takes, to compare the two."""

    def __init__(self, n_observations: int) -> None:
        self.signal = Signal.observation(n_observations)
        self._steps: list[Callable[[Any], Any]] = []

    def linear(self, state: StateDict, name: str, path: Path) -> None:
        """The layer `name`.weight and `name`.bias. Raises FileFormatError, UnsupportedModelError."""
        weight = tensor(state, f"{name}.weight", (None, self.signal.size), path)
        bias = tensor(state, f"{name}.bias", (len(weight),), path) if f"{name}.bias" in state else np.zeros(len(weight))
        self.signal = self.signal.linear(weight, bias)
        self._steps.append(lambda x: _functional().linear(x, _float32(weight), _float32(bias)))

    def recurrent(self, state: StateDict, prefix: str, path: Path) -> None:
        """The cells of a GRU or an LSTM of PyTorch: `prefix`weight_ih_l0 and so on, one after the other.

        Raises FileFormatError, UnsupportedModelError.
        """
        surplus = (name for name in state if name.startswith(prefix) and name.endswith(("_reverse", "_hr_l0")))
        if (found := next(surplus, None)) is not None:
            raise UnsupportedModelError(f"{path} has {quoted(found)}: expected cells of one direction, not projected")
        index = 0
        while index == 0 or f"{prefix}weight_ih_l{index}" in state:
            self._cell(state, prefix, index, path)
            index += 1

    def _cell(self, state: StateDict, prefix: str, index: int, path: Path) -> None:
        n_rows, units = tensor(state, f"{prefix}weight_hh_l{index}", (None, None), path).shape
        name = CELL_OF_ROWS.get(n_rows / units)
        if name is None:
            raise UnsupportedModelError(
                f"{path}: {prefix}weight_hh_l{index} has {n_rows} rows for {units} units; expected 3 (GRU) or 4 (LSTM) "
                "for each"
            )
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (n_rows, self.signal.size), "weight_hh": (n_rows, units)}
        shapes |= {"bias_ih": (n_rows,), "bias_hh": (n_rows,)}
        parts = {part: tensor(state, f"{prefix}{part}_l{index}", shape, path) for part, shape in shapes.items()}
        module = getattr(require("torch", "train").nn, name.upper())(self.signal.size, units).requires_grad_(False)
        module.load_state_dict({f"{part}_l0": _float32(values) for part, values in parts.items()})
        self.signal = self.signal.cell(name, *joined_weights(name, *parts.values()))
        self._steps.append(lambda x: module(x)[0])

    def activated(self, activation: ActivationName) -> None:
        """An activation. Raises Unfit."""
        self.signal = self.signal.activated(activation)
        if activation != "identity":
            self._steps.append(lambda x: getattr(_functional(), activation)(x))

    def scaled(self, factor: Array, term: Array) -> None:
        """factor · x + term."""
        self.signal = self.signal.times(factor).plus(term)
        self._steps.append(lambda x: x * _float32(factor) + _float32(term))

    def normalised(self, mean: Array, deviation: Array) -> None:
        """(x − mean) / deviation."""
        self.signal = self.signal.plus(-mean).times(1 / deviation)
        self._steps.append(lambda x: (x - _float32(mean)) / _float32(deviation))

    def clipped(self, low: Array | float, high: Array | float) -> None:
        """At least `low`, at most `high`. Raises Unfit."""
        self.signal = self.signal.clipped(low, high)
        self._steps.append(lambda x: x.clamp(*(_float32(np.asarray(bound)) for bound in (low, high))))

    def chosen(self, rows: Array) -> None:
        """These numbers only."""
        self.signal = self.signal.chosen(rows)
        self._steps.append(lambda x: x[..., rows])

    def __call__(self, observations: Array) -> Array:
        """What PyTorch computes in float32 of observations [count, n], steps of an episode: actions [count, m]."""
        x = _float32(observations)
        for step in self._steps:
            x = step(x)
        actions: Array = x.numpy()
        return actions


def perceptron(network: Network, state: StateDict, names: list[str], activation: ActivationName, path: Path) -> None:
    """Affine layers with an activation behind each."""
    for name in names:
        network.linear(state, name, path)
        network.activated(activation)


def _functional() -> Any:
    return require("torch", "train").nn.functional


def _float32(values: Array) -> Any:
    return require("torch", "train").from_numpy(np.asarray(values, np.float32))

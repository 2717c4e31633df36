"""policy.safetensors: the one writer, the one reader and the one validator of the compact form (docs/format.md)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgerl import run_folder
from edgerl.errors import FileFormatError, quoted
from edgerl.files.atomic import read_bytes, write_atomically
from edgerl.files.tensors import Tensors, pack_tensors, unpack_tensors
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.cell import CELLS, GATES, surplus_weights
from edgerl.policy.compact import (
    MAXIMUM_POSITIONS,
    MAXIMUM_UNITS,
    PRECISIONS,
    Array,
    CompactPolicy,
    Head,
    Layer,
    LayerNorm,
    Outliers,
    observation_dtype,
)
from edgerl.policy.contract import Contract, check_sizes, from_dict

KIND = "policy"
VERSION = 1
VERSION_WITH_OFFSET = 2
"""Of a file with an observation offset, which programs without offsets must refuse."""
VERSION_WITH_PARTS = 3
"""Of a file that names activations, norms, head and clip, since they are not ReLU, none, tanh and none."""
VERSION_WITH_OUTLIERS = 4
"""Of a file that says that, too, and of each layer how many outliers it has; a layer may be int4."""
VERSIONS = (VERSION, VERSION_WITH_OFFSET, VERSION_WITH_PARTS, VERSION_WITH_OUTLIERS)
LARGEST_OFFSET = float(1 << 53)
"""Up to it float64 has every whole number."""
MAXIMUM_LAYERS = 64
MAXIMUM_NETWORK_POSITIONS = 1 << 26
"""The same over all layers."""
BLOCKS = (1, 4)
LARGEST_INT4 = 7
LAYER_KEYS = ("inputs", "outputs", "block", "layout", "precision")
PART_KEYS = ("activation", "norm_epsilon")
"""Of a hidden layer, from version 3 on."""


def to_bytes(policy: CompactPolicy) -> bytes:
    """The content of a policy.safetensors; the same policy gives the same bytes."""
    tensors: Tensors = {
        "action.low": policy.action_low,
        "action.high": policy.action_high,
        "example.observation": policy.example_observation,
        "example.action": policy.example_action,
    }
    if policy.observation_mean is not None and policy.observation_scale is not None:
        tensors |= {"observation.mean": policy.observation_mean, "observation.scale": policy.observation_scale}
    if policy.observation_offset is not None:
        tensors["observation.offset"] = policy.observation_offset
    for index, layer in enumerate(policy.layers):
        parts = {
            "values": packed(layer.values) if layer.is_int4 else layer.values,
            "bias": layer.bias,
            "columns": layer.columns,
            "row_starts": layer.row_starts,
            "scale": layer.scale,
        }
        tensors |= {f"layers.{index}.{name}": part for name, part in parts.items() if part is not None}
    version, layers = version_of(policy), [_described(layer) for layer in policy.layers]
    metadata: dict[str, Any] = {"layers": layers, "about": dict(policy.metadata)}
    if policy.contract:
        metadata["contract"] = policy.contract.as_dict()
    if version >= VERSION_WITH_PARTS:
        metadata |= {"head": policy.head, "observation_clip": policy.observation_clip}
        for index, layer in enumerate(policy.layers[:-1]):
            layers[index] |= {"activation": layer.activation, "norm_epsilon": None}
            if layer.norm is not None:
                layers[index]["norm_epsilon"] = layer.norm.epsilon
                tensors[f"layers.{index}.norm_scale"] = layer.norm.scale
                tensors[f"layers.{index}.norm_shift"] = layer.norm.shift
    if version == VERSION_WITH_OUTLIERS:
        for index, layer in enumerate(policy.layers):
            layers[index]["outliers"] = 0 if layer.outliers is None else len(layer.outliers.values)
            if layer.outliers is not None:
                tensors |= {
                    f"layers.{index}.outlier_values": layer.outliers.values,
                    f"layers.{index}.outlier_columns": layer.outliers.columns,
                    f"layers.{index}.outlier_row_starts": layer.outliers.row_starts,
                }
    return pack_tensors(KIND, version, metadata, tensors)


def packed(values: Array) -> Array:
    """Whole numbers of four bits, two in a byte, the first in the lower half: uint8 [⌈size / 2⌉]."""
    halves = np.zeros(values.size + values.size % 2, np.uint8)
    halves[: values.size] = values.ravel().view(np.uint8) & 15
    result: Array = halves[::2] | halves[1::2] << 4
    return result


def unpacked(data: Array, shape: tuple[int, ...]) -> Array:
    """The other way round: int8 [shape]."""
    halves = np.stack([data & 15, data >> 4], axis=-1).ravel()[: math.prod(shape)]
    values: Array = ((halves ^ 8).astype(np.int8) - 8).reshape(shape)
    return values


def _described(layer: Layer) -> dict[str, Any]:
    return {
        "inputs": layer.n_inputs,
        "outputs": layer.n_outputs,
        "block": layer.block,
        "layout": "sparse" if layer.is_sparse else "dense",
        "precision": layer.precision,
    }


def version_of(policy: CompactPolicy) -> int:
    """The version of the format that `policy` needs."""
    if any(layer.outliers is not None or layer.is_int4 for layer in policy.layers):
        return VERSION_WITH_OUTLIERS
    is_plain = all(layer.activation == "relu" and layer.norm is None for layer in policy.layers[:-1])
    if not is_plain or policy.head != "tanh" or policy.observation_clip is not None:
        return VERSION_WITH_PARTS
    return VERSION if policy.observation_offset is None else VERSION_WITH_OFFSET


def is_offset(values: Array) -> bool:
    """Whether all are whole numbers of at most LARGEST_OFFSET."""
    return bool(np.all((np.abs(values) <= LARGEST_OFFSET) & (values == np.rint(values))))


def save(policy: CompactPolicy, path: Path, *, force: bool = True) -> None:
    """Write `policy` to `path` atomically, as `edgerl.files.atomic.write_atomically` does."""
    write_atomically(path, to_bytes(policy), force=force)


def load(path: str | Path) -> CompactPolicy:
    """Read a policy.safetensors, or the one in a run folder.

    Raises FileFormatError, saying what is wrong, unless the file is entirely valid; nothing in it is trusted.
    """
    path = Path(path)
    if path.is_dir():
        path = path / run_folder.POLICY
    return from_bytes(read_bytes(path), path)


def from_bytes(data: bytes, source: Path) -> CompactPolicy:
    """The policy in the bytes of a policy.safetensors; `source` names them in messages. Raises FileFormatError."""
    metadata, tensors = unpack_tensors(data, source, KIND, VERSIONS)
    return _Reader(source, tensors).policy(metadata)


class _Reader:
    """Reads tensors one by one, checking each; what remains at the end does not belong in the file."""

    def __init__(self, source: Path, tensors: Tensors) -> None:
        self.source = source
        self.tensors = tensors

    def fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.source} is not valid: {what}; make the file again")

    def tensor(
        self, name: str, dtype: type[np.generic], shape: tuple[int, ...], *, may_be_infinite: bool = False
    ) -> Array:
        if name not in self.tensors:
            raise self.fail(f"tensor {name} is missing")
        tensor = self.tensors.pop(name)
        if tensor.dtype != dtype or tensor.shape != shape:
            raise self.fail(f"{name} is {tensor.dtype}{list(tensor.shape)}, expected {np.dtype(dtype)}{list(shape)}")
        if tensor.dtype.kind == "f" and np.any(np.isnan(tensor) if may_be_infinite else ~np.isfinite(tensor)):
            raise self.fail(f"{name} holds a value that is not {'a number' if may_be_infinite else 'finite'}")
        return tensor

    def vector(self, name: str, dtype: type[np.generic]) -> Array:
        length = len(self.tensors[name]) if name in self.tensors and self.tensors[name].ndim else 0
        return self.tensor(name, dtype, (length,))

    def policy(self, metadata: dict[str, Any]) -> CompactPolicy:
        described = metadata.get("layers")
        if not isinstance(described, list) or not 1 <= len(described) <= MAXIMUM_LAYERS:
            raise self.fail(f"its layers are not a list of 1 to {MAXIMUM_LAYERS}")
        has_parts = metadata["version"] >= VERSION_WITH_PARTS
        has_outliers = metadata["version"] == VERSION_WITH_OUTLIERS
        layers = tuple(
            self.layer(index, entry, has_parts=has_parts and index + 1 < len(described), has_outliers=has_outliers)
            for index, entry in enumerate(described)
        )
        for index, (before, after) in enumerate(pairwise(layers)):
            if before.units != after.n_fed:
                raise self.fail(f"layer {index} has {before.units} outputs, the next {after.n_fed} inputs")
        if sum(layer.n_inputs * layer.n_outputs for layer in layers) > MAXIMUM_NETWORK_POSITIONS:
            raise self.fail(f"its layers have more than {MAXIMUM_NETWORK_POSITIONS} positions")
        n, m = layers[0].n_fed, layers[-1].n_outputs
        head, clip = self.parts(metadata) if has_parts else ("tanh", None)
        bounds = (f"action.{which}" for which in ("low", "high"))
        low, high = (self.tensor(name, np.float32, (m,), may_be_infinite=head == "clip") for name in bounds)
        if not np.all(low < high):
            raise self.fail("an action bound's low is not below its high")
        mean = scale = None
        if "observation.mean" in self.tensors or "observation.scale" in self.tensors:
            mean = self.tensor("observation.mean", np.float32, (n,))
            scale = self.tensor("observation.scale", np.float32, (n,))
        may_have_offset = has_parts and "observation.offset" in self.tensors
        offset = self.offset(n) if metadata["version"] == VERSION_WITH_OFFSET or may_have_offset else None
        example = self.tensor("example.observation", observation_dtype(offset), (n,))
        action = self.tensor("example.action", np.float32, (m,))
        about = metadata.get("about")
        if not isinstance(about, dict):
            raise self.fail("its metadata 'about' is not a JSON object")
        if self.tensors:
            raise self.fail(f"tensor {min(self.tensors)[:40]!r} does not belong in a policy")
        contract = self.contract(metadata.get("contract", {}), n, m)
        if contract.observation_terms_size and offset is not None:
            raise self.fail("it has observation terms beside an observation offset")
        return CompactPolicy(layers, low, high, mean, scale, example, action, about, offset, clip, head, contract)

    def contract(self, stated: Any, n_observations: int, n_actions: int) -> Contract:
        try:
            contract = from_dict(stated)
            check_sizes(contract, n_observations, n_actions)
            return contract
        except ValueError as error:
            raise self.fail(f"it has {error}") from error

    def parts(self, metadata: dict[str, Any]) -> tuple[Head, float | None]:
        """The head, and where normalised observations are clipped."""
        head: Any = metadata.get("head")
        clip: Any = metadata.get("observation_clip")
        if head not in get_args(Head):
            raise self.fail(f"its head is {quoted(head, 20)}, expected {' or '.join(get_args(Head))}")
        if clip is not None and not self.is_positive(clip):
            raise self.fail(f"its observation clip is {quoted(clip, 20)}, expected a number above 0, or null")
        return head, clip

    def is_positive(self, value: Any) -> bool:
        """Whether it is a number above 0 that float32 holds."""
        return type(value) is float and 1e-30 <= value <= 1e30

    def offset(self, n: int) -> Array:
        offset = self.tensor("observation.offset", np.float64, (n,))
        if not is_offset(offset):
            raise self.fail(f"observation.offset holds a number that is not whole or beyond ±{LARGEST_OFFSET:g}")
        return offset

    def layer(self, index: int, entry: Any, *, has_parts: bool, has_outliers: bool) -> Layer:
        """has_parts: a hidden layer from version 3 on; has_outliers: a layer of version 4."""
        keys = (*LAYER_KEYS, *(PART_KEYS if has_parts else ()), *(("outliers",) if has_outliers else ()))
        if not isinstance(entry, dict) or set(entry) != set(keys):
            raise self.fail(f"layer {index} is not described by {', '.join(keys)}")
        n_inputs, n_outputs, block, layout, precision = (entry[key] for key in LAYER_KEYS)
        for name, count in (("inputs", n_inputs), ("outputs", n_outputs)):
            if type(count) is not int or not 1 <= count <= MAXIMUM_UNITS:
                raise self.fail(f"layer {index} has {quoted(count, 20)} {name}, expected 1 to {MAXIMUM_UNITS}")
        if n_inputs * n_outputs > MAXIMUM_POSITIONS:
            raise self.fail(
                f"layer {index} is {n_outputs} × {n_inputs}, expected at most {MAXIMUM_POSITIONS} positions"
            )
        if type(block) is not int or block not in BLOCKS or layout not in ("dense", "sparse"):
            raise self.fail(f"layer {index} has block {quoted(block, 20)} and layout {quoted(layout, 20)}")
        known = (*PRECISIONS, "int4") if has_outliers else tuple(PRECISIONS)
        if not isinstance(precision, str) or precision not in known:
            raise self.fail(f"layer {index} has precision {quoted(precision, 20)}, expected {', '.join(known)}")
        name = f"layers.{index}."
        columns = row_starts = None
        if layout == "dense":
            values = self.values(index, precision, (n_outputs, n_inputs))
        else:
            columns = self.vector(name + "columns", np.uint16)
            values = self.values(index, precision, (len(columns), block))
            row_starts = self.tensor(name + "row_starts", np.uint32, (-(-n_outputs // block) + 1,))
            self.check_index(index, n_inputs, columns, row_starts)
            self.check_padding(index, n_outputs, block, values, row_starts)
        scale = self.tensor(name + "scale", np.float32, (n_outputs,)) if precision in ("int8", "int4") else None
        bias = self.tensor(name + "bias", np.float32, (n_outputs,))
        layer = Layer(n_inputs, n_outputs, block, values, bias, columns, row_starts, scale, is_int4=precision == "int4")
        if has_outliers:
            layer = self.with_outliers(index, layer, entry["outliers"])
        return self.with_parts(index, layer, entry) if has_parts else layer

    def values(self, index: int, precision: str, shape: tuple[int, ...]) -> Array:
        name = f"layers.{index}.values"
        if precision != "int4":
            return self.tensor(name, next(kind for known, kind in PRECISIONS.items() if known == precision), shape)
        size = math.prod(shape)
        data = self.tensor(name, np.uint8, (-(-size // 2),))
        values = unpacked(data, shape)
        if np.any(values < -LARGEST_INT4) or (size % 2 and data[-1] >> 4):
            raise self.fail(f"{name} holds a value below -{LARGEST_INT4}, or one too many")
        return values

    def with_outliers(self, index: int, layer: Layer, count: Any) -> Layer:
        if type(count) is not int or not 0 <= count <= layer.n_inputs * layer.n_outputs:
            raise self.fail(
                f"layer {index} has {quoted(count, 20)} outliers, expected a whole number, one a weight at most"
            )
        if count == 0:
            return layer
        if layer.scale is None:
            raise self.fail(f"layer {index} has outliers beside {layer.precision} weights, expected int8 or int4")
        name = f"layers.{index}.outlier_"
        values, columns = (
            self.tensor(name + "values", np.float32, (count,)),
            self.tensor(name + "columns", np.uint16, (count,)),
        )
        row_starts = self.tensor(name + "row_starts", np.uint32, (layer.n_outputs + 1,))
        self.check_index(index, layer.n_inputs, columns, row_starts)
        outliers = Outliers(values, columns, row_starts)
        if np.any(layer.stored_matrix()[outliers.rows, columns]):
            raise self.fail(f"layer {index} has an outlier where it has another weight, expected none")
        return replace(layer, outliers=outliers)

    def with_parts(self, index: int, layer: Layer, entry: dict[str, Any]) -> Layer:
        """The layer with its norm and its activation."""
        named, epsilon = entry["activation"], entry["norm_epsilon"]
        if not isinstance(named, str) or named not in (*ACTIVATIONS, *CELLS):
            known = ", ".join((*ACTIVATIONS, *CELLS))
            raise self.fail(f"layer {index} has activation {quoted(named, 20)}, expected {known}")
        if named in CELLS:
            return self.as_cell(index, replace(layer, activation=CELLS[named].name), epsilon)
        activation = ACTIVATIONS[named]
        if epsilon is None:
            return replace(layer, activation=activation.name)
        if not self.is_positive(epsilon):
            raise self.fail(f"layer {index} has a norm with epsilon {quoted(epsilon, 20)}, expected a number above 0")
        scale, shift = (
            self.tensor(f"layers.{index}.norm_{name}", np.float32, (layer.n_outputs,)) for name in ("scale", "shift")
        )
        return replace(layer, activation=activation.name, norm=LayerNorm(scale, shift, epsilon))

    def as_cell(self, index: int, layer: Layer, epsilon: Any) -> Layer:
        """The layer, whose activation is that of a cell."""
        if layer.n_outputs % GATES or layer.n_fed < 1 or epsilon is not None or layer.outliers or layer.is_int4:
            raise self.fail(
                f"layer {index}, of {layer.n_inputs} inputs and {layer.n_outputs} outputs, is no {layer.activation}: "
                "expected outputs for four gates, more inputs than units, no norm, no outliers and no int4"
            )
        if layer.activation == "gru" and np.any(surplus_weights(layer.stored_matrix())):
            raise self.fail(f"layer {index}, a gru, has weights where it must have none")
        return layer

    def check_index(self, index: int, n_inputs: int, columns: Array, row_starts: Array) -> None:
        starts = row_starts.astype(np.int64)
        if starts[0] != 0 or starts[-1] != len(columns) or np.any(np.diff(starts) < 0):
            raise self.fail(f"the row starts of layer {index} do not rise from 0 to its {len(columns)} blocks")
        if len(columns) and int(columns.max()) >= n_inputs:
            raise self.fail(f"layer {index} has a connection from input {columns.max()}, expected below {n_inputs}")
        first_of_row = np.zeros(len(columns) + 1, bool)
        first_of_row[starts] = True
        if np.any((np.diff(columns.astype(np.int64)) <= 0) & ~first_of_row[1:-1]):
            raise self.fail(f"the columns of layer {index} are not strictly increasing in each row")

    def check_padding(self, index: int, n_outputs: int, block: int, values: Array, row_starts: Array) -> None:
        width = n_outputs % block
        if width and np.any(values[int(row_starts[-2]) :, width:]):
            raise self.fail(f"layer {index} has weights beyond its {n_outputs} outputs")

"""ONNX files as policies: each node of the graph is a step on one value, and constants are folded beside it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError, quoted, reason, require
from edgerl.importers import onnx_file
from edgerl.importers.options import Stated
from edgerl.importers.signal import Signal, Unfit
from edgerl.policy.activation import LEAKY_SLOPE
from edgerl.policy.cell import CellName, joined_weights
from edgerl.policy.compact import MAXIMUM_POSITIONS, MAXIMUM_UNITS, Array, LayerNorm
from edgerl.policy.contract import UNKNOWN, Contract, of_onnx

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OLDEST_OPSET = 9
"""Older ones broadcast by attributes."""

MAXIMUM_NUMBERS = 1 << 27
"""In all that the nodes make together, constants and matrices: several times what the largest policy has."""

ACTION_OUTPUTS = ("actions", "action", "continuous_actions")
"""The output that is the action, where a graph has several."""

FOLDED = frozenset(
    {"Add", "Concat", "Div", "Mul", "Neg", "Reciprocal", "Sqrt", "Sub"}
    | {"Cast", "DequantizeLinear", "Gather", "Identity", "Reshape", "ScatterElements", "Slice", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that are computed where all their inputs are constants."""


@dataclass(frozen=True)
class Gate:
    """factor · (sigmoid(x) or 1 + erf(x / √2)) of a layer's sums x: SiLU or GELU, once it multiplies them."""

    function: str  # "silu" or "gelu", which it is a part of
    of: Signal
    term: float  # that was added: 1 of GELU, once it is there
    factor: float

    def times_sums(self, sums: Signal) -> Signal:
        """Times the sums, or a multiple of them."""
        ratio = _ratio(sums, self.of)
        if self.function == "silu" and self.term == 0:
            return self.of.activated("silu").times(self.factor * ratio)
        if self.function == "gelu" and self.term == 1:
            return self.of.activated("gelu").times(2 * self.factor * ratio)
        raise Unfit("multiplies two computed values")

    def alone(self) -> Signal:
        """As an activation of its own."""
        if self.function == "silu" and self.term == 0:
            return self.of.activated("sigmoid").times(self.factor)
        raise Unfit("is a part of no activation that is known")


def _ratio(first: Signal, second: Signal) -> float:
    """first / second, where they are the same function but for a number."""
    if first.has_vector_of(second) and first.is_sums and second.is_sums and first.bounds is second.bounds is None:
        one, other = _last_numbers(first), _last_numbers(second)
        if _have_same_norm(first, second) and one.shape == other.shape and other.any():
            place = np.unravel_index(np.argmax(np.abs(other)), other.shape)
            ratio = float(one[place] / other[place])
            if np.allclose(one, ratio * other, rtol=1e-5, atol=1e-7 * np.abs(one).max()):
                return ratio
    raise Unfit("multiplies two computed values")


def _have_same_norm(first: Signal, second: Signal) -> bool:
    """Whether the same is normalised, if anything is; scale and shift aside."""
    if first.norm is None or second.norm is None:
        return first.norm is second.norm
    return first.affine is second.affine and first.norm.epsilon == second.norm.epsilon


def _last_numbers(signal: Signal) -> Array:
    """Those that its values are proportional to: of its norm, or of its matrix."""
    if signal.norm is not None:
        return np.column_stack([signal.norm.scale, signal.norm.shift])
    return np.column_stack([signal.affine.weights(signal.inputs), signal.affine.bias])


@dataclass(frozen=True)
class Statistic:
    """A step of LayerNorm in parts, of a layer's sums: mean, centred, squares, variance, deviation."""

    step: str
    of: Signal
    epsilon: float = 0.0

    def next(self, step: str, after: str, epsilon: float = 0.0) -> Statistic:
        """The step behind it, which must stand behind `after`."""
        if self.step != after:
            raise Unfit(f"makes {step} of {self.step}")
        return Statistic(step, self.of, self.epsilon + epsilon)

    def over(self, deviation: Statistic) -> Signal:
        """The normed sums."""
        if self.step != "centred" or deviation.step != "deviation" or self.of is not deviation.of:
            raise Unfit("divides by something else than a deviation")
        ones = np.ones(self.of.size)
        return self.of.normed(LayerNorm(ones, 0 * ones, deviation.epsilon))


@dataclass(frozen=True)
class Memory:
    """The state of recurrent cells, all of it or a part: an input beside the observation, or what a cell makes of it.

    Which part is which cell's is not followed; the comparison with the original finds another order.
    """


Value = Array | Signal | Gate | Statistic | Memory


class Model:
    """The action of an ONNX file, and what onnxruntime makes of an observation."""

    def __init__(
        self,
        action: Signal,
        data: bytes,
        names: tuple[str, str],
        states: Mapping[str, str],
        path: Path,
        contract: Contract = UNKNOWN,
    ) -> None:
        """names: of the observation and of the action; states: input → output, of each part of the state."""
        self.action, self.contract = action, contract
        self._data, self._names, self._states, self._path = data, names, states, path

    def __call__(self, observations: Array) -> Array:
        """Actions [count, m] for observations [count, n], one by one: a batch may be fixed to 1. With a state they are
        the steps of an episode."""
        onnxruntime = require("onnxruntime", "export")
        observation, action = self._names
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is in its errors; warnings would be printed as they are
        rows = []
        try:
            providers = ["CPUExecutionProvider"]
            session = onnxruntime.InferenceSession(self._data, options, providers=providers, enable_fallback=False)
            state = {each.name: _zeros(each.shape) for each in session.get_inputs() if each.name in self._states}
            for row in observations:
                acted, *after = session.run([action, *self._states.values()], {observation: row[None], **state})
                state = dict(zip(self._states, after, strict=True))
                rows.append(acted.reshape(-1))
        except Exception as error:  # onnxruntime has no common base for its own
            raise FileFormatError(f"{self._path} cannot be run by onnxruntime ({reason(error)})") from error
        return np.stack(rows)


def _zeros(shape: Sequence[int | str | None]) -> Array:
    """A state at an episode's begin: sizes that a file leaves open are 1."""
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    if math.prod(sizes) > MAXIMUM_UNITS:
        raise ValueError(f"a state of {math.prod(sizes)} numbers")
    return np.zeros(sizes, np.float32)


def read(data: bytes, path: Path, stated: Stated) -> Model:
    """The action that an ONNX file computes of its observation.

    Raises FileFormatError where the file is broken, UnsupportedModelError, naming the node, where a policy cannot hold
    it, and MissingExtraError without onnx.
    """
    model = onnx_file.parse(data, path)
    if stated.external_data:
        take_external_data(model, path)
    opset, graph = _opset(model, path), model.graph
    constants = onnx_file.initializers(graph, path)
    states = _states_of(graph, constants)
    name, width = onnx_file.only_input(graph, {*constants, *states}, path)
    if width is None:
        raise UnsupportedModelError(f"{path} does not say how many numbers its observation has; export it with a size")
    _check_rank(graph, name, path)
    output = _output([each.name for each in graph.output if each.name not in states.values()], path)
    values: dict[str, Value] = {key: _dense(constant, path) for key, constant in constants.items()}
    values |= dict.fromkeys(states, Memory())
    values[name] = Signal.observation(width)
    reader, needed = _Reader(path, values, opset), _needed(graph.node, [output])
    for node in needed:
        reader.step(node)
    action = values.get(output)
    if isinstance(action, Gate):
        try:
            action = action.alone()
        except Unfit as error:
            raise UnsupportedModelError(f"{path} cannot become a policy: its output {error}") from error
    if not isinstance(action, Signal):
        raise UnsupportedModelError(f"{path} has an output {quoted(output)} that its observation does not change")
    part = _read_part(model, {output, *states.values()})
    contract = of_onnx({entry.key: entry.value for entry in model.metadata_props}, path)
    return Model(action, part, (name, output), states, path, contract)


def _opset(model: ModelProto, path: Path) -> int:
    """The version of its operators. Raises UnsupportedModelError where they may mean something else than here."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise UnsupportedModelError(f"{path} has opset {opset}; expected {OLDEST_OPSET} or later: convert the model")
    if any(function.domain in ("", "ai.onnx") for function in model.functions):
        raise UnsupportedModelError(f"{path} defines operators of ONNX anew; export it without functions")
    return opset


def _check_rank(graph: GraphProto, name: str, path: Path) -> None:
    """Raises UnsupportedModelError unless the observation is one row: the axes of all that follows are read so."""
    sizes = next(value for value in graph.input if value.name == name).type.tensor_type.shape.dim
    if len(sizes) != 2:
        raise UnsupportedModelError(f"{path} has an input of {len(sizes)} dimensions; expected [batch, observation]")


def _read_part(model: ModelProto, wanted: Container[str]) -> bytes:
    """The model with nothing but what these outputs need, which is all that is run: not what else is in the file."""
    part = model.__class__()
    part.CopyFrom(model)
    outputs = [value for value in part.graph.output if value.name in wanted]
    needed = _needed(model.graph.node, [value.name for value in outputs])
    names = {name for node in needed for name in node.input}
    initializers = [tensor for tensor in part.graph.initializer if tensor.name in names]
    for field, kept in (("node", needed), ("output", outputs), ("initializer", initializers), ("value_info", ())):
        copies = [type(each).FromString(each.SerializeToString()) for each in kept]
        del getattr(part.graph, field)[:]
        getattr(part.graph, field).extend(copies)
    del part.functions[:]
    return bytes(part.SerializeToString())


def _states_of(graph: GraphProto, constants: Container[str]) -> dict[str, str]:
    """Inputs and outputs of the state, which are called like h_in and h_out."""
    outputs = {each.name for each in graph.output}
    inputs = [each.name for each in graph.input if each.name not in constants]
    pairs = {name: re.sub("in$", "out", name) for name in inputs}
    return {name: following for name, following in pairs.items() if following != name and following in outputs}


def take_external_data(model: ModelProto, path: Path) -> None:
    """Put the weights that lie in files beside the model into it.

    Raises FileFormatError, UnsupportedModelError: only regular files of the model's own folder are read.
    """
    room = onnx_file.MAXIMUM_BYTES
    for tensor in model.graph.initializer:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        tensor.raw_data = _external(said, path, room)
        room -= len(tensor.raw_data)
        del tensor.external_data[:]
        tensor.data_location = tensor.DEFAULT


def _external(said: Mapping[str, str], path: Path, room: int) -> bytes:
    """The bytes that a tensor's entries point to, at most `room`."""
    name = said.get("location", "")
    beside = path.parent / name
    if Path(name).name != name or os.path.islink(beside) or not os.path.isfile(beside):  # pathlib's raise errors
        raise UnsupportedModelError(f"{path} has weights in {quoted(name)}; expected a regular file in its own folder")
    try:
        offset = int(said.get("offset", 0))
        length = int(said.get("length", beside.stat().st_size - offset))
        if not 0 <= offset <= offset + length <= beside.stat().st_size or length > room:
            raise ValueError(f"{length} bytes from {offset} on, where at most {room} are read")
        with beside.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except (ValueError, OSError) as error:
        raise FileFormatError(
            f"{path} is not valid: its weights in {beside} cannot be read ({reason(error)})"
        ) from error


def _output(names: Sequence[str], path: Path) -> str:
    if len(names) == 1:
        return names[0]
    for name in ACTION_OUTPUTS:
        if name in names:
            return name
    found = ", ".join(name if name.isprintable() else quoted(name) for name in names)
    raise UnsupportedModelError(
        f"{path} has the outputs {found[:80]}; expected one, or one of {', '.join(ACTION_OUTPUTS)}"
    )


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in their order."""
    wanted, needed = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    return needed[::-1]


def _dense(constant: onnx_file.Constant, path: Path) -> Array:
    if not constant.is_dense:
        raise UnsupportedModelError(f"{path} has a sparse constant; expected dense ones")
    return constant.values


class _Reader:
    """Computes one node after the other."""

    def __init__(self, path: Path, values: dict[str, Value], opset: int) -> None:
        self._path, self._values, self._opset, self._room = path, values, opset, MAXIMUM_NUMBERS

    def step(self, node: NodeProto) -> None:
        """Add what `node` makes to the values."""
        missing = next((name for name in node.input if name and name not in self._values), None)
        if missing is not None or not node.output:
            raise FileFormatError(
                f"{self._path} is not valid: {onnx_file.describe(node)} reads {quoted(missing)}, which nothing makes"
            )
        try:
            made = self._made(node)
            self._room -= sum(map(_count_of, made))
            if self._room < 0:
                raise Unfit(f"is where all numbers together are more than {MAXIMUM_NUMBERS}")
        except EdgerlError:
            raise
        except Unfit as error:
            raise UnsupportedModelError(
                f"{self._path} cannot become a policy: {onnx_file.describe(node)} {error}"
            ) from error
        except Exception as error:  # whatever a malformed node makes Python and numpy raise
            raise FileFormatError(
                f"{self._path} is not valid: {onnx_file.describe(node)} cannot be read ({reason(error)})"
            ) from error
        self._values |= zip(node.output, made, strict=False)

    def _made(self, node: NodeProto) -> Sequence[Value]:
        if node.domain not in ("", "ai.onnx"):
            raise Unfit(f"belongs to the domain {node.domain[:40]!r}")
        inputs = [self._values[name] if name else None for name in node.input]
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant":
            return [_dense(onnx_file.constant_of(node, self._path), self._path)]
        if all(value is None or isinstance(value, np.ndarray) for value in inputs):
            return _folded(node, [value for value in inputs if isinstance(value, np.ndarray)], self._opset)
        if isinstance(inputs[0], Memory) and node.op_type in OF_MEMORY:
            return [Memory()] * len(node.output)
        if node.op_type in ("GRU", "LSTM"):
            cell = _cell(node.op_type, inputs, attributes)
            return [cell, cell, Memory()]
        if node.op_type == "Split":
            return _split(_signal(inputs[0]), inputs, attributes, len(node.output))
        if node.op_type not in STEPS:
            raise Unfit("is not understood")
        return [STEPS[node.op_type](inputs, attributes)]


OF_MEMORY = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that take parts of a state."""


def _count_of(value: Value) -> int:
    """How many it has, about."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, Memory):
        return 0
    affine = (value if isinstance(value, Signal) else value.of).affine
    return affine.bias.size if affine.weight is None else affine.weight.size


Inputs = Sequence[Value | None]
Attributes = Mapping[str, Any]


def _folded(node: NodeProto, inputs: list[Array], opset: int) -> list[Array]:
    """What a node makes of constants, by onnx's own reference."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in FOLDED or not inputs or len(inputs) != len(node.input):
        raise Unfit("works on constants in a way that is not understood")
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if _integer(attributes, "to", onnx.TensorProto.FLOAT) == onnx.TensorProto.STRING or "block_size" in attributes:
        raise Unfit("makes texts, or is in blocks")
    largest = _largest(node.op_type, inputs)
    if largest > MAXIMUM_POSITIONS:
        raise Unfit(f"makes a constant of {largest} numbers; expected at most {MAXIMUM_POSITIONS}")
    names = [f"i{index}" for index in range(len(inputs))]
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    del bare.input[:]
    bare.input.extend(names)
    graph = onnx.helper.make_graph(
        [bare],
        "fold",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, inputs, strict=True)
        ],
        [onnx.helper.make_empty_tensor_value_info(node.output[0])],
    )
    try:
        with np.errstate(all="ignore"):
            version = onnx.defs.onnx_opset_version() if node.op_type == "DequantizeLinear" else opset  # it has no older
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
            (made,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    except Exception as error:  # whatever a malformed node makes the library raise
        raise Unfit(f"cannot be computed ({reason(error)})") from error
    return [np.asarray(made)]


def _largest(operator: str, inputs: Sequence[Array]) -> int:
    """How many numbers an operator can make of constants."""
    if operator == "Gather":
        return inputs[0].size * inputs[-1].size
    try:
        largest = math.prod(np.broadcast_shapes(*(value.shape for value in inputs)))
    except ValueError:
        largest = 0
    return max(largest, sum(value.size for value in inputs))


# ------------------------------------------------------------------------------------------- steps on computed values


def _signal(value: Value | None) -> Signal:
    """A computed value."""
    if isinstance(value, Gate):
        return value.alone()
    if not isinstance(value, Signal):
        raise Unfit("takes a constant where a computed value is expected")
    return value


def _row(value: Value | None, size: int) -> Array:
    """A constant as a number, or one number for each of `size`."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise Unfit("combines two computed values")
    if value.ndim > 2 or (value.size != 1 and (value.size != size or value.shape[-1] != size)):
        raise Unfit(f"has a constant of the shape {list(value.shape)} for {size} numbers")
    return value.astype(np.float64).reshape(-1)


def _vector(value: Value | None, size: int) -> Array:
    return np.broadcast_to(_row(value, size), size)


def _matrix(value: Value | None) -> Array:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
        raise Unfit("does not multiply by a constant matrix of floating-point numbers")
    return value.astype(np.float64)


def _gemm(inputs: Inputs, attributes: Attributes) -> Signal:
    if _integer(attributes, "transA", 0):
        raise Unfit("transposes its input")
    weight = _matrix(inputs[1])
    weight = weight if _integer(attributes, "transB", 0) else weight.T
    alpha, beta = (_float(attributes, name, 1.0) for name in ("alpha", "beta"))
    bias = _row(inputs[2], len(weight)) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return _signal(inputs[0]).linear(alpha * weight, beta * bias)


def _add(inputs: Inputs, _: Attributes) -> Value:
    first, second = inputs
    computed, constant = (second, first) if isinstance(first, np.ndarray) else (first, second)
    if isinstance(computed, Statistic) and isinstance(constant, np.ndarray) and constant.size == 1:
        return computed.next("variance", "variance", float(constant.reshape(-1)[0]))
    if isinstance(computed, Gate) and isinstance(constant, np.ndarray) and constant.size == 1:
        return replace(computed, term=computed.term + float(constant.reshape(-1)[0]) / computed.factor)
    value = _signal(computed)
    return value.plus(_row(constant, value.size))


def _subtract(inputs: Inputs, attributes: Attributes) -> Value:
    first, second = inputs
    if isinstance(second, Statistic) and second.of is first:
        return second.next("centred", "mean")
    if isinstance(second, np.ndarray):
        return _add((first, np.asarray(-second)), attributes)
    value = _signal(second)
    return value.times(-1.0).plus(_row(first, value.size))


def _multiply(inputs: Inputs, _: Attributes) -> Value:
    first, second = inputs
    if isinstance(first, Statistic) and first is second:
        return first.next("squares", "centred")
    computed, other = (first, second) if isinstance(first, Gate) or isinstance(second, np.ndarray) else (second, first)
    if isinstance(computed, Gate) and isinstance(other, Signal):
        return computed.times_sums(other)
    if isinstance(computed, Gate) and isinstance(other, np.ndarray) and other.size == 1:
        return replace(computed, factor=computed.factor * float(other.reshape(-1)[0]))
    value = _signal(computed)
    return value.times(_row(other, value.size))


def _divide(inputs: Inputs, attributes: Attributes) -> Value:
    dividend, divisor = inputs
    if isinstance(dividend, Statistic) and isinstance(divisor, Statistic):
        return dividend.over(divisor)
    if not isinstance(divisor, np.ndarray) or not divisor.all():
        raise Unfit("divides by a computed value, or by zero")
    return _multiply((dividend, np.asarray(1 / divisor.astype(np.float64))), attributes)


def _clip(inputs: Inputs, attributes: Attributes) -> Signal:
    value = _signal(inputs[0])
    low, high = (
        _row(inputs[place], value.size)
        if len(inputs) > place and inputs[place] is not None
        else np.array([_float(attributes, name, end)])
        for place, name, end in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    return _bounded(value, low, high)


def _bounded(value: Signal, low: Array, high: Array) -> Signal:
    """Clipped; from zero up without end that is ReLU."""
    if np.all(low == 0) and np.all(high >= np.finfo(np.float32).max) and value.is_sums:
        return value.activated("relu")
    infinite = np.finfo(np.float32).max
    return value.clipped(np.where(low <= -infinite, -np.inf, low), np.where(high >= infinite, np.inf, high))


def _least(inputs: Inputs, _: Attributes) -> Signal:
    computed, constant = inputs if isinstance(inputs[1], np.ndarray) else inputs[::-1]
    value = _signal(computed)
    return _bounded(value, np.array([-np.inf]), _row(constant, value.size))


def _greatest(inputs: Inputs, _: Attributes) -> Signal:
    computed, constant = inputs if isinstance(inputs[1], np.ndarray) else inputs[::-1]
    value = _signal(computed)
    return _bounded(value, _row(constant, value.size), np.array([np.inf]))


def _elu(inputs: Inputs, attributes: Attributes) -> Signal:
    if _float(attributes, "alpha", 1.0) != 1:
        raise Unfit(f"has alpha {_float(attributes, 'alpha', 1.0):g}; expected 1")
    return _signal(inputs[0]).activated("elu")


def _leaky_relu(inputs: Inputs, attributes: Attributes) -> Signal:
    if abs(_float(attributes, "alpha", 0.01) - LEAKY_SLOPE) > 1e-8:
        raise Unfit(f"has the slope {_float(attributes, 'alpha', 0.01):g}; expected {LEAKY_SLOPE}")
    return _signal(inputs[0]).activated("leaky_relu")


def _gelu(inputs: Inputs, attributes: Attributes) -> Signal:
    if "approximate" in attributes and attributes["approximate"].s not in (b"", b"none"):
        raise Unfit("approximates GELU; expected the exact one")
    return _signal(inputs[0]).activated("gelu")


def _erf(inputs: Inputs, _: Attributes) -> Gate:
    return Gate("gelu", _signal(inputs[0]).times(math.sqrt(2)), term=0.0, factor=1.0)


def _layer_norm(inputs: Inputs, attributes: Attributes) -> Signal:
    value = _signal(inputs[0])
    if _integer(attributes, "axis", -1) not in (-1, 1):
        raise Unfit("normalises along another axis than the last")
    shift = _vector(inputs[2], value.size) if len(inputs) > 2 else np.zeros(value.size)
    return value.normed(LayerNorm(_vector(inputs[1], value.size), shift, _float(attributes, "epsilon", 1e-5)))


def _batch_norm(inputs: Inputs, attributes: Attributes) -> Signal:
    value = _signal(inputs[0])
    if _integer(attributes, "training_mode", 0):
        raise Unfit("is in training mode")
    scale, shift, mean, variance = (_vector(part, value.size) for part in inputs[1:5])
    if np.any(variance < 0):
        raise Unfit("has a negative variance")
    factor = scale / np.sqrt(variance + _float(attributes, "epsilon", 1e-5))
    return value.times(factor).plus(shift - mean * factor)


def _mean(inputs: Inputs, attributes: Attributes) -> Statistic:
    axes = inputs[1] if len(inputs) > 1 else np.array(attributes["axes"].ints) if "axes" in attributes else None
    if not isinstance(axes, np.ndarray) or axes.tolist() not in ([-1], [1]) or not _integer(attributes, "keepdims", 1):
        raise Unfit("takes the mean along another axis than the last")
    if isinstance(inputs[0], Statistic):
        return inputs[0].next("variance", "squares")
    return Statistic("mean", _signal(inputs[0]))


def _power(inputs: Inputs, _: Attributes) -> Statistic:
    base, exponent = inputs
    if not isinstance(base, Statistic) or not isinstance(exponent, np.ndarray) or np.any(exponent != 2):
        raise Unfit("is a power that no policy has")
    return base.next("squares", "centred")


def _root(inputs: Inputs, _: Attributes) -> Statistic:
    if not isinstance(inputs[0], Statistic):
        raise Unfit("is a root that no policy has")
    return inputs[0].next("deviation", "variance")


TORCH_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Where PyTorch's gates are among ONNX's: zrh, iofc."""

CELL_ATTRIBUTES = frozenset(
    {"activations", "direction", "hidden_size", "input_forget", "layout", "linear_before_reset"}
)


def _cell(operator: str, inputs: Inputs, attributes: Attributes) -> Signal:
    """One step of a GRU or an LSTM."""
    value, order = _signal(inputs[0]), TORCH_GATES[operator]
    inputs = [*inputs, *[None] * (8 - len(inputs))]
    if not isinstance(inputs[5], Memory) or not (operator == "GRU" or isinstance(inputs[6], Memory)):
        raise Unfit(
            "begins anew with every observation; expected its state as inputs and outputs, such as h_in and h_out"
        )
    weight, recurrence = (_numbers(part, 3) for part in inputs[1:3])
    units = recurrence.shape[2]
    if weight.shape != (1, len(order) * units, value.size) or recurrence.shape != (1, len(order) * units, units):
        raise Unfit(
            f"has weights of the shapes {list(weight.shape)} and {list(recurrence.shape)} for {value.size} inputs"
        )
    biases = np.zeros((1, 2 * len(order) * units)) if inputs[3] is None else _numbers(inputs[3], 2)
    if biases.shape != (1, 2 * len(order) * units):
        raise Unfit(f"has a bias of the shape {list(biases.shape)}")
    _check_cell(operator, attributes)
    if inputs[7] is not None:
        raise Unfit("has peepholes")
    rows = np.arange(len(order) * units).reshape(-1, units)[list(order)].ravel()
    halves = np.split(biases[0], 2)
    name: CellName = "gru" if operator == "GRU" else "lstm"
    parts = weight[0][rows], recurrence[0][rows], halves[0][rows], halves[1][rows]
    return value.cell(name, *joined_weights(name, *parts))


def _numbers(value: Value | None, dimensions: int) -> Array:
    if not isinstance(value, np.ndarray) or value.ndim != dimensions or value.dtype.kind != "f":
        raise Unfit(f"has weights that are no constants of {dimensions} dimensions")
    return value.astype(np.float64)


def _check_cell(operator: str, attributes: Attributes) -> None:
    activations = [b"Sigmoid", b"Tanh"] if operator == "GRU" else [b"Sigmoid", b"Tanh", b"Tanh"]
    stated = list(attributes["activations"].strings) if "activations" in attributes else activations
    direction = attributes["direction"].s if "direction" in attributes else b"forward"
    if (surplus := min(set(attributes) - CELL_ATTRIBUTES, default=None)) is not None:
        raise Unfit(f"has the attribute {quoted(surplus, 20)}, which no cell of PyTorch has")
    is_other = _integer(attributes, "layout", 0) or _integer(attributes, "input_forget", 0)
    if stated != activations or direction != b"forward" or is_other:
        raise Unfit("has another direction, layout or activation than a cell of PyTorch")
    if operator == "GRU" and not _integer(attributes, "linear_before_reset", 0):
        raise Unfit("applies its reset gate before the matrix; expected linear_before_reset = 1, as PyTorch has it")


def _concat(inputs: Inputs, attributes: Attributes) -> Signal:
    _check_last_axis(attributes)
    first, *others = (_signal(value) for value in inputs)
    return first.joined(*others)


def _slice(inputs: Inputs, attributes: Attributes) -> Signal:
    value = _signal(inputs[0])
    parts = [inputs[place] if len(inputs) > place else None for place in (1, 2, 3, 4)]
    old = [np.array(attributes[name].ints) if name in attributes else None for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (
        [int(n) for n in np.ravel(part)] if isinstance(part, np.ndarray) else None
        for part in (*(p if p is not None else o for p, o in zip(parts, old, strict=False)), parts[3])
    )
    if starts is None or ends is None or len(starts) != 1 or (axes or [0])[0] not in (-1, 1) or (steps or [1]) == [0]:
        raise Unfit("takes a part along another axis than the last")
    return value.chosen(np.arange(value.size)[slice(starts[0], ends[0], (steps or [1])[0])])


def _gather(inputs: Inputs, attributes: Attributes) -> Signal:
    value, chosen = _signal(inputs[0]), inputs[1]
    if (
        isinstance(chosen, np.ndarray)
        and chosen.ndim == 0
        and chosen in (0, -1)
        and not _integer(attributes, "axis", 0)
    ):
        return value  # its one row
    if _integer(attributes, "axis", 0) not in (-1, 1) or not isinstance(chosen, np.ndarray) or chosen.ndim != 1:
        raise Unfit("chooses along another axis than the last")
    if np.any(chosen >= value.size) or np.any(chosen < -value.size):
        raise Unfit(f"chooses numbers beyond the {value.size} that there are")
    return value.chosen(chosen)


def _split(value: Signal, inputs: Inputs, attributes: Attributes, count: int) -> list[Signal]:
    if _integer(attributes, "axis", 0) not in (-1, 1):
        raise Unfit("splits along another axis than the last")
    stated = inputs[1] if len(inputs) > 1 else np.array(attributes["split"].ints) if "split" in attributes else None
    sizes = [-(-value.size // count)] * count if not isinstance(stated, np.ndarray) else [int(n) for n in stated]
    is_whole = not isinstance(stated, np.ndarray) or sum(sizes) == value.size
    if any(size < 0 for size in sizes) or len(sizes) != count or not is_whole:
        raise Unfit(f"splits {value.size} numbers into parts of {str(sizes)[:40]}")
    ends = np.cumsum(sizes)
    return [value.chosen(np.arange(value.size)[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _reshape(inputs: Inputs, _: Attributes) -> Signal:
    value, shape = _signal(inputs[0]), inputs[1]
    sizes = [int(n) for n in np.ravel(shape)] if isinstance(shape, np.ndarray) else []
    if len(sizes) < 2 or sizes[-1] not in (-1, value.size) or any(size not in (-1, 0, 1) for size in sizes[:-1]):
        raise Unfit(f"reshapes {value.size} numbers to {str(sizes)[:40]}; expected one row")
    return value


def _with_axes(inputs: Inputs, attributes: Attributes) -> Signal:
    """Squeeze and Unsqueeze: all axes but the last have the size 1."""
    axes = inputs[1] if len(inputs) > 1 else np.array(attributes["axes"].ints) if "axes" in attributes else None
    if not isinstance(axes, np.ndarray) or np.any(np.ravel(axes) == -1):
        raise Unfit("adds or removes the last axis")
    return _signal(inputs[0])


def _transpose(inputs: Inputs, attributes: Attributes) -> Signal:
    order = list(attributes["perm"].ints) if "perm" in attributes else [0]
    if order[-1] != len(order) - 1 or len(order) < 2:
        raise Unfit("moves the last axis")
    return _signal(inputs[0])


def _flatten(inputs: Inputs, attributes: Attributes) -> Signal:
    if _integer(attributes, "axis", 1) != 1:
        raise Unfit("flattens along another axis than 1")
    return _signal(inputs[0])


def _cast(inputs: Inputs, attributes: Attributes) -> Signal:
    if _integer(attributes, "to", 1) not in (1, 11):
        raise Unfit("casts to another type than float or double")
    return _signal(inputs[0])


def _dropout(inputs: Inputs, _: Attributes) -> Signal:
    training = inputs[2] if len(inputs) > 2 else None
    if training is not None and not (isinstance(training, np.ndarray) and not training.any()):
        raise Unfit("is in training mode")
    return _signal(inputs[0])


def _shape(inputs: Inputs, attributes: Attributes) -> Array:
    """Of one row."""
    begin, end = _integer(attributes, "start", 0), _integer(attributes, "end", 2)
    return np.array([1, _signal(inputs[0]).size])[begin:end]


def _check_last_axis(attributes: Attributes) -> None:
    if _integer(attributes, "axis", 1) not in (-1, 1):
        raise Unfit("works along another axis than the last")


STEPS: Mapping[str, Callable[[Inputs, Attributes], Value]] = {
    "Gemm": _gemm,
    "MatMul": lambda inputs, _: _signal(inputs[0]).linear(_matrix(inputs[1]).T),
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Neg": lambda inputs, _: _signal(inputs[0]).times(-1.0),
    "Clip": _clip,
    "Min": _least,
    "Max": _greatest,
    "Relu": lambda inputs, _: _signal(inputs[0]).activated("relu"),
    "Tanh": lambda inputs, _: _signal(inputs[0]).activated("tanh"),
    "Elu": _elu,
    "Celu": _elu,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": lambda inputs, _: Gate("silu", _signal(inputs[0]), term=0.0, factor=1.0),
    "Gelu": _gelu,
    "Erf": _erf,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "ReduceMean": _mean,
    "Pow": _power,
    "Sqrt": _root,
    "Shape": _shape,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
    "Squeeze": _with_axes,
    "Unsqueeze": _with_axes,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Cast": _cast,
    "Identity": lambda inputs, _: _signal(inputs[0]),
    "Dropout": _dropout,
}
"""By operator; Split, GRU and LSTM, which make several values, beside."""


def _integer(attributes: Attributes, name: str, default: int) -> int:
    return int(attributes[name].i) if name in attributes else default


def _float(attributes: Attributes, name: str, default: float) -> float:
    return float(attributes[name].f) if name in attributes else default

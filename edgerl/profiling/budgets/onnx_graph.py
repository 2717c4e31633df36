"""Any ONNX multi-layer perceptron as plain layer rows.

A perceptron here is a chain: one input, one output, and between them nodes that each take the previous result and
constants. Affine layers are Gemm, or MatMul and Add; activations and scaling by constants work element by element.
Anything else in the graph is refused by name, since a wrong cost would be worse than none.

The file is treated as hostile (edgerl/importers/onnx_file.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.runtimes import onnx_kind
from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.files.atomic import read_bytes
from edgerl.importers.onnx_file import (
    Constant,
    constant_of,
    describe,
    initializers,
    integer,
    only_input,
    parse,
)
from edgerl.policy.compact import MAXIMUM_UNITS, Precision
from edgerl.profiling.budgets.rows import LayerRow, ModelRows, matrix_row

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

MAXIMUM_LAYERS = 256

PASSING = frozenset(("Identity", "Dropout"))
RECTIFIERS = frozenset(("Celu", "Clip", "Elu", "LeakyRelu", "PRelu", "Relu", "Selu", "ThresholdedRelu"))
SIGMOIDS = frozenset(("Erf", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Sigmoid", "Softplus", "Softsign", "Tanh"))
ARITHMETIC = frozenset(("Abs", "Add", "Cast", "Div", "Exp", "Max", "Min", "Mul", "Neg", "Pow", "Sin", "Sqrt", "Sub"))
ELEMENTWISE = RECTIFIERS | SIGMOIDS | ARITHMETIC | {"Softmax"}
RESHAPING = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
ON_CONSTANTS = frozenset(("Cast", "DequantizeLinear", "Identity", "Reshape", "ScatterElements", "Transpose"))

_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8"}


@dataclass
class _Affine:
    """A layer whose bias may follow."""

    weight: Constant
    n_inputs: int
    n_outputs: int
    has_bias: bool


class _Chain:
    """Walks the nodes in order and keeps track of the one computed value, without its content."""

    def __init__(self, source: Path, constants: dict[str, Constant], value: str, width: int | None) -> None:
        self.source = source
        self.constants = constants
        self.value = value
        self.width = width  # features of one sample, where known
        self.layers: list[_Affine] = []
        self.open_layer = False  # the previous node was a MatMul: an Add may be its bias
        self.constant_bytes = 0
        self.names = {value, *constants}

    def refuse(self, node: NodeProto, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.source} is not a multi-layer perceptron: {describe(node)} {why}; profile takes chains of Gemm or "
            f"MatMul, activations and scaling by constants, and policies: edgerl import {self.source}"
        )

    def step(self, node: NodeProto) -> None:
        inputs = [name for name in node.input if name]
        for name in inputs:
            if name not in self.names:
                raise FileFormatError(
                    f"{self.source} is not valid: {describe(node)} reads {name[:40]!r}, which nothing makes"
                )
        if node.domain not in ("", "ai.onnx"):
            raise self.refuse(node, f"belongs to the domain {node.domain[:40]!r}")
        if len(node.output) == 0 or node.output[0] in self.names:
            raise FileFormatError(f"{self.source} is not valid: {describe(node)} makes no new value")
        if all(name in self.constants for name in inputs):
            self.fold(node, inputs)
        else:
            self.compute(node, inputs)
        self.names.add(node.output[0])

    def fold(self, node: NodeProto, inputs: list[str]) -> None:
        """A node whose inputs are all constants makes a constant."""
        if node.op_type == "Constant":
            self.constants[node.output[0]] = constant_of(node, self.source)
            return
        if node.op_type not in ON_CONSTANTS or not inputs:
            raise self.refuse(node, "works on constants in a way that is not understood")
        constant = self.constants[inputs[0]]
        if node.op_type == "Transpose":
            constant = self.transposed(node, constant)
        if node.op_type == "DequantizeLinear":
            constant = self.dequantized(node, constant, inputs)
        if node.op_type == "Reshape":
            constant = self.reshaped(node, constant, inputs)
        if node.op_type == "ScatterElements":
            constant = self.scattered(node, constant, inputs)
        self.constants[node.output[0]] = constant

    def transposed(self, node: NodeProto, constant: Constant) -> Constant:
        permutation = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
        if len(constant.shape) != 2 or sorted(permutation) != [0, 1]:
            raise self.refuse(node, "transposes a constant that is not a matrix")
        if permutation == [0, 1]:
            return constant
        values = constant.values.T if constant.values.ndim == 2 else constant.values
        zero = constant.zero.T if isinstance(constant.zero, np.ndarray) else constant.zero
        return replace(constant, shape=constant.shape[::-1], values=values, zero=zero)

    def dequantized(self, node: NodeProto, constant: Constant, inputs: list[str]) -> Constant:
        """The stored integers stay as they are, with the one that means zero."""
        if not constant.is_dense or constant.precision not in ("int8", "uint8", "int32"):
            raise self.refuse(node, f"unpacks {constant.precision}; expected int8 or uint8 in a dense constant")
        if len(inputs) < 3:
            return constant
        zero, axis = self.constants[inputs[2]], integer(node, "axis", 1)
        if zero.is_dense and zero.size == 1:
            return replace(constant, zero=zero.values.reshape(()))
        if not zero.is_dense or zero.values.ndim != 1 or not -len(constant.shape) <= axis < len(constant.shape):
            raise self.refuse(node, "has zero points of an unexpected shape")
        if zero.size != constant.shape[axis]:
            raise self.refuse(node, f"has {zero.size} zero points for {constant.shape[axis]} rows")
        shape = [1] * len(constant.shape)
        shape[axis] = zero.size
        return replace(constant, zero=zero.values.reshape(shape))

    def reshaped(self, node: NodeProto, constant: Constant, inputs: list[str]) -> Constant:
        """The same numbers in another shape."""
        stated = self.constants[inputs[1]].values.ravel().tolist() if len(inputs) == 2 else []
        sizes = [constant.size // max(1, abs(math.prod(stated))) if size == -1 else size for size in stated]
        is_one_zero = not isinstance(constant.zero, np.ndarray) or constant.zero.ndim == 0
        if any(size < 1 for size in sizes) or math.prod(sizes) != constant.size or not is_one_zero:
            raise self.refuse(node, f"reshapes a constant of the shape {list(constant.shape)} to {str(stated)[:40]}")
        values = constant.values.reshape(sizes) if constant.is_dense else constant.values
        return replace(constant, shape=tuple(sizes), values=values)

    def scattered(self, node: NodeProto, constant: Constant, inputs: list[str]) -> Constant:
        """Some numbers replaced by others: what edgerl's exports do where they have left zeros."""
        others = self.constants[inputs[2]] if len(inputs) == 3 else constant
        if others.precision not in ("float32", "float64") or others.size > constant.size:
            raise self.refuse(node, "replaces numbers of a constant in a way that is not understood")
        return replace(constant, others=constant.others + others.connections)

    def compute(self, node: NodeProto, inputs: list[str]) -> None:
        """A node on the chain: its only computed input must be the newest value."""
        computed = [name for name in inputs if name not in self.constants]
        if computed != [self.value]:
            raise self.refuse(node, "combines or branches computed values")
        operation = node.op_type
        may_be_bias, self.open_layer = self.open_layer, False
        if operation == "Gemm":
            self.gemm(node, inputs)
        elif operation == "MatMul":
            self.affine(node, inputs, transposed=False)
            self.open_layer = True
        elif operation == "Add" and may_be_bias and self.is_bias(inputs):
            self.layers[-1].has_bias = True
        elif operation in ELEMENTWISE:
            self.elementwise(node, inputs)
        elif operation in RESHAPING:
            self.reshape(node, inputs)
        elif operation in PASSING:
            self.open_layer = may_be_bias
        else:
            raise self.refuse(node, "is not understood")
        self.value = node.output[0]

    def gemm(self, node: NodeProto, inputs: list[str]) -> None:
        if integer(node, "transA", 0):
            raise self.refuse(node, "transposes its input")
        self.affine(node, inputs, transposed=bool(integer(node, "transB", 0)))
        if len(inputs) > 2:
            if not self.is_bias(inputs[2:]):
                raise self.refuse(node, f"has biases of the shape {list(self.constants[inputs[2]].shape)}")
            self.layers[-1].has_bias = True

    def affine(self, node: NodeProto, inputs: list[str], *, transposed: bool) -> None:
        if len(inputs) < 2 or inputs[0] != self.value:
            raise self.refuse(node, "does not multiply its input by constant weights on the right")
        weight = self.constants[inputs[1]]
        if len(weight.shape) != 2 or not all(1 <= n <= MAXIMUM_UNITS for n in weight.shape):
            raise self.refuse(node, f"has weights of the shape {list(weight.shape)}; expected a matrix")
        if weight.precision not in _PRECISIONS:
            raise self.refuse(node, f"has {weight.precision} weights; expected float32, float16 or int8")
        n_outputs, n_inputs = weight.shape if transposed else weight.shape[::-1]
        if self.width not in (None, n_inputs):
            raise self.refuse(node, f"has weights for {n_inputs} inputs and gets {self.width}")
        if len(self.layers) == MAXIMUM_LAYERS:
            raise self.refuse(node, f"is layer {MAXIMUM_LAYERS + 1}")
        self.layers.append(_Affine(weight, n_inputs, n_outputs, has_bias=False))
        self.width = n_outputs

    def is_bias(self, inputs: list[str]) -> bool:
        return all(self.is_row(self.constants[name]) for name in inputs if name in self.constants)

    def is_row(self, constant: Constant) -> bool:
        """Whether it holds one number for every feature, or one for all."""
        return constant.size == 1 or (constant.shape[-1] == constant.size and self.width in (None, constant.size))

    def elementwise(self, node: NodeProto, inputs: list[str]) -> None:
        for constant in (self.constants[name] for name in inputs if name in self.constants):
            if not self.is_row(constant):
                raise self.refuse(node, f"has a constant of the shape {list(constant.shape)} for {self.width} values")
            self.constant_bytes += constant.values.nbytes

    def reshape(self, node: NodeProto, inputs: list[str]) -> None:
        """Allowed if a sample stays one row."""
        if node.op_type == "Flatten" and integer(node, "axis", 1) != 1:
            raise self.refuse(node, "flattens along an axis other than 1")
        if node.op_type != "Reshape":
            return
        shape = self.constants[inputs[1]].values.ravel().tolist() if len(inputs) == 2 else []
        if not shape or shape[-1] not in (-1, self.width) or any(n not in (-1, 0, 1) for n in shape[:-1]):
            raise self.refuse(node, f"reshapes {self.width} values to {str(shape)[:40]}")


def read_onnx(path: Path) -> ModelRows:
    """The rows of an ONNX multi-layer perceptron.

    Raises UnsupportedModelError, naming the node, where the graph is something else; FileFormatError where it is
    broken; MissingExtraError without onnx.
    """
    data = read_bytes(path)
    graph = parse(data, path).graph
    constants = initializers(graph, path)
    value, width = only_input(graph, constants, path)
    chain = _Chain(path, constants, value, width)
    for node in graph.node:
        chain.step(node)
    if [output.name for output in graph.output] != [chain.value]:
        raise UnsupportedModelError(
            f"{path} has {len(graph.output)} outputs, not one at the end of its chain; expected only a policy's action"
        )
    if not chain.layers:
        raise UnsupportedModelError(f"{path} holds no affine layer; expected Gemm or MatMul with constant weights")
    rows = tuple(_row(layer) for layer in chain.layers)
    return ModelRows(path.name, onnx_kind(data, path), rows, chain.constant_bytes, len(data))


UNIT_RANGES = {"Tanh": (-1, 1), "Softsign": (-1, 1), "Sigmoid": (0, 1), "HardSigmoid": (0, 1)}
"""The range of these operators, for any input."""

BETWEEN = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
"""Operators of a value and a constant, by element."""

Bounds = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def output_bounds(path: Path, n_outputs: int) -> Bounds | None:
    """(low, high), [n_outputs] each, of an ONNX file's output, where its last operators bound it: a Tanh, a Clip or the
    like, and after it scaling by constants. None where they do not, or onnx is not installed."""
    try:
        graph = parse(read_bytes(path), path).graph
        chain = _Chain(path, initializers(graph, path), "", None)
        for node in graph.node:
            if node.op_type == "Constant":
                chain.fold(node, [])
        low, high = _bounds(graph, chain.constants)
        with np.errstate(over="ignore"):
            bounds = [np.broadcast_to(bound, n_outputs).astype(np.float32) for bound in (low, high)]
    except (EdgerlError, ValueError, IndexError, KeyError, StopIteration):  # a graph that is not understood
        return None
    is_range = all(np.isfinite(bound).all() for bound in bounds) and bool(np.all(bounds[0] < bounds[1]))
    return (bounds[0], bounds[1]) if is_range else None


def _bounds(graph: GraphProto, constants: dict[str, Constant]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Raises StopIteration, KeyError or ValueError where the last operators do not bound the output."""
    made_by = {output: node for node in graph.node for output in node.output}
    value, after = graph.output[0].name, []
    while (node := made_by.pop(value)).op_type not in UNIT_RANGES and node.op_type != "Clip":
        after.append(node)
        value = next(name for name in node.input if name and name not in constants)
    low, high = _own_range(node, constants)
    for node in reversed(after):
        if node.op_type in BETWEEN:
            operands = [[_flat(constants[name])] * 2 if name in constants else [low, high] for name in node.input]
            ends = [BETWEEN[node.op_type](one, other) for one, other in zip(*operands, strict=True)]
            low, high = np.minimum(*ends), np.maximum(*ends)
        elif node.op_type not in PASSING | RESHAPING | {"Cast"}:
            raise ValueError(node.op_type)
    return low, high


def _own_range(node: NodeProto, constants: dict[str, Constant]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The range of a node, for any input; of a Clip it is in its inputs, before opset 11 in its attributes."""
    if node.op_type in UNIT_RANGES:
        low, high = np.array(UNIT_RANGES[node.op_type], np.float64)[:, None]
        return low, high
    attributes = {attribute.name: np.array([attribute.f], np.float64) for attribute in node.attribute}
    if "min" in attributes:
        return attributes["min"], attributes["max"]
    return _flat(constants[node.input[1]]), _flat(constants[node.input[2]])


def _flat(constant: Constant) -> npt.NDArray[np.float64]:
    if not constant.is_dense:
        raise ValueError("a sparse constant")
    return constant.values.astype(np.float64).reshape(-1)


def _row(layer: _Affine) -> LayerRow:
    weight = layer.weight
    precision = _PRECISIONS[weight.precision]
    return matrix_row(layer.n_inputs, layer.n_outputs, weight.connections, precision, has_bias=layer.has_bias)

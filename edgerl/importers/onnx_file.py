"""ONNX files as data: the model, its constants and its nodes, none of it trusted.

Sizes are bounded, nothing outside the file is read, and no dense matrix is made from a sparse one.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import FileFormatError, UnsupportedModelError, reason, require
from edgerl.policy.compact import MAXIMUM_UNITS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

MAXIMUM_BYTES = 1 << 26
"""Larger files are not policies for small computers."""

MAXIMUM_NODES = 4096


@dataclass(frozen=True)
class Constant:
    """A constant of a graph; sparse ones keep only their values."""

    shape: tuple[int, ...]
    values: npt.NDArray[Any]
    precision: str  # numpy's name of the type that the file stores
    zero: npt.NDArray[Any] | int = 0  # int8: the stored value that means zero
    others: int = 0  # float numbers that are put in the place of stored ones, which mean zero there

    @property
    def size(self) -> int:
        """Numbers, zeros included."""
        return math.prod(self.shape)

    @property
    def is_dense(self) -> bool:
        """Whether `values` has all of them, in their shape."""
        return self.values.shape == self.shape

    @property
    def connections(self) -> int:
        """Numbers that are not zero."""
        return int(np.count_nonzero(self.values != self.zero)) + self.others


def describe(node: NodeProto) -> str:
    """A node's name for messages."""
    name = node.name or (node.output[0] if len(node.output) else "")
    operation = str(node.op_type)  # protobuf leaves bytes where the file has invalid text
    operation = operation if operation.isidentifier() else repr(operation)
    return f"the node {operation[:40]} {name[:40]!r}"


def constant_of(node: NodeProto, source: Path) -> Constant:
    """What a Constant node holds. Raises UnsupportedModelError, and what `read_tensor` raises."""
    if len(node.attribute) == 1:
        attribute = node.attribute[0]
        if attribute.name == "value":
            return read_tensor(attribute.t, source)
        if attribute.name == "sparse_value":
            return read_sparse(attribute.sparse_tensor, source)
        if attribute.name in ("value_float", "value_int"):
            value = attribute.f if attribute.name == "value_float" else attribute.i
            return _plain(np.asarray(value, np.float32 if attribute.name == "value_float" else np.int64))
        if attribute.name in ("value_floats", "value_ints"):
            values = attribute.floats if attribute.name == "value_floats" else attribute.ints
            return _plain(np.asarray(values, np.float32 if attribute.name == "value_floats" else np.int64))
    raise UnsupportedModelError(f"{source} cannot be read: {describe(node)} holds no number")


def read_tensor(tensor: TensorProto, source: Path) -> Constant:
    """A dense constant, checked before anything is allocated for it."""
    from onnx import TensorProto as Types
    from onnx import numpy_helper

    name = tensor.name[:40]
    if tensor.data_location == Types.EXTERNAL or len(tensor.external_data):
        raise UnsupportedModelError(
            f"{source} keeps {name!r} in another file, which is refused; save the model with its weights inside, or "
            f"make a policy of it: edgerl import {source} --external-data"
        )
    shape = _shape(tensor.dims, name, source)
    try:
        values = numpy_helper.to_array(tensor)
    except Exception as error:  # whatever a malformed tensor makes the library raise
        raise FileFormatError(f"{source} is not valid: cannot read {name!r} ({reason(error)})") from error
    if values.shape != shape or values.dtype.kind not in "fiub":
        raise FileFormatError(f"{source} is not valid: {name!r} is {values.dtype} of the shape {list(values.shape)}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FileFormatError(f"{source} is not valid: {name!r} holds a number that is not finite")
    return Constant(shape, values, str(values.dtype))


def read_sparse(sparse: SparseTensorProto, source: Path) -> Constant:
    """A sparse constant: its values, and never the matrix."""
    shape = _shape(sparse.dims, sparse.values.name[:40], source)
    values = read_tensor(sparse.values, source)
    indices = read_tensor(sparse.indices, source)
    if len(values.shape) != 1 or indices.shape not in ((values.size,), (values.size, len(shape))):
        raise FileFormatError(f"{source} is not valid: {sparse.values.name[:40]!r} has other indices than values")
    if values.size > math.prod(shape):
        raise FileFormatError(f"{source} is not valid: {sparse.values.name[:40]!r} holds more values than positions")
    return Constant(shape, values.values, values.precision)


def parse(data: bytes, path: Path) -> ModelProto:
    """The model in the bytes of a file, of bounded size.

    Raises FileFormatError, UnsupportedModelError, MissingExtraError.
    """
    onnx = require("onnx", "export")
    if len(data) > MAXIMUM_BYTES:
        raise UnsupportedModelError(f"{path} has {len(data)} bytes; expected at most {MAXIMUM_BYTES}")
    try:
        model: ModelProto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's decoder has several
        raise FileFormatError(f"{path} is not an ONNX file, or is truncated ({reason(error)})") from error
    if not model.HasField("graph"):
        raise FileFormatError(f"{path} is not an ONNX file, or is truncated (it holds no graph)")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for name, has, known in (
        ("IR version", model.ir_version, onnx.IR_VERSION),
        ("opset", opset, onnx.defs.onnx_opset_version()),
    ):
        if has > known:
            raise UnsupportedModelError(
                f"{path} has {name} {has}, too new for onnx {onnx.__version__}, which knows up to {known}; update onnx "
                "and see that the device's onnxruntime knows it, or export the model with an older one"
            )
    if not 1 <= len(model.graph.node) <= MAXIMUM_NODES:
        raise UnsupportedModelError(f"{path} has {len(model.graph.node)} nodes; expected 1 to {MAXIMUM_NODES}")
    if any(isinstance(text, bytes) for text in _texts(model)):  # as protobuf leaves what it cannot decode
        raise FileFormatError(f"{path} is not valid: it holds text that is not UTF-8")
    return model


def _texts(message: Any) -> Iterator[str | bytes]:
    """All texts in a message of protobuf."""
    for field, value in message.ListFields():
        is_one = isinstance(value, str | bytes) or hasattr(value, "ListFields")
        values = [value] if is_one else value
        if field.type == field.TYPE_STRING:
            yield from values
        elif field.type == field.TYPE_MESSAGE:
            for each in values:
                yield from _texts(each)


def initializers(graph: GraphProto, path: Path) -> dict[str, Constant]:
    """The constants that the file holds, by name. Raises what `read_tensor` raises."""
    dense = {tensor.name: read_tensor(tensor, path) for tensor in graph.initializer}
    sparse = {tensor.values.name: read_sparse(tensor, path) for tensor in graph.sparse_initializer}
    return dense | sparse


def only_input(graph: GraphProto, known: Container[str], path: Path) -> tuple[str, int | None]:
    """(name, features of one sample where the graph says so) of the one input that is not `known`."""
    inputs = [value for value in graph.input if value.name not in known]
    if len(inputs) != 1:
        is_recurrent = any(node.op_type in ("GRU", "LSTM") for node in graph.node)
        hint = f"; it is recurrent, and is counted as a policy: edgerl import {path}" if is_recurrent else ""
        raise UnsupportedModelError(f"{path} has {len(inputs)} inputs; expected one, the observation{hint}")
    tensor_type = inputs[0].type.tensor_type
    if not tensor_type.HasField("shape"):
        return inputs[0].name, None
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in tensor_type.shape.dim]
    batch, features = (sizes[0], sizes[1:]) if len(sizes) > 1 else (1, sizes)
    if batch not in (None, 1):
        raise UnsupportedModelError(f"{path} has a fixed batch of {batch}; expected 1, or a free dimension")
    if None in features:
        if len(features) > 1:
            raise UnsupportedModelError(f"{path} has an input of unknown sizes; expected one observation as one row")
        return inputs[0].name, None
    width = math.prod(size for size in features if size is not None)
    if not 1 <= width <= MAXIMUM_UNITS:
        raise UnsupportedModelError(f"{path} has an input of {width} values; expected 1 to {MAXIMUM_UNITS}")
    return inputs[0].name, width


def _shape(dims: Iterable[int], name: str, source: Path) -> tuple[int, ...]:
    shape = tuple(dims)
    if any(n < 0 for n in shape) or len(shape) > 4:
        raise FileFormatError(f"{source} is not valid: {name!r} has the shape {str(list(shape))[:40]}")
    return shape


def _plain(values: npt.NDArray[Any]) -> Constant:
    return Constant(values.shape, values, str(values.dtype))


def integer(node: NodeProto, name: str, default: int) -> int:
    """An attribute of a node."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)

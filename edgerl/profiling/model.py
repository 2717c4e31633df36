"""What profiling needs to know of a model: its layers as plain rows, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgerl import run_folder
from edgerl.compact import file as policy_file
from edgerl.compact.policy import PRECISIONS, CompactPolicy, Layer, Precision
from edgerl.compact.shape import architecture
from edgerl.errors import FileFormatError

Kind = Literal["policy", "onnx"]


@dataclass(frozen=True)
class LayerRow:
    """One affine layer, and how a sparse engine stores it."""

    n_inputs: int
    n_outputs: int
    n_biases: int  # one for every output, or none
    connections: int  # weights that are not zero
    precision: Precision
    block: int
    is_sparse: bool
    stored_weights: int  # zeros that pad a block or fill a dense matrix included
    stored_bytes: int  # weights, indices, scales, biases

    @property
    def positions(self) -> int:
        """Weights of the dense matrix."""
        return self.n_inputs * self.n_outputs

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense matrix in the stored precision, with scales and biases."""
        return dense_bytes(self.n_inputs, self.n_outputs, self.n_biases, self.precision)


@dataclass(frozen=True)
class ModelRows:
    """A multi-layer perceptron as rows; `constant_bytes` is what normalisation and action scaling hold."""

    name: str
    kind: Kind
    layers: tuple[LayerRow, ...]
    constant_bytes: int
    file_bytes: int | None  # None: the model lies in no file

    @property
    def architecture(self) -> str:
        """Layer widths, as in 17-256-256-6."""
        return architecture(self.layers)


def read_model(path: Path) -> ModelRows:
    """The rows of a policy.safetensors or of any ONNX multi-layer perceptron.

    A run folder means its policy.safetensors. Raises FileFormatError or UnsupportedModelError; nothing in the file is
    trusted.
    """
    if path.is_dir():
        path = path / run_folder.POLICY
    if path.suffix == ".onnx":
        from edgerl.profiling.onnx_graph import read_onnx

        return read_onnx(path)
    if path.suffix == ".safetensors":
        return policy_rows(policy_file.load(path), name=path.name, file_bytes=path.stat().st_size)
    raise FileFormatError(f"{path} is neither a .safetensors policy nor an .onnx model")


def policy_rows(policy: CompactPolicy, name: str = "policy", file_bytes: int | None = None) -> ModelRows:
    """The rows of a compact policy."""
    arrays = (policy.action_low, policy.action_high, policy.observation_mean, policy.observation_scale)
    return ModelRows(
        name=name,
        kind="policy",
        layers=tuple(_row(layer) for layer in policy.layers),
        constant_bytes=sum(array.nbytes for array in arrays if array is not None),
        file_bytes=file_bytes,
    )


def matrix_row(
    n_inputs: int, n_outputs: int, connections: int, precision: Precision, *, has_bias: bool = True
) -> LayerRow:
    """A layer known by its matrix, stored as the compact form would: dense or single connections, what is smaller."""
    n_biases = n_outputs if has_bias else 0
    index_bytes = 2 * connections + 4 * (n_outputs + 1)  # 16-bit columns, 32-bit row starts
    sparse_bytes = connections * _item_size(precision) + index_bytes + _row_bytes(n_outputs, n_biases, precision)
    dense = dense_bytes(n_inputs, n_outputs, n_biases, precision)
    is_sparse = sparse_bytes < dense
    return LayerRow(
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        n_biases=n_biases,
        connections=connections,
        precision=precision,
        block=1,
        is_sparse=is_sparse,
        stored_weights=connections if is_sparse else n_inputs * n_outputs,
        stored_bytes=min(sparse_bytes, dense),
    )


def dense_bytes(n_inputs: int, n_outputs: int, n_biases: int, precision: Precision) -> int:
    """Bytes of a dense layer: weights, biases, and int8's scales."""
    return n_inputs * n_outputs * _item_size(precision) + _row_bytes(n_outputs, n_biases, precision)


def _row(layer: Layer) -> LayerRow:
    return LayerRow(
        n_inputs=layer.n_inputs,
        n_outputs=layer.n_outputs,
        n_biases=layer.n_outputs,
        connections=layer.connections,
        precision=layer.precision,
        block=layer.block,
        is_sparse=layer.is_sparse,
        stored_weights=layer.stored_weights,
        stored_bytes=layer.n_bytes,
    )


def _item_size(precision: Precision) -> int:
    return PRECISIONS[precision]().itemsize


def _row_bytes(n_outputs: int, n_biases: int, precision: Precision) -> int:
    """Bytes of biases, and of int8's scales."""
    return 4 * n_biases + (4 * n_outputs if precision == "int8" else 0)

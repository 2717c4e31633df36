"""A model as profiling sees it: a row for each affine layer, whether it came from a file or a description."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgerl.edge.acting.policy import DENSE_IS_SLOWER_BELOW, LAYOUTS, Layout
from edgerl.edge.runtimes import ModelKind
from edgerl.policy.activation import ActivationName
from edgerl.policy.cell import CellName, MaybeCell, architecture
from edgerl.policy.compact import PRECISIONS, CompactPolicy, Precision

FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerRow(MaybeCell):
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
    connected_outputs: int  # those that at least one input reaches
    activation: ActivationName | CellName = "relu"  # of a hidden layer, like the norm
    has_norm: bool = False

    @property
    def positions(self) -> int:
        """Weights of the dense matrix."""
        return self.n_inputs * self.n_outputs

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense matrix in the stored precision, with scales and biases."""
        return dense_bytes(self.n_inputs, self.n_outputs, self.n_biases, self.precision)

    @property
    def tried_layouts(self) -> tuple[Layout, ...]:
        """The layouts that the native engine measures and chooses from: dense only where the layer is not sparse."""
        is_tried_dense = self.connections >= DENSE_IS_SLOWER_BELOW * self.positions
        return tuple(layout for layout in LAYOUTS if layout != "dense" or is_tried_dense)


@dataclass(frozen=True)
class ModelRows:
    """A multi-layer perceptron as rows; `constant_bytes` is what normalisation and action scaling hold."""

    name: str
    kind: ModelKind
    layers: tuple[LayerRow, ...]
    constant_bytes: int
    file_bytes: int | None  # None: the model is not in a file
    policy: CompactPolicy | None = field(default=None, repr=False, compare=False)  # where all weights are known

    @property
    def architecture(self) -> str:
        """Layer widths, as in 17-256-256-6."""
        return architecture(self.layers)


def matrix_row(
    n_inputs: int,
    n_outputs: int,
    connections: int,
    precision: Precision,
    *,
    has_bias: bool = True,
    block: int = 1,
    connected_outputs: int | None = None,
) -> LayerRow:
    """A layer known by its matrix, stored as in the compact form: dense or sparse, whichever is smaller.

    Where `connected_outputs` is not known, every output counts.
    """
    n_biases = n_outputs if has_bias else 0
    n_blocks, block_rows = -(-connections // block), -(-n_outputs // block)
    index_bytes = 2 * n_blocks + 4 * (block_rows + 1)  # 16-bit columns, 32-bit row starts
    sparse_bytes = _value_bytes(n_blocks * block, precision) + index_bytes + _row_bytes(n_outputs, n_biases, precision)
    dense = dense_bytes(n_inputs, n_outputs, n_biases, precision)
    is_sparse = sparse_bytes < dense
    return LayerRow(
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        n_biases=n_biases,
        connections=connections,
        precision=precision,
        block=block,
        is_sparse=is_sparse,
        stored_weights=n_blocks * block if is_sparse else n_inputs * n_outputs,
        stored_bytes=min(sparse_bytes, dense),
        connected_outputs=n_outputs if connected_outputs is None else connected_outputs,
    )


def dense_bytes(n_inputs: int, n_outputs: int, n_biases: int, precision: Precision) -> int:
    """Bytes of a dense layer: weights, biases, and int8's scales."""
    return _value_bytes(n_inputs * n_outputs, precision) + _row_bytes(n_outputs, n_biases, precision)


def _value_bytes(count: int, precision: Precision) -> int:
    return -(-count // 2) if precision == "int4" else count * PRECISIONS[precision]().itemsize


def _row_bytes(n_outputs: int, n_biases: int, precision: Precision) -> int:
    """Bytes of biases, and of int8's and int4's scales."""
    return 4 * n_biases + (4 * n_outputs if precision in ("int8", "int4") else 0)

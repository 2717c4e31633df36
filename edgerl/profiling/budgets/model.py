"""A policy, an ONNX file or a described network as layer rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from edgerl import run_folder
from edgerl.errors import ConfigError, quoted
from edgerl.files.kind import is_onnx
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, Layer, as_floats
from edgerl.profiling.budgets.onnx_graph import read_onnx
from edgerl.profiling.budgets.rows import FLOAT_BYTES, LayerRow, ModelRows, matrix_row
from edgerl.profiling.latency.points import parse_net


def read_model(path: Path) -> ModelRows:
    """The rows of a policy.safetensors or of any ONNX multi-layer perceptron.

    A run folder means its policy.safetensors. Raises FileFormatError or UnsupportedModelError; nothing in the file is
    trusted.
    """
    if path.is_dir():
        path = path / run_folder.POLICY
    if is_onnx(path):
        return read_onnx(path)
    return policy_rows(policy_file.load(path), name=path.name, file_bytes=path.stat().st_size)


def policy_rows(policy: CompactPolicy, name: str = "policy", file_bytes: int | None = None) -> ModelRows:
    """The rows of a compact policy."""
    normalisation = policy.observation_offset, policy.observation_mean, policy.observation_scale
    arrays = (policy.action_low, policy.action_high, *normalisation)
    return ModelRows(
        name=name,
        kind="policy",
        layers=tuple(_row(layer) for layer in policy.layers),
        constant_bytes=sum(array.nbytes for array in arrays if array is not None),
        file_bytes=file_bytes,
        policy=policy,
    )


def network_rows(net: str, density: float = 1.0, block: int = 1) -> ModelRows:
    """The rows of a network that does not exist yet: layer widths as in 13-64-64-4, fp32.

    `density` is each hidden layer's, in (0, 1]; the output layer is dense, as training has it by default. `block` is 1
    or 4. Raises ConfigError.
    """
    widths = parse_net(net)
    if widths is None:
        raise ConfigError(f"the network is {quoted(net)}; expected layer widths, as in 13-64-64-4")
    if not 0 < density <= 1:
        raise ConfigError(f"the density is {density}; expected a number above 0, at most 1")
    if block not in (1, 4):
        raise ConfigError(f"the block is {block}; expected 1 or 4")
    *hidden, output = pairwise(widths)
    rows = [_hidden_row(n, m, density, block) for n, m in hidden]
    remark = (
        "" if density == 1 else f" at density {density:g} in {'single connections' if block == 1 else 'blocks of 4'}"
    )
    return ModelRows(
        name=f"network {net}{remark}",
        kind="network",
        layers=(*rows, matrix_row(*output, connections=output[0] * output[1], precision="fp32")),
        constant_bytes=2 * FLOAT_BYTES * widths[-1],  # the action bounds
        file_bytes=None,
    )


def _hidden_row(n_inputs: int, n_outputs: int, density: float, block: int) -> LayerRow:
    """A layer with connections at random positions; an output has none with the chance (1 − density) ** inputs."""
    n_units = n_inputs * -(-n_outputs // block)
    count = min(block * max(1, round(density * n_units)), n_inputs * n_outputs)
    connected = max(1, round(n_outputs * (1 - (1 - density) ** n_inputs)))
    return matrix_row(n_inputs, n_outputs, count, "fp32", block=block, connected_outputs=connected)


def _row(layer: Layer) -> LayerRow:
    whole = as_floats(layer)  # with its outliers
    if whole.row_starts is None:
        connected = int(np.count_nonzero(whole.values.any(axis=1)))
    else:  # of a block that has a connection, all outputs
        connected = min(layer.n_outputs, layer.block * int(np.count_nonzero(np.diff(whole.row_starts))))
    return LayerRow(
        n_inputs=layer.n_inputs,
        n_outputs=layer.n_outputs,
        n_biases=layer.n_outputs,
        connections=layer.connections,
        precision=layer.precision,
        block=layer.block,
        is_sparse=layer.is_sparse,
        stored_weights=whole.stored_weights,
        stored_bytes=layer.n_bytes,
        connected_outputs=connected,
        activation=layer.activation,
        has_norm=layer.norm is not None,
    )

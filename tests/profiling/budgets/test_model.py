"""Rows of compact policies, against their arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import FileFormatError
from edgerl.policy.compact import CompactPolicy, Precision, make_layer
from edgerl.policy.format import save
from edgerl.profiling.budgets.model import policy_rows, read_model
from edgerl.profiling.budgets.rows import matrix_row


def sparse_matrix(n_outputs: int, n_inputs: int, count: int, dtype: type = np.float32) -> np.ndarray:
    generator = np.random.default_rng(n_outputs)
    flat = np.zeros(n_outputs * n_inputs, dtype)
    flat[generator.choice(flat.size, count, replace=False)] = generator.integers(1, 100, count)
    return flat.reshape(n_outputs, n_inputs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("count", [0, 40, 256])
def test_a_matrix_row_is_what_the_compact_form_stores(dtype: type, count: int) -> None:
    scale = np.ones(16, np.float32) if dtype is np.int8 else None
    layer = make_layer(sparse_matrix(16, 16, count, dtype), np.zeros(16, np.float32), 1, scale)
    row = matrix_row(16, 16, count, layer.precision)
    assert row.stored_bytes == layer.n_bytes
    assert row.stored_weights == layer.stored_weights
    assert row.is_sparse == layer.is_sparse
    assert row.connections == layer.connections == count


@pytest.mark.parametrize(
    ("precision", "stored", "dense"),
    [("fp32", 3 * 4, 64 * 4), ("fp16", 3 * 2, 64 * 2), ("int8", 3 + 4 * 8, 64 + 4 * 8)],  # int8: a scale per output
)
def test_a_row_without_biases(precision: Precision, stored: int, dense: int) -> None:
    row = matrix_row(8, 8, 3, precision, has_bias=False)
    assert row.is_sparse
    assert row.stored_bytes == stored + 2 * 3 + 4 * 9  # columns and row starts
    assert row.dense_bytes == dense


def test_the_rows_of_a_policy_file(tmp_path: Path) -> None:
    blocks = np.zeros((8, 3), np.float32)
    blocks[0, 1] = 1  # one weight of a block of four
    layers = (make_layer(blocks, np.zeros(8, np.float32), 4), make_layer(np.ones((2, 8), np.float32), np.ones(2), 1))
    policy = CompactPolicy(layers, *(np.asarray(a, np.float32) for a in ([-1, -1], [1, 1], [0] * 3, [1] * 3)))
    path = tmp_path / "policy.safetensors"
    save(policy.with_example(np.zeros(3, np.float32)), path)
    rows = read_model(path)
    assert rows.architecture == "3-8-2"
    assert rows.constant_bytes == 4 * (2 + 2 + 3 + 3)
    assert rows.file_bytes == path.stat().st_size
    assert (rows.layers[0].connections, rows.layers[0].stored_weights, rows.layers[0].block) == (1, 4, 4)
    assert rows.layers[0].stored_bytes == 4 * 4 + 2 + 4 * 3 + 4 * 8  # one block, its column, three starts, biases
    assert rows.layers[1].stored_bytes == rows.layers[1].dense_bytes == 4 * (16 + 2)
    assert policy_rows(policy).file_bytes is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.pt").write_bytes(b"x")
    with pytest.raises(FileFormatError, match=r"policy\.pt is a text file; expected a policy\.safetensors"):
        read_model(tmp_path / "policy.pt")

"""One-shot pruning that mends what it breaks: optimal brain surgery in one pass over a layer's inputs.

Source: Frantar and Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot (ICML 2023),
algorithm 1; the optimal brain surgeon: Hassibi and Stork (1993). Differences are numbered in docs/compress.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policy.compact import CompactPolicy, as_blocks, product
from edgerl.policy.pruning import (
    PLAIN,
    Affine,
    Functions,
    compact,
    functions_of,
    network_of,
    remove_dead_units,
    weights_left,
    with_network,
)

Array = npt.NDArray[Any]

COLUMNS = 128
"""Inputs whose connections are chosen together, each such group losing the same share."""

DAMPING = 0.01
"""Is added to the Hessian's diagonal, as a share of its mean."""


def prune_by_reconstruction(
    network: Sequence[Affine],
    inputs: Array,
    sparsity: float,
    block: int,
    dense_weights: int,
    functions: Functions = PLAIN,
) -> list[Affine]:
    """Remove the same share of each hidden layer's connections, until 1 − weights / dense_weights = sparsity, those
    whose loss the others can make up for best; and let the others make up for it.

    inputs: rows as the first layer is given them, [count, inputs]. dense_weights: of the network as trained. Each layer
    is mended for what the pruned ones before it give. The output layer is kept, as in training.

    Raises ConfigError where the sparsity is below the network's own, or above what the output layer allows.
    """
    hidden_left, hidden = weights_left(network, sparsity, dense_weights)
    x, pruned = inputs.astype(np.float64), list[Affine]()
    for index, (weight, bias) in enumerate(network[:-1]):
        mended, shifted = _without(weight, bias, x, hidden_left / hidden, block)
        pruned.append((mended.astype(weight.dtype), shifted.astype(bias.dtype)))
        x = functions.hidden(index, product(x, mended.T) + shifted)
    return [*pruned, network[-1]]


def _without(weight: Array, bias: Array, x: Array, kept: float, block: int) -> tuple[Array, Array]:
    """(weight, bias) of a layer with inputs x [count, inputs] that keeps this share of its connections.

    The bias is the connection of an input that is always 1: the last one, and never removed.
    """
    n_inputs = weight.shape[1]
    w = np.column_stack([weight, bias]).astype(np.float64)
    surgery = _surgery(np.column_stack([x, np.ones(len(x))]))
    for first in range(0, n_inputs, COLUMNS):
        columns = np.arange(first, min(first + COLUMNS, n_inputs))
        costs = np.square(w[:, columns] / np.diag(surgery)[columns])
        gone = _least(costs, weight[:, columns] != 0, kept, block)
        for column, removed in zip(columns, gone.T, strict=True):
            error = np.where(removed, w[:, column], 0) / surgery[column, column]
            w[:, column:] -= np.outer(error, surgery[column, column:])
            w[removed, column] = 0  # exactly
    return w[:, :-1], w[:, -1]


def _surgery(x: Array) -> Array:
    """The upper Cholesky factor of the inverse Hessian of a layer's squared error, [inputs, inputs]: row i says how the
    connections behind i make up for the loss of i."""
    hessian = product(x.T, x) / len(x)
    hessian[np.diag_indices_from(hessian)] += DAMPING * np.diag(hessian).mean()
    factor: Array = np.linalg.cholesky(np.linalg.inv(hessian)).T
    return factor


def _least(costs: Array, present: Array, kept: float, block: int) -> Array:
    """Which connections [outputs, columns] go: those that were absent, and the cheapest blocks of the others."""
    counts = as_blocks(present, block).sum(axis=2)
    means = as_blocks(np.where(present, costs, 0), block).sum(axis=2) / np.maximum(counts, 1)
    order = np.argsort(means, axis=None, kind="stable")
    done = np.cumsum(counts.reshape(-1)[order])  # connections, from the cheapest on; the absent ones are first
    gone = np.zeros(counts.size, bool)
    gone[order[: np.searchsorted(done, done[-1] - round(kept * done[-1]), side="right")]] = True
    removed: Array = np.repeat(gone.reshape(counts.shape), block, axis=0)[: len(costs)]
    return removed | ~present


def compact_by_reconstruction(policy: CompactPolicy, sparsity: float, observations: Array) -> CompactPolicy:
    """The policy without dead units, pruned so to `sparsity` in view of observations [count, n], less its offset.

    sparsity: 1 − weights / weights of a dense network of `policy`'s own widths.

    Raises ConfigError, UnsupportedModelError.
    """
    whole, positions = compact(policy), sum(layer.n_inputs * layer.n_outputs for layer in policy.layers)
    functions, block = functions_of(whole), whole.layers[0].block
    inputs = whole.normalised(observations.astype(np.float32))
    network = prune_by_reconstruction(network_of(whole), inputs, sparsity, block, positions, functions)
    return with_network(whole, remove_dead_units(network, block, functions), "fp32")

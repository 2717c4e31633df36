"""One-shot pruning by reconstruction: against the optimal brain surgeon's own formula, and against magnitude."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgerl.errors import ConfigError
from edgerl.policy.pruning import compact, prune_by_magnitude
from edgerl.policy.surgeon import DAMPING, compact_by_reconstruction, prune_by_reconstruction
from tests.policy.policies import random_policy

Array = npt.NDArray[Any]
Network = list[tuple[Array, Array]]


def network_of(widths: tuple[int, ...], seed: int = 0, density: float = 1.0) -> Network:
    """Random, float64."""
    draw = np.random.default_rng(seed)
    return [
        (draw.normal(size=(m, n)) * (draw.random((m, n)) < density), draw.normal(size=m)) for n, m in pairwise(widths)
    ]


def correlated(count: int, n: int, seed: int = 1) -> Array:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, n)) @ draw.normal(size=(n, n)) / np.sqrt(n) + 0.5


def weights(network: Network) -> int:
    return sum(int(np.count_nonzero(weight)) for weight, _ in network)


def surgeon(weight: Array, bias: Array, x: Array, mask: Array) -> Array:
    """The same removals, [outputs, inputs + 1]: the inverse of what is left of the Hessian, computed anew each time."""
    x = np.column_stack([x, np.ones(len(x))])
    hessian = x.T @ x / len(x)
    hessian += DAMPING * np.diag(hessian).mean() * np.eye(len(hessian))
    w = np.column_stack([weight, bias])
    for column in range(weight.shape[1]):
        inverse = np.linalg.inv(hessian[column:, column:])
        for row in np.flatnonzero(~mask[:, column]):
            w[row, column:] -= w[row, column] / inverse[0, 0] * inverse[0]
    return w


@pytest.mark.parametrize("density", [1.0, 0.6])
@pytest.mark.parametrize("block", [1, 4])
def test_what_is_left_is_what_the_optimal_brain_surgeon_leaves(block: int, density: float) -> None:
    network, x = network_of((9, 14, 3), density=density), correlated(200, 9)
    dense = 9 * 14 + 14 * 3
    pruned = prune_by_reconstruction(network, x, 1 - (weights(network) - 40) / dense, block, dense)
    (weight, bias), (mended, shifted) = network[0], pruned[0]
    mask = mended != 0
    assert not (mask & (weight == 0)).any(), "nothing grows"
    np.testing.assert_allclose(np.column_stack([mended, shifted]), surgeon(weight, bias, x, mask), atol=1e-9)
    assert abs(weights(network) - 40 - weights(pruned)) < block
    assert pruned[1] is network[1]


@pytest.mark.parametrize("columns", [5, 300])
def test_the_loss_is_smaller_than_by_magnitude(columns: int) -> None:
    """Also where there are several groups of columns."""
    network, x = network_of((columns, 40, 2), seed=3), correlated(2000, columns)
    dense = columns * 40 + 80
    wanted = 1 - (80 + columns * 16) / dense
    by_reconstruction = prune_by_reconstruction(network, x, wanted, 1, dense)
    by_magnitude = prune_by_magnitude(network, wanted, 1, dense)
    assert weights(by_reconstruction) == pytest.approx(weights(by_magnitude), abs=3)

    def loss(pruned: Network) -> float:
        (old, old_bias), (new, new_bias) = network[0], pruned[0]
        return float(np.square(x @ (old - new).T + old_bias - new_bias).mean())

    assert loss(by_reconstruction) < 0.6 * loss(by_magnitude)


def test_each_layer_is_mended_for_what_the_ones_before_it_give_now() -> None:
    """So the second one's inputs are those of the pruned first."""
    network, x = network_of((6, 20, 20, 2), seed=5), correlated(500, 6)
    dense = 6 * 20 + 400 + 40
    first, second, _ = prune_by_reconstruction(network, x, 0.5, 1, dense)
    inputs = np.maximum(x @ first[0].T + first[1], 0)
    expected = surgeon(*network[1], inputs, second[0] != 0)
    np.testing.assert_allclose(np.column_stack(second), expected, atol=1e-9)


def test_inputs_that_never_vary_and_fewer_rows_than_inputs() -> None:
    network, x = network_of((30, 16, 2)), np.zeros((8, 30))
    x[:, :3] = correlated(8, 3)
    pruned = prune_by_reconstruction(network, x, 0.5, 1, 30 * 16 + 32)
    assert all(np.isfinite(part).all() for affine in pruned for part in affine)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 0.99, float("nan")])
def test_sparsities_that_are_refused(sparsity: float) -> None:
    with pytest.raises(ConfigError, match=r"sparsity is .*; expected"):
        prune_by_reconstruction(network_of((9, 14, 3)), correlated(20, 9), sparsity, 1, 9 * 14 + 42)


@pytest.mark.parametrize("head", ["tanh", "clip"])
@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_a_policy_acts_more_like_itself_than_pruned_by_magnitude(activation: Any, head: Any) -> None:
    policy = random_policy(2, (8, 48, 48, 3), activation=activation, head=head, density=1.0)
    x = correlated(3000, 8).astype(np.float32)
    mended, cut = compact_by_reconstruction(policy, 0.6, x[:2000]), compact(policy, sparsity=0.6)
    assert mended.connections <= round(0.4 * (8 * 48 + 48 * 48 + 48 * 3)) + 2
    before = policy.without_offset(x[2000:])
    mine, other = (np.square(each.without_offset(x[2000:]) - before).mean() for each in (mended, cut))
    assert mine < 0.5 * other

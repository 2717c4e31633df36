"""Exact removal against PyTorch in float64 on networks full of dead units; magnitude pruning and quantisation."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgerl.errors import ConfigError, UnsupportedModelError
from edgerl.policy.compact import CompactPolicy, Precision, as_floats, make_layer
from edgerl.policy.pruning import (
    compact,
    find_outliers,
    network_of,
    prune_by_magnitude,
    quantise_layer,
    remove_dead_units,
    storage_of,
    stored,
)
from tests.policy.policies import Network, masked_network, random_policy

Array = npt.NDArray[Any]


def _torch(network: Network, observations: Array, dtype: torch.dtype = torch.float64) -> Array:
    """The outputs before tanh, by PyTorch."""
    x = torch.from_numpy(observations).to(dtype)
    for index, (weight, bias) in enumerate(network):
        x = nn.functional.linear(x, torch.from_numpy(weight).to(dtype), torch.from_numpy(bias).to(dtype))
        if index < len(network) - 1:
            x = torch.relu(x)
    outputs: Array = x.numpy().astype(np.float64)
    return outputs


def _magnitudes(network: Network, observations: Array) -> Array:
    """What the outputs would be if nothing cancelled."""
    x = np.abs(observations.astype(np.float64))
    for weight, bias in network:
        x = x @ np.abs(weight.astype(np.float64)).T + np.abs(bias)
    return x


networks = {
    "seed": st.integers(0, 2**32),
    "widths": st.lists(st.integers(1, 14), min_size=2, max_size=5),
    "block": st.sampled_from([1, 4]),
    "density": st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]),
}


@given(**networks)
@settings(max_examples=300)
def test_removal_is_exact_in_float64(seed: int, widths: list[int], block: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    network = masked_network(rng, tuple(widths), block, density)
    before = [(weight.copy(), bias.copy()) for weight, bias in network]
    observations = rng.normal(size=(20, widths[0]))
    removed = remove_dead_units(network, block)
    difference = np.abs(_torch(network, observations) - _torch(removed, observations))
    assert difference.max() <= 1e-12 * max(1, np.abs(_torch(network, observations)).max())
    for (weight, bias), (old_weight, old_bias) in zip(network, before, strict=True):
        assert np.array_equal(weight, old_weight), "its arguments are unchanged"
        assert np.array_equal(bias, old_bias)


@given(**networks)
@settings(max_examples=200)
def test_nothing_dead_remains(seed: int, widths: list[int], block: int, density: float) -> None:
    network = masked_network(np.random.default_rng(seed), tuple(widths), block, density)
    removed = remove_dead_units(network, block)
    assert removed[0][0].shape[1] == widths[0]
    assert removed[-1][0].shape[0] == widths[-1]
    for (weight, bias), (following, _) in pairwise(removed):
        assert len(weight) == len(bias) == following.shape[1]
        for start in range(0, len(weight), block):
            rows = range(start, min(start + block, len(weight)))
            living = [any(weight[r] != 0) and any(following[:, r] != 0) for r in rows]
            if not any(living):
                assert len(weight) == len(rows), "a dead block stays only where it is all that its layer has"
            for row, lives in zip(rows, living, strict=True):
                if not lives:
                    assert not weight[row].any(), "what is dead in a living block is zeros"
                    assert not bias[row]
                    assert not following[:, row].any()
    again = remove_dead_units(removed, block)
    for (weight, bias), (next_weight, next_bias) in zip(removed, again, strict=True):
        assert np.array_equal(weight, next_weight)
        assert np.array_equal(bias, next_bias)


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(4, 40), min_size=3, max_size=5),
    st.sampled_from([1, 4]),
    st.sampled_from([0.2, 0.5]),
)
@settings(max_examples=150)
def test_float32_stays_as_near_to_the_float64_oracle(seed: int, widths: list[int], block: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    network = [
        (weight.astype(np.float32), bias.astype(np.float32))
        for weight, bias in masked_network(rng, tuple(widths), block, density)
    ]
    observations = rng.normal(size=(200, widths[0])).astype(np.float32)
    oracle = _torch([(w.astype(np.float64), b.astype(np.float64)) for w, b in network], observations.astype(np.float64))
    masked = np.abs(_torch(network, observations, torch.float32) - oracle).max()
    removed = remove_dead_units(network, block)
    assert all(weight.dtype == bias.dtype == np.float32 for weight, bias in removed)
    compacted = np.abs(_torch(removed, observations, torch.float32) - oracle).max()
    # The order of a sum depends on its length, so that a masked network can be nearer by luck: by one rounding of the
    # largest magnitude that its sums run through.
    largest = _magnitudes(network, observations).max()
    assert compacted <= 2 * masked + 2.0**-24 * largest


def _chain(*layers: list[list[float]], biases: list[list[float]] | None = None) -> Network:
    return [
        (np.array(weight, float), np.array(biases[i] if biases else np.zeros(len(weight)), float))
        for i, weight in enumerate(layers)
    ]


def test_a_death_spreads_backwards() -> None:
    """Unit 1 of the last hidden layer has no outgoing weights, so unit 1 before it has none either, and so on."""
    network = _chain([[1], [2]], [[1, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0]])
    removed = remove_dead_units(network, 1)
    assert [weight.tolist() for weight, _ in removed] == [[[1]], [[1]], [[1]], [[1]]]


def test_a_death_spreads_forwards_as_a_constant() -> None:
    """Unit 1 has no input: its relu(3) goes on as a bias, and its successor is a constant in turn: relu(3·2 + 1)."""
    network = _chain([[1], [0]], [[1, 0], [0, 2]], [[1, 5]], [[1]], biases=[[0, 3], [0, 1], [0.5], [0]])
    removed = remove_dead_units(network, 1)
    assert [weight.tolist() for weight, _ in removed] == [[[1]], [[1]], [[1]], [[1]]]
    assert [bias.tolist() for _, bias in removed] == [[0], [0], [0.5 + 5 * 7], [0]]


def test_a_negative_constant_is_zero_after_relu() -> None:
    removed = remove_dead_units(_chain([[1], [0]], [[1, 4]], biases=[[0, -3], [0.25]]), 1)
    assert [(weight.tolist(), bias.tolist()) for weight, bias in removed] == [([[1]], [0]), ([[1]], [0.25])]


def test_a_unit_that_loses_its_last_way_out_by_folding_takes_its_inputs_with_it() -> None:
    """Unit 0 feeds only unit 1 of the next layer, which leads nowhere: both go, and unit 2, constant, is folded."""
    network = _chain([[1], [1], [0]], [[0, 1, 2], [1, 0, 0]], [[3, 0]], biases=[[1, 1, 1], [0, 0], [0]])
    removed = remove_dead_units(network, 1)
    assert [(weight.tolist(), bias.tolist()) for weight, bias in removed] == [([[1]], [1]), ([[1]], [2]), ([[3]], [0])]


@pytest.mark.parametrize("block", [1, 4])
def test_a_layer_that_is_wholly_dead_keeps_one_block_of_zeros(block: int) -> None:
    network = _chain(np.zeros((9, 3)).tolist(), np.ones((2, 9)).tolist(), biases=[[2.0] * 9, [1, -1]])
    (weight, bias), (following, next_bias) = remove_dead_units(network, block)
    assert weight.tolist() == np.zeros((block, 3)).tolist()
    assert bias.tolist() == [0] * block
    assert following.tolist() == np.zeros((2, block)).tolist()
    assert next_bias.tolist() == [1 + 18, -1 + 18]


def test_a_block_goes_only_when_all_its_units_are_dead() -> None:
    weight, following = np.ones((10, 1)), np.ones((1, 10))
    following[0, [0, 1, 2, 3, 4, 5, 6, 8]] = 0  # block 0 dead; block 1 lives by unit 7; the narrow one by unit 9
    (kept, _), (next_kept, _) = remove_dead_units([(weight, np.ones(10)), (following, np.zeros(1))], 4)
    assert kept[:, 0].tolist() == [0, 0, 0, 1, 0, 1]
    assert next_kept.tolist() == [[0, 0, 0, 1, 0, 1]]
    following[0, 9] = 0
    (kept, _), _ = remove_dead_units([(weight, np.ones(10)), (following, np.zeros(1))], 4)
    assert kept[:, 0].tolist() == [0, 0, 0, 1]


def test_one_layer_has_no_hidden_unit() -> None:
    ((weight, bias),) = remove_dead_units(_chain([[0, 0], [1, 2]], biases=[[3, 4]]), 4)
    assert (weight.tolist(), bias.tolist()) == ([[0, 0], [1, 2]], [3, 4])


# Pruning by magnitude.


def _random_network(seed: int, widths: tuple[int, ...], density: float = 0.6, block: int = 1) -> Network:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(m, n)) * np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m],
            rng.normal(size=m),
        )
        for n, m in pairwise(widths)
    ]


def _prune_naively(network: Network, wanted: int, block: int) -> list[Array]:
    """One block after the other, the smallest mean of what it has first, while more than `wanted` weights stay."""
    weights = [weight.copy() for weight, _ in network]
    found = []
    for index, weight in enumerate(weights[:-1]):
        for row in range(0, len(weight), block):
            for column in range(weight.shape[1]):
                values = [abs(v) for v in weight[row : row + block, column] if v != 0]
                if values:
                    found.append((sum(values) / len(values), index, row, column, len(values)))
    left = sum(np.count_nonzero(weight) for weight in weights)
    for _, index, row, column, count in sorted(found):
        if left - count < wanted:
            break
        weights[index][row : row + block, column] = 0
        left -= count
    return weights


@given(st.integers(0, 2**32), st.lists(st.integers(2, 12), min_size=3, max_size=4), st.sampled_from([1, 4]), st.data())
def test_the_smallest_blocks_go(seed: int, widths: list[int], block: int, data: st.DataObject) -> None:
    network = _random_network(seed, tuple(widths), block=block)
    dense = sum(weight.size for weight, _ in network)
    present = sum(int(np.count_nonzero(weight)) for weight, _ in network)
    output = int(np.count_nonzero(network[-1][0]))
    if present - output < 1:
        return
    wanted = data.draw(st.integers(output + 1, present))
    pruned = prune_by_magnitude(network, 1 - wanted / dense, block, dense)
    expected = _prune_naively(network, wanted, block)
    for (weight, bias), wanted_weight, (_, old_bias) in zip(pruned, expected, network, strict=True):
        assert np.array_equal(weight, wanted_weight)
        assert np.array_equal(bias, old_bias)
    left = sum(np.count_nonzero(weight) for weight, _ in pruned)
    assert wanted <= left < wanted + block, "the requested sparsity, to within a block"


def test_halfcheetah_at_nine_tenths() -> None:
    network = [(w.astype(np.float32), b) for w, b in _random_network(0, (17, 256, 256, 6), density=1)]
    pruned = prune_by_magnitude(network, 0.9, 1, 71424)
    assert sum(np.count_nonzero(weight) for weight, _ in pruned) == 7142
    assert np.array_equal(pruned[-1][0], network[-1][0])
    smallest_kept = min(np.abs(weight[weight != 0]).min() for weight, _ in pruned[:-1])
    gone = [old[(new == 0) & (old != 0)] for (old, _), (new, _) in zip(network[:-1], pruned[:-1], strict=True)]
    assert np.abs(np.concatenate(gone)).max() <= smallest_kept


def test_sparsity_refers_to_the_network_as_it_was_trained() -> None:
    network = _random_network(1, (4, 8, 2), density=1)
    pruned = prune_by_magnitude(network, 0.75, 1, 96)  # of a trained network of 96 weights, 48 are left
    assert sum(np.count_nonzero(weight) for weight, _ in pruned) == 24


def test_sparsities_that_are_refused() -> None:
    network = _random_network(2, (4, 8, 2), density=1)  # 32 + 16
    for sparsity in (-0.1, 1, 1.5, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ConfigError, match=r"sparsity is .*; expected more than the policy's 0\.0000, and below 1"):
            prune_by_magnitude(network, sparsity, 1, 48)
    with pytest.raises(ConfigError, match=r"sparsity is 0\.25; expected more than the policy's 0\.5000"):
        prune_by_magnitude(network, 0.25, 1, 96)
    with pytest.raises(ConfigError, match=r"sparsity is 0\.9; expected at most 0\.6458, since the output layer"):
        prune_by_magnitude(network, 0.9, 1, 48)
    assert prune_by_magnitude(network, 0.6458, 1, 48)
    with pytest.raises(ConfigError, match=r"sparsity is 0\.5; expected at most"):
        prune_by_magnitude(network[-1:], 0.5, 1, 16)


# Quantisation.


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.floats(-40, 30), st.sampled_from([1, 4]))
def test_int8_is_off_by_half_a_step_at_most(
    seed: int, n_inputs: int, n_outputs: int, exponent: float, block: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(n_outputs, n_inputs)) * 10**exponent).astype(np.float32)
    weight[rng.random(weight.shape) < 0.5] = 0
    layer = quantise_layer(weight, np.zeros(n_outputs), block, "int8")
    assert layer.precision == "int8"
    assert np.abs(layer.stored_matrix().astype(int)).max() <= 127
    scale = layer.scale.astype(np.float64)
    assert (scale > 0).all()
    error = np.abs(layer.stored_matrix() * scale[:, None] - weight.astype(np.float64))
    assert (error <= scale[:, None] * (0.5 + 1e-4)).all()
    assert (layer.stored_matrix()[weight == 0] == 0).all()
    steps = np.abs(weight).max(axis=1) / scale
    assert (steps <= 127 * (1 + 1e-6)).all(), "the largest weight of a row is its 127"
    assert (steps[(scale > 1e-37) & weight.any(axis=1)] >= 127 * (1 - 1e-6)).all()


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 40), st.sampled_from([1, 4]))
def test_outliers_are_exact_and_the_rest_is_off_by_half_a_step_of_its_own(
    seed: int, n_inputs: int, n_outputs: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_t(1, (n_outputs, n_inputs)) * (rng.random((n_outputs, n_inputs)) < 0.7)).astype(np.float32)
    exact = (rng.random(weight.shape) < 0.2) & (weight != 0)
    layer = quantise_layer(weight, np.zeros(n_outputs), block, "int8", exact)
    found = layer.matrix()
    assert np.array_equal(found[exact], weight[exact])
    rest = np.abs(np.where(exact, 0, weight)).max(axis=1, keepdims=True)
    assert (np.abs(found.astype(np.float64) - weight) <= rest / 127 * (0.5 + 1e-4)).all()
    assert (layer.outliers is None) == (not exact.any())
    assert layer.connections == np.count_nonzero(found)
    assert np.array_equal(as_floats(layer).matrix(), found)
    assert as_floats(layer).is_sparse == layer.is_sparse


@given(st.integers(0, 2**32), st.integers(0, 6))
def test_the_outliers_of_one_row_are_its_largest_and_rows_get_them_where_they_take_the_most_away(
    seed: int, count: int
) -> None:
    """Against all ways to choose as many, of the squared error weights · scale² that they leave."""
    weight = np.random.default_rng(seed).standard_t(2, (3, 16))
    left = []
    for kept in product(range(3), repeat=3):  # an eighth of a row at most
        rows = (np.sort(np.abs(row))[::-1][k:] for row, k in zip(weight, kept, strict=True))
        left.append((sum(kept), sum(len(row) * row[0] ** 2 for row in rows)))
    (exact,) = find_outliers([(weight, np.zeros(3))], count / weight.size)
    used, error = exact.sum(), 0.0
    for row, mask in zip(weight, exact, strict=True):
        assert set(np.argsort(-np.abs(row))[: mask.sum()]) == set(np.flatnonzero(mask))
        rest = np.abs(row[~mask])
        error += len(rest) * rest.max() ** 2
    assert used <= count
    assert error <= min(squared for other, squared in left if other <= used) * (1 + 1e-12)


def test_int4_is_of_hidden_layers_and_off_by_half_a_step_at_most() -> None:
    policy = random_policy(0, (16, 40, 30, 20, 3), density=0.9)
    network = network_of(policy)
    for share in (0, 0.05):
        small = stored(policy, network, storage_of(network, "int4", share))
        assert [layer.precision for layer in small.layers] == ["int8", "int4", "int4", "int8"]
        for before, after in zip(policy.layers, small.layers, strict=True):
            rest = before.matrix(np.float64)
            if after.outliers is not None:
                exact = after.outliers.rows, after.outliers.columns
                assert np.array_equal(after.matrix()[exact], before.matrix()[exact])
                rest[exact] = 0
            steps = 7 if after.is_int4 else 127
            half = np.abs(rest).max(axis=1, keepdims=True) / steps * (0.5 + 1e-4)
            assert (np.abs(after.matrix(np.float64) - before.matrix(np.float64)) <= half).all()
            assert np.abs(after.stored_matrix()).max() <= steps
    one = compact(random_policy(0, (16, 3), density=1), precision="int4")
    assert [layer.precision for layer in one.layers] == ["int8"], "no layer is hidden"


def test_shares_of_outliers_that_are_refused() -> None:
    network = network_of(random_policy(0))
    with pytest.raises(
        ConfigError, match=r"`outliers` is 0\.01 with fp16 weights; expected a share in \[0, 0\.125\] with"
    ):
        storage_of(network, "fp16", 0.01)
    for share in (-0.1, 0.2, np.nan):
        with pytest.raises(ConfigError, match=r"`outliers` is .* with int8 weights; expected a share in"):
            storage_of(network, "int8", share)


@given(st.integers(0, 2**32), st.sampled_from([1, 4]))
def test_fp16_rounds_to_the_nearest(seed: int, block: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(6, 5)).astype(np.float32)
    layer = quantise_layer(weight, np.zeros(6), block, "fp16")
    assert layer.precision == "fp16"
    assert np.array_equal(layer.stored_matrix(), torch.from_numpy(weight).half().numpy())


def test_weights_that_do_not_fit() -> None:
    weight = np.array([[1, -65504.0]])
    assert quantise_layer(weight, np.zeros(1), 1, "fp16").stored_matrix().tolist() == [[1, -65504]]
    with pytest.raises(UnsupportedModelError, match=r"a weight of 65536 does not fit into fp16; use fp32"):
        quantise_layer(weight.clip(-65536, 1) * 65536 / 65504, np.zeros(1), 1, "fp16")
    with pytest.raises(UnsupportedModelError, match=r"a weight of 1e\+39 does not fit into fp32"):
        quantise_layer(weight / 65504 * 1e39, np.zeros(1), 1, "fp32")


# All together.


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("block", [1, 4])
def test_compact_end_to_end(block: int, precision: Precision) -> None:
    rng = np.random.default_rng(block)
    network = masked_network(rng, (6, 30, 21, 3), block, 0.2)
    policy = CompactPolicy(
        layers=tuple(make_layer(w.astype(np.float32), b, block) for w, b in network),
        action_low=np.array([-1, -2, -0.5], np.float32),
        action_high=np.array([1, 0.5, 3], np.float32),
        observation_mean=rng.normal(size=6).astype(np.float32),
        observation_scale=np.ones(6, np.float32),
        metadata={"environment": "Anything-v0"},
    ).with_example(rng.normal(size=6))
    compacted = compact(policy, precision=precision)
    assert compacted.connections < policy.connections
    assert compacted.layers[0].n_outputs < 30
    assert sum(layer.n_bytes for layer in compacted.layers) < sum(layer.n_bytes for layer in policy.layers)
    assert {layer.precision for layer in compacted.layers} == {precision}
    assert compacted.metadata == policy.metadata
    observations = rng.normal(size=(50, 6)).astype(np.float32)
    tolerance = {"fp32": 1e-6, "fp16": 1e-2, "int8": 0.1}[precision]
    span = policy.action_high - policy.action_low
    assert np.abs((compacted(observations, np.float64) - policy(observations, np.float64)) / span).max() < tolerance
    assert np.array_equal(compacted.example_observation, policy.example_observation)
    assert np.array_equal(compacted.example_action, compacted(policy.example_observation)), "the pair is its own"
    if precision == "int8":
        assert not np.array_equal(compacted.example_action, policy.example_action)


def test_compact_with_further_pruning() -> None:
    policy = random_policy(0, (6, 40, 40, 2), density=0.9)
    positions = 6 * 40 + 40 * 40 + 40 * 2
    pruned = compact(policy, sparsity=0.8)
    assert pruned.connections <= round(positions * 0.2)
    assert pruned.connections > positions * 0.17, "only the dead units' connections are gone"
    with pytest.raises(ConfigError, match=r"sparsity is 0\.01; expected more than"):
        compact(policy, sparsity=0.01)


def test_compacting_twice_changes_nothing() -> None:
    once = compact(random_policy(1, (6, 30, 30, 2), density=0.1, block=4))
    twice = compact(once)
    assert [layer.matrix().tolist() for layer in twice.layers] == [layer.matrix().tolist() for layer in once.layers]

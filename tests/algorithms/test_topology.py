"""Counts against the paper's, drop and grow against hand-written tables, and what must hold for any layer."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.algorithms.evolution import select_drop, select_growth, select_target_pruning
from edgerl.algorithms.topology import (
    LayerPlan,
    block_magnitude,
    describe_fixed_layers,
    draw_mask,
    expand,
    plan_by_lambdas,
    plan_by_sparsity,
    plan_dense,
    plan_layer,
)
from edgerl.config import Distribution, OutputLayer
from edgerl.edge.engine.growth import GROWTH_RULES
from edgerl.edge.engine.random import Draws, Network
from edgerl.errors import ConfigError

DRAWS = Draws(0)


def _bits(*rows: str) -> np.ndarray:
    return np.array([[character == "1" for character in row] for row in rows])


@pytest.mark.parametrize(
    ("n", "m", "lambda1", "total"),
    [(17, 6, 7, 106169), (11, 3, 7, 105233), (105, 8, 40, 144824), (348, 17, 61, 215774)],
)
def test_connections_are_the_papers(n: int, m: int, lambda1: float, total: int) -> None:
    actor = plan_by_lambdas((n, 256, 256, m), (lambda1, 64), 1)
    critic = plan_by_lambdas((n + m, 256, 256, 1), (lambda1, 64), 1)
    assert sum(p.connections for p in actor) + 2 * sum(p.connections for p in critic) == total


def test_halfcheetah_layer_by_layer() -> None:
    assert [p.connections for p in plan_by_lambdas((17, 256, 256, 6), (7, 64), 1)] == [1911, 32768, 1536]
    assert [p.connections for p in plan_dense((17, 256, 256, 6))] == [4352, 65536, 1536]


def test_lambda_that_is_too_large_is_refused_with_the_largest() -> None:
    with pytest.raises(ConfigError, match=r"`lambda1` 16 asks for 100% .* expected at most 15.94"):
        plan_by_lambdas((17, 256, 256, 6), (16, 64), 1)
    with pytest.raises(ConfigError, match=r"`lambda2` 200 .* layer 2 \(256×256\); expected at most 128"):
        plan_by_lambdas((17, 256, 256, 6), (7, 200), 1)


def test_lambda_that_leaves_no_connection_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`lambda1` 1e-06 leaves layer 1 no connection; raise it"):
        plan_by_lambdas((17, 256, 256, 6), (1e-6, 64), 1)


@given(
    st.lists(st.integers(1, 70), min_size=3, max_size=5),
    st.floats(0, 0.999),
    st.sampled_from([1, 4]),
    st.sampled_from(["er", "uniform"]),
    st.sampled_from(["dense", "sparse"]),
)
def test_sparsity_is_reached_or_refused(
    widths: list[int], sparsity: float, block: int, distribution: Distribution, output_layer: OutputLayer
) -> None:
    options: dict[str, Any] = {"distribution": distribution, "output_layer": output_layer}
    sizes = [n * m for n, m in pairwise(widths)]
    total, dense = sum(sizes), sizes[-1] if output_layer == "dense" else 0
    sparse_widths = widths[1:-1] if dense else widths[1:]
    if (1 - sparsity) * total - dense < sum(min(block, m) for m in sparse_widths):
        with pytest.raises(ConfigError, match="expected at most") as refused:
            plan_by_sparsity(widths, sparsity, block, **options)
        highest = re.search(r"at most ([\d.e-]+)", str(refused.value))
        assert highest is not None
        plan_by_sparsity(widths, max(0.0, float(highest[1].rstrip(".")) - 1e-9), block, **options)
        return
    plans = plan_by_sparsity(widths, sparsity, block, **options)
    rounding = sum(p.block for p in plans)
    assert abs(sum(p.connections for p in plans) - (1 - sparsity) * total) <= rounding
    assert all(1 <= p.connections <= p.n_inputs * p.n_outputs for p in plans)
    if output_layer == "dense":
        assert plans[-1].is_dense
    if distribution == "uniform":
        density = ((1 - sparsity) * total - dense) / (total - dense)
        sparse = plans[: len(sparse_widths)]
        assert all(abs(p.connections - density * p.n_inputs * p.n_outputs) <= block for p in sparse)


def test_one_epsilon_with_a_layer_that_is_capped() -> None:
    # 3×8 and 8×8 at 72 of 96 weights, 8 of them dense: ε = 64 / (11 + 16). Layer 1 would get 26 of 24: it is dense.
    plans = plan_by_sparsity((3, 8, 8, 1), 1 - 72 / 96, 1)
    assert [p.connections for p in plans] == [24, 40, 8]


@pytest.mark.parametrize(
    ("widths", "sparsity", "options", "expected"),
    [
        # 40 of 128 weights: ε = 40 / (12 + 16 + 12) = 1
        ((4, 8, 8, 4), 1 - 40 / 128, {"output_layer": "sparse"}, [12, 16, 12]),
        # 48 of 96: ε = 48 / 36 gives the output layer 12 of 8: it is dense, and ε = 40 / 27 gives 16.3 and 23.7
        ((3, 8, 8, 1), 0.5, {"output_layer": "sparse"}, [16, 24, 8]),
        # 80 of 128, 32 of them dense: half of the others
        ((4, 8, 8, 4), 0.375, {"distribution": "uniform"}, [16, 32, 32]),
        ((4, 8, 8, 4), 0.75, {"distribution": "uniform", "output_layer": "sparse"}, [8, 16, 8]),
        ((4, 8, 8, 4), 0.0, {"distribution": "uniform", "output_layer": "sparse"}, [32, 64, 32]),
        ((4, 8, 8, 4), 0.0, {"output_layer": "sparse"}, [32, 64, 32]),
    ],
)
@pytest.mark.parametrize("block", [1, 4])
def test_distributions_and_output_layers_by_hand(
    widths: tuple[int, ...], sparsity: float, options: dict[str, Any], expected: list[int], block: int
) -> None:
    assert [p.connections for p in plan_by_sparsity(widths, sparsity, block, **options)] == expected


def test_a_sparse_output_layer_narrower_than_a_block_has_narrow_blocks() -> None:
    *_, output = plan_by_sparsity((4, 8, 8, 3), 0.75, 4, distribution="uniform", output_layer="sparse")
    assert (output.full_blocks, output.narrow_blocks, output.connections) == (0, 2, 6)


@pytest.mark.parametrize(("block", "expected"), [(1, [9, 1, 1]), (4, [8, 1, 1])])
def test_a_layer_rounded_down_to_nothing_has_one_block(block: int, expected: list[int]) -> None:
    # 10.1 of 10101 weights, 1 of them dense: a uniform density of 0.0009 leaves the second layer 0.09 connections.
    plans = plan_by_sparsity((100, 100, 1, 1), 0.999, block, distribution="uniform")
    assert [p.connections for p in plans] == expected


def test_impossible_sparsity_names_the_highest() -> None:
    with pytest.raises(
        ConfigError, match=r"alone has 1536 of 71424 weights; expected at most 0\.9784, or `output_layer` sparse"
    ):
        plan_by_sparsity((17, 256, 256, 6), 0.99, 1)
    assert plan_by_sparsity((17, 256, 256, 6), 0.9784, 1)
    with pytest.raises(ConfigError, match=r"one block in each layer makes 3 of 128 weights; expected at most 0\.9765$"):
        plan_by_sparsity((4, 8, 8, 4), 0.99, 1, output_layer="sparse")
    assert plan_by_sparsity((4, 8, 8, 4), 0.9765, 1, output_layer="sparse")


def test_blocks_of_a_layer_that_is_no_multiple_of_four() -> None:
    plan = plan_layer(10, 7, 0.5, 4)  # one full block row, and one of width 3
    assert (plan.full_blocks, plan.narrow_blocks, plan.connections) == (5, 5, 5 * 4 + 5 * 3)
    mask = draw_mask(plan, DRAWS, Network.ACTOR, 0)
    assert mask.sum(axis=1).tolist() == [5, 5]
    weights = expand(mask, plan)
    assert weights.shape == (7, 10)
    assert weights.sum() == plan.connections
    assert (weights[0] == weights[3]).all()
    assert (weights[4] == weights[6]).all()


def test_expanding_narrow_blocks_keeps_the_width_of_the_full_ones() -> None:
    plan = plan_layer(2, 5, 1.0, 4)
    assert expand(_bits("10", "01"), plan).astype(int).tolist() == [[1, 0], [1, 0], [1, 0], [1, 0], [0, 1]]


def _plan(weight: np.ndarray, mask: np.ndarray, block: int = 1) -> LayerPlan:
    n_outputs, n_inputs = weight.shape
    full = n_outputs // block
    return LayerPlan(n_inputs, n_outputs, block, int(mask[:full].sum()), int(mask[full:].sum()))


def test_drop_takes_zeros_then_the_smallest_of_each_sign() -> None:
    mask = _bits("11111111", "00001111")
    weight = np.array([[0, 0.1, 0.2, -0.1, -0.5, 0.3, 0.4, -0.2], [0, 0, 0, 0, 0.5, 0.6, -0.3, -0.4]]) * mask
    # One exact zero; 6 positive and 5 negative ones: a quarter of each, rounded, is 2 and 1.
    drop = select_drop(weight, mask, _plan(weight, mask), 0.25)
    assert np.array_equal(drop, _bits("11110000", "00000000"))


def test_drop_breaks_ties_by_lower_position() -> None:
    mask = _bits("11110000")
    weight = np.array([[0.5, 0.2, 0.2, 0.2, 0, 0, 0, 0]])
    drop = select_drop(weight, mask, _plan(weight, mask), 0.5)
    assert np.array_equal(drop, _bits("01100000"))


def test_drop_never_exceeds_the_absent_positions() -> None:
    mask = _bits("11111110")
    weight = np.array([[0.0, 0.0, 0.0, 0.4, 0.1, -0.1, 0.6, 0.0]])
    drop = select_drop(weight, mask, _plan(weight, mask), 0.5)
    assert np.array_equal(drop, _bits("10000000"))


def test_a_layer_too_small_for_a_share_drops_its_smallest_connection() -> None:
    mask = _bits("111111000", "111000000")
    weight = np.array([[0.5, 0.4, -0.3, 0.9, -0.8, 0.7, 0, 0, 0], [0.6, -0.2, 0.2, 0, 0, 0, 0, 0, 0]])
    # 6 positive and 3 negative ones: a twentieth of either rounds to 0. The smallest goes, of two the lower position.
    plan = _plan(weight, mask)
    assert not select_drop(weight, mask, plan, 0.05).any()
    drop = select_drop(weight, mask, plan, 0.05, at_least_one=True)
    assert np.array_equal(drop, _bits("000000000", "010000000"))
    # A tenth of the positive ones rounds to 1: the share is what counts, and no further one goes.
    shared = select_drop(weight, mask, plan, 0.1, at_least_one=True)
    assert np.array_equal(shared, _bits("000000000", "001000000"))


def test_a_layer_too_small_for_a_share_drops_its_smallest_block_that_can_move() -> None:
    mask = _bits("11", "10")  # of full width there is no place left; the narrower block could move, without a choice
    weight = np.array([[0.1, 0.5]] * 4 + [[0.4, 0]])
    assert not _plan(weight, mask, 4).can_rewire
    assert not select_drop(weight, mask, _plan(weight, mask, 4), 0.05, at_least_one=True).any()
    mask = _bits("111", "110")
    weight = np.array([[0.1, 0.5, 0.3]] * 4 + [[0.4, 0.2, 0]])
    drop = select_drop(weight, mask, _plan(weight, mask, 4), 0.05, at_least_one=True)
    assert np.array_equal(drop, _bits("000", "010"))


@pytest.mark.parametrize(("blocks", "can_rewire"), [(1, False), (2, True), (5, True), (6, False)])
def test_a_layer_rewires_where_it_can_choose_what_moves_and_where_to(blocks: int, can_rewire: bool) -> None:
    assert LayerPlan(3, 2, 1, blocks, 0).can_rewire is can_rewire
    assert LayerPlan(6, 4, 4, blocks, 0).can_rewire is can_rewire


def test_sparse_layers_that_cannot_rewire_are_named() -> None:
    actor = plan_by_sparsity((100, 100, 1, 1), 0.999, 1, distribution="uniform")  # 9 connections, 1, and a dense 1
    critic = plan_by_sparsity((101, 100, 1), 0.5, 1)
    notice = describe_fixed_layers(actor, critic)
    assert notice is not None
    assert notice.startswith("layer 2 of the actor keeps its topology: drop and grow need two connections (or blocks)")
    both = describe_fixed_layers(actor, actor)
    assert both is not None
    assert both.startswith("layer 2 of the actor, layer 2 of the critics keep their topology")
    assert describe_fixed_layers(critic, plan_dense((5, 5, 1))) is None, "what is dense has nothing to rewire"


def test_a_layer_full_of_exact_zeros_still_evolves() -> None:
    mask = _bits("11110000", "00001111")
    weight = np.zeros((2, 8))
    plan = _plan(weight, mask)
    drop = select_drop(weight, mask, plan, 0.05)
    grow = select_growth(mask, drop, plan, "random", DRAWS, weight, update=1000, network=Network.ACTOR, layer=1)
    assert np.array_equal(drop, mask)
    assert np.array_equal(grow, ~mask)


def test_blocks_are_dropped_by_their_mean_magnitude() -> None:
    mask = _bits("111000")
    weight = np.zeros((4, 6))
    weight[:, 0], weight[:, 1], weight[0, 2] = 1, -0.5, 2.2  # means 1, 0.5, 0.55
    drop = select_drop(weight, mask, _plan(weight, mask, 4), 0.34)
    assert np.array_equal(drop, _bits("010000"))


def test_a_narrow_blocks_mean_is_over_its_own_width() -> None:
    weight = np.array([[1.0, 0]] * 4 + [[3.0, 0]] * 2)
    assert block_magnitude(weight, 4).tolist() == [[1, 0], [3, 0]]


def test_gradient_growth_takes_the_largest_absent_gradients() -> None:
    mask = _bits("11000000")
    drop = _bits("11000000")
    gradient = np.array([[9.0, 9, 0.1, -3, 2, 0, -2, 1]])
    plan = _plan(gradient, mask)
    grow = select_growth(mask, drop, plan, "gradient", DRAWS, gradient, update=0, network=Network.ACTOR, layer=0)
    assert np.array_equal(grow, _bits("00011000"))


def test_target_pruning_keeps_the_largest_of_the_union() -> None:
    plan = LayerPlan(8, 1, 1, 4, 0)
    support, online = _bits("11111100"), _bits("11110000")
    weight = np.array([[0.0, 0.3, -0.1, 0.0, 0.2, -0.4, 0, 0]])
    # Six positions, four online: the two exact zeros go; the absent zeros at the end don't count.
    assert np.array_equal(select_target_pruning(weight, support, online, plan), _bits("10010000"))


def test_target_pruning_breaks_ties_by_lower_position_and_leaves_as_many_as_online() -> None:
    plan, weight, online = LayerPlan(4, 1, 1, 3, 0), np.zeros((1, 4)), _bits("1110")
    assert np.array_equal(select_target_pruning(weight, _bits("1111"), online, plan), _bits("1000"))
    assert not select_target_pruning(weight, _bits("1110"), online, plan).any()


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([1, 4]),
    st.integers(0, 2**32),
    st.sampled_from(sorted(GROWTH_RULES)),
)
def test_evolution_keeps_every_invariant(
    n_inputs: int, n_outputs: int, density: float, fraction: float, block: int, seed: int, growth: str
) -> None:
    generator, draws = np.random.default_rng(seed), Draws(seed)
    plan = plan_layer(n_inputs, n_outputs, density, block)
    mask = draw_mask(plan, draws, Network.CRITIC_1, 0)
    weight = generator.normal(size=(n_outputs, n_inputs)).astype(np.float32) * expand(mask, plan)
    weight[generator.random(weight.shape) < 0.2] = 0
    drop = select_drop(weight, mask, plan, fraction)
    gradients = generator.normal(size=weight.shape)
    grow = select_growth(mask, drop, plan, growth, draws, gradients, update=7, network=Network.CRITIC_1, layer=0)
    assert not (drop & ~mask).any(), "only what exists is dropped"
    assert not (grow & mask).any(), "only what was absent, and not dropped just now, is grown"
    evolved = (mask & ~drop) | grow
    assert expand(evolved, plan).sum() == plan.connections, "the connection count stays"
    for rows, count, _ in plan.classes():
        assert evolved[rows].sum() == count


def test_random_growth_is_uniform_over_the_absent_positions() -> None:
    mask, drop = _bits("1100000000"), _bits("1000000000")
    plan = LayerPlan(10, 1, 1, 2, 0)
    counts = np.zeros(10)
    for update in range(8000):
        counts += select_growth(
            mask, drop, plan, "random", DRAWS, np.zeros((1, 10)), update=update, network=Network.ACTOR, layer=0
        )[0]
    assert counts[:2].sum() == 0
    assert ((counts[2:] - 1000) ** 2 / 1000).sum() < 24.3  # 99.9 % quantile for 7 degrees of freedom

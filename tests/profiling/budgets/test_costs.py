"""Costs against the paper's table and against sums done by hand."""

from __future__ import annotations

import pytest

from edgerl.policy.shape import LayerShape, connections, dense
from edgerl.profiling.budgets.costs import inference_flops, training_cost

ACTOR = (LayerShape(17, 256, 1911), LayerShape(256, 256, 32768), LayerShape(256, 6, 1536))
CRITIC = (LayerShape(23, 256, 1953), LayerShape(256, 256, 32768), LayerShape(256, 1, 256))
PAPER = {"batch_size": 100, "steps": 1_000_000, "start_steps": 25_000, "policy_delay": 2}


def test_half_cheetah_has_the_papers_connections_and_flops() -> None:
    assert connections(ACTOR) + 2 * connections(CRITIC) == 106169
    assert connections(dense(ACTOR)) + 2 * connections(dense(CRITIC)) == 214784
    assert inference_flops(ACTOR) == 72430
    assert inference_flops(dense(ACTOR)) == 142848


def test_half_cheetah_has_the_papers_training_flops() -> None:
    sparse = training_cost(ACTOR, CRITIC, **PAPER, evolution_interval=1000).training_flops_paper
    full = training_cost(dense(ACTOR), dense(CRITIC), **PAPER).training_flops_paper
    assert f"{full:.2e}" == "1.07e+14"
    assert f"{sparse / full:.2f}" == "0.49"


def test_papers_count_by_hand() -> None:
    # 2 FLOPs · 3 passes · batch 10 · (100 steps · 2 critics · 7 + 50 steps · 5)
    actor, critic = (LayerShape(2, 3, 5),), (LayerShape(3, 3, 7),)
    cost = training_cost(actor, critic, batch_size=10, steps=100, start_steps=40, policy_delay=2)
    assert cost.training_flops_paper == 2 * 3 * 10 * (100 * 2 * 7 + 50 * 5) == 99_000
    assert cost.updates == 60


def test_full_count_by_hand() -> None:
    actor = (LayerShape(2, 4, 6), LayerShape(4, 1, 3))  # 9 connections, 3 behind the first layer
    critic = (LayerShape(3, 4, 8), LayerShape(4, 1, 4))  # 12 connections, 4 behind the first layer
    cost = training_cost(actor, critic, batch_size=10, steps=7, start_steps=2, policy_delay=2, evolution_interval=2)
    critic_update = 9 + 24 + 24 + 24 + 8  # target actor and critics, critics forward, weight and input gradients
    actor_update = 9 + 12 + 12 + 9 + 3  # actor and Q1 forward, back through Q1, actor's weight and input gradients
    passes = 2 * 10 * (5 * critic_update + 2 * actor_update)  # 5 updates, 2 of them delayed
    adam = 15 * (5 * 24 + 2 * 9)
    targets = 2 * (3 + 4) * (9 + 24)
    evolution = 2 * 4 * (9 + 24)
    acting = 5 * 2 * 9
    assert cost.training_flops_full == passes + adam + targets + evolution + acting


def test_the_count_of_sac_with_norms_by_hand() -> None:
    actor = (LayerShape(2, 4, 6), LayerShape(4, 2, 6))  # 12 connections, 6 behind the first layer
    critic = (LayerShape(3, 4, 8), LayerShape(4, 1, 4))  # 12 connections, 4 behind the first layer; a norm of 4 units
    cost = training_cost(
        actor, critic, batch_size=10, steps=4, start_steps=2, policy_delay=2, evolution_interval=3,
        updates_per_step=2.5, evolving=(True, False), norms=("none", "layer"), algorithm="sac",
    )  # fmt: skip
    assert cost.updates == 5
    critic_update = 12 + 24 + 24 + 24 + 8  # next actions, target critics; critics forward, weight and input gradients
    actor_update = 12 + 3 * 12 + 2 * 12 + 12 + 6  # actor, critics forward and back, actor's weight and input gradients
    passes = 2 * 10 * (5 * critic_update + 2 * actor_update)
    norms = 10 * 4 * (5 * 2 * (2 * 8 + 14) + 2 * (3 * 8 + 2 * 14))
    adam = 15 * (5 * 24 + 2 * 12)
    targets = 5 * 3 * 24  # of the critics, at every update; nothing is pruned, since they do not evolve
    evolution = 1 * 4 * 12
    acting = 2 * 2 * 12
    assert cost.training_flops_full == passes + norms + adam + targets + evolution + acting


def test_the_count_of_crossq_by_hand() -> None:
    actor = (LayerShape(2, 4, 6), LayerShape(4, 2, 6))  # 12 connections, 6 behind the first layer; 6 inputs, 4 there
    critic = (LayerShape(3, 4, 8), LayerShape(4, 1, 4))  # 12 connections, 4 behind the first layer; 7 inputs, 4 there
    cost = training_cost(
        actor, critic, batch_size=10, steps=7, start_steps=2, policy_delay=2, evolution_interval=3,
        norms=("batch", "batch"), algorithm="crossq",
    )  # fmt: skip
    critic_update = 12 + 2 * (24 + 24 + 8)  # next actions; critics forward, weight and input gradients, of both halves
    actor_update = 12 + 2 * 12 + 2 * 12 + 12 + 6
    passes = 2 * 10 * (5 * critic_update + 2 * actor_update)
    of_critics = 2 * (5 * (20 * (4 * 7 + 5 * 4) + 12 * 12) + 2 * 3 * 12)
    of_actor = 5 * 3 * 12 + 2 * (10 * (4 * 6 + 5 * 4) + 12 * 12 + 3 * 12)
    adam = 15 * (5 * 24 + 2 * 12)
    evolution = 1 * 4 * (12 + 24)  # and no targets
    acting = 5 * 2 * 12
    assert cost.training_flops_full == passes + of_critics + of_actor + adam + evolution + acting


def test_activations_and_dropout_are_counted_per_unit_and_pass() -> None:
    actor = (LayerShape(2, 4, 6), LayerShape(4, 2, 6))
    critic = (LayerShape(3, 5, 8), LayerShape(5, 1, 4))
    settings = {"batch_size": 10, "steps": 7, "start_steps": 2, "policy_delay": 2}  # five updates, two of the actor
    for algorithm, forward, backward in (("td3", 5 * 4 + 2, 5 * 2 + 2), ("sac", 5 * 4 + 2 * 3, 5 * 2 + 2 * 2)):
        plain, silu, dropped = (
            training_cost(actor, critic, algorithm=algorithm, **settings, **options).training_flops_full
            for options in ({}, {"activation": "silu"}, {"has_dropout": True})
        )
        assert dropped - plain == 10 * 5 * (forward + backward)
        assert silu - plain == 10 * (5 * (31 * forward + backward) + 4 * (31 * (5 + 2) + 2))


def test_a_fixed_topology_neither_evolves_nor_prunes_targets() -> None:
    layer = (LayerShape(2, 2, 3),)
    settings = {
        "batch_size": 1,
        "steps": 4,
        "start_steps": 0,
        "policy_delay": 2,
    }  # 4 updates: one evolves, not the last
    fixed = training_cost(layer, layer, **settings)
    evolving = training_cost(layer, layer, **settings, evolution_interval=2)
    assert evolving.training_flops_full - fixed.training_flops_full == 2 * 4 * 9 + 1 * 4 * 9


def test_cut_gradients_are_three_operations_more_per_weight_and_step() -> None:
    actor, critic = (LayerShape(2, 3, 5),), (LayerShape(3, 3, 7),)
    settings = {"batch_size": 10, "steps": 5, "start_steps": 0, "policy_delay": 2}
    free, cut = (training_cost(actor, critic, **settings, clips_gradients=clips) for clips in (False, True))
    assert cut.training_flops_full - free.training_flops_full == 3 * (5 * 2 * 7 + 2 * 5)
    assert cut.training_flops_paper == free.training_flops_paper


def test_a_run_shorter_than_its_random_start_trains_nothing() -> None:
    cost = training_cost(ACTOR, CRITIC, batch_size=100, steps=10, start_steps=25, policy_delay=2)
    assert cost.updates == 0
    assert cost.training_flops_full == 0


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_the_actor_learns_at_every_delayed_update(delay: int) -> None:
    settings = {"batch_size": 1, "steps": 12, "start_steps": 0}
    cost = training_cost((LayerShape(1, 1, 1),), (LayerShape(2, 1, 2),), **settings, policy_delay=delay)
    assert cost.training_flops_paper == 6 * (12 * 4 + 12 // delay)

"""DSR, which moves connections between layers: its step by hand, what must hold after any of them, and runs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgerl
from edgerl.algorithms.agent import Agent
from edgerl.algorithms.evolution import INITIAL_THRESHOLD, Reallocation, reallocate, select_growth, shared_out
from edgerl.algorithms.sac import SAC
from edgerl.algorithms.td3 import TD3
from edgerl.algorithms.topology import LayerPlan, draw_mask, expand, notice_of_fixed_layers, plan_layer
from edgerl.config import make_config
from edgerl.edge.engine.growth import GROWTH_RULES
from edgerl.edge.engine.random import Draws, Network
from edgerl.errors import ConfigError
from edgerl.policy import format as policy_file
from edgerl.report import sources
from edgerl.report.topology import actor_pictures
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.handover import hand_over
from edgerl.training.logs import read_metrics
from tests.training.runs import SMALL, state_of, train_small

from .engines import M, N, differing, filled_replay, small_config

FIRST = np.array([[0.5, -0.1, 0.02, 0, 0, 0], [0, 0, 0.03, -0.6, 0, 0]])
SECOND = np.array([[0.01, 0.2], [0.7, -0.04]])
MASKS = [np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]], bool), np.ones((2, 2), bool)]
"""Layers of 6 and of 4 connections, one of which is exactly 0; the second one is full."""

PLANS = [LayerPlan(6, 2, 1, 6, 0), LayerPlan(2, 2, 1, 4, 0)]


def _step(threshold: float, fraction: float = 0.5, **options: Any) -> Reallocation:
    return reallocate([FIRST, SECOND], MASKS, PLANS, fraction, threshold, **options)


def test_what_is_below_the_threshold_goes_wherever_it_is_and_the_survivors_share_what_grows() -> None:
    step = _step(0.05)
    assert step.drops[0].tolist() == [
        [False, False, True, True, False, False],
        [False, False, True, False, False, False],
    ]
    assert step.drops[1].tolist() == [[True, False], [False, True]]
    # Five grow; 3 and 2 survive: 3 in the first layer and 2 in the second, which has no absent position: 5 and 0.
    assert step.moved == [5 - 3, 0 - 2]


def test_the_largest_of_a_layer_stays_and_no_more_go_than_can_grow() -> None:
    step = _step(10.0, fraction=1.0)
    absent = 6  # all in the first layer, of 8 that are neither the largest of theirs: the two largest of them stay
    assert sum(int(drop.sum()) for drop in step.drops) == absent
    stays = [abs(weight[mask & ~drop]) for weight, mask, drop in zip((FIRST, SECOND), MASKS, step.drops, strict=True)]
    assert [sorted(sizes) for sizes in stays] == [[0.5, 0.6], [0.2, 0.7]]
    assert sum(step.moved) == 0


@pytest.mark.parametrize(
    ("threshold", "fraction", "expected"),
    [  # of ten blocks five are below 0.05, one (the exact zero) below 1e-9, all below 10
        (0.05, 0.5, 0.05),
        (0.05, 0.54, 0.05),  # aims at 5
        (0.05, 0.6, 0.1),
        (0.05, 0.4, 0.025),
        (1e-9, 0.1, 1e-9),
        (1e-9, 0.2, 2e-9),
        (10.0, 0.5, 5.0),
        (float(np.finfo(np.float32).tiny), 0.0, float(np.finfo(np.float32).tiny)),
    ],
)
def test_the_threshold_doubles_or_halves_where_it_missed_by_more_than_a_tenth(
    threshold: float, fraction: float, expected: float
) -> None:
    assert _step(threshold, fraction).threshold == expected


def test_ten_of_a_hundred_may_be_missed_by_one() -> None:
    weight, mask = np.linspace(0.01, 1, 100).reshape(1, 100), np.ones((1, 100), bool)
    weight, mask = np.hstack([weight, np.zeros_like(weight)]), np.hstack([mask, ~mask])
    found = {
        below: reallocate([weight], [mask], [LayerPlan(200, 1, 1, 100, 0)], 0.1, (below + 0.5) / 100).threshold
        for below in (8, 9, 10, 11, 12)
    }
    assert found == {8: 0.17, 9: 0.095, 10: 0.105, 11: 0.115, 12: 0.0625}


def test_nothing_happens_where_a_share_rounds_to_nothing_unless_one_is_to_go() -> None:
    step = _step(0.05, fraction=0.04)
    assert not any(drop.any() for drop in step.drops)
    assert (step.moved, step.threshold) == ([0, 0], 0.05)
    assert _step(0.05, fraction=0.04, at_least_one=True).threshold == 0.025, "it aims at one, and five were below"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 40)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_sharing_is_proportional_where_there_is_room(layers: list[tuple[int, int]], part: float) -> None:
    shares, room = [s for s, _ in layers], [r for _, r in layers]
    number = int(part * sum(room))
    found = shared_out(number, shares, room)
    assert sum(found) == number
    assert all(0 <= n <= most for n, most in zip(found, room, strict=True))
    weights = [max(share, 1) for share in shares]
    exact = [Fraction(number * weight, sum(weights)) for weight in weights]
    if all(x <= most for x, most in zip(exact, room, strict=True)):
        assert all(abs(n - x) < 1 for n, x in zip(found, exact, strict=True)), "Mostafa and Wang: R_l / ΣR · ΣK"


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(1e-6, 3),
    st.sampled_from([1, 4]),
    st.sampled_from(sorted(GROWTH_RULES)),
    st.integers(0, 2**32),
)
def test_reallocation_keeps_every_invariant(
    sizes: list[tuple[int, int, float]], fraction: float, threshold: float, block: int, growth: str, seed: int
) -> None:
    generator, draws = np.random.default_rng(seed), Draws(seed)
    plans = [plan for n, m, density in sizes if (plan := plan_layer(n, m, density, block)).connections]
    masks = [draw_mask(plan, draws, Network.CRITIC_1, layer) for layer, plan in enumerate(plans)]
    weights = [
        generator.normal(size=(p.n_outputs, p.n_inputs)) * expand(m, p) for p, m in zip(plans, masks, strict=True)
    ]
    step = reallocate(weights, masks, plans, fraction, threshold, at_least_one=True)
    evolved = []
    for layer, (plan, mask, weight, drop, moved) in enumerate(
        zip(plans, masks, weights, step.drops, step.moved, strict=True)
    ):
        where: dict[str, Any] = {"network": Network.CRITIC_1, "layer": layer}
        grow = select_growth(mask, drop, plan, growth, draws, weight, update=3, moved=moved, **where)
        assert not (drop & ~mask).any(), "only what exists is dropped"
        assert not (grow & mask).any(), "only what was absent grows"
        evolved.append((mask & ~drop) | grow)
        assert evolved[-1].any(), "no layer is cut"
        for rows, count, _ in plan.classes()[1:]:
            assert evolved[-1][rows].sum() == count, "narrower blocks are replaced in their layer"
    assert sum(int(mask.sum()) for mask in evolved) == sum(int(mask.sum()) for mask in masks)
    assert sum(expand(m, p).sum() for m, p in zip(evolved, plans, strict=True)) == sum(p.connections for p in plans)


# Agents.

DSR: dict[str, Any] = {"drop": "global-threshold", "evolution_interval": 5, "drop_fraction": 0.2, "sparsity": 0.6}


def _agent(algorithm: type[Agent] = TD3, **options: Any) -> Agent:
    name = "sac" if algorithm is SAC else "td3"
    return algorithm(small_config(**(DSR | {"algorithm": name, "batch_size": 9} | options)), N, M)


@pytest.mark.parametrize("algorithm", [TD3, SAC])
@pytest.mark.parametrize(
    "options",
    [{}, {"growth": "gradient"}, {"block": 4}, {"output_layer": "sparse", "drop_schedule": "cosine", "steps": 120}],
    ids=str,
)
def test_connections_move_between_layers_and_stay_as_many_in_a_network(
    algorithm: type[Agent], options: dict[str, Any]
) -> None:
    agent, replay = _agent(algorithm, policy_delay=1, **options), filled_replay()
    planned = {name: [plan.connections for plan in network.plans] for name, network in agent.networks}
    layouts = set()
    for _ in range(100):
        agent.learn(replay)
        for name, network in agent.networks:
            counts = network.connections()
            layouts.add((name, *counts))
            assert sum(counts) == sum(planned[name])
            assert network._target is None or network.target_connections() == counts, "targets follow at every update"
            for layer, mask in network.masks.items():
                weight = network.online.weights[layer]
                moments = agent._optimiser_of(network).state[weight]
                absent = ~expand(mask, network.plans[layer])
                for tensor in (weight.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
                    assert not tensor.numpy()[absent].any()
            if agent.config.network.output_layer == "dense":
                assert counts[-1] == planned[name][-1], "a dense layer takes no part"
    for name in planned:
        assert len({layout for layout in layouts if layout[0] == name}) > 1, name


def test_the_threshold_finds_the_share_that_is_to_be_dropped() -> None:
    """From 0.001, by doubling and halving: in the last steps the mean share is near ζ."""
    agent, replay, shares = _agent(drop_fraction=0.1, hidden=(40, 40), growth="gradient"), filled_replay(), []
    for update in range(1, 301):
        before = {i: mask.copy() for i, mask in agent.critics[0].masks.items()}
        agent.learn(replay)
        if update % 5 == 0:
            lost = sum(int((mask & ~agent.critics[0].masks[i]).sum()) for i, mask in before.items())
            shares.append(lost / sum(int(mask.sum()) for mask in before.values()))
    assert agent.critics[0].drop_threshold != INITIAL_THRESHOLD
    assert np.mean(shares[-30:]) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_a_state_goes_on_to_the_same_bits_also_while_targets_have_other_layouts(algorithm: type[Agent]) -> None:
    replay = filled_replay()
    agent, other = (_agent(algorithm, policy_delay=3, soft_update=0.5) for _ in range(2))
    for _ in range(10):  # the critics evolved; TD3's targets follow at the twelfth update
        agent.learn(replay)
    state = agent.state()
    assert state["critic_1.drop_threshold"].shape == ()
    other.load_state(state)
    for _ in range(20):
        agent.learn(replay)
        other.learn(replay)
    assert not differing(agent.state(), other.state())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: arrays["critic_1.0.mask"].fill(255), r"^connections are \[\d+, \d+, 13\], expected .* in all$"),
        (lambda arrays: arrays["critic_1.0.target_mask"].fill(255), r"^connections are \["),
        (lambda arrays: arrays.pop("actor.drop_threshold"), r"^drop_threshold is missing"),
        (lambda arrays: arrays.update({"actor.drop_threshold": np.array(-1.0)}), r"^drop_threshold is -1\.0; expected"),
        (lambda arrays: arrays.update({"actor.drop_threshold": np.array(np.inf)}), r"^drop_threshold holds a value"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Any, message: str) -> None:
    arrays = _agent().state()
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        _agent().load_state(arrays)


def test_a_layer_without_a_connection_is_refused() -> None:
    agent = _agent(hidden=(18, 3))
    arrays, masks = agent.state(), agent.actor.masks
    free = np.flatnonzero(~masks[0])[: masks[1].sum()]
    masks[0].reshape(-1)[free], masks[1][:] = True, False
    arrays |= {f"actor.{i}.mask": np.packbits(masks[i]) for i in (0, 1)}
    with pytest.raises(ValueError, match=r"^connections are \[\d+, 0, 9\], expected"):
        _agent(hidden=(18, 3)).load_state(arrays)


def test_a_network_that_is_not_to_evolve_keeps_its_layers() -> None:
    agent, replay = _agent(actor_topology="static"), filled_replay()
    for _ in range(30):
        agent.learn(replay)
    assert agent.actor.connections() == [plan.connections for plan in agent.actor.plans]
    assert "actor.drop_threshold" not in agent.state()
    assert agent.critics[0].connections() != [plan.connections for plan in agent.critics[0].plans]


def test_a_dense_network_has_nothing_to_move() -> None:
    agent, replay = _agent(actor_sparsity=0.0), filled_replay()
    for _ in range(30):
        agent.learn(replay)
    assert agent.actor.connections() == [plan.connections for plan in agent.actor.plans]
    assert agent.critics[0].connections() != [plan.connections for plan in agent.critics[0].plans]


def test_no_layer_is_too_small_to_take_part() -> None:
    options: dict[str, Any] = {
        "hidden": (100, 2),
        "sparsity": 0.99,
        "output_layer": "sparse",
        "distribution": "uniform",
    }
    assert notice_of_fixed_layers(small_config(**options), 3, 1) is not None
    assert notice_of_fixed_layers(small_config(drop="global-threshold", **options), 3, 1) is None


# Runs.

RUN: dict[str, Any] = DSR | {"env": "robots:robot", "evolution_interval": 10}


def test_a_run_is_trained_on_pytorch_and_says_so_and_metrics_show_what_moves() -> None:
    notices: list[str] = []
    options = SMALL | {name: value for name, value in RUN.items() if name != "env"}
    folder = edgerl.train("robots:robot", out="run", notice=notices.append, **options).folder
    (line,) = (notice for notice in notices if "PyTorch" in notice)
    assert line == ("training with PyTorch, which is slower: `drop` is global-threshold, which the native engine lacks")
    rows = read_metrics(folder)
    for name in ("actor", "critic_1", "critic_2"):
        layers = [[row[f"connections.{name}.{i}"] for i in range(3)] for row in rows]
        assert len({sum(counts) for counts in layers}) == 1
        assert len({tuple(counts) for counts in layers}) > 1
        assert [row[f"target_connections.{name}.0"] for row in rows] == [counts[0] for counts in layers]
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    assert checkpoint.policy.metadata["trained_connections"] == [rows[-1][f"connections.actor.{i}"] for i in range(3)]
    weights = [np.count_nonzero(layer.matrix()) for layer in policy_file.load(folder / "policy.safetensors").layers]
    assert sum(weights) <= sum(checkpoint.policy.metadata["trained_connections"])
    (run,) = sources.read([folder]).runs
    shown = [(picture.connections, int(picture.after.sum())) for picture in actor_pictures(run)]
    assert shown == [(n, n) for n in checkpoint.policy.metadata["trained_connections"]]
    edgerl.write_report([folder], Path("page.html"))


def test_a_run_that_is_extended_has_the_bits_of_a_long_one() -> None:
    options = {name: value for name, value in RUN.items() if name != "env"}
    whole = train_small("whole", evaluation_interval=50, **options)
    train_small("short", evaluation_interval=50, **(options | {"steps": 185}))
    edgerl.train("robots:robot", resume="short", steps=400)
    assert state_of(Path("short"))[0] == state_of(whole)[0]


def test_a_policy_whose_layers_changed_is_exported(tmp_path: Path) -> None:
    import onnxruntime

    folder = train_small("run", **{name: value for name, value in RUN.items() if name != "env"})
    policy = policy_file.load(folder / "policy.safetensors")
    path = edgerl.export_policy(folder / "policy.safetensors", "onnx", tmp_path / "policy.onnx").path
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    (actions,) = onnxruntime.InferenceSession(path).run(None, {"observation": observations})
    np.testing.assert_allclose(actions, policy(observations), atol=1e-5)


def test_the_native_engine_and_a_device_refuse_it_in_one_line() -> None:
    line = r"^`drop` is global-threshold, which moves connections between layers, and `engine` is native, whose layers"
    with pytest.raises(ConfigError, match=line):
        make_config(engine="native", drop="global-threshold")
    folder = train_small("run", **{name: value for name, value in RUN.items() if name != "env"})
    with pytest.raises(
        ConfigError, match=r"^run was trained with `drop` global-threshold, and the layers of a learner"
    ):
        hand_over(folder, "learner.safetensors")

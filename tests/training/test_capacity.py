"""The dynamic capacity of the replay memory against its rule by hand."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edgerl.config import make_config
from edgerl.edge.continual.replay import Array, Boundary, Replay
from edgerl.errors import ConfigError
from edgerl.policy import format as policy_file
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.capacity import drop_oldest, policy_distance
from edgerl.training.handover import hand_over
from edgerl.training.logs import read_metrics

from .runs import each_engine, train_small


def _filled(count: int, capacity: int = 100) -> Replay:
    """Two observations, and two actions that are 0.3 and −0.1 in the first 40 transitions, then as `_act` has them."""
    replay = Replay(None, 2, 2, capacity)
    for index in range(count):
        observation = np.array([index, -index], np.float32)
        action = np.array([0.3, -0.1], np.float32) if index < 40 else _act(observation)
        replay.append(observation, action, 0.0, observation, Boundary.CONTINUES)
    return replay


def _act(_: Array) -> Array:
    return np.array([0.5, -0.5], np.float32)


def test_the_distance_is_that_of_eight_batches_of_the_oldest_transitions() -> None:
    of_one = (0.2**2 + 0.4**2) / 2 / 2
    assert policy_distance(_act, _filled(60), batch_size=5) == pytest.approx(of_one)
    assert policy_distance(_act, _filled(60), batch_size=6) == pytest.approx(of_one * 40 / 48)
    assert policy_distance(_act, _filled(60), batch_size=100) == pytest.approx(of_one * 40 / 60), "of all there are"
    assert policy_distance(_act, _filled(120), batch_size=5) == pytest.approx(of_one * 20 / 40), "20 were overwritten"
    assert np.isnan(policy_distance(_act, _filled(0), batch_size=5))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"replay_distance": 0.049, "start_steps": 40_000}, 60),
        ({"replay_distance": 0.049, "replay_check_interval": 30_001}, 60),
        ({"replay_distance": 0.049}, 54),
        ({"replay_distance": 0.051}, 60),
        ({"replay_distance": None}, 60),
        ({"replay_distance": 0.049, "replay_minimum": 57}, 57),
        ({"replay_distance": 0.049, "replay_minimum": 60}, 60),
    ],
)
def test_a_tenth_is_dropped_above_the_distance_but_for_the_minimum(options: dict[str, Any], left: int) -> None:
    replay = _filled(60)
    config = make_config(batch_size=5, replay_capacity=100, **({"replay_minimum": 10} | options))
    drop_oldest(config, 30_000, _act, replay)
    assert replay.size == left
    np.testing.assert_array_equal(replay.observations(np.arange(left))[:, 0], np.arange(60 - left, 60))


@each_engine
def test_the_capacity_shrinks_by_a_tenth_at_each_check_and_grows_in_between(engine: str) -> None:
    """At a distance of 0 every check drops: after 30 random steps, every 20; at most 90 transitions, at least 40."""
    folder = train_small("run", engine=engine, replay_distance=0.0, replay_check_interval=20, replay_minimum=40)
    size, expected = 0, []
    for step in range(1, 401):
        size = min(size + 1, 90)
        if step > 30 and step % 20 == 0:
            size -= max(min(size // 10, size - 40), 0)
        expected += [size] if step % 100 == 0 else []
    rows = read_metrics(folder)
    assert [row["replay_size"] for row in rows] == expected
    counters = checkpoint_file.read(folder / "checkpoint.safetensors").counters
    assert (counters.replay_count, counters.replay_count - counters.replay_dropped) == (400, expected[-1])
    policy = policy_file.load(folder / "policy.safetensors")
    with closing(Replay.open_recorded(folder / "replay.bin", 400, counters.replay_dropped)) as replay:
        oldest = replay.rows(np.arange(8 * 8))
    centre, half = (policy.action_high + policy.action_low) / 2, (policy.action_high - policy.action_low) / 2
    own = (policy(oldest[:, :4]) - centre) / half
    assert rows[-1]["policy_distance"] == pytest.approx(np.mean((own - oldest[:, 4:6]) ** 2) / 2, rel=1e-4)


@each_engine
def test_a_distance_that_is_never_reached_changes_nothing(engine: str) -> None:
    plain, watched = (
        train_small(f"run-{distance}", engine=engine, replay_distance=distance, replay_minimum=40)
        for distance in (None, 2.0)
    )
    rows, with_distance = read_metrics(plain), read_metrics(watched)
    assert [row["return_mean"] for row in rows] == [row["return_mean"] for row in with_distance]
    assert [row["replay_size"] for row in with_distance] == [90] * 4
    assert "replay_size" not in rows[0]


def test_a_minimum_that_leaves_nothing_to_drop_is_refused() -> None:
    line = (
        r"^`replay_distance` is 0\.2, and nothing could be dropped: `replay_minimum` is 100000, `replay_capacity` "
        r"100000; expected more than the minimum$"
    )
    with pytest.raises(ConfigError, match=line):
        make_config(replay_distance=0.2, replay_capacity=100_000)
    assert make_config("quick", replay_distance=0.2).schedule.replay_minimum == 10_000
    with pytest.raises(ConfigError, match=r"^`replay_distance` is 2.5; expected a number in \[0, 2\]"):
        make_config(replay_distance=2.5)


def test_a_device_starts_with_transitions_that_the_run_still_learned_from() -> None:
    folder = train_small("run", replay_distance=0.0, replay_check_interval=20, replay_minimum=40)
    counters = checkpoint_file.read(folder / "checkpoint.safetensors").counters
    assert hand_over(folder, "learner.safetensors", seed=1000).seed == 400 - counters.replay_dropped

"""Returns of episodes, and the bootstrap interval against the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgerl.environments.make import Environment
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval, play
from tests.robots import GoalRobot, Robot


def _return_by_hand(seed: int, length: int, action: np.ndarray) -> float:
    robot = Robot(length)
    robot.reset(seed=seed)
    return sum(robot.step(action)[1] for _ in range(length))


@pytest.mark.parametrize("terminates", [False, True])
def test_a_return_is_the_sum_of_an_episodes_rewards(terminates: bool) -> None:
    action = np.array([0.5, -1], np.float32)
    returns = evaluate(Environment("robot", Robot(13, terminates)), lambda _: action, [3, 4, 3])
    assert returns.dtype == np.float64
    assert returns.tolist() == [_return_by_hand(seed, 13, action) for seed in (3, 4, 3)]


def test_an_episode_without_an_end_is_cut() -> None:
    action = np.array([0.5, -1], np.float32)
    returns = evaluate(Environment("robot", Robot(1 << 60), episode_limit=21), lambda _: action, [3, 4])
    assert returns.tolist() == [_return_by_hand(seed, 21, action) for seed in (3, 4)]


@pytest.mark.parametrize("word", ["is_success", "success"])
@pytest.mark.parametrize("kind", ["bool", "float32", "numpy"])
def test_success_is_what_the_last_step_of_an_episode_says(word: str, kind: str) -> None:
    action, seeds = np.zeros(2, np.float32), list(range(20))
    episodes = play(Environment("robot", GoalRobot(13, word=word, kind=kind)), lambda _: action, seeds)
    expected = []
    for seed in seeds:
        robot = Robot(13)
        robot.reset(seed=seed)
        ends = [robot.step(action)[0] for _ in range(13)]
        expected.append(abs(ends[-1][0]) < 1)
    assert 0 < sum(expected) < 20
    assert episodes.successes.tolist() == expected
    assert episodes.success_rate == sum(expected) / 20
    assert episodes.returns.tolist() == evaluate(Environment("robot", Robot(13)), lambda _: action, seeds).tolist()


def test_an_environment_may_tell_nothing_of_success() -> None:
    action = np.zeros(2, np.float32)
    for robot in (Robot(5), GoalRobot(5, kind="words"), GoalRobot(5, word="other")):
        assert math.isnan(play(Environment("robot", robot), lambda _: action, [1, 2]).success_rate)
    assert math.isnan(play(Environment("robot", Robot(5)), lambda _: action, []).success_rate)


def test_the_policy_sees_each_observation_once() -> None:
    robot, seen = Robot(5), []

    def act(observation: np.ndarray) -> np.ndarray:
        seen.append(observation.copy())
        return np.zeros(2, np.float32)

    evaluate(Environment("robot", robot), act, [7])
    assert len(seen) == 5
    assert all(observation.dtype == np.float32 for observation in seen)
    first, _ = Robot().reset(seed=7)
    assert seen[0].tolist() == first.astype(np.float32).tolist()


def test_seeds_are_those_of_the_run_each_time() -> None:
    seeds = evaluation_seeds(5, 10)
    assert seeds == evaluation_seeds(5, 10)
    assert seeds[:3] == evaluation_seeds(5, 3)
    assert len(set(seeds)) == 10
    assert not set(seeds) & set(evaluation_seeds(6, 10))
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)


def test_the_interval_of_a_large_sample_is_the_normal_approximation() -> None:
    values = np.random.default_rng(1).exponential(size=400)
    mean, low, high = mean_interval(values)
    error = values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    np.testing.assert_allclose([low, high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.12 * error)
    _, low, high = mean_interval(values, level=0.6827)
    np.testing.assert_allclose([low, high], [mean - error, mean + error], atol=0.08 * error)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.normal(size=25), 0.9) for _ in range(120)]
    covered = np.mean([low <= 0 <= high for _, low, high in intervals])
    assert 0.8 <= covered <= 0.97


def test_the_interval_of_one_episode_or_of_equal_ones_is_a_point() -> None:
    assert mean_interval(np.array([3.5])) == (3.5, 3.5, 3.5)
    assert mean_interval(np.array([2.0, 2.0, 2.0])) == (2, 2, 2)
    values = np.array([1.0, 2.0, 4.0])
    assert mean_interval(values) == mean_interval(values)

"""How long a run will take: a short timing of its three kinds of steps on this machine, times their numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgerl.algorithms.interface import make_algorithm
from edgerl.algorithms.normalizer import Normalizer
from edgerl.config import DEFAULT_EPISODE_STEPS, Config
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.environments.make import Environment, make_for_run
from edgerl.training.train import numerics

_RANDOM_STEPS = 1000
_WARM_UP_UPDATES = 50
_UPDATES = 200


@dataclass(frozen=True)
class Timing:
    """Seconds of one step of each kind, and how long an episode is."""

    random: float
    acting: float
    update: float
    episode_steps: int  # the environment's limit; without one, the longest with random actions


def time_steps(config: Config) -> Timing:
    """Time a run's steps: a thousand random ones, 250 updates, and 200 actions of the policy."""
    with contextlib.closing(make_for_run(config)) as environment, numerics(config):
        agent = make_algorithm(config, environment.n_observations, environment.n_actions)
        normalizer = Normalizer(environment.n_observations) if config.normalize else None
        capacity = max(_RANDOM_STEPS, config.learning.n_step + 1)
        replay = Replay(None, environment.n_observations, environment.n_actions, capacity)
        with contextlib.closing(replay):
            random, episode_steps = _time_random_steps(environment, replay, normalizer)
            _seconds(lambda: agent.learn(replay, normalizer), _WARM_UP_UPDATES)
            update = _seconds(lambda: agent.learn(replay, normalizer), _UPDATES)
        observation = environment.reset(0)
        acting = random + _seconds(lambda: agent.act(observation), _UPDATES)
        limit = config.schedule.max_episode_steps or environment.own_episode_limit
    return Timing(random, acting, update, limit or min(episode_steps, DEFAULT_EPISODE_STEPS))


def _time_random_steps(environment: Environment, replay: Replay, normalizer: Normalizer | None) -> tuple[float, int]:
    """(seconds of a step, recorded in the replay; steps of the longest episode)."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (_RANDOM_STEPS, environment.n_actions)).astype(np.float32)
    observation, length, longest = environment.reset(0), 0, 1
    started = time.perf_counter()
    for action in actions:
        next_observation, reward, terminated, truncated = environment.step(environment.scale(action))
        boundary = Boundary.TERMINATED if terminated else Boundary.TRUNCATED if truncated else Boundary.CONTINUES
        replay.append(observation, action, reward, next_observation, boundary)
        if normalizer is not None:
            normalizer.observe(next_observation)
        length += 1
        longest = max(longest, length)
        observation, length = (environment.reset(0), 0) if terminated or truncated else (next_observation, length)
    return (time.perf_counter() - started) / _RANDOM_STEPS, longest


def _seconds(call: Callable[[], object], times: int) -> float:
    """Of one call, on average."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def expected_seconds(config: Config, timing: Timing, first_step: int = 0) -> float:
    """Of a run from `first_step` on: random steps, learning steps, and evaluations of whole episodes."""
    schedule = config.schedule
    random = max(0, min(schedule.steps, schedule.start_steps) - first_step)
    learning = max(0, schedule.steps - max(first_step, schedule.start_steps))
    evaluations = -(-schedule.steps // schedule.evaluation_interval) - first_step // schedule.evaluation_interval
    evaluated = max(0, evaluations) * schedule.evaluation_episodes * timing.episode_steps
    return (
        random * timing.random
        + learning * (timing.acting + config.learning.updates_per_step * timing.update)
        + evaluated * timing.acting
    )


def timings(configs: Iterable[Config]) -> dict[Config, Timing]:
    """By `like`: one timing for all runs that differ only in seed and steps."""
    return {config: time_steps(config) for config in dict.fromkeys(map(like, configs))}


def like(config: Config) -> Config:
    """The configuration, the same for all seeds and steps."""
    schedule = dataclasses.replace(config.schedule, steps=1)
    return dataclasses.replace(config, seed=0, schedule=schedule)

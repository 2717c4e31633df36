"""What is made smaller: the policy of a run, or one in a file of its own, with what shows how it then acts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import run_folder
from edgerl.edge.acting.actions import described_misfit, has_bounds_of
from edgerl.environments.arguments import NOTHING, stated
from edgerl.environments.consent import check_consent
from edgerl.environments.make import Environment, make, make_for_run
from edgerl.errors import ConfigError, EnvironmentError
from edgerl.files.paths import anchored
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, shifted
from edgerl.policy.loss import Observed, sampled_observations
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint
from edgerl.training.evaluation import evaluation_seeds
from edgerl.training.recorded import recorded_observations

Array = npt.NDArray[Any]
Act = Callable[[Array], Array]

WITHOUT_EPISODES = "`episodes` 0 needs no environment"

STRAYING = 0.1
"""Of the action range: the deviation of the noise in half of the episodes that show what a policy in a file meets. One
that is fitted only to where the policy goes by itself fails as soon as a step leads it astray."""


class Subject(ABC):
    """A policy that is to become smaller."""

    policy: CompactPolicy
    seed: int  # of its episodes

    @abstractmethod
    def environment(self) -> Environment:
        """Where its returns are measured. Raises ConfigError, EnvironmentError."""

    @abstractmethod
    def observations(self, count: int, environment: Environment | None) -> tuple[Array, Observed]:
        """Up to `count` that it meets [≤ count, n], the newest last, less its offset; and where they come from."""


def subject_of(source: str | Path, env: str | None) -> Subject:
    """The policy of a run folder or in a file; env: the environment that the user names.

    Raises FileFormatError.
    """
    path = anchored(source)
    if path.is_dir():
        return RunSubject(source, path, checkpoint_file.read(path / run_folder.CHECKPOINT), env)
    return FileSubject(source, policy_file.load(path), env)


@dataclass(frozen=True)
class RunSubject(Subject):
    """The policy in a run's checkpoint."""

    source: str | Path
    folder: Path
    checkpoint: Checkpoint
    env: str | None

    @property
    def policy(self) -> CompactPolicy:  # type: ignore[override]
        """As it was trained."""
        return self.checkpoint.policy

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The run's."""
        return self.checkpoint.config.seed

    def environment(self) -> Environment:
        """The run's own."""
        config = self.checkpoint.config
        check_consent(config.environment, config.env_args, self.env, self.source)
        return suited(make_for_run(config), self.policy)

    def observations(self, count: int, _environment: Environment | None) -> tuple[Array, Observed]:
        """Of the run's replay memory."""
        return recorded_observations(self.folder, self.checkpoint, count), "recorded"


@dataclass(frozen=True)
class FileSubject(Subject):
    """A policy in a file of its own, such as an imported one."""

    source: str | Path
    policy: CompactPolicy
    env: str | None
    seed: int = 0

    def environment(self) -> Environment:
        """The one that the user names, else the file's."""
        own, arguments = self.policy.metadata.get("environment"), stated(self.policy.metadata)
        if self.env is not None and self.env != own:
            return suited(make(self.env), self.policy)
        if not isinstance(own, str):
            raise ConfigError(f"{self.source} does not name its environment; name it: `env` ({WITHOUT_EPISODES})")
        check_consent(own, arguments, self.env, self.source)
        return suited(make(own, arguments=arguments or NOTHING), self.policy)

    def observations(self, count: int, environment: Environment | None) -> tuple[Array, Observed]:
        """From episodes: of the first half with noise on the actions. Without an environment they are sampled."""
        if environment is None:
            return sampled_observations(self.policy, count), "sampled"
        halves = [visited(environment, self.policy, count // 2, deviation) for deviation in (STRAYING, 0.0)]
        return np.concatenate(halves), "recorded"


def visited(environment: Environment, policy: CompactPolicy, count: int, deviation: float) -> Array:
    """The observations [count, n] of episodes, less the policy's offset; deviation: of noise on actions, in shares of
    their range. The same every time."""
    rng, act = np.random.default_rng(0), acting(policy, environment)
    span = environment.action_high.astype(np.float64) - environment.action_low
    seen: list[Array] = []
    for seed in evaluation_seeds(1, count):
        observation, is_over = environment.reset(seed), False
        while not is_over and len(seen) < count:
            seen.append(observation)
            noisy = act(observation) + deviation * span * rng.normal(size=span.shape)
            action: Array = np.clip(noisy, environment.action_low, environment.action_high).astype(np.float32)
            observation, _, terminated, truncated = environment.step(action)
            is_over = terminated or truncated
        if len(seen) == count:
            break
    return shifted(np.array(seen), policy.observation_offset)


def acting(policy: CompactPolicy, environment: Environment) -> Act:
    """observation [n] → action [m] within the environment's bounds: of a policy without bounds, clipped to them."""
    if policy.is_bounded:
        return policy
    return lambda observation: np.clip(policy(observation), environment.action_low, environment.action_high)


def suited(environment: Environment, policy: CompactPolicy) -> Environment:
    """The environment, for this policy. Raises EnvironmentError where the policy belongs to another."""
    sizes = (environment.n_observations, environment.n_actions)
    has_its_sizes = sizes == (policy.n_observations, policy.n_actions)
    if has_its_sizes and (not policy.is_bounded or has_bounds_of(policy, environment)):
        environment.observation_dtype = policy.observation_dtype
        return environment
    environment.close()
    if has_its_sizes:
        raise EnvironmentError(f"the policy {described_misfit(policy, environment)} ({WITHOUT_EPISODES})")
    raise EnvironmentError(
        f"{environment.name} has {sizes[0]} observations and {sizes[1]} actions; expected those of the policy, "
        f"{policy.n_observations} and {policy.n_actions} ({WITHOUT_EPISODES})"
    )

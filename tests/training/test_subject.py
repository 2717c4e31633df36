"""A policy in a file of its own, such as an imported one, is pruned and fitted as a run's is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgerl
from edgerl.environments.make import make
from edgerl.errors import ConfigError, EnvironmentError, OutputError
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.training.evaluation import evaluate, evaluation_seeds
from edgerl.training.subject import acting, visited
from tests.policy.policies import random_policy
from tests.robots import Robot

ENV = "robots:Robot"


def _policy(*, bounds: tuple[float, float] = (-np.inf, np.inf)) -> CompactPolicy:
    """As an importer makes it: ELU between layers and, by default, actions without bounds."""
    policy = random_policy(0, (4, 24, 16, 2), activation="elu", head="clip", density=1)
    low, high = (np.full(2, bound, np.float32) for bound in bounds)
    return replace(policy, action_low=low, action_high=high, metadata={}).with_example(policy.example_observation)


@pytest.fixture
def file() -> Path:
    """In the current folder, which every test has to itself."""
    policy_file.save(_policy(), Path("imported.safetensors"))
    return Path("imported.safetensors")


def test_a_file_is_pruned_and_its_returns_are_those_of_its_clipped_actions(file: Path) -> None:
    result = edgerl.prune(file, "small.safetensors", sparsity=0.3, precision="fp16", episodes=3, env=ENV)
    small = edgerl.load("small.safetensors")
    assert [layer.activation for layer in small.layers[:-1]] == ["elu", "elu"]
    assert small.connections < _policy().connections
    assert result.difference.observed == "recorded"
    assert result.returns is not None
    environment = make(ENV)
    for policy, returns in zip((_policy(), small), result.returns, strict=True):
        expected = evaluate(
            environment,
            lambda x, policy=policy: np.clip(policy(x), Robot.action_space.low, Robot.action_space.high),  # type: ignore[misc]
            evaluation_seeds(0, 3),
        )
        assert returns.mean == pytest.approx(expected.mean())


def test_without_episodes_no_environment_is_needed(file: Path) -> None:
    result = edgerl.prune(file, "small.safetensors", episodes=0)
    assert (result.returns, result.difference.observed) == (None, "sampled")
    assert result.difference.largest < 1e-6


def test_the_environment_that_the_file_names(file: Path) -> None:
    policy_file.save(replace(_policy(), metadata={"environment": ENV, "env_args": {"length": 5}}), file)
    with pytest.raises(ConfigError, match=r"names the environment 'robots:Robot', which is code; to run it, add --env"):
        edgerl.prune(file, "small.safetensors")
    policy_file.save(replace(_policy(), metadata={"environment": "Pendulum-v1"}), file)
    with pytest.raises(
        EnvironmentError, match=r"Pendulum-v1 has 3 observations and 1 actions; expected those of the p"
    ):
        edgerl.prune(file, "small.safetensors")
    assert edgerl.prune(file, "small.safetensors", env=ENV, episodes=2).returns is not None


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"path": "small.safetensors"}, ConfigError, "does not name its environment; name it: `env`"),
        ({}, ConfigError, "is a file, which is not replaced; name the one to write"),
        ({"path": "imported.safetensors", "episodes": 0}, OutputError, "exists"),
    ],
)
def test_what_is_missing_is_one_line(
    file: Path, options: dict[str, object], error: type[Exception], problem: str
) -> None:
    before = file.read_bytes()
    with pytest.raises(error, match=problem):
        edgerl.prune(file, **options)  # type: ignore[arg-type]
    assert file.read_bytes() == before


def test_bounds_that_are_not_the_environments_are_refused(file: Path) -> None:
    policy_file.save(_policy(bounds=(-1, 1)), file)
    with pytest.raises(EnvironmentError, match=r"the policy gives actions .*, and robots:Robot takes actions"):
        edgerl.prune(file, "small.safetensors", env=ENV)


def test_observations_of_a_file_stray_at_first_and_then_do_not() -> None:
    environment, policy = make(ENV), _policy()
    own, strayed = (visited(environment, policy, 100, deviation) for deviation in (0.0, 0.1))
    assert own.shape == strayed.shape == (100, 4)
    assert np.array_equal(own, visited(environment, policy, 100, 0.0))
    observation = environment.reset(evaluation_seeds(1, 100)[0])
    assert np.array_equal(own[0], observation)
    after, *_ = environment.step(acting(policy, environment)(observation).astype(np.float32))
    assert np.array_equal(own[1], after)
    assert not np.array_equal(strayed[1], after)


def test_a_file_is_fitted_to_a_device(file: Path) -> None:
    result = edgerl.fit(file, "stm32f405", env=ENV, episodes=2, max_loss=0.5)
    assert result.policy_path == Path("policy-stm32f405.safetensors")
    chosen = edgerl.load(result.policy_path)
    assert [layer.activation for layer in chosen.layers[:-1]] == ["elu", "elu"]
    assert chosen.metadata["fit"]["device"] == "stm32f405"
    assert not list(Path().glob("fit-*.json"))
    with pytest.raises(OutputError, match="exists"):
        edgerl.fit(file, "stm32f405", env=ENV, episodes=2)

"""`edgerl prune`: a run's masked policy to its compact form, with what that changes, measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgerl import run_folder
from edgerl.edge.acting.actions import described_misfit, has_bounds_of
from edgerl.environments.consent import check_consent
from edgerl.environments.make import Environment, make_for_run
from edgerl.errors import EnvironmentError
from edgerl.files.atomic import refuse_existing
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.policy.pruning import compact
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval
from edgerl.training.recorded import RECORDED_OBSERVATIONS, recorded_observations

WITHOUT_EPISODES = "`episodes` 0 needs no environment"


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after: inputs × outputs, weights that are not zero, stored bytes."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    connections: tuple[int, int]
    bytes: tuple[int, int]


@dataclass(frozen=True)
class MeanReturn:
    """Mean return over evaluation episodes with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PruneResult:
    """What `prune` wrote and what it changed; pairs are (before, after)."""

    path: Path
    policy: CompactPolicy
    layers: tuple[LayerChange, ...]
    file_bytes: tuple[int, int]
    difference: ActionDifference
    episodes: int
    returns: tuple[MeanReturn, MeanReturn] | None  # None without episodes


@at_home()
def prune(
    run: str | Path,
    path: str | Path | None = None,
    *,
    sparsity: float | None = None,
    precision: Precision = "fp32",
    episodes: int = 10,
    env: str | None = None,
    force: bool = False,
) -> PruneResult:
    """Write the compact policy of a run folder's checkpoint to `path` (default: its policy.safetensors, replaced).

    sparsity: prune further by magnitude, to 1 − connections / weights of the trained network if it were dense.
    precision: how weights are stored. episodes: evaluation episodes before and after; 0 for none. env: the run's own
    environment, where it is code (`module:factory`): a run folder may not choose what runs.

    Raises ConfigError, FileFormatError, OutputError, UnsupportedModelError.
    """
    given = Path(run) / run_folder.POLICY if path is None else Path(path)
    folder, goal = anchored(run), anchored(given)
    checkpoint = checkpoint_file.read(folder / run_folder.CHECKPOINT)
    if path is not None:
        refuse_existing(Path(path), force=force)
    if episodes:
        check_consent(checkpoint.config.environment, checkpoint.config.env_args, env, run)
    before = checkpoint.policy
    after = compact(before, sparsity=sparsity, precision=precision)
    observations = recorded_observations(folder, checkpoint, RECORDED_OBSERVATIONS)
    returns = _returns(checkpoint, (before, after), episodes) if episodes else None
    result = PruneResult(
        path=reachable(given),
        policy=after,
        layers=tuple(
            LayerChange(
                inputs=(old.n_inputs, new.n_inputs),
                outputs=(old.n_outputs, new.n_outputs),
                connections=(old.connections, new.connections),
                bytes=(old.n_bytes, new.n_bytes),
            )
            for old, new in zip(before.layers, after.layers, strict=True)
        ),
        file_bytes=(len(policy_file.to_bytes(before)), len(policy_file.to_bytes(after))),
        difference=action_difference(
            before.without_offset(observations), after.without_offset(observations), action_span(before)
        ),
        episodes=episodes,
        returns=returns,
    )
    policy_file.save(after, goal, force=force or path is None)
    return result


def _returns(checkpoint: Checkpoint, policies: Sequence[CompactPolicy], episodes: int) -> tuple[MeanReturn, MeanReturn]:
    with closing(environment_of(checkpoint)) as environment:
        seeds = evaluation_seeds(checkpoint.config.seed, episodes)
        before, after = (MeanReturn(*mean_interval(evaluate(environment, policy, seeds))) for policy in policies)
        return before, after


def environment_of(checkpoint: Checkpoint) -> Environment:
    """The environment of a run, for its policy. Raises EnvironmentError, also where its policy belongs to another."""
    environment, policy = make_for_run(checkpoint.config), checkpoint.policy
    sizes = (environment.n_observations, environment.n_actions)
    has_its_sizes = sizes == (policy.n_observations, policy.n_actions)
    if has_its_sizes and has_bounds_of(policy, environment):
        environment.observation_dtype = policy.observation_dtype
        return environment
    environment.close()
    if has_its_sizes:
        raise EnvironmentError(f"the policy {described_misfit(policy, environment)} ({WITHOUT_EPISODES})")
    raise EnvironmentError(
        f"{environment.name} has {sizes[0]} observations and {sizes[1]} actions; expected those of the policy, "
        f"{policy.n_observations} and {policy.n_actions} ({WITHOUT_EPISODES})"
    )

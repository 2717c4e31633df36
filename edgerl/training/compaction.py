"""`edgerl prune`: a masked or imported policy to its compact form, with what that changes, measured."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from edgerl import run_folder
from edgerl.environments.make import Environment
from edgerl.errors import ConfigError
from edgerl.files.atomic import refuse_existing
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.policy.pruning import compact
from edgerl.training.evaluation import evaluate, evaluation_seeds, mean_interval
from edgerl.training.recorded import RECORDED_OBSERVATIONS
from edgerl.training.subject import acting, subject_of


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
    """Write the compact policy of a run folder's checkpoint, or of a policy.safetensors, to `path`.

    path: default the run's policy.safetensors, replaced; of a file it must be given. sparsity: prune further by
    magnitude, to 1 − connections / weights of the trained network if it were dense. precision: how weights are stored.
    episodes: evaluation episodes before and after; 0 for none. env: the environment of a file that names none; of a
    run its own, where that is code (`module:factory`): a run folder or a file may not choose what runs.

    Raises ConfigError, EnvironmentError, FileFormatError, OutputError, UnsupportedModelError.
    """
    subject = subject_of(run, env)
    given = _goal(Path(run), path)
    goal = anchored(given)
    if path is not None:
        refuse_existing(Path(path), force=force)
    before = subject.policy
    after = compact(before, sparsity=sparsity, precision=precision)
    with closing(subject.environment()) if episodes else nullcontext() as environment:
        observations, observed = subject.observations(RECORDED_OBSERVATIONS, environment)
        returns = None
        if environment is not None:
            seeds = evaluation_seeds(subject.seed, episodes)
            returns = _mean_return(environment, before, seeds), _mean_return(environment, after, seeds)
    actions = before.without_offset(observations), after.without_offset(observations)
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
        difference=action_difference(*actions, action_span(before), observed),
        episodes=episodes,
        returns=returns,
    )
    policy_file.save(after, goal, force=force or path is None)
    return result


def _goal(source: Path, path: str | Path | None) -> Path:
    """The file to write. Raises ConfigError where that is for the user to say."""
    if path is not None:
        return Path(path)
    if source.is_file():
        raise ConfigError(
            f"{source} is a file, which is not replaced; name the one to write: `output` small.safetensors"
        )
    return source / run_folder.POLICY


def _mean_return(environment: Environment, policy: CompactPolicy, seeds: list[int]) -> MeanReturn:
    return MeanReturn(*mean_interval(evaluate(environment, acting(policy, environment), seeds)))

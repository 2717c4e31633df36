"""`edgerl prune`: a masked or imported policy to its compact form, with what that changes, measured."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgerl import run_folder
from edgerl.compression.lessons import OBSERVATIONS_OF_A_ROUND, met_by, read_observations
from edgerl.compression.returns import MeanReturn, mean_return
from edgerl.errors import ConfigError, quoted, require
from edgerl.files.atomic import refuse_existing
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, Layer, Precision
from edgerl.policy.loss import ActionDifference, action_difference, action_span
from edgerl.policy.pruning import (
    LARGEST_VALUES,
    compact,
    describe_wide_rows,
    network_of,
    outlier_share,
    storage_of,
    stored,
)
from edgerl.policy.surgeon import compact_by_reconstruction
from edgerl.training.evaluation import evaluation_seeds
from edgerl.training.recorded import RECORDED_OBSERVATIONS
from edgerl.training.subject import FileSubject, Subject, acting, subject_of

Criterion = Literal["magnitude", "sparsegpt"]


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after: inputs × outputs, weights that are not zero, stored bytes; and its outliers now."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    connections: tuple[int, int]
    bytes: tuple[int, int]
    outliers: int

    @classmethod
    def of(cls, old: Layer, new: Layer) -> LayerChange:
        """What became of a layer."""
        return cls(
            inputs=(old.n_inputs, new.n_inputs),
            outputs=(old.n_outputs, new.n_outputs),
            connections=(old.connections, new.connections),
            bytes=(old.n_bytes, new.n_bytes),
            outliers=0 if new.outliers is None else len(new.outliers.values),
        )


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
    warnings: tuple[str, ...]  # of int8 rows whose largest weight rounds the others coarsely


@at_home()
def prune(
    run: str | Path,
    path: str | Path | None = None,
    *,
    sparsity: float | None = None,
    criterion: Criterion = "magnitude",
    precision: Precision = "fp32",
    outliers: float | None = None,
    finetune: bool = False,
    observations: str | Path | None = None,
    episodes: int = 10,
    env: str | None = None,
    force: bool = False,
) -> PruneResult:
    """Write the compact policy of a run folder's checkpoint, or of a policy.safetensors, to `path`.

    path: default the run's policy.safetensors, replaced; of a file it must be given. sparsity: prune further, to
    1 − connections / weights of the trained network if it were dense. criterion: what goes, by magnitude, or as
    SparseGPT has it, where the rest is mended in states of episodes. precision: how weights are stored.
    outliers: the share of weights that int8 and int4 keep exact (default OUTLIERS). finetune: train such weights to
    act as the policy did, in states of episodes, or of a run's replay where there are no episodes. observations: what
    the policy meets, as `edgerl.distill` takes them, in place of those. episodes: evaluation episodes before and after;
    0 for none. env: the environment of a file that names none; of a run its own, where that
    is code (`module:factory`): a run folder or a file may not choose what runs.

    Raises ConfigError, EnvironmentError, FileFormatError, OutputError, UnsupportedModelError.
    """
    subject = subject_of(run, env)
    given = _goal(Path(run), path)
    goal = anchored(given)
    if path is not None:
        refuse_existing(Path(path), force=force)
    before = subject.policy
    whole = compact(before, sparsity=sparsity)  # refuses, before anything takes time, a sparsity that cannot be
    share = outlier_share(precision, outliers)
    _check(subject, sparsity, criterion, has_states=observations is not None or episodes > 0)
    if finetune:
        _check_finetuning(subject, precision, has_states=observations is not None or episodes > 0)
    known = None if observations is None else read_observations(anchored(observations), before)
    with closing(subject.environment()) if episodes else nullcontext() as environment:
        shown, observed = met_by(subject, known, RECORDED_OBSERVATIONS, environment)
        states = known
        if states is None and (finetune or criterion == "sparsegpt"):
            states, _ = subject.observations(OBSERVATIONS_OF_A_ROUND, environment)
        if states is not None and criterion == "sparsegpt" and sparsity is not None:
            whole = compact_by_reconstruction(before, sparsity, states)
        storage = storage_of(network_of(whole), precision, share)
        after = stored(whole, network_of(whole), storage)
        if states is not None and finetune:
            from edgerl.compression.finetune import finetune as train

            after = train(before, whole, storage, states, environment)
        returns = None
        if environment is not None:
            seeds = evaluation_seeds(subject.seed, episodes)
            first, second = (mean_return(environment, acting(each, environment), seeds) for each in (before, after))
            returns = first, second
    actions = before.without_offset(shown), after.without_offset(shown)
    result = PruneResult(
        path=reachable(given),
        policy=after,
        layers=tuple(map(LayerChange.of, before.layers, after.layers)),
        file_bytes=(len(policy_file.to_bytes(before)), len(policy_file.to_bytes(after))),
        difference=action_difference(*actions, action_span(before), observed),
        episodes=episodes,
        returns=returns,
        warnings=describe_wide_rows(whole, after),
    )
    policy_file.save(after, goal, force=force or path is None)
    return result


def _check(subject: Subject, sparsity: float | None, criterion: Criterion, *, has_states: bool) -> None:
    """Raises ConfigError where what goes cannot be chosen so."""
    if criterion not in get_args(Criterion):
        raise ConfigError(f"`criterion` is {quoted(criterion)}; expected {' or '.join(get_args(Criterion))}")
    if criterion == "sparsegpt":
        if sparsity is None:
            raise ConfigError("`criterion` is sparsegpt, and there is no `sparsity` to prune to; give one")
        _check_states(subject, "`criterion` sparsegpt", has_states=has_states)


def _check_states(subject: Subject, what: str, *, has_states: bool) -> None:
    """Raises ConfigError where no state of the policy is known."""
    if isinstance(subject, FileSubject) and not has_states:
        raise ConfigError(
            f"{what} needs states that the policy meets, and `episodes` is 0; expected at least 1, or `observations`"
        )


def _check_finetuning(subject: Subject, precision: Precision, *, has_states: bool) -> None:
    """Raises ConfigError where nothing is rounded, or no state of the policy is known; MissingExtraError."""
    require("torch", "train")
    if precision not in LARGEST_VALUES:
        raise ConfigError(f"`finetune` trains weights that are rounded, not {precision} ones; expected int8 or int4")
    _check_states(subject, "`finetune`", has_states=has_states)


def _goal(source: Path, path: str | Path | None) -> Path:
    """The file to write. Raises ConfigError where that is for the user to say."""
    if path is not None:
        return Path(path)
    if source.is_file():
        raise ConfigError(
            f"{source} is a file, which is not replaced; name the one to write: `output` small.safetensors"
        )
    return source / run_folder.POLICY

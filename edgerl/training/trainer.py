"""The training loop: steps, updates, evaluations and checkpoints of one run, and its folder."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgerl import __version__, run_folder
from edgerl.algorithms.engine import Notice, with_engine
from edgerl.algorithms.interface import Algorithm, make_algorithm
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.topology import notice_of_fixed_layers
from edgerl.config import Config, extended, is_continued_by, make_config, stated_options, with_episode_limit
from edgerl.edge.acting.actions import described_misfit, has_bounds_of
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.engine.random import Purpose, uniform
from edgerl.environments.consent import check_consent, resume_command
from edgerl.environments.make import Environment, Vector, make_for_run, resumes_bit_for_bit
from edgerl.errors import (
    CheckFailed,
    ConfigError,
    EnvironmentError,
    EnvironmentFault,
    FileFormatError,
    Interrupted,
)
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.pruning import compact
from edgerl.policy.shape import architecture
from edgerl.signals import StopRequests, Terminated, leave_at_the_second, stop_requests
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from edgerl.training.digits import DigitWatch, offset_for
from edgerl.training.evaluation import NO_EPISODES, Episodes, evaluation_seeds, play
from edgerl.training.folder import (
    check_latest,
    new_folder,
    point_latest_to,
    read_config,
    sweep,
    write_config,
)
from edgerl.training.logs import MetricsLog, read_metrics
from edgerl.training.records import TopologyLog, record_versions
from edgerl.training.returns import final_evaluations, mean_known

REPORT_INTERVAL = 100  # steps between two calls of a progress report

GRACE_SECONDS = 25.0
"""After a request to stop, how long the episode and an evaluation may go on to their end; then they are cut."""

LONGEST_WAIT = 10_000
"""Steps that a checkpoint which is due waits for the episode's end; then it is taken in the midst of it."""

MOST_FAULTS_IN_A_ROW = 10
"""Episodes that may fail at their first step, one after the other, before training gives up."""


@dataclass(frozen=True)
class Status:
    """Where a run stands, for a progress display."""

    step: int
    steps: int
    session_steps: int  # since this process took the run up
    session_seconds: float
    start_steps: int  # random ones, before learning begins
    evaluation_return: float | None  # mean of the last evaluation since learning began
    training_return: float | None  # mean of the training episodes since


@dataclass(frozen=True)
class RunResult:
    """A run that is complete."""

    folder: Path
    policy: Path
    steps: int
    final_return: float | None  # mean of the last ten evaluations since learning began; None where there was none
    final_evaluations: int  # that it is the mean of: ten, or as many as there were
    final_success_rate: float | None  # of the same evaluations; None where the environment does not tell
    best_return: float | None  # of all evaluations
    elapsed_seconds: float
    faults: int  # steps that failed in the environment; more than none with `on_fault` truncate alone


Report = Callable[[Status], None]


@at_home()
def train(
    env: str | None = None,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
    **options: Any,
) -> RunResult:
    """Train a policy, or go on with the run folder `resume`, to another number of `steps` where that is given, too.

    env: a gymnasium id, `module:id`, which importing the module registers, or `module:factory` (default
    HalfCheetah-v5); of a run that goes on, its own, and needed where it is code: a run folder may not choose what runs.
    config: a TOML file of options, over which those given here win. preset: paper (default) or quick.
    out: the run folder, which must not exist (default `runs/<env>-<method>-seed<n>`). options: each of
    edgerl.config.OPTIONS by name, such as steps, seed, sparsity, and env_args, the arguments of what makes the
    environment. report: called every 100 steps. notice: called with lines that a person should read.

    Raises ConfigError, EnvironmentError, OutputError, FileFormatError; CheckFailed where training diverged;
    Interrupted, with the state saved, after SIGINT or SIGTERM: the running episode is finished first, unless that takes
    longer than GRACE_SECONDS. A second signal leaves at once, with the last checkpoint.
    """
    if resume is None:
        stated = stated_options(env, preset=preset, config=config, **options)
        recorded, run = None, with_engine(make_config(**stated), notice)
    else:
        resume = anchored(resume).resolve()  # runs/latest is a link, which is about to be renewed
        steps = options.pop("steps", None)
        if any(value is not None for value in (out, preset, config, *options.values())):
            raise ConfigError(
                "`resume` takes everything from the run but `steps` and `env`; leave out all other options"
            )
        recorded = read_config(resume)
        check_consent(recorded.environment, recorded.env_args, env, run_folder.short(resume))
        run = recorded if steps is None else _extended(recorded, resume, steps, notice)
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(contextlib.closing(make_for_run(run)))
        if resume is None:
            run = with_episode_limit(replace(run, environment=environment.name), environment.own_episode_limit)
            environment.episode_limit = run.schedule.max_episode_steps
        if not resumes_bit_for_bit(environment, outlives_faults=run.on_fault == "truncate"):
            notice(f"{environment.name} does not restart from its seed alone: a resumed run will not be bit-identical")
        evaluation = evaluation_environment(run, environment, notice)
        if evaluation is not None and evaluation is not environment:
            stack.enter_context(contextlib.closing(evaluation))
        stack.enter_context(numerics(run))
        stop = stack.enter_context(stop_requests(leave_at_the_second))
        agent = make_algorithm(run, environment.n_observations, environment.n_actions)
        if line := notice_of_fixed_layers(run, environment.n_observations, environment.n_actions):
            notice(line)
        if resume is None:
            folder = stack.enter_context(new_folder(None if out is None else Path(out), run))
            if line := _notice_of_warm_up(stated, run):
                notice(line)
        else:
            folder = run_folder.short(resume)
            check_latest(folder)
        trainer = Trainer(agent, environment, evaluation, anchored(folder))
        stack.callback(trainer.close)
        if resume is not None and run != recorded:
            write_config(trainer.folder, run)  # the checkpoint of the shorter run is valid with it, too
        notice(f"run folder {folder}; live curves: tensorboard --logdir {folder}")
        if trainer.step < run.schedule.start_steps:
            notice(f"learning begins at step {run.schedule.start_steps}; until then actions are random")
        result = trainer.run(report, notice, stop)
        return replace(result, folder=reachable(folder), policy=reachable(folder / run_folder.POLICY))


def _notice_of_warm_up(stated: Mapping[str, Any], config: Config) -> str | None:
    """The line that a person should read where a run is too short for its preset's random steps."""
    usual, random = make_config(stated.get("preset")).schedule.start_steps, config.schedule.start_steps
    if "start_steps" in stated or random >= usual:
        return None
    return f"{config.schedule.steps} steps are too few for {usual} random ones before learning: {random} now"


def _extended(config: Config, folder: Path, steps: int, notice: Notice) -> Config:
    """The configuration of a run with another number of steps, told in a line.

    Raises ConfigError where the run has as many already.
    """
    longer = extended(config, steps)
    path = folder / run_folder.CHECKPOINT
    done = checkpoint_file.read(path).counters.step if path.exists() else 0
    if steps <= done:
        raise ConfigError(f"`steps` is {steps}, and {run_folder.short(folder)} has {done} already; expected more")
    end = longer.evolution.drop_schedule_steps
    keeps = "" if end is None else f"; the cosine schedule keeps its end at step {end}: then the topology stays"
    notice(f"{run_folder.short(folder)} goes on from step {done} to {steps} (before: {config.schedule.steps}){keeps}")
    return longer


def evaluation_environment(config: Config, environment: Environment, notice: Notice) -> Environment | None:
    """Where the policy is evaluated: an environment of its own, or `environment`, the training's, between its episodes;
    None where it is not. `auto` takes the first where there can be two.

    Raises EnvironmentError where there is to be an environment of its own, and there can't be.
    """
    if config.evaluation == "none":
        return None
    if config.evaluation == "between-episodes":
        return environment
    try:
        second = make_for_run(config)
        if second.is_same_as(environment):
            raise EnvironmentError(f"{config.environment} is one and the same object each time that it is made")
    except EnvironmentError as error:
        if config.evaluation == "separate":
            raise EnvironmentError(f"{error}; evaluate in the training's own: `evaluation` between-episodes") from error
        notice(f"evaluating between training episodes, in the one environment that there can be ({error})")
        return environment
    return second


class Trainer:
    """One run in one process: the agent, its environments, and the files of the run folder."""

    def __init__(
        self, agent: Algorithm, environment: Environment, evaluation: Environment | None, folder: Path
    ) -> None:
        """Take up the run in `folder` from its checkpoint, or start it where there is none.

        evaluation: an environment of its own, `environment` itself, for between episodes, or None, for never.
        """
        self.config, self.agent, self.folder = agent.config, agent, folder
        self.environment, self.evaluation_environment = environment, evaluation
        self.evaluates_between_episodes = evaluation is environment
        schedule = self.config.schedule
        self.normalizer = Normalizer(environment.n_observations) if self.config.normalize else None
        self.digits = DigitWatch(environment.n_observations)
        self.evaluation_seeds = evaluation_seeds(self.config.seed, schedule.evaluation_episodes)
        self.returns = Returns()
        self.best_policy: CompactPolicy | None = None
        self.counters = Counters()
        self._load_checkpoint()
        self.step, self.episode, self.faults = self.counters.step, self.counters.episode, self.counters.faults
        self._faults_in_a_row = 0
        self._told: set[str] = set()
        self._started, self._first_step = time.monotonic(), self.step
        self._elapsed_before = self.counters.elapsed_seconds
        with contextlib.ExitStack() as files:
            # With room for as many rows as can follow a checkpoint, the replay keeps all that the checkpoint counts on.
            self.replay = Replay(
                folder / run_folder.REPLAY,
                environment.n_observations,
                environment.n_actions,
                schedule.replay_capacity,
                slack=schedule.checkpoint_interval + min(environment.episode_limit or LONGEST_WAIT, LONGEST_WAIT),
                count=self.counters.replay_count,
            )
            files.callback(self.replay.close)
            sweep(folder)  # nobody else is here: we hold the replay's lock
            self.log = MetricsLog(folder, list(self._metrics(NO_EPISODES)), self.counters.metrics_rows)
            self.topology = TopologyLog(folder, agent, schedule, self.counters.step)
            record_versions(folder, self.counters.step)
            self.close = files.pop_all().close

    def run(self, report: Report, notice: Notice, stop: StopRequests) -> RunResult:
        """Train to the last step. Raises Interrupted, with a checkpoint taken, once somebody asked to stop."""
        self._report, self._notice, self._stop = report, notice, stop
        if self.replay.cut():
            notice(
                "the run was saved in the midst of a long episode, which cannot be taken up again: the next one begins"
            )
        try:
            while not self._is_complete:
                if self._evaluation_is_due:  # between episodes; or the one that a stop left out
                    self._evaluate()
                else:
                    self._run_episode()
                if self._checkpoint_is_due or stop.count:
                    self._save_checkpoint()
                if stop.count and not self._is_complete:
                    raise Interrupted(f"stopped at step {self.step}; go on with: {self._resume_command}", stop.signal)
        except (KeyboardInterrupt, Terminated):
            kept = (
                f"go on from step {self.counters.step} with: {self._resume_command}"
                if self.counters.step
                else "it was before the first checkpoint, so nothing is saved"
            )
            raise Interrupted(f"left at step {self.step}; {kept}", stop.signal or signal.SIGINT) from None
        rows = read_metrics(self.folder)
        steps, returns, rates = (
            np.array([row.get(name, math.nan) for row in rows]) for name in ("step", "return_mean", "success_rate")
        )
        final = final_evaluations(steps, returns, self.config.schedule.start_steps)
        return RunResult(
            folder=self.folder,
            policy=self.folder / run_folder.POLICY,
            steps=self.step,
            final_return=mean_known(returns[final]),
            final_evaluations=len(final),
            final_success_rate=mean_known(rates[final]),
            best_return=self.returns.best,
            elapsed_seconds=self._elapsed(),
            faults=self.faults,
        )

    @property
    def _resume_command(self) -> str:
        return resume_command(run_folder.short(self.folder), self.config.environment, self.config.env_args)

    @property
    def _is_at_the_end(self) -> bool:
        return self.step >= self.config.schedule.steps

    @property
    def _is_complete(self) -> bool:
        return self._is_at_the_end and not self._evaluation_is_due

    @property
    def _evaluation_is_due(self) -> bool:
        """Whether the metrics lack a row: one for every interval, and one at the end."""
        interval = self.config.schedule.evaluation_interval
        last = self.log.last_step
        return self.step // interval > last // interval or (self._is_at_the_end and last < self.step)

    @property
    def _checkpoint_is_due(self) -> bool:
        return self.step - self.counters.step >= self.config.schedule.checkpoint_interval or self._is_complete

    @property
    def _must_leave(self) -> bool:
        """Whether somebody asked to stop, and what was under way has had its time."""
        return self._stop.is_older_than(GRACE_SECONDS)

    def _run_episode(self) -> None:
        seed = int(self.agent.draws.words(Purpose.EPISODE, self.episode, 1)[0])
        observation = self.environment.reset(seed)
        if self.episode == 0 and self.normalizer is not None:
            self._subtract(offset_for(self.environment.given))
            observation = self.environment.observation
        self._observe(observation)
        self.episode += 1
        total, boundary = 0.0, Boundary.CONTINUES
        while boundary is Boundary.CONTINUES:
            action = self._action(observation)
            self.step += 1
            try:
                next_observation, reward, boundary = self._step(action)
            except EnvironmentFault as fault:
                self._outlive(fault)
                self.replay.cut()
                boundary = Boundary.TRUNCATED
            else:
                self.replay.append(observation, action, reward, next_observation, boundary)
                self._observe(next_observation)
                observation, total = next_observation, total + reward
            if self.replay.size:
                for _ in range(self._updates_due):
                    self.agent.learn(self.replay, self.normalizer)
            if self._evaluation_is_due and not self.evaluates_between_episodes:
                self._evaluate()
            self._tell()
            if boundary is Boundary.CONTINUES:
                boundary = self._in_the_midst()
        ended = self.returns.training_episodes + 1
        self.returns = replace(self.returns, training_sum=self.returns.training_sum + total, training_episodes=ended)
        self._tell_of_cuts(self.environment)

    @property
    def _updates_due(self) -> int:
        """Critic updates that follow this step."""
        td3, learning = self.config.td3, self.step - self.config.schedule.start_steps
        return td3.updates_after(learning) - td3.updates_after(learning - 1) if learning > 0 else 0

    def _step(self, action: Vector) -> tuple[Vector, float, Boundary]:
        """(next observation, reward, what comes after) of `action` in [−1, 1]. Raises EnvironmentError."""
        next_observation, reward, terminated, truncated = self.environment.step(self.environment.scale(action))
        self._faults_in_a_row = 0
        if terminated:
            return next_observation, reward, Boundary.TERMINATED
        return next_observation, reward, Boundary.TRUNCATED if truncated or self._is_at_the_end else Boundary.CONTINUES

    def _outlive(self, fault: EnvironmentFault) -> None:
        """Count a fault of the training environment. Raises EnvironmentError where it is not to be outlived."""
        self._faults_in_a_row += 1
        if self._faults_in_a_row > MOST_FAULTS_IN_A_ROW:
            raise EnvironmentError(
                f"{fault}; so did the first steps of the {MOST_FAULTS_IN_A_ROW} episodes before: mend the environment"
            ) from fault
        self._count(fault)

    def _count(self, fault: EnvironmentFault) -> None:
        told = f"{fault} (step {self.step} of the run, in episode {self.episode})"
        if self.config.on_fault == "stop":
            raise EnvironmentError(f"{told}; to end the episode there and go on: `on_fault` truncate") from fault
        self.faults += 1
        self._tell_once("fault", f"{told}; the episode ends there, and the run goes on; further faults are counted")

    def _in_the_midst(self) -> Boundary:
        """What comes after a step within an episode, once what cannot wait for its end is done."""
        if self._must_leave:
            self._notice(
                f"the episode did not end within {GRACE_SECONDS:g} s: it is cut and recorded as truncated, so the run "
                "will not be bit-identical to one that was never stopped"
            )
            self.replay.cut()
            return Boundary.TRUNCATED
        if self.step - self.counters.step >= self.config.schedule.checkpoint_interval + LONGEST_WAIT:
            self._save_checkpoint()
        return Boundary.CONTINUES

    def _tell(self) -> None:
        if self.step % REPORT_INTERVAL == 0:
            self._report(self._status())
        if self._stop.count:
            self._tell_once(
                "stop",
                f"stopping at the episode's end, in {GRACE_SECONDS:g} s at the latest, with everything saved; press "
                "Ctrl-C again to quit without saving",
            )

    def _tell_of_cuts(self, environment: Environment) -> None:
        if environment.episodes_cut:
            self._tell_once(
                "cut",
                f"episodes of {environment.name} are cut after {environment.episode_limit} steps; another limit: "
                "`max_episode_steps`",
            )

    def _tell_once(self, topic: str, text: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            self._notice(text)

    def _subtract(self, offset: npt.NDArray[np.float64] | None) -> None:
        """From all observations of this run, as long as it lasts."""
        for environment in (self.environment, self.evaluation_environment):
            if environment is not None:
                environment.offset = offset

    def _observe(self, observation: Vector) -> None:
        if self.step <= self.config.schedule.start_steps:
            self._watch_digits()
        if self.normalizer is not None:
            self.normalizer.observe(observation)

    def _watch_digits(self) -> None:
        self.digits.observe(self.environment.given, self.environment.offset)
        is_complete = self.step == self.config.schedule.start_steps
        if is_complete and (line := self.digits.notice(normalizes=self.config.normalize)):
            self._tell_once("digits", line)

    def _normalized(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return observations if self.normalizer is None else self.normalizer(observations)

    def _action(self, observation: Vector) -> Vector:
        """Line 7 of Algorithm 1, in [−1, 1]: the policy with exploration noise; before learning starts, uniform."""
        draws, n_actions = self.agent.draws, self.environment.n_actions
        if self.step < self.config.schedule.start_steps:
            words = draws.stream(Purpose.RANDOM_ACTION, self.step, n_actions)
            return (2 * uniform(words) - 1).astype(np.float32)
        noise = draws.normals(Purpose.EXPLORATION, self.step, n_actions)
        action = self.agent.explore(self._normalized(observation), noise)
        if not np.isfinite(action).all():
            raise self._diverged("the policy's action")
        return action

    def _diverged(self, what: str) -> CheckFailed:
        kept = (
            f"the checkpoint of step {self.counters.step} is kept" if self.counters.step else "there is no checkpoint"
        )
        observations, rewards = self.replay.largest()
        fix = "scale the rewards down"
        if observations > rewards:
            fix = "use a smaller learning rate" if self.config.normalize else "use `normalize`"
        return CheckFailed(
            f"training diverged: {what} is not finite at step {self.step}; {kept}; rewards reach {rewards:.3g} and "
            f"observations {observations:.3g}: {fix}"
        )

    def _evaluate(self) -> None:
        """Add a row of metrics; none where a stop cannot wait for it: then it is due when the run goes on."""
        try:
            episodes = self._play()
        except _MustLeave:
            return
        if len(episodes.returns):
            last, best = float(episodes.returns.mean()), self.returns.best
            self.returns = replace(self.returns, last=last, best=last if best is None else max(last, best))
            if self.returns.best == last and self.config.policy == "best":
                self.best_policy = self._masked_policy()
        self.log.append(self._metrics(episodes))
        self.agent.reset_metrics()
        self.topology.evaluated(self.step)
        self.returns = replace(self.returns, training_sum=0.0, training_episodes=0)

    def _play(self) -> Episodes:
        """One episode per seed; none where the run is not evaluated."""
        environment = self.evaluation_environment
        if environment is None:
            return NO_EPISODES

        def act(observation: Vector) -> Vector:
            if self._must_leave:
                raise _MustLeave
            return environment.scale(self.agent.act(self._normalized(observation)))

        episodes = play(environment, act, self.evaluation_seeds, self._count)
        self._tell_of_cuts(environment)
        return episodes

    def _masked_policy(self) -> CompactPolicy:
        """The actor as it is: masked weights stored at their connections, no unit removed."""
        layers = [make_layer(weight, bias, self.config.network.block) for weight, bias in self.agent.actor_layers()]
        shapes = [plan.shape for name, network in self.agent.networks if name == "actor" for plan in network.plans]
        about: dict[str, Any] = {
            "edgerl": __version__,
            "environment": self.config.environment,
            "method": self.config.network.method,
            "seed": self.config.seed,
            "step": self.step,
            "sparsity": 1 - sum(s.connections for s in shapes) / sum(s.positions for s in shapes),
            "trained_connections": [shape.connections for shape in shapes],
            "trained_architecture": architecture(shapes),
            "evaluation_return": self.returns.last,
        }
        if self.config.env_args:
            about["env_args"] = dict(self.config.env_args)
        policy = CompactPolicy(
            layers=tuple(layers),
            action_low=self.environment.action_low,
            action_high=self.environment.action_high,
            observation_mean=None if self.normalizer is None else self.normalizer.mean,
            observation_scale=None if self.normalizer is None else self.normalizer.scale,
            metadata=about,
            observation_offset=self.environment.offset,
        )
        n_rows = self.replay.size
        seen = self.replay.observations(np.array([n_rows - 1]))[0] if n_rows else np.zeros(policy.n_observations)
        return policy.with_example(policy.observation_of(seen))

    def _metrics(self, episodes: Episodes) -> dict[str, float | int]:
        """A row of metrics.csv: its keys are the columns."""
        returns = episodes.returns
        row: dict[str, float | int] = {
            "step": self.step,
            "updates": self.agent.updates,
            "return_mean": float(returns.mean()) if len(returns) else math.nan,
            "return_deviation": float(returns.std()) if len(returns) else math.nan,
            "success_rate": episodes.success_rate,
            "training_return_mean": math.nan if self.returns.training is None else self.returns.training,
            "faults": self.faults,
            **self.agent.metrics,
        }
        for name, network in self.agent.networks:
            row |= {f"connections.{name}.{layer}": n for layer, n in enumerate(network.connections())}
        for name, network in self.agent.networks:
            row |= {f"target_connections.{name}.{layer}": n for layer, n in enumerate(network.target_connections())}
        row |= {f"share_ever_active.{name}": network.share_ever_active() for name, network in self.agent.networks}
        return row | {"elapsed_seconds": self._elapsed()}

    def _status(self) -> Status:
        start_steps = self.config.schedule.start_steps
        return Status(
            step=self.step,
            steps=self.config.schedule.steps,
            session_steps=self.step - self._first_step,
            session_seconds=time.monotonic() - self._started,
            start_steps=start_steps,
            evaluation_return=self.returns.last if self.log.last_step > start_steps else None,
            training_return=self.returns.training,
        )

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    def _save_checkpoint(self) -> None:
        if self.agent.abandoned_updates:
            raise self._diverged("a loss or a gradient")
        tensors = self.agent.state()
        for name, tensor in tensors.items():
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise self._diverged(name)
        policy = self.best_policy or self._masked_policy()
        self.replay.sync()
        self.log.sync()
        self.topology.sync()
        if self.normalizer is not None:
            tensors |= {f"normalizer.{name}": array for name, array in self.normalizer.state().items()}
        self.counters = Counters(
            step=self.step,
            episode=self.episode,
            replay_count=self.replay.count,
            metrics_rows=self.log.rows,
            elapsed_seconds=self._elapsed(),
            faults=self.faults,
        )
        checkpoint = Checkpoint(self.config, self.counters, policy, self.returns, tensors)
        # The policy first: where the last checkpoint is, its policy is too.
        policy_file.save(compact(policy), self.folder / run_folder.POLICY)
        checkpoint_file.write(self.folder / run_folder.CHECKPOINT, checkpoint)
        point_latest_to(self.folder)

    def _load_checkpoint(self) -> None:
        path = self.folder / run_folder.CHECKPOINT
        if not path.exists():
            return
        checkpoint = checkpoint_file.read(path)
        if not is_continued_by(checkpoint.config, self.config):
            raise FileFormatError(
                f"{path} is of another configuration than {self.folder / run_folder.CONFIG}; restore that file"
            )
        if not has_bounds_of(checkpoint.policy, self.environment):
            raise EnvironmentError(
                f"the run's policy {described_misfit(checkpoint.policy, self.environment)}; restore the environment's "
                "bounds, or train again"
            )
        own = {n: a for n, a in checkpoint.tensors.items() if not n.startswith("normalizer.")}
        rest = {n.removeprefix("normalizer."): a for n, a in checkpoint.tensors.items() if n not in own}
        try:
            self.agent.load_state(own)
            if self.normalizer is not None:
                self.normalizer.load_state(rest)
        except ValueError as error:
            raise FileFormatError(f"{path} is not valid: {error}; train again") from error
        self.counters, self.returns = checkpoint.counters, checkpoint.returns
        self._subtract(checkpoint.policy.observation_offset)
        if self.config.policy == "best" and self.returns.best is not None:
            self.best_policy = checkpoint.policy
        if not (self.folder / run_folder.POLICY).exists():
            policy_file.save(compact(checkpoint.policy), self.folder / run_folder.POLICY)
        if not anchored(run_folder.LATEST).exists():
            point_latest_to(self.folder)


class _MustLeave(Exception):  # noqa: N818 — asked for, not a fault
    """An evaluation is left out, since somebody asked to stop."""


@contextlib.contextmanager
def numerics(config: Config) -> Iterator[None]:
    """The run's thread count; denormals flushed, since with weight decay dead weights decay into them, at twice the
    time of an update."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)

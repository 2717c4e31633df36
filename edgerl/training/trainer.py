"""The training loop: steps, updates, evaluations and checkpoints of one run."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl import __version__, run_folder
from edgerl.algorithms.engine import Notice
from edgerl.algorithms.interface import Algorithm
from edgerl.algorithms.normalizer import Normalizer
from edgerl.config import is_continued_by
from edgerl.edge.acting.actions import described_misfit, has_bounds_of
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.engine.random import Purpose, uniform
from edgerl.environments.consent import resume_command
from edgerl.environments.make import Environment, Vector
from edgerl.errors import CheckFailed, EnvironmentError, EnvironmentFault, FileFormatError, Interrupted
from edgerl.files.paths import anchored
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, make_layer, with_activation
from edgerl.policy.pruning import compact
from edgerl.policy.shape import LayerShape, architecture
from edgerl.signals import StopRequests, Terminated
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.capacity import drop_oldest, policy_distance
from edgerl.training.checkpoint import NORMALIZER, Checkpoint, Counters, Returns
from edgerl.training.digits import DigitWatch, offset_for
from edgerl.training.evaluation import NO_EPISODES, Episodes, evaluation_seeds, play
from edgerl.training.folder import point_latest_to, sweep
from edgerl.training.logs import MetricsLog, read_metrics
from edgerl.training.records import TopologyLog, record_versions
from edgerl.training.returns import final_evaluations, mean_known

REPORT_INTERVAL = 100  # steps between two calls of a progress report

GRACE_SECONDS = 25.0
"""After a request to stop, how long the episode and an evaluation may take to finish; then they are cut."""

LONGEST_WAIT = 10_000
"""Steps that a due checkpoint waits for the episode's end; then it is written within the episode."""

MOST_FAULTS_IN_A_ROW = 10
"""Consecutive episodes that may fail at their first step before training gives up."""


@dataclass(frozen=True)
class Status:
    """Where a run is, for a progress display."""

    step: int
    steps: int
    session_steps: int  # of this process
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
    final_return: float | None  # mean of the last ten evaluations since learning began; None without any
    final_evaluations: int  # that it is the mean of: ten, or fewer
    final_success_rate: float | None  # of the same evaluations; None where the environment does not report it
    best_return: float | None  # of all evaluations
    elapsed_seconds: float
    faults: int  # steps that failed in the environment; 0 unless `on_fault` is truncate


Report = Callable[[Status], None]


class Trainer:
    """One run in one process: the agent, its environments, and the files of the run folder."""

    def __init__(
        self, agent: Algorithm, environment: Environment, evaluation: Environment | None, folder: Path
    ) -> None:
        """Resume the run in `folder` from its checkpoint, or start it where there is none.

        evaluation: a separate environment; `environment` itself, for between episodes; or None, for never.
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
        self._noticed: set[str] = set()
        self._started, self._first_step = time.monotonic(), self.step
        self._elapsed_before = self.counters.elapsed_seconds
        self._cpu_before = self.counters.training_cpu_seconds - time.process_time()
        with contextlib.ExitStack() as files:
            # With room for all the rows that can follow a checkpoint, none of its own is overwritten.
            self.replay = Replay(
                folder / run_folder.REPLAY,
                environment.n_observations,
                environment.n_actions,
                schedule.replay_capacity,
                slack=schedule.checkpoint_interval + min(environment.episode_limit or LONGEST_WAIT, LONGEST_WAIT),
                count=self.counters.replay_count,
                dropped=self.counters.replay_dropped,
            )
            files.callback(self.replay.close)
            sweep(folder)  # no other process uses it: we hold the replay's lock
            self.log = MetricsLog(folder, list(self._metrics(NO_EPISODES)), self.counters.metrics_rows)
            self.topology = TopologyLog(folder, agent, schedule, self.counters.step)
            record_versions(folder, self.counters.step)
            self.close = files.pop_all().close

    def run(self, report: Report, notice: Notice, stop: StopRequests) -> RunResult:
        """Train to the last step. Raises Interrupted, with a checkpoint written, after a request to stop."""
        self._report, self._notice, self._stop = report, notice, stop
        if self.replay.cut():
            notice("the run was saved within a long episode, which cannot be resumed: it goes on with the next one")
        try:
            while not self._is_complete:
                if self._evaluation_is_due:  # between episodes; or one that a stop has skipped
                    self._evaluate()
                else:
                    self._run_episode()
                is_due = self.step - self.counters.step >= self.config.schedule.checkpoint_interval
                if is_due or self._is_complete or stop.count:
                    self._save_checkpoint()
                if stop.count and not self._is_complete:
                    raise Interrupted(f"stopped at step {self.step}; go on with: {self._resume_command}", stop.signal)
        except (KeyboardInterrupt, Terminated):
            kept = (
                f"go on from step {self.counters.step} with: {self._resume_command}"
                if self.counters.step
                else "nothing is saved before the first checkpoint"
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
    def _must_stop(self) -> bool:
        """Whether the time that a request to stop allows is over."""
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
                self._survive(fault)
                self.replay.cut()
                boundary = Boundary.TRUNCATED
            else:
                self.replay.append(observation, action, reward, next_observation, boundary)
                self._observe(next_observation)
                observation, total = next_observation, total + reward
            drop_oldest(self.config, self.step, self._act, self.replay)
            if self.replay.size:
                for _ in range(self._updates_due):
                    self.agent.learn(self.replay, self.normalizer)
            if self._evaluation_is_due and not self.evaluates_between_episodes:
                self._evaluate()
            self._report_progress()
            if boundary is Boundary.CONTINUES:
                boundary = self._boundary_within_episode()
        episodes = self.returns.training_episodes + 1
        self.returns = replace(self.returns, training_sum=self.returns.training_sum + total, training_episodes=episodes)
        self._notice_cuts(self.environment)

    @property
    def _updates_due(self) -> int:
        """Critic updates that follow this step."""
        learning, steps = self.config.learning, self.step - self.config.schedule.start_steps
        return learning.updates_after(steps) - learning.updates_after(steps - 1) if steps > 0 else 0

    def _step(self, action: Vector) -> tuple[Vector, float, Boundary]:
        """(next observation, reward, boundary) after `action` in [−1, 1]. Raises EnvironmentError."""
        next_observation, reward, terminated, truncated = self.environment.step(self.environment.scale(action))
        self._faults_in_a_row = 0
        if terminated:
            return next_observation, reward, Boundary.TERMINATED
        return next_observation, reward, Boundary.TRUNCATED if truncated or self._is_at_the_end else Boundary.CONTINUES

    def _survive(self, fault: EnvironmentFault) -> None:
        """Count a fault of the training environment. Raises EnvironmentError where it is to end the run."""
        self._faults_in_a_row += 1
        if self._faults_in_a_row > MOST_FAULTS_IN_A_ROW:
            raise EnvironmentError(
                f"{fault}; so did the first steps of the {MOST_FAULTS_IN_A_ROW} episodes before: fix the environment"
            ) from fault
        self._count(fault)

    def _count(self, fault: EnvironmentFault) -> None:
        problem = f"{fault} (step {self.step} of the run, in episode {self.episode})"
        if self.config.on_fault == "stop":
            raise EnvironmentError(f"{problem}; to end the episode there and go on: `on_fault` truncate") from fault
        self.faults += 1
        self._notice_once("fault", f"{problem}; the episode ends there, the run goes on and counts further faults")

    def _boundary_within_episode(self) -> Boundary:
        """Whether the episode goes on after a step, once what cannot wait for its end is done."""
        if self._must_stop:
            self._notice(
                f"the episode did not end within {GRACE_SECONDS:g} s: it is recorded as truncated, so the run will not "
                "be bit-identical to one that was never stopped"
            )
            self.replay.cut()
            return Boundary.TRUNCATED
        if self.step - self.counters.step >= self.config.schedule.checkpoint_interval + LONGEST_WAIT:
            self._save_checkpoint()
        return Boundary.CONTINUES

    def _report_progress(self) -> None:
        if self.step % REPORT_INTERVAL == 0:
            schedule = self.config.schedule
            self._report(
                Status(
                    step=self.step,
                    steps=schedule.steps,
                    session_steps=self.step - self._first_step,
                    session_seconds=time.monotonic() - self._started,
                    start_steps=schedule.start_steps,
                    evaluation_return=self.returns.last if self.log.last_step > schedule.start_steps else None,
                    training_return=self.returns.training,
                )
            )
        if self._stop.count:
            self._notice_once(
                "stop",
                f"stopping at the episode's end, in {GRACE_SECONDS:g} s at the latest, with everything saved; press "
                "Ctrl-C again to quit without saving",
            )

    def _notice_cuts(self, environment: Environment) -> None:
        if environment.episodes_cut:
            self._notice_once(
                "cut",
                f"episodes of {environment.name} are cut after {environment.episode_limit} steps; for another limit: "
                "`max_episode_steps`",
            )

    def _notice_once(self, topic: str, text: str) -> None:
        if topic not in self._noticed:
            self._noticed.add(topic)
            self._notice(text)

    def _subtract(self, offset: npt.NDArray[np.float64] | None) -> None:
        """Subtract it from all observations of this run from now on."""
        for environment in (self.environment, self.evaluation_environment):
            if environment is not None:
                environment.offset = offset

    def _observe(self, observation: Vector) -> None:
        start_steps = self.config.schedule.start_steps
        if self.step <= start_steps:
            self.digits.observe(self.environment.given, self.environment.offset)
        if self.step == start_steps and (line := self.digits.notice(normalizes=self.config.normalize)):
            self._notice_once("digits", line)
        if self.normalizer is not None:
            self.normalizer.observe(observation)

    def _normalized(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return observations if self.normalizer is None else self.normalizer(observations)

    def _act(self, observation: Vector) -> Vector:
        """The policy's action, in [−1, 1]."""
        return self.agent.act(self._normalized(observation))

    def _action(self, observation: Vector) -> Vector:
        """Line 7 of Algorithm 1, in [−1, 1]: the policy with exploration noise; uniform before learning begins."""
        draws, n_actions = self.agent.draws, self.environment.n_actions
        if self.step < self.config.schedule.start_steps:
            words = draws.stream(Purpose.RANDOM_ACTION, self.step, n_actions)
            return (2 * uniform(words) - 1).astype(np.float32)
        noise = draws.normals(Purpose.EXPLORATION, self.step, n_actions)
        action = self.agent.explore(self._normalized(observation), noise)
        if not math.isfinite(action.dot(action)):  # one call for all of them: none is beyond 1
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
        """Add a row of metrics; none where a stop cannot wait for it: then it is due when the run is resumed."""
        started = time.process_time()
        try:
            episodes = self._play()
        except _Stopped:
            return
        finally:
            self._cpu_before -= time.process_time() - started
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
            if self._must_stop:
                raise _Stopped
            return environment.scale(self._act(observation))

        episodes = play(environment, act, self.evaluation_seeds, self._count)
        self._notice_cuts(environment)
        return episodes

    def _masked_policy(self) -> CompactPolicy:
        """The actor as it is: masked weights at their connections, with dead units."""
        network = self.config.network
        affine = (make_layer(weight, bias, network.block) for weight, bias in self.agent.actor_layers())
        layers = with_activation(affine, network.activation)
        actor = next(network for name, network in self.agent.networks if name == "actor")
        shapes = [
            LayerShape(plan.n_inputs, plan.n_outputs, connections)
            for plan, connections in zip(actor.plans, actor.connections(), strict=True)
        ]
        n_actions = layers[-1].n_outputs  # where the actor gives deviations, too, the policy has none
        shapes[-1] = LayerShape(shapes[-1].n_inputs, n_actions, int(actor.output_degrees()[:n_actions].sum()))
        about: dict[str, Any] = {
            "edgerl": __version__,
            "environment": self.config.environment,
            "algorithm": self.config.algorithm,
            "method": self.config.method_name,
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
            layers=layers,
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
        if self.config.schedule.replay_distance is not None:
            row |= {
                "replay_size": self.replay.size,
                "policy_distance": policy_distance(self._act, self.replay, self.config.learning.batch_size),
            }
        for name, network in self.agent.networks:
            row |= {f"connections.{name}.{layer}": n for layer, n in enumerate(network.connections())}
        for name, network in self.agent.networks:
            row |= {f"target_connections.{name}.{layer}": n for layer, n in enumerate(network.target_connections())}
        row |= {f"share_ever_active.{name}": network.share_ever_active() for name, network in self.agent.networks}
        return row | {"elapsed_seconds": self._elapsed(), "training_cpu_seconds": self._training_cpu()}

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    def _training_cpu(self) -> float:
        """Processor seconds of this run in all of its processes, but for evaluations."""
        return self._cpu_before + time.process_time()

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
            tensors |= {NORMALIZER + name: array for name, array in self.normalizer.state().items()}
        self.counters = Counters(
            step=self.step,
            episode=self.episode,
            replay_count=self.replay.count,
            replay_dropped=self.replay.dropped,
            metrics_rows=self.log.rows,
            elapsed_seconds=self._elapsed(),
            training_cpu_seconds=self._training_cpu(),
            faults=self.faults,
        )
        checkpoint = Checkpoint(self.config, self.counters, policy, self.returns, tensors)
        # The policy first: the last checkpoint is never without its policy.
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
                f"{path} has another configuration than {self.folder / run_folder.CONFIG}; restore that file"
            )
        if not has_bounds_of(checkpoint.policy, self.environment):
            raise EnvironmentError(
                f"the run's policy {described_misfit(checkpoint.policy, self.environment)}; restore the environment's "
                "bounds, or train again"
            )
        try:
            self.agent.load_state(checkpoint.agent_state)
            if self.normalizer is not None:
                self.normalizer.load_state(checkpoint.normalizer_state)
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


class _Stopped(Exception):  # noqa: N818 — requested, not an error
    """An evaluation is skipped, after a request to stop."""

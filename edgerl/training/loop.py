"""The training loop: steps, updates, evaluations and checkpoints of one run, and its folder."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgerl import __version__, run_folder
from edgerl.compact import file as policy_file
from edgerl.compact.policy import CompactPolicy, make_layer
from edgerl.compact.pruning import compact
from edgerl.compact.shape import architecture
from edgerl.edge.random import Purpose, uniform
from edgerl.edge.replay import Boundary, Replay
from edgerl.errors import CheckFailed, ConfigError, FileFormatError, Interrupted
from edgerl.signals import StopRequests, leave_at_the_second, stop_requests
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.agent import Agent
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from edgerl.training.config import Config, Preset, make_config
from edgerl.training.engine import Notice, with_engine
from edgerl.training.environments import Environment, Vector, make, resumes_bit_for_bit
from edgerl.training.evaluate import evaluate, evaluation_seeds, longest_episode
from edgerl.training.folder import check_latest, default_folder, new_folder, point_latest_to, read_config, sweep
from edgerl.training.logs import MetricsLog
from edgerl.training.native import NativeAgent
from edgerl.training.normalizer import Normalizer
from edgerl.training.records import TopologyLog, record_versions

REPORT_INTERVAL = 100  # steps between two calls of a progress report


@dataclass(frozen=True)
class Status:
    """Where a run stands, for a progress display."""

    step: int
    steps: int
    session_steps: int  # since this process took the run up
    session_seconds: float
    evaluation_return: float | None  # mean of the last evaluation


@dataclass(frozen=True)
class RunResult:
    """A run that is complete."""

    folder: Path
    policy: Path
    steps: int
    final_return: float | None  # mean of the last evaluation; None where there was none
    best_return: float | None
    elapsed_seconds: float


Report = Callable[[Status], None]


def train(
    env: str | None = None,
    *,
    preset: Preset = "paper",
    out: str | Path | None = None,
    resume: str | Path | None = None,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
    **options: Any,
) -> RunResult:
    """Train a policy, or go on with the run folder `resume`.

    env: a gymnasium id or `module:factory` (default HalfCheetah-v5). out: the run folder, which must not exist (default
    `runs/<env>-<method>-seed<n>`). options: every field of edgerl.training.config by name, such as steps, seed and
    sparsity. report: called every 100 steps. notice: called with lines that a person should read.

    Raises ConfigError, EnvironmentError, OutputError, FileFormatError; CheckFailed where training diverged;
    Interrupted, with the state saved, after SIGINT or SIGTERM (the running episode is finished first; a second signal
    leaves at once, with the last checkpoint).
    """
    if resume is not None:
        if env is not None or out is not None or preset != "paper" or any(v is not None for v in options.values()):
            raise ConfigError("--resume takes everything from the run; leave out all other options")
        resume = Path(resume).resolve()  # runs/latest is a link, which is about to be renewed
        config = read_config(resume)
    else:
        config = with_engine(make_config(preset, environment=env, **options), notice)
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(contextlib.closing(make(config.environment)))
        evaluation_environment = stack.enter_context(contextlib.closing(make(config.environment)))
        if not resumes_bit_for_bit(config.environment):
            notice(
                f"{config.environment} does not restart from its seed alone: a resumed run will not be bit-identical"
            )
        stack.enter_context(numerics(config))
        stop = stack.enter_context(stop_requests(leave_at_the_second))
        if resume is None:
            config = replace(config, environment=environment.name)
            folder = default_folder(config) if out is None else Path(out)
        else:
            folder = run_folder.short(resume)
            check_latest(folder)
        agent = make_agent(config, environment.n_observations, environment.n_actions)
        if resume is None:
            stack.enter_context(new_folder(folder, config))
        trainer = Trainer(agent, environment, evaluation_environment, folder)
        stack.callback(trainer.close)
        notice(f"run folder {folder}; live curves: tensorboard --logdir {folder}")
        return trainer.run(report, notice, stop)


AnyAgent = Agent | NativeAgent
"""The two engines: the same algorithm, the same state, the same interface."""


def make_agent(config: Config, n_observations: int, n_actions: int) -> AnyAgent:
    """The agent on the engine that the configuration names. Raises ConfigError, MissingExtraError."""
    kind = NativeAgent if config.engine == "native" else Agent
    return kind(config, n_observations, n_actions)


class Trainer:
    """One run in one process: the agent, its environments, and the files of the run folder."""

    def __init__(self, agent: AnyAgent, environment: Environment, evaluation: Environment, folder: Path) -> None:
        """Take up the run in `folder` from its checkpoint, or start it where there is none."""
        self.config, self.agent, self.folder = agent.config, agent, folder
        self.environment, self.evaluation_environment = environment, evaluation
        schedule = self.config.schedule
        self.normalizer = Normalizer(environment.n_observations) if self.config.normalize else None
        self.evaluation_seeds = evaluation_seeds(self.config.seed, schedule.evaluation_episodes)
        self.returns = Returns()
        self.best_policy: CompactPolicy | None = None
        self.counters = Counters()
        self._load_checkpoint()
        # No more than the checkpoint interval and one episode lie between two checkpoints: with that much room, the
        # replay keeps every row that the last one counts on.
        self.longest_episode = longest_episode(environment, schedule)
        with contextlib.ExitStack() as files:
            self.replay = Replay(
                folder / run_folder.REPLAY,
                environment.n_observations,
                environment.n_actions,
                schedule.replay_capacity,
                slack=schedule.checkpoint_interval + self.longest_episode,
                count=self.counters.replay_count,
            )
            files.callback(self.replay.close)
            sweep(folder)  # nobody else is here: we hold the replay's lock
            self.log = MetricsLog(folder, self._metrics_columns(), self.counters.metrics_rows)
            files.callback(self.log.close)
            self.topology = TopologyLog(folder, agent, schedule, self.counters.step)
            record_versions(folder, self.counters.step)
            self.close = files.pop_all().close
        self.step, self.episode = self.counters.step, self.counters.episode
        self._started, self._first_step = time.monotonic(), self.step
        self._elapsed_before = self.counters.elapsed_seconds

    def run(self, report: Report, notice: Notice, stop: StopRequests) -> RunResult:
        """Train to the last step. Raises Interrupted, with a checkpoint taken, once somebody asked to stop."""
        interval = self.config.schedule.checkpoint_interval
        is_announced = False

        def tell() -> None:
            nonlocal is_announced
            if self.step % REPORT_INTERVAL == 0:
                report(self._status())
            if stop.count and not is_announced:
                is_announced = True
                notice("stopping at the episode's end, with everything saved; once more leaves at once, and loses it")

        while self.step < self.config.schedule.steps:
            try:
                self._run_episode(tell)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"left at step {self.step}; go on from step {self.counters.step} with: edgerl train --resume "
                    f"{self.folder}",
                    stop.signal or signal.SIGINT,
                ) from None
            if self.step - self.counters.step >= interval or stop.count or self._is_complete:
                self._save_checkpoint()
            if stop.count and not self._is_complete:
                raise Interrupted(
                    f"stopped at step {self.step}; go on with: edgerl train --resume {self.folder}", stop.signal
                )
        return RunResult(
            folder=self.folder,
            policy=self.folder / run_folder.POLICY,
            steps=self.step,
            final_return=self.returns.last,
            best_return=self.returns.best,
            elapsed_seconds=self._elapsed(),
        )

    @property
    def _is_complete(self) -> bool:
        return self.step >= self.config.schedule.steps

    def _run_episode(self, tell: Callable[[], None]) -> None:
        seed = int(self.agent.draws.words(Purpose.EPISODE, self.episode, 1)[0])
        observation = self.environment.reset(seed)
        self._observe(observation)
        self.episode += 1
        for length in itertools.count(1):
            action = self._action(observation)
            next_observation, reward, terminated, truncated = self.environment.step(self.environment.scale(action))
            self.step += 1
            cut = truncated or self._is_complete or length == self.longest_episode
            boundary = Boundary.TERMINATED if terminated else Boundary.TRUNCATED if cut else Boundary.CONTINUES
            self.replay.append(observation, action, reward, next_observation, boundary)
            self._observe(next_observation)
            if self.step > self.config.schedule.start_steps:
                self.agent.learn(self.replay, self.normalizer)
            if self.step % self.config.schedule.evaluation_interval == 0 or self._is_complete:
                self._evaluate()
            tell()
            if boundary is not Boundary.CONTINUES:
                return
            observation = next_observation

    def _observe(self, observation: Vector) -> None:
        if self.normalizer is not None:
            self.normalizer.observe(observation)

    def _normalized(self, observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return observations if self.normalizer is None else self.normalizer(observations)

    def _action(self, observation: Vector) -> Vector:
        """Line 7 of Algorithm 1, in [−1, 1]: the policy with exploration noise; before learning starts, uniform."""
        draws, n_actions = self.agent.draws, self.environment.n_actions
        if self.step < self.config.schedule.start_steps:
            words = draws.stream(Purpose.RANDOM_ACTION, self.step, n_actions)
            return (2 * uniform(words) - 1).astype(np.float32)
        noise = draws.normals(Purpose.EXPLORATION, self.step, n_actions)
        action = self.agent.act(self._normalized(observation)) + self.config.td3.exploration_noise * noise
        if not np.isfinite(action).all():
            raise self._diverged("the policy's action")
        return np.clip(action, -1, 1).astype(np.float32)

    def _diverged(self, what: str) -> CheckFailed:
        kept = (
            f"the checkpoint of step {self.counters.step} is kept" if self.counters.step else "there is no checkpoint"
        )
        return CheckFailed(
            f"training diverged: {what} is not finite at step {self.step}; {kept}; scale the rewards down, or normalise"
        )

    def _evaluate(self) -> None:
        def act(observation: Vector) -> Vector:
            return self.evaluation_environment.scale(self.agent.act(self._normalized(observation)))

        returns = evaluate(self.evaluation_environment, act, self.evaluation_seeds, self.longest_episode)
        last, best = float(returns.mean()), self.returns.best
        self.returns = Returns(last, last if best is None else max(last, best))
        if self.returns.best == last and self.config.policy == "best":
            self.best_policy = self._masked_policy()
        self.log.append(self._metrics(returns))
        self.topology.evaluated(self.step)

    def _masked_policy(self) -> CompactPolicy:
        """The actor as it is: masked weights stored at their connections, no unit removed."""
        layers = [make_layer(weight, bias, self.config.network.block) for weight, bias in self.agent.actor_layers()]
        shapes = [plan.shape for name, network in self.agent.networks if name == "actor" for plan in network.plans]
        about = {
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
        policy = CompactPolicy(
            layers=tuple(layers),
            action_low=self.environment.action_low,
            action_high=self.environment.action_high,
            observation_mean=None if self.normalizer is None else self.normalizer.mean,
            observation_scale=None if self.normalizer is None else self.normalizer.scale,
            metadata=about,
        )
        return policy.with_example(self.replay.observations(np.array([self.replay.size - 1]))[0])

    def _metrics_columns(self) -> list[str]:
        columns = ["step", "updates", "return_mean", "return_deviation", "critic_loss", "actor_loss"]
        for kind in ("connections", "target_connections"):
            for name, network in self.agent.networks:
                columns += [f"{kind}.{name}.{layer}" for layer in range(len(network.plans))]
        columns += [f"share_ever_active.{name}" for name, _ in self.agent.networks]
        return [*columns, "elapsed_seconds"]

    def _metrics(self, returns: npt.NDArray[np.float64]) -> dict[str, float | int]:
        critic_loss, actor_loss = self.agent.take_losses()
        row: dict[str, float | int] = {
            "step": self.step,
            "updates": self.agent.updates,
            "return_mean": float(returns.mean()),
            "return_deviation": float(returns.std()),
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "elapsed_seconds": self._elapsed(),
        }
        for name, network in self.agent.networks:
            row |= {f"connections.{name}.{layer}": n for layer, n in enumerate(network.connections())}
            row |= {f"target_connections.{name}.{layer}": n for layer, n in enumerate(network.target_connections())}
            row[f"share_ever_active.{name}"] = network.share_ever_active()
        return row

    def _status(self) -> Status:
        return Status(
            step=self.step,
            steps=self.config.schedule.steps,
            session_steps=self.step - self._first_step,
            session_seconds=time.monotonic() - self._started,
            evaluation_return=self.returns.last,
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
        self.counters = Counters(self.step, self.episode, self.replay.count, self.log.rows, self._elapsed())
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
        if checkpoint.config != self.config:
            raise FileFormatError(
                f"{path} is of another configuration than {self.folder / run_folder.CONFIG}; restore that file"
            )
        own = {n: a for n, a in checkpoint.tensors.items() if not n.startswith("normalizer.")}
        rest = {n.removeprefix("normalizer."): a for n, a in checkpoint.tensors.items() if n not in own}
        try:
            self.agent.load_state(own)
            if self.normalizer is not None:
                self.normalizer.load_state(rest)
        except ValueError as error:
            raise FileFormatError(f"{path} is not valid: {error}; train anew") from error
        self.counters, self.returns = checkpoint.counters, checkpoint.returns
        if self.config.policy == "best" and self.returns.best is not None:
            self.best_policy = checkpoint.policy
        if not (self.folder / run_folder.POLICY).exists():
            policy_file.save(compact(checkpoint.policy), self.folder / run_folder.POLICY)
        if not run_folder.LATEST.exists():
            point_latest_to(self.folder)


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

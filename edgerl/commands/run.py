"""`edgerl.run`: a policy at a fixed rate in its environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.commands.models import Notice, find_model, load_policy, no_notice, task_of
from edgerl.edge.acting.actions import ActionMode, adapted
from edgerl.edge.acting.control import ControlLoop, ControlStatistics
from edgerl.edge.acting.realtime import Granted, realtime
from edgerl.environments.make import Environment, make

DEFAULT_RATE = 100.0
"""Hz."""


@dataclass
class EpisodeSoFar:
    """An episode, as far as it went."""

    total: float = 0.0  # the undiscounted return
    steps: int = 0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"return": self.total, "steps": self.steps}


@dataclass(frozen=True)
class RunReport:
    """What was measured, and what the policy returned."""

    model: Path
    environment: str
    statistics: ControlStatistics
    granted: Granted | None  # by the system; None where nothing was to be kept warm
    episodes: list[EpisodeSoFar]
    unfinished_episode: EpisodeSoFar

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "environment": self.environment,
            **asdict(self.statistics),
            "granted": None if self.granted is None else asdict(self.granted),
            "episodes": [episode.as_dict() for episode in self.episodes],
            "unfinished_episode": self.unfinished_episode.as_dict(),
        }


class CutShort(KeyboardInterrupt):
    """Ctrl-C, with the report of what was measured until then."""

    def __init__(self, report: RunReport) -> None:
        super().__init__()
        self.report = report


@dataclass
class _Simulation:
    """The environment as a robot: it is observed and acted on, and starts the next episode by itself."""

    environment: Environment
    seed: int
    forget: Callable[[], None]  # called where an episode begins
    finished: list[EpisodeSoFar] = field(default_factory=list)
    unfinished: EpisodeSoFar = field(default_factory=EpisodeSoFar)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.forget()
        self._observation = self.environment.reset(self.seed + len(self.finished))

    def observe(self) -> npt.NDArray[np.float32]:
        """The present observation [n], in the type that the policy needs."""
        return self._observation

    def act(self, action: npt.NDArray[np.float32]) -> None:
        """Make one step, and start the next episode where this one ends."""
        self._observation, reward, terminated, truncated = self.environment.step(action)
        self.unfinished.total += reward
        self.unfinished.steps += 1
        if terminated or truncated:
            self.finished.append(self.unfinished)
            self.unfinished = EpisodeSoFar()
            self._begin()


def run(
    model: str | Path | None = None,
    *,
    env: str | None = None,
    rate: float | None = None,
    actions: ActionMode | None = None,
    seconds: float = 5.0,
    seed: int = 0,
    warm: bool = True,
    notice: Notice = no_notice,
) -> RunReport:
    """Run a policy at a fixed rate in its environment: latency, jitter, missed deadlines, return.

    model: a policy.safetensors, which runs on edgerl's own engine, an ONNX file, which runs on onnxruntime, or a run
    folder (default runs/latest). env: the environment (default the one that the file names). rate: in Hz (default
    what the policy's contract says, else 100). actions: of a policy with other bounds than the environment's, scale or
    clip. seed: of the first episode; each next one adds 1. warm: rehearse an action before each tick, with the memory
    locked and the priority raised where the system permits. notice: called with lines that a person should read.

    Raises ConfigError, EnvironmentError, FileFormatError, UnsupportedModelError; CutShort, with the report, on Ctrl-C.
    """
    path = find_model(model, notice)
    policy = load_policy(path, notice)
    name, arguments = task_of(policy.metadata.get("about", {}), env or None, path, notice)
    environment = make(name, arguments=arguments)
    with contextlib.closing(environment):
        driver = adapted(policy, environment, actions, str(path))
        if driver.n_observations != policy.n_observations:
            notice(
                f"{environment.name} gives single steps of {driver.n_observations} numbers; they are clipped, scaled "
                f"and stacked to {policy.n_observations}, as the contract of {path} says"
            )
        environment.observation_dtype = policy.observation_dtype
        simulation = _Simulation(environment, seed, driver.reset)
        fallback = np.clip(0, environment.action_low, environment.action_high)
        rate = (policy.contract.rate_hz or DEFAULT_RATE) if rate is None else rate
        loop = ControlLoop(driver, simulation.observe, simulation.act, rate, fallback, warm=warm)
        is_cut = False
        with realtime() if warm else contextlib.nullcontext() as granted:
            try:
                loop.run(seconds)
            except KeyboardInterrupt:
                is_cut = True
    report = RunReport(path, environment.name, loop.statistics(), granted, simulation.finished, simulation.unfinished)
    if is_cut:
        raise CutShort(report)
    return report

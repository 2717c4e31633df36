"""`edgerl.learn`: a policy that acts at a fixed rate and keeps learning, for as long as the device runs.

Needs the base install only, as the board has it: an environment of gymnasium, or a drift, loads gymnasium.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerl.commands.models import Notice, find_learner, no_notice, task_of
from edgerl.edge.acting.actions import are_same_bounds
from edgerl.edge.acting.robot import Robot, close, is_factory, load_factory
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.memory import MemoryPlan
from edgerl.edge.continual.session import Schedule, Session, Updates
from edgerl.edge.continual.status import SessionStatus
from edgerl.edge.continual.store import Snapshots
from edgerl.edge.continual.transitions import KeepPolicy, Storage
from edgerl.edge.continual.trials import PARTS, TrialRule
from edgerl.environments.arguments import Arguments
from edgerl.errors import ConfigError, EdgerlError, EnvironmentError, Interrupted
from edgerl.files.paths import anchored, at_home
from edgerl.run_folder import LEARNER, short
from edgerl.signals import StopRequests, leave_at_the_second, stop_requests
from edgerl.units import human_seconds

STATE = "state"
"""The default state folder, beside the bundle."""

LONGEST_HOURS = 200_000.0

LONGEST_WINDOW_SECONDS = 86400.0

WINDOW_RATE_HZ = 100.0
"""Converts `window_seconds` to steps where a rate of 0 sets no pace."""


@dataclass(frozen=True)
class LearnStart:
    """What starts or resumes."""

    environment: str
    state: Path
    rate_hz: float  # 0: as fast as possible
    is_new: bool  # from the bundle, not from the state folder
    seconds: float  # of operation before this start; likewise the steps
    steps: int
    rejected: Sequence[str]  # lines about files in the state folder that were passed over
    memory: MemoryPlan
    about: dict[str, Any]  # what the bundle says about itself

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "environment": self.environment,
            "state": str(short(self.state)),
            "rate_hz": self.rate_hz,
            "is_new": self.is_new,
            "rejected": list(self.rejected),
            "memory": self.memory.as_dict(),
            "about": self.about,
        }


@dataclass(frozen=True)
class LearnResult:
    """How learning ended, and what had come of it by then."""

    reason: str  # complete, SIGINT, SIGTERM, or the text of an error
    state: Path  # the folder that keeps what was learnt
    status: SessionStatus

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"reason": self.reason, **self.status}


@at_home()
def learn(
    bundle: str | Path | None = None,
    *,
    env: str | None = None,
    rate: float = 100.0,
    hours: float = 1.0,
    memory: int | None = None,
    state: str | Path | None = None,
    replay_policy: KeepPolicy | None = None,
    replay_storage: Storage = "ram",
    sync_seconds: float = 10.0,
    snapshot_minutes: float = 10.0,
    trial_every: int = 5,
    window_seconds: float = 10.0,
    updates_per_step: float = 1.0,
    updates: Updates = "idle",
    explore: bool = True,
    drift: Sequence[str] = (),
    seed: int = 0,
    status_seconds: float = 10.0,
    started: Callable[[LearnStart], object] = lambda _: None,
    report: Callable[[SessionStatus], object] = lambda _: None,
    stopped: Callable[[LearnResult], object] = lambda _: None,
    notice: Notice = no_notice,
) -> LearnResult:
    """Act and keep learning, within a fixed memory; the same call continues after a restart or a power cut.

    bundle: a learner.safetensors or a run folder; not needed once there is a state (default: the one in the current
    folder, or that of the newest run that has one). env: a gymnasium id, or `module:factory` (default: the bundle's).
    rate: in Hz; 0: as fast as possible. hours: to run in all, earlier starts included. memory: bytes of networks and
    replay together (default: the bundle's). state: the folder that keeps what is learnt (default: `state` beside the
    bundle). replay_policy: which transitions are kept, ring (the newest) or reservoir (a sample; default: the
    bundle's). replay_storage: ram, or mapped, in a file. sync_seconds: what a power cut may lose of the transitions.
    snapshot_minutes: what a restart may lose of the learning. trial_every: in one window out of this many the learning
    policy drives. window_seconds: the longest window; it ends with its episode. updates_per_step: updates that a step
    allows. updates: in the idle time of a period, or in a thread. explore: act with the noise of training. drift:
    changes of the robot, each `KIND[/INDEX][:STRENGTH][@STEP]`. seed: of the first episode; each next one adds 1.
    status_seconds: from one report to the next.

    started: called once, before the first step. report: called now and then, in another thread. stopped: called once
    after `started`, with what is returned, also where a signal or an error ends it. notice: called with lines that a
    person should read.

    Raises ConfigError, EnvironmentError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError;
    Interrupted, with everything saved, after SIGINT or SIGTERM. A second signal interrupts a robot that hangs.
    """
    if not 0 < hours <= LONGEST_HOURS:
        raise ConfigError(f"`hours` is {hours:g}; expected a number in (0, {LONGEST_HOURS:g}]")
    schedule = Schedule(rate, updates, sync_seconds, 60 * snapshot_minutes, status_seconds)
    rule = TrialRule(every=trial_every, window_steps=_window_steps(window_seconds, rate or WINDOW_RATE_HZ))
    drifts = _drifts(drift)
    source, folder = map(anchored, _find_state(bundle, state, notice))
    with contextlib.ExitStack() as stack:
        learner = Learner.load(
            source,
            state=folder,
            memory=memory,
            keep=replay_policy,
            storage=replay_storage,
            rule=rule,
            updates_per_step=updates_per_step,
        )
        stack.callback(learner.close)
        stack.enter_context(_withdrawn_without_a_step(learner))
        if bundle is not None and not learner.is_new:
            notice(f"ignoring {bundle}: resuming from {folder}")
        env, arguments = task_of(learner.about, env, source, notice)
        at_rest = stack.enter_context(contextlib.ExitStack())  # left as soon as nothing drives the robot any more
        robot = _robot(env, arguments, drifts, learner, at_rest)
        session = Session(learner, robot, schedule, explore=explore, seed=seed)
        counters = learner.counters
        left = 3600 * hours - counters.seconds
        started(
            LearnStart(
                environment=env,
                state=folder,
                rate_hz=rate,
                is_new=learner.is_new,
                seconds=counters.seconds,
                steps=counters.steps,
                rejected=learner.rejected,
                memory=learner.memory,
                about=learner.about,
            )
        )
        if left <= 0:
            notice(f"{folder} has run for the hours requested; request more to go on")
        return _run(session, left, folder, report, stopped, at_rest)


def _window_steps(seconds: float, rate: float) -> int:
    least = PARTS / rate
    if not least <= seconds <= LONGEST_WINDOW_SECONDS:
        raise ConfigError(
            f"`window_seconds` is {seconds:g}; expected a number in [{least:g}, {LONGEST_WINDOW_SECONDS:g}]: "
            f"a window has at least {PARTS} steps"
        )
    return round(seconds * rate)


def _drifts(texts: Sequence[str]) -> list[Any]:
    """Checked before anything is made."""
    if not texts:
        return []
    from edgerl.environments.drift import parse_drift

    return [parse_drift(text) for text in texts]


def _find_state(bundle: str | Path | None, state: str | Path | None, notice: Notice) -> tuple[Path, Path]:
    """(what to load, the state folder): without a bundle the state folder itself, where it holds a learner."""
    bundle, state = (None if path is None else Path(path) for path in (bundle, state))
    if bundle is None and state is None and not Path(LEARNER).exists() and Snapshots(Path(STATE)).are_there:
        notice(f"using {STATE}")
        state = Path(STATE)
    if state is not None and Snapshots(state).are_there:
        named = bundle / LEARNER if bundle is not None and bundle.is_dir() else bundle
        return named or state, state
    found = find_learner(bundle, notice)
    return found, state or found.with_name(STATE)


@contextlib.contextmanager
def _withdrawn_without_a_step(learner: Learner) -> Iterator[None]:
    """Leave nothing of a learner that was refused, or whose robot failed, before it made a step."""
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        if not learner.counters.steps:
            learner.withdraw()
        raise


def _robot(
    env: str, arguments: Arguments, drifts: Sequence[Any], learner: Learner, at_rest: contextlib.ExitStack
) -> Robot:
    """The robot, closed where `at_rest` is left. Its environment is used unchecked: numbers that are not finite are for
    the learner to count."""
    if is_factory(env):
        environment = load_factory(env, **arguments)
    else:
        from edgerl.environments.make import registered

        environment = registered(env, **arguments)
    at_rest.callback(close, env, environment)
    if drifts:
        from edgerl.environments.drift import DriftingEnvironment

        environment = DriftingEnvironment(environment, drifts, steps_before=learner.counters.steps)
    robot = Robot(env, environment, learner.n_observations, learner.n_actions)
    for bound, own in (("low", learner.action_low), ("high", learner.action_high)):
        stated = getattr(getattr(environment, "action_space", None), bound, None)
        if stated is not None and not are_same_bounds(stated, own):
            raise EnvironmentError(
                f"{env} has actions whose {bound} is {str(stated)[:60]}; expected {own.tolist()}, the policy's"
            )
    return robot


def _run(
    session: Session,
    seconds: float,
    folder: Path,
    report: Callable[[SessionStatus], object],
    stopped: Callable[[LearnResult], object],
    at_rest: contextlib.ExitStack,
) -> LearnResult:
    """Run for the time that is left; the robot is at rest before anything is kept or said. Raises Interrupted after a
    signal."""

    def result(reason: str, status: SessionStatus) -> LearnResult:
        made = LearnResult(reason, folder, status)
        stopped(made)
        return made

    if seconds <= 0:
        return result("complete", session.status())
    try:
        with stop_requests(lambda requests: _stop(session, requests)) as stop:
            status = session.run(seconds, report=report, at_rest=at_rest.close)
    except EdgerlError as error:
        result(str(error), session.status())
        raise
    if not stop.count:
        return result("complete", status)
    result(signal.Signals(stop.signal).name, status)
    raise Interrupted(
        f"stopped after {human_seconds(status['seconds'])} in all; everything is in {folder}, and the same command "
        "continues",
        stop.signal,
    )


def _stop(session: Session, requests: StopRequests) -> None:
    """The first request ends the session after its cycle, the second interrupts a robot that hangs."""
    leave_at_the_second(requests)
    session.stop()

"""`edgerl learn`: a policy that acts at a fixed rate and goes on learning, for as long as the device runs."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgerl.cli.support.learning import find_learner
from edgerl.cli.support.output import note
from edgerl.cli.support.streams import keep_results_apart
from edgerl.commands.models import task_of
from edgerl.errors import ConfigError, EdgerlError, EnvironmentError, Interrupted
from edgerl.files.paths import anchored
from edgerl.run_folder import LEARNER
from edgerl.signals import StopRequests, leave_at_the_second, stop_requests
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from edgerl.cli.support.live import JsonLines, Screen
    from edgerl.edge.acting.robot import Robot
    from edgerl.edge.continual.learner import Learner
    from edgerl.edge.continual.session import Session, Updates
    from edgerl.edge.continual.transitions import KeepPolicy, Storage
    from edgerl.environments.arguments import Arguments

STATE = "state"
"""The folder beside a bundle in which what is learnt is kept, where no other is named."""

LONGEST_HOURS = 200_000.0

LONGEST_WINDOW_SECONDS = 86400.0

WINDOW_RATE_HZ = 100.0
"""At which --window-seconds are counted in steps where --rate 0 sets no pace."""


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="learner.safetensors or run folder; not needed where --state has begun. Default: the one in the "
            "current folder, or that of the newest run that has one.",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", help="Gymnasium id, or module:factory; default: the bundle's.", show_default=False),
    ] = None,
    rate: Annotated[float, typer.Option(help="Control rate in Hz; 0: no pace, as fast as possible.")] = 100.0,
    hours: Annotated[float, typer.Option(help="How long to run in all, earlier starts counted.")] = 1.0,
    memory: Annotated[
        str | None,
        typer.Option(help="Bytes of networks and replay together, such as 32MiB.", show_default="the bundle's"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what is learnt; the same command goes on.", show_default="beside BUNDLE"),
    ] = None,
    replay_policy: Annotated[
        str | None,
        typer.Option(help="Transitions kept: ring (the newest) or reservoir (a sample).", show_default="the bundle's"),
    ] = None,
    replay_storage: Annotated[str, typer.Option(help="Transitions in ram, or in a mapped file.")] = "ram",
    sync_seconds: Annotated[float, typer.Option(help="What a power cut may lose of the transitions.")] = 10.0,
    snapshot_minutes: Annotated[float, typer.Option(help="What a restart may lose of the learning.")] = 10.0,
    trial_every: Annotated[int, typer.Option(help="One window in so many is the learning policy's.")] = 5,
    window_seconds: Annotated[float, typer.Option(help="Longest window; it ends with its episode.")] = 10.0,
    updates_per_step: Annotated[float, typer.Option(help="Updates that a step allows.")] = 1.0,
    updates: Annotated[str, typer.Option(help="Learn in the idle time of a period, or in a thread.")] = "idle",
    explore: Annotated[bool, typer.Option("--explore/--no-explore", help="Act with the noise of training.")] = True,
    drift: Annotated[
        list[str] | None,
        typer.Option(help="A change of the robot, KIND[/INDEX][:STRENGTH][@STEP]; repeatable.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; each next one adds 1.")] = 0,
    status_seconds: Annotated[float, typer.Option(help="From one status to the next.")] = 10.0,
    json: Annotated[
        bool,
        typer.Option(
            "--json", callback=keep_results_apart, help="Print JSON objects, one a line: started, status, stopped."
        ),
    ] = False,
) -> None:
    """Act and go on learning, within a fixed memory; kept through restarts and power cuts.

    A robot is one Python file: --env module:factory names a function that makes an object with gymnasium's reset and
    step. The learning policy drives in trials, one window in five, until it has proved itself (docs/continual.md).

    Ctrl-C or SIGTERM saves everything; the very same command continues.

    Example: edgerl learn --env HalfCheetah-v5 --rate 100 --hours 1 --state state
    """
    from edgerl.cli.support.live import JsonLines, Screen
    from edgerl.edge.continual.session import UPDATES, Schedule, Session
    from edgerl.edge.continual.transitions import KEEP_POLICIES, STORAGES

    if not 0 < hours <= LONGEST_HOURS:
        raise ConfigError(f"--hours is {hours:g}; expected above 0, at most {LONGEST_HOURS:g}")
    if replay_policy is not None:
        _check_choice("--replay-policy", replay_policy, KEEP_POLICIES)
    _check_choice("--replay-storage", replay_storage, STORAGES)
    _check_choice("--updates", updates, UPDATES)
    schedule = Schedule(rate, cast("Updates", updates), sync_seconds, 60 * snapshot_minutes, status_seconds)
    source, folder = map(anchored, _find_state(bundle, state))
    wearing = _Wearing(drift or [])
    with contextlib.ExitStack() as stack:
        learner = _load(
            source,
            folder,
            memory=memory,
            keep=cast("KeepPolicy | None", replay_policy),
            storage=cast("Storage", replay_storage),
            every=trial_every,
            window_steps=_window_steps(window_seconds, rate or WINDOW_RATE_HZ),
            updates_per_step=updates_per_step,
        )
        stack.callback(learner.close)
        stack.enter_context(_withdrawn_unless_begun(learner))
        if bundle is not None and not learner.is_new:
            note(f"ignoring {bundle}: resuming from {folder}")
        env, arguments = task_of(learner.about, env, source, note)
        at_rest = stack.enter_context(contextlib.ExitStack())  # left as soon as the robot is driven no more
        environment = _make(env, arguments, at_rest)
        robot = _robot(env, wearing(environment, learner.counters.steps), learner)
        session = Session(learner, robot, schedule, explore=explore, seed=seed)
        output: JsonLines | Screen = JsonLines() if json else Screen()
        output.started(learner, env, folder, rate)
        _run(session, 3600 * hours - learner.counters.seconds, output, folder, at_rest)


@contextlib.contextmanager
def _withdrawn_unless_begun(learner: Learner) -> Iterator[None]:
    """Leave nothing of a learner that was refused, or whose robot failed, before it made a step."""
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        if not learner.counters.steps:
            learner.withdraw()
        raise


def _run(
    session: Session, seconds: float, output: JsonLines | Screen, folder: Path, at_rest: contextlib.ExitStack
) -> None:
    """Run for the time that is left; the robot is at rest before anything is kept or printed. Raises Interrupted after
    a signal."""
    if seconds <= 0:
        note(f"the hours asked for are complete in {folder}; ask for more with --hours")
        output.stopped(session.status(), "complete")
        return
    try:
        with output, stop_requests(lambda asked: _stop(session, asked)) as stop:
            status = session.run(seconds, report=output.report, at_rest=at_rest.close)
    except EdgerlError as error:
        output.stopped(session.status(), str(error))
        raise
    output.stopped(status, signal.Signals(stop.signal).name if stop.count else "complete")
    if stop.count:
        raise Interrupted(
            f"stopped after {human_seconds(status['seconds'])} in all; everything is in {folder}, and the same command "
            "continues",
            stop.signal,
        )


def _stop(session: Session, requests: StopRequests) -> None:
    """The first request ends the session after its cycle, the second interrupts a robot that hangs."""
    leave_at_the_second(requests)
    session.stop()


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{option} is {value[:40]!r}; expected {' or '.join(known)}")


def _window_steps(seconds: float, rate: float) -> int:
    from edgerl.edge.continual.trials import PARTS

    least = PARTS / rate
    if not least <= seconds <= LONGEST_WINDOW_SECONDS:
        raise ConfigError(
            f"--window-seconds is {seconds:g}; expected {least:g}, which is {PARTS} steps, "
            f"to {LONGEST_WINDOW_SECONDS:g}"
        )
    return round(seconds * rate)


def _find_state(bundle: Path | None, state: Path | None) -> tuple[Path, Path]:
    """(what to load, the state folder): without a bundle the folder itself, where it has begun."""
    here = Path(STATE)
    if bundle is None and state is None and not Path(LEARNER).exists() and _has_begun(here):
        note(f"using {here}")
        state = here
    if state is not None and _has_begun(state):
        named = bundle / LEARNER if bundle is not None and bundle.is_dir() else bundle
        return named or state, state
    found = find_learner(bundle)
    return found, state or found.with_name(STATE)


def _has_begun(folder: Path) -> bool:
    from edgerl.edge.continual.store import Snapshots

    return Snapshots(folder).are_there


def _load(
    source: Path,
    folder: Path,
    *,
    memory: str | None,
    keep: KeepPolicy | None,
    storage: Storage,
    every: int,
    window_steps: int,
    updates_per_step: float,
) -> Learner:
    from edgerl.edge.continual.learner import Learner
    from edgerl.edge.continual.trials import TrialRule
    from edgerl.units import parse_bytes

    return Learner.load(
        source,
        state=folder,
        memory=None if memory is None else parse_bytes(memory, "--memory"),
        keep=keep,
        storage=storage,
        rule=TrialRule(every=every, window_steps=window_steps),
        updates_per_step=updates_per_step,
    )


def _make(env: str, arguments: Arguments, at_rest: contextlib.ExitStack) -> Any:
    """The environment itself, unchecked: what it says that is not finite is for the learner to count. It is closed
    where `at_rest` is left."""
    from edgerl.edge.acting.robot import is_factory, load_factory

    if is_factory(env):
        environment = load_factory(env, **arguments)
    else:
        from edgerl.environments.make import registered

        environment = registered(env, **arguments)
    at_rest.callback(_close, env, environment)
    return environment


def _close(env: str, environment: Any) -> None:
    """Let the robot rest, where it has a `close`. Raises EnvironmentError where that fails."""
    from edgerl.edge.acting.robot import problem

    try:
        getattr(environment, "close", lambda: None)()
    except (Exception, SystemExit) as error:
        raise EnvironmentError(f"{env} failed to close ({problem(error)})") from error


class _Wearing:
    """The drifts that were asked for; without any, nothing of gymnasium is loaded."""

    def __init__(self, texts: list[str]) -> None:
        self._drifts: list[Any] = []
        if texts:
            from edgerl.environments.drift import parse_drift

            self._drifts = [parse_drift(text) for text in texts]

    def __call__(self, environment: Any, steps: int) -> Any:
        """The environment, after so many steps of its life."""
        if not self._drifts:
            return environment
        from edgerl.environments.drift import DriftingEnvironment

        return DriftingEnvironment(environment, self._drifts, steps_before=steps)


def _robot(env: str, environment: Any, learner: Learner) -> Robot:
    from edgerl.edge.acting.actions import are_same_bounds
    from edgerl.edge.acting.robot import Robot

    robot = Robot(env, environment, learner.n_observations, learner.n_actions)
    for bound, own in (("low", learner.action_low), ("high", learner.action_high)):
        stated = getattr(getattr(environment, "action_space", None), bound, None)
        if stated is not None and not are_same_bounds(stated, own):
            raise EnvironmentError(
                f"{env} has actions whose {bound} is {str(stated)[:60]}; expected {own.tolist()}, the policy's"
            )
    return robot

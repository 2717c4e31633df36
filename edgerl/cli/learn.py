"""`edgerl learn`: a policy that acts at a fixed rate and keeps learning, for as long as the device runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgerl.cli.support.output import note
from edgerl.cli.support.streams import keep_results_apart

if TYPE_CHECKING:
    from edgerl.edge.continual.session import Updates
    from edgerl.edge.continual.transitions import KeepPolicy, Storage


def command(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="learner.safetensors or run folder; not needed once there is a state. Default: the one in the "
            "current folder, or that of the newest run that has one.",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", help="Gymnasium id, or module:factory; default: the bundle's.", show_default=False),
    ] = None,
    rate: Annotated[float, typer.Option(help="Control rate in Hz; 0: as fast as possible.")] = 100.0,
    hours: Annotated[float, typer.Option(help="How long to run in all, earlier starts included.")] = 1.0,
    memory: Annotated[
        str | None,
        typer.Option(help="Bytes of networks and replay together, such as 32MiB.", show_default="the bundle's"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what is learnt; the same command continues.", show_default="beside BUNDLE"
        ),
    ] = None,
    replay_policy: Annotated[
        str | None,
        typer.Option(help="Transitions kept: ring (the newest) or reservoir (a sample).", show_default="the bundle's"),
    ] = None,
    replay_storage: Annotated[str, typer.Option(help="Transitions in ram, or in a mapped file.")] = "ram",
    sync_seconds: Annotated[float, typer.Option(help="Seconds of transitions that a power cut may lose.")] = 10.0,
    snapshot_minutes: Annotated[float, typer.Option(help="Minutes of learning that a restart may lose.")] = 10.0,
    trial_every: Annotated[int, typer.Option(help="In one window out of this many the learning policy drives.")] = 5,
    window_seconds: Annotated[float, typer.Option(help="Longest window; it ends with its episode.")] = 10.0,
    updates_per_step: Annotated[float, typer.Option(help="Updates that a step allows.")] = 1.0,
    updates: Annotated[str, typer.Option(help="Learn in the idle time of a period, or in a thread.")] = "idle",
    explore: Annotated[bool, typer.Option("--explore/--no-explore", help="Act with the noise of training.")] = True,
    drift: Annotated[
        list[str] | None,
        typer.Option(help="A change of the robot, KIND[/INDEX][:STRENGTH][@STEP]; repeatable.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; each next one adds 1.")] = 0,
    status_seconds: Annotated[float, typer.Option(help="Seconds from one status to the next.")] = 10.0,
    json: Annotated[
        bool,
        typer.Option(
            "--json", callback=keep_results_apart, help="Print JSON objects, one a line: started, status, stopped."
        ),
    ] = False,
) -> None:
    """Act and keep learning, within a fixed memory, through restarts and power cuts.

    A robot is one Python file: --env module:factory names a function that makes an object with gymnasium's reset and
    step. The learning policy drives in trials, one window in five, until it has proved itself (docs/continual.md).

    Ctrl-C or SIGTERM saves everything; the same command continues.

    Example: edgerl learn --env HalfCheetah-v5 --rate 100 --hours 1 --state state
    """
    from edgerl.cli.support.live import JsonLines, Screen
    from edgerl.commands.learn import learn
    from edgerl.units import parse_bytes

    with JsonLines() if json else Screen() as display:
        learn(
            bundle,
            env=env,
            rate=rate,
            hours=hours,
            memory=None if memory is None else parse_bytes(memory, "--memory"),
            state=state,
            replay_policy=cast("KeepPolicy | None", replay_policy),
            replay_storage=cast("Storage", replay_storage),
            sync_seconds=sync_seconds,
            snapshot_minutes=snapshot_minutes,
            trial_every=trial_every,
            window_seconds=window_seconds,
            updates_per_step=updates_per_step,
            updates=cast("Updates", updates),
            explore=explore,
            drift=drift or (),
            seed=seed,
            status_seconds=status_seconds,
            started=display.started,
            report=display.report,
            stopped=display.stopped,
            notice=note,
        )

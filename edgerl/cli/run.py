"""`edgerl run`: a policy at a fixed rate in its environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgerl.cli.support.output import Actions, Json, note, print_json
from edgerl.units import human_seconds

if TYPE_CHECKING:
    from edgerl.commands.run import RunReport
    from edgerl.edge.acting.actions import ActionMode
    from edgerl.edge.acting.control import Spread


def command(
    model: Annotated[
        Path | None,
        typer.Argument(help="policy.safetensors, policy.onnx or run folder; default: runs/latest.", show_default=False),
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="Environment; default: the one the file names.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Control rate in Hz; default: its contract's, else 100.", show_default=False),
    ] = None,
    actions: Actions = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to run.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first episode; each next one adds 1.")] = 0,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm/--no-warm",
            help="Rehearse an action before each tick, with memory locked and priority raised where permitted.",
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Run a policy at a fixed rate in its environment: latency, jitter, missed deadlines, return.

    policy.safetensors runs on edgerl's own engine, policy.onnx on onnxruntime. A policy whose actions have other bounds
    than the environment's is refused unless --actions says what they are, and so is a rate that its contract rules out.
    Where the environment gives single steps and the contract a history of them, they are stacked.

    The environment stands in for the robot: it makes one step per action, however much simulated time that is. A
    missed deadline sends the fallback, zero within the action's bounds.

    Latency is that of the actions that were sent. Rehearsed ones are shown beside it: cold, the first before a tick,
    and hot, those that follow it at once, as a benchmark has them.

    Example: edgerl run --rate 100 --seconds 5
    """
    from edgerl.commands.run import CutShort, run

    show = _print_json if json else _print
    try:
        report = run(
            model,
            env=env,
            rate=rate,
            actions=cast("ActionMode | None", actions),
            seconds=seconds,
            seed=seed,
            warm=warm,
            notice=note,
        )
    except CutShort as cut:  # report what was measured until then
        show(cut.report)
        raise
    show(report)


def _print_json(report: RunReport) -> None:
    print_json(report.as_dict())


def _print(report: RunReport) -> None:
    statistics = report.statistics
    print(f"{report.model} in {report.environment}: {statistics.cycles} actions in {human_seconds(statistics.seconds)}")
    print(f"latency of the policy      {_spread(statistics.latency)}")
    for name, rehearsed in (("cold", statistics.cold), ("hot", statistics.hot)):
        if rehearsed.count:
            print(f"  rehearsed, {name:<16}{_spread(rehearsed)}")
    print(f"jitter (lateness of cycle) {_spread(statistics.jitter)}")
    print(
        f"missed deadlines           {statistics.missed_deadlines} of {statistics.cycles} at {statistics.rate_hz:g} Hz"
    )
    print(f"skipped ticks              {statistics.skipped_ticks}")
    if report.granted is not None:
        print(f"the system                 {report.granted}")
    for cause, count in statistics.fallbacks.items():
        if count:
            print(f"fallback, {cause.replace('_', ' ')}: {count}")
    if statistics.last_error:
        print(f"last error of the policy: {statistics.last_error}")
    for index, episode in enumerate(report.episodes, 1):
        print(f"episode {index}: return {episode.total:.1f} in {episode.steps} steps")
    if report.unfinished_episode.steps:
        rest = report.unfinished_episode
        print(f"unfinished episode: return {rest.total:.1f} in {rest.steps} steps")


def _spread(spread: Spread) -> str:
    values = (("median", spread.median), ("p99", spread.p99), ("p99.9", spread.p999), ("max", spread.maximum))
    return ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in values)

"""`edgerl play`: a policy in its environment as a video."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgerl.cli.support.output import Actions, Force, Json, note, print_json
from edgerl.run_folder import short
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.edge.acting.actions import ActionMode


def command(
    video: Annotated[Path, typer.Option("--video", metavar="FILE.mp4|FILE.gif", help="File to write.")],
    model: Annotated[
        Path | None,
        typer.Argument(help="policy.safetensors, policy.onnx or run folder; default: runs/latest.", show_default=False),
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="Environment; default: the one the file names.", show_default=False)
    ] = None,
    actions: Actions = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; each next one adds 1.")] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes, one after the other.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps after which an episode is cut.")] = 1000,
    width: Annotated[int, typer.Option(help="Width in pixels.")] = 640,
    height: Annotated[int, typer.Option(help="Height in pixels.")] = 480,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Film a policy in its environment, with its actions as bars and the return so far, at the simulation's speed.

    MuJoCo renders off screen, with EGL or OSMesa, whichever works here; MUJOCO_GL names one.

    Example: edgerl play --video out.mp4
    """
    from edgerl.commands.play import play

    result = play(
        video,
        model,
        env=env,
        actions=cast("ActionMode | None", actions),
        seed=seed,
        episodes=episodes,
        steps=steps,
        width=width,
        height=height,
        force=force,
        notice=note,
    )
    if as_json:
        print_json({**asdict(result), "path": str(short(result.path))})
        return
    for number, (total, length) in enumerate(result.episodes, 1):
        print(f"episode {number}: return {total:.1f} in {length} steps")
    rate, size = result.frames_per_second, human_bytes(result.path.stat().st_size)
    print(f"{short(result.path)}: {result.frames} frames at {rate:g} per second, {size}")

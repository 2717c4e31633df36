"""`edgerl.play`: a policy in its environment as a video."""

from __future__ import annotations

from pathlib import Path

from edgerl.commands.models import Notice, find_model, load_policy, no_notice, task_of
from edgerl.edge.acting.actions import ActionMode
from edgerl.environments import video as films
from edgerl.environments.video import Video


def play(
    video: str | Path,
    model: str | Path | None = None,
    *,
    env: str | None = None,
    actions: ActionMode | None = None,
    seed: int = 0,
    episodes: int = 1,
    steps: int = 1000,
    width: int = 640,
    height: int = 480,
    force: bool = False,
    notice: Notice = no_notice,
) -> Video:
    """Film a policy in its environment, with its actions as bars and the return so far, at the simulation's speed.

    video: the .mp4 or .gif to write. model, env, actions, seed, notice: as in `edgerl.run`. steps: after which an
    episode is cut. width, height: in pixels.

    Raises ConfigError, EnvironmentError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError;
    Interrupted, with nothing written, after SIGINT or SIGTERM.
    """
    path = find_model(model, notice)
    policy = load_policy(path, notice)
    environment, arguments = task_of(policy.metadata.get("about", {}), env, path, notice)
    return films.play(
        policy,
        environment,
        video,
        env_args=arguments,
        actions=actions,
        seed=seed,
        episodes=episodes,
        steps=steps,
        width=width,
        height=height,
        force=force,
    )

"""Environments as a package registers them: `registered_robots:Walker-v2`."""

from __future__ import annotations

import gymnasium

from tests.robots import GoalRobot, Robot

gymnasium.register("Walker-v1", entry_point=lambda **arguments: Robot(length=5, **arguments), disable_env_checker=True)
gymnasium.register("Walker-v2", entry_point=Robot, max_episode_steps=20, disable_env_checker=True)
gymnasium.register("house/Walker-v0", entry_point=GoalRobot, disable_env_checker=True)


def Walker() -> Robot:  # noqa: N802 — as an id without a version would be called
    return Robot(length=3)

"""The joints that an environment's actions move."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

JOINT, JOINT_IN_PARENT = range(2)
"""mjtTrn: what an actuator moves, where that is a joint."""


def actuated_joints(environment: Any, n_actions: int) -> tuple[str, ...]:
    """The names of the joints of an environment, in the order of its actions; empty where they are unknown.

    It may state `joint_names` itself; in MuJoCo they are those of the model's actuators, where each of them moves a
    joint of its own.
    """
    unwrapped = getattr(environment, "unwrapped", environment)
    stated = getattr(unwrapped, "joint_names", None)
    names = _of_mujoco(unwrapped) if stated is None else stated
    is_list = isinstance(names, Sequence) and not isinstance(names, str) and len(names) == n_actions
    return tuple(names) if is_list and all(isinstance(name, str) for name in names) else ()


def _of_mujoco(environment: Any) -> tuple[str, ...]:
    """Of a model of MuJoCo, which is not imported for it."""
    mujoco, model = sys.modules.get("mujoco"), getattr(environment, "model", None)
    if mujoco is None or not isinstance(model, mujoco.MjModel):
        return ()
    if any(kind not in (JOINT, JOINT_IN_PARENT) for kind in model.actuator_trntype):
        return ()
    names = tuple(model.joint(int(joint)).name for joint in model.actuator_trnid[:, 0])
    return names if all(names) and len(set(names)) == len(names) else ()

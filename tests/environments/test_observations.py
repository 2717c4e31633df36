"""Names of observations, each held against MuJoCo: what is moved by its name is what changes in the observation."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edgerl.environments.make import registered
from edgerl.environments.observations import fallback_names, observation_names

TASKS = {"HalfCheetah-v5": 17, "Hopper-v5": 11, "Walker2d-v5": 17, "Ant-v5": 105, "Humanoid-v5": 348}


def changed(environment: Any, array: Any, index: int | tuple[int, ...]) -> list[int]:
    """Which observations change with one number of MuJoCo's state."""
    before, kept = environment._get_obs(), array[index]
    array[index] = kept + 0.125
    after = environment._get_obs()
    array[index] = kept
    return np.flatnonzero(before != after).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_every_name_is_of_the_number_that_moves_with_it(task: str) -> None:
    names = observation_names(task, TASKS[task])
    assert names is not None
    assert len(set(names)) == TASKS[task]
    with closing(registered(task)) as made:
        made.reset(seed=0)
        environment = made.unwrapped
        model, data = environment.model, environment.data
        for index in range(model.njnt):
            joint = model.joint(index).name
            if int(model.jnt_type[index]) == 0:
                position, velocity = int(model.jnt_qposadr[index]), int(model.jnt_dofadr[index])
                assert names[changed(environment, data.qpos, position + 2)[0]] == "root position z"
                assert names[changed(environment, data.qpos, position + 3)[0]] == "root orientation w"
                assert names[changed(environment, data.qvel, velocity + 1)[0]] == "root linear velocity y"
                assert names[changed(environment, data.qvel, velocity + 5)[0]] == "root angular velocity z"
                continue
            spoken = joint.replace("_joint", "").replace("_", " ")
            for short, long in (("bth", "back th"), ("bsh", "back sh"), ("bf", "back f")):
                spoken = spoken.replace(short, long)
            for short, long in (("fth", "front th"), ("fsh", "front sh"), ("ffo", "front fo"), ("root", "root ")):
                spoken = spoken.replace(short, long)
            kind = "position" if int(model.jnt_type[index]) == 2 else "angle"
            moved = changed(environment, data.qpos, int(model.jnt_qposadr[index]))
            assert [names[at] for at in moved] == ([] if joint == "rootx" else [f"{spoken} {kind}"])
            moved = changed(environment, data.qvel, int(model.jnt_dofadr[index]))
            assert [names[at] for at in moved] == [f"{spoken} velocity"]


def test_the_forces_and_inertias_of_a_humanoid() -> None:
    names = observation_names("Humanoid-v5", 348)
    assert names is not None
    with closing(registered("Humanoid-v5")) as made:
        made.reset(seed=0)
        environment = made.unwrapped
        body = environment.model.body("left_foot" if "left_foot" in _bodies(environment) else "left_shin").id
        spoken = environment.model.body(body).name.replace("_", " ")
        data = environment.data
        named = {
            f"{spoken} contact force z": (data.cfrc_ext, (body, 5)),
            f"{spoken} contact torque x": (data.cfrc_ext, (body, 0)),
            f"{spoken} linear velocity y": (data.cvel, (body, 4)),
            f"{spoken} angular velocity z": (data.cvel, (body, 2)),
            f"{spoken} inertia mass": (data.cinert, (body, 9)),
            "left knee actuator force": (data.qfrc_actuator, int(environment.model.joint("left_knee").dofadr[0])),
        }
        for name, (array, index) in named.items():
            assert [names[at] for at in changed(environment, array, index)] == [name]
        # The mass is a mass: MuJoCo's own, body by body.
        masses = [environment._get_obs()[names.index(f"{spoken} inertia mass")]]
        assert masses == pytest.approx([environment.model.body_mass[body]])


def _bodies(environment: Any) -> set[str]:
    return {environment.model.body(index).name for index in range(environment.model.nbody)}


@pytest.mark.parametrize(
    ("environment", "count"),
    [("Pendulum-v1", 3), ("HalfCheetah-v4", 17), ("HalfCheetah-v5", 18), ("nowhere-v0", 3), ("robots:robot", 4)],
)
def test_what_nobody_knows_has_no_name(environment: str, count: int) -> None:
    """Pendulum is not an MuJoCo task, version 4 does not tell, 18 is another task's count, and code is not run."""
    assert observation_names(environment, count) is None
    assert fallback_names(2) == ("observation 0", "observation 1")

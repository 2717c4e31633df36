"""The joints that actions move: an environment's own word, or that of its model in MuJoCo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mujoco
import pytest

from edgerl.environments.joints import actuated_joints
from edgerl.environments.make import make

MODEL = """
<mujoco>
  <worldbody>
    <body><joint name="first"/><geom size="1"/>
      <body><joint name="second"/><geom size="1"/></body>
    </body>
  </worldbody>
  <actuator>{}</actuator>
</mujoco>
"""


def _of(*actuators: str) -> Any:
    model = mujoco.MjModel.from_xml_string(MODEL.format("".join(f"<motor {each}/>" for each in actuators)))
    return SimpleNamespace(unwrapped=SimpleNamespace(model=model))


def test_of_a_task_of_gymnasium() -> None:
    """As half_cheetah.xml lists its motors."""
    environment = make("HalfCheetah-v5")
    environment.close()
    assert environment.joint_names == ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")


def test_in_the_order_of_the_actuators_not_of_the_joints() -> None:
    assert actuated_joints(_of('joint="second"', 'jointinparent="first"'), 2) == ("second", "first")


@pytest.mark.parametrize(
    ("environment", "n_actions"),
    [
        (_of('joint="first"', 'joint="first"'), 2),
        (_of('joint="first"'), 2),
        (SimpleNamespace(), 1),
        (SimpleNamespace(model=3), 1),
        (SimpleNamespace(joint_names="knee"), 4),
        (SimpleNamespace(joint_names=[1]), 1),
    ],
)
def test_unknown_ones(environment: Any, n_actions: int) -> None:
    assert actuated_joints(environment, n_actions) == ()


def test_an_environment_that_orders_actions_itself_says_so() -> None:
    environment = _of('joint="second"', 'joint="first"').unwrapped
    environment.joint_names = ["first", "second"]
    assert actuated_joints(environment, 2) == ("first", "second")

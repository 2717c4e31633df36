"""A policy whose actions are not the environment's: asked about, scaled or clipped, by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgerl.edge.acting.actions import ActionMode, AdaptedPolicy, adapted
from edgerl.errors import ConfigError, UnsupportedModelError
from edgerl.policy.compact import Array
from edgerl.policy.contract import UNKNOWN, Contract


@dataclass
class Actor:
    """Returns its observation, as actions between the bounds that it tells, if any."""

    action_low: Array | None
    action_high: Array | None
    n_observations: int = 2
    n_actions: int = 2
    observation_dtype: type[np.floating[Any]] = np.float32
    contract: Contract = UNKNOWN

    def __call__(self, observation: Array) -> Array:
        return observation


@dataclass
class Arm:
    action_low: Array
    action_high: Array
    name: str = "arm"
    n_observations: int = 2
    n_actions: int = 2
    joint_names: tuple[str, ...] = ()


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


ARM = Arm(floats(-2, 0), floats(2, 10))
UNIT = Arm(floats(-1, -1), floats(1, 1))
UNKNOWN = Actor(None, None)


@pytest.mark.parametrize(
    ("actor", "mode", "action", "expected"),
    [
        (Actor(floats(-1, -1), floats(1, 1)), "scale", (-0.5, 0.5), (-1, 7.5)),
        (Actor(floats(-1, -1), floats(1, 1)), "clip", (-0.5, 0.5), (-0.5, 0.5)),
        (Actor(floats(0, 0), floats(1, 5)), "scale", (0.25, 5), (-1, 10)),
        (UNKNOWN, "scale", (-0.5, 3), (-1, 10)),
        (UNKNOWN, "clip", (-7, 3), (-2, 3)),
        (UNKNOWN, "scale", (3e38, -np.inf), (2, 0)),  # and no word of an overflow
        (UNKNOWN, "clip", (np.nan, 3), (np.nan, 3)),
    ],
)
def test_what_becomes_of_an_action(
    actor: Actor, mode: ActionMode, action: tuple[float, float], expected: tuple[float, float]
) -> None:
    given = adapted(actor, ARM, mode)(floats(*action))
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, floats(*expected))


def test_the_same_bounds_but_for_a_rounding_leave_a_policy_as_it_is() -> None:
    actor = Actor(ARM.action_low * np.float32(1 + 1e-7), ARM.action_high)
    assert adapted(actor, ARM, None) is actor


def test_in_an_environment_of_unit_bounds_scaling_and_clipping_are_one() -> None:
    found = adapted(UNKNOWN, UNIT, None)
    assert isinstance(found, AdaptedPolicy)
    assert found.mode == "clip"
    for action in (floats(0.5, -3), floats(2, -1)):
        np.testing.assert_array_equal(found(action), adapted(UNKNOWN, UNIT, "scale")(action))


@pytest.mark.parametrize(
    ("actor", "task", "message"),
    [
        (UNKNOWN, ARM, r"the policy does not tell the bounds of its actions, and arm takes actions number 0 from -2"),
        (Actor(floats(-2, -1), floats(2, 1)), ARM, r"gives actions number 1 from -1 to 1, and arm takes .* 0 to 10"),
        (Actor(floats(-2, -2), floats(2, 2)), UNIT, r"gives actions from -2 to 2, and arm takes actions from -1 to 1"),
        (Actor(None, None, n_actions=3), ARM, r"maps 2 observations to 3 actions; arm has 2 and 2"),
    ],
)
def test_what_cannot_be_known_is_refused(actor: Actor, task: Arm, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        adapted(actor, task, None)


LEGS = Contract(joint_names=("hip", "knee", "toe"))  # the toe has no motor


@pytest.mark.parametrize("joints", [(), ("hip", "knee"), ("knee", "toe"), ("a", "b")])
def test_joints_in_the_order_of_the_contract_or_called_otherwise(joints: tuple[str, ...]) -> None:
    actor = Actor(floats(-1, -1), floats(1, 1), contract=LEGS)
    assert adapted(actor, Arm(floats(-1, -1), floats(1, 1), joint_names=joints), None) is actor


@pytest.mark.parametrize(
    ("joints", "problem"),
    [
        (("knee", "hip"), "joint 0 of arm is 'knee', and 'hip' in the policy's contract; expected the order"),
        (("hip", "hip"), "joint 1 of arm is 'hip', and no other in the policy's contract"),
        (("hip", "elbow"), "arm has the joint 'elbow', which the policy's contract does not name"),
    ],
)
def test_joints_in_another_order_are_refused(joints: tuple[str, ...], problem: str) -> None:
    task = Arm(floats(-1, -1), floats(1, 1), joint_names=joints)
    with pytest.raises(ConfigError, match=problem):
        adapted(Actor(floats(-1, -1), floats(1, 1), contract=LEGS), task, None)
    adapted(Actor(floats(-1, -1), floats(1, 1)), task, None)

"""Robot: objects that answer as gymnasium's environments do, almost so, or wrongly; none of them needs gymnasium."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.acting.robot import Robot, load_factory, problem
from edgerl.errors import EnvironmentError
from tests import robots
from tests.edge.test_import import HEAVY, loaded_by


class Arm:
    """Three observations, two actions; answers what a test puts in it, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.first: Any = ([0.0, 1.0, 2.0], {})
        self.answer: Any = ([1.0, 2.0, 3.0], 0.5, False, False, {})
        self.__dict__.update(answers)
        self.seeds: list[int] = []
        self.actions: list[Any] = []

    def reset(self, *, seed: int) -> Any:
        self.seeds.append(seed)
        return self.first

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self.answer


class Space:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


ACTION = np.array([0.5, -2.0], np.float32)


def step(arm: Any) -> tuple[Any, float, bool, bool]:
    return Robot("arm", arm, 3, 2).step(ACTION)


# What is passed on.


def test_an_episode() -> None:
    arm = Arm()
    robot = Robot("arm", arm, 3, 2)
    observation = robot.reset(7)
    assert (observation.dtype, observation.tolist(), arm.seeds) == (np.float32, [0, 1, 2], [7])
    observation, reward, terminated, truncated = robot.step(ACTION)
    assert (observation.dtype, observation.tolist()) == (np.float32, [1, 2, 3])
    assert (type(reward), reward, terminated, truncated) == (float, 0.5, False, False)
    assert (arm.actions[0].dtype, arm.actions[0].tolist()) == (np.float32, [0.5, -2])


def test_float64_is_passed_on_where_it_is_asked_for_and_float32_refused_there() -> None:
    arm = Arm(first=[5_800_000.25, 1, 2])
    robot = Robot("arm", arm, 3, 2)
    assert robot.reset(0).tolist() == [5_800_000.0, 1, 2], "the nearest float32"
    assert robot.given.tolist() == [5_800_000.25, 1, 2]
    robot.observation_dtype = np.float64
    observation = robot.reset(0)
    assert (observation.dtype, observation.tolist()) == (np.float64, [5_800_000.25, 1, 2])
    arm.answer = (np.array([7, 8, 9]), 0.5, False, False, {})
    assert robot.step(ACTION)[0].dtype == np.float64, "whole numbers lose nothing"
    for dtype in (np.float32, np.float16):
        arm.answer = (np.zeros(3, dtype), 0.5, False, False, {})
        with pytest.raises(
            EnvironmentError, match=r"arm returned float(32|16) numbers as observation .*; expected float64"
        ):
            robot.step(ACTION)


def test_a_gymnasium_environment_is_one() -> None:
    robot = Robot("point", robots.terminating_robot(), 4, 2)
    ends = []
    for seed in (1, 1):
        first, total = robot.reset(seed), 0.0
        terminated = False
        while not terminated:
            observation, reward, terminated, truncated = robot.step(ACTION)
            total += reward
        ends.append((first.tobytes(), observation.tobytes(), total, truncated))
    assert ends[0] == ends[1]
    robot.close()


def _plain() -> list[float]:
    return [0.0, 1.0, 2.0]


def _any_option(**options: Any) -> list[float]:
    return [float(options["seed"]), 1.0, 2.0]


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        (_plain, [0, 1, 2]),
        (_any_option, [5, 1, 2]),
        (lambda seed=None: ([seed, 1, 2], {}), [5, 1, 2]),
        (lambda: (np.zeros((3, 1)), {"battery": 0.5}), [0, 0, 0]),
        (lambda: (0.0, 1, np.float64(2)), [0, 1, 2]),
    ],
)
def test_resets_with_and_without_seed_and_info(reset: Callable[..., Any], expected: list[float]) -> None:
    arm = Arm()
    arm.reset = reset  # type: ignore[method-assign]
    assert Robot("arm", arm, 3, 2).reset(5).tolist() == expected


def test_an_observation_of_two_numbers_is_not_taken_for_one_with_info() -> None:
    assert Robot("arm", Arm(first=(0.25, 0.5)), 2, 2).reset(0).tolist() == [0.25, 0.5]
    assert Robot("arm", Arm(first=([0.25, 0.5], {})), 2, 2).reset(0).tolist() == [0.25, 0.5]


def test_a_reset_without_a_signature_is_given_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_signature(_: Any) -> Any:
        raise ValueError("no signature found for builtin")

    monkeypatch.setattr("inspect.signature", no_signature)
    arm = Arm()
    Robot("arm", arm, 3, 2).reset(9)
    assert arm.seeds == [9]


def test_a_type_error_inside_a_reset_is_not_taken_for_a_missing_seed() -> None:
    calls = []

    def reset(seed: int) -> Any:
        calls.append(seed)
        raise TypeError("motor")

    arm = Arm(reset=reset)
    with pytest.raises(EnvironmentError, match=r"^arm failed at step 0 \(seed \d+\) \(TypeError: motor\)$"):
        Robot("arm", arm, 3, 2).reset(1)
    assert calls == [1]


def test_numbers_that_are_not_finite_are_for_the_learner_to_count() -> None:
    observation, reward, *_ = step(Arm(answer=([math.nan, math.inf, 1e300], math.nan, False, False, {})))
    np.testing.assert_array_equal(observation, np.array([np.nan, np.inf, np.inf], np.float32))
    assert math.isnan(reward)
    assert Robot("arm", Arm(first=([math.nan] * 3, {})), 3, 2).reset(0).dtype == np.float32


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (1e39, math.inf),
        (-1e300, -math.inf),
        (-math.inf, -math.inf),
        (0.1, 0.1),  # not rounded to float32
        (np.float32(0.5), 0.5),
        (np.array([2]), 2.0),
        (3, 3.0),
        (True, 1.0),
    ],
)
def test_rewards_that_pass(reward: Any, expected: float) -> None:
    found = step(Arm(answer=([0, 0, 0], reward, False, False, {})))[1]
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize("flag", [True, 1, np.True_, np.array([True])])
def test_flags_that_pass(flag: Any) -> None:
    assert step(Arm(answer=([0, 0, 0], 0.0, flag, False, {})))[2:] == (True, False)
    found = step(Arm(answer=([0, 0, 0], 0.0, False, flag, {})))[3]
    assert found is True


def test_a_buffer_that_the_robot_reuses_is_copied_both_ways() -> None:
    buffer = np.zeros(3, np.float32)
    arm = Arm(first=(buffer, {}))
    robot = Robot("arm", arm, 3, 2)
    first, action = robot.reset(0), ACTION.copy()
    robot.step(action)
    buffer[:] = 9
    arm.actions[0].clip(-1, 1, out=arm.actions[0])
    assert first.tolist() == [0, 0, 0]
    assert action.tolist() == ACTION.tolist()


def test_an_action_has_the_shape_that_the_robot_states() -> None:
    arm = Arm(action_space=Space(2, 1), observation_space=Space(1, 3))
    step(arm)
    assert arm.actions[0].tolist() == [[0.5], [-2.0]]


# What is an error.


@pytest.mark.parametrize(
    ("arm", "problem"),
    [
        (object(), r"arm has no reset\(\); expected what a gymnasium\.Env has: reset and step"),
        (Arm(step=3), r"arm has no step\(\); expected"),
        (Arm(action_space=Space(3)), r"arm has action_space \(3,\); expected 2 numbers, the policy's"),
        (Arm(observation_space=Space(2, 2)), r"arm has observation_space \(2, 2\); expected 3 numbers"),
    ],
)
def test_robots_that_are_refused(arm: Any, problem: str) -> None:
    with pytest.raises(EnvironmentError, match=f"^{problem}"):
        Robot("arm", arm, 3, 2)


@pytest.mark.parametrize(
    ("observation", "problem"),
    [
        ([0, 1], r"2 numbers as observation at step 0 \(seed \d+\); expected 3"),
        (0.5, r"1 numbers as observation at step 0 \(seed \d+\); expected 3"),
        ({"a": 1}, r"a dict as observation at step 0 \(seed \d+\); expected numbers"),
        ("abc", r"a str as observation at step 0 \(seed \d+\); expected numbers"),
        (["1", "2", "3"], r"3 values as observation at step 0 \(seed \d+\); expected numbers"),
        ([None] * 3, r"3 values as observation at step 0 \(seed \d+\); expected numbers"),
        (None, r"a NoneType as observation at step 0 \(seed \d+\); expected numbers"),
        ([[1, 2], [3]], r"2 values as observation at step 0 \(seed \d+\); expected numbers"),
        ([1j, 0, 0], r"3 values as observation at step 0 \(seed \d+\); expected numbers"),
    ],
)
def test_observations_that_are_refused(observation: Any, problem: str) -> None:
    for first in (observation, (observation, {})):
        with pytest.raises(EnvironmentError, match=f"^arm returned {problem}$"):
            Robot("arm", Arm(first=first), 3, 2).reset(0)


STEP = r"from step\(\) at step 1 \(seed \d+\); expected observation, reward, terminated, truncated, info"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (([0, 0, 0], 0.0, False, {}), f"4 values {STEP}"),
        (([0, 0, 0], 0.0, False, False, {}, 1), f"6 values {STEP}"),
        (None, f"a NoneType {STEP}"),
        ("abcde", f"a str {STEP}"),
        (([0, 0], 0.0, False, False, {}), r"2 numbers as observation at step 1 \(seed \d+\); expected 3"),
        (([0, 0, 0], None, False, False, {}), r"a NoneType as reward at step 1 \(seed \d+\); expected numbers"),
        (([0, 0, 0], "1", False, False, {}), r"a str as reward at step 1 \(seed \d+\); expected numbers"),
        (([0, 0, 0], [1, 2], False, False, {}), r"2 numbers as reward at step 1 \(seed \d+\); expected one"),
        (([0, 0, 0], [], False, False, {}), r"0 numbers as reward at step 1 \(seed \d+\); expected one"),
        (([0, 0, 0], 0.0, "no", False, {}), r"a str as terminated at step 1 \(seed \d+\); expected numbers"),
        (([0, 0, 0], 0.0, None, False, {}), r"a NoneType as terminated at step 1 \(seed \d+\); expected numbers"),
        (([0, 0, 0], 0.0, False, 0.0, {}), r"a float as truncated at step 1 \(seed \d+\); expected True or False"),
        (
            ([0, 0, 0], 0.0, False, [True, False], {}),
            r"2 values as truncated at step 1 \(seed \d+\); expected True or False",
        ),
    ],
)
def test_steps_that_are_refused(answer: Any, problem: str) -> None:
    with pytest.raises(EnvironmentError, match=f"^arm returned {problem}$"):
        step(Arm(answer=answer))


def test_a_robots_own_error_is_one_line_that_names_the_step() -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("motor 3\nis hot")

    arm = Arm()
    robot = Robot("arm", arm, 3, 2)
    for episode in (0, 1):
        robot.reset(episode)
        robot.step(ACTION)
    arm.step = fail  # type: ignore[method-assign]
    with pytest.raises(EnvironmentError, match=r"^arm failed at step 2 \(seed \d+\) \(RuntimeError: motor 3 is hot\)$"):
        robot.step(ACTION)


def test_an_object_that_cannot_be_read_is_an_error_of_the_robots() -> None:
    class Sensor:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise OSError("bus off")

    with pytest.raises(
        EnvironmentError, match=r"^arm returned a Sensor as observation at step 1 \(seed \d+\); expected numbers$"
    ):
        step(Arm(answer=(Sensor(), 0.0, False, False, {})))


def test_ctrl_c_passes() -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt("signal")

    with pytest.raises(KeyboardInterrupt, match="signal"):
        step(Arm(step=interrupted))


def test_a_robot_is_closed_where_it_can_be() -> None:
    closed = []
    Robot("arm", Arm(), 3, 2).close()
    Robot("arm", Arm(close=lambda: closed.append(1)), 3, 2).close()
    assert closed == [1]
    with pytest.raises(EnvironmentError, match=r"^arm failed to close \(ZeroDivisionError: division by zero\)$"):
        Robot("arm", Arm(close=lambda: 1 / 0), 3, 2).close()


# Where it comes from.


def test_a_factory_in_the_current_folder() -> None:
    Path("arm_factory.py").write_text("class Arm:\n    pass\ndef make(): return Arm()\n")
    assert type(load_factory("arm_factory:make")).__name__ == "Arm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HalfCheetah-v5", "'HalfCheetah-v5' is neither an id nor module:factory, such as robots:walker"),
        ("", "'' is neither an id nor module:factory"),
        ("robots/x:robot", "'robots/x:robot' is neither an id nor module:factory"),
        ("a\n:b", r"'a\\n:b' is neither an id nor module:factory"),
        ("absent_arm:make", r"'absent_arm:make': cannot import 'absent_arm' \(ModuleNotFoundError: "),
        ("robots:absent", "'robots:absent': robots has no function 'absent'; expected module:factory"),
        ("robots:not_callable", "'robots:not_callable': robots has no function 'not_callable'"),
        ("math:sqrt", r"'math:sqrt': sqrt\(\) failed \(TypeError: "),
    ],
)
def test_factories_that_are_refused(name: str, expected: str) -> None:
    with pytest.raises(EnvironmentError, match=rf"^environment {expected}[^\n]*$"):
        load_factory(name)


def test_a_problem_is_one_line() -> None:
    assert problem(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert len(problem(ValueError("x" * 1000))) == 200


def test_a_robot_needs_numpy_alone(tmp_path: Path) -> None:
    (tmp_path / "bare_arm.py").write_text(
        "class Arm:\n"
        "    def reset(self): return [0.0, 0.0]\n"
        "    def step(self, action): return [0.0, 0.0], -1.0, False, True, {}\n"
    )
    loaded = loaded_by(
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "import numpy as np\n"
        "from edgerl.edge.acting.robot import Robot, load_factory\n"
        "robot = Robot('arm', load_factory('bare_arm:Arm'), 2, 1)\n"
        "assert robot.reset(0).tolist() == [0, 0]\n"
        "assert robot.step(np.zeros(1, np.float32))[1:] == (-1, False, True)"
    )
    assert not loaded & (HEAVY | {"pandas"})

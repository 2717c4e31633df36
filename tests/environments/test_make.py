"""Environments of every unsuitable kind, each named in one line; and whether episodes follow from their seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete

from edgerl.environments.make import Environment, make, resumes_bit_for_bit
from edgerl.errors import EnvironmentError, EnvironmentFault
from tests.robots import Robot

UNSUITABLE = ("CarRacing", "LunarLander", "BipedalWalker", "Taxi", "FrozenLake", "Blackjack", "GymV21Environment")
"""Environments with other spaces, or of packages that the `train` extra does not install."""

TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]


@pytest.fixture
def robot() -> Iterator[Environment]:
    environment = make("robots:robot")
    yield environment
    environment.close()


def _refused(name: str, problem: str) -> None:
    with pytest.raises(EnvironmentError, match=rf"^[^\n]*{problem}[^\n]*$"):
        make(name)


def test_a_robot_is_seen_as_flat_float32_vectors(robot: Environment) -> None:
    assert (robot.n_observations, robot.n_actions) == (4, 2)
    assert robot.action_low.tolist() == [-1, -3]
    assert robot.action_high.tolist() == [2, 0.5]
    observation = robot.reset(3)
    assert (observation.dtype, observation.shape) == (np.float32, (4,))
    observation, reward, terminated, truncated = robot.step(np.zeros(2, np.float32))
    assert (observation.dtype, type(reward), terminated, truncated) == (np.float32, float, False, False)


def test_actions_are_scaled_per_dimension(robot: Environment) -> None:
    assert robot.scale(np.array([-1, -1], np.float32)).tolist() == [-1, -3]
    assert robot.scale(np.array([1, 1], np.float32)).tolist() == [2, 0.5]
    assert robot.scale(np.array([0, 0.5], np.float32)).tolist() == [0.5, -0.375]


@pytest.mark.parametrize(
    ("name", "expected"), [("robots:robot", (False, True)), ("robots:terminating_robot", (True, True))]
)
def test_an_episodes_end(name: str, expected: tuple[bool, bool]) -> None:
    environment = make(name)
    environment.reset(0)
    while not any(end := environment.step(np.zeros(2, np.float32))[2:]):
        pass
    assert end == expected


# What is refused.


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("halfcheeta-v5", r"environment 'halfcheeta-v5' is unknown; did you mean HalfCheetah-v5\?"),
        ("Hoper-v5", r"environment 'Hoper-v5' is unknown; did you mean Hopper-v5\?"),
        ("HalfCheetah-v99", "environment 'HalfCheetah-v99' is unknown; did you mean HalfCheetah-v"),
        ("zzzzzzzzzzzzzzzzzzz", r"environment 'z+' is unknown \(Environment `z+` doesn't exist"),
        ("", r"environment '' is unknown \(Malformed environment ID"),
        ("a\nb", r"environment 'a\\nb' is unknown"),
        ("HalfCheetah-v3", "environment 'HalfCheetah-v3' needs a package that is not installed: The mujoco v2 and v3"),
        ("BipedalWalker-v3", "environment 'BipedalWalker-v3' needs a package that is not installed: Box2D"),
        ("CartPole-v1", r"CartPole-v1 has Discrete actions; expected Box"),
        ("Taxi-v4", r"Taxi-v4 has Discrete observations; expected Box"),
        ("robots:dict_robot", r"robots:dict_robot has Dict observations; expected Box \(use .* wrapper with one\)"),
        ("robots:unbounded_robot", r"unbounded_robot has unbounded actions \(-inf to inf in action 0\); expected a"),
        ("robots:", "'robots:' is neither an id nor module:factory, such as robots:walker"),
        (":robot", "':robot' is neither an id nor module:factory"),
        (".robots:robot", "'.robots:robot' is neither an id nor module:factory"),
        ("robots:robot:x", "'robots:robot:x' is neither an id nor module:factory"),
        ("robots/x:robot", "'robots/x:robot' is neither an id nor module:factory"),
        ("absent_module:robot", r"'absent_module:robot': cannot import 'absent_module' \(ModuleNotFoundError: "),
        ("robots:absent", "'robots:absent': robots has no function 'absent'; expected module:factory"),
        ("robots:not_callable", "'robots:not_callable': robots has no function 'not_callable'; expected module"),
        ("robots:no_environment", r"'robots:no_environment': no_environment\(\) returned int; expected a gymnasium"),
        ("robots:BrokenRobot.__init__", "is neither an id nor module:factory"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
def test_environments_that_are_refused(name: str, problem: str) -> None:
    _refused(name, problem)


def test_a_module_in_the_working_folder_is_found_and_its_faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "my_robot.py").write_text(
        "from robots import Robot, robot\n"
        "def needs(length): return Robot(length)\n"
        "def breaks(): raise RuntimeError('no\\nserial port')\n"
    )
    assert make("my_robot:robot").n_observations == 4
    _refused("my_robot:needs", r"'my_robot:needs': needs\(\) failed \(TypeError: needs\(\) missing 1 required")
    _refused("my_robot:breaks", r"'my_robot:breaks': breaks\(\) failed \(RuntimeError: no serial port\)")


def _with_spaces(observations: Any = Robot.observation_space, actions: Any = Robot.action_space) -> Robot:
    robot = Robot()
    robot.observation_space, robot.action_space = observations, actions
    return robot


@pytest.mark.parametrize(
    ("actions", "problem"),
    [
        (Box(-1, np.inf, (2,)), "unbounded actions"),
        (Box(-np.inf, 1, (2,)), "unbounded actions"),
        (
            Box(np.zeros(2, np.float32), np.array([1, 0], np.float32)),
            r"an action that cannot vary: action 1 is from 0 to 0; expected low < high \(leave it out of",
        ),
        (
            Box(np.array([1.0]), np.array([np.nextafter(1.0, 2)]), dtype=np.float64),
            "an action that cannot vary: action 0",
        ),
        (Box(0, 255, (2,), np.uint8), r"actions of uint8; expected float32 or float64 \(wrap it in gymnasium"),
        (MultiDiscrete([2, 2]), "MultiDiscrete actions; expected Box"),
        (Box(-1, 1, (0,)), "empty observation or action; expected at least one number each"),
    ],
)
def test_action_spaces_that_are_refused(actions: Any, problem: str) -> None:
    with pytest.raises(EnvironmentError, match=f"^robot has (an )?{problem}"):
        Environment("robot", _with_spaces(actions=actions))


def test_empty_observations_are_refused() -> None:
    with pytest.raises(EnvironmentError, match=r"robot has an empty observation or action"):
        Environment("robot", _with_spaces(observations=Box(-1, 1, (3, 0))))


def test_bounds_in_float64_are_not_left_by_rounding() -> None:
    low, high = np.array([-0.1, -0.3, -1]), np.array([0.1, 0.7, 1])
    space = Box(low, high, dtype=np.float64)
    environment = Environment("robot", _with_spaces(actions=space))
    assert (environment.action_low >= low).all()
    assert (environment.action_high <= high).all()
    np.testing.assert_allclose([environment.action_low, environment.action_high], [low, high], rtol=2e-7)
    for sign in (-1, 1):
        scaled = environment.scale(np.full(3, sign, np.float32)).astype(np.float64)
        assert space.contains(scaled)


class _Shaped(Robot):
    """Observations and actions that are matrices; the observation is one buffer that every step overwrites."""

    observation_space = Box(-np.inf, np.inf, (2, 2), np.float32)
    action_space = Box(-1, 1, (2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.buffer, self.actions = np.zeros((2, 2), np.float32), []

    def reset(self, **options: Any) -> Any:
        self.buffer[...] = super().reset(**options)[0].reshape(2, 2)
        return self.buffer, {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        observation, *rest = super().step(action.reshape(-1))
        self.buffer[...] = observation.reshape(2, 2)
        return self.buffer, *rest


def test_matrices_are_flattened_and_a_reused_buffer_is_copied() -> None:
    shaped = _Shaped()
    environment = Environment("shaped", shaped)
    assert (environment.n_observations, environment.n_actions) == (4, 2)
    first = environment.reset(0)
    before = first.copy()
    second = environment.step(np.array([1, -1], np.float32))[0]
    assert first.tolist() == before.tolist() != second.tolist()
    assert shaped.actions[0].tolist() == [[1], [-1]]


# What an environment may not return.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300, None, "a", [], [1, 2]])
def test_rewards_that_are_refused(value: Any) -> None:
    robot = Robot()
    environment = Environment("robot", robot)
    environment.reset(0)
    environment.step(np.zeros(2, np.float32))
    step = robot.step

    def broken(action: Any) -> Any:
        observation, _, *rest = step(action)
        return observation, value, *rest

    robot.step = broken  # type: ignore[method-assign]
    expected = (
        r"(reward (nan|-?inf)|a (str|NoneType) as reward|[02] numbers as reward) at step 2 \(seed 0\); expected .*"
    )
    with pytest.raises(EnvironmentError, match=rf"^robot returned {expected}$"):
        environment.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("value", [np.float32(2), np.array([2.0]), np.array(2), 2])
def test_rewards_that_pass(value: Any) -> None:
    robot = Robot()
    environment = Environment("robot", robot)
    observation, _ = robot.reset(seed=0)
    robot.step = lambda _: (observation, value, False, False, {})  # type: ignore[method-assign]
    reward = environment.step(np.zeros(2, np.float32))[1]
    assert (type(reward), reward) == (float, 2)


@pytest.mark.parametrize(
    ("observation", "problem"),
    [
        ([0, 1, np.nan, 3], r"returned nan in observation 2 at step 0 \(seed \d+\); expected finite numbers"),
        ([0, -np.inf, np.nan, 3], r"returned -inf in observation 1 at step 0 \(seed \d+\); expected finite numbers"),
        ([0, 0, 0, 1e300], r"returned inf in observation 3 at step 0 \(seed \d+\); expected finite numbers"),
        ([0, 0, 0], r"returned 3 numbers as observation at step 0 \(seed 0\); expected 4"),
        (0.5, r"returned 1 numbers as observation at step 0 \(seed 0\); expected 4"),
        ({"a": 1}, r"returned a dict as observation at step 0 \(seed \d+\); expected numbers"),
        ("text", r"returned a str as observation at step 0 \(seed \d+\); expected numbers"),
        ([[1, 2], [3]], r"returned 2 values as observation at step 0 \(seed \d+\); expected numbers"),
        ([None] * 4, r"returned 4 values as observation at step 0 \(seed \d+\); expected numbers"),
    ],
)
def test_observations_that_are_refused(observation: Any, problem: str) -> None:
    robot = Robot()
    robot.reset = lambda **_: (observation, {})  # type: ignore[assignment]
    with pytest.raises(EnvironmentError, match=f"^robot {problem}$"):
        Environment("robot", robot).reset(0)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("robots:nan_reward_robot", r"returned reward nan at step 5 \(seed 0\); expected a finite number"),
        (
            "robots:infinite_observation_robot",
            r"returned inf in observation 2 at step 5 \(seed 0\); expected finite numbers",
        ),
    ],
)
def test_a_robot_that_breaks_in_the_middle(name: str, problem: str) -> None:
    environment = make(name)
    environment.reset(0)
    for _ in range(4):
        environment.step(np.zeros(2, np.float32))
    with pytest.raises(EnvironmentError, match=f"^{name} {problem}$"):
        environment.step(np.zeros(2, np.float32))
    with pytest.raises(EnvironmentFault, match=problem.replace("seed 0", "seed 20220526")):
        resumes_bit_for_bit(environment)
    resumes_bit_for_bit(environment, survives_faults=True)


# Episodes and their seeds.


@pytest.mark.parametrize("name", ["robots:robot", "robots:terminating_robot", *TASKS])
def test_environments_that_resume_bit_for_bit(name: str) -> None:
    environment = make(name)
    assert resumes_bit_for_bit(environment)
    environment.close()


@pytest.mark.parametrize("name", ["robots:forgetful_robot"])
def test_environments_that_do_not(name: str) -> None:
    assert not resumes_bit_for_bit(make(name))


class _Hidden(Robot):
    """Forgets nothing that an observation shows: only its rewards depend on what came before."""

    total = 0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self.total += 1
        return observation, reward + self.total, *rest


def test_rewards_count_too() -> None:
    assert not resumes_bit_for_bit(Environment("hidden", _Hidden()))


def _episode(environment: Environment, seed: int, steps: int) -> bytes:
    rng = np.random.default_rng(seed)
    seen = [environment.reset(seed).tobytes()]
    for _ in range(steps):
        action = environment.scale(rng.uniform(-1, 1, environment.n_actions).astype(np.float32))
        observation, reward, terminated, truncated = environment.step(action)
        seen += [observation.tobytes(), np.float64(reward).tobytes()]
        if terminated or truncated:
            break
    return b"".join(seen)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_determines_an_episode_whatever_came_before(name: str) -> None:
    environment, other = make(name), make(name)
    first = _episode(environment, 1, 200)
    for seed in (2, 3, 4):
        assert _episode(environment, seed, 150) != first
    assert _episode(environment, 1, 200) == first
    assert _episode(other, 1, 200) == first
    environment.close()
    other.close()


@pytest.mark.parametrize(
    ("name", "sizes", "bound"),
    [
        ("HalfCheetah-v5", (17, 6), 1),
        ("Hopper-v5", (11, 3), 1),
        ("Walker2d-v5", (17, 6), 1),
        ("Ant-v5", (105, 8), 1),
        ("Humanoid-v5", (348, 17), np.float32(0.4)),
    ],
)
def test_the_five_tasks(name: str, sizes: tuple[int, int], bound: float) -> None:
    environment = make(name)
    assert (environment.n_observations, environment.n_actions) == sizes
    assert environment.action_high.tolist() == [bound] * sizes[1]
    assert environment.action_low.tolist() == [-bound] * sizes[1]
    assert environment.own_episode_limit == 1000
    environment.close()


def test_mujoco_writes_nothing(tmp_path: Path) -> None:
    """A fresh process: MuJoCo warns when a model is compiled, on stderr and into the working folder."""
    program = (
        "import numpy as np\n"
        "from edgerl.environments.make import make\n"
        "environment = make('HalfCheetah-v5')\n"
        "environment.reset(0)\n"
        "for _ in range(5): environment.step(np.zeros(6, np.float32))\n"
        "environment.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_mujoco_writes_nothing_in_this_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    environment = make("HalfCheetah-v5")
    environment.reset(0)
    environment.step(np.zeros(6, np.float32))
    environment.step(np.full(6, 1e30, np.float32).clip(-1, 1))
    environment.close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_no_name_in_gymnasiums_registry_is_answered_by_another_exception() -> None:
    for name in list(gymnasium.registry):
        if gymnasium.spec(name).name in (
            "CarRacing",
            "LunarLander",
            "Taxi",
            "FrozenLake",
            "Blackjack",
            "GymV21Environment",
        ):
            _refused(name, "needs a package|expected Box")


def test_an_id_without_a_version_is_given_one_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    environment = make("Pendulum")
    assert environment.name == "Pendulum-v1"
    environment.close()
    assert capfd.readouterr().err == ""


def test_a_users_own_error_is_one_line_that_names_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("motor 3\nis hot")

    environment = Environment("mine", Robot())
    environment.reset(0)
    monkeypatch.setattr(Robot, "step", fail)
    with pytest.raises(EnvironmentError, match=r"mine failed at step 1 \(seed \d+\) \(RuntimeError: motor 3 is hot\)"):
        environment.step(environment.scale(np.zeros(2, np.float32)))
    monkeypatch.setattr(Robot, "reset", lambda _: None)
    with pytest.raises(
        EnvironmentError, match=r"mine failed at step 0 \(seed 0\) \(TypeError: .*unexpected keyword argument 'seed'"
    ):
        environment.reset(0)


def test_a_module_with_a_syntax_error_is_one_line() -> None:
    Path("broken_robot.py").write_text("def factory(:\n")
    with pytest.raises(EnvironmentError, match=r"cannot import 'broken_robot' \(SyntaxError: "):
        make("broken_robot:factory")


@pytest.mark.parametrize("name", ["Hopper-v5", "robots:robot"])
def test_a_renderer_that_mujoco_does_not_know_is_one_line(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgerl", "train", "--env", name],
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "nothing"},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "MuJoCo cannot be imported (RuntimeError: invalid value for environment variable MUJOCO_GL" in done.stderr
    assert "unset MUJOCO_GL, or name egl, osmesa or glfw" in done.stderr
    assert not list(Path().glob("runs"))

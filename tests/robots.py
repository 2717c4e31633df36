"""Small environments for tests: made by `module:factory`, fast, with every trap an environment can set."""

from __future__ import annotations

import atexit
import socket
from typing import Any, ClassVar

import gymnasium
import numpy as np


class Robot(gymnasium.Env[Any, Any]):
    """A point in a plane that is rewarded for reaching the middle; 4 observations, 2 actions with unequal bounds."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gymnasium.spaces.Box(np.array([-1, -3], np.float32), np.array([2, 0.5], np.float32))

    def __init__(self, length: int = 37, terminates: bool = False) -> None:
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.state, self.age = self.np_random.normal(size=4), 0
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        self.state[:2] += 0.1 * self.state[2:]
        self.state[2:] = (
            0.9 * self.state[2:] + 0.1 * np.asarray(action, np.float64) + 0.01 * self.np_random.normal(size=2)
        )
        done = self.age >= self.length
        return self.state.copy(), -float(np.abs(self.state[:2]).sum()), done and self.terminates, done, {}


class PaintedRobot(Robot):
    """One that shows its age as a shade of red."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None, length: int = 5) -> None:
        super().__init__(length)
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((64, 96, 3), (40 * self.age, 0, 0), np.uint8) if self.render_mode == "rgb_array" else None


def painted_robot(render_mode: str | None = None, length: int = 5) -> PaintedRobot:
    return PaintedRobot(render_mode, length)


class ChattyRobot(Robot):
    """One that talks at every step, and when its process ends."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        print("a step of many words " * 10)
        return super().step(action)


def chatty_robot() -> ChattyRobot:
    atexit.register(print, "goodbye")
    return ChattyRobot()


class SurveyedRobot(gymnasium.Env[Any, Any]):
    """A cart on a line of two metres that is to stand in its middle, whose coordinate is `far`, as a map has it.

    Positions are multiples of 2^-20 m, so that adding `far` rounds nothing: what float64 sees is the same anywhere.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, far: float = 0.0, dtype: type[np.floating[Any]] = np.float64, render_mode: str | None = None
    ) -> None:
        self.far, self.dtype, self.render_mode = far, dtype, render_mode

    def render(self) -> Any:
        return np.zeros((64, 96, 3), np.uint8)

    def _observation(self) -> Any:
        return np.array([self.far + self.position, self.speed], self.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.position, self.speed, self.age = np.rint(self.np_random.uniform(-1, 1) * 2**20) / 2**20, 0.0, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        self.speed = np.rint((0.5 * self.speed + 0.1 * float(action[0])) * 2**20) / 2**20
        self.position = float(np.clip(self.position + self.speed, -1, 1))
        return self._observation(), -abs(self.position), False, self.age == 40, {}


def surveyed_robot(render_mode: str | None = None) -> SurveyedRobot:
    return SurveyedRobot(far=5_800_000.0, render_mode=render_mode)


def near_robot(render_mode: str | None = None) -> SurveyedRobot:
    return SurveyedRobot(render_mode=render_mode)


def surveyed_robot_in_float32() -> SurveyedRobot:
    return SurveyedRobot(far=5_800_000.0, dtype=np.float32)


def robot() -> Robot:
    return Robot()


def terminating_robot() -> Robot:
    return Robot(length=11, terminates=True)


def endless_robot() -> Robot:
    return Robot(length=1 << 60)


class SlowRobot(Robot):
    """Takes a millisecond a step, so that a test can signal the process in the middle."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        import time

        time.sleep(1e-3)
        return super().step(action)


def slow_robot() -> SlowRobot:
    return SlowRobot()


class ForgetfulRobot(Robot):
    """Its episodes depend on their number, not only on their seed."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self.episodes += 1
        self.state += self.episodes
        return observation + self.episodes, info


def forgetful_robot() -> ForgetfulRobot:
    return ForgetfulRobot()


class BrokenRobot(Robot):
    """Returns a given value as its reward, or in observation 2, from step 5 on."""

    def __init__(self, reward: float | None = None, observation: float | None = None) -> None:
        super().__init__()
        self.broken_reward, self.broken_observation = reward, observation

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.age >= 5 and self.broken_observation is not None:
            observation[2] = self.broken_observation
        if self.age >= 5 and self.broken_reward is not None:
            reward = self.broken_reward
        return observation, reward, terminated, truncated, info


def nan_reward_robot() -> BrokenRobot:
    return BrokenRobot(reward=float("nan"))


def infinite_observation_robot() -> BrokenRobot:
    return BrokenRobot(observation=float("inf"))


class DictRobot(Robot):
    observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-1, 1, (2,))})  # type: ignore[assignment]


class UnboundedRobot(Robot):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))


def dict_robot() -> DictRobot:
    return DictRobot()


def unbounded_robot() -> UnboundedRobot:
    return UnboundedRobot()


def no_environment() -> int:
    return 3


not_callable = 3


class LateRobot(Robot):
    """Works for its first episodes, and breaks in a later one: the probe does not see it."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.total = getattr(self, "total", 0) + 1
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float("nan") if self.total > 45 else reward, terminated, truncated, info


def late_robot() -> LateRobot:
    return LateRobot()


class LonelyRobot(Robot):
    """Holds a name of which the system has one, as a serial line is held: a second one cannot be made beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = socket.socket(socket.AF_UNIX)
        try:
            self.line.bind("\0edgerl-tests-lonely-robot")
        except OSError:
            self.line.close()
            raise

    def close(self) -> None:
        self.line.close()


def lonely_robot() -> LonelyRobot:
    return LonelyRobot()


THE_ONLY_ROBOT = Robot()


def the_only_robot() -> Robot:
    """One and the same object each time."""
    return THE_ONLY_ROBOT


def the_only_robot_wrapped() -> Any:
    """In another wrapper each time."""
    return gymnasium.wrappers.OrderEnforcing(THE_ONLY_ROBOT)


class GlitchyRobot(Robot):
    """Every third episode, by its seed, a sensor gives NaN at step 20, and ever after until the next reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.is_to_fail = seed is not None and seed % 3 == 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.is_to_fail and self.age >= 20:
            observation[1] = np.nan
        return observation, reward, terminated, truncated, info


def glitchy_robot() -> GlitchyRobot:
    return GlitchyRobot()


class DeadRobot(Robot):
    """Every step of it fails."""

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise RuntimeError("no motor")


def dead_robot() -> DeadRobot:
    return DeadRobot()


class SlowEndlessRobot(SlowRobot):
    def __init__(self) -> None:
        super().__init__(length=1 << 60)


def slow_endless_robot() -> SlowEndlessRobot:
    return SlowEndlessRobot()


class OldRobot(Robot):
    """Answers as gym did before 0.26."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


def old_robot() -> OldRobot:
    return OldRobot()


class LooseRobot(Robot):
    """Answers otherwise than gymnasium says, in ways that can be understood."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed, options=options)[0]

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation.tolist(), np.array([reward]), np.array([terminated]), np.array(truncated), info


def loose_robot() -> LooseRobot:
    return LooseRobot()


class WordyRobot(Robot):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, str(terminated), truncated, info


def wordy_robot() -> WordyRobot:
    return WordyRobot()


class VectorRobot(Robot):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, np.array([terminated, terminated]), truncated, info


def vector_robot() -> VectorRobot:
    return VectorRobot()


class LeavingRobot(Robot):
    """Tries to end the process within an episode."""

    def step(self, _action: Any) -> Any:
        raise SystemExit(3)


def leaving_robot() -> LeavingRobot:
    return LeavingRobot()


class UnclosableRobot(Robot):
    def close(self) -> None:
        raise OSError("the bus is gone")


def unclosable_robot() -> UnclosableRobot:
    return UnclosableRobot()


class GoalRobot(Robot):
    """Tells at each step whether it is near the middle, in the word and the type of its choice."""

    def __init__(self, length: int = 37, word: str = "is_success", near: float = 1.0, kind: str = "bool") -> None:
        super().__init__(length)
        self.word, self.near, self.kind = word, near, kind

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        success = abs(self.state[0]) < self.near
        kinds = {"bool": bool(success), "float32": np.float32(success), "numpy": np.bool_(success), "words": "near"}
        return observation, reward, terminated, truncated, {**info, self.word: kinds[self.kind]}


def goal_robot(word: str = "is_success", near: float = 1.0, kind: str = "bool") -> GoalRobot:
    return GoalRobot(word=word, near=near, kind=kind)

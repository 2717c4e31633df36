"""Robot: what a loop that acts and learns needs of an environment, on a board without gymnasium.

The wrapped object has the `reset` and the `step` of a gymnasium.Env and need not be one, so that the Python file that
was trained with serves on the robot too. This is the one place that checks what such an object answers, in training
and playing as well. A faulty answer is an error here. A number that is not finite is passed on: a sensor drops out now
and then, and the learner counts and refuses what it cannot use.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import EnvironmentError, EnvironmentFault
from edgerl.files.paths import home

Vector = npt.NDArray[np.float32]

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class Robot:
    """One robot: observations [n] float32, actions [m] float32 in the robot's own units.

    `observation_dtype` may be set to float64, for a policy that has an observation offset. `given` is the last
    observation [n] in the type that it came in.
    """

    observation_dtype: type[np.floating[Any]] = np.float32
    given: npt.NDArray[Any]

    def __init__(self, name: str, environment: Any, n_observations: int, n_actions: int) -> None:
        """n_observations, n_actions: the policy's; where the object states its spaces, they must agree.

        Raises EnvironmentError.
        """
        self.name, self.n_observations, self.n_actions = name, n_observations, n_actions
        for part in ("reset", "step"):
            if not callable(getattr(environment, part, None)):
                raise EnvironmentError(f"{name} has no {part}(); expected what a gymnasium.Env has: reset and step")
        self._environment = environment
        self._takes_seed = _takes(environment.reset, "seed")
        self._stated_shape("observation_space", n_observations)
        self._action_shape = self._stated_shape("action_space", n_actions)
        self._steps, self._seed = 0, 0
        self.success: bool | None = None  # what the last step said, see _success

    def reset(self, seed: int) -> npt.NDArray[Any]:
        """Start an episode; the first observation [n]. A `reset` that takes no seed is called without."""
        self._steps, self._seed, self.success = 0, seed, None
        options = {"seed": seed} if self._takes_seed else {}
        answer = self._ask(lambda: self._environment.reset(**options))
        return self._observation(answer[0] if _is_with_info(answer) else answer)

    def step(self, action: Vector) -> tuple[npt.NDArray[Any], float, bool, bool]:
        """(observation [n], reward, terminated, truncated) after `action` [m], in the robot's units.

        What is too large for float32 is infinite. Raises EnvironmentError.
        """
        self._steps += 1
        shaped = np.array(action, np.float32).reshape(self._action_shape)  # a copy: a robot may clip in place
        answer = self._ask(lambda: self._environment.step(shaped))
        if not isinstance(answer, tuple | list) or len(answer) != 5:
            raise self._error(_kind(answer), "from step()", "observation, reward, terminated, truncated, info")
        observation, reward, terminated, truncated, info = answer
        self.success = _success(info)
        return (
            self._observation(observation),
            self._reward(reward),
            self._flag(terminated, "terminated"),
            self._flag(truncated, "truncated"),
        )

    def close(self) -> None:
        """Release what the robot holds. Raises EnvironmentError where that fails."""
        close(self.name, self._environment)

    def _stated_shape(self, space: str, size: int) -> tuple[int, ...]:
        shape = getattr(getattr(self._environment, space, None), "shape", None)
        if shape is None:
            return (size,)
        if math.prod(shape) != size:
            raise EnvironmentError(f"{self.name} has {space} {tuple(shape)}; expected {size} numbers, the policy's")
        return tuple(shape)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What the robot answers; its own errors, sys.exit among them, become one line."""
        try:
            return call()
        except (Exception, SystemExit) as error:
            raise EnvironmentFault(f"{self.name} failed {self.moment} ({problem(error)})") from error

    @property
    def moment(self) -> str:
        """Where the present episode stands, for messages."""
        return f"at step {self._steps} (seed {self._seed})"

    def _observation(self, value: Any) -> npt.NDArray[Any]:
        flat = self._numbers(value, "observation")
        if flat.size != self.n_observations:
            raise self._error(f"{flat.size} numbers", "as observation", str(self.n_observations))
        if self.observation_dtype is np.float64 and flat.dtype in (np.float32, np.float16):
            raise self._error(f"{flat.dtype} numbers", "as observation", "float64, since the policy has an offset")
        self.given = flat
        with np.errstate(over="ignore"):
            return flat.astype(self.observation_dtype)

    def _reward(self, value: Any) -> float:
        if isinstance(value, float) and abs(value) <= LARGEST_FLOAT32:  # what nearly every step returns
            return float(value)
        number = self._numbers(value, "reward")
        if number.size != 1:
            raise self._error(f"{number.size} numbers", "as reward", "one")
        with np.errstate(over="ignore"):
            rounded = number.astype(np.float32)[0]
        return float(number[0] if np.isfinite(rounded) else rounded)

    def _flag(self, value: Any, what: str) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        flag = self._numbers(value, what)
        if flag.size != 1 or flag.dtype.kind == "f":
            raise self._error(_kind(value), f"as {what}", "True or False")
        return bool(flag[0])

    def _numbers(self, value: Any, what: str) -> npt.NDArray[Any]:
        """Flat numbers, of the type that they came in."""
        try:
            array = np.asarray(value).reshape(-1)
        except Exception as error:  # a ragged list, or an object that raises anything
            raise self._error(_kind(value), f"as {what}", "numbers") from error
        if array.dtype.kind not in "biuf":
            raise self._error(_kind(value), f"as {what}", "numbers")
        return array

    def _error(self, found: str, where: str, expected: str) -> EnvironmentError:
        return EnvironmentError(f"{self.name} returned {found} {where} {self.moment}; expected {expected}")


def close(name: str, environment: Any) -> None:
    """Call the `close` of an environment that has one. Raises EnvironmentError where that fails."""
    try:
        getattr(environment, "close", lambda: None)()
    except (Exception, SystemExit) as error:
        raise EnvironmentError(f"{name} failed to close ({problem(error)})") from error


def load_factory(name: str, **options: Any) -> Any:
    """What `module:factory` makes; the module is looked for in the current folder too.

    options: arguments for the factory. Raises EnvironmentError, also where it has no such parameter.
    """
    module, _, factory = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), factory)):
        raise EnvironmentError(f"environment {name!r} is neither an id nor module:factory, such as robots:walker")
    make = getattr(load_module(name), factory, None)
    if not callable(make):
        raise EnvironmentError(f"environment {name!r}: {module} has no function {factory!r}; expected module:factory")
    for option in options:
        if not _takes(make, option):
            raise EnvironmentError(
                f"environment {name!r}: {factory}() takes no {option!r}; give it that parameter, with a default"
            )
    try:
        return make(**options)
    except (Exception, SystemExit) as error:
        raise EnvironmentError(f"environment {name!r}: {factory}() failed ({problem(error)})") from error


def load_module(name: str) -> ModuleType:
    """The module of `module:factory` or `module:id`. Raises EnvironmentError."""
    module = name.partition(":")[0]
    folder = str(home())
    if folder not in sys.path:  # a robot is one Python file in the folder where the command runs
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise EnvironmentError(f"environment {name!r}: cannot import {module!r} ({problem(error)})") from error


def is_factory(name: str) -> bool:
    """Whether what follows the colon of `module:name` is a function, not an id that gymnasium knows once the module was
    imported, as in `my_package:MyEnv-v0`: an id may lack its version, and then looks like a function's name.

    Raises EnvironmentError where the module cannot be imported.
    """
    module, colon, thing = name.partition(":")
    if not colon or _ID.fullmatch(thing):
        return False
    if not all(part.isidentifier() for part in (*module.split("."), thing)) or hasattr(load_module(name), thing):
        return True
    gymnasium = sys.modules.get("gymnasium")  # imported by any module that registers an id
    return gymnasium is None or all(_VERSION.sub("", known) != thing for known in gymnasium.registry)


_VERSION = re.compile(r"-v[0-9]+$")
_ID = re.compile(r"([\w-]+/)?[\w.-]+-v[0-9]+|[\w-]+/[\w.-]+")
"""Names that no function can have: with a version, or with a namespace."""


def problem(error: BaseException) -> str:
    """What went wrong in a user's own code, on one line: the exception's type and what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _takes(function: Callable[..., Any], name: str) -> bool:
    """By its signature, not by trying: a TypeError may come from inside."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function without one, as of an extension module
        return True
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _success(info: Any) -> bool | None:
    """Whether the task succeeded, by the `info` of gymnasium-robotics or of Meta-World: True, False, 1 or 0; None
    where it says anything else, or nothing."""
    if not isinstance(info, Mapping):
        return None
    said = info.get("is_success", info.get("success"))
    is_flag = isinstance(said, bool | int | float | np.bool_ | np.number) and said in (0, 1)
    return bool(said) if is_flag else None


def _is_with_info(answer: Any) -> bool:
    """Whether a reset's answer is (observation, info) and not an observation of two numbers."""
    return isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)


def _kind(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else f"a {type(value).__name__}"

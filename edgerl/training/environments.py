"""Gymnasium environments as training sees them: flat float32 vectors, checked, with nothing written to the folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.compact.policy import action_scaling
from edgerl.edge.robot import load_factory, problem
from edgerl.errors import EnvironmentError, nearest, reason, require

Vector = npt.NDArray[np.float32]

PROBE_STEPS = 20
PROBE_SEED = 20220526

_log = logging.getLogger("edgerl")


class Environment:
    """One environment: observations [n] float32, actions [m] float32 in the environment's own units."""

    def __init__(self, name: str, environment: Any) -> None:
        """Raises EnvironmentError unless observations are a Box and actions a bounded Box."""
        gymnasium = require("gymnasium", "train")
        self.name = name
        self._environment = environment
        observations, actions = environment.observation_space, environment.action_space
        for what, space in (("observation", observations), ("action", actions)):
            if not isinstance(space, gymnasium.spaces.Box):
                kind = type(space).__name__
                raise EnvironmentError(
                    f"{name} has {kind} {what}s; expected Box (use an environment or wrapper with one)"
                )
        self.action_low, self.action_high = _float32_inside(actions.low, actions.high)
        if not (
            np.isfinite(self.action_low).all()
            and np.isfinite(self.action_high).all()
            and (self.action_low < self.action_high).all()
        ):
            raise EnvironmentError(f"{name} has unbounded actions; expected a Box with finite low < high")
        self._action_shape = actions.shape
        specification = getattr(environment, "spec", None)
        self.maximum_episode_steps: int | None = getattr(specification, "max_episode_steps", None)
        self.n_observations = int(np.prod(observations.shape))
        self.n_actions = int(np.prod(actions.shape))
        if not self.n_observations or not self.n_actions:
            raise EnvironmentError(f"{name} has an empty observation or action; expected at least one number each")
        self._centre, self._half_range = action_scaling(self.action_low, self.action_high)
        self._steps = 0

    def reset(self, seed: int) -> Vector:
        """Start an episode that `seed` determines; the first observation [n]."""
        self._steps = 0
        observation, _ = self._ask(lambda: self._environment.reset(seed=seed))
        return self._observation(observation)

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool]:
        """(observation [n], reward, terminated, truncated) after `action` [m], in the environment's units.

        Raises EnvironmentError where an observation or the reward is not finite, or the environment itself fails.
        """
        self._steps += 1
        shaped = action.reshape(self._action_shape)
        observation, reward, terminated, truncated, _ = self._ask(lambda: self._environment.step(shaped))
        number = self._floats(reward, "reward")
        if number.size != 1 or not np.isfinite(number).all():
            raise EnvironmentError(
                f"{self.name} returned reward {reward} at step {self._steps}; expected a finite number"
            )
        return self._observation(observation), float(np.asarray(reward).item()), bool(terminated), bool(truncated)

    def _ask(self, call: Callable[[], Any]) -> tuple[Any, ...]:
        """What the user's environment answers; its own errors become one line."""
        try:
            return tuple(call())
        except Exception as error:
            raise EnvironmentError(f"{self.name} failed at step {self._steps} ({problem(error)})") from error

    def scale(self, action: Vector) -> Vector:
        """Actions in [−1, 1] in the environment's units, per dimension."""
        scaled: Vector = self._centre + self._half_range * action
        return scaled

    def close(self) -> None:
        """Release what the environment holds."""
        self._environment.close()

    def _observation(self, observation: Any) -> Vector:
        flat = self._floats(observation, "observation")
        if flat.size != self.n_observations:
            raise EnvironmentError(
                f"{self.name} returned {flat.size} observations at step {self._steps}; "
                f"its observation space has {self.n_observations}"
            )
        if not np.isfinite(flat).all():
            where = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise EnvironmentError(
                f"{self.name} returned {flat[where]} in observation {where} at step {self._steps}; "
                "expected finite numbers"
            )
        return flat

    def _floats(self, value: Any, what: str) -> Vector:
        """Flat float32 numbers; infinite where one is too large for float32."""
        try:
            with np.errstate(over="ignore"):
                return np.asarray(value).astype(np.float32).reshape(-1)
        except (TypeError, ValueError) as error:
            raise EnvironmentError(
                f"{self.name} returned a {type(value).__name__} as {what} at step {self._steps}; expected numbers"
            ) from error


def _float32_inside(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[Vector, Vector]:
    """(low, high), flat: the widest float32 bounds that are nowhere outside the given ones."""
    low, high = low.reshape(-1), high.reshape(-1)
    with np.errstate(over="ignore"):
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
    return low32, np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)


def make(name: str) -> Environment:
    """The gymnasium environment of that id, or what `module:factory` makes.

    Raises EnvironmentError, with the nearest known name, where there is none or it does not suit.
    """
    if ":" in name:
        return Environment(name, from_factory(name))
    made = registered(name)
    return Environment(made.spec.id, made)  # with its version, where the name had none


def resumes_bit_for_bit(name: str) -> bool:
    """Whether an episode follows from its seed alone: two with one seed and the same actions must give the same bits.

    A run is resumed at an episode's start, so that is all a resumed run needs.
    """
    environment = make(name)
    try:
        return _probe(environment) == _probe(environment)
    finally:
        environment.close()


def _probe(environment: Environment) -> bytes:
    actions = np.random.default_rng(PROBE_SEED).uniform(-1, 1, (PROBE_STEPS, environment.n_actions)).astype(np.float32)
    seen = [environment.reset(PROBE_SEED).tobytes()]
    for action in actions:
        observation, reward, terminated, truncated = environment.step(environment.scale(action))
        seen += [observation.tobytes(), np.float64(reward).tobytes()]
        if terminated or truncated:
            break
    return b"".join(seen)


def registered(name: str, **options: Any) -> Any:
    """The gymnasium environment of that id, as gymnasium makes it with these options.

    Raises EnvironmentError, with the nearest known name, where there is none.
    """
    gymnasium = require("gymnasium", "train")
    _silence_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an id has no version, or a newer one
            return gymnasium.make(name, **options)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        needed = reason(error, 200)
        raise EnvironmentError(f"environment {name!r} needs a package that is not installed: {needed}") from error
    except gymnasium.error.Error as error:
        known = list(gymnasium.registry)
        raise EnvironmentError(f"environment {name!r} is unknown{_suggestion(name, known, error)}") from error


def _suggestion(name: str, known: list[str], error: Exception) -> str:
    return nearest(name, known) or f" ({' '.join(str(error).split())[:100]})"


def from_factory(name: str, **options: Any) -> Any:
    """The environment that `module:factory` makes with these arguments. Raises EnvironmentError."""
    _silence_mujoco()
    environment = load_factory(name, **options)
    if not all(hasattr(environment, part) for part in ("reset", "step", "observation_space", "action_space")):
        factory, made = name.partition(":")[2], type(environment).__name__
        raise EnvironmentError(f"environment {name!r}: {factory}() returned {made}; expected a gymnasium.Env")
    return environment


def _silence_mujoco() -> None:
    """Send MuJoCo's warnings to our log: by itself it prints them and writes MUJOCO_LOG.TXT into the user's folder.

    Raises EnvironmentError where MuJoCo is there and cannot be imported.
    """
    try:
        import mujoco
    except ModuleNotFoundError:
        return
    except Exception as error:  # of its renderer, which MUJOCO_GL chooses
        raise EnvironmentError(
            f"MuJoCo cannot be imported ({problem(error)}); unset MUJOCO_GL, or name egl, osmesa or glfw"
        ) from error
    mujoco.set_mju_user_warning(_log.debug)

"""Gymnasium environments as training sees them: flat float32 vectors, checked, with nothing written to the folder."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.config import Config
from edgerl.edge.acting.robot import Robot, is_factory, load_factory, load_module, problem
from edgerl.environments.arguments import NOTHING, Arguments
from edgerl.errors import EnvironmentError, EnvironmentFault, nearest, reason, require
from edgerl.policy.compact import action_scaling, observation_dtype, shifted

Vector = npt.NDArray[np.float32]

PROBE_STEPS = 20
PROBE_SEED = 20220526

_log = logging.getLogger("edgerl")


class Environment:
    """One environment: observations [n] float32, actions [m] float32 in the environment's own units.

    With an `offset` (float64 [n], None: none) observations are less by it, subtracted in float64. For a policy that
    subtracts its offset itself, `observation_dtype` may be set instead: to float64.
    """

    def __init__(self, name: str, environment: Any, episode_limit: int | None = None) -> None:
        """episode_limit: steps after which an episode is truncated, whatever the environment says; None: never.

        Raises EnvironmentError unless observations are a Box and actions a bounded Box of real numbers.
        """
        gymnasium = require("gymnasium", "train")
        self.name, self.episode_limit = name, episode_limit
        self._environment = environment
        observations, actions = environment.observation_space, environment.action_space
        for what, space in (("observation", observations), ("action", actions)):
            if not isinstance(space, gymnasium.spaces.Box):
                kind = type(space).__name__
                raise EnvironmentError(
                    f"{name} has {kind} {what}s; expected Box (use an environment or wrapper with one)"
                )
        self.n_observations = int(np.prod(observations.shape))
        self.n_actions = int(np.prod(actions.shape))
        if not self.n_observations or not self.n_actions:
            raise EnvironmentError(f"{name} has an empty observation or action; expected at least one number each")
        self.action_low, self.action_high = _action_bounds(name, actions)
        self._centre, self._half_range = action_scaling(self.action_low, self.action_high)
        specification = getattr(environment, "spec", None)
        self.own_episode_limit: int | None = getattr(specification, "max_episode_steps", None)
        self._robot = Robot(name, environment, self.n_observations, self.n_actions)
        self._offset: npt.NDArray[np.float64] | None = None
        self._steps = 0
        self.episodes_cut = 0  # by episode_limit

    @property
    def offset(self) -> npt.NDArray[np.float64] | None:
        """What is subtracted from every observation."""
        return self._offset

    @offset.setter
    def offset(self, offset: npt.NDArray[np.float64] | None) -> None:
        self._offset = offset
        self._robot.observation_dtype = observation_dtype(offset)

    @property
    def observation_dtype(self) -> type[np.floating[Any]]:
        """Of the observations where there is no offset."""
        return self._robot.observation_dtype

    @observation_dtype.setter
    def observation_dtype(self, dtype: type[np.floating[Any]]) -> None:
        self._robot.observation_dtype = dtype

    @property
    def observation(self) -> Vector:
        """The last observation [n] once more, less the offset that there is now."""
        return self._finite(self.given)

    @property
    def given(self) -> npt.NDArray[Any]:
        """The last observation [n] as the environment gave it, in its own type, with nothing subtracted."""
        return self._robot.given

    def reset(self, seed: int) -> Vector:
        """Start an episode that `seed` determines; the first observation [n]."""
        self._steps = 0
        return self._finite(self._robot.reset(seed))

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool]:
        """(observation [n], reward, terminated, truncated) after `action` [m], in the environment's units.

        Raises EnvironmentError for an answer that is none; EnvironmentFault where an observation or the reward is not
        finite, or the environment itself fails.
        """
        self._steps += 1
        observation, reward, terminated, truncated = self._robot.step(action)
        if not math.isfinite(reward):
            raise EnvironmentFault(
                f"{self.name} returned reward {reward} {self._robot.moment}; expected a finite number"
            )
        if self._steps == self.episode_limit and not (terminated or truncated):
            self.episodes_cut += 1
            truncated = True
        return self._finite(observation), reward, terminated, truncated

    @property
    def success(self) -> bool | None:
        """Whether the last step said that the episode's task is done; None where it did not tell."""
        return self._robot.success

    def scale(self, action: Vector) -> Vector:
        """Actions in [−1, 1] in the environment's units, per dimension."""
        scaled: Vector = self._centre + self._half_range * action
        return scaled

    def is_same_as(self, other: Environment) -> bool:
        """Whether both drive one and the same object, be it in two wrappers."""
        return _unwrapped(self._environment) is _unwrapped(other._environment)

    def close(self) -> None:
        """Release what the environment holds. What was done with it is done: a failure to close is a warning."""
        try:
            self._robot.close()
        except EnvironmentError as error:
            _log.warning("%s", error)

    def _finite(self, given: npt.NDArray[Any]) -> Vector:
        observation: Vector = shifted(given, self._offset)
        if not np.isfinite(observation).all():
            where = int(np.flatnonzero(~np.isfinite(observation))[0])
            raise EnvironmentFault(
                f"{self.name} returned {observation[where]} in observation {where} {self._robot.moment}; "
                "expected finite numbers"
            )
        return observation


def _unwrapped(environment: Any) -> Any:
    return getattr(environment, "unwrapped", environment)


def _action_bounds(name: str, space: Any) -> tuple[Vector, Vector]:
    """(low, high), flat float32, of a Box of actions. Raises EnvironmentError where no policy can use them."""
    if space.dtype.kind != "f":
        raise EnvironmentError(
            f"{name} has actions of {space.dtype}; expected float32 or float64 (wrap it in "
            "gymnasium.wrappers.TransformAction, and round there)"
        )
    low, high = _float32_inside(space.low, space.high)
    for number, (least, most) in enumerate(zip(low, high, strict=True)):
        if not (np.isfinite(least) and np.isfinite(most)):
            raise EnvironmentError(
                f"{name} has unbounded actions ({least:g} to {most:g} in action {number}); expected a Box with finite "
                "bounds (use gymnasium.wrappers.RescaleAction or ClipAction)"
            )
        if not least < most:
            raise EnvironmentError(
                f"{name} has an action that cannot move: action {number} is from {least:g} to {most:g}; expected "
                "low < high (leave it out of the action space, and set it in the environment)"
            )
    return low, high


def _float32_inside(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[Vector, Vector]:
    """(low, high), flat: the widest float32 bounds that are nowhere outside the given ones."""
    low, high = low.reshape(-1), high.reshape(-1)
    with np.errstate(over="ignore"):
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
    return low32, np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)


def make(name: str, episode_limit: int | None = None, arguments: Arguments = NOTHING) -> Environment:
    """The environment of that name (see `made`), made with these arguments; episode_limit as in Environment.

    Raises EnvironmentError, with the nearest known name, where there is none or it does not suit.
    """
    return Environment(*made(name, **arguments), episode_limit)


def made(name: str, **options: Any) -> tuple[str, Any]:
    """(name, environment) of a gymnasium id; of `module:id`, which importing the module registers; or of
    `module:factory`. Raises EnvironmentError."""
    if is_made_by_factory(name):
        return name, from_factory(name, **options)
    return made_by_gymnasium(name, **options)


def is_made_by_factory(name: str) -> bool:
    """Whether `name` is `module:factory`, not an id. Raises EnvironmentError where its module cannot be imported."""
    _silence_mujoco()
    return is_factory(name)


def made_by_gymnasium(name: str, **options: Any) -> tuple[str, Any]:
    """(name, environment) of an id or `module:id`, the name with the version. Raises EnvironmentError."""
    environment = registered(name, **options)
    module, colon, _ = name.rpartition(":")
    return f"{module}{colon}{environment.spec.id}", environment


def make_for_run(config: Config) -> Environment:
    """The environment of a run, with the limit that its episodes have. Raises EnvironmentError."""
    environment, schedule = make(config.environment, arguments=config.env_args), config.schedule
    # Runs of 0.1.0 recorded no limit: they cut an episode at the checkpoint interval, or at the environment's limit.
    unrecorded = max(schedule.checkpoint_interval, environment.own_episode_limit or 0)
    environment.episode_limit = schedule.max_episode_steps or unrecorded
    return environment


def resumes_bit_for_bit(environment: Environment, *, outlives_faults: bool = False) -> bool:
    """Whether an episode follows from its seed alone: two with one seed and the same actions must give the same bits.

    A run is resumed at an episode's start, so that is all a resumed run needs. Two short episodes are played.
    Raises EnvironmentFault where a step fails, unless that is to be outlived.
    """
    return _probe(environment, outlives_faults) == _probe(environment, outlives_faults)


def _probe(environment: Environment, outlives_faults: bool) -> bytes:
    actions = np.random.default_rng(PROBE_SEED).uniform(-1, 1, (PROBE_STEPS, environment.n_actions)).astype(np.float32)
    seen = [environment.reset(PROBE_SEED).tobytes()]
    for action in actions:
        try:
            observation, reward, terminated, truncated = environment.step(environment.scale(action))
        except EnvironmentFault:
            if outlives_faults:  # training will meet it, and tell of it
                break
            raise
        seen += [observation.tobytes(), np.float64(reward).tobytes()]
        if terminated or truncated:
            break
    return b"".join(seen)


def registered(name: str, **options: Any) -> Any:
    """The gymnasium environment of that id, or of `module:id` once the module is imported, as gymnasium makes it with
    these options.

    Raises EnvironmentError, with the nearest known name, where there is none.
    """
    gymnasium = require("gymnasium", "train")
    _silence_mujoco()
    _, colon, identifier = name.rpartition(":")
    if colon:
        load_module(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an id has no version, or a newer one
            return gymnasium.make(identifier, **options)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        needed = reason(error, 200)
        raise EnvironmentError(f"environment {name!r} needs a package that is not installed: {needed}") from error
    except gymnasium.error.Error as error:
        known = list(gymnasium.registry)
        raise EnvironmentError(f"environment {name!r} is unknown{_suggestion(identifier, known, error)}") from error
    except (Exception, SystemExit) as error:  # of its constructor, as for an argument that it does not take
        raise EnvironmentError(f"environment {name!r} cannot be made ({problem(error)})") from error


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

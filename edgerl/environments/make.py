"""Gymnasium environments as training uses them: flat float32 vectors, checked, with no file left in the folder."""

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
from edgerl.environments.joints import actuated_joints
from edgerl.errors import EnvironmentError, EnvironmentFault, nearest, reason, require
from edgerl.policy.compact import action_scaling, observation_dtype, shifted

Vector = npt.NDArray[np.float32]

PROBE_STEPS = 20
PROBE_SEED = 20220526

_log = logging.getLogger("edgerl")


class Environment:
    """One environment: observations [n] float32, actions [m] float32 in the environment's own units.

    An `offset` (float64 [n] or None) is subtracted from observations, in float64. For a policy that subtracts its
    offset itself, `observation_dtype` may be set to float64 instead.
    """

    def __init__(self, name: str, environment: Any, episode_limit: int | None = None) -> None:
        """episode_limit: steps after which an episode is truncated even if the environment goes on; None: never.

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
        self.joint_names = actuated_joints(environment, self.n_actions)
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
        """The last observation [n] again, less the present offset."""
        return self._finite(self.given)

    @property
    def given(self) -> npt.NDArray[Any]:
        """The last observation [n] as the environment returned it, in its own type, with nothing subtracted."""
        return self._robot.given

    def reset(self, seed: int) -> Vector:
        """Start an episode with this seed; the first observation [n]."""
        self._steps = 0
        return self._finite(self._robot.reset(seed))

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool]:
        """(observation [n], reward, terminated, truncated) after `action` [m], in the environment's units.

        Raises EnvironmentError for a malformed result; EnvironmentFault where an observation or the reward is not
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
        """Whether the last step reported the episode's task as done; None where it did not report it."""
        return self._robot.success

    def scale(self, action: Vector) -> Vector:
        """Actions in [−1, 1] in the environment's units, per dimension."""
        scaled: Vector = self._centre + self._half_range * action
        return scaled

    def is_same_as(self, other: Environment) -> bool:
        """Whether both drive the same object, even in two wrappers."""
        own, others = self._environment, other._environment
        return getattr(own, "unwrapped", own) is getattr(others, "unwrapped", others)

    def close(self) -> None:
        """Release what the environment holds; a failure is only a warning, since nothing else needs it."""
        try:
            self._robot.close()
        except EnvironmentError as error:
            _log.warning("%s", error)

    def _finite(self, given: npt.NDArray[Any]) -> Vector:
        observation: Vector = shifted(given, self._offset)
        # A sum of squares is finite only if all of them are, and takes a fifth of the time of looking at each.
        if not (math.isfinite(observation.dot(observation)) or np.isfinite(observation).all()):
            where = int(np.flatnonzero(~np.isfinite(observation))[0])
            raise EnvironmentFault(
                f"{self.name} returned {observation[where]} in observation {where} {self._robot.moment}; "
                "expected finite numbers"
            )
        return observation


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
                f"{name} has an action that cannot vary: action {number} is from {least:g} to {most:g}; expected "
                "low < high (leave it out of the action space, and set it in the environment)"
            )
    return low, high


def _float32_inside(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[Vector, Vector]:
    """(low, high), flat: the widest float32 bounds inside the given ones."""
    low, high = low.reshape(-1), high.reshape(-1)
    with np.errstate(over="ignore"):
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
    return low32, np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)


def make(name: str, episode_limit: int | None = None, arguments: Arguments = NOTHING) -> Environment:
    """The environment of that name (see `made`), with these arguments; episode_limit as in Environment.

    Raises EnvironmentError where there is none, with the nearest known name, or where it is unsuitable.
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
    # Runs of 0.1.0 recorded no limit: they truncated at the checkpoint interval, or at the environment's limit.
    unrecorded = max(schedule.checkpoint_interval, environment.own_episode_limit or 0)
    environment.episode_limit = schedule.max_episode_steps or unrecorded
    return environment


def resumes_bit_for_bit(environment: Environment, *, survives_faults: bool = False) -> bool:
    """Whether its seed determines an episode: two with the same seed and actions must give the same bits.

    That is all a resumed run needs, since it starts with an episode. Two short episodes are played.
    Raises EnvironmentFault where a step fails, unless `survives_faults`.
    """
    return _probe(environment, survives_faults) == _probe(environment, survives_faults)


def _probe(environment: Environment, survives_faults: bool) -> bytes:
    actions = np.random.default_rng(PROBE_SEED).uniform(-1, 1, (PROBE_STEPS, environment.n_actions)).astype(np.float32)
    seen = [environment.reset(PROBE_SEED).tobytes()]
    for action in actions:
        try:
            observation, reward, terminated, truncated = environment.step(environment.scale(action))
        except EnvironmentFault:
            if survives_faults:  # training will report it
                break
            raise
        seen += [observation.tobytes(), np.float64(reward).tobytes()]
        if terminated or truncated:
            break
    return b"".join(seen)


def registered(name: str, **options: Any) -> Any:
    """The gymnasium environment of that id, or of `module:id` after importing the module, made with these options.

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
        hint = nearest(identifier, list(gymnasium.registry)) or f" ({reason(error, 100)})"
        raise EnvironmentError(f"environment {name!r} is unknown{hint}") from error
    except (Exception, SystemExit) as error:  # of its constructor, as for an argument that it does not have
        raise EnvironmentError(f"environment {name!r} cannot be made ({problem(error)})") from error


def from_factory(name: str, **options: Any) -> Any:
    """The environment that `module:factory` makes with these arguments. Raises EnvironmentError."""
    _silence_mujoco()
    environment = load_factory(name, **options)
    if not all(hasattr(environment, part) for part in ("reset", "step", "observation_space", "action_space")):
        factory, made = name.partition(":")[2], type(environment).__name__
        raise EnvironmentError(f"environment {name!r}: {factory}() returned {made}; expected a gymnasium.Env")
    return environment


def _silence_mujoco() -> None:
    """Send MuJoCo's warnings to our log: otherwise it prints them and writes MUJOCO_LOG.TXT into the user's folder.

    Raises EnvironmentError where MuJoCo is installed and cannot be imported.
    """
    try:
        import mujoco
    except ModuleNotFoundError:
        return
    except Exception as error:  # of the renderer that MUJOCO_GL chooses
        raise EnvironmentError(
            f"MuJoCo cannot be imported ({problem(error)}); unset MUJOCO_GL, or name egl, osmesa or glfw"
        ) from error
    mujoco.set_mju_user_warning(_log.debug)

"""A robot that wears out: from a given step on, something about it has changed for good.

In text: KIND[/INDEX][:STRENGTH][@STEP], such as gravity, gravity:1.5@50000 or actuator-gain/2:0.5@50000.

    joint-friction  the damping of every joint that an actuator drives × strength
    gravity         gravity, all three components × strength
    torso-mass      mass and inertia of the body `torso` (where there is none: of the model's first body) × strength
    actuator-gain   the force of one actuator × strength; INDEX counts from 0 (default: the middle one, number // 2)
    sensor-bias     an observation + strength; INDEX counts from 0 in the flattened observation (default: each of them)
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import ConfigError, EnvironmentError, nearest, quoted, require

gymnasium: Any = require("gymnasium", "train")

# Chosen before any learner saw them: the mildest at which four frozen HalfCheetah-v5 policies keep 20–60 % each.
DEFAULT_STRENGTHS: Mapping[str, float] = {
    "joint-friction": 2.0,
    "gravity": 1.75,
    "torso-mass": 2.5,
    "actuator-gain": 0.25,  # of actuator 3, the front thigh
    "sensor-bias": 0.06,
}
"""Every kind of drift, with its default strength."""

_STRENGTHS: Mapping[str, tuple[float, float]] = {
    "joint-friction": (0, 100),
    "gravity": (0, 10),
    "torso-mass": (0.01, 100),
    "actuator-gain": (0, 1),
    "sensor-bias": (-1000, 1000),
}
"""The lowest and the highest strength of each kind, both allowed."""

_INDEXED = ("actuator-gain", "sensor-bias")
_LATEST_STEP = 10**12
_TEXT = re.compile(r"([^/:@]*)(?:/([^:@]*))?(?::([^@]*))?(?:@(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Drift:
    """One change of one kind (see the module), after `at_step` steps of the environment.

    strength: a factor; of sensor-bias the offset, in the observation's units. at_step: in [0, 10¹²]. index: which
    actuator or observation; None: the kind's default. `str` gives the complete text.

    Raises ConfigError for an unknown kind, a value out of range, or an index where the kind has none.
    """

    kind: str
    strength: float
    at_step: int
    index: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in DEFAULT_STRENGTHS:
            raise ConfigError(
                f"drift {quoted(self.kind)} is unknown; expected {', '.join(DEFAULT_STRENGTHS)}"
                f"{nearest(self.kind, DEFAULT_STRENGTHS)}"
            )
        low, high = _STRENGTHS[self.kind]
        if not low <= self.strength <= high:
            raise ConfigError(
                f"the strength of drift {self.kind} is {self.strength}; expected a number in [{low}, {high}]"
            )
        if not 0 <= self.at_step <= _LATEST_STEP:
            raise ConfigError(
                f"the step of drift {self.kind} is {self.at_step}; expected a number in [0, {_LATEST_STEP}]"
            )
        if self.index is not None and self.kind not in _INDEXED:
            raise ConfigError(
                f"drift {self.kind} has index {self.index}; expected none: only {' and '.join(_INDEXED)} have one"
            )

    def __str__(self) -> str:
        index = "" if self.index is None else f"/{self.index}"
        return f"{self.kind}{index}:{self.strength}@{self.at_step}"


def parse_drift(text: str) -> Drift:
    """The drift in `KIND[/INDEX][:STRENGTH][@STEP]`, by default with its kind's strength, at step 0.

    Raises ConfigError for an unknown kind, what is not a number, or a number out of range.
    """
    match = _TEXT.fullmatch(text)
    assert match is not None  # every text matches, if with an empty kind
    kind, index, strength, step = match.groups()
    return Drift(
        kind,
        DEFAULT_STRENGTHS.get(kind, 0.0) if strength is None else _number(text, strength),
        0 if step is None else _whole(text, "step", step),
        None if index is None else _whole(text, "index", index),
    )


def _number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ConfigError(
            f"the strength of drift {quoted(text)} is {quoted(number)}; expected a number, such as gravity:1.5"
        ) from None


def _whole(text: str, what: str, number: str) -> int:
    if not re.fullmatch(r"[0-9]{1,13}", number):
        raise ConfigError(
            f"the {what} of drift {quoted(text)} is {quoted(number)}; expected a whole number, "
            "such as actuator-gain/0:0.5@50000"
        )
    return int(number)


class DriftingEnvironment(gymnasium.Wrapper):  # type: ignore[misc]
    """An environment that drifts: the first `at_step` steps are bit for bit those of the environment itself, and all
    later ones have the drift, also from within an episode, and through every reset.

    A value becomes strength × what it was when the wrapper was made (the true observation + strength), whatever drifted
    before: of two drifts of the same value the later one counts. Rewards follow from the true state. An observation
    with a bias may be outside `observation_space`.

    Attributes: `steps` so far, including those of earlier processes.
    """

    def __init__(self, environment: Any, drifts: Sequence[Drift], *, steps_before: int = 0) -> None:
        """steps_before: steps of earlier processes with this robot; a drift whose step has passed is active.

        Raises EnvironmentError where the environment lacks what a drift changes, and MissingExtraError without MuJoCo.
        """
        if not isinstance(environment, gymnasium.Env):
            raise EnvironmentError(f"{type(environment).__name__} cannot drift; expected a gymnasium.Env")
        super().__init__(environment)
        self.steps = steps_before
        self._drifts = sorted(drifts, key=lambda drift: drift.at_step)
        self._at_steps = [drift.at_step for drift in self._drifts]
        self._name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
        self._model = getattr(environment.unwrapped, "model", None)
        self._changes = [self._change(drift) for drift in self._drifts]
        self._n_active = 0
        self._wear()

    @property
    def active(self) -> tuple[Drift, ...]:
        """The active drifts, in the order of their steps."""
        return tuple(self._drifts[: self._n_active])

    def apply(self) -> None:
        """Activate all drifts, whatever their steps: for an evaluation environment."""
        self._activate(len(self._drifts))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; drifts stay. Raises EnvironmentError where the environment made a new model."""
        self._wear()
        observation, info = self.env.reset(seed=seed, options=options)
        if getattr(self.unwrapped, "model", None) is not self._model:
            raise EnvironmentError(f"{self._name} made a new model at reset; expected it to keep the one that drifts")
        return self._sense(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's; the step is counted."""
        self._wear()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return self._sense(observation), reward, terminated, truncated, info

    def _wear(self) -> None:
        self._activate(bisect_right(self._at_steps, self.steps))

    def _activate(self, n_active: int) -> None:
        for change in self._changes[self._n_active : n_active]:
            change()
        self._n_active = max(self._n_active, n_active)

    def _change(self, drift: Drift) -> Callable[[], None]:
        """The function that activates a drift; it does nothing for a bias, which `_sense` adds."""
        if drift.kind == "sensor-bias":
            space = self.observation_space
            if not isinstance(space, gymnasium.spaces.Box):
                kind = type(space).__name__
                raise EnvironmentError(f"{self._name} has {kind} observations; drift {drift} needs a Box")
            count = int(np.prod(space.shape))
            if drift.index is not None and not 0 <= drift.index < count:
                raise EnvironmentError(
                    f"{self._name} has {count} observations; drift {drift} needs an index in [0, {count - 1}]"
                )
            return lambda: None
        return _change_of_model(self._name, self._model, drift)

    def _sense(self, observation: Any) -> Any:
        """The observation itself, or a copy with every active bias."""
        biases = [drift for drift in self.active if drift.kind == "sensor-bias"]
        if not biases:
            return observation
        true = np.asarray(observation)
        sensed = true.astype(np.result_type(true, np.float32), order="C")
        for drift in biases:
            where = slice(None) if drift.index is None else drift.index
            sensed.reshape(-1)[where] = true.reshape(-1)[where] + drift.strength
        return sensed


def _change_of_model(name: str, model: Any, drift: Drift) -> Callable[[], None]:
    """A function that sets the model's values to strength × what they are now, however often it is called."""
    mujoco = require("mujoco", "train")
    if not isinstance(model, mujoco.MjModel):
        raise EnvironmentError(f"{name} has no MuJoCo model; drift {drift} needs one (sensor-bias does not)")
    parts = [(array, rows, array[rows] * drift.strength) for array, rows in _parts(name, model, drift)]
    if not any(array[rows].any() for array, rows, _ in parts):
        raise EnvironmentError(f"{name} has only zeros where drift {drift} multiplies; choose another kind")

    def change() -> None:
        for array, rows, values in parts:
            array[rows] = values
        if drift.kind == "torso-mass":  # MuJoCo derives constants from masses, such as how soft a contact is
            mujoco.mj_setConst(model, mujoco.MjData(model))

    return change


def _parts(name: str, model: Any, drift: Drift) -> list[tuple[npt.NDArray[np.float64], Any]]:
    """The arrays of the model that a drift multiplies, and the rows in them."""
    mujoco = require("mujoco", "train")
    if drift.kind == "gravity":
        return [(model.opt.gravity, slice(None))]
    if drift.kind == "joint-friction":
        directly = [int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT)]
        joints = model.actuator_trnid[np.isin(model.actuator_trntype, directly), 0]
        return [(model.dof_damping, np.isin(model.dof_jntid, joints))]
    if drift.kind == "torso-mass":
        if model.nbody < 2:
            raise EnvironmentError(f"{name} has no body but the world; drift {drift} needs one")
        # Without a body `torso` the first one after the world: the root of a single robot.
        torso = max(1, int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "torso")))
        return [(model.body_mass, [torso]), (model.body_inertia, [torso])]
    actuator = _actuator(name, model, drift)
    return [(model.actuator_gainprm, [actuator]), (model.actuator_biasprm, [actuator])]


def _actuator(name: str, model: Any, drift: Drift) -> int:
    """The drift's actuator; its force must be proportional to its gain and bias parameters."""
    index = model.nu // 2 if drift.index is None else drift.index
    if not 0 <= index < model.nu:
        raise EnvironmentError(f"{name} has {model.nu} actuators; drift {drift} needs number {index}, counted from 0")
    mujoco = require("mujoco", "train")
    gains = (int(mujoco.mjtGain.mjGAIN_FIXED), int(mujoco.mjtGain.mjGAIN_AFFINE))
    biases = (int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE))
    if model.actuator_gaintype[index] not in gains or model.actuator_biastype[index] not in biases:
        raise EnvironmentError(f"actuator {index} of {name} is not a motor or servo; drift {drift} needs one")
    return index

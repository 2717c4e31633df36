"""Drifts: their text, exactly what each changes in a model (against a model compiled that way), and when."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box

from edgerl.environments.drift import DEFAULT_STRENGTHS, Drift, DriftingEnvironment, parse_drift
from edgerl.environments.make import Environment, make
from edgerl.errors import ConfigError, EnvironmentError
from tests.robots import DictRobot, Robot

Array = npt.NDArray[Any]

TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]

# What is said about a drift.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gravity:1.5@50000", Drift("gravity", 1.5, 50_000)),
        ("gravity:1.5", Drift("gravity", 1.5, 0)),
        ("gravity@50000", Drift("gravity", DEFAULT_STRENGTHS["gravity"], 50_000)),
        ("gravity", Drift("gravity", DEFAULT_STRENGTHS["gravity"], 0)),
        ("joint-friction:1e1@1000000000000", Drift("joint-friction", 10, 10**12)),
        ("torso-mass:.5@0", Drift("torso-mass", 0.5, 0)),
        ("actuator-gain/0:0@7", Drift("actuator-gain", 0, 7, 0)),
        ("actuator-gain/12", Drift("actuator-gain", DEFAULT_STRENGTHS["actuator-gain"], 0, 12)),
        ("sensor-bias/3:-0.25@9", Drift("sensor-bias", -0.25, 9, 3)),
        ("sensor-bias:-1000", Drift("sensor-bias", -1000, 0)),
    ],
)
def test_texts_and_what_they_say(text: str, expected: Drift) -> None:
    assert parse_drift(text) == expected
    assert parse_drift(str(expected)) == expected


def test_a_drifts_own_text_is_complete() -> None:
    assert str(Drift("gravity", 1.5, 50_000)) == "gravity:1.5@50000"
    assert str(parse_drift("actuator-gain/2")) == f"actuator-gain/2:{DEFAULT_STRENGTHS['actuator-gain']}@0"


def test_every_default_strength_is_allowed_and_changes_something() -> None:
    for kind, strength in DEFAULT_STRENGTHS.items():
        assert parse_drift(kind) == Drift(kind, strength, 0)
        assert strength != (0 if kind == "sensor-bias" else 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gravty:1.5", "drift 'gravty' is unknown; expected joint-friction, .*sensor-bias; did you mean gravity?"),
        ("torso", "drift 'torso' is unknown; .*; did you mean torso-mass?"),
        ("", "drift '' is unknown; expected joint-friction, gravity, torso-mass, actuator-gain, sensor-bias"),
        ("\n@5", r"drift '\\n' is unknown; "),
        ("x" * 1000, "drift 'x{39} is unknown; "),
        ("gravity:", "the strength of drift 'gravity:' is ''; expected a number, such as gravity:1.5"),
        ("gravity:two", "the strength of drift 'gravity:two' is 'two'; expected a number"),
        ("gravity:nan", r"the strength of drift gravity is nan; expected a number in \[0, 10\]"),
        ("gravity:inf", r"the strength of drift gravity is inf; expected a number in \[0, 10\]"),
        ("gravity:-1", r"the strength of drift gravity is -1.0; expected a number in \[0, 10\]"),
        ("gravity:10.1", r"the strength of drift gravity is 10.1; expected a number in \[0, 10\]"),
        ("torso-mass:0", r"the strength of drift torso-mass is 0.0; expected a number in \[0.01, 100\]"),
        ("joint-friction:101", r"the strength of drift joint-friction is 101.0; expected a number in \[0, 100\]"),
        ("actuator-gain:1.01", r"the strength of drift actuator-gain is 1.01; expected a number in \[0, 1\]"),
        ("sensor-bias:-inf", r"the strength of drift sensor-bias is -inf; expected a number in \[-1000, 1000\]"),
        ("gravity@", "the step of drift 'gravity@' is ''; expected a whole number, such as actuator-gain/0:0.5@50000"),
        ("gravity@-1", "the step of drift 'gravity@-1' is '-1'; expected a whole number"),
        ("gravity@1.5", "the step of drift 'gravity@1.5' is '1.5'; expected a whole number"),
        ("gravity@\n5", r"the step of drift 'gravity@\\n5' is '\\n5'; expected a whole number"),
        ("gravity@5:2", "the step of drift 'gravity@5:2' is '5:2'; expected a whole number"),
        ("gravity@٣", "the step of drift 'gravity@٣' is '٣'; expected a whole number"),
        (
            "gravity@1000000000001",
            r"the step of drift gravity is 1000000000001; expected a number in \[0, 1000000000000\]",
        ),
        ("gravity@" + "9" * 5000, "the step of drift 'gravity@9+ is '9+; expected a whole number"),
        ("gravity/1", "drift gravity has index 1; expected none"),
        ("actuator-gain/:1", "the index of drift 'actuator-gain/:1' is ''; expected a whole number"),
        ("actuator-gain/-1", "the index of drift 'actuator-gain/-1' is '-1'; expected a whole number"),
    ],
)
def test_texts_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{problem}[^\n]*$"):
        parse_drift(text)


# What a drift changes, against a model that was compiled with the changed numbers.

CART = """
<mujoco>
  <option gravity="{gravity}" timestep="0.002"/>
  <worldbody>
    <body name="{body}" pos="0 0 1">
      <inertial pos="0.01 0 0" mass="{mass}" diaginertia="{inertia}"/>
      <joint name="rail" type="slide" axis="1 0 0" damping="{rail}"/>
      <joint name="lift" type="slide" axis="0 0 1" damping="0.5"/>
      <geom size="0.1"/>
      <body name="arm" pos="0.1 0 0">
        <inertial pos="0.1 0 0" mass="0.5" diaginertia="0.02 0.03 0.04"/>
        <joint name="elbow" type="hinge" axis="0 1 0" damping="{elbow}"/>
        <body name="tool" pos="0.1 0 0">
          <inertial pos="0.1 0 0" mass="0.125" diaginertia="0.01 0.01 0.01"/>
          <joint name="wrist" type="ball" damping="{wrist}"/>
          <site name="palm"/><site name="tip"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <general joint="rail" gear="4" gainprm="{motor}"/>
    <general joint="elbow" biastype="affine" gainprm="{servo}" biasprm="0 -{servo} -{servo_damping}"/>
    <motor jointinparent="wrist" gear="0 1 0"/>
    {fourth}
  </actuator>
</mujoco>
"""
WHOLE = {
    "body": "torso",
    "gravity": "0.5 0 -9.81",
    "mass": "2",
    "inertia": "0.25 0.5 0.625",
    "rail": "0.75",
    "elbow": "0.25",
    "wrist": "0.125",
    "motor": "1",
    "servo": "40",
    "servo_damping": "8",
    "fourth": "",
}


class Cart(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """A torso on a rail and a lift, with an arm; observations are MuJoCo's positions [7] and velocities [6]."""

    def __init__(self, **changed: str) -> None:
        self.model = mujoco.MjModel.from_xml_string(CART.format(**(WHOLE | changed)))
        self.data = mujoco.MjData(self.model)
        size = self.model.nq + self.model.nv
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = Box(-1, 1, (self.model.nu,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        mujoco.mj_resetData(self.model, self.data)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        return self._seen(), float(self.data.qvel[0]), False, False, {}

    def _seen(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel])


def _arrays(model: Any) -> dict[str, Array]:
    """Every number of a model."""
    found = {}
    for prefix, part in (("", model), ("opt.", model.opt), ("stat.", model.stat)):
        for name in dir(part):
            value = getattr(part, name)
            if not name.startswith("_") and isinstance(value, np.ndarray | int | float):
                found[prefix + name] = np.array(value)
    return found


def _differences(model: Any, other: Any) -> set[str]:
    mine, others = _arrays(model), _arrays(other)
    return {name for name in mine if not np.array_equal(mine[name], others[name])}


def _drifting(environment: Any, *texts: str, steps_before: int = 0) -> DriftingEnvironment:
    return DriftingEnvironment(environment, [parse_drift(text) for text in texts], steps_before=steps_before)


def _task(name: str, *texts: str, steps_before: int = 0) -> DriftingEnvironment:
    return _drifting(make(name)._environment, *texts, steps_before=steps_before)


MASSES = {"body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"}
"""What depends on a mass: the last four are MuJoCo's own constants."""

STATISTICS = {"stat.meaninertia", "stat.meanmass"}
"""What mj_setConst leaves as it is: the solver's tolerance and the size of drawn arrows are relative to them."""


@pytest.mark.parametrize(
    ("text", "twin", "fields"),
    [
        ("gravity:2", {"gravity": "1 0 -19.62"}, {"opt.gravity"}),
        ("gravity:0", {"gravity": "0 0 0"}, {"opt.gravity"}),
        ("joint-friction:4", {"rail": "3", "elbow": "1", "wrist": "0.5"}, {"dof_damping"}),
        ("torso-mass:2.5", {"mass": "5", "inertia": "0.625 1.25 1.5625"}, {*MASSES, "actuator_acc0"}),
        ("actuator-gain/0:0.25", {"motor": "0.25"}, {"actuator_gainprm"}),
        ("actuator-gain/1:0.25", {"servo": "10", "servo_damping": "2"}, {"actuator_gainprm", "actuator_biasprm"}),
        ("actuator-gain:0.25", {"servo": "10", "servo_damping": "2"}, {"actuator_gainprm", "actuator_biasprm"}),
        ("sensor-bias:1", {}, set()),
    ],
)
def test_each_kind_makes_the_model_that_mujoco_compiles_with_those_numbers(
    text: str, twin: dict[str, str], fields: set[str]
) -> None:
    drifted = _drifting(Cart(), text).unwrapped.model
    compiled = Cart(**twin).model
    assert _differences(drifted, Cart().model) == fields
    numbers = _arrays(drifted)
    for name, expected in _arrays(compiled).items():
        if name not in STATISTICS:
            np.testing.assert_allclose(numbers[name], expected, rtol=1e-12, err_msg=name)


def test_an_actuator_that_drives_no_joint_wears_none() -> None:
    """The site `tip` has number 1, as the joint `lift` has, whose damping is 0.5."""
    model = _drifting(Cart(fourth='<general site="tip" gear="1 0 0 0 0 0"/>'), "joint-friction:2").unwrapped.model
    assert model.actuator_trnid[3, 0] == 1
    assert model.dof_damping.tolist() == [1.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_without_a_torso_the_first_body_is_meant() -> None:
    model, whole = _drifting(Cart(body="trunk"), "torso-mass:3").unwrapped.model, Cart(body="trunk").model
    assert (model.body_mass[1:] / whole.body_mass[1:]).tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("gravity:2", {"opt.gravity"}, {"opt.gravity": [0, 0, -19.62]}),
        ("joint-friction:2", {"dof_damping"}, {"dof_damping": [0, 0, 0, 12, 9, 6, 9, 6, 3]}),
        ("actuator-gain:0.25", {"actuator_gainprm"}, {"actuator_gainprm": [[1]] * 3 + [[0.25]] + [[1]] * 2}),
        ("actuator-gain/5:0", {"actuator_gainprm"}, {"actuator_gainprm": [[1]] * 5 + [[0]]}),
        ("torso-mass:2", {*MASSES, "actuator_acc0", "cam_poscom0", "light_poscom0"}, {}),
    ],
)
def test_what_changes_in_half_cheetah(text: str, fields: set[str], expected: dict[str, Any]) -> None:
    """The numbers are those of gymnasium's half_cheetah.xml."""
    drifting, whole = _task("HalfCheetah-v5", text), make("HalfCheetah-v5")._environment.unwrapped.model
    model = drifting.unwrapped.model
    assert _differences(model, whole) == fields
    for name, values in expected.items():
        array = _arrays(model)[name]
        assert (array[:, :1] if name == "actuator_gainprm" else array).tolist() == values
    if text == "torso-mass:2":
        torso = 1
        assert (model.body_mass[1:] / whole.body_mass[1:]).tolist() == [2] + [1] * 6
        assert (model.body_inertia[torso] == 2 * whole.body_inertia[torso]).all()
        assert model.body_subtreemass[torso] == pytest.approx(14 + whole.body_mass[torso], rel=1e-12)


# What it does to the physics, by hand.


def _acceleration(environment: DriftingEnvironment, joint: int, control: float = 0.0, velocity: float = 0.0) -> float:
    environment.reset(seed=0)
    data = environment.unwrapped.data
    data.ctrl[0], data.qvel[joint] = control, velocity
    mujoco.mj_forward(environment.unwrapped.model, data)
    return float(data.qacc[joint])


def test_gravity_twice_doubles_free_fall() -> None:
    for text, expected in (("gravity:1", -9.81), ("gravity:2", -19.62), ("gravity:0.5", -4.905)):
        assert _acceleration(_drifting(Cart(), text), joint=1) == pytest.approx(expected, rel=1e-9)


def test_a_heavier_torso_accelerates_less() -> None:
    """On the rail: 4 N; arm and tool are 0.625 kg, and lie along it, so that no joint bends."""
    for strength in (1, 2.5):
        heavy = _drifting(Cart(gravity="0 0 0"), f"torso-mass:{strength}")
        assert _acceleration(heavy, 0, control=1) == pytest.approx(4 / (2 * strength + 0.625), rel=1e-6)


def test_friction_brakes_in_proportion_and_only_where_there_is_an_actuator() -> None:
    for strength in (1, 3):
        worn = _drifting(Cart(gravity="0 0 0"), f"joint-friction:{strength}")
        assert _acceleration(worn, 0, velocity=1) == pytest.approx(-0.75 * strength / 2.625, rel=1e-6)
        worn.reset(seed=0)
        worn.unwrapped.data.qvel[1] = 1
        mujoco.mj_forward(worn.unwrapped.model, worn.unwrapped.data)
        assert worn.unwrapped.data.qfrc_damper[:3].tolist() == [0, -0.5, 0]


def test_an_actuators_force_is_multiplied() -> None:
    for index, expected in ((0, [1, 20, 1]), (1, [4, 5, 1])):
        worn = _drifting(Cart(), f"actuator-gain/{index}:0.25")
        worn.reset(seed=0)
        worn.step([1, 0.5, 1])
        assert (worn.unwrapped.data.actuator_force * [4, 1, 1]).tolist() == expected


# When it happens.


def _run(environment: Any, steps: int, length: int) -> list[bytes]:
    """The bits of each step over episodes of `length` steps; resets are in the step before them."""
    rng, seen = np.random.default_rng(7), []
    for step in range(steps):
        first = environment.reset(seed=step)[0].tobytes() if step % length == 0 else b""
        observation, reward, *_ = environment.step(rng.uniform(-1, 1, environment.action_space.shape))
        seen.append(first + observation.tobytes() + np.float64(reward).tobytes())
    return seen


@pytest.mark.parametrize("kind", DEFAULT_STRENGTHS)
@pytest.mark.parametrize("at_step", [25, 50])
def test_all_is_the_same_to_the_bit_until_the_step_and_different_ever_after(kind: str, at_step: int) -> None:
    """Step 25 is in the middle of an episode of 20 steps, and step 50 too; resets at 40, 60, 80 undo nothing."""
    whole = _run(make("HalfCheetah-v5")._environment, 90, length=20)
    drifting = _task("HalfCheetah-v5", f"{kind}@{at_step}")
    worn = _run(drifting, 90, length=20)
    same = [one == other for one, other in zip(whole, worn, strict=True)]
    assert same == [True] * at_step + [False] * (90 - at_step)
    assert drifting.steps == 90


def test_a_drift_at_a_reset_is_in_its_first_observation() -> None:
    drifting = _drifting(Robot(), "sensor-bias:0.5@3")
    true = [Robot().reset(seed=seed)[0] for seed in (0, 1)]
    assert drifting.reset(seed=0)[0].tolist() == true[0].tolist()
    for _ in range(3):
        assert drifting.active == ()
        drifting.step(np.zeros(2))
    assert drifting.reset(seed=1)[0].tolist() == (true[1] + 0.5).tolist()
    assert [str(drift) for drift in drifting.active] == ["sensor-bias:0.5@3"]


@pytest.mark.parametrize("kind", DEFAULT_STRENGTHS)
def test_a_restarted_process_goes_on_where_it_was(kind: str) -> None:
    """Episodes of 10 steps, drift at 15: a process that starts at 10, or at 20, sees what the one from 0 sees."""
    whole = _run(_task("HalfCheetah-v5", f"{kind}@15"), 30, length=10)
    for before in (10, 20):
        restarted = _task("HalfCheetah-v5", f"{kind}@15", steps_before=before)
        assert len(restarted.active) == (before >= 15)
        rng = np.random.default_rng(7)
        rng.uniform(-1, 1, (before, 6))
        observation = restarted.reset(seed=before)[0].tobytes()
        observation += (step := restarted.step(rng.uniform(-1, 1, 6)))[0].tobytes()
        assert observation + np.float64(step[1]).tobytes() == whole[before]


def test_a_step_that_has_just_passed_is_active_from_the_start() -> None:
    assert len(_drifting(Cart(), "gravity@100", steps_before=99).active) == 0
    assert len(_drifting(Cart(), "gravity@100", steps_before=100).active) == 1


def test_apply_makes_all_active_and_changes_nothing_the_second_time() -> None:
    texts = [f"{kind}@{step}" for step, kind in enumerate(DEFAULT_STRENGTHS, 1000)]
    late, early = _drifting(Cart(), *texts), _drifting(Cart(), *(text.split("@")[0] for text in texts))
    late.reset(seed=0)
    assert _differences(late.unwrapped.model, Cart().model) == set()
    for _ in range(3):
        late.apply()
        assert _differences(late.unwrapped.model, early.unwrapped.model) == set()
        assert len(late.active) == 5
    assert _run(late, 20, length=5) == _run(early, 20, length=5)
    assert _differences(late.unwrapped.model, early.unwrapped.model) == set()


def test_of_two_drifts_of_one_thing_the_later_counts_and_they_do_not_multiply() -> None:
    drifting = _drifting(Cart(), "gravity:3@20", "gravity:2@10", "sensor-bias:5@20", "sensor-bias/0:1@10")
    seen = []
    for _ in range(3):
        observation = drifting.reset(seed=0)[0]
        seen.append((drifting.unwrapped.model.opt.gravity.tolist(), observation[:2].tolist()))
        for _ in range(10):
            drifting.step(np.zeros(3))
    assert seen == [([0.5, 0, -9.81], [0, 0]), ([1, 0, -19.62], [1, 0]), ([1.5, 0, -9.81 * 3], [5, 5])]


def test_drifts_of_different_things_add_up() -> None:
    model = _drifting(Cart(), "actuator-gain/0:0.5", "actuator-gain/1:0.25", "gravity:2").unwrapped.model
    assert model.actuator_gainprm[:, 0].tolist() == [0.5, 10, 1]
    assert model.opt.gravity.tolist() == [1, 0, -19.62]


# Sensors.


class _Camera(Robot):
    """Observations of any data type and shape, as one array that is reused."""

    def __init__(self, observation: Array) -> None:
        super().__init__()
        self.observation = observation
        self.observation_space = Box(-10, 10, observation.shape, observation.dtype.type)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return self.observation, {}


@pytest.mark.parametrize(
    ("given", "dtype"),
    [(np.float64, np.float64), (np.float32, np.float32), (np.int8, np.float32)],
)
def test_a_bias_is_added_to_observations_of_any_box(given: type, dtype: type) -> None:
    true: Array = np.asfortranarray(np.array([[1, 2, 3], [4, 5, 6]], given))
    every = _drifting(_Camera(true), "sensor-bias:0.25").reset()[0]
    one = _drifting(_Camera(true), "sensor-bias/3:0.25").reset()[0]
    assert every.dtype == one.dtype == dtype
    assert every.tolist() == [[1.25, 2.25, 3.25], [4.25, 5.25, 6.25]]
    assert one.tolist() == [[1, 2, 3], [4.25, 5, 6]]
    assert true.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert _drifting(_Camera(true), "sensor-bias:0.25@1").reset()[0] is true


def test_a_bias_leaves_physics_and_rewards_alone() -> None:
    whole, biased = _drifting(Cart()), _drifting(Cart(), "sensor-bias:3")
    whole.reset(seed=0)
    biased.reset(seed=0)
    for _ in range(10):
        true, reward, *_ = whole.step(np.ones(3))
        seen, same, *_ = biased.step(np.ones(3))
        assert (seen == true + 3).all()
        assert reward == same != 0


# What cannot drift.


class _Renewed(Cart):
    """Compiles its model again for each episode."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.__init__()  # type: ignore[misc]
        return super().reset(seed=seed, options=options)


class _World(Cart):
    def __init__(self) -> None:
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string("<mujoco/>")


MUSCLES = (
    '<muscle joint="rail" lengthrange="0 1"/>',
    '<general joint="rail" lengthrange="0 1" gaintype="muscle" gainprm="0.75 1.05 -1 200 0.5 1.6 1.5 1.3 1.2"/>',
    '<general joint="rail" lengthrange="0 1" biastype="muscle" biasprm="0.75 1.05 -1 200 0.5 1.6 1.5 1.3 1.2"/>',
)


@pytest.mark.parametrize(
    ("environment", "text", "problem"),
    [
        (Robot, "gravity", r"Robot has no MuJoCo model; drift gravity:\S+@0 needs one \(sensor-bias does not\)"),
        (Robot, "sensor-bias/4:1", r"Robot has 4 observations; drift sensor-bias/4:1.0@0 needs an index in \[0, 3\]"),
        (DictRobot, "sensor-bias:1", "DictRobot has Dict observations; drift sensor-bias:1.0@0 needs a Box"),
        (Cart, "actuator-gain/3:1", "Cart has 3 actuators; drift actuator-gain/3:1.0@0 needs number 3, counted from 0"),
        (_World, "actuator-gain:1", "_World has 0 actuators; drift actuator-gain:1.0@0 needs number 0, counted from 0"),
        (_World, "torso-mass:1", "_World has no body but the world; drift torso-mass:1.0@0 needs one"),
        (
            _World,
            "joint-friction:2",
            "_World has only zeros where drift joint-friction:2.0@0 multiplies; choose",
        ),
        (lambda: Cart(gravity="0 0 0"), "gravity:2", "Cart has only zeros where drift gravity:2.0@0 multiplies"),
        (object, "gravity", "object cannot drift; expected a gymnasium.Env"),
    ],
)
def test_environments_that_cannot_drift(environment: Any, text: str, problem: str) -> None:
    made = environment()
    with pytest.raises(EnvironmentError, match=rf"^{problem}[^\n]*$"):
        _drifting(made, text)


@pytest.mark.parametrize("muscle", MUSCLES)
def test_a_muscles_force_is_not_proportional_to_its_parameters(muscle: str) -> None:
    with pytest.raises(
        EnvironmentError, match=r"^actuator 3 of Cart is not a motor or servo; drift actuator-gain/3:0.0@0 "
    ):
        _drifting(Cart(fourth=muscle), "actuator-gain/3:0")


def test_an_environment_that_makes_a_new_model_is_named() -> None:
    renewed = _drifting(_Renewed(), "gravity:2")
    with pytest.raises(
        EnvironmentError, match="_Renewed made a new model at reset; expected it to keep the one that drifts"
    ):
        renewed.reset(seed=0)


def test_swimmers_joints_have_no_friction_to_multiply() -> None:
    with pytest.raises(EnvironmentError, match=r"^Swimmer-v5 has only zeros where drift joint-friction:3.0@0 "):
        _task("Swimmer-v5", "joint-friction:3")


# In edgerl.


@pytest.mark.parametrize("name", TASKS)
def test_the_five_tasks_stay_finite_with_all_defaults_at_once(name: str) -> None:
    environment = Environment(name, _task(name, *DEFAULT_STRENGTHS))
    assert environment.own_episode_limit == 1000
    rng = np.random.default_rng(0)
    environment.reset(0)
    for seed in range(100):  # Environment raises for what is not finite
        action = environment.scale(rng.uniform(-1, 1, environment.n_actions).astype(np.float32))
        if environment.step(action)[2]:
            environment.reset(seed)
    environment.close()


def test_the_import_loads_neither_mujoco_nor_torch() -> None:
    program = "import sys, edgerl.environments.drift\nprint(*{'mujoco', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

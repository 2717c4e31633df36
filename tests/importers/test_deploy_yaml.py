"""deploy.yaml of Unitree's robots: in the layout of its exporter, and whatever else may be in such a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgerl
from edgerl.errors import FileFormatError, UnsupportedModelError
from edgerl.importers import deploy_yaml
from edgerl.policy.contract import Contract
from tests.foreign import write_actor
from tests.importers.files import deploy, write_deploy

Run = Callable[..., tuple[int, str, str]]

SIZES = {"base_ang_vel": 3, "joint_pos_rel": 2, "last_action": 2}

FULL = Contract(
    step_dt=(0.02,),
    observation_names=("base_ang_vel", "joint_pos_rel", "last_action"),
    observation_terms_size=(3, 2, 2),
    observation_terms_scale=((0.5,), (0.5,), (0.5,)),
    observation_terms_flatten_history_dim=(1, 1, 1),
    observation_terms_history_length=(5, 5, 5),
    command_names=("base_velocity",),
    joint_ids_map=(1, 0),
    default_joint_pos=(0.1, 0.2),
    joint_stiffness=(20.0, 10.0),
    joint_damping=(2.0, 1.0),
    action_scale=(0.25, 0.25),
    action_offset=(0.1, 0.2),
)
"""Gains are those of each joint's motor; Unitree writes them in the order of motors."""


def test_what_the_exporter_writes(tmp_path: Path) -> None:
    path = write_deploy(tmp_path / "deploy.yaml", deploy(SIZES, 2, history=5))
    assert "!!python/object/apply:builtins.slice" in path.read_text()
    assert deploy_yaml.read(path) == FULL


def test_clips_scales_and_two_actions(tmp_path: Path) -> None:
    stated = deploy(SIZES, 2)
    stated["observations"]["joint_pos_rel"] |= {"scale": [1, 0.05], "clip": [-100.0, math.inf]}
    del stated["observations"]["last_action"]["history_length"]
    action = stated["actions"]["JointPositionAction"] | {"clip": [[-1.0, 1.0], [-math.inf, 2.0]], "joint_ids": [0, 1]}
    stated["actions"] = {"JointPositionAction": action, "JointVelocityAction": action | {"scale": [3.0, 4.0]}}
    contract = deploy_yaml.read(write_deploy(tmp_path / "deploy.yaml", stated))
    assert contract.observation_terms_scale == ((0.5,), (1, 0.05), (0.5,))
    assert contract.observation_terms_clip == ((-math.inf, math.inf), (-100, math.inf), (-math.inf, math.inf))
    assert contract.observation_terms_history_length == (1, 1, 1)
    assert contract.action_scale == (0.25, 0.25, 3, 4)
    assert contract.action_clip == ((-1, 1), (-math.inf, 2)) * 2


@pytest.mark.parametrize("gains", [[1.0, 2.0, 3.0], [1.0, 9.0, 2.0, 9.0, 3.0]])
def test_motors_without_a_joint(gains: list[float], tmp_path: Path) -> None:
    """A robot of 23 joints may have the numbers of one of 29, and gains for those or for all."""
    stated = deploy(SIZES, 3) | {"joint_ids_map": [4, 0, 2], "stiffness": gains, "damping": gains}
    assert deploy_yaml.read(write_deploy(tmp_path / "deploy.yaml", stated)).joint_stiffness == (3, 1, 2)


def test_it_goes_into_the_policy_beside_what_the_file_says(tmp_path: Path) -> None:
    model = onnx.load(write_actor(tmp_path / "actor.onnx", [], n_observations=35, n_actions=2))
    names = {"observation_names": "a,b,c", "joint_names": "left,right", "joint_stiffness": "1.000,2.000"}
    onnx.helper.set_model_props(model, names)
    onnx.save(model, tmp_path / "actor.onnx")
    path = write_deploy(tmp_path / "deploy.yaml", deploy(SIZES, 2, history=5))
    report = edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors", contract=path)
    contract = edgerl.load(tmp_path / "policy.safetensors").contract
    assert contract == report.policy.contract
    assert contract.joint_names == ("left", "right")
    assert contract.joint_stiffness == (20, 10)
    assert contract.observation_names == FULL.observation_names
    exported = edgerl.export_policy(tmp_path / "policy.safetensors", "onnx", tmp_path / "again.onnx").path
    properties = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert properties["observation_terms_scale"] == "0.5,0.5,0.5"
    assert properties["step_dt"] == "0.02"


def test_of_another_robot_than_the_policys(tmp_path: Path) -> None:
    actor = write_actor(tmp_path / "actor.onnx", n_observations=34, n_actions=2)
    path = write_deploy(tmp_path / "deploy.yaml", deploy(SIZES, 2, history=5))
    problem = "cannot become a policy: it has terms of 35 numbers, with their history, for 34 observations"
    with pytest.raises(UnsupportedModelError, match=problem):
        edgerl.import_policy(actor, tmp_path / "policy.safetensors", contract=path)
    model = onnx.load(write_actor(tmp_path / "actor.onnx", n_observations=35, n_actions=2))
    onnx.helper.set_model_props(model, {"joint_names": "a,b,c"})
    onnx.save(model, tmp_path / "actor.onnx")
    with pytest.raises(FileFormatError, match="together they have 2 items of default_joint_pos for 3 joint_names"):
        edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors", contract=path)
    assert not (tmp_path / "policy.safetensors").exists()


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in zip("abcd", "bcde", strict=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; expected a deploy.yaml of unitree_rl_lab"),
        ("{}", "is JSON text; expected a deploy.yaml"),
        ("hello", "it has no mapping of names to values"),
        ("- 1", "it has no mapping of names to values"),
        ("a: [", "it has no YAML: while parsing"),
        ("a: " + "[" * 20_000, "it has no YAML: maximum recursion depth exceeded"),
        (BOMB, "it has no YAML: an alias, expected every value in its own place"),
        (MERGES, "it has no YAML: an alias, expected every value in its own place"),
        ("a: 1\na: 2", "it has no YAML: a name twice in one mapping"),
        ("a: !!python/object/apply:os.system [touch evil]", "it has no YAML: could not determine a constructor"),
        ("a: !!python/name:os.system ''", "it has no YAML: could not determine a constructor"),
        ("a: !!int ''", "it has no YAML: "),
        ("a: !!timestamp x", "it has no YAML: "),
        ("a: " + "9" * 60_000, "it has "),
        ("a: !!float 1:" + "9" * 60_000, "it has "),
        ("a: " + "x" * 70_000, "of 70003 bytes; expected at most 65536"),
        ("default_joint_pos: 3", "it has default_joint_pos of 3, expected a list of 1 to 4096"),
    ],
)
def test_hostile_text_is_one_line(text: str, problem: str, edgerl: Run) -> None:
    write_actor(Path("actor.onnx"), n_observations=35, n_actions=2)
    Path("deploy.yaml").write_text(text)
    code, out, err = edgerl("import", "actor.onnx", "--contract", "deploy.yaml")
    assert (code, out, err.count("\n")) == (2, "", 1), err[-300:]
    assert problem in err
    assert "deploy.yaml" in err
    assert not Path("evil").exists()
    assert not Path("policy.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"step_dt": None}, "step_dt of None"),
        ({"step_dt": "fast"}, "step_dt of 'fast'"),
        ({"step_dt": -1}, "step_dt of "),
        ({"stiffness": [1.0, 2.0, 3.0, 4.0]}, None),  # more motors than joints
        ({"stiffness": [1.0]}, "1 gains for the 2 motors of joint_ids_map"),
        ({"stiffness": ["a", "b"]}, "joint_stiffness of 'b'"),
        ({"joint_ids_map": [0, 0]}, "joint_ids_map with a number below 0, or with one twice"),
        ({"joint_ids_map": ["a", 1]}, "a joint_ids_map of other things than whole numbers"),
        ({"joint_ids_map": [0]}, "joint_ids_map"),
        ({"actions": None}, "no actions, expected a mapping of mappings"),
        ({"actions": {"JointPositionAction": {"scale": 1.0}}}, "scale of 1.0, expected a list"),
        ({"actions": {"a": {"scale": [1.0], "offset": [1.0], "joint_ids": [1]}}}, "an action with joint_ids"),
        ({"observations": {"policy": {"term": {"scale": [1.0]}}}}, "scale of None, expected a list"),
        ({"observations": {"a": {"scale": []}}}, "scale of [], expected a list"),
        ({"observations": {"a": {"scale": [1.0], "clip": 3}}}, "observation_terms_clip whose items are not lists"),
        ({"observations": {"a": {"scale": [1.0], "history_length": "many"}}}, "history_length of 'many'"),
        ({"observations": {"a": {"scale": [math.nan]}}}, "observation_terms_scale of nan"),
        ({"observations": {3: {"scale": [1.0]}}}, "observation_names of 3"),
    ],
)
def test_other_contents_are_one_line(changes: dict[str, Any], problem: str | None, tmp_path: Path) -> None:
    path = write_deploy(tmp_path / "deploy.yaml", deploy(SIZES, 2) | changes)
    if problem is None:
        deploy_yaml.read(path)
        return
    with pytest.raises(FileFormatError) as caught:
        deploy_yaml.read(path)
    assert problem in str(caught.value)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = write_deploy(tmp_path / "deploy.yaml", deploy(SIZES, 2)).read_bytes()
    path, refused = tmp_path / "mutated.yaml", 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            data[at : at + int(rng.integers(0, 4))] = rng.integers(32, 127, rng.integers(0, 3), np.uint8).tobytes()
        path.write_bytes(data)
        try:
            deploy_yaml.read(path)
        except FileFormatError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100

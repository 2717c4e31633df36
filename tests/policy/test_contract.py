"""What a robot must know: from mjlab's ONNX files to ours and back, and nothing hostile in between."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgerl
from edgerl.commands.export import export_policy
from edgerl.errors import FileFormatError
from edgerl.files.tensors import pack_tensors, unpack_tensors
from edgerl.policy import format as policy_file
from edgerl.policy.contract import UNKNOWN, Contract, check_sizes, from_dict, from_text
from tests.foreign import write_actor

from .policies import random_policy

MJLAB = {
    "run_path": "logs/velocity",
    "observation_names": "base_lin_vel,joint_pos,command",
    "observation_terms_scale": "1.000,0.050;0.100,1.000",
    "observation_terms_flatten_history_dim": "1.000,1.000,0.000",
    "observation_terms_history_length": "5.000,5.000,0.000",
    "observation_terms_clip": "-inf;inf,-1.000;2.000,-inf;3.000",
    "command_names": "twist",
    "joint_names": "left_hip,right_hip",
    "default_joint_pos": "-0.100,0.300",
    "joint_stiffness": "40.179,99.098",
    "joint_damping": "2.558,6.309",
    "action_scale": "0.548,0.351",
}
"""As its exporter writes them: numbers with three decimals, lists inside a list between semicolons."""

KNOWN = Contract(
    observation_names=("base_lin_vel", "joint_pos", "command"),
    observation_terms_scale=((1.0,), (0.05, 0.1), (1.0,)),
    observation_terms_clip=((-math.inf, math.inf), (-1.0, 2.0), (-math.inf, 3.0)),
    observation_terms_flatten_history_dim=(1, 1, 0),
    observation_terms_history_length=(5, 5, 0),
    command_names=("twist",),
    joint_names=("left_hip", "right_hip"),
    default_joint_pos=(-0.1, 0.3),
    joint_stiffness=(40.179, 99.098),
    joint_damping=(2.558, 6.309),
    action_scale=(0.548, 0.351),
)


def test_mjlabs_metadata_is_kept_through_every_file(tmp_path: Path) -> None:
    model = onnx.load(write_actor(tmp_path / "actor.onnx", [], n_observations=7, n_actions=2))
    onnx.helper.set_model_props(model, MJLAB)
    onnx.save(model, tmp_path / "actor.onnx")
    report = edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors")
    assert report.policy.contract == KNOWN == edgerl.load(tmp_path / "policy.safetensors").contract
    assert edgerl.info(tmp_path / "policy.safetensors")["contract"]["joint_names"] == ["left_hip", "right_hip"]
    export_policy(tmp_path / "policy.safetensors", "onnx", tmp_path / "again.onnx")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "again.onnx").metadata_props}
    assert from_text(properties) == KNOWN
    assert properties["joint_stiffness"] == "40.179,99.098"
    for name in ("actor.onnx", "again.onnx"):
        assert edgerl.info(tmp_path / name)["contract"] == KNOWN.as_dict()
    assert edgerl.import_policy(tmp_path / "again.onnx", tmp_path / "p.safetensors").policy.contract == KNOWN


def test_a_policy_without_one_is_written_as_before() -> None:
    policy = random_policy(0)
    assert policy.contract is UNKNOWN
    assert b"contract" not in policy_file.to_bytes(policy)
    contract = replace(KNOWN, joint_names=("a", "b", "c"), default_joint_pos=(), action_scale=(0.5,))
    known = policy_file.from_bytes(policy_file.to_bytes(replace(policy, contract=contract)), Path("p"))
    assert (known.contract, policy_file.version_of(known)) == (contract, 1)


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ([], "a contract of other keys"),
        ({"gains": [1.0]}, "a contract of other keys"),
        ({"joint_names": "hip"}, "joint_names that is not a list"),
        ({"joint_names": ["a,b"]}, "joint_names of 'a,b'"),
        ({"joint_names": ["a\n"]}, "joint_names of"),
        ({"joint_names": [""]}, "joint_names of ''"),
        ({"joint_names": ["x" * 201]}, "joint_names of"),
        ({"action_scale": [True]}, "action_scale of True"),
        ({"action_scale": ["1"]}, "action_scale of '1'"),
        ({"action_scale": [1e999]}, "action_scale of inf"),
        ({"action_scale": [1.0] * 4097}, "action_scale that is not a list of at most 4096"),
        ({"observation_terms_history_length": [1.5]}, "history_length of 1.5"),
        ({"observation_terms_history_length": [-1]}, "history_length below 0"),
        ({"joint_names": ["a", "b"], "default_joint_pos": [1.0]}, "1 items of default_joint_pos for 2 joint_names"),
        ({"joint_names": ["a"], "joint_stiffness": [1.0, 2.0]}, "2 numbers of joint_stiffness for 1 joints"),
        ({"joint_damping": [1.0], "joint_stiffness": [1.0, 2.0]}, "1 items of joint_damping for 2 joint_stiffness"),
        ({"joint_ids_map": [0, 0]}, "joint_ids_map with a number below 0, or with one twice"),
        ({"observation_names": ["a"], "observation_terms_size": [1, 2]}, "2 items of observation_terms_size for 1"),
        ({"observation_terms_size": [0]}, "observation_terms_size below 1"),
        ({"observation_terms_scale": [1.0]}, "observation_terms_scale whose items are not lists"),
        ({"observation_terms_scale": [[]]}, "observation_terms_scale whose items are not lists"),
        ({"observation_terms_size": [3], "observation_terms_scale": [[1.0, 2.0]]}, "2 numbers of .* for a term of 3"),
        ({"observation_terms_clip": [[1.0]]}, "observation_terms_clip of 1 numbers instead of a low one and a high"),
        ({"observation_terms_clip": [[1.0, -1.0]]}, "observation_terms_clip from 1.0 to -1.0"),
        ({"action_clip": [[None, True]]}, "action_clip of True"),
        (
            {"observation_terms_history_length": [2], "observation_terms_flatten_history_dim": [0]},
            "observation_terms_flatten_history_dim of 0 for a term with a history",
        ),
        ({"step_dt": [0.02, 0.02]}, "step_dt of .*, expected one number of seconds above 0"),
        ({"step_dt": [0.0]}, "step_dt of .*, expected one number of seconds above 0"),
        # of another policy than this one, of 5 observations and 3 actions
        ({"observation_terms_size": [2], "observation_terms_history_length": [2]}, "terms of 4 numbers, .* for 5 obs"),
        ({"observation_terms_size": [1 << 80]}, "terms of 1208925819614629174706176 numbers, with their history"),
        ({"action_scale": [1.0, 2.0]}, "2 numbers of action_scale for 3 actions"),
        ({"action_offset": [1.0]}, "1 items of action_offset for 3 actions"),
        ({"joint_names": ["a", "b"]}, "2 joints for 3 actions"),
    ],
)
def test_a_hostile_contract_is_refused(stated: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_sizes(from_dict(stated), 5, 3)
    if "inf" in problem:
        return
    metadata, tensors = unpack_tensors(policy_file.to_bytes(random_policy(0)), Path("p"), "policy", (1,))
    metadata = {key: value for key, value in metadata.items() if key not in ("kind", "version", "sha256")}
    with pytest.raises(FileFormatError, match="is not valid: it has"):
        policy_file.from_bytes(pack_tensors("policy", 1, metadata | {"contract": stated}, tensors), Path("p"))


def test_lists_in_mjlabs_first_words() -> None:
    """As Python prints them, before semicolons came."""
    contract = from_text({"observation_terms_clip": "[-inf, inf],[-1.0, 1.0]", "action_scale": "[0.5, 0.25]"})
    assert contract.observation_terms_clip == ((-math.inf, math.inf), (-1, 1))
    assert contract.action_scale == (0.5, 0.25)


def test_a_robot_may_have_more_joints_than_motors() -> None:
    """mjlab names all joints, and has gains for those with an actuator."""
    names = {"joint_names": "hip,knee", "default_joint_pos": "0.000,0.100", "joint_stiffness": "20.000"}
    check_sizes(from_text(names), 5, 1)


@pytest.mark.parametrize("text", ["1.0,x", "1.0,,2", ",1", "1,", "[", "nan", "1e400"])
def test_text_that_is_no_number(text: str, tmp_path: Path) -> None:
    model = onnx.load(write_actor(tmp_path / "actor.onnx"))
    onnx.helper.set_model_props(model, {"action_scale": text})
    onnx.save(model, tmp_path / "actor.onnx")
    with pytest.raises(FileFormatError, match="its metadata has action_scale of"):
        edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors")

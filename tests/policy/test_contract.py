"""What a robot must know: from mjlab's ONNX files to ours and back, and nothing hostile in between."""

from __future__ import annotations

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
from edgerl.policy.contract import UNKNOWN, Contract, from_dict, from_text
from tests.foreign import write_actor

from .policies import random_policy

MJLAB = {
    "run_path": "logs/velocity",
    "observation_names": "base_lin_vel,joint_pos,command",
    "observation_terms_scale": "1.000,0.050,1.000",
    "observation_terms_history_length": "5.000,5.000,0.000",
    "observation_term_clip": "[-inf, inf],[-inf, inf],[-inf, inf]",
    "command_names": "twist",
    "joint_names": "left_hip,right_hip",
    "default_joint_pos": "-0.100,0.300",
    "joint_stiffness": "40.179,99.098",
    "joint_damping": "2.558,6.309",
    "action_scale": "0.548,0.351",
}
"""As its exporter writes them (PR 903 with the terms'), numbers with three decimals."""

KNOWN = Contract(
    observation_names=("base_lin_vel", "joint_pos", "command"),
    observation_terms_scale=(1.0, 0.05, 1.0),
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
    assert edgerl.import_policy(tmp_path / "again.onnx", tmp_path / "p.safetensors").policy.contract == KNOWN


def test_a_policy_without_one_is_written_as_before() -> None:
    policy = random_policy(0)
    assert policy.contract is UNKNOWN
    assert b"contract" not in policy_file.to_bytes(policy)
    known = policy_file.from_bytes(policy_file.to_bytes(replace(policy, contract=KNOWN)), Path("p"))
    assert (known.contract, policy_file.version_of(known)) == (KNOWN, 1)


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
        ({"joint_names": ["a", "b"], "joint_damping": [1.0]}, "1 numbers of joint_damping for 2 joint_names"),
    ],
)
def test_a_hostile_contract_is_refused(stated: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_dict(stated)
    if "inf" in problem:
        return
    metadata, tensors = unpack_tensors(policy_file.to_bytes(random_policy(0)), Path("p"), "policy", (1,))
    metadata = {key: value for key, value in metadata.items() if key not in ("kind", "version", "sha256")}
    with pytest.raises(FileFormatError, match="is not valid: it has"):
        policy_file.from_bytes(pack_tensors("policy", 1, metadata | {"contract": stated}, tensors), Path("p"))


@pytest.mark.parametrize("text", ["1.0,x", "1.0,,2", "nan", "1e400"])
def test_text_that_is_no_number(text: str, tmp_path: Path) -> None:
    model = onnx.load(write_actor(tmp_path / "actor.onnx"))
    onnx.helper.set_model_props(model, {"action_scale": text})
    onnx.save(model, tmp_path / "actor.onnx")
    with pytest.raises(FileFormatError, match="its metadata has action_scale of"):
        edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors")

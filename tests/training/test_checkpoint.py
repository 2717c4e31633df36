"""A checkpoint's round trip, and what its reader refuses; all hostile files carry a valid checksum."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.config import make_config
from edgerl.errors import FileFormatError
from edgerl.files.atomic import read_bytes
from edgerl.files.tensors import pack_tensors, unpack_tensors
from edgerl.policy import format as policy_file
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from tests.policy.policies import assert_same, random_policy

PATH = Path("checkpoint.safetensors")
Metadata = dict[str, Any]
Tensors = dict[str, Any]
Change = Callable[[Metadata, Tensors], None]


def _checkpoint() -> Checkpoint:
    return Checkpoint(
        config=make_config("quick", seed=7, environment="robots:robot", normalize=True, hidden=(9, 7)),
        counters=Counters(step=20_000, episode=541, replay_count=19_999, metrics_rows=4, elapsed_seconds=12.5),
        policy=random_policy(0, (4, 9, 7, 2)),
        returns=Returns(last=-3.5, best=1e-05),
        tensors={
            "actor.0.weight": np.random.default_rng(0).normal(size=31).astype(np.float32),
            "actor.0.mask": np.arange(5, dtype=np.uint8),
            "agent.counters": np.array([1, 0, 2, 3], np.int64),
            "normalizer.count": np.array(541, np.int64),
        },
    )


@pytest.mark.parametrize("returns", [Returns(), Returns(last=-3.5, best=2.0)])
def test_round_trip(returns: Returns) -> None:
    written = replace(_checkpoint(), returns=returns)
    checkpoint_file.write(PATH, written)
    found = checkpoint_file.read(PATH)
    assert found.config == written.config
    assert found.counters == written.counters
    assert found.returns == returns
    assert_same(found.policy, written.policy)
    assert found.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert found.tensors[name].tobytes() == tensor.tobytes()
    before = PATH.read_bytes()
    checkpoint_file.write(PATH, found)
    assert PATH.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == [PATH.name]


def test_its_policy_is_a_policy_file() -> None:
    written = _checkpoint()
    checkpoint_file.write(PATH, written)
    _, tensors = unpack_tensors(read_bytes(PATH), PATH, "checkpoint", 1)
    assert tensors["policy"].tobytes() == policy_file.to_bytes(written.policy)


def test_reading_needs_no_torch() -> None:
    import subprocess
    import sys

    program = "import sys, edgerl.training.checkpoint; print([m for m in sys.modules if m in ('torch', 'gymnasium')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What is refused.


def _parts() -> tuple[Metadata, Tensors]:
    checkpoint = _checkpoint()
    metadata = {
        "config": dataclasses.asdict(checkpoint.config),
        "counters": dataclasses.asdict(checkpoint.counters),
        "returns": dataclasses.asdict(checkpoint.returns),
    }
    policy = np.frombuffer(policy_file.to_bytes(checkpoint.policy), np.uint8)
    return json.loads(json.dumps(metadata)), {**checkpoint.tensors, "policy": policy}


def _write(metadata: Metadata, tensors: Tensors) -> None:
    PATH.write_bytes(pack_tensors("checkpoint", 1, metadata, tensors))


def _set(section: str, key: str, value: Any, *, inner: str | None = None) -> Change:
    def change(metadata: Metadata, _: Tensors) -> None:
        (metadata[section] if inner is None else metadata[section][inner])[key] = value

    return change


def _replace(section: str, value: Any) -> Change:
    return lambda metadata, _: metadata.update({section: value})


def _without(*keys: str) -> Change:
    def change(metadata: Metadata, _: Tensors) -> None:
        *sections, last = keys
        for section in sections:
            metadata = metadata[section]
        del metadata[last]

    return change


def _old_method(method: Any) -> Change:
    """As 0.1.0 wrote a topology."""

    def change(metadata: Metadata, _: Tensors) -> None:
        network = metadata["config"]["network"]
        del network["topology"]
        network["method"] = method

    return change


def _policy(content: Any) -> Change:
    def change(_: Metadata, tensors: Tensors) -> None:
        tensors["policy"] = content(tensors["policy"])

    return change


def _no_policy(_: Metadata, tensors: Tensors) -> None:
    del tensors["policy"]


RANGE = r"expected a number in \[0, 9007199254740992\]"

HOSTILE = {
    "config missing": (_without("config"), "its config is not a JSON object"),
    "config list": (_replace("config", []), "its config is not a JSON object"),
    "counters text": (_replace("counters", "none"), "its counters is not a JSON object"),
    "returns number": (_replace("returns", 3), "its returns is not a JSON object"),
    "config empty": (_replace("config", {}), "network is missing"),
    "section missing": (_without("config", "learning"), "learning is missing"),
    "section list": (_set("config", "network", [1]), "network was written by another version of edgerl"),
    "key missing": (_without("config", "learning", "n_step"), "unknown or missing key 'n_step'"),
    "key surplus": (_set("config", "more\nlines", 1), "unknown or missing key 'more"),
    "seed negative": (_set("config", "seed", -1), "seed is -1; expected a whole number in"),
    "seed huge": (_set("config", "seed", 10**400), "seed is 10000|int too large"),
    "steps huge": (_set("config", "steps", 10**400, inner="schedule"), "steps is 10000|int too large"),
    "hidden number": (_set("config", "hidden", 3, inner="network"), "not iterable|hidden is 3"),
    "hidden none": (_set("config", "hidden", None, inner="network"), "not iterable|hidden is None"),
    "hidden nested": (_set("config", "hidden", [[3]], inner="network"), r"hidden is \[3\]"),
    "hidden empty": (_set("config", "hidden", [], inner="network"), "hidden has 0 layers"),
    "topology": (_set("config", "topology", "dqn", inner="network"), "topology is 'dqn'; expected dense, static, dyn"),
    "topology list": (_set("config", "topology", ["dense"], inner="network"), "topology is .*; expected dense"),
    "method of 0.1.0": (_old_method("dqn"), "method is 'dqn'; expected td3, static-td3, ds-td3"),
    "method of 0.1.0 list": (_old_method(["td3"]), r"method is \['td3'\]; expected td3"),
    "method of 0.1.0 none": (_old_method(None), "topology is missing"),
    "normalize number": (_set("config", "normalize", 1), "normalize is 1; expected bool"),
    "environment none": (_set("config", "environment", None), "environment is None; expected str"),
    "discount text": (_set("config", "discount", "0.9", inner="learning"), "discount is 0.9; expected a number in"),
    "counter missing is its default": (_without("counters", "step"), None),
    "counter surplus": (_set("counters", "more", 1), "unexpected keyword argument 'more'"),
    "counter negative": (_set("counters", "step", -1), f"step is -1; {RANGE}"),
    "counter float": (_set("counters", "episode", 1.0), f"episode is 1.0; {RANGE}"),
    "counter true": (_set("counters", "replay_count", True), f"replay_count is True; {RANGE}"),
    "counter none": (_set("counters", "metrics_rows", None), f"metrics_rows is None; {RANGE}"),
    "counter text": (_set("counters", "step", "1\n2"), rf"step is '1\\n2'; {RANGE}"),
    "counter huge": (_set("counters", "replay_count", 1 << 62), f"replay_count is 4611686018427387904; {RANGE}"),
    "counter enormous": (_set("counters", "elapsed_seconds", 10**400), f"elapsed_seconds is 1000+; {RANGE}"),
    "seconds true": (_set("counters", "elapsed_seconds", True), f"elapsed_seconds is True; {RANGE}"),
    "seconds negative": (_set("counters", "elapsed_seconds", -0.5), f"elapsed_seconds is -0.5; {RANGE}"),
    "return text": (_set("returns", "last", "1"), "a return is '1'; expected a number"),
    "return true": (_set("returns", "best", True), "a return is True; expected a number"),
    "return surplus": (_set("returns", "worst", 1.0), "unexpected keyword argument 'worst'"),
    "policy missing": (_no_policy, "its policy is not a tensor of bytes"),
    "policy of another type": (_policy(lambda p: p.astype(np.float32)), "its policy is not a tensor of bytes"),
    "policy of another shape": (_policy(lambda p: p[None]), "its policy is not a tensor of bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file(change: Change, problem: str | None) -> None:
    metadata, tensors = _parts()
    change(metadata, tensors)
    _write(metadata, tensors)
    if problem is None:
        checkpoint_file.read(PATH)
        return
    expected = rf"^checkpoint\.safetensors is not valid: [^\n]*({problem})[^\n]*; resume from another run, or train"
    with pytest.raises(FileFormatError, match=expected):
        checkpoint_file.read(PATH)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda policy: policy[:-1], "is not an edgerl tensor file, or is truncated"),
        (lambda policy: policy[:0], "its policy, is empty; expected a policy.safetensors"),
        (lambda policy: np.where(np.arange(len(policy)) == 4100, policy ^ 1, policy), "has been altered: its SHA-256"),
        (lambda _: np.frombuffer(pack_tensors("checkpoint", 1, {}, {}), np.uint8), "holds 'checkpoint'; expected"),
        (lambda _: np.frombuffer(pack_tensors("policy", 1, {}, {}), np.uint8), "its layers are not a list"),
    ],
)  # fmt: skip
def test_a_hostile_policy_inside(content: Any, problem: str) -> None:
    metadata, tensors = _parts()
    tensors["policy"] = content(tensors["policy"])
    _write(metadata, tensors)
    with pytest.raises(FileFormatError, match=rf"^checkpoint\.safetensors, [^\n]*{problem}"):
        checkpoint_file.read(PATH)


def test_the_parts_that_the_hostile_ones_differ_from_are_valid() -> None:
    _write(*_parts())
    by_hand = PATH.read_bytes()
    checkpoint_file.write(PATH, _checkpoint())
    assert PATH.read_bytes() == by_hand


def test_files_of_another_kind_and_altered_ones() -> None:
    policy_file.save(random_policy(0), PATH)
    problem = "checkpoint.safetensors holds 'policy'; expected 'checkpoint'; name the file of a checkpoint"
    with pytest.raises(FileFormatError, match=f"^{re.escape(problem)}$"):
        checkpoint_file.read(PATH)
    checkpoint_file.write(PATH, _checkpoint())
    data = PATH.read_bytes()
    PATH.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FileFormatError, match=r"has been altered: its SHA-256 does not match its content"):
        checkpoint_file.read(PATH)
    PATH.write_bytes(data[:-1])
    with pytest.raises(FileFormatError, match=r"is not an edgerl tensor file, or is truncated"):
        checkpoint_file.read(PATH)
    PATH.unlink()
    with pytest.raises(FileFormatError, match=r"checkpoint\.safetensors is not there; expected a file"):
        checkpoint_file.read(PATH)

"""`edgerl.export_policy`: what the command does, from Python."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

from edgerl.commands.export import export_policy
from edgerl.errors import CheckFailed, ConfigError, DeviceError
from edgerl.export.c.source import generate
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.profiling.budgets.device import profile_path
from edgerl.profiling.microcontroller import exported
from edgerl.profiling.microcontroller.record import NAME
from tests.edge.learners import learner_config, write_bundle

Command = Callable[..., tuple[int, str, str]]
SMALL_RUN = ("--env", "robots:robot", "--hidden", "16,16", "--preset", "quick", "--steps", "120")


def dense(*widths: int) -> CompactPolicy:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(m, n)).astype(np.float32) / np.float32(n) for n, m in pairwise(widths)]
    layers = tuple(make_layer(weight, np.zeros(len(weight), np.float32), 1) for weight in weights)
    bound = np.ones(widths[-1], np.float32)
    return CompactPolicy(layers, -bound, bound).with_example(np.ones(widths[0], np.float32))


@pytest.fixture
def run(edgerl: Command) -> Path:
    """A run folder of 120 steps."""
    assert edgerl("train", *SMALL_RUN)[0] == 0
    return Path("runs/robots-robot-ds-td3-seed0")


@pytest.mark.parametrize("how", ["device", "target"])
def test_the_budgets_of_a_device_are_kept(how: str) -> None:
    """17-256-512-6 in fp32 takes 17·256 + 256·512 + 512·6 weights of 4 bytes, 554 KB, of the 512 KiB of a stm32f411."""
    policy = dense(17, 256, 512, 6)
    flash = tomllib.loads(profile_path("stm32f411").read_text())["memory"]["flash_bytes"]["value"]
    assert flash == 512 << 10
    with pytest.raises(CheckFailed, match=r"takes 5\d\d\.\d KiB of flash on stm32f411, expected at most"):
        export_policy(policy, "c", "code", **{how: "stm32f411"})
    assert not Path("code").exists()
    report = export_policy(policy, "c", "code", **{how: "stm32f411"}, dtype="int8", measure=False)
    assert (report.target, report.dtype) == ("cortex-m4", "int8")
    assert report.flash_bytes < flash
    assert "Target      stm32f411 (cortex-m4)" in Path("code/edgerl_policy.h").read_text()


def test_memory_is_a_budget_of_c_too(tmp_path: Path) -> None:
    """The two buffers between layers take 4 · (128 + 128) bytes, beside the 1024 of the stack."""
    text, source = profile_path("stm32f411").read_text(), 'source = "a test"'
    own = tmp_path / "board.toml"
    own.write_text(re.sub(r"(?m)^memory_bytes = .*$", f"memory_bytes = {{ value = 2047, {source} }}", text))
    with pytest.raises(CheckFailed, match=r"KiB of memory on board, expected at most 2\.0 KiB"):
        export_policy(dense(4, 128, 128, 2), "c", "code", device=own, dtype="int8")


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("onnx", {"dtype": "int8"}, "`dtype` was given, which `format` onnx does not have; leave it out"),
        ("onnx", {"device": "stm32f405"}, "`device` was given, which `format` onnx does not have; leave it out"),
        ("c", {"dtpye": "int8"}, "`dtpye` was given, which `format` c does not have; did you mean dtype"),
        ("c", {"dtype": "int4"}, "`dtype` is 'int4'; expected fp32, fp16, int8"),
        ("c", {"project": 1}, "`project` is 1; expected bool"),
        (
            "c",
            {"target": "cortex-m4", "device": "rp2040"},
            "`target` is cortex-m4 and `device` is rp2040; expected one",
        ),
        ("learner", {}, "`format` learner takes a learner, and this is a policy; name a run folder"),
        ("c-learner", {}, "`format` c-learner takes a learner, and this is a policy; name a run folder"),
        ("c-lerner", {}, "'c-lerner' is not an export format; did you mean c-learner"),
    ],
)
def test_bad_options_are_refused(format: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_policy(dense(3, 4, 2), format, "out", **options)
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["stm32f999", "generic"])
def test_a_device_is_one_that_there_is(name: str) -> None:
    with pytest.raises(DeviceError, match=f"there is no device '{name}'"):
        export_policy(dense(3, 4, 2), "c", "out", device=name)


def test_a_policy_in_memory_needs_a_path() -> None:
    with pytest.raises(ConfigError, match="`path` was not given, and a policy in memory lies in no folder"):
        export_policy(dense(3, 4, 2), "c")


def test_a_policy_in_memory_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hashed as the file that it would be, once, and never read."""
    policy, written = dense(5, 8, 2), []
    to_bytes = policy_file.to_bytes

    def counted(given: CompactPolicy) -> bytes:
        written.append(given)
        return to_bytes(given)

    def never(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(policy_file, "to_bytes", counted)
    monkeypatch.setattr(policy_file, "from_bytes", never)
    monkeypatch.setattr(policy_file, "load", never)
    handed = []
    monkeypatch.setattr(
        "edgerl.export.c.source.generate", lambda given, **more: handed.append(given) or generate(given, **more)
    )
    export_policy(policy, "onnx", "policy.onnx")
    export_policy(policy, "c", "code", device="stm32f405")
    assert len(written) == 2
    assert handed[0] is policy


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_comparison_on_an_emulated_core_is_reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = dense(5, 8, 2)
    report = export_policy(policy, "c", "code", target="cortex-m4", measure=True)
    assert report.measured is not None
    figures = report.measured.as_dict()
    assert (figures["core"], report.as_dict()["measured"]) == ("cortex-m4f", figures)
    assert 0 <= figures["largest_difference"] < 1e-5
    assert json.loads((tmp_path / "code" / NAME).read_text())["core"] == "cortex-m4f"
    monkeypatch.setattr(exported, "LARGEST_DIFFERENCE", {"fp32": -1.0})
    with pytest.raises(CheckFailed, match="on an emulated cortex-m4f differs from the policy by"):
        export_policy(policy, "c", "code", target="cortex-m4", measure=True, force=True)


COMPARED = (
    ("onnx", ("--sparse-initializers",), {"sparse_initializers": True}),
    ("c", ("--dtype", "int8", "--no-measure", "--project"), {"dtype": "int8", "measure": False, "project": True}),
    ("c-learner", ("--replay", "150", "--target", "teensy-4.1"), {"replay": 150, "target": "teensy-4.1"}),
    ("learner", ("--memory", "200kB", "--replay-dtype", "fp16"), {"memory": 200_000, "replay_dtype": "fp16"}),
)


@pytest.mark.parametrize(("format", "flags", "options"), COMPARED)
def test_the_command_and_the_function_say_and_write_the_same(
    edgerl: Command, run: Path, format: str, flags: tuple[str, ...], options: dict[str, Any]
) -> None:
    code, out, err = edgerl("export", run, "--format", format, *flags, "--json")
    assert code == 0, err
    said = json.loads(out)
    output = Path(said["path"])
    written = {path: path.read_text() for path in output.rglob("*.[ch]")} or {output: output.read_bytes()}
    report = export_policy(run, format, **options)
    assert json.loads(json.dumps(report.as_dict())) == said
    again = {path: path.read_text() for path in output.rglob("*.[ch]")} or {output: output.read_bytes()}
    command = re.compile(r"Command     .*")  # the header says what made it
    assert [command.sub("", text) if isinstance(text, str) else text for text in written.values()] == [
        command.sub("", text) if isinstance(text, str) else text for text in again.values()
    ]


def test_without_a_name_it_is_the_latest_run_which_is_said(run: Path) -> None:
    said: list[str] = []
    assert export_policy(notice=said.append).path == run / "policy.onnx"
    assert export_policy(None, "learner", notice=said.append).path == run / "learner.safetensors"
    assert said == [f"using {run / 'policy.safetensors'}", f"using {run}"]


def test_a_learner_in_a_file_becomes_c(tmp_path: Path) -> None:
    path = write_bundle(config=learner_config())
    report = export_policy(path, "c-learner", prefix="arm", batch=4)
    assert report.path == path.parent / "learner-c"
    assert [file.name for file in report.paths] == ["arm.h", "arm.c"]
    assert report.sizes.ram > 0
    assert (report.budget, report.action_difference) == (None, None)
    budget = export_policy(path, "c-learner", tmp_path / "other", device="teensy-4.1").budget
    assert budget is not None
    assert budget.device == "teensy-4.1"

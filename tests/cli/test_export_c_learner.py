"""`edgerl export --format c --learn`, as a user types it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge.compiled import WARNINGS, compile_c
from tests.edge.learners import learner_config, write_bundle

Run = Callable[..., tuple[int, str, str]]
EXPORT = ("export", "--format", "c", "--learn")


@pytest.fixture(params=["td3", "sac"])
def trained(request: pytest.FixtureRequest, edgerl: Run) -> Path:
    """A run folder that runs/latest points to."""
    options = "--env Pendulum-v1 --preset quick --steps 1100 --hidden 16,16 --sparsity 0.5 --batch-size 100"
    assert edgerl("train", *options.split(), "--algorithm", request.param)[0] == 0
    return Path("runs/latest")


def test_a_run_becomes_two_files_and_says_what_they_take(edgerl: Run, trained: Path) -> None:
    for _ in range(2):  # a default output is replaced
        code, out, err = edgerl(*EXPORT, "--replay", 150, "--replay-dtype", "fp16", "--target", "teensy-4.1")
        assert (code, err) == (0, f"using {trained.resolve().relative_to(Path.cwd())}\n")
    folder = trained / "learner-c"
    assert sorted(os.listdir(folder)) == ["edgerl_learner.c", "edgerl_learner.h"]
    header = (folder / "edgerl_learner.h").read_text()
    ram = int(header.split("#define EDGERL_LEARNER_RAM ")[1].split("u ")[0])
    assert out.startswith("RAM ")
    assert f"({ram} bytes) of 255.0 KiB on teensy-4.1: networks" in out
    assert "150 transitions of 24 bytes" in out  # 2 · 3 + 1 numbers, one more for an even number, reward and boundary
    assert "\nflash " in out
    assert "as they are kept: largest action difference over 1000 recorded observations: " in out
    algorithm = trained.resolve().name.split("-")[3]
    assert f"Of the run Pendulum-v1-ds-{algorithm}-seed0, for teensy-4.1." in header
    assert f"goes on learning, with {'SAC' if algorithm == 'sac' else 'DS-TD3'} on" in header
    compile_c("gcc", "-O1", *WARNINGS, "-c", folder / "edgerl_learner.c", "-o", "learner.o")


def test_a_bundle_becomes_json_and_files_in_a_new_folder(edgerl: Run) -> None:
    path = write_bundle(config=learner_config())
    code, out, err = edgerl(*EXPORT, path, "-o", "firmware/src", "--batch", 4, "--prefix", "arm", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["paths"] == ["firmware/src/arm.h", "firmware/src/arm.c"]
    assert report["ram"] == report["arena"] + report["replay"] + report["own"]
    assert report["flash"] == report["state"] + report["code"]
    assert report["action_difference"] is None  # the bundle was exported so
    assert "#define ARM_BATCH 4u" in Path("firmware/src/arm.h").read_text()
    code, _, err = edgerl(*EXPORT, path, "-o", "firmware/src", "--prefix", "arm")
    assert (code, err) == (
        2,
        "edgerl: firmware/src/arm.h exists already; pass --force to replace it, or write elsewhere\n",
    )


def test_over_budget_is_exit_code_1_and_nothing_is_written(edgerl: Run) -> None:
    path = write_bundle(config=learner_config())
    before = os.listdir()
    code, _, err = edgerl(*EXPORT, path, "--target", "stm32f405", "--replay", 100_000, "-o", "firmware")
    assert code == 1
    assert "bytes of RAM" in err
    assert "the budget on stm32f405 is" in err
    for option in ("(--replay)", "(--replay-dtype fp16)", "(--batch)", "(edgerl train --hidden, --sparsity)"):
        assert option in err
    assert err.count("\n") == 1
    assert os.listdir() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "cortex-m77"), "cortex-m77"),
        (("--prefix", "9lives"), "--prefix is '9lives'; expected a C identifier"),
        (("--memory", "1kB"), "the memory is 1000 bytes; expected at least"),
        (("--replay", "3"), "the replay is 3 transitions; expected at least"),
        (("--replay-dtype", "fp16"), "is fp32, not 'fp16'; export from the run folder"),
        (
            ("--replay-policy", "ring"),
            "--replay-policy was given, which --format c-learner does not have",
        ),
        (("--project",), "--project was given, which --format c-learner does not have; leave it out"),
        (("-o", "learner.safetensors"), "cannot make learner.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(edgerl: Run, arguments: tuple[str, ...], message: str) -> None:
    path = write_bundle(config=learner_config())
    code, _, err = edgerl(*EXPORT, path, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_without_a_learner_is_refused(edgerl: Run) -> None:
    Path("run").mkdir()
    code, _, err = edgerl(*EXPORT, "run")
    assert (code, "run holds no checkpoint.safetensors; name a run folder" in err) == (2, True)
    code, _, err = edgerl(*EXPORT, "nothing")
    assert (code, "nothing is not there" in err) == (2, True)


def test_learn_belongs_to_c(edgerl: Run) -> None:
    code, _, err = edgerl("export", "--format", "onnx", "--learn")
    assert (code, "--learn was given, which --format onnx does not have" in err) == (2, True)


def test_a_damaged_bundle_is_refused(edgerl: Run) -> None:
    path = write_bundle(config=learner_config())
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    code, _, err = edgerl(*EXPORT, path)
    assert (code, err.count("\n"), "learner.safetensors" in err) == (2, 1, True)

"""A learner's memory against the learner itself, and the cost of an update against one counted pass by pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.session import MARGIN_US
from edgerl.edge.engine.library import SAC, LearnerConfig
from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError
from edgerl.profiling.budgets.costs import ADAM_FLOPS, EVOLUTION_FLOPS, SOFT_UPDATE_FLOPS, TARGET_PRUNING_FLOPS
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.budgets.learning import PROGRAM_BYTES, UPDATE_SHARE, profile_learner, update_flops
from tests.edge.learners import learner_config, write_bundle

Run = Callable[..., tuple[int, str, str]]

MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def _vectors_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an aarch64 board has them: so this machine's learner is the board's, to the byte."""
    monkeypatch.setenv("EDGERL_ISA", "baseline")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {}),
        ({"block": 4, "widths": (30, 17)}, {}),
        ({"percent": 100, "evolution_interval": 0}, {}),
        ({"n": 17, "m": 6, "widths": (64, 64), "percent": 10}, {"memory": MEBIBYTE}),
        ({"n_step": 3, "batch": 50}, {"normalise": True}),
        ({"block": 4, "growth": 1}, {"precision": "fp16", "keep": "reservoir", "normalise": True}),
        ({"algorithm": SAC, "m": 5}, {}),
        ({"algorithm": SAC, "m": 6, "block": 4, "widths": (33, 18)}, {"normalise": True}),
    ],
)
def test_the_plan_is_the_learners_own(config: dict[str, Any], options: dict[str, Any]) -> None:
    path = write_bundle(config=learner_config(**config), **options)
    report = profile_learner(path, "raspberry-pi-5")
    memory = Learner.load(path).memory
    assert report.memory == memory
    parts = report.acting.memory_parts
    assert parts["networks"] == memory.arena
    assert parts["champion"] == memory.champion
    assert parts["replay"] == memory.replay
    assert report.acting.memory.used == sum(parts.values()) == 37_900_000 + PROGRAM_BYTES + memory.total
    assert "measured on x86-64" in (report.acting.memory.parts[0].source or "")
    assert report.acting.memory.budget_source == find_device("raspberry-pi-5").budgets.memory_bytes.source


def test_a_microcontroller_has_rows_without_a_log_and_no_champion() -> None:
    path = write_bundle(memory=1 << 16)
    report = profile_learner(path, "stm32f405")
    assert report.acting.runtime == "c"
    assert report.memory.champion == 0
    assert report.memory.record == 4 * (2 * 3 + 2 + 2), "float32 [2 n + m + 2], as edgerl_replay says"
    assert list(report.acting.memory_parts) == ["runtime", "networks", "replay"]
    assert report.memory.arena == profile_learner(path, "raspberry-pi-5").memory.arena


FILL = """
import numpy as np
from edgerl.edge import Learner
learner = Learner.load("learner.safetensors")
x, u = np.zeros(3, np.float32), np.zeros(2, np.float32)
for step in range(learner.memory.capacity):
    learner.observe(x, u, 0.5, x)
    if step % 500 == 0:
        learner.update()
"""

LEARN = """
import sys
from edgerl.cli import main
sys.argv = "edgerl learn learner.safetensors --env arm:Arm --rate 0 --hours 0.0008 --state state --json".split()
try:
    main()
except SystemExit as left:
    assert not left.code
"""

ARM = """
class Arm:
    def reset(self, seed=None):
        return [0.0, 0.5, 1.0]
    def step(self, action):
        return [0.0, 0.5, 1.0], 0.5, False, False, {}
"""


def _peak_bytes(program: str) -> int:
    last = "\nprint(open('/proc/self/status').read())"
    command = [sys.executable, "-W", "ignore", "-c", program + last]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    match = re.search(r"VmHWM:\s+(\d+) kB", done.stdout + done.stderr)  # --json keeps stdout to itself
    assert match is not None
    return 1024 * int(match[1])


def test_the_process_takes_what_is_announced() -> None:
    """A learner whose replay is full, within 10 % of the peak, by itself and in `edgerl learn`."""
    Path("arm.py").write_text(ARM)
    announced = profile_learner(write_bundle(memory=4 * MEBIBYTE), "raspberry-pi-5").acting.memory.used
    assert announced - PROGRAM_BYTES == pytest.approx(_peak_bytes(FILL), rel=0.1)
    announced = profile_learner(write_bundle(memory=MEBIBYTE), "raspberry-pi-5").acting.memory.used
    assert announced == pytest.approx(_peak_bytes(LEARN), rel=0.1)


def _connections(config: LearnerConfig) -> tuple[list[int], list[int]]:
    """Of each layer of the actor and of a critic."""
    actor, critic = (
        [plan.full_blocks * plan.block + plan.narrow_blocks * (plan.n_outputs % plan.block) for plan in network.plans]
        for network in (config.actor, config.critic)
    )
    return actor, critic


@pytest.mark.parametrize("block", [1, 4])
def test_an_update_costs_what_its_passes_do(block: int) -> None:
    """Every pass of one critic update and half an actor update, per sample; optimiser, targets, topology."""
    config = learner_config(block=block, widths=(30, 18), batch=10, evolution_interval=100, policy_delay=2)
    actor, critic = _connections(config)
    forward = sum(actor) + 2 * sum(critic) + 2 * sum(critic)  # targets, then both critics
    backward = 2 * (sum(critic) + sum(critic[1:]))  # weights; inputs, but the first layer's
    through = sum(actor) + 2 * sum(critic)  # the actor, Q1 and back to its action
    actor_backward = sum(actor) + sum(actor[1:])
    multiply_adds = forward + backward + (through + actor_backward) / 2
    weights = sum(actor) + 2 * sum(critic)
    others = ADAM_FLOPS * (2 * sum(critic) + sum(actor) / 2)
    others += (SOFT_UPDATE_FLOPS + TARGET_PRUNING_FLOPS) * weights / 2 + EVOLUTION_FLOPS * weights / 100
    assert update_flops(config) == pytest.approx(2 * 10 * multiply_adds + others, rel=1e-9)


@pytest.mark.parametrize("delay", [1, 2])
def test_an_update_of_sac_costs_what_its_passes_do(delay: int) -> None:
    """Its actor samples what follows, has no target, and learns from both critics, of which Q1 is computed twice."""
    config = learner_config(widths=(30, 18), batch=10, evolution_interval=100, policy_delay=delay, algorithm=SAC)
    actor, critic = _connections(config)
    forward = sum(actor) + 2 * sum(critic) + 2 * sum(critic)  # what follows and its targets, then both critics
    backward = 2 * (sum(critic) + sum(critic[1:]))
    through = sum(actor) + 3 * sum(critic) + 2 * sum(critic)  # the actor, the critics, and back to its action
    actor_backward = sum(actor) + sum(actor[1:])
    multiply_adds = forward + backward + (through + actor_backward) / delay
    others = ADAM_FLOPS * (2 * sum(critic) + sum(actor) / delay)
    others += (SOFT_UPDATE_FLOPS + TARGET_PRUNING_FLOPS) * 2 * sum(critic)
    others += EVOLUTION_FLOPS * (sum(actor) + 2 * sum(critic)) / 100
    assert actor[-1] == 2 * 2 * 18, "means and deviations"
    assert update_flops(config) == pytest.approx(2 * 10 * multiply_adds + others, rel=1e-9)


def test_updates_fill_what_acting_leaves_of_a_period() -> None:
    path = write_bundle()
    device = find_device("raspberry-pi-5")
    report = profile_learner(path, device, rate_hz=100)
    assert report.idle_us == pytest.approx(10_000 - report.acting.latency.used - MARGIN_US)
    assert report.update_us == pytest.approx(1e6 * report.update_flops / (2.4e9 * 16 * UPDATE_SHARE[1]))
    assert report.updates_per_second == pytest.approx(100 * report.idle_us / report.update_us)
    assert report.source.startswith("estimate, unvalidated: ")
    faster = profile_learner(write_bundle(config=learner_config(block=4, widths=(8, 8))), device)
    assert faster.update_us == pytest.approx(1e6 * faster.update_flops / (2.4e9 * 16 * UPDATE_SHARE[4]))
    assert profile_learner(path, device, rate_hz=10_000).updates_per_second == 0


def test_the_command_prints_it(edgerl: Run) -> None:
    write_bundle()
    code, out, _ = edgerl("profile", "learner.safetensors", "--learn", "--device", "pi5")
    assert code == 0
    assert "learner.safetensors (3-9-6-2) on Raspberry Pi 5" in out
    assert "learner: networks " in out
    assert " updates/s fit beside 100 Hz (estimate, unvalidated): one takes ≈ " in out
    code, out, _ = edgerl("profile", "learner.safetensors", "--learn", "--device", "pi5", "--json")
    learning = json.loads(out)["learning"]
    assert code == 0
    assert learning["capacity"] * learning["record"] == learning["replay"]
    assert (learning["precision"], learning["keep"]) == ("fp32", "ring")
    assert learning["updates_per_second"] > 0


def test_too_large_a_learner_is_exit_code_1(edgerl: Run) -> None:
    write_bundle(memory=1 << 17)
    code, _, err = edgerl("profile", "learner.safetensors", "--learn", "--device", "stm32f405")
    assert code == 1
    assert err.splitlines()[-1].startswith("edgerl: learner.safetensors does not fit stm32f405: memory 129.0 KiB of 64")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learner.safetensors", "--runtime", "onnxruntime"], "the runtime is onnxruntime, which does not learn on"),
        (["folder"], "folder holds no learner.safetensors; export one: edgerl export --format learner"),
        (["policy.safetensors"], "policy.safetensors is not there"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, arguments: list[str], message: str) -> None:
    write_bundle()
    Path("folder").mkdir()
    code, out, err = edgerl("profile", "--learn", "--device", "pi5", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_another_file_is_refused() -> None:
    Path("other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FileFormatError, match=r"other\.safetensors is a text file; expected a learner\.safetensors"):
        profile_learner(Path("other.safetensors"), "raspberry-pi-5")


@pytest.mark.parametrize(
    ("bundle", "error", "message"),
    [
        ({"keep": "reservoir"}, ConfigError, "is a reservoir; in C it is a ring"),
        ({"offset": [1e6, 0, 0]}, UnsupportedModelError, "has an observation offset, which a learner in C"),
    ],
)
def test_a_learner_that_cannot_be_c_never_fits_a_microcontroller(
    bundle: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = write_bundle(**bundle)
    with pytest.raises(error, match=message):
        profile_learner(path, "stm32h743")
    assert profile_learner(path, "jetson-orin-nano").acting.fits


def test_too_little_memory_says_how_much() -> None:
    with pytest.raises(ConfigError, match=r"the memory is 1000 bytes; expected more than the \d+ that"):
        profile_learner(write_bundle(memory=1000), "raspberry-pi-5")

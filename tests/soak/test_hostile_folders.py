"""Hostile run folders, studies and measurements: whatever reads them says in one line what is wrong, with exit code 2,
or works. Never a traceback, a hang, or memory that a file of such a size does not explain.

1500 altered files and each kind of thing in each file's place, times EDGERL_SOAK (default 0.03).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import EdgerlError
from edgerl.profiling.budgets.device import parse_device
from edgerl.profiling.latency.points import read_points
from edgerl.profiling.measuring.measurement import parse_result
from edgerl.studies.grid import plan_runs
from edgerl.studies.study import load_study
from tests.profiling.measurements import c_result, document

from .forked import Forked, Ran, forked
from .test_fuzz import ODD_VALUES, Random, _mutate_bytes, _mutate_json, _mutate_sealed

SHARE = min(float(os.environ.get("EDGERL_SOAK", "0.03")), 1)
SEED = 20220526
LARGEST_BYTES = 1 << 30
"""More than the same command takes when all is well: 64 MiB of a table are text, lines, fields and numbers at once."""

RUN = "runs/tiny/robots-robot-ds-td3-seed0"

COMMANDS: dict[str, list[object]] = {
    "info": ["info", RUN],
    "info replay": ["info", f"{RUN}/replay.bin"],
    "info learner": ["info", f"{RUN}/learner.safetensors"],
    "info onnx": ["info", f"{RUN}/policy.onnx"],
    "report": ["report", RUN, "-o", "page.html"],
    "report study": ["report", "runs/tiny", "-o", "page.html"],
    "table": ["table", "runs/tiny", "--env", "robots:robot"],
    "sweep": ["sweep", "tiny.toml", "--dry-run"],
    "resume": ["train", "--resume", RUN, "--env", "robots:robot"],
    "prune": ["prune", RUN, "--episodes", 0, "-o", "small.safetensors"],
    "learner": ["export", RUN, "--format", "learner", "-o", "learner.safetensors"],
    "onnx": ["export", f"{RUN}/policy.safetensors", "-o", "policy.onnx"],
    "c": ["export", f"{RUN}/policy.safetensors", "--format", "c", "-o", "c"],
    "profile": ["profile", f"{RUN}/policy.safetensors", "--device", "stm32f405"],
    "profile onnx": ["profile", f"{RUN}/policy.onnx", "--device", "stm32f405"],
    "import": ["profile", f"{RUN}/policy.safetensors", "--device", "raspberry-pi-4b", "--import", "result.json"],
    "run": ["run", f"{RUN}/policy.safetensors", "--env", "robots:robot", "--rate", 1000, "--seconds", 0.005],
    "learn": ["learn", f"{RUN}/learner.safetensors", "--env", "robots:robot", "--rate", 0, "--hours", 1e-6],
}

READ_BY = {
    f"{RUN}/config.json": ["info", "report", "resume", "prune", "learner", "table", "report study"],
    f"{RUN}/checkpoint.safetensors": ["info", "report", "resume", "prune", "learner", "table"],
    f"{RUN}/replay.bin": ["info", "info replay", "resume", "prune", "learner"],
    f"{RUN}/metrics.csv": ["report", "resume", "table", "info", "report study"],
    f"{RUN}/topology.csv": ["report", "resume"],
    f"{RUN}/versions.json": ["report", "resume"],
    f"{RUN}/policy.safetensors": ["info", "report", "run", "onnx", "c", "profile", "resume"],
    f"{RUN}/learner.safetensors": ["info learner", "learn"],
    f"{RUN}/policy.onnx": ["info onnx", "profile onnx"],
    f"{RUN}/fit-stm32f405.json": ["report"],
    "runs/tiny/study.json": ["table", "sweep", "report study"],
    "tiny.toml": ["sweep"],
    "result.json": ["import"],
}

STUDY = """
title = "Tiny"

[run]
hidden = [9, 6]
batch_size = 8
steps = 80
start_steps = 30
evaluation_interval = 40
evaluation_episodes = 1
checkpoint_interval = 40
replay_capacity = 50

[grid]
environment = ["robots:robot"]
method = ["ds-td3"]
seed = [0]
"""

TRIAL = {
    "architecture": "4-9-6-2",
    "precision": "fp32",
    "layers": [{"connections": 9}],
    "bytes": 400,
    "latency": {"used": 9.5},
    "returns": {"mean": -5, "low": -6, "high": -4},
    "fits": True,
}
FIT = {
    "device": "stm32f405",
    "least_return": -10,
    "reference": {"latency": {"budget": 100}},
    "episodes": 5,
    "measured": [TRIAL, TRIAL],
    "chosen": TRIAL,
}

WARM_UP = """
import edgerl.training.trainer, edgerl.report.build, edgerl.export, edgerl.edge.continual.session
import edgerl.profiling.budgets.report
import edgerl.studies.table, edgerl.studies.timing, edgerl.training.handover, onnx, rich.progress, rich.table, rich.live
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with forked(WARM_UP, tmp_path_factory.mktemp("printed")) as server:
        yield server


@pytest.fixture(scope="module")
def whole(commands: Forked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one run, with all that commands make of it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(STUDY)
    (folder / "result.json").write_bytes(document(c_result()))
    for arguments in (
        ["sweep", "tiny.toml", "--jobs", 1],
        ["export", RUN, "--format", "learner"],
        ["export", RUN],
    ):
        made = commands.run(*arguments, folder=folder)
        assert made.code == 0, made.err
    (folder / RUN / "fit-stm32f405.json").write_text(json.dumps(FIT))
    return folder


@pytest.fixture(scope="module")
def usual(commands: Forked, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """What each command does in a folder that is as it should be."""
    found, work = {}, tmp_path_factory.mktemp("undisturbed") / "work"
    for name, arguments in COMMANDS.items():
        _begin(work, whole)
        found[name] = commands.run(*arguments, folder=work)
        assert found[name].code in (0, 2 * (name == "import")), (name, found[name].err)  # a result of another policy
    return found


class _Verdicts:
    """On each command that ran, all of them before the first fault ends the test."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.codes: dict[int, int] = {}

    def add(self, ran: Ran, usual: Ran, what: str) -> None:
        try:
            assert ran.code in (0, 1, 2), (ran.code, ran.err[-3000:])
            assert ran.code != 2 or ran.complaint
            assert "Traceback" not in ran.err, ran.err[-3000:]
            assert ran.peak_bytes < usual.peak_bytes + LARGEST_BYTES, ran.peak_bytes
        except AssertionError as fault:
            self.faults.append(f"{what}: {fault}")
        self.codes[ran.code] = self.codes.get(ran.code, 0) + 1

    def assert_all_held(self) -> None:
        print(f"exit codes {self.codes}")
        assert not self.faults, "\n\n".join([f"{len(self.faults)} faults", *self.faults[:20]])
        assert self.codes[2] > 0


def _mutate_text(rng: Random, text: str) -> str:
    """Of lines and fields: one removed, doubled, or odd."""
    lines = text.splitlines(keepends=True)
    where, kind = int(rng.integers(len(lines))), int(rng.integers(6))
    if kind == 0:
        del lines[where]
    elif kind == 1:
        lines.insert(where, lines[int(rng.integers(len(lines)))])
    else:
        separator, odd = "=,"[kind < 5], str(ODD_VALUES[rng.integers(len(ODD_VALUES))])
        fields = lines[where].split(separator)
        fields[int(rng.integers(len(fields)))] = odd if kind < 4 else f"\n{odd}"
        lines[where] = separator.join(fields)
    return "".join(lines)


def _mutated(rng: Random, path: Path, data: bytes) -> bytes:
    """In the file's own language more often than as bytes."""
    if rng.random() < 0.3:
        return _mutate_bytes(rng, data, [data])
    if path.suffix == ".json":
        value = json.loads(data)
        for _ in range(rng.integers(1, 4)):
            value = _mutate_json(rng, value)
        return json.dumps(value).encode()
    if path.suffix in (".csv", ".toml"):
        return _mutate_text(rng, data.decode()).encode(errors="replace")
    kinds = {"checkpoint": "checkpoint", "policy": "policy", "learner": "learner"}
    if path.suffix == ".safetensors":
        return _mutate_sealed(rng, data, kinds[path.stem])
    return _mutate_bytes(rng, data[:4096], [data]) + data[4096:]


@pytest.mark.soak
def test_altered_files(commands: Forked, whole: Path, usual: dict[str, Ran]) -> None:
    work, verdicts = Path("work"), _Verdicts()
    for case in range(round(1500 * SHARE)):
        rng = np.random.default_rng([SEED, case])
        name = list(READ_BY)[case % len(READ_BY)]
        command = READ_BY[name][int(rng.integers(len(READ_BY[name])))]
        _begin(work, whole)
        (work / name).write_bytes(_mutated(rng, Path(name), (work / name).read_bytes()))
        ran = commands.run(*COMMANDS[command], folder=work)
        verdicts.add(ran, usual[command], f"{name}, read by {command}, case {case}")
    verdicts.assert_all_held()


def _begin(work: Path, whole: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work, symlinks=True)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its name must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


THINGS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "an empty file": Path.touch,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "a link to its folder": lambda path: path.symlink_to("."),
    "a terabyte": lambda path: _sparse(path, 1 << 40),
    "a gigabyte": lambda path: _sparse(path, 1 << 30),
    "60 MB of commas": lambda path: path.write_bytes(b"step," + b"," * 60_000_000),
    "60 MB of lines": lambda path: path.write_bytes(b"step,a\n" + b"1,2\n" * 15_000_000),
    "15 MB of lists": lambda path: path.write_bytes(b"[" + b"[]," * 5_000_000 + b"[]]"),
    "brackets": lambda path: path.write_bytes(b"[" * 100_000),
    "braces": lambda path: path.write_bytes(b'{"a":' * 100_000),
    "a number of many digits": lambda path: path.write_bytes(b'{"seed": ' + b"9" * 100_000 + b"}"),
    "dotted keys": lambda path: path.write_bytes(b"".join(b"%s = 1\n" % b".".join([b"a"] * i) for i in range(1, 300))),
    "text that is none": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.soak
def test_other_things_in_the_place_of_files(commands: Forked, whole: Path, usual: dict[str, Ran]) -> None:
    work, verdicts = Path("work"), _Verdicts()
    cases = [(name, command, thing) for name, readers in READ_BY.items() for command in readers for thing in THINGS]
    chosen = np.random.default_rng(SEED).permutation(len(cases))[: round(SHARE * len(cases))]
    for name, command, thing in (cases[index] for index in chosen):
        _begin(work, whole)
        (work / name).unlink()
        THINGS[thing](work / name)
        ran = commands.run(*COMMANDS[command], folder=work)
        verdicts.add(ran, usual[command], f"{thing} as {name}, read by {command}")
    verdicts.assert_all_held()


# ---------------------------------------------------------------------------------------------- documents by themselves


def _read_study(data: bytes) -> None:
    Path("study.toml").write_bytes(data)
    plan_runs(load_study("study.toml"))


def _read_points(data: bytes) -> None:
    Path("points.jsonl").write_bytes(data)
    list(read_points(Path("points.jsonl")))


ROOT = Path(__file__).parents[2]

READERS: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "study": (_read_study, lambda: STUDY.replace("robots:robot", "HalfCheetah-v5").encode()),
    "result": (lambda data: parse_result(data, "result.json"), lambda: document(c_result())),
    "device": (
        lambda data: parse_device(data, "board", "board.toml"),
        lambda: (ROOT / "device_profiles/stm32f405.toml").read_bytes(),
    ),
    "points": (
        _read_points,
        lambda: b"".join((ROOT / "benchmarks/published_latencies.jsonl").read_bytes().splitlines(True)[:5]),
    ),
}


def _is_refused(read: Callable[[bytes], object], data: bytes, what: str) -> bool:
    began, said = time.thread_time(), ""
    try:
        read(data)
    except EdgerlError as error:
        said = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert time.thread_time() - began < 5, what
    assert "\n" not in said, what
    assert len(said) < 1000, what
    return said != ""


@pytest.mark.soak
@pytest.mark.parametrize("kind", READERS)
def test_altered_documents(kind: str) -> None:
    read, make = READERS[kind]
    data, refused, count = make(), 0, round(5000 * SHARE)
    assert not _is_refused(read, data, "unaltered")
    for case in range(count):
        rng = np.random.default_rng([SEED, len(kind), case])
        if kind == "result" and rng.random() < 0.5:
            altered = json.dumps(_mutate_json(rng, json.loads(data))).encode()
        elif rng.random() < 0.5:
            altered = _mutate_text(rng, data.decode()).encode(errors="replace")
        else:
            altered = _mutate_bytes(rng, data, [data])
        refused += _is_refused(read, altered, f"{kind} {case}")
    print(f"{refused} of {count} refused")
    assert count / 5 < refused <= count

"""Measuring on this machine: against calls that last a known time, and against the policy's own actions."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.onnx_policy import made_from
from edgerl.errors import FileFormatError, MissingExtraError
from edgerl.policy.compact import Array
from edgerl.policy.format import save
from edgerl.profiling.measuring import measure
from edgerl.profiling.measuring.measure import find_subject, measure_here, policy_identity
from edgerl.profiling.measuring.measurement import bin_end, largest_difference
from tests.policy.policies import random_policy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP_NS", 10**7), ("MEASURED_NS", 3 * 10**7), ("MOST_EVICTED", 8 << 20)):
        monkeypatch.setattr(measure, name, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A policy file with its ONNX file beside it."""
    save(random_policy(0, (5, 16, 16, 3)), tmp_path / "policy.safetensors")
    export_policy(tmp_path / "policy.safetensors", "onnx", tmp_path / "policy.onnx")
    return tmp_path / "policy.safetensors"


def test_calls_of_a_known_length_are_measured_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 µs each, every tenth 300 µs, by a clock that takes 50 ns to read."""
    now = calls = 0

    def clock() -> int:
        nonlocal now
        now += 50
        return now

    def act(observation: Array) -> Array:
        nonlocal now, calls
        calls += 1
        now += 300_000 if calls % 10 == 0 else 100_000
        return observation

    monkeypatch.setattr(measure.time, "perf_counter_ns", clock)
    figures = measure._measure(act, np.zeros((4, 2), np.float32), 2, -1)
    assert figures["clock_ns"] == 50
    assert (figures["p50_ns"], figures["p99_ns"], figures["max_ns"]) == (100_000, 300_000, 300_000)
    assert figures["cold_ns"] == 100_000
    assert figures["calls"] == pytest.approx(measure.MEASURED_NS / 120_000, rel=0.02)
    within = sum(n for end, n in figures["histogram"] if end <= bin_end(150_000))
    assert within == pytest.approx(0.9 * figures["calls"], abs=1)


def test_native_and_onnxruntime_are_measured_and_act_as_the_policy_does(path: Path) -> None:
    subject = find_subject(path)
    assert subject.policy is not None
    processors, was_enabled = os.sched_getaffinity(0), gc.isenabled()
    result = measure_here(subject)
    assert (os.sched_getaffinity(0), gc.isenabled()) == (processors, was_enabled)
    assert [measurement.runtime for measurement in result.measurements] == ["native", "onnxruntime"]
    assert result.machine.pinned_to in processors
    assert result.machine.architecture == os.uname().machine
    for measurement in result.measurements:
        assert largest_difference(measurement, subject.policy) <= 1e-5
        assert 100 <= measurement.calls <= 20_000
        assert 0 < measurement.p50_ns <= measurement.p90_ns <= measurement.p99_ns <= measurement.max_ns
        assert measurement.cold_ns > measurement.p50_ns


def test_files_belong_together_by_their_sha256(path: Path, tmp_path: Path) -> None:
    onnx = path.with_suffix(".onnx")
    assert made_from(onnx.read_bytes()) == policy_identity(path) == policy_identity(tmp_path) == policy_identity(onnx)
    assert policy_identity(random_policy(0, (5, 16, 16, 3))) == policy_identity(path)
    for model in (path, onnx, tmp_path):
        subject = find_subject(model)
        assert (subject.policy_path, subject.onnx_path) == (path, onnx)
    save(random_policy(1, (5, 16, 16, 3)), path)
    assert find_subject(path).onnx_path is None
    assert find_subject(onnx).policy is None


def test_a_runtime_that_cannot_be_measured_is_named_with_the_reason(path: Path) -> None:
    path.with_suffix(".onnx").unlink()
    result = measure_here(find_subject(path))
    assert [measurement.runtime for measurement in result.measurements] == ["native"]
    assert result.not_measured == {"onnxruntime": "there is no .onnx file of this policy beside it; run: edgerl export"}


def test_an_onnx_file_alone_is_measured_with_onnxruntime(path: Path, tmp_path: Path) -> None:
    alone = shutil.copy(path.with_suffix(".onnx"), tmp_path / "alone.onnx")
    result = measure_here(find_subject(Path(alone)))
    assert [measurement.runtime for measurement in result.measurements] == ["onnxruntime"]
    assert "is not beside it" in result.not_measured["native"]


def test_nothing_to_measure_with_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.with_suffix(".onnx").unlink()

    def missing(*_: object) -> None:
        raise MissingExtraError("the native engine is missing")

    monkeypatch.setattr(measure, "Policy", missing)
    with pytest.raises(MissingExtraError, match=r"the native engine is missing; there is no \.onnx file"):
        measure_here(find_subject(path))


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x72\x03\x0a\x01", b"\x72\x0c\x0a\x06edgerl\x12\x02[]"])
def test_what_names_no_policy_is_made_from_none(data: bytes) -> None:
    assert made_from(data) is None


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.zip").write_bytes(b"PK")
    with pytest.raises(FileFormatError, match=r"policy.zip is a text file; expected a policy.safetensors"):
        find_subject(tmp_path / "policy.zip")

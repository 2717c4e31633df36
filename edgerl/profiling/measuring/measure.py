"""Measuring a policy on this machine, called from Python as a robot's program calls it: native and onnxruntime.

One processor, garbage collection off, warm-up, then single calls with one observation each (docs/devices.md,
"Measuring"). `edgerl/profiling/measuring/benchmark/benchmark.c` does the same for the engine called from C.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edgerl import run_folder
from edgerl.edge.acting.onnx_policy import OnnxPolicy, made_from
from edgerl.edge.acting.policy import Policy
from edgerl.edge.runtimes import ModelKind, RuntimeName, onnx_kind, why_not
from edgerl.errors import MissingExtraError, reason
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import is_onnx
from edgerl.policy import format as policy_file
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.profiling.measuring.measurement import (
    LONGEST_TEXT,
    LatencyMeasurement,
    Machine,
    Result,
    benchmark_observations,
    checked_observations,
    standard_observations,
    summary,
)

Act = Callable[[Array], Array]

WARM_UP_NS = 200_000_000
MEASURED_NS = 1_000_000_000
FEWEST_CALLS = 100
MOST_CALLS = 20_000
CLOCK_READINGS = 1001
COLD_CALLS = 31
LEAST_EVICTED = 8 << 20
MOST_EVICTED = 64 << 20
"""Twice the largest cache is evicted, within these bounds; only a server's last cache may hold more."""

PROCESSORS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Subject:
    """What is measured: a policy file, the ONNX file that was made from it, or both; or an ONNX file from elsewhere.

    `policy_sha256` is that of the policy file, for an ONNX file from elsewhere that of the file itself.
    """

    name: str
    kind: ModelKind
    policy_sha256: str
    policy: CompactPolicy | None
    policy_path: Path | None
    onnx_path: Path | None


def find_subject(model: Path) -> Subject:
    """What a policy.safetensors, a run folder or an .onnx file means, with the file beside it that belongs to it.

    Files belong together where only their suffixes differ and the ONNX file names the policy's SHA-256. Raises
    FileFormatError.
    """
    path = model / run_folder.POLICY if model.is_dir() else model
    if is_onnx(path):
        return _onnx_subject(path)
    data = read_bytes(path)
    digest = sha256(data).hexdigest()
    beside = path.with_suffix(".onnx")
    return Subject(
        name=path.name,
        kind="policy",
        policy_sha256=digest,
        policy=policy_file.from_bytes(data, path),
        policy_path=path,
        onnx_path=beside if beside.is_file() and policy_identity(beside) == digest else None,
    )


def _onnx_subject(path: Path) -> Subject:
    digest, kind = policy_identity(path), onnx_kind(read_bytes(path), path)
    beside = path.with_suffix(".safetensors")
    if beside.is_file() and sha256(data := read_bytes(beside)).hexdigest() == digest:
        return Subject(path.name, kind, digest, policy_file.from_bytes(data, beside), beside, path)
    return Subject(path.name, kind, digest, None, None, path)


def policy_identity(model: CompactPolicy | Path) -> str:
    """The SHA-256 that names a policy: of its file, which an export carries; of an ONNX file from elsewhere its own."""
    if isinstance(model, CompactPolicy):
        return sha256(policy_file.to_bytes(model)).hexdigest()
    data = read_bytes(model / run_folder.POLICY if model.is_dir() else model)
    return made_from(data) or sha256(data).hexdigest()


def measure_here(subject: Subject) -> Result:
    """Measure with each runtime that is installed, some seconds each. Raises MissingExtraError without any."""
    runtimes: dict[RuntimeName, Callable[[Subject, int], LatencyMeasurement]]
    runtimes = {"native": _measure_native, "onnxruntime": _measure_onnxruntime}
    with _pinned() as cpu:
        outcomes = {name: _measurement_or_reason(measure, subject, cpu) for name, measure in runtimes.items()}
        machine = _machine(cpu)
    measurements = tuple(outcome for outcome in outcomes.values() if isinstance(outcome, LatencyMeasurement))
    not_measured: dict[str, str] = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)}
    if not measurements:
        raise MissingExtraError("; ".join(not_measured.values()))
    return Result(subject.policy_sha256, machine, measurements, not_measured)


def _measurement_or_reason(
    measure: Callable[[Subject, int], LatencyMeasurement], subject: Subject, cpu: int
) -> LatencyMeasurement | str:
    try:
        return measure(subject, cpu)
    except MissingExtraError as error:
        return reason(error, LONGEST_TEXT)


def _measure_native(subject: Subject, cpu: int) -> LatencyMeasurement:
    if subject.policy is None:
        raise MissingExtraError(
            why_not(subject.name, subject.kind, "native")
            or "the policy.safetensors that the ONNX file was made from is not beside it"
        )
    policy = Policy(subject.policy)
    figures = _measure(policy, benchmark_observations(subject.policy), subject.policy.n_actions, cpu)
    return LatencyMeasurement(runtime="native", engine=f"{policy.isa}; {' '.join(policy.layouts)}", **figures)


def _measure_onnxruntime(subject: Subject, cpu: int) -> LatencyMeasurement:
    if subject.onnx_path is None:
        raise MissingExtraError("there is no .onnx file of this policy beside it; run: edgerl export")
    policy = OnnxPolicy(subject.onnx_path)
    if subject.policy is None:
        observations = standard_observations(policy.n_observations)
    else:
        observations = benchmark_observations(subject.policy)
    figures = _measure(policy, observations, policy.n_actions, cpu)
    return LatencyMeasurement(runtime="onnxruntime", engine=sys.modules["onnxruntime"].__version__, **figures)


def _measure(act: Act, observations: Array, n_actions: int, cpu: int) -> dict[str, Any]:
    """A LatencyMeasurement of `act` without its name; `cpu` is what this thread is pinned to, or -1."""
    rows = list(observations)
    evicted = _bytes_to_evict(cpu)
    clock = _clock_cost()
    with _no_garbage_collection():
        times = _time_calls(act, rows, _warm_up(act, rows))
        cold = _time_cold(act, rows, evicted)
    return {
        "built_with": f"Python {platform.python_version()}",
        **summary(np.maximum(times - clock, 0)),
        "clock_ns": clock,
        "cold_ns": max(int(np.median(cold)) - clock, 0),
        "evicted_bytes": evicted,
        "actions": tuple(tuple(act(row).tolist()) for row in rows[: checked_observations(n_actions)]),
    }


def _warm_up(act: Act, rows: Sequence[Array]) -> int:
    """Call without measuring, to warm the processor up; returns how many calls to measure."""
    begin = time.perf_counter_ns()
    calls = elapsed = 0
    while elapsed < WARM_UP_NS or calls < len(rows):
        act(rows[calls % len(rows)])
        calls += 1
        elapsed = time.perf_counter_ns() - begin
    return min(max(MEASURED_NS * calls // elapsed, FEWEST_CALLS), MOST_CALLS)


def _time_calls(act: Act, rows: Sequence[Array], count: int) -> Array:
    """[count] ns, the clock's own time included."""
    clock = time.perf_counter_ns
    times = np.zeros(count, np.int64)
    for call in range(count):
        row = rows[call % len(rows)]
        begin = clock()
        act(row)
        times[call] = clock() - begin
    return times


def _time_cold(act: Act, rows: Sequence[Array], n_bytes: int) -> Array:
    """[COLD_CALLS] ns of calls, before each of which `n_bytes` of other data went through the caches."""
    other = np.zeros(n_bytes, np.uint8)
    times = np.zeros(COLD_CALLS, np.int64)
    for call in range(COLD_CALLS):
        other += np.uint8(1)
        times[call] = _time_calls(act, [rows[call % len(rows)]], 1)[0]
    return times


def _clock_cost() -> int:
    """What reading the clock takes, ns: the median of many readings in a row."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(CLOCK_READINGS):
        begin = clock()
        times.append(clock() - begin)
    return int(np.median(times))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _pinned() -> Iterator[int]:
    """Stay on one processor and yield its number: the fastest, of several the last, since the first serves interrupts.

    -1 where the system does not allow it.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield -1
        return
    allowed = os.sched_getaffinity(0)
    chosen = max(allowed, key=lambda cpu: (_frequency(cpu, "cpuinfo_max_freq"), cpu))
    try:
        os.sched_setaffinity(0, {chosen})
    except OSError:
        yield -1
        return
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


def _machine(cpu: int) -> Machine:
    cpu_info = _lines(Path("/proc/cpuinfo"))
    described = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(cpu_info))}
    return Machine(
        system=platform.system(),
        release=platform.release(),
        architecture=platform.machine(),
        cpu=_printable(described.get("model name") or described.get("CPU part") or platform.processor()),
        board=_printable("".join(_lines(Path("/proc/device-tree/model"))[:1])),
        governor=_printable("".join(_lines(PROCESSORS / f"cpu{cpu}/cpufreq/scaling_governor")[:1])),
        pinned_to=cpu,
        mhz=_frequency(cpu, "scaling_cur_freq") // 1000,
    )


def _frequency(cpu: int, name: str) -> int:
    """kHz; 0 where the system does not say."""
    return int("".join(_lines(PROCESSORS / f"cpu{cpu}/cpufreq/{name}")[:1]) or 0)


def _bytes_to_evict(cpu: int) -> int:
    sizes = [line for path in PROCESSORS.glob(f"cpu{max(cpu, 0)}/cache/index*/size") for line in _lines(path)]
    units = {"K": 10, "M": 20}
    largest = max((int(size.rstrip("KM")) << units.get(size[-1], 0) for size in sizes), default=0)
    return min(max(2 * largest, LEAST_EVICTED), MOST_EVICTED)


def _lines(path: Path) -> list[str]:
    """The lines of a system file; none where it does not exist."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:LONGEST_TEXT]

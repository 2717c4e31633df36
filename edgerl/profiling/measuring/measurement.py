"""What was measured, and where: durations of single calls, the machine, and the actions that prove it was this policy.

A result comes from this process, or as JSON from a board (docs/devices.md, "Measuring"). That JSON is treated as
hostile: what contradicts itself or cannot be printed is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np

from edgerl.edge.acting.onnx_policy import EXAMPLE_TOLERANCE
from edgerl.edge.engine.random import normal, philox4x32
from edgerl.edge.runtimes import RUNTIMES, RuntimeName
from edgerl.errors import CheckFailed, FileFormatError, quoted, reason
from edgerl.files.kind import JSON, TEXT, refuse_other_kinds
from edgerl.files.strict_json import parse_json
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.loss import action_span

FORMAT = "edgerl benchmark"
VERSION = 1

MAXIMUM_BYTES = 1 << 24
"""A larger result is refused before it is parsed."""

MEASURED_OBSERVATIONS = 32
"""More than a processor's branch prediction memorises."""

CHECKED_OBSERVATIONS = 8
CHECKED_NUMBERS = 4096
"""The first observations' actions are reported: at most this many, of this many numbers, but always one."""

LONGEST_TEXT = 200
LARGEST_NUMBER = 10**15
LARGEST_ACTION = 3.4028235e38  # of float32

PER_MILLE = {"p50_ns": 500, "p90_ns": 900, "p99_ns": 990, "max_ns": 1000}

Bins = tuple[tuple[int, int], ...]
"""(upper end in ns, calls) of each bin that is not empty, rising. An octave has eight bins; below 16 ns each is 1 ns
wide."""


@dataclass(frozen=True)
class Machine:
    """Where it was measured, in the system's own words; a text is empty, and `mhz` 0, where the system says nothing."""

    system: str
    release: str
    architecture: str  # as `uname -m` says
    cpu: str
    board: str
    governor: str
    pinned_to: int  # the processor, or -1
    mhz: int  # of that processor, right after the calls


@dataclass(frozen=True)
class LatencyMeasurement:
    """Calls of one runtime, one observation each; the clock's own time is taken off each."""

    runtime: RuntimeName
    engine: str
    built_with: str
    calls: int
    clock_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    cold_ns: int  # median of calls that each follow `evicted_bytes` of other data
    evicted_bytes: int
    histogram: Bins
    actions: tuple[tuple[float, ...], ...]  # for the first observations


@dataclass(frozen=True)
class Result:
    """What one machine measured of one policy."""

    policy_sha256: str  # of its file
    machine: Machine
    measurements: tuple[LatencyMeasurement, ...]
    not_measured: Mapping[str, str] = field(default_factory=dict)  # runtime → why not

    def measurement(self, runtime: str) -> LatencyMeasurement | None:
        """The measurement of a runtime, if there is one."""
        return next((one for one in self.measurements if one.runtime == runtime), None)

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def benchmark_observations(policy: CompactPolicy) -> Array:
    """The observations [count, n] to measure with: the example, if there is one, and normal ones around its mean.

    They follow from the policy only, so that whoever checks a result knows them.
    """
    n = policy.n_observations
    numbers = standard_observations(n)
    if policy.observation_mean is not None and policy.observation_scale is not None:
        mean, scale = policy.observation_mean.astype(np.float64), policy.observation_scale.astype(np.float64)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            drawn = (mean + numbers / scale).astype(np.float32)
        numbers = np.where(np.isfinite(drawn), drawn, policy.observation_mean)
    example = policy.without_offset.example_observation
    if example.shape == (n,):
        numbers[0] = example
    return policy.observation_of(numbers)


def standard_observations(n: int) -> Array:
    """Standard normal observations [count, n], float32; always the same."""
    counter = np.zeros((-(-MEASURED_OBSERVATIONS * n // 4), 4), np.uint32)
    counter[:, 3] = np.arange(len(counter))
    words = philox4x32(counter, (0, 0)).ravel()
    return normal(words)[: MEASURED_OBSERVATIONS * n].reshape(-1, n).astype(np.float32)


def checked_observations(n_actions: int) -> int:
    """Of how many observations the actions are reported."""
    return max(1, min(CHECKED_OBSERVATIONS, CHECKED_NUMBERS // n_actions))


def summary(times: Array) -> dict[str, Any]:
    """The percentiles and the histogram of durations [calls] in ns, int64: keywords of a LatencyMeasurement."""
    ordered = np.sort(times).tolist()
    percentiles = {name: ordered[_rank(len(ordered), per_mille) - 1] for name, per_mille in PER_MILLE.items()}
    ends, counts = np.unique([bin_end(time) for time in ordered], return_counts=True)
    histogram = tuple(zip(ends.tolist(), counts.tolist(), strict=True))
    return {"calls": len(ordered), **percentiles, "histogram": histogram}


def bin_end(nanoseconds: int) -> int:
    """The upper end, in ns, of the histogram's bin that holds a duration."""
    shift = max(nanoseconds.bit_length() - 4, 0)
    return (((nanoseconds >> shift) + 1) << shift) - 1


def largest_difference(measurement: LatencyMeasurement, policy: CompactPolicy) -> float:
    """Between the reported actions and the policy's in float64, in shares of each action's range.

    Raises CheckFailed where it is too large or the actions are not as many as they must be: another policy, or an
    engine that computes wrongly, was measured.
    """
    count = checked_observations(policy.n_actions)
    expected = policy(benchmark_observations(policy)[:count], np.float64)
    shape = len(measurement.actions), len(measurement.actions[0])
    if shape != expected.shape:
        raise CheckFailed(
            f"{measurement.runtime} returned {shape[0]} actions of {shape[1]} numbers; expected "
            f"{expected.shape[0]} of {expected.shape[1]}; another policy was measured"
        )
    difference = float(np.max(np.abs(np.array(measurement.actions) - expected) / action_span(policy)))
    if not difference <= EXAMPLE_TOLERANCE:
        raise CheckFailed(
            f"{measurement.runtime} acts differently there: by {difference:.2g} of the action range, expected at most "
            f"{EXAMPLE_TOLERANCE:g}; its figures are worthless"
        )
    return difference


def parse_result(data: bytes, source: str) -> Result:
    """The result in a bundle's JSON; `source` names it in messages. Raises FileFormatError unless it is all valid.

    Lines around it are ignored: a board's shell may print some.
    """
    if len(data) > MAXIMUM_BYTES:
        raise FileFormatError(f"{source} has more than {MAXIMUM_BYTES} bytes; expected the result of a bundle")
    begin = _START.search(data)
    try:
        if not data.strip():
            raise ValueError("it is empty")
        if begin is None and not data.lstrip().startswith(b"{"):
            first_line = data.lstrip().splitlines()[0].decode(errors="replace")
            raise ValueError(f"it begins with {quoted(first_line)}")
        text = data[0 if begin is None else begin.start() :].decode().strip()
        document = parse_json(text, may_go_on=True)
        entries = _entry(document, "results", list)
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise ValueError(f"expected the format {FORMAT!r}, version {VERSION}")
        if len(entries) != 2:
            raise ValueError(f"it holds {len(entries)} results, expected two")
        return _joined([_result(entry) for index, entry in enumerate(entries) if index == 0 or entry is not None])
    except ValueError as error:
        refuse_other_kinds(data, source, "the result of a benchmark bundle, JSON text", JSON, TEXT)
        raise FileFormatError(
            f"{source} is not a result of a benchmark bundle ({reason(error)}); run the bundle again"
        ) from error


_START = re.compile(rb'^\{"format": "edgerl benchmark"', re.MULTILINE)
"""As benchmark/run.sh prints it."""


def _joined(results: Sequence[Result]) -> Result:
    """One result of what the C program and, where it is there, edgerl measured on one machine."""
    first, *others = results
    for other in others:
        if (other.policy_sha256, other.machine.architecture) != (first.policy_sha256, first.machine.architecture):
            raise ValueError("its results are of two policies or machines")
        measurements = (*first.measurements, *other.measurements)
        first = replace(first, measurements=measurements, not_measured=other.not_measured)
    if not first.measurements:
        raise ValueError("nothing was measured")
    runtimes = [measurement.runtime for measurement in first.measurements]
    if len(set(runtimes)) != len(runtimes):
        raise ValueError("a runtime has two measurements")
    return first


def _result(entry: object) -> Result:
    sha256 = _text(entry, "policy_sha256")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"policy_sha256 is {quoted(sha256)}")
    machine = _entry(entry, "machine", dict)
    measurements = _entry(entry, "measurements", list)
    not_measured = _entry(entry, "not_measured", dict) if "not_measured" in _object(entry) else {}
    return Result(
        policy_sha256=sha256,
        machine=Machine(
            **{
                name: _text(machine, name) for name in ("system", "release", "architecture", "cpu", "board", "governor")
            },
            pinned_to=_number(machine, "pinned_to", at_least=-1),
            mhz=_number(machine, "mhz"),
        ),
        measurements=tuple(_measurement(measurement) for measurement in measurements),
        not_measured={name: _text(not_measured, name) for name in RUNTIMES if name in not_measured},
    )


def _measurement(entry: object) -> LatencyMeasurement:
    runtime = next((name for name in RUNTIMES if _object(entry).get("runtime") == name), None)
    if runtime is None:
        raise ValueError(f"the runtime is {quoted(_object(entry).get('runtime'))}")
    numbers = ("clock_ns", *PER_MILLE, "cold_ns", "evicted_bytes")
    measurement = LatencyMeasurement(
        runtime=runtime,
        engine=_text(entry, "engine"),
        built_with=_text(entry, "built_with"),
        calls=_number(entry, "calls", at_least=1),
        **{name: _number(entry, name) for name in numbers},
        histogram=_histogram(_entry(entry, "histogram", list)),
        actions=_actions(_entry(entry, "actions", list)),
    )
    _check_together(measurement)
    return measurement


def _check_together(measurement: LatencyMeasurement) -> None:
    """Every percentile must be in the bin of its rank."""
    ends = [-1, *(end for end, _ in measurement.histogram)]
    totals = list(accumulate(count for _, count in measurement.histogram))
    if totals[-1] != measurement.calls:
        raise ValueError(f"the histogram counts {totals[-1]} calls of {measurement.calls}")
    for name, per_mille in PER_MILLE.items():
        rank = _rank(measurement.calls, per_mille)
        index = next(index for index, total in enumerate(totals) if total >= rank)
        if not ends[index] < getattr(measurement, name) <= ends[index + 1]:
            raise ValueError(f"{name} contradicts the histogram")


def _rank(count: int, per_mille: int) -> int:
    """The quantile's place among `count` sorted durations, from 1: how many of them are not above it."""
    return -(-count * per_mille // 1000)


def _histogram(entries: list[Any]) -> Bins:
    bins = []
    before = -1
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not all(_is_count(number) for number in entry):
            raise ValueError("a bin of the histogram is not a pair of whole numbers")
        end, count = entry
        if end <= before or count < 1 or bin_end(end) != end:
            raise ValueError("the histogram's bins do not rise")
        bins.append((end, count))
        before = end
    if not bins:
        raise ValueError("the histogram is empty")
    return tuple(bins)


def _actions(entries: list[Any]) -> tuple[tuple[float, ...], ...]:
    if not 1 <= len(entries) <= CHECKED_OBSERVATIONS or not all(isinstance(row, list) and row for row in entries):
        raise ValueError(f"the actions are not a list of 1 to {CHECKED_OBSERVATIONS} lists")
    if len({len(row) for row in entries}) != 1:
        raise ValueError("the actions differ in length")
    return tuple(tuple(_finite(number) for number in row) for row in entries)


def _finite(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST_ACTION:
        raise ValueError(f"a number of an action is {quoted(number)}")
    return float(number)


def _object(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError("it is not a JSON object, or one of its parts is not")
    return entry


def _entry(entry: object, name: str, kind: type[Any]) -> Any:
    value = _object(entry).get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is missing, or of another type")
    return value


def _text(entry: object, name: str) -> str:
    text = _entry(entry, name, str)
    if len(text) > LONGEST_TEXT or not text.isprintable():
        raise ValueError(f"{name} is not a line of at most {LONGEST_TEXT} printable characters")
    return str(text)


def _number(entry: object, name: str, at_least: int = 0) -> int:
    value = _object(entry).get(name)
    if not _is_count(value, at_least):
        raise ValueError(f"{name} is {quoted(value)}, expected a whole number")
    assert isinstance(value, int)
    return value


def _is_count(value: object, at_least: int = 0) -> bool:
    return type(value) is int and at_least <= value <= LARGEST_NUMBER

"""What a measurement says, and that nothing hostile passes for one."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import CheckFailed, FileFormatError
from edgerl.profiling.measuring.measurement import (
    Result,
    benchmark_observations,
    bin_end,
    checked_observations,
    largest_difference,
    parse_result,
    summary,
)
from tests.policy.policies import random_policy
from tests.profiling.measurements import DIGEST, c_result, document


@pytest.mark.parametrize(
    ("time", "end"),
    [(0, 0), (1, 1), (15, 15), (16, 17), (17, 17), (18, 19), (31, 31), (32, 35), (1000, 1023), (1024, 1151)],
)
def test_a_bin_is_an_eighth_of_an_octave(time: int, end: int) -> None:
    """By hand: 16 to 31 ns in steps of 2, 32 to 63 in steps of 4, 512 to 1023 in steps of 64."""
    assert bin_end(time) == end


def test_percentiles_are_numpys_and_the_histogram_counts_every_call() -> None:
    times = np.random.default_rng(1).lognormal(8, 1, 4321).astype(np.int64)
    found = summary(times)
    for name, share in (("p50_ns", 0.5), ("p90_ns", 0.9), ("p99_ns", 0.99), ("max_ns", 1.0)):
        assert found[name] == np.quantile(times, share, method="inverted_cdf")
    assert found["calls"] == 4321
    ends = [end for end, _ in found["histogram"]]
    for end, count in found["histogram"]:
        begin = max((other for other in ends if other < end), default=-1)
        assert count == np.count_nonzero((times > begin) & (times <= end))


def test_observations_are_always_the_same_and_normal_around_the_policys_mean() -> None:
    policy = random_policy(3, (64, 8, 2))
    drawn = benchmark_observations(policy)
    assert drawn.tobytes() == benchmark_observations(random_policy(3, (64, 8, 2))).tobytes()
    assert drawn[0].tobytes() == policy.example_observation.tobytes()
    assert policy.observation_mean is not None
    normalised = (drawn[1:] - policy.observation_mean) * policy.observation_scale
    assert abs(normalised.mean()) < 0.1
    assert abs(normalised.std() - 1) < 0.05


def test_observations_are_finite_where_a_scale_is_zero_or_tiny() -> None:
    policy = random_policy(3)
    scale = np.array([0, 1e-45, 1e-38, 1, 1], np.float32)
    assert np.isfinite(benchmark_observations(replace(policy, observation_scale=scale))).all()


@pytest.mark.parametrize(("n_actions", "count"), [(1, 8), (512, 8), (1024, 4), (4097, 1), (65536, 1)])
def test_a_bounded_number_of_actions_is_reported(n_actions: int, count: int) -> None:
    assert checked_observations(n_actions) == count


def measured(**changes: Any) -> bytes:
    """A document whose measurement is changed."""
    result = c_result()
    result["measurements"][0] |= changes
    return document(result)


def test_a_result_is_read() -> None:
    result = parse_result(document(c_result()), "result.json")
    assert isinstance(result, Result)
    assert (result.policy_sha256, result.machine.board, result.machine.mhz) == (
        DIGEST,
        "NVIDIA Jetson Nano Developer Kit",
        1479,
    )
    (measurement,) = result.measurements
    assert (measurement.runtime, measurement.calls, measurement.p50_ns) == ("c", 10, 5000)
    assert measurement.histogram[-1] == (10239, 1)


def test_what_edgerl_measured_there_is_joined() -> None:
    second = c_result()
    second["measurements"][0]["runtime"] = "native"
    second["not_measured"] = {"onnxruntime": "it is not installed", "other": 5}
    result = parse_result(document(c_result(), second), "result.json")
    assert [measurement.runtime for measurement in result.measurements] == ["c", "native"]
    assert result.not_measured == {"onnxruntime": "it is not installed"}


def without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff", "it begins with"),
        (b'{"\xff"', "can't decode"),
        (b'{"a":' * 100_000, "nests too deeply"),
        (b"[" * 100_000, "it begins with '[[["),
        (b"[]", "it begins with '[]'"),
        (b"{}", "results is missing"),
        (b'{"results": [], "format": "edgerl benchmark", "version": 1}', "it holds 0 results, expected two"),
        (b'{"results": [null, null], "format": "edgerl benchmark", "version": 1}', "JSON object"),
        (document(c_result()).replace(b'"version": 1', b'"version": 2'), "expected the format 'edgerl benchmark'"),
        (document(c_result()).replace(b"1479", b"NaN"), "NaN is not a JSON number"),
        (document(c_result()).replace(b"1479", b"9" * 5000), "digits"),
        (document(c_result()).replace(b"1479", b"-1"), "mhz is -1, expected a whole number"),
        (document(c_result()).replace(b"1479", b"true"), "mhz is True"),
        (document(c_result()).replace(b"1479", b"1e3"), "mhz is 1000.0"),
        (document(c_result(board="\x1b[2J")), "board is not a line of at most 200 printable characters"),
        (document(c_result(board="a\nb")), "board is not a line"),
        (document(c_result(board="x" * 201)), "board is not a line"),
        (document(c_result(board=5)), "board is missing, or of another type"),
        (document({**c_result(), "policy_sha256": "AB" * 32}), "policy_sha256 is 'ABAB"),
        (document({**c_result(), "measurements": []}), "nothing was measured"),
        (document(c_result(), c_result()), "a runtime has two measurements"),
        (document(c_result(), c_result(architecture="x86_64")), "its results are of two policies or machines"),
        (document(without(c_result(), "machine")), "machine is missing"),
        (measured(runtime="gpu"), "the runtime is 'gpu'"),
        (measured(calls=0), "calls is 0"),
        (measured(calls=11), "the histogram counts 10 calls of 11"),
        (measured(p50_ns=6500), "p50_ns contradicts the histogram"),
        (measured(max_ns=11_000), "max_ns contradicts the histogram"),
        (measured(p90_ns=10_000), "p90_ns contradicts the histogram"),
        (measured(histogram=[]), "the histogram is empty"),
        (measured(histogram=[[10239, 5], [5119, 5]]), "bins do not rise"),
        (measured(histogram=[[10000, 10]]), "bins do not rise"),
        (measured(histogram=[[10239, 10, 1]]), "pair of whole numbers"),
        (measured(histogram=[[10239, -10]]), "pair of whole numbers"),
        (measured(actions=[]), "the actions are not a list of 1 to 8 lists"),
        (measured(actions=[[1.0]] * 9), "the actions are not a list of 1 to 8 lists"),
        (measured(actions=[[1.0], [1.0, 2.0]]), "the actions differ in length"),
        (measured(actions=[[None]]), "a number of an action is None"),
        (measured(actions=[[10**400]]), "a number of an action is 1000"),
        (document(c_result()).replace(b"-0.5", b"1e999"), "a number of an action is inf"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(data: bytes, problem: str) -> None:
    with pytest.raises(FileFormatError, match=r"result of a benchmark bundle \(.*") as caught:
        parse_result(data, "result.json")
    line = str(caught.value)
    assert line.startswith("result.json is not a result")
    assert problem in line
    assert "\n" not in line
    assert len(line) < 250


def test_lines_around_a_result_are_passed_over_and_without_one_the_first_is_shown() -> None:
    """As a shell's start-up file prints them."""
    result = document(c_result())
    around = b"Welcome to my board\n\xe9 {\n" + result + b"\nBye {\n"
    assert parse_result(around, "it") == parse_result(result, "it")
    for data, problem in (
        (b"\nWelcome to my board\nYou have mail\n", "it begins with 'Welcome"),
        (b"\n", "it is empty"),
    ):
        with pytest.raises(FileFormatError, match=rf"is not a result of a benchmark bundle \({problem}"):
            parse_result(data, "what board sent")


def test_a_result_of_impossible_size_is_refused_unread() -> None:
    with pytest.raises(FileFormatError, match="has more than 16777216 bytes"):
        parse_result(bytes((1 << 24) + 1), "result.json")


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@settings(max_examples=100)
@given(data=st.data())
def test_anything_at_any_place_is_a_result_or_refused(data: st.DataObject) -> None:
    whole = json.loads(document(c_result(), None))
    *outer, last = data.draw(st.sampled_from(places(whole)[1:]))
    changed = copy.deepcopy(whole)
    holder = changed
    for key in outer:
        holder = holder[key]
    holder[last] = data.draw(Json)
    try:
        parse_result(json.dumps(changed).encode(), "result.json")
    except FileFormatError as error:
        assert str(error).isprintable()  # noqa: PT017 — either outcome is right


def test_wrong_actions_are_found() -> None:
    policy = random_policy(1)
    right = c_result(policy, benchmark_observations(policy)[:8])
    (measurement,) = parse_result(document(right), "r").measurements
    assert largest_difference(measurement, policy) < 1e-12
    wrong = replace(measurement, actions=(measurement.actions[1], *measurement.actions[1:]))
    with pytest.raises(
        CheckFailed, match=r"c acts differently there: by .* of the action range, expected at most 0.0001"
    ):
        largest_difference(wrong, policy)
    with pytest.raises(CheckFailed, match="returned 7 actions of 3 numbers; expected 8 of 3"):
        largest_difference(replace(measurement, actions=measurement.actions[1:]), policy)


def test_the_documented_example_is_a_result() -> None:
    text = (Path(__file__).parents[3] / "docs/devices.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    result = parse_result(example.encode(), "docs/devices.md")
    assert result.measurement("c") is not None

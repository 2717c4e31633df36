"""The replay memory against a plain list and a float64 loop; files that are reopened, shared, broken and hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.edge.continual.replay import HEADER_BYTES, MAGIC, Boundary, Replay
from edgerl.errors import FileFormatError, OutputError

Array = npt.NDArray[Any]
N, M = 3, 2


class Transition(NamedTuple):
    observation: Array
    action: Array
    reward: float
    next_observation: Array
    boundary: Boundary


def _transitions(seed: int, count: int) -> list[Transition]:
    rng = np.random.default_rng(seed)
    boundaries = rng.choice([0, 0, 0, 0, 0, 1, 2, 3], count)
    return [
        Transition(
            rng.normal(size=N).astype(np.float32),
            rng.uniform(-1, 1, M).astype(np.float32),
            float(np.float32(rng.normal())),
            rng.normal(size=N).astype(np.float32),
            Boundary(boundary),
        )
        for boundary in boundaries
    ]


def _window(memory: list[Transition], start: int, discount: float, n_step: int) -> tuple[float, Array, float]:
    """(return, next observation, discount) of one window, in float64, from its definition."""
    total, factor = 0.0, 1.0
    for transition in memory[start : start + n_step]:
        total += factor * transition.reward
        factor *= discount
        last = transition
        if transition.boundary != Boundary.CONTINUES:
            break
    return total, last.next_observation, 0.0 if last.boundary == Boundary.TERMINATED else factor


def _assert_holds(replay: Replay, memory: list[Transition], discount: float = 0.9, n_step: int = 1) -> None:
    """The replay holds exactly `memory`, oldest first, and makes its windows."""
    assert replay.size == len(memory)
    if not memory:
        return
    indices = np.arange(len(memory))
    batch = replay.sample(indices, discount, n_step)
    windows = [_window(memory, index, discount, n_step) for index in indices]
    assert np.array_equal(batch.observations, [t.observation for t in memory])
    assert np.array_equal(replay.observations(indices), [t.observation for t in memory])
    assert np.array_equal(batch.actions, [t.action for t in memory])
    assert np.array_equal(batch.next_observations, [next_observation for _, next_observation, _ in windows])
    np.testing.assert_allclose(batch.returns, [total for total, _, _ in windows], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.discounts, [factor for _, _, factor in windows], rtol=1e-5)
    for array in (batch.observations, batch.actions, batch.returns, batch.next_observations, batch.discounts):
        assert array.dtype == np.float32


@given(
    st.integers(0, 2**32),
    st.integers(0, 60),
    st.integers(1, 20),
    st.integers(0, 10),
    st.sampled_from([0, 0.5, 0.99, 1]),
    st.integers(1, 7),
)
def test_the_memory_is_the_end_of_a_list(
    seed: int, count: int, capacity: int, slack: int, discount: float, n_step: int
) -> None:
    replay, transitions = Replay(None, N, M, capacity, slack=slack), _transitions(seed, count)
    for index, transition in enumerate(transitions):
        replay.append(*transition)
        if index % 7 == 0:
            _assert_holds(replay, transitions[: index + 1][-capacity:], discount, n_step)
    _assert_holds(replay, transitions[-capacity:], discount, n_step)
    assert replay.count == count


@given(st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.data())
def test_what_is_dropped_leaves_room_that_the_memory_grows_into_again(
    seed: int, capacity: int, counts: list[int], data: st.DataObject
) -> None:
    replay, kept = Replay(None, N, M, capacity, slack=3), list[Transition]()
    transitions = iter(_transitions(seed, sum(counts)))
    for count in counts:
        for _ in range(count):
            kept.append(next(transitions))
            replay.append(*kept[-1])
        kept = kept[-capacity:]
        number = data.draw(st.integers(0, len(kept)))
        replay.drop(number)
        kept = kept[number:]
        _assert_holds(replay, kept, n_step=3)
    assert replay.structure().capacity == len(kept)


def test_a_file_is_opened_without_what_was_dropped(tmp_path: Path) -> None:
    transitions = _transitions(0, 9)
    with closing(Replay(tmp_path / "replay.bin", N, M, 6, slack=2)) as replay:
        for transition in transitions:
            replay.append(*transition)
        replay.drop(4)
        dropped = replay.dropped
    with closing(Replay(tmp_path / "replay.bin", N, M, 6, slack=2, count=9, dropped=dropped)) as replay:
        _assert_holds(replay, transitions[-2:])
    with closing(Replay.open_recorded(tmp_path / "replay.bin", 9, dropped)) as replay:
        _assert_holds(replay, transitions[-2:])


def _rewards(*steps: tuple[float, Boundary]) -> Replay:
    replay = Replay(None, 1, 1, 8)
    for index, (reward, boundary) in enumerate(steps):
        replay.append(np.array([index]), np.zeros(1), reward, np.array([index + 1]), boundary)
    return replay


@pytest.mark.parametrize(
    ("end", "discounts"),
    [
        (Boundary.TERMINATED, [0, 0, 0.125]),
        (Boundary.TRUNCATED, [0.25, 0.5, 0.125]),
        (Boundary.GAP, [0.25, 0.5, 0.125]),
        (Boundary.CONTINUES, [0.125, 0.125, 0.125]),
    ],
)
def test_windows_of_three_end_where_they_must(end: Boundary, discounts: list[float]) -> None:
    go_on = Boundary.CONTINUES
    replay = _rewards((1, go_on), (2, end), (4, go_on), (8, go_on), (16, go_on), (32, go_on))
    batch = replay.sample(np.array([0, 1, 2]), 0.5, 3)
    stops = end is not go_on
    assert batch.returns.tolist() == ([2, 2, 12] if stops else [3, 6, 12])
    assert batch.discounts.tolist() == discounts
    assert batch.next_observations[:, 0].tolist() == ([2, 2, 5] if stops else [3, 4, 5])
    newest = replay.sample(np.array([4, 5]), 0.5, 3)  # cut at the write position: bootstrap with what they have
    assert newest.returns.tolist() == [32, 32]
    assert newest.discounts.tolist() == [0.25, 0.5]
    assert newest.next_observations[:, 0].tolist() == [6, 6]


def test_a_window_does_not_run_from_the_newest_into_the_oldest() -> None:
    replay = Replay(None, 1, 1, 3)
    for index in range(5):
        replay.append(np.array([index]), np.zeros(1), 10.0**index, np.array([index + 1]), Boundary.CONTINUES)
    assert replay.sample(np.array([0, 1, 2]), 1.0, 3).returns.tolist() == [11100, 11000, 10000]


def test_batches_are_copies() -> None:
    replay = _rewards((1, Boundary.CONTINUES))
    batch = replay.sample(np.array([0]), 0.5)
    observations = replay.observations(np.array([0]))
    for array in (batch.observations, batch.actions, batch.returns, batch.next_observations, observations):
        array[...] = 9
    again = replay.sample(np.array([0]), 0.5)
    assert (again.observations[0, 0], again.returns[0], again.next_observations[0, 0]) == (0, 1, 1)


# In a file.


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 12), st.integers(0, 50), st.data())
def test_a_checkpoint_finds_every_row_it_counts_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, capacity: int, slack: int, counted: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("replay") / "replay.bin"
    later = data.draw(st.integers(0, slack))
    transitions, others = _transitions(seed, counted + later), _transitions(seed + 1, 5)
    in_ram = Replay(None, N, M, capacity, slack=slack)
    with closing(Replay(path, N, M, capacity, slack=slack)) as replay:
        for transition in transitions:
            replay.append(*transition)
            in_ram.append(*transition)
        _assert_holds(replay, transitions[-capacity:], n_step=3)
        _assert_holds(in_ram, transitions[-capacity:], n_step=3)
    kept = transitions[:counted]
    with closing(Replay(path, N, M, capacity, slack=slack, count=counted)) as replay:
        _assert_holds(replay, kept[-capacity:], n_step=3)
        for transition in others:
            replay.append(*transition)
        _assert_holds(replay, (kept + others)[-capacity:], n_step=3)


def test_the_file_is_a_page_of_header_and_rows_of_float32(tmp_path: Path) -> None:
    """docs/format.md, read literally."""
    path = tmp_path / "replay.bin"
    transitions = _transitions(0, 6)
    with closing(Replay(path, N, M, 4, slack=1)) as replay:
        for transition in transitions:
            replay.append(*transition)
        replay.sync()
        data = path.read_bytes()
    width = 2 * N + M + 2
    assert len(data) == 4096 + 5 * width * 4
    magic, described = data[:4096].rstrip(b"\0").split(b"\n")
    assert magic == b"edgerl replay 1"
    assert json.loads(described) == {"observations": N, "actions": M, "capacity": 4, "slack": 1}
    rows = np.frombuffer(data, "<f4", offset=4096).reshape(5, width)
    for index in range(1, 6):
        t = transitions[index]
        expected = [*t.observation, *t.action, *t.next_observation, t.reward, t.boundary]
        assert rows[index % 5].tolist() == expected


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    program = (
        "import sys; from pathlib import Path; from edgerl.edge.continual.replay import Replay\n"
        "try: Replay(Path(sys.argv[1]), 1, 1, 4)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(path)]
    with closing(Replay(path, 1, 1, 4)) as replay:
        replay.append(np.ones(1), np.ones(1), 1, np.ones(1), Boundary.CONTINUES)
        with pytest.raises(OutputError, match=r"replay\.bin is in use by another process; stop that one first"):
            Replay(path, 1, 1, 4)
        other = subprocess.run(command, capture_output=True, text=True, check=True)
        assert other.stdout == f"OutputError {path} is in use by another process; stop that one first\n"
        assert other.stderr == ""
        with closing(Replay.open_recorded(path, 1)) as reader:  # reading is allowed meanwhile
            assert reader.observations(np.array([0])).tolist() == [[1]]
            replay.append(np.ones(1) * 2, np.ones(1), 1, np.ones(1), Boundary.CONTINUES)
            assert reader.size == 1
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    program = (
        "import os, sys, signal, numpy as np; from pathlib import Path\n"
        "from edgerl.edge.continual.replay import Boundary, Replay\n"
        "replay = Replay(Path(sys.argv[1]), 1, 1, 4)\n"
        "replay.append(np.ones(1) * 7, np.ones(1), 1, np.ones(1), Boundary.GAP)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    with closing(Replay(path, 1, 1, 4, count=1)) as replay:
        assert replay.observations(np.array([0])).tolist() == [[7]]


def _written(path: Path) -> bytes:
    Replay(path, N, M, 4, slack=1).close()
    return path.read_bytes()


@pytest.mark.parametrize("count", [0, 3])
def test_files_that_are_not_this_memory(count: int, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    data = _written(path)
    for n, m, capacity, slack in ((4, M, 4, 1), (N, 3, 4, 1), (N, M, 5, 0), (N, M, 3, 2), (N, M, 40, 1)):
        with pytest.raises(FileFormatError, match=r"replay\.bin is not this run's replay memory, or is truncated"):
            Replay(path, n, m, capacity, slack=slack, count=count)
    shorter = [data[:-1], data[: HEADER_BYTES + 8], data[:HEADER_BYTES], b""] if count else []
    for content in [data + b"\0", b"x" * len(data), b"something else entirely", *shorter]:
        path.write_bytes(content)
        problem = rf"is not this run's replay memory, or is truncated \({len(content)} bytes of {len(data)}\)$"
        with pytest.raises(FileFormatError, match=problem):
            Replay(path, N, M, 4, slack=1, count=count)
        assert path.read_bytes() == content, "what is refused is left alone"


@pytest.mark.parametrize("length", [0, 5, 100, HEADER_BYTES, HEADER_BYTES + 8])
def test_a_file_whose_making_was_cut_short_is_made_anew(length: int, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    data = _written(path)
    path.write_bytes(data[:length])
    assert _written(path) == data


def test_a_file_that_a_checkpoint_misses_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"replay\.bin is not there; the checkpoint counts on 3 transitions"):
        Replay(tmp_path / "replay.bin", N, M, 4, count=3)
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_memory_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"cannot open .*absent/replay\.bin: No such file or directory"):
        Replay(tmp_path / "absent" / "replay.bin", N, M, 4)
    with pytest.raises(OutputError, match=r"cannot open .*: Is a directory"):
        Replay(tmp_path, N, M, 4)
    for path in (None, tmp_path / "replay.bin"):
        with pytest.raises(OutputError, match=r"a replay of 10000000000 transitions has \d+ bytes; expected at most"):
            Replay(path, 1000, M, 10**10)

    def no_memory(*_: object) -> None:
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr("mmap.mmap", no_memory)
    with pytest.raises(OutputError, match=r"cannot make room for 4256 bytes in memory: Cannot allocate memory"):
        Replay(None, 1, 1, 8)
    with pytest.raises(OutputError, match=r"cannot make room for 4256 bytes in .*replay\.bin: Cannot allocate memory"):
        Replay(tmp_path / "replay.bin", 1, 1, 8)


# Read only.


def test_a_recorded_memory_is_read_with_any_count(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    transitions = _transitions(3, 9)
    with closing(Replay(path, N, M, 5, slack=2)) as replay:
        for transition in transitions:
            replay.append(*transition)
    before = path.read_bytes()
    for count in (9, 8, 7):
        with closing(Replay.open_recorded(path, count)) as replay:
            assert (replay.n_observations, replay.n_actions, replay.capacity, replay.slack) == (N, M, 5, 2)
            _assert_holds(replay, transitions[:count][-5:], n_step=2)
    assert path.read_bytes() == before


def _header(**changes: Any) -> bytes:
    sizes = {"observations": 1, "actions": 1, "capacity": 2, "slack": 0, **changes}
    return MAGIC + json.dumps({name: size for name, size in sizes.items() if size != "absent"}).encode()


HUGE = 1 << 40
HOSTILE = {
    "empty": (b"", "does not begin with"),
    "foreign": (b"PQ\3\4", "does not begin with"),
    "another version": (b"edgerl replay 2\n{}", "does not begin with"),
    "no JSON": (MAGIC, "Expecting value"),
    "not UTF-8": (MAGIC + b"\xff\xfe\xfd", "codec can't decode|Expecting value"),
    "nested": (MAGIC + b"[" * 4000, "nests too deeply"),
    "list": (MAGIC + b"[]", "does not have the keys observations, actions, capacity, slack"),
    "key missing": (_header(slack="absent"), "does not have the keys"),
    "key surplus": (_header(more=1), "does not have the keys"),
    "no observations": (_header(observations=0), "a size that is out of range"),
    "negative actions": (_header(actions=-1), "a size that is out of range"),
    "no capacity": (_header(capacity=0), "a size that is out of range"),
    "negative slack": (_header(slack=-1), "a size that is out of range"),
    "true": (_header(capacity=True), "a size that is out of range"),
    "float": (_header(capacity=2.0), "a size that is out of range"),
    "text": (_header(capacity="2"), "a size that is out of range"),
    "huge": (_header(capacity=HUGE + 1), "a size that is out of range"),
    "larger than it is": (_header(capacity=HUGE, observations=HUGE), r"it has 4136 bytes, expected \d{20,}"),
    "by one row": (_header(capacity=3), "it has 4136 bytes, expected 4156"),
}


@pytest.mark.parametrize(("header", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header(header: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    path.write_bytes(header.ljust(HEADER_BYTES, b"\0") + bytes(40))
    with pytest.raises(FileFormatError, match=rf"is not a replay memory, or is truncated: [^\n]*({problem})"):
        Replay.open_recorded(path, 0)


def test_the_header_that_the_hostile_ones_differ_from_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    path.write_bytes(_header().ljust(HEADER_BYTES, b"\0") + bytes(40))
    Replay.open_recorded(path, 0).close()
    for problem in (path.with_name("absent"), tmp_path):
        with pytest.raises(FileFormatError, match=r"cannot read .*: (No such file or|Is a) directory$"):
            Replay.open_recorded(problem, 0)

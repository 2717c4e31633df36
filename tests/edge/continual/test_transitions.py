"""The log of transitions against a list, its bytes against docs/format.md, and its file under power cuts, failing disks
and every flipped bit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.continual.transitions import (
    HEADER_BYTES,
    MAGIC,
    ForeignLogError,
    KeepPolicy,
    Precision,
    RecordFormat,
    Storage,
    Transitions,
    logged_observations,
)
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import library
from edgerl.edge.engine.random import Draws, Purpose, below
from edgerl.errors import ConfigError, FileFormatError, OutputError
from edgerl.files.disk import Disk
from tests.edge.learners import Array, M, N, Step, engine_rows, learner_config, steps
from tests.faults import SHORT, FaultyDisk, PowerCut

LOG = Path("transitions.log")
SEED = 11

STANDARD = (np.array([0.5, -2, 100], np.float32), np.array([1, 4, 0.01], np.float32))
"""Mean and scale of fp16 storage."""


class _Careless(Disk):
    """Waits for no disk: thousands of restarts in seconds."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _format(precision: Precision = "fp32", n: int = N, m: int = M) -> RecordFormat:
    return RecordFormat(n, m, precision, *STANDARD) if precision == "fp16" else RecordFormat(n, m)


def _memory(
    capacity: int = 6,
    keep: KeepPolicy = "ring",
    storage: Storage = "ram",
    precision: Precision = "fp32",
    disk: Disk | None = None,
    path: Path | None = LOG,
    n: int = N,
) -> Transitions:
    disk = _Careless() if disk is None else disk
    return Transitions(_format(precision, n), capacity, SEED, keep=keep, storage=storage, path=path, disk=disk)


def _append(memory: Transitions, step: Step) -> None:
    memory.append(step.observation, step.action, step.reward, step.following, step.boundary)


def _row(step: Step) -> bytes:
    """As fp32 rows hold it."""
    numbers = np.concatenate([step.observation, step.action, step.following]).astype("<f4")
    return numbers.tobytes() + struct.pack("<2f", step.reward, step.boundary)


def _rows(memory: Transitions) -> list[bytes]:
    """What the engine would see, from the oldest on; of a reservoir by slot."""
    return engine_rows(memory.structure(None, None), memory.shape.row_bytes)


def _as_gap(row: bytes) -> bytes:
    """The row as it is once nothing follows it."""
    return row[:-4] + struct.pack("<f", 3) if row[-4:] == bytes(4) else row


def _body(row: bytes) -> bytes:
    return row[:-4]


# The bytes.


def test_a_record_is_a_checksum_a_kind_a_number_and_the_row() -> None:
    """docs/format.md, read literally; the second record goes to the second place, the third over the first."""
    step = Step(np.array([1, 2, 3], "f4"), np.array([0.5, -1], "f4"), -0.25, np.array([4, 5, 6], "f4"), Boundary(0))
    with closing(_memory(2)) as memory:
        for boundary in (0, 1, 0):
            _append(memory, step._replace(boundary=Boundary(boundary)))
    described = b'{"actions":2,"capacity":2,"constants":0,"keep":"ring","observations":3,"precision":"fp32"}'
    text = b"edgerl transitions 1\n" + described
    header = text + bytes(4096 - len(text))
    records = []
    for number, boundary in ((2, 0), (1, 1)):
        content = struct.pack("<IQ8fff", 1, number, 1, 2, 3, 0.5, -1, 4, 5, 6, -0.25, boundary)
        records.append(struct.pack("<I", zlib.crc32(header + content)) + content)
    assert LOG.read_bytes() == header + b"".join(records)


def test_a_record_of_halves_is_padded_to_four_bytes() -> None:
    shape = RecordFormat(1, 1, "fp16", np.array([1], "f4"), np.array([2], "f4"))
    with closing(Transitions(shape, 1, SEED, path=LOG)) as memory:
        memory.append(np.array([1.5], "f4"), np.array([-0.5], "f4"), 3, np.array([-3], "f4"), Boundary.TRUNCATED)
    described = b'{"actions":1,"capacity":1,"constants":%d,"keep":"ring","observations":1,"precision":"fp16"}'
    text = b"edgerl transitions 1\n" + described % zlib.crc32(struct.pack("<2f", 1, 2))
    header = text + bytes(4096 - len(text))
    content = struct.pack("<IQ3e2x2f", 1, 0, 1, -0.5, -8, 3, 2)
    assert LOG.read_bytes() == header + struct.pack("<I", zlib.crc32(header + content)) + content
    assert (shape.row_offset, shape.row_bytes, shape.record.itemsize) == (16, 16, 32)


def test_a_gap_is_marked_in_place_and_changes_no_checksum() -> None:
    with closing(_memory()) as memory:
        _append(memory, steps(1)[0]._replace(boundary=Boundary.CONTINUES))
        before = LOG.read_bytes()
        memory.break_off()
        after = LOG.read_bytes()
    record = HEADER_BYTES + _format().record.itemsize
    assert after[: record - 4] == before[: record - 4]
    assert (before[record - 4 : record], after[record - 4 : record]) == (bytes(4), struct.pack("<f", 3))


# A ring is the end of a list, a reservoir is algorithm R.


class _Model:
    """Slots, numbers and rows, in plain Python."""

    def __init__(self, capacity: int, keep: KeepPolicy) -> None:
        self.capacity, self.keep = capacity, keep
        self.number = 0
        self.slots: list[tuple[int, bytes]] = []  # of a ring the oldest first
        self.ends_open = False  # the newest may be followed

    def append(self, step: Step) -> int | None:
        """The slot of a reservoir that was taken."""
        entry, slot = (self.number, _row(step)), None
        if self.keep == "ring":
            self.slots = [*self.slots, entry][-self.capacity :]
            self.ends_open = True
        elif len(self.slots) < self.capacity:
            slot = len(self.slots)
            self.slots.append(entry)
        else:
            high, low = (int(word) for word in Draws(SEED).words(Purpose.RESERVOIR, self.number, 2))
            drawn = ((high << 32) + low) * (self.number + 1) // 2**64
            if drawn < self.capacity:
                self.slots[slot := drawn] = entry
        self.number += 1
        return slot

    def break_off(self) -> None:
        if self.ends_open:
            number, row = self.slots[-1]
            self.slots[-1] = number, _as_gap(row)
        self.ends_open = False

    def skip(self) -> None:
        self.break_off()
        self.number += self.keep == "ring"


_OPERATIONS = st.lists(st.sampled_from(["append"] * 8 + ["skip", "break off", "reopen", "sync"]), max_size=60)


def _assert_is(memory: Transitions, model: _Model) -> None:
    assert _rows(memory) == [row for _, row in model.slots]
    assert (memory.size, memory.number) == (len(model.slots), model.number)
    assert sorted(memory.numbers.tolist()) == sorted(number for number, _ in model.slots)


@pytest.mark.parametrize("storage", ["ram", "mapped"])
@pytest.mark.parametrize("keep", ["ring", "reservoir"])
@settings(max_examples=60)
@given(_OPERATIONS, st.integers(1, 9), st.integers(0, 1000))
def test_the_memory_is_that_of_a_simple_model(
    tmp_path_factory: pytest.TempPathFactory,
    keep: KeepPolicy,
    storage: Storage,
    operations: list[str],
    capacity: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    model, memory = _Model(capacity, keep), _memory(capacity, keep, storage, path=path)
    for operation, step in zip(operations, steps(len(operations), seed), strict=True):
        if operation == "append":
            _append(memory, step)
            model.append(step)
        elif operation == "skip":
            memory.skip()
            model.skip()
        elif operation == "break off":
            memory.break_off()
            model.break_off()
        elif operation == "sync":
            memory.sync()
        else:
            memory.close()
            memory = _memory(capacity, keep, storage, path=path)
            model.break_off()
            # What a reservoir did not take, and skipped numbers, left no trace.
            model.number = max((number for number, _ in model.slots), default=-1) + 1
        _assert_is(memory, model)
    memory.close()


def test_a_ring_in_memory_alone_needs_no_file() -> None:
    model, memory = _Model(4, "ring"), _memory(4, path=None)
    for step in steps(11):
        _append(memory, step)
        model.append(step)
    memory.sync()
    _assert_is(memory, model)
    assert os.listdir() == []
    assert memory.bytes_written == 0


def test_every_transition_is_as_likely_in_a_reservoir() -> None:
    """Chi-square over 3000 seeds: each of 40 transitions is kept with probability 8/40, wherever it came; so are those
    before and after refused ones."""
    count, capacity, repeats = 40, 8, 3000
    step = steps(1)[0]
    kept = np.zeros(count)
    shape = RecordFormat(1, 1)
    one = np.zeros(1, np.float32)
    for seed in range(repeats):
        memory = Transitions(shape, capacity, seed, keep="reservoir")
        for index in range(count):
            memory.append(one, one, float(index), one, step.boundary)
            if index % 3 == 0:
                memory.skip()
        for row in _rows(memory):
            kept[int(struct.unpack_from("<f", row, 12)[0])] += 1
    share = capacity / count
    assert kept.sum() == repeats * capacity
    statistic = float(((kept - repeats * share) ** 2).sum() / (repeats * share * (1 - share)) * (count - 1) / count)
    assert 15 < statistic < 76, "39 degrees of freedom: 0.02 % on either side"


def test_a_reservoir_goes_on_drawing_fairly_after_restarts() -> None:
    """Half of the slots hold transitions of each half of 4000, with a restart after every 200."""
    kept = []
    for number in range(4000):
        if number % 200 == 0:
            memory = _memory(200, "reservoir")
            memory.number = number  # as the snapshot says
        _append(memory, steps(1)[0])
        if number % 200 == 199:
            memory.close()
    with closing(_memory(200, "reservoir")) as memory:
        kept = memory.numbers.tolist()
    assert len(set(kept)) == 200
    assert 72 < sum(number < 2000 for number in kept) < 128, "four standard deviations of a half"


# Standardised halves.


def _exactly(step: Step) -> tuple[Array, Array]:
    mean, scale = (part.astype(np.float64) for part in STANDARD)
    return (step.observation - mean) * scale, (step.following - mean) * scale


def test_halves_are_standardised_and_saturate() -> None:
    """Within rounding of float64, and counted where they do not fit."""
    draw = np.random.default_rng(3)
    size, memory = 300, _memory(300, precision="fp16", path=None)
    observations = (draw.normal(size=(size, 2, N)) * 10 ** draw.uniform(-6, 8, (size, 2, N))).astype(np.float32)
    observations[0] = [[65504.5, -2, 100], [65504.5 + 12, -65504 / 4 - 2, 6550500]]
    observations[1] = [[3e38, -3e38, 0], [1e-45, 0, -0.0]]
    saturations = 0
    for x, y in observations:
        _append(memory, Step(x, np.array([1, -1 / 3], np.float32), 0.1, y, Boundary.TERMINATED))
        with np.errstate(over="ignore"):
            exact = (np.concatenate([x, y]).astype(np.float64) - np.tile(STANDARD[0], 2)) * np.tile(STANDARD[1], 2)
        saturations += int((np.abs(exact) > 65504).sum())
    for row, (x, y) in zip(_rows(memory), observations, strict=True):
        stored = np.frombuffer(row, "<f2", 2 * N + M).astype(np.float64)
        assert struct.unpack_from("<ff", row, 16) == (np.float32(0.1), 1)
        assert stored[N : N + M].tolist() == [1, float(np.float16(-1 / 3))]
        for part, given_ in ((stored[:N], x), (stored[N + M :], y)):
            exact = np.clip((given_.astype(np.float64) - STANDARD[0]) * STANDARD[1], -65504, 65504)
            half_step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-14))) - 11)  # of fp16
            assert (np.abs(part - exact) <= half_step + np.abs(exact) * 2.0**-22).all()
    assert memory.saturations == saturations
    assert saturations > 100


def test_numbers_as_they_are_never_saturate() -> None:
    memory = _memory(path=None)
    largest = np.full(N, np.finfo(np.float32).max)
    _append(memory, Step(largest, np.ones(M, np.float32), 1e38, -largest, Boundary.CONTINUES))
    assert _rows(memory) == [_row(Step(largest, np.ones(M, np.float32), 1e38, -largest, Boundary.CONTINUES))]
    assert memory.saturations == 0


@pytest.mark.parametrize("normalise", [False, True])
def test_decoding_undoes_the_standardisation_and_does_what_the_networks_need(normalise: bool) -> None:
    mean = np.array([1, -1, 90], np.float32) if normalise else None
    scale = np.array([0.5, 3, 0.02], np.float32) if normalise else None
    decoded = _format("fp16").decoding(mean, scale)
    draw = np.random.default_rng(0)
    x = STANDARD[0] + draw.normal(size=(100, N)) / STANDARD[1]
    stored = (x - STANDARD[0]) * STANDARD[1]
    assert decoded[0] is not None
    assert decoded[1] is not None
    wanted = x if mean is None or scale is None else (x - mean) * scale
    np.testing.assert_allclose((stored - decoded[0]) * decoded[1], wanted, rtol=1e-5, atol=1e-5)
    assert decoded[0].dtype == decoded[1].dtype == np.float32
    assert _format("fp32").decoding(mean, scale) == (mean, scale)


# What the engine draws.


class _Batch:
    """Columns of an update's first slice, found in a naive learner's arena by their bytes."""

    def __init__(self, memory: Transitions, n_step: int, normalise: tuple[Array | None, Array | None]) -> None:
        self.config = learner_config(batch=16, n_step=n_step, lanes=1, isa=0)
        self.arena = LearnerArena(library(), self.config)
        self.decoding = memory.shape.decoding(*normalise)
        assert not self.arena.step(memory.structure(*self.decoding), 1)
        self.scratch = self.arena.memory[self.arena.bytes.state :].tobytes()

    def indices(self, size: int) -> Array:
        return below(Draws(self.config.seed).words(Purpose.REPLAY, 1, self.config.batch), size)

    def holds(self, columns: Array) -> bool:
        return np.ascontiguousarray(columns, np.float32).tobytes() in self.scratch


def _decoded(memory: Transitions, row: bytes, decoding: tuple[Array | None, Array | None]) -> Step:
    """A stored row as the networks are to see it: float32 arithmetic, as the engine's header says."""
    kind = "<f2" if memory.shape.precision == "fp16" else "<f4"
    numbers = np.frombuffer(row, kind, 2 * N + M).astype(np.float32)
    parts = [numbers[:N], numbers[N + M :]]
    mean, scale = decoding
    if mean is not None and scale is not None:
        parts = [(part - mean) * scale for part in parts]
    reward, boundary = struct.unpack("<ff", row[-8:])
    return Step(parts[0], numbers[N : N + M], reward, parts[1], Boundary(int(boundary)))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("storage", ["ram", "mapped"])
@pytest.mark.parametrize(
    ("precision", "keep", "n_step"),
    [("fp32", "ring", 1), ("fp32", "ring", 4), ("fp16", "ring", 4), ("fp16", "reservoir", 1), ("fp32", "reservoir", 1)],
)
@pytest.mark.parametrize("count", [5, 40, 97])
def test_the_engine_draws_what_the_replay_of_training_would(
    precision: Precision, keep: KeepPolicy, n_step: int, storage: Storage, normalise: bool, count: int
) -> None:
    """Windows, boundaries and discounts: the same bits as Replay.sample makes of the same rows."""
    scaling = (np.array([1, -1, 90], np.float32), np.array([0.5, 3, 0.02], np.float32))
    with closing(_memory(40, keep, storage, precision)) as memory:
        for index, step in enumerate(steps(count, seed=count)):
            _append(memory, step)
            if index % 23 == 7:
                memory.skip()
        batch = _Batch(memory, n_step, scaling if normalise else (None, None))
        reference = Replay(None, N, M, 40)
        for row in _rows(memory):
            t = _decoded(memory, row, batch.decoding)
            reference.append(t.observation, t.action, t.reward, t.following, t.boundary)
    expected = reference.sample(batch.indices(reference.size), batch.config.discount, n_step)
    assert batch.holds(np.concatenate([expected.observations, expected.actions], axis=1).T)
    assert batch.holds(expected.next_observations.T)
    assert batch.holds(np.concatenate([expected.returns, expected.discounts])) or (
        batch.holds(expected.returns) and batch.holds(expected.discounts)
    )
    assert not batch.holds(expected.returns + 1)


def test_no_window_crosses_a_gap_or_a_restart() -> None:
    one = np.ones(N, np.float32)

    def step(index: int) -> Step:
        return Step(one * index, np.zeros(M, np.float32), 2.0**index, one * index, Boundary.CONTINUES)

    memory = _memory(20)
    for index in range(9):
        if index == 3:
            memory.skip()
        if index == 5:
            memory.break_off()
        if index == 7:
            memory.close()
            memory = _memory(20)
        _append(memory, step(index))
    boundaries = [struct.unpack("<f", row[-4:])[0] for row in _rows(memory)]
    assert boundaries == [0, 0, 3, 0, 3, 0, 3, 0, 0]
    assert sorted(memory.numbers.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    memory.close()


# The same after a restart, whatever was done to the file.


def _filled(
    keep: KeepPolicy = "ring",
    storage: Storage = "ram",
    count: int = 17,
    capacity: int = 6,
    precision: Precision = "fp32",
) -> list[bytes]:
    """A log; its rows as a restart finds them."""
    with closing(_memory(capacity, keep, storage, precision)) as memory:
        for index, step in enumerate(steps(count)):
            _append(memory, step)
            if index == 13:
                memory.skip()
        rows = _rows(memory)
    return rows if keep == "reservoir" else [*rows[:-1], _as_gap(rows[-1])]


@pytest.mark.parametrize("count", [0, 1, 4, 6, 7, 17, 700])
@pytest.mark.parametrize("storage", ["ram", "mapped"])
@pytest.mark.parametrize("keep", ["ring", "reservoir"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_restart_finds_what_was_there(precision: Precision, keep: KeepPolicy, storage: Storage, count: int) -> None:
    capacity = 6 if count < 100 else 600  # more than what is looked at together
    rows = _filled(keep, storage, count, capacity, precision) if count else []
    content = LOG.read_bytes() if count else b""
    for again in ("ram", "mapped"):
        with closing(_memory(capacity, keep, again, precision)) as memory:
            assert _rows(memory) == rows
            assert memory.damaged == 0
    if rows and keep == "reservoir":
        assert LOG.read_bytes() == content


def test_mapped_and_ram_have_the_same_bytes() -> None:
    files = []
    for storage in ("ram", "mapped"):
        with closing(_memory(7, storage=storage)) as memory:
            for index, step in enumerate(steps(30)):
                _append(memory, step)
                if index % 11 == 3:
                    memory.skip()
            files.append((_rows(memory), LOG.read_bytes()))
        LOG.unlink()
    assert files[0] == files[1]


def _boundary_of(row: bytes) -> float:
    return float(struct.unpack("<f", row[-4:])[0])


def _check_damaged(rows: list[bytes], expected: list[bytes]) -> None:
    """Nothing is there that never was; no window goes on where it did not."""
    known = {_body(row): _boundary_of(row) for row in expected}
    follows = {(_body(a), _body(b)) for a, b in pairwise(expected) if _boundary_of(a) == 0}
    for row, following in zip(rows, [*rows[1:], b""][: len(rows)], strict=True):
        assert _body(row) in known
        if _boundary_of(row) == 0:
            assert (_body(row), _body(following)) in follows
        else:  # a window may end early, but not an episode otherwise than it did
            assert _boundary_of(row) == known[_body(row)] or (_boundary_of(row), known[_body(row)]) == (3, 0)


def _flip(content: bytes, position: int, bit: int) -> None:
    altered = bytearray(content)
    altered[position] ^= 1 << bit
    with LOG.open("r+b") as file:  # of the same size: thousands of times faster than making it again
        file.write(altered)


@pytest.mark.parametrize(("keep", "storage"), [("ring", "ram"), ("ring", "mapped"), ("reservoir", "ram")])
@pytest.mark.parametrize("count", [4, 10])
def test_no_bit_that_flips_in_a_record_is_ever_sampled(keep: KeepPolicy, storage: Storage, count: int) -> None:
    expected = _filled(keep, storage, count)
    content = LOG.read_bytes()
    bits = range(len(content) - HEADER_BYTES) if storage == "ram" else range(0, len(content) - HEADER_BYTES, 7)
    size = _format().record.itemsize
    for position in bits:
        for bit in range(8) if storage == "ram" else (3, 6):
            _flip(content, HEADER_BYTES + position, bit)
            with closing(_memory(6, keep, storage)) as memory:
                rows = _rows(memory)
                assert memory.damaged == 1
            _check_damaged(rows, expected) if keep == "ring" else None
            assert {_body(row) for row in rows} <= {_body(row) for row in expected}
            assert len({_body(row) for row in rows}) >= len(expected) - (position // size < count)


@pytest.mark.parametrize(("capacity", "count"), [(6, 4), (6, 12), (600, 580)])
def test_the_newest_is_the_newest_however_often_it_stands_there(capacity: int, count: int) -> None:
    """Where all others were damaged it is put in their place, in numbers of its own; and the next one comes after."""
    expected = _filled(count=count, capacity=capacity)
    newest, size = (count - 1) % capacity, _format().record.itemsize
    content = bytearray(LOG.read_bytes())
    for slot in set(range(min(count, capacity))) - {newest}:
        content[HEADER_BYTES + slot * size + 20] ^= 1
    LOG.write_bytes(content)
    for restart in range(3):
        with closing(_memory(capacity)) as memory:
            assert {_body(row) for row in _rows(memory)} == {_body(expected[-1])}
            assert memory.size == min(count, capacity)
            assert memory.damaged == (min(count, capacity) - 1 if restart == 0 else 0)
    with closing(_memory(capacity)) as memory:
        for number, step in enumerate(steps(3, seed=9), 1):
            _append(memory, step)
            assert [_body(row) for row in _rows(memory)][-number:] == [
                _body(_row(s)) for s in steps(3, seed=9)[:number]
            ]
            assert memory.size == min(count + number, capacity)


def test_two_flips_that_turn_a_gap_into_going_on_are_seen_by_the_numbers() -> None:
    """The one change that a checksum cannot see; the other way round is harmless."""
    expected = _filled(count=6)
    content = bytearray(LOG.read_bytes())
    size = _format().record.itemsize
    ends = [HEADER_BYTES + (slot + 1) * size - 4 for slot in range(6)]
    for end in ends:
        if content[end : end + 4] == struct.pack("<f", 3):
            content[end : end + 4] = bytes(4)
    LOG.write_bytes(content)
    with closing(_memory()) as memory:
        assert _rows(memory) == expected
    for end in ends:
        if content[end : end + 4] == bytes(4):
            content[end : end + 4] = struct.pack("<f", 3)
    LOG.write_bytes(content)
    with closing(_memory()) as memory:
        assert _rows(memory) == [_as_gap(row) for row in expected]


def test_no_bit_that_flips_in_the_header_loses_a_record() -> None:
    expected = _filled()
    _memory().close()
    content = LOG.read_bytes()
    for position in (*range(0, 130, 2), *range(130, HEADER_BYTES, 97)):
        _flip(content, position, position % 8)
        with closing(_memory()) as memory:
            assert _rows(memory) == expected
            assert memory.damaged == 1
        assert LOG.read_bytes() == content, "made whole"


def test_a_log_that_was_cut_short_loses_no_more_than_was_cut() -> None:
    expected = _filled(count=5)
    content, size = LOG.read_bytes(), _format().record.itemsize
    for length in (0, 1, 50, 4095, *range(HEADER_BYTES, len(content))):
        LOG.write_bytes(content[:length])
        rest = content[length:]
        whole = sum(not any(rest[: max(HEADER_BYTES + (slot + 1) * size - length, 0)]) for slot in range(5))
        with closing(_memory()) as memory:
            rows = _rows(memory)
        assert [_body(row) for row in rows] == [_body(row) for row in expected[:whole]]
        _check_damaged(rows, expected)
        assert len(LOG.read_bytes()) == len(content)


def _foreign(draw: np.random.Generator) -> Iterator[bytes]:
    """Contents of files that are not a log; the last begin with zeros, as an image of a disk may."""
    size = HEADER_BYTES + 6 * _format().record.itemsize
    for length in (1, 40, 4096, 4097, size - 1, size, size + 1, 3 * size):
        yield draw.bytes(length)
        yield b"A line of text, and another one.\n" * (length // 33 + 1)
        yield bytes(length) + draw.bytes(100)
    yield bytes(size + 1)


@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_what_is_nobodys_log_is_refused_and_not_touched(storage: Storage) -> None:
    for content in _foreign(np.random.default_rng(0)):
        LOG.write_bytes(content)
        with pytest.raises(ForeignLogError, match=r"^transitions\.log is not a log of a learner; move it away, or ch"):
            _memory(storage=storage)
        assert LOG.read_bytes() == content


def test_a_file_of_nothing_is_a_log_that_was_begun() -> None:
    for length in (0, 5, HEADER_BYTES, HEADER_BYTES + 6 * _format().record.itemsize):
        LOG.write_bytes(bytes(length))
        with closing(_memory()) as memory:
            assert (memory.size, memory.number, memory.damaged) == (0, 0, 0)
            _append(memory, steps(1)[0])
            assert _rows(memory) == [_row(steps(1)[0])]


def test_the_log_of_another_learner_is_refused_and_not_touched() -> None:
    for other in (
        lambda: _memory(5),
        lambda: _memory(keep="reservoir"),
        lambda: _memory(precision="fp16"),
        lambda: Transitions(RecordFormat(2, 4), 6, SEED, path=LOG),
        lambda: Transitions(RecordFormat(N, M, "fp16", STANDARD[0], STANDARD[1] * 2), 6, SEED, path=LOG),
    ):
        with closing(other()) as memory:
            n, m = memory.shape.n_observations, memory.shape.n_actions
            for step in steps(9, n=n, m=m):
                _append(memory, step)
            header = memory._header
        content = LOG.read_bytes()
        for own in (_memory, lambda: _memory(precision="fp16")):
            if header == _header_of(own):
                continue
            with pytest.raises(ForeignLogError, match=r"^transitions\.log is the log of another learner; move it away"):
                own()
            assert LOG.read_bytes() == content
        LOG.unlink()


def _header_of(make: Callable[[], Transitions]) -> bytes:
    """What the log of such a memory begins with."""
    LOG.rename("elsewhere")
    with closing(make()) as memory:
        header = memory._header
    Path("elsewhere").replace(LOG)
    return header


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("target")])
def test_what_is_no_file_is_no_log(make: Callable[[Path], object]) -> None:
    _filled()
    LOG.rename("target")
    content = Path("target").read_bytes()
    make(LOG)
    problem = r"^cannot open transitions\.log: (Is a directory|\S+ is not a regular file|\S+ is a link, and links)"
    with pytest.raises(OutputError, match=problem):
        _memory()
    assert Path("target").read_bytes() == content


def test_a_record_of_numbers_that_no_transition_has_is_left_out() -> None:
    """Though its checksum is right."""
    _filled(count=6)
    content, size = bytearray(LOG.read_bytes()), _format().record.itemsize
    header = bytes(content[:HEADER_BYTES])

    def spoil(slot: int, offset: int, data: bytes) -> None:
        begin = HEADER_BYTES + slot * size
        content[begin + offset : begin + offset + len(data)] = data
        row = bytes(content[begin + 4 : begin + size])
        content[begin : begin + 4] = struct.pack("<I", zlib.crc32(row, zlib.crc32(header)))

    spoil(0, 16, struct.pack("<f", np.nan))
    spoil(1, 16 + 4 * (2 * N + M), struct.pack("<f", np.inf))
    spoil(2, size - 4, struct.pack("<f", 1.5))
    spoil(3, 4, struct.pack("<I", 2))
    spoil(4, 8, struct.pack("<Q", 1 << 52))
    LOG.write_bytes(content)
    with closing(_memory()) as memory:
        assert memory.damaged == 5
        assert set(memory.numbers.tolist()) == {5}
        assert len({_body(row) for row in _rows(memory)}) == 1


# Power cuts.


WIDE = 252
"""Observations of a record of 2048 bytes: it ends with a sector, and every second one with a page."""


class _Script:
    """Appends, gaps, syncs and a restart, and what of them must be there after a power cut."""

    def __init__(self, keep: KeepPolicy, storage: Storage, seed: int, capacity: int = 5) -> None:
        self.keep, self.storage, self.capacity = keep, storage, capacity
        self.model = _Model(capacity, keep)
        self.added: dict[int, bytes] = {}  # all that were added, by number
        self.synced: set[int] = set()
        self.draw = np.random.default_rng(seed)
        self.seed = seed
        self.follows: set[tuple[int, int]] = set()  # the numbers of transitions that follow each other

    def run(self, disk: Disk, count: int, name: str = "log") -> None:
        memory = _memory(self.capacity, self.keep, self.storage, disk=disk, path=Path(name), n=WIDE)
        self._restart(memory)
        for index, step in enumerate(steps(count, int(self.draw.integers(1 << 30)), WIDE)):
            chance = self.draw.random()
            if chance < 0.1:
                memory.skip()
                self.model.skip()
            elif chance < 0.2:
                memory.break_off()
                self.model.break_off()
            self._append(memory, step)
            if chance > 0.8 or index % 6 == 5:
                memory.sync()
                self.synced = {number for number, _ in self.model.slots}
            if 0.7 < chance < 0.8:
                memory.close()
                memory = _memory(self.capacity, self.keep, self.storage, disk=disk, path=Path(name), n=WIDE)
                self._restart(memory)
        memory.close()

    def _append(self, memory: Transitions, step: Step) -> None:
        before = self.model.slots[-1] if self.model.slots else (-1, b"")
        if self.model.ends_open and before[1][-4:] == bytes(4):
            self.follows.add((before[0], self.model.number))
        self.added[self.model.number] = _row(step)
        self.model.append(step)
        _append(memory, step)

    def _restart(self, memory: Transitions) -> None:
        self.model.break_off()
        self.model.number = memory.number  # of a reservoir's that were not taken no trace is left

    def check(self, memory: Transitions) -> None:
        rows, size = _rows(memory), memory.size
        slots = [(memory._appended - size + i) % self.capacity for i in range(size)]
        numbers = [int(memory.records["number"][slot]) for slot in slots]
        if self.keep == "reservoir":
            numbers = [int(n) for n in memory.records["number"][:size]]
        for number, row in zip(numbers, rows, strict=True):
            assert number in self.added, "nothing is invented"
            assert row in (self.added[number], _as_gap(self.added[number]))
        present = {number for number, _ in self.model.slots}  # those that were replaced since may be lost
        assert self.synced & present <= set(numbers), "nothing is lost that was synced"
        following = [*numbers[1:], -1][: len(numbers)]
        for first, second, row in zip(numbers, following, rows, strict=True):
            if self.keep == "ring" and row[-4:] == bytes(4):
                assert (first, second) in self.follows, "no window goes on over a gap"

    def adopt(self, memory: Transitions) -> None:
        """Take what was found for what is there."""
        records = memory.records[: memory.size]
        if self.keep == "ring":
            order = [(memory._appended - memory.size + i) % self.capacity for i in range(memory.size)]
            records = memory.records[order]
        rows = _rows(memory)
        self.model.slots = [(int(n), row) for n, row in zip(records["number"], rows, strict=True)]
        self.model.number, self.model.ends_open = memory.number, False
        self.added = {int(n): row for n, row in zip(records["number"], rows, strict=True)}
        self.synced = set(self.added)


MEMORIES = [("ring", "ram"), ("ring", "mapped"), ("reservoir", "ram"), ("reservoir", "mapped")]


@pytest.mark.parametrize(("keep", "storage"), MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_operation_loses_nothing_that_was_synced(
    keep: KeepPolicy, storage: Storage, seed: int, tmp_path: Path
) -> None:
    disk = FaultyDisk()
    _Script(keep, storage, seed).run(disk, 20)
    count = len(disk.operations)
    assert disk.operations.count("sync") > 4
    for cut in range(count + 1):
        for again in range(2):
            (folder := tmp_path / f"{cut}-{again}").mkdir()
            os.chdir(folder)
            disk, script = FaultyDisk(), _Script(keep, storage, seed)
            disk.power_cut(cut, seed + 10 * again)
            with contextlib.suppress(PowerCut):
                script.run(disk, 20)
            disk.after_power_cut(folder)
            with closing(_memory(5, keep, storage, path=Path("log"), n=WIDE)) as memory:
                script.check(memory)
                _append(memory, steps(1, n=WIDE)[0])
                assert _row(steps(1, n=WIDE)[0]) in _rows(memory) or keep == "reservoir"


def test_a_power_cut_after_a_restart_makes_no_window_of_what_was_before_and_after(tmp_path: Path) -> None:
    """The mark of the gap is on the disk before anything that comes behind it, whichever pages are lost."""
    go_on = [step._replace(boundary=Boundary.CONTINUES) for step in steps(4, n=WIDE)]
    survived = 0
    for seed in range(60):
        (folder := tmp_path / str(seed)).mkdir()
        os.chdir(folder)
        with closing(_memory(path=Path("log"), n=WIDE)) as memory:
            for step in go_on[:2]:
                _append(memory, step)
        disk = FaultyDisk()
        disk.power_cut(-1, seed)
        memory = _memory(disk=disk, path=Path("log"), n=WIDE)
        for step in go_on[2:]:
            _append(memory, step)
        disk.after_power_cut(folder)
        with closing(_memory(path=Path("log"), n=WIDE)) as memory:
            rows = _rows(memory)
            survived += memory.size > 2
            assert [_boundary_of(row) for row in rows[:2]] == [0, 3]
    assert 10 < survived < 60


@pytest.mark.parametrize(("keep", "storage"), MEMORIES)
def test_a_second_power_cut_while_the_first_is_recovered_from(
    keep: KeepPolicy, storage: Storage, tmp_path: Path
) -> None:
    disk = FaultyDisk()
    _Script(keep, storage, 1).run(disk, 16)
    for first in range(0, len(disk.operations), 3):
        for second in range(14):
            (folder := tmp_path / f"{first}-{second}").mkdir()
            os.chdir(folder)
            disk, script = FaultyDisk(), _Script(keep, storage, 1)
            disk.power_cut(first, first)
            with contextlib.suppress(PowerCut):
                script.run(disk, 16)
            disk.after_power_cut(folder)
            disk = FaultyDisk()
            disk.power_cut(second, second)
            with contextlib.suppress(PowerCut):
                memory = _memory(5, keep, storage, disk=disk, path=Path("log"), n=WIDE)
                script.check(memory)
                script.adopt(memory)
                for step in steps(4, second, WIDE):
                    script._append(memory, step)
            disk.after_power_cut(folder)
            with closing(_memory(5, keep, storage, path=Path("log"), n=WIDE)) as memory:
                script.check(memory)


# Disks that fail.


def _is_refused(operation: Callable[[], None]) -> bool:
    try:
        operation()
    except OutputError as error:
        return str(error).endswith("; learning continues in RAM")
    return False


def _appends(memory: Transitions, model: _Model, count: int, seed: int) -> int:
    """Append, skip and sync, and go on where the disk refuses; how often it did."""
    refusals = 0
    for index, step in enumerate(steps(count, seed)):
        operations: list[Callable[[], None]] = []
        if index % 4 == 3:
            operations.append(memory.skip)
            model.skip()
        model.append(step)
        operations.append(lambda step=step: _append(memory, step))  # type: ignore[misc]
        if index % 5 == 2:
            operations.append(memory.sync)
        refusals += sum(_is_refused(operation) for operation in operations)
        assert _rows(memory) == [row for _, row in model.slots], "in memory all is as if nothing had happened"
    return refusals


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, SHORT])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(("keep", "storage"), MEMORIES)
def test_learning_goes_on_where_the_disk_fails_and_the_next_sync_makes_up_for_it(
    keep: KeepPolicy, storage: Storage, lasting: bool, code: int, tmp_path: Path
) -> None:
    def run(disk: FaultyDisk) -> tuple[Transitions, _Model, int]:
        memory, model = _memory(5, keep, storage, disk=disk, path=Path("log")), _Model(5, keep)
        for step in steps(3, 9):
            _append(memory, step)
            model.append(step)
        memory.sync()
        return memory, model, _appends(memory, model, 12, 2)

    (tmp_path / "whole").mkdir()
    os.chdir(tmp_path / "whole")
    run(whole := FaultyDisk())
    first = [i for i, name in enumerate(whole.operations) if name == "sync"][1] + 1
    for number in range(first, len(whole.operations)):
        (folder := tmp_path / str(number)).mkdir()
        os.chdir(folder)
        disk = FaultyDisk()
        disk.fail(number, code, lasting=lasting)
        memory, _, refusals = run(disk)
        assert (refusals > 0) == (code != SHORT)
        disk.fail(-1, 0)
        memory.sync()
        before = _rows(memory)
        disk.after_power_cut(folder)
        with closing(_memory(5, keep, storage, path=Path("log"))) as again:
            assert [_body(row) for row in _rows(again)] == [_body(row) for row in before]
            assert _rows(again) == before or keep == "ring"
            assert again.damaged == 0


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_a_file_that_failed_once_shows_nothing_any_more(failing: str) -> None:
    """A disk that has lost a page may give back an old one."""
    disk = FaultyDisk()
    memory = _memory(storage="mapped", disk=disk)
    for step in steps(9):
        _append(memory, step)
    disk.fail(len(disk.operations), errno.EIO)
    with pytest.raises(
        OutputError, match=rf"^cannot {failing} transitions\.log: Input/output error; learning continues"
    ):
        memory.sync() if failing == "sync" else _append(memory, steps(10)[9])
    rows = _rows(memory)
    with LOG.open("r+b") as file:
        file.write(bytes(memory.file_bytes))
    assert _rows(memory) == rows
    assert len(rows) == 6
    memory.sync()
    memory.close()
    with closing(_memory()) as memory:
        assert [_body(row) for row in _rows(memory)] == [_body(row) for row in rows]


@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_a_disk_that_refuses_at_the_start_is_said_and_nothing_stays_open(storage: Storage, tmp_path: Path) -> None:
    _memory(5, storage=storage, disk=(whole := FaultyDisk())).close()
    for code in (errno.ENOSPC, errno.EIO):
        for number in range(len(whole.operations) - 1):
            (folder := tmp_path / f"{code}-{number}").mkdir()
            os.chdir(folder)
            disk, files = FaultyDisk(), set(os.listdir("/proc/self/fd"))
            disk.fail(number, code, lasting=True)
            if code == errno.ENOSPC and set(whole.operations[number:]) <= {"read", "close"}:
                continue
            with pytest.raises(
                OutputError, match=rf"^cannot (open|write|read|sync) \S+log: {os.strerror(code)}[^\n]*$"
            ):
                _memory(5, storage=storage, disk=disk)
            assert len(os.listdir("/proc/self/fd")) == len(files)
            with closing(_memory(5, storage=storage)) as memory:
                assert memory.size == 0


def test_a_failure_while_another_thread_syncs_is_not_forgotten() -> None:
    """What fails after a sync began is written by the next one."""

    class Slow(FaultyDisk):
        def sync(self, descriptor: int) -> None:
            if hooks:
                hooks.pop()()
            super().sync(descriptor)

    hooks: list[Callable[[], None]] = []
    disk = Slow()
    memory = _memory(disk=disk)
    for step in steps(3):
        _append(memory, step)

    def fail() -> None:
        disk.fail(len(disk.operations), errno.EIO)
        with pytest.raises(
            OutputError, match=r"^cannot write transitions\.log: Input/output error; learning continues"
        ):
            _append(memory, steps(4)[3])

    hooks.append(fail)
    memory.sync()
    memory.sync()
    rows = _rows(memory)
    disk.after_power_cut(Path.cwd())
    with closing(_memory()) as memory:
        assert [_body(row) for row in _rows(memory)] == [_body(row) for row in rows]
        assert len(rows) == 4


def test_what_was_made_up_for_is_not_written_again() -> None:
    disk = FaultyDisk()
    memory = _memory(disk=disk)
    disk.fail(len(disk.operations), errno.EIO)
    with pytest.raises(
        OutputError, match=r"^cannot write transitions\.log: Input/output error; learning continues in RAM"
    ):
        _append(memory, steps(1)[0])
    before = len(disk.operations)
    memory.sync()
    memory.sync()
    assert disk.operations[before:] == ["write", "sync", "sync"]
    memory.close()


# Threads and memory.


@pytest.mark.parametrize("change", ["append", "break off"])
def test_nothing_changes_while_somebody_samples(change: str) -> None:
    memory, (first, second) = _memory(), steps(2)
    _append(memory, first._replace(boundary=Boundary.CONTINUES))
    action = memory.break_off if change == "break off" else lambda: _append(memory, second)
    thread = threading.Thread(target=action)
    with memory.lock:
        before = _rows(memory)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert _rows(memory) == before
    thread.join()
    assert _rows(memory) != before
    memory.close()


@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_whoever_samples_under_the_lock_sees_whole_rows(storage: Storage) -> None:
    """Every number of row k is k: while one thread appends, another reads."""
    shape = RecordFormat(40, 2)
    torn, looks, done = [], 0, threading.Event()
    with closing(Transitions(shape, 5, SEED, storage=storage, path=LOG)) as memory:
        width = (2 * 40 + 2 + 1) * 4

        def look() -> None:
            nonlocal looks
            while not done.is_set():
                with memory.lock:
                    rows = [np.frombuffer(row[:width], np.float32) for row in _rows(memory)]
                torn.extend(row for row in rows if (row != row[0]).any())
                looks += 1

        thread = threading.Thread(target=look)
        thread.start()
        for index in range(3000):
            value = float(index)
            memory.append(np.full(40, value), np.full(2, value), value, np.full(40, value), Boundary.CONTINUES)
        done.set()
        thread.join()
    assert looks > 20
    assert torn == []


@pytest.mark.parametrize("damage", [False, True])
def test_starting_up_takes_no_memory_beside_the_records(damage: bool) -> None:
    capacity = 20_000
    with closing(_memory(capacity)) as memory:
        for step in steps(50) * (capacity // 50):
            _append(memory, step)
    if damage:
        content = bytearray(LOG.read_bytes())
        content[HEADER_BYTES::1000] = bytes(len(content[HEADER_BYTES::1000]))
        LOG.write_bytes(content)
        del content
    tracemalloc.start()
    memory = _memory(capacity, storage="mapped")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    memory.close()
    assert peak < 1 << 17, "some KiB, whatever the capacity"


def test_memories_that_cannot_be() -> None:
    for capacity in (0, -1, 1 << 32):
        with pytest.raises(ConfigError, match=rf"^the replay's capacity is {capacity}; expected an integer in "):
            _memory(capacity)
    with pytest.raises(ConfigError, match=r"^a mapped replay needs a file; name a state folder, or keep it in RAM$"):
        _memory(storage="mapped", path=None)
    with pytest.raises(
        ConfigError, match=r"^4294967295 transitions need \d+ bytes of memory, and this machine has \d+;"
    ):
        _memory((1 << 32) - 1, path=None)
    with pytest.raises(OutputError, match=r"^cannot open absent/log: No such file or directory$"):
        _memory(path=Path("absent", "log"))
    with pytest.raises(OutputError, match=r"^cannot open \.: Is a directory$"):
        _memory(path=Path())


@pytest.mark.parametrize("keep", ["ring", "reservoir"])
def test_logged_observations_are_the_oldest_first_without_damaged_ones(keep: KeepPolicy) -> None:
    appended = list(steps(9))
    with closing(_memory(6, keep)) as memory:
        for step in appended:
            _append(memory, step)
        kept = sorted(memory.numbers.tolist())
    before = LOG.read_bytes()
    expected = np.array([appended[number].observation for number in kept], np.float32)
    np.testing.assert_array_equal(logged_observations(LOG), expected)
    assert LOG.read_bytes() == before
    slot = HEADER_BYTES + 2 * _format().record.itemsize
    damaged = int(np.frombuffer(before, _format().record, 6, HEADER_BYTES)["number"][2])
    LOG.write_bytes(before[: slot + 20] + bytes([before[slot + 20] ^ 1]) + before[slot + 21 :])
    np.testing.assert_array_equal(logged_observations(LOG), expected[[number != damaged for number in kept]])


def test_logs_whose_observations_cannot_be_read() -> None:
    with closing(_memory(precision="fp16")):
        pass
    with pytest.raises(FileFormatError, match="holds 'fp16' transitions, standardised by constants that only the lea"):
        logged_observations(LOG)
    for header in (b"edgerl replay 1", MAGIC + b"{", MAGIC + b"[]", MAGIC + b"{}", b""):
        LOG.write_bytes(header.ljust(HEADER_BYTES, b"\0"))
        with pytest.raises(FileFormatError, match="is not a log of transitions"):
            logged_observations(LOG)
    for size in (0, -1, 1 << 16, "a", 1e9):
        described = json.dumps({"observations": size, "actions": 1, "precision": "fp32"}).encode()
        LOG.write_bytes((MAGIC + described).ljust(HEADER_BYTES, b"\0"))
        with pytest.raises(FileFormatError, match="is not a log of transitions"):
            logged_observations(LOG)

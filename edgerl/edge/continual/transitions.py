"""The bounded memory of transitions that a learner on a device samples from, and the log on disk that keeps it.

A **record** is one transition with its number and a checksum; `capacity` records of one size are all there is, in RAM
or in a mapped file. As a `ring` the newest ones are kept, as a `reservoir` a uniform sample of all (Vitter 1985,
algorithm R), so that old skills are not forgotten.

On disk the log is a page of header and then the records (docs/format.md). Each record vouches for itself: whatever
order a dying disk wrote them in, what is whole is found again, and what is not is left out. `append` returns once the
operating system has the record, which survives the process; `sync` once the disk has it, which survives a power cut.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgerl.edge.continual.replay import Boundary
from edgerl.edge.engine.library import ReplayStructure
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import ConfigError, FileFormatError, OutputError, quoted, reason
from edgerl.files.atomic import read_bytes
from edgerl.files.disk import DISK, Disk
from edgerl.files.strict_json import parse_json

Array = npt.NDArray[Any]
Precision = Literal["fp32", "fp16"]
KeepPolicy = Literal["ring", "reservoir"]
Storage = Literal["ram", "mapped"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KEEP_POLICIES: tuple[KeepPolicy, ...] = get_args(KeepPolicy)
STORAGES: tuple[Storage, ...] = get_args(Storage)

HEADER_BYTES = 4096
MAGIC = b"edgerl transitions 1\n"
IN_USE = 1
"""The `kind` of a record that holds a transition; of one that never did, all bytes are 0."""

LARGEST_HALF = 65504.0
"""What fp16 can hold; larger numbers saturate."""

CHUNK = 64
"""Records that start-up looks at together: its working memory is some KiB, whatever the capacity."""

MAXIMUM_CAPACITY = (1 << 32) - 1

LARGEST_NUMBER = 1 << 52
"""Of a record that is accepted; none that is written comes near."""


@dataclass(frozen=True)
class RecordFormat:
    """How one transition is stored.

    fp32: as it is. fp16: observations standardised, (x − mean) · scale, by constants that never change, and saturating
    at ±65504; actions as they are; reward and boundary stay float32.
    """

    n_observations: int
    n_actions: int
    precision: Precision = "fp32"
    mean: Array | None = None  # float32 [n], fp16 only
    scale: Array | None = None  # float32 [n], fp16 only: 1 / standard deviation

    @property
    def record(self) -> np.dtype[Any]:
        """One record: checksum, kind, number, and the row that the engine reads."""
        numbers = 2 * self.n_observations + self.n_actions
        if self.precision == "fp16":
            numbers += numbers % 2  # reward and boundary begin at a multiple of four bytes
        kind = "<f2" if self.precision == "fp16" else "<f4"
        return np.dtype(
            [
                ("checksum", "<u4"),
                ("kind", "<u4"),
                ("number", "<u8"),
                ("numbers", kind, (numbers,)),
                ("reward", "<f4"),
                ("boundary", "<f4"),
            ]
        )

    @property
    def row_offset(self) -> int:
        """Bytes of a record before its row."""
        return 16

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: a record without checksum, kind and number."""
        return self.record.itemsize - self.row_offset

    def store(self, records: Array, observation: Array, action: Array, next_observation: Array) -> int:
        """Put the numbers of transitions, [n], [m], [n] or one row for each, into a record or as many; how many
        saturate."""
        n, m, numbers = self.n_observations, self.n_actions, records["numbers"]
        numbers[..., :n], first = self.standardised(observation)
        numbers[..., n : n + m] = action
        numbers[..., n + m : 2 * n + m], second = self.standardised(next_observation)
        return first + second

    def standardised(self, observation: Array) -> tuple[Array, int]:
        """(what is stored of observations, how many of their numbers saturate)."""
        if self.mean is None or self.scale is None:
            return observation, 0
        with np.errstate(over="ignore"):
            standard = (observation - self.mean) * self.scale
        beyond = int(np.count_nonzero(np.abs(standard) > LARGEST_HALF))
        return np.clip(standard, -LARGEST_HALF, LARGEST_HALF), beyond

    def remembered(self, observations: Array) -> Array:
        """Observations [..., n] as they are once they were stored."""
        if self.mean is None or self.scale is None:
            return observations
        stored = self.standardised(observations)[0].astype(np.float16)
        kept: Array = (stored / self.scale.astype(np.float64) + self.mean).astype(np.float32)
        return kept

    def decoding(self, mean: Array | None, scale: Array | None) -> tuple[Array | None, Array | None]:
        """The (mean, scale) by which (stored − mean) · scale is (x − mean) · scale of the observation x itself."""
        if self.mean is None or self.scale is None:
            return mean, scale
        own_mean, own_scale = self.mean.astype(np.float64), self.scale.astype(np.float64)
        network_mean = np.zeros_like(own_mean) if mean is None else mean.astype(np.float64)
        network_scale = np.ones_like(own_mean) if scale is None else scale.astype(np.float64)
        stored_mean, stored_scale = (network_mean - own_mean) * own_scale, network_scale / own_scale
        with np.errstate(over="ignore"):  # of constants that are far apart: infinite, which the caller refuses
            return stored_mean.astype(np.float32), stored_scale.astype(np.float32)


def row_is_sound(records: Array) -> Array:
    """Whether each record's row [count] holds only what a transition can: finite numbers, a boundary that exists."""
    sound: Array = np.isfinite(records["numbers"]).all(axis=1) & np.isfinite(records["reward"])
    return sound & np.isin(records["boundary"], [float(b) for b in Boundary])


def _is_blank(records: Array) -> Array:
    """Whether each record [count] never was one: all of its bytes are 0."""
    used: Array = np.any(records.view(np.uint8).reshape(len(records), -1), axis=1)
    return ~used


class ForeignLogError(FileFormatError):
    """The file at a log's place is not that learner's log; not a byte of it was changed.

    Attributes: `is_log`, whether it is another's; `found`, what it is.
    """

    def __init__(self, path: Path, is_log: bool) -> None:
        self.is_log = is_log
        self.found = "the log of another learner" if is_log else "not a log of a learner"
        super().__init__(f"{path} is {self.found}; move it away, or choose another folder")


class Transitions:
    """The memory. One thread appends; another may sample meanwhile, holding `lock`.

    Attributes: `shape`, `storage`; `capacity` and `size`, in transitions; `number`, of the next transition, all that
    were ever seen counted, those that are missing in a ring too; `saturations`; `damaged`, records that start-up had to
    leave out; `bytes_written` to the disk by this process; `records` [capacity], of which the first `size` are in use.
    """

    def __init__(
        self,
        shape: RecordFormat,
        capacity: int,
        seed: int,
        *,
        keep: KeepPolicy = "ring",
        storage: Storage = "ram",
        path: Path | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open the log at `path`, or create it; without a path, in RAM only.

        seed: of a reservoir's draws. Raises ConfigError, OutputError where the disk refuses, and ForeignLogError.
        """
        if not 1 <= capacity <= MAXIMUM_CAPACITY:
            raise ConfigError(f"the replay's capacity is {capacity}; expected an integer in [1, {MAXIMUM_CAPACITY}]")
        if path is None and storage == "mapped":
            raise ConfigError("a mapped replay needs a file; name a state folder, or keep it in RAM")
        self.shape, self.capacity, self.storage = shape, capacity, storage
        self._keep, self._disk = keep, disk
        self.lock = threading.Lock()
        self._syncing = threading.Lock()  # one at a time: each must know what was lost
        self.size = self.number = self.saturations = self.damaged = self.bytes_written = 0
        self._appended = 0  # slots used so far, one after the other, laps of the ring counted
        self._draws = Draws(seed)
        self._record = shape.record
        self._one: Array = np.zeros(1, self._record)
        self._bytes = _bytes_of(self._one)
        self._last: int | None = None  # the slot of the newest transition, while the next may follow it
        self._has_lost = False  # the disk failed: everything is written again at the next sync
        self._header = self._make_header()
        self._identity = zlib.crc32(self._header)  # seeds every checksum: a record of another log does not match
        self._path, self._descriptor = path, None if path is None else self._open(path)
        self._map: mmap.mmap | None = None
        self._shows_file = storage == "mapped"  # what is written to the file is in the memory
        try:
            self._make_room(storage)
            if self._descriptor is not None:
                self._recover()
                self.sync()  # or a gap could be lost while later records are not
        except BaseException:
            self.close()
            raise

    def _make_room(self, storage: Storage) -> None:
        needed = self.capacity * self._record.itemsize
        installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > installed:  # the system would promise it, and end the process when it is used
            raise ConfigError(
                f"{self.capacity} transitions need {needed} bytes of memory, and this machine has {installed}; give it "
                "less `memory`"
            )
        if self._descriptor is None or storage == "ram":
            self.records: Array = np.zeros(self.capacity, self._record)
            try:
                if self._descriptor is not None:
                    self._disk.read(self._descriptor, _bytes_of(self.records), HEADER_BYTES)
            except OSError as error:
                raise OutputError(f"cannot read {self._path}: {error.strerror}") from error
            return
        try:  # pages are copied only where this process writes to them: where the disk fails
            self._map = mmap.mmap(self._descriptor, self.file_bytes, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise OutputError(f"cannot map {self._path}: {error.strerror}; keep the replay in RAM") from error
        self.records = np.frombuffer(self._map, self._record, self.capacity, HEADER_BYTES)

    @property
    def file_bytes(self) -> int:
        """Bytes of the log on disk."""
        return HEADER_BYTES + self.capacity * self._record.itemsize

    # ---------------------------------------------------------------------------------------------- appending

    def append(
        self, observation: Array, action: Array, reward: float, next_observation: Array, boundary: Boundary
    ) -> None:
        """Add a transition of finite numbers; action in [−1, 1]. Raises OutputError where the disk refuses: then it is
        only in RAM, until the next `sync`."""
        one = self._one[0]
        self.saturations += self.shape.store(one, observation, action, next_observation)
        one["reward"], one["boundary"] = reward, boundary
        self._append()

    def append_row(self, row: Array) -> None:
        """Add a transition as it is stored, uint8 [row_bytes]; the caller has checked it."""
        self._one.view(np.uint8).reshape(-1)[self.shape.row_offset :] = row
        self._append()

    def _append(self) -> None:
        slot, one = self._slot_of_next(), self._one[0]
        one["kind"], one["number"] = IN_USE, self.number
        one["checksum"] = _checksum(self._bytes, self._identity)
        self.number += 1
        if slot is None:
            return
        with self.lock:
            if self._keep == "ring" or self.size < self.capacity:
                self._appended += 1
            self.size = min(self._appended, self.capacity)
            self._last = slot if self._keep == "ring" else None  # a reservoir has no order
            self._write(self._bytes, slot * self._record.itemsize)

    def _slot_of_next(self) -> int | None:
        """Where the next transition goes; None where the reservoir leaves it out."""
        if self._keep == "ring" or self.size < self.capacity:
            return self._appended % self.capacity
        high, low = self._draws.stream(Purpose.RESERVOIR, self.number, 2).tolist()
        drawn = ((high << 32 | low) * (self.number + 1)) >> 64
        return drawn if drawn < self.capacity else None

    def skip(self) -> None:
        """Count a transition that is missing: the next one does not follow the last one. (Not in a reservoir, which
        has no order, and is a fair sample only of transitions that it was offered.)"""
        self.number += self._keep == "ring"  # where the disk refuses the rest, only the number shows the gap
        self.break_off()

    def break_off(self) -> None:
        """The next transition does not follow the last one."""
        slot, self._last = self._last, None
        if slot is not None and self.records["boundary"][slot] == Boundary.CONTINUES:
            with self.lock:
                self._set_boundary(slot, Boundary.GAP)

    def _set_boundary(self, slot: int, boundary: Boundary) -> None:
        """Four bytes that the checksum does not tell from each other: they lie in one sector, and are never torn."""
        self._write(memoryview(np.float32(boundary).tobytes()), (slot + 1) * self._record.itemsize - 4)

    # ---------------------------------------------------------------------------------------------- sampling

    def structure(self, mean: Array | None, scale: Array | None) -> ReplayStructure:
        """The memory as the engine reads it, at this moment; mean, scale: what `RecordFormat.decoding` gave, float32,
        which must live as long. Hold `lock` while the engine draws its batch."""
        return ReplayStructure(
            rows=self.records.ctypes.data + self.shape.row_offset,
            room=self.capacity,
            capacity=self.capacity,
            count=self._appended,
            mean=None if mean is None else mean.ctypes.data,
            scale=None if scale is None else scale.ctypes.data,
            format=PRECISIONS.index(self.shape.precision),
            stride=self._record.itemsize,
        )

    def largest_reward(self) -> float:
        """In magnitude, of the transitions in use; 0 where there is none."""
        rewards = self.records["reward"][: self.size]  # no copy
        return max(float(rewards.max(initial=0)), -float(rewards.min(initial=0)))

    @property
    def numbers(self) -> Array:
        """uint64: the numbers of the transitions in use, in no order; a copy."""
        return self.records["number"][: self.size].copy()

    # ---------------------------------------------------------------------------------------------- the disk

    def sync(self) -> None:
        """Return once every transition appended so far is on the disk. Raises OutputError, and the next call tries
        again with all of them."""
        with self._syncing:
            if self._descriptor is None:
                return
            with self.lock:
                has_lost, self._has_lost = self._has_lost, False  # what fails from here on is for the next sync
            try:
                if has_lost:
                    self._write_all()
                self._disk.sync(self._descriptor)
            except OSError as error:
                with self.lock:
                    self._leave_file()
                raise OutputError(f"cannot sync {self._path}: {error.strerror}; learning continues in RAM") from error

    def _leave_file(self) -> None:
        """The disk failed: whatever the file shows from now on, the memory has what was put into it."""
        self._has_lost = True
        if self._shows_file:
            self._shows_file = False
            for _, records in self._chunks(0, self.size):
                records[...] = records.copy()  # a page that is written to is this process's own

    def _write(self, data: memoryview, offset: int) -> None:
        """Put bytes into the records, in memory and on the disk. Where it refuses, they are in memory, which then
        no longer shows the file."""
        if not self._shows_file:
            self._put_bytes(data, offset)
        if self._descriptor is None:
            return
        try:
            self._disk.write(self._descriptor, data, HEADER_BYTES + offset)
        except OSError as error:
            self._leave_file()
            self._put_bytes(data, offset)  # also where the disk took a part of them
            raise OutputError(f"cannot write {self._path}: {error.strerror}; learning continues in RAM") from error
        self.bytes_written += len(data)

    def _put_bytes(self, data: memoryview, offset: int) -> None:
        _bytes_of(self.records)[offset : offset + len(data)] = data

    def _write_all(self) -> None:
        assert self._descriptor is not None
        for first in range(0, self.size, CHUNK):
            with self.lock:  # chunk by chunk, so that appending need not wait for all
                records = np.ascontiguousarray(self.records[first : min(first + CHUNK, self.size)])
                data = _bytes_of(records)
                self._disk.write(self._descriptor, data, HEADER_BYTES + first * self._record.itemsize)
                self.bytes_written += len(data)

    def close(self) -> None:
        """Close the file; what was appended stays in it."""
        with self._syncing, self.lock:
            self.records = np.zeros(0, self._record)
            self.size = 0
            if self._map is not None:
                with contextlib.suppress(BufferError):  # the traceback of an error may still refer to it
                    self._map.close()
            if self._descriptor is not None:
                with contextlib.suppress(OSError):  # it is closed all the same
                    self._disk.close(self._descriptor)
            self._map = self._descriptor = None

    def _make_header(self) -> bytes:
        """The first page of the file, which describes the memory."""
        shape = self.shape
        constants = b"" if shape.mean is None or shape.scale is None else shape.mean.tobytes() + shape.scale.tobytes()
        described = {
            "observations": shape.n_observations,
            "actions": shape.n_actions,
            "precision": shape.precision,
            "capacity": self.capacity,
            "keep": self._keep,
            "constants": zlib.crc32(constants),
        }
        text = json.dumps(described, sort_keys=True, separators=(",", ":")).encode()
        return (MAGIC + text).ljust(HEADER_BYTES, b"\0")

    def _open(self, path: Path) -> int:
        try:
            descriptor = self._disk.open(path, create=not os.path.lexists(path))
        except OSError as error:
            raise OutputError(f"cannot open {path}: {error.strerror}") from error
        try:
            self._claim_file(descriptor, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._disk.close(descriptor)
            if isinstance(error, OSError):
                problem = f"cannot write {path}: {error.strerror}; free some space, or give less `memory`"
                raise OutputError(problem) from error
            raise
        return descriptor

    def _claim_file(self, descriptor: int, path: Path) -> None:
        """Write the header and reserve the room, in a file that is this log or empty."""
        found = bytearray(HEADER_BYTES)
        length = self._disk.read(descriptor, found, 0)
        if not self._header.startswith(found[:length]) and not self._is_ours(descriptor, blank=not any(found)):
            raise ForeignLogError(path, found.startswith(MAGIC))
        self._disk.reserve(descriptor, self.file_bytes)
        if found != self._header:
            self.damaged += any(found)
            self._disk.write(descriptor, self._header, 0)
        self._disk.sync_folder(path.parent)  # a process that made the file may have been killed before this

    def _is_ours(self, descriptor: int, *, blank: bool) -> bool:
        """Whether a file without our header has a record of ours, or is blank; blank: whether its header is."""
        records: Array = np.zeros(CHUNK, self._record)
        for first in range(0, self.capacity, CHUNK):
            data = _bytes_of(records[: min(CHUNK, self.capacity - first)])
            length = self._disk.read(descriptor, data, HEADER_BYTES + first * self._record.itemsize)
            if self._whole(records[: length // self._record.itemsize]).any():
                return True
            blank &= not any(data[:length])
            if length < len(data):
                return blank
        return blank and not self._disk.read(descriptor, bytearray(1), self.file_bytes)

    # ---------------------------------------------------------------------------------------------- start-up

    def _recover(self) -> None:
        """Find what the log holds. A damaged record is replaced by its neighbour, so that it is never sampled."""
        newest = number = last = -1
        first_whole, first_broken = self.capacity, self.capacity
        for first, records in self._chunks(0, self.capacity):
            sound = self._whole(records)
            self.damaged += int(np.count_nonzero(~sound & ~_is_blank(records)))
            whole, broken = first + np.flatnonzero(sound), first + np.flatnonzero(~sound)
            first_broken = min([first_broken, *broken[:1].tolist()])
            if len(whole):
                first_whole, last = min(first_whole, int(whole[0])), int(whole[-1])
                numbers = records["number"][whole - first].astype(np.int64)
                if numbers.max() >= number:  # of equal ones the last: the others replace damaged ones
                    number = int(numbers.max())
                    newest = int(whole[np.flatnonzero(numbers == number)[-1]])
        if last < 0:
            return
        self._appended = last + 1 if self._keep == "reservoir" or last == newest else self.capacity + newest + 1
        self.size = min(self._appended, self.capacity)
        self.number = number + 1
        self._repair(first_broken, first_whole)
        if self._keep == "ring":
            self._mark_gaps()

    def _whole(self, records: Array) -> Array:
        return _are_whole(records, self._identity)

    def _repair(self, first_broken: int, first_whole: int) -> None:
        """Give each slot that is damaged the transition of the whole one before; `_mark_gaps` ends it."""
        neighbour = first_whole if first_broken == 0 else first_broken - 1
        for first, records in self._chunks(first_broken, self.size):
            for slot, is_sound in enumerate(self._whole(records), first):
                if is_sound:
                    neighbour = slot
                    continue
                self.damaged += int(_is_blank(self.records[slot : slot + 1])[0])  # the others are counted already
                self._one[0] = self.records[neighbour]
                self._write(self._bytes, slot * self._record.itemsize)

    def _mark_gaps(self) -> None:
        """End the episode of each transition whose successor is not the next one in the memory, as of the newest."""
        for first, records in self._chunks(0, self.size):
            following = (np.arange(first, first + len(records)) + 1) % self.size
            follows = self.records["number"][following] == records["number"] + np.uint64(1)
            for slot in first + np.flatnonzero((records["boundary"] == Boundary.CONTINUES) & ~follows):
                self._set_boundary(int(slot), Boundary.GAP)

    def _chunks(self, begin: int, end: int) -> Iterator[tuple[int, Array]]:
        for first in range(begin, end, CHUNK):
            yield first, self.records[first : min(first + CHUNK, end)]


def logged_observations(path: Path) -> Array:
    """The observations [k, n] in a log of fp32 transitions, the oldest first, without damaged records; less the
    learner's offset, as they were stored. The file is not changed. Raises FileFormatError."""
    data = read_bytes(path)
    header, rest = data[:HEADER_BYTES], data[HEADER_BYTES:]
    try:
        if not header.startswith(MAGIC):
            raise ValueError("another beginning")
        described = parse_json(header[len(MAGIC) :].rstrip(b"\0").decode())
        precision, sizes = described["precision"], (described["observations"], described["actions"])
        if not all(isinstance(size, int) and 0 < size < 1 << 16 for size in sizes):  # as the engine's indices are
            raise ValueError(f"sizes {quoted(sizes)}")
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is not a log of transitions ({reason(error)}); it may be damaged") from error
    if precision != "fp32":
        raise FileFormatError(
            f"{path} holds {quoted(precision)} transitions, standardised by constants that only the learner has; "
            "expected a log of fp32"
        )
    dtype = RecordFormat(*sizes).record
    records = np.frombuffer(rest, dtype, len(rest) // dtype.itemsize)
    whole = records[_are_whole(records, zlib.crc32(header))]
    found: Array = whole["numbers"][np.argsort(whole["number"], kind="stable"), : sizes[0]]
    return found


def _are_whole(records: Array, identity: int) -> Array:
    """Which records [count] of a log have their checksum and sound numbers."""
    data = _bytes_of(np.ascontiguousarray(records))
    size, in_use = records.itemsize, records["kind"] == IN_USE
    checksums = np.zeros(len(records), np.uint32)
    for i in np.flatnonzero(in_use).tolist():
        checksums[i] = _checksum(data[i * size : (i + 1) * size], identity)
    whole: Array = in_use & (records["checksum"] == checksums) & row_is_sound(records)
    return whole & (records["number"] < np.uint64(LARGEST_NUMBER))


def _checksum(record: memoryview, identity: int) -> int:
    """CRC-32 of a record without its checksum; a gap counts as continuing, so that it can be marked later."""
    boundary = bytes(record[-4:])
    if boundary == _GAP:
        boundary = _CONTINUES
    return zlib.crc32(boundary, zlib.crc32(record[4:-4], identity))


def _bytes_of(records: Array) -> memoryview:
    """The bytes of contiguous records; no copy."""
    return records.view(np.uint8).reshape(-1).data


_CONTINUES, _GAP = (np.float32(boundary).tobytes() for boundary in (Boundary.CONTINUES, Boundary.GAP))

"""Tensor files written and read piece by piece: what is refused, what fails, and how little memory it takes."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import FileFormatError, OutputError
from edgerl.files import atomic
from edgerl.files import tensors as tensor_files
from edgerl.files.atomic import read_bytes
from edgerl.files.disk import Disk
from edgerl.files.tensors import (
    CHUNK_BYTES,
    HEADER_ALIGNMENT,
    TensorReader,
    pack_tensors,
    unpack_tensors,
    write_tensors,
)
from tests.faults import SHORT, FaultyDisk

PATH = Path("a.safetensors")
METADATA = {"number": 1e-05, "text": "é\n", "list": [1, None, {"x": 0.30000000000000004}]}
OPERATIONS = ["create", *["write"] * 5, "sync", "close", "replace", "sync folder"]


def _tensors() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "state": random.integers(256, size=3 * CHUNK_BYTES + 77).astype(np.uint8),
        "a": np.array([[1.5, -2.0], [0.0, 3.0]], np.float32),
        "b.c": np.array(7, np.int64),
        "empty": np.zeros((3, 0), np.float16),
        "d": np.array([True, False]),
    }


def _write(tensors: dict[str, Any] | None = None, disk: Disk | None = None) -> None:
    write_tensors(PATH, "test", 3, METADATA, _tensors() if tensors is None else tensors, disk=disk or Disk())


def _open(disk: Disk | None = None) -> TensorReader:
    return TensorReader(PATH, "test", 3, disk=disk or Disk())


def _refused(problem: str = "") -> None:
    with pytest.raises(FileFormatError, match=rf"^[^\n]*a\.safetensors [^\n]*({problem})[^\n]*$"):
        _open()


def test_what_is_written_is_read() -> None:
    _write()
    tensors = _tensors()
    assert PATH.read_bytes() == pack_tensors("test", 3, METADATA, tensors)
    with _open() as reader:
        assert len(reader.metadata.pop("sha256")) == 64
        assert reader.metadata == {**METADATA, "kind": "test", "version": 3}
        assert reader.shapes == {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            found = reader.read(name)
            assert (found.dtype, found.shape, found.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    assert [path.name for path in Path().iterdir()] == [PATH.name]


def test_a_piece_of_a_tensor_fills_any_memory() -> None:
    _write()
    state = _tensors()["state"]
    bytes_, floats = bytearray(CHUNK_BYTES + 5), np.zeros((3, 4), np.float32)
    c_array = (ctypes.c_uint8 * 9)()
    with _open() as reader:
        reader.read_into("state", bytes_, 11)
        reader.read_into("state", floats, offset=len(state) - 48)
        reader.read_into("state", memoryview(c_array), 0)
        reader.read_into("state", bytearray(), len(state))
        reader.read_into("empty", np.zeros((0, 2)))
    assert bytes_ == state[11 : CHUNK_BYTES + 16].tobytes()
    assert floats.tobytes() == state[-48:].tobytes()
    assert bytes(c_array) == state[:9].tobytes()


def test_pieces_that_are_refused() -> None:
    _write()
    with _open() as reader:
        for memory, offset in ((bytearray(5), 13), (bytearray(17), 0), (bytearray(1), 16), (bytearray(), 17)):
            with pytest.raises(ValueError, match=rf"'a' has 16 bytes, not {len(memory)} from byte {offset} on"):
                reader.read_into("a", memory, offset)
        with pytest.raises(ValueError, match=r"not 1 from byte -1 on"):
            reader.read_into("a", bytearray(1), -1)
        with pytest.raises(ValueError, match=r"the memory for tensor 'a' is read-only"):
            reader.read_into("a", memoryview(b"1234"))
        with pytest.raises(ValueError, match=r"not C-contiguous"):
            reader.read_into("a", np.zeros((2, 2), np.float32).T[:1])
        with pytest.raises(FileFormatError, match=r"^a\.safetensors has no tensor 'x'$"):
            reader.read("x")
    with pytest.raises(ValueError, match=r"the reader of a\.safetensors is closed"):
        reader.read("a")


# Writing.


def test_a_write_is_synced_under_another_name_before_it_has_its_own() -> None:
    disk = FaultyDisk()
    _write(disk=disk)
    assert disk.operations == OPERATIONS


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_the_old_file_alone(code: int, number: int) -> None:
    PATH.write_bytes(b"old")
    disk = FaultyDisk()
    disk.fail(number, code)
    with pytest.raises(OutputError, match=rf"^cannot write a\.safetensors: {os.strerror(code)}[^\n]*$"):
        _write(disk=disk)
    assert [path.name for path in Path().iterdir()] == [PATH.name]
    assert (PATH.read_bytes() == b"old") == (OPERATIONS[number] != "sync folder")


def test_writes_that_are_cut_short_are_gone_on_with() -> None:
    for number in range(1, 6):
        disk = FaultyDisk()
        disk.fail(number, SHORT, lasting=number == 1)
        _write(disk=disk)
        assert PATH.read_bytes() == pack_tensors("test", 3, METADATA, _tensors())


def test_what_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = []
    for _ in range(40):
        deep = [deep]
    for metadata, tensors, problem in (
        ({"x": deep}, {}, "nests deeper than 32 levels"),
        ({"x": float("nan")}, {}, "JSON compliant|Out of range"),
        ({}, {"a": np.zeros((0, 1 << 40), np.int8)}, "a tensor of shape"),
        ({}, {"a": np.zeros(1, np.complex128)}, "of type complex128"),
    ):
        with pytest.raises(ValueError, match=problem):
            write_tensors(PATH, "test", 3, metadata, tensors)
    with pytest.raises(
        OutputError, match=r"^cannot write a\.safetensors: .* bytes, 1052672 of them in its header; exp"
    ):
        write_tensors(PATH, "test", 3, {"x": "x" * (1 << 20)}, {})
    monkeypatch.setattr(tensor_files, "MAXIMUM_BYTES", 5000)
    with pytest.raises(OutputError, match=r"^cannot write a\.safetensors: it would have 5001 bytes, 4096 of them in"):
        write_tensors(PATH, "test", 3, {}, {"a": np.zeros(905, np.uint8)})
    assert list(Path().iterdir()) == []


def test_the_largest_header_that_is_read() -> None:
    text = "x" * ((1 << 20) - 200)
    write_tensors(PATH, "test", 3, {"x": text}, {})
    with _open() as reader:
        assert reader.metadata["x"] == text


# What is refused.


def test_files_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    _refused("is not there; expected a file")
    PATH.mkdir()
    _refused("is a folder; expected a file")
    PATH.rmdir()
    os.mkfifo(PATH)
    _refused("is not a regular file; expected a file")
    PATH.unlink()
    PATH.symlink_to(PATH)
    _refused("is a link to nothing; expected a file")
    PATH.unlink()
    _write()
    monkeypatch.setattr(atomic, "MAXIMUM_BYTES", 5000)
    _refused("is .* of 200807 bytes; expected at most 5000")


def test_a_pipe_that_takes_the_files_place_holds_no_one_up(monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(PATH)
    monkeypatch.setattr(tensor_files, "check_file", lambda _: None)
    with pytest.raises(FileFormatError, match=r"^cannot read a\.safetensors: Illegal seek$"):
        _open()


def test_every_read_can_fail() -> None:
    _write()
    reads = FaultyDisk()
    _open(reads).close()
    assert set(reads.operations) == {"read"}
    for number in range(len(reads.operations)):
        disk = FaultyDisk()
        disk.fail(number, errno.EIO)
        with pytest.raises(FileFormatError, match=r"^cannot read a\.safetensors: Input/output error$"):
            _open(disk)
    disk = FaultyDisk()
    disk.fail(0, SHORT, lasting=True)
    with _open(disk) as reader:
        assert reader.read("state").tobytes() == _tensors()["state"].tobytes()
        disk.fail(len(disk.operations), errno.EIO)
        with pytest.raises(FileFormatError, match=r"^cannot read a\.safetensors: Input/output error$"):
            reader.read("state")


def test_a_file_that_becomes_shorter_after_the_check() -> None:
    _write()
    with _open() as reader:
        os.truncate(PATH, PATH.stat().st_size - 1)
        with pytest.raises(FileFormatError, match=r"^a\.safetensors is not .* truncated \(it ends too early\)$"):
            reader.read("d")


def test_every_altered_bit_is_detected() -> None:
    _write({"a": np.arange(5, dtype=np.float32), "b": np.arange(3, dtype=np.uint16)})
    data = PATH.read_bytes()
    with PATH.open("r+b", buffering=0) as file:
        for position, byte in enumerate(data):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                _refused()
            os.pwrite(file.fileno(), bytes([byte]), position)
    _open().close()


def test_every_truncation_is_detected_and_every_addition() -> None:
    _write({"a": np.arange(5, dtype=np.float32), "b": np.arange(3, dtype=np.uint16)})
    data = PATH.read_bytes()
    for length in reversed(range(len(data))):
        os.truncate(PATH, length)
        _refused()
    for changed in (data + b"\0", b"\0" + data, data + data):
        PATH.write_bytes(changed)
        _refused()


def test_another_kind_or_version() -> None:
    _write()
    for kind, version, problem in (
        ("other", 3, r"holds 'test'; expected 'other'; name the file of a other"),
        ("test", 4, r"has format version 3; this edgerl reads version 4"),
    ):
        with pytest.raises(FileFormatError, match=rf"^a\.safetensors {problem}$"):
            TensorReader(PATH, kind, version)
    write_tensors(PATH, "test", True, {}, {})
    with pytest.raises(FileFormatError, match=r"has format version True; this edgerl reads version 1"):
        TensorReader(PATH, "test", 1)


def _rewrite(change: Callable[[dict[str, Any]], object], *, swap: bool = False, padding: bytes = b"") -> None:
    """A file with another header, whose checksum still holds."""
    data = pack_tensors("test", 3, {}, {"a": np.arange(2, dtype=np.float32), "b": np.arange(2, dtype=np.float32)})
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode() + padding
    text = text.ljust(-(-(8 + len(text)) // HEADER_ALIGNMENT) * HEADER_ALIGNMENT - 8)
    body = data[8 + length :]
    PATH.write_bytes(struct.pack("<Q", len(text)) + text + (body[8:] + body[:8] if swap else body))


def test_the_helper_makes_valid_files() -> None:
    _rewrite(lambda _: None)
    _open().close()


def _set(header: dict[str, Any], name: str, key: str, value: Any) -> None:
    header[name][key] = value


NOT_OURS = "its header is not written as edgerl does"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda header: _set(header, "__metadata__", "other", "x"), NOT_OURS),
        (lambda header: _set(header, "a", "other", 0), NOT_OURS),
        (lambda header: header.update(a=header.pop("a")), NOT_OURS),  # after b
        (lambda header: _set(header, "b", "data_offsets", [0, 8]), NOT_OURS),  # overlaps
        (lambda header: _set(header, "b", "data_offsets", [9, 17]), NOT_OURS),  # a gap
        (lambda header: _set(header, "a", "data_offsets", [0.0, 8]), NOT_OURS),
        (lambda header: _set(header, "a", "dtype", "I64"), NOT_OURS),
        (lambda header: _set(header, "a", "dtype", "I32"), NOT_OURS),  # in another order
        (lambda header: _set(header, "b", "dtype", "I32"), "SHA-256 does not match"),
        (lambda header: _set(header, "a", "shape", [2, 1]), "SHA-256 does not match"),
        (lambda header: _set(header, "a", "shape", [3]), NOT_OURS),
        (lambda header: _set(header, "a", "shape", [-2]), r"shape \(-2,\)"),
        (lambda header: _set(header, "a", "shape", [2.0]), r"shape \(2\.0,\)"),
        (lambda header: _set(header, "a", "shape", [True, 2]), r"shape \(True, 2\)"),
        (lambda header: _set(header, "a", "shape", ["2"]), r"shape \('2',\)"),
        (lambda header: _set(header, "a", "shape", [2] + [1] * 32), r"shape \(2, 1"),
        (lambda header: _set(header, "a", "shape", [0, 1 << 60]), r"shape \(0, 1152921504606846976\)"),
        (lambda header: _set(header, "a", "shape", [1 << 63, 2]), r"shape \(9223372036854775808"),
        (lambda header: _set(header, "a", "shape", [10**4000]), r"shape"),
        (lambda header: _set(header, "a", "shape", None), "not iterable"),
        (lambda header: _set(header, "a", "dtype", "BF16"), "BF16"),
        (lambda header: _set(header, "a", "dtype", ["F32"]), "unhashable|cannot use"),
        (lambda header: header.update(a=None), "subscriptable"),
        (lambda header: header.update(a=[]), "indices"),
        (lambda header: header.pop("b"), NOT_OURS + "|has 4112 bytes, expected 4104"),
        (lambda header: header.pop("__metadata__"), "is a safetensors file that edgerl did not write"),
        (lambda header: header.update(__metadata__={"edgerl": {}}), "its metadata is not a text"),
        (lambda header: header.update(__metadata__={"edgerl": "[]"}), "JSON object"),
        (lambda header: header.update(__metadata__={"edgerl": '{"a" :1}'}), "not canonical JSON"),
        (lambda header: header.update(__metadata__={"edgerl": "{}"}), "holds None; expected 'test'"),
        (lambda header: header.update({"\ud800": header.pop("b")}), NOT_OURS + "|surrogates not allowed"),
    ],
)
def test_headers_that_are_refused(change: Callable[[dict[str, Any]], object], problem: str) -> None:
    _rewrite(change)
    _refused(problem)


def test_tensors_in_another_order_are_refused_although_a_packed_file_may_have_them() -> None:
    def exchange(header: dict[str, Any]) -> None:
        header["a"]["data_offsets"], header["b"]["data_offsets"] = [8, 16], [0, 8]

    _rewrite(exchange, swap=True)
    unpack_tensors(read_bytes(PATH), PATH, "test", 3)
    _refused(NOT_OURS)


def test_a_header_that_is_padded_further_is_refused() -> None:
    _rewrite(lambda _: None, padding=b" " * HEADER_ALIGNMENT)
    unpack_tensors(read_bytes(PATH), PATH, "test", 3)
    _refused(NOT_OURS)


@pytest.mark.parametrize("header", [b"", b"{}", b"[]", b"null", b"3", b"\xff", b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize("tail", [b"", b"\0\0"])
def test_headers_that_are_no_headers(header: bytes, tail: bytes) -> None:
    PATH.write_bytes(struct.pack("<Q", len(header)) + header + tail)
    _refused("is not an edgerl tensor file, or is truncated|is a safetensors file that edgerl did not write")


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 7, 1 << 31, (1 << 64) - 1])
def test_a_header_length_that_is_a_lie(length: int) -> None:
    _write()
    data = PATH.read_bytes()
    PATH.write_bytes(struct.pack("<Q", length) + data[8:])
    _refused("expected at most 1048568" if length > (1 << 20) - 8 else "is not an edgerl tensor file")


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200)
def test_garbage_is_refused(garbage: bytes, as_header: bool) -> None:
    PATH.write_bytes(struct.pack("<Q", len(garbage)) + garbage if as_header else garbage)
    _refused()


# Memory.

_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from edgerl.files.tensors import TensorReader, write_tensors

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def use(path, array):
    write_tensors(path, "test", 1, {}, {"state": array, "b": np.ones(9)})
    written = peak()
    with TensorReader(path, "test", 1) as reader:
        reader.read_into("state", array)
    return written, peak()

use(Path("small"), np.ones(1 << 20, np.uint8))
array = np.ones(64 << 20, np.uint8)
before = peak()
written, read = use(Path("large"), array)
print(written - before, read - before, Path("large").stat().st_size)
"""


def test_a_large_file_takes_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    written, read, size = map(int, done.stdout.split())
    assert size > 64 << 20
    assert written <= 128, "KiB"
    assert read <= 256, "KiB"

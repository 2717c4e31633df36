"""Files that are whole or absent, under every fault a disk can have; the tensor container, under every altered bit."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import FileFormatError, OutputError
from edgerl.files import atomic
from edgerl.files.atomic import read_bytes, read_text, refuse_existing, write_atomically
from edgerl.files.disk import Disk
from edgerl.files.tensors import (
    HEADER_ALIGNMENT,
    MAXIMUM_NESTING,
    pack_tensors,
    tensor_file_kind,
    tensor_parts,
    unpack_tensors,
    write_tensors,
)
from tests.faults import FaultyDisk, PowerCut

SOURCE = Path("a.safetensors")
DTYPES = ["float64", "float32", "float16", "int64", "int32", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]


def _fail(code: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


OPERATIONS = ["create", "write", "sync", "close", "replace", "sync folder"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("step", OPERATIONS[:-1])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failed_write_leaves_what_was_there(
    before: bytes | None, step: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "file", FaultyDisk()
    if before is not None:
        path.write_bytes(before)
    disk.fail(OPERATIONS.index(step), code)
    monkeypatch.setattr(atomic, "DISK", disk)
    with pytest.raises(OutputError, match=rf"^cannot write \S+file: {os.strerror(code)}[^\n]*$"):
        write_atomically(path, b"new" * 1000)
    assert disk.operations[OPERATIONS.index(step)] == step
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"file": before} if before else {})


@pytest.mark.parametrize("cut", range(len(OPERATIONS) + 1))
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_power_cut_leaves_the_old_file_or_the_new_one(
    before: bytes | None, cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = tmp_path / "file", set()
    for seed in range(30):
        if before is not None:
            path.write_bytes(before)
        disk = FaultyDisk()
        disk.power_cut(cut, seed)
        with monkeypatch.context() as patched, contextlib.suppress(PowerCut):
            patched.setattr(atomic, "DISK", disk)
            write_atomically(path, b"new" * 3000)
        disk.after_power_cut(tmp_path)
        found.add(path.read_bytes() if path.exists() else None)
        for left_over in tmp_path.iterdir():
            left_over.unlink()
    assert found == ({b"new" * 3000} if cut == len(OPERATIONS) else {before, b"new" * 3000} if cut >= 4 else {before})


def test_a_folder_that_cannot_be_synced_is_reported_and_the_new_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(Disk, "sync_folder", _fail(errno.EIO))
    with pytest.raises(OutputError, match=r"cannot write .*: Input/output error"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


def test_a_write_replaces_and_syncs_the_file_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def traced_sync(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def traced_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", traced_sync)
    monkeypatch.setattr(Path, "replace", traced_replace)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert events == ["sync file", "replace", "sync folder"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt("stop")])
def test_a_check_sees_the_whole_file_and_its_refusal_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    seen = []

    def check(path: Path) -> None:
        seen.append(path.read_bytes())
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_atomically(tmp_path / "file", b"new", check=check)
    assert seen == [b"new"]
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*absent/file: No such file or directory; choose an existing"):
        write_atomically(tmp_path / "absent" / "file", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder: Is a directory"):
        write_atomically(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match=r"cannot write .*: File name too long"):
        write_atomically(tmp_path / ("a" * 256), b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_existing_outputs_need_force(tmp_path: Path) -> None:
    path = tmp_path / "file"
    refuse_existing(path, force=False)
    path.write_bytes(b"")
    refuse_existing(path, force=True)
    with pytest.raises(OutputError, match=r"file exists already; pass `force` to replace it, or write elsewhere"):
        refuse_existing(path, force=False)
    with pytest.raises(OutputError, match=r"cannot write a+: File name too long"):
        refuse_existing(Path("a" * 300), force=False)


def test_a_file_that_appears_while_another_is_made_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    refuse_existing(path, force=False)
    for write in (
        lambda force: write_atomically(path, b"new", force=force),
        lambda force: write_tensors(path, "x", 1, {}, {"a": np.zeros(1, np.float32)}, force=force),
    ):
        path.write_bytes(b"old")
        with pytest.raises(OutputError, match=r"file exists now; pass `force` to replace it, or write"):
            write(False)
        assert os.listdir(tmp_path) == ["file"]
        assert path.read_bytes() == b"old"
        write(True)
        assert path.read_bytes() != b"old"
        path.unlink()
        write(False)
        assert path.stat().st_nlink == 1
        assert os.listdir(tmp_path) == ["file"]


def test_of_many_that_write_a_new_file_one_does(tmp_path: Path) -> None:
    """Threads, at once, with the contents of their own."""
    path, start = tmp_path / "file", threading.Barrier(8)

    def write(number: int) -> bool:
        start.wait()
        try:
            write_atomically(path, b"%d" % number, force=False)
        except OutputError:
            return False
        return True

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            written = list(pool.map(write, range(8)))
        assert sum(written) == 1
        assert path.read_bytes() == b"%d" % written.index(True)
        path.unlink()


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileFormatError, match=r"file is not there; expected a file"):
        read_bytes(path)
    with pytest.raises(FileFormatError, match=r"is a folder; expected a file"):
        read_bytes(tmp_path)
    with pytest.raises(FileFormatError, match=r"cannot read a+: File name too long"):
        read_bytes(Path("a" * 300))
    path.write_bytes(b"123")
    assert read_bytes(path) == b"123"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", _fail(errno.EIO))
        with pytest.raises(FileFormatError, match=r"cannot read .*file: Input/output error"):
            read_bytes(path)
    monkeypatch.setattr(atomic, "MAXIMUM_BYTES", 2)
    with pytest.raises(FileFormatError, match=r"file is .* of 3 bytes; expected at most 2"):
        read_bytes(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "text").write_bytes(b"abc\xff")
    for name, message in (("pipe", "not a regular file"), ("link", "a link to nothing")):
        with pytest.raises(FileFormatError, match=f"{name} is {message}; expected a file"):
            read_text(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"text is not text in UTF-8 .invalid start byte at byte 3"):
        read_text(tmp_path / "text")
    with pytest.raises(FileFormatError, match="text is a file of 4 bytes; expected at most 3"):
        read_text(tmp_path / "text", 3)


# The container.


def _example() -> bytes:
    tensors = {
        "a": np.array([[1.5, -2.0], [0.0, 3.0]], np.float32),
        "b.c": np.array([1, 2, 65535], np.uint16),
        "d": np.array([True, False]),
    }
    return pack_tensors(
        "test", 3, {"number": 1e-05, "text": "é\n", "list": [1, None, {"x": 0.30000000000000004}]}, tensors
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32)), max_size=5
    ),
    st.dictionaries(
        st.text(max_size=8).filter(lambda key: key not in ("kind", "version", "sha256")),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    ),
)
def test_round_trip(described: list[tuple[str, list[int], int]], metadata: dict[str, Any]) -> None:
    tensors = {}
    for index, (dtype, shape, seed) in enumerate(described):
        data = np.random.default_rng(seed).bytes(int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
        if dtype == "bool":
            data = bytes(byte & 1 for byte in data)
        tensors[f"t.{index}"] = np.frombuffer(data, dtype).reshape(shape)
    packed = pack_tensors("kind", 7, metadata, tensors)
    found, unpacked = unpack_tensors(packed, SOURCE, "kind", 7)
    assert len(found.pop("sha256")) == 64
    assert found == {**metadata, "kind": "kind", "version": 7}
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.dtype
        assert unpacked[name].shape == tensor.shape
        assert unpacked[name].tobytes() == tensor.tobytes()
    assert (8 + struct.unpack_from("<Q", packed)[0]) % 4096 == 0
    assert len(packed) % 4096 == sum(tensor.nbytes for tensor in tensors.values()) % 4096


def test_the_order_of_entries_and_the_strides_of_arrays_change_no_byte() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = pack_tensors("kind", 1, {"x": 1, "y": 2}, {"a": matrix, "b": np.float32(1)})
    second = pack_tensors("kind", 1, {"y": 2, "x": 1}, {"b": np.float32(1), "a": np.asfortranarray(matrix)})
    assert first == second


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.sampled_from(DTYPES)))
def test_a_file_is_what_the_safetensors_library_writes_but_for_its_padding(types: dict[str, str]) -> None:
    tensors: Any = {name: np.arange(3).astype(dtype) for name, dtype in types.items()}
    packed = pack_tensors("kind", 1, {"text": 'é\\"/\x7f'}, tensors)
    (length,) = struct.unpack_from("<Q", packed)
    text = json.loads(packed[8 : 8 + length])["__metadata__"]
    library = safetensors.numpy.save(tensors, metadata=text)
    (shorter,) = struct.unpack_from("<Q", library)
    header = library[8 : 8 + shorter].ljust(length)
    assert packed == struct.pack("<Q", length) + header + library[8 + shorter :]
    sizes = [np.dtype(types[name]).itemsize for name in json.loads(header) if name != "__metadata__"]
    assert sizes == sorted(sizes, reverse=True)


def test_the_parts_of_a_file_are_views_of_its_tensors() -> None:
    tensors: Any = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.uint64), "c": np.array(True)}
    header, *bodies = tensor_parts("kind", 1, {}, tensors)
    assert b"".join([header, *bodies]) == pack_tensors("kind", 1, {}, tensors)
    for name, body in zip("bac", bodies, strict=True):
        assert np.shares_memory(np.frombuffer(body, np.uint8), tensors[name])


def test_tensors_of_another_byte_order_are_turned_round() -> None:
    tensor = np.array([1.5, -2.0, 1e-30])
    packed = pack_tensors("test", 3, {}, {"a": tensor.astype(">f8")})
    assert packed == pack_tensors("test", 3, {}, {"a": tensor})
    assert unpack_tensors(packed, SOURCE, "test", 3)[1]["a"].tolist() == tensor.tolist()


def test_a_checksum_among_the_metadata_is_replaced() -> None:
    metadata, tensors = unpack_tensors(_example(), SOURCE, "test", 3)
    assert pack_tensors("test", 3, metadata, tensors) == _example()


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("a", np.complex64, r"tensor 'a' is of type complex64; expected one of U64, .*, BOOL"),
        ("a", np.int16, r"tensor 'a' is of type int16; expected one of"),
        ("a", object, r"tensor 'a' is of type object; expected one of"),
        ("__metadata__", np.int8, r"a tensor cannot be named '__metadata__'; choose another name"),
    ],
)
def test_tensors_that_are_not_written(name: str, dtype: npt.DTypeLike, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^{problem}[^\n]*$"):
        pack_tensors("test", 1, {}, {name: np.zeros(1, dtype)})


def test_another_reader_of_safetensors_sees_the_same_tensors(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "file.safetensors"
    path.write_bytes(_example())
    found = safetensors.torch.load_file(path)
    assert found["a"].tolist() == [[1.5, -2.0], [0.0, 3.0]]
    assert found["d"].tolist() == [True, False]


def test_the_checksum_is_what_the_specification_says() -> None:
    """docs/format.md, read literally: without this package, from the bytes."""
    data = _example()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    text = header.pop("__metadata__")["edgerl"]
    claimed = json.loads(text)["sha256"]
    content = text.replace(f'"sha256":"{claimed}",', "").encode()
    numpy_names = {"F32": "<f4", "U16": "<u2", "BOOL": "|b1"}
    for name in sorted(header):
        entry = header[name]
        shape = f"({', '.join(map(str, entry['shape']))}{',' if len(entry['shape']) == 1 else ''})"
        begin, end = entry["data_offsets"]
        content += f"\n{name} {numpy_names[entry['dtype']]} {shape}\n".encode()
        content += data[8 + length + begin : 8 + length + end]
    assert hashlib.sha256(content).hexdigest() == claimed


def _refused(data: bytes) -> None:
    with pytest.raises(FileFormatError, match=r"^a\.safetensors [^\n]+$"):
        unpack_tensors(data, SOURCE, "test", 3)


def test_every_altered_bit_is_detected() -> None:
    data = bytearray(_example())
    (length,) = struct.unpack_from("<Q", data)
    described = len(bytes(data[8 : 8 + length]).rstrip())
    padding = range(8 + described, 8 + length)
    positions = [*range(8 + described), *padding[:3], *padding[::500], *padding[-3:], *range(8 + length, len(data))]
    unpack_tensors(bytes(data), SOURCE, "test", 3)
    for position in positions:
        for bit in range(8):
            data[position] ^= 1 << bit
            _refused(bytes(data))
            data[position] ^= 1 << bit
    unpack_tensors(bytes(data), SOURCE, "test", 3)


def test_every_truncation_is_detected_and_every_addition() -> None:
    data = _example()
    header = HEADER_ALIGNMENT
    for length in (*range(600), *range(600, header, 97), *range(header - 2, len(data))):
        _refused(data[:length])
    _refused(data + b"\0")
    _refused(b"\0" + data)


def _with_metadata(text: str) -> bytes:
    """A container with a given metadata text and no tensor."""
    header = json.dumps({"__metadata__": {"edgerl": text}}).encode()
    header += b" " * (-(8 + len(header)) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(header)) + header


def test_the_helpers_of_these_tests_make_valid_files() -> None:
    text = '{"kind":"test","version":3}'
    digest = hashlib.sha256(text.encode()).hexdigest()
    data = _with_metadata(f'{{"kind":"test","sha256":"{digest}","version":3}}')
    assert unpack_tensors(data, SOURCE, "test", 3) == ({"kind": "test", "version": 3, "sha256": digest}, {})
    assert tensor_file_kind(data, SOURCE) == "test"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "edgerl tensor file"),
        ("[]", "JSON object"),
        ("3", "JSON object"),
        ('{"kind":"test","sha256":"","version":3,"x":NaN}', "NaN is not a JSON number"),
        ('{"kind":"test","sha256":"","version":3,"x":1e999}', "not JSON compliant|Out of range"),
        ('{"kind": "test","sha256":"","version":3}', "not canonical JSON"),
        ('{"version":3,"kind":"test","sha256":""}', "not canonical JSON"),
        ('{"kind":"no","kind":"test","sha256":"","version":3}', "the name 'kind' twice"),
        ('{"kind":"test","sha256":"","version":3,"x":1E5}', "not canonical JSON"),
        ('{"kind":"test","sha256":"","version":3}', "SHA-256 does not match"),
        ('{"kind":"test","sha256":null,"version":3}', "SHA-256 does not match"),
        ('{"kind":"test","version":3}', "SHA-256 does not match"),
        ('{"kind":"test","sha256":"","version":4}', "format version 4; this edgerl reads version 3"),
        ('{"kind":"test","sha256":"","version":3.0}', "format version 3.0; this edgerl reads version 3"),
        ('{"kind":"test","sha256":""}', "format version None"),
        ('{"kind":"other","sha256":"","version":3}', "holds 'other'; expected 'test'"),
        ('{"kind":["te\\nst"],"sha256":"","version":3}', "holds .*; expected 'test'"),
        ('{"kind":"test","sha256":"","version":3,"x":' + "[" * 40 + "]" * 40 + "}", "nests deeper than 32 levels"),
        ('{"kind":"test","x":' + "[" * 100_000, "it nests too deeply"),
        ('{"kind":"test","x":' + "[" * 980 + "]" * 980 + "}", "nests deeper|nests too deeply"),
        ('{"kind":"test","version":3,"x":' + "1" * 5000 + "}", "edgerl tensor file"),
    ],
)
def test_metadata_that_is_refused(text: str, problem: str) -> None:
    with pytest.raises(FileFormatError, match=rf"^a\.safetensors [^\n]*({problem})[^\n]*$"):
        unpack_tensors(_with_metadata(text), SOURCE, "test", 3)


def test_version_true_is_not_version_one() -> None:
    data = pack_tensors("test", 1, {}, {})
    unpack_tensors(data, SOURCE, "test", 1)
    with pytest.raises(FileFormatError, match=r"format version True; this edgerl reads version 1"):
        unpack_tensors(pack_tensors("test", True, {}, {}), SOURCE, "test", 1)


def test_metadata_that_is_not_json_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"JSON compliant|Out of range"):
        pack_tensors("test", 1, {"x": float("nan")}, {})


def test_the_deepest_metadata_that_is_read() -> None:
    deepest: Any = []
    for _ in range(MAXIMUM_NESTING - 2):
        deepest = [deepest]
    data = pack_tensors("test", 1, {"x": deepest}, {})
    assert unpack_tensors(data, SOURCE, "test", 1)[0]["x"] == deepest
    with pytest.raises(FileFormatError, match=r"nests deeper than 32 levels"):
        unpack_tensors(pack_tensors("test", 1, {"x": [deepest]}, {}), SOURCE, "test", 1)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"__metadata__":{}}',
        b'{"__metadata__":null}',
        b'{"__metadata__":{"edgerl":{}}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"edgerl":"{}"},"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
        b'{"__metadata__":{"edgerl":"{}"},"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"edgerl":"{}"},"a":{"dtype":"F32","shape":[0,1152921504606846976],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"edgerl":"\xff"}}',
        b"[" * 100_000,
    ],
)
def test_headers_that_are_refused(header: bytes) -> None:
    for tail in (b"", b"\0\0", b"\0\0\0\0"):
        _refused(struct.pack("<Q", len(header)) + header + tail)


@pytest.mark.parametrize("padding", [b"\t", b"\n", b"\r", b"\0"])
def test_a_header_is_padded_by_spaces_alone(padding: bytes) -> None:
    data = _example()
    for position in (HEADER_ALIGNMENT - 1, HEADER_ALIGNMENT - 100):
        _refused(data[:position] + padding + data[position + 1 :])


@pytest.mark.parametrize("length", [0, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_a_header_length_that_is_a_lie(length: int) -> None:
    _refused(struct.pack("<Q", length) + _example()[8:])


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300)
def test_garbage_is_refused(garbage: bytes, as_header: bool) -> None:
    _refused(struct.pack("<Q", len(garbage)) + garbage if as_header else garbage)


@given(st.text(max_size=100))
def test_garbage_for_metadata_is_refused(text: str) -> None:
    _refused(_with_metadata(text))


@given(st.binary(min_size=1, max_size=20), st.integers(0, 5000), st.integers(0, 20))
def test_spliced_files_are_refused(insert: bytes, position: int, removed: int) -> None:
    data = _example()
    spliced = data[:position] + insert + data[position + removed :]
    if spliced != data:
        _refused(spliced)

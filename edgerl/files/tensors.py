"""The one container that holds tensors.

A tensor file is a safetensors file whose metadata has one key, `edgerl`: a JSON object with the file's `kind`, its
format `version`, whatever its kind adds, and `sha256` over all of that and over every tensor (docs/format.md).

It is either packed and unpacked whole, in memory, or written by `write_tensors` and read by `TensorReader` in pieces,
where there is no room for a second copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from edgerl.errors import FileFormatError, OutputError, quoted, reason
from edgerl.files.atomic import MAXIMUM_BYTES, check_file, write_parts
from edgerl.files.disk import DISK, Bytes, Disk, open_regular
from edgerl.files.kind import OURS, SAMPLE_BYTES, importing, kind_of, refuse_other_kinds
from edgerl.files.strict_json import parse_json

Tensors = dict[str, npt.NDArray[Any]]


Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Per tensor its data type and its shape."""


Versions = int | tuple[int, ...]
"""The version of a kind of file that is read, or several."""


HEADER_ALIGNMENT = 4096
"""Bytes. Tensors begin on a page, so that a device can map them, and a file's size follows from its tensors only."""


MAXIMUM_NESTING = 32
"""Nested objects and lists of metadata: more would exhaust the stack of whoever prints them."""


MAXIMUM_HEADER_BYTES = 1 << 20
"""What TensorReader reads at once: a larger header, its length included, is refused unread."""


CHUNK_BYTES = 1 << 16
"""TensorReader hashes tensors in pieces of this size."""


_MAXIMUM_DIMENSIONS = 32  # of arrays in numpy 1


# In the order in which the safetensors library lays tensors out.
_DTYPES = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "U16": "<u2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}


_CODES = {dtype: code for code, dtype in _DTYPES.items()}


_ORDER = {dtype: rank for rank, dtype in enumerate(_CODES)}

_WRITERS = {
    "policy": "a policy.safetensors, as edgerl train, prune and import write",
    "checkpoint": "a checkpoint.safetensors, as edgerl train writes",
    "learner": "a learner.safetensors, as edgerl export --format learner writes",
    "snapshot": "a learner's snapshot, as edgerl learn writes",
    "distillation": "a distillation under way, as an interrupted edgerl distill leaves",
}
"""Each kind of file, as people know it."""


def pack_tensors(
    kind: str, version: int, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """The bytes of a tensor file; the same input gives the same bytes."""
    return b"".join(tensor_parts(kind, version, metadata, tensors))


def tensor_parts(
    kind: str, version: int, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]
) -> Iterator[Bytes]:
    """The bytes of a tensor file, one after the other: its header, then each tensor in the order of the file.

    Tensors that are contiguous and little-endian are not copied; of others, one at a time.

    Raises ValueError where the metadata is not JSON or a tensor is of a type that the format does not have.
    """
    shapes = {name: _shape_of(name, tensor) for name, tensor in tensors.items()}
    described = {**metadata, "kind": kind, "version": version}
    described.pop("sha256", None)
    described["sha256"] = _checksum(described, shapes, lambda name: [_bytes_of(tensors[name])])
    yield _header(described, shapes)
    for name in _extents(shapes):
        yield _bytes_of(tensors[name])


def write_tensors(
    path: Path,
    kind: str,
    version: int,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[Any]],
    *,
    force: bool = True,
    disk: Disk = DISK,
) -> None:
    """Write a tensor file that TensorReader reads, so that a crash leaves the old file or the new one.

    Memory is only needed for the header and for tensors that are not contiguous. force: as in `write_atomically`.

    Raises OutputError where the file would be too large or cannot be written, ValueError like `tensor_parts`.
    """
    parts = tensor_parts(kind, version, metadata, tensors)
    header = bytes(next(parts))
    _, shapes = _parse_header(header)  # what could not be read back is not written
    size = len(header) + _size(shapes)
    if len(header) > MAXIMUM_HEADER_BYTES or size > MAXIMUM_BYTES:
        raise OutputError(
            f"cannot write {path}: it would have {size} bytes, {len(header)} of them in its header; expected at most "
            f"{MAXIMUM_BYTES} and {MAXIMUM_HEADER_BYTES}"
        )
    write_parts(path, itertools.chain([header], parts), None, disk, force)


def unpack_tensors(data: bytes, source: Path, kind: str, version: Versions) -> tuple[dict[str, Any], Tensors]:
    """Metadata and tensors of a tensor file of the given kind and version, or one of several.

    Raises FileFormatError when the container, its kind, its version or its checksum is wrong. Names, shapes and values
    are for the caller to check.
    """
    metadata, tensors = _parse(data, source, kind)
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    _check_metadata(metadata, source, kind, version)
    _check_sum(metadata, source, shapes, lambda name: [_bytes_of(tensors[name])])
    return metadata, tensors


def tensor_file_kind(data: bytes, source: Path) -> str:
    """The `kind` that a tensor file claims, unchecked."""
    return str(_parse(data, source)[0].get("kind"))


class TensorReader:
    """A tensor file as edgerl writes it, checked whole when it is opened, then read in pieces.

    Attributes: `metadata`, with `sha256`; `shapes`. What another program alters after the check is not noticed.
    """

    def __init__(
        self, path: Path, kind: str, version: Versions, *, disk: Disk = DISK, follow_links: bool = True
    ) -> None:
        """Open and check a file of the given kind and version; it takes one reading of the file and 64 KiB.

        Raises FileFormatError where `unpack_tensors` does, and where the header is not byte for byte what
        `write_tensors` writes. Names, shapes and values are for the caller to check.
        """
        self.path, self._disk = path, disk
        with _refusals(path):
            check_file(path)
            opener = (lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) if follow_links else open_regular
            # O_NONBLOCK: a pipe of this name must not block.
            self._file = open(path, "rb", buffering=0, opener=opener)  # noqa: SIM115 — closed by close
        try:
            self._check(kind, version)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str) -> npt.NDArray[Any]:
        """A whole tensor. Raises FileFormatError where the file has none of this name, or cannot be read any more."""
        self._extent(name)
        tensor = np.empty(self.shapes[name][1], self.shapes[name][0])
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, memory: bytearray | memoryview | npt.NDArray[Any], offset: int = 0) -> None:
        """Fill contiguous, writable memory with the bytes of a tensor from its byte `offset` on.

        Raises FileFormatError like `read`; ValueError where the memory is read-only, the tensor ends before it, or this
        is closed.
        """
        if self._file.closed:
            raise ValueError(f"the reader of {self.path} is closed")
        begin, end = self._extent(name)
        filled = np.frombuffer(memory, np.uint8)
        if not filled.flags.writeable:
            raise ValueError(f"the memory for tensor {name!r} is read-only")
        if not 0 <= offset <= end - begin - len(filled):
            raise ValueError(f"tensor {name!r} has {end - begin} bytes, not {len(filled)} from byte {offset} on")
        with _refusals(self.path):
            self._fill(filled.data, begin + offset)

    def copy(self, goal: Path) -> None:
        """Write a copy of the file, so that a crash leaves what was there under that name, or the copy.

        Raises OutputError where it cannot be written, FileFormatError where this one cannot be read any more.
        """
        with _refusals(self.path):
            size = os.fstat(self._file.fileno()).st_size
        write_parts(goal, self._pieces(0, size), None, self._disk)

    def _check(self, kind: str, version: Versions) -> None:
        with _refusals(self.path, self._sample, kind):
            header = self._read_header()
            self.metadata, self.shapes = _parse_header(header)
            begin, size = len(header), os.fstat(self._file.fileno()).st_size
            if size != begin + _size(self.shapes):
                raise ValueError(f"it has {size} bytes, expected {begin + _size(self.shapes)}")
            self._extents = {name: (begin + a, begin + b) for name, (a, b) in _extents(self.shapes).items()}
            _check_metadata(self.metadata, self.path, kind, version)
            _check_sum(self.metadata, self.path, self.shapes, self._chunks)

    def _sample(self) -> bytes:
        """The bytes that a file is recognised by."""
        size = os.fstat(self._file.fileno()).st_size
        begin = min(size, SAMPLE_BYTES)
        end = min(size - begin, SAMPLE_BYTES)
        return self._bytes(0, begin) + self._bytes(size - end, end)

    def _read_header(self) -> bytes:
        (length,) = struct.unpack("<Q", self._bytes(0, 8))
        if length > MAXIMUM_HEADER_BYTES - 8:
            raise ValueError(f"its header has {length} bytes, expected at most {MAXIMUM_HEADER_BYTES - 8}")
        return self._bytes(0, 8 + length)

    def _bytes(self, begin: int, length: int) -> bytes:
        data = bytearray(length)
        self._fill(memoryview(data), begin)
        return bytes(data)

    def _chunks(self, name: str) -> Iterator[memoryview]:
        return self._pieces(*self._extents[name])

    def _pieces(self, begin: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for position in range(begin, end, CHUNK_BYTES):
            chunk = buffer[: end - position]
            with _refusals(self.path):
                self._fill(chunk, position)
            yield chunk

    def _fill(self, memory: memoryview, position: int) -> None:
        if self._disk.read(self._file.fileno(), memory, position) < len(memory):
            raise ValueError("it ends too early")

    def _extent(self, name: str) -> tuple[int, int]:
        if name not in self._extents:
            raise FileFormatError(f"{self.path} has no tensor {name!r}")
        return self._extents[name]


@contextlib.contextmanager
def _refusals(source: Path, sample: Callable[[], bytes] | None = None, kind: str | None = None) -> Iterator[None]:
    """Turn the errors of reading a file into FileFormatError.

    sample: of the file, by which one of another kind than `kind` is recognised.
    """
    try:
        yield
    except OSError as error:
        raise FileFormatError(f"cannot read {source}: {error.strerror}") from error
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        if sample is not None:
            with contextlib.suppress(OSError, ValueError):  # the failure itself says enough
                data, expected = sample(), _WRITERS.get(kind or "", "a tensor file of edgerl")
                expected += importing(kind_of(data) or "", source) if kind == "policy" else ""
                refuse_other_kinds(data, source, expected, *OURS)
        raise FileFormatError(f"{source} is not an edgerl tensor file, or is truncated ({reason(error)})") from error


def _check_metadata(metadata: Mapping[str, Any], source: Path, kind: str, version: Versions) -> None:
    if metadata.get("kind") != kind:
        found = metadata.get("kind")
        raise FileFormatError(f"{source} holds {quoted(found)}; expected {kind!r}; name the file of a {kind}")
    found, known = metadata.get("version"), (version,) if isinstance(version, int) else version
    if type(found) is not int or found not in known:
        expected = " or ".join(map(str, known))
        raise FileFormatError(f"{source} has format version {quoted(found)}; this edgerl reads version {expected}")


def _check_sum(
    metadata: Mapping[str, Any], source: Path, shapes: Shapes, bytes_of: Callable[[str], Iterable[Bytes]]
) -> None:
    hashed = {key: value for key, value in metadata.items() if key != "sha256"}
    if metadata.get("sha256") != _checksum(hashed, shapes, bytes_of):
        raise FileFormatError(f"{source} has been altered: its SHA-256 does not match its content; make the file again")


def _parse(data: bytes, source: Path, kind: str | None = None) -> tuple[dict[str, Any], Tensors]:
    with _refusals(source, lambda: data, kind):
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        (length,) = struct.unpack_from("<Q", data)
        header = data[8 : 8 + length]
        if not header.rstrip(b" ").endswith(b"}"):
            raise ValueError("its header is not padded with spaces")
        metadata = _read_canonical(parse_json(header)["__metadata__"]["edgerl"])
        return metadata, {name: _tensor(entry) for name, entry in entries}


def _read_canonical(text: object) -> dict[str, Any]:
    """The JSON object in `text`, which must be written just as `_canonical` does: no altered byte passes."""
    if not isinstance(text, str):
        raise ValueError("its metadata is not a text")
    metadata = parse_json(text)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a JSON object")
    if _nests_deeper(metadata, MAXIMUM_NESTING):
        raise ValueError(f"its metadata nests deeper than {MAXIMUM_NESTING} levels")
    if _canonical(metadata) != text:
        raise ValueError("its metadata is not canonical JSON")
    return metadata


def _nests_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(part, levels - 1) for part in inner)


def _tensor(entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    return np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _parse_header(header: bytes) -> tuple[dict[str, Any], Shapes]:
    """Metadata and shapes from a whole header, which is not trusted; raises what `_refusals` catches."""
    described = parse_json(header[8:])
    metadata = _read_canonical(described["__metadata__"]["edgerl"])
    shapes = {name: _read_shape(entry) for name, entry in described.items() if name != "__metadata__"}
    if _header(metadata, shapes) != header:
        raise ValueError("its header is not written as edgerl does")
    return metadata, shapes


def _read_shape(entry: Mapping[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    if len(shape) > _MAXIMUM_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"it holds a tensor of shape {quoted(shape)}")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize > MAXIMUM_BYTES:  # also where one size is 0
        raise ValueError(f"it holds a tensor of shape {quoted(shape)}")
    return dtype, shape


def _header(metadata: Mapping[str, Any], shapes: Shapes) -> bytes:
    """The bytes before the tensors; the same as the safetensors library writes, but for the padding."""
    described: dict[str, object] = {"__metadata__": {"edgerl": _canonical(metadata)}}
    for name, offsets in _extents(shapes).items():
        dtype, shape = shapes[name]
        described[name] = {"dtype": _CODES[dtype.str], "shape": shape, "data_offsets": offsets}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _extents(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes begin and end behind the header, in the order of the file."""
    extents, begin = {}, 0
    for name in sorted(shapes, key=lambda name: (_ORDER[shapes[name][0].str], name)):
        dtype, shape = shapes[name]
        end = begin + math.prod(shape) * dtype.itemsize
        extents[name] = begin, end
        begin = end
    return extents


def _size(shapes: Shapes) -> int:
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in shapes.values())


def _shape_of(name: str, tensor: npt.NDArray[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if name == "__metadata__":
        raise ValueError(f"a tensor cannot be named {name!r}; choose another name")
    dtype = tensor.dtype.newbyteorder("<")
    if dtype.str not in _CODES:
        raise ValueError(f"tensor {name!r} is of type {dtype}; expected one of {', '.join(_DTYPES)}")
    return dtype, tensor.shape


def _bytes_of(tensor: npt.NDArray[Any]) -> memoryview:
    contiguous = np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C")
    return contiguous.reshape(-1).view(np.uint8).data


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(metadata: Mapping[str, Any], shapes: Shapes, bytes_of: Callable[[str], Iterable[Bytes]]) -> str:
    digest = hashlib.sha256(_canonical(metadata).encode())
    for name in sorted(shapes):
        dtype, shape = shapes[name]
        digest.update(f"\n{name} {dtype.str} {shape}\n".encode())
        for part in bytes_of(name):
            digest.update(part)
    return digest.hexdigest()

"""What kind of file something is, by its content: for messages that name what was given beside what was expected.

A file is recognised by its first and last bytes, and never parsed as what it seems to be.
"""

from __future__ import annotations

import codecs
import os
import re
import struct
from pathlib import Path

from edgerl.errors import FileFormatError
from edgerl.files.strict_json import parse_json

SAMPLE_BYTES = 1 << 16
"""Of a file's beginning, and of its end: enough to recognise it."""

ONNX = "an ONNX model"
REPLAY = "a replay memory of edgerl"
TRANSITIONS = "a learner's log of transitions"
BRAX_FOLDER = "the folder of a checkpoint of Brax"
BRAX_PICKLE = "parameters of Brax (a pickle of Python)"
RL_TOOLS = "an HDF5 file, as RLtools and Keras save"
EMPTY = "empty"
STABLE_BASELINES3 = "a model of stable-baselines3"
"""How the kind of such a file begins."""
TAR = "a tar archive"
JSON, TOML, TEXT = "JSON text", "TOML text", "a text file"
TENSOR_FILES = {
    "policy": "a policy of edgerl",
    "checkpoint": "a checkpoint of edgerl",
    "learner": "a learner of edgerl",
    "snapshot": "a learner's snapshot of edgerl",
    "distillation": "a distillation of edgerl under way",
}
OTHER_TENSORS = "a tensor file of edgerl"
OURS = frozenset((*TENSOR_FILES.values(), OTHER_TENSORS))

IMPORTED = (ONNX, "a PyTorch file", STABLE_BASELINES3, BRAX_FOLDER, BRAX_PICKLE, RL_TOOLS)
"""How the kinds begin that `edgerl import` makes a policy of."""

_BEGINNINGS = (
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", TAR),
    (0, b"\x89HDF\r\n\x1a\n", RL_TOOLS),
    (0, b"\x93NUMPY", "a NumPy array"),
    (4, b"TFL3", "a TFLite model"),
    (4, b"ORTM", "a model in onnxruntime's own format"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x7fELF", "a program or library"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file of pickles"),
    (0, b"edgerl replay ", REPLAY),
    (0, b"edgerl transitions ", TRANSITIONS),
)
"""(offset, bytes, kind)"""

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]")
"""A protobuf message that begins with an IR version from 3 on, and then has another field of a model: a text, the graph
or an opset. A TensorFlow SavedModel begins with 1."""

_TOML = re.compile(rb"(?:\s|#[^\n]*\n)*(?:\[\[?[\w.\- \"]+\]\]?|[\w.\-\"]+[ \t]*=)")
_LARGEST_HEADER = 1 << 32
"""Bytes of a safetensors header that are believed."""


def kind_of(data: bytes) -> str | None:
    """The kind, as it follows 'is': 'an ONNX model'; None where none is recognised.

    data: a whole file, or the first and the last SAMPLE_BYTES of it.
    """
    if not data:
        return EMPTY
    for offset, magic, kind in _BEGINNINGS:
        if data.startswith(magic, offset):
            return kind
    if data.startswith(b"PK\x03\x04"):
        return _archive(data)
    if _PICKLE.match(data) and data.endswith(b"."):
        return BRAX_PICKLE if b"brax.training" in data else "a pickle of Python"
    if data[8:9] == b"{" and struct.unpack_from("<Q", data)[0] < _LARGEST_HEADER:
        return _tensor_file(data)
    return ONNX if _ONNX.match(data) else _text(data)


def what_is(path: Path) -> str:
    """What a path leads to, as it follows 'is': 'not there', 'a run folder', 'an ONNX model', 'a file'."""
    if os.path.isfile(path):  # where pathlib would raise an error, for a name that is too long
        return kind_of(sample(path)) or "a file"
    if os.path.isdir(path):
        return next((kind for name, kind in _FOLDERS.items() if any(path.glob(name))), "a folder")
    if os.path.exists(path):
        return "not a regular file"
    return "a link to nothing" if os.path.islink(path) else "not there"


def is_onnx(path: Path) -> bool:
    """Whether the file of a policy is an ONNX model, or else one of edgerl's own.

    Raises FileFormatError where its content is recognised as neither; what is not recognised goes by its name.
    """
    kind = kind_of(sample(path)) if path.is_file() else None
    if kind is None:
        return path.suffix == ".onnx"
    if kind != ONNX and kind not in OURS:
        expected = "a policy.safetensors (edgerl import makes one), or an ONNX model"
        raise FileFormatError(f"{path} is {kind}; expected {expected}{importing(kind, path)}")
    return kind == ONNX


def importing(kind: str, source: str | Path) -> str:
    """The command that makes a policy of a file of another program, behind a colon; nothing where there is none."""
    return f": edgerl import {source}" if kind.startswith(IMPORTED) else ""


def refuse_other_kinds(data: bytes, source: str | Path, expected: str, *own: str) -> None:
    """Raise FileFormatError where `data`, as `kind_of` takes it, is recognised as none of the kinds `own`."""
    kind = kind_of(data)
    if kind is not None and kind not in own:
        raise FileFormatError(f"{source} is {kind}; expected {expected}")


_FOLDERS = {
    "config.json": "a run folder",
    "snapshot-*.safetensors": "a learner's state folder",
    "study.json": "a study's folder",
    "saved_model.pb": "a TensorFlow SavedModel",
    "*_network_config.json": BRAX_FOLDER,
}
"""A file in a folder → what the folder is."""


def sample(path: Path) -> bytes:
    """What `kind_of` takes, of a file that may be large. Raises FileFormatError where it cannot be read."""
    try:
        with path.open("rb") as file:
            begin = file.read(SAMPLE_BYTES)
            rest = path.stat().st_size - len(begin)
            file.seek(-min(max(rest, 0), SAMPLE_BYTES), 2)
            return begin + file.read(SAMPLE_BYTES) if rest > 0 else begin
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}") from error


def _archive(data: bytes) -> str:
    """By the names of its members, which are at its beginning and, all of them, at its end."""
    if b"_stable_baselines3_version" in data:
        return f"{STABLE_BASELINES3} (a zip archive of PyTorch weights)"
    if b"/data.pkl" in data:
        return "a PyTorch file (a zip archive with a pickle)"
    if b"_network_config.json" in data:
        return BRAX_FOLDER
    if b".npy" in data[:SAMPLE_BYTES]:
        return "a NumPy archive"
    return "a zip archive"


def _tensor_file(data: bytes) -> str:
    (length,) = struct.unpack_from("<Q", data)
    header = data[8 : 8 + length]
    try:
        kind = parse_json(parse_json(header)["__metadata__"]["edgerl"])["kind"]
        return TENSOR_FILES.get(kind, OTHER_TENSORS)
    except (ValueError, KeyError, TypeError):  # not ours; or cut off, or damaged
        return OTHER_TENSORS if b'"edgerl":' in data[:SAMPLE_BYTES] else "a safetensors file that edgerl did not write"


def _text(data: bytes) -> str | None:
    begin = data[:SAMPLE_BYTES]
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(begin)  # the last character may be cut off
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    if _TOML.match(begin):
        return TOML
    return JSON if text.lstrip().startswith(("{", "[")) else TEXT

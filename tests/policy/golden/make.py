"""Write policy.safetensors with only struct, json and hashlib, as docs/format.md says, without edgerl.

Run as `python tests/policy/golden/make.py`; the test compares the file with what edgerl writes, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

# 2 observations → 5 hidden units in blocks of 4 (sparse, fp16) → 2 actions (dense, int8), normalised.
# Block row 0 has one block, from input 1; block row 1, one unit wide and padded, has one from input 0.
METADATA = {
    "about": {"environment": "Golden-v0", "note": "é", "return": 1e-05},
    "kind": "policy",
    "layers": [
        {"block": 4, "inputs": 2, "layout": "sparse", "outputs": 5, "precision": "fp16"},
        {"block": 4, "inputs": 5, "layout": "dense", "outputs": 2, "precision": "int8"},
    ],
    "version": 1,
}
# By hand: (1, −1) is (1, −6) normalised; the hidden units are (0, 6, 0, 1, 1.75); the outputs before tanh follow.
EXAMPLE = (0.5 + 1.5 * math.tanh(-0.75 / 128), -1.25 + 1.75 * math.tanh(5.75 / 64 + 0.125))
TENSORS = {
    "action.high": ("F32", [2], struct.pack("<2f", 2.0, 0.5)),
    "action.low": ("F32", [2], struct.pack("<2f", -1.0, -3.0)),
    "example.action": ("F32", [2], struct.pack("<2f", *EXAMPLE)),
    "example.observation": ("F32", [2], struct.pack("<2f", 1.0, -1.0)),
    "layers.0.bias": ("F32", [5], struct.pack("<5f", 0.5, 0.0, -0.5, 1.0, 0.25)),
    "layers.0.columns": ("U16", [2], struct.pack("<2H", 1, 0)),
    "layers.0.row_starts": ("U32", [3], struct.pack("<3I", 0, 1, 2)),
    "layers.0.values": ("F16", [2, 4], struct.pack("<8e", 0.5, -1.0, 2.0, 0.0, 1.5, 0.0, 0.0, 0.0)),
    "layers.1.bias": ("F32", [2], struct.pack("<2f", 0.0, 0.125)),
    "layers.1.scale": ("F32", [2], struct.pack("<2f", 0.0078125, 0.015625)),
    "layers.1.values": ("I8", [2, 5], struct.pack("<10b", 127, 0, -127, 1, -1, 2, 3, 5, 7, -11)),
    "observation.mean": ("F32", [2], struct.pack("<2f", 0.0, 0.5)),
    "observation.scale": ("F32", [2], struct.pack("<2f", 1.0, 4.0)),
}
# The same with an offset: (5 800 001.25, −1) is (1.25, −1) shifted, which float32 would make (1.5, −1) of. The last
# hidden unit is 2.125 then.
SHIFTED_EXAMPLE = (0.5 + 1.5 * math.tanh(-1.125 / 128), -1.25 + 1.75 * math.tanh(1.625 / 64 + 0.125))
WITH_OFFSET = TENSORS | {
    "example.action": ("F32", [2], struct.pack("<2f", *SHIFTED_EXAMPLE)),
    "example.observation": ("F64", [2], struct.pack("<2d", 5_800_001.25, -1.0)),
    "observation.offset": ("F64", [2], struct.pack("<2d", 5_800_000.0, 0.0)),
}
NUMPY_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "|i1", "U16": "<u2", "U32": "<u4"}
LARGEST_ITEM_FIRST = (
    "F64",
    "F32",
    "U32",
    "F16",
    "U16",
    "I8",
)  # the order in which the safetensors library lays them out


def canonical(metadata: object) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"))


def make(*, with_offset: bool = False) -> bytes:
    metadata, tensors = ({**METADATA, "version": 2}, WITH_OFFSET) if with_offset else (METADATA, TENSORS)
    hashed = canonical(metadata).encode()
    for name, (dtype, shape, data) in sorted(tensors.items()):
        hashed += f"\n{name} {NUMPY_NAMES[dtype]} {tuple(shape)}\n".encode() + data
    text = canonical({**metadata, "sha256": hashlib.sha256(hashed).hexdigest()})
    header: dict[str, object] = {"__metadata__": {"edgerl": text}}
    body = b""
    for name, (dtype, shape, data) in sorted(
        tensors.items(), key=lambda item: (LARGEST_ITEM_FIRST.index(item[1][0]), item[0])
    ):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-(8 + len(described)) % 4096)
    return struct.pack("<Q", len(described)) + described + body


if __name__ == "__main__":
    Path(__file__).with_name("policy.safetensors").write_bytes(make())
    Path(__file__).with_name("policy-offset.safetensors").write_bytes(make(with_offset=True))

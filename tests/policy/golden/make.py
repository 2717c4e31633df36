"""Write policy.safetensors with only struct, json and hashlib, as docs/format.md says, without edgerl.

Run as `python tests/policy/golden/make.py`; the test compares the file with what edgerl writes, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

# 2 observations → 5 hidden units in blocks of 4 (sparse, fp16) → 2 actions (dense, int8), normalised.
# Block row 0 has one block, from input 1; block row 1, one unit wide and padded, has one from input 0.
METADATA: dict[str, Any] = {
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
# With all that version 3 adds: (1, −1) is (1, −4) normalised and clipped; the sums of the hidden units are
# (−1.5, 4, −8.5, 1, 1.75), their mean is −0.65, and the mean square of what is left 18.49.
CENTRED = (-0.85, 4.65, -7.85, 1.65, 2.4)
NORMED = [
    s * c / math.sqrt(18.49 + 0.25) + b for s, c, b in zip((1, 1, 2, 1, 1), CENTRED, (0, 0, 0, 0, 0.5), strict=True)
]
ACTIVE = [x if x > 0 else math.expm1(x) for x in NORMED]
ROWS = ((127, 0, -127, 1, -1), (2, 3, 5, 7, -11))
SUMS = [
    s * sum(w * x for w, x in zip(row, ACTIVE, strict=True)) for s, row in zip((0.0078125, 0.015625), ROWS, strict=True)
]
EXAMPLE_OF_PARTS = (min(max(SUMS[0], -1.0), 2.0), max(SUMS[1] + 0.125, -3.0))
OF_PARTS = {
    "head": "clip",
    "layers": [METADATA["layers"][0] | {"activation": "elu", "norm_epsilon": 0.25}, METADATA["layers"][1]],
    "observation_clip": 4.0,
    "version": 3,
}
WITH_PARTS = TENSORS | {
    "action.high": ("F32", [2], struct.pack("<2f", 2.0, math.inf)),
    "example.action": ("F32", [2], struct.pack("<2f", *EXAMPLE_OF_PARTS)),
    "layers.0.norm_scale": ("F32", [5], struct.pack("<5f", 1.0, 1.0, 2.0, 1.0, 1.0)),
    "layers.0.norm_shift": ("F32", [5], struct.pack("<5f", 0.0, 0.0, 0.0, 0.0, 0.5)),
}
# 1 observation → an LSTM of one unit → a GRU of one unit → 1 action; each row of a cell is one gate's weights from its
# input and from its own last output.
LSTM = (((1.0, 0.5), (-1.0, 0.25), (0.5, -0.5), (2.0, 1.0)), (0.5, 0.0, -0.25, 0.125))
GRU = (((1.0, -1.0), (0.5, 0.5), (2.0, 0.0), (0.0, 1.5)), (0.25, -0.5, 0.125, 0.75))
FLAT = [value for row in (*LSTM[0], *GRU[0]) for value in row]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def sums(cell: tuple[Any, Any], x: float, h: float) -> list[float]:
    return [w * x + u * h + b for (w, u), b in zip(*cell, strict=True)]


def actions_of_cells(observations: tuple[float, ...]) -> list[float]:
    """Of one episode."""
    actions, h, c, k = [], 0.0, 0.0, 0.0
    for x in observations:
        i, f, g, o = sums(LSTM, x, h)
        c = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
        h = sigmoid(o) * math.tanh(c)
        r, z, a, b = sums(GRU, h, k)
        k = (1 - sigmoid(z)) * math.tanh(a + sigmoid(r) * b) + sigmoid(z) * k
        actions.append(math.tanh(2 * k + 0.5))
    return actions


CELL = {"block": 1, "inputs": 2, "layout": "dense", "norm_epsilon": None, "outputs": 4, "precision": "fp32"}
OF_CELLS = {
    "head": "tanh",
    "layers": [
        CELL | {"activation": "lstm"},
        CELL | {"activation": "gru"},
        {"block": 1, "inputs": 1, "layout": "dense", "outputs": 1, "precision": "fp32"},
    ],
    "observation_clip": None,
    "version": 3,
}
WITH_CELLS = {
    "action.high": ("F32", [1], struct.pack("<f", 1.0)),
    "action.low": ("F32", [1], struct.pack("<f", -1.0)),
    "example.action": ("F32", [1], struct.pack("<f", *actions_of_cells((1.0,)))),
    "example.observation": ("F32", [1], struct.pack("<f", 1.0)),
    "layers.0.bias": ("F32", [4], struct.pack("<4f", *LSTM[1])),
    "layers.0.values": ("F32", [4, 2], struct.pack("<8f", *FLAT[:8])),
    "layers.1.bias": ("F32", [4], struct.pack("<4f", *GRU[1])),
    "layers.1.values": ("F32", [4, 2], struct.pack("<8f", *FLAT[8:])),
    "layers.2.bias": ("F32", [1], struct.pack("<f", 0.5)),
    "layers.2.values": ("F32", [1, 1], struct.pack("<f", 2.0)),
}
# The plain one, whose two observations are one number now and a step ago.
CONTRACT = {
    "action_clip": [[-1.0, 2.0], [None, 0.5]],
    "action_offset": [0.5, -1.25],
    "action_scale": [1.5, 1.75],
    "command_names": ["twist"],
    "default_joint_pos": [0.5, -1.25],
    "joint_damping": [1.0, 2.0],
    "joint_ids_map": [1, 0],
    "joint_names": ["hip", "knee"],
    "joint_stiffness": [20.0, 40.0],
    "observation_names": ["speed"],
    "observation_terms_clip": [[-4.0, None]],
    "observation_terms_flatten_history_dim": [1],
    "observation_terms_history_length": [2],
    "observation_terms_scale": [[0.25]],
    "observation_terms_size": [1],
    "step_dt": [0.02],
}
# The first file with an outlier, from hidden unit 1 to action 0: 0.25 · 6 more before tanh. Its first layer is int4 and
# dense, with the same weights in steps of a half: two in a byte, the first in the lower four bits.
EXAMPLE_OF_OUTLIERS = (0.5 + 1.5 * math.tanh(-0.75 / 128 + 0.25 * 6), EXAMPLE[1])
OF_OUTLIERS = {
    "head": "tanh",
    "layers": [
        METADATA["layers"][0]
        | {"activation": "relu", "layout": "dense", "norm_epsilon": None, "outliers": 0, "precision": "int4"},
        METADATA["layers"][1] | {"outliers": 1},
    ],
    "observation_clip": None,
    "version": 4,
}
HALVES = ((0, 1), (0, -2), (0, 4), (0, 0), (3, 0))
WITH_OUTLIERS = {name: tensor for name, tensor in TENSORS.items() if not name.startswith("layers.0.")} | {
    "layers.0.bias": TENSORS["layers.0.bias"],
    "layers.0.scale": ("F32", [5], struct.pack("<5f", *[0.5] * 5)),
    "layers.0.values": ("U8", [5], bytes(first & 15 | (second & 15) << 4 for first, second in HALVES)),
    "example.action": ("F32", [2], struct.pack("<2f", *EXAMPLE_OF_OUTLIERS)),
    "layers.1.outlier_columns": ("U16", [1], struct.pack("<H", 1)),
    "layers.1.outlier_row_starts": ("U32", [3], struct.pack("<3I", 0, 1, 1)),
    "layers.1.outlier_values": ("F32", [1], struct.pack("<f", 0.25)),
}
CONTENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": (METADATA, TENSORS),
    "offset": ({**METADATA, "version": 2}, WITH_OFFSET),
    "parts": ({**METADATA, **OF_PARTS}, WITH_PARTS),
    "cells": ({**METADATA, **OF_CELLS}, WITH_CELLS),
    "contract": ({**METADATA, "contract": CONTRACT}, TENSORS),
    "outliers": ({**METADATA, **OF_OUTLIERS}, WITH_OUTLIERS),
}
NUMPY_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "|i1", "U16": "<u2", "U32": "<u4", "U8": "|u1"}
LARGEST_ITEM_FIRST = (
    "F64",
    "F32",
    "U32",
    "F16",
    "U16",
    "I8",
    "U8",
)  # the order in which the safetensors library lays them out


def canonical(metadata: object) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"))


def make(what: str = "") -> bytes:
    """The plain file, or the one with an offset, with the parts of version 3, cells, a contract, or outliers."""
    metadata, tensors = CONTENTS[what]
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
    for what in CONTENTS:
        Path(__file__).with_name(f"policy{what and '-'}{what}.safetensors").write_bytes(make(what))

"""Which runtime runs which kind of model: the one table that profile, report, export, run and learn ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edgerl.edge.acting.onnx_policy import refuse_unsafe
from edgerl.errors import UnsupportedModelError
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import ONNX, what_is

RuntimeName = Literal["onnxruntime", "native", "c"]
RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "native", "c")

ModelKind = Literal["policy", "onnx", "foreign onnx", "network", "learner"]
"""A policy.safetensors; its export as ONNX; an ONNX file of any other program; layer widths of a policy that is not
trained yet; a learner.safetensors."""

RUN_BY: Mapping[ModelKind, tuple[RuntimeName, ...]] = {
    "policy": RUNTIMES,  # each as its own export
    "onnx": RUNTIMES,  # its policy.safetensors exists
    "foreign onnx": ("onnxruntime",),
    "network": RUNTIMES,
    "learner": ("native", "c"),
}

KINDS: Mapping[ModelKind, str] = {
    "policy": "is a policy",
    "onnx": "was exported by edgerl",
    "foreign onnx": "was not written by edgerl",
    "network": "is a network of edgerl",
    "learner": "learns",
}


def onnx_kind(data: bytes, source: Path) -> ModelKind:
    """Of the ONNX file in `data`, by its own word and its operators. Raises what `refuse_unsafe` raises."""
    return "onnx" if refuse_unsafe(data, source) else "foreign onnx"


def why_not(name: str, kind: ModelKind, runtime: RuntimeName) -> str | None:
    """Why a runtime cannot run the model called `name`; None where it can."""
    if runtime in RUN_BY[kind]:
        return None
    return f"{runtime} cannot run {name}: it {KINDS[kind]}, and only {' or '.join(RUN_BY[kind])} can run such a file"


def refuse_onnx(path: Path, runtime: RuntimeName, expected: str) -> None:
    """Raise UnsupportedModelError for an ONNX model where a command takes a file of edgerl's own, to run on `runtime`;
    `expected` says which, and how to get it."""
    if what_is(path) != ONNX:
        return
    kind = onnx_kind(read_bytes(path), path)
    problem = why_not(str(path), kind, runtime) or f"{path} is an ONNX model, which edgerl only runs"
    raise UnsupportedModelError(f"{problem}; expected {expected}")

"""What runs on the device: acting at a fixed rate. Needs numpy and safetensors, and onnxruntime for .onnx files only.

The public names are resolved on first use (PEP 562): importing this package loads none of the three.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "ControlLoop": "edgerl.edge.acting.control",
    "ControlStatistics": "edgerl.edge.acting.control",
    "Learner": "edgerl.edge.continual.learner",
    "OnnxPolicy": "edgerl.edge.acting.onnx_policy",
    "Policy": "edgerl.edge.acting.policy",
    "Robot": "edgerl.edge.acting.robot",
    "Schedule": "edgerl.edge.continual.session",
    "Session": "edgerl.edge.continual.session",
    "realtime": "edgerl.edge.acting.realtime",
}

__all__ = [*_PUBLIC]  # resolved by __getattr__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgerl.edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

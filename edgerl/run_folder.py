"""The files of a run folder, by name, and where run folders are."""

from __future__ import annotations

from pathlib import Path

from edgerl.files.paths import home

RUNS = Path("runs")
LATEST = RUNS / "latest"
"""A link to the newest run that holds a policy."""

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
REPLAY = "replay.bin"
METRICS = "metrics.csv"
TOPOLOGY = "topology.csv"
VERSIONS = "versions.json"
POLICY = "policy.safetensors"
ONNX = "policy.onnx"
C_FOLDER = "c"
LEARNER = "learner.safetensors"


FIT_RECORDS = "fit-*.json"


def fit_record(device_id: str) -> str:
    """What `edgerl fit` measured for a device."""
    return FIT_RECORDS.replace("*", device_id)


def short(path: Path) -> Path:
    """An absolute path, relative to the folder where the command started if it is inside."""
    return path.relative_to(home()) if path.is_relative_to(home()) else path

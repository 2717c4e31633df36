"""A result as a board would send it, for tests; and a profile of the machine that they run on."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.policy.compact import CompactPolicy

DIGEST = "ab" * 32
ROOT = Path(__file__).parents[2]


def c_result(policy: CompactPolicy | None = None, observations: Any = None, **machine: Any) -> dict[str, Any]:
    """What the C program prints: ten calls of 1 to 10 µs. `policy` acts on `observations`."""
    actions = [[0.5, -0.5]] if policy is None else policy(observations, np.float64).tolist()
    return {
        "policy_sha256": DIGEST,
        "machine": {
            "system": "Linux",
            "release": "4.9.253-tegra",
            "architecture": "aarch64",
            "cpu": "0xd07",
            "board": "NVIDIA Jetson Nano Developer Kit",
            "governor": "schedutil",
            "pinned_to": 3,
            "mhz": 1479,
            **machine,
        },
        "measurements": [
            {
                "runtime": "c",
                "engine": "baseline; dense dense",
                "built_with": "GCC 12.2.0",
                "calls": 10,
                "clock_ns": 52,
                "p50_ns": 5000,
                "p90_ns": 9000,
                "p99_ns": 10_000,
                "max_ns": 10_000,
                "cold_ns": 31_000,
                "evicted_bytes": 1 << 23,
                # an octave from 4096 has eight bins of 512, one from 8192 of 1024
                "histogram": [[1023, 1], [2047, 1], [3071, 1], [4095, 1], [5119, 1], [6143, 2], [9215, 2], [10239, 1]],
                "actions": actions,
            }
        ],
    }


def document(first: Any, second: Any = None) -> bytes:
    """As run.sh puts it together."""
    return json.dumps({"format": "edgerl benchmark", "version": 1, "results": [first, second]}).encode()


def profile_of_this_machine(path: Path) -> Path:
    """A valid device profile whose architecture is that of this machine; its other numbers are a Raspberry Pi's."""
    text = (ROOT / "device_profiles/raspberry-pi-5.toml").read_text()
    path.write_text(text.replace('architecture = "aarch64"', f'architecture = "{platform.machine()}"'))
    return path

"""Machines for calibration: what Linux would say of another one, and one whose times are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgerl.edge import OnnxPolicy, Policy
from edgerl.edge.acting.policy import LAYOUTS, Layout, LayoutChoice
from edgerl.policy.compact import CompactPolicy
from edgerl.profiling.measuring import calibrate as calibration
from edgerl.profiling.measuring import host as host_module

SERVER = 'model name\t: Some CPU "X"\ncpu MHz\t\t: 2599.998\n'
BOARD = "processor\t: 0\nCPU part\t: 0xd03\n"
"""/proc/cpuinfo."""

SERVER_CACHES = (("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "480M"))
"""(level, type, size); a board's kernel may tell none."""


def fake_linux(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cpu: str, caches: Sequence[tuple[str, str, str]] = ()
) -> None:
    """/proc and /sys as another machine would have them, in `folder`."""
    (folder / "cpuinfo").write_text(cpu)
    (folder / "meminfo").write_text("MemTotal:  1000000 kB\nMemFree: 1 kB\nMemAvailable:  600000 kB\n")
    for index, files in enumerate(caches):
        cache = folder / f"cpu0/cache/index{index}"
        cache.mkdir(parents=True)
        for name, content in zip(("level", "type", "size"), files, strict=True):
            (cache / name).write_text(content + "\n")
    monkeypatch.setattr(host_module, "CPU_INFO", folder / "cpuinfo")
    monkeypatch.setattr(host_module, "MEMORY_INFO", folder / "meminfo")
    monkeypatch.setattr(host_module, "CPU", folder / "cpu0")


class KnownMachine:
    """Its engines act as they do, and its clock goes on by what they would take: the costs of a profile, ns.

    `slowness` may be changed while a calibration goes on.
    """

    def __init__(self) -> None:
        self.native = dict(zip(calibration.NATIVE_COSTS, (800.0, 15.0, 1.5, 3.0, 0.03, 0.5, 0.2), strict=True))
        self.onnxruntime = dict(zip(calibration.ONNXRUNTIME_COSTS, (4000.0, 300.0, 0.05), strict=True))
        self.slowness = 1.0
        self.now = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let calibration time networks on it, few of them."""
        machine = self

        class TimedPolicy(Policy):
            def __init__(self, policy: CompactPolicy, layout: LayoutChoice = "auto") -> None:
                super().__init__(policy, machine.fastest(policy) if layout == "auto" else layout)
                self.ns = machine.native_ns(policy, self.layouts)

            def __call__(self, observation: npt.ArrayLike) -> npt.NDArray[np.float32]:
                machine.now += self.ns * machine.slowness
                return super().__call__(observation)

        class TimedOnnxPolicy(OnnxPolicy):
            def __init__(self, path: str | Path) -> None:
                self.ns = machine.onnxruntime_ns(Path(path))
                super().__init__(path)

            def __call__(self, observation: npt.ArrayLike) -> npt.NDArray[np.float32]:
                machine.now += self.ns * machine.slowness
                return super().__call__(observation)

        monkeypatch.setattr(calibration, "Policy", TimedPolicy)
        monkeypatch.setattr(calibration, "OnnxPolicy", TimedOnnxPolicy)
        monkeypatch.setattr(calibration, "thread_time_ns", lambda: self.now)
        for name, value in (("ROUNDS", 1), ("REPEATS", 1), ("CALLS", 2), ("WIDTHS", (16, 96)), ("WIDEST", 256)):
            monkeypatch.setattr(calibration, name, value)

    def fastest(self, policy: CompactPolicy) -> list[Layout]:
        """The layout of each layer that takes least."""
        chosen: list[Layout] = []
        while len(chosen) < len(policy.layers):
            rest: list[Layout] = ["dense"] * (len(policy.layers) - len(chosen) - 1)
            chosen.append(min(LAYOUTS, key=lambda layout: self.native_ns(policy, [*chosen, layout, *rest])))
        return chosen

    def native_ns(self, policy: CompactPolicy, layouts: Sequence[Layout]) -> float:
        """What edgerl's engine takes."""
        items = calibration._native_items(policy, layouts)
        return sum(count * cost for count, cost in zip(items, self.native.values(), strict=True))

    def onnxruntime_ns(self, path: Path) -> float:
        """What onnxruntime takes, with the model in a file."""
        matrices = [tensor.dims for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2]
        call, layer, multiply_add = self.onnxruntime.values()
        return call + len(matrices) * layer + sum(n * m for n, m in matrices) * multiply_add

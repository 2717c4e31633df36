"""edgerl: sparse reinforcement-learning policies, from training to the board.

The public names are resolved on first use (PEP 562), so that importing one part does not load the others:
`import edgerl.edge` on a board loads neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "cost": ("edgerl.commands.cost", "cost"),
    "run": ("edgerl.commands.run", "run"),
    "info": ("edgerl.commands.info", "info"),
    "learn": ("edgerl.commands.learn", "learn"),
    "list_devices": ("edgerl.commands.devices", "list_devices"),
    "show_device": ("edgerl.commands.devices", "show_device"),
    "validate_device": ("edgerl.commands.devices", "validate_device"),
    "calibrate_device": ("edgerl.commands.devices", "calibrate_device"),
    "evaluate_devices": ("edgerl.commands.devices", "evaluate_devices"),
    "play": ("edgerl.commands.play", "play"),
    "sweep": ("edgerl.commands.sweep", "sweep"),
    "plan_sweep": ("edgerl.commands.sweep", "plan_sweep"),
    "table": ("edgerl.commands.table", "table"),
    "write_report": ("edgerl.commands.report", "write_report"),
    "train": ("edgerl.training.train", "train"),
    "prune": ("edgerl.compression.prune", "prune"),
    "profile": ("edgerl.profiling.budgets.report", "profile"),
    "profile_learner": ("edgerl.profiling.budgets.learning", "profile_learner"),
    "measure": ("edgerl.commands.measure", "measure"),
    "write_benchmark": ("edgerl.commands.measure", "write_benchmark"),
    "fit": ("edgerl.compression.fit", "fit"),
    "distill": ("edgerl.compression.distill", "distill"),
    "import_policy": ("edgerl.importers.policy_file", "import_policy"),
    "load": ("edgerl.policy.format", "load"),
    "export_policy": ("edgerl.commands.export", "export_policy"),
}

__all__ = ["__version__", *_PUBLIC]  # resolved by __getattr__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgerl' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)

"""From what edgerl trained to what other runtimes read: a registry of formats, one module of this package each.

The format `c-learner` is the module `c_learner`; Format says what is in it. A module loads the standard library and
edgerl.options only, and the rest when it exports: the command line makes its flags from all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from edgerl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from edgerl.options import Checked
    from edgerl.policy.compact import Array, CompactPolicy


@dataclass(frozen=True)
class ExportReport:
    """What was written, in any format; each format's report adds its own."""

    path: Path
    format: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people beside the result, such as what cannot read the file."""
        return ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class TargetDevice:
    """What an exporter must know of the device that it writes for; bytes of what runs C there."""

    id: str
    core: str  # Cortex-M4F
    architecture: str  # armv7e-m
    lanes: int  # numbers in a vector
    constants_in_memory: bool  # a microcontroller reads them from flash
    memory_budget: int
    flash_budget: int
    base_memory: int  # of the runtime, without a policy
    installed: int  # in flash, of the runtime, without a policy


@dataclass(frozen=True)
class PolicySource:
    """A policy, and what is known about it."""

    policy: CompactPolicy
    sha256: str  # of its file, or of the one that it would be written to
    device: TargetDevice | None = None
    command: str = "edgerl.export_policy"  # which made the export
    recorded: Callable[[], Array | None] = lambda: None  # observations [count, n] of its run, less the offset


@dataclass(frozen=True)
class LearnerSource:
    """A learner: of a run or a model, which hands it over, or in a file that one handed over before."""

    path: Path  # the run folder, the model of stable-baselines3, or a learner.safetensors
    hand_over: Callable[..., Any] | None  # that of training.handover; None: it is a learner.safetensors
    device: TargetDevice | None = None

    @property
    def folder(self) -> Path:
        """Where what is exported of it goes."""
        return self.path.parent if self.path.is_file() else self.path


class Format(Protocol):
    """A module of this package."""

    SOURCE: Literal["policy", "learner"]
    """What it exports: a PolicySource, or a LearnerSource."""

    OUTPUT: str
    """The file or folder beside what was exported, where no other is named; a file is called as its policy is."""

    REQUIRES: tuple[str, ...]
    """What must be installed for it."""

    Options: type[Checked]
    """Its options, a dataclass: flags of `edgerl export`, and keywords of `edgerl.export_policy`."""

    def export(self, source: Any, path: Path, options: Any, *, force: bool) -> ExportReport:
        """Write `source` to `path`, and say what was written. Raises EdgerlError."""
        ...

    def describe(self, report: Any) -> Iterable[str]:
        """The report as lines for people."""
        ...


def formats() -> dict[str, Format]:
    """Every format by its name, in alphabetical order."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): cast(Format, importlib.import_module(f"{__name__}.{name}")) for name in modules}


def find_format(name: str) -> Format:
    """The format of that name. Raises ConfigError where there is none."""
    known = formats()
    if name not in known:
        suggestion = nearest(name, known) or f"; expected {', '.join(known)}"
        raise ConfigError(f"{name[:40]!r} is not an export format{suggestion}")
    return known[name]

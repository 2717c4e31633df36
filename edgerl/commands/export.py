"""`edgerl.export_policy`: what edgerl trained, in a format that other runtimes read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from edgerl.commands.models import Notice, find_model, find_run, no_notice
from edgerl.edge.continual.learner import champion_policy
from edgerl.edge.continual.store import Snapshots
from edgerl.edge.runtimes import RUNTIMES, RuntimeName, refuse_onnx
from edgerl.errors import ConfigError, FileFormatError, nearest, require
from edgerl.export import ExportReport, Format, LearnerSource, PolicySource, TargetDevice, c, find_format, formats
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import STABLE_BASELINES3, what_is
from edgerl.options import Checked, options_of
from edgerl.policy import format as policy_file
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.pruning import compact
from edgerl.profiling.budgets.device import Device, find_device
from edgerl.profiling.budgets.memory import LANES_BASELINE
from edgerl.profiling.budgets.report import figures_of
from edgerl.profiling.microcontroller.exported import core_to_measure, measure_export
from edgerl.run_folder import CHECKPOINT, CONFIG, POLICY

if TYPE_CHECKING:
    from edgerl.commands.returns import CReturns
    from edgerl.export.c import CReport
    from edgerl.export.c_learner import CLearnerReport
    from edgerl.export.learner import LearnerReport
    from edgerl.export.onnx import OnnxReport

Exported = CompactPolicy | str | Path | None
"""A policy or a learner, or where it lies; None: the latest run's."""


@overload
def export_policy(
    policy: Exported = ..., format: Literal["onnx"] = ..., path: str | Path | None = None, **options: Any
) -> OnnxReport: ...


@overload
def export_policy(
    policy: Exported, format: Literal["c"], path: str | Path | None = None, **options: Any
) -> CReport: ...


@overload
def export_policy(
    policy: Exported, format: Literal["c-learner"], path: str | Path | None = None, **options: Any
) -> CLearnerReport: ...


@overload
def export_policy(
    policy: Exported, format: Literal["learner"], path: str | Path | None = None, **options: Any
) -> LearnerReport: ...


@overload
def export_policy(policy: Exported, format: str, path: str | Path | None = None, **options: Any) -> ExportReport: ...


def export_policy(
    policy: Exported = None,
    format: str = "onnx",
    path: str | Path | None = None,
    *,
    force: bool = False,
    device: str | Path | None = None,
    observations: Array | None = None,
    command: str = PolicySource.command,
    notice: Notice = no_notice,
    **options: Any,
) -> ExportReport:
    """Write a policy or a learner in `format`, with the options that `edgerl export` has for it.

    policy: a CompactPolicy; or a policy.safetensors, the state folder of a learner, or a run folder (default
    runs/latest). c-learner and learner take a run folder, c-learner also a learner.safetensors, learner also a SAC or
    TD3 of stable-baselines3. path: the file or
    folder to write (default beside the policy; in a run or state folder it replaces what is there). force: replace
    another one, too. device: write for this one, and keep its budgets: as `target`, where that names a device.
    observations: recorded ones [count, n], less the policy's offset, over which the loss of smaller weights is stated
    (default the run's). command: what made the export, which the header of C names. notice: called with lines that a
    person should read.

    Raises ConfigError for an unknown format or option, OutputError where a file exists and `force` is not given,
    FileFormatError for a damaged policy, DeviceError, MissingExtraError, UnsupportedModelError, and CheckFailed where
    the device's budgets are exceeded, or what was written acts differently.
    """
    chosen = find_format(format)
    made, target = _options(chosen, format, options, device)
    for requirement in chosen.REQUIRES:
        require(requirement, "export")
    core = core_to_measure(made.target, target, made.measure) if isinstance(made, c.Options) else None
    source: PolicySource | LearnerSource
    if chosen.SOURCE == "learner":
        source = _learner(policy, format, target, notice)
        default = _Default(source.folder / chosen.OUTPUT, is_ours=source.hand_over is None or source.path.is_dir())
    else:
        found = policy if isinstance(policy, CompactPolicy) else _find_policy(policy, notice)
        default = _beside_policy(found, chosen)
        recorded = partial(_recorded, default) if observations is None else lambda: observations
        source = PolicySource(*_read_policy(found, format), target, command, recorded)
    goal = default.path if path is None else Path(path)
    if goal is None:
        raise ConfigError("`path` was not given, and a policy in memory lies in no folder; name a file or a folder")
    report = chosen.export(source, goal, made, force=force or (path is None and default.is_ours))
    if not isinstance(source, PolicySource) or not isinstance(report, c.CReport):
        return report
    report = replace(report, returns=_c_returns(source.policy, report))
    if core is None:
        return report
    return replace(report, measured=measure_export(report, source.policy, source.sha256, core))


def _c_returns(policy: CompactPolicy, report: c.CReport) -> CReturns | None:
    """What the precision costs, where it is given: only then anything of training is loaded."""
    if report.dtype is None:
        return None
    from edgerl.commands.returns import measure_c_returns

    return measure_c_returns(policy, report.dtype, report.target)


def _options(
    chosen: Format, format: str, options: Mapping[str, Any], device: str | Path | None
) -> tuple[Checked, TargetDevice | None]:
    """The options of a format, checked, and the device that they or `device` name."""
    known = options_of(chosen.Options)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in known:
            raise _foreign_option(name, format, known)
    target = given.get("target")
    if device is not None:
        if "target" not in known:
            raise _foreign_option("device", format, known)
        if target is not None:
            raise ConfigError(f"`target` is {target} and `device` is {device}; expected one of them")
    elif target is not None and target not in known["target"].choices:
        device = given.pop("target")
    return chosen.Options(**given), None if device is None else _target_device(find_device(device))


def _foreign_option(name: str, format: str, known: Iterable[str]) -> ConfigError:
    is_of_another = name == "device" or any(name in options_of(other.Options) for other in formats().values())
    suggestion = "" if is_of_another else nearest(name, known)
    return ConfigError(f"`{name}` was given, which `format` {format} does not have{suggestion or '; leave it out'}")


def _target_device(device: Device) -> TargetDevice:
    figures = figures_of(device, device.runtime("c"))
    is_microcontroller = device.kind == "microcontroller"
    return TargetDevice(
        id=device.id,
        core=device.cpu.core,
        architecture=device.cpu.architecture,
        lanes=1 if is_microcontroller else LANES_BASELINE,
        constants_in_memory=not is_microcontroller,
        memory_budget=int(device.budgets.memory_bytes.value),
        flash_budget=int(device.budgets.flash_bytes.value),
        base_memory=int(figures.base_memory_bytes.value),
        installed=int(figures.installed_bytes.value),
    )


@dataclass(frozen=True)
class _Default:
    """What is written where no path is named."""

    path: Path | None  # None: the policy lies in no folder
    is_ours: bool  # what is there is replaced


def _find_policy(named: str | Path | None, notice: Notice) -> Path:
    """The policy's file, or the state folder of a learner."""
    if named is not None and Snapshots(Path(named)).are_there:
        return Path(named)
    return find_model(named, notice, (POLICY,))


def _beside_policy(policy: CompactPolicy | Path, chosen: Format) -> _Default:
    if isinstance(policy, CompactPolicy):
        return _Default(None, is_ours=False)
    if policy.is_dir():
        return _Default(policy / chosen.OUTPUT, is_ours=True)
    suffix = Path(chosen.OUTPUT).suffix
    output = policy.with_suffix(suffix) if suffix else policy.with_name(chosen.OUTPUT)
    return _Default(output, is_ours=policy.name == POLICY and policy.with_name(CONFIG).exists())


def _read_policy(policy: CompactPolicy | Path, format: str) -> tuple[CompactPolicy, str]:
    """The policy with the SHA-256 of its file; that of a state folder is the champion, without dead units."""
    if isinstance(policy, Path) and not policy.is_file():
        policy = compact(champion_policy(policy))
    if isinstance(policy, CompactPolicy):
        return policy, sha256(policy_file.to_bytes(policy)).hexdigest()
    runtime: RuntimeName = next((name for name in RUNTIMES if name == format), "onnxruntime")
    refuse_onnx(policy, runtime, f"the {POLICY} that it was made from, or one of it: edgerl import {policy}")
    data = read_bytes(policy)
    return policy_file.from_bytes(data, policy), sha256(data).hexdigest()


def _recorded(default: _Default) -> Array | None:
    """Observations that the run recorded, less the offset; None where it has none that can be read."""
    from edgerl.training import checkpoint
    from edgerl.training.recorded import RECORDED_OBSERVATIONS, recorded_observations

    if default.path is None or not default.is_ours:
        return None
    run = default.path.parent
    try:
        return recorded_observations(run, checkpoint.read(run / CHECKPOINT), RECORDED_OBSERVATIONS)
    except FileFormatError:
        return None


def _learner(learner: Exported, format: str, target: TargetDevice | None, notice: Notice) -> LearnerSource:
    if isinstance(learner, CompactPolicy):
        raise ConfigError(f"`format` {format} takes a learner, and this is a policy; name a run folder")
    if learner is not None and Path(learner).is_file():
        path = Path(learner)
        return LearnerSource(path, _model_handed_over(path) if format == "learner" else None, target)
    run = find_run(learner, notice)
    from edgerl.training.handover import hand_over

    return LearnerSource(run, partial(hand_over, run), target)


def _model_handed_over(path: Path) -> Callable[..., Any] | None:
    """What hands the learner of a foreign model over; None for a file of edgerl's own."""
    if not what_is(path).startswith(STABLE_BASELINES3):
        return None
    from edgerl.training.handover import hand_over_model

    return partial(hand_over_model, path)

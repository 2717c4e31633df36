"""`edgerl.list_devices` and its neighbours: the profiles that come with edgerl, and profiles of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgerl.commands.export import export_policy
from edgerl.commands.models import Notice, no_notice
from edgerl.errors import ConfigError, MissingExtraError, quoted, require
from edgerl.files.atomic import read_bytes, refuse_existing, write_atomically
from edgerl.profiling.budgets.device import (
    Device,
    Quantity,
    Runtime,
    device_ids,
    find_device,
    load_device,
    parse_device,
    profile_path,
)
from edgerl.profiling.latency.evaluate import ClassErrors, Prediction, class_errors, predict
from edgerl.profiling.latency.model import RuntimeClass, latency_model
from edgerl.profiling.latency.points import read_points
from edgerl.profiling.measuring import calibrate


@dataclass(frozen=True)
class DeviceProfile:
    """A device, and the file that describes it."""

    device: Device
    path: Path

    @property
    def quantities(self) -> dict[str, Quantity]:
        """Every number, each with its source, by its dotted key in the file."""
        device = self.device
        unit = "cycles_per_multiply_add" if device.cpu.peaks_are_cycles else "flop_per_cycle"
        peaks = {f"{precision}_{unit}": quantity for precision, quantity in device.cpu.peaks.items()}
        measured = {("measured", each.policy_sha256[:8], each.runtime, each.mode): each for each in device.measured}
        tables = {
            "cpu": _numbers(device.cpu) | peaks,
            **{f"modes.{mode.name}": _numbers(mode) for mode in device.modes},
            "memory": _numbers(device.memory),
            **{f"caches.{cache.level}": _numbers(cache) for cache in device.caches},
            **{f"runtimes.{runtime.name}": runtime_quantities(runtime) for runtime in device.runtimes},
            "budgets": _numbers(device.budgets),
            **{".".join(filter(None, key)): _numbers(saved) for key, saved in measured.items()},
        }
        return {f"{name}.{key}": quantity for name, table in tables.items() for key, quantity in table.items()}

    @property
    def toml(self) -> str:
        """The file's text, to start a profile of one's own from: another name keeps what was published of the chip."""
        text = read_bytes(self.path).decode()
        if self.device.id not in device_ids() or self.device.same_chip_as is not None:
            return text
        return re.sub("^name = .*$", rf'\g<0>\nsame_chip_as = "{self.device.id}"', text, count=1, flags=re.MULTILINE)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        device = self.device
        return {
            "id": device.id,
            "name": device.name,
            "kind": device.kind,
            "aliases": list(device.aliases),
            "same_chip_as": device.same_chip_as,
            "core": device.cpu.core,
            "architecture": device.cpu.architecture,
            "default_runtime": device.default_runtime,
            "runtimes": {
                each.name: {"available": each.available, "reason": each.reason, "instead": each.instead}
                for each in device.runtimes
            },
            "quantities": {key: vars(quantity) for key, quantity in self.quantities.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """Published latencies beside what the latency model predicts for them."""

    predictions: tuple[Prediction, ...]
    classes: Mapping[RuntimeClass, ClassErrors]  # points in doubt left out
    fitted_points: int  # that the model was fitted to: of those it knows, errors flatter it

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "classes": {name: asdict(errors) for name, errors in self.classes.items()},
            "points": [prediction.as_dict() for prediction in self.predictions],
        }


def list_devices() -> list[DeviceProfile]:
    """The devices that come with edgerl, sorted by id."""
    return [show_device(device_id) for device_id in device_ids()]


def show_device(device: str | Path) -> DeviceProfile:
    """A device by its id or alias, or by the path of a .toml file. Raises DeviceError."""
    return DeviceProfile(find_device(device), profile_path(str(device)))


def validate_device(path: str | Path) -> DeviceProfile:
    """The profile in a TOML file, all of it checked. Raises DeviceError, which says what is wrong."""
    return DeviceProfile(load_device(Path(path)), Path(path))


def calibrate_device(output: str | Path, *, force: bool = False, notice: Notice = no_notice) -> DeviceProfile:
    """Make a profile of this machine: its runtimes timed with random networks, in half a minute.

    output: the .toml file to write. force: replace one that exists. notice: called with lines that a person should
    read.

    Raises ConfigError, MissingExtraError, OutputError; CheckFailed, with nothing written, where other programs
    disturbed the measurement.
    """
    output = Path(output)
    if output.suffix != ".toml":
        raise ConfigError(f"`output` is {quoted(str(output), 60)}; expected a name that ends in .toml")
    refuse_existing(output, force=force)
    text = calibrate.calibrate(_onnx_writer(notice), output.stem, notice).encode()
    device = parse_device(text, output.stem, str(output))
    write_atomically(output, text, force=force)
    return DeviceProfile(device, output)


def evaluate_devices(points: str | Path) -> Evaluation:
    """Predict published latencies, and say how far off the predictions are.

    points: a .jsonl file, a JSON object a line. Raises FileFormatError.
    """
    predictions = tuple(map(predict, read_points(Path(points))))
    return Evaluation(predictions, class_errors(predictions), latency_model().about["points"])


def runtime_quantities(runtime: Runtime) -> dict[str, Quantity]:
    """The numbers of one runtime by key; none where it cannot run on the device."""
    return {} if runtime.figures is None else _numbers(runtime.figures.costs) | _numbers(runtime.figures)


def _numbers(table: object) -> dict[str, Quantity]:
    return {key: value for key, value in vars(table).items() if isinstance(value, Quantity)}


def _onnx_writer(notice: Notice) -> calibrate.WriteOnnx | None:
    """What writes an ONNX file; None where onnxruntime or onnx is not installed, which `notice` says."""
    try:
        for module in ("onnxruntime", "onnx"):
            require(module, "export")
    except MissingExtraError as error:
        notice(f"{error}; the profile says that onnxruntime is not available")
        return None
    return lambda policy, path: export_policy(policy, "onnx", path, force=True)

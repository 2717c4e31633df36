"""`edgerl.measure` and `edgerl.write_benchmark`: a policy's latency on this machine or on a board."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgerl.commands.export import export_policy
from edgerl.commands.models import Notice, find_model, no_notice
from edgerl.errors import ConfigError, MissingExtraError
from edgerl.files.atomic import read_bytes, refuse_existing, write_atomically
from edgerl.profiling.budgets.device import Device, find_device
from edgerl.profiling.measuring import measured
from edgerl.profiling.measuring.bundle import make_bundle
from edgerl.profiling.measuring.measure import Subject, find_subject, measure_here
from edgerl.profiling.measuring.measured import Comparison
from edgerl.profiling.measuring.measurement import Result, parse_result
from edgerl.profiling.measuring.ssh import run_bundle, ssh_command


@dataclass(frozen=True)
class BenchmarkReport:
    """A benchmark bundle that was written."""

    path: Path
    bytes: int
    programs: tuple[str, ...]  # architectures that it has a program for
    missing: Mapping[str, str]  # of the others, why not

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.path),
            "bytes": self.bytes,
            "programs": list(self.programs),
            "missing": dict(self.missing),
        }


def measure(
    model: str | Path | None = None,
    *,
    ssh: str | None = None,
    ssh_config: str | Path | None = None,
    result: str | Path | None = None,
    device: Device | str | Path | None = None,
    mode: str | None = None,
    notice: Notice = no_notice,
) -> Comparison:
    """Measure a policy's latency, some seconds: on this machine, or on a board.

    model: a policy.safetensors, an ONNX file or a run folder (default runs/latest). ssh: USER@HOST of a board with
    Linux, on which nothing need be installed. ssh_config: its port, key and known hosts, as `ssh -F` reads them.
    result: the file that a benchmark bundle printed on a board; then nothing is measured. device: what the measurement
    is compared with, in its power mode `mode`. notice: called with lines that a person should read.

    Raises ConfigError, DeviceError, FileFormatError, MissingExtraError, RemoteError, UnsupportedModelError.
    """
    check_board(ssh, ssh_config)
    if ssh is not None and result is not None:
        raise ConfigError("`ssh` and `result` were both given; expected one of them")
    path = find_model(model, notice, prefers_first=True)
    profile = device if device is None or isinstance(device, Device) else find_device(device)
    with _subject(path, complete=result is None) as subject:
        return measured.compare(_result(subject, ssh, ssh_config, result, notice), subject, profile, mode)


def check_board(ssh: str | None, ssh_config: str | Path | None) -> None:
    """Raise ConfigError unless both can name a board."""
    if ssh is not None:
        ssh_command(ssh, None if ssh_config is None else Path(ssh_config))
    elif ssh_config is not None:
        raise ConfigError("`ssh_config` is for `ssh`; name the board: `ssh` user@host")


def _result(
    subject: Subject,
    ssh: str | None,
    ssh_config: str | Path | None,
    result: str | Path | None,
    notice: Notice,
) -> Result:
    if ssh is not None:
        notice(f"measuring on {ssh}: copying, some seconds there, longer where the program must be built")
        config = None if ssh_config is None else Path(ssh_config)
        return parse_result(run_bundle(ssh, make_bundle(subject).data, config), f"what {ssh} sent")
    if result is not None:
        return parse_result(read_bytes(Path(result)), str(result))
    notice("measuring here, some seconds")
    return measure_here(subject)


def write_benchmark(
    output: str | Path,
    model: str | Path | None = None,
    *,
    force: bool = False,
    notice: Notice = no_notice,
) -> BenchmarkReport:
    """Write a tar that measures a policy on a board with Linux, by `sh run.sh`, for `measure` to read its result.

    output: the file to write. model, notice: as in `edgerl.measure`. force: replace a file that exists.

    Raises FileFormatError, OutputError, UnsupportedModelError.
    """
    output = Path(output)
    refuse_existing(output, force=force)
    with _subject(find_model(model, notice, prefers_first=True)) as subject:
        bundle = make_bundle(subject)
    write_atomically(output, bundle.data, force=force)
    return BenchmarkReport(output, len(bundle.data), bundle.programs, bundle.missing)


@contextlib.contextmanager
def _subject(path: Path, *, complete: bool = True) -> Iterator[Subject]:
    """What a model file means; complete: with an ONNX file, exported for now where none lies beside the policy."""
    subject = find_subject(path)
    if not complete or subject.onnx_path is not None or subject.policy_path is None:
        yield subject
        return
    with tempfile.TemporaryDirectory(prefix="edgerl-") as folder:
        exported = Path(folder) / "policy.onnx"
        with contextlib.suppress(MissingExtraError):  # then onnxruntime is not measured, and the result says why
            export_policy(subject.policy_path, "onnx", exported)
            subject = replace(subject, onnx_path=exported)
        yield subject

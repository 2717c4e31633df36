"""What `edgerl profile` measures, here or on a board, and how it prints that."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.cli.support.output import note, print_json, print_table
from edgerl.cli.support.profile_formats import human_latency
from edgerl.commands.models import no_notice
from edgerl.errors import ConfigError, OutputError
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.commands.measure import BenchmarkReport
    from edgerl.profiling.budgets.device import Device
    from edgerl.profiling.budgets.report import ProfileReport
    from edgerl.profiling.measuring.measured import Comparison, ComparisonRow
    from edgerl.profiling.measuring.measurement import Bins

BAR = 40
"""Characters of the histogram's longest bar."""

SHOWN_SHARE = 0.002
"""Bins with fewer of all calls are summed up in one line."""


@dataclass(frozen=True)
class Measuring:
    """The options of `edgerl profile` that measure something."""

    here: bool
    ssh: str | None
    ssh_config: Path | None
    result: Path | None
    bundle: Path | None
    save: Path | None
    force: bool

    @property
    def chosen(self) -> list[str]:
        """The options that say what to do; at most one where `check` passed."""
        given = {
            "--measure": self.here,
            "--ssh": self.ssh is not None,
            "--import": self.result is not None,
            "--bundle": self.bundle is not None,
        }
        return [name for name, is_given in given.items() if is_given]

    def check(self, devices: Sequence[str], of_a_device: Mapping[str, object], network: str | None) -> None:
        """Raise ConfigError or OutputError where the options exclude each other, before anything is done.

        `of_a_device` are the options that mean nothing without one; `network` is one that does not exist yet.
        """
        from edgerl.commands.measure import check_board

        if len(self.chosen) > 1:
            raise ConfigError(f"{' and '.join(self.chosen)} exclude each other; choose one")
        if not devices and not self.chosen:
            alternative = "" if of_a_device["--learn"] else "; or measure: --measure, --ssh, --import, --bundle"
            raise ConfigError(f"Missing option '--device'{alternative}")
        useless = [name for name, value in of_a_device.items() if not devices and value is not None]
        if useless:
            raise ConfigError(f"{useless[0]} is for a device; add --device")
        if self.chosen and len(devices) > 1:
            raise ConfigError(f"{self.chosen[0]} is about one device; name one --device instead of {len(devices)}")
        if self.chosen and network is not None:
            raise ConfigError(f"{self.chosen[0]} needs a policy in a file; name one instead of --network")
        check_board(self.ssh, self.ssh_config)
        self._check_outputs(devices[0] if devices else None)

    def _check_outputs(self, device: str | None) -> None:
        from edgerl.files.atomic import refuse_existing

        if self.bundle is not None:
            refuse_existing(self.bundle, force=self.force)
        if self.save is None:
            return
        if device is None or self.chosen in ([], ["--bundle"]):
            raise ConfigError("--save keeps a measurement in a profile; add --measure, --ssh or --import, and --device")
        if self.save.suffix != ".toml":
            raise OutputError(f"--save is {self.save}; expected a name that ends in .toml, as of a device profile")
        extends = (
            device.endswith(".toml") and self.save.exists() and Path(device).exists() and self.save.samefile(device)
        )
        refuse_existing(self.save, force=self.force or extends)

    def run(self, path: Path, device: Device | None, mode: str | None) -> Done:
        """Do what the options say, for the model in `path`; the device is in that mode."""
        from edgerl.commands.measure import measure, write_benchmark

        if self.bundle is not None:
            return Done(write_benchmark(self.bundle, path, force=self.force), None)
        if not self.chosen:
            return NOTHING_DONE
        comparison = measure(
            path,
            ssh=self.ssh,
            ssh_config=self.ssh_config,
            result=self.result,
            device=device,
            mode=mode,
            notice=note if sys.stderr.isatty() else no_notice,  # for a person who waits
        )
        return Done(None, comparison)


@dataclass(frozen=True)
class Done:
    """What was made: a bundle, a measurement, or neither."""

    bundle: BenchmarkReport | None
    comparison: Comparison | None

    def as_dict(self) -> dict[str, Any]:
        """What is added to the JSON of a report."""
        more: dict[str, Any] = {} if self.bundle is None else {"bundle": self.bundle.as_dict()}
        return more if self.comparison is None else {**more, "measured": self.comparison.as_dict()}

    def applied_to(self, report: ProfileReport) -> ProfileReport:
        """The report with the measurement in place of the estimate, where it counts."""
        from edgerl.profiling.measuring.measured import with_comparison

        return report if self.comparison is None else with_comparison(report, self.comparison)

    def print(self, runtime: str | None = None) -> None:
        """For people, after the report, which is about `runtime`."""
        if self.bundle is not None:
            _print_bundle(self.bundle)
        if self.comparison is not None:
            _print_comparison(self.comparison)
            if runtime is not None:
                _print_basis(self.comparison, runtime)

    def print_without_report(self, path: Path, *, as_json: bool) -> None:
        """Where there is no report."""
        if not as_json:
            self.print()
        elif self.comparison is not None:
            print_json({"model": path.name, **self.comparison.as_dict()})
        else:
            print_json({"model": path.name, **self.as_dict()})

    def save(self, architecture: str, device: Device, name: str, goal: Path) -> None:
        """Save the measurement in a profile of the user's own; `name` is what --device was given."""
        from edgerl.profiling.measuring.measured import save

        assert self.comparison is not None
        count = save(self.comparison, architecture, device, Path(name) if name.endswith(".toml") else None, goal)
        note(f"{goal}: latencies measured: {count}; profile with it: --device {goal}")


NOTHING_DONE = Done(None, None)


def _print_bundle(bundle: BenchmarkReport) -> None:
    """What was written, and what to do with it."""
    programs = ", ".join(bundle.programs) or "no architecture: the board needs a C compiler"
    print(f"{bundle.path}: {human_bytes(bundle.bytes)}, with programs for {programs}")
    for reason in bundle.missing.values():
        note(f"without a program: {reason}")
    print(f"on the board: tar -xf {bundle.path.name} && sh edgerl-benchmark/run.sh > result.json")
    print("and here: edgerl profile --import result.json --device …")


def _print_comparison(comparison: Comparison) -> None:
    """The measured figures beside the estimates, and how they are spread."""
    from edgerl.profiling.measuring.measured import describe_machine

    print(f"\nmeasured on {describe_machine(comparison.result.machine)}")
    columns = ["runtime", "p50", "p90", "p99", "max", "cold caches"]
    if comparison.device is not None:
        columns += ["estimate", "its error"]
    print_table(columns, [_cells(row, comparison) for row in comparison.rows])
    for row in comparison.rows:
        measurement, difference = row.measurement, row.largest_difference
        checked = "" if difference is None else f"; actions differ by {difference:.1e} of their range at most"
        print(f"{measurement.runtime}: {measurement.engine}; {measurement.built_with}{checked}")
        _print_histogram(measurement.histogram, measurement.calls)
    for runtime, reason in comparison.result.not_measured.items():
        print(f"{runtime}: not measured: {reason}")


def _print_basis(comparison: Comparison, runtime: str) -> None:
    """What the verdict is based on, where that is not the measurement."""
    if not comparison.counts:
        architecture = comparison.result.machine.architecture
        print(f"note: {architecture} is not the architecture of {comparison.device}: the verdict is on the estimate")
    elif comparison.result.measurement(runtime) is None:
        measured = " or ".join(row.measurement.runtime for row in comparison.rows)
        print(f"note: {runtime} was not measured: the verdict is on its estimate; choose --runtime {measured}")


def _cells(row: ComparisonRow, comparison: Comparison) -> list[str]:
    measurement, estimate = row.measurement, row.estimate
    figures = ("p50_ns", "p90_ns", "p99_ns", "max_ns", "cold_ns")
    cells = [measurement.runtime, *(_time(getattr(measurement, name)) for name in figures)]
    if comparison.device is not None:
        cells += [human_latency(estimate) if estimate else "–", "–"]
        if estimate and comparison.counts and measurement.p50_ns:
            cells[-1] = f"{100 * (1e3 * estimate.used / measurement.p50_ns - 1):+.0f} %"
    return cells


def _print_histogram(histogram: Bins, calls: int) -> None:
    shown = [(end, count) for end, count in histogram if count >= SHOWN_SHARE * calls]
    longest = max((count for _, count in shown), default=1)
    for end, count in shown:
        print(f"  ≤ {_time(end):<8} {100 * count / calls:5.1f} %  {'▇' * max(1, round(BAR * count / longest))}")
    rest = calls - sum(count for _, count in shown)
    if rest:
        print(f"  elsewhere  {100 * rest / calls:5.1f} %")


def _time(nanoseconds: float) -> str:
    """To three digits: 1.26 µs, 41.3 µs, 2.15 ms."""
    for unit, size in (("µs", 1e3), ("ms", 1e6)):
        if nanoseconds < 999.5 * size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"

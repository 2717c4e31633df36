"""What `edgerl profile` prints: a page for one device, a table for several, Markdown and JUnit for a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgerl.cli.support.output import print_table
from edgerl.units import UNCERTAINTY, human_bytes, human_estimate, human_seconds, human_uncertainty

if TYPE_CHECKING:
    from edgerl.profiling.budgets.learning import LearningReport
    from edgerl.profiling.budgets.report import BudgetPart, BudgetVerdict, Estimate, ProfileReport, Unit

LABELS = {"memory": "memory", "flash": "flash", "flops": "FLOPs per inference", "latency": "latency"}
SYMBOLS: dict[Unit, str] = {"bytes": " B", "FLOP": "", "us": " µs"}
SMALLEST_ROUNDED = {"FLOP": 1.0, "us": 0.1}
"""Below, rounding to the digits that people read would leave a zero."""


def print_page(report: ProfileReport) -> None:
    """Everything about one device."""
    default = ", the default there" if report.is_default_runtime else ""
    executes = "executes dense matrices" if report.execution == "dense" else "executes what is stored"
    print(f"{report.model} ({report.architecture}) on {report.device_name}")
    print(f"runtime {report.runtime}{default}: {executes}; control rate {report.rate_hz:g} Hz\n")
    names = [f"{index}: {layer.inputs} → {layer.outputs}" for index, layer in enumerate(report.layers)]
    figures = [(layer.connections, layer.macs, layer.flops, layer.bytes) for layer in report.layers]
    layers = zip([*names, "total"], [*figures, map(sum, zip(*figures, strict=True))], strict=True)
    columns = ("layer", "connections", "MACs", "FLOPs", "bytes")
    print_table(columns, [(name, *map(str, numbers)) for name, numbers in layers])
    print_table(_COLUMNS, _rows(report))
    for name, verdict in report.verdicts.items():
        print(f"{LABELS[name]}: {_sources(verdict)}")
    print_uncertainty([report])
    for note in report.notes:
        print(f"note: {note}")


def print_learning(report: LearningReport) -> None:
    """Where the learner's memory goes, and what fits beside the control rate."""
    memory, replay = report.memory, report.replay
    update, idle = human_seconds(report.update_us * 1e-6), human_seconds(report.idle_us * 1e-6)
    print(
        f"learner: networks {human_bytes(memory.arena)}, champion {human_bytes(memory.champion)}, replay {replay.keep} "
        f"of {memory.capacity} transitions, {memory.record} bytes each in {replay.precision}"
    )
    print(
        f"learning: ≈ {report.updates_per_second:.3g} updates/s fit beside {report.acting.rate_hz:g} Hz (estimate, "
        f"unvalidated): one takes ≈ {update}, and {idle} of each period are idle"
    )
    print(f"an update: {report.source}")


def print_summary(reports: Sequence[ProfileReport]) -> None:
    """One table: a row for each device, and below it one for each budget."""
    print(f"{reports[0].model} ({reports[0].architecture})")
    rows: list[tuple[str, ...]] = []
    for report in reports:
        rows.append((_named(report), "", "", _word(report, not report.exceeded)))
        rows += [(f"  {label}", *others) for label, *others in _rows(report)]
    print_table(_COLUMNS, rows)
    print_uncertainty(reports)


def print_uncertainty(reports: Sequence[ProfileReport]) -> None:
    """What ±x % means, where a latency is printed with it."""
    if _has_uncertainty(reports):
        print(UNCERTAINTY)


def _has_uncertainty(reports: Sequence[ProfileReport]) -> bool:
    return any(getattr(report.latency, "uncertainty", None) is not None for report in reports)


def markdown(reports: Sequence[ProfileReport]) -> str:
    """A table for a merge request: devices as rows, budgets as columns."""
    header = ("device", *LABELS.values(), "verdict")
    lines = [header, ("---", *("---:" for _ in LABELS), "---"), *map(_markdown_row, reports)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    meaning = f"\n\n{UNCERTAINTY}" if _has_uncertainty(reports) else ""
    return f"**{reports[0].model}** ({reports[0].architecture})\n\n{table}{meaning}"


def junit(reports: Sequence[ProfileReport]) -> str:
    """An XML report: a suite for each device, a test for each budget."""
    from xml.etree import ElementTree

    suites = ElementTree.Element("testsuites", name="edgerl profile")
    for report in reports:
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=_named(report),
            tests=str(len(report.verdicts) + (not report.is_available)),
            failures=str(len(report.exceeded) + (not report.is_available)),
        )
        if not report.is_available:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{report.model} on {report.device}", name="runtime"
            )
            ElementTree.SubElement(case, "failure", message=_unavailable(report)).text = "; ".join(report.notes)
        for name, verdict in report.verdicts.items():
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{report.model} on {report.device}", name=LABELS[name]
            )
            if not verdict.fits:
                failure = ElementTree.SubElement(case, "failure", message=use_of_budget(name, verdict))
                failure.text = _sources(verdict)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def excess(reports: Sequence[ProfileReport]) -> str:
    """What does not fit, and by how much."""
    return "; ".join(
        f"{report.model} does not fit {report.device}: {', '.join(_problems(report))}"
        for report in reports
        if not report.fits
    )


def _problems(report: ProfileReport) -> list[str]:
    unavailable = [] if report.is_available else [_unavailable(report)]
    return unavailable + [use_of_budget(name, report.verdicts[name]) for name in report.exceeded]


def _unavailable(report: ProfileReport) -> str:
    return f"{report.runtime} is not available there"


_COLUMNS = ("", "used", "budget", "verdict")


def _rows(report: ProfileReport) -> list[tuple[str, ...]]:
    return [
        (LABELS[name], *_used_and_budget(verdict), _word(report, verdict.fits))
        for name, verdict in report.verdicts.items()
    ]


def _markdown_row(report: ProfileReport) -> tuple[str, ...]:
    cells = [
        f"{' of '.join(_used_and_budget(verdict))}{'' if verdict.fits else ' EXCEEDED'}"
        for verdict in report.verdicts.values()
    ]
    return _named(report), *cells, _word(report, not report.exceeded)


def _named(report: ProfileReport) -> str:
    return f"{report.device} ({report.runtime})"


def _word(report: ProfileReport, is_kept: bool) -> str:
    """The verdict on a budget, or on all of them: nothing fits where its runtime is not available."""
    if not is_kept:
        return "EXCEEDED"
    return "fits" if report.is_available else "not available"


def _sources(verdict: BudgetVerdict) -> str:
    """Where both numbers come from."""
    return f"used: {' + '.join(map(_part, verdict.parts)) or verdict.source}; budget: {verdict.budget_source}"


def _part(part: BudgetPart) -> str:
    return f"{part.name} {part.amount}" if part.source is None else f"{part.name} {part.amount} ({part.source})"


def _used_and_budget(verdict: BudgetVerdict) -> tuple[str, str]:
    """Both amounts rounded; exact where rounding would make an exceeded budget look kept."""
    from edgerl.profiling.budgets.report import MeasuredLatency

    used, budget = (_amount(amount, verdict.unit) for amount in (verdict.used, verdict.budget))
    is_measured = isinstance(verdict, MeasuredLatency)
    if verdict.unit == "us" and not is_measured:
        used = human_estimate(verdict.used * 1e-6)
    if not verdict.fits and (used == budget or float(f"{verdict.used:.2g}") <= verdict.budget):
        used, budget = (f"{amount}{SYMBOLS[verdict.unit]}" for amount in (verdict.used, verdict.budget))
    if is_measured:
        return f"{used} (measured)", budget
    return (f"≈ {used} ({_error(verdict)})" if verdict.unit == "us" else used), budget


def human_latency(estimate: Estimate) -> str:
    """≈ 41 µs (±25 %)."""
    return f"≈ {human_estimate(estimate.used * 1e-6)} ({_error(estimate)})"


def _error(verdict: BudgetVerdict) -> str:
    """How far off an estimate may be."""
    return human_uncertainty(getattr(verdict, "uncertainty", None))


def _amount(amount: float, unit: Unit) -> str:
    if unit == "bytes":
        return human_bytes(amount)
    if 0 < amount < SMALLEST_ROUNDED[unit]:
        return f"{amount:.3g}{SYMBOLS[unit]}"
    return f"{amount:.0f}" if unit == "FLOP" else human_seconds(amount * 1e-6)


def use_of_budget(name: str, verdict: BudgetVerdict) -> str:
    """As in: memory 1.2 KiB of 1.0 KiB."""
    return f"{LABELS[name]} {' of '.join(_used_and_budget(verdict))}"

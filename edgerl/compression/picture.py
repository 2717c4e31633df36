"""Return against latency and against bytes, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

from edgerl.compression.choose import Selection, Trial
from edgerl.compression.returns import Goal
from edgerl.errors import require
from edgerl.profiling.budgets.device import Device

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 11, 4.5, 120

MICRO = 1e-6

Cost = Literal["latency", "bytes"]
COSTS: dict[Cost, tuple[str, str]] = {
    "latency": ("s", "latency on the device (estimate)"),
    "bytes": ("B", "size of the model in its runtime's format"),
}
"""Unit and label of an axis."""

COLOURS = {"fp32": "#4c6ef5", "fp16": "#12a594", "int8": "#e8590c", "int4": "#9c36b5"}


def draw(device: Device, goal: Goal, selection: Selection) -> bytes:
    """A PNG: the measured returns with their intervals against latency and against bytes."""
    figure = require("matplotlib.figure", "report").Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for one, (cost, (unit, label)) in zip(axes, COSTS.items(), strict=True):
        _scale(one, unit, label)
        for precision, colour in COLOURS.items():
            shown = [trial for trial in selection.trials if trial.candidate.form.precision == precision]
            _plot(one, shown, cost, precision, colour)
        if selection.chosen is not None:
            point = _cost(selection.chosen, cost), selection.chosen.measurement.returns.mean
            one.plot(*point, "o", markersize=15, markerfacecolor="none", color="#212529", label="chosen")
        least = goal.least_return(selection.reference.measurement.reference.mean)
        one.axhline(least, color="#868e96", linestyle="--", label=f"to be reached: {least:.0f}")
    latency_budget = selection.reference.candidate.report.latency.budget * MICRO
    axes[0].axvline(latency_budget, color="#c92a2a", linestyle=":", label="latency budget")
    axes[0].set_ylabel("return, with its 95 % interval")
    axes[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(f"fitted to {device.id}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _scale(axes: Any, unit: str, label: str) -> None:
    """A logarithmic axis with readable numbers."""
    ticker = require("matplotlib.ticker", "report")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(unit))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _plot(axes: Any, trials: Sequence[Trial], cost: Cost, label: str, colour: str) -> None:
    """Points with their intervals, filled where they meet the budgets."""
    for fits in (True, False):
        chosen = [trial for trial in trials if trial.candidate.report.fits == fits]
        returns = [trial.measurement.returns for trial in chosen]
        axes.errorbar(
            [_cost(trial, cost) for trial in chosen],
            [each.mean for each in returns],
            yerr=[[each.mean - each.low for each in returns], [each.high - each.mean for each in returns]],
            fmt="o",
            color=colour,
            markerfacecolor=colour if fits else "none",
            label=f"{label}{'' if fits else ', over a budget'}" if chosen else None,
            capsize=2,
        )


def _cost(trial: Trial, cost: Cost) -> float:
    """In seconds, or in bytes."""
    return trial.candidate.latency_us * MICRO if cost == "latency" else trial.candidate.n_bytes

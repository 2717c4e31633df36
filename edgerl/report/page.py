"""From what was read to one HTML file. Every text that comes from outside goes through `escape` or `embed`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from edgerl import __version__
from edgerl.errors import require
from edgerl.report import words
from edgerl.report.curves import Curve, learning_curves
from edgerl.report.details import TABLE_ROWS, Json, describe
from edgerl.report.sources import Run, Sources, evenly
from edgerl.studies.statistics import Interval
from edgerl.training.returns import mean_of
from edgerl.units import human_seconds

DIGITS = 6
"""Of every number in the page's data."""


def render(sources: Sources, *, title: str, reload_seconds: float | None) -> bytes:
    """The page; reload_seconds: after which it reloads itself, None for never. Raises MissingExtraError."""
    curves = learning_curves(sources.runs)
    tasks = [
        (name, [curve for curve in curves if curve.task == name])
        for name in dict.fromkeys(curve.task for curve in curves)
    ]
    details = describe(sources)
    data = {
        "tasks": [{"name": name, "curves": [_curve_data(curve) for curve in own]} for name, own in tasks],
        "details": [detail for detail, _ in details],
        "reload_seconds": reload_seconds,
    }
    body = [_learning(tasks), _picker([str(detail["name"]) for detail, _ in details])]
    body += [f'<div id="detail-{at}"{" hidden" if at else ""}>{html}</div>' for at, (_, html) in enumerate(details)]
    parts = {
        "title": escape(title),
        "lead": escape(_lead(sources)),
        "version": escape(__version__),
        "navigation": _navigation(bool(curves), [detail for detail, _ in details]),
        "style": _resource("page.css"),
        "script": _resource("page.js"),
        "library": require("plotly.offline", "report").get_plotlyjs(),
        "data": embed(data),
        "body": "\n".join(body),
        "footer": (
            f"Made by edgerl {escape(__version__)}. Charts: plotly.js (MIT licence). Nothing in this file is loaded "
            "from elsewhere."
        ),
    }
    # In one pass: the text of a part is never mistaken for a placeholder.
    page = re.sub(r"\[\[(\w+)\]\]", lambda match: parts[match[1]], _resource("page.html"))
    return page.encode(errors="backslashreplace")  # names of files need not be text


@cache
def _resource(name: str) -> str:
    return (resources.files("edgerl.report") / name).read_text(encoding="utf-8")


def embed(data: Any) -> str:
    """JSON inside a <script>: no character of it can end the element, and NaN becomes null."""
    text = json.dumps(_short(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _short(value: Any) -> Any:
    """Numbers with as many digits as a chart shows."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _short(value.tolist())
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")
    return value.item() if isinstance(value, np.generic) else value


def _lead(sources: Sources) -> str:
    runs, tasks = len(sources.runs), {run.config.task for run in sources.runs}
    parts = []
    if runs:
        parts.append(
            f"{words.count(runs, 'run')} in {', '.join(sorted(tasks)) if len(tasks) <= 5 else f'{len(tasks)} tasks'}"
        )
    if sources.models:
        parts.append(words.count(len(sources.models), "model file"))
    return "; ".join(parts)


def _navigation(has_curves: bool, details: Sequence[Json]) -> str:
    first = details[0] if details else {}
    known = [
        ("learning", "Learning", has_curves),
        ("connections", "Connections", first.get("layers")),
        ("sensors", "Sensors", first.get("sensors")),
        ("topology", "Topology", first.get("pictures")),
        ("compaction", "Compaction", first.get("has_compaction")),
        ("devices", "Devices", first.get("devices")),
        ("fit", "Fit", first.get("fits")),
        ("configuration", "Configuration", first.get("has_configuration")),
    ]
    return "".join(f'<a href="#{name}">{text}</a>' for name, text, is_there in known if is_there)


# Learning -----------------------------------------------------------------------------------------------------------


def _curve_data(curve: Curve) -> Json:
    return {
        "label": curve.label,
        "remark": "" if curve.n_finished == curve.n_of_setting else _runs(curve),
        "runs": len(curve.runs),
        "start": curve.start_steps,
        "returns": asdict(curve.returns),
        "success": None if curve.success is None else asdict(curve.success),
    }


def _learning(tasks: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    if not tasks:
        return ""
    every = [curve for _, curves in tasks for curve in curves]
    has_success = any(curve.success is not None for curve in every)
    rows = [
        (
            escape(curve.task),
            escape(curve.label),
            _runs(curve),
            _steps(curve),
            _interval(curve.final),
            mean_of(curve.evaluations) if curve.evaluations else "–",
            *([_share(curve.final_success)] if has_success else []),
            words.spaced(curve.best),
            _connections(curve.runs[0]),
            "–" if curve.seconds is None else human_seconds(curve.seconds),
        )
        for curve in every
    ]
    columns = (
        *("task", "method", "runs", "steps", "return", "which is", *(["success"] if has_success else [])),
        *("best evaluation", "connections of all networks", "time per run"),
    )
    summary = words.table(columns, rows, text_columns=(1,))
    charts = "".join(_task_charts(at, name, curves) for at, (name, curves) in enumerate(tasks))
    return words.section("learning", "Learning", _about_intervals(every), charts, summary, is_always_there=True)


def _task_charts(at: int, name: str, curves: Sequence[Curve]) -> str:
    """Returns, and success rates where the environment reports them."""
    has_success = any(curve.success is not None for curve in curves)
    success = words.chart(f"success-{at}", f"Success rate over environment steps in {name}", title="Success rate")
    return (
        f'<figure><h3>{escape(name)}</h3><div class="legend" id="legend-{at}" role="group" '
        f'aria-label="Curves that are shown"></div><div class="chart" id="curves-{at}" tabindex="0" role="img" '
        f'aria-label="Return over environment steps in {escape(name)}; the arrow keys walk along the curves"></div>'
        f"{words.folded('Table of the curves', _curves_table(curves))}</figure>{success if has_success else ''}"
    )


def _curves_table(curves: Sequence[Curve]) -> str:
    has_success = any(curve.success is not None for curve in curves)
    rows = [
        (
            escape(curve.label),
            f"{words.spaced(step)}{', before learning' if step <= curve.start_steps else ''}",
            *(words.spaced(getattr(curve.returns, name)[at]) for name in ("middle", "low", "high")),
            *([_share(_success_at(curve, at))] if has_success else []),
        )
        for curve in curves
        for at in evenly(len(curve.returns.steps), TABLE_ROWS)
        for step in (curve.returns.steps[at],)
    ]
    columns = ("method", "step", "return", "from", "to", *(["success"] if has_success else []))
    return words.table(columns, rows)


def _success_at(curve: Curve, at: int) -> float | None:
    """At the step of a return; None where not every run reports success there."""
    if curve.success is None:
        return None
    there = curve.success.middle[curve.success.steps == curve.returns.steps[at]]
    return float(there[0]) if len(there) else None


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _runs(curve: Curve) -> str:
    if curve.n_finished == curve.n_of_setting:
        return str(curve.n_of_setting)
    return f"{curve.n_finished or 'none'} of {curve.n_of_setting} finished"


def _steps(curve: Curve) -> str:
    wanted = "" if curve.n_finished else f" of {words.spaced(curve.runs[0].config.schedule.steps)}"
    return words.spaced(curve.returns.steps[-1]) + wanted


def _about_intervals(curves: Sequence[Curve]) -> str:
    single = [curve for curve in curves if curve.interval_is_over_episodes]
    text = (
        "Mean return of the episodes of an evaluation, without exploration. Shaded: random steps, before learning "
        "begins; returns in the table leave evaluations there out. "
    )
    if len(single) < len(curves):
        text += "Of several runs: the interquartile mean, and its 95 % bootstrap interval, too narrow for few runs. "
    if any(curve.n_finished < curve.n_of_setting for curve in curves):
        text += (
            "Unfinished runs are left out; where none of a setting is finished, all are shown up to the last step that "
            "every one of them has evaluated. "
        )
    if single:
        text += "Bands of one run: about 95 % for the episodes of one evaluation; they say nothing about other seeds. "
    return text


def _interval(final: Interval | None) -> str:
    if final is None:
        return "–"
    if final.low is None or final.high is None:
        return words.spaced(final.value)
    return f"{words.spaced(final.value)} [{words.spaced(final.low)}, {words.spaced(final.high)}]"


def _connections(run: Run) -> str:
    """Of the actor and of both critics, as trained."""
    own = [values[-1] for name, values in run.metrics.items() if name.startswith("connections.")]
    return words.spaced(sum(own)) if own else "–"


def _picker(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    options = "".join(f'<option value="{at}">{escape(name)}</option>' for at, name in enumerate(names))
    return f'<div class="picker"><label for="picker">One by one</label><select id="picker">{options}</select></div>'

"""One run, or one model file: what the charts draw, and the sections around them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.environments.arguments import stated
from edgerl.environments.observations import fallback_names, observation_names
from edgerl.errors import ConfigError
from edgerl.policy.compact import CompactPolicy, Layer
from edgerl.policy.pruning import compact
from edgerl.profiling.budgets.device import device_ids
from edgerl.profiling.budgets.model import policy_rows
from edgerl.profiling.budgets.rows import ModelRows
from edgerl.report import words
from edgerl.report.budgets import device_budgets
from edgerl.report.curves import evaluations, readable, success_rates
from edgerl.report.sources import Fit, Model, Run, Sources, Trial, evenly
from edgerl.report.topology import (
    LayerPicture,
    Sensors,
    ShownNetwork,
    actor_pictures,
    by_degree,
    policy_picture,
    sensors,
    shown_network,
)
from edgerl.training.returns import final_evaluations, mean_known, mean_of
from edgerl.units import human_bytes, human_estimate

Json = dict[str, Any]

MICRO = 1e-6

MOST_SENSORS = 60
"""Bars of a chart; the table has them all."""

SENSOR_NUMBERS = 200_000
"""Of all sensors over time, of all runs together: about 1.5 MB."""

TABLE_ROWS = 20
"""Of the table of a curve, evenly spread."""

MOST_TRIALS = 500
"""Of all fits of a page together."""

MOST_SESSIONS = 20
MOST_PACKAGES = 50
"""Of the versions of a run."""

LAYER_POINTS = 4000
"""Of a layer's curves of connections, of all runs together."""

MAXIMUM_MASK_BITS = 12_000_000
"""Of all pictures of topologies together: 2 MB. Where they are more, none is shown, which the page says."""

TOO_MANY_PICTURES = "Not pictured: the page would grow too large. Report fewer runs at once to see it."


# One run, or one model ----------------------------------------------------------------------------------------------


def describe(sources: Sources) -> list[tuple[Json, str]]:
    """(data, HTML) of each run and each model."""
    names: dict[tuple[str, int], tuple[str, ...] | None] = {}
    for run in sources.runs:
        if run.checkpoint is not None:
            task = (run.config.task, run.checkpoint.policy.n_observations)
            names[task] = names.get(task) or observation_names(run.config.environment, task[1], run.config.env_args)
    actors = [run.checkpoint.policy for run in sources.runs if run.checkpoint] + [
        m.policy for m in sources.models if m.policy
    ]
    room = SENSOR_NUMBERS // max(2 * sum(actor.n_observations for actor in actors), 1)
    bits = MAXIMUM_MASK_BITS // max(sum(2 * layer.n_inputs * layer.n_outputs for a in actors for layer in a.layers), 1)
    points = min(200, max(2, LAYER_POINTS // max(len(sources.runs), 1)))
    n_trials = MOST_TRIALS // max(sum(len(run.fits) for run in sources.runs), 1)
    details = []
    for at, run in enumerate(sources.runs):
        task = (run.config.task, 0 if run.checkpoint is None else run.checkpoint.policy.n_observations)
        details.append(
            _run_detail(
                run,
                at,
                names.get(task),
                points=points,
                time_points=max(room, 2),
                n_trials=n_trials,
                with_pictures=bits > 0,
            )
        )
    for at, model in enumerate(sources.models, len(details)):
        details.append(_model_detail(model, at, with_pictures=bits > 0))
    return details


def _run_detail(
    run: Run,
    at: int,
    names: Sequence[str] | None,
    *,
    points: int,
    time_points: int,
    n_trials: int,
    with_pictures: bool,
) -> tuple[Json, str]:
    fits = [thinned(fit, n_trials) for fit in run.fits]
    pictures = actor_pictures(run)
    actor = None if run.checkpoint is None else run.checkpoint.policy
    network = None if actor is None else shown_network(run)
    connected = None if actor is None else sensors(actor, pictures, run)
    devices = [] if run.rows is None else device_budgets(run.rows)
    layers = _layers_data(run, points)
    data = {
        "name": run.name,
        "layers": layers,
        "sensors": None
        if actor is None or connected is None
        else _sensors_data(connected, _named(actor, names), time_points),
        "pictures": [_picture_data(*pair) for pair in _ordered(pictures)] if with_pictures else [],
        "devices": [_device_data(device) for device in devices],
        "fits": [_fit_data(fit) for fit in fits],
        "has_compaction": actor is not None,
        "has_configuration": True,
    }
    html = [
        _key_figures(run, devices),
        _connections_section(layers, at),
        ""
        if actor is None or connected is None
        else _sensors_section(
            connected, _named(actor, names), has_names=names is not None, run=run, network=network, at=at
        ),
        _topology_section(pictures, data["pictures"], network),
        "" if actor is None else _compaction_section(pictures, actor, run.policy, run.policy_bytes),
        _devices_section(devices, at),
        "".join(
            _fit_section(fit, len(whole.trials), at, index)
            for index, (fit, whole) in enumerate(zip(fits, run.fits, strict=True))
        ),
        _configuration_section(run),
    ]
    return data, "".join(html)


def _model_detail(model: Model, at: int, *, with_pictures: bool) -> tuple[Json, str]:
    devices, policy = device_budgets(model.rows), model.policy
    pictures = () if policy is None else policy_picture(policy)
    connected = None if policy is None else sensors(policy, pictures, None)
    names = None if policy is None else _names_in(policy)
    data = {
        "name": model.name,
        "layers": None,
        "sensors": None if policy is None or connected is None else _sensors_data(connected, _named(policy, names), 2),
        "pictures": [_picture_data(*pair) for pair in _ordered(pictures)] if with_pictures else [],
        "devices": [_device_data(device) for device in devices],
        "fits": [],
        "has_compaction": False,
        "has_configuration": policy is not None,
    }
    known = (
        []
        if policy is None
        else [(escape(str(name)[:80]), escape(_value(value))) for name, value in policy.metadata.items()]
    )
    html = [
        _model_figures(model, devices),
        ""
        if policy is None or connected is None
        else _sensors_section(
            connected, _named(policy, names), has_names=names is not None, run=None, network=None, at=at
        ),
        _topology_section(pictures, data["pictures"], None),
        _devices_section(devices, at),
        ""
        if policy is None
        else words.section(
            "configuration", "What the file says", "", words.table(("key", "value"), known, text_columns=(1,))
        ),
    ]
    return data, "".join(html)


def _names_in(policy: CompactPolicy) -> tuple[str, ...] | None:
    """The observations' names, where the file says which task it is for."""
    environment = policy.metadata.get("environment")
    try:
        arguments = stated(policy.metadata)
    except ConfigError:
        return None
    return observation_names(environment, policy.n_observations, arguments) if isinstance(environment, str) else None


def _named(policy: CompactPolicy, names: Sequence[str] | None) -> Sequence[str]:
    return fallback_names(policy.n_observations) if names is None else names


def _key_figures(run: Run, devices: Sequence[Json]) -> str:
    figures = _return_figures(run)
    if run.policy is not None and run.checkpoint is not None:
        figures.append(_rows_figure(policy_rows(run.policy)))
        figures.append(("file", human_bytes(run.policy_bytes), "policy.safetensors"))
    figures += _device_figure(devices)
    about = f"{run.config.method_name} on {run.config.task}, seed {run.config.seed}, {run.config.engine} engine"
    return _figures(escape(run.name), about, figures)


def _return_figures(run: Run) -> list[tuple[str, str, str]]:
    """Return, success rate where the environment reports it, and steps."""
    if not len(run.metrics.get("step", ())):
        return [("return", "–", "no evaluation yet")]
    evaluated, schedule = evaluations(run), run.config.schedule
    done = run.metrics["step"][-1]
    steps = (
        "steps",
        words.spaced(done),
        "complete" if done >= schedule.steps else f"of {words.spaced(schedule.steps)}",
    )
    if not evaluated:
        return [("return", "–", "nothing was evaluated"), steps]
    final = final_evaluations(evaluated["step"], evaluated["return_mean"], schedule.start_steps)
    if not len(final):
        return [("return", "–", f"learning begins at step {words.spaced(schedule.start_steps)}"), steps]
    of_which = mean_of(len(final))
    figures = [("return", words.spaced(evaluated["return_mean"][final].mean()), of_which)]
    if (success := mean_known(success_rates(evaluated)[final])) is not None:
        figures.append(("success", f"{success:.0%}", of_which))
    return [*figures, steps]


def _model_figures(model: Model, devices: Sequence[Json]) -> str:
    rows = model.rows
    figures = [
        _rows_figure(rows),
        ("file", human_bytes(rows.file_bytes or 0), rows.kind),
        *_device_figure(devices),
    ]
    return _figures(escape(model.name), f"layers {rows.architecture}", figures)


def _rows_figure(rows: ModelRows) -> tuple[str, str, str]:
    connections, positions = (sum(getattr(r, name) for r in rows.layers) for name in ("connections", "positions"))
    return (
        "connections of the policy",
        words.spaced(connections),
        f"{connections / positions:.1%} of {rows.architecture}",
    )


def _device_figure(devices: Sequence[Json]) -> list[tuple[str, str, str]]:
    fitting = sum(device["fits"] for device in devices)
    return [("devices", f"{fitting} of {len(devices)}", "keep every budget")] if devices else []


def _figures(heading: str, about: str, figures: Iterable[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in figures
    )
    title = f'<h2>{heading}</h2><p class="about">{escape(about)}</p>'
    return f'<section class="panel">{title}<dl class="figures">{cells}</dl></section>'


NETWORKS = ("actor", "critic_1", "critic_2")


def _layers_data(run: Run, points: int) -> Json | None:
    """Connections and share ever active, per network and layer, over training, at most `points` points each."""
    series: list[Json] = []

    def add(kind: str, network: str, layer: int | None, steps: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        chosen = evenly(len(steps), points)
        one = {"kind": kind, "network": network, "layer": layer, "steps": steps[chosen], "values": values[chosen]}
        series.append(one)

    for network in NETWORKS:
        layer = 0
        while (name := f"connections.{network}.{layer}") in run.metrics:
            add("connections", network, layer, run.metrics["step"], run.metrics[name])
            layer += 1
        layer = 0
        while (name := f"share_ever_active.{network}.{layer}") in run.topology:
            add("ever", network, layer, run.topology["step"], run.topology[name])
            layer += 1
        if not layer and (name := f"share_ever_active.{network}") in run.metrics:
            add("ever", network, None, run.metrics["step"], run.metrics[name])
    has_points = bool(series) and all(len(one["steps"]) for one in series)
    return {"series": series} if has_points else None


def _connections_section(layers: Json | None, at: int) -> str:
    if layers is None:
        return ""
    old = any(one["kind"] == "ever" and one["layer"] is None for one in layers["series"])
    note = (
        "This run was made by a version that did not record the share ever active layer by layer: one curve stands for "
        "all sparse layers."
        if old
        else ""
    )
    kinds = {one["kind"] for one in layers["series"]}
    connections = (
        words.chart(f"connections-{at}", "Connections of each layer over environment steps")
        if "connections" in kinds
        else words.note("How many connections each layer had is not known: the run holds no metrics.csv with them.")
    )
    ever = (
        words.chart(f"ever-{at}", "Share of possible connections that ever existed, over environment steps")
        if "ever" in kinds
        else words.note("The share that ever existed is not known: the run holds no table with it.")
    )
    return words.section(
        "connections",
        "Connections",
        "How many weights each layer has, which sparse training keeps constant, and the share of all possible ones "
        "that existed at some time: how much of the space of topologies was explored.",
        words.choice("network", (("actor", "Actor"), ("critic_1", "Critic 1"), ("critic_2", "Critic 2"))),
        words.note(note),
        words.pair(connections, ever),
        words.folded("Tables of the curves", "".join(_series_table(layers["series"], kind) for kind in sorted(kinds))),
    )


def _series_table(every: Sequence[Json], kind: str) -> str:
    """Every layer of every network at some of the steps, which are the same for all of one kind."""
    series = [one for one in every if one["kind"] == kind]
    steps = series[0]["steps"]
    series = [one for one in series if np.array_equal(one["steps"], steps)]
    title, shown = ("Connections", words.spaced) if kind == "connections" else ("Share ever active", "{:.1%}".format)
    names = [
        f"{one['network'].replace('_', ' ')}, {'all' if one['layer'] is None else 'layer ' + str(one['layer'] + 1)}"
        for one in series
    ]
    rows = [
        (words.spaced(steps[at]), *(shown(one["values"][at]) for one in series))
        for at in evenly(len(steps), min(TABLE_ROWS, max(len(steps) // 10, 2)))
    ]
    return f"<h3>{title}</h3>{words.table(('step', *names), rows)}"


# Sensors ------------------------------------------------------------------------------------------------------------


def _sensors_data(connected: Sensors, names: Sequence[str], time_points: int) -> Json:
    chosen = evenly(len(connected.steps), time_points)
    return {
        "names": list(names),
        "most": MOST_SENSORS,
        "degree": connected.degree_now,
        "mass": connected.mass_now,
        "degree_before": connected.degree_before,
        "mass_before": connected.masses[0] if len(connected.steps) and connected.steps[0] == 0 else None,
        "steps": connected.steps[chosen],
        "degree_over_time": connected.degrees[chosen],
        "mass_over_time": connected.masses[chosen],
    }


def _of_network(network: ShownNetwork | None) -> str:
    """Which network is shown; nothing where there is only one."""
    if network is None:
        return ""
    counted = "" if network.is_last else " Its topology was not kept: its weights that are not 0 count as connections."
    return f"Of {network.name}.{counted}"


def _sensors_section(
    connected: Sensors, names: Sequence[str], *, has_names: bool, run: Run | None, network: ShownNetwork | None, at: int
) -> str:
    notes = [_of_network(network)]
    if network is not None and not network.is_last:
        notes.append("Over training: the current actor, which goes on past the best one.")
    if len(names) > MOST_SENSORS:
        notes.append(f"The charts show the {MOST_SENSORS} strongest of {len(names)} observations; the table has all.")
    if not has_names:
        notes.append("Nothing says what these observations are: they are named by their position.")
    if run is not None and not len(connected.steps):
        notes.append(
            "This run was made by a version that did not record its sensors over training: only their present is shown."
        )
    elif run is not None and connected.steps[0] > 0:
        notes.append(
            f"Recorded from step {connected.steps[0]:.0f} on: the run was started by a version that did not record it."
        )
    rows = [
        (
            escape(name),
            words.spaced(degree),
            "–" if connected.degree_before is None else words.spaced(connected.degree_before[at]),
            f"{mass:.2f}",
        )
        for at, (name, degree, mass) in enumerate(zip(names, connected.degree_now, connected.mass_now, strict=True))
    ]
    table = words.table(("observation", "connections", "at the start", "Σ |weight|"), rows)
    now = words.chart(f"sensors-{at}", "How strongly each sensor is connected now", title="Now")
    over_time = words.chart(
        f"sensors-over-time-{at}", "The same for each sensor over environment steps", title="Over training"
    )
    both = words.pair(now, over_time) if len(connected.steps) > 1 else now
    return words.section(
        "sensors",
        "Sensors",
        "How many units of the actor’s first layer each observation is connected with, and the sum of "
        "those weights’ magnitudes: what the policy listens to. Weights are per unit of the observation, so sensors of "
        "different units compare only roughly.",
        words.choice("weigh", (("degree", "Connections"), ("mass", "Weight mass"))),
        *map(words.note, notes),
        both,
        words.folded(f"Table of {len(names)} sensors", f'<div class="tall">{table}</div>'),
    )


# Topology -----------------------------------------------------------------------------------------------------------


def _ordered(pictures: tuple[LayerPicture, ...]) -> list[tuple[LayerPicture, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Each layer with an order of its inputs and one of its outputs, which is that of the next layer's inputs."""
    if not pictures:
        return []
    orders = by_degree(pictures)
    inputs = [np.arange(pictures[0].after.shape[1]), *orders[:-1]]
    return list(zip(pictures, inputs, orders, strict=True))


def _picture_data(picture: LayerPicture, inputs: npt.NDArray[Any], outputs: npt.NDArray[Any]) -> Json:
    """Bits [inputs, outputs], the first in the highest bit of the first byte."""

    def packed(mask: npt.NDArray[np.bool_] | None) -> str | None:
        return None if mask is None else base64.b64encode(np.packbits(mask[outputs][:, inputs].T).tobytes()).decode()

    n_outputs, n_inputs = picture.after.shape
    return {
        "n_inputs": n_inputs,
        "n_outputs": n_outputs,
        "before": packed(picture.before),
        "after": packed(picture.after),
    }


def _topology_section(pictures: tuple[LayerPicture, ...], shown: Any, network: ShownNetwork | None) -> str:
    if not pictures:
        return ""
    if not shown:
        return words.section("topology", "Topology of the actor", TOO_MANY_PICTURES)
    has_before = any(picture.before is not None for picture in pictures)
    blocks = []
    for at, picture in enumerate(pictures):
        n_outputs, n_inputs = picture.after.shape
        name = "Output layer" if at == len(pictures) - 1 else f"Layer {at + 1}"
        blocks.append(f'<p class="wide">{name}: {n_inputs} inputs × {n_outputs} units</p>')
        if picture.after.all():
            blocks.append('<p class="wide" style="font-weight:400;margin:0">Dense: every connection exists.</p>')
            continue
        parts = (["before"] if picture.before is not None else []) + ["after"]
        for part in parts:
            label = f'role="img" aria-label="{name}, connections {part} training"'
            canvas = f'<canvas data-layer="{at}" data-part="{part}" {label}></canvas>'
            blocks.append(f"<figure>{canvas}<p>{_caption(picture, part)}</p></figure>")
    note = "" if has_before or network is None else "The topology before training is not known for this run."
    key = (
        '<ul class="key"><li><span class="swatch" style="background:var(--kept)"></span>before and after</li>'
        '<li><span class="swatch" style="background:var(--dropped)"></span>dropped since</li>'
        '<li><span class="swatch" style="background:var(--grown)"></span>grown since</li></ul>'
        if has_before
        else ""
    )
    sides = " Left: before the first update; right: after training." if has_before else ""
    return words.section(
        "topology",
        "Topology of the actor",
        "Every dot is a connection: rows are inputs, columns are units, those with the most connections after training "
        f"to the left.{sides}",
        key,
        words.note(_of_network(network)),
        words.note(note),
        f'<div class="masks">{"".join(blocks)}</div>',
    )


def _caption(picture: LayerPicture, part: str) -> str:
    mask = picture.before if part == "before" else picture.after
    assert mask is not None
    text = f"{part.capitalize()}: {words.spaced(mask.sum())} connections"
    if picture.connections is not None and mask.sum() != picture.connections:
        text = f"{part.capitalize()}: {words.spaced(mask.sum())} of {words.spaced(picture.connections)} connections"
    if part == "after" and picture.before is not None:
        text += f", {1 - (picture.before & mask).sum() / max(mask.sum(), 1):.0%} of them new"
    dead = int((~mask.any(axis=1)).sum())
    return text + (f"; {words.count(dead, 'unit')} without any" if dead else "")


# Compaction ---------------------------------------------------------------------------------------------------------


COMPACTION_COLUMNS = (
    *("layer", "trained", "compact", "connections trained", "weights not 0", "weights kept", "density"),
    *("dense, fp32", "stored", "weights"),
)


def _compaction_section(
    pictures: tuple[LayerPicture, ...], before: CompactPolicy, written: CompactPolicy | None, written_bytes: int
) -> str:
    trained = [picture.connections or 0 for picture in pictures]
    after = compact(before) if written is None or len(written.layers) != len(before.layers) else written
    rows = [
        _compaction_row(
            (str(at), f"{old.n_inputs} × {old.n_outputs}", f"{new.n_inputs} × {new.n_outputs}"),
            connections,
            [old],
            [new],
            str(new.precision),
        )
        for at, (connections, old, new) in enumerate(zip(trained, before.layers, after.layers, strict=True), 1)
    ]
    architectures = ("all", before.architecture, after.architecture)
    rows.append(_compaction_row(architectures, sum(trained), before.layers, after.layers, ""))
    file = f" The file has {human_bytes(written_bytes)}." if written_bytes else ""
    return words.section(
        "compaction",
        "Compaction",
        f"What the compact policy leaves out: absent weights, and units without influence.{file}",
        words.table(COMPACTION_COLUMNS, rows),
    )


def _compaction_row(
    names: tuple[str, ...], trained: int, old: Sequence[Layer], new: Sequence[Layer], precision: str
) -> tuple[str, ...]:
    """One layer or all of them, before and after."""
    kept, places = sum(layer.connections for layer in new), sum(layer.n_inputs * layer.n_outputs for layer in new)
    return (
        *names,
        words.spaced(trained),
        words.spaced(sum(layer.connections for layer in old)),
        words.spaced(kept),
        f"{kept / places:.0%}",
        human_bytes(sum(4 * (layer.n_inputs * layer.n_outputs + layer.n_outputs) for layer in old)),
        human_bytes(sum(layer.n_bytes for layer in new)),
        precision,
    )


# Devices ------------------------------------------------------------------------------------------------------------


def _device_data(device: Json) -> Json:
    verdicts = {
        name: {
            "share": v["share"],
            "fits": v["fits"],
            "text": f"{_quantity(v['used'], v['unit'])} of {_quantity(v['budget'], v['unit'])}",
        }
        for name, v in device["verdicts"].items()
    }
    return {"id": device["id"], "name": device["name"], "runtime": device["runtime"], "verdicts": verdicts}


def _devices_section(devices: Sequence[Json], at: int) -> str:
    if not devices:
        return ""
    names = (("memory", "Memory"), ("flash", "Flash"), ("flops", "FLOPs"), ("latency", "Latency"))
    rows = [
        (
            escape(device["name"]),
            escape(device["runtime"]),
            *(
                f'<span class="{"good" if v["fits"] else "bad"}">{escape(_quantity(v["used"], v["unit"]))}</span> of '
                f"{escape(_quantity(v['budget'], v['unit']))}"
                for v in device["verdicts"].values()
            ),
            '<span class="good">fits</span>' if device["fits"] else '<span class="bad">too large</span>',
        )
        for device in devices
    ]
    unable = len(device_ids()) - len(devices)
    columns = ("device", "runtime", *(text for _, text in names), "")
    return words.section(
        "devices",
        "Devices",
        "What the policy uses of each device’s budgets, with the device’s default runtime and rate. The dotted line is "
        "the budget, hatched bars exceed it; axes are logarithmic. Latencies are estimates."
        + (f" {unable} more devices have no runtime for this file." if unable else ""),
        words.choice("budget", names, extra="only-narrow"),
        words.chart(f"devices-{at}", "Share of the budgets that the policy uses, for every device"),
        words.folded(f"Table of {len(devices)} devices", words.table(columns, rows, text_columns=(1,))),
    )


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return human_bytes(value)
    if unit == "us":
        return human_estimate(value * MICRO)
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}FLOP"
    return f"{value:.0f} FLOP"


# Fit ----------------------------------------------------------------------------------------------------------------


def thinned(fit: Fit, at_most: int) -> Fit:
    """The fit with fewer trials: the chosen one, those that nothing beats, and evenly spread others."""
    if len(fit.trials) <= at_most:
        return fit
    best = {index for cost in ("latency_us", "bytes") for index in _front(fit.trials, cost)}
    best |= {fit.trials.index(fit.chosen)} if fit.chosen in fit.trials else set()
    kept = best | set(evenly(len(fit.trials), max(at_most - len(best), 2)))
    return replace(fit, trials=tuple(fit.trials[index] for index in sorted(kept)))


def _front(trials: Sequence[Trial], cost: str) -> list[int]:
    """Trials for which no cheaper one returns as much, the cheapest first; at most a hundred."""
    ordered = sorted(range(len(trials)), key=lambda index: (getattr(trials[index], cost), -trials[index].returns[0]))
    front: list[int] = []
    for index in ordered:
        if not front or trials[index].returns[0] > trials[front[-1]].returns[0]:
            front.append(index)
    return [front[at] for at in evenly(len(front), 100)]


def _precisions(fit: Fit) -> list[str]:
    """The trials' precisions, the usual ones first and in their order."""
    return sorted({trial.precision for trial in fit.trials}, key=lambda name: (PRECISION_ORDER.get(name, 9), name))


PRECISION_ORDER = {"fp32": 0, "fp16": 1, "int8": 2, "int4": 3}


def _fit_data(fit: Fit) -> Json:
    return {
        "device": fit.device,
        "kinds": _precisions(fit),
        "least": fit.least_return,
        "budget": fit.latency_budget_us * MICRO,
        "trials": [_trial_data(trial) for trial in fit.trials],
        "chosen": None if fit.chosen is None else _trial_data(fit.chosen),
    }


def _trial_data(trial: Trial) -> Json:
    mean, low, high = trial.returns
    data = {**asdict(trial), "mean": mean, "low": low, "high": high, "latency": trial.latency_us * MICRO}
    del data["returns"], data["latency_us"]
    return data | {"latency_text": human_estimate(data["latency"]), "bytes_text": human_bytes(trial.bytes)}


def _fit_section(fit: Fit, n_measured: int, at: int, index: int) -> str:
    rows = [
        (
            escape(trial.architecture),
            escape(trial.precision),
            words.spaced(trial.connections),
            human_bytes(trial.bytes),
            human_estimate(trial.latency_us * MICRO),
            "{} [{}, {}]".format(*map(words.spaced, trial.returns)),
            "chosen" if trial == fit.chosen else "fits" if trial.fits else "over a budget",
        )
        for trial in fit.trials
    ]
    columns = ("policy", "weights", "connections", "bytes", "latency", "return", "")
    chosen = "none was chosen" if fit.chosen is None else "the ringed one was chosen"
    key = "".join(
        f'<li><span class="swatch" data-colour="{rank}"></span>{escape(name)}</li>'
        for rank, name in enumerate(_precisions(fit))
    )
    left_out = (
        f"{words.spaced(len(fit.trials))} of the {words.spaced(n_measured)} measured are shown: those that nothing "
        "beats, the chosen one, and others, evenly spread."
        if len(fit.trials) < n_measured
        else ""
    )
    return words.section(
        "fit" if not index else "further-fit",
        f"Fitted to {fit.device}",
        f"Return, with its 95 % interval over {fit.episodes} episodes, against latency and bytes. The line joins what "
        f"nothing measured beats; hollow points exceed a budget; {chosen}. Dashed: the return to be reached; dotted: "
        "the latency budget.",
        words.note(left_out),
        f'<ul class="key">{key}</ul>',
        words.pair(
            words.chart(f"fit-latency-{at}-{index}", "Return against latency"),
            words.chart(f"fit-bytes-{at}-{index}", "Return against bytes"),
        ),
        words.folded("Table of what was measured", words.table(columns, rows, text_columns=(1,))),
    )


# Configuration ------------------------------------------------------------------------------------------------------


def _configuration_section(run: Run) -> str:
    rows = [(escape(name), escape(_value(value))) for name, value in readable(run.config).items()]
    chosen = evenly(len(run.versions), MOST_SESSIONS)
    sessions = "".join(_session(run.versions[index]) for index in chosen)
    if len(chosen) < len(run.versions):
        sessions += words.note(f"{len(chosen)} of {words.spaced(len(run.versions))} sessions are shown, evenly spread.")
    old = words.note("This run was made by a version that did not record versions.") if not sessions else ""
    if run.policy is not None and not sessions:
        old += words.note(
            f"Its policy was written by edgerl {run.policy.metadata.get('edgerl', 'of an unknown version')}."
        )
    options = words.folded(f"{len(rows)} options", words.table(("option", "value"), rows, text_columns=(1,)))
    return words.section(
        "configuration",
        "Configuration and versions",
        "",
        words.pair(f"<div>{options}</div>", f"<div>{sessions}{old}</div>"),
    )


def _session(session: Json) -> str:
    parts = list(session["versions"].items())
    rows = [(escape(name[:80]), escape(version[:200])) for name, version in parts[:MOST_PACKAGES]]
    more = words.note(f"And {len(parts) - MOST_PACKAGES} more.") if len(parts) > MOST_PACKAGES else ""
    heading = f"<h3>Versions from step {words.spaced(session['from_step'])}</h3>"
    return heading + words.table(("part", "version"), rows, text_columns=(1,)) + more


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value)[:200]
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:200]

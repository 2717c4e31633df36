"""A learner on a device: its memory, to the byte, and an estimate of the updates that fit beside the control rate.

The memory is what `edgerl learn` takes there, or on a microcontroller what the engine takes: networks, targets,
moments and the activations of an update (the arena, whose size depends on the device's vectors), two copies of the
policy that drives (the champion; in C the learner acts from its arena), and the replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgerl.edge.continual import bundle
from edgerl.edge.continual.bundle import ReplayPlan
from edgerl.edge.continual.champion import champion_layout
from edgerl.edge.continual.memory import MemoryPlan, plan_memory
from edgerl.edge.continual.origin import Origin, read_origin, refuse_for_c
from edgerl.edge.continual.session import MARGIN_US
from edgerl.edge.engine.growth import GROWTH_RULES
from edgerl.edge.engine.library import BytesOf, LayerPlanStructure, LearnerConfig, library
from edgerl.edge.runtimes import RUN_BY
from edgerl.errors import ConfigError
from edgerl.files.tensors import TensorReader
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.shape import LayerShape, NetworkShape
from edgerl.profiling.budgets.costs import ACTOR_PASSES, inference_flops, training_cost
from edgerl.profiling.budgets.device import Device, find_device
from edgerl.profiling.budgets.memory import BLOCK, Columns, arena_parts, lanes
from edgerl.profiling.budgets.report import BudgetPart, ProfileReport, profile, with_parts

PROGRAM_BYTES = 15_800_000
"""Of `edgerl learn` beside the native engine's own: command line, session, threads (measured on x86-64)."""

UPDATE_SHARE = {1: 0.25, BLOCK: 0.35}
"""Of a core's peak FLOP/s that an update reaches, by block, assumed to be that of x86-64 with AVX-512: 0.22 and 0.29
were measured there at a tenth of the connections, 0.30 and 0.44 at half (docs/lab/2026-11.md)."""

MICROCONTROLLER_SHARE = 0.4
"""Of the best published rate: what portable C reaches there (the ratio of published timings of RLtools)."""

COUNTED_UPDATES = 10_000
"""Over how many updates the cost of one is averaged: actor updates and evolution steps come only now and then."""


@dataclass(frozen=True)
class LearningReport:
    """What learning takes on a device. Times are estimates."""

    acting: ProfileReport  # of the policy, with the learner's memory
    memory: MemoryPlan
    replay: ReplayPlan
    update_flops: float  # on average
    update_us: float
    idle_us: float  # of each period, acting and a margin taken off
    updates_per_second: float  # that fit; transitions may allow fewer
    source: str

    def as_dict(self) -> dict[str, Any]:
        """As plain data, without the acting part."""
        return {
            **asdict(self.memory),
            "precision": self.replay.precision,
            "keep": self.replay.keep,
            "update_flops": self.update_flops,
            "update_us": self.update_us,
            "idle_us": self.idle_us,
            "updates_per_second": self.updates_per_second,
            "source": self.source,
        }


def profile_learner(path: Path, device: Device | str, **budgets: Any) -> LearningReport:
    """Compare a learner's bundle with a device's budgets; options as of `profile`.

    Raises ConfigError for a runtime that cannot learn, and what `profile` and the bundle's reader raise.
    """
    device = device if isinstance(device, Device) else find_device(device)
    able = next(name for name in RUN_BY["learner"] if device.runtime(name).figures is not None)
    if budgets.get("runtime") not in (None, able):
        raise ConfigError(f"the runtime is {budgets['runtime']}, which does not learn on {device.id}; use {able}")
    budgets["runtime"] = able
    with TensorReader(path, bundle.KIND, bundle.VERSIONS) as reader:
        origin = read_origin(reader, path)
    if budgets["runtime"] == "c":
        refuse_for_c(path, origin)
    policy = bundle.actor_policy(origin.arena, origin.constants, origin.about)
    report = profile(policy, device, **budgets)
    device = device if budgets.get("mode") is None else device.in_mode(budgets["mode"])
    plan = plan_on(device, origin)
    report = replace(report, model=path.name, memory=with_parts(report.memory, _parts(report, plan)))
    return _with_updates(report, device, origin, plan)


# ------------------------------------------------------------------------------------------------ memory, exact


def plan_on(device: Device, origin: Origin) -> MemoryPlan:
    """Where the bytes of a learner go on that device. Raises ConfigError where its memory is too small there."""
    config = LearnerConfig.from_buffer_copy(origin.arena.config)
    config.lanes = lanes(device)
    needed = BytesOf()
    library().call("the learner", "edgerl_learner_bytes", config, needed)
    shape = origin.constants.record_format(config.n_observations, origin.replay.precision)
    if device.kind == "microcontroller":
        return plan_memory(config, int(needed.total), 0, shape.row_bytes, origin.replay)
    normalises = origin.constants.observation_mean is not None
    champion = champion_bytes(config, normalises=normalises)
    return plan_memory(config, int(needed.total), champion, shape.record.itemsize, origin.replay)


def champion_bytes(config: LearnerConfig, *, normalises: bool) -> int:
    """Two copies of the actor, which keep every connection, also those with a weight of 0."""
    plans = config.actor.plans
    columns = [Columns(plan.n_inputs, plan.n_outputs, plan.full_blocks, plan.blocks) for plan in plans]
    layouts = [champion_layout(plan.block, is_dense=_is_dense(plan)) for plan in plans]
    arena = arena_parts(columns, layouts, config.lanes, normalises=normalises, n_actions=config.n_actions)
    return 2 * sum(arena.values())


def _is_dense(plan: LayerPlanStructure) -> bool:
    return plan.blocks == int(plan.n_inputs * -(-plan.n_outputs // plan.block))


def _parts(report: ProfileReport, plan: MemoryPlan) -> tuple[BudgetPart, ...]:
    """The policy's runtime, and what the learner takes."""
    parts = [report.memory.parts[0], BudgetPart("networks", plan.arena), BudgetPart("replay", plan.replay)]
    if report.runtime == "native":
        parts += [BudgetPart("program", PROGRAM_BYTES), BudgetPart("champion", plan.champion)]
    return tuple(parts)


# ------------------------------------------------------------------------------------------------ time, an estimate


def _with_updates(report: ProfileReport, device: Device, origin: Origin, plan: MemoryPlan) -> LearningReport:
    config = origin.arena.config
    flops, rate, taken_us = update_flops(config), _flops_per_second(device, config), update_us(device, config)
    idle_us = max(1e6 / report.rate_hz - report.latency.used - MARGIN_US, 0)
    return LearningReport(
        acting=report,
        memory=plan,
        replay=origin.replay,
        update_flops=flops,
        update_us=taken_us,
        idle_us=idle_us,
        updates_per_second=report.rate_hz * idle_us / taken_us,
        source=(
            f"estimate, unvalidated: {flops / 1e6:.3g} MFLOP an update at {rate / 1e9:.3g} GFLOP/s, "
            f"{_share(device, config):.0%} of one core's peak"
        ),
    )


def update_us(device: Device, config: LearnerConfig) -> float:
    """Microseconds of an update on one core, an estimate."""
    return update_flops(config) / _flops_per_second(device, config) * 1e6


def _flops_per_second(device: Device, config: LearnerConfig) -> float:
    return device.cpu.peak_flops("fp32") * _share(device, config)


def _share(device: Device, config: LearnerConfig) -> float:
    if device.kind == "microcontroller":
        return MICROCONTROLLER_SHARE
    blocks = {int(plan.block) for plan in config.critic.plans if not _is_dense(plan)}
    return UPDATE_SHARE[1 if 1 in blocks else BLOCK]


def update_flops(config: LearnerConfig) -> float:
    """FLOPs of one update, on average: those that edgerl.profiling.budgets.costs counts, without acting."""
    actor, critic = _shape(config.actor.plans), _shape(config.critic.plans)
    until, after = (
        training_cost(
            actor,
            critic,
            batch_size=config.batch,
            steps=steps,
            start_steps=0,
            policy_delay=config.policy_delay,
            evolution_interval=config.evolution_interval or None,
            growth=list(GROWTH_RULES)[config.growth],
            evolving=(bool(config.actor.evolves), bool(config.critic.evolves)),
            norms=("none", "layer" if config.critic.norm else "none"),
            clips_gradients=config.gradient_clip > 0,
            activation=list(ACTIVATIONS)[config.activation],
            has_dropout=config.dropout > 0,
            algorithm=list(ACTOR_PASSES)[config.algorithm],
        ).training_flops_full
        for steps in (1, 1 + COUNTED_UPDATES)
    )
    return (after - until) / COUNTED_UPDATES - inference_flops(actor)


def _shape(plans: Sequence[LayerPlanStructure]) -> NetworkShape:
    return tuple(LayerShape(plan.n_inputs, plan.n_outputs, plan.connections) for plan in plans)

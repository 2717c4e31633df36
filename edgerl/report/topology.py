"""The actor's topology before and after training, and how its sensors are connected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.topology import LayerPlan, Mask, draw_mask, expand, plan_networks
from edgerl.edge.engine.random import Draws, Network
from edgerl.errors import ConfigError, FileFormatError
from edgerl.policy.compact import CompactPolicy
from edgerl.report.sources import Run
from edgerl.report.words import spaced

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerPicture:
    """The connections of one layer, bool [outputs, inputs]; before: None where the run's start is not known.

    after: of the network that the page shows, which `shown_network` names; where its topology was not kept, its weights
    that are not 0. connections: the layer's number of them; None where it is not known.
    """

    before: Mask | None
    after: Mask
    connections: int | None = None


@dataclass(frozen=True)
class ShownNetwork:
    """Which of a run's actors the page shows, and whether its topology is in the checkpoint."""

    name: str
    is_last: bool


def shown_network(run: Run) -> ShownNetwork:
    """The actor that the run keeps: the last one, or with `policy` best the one with the highest return."""
    assert run.checkpoint is not None
    step, last = run.checkpoint.policy.metadata.get("step"), run.checkpoint.counters.step
    if run.config.policy != "best" or step == last:
        return ShownNetwork(f"the actor at step {spaced(last)}, the last checkpoint", True)
    when = f" at step {spaced(step)}" if type(step) is int else ""
    return ShownNetwork(f"the best policy{when}, which the run keeps", False)


def actor_pictures(run: Run) -> tuple[LayerPicture, ...]:
    """One per layer of the actor at the run's checkpoint; none where there is no checkpoint.

    The topology before is drawn again from the run's seed. It must lie within what the checkpoint says was ever
    connected: a run of a version that drew it differently is shown without it.
    """
    checkpoint = run.checkpoint
    if checkpoint is None:
        return ()
    policy = checkpoint.policy
    try:
        plans, _ = plan_networks(run.config, policy.n_observations, policy.n_actions)
    except ConfigError as error:
        raise FileFormatError(
            f"{run.folder} holds a configuration and a checkpoint that do not fit: {error}"
        ) from error
    shapes = [(layer.n_outputs, layer.n_inputs) for layer in policy.layers]
    *hidden, output = [(plan.n_outputs, plan.n_inputs) for plan in plans]
    if shapes != [*hidden, (policy.n_actions, output[1])]:
        raise FileFormatError(f"{run.folder} holds a checkpoint whose policy has other layers than its configuration")
    return tuple(_layer_picture(run, index, plan) for index, plan in enumerate(plans))


def _layer_picture(run: Run, index: int, plan: LayerPlan) -> LayerPicture:
    """Of the outputs that the policy has: an actor may give deviations, too."""
    assert run.checkpoint is not None
    layer = run.checkpoint.policy.layers[index]
    if plan.is_dense:
        dense = np.ones((layer.n_outputs, plan.n_inputs), bool)
        return LayerPicture(dense, dense, dense.size)
    stored, ever = (_stored_mask(run, f"actor.{index}.{part}", plan) for part in ("mask", "ever_active"))
    before = expand(draw_mask(plan, Draws(run.config.seed), Network.ACTOR, index), plan)
    is_start = ever is not None and not (before & ~ever).any()
    kept = stored[: layer.n_outputs] if stored is not None and shown_network(run).is_last else None
    after = layer.matrix() != 0 if kept is None else kept
    moves = run.config.evolution.drop == "global-threshold"
    connections = plan.connections if layer.n_outputs == plan.n_outputs and not moves else int(after.sum())
    return LayerPicture(before[: layer.n_outputs] if is_start else None, after, connections)


def _stored_mask(run: Run, name: str, plan: LayerPlan) -> Mask | None:
    assert run.checkpoint is not None
    packed = run.checkpoint.tensors.get(name)
    size = plan.block_rows * plan.n_inputs
    if packed is None or packed.dtype != np.uint8 or packed.shape != (-(-size // 8),):
        return None
    return expand(np.unpackbits(packed, count=size).astype(bool).reshape(plan.block_rows, plan.n_inputs), plan)


def policy_picture(policy: CompactPolicy) -> tuple[LayerPicture, ...]:
    """The layers of a policy without its run: only what it is now."""
    return tuple(LayerPicture(None, layer.matrix() != 0) for layer in policy.layers)


def by_degree(layers: tuple[LayerPicture, ...]) -> list[Array]:
    """An order of each layer's outputs: most incoming connections after training first; the last layer as it is."""
    orders = [np.argsort(-layer.after.sum(axis=1), kind="stable") for layer in layers[:-1]]
    return [*orders, np.arange(layers[-1].after.shape[0])]


@dataclass(frozen=True)
class Sensors:
    """How each observation is connected in the actor: over training [times, sensors] and now [sensors]."""

    steps: Array  # none where the run did not record it
    degrees: Array
    masses: Array
    degree_now: Array
    mass_now: Array
    degree_before: Array | None


def sensors(policy: CompactPolicy, pictures: tuple[LayerPicture, ...], run: Run | None) -> Sensors:
    """Of an actor with its dead units; run: its topology.csv has the time before, where there is one."""
    first, count = pictures[0], policy.n_observations
    table = {} if run is None else run.topology
    names = [[f"{part}.{sensor}" for sensor in range(count)] for part in ("degree", "mass")]
    is_recorded = bool(table) and all(name in table for part in names for name in part)
    degrees, masses = (
        np.stack([table[name] for name in part], axis=1) if is_recorded else np.zeros((0, count)) for part in names
    )
    return Sensors(
        steps=table["step"] if is_recorded else np.zeros(0),
        degrees=degrees,
        masses=masses,
        degree_now=first.after.sum(axis=0),
        mass_now=np.abs(policy.layers[0].matrix()).sum(axis=0, dtype=np.float64),
        degree_before=None if first.before is None else first.before.sum(axis=0),
    )

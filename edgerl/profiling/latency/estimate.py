"""The latency estimate, from a device's figures and a model's layers. It is called an estimate wherever it is shown.

Costs of a class (microcontrollers, latency/model.py), in cycles:

    latency = call + Σ over layers (layer + outputs · output + stored weights · multiply-add · sparse cost ratio)

Costs of a device (Linux boards, or a measured profile), in time:

    latency = call + Σ over layers (layer + max(inputs · input + multiply-adds · multiply-add, bytes / bandwidth))

with the bandwidth of the smallest level that holds all weights. onnxruntime multiplies every position. The native
engine keeps a layer by columns and passes over inputs that are zero (docs/engine.md): behind a ReLU, every second unit
that has a connection is taken to be zero, and every unit that has none. Of its three layouts the cheapest counts
for each layer, as the engine chooses by measuring. C executes what is stored, for all inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgerl.edge.acting.policy import Layout
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import Precision
from edgerl.profiling.budgets.device import ClassCosts, Device, Quantity, Runtime, RuntimeCosts
from edgerl.profiling.budgets.rows import FLOAT_BYTES, LayerRow
from edgerl.profiling.latency.cores import class_of_core
from edgerl.profiling.latency.model import CycleCosts, Level, latency_model
from edgerl.units import human_uncertainty

ACTIVE_SHARE = 0.5
"""Of a layer's outputs behind ReLU that are not constant: the share that is assumed not to be zero."""

ITEM_BYTES: dict[Layout, float] = {"dense": FLOAT_BYTES, "sparse": FLOAT_BYTES + 2, "block": FLOAT_BYTES + 2 / 4}
"""A weight, and its share of a 16-bit index."""


LEVEL_TEXTS: dict[Level, str] = {
    "device": "of this device among them",
    "core": "at most one of this device, some of its core",
    "other": "none of this core",
}


@dataclass(frozen=True)
class LatencyEstimate:
    """Seconds, what they are made of, and how far off they may be.

    `uncertainty` is x in: the latency lies between seconds / (1 + x) and seconds · (1 + x); None where no point and no
    measurement stands behind the estimate.
    """

    seconds: float
    uncertainty: float | None
    source: str


def estimate_latency(device: Device, runtime: Runtime, layers: Sequence[LayerRow]) -> LatencyEstimate:
    """The estimated time of one inference on one core that does nothing else. The runtime must have figures."""
    assert runtime.figures is not None
    costs = runtime.figures.costs
    if isinstance(costs, ClassCosts):
        return _estimate_by_class(device, costs, layers)
    return _estimate_by_costs(device, runtime, costs, layers)


# ------------------------------------------------------------------------------------------------ by class, in cycles


def _estimate_by_class(device: Device, costs: ClassCosts, layers: Sequence[LayerRow]) -> LatencyEstimate:
    model, core = latency_model(), class_of_core(device.cpu.core)

    def cycle_costs(precision: Precision) -> CycleCosts:
        return model.cycle_costs(costs.latency_class, core, precision, device.chip)

    overhead = cycle_costs("fp32").call
    execution = sum(_class_cycles(layer, cycle_costs(layer.precision), costs) for layer in layers)
    level = model.level(costs.latency_class, core, device.chip)
    uncertainties = {
        None if layer.is_sparse else model.widening(costs.latency_class, core, layer.precision, device.chip)
        for layer in layers  # no published point is sparse
    }
    uncertainty = None if None in uncertainties else uncertainties.pop()
    per_multiply_add = cycle_costs(layers[0].precision).multiply_add
    return LatencyEstimate(
        seconds=(overhead + execution) / (device.cpu.clock_mhz.value * 1e6),
        uncertainty=uncertainty,
        source=(
            f"{_reliability(uncertainty, f'published points of {costs.latency_class}, {LEVEL_TEXTS[level]}')}: "
            f"{overhead:.0f} cycles for the call + {execution:.0f} for the layers ({per_multiply_add:.3g} per dense "
            f"multiply-add, {model.about['points']} points fitted) at {device.cpu.clock_mhz.value:g} MHz"
        ),
    )


def _class_cycles(layer: LayerRow, cycles: CycleCosts, costs: ClassCosts) -> float:
    ratio = 1.0
    if layer.is_sparse:
        ratio = (costs.sparse_block_1_cost_ratio if layer.block == 1 else costs.sparse_block_4_cost_ratio).value
    return cycles.layer + layer.n_outputs * cycles.output + ratio * layer.stored_weights * cycles.multiply_add


# ------------------------------------------------------------------------------------------------ by costs, in time


@dataclass(frozen=True)
class _Way:
    """One way to execute a layer."""

    kept_bytes: float
    read_bytes: float  # of them, in one inference
    compute_ns: float


def _estimate_by_costs(
    device: Device, runtime: Runtime, costs: RuntimeCosts, layers: Sequence[LayerRow]
) -> LatencyEstimate:
    shares = active_shares(layers)
    ways = [_way(device, runtime, costs, layer, share) for layer, share in zip(layers, shares, strict=True)]
    level, bandwidth = _level(device, sum(way.kept_bytes for way in ways))
    overhead = 1e-6 * (costs.call_overhead_us.value + len(layers) * costs.layer_overhead_us.value)
    execution = sum(_seconds(way, bandwidth) for way in ways)
    uncertainty = None if costs.error_ratio is None else costs.error_ratio.value
    compared = costs.error_ratio.source if costs.error_ratio else ""
    weights = f"weights at {bandwidth / 1e9:.3g} GB/s from {level}" if math.isfinite(bandwidth) else "loads included"
    return LatencyEstimate(
        seconds=overhead + execution,
        uncertainty=uncertainty,
        source=(
            f"{_reliability(uncertainty, compared)}: {overhead * 1e6:.1f} µs overhead + {execution * 1e6:.1f} µs "
            f"execution ({costs.dense_ns_per_multiply_add.value:.3g} ns per dense multiply-add, {weights})"
        ),
    )


def active_shares(layers: Sequence[LayerRow]) -> list[float]:
    """Of each layer's inputs, the share that is assumed not to be zero."""
    fed = [1.0, *(_active_share(layer) for layer in layers[:-1])]
    return [1 - (1 - share) * layer.n_fed / layer.n_inputs for share, layer in zip(fed, layers, strict=True)]


def _active_share(layer: LayerRow) -> float:
    """Of a hidden layer's units."""
    if layer.cell is not None or not ACTIVATIONS[layer.activation].makes_zeros:
        return 1.0
    return ACTIVE_SHARE * layer.connected_outputs / layer.n_outputs


def _way(device: Device, runtime: Runtime, costs: RuntimeCosts, layer: LayerRow, share: float) -> _Way:
    """How the runtime executes a layer; `share` is that of its inputs that are not zero. Of the native engine's layouts
    the fastest is taken."""
    if runtime.name == "onnxruntime":
        n_bytes = FLOAT_BYTES * (layer.positions + layer.n_biases)
        return _Way(n_bytes, n_bytes, layer.positions * costs.dense_ns_per_multiply_add.value)
    if runtime.name == "c":
        stored: Layout = "dense" if not layer.is_sparse else "sparse" if layer.block == 1 else "block"
        per_input, per_multiply_add = _layout_costs(costs)[stored]
        compute_ns = layer.n_inputs * per_input + layer.stored_weights * per_multiply_add
        return _Way(layer.stored_bytes, layer.stored_bytes, compute_ns)
    ways = []
    counts, layout_costs = layout_multiply_adds(layer), _layout_costs(costs)
    for layout in layer.tried_layouts:
        per_input, per_multiply_add = layout_costs[layout]
        kept_bytes = counts[layout] * ITEM_BYTES[layout]
        compute_ns = share * (layer.n_inputs * per_input + counts[layout] * per_multiply_add)
        ways.append(_Way(kept_bytes, share * kept_bytes, compute_ns))
    return min(ways, key=lambda way: _seconds(way, _level(device, way.kept_bytes)[1]))


def _layout_costs(costs: RuntimeCosts) -> dict[Layout, tuple[float, float]]:
    """Nanoseconds of an input, and of a multiply-add, in each layout; not of onnxruntime."""
    sparse_input = _given(costs.sparse_input_overhead_ns)
    return {
        "dense": (_given(costs.dense_input_overhead_ns), costs.dense_ns_per_multiply_add.value),
        "sparse": (sparse_input, _given(costs.sparse_block_1_ns_per_multiply_add)),
        "block": (sparse_input, _given(costs.sparse_block_4_ns_per_multiply_add)),
    }


def layout_multiply_adds(layer: LayerRow) -> dict[Layout, float]:
    """Multiply-adds of a layer in each of the native engine's layouts, if no input is zero.

    Of single connections, the blocks of four outputs × one input that hold one are as many as expected at random.
    """
    if layer.block == 4 and layer.is_sparse:
        in_blocks: float = layer.stored_weights
    else:
        n_blocks = layer.n_inputs * math.ceil(layer.n_outputs / 4)
        in_blocks = 4 * n_blocks * (1 - (1 - layer.connections / layer.positions) ** 4)
    return {"dense": layer.positions, "sparse": layer.connections, "block": in_blocks}


def _seconds(way: _Way, bandwidth: float) -> float:
    return max(way.compute_ns * 1e-9, way.read_bytes / bandwidth)


def _level(device: Device, n_bytes: float) -> tuple[str, float]:
    """(name, bytes per second) of the smallest level that holds `n_bytes`."""
    for cache in device.caches:
        if n_bytes <= cache.size_bytes.value:
            return cache.level, cache.bandwidth_gb_per_s.value * 1e9
    bandwidth = device.memory.bandwidth_gb_per_s
    return ("RAM", bandwidth.value * 1e9) if bandwidth else ("RAM", math.inf)


def _given(quantity: Quantity | None) -> float:
    """A figure that every runtime but onnxruntime has."""
    assert quantity is not None
    return quantity.value


def _reliability(uncertainty: float | None, compared: str) -> str:
    return f"estimate, {human_uncertainty(uncertainty)}" + ("" if uncertainty is None else f" ({compared})")

"""The latency estimate: one formula, with a device's figures. It is an estimate, and nothing here calls it otherwise.

    latency = call overhead + Σ over layers (layer overhead + max(compute, weights))
    compute = cost ratio · 2 · multiply-adds / (peak FLOP/s of one core · share that the runtime sustains)
    weights = bytes read / bandwidth of the smallest level that holds the whole network's weights

A microcontroller's published cycles per multiply-add contain the loads, so it has no second term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgerl.profiling.costs import FLOPS_PER_MULTIPLY_ADD
from edgerl.profiling.device import Device, RuntimeFigures


@dataclass(frozen=True)
class LayerWork:
    """What executing one layer once takes."""

    multiply_adds: int
    bytes_read: int
    cost_ratio: float  # time of one of these multiply-adds over that of a dense one


@dataclass(frozen=True)
class LatencyEstimate:
    """Seconds, and a line that says what they are made of."""

    seconds: float
    source: str


def sustained_flops(device: Device, figures: RuntimeFigures) -> float:
    """FLOP/s that a runtime reaches on one core, in fp32, with one observation at a time."""
    return device.cpu.peak_flops * figures.sustained_share.value


def estimate_latency(device: Device, figures: RuntimeFigures, layers: Sequence[LayerWork]) -> LatencyEstimate:
    """The estimated time of one inference on one core that does nothing else."""
    rate = sustained_flops(device, figures)
    level, bandwidth = _weights_level(device, sum(layer.bytes_read for layer in layers))
    compute = [layer.cost_ratio * FLOPS_PER_MULTIPLY_ADD * layer.multiply_adds / rate for layer in layers]
    weights = [layer.bytes_read / bandwidth if bandwidth else 0.0 for layer in layers]
    execution = sum(max(pair) for pair in zip(compute, weights, strict=True))
    overhead = 1e-6 * (figures.call_overhead_us.value + len(layers) * figures.layer_overhead_us.value)
    read = f"weights at {bandwidth / 1e9:.3g} GB/s from {level}" if bandwidth else "loads included"
    return LatencyEstimate(
        seconds=overhead + execution,
        source=(
            f"estimate, unvalidated: {overhead * 1e6:.1f} µs overhead + {execution * 1e6:.1f} µs execution "
            f"({rate / 1e9:.3g} GFLOP/s sustained, {read})"
        ),
    )


def _weights_level(device: Device, n_bytes: int) -> tuple[str, float | None]:
    """(name, bytes per second) of the smallest level that holds `n_bytes`."""
    for cache in device.caches:
        if n_bytes <= cache.size_bytes.value:
            return cache.level, cache.bandwidth_gb_per_s.value * 1e9
    bandwidth = device.memory.bandwidth_gb_per_s
    return "RAM", None if bandwidth is None else bandwidth.value * 1e9

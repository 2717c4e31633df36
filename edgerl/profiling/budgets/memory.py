"""The memory that a model takes with a runtime, part by part; docs/devices.md says how each was found.

- `runtime`: its own, for any model: Python, numpy, onnxruntime, the stack. From the device's profile.
- `weights`, `activations`: while it acts. For the native engine they are its arena, to the byte.
- `scratch`: what the start takes beyond that, at its peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgerl.edge.acting.policy import Layout
from edgerl.edge.engine.library import ALIGNMENT
from edgerl.edge.runtimes import RuntimeName
from edgerl.export.c.form import PolicyForm
from edgerl.profiling.budgets.device import Device
from edgerl.profiling.budgets.rows import FLOAT_BYTES, LayerRow, ModelRows

BytesByPart = dict[str, int]
"""Bytes by name; their sum is the peak."""

INDEX_BYTES, START_BYTES = 2, 4

BLOCK = 4
"""Outputs that share an index in the engine's block layout."""

POLICY_BYTES, LAYER_BYTES = 136, 72
"""Of the arena's structures policy_state and policy_layer (edgerl/edge/engine/policy.c)."""

WIDEST_VECTOR = 16
"""Numbers: the list of active inputs is padded to it on every processor."""

LANES_BASELINE = 4
"""Numbers in the engine's narrowest vectors: NEON, SSE2, plain C."""

ONNX_COPIES = 2
"""Float copies of each weight that an onnxruntime session keeps: as loaded, and packed for its kernel (measured)."""


@dataclass(frozen=True)
class Columns:
    """One layer as the engine counts it: weights that are not zero, and blocks of four outputs that have one."""

    n_inputs: int
    n_outputs: int
    connections: int
    blocks: int
    has_norm: bool = False
    n_fed: int | None = None  # inputs without a cell's own last outputs; None: all are
    n_state: int = 0  # of a cell


def memory_parts(
    rows: ModelRows, device: Device, runtime: RuntimeName, base: int, form: PolicyForm | None = None
) -> BytesByPart:
    """All parts, with `base` bytes of the runtime's own; `form`: how C holds the policy, where that is known."""
    if runtime == "native":
        return {"runtime": base, **native_parts(rows, lanes(device))}
    if runtime == "onnxruntime":
        # The session keeps the bytes that it parsed: of fp32 the weights themselves, else also a decoded copy.
        parsed = sum(layer.dense_bytes * (1 if layer.precision == "fp32" else 2) for layer in rows.layers)
        floats = sum(FLOAT_BYTES * (layer.positions + layer.n_biases) for layer in rows.layers)
        weights = rows.constant_bytes + ONNX_COPIES * floats
        return {"runtime": base, "weights": weights, "activations": _widest_pair(rows), "scratch": parsed}
    is_in_flash = device.kind == "microcontroller"
    if form is not None:
        weights = 0 if is_in_flash else form.flash_bytes
        kept = form.state_bytes + form.history_bytes
        return {"runtime": base, "weights": weights, "activations": form.scratch_bytes + kept}
    weights = 0 if is_in_flash else rows.constant_bytes + _stored_bytes(rows)
    return {"runtime": base, "weights": weights, "activations": _widest_pair(rows)}


def lanes(device: Device) -> int:
    """Numbers in the engine's widest vector there."""
    return WIDEST_VECTOR if device.cpu.architecture.startswith("x86") else LANES_BASELINE


def _widest_pair(rows: ModelRows) -> int:
    """Bytes of the largest layer's inputs and outputs, which must be there at the same time."""
    return FLOAT_BYTES * max(layer.n_inputs + layer.n_outputs for layer in rows.layers)


def _stored_bytes(rows: ModelRows) -> int:
    return sum(layer.stored_bytes for layer in rows.layers)


# ------------------------------------------------------------------------------------------------ the native engine


def native_parts(rows: ModelRows, n_lanes: int) -> BytesByPart:
    """A policy on the engine; of the layouts that it measures, the largest counts."""
    columns = [_columns(layer) for layer in rows.layers]
    tried = [layer.tried_layouts for layer in rows.layers]
    largest = [_largest(layer, choices, n_lanes) for layer, choices in zip(columns, tried, strict=True)]
    normalises = rows.constant_bytes > 2 * FLOAT_BYTES * rows.layers[-1].n_outputs  # more than the bounds of the action
    arena = arena_parts(columns, largest, n_lanes, normalises=normalises)
    total = sum(arena.values())
    copies = [
        FLOAT_BYTES * layer.stored_weights * (2 if layer.precision in ("int8", "int4") else 1) for layer in rows.layers
    ]
    built = [
        sum(layer_bytes(layer, layout, n_lanes) for layout in choices) + copied
        for layer, choices, copied in zip(columns, tried, copies, strict=True)
    ]
    measuring = max([built[0], *(before + after for before, after in pairwise(built))])
    peak = _stored_bytes(rows) + max(measuring, sum(copies) + total)
    return {**arena, "scratch": max(peak - total, 0)}


def _largest(layer: Columns, layouts: Sequence[Layout], n_lanes: int) -> Layout:
    return max(layouts, key=lambda layout: layer_bytes(layer, layout, n_lanes))


def _columns(layer: LayerRow) -> Columns:
    """As many blocks as there can be, where the file does not say."""
    positions = layer.n_inputs * -(-layer.n_outputs // BLOCK)
    is_in_blocks = layer.is_sparse and layer.block == BLOCK
    blocks = layer.stored_weights // BLOCK if is_in_blocks else min(layer.connections, positions)
    return Columns(
        layer.n_inputs, layer.n_outputs, layer.connections, blocks, layer.has_norm, layer.n_fed, layer.n_state
    )


def arena_parts(
    layers: Sequence[Columns],
    layouts: Sequence[Layout],
    n_lanes: int,
    *,
    normalises: bool,
    n_actions: int | None = None,
) -> BytesByPart:
    """The arena of a policy, as edgerl_policy_bytes would say; its structures count as activations. n_actions: where
    the last layer gives more than those."""
    n, m = layers[0].n_fed or layers[0].n_inputs, n_actions or layers[-1].n_outputs
    n_state = sum(layer.n_state for layer in layers)
    widest = max(max(layer.n_inputs, _up(layer.n_outputs, n_lanes)) for layer in layers)
    weights = sum(layer_bytes(layer, layout, n_lanes) for layer, layout in zip(layers, layouts, strict=True))
    floats = (n, n) if normalises else ()
    constants = sum(_aligned(FLOAT_BYTES * count) for count in (*floats, m, m))
    structures = _aligned(POLICY_BYTES) + _aligned(len(layers) * LAYER_BYTES)
    activations = sum(_aligned(FLOAT_BYTES * count) for count in (n, m, _up(widest, WIDEST_VECTOR), widest, widest))
    activations += 2 * _aligned(FLOAT_BYTES * n_state)
    return {"weights": weights + constants, "activations": structures + activations}


def layer_bytes(layer: Columns, layout: Layout, n_lanes: int) -> int:
    """A layer's arrays in the arena: bias, norm, values, and in a sparse layout their rows and the inputs' starts."""
    padded = _up(layer.n_outputs, n_lanes)
    of_outputs = _aligned(FLOAT_BYTES * padded) + (_aligned(2 * FLOAT_BYTES * padded) if layer.has_norm else 0)
    if layout == "dense":
        return of_outputs + _aligned(FLOAT_BYTES * layer.n_inputs * padded)
    entries = layer.connections if layout == "sparse" else layer.blocks
    values = entries if layout == "sparse" else BLOCK * entries
    starts = _aligned(START_BYTES * (layer.n_inputs + 1))
    return of_outputs + _aligned(FLOAT_BYTES * values) + _aligned(INDEX_BYTES * entries) + starts


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _aligned(n_bytes: int) -> int:
    return _up(n_bytes, ALIGNMENT)

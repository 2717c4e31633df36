"""How generated C holds a policy: the arrays of each layer, and the bytes that follow from them (docs/c.md).

Two forms go through a layer input by input, so that an input that ReLU made zero costs next to nothing:

- dense: `values` [n_inputs, n_outputs], every weight.
- columns: for each input the number of its entries, for each entry its row and its values. An entry is a connection, or
  with blocks of 4 the block of four consecutive outputs, whose rows count blocks.

An application processor foresees no column's end, and adds to memory more slowly than to a register, so its sparse
layers go output by output:

- rows: for each output, or four consecutive ones, the number of its entries, for each entry its input and its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from edgerl.export.c.options import Layout, Target
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.compact import Array, CompactPolicy, Layer, Precision, as_blocks, as_floats, without_denormals
from edgerl.policy.loss import action_span
from edgerl.policy.pruning import network_of, with_network
from edgerl.policy.terms import Terms, terms_of

FLOAT_BYTES = 4

ACTIVE = 0.25
"""The share of hidden units above zero that `auto` counts on behind ReLU; trained policies of HalfCheetah had 0.07 to
0.49."""


MUCH_LARGER = 1.5
"""Times the bytes of the smaller form: more flash than that is not worth the instructions that dense code saves."""


@dataclass(frozen=True)
class Costs:
    """Instructions of one target in one precision, for an input that is not zero."""

    dense: float  # per weight
    single: float  # per connection
    block: float  # per block of four


NIBBLE: Mapping[Target, float] = {"cortex-m4": 5.3, "cortex-m7": 5.3, "esp32": 5.3, "rp2040": 17.8, "generic": 5.3}
"""Instructions per dense weight of four bits: counted as COSTS below, over one network."""


@dataclass(frozen=True)
class VectorCosts:
    """What one application processor takes in one precision, relative to each other."""

    input: float  # of a dense layer, beside its weights
    dense: float  # per weight
    single: float  # per connection
    block: float  # per weight in a block of four


DENSE_INPUT, COLUMN_INPUT = 13.0, 22.0
"""Instructions per input of a layer beyond those of its weights, on a Cortex-M4F."""

ON_APPLICATION_PROCESSORS: frozenset[Target] = frozenset(("linux-x86-64", "linux-aarch64", "cortex-a"))
"""Targets whose C is written for caches and, where compilers use them, for vectors."""


@dataclass(frozen=True)
class DenseForm:
    """A layer whose every weight is there."""

    values: Array  # [n_inputs, n_outputs]

    @property
    def n_bytes(self) -> int:
        """Of the values."""
        return self.values.nbytes

    @property
    def multiply_adds(self) -> int:
        """For an observation that leaves no input zero."""
        return self.values.size


@dataclass(frozen=True)
class ColumnForm:
    """A layer that holds its connections by input."""

    block: int
    is_delta: bool  # rows are distances from the entry before, from row 0 at the start of a column
    counts: Array  # uint8 or uint16 [n_inputs]
    rows: Array  # uint8 or uint16 [n_entries]
    values: Array  # [n_entries, block]

    @property
    def n_bytes(self) -> int:
        """Of counts, rows and values."""
        return self.counts.nbytes + self.rows.nbytes + self.values.nbytes

    @property
    def multiply_adds(self) -> int:
        """For an observation that leaves no input zero; with those of zeros that fill a block or bridge a distance."""
        return self.values.size


@dataclass(frozen=True)
class NibbleForm:
    """A layer whose every weight is there, in four bits."""

    values: Array  # uint8 [n_inputs, ⌈n_outputs / 2⌉]: of two outputs, the first in the lower half
    multiply_adds: int  # for an observation that leaves no input zero

    @property
    def n_bytes(self) -> int:
        """Of the values."""
        return self.values.nbytes


@dataclass(frozen=True)
class RowForm:
    """A layer that holds its connections by output, or by four consecutive outputs."""

    block: int
    counts: Array  # uint8 or uint16 [n_outputs / block, rounded up]
    columns: Array  # uint8 or uint16 [n_entries]
    values: Array  # [n_entries, block]

    @property
    def n_bytes(self) -> int:
        """Of counts, columns and values."""
        return self.counts.nbytes + self.columns.nbytes + self.values.nbytes

    @property
    def multiply_adds(self) -> int:
        """For any observation; with those of zeros that fill a block."""
        return self.values.size


ColumnwiseForm = DenseForm | ColumnForm | NibbleForm
"""What microcontrollers have."""

Form = ColumnwiseForm | RowForm


@dataclass(frozen=True)
class OutlierForm:
    """The weights of a layer that are exact beside int8 ones, by output."""

    counts: Array  # uint8 or uint16 [n_outputs]
    columns: Array  # uint8 or uint16 [count]
    values: Array  # float32 [count]

    @property
    def n_bytes(self) -> int:
        """Of counts, columns and values."""
        return self.counts.nbytes + self.columns.nbytes + self.values.nbytes


def outlier_form(layer: Layer) -> OutlierForm | None:
    """The outliers of a layer, where it has some."""
    if layer.outliers is None:
        return None
    index = np.uint8 if layer.n_inputs <= 1 << 8 else np.uint16
    counts = _counts(layer.outliers.rows, layer.n_outputs)
    return OutlierForm(counts, layer.outliers.columns.astype(index), layer.outliers.values)


@dataclass(frozen=True)
class PolicyForm:
    """A policy as generated C holds it."""

    target: Target
    policy: CompactPolicy  # with its weights in the precision that is written
    layers: tuple[Form, ...]
    scratch: tuple[int, int]  # numbers in the two buffers that layers are computed between

    @property
    def is_for_vectors(self) -> bool:
        """Whether it is written for an application processor."""
        return self.target in ON_APPLICATION_PROCESSORS

    @property
    def layer_bytes(self) -> tuple[int, ...]:
        """Of each layer: weights, indices, scales, outliers, biases."""
        pairs = zip(self.policy.layers, self.layers, strict=True)
        return tuple(
            layer.n_bytes - _weight_bytes(layer) + form.n_bytes + _outlier_bytes(layer) for layer, form in pairs
        )

    @property
    def flash_bytes(self) -> int:
        """Of all constants: layers, scaling, the example pair."""
        policy = self.policy
        normalisation = (policy.observation_offset, policy.observation_mean, policy.observation_scale)
        example = policy.example_observation.nbytes + FLOAT_BYTES * policy.n_actions
        of_terms: tuple[Array, ...] = ()
        if self.terms is not None:
            of_terms = self.terms.scale, self.terms.low, self.terms.high
        arrays = (*normalisation, *head_arrays(policy).values(), *of_terms)
        return sum(self.layer_bytes) + sum(array.nbytes for array in arrays if array is not None) + example

    @property
    def scratch_numbers(self) -> int:
        """Of the two buffers, and of the state that cells have next."""
        return sum(self.scratch) + self.policy.n_state

    @property
    def scratch_bytes(self) -> int:
        """Of all that needs not to be kept between two calls."""
        return FLOAT_BYTES * self.scratch_numbers

    @property
    def state_bytes(self) -> int:
        """Of the state of cells."""
        return FLOAT_BYTES * self.policy.n_state

    @cached_property
    def terms(self) -> Terms | None:
        """What the code makes observations of, where the contract says it."""
        contract = self.policy.contract
        is_known = bool(contract.observation_terms_size) and self.policy.observation_offset is None
        return terms_of(contract) if is_known else None

    @property
    def history_bytes(self) -> int:
        """Of the steps that are stacked, and of whether there was one."""
        return 0 if self.terms is None else FLOAT_BYTES * (self.policy.n_observations + 1)


def _weight_bytes(layer: Layer) -> int:
    """Of the weights and their indices, as the file stores them."""
    arrays = (layer.columns, layer.row_starts)
    return layer.value_bytes + sum(part.nbytes for part in arrays if part is not None)


def _outlier_bytes(layer: Layer) -> int:
    """What outliers take here beyond what they take in the file."""
    exact = outlier_form(layer)
    return 0 if exact is None or layer.outliers is None else exact.n_bytes - layer.outliers.n_bytes


def head_arrays(policy: CompactPolicy) -> dict[str, Array]:
    """What actions are made with, [m] each: `centre` is also the action where there is no other."""
    if policy.head == "tanh":
        centre, half_range = policy.action_scaling
        return {"centre": centre, "half_range": half_range}
    low, high = np.nan_to_num(policy.action_low), np.nan_to_num(policy.action_high)
    is_bounded = np.isfinite(policy.action_low) & np.isfinite(policy.action_high)
    centre = np.where(is_bounded, low / 2 + high / 2, np.clip(np.float32(0), low, high))
    return {"centre": centre, "low": low, "high": high, "span": action_span(policy).astype(np.float32)}


def policy_form(policy: CompactPolicy, dtype: Precision | None, layout: Layout, target: Target) -> PolicyForm:
    """The policy with weights of `dtype` (None: as they are stored), each layer in `layout`.

    A policy without an example gets one, of zeros. Raises UnsupportedModelError where a weight does not fit into fp16.
    """
    policy = without_denormals(in_precision(_with_example(policy), dtype))
    if target in ON_APPLICATION_PROCESSORS:
        policy = replace(policy, layers=tuple(map(_as_vectors_take_it, policy.layers)))
    shares = [1.0, *(ACTIVE if leaves_zeros(*pair) else 1.0 for pair in pairwise(policy.layers))]
    layers = tuple(layer_form(layer, layout, target, share) for layer, share in zip(policy.layers, shares, strict=True))
    return PolicyForm(target, policy, layers, _scratch(policy.layers, layers))


def _as_vectors_take_it(layer: Layer) -> Layer:
    """Floats where weights have outliers or are int4: there they would cost time and save nothing that is short."""
    return as_floats(layer) if layer.outliers is not None or layer.is_int4 else layer


def leaves_zeros(layer: Layer, following: Layer) -> bool:
    """Whether the next layer passes over what ReLU would make zero: a cell does not, its own outputs being signed."""
    return layer.cell is None and following.cell is None and ACTIVATIONS[layer.activation].makes_zeros


def in_precision(policy: CompactPolicy, dtype: Precision | None) -> CompactPolicy:
    """The policy with weights of `dtype`; None: as they are stored."""
    if dtype is None or all(layer.precision == dtype for layer in policy.layers):
        return policy
    return with_network(policy, network_of(policy), dtype)


def _with_example(policy: CompactPolicy) -> CompactPolicy:
    if policy.example_observation.size:
        return policy
    return policy.with_example(policy.observation_of(np.zeros(policy.n_observations, np.float32)))


def _scratch(layers: Sequence[Layer], forms: Sequence[Form]) -> tuple[int, int]:
    """Numbers of both buffers: the inputs of layers 0, 2, … lie in the first, those of the others in the second."""
    widths = [*(layer.n_inputs for layer in layers), 0]
    for index, (layer, form) in enumerate(zip(layers, forms, strict=True), 1):
        widths[index] = max(widths[index], padded_outputs(layer, form))
    return max(widths[0::2]), max(widths[1::2])


def padded_outputs(layer: Layer, form: Form) -> int:
    """Outputs that the layer's code writes: whole blocks."""
    block = form.block if isinstance(form, ColumnForm | RowForm) else 1
    return -(-layer.n_outputs // block) * block


def layer_form(layer: Layer, layout: Layout, target: Target, active: float) -> Form:
    """One layer in `layout`; auto takes what executes fewer instructions on `target`, unless it is MUCH_LARGER.

    active: the share of its inputs that are not zero.
    """
    if layout != "dense" and target in ON_APPLICATION_PROCESSORS:
        return _fastest_form(layer, layout, target, active)
    dense = nibble_form(layer) if layer.is_int4 else dense_form(layer)
    if layout == "dense":
        return dense
    columns = column_form(layer)
    if layout == "sparse":
        return columns
    forms: list[ColumnwiseForm] = sorted((columns, dense), key=lambda form: form.n_bytes)
    smaller, larger = forms
    is_faster = instructions(layer, larger, target, active) < instructions(layer, smaller, target, active)
    return larger if is_faster and larger.n_bytes <= MUCH_LARGER * smaller.n_bytes else smaller


def _fastest_form(layer: Layer, layout: Layout, target: Target, active: float) -> Form:
    """A layer for an application processor. Rows of four also serve a layer with so few outputs that no vector of
    columns is filled."""
    if layout == "sparse":
        return row_form(layer, layer.block)
    forms: list[DenseForm | RowForm] = [
        dense_form(layer),
        *(row_form(layer, block) for block in sorted({layer.block, 4})),
    ]
    return min(forms, key=lambda form: relative_time(layer, form, target, active))


def dense_form(layer: Layer) -> DenseForm:
    """Every weight of a layer, by input."""
    return DenseForm(np.ascontiguousarray(layer.stored_matrix().T))


def nibble_form(layer: Layer) -> NibbleForm:
    """Every weight of an int4 layer, by input."""
    by_input = np.zeros((layer.n_inputs, layer.n_outputs + layer.n_outputs % 2), np.int8)
    by_input[:, : layer.n_outputs] = layer.stored_matrix().T
    halves = by_input.view(np.uint8) & 15
    return NibbleForm(halves[:, ::2] | halves[:, 1::2] << 4, layer.n_inputs * layer.n_outputs)


def column_form(layer: Layer) -> ColumnForm:
    """The connections of a layer by input, with the indices that take fewer bytes."""
    blocks = as_blocks(layer.stored_matrix(), layer.block)
    columns, rows = np.nonzero(blocks.any(axis=2).T)
    if not columns.size:  # C has no empty array
        columns, rows = np.zeros((2, 1), np.int64)
    values = np.ascontiguousarray(blocks[rows, columns])
    n_inputs = layer.n_inputs
    if len(blocks) <= 1 << 8:
        return ColumnForm(layer.block, False, _counts(columns, n_inputs), rows.astype(np.uint8), values)
    wide = ColumnForm(layer.block, False, _counts(columns, n_inputs), rows.astype(np.uint16), values)
    return min(wide, _delta_form(layer, columns, rows, values), key=lambda form: form.n_bytes)


def row_form(layer: Layer, block: int) -> RowForm:
    """The connections of a layer by `block` outputs."""
    blocks = as_blocks(layer.stored_matrix(), block)
    rows, columns = np.nonzero(blocks.any(axis=2))
    if not rows.size:  # C has no empty array
        rows, columns = np.zeros((2, 1), np.int64)
    values = np.ascontiguousarray(blocks[rows, columns])
    index = np.uint8 if layer.n_inputs <= 1 << 8 else np.uint16
    return RowForm(block, _counts(rows, len(blocks)), columns.astype(index), values)


def _counts(lines: Array, n_lines: int) -> Array:
    """Entries of each input or output, in the smallest type that holds them."""
    counts = np.bincount(lines, minlength=n_lines)
    most = counts.max(initial=0)
    return counts.astype(np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32)


def _delta_form(layer: Layer, columns: Array, rows: Array, values: Array) -> ColumnForm:
    """With distances of 8 bits; a longer one is bridged by entries whose values are zero."""
    is_start = np.ones(len(rows), bool)
    is_start[1:] = columns[1:] != columns[:-1]
    distance = rows - np.where(is_start, 0, np.concatenate([[0], rows[:-1]]))
    bridges = np.maximum(distance - 1, 0) // 255
    ends = np.cumsum(1 + bridges) - 1
    n_entries = len(rows) + int(bridges.sum())
    deltas = np.full(n_entries, 255, np.uint8)
    deltas[ends] = distance - 255 * bridges
    spread = np.zeros((n_entries, layer.block), values.dtype)
    spread[ends] = values
    return ColumnForm(layer.block, True, _counts(np.repeat(columns, 1 + bridges), layer.n_inputs), deltas, spread)


def instructions(layer: Layer, form: ColumnwiseForm, target: Target, active: float) -> float:
    """What a layer executes for one observation, where `active` of its inputs are not zero."""
    if isinstance(form, NibbleForm):
        return layer.n_inputs * (DENSE_INPUT + active * NIBBLE[target] * layer.n_outputs)
    costs = COSTS[target]["int8" if layer.is_int4 else layer.precision]  # what outliers cost is the same in every form
    if isinstance(form, DenseForm):
        return layer.n_inputs * (DENSE_INPUT + active * costs.dense * layer.n_outputs)
    entry = costs.single if form.block == 1 else costs.block
    return layer.n_inputs * COLUMN_INPUT + active * entry * len(form.rows)


def relative_time(layer: Layer, form: DenseForm | RowForm, target: Target, active: float) -> float:
    """What a layer takes on an application processor, in the unit of its VECTOR_COSTS."""
    costs = VECTOR_COSTS[target][layer.precision]
    if isinstance(form, DenseForm):
        return layer.n_inputs * (costs.input + active * costs.dense * layer.n_outputs)
    return form.values.size * (costs.single if form.block == 1 else costs.block)


def target_of(core: str, architecture: str) -> Target:
    """The target whose costs stand for a device profile's processor."""
    for names, targets in ((architecture, _TARGET_OF_ARCHITECTURE), (core, _TARGET_OF_CORE)):
        for begin, target in targets.items():
            if names.startswith(begin):
                return target
    return "generic"


_TARGET_OF_ARCHITECTURE: Mapping[str, Target] = {"x86_64": "linux-x86-64", "aarch64": "linux-aarch64"}
_TARGET_OF_CORE: Mapping[str, Target] = {
    "Cortex-A": "cortex-a",
    "Cortex-M7": "cortex-m7",
    "Cortex-M4F": "cortex-m4",
    "Cortex-M33F": "cortex-m4",
    "Cortex-M0": "rp2040",
    "RV32IMC": "rp2040",
    "Xtensa": "esp32",
}

_WITH_FPU: Mapping[Precision, Costs] = {
    "fp32": Costs(1.7, 6.1, 11.7),
    "fp16": Costs(5.4, 9.3, 30.1),
    "int8": Costs(3.5, 6.6, 22.3),
}
_PORTABLE: Mapping[Precision, Costs] = {
    "fp32": Costs(3.2, 7.0, 22.0),
    "fp16": Costs(11.8, 15.9, 54.3),
    "int8": Costs(3.5, 6.6, 22.3),
}
_WITHOUT_FPU: Mapping[Precision, Costs] = {
    "fp32": Costs(146, 207, 842),
    "fp16": Costs(242, 330, 1332),
    "int8": Costs(13.0, 17.8, 60.3),
}
COSTS: Mapping[Target, Mapping[Precision, Costs]] = {
    "cortex-m4": _WITH_FPU,
    "cortex-m7": _WITH_FPU,
    "esp32": _PORTABLE,
    "rp2040": _WITHOUT_FPU,
    "generic": _PORTABLE,
}
"""Counted in QEMU at -O2, fitted over twelve networks: Cortex-M4F; the same without its own instructions, which stands
for esp32 and generic; Cortex-M0+."""

VECTOR_COSTS: Mapping[Target, Mapping[Precision, VectorCosts]] = {
    "linux-x86-64": {
        "fp32": VectorCosts(1500, 37, 330, 100),
        "fp16": VectorCosts(1500, 81, 785, 155),
        "int8": VectorCosts(1500, 57, 485, 460),
    },
    "linux-aarch64": {
        "fp32": VectorCosts(14, 0.60, 5.0, 1.45),
        "fp16": VectorCosts(14, 2.0, 12.8, 3.3),
        "int8": VectorCosts(14, 1.05, 6.8, 4.2),
    },
    "cortex-a": {
        "fp32": VectorCosts(14, 2.3, 6.8, 3.4),
        "fp16": VectorCosts(14, 10.7, 15.5, 11.7),
        "int8": VectorCosts(14, 4.4, 9.1, 5.6),
    },
}
"""x86-64: picoseconds, measured on a Zen 4 core with GCC 12 at -O3 -march=native. The others: instructions, counted in
QEMU's user mode at -O3. On a 32-bit Cortex-A compilers leave the vector unit alone, since it has no denormals."""

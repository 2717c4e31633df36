"""CompactPolicy: a deterministic policy as plain arrays, and its reference evaluation in numpy.

A policy is a chain of affine layers with an activation f, and perhaps a norm before it, between them. Its head makes
actions in the environment's own units of what the last layer gives:

    shifted    = float32(observation − offset)               (in float64, for numbers too large for float32)
    normalised = (shifted − mean) · scale                    (where the policy was trained with normalisation)
    seen       = clip(normalised, −clip, clip)               (where there is a clip)
    x          = W_L f(… f(W_1 seen + b_1) …) + b_L
    action     = centre + half_range · tanh(x)               (head tanh; the middle and half the range of the bounds)
    action     = clip(x, low, high)                          (head clip; a bound may be infinite)

A layer may be a recurrent cell (edgerl.policy.cell): then the policy has a state, which a step is given and gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgerl.errors import UnsupportedModelError
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CellName, MaybeCell, architecture
from edgerl.policy.contract import UNKNOWN, Contract

Array = npt.NDArray[Any]
Precision = Literal["fp32", "fp16", "int8", "int4"]
Head = Literal["tanh", "clip"]
"""How actions are made of the last layer's outputs."""

PRECISIONS: dict[Precision, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
"""Those that numpy has; int4 is int8 here, in −7 … 7."""

MAXIMUM_UNITS = 1 << 16
"""Column indices have 16 bits: no layer is wider."""

MAXIMUM_POSITIONS = 1 << 24
"""A layer's inputs × outputs: what a small sparse file may expand to."""


@dataclass(frozen=True)
class LayerNorm:
    """Of one observation's sums [units]: mean 0 and variance 1, times a scale, plus a shift (Ba et al. 2016)."""

    scale: Array  # float32 [units]
    shift: Array  # float32 [units]
    epsilon: float  # added to the variance

    def __call__(self, sums: Array) -> Array:
        """Normalised sums [..., units], in their own type."""
        centred = sums - sums.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        dtype = sums.dtype
        factor = self.scale.astype(dtype) / np.sqrt(variance + dtype.type(self.epsilon))
        normalised: Array = centred * factor + self.shift.astype(dtype)
        return normalised


def block_rows(row_starts: Array) -> Array:
    """The block row of each block, int64 [blocks]."""
    counts: Array = row_starts[1:].astype(np.int64) - row_starts[:-1]
    return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class Outliers:
    """A layer's largest weights, kept exact beside int8 ones, row by row: row r owns `row_starts[r]` up to
    `row_starts[r + 1]`."""

    values: Array  # float32 [count]
    columns: Array  # uint16 [count], strictly increasing inside a row
    row_starts: Array  # uint32 [n_outputs + 1]

    @property
    def rows(self) -> Array:
        """The row of each, int64 [count]."""
        return block_rows(self.row_starts)

    @property
    def n_bytes(self) -> int:
        """Bytes of values and indices."""
        return self.values.nbytes + self.columns.nbytes + self.row_starts.nbytes


@dataclass(frozen=True)
class Layer(MaybeCell):
    """One affine layer, dense or sparse, and what is done with its sums before the next layer is given them.

    Dense: `values` [n_outputs, n_inputs], without an index.
    Sparse (block CSR): `values` [n_blocks, block]; block i holds the weights from input `columns[i]` to `block`
    consecutive outputs; block row r (outputs block·r …) owns blocks `row_starts[r]` up to `row_starts[r + 1]`. Where
    n_outputs is not a multiple of `block`, the last block row is narrower and its blocks are padded by zeros.
    """

    n_inputs: int
    n_outputs: int
    block: int
    values: Array  # float32, float16 or int8
    bias: Array  # float32 [n_outputs]
    columns: Array | None = None  # uint16 [n_blocks], strictly increasing inside a block row
    row_starts: Array | None = None  # uint32 [ceil(n_outputs / block) + 1]
    scale: Array | None = None  # float32 [n_outputs], int8 only: weight = scale · value
    norm: LayerNorm | None = None  # of a hidden layer, like the activation: behind the last one stands the head
    activation: ActivationName | CellName = "relu"
    outliers: Outliers | None = None  # int8 and int4 only; the stored values at their positions are zero
    is_int4: bool = False  # whether int8 values are in −7 … 7, and stored two in a byte

    def hidden(self, sums: Array) -> Array:
        """What the next layer is given for this one's sums [..., n_outputs], in their type; of a cell see `step`."""
        return ACTIVATIONS[self.activation].forward(sums if self.norm is None else self.norm(sums))

    @property
    def is_sparse(self) -> bool:
        """Whether the weights are stored as block CSR."""
        return self.columns is not None

    @property
    def precision(self) -> Precision:
        """How one weight is stored."""
        return (
            "int4" if self.is_int4 else next(name for name, dtype in PRECISIONS.items() if self.values.dtype == dtype)
        )

    @property
    def connections(self) -> int:
        """Weights that are not zero."""
        exact = 0 if self.outliers is None else int(np.count_nonzero(self.outliers.values))
        return int(np.count_nonzero(self.values)) + exact

    @property
    def stored_weights(self) -> int:
        """Weights in the file, including zeros that pad a block or fill a dense matrix."""
        return int(self.values.size)

    @property
    def n_bytes(self) -> int:
        """Bytes of weights, indices, scales, outliers, biases and of the norm."""
        arrays = (self.bias, self.columns, self.row_starts, self.scale)
        norm = () if self.norm is None else (self.norm.scale, self.norm.shift)
        exact = 0 if self.outliers is None else self.outliers.n_bytes
        return self.value_bytes + exact + sum(int(array.nbytes) for array in (*arrays, *norm) if array is not None)

    @property
    def value_bytes(self) -> int:
        """Bytes of the values."""
        return int(-(-self.values.size // 2) if self.is_int4 else self.values.nbytes)

    def stored_matrix(self) -> Array:
        """The weights as stored, before `scale` and without outliers, as a dense matrix [n_outputs, n_inputs]."""
        if self.columns is None or self.row_starts is None:
            return self.values
        n_block_rows = len(self.row_starts) - 1
        blocks = np.zeros((n_block_rows, self.n_inputs, self.block), self.values.dtype)
        blocks[block_rows(self.row_starts), self.columns] = self.values
        return blocks.transpose(0, 2, 1).reshape(n_block_rows * self.block, self.n_inputs)[: self.n_outputs]

    def matrix(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """The weights as the network uses them, as a dense matrix [n_outputs, n_inputs]."""
        matrix = self.stored_matrix().astype(dtype)
        if self.scale is not None:
            matrix *= self.scale.astype(dtype)[:, None]
        if self.outliers is not None:
            matrix[self.outliers.rows, self.outliers.columns] = self.outliers.values
        return matrix


@dataclass(frozen=True)
class CompactPolicy:
    """A policy in compact form; observations [batch, n] in, actions [batch, m] in the environment's units out."""

    layers: tuple[Layer, ...]
    action_low: Array  # float32 [m]
    action_high: Array  # float32 [m]
    observation_mean: Array | None = None  # float32 [n]
    observation_scale: Array | None = None  # float32 [n], 1 / standard deviation
    example_observation: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # float32 [n]; float64: offset
    example_action: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # float32 [m]
    metadata: Mapping[str, Any] = field(default_factory=dict)  # JSON: environment, seed, sparsity, returns, versions
    observation_offset: Array | None = None  # float64 [n], whole numbers
    observation_clip: float | None = None  # of normalised observations, above 0
    head: Head = "tanh"
    contract: Contract = UNKNOWN

    def __post_init__(self) -> None:
        if self.layers[-1].norm is not None or self.layers[-1].cell is not None:
            raise ValueError("the last layer has a norm or is a cell; expected the head behind it, and nothing else")

    @property
    def n_observations(self) -> int:
        """Length of an observation."""
        return self.layers[0].n_fed

    @property
    def n_actions(self) -> int:
        """Length of an action."""
        return self.layers[-1].n_outputs

    @property
    def connections(self) -> int:
        """Weights of the whole network that are not zero."""
        return sum(layer.connections for layer in self.layers)

    @property
    def architecture(self) -> str:
        """Layer widths, as in 17-256-256-6, or with a cell 17-lstm256-256-6."""
        return architecture(self.layers)

    @property
    def is_recurrent(self) -> bool:
        """Whether an action depends on earlier observations too."""
        return self.n_state > 0

    @property
    def n_state(self) -> int:
        """Length of the state that a step is given and gives back; 0 where the policy is not recurrent."""
        return sum(layer.n_state for layer in self.layers)

    @property
    def is_bounded(self) -> bool:
        """Whether every action has finite bounds."""
        return bool(np.isfinite(self.action_low).all() and np.isfinite(self.action_high).all())

    @cached_property
    def action_scaling(self) -> tuple[Array, Array]:
        """(centre, half_range), float32 [m] each."""
        return action_scaling(self.action_low, self.action_high)

    @cached_property
    def _matrices(self) -> dict[str, list[tuple[Array, Array]]]:
        return {}

    def initial_state(self) -> Array:
        """The state [n_state] with which an episode begins: zeros."""
        return np.zeros(self.n_state, np.float32)

    def __call__(self, observation: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Array:
        """Actions [batch, m] for observations [batch, n] (or [m] for [n]), computed in `dtype`.

        Of a recurrent policy the observations [steps, n] are those of one episode, from its first step on.

        The readable reference that exports are compared with; a fast one is an export. Raises ValueError for float32
        observations where there is an offset.
        """
        observations = np.asarray(observation)
        if not self.is_recurrent or observations.ndim == 1:
            return self.step(observations, self.initial_state(), dtype)[0]
        if observations.ndim != 2:
            raise ValueError(f"the observations have shape {observations.shape}; expected the steps of one episode")
        return self.actions_along(observations, lambda one, state: self.step(one, state, dtype))

    def actions_along(self, observations: Array, step: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
        """Actions [steps, m] along one episode's observations [steps, n], by `step`: (observation, state) → (action,
        state)."""
        state, actions = self.initial_state(), []
        for observation in observations:
            action, state = step(observation, state)
            actions.append(action)
        return np.stack(actions) if actions else np.zeros((0, self.n_actions), np.float32)

    def step(self, observation: npt.ArrayLike, state: Array, dtype: npt.DTypeLike = np.float32) -> tuple[Array, Array]:
        """(action [m], next state [n_state]) for `observation` [n] in `state` [n_state]; batches of both as well."""
        x = self.normalised(np.asarray(shifted(observation, self.observation_offset), dtype))
        outputs, following = self.outputs_of(x, state.astype(dtype))
        return self.actions_of(outputs), following

    def outputs_of(
        self, x: Array, state: Array, given: Callable[[Layer, Array], Array] = lambda _, inputs: inputs
    ) -> tuple[Array, Array]:
        """(the last layer's outputs, the next state) for normalised observations and a state of one type.

        given: what a layer makes of its inputs before it multiplies them.
        """
        states = np.split(state, np.cumsum([layer.n_state for layer in self.layers])[:-1], axis=-1)
        following = []
        *_, last = self.layers
        for layer, before, (weight, bias) in zip(self.layers, states, self._affine(x.dtype), strict=True):
            if layer.cell is None:
                sums = product(given(layer, x), weight) + bias
                x = sums if layer is last else layer.hidden(sums)
            else:
                inputs = np.concatenate([x, before[..., : layer.units]], axis=-1)
                sums = product(given(layer, inputs), weight) + bias
                following.append(layer.cell.forward(sums, before))
                x = following[-1][..., : layer.units]
        return x, np.concatenate(following, axis=-1) if following else state

    def _affine(self, dtype: np.dtype[Any]) -> list[tuple[Array, Array]]:
        """(weight [inputs, outputs], bias) of each layer."""
        if dtype.str not in self._matrices:
            self._matrices[dtype.str] = [(layer.matrix(dtype).T, layer.bias.astype(dtype)) for layer in self.layers]
        return self._matrices[dtype.str]

    def actions_of(self, outputs: Array) -> Array:
        """Actions [..., m] of the last layer's outputs [..., m], in their type."""
        dtype = outputs.dtype
        if self.head == "clip":
            clipped: Array = np.clip(outputs, self.action_low.astype(dtype), self.action_high.astype(dtype))
            return clipped
        centre, half_range = self.action_scaling
        action: Array = centre.astype(dtype) + half_range.astype(dtype) * np.tanh(outputs)
        return action

    def normalised(self, observations: Array) -> Array:
        """What the first layer is given for observations [..., n] less the offset, in their type."""
        dtype, normalised = observations.dtype, observations
        if self.observation_mean is not None and self.observation_scale is not None:
            normalised = (normalised - self.observation_mean.astype(dtype)) * self.observation_scale.astype(dtype)
        if self.observation_clip is not None:
            bound = dtype.type(self.observation_clip)
            normalised = np.clip(normalised, -bound, bound)
        return normalised

    def with_example(self, observation: Array) -> CompactPolicy:
        """The same policy with an example pair made from `observation` [n]."""
        observation = np.asarray(observation, self.observation_dtype)
        return replace(self, example_observation=observation, example_action=self(observation).astype(np.float32))

    @property
    def observation_dtype(self) -> type[np.floating[Any]]:
        """What observations must be given in: float64 where there is an offset, else float32."""
        return observation_dtype(self.observation_offset)

    @property
    def without_offset(self) -> CompactPolicy:
        """The same policy for observations less the offset, such as those in a run's replay."""
        if self.observation_offset is None:
            return self
        example = self.example_observation
        example = shifted(example, self.observation_offset) if example.size else example.astype(np.float32)
        return replace(self, observation_offset=None, example_observation=example)

    def observation_of(self, shifted: Array) -> Array:
        """The observations [..., n] from those less the offset [..., n]."""
        return shifted if self.observation_offset is None else self.observation_offset + shifted.astype(np.float64)


def observation_dtype(offset: Array | None) -> type[np.floating[Any]]:
    """The type that observations with this offset need."""
    return np.float32 if offset is None else np.float64


def shifted(observation: npt.ArrayLike, offset: Array | None) -> Array:
    """The observations [..., n] less the offset [n], float32; unchanged without an offset.

    The difference is computed in float64: at 5.8e6, float32 has steps of 0.5. Raises ValueError for numbers that have
    lost their digits already.
    """
    observations = np.asarray(observation)
    if offset is None:
        return observations
    refuse_lost_digits(observations)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        difference: Array = (observations - offset).astype(np.float32)
    return difference


def refuse_lost_digits(observation: Array) -> None:
    """Raises ValueError for floating-point numbers of less than 64 bits, for which an offset is too late."""
    if observation.dtype.kind == "f" and observation.dtype.itemsize < np.dtype(np.float64).itemsize:
        raise ValueError(f"the observation is {observation.dtype}; expected float64, since the policy has an offset")


def action_scaling(low: Array, high: Array) -> tuple[Array, Array]:
    """(centre, half_range), float32 [m] each, that map [−1, 1] into [low, high], never beyond it by rounding.

    float32 multiplication and addition are monotonic, so the bounds hold everywhere if they hold at ±1; half_range is
    reduced until they do, by its last bit, then by twice as much each time.
    """
    low32, high32 = np.asarray(low, np.float32), np.asarray(high, np.float32)
    centre = (low32.astype(np.float64) / 2 + high32.astype(np.float64) / 2).astype(np.float32)
    half_range = (high32.astype(np.float64) / 2 - low32.astype(np.float64) / 2).astype(np.float32)
    step = half_range - np.nextafter(half_range, np.float32(0))
    with np.errstate(over="ignore"):  # infinity is outside, too
        while np.any(outside := (centre + half_range > high32) | (centre - half_range < low32)):
            half_range = np.where(outside, np.maximum(half_range - step, 0), half_range)
            step = step * 2
    return centre, half_range


def product(left: Array, right: Array) -> Array:
    """left @ right, silent where it is not a number: OpenBLAS reports that for unused lanes of finite numbers too, and
    on some processors only. A NaN in the product is visible anyway."""
    with np.errstate(invalid="ignore"):
        result: Array = left @ right
    return result


def as_blocks(weight: Array, block: int) -> Array:
    """A matrix [n_outputs, n_inputs] as blocks [block rows, n_inputs, block], the last row padded by zeros."""
    n_outputs, n_inputs = weight.shape
    padded = np.zeros((-(-n_outputs // block) * block, n_inputs), weight.dtype)
    padded[:n_outputs] = weight
    return padded.reshape(-1, block, n_inputs).transpose(0, 2, 1)


def make_layer(weight: Array, bias: Array, block: int, scale: Array | None = None, *, is_int4: bool = False) -> Layer:
    """A layer from its stored matrix [n_outputs, n_inputs], dense or sparse, whichever has fewer bytes.

    `weight` is float32, float16 or int8, the type of the stored values; exact zeros are not connections.

    Raises UnsupportedModelError for a layer that the format cannot hold.
    """
    n_outputs, n_inputs = weight.shape
    if max(weight.shape) > MAXIMUM_UNITS or weight.size > MAXIMUM_POSITIONS:
        raise UnsupportedModelError(
            f"a layer is {n_outputs} × {n_inputs}; expected at most {MAXIMUM_UNITS} units and "
            f"{MAXIMUM_POSITIONS} weights"
        )
    blocks = as_blocks(weight, block)
    block_rows, columns = np.nonzero(blocks.any(axis=2))
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(block_rows, minlength=len(blocks)))]).astype(np.uint32)
    sparse = Layer(
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        block=block,
        values=np.ascontiguousarray(blocks[block_rows, columns]),
        bias=bias.astype(np.float32),
        columns=columns.astype(np.uint16),
        row_starts=row_starts,
        scale=scale,
        is_int4=is_int4,
    )
    dense = replace(sparse, values=np.array(weight, order="C"), columns=None, row_starts=None)  # a copy: no alias
    return min(dense, sparse, key=lambda layer: layer.n_bytes)


def as_floats(layer: Layer) -> Layer:
    """The layer in float32, dense or sparse as it is; nothing sparse is unfolded."""
    floats = replace(layer, values=_float_values(layer), scale=None, outliers=None, is_int4=False)
    return floats if layer.outliers is None else _with_weights(floats, layer.outliers)


def _float_values(layer: Layer) -> Array:
    """The stored values as the network uses them, float32."""
    values = layer.values.astype(np.float32)
    if layer.scale is None:
        return values
    if layer.row_starts is None:
        return values * layer.scale[:, None]
    n_block_rows = len(layer.row_starts) - 1
    scales: Array = np.zeros(n_block_rows * layer.block, np.float32)
    scales[: layer.n_outputs] = layer.scale
    return values * scales.reshape(n_block_rows, layer.block)[block_rows(layer.row_starts)]


def _with_weights(layer: Layer, exact: Outliers) -> Layer:
    """A layer without weights at these positions, with them."""
    rows, columns = exact.rows, exact.columns.astype(np.int64)
    if layer.columns is None or layer.row_starts is None:
        layer.values[rows, columns] = exact.values
        return layer
    stored = block_rows(layer.row_starts) * layer.n_inputs + layer.columns
    added = rows // layer.block * layer.n_inputs + columns
    places = np.union1d(stored, added)
    values = np.zeros((len(places), layer.block), np.float32)
    values[np.searchsorted(places, stored)] = layer.values
    values[np.searchsorted(places, added), rows % layer.block] = exact.values
    starts = np.searchsorted(places, np.arange(len(layer.row_starts)) * layer.n_inputs)
    index = (places % layer.n_inputs).astype(np.uint16), starts.astype(np.uint32)
    return replace(layer, values=values, columns=index[0], row_starts=index[1])


def with_activation(layers: Iterable[Layer], activation: ActivationName) -> tuple[Layer, ...]:
    """The layers of a network with this activation behind each but the last."""
    *hidden, last = layers
    return (*(replace(layer, activation=activation) for layer in hidden), last)


SMALLEST_WEIGHT = 1e-30
"""Exports round smaller ones to zero: times a small input they are denormal, which slows some processors a hundredfold,
and no sum in float32 shows them."""


def without_denormals(policy: CompactPolicy) -> CompactPolicy:
    """The policy with zeros for weights, biases and scales of int8 weights below SMALLEST_WEIGHT."""

    def flushed(values: Array) -> Array:
        kept: Array = np.where(np.abs(values) < SMALLEST_WEIGHT, np.float32(0), values)
        return kept

    return replace(
        policy,
        layers=tuple(
            replace(
                layer,
                values=flushed(layer.values) if layer.precision == "fp32" else layer.values,
                bias=flushed(layer.bias),
                scale=None if layer.scale is None else flushed(layer.scale),
                outliers=layer.outliers and replace(layer.outliers, values=flushed(layer.outliers.values)),
            )
            for layer in policy.layers
        ),
    )

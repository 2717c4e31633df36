"""Recurrent cells: what is done with the sums of a layer that is also given what it made of the last observation.

A cell is an affine layer with 4 u outputs, u being its units, whose inputs are those from the layer before and, behind
them, its own last u outputs h; and a function of these sums and of its state. With σ the sigmoid:

    gru    r, z, a, b = sums    h' = (1 − σ(z)) · tanh(a + σ(r) · b) + σ(z) · h    (a: of the inputs, b: of h alone)
    lstm   i, f, g, o = sums    c' = σ(f) · c + σ(i) · tanh(g)      h' = σ(o) · tanh(c')

These are torch.nn.GRU and torch.nn.LSTM, with their order of gates. The state is h, and of an LSTM c behind it; both
are zero when an episode begins. A new cell is an entry here, and what `edgerl.policy.activation` says of an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgerl.policy.activation import ACTIVATIONS, ActivationName, Array

CellName = Literal["gru", "lstm"]

GATES = 4
"""Sums of one unit."""


@dataclass(frozen=True)
class Cell:
    """One kind of cell; all in the numbers' own type."""

    name: CellName
    vectors: int  # of its state, [units] each: h is the first
    forward: Callable[[Array, Array], Array]  # sums [..., 4 u], state [..., vectors · u] → the next state


_sigmoid = ACTIVATIONS["sigmoid"].forward


def _gru(sums: Array, state: Array) -> Array:
    reset, update, of_inputs, of_outputs = np.split(sums, GATES, axis=-1)
    kept = _sigmoid(update)
    following: Array = (1 - kept) * np.tanh(of_inputs + _sigmoid(reset) * of_outputs) + kept * state
    return following


def _lstm(sums: Array, state: Array) -> Array:
    entering, kept, made, leaving = np.split(sums, GATES, axis=-1)
    memory = _sigmoid(kept) * np.split(state, 2, axis=-1)[1] + _sigmoid(entering) * np.tanh(made)
    return np.concatenate([_sigmoid(leaving) * np.tanh(memory), memory], axis=-1)


CELLS: Mapping[str, Cell] = {cell.name: cell for cell in (Cell("gru", 1, _gru), Cell("lstm", 2, _lstm))}
"""By name, in the order of their numbers in C, behind the activations."""


def joined_weights(
    name: CellName, of_inputs: Array, of_outputs: Array, input_bias: Array, output_bias: Array
) -> tuple[Array, Array]:
    """(weight [4 u, n + u], bias [4 u]) of a cell, from those of PyTorch: [g u, n], [g u, u], [g u], [g u] with g = 4
    of an LSTM, 3 of a GRU."""
    if name == "lstm":
        return np.concatenate([of_inputs, of_outputs], axis=1), input_bias + output_bias
    units = of_outputs.shape[1]
    gates, candidate = slice(2 * units), slice(2 * units, None)
    nothing_of_inputs, nothing_of_outputs = (np.zeros_like(part[candidate]) for part in (of_inputs, of_outputs))
    weight = np.block(
        [
            [of_inputs[gates], of_outputs[gates]],
            [of_inputs[candidate], nothing_of_outputs],
            [nothing_of_inputs, of_outputs[candidate]],
        ]
    )
    return weight, np.concatenate([(input_bias + output_bias)[gates], input_bias[candidate], output_bias[candidate]])


def surplus_weights(weight: Array) -> Array:
    """Those of a GRU's weight [4 u, n + u] that must be zero: from h to a, and from the inputs to b."""
    units = len(weight) // GATES
    inputs = weight.shape[1] - units
    return np.concatenate([weight[2 * units : 3 * units, inputs:].ravel(), weight[3 * units :, :inputs].ravel()])


class MaybeCell:
    """The sizes of an affine layer that may be a cell."""

    n_inputs: int
    n_outputs: int
    activation: ActivationName | CellName

    @property
    def cell(self) -> Cell | None:
        """The recurrent cell that this layer is, where it is one."""
        return CELLS.get(self.activation)

    @property
    def units(self) -> int:
        """How many numbers the next layer is given."""
        return self.n_outputs if self.cell is None else self.n_outputs // GATES

    @property
    def n_fed(self) -> int:
        """How many inputs come from the layer before: all but a cell's own last outputs."""
        return self.n_inputs if self.cell is None else self.n_inputs - self.units

    @property
    def n_state(self) -> int:
        """Length of the layer's state; 0 but of a cell."""
        return 0 if self.cell is None else self.cell.vectors * self.units


def architecture(layers: Sequence[MaybeCell]) -> str:
    """Layer widths, as in 17-256-256-6, or with a cell 17-lstm256-256-6."""
    names = (f"{'' if layer.cell is None else layer.cell.name}{layer.units}" for layer in layers)
    return "-".join((str(layers[0].n_fed), *names))

"""The shape of a network: what costs are computed from, before or after any weight exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Widths(Protocol):
    """Anything that is one affine layer."""

    @property
    def n_inputs(self) -> int: ...

    @property
    def n_outputs(self) -> int: ...


def architecture(layers: Sequence[Widths]) -> str:
    """Layer widths, as in 17-256-256-6."""
    return "-".join(str(width) for width in (layers[0].n_inputs, *(layer.n_outputs for layer in layers)))


@dataclass(frozen=True)
class LayerShape:
    """One affine layer; `connections` counts weights, biases not included (as the paper counts)."""

    n_inputs: int
    n_outputs: int
    connections: int

    @property
    def positions(self) -> int:
        """Weights of the dense layer."""
        return self.n_inputs * self.n_outputs

    @property
    def density(self) -> float:
        """connections / positions, in [0, 1]."""
        return self.connections / self.positions


NetworkShape = tuple[LayerShape, ...]


def connections(network: NetworkShape) -> int:
    """Weights of the whole network."""
    return sum(layer.connections for layer in network)


def dense(network: NetworkShape) -> NetworkShape:
    """The dense network of the same widths."""
    return tuple(LayerShape(layer.n_inputs, layer.n_outputs, layer.positions) for layer in network)

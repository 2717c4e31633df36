"""The shape of a network: what costs are computed from, before or after any weight exists."""

from __future__ import annotations

from dataclasses import dataclass


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

"""What a user says of a policy file that the file does not say itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import ConfigError, quoted
from edgerl.policy.activation import ACTIVATIONS, ActivationName


@dataclass(frozen=True)
class Stated:
    """Options of an import; None where the user said nothing."""

    activation: ActivationName | None = None
    normalizer: str | Path | None = None  # the file with statistics of observations, or "none"
    external_data: bool = False  # an ONNX file may read its weights from files beside it

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ConfigError(f"`activation` is {quoted(self.activation)}; expected {', '.join(ACTIVATIONS)}")

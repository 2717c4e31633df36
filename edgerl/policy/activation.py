"""The activation between two layers of a network: one source for numpy and for PyTorch's engine.

A new activation is an entry here, an enumerator and its cases in the native engine (edgerl/edge/engine/activation.h),
and an entry in the table of each exporter that can write it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Activation:
    """One function of a number, element by element."""

    name: str  # in torch.nn.functional
    forward: Callable[[Array], Array]
    derivative: Callable[[Array], Array]  # of the outputs


RELU = Activation("relu", lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(y.dtype))

HIDDEN = RELU
"""After each layer of every network but the last."""

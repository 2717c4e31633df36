"""What an agent's state is: arrays by name, and how an engine takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


def take(arrays: Arrays, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Take an array out of `arrays`. Raises ValueError where it is missing, of another kind, or not finite."""
    array = arrays.pop(name, None)
    if array is None or array.dtype != dtype or array.shape != shape:
        found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise ValueError(f"{name} is {found}, expected {dtype}{list(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return array

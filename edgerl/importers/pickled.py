"""Pickles as data: nothing that they name is looked up, and nothing is executed.

Every class and function that a pickle names is one of the stand-ins below, or of the reader's own, which only keep what
they are given; any other name is refused. Numbers are made of bytes here, once their type and count are checked.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from pickletools import genops
from typing import Any

import numpy as np

from edgerl.errors import quoted
from edgerl.policy.compact import Array


class Record:
    """An object of any class that is named: it keeps its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = state if isinstance(state, dict) else {}


class _Type(Record):
    """numpy.dtype."""

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"

    def made(self) -> np.dtype[Any]:
        name = self.arguments[0] if self.arguments else ""
        if not isinstance(name, str) or name not in ("f4", "f8", "i4", "i8", "b1"):
            raise ValueError(f"the type {quoted(name)}")
        return np.dtype(getattr(self, "order", "<").replace("|", "=") + name)


class PickledArray(Record):
    """A numpy array, in any of the forms that numpy's versions pickle."""

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.type, self.is_fortran, self.data = state

    def made(self) -> Array:
        """Of two dimensions at most; ValueError, TypeError or AttributeError where it is none."""
        if len(self.arguments) == 4:  # _frombuffer
            self.data, self.type, self.shape, order = self.arguments
            self.is_fortran = order == "F"
        elif len(self.arguments) == 2:  # scalar
            self.type, self.data, self.shape, self.is_fortran = *self.arguments, (), False
        if not isinstance(self.type, _Type) or not isinstance(self.data, bytes | bytearray):
            raise ValueError("an array without numbers")
        numbers = np.frombuffer(bytes(self.data), self.type.made())
        shape = self.shape
        if (
            not isinstance(shape, tuple)
            or len(shape) > 2
            or numbers.size != math.prod(shape)
            or min(shape, default=1) < 0
        ):
            raise ValueError(f"an array of the shape {quoted(shape)}")
        return numbers.astype(np.float64).reshape(shape, order="F" if self.is_fortran else "C")


_NUMPY: Mapping[str, type[Record]] = {
    "collections.OrderedDict": Record,
    "numpy.dtype": _Type,
    "numpy.ndarray": Record,
    **{
        f"numpy.{core}.{name}": PickledArray
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    },
}


class _Reader(pickle.Unpickler):
    """Knows no name but those of the stand-ins."""

    def __init__(self, data: bytes, stand_ins: Mapping[str, type[Record]]) -> None:
        super().__init__(io.BytesIO(data))
        self._stand_ins = {**_NUMPY, **stand_ins}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy.random."):  # the generators of spaces that were sampled from
            return Record
        if f"{module}.{name}" not in self._stand_ins:
            raise pickle.UnpicklingError(f"it names {quoted(f'{module}.{name}', 80)}")
        return self._stand_ins[f"{module}.{name}"]


def load(data: bytes, stand_ins: Mapping[str, type[Record]]) -> Any:
    """What a pickle holds, with `stand_ins` for the names of its own; any exception where it is hostile."""
    if any(type(place) is int and "PUT" in code.name and place > len(data) for code, place, _ in genops(data)):
        raise ValueError("it memorises more than it holds")  # for which pickle would allocate
    return _Reader(data, stand_ins).load()

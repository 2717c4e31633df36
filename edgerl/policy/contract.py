"""What a robot must know to run a policy, beside its numbers: the contract of observations, joints and actions.

Programs that train for robots write it beside their policies; edgerl carries it from file to file and shows it. Its
keys as text, in an ONNX file's metadata, are those of mjlab, one for each field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgerl.errors import quoted

MAXIMUM_ITEMS = 4096
LONGEST_NAME = 200


@dataclass(frozen=True)
class Contract:
    """Empty where nothing is known. Names are in the order of the numbers that they stand for."""

    observation_names: tuple[str, ...] = ()  # terms, such as joint_pos, of one or more numbers each
    observation_terms_scale: tuple[float, ...] = ()  # that a term is multiplied by before the policy
    observation_terms_history_length: tuple[int, ...] = ()  # of each term: how many steps are stacked; 0 and 1: none
    command_names: tuple[str, ...] = ()
    joint_names: tuple[str, ...] = ()
    default_joint_pos: tuple[float, ...] = ()  # rad, of each joint
    joint_stiffness: tuple[float, ...] = ()  # N m / rad
    joint_damping: tuple[float, ...] = ()  # N m s / rad
    action_scale: tuple[float, ...] = ()  # rad per unit of action: of all, or of each

    def __bool__(self) -> bool:
        return self != Contract()

    def as_dict(self) -> dict[str, list[Any]]:
        """What is known, for JSON."""
        return {name: list(values) for name, values in asdict(self).items() if values}

    def as_text(self) -> dict[str, str]:
        """What is known, as mjlab writes it: numbers and names between commas."""
        return {name: ",".join(map(str, values)) for name, values in self.as_dict().items()}


UNKNOWN = Contract()
"""Of a policy for no robot, or for one that its file does not describe."""

TYPES: Mapping[str, type] = {
    field.name: str if "str" in str(field.type) else int if "int" in str(field.type) else float
    for field in fields(Contract)
}
"""Of the items of each field."""

_TERMS = ("observation_terms_scale", "observation_terms_history_length")
_JOINTS = ("default_joint_pos", "joint_stiffness", "joint_damping")


def from_dict(stated: Any) -> Contract:
    """The contract in parsed JSON, which is not trusted. Raises ValueError, which says what is wrong."""
    if not isinstance(stated, dict) or not set(stated) <= set(TYPES):
        raise ValueError(f"a contract of other keys than {', '.join(TYPES)}")
    return checked(Contract(**{name: _items(name, values) for name, values in stated.items()}))


def from_text(properties: Mapping[str, str]) -> Contract:
    """The contract in an ONNX file's metadata, UNKNOWN where there is none. Raises ValueError, with what is wrong."""
    stated = {}
    for name in TYPES.keys() & properties.keys():
        words = [word.strip() for word in properties[name].strip("[]").split(",")] if properties[name] else []
        stated[name] = words if TYPES[name] is str else [_number(name, word) for word in words]
    return from_dict(stated)


def _number(name: str, word: str) -> float | int:
    """mjlab writes whole numbers with decimals, too."""
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{name} of {quoted(word)}") from None
    return int(value) if TYPES[name] is int and value == int(value) else value


def _items(name: str, values: Any) -> tuple[Any, ...]:
    kind = TYPES[name]
    if not isinstance(values, list) or len(values) > MAXIMUM_ITEMS:
        raise ValueError(f"{name} that is not a list of at most {MAXIMUM_ITEMS}")
    for value in values:
        is_name = isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable() and "," not in value
        is_number = type(value) in (int, kind) and kind is not str and math.isfinite(value)
        if not (is_name if kind is str else is_number):
            raise ValueError(f"{name} of {quoted(value)}")
    return tuple(values) if kind is str else tuple(kind(value) for value in values)


def checked(contract: Contract) -> Contract:
    """The contract itself. Raises ValueError where two of its lists contradict each other."""
    for names, others in (("observation_names", _TERMS), ("joint_names", _JOINTS)):
        expected = len(getattr(contract, names))
        for other in others:
            count = len(getattr(contract, other))
            if expected and count not in (0, expected):
                raise ValueError(f"{count} numbers of {other} for {expected} {names}")
    if any(length < 0 for length in contract.observation_terms_history_length):
        raise ValueError("observation_terms_history_length below 0")
    return contract

"""What a robot must know to run a policy, beside its numbers: the contract of observations, joints and actions.

Programs that train for robots write it beside their policies; edgerl carries it from file to file, shows it, and holds
policies and loops to it. Its keys as text, in an ONNX file's metadata, are mjlab's; those that mjlab does not write are
called as Isaac Lab and Unitree's deploy.yaml call them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgerl.errors import ConfigError, FileFormatError, quoted

MAXIMUM_ITEMS = 4096
LONGEST_NAME = 200


@dataclass(frozen=True)
class Contract:
    """Empty where nothing is known. Names are in the order of the numbers that they stand for.

    Each term of an observation, such as joint_pos, is clipped, scaled and then stacked with what it was before
    (edgerl.policy.terms).
    """

    step_dt: tuple[float, ...] = ()  # s, one number: from one action to the next
    observation_names: tuple[str, ...] = ()  # of terms
    observation_terms_size: tuple[int, ...] = ()  # numbers of each term, in one step
    observation_terms_scale: tuple[tuple[float, ...], ...] = ()  # of a term: one number, or one for each of its numbers
    observation_terms_clip: tuple[
        tuple[float, ...], ...
    ] = ()  # (low, high) of a term, before its scale; may be infinite
    observation_terms_flatten_history_dim: tuple[int, ...] = ()  # 1: its steps lie one behind the other
    observation_terms_history_length: tuple[int, ...] = ()  # how many steps of a term are stacked; 0 and 1: none
    command_names: tuple[str, ...] = ()
    joint_names: tuple[str, ...] = ()
    joint_ids_map: tuple[int, ...] = ()  # the motor of each joint
    default_joint_pos: tuple[float, ...] = ()  # rad, of each joint
    joint_stiffness: tuple[float, ...] = ()  # N m / rad, of each joint that has a motor
    joint_damping: tuple[float, ...] = ()  # N m s / rad, likewise
    action_scale: tuple[float, ...] = ()  # rad per unit of action: of all, or of each
    action_offset: tuple[float, ...] = ()  # rad, of each action, added to what was scaled
    action_clip: tuple[tuple[float, ...], ...] = ()  # rad, (low, high) of each action, in the end

    def __bool__(self) -> bool:
        return self != Contract()

    @property
    def rate_hz(self) -> float | None:
        """Actions in a second; None where it is not known."""
        return 1 / self.step_dt[0] if self.step_dt else None

    @property
    def stacked_steps(self) -> tuple[int, ...]:
        """Of each term, this step included: from 1 on."""
        lengths = self.observation_terms_history_length or (1,) * len(self.observation_terms_size)
        return tuple(max(length, 1) for length in lengths)

    def as_dict(self) -> dict[str, list[Any]]:
        """What is known, for JSON, which has no infinity: there None stands for it."""
        return {name: [_as_json(value) for value in values] for name, values in asdict(self).items() if values}

    def as_text(self) -> dict[str, str]:
        """What is known, as mjlab writes it: numbers and names between commas, and numbers of one item semicolons."""
        return {name: ",".join(map(_as_text, values)) for name, values in asdict(self).items() if values}


UNKNOWN = Contract()
"""Of a policy for no robot, or for one that its file does not describe."""

TYPES: Mapping[str, type] = {
    field.name: str if "str" in str(field.type) else int if "int" in str(field.type) else float
    for field in fields(Contract)
}
"""Of the items of each field, and of the numbers in an item."""

NESTED = frozenset(field.name for field in fields(Contract) if "tuple[tuple" in str(field.type))
"""Fields whose items are lists."""

_CLIPS = ("observation_terms_clip", "action_clip")
_ALIKE = (
    tuple(field.name for field in fields(Contract) if field.name.startswith("observation_")),
    ("joint_names", "default_joint_pos", "joint_ids_map"),
    ("joint_stiffness", "joint_damping"),
)
"""Fields that have as many items as each other, where they have any."""


def from_dict(stated: Any) -> Contract:
    """The contract in parsed JSON, which is not trusted. Raises ValueError, which says what is wrong."""
    if not isinstance(stated, dict) or not set(stated) <= set(TYPES):
        raise ValueError(f"a contract of other keys than {', '.join(TYPES)}")
    return checked(Contract(**{name: _items(name, values) for name, values in stated.items()}))


def from_text(properties: Mapping[str, str]) -> Contract:
    """The contract in an ONNX file's metadata, UNKNOWN where there is none. Raises ValueError, with what is wrong."""
    return from_dict({name: _parsed(name, properties[name]) for name in TYPES if name in properties})


def of_onnx(properties: Mapping[str, str], source: Path) -> Contract:
    """The contract in the metadata of the ONNX file `source`. Raises FileFormatError."""
    try:
        return from_text(properties)
    except ValueError as error:
        raise FileFormatError(f"{source} is not valid: its metadata has {error}") from error


def _parsed(name: str, text: str) -> list[Any]:
    """What mjlab wrote: words between commas. Its first versions wrote inner lists as Python prints them."""
    flat = re.sub(r"\[([^\[\]]*)\]", lambda found: found[1].replace(",", ";"), text)
    words = [word.strip() for word in flat.split(",")] if flat else []
    if name in NESTED:
        return [[_number(name, part) for part in word.split(";")] for word in words]
    if len(words) == 1:
        words = [part.strip() for part in words[0].split(";")]
    return words if TYPES[name] is str else [_number(name, word) for word in words]


def _number(name: str, word: str) -> float | int | None:
    """mjlab writes whole numbers with decimals, too."""
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{name} of {quoted(word)}") from None
    if name in _CLIPS and math.isinf(value):
        return None
    return int(value) if TYPES[name] is int and value.is_integer() else value


def _items(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or len(values) > MAXIMUM_ITEMS:
        raise ValueError(f"{name} that is not a list of at most {MAXIMUM_ITEMS}")
    if name in NESTED:
        return tuple(_inner(name, value) for value in values)
    return tuple(_item(name, value) for value in values)


def _inner(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not 0 < len(values) <= MAXIMUM_ITEMS:
        raise ValueError(f"{name} whose items are not lists of at most {MAXIMUM_ITEMS}")
    if name not in _CLIPS:
        return tuple(_item(name, value) for value in values)
    if len(values) != 2:
        raise ValueError(f"{name} of {len(values)} numbers instead of a low one and a high one")
    low, high = (
        infinite if value is None else _item(name, value)
        for value, infinite in zip(values, (-math.inf, math.inf), strict=True)
    )
    if low > high:
        raise ValueError(f"{name} from {low} to {high}")
    return low, high


def _item(name: str, value: Any) -> Any:
    kind = TYPES[name]
    is_name = isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable() and "," not in value
    is_number = type(value) in (int, kind) and kind is not str and math.isfinite(value) and abs(value) <= 1e30
    if not (is_name if kind is str else is_number):
        raise ValueError(f"{name} of {quoted(value)}")
    return kind(value)


def checked(contract: Contract) -> Contract:
    """The contract itself. Raises ValueError where its lists contradict each other, or a number makes no sense."""
    for alike in _ALIKE:
        _check_counts(contract, alike)
    joints = len(contract.joint_names or contract.default_joint_pos)
    if joints and len(contract.joint_stiffness) > joints:
        raise ValueError(f"{len(contract.joint_stiffness)} numbers of joint_stiffness for {joints} joints")
    if len(contract.step_dt) > 1 or not all(1e-6 <= seconds <= 1e6 for seconds in contract.step_dt):
        raise ValueError(f"step_dt of {quoted(list(contract.step_dt))}, expected one number of seconds above 0")
    lengths, flat = contract.observation_terms_history_length, contract.observation_terms_flatten_history_dim
    if any(length < 0 for length in lengths):
        raise ValueError("observation_terms_history_length below 0")
    if any(length > 1 and not is_flat for length, is_flat in zip(lengths, flat, strict=False)):
        raise ValueError("observation_terms_flatten_history_dim of 0 for a term with a history, expected 1")
    sizes = contract.observation_terms_size
    if any(size < 1 for size in sizes):
        raise ValueError("observation_terms_size below 1")
    for size, scale in zip(sizes, contract.observation_terms_scale, strict=False):
        if len(scale) not in (1, size):
            raise ValueError(f"{len(scale)} numbers of observation_terms_scale for a term of {size}")
    motors = contract.joint_ids_map
    if any(motor < 0 for motor in motors) or len(set(motors)) != len(motors):
        raise ValueError("joint_ids_map with a number below 0, or with one twice")
    return contract


def _check_counts(contract: Contract, alike: Sequence[str]) -> None:
    counts = {name: len(getattr(contract, name)) for name in alike if getattr(contract, name)}
    for name, count in counts.items():
        first, expected = next(iter(counts.items()))
        if count != expected:
            raise ValueError(f"{count} items of {name} for {expected} {first}")


def check_sizes(contract: Contract, n_observations: int, n_actions: int) -> None:
    """Raises ValueError unless the contract is of a policy with as many observations and actions."""
    sizes, lengths = contract.observation_terms_size, contract.stacked_steps
    stacked = sum(size * length for size, length in zip(sizes, lengths, strict=False))
    if sizes and stacked != n_observations:
        raise ValueError(f"terms of {stacked} numbers, with their history, for {n_observations} observations")
    if len(contract.action_scale) not in (0, 1, n_actions):
        raise ValueError(f"{len(contract.action_scale)} numbers of action_scale for {n_actions} actions")
    for name in ("action_offset", "action_clip"):
        if len(getattr(contract, name)) not in (0, n_actions):
            raise ValueError(f"{len(getattr(contract, name))} items of {name} for {n_actions} actions")
    joints = contract.joint_names or contract.default_joint_pos
    if 0 < len(joints) < n_actions:
        raise ValueError(f"{len(joints)} joints for {n_actions} actions")


def check_joints(contract: Contract, joint_names: Sequence[str], robot: str) -> None:
    """Raises ConfigError unless the joints of a robot, in the order of its actions, are the contract's in that order.

    The robot may leave out some, such as those without a motor.
    """
    if not contract.joint_names:
        raise ConfigError("the policy's contract names no joints; expected `joint_names` for one that does, or none")
    known = set(joint_names)
    ordered = [name for name in contract.joint_names if name in known]
    for index, name in enumerate(joint_names):
        if name not in contract.joint_names:
            raise ConfigError(f"{robot} has the joint {quoted(name, 60)}, which the policy's contract does not name")
        if index == len(ordered) or name != ordered[index]:
            expected = quoted(ordered[index], 60) if index < len(ordered) else "no other"
            raise ConfigError(
                f"joint {index} of {robot} is {quoted(name, 60)}, and {expected} in the policy's contract; expected "
                "the order of the contract, which edgerl info shows"
            )


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(part) for part in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _as_text(value: Any) -> str:
    return ";".join(map(str, value)) if isinstance(value, tuple) else str(value)

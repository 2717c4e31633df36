"""Options as fields of a frozen dataclass: help, range, unit and choices stand beside the default. Checks, the command
line and the documents are made from them: those of a run (edgerl.config), and those of export formats."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edgerl.errors import ConfigError, quoted


def option(default: Any, text: str, **more: str) -> Any:
    """A field that is an option. text: what it does, for `--help`; more: `shown`, a default in words; `range`, as in
    "[1, 65536]", and its `unit`; `other`: "device" where a device may be named instead of a choice."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class Option:
    """One option, for whoever lists them all."""

    name: str
    hint: Any  # its type, such as float | None or Literal["cpu", "cuda"]
    default: Any
    metadata: Mapping[str, str]

    @property
    def _given(self) -> Any:
        """The type of a value that is not None."""
        inner = [hint for hint in get_args(self.hint) if hint is not type(None)]
        return inner[0] if type(None) in get_args(self.hint) else self.hint

    @property
    def kind(self) -> type:
        """str, int, float, bool, tuple, or a class of its own."""
        known: type = str if self.choices else get_origin(self._given) or self._given
        return known

    @property
    def choices(self) -> tuple[str, ...]:
        """Empty where its values are not a few words."""
        return get_args(self._given) if get_origin(self._given) is Literal else ()

    @property
    def shown_default(self) -> str:
        """In words."""
        default = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)
        return self.metadata.get("shown", default)

    def check(self, value: Any) -> None:
        """Raise ConfigError unless `value` is one that the option takes."""
        if value is None and self.default is None:
            return
        interval, name, kind = self.metadata.get("range"), self.name, self.kind
        if interval is None:
            if (self.choices and value not in self.choices) or (kind in (bool, str) and type(value) is not kind):
                raise ConfigError(f"`{name}` is {quoted(value)}; expected {', '.join(self.choices) or kind.__name__}")
            return
        if kind is tuple and not isinstance(value, tuple):
            raise ConfigError(f"`{name}` is {quoted(value)}; expected whole numbers, one per layer")
        for number in value if kind is tuple else (value,):
            is_number = type(number) is int or (type(number) is float and kind is float)
            if not is_number or not _is_inside(number, interval):
                what = "a number" if kind is float else "a whole number"
                raise ConfigError(f"`{name}` is {number}; expected {what} in {interval} ({self.metadata['unit']})")


def _is_inside(value: float, interval: str) -> bool:
    match = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
    assert match is not None, interval
    low, high = (int(end) if re.fullmatch(r"-?\d+", end) else float(end) for end in (match[2], match[3]))
    above = value >= low if match[1] == "[" else value > low
    return above and (value <= high if match[4] == "]" else value < high) and value not in (math.inf, -math.inf)


def options_of(kind: type[Any]) -> dict[str, Option]:
    """Every option of a dataclass, by name."""
    hints = get_type_hints(kind)
    return {
        known.name: Option(known.name, hints[known.name], known.default, known.metadata)
        for known in dataclasses.fields(kind)
    }


@dataclass(frozen=True)
class Checked:
    """A base of dataclasses of options: their values are checked when one is made. Raises ConfigError."""

    def __post_init__(self) -> None:
        for known in options_of(type(self)).values():
            known.check(getattr(self, known.name))

"""Options as fields of a frozen dataclass: help, range, unit and choices stand beside the default. Checks, the command
line and Python are made from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edgerl.errors import ConfigError, nearest, quoted


def option(default: Any, text: str, **more: str) -> Any:
    """A field that is an option. text: what it does, for `--help`; more: `shown`, a default in words; `range`, as in
    "[1, 65536]", and its `unit`; `other`: "device" where a device may be named instead of a choice."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class Option:
    """One option, for whoever lists them all."""

    name: str
    hint: Any  # its type, such as int | None or Literal["fp32", "fp16"] | None
    default: Any
    metadata: Mapping[str, str]

    @property
    def type(self) -> Any:
        """Its type where it is given: int, bool, str or a Literal."""
        inner = [hint for hint in get_args(self.hint) if hint is not type(None)]
        return inner[0] if type(None) in get_args(self.hint) else self.hint

    @property
    def choices(self) -> tuple[str, ...]:
        """Empty where its values are not a few words."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def shown_default(self) -> str:
        """In words."""
        return self.metadata.get("shown", str(self.default))

    def check(self, value: Any) -> None:
        """Raise ConfigError unless `value` is one that the option takes."""
        if value is None and self.default is None:
            return
        if self.choices:
            self._check_choice(value)
        elif type(value) is not self.type:
            raise ConfigError(f"`{self.name}` is {quoted(value)}; expected {_KINDS[self.type]}")
        elif "range" in self.metadata and not _is_inside(value, interval := self.metadata["range"]):
            raise ConfigError(
                f"`{self.name}` is {value}; expected {_KINDS[self.type]} in {interval} ({self.metadata['unit']})"
            )

    def _check_choice(self, value: Any) -> None:
        if value not in self.choices:
            suggestion = nearest(str(value), self.choices) or f"; expected {', '.join(self.choices)}"
            raise ConfigError(f"`{self.name}` is {quoted(value)}{suggestion}")


_KINDS = {int: "a whole number", bool: "true or false", str: "text"}


def _is_inside(value: int, interval: str) -> bool:
    low, high = map(int, re.findall(r"\d+", interval))
    return low <= value <= high


@dataclass(frozen=True)
class Checked:
    """A base of dataclasses of options: their values are checked when one is made. Raises ConfigError."""

    def __post_init__(self) -> None:
        for known in options_of(type(self)).values():
            known.check(getattr(self, known.name))


def options_of(kind: type[Any]) -> dict[str, Option]:
    """Every option of a dataclass, by name."""
    hints = get_type_hints(kind)
    return {
        known.name: Option(known.name, hints[known.name], known.default, known.metadata)
        for known in dataclasses.fields(kind)
    }

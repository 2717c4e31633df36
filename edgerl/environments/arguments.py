"""Arguments of an environment; with others it is another task.

On the command line `--env-arg mass=2.0`, in Python `env_args={"mass": 2.0}`, in a study `env_args = {mass = 2.0}`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgerl.errors import ConfigError, quoted
from edgerl.files.strict_json import parse_json

Scalar = str | int | float | bool

MOST = 32
LONGEST_NAME = 64
LONGEST_TEXT = 1000
LARGEST_INTEGER = 1 << 63

LONGEST_SLUG = 80


class Arguments(dict[str, Scalar]):
    """Checked arguments by name, which must not change: they are hashed with the configuration that holds them."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __str__(self) -> str:
        """mass=2.0, wind=true: sorted by name, so that equal ones have the same text."""
        return ", ".join(f"{name}={json.dumps(self[name], ensure_ascii=False)}" for name in sorted(self))


NOTHING = Arguments()


def checked(arguments: object) -> Arguments:
    """Arguments from a call, a study, or a file, which is not trusted. Raises ConfigError."""
    if not isinstance(arguments, Mapping):
        raise ConfigError(f'env_args is {quoted(arguments)}; expected names with values, as in {{"mass": 2.0}}')
    if len(arguments) > MOST:
        raise ConfigError(f"env_args has {len(arguments)} arguments; expected at most {MOST}")
    return Arguments({_name(name): _value(name, value) for name, value in arguments.items()})


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"the argument {quoted(name)} of the environment is not a name; expected letters, digits and '_', at most "
            f"{LONGEST_NAME}"
        )
    return name


def _value(name: str, value: Any) -> Scalar:
    is_possible = (
        type(value) is bool
        or (type(value) is int and abs(value) < LARGEST_INTEGER)
        or (type(value) is float and math.isfinite(value))
        or (type(value) is str and len(value) <= LONGEST_TEXT and value.isprintable())
    )
    if not is_possible:
        raise ConfigError(
            f"the argument {name} of the environment is {quoted(value)}; expected a finite number of at most 64 bits, "
            f"true, false, or a line of at most {LONGEST_TEXT} characters"
        )
    scalar: Scalar = value
    return scalar


def parse(texts: Sequence[str]) -> Arguments:
    """The arguments in texts NAME=VALUE: a number, true, false, or a text in quotes. Raises ConfigError."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"`env_args` is {quoted(text)}; expected NAME=VALUE, as in mass=2.0")
        if name in values:
            raise ConfigError(f"`env_args` has {quoted(name)} twice; expected each argument once")
        values[name] = _parsed(name, value)
    return checked(values)


def _parsed(name: str, text: str) -> Any:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if value is None or isinstance(value, list | dict):
        bare = text if re.fullmatch(r"[\w./-]+", text) else "rough"
        raise ConfigError(
            f"`env_args` {quoted(name)} has the value {quoted(text)}; expected a number, true, false, or a text in "
            f"quotes, as in '{name[:LONGEST_NAME]}=\"{bare[:LONGEST_NAME]}\"'"
        )
    return value


def stated(about: Mapping[str, Any]) -> Arguments:
    """The arguments in a policy's metadata that it was trained with. Raises ConfigError."""
    return checked(about.get("env_args", {}))


def task(environment: str, arguments: Arguments) -> str:
    """Within which returns are comparable: Pendulum-v1, or Pendulum-v1 (g=9.81)."""
    return f"{environment} ({arguments})" if arguments else environment


def slug(environment: str, arguments: Arguments) -> str:
    """A task in a folder's name: robots-walker, robots-walker-mass2.0."""
    parts = [f"{name}{json.dumps(arguments[name])}" for name in sorted(arguments)]
    words = "-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts)
    if len(words) > LONGEST_SLUG:
        words = f"args{hashlib.sha256(str(arguments).encode()).hexdigest()[:8]}"
    return "-".join([environment.replace(":", "-").replace("/", "-"), *([words] if words else [])])

"""Flags of a command that are made from options which the library describes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

Parse = Callable[[dict[str, Any]], dict[str, Any]]


def with_flags(command: Callable[..., None], made: Mapping[str, Any], parse: Parse) -> Callable[..., None]:
    """The command with a parameter for each of `made`, name → annotation, as typer reads one. It is called with what
    `parse` makes of their values, None where one was not given."""
    own = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def parsed(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in made}
        command(**arguments, **parse(given))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=None, annotation=hint) for name, hint in made.items()]
    parameters += [
        each.replace(kind=keyword, annotation=hints[each.name])
        for each in own.parameters.values()
        if each.name not in made and each.kind != each.VAR_KEYWORD
    ]
    parsed.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed

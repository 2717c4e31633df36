"""The options of the export formats on the command line, made from their dataclasses: name, type, default and help."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from edgerl.cli.support.flags import with_flags
from edgerl.export import formats
from edgerl.options import Option, options_of
from edgerl.units import parse_bytes


def takes_options_of_formats(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each option of an export format. It is called with those that were given."""
    offered = _offered()
    made = {name: _annotation(options) for name, options in offered.items()}
    return with_flags(command, made, functools.partial(_parsed, offered=offered))


def _offered() -> dict[str, dict[str, Option]]:
    """Name of an option → format → how that has it."""
    offered: dict[str, dict[str, Option]] = {}
    for format, module in formats().items():
        for name, option in options_of(module.Options).items():
            offered.setdefault(name, {})[format] = option
    return offered


def _annotation(options: Mapping[str, Option]) -> Any:
    """The parameter, as typer reads it; where formats differ about it, the help and the default say how."""
    option = next(iter(options.values()))
    choices = dict.fromkeys(choice for each in options.values() for choice in each.choices)
    flag = option.name.replace("_", "-")
    defaults = {name: each.shown_default for name, each in options.items()}
    shown = _by_format(defaults) if len(set(defaults.values())) > 1 else option.shown_default
    made = typer.Option(
        f"--{flag}/--no-{flag}" if option.kind is bool and option.default is None else f"--{flag}",
        metavar="NAME" if "other" in option.metadata else "BYTES" if _is_bytes(option) else "|".join(choices) or None,
        help=_by_format({name: each.metadata["help"].rstrip(".") for name, each in options.items()}) + ".",
        show_default=option.default is not False and shown,
        rich_help_panel=f"Options of {' and '.join(options)}",
    )
    kind = option.kind if option.kind in (int, float, bool) and not _is_bytes(option) else str
    return Annotated[kind | None, made]


def _is_bytes(option: Option) -> bool:
    return option.metadata.get("unit") == "bytes"


def _by_format(texts: Mapping[str, str]) -> str:
    """c, c-learner: the one text; learner: the other."""
    formats_of: dict[str, list[str]] = {}
    for format, text in texts.items():
        formats_of.setdefault(text, []).append(format)
    return "; ".join(f"{', '.join(names)}: {text[0].lower()}{text[1:]}" for text, names in formats_of.items())


def _parsed(given: Mapping[str, Any], offered: Mapping[str, Mapping[str, Option]]) -> dict[str, Any]:
    """What was given, as Python takes it."""
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if _is_bytes(next(iter(offered[name].values()))):
            options[name] = parse_bytes(value, f"`{name}`")
    return options

"""The options of a run on the command line, made from edgerl.config: name, type, choices, default and help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerl.cli.support.flags import with_flags
from edgerl.config import METHODS, OPTIONS, PRESETS, RunOption
from edgerl.errors import ConfigError, quoted

PANELS = {
    None: "Run",
    "network": "Networks and sparsity",
    "evolution": "Evolution of the topology",
    "learning": "Learning",
    "schedule": "Schedule",
}

FLAGS = {"environment": "--env", "env_args": "--env-arg"}
"""Of the options that have another name on the command line."""


def flag(name: str) -> str:
    """What the command line calls an option: lambda1 → --lambda1, batch_size → --batch-size."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def takes_options_of_a_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--preset`, `--config`, `--method` and a flag for each option of a run.

    It is called with `preset` and `config`, and with only the options that were given, as Python takes them.
    """
    made = {"preset": _PRESET, "config": _CONFIG, "method": _METHOD} | {
        option.name: _annotation(option) for option in OPTIONS.values()
    }
    return with_flags(command, made, _parsed)


_PRESET = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(PRESETS),
        help="paper: its hyper-parameters for the task; quick: minutes; fast: CrossQ at a tenth of the connections, "
        "for the most return in the least time.",
        show_default="paper",
        rich_help_panel=PANELS[None],
    ),
]
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        help="Options from a file, as `edgerl info RUN --config` prints one; those given here come first.",
        show_default=False,
        rich_help_panel=PANELS[None],
    ),
]

_METHOD = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(METHODS),
        help="Algorithm and topology in a word.",
        show_default="ds-td3",
        rich_help_panel=PANELS[None],
    ),
]


def _annotation(option: RunOption) -> Any:
    """The parameter of one option, as typer reads it."""
    kind, metavar, text = option.kind, "|".join(option.choices), option.metadata["help"]
    shown: str | bool = option.shown_default
    if option.name == "env_args":
        kind, metavar, text, shown = list[str], "NAME=VALUE", text + " Repeatable.", False
    elif kind is tuple:
        kind, metavar = str, "N,N,…"
    elif kind is bool:
        shown = False
    made = typer.Option(
        flag(option.name),
        metavar=metavar or None,
        help=text,
        show_default=shown,
        rich_help_panel=PANELS[option.section],
    )
    return Annotated[kind | None, made]


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    from edgerl.environments.arguments import parse

    options = {name: given[name] for name in ("method", *OPTIONS) if given[name] not in (None, [])}
    if "env_args" in options:
        options["env_args"] = parse(options["env_args"])
    for name in (name for name in OPTIONS if name in options and OPTIONS[name].kind is tuple):
        options[name] = whole_numbers(name, options[name])
    return {"preset": given["preset"], "config": given["config"], **options}


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Numbers between commas. Raises ConfigError."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise ConfigError(f"`{name}` is {quoted(text)}; expected whole numbers with commas, as in 256,256") from error

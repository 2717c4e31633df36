"""Writes docs/cli.md, the reference of the command line, from the commands themselves: `make docs` does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from edgerl.cli import app
from edgerl.files.atomic import write_atomically

PAGE = Path(__file__).parents[1] / "cli.md"

BEGINNING = """\
<!-- Written by docs/site/command_line.py from the commands themselves: change those, and run `make docs`. -->

# Command line

Every command also takes `-h` or `--help`. What they have in common, exit codes above all, is said [with
the commands](commands.md).
"""


def reference() -> str:
    """The page, in Markdown."""
    root = typer.main.get_command(app)
    context = root.context_class(root, info_name="edgerl", **root.context_settings)
    return "\n".join([BEGINNING, *(_section(command, inner) for command, inner in _commands(root, context))])


def _commands(group: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Every command that does something, with the context that knows its whole name, in the order of `--help`."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context, **command.context_settings)
        if hasattr(command, "list_commands"):
            yield from _commands(command, inner)
        else:
            yield command, inner


def _section(command: Any, context: Any) -> str:
    text, example = command.help.rsplit("Example: ", 1)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    parameters = [parameter for parameter in command.params if parameter.get_help_record(context)]
    parts = [f"## {context.command_path}", _prose(text), f"```\n{usage}\n```"]
    for kind, title in (("argument", "argument"), ("option", "option")):
        if rows := [_row(each, context) for each in parameters if each.param_type_name == kind]:
            parts.append("\n".join([f"| {title} | what it says | default |", "|---|---|---|", *rows]))
    parts.append(f"```bash\n{' '.join(example.split())}\n```")
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    """The paragraphs of a docstring, each on one line."""
    return "\n\n".join(" ".join(_plain(paragraph).split()) for paragraph in text.strip().split("\n\n"))


def _row(parameter: Any, context: Any) -> str:
    """`--steps <int>`, its help, and the default or what else `--help` puts between brackets."""
    declaration, text = parameter.get_help_record(context)
    text, _, bracket = text.partition("  [")
    default = re.sub(r"^default: \(?(.*?)\)?$", r"\1", bracket.removesuffix("]"))
    return f"| {_code(declaration)} | {_plain(text)} | {_default(default)} |"


def _default(text: str) -> str:
    return text if text in ("", "required") else _code(text)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _plain(text: str) -> str:
    """A text that is not a Markdown, but for its `code`."""
    special = re.compile(r"(`[^`]*`)|([\[\]*|])")
    return special.sub(lambda found: found[1] or "\\" + found[2], text.replace("<", "&lt;"))


if __name__ == "__main__":
    write_atomically(PAGE, reference().encode())
    print(f"{PAGE}: {reference().count('## ')} commands", file=sys.stderr)

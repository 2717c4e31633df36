"""What all commands share: flags in messages where the library names parameters, and options in groups in `--help`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from edgerl.errors import EdgerlError

_PARAMETER = re.compile(r"`([a-z]\w*)`")


class Command(TyperCommand):
    """A command of edgerl. The library writes `batch_size`, a reader of the command line sees --batch-size."""

    def invoke(self, ctx: Any) -> Any:
        """Run it. Raises what it raises, in the words of the command line."""
        try:
            return super().invoke(ctx)
        except EdgerlError as error:
            error.args = (in_flags(str(error), self.params), *error.args[1:])
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of every parameter, in its group: in plain text, which fits 80 columns uncut."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            group = getattr(parameter, "rich_help_panel", None) or usual
            if record := parameter.get_help_record(ctx):
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def in_flags(message: str, parameters: Iterable[Any]) -> str:
    """The message with the flag of each parameter; a name that is not an option only loses its backticks."""
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    flags: dict[str, str] = {flag.lstrip("-").replace("-", "_"): flag for option in options for flag in option.opts}
    flags |= {option.name: option.opts[0] for option in options}
    return _PARAMETER.sub(lambda found: flags.get(found[1]) or found[1], message)

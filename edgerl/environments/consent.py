"""Whose code runs: a file may not choose. Where a file names an environment that is code, the user names it, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgerl.errors import ConfigError, quoted

_TYPED = re.compile(r"\w[\w./-]*(:\w[\w./-]*)?", re.ASCII)
"""An environment's name that is safe to paste: a hostile file might name what a shell would run."""


def may_be_code(environment: str, arguments: Mapping[str, object]) -> bool:
    """Whether making the environment runs code that its name or an argument chooses: `module:factory`, or a text, which
    can name a module or a file."""
    return ":" in environment or any(isinstance(value, str) for value in arguments.values())


def check_consent(environment: str, arguments: Mapping[str, object], named: str | None, source: str | Path) -> None:
    """Raise ConfigError unless the environment that the file or folder `source` names may be made with its arguments.

    named: the user's, which must be the same; None, for nothing, is enough unless it may be code.
    """
    if named is not None and named != environment:
        raise ConfigError(
            f"{source} has the environment {quoted(environment, 80)}, and `env` is {quoted(named, 80)}; name the same"
        )
    if named is None and may_be_code(environment, arguments):
        texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
        what = "which is code" if ":" in environment else f"with {quoted(texts, 120)}, which can name files and code"
        option = _option(environment)
        fix = f"to run it, add{option}" if option else "no environment can have such a name"
        raise ConfigError(f"{source} names the environment {quoted(environment, 80)}, {what}; {fix}")


def resume_command(run: str | Path, environment: str, arguments: Mapping[str, object]) -> str:
    """The command that resumes a run."""
    return f"edgerl train --resume {run}{_option(environment) if may_be_code(environment, arguments) else ''}"


def _option(environment: str) -> str:
    return f" --env {environment}" if _TYPED.fullmatch(environment) else ""

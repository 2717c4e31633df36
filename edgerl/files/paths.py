"""Where relative paths lead: from where a command or a call began, wherever an environment moves the process to."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from edgerl.errors import OutputError

_home: ContextVar[Path | None] = ContextVar("home", default=None)


@contextlib.contextmanager
def at_home() -> Iterator[None]:
    """Let relative paths lead from the current folder on until this ends; within another one, from where that began.

    Whatever makes an environment is decorated by it, and takes every path as `anchored` gives it.
    """
    token = _home.set(home())
    try:
        yield
    finally:
        _home.reset(token)


def home() -> Path:
    """The folder from which relative paths lead. Raises OutputError where it was removed."""
    if (folder := _home.get()) is not None:
        return folder
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise OutputError("the current folder was removed; change to another one") from error


def anchored(path: str | Path) -> Path:
    """The path, absolute: it leads to the same place from everywhere."""
    return home() / path


def reachable(path: Path) -> Path:
    """The path as it was given, where it leads there from the current folder; else absolute."""
    return path if path.is_absolute() or os.path.samefile(home(), os.curdir) else anchored(path)


def shortened(line: str) -> str:
    """A line for people: paths below the folder where their command began are written from there on."""
    folder = _home.get()
    return line if folder is None else re.sub(rf"(?<![\w./-]){re.escape(str(folder))}/(?=.)", "", line)

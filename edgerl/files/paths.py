"""Where relative paths lead: from the folder where a command or a call started, wherever an environment moves to."""

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
    """Make relative paths lead from the current folder until this ends; inside another such block, from that one's.

    Whatever makes an environment is decorated with it, and takes every path as `anchored` returns it.
    """
    token = _home.set(home())
    try:
        yield
    finally:
        _home.reset(token)


def home() -> Path:
    """The folder that relative paths start from. Raises OutputError where it was removed."""
    if (folder := _home.get()) is not None:
        return folder
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise OutputError("the current folder was removed; change to another one") from error


def anchored(path: str | Path) -> Path:
    """The path as an absolute one, which means the same everywhere."""
    return home() / path


def reachable(path: Path) -> Path:
    """The path as it was given, where that is right from the current folder; else absolute."""
    return path if path.is_absolute() or os.path.samefile(home(), os.curdir) else anchored(path)


def shortened(line: str) -> str:
    """A line for people: paths below the folder where their command started are written relative to it."""
    folder = _home.get()
    return line if folder is None else re.sub(rf"(?<![\w./-]){re.escape(str(folder))}/(?=.)", "", line)

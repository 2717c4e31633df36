"""Every error a user can cause, one tree:

    EdgerlError                 exit code 2
    ├── ConfigError             an option or a configuration value is out of its range
    ├── EnvironmentError        an environment is unknown, unsuitable, or returned something impossible
    │   └── EnvironmentFault    a step failed, or returned a number that is not finite: the next episode may go well
    ├── FileFormatError         a file is truncated, altered, or of another kind than expected
    ├── OutputError             an output path exists already, or cannot be written
    ├── MissingExtraError       a part of edgerl is not installed; the message names the `pip install`
    ├── DeviceError             a device is unknown, or its profile is not valid
    ├── RemoteError             a board cannot be reached, or what was to run there failed
    ├── UnsupportedModelError   a model is valid, but not one that this operation can handle
    ├── CheckFailed             exit code 1: everything worked and the answer is no (over budget, mismatch)
    └── Interrupted             exit code 128 + signal: stopped from outside, with the state saved

A message is one line: what, what was found, what was expected, how to fix it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class EdgerlError(Exception):
    """Base of all errors that a user can cause; `str(error)` is one complete line."""

    exit_code = 2


class ConfigError(EdgerlError):
    """An option or a configuration value is out of its range."""


class EnvironmentError(EdgerlError):
    """An environment is unknown, unsuitable, or returned something impossible."""


class EnvironmentFault(EnvironmentError):  # noqa: N818 — a fault of the robot, which training can outlive
    """An environment failed during an episode, or returned a number that is not finite; the next may go well."""


class FileFormatError(EdgerlError):
    """A file is truncated, altered, or of another kind than expected."""


class OutputError(EdgerlError):
    """An output path exists already, or cannot be written."""


class MissingExtraError(EdgerlError):
    """An optional part of edgerl is not installed."""


class DeviceError(EdgerlError):
    """A device is unknown, or its profile is not valid."""


class RemoteError(EdgerlError):
    """A board cannot be reached, or what was to run there failed."""


class UnsupportedModelError(EdgerlError):
    """A model is valid, but not one that this operation can handle."""


class CheckFailed(EdgerlError):  # noqa: N818 — a verdict, not a fault
    """Everything worked and the answer is no: over budget, or two results that must agree do not."""

    exit_code = 1


class Interrupted(EdgerlError):  # noqa: N818 — requested, not a fault
    """A signal stopped the work, and its state was saved."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError, which names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(f"{module} is not installed; run: pip install 'edgerl[{extra}]'") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that suggests what `name` may have meant, or nothing: '; did you mean Hopper-v5?'."""
    matches = difflib.get_close_matches(name.lower(), lower := {k.lower(): k for k in known}, n=1, cutoff=0.5)
    return f"; did you mean {lower[matches[0]]}?" if matches else ""


def reason(error: BaseException, longest: int = 120) -> str:
    """What an exception says, on one line of at most `longest` printable characters; its type where it says nothing."""
    said = "".join(character if character.isprintable() else " " for character in str(error))
    return " ".join(said.split())[:longest] or type(error).__name__


def bare(error: BaseException) -> str:
    """What an exception says of values in a file: its `parameters` are keys there, not flags."""
    return str(error).replace("`", "")


def quoted(value: object, longest: int = 40) -> str:
    """A value from a file or a user, as a message shows it: printable, and cut."""
    try:
        return repr(value)[:longest]
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value of thousands of levels"

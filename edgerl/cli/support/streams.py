"""The standard streams of a command: no character fails on them, and a result for programs has stdout to itself."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO

READABLE = "edgerl.readable"
"""How our streams spell what their encoding lacks: the name of an error handler, for `errors=`."""

SPELLINGS = {
    "×": "x",
    "·": "*",
    "±": "+-",
    "−": "-",
    "≈": "~",
    "≤": "<=",
    "→": "->",
    "–": "-",
    "’": "'",
    "…": "...",
    "▇": "#",
    "\u202f": " ",
    "µ": "u",
    "μ": "u",
    "λ": "lambda",
    "ζ": "zeta",
    "γ": "gamma",
    "τ": "tau",
    "Σ": "sum",
    "ő": "o",
}
"""Of the characters that edgerl itself prints; others, as in a file's name, are escaped."""

_results: TextIO | None = None


def make_streams_safe() -> None:
    """Let stdout and stderr take any text in any encoding, and open them on nothing where they were closed.

    Without this a letter in a device's name ends a command, and the first file that it opens becomes its stdout.
    """
    global _results
    _results = None
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    codecs.register_error(READABLE, _spelled_out)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 — for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def keep_results_apart(is_wanted: bool = True) -> bool:
    """Keep stdout for `results` only, until the process ends: what an environment prints, in Python or in C, goes to
    stderr, at exit too. The callback of options such as --json."""
    global _results
    if is_wanted and _results is None:
        _results = _own_stdout()
        os.dup2(2, 1)
        sys.stdout = sys.stderr
    return is_wanted


def _own_stdout() -> TextIO:
    """Stdout behind a descriptor of its own; in a terminal's encoding, for files and pipes UTF-8."""
    stdout = sys.stdout
    with contextlib.suppress(OSError):  # where stdout is not a file, the program that replaced it reads it
        if stdout.fileno() == 1:
            stdout.flush()
            encoding = stdout.encoding if stdout.isatty() else "utf-8"
            return open(os.dup(1), "w", encoding=encoding, errors=READABLE, closefd=False)
    return stdout


def results() -> TextIO:
    """Where the result of a command goes."""
    return sys.stdout if _results is None else _results


def give_up_results() -> None:
    """Discard what is still to be written: the reader has left, and it would fail again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in {results(), sys.stdout}:
        with contextlib.suppress(OSError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def shown(text: str) -> str:
    """The text as stdout will have it, so that columns are counted right."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, READABLE).decode(encoding)


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelling, error.object[error.start : error.end])), error.end


def _spelling(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file's name that is not a UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return SPELLINGS.get(character) or character.encode("ascii", "backslashreplace").decode()

"""Libraries that read hostile files in a process of their own: bounded in memory and time, and unable to write a file.

What PyTorch's interpreter, HDF5 or tensorstore do with a hostile file is up to them: they may allocate what it says,
never end, or crash. Their process may, and the import says so in one line. Requests and answers are arrays.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerl import errors
from edgerl.errors import EdgerlError, UnsupportedModelError

MAXIMUM_MEMORY = 1 << 31
"""Bytes that the process may allocate; a policy needs a tenth."""

MAXIMUM_SECONDS = 120
"""Of processor time, and half of what it may wait; a policy needs three."""

MAXIMUM_ANSWER = 1 << 28
"""Bytes of an answer, which the process that asked has to hold, too."""

Arrays = Mapping[str, np.ndarray[Any, Any]]

FAILURE = "error"
"""In place of an answer: [class of edgerl.errors, message]."""


def call(function: str, path: Path, **request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What `function`, "module:name" in edgerl.importers, makes of `path` and `request`; bytes travel as arrays.

    Raises the EdgerlError that it raises; UnsupportedModelError where it exceeds the bounds or crashes.
    """
    given = {
        key: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value for key, value in request.items()
    }
    answer = _unpacked(_run(function, path, _packed(given)))
    if FAILURE in answer:
        kind, message = (str(text) for text in answer[FAILURE])
        raise getattr(errors, kind)(message)
    return answer


def _run(function: str, path: Path, request: bytes) -> bytes:
    """What the process answers."""
    # Modules come from where ours do: -c alone would look into the current folder first.
    program = f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; serve()"
    command = [sys.executable, "-c", program, function, str(path), str(MAXIMUM_MEMORY), str(MAXIMUM_SECONDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads' stacks count as memory
    try:
        ran = subprocess.run(command, input=request, capture_output=True, env=environment, timeout=2 * MAXIMUM_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise excess(path, -signal.SIGKILL) from error
    if ran.returncode:
        raise excess(path, ran.returncode)
    return ran.stdout


def serve() -> None:
    """In the process itself: answer the request on stdin. Its limits begin before any library is loaded."""
    function, path, memory, seconds = sys.argv[1:]
    limit(int(memory), int(seconds))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not the answer
    with answer:
        answer.write(answered(function, Path(path), sys.stdin.buffer.read()))


def answered(function: str, path: Path, request: bytes) -> bytes:
    """What `serve` answers to a request."""
    module, _, name = function.partition(":")
    given = {key: value.tobytes() if value.dtype == np.uint8 else value for key, value in _unpacked(request).items()}
    try:
        made: Arrays = getattr(importlib.import_module(f"edgerl.importers.{module}"), name)(path, **given)
        if (n_bytes := sum(array.nbytes for array in made.values())) > MAXIMUM_ANSWER:
            raise UnsupportedModelError(f"{path} unpacks to {n_bytes} bytes; expected at most {MAXIMUM_ANSWER}")
    except EdgerlError as error:
        made = {FAILURE: np.array([type(error).__name__, str(error)])}
    return _packed(made)


def limit(memory: int, seconds: int) -> None:
    """Bound this process, for good."""
    import resource  # POSIX only, as edgerl is; the module itself is imported anywhere

    for what, most in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def excess(path: Path, code: int) -> UnsupportedModelError:
    """The error for an exit code."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "ran out of memory or failed"
    how = "took too long" if code in (-signal.SIGXCPU, -signal.SIGKILL) else how
    return UnsupportedModelError(
        f"{path} cannot be read within {MAXIMUM_SECONDS} s and {MAXIMUM_MEMORY >> 20} MiB: what reads it {how}; "
        "expected a policy"
    )


def _packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)

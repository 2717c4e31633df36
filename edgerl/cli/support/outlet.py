"""Text for a reader that may be slow or gone: a stream that is full holds up nothing for long."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import time
from typing import TextIO

PATIENCE_SECONDS = 1.0
"""How long a flush waits for room, in all."""

PIECE_BYTES = select.PIPE_BUF
"""What a pipe that has room takes without waiting."""


class Outlet(io.TextIOBase):
    """A stream's descriptor, past its buffer: each flush writes all since the last one, or nothing of it.

    What finds no room in time is dropped, and so is what meets an error; the next flush tries again, since a disk that
    was full may have room again. Where a pipe took a part, the next flush completes it first. Nothing is ever raised.
    """

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError or AttributeError where the stream has no descriptor."""
        self._descriptor = stream.fileno()
        self._encoding, self._errors = stream.encoding or "utf-8", stream.errors or "backslashreplace"
        self._text: list[str] = []
        self._rest = b""  # of what was written in part

    def write(self, text: str) -> int:
        """Keep the text for the next flush; its length."""
        self._text.append(text)
        return len(text)

    def flush(self) -> None:
        """Write, for at most a second."""
        data = "".join(self._text).encode(self._encoding, self._errors)
        self._text.clear()
        deadline = time.monotonic() + PATIENCE_SECONDS
        self._rest = self._write(self._rest, deadline)
        if self._rest:
            return
        rest = self._write(data, deadline)
        written = len(data) - len(rest)
        if rest and written and not self._take_back(written):
            self._rest = rest

    def fileno(self) -> int:
        """The stream's."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def _write(self, data: bytes, deadline: float) -> bytes:
        """What is left of the data after the deadline, or after an error."""
        with contextlib.suppress(OSError):
            while data and self._has_room(deadline):
                data = data[os.write(self._descriptor, data[:PIECE_BYTES]) :]
        return data

    def _has_room(self, deadline: float) -> bool:
        """Wait for it until the deadline."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))

    def _take_back(self, written: int) -> bool:
        """Cut off the bytes that were written last, where that can be done: at the end of a file."""
        with contextlib.suppress(OSError):
            status, position = os.fstat(self._descriptor), os.lseek(self._descriptor, 0, os.SEEK_CUR)
            if stat.S_ISREG(status.st_mode) and status.st_size == position >= written:
                os.ftruncate(self._descriptor, position - written)
                os.lseek(self._descriptor, position - written, os.SEEK_SET)
                return True
        return False


def outlet_of(stream: TextIO) -> TextIO:
    """The stream as an Outlet, or as it is where it has no descriptor."""
    try:
        return Outlet(stream)  # type: ignore[return-value]
    except (AttributeError, OSError, ValueError):
        return stream

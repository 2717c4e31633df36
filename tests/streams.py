"""The standard streams of this process, which a command keeps to the process's end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Stdout as it was, for the next command that a test runs in this process."""
    stdout, descriptor = sys.stdout, os.dup(1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)
        sys.stdout = stdout

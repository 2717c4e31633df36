"""Programs that tests start."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any


class Processes(contextlib.ExitStack):
    """None of them outlives the block, or leaves a pipe open, whatever fails in it."""

    def start(self, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """`options` are those of Popen."""
        process = subprocess.Popen([str(part) for part in command], **options)
        self.enter_context(process)  # closes the pipes, and waits
        self.callback(process.kill)  # before that
        return process

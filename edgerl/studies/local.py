"""Runs as processes on this machine, each pinned to its own core."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgerl.errors import ConfigError, OutputError
from edgerl.files.paths import home
from edgerl.files.strict_json import parse_json
from edgerl.studies.worker import Outcome

LOG = "train.log"
"""In a run folder: what the run's process printed, such as the traceback of a bug."""


def available_cores(jobs: int | None = None) -> list[int]:
    """The cores that this process may use, or the first `jobs` of them. Raises ConfigError where there are fewer."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if jobs is not None and not 1 <= jobs <= len(own):
        raise ConfigError(f"`jobs` is {jobs}; expected a number in [1, {len(own)}], since every run has its own core")
    return own[:jobs]


class LocalPool:
    """Processes that each train one run."""

    def __init__(self, cores: Sequence[int]) -> None:
        self.capacity = len(cores)
        self._free = list(cores)
        self._running: dict[str, tuple[subprocess.Popen[str], int, Path]] = {}

    @property
    def running(self) -> int:
        """Runs that were started and have not ended."""
        return len(self._running)

    def start(self, name: str, folder: Path, environment: str) -> None:
        """Go on with the run in `folder` on a free core. Raises OutputError."""
        core = self._free.pop(0)
        command = [sys.executable, "-m", "edgerl.studies.worker", str(folder), environment, str(core), str(os.getpid())]
        try:
            with (folder / LOG).open("a") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=home(),  # from which the study's environments are imported
                    start_new_session=True,  # Ctrl-C is for the sweep, which stops its runs
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        except OSError as error:
            raise OutputError(f"cannot start a run in {folder}: {error.strerror}") from error
        self._running[name] = process, core, folder

    def poll(self) -> list[tuple[str, Outcome]]:
        """The runs that have ended since the last call, and how."""
        ended = [name for name, (process, _, _) in self._running.items() if process.poll() is not None]
        return [(name, self._outcome(name)) for name in ended]

    def stop(self) -> None:
        """Request every run to save and stop; at the second call they quit at once, with their last checkpoint."""
        for process, _, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Leave no process behind."""
        for process, _, _ in self._running.values():
            process.terminate()
        for name in list(self._running):
            self._running[name][0].wait()
            self._outcome(name)

    def _outcome(self, name: str) -> Outcome:
        process, core, folder = self._running.pop(name)
        self._free.append(core)
        output, _ = process.communicate()
        has_printed = (log := folder / LOG).stat().st_size > 0
        if not has_printed:
            log.unlink()
        with contextlib.suppress(ValueError, TypeError):  # of a process that died before it answered
            return Outcome(**parse_json(output))
        if process.returncode < 0:
            return Outcome("killed", f"killed by {signal.Signals(-process.returncode).name}")
        hint = f"; see {log}" if has_printed else ""
        return Outcome("failed", f"its process ended with exit code {process.returncode}{hint}")

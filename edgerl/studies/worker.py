"""One run of a sweep in a process of its own: `python -m edgerl.studies.worker FOLDER ENVIRONMENT CORE PARENT`.

The folder has at least a config.json. Only the outcome is written to stdout, as JSON: whatever the environment prints
goes to stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from edgerl.errors import EdgerlError, Interrupted
from edgerl.signals import Terminated, ended_by_signals

Ending = Literal["finished", "stopped", "killed", "failed"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a run ended, for now: finished; stopped, with everything saved; killed, with its last checkpoint; failed."""

    ending: Ending
    message: str = ""


def train_run(folder: Path, environment: str) -> Outcome:
    """Start or resume the run in a folder, to its end. Errors that a user can cause are outcomes.

    environment: the study's, which the user named or consented to.
    """
    from edgerl.training.train import train

    try:
        train(environment, resume=folder)
    except Interrupted as error:
        return Outcome("stopped", str(error))
    except EdgerlError as error:
        return Outcome("failed", str(error))
    return Outcome("finished")


def main(folder: str, environment: str, core: str, parent: str) -> None:
    """Train on one core; save everything and stop if the sweep dies."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {int(core)})
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before we asked for the signal
            sys.exit(1)
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            with ended_by_signals():
                outcome = train_run(Path(folder), environment)
        except (KeyboardInterrupt, Terminated):  # before training, which saves everything, had started
            outcome = Outcome("stopped")
        answer.write(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main(*sys.argv[1:])

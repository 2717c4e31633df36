"""What a system lets a control loop have: memory that stays in place, and a priority above ordinary programs'."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PRIORITY = 1
"""Of SCHED_FIFO: above every ordinary program, below what the kernel runs at 50."""

MCL_CURRENT, MCL_ONFAULT = 1, 4
"""<sys/mman.h>: all that is mapped now, each page as soon as it is used. What is mapped later is not locked: where a
limit is set, an allocation would fail."""

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Granted:
    """What the system permitted."""

    memory_locked: bool  # no page of the process is dropped or swapped out: none is fetched again within a cycle
    priority_raised: bool  # no ordinary program takes the processor from this thread

    def __str__(self) -> str:
        memory = "memory locked" if self.memory_locked else "memory not locked (no permission: ulimit -l)"
        raised = "priority raised" if self.priority_raised else "priority not raised (no permission: ulimit -r)"
        return f"{memory}, {raised}"


@contextlib.contextmanager
def realtime() -> Iterator[Granted]:
    """Lock the process's memory and raise this thread's priority, where the system permits; undo both at the end.

    For a thread that mostly waits, as a ControlLoop without `idle` does: one that never waits leaves other programs on
    its core what the system reserves for them (Linux: 5 %). Threads and processes that it starts get no priority.
    """
    with contextlib.ExitStack() as undoing:
        yield Granted(_lock_memory(undoing), _raise_priority(undoing))


def _lock_memory(undoing: contextlib.ExitStack) -> bool:
    if sys.platform != "linux":
        return False
    system = ctypes.CDLL(None)
    try:
        was_locked = _locked_kib() > 0
    except OSError:  # without /proc nobody knows what is to be undone
        return False
    if system.mlockall(MCL_CURRENT | MCL_ONFAULT) != 0:
        return False
    if not was_locked:  # it cannot be told apart from what the application locked: all stays locked
        undoing.callback(system.munlockall)
    return True


def _locked_kib() -> int:
    found = re.search(r"^VmLck:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _raise_priority(undoing: contextlib.ExitStack) -> bool:
    if sys.platform != "linux":
        return False
    try:
        policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return False

    def restore() -> None:
        try:
            os.sched_setscheduler(0, policy, parameters)
        except OSError:  # of those whom a limit permits the priority, none may clear the flag
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameters)

    undoing.callback(restore)
    return True

"""What a system grants a control loop: asked of the kernel, and refused by it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import pytest

from edgerl.edge import realtime
from edgerl.edge.acting.realtime import Granted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


def locked_kib() -> int:
    found = re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def test_what_was_granted_holds_within_and_is_undone_after() -> None:
    before = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0), locked_kib()
    with realtime() as granted:
        assert (locked_kib() > 0) == granted.memory_locked
        assert (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO) == granted.priority_raised
    assert (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0), locked_kib()) == before


def test_what_the_application_locked_stays_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgerl.edge.acting.realtime._locked_kib", lambda: 4)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel())
    with realtime() as granted:
        assert granted.memory_locked


class Kernel:
    """Grants a lock, and is not to be asked to undo it."""

    @staticmethod
    def mlockall(flags: int) -> int:
        assert flags == 1 | 4  # MCL_CURRENT | MCL_ONFAULT
        return 0


def test_without_permission_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(Kernel, "mlockall", lambda *_: -1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel())
    with realtime() as granted:
        assert granted == Granted(memory_locked=False, priority_raised=False)
    assert str(granted) == (
        "memory not locked (no permission: ulimit -l), priority not raised (no permission: ulimit -r)"
    )

"""Threads beside the one that drives a robot."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator

THREAD_BYTES = 16 << 20
"""What a thread may need to begin with, its stack of 8 MiB included; most of it is never touched."""

LOWER_PRIORITY = 10
"""Added to the niceness of the threads beside the one that drives."""


class Companions:
    """Threads of a lower priority, for one run of the thread that starts them; an exception in one of them ends it."""

    def __init__(self, stop: Callable[[], object]) -> None:
        """stop: ends the run; called from the thread that failed."""
        self._stop = stop
        self._failure: BaseException | None = None

    def raise_failure(self) -> None:
        """Raise what the first that failed raised, if any did."""
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def beside(
        self,
        name: str,
        work: Callable[[threading.Event], object],
        *,
        patience: float | None = None,
        wake: Callable[[], object] = lambda: None,
    ) -> Iterator[None]:
        """Run `work` in a thread; it returns once the event that it is given is set, or is abandoned after
        `patience` seconds. wake: called after the event is set, where `work` may be waiting for something else."""
        ending, is_left = threading.Event(), threading.Event()

        def run() -> None:
            _lower_priority()
            try:
                work(ending)
            except BaseException as error:
                if not is_left.is_set():
                    self._failure = self._failure or error
                    self._stop()

        thread = threading.Thread(target=run, name=f"edgerl-{name}", daemon=True)
        _check_room_for_a_thread()
        thread.start()
        try:
            yield
        finally:
            ending.set()
            wake()
            thread.join(patience)
            is_left.set()


def _check_room_for_a_thread() -> None:
    """Raise MemoryError where there is none: Python would wait forever for a thread that could not start."""
    try:
        mmap.mmap(-1, THREAD_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"there is no memory for another thread ({THREAD_BYTES} bytes)") from error


def _lower_priority() -> None:
    """Give this thread a lower priority than the one that drives."""
    if sys.platform == "linux":  # where each thread has a niceness of its own
        own = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + LOWER_PRIORITY)

"""Stopping long work by SIGINT (Ctrl-C) and SIGTERM without losing it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequests:
    """How often somebody has asked the work to stop, and by which signal last; 0 where nobody has."""

    count: int = 0
    signal: int = 0
    first_at: float = 0.0  # time.monotonic

    def is_older_than(self, seconds: float) -> bool:
        """Whether the first request was made longer than `seconds` ago."""
        return self.count > 0 and time.monotonic() - self.first_at > seconds


@contextlib.contextmanager
def stop_requests(asked: Callable[[StopRequests], None] = lambda _: None) -> Iterator[StopRequests]:
    """Count SIGINT and SIGTERM instead of dying of them, and call `asked` after each, within the signal handler.

    Only the main thread can catch signals: in another, nothing is ever counted.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return

    def request(number: int, _: FrameType | None) -> None:
        requests.first_at = requests.first_at or time.monotonic()
        requests.count += 1
        requests.signal = number
        asked(requests)

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: what is under way is tidied up on its way out."""


@contextlib.contextmanager
def terminated_tidily() -> Iterator[None]:
    """Let SIGTERM raise Terminated in the main thread, wherever nothing else catches it."""

    def terminate(_number: int, _: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def leave_at_the_second(requests: StopRequests) -> None:
    """For `stop_requests`, where what goes on at the first request may take long: the second ends it at once.

    Raises KeyboardInterrupt.
    """
    if requests.count > 1:
        raise KeyboardInterrupt

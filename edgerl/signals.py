"""SIGINT (Ctrl-C) and SIGTERM: a tidy exit, and stopping long work without losing it.

Loaded before everything else, so it imports little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

REPEAT_SECONDS = 0.05

LOADS_C = (ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__)
"""One of them is on the stack while an extension module is loaded."""

PATIENCE_SECONDS = 10
"""How long it may load: torch takes a second on a free core, three where six processes compete for it."""


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT: `finally` and `except` clauses tidy up."""


class CtrlC(KeyboardInterrupt):
    """SIGINT. If a plain KeyboardInterrupt leaves an `exec`, CPython dies of SIGINT, even where it is caught."""


ERRORS: dict[int, type[BaseException]] = {signal.SIGINT: CtrlC, signal.SIGTERM: Terminated}
WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}


def leave_at_once(number: int, _: FrameType | None) -> None:
    """A handler while nothing needs tidying up: say which signal came, and end the process."""
    with contextlib.suppress(OSError):  # a closed stderr
        os.write(2, f"edgerl: {WORDS[number]}\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end this block: KeyboardInterrupt or Terminated leaves it, whatever else would have.

    The handler raises it in the main thread, and much can swallow it: a destructor, an `except:`, a library in C. So it
    is raised repeatedly until it arrives here; but not while it is being handled and things are tidied up, unless a
    further signal comes; and not while an extension module is loaded, which may print it, turn it into another error or
    abort. Whoever catches it finishes in the `except` clause.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = _Ending()
    try:
        with _handled_by(ending.ask):
            try:
                yield
            finally:
                ending.is_over = True
                ending.rest()
    finally:
        if ending.number:
            raise ERRORS[ending.number](WORDS[ending.number])


class _Ending:
    """The signal that ends a block; 0 while none has come."""

    def __init__(self) -> None:
        self.number = 0
        self.is_over = False
        self._patient_until = 0.0
        self._hook = sys.unraisablehook

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM."""
        self.number = number
        self._patient_until = time.monotonic() + PATIENCE_SECONDS
        if not self.is_over:
            signal.signal(signal.SIGALRM, self._repeat)
            sys.unraisablehook = self._ignore
            self._raise(frame)

    def rest(self) -> None:
        """Stop repeating it."""
        if self.number:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            sys.unraisablehook = self._hook

    def _repeat(self, _: int, frame: FrameType | None) -> None:
        if self.is_over:
            return
        if signal_behind(sys.exc_info()[1]):  # an `except` or `finally` clause is under way
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        else:
            self._raise(frame)

    def _raise(self, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        while frame is not None and frame.f_code not in LOADS_C:
            frame = frame.f_back
        if frame is None or time.monotonic() > self._patient_until:
            raise ERRORS[self.number](WORDS[self.number])

    def _ignore(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Python would print a KeyboardInterrupt from a destructor with its traceback, but here it is not lost."""
        if not signal_behind(unraisable.exc_value):
            self._hook(unraisable)


def signal_behind(error: BaseException | None) -> int:
    """The signal that caused an error, 0 where none did: libraries in C turn a KeyboardInterrupt into other errors."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | Terminated):
            return signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        error = error.__context__
    return 0


class StopRequests:
    """How often the work was asked to stop, and by which signal last; 0 where it was not."""

    def __init__(self, count: int = 0, signal: int = 0) -> None:
        self.count = count
        self.signal = signal
        self.first_at = 0.0  # time.monotonic

    def is_older_than(self, seconds: float) -> bool:
        """Whether the first request was made longer than `seconds` ago."""
        return self.count > 0 and time.monotonic() - self.first_at > seconds


@contextlib.contextmanager
def stop_requests(on_request: Callable[[StopRequests], None] = lambda _: None) -> Iterator[StopRequests]:
    """Count SIGINT and SIGTERM instead of dying of them, and call `on_request` after each, in the signal handler.

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
        on_request(requests)

    with _handled_by(request):
        yield requests


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Both signals, in the main thread."""
    previous = {number: signal.signal(number, handler) for number in ERRORS}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def leave_at_the_second(requests: StopRequests) -> None:
    """For `stop_requests`, where the work may go on for long after the first request: the second ends it at once.

    Raises KeyboardInterrupt, or Terminated where that was SIGTERM.
    """
    if requests.count > 1:
        raise ERRORS[requests.signal](WORDS[requests.signal])

"""What `edgerl learn` prints while it runs: a live block on a terminal, or JSON lines; through outlets, so that a robot
never waits for a reader."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from edgerl.cli.support.outlet import outlet_of
from edgerl.cli.support.streams import results
from edgerl.files.paths import shortened
from edgerl.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from edgerl.commands.learn import LearnResult, LearnStart
    from edgerl.edge.continual.status import SessionStatus


class JsonLines:
    """One JSON object a line on stdout, whole or absent. The reader may leave; learning continues."""

    def __init__(self) -> None:
        self._out = outlet_of(results())

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, start: LearnStart) -> None:
        """What starts or resumes."""
        self._print("started", start.as_dict())

    def report(self, status: SessionStatus) -> None:
        """The present status."""
        self._print("status", status)

    def stopped(self, result: LearnResult) -> None:
        """The last status."""
        self._print("stopped", result.as_dict())

    def _print(self, event: str, fields: Mapping[str, Any]) -> None:
        print(json.dumps({"event": event, **fields}, allow_nan=False), file=self._out, flush=True)


class Screen:
    """A live block on a terminal; elsewhere only news, such as a new champion. The last status goes to stdout."""

    def __init__(self) -> None:
        self._out, self._error = outlet_of(sys.stdout), outlet_of(sys.stderr)
        self._live = _live(self._error) if self._error.isatty() else None
        self._say: Callable[[str], object] = self._note if self._live is None else self._live.console.print
        self._before: SessionStatus | None = None

    def _note(self, text: str) -> None:
        print(shortened(text), file=self._error, flush=True)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, start: LearnStart) -> None:
        """What starts or resumes."""
        for line in start.rejected:
            self._note(f"passed over: {line}")
        resumed = f"resumed after {human_seconds(start.seconds)} and {start.steps} steps"
        how = "new" if start.is_new else resumed
        self._note(f"{start.environment} {_pace(start.rate_hz)}; state folder {start.state}: {how}")
        memory = start.memory
        self._note(
            f"memory {human_bytes(memory.total)}: networks {human_bytes(memory.arena)}, champion "
            f"{human_bytes(memory.champion)}, replay {human_bytes(memory.replay)} for {memory.capacity} transitions"
        )

    def report(self, status: SessionStatus) -> None:
        """The present status, and what is new."""
        for line in _news(self._before, status):
            self._say(line)
        if self._live is not None:
            self._live.start()  # does nothing where it has started
            self._live.update(_block(status), refresh=True)
        self._before = status

    def stopped(self, result: LearnResult) -> None:
        """The last status; the command's last line says what ended it."""
        if self._live is not None:
            self._live.stop()
        for name, text in _described(result.status):
            print(f"{name:<8}  {text}", file=self._out)
        self._out.flush()


def _live(file: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=file, highlight=False, markup=False, soft_wrap=True)
    return Live(console=console, auto_refresh=False)


def _news(before: SessionStatus | None, status: SessionStatus) -> Iterator[str]:
    """What a person should hear of, once."""
    if before is None:
        return
    if status["trials"]["takeovers"] > before["trials"]["takeovers"]:
        yield f"the learning policy is the champion now, as it is in snapshot {status['champion']}"
    if status["trials"]["divergences"] > before["trials"]["divergences"]:
        yield "learning diverged, and restarted from the champion"
    if status["last_error"] not in ("", before["last_error"]):
        yield status["last_error"]


def _block(status: SessionStatus) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for row in _described(status):
        table.add_row(*row)
    return table


def _described(status: SessionStatus) -> Iterator[tuple[str, str]]:
    """A status for people: (what, how it stands)."""
    yield "time", f"{human_seconds(status['seconds'])} in all, {status['steps']} steps, {status['episodes']} episodes"
    yield "return", _returns(status["last_episode"], status["trials"])
    yield "learning", _learning(status)
    yield "acting", _acting(status["control"])
    yield "memory", _memory(status)
    yield "kept", _kept(status)


def _returns(episode: dict[str, Any] | None, trials: dict[str, Any]) -> str:
    last = "none yet" if episode is None else f"{episode['return']:.1f} in {episode['steps']} steps"
    windows = (_windows("champion", trials["champion"]), _windows("learning policy", trials["challenger"]))
    return f"last episode {last}; mean of windows: {', '.join(windows)}"


def _windows(whose: str, scores: dict[str, Any]) -> str:
    return f"{whose} none yet" if scores["mean"] is None else f"{whose} {scores['mean']:.1f} of {len(scores['scores'])}"


def _learning(status: SessionStatus) -> str:
    connections = "+".join(str(count) for count in status["connections"].values())
    deferred = f", {status['deferred_updates']} deferred" if status["deferred_updates"] else ""
    return (
        f"{status['updates']} updates, {status['updates_per_second']:.0f}/s{deferred}; {connections} connections, "
        f"{status['replaced_blocks']} dropped and grown"
    )


def _acting(control: dict[str, Any]) -> str:
    median, p99 = (human_seconds(control["latency"][name]) for name in ("median", "p99"))
    missed, cycles = control["missed_deadlines"], control["cycles"]
    return f"median {median}, p99 {p99}; missed deadlines {missed} of {cycles} {_pace(control['rate_hz'])}"


def _pace(rate: float) -> str:
    return f"at {rate:g} Hz" if rate else "as fast as possible"


def _memory(status: SessionStatus) -> str:
    replay, planned = status["replay"], human_bytes(status["memory"]["total"])
    text = f"{planned} as planned, {replay['size']} of {replay['capacity']} transitions"
    resident, peak = status["resident_bytes"], status["peak_resident_bytes"]
    if resident is None or peak is None:
        return text
    return f"{text}; the process {human_bytes(resident)}, at most {human_bytes(peak)}"


def _kept(status: SessionStatus) -> str:
    disk = status["disk"]
    return (
        f"{status['snapshots']} snapshots, {human_bytes(disk['bytes_written'])} written, {disk['errors']} errors; "
        f"champion of snapshot {status['champion']}, {status['trials']['takeovers']} changes"
    )

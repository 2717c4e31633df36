"""What `edgerl learn` prints while it runs: a live block on a terminal, or JSON lines; through outlets, so that a robot
waits for nobody who reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgerl.cli.support.outlet import outlet_of
from edgerl.cli.support.streams import results
from edgerl.files.paths import shortened
from edgerl.run_folder import short
from edgerl.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from edgerl.edge.continual.learner import Learner

Status = dict[str, Any]
"""As `Session.status` makes it."""


class JsonLines:
    """One JSON object a line on stdout, whole or absent. Who reads it may leave; learning goes on."""

    def __init__(self) -> None:
        self._out = outlet_of(results())

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, learner: Learner, env: str, folder: Path, rate: float) -> None:
        """What begins or goes on."""
        self._print(
            "started",
            {
                "environment": env,
                "state": str(short(folder)),
                "rate_hz": rate,
                "is_new": learner.is_new,
                "rejected": learner.rejected,
                "memory": learner.memory.as_dict(),
                "about": learner.about,
            },
        )

    def report(self, status: Status) -> None:
        """How it stands."""
        self._print("status", status)

    def stopped(self, status: Status, reason: str) -> None:
        """How it stood at the end; reason: complete, SIGINT, SIGTERM, or an error's text."""
        self._print("stopped", {"reason": reason, **status})

    def _print(self, event: str, fields: Status) -> None:
        print(json.dumps({"event": event, **fields}, allow_nan=False), file=self._out, flush=True)


class Screen:
    """A live block on a terminal; elsewhere the news alone, such as a new champion. The last status on stdout."""

    def __init__(self) -> None:
        self._out, self._error = outlet_of(sys.stdout), outlet_of(sys.stderr)
        self._live = _live(self._error) if self._error.isatty() else None
        self._say: Callable[[str], object] = self._note if self._live is None else self._live.console.print
        self._before: Status = {}

    def _note(self, text: str) -> None:
        print(shortened(text), file=self._error, flush=True)

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, learner: Learner, env: str, folder: Path, rate: float) -> None:
        """What begins or goes on."""
        for line in learner.rejected:
            self._note(f"passed over: {line}")
        counters, memory = learner.counters, learner.memory
        goes_on = f"goes on after {human_seconds(counters.seconds)} and {counters.steps} steps"
        self._note(f"{env} {_pace(rate)}; state folder {folder}: {'begun' if learner.is_new else goes_on}")
        self._note(
            f"memory {human_bytes(memory.total)}: networks {human_bytes(memory.arena)}, champion "
            f"{human_bytes(memory.champion)}, replay {human_bytes(memory.replay)} for {memory.capacity} transitions"
        )

    def report(self, status: Status) -> None:
        """How it stands."""
        for line in _news(self._before, status):
            self._say(line)
        if self._live is not None:
            self._live.update(_block(status), refresh=True)
        self._before = status

    def stopped(self, status: Status, _: str) -> None:
        """How it stood at the end; what ended it, the command's last line says."""
        for name, text in _described(status):
            print(f"{name:<8}  {text}", file=self._out)
        self._out.flush()


def _live(file: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=file, highlight=False, markup=False, soft_wrap=True)
    return Live(console=console, auto_refresh=False)


def _news(before: Status, status: Status) -> Iterator[str]:
    """What a person should hear of, once."""
    if not before:
        return
    if status["trials"]["takeovers"] > before["trials"]["takeovers"]:
        yield f"the learning policy is the champion now, as it is in snapshot {status['champion']}"
    if status["trials"]["divergences"] > before["trials"]["divergences"]:
        yield "learning diverged, and began anew from the champion"
    if status["last_error"] not in ("", before["last_error"]):
        yield status["last_error"]


def _block(status: Status) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for row in _described(status):
        table.add_row(*row)
    return table


def _described(status: Status) -> Iterator[tuple[str, str]]:
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


def _learning(status: Status) -> str:
    connections = "+".join(str(count) for count in status["connections"].values())
    return (
        f"{status['updates']} updates, {status['updates_per_second']:.0f}/s; {connections} connections, "
        f"{status['replaced_blocks']} dropped and grown"
    )


def _acting(control: dict[str, Any]) -> str:
    median, p99 = (human_seconds(control["latency"][name]) for name in ("median", "p99"))
    missed, cycles = control["missed_deadlines"], control["cycles"]
    return f"median {median}, p99 {p99}; missed deadlines {missed} of {cycles} {_pace(control['rate_hz'])}"


def _pace(rate: float) -> str:
    return f"at {rate:g} Hz" if rate else "as fast as possible"


def _memory(status: Status) -> str:
    replay, planned = status["replay"], human_bytes(status["memory"]["total"])
    text = f"{planned} as planned, {replay['size']} of {replay['capacity']} transitions"
    if status["resident_bytes"] is None:
        return text
    resident, peak = (human_bytes(status[name]) for name in ("resident_bytes", "peak_resident_bytes"))
    return f"{text}; the process {resident}, at most {peak}"


def _kept(status: Status) -> str:
    disk = status["disk"]
    return (
        f"{status['snapshots']} snapshots, {human_bytes(disk['bytes_written'])} written, {disk['errors']} errors; "
        f"champion of snapshot {status['champion']}, {status['trials']['takeovers']} changes"
    )

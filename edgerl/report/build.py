"""`edgerl report`: reading, rendering, writing; once, or whenever something changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import ConfigError, EdgerlError, FileFormatError
from edgerl.files.atomic import write_atomically
from edgerl.report import sources
from edgerl.report.page import render
from edgerl.signals import Terminated
from edgerl.studies.study import RECORD, read_record

RELOAD_SECONDS = 10.0
"""After which a watched page reloads itself; its files are checked twice as often."""

DEFAULT_NAME = "report.html"


@dataclass(frozen=True)
class ReportResult:
    """What was written."""

    path: Path
    bytes: int
    runs: int
    models: int
    seconds: float


def write_page(paths: Sequence[str | Path], output: str | Path, *, reload_seconds: float | None = None) -> ReportResult:
    """Write one self-contained HTML file about run folders, folders of runs, and policy files.

    Raises ConfigError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError.
    """
    began = time.monotonic()
    return _write(_read(paths, output), Path(output), reload_seconds, began)


@dataclass(frozen=True)
class _Content:
    """All that a page is made of."""

    sources: sources.Sources
    title: str


def _read(paths: Sequence[str | Path], output: str | Path) -> _Content:
    named = [Path(name) for name in paths]
    if not named:
        raise ConfigError("nothing was named; expected run folders, a folder of runs, or policy files")
    sources.refuse_overwriting_a_source(Path(output), named)
    names = [read_record(path).title if (path / RECORD).is_file() else path.resolve().name for path in named]
    title = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return _Content(sources.read(named), title)


def _write(content: _Content, path: Path, reload_seconds: float | None, began: float) -> ReportResult:
    page = render(content.sources, title=content.title, reload_seconds=reload_seconds)
    write_atomically(path, page)
    named = content.sources
    return ReportResult(path, len(page), len(named.runs), len(named.models), time.monotonic() - began)


def watch(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    notify: Callable[[ReportResult | EdgerlError], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page whenever its files changed, until KeyboardInterrupt or Terminated; then a last page.

    notify: called with each page written, and with what could not be read. A row that is half written is complete the
    next time; until then, or where a folder was removed, the page shows what was read last.
    """
    named = [Path(name) for name in paths]
    seen: dict[Path, tuple[int, int]] | None = None
    content: _Content | None = None
    try:
        while True:
            now = _state(named)
            if now != seen:
                began = time.monotonic()
                try:
                    content = _read(named, output)
                    notify(_write(content, Path(output), RELOAD_SECONDS, began))
                except FileFormatError as error:
                    if content is None:
                        raise
                    notify(error)
                seen = now
            sleep(RELOAD_SECONDS / 2)
    except (KeyboardInterrupt, Terminated):
        if content is not None:
            _write_last(content, named, Path(output), notify)
        raise


def _state(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Changes whenever a file does; empty where a path is not a source any more."""
    try:
        return sources.watched(paths)
    except FileFormatError:
        return {}


def _write_last(content: _Content, paths: Sequence[Path], output: Path, notify: Callable[[EdgerlError], None]) -> None:
    """The last page, which does not reload itself, of what is there now or else of what was read last."""
    began = time.monotonic()
    try:
        try:
            content = _read(paths, output)
        except EdgerlError as error:
            notify(error)
        _write(content, output, None, began)
    except EdgerlError as error:
        notify(error)

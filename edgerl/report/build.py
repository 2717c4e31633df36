"""`edgerl report`: reading, rendering, writing; once, or whenever something changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import ConfigError, EdgerlError, FileFormatError
from edgerl.files import write_atomically
from edgerl.report import sources
from edgerl.report.page import render
from edgerl.studies.study import RECORD, read_record

RELOAD_SECONDS = 10.0
"""After which a watched page loads itself anew; its files are looked at twice as often."""

DEFAULT_NAME = "report.html"


@dataclass(frozen=True)
class ReportResult:
    """What was written."""

    path: Path
    bytes: int
    runs: int
    models: int
    seconds: float


def write_report(
    paths: Sequence[str | Path], output: str | Path, *, reload_seconds: float | None = None
) -> ReportResult:
    """Write one self-contained HTML file about run folders, folders of runs, and policy files.

    Raises ConfigError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError.
    """
    began = time.monotonic()
    named, path = [Path(name) for name in paths], Path(output)
    if not named:
        raise ConfigError("nothing was named; expected run folders, a folder of runs, or policy files")
    sources.refuse_overwriting_a_source(path, named)
    found = sources.read(named)
    page = render(found, title=_title(named), reload_seconds=reload_seconds)
    write_atomically(path, page)
    return ReportResult(path, len(page), len(found.runs), len(found.models), time.monotonic() - began)


def watch(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    told: Callable[[ReportResult | FileFormatError], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page whenever its files changed, until KeyboardInterrupt; then once more, without reloading itself.

    told: each page written, and what could not be read: a row that is being written is whole the next time.
    """
    named = [Path(name) for name in paths]
    seen = None
    try:
        while True:
            now = sources.watched(named)
            if now != seen:
                try:
                    told(write_report(named, output, reload_seconds=RELOAD_SECONDS))
                except FileFormatError as error:
                    if seen is None:
                        raise
                    told(error)
                seen = now
            sleep(RELOAD_SECONDS / 2)
    except KeyboardInterrupt:
        try:
            write_report(named, output)
        except EdgerlError as error:
            told(FileFormatError(str(error)))
        raise


def _title(paths: Sequence[Path]) -> str:
    names = [read_record(path).title if (path / RECORD).is_file() else path.resolve().name for path in paths]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"

"""`edgerl.write_report`: runs, studies and policies as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgerl.commands.models import Notice, find_run, no_notice
from edgerl.files.atomic import refuse_existing
from edgerl.files.paths import anchored
from edgerl.report.build import DEFAULT_NAME, ReportResult, write_page
from edgerl.studies.study import default_folder


def write_report(
    sources: Sequence[str | Path] = (),
    output: str | Path | None = None,
    *,
    force: bool = False,
    notice: Notice = no_notice,
) -> ReportResult:
    """Write one HTML page, which opens without a network, about runs, a study (a folder of runs) or policy files.

    sources: folders and files, or a study by its name (default runs/latest). output: the file to write (default
    report.html in the one run or study folder, which is replaced, or else here).

    Raises ConfigError, FileFormatError, MissingExtraError, OutputError, UnsupportedModelError.
    """
    named = named_sources(sources, notice)
    return write_page(named, page_of(named, output, force=force))


def named_sources(sources: Sequence[str | Path], notice: Notice) -> list[Path]:
    """The folders and files that are meant: of a study that is named as for `edgerl sweep`, its folder."""
    return [_folder_of(Path(source)) for source in sources] if sources else [find_run(None, notice)]


def _folder_of(source: Path) -> Path:
    folder = default_folder(source.stem)
    is_study = not source.exists() or source.suffix == ".toml"
    return folder if is_study and len(source.parts) == 1 and folder.is_dir() else source


def page_of(named: Sequence[Path], output: str | Path | None, *, force: bool) -> Path:
    """Where the page goes. Raises OutputError where there is one already that may not be replaced."""
    of_one_folder = len(named) == 1 and named[0].is_dir()
    usual = named[0] / DEFAULT_NAME if of_one_folder else Path(DEFAULT_NAME)
    path = usual if output is None else Path(output)
    refuse_existing(path, force=force or (of_one_folder and path == usual))
    return anchored(path)  # the names of sensors come from environments

"""`edgerl report`: runs, studies and policies as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.models import find_run, named_path
from edgerl.cli.support.output import Force, Json, note, print_json
from edgerl.files.paths import anchored
from edgerl.run_folder import short
from edgerl.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from edgerl.errors import EdgerlError
    from edgerl.report.build import ReportResult


def command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=named_path,
            metavar="[RUN|STUDY|POLICY]...",
            help="Folders and files, or a study by its name; default: runs/latest.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write.", show_default="report.html in the run or study folder"),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Write it anew whenever a run goes on; the page reloads itself. Ctrl-C ends it."),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one HTML page, which opens without a network, about runs, a study (a folder of runs) or policy files.

    Learning curves with intervals, connections and sensors over training, the actor's topology before and after,
    compaction, the budgets of every device, what edgerl fit measured, configuration and versions.

    Example: edgerl report runs/latest -o report.html
    """
    from dataclasses import asdict

    from edgerl.errors import ConfigError
    from edgerl.files.atomic import refuse_existing
    from edgerl.report.build import DEFAULT_NAME, write_report
    from edgerl.report.build import watch as write_on_change

    if watch and as_json:
        raise ConfigError("--watch writes page after page, and --json prints one result; leave one of them out")
    named = [_swept(source) for source in sources] if sources else [find_run(None)]
    if output is None:
        path = named[0] / DEFAULT_NAME if len(named) == 1 and named[0].is_dir() else Path(DEFAULT_NAME)
    else:
        path = output
    is_default = path.parent == named[0] and path.name == DEFAULT_NAME
    refuse_existing(path, force=force or is_default)
    path = anchored(path)  # the names of sensors come from environments
    if watch:
        write_on_change(named, path, told=_tell)
        return
    result = write_report(named, path)
    if as_json:
        print_json({**asdict(result), "path": str(short(result.path))})
    else:
        _tell(result)


def _swept(source: Path) -> Path:
    """The folder of a study that is named as for `edgerl sweep`; else the path itself."""
    from edgerl.studies.study import default_folder

    folder = default_folder(source.stem)
    is_study = not source.exists() or source.suffix == ".toml"
    return folder if is_study and len(source.parts) == 1 and folder.is_dir() else source


def _tell(said: ReportResult | EdgerlError) -> None:
    if isinstance(said, Exception):
        note(f"left as it was: {said}")
        return
    print(f"{short(said.path)}: {human_bytes(said.bytes)}, made in {human_seconds(said.seconds)}", flush=True)

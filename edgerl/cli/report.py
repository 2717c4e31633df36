"""`edgerl report`: runs, studies and policies as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerl.cli.support.output import Force, Json, note, print_json
from edgerl.errors import ConfigError
from edgerl.run_folder import short
from edgerl.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from edgerl.errors import EdgerlError
    from edgerl.report.build import ReportResult


def named_path(text: str) -> Path:
    """The path that an argument names; pathlib reads an empty one, as of an unset variable, as the current folder."""
    if not text:
        raise ConfigError("an argument is empty; expected a path")
    return Path(text)


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
        typer.Option("--watch", help="Rewrite it whenever a run advances; the page reloads itself. Ctrl-C ends it."),
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

    from edgerl.commands.report import named_sources, page_of, write_report
    from edgerl.report.build import watch as write_on_change

    if watch and as_json:
        raise ConfigError("`watch` writes page after page, and `as_json` prints one result; leave one of them out")
    if watch:
        named = named_sources(sources or (), note)
        write_on_change(named, page_of(named, output, force=force), notify=_tell)
        return
    result = write_report(sources or (), output, force=force, notice=note)
    if as_json:
        print_json({**asdict(result), "path": str(short(result.path))})
    else:
        _tell(result)


def _tell(said: ReportResult | EdgerlError) -> None:
    if isinstance(said, Exception):
        note(f"left as it was: {said}")
        return
    print(f"{short(said.path)}: {human_bytes(said.bytes)}, made in {human_seconds(said.seconds)}", flush=True)

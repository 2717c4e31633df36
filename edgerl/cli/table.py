"""`edgerl table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgerl.cli.support.output import note, print_document, print_json
from edgerl.cli.support.streams import keep_results_apart
from edgerl.cli.sweep import parse_seeds


def command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, file or folder.")],
    form: Annotated[str, typer.Option("--format", help="markdown, csv or json.")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="The study's folder.", show_default="runs/<study>")] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps of every run, instead of the study's.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="One of the study's environments; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Seeds, as in 0,1,2 or 0-2.", show_default="the study's")
    ] = None,
) -> None:
    """Print what a study's finished runs returned and cost, with intervals, and the paper's figures beside them.

    The study is read as it was last swept in its folder; --steps, --env and --seeds narrow it. An environment that is
    code needs the study's file, or --env: a folder may not choose what runs.

    Example: edgerl table table1 --format csv
    """
    from typing import get_args

    from edgerl.commands.table import table
    from edgerl.errors import ConfigError
    from edgerl.studies.table import as_dict
    from edgerl.studies.table_text import Format, format_table

    if form not in get_args(Format):
        raise ConfigError(f"`form` is {form!r}; expected {', '.join(get_args(Format))}")
    keep_results_apart()
    made = table(study, out=out, steps=steps, env=env, seeds=parse_seeds(seeds))
    if made.finished < made.planned:
        note(f"{made.planned - made.finished} of {made.planned} runs are not finished, and left out")
    if form == "json":
        print_json(as_dict(made))
    else:
        print_document(format_table(made, form).removesuffix("\n"))

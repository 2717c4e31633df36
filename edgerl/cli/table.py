"""`edgerl table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgerl.cli.output import note, print_json
from edgerl.cli.sweep import parse_seeds


def command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, file or folder.")],
    form: Annotated[str, typer.Option("--format", help="markdown, csv or json.")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="The study's folder.", show_default="runs/<study>")] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps of every run, instead of the study's.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="One of the study's environments; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="As 0,1,2 or 0-2.", show_default="the study's")
    ] = None,
) -> None:
    """Print what a study's finished runs returned and cost, with intervals, and the paper's figures beside them.

    The study is taken as it was last swept in its folder; --steps, --env and --seeds narrow it.

    Example: edgerl table table1 --format csv
    """
    from typing import get_args

    from edgerl.errors import ConfigError, require
    from edgerl.studies.grid import plan_runs
    from edgerl.studies.study import find_swept, narrowed
    from edgerl.studies.table import Format, as_dict, format_table, make_table

    if form not in get_args(Format):
        raise ConfigError(f"--format is {form!r}; expected {', '.join(get_args(Format))}")
    require("gymnasium", "train")
    require("scipy", "report")
    found, folder = find_swept(study, out)
    narrow = narrowed(found, steps=steps, environments=env, seeds=parse_seeds(seeds))
    table = make_table(narrow, plan_runs(narrow), folder)
    if table.finished < table.planned:
        note(f"{table.planned - table.finished} of {table.planned} runs are not finished, and left out")
    if form == "json":
        print_json(as_dict(table))
    else:
        print(format_table(table, form), end="")

"""`edgerl.table`: what a study's finished runs returned and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgerl.errors import require
from edgerl.files.paths import anchored
from edgerl.studies.grid import plan_runs
from edgerl.studies.study import find_swept, narrowed
from edgerl.studies.table import Table, make_table


def table(
    study: str | Path,
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    env: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Table:
    """Returns and costs of a study's finished runs, with intervals, and the paper's figures beside them.

    study: its name, file or folder; it is read as it was last swept in its folder `out` (default one of its name in
    `runs`). steps, env, seeds: only these.

    Raises ConfigError, FileFormatError, MissingExtraError.
    """
    require("gymnasium", "train")
    require("scipy", "report")
    found, folder = find_swept(study, None if out is None else Path(out), environments=env)
    narrow = narrowed(found, steps=steps, seeds=seeds)
    return make_table(narrow, plan_runs(narrow), anchored(folder))

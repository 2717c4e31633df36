"""Making, reading and naming run folders."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgerl import run_folder
from edgerl.config import Config, from_json, to_json
from edgerl.environments.arguments import slug
from edgerl.errors import EdgerlError, FileFormatError, OutputError, reason
from edgerl.files.atomic import MAXIMUM_JSON_BYTES, read_text, write_atomically
from edgerl.files.kind import what_is
from edgerl.files.paths import anchored
from edgerl.files.strict_json import parse_json


@contextlib.contextmanager
def new_folder(out: Path | None, config: Config) -> Iterator[Path]:
    """A run folder with its config.json: `out`, or else the first free name under runs/. It is removed again, with the
    parents made for it, where an error leaves nothing to resume from.

    Raises OutputError where `out` exists, or no folder can be made.
    """
    if out is None:
        stem = f"{slug(config.environment, config.env_args)}-{config.method_name}-seed{config.seed}"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        folder, made = _make_first(run_folder.RUNS / name for name in names)
    else:
        folder, made = _make_first([out])
    path = anchored(folder)
    try:
        write_config(path, config)
        yield folder
    except EdgerlError:
        if not (path / run_folder.CHECKPOINT).exists():
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run is in one by now
                for parent in made[1:]:
                    parent.rmdir()
        raise


def _make_first(folders: Iterable[Path]) -> tuple[Path, list[Path]]:
    """(the first of these folders that did not exist, what was made for it): mkdir decides, since other runs may start
    at the same time."""
    for folder in folders:
        check_latest(folder)
        path = anchored(folder)
        missing = [each for each in (path, *path.parents) if not each.exists()]
        try:
            _make(path)
            return folder, missing
        except OSError as error:
            if not os.path.lexists(path):
                raise OutputError(f"cannot make {folder}: {error.strerror}; choose another `out`") from error
    raise OutputError(f"{folder} exists already; go on with `resume` {folder}, or choose another `out`")


def _make(path: Path, tries: int = 3) -> None:
    """A folder with its parents, which another run that fails may remove meanwhile."""
    try:
        path.mkdir(parents=True)
    except FileNotFoundError:
        if tries == 1:
            raise
        _make(path, tries - 1)


def write_config(folder: Path, config: Config) -> None:
    """Write the configuration of a run; for whoever makes the folder, or holds the run. Raises OutputError."""
    write_atomically(folder / run_folder.CONFIG, to_json(config).encode())


def read_config(folder: Path) -> Config:
    """The configuration of a run. Raises FileFormatError and ConfigError; nothing in the file is trusted."""
    if not folder.is_dir():
        raise FileFormatError(f"{folder} is {what_is(folder)}; expected a run folder, as edgerl train makes")
    path = folder / run_folder.CONFIG
    try:
        data = parse_json(read_text(path, MAXIMUM_JSON_BYTES))
    except (FileFormatError, ValueError) as error:
        problem = reason(error, 10_000).replace(str(path), path.name)
        raise FileFormatError(f"{folder} is not a run folder ({problem}); expected one that train wrote") from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{path} is not a JSON object; restore the file")
    return from_json(data, str(path))


def check_latest(folder: Path) -> None:
    """Raise OutputError, before any work, where runs/latest could not become a link to `folder`."""
    latest = anchored(run_folder.LATEST)
    if _is_in_runs(folder) and (folder.name == latest.name or (latest.exists() and not latest.is_symlink())):
        raise OutputError(
            f"{run_folder.LATEST} is reserved for a link to the newest run; move what is there, or choose another `out`"
        )


def point_latest_to(folder: Path) -> None:
    """Let runs/latest link to the newest run that holds a policy, if it is under runs/."""
    if not _is_in_runs(folder):
        return
    temporary = folder / ".latest.tmp"  # in the run's own folder, where `sweep` finds what a killed process left
    try:
        temporary.symlink_to(folder.name)
        temporary.replace(anchored(run_folder.LATEST))
    except OSError as error:
        raise OutputError(f"cannot link {run_folder.LATEST} to {folder.name}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files of writes that were killed; for the one process that holds the run."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _is_in_runs(folder: Path) -> bool:
    return anchored(folder).parent == anchored(run_folder.RUNS)

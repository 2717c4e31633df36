"""Making, reading and naming run folders."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgerl import run_folder
from edgerl.errors import EdgerlError, FileFormatError, OutputError, reason
from edgerl.files import MAXIMUM_JSON_BYTES, read_text, write_atomically
from edgerl.training.arguments import slug
from edgerl.training.config import Config, from_json, to_json


def default_folder(config: Config) -> Path:
    """The first free name under runs/."""
    stem = f"{slug(config.environment, config.env_args)}-{config.network.method}-seed{config.seed}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := run_folder.RUNS / name).exists())


@contextlib.contextmanager
def new_folder(folder: Path, config: Config) -> Iterator[None]:
    """A run folder with its config.json; all that was made is taken away where an error leaves nothing to resume from.

    Raises OutputError where it exists, or cannot be made.
    """
    check_latest(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise OutputError(f"{folder} exists already; go on with --resume {folder}, or choose another --out") from error
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
    try:
        write_config(folder, config)
        yield
    except EdgerlError:
        if not (folder / run_folder.CHECKPOINT).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run is in one by now
                for parent in made[1:]:
                    parent.rmdir()
        raise


def write_config(folder: Path, config: Config) -> None:
    """The configuration of a run; for who makes the folder, or holds the run. Raises OutputError."""
    write_atomically(folder / run_folder.CONFIG, to_json(config).encode())


def read_config(folder: Path) -> Config:
    """The configuration of a run. Raises FileFormatError and ConfigError; nothing in the file is trusted."""
    path = folder / run_folder.CONFIG
    try:
        data = json.loads(read_text(path, MAXIMUM_JSON_BYTES))
    except (FileFormatError, ValueError, RecursionError) as error:
        said = reason(error, 10_000).replace(str(path), path.name)
        raise FileFormatError(f"{folder} is no run folder ({said}); name one that train made") from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{path} holds no JSON object; restore the file")
    return from_json(data, str(path))


def check_latest(folder: Path) -> None:
    """Raise OutputError, before any work, where runs/latest could not become a link to `folder`."""
    latest = run_folder.LATEST
    if _is_in_runs(folder) and (folder.name == latest.name or (latest.exists() and not latest.is_symlink())):
        raise OutputError(
            f"{latest} is a link to the newest run, and nothing else; move what is there, or name another"
        )


def point_latest_to(folder: Path) -> None:
    """Let runs/latest name the newest run that holds a policy; runs elsewhere are named by their path."""
    if not _is_in_runs(folder):
        return
    temporary = folder / ".latest.tmp"  # in the run's own folder, where `sweep` finds what a killed process left
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(run_folder.LATEST)
    except OSError as error:
        raise OutputError(f"cannot link {run_folder.LATEST} to {folder}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writes left that were killed in the middle; for the one process that holds the run."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _is_in_runs(folder: Path) -> bool:
    return folder.absolute().parent == run_folder.RUNS.absolute()

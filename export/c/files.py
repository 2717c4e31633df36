"""The folder that exported C is written into: all files, or where one cannot be written, none that was not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgerl.errors import OutputError
from edgerl.files.atomic import refuse_existing, write_atomically


def write_files(folder: Path, texts: Mapping[str, str], *, force: bool) -> None:
    """Write the texts, by their path in `folder`, which is made where its parent is there. Raises OutputError."""
    _refuse(folder, [folder / name for name in texts], force)
    with contextlib.ExitStack() as stack:
        for inner in dict.fromkeys((folder / name).parent for name in texts):
            stack.enter_context(_folder(inner))
        for name, text in texts.items():
            write_atomically(folder / name, text.encode(), force=force)


def _refuse(folder: Path, files: list[Path], force: bool) -> None:
    try:
        is_other = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    if is_other:
        raise OutputError(f"{folder} is a file; the output of C is a folder: choose another -o")
    for file in files:
        refuse_existing(file, force=force)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """The folder is there; where it was not, and nothing could be written into it, it is gone afterwards."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose an existing, writable folder") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # it holds something
            path.rmdir()
        raise

"""Files that are whole or absent, and reading with suspicion.

A write goes to a temporary file beside its goal, which is synced and renamed over it, and the folder is synced: after a
crash the old file or the new one is there, never a part of one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from edgerl.errors import FileFormatError, OutputError
from edgerl.files.disk import DISK, Bytes, Disk
from edgerl.files.kind import refuse_other_kinds, what_is

TEMPORARIES = ".edgerl-*.tmp"
"""The pattern of the names under which files are written first; a left-over one belongs to a killed process."""


MAXIMUM_BYTES = 1 << 31
"""A larger file is refused before it is read."""

MAXIMUM_TEXT_BYTES = 1 << 26
"""Of a table of numbers as text."""

MAXIMUM_JSON_BYTES = 1 << 24
"""Of a document that edgerl writes: text of this size is an object some ten times larger."""


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise OutputError where an explicit output path exists and may not be replaced, or is not a regular file."""
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if exists and not is_file:
        raise OutputError(f"{path} is not a regular file; write elsewhere")
    if exists and not force:
        raise OutputError(f"{path} exists already; pass `force` to replace it, or write elsewhere")


def write_atomically(
    path: Path, data: bytes, *, force: bool = True, check: Callable[[Path], None] | None = None
) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one.

    `check` runs on the temporary file, synced and complete; when it raises, nothing is left under either name.

    Raises OutputError when the folder does not exist or cannot be written; without `force` also where there is a file
    of that name by now: whoever made it since `refuse_existing` looked wants to keep it.
    """
    write_parts(path, [data], check, DISK, force)


def write_parts(
    path: Path, parts: Iterable[Bytes], check: Callable[[Path], None] | None, disk: Disk, force: bool = True
) -> None:
    """Like `write_atomically`, for a file in parts, through `disk`."""
    temporary = path.parent / TEMPORARIES.replace("*", secrets.token_hex(4))
    try:
        descriptor = disk.open(temporary, create=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose an existing, writable folder") from error
    try:
        try:
            _fill(descriptor, parts, disk)
            if check is not None:
                check(temporary)
            if force:
                disk.replace(temporary, path)
            else:
                disk.rename_to_new(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the failure itself says more
                disk.remove(temporary)
            raise
        disk.sync_folder(path.parent)
    except FileExistsError as error:
        raise OutputError(f"{path} exists now; pass `force` to replace it, or write elsewhere") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _fill(descriptor: int, parts: Iterable[Bytes], disk: Disk) -> None:
    offset = 0
    try:
        for part in parts:
            disk.write(descriptor, part, offset)
            offset += len(part)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def read_bytes(path: Path, at_most: int | None = None) -> bytes:
    """The bytes of a file of reasonable size; FileFormatError says why there are none."""
    try:
        check_file(path, at_most)
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}") from error


def read_text(path: Path, at_most: int = MAXIMUM_TEXT_BYTES) -> str:
    """The UTF-8 text of a file of reasonable size; FileFormatError says why there is none."""
    data = read_bytes(path, at_most)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        refuse_other_kinds(data, path, "a text in UTF-8")
        raise FileFormatError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def check_file(path: Path, at_most: int | None = None) -> None:
    """Raise FileFormatError where `path` is not a file, or has more than `at_most` (MAXIMUM_BYTES) bytes."""
    most = MAXIMUM_BYTES if at_most is None else at_most
    if not path.is_file():
        raise FileFormatError(f"{path} is {what_is(path)}; expected a file")
    if (size := path.stat().st_size) > most:
        raise FileFormatError(f"{path} is {what_is(path)} of {size} bytes; expected at most {most}")

"""Snapshots on a disk that can lose power at any instant: a folder of numbered tensor files.

A snapshot is whole before it has its name, and on the disk before an older one is removed. It names its champion: the
snapshot to go back to where this one turns out to be worse, which may be itself. So what is found after a crash is
the last snapshot whose `write` returned, or a later one, and its champion.

All snapshots count on their champion, so it is there twice: `champion-…` has the same bytes as `snapshot-…` of that
number, and either is taken where the other is damaged. What was found damaged is not removed: it is renamed
`rejected-…`, and a few of these stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgerl.errors import FileFormatError, OutputError, quoted
from edgerl.files.atomic import TEMPORARIES
from edgerl.files.disk import DISK, Disk, open_regular
from edgerl.files.tensors import TensorReader, write_tensors

KIND = "snapshot"
VERSION = 1
VERSIONS = (VERSION, 2)
"""As a bundle's: 2 where there is an observation offset."""

KEPT = 2
"""Snapshots that are kept beside champions: one more than needed, for the day when the newest cannot be read."""

KEPT_REJECTED = 8
"""Files that were set aside and stay; of more the oldest are removed."""

LOCK = "lock"
LOG = "transitions.log"
"""The replay's file in a state folder."""

_Refused = dict[Path, FileFormatError]
"""Files that are of no use, and why."""

_NAME = re.compile(r"(?:snapshot|champion)-([0-9]{8}|[1-9][0-9]{8,})\.safetensors")
_REJECTED = re.compile(r"rejected-([0-9]{8,})-(.+)")


class Snapshots:
    """The snapshots of one learner, to be read, also while another process has the folder and writes the next one.

    Attributes: `folder`; `rejected`, one line for each file that `newest` passed over.
    """

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self.folder, self._disk = folder, disk
        self._champions: dict[int, int] = {}  # of every snapshot that was found valid, so that it is read only once
        self._passed_over: _Refused = {}
        self._orphans: list[int] = []  # snapshots that are valid and whose champion is not, newest first

    @property
    def are_there(self) -> bool:
        """Whether the folder holds a file with a snapshot's name, valid or not. Raises OutputError where the folder
        cannot be read."""
        return self.folder.is_dir() and bool(self._numbers())

    @property
    def rejected(self) -> list[str]:
        """Why `newest` passed over files, a line for each."""
        return [str(error) for error in self._passed_over.values()]

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it passed over a file that may be valid: the system did not let it be read."""
        return any(isinstance(error.__cause__, OSError) for error in self._passed_over.values())

    def path(self, number: int) -> Path:
        """Where a snapshot is, or would be."""
        return self.folder / f"snapshot-{number:08d}.safetensors"

    def copy(self, number: int) -> Path:
        """Where its second file is, if it is a champion."""
        return self.folder / f"champion-{number:08d}.safetensors"

    def newest(self) -> tuple[int, TensorReader] | None:
        """Number and content of the newest snapshot that is valid and whose champion is; to be closed by the caller.

        Raises OutputError where the folder cannot be read.
        """
        self._passed_over, self._orphans = {}, []
        self._champions.clear()
        for number in self._numbers():
            if reader := self._open_or_pass_over(number):
                return number, reader
        return None

    def newest_orphan(self) -> tuple[int, TensorReader] | None:
        """Where `newest` found none: the newest snapshot that is valid but for its champion; to be closed by the
        caller."""
        return (self._orphans[0], self.open(self._orphans[0])) if self._orphans else None

    def open(self, number: int) -> TensorReader:
        """A snapshot's content, to be closed by the caller. Raises FileFormatError where no file of it is valid."""
        return self._open(number, {})

    def _open(self, number: int, refused: _Refused) -> TensorReader:
        """The same; adds to `refused`."""
        self._champions.pop(number, None)
        readers = (self._open_unless_refused(path, number, refused) for path in self._files(number))
        if reader := next(filter(None, readers), None):
            return reader
        path = self.path(number)
        raise refused.get(path) or FileFormatError(f"{path} is not there; expected a file")

    def _files(self, number: int) -> tuple[Path, Path]:
        """Either of which is the snapshot."""
        return self.path(number), self.copy(number)

    def _open_unless_refused(self, path: Path, number: int, refused: _Refused) -> TensorReader | None:
        """The snapshot in one of its files, where that is valid; adds it to `refused` where it is not."""
        if not os.path.lexists(path):
            return None
        try:
            reader = TensorReader(path, KIND, VERSIONS, disk=self._disk, follow_links=False)
        except FileFormatError as error:
            refused[path] = error
            return None
        try:
            self._champions[number] = _champion_in(reader.metadata, number)
        except ValueError as error:
            reader.close()
            refused[path] = FileFormatError(f"{path} {error}")
            return None
        return reader

    def _numbers(self) -> list[int]:
        """Of all files with a snapshot's name, valid or not; newest first."""
        return sorted(_numbers_in(self._names()), reverse=True)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except OSError as error:
            raise OutputError(f"cannot read the folder {self.folder}: {error.strerror}") from error

    def _open_or_pass_over(self, number: int) -> TensorReader | None:
        """The snapshot, where it and its champion are valid."""
        try:
            reader = self._open(number, self._passed_over)
        except FileFormatError:
            return None
        try:
            champion = self._champions[number]
            for path in self._files(champion):  # each that is damaged is passed over, so that another is made
                if file := self._open_unless_refused(path, champion, self._passed_over):
                    file.close()
            self._check_champion(champion, number)
        except FileFormatError as error:
            reader.close()
            self._passed_over[self.path(number)] = error
            self._orphans.append(number)
            return None
        except BaseException:
            reader.close()
            raise
        return reader

    def _check_champion(self, champion: int, number: int) -> None:
        """Raises FileFormatError where the champion of snapshot `number` is not valid."""
        try:
            self._champion_of(champion)
        except FileFormatError as error:
            raise FileFormatError(f"{self.path(number)} is useless without its champion: {error}") from error

    def _champion_of(self, number: int) -> int:
        """The champion that a snapshot names. Raises FileFormatError where that snapshot is not there or not valid."""
        if number not in self._champions or not any(path.exists() for path in self._files(number)):
            self.open(number).close()
        return self._champions[number]


class Store(Snapshots):
    """The snapshots of one learner, for writing too. One process at a time has the folder, and one thread of
    it."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        """Create the folder where it does not exist, and lock it.

        Raises OutputError where another process has it, or it cannot be written to; then nothing of it is left.
        """
        super().__init__(folder, disk)
        self._largest = 0  # number seen
        self._made: list[Path] = []  # folders
        self._found: set[str] = set()  # names that were in the folder
        self._lock = -1
        try:
            self._make_folder()
            self._found = set(os.listdir(folder))
            self._lock = self._acquire_lock()
            for path in folder.glob(TEMPORARIES):
                self._remove(path)
            self._disk.sync_folder(folder)  # a process that renamed the newest snapshot may have been killed before
        except BaseException as error:
            self.withdraw()
            if isinstance(error, OSError):
                problem = f"cannot use the folder {folder}: {error.strerror}; choose a writable one"
                raise OutputError(problem) from error
            raise

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def withdraw(self) -> None:
        """Close; a folder in which no snapshot was found is left as it was."""
        try:
            if self._lock >= 0 and not any(map(_NAME.fullmatch, self._found)):
                for name in set(os.listdir(self.folder)) - self._found:
                    if name in (LOCK, LOG) or _NAME.fullmatch(name):
                        self._remove(self.folder / name)
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # somebody has put something into it
                    self._disk.remove_folder(folder)
        finally:
            self.close()

    @property
    def next_number(self) -> int:
        """The number that `write` will give: one more than any seen in the folder, whatever is in those files."""
        names = self._names()
        set_aside = [match[2] for match in map(_REJECTED.fullmatch, names) if match]
        self._largest = max(self._largest, *_numbers_in(names + set_aside), 0)
        return self._largest + 1

    def write(
        self, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], version: int = VERSION
    ) -> int:
        """Write the next snapshot, return its number once it is on the disk, having removed what it replaces.

        metadata: `champion` and whatever else belongs to a snapshot. The newest two that are valid are kept, and
        their champions, each in two files; until there are two, everything. What `newest` passed over is set aside.

        Raises OutputError where it cannot be written or its champion is not valid, ValueError where `champion` is not
        the number of a snapshot and like `write_tensors`; all older snapshots are then as they were.
        """
        number = self.next_number
        champion = _champion_in(metadata, number)
        try:
            if champion != number:
                self._check_champion(champion, number)
        except FileFormatError as error:
            raise OutputError(f"cannot write: {error}") from error
        with contextlib.suppress(OutputError):  # nothing is lost where this fails
            self._set_aside_passed_over()
        write_tensors(self.path(number), KIND, version, metadata, tensors, disk=self._disk)
        self._champions[number], self._largest = champion, number
        with contextlib.suppress(OutputError):  # this one is safe, and the next one makes up for what is left
            self._remove_old()
            self._make_twice(champion)
        return number

    def mend(self, number: int) -> None:
        """After `newest` found this one: set aside what it passed over, and have both files of its champion. What the
        disk refuses is left for the next `write`, which does the same."""
        with contextlib.suppress(OutputError):
            self._set_aside_passed_over()
            self._make_twice(self._champions[number])

    def replace_champion(
        self, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], version: int = VERSION
    ) -> None:
        """Write another snapshot in place of the champion, no file of which is valid, that the newest orphan names.

        Raises OutputError where it cannot be written, ValueError like `write_tensors`.
        """
        champion = self._champions[self._orphans[0]]
        for path in self._files(champion):
            if _is_regular(path):
                self.set_aside(path)
        write_tensors(self.path(champion), KIND, version, {**metadata, "champion": champion}, tensors, disk=self._disk)

    def set_aside(self, path: Path) -> None:
        """Rename a file of the folder, so that it is out of the way and not lost. Raises OutputError."""
        found = sorted((int(match[1]), match[0]) for match in map(_REJECTED.fullmatch, self._names()) if match)
        number = found[-1][0] + 1 if found else 1
        goal = self.folder / f"rejected-{number:08d}-{path.name}"
        try:
            self._disk.replace(path, goal)
        except OSError as error:
            raise OutputError(f"cannot rename {path} to {goal.name}: {error.strerror}") from error
        for _, name in found[: max(len(found) + 1 - KEPT_REJECTED, 0)]:
            self._remove(self.folder / name)

    def _make_folder(self) -> None:
        folders = [path := self.folder.absolute(), *path.parents]
        missing = list(itertools.takewhile(lambda folder: not folder.exists(), folders))
        with contextlib.suppress(OSError):  # a process that made the first that exists may have been killed before this
            self._disk.sync_folder(folders[len(missing)].parent)
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._disk.make_folder(folder)
                self._made.append(folder)
            self._disk.sync_folder(folder.parent)

    def _acquire_lock(self) -> int:
        """The descriptor of the file that is locked, which is the one that others find."""
        path = self.folder / LOCK
        while True:
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, path):
                    return descriptor
            except BlockingIOError as error:
                os.close(descriptor)
                raise OutputError(f"{self.folder} is in use by another process; stop that one first") from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the process that had it has withdrawn and removed it

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # it does no harm, and the next write tries again
            if _is_regular(path):  # anything else with this name is not ours
                self._disk.remove(path)

    def _set_aside_passed_over(self) -> None:
        for path in filter(_is_regular, list(self._passed_over)):
            self.set_aside(path)
        self._passed_over = {}

    def _remove_old(self) -> None:
        numbers = self._numbers()
        newest = list(itertools.islice(filter(self._is_usable, numbers), KEPT))
        if len(newest) < KEPT:  # others may be valid after all, where a disk was out of reach for a moment
            return
        champions = set(map(self._champion_of, newest))
        for number in numbers:
            if number not in champions:
                self._remove(self.copy(number))
            if number not in champions and number not in newest:
                self._remove(self.path(number))
                self._champions.pop(number, None)

    def _is_usable(self, number: int) -> bool:
        try:
            self._champion_of(self._champion_of(number))
        except FileFormatError:
            return False
        return True

    def _make_twice(self, number: int) -> None:
        """Make sure that both files of a champion exist."""
        missing = [path for path in self._files(number) if not os.path.lexists(path)]
        with contextlib.suppress(FileFormatError):
            for path in missing:
                with self.open(number) as reader:
                    reader.copy(path)


def _numbers_in(names: list[str]) -> set[int]:
    return {int(match[1]) for match in map(_NAME.fullmatch, names) if match}


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is what the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _champion_in(metadata: Mapping[str, Any], number: int) -> int:
    """The champion in the metadata of snapshot `number`; ValueError where there is none."""
    champion = metadata.get("champion")
    if type(champion) is not int or not 1 <= champion <= number:
        raise ValueError(f"names {quoted(champion)} as its champion; expected the number of a snapshot up to {number}")
    return champion

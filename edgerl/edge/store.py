"""Snapshots on a disk that can lose power at any instant: a folder of numbered tensor files.

A snapshot is whole before it has its name, and on the disk before an older one is removed. It names its champion: the
snapshot to go back to where this one turns out to be worse, which may be itself. So what is found after a crash is
the last snapshot whose `write` returned, or a later one, and its champion.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgerl.disk import DISK, Disk
from edgerl.errors import FileFormatError, OutputError, quoted
from edgerl.files import TEMPORARIES, TensorReader, write_tensors

KIND = "snapshot"
VERSION = 1
VERSIONS = (VERSION, 2)
"""As a bundle's: 2 where there is an observation offset."""

KEPT = 2
"""Snapshots that are kept beside champions: one more than needed, for the day when the newest cannot be read."""

_NAME = re.compile(r"snapshot-([0-9]{8}|[1-9][0-9]{8,})\.safetensors")


class Snapshots:
    """The snapshots of one learner, to be read, also while another process has the folder and writes the next one.

    Attributes: `folder`; `rejected`, one line for each file that `newest` passed over.
    """

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self.folder, self._disk = folder, disk
        self.rejected: list[str] = []
        self._champions: dict[int, int] = {}  # of every snapshot that was found valid, so that it is read only once

    @property
    def are_there(self) -> bool:
        """Whether the folder holds a file with a snapshot's name, valid or not. Raises OutputError where the folder
        cannot be read."""
        return self.folder.is_dir() and bool(self._numbers())

    def path(self, number: int) -> Path:
        """Where a snapshot is, or would be."""
        return self.folder / f"snapshot-{number:08d}.safetensors"

    def newest(self) -> tuple[int, TensorReader] | None:
        """Number and content of the newest snapshot that is valid and whose champion is; to be closed by the caller.

        Raises OutputError where the folder cannot be read.
        """
        self.rejected = []
        self._champions.clear()
        for number in self._numbers():
            if reader := self._open_or_reject(number):
                return number, reader
        return None

    def open(self, number: int) -> TensorReader:
        """A snapshot's content, to be closed by the caller. Raises FileFormatError where it is not valid."""
        self._champions.pop(number, None)
        reader = TensorReader(self.path(number), KIND, VERSIONS, disk=self._disk)
        try:
            self._champions[number] = _champion_in(reader.metadata, number)
        except ValueError as error:
            reader.close()
            raise FileFormatError(f"{self.path(number)} {error}") from error
        return reader

    def _numbers(self) -> list[int]:
        """Of all files with a snapshot's name, valid or not; newest first."""
        try:
            names = os.listdir(self.folder)
        except OSError as error:
            raise OutputError(f"cannot read the folder {self.folder}: {error.strerror}") from error
        numbers = {int(match[1]) for match in map(_NAME.fullmatch, names) if match}
        return sorted(numbers, reverse=True)

    def _open_or_reject(self, number: int) -> TensorReader | None:
        try:
            return self._open_with_champion(number)
        except FileFormatError as error:
            self.rejected.append(str(error))
            return None

    def _open_with_champion(self, number: int) -> TensorReader:
        reader = self.open(number)
        try:
            self._check_champion(self._champions[number], number)
        except BaseException:
            reader.close()
            raise
        return reader

    def _check_champion(self, champion: int, number: int) -> None:
        """Raises FileFormatError where the champion of snapshot `number` is not valid."""
        try:
            self._champion_of(champion)
        except FileFormatError as error:
            raise FileFormatError(f"{self.path(number)} is of no use without its champion: {error}") from error

    def _champion_of(self, number: int) -> int:
        """The champion that a snapshot names. Raises FileFormatError where that snapshot is not there or not valid."""
        if number not in self._champions or not self.path(number).exists():
            self.open(number).close()
        return self._champions[number]


class Store(Snapshots):
    """The snapshots of one learner, to be written as well. One process at a time has the folder, and one thread of
    it."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        """Make the folder where it is not there, and take hold of it.

        Raises OutputError where another process has it, or it cannot be written to.
        """
        super().__init__(folder, disk)
        self._largest = 0  # number seen
        try:
            self._make_folder()
            self._lock = (folder / "lock").open("a+b")
            self._take_hold()
        except OSError as error:
            raise OutputError(f"cannot use the folder {folder}: {error.strerror}; choose a writable one") from error

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    @property
    def next_number(self) -> int:
        """The number that `write` will give: one more than any seen in the folder, whatever is in those files."""
        self._largest = max(self._largest, *self._numbers(), 0)
        return self._largest + 1

    def write(
        self, metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], version: int = VERSION
    ) -> int:
        """Write the next snapshot, return its number once it is on the disk, having removed what it replaces.

        metadata: `champion` and whatever else belongs to a snapshot. The newest two that are valid are kept, and
        their champions; until there are two, everything.

        Raises OutputError where it cannot be written or its champion is not valid, ValueError where `champion` is no
        number of a snapshot and like `write_tensors`; all older snapshots are then as they were.
        """
        number = self.next_number
        champion = _champion_in(metadata, number)
        try:
            if champion != number:
                self._check_champion(champion, number)
        except FileFormatError as error:
            raise OutputError(f"cannot write: {error}") from error
        write_tensors(self.path(number), KIND, version, metadata, tensors, disk=self._disk)
        self._champions[number], self._largest = champion, number
        with contextlib.suppress(OutputError):  # this one is safe, and the next one removes what is left over
            self._remove_old()
        return number

    def _make_folder(self) -> None:
        folders = [path := self.folder.absolute(), *path.parents]
        missing = list(itertools.takewhile(lambda folder: not folder.exists(), folders))
        with contextlib.suppress(OSError):  # whoever made the first that exists may have been killed before this
            self._disk.sync_folder(folders[len(missing)].parent)
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._disk.make_folder(folder)
            self._disk.sync_folder(folder.parent)

    def _take_hold(self) -> None:
        try:
            self._take_lock()
            self._remove_temporaries()
            self._disk.sync_folder(self.folder)  # whoever renamed the newest snapshot may have been killed before
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{self.folder} is in use by another process; stop that one first") from error

    def _remove_temporaries(self) -> None:
        for path in self.folder.glob(TEMPORARIES):
            self._remove(path)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # it is in nobody's way, and there will be another occasion
            self._disk.remove(path)

    def _is_usable(self, number: int) -> bool:
        try:
            self._champion_of(self._champion_of(number))
        except FileFormatError:
            return False
        return True

    def _remove_old(self) -> None:
        numbers = self._numbers()
        newest = list(itertools.islice(filter(self._is_usable, numbers), KEPT))
        if len(newest) < KEPT:  # others may be valid after all, as where a disk is out of reach for a moment
            return
        for number in set(numbers) - {*newest, *map(self._champion_of, newest)}:
            self._remove(self.path(number))
            self._champions.pop(number, None)


def _champion_in(metadata: Mapping[str, Any], number: int) -> int:
    """The champion in the metadata of snapshot `number`; ValueError where it is none."""
    champion = metadata.get("champion")
    if type(champion) is not int or not 1 <= champion <= number:
        raise ValueError(f"names {quoted(champion)} as its champion; expected the number of a snapshot up to {number}")
    return champion

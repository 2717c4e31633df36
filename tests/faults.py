"""A disk that fails, and a machine that loses power, at a chosen operation.

What the disk may hold after a power cut:

- Files. A page of 4096 bytes is as it was at the last sync of its file, or as any write since has left it, or torn
  between two of these at a sector of 512 bytes; each page on its own, or all of a file's old, or all new. The file's
  size is that of the last sync or of any moment since; what was never written reads as zeros. A sync that failed
  loses its pages for good: later syncs return without them, until they are written again.
- Folders. What was created, renamed and removed since the last sync of the folder is done or lost: up to a moment, as
  with a journal, or each on its own, as with none. One of them is never half done. Syncing a file does not keep its
  name; a folder that is lost takes all that is in it along.
- The operation in which the power is cut starts and is never completed: of a write or a rename anything may be found,
  after a sync nothing is sure.

Nothing is stronger than POSIX promises, so that ext4 (data=ordered) is one case of it. What was there before the first
operation on it is on the disk. Not modelled: renames between folders, links, bits that rot, sectors that are torn.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgerl.files.disk import Disk

PAGE = 4096
SECTOR = 512
SHORT = -1
"""Given for an error's number: a write or read that is cut short, as the system may, and no error."""

_NEED_NO_ROOM = ("open", "read", "close", "remove", "remove folder")


class PowerCut(BaseException):
    """The machine went off; this process is not there any more and must not touch its disk."""


@dataclass
class _File:
    """What programs see of a file, and what of it may be on the disk."""

    content: bytearray
    sizes: list[int]  # since the last sync, that one's first
    versions: dict[int, list[bytes]] = field(default_factory=dict)  # of pages that are not sure, the synced one first
    dirty: set[int] = field(default_factory=set)  # of these, the pages that the next sync writes

    @classmethod
    def on_disk(cls, content: bytes) -> _File:
        return cls(bytearray(content), [len(content)])

    def page(self, number: int) -> bytes:
        return bytes(self.content[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")

    def resize(self, size: int) -> None:
        if size > len(self.content):
            self.content.extend(bytes(size - len(self.content)))
            self.sizes.append(size)

    def write(self, data: bytes, offset: int) -> None:
        pages = range(offset // PAGE, -(-(offset + len(data)) // PAGE))
        for number in pages:
            self.versions.setdefault(number, [self.page(number)])
        self.resize(offset + len(data))
        self.content[offset : offset + len(data)] = data
        for number in pages:
            self.versions[number].append(self.page(number))
        self.dirty.update(pages)

    def sync(self) -> None:
        for number in self.dirty:
            del self.versions[number]
        self.dirty.clear()
        self.sizes = self.sizes[-1:]

    def survive(self, draw: random.Random) -> bytes:
        """One of the contents that may be on the disk."""
        image, choose = bytearray(self.content), draw.choice((_oldest, _newest, _torn))
        image.extend(bytes(-len(image) % PAGE))
        for number, versions in self.versions.items():
            image[number * PAGE : (number + 1) * PAGE] = choose(versions, draw)
        return bytes(image[: draw.choice(self.sizes)])


def _oldest(versions: list[bytes], _: random.Random) -> bytes:
    return versions[0]


def _newest(versions: list[bytes], _: random.Random) -> bytes:
    return versions[-1]


def _torn(versions: list[bytes], draw: random.Random) -> bytes:
    """One version, or the beginning of one and the end of another."""
    cut = draw.randrange(0, PAGE + 1, SECTOR)
    return draw.choice(versions)[:cut] + draw.choice(versions)[cut:]


_Names = dict[Path, _File | None]
"""What each path is: a file or, None, a folder."""


@dataclass(frozen=True)
class _Change:
    """Of one folder's names: `source` goes, `goal` becomes `content`."""

    folder: Path
    source: Path | None = None
    goal: Path | None = None
    content: _File | None = None

    def apply(self, names: _Names) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.goal is not None:
            names[self.goal] = self.content


_Then = Callable[[], object]


def _nothing() -> None:
    pass


class FaultyDisk(Disk):
    """Real files below a real folder, with a record of what of them has reached the disk. Nothing is really synced.

    Attributes: `operations`, the name of every operation so far: "open", "create", "reserve", "write" (one for
    each call of the system), "read", "sync", "close", "replace", "remove", "make folder", "remove folder", "sync
    folder". The place of one in this list is its number. Threads may share it: one operation follows the other.
    """

    def __init__(self) -> None:
        self.operations: list[str] = []
        self._fault, self._fault_at, self._lasting = 0, -1, False
        self._cut_at, self._draw = -1, random.Random(0)
        self._is_off, self._one_at_a_time = False, threading.RLock()
        self._names: _Names = {}  # as programs see them
        self._on_disk: _Names = {}
        self._changes: list[_Change] = []  # that are not on the disk for sure
        self._ever: set[Path] = set()
        self._files: dict[int, _File] = {}  # by open descriptor

    def fail(self, number: int, code: int, *, lasting: bool = False) -> None:
        """Let operation `number` raise OSError(code), or be SHORT. A write has then written half of its data, a sync
        has lost what it was to keep, nothing else has had any effect; a file is closed all the same.

        lasting: every later operation fails too; with ENOSPC all but those that need no room.
        """
        self._fault, self._fault_at, self._lasting = code, number, lasting

    def power_cut(self, number: int, seed: int) -> None:
        """Cut the power in operation `number`, which raises PowerCut, as does every later one; the seed draws what
        `after_power_cut` leaves."""
        self._cut_at, self._draw = number, random.Random(seed)

    def after_power_cut(self, folder: Path) -> None:
        """Put what is on the disk in place of what programs saw below `folder`. Files that no operation of this disk
        touched stay, unless their folder is lost. Without a power cut before, the power is cut now."""
        self._is_off = True
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()
        found = self._surviving_names()
        for path in sorted(path for path in self._ever if path.is_relative_to(_absolute(folder))):
            self._put(path, found)

    def open(self, path: Path, *, create: bool = False) -> int:
        path = _absolute(path)
        with self._operation("create" if create else "open"):
            if not create:
                self._adopt(path)
            descriptor = super().open(path, create=create)
            if create:
                self._change(_Change(path.parent, goal=path, content=_File.on_disk(b"")))
            self._files[descriptor] = self._file(path)
        return descriptor

    def reserve(self, descriptor: int, size: int) -> None:
        with self._operation("reserve"):
            super().reserve(descriptor, size)
            self._files[descriptor].resize(size)

    def _write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        def write(part: memoryview) -> int:
            self._files[descriptor].write(bytes(part), offset)
            return super(FaultyDisk, self)._write_some(descriptor, part, offset)

        half = data[: -(-len(data) // 2)]
        with self._operation("write", lambda: write(half)) as is_short:
            return write(half if is_short else data)

    def _read_some(self, descriptor: int, memory: memoryview, offset: int) -> int:
        with self._operation("read") as is_short:
            return super()._read_some(descriptor, memory[: -(-len(memory) // 2)] if is_short else memory, offset)

    def sync(self, descriptor: int) -> None:
        def forget() -> None:
            self._files[descriptor].dirty.clear()

        def keep() -> None:
            self._files[descriptor].sync()

        with self._operation("sync", forget, keep):
            pass

    def close(self, descriptor: int) -> None:
        def close() -> None:
            super(FaultyDisk, self).close(descriptor)
            del self._files[descriptor]

        with self._operation("close", close):
            close()

    def replace(self, source: Path, goal: Path) -> None:
        source, goal = _absolute(source), _absolute(goal)
        assert source.parent == goal.parent, "a rename between folders is not modelled"
        with self._operation("replace"):
            self._adopt(source)
            self._adopt(goal)
            super().replace(source, goal)
            self._change(_Change(goal.parent, source, goal, self._file(source)))

    def remove(self, path: Path) -> None:
        path = _absolute(path)
        with self._operation("remove"):
            self._adopt(path)
            super().remove(path)
            self._change(_Change(path.parent, source=path))

    def make_folder(self, path: Path) -> None:
        path = _absolute(path)
        with self._operation("make folder"):
            super().make_folder(path)
            self._change(_Change(path.parent, goal=path))

    def remove_folder(self, path: Path) -> None:
        path = _absolute(path)
        with self._operation("remove folder"):
            super().remove_folder(path)
            self._change(_Change(path.parent, source=path))

    def sync_folder(self, path: Path) -> None:
        path = _absolute(path)

        def keep() -> None:
            for change in self._changes:
                if change.folder == path:
                    change.apply(self._on_disk)
            self._changes = [change for change in self._changes if change.folder != path]

        with self._operation("sync folder", on_success=keep):
            os.stat(path)

    @contextmanager
    def _operation(self, name: str, on_failure: _Then = _nothing, on_success: _Then = _nothing) -> Iterator[bool]:
        """Whether the operation is to be cut short. It raises what was requested: errors instead of the operation, the
        power cut after it and before what comes with its success."""
        with self._one_at_a_time:
            number, fails = self._begin(name, on_failure)
            yield fails
            if number == self._cut_at:
                self._is_off = True
                raise PowerCut
            on_success()

    def _begin(self, name: str, on_failure: _Then) -> tuple[int, bool]:
        if self._is_off:
            raise PowerCut
        number = len(self.operations)
        self.operations.append(name)
        fails = number == self._fault_at or (self._lasting and number > self._fault_at >= 0 and self._needs(name))
        if fails and self._fault != SHORT:
            on_failure()
            raise OSError(self._fault, os.strerror(self._fault))
        return number, fails

    def _needs(self, name: str) -> bool:
        return self._fault != errno.ENOSPC or name not in _NEED_NO_ROOM

    def _adopt(self, path: Path) -> None:
        """Take up a file that was there before."""
        if path not in self._ever and path.is_file():
            self._names[path] = self._on_disk[path] = _File.on_disk(path.read_bytes())
            self._ever.add(path)

    def _file(self, path: Path) -> _File:
        file = self._names[path]
        assert file is not None, f"{path} is a folder"
        return file

    def _change(self, change: _Change) -> None:
        change.apply(self._names)
        self._changes.append(change)
        self._ever |= {path for path in (change.source, change.goal) if path is not None}

    def _surviving_names(self) -> _Names:
        names, count = dict(self._on_disk), len(self._changes)
        if self._draw.random() < 0.5:
            done = [True] * (kept := self._draw.randint(0, count)) + [False] * (count - kept)
        else:
            done = [self._draw.random() < 0.5 for _ in self._changes]
        for change, is_done in zip(self._changes, done, strict=True):
            if is_done:
                change.apply(names)
        return names

    def _put(self, path: Path, found: _Names) -> None:
        if path.is_dir():
            if path not in found:
                shutil.rmtree(path)
            return
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and (file := found.get(path)) is not None:
            path.write_bytes(file.survive(self._draw))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))

"""The few operations on files that survive a power cut, in one place, so that tests can let each of them fail.

What was written is on the disk once `sync` has returned; what was created, renamed or removed, once `sync_folder` of
its folder has. Before that, any part of it may be lost, in any order.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

Bytes = bytes | bytearray | memoryview


class Disk:
    """Files as the operating system has them. Every operation raises OSError where it fails."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """A descriptor to read and write with, as `open_regular` opens it; create: of a new file, which must not exist
        yet."""
        return open_regular(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL) * create)

    def reserve(self, descriptor: int, size: int) -> None:
        """Reserve room for `size` bytes, which must not be 0: a shorter file is extended with zeros."""
        os.posix_fallocate(descriptor, 0, size)

    def write(self, descriptor: int, data: Bytes, offset: int) -> None:
        """Write all of `data` from byte `offset` on; if it fails, any part may have been written."""
        rest = memoryview(data).cast("B")
        while rest:
            written = self._write_some(descriptor, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rest, offset = rest[written:], offset + written

    def _write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        return os.pwrite(descriptor, data, offset)

    def read(self, descriptor: int, memory: bytearray | memoryview, offset: int) -> int:
        """Fill writable memory from byte `offset` on; the number of bytes read, fewer only at the file's end."""
        rest, position = memoryview(memory).cast("B"), offset
        while rest and (count := self._read_some(descriptor, rest, position)):
            rest, position = rest[count:], position + count
        return position - offset

    def _read_some(self, descriptor: int, memory: memoryview, offset: int) -> int:
        return os.preadv(descriptor, [memory], offset)

    def sync(self, descriptor: int) -> None:
        """Return once all that was written to the file is on the disk. If it fails, the file must be given up: a later
        sync may succeed without what this one has lost."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor, even where this raises."""
        os.close(descriptor)

    def replace(self, source: Path, goal: Path) -> None:
        """Rename a file inside its folder, over the file of that name if there is one."""
        source.replace(goal)

    def rename_to_new(self, source: Path, goal: Path) -> None:
        """Rename a file inside its folder; FileExistsError where there is one of that name."""
        try:
            os.link(source, goal)
        except FileExistsError:
            raise
        except OSError:  # a disk without links: a file of that name made right now would be lost
            if os.path.lexists(goal):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), goal) from None
            source.replace(goal)
        else:
            source.unlink()

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def make_folder(self, path: Path) -> None:
        """Make a folder in one that exists."""
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Return once every name made, renamed or removed in the folder is on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_regular(path: Path | str, flags: int) -> int:
    """A descriptor of a regular file: a link is not followed, and a pipe does not block. Raises OSError."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # less the umask
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{Path(path).name} is a link, and links are not followed here") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{Path(path).name} is not a regular file")
    return descriptor


DISK = Disk()
"""The default."""

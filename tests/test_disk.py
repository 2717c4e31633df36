"""The operations on real files; and that the disk of the other tests fails and forgets as its model says."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerl.files.disk import Disk
from tests.faults import PAGE, SECTOR, SHORT, FaultyDisk, PowerCut


class _ReluctantDisk(Disk):
    """Takes and gives at most `most` bytes at once."""

    def __init__(self, most: int) -> None:
        self.most = most

    def _write_some(self, descriptor: int, data: memoryview, offset: int) -> int:
        return super()._write_some(descriptor, data[: self.most], offset)

    def _read_some(self, descriptor: int, memory: memoryview, offset: int) -> int:
        return super()._read_some(descriptor, memory[: self.most], offset)


@pytest.mark.parametrize("disk", [Disk(), _ReluctantDisk(1), _ReluctantDisk(7), FaultyDisk()])
def test_what_is_written_is_read(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    descriptor = disk.open(path, create=True)
    for data, offset in ((b"0123456789", 0), (bytearray(b"abc"), 4), (memoryview(b"end"), 12), (b"", 99)):
        disk.write(descriptor, data, offset)
    disk.sync(descriptor)
    assert path.read_bytes() == b"0123abc789\0\0end"
    for offset, length, expected in ((0, 4, b"0123"), (10, 5, b"\0\0end"), (13, 5, b"nd"), (15, 1, b""), (0, 0, b"")):
        memory = bytearray(length)
        assert disk.read(descriptor, memory, offset) == len(expected)
        assert memory[: len(expected)] == expected
    disk.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_disk_that_takes_nothing_is_broken(tmp_path: Path) -> None:
    disk = _ReluctantDisk(0)
    descriptor = disk.open(tmp_path / "file", create=True)
    disk.write(descriptor, b"", 0)
    with pytest.raises(OSError, match="Input/output error"):
        disk.write(descriptor, b"x", 0)
    disk.close(descriptor)


def test_a_disk_without_links_renames_to_a_new_name_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    source, goal = tmp_path / "source", tmp_path / "goal"
    source.write_text("new")
    Disk().rename_to_new(source, goal)
    assert (source.exists(), goal.read_text()) == (False, "new")
    source.write_text("newer")
    with pytest.raises(FileExistsError, match="goal"):
        Disk().rename_to_new(source, goal)
    assert (source.read_text(), goal.read_text()) == ("newer", "new")


def test_files_are_created_once_and_are_not_inherited(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="file"):
        disk.open(path)
    before = os.umask(0o027)
    try:
        created = disk.open(path, create=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(FileExistsError, match="file"):
        disk.open(path, create=True)
    opened = disk.open(path)
    assert not os.get_inheritable(created)
    assert not os.get_inheritable(opened)
    disk.reserve(opened, 5000)
    disk.write(opened, b"x", 0)
    disk.reserve(opened, 10)
    assert path.read_bytes() == b"x".ljust(5000, b"\0")
    for descriptor in (created, opened):
        disk.close(descriptor)


def test_names_and_folders(tmp_path: Path) -> None:
    disk, folder = Disk(), tmp_path / "folder"
    disk.make_folder(folder)
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    disk.replace(folder / "a", folder / "b")
    disk.sync_folder(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"b": b"a"}
    disk.remove(folder / "b")
    assert list(folder.iterdir()) == []
    failing: list[Callable[[], object]] = [
        lambda: disk.replace(folder / "a", folder / "b"),
        lambda: disk.remove(folder / "a"),
        lambda: disk.sync_folder(folder / "a"),
        lambda: disk.make_folder(folder / "a" / "b"),
    ]
    for operation in failing:
        with pytest.raises(FileNotFoundError, match="folder/a"):
            operation()
    with pytest.raises(FileExistsError, match="folder"):
        disk.make_folder(folder)


# The disk that fails.


def _write_file(disk: Disk, path: Path, data: bytes) -> None:
    descriptor = disk.open(path, create=True)
    try:
        disk.write(descriptor, data, 0)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    disk.sync_folder(path.parent)


def test_each_operation_can_fail(tmp_path: Path) -> None:
    names = ["create", "write", "sync", "close", "sync folder"]
    for number, name in enumerate(names):
        disk = FaultyDisk()
        disk.fail(number, errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            _write_file(disk, tmp_path / name, b"abc")
        assert disk.operations[number] == name
        written = None if name == "create" else b"ab" if name == "write" else b"abc"
        assert ((tmp_path / name).read_bytes() if (tmp_path / name).exists() else None) == written


def test_short_calls_are_gone_on_with(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.fail(1, SHORT)
    _write_file(disk, tmp_path / "file", b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert disk.operations == ["create", "write", "write", "sync", "close", "sync folder"]


def test_a_full_disk_stays_full_but_lets_files_go(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.fail(1, errno.ENOSPC, lasting=True)
    for name in ("a", "b"):
        with pytest.raises(OSError, match="No space left"):
            _write_file(disk, tmp_path / name, b"abc")
    disk.close(disk.open(tmp_path / "a"))
    disk.remove(tmp_path / "a")
    with pytest.raises(OSError, match="No space left"):
        disk.make_folder(tmp_path / "folder")


# The power cut. `_outcomes` are the contents of a folder that may be found, over many seeds.


Files = tuple[tuple[str, bytes], ...]


def _outcomes(folder: Path, write: Callable[[Disk], None], cut: int, seeds: int = 60) -> set[Files]:
    found = set()
    for seed in range(seeds):
        inner = folder / str(seed)
        inner.mkdir()
        os.chdir(inner)
        disk = FaultyDisk()
        disk.power_cut(cut, seed)
        with contextlib.suppress(PowerCut):
            write(disk)
        disk.after_power_cut(inner)
        files = (path for path in inner.rglob("*") if path.is_file())
        found.add(tuple(sorted((str(path.relative_to(inner)), path.read_bytes()) for path in files)))
    return found


NEVER = 1 << 30
FILE = Path("file")


def test_what_is_synced_with_its_folder_survives(tmp_path: Path) -> None:
    assert _outcomes(tmp_path, lambda disk: _write_file(disk, FILE, b"abc"), NEVER) == {(("file", b"abc"),)}


def test_a_sync_that_is_cut_keeps_nothing_for_sure(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, lambda disk: _write_file(disk, FILE, b"abc"), 2)
    assert found == {(), *((("file", content),) for content in (b"", b"\0\0\0", b"abc"))}


def test_a_name_that_is_not_synced_may_be_lost_although_its_file_is_synced(tmp_path: Path) -> None:
    assert _outcomes(tmp_path, lambda disk: _write_file(disk, FILE, b"abc"), 4) == {(), (("file", b"abc"),)}


def _overwrite(disk: Disk, *contents: bytes) -> None:
    """A synced file of two pages of `a`, and further contents without a sync."""
    _write_file(disk, FILE, b"a" * 2 * PAGE)
    descriptor = disk.open(FILE)
    for content in contents:
        disk.write(descriptor, content, 0)


def test_pages_are_old_or_new_or_torn_at_a_sector(tmp_path: Path) -> None:
    outcomes = _outcomes(tmp_path, lambda disk: _overwrite(disk, b"b" * 2 * PAGE), NEVER, seeds=200)
    found = {files[0][1] for files in outcomes}
    assert {b"a" * 2 * PAGE, b"b" * 2 * PAGE, b"a" * PAGE + b"b" * PAGE, b"b" * PAGE + b"a" * PAGE} < found
    assert b"a" * SECTOR + b"b" * (PAGE - SECTOR) in {content[:PAGE] for content in found}
    assert {content[i * SECTOR : (i + 1) * SECTOR] for content in found for i in range(16)} == {
        b"a" * SECTOR,
        b"b" * SECTOR,
    }


def test_a_page_may_be_as_any_write_since_the_sync_left_it(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, lambda disk: _overwrite(disk, b"b" * PAGE, b"c" * PAGE), NEVER)
    pages = {files[0][1][:PAGE] for files in found}
    assert {letter * PAGE for letter in (b"a", b"b", b"c")} < pages
    assert {files[0][1][PAGE:] for files in found} == {b"a" * PAGE}


def test_the_size_may_be_new_where_the_content_is_not(tmp_path: Path) -> None:
    def append(disk: Disk) -> None:
        _write_file(disk, FILE, b"abc")
        disk.write(disk.open(FILE), b"def", 3)

    found = {files[0][1] for files in _outcomes(tmp_path, append, NEVER)}
    assert found == {b"abc", b"abc\0\0\0", b"abcdef"}


def test_reserved_room_is_not_sure_before_it_is_synced(tmp_path: Path) -> None:
    def reserve(disk: Disk, *, sync: bool) -> None:
        _write_file(disk, FILE, b"abc")
        descriptor = disk.open(FILE)
        disk.reserve(descriptor, 10)
        if sync:
            disk.sync(descriptor)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert {files[0][1] for files in _outcomes(tmp_path / "a", lambda disk: reserve(disk, sync=False), NEVER)} == {
        b"abc",
        b"abc".ljust(10, b"\0"),
    }
    assert {files[0][1] for files in _outcomes(tmp_path / "b", lambda disk: reserve(disk, sync=True), NEVER)} == {
        b"abc".ljust(10, b"\0")
    }


def test_a_sync_that_failed_has_lost_what_a_later_one_does_not_bring_back(tmp_path: Path) -> None:
    def sync_twice(disk: Disk) -> None:
        _overwrite(disk, b"b" * 2 * PAGE)
        assert isinstance(disk, FaultyDisk)
        descriptor = disk.open(FILE)
        disk.fail(len(disk.operations), errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            disk.sync(descriptor)
        disk.write(descriptor, b"c" * PAGE, 0)
        disk.sync(descriptor)

    found = {files[0][1] for files in _outcomes(tmp_path, sync_twice, NEVER)}
    assert {content[:PAGE] for content in found} == {b"c" * PAGE}
    assert {b"a" * PAGE, b"b" * PAGE} < {content[PAGE:] for content in found}


def test_renames_and_removals_are_done_or_lost_in_any_order(tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        for name in ("a", "b", "c"):
            _write_file(disk, Path(name), name.encode())
        disk.replace(Path("a"), Path("b"))
        disk.remove(Path("c"))

    kept = (("c", b"c"),)
    assert _outcomes(tmp_path, change, NEVER) == {
        (("a", b"a"), ("b", b"b"), *kept),
        (("b", b"a"), *kept),
        (("a", b"a"), ("b", b"b")),
        (("b", b"a"),),
    }


def test_files_that_were_there_before_are_on_the_disk(tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        for name in ("a", "b", "untouched"):
            Path(name).write_bytes(name.encode())
        disk.replace(Path("a"), Path("b"))

    left = (("untouched", b"untouched"),)
    assert _outcomes(tmp_path, change, NEVER) == {(("a", b"a"), ("b", b"b"), *left), (("b", b"a"), *left)}


@pytest.mark.parametrize("synced", [False, True])
def test_a_lost_folder_takes_everything_along(synced: bool, tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        disk.make_folder(Path("folder"))
        if synced:
            disk.sync_folder(Path())
        (Path("folder") / "untouched").write_bytes(b"")
        _write_file(disk, Path("folder") / "file", b"abc")

    whole = (("folder/file", b"abc"), ("folder/untouched", b""))
    assert _outcomes(tmp_path, change, NEVER) == ({whole} if synced else {whole, ()})


def test_nothing_reaches_a_disk_without_power(tmp_path: Path) -> None:
    disk, path = FaultyDisk(), tmp_path / "file"
    _write_file(disk, path, b"abc")
    descriptor = disk.open(path)
    disk.power_cut(len(disk.operations), 0)
    operations: list[Callable[[], object]] = [
        lambda: disk.sync(descriptor),
        lambda: disk.write(descriptor, b"xyz", 0),
        lambda: disk.read(descriptor, bytearray(3), 0),
        lambda: disk.remove(path),
        lambda: disk.close(descriptor),
    ]
    for operation in operations:
        with pytest.raises(PowerCut, match=r"^$"):
            operation()
    disk.after_power_cut(tmp_path)
    assert path.read_bytes() == b"abc"
    for operation in operations:
        with pytest.raises(PowerCut, match=r"^$"):
            operation()
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("skipped", "broken"), [(None, False), ("sync", True), ("replace", True), ("sync_folder", True)]
)
def test_a_writer_that_skips_a_step_is_caught(skipped: str | None, broken: bool, tmp_path: Path) -> None:
    """The old content or the new one, and the new one after the last step: only the whole protocol keeps this."""

    def write(disk: Disk) -> None:
        _write_file(disk, FILE, b"a" * 2 * PAGE)
        temporary = FILE if skipped == "replace" else Path("temporary")
        descriptor = disk.open(temporary, create=skipped != "replace")
        disk.write(descriptor, b"b" * 2 * PAGE, 0)
        if skipped != "sync":
            disk.sync(descriptor)
        disk.close(descriptor)
        if skipped != "replace":
            disk.replace(temporary, FILE)
        if skipped != "sync_folder":
            disk.sync_folder(Path())

    old, new = b"a" * 2 * PAGE, b"b" * 2 * PAGE
    violations = 0
    for cut in (*range(5, 11), NEVER):
        (folder := tmp_path / str(cut)).mkdir()
        found = {dict(files)["file"] for files in _outcomes(folder, write, cut, seeds=30)}
        violations += not found <= ({new} if cut == NEVER else {old, new})
    assert (violations > 0) == broken

"""Snapshots under power cuts at every operation, failing disks, altered files, and a second process."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.continual.store import KEPT_REJECTED, Store
from edgerl.errors import FileFormatError, OutputError
from edgerl.files.tensors import TensorReader, pack_tensors
from tests.faults import SHORT, FaultyDisk, PowerCut

FOLDER = Path("deep", "store")
SEEDS = range(10)
CHAMPIONS = [1, 1, 1, 4, 4, 5, 7]
"""Of the snapshots that the tests write, one after the other: older ones, the one before, themselves."""

MAXIMUM_OPERATIONS = 150


def _tensors(number: int) -> dict[str, Any]:
    """Three pages and a bit."""
    return {"state": np.random.default_rng(number).integers(256, size=9000 + number % 1000).astype(np.uint8)}


def _write(store: Store, champion: int) -> int:
    number = store.next_number
    assert store.write({"champion": champion, "step": 10 * number}, _tensors(number)) == number
    return number


@contextmanager
def _store(disk: FaultyDisk | None = None) -> Iterator[Store]:
    with closing(Store(FOLDER, FaultyDisk() if disk is None else disk)) as store:
        yield store


def _fill(champions: list[int] = CHAMPIONS) -> None:
    with _store() as store:
        for champion in champions:
            _write(store, champion)


def _names() -> list[str]:
    return sorted(os.listdir(FOLDER))


def _found(kind: str = "snapshot-") -> list[int]:
    return sorted(int(name[9:-12]) for name in _names() if name.startswith(kind))


def _rejected() -> list[str]:
    """Names of files as they were before they were set aside, the first that was first."""
    return [name.split("-", 2)[2] for name in _names() if name.startswith("rejected-")]


def _check_content(number: int, reader: TensorReader) -> None:
    assert reader.metadata["step"] == 10 * number
    assert reader.read("state").tobytes() == _tensors(number)["state"].tobytes()


def _newest(store: Store) -> int:
    """The number of the newest snapshot, 0 for none; it and its champion hold what they must."""
    found = store.newest()
    if found is None:
        return 0
    with found[1] as reader, store.open(reader.metadata["champion"]) as champion:
        _check_content(found[0], reader)
        _check_content(reader.metadata["champion"], champion)
    return found[0]


def _path(number: int) -> Path:
    return FOLDER / f"snapshot-{number:08d}.safetensors"


def _copy(number: int) -> Path:
    return FOLDER / f"champion-{number:08d}.safetensors"


# What is kept.


def test_an_empty_store() -> None:
    with _store() as store:
        assert store.newest() is None
        assert (store.rejected, store.next_number, _names()) == ([], 1, ["lock"])


def test_the_newest_two_are_kept_and_their_champions_twice() -> None:
    kept = [[1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [4, 5, 6], [5, 6, 7]]
    twice = [[1], [1], [1], [1, 4], [4], [4, 5], [5, 7]]
    with _store() as store:
        for number, (champion, expected, copies) in enumerate(zip(CHAMPIONS, kept, twice, strict=True), 1):
            assert _write(store, champion) == number
            assert (_found(), _found("champion-")) == (expected, copies)
            for copied in copies:
                assert _copy(copied).read_bytes() == _path(copied).read_bytes()
            assert _newest(store) == number
            assert store.rejected == []
    assert _names() == sorted(["lock", *(_path(n).name for n in (5, 6, 7)), *(_copy(n).name for n in (5, 7))])


def test_a_store_that_is_opened_again_goes_on() -> None:
    for number, champion in enumerate(CHAMPIONS, 1):
        with _store() as store:
            assert store.next_number == number
            _write(store, champion)
    assert _found() == [5, 6, 7]
    with _store() as store:
        assert _newest(store) == 7
        with store.open(5) as reader:
            _check_content(5, reader)
        with pytest.raises(FileFormatError, match=r"snapshot-00000004\.safetensors is not there; expected a file"):
            store.open(4)


def test_the_same_snapshot_has_the_same_bytes() -> None:
    _fill([1])
    expected = pack_tensors("snapshot", 1, {"champion": 1, "step": 10}, _tensors(1))
    assert _path(1).read_bytes() == expected


def test_a_number_is_never_used_again() -> None:
    _fill([1, 1, 1])
    for path in (_path(41), _path(123_456_789)):
        path.write_bytes(b"garbage")
        with _store() as store:
            assert store.next_number == int(path.name[9:-12]) + 1
    others = {"snapshot-1.safetensors", "snapshot-0999999999.safetensors", "old-snapshot-99999999.safetensors"}
    for name in others:
        (FOLDER / name).write_bytes(b"garbage")
    with _store() as store:
        assert _newest(store) == 3
        assert _write(store, 1) == 123_456_790
    assert _rejected() == ["snapshot-123456789.safetensors", "snapshot-00000041.safetensors"]
    rest = {name for name in _names() if not name.startswith("rejected-")}
    assert rest == {"lock", *others, _copy(1).name, *(_path(number).name for number in (1, 3, 123_456_790))}


def test_files_that_are_not_valid_are_set_aside_by_the_next_write() -> None:
    _fill([1, 1])
    damaged = [_path(2), _path(1), _copy(1)]
    for path in damaged:
        os.truncate(path, 5000)
    with _store() as store:
        assert store.newest() is None
        assert _rejected() == []
        _write(store, 3)
        assert (_found(), _found("champion-")) == ([3], [3])
        _write(store, 3)
        assert _found() == [3, 4]
    assert _rejected() == [path.name for path in damaged]
    for path in FOLDER.glob("rejected-*"):
        assert path.stat().st_size == 5000, "not a byte of it is lost"


def test_a_champion_that_is_not_there_is_not_written_against() -> None:
    with _store() as store:
        _write(store, 1)
        _write(store, 2)
        _write(store, 3)
        problem = r"^cannot write: \S+04\S+ is useless without its champion: \S+01\.safetensors is not there; exp"
        with pytest.raises(OutputError, match=problem):
            _write(store, 1)
        for metadata in ({}, {"champion": 5}, {"champion": True}, {"champion": 0}, {"champion": "1"}):
            with pytest.raises(ValueError, match=r"as its champion; expected the number of a snapshot up to 4"):
                store.write(metadata, {})
        assert _found() == [2, 3]
        _path(3).unlink()
        _copy(3).unlink()
        with pytest.raises(OutputError, match=r"is useless without its champion: \S+03\.safetensors is not there"):
            _write(store, 3)


# Power cuts.


def _scenario(disk: FaultyDisk, returned: list[int]) -> None:
    with _store(disk) as store:
        for champion in CHAMPIONS:
            returned += [_write(store, champion)]


def _run_until_cut(folder: Path, cut: int, seed: int) -> list[int]:
    """The numbers of the snapshots whose write returned before the cut."""
    folder.mkdir()
    os.chdir(folder)
    disk, returned = FaultyDisk(), list[int]()
    disk.power_cut(cut, seed)
    with contextlib.suppress(PowerCut):
        _scenario(disk, returned)
    disk.after_power_cut(folder)
    return returned


def _operations(folder: Path) -> list[str]:
    folder.mkdir()
    os.chdir(folder)
    disk = FaultyDisk()
    _scenario(disk, [])
    assert len(disk.operations) < MAXIMUM_OPERATIONS
    return disk.operations


def _check_recovered(returned: list[int]) -> None:
    """The store comes up, with no less than it promised, and goes on."""
    with _store() as store:
        newest = _newest(store)
        assert newest >= max(returned, default=0)
        assert store.rejected == []
        assert not [name for name in _names() if name.endswith(".tmp")]
        if newest:
            assert _write(store, newest) > newest
        else:
            _write(store, 1)
        assert _newest(store) == store.next_number - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_power_cut_at_any_operation_loses_no_snapshot_that_was_written(seed: int, tmp_path: Path) -> None:
    operations = _operations(tmp_path / "whole")
    for cut in range(len(operations) + 1):
        returned = _run_until_cut(tmp_path / str(cut), cut, seed)
        _check_recovered(returned)
    assert returned == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_second_power_cut_while_the_first_is_recovered_from(seed: int, tmp_path: Path) -> None:
    for first in range(0, len(_operations(tmp_path / "whole")), 7):
        for second in range(16):
            returned = _run_until_cut(tmp_path / f"{first}-{second}", first, seed)
            disk = FaultyDisk()
            disk.power_cut(second, seed)
            with contextlib.suppress(PowerCut), _store(disk) as store:
                newest = _newest(store)
                returned.append(_write(store, newest or 1))
            disk.after_power_cut(Path.cwd())
            _check_recovered(returned)


def test_a_process_that_is_killed_between_two_syncs_of_a_new_folder_harms_nobody(tmp_path: Path) -> None:
    """The folder is there, made by someone who had no time to sync it; then a snapshot is written and the power cut."""
    for seed in SEEDS:
        (folder := tmp_path / str(seed)).mkdir()
        os.chdir(folder)
        disk = FaultyDisk()
        disk.make_folder(Path("deep"))
        with _store(disk) as store:
            _write(store, 1)
        disk.after_power_cut(folder)
        _check_recovered([1])


def test_a_snapshot_that_was_found_is_still_there_after_a_power_cut(tmp_path: Path) -> None:
    """It may have been left by a process that was killed before it could sync the name."""
    for seed in SEEDS:
        (folder := tmp_path / str(seed)).mkdir()
        os.chdir(folder)
        disk = FaultyDisk()
        with _store(disk) as store:
            _write(store, 1)
            disk.fail(len(disk.operations) + 6, errno.EIO)
            with pytest.raises(OutputError, match="Input/output error"):
                _write(store, 2)
            assert disk.operations[-1] == "sync folder"
        with _store(disk) as store:
            assert _newest(store) == 2
        disk.after_power_cut(folder)
        _check_recovered([1, 2])


# Disks that fail.


def _problem_in_scenario(disk: FaultyDisk, returned: list[int]) -> str:
    try:
        _scenario(disk, returned)
    except OutputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, SHORT])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_failing_operation_leaves_older_snapshots_and_no_temporary(lasting: bool, code: int, tmp_path: Path) -> None:
    operations = _operations(tmp_path / "whole")
    for number in range(len(operations)):
        (folder := tmp_path / str(number)).mkdir()
        os.chdir(folder)
        disk, returned = FaultyDisk(), list[int]()
        disk.fail(number, code, lasting=lasting)
        problem = _problem_in_scenario(disk, returned)
        if problem:
            assert re.search(rf"^cannot [^\n]+: {re.escape(os.strerror(code))}[^\n]*$", problem)
            assert code != SHORT
            assert lasting or operations[number] != "remove"
        else:  # it was not needed: an old file is removed by the next write, a champion's second one made
            assert returned == [1, 2, 3, 4, 5, 6, 7]
        if FOLDER.exists() and (not lasting or code == errno.ENOSPC):  # the temporary could be removed
            assert not [name for name in _names() if name.endswith(".tmp")]
        _check_recovered(returned)


def test_a_store_goes_on_after_a_disk_that_was_full() -> None:
    disk = FaultyDisk()
    with _store(disk) as store:
        for champion in CHAMPIONS[:3]:
            _write(store, champion)
        disk.fail(len(disk.operations), errno.ENOSPC, lasting=True)
        for _ in range(3):
            with pytest.raises(OutputError, match=r"^cannot write \S+snapshot-00000004\.safetensors: No space left on"):
                _write(store, 1)
            assert (_found(), _newest(store)) == ([1, 2, 3], 3)
        disk.fail(0, 0)
        assert _write(store, 4) == 4


def test_an_old_snapshot_that_cannot_be_removed_goes_later() -> None:
    disk = FaultyDisk()
    with _store(disk) as store:
        _write(store, 1)
        _write(store, 2)
        disk.fail(remove := len(disk.operations) + 6 + 1, errno.EIO)
        _write(store, 3)
        assert disk.operations[remove] == "remove", "and after it a copy is made"
        assert (_found(), _found("champion-")) == ([2, 3], [1, 2, 3])
        _write(store, 4)
        assert (_found(), _found("champion-")) == ([3, 4], [3, 4])


def test_folders_that_cannot_be_used() -> None:
    Path("file").write_bytes(b"")
    for folder in (Path("file"), Path("file", "store"), Path("a" * 300)):
        with pytest.raises(OutputError, match=r"^cannot use the folder \S+: [^\n]+; choose a writable one$"):
            Store(folder)
    with _store() as store:
        for path in FOLDER.iterdir():
            path.unlink()
        FOLDER.rmdir()
        with pytest.raises(OutputError, match=r"^cannot read the folder deep/store: No such file or directory$"):
            store.newest()


# Files that were altered.


def _refused(problem: str, newest: int = 0) -> None:
    with _store() as store:
        assert _newest(store) == newest
        assert len(store.rejected) == 1 if newest else store.rejected
        for line in store.rejected:
            assert "\n" not in line
        assert problem in store.rejected[0]


def test_a_snapshot_that_was_altered_is_passed_over_and_said() -> None:
    _fill([1, 1, 1])
    data = _path(3).read_bytes()
    for position in (*range(0, 400, 3), 2000, *range(4096, len(data), 500)):
        for bit in (0, 4, 7):
            altered = bytearray(data)
            altered[position] ^= 1 << bit
            _path(3).write_bytes(altered)
            _refused("snapshot-00000003.safetensors ", 2)
    for length in (0, 7, 8, 4095, 4096, 9000, len(data) - 1):
        _path(3).write_bytes(data[:length])
        _refused("snapshot-00000003.safetensors ", 2)
    _path(3).write_bytes(data)
    with _store() as store:
        assert _newest(store) == 3


def test_a_snapshot_without_its_champion_is_passed_over() -> None:
    _fill([1, 1, 3, 3, 3])  # 3, 4 and 5 are there
    _path(3).rename("champion")
    _copy(3).unlink()
    with _store() as store:
        assert store.newest() is None
        assert [line.partition(" is useless without its champion: ")[2] for line in store.rejected] == [
            f"{_path(3)} is not there; expected a file"
        ] * 2
        number, reader = store.newest_orphan() or (0, None)
        assert number == 5
        assert reader is not None
        with reader:
            _check_content(5, reader)
    Path("champion").rename(_path(3))
    with _store() as store:
        assert _newest(store) == 5
        assert store.newest_orphan() is None


DAMAGE: dict[str, Callable[[Path], object]] = {
    "altered": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
    "cut": lambda path: os.truncate(path, 5000),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", [_path, _copy])
def test_a_champion_of_which_one_file_is_damaged_is_whole_and_is_made_twice_again(
    file: Callable[[int], Path], damage: Callable[[Path], object]
) -> None:
    _fill([1, 1, 3, 3, 3])  # 3, 4 and 5 are there, which count on 3
    whole = _path(3).read_bytes()
    damage(file(3))
    is_there = file(3).exists()
    with _store() as store:
        assert _newest(store) == 5
        assert [line.split()[0] for line in store.rejected] == [str(file(3))] * is_there
        _write(store, 3)
        assert (_found(), _found("champion-")) == ([3, 5, 6], [3])
        assert _path(3).read_bytes() == _copy(3).read_bytes() == whole
    assert _rejected() == [file(3).name] * is_there
    with _store() as store:
        assert (_newest(store), store.rejected) == (6, [])


@pytest.mark.parametrize("damaged", [_path(3), _copy(3), _path(5)])
def test_a_start_mends_what_it_can(damaged: Path) -> None:
    """So that damage that comes later finds all in order; and the number of what was set aside is not used again."""
    _fill([1, 1, 3, 3, 3])  # 3, 4 and 5 are there, which count on 3
    whole = _path(3).read_bytes()
    os.truncate(damaged, 100)
    with _store() as store:
        number = _newest(store)
        assert number == (4 if damaged == _path(5) else 5)
        store.mend(number)
        assert _rejected() == [damaged.name]
        assert _path(3).read_bytes() == _copy(3).read_bytes() == whole
        assert store.next_number == 6
    with _store() as store:
        assert (_newest(store), store.rejected, store.next_number) == (number, [], 6)


def test_a_champion_that_is_damaged_while_a_store_has_it() -> None:
    with _store() as store:
        _write(store, 1)
        os.truncate(_path(1), 100)
        _write(store, 1)
        with store.open(1) as reader:
            _check_content(1, reader)
        assert _path(1).stat().st_size == 100, "what is not read need not be whole"
    with _store() as store:
        assert _newest(store) == 2
        _write(store, 1)
        assert _path(1).read_bytes() == _copy(1).read_bytes()
    assert _rejected() == [_path(1).name]


def test_a_file_that_cannot_be_read_for_a_moment_is_not_set_aside() -> None:
    disk = FaultyDisk()
    with _store(disk) as store:
        disk.fail(len(disk.operations) + 7, errno.EIO)
        _write(store, 1)
        assert (disk.operations[-1], _found("champion-")) == ("read", [])
        for number in (2, 3):
            assert _write(store, 1) == number
        assert (_found(), _found("champion-"), _rejected()) == ([1, 2, 3], [1], [])


def test_a_copy_that_could_not_be_made_is_made_by_the_next_write() -> None:
    disk = FaultyDisk()
    with _store(disk) as store:
        disk.fail(len(disk.operations) + 6 + 4, errno.ENOSPC)
        assert _write(store, 1) == 1
        assert disk.operations[-1] == "create"
        assert _found("champion-") == []
        _write(store, 1)
        assert _found("champion-") == [1]


def test_an_orphan_gets_another_champion_in_place_of_the_one_that_is_lost() -> None:
    _fill([1, 1, 3, 3, 3])
    for path in (_path(3), _copy(3)):
        os.truncate(path, 100)
    with _store() as store:
        assert store.newest() is None
        store.replace_champion({"champion": 99, "step": 30}, _tensors(3))
        assert _newest(store) == 5
        assert _write(store, 3) == 6
        assert (_found(), _found("champion-")) == ([3, 5, 6], [3])
    assert _rejected() == [_path(3).name, _copy(3).name]


def test_a_few_of_what_was_set_aside_stay() -> None:
    _fill([1])
    damaged = list(range(2, 30, 2))
    for number in damaged:
        _path(number).write_bytes(b"%d" % number)
        with _store() as store:
            assert _newest(store) == number - 1
            assert _write(store, 1) == number + 1
    assert _rejected() == [_path(number).name for number in damaged[-KEPT_REJECTED:]]
    assert [path.read_bytes() for path in FOLDER.glob("rejected-*28.safetensors")] == [b"28"]


def test_the_newest_whose_champion_is_whole_is_found() -> None:
    _fill(CHAMPIONS)  # 5, 6 and 7 are there; 6 counts on 5, 7 on itself
    os.truncate(_path(7), 100)
    with _store() as store:
        assert _newest(store) == 7, "its champion is itself, and there twice"
    os.truncate(_copy(7), 100)
    with _store() as store:
        assert _newest(store) == 6
    for path in (_path(5), _copy(5)):
        os.truncate(path, 100)
    with _store() as store:
        assert store.newest() is None
        assert len(store.rejected) == 5


def test_other_things_with_a_snapshots_name() -> None:
    _fill([1, 1, 1])
    _path(4).mkdir()
    os.mkfifo(_path(5))
    _path(6).symlink_to("nowhere")
    _path(7).write_bytes(pack_tensors("checkpoint", 1, {"champion": 1}, {}))
    _path(8).write_bytes(pack_tensors("snapshot", 3, {"champion": 1}, {}))
    _path(0).write_bytes(pack_tensors("snapshot", 1, {"champion": 0}, {}))
    with _store() as store:
        assert _newest(store) == 3
        problems = ["format version 3", "holds 'checkpoint'", "link to nothing", "not a regular file", "is a folder"]
        for line, problem in zip(store.rejected, problems, strict=True):
            assert problem in line
        assert _write(store, 3) == 9
        assert _found() == [1, 3, 4, 5, 6, 9], "what is not a file is not ours"
        assert _rejected() == [_path(number).name for number in (8, 7, 0)][:2]


@pytest.mark.parametrize("name", ["lock", "snapshot-00000003.safetensors", "champion-00000003.safetensors"])
def test_no_link_is_followed(name: str) -> None:
    """But for the folder itself, which may be one."""
    _fill([1, 1, 3])
    FOLDER.rename("elsewhere")
    FOLDER.symlink_to(Path("elsewhere").absolute())
    with _store() as store:
        assert _newest(store) == 3
    target = Path("target")
    (FOLDER / name).rename(target)
    (FOLDER / name).symlink_to(target.absolute())
    content = target.read_bytes()
    if name == "lock":
        with pytest.raises(OutputError, match=r"^cannot use the folder deep/store: lock is a link, and links are"):
            Store(FOLDER)
        return
    with _store() as store:
        assert _newest(store) == 3
        assert [line for line in store.rejected if f"cannot read {FOLDER / name}: {name} is a link, and" in line]
        for _ in range(4):
            _write(store, store.next_number)
    assert (FOLDER / name).is_symlink()
    assert target.read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_refused(make: Callable[[Path], object]) -> None:
    FOLDER.mkdir(parents=True)
    make(FOLDER / "lock")
    with pytest.raises(OutputError, match=r"^cannot use the folder deep/store: (Is a directory|lock is not a regular)"):
        Store(FOLDER)
    assert _names() == ["lock"]


@pytest.mark.parametrize("champion", [None, True, 0, -1, 5, 10**30, 1.0, "1", [1], {}])
def test_hostile_champions(champion: Any) -> None:
    _fill([1, 1, 1])
    metadata = {} if champion is None else {"champion": champion}
    _path(4).write_bytes(pack_tensors("snapshot", 1, metadata, {}))
    problem = r"04\.safetensors names .* as its champion; expected the number of a snapshot up to 4$"
    with _store() as store:
        with pytest.raises(FileFormatError, match=problem):
            store.open(4)
        assert _newest(store) == 3
        assert len(store.rejected) == 1


def test_what_a_killed_process_left_is_removed() -> None:
    _fill([1])
    (FOLDER / ".edgerl-0123abcd.tmp").write_bytes(b"part")
    (FOLDER / "other.tmp").write_bytes(b"not ours")
    _fill([1])
    assert _names() == [_copy(1).name, "lock", "other.tmp", *(_path(number).name for number in (1, 2))]


# Processes.


def test_one_store_at_a_time_has_the_folder() -> None:
    with _store():
        with pytest.raises(OutputError, match=r"^deep/store is in use by another process; stop that one first$"):
            Store(FOLDER)
        (FOLDER / ".edgerl-0123abcd.tmp").write_bytes(b"being written")
        with pytest.raises(OutputError, match=r"in use"):
            Store(FOLDER)
        assert (FOLDER / ".edgerl-0123abcd.tmp").exists()
    Store(FOLDER).close()


_WRITER = """
import sys
from pathlib import Path
import numpy as np
from edgerl.edge.continual.store import KEPT_REJECTED, Store

store = Store(Path("deep", "store"))
print("ready", flush=True)
while True:
    number = store.next_number
    state = np.random.default_rng(number).integers(256, size=9000 + number % 1000).astype(np.uint8)
    print(store.write({"champion": max(1, number - number % 3), "step": 10 * number}, {"state": state}), flush=True)
"""


def test_a_process_that_is_killed_at_any_moment_loses_no_snapshot_and_lets_go() -> None:
    newest = 0
    for delay in (0.0, 0.011, 0.023, 0.037):
        with subprocess.Popen([sys.executable, "-c", _WRITER], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            with pytest.raises(OutputError, match=r"is in use by another process"):
                Store(FOLDER)
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
            written = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        with closing(Store(FOLDER)) as store:
            assert _newest(store) >= max(written, default=newest)
            newest = _newest(store)
            assert not [name for name in _names() if name.endswith(".tmp")]

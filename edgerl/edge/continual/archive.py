"""Where a learner comes from and where it is saved: its bundle, and the snapshots in its state folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgerl.edge.continual import bundle as bundle_file
from edgerl.edge.continual.bundle import read_constants
from edgerl.edge.continual.origin import Origin, read_origin, state_of
from edgerl.edge.continual.store import LOG, Store
from edgerl.edge.continual.transitions import ForeignLogError
from edgerl.errors import ConfigError, FileFormatError, OutputError
from edgerl.files.disk import DISK, Disk
from edgerl.files.tensors import TensorReader


class Archive:
    """A bundle, a state folder, or both.

    Attributes: `bundle`; `store`, None without a state folder; `champion`, the number of the snapshot in which the
    champion is, 0 for the bundle; `rejected`, lines about files that were refused; `bytes_written` to snapshots.
    """

    def __init__(self, bundle: Path | None, folder: Path | None, disk: Disk = DISK) -> None:
        """Raises OutputError where the folder cannot be used."""
        self.bundle, self.store, self.disk = bundle, None if folder is None else Store(folder, disk), disk
        self.champion = 0
        self.rejected: list[str] = []
        self.bytes_written = 0

    @property
    def log(self) -> Path | None:
        """Where the transitions are kept."""
        return None if self.store is None else self.store.folder / LOG

    def newest(self) -> tuple[int, TensorReader] | None:
        """The snapshot to resume from, to be closed by the caller. One whose champion is lost gets the bundle's policy
        as its champion."""
        if self.store is None:
            return None
        found = self.store.newest()
        self.rejected += self.store.rejected
        if found is not None:
            return found
        if self.store.is_out_of_reach:
            reasons = "; ".join(self.rejected)
            raise OutputError(f"{self.store.folder} cannot be read: {reasons}; it was left as it is")
        if orphan := self.store.newest_orphan():
            number, reader = orphan
            with reader:
                self._replace_champion(self.store, reader, self.store.path(number))
            self.rejected[-1] += f"; the policy in {self.bundle} is its champion again"
            found = self.store.newest()
        return found

    def _replace_champion(self, store: Store, orphan: TensorReader, source: Path) -> None:
        """Write the bundle's learner in place of the champion that the snapshot `source` names."""
        bundle, reader = self.open_bundle()
        with reader:
            origin = read_origin(orphan, source)
            try:
                own = read_constants(reader, origin.arena.config.n_observations, origin.arena.config.n_actions)
                if not own.equals(origin.constants):
                    raise ValueError("its constants differ")
                origin.arena.load_state(state_of(reader)[1])
            except (ConfigError, ValueError) as error:
                raise FileFormatError(f"{bundle} is not the bundle of {source} ({error}); name that one") from error
        store.replace_champion(origin.metadata, origin.tensors, origin.version)

    def open_bundle(self) -> tuple[Path, TensorReader]:
        """The bundle, to be closed by the caller. Raises FileFormatError where there is none, with what was refused."""
        refused = ""
        if self.store is not None and (self.rejected or self.bundle is None):
            reasons = f": {'; '.join(self.rejected)}" if self.rejected else ""
            refused = f"{self.store.folder} holds no snapshot that is whole{reasons}; "
        if self.bundle is None:
            raise FileFormatError(f"{refused}name the bundle")
        try:
            reader = TensorReader(self.bundle, bundle_file.KIND, bundle_file.VERSIONS, disk=self.disk)
        except FileFormatError as error:
            raise FileFormatError(f"{refused}{error}") from error
        return self.bundle, reader

    def open_champion(self) -> TensorReader:
        """The learner as it was when the champion was made, to be closed by the caller. Raises FileFormatError."""
        if self.store is not None and self.champion:
            return self.store.open(self.champion)
        return self.open_bundle()[1]

    def set_log_aside(self, error: ForeignLogError) -> None:
        """Rename the file that was found in place of the log. Raises the error itself where no learner had the
        folder before: the file may be anybody's."""
        if self.store is None or self.log is None or not (error.is_log or self.store.next_number > 1):
            raise error
        self.store.set_aside(self.log)
        self.rejected.append(f"{self.log} is {error.found}; a new one was started")

    def remove_log(self) -> None:
        """Make room for a new one. Raises OutputError."""
        if self.log is None:
            return
        try:
            self.disk.remove(self.log)
        except OSError as error:
            raise OutputError(f"cannot remove {self.log}: {error.strerror}") from error

    def write(self, origin: Origin, metadata: Mapping[str, Any], *, takes_over: bool) -> int:
        """Write a snapshot, which is its own champion where the challenger takes over; its number. Raises OutputError,
        with the snapshots of before untouched."""
        store = self.need_store()
        number = store.next_number
        champion = number if takes_over or not self.champion else self.champion
        store.write({"champion": champion, **metadata}, origin.tensors, origin.version)
        self.champion = champion
        self.bytes_written += len(origin.arena.state) * (2 if champion == number else 1)  # a champion has two files
        return number

    def need_store(self) -> Store:
        """The snapshots. Raises ConfigError without a state folder."""
        if self.store is None:
            raise ConfigError("this learner has no state folder; load it with one, as in Learner.load(path, state=…)")
        return self.store

    def close(self) -> None:
        """Release the state folder."""
        if self.store is not None:
            self.store.close()

    def withdraw(self) -> None:
        """The same; a folder in which this process started is left as it was found."""
        if self.store is not None:
            self.store.withdraw()

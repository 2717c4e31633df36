"""A board for tests: a real sshd on the loopback, with host keys, users' keys and a temporary folder of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import needs

TOOLS = ("sh", "mktemp", "tar", "rm", "uname", "dirname", "sed")
"""What every board has."""


@dataclass(frozen=True)
class Board:
    """`folder` holds its keys; `temporary` is the TMPDIR of its sessions."""

    folder: Path
    port: int
    temporary: Path

    def ssh_config(
        self, *, command: str | None = None, known_hosts: str | None = None, port: int | None = None
    ) -> Path:
        """An ssh configuration whose host `board` is this one, with a new key.

        `command` runs instead of what the client asks for (SSH_ORIGINAL_COMMAND); `known_hosts` and `port` replace the
        right ones.
        """
        name = f"client-{len(list(self.folder.glob('client-*.pub')))}"
        key = make_key(self.folder / name)
        forced = "" if command is None else 'command="{}" '.format(command.replace('"', '\\"'))
        with (self.folder / "authorized_keys").open("a") as file:
            file.write(forced + key + "\n")
        hosts = self.folder / f"{name}.known_hosts"
        host_key = (self.folder / "host_key.pub").read_text()
        at = port or self.port
        hosts.write_text(f"[127.0.0.1]:{at} {host_key}" if known_hosts is None else known_hosts)
        config = self.folder / f"{name}.config"
        config.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {at}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.folder / name}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile /dev/null\n"
        )
        return config

    def is_left_empty(self, seconds: float = 100) -> bool:
        """Whether nothing remains in the temporary folder; a session that was cut off needs a moment to see it."""
        end = time.monotonic() + seconds
        while list(self.temporary.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        return not list(self.temporary.iterdir())


def make_key(path: Path) -> str:
    """A new key in `path`; its public line."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path.with_name(path.name + ".pub").read_text().strip()


def few_tools(folder: Path) -> Path:
    """A folder for PATH that holds TOOLS and no compiler."""
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None, tool
        (folder / tool).symlink_to(found)
    return folder


@contextlib.contextmanager
def running_board(folder: Path) -> Iterator[Board]:
    """An sshd that listens on a free port of 127.0.0.1 with no user yet."""
    sshd = needs.find("sshd")
    assert sshd is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges; a package's service would make it
    board = Board(folder, free_port(), folder / "temporary")
    board.temporary.mkdir()
    make_key(folder / "host_key")
    (folder / "authorized_keys").write_text("")
    (folder / "sshd_config").write_text(
        f"Port {board.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host_key'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nPermitRootLogin prohibit-password\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nMaxStartups 100\n"
        f"SetEnv TMPDIR={board.temporary}\n"
    )
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _wait_for(board.port)
        yield board
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(2000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("sshd does not answer")


@contextlib.contextmanager
def line_that_breaks(port: int, after: int) -> Iterator[int]:
    """A port whose connections lead to `port`, and end once `after` bytes went there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=_forward_one, args=(listener, port, after))
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(30)
        assert not thread.is_alive()


def _forward_one(listener: socket.socket, port: int, after: int) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_copy, args=(server, client, None))
        back.start()
        _copy(client, server, after)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        back.join()


def _copy(source: socket.socket, goal: socket.socket, at_most: int | None) -> None:
    copied = 0
    with contextlib.suppress(OSError):
        while (at_most is None or copied < at_most) and (data := source.recv(1 << 14)):
            goal.sendall(data)
            copied += len(data)

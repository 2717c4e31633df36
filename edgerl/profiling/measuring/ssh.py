"""Running a benchmark bundle on a board over ssh: one connection, the tar on its stdin, the result on its stdout.

It uses the system's ssh, so the user's own configuration applies to address, port, user and key. Whatever that says, a
host with an unknown key is refused, there are no prompts, and nothing is forwarded. The command that runs there is a
constant: no text of a file or of a model is part of it. It unpacks into a temporary folder, which it removes when it
is done, when the copy breaks off, and when a signal ends it.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from edgerl.errors import ConfigError, MissingExtraError, RemoteError
from edgerl.profiling.measuring.bundle import FOLDER, SCRIPT
from edgerl.profiling.measuring.measurement import MAXIMUM_BYTES

OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
)

SECONDS = 600
"""The timeout: an old board may take a minute to compile, and some seconds to measure."""

MESSAGE_BYTES = 1 << 16
"""How much of stderr is kept."""

MESSAGE_LENGTH = 200
"""How much of it is repeated in a message."""

SSH_FAILED = 255
"""ssh's exit code for connection errors; any other is that of the command."""

FULL = "No space left on device"

PREFIX = "edgerl-benchmark: "
"""What an error message of the bundle's script or program begins with."""

UNPACKS = (
    f'umask 077; folder=; problem() {{ echo "{PREFIX}$1" >&2; exit 74; }}; '
    'trap "cd /; rm -rf \\"\\$folder\\"" EXIT; trap "exit 129" HUP INT TERM PIPE; '
    'made=$(mktemp -d "${TMPDIR:-/tmp}/edgerl-XXXXXXXX" 2>&1) || problem "no temporary folder there: $made"; '
    'folder=$made; cd "$folder" && said=$(tar -xof - 2>&1) '
    '|| problem "cannot unpack there: ${said:-the file system refuses it}"; '
    f'[ -f {FOLDER}/{SCRIPT} ] || problem "the copy is not complete"; '
    f"sh {FOLDER}/{SCRIPT} </dev/null"
)
REMOTE_COMMAND = f"exec /bin/sh -c '{UNPACKS}'"
"""On one line and in single quotes, which all login shells treat the same."""

NEVER_IN_A_NAME = frozenset(" '`\"$\\;&<>|(){}")
"""Of a host or user: a ProxyCommand of the user's own configuration may hand names to a shell (an ssh before 9.6)."""

SHOWN_NAME = 60
"""Characters of a destination that messages repeat."""

ADVICE = (
    ("HOST IDENTIFICATION HAS CHANGED", "another machine answers, or it was reinstalled: then ssh-keygen -R its name"),
    ("host key is known", "connect once by hand, compare its fingerprint and accept it"),
    ("Host key verification failed", "connect once by hand, and compare its fingerprint"),
    (
        "Permission denied",
        "name the right user, and its IdentityFile in the file `ssh_config`; there is no password prompt",
    ),
    ("Could not resolve", "check the name, or give its HostName in the file `ssh_config`"),
    ("Connection refused", "start its ssh server, or name its Port in the file `ssh_config`"),
    ("usage: ssh", "name it as host or user@host, its Port in the file `ssh_config`"),
    ("invalid characters", "name it as host or user@host"),
    ("bad configuration option", "correct the ssh configuration, or name another one as `ssh_config`"),
    ("timed out", "switch it on, or check its address"),
    ("No route to host", "switch it on, or check its address"),
    ("Network is unreachable", "check the network"),
)
"""What ssh says → what to do."""


def run_bundle(destination: str, bundle: bytes, ssh_config: Path | None = None) -> bytes:
    """What the bundle prints on `destination`, which is what ssh calls it: a host, or user@host.

    `ssh_config` replaces the user's own ssh configuration. Raises RemoteError, and what `ssh_command` raises.
    """
    command = ssh_command(destination, ssh_config)
    with tempfile.TemporaryFile() as file:  # without a name: nothing is left behind
        file.write(bundle)
        file.seek(0)
        with subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
        ) as process:
            try:
                answer, said = _read(process, destination)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
    if code != 0:
        said = said if said.strip() else answer[:MESSAGE_BYTES].decode(errors="replace")  # some print errors on stdout
        raise RemoteError(f"cannot measure on {destination[:SHOWN_NAME]}: {_explanation(code, said)}")
    return answer


def ssh_command(destination: str, ssh_config: Path | None) -> list[str]:
    """What runs ssh for `run_bundle`. Raises ConfigError where it cannot, and MissingExtraError."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise MissingExtraError("ssh is not installed here; run: apt-get install openssh-client")
    if (
        not destination
        or destination.startswith("-")
        or not destination.isprintable()
        or NEVER_IN_A_NAME & set(destination)
    ):
        raise ConfigError(f"`ssh` is {destination[:40]!r}; expected host or user@host")
    if ssh_config is not None and not ssh_config.is_file():
        raise ConfigError(f"`ssh_config` is {ssh_config}, which is not a file; name an ssh configuration")
    options = [part for option in OPTIONS for part in ("-o", option)]
    chosen = [] if ssh_config is None else ["-F", str(ssh_config.absolute())]
    return [ssh, *chosen, *options, "--", destination, REMOTE_COMMAND]


def _read(process: subprocess.Popen[bytes], destination: str) -> tuple[bytes, str]:
    """All of stdout, and the beginning of stderr. Raises RemoteError where it is too much or takes too long."""
    assert process.stdout is not None
    assert process.stderr is not None
    read: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = read.values()
    deadline = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        for descriptor in read:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready:
                raise RemoteError(f"{destination[:SHOWN_NAME]} sent no result within {SECONDS} s; is it too busy?")
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fd)
                read[key.fd] += part
            if len(out) > MAXIMUM_BYTES:
                raise RemoteError(
                    f"{destination[:SHOWN_NAME]} sent more than {MAXIMUM_BYTES} bytes; that is not a result of a bundle"
                )
            del err[MESSAGE_BYTES:]
    return bytes(out), err.decode(errors="replace")


def _explanation(code: int, said: str) -> str:
    """What ssh or the bundle's script printed, and what to do about it, on one line."""
    lines = [line.strip("@ \r") for line in said.splitlines() if line.strip("@ \r")]
    ours = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    if ours:
        is_full = any(FULL in line for line in lines)
        return ours[0][:MESSAGE_LENGTH] + (f"; {FULL.lower()}: free some there" if is_full else "")
    for words, advice in ADVICE:
        for line in lines:
            if words in line:
                return f"{line.removeprefix('ssh: ')[:MESSAGE_LENGTH].rstrip('.!')}; {advice}"
    last = f" ({lines[-1][:MESSAGE_LENGTH]})" if lines else ""
    if code == SSH_FAILED:
        return f"the connection broke{last}; try again"
    return f"what ran there ended with exit code {code}{last}"

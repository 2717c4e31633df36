"""The command line in processes of their own, many a second: modules are loaded once, and each run is forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]

LONGEST_SECONDS = 120
"""What is not done by then hangs: SIGALRM ends it."""

_SERVER = """
import ctypes, gc, json, os, resource, signal, sys
stdout = os.dup(1)
os.dup2(2, 1)
exec(sys.argv[1])
sys.stdout.flush()
os.dup2(stdout, 1)
os.close(stdout)
from edgerl.__main__ import main

def run(job, result):
    for number, name in enumerate(("/dev/null", job["out"], job["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.chdir(job["folder"])
    signal.alarm(job["seconds"])
    sys.argv = ["edgerl", *job["arguments"]]
    code = 99
    if job["fault"]:
        ctypes.CDLL(None).faulty_arm(job["folder"].encode(), *job["fault"])
    if job["room"]:
        name, more = job["room"]
        fields = dict(line.split(":") for line in open("/proc/self/status"))
        taken = fields["VmSize" if name == "RLIMIT_AS" else "VmData"]
        limit = int(taken.split()[0]) * 1024 + more
        resource.setrlimit(getattr(resource, name), (limit, limit))
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        if code == 99:
            sys.excepthook(*sys.exc_info())
        if job["fault"]:
            os.write(result, b"%d" % ctypes.CDLL(None).faulty_count())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

gc.collect()
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    reading, result = os.pipe()
    child = os.fork()
    if child == 0:
        run(job, result)
    os.close(result)
    counted = os.read(reading, 20)
    os.close(reading)
    _, status, used = os.wait4(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, int(counted or -1)]), flush=True)
"""


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    code: int  # below 0: ended by that signal
    out: str
    err: str
    peak_bytes: int  # resident, what it shares with all others included
    operations: int  # on files, where they were counted

    @property
    def complaint(self) -> str:
        """The one line that says what is wrong; AssertionError where there is none, or anything else."""
        lines = [line for line in self.err.splitlines() if line.startswith("edgerl: ")]
        assert "Traceback" not in self.err, self.err
        assert len(lines) == 1, self.err
        assert self.err.endswith(f"{lines[0]}\n"), self.err
        assert len(lines[0]) < 1200, self.err
        return lines[0]


class Forked:
    """Runs commands, one after the other."""

    def __init__(self, server: subprocess.Popen[str], files: Path) -> None:
        self._server, self._files = server, files

    def run(
        self,
        *arguments: object,
        folder: Path | str = ".",
        fault: tuple[int, int, bool] | None = None,
        room: tuple[str, int] | None = None,
        seconds: int = LONGEST_SECONDS,
    ) -> Ran:
        """`edgerl` with these arguments in that folder. fault: the number of the operation on its files that fails (−1:
        none), an errno (0: SIGKILL), whether all later ones fail too. room: RLIMIT_AS or RLIMIT_DATA, and the bytes
        that it leaves beyond what the process has."""
        files = {name: str(self._files / name) for name in ("out", "err")}
        job: dict[str, Any] = {
            "folder": str(Path(folder).resolve()),
            "arguments": [str(argument) for argument in arguments],
            "fault": fault,
            "room": room,
            "seconds": seconds,
            **files,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code, peak, operations = json.loads(self._server.stdout.readline())
        out, err = (Path(files[name]).read_text(errors="replace") for name in ("out", "err"))
        return Ran(code, out, err, peak, operations)


@contextmanager
def forked(warm_up: str, files: Path, preload: Path | None = None) -> Iterator[Forked]:
    """A server. warm_up: Python that loads what commands need, run once in the folder `files`, where there will be what
    they print. preload: a library whose functions come before those of the C library."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))),
        "OMP_NUM_THREADS": "1",
        **({} if preload is None else {"LD_PRELOAD": str(preload)}),
    }
    command = [sys.executable, "-c", _SERVER, warm_up]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, cwd=files, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield Forked(server, files)
        server.stdin.close()

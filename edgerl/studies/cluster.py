"""Runs as tasks of a Ray cluster: one task, one CPU and one new process per run.

A run's folder is in storage that all nodes share, so that a task whose worker or node died goes on from the checkpoint
wherever Ray tries it again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

from edgerl import __version__
from edgerl.errors import ConfigError, EdgerlError, RemoteError, reason, require
from edgerl.files.atomic import write_atomically
from edgerl.studies.worker import Outcome, train_run

LOCAL = "local"
"""Instead of an address: a cluster on only this machine, for only this sweep."""

RETRIES = 3
"""How often Ray restarts a run whose worker or node died."""

_CONNECT_SECONDS = 5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a gRPC client says first (RFC 9113, section 3.4), with empty settings; the server answers with its own."""
_SETTINGS = 4
_PROBE_SECONDS = 120


class RayPool:
    """Tasks on a Ray cluster. Ray decides when each starts, so all are submitted at once."""

    def __init__(self, address: str, jobs: int | None = None) -> None:
        """Connect to the cluster at `address` (host:port, or auto: the one that runs on this machine), or start one on
        this machine (LOCAL) with `jobs` CPUs (default: all cores).

        Raises MissingExtraError, ConfigError, RemoteError.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        self._ray: Any = require("ray", "sweep")
        if address != LOCAL and jobs is not None:
            raise ConfigError("`jobs` is for this machine; a Ray cluster decides itself how many runs it has at once")
        _check_address(address)
        local = {"num_cpus": jobs, "include_dashboard": False} if address == LOCAL else {}
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(address, error) from error
        self._task = self._ray.remote(num_cpus=1, max_calls=1, max_retries=RETRIES)(train_run)
        self._running: dict[str, Any] = {}
        self._is_stopping = False
        self.cpus = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.capacity = 1 << 30

    @property
    def running(self) -> int:
        """Runs that were submitted and have not ended."""
        return len(self._running)

    def check_storage(self, folder: Path) -> None:
        """Check that every node reads what this process writes in `folder`, and the reverse.

        Raises RemoteError where a node cannot, or has another edgerl; OutputError where this process cannot.
        """
        token = folder / f".edgerl-{secrets.token_hex(8)}.tmp"
        write_atomically(token, token.name.encode())
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        task = self._ray.remote(num_cpus=0, max_calls=1, max_retries=0)(probe_storage)
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            answers = [
                task.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(token) for node in nodes
            ]
            for node, answer in zip(nodes, answers, strict=True):
                address = node["NodeManagerAddress"]
                try:
                    check_node(address, folder, *self._ray.get(answer, timeout=_PROBE_SECONDS))
                except self._ray.exceptions.RayError as error:
                    raise RemoteError(
                        f"node {address} cannot run edgerl ({reason(error)}); install edgerl[train] {__version__} there"
                    ) from error
        finally:
            for leftover in folder.glob(f"{token.name}*"):
                leftover.unlink(missing_ok=True)

    def start(self, name: str, folder: Path, environment: str) -> None:
        """Submit a run."""
        self._running[name] = self._task.remote(folder, environment)

    def poll(self) -> list[tuple[str, Outcome]]:
        """The runs that have ended since the last call, and how. Raises RemoteError where the cluster is gone."""
        names = {ref: name for name, ref in self._running.items()}
        if not names:
            return []
        try:
            ready, _ = self._ray.wait(list(names), num_returns=len(names), timeout=0)
        except (self._ray.exceptions.RayError, OSError) as error:
            raise RemoteError(f"the Ray cluster is gone ({reason(error)}); sweep again once it is back") from error
        return [(names[ref], self._outcome(names[ref])) for ref in ready]

    def _outcome(self, name: str) -> Outcome:
        exceptions = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(self._running.pop(name))
        except exceptions.TaskCancelledError:
            return Outcome("stopped")
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError) as error:
            return Outcome("killed", f"its worker died {RETRIES + 1} times ({reason(error)})")
        except exceptions.RayError as error:
            return Outcome("failed", reason(error, 300))
        return outcome

    def stop(self) -> None:
        """Request every run to save and stop; at the second call they quit at once, with their last checkpoint."""
        for ref in self._running.values():
            self._ray.cancel(ref, force=self._is_stopping)
        self._is_stopping = True

    def close(self) -> None:
        """Leave the cluster, or end the one that was started for this sweep."""
        self._ray.shutdown()


def probe_storage(token: Path) -> tuple[str, str, str]:
    """On a node: (edgerl's version, the file written beside the token, the problem or nothing)."""
    written = token.with_name(f"{token.name}-{secrets.token_hex(8)}")
    try:
        if token.read_text() != token.name:
            return __version__, written.name, "it reads other content there"
        write_atomically(written, b"")
    except (OSError, EdgerlError) as error:
        return __version__, written.name, reason(error)
    return __version__, written.name, ""


def check_node(address: str, folder: Path, version: str, written: str, problem: str) -> None:
    """Raise RemoteError where a node's `probe_storage` shows another edgerl, or another `folder`."""
    if version != __version__:
        raise RemoteError(f"node {address} has edgerl {version}, this machine {__version__}; install the same on all")
    if problem or not (folder / written).exists():
        what = problem or "what it writes there does not appear here"
        raise RemoteError(
            f"node {address} does not share {folder} ({what}); name a folder that all nodes share: `storage`"
        )


def _check_address(address: str) -> None:
    """Raise where nothing listens at host:port, or not for gRPC; Ray itself would try for a long time."""
    if address in (LOCAL, "auto"):
        return
    match = re.fullmatch(r"\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if match is None or int(match[2]) > 65535:
        raise ConfigError(f"`ray` is {address[:80]!r}; expected HOST:PORT, or auto for the cluster that runs here")
    try:
        with contextlib.closing(socket.create_connection((match[1], int(match[2])), timeout=_CONNECT_SECONDS)) as peer:
            if not os.environ.get("RAY_USE_TLS"):
                peer.sendall(_PREFACE)
                answer = peer.recv(9, socket.MSG_WAITALL)
                if len(answer) < 9 or answer[3] != _SETTINGS:
                    raise OSError("what listens there is not a Ray head")
    except (OSError, UnicodeError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: BaseException) -> RemoteError:
    problem = "runs on this machine" if address == "auto" else f"answers at {address} ({reason(error)})"
    return RemoteError(
        f"no Ray cluster {problem}; start one with: ray start --head, or leave the address out for one on this machine"
    )

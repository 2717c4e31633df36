"""Training on a disk that fails: at each operation on a file of the run folder ENOSPC, EIO or SIGKILL, once or from
then on. A command that fails says so in one line, with exit code 2; the run resumes, to the same bits.

Every operation of the last hundred steps of a run, times EDGERL_SOAK (default 0.05).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from tests.edge.compiled import run
from tests.training.runs import ENGINES, SMALL, each_engine, replay_rows, state_of

from .forked import Forked, forked

SHARE = min(float(os.environ.get("EDGERL_SOAK", "0.05")), 1)
KILL = 0
FAULTS = [(errno.ENOSPC, False), (errno.EIO, False), (KILL, False), (errno.ENOSPC, True), (errno.EIO, True)]

OPTIONS: dict[str, Any] = SMALL | {
    "steps": 360,
    "n_step": 3,
    "growth": "gradient",
    "block": 4,
    "env": "robots:terminating_robot",
}

WARM_UP = f"""
import edgerl
for engine in {ENGINES}:
    edgerl.train(out=engine, engine=engine, **{OPTIONS | {"steps": 40}})
import rich.progress
"""

STOPPED = 300
"""Of 360 steps; the replay of 90 has wrapped round three times."""


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Commands on a disk that fails on request."""
    folder = tmp_path_factory.mktemp("faulty")
    library = folder / "faulty_libc.so"
    run("gcc", "-shared", "-fPIC", "-O1", Path(__file__).with_name("faulty_libc.c"), "-o", library)
    with forked(WARM_UP, folder, library) as server:
        yield server


def _all_that_a_run_determines(folder: Path) -> tuple[Any, bytes]:
    return state_of(folder), replay_rows(folder)


def _runs(engine: str) -> tuple[tuple[Any, bytes], Path]:
    """(what the whole run leads to, a folder in which it is stopped)."""

    def stop(status: Any) -> None:
        if status.step == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = edgerl.train(out="whole", engine=engine, **OPTIONS).folder
    with pytest.raises(edgerl.errors.Interrupted, match="go on with"):
        edgerl.train(out="stopped/runs/run", engine=engine, report=stop, **OPTIONS)
    return _all_that_a_run_determines(whole), Path("stopped")


@pytest.mark.soak
@each_engine
def test_whatever_fails_is_one_line_and_the_run_resumes_to_the_same_bits(engine: str, failing: Forked) -> None:
    expected, stopped = _runs(engine)
    work, draw = Path("work"), np.random.default_rng(20220526)
    resume, nothing = ("train", "--resume", "runs/run", "--env", "robots:terminating_robot"), (-1, errno.EIO, False)

    def begin() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(stopped, work, symlinks=True)

    begin()
    undisturbed = failing.run(*resume, folder=work, fault=nothing)
    assert undisturbed.code == 0, undisturbed.err
    assert _all_that_a_run_determines(work / "runs/run") == expected
    codes: dict[int, int] = {}
    for code, lasting in FAULTS:
        for number in sorted(draw.permutation(undisturbed.operations)[: round(SHARE * undisturbed.operations)]):
            what = f"{errno.errorcode.get(code, 'SIGKILL')} at operation {number}, lasting: {lasting}"
            begin()
            failed = failing.run(*resume, folder=work, fault=(int(number), code, lasting))
            codes[failed.code] = codes.get(failed.code, 0) + 1
            if code == KILL:
                assert failed.code == -signal.SIGKILL, what
            elif failed.code:
                assert failed.code == 2, (what, failed.err)
                assert failed.complaint, what
            else:
                assert _all_that_a_run_determines(work / "runs/run") == expected, what
            resumed = failing.run(*resume, folder=work, fault=nothing)
            assert resumed.code == 0, (what, resumed.err)
            assert _all_that_a_run_determines(work / "runs/run") == expected, what
            assert not list(work.rglob(".*")), what
    print(f"{engine}: {undisturbed.operations} operations; exit codes {codes}")
    assert codes[2] > 0

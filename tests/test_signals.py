"""SIGINT and SIGTERM end every command from its first line on, though much swallows exceptions out of nowhere."""

from __future__ import annotations

import _imp
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgerl import signals
from edgerl.signals import ended_by_signals, stop_requests
from tests.processes import Processes

Command = Callable[..., "subprocess.Popen[str]"]

HANGS = 300
"""Seconds: whatever takes longer would take for ever."""

ENDS = {signal.SIGINT: (130, "edgerl: interrupted\n"), signal.SIGTERM: (143, "edgerl: stopped by SIGTERM\n")}
BOTH = pytest.mark.parametrize("number", ENDS, ids=["SIGINT", "SIGTERM"])


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [*map(signal.getsignal, numbers), sys.unraisablehook]
    yield
    assert [*map(signal.getsignal, numbers), sys.unraisablehook] == before
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# ------------------------------------------------------------------------------------------------------------ commands


def swallowing(number: int) -> str:
    """A module that gets a signal while it is imported, says nothing of it, and then works for ever."""
    return f"""
import os, time
try:
    exec("os.kill(os.getpid(), {number}); time.sleep({HANGS})")
except BaseException:
    pass
open("swallowed", "w").close()
time.sleep({2 * HANGS})
"""


@pytest.fixture
def command(processes: Processes) -> Command:
    """Start one, with pipes; it finds modules in this folder before any other."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return processes.start(sys.executable, "-m", "edgerl", *arguments, text=True, env=environment, **pipes)

    return start


@pytest.mark.parametrize(
    ("module", "arguments", "number"),
    [
        ("numpy", "prune", signal.SIGINT),
        ("numpy", "prune", signal.SIGTERM),
        ("numpy", "export", signal.SIGINT),
        ("numpy", "export", signal.SIGTERM),
        ("numpy", "report", signal.SIGINT),
        ("numpy", "learn", signal.SIGTERM),
        ("numpy", "devices list", signal.SIGINT),
        ("numpy", "run", signal.SIGTERM),
        ("torch", "train --engine torch", signal.SIGINT),
        ("own", "train --env own:make", signal.SIGINT),
    ],
)
def test_an_import_that_swallows_it(command: Command, module: str, arguments: str, number: int) -> None:
    Path(f"{module}.py").write_text(swallowing(number))
    assert ended(command(*arguments.split())) == ENDS[number]
    assert Path("swallowed").exists()


@BOTH
def test_before_the_command_line_itself_is_loaded_it_ends_at_once(command: Command, number: int) -> None:
    Path("typer.py").write_text(swallowing(number))
    assert ended(command("--help")) == ENDS[number]
    assert not Path("swallowed").exists()


@pytest.fixture
def pendulum() -> Path:
    """An .onnx model: to run it loads numpy, gymnasium and onnxruntime."""
    from edgerl.commands.export import export_policy
    from tests.policy.policies import random_policy

    bound = np.full(1, 2, np.float32)
    policy = replace(random_policy(0, (3, 8, 1), 1), action_low=-bound, action_high=bound)
    export_policy(policy.with_example(np.zeros(3)), "onnx", Path("pendulum.onnx"))
    return Path("pendulum.onnx")


def test_at_twenty_moments_from_the_first_line_on(command: Command, pendulum: Path) -> None:
    def end(place: int) -> tuple[int, str]:
        process = command("run", pendulum, "--env", "Pendulum-v1", "--seconds", 2 * HANGS)
        while not catches(process, signal.SIGTERM):
            assert process.poll() is None
        time.sleep(place / 10)
        process.send_signal(list(ENDS)[place % 2])
        return ended(process)

    with ThreadPoolExecutor(4) as pool:
        for place, (code, err) in enumerate(pool.map(end, range(20))):
            expected_code, word = list(ENDS.values())[place % 2]
            assert code == expected_code, err
            assert err.endswith(word)
            assert "Traceback" not in err


GLFW = re.compile(r'Traceback \(most recent call last\):\n  File "<string>", line \d+, in <module>\nEOFError: .*\n')
"""What glfw, which MuJoCo imports, asks its library in a process of its own; that one complains when ours ends."""


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr, of a process that is about to end."""
    _, err = process.communicate(timeout=HANGS)
    return process.returncode, GLFW.sub("", err)


def catches(process: subprocess.Popen[str], number: int) -> bool:
    """Whether the process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_ctrl_c_counts_though_the_process_began_with_it_ignored(command: Command, pendulum: Path) -> None:
    """As whatever a shell starts in the background does."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = command("run", pendulum, "--env", "Pendulum-v1", "--seconds", 2 * HANGS)
    finally:
        signal.signal(signal.SIGINT, before)
    while not catches(process, signal.SIGINT):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 130
    assert err.endswith("edgerl: interrupted\n")


def test_a_run_of_a_sweep_that_has_not_begun_is_stopped() -> None:
    from edgerl.config import make_config, to_json

    Path("own.py").write_text(swallowing(signal.SIGINT))
    Path("run").mkdir()
    Path("run/config.json").write_text(to_json(make_config("quick", environment="own:make")))
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-m", "edgerl.studies.worker", "run", "own:make", str(core), str(os.getpid())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=HANGS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ending"] == "stopped"


# ------------------------------------------------------------------------------------------------------ in one process


def assert_ends(number: int, work: Callable[[], object]) -> None:
    with pytest.raises(signals.ERRORS[number], match=rf"^{signals.WORDS[number]}$"), ended_by_signals():
        work()


def swallow(number: int) -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(number)
        time.sleep(HANGS)


def convert(number: int) -> None:
    try:
        signal.raise_signal(number)
        time.sleep(HANGS)
    except BaseException as error:
        raise ValueError("another error") from error


def leave(number: int) -> None:
    swallow(number)
    sys.exit(0)


def go_on(number: int) -> None:
    for _ in range(3):
        swallow(number)
    time.sleep(HANGS)


@BOTH
@pytest.mark.parametrize("work", [swallow, convert, leave, go_on])
def test_it_leaves_the_block_however_it_is_swallowed(number: int, work: Callable[[int], None]) -> None:
    assert_ends(number, lambda: work(number))


@BOTH
def test_a_destructor_prints_nothing_of_it(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    class Fragile:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> None:
        Fragile()
        time.sleep(HANGS)

    assert_ends(number, work)
    assert capfd.readouterr() == ("", "")


@BOTH
def test_tidying_up_is_not_disturbed(number: int) -> None:
    def work() -> None:
        try:
            try:
                signal.raise_signal(number)
            finally:
                tidy("inner")
        except BaseException as error:
            tidy("except")
            raise ValueError("another error") from error
        finally:
            tidy("outer")

    def tidy(what: str) -> None:
        time.sleep(3 * signals.REPEAT_SECONDS)
        done.append(what)

    done: list[str] = []
    assert_ends(number, work)
    assert done == ["inner", "except", "outer"]


def test_a_second_signal_ends_what_tidies_up() -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(HANGS)

    assert_ends(signal.SIGTERM, work)


def load_in_c(execute: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python loads a module in C, with `execute` for that module's own code."""
    monkeypatch.setattr(_imp, "exec_dynamic", lambda _: execute())
    ExtensionFileLoader("made", "made.so").exec_module(ModuleType("made"))


@BOTH
def test_a_module_in_c_is_loaded_first(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that imports in turn, as numpy's does: an exception there would be printed, and turned into another."""

    def execute() -> None:
        signal.raise_signal(number)
        __import__("inner")
        done.append("executed")

    def work() -> None:
        load_in_c(execute, monkeypatch)
        time.sleep(HANGS)

    Path("inner.py").write_text(f"import time\ntime.sleep({3 * signals.REPEAT_SECONDS})\n")
    monkeypatch.syspath_prepend(os.getcwd())
    done: list[str] = []
    assert_ends(number, work)
    assert done == ["executed"]


def test_a_module_in_c_that_never_loads_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 3 * signals.REPEAT_SECONDS)
    assert_ends(signal.SIGINT, lambda: load_in_c(lambda: go_on(signal.SIGINT), monkeypatch))


def test_without_a_signal_a_block_ends_as_it_would() -> None:
    with ended_by_signals():
        pass
    with pytest.raises(ValueError, match="its own"), ended_by_signals():
        raise ValueError("its own")


def test_within_stop_requests_it_is_counted() -> None:
    with ended_by_signals(), stop_requests() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        time.sleep(3 * signals.REPEAT_SECONDS)
    assert (stop.count, stop.signal) == (2, signal.SIGINT)


def test_another_thread_hears_nothing() -> None:
    def work() -> None:
        with ended_by_signals():
            heard.append(signal.getsignal(signal.SIGTERM))

    heard: list[Callable[..., object] | int | None] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [signal.getsignal(signal.SIGTERM)]

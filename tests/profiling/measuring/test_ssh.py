"""Measuring over ssh, on a real sshd: what it brings back, and that nothing stays on either side."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerl.commands.export import export_policy
from edgerl.errors import ConfigError, FileFormatError, MissingExtraError, RemoteError
from edgerl.policy.format import save
from edgerl.profiling.measuring import ssh
from edgerl.profiling.measuring.bundle import FOLDER, SCRIPT, make_bundle
from edgerl.profiling.measuring.measure import find_subject
from edgerl.profiling.measuring.measurement import largest_difference, parse_result
from edgerl.profiling.measuring.ssh import REMOTE_COMMAND, run_bundle
from tests.board import Board, few_tools, free_port, line_that_breaks, make_key, running_board
from tests.policy.policies import random_policy
from tests.processes import Processes

pytestmark = pytest.mark.needs("ssh", "sshd")

AS_ASKED = 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.fixture(scope="module")
def policy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "policy.safetensors"
    save(random_policy(0), path)
    return path


@pytest.fixture(scope="module")
def bundle(policy_path: Path) -> bytes:
    return make_bundle(find_subject(policy_path)).data


@pytest.fixture(autouse=True)
def _nothing_is_left(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither here nor there."""
    here = tmp_path / "temporary"
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    yield
    assert list(here.iterdir()) == []
    assert board.is_left_empty()


def test_the_bundle_runs_there_and_its_result_comes_back(board: Board, bundle: bytes) -> None:
    result = parse_result(run_bundle("board", bundle, board.ssh_config()), "it")
    measurement = result.measurement("c")
    assert measurement is not None
    assert largest_difference(measurement, random_policy(0)) <= 1e-5
    assert result.machine.architecture == os.uname().machine


def test_lines_that_its_shell_prints_are_passed_over(board: Board, bundle: bytes) -> None:
    config = board.ssh_config(command=f"echo 'Welcome to my board'; echo oh >&2; {AS_ASKED}")
    result = parse_result(run_bundle("board", bundle, config), "it")
    assert result.measurement("c") is not None


def test_what_a_shell_says_on_its_output_is_shown(board: Board, bundle: bytes) -> None:
    config = board.ssh_config(command="echo 'This account is not available.'; exit 1")
    assert failure(bundle, config) == "what ran there ended with exit code 1 (This account is not available.)"


def failure(bundle: bytes, config: Path) -> str:
    with pytest.raises(RemoteError, match=r"^cannot measure on board: ") as caught:
        run_bundle("board", bundle, config)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix("cannot measure on board: ")


def test_a_closed_port(board: Board, bundle: bytes) -> None:
    port = free_port()
    assert failure(bundle, board.ssh_config(port=port)) == (
        f"connect to host 127.0.0.1 port {port}: Connection refused; start its ssh server, or name its Port in "
        "the file `ssh_config`"
    )


def test_a_host_without_an_address(bundle: bytes) -> None:
    with pytest.raises(
        RemoteError, match=r"^cannot measure on me@no-such\.invalid: Could not resolve hostname .*; check"
    ):
        run_bundle("me@no-such.invalid", bundle)


def test_a_key_that_is_not_accepted(board: Board, bundle: bytes, tmp_path: Path) -> None:
    config = board.ssh_config()
    make_key(tmp_path / "other")
    config.write_text(config.read_text().replace("IdentityFile", f"IdentityFile {tmp_path / 'other'} #"))
    assert "Permission denied (publickey); name the right user, and its IdentityFile" in failure(bundle, config)


def test_an_unknown_host_key(board: Board, bundle: bytes) -> None:
    config = board.ssh_config(known_hosts="")
    config.write_text("StrictHostKeyChecking no\n" + config.read_text())  # ours goes first
    said = failure(bundle, config)
    assert f"No ED25519 host key is known for [127.0.0.1]:{board.port}" in said
    assert said.endswith("; connect once by hand, compare its fingerprint and accept it")
    assert config.with_suffix(".known_hosts").read_text() == ""


def test_another_host_key(board: Board, bundle: bytes, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    config = board.ssh_config(known_hosts=f"[127.0.0.1]:{board.port} {other}\n")
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED; another machine answers" in failure(bundle, config)


def test_a_full_disk(board: Board, bundle: bytes) -> None:
    """No file may be longer than 100 KB; the programs are."""
    config = board.ssh_config(command=f"ulimit -f 100; {AS_ASKED}")
    assert failure(bundle, config).startswith("cannot unpack there: ")


def test_a_disk_of_which_tar_says_that_it_is_full(board: Board, bundle: bytes, tmp_path: Path) -> None:
    tools = few_tools(tmp_path / "tools")
    (tools / "tar").unlink()
    (tools / "tar").write_text("#!/bin/sh\necho 'tar: x: Wrote only 2048 of 10240 bytes'\n")
    with (tools / "tar").open("a") as file:
        file.write("echo 'tar: x: Cannot write: No space left on device' >&2\nexit 2\n")
    (tools / "tar").chmod(0o755)
    config = board.ssh_config(command=f"PATH={tools}; export PATH; {AS_ASKED}")
    assert failure(bundle, config) == (
        "cannot unpack there: tar: x: Wrote only 2048 of 10240 bytes; no space left on device: free some there"
    )


def test_no_temporary_folder(board: Board, bundle: bytes) -> None:
    config = board.ssh_config(command=f"TMPDIR=/nowhere; export TMPDIR; {AS_ASKED}")
    assert failure(bundle, config).startswith("no temporary folder there: ")


def test_no_program_and_no_compiler(
    board: Board, policy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgerl.profiling.measuring.bundle.COMPILERS", {})
    bundle = make_bundle(find_subject(policy_path)).data
    config = board.ssh_config(command=f"PATH={few_tools(tmp_path / 'tools')}; export PATH; {AS_ASKED}")
    assert failure(bundle, config) == (
        f"the bundle has no program that runs on this {os.uname().machine}, and there is no C compiler here "
        "(apt-get install gcc)"
    )


@pytest.mark.parametrize("share", [0.002, 0.5, 0.99])
def test_a_line_that_breaks_during_the_copy(board: Board, bundle: bytes, share: float) -> None:
    with line_that_breaks(board.port, int(share * len(bundle))) as port:
        assert failure(bundle, board.ssh_config(port=port)).startswith("the connection broke")


@pytest.mark.parametrize("place", ["inside", "between", "empty"])
def test_a_copy_that_is_not_whole_is_not_run(board: Board, bundle: bytes, place: str) -> None:
    end = {"inside": len(bundle) // 2, "between": bundle.index(f"{FOLDER}/{SCRIPT}".encode()), "empty": 0}[place]
    said = failure(bundle[:end], board.ssh_config())
    assert said == "the copy is not complete" if place == "between" else said.startswith("cannot unpack there: tar: ")


@pytest.mark.parametrize("command", ["cat >/dev/null; echo garbage", "true"])
def test_an_answer_that_is_none(board: Board, bundle: bytes, command: str) -> None:
    answer = run_bundle("board", bundle, board.ssh_config(command=command))
    said = (
        r"not a result of a benchmark bundle \(it begins with 'garbage'\)"
        if "garbage" in command
        else "empty; expected"
    )
    with pytest.raises(FileFormatError, match=rf"what board sent is {said}"):
        parse_result(answer, "what board sent")


def test_an_answer_without_end(board: Board, bundle: bytes) -> None:
    with pytest.raises(RemoteError, match="board sent more than 16777216 bytes"):
        run_bundle("board", bundle, board.ssh_config(command="exec yes"))


def test_complaints_without_end(board: Board, bundle: bytes) -> None:
    said = failure(bundle, board.ssh_config(command="yes | head -c 3000000 >&2; exit 3"))
    assert said == "what ran there ended with exit code 3 (y)"


def test_a_board_that_never_answers(board: Board, bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "SECONDS", 1)
    with pytest.raises(RemoteError, match="board sent no result within 1 s"):
        run_bundle("board", bundle, board.ssh_config(command="exec sleep 5"))


def test_a_board_that_dribbles(board: Board, bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "SECONDS", 1)
    with pytest.raises(RemoteError, match="board sent no result within 1 s"):
        run_bundle("board", bundle, board.ssh_config(command="for i in 1 2 3 4 5 6 7 8 9; do echo; sleep 0.3; done"))


@pytest.mark.parametrize(
    "destination", ["", "-oProxyCommand=touch x", "two words", "line\nbreak", "a;touch x", "a$(touch x)"]
)
def test_what_is_no_host_is_refused(destination: str) -> None:
    with pytest.raises(ConfigError, match="expected host or user@host"):
        run_bundle(destination, b"")
    assert list(Path.cwd().glob("x")) == []


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("ssh://board:99999", "usage: ssh .*; name it as host or user@host, its Port in the file `ssh_config`$"),
        ("a@-oProxyCommand=x", "invalid characters; name it as host or user@host$"),
        ("h" * 5000, "^cannot measure on h{60}: Could not resolve hostname h{1,180}: .*; check the name"),
    ],
)
def test_names_that_ssh_does_not_take(destination: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        run_bundle(destination, b"")


def test_a_configuration_that_ssh_does_not_understand(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("no such option\n")
    with pytest.raises(RemoteError, match="bad configuration options; correct the ssh configuration, or name another"):
        run_bundle("board", b"", tmp_path / "config")


def test_a_configuration_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="`ssh_config` is none, which is not a file"):
        run_bundle("board", b"", Path("none"))


def test_without_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingExtraError, match="ssh is not installed here"):
        run_bundle("board", b"")


def test_the_command_is_one_line_that_no_shell_reads_otherwise() -> None:
    """Between single quotes only an exclamation mark (csh) and a backslash before one (fish) would mean anything."""
    inner = REMOTE_COMMAND.removeprefix("exec /bin/sh -c '").removesuffix("'")
    assert len(inner) == len(REMOTE_COMMAND) - len("exec /bin/sh -c ''")
    assert REMOTE_COMMAND.isprintable()
    assert not {"'", "!"} & set(inner)
    assert "\\\\" not in inner


def test_ctrl_c_here(board: Board, policy_path: Path, processes: Processes, tmp_path: Path) -> None:
    """While the board builds the program, since no cross compiler is found here; its compiler takes a while."""
    export_policy(policy_path, "onnx", policy_path.with_suffix(".onnx"))
    tools = few_tools(tmp_path / "tools")
    (tools / "cc").write_text("#!/bin/sh\n/bin/sleep 5\n")
    (tools / "cc").chmod(0o755)
    config = board.ssh_config(command=f"PATH={tools}; export PATH; {AS_ASKED}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").symlink_to(shutil.which("ssh") or "")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PATH": str(tmp_path / "bin")}
    arguments = ("profile", policy_path, "--ssh", "board", "--ssh-config", config)
    process = processes.start(
        sys.executable,
        "-m",
        "edgerl",
        *arguments,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    while process.poll() is None and not list(board.temporary.glob(f"*/*/{SCRIPT}")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate()[1] == "edgerl: interrupted\n"
    assert process.returncode == 130

"""`edgerl sweep`: its options, its dry run, and how it refuses."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerl.cli.sweep import live_table, parse_seeds, with_address
from edgerl.studies.sweep import RunStatus, SweepStatus
from tests.tables import table_lines

Run = Callable[..., tuple[int, str, str]]

STUDY = """
title = "Points in a plane"
[run]
preset = "quick"
steps = 400
start_steps = 100
hidden = [16, 16]
[grid]
environment = ["robots:robot"]
method = ["td3", "ds-td3"]
seed = [0, 1]
"""


@pytest.fixture(autouse=True)
def _study() -> None:
    Path("own.toml").write_text(STUDY)


def test_a_dry_run_prints_the_grid_with_its_costs_and_writes_nothing(edgerl: Run) -> None:
    code, out, err = edgerl("sweep", "own.toml", "--dry-run", "--jobs", 1)
    assert (code, err) == (0, "")
    assert "Points in a plane: runs/own" in out
    for name in ("robots-robot-td3-seed0", "robots-robot-ds-td3-seed1"):
        assert name in out
    assert "4 runs, 0 finished; FLOPs in all: " in out
    assert max(map(len, table_lines(out))) <= 80
    assert "on 1 core of" in out
    assert sorted(path.name for path in Path().iterdir()) == ["own.toml"]


def test_a_dry_run_as_json_adds_up(edgerl: Run) -> None:
    edgerl(
        *(
            "train",
            "--env",
            "robots:robot",
            "--preset",
            "quick",
            "--steps",
            400,
            "--hidden",
            "16,16",
            "--method",
            "td3",
        ),
        *("--out", "runs/own/robots-robot-td3-seed0", "--seed", 0),
    )
    Path("own.toml").write_text(STUDY.replace("start_steps = 100\n", ""))  # then it is the very run that train made
    code, out, _ = edgerl("sweep", "own.toml", "--dry-run", "--jobs", 1, "--json")
    *planned, total = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [run["state"] for run in planned] == ["finished", "absent", "absent", "absent"]
    assert planned[0]["expected_seconds"] == 0 < planned[1]["expected_seconds"]
    assert total["expected_seconds"] == pytest.approx(sum(run["expected_seconds"] for run in planned))
    # 4-16-16-2 and twice 6-16-16-1: 352 + 2 · 368, and half of it
    assert [run["connections"] for run in planned[:2]] == [1088, 544]
    # 2 FLOPs · 3 passes · batch 100 · (both critics at each of 400 steps, the actor at every second)
    assert planned[0]["training_flops_paper"] == 2 * 3 * 100 * (400 * 2 * 368 + 200 * 352)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'STUDY'."),
        (["--ray"], "Missing argument 'STUDY'."),
        (["tabel1"], "study 'tabel1' is not there; expected a study: "),
        (["own.toml", "--env", "robots:robt"], "environment 'robots:robt' is not in the study own"),
        (["own.toml", "--seeds", "a"], "--seeds is 'a'; expected at most 10000 whole numbers, as in 0,1,2 or 0-2"),
        (["own.toml", "--seeds", "0-9999,10000"], "--seeds is '0-9999,10000'; expected at most 10000 whole numbers"),
        (["own.toml", "--seeds", "0-5000"], "study own, with these seeds, has 10002 runs; expected at most 10000"),
        (["own.toml", "--steps", "0"], "study own: steps is 0; expected a whole number in "),
        (["own.toml", "--jobs", "100000"], "--jobs is 100000; expected a number in [1, "),
        (["own.toml", "--storage", "x"], "--storage is for --ray; on this machine name the study's folder with --out"),
        (["own.toml", "--ray", "--storage", "x", "--out", "y"], "--out and --storage were both given; expected one of"),
        (["own.toml", "--ray", "--storage", "absent"], "--storage is 'absent'; expected a folder that is there, on "),
        (["own.toml", "--out", "own.toml/x"], "cannot make own.toml/x: "),
        (["own.toml", "--ray", "nowhere.invalid:6379"], "no Ray cluster answers at nowhere.invalid:6379 ("),
        (["own.toml", "--ray", "host:port:port"], "--ray is 'host:port:port'; expected HOST:PORT, or auto"),
        (["own.toml", "--ray", "127.0.0.1:6379", "--jobs", "2"], "--jobs is for this machine; a Ray cluster decides"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(edgerl: Run, arguments: list[str], message: str) -> None:
    code, out, err = edgerl("sweep", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgerl: {message}")
    assert err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["own.toml"]


def test_an_unreachable_cluster_is_one_line(edgerl: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, out, err = edgerl("sweep", "own.toml", "--ray", address)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"edgerl: no Ray cluster answers at {address} (")
    assert "start one with: ray start --head" in err


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad request\r\n\r\n", b""])
def test_a_port_at_which_something_else_listens_is_said_so_at_once(edgerl: Run, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, out, err = edgerl("sweep", "own.toml", "--ray", address)
        thread.join()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"no Ray cluster answers at {address} (" in err


def test_a_dry_run_for_a_cluster_says_core_hours_and_asks_nobody(edgerl: Run) -> None:
    code, out, err = edgerl("sweep", "own.toml", "--dry-run", "--ray", "192.0.2.1:6379")
    assert (code, err) == (0, "")
    assert " core hours at the pace of this machine; the cluster was not asked" in out


def test_without_ray_the_extra_is_named(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = edgerl("sweep", "own.toml", "--ray")
    assert (code, err) == (2, "edgerl: ray is not installed; run: pip install 'edgerl[sweep]'\n")


@pytest.mark.parametrize(
    ("arguments", "completed"),
    [
        (["own.toml", "--ray"], ["own.toml", "--ray", "local"]),
        (["--ray", "own.toml"], ["--ray", "local", "own.toml"]),
        (["--ray", "--json"], ["--ray", "local", "--json"]),
        (["--ray", "auto", "own.toml"], ["--ray", "auto", "own.toml"]),
        (["own.toml", "--ray", "10.0.0.1:6379"], ["own.toml", "--ray", "10.0.0.1:6379"]),
        (["own.toml"], ["own.toml"]),
        ([], []),
    ],
)
def test_ray_may_stand_alone(arguments: list[str], completed: list[str]) -> None:
    assert with_address(arguments) == completed


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("0,2,5-7") == [0, 2, 5, 6, 7]
    assert parse_seeds(None) is None


def test_the_live_table_shows_what_runs_first() -> None:
    from rich.console import Console

    runs = [RunStatus(f"run{i}", "finished", 10, 10, 5.0, 0.0, "") for i in range(40)]
    runs.append(RunStatus("busy", "running", 4, 10, None, 65.0, ""))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(live_table(SweepStatus(tuple(runs), 12.0, 65.0)))
    text = " ".join(console.export_text().split())
    assert "1 running, 40 finished; 12.0 s so far; about 1 min 05 s left" in text
    assert text.index("busy") < text.index("run0")
    assert "4/10" in text
    assert "and 11 more" in text

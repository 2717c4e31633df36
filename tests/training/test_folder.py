"""Run folders that are made at the same time, by threads and by processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edgerl
from edgerl.config import Config, make_config
from edgerl.errors import OutputError
from edgerl.policy import format as policy_file
from edgerl.training import folder as folders
from edgerl.training.folder import new_folder, point_latest_to, read_config
from edgerl.training.logs import read_metrics

from .runs import SMALL, train_small

AT_ONCE = 8


@pytest.fixture
def config() -> Config:
    return make_config("quick", environment="robots:robot")


def _starts(out: Path | None, config: Config) -> list[Path | str]:
    """The folder that each of several starts made, or why it did not."""
    start = threading.Barrier(AT_ONCE)

    def begin(_: int) -> Path | str:
        start.wait()
        try:
            with new_folder(out, config) as made:
                start.wait(60)  # none goes on before each has a folder, or has failed
                return made
        except OutputError as error:
            start.wait(60)
            return str(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(begin, range(AT_ONCE)))


def test_starts_at_once_have_a_folder_each(config: Config) -> None:
    names = ["robots-robot-ds-td3-seed0", *(f"robots-robot-ds-td3-seed0-{number}" for number in range(2, AT_ONCE + 1))]
    assert sorted(map(str, _starts(None, config))) == sorted(f"runs/{name}" for name in names)
    assert all(read_config(Path("runs") / name) == config for name in names)


def test_of_starts_at_once_with_one_out_one_has_it(config: Config) -> None:
    found = _starts(Path("a/b/here"), config)
    refusal = "a/b/here exists already; go on with `resume` a/b/here, or choose another `out`"
    assert sorted(map(str, found)) == ["a/b/here", *[refusal] * (AT_ONCE - 1)]


def test_a_start_whose_parent_another_one_takes_away_makes_it_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs` is gone between the moment that it was made and the one that a folder is made in it."""
    mkdir, gone = Path.mkdir, []

    def interfered(path: Path, *arguments: object, **options: object) -> None:
        if path.name.startswith("robots") and path.parent.is_dir() and not gone:
            gone.append(path.parent)
            path.parent.rmdir()
            raise FileNotFoundError(2, "No such file or directory")
        mkdir(path, *arguments, **options)  # type: ignore[arg-type]

    Path("runs").mkdir()
    monkeypatch.setattr(Path, "mkdir", interfered)
    with new_folder(None, config) as made:
        assert made.is_dir()
    assert gone


@pytest.mark.parametrize("in_the_way", ["file", "link"])
def test_a_name_that_something_else_has_is_passed_over(config: Config, in_the_way: str) -> None:
    Path("runs").mkdir()
    taken = Path("runs/robots-robot-ds-td3-seed0")
    taken.write_text("mine") if in_the_way == "file" else taken.symlink_to("nowhere")
    with new_folder(None, config) as made:
        assert made == Path("runs/robots-robot-ds-td3-seed0-2")


@pytest.mark.parametrize("in_the_way", ["file", "link"])
def test_where_no_folder_can_be_made_the_search_for_a_name_ends(config: Config, in_the_way: str) -> None:
    Path("runs").write_text("mine") if in_the_way == "file" else Path("runs").symlink_to("nowhere")
    with (
        pytest.raises(OutputError, match=r"^cannot make runs/robots-robot-ds-td3-seed0: .*; choose another `out`$"),
        new_folder(None, config),
    ):
        raise AssertionError


def test_the_link_to_the_newest_is_set_by_many_at_once() -> None:
    made = [Path("runs") / str(number) for number in range(AT_ONCE)]
    for folder in made:
        folder.mkdir(parents=True)
    for _ in range(20):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(point_latest_to, made))
        assert Path("runs/latest").resolve().parent == Path("runs").resolve()
    assert sorted(path.name for path in Path("runs").rglob("*")) == sorted([*map(str, range(AT_ONCE)), "latest"])


SCRIPT = """
import os, sys
import edgerl.training.trainer
begin, started = os.pipe()
children = []
for _ in range(6):
    if not (child := os.fork()):
        os.close(started)
        os.read(begin, 1)  # until all are there
        edgerl.train("robots:robot", steps=60, start_steps=30, hidden=(8, 8), batch_size=8, evaluation_episodes=1)
        os._exit(0)
    children.append(child)
os.close(started)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_six_runs_that_are_started_at_once_are_six_runs() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout) == [0] * 6, done.stderr
    policies = sorted(Path("runs").glob("robots-robot-ds-td3-seed0*/policy.safetensors"))
    assert len(policies) == 6
    assert len({policy_file.load(path).connections for path in policies}) == 1
    assert Path("runs/latest").resolve() in [path.parent.resolve() for path in policies]
    assert not [*_temporaries(Path("runs"))]


def _temporaries(folder: Path) -> Iterator[Path]:
    return folder.rglob(".*.tmp")


def test_tensorboard_shows_the_run_alone_that_the_notice_names() -> None:
    """By its own reader. In `runs` the link is one more, as docs/commands.md says."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.util.tensor_util import make_ndarray

    notices: list[str] = []
    options = {"steps": 60, "start_steps": 30, "hidden": (8, 8), "batch_size": 8, "evaluation_interval": 30}
    folder = edgerl.train("robots:robot", notice=notices.append, **options).folder
    (named,) = (line.partition("tensorboard --logdir ")[2] for line in notices if "tensorboard" in line)
    found = {}
    for logdir in (named, "runs"):
        reader = EventMultiplexer()
        reader.AddRunsFromDirectory(logdir)
        reader.Reload()
        found[logdir] = sorted(reader.Runs())
        returns = [make_ndarray(event.tensor_proto).item() for event in reader.Tensors(found[logdir][0], "return_mean")]
        assert returns == pytest.approx([row["return_mean"] for row in read_metrics(folder)], rel=1e-6)
    assert found == {named: ["."], "runs": ["latest", folder.name]}


def test_a_run_that_fails_takes_its_folder_away_and_no_other(config: Config) -> None:
    with (
        new_folder(None, config) as kept,
        pytest.raises(OutputError, match=r"seed0-2: the disk is full"),
        new_folder(None, config) as made,
    ):
        raise OutputError(f"{made}: the disk is full")
    assert [path.name for path in Path("runs").iterdir()] == [kept.name]
    assert folders.read_config(kept) == config


# Names and links.


def test_a_real_folder_in_the_place_of_the_link_is_refused_before_training() -> None:
    done = edgerl.train("robots:robot", **SMALL).folder
    (done / "checkpoint.safetensors").unlink()
    Path("runs/latest").unlink()
    Path("runs/latest").mkdir()
    for arguments in ({"env": "robots:robot", **SMALL}, {"env": "robots:robot", "resume": done}):
        with pytest.raises(OutputError, match=r"runs/latest is reserved"):
            edgerl.train(**arguments)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", done.name]


def test_a_run_cannot_be_called_latest() -> None:
    with pytest.raises(OutputError, match=r"runs/latest is reserved"):
        train_small("runs/latest")
    assert not Path("runs").exists()


def test_what_a_killed_write_left_is_swept() -> None:
    folder = train_small("run")
    (folder / ".edgerl-0123abcd.tmp").write_bytes(b"half")
    edgerl.train("robots:robot", resume=folder)
    assert not list(folder.glob(".*"))


def test_an_existing_folder_is_never_written_into() -> None:
    Path("there").mkdir()
    with pytest.raises(OutputError, match="there exists already; go on with `resume` there, or choose another `out`"):
        train_small("there")
    assert list(Path("there").iterdir()) == []


def test_default_folders_never_collide() -> None:
    folders = [edgerl.train("robots:robot", **(SMALL | {"steps": 40})).folder for _ in range(2)]
    assert [f.name for f in folders] == ["robots-robot-ds-td3-seed0", "robots-robot-ds-td3-seed0-2"]

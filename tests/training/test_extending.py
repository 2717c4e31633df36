"""A run that goes on to more steps: the bits of one that had them from the start, where that can be."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.algorithms.evolution import drop_fraction_at, last_update
from edgerl.config import extended, is_continued_by, make_config
from edgerl.edge.continual.replay import Replay
from edgerl.errors import ConfigError, EdgerlError, FileFormatError
from edgerl.report import sources
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training import records
from edgerl.training.logs import read_metrics
from tests.training.runs import TIMES

SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 8,
    "steps": 222,  # six episodes of 37
    "start_steps": 30,
    "evaluation_interval": 74,
    "evaluation_episodes": 2,
    "checkpoint_interval": 60,
    "replay_capacity": 90,  # the replay wraps round
    "evolution_interval": 20,  # the last update, 192, is none of its multiples
}
ENGINES = ("native", "torch")
each_engine = pytest.mark.parametrize("engine", ENGINES)


def _train(out: str, env: str = "robots:robot", **options: Any) -> Path:
    return edgerl.train(env, out=out, **(SMALL | options)).folder


def _state(folder: Path) -> tuple[Any, ...]:
    """Everything that a run determines: configuration, tensors, counters, returns, files, replay, and metrics without
    times."""
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    tensors = {name: array.tobytes() for name, array in checkpoint.tensors.items()}
    counters = {k: v for k, v in vars(checkpoint.counters).items() if k not in TIMES}
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]
    files = [(folder / name).read_bytes() for name in ("config.json", "policy.safetensors", "topology.csv")]
    replay = Replay.open_recorded(folder / "replay.bin", checkpoint.counters.replay_count)
    transitions = replay.rows(np.arange(replay.size)).tobytes()
    replay.close()
    return checkpoint.config, tensors, counters, checkpoint.returns, files, transitions, rows


def _masks(folder: Path) -> dict[str, bytes]:
    tensors = checkpoint_file.read(folder / "checkpoint.safetensors").tensors
    return {name: array.tobytes() for name, array in tensors.items() if name.endswith(".mask")}


@each_engine
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": True},
        {"n_step": 3, "env": "robots:terminating_robot", "steps": 220, "evaluation_interval": 55},
        {"block": 4, "growth": "gradient"},
        {"policy": "best"},
        {"topology": "dense"},
        {"algorithm": "sac", "updates_per_step": 0.7, "critic_norm": "layer"},
        {"algorithm": "crossq", "normalize": True},
        {"evaluation": "between-episodes"},
        {"evaluation": "none"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "paper",
)
def test_an_extended_run_is_one_that_was_as_long_from_the_start(options: dict[str, Any], engine: str) -> None:
    options = options | {"engine": engine}
    steps = options.get("steps", SMALL["steps"])
    whole = _train("whole", **(options | {"steps": 2 * steps}))
    short = _train("run", **options)
    result = edgerl.train(options.get("env", "robots:robot"), resume=short, steps=2 * steps)
    assert result.steps == 2 * steps
    assert _state(short) == _state(whole)
    sources.read([short])


@each_engine
def test_so_is_a_run_that_was_stopped_early_and_one_that_is_extended_twice(engine: str) -> None:
    whole = _train("whole", steps=444, engine=engine)

    def stop(status: Any) -> None:
        if status.step == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    for out, planned in (("early", 222), ("shorter", 1000)):  # and one that is to end before it was planned to
        with pytest.raises(edgerl.errors.Interrupted, match="stopped at step 111"):
            edgerl.train("robots:robot", out=out, report=stop, **(SMALL | {"engine": engine, "steps": planned}))
        edgerl.train("robots:robot", resume=out, steps=444)
        assert _state(Path(out)) == _state(whole)
    twice = _train("twice", engine=engine)
    edgerl.train("robots:robot", resume=twice, steps=333)
    edgerl.train("robots:robot", resume=twice, steps=444)
    rows = [row for row in _state(twice)[-1] if row["step"] != 333]  # where it ended once, and an evaluation fell due
    assert [row["step"] for row in rows] == [row["step"] for row in _state(whole)[-1]]
    assert _state(twice)[1:3] != _state(whole)[1:3], "the losses since the last row are other ones"
    assert _masks(twice) == _masks(whole)
    weights = [{k: v for k, v in _state(run)[1].items() if k.startswith(("actor", "critic"))} for run in (twice, whole)]
    assert weights[0] == weights[1]


@each_engine
def test_where_the_end_fell_within_an_episode_what_came_before_is_the_same(engine: str) -> None:
    """The end cut the episode, and the last update, 170, did not evolve, as it would have in a longer run."""
    options = {"engine": engine, "steps": 200, "evaluation_interval": 100, "evolution_interval": 34}
    whole = _train("whole", **(options | {"steps": 400}))
    short = _train("run", **options)
    before = _state(short)
    shutil.copytree("run", "again")
    for name in ("run", "again"):
        edgerl.train("robots:robot", resume=name, steps=400)
    assert _state(short) == _state(Path("again")), "two that are extended alike are alike"
    own, expected = _state(short)[-1], _state(whole)[-1]
    assert [row["step"] for row in own] == [row["step"] for row in expected] == [100, 200, 300, 400]
    assert own[0] == expected[0]
    assert own[:2] == before[-1], "and rows are kept"
    assert own[2:] != expected[2:]


@each_engine
def test_a_cosine_schedule_keeps_its_end(engine: str) -> None:
    notices: list[str] = []
    short = _train("run", engine=engine, drop_schedule="cosine", drop_fraction=0.5)
    masks = _masks(short)
    before = _state(short)[1]
    edgerl.train("robots:robot", resume=short, steps=444, notice=notices.append)
    assert (
        "run goes on from step 222 to 444 (before: 222); the evolution of the topology still ends at step 222"
        in (notices[0])
    )
    config = json.loads((short / "config.json").read_text())
    assert (config["schedule"]["steps"], config["evolution"]["evolution_steps"]) == (444, 222)
    assert _masks(short) == masks, "the fraction dropped was 0 at the end, and stays there"
    assert _state(short)[1]["actor.0.weight"] != before["actor.0.weight"]
    longer = _train("whole", engine=engine, drop_schedule="cosine", drop_fraction=0.5, steps=444)
    assert _masks(longer) != masks
    with pytest.raises(ConfigError, match="`steps` is 666, and the topology's evolution ends at step 700"):
        make_config(steps=666, start_steps=10, drop_schedule="cosine", evolution_steps=700)


class Killed(Exception):  # noqa: N818
    """As if the process had been."""


@each_engine
@pytest.mark.parametrize("drop_schedule", ["constant", "cosine"])
def test_an_extended_run_that_is_killed_resumes_to_the_same_bits(
    drop_schedule: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first checkpoint, when config.json has the new steps and the checkpoint the old ones, and after it."""
    options = {"engine": engine, "drop_schedule": drop_schedule}
    whole, run = _train("whole", **options), _train("run", **options)
    edgerl.train("robots:robot", resume=whole, steps=444)

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_file, "write", kill)
        with pytest.raises(Killed):
            edgerl.train("robots:robot", resume=run, steps=444)
    checkpoint = checkpoint_file.read(run / "checkpoint.safetensors")
    assert (checkpoint.config.schedule.steps, checkpoint.counters.step) == (222, 222)
    assert json.loads((run / "config.json").read_text())["schedule"]["steps"] == 444
    assert sources.read([run]).runs[0].config.schedule.steps == 444, "a report reads it in between, too"

    def kill_late(status: Any) -> None:
        if status.step == 400:
            raise Killed

    with pytest.raises(Killed):
        edgerl.train("robots:robot", resume=run, report=kill_late)
    checkpoint = checkpoint_file.read(run / "checkpoint.safetensors")
    assert (checkpoint.config.schedule.steps, 222 < checkpoint.counters.step < 400) == (444, True)
    edgerl.train("robots:robot", resume=run)
    assert _state(run) == _state(whole)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (222, r"`steps` is 222; expected more than the 222 that run has"),
        (100, r"`steps` is 100; expected more than the 222 that run has"),
        (30, r"`steps` is 30, and the first 30 \(`start_steps`\) are random, before learning begins"),
        (0, r"`steps` is 0; expected a whole number in \[1, 1000000000000\]"),
        (1e6, r"`steps` is 1000000.0; expected a whole number"),
        ("many", r"`steps` is many; expected a whole number"),
    ],
)
def test_fewer_steps_than_there_are_are_refused_and_nothing_changes(steps: Any, message: str) -> None:
    folder = _train("run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=message):
        edgerl.train("robots:robot", resume=folder, steps=steps)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    cosine = _train("cosine", drop_schedule="cosine", steps=333)
    edgerl.train("robots:robot", resume=cosine, steps=444)
    with pytest.raises(EdgerlError, match="`steps` is 444; expected more than the 444"):
        edgerl.train("robots:robot", resume=cosine, steps=444)


def test_a_cosine_run_cannot_end_before_its_schedule() -> None:
    def stop(status: Any) -> None:
        if status.step == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(edgerl.errors.Interrupted, match="stopped at step 111"):
        edgerl.train("robots:robot", out="run", report=stop, **(SMALL | {"drop_schedule": "cosine"}))
    with pytest.raises(ConfigError, match="`steps` is 150, and the topology's evolution ends at step 222"):
        edgerl.train("robots:robot", resume="run", steps=150)
    assert edgerl.train("robots:robot", resume="run", steps=222).steps == 222
    whole = _train("whole", drop_schedule="cosine")
    assert _state(Path("run")) == _state(whole)


def test_an_extension_changes_steps_alone_or_the_end_of_a_schedule() -> None:
    constant = make_config(steps=100_000, start_steps=1000)
    assert extended(constant, 300_000) == make_config(steps=300_000, start_steps=1000)
    assert last_update(extended(constant, 300_000)) == 299_000
    cosine = make_config(steps=100_000, start_steps=1000, drop_schedule="cosine")
    longer = extended(cosine, 300_000)
    assert (longer.schedule.steps, longer.evolution.evolution_steps) == (300_000, 100_000)
    assert last_update(longer) == last_update(cosine) == 99_000
    assert drop_fraction_at(longer.evolution, 99_000, last_update(longer)) == 0
    assert extended(longer, 900_000).evolution.evolution_steps == 100_000
    assert extended(longer, 100_000) == cosine
    dense = make_config(steps=100_000, start_steps=1000, drop_schedule="cosine", topology="dense")
    assert extended(dense, 300_000).evolution.evolution_steps is None, "it has no topology"
    for config in (constant, cosine, longer, dense):
        assert is_continued_by(config, config)
        assert is_continued_by(config, extended(config, 900_000))
        assert not is_continued_by(config, make_config(steps=100_000, start_steps=1000, seed=1))
    assert not is_continued_by(cosine, make_config(steps=300_000, start_steps=1000, drop_schedule="cosine"))
    early = make_config(steps=100_000, start_steps=1000, evolution_steps=60_000)
    assert last_update(early) == last_update(extended(early, 900_000)) == 59_000


def test_the_record_of_topologies_is_that_of_the_longer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has every row of the longer run, and at most the allowed number."""
    monkeypatch.setattr(records, "MAXIMUM_ROWS", 3)
    options = {"evaluation_interval": 37}
    whole = _train("whole", **(options | {"steps": 444}))
    short = _train("run", **options)
    steps = [line.partition(",")[0] for line in (short / "topology.csv").read_text().splitlines()]
    assert steps == ["step", "0", "74", "148", "222"]
    edgerl.train("robots:robot", resume=short, steps=444)
    steps = [line.partition(",")[0] for line in (short / "topology.csv").read_text().splitlines()]
    assert steps == ["step", "0", "148", "296", "444"]
    assert (short / "topology.csv").read_bytes() == (whole / "topology.csv").read_bytes()


def test_another_configuration_is_no_extension() -> None:
    path = _train("run") / "config.json"
    text = path.read_text()
    for old, new in (('"seed": 0', '"seed": 1'), ('"steps": 222', '"steps": 20')):
        path.write_text(text.replace(old, new))
        with pytest.raises(FileFormatError, match=r"has another configuration than .*config\.json; restore that"):
            edgerl.train("robots:robot", resume="run")

"""topology.csv and versions.json: true to the topology, bounded, and no condition for going on."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.algorithms.topology import draw_mask, expand, plan_networks
from edgerl.config import make_config
from edgerl.edge.engine.random import Draws, Network
from edgerl.errors import FileFormatError
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training import records
from edgerl.training.folder import read_config

SMALL: dict[str, Any] = {
    "hidden": (18, 13),
    "sparsity": 0.5,
    "batch_size": 8,
    "steps": 400,
    "start_steps": 30,
    "evaluation_interval": 100,
    "evaluation_episodes": 1,
    "checkpoint_interval": 60,
    "evolution_interval": 20,
}


def train(out: str = "run", **options: Any) -> Path:
    return edgerl.train("robots:robot", out=out, **(SMALL | options)).folder


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "topology.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("block", [1, 4])
def test_the_first_and_the_last_row_are_the_topology_at_the_start_and_at_the_end(engine: str, block: int) -> None:
    """18 and 13 units: with blocks of 4 both layers end in a narrower block row."""
    folder = train(engine=engine, block=block)
    first, *_, last = rows = rows_of(folder)
    assert [row["step"] for row in rows] == [0, 100, 200, 300, 400]
    config = read_config(folder)
    plan = plan_networks(config, 4, 2)[0][0]
    drawn = expand(draw_mask(plan, Draws(0), Network.ACTOR, 0), plan).sum(axis=0)
    assert [first[f"degree.{sensor}"] for sensor in range(4)] == drawn.tolist()
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    bits = np.unpackbits(checkpoint.tensors["actor.0.mask"], count=plan.block_rows * 4)
    degrees = np.repeat(bits.reshape(plan.block_rows, 4), block, axis=0)[:18].sum(axis=0)
    assert [last[f"degree.{sensor}"] for sensor in range(4)] == degrees.tolist()
    masses = np.abs(checkpoint.policy.layers[0].matrix()).sum(axis=0)
    np.testing.assert_allclose([last[f"mass.{sensor}"] for sensor in range(4)], masses, rtol=1e-6)
    ever = np.unpackbits(checkpoint.tensors["critic_2.1.ever_active"], count=-(-13 // block) * 18)
    assert last["share_ever_active.critic_2.1"] == pytest.approx(ever.mean())
    assert last["share_ever_active.actor.2"] == 1, "the output layer is dense"
    assert first["share_ever_active.actor.1"] < last["share_ever_active.actor.1"] <= 1


def test_a_dense_network_has_every_connection() -> None:
    rows = rows_of(train(method="td3", sparsity=None))
    assert {row[f"degree.{sensor}"] for row in rows for sensor in range(4)} == {18}
    assert {row["share_ever_active.actor.0"] for row in rows} == {1}


def test_long_runs_and_many_sensors_leave_a_bounded_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAXIMUM_ROWS", 3)
    rows = rows_of(train("few", evaluation_interval=50))
    assert [row["step"] for row in rows] == [0, 200, 400], "8 evaluations: every fourth one, a power of two"
    monkeypatch.setattr(records, "MAXIMUM_NUMBERS", 1)
    assert [row["step"] for row in rows_of(train("one", evaluation_interval=50))] == [0, 400]


@pytest.mark.parametrize("damage", [None, "half", "other", "binary"])
def test_a_run_goes_on_without_its_records(damage: str | None) -> None:
    """As runs do that an earlier version began."""
    folder = train()
    whole = rows_of(folder)
    checkpoint = (folder / "checkpoint.safetensors").read_bytes()
    path, versions = folder / "topology.csv", folder / "versions.json"
    text = path.read_text()
    path.unlink()
    versions.unlink()
    if damage is not None:
        path.write_bytes({"half": text[:-40].encode(), "other": b"step,x\n1,2\n", "binary": b"\xff\xfe"}[damage])
        versions.write_text('{"sessions": [{"from_step": "x"}]}')
    edgerl.train("robots:robot", resume=folder)
    assert (folder / "checkpoint.safetensors").read_bytes() == checkpoint
    assert rows_of(folder) == (whole[:-1] if damage == "half" else [])
    assert [session["from_step"] for session in records.read_versions(versions)] == [400]


@pytest.mark.parametrize("name", ["topology.csv", "versions.json"])
def test_a_record_that_cannot_be_read_is_not_replaced(name: str) -> None:
    """A disk that fails for a moment costs nothing."""
    folder = train()
    path, read = folder / name, Path.read_bytes
    before = path.read_bytes()

    def fail(self: Path) -> bytes:
        if self.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(FileFormatError, match=rf"^cannot read \S*run/{name}: Input/output error$"):
            edgerl.train("robots:robot", resume=folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["topology.csv", "versions.json"])
def test_a_record_that_is_a_pipe_holds_nobody_up(name: str) -> None:
    folder = train()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(FileFormatError, match=rf"^\S*run/{name} is not a regular file; expected a file$"):
        edgerl.train("robots:robot", resume=folder)


def test_versions_tell_when_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train()
    first = json.loads((folder / "versions.json").read_text())
    assert first["sessions"][0]["from_step"] == 0
    assert first["sessions"][0]["versions"]["edgerl"] == edgerl.__version__
    edgerl.train("robots:robot", resume=folder)
    assert json.loads((folder / "versions.json").read_text()) == first
    monkeypatch.setattr(records, "versions", lambda: {"edgerl": "9"})
    edgerl.train("robots:robot", resume=folder)
    sessions = records.read_versions(folder / "versions.json")
    assert [(session["from_step"], session["versions"]["edgerl"]) for session in sessions] == [
        (0, edgerl.__version__),
        (400, "9"),
    ]


def test_the_paper_s_run_is_recorded_in_at_most_201_rows() -> None:
    schedule = make_config().schedule
    assert schedule.steps // schedule.evaluation_interval == records.MAXIMUM_ROWS

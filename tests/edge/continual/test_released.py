"""Learners that released versions wrote are taken up, and go on learning as they would have there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.continual import bundle
from edgerl.edge.continual.origin import Origin, read_origin
from edgerl.errors import FileFormatError
from edgerl.files.tensors import TensorReader, write_tensors
from tests.algorithms.engines import filled_replay

GOLDEN = Path(__file__).parent / "golden"
LEARNER = GOLDEN / "learner-0.1.0.safetensors"
"""Written by 0.1.0 after 60 updates, block 4, gradient growth; the JSON file beside it says how it went on there."""


def _read(path: Path) -> Origin:
    with TensorReader(path, bundle.KIND, bundle.VERSIONS) as reader:
        return read_origin(reader, path)


def test_a_learner_of_0_1_0_goes_on() -> None:
    arena, then = _read(LEARNER).arena, json.loads((GOLDEN / "learner-0.1.0.json").read_text())
    observation = np.array(then["observation"], np.float32)
    assert (arena.progress.updates, arena.progress.replaced) == (then["updates"], then["replaced"])
    np.testing.assert_allclose(arena.act(observation), then["action"], rtol=0, atol=1e-6)
    replay = filled_replay()
    for _ in range(20):
        arena.step(replay.structure(None, None))
    np.testing.assert_allclose(arena.act(observation), then["action_after_20_updates"], rtol=0, atol=1e-4)
    assert arena.progress.critic_loss_sum == pytest.approx(then["critic_loss_sum_after"], rel=1e-4)
    assert arena.progress.actor_loss_sum == pytest.approx(then["actor_loss_sum_after"], rel=1e-3)


@pytest.mark.parametrize("at", range(0, 7600, 40))
def test_a_learner_of_0_1_0_with_another_word_is_read_or_refused(at: int, tmp_path: Path) -> None:
    path, tensors = tmp_path / "learner.safetensors", _tensors()
    tensors["state"][at : at + 4] ^= 0xA5
    _write(path, tensors)
    try:
        _read(path)
    except FileFormatError:
        return


@pytest.mark.parametrize("kept", [0, 16, 7000, 7488, -64, -4])
def test_a_learner_of_0_1_0_that_was_cut_is_refused(kept: int, tmp_path: Path) -> None:
    path, tensors = tmp_path / "learner.safetensors", _tensors()
    tensors["state"] = tensors["state"][:kept]
    _write(path, tensors)
    with pytest.raises(FileFormatError):
        _read(path)


def _tensors() -> dict[str, Any]:
    with TensorReader(LEARNER, bundle.KIND, bundle.VERSIONS) as reader:
        return {name: reader.read(name).copy() for name in reader.shapes}


def _write(path: Path, tensors: dict[str, Any]) -> None:
    with TensorReader(LEARNER, bundle.KIND, bundle.VERSIONS) as reader:
        about = {key: reader.metadata[key] for key in ("about", "exploration_noise", "replay", "largest_reward")}
    write_tensors(path, bundle.KIND, bundle.VERSION, about, tensors)
